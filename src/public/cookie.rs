//! The cookie that binds a session to the browser that began it.

use http::{HeaderMap, HeaderValue};

use crate::domain::digest::sha256_hex;
use crate::listener::{cookie, cookies};

/// Longest life of a connect session; the binding is worthless after it.
const MAX_AGE: u32 = 86_400;

/// Each session has its own cookie, so that two in one browser do not disturb each other. `__Host-` keeps
/// other hosts of the domain from setting it; it needs https.
fn name(base_url: &str, session: &str) -> String {
    let prefix = if base_url.starts_with("https://") { "__Host-" } else { "" };
    format!("{prefix}tokenward-{}", &sha256_hex(session.as_bytes())[..16])
}

/// Makes the `Set-Cookie` value for a binding.
pub(super) fn set(base_url: &str, session: &str, binding: &str) -> HeaderValue {
    let secure = if base_url.starts_with("https://") { "; Secure" } else { "" };
    let name = name(base_url, session);
    let cookie = format!("{name}={binding}; Path=/; Max-Age={MAX_AGE}; HttpOnly; SameSite=Lax{secure}");
    HeaderValue::from_str(&cookie).expect("names and bindings are of the URL-safe alphabet")
}

/// Returns the binding that this browser has for a session.
pub(super) fn binding(headers: &HeaderMap, base_url: &str, session: &str) -> Option<String> {
    cookie(headers, &name(base_url, session)).map(str::to_owned)
}

/// Returns true if the browser sent any cookie of ours.
pub(super) fn any(headers: &HeaderMap) -> bool {
    cookies(headers).any(|(name, _)| name.trim_start_matches("__Host-").starts_with("tokenward-"))
}

/// Returns true if a form was sent from our own page. Browsers show that in `Sec-Fetch-Site`; older ones in
/// `Origin`, which our own `Referrer-Policy` sets to `null`. Other clients send neither, and have no victim's
/// session.
pub(super) fn is_same_site(headers: &HeaderMap, base_url: &str) -> bool {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    match (text("sec-fetch-site"), text("origin")) {
        (Some(site), _) => matches!(site, "same-origin" | "none"),
        (None, Some("null") | None) => true,
        (None, Some(origin)) => origin == base_url,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::header;

    #[test]
    fn a_binding_is_read_back_and_only_for_its_session() {
        let set = set("https://tokens.contoso.com", "s1", "b1");
        let text = set.to_str().expect("text");
        assert!(text.starts_with("__Host-tokenward-") && text.ends_with("; HttpOnly; SameSite=Lax; Secure"));
        let mut headers = HeaderMap::new();
        let pair = text.split(';').next().expect("a pair");
        headers.insert(header::COOKIE, HeaderValue::from_str(&format!("x=1; {pair}")).expect("header"));
        assert_eq!(binding(&headers, "https://tokens.contoso.com", "s1").as_deref(), Some("b1"));
        assert_eq!(binding(&headers, "https://tokens.contoso.com", "s2"), None);
        // A second cookie of the same name was planted.
        headers.append(header::COOKIE, HeaderValue::from_str(pair).expect("header"));
        assert_eq!(binding(&headers, "https://tokens.contoso.com", "s1"), None);
    }

    #[test]
    fn a_form_from_elsewhere_is_told_apart() {
        let check = |pairs: &[(&'static str, &'static str)]| {
            let mut headers = HeaderMap::new();
            for (name, value) in pairs {
                headers.insert(*name, HeaderValue::from_static(value));
            }
            is_same_site(&headers, "https://a.example")
        };
        assert!(check(&[]));
        assert!(check(&[("sec-fetch-site", "same-origin"), ("origin", "null")]));
        assert!(check(&[("origin", "https://a.example")]));
        assert!(!check(&[("origin", "https://evil.example")]));
        assert!(!check(&[("sec-fetch-site", "cross-site"), ("origin", "null")]));
    }
}
