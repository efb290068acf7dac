//! The life of the process: hardened at its start, ready when every part is up, stopped softly and then hard.
//!
//! Invariants:
//! 1. Not ready before the last latch is released, never ready again once draining.
//! 2. The first signal stops softly (finish current work), the second or the deadline stops hard.
//! 3. SIGHUP never stops anything.

use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rustix::process::{DumpableBehavior, Resource, Rlimit};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::domain::time::Clock;

/// Tells every part to stop, in two steps.
#[derive(Debug, Clone, Default)]
pub struct Shutdown {
    soft: CancellationToken,
    hard: CancellationToken,
}

impl Shutdown {
    /// Makes a shutdown that has not begun.
    pub fn new() -> Self {
        Self::default()
    }

    /// Begins the soft stop: accept nothing new, finish current work.
    pub fn stop(&self) {
        self.soft.cancel();
    }

    /// Begins the hard stop, which includes the soft one: drop everything.
    pub fn abort(&self) {
        self.soft.cancel();
        self.hard.cancel();
    }

    /// Returns the token of the soft stop.
    pub fn soft(&self) -> &CancellationToken {
        &self.soft
    }

    /// Returns the token of the hard stop.
    pub fn hard(&self) -> &CancellationToken {
        &self.hard
    }

    /// Returns true if the soft stop has begun.
    pub fn is_stopping(&self) -> bool {
        self.soft.is_cancelled()
    }
}

type Condition = Box<dyn Fn() -> bool + Send + Sync>;

struct Waiting {
    latches: Vec<&'static str>,
    conditions: Vec<(&'static str, Condition)>,
}

struct ReadinessState {
    draining: AtomicBool,
    waiting: Mutex<Waiting>,
    notes: Mutex<BTreeMap<String, String>>,
}

/// Whether this process may take traffic: every latch is released, every condition holds, and it is not
/// draining.
#[derive(Clone)]
pub struct Readiness(Arc<ReadinessState>);

impl fmt::Debug for Readiness {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Readiness").field(&self.waiting_for()).finish()
    }
}

impl Default for Readiness {
    fn default() -> Self {
        Self::new()
    }
}

impl Readiness {
    /// Makes a readiness without latches: take them before anything is served.
    pub fn new() -> Self {
        Readiness(Arc::new(ReadinessState {
            draining: AtomicBool::new(false),
            waiting: Mutex::new(Waiting { latches: Vec::new(), conditions: Vec::new() }),
            notes: Mutex::default(),
        }))
    }

    /// Makes the process unready until the returned latch is released.
    #[must_use = "a dropped latch counts as never released"]
    pub fn latch(&self, name: &'static str) -> Latch {
        self.waiting().latches.push(name);
        Latch { name, readiness: self.clone() }
    }

    /// Makes the process unready whenever `holds` returns false. Every probe calls it, so it must be cheap
    /// and must not wait.
    pub fn condition(&self, name: &'static str, holds: impl Fn() -> bool + Send + Sync + 'static) {
        self.waiting().conditions.push((name, Box::new(holds)));
    }

    /// Sets what an operator should know about a part, ready or not; `None` removes it.
    pub fn note(&self, part: &str, what: Option<&str>) {
        let mut notes = self.0.notes.lock();
        match what {
            Some(what) => notes.insert(part.to_owned(), what.to_owned()),
            None => notes.remove(part),
        };
    }

    /// Returns what an operator should know, by part.
    pub fn notes(&self) -> BTreeMap<String, String> {
        self.0.notes.lock().clone()
    }

    /// Makes the process unready for good.
    pub fn drain(&self) {
        self.0.draining.store(true, Ordering::Release);
    }

    /// Returns true if it is draining.
    pub fn is_draining(&self) -> bool {
        self.0.draining.load(Ordering::Acquire)
    }

    /// Returns what it waits for; empty if ready.
    pub fn waiting_for(&self) -> Vec<&'static str> {
        let waiting = self.waiting();
        let draining = self.is_draining().then_some("draining");
        let failing = waiting.conditions.iter().filter(|(_, holds)| !holds()).map(|(name, _)| *name);
        draining.into_iter().chain(waiting.latches.iter().copied()).chain(failing).collect()
    }

    /// Returns true if it may take traffic.
    pub fn is_ready(&self) -> bool {
        self.waiting_for().is_empty()
    }

    fn waiting(&self) -> parking_lot::MutexGuard<'_, Waiting> {
        // Poisoning does no harm: a panicking condition leaves both lists whole.
        self.0.waiting.lock()
    }
}

/// One thing that readiness waits for.
#[derive(Debug)]
pub struct Latch {
    name: &'static str,
    readiness: Readiness,
}

impl Latch {
    /// Releases the latch: this part is up.
    pub fn release(self) {
        let mut waiting = self.readiness.waiting();
        if let Some(at) = waiting.latches.iter().position(|name| *name == self.name) {
            waiting.latches.remove(at);
        }
    }
}

/// The signals that this process answers, caught from its creation on.
#[derive(Debug)]
pub struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
    /// Caught, and not looked at: a write beyond the largest file that the process may make (`LimitFSIZE`) is
    /// an error like that of a full disk, and must not end the process.
    _too_large: Signal,
}

/// The request that a signal makes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wish {
    /// SIGTERM or SIGINT: stop.
    Stop,
    /// SIGHUP: read configuration and secrets again.
    Reload,
}

impl Signals {
    /// Catches SIGTERM, SIGINT, SIGHUP and SIGXFSZ. Call it within a runtime.
    pub fn catch() -> std::io::Result<Self> {
        Ok(Signals {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: signal(SignalKind::hangup())?,
            _too_large: signal(SignalKind::from_raw(rustix::process::Signal::XFSZ.as_raw()))?,
        })
    }

    /// Returns the next signal. It can be dropped and called again: nothing is lost.
    pub async fn next(&mut self) -> Wish {
        tokio::select! {
            _ = self.terminate.recv() => Wish::Stop,
            _ = self.interrupt.recv() => Wish::Stop,
            _ = self.hangup.recv() => Wish::Reload,
        }
    }

    /// Waits for the first request to stop, and calls `reload` for each SIGHUP. It returns after it has made
    /// the process unready and begun the soft stop, or when another part has begun the stop.
    pub async fn wait_for_stop(
        &mut self,
        shutdown: &Shutdown,
        readiness: &Readiness,
        mut reload: impl FnMut(),
    ) {
        loop {
            tokio::select! {
                wish = self.next() => match wish {
                    Wish::Reload => reload(),
                    Wish::Stop => break,
                },
                () = shutdown.soft().cancelled() => break,
            }
        }
        readiness.drain();
        shutdown.stop();
    }

    /// Waits, after the soft stop has begun, for `finished`, and returns true. A second request to stop, or
    /// the end of `grace`, begins the hard stop instead: it returns false and waits no longer.
    pub async fn wait_for_drain(
        &mut self,
        shutdown: &Shutdown,
        clock: &dyn Clock,
        grace: Duration,
        finished: impl Future<Output = ()>,
    ) -> bool {
        let second = async { while self.next().await != Wish::Stop {} };
        tokio::select! {
            () = finished => return true,
            () = second => tracing::warn!("second signal: dropping what is in flight"),
            () = clock.sleep(grace) => tracing::warn!("drain time is over: dropping what is in flight"),
            () = shutdown.hard().cancelled() => {}
        }
        shutdown.abort();
        false
    }
}

/// A protection that could not be applied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Warning {
    /// The protection.
    pub wanted: &'static str,
    /// Why it was not applied, and what to do.
    pub why: String,
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.wanted, self.why)
    }
}

/// Protects the secrets in this process's memory and files: no core files, no debugger of the same user, no
/// new privileges, files closed to others. Call it first, before there are threads or secrets. A protection
/// that cannot be applied is a warning and no reason to stop.
pub fn harden() -> Vec<Warning> {
    let mut warnings = Vec::new();
    let no_core = Rlimit { current: Some(0), maximum: Some(0) };
    if let Err(error) = rustix::process::setrlimit(Resource::Core, no_core) {
        warnings.push(Warning { wanted: "no core files (RLIMIT_CORE=0)", why: error.to_string() });
    }
    if let Err(error) = rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable) {
        warnings
            .push(Warning { wanted: "no debugger and no dump (PR_SET_DUMPABLE=0)", why: error.to_string() });
    }
    rustix::process::umask(rustix::fs::Mode::RWXG | rustix::fs::Mode::RWXO);
    if let Err(error) = rustix::thread::set_no_new_privs(true) {
        warnings.push(Warning { wanted: "no new privileges (PR_SET_NO_NEW_PRIVS)", why: error.to_string() });
    }
    warnings
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::system::SystemClock;

    #[test]
    fn ready_after_the_last_latch_and_never_again_once_draining() {
        let readiness = Readiness::new();
        let (store, keyring) = (readiness.latch("store"), readiness.latch("keyring"));
        assert_eq!(readiness.waiting_for(), ["store", "keyring"]);
        store.release();
        assert_eq!(readiness.waiting_for(), ["keyring"]);
        keyring.release();
        assert!(readiness.is_ready());
        let lost = Arc::new(AtomicBool::new(false));
        let seen = Arc::clone(&lost);
        readiness.condition("store reachable", move || !seen.load(Ordering::Relaxed));
        assert!(readiness.is_ready());
        lost.store(true, Ordering::Relaxed);
        assert_eq!(readiness.waiting_for(), ["store reachable"]);
        lost.store(false, Ordering::Relaxed);
        readiness.drain();
        assert_eq!(readiness.waiting_for(), ["draining"]);
    }

    #[test]
    fn a_latch_that_is_dropped_unreleased_keeps_the_process_unready() {
        let readiness = Readiness::new();
        drop(readiness.latch("store"));
        assert!(!readiness.is_ready());
    }

    #[tokio::test]
    async fn the_drain_deadline_turns_soft_into_hard() {
        let mut signals = Signals::catch().expect("signals");
        let (shutdown, readiness, clock) = (Shutdown::new(), Readiness::new(), SystemClock::new());
        shutdown.stop();
        signals.wait_for_stop(&shutdown, &readiness, || {}).await;
        assert!(readiness.is_draining());
        assert!(signals.wait_for_drain(&shutdown, &clock, Duration::from_secs(30), async {}).await);
        assert!(!shutdown.hard().is_cancelled());
        let never = std::future::pending();
        assert!(!signals.wait_for_drain(&shutdown, &clock, Duration::from_millis(20), never).await);
        assert!(shutdown.hard().is_cancelled());
    }

    /// Runs in a child process, because it changes the whole process.
    #[test]
    fn hardening_holds() {
        const CHILD: &str = "TOKENWARD_TEST_HARDENING";
        if std::env::var_os(CHILD).is_none() {
            let child = std::process::Command::new(std::env::current_exe().expect("this test"))
                .args(["--exact", "lifecycle::tests::hardening_holds", "--nocapture"])
                .env(CHILD, "1")
                .output()
                .expect("started");
            assert!(child.status.success(), "{}", String::from_utf8_lossy(&child.stderr));
            return;
        }
        let warnings = harden();
        assert!(warnings.iter().all(|warning| warning.wanted.contains("NO_NEW_PRIVS")), "{warnings:?}");
        let core = rustix::process::getrlimit(Resource::Core);
        assert_eq!((core.current, core.maximum), (Some(0), Some(0)));
        let dumpable = rustix::process::dumpable_behavior().expect("known");
        assert_eq!(dumpable, DumpableBehavior::NotDumpable);
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("file");
        std::fs::write(&path, "").expect("written");
        let mode =
            std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(&path).expect("there").permissions());
        assert_eq!(mode & 0o777, 0o600);
    }
}
