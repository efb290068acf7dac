//! Colours in what a person reads at a terminal: headings, and the words that say how something stands. They
//! add nothing that is not in the words.

use std::borrow::Cow;
use std::collections::BTreeMap;

/// Select Graphic Rendition (ECMA-48).
const BOLD: &str = "\u{1b}[1m";
const GREEN: &str = "\u{1b}[32m";
const YELLOW: &str = "\u{1b}[33m";
const RED: &str = "\u{1b}[31m";
const PLAIN: &str = "\u{1b}[0m";

/// Words that say how something stands.
const GOOD: [&str; 4] = ["active", "connected", "in_use", "ok"];
const DOUBTFUL: [&str; 6] = ["paused", "pending", "awaiting_confirmation", "expiring", "unknown", "absent"];
const BAD: [&str; 7] =
    ["needs_reauthorization", "blocked", "failed", "rejected", "expired", "REFUSED", "FAILED"];

/// Whether standard output takes colours: a terminal that knows them, where nobody asked for none
/// (<https://no-color.org>).
pub(super) fn is_wanted(is_terminal: bool, env: &BTreeMap<String, String>) -> bool {
    let has = |name: &str| env.get(name).is_some_and(|value| !value.is_empty());
    is_terminal && !has("NO_COLOR") && env.get("TERM").is_none_or(|term| term != "dumb")
}

/// Paints text whose control characters were escaped before.
pub(super) fn painted(text: &str) -> String {
    text.split_inclusive('\n').map(line).collect()
}

fn line(line: &str) -> Cow<'_, str> {
    let is_heading = line.contains("  ")
        && line.chars().any(char::is_alphabetic)
        && line.chars().all(|c| c.is_ascii_uppercase() || c.is_ascii_whitespace());
    if is_heading {
        let (heading, end) = line.split_at(line.trim_end().len());
        return format!("{BOLD}{heading}{PLAIN}{end}").into();
    }
    line.split_inclusive([' ', '\n']).map(word).collect::<String>().into()
}

fn word(word: &str) -> Cow<'_, str> {
    let bare = word.trim_end_matches([' ', '\n', ':', ',', '.']);
    let colour = match bare {
        bare if GOOD.contains(&bare) => GREEN,
        bare if DOUBTFUL.contains(&bare) => YELLOW,
        bare if BAD.contains(&bare) => RED,
        _ => return word.into(),
    };
    format!("{colour}{bare}{PLAIN}{}", &word[bare.len()..]).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headings_and_words_of_state_stand_out_and_nothing_else_changes() {
        let text = "APP      STATUS\noutlook  active\noutlook  blocked  a\nIt is activeish, (failed).\n";
        let shown = painted(text);
        assert_eq!(
            shown,
            "\u{1b}[1mAPP      STATUS\u{1b}[0m\noutlook  \u{1b}[32mactive\u{1b}[0m\noutlook  \
             \u{1b}[31mblocked\u{1b}[0m  a\nIt is activeish, (failed).\n"
        );
        let mut plain = shown;
        for colour in [BOLD, GREEN, YELLOW, RED, PLAIN] {
            plain = plain.replace(colour, "");
        }
        assert_eq!(plain, text);
    }

    #[test]
    fn colours_are_for_terminals_whose_user_wants_them() {
        let env = |all: &[(&str, &str)]| {
            all.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
        };
        assert!(is_wanted(true, &env(&[("TERM", "xterm"), ("NO_COLOR", "")])));
        assert!(is_wanted(true, &env(&[])));
        assert!(!is_wanted(false, &env(&[])));
        assert!(!is_wanted(true, &env(&[("NO_COLOR", "1")])));
        assert!(!is_wanted(true, &env(&[("TERM", "dumb")])));
    }
}
