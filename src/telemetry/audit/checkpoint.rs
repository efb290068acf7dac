//! Signed checkpoints: a record in which the daemon signs the chain up to it, and says how many records
//! before it are its own.
//!
//! The key is an Ed25519 key of its own (`audit.signing_key`), not one derived from the keyring: a person
//! who can check a MAC can forge it, an auditor must not need a secret, and a log must be checked long after
//! the sealing keys of its day are gone.
//!
//! A process signs only what it wrote itself. So a log that was changed while no process ran is not signed
//! by the next one: the lines of a process that was killed, since its last checkpoint, stay unsigned.

use std::fmt;
use std::time::Duration;

use arc_swap::ArcSwapOption;
use aws_lc_rs::signature::{ED25519, Ed25519KeyPair, KeyPair as _, UnparsedPublicKey};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{PrivatePkcs8KeyDer, SubjectPublicKeyInfoDer};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

/// Most records between two checkpoints: a signature costs less than the write of one record.
pub(super) const EVERY: u64 = 1_000;
/// Longest time between two checkpoints, also when there are no records: so a log that was cut off ends
/// earlier than it should.
pub const WITHIN: Duration = Duration::from_secs(300);

/// First line of what is signed. It says what the signature is for.
const PURPOSE: &str = "tokenward audit checkpoint 1";
/// A public key of Ed25519 in an X.509 wrapping, but for its 32 bytes (RFC 8410).
const SPKI: [u8; 12] = [0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00];

/// What a checkpoint has beside the members of every record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Checkpoint {
    /// The key, by the first 16 hex digits of the SHA-256 of its public half.
    pub(super) key: String,
    /// How many records right before it the process wrote since its last checkpoint.
    pub(super) records: u64,
    /// Most records until the next checkpoint.
    pub(super) every: u64,
    /// Most seconds until the next checkpoint.
    pub(super) within: u64,
    /// Of the `Statement`, in base64.
    pub(super) signature: String,
}

impl Checkpoint {
    /// Returns the only record that this checkpoint can stand in, without its chain and closing brace. (The
    /// signature does not cover the record itself.)
    pub(super) fn record(&self, seq: u64, at: &str) -> String {
        let own = serde_json::to_string(self).expect("strings and numbers");
        let what = "\"action\":\"checkpoint\",\"outcome\":\"ok\"";
        format!("{{\"seq\":{seq},\"at\":\"{at}\",{what},\"checkpoint\":{own}")
    }
}

/// What is signed.
pub(super) struct Statement<'a> {
    /// The chain of the line before.
    pub(super) before: &'a str,
    pub(super) seq: u64,
    /// As the record has it.
    pub(super) at: &'a str,
    pub(super) key: &'a str,
    pub(super) records: u64,
    pub(super) every: u64,
    pub(super) within: u64,
}

impl Statement<'_> {
    fn text(&self) -> String {
        let Statement { before, seq, at, key, records, every, within } = self;
        format!("{PURPOSE}\n{before}\n{seq}\n{at}\n{key}\n{records}\n{every}\n{within}\n")
    }
}

/// The key that signs checkpoints.
pub struct SigningKey {
    pair: Ed25519KeyPair,
    id: String,
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SigningKey({})", self.id)
    }
}

/// Why a key cannot be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadKey {
    /// A private key is needed.
    #[error(
        "holds no Ed25519 private key in PEM (PKCS #8); make one with `tokenward audit make-key FILE` or \
         `openssl genpkey -algorithm ed25519`"
    )]
    Private,
    /// A public key is needed.
    #[error(
        "holds no Ed25519 public key in PEM; `tokenward audit make-key` prints it, and so does `openssl pkey \
         -pubout -in KEY`"
    )]
    Public,
}

impl SigningKey {
    /// Reads a private key in PEM.
    ///
    /// # Errors
    /// It is none of Ed25519.
    pub fn read(pem: &[u8]) -> Result<Self, BadKey> {
        let der = PrivatePkcs8KeyDer::from_pem_slice(pem).map_err(|_| BadKey::Private)?;
        let pair = Ed25519KeyPair::from_pkcs8_maybe_unchecked(der.secret_pkcs8_der());
        Ok(SigningKey::of(pair.map_err(|_| BadKey::Private)?))
    }

    /// Makes one; returns it with its PEM.
    ///
    /// # Errors
    /// The machine has no randomness.
    pub fn make() -> Result<(Self, Zeroizing<String>), aws_lc_rs::error::Unspecified> {
        let pair = Ed25519KeyPair::generate()?;
        let document = pair.to_pkcs8v1()?;
        Ok((SigningKey::of(pair), Zeroizing::new(pem("PRIVATE KEY", document.as_ref()))))
    }

    fn of(pair: Ed25519KeyPair) -> Self {
        let id = id_of(pair.public_key().as_ref());
        SigningKey { pair, id }
    }

    /// Its id.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Its public half, in PEM.
    pub fn public_pem(&self) -> String {
        pem("PUBLIC KEY", &[&SPKI, self.pair.public_key().as_ref()].concat())
    }

    pub(super) fn sign(&self, statement: &Statement<'_>) -> String {
        STANDARD.encode(self.pair.sign(statement.text().as_bytes()))
    }
}

/// The public half of a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VerifyingKey {
    id: String,
    public: Vec<u8>,
}

impl VerifyingKey {
    /// Reads a public key in PEM.
    ///
    /// # Errors
    /// It is none of Ed25519.
    pub fn read(pem: &[u8]) -> Result<Self, BadKey> {
        let der = SubjectPublicKeyInfoDer::from_pem_slice(pem).map_err(|_| BadKey::Public)?;
        let public = der.as_ref().strip_prefix(&SPKI).filter(|public| public.len() == 32);
        let public = public.ok_or(BadKey::Public)?.to_vec();
        Ok(VerifyingKey { id: id_of(&public), public })
    }

    /// Its id.
    pub fn id(&self) -> &str {
        &self.id
    }

    pub(super) fn has_signed(&self, statement: &Statement<'_>, signature: &str) -> bool {
        let Ok(signature) = STANDARD.decode(signature) else { return false };
        UnparsedPublicKey::new(&ED25519, &self.public).verify(statement.text().as_bytes(), &signature).is_ok()
    }
}

/// The key in force. A reload puts another one in its place; without one nothing is signed.
#[derive(Debug, Default)]
pub struct Signing(ArcSwapOption<SigningKey>);

impl Signing {
    /// Puts this key in force.
    pub fn replace(&self, key: Option<SigningKey>) {
        self.0.store(key.map(Into::into));
    }

    pub(super) fn key(&self) -> Option<std::sync::Arc<SigningKey>> {
        self.0.load_full()
    }
}

fn id_of(public: &[u8]) -> String {
    use aws_lc_rs::digest::{SHA256, digest};
    hex::encode(&digest(&SHA256, public).as_ref()[..8])
}

fn pem(label: &str, der: &[u8]) -> String {
    let text = STANDARD.encode(der);
    let lines: Vec<&str> = (0..text.len()).step_by(64).map(|at| &text[at..text.len().min(at + 64)]).collect();
    format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", lines.join("\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn statement<'a>(before: &'a str, at: &'a str, key: &'a str) -> Statement<'a> {
        Statement { before, seq: 7, at, key, records: 6, every: EVERY, within: WITHIN.as_secs() }
    }

    #[test]
    fn a_statement_is_signed_whole_and_by_its_key_alone() {
        let (key, private) = SigningKey::make().expect("a key");
        let (other, _) = SigningKey::make().expect("a key");
        let again = SigningKey::read(private.as_bytes()).expect("what was made");
        assert_eq!(again.id(), key.id());
        let public = VerifyingKey::read(key.public_pem().as_bytes()).expect("its public half");
        assert_eq!((public.id(), key.id().len()), (key.id(), 16));
        let signature = again.sign(&statement("a", "b", key.id()));
        assert!(public.has_signed(&statement("a", "b", key.id()), &signature));
        let mut changed: Vec<Statement<'_>> = (0..7).map(|_| statement("a", "b", key.id())).collect();
        changed[0].before = "c";
        changed[1].seq += 1;
        changed[2].at = "c";
        changed[3].key = "c";
        changed[4].records += 1;
        changed[5].every += 1;
        changed[6].within += 1;
        for (member, one) in changed.iter().enumerate() {
            assert!(!public.has_signed(one, &signature), "{member}");
        }
        assert!(!public.has_signed(&statement("a", "b", key.id()), "AAAA"));
        assert!(!public.has_signed(&statement("a", "b", key.id()), "no base64"));
        let other = VerifyingKey::read(other.public_pem().as_bytes()).expect("a key");
        assert!(!other.has_signed(&statement("a", "b", key.id()), &signature));
        assert!(!format!("{key:?}").contains(private.lines().nth(1).expect("a line")));
    }

    #[test]
    fn what_is_no_key_is_refused() {
        let (key, private) = SigningKey::make().expect("a key");
        for bad in ["", "hunter2", &key.public_pem(), &private.replace("PRIVATE KEY", "EC PRIVATE KEY")] {
            assert_eq!(SigningKey::read(bad.as_bytes()).expect_err("no key"), BadKey::Private);
        }
        for bad in ["", "hunter2", private.as_str()] {
            assert_eq!(VerifyingKey::read(bad.as_bytes()), Err(BadKey::Public));
        }
        let short = pem("PUBLIC KEY", &SPKI);
        assert_eq!(VerifyingKey::read(short.as_bytes()), Err(BadKey::Public));
    }
}
