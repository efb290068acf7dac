//! Reading a request's path strictly: a path that is not understood whole is refused.

use std::borrow::Cow;

use memchr::memchr_iter;
use percent_encoding::percent_decode_str;

/// More parts than any path of ours has: a name of 256 characters has 128 at most, and eight stand around it.
const MOST_SEGMENTS: usize = 160;

/// Which segments of dots alone are a name. A client may have resolved the others as a way up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dots {
    /// None.
    Never,
    /// Those that are escaped.
    Escaped,
}

/// Splits a path into segments and percent-decodes them. `None` for an empty or dot segment, a bad escape, or
/// anything outside visible ASCII once decoded.
pub fn segments(path: &str, dots: Dots) -> Option<Vec<Cow<'_, str>>> {
    let rest = path.strip_prefix('/')?;
    let slashes = memchr_iter(b'/', rest.as_bytes()).count();
    if slashes >= MOST_SEGMENTS {
        return None;
    }
    let is_dots = |text: &str| matches!(text, "." | "..");
    let mut segments = Vec::with_capacity(slashes + 1);
    // Most have no escape in them.
    if rest.bytes().fold(true, |plain, byte| plain & is_plain(byte)) {
        let ends = memchr_iter(b'/', rest.as_bytes()).chain([rest.len()]);
        let mut begin = 0;
        for end in ends {
            let raw = &rest[begin..end];
            if raw.is_empty() || is_dots(raw) {
                return None;
            }
            segments.push(Cow::Borrowed(raw));
            begin = end + 1;
        }
        return Some(segments);
    }
    for raw in rest.split('/') {
        let text = segment(raw)?;
        let is_way_up = match dots {
            Dots::Never => is_dots(&text),
            Dots::Escaped => is_dots(raw),
        };
        if is_way_up {
            return None;
        }
        segments.push(text);
    }
    Some(segments)
}

/// Whether a byte of a path stands for itself and for nothing else. (Without a branch.)
fn is_plain(byte: u8) -> bool {
    (byte > b' ') & (byte < 0x7f) & (byte != b'%') & (byte != b';') & (byte != b'\\')
}

fn segment(raw: &str) -> Option<Cow<'_, str>> {
    let bytes = raw.as_bytes();
    for (at, byte) in bytes.iter().enumerate() {
        let escaped = || {
            bytes.get(at + 1).is_some_and(u8::is_ascii_hexdigit)
                && bytes.get(at + 2).is_some_and(u8::is_ascii_hexdigit)
        };
        match byte {
            b'%' if !escaped() => return None,
            b';' | b'\\' => return None,
            _ => {}
        }
    }
    let decoded = percent_decode_str(raw).decode_utf8().ok()?;
    let visible = decoded.bytes().all(|byte| (0x21..=0x7e).contains(&byte));
    (visible && !decoded.is_empty()).then_some(decoded)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(path: &str, dots: Dots) -> Option<String> {
        segments(path, dots).map(|segments| segments.join(" "))
    }

    #[test]
    fn a_path_that_is_not_plain_is_not_read() {
        for tail in [
            "",
            "a//token",
            "a/../b",
            "a/./b",
            "a%2",
            "a%zz",
            "a%00",
            "a%20b",
            "a;b/token",
            "a\\b",
            "%C3%BC",
            "a/token/",
        ] {
            for dots in [Dots::Never, Dots::Escaped] {
                assert_eq!(read(&format!("/base/{tail}"), dots), None, "{tail:?}");
            }
        }
        assert_eq!(read("/base/a%2Fb/c%40d", Dots::Never).as_deref(), Some("base a/b c@d"));
        assert_eq!(read("base", Dots::Never), None);
        let many = "/a".repeat(MOST_SEGMENTS);
        assert!(read(&many, Dots::Never).is_some());
        assert_eq!(read(&format!("{many}/a"), Dots::Escaped), None);
    }

    #[test]
    fn escaped_dots_are_a_name_where_that_is_allowed() {
        for path in ["/a/%2e%2e/b", "/%2E", "/a/.%2e"] {
            assert_eq!(read(path, Dots::Never), None, "{path}");
        }
        assert_eq!(read("/a/%2E%2e", Dots::Escaped).as_deref(), Some("a .."));
    }
}
