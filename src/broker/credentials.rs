//! Client credentials: each is proven before users' refreshes depend on it, and checked when an operator
//! asks.
//!
//! `credential_choices` has the operators' choices.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use parking_lot::Mutex;

use super::credential_choices::no_such_credential;
use super::{Broker, Refusal};
use crate::authority::{ClientCredentials, CredentialReport};
use crate::domain::choice::LATELY;
use crate::domain::id::AppName;
use crate::domain::time::Timestamp;
use crate::domain::verdict::{AuthorityFailure, Disposition, aadsts};

/// An authority's answer to a check of a credential.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verified {
    /// The credential.
    pub label: String,
    /// The answer.
    pub heard: Heard,
    /// The authority's numbers, if it refused.
    pub error_codes: Vec<u32>,
    /// False if nothing was asked: the configuration lacks what the request needs.
    pub was_asked: bool,
    /// True if an operator retired it: whatever the answer, it is not used.
    pub is_retired: bool,
}

/// An answer about a credential, or why there is none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Heard {
    /// The authority takes it.
    Accepted,
    /// A check proves nothing, and the authority accepted it in a user's request then, not long ago.
    AcceptedInUse(Timestamp),
    /// It rejects it, for this reason.
    Rejected(String),
    /// It did not answer, or answered about something else.
    Unknown(String),
}

/// The apps whose authority is being asked about due credentials.
#[derive(Clone, Default)]
pub(super) struct UnderWay(Arc<Mutex<BTreeSet<AppName>>>);

/// An app's turn; over when it is dropped.
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

impl Broker {
    /// Knowledge about every app's client credentials.
    pub fn client_credentials(&self) -> BTreeMap<AppName, Vec<CredentialReport>> {
        let now = self.deps.clock.now();
        let apps = self.apps();
        apps.iter().map(|(name, app)| (name.clone(), app.credentials.credentials().report(now))).collect()
    }

    /// Follows operators' choices, and asks the authorities about due credentials. Called every second. Each
    /// app has a task of its own, so that an authority that does not answer delays no other app.
    pub fn look_after_credentials(self: &Arc<Self>) {
        for (name, app) in self.apps().iter() {
            let Some(turn) = self.proving.begin(name) else { continue };
            let (broker, credentials) = (self.clone(), app.credentials.clone());
            let prove = async move {
                broker.follow_choices(&turn.app, credentials.as_ref()).await;
                if credentials.prove_due().await {
                    broker.deps.engine.app_is_mended(&turn.app);
                }
            };
            self.deps.tasks.spawn("prove client credentials", Box::pin(prove));
        }
    }

    /// Asks the authority about an app's credential, or about all of them.
    pub async fn verify_credentials(
        &self,
        app: &AppName,
        label: Option<&str>,
    ) -> Result<Vec<Verified>, Refusal> {
        let credentials = self.app(app)?.credentials.clone();
        let labels: Vec<String> = match label {
            Some(label) => vec![label.to_owned()],
            None => credentials.credentials().ids().into_iter().map(str::to_owned).collect(),
        };
        let mut all = Vec::new();
        for one in labels {
            let heard = credentials.prove(&one).await;
            let is_retired = is_retired(credentials.as_ref(), &one, self.deps.clock.now());
            let verified = match heard {
                Some(Ok(())) => Verified {
                    label: one,
                    heard: Heard::Accepted,
                    error_codes: Vec::new(),
                    was_asked: true,
                    is_retired,
                },
                Some(Err(failure)) => Verified {
                    is_retired,
                    heard: self.heard_of_failure(credentials.as_ref(), &one, &failure),
                    label: one,
                    was_asked: failure.was_asked(),
                    error_codes: failure.answer.error_codes,
                },
                None if label.is_some() => {
                    return Err(no_such_credential(app, &one, &credentials.credentials()));
                }
                // A fallback that was dropped meanwhile.
                None => continue,
            };
            all.push(verified);
        }
        if all.iter().any(|one| one.heard == Heard::Accepted && !one.is_retired) {
            self.deps.engine.app_is_mended(app);
        }
        Ok(all)
    }

    fn heard_of_failure(
        &self,
        credentials: &dyn ClientCredentials,
        label: &str,
        failure: &AuthorityFailure,
    ) -> Heard {
        let codes = aadsts(failure.answer.error_codes.iter().copied());
        let cause = format!("{} {codes}", failure.cause).trim_end().to_owned();
        match (failure.disposition, accepted_in_use(credentials, label, self.deps.clock.now())) {
            (Disposition::NextCredential, _) => Heard::Rejected(cause),
            (_, Some(at)) => Heard::AcceptedInUse(at),
            (_, None) => Heard::Unknown(cause),
        }
    }
}

fn is_retired(credentials: &dyn ClientCredentials, label: &str, now: Timestamp) -> bool {
    let reports = credentials.credentials().report(now);
    reports.iter().any(|report| report.label == label && report.standing.is_retired)
}

/// When the authority last accepted it in a user's request, if only that proves it and it is not long ago.
fn accepted_in_use(credentials: &dyn ClientCredentials, label: &str, now: Timestamp) -> Option<Timestamp> {
    let reports = credentials.credentials().report(now);
    let standing = reports.into_iter().find(|report| report.label == label)?.standing;
    let is_proven = standing.is_proven_by_use && standing.works(now);
    standing.accepted_at.filter(|at| is_proven && at.plus(LATELY) > now)
}
