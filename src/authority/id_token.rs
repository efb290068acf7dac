//! The `id_token`, believed only after every rule (OpenID Connect Core §3.1.3.7; RFC 8725; the rules for Entra's
//! templated issuers). Each rule has its own fault, whose word is a metric label.
//!
//! Times are checked against the [`Clock`](crate::domain::time::Clock) that we are given, and a claim of the
//! wrong JSON type is a fault and never an absence.

use std::time::Duration;

use aws_lc_rs::digest::{SHA256, digest};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::Value;

use super::clouds::{Provider, Tenants};
use super::discovery::Metadata;
use super::jwks::{Algorithm, Key, KeySet};
use super::text::{is_guid, one_line};
use super::wire::Object;
use crate::domain::account::Account;
use crate::domain::time::Timestamp;

/// Clocks may differ by this much.
const SKEW: Duration = Duration::from_secs(60);
/// The longest `sub` (OpenID Connect Core §2).
const MAX_SUBJECT: usize = 255;

macro_rules! faults {
    ($($(#[$doc:meta])* $variant:ident => $word:literal),+ $(,)?) => {
        /// The rule that an `id_token` broke.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum IdTokenFault { $($(#[$doc])* $variant),+ }

        impl IdTokenFault {
            /// Every fault, for a metric's labels.
            pub const ALL: &'static [IdTokenFault] = &[$(IdTokenFault::$variant),+];

            /// The word for metrics and logs.
            pub fn as_str(self) -> &'static str {
                match self { $(IdTokenFault::$variant => $word),+ }
            }
        }
    };
}

faults! {
    /// A redemption brought no `id_token`.
    Missing => "missing",
    /// Not three parts of unpadded base64url with JSON objects in the first two.
    Malformed => "malformed",
    /// Five parts: encrypted, which was not asked for.
    Encrypted => "encrypted",
    /// `typ` is there and is not `JWT`.
    WrongType => "wrong_type",
    /// `alg` is not allowed for this authority; `none` and the symmetric ones never are.
    Algorithm => "algorithm",
    /// `crit` is there: we understand no extension (RFC 7515 §4.1.11).
    Critical => "critical",
    /// No `kid` to find a key by, and more than one key.
    NoKeyId => "no_key_id",
    /// No key of this id, even after looking again.
    UnknownKey => "unknown_key",
    /// The key may not sign for this issuer, or belongs to another cloud.
    KeyIssuer => "key_issuer",
    /// The signature does not fit.
    Signature => "signature",
    /// A claim is of the wrong JSON type or out of its range.
    ClaimType => "claim_type",
    /// A claim that must be there is not.
    ClaimMissing => "claim_missing",
    /// `iss` is not this authority's.
    Issuer => "issuer",
    /// `aud` is not our client id.
    Audience => "audience",
    /// `aud` names others besides us.
    ExtraAudience => "extra_audience",
    /// `azp` is there and is not our client id.
    AuthorizedParty => "authorized_party",
    /// `exp` is past.
    Expired => "expired",
    /// `nbf` is still to come.
    NotYetValid => "not_yet_valid",
    /// `iat` is still to come.
    IssuedInFuture => "issued_in_future",
    /// `nonce` is not the one of this flow.
    Nonce => "nonce",
    /// `at_hash` is there and does not fit the access token.
    AccessTokenHash => "access_token_hash",
    /// Entra: `ver` is not 2.0.
    Version => "version",
    /// Entra: `tid` is not a GUID, or not the one in `iss`.
    TenantId => "tenant_id",
    /// Entra: the tenant is not one whose users may be connected.
    TenantNotAllowed => "tenant_not_allowed",
    /// Entra: `oid` is not a GUID.
    ObjectId => "object_id",
}

impl std::fmt::Display for IdTokenFault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What a token is checked against.
pub(super) struct Rules<'a> {
    pub(super) provider: Provider,
    pub(super) metadata: &'a Metadata,
    pub(super) client_id: &'a str,
    pub(super) tenants: &'a Tenants,
    /// The nonce of the flow; none for a refresh, whose token need not repeat it.
    pub(super) nonce: Option<&'a str>,
    /// The access token that came with it.
    pub(super) access_token: &'a str,
    pub(super) now: Timestamp,
}

/// A token taken apart, with nothing believed yet but that its header can be worked with.
pub(super) struct UnverifiedToken<'a> {
    kid: Option<String>,
    algorithm: Algorithm,
    claims: Object,
    signed: &'a str,
    signature: Vec<u8>,
}

impl<'a> UnverifiedToken<'a> {
    /// Takes a token apart. Key material and addresses in the header (`jku`, `jwk`, `x5u`, `x5c`) are not looked at.
    pub(super) fn parse(token: &'a str, rules: &Rules<'_>) -> Result<Self, IdTokenFault> {
        let parts: Vec<&str> = token.split('.').collect();
        let [header, claims, signature] = parts[..] else {
            return Err(if parts.len() == 5 { IdTokenFault::Encrypted } else { IdTokenFault::Malformed });
        };
        let decode = |part: &str| URL_SAFE_NO_PAD.decode(part).map_err(|_| IdTokenFault::Malformed);
        let object = |bytes: Vec<u8>| Object::parse(&bytes).map_err(|_| IdTokenFault::Malformed);
        let header = object(decode(header)?)?;
        let text = |name: &str| match header.0.get(name) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text.as_str())),
            Some(_) => Err(IdTokenFault::Malformed),
        };
        if header.0.contains_key("enc") {
            return Err(IdTokenFault::Encrypted);
        }
        if header.0.contains_key("crit") {
            return Err(IdTokenFault::Critical);
        }
        if text("typ")?.is_some_and(|kind| !kind.eq_ignore_ascii_case("jwt")) {
            return Err(IdTokenFault::WrongType);
        }
        let name = text("alg")?.ok_or(IdTokenFault::Algorithm)?;
        let algorithm = Algorithm::parse(name).filter(|_| rules.allow_algorithm(name));
        Ok(UnverifiedToken {
            algorithm: algorithm.ok_or(IdTokenFault::Algorithm)?,
            kid: text("kid")?.map(str::to_owned),
            claims: object(decode(claims)?)?,
            signed: &token[..token.len() - signature.len() - 1],
            signature: decode(signature)?,
        })
    }

    /// Whether `keys` has a key of this token's id.
    pub(super) fn has_key_in(&self, keys: &KeySet) -> bool {
        !keys.find(self.kid.as_deref()).is_empty()
    }

    /// Checks everything: signature, key, claims. The account is whose token it is.
    pub(super) fn verify(&self, keys: &KeySet, rules: &Rules<'_>) -> Result<Account, IdTokenFault> {
        let candidates = keys.find(self.kid.as_deref());
        if candidates.is_empty() {
            return Err(if self.kid.is_none() { IdTokenFault::NoKeyId } else { IdTokenFault::UnknownKey });
        }
        let message = self.signed.as_bytes();
        let key = candidates.into_iter().find(|key| key.verifies(self.algorithm, message, &self.signature));
        let key = key.ok_or(IdTokenFault::Signature)?;
        let account = self.check_claims(rules)?;
        self.check_key(key, &account, rules)?;
        Ok(account)
    }

    /// Checks the claims alone. For a refresh whose keys cannot be had: enough to see that it names somebody else,
    /// never enough to learn who somebody is.
    pub(super) fn check_claims(&self, rules: &Rules<'_>) -> Result<Account, IdTokenFault> {
        let iss = self.need("iss")?;
        let sub = self.need("sub")?;
        if sub.is_empty() || sub.len() > MAX_SUBJECT || sub.chars().any(char::is_control) {
            return Err(IdTokenFault::ClaimType);
        }
        let ids = match rules.provider {
            Provider::OpenId => None,
            Provider::Entra => {
                let tid = self.need("tid")?.to_ascii_lowercase();
                if !is_guid(&tid) {
                    return Err(IdTokenFault::TenantId);
                }
                Some(tid)
            }
        };
        // Compared to the letter, after the tenant has taken the template's place.
        let issuer = rules.metadata.issuer.replace("{tenantid}", ids.as_deref().unwrap_or("{tenantid}"));
        if iss != issuer {
            return Err(IdTokenFault::Issuer);
        }
        if ids.as_deref().is_some_and(|tid| !iss.ends_with(&format!("/{tid}/v2.0"))) {
            return Err(IdTokenFault::TenantId);
        }
        self.check_audience(rules.client_id)?;
        self.check_times(rules.now)?;
        if let Some(nonce) = rules.nonce
            && self.text("nonce")? != Some(nonce)
        {
            return Err(IdTokenFault::Nonce);
        }
        if let Some(at_hash) = self.text("at_hash")? {
            let hash = digest(&SHA256, rules.access_token.as_bytes());
            if at_hash != URL_SAFE_NO_PAD.encode(&hash.as_ref()[..16]) {
                return Err(IdTokenFault::AccessTokenHash);
            }
        }
        let (tid, oid) = match ids {
            None => (None, None),
            Some(tid) => {
                if self.need("ver")? != "2.0" {
                    return Err(IdTokenFault::Version);
                }
                if !rules.tenants.allow(&tid) {
                    return Err(IdTokenFault::TenantNotAllowed);
                }
                let oid = self.need("oid")?.to_ascii_lowercase();
                if !is_guid(&oid) {
                    return Err(IdTokenFault::ObjectId);
                }
                (Some(tid), Some(oid))
            }
        };
        let username = match self.text("preferred_username")? {
            Some(name) => Some(name),
            None => self.text("email")?,
        };
        let username = username.map(one_line).filter(|name| !name.is_empty());
        Ok(Account { iss: iss.to_owned(), sub: sub.to_owned(), tid, oid, username })
    }

    /// Entra's keys say for whom they may sign. Without this rule a key of personal accounts, or of one tenant, is
    /// good for every tenant's tokens: that is how mail was read in 2023 (Storm-0558).
    fn check_key(&self, key: &Key, account: &Account, rules: &Rules<'_>) -> Result<(), IdTokenFault> {
        let (Provider::Entra, Some(tid)) = (rules.provider, &account.tid) else { return Ok(()) };
        let issuer_fits = match &key.issuer {
            Some(issuer) => issuer.replace("{tenantid}", tid) == account.iss,
            None => true,
        };
        let cloud_fits = match (&key.cloud_instance_name, &rules.metadata.cloud_instance_name) {
            (Some(of_key), Some(of_document)) => of_key == of_document,
            _ => true,
        };
        if issuer_fits && cloud_fits { Ok(()) } else { Err(IdTokenFault::KeyIssuer) }
    }

    fn check_audience(&self, client_id: &str) -> Result<(), IdTokenFault> {
        match self.claims.0.get("aud") {
            None => return Err(IdTokenFault::ClaimMissing),
            Some(Value::String(audience)) if audience == client_id => {}
            Some(Value::String(_)) => return Err(IdTokenFault::Audience),
            Some(Value::Array(audiences)) => {
                let audiences = audiences.iter().map(Value::as_str).collect::<Option<Vec<_>>>();
                let audiences = audiences.ok_or(IdTokenFault::ClaimType)?;
                if !audiences.contains(&client_id) {
                    return Err(IdTokenFault::Audience);
                }
                if audiences.len() != 1 {
                    return Err(IdTokenFault::ExtraAudience);
                }
            }
            Some(_) => return Err(IdTokenFault::ClaimType),
        }
        match self.text("azp")? {
            Some(party) if party != client_id => Err(IdTokenFault::AuthorizedParty),
            _ => Ok(()),
        }
    }

    fn check_times(&self, now: Timestamp) -> Result<(), IdTokenFault> {
        let exp = self.instant("exp")?.ok_or(IdTokenFault::ClaimMissing)?;
        let iat = self.instant("iat")?.ok_or(IdTokenFault::ClaimMissing)?;
        let nbf = self.instant("nbf")?;
        if exp.plus(SKEW) <= now {
            return Err(IdTokenFault::Expired);
        }
        if iat > now.plus(SKEW) {
            return Err(IdTokenFault::IssuedInFuture);
        }
        if nbf.is_some_and(|nbf| nbf > now.plus(SKEW)) {
            return Err(IdTokenFault::NotYetValid);
        }
        Ok(())
    }

    fn need(&self, name: &str) -> Result<&str, IdTokenFault> {
        self.text(name)?.ok_or(IdTokenFault::ClaimMissing)
    }

    fn text(&self, name: &str) -> Result<Option<&str>, IdTokenFault> {
        match self.claims.0.get(name) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(_) => Err(IdTokenFault::ClaimType),
        }
    }

    /// A NumericDate (RFC 7519 §2): a JSON number, perhaps with a fraction, from 1970 to 9999.
    fn instant(&self, name: &str) -> Result<Option<Timestamp>, IdTokenFault> {
        let Some(value) = self.claims.0.get(name) else { return Ok(None) };
        let seconds = match value {
            Value::Number(number) => number.as_f64(),
            _ => None,
        };
        let seconds = seconds.filter(|seconds| (0.0..=253_402_300_799.0).contains(seconds));
        #[expect(clippy::cast_possible_truncation, reason = "the range was just checked")]
        let instant = seconds.map(|seconds| Timestamp::from_unix_millis((seconds * 1000.0) as i64));
        instant.map(Some).ok_or(IdTokenFault::ClaimType)
    }
}

impl Rules<'_> {
    /// The allow-list: Entra signs with RS256; any other provider with one of three, and of these only what its
    /// document names.
    fn allow_algorithm(&self, name: &str) -> bool {
        match self.provider {
            Provider::Entra => name == "RS256",
            Provider::OpenId => {
                let named = self.metadata.id_token_algorithms.as_ref();
                named.is_none_or(|named| named.iter().any(|named| named == name))
            }
        }
    }
}
