//! The form of a token request (RFC 6749 §3.2, appendix B), read strictly.

use std::collections::HashMap;

use http::{HeaderMap, header};

use crate::api::problem::Problem;
use crate::listener::{MOST_PARAMETERS, Pairs};

const MEDIA_TYPE: &str = "application/x-www-form-urlencoded";
/// Parameters that may be repeated (RFC 8693 §2.1).
const REPEATABLE: [&str; 2] = ["resource", "audience"];
/// Parameters that have a meaning here. Others are passed over (RFC 6749 §3.2), and not named in an answer.
const OURS: [&str; 15] = [
    "grant_type",
    "client_id",
    "client_secret",
    "client_assertion",
    "client_assertion_type",
    "subject_token",
    "subject_token_type",
    "actor_token",
    "actor_token_type",
    "requested_token_type",
    "resource",
    "audience",
    "scope",
    "tenant",
    "min_ttl",
];

/// The parameters of a token request.
#[derive(Default)]
pub(in crate::api) struct Form {
    single: HashMap<String, String>,
    repeatable: HashMap<&'static str, Vec<String>>,
}

impl Form {
    /// Reads a body. An empty parameter counts as absent.
    pub(in crate::api) fn read(headers: &HeaderMap, body: &[u8]) -> Result<Self, Problem> {
        if !is_form(headers) {
            return Err(Problem::invalid("content-type", format!("must be {MEDIA_TYPE}, once")));
        }
        if std::str::from_utf8(body).is_err() || !has_good_escapes(body) {
            return Err(Problem::invalid("body", "has a character or an escape that no form has"));
        }
        let decoded = Pairs::decoded(body)
            .map_err(|_| Problem::invalid("body", format!("has more than {MOST_PARAMETERS} parameters")))?;
        let mut form = Form::default();
        for (name, value) in decoded {
            let ours = OURS.into_iter().find(|ours| *ours == name);
            if value.contains('\u{fffd}') || value.chars().any(char::is_control) {
                return Err(Problem::invalid(
                    ours.unwrap_or("body"),
                    "is not UTF-8, or has a control character",
                ));
            }
            if let Some(repeatable) = REPEATABLE.into_iter().find(|repeatable| *repeatable == name) {
                if !value.is_empty() {
                    form.repeatable.entry(repeatable).or_default().push(value.into_owned());
                }
            } else if form.single.insert(name.into_owned(), value.into_owned()).is_some() {
                let name = ours.unwrap_or("a parameter");
                return Err(Problem::invalid("body", format!("has {name} twice")));
            }
        }
        Ok(form)
    }

    /// Returns a parameter that may stand there once.
    pub(in crate::api) fn value(&self, name: &str) -> Option<&str> {
        self.single.get(name).map(String::as_str).filter(|value| !value.is_empty())
    }

    /// Returns the values of a parameter that may be repeated.
    pub(in crate::api) fn values(&self, name: &str) -> &[String] {
        self.repeatable.get(name).map_or(&[], Vec::as_slice)
    }

    /// Returns true if the parameter is there, even an empty one.
    pub(in crate::api) fn has(&self, name: &str) -> bool {
        self.single.contains_key(name)
    }
}

/// Returns true if the body is said to be a form, in UTF-8.
pub(in crate::api) fn is_form(headers: &HeaderMap) -> bool {
    let mut values = headers.get_all(header::CONTENT_TYPE).iter();
    let (Some(value), None) = (values.next(), values.next()) else { return false };
    let Ok(value) = value.to_str() else { return false };
    let mut parts = value.split(';').map(str::trim);
    let is_it = parts.next().is_some_and(|media_type| media_type.eq_ignore_ascii_case(MEDIA_TYPE));
    is_it && parts.all(|part| part.is_empty() || is_utf_8(part))
}

fn is_utf_8(parameter: &str) -> bool {
    parameter.split_once('=').is_some_and(|(name, value)| {
        name.eq_ignore_ascii_case("charset") && value.trim_matches('"').eq_ignore_ascii_case("utf-8")
    })
}

fn has_good_escapes(body: &[u8]) -> bool {
    body.iter().enumerate().filter(|(_, byte)| **byte == b'%').all(|(at, _)| {
        let is_hex = |at: usize| body.get(at).is_some_and(u8::is_ascii_hexdigit);
        is_hex(at + 1) && is_hex(at + 2)
    })
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn headers(types: &[&'static str]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for media_type in types {
            headers.append(header::CONTENT_TYPE, HeaderValue::from_static(media_type));
        }
        headers
    }

    fn read(body: &[u8]) -> Result<Form, String> {
        Form::read(&headers(&[MEDIA_TYPE]), body).map_err(|problem| problem.detail)
    }

    #[test]
    fn a_form_is_read_and_only_audience_and_resource_may_be_repeated() {
        let form = read(b"grant_type=a%3Ab&scope=x+y&resource=r1&audience=&resource=r2&unknown=1&min_ttl=&a");
        let form = form.unwrap_or_else(|why| panic!("{why}"));
        assert_eq!((form.value("grant_type"), form.value("scope")), (Some("a:b"), Some("x y")));
        assert_eq!(form.values("resource"), ["r1", "r2"]);
        assert!(form.values("audience").is_empty());
        assert_eq!((form.value("min_ttl"), form.has("min_ttl")), (None, true));
        assert!(read(b"").is_ok_and(|form| form.value("grant_type").is_none()));
        for (body, why) in [
            (&b"scope=a&scope=a"[..], "body: has scope twice"),
            (b"scope=&scope=", "body: has scope twice"),
            (b"sc%6fpe=a&scope=b", "body: has scope twice"),
            (b"grant_type=a&scope=b&grant_type=a", "body: has grant_type twice"),
            (b"canary=1&canary=2", "body: has a parameter twice"),
            (b"scope=%zz", "body: has a character or an escape that no form has"),
            (b"scope=%4", "body: has a character or an escape that no form has"),
            (b"scope=\xff", "body: has a character or an escape that no form has"),
            (b"scope=%ff", "scope: is not UTF-8, or has a control character"),
            (b"subject_token=a%00b", "subject_token: is not UTF-8, or has a control character"),
            (b"canary=%0a", "body: is not UTF-8, or has a control character"),
        ] {
            assert_eq!(read(body).err().as_deref(), Some(why), "{}", String::from_utf8_lossy(body));
        }
        let many = |count: usize| "resource=x&".repeat(count);
        assert!(read(many(MOST_PARAMETERS - 1).as_bytes()).is_ok());
        assert_eq!(
            read(many(MOST_PARAMETERS).as_bytes()).err().as_deref(),
            Some("body: has more than 64 parameters")
        );
    }

    #[test]
    fn only_a_form_is_taken_for_one() {
        for good in [
            &["application/x-www-form-urlencoded"][..],
            &["Application/X-WWW-Form-Urlencoded; charset=UTF-8"],
            &["application/x-www-form-urlencoded;charset=\"utf-8\";"],
        ] {
            assert!(is_form(&headers(good)), "{good:?}");
        }
        for bad in [
            &[][..],
            &["application/json"],
            &["application/x-www-form-urlencoded; charset=utf-16"],
            &["application/x-www-form-urlencoded; boundary=x"],
            &["application/x-www-form-urlencoded", "application/x-www-form-urlencoded"],
            &["multipart/form-data; boundary=x"],
        ] {
            assert!(!is_form(&headers(bad)), "{bad:?}");
            assert!(Form::read(&headers(bad), b"scope=a").is_err());
        }
    }
}
