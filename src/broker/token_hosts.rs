//! Which token hosts an app's secrets may be sent to: remembered in the store, so that restarts and replicas agree.

use super::{Broker, KEPT_FOR_GOOD, Refusal};
use crate::domain::id::AppName;
use crate::domain::token_hosts::TokenHosts;
use crate::repository::{FiledUnder, Kind, RepositoryError, Taken};

impl Broker {
    /// For a timer of a second, and for a stop: takes up what others know, and writes what is new here.
    pub async fn follow_token_hosts(&self) -> Result<(), RepositoryError> {
        let (repository, id) = (&self.deps.repository, &FiledUnder::only());
        let read: Option<Taken<TokenHosts>> = repository.pending(Kind::TokenHosts, id).await?;
        let stored = read.as_ref().map(|read| read.value.clone()).unwrap_or_default();
        let known = self.deps.token_hosts.take_up(&stored);
        if known != stored {
            let now = self.deps.clock.now();
            // (Whoever loses against another replica tries again with what that one wrote.)
            let kind = Kind::TokenHosts;
            repository.swap_pending(kind, id, read.as_ref(), &known, now, KEPT_FOR_GOOD).await?;
        }
        Ok(())
    }

    /// Has an app's secrets go to `host` from now on: an operator's word, stored before it counts.
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
            // Nobody can read any more what was remembered. The operator's word begins a new record, with what is known here.
            Err(error) if error.is_damage() => {
                tracing::warn!(%app, host, %error, "the record of which token hosts secrets may be sent to is begun anew, with what this replica knows and the host that was confirmed");
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
