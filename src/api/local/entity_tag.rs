//! The entity tag of a token answer (RFC 9110 section 8.8.3): a caller that has the token already is told so,
//! without it.
//!
//! The tag is weak: the answer counts down the token's life, so two answers with one token differ in bytes.

use http::header::GetAll;
use http::{HeaderValue, StatusCode, header};

use crate::domain::digest::sha256_hex;
use crate::listener::{AnswerBody, Response};

/// Makes the tag of an answer that says this. It is no key to the token.
pub(super) fn of(said: &[&str]) -> HeaderValue {
    header(&opaque(said))
}

/// Makes the tag with this between its quotes.
pub(super) fn header(opaque: &str) -> HeaderValue {
    HeaderValue::try_from(format!("W/\"{opaque}\"")).expect("a tag is plain text")
}

/// Makes what stands between the quotes of that tag: 32 hexadecimal digits.
pub(super) fn opaque(said: &[&str]) -> String {
    let mut text = String::new();
    for part in said {
        text.push_str(part);
        text.push('\n');
    }
    sha256_hex(text.as_bytes())[..32].to_owned()
}

/// Makes 304 of an answer that the caller has (`If-None-Match`, RFC 9110 section 13.1.2). What cannot be read
/// is not a match.
pub(super) fn unless_known(response: Response, known: GetAll<'_, HeaderValue>) -> Response {
    let Some(tag) = response.headers().get(header::ETAG) else { return response };
    let Ok(tag) = tag.to_str() else { return response };
    let names = |value: &HeaderValue| value.to_str().is_ok_and(|value| is_named(value, tag));
    if !known.iter().any(names) {
        return response;
    }
    let (mut head, _) = response.into_parts();
    head.status = StatusCode::NOT_MODIFIED;
    head.headers.remove(header::CONTENT_TYPE);
    Response::from_parts(head, AnswerBody::default())
}

/// Compares weakly: `W/` in front makes no difference.
fn is_named(list: &str, tag: &str) -> bool {
    fn opaque(tag: &str) -> &str {
        tag.strip_prefix("W/").unwrap_or(tag)
    }
    // (A tag of ours has no comma in it.)
    list.split(',').map(str::trim).any(|one| one == "*" || opaque(one) == opaque(tag))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tag_is_found_in_a_list_and_compared_weakly() {
        let tag = of(&["a", "b"]);
        let tag = tag.to_str().expect("text");
        assert_ne!(of(&["a", "b"]), of(&["ab", ""]));
        let strong = tag.trim_start_matches("W/");
        for list in [tag, strong, "*", &format!("\"x\", {tag}"), &format!("W/\"y\",{strong}")] {
            assert!(is_named(list, tag), "{list}");
        }
        for list in ["", "\"\"", "W/", strong.trim_matches('"')] {
            assert!(!is_named(list, tag), "{list}");
        }
    }
}
