//! The name of a connect session in log and audit. It tells sessions apart and lets a known one be found, but
//! it is no link.

use std::fmt;

use serde::Serialize;

use crate::domain::digest::sha256_hex;
use crate::domain::id::SessionId;

/// The first 16 hex digits of the SHA-256 of a session's id: `printf %s "$id" | sha256sum | cut -c1-16`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct SessionMark(String);

impl SessionMark {
    /// Returns the mark of a session.
    pub fn of(id: &SessionId) -> Self {
        let mut hex = sha256_hex(id.expose().as_bytes());
        hex.truncate(SessionId::MARK_DIGITS);
        SessionMark(hex)
    }

    /// Returns the mark as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for SessionMark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_is_the_begin_of_the_hash_and_holds_no_part_of_the_id() {
        let id = SessionId::parse("abc").expect("an id");
        assert_eq!(SessionMark::of(&id).as_str(), "ba7816bf8f01cfea");
        assert_eq!(format!("{id:?}"), "SessionId(…)");
    }
}
