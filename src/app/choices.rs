//! What operators decide on client credentials: written into the store, followed on every replica, and never lost with what a store
//! forgets.

use std::sync::Arc;
use std::time::Duration;

use super::reload::Reloader;
use crate::authority::{CredentialSet, OpenIdAuthority};
use crate::broker::Refusal;
use crate::domain::choice::{Against, Choice, Choices, View};
use crate::domain::id::AppName;
use crate::repository::{FiledUnder, Kind, RepositoryError, Taken};

/// For so long the others are given time to say that they can do without a credential: they report every ten seconds, and what changes
/// within two.
const OTHERS_SAY_WITHIN: Duration = Duration::from_secs(12);
/// Between two looks at what they say.
const LOOK: Duration = Duration::from_secs(1);
/// For ever, as a store counts.
pub(super) const KEPT: Duration = Duration::from_secs(100 * 365 * 86_400);

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
    pub(super) async fn follow_choices(&self, app: &AppName, authority: &OpenIdAuthority) {
        // What is read here must not be taken up over what is written meanwhile.
        let choosing = self.choosing(app);
        let _choosing = choosing.lock().await;
        if let Err(error) = self.take_up_choices(app, authority).await {
            tracing::debug!(%error, "what operators decided on client credentials could not be looked up")
        }
    }

    async fn take_up_choices(
        &self,
        app: &AppName,
        authority: &OpenIdAuthority,
    ) -> Result<(), RepositoryError> {
        let read: Option<Taken<Choices>> =
            self.repository.pending(Kind::CredentialChoices, &FiledUnder::app(app)).await?;
        let known = authority.credentials().choices();
        let stored = read.as_ref().map(|read| read.value.clone()).unwrap_or_default();
        let is_lost = |known: &Choices| {
            known.decisions > stored.decisions || known.decisions == stored.decisions && *known != stored
        };
        if !is_lost(&known) {
            authority.credentials().choose(&stored);
            return Ok(());
        }
        // The store has lost a decision that somebody was told was made (a failover, a store that came back empty).
        let all = known.merged(&stored);
        authority.credentials().choose(&all);
        let now = self.ports.clock.now();
        let (repository, id) = (&self.repository, &FiledUnder::app(app));
        if repository.swap_pending(Kind::CredentialChoices, id, read.as_ref(), &all, now, KEPT).await? {
            tracing::warn!(%app, "the store had lost what operators decided on client credentials; it was put back");
        }
        Ok(())
    }

    /// Held by whoever reads what operators decided on an app's credentials and takes it up, or writes it and does.
    fn choosing(&self, app: &AppName) -> Arc<tokio::sync::Mutex<()>> {
        let mut choosing = self.choosing.lock();
        choosing.entry(app.clone()).or_default().clone()
    }

    /// Promotes or retires one. What others report is a few seconds old, so they are given some to say that they can do without it.
    pub(super) async fn decide(&self, app: &AppName, label: &str, choice: Choice) -> Result<(), Refusal> {
        if choice == Choice::Retire {
            self.ask_about_the_others(app, label).await;
        }
        let give_up = self.ports.clock.monotonic().saturating_add(OTHERS_SAY_WITHIN);
        loop {
            let installed = self.authorities.load().get(app).cloned().ok_or(Refusal::AppNotFound)?;
            let set = installed.authority.credentials();
            let Some(member) = set.member(label) else {
                return Err(no_such_credential(app, label, &set));
            };
            let fingerprint = member.credential().fingerprint();
            let now = self.ports.clock.now();
            let mine = set.report(now).iter().map(|report| report.view(now)).collect();
            let (names, views) = self.views(app, mine).await?;
            let choosing = self.choosing(app);
            let turn = choosing.lock().await;
            let known = set.choices();
            let change = |choices: &mut Choices| {
                // (The store may have lost what is known here, and not have been told again yet.)
                if known.decisions > choices.decisions {
                    *choices = known.merged(choices);
                }
                choices.decide(choice, fingerprint, &views, now).map_err(Unwritten::Against)
            };
            let repository = &self.repository;
            let written = repository
                .change_pending(Kind::CredentialChoices, &FiledUnder::app(app), now, KEPT, change)
                .await;
            match written {
                Ok(Some(choices)) => {
                    installed.authority.credentials().choose(&choices);
                    return Ok(());
                }
                Ok(None) => return Err(Refusal::StoreUnavailable),
                Err(Unwritten::Store(error)) => return Err(error.into()),
                Err(Unwritten::Against(Against::NoneLeft(at)))
                    if at > 0 && self.ports.clock.monotonic() < give_up => {}
                Err(Unwritten::Against(against)) => {
                    return Err(Refusal::invalid("credential", against_it(against, app, label, &names)));
                }
            }
            drop(turn);
            self.ports.clock.sleep(LOOK).await;
        }
    }

    /// What every replica says of an app's credentials, this one (`mine`) first, with their names.
    async fn views(&self, app: &AppName, mine: Vec<View>) -> Result<(Vec<String>, Vec<Vec<View>>), Refusal> {
        let (mut names, mut views) = (vec!["this replica".to_owned()], vec![mine]);
        for other in self.broker.replicas().await?.into_iter().filter(|replica| !replica.is_me) {
            // (One that does not know the app, or is of a version that does not say, has no say.)
            if let Some(of_app) = other.report.credentials.get(app) {
                names.push(other.name());
                views.push(of_app.clone());
            }
        }
        Ok((names, views))
    }

    /// Has the authority say whether it takes those that would be left: what it said hours ago may not be so any more.
    async fn ask_about_the_others(&self, app: &AppName, label: &str) {
        let Some(authority) = self.authorities.load().get(app).map(|installed| installed.authority.clone())
        else {
            return;
        };
        let reports = authority.credentials().report(self.ports.clock.now());
        for other in reports.into_iter().filter(|report| report.label != label) {
            let standing = &other.standing;
            if !standing.is_retired && standing.superseded_at.is_none() && !standing.is_proven_by_use {
                // What was heard is known by now.
                let _heard = authority.prove_credential(&other.label).await;
            }
        }
    }
}

/// What is said of a name that none of an app's client credentials has.
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
fn against_it(against: Against, app: &AppName, label: &str, names: &[String]) -> String {
    match against {
        Against::NotTaken => format!(
            "the authority has not taken {label:?}, or rejected it since; ask about it with `tokenward credentials verify {app} {label}`"
        ),
        Against::NoneLeft(0) => format!(
            "without {label:?} no client credential is left that the authority takes; add and verify the next one first. Where only users' requests prove it, promote it and have a connection refreshed: it counts for an hour"
        ),
        Against::NoneLeft(at) => format!(
            "without {label:?} {} has no client credential that the authority takes; give it the next one first, and see `tokenward credentials list {app} --json`",
            names[at]
        ),
    }
}
