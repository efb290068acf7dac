//! Callers that sign assertions of their own for the token endpoint (`private_key_jwt`; RFC 7521, RFC 7523).
//! An assertion is for one request: the store remembers it ([`Once`]) until it is too old to count.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use serde_json::{Value, json};

use super::Caller;
use super::jwt::{JwtRefusal, MAX_TOKEN};
use crate::domain::digest::sha256_hex;
use crate::domain::id::CallerName;
use crate::domain::time::Timestamp;
use crate::jwt::json::Object;
use crate::jwt::keys::KeySet;
use crate::jwt::{SKEW, UnverifiedJwt};

/// The `typ` of an assertion: of no kind in particular, or of this one
/// (draft-ietf-oauth-rfc7523bis).
const TYPES: [&str; 2] = ["JWT", "client-authentication+jwt"];
/// The longest time from `iat` to `exp`. Authlib's assertions live an hour.
const MAX_TTL: Duration = Duration::from_secs(60 * 60);
/// The oldest `iat`. A client makes an assertion for each request, and the store remembers each for as long
/// as this and [`SKEW`] allow.
const MAX_AGE: Duration = Duration::from_secs(5 * 60);
/// Most keys of one caller: an assertion without a `kid` is tried with each.
const MOST_KEYS: usize = 8;
/// Longest `kid`, which is a label in metrics.
const LONGEST_KID: usize = 128;
/// Members of a JWK that only a private or a secret key has (RFC 7518 §6).
const PRIVATE: [&str; 7] = ["d", "p", "q", "dp", "dq", "qi", "k"];
const NEVER: i64 = i64::MIN;

/// What a client presents as `client_assertion`.
#[derive(Clone, Copy)]
pub struct ClientAssertion<'a> {
    /// The JWT.
    pub text: &'a str,
    /// The form's `client_id`, if there is one.
    pub client_id: Option<&'a str>,
    /// Our own issuer: what `aud` must be.
    pub audience: &'a str,
}

/// An assertion that is good for one request, until the store has seen it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Once {
    /// The caller and its `jti`.
    pub name: String,
    /// From then on every replica refuses the assertion for its age, also one whose clock is late.
    pub until: Timestamp,
}

/// A key by which a caller signs.
pub struct ClientKey {
    id: String,
    /// This key alone.
    set: KeySet,
    /// The hash of the JWK.
    digest: String,
    /// In milliseconds since the Unix epoch, or [`NEVER`].
    last_used_at: AtomicI64,
}

impl fmt::Debug for ClientKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ClientKey({})", self.id)
    }
}

/// A key and its last use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientKeyUse {
    /// The caller.
    pub caller: CallerName,
    /// The key's `kid`.
    pub key: String,
    /// `None` if not used since this process started.
    pub last_used_at: Option<Timestamp>,
}

/// Reads a caller's keys.
///
/// # Errors
/// What is wrong with them, without a word of the file.
pub fn read_keys(file: &[u8]) -> Result<Vec<Arc<ClientKey>>, String> {
    let document = Object::parse(file)?;
    let Some(Value::Array(entries)) = document.0.get("keys") else {
        return Err("it has no list `keys`".to_owned());
    };
    let mut keys: Vec<Arc<ClientKey>> = Vec::new();
    for (at, entry) in entries.iter().enumerate() {
        let number = at + 1;
        if PRIVATE.iter().any(|member| entry.get(member).is_some()) {
            return Err(format!(
                "key {number} is a private or a symmetric key; keep only the public half here, and make a \
                 new key if others could read this file"
            ));
        }
        let kid = entry.get("kid").and_then(Value::as_str).unwrap_or_default();
        let is_label = |byte: u8| byte.is_ascii_graphic() && !matches!(byte, b'"' | b'\\');
        if kid.is_empty() || kid.len() > LONGEST_KID || !kid.bytes().all(is_label) {
            return Err(format!(
                "key {number} needs a `kid` of up to {LONGEST_KID} visible ASCII characters: its name in \
                 metrics"
            ));
        }
        if keys.iter().any(|key| key.id == kid) {
            return Err(format!("key {number} has the `kid` of another"));
        }
        let alone = json!({ "keys": [entry] }).to_string();
        let set = KeySet::parse(alone.as_bytes()).map_err(|_| {
            format!(
                "key {number} cannot be used: RSA of 2048 to 8192 bits, P-256, P-384 and Ed25519 can, \
                 without a `use` other than `sig`"
            )
        })?;
        let (digest, last_used_at) = (sha256_hex(alone.as_bytes()), AtomicI64::new(NEVER));
        keys.push(Arc::new(ClientKey { id: kid.to_owned(), set, digest, last_used_at }));
    }
    match keys.len() {
        0 => Err("it has no key".to_owned()),
        1..=MOST_KEYS => Ok(keys),
        _ => Err(format!("it has more than {MOST_KEYS} keys")),
    }
}

/// The keys of all callers that sign.
#[derive(Default)]
pub(super) struct AssertionCallers {
    by_name: BTreeMap<CallerName, (Arc<Caller>, Vec<Arc<ClientKey>>)>,
}

impl AssertionCallers {
    pub(super) fn add(&mut self, caller: &Arc<Caller>, keys: Vec<Arc<ClientKey>>) {
        if !keys.is_empty() {
            self.by_name.insert(caller.name.clone(), (Arc::clone(caller), keys));
        }
    }

    /// Takes over, from before a reload, when each key was last used.
    pub(super) fn take_over(&self, before: &AssertionCallers) {
        for (name, (_, keys)) in &self.by_name {
            let Some((_, others)) = before.by_name.get(name) else { continue };
            for key in keys {
                if let Some(same) = others.iter().find(|other| other.digest == key.digest) {
                    key.last_used_at.fetch_max(same.last_used_at.load(Ordering::Relaxed), Ordering::Relaxed);
                }
            }
        }
    }

    pub(super) fn uses(&self) -> Vec<ClientKeyUse> {
        let of_caller = |(name, (_, keys)): (&CallerName, &(Arc<Caller>, Vec<Arc<ClientKey>>))| {
            let one = |key: &Arc<ClientKey>| ClientKeyUse {
                caller: name.clone(),
                key: key.id.clone(),
                last_used_at: Some(key.last_used_at.load(Ordering::Relaxed))
                    .filter(|at| *at != NEVER)
                    .map(Timestamp::from_unix_millis),
            };
            keys.iter().map(one).collect::<Vec<_>>()
        };
        self.by_name.iter().flat_map(of_caller).collect()
    }

    /// Judges an assertion that its client made itself. It counts if no other request has used it.
    pub(super) fn authenticate(
        &self,
        token: &UnverifiedJwt<'_>,
        audience: &str,
        now: Timestamp,
    ) -> Result<(Arc<Caller>, Once), JwtRefusal> {
        let client = token.need("iss")?;
        let known = CallerName::parse(client).ok().and_then(|name| self.by_name.get(&name));
        let (caller, keys) = known.ok_or(JwtRefusal::NoCaller)?;
        let mut signed_by = Err(JwtRefusal::UnknownKey);
        for key in keys {
            match token.verify(Some(&key.set), |_| true).map_err(JwtRefusal::from) {
                Ok(_) => {
                    signed_by = Ok(key);
                    break;
                }
                Err(JwtRefusal::UnknownKey) => {}
                Err(other) => signed_by = Err(other),
            }
        }
        let key = signed_by?;
        // One string, our issuer to the letter: an assertion that names us beside others, or by an address,
        // could be one that another server got its client to make (RFC 7523bis).
        match token.unverified_claims().0.get("aud") {
            Some(Value::String(one)) if one == audience => {}
            None | Some(Value::Null) => return Err(JwtRefusal::ClaimMissing),
            Some(Value::String(_) | Value::Array(_)) => return Err(JwtRefusal::Audience),
            Some(_) => return Err(JwtRefusal::ClaimType),
        }
        let times = token.times()?;
        times.check(now)?;
        if times.expires_at.since(times.issued_at) > MAX_TTL {
            return Err(JwtRefusal::Life);
        }
        let too_old_at = times.issued_at.plus(MAX_AGE).plus(SKEW);
        if too_old_at <= now {
            return Err(JwtRefusal::Stale);
        }
        let name = format!("{client}\n{}", token.need("jti")?);
        let until = too_old_at.min(times.expires_at.plus(SKEW)).plus(SKEW);
        key.last_used_at.fetch_max(now.unix_millis(), Ordering::Relaxed);
        Ok((Arc::clone(caller), Once { name, until }))
    }
}

/// Takes an assertion apart. Nothing of it is believed yet.
pub(super) fn parse(text: &str) -> Result<UnverifiedJwt<'_>, JwtRefusal> {
    if text.len() > MAX_TOKEN {
        return Err(JwtRefusal::TooLong);
    }
    Ok(UnverifiedJwt::parse(text, &TYPES)?)
}

/// Returns true if the assertion says that its client made it itself: it is its own issuer (RFC 7523 §3).
pub(super) fn is_own(token: &UnverifiedJwt<'_>) -> bool {
    token.optional("iss").is_some() && token.optional("iss") == token.optional("sub")
}

#[cfg(test)]
mod tests;
