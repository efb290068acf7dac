//! The one canonical form of a path.

use std::fmt::{self, Write as _};

use percent_encoding::percent_decode_str;

/// Most segments of a path. No path of Graph has half as many.
const MOST_SEGMENTS: usize = 64;

/// Segments of OData that begin with `$`, as far as they are part of what a path names. The others
/// (`$entity`, `$crossjoin(…)`, `$all`, `$root`, `$query`, …) name something else than the path says.
const SYSTEM: [&str; 5] = ["$batch", "$count", "$metadata", "$ref", "$value"];

/// How a type or a function begins that is named with its namespace: a cast.
const NAMESPACES: [&str; 2] = ["microsoft.", "graph."];

/// A path that can be read in one way only: decoded, with its keys as segments, such as
/// `/v1.0/users/4711/messages`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CanonicalPath(String);

/// Why a path is refused. The text continues a sentence that begins with the path.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PathFault {
    /// There is nothing behind the base.
    #[error("is empty")]
    Empty,
    /// It has too many segments.
    #[error("has more than {MOST_SEGMENTS} segments")]
    TooLong,
    /// `//`, or a slash at its end.
    #[error("has an empty segment (`//`, or a `/` at its end)")]
    EmptySegment,
    /// `.`, `..` and what readers take for them, plain or escaped.
    #[error("has a segment of dots, or one that ends in a dot or a space")]
    Dots,
    /// `%2f`
    #[error("has an escaped slash (%2F)")]
    EscapedSlash,
    /// `\` or `%5c`
    #[error("has a backslash")]
    Backslash,
    /// `%` without two hexadecimal digits.
    #[error("has a % without two hexadecimal digits")]
    Escape,
    /// `%25`, which another reader could decode once more.
    #[error("has an escaped percent sign (%25), which could be decoded twice")]
    EscapedTwice,
    /// `;`, plain or escaped.
    #[error("has a `;`, with which some readers begin a parameter")]
    Parameter,
    /// `?` or `#`, escaped.
    #[error("has an escaped `?` or `#`")]
    Separator,
    /// A control character, or NUL.
    #[error("has a control character")]
    Control,
    /// It is no UTF-8 once decoded.
    #[error("is not UTF-8 once decoded")]
    Utf8,
    /// A character that some readers take for a dot, a slash or another separator.
    #[error("has a character that some readers take for another one (a full-width or an invisible one)")]
    Lookalike,
    /// A character that must be escaped.
    #[error("has a character that must be escaped")]
    Raw,
    /// A segment with `$` that does not name a part of the path.
    #[error("has a segment with `$` that is none of $value, $count, $ref, $metadata and $batch")]
    System,
    /// `$batch` in another place than directly behind the version.
    #[error("has `$batch` in another place than /v1.0/$batch")]
    Batch,
    /// A key or a call that does not end, or goes on behind its end.
    #[error("has a key or a call whose quotes or parentheses are not in pairs, or which is empty")]
    Call,
    /// An argument that stands in the query.
    #[error("has a call with a parameter alias (`@…`)")]
    Alias,
}

impl CanonicalPath {
    /// Reads a path as it was sent: percent-encoded, beginning with a slash.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(raw: &str) -> Result<Self, PathFault> {
        let rest = raw.strip_prefix('/').filter(|rest| !rest.is_empty()).ok_or(PathFault::Empty)?;
        let mut path = String::with_capacity(raw.len());
        let mut count = 0;
        for segment in rest.split('/') {
            let decoded = decoded(segment)?;
            for part in parts(&decoded)? {
                check(&part)?;
                count += 1;
                if count > MOST_SEGMENTS {
                    return Err(PathFault::TooLong);
                }
                path.push('/');
                path.push_str(&part);
            }
        }
        let path = CanonicalPath(path);
        let is_misplaced = path.segments().enumerate().any(|(at, part)| part == "$batch" && at != 1);
        if is_misplaced || (path.segments().any(|part| part == "$batch") && !path.is_batch()) {
            return Err(PathFault::Batch);
        }
        Ok(path)
    }

    /// Returns its text, decoded.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Iterates over its segments.
    pub fn segments(&self) -> impl Iterator<Item = &str> {
        self.0.split('/').skip(1)
    }

    /// Returns its first segment, which is the version at Graph.
    pub fn version(&self) -> &str {
        self.segments().next().unwrap_or_default()
    }

    /// Returns true for `/{version}/$batch`.
    pub fn is_batch(&self) -> bool {
        let mut segments = self.segments().skip(1);
        segments.next() == Some("$batch") && segments.next().is_none()
    }

    /// Returns true for a path that ends in this segment.
    pub(super) fn ends_in(&self, segment: &str) -> bool {
        self.segments().last() == Some(segment)
    }

    /// Returns the path of a navigation from here, such as `attachments` or `event/calendar`.
    pub(super) fn navigated(&self, navigation: &str) -> CanonicalPath {
        CanonicalPath(format!("{}/{navigation}", self.0))
    }

    /// Returns the end of its last cast's namespace, in bytes; 0 without a cast. A prefix that is shorter
    /// does not name that cast.
    pub(super) fn cast_named_at(&self) -> usize {
        cast_named_at(&self.0)
    }

    /// Returns it as it is sent: percent-encoded in the one way.
    pub fn encoded(&self) -> String {
        let mut text = String::with_capacity(self.0.len() + 8);
        for byte in self.0.bytes() {
            push_encoded(&mut text, byte, is_plain_in_path);
        }
        text
    }
}

impl fmt::Display for CanonicalPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Returns the same for the text of a path, or for what a path begins with.
pub(super) fn cast_named_at(path: &str) -> usize {
    let (mut start, mut named_at) = (0, 0);
    for segment in path.split('/').skip(1) {
        start += 1;
        if let Some(namespace) = NAMESPACES.iter().find(|namespace| begins_with(segment, namespace)) {
            named_at = start + namespace.len();
        }
        start += segment.len();
    }
    named_at
}

/// Writes a byte as it is if it stands for itself, escaped otherwise.
pub(super) fn push_encoded(text: &mut String, byte: u8, is_plain: impl Fn(u8) -> bool) {
    if is_plain(byte) {
        text.push(char::from(byte));
    } else {
        let _ = write!(text, "%{byte:02X}");
    }
}

fn is_plain_in_path(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"/-._~$'(),=:@!*".contains(&byte)
}

fn begins_with(text: &str, start: &str) -> bool {
    text.get(..start.len()).is_some_and(|begin| begin.eq_ignore_ascii_case(start))
}

/// Decodes a segment, once.
fn decoded(raw: &str) -> Result<String, PathFault> {
    let bytes = raw.as_bytes();
    for (at, byte) in bytes.iter().enumerate() {
        let is_digit = |at: usize| bytes.get(at).is_some_and(u8::is_ascii_hexdigit);
        match byte {
            b'%' if !(is_digit(at + 1) && is_digit(at + 2)) => return Err(PathFault::Escape),
            b'\\' => return Err(PathFault::Backslash),
            b';' => return Err(PathFault::Parameter),
            b'?' | b'#' => return Err(PathFault::Separator),
            byte if !byte.is_ascii_graphic() => return Err(PathFault::Raw),
            _ => {}
        }
    }
    let decoded = percent_decode_str(raw).decode_utf8().map_err(|_| PathFault::Utf8)?;
    for character in decoded.chars() {
        let fault = match character {
            '/' => PathFault::EscapedSlash,
            '\\' => PathFault::Backslash,
            '%' => PathFault::EscapedTwice,
            ';' => PathFault::Parameter,
            '?' | '#' => PathFault::Separator,
            character if character.is_control() => PathFault::Control,
            character if is_lookalike(character) => PathFault::Lookalike,
            _ => continue,
        };
        return Err(fault);
    }
    Ok(decoded.into_owned())
}

/// Whether a reader may see another character in it, or none: what compatibility forms turn into dots,
/// slashes and separators, and what is not seen.
fn is_lookalike(character: char) -> bool {
    matches!(character,
        '\u{00AD}' | '\u{034F}' | '\u{061C}' | '\u{180E}' // invisible
        | '\u{200B}'..='\u{200F}' | '\u{2028}'..='\u{202E}' | '\u{2060}'..='\u{206F}' | '\u{FEFF}'
        | '\u{FFF0}'..='\u{FFFF}'
        | '\u{2024}'..='\u{2026}' | '\u{FE19}' | '\u{FE30}' // dots
        | '\u{2044}' | '\u{2215}' | '\u{2216}' | '\u{29F5}' | '\u{29F8}' | '\u{29F9}' // slashes
        | '\u{2100}' | '\u{2101}' | '\u{2105}' | '\u{2106}' // ℀, which is a/c
        | '\u{FE50}'..='\u{FE6F}' | '\u{FF00}'..='\u{FFEF}' // small and full-width forms
        | '\u{E0000}'..='\u{E0FFF}')
}

/// Splits a key off its collection: `users('id')` is `users` and `id`. A call with named arguments stays
/// whole.
fn parts(segment: &str) -> Result<Vec<String>, PathFault> {
    if segment.is_empty() {
        return Err(PathFault::EmptySegment);
    }
    let whole = || Ok(vec![segment.to_owned()]);
    let Some((name, rest)) = segment.split_once('(') else { return whole() };
    if !is_identifier(name) {
        return whole();
    }
    let inner = rest.strip_suffix(')').ok_or(PathFault::Call)?;
    if let Some(quoted) = inner.strip_prefix('\'') {
        let quoted = quoted.strip_suffix('\'').ok_or(PathFault::Call)?;
        let key = quoted.replace("''", "\u{0}");
        if key.is_empty() || key.contains('\'') {
            return Err(PathFault::Call);
        }
        let key = key.replace('\u{0}', "'");
        // (It would be another kind of segment than a key.)
        return if key.starts_with('$') || key.contains(['(', ')']) {
            Err(PathFault::Call)
        } else {
            Ok(vec![name.to_owned(), key])
        };
    }
    check_call(inner)?;
    whole()
}

fn is_identifier(name: &str) -> bool {
    let begins = name.starts_with(|first: char| first.is_ascii_alphabetic() || first == '_' || first == '$');
    begins
        && name
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'.' || byte == b'$')
}

/// Checks a call's arguments: pairs of quotes, no parentheses and no alias outside of them.
fn check_call(inner: &str) -> Result<(), PathFault> {
    let mut is_quoted = false;
    for character in inner.chars() {
        match character {
            '\'' => is_quoted = !is_quoted,
            '(' | ')' if !is_quoted => return Err(PathFault::Call),
            '@' if !is_quoted => return Err(PathFault::Alias),
            _ => {}
        }
    }
    if is_quoted { Err(PathFault::Call) } else { Ok(()) }
}

/// Checks a segment of the canonical form.
fn check(segment: &str) -> Result<(), PathFault> {
    if segment.is_empty() {
        return Err(PathFault::EmptySegment);
    }
    // (Some readers drop dots and spaces at the end of a name.)
    if segment.ends_with(['.', ' ']) {
        return Err(PathFault::Dots);
    }
    if segment.starts_with('$') && !SYSTEM.contains(&segment) {
        return Err(PathFault::System);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(raw: &str) -> Result<String, PathFault> {
        CanonicalPath::parse(raw).map(|path| path.as_str().to_owned())
    }

    /// The table of docs/relay.md.
    #[test]
    fn what_can_be_read_in_two_ways_is_refused() {
        use PathFault::*;
        for (raw, fault) in [
            ("", Empty),
            ("/", Empty),
            ("v1.0/me", Empty),
            ("/v1.0//me", EmptySegment),
            ("/v1.0/me/", EmptySegment),
            ("//v1.0/me", EmptySegment),
            ("/v1.0/me/messages/../contacts", Dots),
            ("/v1.0/me/./contacts", Dots),
            ("/v1.0/me/messages/%2e%2e/contacts", Dots),
            ("/v1.0/me/messages/%2E./contacts", Dots),
            ("/v1.0/me/messages/.%2e/contacts", Dots),
            ("/v1.0/me/messages/.../contacts", Dots),
            ("/v1.0/me/messages/..%20/contacts", Dots),
            ("/v1.0/me/contacts.", Dots),
            ("/v1.0/me/contacts%20", Dots),
            ("/v1.0/me/messages('..')/contacts", Dots),
            ("/v1.0/me/messages%28'..'%29/contacts", Dots),
            ("/v1.0/me/messages(%27.%27)/contacts", Dots),
            ("/v1.0/me/messages%2f..%2fcontacts", EscapedSlash),
            ("/v1.0/me/messages%2F%2E%2E%2Fcontacts", EscapedSlash),
            ("/v1.0/me/messages\\..\\contacts", Backslash),
            ("/v1.0/me/messages%5c..%5Ccontacts", Backslash),
            ("/v1.0/me/messages/%252e%252e/contacts", EscapedTwice),
            ("/v1.0/me/messages/%25%32%65/contacts", EscapedTwice),
            ("/v1.0/me/%2563ontacts", EscapedTwice),
            ("/v1.0/me/%25u0063ontacts", EscapedTwice),
            ("/v1.0/me/%2", Escape),
            ("/v1.0/me/%zz", Escape),
            ("/v1.0/me/%u0063ontacts", Escape),
            ("/v1.0/me/messages;x=1/contacts", Parameter),
            ("/v1.0/me/messages/..;/contacts", Parameter),
            ("/v1.0/me/messages%3b", Parameter),
            ("/v1.0/me/messages%3f$expand=x", Separator),
            ("/v1.0/me/contacts%23", Separator),
            ("/v1.0/me/contacts#", Separator),
            ("/v1.0/me/contacts%00", Control),
            ("/v1.0/me/%0d%0aX:", Control),
            ("/v1.0/me/%7f", Control),
            ("/v1.0/me/%c2%85", Control),
            ("/v1.0/me/%c0%ae%c0%ae/contacts", Utf8),
            ("/v1.0/me/%ff", Utf8),
            ("/v1.0/me/%ed%a0%80", Utf8),
            ("/v1.0/me/\u{fc}", Raw),
            ("/v1.0/me/a b", Raw),
            ("/v1.0/me/messages/%ef%bc%8e%ef%bc%8e/contacts", Lookalike),
            ("/v1.0/me/messages%ef%bc%8fcontacts", Lookalike),
            ("/v1.0/me/messages%e2%88%95contacts", Lookalike),
            ("/v1.0/me/%e2%80%8bcontacts", Lookalike),
            ("/v1.0/me/%e2%84%80", Lookalike),
            ("/v1.0/$entity", System),
            ("/v1.0/$crossjoin(users,groups)", System),
            ("/v1.0/$all", System),
            ("/v1.0/me/messages/$query", System),
            ("/v1.0/me/messages/%24filter(@a)", Alias),
            ("/v1.0/me/messages/$root/me", System),
            ("/v1.0/$Batch", System),
            ("/v1.0/me/messages('$value')", Call),
            ("/$batch", Batch),
            ("/v1.0/me/$batch", Batch),
            ("/v1.0/$batch/me", Batch),
            ("/v1.0/$batch/$batch", Batch),
            ("/v1.0/users('", Call),
            ("/v1.0/users('')", Call),
            ("/v1.0/users('a')b", Call),
            ("/v1.0/users('a'b')", Call),
            ("/v1.0/users('a')('b')", Call),
            ("/v1.0/users(a)(b)", Call),
            ("/v1.0/users(x='a)", Call),
            ("/v1.0/users(@p)", Alias),
            ("/v1.0/getByPath(path=@p)", Alias),
        ] {
            assert_eq!(read(raw), Err(fault), "{raw}");
        }
        let long = "/a".repeat(MOST_SEGMENTS);
        assert!(read(&long).is_ok());
        assert_eq!(read(&format!("{long}/a")), Err(TooLong));
    }

    #[test]
    fn what_means_the_same_is_one_path() {
        for (raw, path) in [
            ("/v1.0/me/messages", "/v1.0/me/messages"),
            ("/v1.0/me/m%65ss%61ges", "/v1.0/me/messages"),
            ("/v1.0/users('4711')/messages", "/v1.0/users/4711/messages"),
            ("/v1.0/users%28%274711%27%29/messages", "/v1.0/users/4711/messages"),
            ("/v1.0/users('O''Neil')", "/v1.0/users/O'Neil"),
            ("/v1.0/users/alice@contoso.example", "/v1.0/users/alice@contoso.example"),
            ("/v1.0/me/mailFolders('inbox')/messages/delta()", "/v1.0/me/mailFolders/inbox/messages/delta()"),
            ("/v1.0/me/drive/root/search(q='a%20b')", "/v1.0/me/drive/root/search(q='a b')"),
            (
                "/v1.0/me/drive/root:/Berichte/%C3%9Cbersicht%20(1).txt:",
                "/v1.0/me/drive/root:/Berichte/Übersicht (1).txt:",
            ),
            ("/v1.0/$batch", "/v1.0/$batch"),
            ("/v1.0/me/messages/AAMk=/$value", "/v1.0/me/messages/AAMk=/$value"),
            ("/v1.0/directoryObjects(aaaa-bb)", "/v1.0/directoryObjects(aaaa-bb)"),
        ] {
            assert_eq!(read(raw).as_deref(), Ok(path), "{raw}");
        }
    }

    #[test]
    fn what_is_sent_is_read_as_the_same() {
        for (raw, sent) in [
            ("/v1.0/users('a')/messages", "/v1.0/users/a/messages"),
            ("/v1.0/me/%C3%BC%20%2B%26", "/v1.0/me/%C3%BC%20%2B%26"),
            ("/v1.0/me/a+b&c", "/v1.0/me/a%2Bb%26c"),
            ("/v1.0/search(q='x')", "/v1.0/search(q='x')"),
        ] {
            let path = CanonicalPath::parse(raw).expect("a path");
            assert_eq!(path.encoded(), sent, "{raw}");
            assert_eq!(CanonicalPath::parse(sent).as_ref(), Ok(&path), "{raw}");
        }
    }

    #[test]
    fn a_batch_is_in_one_place_only() {
        let is_batch = |raw: &str| CanonicalPath::parse(raw).expect("a path").is_batch();
        assert!(is_batch("/v1.0/$batch") && is_batch("/beta/%24batch"));
        assert!(!is_batch("/v1.0/batch") && !is_batch("/v1.0/me"));
    }
}
