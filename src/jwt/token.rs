//! A JWT in its compact form: its header, its signature, and its claims one by one.

use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::Value;

use super::json::Object;
use super::keys::{Algorithm, Key, KeySet};
use crate::domain::time::Timestamp;

/// Allowed difference between clocks.
pub const SKEW: Duration = Duration::from_secs(60);

/// The rule that a token breaks, of those that hold for every token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum JwtFault {
    /// It is not three parts of unpadded base64url with JSON objects in the first two.
    Malformed,
    /// It has five parts: it is encrypted.
    Encrypted,
    /// `typ` is present and not an expected one.
    WrongType,
    /// `alg` is not allowed.
    Algorithm,
    /// `crit` is present: we support no extension (RFC 7515 §4.1.11).
    Critical,
    /// There is no `kid` to find a key by, and more than one key.
    NoKeyId,
    /// No key has this id.
    UnknownKey,
    /// The signature is wrong.
    Signature,
    /// A claim has a wrong JSON type or is out of range.
    ClaimType,
    /// A required claim is missing.
    ClaimMissing,
    /// `exp` is in the past.
    Expired,
    /// `nbf` is in the future.
    NotYetValid,
    /// `iat` is in the future.
    IssuedInFuture,
}

/// When a token is valid.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Times {
    /// `exp`.
    pub expires_at: Timestamp,
    /// `iat`.
    pub issued_at: Timestamp,
    /// `nbf`.
    pub valid_from: Option<Timestamp>,
}

impl Times {
    /// Checks that a token is valid at `now`, with the allowed [`SKEW`].
    ///
    /// # Errors
    /// The rule that it breaks.
    pub fn check(&self, now: Timestamp) -> Result<(), JwtFault> {
        if self.expires_at.plus(SKEW) <= now {
            return Err(JwtFault::Expired);
        }
        if self.issued_at > now.plus(SKEW) {
            return Err(JwtFault::IssuedInFuture);
        }
        if self.valid_from.is_some_and(|from| from > now.plus(SKEW)) {
            return Err(JwtFault::NotYetValid);
        }
        Ok(())
    }
}

/// A parsed token. Nothing of it is believed yet, except that its header can be used.
pub struct UnverifiedJwt<'a> {
    kid: Option<String>,
    /// `typ`, as in the header.
    media_type: Option<String>,
    /// As in the header.
    algorithm: Option<String>,
    /// Fault of the header or the signature's form, if any; then only the claims can be checked.
    unfit: Option<JwtFault>,
    claims: Object,
    signed: &'a str,
    /// Empty if it is not base64url, so that it never matches.
    signature: Vec<u8>,
}

/// Returns a media type as `typ` recommends to write it, without `application/` (RFC 7515 §4.1.9).
fn short(media_type: &str) -> &str {
    match media_type.split_once('/') {
        Some((top, rest)) if top.eq_ignore_ascii_case("application") && !rest.contains('/') => rest,
        _ => media_type,
    }
}

impl<'a> UnverifiedJwt<'a> {
    /// Parses a token whose `typ` is absent or one of `types` (compared without case). Key material and
    /// addresses in the header (`jku`, `jwk`, `x5u`, `x5c`) are ignored.
    ///
    /// # Errors
    /// The token cannot be taken apart. A header that is readable but not usable shows in
    /// [`UnverifiedJwt::verify`].
    pub fn parse(token: &'a str, types: &[&str]) -> Result<Self, JwtFault> {
        // Six parts prove as much as more.
        let parts: Vec<&str> = token.splitn(6, '.').collect();
        let [header, claims, signature] = parts[..] else {
            return Err(if parts.len() == 5 { JwtFault::Encrypted } else { JwtFault::Malformed });
        };
        let decode = |part: &str| URL_SAFE_NO_PAD.decode(part).map_err(|_| JwtFault::Malformed);
        let object = |bytes: Vec<u8>| Object::parse(&bytes).map_err(|_| JwtFault::Malformed);
        let header = object(decode(header)?)?;
        let text = |name: &str| match header.0.get(name) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::String(text)) => Ok(Some(text.as_str())),
            Some(_) => Err(JwtFault::Malformed),
        };
        if header.0.contains_key("enc") {
            return Err(JwtFault::Encrypted);
        }
        let is_other = |kind: &str| !types.iter().any(|known| short(kind).eq_ignore_ascii_case(short(known)));
        let is_unfit = if header.0.contains_key("crit") {
            Some(JwtFault::Critical)
        } else if text("typ").is_ok_and(|kind| kind.is_some_and(is_other)) {
            Some(JwtFault::WrongType)
        } else {
            ["typ", "alg", "kid"].into_iter().find_map(|name| text(name).err())
        };
        let owned = |name: &str| text(name).ok().flatten().map(str::to_owned);
        let signed = &token[..token.len() - signature.len() - 1];
        let signature = decode(signature);
        Ok(UnverifiedJwt {
            kid: owned("kid"),
            media_type: owned("typ"),
            algorithm: owned("alg"),
            unfit: is_unfit.or(signature.as_ref().err().copied()),
            claims: object(decode(claims)?)?,
            signed,
            signature: signature.unwrap_or_default(),
        })
    }

    /// Returns the `alg` of the header, a stranger's word.
    pub fn unverified_algorithm(&self) -> Option<&str> {
        self.algorithm.as_deref()
    }

    /// Returns the `typ` of the header, a stranger's word.
    pub fn unverified_type(&self) -> Option<&str> {
        self.media_type.as_deref()
    }

    /// Returns true if the header can be used and the signature be read.
    pub fn is_fit(&self) -> bool {
        self.unfit.is_none()
    }

    /// Returns the claims, a stranger's word unless [`UnverifiedJwt::verify`] succeeded.
    pub fn unverified_claims(&self) -> &Object {
        &self.claims
    }

    /// Returns true if the token says which key signed it.
    pub fn names_key(&self) -> bool {
        self.kid.is_some()
    }

    /// Returns true if `keys` has a key with this token's id.
    pub fn has_key_in(&self, keys: &KeySet) -> bool {
        !keys.find(self.kid.as_deref()).is_empty()
    }

    /// Checks the header and the signature. Returns the key that signed, and how. Without any keys no
    /// signature can be checked.
    ///
    /// # Errors
    /// The rule that it breaks.
    pub fn verify<'k>(
        &self,
        keys: Option<&'k KeySet>,
        is_allowed: impl Fn(Algorithm) -> bool,
    ) -> Result<(&'k Key, Algorithm), JwtFault> {
        if let Some(fault) = self.unfit {
            return Err(fault);
        }
        let algorithm = self.algorithm.as_deref().and_then(Algorithm::parse);
        let algorithm = algorithm.filter(|one| is_allowed(*one)).ok_or(JwtFault::Algorithm)?;
        let candidates = keys.map(|keys| keys.find(self.kid.as_deref())).unwrap_or_default();
        if candidates.is_empty() {
            return Err(if self.kid.is_none() { JwtFault::NoKeyId } else { JwtFault::UnknownKey });
        }
        let message = self.signed.as_bytes();
        let key = candidates.into_iter().find(|key| key.verifies(algorithm, message, &self.signature));
        key.map(|key| (key, algorithm)).ok_or(JwtFault::Signature)
    }

    /// Returns a claim that is a string; `null` counts as absent.
    ///
    /// # Errors
    /// It is no string.
    pub fn text(&self, name: &str) -> Result<Option<&str>, JwtFault> {
        match self.claims.0.get(name) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(_) => Err(JwtFault::ClaimType),
        }
    }

    /// Returns a required claim, a string that is not empty.
    ///
    /// # Errors
    /// It is missing, or no string.
    pub fn need(&self, name: &str) -> Result<&str, JwtFault> {
        self.text(name)?.filter(|text| !text.is_empty()).ok_or(JwtFault::ClaimMissing)
    }

    /// Returns an optional claim, if it is a string that is not empty.
    pub fn optional(&self, name: &str) -> Option<&str> {
        self.claims.0.get(name).and_then(Value::as_str).filter(|text| !text.is_empty())
    }

    /// Returns a NumericDate (RFC 7519 §2): a JSON number, possibly with a fraction, from 1970 to 9999;
    /// `null` counts as absent.
    ///
    /// # Errors
    /// It is no number, or out of range.
    pub fn instant(&self, name: &str) -> Result<Option<Timestamp>, JwtFault> {
        let Some(value) = self.claims.0.get(name).filter(|value| !value.is_null()) else { return Ok(None) };
        let seconds = match value {
            Value::Number(number) => number.as_f64(),
            _ => None,
        };
        let seconds = seconds.filter(|seconds| (0.0..=253_402_300_799.0).contains(seconds));
        #[expect(clippy::cast_possible_truncation, reason = "the range was just checked")]
        let instant = seconds.map(|seconds| Timestamp::from_unix_millis((seconds * 1000.0) as i64));
        instant.map(Some).ok_or(JwtFault::ClaimType)
    }

    /// Returns `exp` and `iat`, which are required, and `nbf`.
    ///
    /// # Errors
    /// One is missing or odd.
    pub fn times(&self) -> Result<Times, JwtFault> {
        Ok(Times {
            expires_at: self.instant("exp")?.ok_or(JwtFault::ClaimMissing)?,
            issued_at: self.instant("iat")?.ok_or(JwtFault::ClaimMissing)?,
            valid_from: self.instant("nbf")?,
        })
    }

    /// Returns the audiences: a string, or a list of strings, not empty.
    ///
    /// # Errors
    /// They are missing, or of another type.
    pub fn audiences(&self) -> Result<Vec<&str>, JwtFault> {
        match self.claims.0.get("aud") {
            None | Some(Value::Null) => Err(JwtFault::ClaimMissing),
            Some(Value::Array(list)) if list.is_empty() => Err(JwtFault::ClaimMissing),
            Some(Value::String(audience)) if audience.is_empty() => Err(JwtFault::ClaimMissing),
            Some(Value::String(audience)) => Ok(vec![audience]),
            Some(Value::Array(list)) => {
                list.iter().map(Value::as_str).collect::<Option<Vec<_>>>().ok_or(JwtFault::ClaimType)
            }
            Some(_) => Err(JwtFault::ClaimType),
        }
    }
}
