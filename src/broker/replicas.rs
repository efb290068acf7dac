//! The replicas of this installation. Each regularly writes into the store what it is and which keys it can
//! open, so that a key is promoted only when all can open it, and retired only when none needs it.
//!
//! One record lists all reports and is changed by compare-and-swap. Unknown members of a report are kept
//! unchanged, because replicas of one store may have two versions.

use parking_lot::{Mutex, MutexGuard};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{Broker, Refusal};
use crate::domain::choice::View;
use crate::domain::id::AppName;
use crate::domain::random::random_bytes;
use crate::domain::time::Timestamp;
use crate::keyring::{KeyId, Keyring};
use crate::repository::{FiledUnder, Kind, RepositoryError, Taken};

/// Time between two reports of a replica.
pub const REPORT_EVERY: Duration = Duration::from_secs(10);
/// Time without a report after which a replica counts as gone.
const LIVE: Duration = Duration::from_secs(60);
/// How long the list is kept when no replica reports.
const KEPT: Duration = Duration::from_secs(3600);
/// Most replicas in the list, so that a mistake cannot fill the store.
const MOST: usize = 1000;

/// A replica's report about itself. Every member has a default, because another version may not send it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// Id of the process; new with every start.
    pub id: String,
    /// When it was made, by the replica's own clock.
    pub at: Timestamp,
    /// Name of its machine.
    #[serde(default)]
    pub host: String,
    /// Its version.
    #[serde(default)]
    pub version: String,
    /// Its sealing keys.
    #[serde(default)]
    pub sealing: Sealing,
    /// Its client credentials, by app.
    #[serde(default)]
    pub credentials: Credentials,
    /// True if it has stopped and this was its last report.
    #[serde(default)]
    pub is_gone: bool,
}

/// A replica's client credentials, by app.
pub type Credentials = BTreeMap<AppName, Vec<View>>;

/// A replica's sealing keys.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sealing {
    /// The key that it seals with.
    #[serde(default)]
    pub primary: KeyId,
    /// The keys that it can open, and whether its counts allow each to be retired.
    #[serde(default)]
    pub keys: BTreeMap<KeyId, bool>,
}

impl Sealing {
    fn of(keyring: &Keyring) -> Self {
        // (However long ago: this replica's journal and memory have nothing of a key that it was proven not
        // to use, and whoever retires the key counts the store anew.)
        let tally = keyring.tally();
        let keys = keyring.keys().into_iter().map(|key| (key.id.clone(), tally.is_proven(&key.id)));
        Sealing { primary: keyring.primary().id.clone(), keys: keys.collect() }
    }
}

/// A replica with its report.
#[derive(Debug, Clone)]
pub struct Replica {
    /// Its last report.
    pub report: Report,
    /// True for this process.
    pub is_me: bool,
}

impl Replica {
    /// Returns its name for an operator.
    pub fn name(&self) -> String {
        let Report { id, host, .. } = &self.report;
        format!("{} ({})", if host.is_empty() { "a replica" } else { host }, id)
    }
}

/// What this process knows about the others.
#[derive(Default)]
pub(super) struct Known {
    id: String,
    host: String,
    /// This process's report of its client credentials.
    credentials: Mutex<Credentials>,
    /// Reports by id. The list may be lost, or rewritten by a replica that cannot read it: known reports
    /// count all the same.
    seen: Mutex<BTreeMap<String, Seen>>,
}

/// The last report of a replica.
struct Seen {
    report: Report,
    /// As received, with members that this version does not know.
    value: Value,
    /// Monotonic time at which it was first seen. Whether a replica still reports is judged by this, not by
    /// the replica's clock.
    at: Duration,
}

impl Known {
    /// Makes it for this process, on the machine of that name.
    pub(super) fn new(random: &dyn crate::domain::random::Random, host: String) -> Self {
        let id = hex::encode(random_bytes::<6>(random));
        Known { id, host, credentials: Mutex::default(), seen: Mutex::default() }
    }

    fn credentials(&self) -> MutexGuard<'_, Credentials> {
        self.credentials.lock()
    }

    /// Returns the replicas that still report and the last reports of stopped ones, from a list and from
    /// memory. It takes in new reports.
    fn live(&self, list: Vec<Value>, now: Duration) -> Vec<(Value, Report)> {
        let mut seen = self.seen.lock();
        let mut listed = BTreeSet::new();
        for value in list {
            let Ok(report) = Report::deserialize(&value) else { continue };
            listed.insert(report.id.clone());
            // (A last report stays the last: a store that lost writes may return an older list.)
            let is_news =
                |before: &Seen| (before.report.at != report.at || report.is_gone) && !before.report.is_gone;
            if seen.get(&report.id).is_none_or(is_news) {
                seen.insert(report.id.clone(), Seen { report, value, at: now });
            }
        }
        let is_live = |one: &Seen| now.saturating_sub(one.at) < LIVE;
        // Ended ones are kept too, for as long as they are listed: they must not come back as new replicas.
        seen.retain(|id, one| is_live(one) || listed.contains(id));
        let live = seen.values().filter(|one| is_live(one));
        live.map(|one| (one.value.clone(), one.report.clone())).collect()
    }
}

impl Broker {
    /// Reports this process, and learns about the others. Called every [`REPORT_EVERY`], and at once when the
    /// keyring changes.
    pub async fn report(&self) -> Result<(), RepositoryError> {
        if !self.deps.repository.is_shared() {
            return Ok(()); // nobody else can be there
        }
        self.put_report(self.own_report()).await
    }

    async fn put_report(&self, report: Report) -> Result<(), RepositoryError> {
        let mine = serde_json::to_value(report).expect("a report has no map keys that JSON lacks");
        self.change_list(|list| list.push(mine.clone())).await
    }

    fn own_report(&self) -> Report {
        Report {
            id: self.replicas.id.clone(),
            at: self.deps.clock.now(),
            host: self.replicas.host.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            sealing: Sealing::of(self.deps.repository.keyring()),
            credentials: self.replicas.credentials().clone(),
            is_gone: false,
        }
    }

    /// Sets the client credentials for the following reports. Returns true if the others should learn about
    /// it at once, because it is more than another acceptance.
    pub fn say_of_credentials(&self, credentials: Credentials) -> bool {
        let without_times = |credentials: &Credentials| {
            let mut credentials = credentials.clone();
            for view in credentials.values_mut().flatten() {
                (view.used_at, view.accepted_at) = (None, view.accepted_at.map(|_| Timestamp::default()));
            }
            credentials
        };
        let mut said = self.replicas.credentials();
        let is_news = without_times(&said) != without_times(&credentials);
        *said = credentials;
        is_news
    }

    /// Reports that this process stops.
    pub async fn withdraw_report(&self) -> Result<(), RepositoryError> {
        if !self.deps.repository.is_shared() {
            return Ok(());
        }
        self.put_report(Report { is_gone: true, ..self.own_report() }).await
    }

    /// Returns every replica that reports, including this process with its present state.
    pub async fn replicas(&self) -> Result<Vec<Replica>, Refusal> {
        Ok(self.live_replicas().await?)
    }

    pub(super) async fn live_replicas(&self) -> Result<Vec<Replica>, RepositoryError> {
        let mut replicas = vec![Replica { report: self.own_report(), is_me: true }];
        // If no other process can use the store, all other reports are from earlier starts of this one.
        if self.deps.repository.is_shared() {
            let list = self.read_list().await?.map(|list| list.value).unwrap_or_default();
            let others = self.replicas.live(list, self.deps.clock.monotonic()).into_iter();
            let others = others.map(|(_, report)| Replica { report, is_me: false });
            let is_another = |other: &Replica| other.report.id != self.replicas.id && !other.report.is_gone;
            replicas.extend(others.filter(is_another));
        }
        Ok(replicas)
    }

    async fn read_list(&self) -> Result<Option<Taken<Vec<Value>>>, RepositoryError> {
        self.deps.repository.pending(Kind::Replicas, &FiledUnder::only()).await
    }

    /// Replaces the list by the result of `change`, which gets it without this process's own report and
    /// without replicas that are gone.
    async fn change_list(&self, change: impl Fn(&mut Vec<Value>)) -> Result<(), RepositoryError> {
        let (repository, now) = (&self.deps.repository, self.deps.clock.now());
        let replace = |list: &mut Vec<Value>| {
            let live = self.replicas.live(std::mem::take(list), self.deps.clock.monotonic());
            let others = live.into_iter().filter(|(_, report)| report.id != self.replicas.id);
            list.extend(others.map(|(value, _)| value).take(MOST));
            change(list);
            Ok(())
        };
        match repository.change_pending(Kind::Replicas, &FiledUnder::only(), now, KEPT, replace).await {
            Ok(Some(_)) => Ok(()),
            Ok(None) => {
                tracing::debug!("other replicas kept changing the list of replicas");
                Ok(())
            }
            // The list is sealed with a key that this replica lacks. The others must learn about a replica
            // that cannot open it, and they repeat their own reports within seconds.
            Err(error @ RepositoryError::Damaged(_)) => {
                tracing::error!(
                    %error,
                    "what other replicas report cannot be read; they may seal with a key that this one lacks"
                );
                let mut list = Vec::new();
                change(&mut list);
                repository.put_pending(Kind::Replicas, &FiledUnder::only(), &list, now, KEPT).await
            }
            Err(error) => Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testkit::SeededRandom;

    fn report(id: &str, at: i64) -> Value {
        serde_json::json!({ "id": id, "at": at, "of_a_newer_version": [1] })
    }

    #[test]
    fn who_reports_is_live_whatever_their_clock_says_and_what_they_say_is_kept() {
        let known = Known::new(&SeededRandom::new(1), "here".into());
        let live = |list: &[Value], now: u64| {
            let live = known.live(list.to_vec(), Duration::from_secs(now));
            assert!(live.iter().all(|(value, _)| value["of_a_newer_version"][0] == 1));
            live.into_iter().map(|(_, report)| report.id).collect::<Vec<_>>()
        };
        // One replica repeats itself, one goes on reporting with a clock in the past, and one is silent.
        let list =
            |second: i64| vec![report("dead", 7_000_000), report("slow", second), serde_json::json!(3)];
        assert_eq!(live(&list(1), 100), ["dead", "slow"]);
        assert_eq!(live(&list(2), 159), ["dead", "slow"]);
        assert_eq!(live(&list(3), 160), ["slow"]);
        assert_eq!(live(&list(3), 219), ["slow"], "who was gone does not come back by being listed");
        assert_eq!(live(&list(3), 220), [""; 0]);
        assert_eq!(live(&[], 221), [""; 0]);
    }

    #[test]
    fn a_list_that_is_lost_or_written_anew_takes_nobody_s_word_away() {
        let known = Known::new(&SeededRandom::new(1), "here".into());
        let live = |list: &[Value], now: u64| {
            let live = known.live(list.to_vec(), Duration::from_secs(now));
            live.into_iter().map(|(value, report)| (report.id, value["is_gone"] == true)).collect::<Vec<_>>()
        };
        let other = |is_gone| ("other".to_owned(), is_gone);
        assert_eq!(live(&[report("other", 1)], 100), [other(false)]);
        assert_eq!(live(&[], 159), [other(false)], "it reported a minute ago");
        assert_eq!(live(&[], 160), []);
        assert_eq!(live(&[report("other", 2)], 170), [other(false)]);
        // Its last report is remembered in the same way, so that an older one does not bring it back.
        let last = serde_json::json!({ "id": "other", "at": 3, "is_gone": true });
        assert_eq!(live(&[last], 171), [other(true)]);
        assert_eq!(live(&[report("other", 2)], 172), [other(true)]);
    }
}
