//! Checks of text from outside.

pub(super) use crate::domain::text::{is_guid, is_harmless, one_line};

/// Returns a code word of the authority (`error`, `suberror`): RFC 6749 §5.2's characters without the space,
/// at most 64.
pub(super) fn code_word(text: &str) -> Option<String> {
    let allowed = |byte: u8| matches!(byte, 0x21 | 0x23..=0x5b | 0x5d..=0x7e);
    (!text.is_empty() && text.len() <= 64 && text.bytes().all(allowed)).then(|| text.to_owned())
}

/// Returns an id of the authority for support cases: letters, digits and hyphens, at most 64.
pub(super) fn trace_word(text: &str) -> Option<String> {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
    (!text.is_empty() && text.len() <= 64 && text.bytes().all(allowed)).then(|| text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn foreign_text_is_tamed() {
        assert_eq!(one_line("a\r\nb\u{1b}[31mc\u{202e}d"), "a  b [31mc d");
        assert_eq!(one_line(&"x".repeat(1000)).len(), 300);
        assert_eq!(code_word("invalid_grant").as_deref(), Some("invalid_grant"));
        for bad in ["", "a b", "a\"b", "a\\b", "ä", "a\nb"] {
            assert_eq!(code_word(bad), None, "{bad}");
        }
        assert_eq!(trace_word("<script>"), None);
    }
}
