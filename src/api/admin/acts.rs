//! What operators may do, each act with its record. The admin API and the console call the same functions, so
//! that neither forgets to write it down.

use std::sync::Arc;

use super::AdminApi;
use crate::api::code_of;
use crate::api::problem::Problem;
use crate::api::upkeep::Reloaded;
use crate::broker::Refusal;
use crate::broker::admin_consent::StartedConsent;
use crate::broker::connect::StartedSession;
use crate::broker::credentials::Verified;
use crate::broker::export::ExportedPage;
use crate::broker::import::{Imported, NewImport, Outcome};
use crate::broker::inspect::Shown;
use crate::broker::pause::PausedWhat;
use crate::broker::revoke::Meant;
use crate::callers::Caller;
use crate::domain::auth_method::AuthMethod;
use crate::domain::choice::Choice;
use crate::domain::handle::HandleId;
use crate::domain::id::{AppName, CallerName, ConnectionKey, ConnectionName};
use crate::domain::revocation::Revocation;
use crate::events::{About, Who};
use crate::jwe::Recipient;

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

    /// Ends a handle.
    pub(super) async fn end_handle(&self, id: &HandleId) -> Result<(), Problem> {
        let outcome = self.api.broker.end_handle(id).await;
        self.api.events.handle_ended(self.who, self.admin, id, code_of(&outcome)).await;
        outcome.map_err(Problem::of)
    }

    /// Pauses or resumes a connection.
    pub(super) async fn set_paused(&self, key: &ConnectionKey, paused: bool) -> Result<PausedWhat, Problem> {
        let outcome = self.api.broker.set_paused(key, paused).await;
        self.on_connection(if paused { "pause" } else { "resume" }, key, outcome).await
    }

    /// Imports a grant in a caller's name, or only checks it. Returns what was done with the caller.
    pub(super) async fn import(
        &self,
        new: &NewImport,
        caller: Option<&CallerName>,
        dry_run: bool,
    ) -> Result<(Arc<Caller>, Tried), Problem> {
        let by = self.importing(caller, &new.key);
        if dry_run {
            let by = by.map_err(|refusal| about(refusal, &new.key))?;
            let outcome = self.api.broker.would_import(&by.policy, new).await;
            return Ok((by, Tried::Checked(outcome.map_err(|refusal| about(refusal, &new.key))?)));
        }
        let work = async {
            let by = by?;
            let imported = self.api.broker.import(&by.policy, new).await?;
            Ok((by, imported))
        };
        let outcome: Result<(Arc<Caller>, Imported), Refusal> = work.await;
        let word = match &outcome {
            Ok((_, imported)) => imported.outcome.as_str(),
            Err(refusal) => refusal.outside().code,
        };
        self.api.events.imported(&new.key.app, word);
        let (by, imported) = self.on_connection("import", &new.key, outcome).await?;
        Ok((by, Tried::Done(imported)))
    }

    /// Returns the caller in whose name a grant is imported: the one that is named, or the only one that may
    /// connect it.
    fn importing(&self, caller: Option<&CallerName>, key: &ConnectionKey) -> Result<Arc<Caller>, Refusal> {
        self.api.broker.app(&key.app)?;
        let callers = self.api.callers.load();
        if let Some(name) = caller {
            let problem = || format!("`{name}` is no caller of the configuration");
            return callers.named(name).ok_or_else(|| Refusal::invalid("caller", problem()));
        }
        let mut able = callers.iter().filter(|caller| caller.policy.can_connect(key, None).is_ok());
        match (able.next(), able.next()) {
            (Some(only), None) => callers.named(&only.name).ok_or(Refusal::AppNotFound),
            (None, _) => {
                Err(Refusal::invalid("caller", "is needed: no caller's rules let it connect this name"))
            }
            (Some(one), Some(other)) => {
                let (one, other) = (&one.name, &other.name);
                let problem =
                    format!("is needed: several callers may connect this name, such as {one} and {other}");
                Err(Refusal::invalid("caller", problem))
            }
        }
    }

    /// Gives a page of an app's grants out, sealed, to a user of this machine. Each is a record before it
    /// leaves. Where records are demanded, none of the page leaves if one was lost.
    pub(super) async fn export(
        &self,
        app: &AppName,
        recipient: &Recipient,
        after: Option<&ConnectionName>,
        pause: bool,
    ) -> Result<ExportedPage, Problem> {
        let work = async {
            let page = match self.who.method {
                Some(AuthMethod::UnixUser) => self.api.broker.export(app, recipient, after).await?,
                // A stolen key of an operator must not be worth every grant.
                _ => {
                    let problem = "grants are exported over a Unix socket of this machine alone".to_owned();
                    return Err(Refusal::Forbidden { problem });
                }
            };
            for (connection, _) in &page.grants {
                let key = ConnectionKey { app: app.clone(), connection: connection.clone() };
                self.api.events.exported(self.who, self.admin, &key).await?;
            }
            // (Last: nobody is shut out for a page that does not leave.)
            match pause {
                true => self.api.broker.export_paused(app, recipient, page).await,
                false => Ok(page),
            }
        };
        let exported = work.await;
        if let Err(refusal) = &exported {
            let about = About { app: Some(app.as_str()), ..About::default() };
            let code = refusal.outside().code;
            self.api.events.operated(self.who, self.admin, "export", code, about).await;
        }
        exported.map_err(Problem::of)
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
        let start = async {
            let connected = self.connected(key).await?;
            let right = self.api.broker.may_connect(&connected.by.policy, key).await?;
            self.api.broker.invite(&right).await
        };
        self.on_connection("reconnect_link", key, start.await).await
    }

    /// Makes a link with which an administrator of the connection's tenant approves the app: for the caller
    /// that connected it, by that caller's rules as they are now.
    pub(super) async fn admin_consent_link(&self, key: &ConnectionKey) -> Result<StartedConsent, Problem> {
        let start = async {
            let connected = self.connected(key).await?;
            let account = connected.shown.profile.account();
            let Some(tenant) = account.tid.clone().filter(|_| !account.is_personal()) else {
                let problem = "is of an account that belongs to no tenant, so it has no administrator";
                return Err(Refusal::InvalidRequest { parameter: "connection", problem: problem.to_owned() });
            };
            // (Approval counts for the whole app, but it is asked for because of this connection.)
            let _right = self.api.broker.may_connect(&connected.by.policy, key).await?;
            self.api.broker.admin_consent_link(&connected.by.policy, &key.app, tenant).await
        };
        self.on_connection("admin_consent_link", key, start.await).await
    }

    /// A connection, with the caller that connected it.
    async fn connected(&self, key: &ConnectionKey) -> Result<Connected, Refusal> {
        let shown = self.api.broker.show_as_admin(key).await?;
        let name = shown.profile.connected_by();
        let caller = CallerName::parse(name).ok().and_then(|name| self.api.callers.load().named(&name));
        match caller {
            Some(by) => Ok(Connected { shown, by }),
            None => Err(Refusal::Forbidden {
                problem: format!(
                    "the caller `{name}`, which connected it, is not in the configuration any more; start \
                     the session as a caller that may connect it"
                ),
            }),
        }
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

    /// Lets an app's secrets and grants go to its new token host.
    pub(super) async fn confirm_token_host(&self, app: &AppName, host: &str) -> Result<(), Problem> {
        let outcome = self.api.broker.confirm_token_host(app, host).await;
        let about = About { app: Some(app.as_str()), host: Some(host), ..About::default() };
        self.api.events.operated(self.who, self.admin, "token_host_confirm", code_of(&outcome), about).await;
        outcome.map_err(Problem::of)
    }

    /// Has the records of other sealing keys rewrapped with the primary.
    pub(super) async fn rewrap(&self) {
        self.api.broker.ask_for_rewrap();
        self.api.events.keyring_act(self.who, self.admin, ("keyring_rewrap", None), "ok").await;
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

/// How an import ended that was not refused.
pub(super) enum Tried {
    /// It was only checked: what it would do.
    Checked(Outcome),
    /// It is done.
    Done(Imported),
}

struct Connected {
    shown: Shown,
    by: Arc<Caller>,
}

/// What an operator is told of a refusal that is about this connection.
pub(super) fn about(refusal: Refusal, key: &ConnectionKey) -> Problem {
    match refusal {
        Refusal::ConnectionNotFound => Problem::no_such_connection(key),
        Refusal::ConnectionPaused => Problem::paused(key),
        other => Problem::of(other),
    }
}
