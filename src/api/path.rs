//! Reading a request's path and query, strictly: what is not understood whole is refused.

use percent_encoding::percent_decode_str;

use crate::domain::id::{AppName, ConnectionKey, ConnectionName};

/// A path's segments, percent-decoded. `None` for an empty or dot segment, a bad escape, or anything outside visible
/// ASCII once decoded: no such path is a route here.
pub fn segments(path: &str) -> Option<Vec<String>> {
    path.strip_prefix('/')?.split('/').map(segment).collect()
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
    (visible && !decoded.is_empty() && decoded != "." && decoded != "..").then_some(decoded)
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
pub fn connection(app: &str, rest: &[String]) -> Option<(ConnectionKey, Of)> {
    let (name, of) = match rest {
        [] => return None,
        [name @ .., last] if last == "token" && !name.is_empty() => (name, Of::Token),
        [name @ .., last] if last == "explain" && !name.is_empty() => (name, Of::Explain),
        name => (name, Of::Connection),
    };
    let connection = ConnectionName::parse(&name.join("/")).ok()?;
    Some((ConnectionKey { app: AppName::parse(app).ok()?, connection }, of))
}

/// A query's parameters. `Err` names one that stands twice (RFC 6749 §3.1, and no caller means that).
pub fn query(raw: Option<&str>) -> Result<Vec<(String, String)>, String> {
    let mut pairs: Vec<(String, String)> = Vec::new();
    for (name, value) in form_urlencoded::parse(raw.unwrap_or_default().as_bytes()) {
        if pairs.iter().any(|(known, _)| *known == name) {
            return Err(name.into_owned());
        }
        pairs.push((name.into_owned(), value.into_owned()));
    }
    Ok(pairs)
}

/// A parameter's value; empty counts as absent.
pub fn value<'a>(pairs: &'a [(String, String)], name: &str) -> Option<&'a str> {
    pairs
        .iter()
        .find(|(known, _)| known == name)
        .map(|(_, value)| value.as_str())
        .filter(|value| !value.is_empty())
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
                connection(app, rest).map(|(key, of)| (key.connection.to_string(), of))
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
    fn a_repeated_parameter_is_refused_by_name_and_an_empty_one_is_absent() {
        assert_eq!(query(Some("scope=a&scope=b")), Err("scope".to_owned()));
        let pairs = query(Some("scope=&min_ttl=60&x")).expect("pairs");
        assert_eq!((value(&pairs, "scope"), value(&pairs, "min_ttl")), (None, Some("60")));
    }
}
