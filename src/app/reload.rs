//! Takes up another configuration while the daemon runs. It is read, prepared beside the parts in force, and
//! then replaces them; or it is refused whole, with every reason, and nothing changes. Sockets are opened at
//! the start alone: other ones wait for a restart, and hold nothing else up.
//!
//! Nothing waits for a reload, and a reload cuts nothing short.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::oneshot;

use super::apps::{Authorities, Installed};
use super::files::{States, WatchedFiles};
use super::findings::By;
use super::in_force::InForce;
use super::jobs::{Ended, Work};
use super::process::Process;
use super::reading::{self, Replaceable};
use crate::api::admin::wire::ONLY_FILES;
use crate::api::upkeep::Reloaded;
use crate::config::{self, Config, ConfigErrors, Mistake};
use crate::domain::id::AppName;
use crate::domain::task::Tasks;
use crate::domain::time::Timestamp;
use crate::events::Events;
use crate::keyring::Keyring;
use crate::telemetry::metrics::Metrics;

/// How often files are checked.
pub(super) const CHECK_EVERY: Duration = Duration::from_secs(1);
/// The pause before a refused reload is tried again.
const TRY_AGAIN: Duration = Duration::from_secs(15);
/// The asker, as the log has it, of a reload that is tried again.
const AGAIN: &str = "another try";
/// Reading files takes no time. This limit is for files that never answer.
const READ_WITHIN: Duration = Duration::from_secs(10);

/// Reads from `source`, prepares with `keyring`, replaces the parts `in_force`, and reports.
pub(super) struct Reloader {
    process: Process,
    source: Arc<WatchedFiles>,
    keyring: Arc<Keyring>,
    in_force: Arc<InForce>,
    report: Report,
    /// One reload at a time.
    turn: tokio::sync::Mutex<()>,
}

/// The parts that a reload puts in force.
struct Prepared {
    config: Config,
    /// Names of the sections that changed.
    changed: Vec<String>,
    /// Names of those that only a restart puts in force.
    needs_restart: Vec<&'static str>,
    warnings: Vec<Mistake>,
    /// The authorities that were in force when it was prepared.
    before: Arc<Authorities>,
    replaceable: Replaceable,
}

impl Reloader {
    /// Before the first reload.
    pub(super) fn new(
        process: &Process,
        source: Arc<WatchedFiles>,
        keyring: Arc<Keyring>,
        in_force: Arc<InForce>,
        events: Arc<Events>,
    ) -> Self {
        let report = Report { metrics: process.metrics.clone(), events, last: Mutex::default() };
        let turn = tokio::sync::Mutex::default();
        Reloader { process: process.clone(), source, keyring, in_force, report, turn }
    }

    /// Result of the last reload; `None` before the first.
    pub(super) fn last(&self) -> Option<Reloaded> {
        self.report.last.lock().clone()
    }

    /// Reads everything again and takes up all of it or nothing. Runs to its end even if the asker does not
    /// wait.
    pub(super) async fn reload(self: &Arc<Self>, asked_by: &'static str) -> Reloaded {
        let (sender, receiver) = oneshot::channel();
        let this = self.clone();
        let work = async move {
            let _ = sender.send(this.reload_now(asked_by).await);
        };
        self.process.tasks.spawn("reload", Box::pin(work));
        receiver.await.unwrap_or_else(|_| {
            let failed = Err(vec!["the reload itself failed".to_owned()]);
            reloaded(self.now(), asked_by, failed)
        })
    }

    /// The same for an operator, who may have learnt that a signing key of an authority must not be trusted
    /// any more. So the authorities' documents are fetched anew too, and failures of that are returned.
    pub(super) async fn reload_at_a_word(self: &Arc<Self>, asked_by: &'static str) -> Reloaded {
        let mut reloaded = self.reload(asked_by).await;
        let authorities = self.in_force.authorities();
        let renewals: Vec<_> =
            authorities.iter().map(|(app, one)| (app.clone(), self.renew_documents(app, one))).collect();
        for (app, renewal) in renewals {
            let ended = renewal.await.unwrap_or_else(|_| Some(not_fetched(&app, "the task failed")));
            reloaded.not_fetched.extend(ended);
        }
        for (issuer, installed) in self.in_force.roster().issuers().iter() {
            if let Err(why) = installed.issuer.keys.renew().await {
                reloaded.not_fetched.push(format!(
                    "the keys of the issuer {issuer} could not be fetched anew, so those from before are \
                     believed still: {why}"
                ));
            }
        }
        reloaded
    }

    /// Fetches an authority's documents anew, beside others'.
    fn renew_documents(&self, app: &AppName, installed: &Installed) -> oneshot::Receiver<Option<String>> {
        let (sender, receiver) = oneshot::channel();
        let (app, authority) = (app.clone(), installed.authority.clone());
        let renew = async move {
            let failed = authority.renew_documents().await.err().map(|failure| {
                let problem = not_fetched(&app, &failure.cause);
                tracing::error!(%app, "{problem}");
                problem
            });
            let _ = sender.send(failed);
        };
        self.process.tasks.spawn("fetch an authority's documents anew", Box::pin(renew));
        receiver
    }

    async fn reload_now(self: &Arc<Self>, asked_by: &'static str) -> Reloaded {
        let _turn = self.turn.lock().await;
        // (A refused reload changes nothing, so what waits still does.)
        let mut needs_restart = self.last().map(|last| last.needs_restart).unwrap_or_default();
        let mut warnings = Vec::new();
        let result = self.prepare_in_time().await.map(|prepared| {
            warnings = prepared.warnings.iter().map(ToString::to_string).collect();
            let (changed, left) = self.take_up(prepared);
            needs_restart = left;
            changed
        });
        let reloaded = Reloaded { needs_restart, warnings, ..reloaded(self.now(), asked_by, result) };
        if asked_by == AGAIN && self.report.has_said(&reloaded) {
            return reloaded;
        }
        self.report.say(reloaded, || self.in_force.held_back()).await
    }

    /// Reads and prepares everything on a thread that does not serve. A reading that takes too long is given
    /// up and has no effect later.
    async fn prepare_in_time(self: &Arc<Self>) -> Result<Prepared, Vec<String>> {
        let too_long = || {
            vec![format!(
                "the files could not be read within {} s: one of them may be on a mount that does not answer",
                READ_WITHIN.as_secs()
            )]
        };
        let this = self.clone();
        let read = async move {
            // A reading that was given up runs on until it ends. There is never more than one.
            let turn = this.source.turn().await;
            let prepare = move || {
                let _turn = turn;
                this.prepare()
            };
            tokio::task::spawn_blocking(prepare).await
        };
        tokio::select! {
            read = read => read.unwrap_or_else(|error| Err(vec![format!(
                "the reload itself failed: {error}")])),
            () = self.process.ports.clock.sleep(READ_WITHIN) => Err(too_long()),
        }
    }

    /// Prepares everything before anything is replaced, so that all mistakes are found at once.
    fn prepare(&self) -> Result<Prepared, Vec<String>> {
        let running = self.in_force.config();
        let mut loaded = self.source.load(&running).map_err(|errors| lines(&errors))?;
        let fixed = config::cannot_change(&running, &loaded.config);
        if !fixed.is_empty() {
            return Err(fixed
                .into_iter()
                .map(|section| {
                    format!("{section} cannot change while the daemon runs: restart it, or put it back")
                })
                .collect());
        }
        let needs_restart = config::leave_for_a_restart(&running, &mut loaded.config);
        let (environment, before) = (self.source.environment().again(), self.in_force.authorities());
        let Process { ports, metrics, .. } = &self.process;
        let by = By { environment: &environment, ports, metrics };
        let mut replaceable =
            reading::replaceable(&loaded, &by, &self.keyring, (&before, &self.in_force.roster().issuers()))
                .map_err(|refused| lines(&refused.errors))?;
        let mut changed = config::changed_sections(&running, &loaded.config);
        if changed.is_empty() && needs_restart.is_empty() {
            changed.push(ONLY_FILES.to_owned());
        }
        changed.retain(|section| !replaceable.leaves_out(section));
        let found = std::mem::take(&mut replaceable.warnings);
        let warnings = loaded.warnings.into_iter().chain(found).collect();
        Ok(Prepared { config: loaded.config, changed, needs_restart, warnings, before, replaceable })
    }

    /// Replaces the parts in force. Returns the names of the sections that changed, and of those that wait
    /// for a restart.
    fn take_up(&self, prepared: Prepared) -> (Vec<String>, Vec<&'static str>) {
        let Prepared { config, changed, needs_restart, warnings, before, replaceable } = prepared;
        self.source.say(&warnings);
        self.in_force.take_up(config, replaceable, &before);
        (changed, needs_restart)
    }

    fn now(&self) -> Timestamp {
        self.process.ports.clock.now()
    }
}

/// Reports the result to the log, metrics, the audit stream and `status`.
struct Report {
    metrics: Arc<Metrics>,
    events: Arc<Events>,
    last: Mutex<Option<Reloaded>>,
}

impl Report {
    /// Whether the last reload had the same result.
    fn has_said(&self, reloaded: &Reloaded) -> bool {
        self.last.lock().as_ref().is_some_and(|last| last.result == reloaded.result)
    }

    /// Whether the last reload was refused.
    fn is_refused(&self) -> bool {
        self.last.lock().as_ref().is_some_and(|last| last.result.is_err())
    }

    async fn say(&self, mut reloaded: Reloaded, held_back: impl Fn() -> Vec<String>) -> Reloaded {
        let (asked_by, result) = (reloaded.asked_by, &reloaded.result);
        match result {
            Ok(changed) => {
                self.metrics.config_reload(Some(reloaded.at));
                tracing::info!(
                    asked_by,
                    changed = changed.join(", "),
                    "configuration and secrets were read again and are in force"
                );
                if !reloaded.needs_restart.is_empty() {
                    let sections = reloaded.needs_restart.join(", ");
                    tracing::warn!(
                        asked_by,
                        sections,
                        "what only a restart opens stays as it is: restart the daemon, or put it back"
                    );
                }
            }
            Err(problems) => {
                self.metrics.config_reload(None);
                for problem in problems {
                    tracing::error!(asked_by, problem, "a reload is refused, and nothing was changed");
                }
            }
        }
        self.events.reloaded(asked_by, result.as_ref().err().map(Vec::as_slice)).await;
        if result.is_ok() {
            reloaded.held_back = held_back();
        }
        for problem in &reloaded.held_back {
            tracing::error!(asked_by, "{problem}");
        }
        *self.last.lock() = Some(reloaded.clone());
        reloaded
    }
}

/// Reloads once configuration or files have changed. A change counts once the files have stayed the same for
/// a second: until then one may be half written.
pub(super) struct Files {
    reloader: Arc<Reloader>,
    before: States,
    /// Monotonic time of the last reload that this job caused.
    tried_at: Duration,
}

impl Files {
    pub(super) fn new(reloader: Arc<Reloader>) -> Self {
        let tried_at = reloader.process.ports.clock.monotonic();
        Files { reloader, before: States::default(), tried_at }
    }
}

impl Work for Files {
    async fn run(&mut self) -> Ended {
        let reloader = &self.reloader;
        // Not on a thread that serves, since a file may be on a mount that hangs.
        let (source, config) = (reloader.source.clone(), reloader.in_force.config());
        let now = tokio::task::spawn_blocking(move || source.states(&config)).await;
        let now = now.map_err(|error| format!("the files could not be checked: {error}"))?;
        let monotonic = reloader.process.ports.clock.monotonic();
        let is_changed = !reloader.source.has_read(&now) && now == self.before;
        // The cause of a refusal may have gone without a change that is watched: a key file, a full table of
        // files.
        let is_time = reloader.report.is_refused() && monotonic.saturating_sub(self.tried_at) >= TRY_AGAIN;
        if is_changed || is_time {
            self.tried_at = monotonic;
            reloader.reload(if is_changed { "a file changed" } else { AGAIN }).await;
        }
        self.before = now;
        Ok(())
    }
}

fn reloaded(at: Timestamp, asked_by: &'static str, result: Result<Vec<String>, Vec<String>>) -> Reloaded {
    Reloaded {
        at,
        asked_by,
        result,
        needs_restart: Vec::new(),
        not_fetched: Vec::new(),
        held_back: Vec::new(),
        warnings: Vec::new(),
    }
}

fn lines(errors: &ConfigErrors) -> Vec<String> {
    errors.mistakes.iter().map(ToString::to_string).collect()
}

fn not_fetched(app: &AppName, why: &str) -> String {
    format!(
        "the documents of the authority of {app} could not be fetched anew, so the signing keys from before \
         are believed still: {why}"
    )
}
