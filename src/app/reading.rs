//! Reads and judges the configuration and everything that it names, as a whole, before anything is started or
//! replaced. `check`, `serve` and a reload all use this code, so they refuse the same things in the same
//! words.
//!
//! What only the network, another process or a lock could tell is not checked here.

mod advice;
pub(super) mod credentials;
#[cfg(test)]
mod path_tests;
pub(super) mod public_file;

use std::collections::BTreeMap;
use std::os::unix::fs::FileTypeExt as _;
use std::path::Path;
use std::sync::Arc;

use super::apps::{self, Authorities, PreparedApps};
use super::environment::Environment;
use super::findings::{By, Findings};
pub use super::findings::{Checked, Refused};
use super::issuers::{self, InstalledIssuers};
use super::listeners::{self, PreparedListeners};
use super::process::Ports;
use super::{callers, pages, store, traces, webhooks};
use crate::broker::App;
use crate::callers::Callers;
use crate::config::{AuditSink, Config, Loaded, Mistake};
use crate::domain::id::{AppName, CallerName};
use crate::domain::random::Random;
use crate::domain::scope::ScopeNaming;
use crate::domain::time::Clock;
use crate::journal::files as journal_files;
use crate::keyring::{Keyring, files as keyring_files};
use crate::policy::CallerPolicy;
use crate::public::Look;
use crate::secret_file::SecretReader;
use crate::telemetry::audit::SigningKey;
use crate::telemetry::metrics::Metrics;

/// The parts of a configuration that a reload replaces.
pub(super) struct Replaceable {
    pub(super) apps: PreparedApps,
    pub(super) listeners: PreparedListeners,
    pub(super) issuers: InstalledIssuers,
    pub(super) callers: Callers,
    pub(super) admins: Callers,
    /// How the pages look.
    pub(super) look: Look,
    /// Signs the audit.
    pub(super) signing_key: Option<SigningKey>,
    /// Where traces go, and which.
    pub(super) traces: traces::Prepared,
    /// Who is told of changes.
    pub(super) webhooks: webhooks::Prepared,
    pub(super) warnings: Vec<Mistake>,
}

impl Replaceable {
    /// Whether a wrong file keeps this section from coming in force, which costs a warning alone.
    pub(super) fn leaves_out(&self, section: &str) -> bool {
        match section.strip_prefix("webhooks.") {
            Some(name) => self.webhooks.leaves_out(name),
            None => section == "traces" && matches!(self.traces, traces::Prepared::Unclear),
        }
    }
}

/// Everything that a start needs.
pub(super) struct Everything {
    pub(super) keyring: Arc<Keyring>,
    pub(super) store: store::PreparedStore,
    pub(super) replaceable: Replaceable,
}

/// Reads everything for a start.
pub(super) fn everything(loaded: &Loaded, by: &By<'_>) -> Result<Everything, Refused> {
    let mut findings = Findings::new(&loaded.places);
    configuration(by, &mut findings);
    let keyring = keyring(&loaded.config, by, &mut findings);
    let store = store::prepare(&loaded.config.store, &by.environment.secrets(), by.ports, &mut findings);
    lasting(&loaded.config, &by.environment.secrets(), &mut findings);
    let read = replaceable_with(
        &loaded.config,
        by,
        keyring.as_ref(),
        (&Authorities::new(), &InstalledIssuers::new()),
        &mut findings,
    );
    match (keyring, store, read) {
        (Some(keyring), Some(store), Some(mut replaceable)) if findings.mistakes() == 0 => {
            replaceable.warnings = findings.sorted().warnings;
            Ok(Everything { keyring, store, replaceable })
        }
        _ => Err(findings.refused()),
    }
}

/// Reads the parts that a reload replaces, beside those in force.
pub(super) fn replaceable(
    loaded: &Loaded,
    by: &By<'_>,
    keyring: &Arc<Keyring>,
    before: (&Authorities, &InstalledIssuers),
) -> Result<Replaceable, Refused> {
    let mut findings = Findings::new(&loaded.places);
    configuration(by, &mut findings);
    match replaceable_with(&loaded.config, by, Some(keyring), before, &mut findings) {
        Some(mut read) if findings.mistakes() == 0 => {
            read.warnings = findings.sorted().warnings;
            Ok(read)
        }
        _ => Err(findings.refused()),
    }
}

/// Reads everything as `serve` would at its start, and takes nothing up.
pub fn check(
    loaded: &Loaded,
    environment: &Environment,
    clock: Arc<dyn Clock>,
    random: Arc<dyn Random>,
) -> Checked {
    let ports = Ports::new(clock, random);
    let metrics = Arc::new(Metrics::new(env!("CARGO_PKG_VERSION")));
    let by = By { environment, ports: &ports, metrics: &metrics };
    match everything(loaded, &by) {
        Ok(read) => Checked { mistakes: Vec::new(), warnings: read.replaceable.warnings },
        Err(refused) => Checked { mistakes: refused.errors.mistakes, warnings: refused.warnings },
    }
}

/// The rules of a configuration, for questions about them.
pub struct Rules {
    /// Every caller's.
    pub policies: BTreeMap<CallerName, CallerPolicy>,
    /// How the authority of each app names scopes.
    pub naming: BTreeMap<AppName, ScopeNaming>,
}

/// Reads the rules that a reload would take up now.
///
/// # Errors
/// Every mistake, as for `check`.
pub fn rules(
    loaded: &Loaded,
    environment: &Environment,
    clock: Arc<dyn Clock>,
    random: Arc<dyn Random>,
) -> Result<Rules, Refused> {
    let ports = Ports::new(clock, random);
    let metrics = Arc::new(Metrics::new(env!("CARGO_PKG_VERSION")));
    let by = By { environment, ports: &ports, metrics: &metrics };
    let mut findings = Findings::new(&loaded.places);
    configuration(&by, &mut findings);
    let keyring = keyring(&loaded.config, &by, &mut findings);
    let none = (&Authorities::new(), &InstalledIssuers::new());
    match replaceable_with(&loaded.config, &by, keyring.as_ref(), none, &mut findings) {
        Some(read) if findings.mistakes() == 0 => {
            let naming = |app: &App| app.authority.scope_naming().clone();
            Ok(Rules {
                policies: read.callers.iter().map(|one| (one.name.clone(), one.policy.clone())).collect(),
                naming: read.apps.apps.iter().map(|(name, app)| (name.clone(), naming(app))).collect(),
            })
        }
        _ => Err(findings.refused()),
    }
}

fn replaceable_with(
    config: &Config,
    by: &By<'_>,
    keyring: Option<&Arc<Keyring>>,
    (authorities, issuers): (&Authorities, &InstalledIssuers),
    findings: &mut Findings<'_>,
) -> Option<Replaceable> {
    let secrets = by.environment.secrets();
    let apps = apps::prepare(config, &secrets, by, authorities, findings);
    advice::check(config, &apps, findings);
    let listeners = listeners::prepare(&config.listen, &secrets, &by.ports.clock, findings);
    let issuers = issuers::prepare(config, &apps.outbound, by, issuers, findings);
    let callers = callers::build(config, &apps, &issuers, keyring, by, findings);
    let look = pages::prepare(config, &secrets, findings);
    let signing_key = signing_key(config, &secrets, findings);
    let traces = traces::prepare(config, &apps.outbound, by, findings);
    let webhooks = webhooks::prepare(config, &apps.outbound, by, findings);
    let (callers, admins) = callers?;
    let (listeners, warnings) = (listeners?, Vec::new());
    Some(Replaceable {
        apps,
        listeners,
        issuers,
        callers,
        admins,
        look,
        signing_key,
        traces,
        webhooks,
        warnings,
    })
}

/// Reads the key that signs the audit.
fn signing_key(config: &Config, secrets: &SecretReader, findings: &mut Findings<'_>) -> Option<SigningKey> {
    let path = config.audit.signing_key.as_ref()?;
    let read = match secrets.read(path) {
        Ok(pem) => SigningKey::read(&pem).map_err(|bad| format!("{} {bad}", path.display())),
        Err(error) => Err(error.to_string()),
    };
    read.map_err(|problem| findings.file("audit.signing_key", problem)).ok()
}

/// Checks that nobody else may have written the configuration's own file, since it grants all rights.
fn configuration(by: &By<'_>, findings: &mut Findings<'_>) {
    let file = findings.places.file();
    if let Err(error) = by.environment.secrets().guard().file(file) {
        findings.file("", error);
    }
}

fn keyring(config: &Config, by: &By<'_>, findings: &mut Findings<'_>) -> Option<Arc<Keyring>> {
    let read = keyring_files::open_as(&config.sealing.keyring, by.environment.secrets());
    read.map(Arc::new).map_err(|error| findings.file("sealing.keyring", error)).ok()
}

/// Checks the parts that cannot change while the daemon runs, beside the store.
fn lasting(config: &Config, secrets: &SecretReader, findings: &mut Findings<'_>) {
    if let Some(path) = &config.store.journal
        && let Err(error) = journal_files::check(path)
    {
        findings.file("store.journal", error);
    }
    listeners::check_sockets(&config.listen, secrets, findings);
    for (place, sink) in config.audit.sinks.iter().enumerate() {
        // The first is `path`, the others are the items of `also`.
        let key = place.checked_sub(1).map_or("audit.path".to_owned(), |item| format!("audit.also[{item}]"));
        match sink {
            AuditSink::File(path) => file_to_append(&key, path, findings),
            AuditSink::Syslog(path) | AuditSink::Journald(path) => {
                let kind = std::fs::metadata(path).map(|metadata| metadata.file_type().is_socket());
                if !kind.unwrap_or(false) {
                    let problem = "there is no socket; records for it are lost until its daemon runs";
                    findings.warning(&key, format_args!("{}: {problem}", path.display()));
                }
            }
            AuditSink::Stdout | AuditSink::Stderr => {}
        }
    }
}

/// Checks that the file, or the directory for it, exists.
fn file_to_append(key: &str, path: &Path, findings: &mut Findings<'_>) {
    let parent = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    if path.is_dir() {
        findings.file(key, format_args!("{} is a directory; give the path of a file", path.display()));
    } else if !parent.is_dir() {
        findings.file(
            key,
            format_args!("there is no directory {}; make it, owned by the daemon's user", parent.display()),
        );
    }
}
