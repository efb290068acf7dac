//! Reading a request's path and query, strictly: what is not understood whole is refused.

use percent_encoding::percent_decode_str;

use crate::domain::id::{AppName, ConnectionKey, ConnectionName, InvalidName};

/// More parts than any path of ours has: a name of 256 characters has 128 at most, and eight stand around it.
const MOST_SEGMENTS: usize = 160;

/// A path's segments, percent-decoded. `None` for an empty or dot segment, a bad escape, or anything outside visible
/// ASCII once decoded: no such path is a route here.
pub fn segments(path: &str) -> Option<Vec<String>> {
    split(path)?.map(|raw| segment(raw).filter(|text| !is_dots(text))).collect()
}

/// The same for operators, who may have to name a connection from before some names were ruled out: dots that are escaped
/// are a name and no way up.
pub fn segments_of_operators(path: &str) -> Option<Vec<String>> {
    split(path)?.map(|raw| segment(raw).filter(|_| !is_dots(raw))).collect()
}

fn split(path: &str) -> Option<std::str::Split<'_, char>> {
    let rest = path.strip_prefix('/')?;
    let is_short = rest.bytes().filter(|byte| *byte == b'/').count() < MOST_SEGMENTS;
    is_short.then(|| rest.split('/'))
}

fn is_dots(text: &str) -> bool {
    matches!(text, "." | "..")
}

fn segment(raw: &str) -> Option<String> {
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
    let decoded = percent_decode_str(raw).decode_utf8().ok()?.into_owned();
    let visible = decoded.bytes().all(|byte| (0x21..=0x7e).contains(&byte));
    (visible && !decoded.is_empty()).then_some(decoded)
}

/// What a path below `/v1/apps/{app}/connections/` names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Of {
    /// The connection itself.
    Connection,
    /// `…/token`.
    Token,
    /// `…/explain`.
    Explain,
}

/// Reads `{connection}[/token|/explain]`: slashes in a name may be raw or `%2F`; the last segment is the API's when it
/// is one of its words and something stands before it.
pub fn connection(app: &str, rest: &[String]) -> Result<(ConnectionKey, Of), NoConnection> {
    named(app, rest, ConnectionName::parse)
}

/// The same for operators, who may name one from before some names were ruled out.
pub fn connection_of_operators(app: &str, rest: &[String]) -> Result<(ConnectionKey, Of), NoConnection> {
    named(app, rest, ConnectionName::stored)
}

/// Why a path below `connections/` names none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NoConnection {
    /// No app has such a name.
    App,
    /// No connection can have such a name.
    Name(InvalidName),
}

fn named(
    app: &str,
    rest: &[String],
    read: impl Fn(&str) -> Result<ConnectionName, InvalidName>,
) -> Result<(ConnectionKey, Of), NoConnection> {
    let (name, of) = match rest {
        [name @ .., last] if last == "token" && !name.is_empty() => (name, Of::Token),
        [name @ .., last] if last == "explain" && !name.is_empty() => (name, Of::Explain),
        name => (name, Of::Connection),
    };
    let app = AppName::parse(app).map_err(|_| NoConnection::App)?;
    let connection = read(&name.join("/")).map_err(NoConnection::Name)?;
    Ok((ConnectionKey { app, connection }, of))
}

/// Of a path that [`segments`] does not read: why not, where it is meant to name a connection.
pub fn unreadable_name(path: &str) -> Option<InvalidName> {
    let mut rest = path.strip_prefix("/v1/apps/")?.splitn(3, '/').skip(1);
    let name = match (rest.next(), rest.next()) {
        (Some("connections"), Some(name)) if !name.is_empty() => name,
        _ => return None,
    };
    let name = ["/token", "/explain"].iter().find_map(|word| name.strip_suffix(word)).unwrap_or(name);
    let decoded = percent_decode_str(name).decode_utf8_lossy();
    // A name that would do, in an escape that does not, is one with a `%` in it.
    ConnectionName::parse(&decoded).err().or_else(|| ConnectionName::parse(name).err())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(path: &str) -> Option<(String, Of)> {
        let segments = segments(path)?;
        match &segments[..] {
            [v1, apps, app, connections, rest @ ..]
                if v1 == "v1" && apps == "apps" && connections == "connections" =>
            {
                connection(app, rest).ok().map(|(key, of)| (key.connection.to_string(), of))
            }
            _ => None,
        }
    }

    #[test]
    fn names_with_slashes_are_understood_raw_and_escaped() {
        let base = "/v1/apps/outlook/connections";
        let cases = [
            ("user-1", "user-1", Of::Connection),
            ("user-1/token", "user-1", Of::Token),
            ("team-a%2Fuser-7/token", "team-a/user-7", Of::Token),
            ("team-a/user-7/token", "team-a/user-7", Of::Token),
            ("team-a/user-7/explain", "team-a/user-7", Of::Explain),
            ("a%2Ftoken/token", "a/token", Of::Token),
            ("alice@contoso.com/token", "alice@contoso.com", Of::Token),
            ("alice%40contoso.com", "alice@contoso.com", Of::Connection),
        ];
        for (tail, name, of) in cases {
            assert_eq!(read(&format!("{base}/{tail}")), Some((name.to_owned(), of)), "{tail}");
        }
    }

    #[test]
    fn paths_that_are_not_plain_are_no_routes() {
        let base = "/v1/apps/outlook/connections";
        for tail in [
            "",
            "/",
            "a//token",
            "a/../b",
            "a/./b",
            "a%2",
            "a%zz",
            "a%00",
            "a%20b",
            "a;b/token",
            "a/%2e%2e/b",
            "a\\b",
            "%C3%BC",
            "a/token/",
        ] {
            assert_eq!(read(&format!("{base}/{tail}")), None, "{tail:?}");
        }
        assert_eq!(read("/V1/apps/outlook/connections/a"), None);
        assert_eq!(read("/v1/apps/Outlook/connections/a"), None);
    }

    #[test]
    fn a_name_that_cannot_be_is_told_from_a_path_that_is_not_there() {
        let base = "/v1/apps/outlook/connections";
        for tail in
            ["..", "a/../b/token", "%2e%2e/token", "a%20b/token", "%C3%BC", "a//token", "a%zz/token", "a;b"]
        {
            let path = format!("{base}/{tail}");
            assert!(segments(&path).is_none() && unreadable_name(&path).is_some(), "{path}");
        }
        for path in [base.to_owned(), format!("{base}/"), "/v1/apps/outlook/..".to_owned(), "/..".to_owned()]
        {
            assert_eq!(unreadable_name(&path), None, "{path}");
        }
    }

    #[test]
    fn an_operator_names_what_nobody_else_can() {
        let read = |path: &str| {
            let segments = segments_of_operators(path)?;
            connection_of_operators("outlook", &segments[1..]).ok().map(|(key, _)| key.connection.to_string())
        };
        assert_eq!(read("/connections/%2E%2E").as_deref(), Some(".."));
        assert_eq!(read("/connections/a%2F..%2Fb").as_deref(), Some("a/../b"));
        assert_eq!(read("/connections/%2Flead").as_deref(), Some("/lead"));
        assert_eq!((read("/connections/.."), read("/connections/a/../b")), (None, None));
    }

    #[test]
    fn a_path_of_many_parts_is_no_route_and_the_longest_name_is_one() {
        let base = "/v1/apps/outlook/connections";
        let longest = format!("{}a", "a/".repeat(127));
        assert_eq!(read(&format!("{base}/{longest}/token")), Some((longest, Of::Token)));
        let path = format!("{base}/{}", "a/".repeat(MOST_SEGMENTS));
        assert!(segments(&path).is_none() && segments_of_operators(&path).is_none());
        assert!(matches!(unreadable_name(&path), Some(InvalidName::Length { .. })));
    }
}
