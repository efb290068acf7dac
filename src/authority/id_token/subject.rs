//! A user's token that a caller presents in an exchange (RFC 8693): an `id_token`, or an access token for the
//! app's own API. It is judged by the rules of a sign-in, and by a few of its own.

use serde_json::{Map, Value};

use super::{IdTokenFault, MAX_SUBJECT, Provider, Rules, UnverifiedToken, UserTokenKind};
use crate::authority::text::is_harmless;
use crate::domain::account::AccountId;
use crate::jwt::keys::KeySet;

/// Most parties in a chain of `act` claims. Delegation deeper than this is a mistake or an attack.
const MOST_ACTORS: usize = 4;

/// The user that a verified token is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subject {
    /// The user's account.
    pub account: AccountId,
    /// Those who act for the user, the latest first (`act`, RFC 8693 §4.1).
    pub actors: Vec<Delegate>,
    /// The only party that may act for the user, if the token names one (`may_act`, RFC 8693 §4.4).
    pub may_act: Option<Delegate>,
}

/// A party that acts for a user, or may.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Delegate {
    /// Its `sub`.
    pub sub: String,
    /// Its `iss`, if it is named. Without one the party is known to whoever issued the token.
    pub iss: Option<String>,
}

impl UnverifiedToken<'_> {
    /// Checks only that the token says it is for this app: its issuer and its audience. Nothing is believed
    /// yet; this only tells whether looking for its key is worthwhile.
    pub(in crate::authority) fn claims_to_be_for(&self, rules: &Rules<'_>) -> Result<(), IdTokenFault> {
        self.check_identity(rules).map(|_| ())
    }

    /// Returns true if the token names this audience, whatever else it says.
    pub(in crate::authority) fn names_audience(&self, client_id: &str) -> bool {
        let is_it = |audience: &str| audience.strip_prefix("api://").unwrap_or(audience) == client_id;
        match self.0.unverified_claims().0.get("aud") {
            Some(Value::String(audience)) => is_it(audience),
            Some(Value::Array(audiences)) => audiences.iter().filter_map(Value::as_str).any(is_it),
            _ => false,
        }
    }

    /// Returns which kind of token it says it is.
    pub(in crate::authority) fn claimed_kind(&self) -> UserTokenKind {
        let media_type = self.0.unverified_type().map(str::to_ascii_lowercase);
        let says_so = matches!(media_type.as_deref(), Some("at+jwt" | "application/at+jwt"));
        if says_so || self.0.optional("scp").is_some() {
            UserTokenKind::AccessToken
        } else {
            UserTokenKind::IdToken
        }
    }

    /// Checks everything, and returns the user.
    pub(in crate::authority) fn verify_subject(
        &self,
        keys: &KeySet,
        rules: &Rules<'_>,
    ) -> Result<Subject, IdTokenFault> {
        let account = self.verify(Some(keys), rules)?;
        self.check_kind(rules)?;
        Ok(Subject { account: account.id(), actors: self.actors()?, may_act: self.may_act()? })
    }

    /// Tells a user's access token from an `id_token`, and from one that an app got for itself.
    fn check_kind(&self, rules: &Rules<'_>) -> Result<(), IdTokenFault> {
        // Entra puts a user's permissions into `scp`. An app's own token has `roles` and no `scp`.
        let has_permissions = self.0.optional("scp").is_some();
        let is_right = match (rules.kind, rules.provider) {
            (UserTokenKind::IdToken, _) => !has_permissions,
            (UserTokenKind::AccessToken, Provider::Entra) => {
                has_permissions && self.0.optional("idtyp") != Some("app")
            }
            // RFC 9068 §2.2 and §5: an app that got a token for itself is its subject.
            (UserTokenKind::AccessToken, Provider::OpenId) => {
                self.0.need("client_id")? != self.0.need("sub")? && self.0.need("sub")? != rules.client_id
            }
        };
        if is_right { Ok(()) } else { Err(IdTokenFault::AnotherKind) }
    }

    fn actors(&self) -> Result<Vec<Delegate>, IdTokenFault> {
        let mut actors = Vec::new();
        let mut next = self.0.unverified_claims().0.get("act").filter(|act| !act.is_null());
        while let Some(act) = next {
            if actors.len() == MOST_ACTORS {
                return Err(IdTokenFault::Actor);
            }
            let act = act.as_object().ok_or(IdTokenFault::Actor)?;
            actors.push(delegate(act)?);
            next = act.get("act").filter(|act| !act.is_null());
        }
        Ok(actors)
    }

    fn may_act(&self) -> Result<Option<Delegate>, IdTokenFault> {
        let may_act = self.0.unverified_claims().0.get("may_act").filter(|may_act| !may_act.is_null());
        may_act.map(|may_act| delegate(may_act.as_object().ok_or(IdTokenFault::Actor)?)).transpose()
    }
}

fn delegate(object: &Map<String, Value>) -> Result<Delegate, IdTokenFault> {
    let text = |name: &str| match object.get(name) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text))
            if !text.is_empty() && text.len() <= MAX_SUBJECT && text.chars().all(is_harmless) =>
        {
            Ok(Some(text.clone()))
        }
        Some(_) => Err(IdTokenFault::Actor),
    };
    Ok(Delegate { sub: text("sub")?.ok_or(IdTokenFault::Actor)?, iss: text("iss")? })
}
