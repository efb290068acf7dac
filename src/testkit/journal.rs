//! A replica's journal: a disk that outlives its processes and is sometimes slow or full. A process killed in
//! the middle of a write leaves the entry complete or absent; nobody reads the temporary name of a torn one
//! (`journal/files.rs`).

use parking_lot::{Mutex, MutexGuard};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;

use super::faults::{Dice, DiskWeather, Mutant};
use super::tasks::{Pid, World};
use crate::domain::task::BoxFuture;
use crate::journal::{Entry, Journal, JournalError};

/// Learns what a journal keeps; the checker implements it.
pub(crate) trait Watch: Send + Sync {
    /// A write was acknowledged.
    fn journaled(&self, replica: usize, entry: &Entry);
    /// An entry was removed, and these are left.
    fn unjournaled(&self, replica: usize, entry: &Entry, left: &[Entry]);
}

/// The disk of one replica. Cheap to clone.
#[derive(Clone)]
pub(crate) struct SimDisk {
    inner: Arc<Disk>,
}

struct Disk {
    world: World,
    dice: Dice,
    replica: usize,
    mutant: Mutant,
    watch: Arc<dyn Watch>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    entries: BTreeMap<String, Vec<u8>>,
    weather: DiskWeather,
    faults: u64,
}

impl SimDisk {
    pub(crate) fn new(
        world: World,
        dice: Dice,
        replica: usize,
        mutant: Mutant,
        watch: Arc<dyn Watch>,
    ) -> Self {
        let disk = Disk { world, dice, replica, mutant, watch, state: Mutex::default() };
        SimDisk { inner: Arc::new(disk) }
    }

    /// Returns the journal for one process.
    pub(crate) fn journal(&self, pid: Pid) -> SimJournal {
        SimJournal { disk: self.clone(), pid }
    }

    pub(crate) fn set_weather(&self, weather: DiskWeather) {
        self.state().weather = weather;
    }

    /// Returns the number of faults.
    pub(crate) fn faults(&self) -> u64 {
        self.state().faults
    }

    pub(crate) fn entries(&self) -> Vec<Entry> {
        self.state().entries.clone().into_iter().collect()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.inner.state.lock()
    }

    /// Draws the duration of a step, and whether it fails.
    fn fate(&self) -> (Duration, bool) {
        let mut state = self.state();
        let dice = &self.inner.dice;
        let (slow, fails) = (dice.of_thousand(state.weather.slow), dice.of_thousand(state.weather.fails));
        state.faults += u64::from(slow) + u64::from(fails);
        (dice.millis(0, if slow { 4000 } else { 10 }), fails)
    }

    async fn put(&self, entry: Entry) -> Result<(), JournalError> {
        const DOING: &str = "writing to the journal";
        let full = || JournalError { doing: DOING, cause: "the disk is full".into() };
        let (takes, fails) = self.fate();
        self.inner.world.sleep(takes).await;
        if fails {
            return Err(full());
        }
        if self.inner.mutant != Mutant::JournalForgets {
            self.state().entries.insert(entry.0.clone(), entry.1.clone());
        }
        // From here on the entry exists; its acknowledgement may never come.
        let (takes, fails) = self.fate();
        self.inner.world.sleep(takes).await;
        if fails {
            return Err(full());
        }
        self.inner.watch.journaled(self.inner.replica, &entry);
        Ok(())
    }

    async fn take_out(&self, name: String) -> Result<(), JournalError> {
        let (takes, fails) = self.fate();
        self.inner.world.sleep(takes).await;
        if fails {
            let doing = "taking an entry out of the journal";
            return Err(JournalError { doing, cause: "the disk is read-only".into() });
        }
        let taken = self.state().entries.remove(&name);
        if let Some(sealed) = taken {
            self.inner.watch.unjournaled(self.inner.replica, &(name, sealed), &self.entries());
        }
        Ok(())
    }
}

/// The journal of one process.
pub(crate) struct SimJournal {
    disk: SimDisk,
    pid: Pid,
}

impl SimJournal {
    /// Runs on a thread of its own: it continues when nobody waits for it, and ends only with the process.
    async fn run(
        &self,
        work: impl Future<Output = Result<(), JournalError>> + Send + 'static,
    ) -> Result<(), JournalError> {
        let (sender, done) = oneshot::channel();
        let work = async move {
            let _ = sender.send(work.await);
        };
        self.disk.inner.world.spawn(self.pid, "a call of the journal", Box::pin(work));
        done.await.unwrap_or_else(|_| {
            Err(JournalError { doing: "using the journal", cause: "the process ends".into() })
        })
    }
}

impl Journal for SimJournal {
    fn write<'a>(&'a self, name: &'a str, sealed: Vec<u8>) -> BoxFuture<'a, Result<(), JournalError>> {
        let (disk, entry) = (self.disk.clone(), (name.to_owned(), sealed));
        Box::pin(self.run(async move { disk.put(entry).await }))
    }

    fn replace<'a>(
        &'a self,
        name: &'a str,
        before: Vec<u8>,
        after: Vec<u8>,
    ) -> BoxFuture<'a, Result<(), JournalError>> {
        let (disk, name) = (self.disk.clone(), name.to_owned());
        Box::pin(self.run(async move {
            if disk.state().entries.get(&name) == Some(&before) {
                disk.put((name, after)).await?;
            }
            Ok(())
        }))
    }

    fn remove<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<(), JournalError>> {
        let (disk, name) = (self.disk.clone(), name.to_owned());
        Box::pin(self.run(async move { disk.take_out(name).await }))
    }

    fn read<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<Option<Vec<u8>>, JournalError>> {
        Box::pin(std::future::ready(Ok(self.disk.state().entries.get(name).cloned())))
    }

    /// Immediate: it is read before a process does anything else.
    fn entries(&self) -> BoxFuture<'_, Result<Vec<Entry>, JournalError>> {
        Box::pin(std::future::ready(Ok(self.disk.entries())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Nobody;

    impl Watch for Nobody {
        fn journaled(&self, _replica: usize, _entry: &Entry) {}
        fn unjournaled(&self, _replica: usize, _entry: &Entry, _left: &[Entry]) {}
    }

    #[test]
    fn a_write_that_a_kill_cuts_off_is_there_whole_or_not_at_all() {
        let (mut there, mut not) = (0, 0);
        for seed in 0..50 {
            let world = World::new(Dice::new(seed), false);
            let disk = SimDisk::new(world.clone(), Dice::new(seed), 0, Mutant::None, Arc::new(Nobody));
            disk.set_weather(DiskWeather { slow: 1000, fails: 0 });
            let journal = disk.journal(Pid(1));
            let write =
                async move { journal.write("one", b"whole".to_vec()).await.expect("it is killed first") };
            world.spawn(Pid(1), "write", Box::pin(write));
            world.run_until(Duration::from_millis(800)).expect("it ends");
            world.kill(Pid(1));
            world.run_until(Duration::from_secs(60)).expect("it ends");
            match &disk.entries()[..] {
                [] => not += 1,
                [(name, sealed)] => {
                    assert_eq!((name.as_str(), sealed.as_slice()), ("one", &b"whole"[..]));
                    there += 1;
                }
                _ => panic!("one was written"),
            }
        }
        assert!(there > 0 && not > 0, "{there} {not}");
    }
}
