//! The sealed form: AES-256-GCM with a key derived for each value.
//!
//! ```text
//! version (1) | algorithm (1) | length of key id (1) | key id |
//! salt (32) | nonce (12) | ciphertext | tag (16)
//! ```
//! The value's key is HKDF-SHA256(sealing key, salt). Everything before the ciphertext is authenticated, and
//! so is the place that the value is sealed for.

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use zeroize::{Zeroize, Zeroizing};

use super::{KeyId, Keyring, SealingKey, derive};
use crate::domain::random::{Random, random_bytes};

const VERSION: u8 = 1;
const ALGORITHM_AES_256_GCM_HKDF_SHA256: u8 = 1;
const SALT: usize = 32;
const NONCE: usize = 12;
const TAG: usize = 16;
const LABEL: &[u8] = b"tokenward/seal/v1";

/// The place that a value is sealed for. It opens nowhere else.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place<'a> {
    /// Kind of record: `connection`, `session`, `state`, …
    pub schema: &'static str,
    /// The record: app and connection, or an id and an empty text.
    pub owner: (&'a str, &'a str),
    /// Field of the record.
    pub field: &'static str,
    /// Generation of the record; 0 if it has none.
    pub generation: u64,
}

/// Reason why a sealed value does not open.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// Its key is not in the keyring; the operator must restore it.
    #[error("it is sealed with the key {0:?}, which the keyring does not hold; restore that key's file")]
    UnknownKey(KeyId),
    /// Any other reason: damaged, truncated, moved from its place, or made by someone else. One word for all,
    /// on purpose.
    #[error("it does not open")]
    Refused,
}

impl SealingKey {
    /// Seals `plaintext` for one place with this key. To seal several values that belong together, take the
    /// primary once: it may change in between.
    pub fn seal(&self, place: &Place<'_>, plaintext: &[u8], random: &dyn Random) -> Vec<u8> {
        let salt: [u8; SALT] = random_bytes(random);
        let nonce: [u8; NONCE] = random_bytes(random);
        let id = self.id.as_bytes();
        let mut sealed = Vec::with_capacity(3 + id.len() + SALT + NONCE + plaintext.len() + TAG);
        sealed.extend_from_slice(&[
            VERSION,
            ALGORITHM_AES_256_GCM_HKDF_SHA256,
            u8::try_from(id.len()).expect("key ids are at most 64 bytes"),
        ]);
        sealed.extend_from_slice(id);
        sealed.extend_from_slice(&salt);
        sealed.extend_from_slice(&nonce);
        let aad = authenticated(&sealed, place);
        let mut buffer = Zeroizing::new(Vec::with_capacity(plaintext.len() + TAG));
        buffer.extend_from_slice(plaintext);
        value_key(self, &salt)
            .seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), Aad::from(aad), &mut *buffer)
            .expect("AES-256-GCM seals up to 64 GiB");
        sealed.extend_from_slice(&buffer);
        self.used();
        sealed
    }
}

impl Keyring {
    /// Seals `plaintext` for one place with the primary key.
    pub fn seal(&self, place: &Place<'_>, plaintext: &[u8], random: &dyn Random) -> Vec<u8> {
        self.primary().seal(place, plaintext, random)
    }

    /// Opens a value that was sealed for this place.
    pub fn open(&self, place: &Place<'_>, sealed: &[u8]) -> Result<Zeroizing<Vec<u8>>, OpenError> {
        let (header, rest) = split_header(sealed).ok_or(OpenError::Refused)?;
        let id = key_id(sealed).ok_or(OpenError::Refused)?;
        let key = self.key(&id).ok_or(OpenError::UnknownKey(id))?;
        let salt = &header[header.len() - SALT - NONCE..header.len() - NONCE];
        let nonce = Nonce::try_assume_unique_for_key(&header[header.len() - NONCE..])
            .map_err(|_| OpenError::Refused)?;
        let mut buffer = Zeroizing::new(rest.to_vec());
        let aad = authenticated(header, place);
        let length = match value_key(&key, salt).open_in_place(nonce, Aad::from(aad), &mut buffer) {
            Ok(plaintext) => plaintext.len(),
            Err(_) => {
                buffer.zeroize();
                return Err(OpenError::Refused);
            }
        };
        buffer.truncate(length);
        key.used();
        Ok(buffer)
    }
}

/// Returns the key id in a sealed value; the first bytes are enough.
pub fn key_id(sealed: &[u8]) -> Option<KeyId> {
    let [VERSION, ALGORITHM_AES_256_GCM_HKDF_SHA256, id_length, ref rest @ ..] = *sealed else {
        return None;
    };
    String::from_utf8(rest.get(..usize::from(id_length))?.to_vec()).ok().filter(|id| !id.is_empty())
}

/// Splits a sealed value into its header (version, algorithm, key id, salt and nonce) and the rest.
fn split_header(sealed: &[u8]) -> Option<(&[u8], &[u8])> {
    let [VERSION, ALGORITHM_AES_256_GCM_HKDF_SHA256, id_length, ..] = *sealed else {
        return None;
    };
    let header = 3 + usize::from(id_length) + SALT + NONCE;
    (sealed.len() >= header + TAG).then(|| sealed.split_at(header))
}

fn value_key(key: &SealingKey, salt: &[u8]) -> LessSafeKey {
    let derived = derive(&key.material[..], salt, LABEL);
    LessSafeKey::new(UnboundKey::new(&AES_256_GCM, &derived[..]).expect("a 256-bit key fits AES-256"))
}

/// Returns the authenticated bytes. Each part has its length in front, so that no two places give the same
/// bytes.
fn authenticated(header: &[u8], place: &Place<'_>) -> Vec<u8> {
    let generation = place.generation.to_be_bytes();
    let parts: [&[u8]; 6] = [
        header,
        place.schema.as_bytes(),
        place.owner.0.as_bytes(),
        place.owner.1.as_bytes(),
        place.field.as_bytes(),
        &generation,
    ];
    let mut aad = Vec::with_capacity(parts.iter().map(|part| part.len() + 4).sum());
    for part in parts {
        aad.extend_from_slice(&u32::try_from(part.len()).expect("names are short").to_be_bytes());
        aad.extend_from_slice(part);
    }
    aad
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::time::Timestamp;
    use crate::testkit::SeededRandom;

    const PLACE: Place<'static> =
        Place { schema: "connection", owner: ("outlook", "alice"), field: "grant", generation: 7 };

    fn ring(ids: &[(&str, u8)]) -> Keyring {
        let keys = ids
            .iter()
            .map(|(id, byte)| {
                let at = Timestamp::from_unix_seconds(i64::from(*byte));
                SealingKey::new((*id).to_owned(), at, Some(at), Zeroizing::new([*byte; 32]))
            })
            .collect();
        Keyring::new(keys, "test").expect("a ring")
    }

    #[test]
    fn what_was_sealed_opens_in_its_place_and_nowhere_else() {
        let ring = ring(&[("k1", 1)]);
        let random = SeededRandom::new(1);
        let sealed = ring.seal(&PLACE, b"the refresh token", &random);
        assert_eq!(ring.open(&PLACE, &sealed).expect("opens").as_slice(), b"the refresh token");
        let elsewhere = [
            Place { schema: "session", ..PLACE },
            Place { owner: ("outlook2", "alice"), ..PLACE },
            Place { owner: ("outlook", "bob"), ..PLACE },
            Place { owner: ("outlooka", "lice"), ..PLACE },
            Place { field: "tokens", ..PLACE },
            Place { generation: 8, ..PLACE },
        ];
        for place in elsewhere {
            assert_eq!(ring.open(&place, &sealed).err(), Some(OpenError::Refused), "{place:?}");
        }
    }

    #[test]
    fn every_flipped_bit_and_every_truncation_is_refused() {
        let ring = ring(&[("k1", 1)]);
        let sealed = ring.seal(&PLACE, b"secret", &SeededRandom::new(2));
        for bit in 0..sealed.len() * 8 {
            let mut damaged = sealed.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert!(ring.open(&PLACE, &damaged).is_err(), "bit {bit}");
        }
        for length in 0..sealed.len() {
            assert!(ring.open(&PLACE, &sealed[..length]).is_err(), "length {length}");
        }
    }

    #[test]
    fn an_older_key_still_opens_and_a_missing_one_is_named() {
        let old = ring(&[("k1", 1)]);
        let sealed = old.seal(&PLACE, b"secret", &SeededRandom::new(3));
        assert!(ring(&[("k1", 1), ("k2", 2)]).open(&PLACE, &sealed).is_ok());
        assert_eq!(ring(&[("k2", 2)]).open(&PLACE, &sealed).err(), Some(OpenError::UnknownKey("k1".into())));
        assert_eq!(key_id(&sealed).as_deref(), Some("k1"));
        assert_eq!((key_id(&sealed[..5]).as_deref(), key_id(&sealed[..4])), (Some("k1"), None));
    }

    #[test]
    fn equal_values_never_look_equal() {
        let ring = ring(&[("k1", 1)]);
        let random = SeededRandom::new(4);
        assert_ne!(ring.seal(&PLACE, b"same", &random), ring.seal(&PLACE, b"same", &random));
    }
}
