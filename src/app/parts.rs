//! The parts of a running daemon, and how they stop.

use std::sync::Arc;
use std::time::Duration;

use super::core::Core;
use super::files::WatchedFiles;
use super::foresight::Foresight;
use super::in_force::InForce;
use super::jobs::Jobs;
use super::process::Process;
use super::pulse::Seen;
use super::reload::Reloader;
use super::store::OpenedStore;
use crate::domain::task::Tasks;
use crate::events::Events;
use crate::keyring::Keyring;
use crate::lifecycle::Signals;
use crate::telemetry::audit::Action;

/// How long the last spans are waited for at a stop.
const LAST_SPANS: Duration = Duration::from_secs(2);

/// What serves, what runs beside it, and what a stop needs.
pub(super) struct Parts {
    pub(super) process: Process,
    pub(super) files: Arc<WatchedFiles>,
    pub(super) keyring: Arc<Keyring>,
    pub(super) events: Arc<Events>,
    pub(super) store: OpenedStore,
    pub(super) store_seen: Arc<Seen>,
    pub(super) core: Core,
    pub(super) in_force: Arc<InForce>,
    pub(super) reloader: Arc<Reloader>,
    pub(super) foresight: Arc<Foresight>,
    pub(super) jobs: Jobs,
}

impl Parts {
    /// Runs until a signal, then drains. Returns true if all work under way was finished.
    pub(super) async fn run(&self, mut signals: Signals) -> bool {
        let Process { shutdown, readiness, tasks, .. } = &self.process;
        let reload = || {
            let reloader = self.reloader.clone();
            let reload = async move {
                reloader.reload_at_a_word("SIGHUP").await;
            };
            tasks.spawn("reload", Box::pin(reload));
        };
        signals.wait_for_stop(shutdown, readiness, reload).await;
        let (clock, drain) = (&self.process.ports.clock, self.in_force.config().limits.drain);
        tracing::info!("stopping: finishing what is in flight");
        let is_finished = signals.wait_for_drain(shutdown, clock.as_ref(), drain, self.finish()).await;
        if !is_finished {
            // What goes on all the same has its records written.
            let _ = tokio::time::timeout(Duration::from_secs(2), tasks.close_and_wait()).await;
        }
        self.events.end().await;
        is_finished
    }

    /// Stops: takes no new work, and finishes the work under way within the drain time.
    pub(super) async fn stop(&self) {
        let Process { ports, tasks, shutdown, readiness, .. } = &self.process;
        readiness.drain();
        shutdown.stop();
        self.core.broker.stop_waiting();
        tokio::select! {
            () = self.finish() => {}
            () = ports.clock.sleep(self.in_force.config().limits.drain) => {
                shutdown.abort();
                let _ = tokio::time::timeout(Duration::from_secs(2), tasks.close_and_wait()).await;
            }
        }
        self.events.end().await;
    }

    /// Has the last spans sent. A collector that does not answer costs little of the drain time.
    async fn end_traces(&self) {
        self.process.traces.end();
        tokio::select! {
            () = self.process.trace_tasks.close_and_wait() => {}
            () = self.process.ports.clock.sleep(LAST_SPANS) => {
                tracing::warn!("the collector does not answer, and the last spans are lost");
            }
        }
    }

    /// Completes when no work is under way and every answer is stored. Requests and refreshes end first, then
    /// their unstored answers, then the store.
    async fn finish(&self) {
        let (clock, Core { engine, broker, .. }) = (&self.process.ports.clock, &self.core);
        let pause = || clock.sleep(Duration::from_millis(200));
        broker.stop_waiting();
        let ended = self.process.tasks.close_and_wait();
        tokio::pin!(ended);
        loop {
            tokio::select! {
                () = &mut ended => break,
                // Work under way may take long. Meanwhile unstored answers are offered to the store.
                () = pause() => {
                    engine.store_unstored().await;
                }
            }
        }
        while engine.store_unstored().await > 0 {
            pause().await;
        }
        // The other replicas need not wait until they notice that this one is gone.
        if let Err(error) = broker.withdraw_report().await {
            tracing::debug!(%error, "other replicas take this one for live for a minute");
        }
        self.events.sum_up_all().await;
        self.events.process(Action::Stopped).await;
        self.store.close();
        self.process.ports.store_tasks.close_and_wait().await;
        self.end_traces().await;
    }
}
