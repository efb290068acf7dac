//! The lives of the replicas' processes.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::operator::Parts;
use super::{Cluster, Process, REPLICAS};
use crate::authority::Authority;
use crate::domain::time::Clock;
use crate::refresh::{Deps, Engine, EngineApp};
use crate::repository::Repository;
use crate::testkit::SeededRandom;
use crate::testkit::clock::SimClock;
use crate::testkit::nobody::Nobody;
use crate::testkit::tasks::{Pid, SimTasks, WORLD};

impl Cluster {
    pub(super) fn start(&self, replica: usize) {
        let pid = {
            let mut lives = self.lives.lock();
            *lives += 1;
            Pid(*lives)
        };
        let wall_error = self.replicas()[replica].wall_error.clone();
        let clock = Arc::new(SimClock::new(self.world.clone(), wall_error));
        let random = Arc::new(SeededRandom::new(self.dice.draw()));
        let store = Arc::new(self.server.client(replica, pid));
        let mut repository = Repository::new(store, self.keyring.clone(), random.clone());
        if let Some(disk) = &self.replicas()[replica].disk {
            repository = repository.with_journal(Arc::new(disk.journal(pid)));
        }
        let repository = Arc::new(repository);
        let authority: Arc<dyn Authority> =
            Arc::new(self.issuer.client(replica, pid, clock.clone(), &self.settings));
        let apps =
            BTreeMap::from([(self.targets[0].key.app.clone(), EngineApp { authority: authority.clone() })]);
        let tasks = Arc::new(SimTasks::new(self.world.clone(), pid));
        let deps = Deps {
            repository: repository.clone(),
            clock: clock.clone(),
            random: random.clone(),
            tasks: tasks.clone(),
            observer: Arc::new(Nobody),
            tracer: crate::span::Tracer::off(),
        };
        let engine = Engine::new(apps, deps, self.settings.clone());
        let parts = Parts {
            engine: engine.clone(),
            repository: repository.clone(),
            clock: clock.clone(),
            random,
            tasks,
        };
        let broker = self.broker(authority, parts);
        let process = Process { pid, replica, engine, repository, broker, clock };
        self.world.note(format_args!("{replica} starts as {pid:?}"));
        self.set_out(&process);
        let Process { engine, clock, .. } = &process;
        // As in `app/watch.rs`.
        let (offering, pause) = (engine.clone(), clock.clone());
        let offer = async move {
            loop {
                pause.sleep(Duration::from_secs(1)).await;
                offering.store_unstored().await;
            }
        };
        self.world.spawn(pid, "offer the store what it has not taken", Box::pin(offer));
        let following = engine.clone();
        let follow = async move { following.follow_changes().await };
        self.world.spawn(pid, "hear what other replicas do", Box::pin(follow));
        self.ledger.away(replica, false);
        self.replicas()[replica].process = Some(Arc::new(process));
    }

    pub(super) fn kill(&self, replica: usize) {
        let Some(process) = ({
            let mut replicas = self.replicas();
            replicas[replica].stopped = false;
            replicas[replica].process.take()
        }) else {
            return;
        };
        self.world.note(format_args!("{replica} is killed"));
        self.ledger.killed(process.pid);
        self.ledger.away(replica, true);
        self.server.hang_up(process.pid);
        self.issuer.hang_up(process.pid);
        self.world.kill(process.pid);
    }

    pub(super) fn stop(&self, replica: usize) -> Option<Pid> {
        let mut replicas = self.replicas();
        let pid = replicas[replica].process.as_ref().map(|process| process.pid)?;
        if std::mem::replace(&mut replicas[replica].stopped, true) {
            return None;
        }
        drop(replicas);
        self.world.note(format_args!("{replica} is stopped"));
        self.ledger.stopped(pid);
        self.ledger.away(replica, true);
        self.world.stop(pid);
        Some(pid)
    }

    pub(super) fn resume(&self, replica: usize, pid: Pid) {
        {
            let mut replicas = self.replicas();
            let same = replicas[replica].process.as_ref().is_some_and(|process| process.pid == pid);
            if !same || !std::mem::replace(&mut replicas[replica].stopped, false) {
                return;
            }
        }
        self.world.note(format_args!("{replica} goes on"));
        self.ledger.resumed(pid);
        self.ledger.away(replica, false);
        self.world.resume(pid);
    }

    /// Drops everything, so that no reference cycle is left.
    pub(super) fn end(&self) {
        for replica in 0..REPLICAS {
            self.kill(replica);
        }
        self.world.kill(WORLD);
    }
}
