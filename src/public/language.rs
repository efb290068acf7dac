//! The languages of the pages, and the choice of one by what the browser prefers.

use std::sync::Arc;

use super::text::{self, Language};

/// Most ranges of `Accept-Language` that are read. Browsers send fewer than ten.
const MOST_RANGES: usize = 32;

/// English, German, and what files add. English is the first.
#[derive(Debug, Clone)]
pub struct Languages(Vec<Arc<Language>>);

/// What was found in a language's file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LanguageFinding {
    /// The pages cannot use the file.
    Wrong(String),
    /// These texts are missing, and shown in the built-in language.
    Missing(Vec<&'static str>),
}

impl Default for Languages {
    fn default() -> Self {
        let built_in = |tag, file, fallback| {
            let read = text::read(tag, file, fallback);
            read.expect("a test reads the built-in languages").language
        };
        let english = built_in("en", include_str!("languages/en.toml"), None);
        let german = built_in("de", include_str!("languages/de.toml"), Some(&english));
        Languages(vec![Arc::new(english), Arc::new(german)])
    }
}

impl Languages {
    /// Adds the language of a file, or replaces texts of a built-in one. `tag` is the file's name without its
    /// extension.
    pub fn add(&mut self, tag: &str, file: &str) -> Vec<LanguageFinding> {
        let known = self.0.iter().position(|language| language.tag.eq_ignore_ascii_case(tag));
        let fallback = &self.0[known.unwrap_or(0)];
        let read = match text::read(tag, file, Some(fallback)) {
            Ok(read) => read,
            Err(mistakes) => return mistakes.into_iter().map(LanguageFinding::Wrong).collect(),
        };
        let language = Arc::new(read.language);
        match known {
            // A built-in language needs no further text.
            Some(known) => {
                self.0[known] = language;
                Vec::new()
            }
            None => {
                self.0.push(language);
                let missing = Some(read.missing).filter(|missing| !missing.is_empty());
                missing.map(LanguageFinding::Missing).into_iter().collect()
            }
        }
    }

    /// Chooses by `Accept-Language` (RFC 9110 section 12.5.4), by looking each range up, then shorter and
    /// shorter (RFC 4647 section 3.4). Without one that fits it is English.
    pub(super) fn choose(&self, accepted: Option<&str>) -> Arc<Language> {
        let mut ranges: Vec<(u16, &str)> = accepted
            .unwrap_or_default()
            .split(',')
            .take(MOST_RANGES)
            .filter_map(|item| {
                let mut parts = item.split(';');
                let range = parts.next()?.trim();
                let quality = match parts.next() {
                    None => 1000,
                    Some(weight) => thousandths(weight)?,
                };
                (!range.is_empty() && parts.next().is_none()).then_some((quality, range))
            })
            .collect();
        // Stable: of two with one weight the first counts.
        ranges.sort_by_key(|(quality, _)| std::cmp::Reverse(*quality));
        let refused = |language: &Language| {
            ranges.iter().any(|(quality, range)| *quality == 0 && language.tag.eq_ignore_ascii_case(range))
        };
        let found = ranges.iter().filter(|(quality, _)| *quality > 0).find_map(|(_, range)| match *range {
            "*" => self.0.iter().find(|language| !refused(language)),
            range => self.look_up(range).filter(|language| !refused(language)),
        });
        Arc::clone(found.unwrap_or(&self.0[0]))
    }

    fn look_up(&self, range: &str) -> Option<&Arc<Language>> {
        let mut range = range;
        loop {
            let found = self.0.iter().find(|language| language.tag.eq_ignore_ascii_case(range));
            if found.is_some() {
                return found;
            }
            range = range.rsplit_once('-')?.0;
            // A single letter or digit introduces what follows it.
            if let Some((before, last)) = range.rsplit_once('-')
                && last.len() == 1
            {
                range = before;
            }
        }
    }
}

/// Reads a weight: `q=` and 0 to 1 with at most three decimals.
fn thousandths(weight: &str) -> Option<u16> {
    let (name, value) = weight.trim().split_once('=')?;
    if !name.trim().eq_ignore_ascii_case("q") {
        return None;
    }
    let (whole, decimals) = value.trim().split_once('.').unwrap_or((value.trim(), ""));
    if decimals.len() > 3 || !decimals.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let parts: u16 = format!("{decimals:0<3}").parse().ok()?;
    match (whole, parts) {
        ("0", parts) => Some(parts),
        ("1", 0) => Some(1000),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_browsers_languages_decide_by_their_weights() {
        let mut languages = Languages::default();
        assert!(
            matches!(languages.add("pt-BR", "").as_slice(), [LanguageFinding::Missing(all)] if all.len() > 99)
        );
        assert!(languages.add("ar", "direction = \"rtl\"").len() == 1);
        let rows = [
            (None, "en"),
            (Some(""), "en"),
            (Some("de"), "de"),
            (Some("DE-at"), "de"),
            (Some("de-AT,de;q=0.9,en;q=0.8"), "de"),
            (Some("en;q=0.5, de;q=0.7"), "de"),
            (Some("fr, de;q=0.1"), "de"),
            (Some("fr"), "en"),
            (Some("pt"), "en"),
            (Some("pt-br"), "pt-BR"),
            (Some("pt-BR-x-old"), "pt-BR"),
            (Some("de;q=0"), "en"),
            (Some("*"), "en"),
            (Some("en;q=0,*"), "de"),
            (Some("ar-EG"), "ar"),
            (Some("de;q=2, ar;q=0.1"), "ar"),
            (Some("de;q=0.1234, ar;q=0.1"), "ar"),
            (Some("de;q, ar"), "ar"),
            (Some("de;q=1.000, ar"), "de"),
            (Some("ar;q=0.999, de;q=1.0"), "de"),
        ];
        for (accepted, tag) in rows {
            assert_eq!(languages.choose(accepted).tag, tag, "{accepted:?}");
        }
    }

    #[test]
    fn a_file_changes_single_texts_of_a_built_in_language() {
        let mut languages = Languages::default();
        assert_eq!(languages.add("de", "[texts]\nconnected_title = \"Fertig\""), []);
        let german = languages.choose(Some("de"));
        assert_eq!(german.raw(text::Text::ConnectedTitle), "Fertig");
        assert_eq!(german.raw(text::Text::Questions), "Fragen?");
        assert!(matches!(languages.add("de", "x = 1").as_slice(), [LanguageFinding::Wrong(_)]));
        assert_eq!(languages.add("de", "[purposes]\noutlook = \"Es zeigt Ihre E-Mails.\""), []);
        let german = languages.choose(Some("de"));
        assert_eq!(german.purpose("outlook"), Some("Es zeigt Ihre E-Mails."));
        assert_eq!(german.raw(text::Text::ConnectedTitle), "Fertig", "the texts of before");
        assert_eq!((german.purpose("other"), languages.choose(None).purpose("outlook")), (None, None));
        let in_purposes = |line: &str| format!("[purposes]\n{line}");
        let wrongs = ["a = \"\"", "a = \"x\\ny\"", "a = 1"].map(in_purposes);
        for wrong in wrongs.iter().map(String::as_str).chain(["purposes = 1"]) {
            let found = languages.add("de", wrong);
            assert!(matches!(found.as_slice(), [LanguageFinding::Wrong(_)]), "{wrong}: {found:?}");
        }
    }
}
