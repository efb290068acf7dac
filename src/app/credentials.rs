//! Client credentials beside the requests: each is proven before users' refreshes depend on it, shown, and ruled by operators.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::Parts;
use super::foresight::{Secret, Warnings};
use super::reload::Reloader;
use crate::api::upkeep::{Reloaded, Upkeep, Verified};
use crate::authority::{CredentialReport, OpenIdAuthority};
use crate::broker::Refusal;
use crate::domain::credential::{Against, Choice, Choices};
use crate::domain::id::AppName;
use crate::domain::task::{BoxFuture, Tasks};
use crate::domain::time::Timestamp;
use crate::domain::verdict::Disposition;
use crate::repository::{Kind, RepositoryError, Taken};
use crate::telemetry::metrics::Metrics;

/// How often it is looked whether one is to be proven, and how they stand.
const LOOK: Duration = Duration::from_secs(1);
/// The others report every ten seconds, and what changes within two.
const OTHERS_SAY_WITHIN: Duration = Duration::from_secs(12);
/// For ever, as a store counts.
const KEPT: Duration = Duration::from_secs(100 * 365 * 86_400);

type Label = (AppName, String);

/// Follows operators' choices, proves credentials and shows them, once a second, for as long as the daemon runs. An authority
/// that hangs holds up no other's.
pub(super) fn watch(parts: &Parts, metrics: Arc<Metrics>) {
    let reloader = parts.reloader.clone();
    let (clock, shutdown, tasks) = (parts.clock.clone(), parts.shutdown.clone(), parts.tasks.clone());
    let under_way = UnderWay::default();
    let watch = async move {
        let mut shown: BTreeSet<Label> = BTreeSet::new();
        let mut warnings = Warnings::default();
        loop {
            for (app, installed) in reloader.authorities.load_full().iter() {
                reloader.follow_choices(app, &installed.authority).await;
            }
            for (app, installed) in reloader.authorities.load().iter() {
                if let Some(turn) = under_way.begin(app) {
                    let (authority, reloader) = (installed.authority.clone(), reloader.clone());
                    let prove = async move {
                        if authority.prove_credentials().await {
                            reloader.engine.app_is_mended(&turn.app);
                        }
                    };
                    tasks.spawn("prove client credentials", Box::pin(prove));
                }
            }
            let (credentials, now) = (reloader.credentials(), clock.now());
            shown = show_credentials(&credentials, &metrics, shown, &mut warnings, now);
            let views = |reports: &Vec<CredentialReport>| reports.iter().map(|one| one.view(now)).collect();
            let said = credentials.iter().map(|(app, reports)| (app.clone(), views(reports))).collect();
            if reloader.broker.say_of_credentials(said)
                && let Err(error) = reloader.broker.report().await
            {
                tracing::debug!(%error, "other replicas could not be told of client credentials");
            }
            tokio::select! {
                () = clock.sleep(LOOK) => {}
                () = shutdown.soft().cancelled() => return,
            }
        }
    };
    parts.tasks.spawn("watch client credentials", Box::pin(watch));
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
        let is_free = lock(&self.0).insert(app.clone());
        is_free.then(|| Turn { app: app.clone(), under_way: self.clone() })
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        lock(&self.under_way.0).remove(&self.app);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Shows them all, takes away what is gone, and warns of what ends soon. Gives what is shown now.
fn show_credentials(
    credentials: &BTreeMap<AppName, Vec<CredentialReport>>,
    metrics: &Metrics,
    before: BTreeSet<Label>,
    warnings: &mut Warnings,
    now: Timestamp,
) -> BTreeSet<Label> {
    let mut there = BTreeSet::new();
    for (app, reports) in credentials {
        for one in reports {
            metrics.credential_expiry(app, &one.label, one.standing.expires_at);
            metrics.credential_state(app, &one.label, one.state, one.in_use);
            if let Some(at) = one.standing.used_at {
                metrics.credential_used(app, &one.label, at);
            }
            let secret = Secret::ClientCredential(app.clone(), one.label.clone());
            let expires_at = one.standing.expires_at.filter(|_| !one.standing.is_retired);
            warnings.look(secret, expires_at, now);
            there.insert((app.clone(), one.label.clone()));
        }
    }
    for (app, label) in before.difference(&there) {
        metrics.credential_gone(app, label);
        warnings.look(Secret::ClientCredential(app.clone(), label.clone()), None, now);
    }
    there
}

/// Why a choice was not written.
enum Unwritten {
    Against(Against),
    Store(RepositoryError),
}

impl From<RepositoryError> for Unwritten {
    fn from(error: RepositoryError) -> Self {
        Unwritten::Store(error)
    }
}

impl Reloader {
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

    /// Promotes or retires one. What others report is a few seconds old, so they are given some to say that they can do without it.
    async fn rule(&self, app: &AppName, label: &str, choice: Choice) -> Result<(), Refusal> {
        let give_up = self.ports.clock.monotonic().saturating_add(OTHERS_SAY_WITHIN);
        loop {
            let installed = self.authorities.load().get(app).cloned().ok_or(Refusal::AppNotFound)?;
            let set = installed.authority.credentials();
            let Some(member) = set.member(label) else {
                return Err(Refusal::invalid(
                    "credential",
                    format!("the app {app} has no client credential {label:?}"),
                ));
            };
            let fingerprint = member.credential().fingerprint();
            let now = self.ports.clock.now();
            let mut names = vec!["this replica".to_owned()];
            let mut views = vec![set.report(now).iter().map(|report| report.view(now)).collect()];
            for other in self.broker.replicas().await?.into_iter().filter(|replica| !replica.is_me) {
                // (One that does not know the app, or is of a version that does not say, has no say.)
                if let Some(of_app) = other.report.credentials.get(app) {
                    names.push(other.name());
                    views.push(of_app.clone());
                }
            }
            let choosing = self.choosing.lock().await;
            let change = |choices: &mut Choices| {
                choices.decide(choice, fingerprint, &views, now).map_err(Unwritten::Against)
            };
            let written = self
                .repository
                .change_pending(Kind::CredentialChoices, app.as_str(), now, KEPT, change)
                .await;
            match written {
                Ok(Some(choices)) => {
                    installed.authority.credentials().choose(&choices);
                    return Ok(());
                }
                Ok(None) => return Err(Refusal::StoreUnavailable { retry_after: Duration::from_secs(1) }),
                Err(Unwritten::Store(error)) => return Err(error.into()),
                Err(Unwritten::Against(Against::NoneLeft(at)))
                    if at > 0 && self.ports.clock.monotonic() < give_up => {}
                Err(Unwritten::Against(against)) => {
                    return Err(Refusal::invalid("credential", against_it(against, app, label, &names)));
                }
            }
            drop(choosing);
            self.ports.clock.sleep(LOOK).await;
        }
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

/// Why a choice is refused, and what to do.
fn against_it(against: Against, app: &AppName, label: &str, names: &[String]) -> String {
    match against {
        Against::NotTaken => format!(
            "the authority has not taken {label:?}, or rejected it since; ask about it with `tokenward credentials verify {app} {label}`"
        ),
        Against::NoneLeft(0) => format!(
            "without {label:?} no client credential is left that the authority takes; add and verify the next one first"
        ),
        Against::NoneLeft(at) => format!(
            "without {label:?} {} has no client credential that the authority takes; give it the next one first, and see `tokenward credentials list {app} --json`",
            names[at]
        ),
    }
}

/// The daemon itself, for operators.
pub(super) struct Keeper(pub(super) Arc<Reloader>);

impl Upkeep for Keeper {
    fn reload(&self) -> BoxFuture<'_, Reloaded> {
        Box::pin(self.0.reload_at_a_word("an operator"))
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
