//! The claims challenge in a resource's `WWW-Authenticate`.
//!
//! Real ones disagree: several challenges in one value, parameters in any order, some without quotes, base64
//! of either alphabet, with or without padding.

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD, URL_SAFE, URL_SAFE_NO_PAD};
use http::header::{HeaderMap, WWW_AUTHENTICATE};

/// Longest value that is looked at.
const LONGEST: usize = 16 * 1024;

/// Returns the JSON text of the first claims challenge, which nobody has checked.
pub fn claims(fields: &HeaderMap) -> Option<String> {
    let values = fields.get_all(WWW_AUTHENTICATE).iter().filter_map(|value| value.to_str().ok());
    values.filter(|value| value.len() <= LONGEST).find_map(|value| {
        parameters(value)
            .find(|(name, _)| name.eq_ignore_ascii_case("claims"))
            .and_then(|(_, value)| decoded(&value))
    })
}

/// The parameters of all challenges in a value, with their values unquoted.
fn parameters(value: &str) -> impl Iterator<Item = (&str, String)> {
    let mut rest = value;
    std::iter::from_fn(move || {
        let (before, behind) = rest.split_once('=')?;
        // A scheme may stand before a name, and a comma before that.
        let name = before.rsplit([' ', ',', '\t']).next().unwrap_or_default();
        let mut text = String::new();
        rest = match behind.strip_prefix('"') {
            None => {
                let end = behind.find([',', ' ', '\t']).unwrap_or(behind.len());
                text.push_str(&behind[..end]);
                &behind[end..]
            }
            Some(quoted) => {
                let mut characters = quoted.char_indices();
                loop {
                    match characters.next() {
                        None => break "",
                        Some((at, '"')) => break &quoted[at + 1..],
                        Some((_, '\\')) => text.extend(characters.next().map(|(_, escaped)| escaped)),
                        Some((_, character)) => text.push(character),
                    }
                }
            }
        };
        Some((name, text))
    })
}

fn decoded(value: &str) -> Option<String> {
    if value.starts_with('{') {
        return Some(value.to_owned());
    }
    let engines = [&STANDARD, &STANDARD_NO_PAD, &URL_SAFE, &URL_SAFE_NO_PAD];
    let bytes = engines.iter().find_map(|engine| engine.decode(value).ok())?;
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    const CLAIMS: &str = r#"{"access_token":{"nbf":{"essential":true,"value":"1702682181"}}}"#;

    fn read(values: &[&str]) -> Option<String> {
        let mut fields = HeaderMap::new();
        for value in values {
            fields.append(WWW_AUTHENTICATE, HeaderValue::from_str(value).expect("a value"));
        }
        claims(&fields)
    }

    #[test]
    fn a_challenge_is_found_however_it_is_written() {
        let (padded, bare) = (STANDARD.encode(CLAIMS), URL_SAFE_NO_PAD.encode(CLAIMS));
        for value in [
            format!("Bearer realm=\"\", error=\"insufficient_claims\", claims=\"{padded}\""),
            format!("Bearer claims=\"{padded}\", error=insufficient_claims, realm=\"\""),
            format!("Bearer claims={bare}, error=insufficient_claims"),
            format!("PoP realm=\"\", error=\"invalid_token\", Bearer realm=\"\", Claims=\"{padded}\""),
            format!("Bearer realm=\"a, claims=no\", claims=\"{padded}\""),
            format!("Bearer error_description=\"a \\\"quoted\\\" word\", claims=\"{padded}\""),
            format!("Bearer claims=\"{}\"", CLAIMS.replace('"', "\\\"")),
        ] {
            assert_eq!(read(&[&value]).as_deref(), Some(CLAIMS), "{value}");
        }
        assert_eq!(read(&["Negotiate", &format!("Bearer claims=\"{padded}\"")]).as_deref(), Some(CLAIMS));
    }

    #[test]
    fn what_is_no_challenge_is_none() {
        for value in [
            "",
            "Bearer",
            "Bearer realm=\"\"",
            "Bearer claims=\"%%%\"",
            "Bearer xclaims=\"e30=\"",
            "Bearer claims",
        ] {
            assert_eq!(read(&[value]), None, "{value}");
        }
        assert_eq!(read(&[&format!("Bearer claims=\"{}\"", "e".repeat(LONGEST))]), None);
    }
}
