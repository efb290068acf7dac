//! Background work of a run: callers, and the faults and acts that its climate has.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::{CALLERS_END, Cluster, Process, REPLICAS};
use crate::testkit::faults::{AuthorityWeather, Link, StoreWeather};
use crate::testkit::tasks::WORLD;

impl Cluster {
    pub(super) fn begin(self: &Arc<Self>) {
        for replica in 0..REPLICAS {
            self.start(replica);
        }
        self.always("connect everybody at first", |cluster| async move {
            for target in 0..cluster.targets.len() {
                cluster.at_some_process("sign in", move |cluster, process| async move {
                    let user = cluster.targets[target].user;
                    cluster.sign_in(&process, target, user).await;
                });
            }
        });
        for _ in 0..4 {
            self.always("callers", |cluster| async move {
                while cluster.world.now() < CALLERS_END {
                    cluster.wait(1, 2500).await;
                    // Sometimes a crowd.
                    let crowd = if cluster.dice.of_thousand(20) { 10 } else { 1 };
                    let target = cluster.dice.below(cluster.asked);
                    for _ in 0..crowd {
                        cluster.at_some_process("a caller", move |cluster, process| async move {
                            let _ = cluster.request(&process, target, true).await;
                        });
                    }
                }
            });
        }
        self.processes_fail();
        self.store_goes_back();
        self.clocks_jump();
        self.store_is_lossy();
        self.authority_fails();
        self.users_come_and_go();
    }

    /// Processes are killed, stopped and cut off from the store.
    fn processes_fail(self: &Arc<Self>) {
        if self.climate.kills {
            self.now_and_then("kill", 60, |cluster| async move {
                let replica = cluster.dice.below(REPLICAS);
                cluster.kill(replica);
                cluster.wait(1, 8000).await;
                if cluster.process(replica).is_none() {
                    cluster.start(replica);
                }
            });
        }
        if self.climate.pauses {
            self.now_and_then("stop", 50, |cluster| async move {
                let replica = cluster.dice.below(REPLICAS);
                if let Some(pid) = cluster.stop(replica) {
                    cluster.wait(50, 30_000).await;
                    cluster.resume(replica, pid);
                }
            });
        }
        if self.climate.partitions {
            self.now_and_then("cut off", 50, |cluster| async move {
                let replica = cluster.dice.below(REPLICAS);
                let link = cluster.dice.one_of(&[Link::Cut, Link::AnswersLost]);
                cluster.world.note(format_args!("{replica} and the store: {link:?}"));
                cluster.server.set_link(replica, link);
                cluster.wait(100, 45_000).await;
                cluster.world.note(format_args!("{replica} and the store: up"));
                cluster.server.set_link(replica, Link::Up);
            });
        }
    }

    /// The store loses what it has, all of it or the newest.
    fn store_goes_back(self: &Arc<Self>) {
        if self.climate.failovers {
            self.now_and_then("failover", 60, |cluster| async move {
                cluster.world.note(format_args!("the primary is lost"));
                cluster.server.lose_primary();
                cluster.wait(200, 6000).await;
                cluster.server.promote();
            });
        }
        if self.climate.restarts_empty {
            self.now_and_then("restart empty", 120, |cluster| async move {
                cluster.world.note(format_args!("the store starts empty"));
                cluster.ledger.emptied();
                cluster.server.empty();
            });
        }
    }

    /// Wall clocks are wrong.
    fn clocks_jump(self: &Arc<Self>) {
        if self.climate.wall_jumps {
            self.now_and_then("wall jump", 40, |cluster| async move {
                const HOUR: i64 = 3_600_000;
                let by = cluster.dice.one_of(&[HOUR, -HOUR, 24 * 365 * 10 * HOUR, -30_000, 5_000, 0]);
                let replica = cluster.dice.below(REPLICAS);
                cluster.world.note(format_args!("{replica}'s wall clock is wrong by {by} ms"));
                cluster.replicas()[replica].wall_error.store(by, Ordering::Relaxed);
            });
        }
    }

    /// Single calls to the store fail.
    fn store_is_lossy(self: &Arc<Self>) {
        if self.climate.store_lossy {
            self.now_and_then("lossy store", 40, |cluster| async move {
                let dice = &cluster.dice;
                let up_to = |most: usize| u32::try_from(dice.below(most)).unwrap_or(0);
                let weather = StoreWeather {
                    lost_before: up_to(150),
                    lost_after: up_to(150),
                    slow: up_to(150),
                    repeated: up_to(100),
                    untold: up_to(1000),
                    lag: dice.millis(1, 8000),
                };
                cluster.world.note(format_args!("{weather:?}"));
                cluster.server.set_weather(weather);
                cluster.wait(2000, 40_000).await;
                cluster.server.set_weather(StoreWeather::default());
            });
        }
    }

    /// The authority fails, and judges grants.
    fn authority_fails(self: &Arc<Self>) {
        if self.climate.authority_lossy {
            self.now_and_then("lossy authority", 30, |cluster| async move {
                let dice = &cluster.dice;
                let up_to = |most: usize| u32::try_from(dice.below(most)).unwrap_or(0);
                let weather = AuthorityWeather {
                    transient: up_to(300),
                    lost_before: up_to(200),
                    lost_after: up_to(200),
                    slow: up_to(300),
                    garbage: up_to(200),
                    bad_token: up_to(500),
                    ..AuthorityWeather::default()
                };
                cluster.world.note(format_args!("{weather:?}"));
                cluster.issuer.set_weather(weather);
                cluster.wait(5000, 60_000).await;
                cluster.issuer.set_weather(AuthorityWeather::default());
            });
        }
        if self.climate.outages {
            self.now_and_then("outage", 60, |cluster| async move {
                let which = cluster.dice.below(3);
                let set = |on: bool| {
                    cluster.issuer.change_weather(|weather| match which {
                        0 => weather.down = on,
                        1 => weather.throttled = on,
                        _ => weather.rejects_app = on,
                    });
                };
                cluster.world.note(format_args!("outage {which} of the authority"));
                set(true);
                cluster.wait(1000, 60_000).await;
                set(false);
            });
        }
        if self.climate.verdicts {
            self.now_and_then("verdict", 60, |cluster| async move {
                let target = cluster.dice.below(cluster.asked);
                let user = cluster.targets[target].user;
                if cluster.dice.of_thousand(500) {
                    cluster.world.note(format_args!("{user} is revoked"));
                    cluster.issuer.revoke(user);
                } else {
                    cluster.world.note(format_args!("{user} is blocked"));
                    cluster.issuer.block(user, true);
                    cluster.wait(2000, 60_000).await;
                    cluster.issuer.block(user, false);
                }
            });
        }
    }

    /// Connections are deleted and connected again.
    fn users_come_and_go(self: &Arc<Self>) {
        if self.climate.deletes {
            self.now_and_then("delete", 40, |cluster| async move {
                let target = cluster.dice.below(cluster.asked);
                cluster.at_some_process("delete", move |cluster, process| async move {
                    cluster.delete(&process, target).await;
                });
                cluster.wait(10, 25_000).await;
                cluster.sign_in_somewhere(target);
            });
        }
        if self.climate.reconnects {
            self.now_and_then("reconnect", 30, |cluster| async move {
                let target = cluster.dice.below(cluster.asked);
                cluster.sign_in_somewhere(target);
            });
        }
    }

    fn sign_in_somewhere(self: &Arc<Self>, target: usize) {
        // Sometimes another account takes the connection over.
        let other = if self.dice.of_thousand(200) { 100 } else { 0 };
        self.at_some_process("sign in", move |cluster, process| async move {
            let user = cluster.targets[target].user + other;
            cluster.sign_in(&process, target, user).await;
        });
    }

    pub(super) async fn wait(&self, shortest: u64, longest: u64) {
        self.world.sleep(self.dice.millis(shortest, longest)).await;
    }

    pub(super) fn always<F>(self: &Arc<Self>, name: &'static str, work: impl FnOnce(Arc<Cluster>) -> F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        self.world.spawn(WORLD, name, Box::pin(work(self.clone())));
    }

    /// Runs an act every so often, one after the other, until the faults end.
    pub(super) fn now_and_then<F>(
        self: &Arc<Self>,
        name: &'static str,
        every: u64,
        work: impl Fn(Arc<Cluster>) -> F + Send + Sync + 'static,
    ) where
        F: Future<Output = ()> + Send,
    {
        self.always(name, move |cluster| async move {
            loop {
                cluster.wait(200, every * 4000).await;
                if cluster.world.now() >= cluster.faults_end() {
                    return;
                }
                cluster.ledger.count(|counts| counts.faults += 1);
                work(cluster.clone()).await;
            }
        });
    }

    /// Runs an act at the drawn process, if it lives.
    pub(super) fn at_some_process<F>(
        self: &Arc<Self>,
        name: &'static str,
        work: impl FnOnce(Arc<Cluster>, Arc<Process>) -> F,
    ) where
        F: Future<Output = ()> + Send + 'static,
    {
        if let Some(process) = self.process(self.dice.below(REPLICAS)) {
            let pid = process.pid;
            self.world.spawn(pid, name, Box::pin(work(self.clone(), process)));
        }
    }
}
