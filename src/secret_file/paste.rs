//! Damage from copying a secret out of a web page, a chat or a document: invisible characters, and replaced
//! ones. Messages reveal no more of a secret than one character that it cannot contain.

use std::fmt;

/// A character that a secret cannot contain, and its position.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Odd {
    character: char,
    /// Position, from 1.
    at: usize,
}

impl fmt::Display for Odd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match name(self.character) {
            Some(name) => write!(f, "{name} (U+{:04X})", u32::from(self.character))?,
            None => write!(f, "the character U+{:04X}", u32::from(self.character))?,
        }
        write!(f, " as character {}", self.at)
    }
}

/// Returns the name of a character that copying or a word processor adds; a password may contain any other.
fn name(character: char) -> Option<&'static str> {
    Some(match character {
        '\u{feff}' => "a byte order mark",
        '\u{a0}' | '\u{202f}' => "a no-break space",
        '\u{1680}' | '\u{2000}'..='\u{200a}' | '\u{205f}' | '\u{3000}' => "a typographic space",
        '\u{200b}'..='\u{200d}' | '\u{2060}'..='\u{2064}' | '\u{180e}' | '\u{ad}' => "an invisible character",
        '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{61c}' => {
            "an invisible mark of the writing's direction"
        }
        '\u{2018}'..='\u{201f}' | '\u{2039}' | '\u{203a}' | '\u{ab}' | '\u{bb}' | '\u{2032}' | '\u{2033}' => {
            "a typographic quotation mark"
        }
        '\u{2010}'..='\u{2015}' | '\u{2212}' => "a typographic dash",
        '\u{2026}' => "an ellipsis",
        '\u{fffd}' => "a replacement character",
        _ => return None,
    })
}

fn find(text: &str, is_odd: impl Fn(char) -> bool) -> Option<Odd> {
    let mut characters = text.chars().enumerate();
    characters.find(|(_, one)| is_odd(*one)).map(|(at, character)| Odd { character, at: at + 1 })
}

/// Finds a character that a password cannot contain.
pub fn odd_in_password(text: &str) -> Option<Odd> {
    find(text, |one| name(one).is_some())
}

/// Finds a character that a client secret cannot contain: anything but VSCHAR (RFC 6749 appendix A.2).
pub fn odd_in_client_secret(text: &str) -> Option<Odd> {
    find(text, |one| !matches!(one, ' '..='~'))
}

/// Describes suspicious contents that a secret may have, but probably by mistake. The words follow the file's
/// name.
pub fn suspicions(text: &str) -> Vec<&'static str> {
    let mut all = Vec::new();
    let bare = text.trim();
    if bare.len() != text.len() {
        all.push("begins or ends with a blank, which is taken as part of the secret: remove it");
    }
    let quoted = |quote: char| bare.len() > 1 && bare.starts_with(quote) && bare.ends_with(quote);
    if ['"', '\'', '`'].into_iter().any(quoted) {
        all.push("has quotes around it, which are taken as part of the secret: remove them");
    }
    if let Some((name, _)) = bare.split_once('=')
        && is_variable(name.trim_start_matches("export ").trim())
    {
        all.push("looks like a line `NAME=…`: only what follows the `=` is the secret");
    }
    all
}

/// Returns true for the usual form of variable names: capitals, or words with underscores.
fn is_variable(name: &str) -> bool {
    let plain = name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
    let capitals = name.len() > 2 && !name.bytes().any(|b| b.is_ascii_lowercase());
    let words = name.contains('_') && !name.bytes().any(|b| b.is_ascii_uppercase());
    plain && name.bytes().any(|b| b.is_ascii_alphabetic()) && (capitals && name.contains('_') || words)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_in_a_secret_is_named_with_its_place() {
        let said = |odd: Option<Odd>| odd.map(|odd| odd.to_string());
        for (text, expected) in [
            ("\u{feff}hunter2", "a byte order mark (U+FEFF) as character 1"),
            ("hunter\u{a0}2", "a no-break space (U+00A0) as character 7"),
            ("hunter2\u{200b}", "an invisible character (U+200B) as character 8"),
            ("\u{201c}hunter2\u{201d}", "a typographic quotation mark (U+201C) as character 1"),
            ("hunter\u{2013}2", "a typographic dash (U+2013) as character 7"),
            ("hunter\u{2026}", "an ellipsis (U+2026) as character 7"),
            ("\u{202e}hunter2", "an invisible mark of the writing's direction (U+202E) as character 1"),
        ] {
            assert_eq!(said(odd_in_password(text)).as_deref(), Some(expected));
            assert_eq!(said(odd_in_client_secret(text)).as_deref(), Some(expected));
        }
        assert_eq!(odd_in_password("pässwörd @:/?#%&\"'\\"), None, "a password may be any text");
        assert_eq!(
            said(odd_in_client_secret("pässwörd")).as_deref(),
            Some("the character U+00E4 as character 2")
        );
        assert_eq!(odd_in_client_secret(&(' '..='~').collect::<String>()), None);
    }

    #[test]
    fn what_was_probably_not_meant() {
        for (text, words) in [
            (" hunter2", "a blank"),
            ("hunter2 ", "a blank"),
            ("\"hunter2\"", "quotes around"),
            ("'hunter2'", "quotes around"),
            ("CLIENT_SECRET=hunter2", "NAME="),
            ("export CLIENT_SECRET=hunter2", "NAME="),
            ("client_secret=hunter2", "NAME="),
            ("AZURE_CLIENT_SECRET = hunter2", "NAME="),
        ] {
            let said = suspicions(text);
            assert!(said.len() == 1 && said[0].contains(words), "{text:?}: {said:?}");
        }
        // Secrets as Entra and generators make them, with base64's padding.
        for text in
            ["hunter2", "Ab8Q~xY_z.=", "aGVsbG8gd29ybGQ=", "AB~C=D", "ABCD=", "x=y", "Ab_Cd=e", "\"", "a b"]
        {
            assert_eq!(suspicions(text), [""; 0], "{text:?}");
        }
    }
}
