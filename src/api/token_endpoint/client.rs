//! How a client of the token endpoint says who it is (RFC 6749 §2.3.1, RFC 7521 §4.2): once, by one method.

use std::borrow::Cow;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::{HeaderMap, header};
use percent_encoding::percent_decode;
use zeroize::Zeroizing;

use super::form::Form;
use crate::api::problem::Problem;
use crate::domain::id::CallerName;

/// What a client presents by name and secret.
pub(in crate::api) struct NameAndSecret {
    /// The caller's name.
    pub(in crate::api) client_id: String,
    /// Its API key.
    pub(in crate::api) secret: Zeroizing<String>,
}

/// What a client presents in a form.
pub(in crate::api) enum OfForm<'a> {
    /// `client_secret_post`
    Secret(NameAndSecret),
    /// `client_assertion`, and the `client_id` beside it.
    Assertion(&'a str, Option<&'a str>),
}

/// The type of the only assertions that are taken.
const JWT_BEARER: &str = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer";

/// Reads the `Authorization` header. `Ok(None)` if there is none.
///
/// # Errors
/// It is there more than once, or is not Basic authentication.
pub(in crate::api) fn of_header(headers: &HeaderMap) -> Result<Option<NameAndSecret>, NotTaken> {
    let mut values = headers.get_all(header::AUTHORIZATION).iter();
    match (values.next(), values.next()) {
        (None, _) => Ok(None),
        (Some(value), None) => value.to_str().ok().and_then(basic).map(Some).ok_or(NotTaken),
        (Some(_), Some(_)) => Err(NotTaken),
    }
}

/// What is presented is of no method that is taken here.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::api) struct NotTaken;

fn basic(value: &str) -> Option<NameAndSecret> {
    let (scheme, encoded) = value.split_once(' ')?;
    if !scheme.eq_ignore_ascii_case("basic") {
        return None;
    }
    let decoded = Zeroizing::new(STANDARD.decode(encoded.trim_start_matches(' ')).ok()?);
    let at = decoded.iter().position(|byte| *byte == b':')?;
    Some(NameAndSecret {
        client_id: form_decoded(&decoded[..at])?,
        secret: Zeroizing::new(form_decoded(&decoded[at + 1..])?),
    })
}

/// Decodes a part as RFC 6749 §2.3.1 has it encoded. Clients that do not encode send the same: neither a
/// caller's name nor an API key has a character that the encoding changes.
fn form_decoded(part: &[u8]) -> Option<String> {
    let spaced: Cow<'_, [u8]> = match part.contains(&b'+') {
        true => part.iter().map(|byte| if *byte == b'+' { b' ' } else { *byte }).collect(),
        false => part.into(),
    };
    percent_decode(&spaced).decode_utf8().ok().map(Cow::into_owned)
}

/// Reads what a client presents in a form. `Ok(None)` if there is neither a secret nor an assertion.
///
/// # Errors
/// Both are there, or one of them without what belongs to it.
pub(in crate::api) fn of_form(form: &Form) -> Result<Option<OfForm<'_>>, NotTaken> {
    if form.has("client_assertion") || form.has("client_assertion_type") {
        let assertion = form.value("client_assertion").ok_or(NotTaken)?;
        let is_known = form.value("client_assertion_type") == Some(JWT_BEARER);
        return match is_known && !form.has("client_secret") {
            true => Ok(Some(OfForm::Assertion(assertion, form.value("client_id")))),
            false => Err(NotTaken),
        };
    }
    let Some(secret) = form.value("client_secret") else { return Ok(None) };
    let client_id = form.value("client_id").ok_or(NotTaken)?;
    let (client_id, secret) = (client_id.to_owned(), Zeroizing::new(secret.to_owned()));
    Ok(Some(OfForm::Secret(NameAndSecret { client_id, secret })))
}

/// Checks that a form fits the client that authenticated. `is_in_header` says that it did so in the
/// `Authorization` header.
///
/// # Errors
/// The form has another method, or another client's name.
pub(in crate::api) fn fits(form: &Form, caller: &CallerName, is_in_header: bool) -> Result<(), Problem> {
    if is_in_header {
        let others = ["client_secret", "client_assertion", "client_assertion_type"];
        if let Some(other) = others.into_iter().find(|other| form.has(other)) {
            let problem = "stands beside an Authorization header; authenticate by one method";
            return Err(Problem::invalid(other, problem));
        }
    }
    match form.value("client_id") {
        Some(client_id) if client_id != caller.as_str() => {
            Err(Problem::invalid("client_id", "is not the name of the caller that authenticates"))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn header(values: &[&str]) -> Result<Option<(String, String)>, NotTaken> {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(header::AUTHORIZATION, HeaderValue::from_str(value).expect("a header"));
        }
        let read = of_header(&headers)?;
        Ok(read.map(|read| (read.client_id, read.secret.to_string())))
    }

    fn encoded(text: &[u8]) -> String {
        format!("Basic {}", STANDARD.encode(text))
    }

    #[test]
    fn both_parts_of_basic_are_form_decoded() {
        for (sent, name, secret) in [
            ("mail-sync:twk_a", "mail-sync", "twk_a"),
            ("mail%2Dsync:twk%5Fa", "mail-sync", "twk_a"),
            ("a+b:c+d%2B", "a b", "c d+"),
            ("a:b:c", "a", "b:c"),
            (":", "", ""),
            ("a:%zz", "a", "%zz"),
            ("%C3%BC:%c3%bc", "ü", "ü"),
        ] {
            let read = header(&[&encoded(sent.as_bytes())]);
            assert_eq!(read, Ok(Some((name.to_owned(), secret.to_owned()))), "{sent}");
        }
        assert_eq!(header(&[]), Ok(None));
        let value = format!("BASIC  {}", STANDARD.encode("a:b"));
        assert_eq!(header(&[&value]), Ok(Some(("a".to_owned(), "b".to_owned()))));
    }

    #[test]
    fn whatever_is_not_basic_once_is_refused() {
        let good = encoded(b"a:b");
        for bad in [
            &["Bearer twk_a"][..],
            &["Basic"],
            &["Basic "],
            &["Basic !"],
            &["Basic YTpi YTpi"],
            &["Basic YTp"],
            &[""],
            &["Digest username=a"],
            &[&encoded(b"no colon")],
            &[&encoded(b"a:\xff")],
            &[&encoded(b"a:%ff")],
            &[&good, &good],
        ] {
            assert_eq!(header(bad), Err(NotTaken), "{bad:?}");
        }
    }

    fn form(body: &str) -> Form {
        let mut headers = HeaderMap::new();
        let media_type = HeaderValue::from_static("application/x-www-form-urlencoded");
        headers.insert(header::CONTENT_TYPE, media_type);
        Form::read(&headers, body.as_bytes()).unwrap_or_else(|problem| panic!("{}", problem.detail))
    }

    #[test]
    fn a_form_has_a_name_and_a_secret_or_none() {
        let read = |body: &str| {
            let form = form(body);
            let read = of_form(&form)?;
            Ok(read.map(|read| match read {
                OfForm::Secret(read) => read.client_id,
                OfForm::Assertion(text, client_id) => format!("{text} of {client_id:?}"),
            }))
        };
        assert_eq!(read("client_id=a&client_secret=b"), Ok(Some("a".to_owned())));
        let kind = format!("client_assertion_type={JWT_BEARER}");
        let assertion = |more: &str| read(&format!("{kind}&client_assertion=a.b.c{more}"));
        assert_eq!(assertion(""), Ok(Some("a.b.c of None".to_owned())));
        assert_eq!(assertion("&client_id=x"), Ok(Some("a.b.c of Some(\"x\")".to_owned())));
        for none in ["", "client_id=a", "client_id=a&client_secret=", "scope=a"] {
            assert_eq!(read(none), Ok(None), "{none}");
        }
        for bad in [
            "client_secret=b",
            "client_assertion=b",
            "client_assertion_type=",
            "client_id=a&client_secret=b&client_assertion=c",
        ] {
            assert_eq!(read(bad), Err(NotTaken), "{bad}");
        }
        for bad in ["&client_secret=b", "&client_secret="] {
            assert_eq!(assertion(bad), Err(NotTaken), "{bad}");
        }
        assert_eq!(read(&kind), Err(NotTaken));
        assert_eq!(read(&format!("{kind}&client_assertion=")), Err(NotTaken));
        assert_eq!(read(&format!("{kind}x&client_assertion=a.b.c")), Err(NotTaken));
    }

    #[test]
    fn never_two_methods_and_never_another_s_name() {
        let caller = CallerName::parse("mail-sync").expect("a name");
        let check =
            |body, is_in_header| fits(&form(body), &caller, is_in_header).map_err(|problem| problem.detail);
        for good in ["", "client_id=mail-sync", "client_id=", "scope=a"] {
            assert_eq!((check(good, true), check(good, false)), (Ok(()), Ok(())), "{good}");
        }
        assert_eq!(check("client_id=mail-sync&client_secret=x", false), Ok(()), "the one method");
        for bad in ["client_secret=x", "client_secret=", "client_assertion=x", "client_assertion_type=x"] {
            let (name, _) = bad.split_once('=').expect("a parameter");
            assert!(check(bad, true).is_err_and(|why| why.starts_with(&format!("{name}: "))), "{bad}");
        }
        for is_in_header in [true, false] {
            let refused = check("client_id=mail-reader", is_in_header);
            assert!(refused.is_err_and(|why| why.starts_with("client_id: ")));
        }
    }
}
