//! The configured bases, to which callers' requests are relayed.

use std::sync::Arc;

use super::findings::{By, Findings};
use super::reading::public_file;
use crate::authority::{Outbound, Roots};
use crate::broker::RelayBase;
use crate::config::RelayConfig;
use crate::domain::scope::ScopeNaming;
use crate::outbound::{Leads, Resource, Settings};
use crate::relay::Base;

/// The name of Microsoft Graph's base, which is there by default.
const GRAPH: &str = "graph";

/// Builds an app's bases. One that is reached as before keeps its connections.
pub(super) fn build(
    key: &str,
    config: &RelayConfig,
    naming: &ScopeNaming,
    outbound: &Arc<Outbound>,
    by: &By<'_>,
    before: &[Arc<RelayBase>],
    findings: &mut Findings<'_>,
) -> Option<Vec<Arc<RelayBase>>> {
    let roots = match &config.ca {
        None => Roots::System,
        Some(path) => {
            let key = format!("{key}.relay.ca");
            Roots::Only(public_file::certificates(&key, path, &by.environment.secrets(), findings)?)
        }
    };
    let graph = match naming {
        ScopeNaming::Entra { graph } => Some(graph.as_str()),
        ScopeNaming::Plain => None,
    };
    let configured = config.bases.iter().map(|(name, url)| (name.as_str(), url.as_str()));
    let default = graph.filter(|_| !config.bases.contains_key(GRAPH)).map(|url| (GRAPH, url));
    let base = |(name, url): (&str, &str)| {
        let base = Base::parse(name, url)?;
        let resource =
            graph.map(|graph| if name == GRAPH { graph.to_ascii_lowercase() } else { base.origin() });
        // The operator has named the host.
        let leads = Leads::Anywhere;
        let (host, roots, outbound) = (base.host().to_owned(), roots.clone(), Arc::clone(outbound));
        let settings = Settings { host, leads, roots, outbound };
        let is_same = |one: &&Arc<RelayBase>| one.base == base && *one.way.settings() == settings;
        let way = match before.iter().find(is_same) {
            Some(one) => Arc::clone(&one.way),
            None => Arc::new(Resource::new(settings, by.ports.clock.clone())),
        };
        // (Nobody else is known to count by mailboxes.)
        let at_mailbox = (graph.is_some() && name == GRAPH).then_some(config.mailbox_concurrency);
        Some(Arc::new(RelayBase { base, resource, way, at_mailbox }))
    };
    configured.chain(default).map(base).collect()
}
