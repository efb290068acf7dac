//! What a browser must show before it is believed: its cookie, and that a form is our own page's.

use http::{HeaderMap, HeaderValue, header};

use crate::domain::digest::sha256_hex;
use crate::listener;

/// The cookie's name. `__Host-` keeps other hosts of the domain from setting it; it needs https. Browsers
/// send a cookie to every port of its host, so the name tells daemons of one host apart.
fn name(headers: &HeaderMap, is_tls: bool) -> String {
    let prefix = if is_tls { "__Host-" } else { "" };
    let host = headers.get(header::HOST).map_or(&b""[..], HeaderValue::as_bytes);
    format!("{prefix}tokenward-console-{}", &sha256_hex(&host.to_ascii_lowercase())[..8])
}

/// Makes the `Set-Cookie` value for a session.
pub(super) fn set_cookie(headers: &HeaderMap, is_tls: bool, cookie: &str) -> HeaderValue {
    cookie_value(headers, is_tls, cookie, "")
}

/// Makes the `Set-Cookie` value that has the browser forget its session.
pub(super) fn forget_cookie(headers: &HeaderMap, is_tls: bool) -> HeaderValue {
    cookie_value(headers, is_tls, "", "; Max-Age=0")
}

fn cookie_value(headers: &HeaderMap, is_tls: bool, cookie: &str, life: &str) -> HeaderValue {
    let secure = if is_tls { "; Secure" } else { "" };
    let name = name(headers, is_tls);
    let text = format!("{name}={cookie}; Path=/; HttpOnly; SameSite=Strict{secure}{life}");
    HeaderValue::from_str(&text).expect("names and cookies are of the URL-safe alphabet")
}

/// Returns the cookie of this browser's session.
pub(super) fn cookie(headers: &HeaderMap, is_tls: bool) -> Option<String> {
    listener::cookie(headers, &name(headers, is_tls)).map(str::to_owned)
}

/// Returns true if a form was sent from a page of this very listener: `Sec-Fetch-Site` says so, and `Origin`
/// names the host that was asked. Browsers send one of them with every form; who sends neither is no browser.
pub(super) fn is_from_own_page(headers: &HeaderMap) -> bool {
    let one = |name: &str| {
        let mut values = headers.get_all(name).iter();
        match (values.next(), values.next()) {
            (None, _) => Ok(None),
            (Some(value), None) => value.to_str().map(Some).map_err(|_| ()),
            (Some(_), Some(_)) => Err(()),
        }
    };
    let (Ok(site), Ok(origin), Ok(host)) = (one("sec-fetch-site"), one("origin"), one("host")) else {
        return false;
    };
    let is_own = |origin: &str| {
        let authority = origin.strip_prefix("https://").or_else(|| origin.strip_prefix("http://"));
        authority.is_some_and(|authority| host.is_some_and(|host| authority.eq_ignore_ascii_case(host)))
    };
    match (site, origin) {
        (None, None) => false,
        (site, origin) => site.is_none_or(|site| site == "same-origin") && origin.is_none_or(is_own),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderName;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(HeaderName::from_static(name), HeaderValue::from_static(value));
        }
        headers
    }

    #[test]
    fn a_form_from_elsewhere_is_told_apart() {
        for (pairs, own) in [
            (&[][..], false),
            (&[("origin", "http://127.0.0.1:7071")], true),
            (&[("origin", "HTTP://127.0.0.1:7071")], false),
            (&[("origin", "https://127.0.0.1:7071"), ("sec-fetch-site", "same-origin")], true),
            (&[("sec-fetch-site", "same-origin")], true),
            (&[("origin", "http://127.0.0.1:7072")], false),
            (&[("origin", "http://127.0.0.1:7071.evil.example")], false),
            (&[("origin", "null")], false),
            (&[("origin", "null"), ("sec-fetch-site", "same-origin")], false),
            (&[("origin", "http://127.0.0.1:7071"), ("sec-fetch-site", "same-site")], false),
            (&[("origin", "http://127.0.0.1:7071"), ("sec-fetch-site", "cross-site")], false),
            (&[("sec-fetch-site", "none")], false),
            (&[("origin", "http://127.0.0.1:7071"), ("origin", "http://evil.example")], false),
        ] {
            let mut headers = headers(pairs);
            headers.insert(header::HOST, HeaderValue::from_static("127.0.0.1:7071"));
            assert_eq!(is_from_own_page(&headers), own, "{pairs:?}");
        }
        assert!(!is_from_own_page(&headers(&[("origin", "http://127.0.0.1:7071")])), "no host was asked");
    }

    #[test]
    fn a_cookie_is_read_back_and_only_the_one_of_its_host() {
        let host = headers(&[("host", "Admin.contoso.com:7443")]);
        let set = set_cookie(&host, true, "value");
        let text = set.to_str().expect("text");
        assert!(text.starts_with("__Host-tokenward-console-"), "{text}");
        assert!(text.ends_with("=value; Path=/; HttpOnly; SameSite=Strict; Secure"), "{text}");
        let plain = set_cookie(&host, false, "value");
        let plain = plain.to_str().expect("text");
        assert!(plain.starts_with("tokenward-console-") && !plain.contains("Secure"), "{plain}");
        assert!(forget_cookie(&host, true).to_str().expect("text").ends_with("; Max-Age=0"));

        let pair = text.split(';').next().expect("a pair");
        let sent = |host: &'static str, pairs: &[&str]| {
            let mut all = headers(&[("host", host)]);
            for pair in pairs {
                all.append(header::COOKIE, HeaderValue::from_str(&format!("a=b; {pair}")).expect("header"));
            }
            cookie(&all, true)
        };
        assert_eq!(sent("admin.contoso.com:7443", &[pair]).as_deref(), Some("value"));
        assert_eq!(sent("admin.contoso.com:7444", &[pair]), None);
        assert_eq!(sent("admin.contoso.com:7443", &[pair, pair]), None, "one was planted");
        assert_eq!(sent("admin.contoso.com:7443", &[]), None);
    }
}
