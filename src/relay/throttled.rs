//! What a batch's answer says on its way: which requests are to come later, and where the fields of their
//! answers stand.

use std::ops::Range;

use http::StatusCode;

/// Longest text that is kept: an id of a batch's request is shorter, escapes included, and so is a time.
const LONGEST: usize = 1024;
/// The levels of the answer: itself, the list `responses`, an item of it, and the item's `headers`.
const LEVELS: usize = 4;

/// One that is to come later.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Later {
    /// Its id.
    pub id: String,
    /// The value of `Retry-After`.
    pub after: String,
}

/// What a piece of a batch's answer says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Said {
    /// Who is to come later.
    pub later: Vec<Later>,
    /// Where in the piece the fields of single answers stand, in order.
    pub fields: Vec<Range<usize>>,
    /// The answer has the list `responses` twice. Of two readers each may take another one.
    pub is_twice: bool,
}

/// Reads the answer of a batch in pieces, and keeps no more of it than a few words.
pub struct Throttled {
    depth: usize,
    /// Of each level from 1 on: whether it is an object, and the last name in it.
    levels: [(bool, Name); LEVELS + 1],
    /// A text that comes now is a name.
    is_name: bool,
    text: Option<Text>,
    /// A number, or a word, as far as it came.
    word: Vec<u8>,
    item: Item,
    /// How often the list is named, up to twice.
    lists: u8,
}

/// A name that matters where it stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Name {
    Responses,
    Id,
    Status,
    Headers,
    RetryAfter,
    Other,
}

#[derive(Default)]
struct Text {
    /// As it stands there, without the quotes.
    raw: Vec<u8>,
    is_escaped: bool,
}

#[derive(Default)]
struct Item {
    id: Option<String>,
    status: Option<u16>,
    after: Option<String>,
}

impl Default for Throttled {
    fn default() -> Self {
        Throttled {
            depth: 0,
            levels: [(false, Name::Other); LEVELS + 1],
            is_name: false,
            text: None,
            word: Vec::new(),
            item: Item::default(),
            lists: 0,
        }
    }
}

impl Throttled {
    /// Takes a piece, and returns what it says.
    pub fn take(&mut self, piece: &[u8]) -> Said {
        let mut said = Said::default();
        let mut since = self.is_in_fields().then_some(0);
        for (at, byte) in piece.iter().copied().enumerate() {
            if let Some(text) = &mut self.text {
                if byte == b'"' && !text.is_escaped {
                    let text = self.text.take().expect("it is there").raw;
                    self.ends_text(&text);
                    continue;
                }
                text.is_escaped = byte == b'\\' && !text.is_escaped;
                if text.raw.len() <= LONGEST {
                    text.raw.push(byte);
                }
                continue;
            }
            match byte {
                b'"' => self.text = Some(Text::default()),
                b'{' | b'[' | b'}' | b']' | b',' | b':' | b' ' | b'\t' | b'\r' | b'\n' => {
                    self.ends_word();
                    self.follows(byte, &mut said.later);
                    match (since, self.is_in_fields()) {
                        (None, true) => since = Some(at + 1),
                        (Some(from), false) => {
                            said.fields.push(from..at);
                            since = None;
                        }
                        (None, false) | (Some(_), true) => {}
                    }
                }
                _ if self.word.len() < 32 => self.word.push(byte),
                _ => {}
            }
        }
        said.fields.extend(since.map(|from| from..piece.len()));
        said.is_twice = self.lists > 1;
        said
    }

    /// Whether it is among the fields of a single answer.
    fn is_in_fields(&self) -> bool {
        self.depth == LEVELS && self.is_item() && self.levels[3].1 == Name::Headers && self.levels[LEVELS].0
    }

    fn follows(&mut self, byte: u8, found: &mut Vec<Later>) {
        match byte {
            b'{' | b'[' => {
                self.depth = self.depth.saturating_add(1);
                self.is_name = byte == b'{';
                if self.depth <= LEVELS {
                    self.levels[self.depth] = (byte == b'{', Name::Other);
                }
                if self.depth == 3 {
                    self.item = Item::default();
                }
            }
            b'}' | b']' => {
                if self.depth == 3 && self.is_item() {
                    found.extend(std::mem::take(&mut self.item).later());
                }
                self.depth = self.depth.saturating_sub(1);
                self.is_name = false;
            }
            b',' => self.is_name = self.level().is_some_and(|(is_object, _)| is_object),
            b':' => self.is_name = false,
            _ => {}
        }
    }

    /// The level on which it is, if that matters.
    fn level(&self) -> Option<(bool, Name)> {
        (1..=LEVELS).contains(&self.depth).then(|| self.levels[self.depth])
    }

    /// Whether it is within an item of the list.
    fn is_item(&self) -> bool {
        self.depth >= 3 && self.levels[1] == (true, Name::Responses) && !self.levels[2].0 && self.levels[3].0
    }

    fn ends_text(&mut self, raw: &[u8]) {
        if self.level().is_none() {
            return;
        }
        let quoted = [b"\"", raw, b"\""].concat();
        let text: Option<String> =
            (raw.len() <= LONGEST).then(|| serde_json::from_slice(&quoted).ok()).flatten();
        if self.is_name {
            self.is_name = false;
            let name = self.named(&text.unwrap_or_default());
            if name == Name::Responses {
                self.lists = self.lists.saturating_add(1).min(2);
            }
            self.levels[self.depth].1 = name;
            return;
        }
        if let Some(text) = text {
            self.has(text);
        }
    }

    fn named(&self, text: &str) -> Name {
        match (self.depth, text) {
            (1, "responses") => Name::Responses,
            (3, "id") if self.is_item() => Name::Id,
            (3, "status") if self.is_item() => Name::Status,
            (3, "headers") if self.is_item() => Name::Headers,
            (4, name) if self.levels[3].1 == Name::Headers && name.eq_ignore_ascii_case("retry-after") => {
                Name::RetryAfter
            }
            _ => Name::Other,
        }
    }

    fn ends_word(&mut self) {
        let word = std::mem::take(&mut self.word);
        if let (false, Ok(word)) = (word.is_empty(), String::from_utf8(word)) {
            self.has(word);
        }
    }

    /// The last name has this value.
    fn has(&mut self, value: String) {
        match self.level() {
            Some((true, Name::Id)) => self.item.id = Some(value),
            Some((true, Name::Status)) => self.item.status = value.parse().ok(),
            Some((true, Name::RetryAfter)) if self.is_item() => self.item.after = Some(value),
            _ => {}
        }
    }
}

impl Item {
    fn later(self) -> Option<Later> {
        let later = [StatusCode::TOO_MANY_REQUESTS, StatusCode::SERVICE_UNAVAILABLE];
        let is_later = later.iter().any(|one| Some(one.as_u16()) == self.status);
        Some(Later { id: self.id?, after: self.after.filter(|_| is_later)? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_to_come_later_is_found_however_the_answer_is_cut() {
        let text = r#" { "a" : {"responses":[{"id":"no","status":429,"headers":{"Retry-After":"1"}}]},
            "responses" : [ {"id":"1","status":200,"headers":{"Retry-After":"2"},"body":{"status":429}},
            {"headers":{"Content-Type":"x","retry-after" : "17"},"status": 429 ,
             "body":{"error":{"code":"y"}},"id":"\u0032\""},
            {"id":"3","status":503,"headers":{"Retry-After":9}},
            {"id":"4","status":429,"headers":{}},
            {"id":"5","status":429,"body":{"headers":{"Retry-After":"1"},"id":"x"}},
            {"id":"6","status":429,"body":"\"Retry-After\":\"1\"","headers":{"a":["Retry-After","1"]}},
            [{"id":"7","status":429,"headers":{"Retry-After":"1"}}],
            {"id":"8","status":"429","headers":{"Retry-After":"Mon, 30 Nov 2026 10:00:00 GMT"}},
            {"status":429,"headers":{"Retry-After":"1"}} ],
            "id":"z","status":429,"headers":{"Retry-After":"1"} }"#;
        let expected = [("2\"", "17"), ("3", "9"), ("8", "Mon, 30 Nov 2026 10:00:00 GMT")];
        for size in 1..=text.len() {
            let mut throttled = Throttled::default();
            let found: Vec<Later> =
                text.as_bytes().chunks(size).flat_map(|piece| throttled.take(piece).later).collect();
            let found: Vec<_> = found.iter().map(|one| (one.id.as_str(), one.after.as_str())).collect();
            assert_eq!(found, expected, "pieces of {size}");
        }
    }

    #[test]
    fn a_list_that_is_there_twice_is_seen_however_the_answer_is_cut() {
        for (text, is_twice) in [
            (r#"{"responses":[],"responses":[]}"#, true),
            (r#"{"responses":[{"id":"1"}],"a":1,"\u0072esponses":null}"#, true),
            (r#"{"responses":[{"responses":[],"body":{"responses":1}}],"a":{"responses":[]}}"#, false),
            (r#"{"responses":["responses"],"a":"responses"}"#, false),
        ] {
            for size in 1..=text.len() {
                let mut throttled = Throttled::default();
                let last = text.as_bytes().chunks(size).map(|piece| throttled.take(piece)).last();
                assert_eq!(last.expect("a piece").is_twice, is_twice, "{text} in pieces of {size}");
            }
        }
    }

    #[test]
    fn what_is_no_answer_of_a_batch_says_nothing() {
        for text in [
            "",
            "]]]]}}}}",
            "{{{{[[[[",
            r#"[{"responses":[{"id":"1","status":429,"headers":{"Retry-After":"1"}}]}]"#,
            r#"{"responses":{"a":{"id":"1","status":429,"headers":{"Retry-After":"1"}}}}"#,
            r#"{"responses":[[{"id":"1","status":429,"headers":{"Retry-After":"1"}}]]}"#,
            r#"{"Responses":[{"id":"1","status":429,"headers":{"Retry-After":"1"}}]}"#,
        ] {
            assert_eq!(Throttled::default().take(text.as_bytes()), Said::default(), "{text}");
        }
        // However long a text is, little of it is kept.
        let mut throttled = Throttled::default();
        throttled.take(b"{\"responses\":[{\"id\":\"");
        (0..1000).for_each(|_| drop(throttled.take(&[b'x'; 1000])));
        assert!(throttled.text.expect("it is within").raw.len() <= LONGEST + 1);
    }
}
