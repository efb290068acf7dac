//! Confirmed token hosts: those to which an app's secrets may be sent. The store has them, so that restarts
//! and replicas agree.

use std::collections::BTreeMap;

use super::{Broker, KEPT_FOR_GOOD, Refusal};
use crate::domain::id::AppName;
use crate::domain::token_hosts::TokenHosts;
use crate::repository::{FiledUnder, Kind, RepositoryError, Taken};

impl Broker {
    /// Reads the hosts that others know, and writes new ones. Called every second, and at a stop.
    pub async fn follow_token_hosts(&self) -> Result<(), RepositoryError> {
        let (repository, id) = (&self.deps.repository, &FiledUnder::only());
        let read: Option<Taken<TokenHosts>> = repository.pending(Kind::TokenHosts, id).await?;
        let stored = read.as_ref().map(|read| read.value.clone()).unwrap_or_default();
        let known = self.deps.token_hosts.take_up(&stored);
        if known != stored {
            let now = self.deps.clock.now();
            // (If another replica was faster, this one tries again with that one's record.)
            let kind = Kind::TokenHosts;
            repository.swap_pending(kind, id, read.as_ref(), &known, now, KEPT_FOR_GOOD).await?;
        }
        Ok(())
    }

    /// Apps whose credentials are held back from a token host that nobody has confirmed, with that host.
    pub fn unconfirmed_hosts(&self) -> BTreeMap<AppName, String> {
        let apps = self.apps();
        let held =
            apps.iter().filter_map(|(name, app)| Some((name.clone(), app.credentials.unconfirmed_host()?)));
        held.collect()
    }

    /// Confirms `host` for an app's secrets, by an operator's word. It is stored before it counts.
    pub async fn confirm_token_host(&self, app: &AppName, host: &str) -> Result<(), Refusal> {
        let confirmed = self.app(app)?.credentials.check_token_host(host).await;
        confirmed.map_err(|problem| Refusal::invalid("host", problem))?;
        let now = self.deps.clock.now();
        let change = |hosts: &mut TokenHosts| {
            hosts.confirm(app.as_str(), host, now);
            Ok::<(), RepositoryError>(())
        };
        let (repository, id, kind) = (&self.deps.repository, &FiledUnder::only(), Kind::TokenHosts);
        let written = match repository.change_pending(kind, id, now, KEPT_FOR_GOOD, change).await {
            // The stored record does not open. The operator's word begins a new one, with the hosts known
            // here.
            Err(error) if error.is_damage() => {
                tracing::warn!(%app, host, %error,
                    "the record of which token hosts secrets may be sent to is begun anew, with what this \
                     replica knows and the host that was confirmed");
                let mut hosts = self.deps.token_hosts.take_up(&TokenHosts::default());
                hosts.confirm(app.as_str(), host, now);
                repository.put_pending(kind, id, &hosts, now, KEPT_FOR_GOOD).await?;
                Some(hosts)
            }
            written => written?,
        };
        if written.is_none() {
            return Err(Refusal::StoreUnavailable);
        }
        self.deps.token_hosts.confirmed(app.as_str(), host, now);
        self.deps.engine.app_is_mended(app);
        Ok(())
    }
}
