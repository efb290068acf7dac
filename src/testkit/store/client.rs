//! The store as one process sees it: calls that the network loses, delays and repeats.

use std::time::Duration;

use tokio::sync::oneshot;

use super::SimServer;
use super::data::{Op, Reply};
use crate::store::{ConnectionPage, StoreError};
use crate::testkit::faults::{Link, Mutant};
use crate::testkit::tasks::{Pid, WORLD};

/// Callers are served the cached connection if a read takes longer than this.
const UNANSWERED_AFTER: Duration = Duration::from_millis(100);
/// After this a client gives up on an answer.
const CLIENT_TIMEOUT: Duration = Duration::from_secs(2);
/// How long a write waits for the copy to have it, where it does.
const WAIT: Duration = Duration::from_secs(1);

/// The store as one process sees it.
pub(crate) struct SimStore {
    pub(super) server: SimServer,
    pub(super) replica: usize,
    pub(super) pid: Pid,
}

/// What becomes of one call on its way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    Good,
    LostBefore,
    LostAfter,
    Slow,
    Repeated,
}

impl SimStore {
    fn fate(&self) -> Fate {
        let mut state = self.server.state();
        state.calls += 1;
        let weather = state.weather;
        let fate = match (state.links[self.replica], state.down) {
            (Link::Cut, _) | (_, true) => Fate::LostBefore,
            (Link::AnswersLost, false) => Fate::LostAfter,
            (Link::Up, false) => {
                let drawn = u32::try_from(self.server.inner.dice.below(1000)).unwrap_or(0);
                let chances = [
                    (Fate::LostBefore, weather.lost_before),
                    (Fate::LostAfter, weather.lost_after),
                    (Fate::Slow, weather.slow),
                    (Fate::Repeated, weather.repeated),
                ];
                let mut end = 0;
                let hit = chances.into_iter().find(|(_, times)| {
                    end += times;
                    drawn < end
                });
                hit.map_or(Fate::Good, |(fate, _)| fate)
            }
        };
        state.faults += u64::from(fate != Fate::Good);
        drop(state);
        if fate != Fate::Good {
            self.server.trouble(self.replica, &format!("{fate:?}"));
        }
        fate
    }

    /// Asks the server, by way of the network.
    pub(super) async fn ask(&self, doing: &'static str, op: Op) -> Result<Reply, StoreError> {
        if self.pid == WORLD {
            return Ok(self.server.execute(&op, WORLD).0);
        }
        let fate = self.fate();
        let looked_at = if let Op::Load(key) = &op { Some(key.clone()) } else { None };
        let (answer, answered) = oneshot::channel();
        let (server, replica, pid) = (self.server.clone(), self.replica, self.pid);
        let (clock, dice) = (server.inner.clock.clone(), server.inner.dice.clone());
        let way = async move {
            let slow = if fate == Fate::Slow { 3000 } else { 4 };
            clock.sleep(dice.millis(0, slow)).await;
            let reachable = |answer: bool| {
                let state = server.state();
                match state.links[replica] {
                    Link::Up => !state.down,
                    Link::AnswersLost => !answer && !state.down,
                    Link::Cut => false,
                }
            };
            if fate == Fate::LostBefore || !reachable(false) {
                server.trouble(replica, "a request is lost");
                return; // the client gives up
            }
            if matches!(op, Op::Commit { .. }) && server.state().refuses_commits {
                if let Some(watch) = &server.inner.watch {
                    watch.refused(replica);
                }
                let _ = answer.send(Reply::Refused);
                return;
            }
            let (reply, arrives_at) = server.execute(&op, pid);
            let at_home = server.inner.mutant != Mutant::RevocationsStayAtHome || replica == 0;
            let reply = match reply {
                Reply::Bytes(_) if !at_home && op.is_about("revocations:") => Reply::Bytes(None),
                // What they cover would be destroyed, and missed for that.
                Reply::Page(_) if server.inner.mutant == Mutant::RevocationsStayAtHome => {
                    Reply::Page(ConnectionPage::default())
                }
                reply => reply,
            };
            if (fate == Fate::Repeated || server.inner.mutant.is_shown_by_repeating(&op))
                && op.may_come_late()
            {
                let (again, clock, delay) = (server.clone(), clock.clone(), dice.millis(0, 6000));
                let op = op.clone();
                let later = async move {
                    clock.sleep(delay).await;
                    if !again.state().down {
                        again.execute(&op, pid);
                    }
                };
                server.inner.tasks.spawn("repeat a message", Box::pin(later));
            }
            if server.inner.wait && op.writes() {
                let now = clock.monotonic();
                let wait = arrives_at.saturating_sub(now);
                if wait > WAIT {
                    server.trouble(replica, "the copy is too far behind");
                    return;
                }
                let primary = server.state().lost_primaries;
                clock.sleep(wait).await;
                if server.state().lost_primaries != primary {
                    server.trouble(replica, "the primary was lost before the copy had it");
                    return;
                }
            }
            clock.sleep(dice.millis(0, slow)).await;
            if fate == Fate::LostAfter || !reachable(true) {
                server.trouble(replica, "an answer is lost");
                return;
            }
            let _ = answer.send(reply);
        };
        let (clock, dice) = (&self.server.inner.clock, &self.server.inner.dice);
        // A refused connection is noticed at once, a lost one by and by.
        let patience = if fate == Fate::Good {
            CLIENT_TIMEOUT
        } else {
            dice.millis(1, 2000).max(Duration::from_millis(10))
        };
        let patience = if fate == Fate::Slow || fate == Fate::Repeated { CLIENT_TIMEOUT } else { patience };
        self.server.inner.tasks.spawn("a call of the store", Box::pin(way));
        let waiting = async {
            match answered.await {
                Ok(reply) => Some(reply),
                Err(_) => std::future::pending().await,
            }
        };
        // A look that takes longer than callers wait for it is unanswered before it is over.
        let unanswered_yet = async {
            clock.sleep(UNANSWERED_AFTER).await;
            if let (Some(key), Some(watch)) = (&looked_at, &self.server.inner.watch) {
                watch.checked(self.pid, key, false);
            }
            std::future::pending().await
        };
        let reply = tokio::select! {
            biased;
            reply = waiting => reply,
            () = clock.sleep(patience) => None,
            () = unanswered_yet => None,
        };
        if let (Some(key), Some(watch)) = (&looked_at, &self.server.inner.watch) {
            watch.checked(self.pid, key, reply.is_some());
        }
        match reply {
            Some(Reply::Refused) => Err(StoreError::unavailable(doing, "it is out of memory")),
            Some(reply) => Ok(reply),
            None => {
                self.server.trouble(self.replica, doing);
                Err(StoreError::unavailable(doing, "no answer came"))
            }
        }
    }
}
