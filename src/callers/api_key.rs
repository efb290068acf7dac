//! One API key: `twk_{caller}_{random}_{checksum}`. The random part is 256 bits in base62. The checksum is
//! the CRC-32, in base62, of everything before it, so that a leak scanner recognizes a key without asking
//! anyone. Neither base62 nor a caller's name contains a `_`, so the parts stay apart.

use aws_lc_rs::{digest, hmac};
use zeroize::Zeroizing;

use crate::domain::base62::{CHECKSUM_DIGITS, base62, checksum};
use crate::domain::id::CallerName;
use crate::domain::random::Random;
use crate::keyring::{Purpose, SealingKey};

const PREFIX: &str = "twk";
/// 62^43 is the first power of 62 beyond 2^256.
const RANDOM_DIGITS: usize = 43;

/// A new API key on its way to the person who asked for it. It is shown once and never stored.
///
/// ```compile_fail
/// fn show(key: tokenward::callers::api_key::ApiKey) { println!("{key:?}"); }
/// ```
/// ```compile_fail
/// fn show(key: tokenward::callers::api_key::ApiKey) { println!("{key}"); }
/// ```
/// ```compile_fail
/// fn wire<T: serde::Serialize>(_: T) {}
/// fn show(key: tokenward::callers::api_key::ApiKey) { wire(key); }
/// ```
pub struct ApiKey(Zeroizing<String>);

impl ApiKey {
    /// Makes a key for `caller` from 256 random bits.
    pub fn generate(caller: &CallerName, random: &dyn Random) -> Self {
        let mut bits = Zeroizing::new([0; 32]);
        random.fill(&mut bits[..]);
        let length = PREFIX.len() + caller.as_str().len() + RANDOM_DIGITS + CHECKSUM_DIGITS + 3;
        // It never grows, so no copy is left behind.
        let mut text = Zeroizing::new(String::with_capacity(length));
        text.push_str(PREFIX);
        text.push('_');
        text.push_str(caller.as_str());
        text.push('_');
        for digit in base62::<RANDOM_DIGITS>(&mut bits[..]).iter() {
            text.push(char::from(*digit));
        }
        let checksum = checksum(text.as_bytes());
        text.push('_');
        for digit in checksum {
            text.push(char::from(digit));
        }
        ApiKey(text)
    }

    /// Returns the key itself. Review every call.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

/// Presented text in the form of a key. It proves nothing yet.
#[derive(Clone, Copy)]
pub struct PresentedKey<'a> {
    caller: &'a str,
    text: &'a str,
}

impl<'a> PresentedKey<'a> {
    /// Checks the form and the checksum. Anybody can compute both, so the time it takes reveals nothing.
    pub fn parse(text: &'a str) -> Option<Self> {
        let body = text.strip_prefix(PREFIX)?.strip_prefix('_')?;
        let (caller, rest) = body.split_once('_')?;
        let (random, sum) = rest.split_once('_')?;
        let base62 = |part: &str| part.bytes().all(|byte| byte.is_ascii_alphanumeric());
        let shaped = random.len() == RANDOM_DIGITS
            && sum.len() == CHECKSUM_DIGITS
            && base62(random)
            && base62(sum)
            && CallerName::check(caller).is_ok();
        let summed = text.len().checked_sub(CHECKSUM_DIGITS + 1)?;
        (shaped && checksum(&text.as_bytes()[..summed]) == sum.as_bytes())
            .then_some(PresentedKey { caller, text })
    }

    /// Returns the caller that the text claims.
    pub fn unverified_caller(&self) -> &'a str {
        self.caller
    }
}

/// The hash of a key in a key file. A key has 256 random bits, so nobody finds it by trying.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KeyHash(pub [u8; 32]);

/// Makes one kind of hash.
pub enum KeyHasher {
    /// SHA-256 of the key.
    Sha256,
    /// HMAC-SHA256 of the key, keyed from a sealing key, in lines from before 0.2.
    Keyed(Box<hmac::Key>),
}

impl KeyHasher {
    /// Makes the hasher of old lines from `sealing_key`.
    pub fn keyed(sealing_key: &SealingKey) -> Self {
        let key = hmac::Key::new(hmac::HMAC_SHA256, &sealing_key.derive(Purpose::ApiKeyHash)[..]);
        KeyHasher::Keyed(Box::new(key))
    }

    /// Hashes a new key.
    pub fn hash(&self, key: &ApiKey) -> KeyHash {
        self.sign(key.expose())
    }

    /// Hashes a presented key.
    pub fn hash_presented(&self, key: &PresentedKey<'_>) -> KeyHash {
        self.sign(key.text)
    }

    /// Hashes what is presented, whatever its form.
    pub fn hash_text(&self, text: &str) -> KeyHash {
        self.sign(text)
    }

    fn sign(&self, text: &str) -> KeyHash {
        let mut hash = [0; 32];
        match self {
            KeyHasher::Sha256 => {
                hash.copy_from_slice(digest::digest(&digest::SHA256, text.as_bytes()).as_ref());
            }
            KeyHasher::Keyed(key) => hash.copy_from_slice(hmac::sign(key, text.as_bytes()).as_ref()),
        }
        KeyHash(hash)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::time::Timestamp;
    use crate::testkit::SeededRandom;

    fn caller(name: &str) -> CallerName {
        CallerName::parse(name).expect("a caller name")
    }

    #[test]
    fn a_new_key_has_the_contract_s_shape_and_is_read_back() {
        let random = SeededRandom::new(1);
        for name in ["mail-sync", "a", &"x".repeat(63)] {
            let key = ApiKey::generate(&caller(name), &random);
            let parts: Vec<&str> = key.expose().split('_').collect();
            assert_eq!(parts.iter().map(|part| part.len()).collect::<Vec<_>>(), [3, name.len(), 43, 6]);
            assert_eq!((parts[0], parts[1]), ("twk", name));
            let presented = PresentedKey::parse(key.expose()).expect("our own key");
            assert_eq!(presented.unverified_caller(), name);
            assert_eq!(key.0.capacity(), key.0.len());
        }
    }

    #[test]
    fn every_changed_character_and_every_other_shape_is_refused() {
        let key = ApiKey::generate(&caller("mail-sync"), &SeededRandom::new(1));
        let text = key.expose();
        for at in 0..text.len() {
            for other in ["0", "z", "_", "-", " "] {
                let changed = format!("{}{other}{}", &text[..at], &text[at + 1..]);
                assert!(changed == text || PresentedKey::parse(&changed).is_none(), "{at}");
            }
            assert!(PresentedKey::parse(&text[..at]).is_none());
        }
        for bad in [
            String::new(),
            "twk_".into(),
            "twk___".into(),
            format!("{text}0"),
            format!(" {text}"),
            format!("{text}\n"),
            text.replace("mail", "Mail"),
            "twk_ü_".into(),
            "x".repeat(1 << 20),
        ] {
            assert!(PresentedKey::parse(&bad).is_none());
        }
    }

    #[test]
    fn the_hash_is_the_well_known_sha_256_and_old_ones_differ_by_sealing_key() {
        // `printf %s twk_… | sha256sum`
        let text = "twk_cli_0000000000000000000000000000000000000000000_3vW2ye";
        let hex = hex::encode(KeyHasher::Sha256.sign(text).0);
        assert_eq!(hex, "409395379cca85c92a1d5608f47c578865a8e5271f4845b82a9e5a6e3daeb85e");

        let hasher = |byte| {
            let material = Zeroizing::new([byte; 32]);
            KeyHasher::keyed(&SealingKey::new("a".into(), Timestamp::from_unix_seconds(0), None, material))
        };
        let key = ApiKey::generate(&caller("mail-sync"), &SeededRandom::new(1));
        let presented = PresentedKey::parse(key.expose()).expect("our own key");
        assert_eq!(KeyHasher::Sha256.hash(&key), KeyHasher::Sha256.hash_presented(&presented));
        assert_eq!(hasher(1).hash(&key), hasher(1).hash_presented(&presented));
        assert_ne!(hasher(1).hash(&key), hasher(2).hash(&key));
    }
}
