//! The webhooks of the configuration: the way to each, its secrets, and what it wants.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use super::findings::{By, Findings};
use super::reading::public_file;
use crate::authority::{Outbound, Roots};
use crate::config::{Config, WebhookConfig};
use crate::domain::id::AppName;
use crate::notices::{Backlog, DeliveryObserver, Endpoint, Outcome, Secrets, Webhook};
use crate::outbound::{Leads, Settings};
use crate::secret_file::SecretReader;
use crate::telemetry::metrics::Metrics;

/// What becomes of a webhook whose file is wrong.
const UNTIL_THEN: &str = "nothing is sent to this webhook until that is mended; its events are kept";

/// Builds all webhooks but those whose files are wrong: callers and their tokens do not wait for them.
pub(super) fn prepare(
    config: &Config,
    outbound: &Arc<Outbound>,
    by: &By<'_>,
    findings: &mut Findings<'_>,
) -> Vec<Arc<Webhook>> {
    let all = config.webhooks.iter();
    all.filter_map(|(name, settings)| webhook(name, settings, outbound, by, findings)).collect()
}

fn webhook(
    name: &str,
    config: &WebhookConfig,
    outbound: &Arc<Outbound>,
    by: &By<'_>,
    findings: &mut Findings<'_>,
) -> Option<Arc<Webhook>> {
    let files = by.environment.secrets();
    let (secrets, roots) = findings.optional(UNTIL_THEN, |findings| {
        let secrets = secrets(name, &config.secret_file, &files, findings);
        let roots = match &config.ca_file {
            None => Some(Roots::System),
            Some(path) => {
                let key = format!("webhooks.{name}.ca_file");
                public_file::certificates(&key, path, &files, findings).map(Roots::Only)
            }
        };
        Some((secrets?, roots?))
    })?;
    let leads = if config.allow_private { Leads::OwnNetworkToo } else { Leads::Public };
    let (host, outbound) = (config.url.host().to_owned(), Arc::clone(outbound));
    let settings = Settings { host, leads, roots, outbound };
    let url = config.url.as_str().to_owned();
    let endpoint = Endpoint::new(url, settings, by.ports.clock.clone());
    let endpoint =
        endpoint.map_err(|fault| findings.value(&format!("webhooks.{name}.url"), fault, None)).ok()?;
    let apps = config.apps.as_ref();
    let apps = apps.map(|apps| apps.iter().filter_map(|app| AppName::parse(app).ok()).collect());
    let kinds = config.events.as_ref().map(|events| events.iter().cloned().collect::<BTreeSet<String>>());
    Some(Arc::new(Webhook::new(name.to_owned(), endpoint, apps, kinds, secrets, by.ports.clock.now())))
}

fn secrets(name: &str, path: &Path, files: &SecretReader, findings: &mut Findings<'_>) -> Option<Secrets> {
    let key = format!("webhooks.{name}.secret_file");
    let read = match files.read(path) {
        Ok(content) => Secrets::parse(&content).map_err(|bad| format!("{} {bad}", path.display())),
        Err(error) => Err(error.to_string()),
    };
    read.map_err(|problem| findings.file(&key, problem)).ok()
}

/// Counts deliveries.
pub(super) struct Counts(pub(super) Arc<Metrics>);

impl DeliveryObserver for Counts {
    fn delivered(&self, webhook: &str, outcome: Outcome) {
        self.0.webhook_delivery(webhook, outcome.as_str());
    }

    fn undelivered(&self, webhook: &str, count: u64) {
        self.0.webhook_undelivered(webhook, count);
    }

    fn backlog(&self, webhook: &str, backlog: Option<Backlog>) {
        let Backlog { oldest, notices } = backlog.unwrap_or_default();
        self.0.webhook_backlog(webhook, oldest, notices);
    }
}
