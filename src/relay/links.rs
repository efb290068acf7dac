//! Links of an answer that point below a base lead back through the relay.
//!
//! An answer in JSON is rewritten as it passes, without being kept: only the value of a link's name is looked
//! at, and only as long as a URL may be. What a user wrote stands under other names, and stays as it is.

use std::ops::Range;
use std::sync::LazyLock;

use bytes::Bytes;
use memchr::memmem;

use super::base::Base;

/// What stands before the name of an annotation that is a link. A property's name may precede it
/// (`messages@odata.nextLink`).
const NAMESPACE: &str = "@odata.";
const ANNOTATIONS: [&str; 8] =
    ["nextLink", "deltaLink", "id", "context", "editLink", "readLink", "navigationLink", "associationLink"];
/// The name of a property that is a link.
const PROPERTY: &str = "uploadUrl";
/// The name of a field that is a link, among the fields of the answers within a batch, in any case.
const LOCATION: &str = "Location";
/// Bytes that are kept of a piece for a name that goes on in the next one: more than any has.
const TAIL: usize = 40;
/// Most bytes of a name as it is written, with its quotes.
const NAME: usize = 24;
/// Longest value that is taken for a link, as it is written.
const LONGEST: usize = 16 * 1024;

/// Where links lead, and where they are to lead.
#[derive(Debug, Clone)]
pub struct Links {
    bases: Vec<Base>,
    /// The URL of the connection's relay, with its slash.
    here: String,
    /// Where its path begins in it.
    path: usize,
}

impl Links {
    /// Makes the links of a connection's relay at this URL, which ends in a slash, for these bases.
    pub fn new(bases: Vec<Base>, here: String) -> Self {
        let path = here.find("://").and_then(|at| Some(at + 3 + here[at + 3..].find('/')?)).unwrap_or(0);
        Links { bases, here, path }
    }

    /// Returns where a field leads that may be relative to its request's URL, whose origin is this: through
    /// the relay if that is below a base. `None` if it stays as it is: also what is relative to a path, for
    /// that leads below the relay by itself.
    pub fn turned_field(&self, reference: &str, origin: &str) -> Option<String> {
        let absolute = match reference.strip_prefix("//") {
            Some(_) => format!("{}:{reference}", origin.split_once(':')?.0),
            None if reference.starts_with('/') => format!("{origin}{reference}"),
            None => return self.turned(reference),
        };
        Some(self.turned(&absolute).unwrap_or(absolute))
    }

    /// Returns a URL that points below a base as one that leads through the relay.
    pub fn turned(&self, url: &str) -> Option<String> {
        let (base, rest) = self.bases.iter().find_map(|base| Some((base, base.rest_of(url)?)))?;
        Some(format!("{}{}{rest}", self.here, base.name()))
    }

    /// Returns what a URL of the relay has behind a base's name, from its slash on. By which address its
    /// caller reaches the relay does not matter, and SDKs leave it out.
    pub fn turned_back<'u>(&self, url: &'u str, base: &str) -> Option<&'u str> {
        let path = match url.split_once("://") {
            Some((_, rest)) => &rest[rest.find('/')?..],
            None => url,
        };
        let rest = path.strip_prefix(&self.here[self.path..])?.strip_prefix(base)?;
        rest.starts_with('/').then_some(rest)
    }
}

/// Whether a member of this name is a link, among the fields of an answer within a batch or elsewhere.
#[cfg(any(test, feature = "testkit"))]
pub(super) fn is_name_of_link(name: &[u8], is_field: bool) -> bool {
    let is_annotation = |name: &[u8]| ANNOTATIONS.iter().any(|one| name == one.as_bytes());
    let local = memmem::rfind(name, NAMESPACE.as_bytes()).map(|at| &name[at + NAMESPACE.len()..]);
    local.is_some_and(is_annotation)
        || name == PROPERTY.as_bytes()
        || is_field && name.eq_ignore_ascii_case(LOCATION.as_bytes())
}

/// Rewrites the links of one JSON text, which comes in pieces.
///
/// It looks for names of links alone, as they are written without escapes, and does not follow the text's
/// structure. (Where the fields of a batch's answers are, it is told.) In JSON that is enough: a quote
/// that has no `\\` before it begins or ends a string; behind a name it can only end one; and a string
/// that a colon follows is the name of a member, and no value.
pub struct Rewriter {
    links: std::sync::Arc<Links>,
    state: State,
}

/// Where in the text it is.
#[derive(Debug)]
enum State {
    /// Where no link's name is, behind these bytes.
    Elsewhere { tail: Vec<u8> },
    /// Behind a link's name.
    Named,
    /// Behind a link's name and its colon.
    BeforeLink,
    /// In a link, which is kept.
    Link { kept: Vec<u8>, is_escaped: bool },
}

const ELSEWHERE: State = State::Elsewhere { tail: Vec::new() };

impl Rewriter {
    /// Begins a text.
    pub fn new(links: std::sync::Arc<Links>) -> Self {
        Rewriter { links, state: ELSEWHERE }
    }

    /// Takes a piece, and returns what is to be sent of all that came. (A piece without a link is not
    /// copied.) `fields`: where in it the fields of a batch's answers stand, in order: `Location` is a link
    /// there.
    pub fn take(&mut self, piece: &Bytes, fields: &[Range<usize>]) -> Bytes {
        let mut ends = Ends::of(piece, fields);
        let (mut out, mut at) = (Vec::new(), 0);
        // Where the part begins that passes as it is.
        let mut from = if matches!(self.state, State::Link { .. }) { piece.len() } else { 0 };
        while at < piece.len() {
            match &mut self.state {
                State::Elsewhere { tail } => {
                    // (A name that ends within the first bytes may begin in the piece before.)
                    let found = match tail.is_empty() {
                        true => ends.after(at),
                        false => end_in_both(tail, (piece, at), fields)
                            .map(|end| at + end)
                            .or_else(|| ends.after(piece.len().min(at + TAIL - NAME))),
                    };
                    let Some(end) = found else {
                        let rest = &piece[at..];
                        tail.extend_from_slice(&rest[rest.len().saturating_sub(TAIL)..]);
                        tail.drain(..tail.len().saturating_sub(TAIL));
                        break;
                    };
                    at = end;
                    self.state = State::Named;
                }
                State::Named | State::BeforeLink if piece[at].is_ascii_whitespace() => at += 1,
                State::Named if piece[at] == b':' => {
                    self.state = State::BeforeLink;
                    at += 1;
                }
                State::BeforeLink if piece[at] == b'"' => {
                    out.extend_from_slice(&piece[from..at]);
                    from = piece.len();
                    self.state = State::Link { kept: Vec::new(), is_escaped: false };
                    at += 1;
                }
                // It was no name, or has another value.
                State::Named | State::BeforeLink => self.state = ELSEWHERE,
                State::Link { kept, is_escaped } => {
                    let rest = &piece[at..];
                    // (What neither ends it nor is part of an escape is taken as a whole.)
                    let plain = match *is_escaped {
                        true => 0,
                        false => memchr::memchr2(b'"', b'\\', rest).unwrap_or(rest.len()),
                    };
                    if plain == 0 && rest[0] == b'"' && !*is_escaped {
                        at += 1;
                        let kept = std::mem::take(kept);
                        push_link(&self.links, &kept, &mut out);
                        self.state = ELSEWHERE;
                        from = at;
                    } else {
                        *is_escaped = plain == 0 && !*is_escaped;
                        let taken = &rest[..plain.clamp(1, LONGEST + 1 - kept.len())];
                        kept.extend_from_slice(taken);
                        at += taken.len();
                        // Too long for a URL: it passes as it is.
                        if kept.len() > LONGEST {
                            out.push(b'"');
                            out.extend_from_slice(kept);
                            let last = kept[LONGEST];
                            self.state = State::Elsewhere { tail: vec![last] };
                            from = at;
                        }
                    }
                }
            }
        }
        if from == 0 && out.is_empty() {
            return piece.clone();
        }
        out.extend_from_slice(&piece[from..]);
        out.into()
    }

    /// Ends the text, and returns the rest of what came.
    pub fn end(self) -> Bytes {
        let State::Link { kept, .. } = self.state else { return Bytes::new() };
        [b"\"", &kept[..]].concat().into()
    }
}

/// Appends a link, which leads through the relay if it leads below a base.
fn push_link(links: &Links, kept: &[u8], out: &mut Vec<u8>) {
    let quoted = [b"\"", kept, b"\""].concat();
    let url: Option<String> = serde_json::from_slice(&quoted).ok();
    match url.and_then(|url| links.turned(&url)) {
        Some(turned) => serde_json::to_writer(out, &turned).expect("text is plain JSON"),
        None => out.extend_from_slice(&quoted),
    }
}

/// Returns where, in the rest of a piece that follows `tail`, the first name of a link ends, if that is
/// within the first [`TAIL`] bytes.
fn end_in_both(tail: &[u8], (piece, at): (&[u8], usize), fields: &[Range<usize>]) -> Option<usize> {
    let rest = &piece[at..];
    let text = [tail, &rest[..rest.len().min(TAIL)]].concat();
    let moved = |place: usize| (place + tail.len()).saturating_sub(at).min(text.len());
    let fields: Vec<_> = fields.iter().map(|one| moved(one.start)..moved(one.end)).collect();
    let mut ends = Ends::of(&text, &fields);
    // (Those that end in the tail were seen before.)
    let mut end = ends.after(0)?;
    while end <= tail.len() {
        end = ends.after(end)?;
    }
    Some(end - tail.len())
}

/// The ends of a text's names of links, each behind its quote.
struct Ends<'t> {
    text: &'t [u8],
    fields: &'t [Range<usize>],
    kinds: [Kind; 3],
    /// Of each kind, where the next begins and ends; both behind the text if there is none.
    next: [(usize, usize); 3],
}

/// Returns where the first name of its kind begins at or behind a place, and ends.
type Kind = fn(&[u8], usize, &[Range<usize>]) -> Option<(usize, usize)>;

impl<'t> Ends<'t> {
    fn of(text: &'t [u8], fields: &'t [Range<usize>]) -> Self {
        Ends { text, fields, kinds: [annotation, property, location], next: [(0, 0); 3] }
    }

    /// Returns the end of the first that begins at or behind `from`, which never is less than before.
    fn after(&mut self, from: usize) -> Option<usize> {
        // (Each kind is looked for anew only behind its last one, so each byte is read once for each.)
        for (next, kind) in self.next.iter_mut().zip(self.kinds) {
            if next.1 == 0 || next.0 < from {
                *next = kind(self.text, from, self.fields).unwrap_or((usize::MAX, usize::MAX));
            }
        }
        let (_, end) = *self.next.iter().min().expect("there are some");
        (end != usize::MAX).then_some(end)
    }
}

fn annotation(text: &[u8], from: usize, _: &[Range<usize>]) -> Option<(usize, usize)> {
    static FINDER: LazyLock<memmem::Finder<'_>> = LazyLock::new(|| memmem::Finder::new(NAMESPACE));
    FINDER.find_iter(&text[from..]).find_map(|at| {
        let local = from + at + NAMESPACE.len();
        let is_it = |name: &str| {
            text[local..].strip_prefix(name.as_bytes()).is_some_and(|rest| rest.first() == Some(&b'"'))
        };
        ANNOTATIONS.iter().find(|name| is_it(name)).map(|name| (from + at, local + name.len() + 1))
    })
}

fn property(text: &[u8], from: usize, _: &[Range<usize>]) -> Option<(usize, usize)> {
    static FINDER: LazyLock<memmem::Finder<'_>> =
        LazyLock::new(|| memmem::Finder::new(&format!("{PROPERTY}\"")).into_owned());
    let ends = FINDER.find_iter(&text[from..]).map(|at| from + at);
    ends.map(|at| (at, at + PROPERTY.len() + 1)).find_map(|(at, end)| whole(text, from, at, end))
}

fn location(text: &[u8], from: usize, fields: &[Range<usize>]) -> Option<(usize, usize)> {
    let is_it = |at: usize, end: usize| {
        text.get(at..end).is_some_and(|name| {
            name.ends_with(b"\"") && name[..LOCATION.len()].eq_ignore_ascii_case(LOCATION.as_bytes())
        })
    };
    // (A name may begin in the piece before its fields' part of this one. It ends in it.)
    let behind = fields.partition_point(|one| one.end <= from);
    fields[behind..].iter().find_map(|one| {
        let begin = from.max(one.start.saturating_sub(NAME)).min(one.end);
        let starts = memchr::memchr2_iter(b'L', b'l', &text[begin..one.end]).map(|at| begin + at);
        let ends = starts.map(|at| (at, at + LOCATION.len() + 1));
        let mut ends = ends.filter(|(at, end)| one.contains(&(end - 1)) && is_it(*at, *end));
        ends.find_map(|(at, end)| whole(text, from, at, end))
    })
}

/// Returns a name that is a whole string: its quote stands before it, and is not escaped.
fn whole(text: &[u8], from: usize, at: usize, end: usize) -> Option<(usize, usize)> {
    let quote = at.checked_sub(1).filter(|quote| *quote >= from && text[*quote] == b'"')?;
    let is_escaped = quote > 0 && text[quote - 1] == b'\\';
    (!is_escaped).then_some((quote, end))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::domain::random::{Random, random_bytes};
    use crate::relay::Throttled;
    use crate::testkit::SeededRandom;

    fn links() -> Arc<Links> {
        let base = |name, url| Base::parse(name, url).expect("a base");
        let bases =
            vec![base("graph", "https://graph.microsoft.com"), base("other", "https://a.example/api")];
        Arc::new(Links::new(bases, "http://here/relay/".to_owned()))
    }

    /// The text rewritten, in pieces of this size.
    fn rewritten(text: &[u8], size: usize) -> Vec<u8> {
        let mut rewriter = Rewriter::new(links());
        let mut out = Vec::new();
        let pieces = text.chunks(size.max(1)).map(Bytes::copy_from_slice);
        pieces.for_each(|piece| out.extend(rewriter.take(&piece, &[])));
        out.extend(rewriter.end());
        out
    }

    /// The answer of a batch rewritten, in pieces of this size.
    fn rewritten_of_batch(text: &str, size: usize) -> String {
        let (mut rewriter, mut reader) = (Rewriter::new(links()), Throttled::default());
        let mut out = Vec::new();
        for piece in text.as_bytes().chunks(size).map(Bytes::copy_from_slice) {
            out.extend(rewriter.take(&piece, &reader.take(&piece).fields));
        }
        out.extend(rewriter.end());
        String::from_utf8(out).expect("UTF-8")
    }

    fn whole(text: &str) -> String {
        String::from_utf8(rewritten(text.as_bytes(), text.len())).expect("UTF-8")
    }

    #[test]
    fn a_url_below_a_base_is_turned_and_no_other() {
        let links = links();
        for (url, turned) in [
            (
                "https://graph.microsoft.com/v1.0/me?$skip=10",
                Some("http://here/relay/graph/v1.0/me?$skip=10"),
            ),
            ("https://GRAPH.microsoft.com:443/v1.0/me", Some("http://here/relay/graph/v1.0/me")),
            (
                "https://graph.microsoft.com/v1.0/$metadata#users",
                Some("http://here/relay/graph/v1.0/$metadata#users"),
            ),
            ("https://a.example/api/x", Some("http://here/relay/other/x")),
            ("https://a.example/apix", None),
            ("https://a.example/api", None),
            ("https://a.example/other/x", None),
            ("http://graph.microsoft.com/v1.0/me", None),
            ("https://graph.microsoft.com:8443/v1.0/me", None),
            ("https://graph.microsoft.com.evil.example/v1.0/me", None),
            ("https://graph.microsoft.com@evil.example/v1.0/me", None),
            ("https://evil.example/https://graph.microsoft.com/v1.0", None),
            ("//graph.microsoft.com/v1.0/me", None),
            ("/v1.0/me", None),
        ] {
            assert_eq!(links.turned(url).as_deref(), turned, "{url}");
        }
    }

    #[test]
    fn links_are_turned_and_what_a_user_wrote_is_not() {
        const G: &str = "https://graph.microsoft.com/v1.0/x";
        const T: &str = "http://here/relay/graph/v1.0/x";
        for (text, expected) in [
            (format!(r#"{{"@odata.nextLink":"{G}"}}"#), format!(r#"{{"@odata.nextLink":"{T}"}}"#)),
            (
                format!(r#"{{ "@odata.deltaLink" :  "{G}" }}"#),
                format!(r#"{{ "@odata.deltaLink" :  "{T}" }}"#),
            ),
            (
                format!(r#"{{"messages@odata.nextLink":"{G}"}}"#),
                format!(r#"{{"messages@odata.nextLink":"{T}"}}"#),
            ),
            (
                format!(r#"{{"value":[{{"@odata.id":"{G}","a":1}}]}}"#),
                format!(r#"{{"value":[{{"@odata.id":"{T}","a":1}}]}}"#),
            ),
            (format!(r#"{{"uploadUrl":"{G}"}}"#), format!(r#"{{"uploadUrl":"{T}"}}"#)),
            // Escapes in a value.
            (
                r#"{"@odata.nextLink":"https:\/\/graph.microsoft.com\/v1.0\/x?a=1\u0026b=\"2\""}"#.to_owned(),
                r#"{"@odata.nextLink":"http://here/relay/graph/v1.0/x?a=1&b=\"2\""}"#.to_owned(),
            ),
        ] {
            assert_eq!(whole(&text), expected, "{text}");
        }
        for same in [
            format!(r#"{{"subject":"{G}","body":{{"content":"see \"@odata.nextLink\":\"{G}\""}}}}"#),
            format!(r#"{{"nextLink":"{G}","x@odata.nextLinks":"{G}","myuploadUrl":"{G}","Location":"{G}"}}"#),
            format!(r#"["@odata.nextLink","{G}"]"#),
            // A name with an escape is none, nor is one that only ends like a whole one.
            format!(r#"{{"\u0040odata.nextLink":"{G}","upload\u0055rl":"{G}"}}"#),
            format!(r#"{{"a\"uploadUrl":"{G}","a":"\"uploadUrl","b":"uploadUrl"}}"#),
            format!(r#"["@odata.nextLink",{{"a":"{G}"}}]"#),
            format!(r#"{{"@odata.nextLink":["{G}"]}}"#),
            format!(r#"{{"@odata.nextLink":{{"a":"{G}"}}}}"#),
            format!(r#"{{"a":"@odata.nextLink","b":"{G}"}}"#),
            r#"{"@odata.nextLink":null,"@odata.id":1,"uploadUrl":"https://outlook.office.com/x"}"#.to_owned(),
            format!(r#"{{"@odata.nextLink":"{G}{}"}}"#, "x".repeat(LONGEST)),
            r#"{"@odata.nextLink":"https://graph.microsoft.com/v1.0"#.to_owned(),
            r#"{"@odata.nextLink":"https://graph.microsoft.com/\ud800"}"#.to_owned(),
            "no JSON at all: \"@odata.nextLink\"".to_owned(),
            String::new(),
        ] {
            assert_eq!(whole(&same), same);
        }
    }

    /// In bodies the same name is a user's: an event has a place, and a document any member.
    #[test]
    fn fields_of_answers_within_a_batch_are_links_and_no_members_of_bodies() {
        const G: &str = "https://graph.microsoft.com/a";
        let text = format!(
            r#"{{"location":"{G}","headers":{{"Location":"{G}"}},"responses":[
            {{"Location":"{G}","id":"1","headers":{{"Location":"{G}","x":["Location",{{"Location":"{G}"}}]}},
              "body":{{"location":"{G}","headers":{{"Location":"{G}"}},"@odata.id":"{G}"}}}},
            {{"body":[{{"headers":{{"location" : "{G}"}}}}],"headers":{{"a":"b", "location" :"{G}"}}}},
            [{{"headers":{{"Location":"{G}"}}}}]]}}"#
        );
        const T: &str = "http://here/relay/graph/a";
        let mut expected = text.replacen(
            &format!(r#""1","headers":{{"Location":"{G}""#),
            &format!(r#""1","headers":{{"Location":"{T}""#),
            1,
        );
        expected = expected.replacen(&format!(r#""@odata.id":"{G}""#), &format!(r#""@odata.id":"{T}""#), 1);
        expected = expected.replacen(&format!(r#""location" :"{G}""#), &format!(r#""location" :"{T}""#), 1);
        for size in 1..=text.len() {
            assert_eq!(rewritten_of_batch(&text, size), expected, "pieces of {size}");
        }
    }

    #[test]
    fn a_url_of_the_relay_is_turned_back_whatever_its_address() {
        let links = links();
        for (url, target) in [
            ("http://here/relay/graph/v1.0/me", Some("/v1.0/me")),
            ("https://other.example:1/relay/graph/v1.0/me", Some("/v1.0/me")),
            ("/relay/graph/v1.0/me?$top=1", Some("/v1.0/me?$top=1")),
            ("http://here/relay/graphx/v1.0", None),
            ("http://here/relay/graph", None),
            ("http://here/x/relay/graph/v1.0", None),
            ("http://here", None),
            ("/v1.0/me", None),
            ("/me/relay/graph/v1.0", None),
        ] {
            assert_eq!(links.turned_back(url, "graph"), target, "{url}");
        }
    }

    /// However a text is cut, the same comes out. Texts are put together from what matters to the rewriter.
    #[test]
    fn any_cut_gives_the_same() {
        const PIECES: [&str; 24] = [
            "{",
            "}",
            "[",
            "]",
            ",",
            ":",
            " ",
            "\n",
            "\"",
            "\\",
            "\\\"",
            "\\u0040",
            "\\u00",
            "null",
            "12",
            "\"@odata.nextLink\":",
            "\"@odata.id\" : ",
            "\"https://graph.microsoft.com/v1.0/me?a=\\u0026\"",
            "\"https:\\/\\/graph.microsoft.com\\/v1.0\"",
            "\"text\"",
            "\"uploadUrl\":\"https://graph.microsoft.com/u\"",
            "é",
            "\"x@odata.deltaLink\":",
            "https://graph.microsoft.com/",
        ];
        let random = SeededRandom::new(4711);
        let below =
            |many: usize| usize::from(u16::from_le_bytes(random_bytes::<2>(&random as &dyn Random))) % many;
        let mut turned = 0;
        for number in 0..2_000 {
            let text: String = (0..below(24)).map(|_| PIECES[below(PIECES.len())]).collect();
            let expected = rewritten(text.as_bytes(), usize::MAX);
            turned += usize::from(expected != text.as_bytes());
            for size in 1..=8 {
                assert_eq!(
                    rewritten(text.as_bytes(), size),
                    expected,
                    "number {number}, pieces of {size}: {text}"
                );
            }
            // What was JSON is JSON, and the same but for its links.
            if serde_json::from_str::<serde_json::Value>(&text).is_ok() {
                assert!(serde_json::from_slice::<serde_json::Value>(&expected).is_ok(), "{text}");
            }
        }
        assert!(turned > 100, "{turned} had a link");
    }
}
