//! The keyring while the daemon runs. Its source is checked again and again, and a change is taken up whole
//! or not at all.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::callers::Roster;
use super::environment::Environment;
use super::in_force::InForce;
use super::jobs::{Ended, Work};
use super::process::Process;
use super::replicas::report;
use crate::broker::Broker;
pub(super) use crate::broker::rewrap::COUNT;
use crate::broker::rewrap::{Pass, Progress};
use crate::config::Config;
use crate::domain::backoff::Backoff;
use crate::domain::time::{Clock, Timestamp};
use crate::events::Events;
use crate::keyring::{KeyId, KeySource, Keyring, KeyringError, SourceRead, Version, files};
use crate::repository::RepositoryError;
use crate::telemetry::metrics::Metrics;

/// How often the keyring's source is checked.
pub(super) const CHECK_EVERY: Duration = Duration::from_secs(1);
/// The same while another replica rewraps.
const ELSEWHERE: Duration = Duration::from_secs(5);
/// The first pause after a count that failed; it grows with each further failure.
const SOON: Backoff = Backoff { first: Duration::from_secs(1), longest: COUNT };

/// Follows the source of the keyring in force.
pub(super) struct Follower {
    keys: Arc<dyn KeySource>,
    keyring: Arc<Keyring>,
    events: Arc<Events>,
    /// State of the source when it was last taken up.
    seen: Option<Version>,
    /// Why the source's present content is not in force. The keys from before still are.
    refused: Option<KeyringError>,
}

impl Follower {
    /// Follows the source from which `keyring` was opened.
    pub(super) fn new(
        config: &Config,
        environment: &Environment,
        keyring: Arc<Keyring>,
        events: Arc<Events>,
    ) -> Self {
        let credentials = environment.credentials_directory.as_deref();
        let keys = Arc::new(files::Directory::new(&config.sealing.keyring, credentials));
        Follower { keys, keyring, events, seen: None, refused: None }
    }

    /// Checks the source and takes its keys up if they may replace those in force. Cheap if nothing changed.
    /// Returns whether the keys in force changed. A refusal is logged once, as an error.
    async fn look_again(&mut self, roster: &Roster, clock: &dyn Clock) -> bool {
        // A refused ring may be right by now with the same keys, since that depends on the last count.
        let seen = self.seen.as_ref().filter(|_| self.refused.is_none());
        let place = self.keys.place();
        let read = match self.keys.read(seen).await {
            Ok(None) => return false,
            Ok(Some(read)) => Ok(read),
            Err(error) => Err(error),
        };
        let hashed = roster.sealing_keys_in_use(clock).await;
        let replace =
            |read: SourceRead| Ok((read.version, self.keyring.replace(read.keys, &place, &hashed)?));
        let replaced = read.and_then(replace);
        match replaced {
            Ok((version, replaced)) => {
                self.seen = Some(version);
                let was_refused = self.refused.take().is_some();
                if !replaced.is_nothing() {
                    self.events.keyring_replaced(&replaced).await;
                } else if was_refused {
                    tracing::info!(keyring = place, "the keyring is again what it was");
                }
                !replaced.is_nothing()
            }
            Err(error) => {
                if self.refused.as_ref().is_none_or(|before| !before.is_like(&error)) {
                    self.events.keyring_refused(&error.to_string()).await;
                }
                self.refused = Some(error);
                false
            }
        }
    }
}

/// When each key was made and last used, for the metrics.
#[derive(Default)]
struct SealingKeyUses(BTreeMap<KeyId, u64>);

impl SealingKeyUses {
    /// Writes them to the metrics. Called every second: a key that was used since the last call was used now.
    fn show(&mut self, keyring: &Keyring, metrics: &Metrics, now: Timestamp) {
        let keys = keyring.keys();
        metrics.rename(|names| names.sealing_keys = keys.iter().map(|key| key.id.clone()).collect());
        for key in &keys {
            metrics.sealing_key_created(&key.id, key.created_at);
            let uses = key.uses();
            // (A key that was read again starts at 0.)
            if self.0.insert(key.id.clone(), uses) != Some(uses) && uses > 0 {
                metrics.sealing_key_used(&key.id, now);
            }
        }
        self.0.retain(|id, _| keys.iter().any(|key| key.id == *id));
    }
}

/// Takes up changes in the keyring's source, and shows when its keys were used.
pub(super) struct Watch {
    follower: Follower,
    uses: SealingKeyUses,
    process: Process,
    in_force: Arc<InForce>,
    broker: Arc<Broker>,
}

impl Watch {
    pub(super) fn new(
        follower: Follower,
        process: Process,
        in_force: Arc<InForce>,
        broker: Arc<Broker>,
    ) -> Self {
        Watch { follower, uses: SealingKeyUses::default(), process, in_force, broker }
    }
}

impl Work for Watch {
    async fn run(&mut self) -> Ended {
        let Process { ports, metrics, shutdown, .. } = &self.process;
        self.uses.show(&self.follower.keyring, metrics, ports.clock.now());
        self.follower.keyring.age_counts(ports.clock.monotonic());
        // (A file on a mount that hangs must not delay the stop.)
        let is_changed = tokio::select! {
            is_changed = self.follower.look_again(self.in_force.roster(), &*ports.clock) => is_changed,
            () = shutdown.soft().cancelled() => return Ok(()),
        };
        if is_changed {
            // The other replicas wait for this report, and there may be records to rewrap.
            let reported = report(&self.broker).await;
            self.broker.ask_for_rewrap();
            reported?;
        }
        if self.follower.refused.is_some() {
            // A key that is gone from the source may be allowed to go after two counts.
            self.broker.want_counts();
        }
        self.follower.refused.as_ref().map_or(Ok(()), |error| Err(error.to_string()))
    }
}

/// Counts records by sealing key, and rewraps those that the primary did not seal.
pub(super) struct Rewrap {
    broker: Arc<Broker>,
    events: Arc<Events>,
    in_force: Arc<InForce>,
    metrics: Arc<Metrics>,
    rounds: Rounds,
    /// The last count ended with work left, or did not end.
    goes_on: bool,
    pause: Duration,
}

impl Rewrap {
    pub(super) fn new(
        broker: Arc<Broker>,
        events: Arc<Events>,
        in_force: Arc<InForce>,
        metrics: Arc<Metrics>,
    ) -> Self {
        Rewrap { broker, events, in_force, metrics, rounds: Rounds::default(), goes_on: true, pause: COUNT }
    }

    /// Makes one count, if one is due, and reports it. Returns the pause before the next look.
    async fn count(&mut self) -> Result<Duration, RepositoryError> {
        if !self.goes_on && !self.broker.is_count_due().await? {
            return Ok(self.rounds.pause_after_nothing());
        }
        // (Also after an error.)
        self.goes_on = true;
        self.broker.count_sealed().await?;
        let counts = self.broker.sealing_keys();
        self.metrics.sealing_keys(
            counts.iter().map(|(key, records, is_primary)| (key.as_str(), *records, *is_primary)),
        );
        if self.broker.left_to_rewrap() == 0 {
            self.goes_on = false;
            return Ok(self.rounds.pause_after_nothing());
        }
        let pass = self.broker.rewrap(f64::from(self.in_force.config().limits.rewrap_rate)).await?;
        if let Pass::Done(progress) = &pass
            && progress.resealed + progress.refused > 0
        {
            self.events.rewrap_ended(progress).await;
        }
        Ok(self.rounds.pause_after(&pass))
    }
}

impl Work for Rewrap {
    async fn run(&mut self) -> Ended {
        let counted = self.count().await;
        let ended = counted.as_ref().map(|_| ()).map_err(ToString::to_string);
        self.pause = counted.unwrap_or_else(|error| self.rounds.pause_after_failure(&error));
        ended
    }

    fn pause(&self) -> Option<Duration> {
        Some(self.pause)
    }

    async fn wanted(&self) {
        self.broker.rewrap_asked_for().await;
    }
}

/// The next pass: at once after one that did work, soon while something prevents it, otherwise at the regular
/// pace.
#[derive(Default)]
struct Rounds {
    /// How many passes ago the replicas began to disagree.
    waited: u32,
    /// The reason for waiting that was last logged.
    waits_for: Option<String>,
    /// How many passes in a row failed.
    failed: u32,
}

impl Rounds {
    /// The pause after a pass.
    fn pause_after(&mut self, pass: &Pass) -> Duration {
        self.failed = 0;
        let before = self.waits_for.take();
        let waited = std::mem::take(&mut self.waited);
        match pass {
            Pass::Done(Progress { resealed: 0, .. }) => COUNT,
            Pass::Done(_) => Duration::ZERO,
            Pass::Elsewhere => ELSEWHERE,
            Pass::Waits(why) => {
                if before.as_ref() != Some(why) {
                    tracing::warn!(why, "nothing is sealed anew before all replicas agree");
                }
                self.waits_for = Some(why.clone());
                self.waited = waited.saturating_add(1);
                // The others usually take the same keys up a moment later.
                SOON.after(self.waited)
            }
        }
    }

    /// The pause after a pass that failed. The first failure of several in a row is logged as a warning.
    fn pause_after_failure(&mut self, error: &RepositoryError) -> Duration {
        if self.failed == 0 {
            tracing::warn!(%error, "records could not be counted by sealing key; trying again and again");
        } else {
            tracing::debug!(%error, "records could not be counted by sealing key");
        }
        self.failed = self.failed.saturating_add(1);
        SOON.after(self.failed)
    }

    /// The pause after a pass that had nothing to do.
    fn pause_after_nothing(&mut self) -> Duration {
        *self = Rounds::default();
        COUNT
    }
}

#[cfg(test)]
mod tests {
    use zeroize::Zeroizing;

    use super::*;
    use crate::keyring::seal::Place;
    use crate::keyring::{Hashed, SealingKey};
    use crate::store::StoreError;
    use crate::testkit::SeededRandom;

    #[test]
    fn what_is_not_agreed_on_is_asked_about_soon_and_then_less_often() {
        let mut rounds = Rounds::default();
        let waits = Pass::Waits("x".into());
        let pauses: Vec<u64> = (0..7).map(|_| rounds.pause_after(&waits).as_secs()).collect();
        assert_eq!(pauses, [1, 2, 4, 8, 16, 30, 30]);
        let done = |resealed| Pass::Done(Progress { resealed, ..Progress::default() });
        assert_eq!(rounds.pause_after(&done(3)), Duration::ZERO);
        assert_eq!(rounds.pause_after(&done(0)), COUNT);
        assert_eq!(rounds.pause_after(&Pass::Elsewhere), ELSEWHERE);
        assert_eq!(rounds.pause_after(&waits), SOON.first);
        let doing = "testing";
        let error: RepositoryError = StoreError::Unavailable { doing, cause: "x".into() }.into();
        let pauses: Vec<u64> = (0..3).map(|_| rounds.pause_after_failure(&error).as_secs()).collect();
        assert_eq!(pauses, [1, 2, 4]);
        assert_eq!(rounds.pause_after_nothing(), COUNT);
        assert_eq!(rounds.pause_after_failure(&error), SOON.first);
    }

    #[test]
    fn a_key_s_last_use_is_shown_and_a_key_that_was_read_again_was_not_used_by_that() {
        let place = Place { schema: "connection", owner: ("app", "a"), field: "grant", generation: 1 };
        let at = Timestamp::from_unix_seconds;
        let key = |id: &str| {
            let material = Zeroizing::new([u8::try_from(id.len()).expect("short"); 32]);
            SealingKey::new(id.into(), at(1), (id == "new").then(|| at(2)), material)
        };
        let random = SeededRandom::new(1);
        let before = Keyring::new(
            vec![SealingKey::new("older".into(), at(1), Some(at(1)), Zeroizing::new([5; 32]))],
            "x",
        );
        let sealed = before.expect("a keyring").seal(&place, b"secret", &random);
        let keyring = Keyring::new(vec![key("older"), key("new")], "x").expect("a keyring");
        let (mut uses, metrics) = (SealingKeyUses::default(), Metrics::new("0.1.0"));
        let mut show = |keyring: &Keyring, now| {
            uses.show(keyring, &metrics, at(now));
            let text = metrics.encode(at(now));
            let of = |key| {
                let name = format!("tokenward_sealing_key_last_used_timestamp_seconds{{key=\"{key}\"}} ");
                text.lines().find_map(|line| line.strip_prefix(&name)?.parse::<i64>().ok())
            };
            (of("older"), of("new"))
        };
        assert_eq!(show(&keyring, 10), (None, None));
        let _anew = keyring.seal(&place, b"secret", &random);
        assert_eq!(show(&keyring, 11), (None, Some(11)));
        keyring.open(&place, &sealed).expect("opens");
        assert_eq!(show(&keyring, 12), (Some(12), Some(11)));
        keyring.replace(vec![key("older"), key("new")], "x", &Hashed::new()).expect("the same");
        assert_eq!(show(&keyring, 13), (Some(12), Some(11)));
        keyring.open(&place, &sealed).expect("opens");
        assert_eq!(show(&keyring, 14), (Some(14), Some(11)));
    }
}
