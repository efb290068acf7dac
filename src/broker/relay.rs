//! Relaying: whether a caller may have a request sent with a connection's token, where it goes, and the
//! token.

use std::sync::Arc;

use super::{Broker, MailboxName, Refusal, Turns};
use crate::domain::connection::Profile;
use crate::domain::id::{CallerName, ConnectionKey};
use crate::domain::scope::ScopeNaming;
use crate::domain::task::Tasks;
use crate::outbound::Resource;
use crate::policy::{Permit, Provisional};
use crate::refresh::plan::ORDINARY_MIN_TTL;
use crate::refresh::{Claims, Held, Served, Want};
use crate::relay::{self, Base, CanonicalPath, Owner};

/// A base of an app, and how it is reached.
pub struct RelayBase {
    /// The base.
    pub base: Base,
    /// The resource of its tokens; none where the authority has no resources.
    pub resource: Option<String>,
    /// The way there.
    pub way: Arc<Resource>,
    /// How many requests it takes at a time at one mailbox; none where it does not count so.
    pub at_mailbox: Option<u32>,
}

/// A resource refused a token.
pub struct Rejected {
    /// Lower-case hex SHA-256 of the token.
    pub digest: String,
    /// Its claims challenge, if it sent one that may be passed on.
    pub claims: Option<Claims>,
}

impl Broker {
    /// Runs what watches over a relayed answer.
    pub fn tasks(&self) -> Arc<dyn Tasks> {
        Arc::clone(&self.deps.tasks)
    }

    /// Waits until the requests with these paths have their turn at their mailboxes. Those of one mailbox
    /// take as many places as there are, at most all: a resource runs the requests of a batch side by side.
    ///
    /// # Errors
    /// The turn does not come within `caller_wait`.
    pub async fn mailbox_turns(
        &self,
        key: &ConnectionKey,
        caller: &CallerName,
        (to, served): (&RelayBase, &Served),
        paths: &[CanonicalPath],
    ) -> Result<Turns, Refusal> {
        let Some(most) = to.at_mailbox else { return Ok(Turns::default()) };
        let account = served.held.connection.profile.account();
        let owner =
            Owner { oid: account.oid.as_deref(), username: account.username.as_deref(), sub: &account.sub };
        let named = paths.iter().map(|path| {
            let mailbox = relay::mailbox(path, owner)?;
            Some(MailboxName { app: key.app.clone(), mailbox })
        });
        let (named, patience) = (named.collect::<Vec<_>>(), self.settings.load().caller_wait);
        let turns = self.mailboxes.turns(&named, caller, most, patience).await;
        turns.map_err(|busy| Refusal::MailboxBusy { retry_after: busy.retry_after })
    }

    /// Gets the token for a request to a base, if `judge` lets the caller have it relayed. After a resource's
    /// refusal it is another token than that one.
    pub async fn relay_token(
        &self,
        permit: Provisional<'_>,
        base: &str,
        judge: impl Fn(&Permit, &Profile) -> Result<(), Refusal>,
        rejected: Option<Rejected>,
    ) -> Result<(Served, Arc<RelayBase>), Refusal> {
        let app = self.app(&permit.key().app)?;
        let to = app.bases.iter().find(|one| one.base.name() == base).cloned();
        let (digest, claims) = rejected.map_or((None, None), |one| (Some(one.digest), one.claims));
        let want = |held: &Held| -> Result<Want, Refusal> {
            let profile = &held.connection.profile;
            judge(&permit.of_tenant(profile.account().tid.as_deref())?, profile)?;
            // (A rule names bases of its app alone, so nobody is told of one that is not there.)
            let resource = to.as_ref().and_then(|to| to.resource.clone());
            let scopes = match (app.naming(), &resource) {
                (ScopeNaming::Entra { .. }, Some(name)) => held.granted.of_resource(Some(name)),
                _ => held.granted.clone(),
            };
            if let (true, Some(name)) = (scopes.resources().is_empty(), &resource) {
                return Err(Refusal::ScopeNotGranted { scopes: vec![format!("{name}/.default")] });
            }
            Ok(Want {
                by: Some(permit.caller().clone()),
                resource,
                scopes,
                min_ttl: ORDINARY_MIN_TTL,
                rejected: digest.clone(),
                claims: claims.clone(),
                // The relay answers challenges.
                cae: true,
            })
        };
        let served = self.deps.engine.serve(permit.key(), want).await?;
        let to = to.ok_or_else(|| Refusal::invalid("base", "the app has no base of this name"))?;
        Ok((served, to))
    }
}
