//! Who serves beside this process: every replica says in the store what it is and what it can open, again and again, so that a key is
//! promoted only when all can open it, and taken away only when none needs it.
//!
//! One record lists them all, changed by compare-and-swap. What a report holds that this version does not know is kept as it is:
//! the replicas of one store may be of two versions.

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

/// How often a replica reports.
pub const REPORT_EVERY: Duration = Duration::from_secs(10);
/// One that has not reported for so long is gone.
const LIVE: Duration = Duration::from_secs(60);
/// For so long the list stays when nobody reports any more.
const KEPT: Duration = Duration::from_secs(3600);
/// More replicas than anybody runs: what is beyond is a mistake, and not to fill the store.
const MOST: usize = 1000;

/// What a replica says of itself. Members are added, and default to nothing: another version may not say them.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// Which process; new with every start.
    pub id: String,
    /// When it said so, by its own clock.
    pub at: Timestamp,
    /// Its machine's name.
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
    /// It has stopped, and this was its last word.
    #[serde(default)]
    pub is_gone: bool,
}

/// What a replica says of client credentials, by app.
pub type Credentials = BTreeMap<AppName, Vec<View>>;

/// What a replica says of its sealing keys.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sealing {
    /// The one that it seals with.
    #[serde(default)]
    pub primary: KeyId,
    /// Those that it can open, and whether each may go as far as it has counted.
    #[serde(default)]
    pub keys: BTreeMap<KeyId, bool>,
}

impl Sealing {
    fn of(keyring: &Keyring) -> Self {
        let keys = keyring.keys().into_iter().map(|key| (key.id.clone(), keyring.may_go(&key.id).is_ok()));
        Sealing { primary: keyring.primary().id.clone(), keys: keys.collect() }
    }
}

/// A replica that reports.
#[derive(Debug, Clone)]
pub struct Replica {
    /// What it said last.
    pub report: Report,
    /// It is this process.
    pub is_me: bool,
}

impl Replica {
    /// Its name for an operator.
    pub fn name(&self) -> String {
        let Report { id, host, .. } = &self.report;
        format!("{} ({})", if host.is_empty() { "a replica" } else { host }, id)
    }
}

/// What this process knows of the others.
#[derive(Default)]
pub(super) struct Known {
    id: String,
    host: String,
    /// What this one says of its client credentials.
    credentials: Mutex<Credentials>,
    /// By id. The list may be lost, or written anew by one who cannot read it: whoever reported counts for all that.
    seen: Mutex<BTreeMap<String, Seen>>,
}

/// The last report of a replica.
struct Seen {
    report: Report,
    /// As it was, with what this version does not know.
    value: Value,
    /// The monotonic time at which it was seen first. Whether somebody still reports is seen by that, and not by their clock.
    at: Duration,
}

impl Known {
    /// This process on the machine of that name.
    pub(super) fn new(random: &dyn crate::domain::random::Random, host: String) -> Self {
        let id = random_bytes::<6>(random).iter().map(|byte| format!("{byte:02x}")).collect();
        Known { id, host, credentials: Mutex::default(), seen: Mutex::default() }
    }

    fn credentials(&self) -> MutexGuard<'_, Credentials> {
        self.credentials.lock()
    }

    /// Those that still report, and the last words of those that stopped: of a list, and what is remembered beside it. Learns of those
    /// that report anew.
    fn live(&self, list: Vec<Value>, now: Duration) -> Vec<(Value, Report)> {
        let mut seen = self.seen.lock();
        let mut listed = BTreeSet::new();
        for value in list {
            let Ok(report) = Report::deserialize(&value) else { continue };
            listed.insert(report.id.clone());
            // (The last word is the last: an older list may come back with a store that lost something.)
            let is_news =
                |before: &Seen| (before.report.at != report.at || report.is_gone) && !before.report.is_gone;
            if seen.get(&report.id).is_none_or(is_news) {
                seen.insert(report.id.clone(), Seen { report, value, at: now });
            }
        }
        let is_live = |one: &Seen| now.saturating_sub(one.at) < LIVE;
        // Of those that are over too, for as long as they are listed: they must not come back as somebody new.
        seen.retain(|id, one| is_live(one) || listed.contains(id));
        let live = seen.values().filter(|one| is_live(one));
        live.map(|one| (one.value.clone(), one.report.clone())).collect()
    }
}

impl Broker {
    /// Says that this process is there, and learns who else is. For a timer of [`REPORT_EVERY`], and at once when the keyring changed.
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

    /// What this process says of its client credentials from the next report on. True where the others should hear of it at once: it
    /// is more than that the authority took one again.
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

    /// Says that this process is not there any more.
    pub async fn withdraw_report(&self) -> Result<(), RepositoryError> {
        if !self.deps.repository.is_shared() {
            return Ok(());
        }
        self.put_report(Report { is_gone: true, ..self.own_report() }).await
    }

    /// Every replica that reports; this process among them, with what is so now.
    pub async fn replicas(&self) -> Result<Vec<Replica>, Refusal> {
        Ok(self.live_replicas().await?)
    }

    pub(super) async fn live_replicas(&self) -> Result<Vec<Replica>, RepositoryError> {
        let mut replicas = vec![Replica { report: self.own_report(), is_me: true }];
        // Where nobody else can have the store, whoever reported is an earlier start of this one.
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

    /// Replaces the list by what `change` makes of it, without this process' own report and without those who are gone.
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
            // Sealed by a key that this replica lacks: the others have to hear of one that cannot open it. What they said is said
            // again within seconds.
            Err(error @ RepositoryError::Damaged(_)) => {
                tracing::error!(%error, "what other replicas report cannot be read; they may seal with a key that this one lacks");
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
        // One says the same all the time, one goes on reporting with a clock that stands in the past, one says nothing at all.
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
        // Its last word is remembered in the same way, so that an older one does not bring it back.
        let last = serde_json::json!({ "id": "other", "at": 3, "is_gone": true });
        assert_eq!(live(&[last], 171), [other(true)]);
        assert_eq!(live(&[report("other", 2)], 172), [other(true)]);
    }
}
