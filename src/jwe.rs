//! Sealing to somebody's public key, in a standard form that every JOSE library opens: JWE in compact
//! serialization (RFC 7516), ECDH-ES with X25519 (RFC 7518 §4.6, RFC 8037) and A256GCM.

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use aws_lc_rs::agreement::{PrivateKey, UnparsedPublicKey, X25519, agree};
use aws_lc_rs::digest::{Context, SHA256};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::de::IgnoredAny;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::domain::random::{Random, random_bytes};

const ALGORITHM: &str = "ECDH-ES";
const ENCRYPTION: &str = "A256GCM";
const TAG: usize = 16;

/// Error: the text is no public or private key of this kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("is no X25519 key as a JWK: {{\"kty\": \"OKP\", \"crv\": \"X25519\", \"x\": …}}")]
pub struct NoKey;

/// Error: it was sealed to another key, or is damaged, or is no such thing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("does not open with this key")]
pub struct NotOpened;

/// A public key as a JWK (RFC 7517).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PublicJwk {
    /// `OKP`
    pub kty: String,
    /// `X25519`
    pub crv: String,
    /// The key, base64url.
    pub x: String,
}

/// To whom something is sealed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recipient([u8; 32]);

/// The private key that opens what is sealed to its public one.
pub struct Opener {
    private: Zeroizing<[u8; 32]>,
    public: [u8; 32],
}

#[derive(Serialize, Deserialize)]
struct Header {
    alg: String,
    enc: String,
    epk: PublicJwk,
}

#[derive(Deserialize)]
struct PrivateJwk {
    d: String,
    #[serde(flatten)]
    public: PublicJwk,
}

/// Whether this text is a JWK with a private part, of whatever kind. It is not judged otherwise.
pub fn has_private_part(jwk: &[u8]) -> bool {
    #[derive(Deserialize)]
    struct Part {
        d: Option<IgnoredAny>,
    }
    serde_json::from_slice::<Part>(jwk).is_ok_and(|part| part.d.is_some())
}

impl PublicJwk {
    fn of(key: &[u8; 32]) -> Self {
        PublicJwk { kty: "OKP".into(), crv: "X25519".into(), x: URL_SAFE_NO_PAD.encode(key) }
    }

    fn key(&self) -> Result<[u8; 32], NoKey> {
        if (self.kty.as_str(), self.crv.as_str()) != ("OKP", "X25519") {
            return Err(NoKey);
        }
        bytes_of(&self.x)
    }
}

impl Recipient {
    /// Reads a public key.
    ///
    /// # Errors
    /// It is no X25519 key.
    pub fn new(jwk: &PublicJwk) -> Result<Self, NoKey> {
        let key = jwk.key()?;
        // (Any private key will do to see whether one can agree with it.)
        let private = PrivateKey::from_private_key(&X25519, &[1; 32]).map_err(|_| NoKey)?;
        content_key(&private, &key).map(|_| Recipient(key)).ok_or(NoKey)
    }

    /// Seals a text.
    pub fn seal(&self, plaintext: &[u8], random: &dyn Random) -> String {
        let ephemeral: Zeroizing<[u8; 32]> = Zeroizing::new(random_bytes(random));
        let private = PrivateKey::from_private_key(&X25519, &*ephemeral).expect("any 32 bytes are a key");
        let public = public_of(&private);
        let header = Header { alg: ALGORITHM.into(), enc: ENCRYPTION.into(), epk: PublicJwk::of(&public) };
        let header = serde_json::to_vec(&header).expect("a header is plain JSON");
        let header = URL_SAFE_NO_PAD.encode(header);
        // A recipient's key of low order gives no secret; sealing to it would seal to everybody.
        let key = content_key(&private, &self.0).expect("it was agreed with when it was read");
        let nonce: [u8; 12] = random_bytes(random);
        let mut sealed = Zeroizing::new(Vec::with_capacity(plaintext.len() + TAG));
        sealed.extend_from_slice(plaintext);
        let (with, aad) = (Nonce::assume_unique_for_key(nonce), Aad::from(header.as_bytes()));
        key.seal_in_place_append_tag(with, aad, &mut *sealed).expect("AES-256-GCM seals up to 64 GiB");
        let (text, tag) = sealed.split_at(plaintext.len());
        let parts = [&nonce[..], text, tag].map(|part| URL_SAFE_NO_PAD.encode(part));
        // (The key is agreed on, so there is no encrypted one.)
        format!("{header}..{}", parts.join("."))
    }
}

impl Opener {
    /// Makes a new key.
    pub fn generate(random: &dyn Random) -> Self {
        let private = Zeroizing::new(random_bytes(random));
        let key = PrivateKey::from_private_key(&X25519, &*private).expect("any 32 bytes are a key");
        Opener { public: public_of(&key), private }
    }

    /// Reads a private key as a JWK.
    ///
    /// # Errors
    /// It is no X25519 key, or its parts do not belong together.
    pub fn parse(jwk: &str) -> Result<Self, NoKey> {
        let PrivateJwk { d, public } = serde_json::from_str(jwk).map_err(|_| NoKey)?;
        let private = Zeroizing::new(bytes_of(&Zeroizing::new(d))?);
        let key = PrivateKey::from_private_key(&X25519, &*private).map_err(|_| NoKey)?;
        let opener = Opener { public: public_of(&key), private };
        if opener.public == public.key()? { Ok(opener) } else { Err(NoKey) }
    }

    /// Its private JWK.
    pub fn private_jwk(&self) -> Zeroizing<String> {
        let PublicJwk { kty, crv, x } = PublicJwk::of(&self.public);
        let d = Zeroizing::new(URL_SAFE_NO_PAD.encode(self.private.as_slice()));
        Zeroizing::new(format!("{{\"kty\":\"{kty}\",\"crv\":\"{crv}\",\"x\":\"{x}\",\"d\":\"{}\"}}\n", *d))
    }

    /// Its public JWK, for those who seal to it.
    pub fn public_jwk(&self) -> PublicJwk {
        PublicJwk::of(&self.public)
    }

    /// Opens what was sealed to it.
    ///
    /// # Errors
    /// It was sealed to another key, or is damaged.
    pub fn open(&self, sealed: &str) -> Result<Zeroizing<Vec<u8>>, NotOpened> {
        let parts: Vec<&str> = sealed.split('.').collect();
        let [header, "", nonce, text, tag] = parts[..] else { return Err(NotOpened) };
        let decode = |part: &str| URL_SAFE_NO_PAD.decode(part).map_err(|_| NotOpened);
        let read: Header = serde_json::from_slice(&decode(header)?).map_err(|_| NotOpened)?;
        if (read.alg.as_str(), read.enc.as_str()) != (ALGORITHM, ENCRYPTION) {
            return Err(NotOpened);
        }
        let private = PrivateKey::from_private_key(&X25519, &*self.private).map_err(|_| NotOpened)?;
        let key = content_key(&private, &read.epk.key().map_err(|_| NotOpened)?).ok_or(NotOpened)?;
        let nonce = Nonce::try_assume_unique_for_key(&decode(nonce)?).map_err(|_| NotOpened)?;
        let mut bytes = Zeroizing::new(decode(text)?);
        bytes.extend_from_slice(&decode(tag)?);
        let opened = key.open_in_place(nonce, Aad::from(header.as_bytes()), &mut bytes);
        let length = opened.map_err(|_| NotOpened)?.len();
        bytes.truncate(length);
        Ok(bytes)
    }
}

fn bytes_of(text: &str) -> Result<[u8; 32], NoKey> {
    let bytes = Zeroizing::new(URL_SAFE_NO_PAD.decode(text).map_err(|_| NoKey)?);
    bytes.as_slice().try_into().map_err(|_| NoKey)
}

fn public_of(private: &PrivateKey) -> [u8; 32] {
    let public = private.compute_public_key().expect("a key has a public one");
    public.as_ref().try_into().expect("32 bytes")
}

/// The content key of RFC 7518 §4.6.2: Concat KDF over what both sides agree on. `None` for a public key of
/// low order.
fn content_key(private: &PrivateKey, public: &[u8; 32]) -> Option<LessSafeKey> {
    let public = UnparsedPublicKey::new(&X25519, public);
    agree(private, public, (), |agreed| {
        let mut hash = Context::new(&SHA256);
        hash.update(&1u32.to_be_bytes());
        hash.update(agreed);
        let length = |text: &[u8]| u32::try_from(text.len()).expect("short").to_be_bytes();
        hash.update(&length(ENCRYPTION.as_bytes()));
        hash.update(ENCRYPTION.as_bytes());
        // Neither side has a name.
        hash.update(&0u32.to_be_bytes());
        hash.update(&0u32.to_be_bytes());
        hash.update(&256u32.to_be_bytes());
        let key = hash.finish();
        UnboundKey::new(&AES_256_GCM, key.as_ref()).map(LessSafeKey::new).map_err(|_| ())
    })
    .ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testkit::SeededRandom;

    #[test]
    fn what_is_sealed_opens_with_its_own_key_alone_and_whole() {
        let random = SeededRandom::new(7);
        let (mine, other) = (Opener::generate(&random), Opener::generate(&random));
        let to_me = Recipient::new(&mine.public_jwk()).expect("a key");
        let sealed = to_me.seal(b"a grant", &random);
        assert_eq!(&**mine.open(&sealed).expect("it opens"), b"a grant");
        assert_ne!(sealed, to_me.seal(b"a grant", &random));
        assert!(other.open(&sealed).is_err());
        let again = Opener::parse(&mine.private_jwk()).expect("the same");
        assert_eq!(&**again.open(&sealed).expect("it opens"), b"a grant");
        for at in 0..sealed.len() {
            let mut damaged = sealed.clone().into_bytes();
            damaged[at] = if damaged[at] == b'A' { b'B' } else { b'A' };
            let damaged = String::from_utf8(damaged).expect("ASCII");
            assert!(mine.open(&damaged).is_err(), "{at}");
        }
        assert!(mine.open("").is_err() && mine.open("....").is_err());
    }

    #[test]
    fn only_an_x25519_key_is_one() {
        let random = SeededRandom::new(7);
        let mine = Opener::generate(&random).public_jwk();
        for wrong in [
            PublicJwk { kty: "EC".into(), ..mine.clone() },
            PublicJwk { crv: "Ed25519".into(), ..mine.clone() },
            PublicJwk { x: "AAAA".into(), ..mine.clone() },
            // A point of low order: what is sealed to it would be sealed to everybody.
            PublicJwk { x: URL_SAFE_NO_PAD.encode([0; 32]), ..mine },
        ] {
            assert_eq!(Recipient::new(&wrong), Err(NoKey), "{wrong:?}");
        }
        assert!(Opener::parse("{}").is_err());
    }

    /// Made with jwcrypto, which reads and writes the same.
    #[test]
    fn another_library_s_opens() {
        let opener = Opener::parse(include_str!("../tests/data/import/jwe/private.jwk")).expect("a key");
        let sealed = include_str!("../tests/data/import/jwe/sealed.jwe").trim();
        assert_eq!(&**opener.open(sealed).expect("it opens"), br#"{"refresh_token":"of-jwcrypto"}"#);
    }
}
