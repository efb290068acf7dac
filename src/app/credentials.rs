//! Client credentials beside the requests: each is proven before users' refreshes depend on it, shown, and ruled by operators.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::Parts;
use super::foresight::{Secret, Warnings};
use super::reload::Reloader;
use crate::api::upkeep::{Choice, Reloaded, Upkeep, Verified};
use crate::authority::{CredentialReport, OpenIdAuthority};
use crate::broker::Refusal;
use crate::domain::credential::Choices;
use crate::domain::id::AppName;
use crate::domain::task::{BoxFuture, Tasks};
use crate::domain::verdict::Disposition;
use crate::repository::{Kind, RepositoryError, Taken};
use crate::telemetry::metrics::Metrics;

/// How often it is looked whether one is to be proven, and how they stand.
const LOOK: Duration = Duration::from_secs(1);
/// For ever, as a store counts.
const KEPT: Duration = Duration::from_secs(100 * 365 * 86_400);

type Label = (AppName, String);

/// Follows operators' choices, proves credentials and shows them, once a second, for as long as the daemon runs. An authority
/// that hangs holds up no other's.
pub(super) fn watch(parts: &Parts, metrics: Arc<Metrics>) {
    let reloader = parts.reloader.clone();
    let (clock, shutdown, tasks) = (parts.clock.clone(), parts.shutdown.clone(), parts.tasks.clone());
    let under_way: Arc<Mutex<BTreeSet<AppName>>> = Arc::default();
    let watch = async move {
        let mut shown: BTreeSet<Label> = BTreeSet::new();
        let mut warnings = Warnings::default();
        loop {
            for (app, installed) in reloader.authorities.load_full().iter() {
                reloader.follow_choices(app, &installed.authority).await;
            }
            for (app, installed) in reloader.authorities.load().iter() {
                if lock(&under_way).insert(app.clone()) {
                    let (authority, reloader) = (installed.authority.clone(), reloader.clone());
                    let (app, under_way) = (app.clone(), under_way.clone());
                    let prove = async move {
                        if authority.prove_credentials().await {
                            reloader.engine.app_is_mended(&app);
                        }
                        lock(&under_way).remove(&app);
                    };
                    tasks.spawn("prove client credentials", Box::pin(prove));
                }
            }
            shown = reloader.show_credentials(&metrics, shown, &mut warnings);
            tokio::select! {
                () = clock.sleep(LOOK) => {}
                () = shutdown.soft().cancelled() => return,
            }
        }
    };
    parts.tasks.spawn("watch client credentials", Box::pin(watch));
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Reloader {
    /// Shows them all, takes away what is gone, and warns of what ends soon. Gives what is shown now.
    fn show_credentials(
        &self,
        metrics: &Metrics,
        before: BTreeSet<Label>,
        warnings: &mut Warnings,
    ) -> BTreeSet<Label> {
        let (mut there, now) = (BTreeSet::new(), self.ports.clock.now());
        for (app, reports) in self.credentials() {
            for one in reports {
                metrics.credential_expiry(&app, &one.label, one.standing.expires_at);
                metrics.credential_state(&app, &one.label, one.state, one.in_use);
                if let Some(at) = one.standing.used_at {
                    metrics.credential_used(&app, &one.label, at);
                }
                let secret = Secret::ClientCredential(app.clone(), one.label.clone());
                let expires_at = one.standing.expires_at.filter(|_| !one.standing.is_retired);
                warnings.look(secret, expires_at, now);
                there.insert((app.clone(), one.label));
            }
        }
        for (app, label) in before.difference(&there) {
            metrics.credential_gone(app, label);
            warnings.look(Secret::ClientCredential(app.clone(), label.clone()), None, now);
        }
        there
    }

    /// Takes up what operators decided, here or on another replica. Without the store, what is known stays in force.
    async fn follow_choices(&self, app: &AppName, authority: &OpenIdAuthority) {
        // What is read here must not be taken up over what is written meanwhile.
        let _choosing = self.choosing.lock().await;
        let choices: Result<Option<Taken<Choices>>, RepositoryError> =
            self.repository.pending(Kind::CredentialChoices, app.as_str()).await;
        match choices {
            Ok(Some(choices)) => authority.credentials().choose(&choices.value),
            Ok(None) => authority.credentials().choose(&Choices::default()),
            Err(error) => {
                tracing::debug!(%error, "what operators decided on client credentials could not be looked up")
            }
        }
    }

    async fn write_choice(&self, app: &AppName, change: impl Fn(&mut Choices)) -> Result<Choices, Refusal> {
        let now = self.ports.clock.now();
        let written =
            self.repository.change_pending(Kind::CredentialChoices, app.as_str(), now, KEPT, change).await?;
        written.ok_or(Refusal::StoreUnavailable { retry_after: Duration::from_secs(1) })
    }

    async fn rule(&self, app: &AppName, label: &str, choice: Choice) -> Result<(), Refusal> {
        let installed = self.authorities.load().get(app).cloned().ok_or(Refusal::AppNotFound)?;
        let set = installed.authority.credentials();
        let Some(member) = set.member(label) else {
            return Err(Refusal::invalid(
                "credential",
                format!("the app {app} has no client credential {label:?}"),
            ));
        };
        let fingerprint = member.credential().fingerprint();
        let report = set.report(self.ports.clock.now()).into_iter().find(|report| report.label == label);
        let is_trusted = report.is_some_and(|report| report.standing.is_trusted());
        let now = self.ports.clock.now();
        let _choosing = self.choosing.lock().await;
        let choices = match choice {
            Choice::Promote if !is_trusted => {
                return Err(Refusal::invalid(
                    "credential",
                    format!(
                        "the authority has not taken {label:?}, or rejected it since; ask about it with `tokenward credentials verify {app} {label}`"
                    ),
                ));
            }
            Choice::Retire if !set.can_do_without(label, now) => {
                return Err(Refusal::invalid(
                    "credential",
                    format!(
                        "without {label:?} no client credential is left that the authority takes; add and verify the next one first"
                    ),
                ));
            }
            Choice::Promote => self.write_choice(app, |choices| choices.promote(fingerprint, now)).await?,
            Choice::Retire => self.write_choice(app, |choices| choices.retire(fingerprint)).await?,
        };
        installed.authority.credentials().choose(&choices);
        Ok(())
    }

    async fn ask_about(&self, app: &AppName, label: Option<&str>) -> Option<Vec<Verified>> {
        let authority = self.authorities.load().get(app)?.authority.clone();
        let labels: Vec<String> = match label {
            Some(label) => vec![label.to_owned()],
            None => authority.credentials().ids().into_iter().map(str::to_owned).collect(),
        };
        let mut heard = Vec::new();
        for label in labels {
            let result = authority.prove_credential(&label).await?;
            let is_about_it = match &result {
                Ok(()) => true,
                Err(failure) => failure.disposition == Disposition::NextCredential,
            };
            // Users' requests have proven it: that is an answer, too.
            let reports = authority.credentials().report(self.ports.clock.now());
            let standing =
                reports.into_iter().find(|report| report.label == label).map(|report| report.standing);
            let by_use = standing.is_some_and(|one| one.is_proven_by_use && one.is_trusted());
            let result = if by_use && !is_about_it { Ok(()) } else { result };
            let codes = |codes: &[u32]| codes.iter().map(|code| format!(" AADSTS{code}")).collect::<String>();
            let result =
                result.map_err(|failure| format!("{}{}", failure.cause, codes(&failure.answer.error_codes)));
            heard.push(Verified { label, result, is_about_it });
        }
        if heard.iter().any(|one| one.result.is_ok()) {
            self.engine.app_is_mended(app);
        }
        Some(heard)
    }
}

/// The daemon itself, for operators.
pub(super) struct Keeper(pub(super) Arc<Reloader>);

impl Upkeep for Keeper {
    fn reload(&self) -> BoxFuture<'_, Reloaded> {
        Box::pin(self.0.reload("an operator"))
    }

    fn waiting_for(&self) -> Vec<&'static str> {
        self.0.readiness.waiting_for()
    }

    fn last_reload(&self) -> Option<Reloaded> {
        lock(&self.0.last).clone()
    }

    fn credentials(&self) -> BTreeMap<AppName, Vec<CredentialReport>> {
        self.0.credentials()
    }

    fn verify<'a>(
        &'a self,
        app: &'a AppName,
        label: Option<&'a str>,
    ) -> BoxFuture<'a, Option<Vec<Verified>>> {
        Box::pin(self.0.ask_about(app, label))
    }

    fn choose<'a>(
        &'a self,
        app: &'a AppName,
        label: &'a str,
        choice: Choice,
    ) -> BoxFuture<'a, Result<(), Refusal>> {
        Box::pin(self.0.rule(app, label, choice))
    }
}

impl Reloader {
    fn credentials(&self) -> BTreeMap<AppName, Vec<CredentialReport>> {
        let now = self.ports.clock.now();
        let report = |(app, installed): (&AppName, &super::apps::Installed)| {
            (app.clone(), installed.authority.credentials().report(now))
        };
        self.authorities.load().iter().map(report).collect()
    }
}
