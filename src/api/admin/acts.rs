//! What operators may do, each act with its record. The admin API and the console call the same functions, so
//! that neither forgets to write it down. (A reconnect link is the console's alone.)

use super::AdminApi;
use crate::api::code_of;
use crate::api::problem::Problem;
use crate::api::upkeep::Reloaded;
use crate::broker::Refusal;
use crate::broker::connect::StartedSession;
use crate::broker::credentials::Verified;
use crate::broker::pause::PausedWhat;
use crate::broker::revoke::Meant;
use crate::domain::choice::Choice;
use crate::domain::id::{AppName, CallerName, ConnectionKey};
use crate::domain::revocation::Revocation;
use crate::events::{About, Who};

/// An operator who acts.
#[derive(Clone, Copy)]
pub(super) struct Acting<'a> {
    pub(super) api: &'a AdminApi,
    /// The name in `[admins]`, or the uid.
    pub(super) admin: &'a str,
    pub(super) who: Who<'a>,
}

impl Acting<'_> {
    /// Reads configuration and secrets again.
    pub(super) async fn reload(&self) -> Reloaded {
        let reloaded = self.api.upkeep.reload().await;
        let code = if reloaded.result.is_ok() { "ok" } else { "refused" };
        self.api.events.operated(self.who, self.admin, "reload", code, About::default()).await;
        reloaded
    }

    /// Ends every connection that the revocation means.
    pub(super) async fn revoke(
        &self,
        revocation: &Revocation,
        even_if_unknown: bool,
    ) -> Result<Meant, Problem> {
        let outcome = self.api.broker.revoke(revocation.clone(), even_if_unknown).await;
        let meant = outcome.as_ref().ok();
        self.api.events.revoked(self.who, self.admin, revocation, meant, code_of(&outcome)).await;
        outcome.map_err(Problem::of)
    }

    /// Pauses or resumes a connection.
    pub(super) async fn set_paused(&self, key: &ConnectionKey, paused: bool) -> Result<PausedWhat, Problem> {
        let outcome = self.api.broker.set_paused(key, paused).await;
        self.on_connection(if paused { "pause" } else { "resume" }, key, outcome).await
    }

    /// Refreshes a connection now.
    pub(super) async fn refresh(&self, key: &ConnectionKey) -> Result<(), Problem> {
        let outcome = self.api.broker.refresh_now(key).await;
        self.on_connection("refresh", key, outcome).await
    }

    /// Destroys a connection.
    pub(super) async fn delete(&self, key: &ConnectionKey) -> Result<(), Problem> {
        let outcome = self.api.broker.delete_as_admin(key).await;
        self.on_connection("delete", key, outcome).await
    }

    /// Makes a link with which the connection's user signs in again: for the caller that connected it, by
    /// that caller's rules as they are now, and for the account that the connection has.
    pub(super) async fn reconnect_link(&self, key: &ConnectionKey) -> Result<StartedSession, Problem> {
        let outcome = self.start_for_connector(key).await;
        self.on_connection("reconnect_link", key, outcome).await
    }

    async fn start_for_connector(&self, key: &ConnectionKey) -> Result<StartedSession, Refusal> {
        let broker = &self.api.broker;
        let shown = broker.show_as_admin(key).await?;
        let name = shown.profile.connected_by();
        let caller = CallerName::parse(name).ok().and_then(|name| self.api.callers.load().named(&name));
        let caller = caller.ok_or_else(|| Refusal::Forbidden {
            problem: format!(
                "the caller `{name}`, which connected it, is not in the configuration any more; start the \
                 session as a caller that may connect it"
            ),
        })?;
        let right = broker.may_connect(&caller.policy, key).await?;
        broker.invite(&right).await
    }

    /// Proves one credential of an app, or all.
    pub(super) async fn verify(&self, app: &AppName, label: Option<&str>) -> Result<Vec<Verified>, Problem> {
        let heard = self.api.broker.verify_credentials(app, label).await;
        let about = About::credential(app, label.unwrap_or("*"));
        let code = code_of(&heard);
        self.api.events.operated(self.who, self.admin, "credential_verify", code, about).await;
        heard.map_err(Problem::of)
    }

    /// Promotes or retires a credential.
    pub(super) async fn choose(&self, app: &AppName, label: &str, choice: Choice) -> Result<(), Problem> {
        let outcome = self.api.broker.choose_credential(app, label, choice).await;
        let act = match choice {
            Choice::Promote => "credential_promote",
            Choice::Retire => "credential_retire",
        };
        let about = About::credential(app, label);
        self.api.events.operated(self.who, self.admin, act, code_of(&outcome), about).await;
        outcome.map_err(Problem::of)?;
        Ok(())
    }

    async fn on_connection<T>(
        &self,
        act: &'static str,
        key: &ConnectionKey,
        outcome: Result<T, Refusal>,
    ) -> Result<T, Problem> {
        self.api.events.admin_act(self.who, self.admin, act, key, code_of(&outcome)).await;
        outcome.map_err(|refusal| about(refusal, key))
    }
}

/// What an operator is told of a refusal that is about this connection.
pub(super) fn about(refusal: Refusal, key: &ConnectionKey) -> Problem {
    match refusal {
        Refusal::ConnectionNotFound => Problem::no_such_connection(key),
        other => Problem::of(other),
    }
}
