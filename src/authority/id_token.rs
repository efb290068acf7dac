//! The `id_token`, believed only if it satisfies every rule (OpenID Connect Core §3.1.3.7; RFC 8725; the
//! rules for Entra's templated issuers). Each rule has its own fault, whose name is a metric label.
//!
//! Times are checked against the given [`Clock`](crate::domain::time::Clock). `null` counts as absent. A
//! required claim of a wrong type is a fault; an optional one is ignored and named in a remark.

mod fault;
mod subject;
#[cfg(test)]
mod tests;

use aws_lc_rs::digest::digest;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::Value;

pub use self::fault::IdTokenFault;
pub use self::subject::{Delegate, Subject};
use super::clouds::Provider;
use super::discovery::Metadata;
use super::text::{code_word, is_guid, is_harmless, one_line};
use crate::domain::account::Account;
use crate::domain::tenants::Tenants;
use crate::domain::time::Timestamp;
use crate::jwt::keys::{Algorithm, Key, KeySet};
use crate::jwt::{JwtFault, Times, UnverifiedJwt};

/// Longest `sub` (OpenID Connect Core §2).
const MAX_SUBJECT: usize = 255;

/// What the `id_token` of a refresh says about its answer.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Renewal {
    /// It is valid. It names the owner, perhaps by a new name.
    Verified(Account),
    /// It names the owner, but could not be verified for a reason that need not lie in the token.
    Unverified(IdTokenFault),
    /// It must not be believed, or does not say whose answer this is.
    Unjudged(IdTokenFault),
    /// It names another account, or is for another app.
    Another,
}

/// Which token of a user it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UserTokenKind {
    /// An `id_token`.
    IdToken,
    /// An access token for the app's own API, as a JWT (RFC 9068; Entra's v2.0).
    AccessToken,
}

impl UserTokenKind {
    /// Returns its name in the audit log.
    pub fn as_str(self) -> &'static str {
        match self {
            UserTokenKind::IdToken => "id_token",
            UserTokenKind::AccessToken => "access_token",
        }
    }
}

/// The expectations that a token is checked against.
pub(super) struct Rules<'a> {
    pub(super) kind: UserTokenKind,
    pub(super) provider: Provider,
    pub(super) metadata: &'a Metadata,
    pub(super) client_id: &'a str,
    pub(super) tenants: &'a Tenants,
    /// The flow's nonce; `None` for a refresh, whose token need not repeat it.
    pub(super) nonce: Option<&'a str>,
    /// The access token in the same answer; `None` if the token came alone.
    pub(super) access_token: Option<&'a str>,
    pub(super) now: Timestamp,
}

/// A parsed token. Nothing of it is believed yet, except that its header can be used.
pub(super) struct UnverifiedToken<'a>(UnverifiedJwt<'a>);

impl<'a> UnverifiedToken<'a> {
    /// Parses a token.
    pub(super) fn parse(token: &'a str) -> Result<Self, IdTokenFault> {
        // A user's token of any kind; which kind is wanted, the rules say.
        Ok(UnverifiedToken(UnverifiedJwt::parse(token, &["JWT", "at+jwt", "application/at+jwt"])?))
    }

    /// Describes the broken rule and the token's value.
    pub(super) fn words(&self, fault: IdTokenFault) -> String {
        let algorithm =
            self.0.unverified_algorithm().map(|name| code_word(name).unwrap_or_else(|| one_line(name)));
        match (fault, algorithm) {
            (IdTokenFault::Algorithm, Some(name)) => format!("{fault} ({name})"),
            (IdTokenFault::Algorithm, None) => format!("{fault} (none is named)"),
            _ => fault.to_string(),
        }
    }

    /// Returns true if `keys` has the key that this token names. One that names none is of any key (OpenID
    /// Connect Core §10.1), so only the signature tells.
    pub(super) fn has_key_in(&self, keys: &KeySet) -> bool {
        let is_signed_by_another = || matches!(self.0.verify(Some(keys), |_| true), Err(JwtFault::Signature));
        self.0.has_key_in(keys) && (self.0.names_key() || !is_signed_by_another())
    }

    /// Checks everything: signature, key and claims. Returns the token's account. Without any keys the
    /// account cannot be known.
    pub(super) fn verify(&self, keys: Option<&KeySet>, rules: &Rules<'_>) -> Result<Account, IdTokenFault> {
        let media_type = self.0.unverified_type().map(str::to_ascii_lowercase);
        if self.0.is_fit() && !rules.allow_type(media_type.as_deref()) {
            return Err(IdTokenFault::WrongType);
        }
        let (key, algorithm) = self.0.verify(keys, |algorithm| rules.allow_algorithm(algorithm))?;
        let account = self.check_claims(algorithm, rules)?;
        self.check_key(key, &account, rules)?;
        Ok(account)
    }

    /// Judges what the token says about the answer to a refresh of `owner`'s grant. The answer came over TLS
    /// from the token endpoint itself, so a token that merely could not be verified still names its owner
    /// (OpenID Connect Core §3.1.3.7 item 6).
    pub(super) fn judge_renewal(
        &self,
        verified: Result<Account, IdTokenFault>,
        rules: &Rules<'_>,
        owner: &Account,
    ) -> Renewal {
        use IdTokenFault::{Audience, ClaimMissing, ClaimType, Issuer};
        let fault = match verified {
            Ok(account) if account.id() == owner.id() => return Renewal::Verified(account),
            Ok(_) => return Renewal::Another,
            Err(fault) => fault,
        };
        match self.check_identity(rules) {
            Ok(account) if account.id() != owner.id() => Renewal::Another,
            // The identity matches, and only a time is missing or odd.
            Ok(_) if fault.may_be_ours() || matches!(fault, ClaimMissing | ClaimType) => {
                Renewal::Unverified(fault)
            }
            Ok(_) => Renewal::Unjudged(fault),
            Err(Issuer | Audience) => Renewal::Another,
            Err(_) if self.contradicts(owner) => Renewal::Another,
            Err(fault) => Renewal::Unjudged(fault),
        }
    }

    /// Returns true if the readable identity claims name another account.
    fn contradicts(&self, owner: &Account) -> bool {
        let differs =
            |name: &str, own: &str| self.0.optional(name).is_some_and(|said| !said.eq_ignore_ascii_case(own));
        match (&owner.tid, &owner.oid) {
            (Some(tid), Some(oid)) => differs("tid", tid) || differs("oid", oid),
            _ => differs("sub", &owner.sub),
        }
    }

    fn check_claims(&self, algorithm: Algorithm, rules: &Rules<'_>) -> Result<Account, IdTokenFault> {
        let account = self.check_identity(rules)?;
        self.check_times(rules.now)?;
        if let Some(nonce) = rules.nonce
            && self.0.text("nonce")? != Some(nonce)
        {
            return Err(IdTokenFault::Nonce);
        }
        if let (Some(at_hash), Some(access_token)) = (self.0.optional("at_hash"), rules.access_token) {
            let hash = digest(algorithm.digest(), access_token.as_bytes());
            let half = &hash.as_ref()[..hash.as_ref().len() / 2];
            if at_hash != URL_SAFE_NO_PAD.encode(half) {
                return Err(IdTokenFault::AccessTokenHash);
            }
        }
        Ok(account)
    }

    /// Checks only the identity, issuer and audience. That is enough to see that a token names another
    /// account, but never, without the rest, to learn who somebody is.
    fn check_identity(&self, rules: &Rules<'_>) -> Result<Account, IdTokenFault> {
        let iss = self.0.need("iss")?;
        let sub = self.0.need("sub")?;
        if sub.len() > MAX_SUBJECT || !sub.chars().all(is_harmless) {
            return Err(IdTokenFault::ClaimType);
        }
        let ids = match rules.provider {
            Provider::OpenId => None,
            Provider::Entra => {
                let tid = self.0.need("tid")?.to_ascii_lowercase();
                if !is_guid(&tid) {
                    return Err(IdTokenFault::TenantId);
                }
                Some(tid)
            }
        };
        // Compared exactly, after the template's tenant was filled in.
        let issuer = rules.metadata.issuer.replace("{tenantid}", ids.as_deref().unwrap_or("{tenantid}"));
        if iss != issuer {
            return Err(IdTokenFault::Issuer);
        }
        if ids.as_deref().is_some_and(|tid| !iss.ends_with(&format!("/{tid}/v2.0"))) {
            return Err(IdTokenFault::TenantId);
        }
        self.check_audience(rules)?;
        let (tid, oid) = match ids {
            None => (None, None),
            Some(tid) => {
                if self.0.need("ver")? != "2.0" {
                    return Err(IdTokenFault::Version);
                }
                if !rules.tenants.allow_tenant(&tid) {
                    return Err(IdTokenFault::TenantNotAllowed);
                }
                let oid = self.0.need("oid")?.to_ascii_lowercase();
                if !is_guid(&oid) {
                    return Err(IdTokenFault::ObjectId);
                }
                (Some(tid), Some(oid))
            }
        };
        let names = ["preferred_username", "email"].into_iter().filter_map(|name| self.0.optional(name));
        let username = names.map(one_line).find(|name| !name.is_empty());
        Ok(Account { iss: iss.to_owned(), sub: sub.to_owned(), tid, oid, username })
    }

    /// Checks whom Entra's key may sign for. Without this rule a key for personal accounts, or for one
    /// tenant, is valid for every tenant's tokens: in 2023 that let attackers read mail (Storm-0558).
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

    fn check_audience(&self, rules: &Rules<'_>) -> Result<(), IdTokenFault> {
        let audiences = self.0.audiences()?;
        if !audiences.iter().any(|audience| rules.is_audience(audience)) {
            return Err(IdTokenFault::Audience);
        }
        if audiences.len() != 1 {
            return Err(IdTokenFault::ExtraAudience);
        }
        match (rules.kind, self.0.optional("azp")) {
            // An access token's `azp` is the app that got it for its user.
            (UserTokenKind::IdToken, Some(party)) if party != rules.client_id => {
                Err(IdTokenFault::AuthorizedParty)
            }
            _ => Ok(()),
        }
    }

    fn check_times(&self, now: Timestamp) -> Result<(), IdTokenFault> {
        let nbf = self.0.unverified_claims().0.get("nbf").filter(|nbf| nbf.is_number());
        let times = Times {
            expires_at: self.0.instant("exp")?.ok_or(IdTokenFault::ClaimMissing)?,
            issued_at: self.0.instant("iat")?.ok_or(IdTokenFault::ClaimMissing)?,
            valid_from: nbf.map(|_| self.0.instant("nbf")).transpose()?.flatten(),
        };
        Ok(times.check(now)?)
    }

    /// Iterates over optional claims of a wrong type.
    pub(super) fn odd_claims(&self) -> impl Iterator<Item = &'static str> {
        let is_odd = |name: &str, is_right: fn(&Value) -> bool| {
            self.0.unverified_claims().0.get(name).is_some_and(|value| !value.is_null() && !is_right(value))
        };
        let texts = ["at_hash", "azp", "preferred_username", "email"].into_iter();
        texts
            .filter(move |name| is_odd(name, Value::is_string))
            .chain(["nbf"].into_iter().filter(move |name| is_odd(name, Value::is_number)))
    }
}

impl Rules<'_> {
    /// Returns true for the app itself. Entra names an app's own API by its id or by its default URI.
    fn is_audience(&self, audience: &str) -> bool {
        audience == self.client_id
            || (self.kind, self.provider) == (UserTokenKind::AccessToken, Provider::Entra)
                && audience.strip_prefix("api://") == Some(self.client_id)
    }

    /// Returns true if a token of this kind may have this `typ`. Entra's access tokens say `JWT`, too; other
    /// providers' are told from an `id_token` by it (RFC 9068 §2.1).
    fn allow_type(&self, media_type: Option<&str>) -> bool {
        let is_jwt = media_type.is_none_or(|name| name == "jwt");
        let is_access_token = matches!(media_type, Some("at+jwt" | "application/at+jwt"));
        match (self.kind, self.provider) {
            (UserTokenKind::IdToken, _) => is_jwt,
            (UserTokenKind::AccessToken, Provider::Entra) => is_jwt || is_access_token,
            (UserTokenKind::AccessToken, Provider::OpenId) => is_access_token,
        }
    }

    /// The allow-list: RS256 for Entra; for other providers a known algorithm that the document names.
    fn allow_algorithm(&self, algorithm: Algorithm) -> bool {
        match self.provider {
            Provider::Entra => algorithm == Algorithm::Rs256,
            Provider::OpenId => {
                let named = self.metadata.id_token_algorithms.as_ref();
                // (Parsed before the comparison: EdDSA has two names.)
                let is_it = |named: &String| Algorithm::parse(named) == Some(algorithm);
                named.is_none_or(|named| named.iter().any(is_it))
            }
        }
    }
}
