//! Links of an answer that point below a base lead back through the relay.
//!
//! An answer in JSON is rewritten as it passes, without being kept: only the value of a link's name is looked
//! at, and only as long as a URL may be. What a user wrote stands under other names, and stays as it is.

use super::base::Base;

/// Names of links, alone or behind a property's name (`messages@odata.nextLink`).
const ANNOTATIONS: [&str; 8] = [
    "@odata.nextLink",
    "@odata.deltaLink",
    "@odata.id",
    "@odata.context",
    "@odata.editLink",
    "@odata.readLink",
    "@odata.navigationLink",
    "@odata.associationLink",
];
/// Names of links that are properties.
const PROPERTIES: [&str; 1] = ["uploadUrl"];
/// The name of a field that is a link, in the answers within a batch.
const LOCATION: &str = "Location";
/// How many of a name's last bytes are kept: more than any of these has.
const NAME: usize = 32;
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

/// Whether a member of this name is a link, in a batch's answer or in another.
pub(super) fn is_name_of_link(name: &[u8], is_batch: bool) -> bool {
    ANNOTATIONS.iter().any(|annotation| name.ends_with(annotation.as_bytes()))
        || PROPERTIES.iter().any(|property| name == property.as_bytes())
        || is_batch && name.eq_ignore_ascii_case(LOCATION.as_bytes())
}

/// Rewrites the links of one JSON text, which comes in pieces.
pub struct Rewriter {
    links: std::sync::Arc<Links>,
    is_batch: bool,
    state: State,
    /// The last string, or the one that is read, was a link's name.
    is_name: bool,
    /// Its last bytes, decoded as far as names need it, and how many it has.
    name: [u8; NAME],
    length: usize,
}

/// Where in the text it is.
#[derive(Debug, PartialEq, Eq)]
enum State {
    /// Between strings.
    Between,
    /// Behind a link's name and its colon.
    BeforeLink,
    /// In a string that is no link, behind a `\\` or not.
    Text { is_escaped: bool },
    /// Behind `\u` in it, with so many digits to come.
    Unicode { left: u8, value: u16 },
    /// In a link, which is kept.
    Link { kept: Vec<u8>, is_escaped: bool },
}

impl Rewriter {
    /// Begins a text. In a batch's answer `Location` is a link, too.
    pub fn new(links: std::sync::Arc<Links>, is_batch: bool) -> Self {
        Rewriter { links, is_batch, state: State::Between, is_name: false, name: [0; NAME], length: 0 }
    }

    /// Takes a piece, and appends what is to be sent of all that came.
    pub fn take(&mut self, piece: &[u8], out: &mut Vec<u8>) {
        let mut at = 0;
        while let Some(byte) = piece.get(at).copied() {
            match &mut self.state {
                State::Between => {
                    // (What is no string and no colon between two strings makes the first no name.)
                    let end = piece[at..]
                        .iter()
                        .position(|byte| matches!(byte, b'"' | b':'))
                        .map_or(piece.len(), |to| at + to);
                    self.is_name &= piece[at..end].iter().all(u8::is_ascii_whitespace);
                    out.extend_from_slice(&piece[at..end]);
                    at = end;
                    match piece.get(at) {
                        Some(b':') => {
                            out.push(b':');
                            self.state = if self.is_name { State::BeforeLink } else { State::Between };
                            self.is_name = false;
                            at += 1;
                        }
                        Some(_) => {
                            out.push(b'"');
                            self.begin_text();
                            at += 1;
                        }
                        None => {}
                    }
                    continue;
                }
                State::BeforeLink if byte == b'"' => {
                    self.state = State::Link { kept: Vec::new(), is_escaped: false };
                }
                State::BeforeLink if byte.is_ascii_whitespace() => out.push(byte),
                // Another value: it is none.
                State::BeforeLink => {
                    self.state = State::Between;
                    continue;
                }
                State::Text { is_escaped: false } => {
                    let end = memchr::memchr2(b'"', b'\\', &piece[at..]).map_or(piece.len(), |to| at + to);
                    out.extend_from_slice(&piece[at..end]);
                    self.names(&piece[at..end]);
                    at = end;
                    let Some(byte) = piece.get(at).copied() else { continue };
                    out.push(byte);
                    at += 1;
                    if byte == b'"' {
                        self.is_name = self.is_link_s_name();
                        self.state = State::Between;
                    } else {
                        self.state = State::Text { is_escaped: true };
                    }
                    continue;
                }
                State::Text { .. } => {
                    out.push(byte);
                    self.state = match byte {
                        b'u' => State::Unicode { left: 4, value: 0 },
                        byte => {
                            let meant = match byte {
                                b'"' | b'\\' | b'/' => byte,
                                _ => 0,
                            };
                            self.names(&[meant]);
                            State::Text { is_escaped: false }
                        }
                    };
                }
                State::Unicode { left, value } => match char::from(byte).to_digit(16) {
                    Some(digit) => {
                        out.push(byte);
                        *value = (*value << 4) | u16::try_from(digit).unwrap_or_default();
                        *left -= 1;
                        if *left == 0 {
                            let meant = u8::try_from(*value).ok().filter(u8::is_ascii).unwrap_or_default();
                            self.state = State::Text { is_escaped: false };
                            self.names(&[meant]);
                        }
                    }
                    // (No JSON: it is read on as text.)
                    None => {
                        self.state = State::Text { is_escaped: false };
                        continue;
                    }
                },
                State::Link { kept, is_escaped } => {
                    if byte == b'"' && !*is_escaped {
                        let kept = std::mem::take(kept);
                        self.state = State::Between;
                        self.is_name = false;
                        self.push_link(&kept, out);
                    } else {
                        kept.push(byte);
                        *is_escaped = byte == b'\\' && !*is_escaped;
                        // Too long for a URL: it passes as it is.
                        if kept.len() > LONGEST {
                            out.push(b'"');
                            out.extend_from_slice(kept);
                            let is_escaped = *is_escaped;
                            self.begin_text();
                            self.names(&[0]);
                            self.state = State::Text { is_escaped };
                        }
                    }
                }
            }
            at += 1;
        }
    }

    /// Ends the text, and appends the rest of what came.
    pub fn end(self, out: &mut Vec<u8>) {
        if let State::Link { kept, .. } = self.state {
            out.push(b'"');
            out.extend_from_slice(&kept);
        }
    }

    fn begin_text(&mut self) {
        self.state = State::Text { is_escaped: false };
        self.length = 0;
    }

    /// Notes bytes of a string, of which the last may be a name's.
    fn names(&mut self, bytes: &[u8]) {
        let last = &bytes[bytes.len().saturating_sub(NAME)..];
        self.name.copy_within(last.len().., 0);
        self.name[NAME - last.len()..].copy_from_slice(last);
        self.length = self.length.saturating_add(bytes.len());
    }

    fn is_link_s_name(&self) -> bool {
        // (What has more bytes than are kept is none of the names that count as a whole: none is so long.)
        is_name_of_link(&self.name[NAME - self.length.min(NAME)..], self.is_batch)
    }

    fn push_link(&self, kept: &[u8], out: &mut Vec<u8>) {
        let mut quoted = Vec::with_capacity(kept.len() + 2);
        quoted.push(b'"');
        quoted.extend_from_slice(kept);
        quoted.push(b'"');
        let url: Option<String> = serde_json::from_slice(&quoted).ok();
        match url.and_then(|url| self.links.turned(&url)) {
            Some(turned) => serde_json::to_writer(out, &turned).expect("text is plain JSON"),
            None => out.extend_from_slice(&quoted),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::domain::random::{Random, random_bytes};
    use crate::testkit::SeededRandom;

    fn links() -> Arc<Links> {
        let base = |name, url| Base::parse(name, url).expect("a base");
        let bases =
            vec![base("graph", "https://graph.microsoft.com"), base("other", "https://a.example/api")];
        Arc::new(Links::new(bases, "http://here/relay/".to_owned()))
    }

    /// The text rewritten, in pieces of this size.
    fn rewritten(text: &[u8], size: usize) -> Vec<u8> {
        let mut rewriter = Rewriter::new(links(), false);
        let mut out = Vec::new();
        text.chunks(size.max(1)).for_each(|piece| rewriter.take(piece, &mut out));
        rewriter.end(&mut out);
        out
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
            // Escapes, in a name and in a value.
            (
                r#"{"\u0040odata.nextLink":"https:\/\/graph.microsoft.com\/v1.0\/x?a=1\u0026b=\"2\""}"#
                    .to_owned(),
                r#"{"\u0040odata.nextLink":"http://here/relay/graph/v1.0/x?a=1&b=\"2\""}"#.to_owned(),
            ),
        ] {
            assert_eq!(whole(&text), expected, "{text}");
        }
        for same in [
            format!(r#"{{"subject":"{G}","body":{{"content":"see \"@odata.nextLink\":\"{G}\""}}}}"#),
            format!(r#"{{"nextLink":"{G}","x@odata.nextLinks":"{G}","myuploadUrl":"{G}","Location":"{G}"}}"#),
            format!(r#"["@odata.nextLink","{G}"]"#),
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

    #[test]
    fn fields_of_answers_within_a_batch_are_links_too() {
        let text = r#"{"responses":[{"id":"1","headers":{"Location":"https://graph.microsoft.com/a"}}]}"#;
        let mut rewriter = Rewriter::new(links(), true);
        let mut out = Vec::new();
        rewriter.take(text.as_bytes(), &mut out);
        rewriter.end(&mut out);
        assert!(String::from_utf8_lossy(&out).contains(r#""Location":"http://here/relay/graph/a""#));
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
