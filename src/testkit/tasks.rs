//! Tasks under virtual time: one thread, one queue, and a seed that chooses the next task. Nothing waits in
//! real time: if no task can go on, time jumps to the next timer.
//!
//! It is no tokio runtime, on purpose. Tokio's `watch` wakes its waiters in an order that depends on the
//! operating system's randomness. Here the ready tasks form an ordered set, in whatever order they woke, and
//! the seed draws from it. A run is therefore repeatable, and other seeds try other interleavings. The tasks
//! of a stopped process (SIGSTOP) are not polled, and those of a killed one are dropped where they stand.

use parking_lot::{Mutex, MutexGuard};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use super::faults::Dice;
use crate::domain::task::{BoxFuture, Tasks};

/// A process: one life of a replica. [`WORLD`] is for everything that outlives processes (networks, servers,
/// users).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Pid(pub(crate) u32);

/// The process that is never stopped or killed.
pub(crate) const WORLD: Pid = Pid(0);

/// Polls in one instant after which a run counts as an endless loop.
const MOST_POLLS_AT_ONCE: u32 = 200_000;

/// The whole state of a run. Cheap to clone.
#[derive(Clone)]
pub(crate) struct World {
    inner: Arc<Inner>,
}

struct Inner {
    state: Mutex<State>,
    ready: Arc<Mutex<BTreeSet<u64>>>,
    dice: Dice,
    trace: Mutex<Trace>,
    watcher: OnceLock<Watcher>,
}

/// Learns whose task has run.
type Watcher = Box<dyn Fn(Pid) + Send + Sync>;

#[derive(Default)]
struct State {
    now: Duration,
    next: u64,
    tasks: BTreeMap<u64, Task>,
    timers: BTreeMap<(Duration, u64), Waker>,
    stopped: BTreeSet<Pid>,
    dead: BTreeSet<Pid>,
}

struct Task {
    pid: Pid,
    name: &'static str,
    /// `None` while it is polled.
    future: Option<BoxFuture<'static, ()>>,
    waker: Waker,
}

/// A task that is about to be polled.
struct Next {
    id: u64,
    pid: Pid,
    name: &'static str,
    future: BoxFuture<'static, ()>,
    waker: Waker,
}

struct WakeUp {
    task: u64,
    ready: Arc<Mutex<BTreeSet<u64>>>,
}

impl Wake for WakeUp {
    fn wake(self: Arc<Self>) {
        lock(&self.ready).insert(self.task);
    }
}

/// A hash of everything that happened and, on request, its text.
#[derive(Default)]
struct Trace {
    hash: u64,
    lines: Option<Vec<String>>,
}

impl std::fmt::Write for Trace {
    fn write_str(&mut self, text: &str) -> std::fmt::Result {
        for byte in text.bytes() {
            self.hash = (self.hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
        if let Some(line) = self.lines.as_mut().and_then(|lines| lines.last_mut()) {
            line.push_str(text);
        }
        Ok(())
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock()
}

impl World {
    /// Makes an empty world. With `traced`, it keeps the text of its notes.
    pub(crate) fn new(dice: Dice, traced: bool) -> Self {
        let trace = Trace { hash: 0xcbf2_9ce4_8422_2325, lines: traced.then(Vec::new) };
        let inner = Inner {
            state: Mutex::default(),
            ready: Arc::default(),
            dice,
            trace: Mutex::new(trace),
            watcher: OnceLock::new(),
        };
        World { inner: Arc::new(inner) }
    }

    /// Sets the watcher, once. It is called after each step of a task, and may change nothing.
    pub(crate) fn watch(&self, watcher: Watcher) {
        assert!(self.inner.watcher.set(watcher).is_ok(), "one watches");
    }

    /// Returns the time since the beginning.
    pub(crate) fn now(&self) -> Duration {
        lock(&self.inner.state).now
    }

    /// Records an event.
    pub(crate) fn note(&self, what: std::fmt::Arguments<'_>) {
        let now = self.now();
        let mut trace = lock(&self.inner.trace);
        if let Some(lines) = trace.lines.as_mut() {
            lines.push(String::new());
        }
        let _ = write!(trace, "{:>10.3} {what}", now.as_secs_f64());
    }

    /// Returns a hash of all events and of the order of polls.
    pub(crate) fn hash(&self) -> u64 {
        lock(&self.inner.trace).hash
    }

    /// Returns the text of the events.
    pub(crate) fn lines(&self) -> Vec<String> {
        lock(&self.inner.trace).lines.clone().unwrap_or_default()
    }

    /// Starts a task of a process; a dead process starts nothing.
    pub(crate) fn spawn(&self, pid: Pid, name: &'static str, future: BoxFuture<'static, ()>) {
        let mut state = lock(&self.inner.state);
        if state.dead.contains(&pid) {
            drop(state);
            drop(future);
            return;
        }
        state.next += 1;
        let task = state.next;
        let waker = Waker::from(Arc::new(WakeUp { task, ready: self.inner.ready.clone() }));
        state.tasks.insert(task, Task { pid, name, future: Some(future), waker });
        lock(&self.inner.ready).insert(task);
    }

    /// Ends a process where it stands: its next steps do not happen.
    pub(crate) fn kill(&self, pid: Pid) {
        let ended: Vec<Task> = {
            let mut state = lock(&self.inner.state);
            state.dead.insert(pid);
            state.stopped.remove(&pid);
            let of_it: Vec<u64> =
                state.tasks.iter().filter(|(_, task)| task.pid == pid).map(|(id, _)| *id).collect();
            of_it.iter().filter_map(|id| state.tasks.remove(id)).collect()
        };
        drop(ended); // without the lock: dropped futures wake others and give up their timers
    }

    /// Stops a process until [`World::resume`].
    pub(crate) fn stop(&self, pid: Pid) {
        lock(&self.inner.state).stopped.insert(pid);
    }

    /// Resumes a stopped process.
    pub(crate) fn resume(&self, pid: Pid) {
        lock(&self.inner.state).stopped.remove(&pid);
    }

    /// Completes after `duration`.
    pub(crate) fn sleep(&self, duration: Duration) -> Sleep {
        Sleep { world: self.clone(), until: self.now().saturating_add(duration), timer: None }
    }

    /// Runs everything up to the instant `until`. Returns an error for an endless loop.
    pub(crate) fn run_until(&self, until: Duration) -> Result<(), String> {
        let mut polls = 0;
        loop {
            let Some(Next { id, pid, name, mut future, waker }) = self.next_task() else {
                if !self.advance(until) {
                    return Ok(());
                }
                polls = 0;
                continue;
            };
            polls += 1;
            if polls > MOST_POLLS_AT_ONCE {
                return Err(format!("the task {name:?} and others go in circles at {:?}", self.now()));
            }
            lock(&self.inner.trace).hash ^= id.wrapping_mul(0x9e37_79b9_7f4a_7c15);
            let ready = future.as_mut().poll(&mut Context::from_waker(&waker)).is_ready();
            let mut state = lock(&self.inner.state);
            if ready {
                state.tasks.remove(&id);
            } else if let Some(task) = state.tasks.get_mut(&id) {
                task.future = Some(future);
                drop(state);
                self.watched(pid);
                continue;
            }
            drop(state);
            self.watched(pid);
        }
    }

    /// Draws one of the ready tasks.
    fn next_task(&self) -> Option<Next> {
        let mut state = lock(&self.inner.state);
        let mut ready = lock(&self.inner.ready);
        ready.retain(|id| state.tasks.contains_key(id));
        let may_go: Vec<u64> = ready
            .iter()
            .filter(|id| state.tasks.get(id).is_some_and(|task| !state.stopped.contains(&task.pid)))
            .copied()
            .collect();
        let id = match may_go[..] {
            [] => return None,
            [one] => one,
            ref several => several[self.inner.dice.below(several.len())],
        };
        ready.remove(&id);
        let task = state.tasks.get_mut(&id)?;
        let future = task.future.take()?;
        Some(Next { id, pid: task.pid, name: task.name, future, waker: task.waker.clone() })
    }

    fn watched(&self, pid: Pid) {
        if let Some(watcher) = self.inner.watcher.get() {
            watcher(pid);
        }
    }

    /// Moves time to the next timer and wakes its waiters. Returns false if there is none before `until`.
    fn advance(&self, until: Duration) -> bool {
        let mut state = lock(&self.inner.state);
        match state.timers.first_key_value() {
            Some((&(at, _), _)) if at <= until => {
                state.now = state.now.max(at);
                let later = state.timers.split_off(&(at + Duration::from_nanos(1), 0));
                let due = std::mem::replace(&mut state.timers, later);
                drop(state);
                due.into_values().for_each(Waker::wake);
                true
            }
            _ => {
                state.now = state.now.max(until);
                false
            }
        }
    }
}

/// A wait in virtual time.
pub(crate) struct Sleep {
    world: World,
    until: Duration,
    timer: Option<u64>,
}

impl Future for Sleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let inner = self.world.inner.clone();
        let mut state = lock(&inner.state);
        if state.now >= self.until {
            if let Some(timer) = self.timer.take() {
                state.timers.remove(&(self.until, timer));
            }
            return Poll::Ready(());
        }
        let timer = match self.timer {
            Some(timer) => timer,
            None => {
                state.next += 1;
                state.next
            }
        };
        state.timers.insert((self.until, timer), context.waker().clone());
        drop(state);
        self.timer = Some(timer);
        Poll::Pending
    }
}

impl Drop for Sleep {
    fn drop(&mut self) {
        if let Some(timer) = self.timer {
            lock(&self.world.inner.state).timers.remove(&(self.until, timer));
        }
    }
}

/// The tasks of one process.
pub(crate) struct SimTasks {
    world: World,
    pid: Pid,
}

impl SimTasks {
    pub(crate) fn new(world: World, pid: Pid) -> Self {
        SimTasks { world, pid }
    }
}

impl Tasks for SimTasks {
    fn spawn(&self, name: &'static str, task: BoxFuture<'static, ()>) {
        self.world.spawn(self.pid, name, task);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_passes_only_when_nobody_can_go_on_and_a_stopped_process_waits() {
        let world = World::new(Dice::new(1), true);
        for pid in [1, 2, 3] {
            let of_it = world.clone();
            let work = async move {
                of_it.sleep(Duration::from_secs(5)).await;
                of_it.note(format_args!("process {pid}"));
            };
            world.spawn(Pid(pid), "work", Box::pin(work));
        }
        world.run_until(Duration::from_secs(1)).expect("it ends");
        world.stop(Pid(2));
        world.kill(Pid(3));
        world.run_until(Duration::from_secs(9)).expect("it ends");
        assert_eq!(world.lines(), ["     5.000 process 1"]);
        world.resume(Pid(2));
        world.run_until(Duration::from_secs(9)).expect("it ends");
        assert_eq!(world.lines()[1], "     9.000 process 2");
    }
}
