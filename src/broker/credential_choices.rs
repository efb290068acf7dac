//! Operators' choices of client credentials: written into the store, followed on every replica, and written
//! again if a store loses them.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

use super::{Broker, KEPT_FOR_GOOD, Refusal};
use crate::authority::{ClientCredentials, CredentialReport, CredentialSet};
use crate::domain::choice::{Against, Choice, Choices, View};
use crate::domain::id::AppName;
use crate::repository::{FiledUnder, Kind, RepositoryError, Taken};

/// How long the other replicas have to report that they can do without a credential. They report every ten
/// seconds, and changes within two.
const OTHERS_SAY_WITHIN: Duration = Duration::from_secs(12);
/// The pause between two checks of their reports.
const LOOK: Duration = Duration::from_secs(1);

/// One lock for each app, for the task that reads stored choices or makes one.
#[derive(Default)]
pub(super) struct Choosing(Mutex<BTreeMap<AppName, Arc<tokio::sync::Mutex<()>>>>);

impl Choosing {
    fn of(&self, app: &AppName) -> Arc<tokio::sync::Mutex<()>> {
        self.0.lock().entry(app.clone()).or_default().clone()
    }
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

/// Each replica's view of an app's credentials, with the replica's name. This replica is first.
struct Views {
    names: Vec<String>,
    views: Vec<Vec<View>>,
}

impl Broker {
    /// Follows the choices that operators made, here or on another replica. Without the store, the known
    /// choices stay in force.
    pub(super) async fn follow_choices(&self, app: &AppName, credentials: &dyn ClientCredentials) {
        // Locked, so that choices read here do not replace newer ones that are being written.
        let choosing = self.choosing.of(app);
        let _turn = choosing.lock().await;
        if let Err(error) = self.take_up_choices(app, credentials).await {
            tracing::debug!(%error, "what operators decided on client credentials could not be looked up")
        }
    }

    async fn take_up_choices(
        &self,
        app: &AppName,
        credentials: &dyn ClientCredentials,
    ) -> Result<(), RepositoryError> {
        let (repository, id) = (&self.deps.repository, &FiledUnder::app(app));
        let read: Option<Taken<Choices>> = repository.pending(Kind::CredentialChoices, id).await?;
        let known = credentials.credentials().choices();
        let stored = read.as_ref().map(|read| read.value.clone()).unwrap_or_default();
        let is_lost =
            known.decisions > stored.decisions || known.decisions == stored.decisions && known != stored;
        if !is_lost {
            credentials.credentials().choose(&stored);
            return Ok(());
        }
        // The store has lost a choice that an operator was told was made (a failover, an empty store).
        let all = known.merged(&stored);
        credentials.credentials().choose(&all);
        let now = self.deps.clock.now();
        let kind = Kind::CredentialChoices;
        if repository.swap_pending(kind, id, read.as_ref(), &all, now, KEPT_FOR_GOOD).await? {
            tracing::warn!(%app, "the store had lost what operators decided on client credentials; it was \
                                  put back");
        }
        Ok(())
    }

    /// Promotes a credential, or retires it, on every replica within seconds and through restarts. Other
    /// replicas' reports are a few seconds old, so they get some time to report that they can do without it.
    pub async fn choose_credential(&self, app: &AppName, label: &str, choice: Choice) -> Result<(), Refusal> {
        match choice {
            Choice::Retire => self.ask_about_the_others(app, label).await?,
            Choice::Promote => self.ask_about_an_untaken(app, label).await?,
        }
        let give_up = self.deps.clock.monotonic().saturating_add(OTHERS_SAY_WITHIN);
        loop {
            let credentials = self.app(app)?.credentials.clone();
            let set = credentials.credentials();
            let Some(member) = set.member(label) else {
                return Err(no_such_credential(app, label, &set));
            };
            let fingerprint = member.credential().fingerprint();
            let now = self.deps.clock.now();
            let Views { names, views } = self.views(app, &set).await?;
            let choosing = self.choosing.of(app);
            let turn = choosing.lock().await;
            let known = set.choices();
            let change = |choices: &mut Choices| {
                // (The store may have lost known choices, and not have them again yet.)
                if known.decisions > choices.decisions {
                    *choices = known.merged(choices);
                }
                choices.decide(choice, fingerprint, &views, now).map_err(Unwritten::Against)
            };
            let (repository, id) = (&self.deps.repository, &FiledUnder::app(app));
            let kind = Kind::CredentialChoices;
            match repository.change_pending(kind, id, now, KEPT_FOR_GOOD, change).await {
                Ok(Some(choices)) => {
                    credentials.credentials().choose(&choices);
                    if choice == Choice::Promote {
                        self.deps.engine.app_is_mended(app);
                    }
                    return Ok(());
                }
                Ok(None) => return Err(Refusal::StoreUnavailable),
                Err(Unwritten::Store(error)) => return Err(error.into()),
                Err(Unwritten::Against(Against::NoneLeft(at)))
                    if at > 0 && self.deps.clock.monotonic() < give_up => {}
                Err(Unwritten::Against(against)) => {
                    let report = set.report(now).into_iter().find(|report| report.label == label);
                    let by_use = report.is_some_and(|report| report.standing.is_proven_by_use);
                    let why = against_it(against, app, label, &names, by_use);
                    return Err(Refusal::invalid("credential", why));
                }
            }
            drop(turn);
            self.deps.clock.sleep(LOOK).await;
        }
    }

    async fn views(&self, app: &AppName, mine: &CredentialSet) -> Result<Views, Refusal> {
        let now = self.deps.clock.now();
        let mine = mine.report(now).iter().map(|report| report.view(now)).collect();
        let mut all = Views { names: vec!["this replica".to_owned()], views: vec![mine] };
        for other in self.replicas().await?.into_iter().filter(|replica| !replica.is_me) {
            // (A replica that does not know the app, or whose version does not report, is not asked.)
            if let Some(of_app) = other.report.credentials.get(app) {
                all.names.push(other.name());
                all.views.push(of_app.clone());
            }
        }
        Ok(all)
    }

    /// Asks the authority about a credential that it has not taken from this process. Nobody asks about a
    /// retired one, so after a restart nothing is known of it, and an operator may need it at once.
    async fn ask_about_an_untaken(&self, app: &AppName, label: &str) -> Result<(), Refusal> {
        let credentials = self.app(app)?.credentials.clone();
        let reports = credentials.credentials().report(self.deps.clock.now());
        let is_untaken = |report: &CredentialReport| {
            report.label == label && !report.standing.is_trusted() && !report.standing.is_proven_by_use
        };
        if reports.iter().any(is_untaken) {
            // The set notes the answer.
            let _heard = credentials.prove(label).await;
        }
        Ok(())
    }

    /// Asks the authority about the credentials that would be left, since an answer from hours ago may be
    /// outdated.
    async fn ask_about_the_others(&self, app: &AppName, label: &str) -> Result<(), Refusal> {
        let credentials = self.app(app)?.credentials.clone();
        let reports = credentials.credentials().report(self.deps.clock.now());
        for other in reports.into_iter().filter(|report| report.label != label) {
            let standing = &other.standing;
            if !standing.is_retired && standing.superseded_at.is_none() && !standing.is_proven_by_use {
                // The set notes the answer.
                let _heard = credentials.prove(&other.label).await;
            }
        }
        Ok(())
    }
}

/// The refusal if no client credential of the app has this name.
pub(super) fn no_such_credential(app: &AppName, label: &str, set: &CredentialSet) -> Refusal {
    let mut ids = set.ids();
    ids.sort_unstable();
    let there = match &ids[..] {
        [] => "has none at all".to_owned(),
        ids => format!("has {}", ids.join(", ")),
    };
    Refusal::invalid("credential", format!("there is no client credential {label:?}: the app {app} {there}"))
}

/// Why a choice is refused, and what to do.
fn against_it(against: Against, app: &AppName, label: &str, names: &[String], by_use: bool) -> String {
    match against {
        Against::NotTaken if by_use => format!(
            "the authority has not taken {label:?} yet, and here only a user's refresh proves it: run \
             `tokenward connections refresh {app} CONNECTION`, or set `home_tenant`, so that `verify` can ask"
        ),
        Against::NotTaken => format!(
            "the authority has not taken {label:?}, or rejected it since; ask about it with `tokenward \
             credentials verify {app} {label}`"
        ),
        Against::NoneLeft(0) => format!(
            "without {label:?} no client credential is left that the authority takes; add and verify the \
             next one first. Where only users' requests prove it, promote it and have a connection \
             refreshed: it counts for an hour"
        ),
        Against::NoneLeft(at) => format!(
            "without {label:?} {} has no client credential that the authority takes; give it the next one \
             first, and see `tokenward credentials list {app} --json`",
            names[at]
        ),
    }
}
