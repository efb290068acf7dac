//! A handle's outside: its text, its id, and the list of those that operators ended.
//!
//! The text is `twh_{id}_{sealed}_{checksum}`. The id has 18 random base62 digits and the checksum of these,
//! so that a mistyped one is seen. It is no secret: who finds a handle reads the id from it, and ends it.
//! `sealed` is base64url, and nobody without the keyring reads it. The checksum at the end is that of
//! everything before it, so that a leak scanner recognizes a handle without asking anyone.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::LazyLock;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use memchr::memmem::Finder;
use serde::{Deserialize, Serialize};

use super::base62::{CHECKSUM_DIGITS, base62, checksum};
use super::random::{Random, random_bytes};
use super::revocation::CLOCKS_APART;
use super::secret::HandleText;
use super::time::Timestamp;

/// How the text of every handle begins.
pub const PREFIX: &str = "twh_";
/// The longest life of a handle.
pub const LONGEST_LIFE: Duration = Duration::from_secs(86_400);
/// The longest text of a handle. (A request's head has twice the room.)
const LONGEST_TEXT: usize = 8 * 1024;
/// 104 bits.
const RANDOM_BYTES: usize = 13;
/// 62^18 is the first power of 62 beyond 2^104.
const RANDOM_DIGITS: usize = 18;
const ID_DIGITS: usize = RANDOM_DIGITS + CHECKSUM_DIGITS;

/// The id of a handle. It is no secret, and lets nobody in.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct HandleId(String);

/// What is wrong with a handle's id. The text continues a sentence that begins with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InvalidHandleId {
    /// It is a handle.
    #[error("is a handle itself, which is a secret: its id is the part between the first two `_`")]
    IsHandle,
    /// No handle has it.
    #[error("is no handle's id; an id has {ID_DIGITS} letters and digits, of which the last six check it")]
    Form,
}

impl HandleId {
    /// Makes a new one.
    pub fn generate(random: &dyn Random) -> Self {
        let digits = base62::<RANDOM_DIGITS>(&mut random_bytes::<RANDOM_BYTES>(random));
        let sum = checksum(&*digits);
        HandleId(digits.iter().chain(&sum).map(|digit| char::from(*digit)).collect())
    }

    /// Reads an id that somebody wrote.
    ///
    /// # Errors
    /// No handle can have it, or it is a handle.
    pub fn parse(text: &str) -> Result<Self, InvalidHandleId> {
        if text.starts_with(PREFIX) {
            return Err(InvalidHandleId::IsHandle);
        }
        let is_whole = text.len() == ID_DIGITS && text.bytes().all(|byte| byte.is_ascii_alphanumeric());
        let (digits, sum) = text.split_at_checked(RANDOM_DIGITS).ok_or(InvalidHandleId::Form)?;
        if is_whole && checksum(digits.as_bytes()) == sum.as_bytes() {
            Ok(HandleId(text.to_owned()))
        } else {
            Err(InvalidHandleId::Form)
        }
    }

    /// Returns its text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for HandleId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl TryFrom<String> for HandleId {
    type Error = InvalidHandleId;

    fn try_from(text: String) -> Result<Self, InvalidHandleId> {
        HandleId::parse(&text)
    }
}

impl From<HandleId> for String {
    fn from(id: HandleId) -> Self {
        id.0
    }
}

/// Writes the text of a handle; `None` if it is too long.
pub fn write(id: &HandleId, sealed: &[u8]) -> Option<HandleText> {
    let sealed = URL_SAFE_NO_PAD.encode(sealed);
    let text = format!("{PREFIX}{id}_{sealed}");
    let sum = checksum(text.as_bytes()).map(char::from);
    let text = format!("{text}_{}", sum.iter().collect::<String>());
    (text.len() <= LONGEST_TEXT).then(|| HandleText::new(text))
}

/// Presented text in the form of a handle. It proves nothing yet.
pub struct PresentedHandle {
    /// The id that it claims.
    pub id: HandleId,
    /// What is sealed in it.
    pub sealed: Vec<u8>,
}

impl PresentedHandle {
    /// Checks the form and the checksum. Anybody can compute both, so the time it takes reveals nothing.
    pub fn parse(text: &str) -> Option<Self> {
        let (id, rest) = text.strip_prefix(PREFIX)?.split_once('_')?;
        let (sealed, sum) = rest.rsplit_once('_')?;
        let summed = text.len().checked_sub(CHECKSUM_DIGITS + 1)?;
        if text.len() > LONGEST_TEXT || checksum(text.get(..summed)?.as_bytes()) != sum.as_bytes() {
            return None;
        }
        let id = HandleId::parse(id).ok()?;
        URL_SAFE_NO_PAD.decode(sealed).ok().map(|sealed| PresentedHandle { id, sealed })
    }
}

/// Finds how a handle begins.
static FINDER: LazyLock<Finder<'static>> = LazyLock::new(|| Finder::new(PREFIX));

/// Whether a text has a handle in it.
pub fn is_in(text: &str) -> bool {
    FINDER.find_iter(text.as_bytes()).any(|at| {
        let rest = &text[at..];
        let is_of_handle = |byte: u8| byte.is_ascii_alphanumeric() || b"_-".contains(&byte);
        let end = rest.bytes().position(|byte| !is_of_handle(byte)).unwrap_or(rest.len());
        PresentedHandle::parse(&rest[..end]).is_some()
    })
}

/// Most handles that are ended at a time. The list is read every second.
pub const MOST_ENDED: usize = 1000;

/// The handles that operators ended, each until it is over anyway.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct EndedHandles(BTreeMap<HandleId, Timestamp>);

impl EndedHandles {
    /// Ends a handle. Returns false if there is no room for more.
    #[must_use]
    pub fn end(&mut self, id: HandleId, now: Timestamp) -> bool {
        self.forget(now);
        if self.0.len() >= MOST_ENDED && !self.0.contains_key(&id) {
            return false;
        }
        self.0.insert(id, now.plus(LONGEST_LIFE + CLOCKS_APART));
        true
    }

    /// Adds those of another list. Returns true if that had more.
    pub fn join(&mut self, other: &EndedHandles) -> bool {
        let mut has_more = false;
        for (id, until) in &other.0 {
            let known = self.0.entry(id.clone()).or_insert_with(|| {
                has_more = true;
                *until
            });
            *known = (*known).max(*until);
        }
        has_more
    }

    /// Forgets those that are over anyway.
    pub fn forget(&mut self, now: Timestamp) {
        self.0.retain(|_, until| *until > now);
    }

    /// Whether it has a handle.
    pub fn has(&self, id: &HandleId) -> bool {
        self.0.contains_key(id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testkit::SeededRandom;

    fn id(seed: u64) -> HandleId {
        HandleId::generate(&SeededRandom::new(seed))
    }

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_unix_seconds(seconds)
    }

    #[test]
    fn a_handle_is_read_back_and_its_id_is_seen_in_it() {
        for (seed, length) in [(1, 0), (2, 1), (3, 100), (4, 6000)] {
            let (id, sealed) = (id(seed), vec![0xfb; length]);
            let text = write(&id, &sealed).expect("short enough");
            assert!(text.expose().starts_with(&format!("twh_{id}_")), "{id}");
            let read = PresentedHandle::parse(text.expose()).expect("our own");
            assert_eq!((&read.id, &read.sealed), (&id, &sealed));
            let digits = |part: &str| part.bytes().all(|byte| byte.is_ascii_alphanumeric());
            let (_, sum) = text.expose().rsplit_once('_').expect("a checksum");
            assert!(digits(id.as_str()) && digits(sum) && sum.len() == 6);
        }
        assert!(write(&id(5), &[0; 6200]).is_none(), "no head has room for it");
    }

    #[test]
    fn every_changed_character_and_every_truncation_is_refused() {
        let text = write(&id(1), b"sealed words").expect("short enough");
        let text = text.expose();
        for at in 0..text.len() {
            for other in ["0", "z", "_", "-", " ", "."] {
                let changed = format!("{}{other}{}", &text[..at], &text[at + 1..]);
                assert!(changed == text || PresentedHandle::parse(&changed).is_none(), "{at}");
            }
            assert!(PresentedHandle::parse(&text[..at]).is_none());
        }
        for bad in [String::new(), "twh_".into(), "twh___".into(), format!("{text}0"), format!(" {text}")] {
            assert!(PresentedHandle::parse(&bad).is_none());
        }
    }

    #[test]
    fn an_id_is_known_again_and_a_mistyped_one_is_not() {
        let id = id(1);
        assert_eq!(HandleId::parse(id.as_str()), Ok(id.clone()));
        let text = write(&id, b"").expect("short enough");
        assert_eq!(HandleId::parse(text.expose()), Err(InvalidHandleId::IsHandle));
        for at in 0..id.as_str().len() {
            let changed = format!("{}~{}", &id.as_str()[..at], &id.as_str()[at + 1..]);
            let typed = changed.replace('~', if id.as_str()[at..].starts_with('a') { "b" } else { "a" });
            for bad in [changed, typed] {
                assert_eq!(HandleId::parse(&bad), Err(InvalidHandleId::Form), "{bad}");
            }
        }
        assert_eq!(HandleId::parse(""), Err(InvalidHandleId::Form));
        let json = serde_json::to_string(&id).expect("JSON");
        assert_eq!(serde_json::from_str::<HandleId>(&json).ok(), Some(id));
        assert!(serde_json::from_str::<HandleId>("\"x\"").is_err());
    }

    #[test]
    fn a_handle_is_seen_in_a_text_and_what_begins_like_one_is_not() {
        let text = write(&id(1), b"sealed").expect("short enough");
        let text = text.expose();
        for text in
            [text.to_owned(), format!("/v1.0/me/{text}/x"), format!("a={text}&b"), format!("twh_{text}")]
        {
            assert!(is_in(&text), "{text}");
        }
        for text in ["/v1.0/me/messages/AAMktwh_AGI2", "twh_", "twh_a_b_c", &text[..text.len() - 1]] {
            assert!(!is_in(text), "{text}");
        }
    }

    #[test]
    fn what_was_ended_is_remembered_until_it_is_over_anyway() {
        let mut ended = EndedHandles::default();
        assert!(ended.end(id(1), at(0)) && ended.has(&id(1)) && !ended.has(&id(2)));
        ended.forget(at(86_400));
        assert!(ended.has(&id(1)), "a handle may live for a day, by another clock");
        let mut other = EndedHandles::default();
        assert!(other.end(id(2), at(1)) && ended.join(&other) && !ended.join(&other));
        assert!(ended.has(&id(1)) && ended.has(&id(2)));
        ended.forget(at(86_405));
        assert!(!ended.has(&id(1)) && ended.has(&id(2)));
        let mut full = EndedHandles::default();
        assert!((0..1000).all(|seed| full.end(id(seed), at(0))));
        assert!(!full.end(id(1000), at(0)), "nothing that counts is pushed out");
        assert!(full.end(id(7), at(1)), "what is there already has a place");
        assert!(full.end(id(1000), at(90_000)), "and the others are over by now");
    }
}
