//! Client credentials beside the requests: each is proven before users' refreshes depend on it, and shown.

use parking_lot::Mutex;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use super::foresight::{Secret, Warnings};
use super::jobs::{Ended, Work, ended};
use super::reload::Reloader;
use crate::authority::CredentialReport;
use crate::domain::id::AppName;
use crate::domain::task::Tasks;
use crate::domain::time::Timestamp;
use crate::telemetry::metrics::Metrics;

/// How often it is looked whether one is to be proven, and how they stand.
pub(super) const LOOK: Duration = Duration::from_secs(1);

type Label = (AppName, String);

/// Follows operators' choices, proves credentials and shows them. An authority that hangs holds up no other's, and a store that
/// does not answer no showing.
pub(super) struct ClientCredentials {
    reloader: Arc<Reloader>,
    metrics: Arc<Metrics>,
    under_way: UnderWay,
    shown: BTreeSet<Label>,
    warnings: Warnings,
}

impl ClientCredentials {
    pub(super) fn new(reloader: Arc<Reloader>, metrics: Arc<Metrics>) -> Self {
        let (under_way, shown, warnings) = (UnderWay::default(), BTreeSet::new(), Warnings::default());
        ClientCredentials { reloader, metrics, under_way, shown, warnings }
    }

    /// Each app in a task of its own.
    fn prove(&self) {
        for (app, installed) in self.reloader.authorities.load().iter() {
            if let Some(turn) = self.under_way.begin(app) {
                let (authority, reloader) = (installed.authority.clone(), self.reloader.clone());
                let prove = async move {
                    reloader.follow_choices(&turn.app, &authority).await;
                    if authority.prove_credentials().await {
                        reloader.engine.app_is_mended(&turn.app);
                    }
                };
                self.reloader.tasks.spawn("prove client credentials", Box::pin(prove));
            }
        }
    }
}

impl Work for ClientCredentials {
    async fn run(&mut self) -> Ended {
        self.prove();
        let (credentials, now) = (self.reloader.credentials(), self.reloader.ports.clock.now());
        let shown = std::mem::take(&mut self.shown);
        self.shown = show_credentials(&credentials, &self.metrics, shown, &mut self.warnings, now);
        let views = |reports: &Vec<CredentialReport>| reports.iter().map(|one| one.view(now)).collect();
        let said = credentials.iter().map(|(app, reports)| (app.clone(), views(reports))).collect();
        if self.reloader.broker.say_of_credentials(said) {
            let reported = self.reloader.broker.report().await;
            if let Err(error) = &reported {
                tracing::debug!(%error, "other replicas could not be told of client credentials");
            }
            return ended(reported);
        }
        Ok(())
    }
}

/// The apps whose authority is being asked.
#[derive(Clone, Default)]
struct UnderWay(Arc<Mutex<BTreeSet<AppName>>>);

/// An app's turn; over when this goes, however it goes.
struct Turn {
    app: AppName,
    under_way: UnderWay,
}

impl UnderWay {
    fn begin(&self, app: &AppName) -> Option<Turn> {
        let is_free = self.0.lock().insert(app.clone());
        is_free.then(|| Turn { app: app.clone(), under_way: self.clone() })
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.under_way.0.lock().remove(&self.app);
    }
}

/// Shows them all, takes away what is gone, and warns of what ends soon. Gives what is shown now.
fn show_credentials(
    credentials: &BTreeMap<AppName, Vec<CredentialReport>>,
    metrics: &Metrics,
    before: BTreeSet<Label>,
    warnings: &mut Warnings,
    now: Timestamp,
) -> BTreeSet<Label> {
    let labels = |(app, reports): (&AppName, &Vec<CredentialReport>)| {
        reports.iter().map(|one| (app.clone(), one.label.clone())).collect::<Vec<Label>>()
    };
    let there: BTreeSet<Label> = credentials.iter().flat_map(labels).collect();
    metrics.rename(|names| names.credentials.clone_from(&there));
    for (app, reports) in credentials {
        for one in reports {
            metrics.credential_expiry(app, &one.label, one.standing.expires_at);
            let is_unknown = one.kind == "secret"
                && one.standing.expires_at.is_none()
                && one.standing.superseded_at.is_none()
                && !one.standing.is_retired;
            metrics.credential_expiry_unknown(app, &one.label, is_unknown);
            metrics.credential_state(app, &one.label, one.state, one.in_use);
            metrics.credential_used(app, &one.label, one.standing.used_at);
            let secret = Secret::ClientCredential(app.clone(), one.label.clone());
            let expires_at = one.standing.expires_at.filter(|_| !one.standing.is_retired);
            warnings.look(secret, expires_at, now);
        }
    }
    for (app, label) in before.difference(&there) {
        warnings.look(Secret::ClientCredential(app.clone(), label.clone()), None, now);
    }
    there
}

impl Reloader {
    /// What is known of every app's client credentials.
    pub(super) fn credentials(&self) -> BTreeMap<AppName, Vec<CredentialReport>> {
        let now = self.ports.clock.now();
        let report = |(app, installed): (&AppName, &super::apps::Installed)| {
            (app.clone(), installed.authority.credentials().report(now))
        };
        self.authorities.load().iter().map(report).collect()
    }
}
