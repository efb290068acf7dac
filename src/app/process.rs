//! What every part of the daemon needs: this machine's clock and randomness, tasks, metrics, readiness and
//! the stop.

use std::sync::Arc;

use crate::authority::KnownTokenHosts;
use crate::domain::random::Random;
use crate::domain::time::Clock;
use crate::lifecycle::{Readiness, Shutdown};
use crate::listener::Surroundings;
use crate::system::{SystemClock, SystemRandom, TokioTasks};
use crate::telemetry::metrics::Metrics;
use crate::telemetry::traces::Traces;

/// The process's own.
#[derive(Clone)]
pub(super) struct Process {
    pub(super) ports: Ports,
    pub(super) tasks: Arc<TokioTasks>,
    pub(super) metrics: Arc<Metrics>,
    pub(super) shutdown: Shutdown,
    pub(super) readiness: Readiness,
    pub(super) traces: Arc<Traces>,
    /// The task that sends spans. A stop waits for it last.
    pub(super) trace_tasks: Arc<TokioTasks>,
}

/// The ports that reading a configuration needs.
#[derive(Clone)]
pub(super) struct Ports {
    pub(super) clock: Arc<dyn Clock>,
    pub(super) random: Arc<dyn Random>,
    /// Tasks beside the requests; a stop waits for them.
    pub(super) tasks: Arc<TokioTasks>,
    /// The store's own tasks, which outlive all others.
    pub(super) store_tasks: Arc<TokioTasks>,
    /// The hosts to which each app's secrets may be sent.
    pub(super) token_hosts: Arc<KnownTokenHosts>,
}

impl Process {
    /// Of this machine. Nothing runs yet.
    pub(super) fn new() -> Self {
        let ports = Ports::new(Arc::new(SystemClock::new()), Arc::new(SystemRandom::new()));
        let metrics = Arc::new(Metrics::new(env!("CARGO_PKG_VERSION")));
        Process {
            tasks: ports.tasks.clone(),
            traces: Arc::new(Traces::new(metrics.spans(), &ports.random, &ports.clock)),
            trace_tasks: Arc::new(TokioTasks::new()),
            ports,
            metrics,
            shutdown: Shutdown::new(),
            readiness: Readiness::new(),
        }
    }

    /// What a listener needs of it.
    pub(super) fn surroundings(&self) -> Surroundings {
        Surroundings {
            tasks: self.tasks.clone(),
            clock: self.ports.clock.clone(),
            random: self.ports.random.clone(),
            shutdown: self.shutdown.clone(),
            metrics: self.metrics.clone(),
            tracer: self.traces.tracer(),
        }
    }
}

impl Ports {
    pub(super) fn new(clock: Arc<dyn Clock>, random: Arc<dyn Random>) -> Self {
        let tasks = || Arc::new(TokioTasks::new());
        Ports { clock, random, tasks: tasks(), store_tasks: tasks(), token_hosts: Arc::default() }
    }
}
