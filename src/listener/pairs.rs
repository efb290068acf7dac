//! Parameters of queries and forms. They are counted before any is decoded, and kept by name, so that reading
//! costs a constant for each byte. `clippy.toml` bans other parsers.

use std::borrow::Cow;
use std::collections::HashMap;
use std::collections::hash_map::Entry;

/// Most parameters of a query or a form. No known client sends twenty.
pub const MOST_PARAMETERS: usize = 64;

/// Parameters with distinct names.
pub struct Pairs(HashMap<String, String>);

/// Decoded names and values.
pub(super) type Decoded<'a> = Vec<(Cow<'a, str>, Cow<'a, str>)>;

/// Reason why parameters are refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BadPairs {
    /// There are more than [`MOST_PARAMETERS`].
    TooMany,
    /// A name occurs twice (RFC 6749 section 3.1 forbids it).
    Repeated(String),
}

impl Pairs {
    /// Parses `application/x-www-form-urlencoded` text.
    ///
    /// # Errors
    /// [`BadPairs`].
    pub fn read(raw: &[u8]) -> Result<Self, BadPairs> {
        Pairs::by_name(Pairs::decoded(raw)?)
    }

    /// Decodes all parameters in their order, including repeated ones.
    ///
    /// # Errors
    /// [`BadPairs::TooMany`].
    pub fn decoded(raw: &[u8]) -> Result<Decoded<'_>, BadPairs> {
        if Pairs::are_too_many(raw) {
            return Err(BadPairs::TooMany);
        }
        #[expect(clippy::disallowed_methods, reason = "this is the one place: what it is given was counted")]
        let decoded = form_urlencoded::parse(raw);
        Ok(decoded.collect())
    }

    /// Keeps decoded parameters by name.
    ///
    /// # Errors
    /// [`BadPairs::Repeated`].
    pub fn by_name(decoded: Decoded<'_>) -> Result<Self, BadPairs> {
        let mut pairs = HashMap::new();
        for (name, value) in decoded {
            match pairs.entry(name.into_owned()) {
                Entry::Occupied(known) => return Err(BadPairs::Repeated(known.remove_entry().0)),
                Entry::Vacant(place) => place.insert(value.into_owned()),
            };
        }
        Ok(Pairs(pairs))
    }

    /// Returns true if there are more parameters than allowed.
    pub fn are_too_many(raw: &[u8]) -> bool {
        raw.iter().filter(|byte| **byte == b'&').count() >= MOST_PARAMETERS
    }

    /// Returns all names and values, ordered by name.
    #[cfg(any(test, feature = "testkit"))]
    pub fn sorted(&self) -> Vec<(&str, &str)> {
        let mut all: Vec<_> = self.0.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        all.sort_unstable();
        all
    }

    /// Returns true if there is no parameter.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns true if there is a parameter of this name, even an empty one.
    pub fn has(&self, name: &str) -> bool {
        self.0.contains_key(name)
    }

    /// Returns a parameter's value; an empty one counts as absent.
    pub fn value(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str).filter(|value| !value.is_empty())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_parameter_is_absent_and_a_repeated_one_is_refused_by_name() {
        let read = Pairs::read(b"scope=&min_ttl=60&x&a%2Bb=c+d").expect("pairs");
        assert_eq!(
            (read.value("scope"), read.value("min_ttl"), read.value("x"), read.value("a+b")),
            (None, Some("60"), None, Some("c d"))
        );
        for raw in ["scope=a&scope=b", "scope=a&x=1&sc%6fpe=a", "scope&scope"] {
            assert_eq!(
                Pairs::read(raw.as_bytes()).err(),
                Some(BadPairs::Repeated("scope".to_owned())),
                "{raw}"
            );
        }
    }

    #[test]
    fn as_many_as_are_allowed_are_read_and_one_more_is_refused_before_it_is_looked_at() {
        let raw = |count: usize| (0..count).map(|at| format!("p{at}=1")).collect::<Vec<_>>().join("&");
        assert!(Pairs::read(raw(MOST_PARAMETERS).as_bytes()).is_ok());
        assert_eq!(Pairs::read(raw(MOST_PARAMETERS + 1).as_bytes()).err(), Some(BadPairs::TooMany));
        // A repeated name among them is not reported, for none was read.
        assert_eq!(Pairs::read("a&".repeat(MOST_PARAMETERS).as_bytes()).err(), Some(BadPairs::TooMany));
        assert!(Pairs::decoded("&".repeat(MOST_PARAMETERS).as_bytes()).is_err());
        assert_eq!(Pairs::decoded(b"A=1&A=2&b").map(|decoded| decoded.len()), Ok(3));
    }
}
