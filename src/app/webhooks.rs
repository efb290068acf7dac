//! The webhooks of the configuration: the way to each, its secrets, and what it wants.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use super::findings::{By, Findings};
use super::reading::public_file;
use crate::authority::{Outbound, Roots};
use crate::config::{Config, WebhookConfig};
use crate::domain::id::AppName;
use crate::notices::{
    Backlog, Deliveries, DeliveryObserver, Endpoint, Outcome, Secrets, Target, Wants, Webhook,
};
use crate::outbound::{Leads, Settings};
use crate::secret_file::SecretReader;
use crate::telemetry::metrics::Metrics;

/// What becomes of a webhook whose file is wrong.
const UNTIL_THEN: &str = "after a start nothing is sent to this webhook until that is mended, and its events \
                          are kept; a reload leaves it as it was, unless its other settings changed too";

/// What a reading of `[webhooks]` comes to.
pub(super) struct Prepared {
    /// All of them. One whose files are wrong is left out: callers and their tokens do not wait for it.
    pub(super) webhooks: Vec<Arc<Webhook>>,
}

/// Builds all webhooks.
pub(super) fn prepare(
    config: &Config,
    outbound: &Arc<Outbound>,
    by: &By<'_>,
    findings: &mut Findings<'_>,
) -> Prepared {
    let build = |(name, settings): (&String, &WebhookConfig)| {
        let target = target(name, settings, outbound, by, findings);
        Arc::new(Webhook::new(name.clone(), target, wants(settings), by.ports.clock.now()))
    };
    Prepared { webhooks: config.webhooks.iter().map(build).collect() }
}

impl Prepared {
    /// Whether the files of this one are wrong.
    pub(super) fn leaves_out(&self, name: &str) -> bool {
        self.webhooks.iter().any(|webhook| webhook.name() == name && webhook.is_left_out())
    }

    /// Puts the webhooks in force. One whose files are wrong stays as it was, if only files are new in its
    /// section, and the way out is the same.
    pub(super) fn take_up(
        mut self,
        deliveries: &Deliveries,
        (before, now): (Option<&Config>, &Config),
        metrics: &Metrics,
    ) {
        let in_force = deliveries.webhooks();
        for webhook in self.webhooks.iter_mut().filter(|webhook| webhook.is_left_out()) {
            let name = webhook.name();
            let sections = before.and_then(|before| Some((before.webhooks.get(name)?, &now.webhooks[name])));
            let is_the_same = sections.is_some_and(|(before, now)| before.is_the_same_but_files(now))
                && before.is_some_and(|before| before.outbound == now.outbound);
            let stays = in_force.iter().find(|known| known.name() == name).filter(|_| is_the_same);
            if let Some(stays) = stays {
                *webhook = Arc::clone(stays);
            }
        }
        let names: BTreeSet<String> = self.webhooks.iter().map(|webhook| webhook.name().to_owned()).collect();
        metrics.rename(|known| known.webhooks.clone_from(&names));
        let outcomes = Outcome::ALL.map(Outcome::as_str);
        names.iter().for_each(|name| metrics.expect_webhook(name, &outcomes));
        deliveries.replace(self.webhooks);
    }
}

fn wants(config: &WebhookConfig) -> Wants {
    let apps = config.apps.as_ref();
    let kinds = config.events.as_ref();
    Wants {
        apps: apps.map(|apps| apps.iter().filter_map(|app| AppName::parse(app).ok()).collect()),
        kinds: kinds.map(|kinds| kinds.iter().cloned().collect()),
    }
}

/// `None` if a file is wrong.
fn target(
    name: &str,
    config: &WebhookConfig,
    outbound: &Arc<Outbound>,
    by: &By<'_>,
    findings: &mut Findings<'_>,
) -> Option<Target> {
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
    Some(Target { endpoint, secrets })
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
