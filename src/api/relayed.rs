//! The path of a relayed request. What stands behind the base is the resource's, and is not read here.

use std::borrow::Cow;
use std::sync::LazyLock;

use memchr::memmem::Finder;
use percent_encoding::percent_decode_str;

use crate::callers::api_key::PresentedKey;
use crate::domain::handle;
use crate::domain::id::ConnectionKey;

/// The path of relayed requests, as tables spell it.
pub(super) const RELAY: &str = "/v1/apps/{app}/connections/{connection}/relay/{base}/{path}";

/// What a relayed request's URL names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Relayed {
    /// The connection.
    pub(super) key: ConnectionKey,
    /// The path as it was sent, up to the slash before the base's name.
    pub(super) here: String,
    /// The base's name, as it was sent.
    pub(super) base: String,
    /// What is behind it, as it was sent, from its slash on.
    pub(super) path: String,
    /// The query, as it was sent.
    pub(super) query: Option<String>,
}

/// The parts of a relayed request's path, as they were sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Split<'a> {
    /// The path of the connection.
    pub(super) connection: &'a str,
    /// The base's name.
    pub(super) base: &'a str,
    /// What is behind it, from its slash on.
    pub(super) path: &'a str,
}

impl<'a> Split<'a> {
    /// Splits a path. `None` if it is not one of a relayed request. The first `relay` behind a connection's
    /// name counts, so a name with such a part is written with `%2F`.
    pub(super) fn of(path: &'a str) -> Option<Self> {
        let behind_app = path.strip_prefix("/v1/apps/")?.split_once('/')?.1;
        let name = behind_app.strip_prefix("connections/")?;
        let (name, behind) = name.split_once("/relay/")?;
        let (base, _) = behind.split_once('/')?;
        let end = path.len() - behind.len() - "/relay/".len();
        (!name.is_empty()).then(|| Split { connection: &path[..end], base, path: &behind[base.len()..] })
    }
}

/// How an API key begins.
pub(super) static KEY: LazyLock<Finder<'static>> = LazyLock::new(|| Finder::new("twk_"));

/// Whether a text has an API key or a handle in it, escaped or not. (Ids of a resource may have a key's first
/// letters in them, so the whole form counts.)
pub(super) fn holds_key(text: &str) -> bool {
    let decoded = match memchr::memchr(b'%', text.as_bytes()) {
        None => Cow::Borrowed(text),
        Some(_) => percent_decode_str(text).decode_utf8_lossy(),
    };
    handle::is_in(&decoded)
        || KEY.find_iter(decoded.as_bytes()).any(|at| {
            let rest = &decoded[at..];
            let mut marks = rest.match_indices('_').map(|(at, _)| at);
            // The checksum stands behind the third mark.
            let end = marks.nth(2).and_then(|mark| rest.get(..mark + 7));
            end.is_some_and(|key| PresentedKey::parse(key).is_some())
        })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::callers::api_key::ApiKey;
    use crate::domain::id::CallerName;
    use crate::testkit::SeededRandom;

    #[test]
    fn the_first_relay_behind_a_name_counts() {
        for (path, split) in [
            (
                "/v1/apps/a/connections/c/relay/graph/v1.0/me",
                Some(("/v1/apps/a/connections/c", "graph", "/v1.0/me")),
            ),
            ("/v1/apps/a/connections/t/c/relay/graph/", Some(("/v1/apps/a/connections/t/c", "graph", "/"))),
            (
                "/v1/apps/a/connections/t%2Fc/relay/g/x/relay/y/token",
                Some(("/v1/apps/a/connections/t%2Fc", "g", "/x/relay/y/token")),
            ),
            ("/v1/apps/a/connections/relay/relay/g/x", Some(("/v1/apps/a/connections/relay", "g", "/x"))),
            ("/v1/apps/a/connections/c/relay//x", Some(("/v1/apps/a/connections/c", "", "/x"))),
            ("/v1/apps/a/connections/c/relay/graph", None),
            ("/v1/apps/a/connections/c/relay", None),
            ("/v1/apps/a/connections/c/token", None),
            ("/v1/apps/a/connections/relay/g/x", None),
            ("/v1/apps/a/connections//relay/g/x", None),
            ("/v1/apps/a/connections/c%2Frelay%2Fg/token", None),
            ("/v1/apps/a/connections/c/rel%61y/g/x", None),
            ("/msi/token", None),
        ] {
            let found = Split::of(path).map(|split| (split.connection, split.base, split.path));
            assert_eq!(found, split, "{path}");
        }
        assert!(Split::of(RELAY).is_some());
    }

    #[test]
    fn an_api_key_is_seen_and_an_id_that_begins_like_one_is_not() {
        let key = ApiKey::generate(&CallerName::parse("mail-sync").expect("a name"), &SeededRandom::new(7));
        let key = key.expose();
        for text in
            [key.to_owned(), format!("/v1.0/me/{key}/x"), format!("a={key}&b"), key.replace('_', "%5F")]
        {
            assert!(holds_key(&text), "{text}");
        }
        for text in ["/v1.0/me/messages/AAMktwk_AGI2", "twk_", "twk_a_b_c", &key[..key.len() - 1]] {
            assert!(!holds_key(text), "{text}");
        }
    }
}
