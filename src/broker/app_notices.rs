//! Notices of apps: what each replica learns by itself of an app's client credentials is told once. (Those of
//! tenants are in `tenant_blocks.rs`.)
//!
//! A record for each app says what was told. A notice is written in the step that changes the record, so of
//! many replicas that learn the same, one tells it. A replica looks into a record only when what it knows has
//! changed: nothing here waits in a request.

use std::collections::BTreeMap;
use std::time::Duration;

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use super::Broker;
use crate::authority::CredentialReport;
use crate::domain::credential::CredentialState;
use crate::domain::id::AppName;
use crate::domain::notice::{Notice, NoticeKind};
use crate::domain::random::{Random, random_bytes};
use crate::domain::time::Timestamp;
use crate::repository::{FiledUnder, Kept, Kind, RepositoryError};
use crate::store::StoreError;

/// How long a record is kept after it was written.
const KEPT: Duration = Duration::from_secs(400 * 86_400);
/// How long a credential that is no longer there is not told of again: replicas that have not reloaded yet
/// still have it.
const GONE: Duration = Duration::from_secs(3600);
/// Most credentials that one record remembers.
const MOST_CREDENTIALS: usize = 100;
/// Tries to change a record that others change too.
const TRIES: usize = 16;

/// What was told of an app.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
struct Told {
    /// Credentials that were told to be rejected, by fingerprint, since when.
    #[serde(default)]
    rejected: BTreeMap<String, Timestamp>,
    /// Credentials that were told to expire soon.
    #[serde(default)]
    expiring: BTreeMap<String, Timestamp>,
    /// Rejected ones that are no longer there.
    #[serde(default)]
    gone: BTreeMap<String, Timestamp>,
}

/// What this replica knows of a credential.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Seen {
    fingerprint: String,
    what: What,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum What {
    /// The authority rejects it.
    Rejected,
    /// The authority takes it; it may expire soon.
    Works { since: Option<Timestamp>, expires_soon: bool },
    /// Nothing that is told.
    Other,
}

/// What this process has looked at, so that it looks again only after a change.
#[derive(Default)]
pub(super) struct Looked {
    apps: Mutex<BTreeMap<AppName, Vec<Seen>>>,
}

impl Told {
    /// The next notice that what a replica sees brings, if there is one. Changes what was told with it.
    fn next(&mut self, seen: &[Seen], now: Timestamp) -> Option<NoticeKind> {
        self.gone.retain(|_, at| now.since(*at) < GONE);
        let has = |fingerprint: &String| seen.iter().find(|one| one.fingerprint == *fingerprint);
        let is_new = |one: &&Seen| {
            let of = &one.fingerprint;
            one.what == What::Rejected && !self.rejected.contains_key(of) && !self.gone.contains_key(of)
        };
        if let Some(one) = seen.iter().find(is_new) {
            remember(&mut self.rejected, &one.fingerprint, now);
            return Some(NoticeKind::CredentialRejected);
        }
        let expires = |one: &&Seen| {
            matches!(one.what, What::Works { expires_soon: true, .. })
                && !self.expiring.contains_key(&one.fingerprint)
        };
        if let Some(one) = seen.iter().find(expires) {
            remember(&mut self.expiring, &one.fingerprint, now);
            return Some(NoticeKind::CredentialExpiring);
        }
        let works = seen.iter().any(|one| matches!(one.what, What::Works { .. }));
        if self.rejected.is_empty() || !works {
            return None;
        }
        let is_over = |fingerprint: &String, told_at: Timestamp| match has(fingerprint).map(|one| one.what) {
            Some(What::Works { since, .. }) => since.is_some_and(|at| at > told_at),
            Some(What::Rejected) => false,
            Some(What::Other) | None => true,
        };
        let over: Vec<String> =
            self.rejected.iter().filter(|(one, at)| is_over(one, **at)).map(|(one, _)| one.clone()).collect();
        for one in &over {
            self.rejected.remove(one);
            if has(one).is_none_or(|seen| seen.what == What::Other) {
                remember(&mut self.gone, one, now);
            }
        }
        (!over.is_empty() && self.rejected.is_empty()).then_some(NoticeKind::AppRecovered)
    }

    /// All of them. Each has an id of its own, also after the store went back to an earlier record.
    fn notices(&mut self, app: &AppName, seen: &[Seen], now: Timestamp, random: &dyn Random) -> Vec<Notice> {
        let kinds = std::iter::from_fn(|| self.next(seen, now)).take(MOST_CREDENTIALS);
        kinds.map(|kind| Notice::of_app(app, kind, None, &turn(random), now)).collect()
    }
}

/// What tells a notice from every other.
pub(super) fn turn(random: &dyn Random) -> String {
    hex::encode(random_bytes::<16>(random))
}

/// Remembers one more, in place of the oldest if there are too many.
fn remember(all: &mut BTreeMap<String, Timestamp>, one: &str, now: Timestamp) {
    if all.len() >= MOST_CREDENTIALS
        && let Some(oldest) = all.iter().min_by_key(|(_, at)| **at).map(|(one, _)| one.clone())
    {
        all.remove(&oldest);
    }
    all.insert(one.to_owned(), now);
}

fn seen(report: &CredentialReport) -> Seen {
    let what = match report.state {
        // An earlier content that its successor has replaced is nobody's trouble.
        CredentialState::Rejected if report.standing.superseded_at.is_none() => What::Rejected,
        CredentialState::Proven | CredentialState::InUse => {
            What::Works { since: report.standing.accepted_at, expires_soon: false }
        }
        CredentialState::Expiring => What::Works {
            since: report.standing.accepted_at,
            expires_soon: report.standing.superseded_at.is_none(),
        },
        CredentialState::New
        | CredentialState::Rejected
        | CredentialState::Expired
        | CredentialState::Retired => What::Other,
    };
    Seen { fingerprint: hex::encode(report.fingerprint), what }
}

impl Broker {
    /// Tells what changed of the apps' client credentials. Called every second; asks the store only after a
    /// change.
    pub async fn tell_of_credentials(
        &self,
        reports: &BTreeMap<AppName, Vec<CredentialReport>>,
    ) -> Result<(), RepositoryError> {
        let mut failed = None;
        for (app, reports) in reports {
            let now_seen: Vec<Seen> = reports.iter().map(seen).collect();
            // (Acceptances in a row are no change.)
            let tame = |all: &[Seen]| -> Vec<Seen> {
                let mut all = all.to_vec();
                for one in &mut all {
                    if let What::Works { since, .. } = &mut one.what {
                        *since = None;
                    }
                }
                all
            };
            if self.looked.apps.lock().get(app).is_some_and(|before| *before == tame(&now_seen)) {
                continue;
            }
            if let Err(error) = self.tell_of_app(app, &now_seen).await {
                failed.get_or_insert(error);
                continue; // the others are told all the same
            }
            self.looked.apps.lock().insert(app.clone(), tame(&now_seen));
        }
        self.looked.apps.lock().retain(|app, _| reports.contains_key(app));
        failed.map_or(Ok(()), Err)
    }

    async fn tell_of_app(&self, app: &AppName, seen: &[Seen]) -> Result<(), RepositoryError> {
        until_told(|| self.try_to_tell_of_app(app, seen)).await
    }

    /// False if another replica changed the record meanwhile.
    async fn try_to_tell_of_app(&self, app: &AppName, seen: &[Seen]) -> Result<bool, RepositoryError> {
        let (filed, repository, now) = (FiledUnder::app(app), &self.deps.repository, self.deps.clock.now());
        let Kept { taken: before, is_lost } =
            repository.kept::<Told>(Kind::AppOutlook, &filed, "what was told of an app").await?;
        let mut told = before.as_ref().map(|before| before.value.clone()).unwrap_or_default();
        let notices = told.notices(app, seen, now, self.deps.random.as_ref());
        if !is_lost && *before.as_ref().map_or(&Told::default(), |before| &before.value) == told {
            return Ok(true);
        }
        let change = (before.as_ref(), &told);
        repository.swap_telling(Kind::AppOutlook, &filed, change, &notices, now, KEPT).await
    }
}

/// Tries to change a record until nobody else comes in between. If others keep changing it that is an error,
/// so that it is tried again in a second.
async fn until_told<F: Future<Output = Result<bool, RepositoryError>>>(
    mut tell: impl FnMut() -> F,
) -> Result<(), RepositoryError> {
    for _ in 0..TRIES {
        if tell().await? {
            return Ok(());
        }
    }
    let cause = "other replicas kept changing the record".to_owned();
    Err(StoreError::Unavailable { doing: "noting what was told of an app", cause }.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testkit::SeededRandom;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_unix_seconds(1_000_000 + seconds)
    }

    fn one(fingerprint: &str, what: What) -> Seen {
        Seen { fingerprint: fingerprint.to_owned(), what }
    }

    fn works(since: i64) -> What {
        What::Works { since: Some(at(since)), expires_soon: false }
    }

    fn all(told: &mut Told, seen: &[Seen], now: i64) -> Vec<&'static str> {
        std::iter::from_fn(|| told.next(seen, at(now))).map(NoticeKind::as_str).collect()
    }

    #[test]
    fn each_change_of_an_apps_credentials_is_told_once() {
        let mut told = Told::default();
        assert_eq!(all(&mut told, &[one("a", works(0)), one("b", What::Other)], 1), [""; 0]);
        // A new secret is rejected, and the one before it works.
        let rejected = [one("a", works(5)), one("b", What::Rejected)];
        assert_eq!(all(&mut told, &rejected, 10), ["app.credential_rejected"]);
        assert_eq!(all(&mut told, &rejected, 20), [""; 0]);
        // Another replica has not tried it.
        assert_eq!(all(&mut told, &[one("a", works(5)), one("b", works(5))], 25), [""; 0], "from before");
        assert_eq!(all(&mut told, &[one("a", works(5)), one("b", works(30))], 31), ["app.recovered"]);
        assert_eq!(all(&mut told, &rejected, 40), ["app.credential_rejected"], "again is another change");
    }

    #[tokio::test]
    async fn what_others_kept_changing_is_an_error_so_that_it_is_told_later() {
        let tell_at = async |last: usize| {
            let mut tries = 0;
            until_told(|| {
                tries += 1;
                std::future::ready(Ok(tries == last))
            })
            .await
        };
        assert!(tell_at(TRIES).await.is_ok());
        assert!(tell_at(TRIES + 1).await.is_err());
    }

    #[test]
    fn what_is_told_anew_after_the_record_went_back_has_another_id() {
        let (app, random) = (AppName::parse("outlook").expect("a name"), SeededRandom::new(1));
        let rejected = [one("a", What::Rejected)];
        let ids = || {
            let notices = Told::default().notices(&app, &rejected, at(0), &random);
            notices.into_iter().map(|notice| notice.id).collect::<Vec<_>>()
        };
        let first = ids();
        assert_eq!(first.len(), 1);
        assert_ne!(
            first,
            ids(),
            "whoever knows the first would pass over the second, which is another change"
        );
    }

    #[test]
    fn a_credential_that_was_taken_away_is_over_and_not_told_again_by_who_still_has_it() {
        let mut told = Told::default();
        let both = [one("a", What::Rejected), one("b", What::Rejected)];
        assert_eq!(all(&mut told, &both, 0), ["app.credential_rejected", "app.credential_rejected"]);
        assert_eq!(all(&mut told, &[], 1), [""; 0], "nothing works");
        assert_eq!(
            all(&mut told, &[one("b", What::Rejected), one("c", works(1))], 2),
            [""; 0],
            "one is left"
        );
        assert_eq!(all(&mut told, &[one("c", works(1))], 3), ["app.recovered"]);
        assert_eq!(all(&mut told, &both, 4), [""; 0], "a replica that has not reloaded yet");
        assert_eq!(all(&mut told, &both, 4000), ["app.credential_rejected", "app.credential_rejected"]);
    }

    #[test]
    fn a_credential_expires_soon_once() {
        let mut told = Told::default();
        let soon = What::Works { since: Some(at(0)), expires_soon: true };
        assert_eq!(all(&mut told, &[one("a", soon)], 0), ["app.credential_expiring"]);
        assert_eq!(all(&mut told, &[one("a", soon)], 9), [""; 0]);
        assert_eq!(all(&mut told, &[one("a", soon), one("b", soon)], 9), ["app.credential_expiring"]);
    }

    #[test]
    fn a_record_is_bounded() {
        let mut told = Told::default();
        for number in 0..300 {
            let name = format!("{number}");
            all(&mut told, &[one(&name, What::Rejected)], number);
        }
        assert_eq!(told.rejected.len(), MOST_CREDENTIALS);
        assert!(told.rejected.contains_key("299"));
        // And so is what is told in one step.
        let all: Vec<Seen> = (0..300).map(|number| one(&format!("{number}"), What::Rejected)).collect();
        let app = AppName::parse("outlook").expect("a name");
        told.notices(&app, &all, at(300), &SeededRandom::new(1));
        assert_eq!(told.rejected.len(), MOST_CREDENTIALS);
    }
}
