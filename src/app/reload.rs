//! Taking up another configuration while the daemon runs: read, compared, built beside what is in force, and then put in its
//! place; or refused whole, with every reason, and nothing changed.
//!
//! Nothing waits for a reload, and nothing is cut short by it: requests look at the apps, callers and credentials of the moment
//! they begin, and what is under way ends as it was begun.

use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::sync::oneshot;

use super::apps::{self, Authorities};
use super::files::Looks;
use super::jobs::{Ended, Work};
use super::listeners::{self, LiveTls};
use super::pulse::Seen;
use super::reading::{self, By, Replaceable};
use super::{Environment, Ports, broker_settings, engine_apps, engine_settings, level_of};
use crate::api::upkeep::Reloaded;
use crate::broker::Broker;
use crate::callers::{Callers, LiveCallers};
use crate::config::{self, Config, Mistake};
use crate::domain::id::AppName;
use crate::domain::task::Tasks;
use crate::events::Events;
use crate::keyring::Keyring;
use crate::lifecycle::Readiness;
use crate::refresh::Engine;
use crate::repository::Repository;
use crate::system::TokioTasks;
use crate::telemetry::logging::LevelHandle;
use crate::telemetry::metrics::Metrics;

/// Where the configuration comes from.
#[derive(Debug, Clone, Default)]
pub struct Source {
    /// The file.
    pub path: PathBuf,
    /// The process's environment.
    pub variables: BTreeMap<String, String>,
}

/// How often files are looked at.
pub(super) const LOOK: Duration = Duration::from_secs(1);
/// A refused reload is tried again after so long.
const TRY_AGAIN: Duration = Duration::from_secs(15);
/// Who asks for a reload that was refused a while ago.
const AGAIN: &str = "another try";

/// Files are read in no time; this is for those that never answer.
const READ_WITHIN: Duration = Duration::from_secs(10);

/// Everything that is put into the place of what is in force.
struct Prepared {
    config: Config,
    /// The sections that are others.
    changed: Vec<String>,
    warnings: Vec<Mistake>,
    /// The authorities that were in force when it was built.
    before: Arc<Authorities>,
    apps: apps::PreparedApps,
    tls: listeners::PreparedTls,
    callers: Callers,
    admins: Callers,
}

/// Everything that a reload replaces, and what it builds with.
pub(super) struct Reloader {
    pub(super) source: Source,
    pub(super) environment: Environment,
    pub(super) ports: Ports,
    pub(super) metrics: Arc<Metrics>,
    pub(super) events: Arc<Events>,
    pub(super) keyring: Arc<Keyring>,
    pub(super) running: Arc<ArcSwap<Config>>,
    pub(super) authorities: Arc<ArcSwap<Authorities>>,
    pub(super) readiness: Readiness,
    pub(super) engine: Engine,
    pub(super) repository: Arc<Repository>,
    pub(super) broker: Arc<Broker>,
    pub(super) callers: LiveCallers,
    pub(super) admins: LiveCallers,
    pub(super) tls: LiveTls,
    pub(super) store_seen: Arc<Seen>,
    pub(super) level: Option<LevelHandle>,
    /// One at a time.
    pub(super) turn: tokio::sync::Mutex<()>,
    /// Held by who reads files.
    pub(super) reading: Arc<tokio::sync::Mutex<()>>,
    pub(super) tasks: Arc<TokioTasks>,
    /// By app: whoever takes up what operators decided on its credentials, or writes it.
    pub(super) choosing: Mutex<BTreeMap<AppName, Arc<tokio::sync::Mutex<()>>>>,
    pub(super) last: Mutex<Option<Reloaded>>,
    /// How the files looked before they were read for the last time.
    pub(super) read: Mutex<Looks>,
}

impl Reloader {
    /// Reads everything again and takes it up, or nothing of it. To its end, though whoever asked does not wait.
    pub(super) async fn reload(self: &Arc<Self>, asked_by: &'static str) -> Reloaded {
        let (sender, receiver) = oneshot::channel();
        let this = self.clone();
        let work = async move {
            let _ = sender.send(this.reload_now(asked_by).await);
        };
        self.tasks.spawn("reload", Box::pin(work));
        receiver.await.unwrap_or_else(|_| Reloaded {
            at: self.ports.clock.now(),
            asked_by,
            result: Err(vec!["the reload itself failed".to_owned()]),
            not_fetched: Vec::new(),
            held_back: Vec::new(),
        })
    }

    /// The same at somebody's word, who may have been told that an authority's signing key must not be believed any more: its
    /// documents are fetched anew, besides, and what could not be fetched is said.
    pub(super) async fn reload_at_a_word(self: &Arc<Self>, asked_by: &'static str) -> Reloaded {
        let mut reloaded = self.reload(asked_by).await;
        let renewals: Vec<_> =
            self.authorities.load().iter().map(|(app, one)| (app.clone(), self.renew(app, one))).collect();
        for (app, renewal) in renewals {
            let ended = renewal.await.unwrap_or_else(|_| Some(not_fetched(&app, "the task failed")));
            reloaded.not_fetched.extend(ended);
        }
        reloaded
    }

    /// Has an authority's documents fetched anew, beside others'.
    fn renew(&self, app: &AppName, installed: &apps::Installed) -> oneshot::Receiver<Option<String>> {
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
        self.tasks.spawn("fetch an authority's documents anew", Box::pin(renew));
        receiver
    }

    /// What stays here because an authority is on another host now.
    fn held_back(&self) -> Vec<String> {
        let authorities = self.authorities.load();
        let hosts =
            authorities.iter().filter_map(|(app, one)| Some((app, one.authority.unconfirmed_host()?)));
        hosts
            .map(|(app, host)| {
                format!("the authority of {app} is on {host}, and its client credential is for another host: it is not sent there. If the change is right: tokenward credentials confirm {app} {host}")
            })
            .collect()
    }

    /// Whether the last reload was refused: what was wrong may be mended where nobody looks.
    fn is_refused(&self) -> bool {
        let last = self.last.lock();
        last.as_ref().is_some_and(|last| last.result.is_err())
    }

    /// They looked like this before they were read.
    fn looked(&self, looks: Looks) {
        *self.read.lock() = looks;
    }

    /// Whether the files were read as they look now, for a reload that was taken up or refused.
    fn has_read(&self, now: &Looks) -> bool {
        now.are_in(&self.read.lock())
    }

    async fn reload_now(self: &Arc<Self>, asked_by: &'static str) -> Reloaded {
        let _turn = self.turn.lock().await;
        let result = self.prepare_in_time().await.map(|prepared| self.install(prepared));
        let now = self.ports.clock.now();
        let before = self.last.lock().clone();
        if asked_by == AGAIN && before.is_some_and(|before| before.result == result) {
            return Reloaded { at: now, asked_by, result, not_fetched: Vec::new(), held_back: Vec::new() }; // said already
        }
        match &result {
            Ok(changed) => {
                self.metrics.config_reload(Some(now));
                tracing::info!(
                    asked_by,
                    changed = changed.join(", "),
                    "configuration and secrets were read again and are in force"
                );
            }
            Err(problems) => {
                self.metrics.config_reload(None);
                for problem in problems {
                    tracing::error!(asked_by, problem, "a reload is refused, and nothing was changed");
                }
            }
        }
        self.events.reloaded(asked_by, result.as_ref().err().map(Vec::as_slice)).await;
        let held_back = if result.is_ok() { self.held_back() } else { Vec::new() };
        for problem in &held_back {
            tracing::error!(asked_by, "{problem}");
        }
        let reloaded = Reloaded { at: now, asked_by, result, not_fetched: Vec::new(), held_back };
        *self.last.lock() = Some(reloaded.clone());
        reloaded
    }

    /// Reads and builds everything, on a thread that does not serve; what takes too long is given up, and nothing comes of it later.
    async fn prepare_in_time(self: &Arc<Self>) -> Result<Prepared, Vec<String>> {
        let too_long = || {
            vec![format!(
                "the files could not be read within {} s: one of them may be on a mount that does not answer",
                READ_WITHIN.as_secs()
            )]
        };
        let this = self.clone();
        let read = async move {
            // Those who were given up stay until they end, one at most.
            let reading = this.reading.clone().lock_owned().await;
            let prepare = move || {
                let _reading = reading;
                this.prepare()
            };
            tokio::task::spawn_blocking(prepare).await
        };
        tokio::select! {
            read = read => read.unwrap_or_else(|error| Err(vec![format!("the reload itself failed: {error}")])),
            () = self.ports.clock.sleep(READ_WITHIN) => Err(too_long()),
        }
    }

    fn prepare(&self) -> Result<Prepared, Vec<String>> {
        let running = self.running.load_full();
        // Each before it is read: what changes from here on is seen. Those of the configuration in force too, should another one not
        // be legible.
        let path = &self.source.path;
        let of_configuration = Looks::of_configuration(path);
        self.looked(of_configuration.clone().and(Looks::of(path, &running)));
        let lines = |errors: &config::ConfigErrors| {
            errors.mistakes.iter().map(ToString::to_string).collect::<Vec<String>>()
        };
        let loaded = config::load_file(path, &self.source.variables).map_err(|errors| lines(&errors))?;
        let new = loaded.config.clone();
        self.looked(of_configuration.and(Looks::of(path, &new)).and(Looks::of(path, &running)));
        let fixed = config::needs_restart(&running, &new);
        if !fixed.is_empty() {
            return Err(fixed
                .into_iter()
                .map(|section| {
                    format!("{section} cannot change while the daemon runs: restart it, or put it back")
                })
                .collect());
        }

        // Everything is built before anything is replaced; whatever is wrong is said at once.
        let environment = self.environment.again();
        let by = By { environment: &environment, ports: &self.ports, metrics: &self.metrics };
        let before = self.authorities.load_full();
        let read = reading::replaceable(&loaded, &by, &self.keyring, &before)
            .map_err(|refused| lines(&refused.errors))?;
        let Replaceable { apps, tls, callers, admins, warnings } = read;

        let mut changed = config::changed_sections(&running, &new);
        if changed.is_empty() {
            changed.push("nothing but the content of files".to_owned());
        }
        let warnings = loaded.warnings.into_iter().chain(warnings).collect();
        Ok(Prepared { config: new, changed, warnings, before, apps, tls, callers, admins })
    }

    /// Puts what was built into the place of what is in force, and says which sections are others now.
    fn install(&self, prepared: Prepared) -> Vec<String> {
        let Prepared { config: new, changed, warnings, before, apps, tls, callers, admins } = prepared;
        for warning in warnings {
            tracing::warn!(config = %self.source.path.display(), "{warning}");
        }
        // Apps before those who may ask for them. (The other way about for what goes: an app that is gone is "not found" a moment
        // before its rules are.)
        let (apps, authorities) = apps::install(apps, &before);
        // The names that are counted first: what comes under one that is not known yet would be nobody's.
        self.events.expect(apps.keys(), &callers, &admins);
        self.engine.reconfigure(engine_apps(&apps), engine_settings(&new));
        self.broker.reconfigure(apps, broker_settings(&new));
        // What the authority said of an app's credentials was not of one that is new.
        for (app, installed) in &authorities {
            if installed.authority.credentials().has_untried() {
                self.engine.app_is_mended(app);
            }
        }
        self.authorities.store(Arc::new(authorities));
        self.callers.store(Arc::new(callers.succeeding(&self.callers.load())));
        self.admins.store(Arc::new(admins.succeeding(&self.admins.load())));
        self.tls.replace(tls, &self.metrics);
        if let Some(level) = &self.level {
            level.set(level_of(new.log.level));
        }
        if self.running.load().outbound != new.outbound {
            apps::say_ways_out(&new);
        }
        self.running.store(Arc::new(new));
        changed
    }
}

/// Reads configuration and files again once they have changed. A file that is being written is left alone until it has stayed the
/// same for a second.
pub(super) struct Files {
    reloader: Arc<Reloader>,
    running: Arc<ArcSwap<Config>>,
    before: Looks,
    /// The monotonic time of the last reload from here.
    tried_at: Duration,
}

impl Files {
    pub(super) fn new(reloader: Arc<Reloader>, running: Arc<ArcSwap<Config>>) -> Self {
        let tried_at = reloader.ports.clock.monotonic();
        Files { reloader, running, before: Looks::default(), tried_at }
    }
}

impl Work for Files {
    async fn run(&mut self) -> Ended {
        // Not on a thread that serves: a file may be on a mount that hangs.
        let (path, config) = (self.reloader.source.path.clone(), self.running.load_full());
        let now = tokio::task::spawn_blocking(move || Looks::of(&path, &config)).await;
        let now = now.map_err(|error| format!("the files could not be looked at: {error}"))?;
        let monotonic = self.reloader.ports.clock.monotonic();
        let is_changed = !self.reloader.has_read(&now) && now == self.before;
        // What was wrong may have been mended where nobody looks: a key file, a full table of files.
        let is_time = self.reloader.is_refused() && monotonic.saturating_sub(self.tried_at) >= TRY_AGAIN;
        if is_changed || is_time {
            self.tried_at = monotonic;
            self.reloader.reload(if is_changed { "a file changed" } else { AGAIN }).await;
        }
        self.before = now;
        Ok(())
    }
}

fn not_fetched(app: &AppName, why: &str) -> String {
    format!(
        "the documents of the authority of {app} could not be fetched anew, so the signing keys from before are believed still: {why}"
    )
}
