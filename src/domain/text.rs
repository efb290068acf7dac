//! Checks and cleaning of text from outside.

use std::error::Error;

/// Most characters of foreign text in a log field.
const MAX_CHARS: usize = 300;

/// Cleans foreign text for a log: control characters become spaces, and the text ends after 300 characters.
pub fn one_line(text: &str) -> String {
    let mut line: String =
        text.chars().take(MAX_CHARS).map(|c| if is_harmless(c) { c } else { ' ' }).collect();
    line.truncate(line.trim_end().len());
    line
}

/// Formats an error with its sources, on one line.
pub fn chain(error: &(dyn Error + 'static)) -> String {
    let mut words = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        words.push_str(": ");
        words.push_str(&error.to_string());
        source = error.source();
    }
    one_line(&words)
}

/// Returns true unless it is a control character, or one that reorders or hides its neighbours.
pub fn is_harmless(c: char) -> bool {
    !c.is_control()
        && !matches!(
            c,
            '\u{ad}'
                | '\u{61c}'
                | '\u{180e}'
                | '\u{200b}'..='\u{200f}'
                | '\u{2028}'..='\u{202e}'
                | '\u{2060}'..='\u{206f}'
                | '\u{feff}'
        )
}

/// Returns true for a GUID in its usual form of 8-4-4-4-12 hexadecimal digits.
pub fn is_guid(text: &str) -> bool {
    text.len() == 36
        && text.bytes().enumerate().all(|(at, byte)| match at {
            8 | 13 | 18 | 23 => byte == b'-',
            _ => byte.is_ascii_hexdigit(),
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn foreign_text_is_one_short_line() {
        assert_eq!(one_line("a\r\nb\u{1b}[31mc\u{202e}d"), "a  b [31mc d");
        assert_eq!(one_line(&"x".repeat(1000)).len(), 300);
    }

    #[test]
    fn guids() {
        assert!(is_guid("9188040d-6c67-4c5b-b112-36a304b66dad"));
        assert!(!is_guid("9188040d-6c67-4c5b-b112-36a304b66da"));
        assert!(!is_guid("9188040d_6c67-4c5b-b112-36a304b66dad"));
    }
}
