//! The end of a run: the faults end, everybody asks once more, and everything must have healed.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::{COMPARED, Cluster, LAST_ASKED, Outcome, Process, REPLICAS};
use crate::domain::time::Clock;
use crate::testkit::faults::{AuthorityWeather, Link, StoreWeather};
use crate::testkit::tasks::{Pid, WORLD};

impl Cluster {
    /// Ends the faults: dead processes start, and stopped ones resume.
    pub(super) fn calm_down(self: &Arc<Self>) {
        self.world.note(format_args!("the faults end"));
        self.server.set_weather(StoreWeather::default());
        self.issuer.set_weather(AuthorityWeather::default());
        self.calm_down_more();
        if self.server.is_down() {
            self.server.promote();
        }
        for replica in 0..REPLICAS {
            self.server.set_link(replica, Link::Up);
            self.replicas()[replica].wall_error.store(0, Ordering::Relaxed);
            match self.process(replica) {
                Some(process) => self.resume(replica, process.pid),
                None => self.start(replica),
            }
        }
        for target in &self.targets {
            self.issuer.block(target.user, false);
        }
        for target in 0..self.targets.len() {
            self.always("ask at the end", move |cluster| async move {
                cluster.world.sleep(LAST_ASKED.saturating_sub(cluster.world.now())).await;
                // A verdict may have been lifted; a caller reports that.
                if let Some(process) = cluster.process(0) {
                    process.engine.try_now(&cluster.targets[target].key, None);
                }
                cluster.world.sleep(Duration::from_secs(6)).await;
                for replica in 0..REPLICAS {
                    let Some(process) = cluster.process(replica) else { continue };
                    let asking = cluster.clone();
                    let ask = async move {
                        for _ in 0..3 {
                            let outcome = asking.request(&process, target, false).await;
                            let over = !matches!(outcome, Outcome::Trouble(_));
                            asking.outcome(target, replica, outcome);
                            if over {
                                break;
                            }
                            process.clock.sleep(Duration::from_secs(2)).await;
                        }
                        asking.world.sleep(COMPARED.saturating_sub(asking.world.now())).await;
                        asking.compare(&process, target).await;
                    };
                    let pid = cluster.process(replica).map_or(WORLD, |process| process.pid);
                    cluster.world.spawn(pid, "ask at the end", Box::pin(ask));
                }
            });
        }
    }

    /// Compares a process's cache with the store.
    async fn compare(&self, process: &Process, target: usize) {
        let key = &self.targets[target].key;
        let held = process.engine.inspect(key).await.ok().map(|held| held.connection.revision);
        let stored = self.ledger.stored(key).map(|stored| stored.revision);
        if held != stored {
            let what = format!("{key}: replica {} holds {held:?} and {stored:?} is stored", process.replica);
            self.ledger.violated("I18", what);
        }
    }

    fn outcome(&self, target: usize, replica: usize, outcome: Outcome) {
        self.last.lock().insert((target, replica), outcome);
    }

    /// Checks that everything healed.
    pub(super) fn judge(self: &Arc<Self>) {
        // If connections are renewed without requests, one is always being renewed.
        let held = if self.additions.sweeps() { Vec::new() } else { self.server.leases() };
        for lease in held {
            self.ledger.violated("I18", format!("the lease of {lease} is still held"));
        }
        self.ledger.judge_journals();
        let last = self.last.lock().clone();
        for (number, target) in self.targets.iter().enumerate() {
            self.ledger.judge_notices(&target.key);
            let stored = self.ledger.stored(&target.key);
            let expected = match stored {
                None => {
                    self.ledger.not_there(&target.key);
                    Outcome::NotFound
                }
                Some(stored) => match stored.grant {
                    Some((family, _)) if self.issuer.lives(family) => {
                        // Any token will do.
                        match last.get(&(number, 0)) {
                            Some(Outcome::Token(stamp)) if stamp.family == family => Outcome::Token(*stamp),
                            other => {
                                let what = format!("{}: a living grant gives {other:?}", target.key);
                                self.ledger.violated("I18", what);
                                continue;
                            }
                        }
                    }
                    _ => Outcome::Judged,
                },
            };
            for replica in 0..REPLICAS {
                let outcome = last.get(&(number, replica));
                let fits = match (outcome, &expected) {
                    (Some(Outcome::Token(one)), Outcome::Token(other)) => one.family == other.family,
                    // A live token is served, whatever the verdict.
                    (Some(Outcome::Token(_)), Outcome::Judged) => true,
                    (outcome, expected) => outcome == Some(expected),
                };
                if !fits {
                    let what =
                        format!("{} on replica {replica}: {outcome:?} and not {expected:?}", target.key);
                    self.ledger.violated("I18", what);
                }
            }
        }
    }

    /// Counts the process's knowledge of each connection.
    pub(super) fn count_combinations(&self, pid: Pid) {
        let engine = {
            let replicas = self.replicas();
            let process =
                replicas.iter().filter_map(|of| of.process.as_ref()).find(|process| process.pid == pid);
            let Some(process) = process else { return };
            process.engine.clone()
        };
        let known: Vec<_> =
            self.targets.iter().filter_map(|target| engine.combination(&target.key)).collect();
        self.ledger.count(|counts| {
            for combination in known {
                *counts.combinations.entry(combination).or_default() += 1;
            }
        });
    }
}
