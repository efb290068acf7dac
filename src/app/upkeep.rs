//! The daemon itself in operators' hands: the port of the admin API.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::choices::no_such_credential;
use super::jobs::Jobs;
use super::reload::Reloader;
use crate::api::upkeep::{Ending, Heard, JobReport, Reloaded, StoreLost, Upkeep, Verified};
use crate::authority::{CredentialReport, OpenIdAuthority};
use crate::broker::Refusal;
use crate::domain::choice::{Choice, LATELY};
use crate::domain::id::AppName;
use crate::domain::task::BoxFuture;
use crate::domain::time::Timestamp;
use crate::domain::verdict::Disposition;

/// The daemon itself, for operators.
pub(super) struct Keeper(pub(super) Arc<Reloader>, pub(super) Jobs);

impl Upkeep for Keeper {
    fn reload(&self) -> BoxFuture<'_, Reloaded> {
        Box::pin(self.0.reload_at_a_word("an operator"))
    }

    fn waiting_for(&self) -> Vec<&'static str> {
        self.0.readiness.waiting_for()
    }

    fn notes(&self) -> BTreeMap<String, String> {
        self.0.readiness.notes()
    }

    fn last_reload(&self) -> Option<Reloaded> {
        self.0.last.lock().clone()
    }

    fn store_lost(&self) -> Option<StoreLost> {
        let answered_at = self.0.store_seen.lost()?;
        let cached_until = answered_at.plus(self.0.running.load().store.serve_cached_for);
        Some(StoreLost { answered_at, cached_until })
    }

    fn jobs(&self) -> Vec<JobReport> {
        self.1.report()
    }

    fn endings(&self) -> BoxFuture<'_, Vec<Ending>> {
        Box::pin(self.0.endings())
    }

    fn credentials(&self) -> BTreeMap<AppName, Vec<CredentialReport>> {
        self.0.credentials()
    }

    fn verify<'a>(
        &'a self,
        app: &'a AppName,
        label: Option<&'a str>,
    ) -> BoxFuture<'a, Result<Vec<Verified>, Refusal>> {
        Box::pin(self.0.ask_about(app, label))
    }

    fn choose<'a>(
        &'a self,
        app: &'a AppName,
        label: &'a str,
        choice: Choice,
    ) -> BoxFuture<'a, Result<(), Refusal>> {
        Box::pin(self.0.decide(app, label, choice))
    }

    fn confirm_token_host<'a>(
        &'a self,
        app: &'a AppName,
        host: &'a str,
    ) -> BoxFuture<'a, Result<(), Refusal>> {
        Box::pin(self.0.confirm_token_host(app, host))
    }
}

impl Reloader {
    async fn ask_about(&self, app: &AppName, label: Option<&str>) -> Result<Vec<Verified>, Refusal> {
        let installed = self.authorities.load().get(app).cloned().ok_or(Refusal::AppNotFound)?;
        let authority = installed.authority.clone();
        let labels: Vec<String> = match label {
            Some(label) => vec![label.to_owned()],
            None => authority.credentials().ids().into_iter().map(str::to_owned).collect(),
        };
        let mut all = Vec::new();
        for one in labels {
            let asked = match authority.prove_credential(&one).await {
                Some(asked) => asked,
                None if label.is_some() => {
                    return Err(no_such_credential(app, &one, &authority.credentials()));
                }
                // A fallback that went meanwhile.
                None => continue,
            };
            let heard = match asked {
                Ok(()) => Heard::Accepted,
                Err(failure) => {
                    let codes: String =
                        failure.answer.error_codes.iter().map(|code| format!(" AADSTS{code}")).collect();
                    let cause = format!("{}{codes}", failure.cause);
                    match (failure.disposition, self.taken_in_use(&authority, &one)) {
                        (Disposition::NextCredential, _) => Heard::Rejected(cause),
                        (_, Some(at)) => Heard::AcceptedInUse(at),
                        (_, None) => Heard::Unknown(cause),
                    }
                }
            };
            all.push(Verified { label: one, heard });
        }
        if all.iter().any(|one| one.heard == Heard::Accepted) {
            self.engine.app_is_mended(app);
        }
        Ok(all)
    }

    /// When a user's request last had the authority take it, where only that proves it and it is not long ago.
    fn taken_in_use(&self, authority: &OpenIdAuthority, label: &str) -> Option<Timestamp> {
        let now = self.ports.clock.now();
        let report = authority.credentials().report(now).into_iter().find(|report| report.label == label)?;
        let standing = report.standing;
        let is_proven = standing.is_proven_by_use && standing.works(now);
        standing.accepted_at.filter(|at| is_proven && at.plus(LATELY) > now)
    }
}
