//! One issuer of callers' tokens, and what its tokens must satisfy (RFC 7519; RFC 8725; RFC 9068 §4).

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use super::held_keys::HeldKeys;
use super::refusal::JwtRefusal;
use crate::domain::clouds::{is_audience_of_app, is_graph_audience};
use crate::domain::time::Timestamp;
use crate::jwt::{PublishedKeys, Times, UnverifiedJwt};

/// The `typ` of tokens that name a caller: JWTs of no kind in particular, access tokens (RFC 9068 §2.1), and
/// SPIFFE's JWT-SVIDs. Kubernetes' have none.
pub(super) const TYPES: [&str; 4] = ["JWT", "at+jwt", "application/at+jwt", "JOSE"];

/// One `[issuers.NAME]`, checked.
pub struct Issuer {
    /// Its name in the configuration.
    pub name: String,
    /// The `iss` of its tokens.
    pub iss: String,
    /// The `aud` that its tokens must have.
    pub audience: String,
    /// The longest life of a token, from `iat` to `exp`.
    pub max_ttl: Duration,
    /// Client ids of the apps: their tokens are no credentials of callers.
    pub not_for: BTreeSet<String>,
    /// Its keys.
    pub keys: Arc<HeldKeys>,
}

impl Issuer {
    /// Returns true if the token's key is held.
    pub(super) fn holds_key_of(&self, token: &UnverifiedJwt<'_>) -> bool {
        self.keys.held().is_some_and(|keys| token.has_key_in(&keys.keys))
    }

    /// Checks signature, audience and times. Waits for a fetch only if the token's key is not held. Returns
    /// the keys that it was checked with, and its times.
    pub(super) async fn verify(
        &self,
        token: &UnverifiedJwt<'_>,
        now: impl Fn() -> Timestamp,
    ) -> Result<(Arc<PublishedKeys>, Times), JwtRefusal> {
        let has_key = |keys: &Arc<PublishedKeys>| token.has_key_in(&keys.keys);
        let keys = match self.keys.held().filter(has_key) {
            Some(keys) => keys,
            None => self.keys.after_miss().await.ok_or(JwtRefusal::NoKeys)?,
        };
        token.verify(Some(&keys.keys), |algorithm| keys.allow(algorithm))?;
        let times = self.check_claims(token, now())?;
        Ok((keys, times))
    }

    fn check_claims(&self, token: &UnverifiedJwt<'_>, now: Timestamp) -> Result<Times, JwtRefusal> {
        let audiences = token.audiences()?;
        if !audiences.contains(&self.audience.as_str()) {
            return Err(JwtRefusal::Audience);
        }
        let is_of_app = |audience: &&str| self.not_for.iter().any(|id| is_audience_of_app(audience, id));
        if audiences.iter().any(|audience| is_of_app(audience) || is_graph_audience(audience)) {
            return Err(JwtRefusal::OwnApp);
        }
        let times = token.times()?;
        times.check(now)?;
        if times.expires_at.since(times.issued_at) > self.max_ttl {
            return Err(JwtRefusal::Life);
        }
        Ok(times)
    }
}
