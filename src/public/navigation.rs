//! Recognition of navigations: requests whose answer a person sees, because the person opened the address.
//!
//! Browsers load pages ahead of time (prefetch, prerender, previews) and send our cookies with these
//! requests; mail scanners send HEAD first. Their answers are discarded, so such a request must not use
//! anything up.
//!
//! A request ahead of time is answered with 503 and must not be cached. The browser then forgets the page and
//! asks again when the person goes there (Chrome drops a prefetch without a 2xx status, and a prerendered
//! page with 4xx or 5xx). After a 2xx it would show the earlier page. HEAD returns a page's headers without
//! the page's effects. OPTIONS lists the methods.

use http::HeaderMap;

/// Headers that announce loading ahead of time: the Fetch standard's, and older ones of Chrome, Safari and
/// Firefox.
const PURPOSES: [&str; 4] = ["sec-purpose", "purpose", "x-purpose", "x-moz"];
const AHEAD: [&str; 3] = ["prefetch", "prerender", "preview"];

/// Returns true if nobody sees the answer yet: the page is loaded ahead of time, or by a script, an image or
/// a frame of another page (`Sec-Fetch-Mode`). A client that sends neither kind of header counts as a person.
pub(super) fn is_ahead(headers: &HeaderMap) -> bool {
    // The value is scanned once, whatever it contains: strangers write it.
    let says = |name: &str, words: &[&str]| {
        headers.get_all(name).iter().any(|value| {
            let mut parts = value.as_bytes().split(|byte| matches!(byte, b';' | b','));
            parts.any(|part| {
                let part = part.trim_ascii();
                words.iter().any(|word| part.eq_ignore_ascii_case(word.as_bytes()))
            })
        })
    };
    let is_elsewhere = headers.contains_key("sec-fetch-mode") && !says("sec-fetch-mode", &["navigate"]);
    is_elsewhere || PURPOSES.iter().any(|name| says(name, &AHEAD))
}

#[cfg(test)]
mod tests {
    use http::{HeaderName, HeaderValue};

    use super::*;

    #[test]
    fn what_is_loaded_ahead_is_told_from_what_is_opened() {
        let rows = [
            (&[][..], false),
            (&[("sec-purpose", "prefetch")], true),
            (&[("sec-purpose", "prefetch;prerender")], true),
            (&[("sec-purpose", "prefetch; anonymous-client-ip")], true),
            (&[("purpose", "prefetch")], true),
            (&[("purpose", "Prefetch")], true),
            (&[("x-purpose", "preview")], true),
            (&[("x-moz", "prefetch")], true),
            (&[("sec-purpose", "x"), ("purpose", "prefetch")], true),
            (&[("sec-purpose", "navigation")], false),
            (&[("sec-purpose", "notprefetch")], false),
            (&[("sec-fetch-mode", "navigate")], false),
            (&[("sec-fetch-mode", "navigate"), ("sec-purpose", "prefetch")], true),
            (&[("sec-fetch-mode", "no-cors"), ("sec-fetch-dest", "image")], true),
            (&[("sec-fetch-mode", "cors")], true),
        ];
        for (pairs, ahead) in rows {
            let mut headers = HeaderMap::new();
            for (name, value) in pairs {
                headers.append(HeaderName::from_static(name), HeaderValue::from_static(value));
            }
            assert_eq!(is_ahead(&headers), ahead, "{pairs:?}");
        }
    }
}
