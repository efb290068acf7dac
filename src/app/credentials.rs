//! Client credentials beside the requests: the broker proves them, and here they are shown.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use super::foresight::{Secret, Warnings};
use super::jobs::{Ended, Work, ended};
use crate::authority::CredentialReport;
use crate::broker::Broker;
use crate::domain::credential::CredentialState;
use crate::domain::id::AppName;
use crate::domain::time::{Clock, Timestamp};
use crate::telemetry::metrics::Metrics;

/// How often credentials are checked.
pub(super) const CHECK_EVERY: Duration = Duration::from_secs(1);

type Label = (AppName, String);

/// Has credentials proven, shows them, and tells the other replicas. A store that does not answer delays none
/// of this.
pub(super) struct ClientCredentials {
    broker: Arc<Broker>,
    clock: Arc<dyn Clock>,
    metrics: Arc<Metrics>,
    shown: BTreeSet<Label>,
    warnings: Warnings,
}

impl ClientCredentials {
    pub(super) fn new(broker: Arc<Broker>, clock: Arc<dyn Clock>, metrics: Arc<Metrics>) -> Self {
        ClientCredentials { broker, clock, metrics, shown: BTreeSet::new(), warnings: Warnings::default() }
    }
}

impl Work for ClientCredentials {
    async fn run(&mut self) -> Ended {
        self.broker.look_after_credentials();
        let (credentials, now) = (self.broker.client_credentials(), self.clock.now());
        let shown = std::mem::take(&mut self.shown);
        self.shown = show_credentials(&credentials, &self.metrics, shown, &mut self.warnings, now);
        let views = |reports: &Vec<CredentialReport>| reports.iter().map(|one| one.view(now)).collect();
        let said = credentials.iter().map(|(app, reports)| (app.clone(), views(reports))).collect();
        let mut reported = Ok(());
        if self.broker.say_of_credentials(said) {
            reported = self.broker.report().await;
            if let Err(error) = &reported {
                tracing::debug!(%error, "other replicas could not be told of client credentials");
            }
        }
        // Last: notices may wait for the store, and the other replicas must not wait for notices.
        let told = self.broker.tell_of_credentials(&credentials).await;
        if let Err(error) = &told {
            tracing::debug!(%error, "a change of client credentials could not be told yet");
        }
        ended(reported.and(told))
    }
}

/// Shows every credential, removes the series of those that are gone, and warns of those that end soon.
/// Returns what is shown now.
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
        let is_replaced =
            reports.iter().any(|one| one.standing.superseded_at.is_none() && one.standing.works(now));
        for one in reports {
            metrics.credential_expiry(app, &one.label, one.standing.expires_at);
            let is_unknown = one.kind == "secret"
                && one.standing.expires_at.is_none()
                && one.standing.superseded_at.is_none()
                && !one.standing.is_retired;
            metrics.credential_expiry_unknown(app, &one.label, is_unknown);
            // Rejected, replaced, and what replaced it works: nothing is left to mend, so no alert goes on.
            let is_over =
                is_replaced && one.standing.superseded_at.is_some() && one.state == CredentialState::Rejected;
            let state = if is_over { CredentialState::Retired } else { one.state };
            metrics.credential_state(app, &one.label, state, one.in_use);
            metrics.credential_used(app, &one.label, one.standing.used_at);
            let secret = Secret::ClientCredential(app.clone(), one.label.clone());
            let expires_at = one.standing.expires_at.filter(|_| !one.standing.is_retired);
            warnings.check(secret, expires_at, now);
        }
    }
    for (app, label) in before.difference(&there) {
        warnings.check(Secret::ClientCredential(app.clone(), label.clone()), None, now);
    }
    there
}
