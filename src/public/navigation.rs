//! Whether a request is a person's: somebody opened this address and looks at the answer.
//!
//! Browsers load pages ahead (prefetch, prerender, previews) and send our cookies along; mail scanners ask with HEAD
//! first. What such a request gets is thrown away, so nothing may be spent on it.
//!
//! A request ahead of its time is answered 503 and is not to be kept: a browser then forgets what it loaded and asks
//! anew when the person goes there (Chrome drops what is not 2xx, and a prerendered page whose status is 4xx or 5xx).
//! With a 2xx it would show what it had instead. HEAD is a page's headers, without doing what the page does. OPTIONS
//! says which methods there are.

use http::HeaderMap;

/// Where browsers say that they load ahead: the Fetch standard's name, and older ones of Chrome, Safari and Firefox.
const PURPOSES: [&str; 4] = ["sec-purpose", "purpose", "x-purpose", "x-moz"];
const AHEAD: [&str; 3] = ["prefetch", "prerender", "preview"];

/// Whether nobody looks at the answer yet: it is loaded ahead, or by a page's script, image or frame element and not by
/// going there (`Sec-Fetch-Mode`). Clients that say nothing of either kind count as persons.
pub(super) fn is_ahead(headers: &HeaderMap) -> bool {
    // One walk over a value, whatever it holds: strangers write it.
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
