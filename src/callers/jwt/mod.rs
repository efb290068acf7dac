//! Callers by JWT: from the text of a token to the caller that it names.

mod held_keys;
mod issuer;
mod refusal;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use serde_json::{Map, Value};

pub use self::held_keys::{HeldKeys, KeyObserver, KeyParts};
pub use self::issuer::Issuer;
pub use self::refusal::JwtRefusal;
use super::Caller;
use crate::domain::time::Clock;
use crate::jwt::UnverifiedJwt;

/// Longest token, in bytes. A service account's has some 1,100; one of Entra with many roles a few thousand.
pub(super) const MAX_TOKEN: usize = 8 * 1024;

/// Every configured issuer, by its name.
pub type Issuers = BTreeMap<String, Arc<Issuer>>;

/// The tokens that are one caller: those of an issuer with this subject and these claims.
#[derive(Debug, Clone, PartialEq)]
pub struct JwtMatch {
    /// The issuer's name in the configuration.
    pub issuer: String,
    /// The exact `sub`; `None` for any.
    pub subject: Option<String>,
    /// Claims with these values. An object's members are compared one by one; a list has to contain the
    /// value.
    pub claims: Map<String, Value>,
}

impl JwtMatch {
    fn fits(&self, subject: Option<&str>, claims: &Map<String, Value>) -> bool {
        self.subject.as_deref().is_none_or(|expected| subject == Some(expected))
            && self.claims.iter().all(|(name, expected)| has(claims.get(name), expected))
    }
}

/// Returns true if a claim is `expected`, or a list that contains it, or an object with these members.
fn has(claim: Option<&Value>, expected: &Value) -> bool {
    match (claim, expected) {
        (Some(Value::Object(claim)), Value::Object(members)) => {
            members.iter().all(|(name, expected)| has(claim.get(name), expected))
        }
        (Some(Value::Array(list)), expected) => list.contains(expected),
        (claim, expected) => claim == Some(expected),
    }
}

/// The callers of each issuer's tokens.
pub(super) struct JwtCallers {
    /// Several issuers may have the same `iss`, as Kubernetes clusters do that were set up alike; their keys
    /// differ.
    by_iss: HashMap<String, Vec<(Arc<Issuer>, Matches)>>,
}

/// The callers of one issuer's tokens.
#[derive(Default)]
struct Matches {
    by_subject: HashMap<String, Vec<(JwtMatch, Arc<Caller>)>>,
    by_claims: Vec<(JwtMatch, Arc<Caller>)>,
}

impl Matches {
    fn find(&self, token: &UnverifiedJwt<'_>) -> Result<Arc<Caller>, JwtRefusal> {
        let subject = token.text("sub")?;
        let of_subject = subject.and_then(|subject| self.by_subject.get(subject)).into_iter().flatten();
        let claims = &token.unverified_claims().0;
        let fitting = of_subject.chain(&self.by_claims).filter(|(wanted, _)| wanted.fits(subject, claims));
        let mut callers = fitting.map(|(_, caller)| caller);
        let caller = callers.next().ok_or(JwtRefusal::NoCaller)?;
        if callers.any(|other| other.name != caller.name) {
            return Err(JwtRefusal::SeveralCallers);
        }
        Ok(Arc::clone(caller))
    }
}

impl JwtCallers {
    /// Makes the index. A match of an unknown issuer fits no token.
    pub(super) fn new(issuers: &Issuers, callers: Vec<(JwtMatch, Arc<Caller>)>) -> Self {
        let mut matches: HashMap<String, Matches> = HashMap::new();
        for (wanted, caller) in callers {
            let of_issuer = matches.entry(wanted.issuer.clone()).or_default();
            match wanted.subject.clone() {
                Some(subject) => of_issuer.by_subject.entry(subject).or_default().push((wanted, caller)),
                None => of_issuer.by_claims.push((wanted, caller)),
            }
        }
        let mut by_iss: HashMap<String, Vec<(Arc<Issuer>, Matches)>> = HashMap::new();
        for (name, issuer) in issuers {
            let of_issuer = matches.remove(name).unwrap_or_default();
            by_iss.entry(issuer.iss.clone()).or_default().push((Arc::clone(issuer), of_issuer));
        }
        JwtCallers { by_iss }
    }

    /// Finds the caller of a token.
    pub(super) async fn authenticate(
        &self,
        text: &str,
        clock: &dyn Clock,
    ) -> Result<Arc<Caller>, JwtRefusal> {
        if text.len() > MAX_TOKEN {
            return Err(JwtRefusal::TooLong);
        }
        let token = UnverifiedJwt::parse(text, &issuer::TYPES)?;
        let issuers = self.by_iss.get(token.need("iss")?).ok_or(JwtRefusal::Issuer)?;
        // Of several issuers of this name, those that have the token's key: the others are not asked for it.
        let holders: Vec<_> = issuers.iter().filter(|(issuer, _)| issuer.holds_key_of(&token)).collect();
        let issuers = if holders.is_empty() { issuers.iter().collect() } else { holders };
        let mut refusal = JwtRefusal::UnknownKey;
        for (issuer, matches) in issuers {
            match issuer.verify(&token, || clock.now()).await {
                Ok(_) => return matches.find(&token),
                Err(other) => refusal = other,
            }
        }
        Err(refusal)
    }
}
