//! The `id_token`, believed only if it satisfies every rule (OpenID Connect Core §3.1.3.7; RFC 8725; the
//! rules for Entra's templated issuers). Each rule has its own fault, whose name is a metric label.
//!
//! Times are checked against the given [`Clock`](crate::domain::time::Clock). `null` counts as absent. A
//! required claim of a wrong type is a fault; an optional one is ignored and named in a remark.

use std::time::Duration;

use aws_lc_rs::digest::digest;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::Value;

use super::clouds::Provider;
use super::discovery::Metadata;
use super::jwks::{Algorithm, Key, KeySet};
use super::text::{code_word, is_guid, is_harmless, one_line};
use super::wire::Object;
use crate::domain::account::Account;
use crate::domain::tenants::Tenants;
use crate::domain::time::Timestamp;

/// Allowed difference between clocks.
const SKEW: Duration = Duration::from_secs(60);
/// Longest `sub` (OpenID Connect Core §2).
const MAX_SUBJECT: usize = 255;

macro_rules! faults {
    ($($(#[$doc:meta])* $variant:ident => $word:literal),+ $(,)?) => {
        /// The rule that an `id_token` breaks.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum IdTokenFault { $($(#[$doc])* $variant),+ }

        impl IdTokenFault {
            /// All faults, for a metric's labels.
            pub const ALL: &'static [IdTokenFault] = &[$(IdTokenFault::$variant),+];

            /// Its name in metrics and logs.
            pub fn as_str(self) -> &'static str {
                match self { $(IdTokenFault::$variant => $word),+ }
            }
        }
    };
}

faults! {
    /// A redemption has no `id_token`.
    Missing => "missing",
    /// The token is not three parts of unpadded base64url with JSON objects in the first two.
    Malformed => "malformed",
    /// It has five parts: it is encrypted, which we did not ask for.
    Encrypted => "encrypted",
    /// `typ` is present and not `JWT`.
    WrongType => "wrong_type",
    /// `alg` is not allowed for this authority; `none` and the symmetric ones never are.
    Algorithm => "algorithm",
    /// `crit` is present: we support no extension (RFC 7515 §4.1.11).
    Critical => "critical",
    /// There is no `kid` to find a key by, and more than one key.
    NoKeyId => "no_key_id",
    /// No key has this id, even after a fetch.
    UnknownKey => "unknown_key",
    /// The key may not sign for this issuer, or belongs to another cloud.
    KeyIssuer => "key_issuer",
    /// The signature is wrong.
    Signature => "signature",
    /// A claim has a wrong JSON type or is out of range.
    ClaimType => "claim_type",
    /// A required claim is missing.
    ClaimMissing => "claim_missing",
    /// `iss` is not this authority's.
    Issuer => "issuer",
    /// `aud` is not our client id.
    Audience => "audience",
    /// `aud` names others besides us.
    ExtraAudience => "extra_audience",
    /// `azp` is present and not our client id.
    AuthorizedParty => "authorized_party",
    /// `exp` is in the past.
    Expired => "expired",
    /// `nbf` is in the future.
    NotYetValid => "not_yet_valid",
    /// `iat` is in the future.
    IssuedInFuture => "issued_in_future",
    /// `nonce` is not this flow's.
    Nonce => "nonce",
    /// `at_hash` is present and does not match the access token.
    AccessTokenHash => "access_token_hash",
    /// Entra: `ver` is not 2.0.
    Version => "version",
    /// Entra: `tid` is not a GUID, or not the one in `iss`.
    TenantId => "tenant_id",
    /// Entra: users of the tenant may not be connected.
    TenantNotAllowed => "tenant_not_allowed",
    /// Entra: `oid` is not a GUID.
    ObjectId => "object_id",
}

impl IdTokenFault {
    /// Returns true if the cause may be our clock, or our lack of keys or of an algorithm, and not the token.
    fn may_be_ours(self) -> bool {
        use IdTokenFault::{Algorithm, Expired, IssuedInFuture, NoKeyId, NotYetValid, UnknownKey};
        matches!(self, UnknownKey | NoKeyId | Algorithm | Expired | NotYetValid | IssuedInFuture)
    }
}

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

impl std::fmt::Display for IdTokenFault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The expectations that a token is checked against.
pub(super) struct Rules<'a> {
    pub(super) provider: Provider,
    pub(super) metadata: &'a Metadata,
    pub(super) client_id: &'a str,
    pub(super) tenants: &'a Tenants,
    /// The flow's nonce; `None` for a refresh, whose token need not repeat it.
    pub(super) nonce: Option<&'a str>,
    /// The access token in the same answer.
    pub(super) access_token: &'a str,
    pub(super) now: Timestamp,
}

/// A parsed token. Nothing of it is believed yet, except that its header can be used.
pub(super) struct UnverifiedToken<'a> {
    kid: Option<String>,
    /// As in the header.
    algorithm: Option<String>,
    /// Fault of the header, if any; then only the claims can be checked.
    unfit: Option<IdTokenFault>,
    claims: Object,
    signed: &'a str,
    /// Empty if it is not base64url, so that it never matches.
    signature: Vec<u8>,
}

impl<'a> UnverifiedToken<'a> {
    /// Parses a token. Key material and addresses in the header (`jku`, `jwk`, `x5u`, `x5c`) are ignored.
    pub(super) fn parse(token: &'a str) -> Result<Self, IdTokenFault> {
        // Six parts prove as much as more.
        let parts: Vec<&str> = token.splitn(6, '.').collect();
        let [header, claims, signature] = parts[..] else {
            return Err(if parts.len() == 5 { IdTokenFault::Encrypted } else { IdTokenFault::Malformed });
        };
        let decode = |part: &str| URL_SAFE_NO_PAD.decode(part).map_err(|_| IdTokenFault::Malformed);
        let object = |bytes: Vec<u8>| Object::parse(&bytes).map_err(|_| IdTokenFault::Malformed);
        let header = object(decode(header)?)?;
        let text = |name: &str| match header.0.get(name) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::String(text)) => Ok(Some(text.as_str())),
            Some(_) => Err(IdTokenFault::Malformed),
        };
        if header.0.contains_key("enc") {
            return Err(IdTokenFault::Encrypted);
        }
        let is_unfit = if header.0.contains_key("crit") {
            Some(IdTokenFault::Critical)
        } else if text("typ").is_ok_and(|kind| kind.is_some_and(|kind| !kind.eq_ignore_ascii_case("jwt"))) {
            Some(IdTokenFault::WrongType)
        } else {
            ["typ", "alg", "kid"].into_iter().find_map(|name| text(name).err())
        };
        let owned = |name: &str| text(name).ok().flatten().map(str::to_owned);
        let signed = &token[..token.len() - signature.len() - 1];
        let signature = decode(signature);
        Ok(UnverifiedToken {
            kid: owned("kid"),
            algorithm: owned("alg"),
            unfit: is_unfit.or(signature.as_ref().err().copied()),
            claims: object(decode(claims)?)?,
            signed,
            signature: signature.unwrap_or_default(),
        })
    }

    /// Describes the broken rule and the token's value.
    pub(super) fn words(&self, fault: IdTokenFault) -> String {
        let algorithm =
            self.algorithm.as_deref().map(|name| code_word(name).unwrap_or_else(|| one_line(name)));
        match (fault, algorithm) {
            (IdTokenFault::Algorithm, Some(name)) => format!("{fault} ({name})"),
            (IdTokenFault::Algorithm, None) => format!("{fault} (none is named)"),
            _ => fault.to_string(),
        }
    }

    /// Returns true if `keys` has a key with this token's id.
    pub(super) fn has_key_in(&self, keys: &KeySet) -> bool {
        !keys.find(self.kid.as_deref()).is_empty()
    }

    /// Checks everything: signature, key and claims. Returns the token's account. Without any keys the
    /// account cannot be known.
    pub(super) fn verify(&self, keys: Option<&KeySet>, rules: &Rules<'_>) -> Result<Account, IdTokenFault> {
        if let Some(fault) = self.unfit {
            return Err(fault);
        }
        let name = self.algorithm.as_deref().unwrap_or_default();
        let algorithm = Algorithm::parse(name).filter(|_| rules.allow_algorithm(name));
        let algorithm = algorithm.ok_or(IdTokenFault::Algorithm)?;
        let candidates = keys.map(|keys| keys.find(self.kid.as_deref())).unwrap_or_default();
        if candidates.is_empty() {
            return Err(if self.kid.is_none() { IdTokenFault::NoKeyId } else { IdTokenFault::UnknownKey });
        }
        let message = self.signed.as_bytes();
        let key = candidates.into_iter().find(|key| key.verifies(algorithm, message, &self.signature));
        let key = key.ok_or(IdTokenFault::Signature)?;
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
        let differs = |name: &str, own: &str| {
            let said = self.claims.0.get(name).and_then(Value::as_str).filter(|said| !said.is_empty());
            said.is_some_and(|said| !said.eq_ignore_ascii_case(own))
        };
        match (&owner.tid, &owner.oid) {
            (Some(tid), Some(oid)) => differs("tid", tid) || differs("oid", oid),
            _ => differs("sub", &owner.sub),
        }
    }

    fn check_claims(&self, algorithm: Algorithm, rules: &Rules<'_>) -> Result<Account, IdTokenFault> {
        let account = self.check_identity(rules)?;
        self.check_times(rules.now)?;
        if let Some(nonce) = rules.nonce
            && self.text("nonce")? != Some(nonce)
        {
            return Err(IdTokenFault::Nonce);
        }
        if let Some(at_hash) = self.optional("at_hash") {
            let hash = digest(algorithm.digest(), rules.access_token.as_bytes());
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
        let iss = self.need("iss")?;
        let sub = self.need("sub")?;
        if sub.len() > MAX_SUBJECT || !sub.chars().all(is_harmless) {
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
        // Compared exactly, after the template's tenant was filled in.
        let issuer = rules.metadata.issuer.replace("{tenantid}", ids.as_deref().unwrap_or("{tenantid}"));
        if iss != issuer {
            return Err(IdTokenFault::Issuer);
        }
        if ids.as_deref().is_some_and(|tid| !iss.ends_with(&format!("/{tid}/v2.0"))) {
            return Err(IdTokenFault::TenantId);
        }
        self.check_audience(rules.client_id)?;
        let (tid, oid) = match ids {
            None => (None, None),
            Some(tid) => {
                if self.need("ver")? != "2.0" {
                    return Err(IdTokenFault::Version);
                }
                if !rules.tenants.allow_tenant(&tid) {
                    return Err(IdTokenFault::TenantNotAllowed);
                }
                let oid = self.need("oid")?.to_ascii_lowercase();
                if !is_guid(&oid) {
                    return Err(IdTokenFault::ObjectId);
                }
                (Some(tid), Some(oid))
            }
        };
        let names = ["preferred_username", "email"].into_iter().filter_map(|name| self.optional(name));
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

    fn check_audience(&self, client_id: &str) -> Result<(), IdTokenFault> {
        match self.claims.0.get("aud") {
            None | Some(Value::Null) => return Err(IdTokenFault::ClaimMissing),
            Some(Value::Array(audiences)) if audiences.is_empty() => return Err(IdTokenFault::ClaimMissing),
            Some(Value::String(audience)) if audience.is_empty() => return Err(IdTokenFault::ClaimMissing),
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
        match self.optional("azp") {
            Some(party) if party != client_id => Err(IdTokenFault::AuthorizedParty),
            _ => Ok(()),
        }
    }

    fn check_times(&self, now: Timestamp) -> Result<(), IdTokenFault> {
        let exp = self.instant("exp")?.ok_or(IdTokenFault::ClaimMissing)?;
        let iat = self.instant("iat")?.ok_or(IdTokenFault::ClaimMissing)?;
        let nbf = self.claims.0.get("nbf").filter(|nbf| nbf.is_number());
        let nbf = nbf.map(|_| self.instant("nbf")).transpose()?.flatten();
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
        self.text(name)?.filter(|text| !text.is_empty()).ok_or(IdTokenFault::ClaimMissing)
    }

    /// Returns an optional claim, if it is a non-empty string.
    fn optional(&self, name: &str) -> Option<&str> {
        self.claims.0.get(name).and_then(Value::as_str).filter(|text| !text.is_empty())
    }

    /// Iterates over optional claims of a wrong type.
    pub(super) fn odd_claims(&self) -> impl Iterator<Item = &'static str> {
        let is_odd = |name: &str, is_right: fn(&Value) -> bool| {
            self.claims.0.get(name).is_some_and(|value| !value.is_null() && !is_right(value))
        };
        let texts = ["at_hash", "azp", "preferred_username", "email"].into_iter();
        texts
            .filter(move |name| is_odd(name, Value::is_string))
            .chain(["nbf"].into_iter().filter(move |name| is_odd(name, Value::is_number)))
    }

    fn text(&self, name: &str) -> Result<Option<&str>, IdTokenFault> {
        match self.claims.0.get(name) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(_) => Err(IdTokenFault::ClaimType),
        }
    }

    /// Returns a NumericDate (RFC 7519 §2): a JSON number, possibly with a fraction, from 1970 to 9999.
    fn instant(&self, name: &str) -> Result<Option<Timestamp>, IdTokenFault> {
        let Some(value) = self.claims.0.get(name).filter(|value| !value.is_null()) else { return Ok(None) };
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
    /// The allow-list: RS256 for Entra; for other providers a known algorithm that the document names.
    fn allow_algorithm(&self, name: &str) -> bool {
        match self.provider {
            Provider::Entra => name == "RS256",
            Provider::OpenId => {
                let named = self.metadata.id_token_algorithms.as_ref();
                // (Parsed before the comparison: EdDSA has two names.)
                let is_it = |named: &String| Algorithm::parse(named) == Algorithm::parse(name);
                named.is_none_or(|named| named.iter().any(is_it))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::authority::testing::{
        CLIENT_ID, NOW, OTHER_RSA, P256, RSA, TENANT_A, TENANT_B, USER, b64, jwt, p256_jwk, rsa_jwk,
    };
    use crate::authority::url::CheckedUrl;
    use crate::domain::account::PERSONAL_TENANT;
    use crate::domain::tenants::Listed;

    const NONCE: &str = "n-0S6_WzA2Mj";
    const HOST: &str = "https://login.microsoftonline.com";

    fn url(path: &str) -> CheckedUrl {
        CheckedUrl::parse(&format!("{HOST}{path}"), false).expect("a URL")
    }

    fn metadata(issuer: &str) -> Metadata {
        Metadata {
            issuer: issuer.to_owned(),
            authorization_endpoint: url("/authorize"),
            token_endpoint: url("/token"),
            jwks_uri: url("/keys"),
            iss_in_response: false,
            token_auth_methods: None,
            token_auth_algorithms: None,
            id_token_algorithms: None,
            offers_client_credentials: false,
            cloud_instance_name: Some("microsoftonline.com".to_owned()),
        }
    }

    /// One authority and one token, both open to a test's changes.
    struct Trial {
        provider: Provider,
        metadata: Metadata,
        tenants: Tenants,
        nonce: Option<&'static str>,
        now: i64,
        header: Value,
        claims: Value,
        keys: Value,
    }

    impl Trial {
        fn entra() -> Self {
            let mut key = rsa_jwk("k1", &RSA);
            key["issuer"] = format!("{HOST}/{{tenantid}}/v2.0").into();
            key["cloud_instance_name"] = "microsoftonline.com".into();
            Trial {
                provider: Provider::Entra,
                metadata: metadata(&format!("{HOST}/{{tenantid}}/v2.0")),
                tenants: Tenants::any_organization(),
                nonce: Some(NONCE),
                now: NOW,
                header: json!({ "alg": "RS256", "typ": "JWT", "kid": "k1" }),
                claims: json!({
                    "iss": format!("{HOST}/{TENANT_A}/v2.0"), "aud": CLIENT_ID, "sub": "pairwise",
                    "ver": "2.0",
                    "tid": TENANT_A, "oid": USER, "iat": NOW, "nbf": NOW, "exp": NOW + 3600, "nonce": NONCE,
                    "preferred_username": "alice@contoso.com",
                }),
                keys: json!({ "keys": [key] }),
            }
        }

        fn openid() -> Self {
            Trial {
                provider: Provider::OpenId,
                metadata: Metadata { cloud_instance_name: None, ..metadata("https://issuer.example") },
                claims: json!({
                    "iss": "https://issuer.example", "aud": [CLIENT_ID], "sub": "alice", "iat": NOW,
                    "exp": NOW + 300, "nonce": NONCE, "email": "alice@issuer.example",
                }),
                keys: json!({ "keys": [rsa_jwk("k1", &RSA), p256_jwk("k2", &P256)] }),
                ..Trial::entra()
            }
        }

        fn claim(mut self, name: &str, value: Value) -> Self {
            self.claims[name] = value;
            self
        }

        fn without(mut self, name: &str) -> Self {
            self.claims.as_object_mut().expect("an object").remove(name);
            self
        }

        fn header(mut self, name: &str, value: Value) -> Self {
            self.header[name] = value;
            self
        }

        fn key(mut self, name: &str, value: Value) -> Self {
            self.keys["keys"][0][name] = value;
            self
        }

        fn tenants(mut self, entries: &[&str]) -> Self {
            let mut listed = Listed::default();
            entries.iter().for_each(|entry| listed.add(entry).expect("an entry"));
            self.tenants = Tenants::Listed(listed);
            self
        }

        fn at(mut self, now: i64) -> Self {
            self.now = now;
            self
        }

        fn issuer(mut self, issuer: String) -> Self {
            self.metadata.issuer = issuer;
            self
        }

        fn token(&self) -> String {
            jwt(&self.header, &self.claims)
        }

        fn judge(&self) -> Result<Account, IdTokenFault> {
            self.judge_text(&self.token())
        }

        fn rules(&self) -> Rules<'_> {
            Rules {
                provider: self.provider,
                metadata: &self.metadata,
                client_id: CLIENT_ID,
                tenants: &self.tenants,
                nonce: self.nonce,
                access_token: "jHkWEdUXMU1BwAsC4vtUsZwnNvTIxEl0z9K3vx5KF0Y",
                now: Timestamp::from_unix_seconds(self.now),
            }
        }

        fn judge_text(&self, token: &str) -> Result<Account, IdTokenFault> {
            let rules = self.rules();
            let keys = KeySet::parse(self.keys.to_string().as_bytes()).expect("keys");
            UnverifiedToken::parse(token)?.verify(Some(&keys), &rules)
        }
    }

    #[test]
    fn good_tokens_name_their_account() {
        let account = Trial::entra().judge().expect("a good token");
        assert_eq!((account.tid.as_deref(), account.oid.as_deref()), (Some(TENANT_A), Some(USER)));
        assert_eq!(account.username.as_deref(), Some("alice@contoso.com"));
        let account = Trial::openid().judge().expect("a good token");
        assert_eq!((account.iss.as_str(), account.sub.as_str()), ("https://issuer.example", "alice"));
        assert_eq!((account.tid, account.username.as_deref()), (None, Some("alice@issuer.example")));
        assert!(Trial::openid().header("alg", json!("PS256")).judge().is_ok());
        assert!(Trial::openid().header("alg", json!("ES256")).header("kid", json!("k2")).judge().is_ok());
    }

    #[test]
    fn what_is_only_unusual_is_accepted() {
        let fine: Vec<(&str, Trial)> = vec![
            ("exp within the skew", Trial::entra().at(NOW + 3600 + 59)),
            ("iat and nbf within the skew", Trial::entra().at(NOW - 60)),
            ("a time with a fraction", Trial::entra().claim("iat", json!(1_795_391_999.5))),
            ("no nbf", Trial::entra().without("nbf")),
            ("our own azp", Trial::entra().claim("azp", json!(CLIENT_ID))),
            ("aud as a list of one", Trial::entra().claim("aud", json!([CLIENT_ID]))),
            ("no typ", Trial { header: json!({ "alg": "RS256", "kid": "k1" }), ..Trial::entra() }),
            ("typ in lower case", Trial::entra().header("typ", json!("jwt"))),
            ("kid null and one key", Trial::entra().header("kid", Value::Null)),
            ("typ null", Trial::entra().header("typ", Value::Null)),
            ("no name at all", Trial::entra().without("preferred_username")),
            ("a refresh's token without nonce", Trial { nonce: None, ..Trial::entra().without("nonce") }),
            (
                "key material in the header is not looked at",
                Trial::entra()
                    .header("jku", json!("https://evil.example/keys"))
                    .header("x5u", json!("https://evil.example/cert"))
                    .header("jwk", rsa_jwk("k1", &OTHER_RSA))
                    .header("x5c", json!(["MIIB"])),
            ),
            (
                "a key for this tenant alone",
                Trial::entra().key("issuer", json!(format!("{HOST}/{TENANT_A}/v2.0"))),
            ),
            ("a tenant that is listed", Trial::entra().tenants(&[TENANT_A])),
            (
                "a personal account where it is named",
                Trial::entra()
                    .claim("tid", json!(PERSONAL_TENANT))
                    .claim("iss", json!(format!("{HOST}/{PERSONAL_TENANT}/v2.0")))
                    .tenants(&["personal"]),
            ),
            ("one tenant's own issuer", Trial::entra().issuer(format!("{HOST}/{TENANT_A}/v2.0"))),
            (
                "a fitting at_hash (OpenID Connect Core A.3)",
                Trial::openid().claim("at_hash", json!("77QmUPtjPfzWtF2AnpK9RQ")),
            ),
        ];
        for (name, trial) in fine {
            assert!(trial.judge().is_ok(), "{name}: {:?}", trial.judge().err());
        }
    }

    #[test]
    fn a_claim_that_need_not_be_there_costs_nothing() {
        // Each alone; nothing reads them, so the other claims count as before.
        let names =
            ["preferred_username", "email", "azp", "at_hash", "nbf", "c_hash", "auth_time", "name", "acr"];
        for trial in [Trial::entra, Trial::openid] {
            for name in names {
                for value in [Value::Null, json!(true), json!({}), json!(["x"]), json!("")] {
                    let judged = trial().claim(name, value.clone()).judge();
                    assert!(judged.is_ok(), "{name} {value}: {:?}", judged.err());
                }
            }
        }
        let trial = Trial::openid().claim("preferred_username", json!(7));
        let account = trial.judge().expect("a good token");
        assert_eq!(account.username.as_deref(), Some("alice@issuer.example"), "the other name is there");
        let trial =
            Trial::openid().claim("azp", json!(1)).claim("nbf", json!("0")).claim("at_hash", Value::Null);
        let token = trial.token();
        let token = UnverifiedToken::parse(&token).expect("a token");
        assert_eq!(token.odd_claims().collect::<Vec<_>>(), ["azp", "nbf"]);
    }

    #[test]
    fn every_rule_refuses_by_its_own_name() {
        use IdTokenFault as F;
        let e = Trial::entra;
        let o = Trial::openid;
        let rows: Vec<(&str, Trial, F)> = vec![
            // Header.
            ("alg none", e().header("alg", json!("none")), F::Algorithm),
            ("alg nOnE", e().header("alg", json!("nOnE")), F::Algorithm),
            ("alg HS256 with the public key", e().header("alg", json!("HS256")), F::Algorithm),
            ("alg RS384 at Entra", e().header("alg", json!("RS384")), F::Algorithm),
            ("an algorithm that is not known", o().header("alg", json!("ES512")), F::Algorithm),
            ("an algorithm in other case", o().header("alg", json!("rs256")), F::Algorithm),
            ("alg PS256 at Entra", e().header("alg", json!("PS256")), F::Algorithm),
            ("alg ES256 at Entra", e().header("alg", json!("ES256")), F::Algorithm),
            ("no alg", Trial { header: json!({ "kid": "k1" }), ..e() }, F::Algorithm),
            ("alg a number", e().header("alg", json!(1)), F::Malformed),
            (
                "alg that the document does not name",
                {
                    let mut trial = o().header("alg", json!("PS256"));
                    trial.metadata.id_token_algorithms = Some(vec!["RS256".into()]);
                    trial
                },
                F::Algorithm,
            ),
            (
                "alg none although the document names it",
                {
                    let mut trial = o().header("alg", json!("none"));
                    trial.metadata.id_token_algorithms = Some(vec!["none".into()]);
                    trial
                },
                F::Algorithm,
            ),
            ("crit", e().header("crit", json!(["exp"])), F::Critical),
            ("crit with b64", e().header("crit", json!(["b64"])).header("b64", json!(false)), F::Critical),
            ("an access token's typ", e().header("typ", json!("at+jwt")), F::WrongType),
            ("typ a list", e().header("typ", json!(["JWT"])), F::Malformed),
            ("enc in the header", e().header("enc", json!("A256GCM")), F::Encrypted),
            ("no kid among several keys", Trial { header: json!({ "alg": "RS256" }), ..o() }, F::NoKeyId),
            ("an unknown kid", e().header("kid", json!("k9")), F::UnknownKey),
            ("a kid that is a path", e().header("kid", json!("../../k1")), F::UnknownKey),
            ("an empty kid", e().header("kid", json!("")), F::UnknownKey),
            // Key.
            (
                "another key under the same kid",
                Trial { keys: json!({ "keys": [rsa_jwk("k1", &OTHER_RSA)] }), ..e() },
                F::Signature,
            ),
            ("an RSA signature under an elliptic key's kid", o().header("kid", json!("k2")), F::Signature),
            ("a key for another algorithm", o().key("alg", json!("PS256")), F::Signature),
            (
                "a key of tenant A for a token of tenant B",
                e().claim("tid", json!(TENANT_B))
                    .claim("iss", json!(format!("{HOST}/{TENANT_B}/v2.0")))
                    .key("issuer", json!(format!("{HOST}/{TENANT_A}/v2.0"))),
                F::KeyIssuer,
            ),
            (
                "a personal accounts' key for a tenant's token",
                e().key("issuer", json!(format!("{HOST}/{PERSONAL_TENANT}/v2.0"))),
                F::KeyIssuer,
            ),
            (
                "a key of the older endpoint",
                e().key("issuer", json!("https://sts.windows.net/{tenantid}/")),
                F::KeyIssuer,
            ),
            (
                "a key of another cloud",
                e().key("cloud_instance_name", json!("microsoftonline.us")),
                F::KeyIssuer,
            ),
            // Issuer and audience.
            ("another issuer", e().claim("iss", json!("https://evil.example/v2.0")), F::Issuer),
            ("the literal template", e().claim("iss", json!(format!("{HOST}/{{tenantid}}/v2.0"))), F::Issuer),
            (
                "the older endpoint's issuer",
                e().claim("iss", json!(format!("https://sts.windows.net/{TENANT_A}/"))),
                F::Issuer,
            ),
            (
                "an issuer with a slash more",
                e().claim("iss", json!(format!("{HOST}/{TENANT_A}/v2.0/"))),
                F::Issuer,
            ),
            ("an issuer in other case", o().claim("iss", json!("https://Issuer.example")), F::Issuer),
            (
                "an issuer of another tenant than tid",
                e().claim("iss", json!(format!("{HOST}/{TENANT_B}/v2.0"))),
                F::Issuer,
            ),
            (
                "tid of another tenant than a fixed issuer's",
                e().claim("tid", json!(TENANT_B)).issuer(format!("{HOST}/{TENANT_A}/v2.0")),
                F::TenantId,
            ),
            (
                "another tenant than the authority's",
                e().claim("tid", json!(TENANT_B))
                    .claim("iss", json!(format!("{HOST}/{TENANT_B}/v2.0")))
                    .issuer(format!("{HOST}/{TENANT_A}/v2.0")),
                F::Issuer,
            ),
            ("iss missing", e().without("iss"), F::ClaimMissing),
            ("iss null", o().claim("iss", Value::Null), F::ClaimMissing),
            ("iss a number", o().claim("iss", json!(1)), F::ClaimType),
            ("iss a list", o().claim("iss", json!(["https://issuer.example"])), F::ClaimType),
            (
                "another audience",
                e().claim("aud", json!("66666666-2222-3333-4444-555555555555")),
                F::Audience,
            ),
            ("audience in other case", e().claim("aud", json!(format!("{CLIENT_ID} "))), F::Audience),
            ("a list without us", e().claim("aud", json!(["x"])), F::Audience),
            ("an empty list", e().claim("aud", json!([])), F::ClaimMissing),
            ("an empty audience", e().claim("aud", json!("")), F::ClaimMissing),
            ("a list with others", e().claim("aud", json!([CLIENT_ID, "x"])), F::ExtraAudience),
            ("us twice", e().claim("aud", json!([CLIENT_ID, CLIENT_ID])), F::ExtraAudience),
            ("aud an object", e().claim("aud", json!({ "0": CLIENT_ID })), F::ClaimType),
            ("aud a list of numbers", e().claim("aud", json!([1])), F::ClaimType),
            ("aud missing", e().without("aud"), F::ClaimMissing),
            ("aud null", e().claim("aud", Value::Null), F::ClaimMissing),
            ("aud a number", e().claim("aud", json!(1)), F::ClaimType),
            ("another azp", e().claim("azp", json!("x")), F::AuthorizedParty),
            // Times.
            ("expired", e().at(NOW + 3660), F::Expired),
            ("exp a string", e().claim("exp", json!("9999999999")), F::ClaimType),
            ("exp null", e().claim("exp", Value::Null), F::ClaimMissing),
            ("nbf beyond all time", e().claim("nbf", json!(1e300)), F::ClaimType),
            ("exp negative", e().claim("exp", json!(-1)), F::ClaimType),
            ("exp beyond all time", e().claim("exp", json!(1e300)), F::ClaimType),
            ("exp missing", e().without("exp"), F::ClaimMissing),
            ("nbf to come", e().claim("nbf", json!(NOW + 61)), F::NotYetValid),
            ("iat to come", e().claim("iat", json!(NOW + 61)), F::IssuedInFuture),
            ("iat a list", e().claim("iat", json!([NOW])), F::ClaimType),
            ("iat missing", e().without("iat"), F::ClaimMissing),
            // Nonce and access token.
            ("another nonce", e().claim("nonce", json!("n-0S6_WzA2Mk")), F::Nonce),
            ("nonce missing", e().without("nonce"), F::Nonce),
            ("nonce a number", e().claim("nonce", json!(1)), F::ClaimType),
            ("nonce null", e().claim("nonce", Value::Null), F::Nonce),
            (
                "at_hash of another token",
                o().claim("at_hash", json!("87QmUPtjPfzWtF2AnpK9RQ")),
                F::AccessTokenHash,
            ),
            // Identity.
            ("sub missing", e().without("sub"), F::ClaimMissing),
            ("sub empty", e().claim("sub", json!("")), F::ClaimMissing),
            ("sub that reads backwards", o().claim("sub", json!("ali\u{202e}ecila")), F::ClaimType),
            ("sub with what nobody sees", o().claim("sub", json!("alice\u{200b}")), F::ClaimType),
            ("sub with a soft hyphen", o().claim("sub", json!("ali\u{ad}ce")), F::ClaimType),
            ("sub with a control character", o().claim("sub", json!("alice\u{7}")), F::ClaimType),
            ("sub too long", e().claim("sub", json!("x".repeat(256))), F::ClaimType),
            ("sub a number", e().claim("sub", json!(7)), F::ClaimType),
            ("sub null", e().claim("sub", Value::Null), F::ClaimMissing),
            ("sub a list", e().claim("sub", json!(["pairwise"])), F::ClaimType),
            ("oid null", e().claim("oid", Value::Null), F::ClaimMissing),
            ("oid empty", e().claim("oid", json!("")), F::ClaimMissing),
            ("tid null", e().claim("tid", Value::Null), F::ClaimMissing),
            ("sub with a line break", e().claim("sub", json!("a\nb")), F::ClaimType),
            ("tid missing", e().without("tid"), F::ClaimMissing),
            ("tid no GUID", e().claim("tid", json!("contoso.com")), F::TenantId),
            ("tid that climbs", e().claim("tid", json!("../common")), F::TenantId),
            ("oid missing", e().without("oid"), F::ClaimMissing),
            ("oid no GUID", e().claim("oid", json!("alice@contoso.com")), F::ObjectId),
            ("ver 1.0", e().claim("ver", json!("1.0")), F::Version),
            ("ver a number", e().claim("ver", json!(2.0)), F::ClaimType),
            ("ver missing", e().without("ver"), F::ClaimMissing),
            ("a tenant that is not listed", e().tenants(&[TENANT_B]), F::TenantNotAllowed),
            ("no tenant is listed", e().tenants(&[]), F::TenantNotAllowed),
            ("personal accounts only", e().tenants(&["personal"]), F::TenantNotAllowed),
            (
                "a personal account under *",
                e().claim("tid", json!(PERSONAL_TENANT))
                    .claim("iss", json!(format!("{HOST}/{PERSONAL_TENANT}/v2.0"))),
                F::TenantNotAllowed,
            ),
        ];
        assert!(rows.len() >= 60);
        for (name, trial, fault) in rows {
            assert_eq!(trial.judge().err(), Some(fault), "{name}");
        }
    }

    #[test]
    fn bytes_that_are_no_token_are_refused() {
        use IdTokenFault as F;
        let trial = Trial::entra();
        let token = trial.token();
        let parts: Vec<&str> = token.split('.').collect();
        let doubled = r#"{"alg":"RS256","alg":"none","kid":"k1"}"#;
        let claims_doubled = trial.claims.to_string().replacen('{', r#"{"tid":"x","#, 1);
        let rows = [
            (String::new(), F::Malformed),
            ("a.b".to_owned(), F::Malformed),
            ("..".to_owned(), F::Malformed),
            (format!("{token}."), F::Malformed),
            (format!("{token}=="), F::Malformed),
            (format!(" {token}"), F::Malformed),
            (format!("{token}.x.y"), F::Encrypted),
            (format!("{}.{}.", parts[0], parts[1]), F::Signature),
            (format!("{}.{}.{}", b64("[]"), parts[1], parts[2]), F::Malformed),
            (format!("{}.{}.{}", b64(doubled), parts[1], parts[2]), F::Malformed),
            (format!("{}.{}.{}", parts[0], b64(claims_doubled), parts[2]), F::Malformed),
            (format!("{}.{}.{}", parts[0], b64("x"), parts[2]), F::Malformed),
        ];
        for (text, fault) in rows {
            assert_eq!(trial.judge_text(&text).err(), Some(fault), "{text}");
        }
    }

    #[test]
    fn no_flipped_bit_survives() {
        let trial = Trial::entra();
        let token = trial.token();
        assert!(trial.judge_text(&token).is_ok());
        for at in (0..token.len()).step_by(7) {
            let mut bytes = token.clone().into_bytes();
            bytes[at] = if bytes[at] == b'A' { b'B' } else { b'A' };
            let changed = String::from_utf8(bytes).expect("ASCII");
            assert!(trial.judge_text(&changed).is_err(), "byte {at}");
        }
    }

    #[test]
    fn one_name_and_two_object_ids_are_two_accounts() {
        let first = Trial::entra().judge().expect("a good token");
        let other = Trial::entra().claim("oid", json!("dddddddd-0000-4000-8000-00000000000d")).judge();
        assert_ne!(first.id(), other.expect("a good token").id());
    }

    #[test]
    fn the_words_are_distinct() {
        let words: std::collections::HashSet<_> =
            IdTokenFault::ALL.iter().map(|fault| fault.as_str()).collect();
        assert_eq!(words.len(), IdTokenFault::ALL.len());
    }
}
