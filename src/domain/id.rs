//! Names and identifiers. Each has its own type, so that they cannot be swapped.

use std::borrow::{Borrow, Cow};
use std::fmt;
use std::sync::Arc;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Mistake in a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InvalidName {
    /// Shorter or longer than allowed.
    #[error("must be 1 to {max} characters long")]
    Length {
        /// The most characters allowed.
        max: usize,
    },
    /// Holds a character outside the allowed set.
    #[error("may hold only {allowed}")]
    Character {
        /// The allowed set in words.
        allowed: &'static str,
    },
    /// Begins with a hyphen, like a command-line option.
    #[error("must begin with a letter or digit")]
    First,
    /// A part between slashes is empty, `.` or `..`.
    #[error("must have no part between slashes that is empty, `.` or `..`")]
    Part,
}

macro_rules! name {
    ($(#[$doc:meta])* $name:ident, $max:literal, $allowed:literal, $check:expr, $first:expr) => {
        name!($(#[$doc])* $name, $max, $allowed, $check, $first, parse, "Parses a name.");
    };
    (
        $(#[$doc:meta])* $name:ident, $max:literal, $allowed:literal, $check:expr, $first:expr, $parse:ident,
        $parse_doc:literal
    ) => {
        $(#[$doc])*
        ///
        /// Clones share one text.
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(Arc<str>);

        impl $name {
            #[doc = $parse_doc]
            pub fn $parse(text: &str) -> Result<Self, InvalidName> {
                $name::check(text)?;
                Ok($name(text.into()))
            }

            /// Says whether a text is such a name, without making one.
            pub fn check(text: &str) -> Result<(), InvalidName> {
                if text.is_empty() || text.len() > $max {
                    return Err(InvalidName::Length { max: $max });
                }
                let allowed: fn(u8) -> bool = $check;
                if !text.bytes().all(allowed) {
                    return Err(InvalidName::Character { allowed: $allowed });
                }
                let may_begin: fn(u8) -> bool = $first;
                if !text.bytes().next().is_some_and(may_begin) {
                    return Err(InvalidName::First);
                }
                Ok(())
            }

            /// The name as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(&self.0)
            }
        }

        /// Names in documents obey the same grammar.
        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = Cow::<str>::deserialize(deserializer)?;
                $name::$parse(&text).map_err(|invalid| D::Error::custom(format!("a name {invalid}")))
            }
        }

        /// So that a map by name is asked with text.
        impl Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

name!(
    /// The name of one registered application, as in `[apps.NAME]`.
    AppName,
    63,
    "a-z 0-9 -",
    |byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-'),
    |first| first != b'-'
);
name!(
    /// The name of one internal service, as in `[callers.NAME]`.
    CallerName,
    63,
    "a-z 0-9 -",
    |byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-'),
    |first| first != b'-'
);
name!(
    /// The caller's own name for one connection; case-sensitive.
    ConnectionName,
    256,
    "A-Z a-z 0-9 . _ @ : / -",
    |byte| matches!(byte, b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'.' | b'_' | b'@' | b':' | b'/' | b'-'),
    |_| true,
    stored,
    "Parses a name that is in use already: from a store, a journal or an operator. It may be older than the \
     checks of [`parse`](Self::parse). Such a connection can only be listed and deleted."
);

impl ConnectionName {
    /// Parses a name. Clients and proxies remove `.`, `..` and empty parts from a path before it arrives, so
    /// no name contains them.
    pub fn parse(text: &str) -> Result<Self, InvalidName> {
        let name = ConnectionName::stored(text)?;
        match text.split('/').any(|part| matches!(part, "" | "." | "..")) {
            true => Err(InvalidName::Part),
            false => Ok(name),
        }
    }
}

/// An unguessable identifier that we made for a connect or admin consent session. Knowing it is as good as
/// holding the link, so it has neither `Display` nor `Serialize`, and its `Debug` shows nothing. Logs and
/// audit use a `telemetry::session_mark` instead:
/// ```compile_fail
/// fn printed(id: &tokenward::domain::id::SessionId) -> String { id.to_string() }
/// ```
/// ```compile_fail
/// fn logged(id: &tokenward::domain::id::SessionId) -> serde_json::Value { serde_json::json!(id) }
/// ```
/// Its text is only available by name:
/// ```
/// fn link(id: &tokenward::domain::id::SessionId) -> String { format!("/connect/{}", id.expose()) }
/// ```
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SessionId(Box<str>);

impl SessionId {
    const MAX: usize = 64;
    /// Digits of its SHA-256 by which log and audit name a session: in one of thirty million cases, two of a
    /// million sessions have the same.
    pub const MARK_DIGITS: usize = 16;

    /// Parses an id.
    pub fn parse(text: &str) -> Result<Self, InvalidName> {
        if text.is_empty() || text.len() > Self::MAX {
            return Err(InvalidName::Length { max: Self::MAX });
        }
        if !text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-')) {
            return Err(InvalidName::Character { allowed: "A-Z a-z 0-9 _ -" });
        }
        Ok(SessionId(text.into()))
    }

    /// Returns the id as text, for a link, its caller, its browser's cookie, and sealed records.
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// Serializes a member of a record that is sealed before it is stored: `#[serde(serialize_with = "…")]`.
    pub fn serialize_to_be_sealed<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for SessionId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = Cow::<str>::deserialize(deserializer)?;
        SessionId::parse(&text).map_err(|invalid| D::Error::custom(format!("an id {invalid}")))
    }
}

impl fmt::Debug for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SessionId(…)")
    }
}

/// The full name of a connection: its app, and its name within the app.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConnectionKey {
    /// The app it belongs to.
    pub app: AppName,
    /// Its name within the app.
    pub connection: ConnectionName,
}

impl fmt::Display for ConnectionKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.app, self.connection)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connection_names_take_the_contract_s_alphabet_and_nothing_else() {
        for good in ["user-4711", "team-a/user-7", "alice@contoso.com", "A.b_c:d", &"x".repeat(256)] {
            assert!(ConnectionName::parse(good).is_ok(), "{good}");
        }
        for bad in ["", &"x".repeat(257), "a b", "a\0", "ü", "a%2Fb", "a?b", "a#b", "a;b", "a\\b"] {
            assert!(ConnectionName::parse(bad).is_err() && ConnectionName::stored(bad).is_err(), "{bad:?}");
        }
        for good in ["...", "a/.b/..c", ".hidden", "a.", "..."] {
            assert!(ConnectionName::parse(good).is_ok(), "{good}");
        }
        // These names were accepted before parts were checked.
        for old in [".", "..", "a/..", "./a", "a/../b", "a/./b", "/", "/lead", "trail/", "a//b"] {
            assert_eq!(ConnectionName::parse(old), Err(InvalidName::Part), "{old:?}");
            assert!(ConnectionName::stored(old).is_ok(), "{old:?}");
        }
        assert_ne!(ConnectionName::parse("User").ok(), ConnectionName::parse("user").ok());
    }

    #[test]
    fn names_of_apps_and_callers_begin_with_a_letter_or_digit() {
        for good in ["a", "0", "mail-sync", "a-", &"x".repeat(63)] {
            assert!(AppName::parse(good).is_ok() && CallerName::parse(good).is_ok(), "{good}");
        }
        for bad in ["", "-", "-a", "A", "a_b", "a.b", "ä", &"x".repeat(64)] {
            assert!(AppName::parse(bad).is_err() && CallerName::parse(bad).is_err(), "{bad:?}");
        }
        assert_eq!(AppName::parse("-a"), Err(InvalidName::First));
    }

    /// Found by the fuzz target `request_body`: a revocation could name an app whose name is not allowed.
    #[test]
    fn a_document_holds_no_name_that_could_not_be_given() {
        let read = |text: &str| {
            serde_json::from_str::<AppName>(&format!("{text:?}")).map_err(|error| error.to_string())
        };
        assert_eq!(read("outlook").expect("a name").as_str(), "outlook");
        for bad in ["../x", "", "Outlook", "a b"] {
            assert!(read(bad).expect_err("no name").contains("a name m"), "{bad:?}");
        }
        let old = serde_json::from_str::<ConnectionName>("\"a/../b\"")
            .expect("one from before parts were looked at");
        assert_eq!(old.as_str(), "a/../b");
        assert!(serde_json::from_str::<ConnectionName>("\"a{b}\"").is_err());
    }
}
