//! The `uti` of an access token: the id under which Entra's sign-in logs (`uniqueTokenIdentifier`) and
//! Graph's activity logs (`SignInActivityId`) know it. It goes into the audit and decides nothing: to us a
//! token is opaque (RFC 6749 §1.4), and one that is no JWT serves as well.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Deserialize;
use zeroize::Zeroizing;

use crate::domain::secret::AccessToken;

/// Longest that is kept. Entra's have 22 characters.
const LONGEST: usize = 64;

/// Returns the `uti` claim, unverified, of a token that is a JWT and has one in base64url's alphabet.
pub(super) fn unverified_uti(token: &AccessToken) -> Option<String> {
    #[derive(Deserialize)]
    struct Claims {
        uti: String,
    }
    let mut parts = token.expose().split('.');
    let (Some(_), Some(claims), Some(_), None) = (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return None;
    };
    let claims = Zeroizing::new(URL_SAFE_NO_PAD.decode(claims).ok()?);
    let Claims { uti } = serde_json::from_slice(&claims).ok()?;
    let is_id = |text: &str| {
        (1..=LONGEST).contains(&text.len())
            && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
    };
    Some(uti).filter(|uti| is_id(uti))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn uti(claims: &str) -> Option<String> {
        let claims = URL_SAFE_NO_PAD.encode(claims);
        unverified_uti(&AccessToken::new(format!("eyJ0eXAiOiJKV1QifQ.{claims}.c2lnbmF0dXJl")))
    }

    #[test]
    fn a_jwt_has_the_uti_that_it_says() {
        assert_eq!(
            uti(r#"{"aud":"a","uti":"wG2z5l_s-0ShxW1nQ7MGAA","oid":1}"#).as_deref(),
            Some("wG2z5l_s-0ShxW1nQ7MGAA")
        );
    }

    #[test]
    fn whatever_else_a_token_is_it_has_none() {
        for claims in [
            "",
            "{}",
            "[]",
            "null",
            "{",
            r#"{"uti":1}"#,
            r#"{"uti":""}"#,
            r#"{"uti":null}"#,
            r#"{"uti":"a b"}"#,
            r#"{"uti":"a\n"}"#,
            r#"{"uti":"a","uti":"b"}"#,
            r#"{"uti":"ä"}"#,
        ] {
            assert_eq!(uti(claims), None, "{claims}");
        }
        assert_eq!(uti(&format!(r#"{{"uti":"{}"}}"#, "a".repeat(LONGEST + 1))), None);
        assert_eq!(uti(&"[".repeat(100_000)), None);
        for token in ["", "opaque", ".", "..", "a.b.c", "a.e30.c.d", "EwB4A8l6BAAU.ä.x", "a.e30=.c"] {
            assert_eq!(unverified_uti(&AccessToken::new(token)), None, "{token}");
        }
    }
}
