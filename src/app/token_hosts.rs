//! Which token hosts secrets may be sent to: remembered in the store, so that restarts and replicas agree.

use std::sync::Arc;
use std::time::Duration;

use super::choices::KEPT;
use super::jobs::{Ended, Work, ended};
use super::reload::Reloader;
use crate::broker::Refusal;
use crate::domain::id::AppName;
use crate::domain::token_hosts;
use crate::repository::{FiledUnder, Kind, RepositoryError, Taken};

/// How often what others know is taken up, and what is new here is written.
pub(super) const LOOK: Duration = Duration::from_secs(1);

/// Keeps what is known here and what is stored the same. (Once more at a stop: for what came with the last requests.)
pub(super) struct TokenHosts {
    reloader: Arc<Reloader>,
    /// The log has the error that stands in the way.
    is_reported: bool,
}

impl TokenHosts {
    pub(super) fn new(reloader: Arc<Reloader>) -> Self {
        TokenHosts { reloader, is_reported: false }
    }
}

impl Work for TokenHosts {
    async fn run(&mut self) -> Ended {
        let followed = self.reloader.follow_token_hosts().await;
        match &followed {
            Ok(()) => self.is_reported = false,
            Err(error) if error.is_outage() => {
                tracing::debug!(%error, "which hosts secrets may be sent to could not be looked up or written");
            }
            // A replica that starts with this sends no secret at all.
            Err(error) if !std::mem::replace(&mut self.is_reported, true) => {
                tracing::error!(%error, "the record of which token hosts secrets may be sent to does not open: restore it from a \
                                         backup of the store, or the sealing key that it was sealed with; \
                                         or begin it anew with `tokenward credentials confirm APP HOST`");
            }
            Err(_) => {}
        }
        ended(followed)
    }
}

impl Reloader {
    async fn follow_token_hosts(&self) -> Result<(), RepositoryError> {
        let read: Option<Taken<token_hosts::TokenHosts>> =
            self.repository.pending(Kind::TokenHosts, &FiledUnder::only()).await?;
        let stored = read.as_ref().map(|read| read.value.clone()).unwrap_or_default();
        let known = self.ports.token_hosts.take_up(&stored);
        if known != stored {
            let now = self.ports.clock.now();
            // (Who loses against another replica tries again with what that one wrote.)
            self.repository
                .swap_pending(Kind::TokenHosts, &FiledUnder::only(), read.as_ref(), &known, now, KEPT)
                .await?;
        }
        Ok(())
    }

    /// Has an app's secrets go to `host` from now on: an operator's word, stored before it counts.
    pub(super) async fn confirm_token_host(&self, app: &AppName, host: &str) -> Result<(), Refusal> {
        let installed = self.authorities.load().get(app).cloned().ok_or(Refusal::AppNotFound)?;
        let confirmed = installed.authority.is_token_host(host).await;
        confirmed.map_err(|problem| Refusal::invalid("host", problem))?;
        let now = self.ports.clock.now();
        let change = |hosts: &mut token_hosts::TokenHosts| {
            hosts.confirm(app.as_str(), host, now);
            Ok::<(), RepositoryError>(())
        };
        let id = FiledUnder::only();
        let written = match self.repository.change_pending(Kind::TokenHosts, &id, now, KEPT, change).await {
            // Nobody can read any more what was remembered. The operator's word begins a new record, with what is known here.
            Err(error) if error.is_damage() => {
                tracing::warn!(%app, host, %error, "the record of which token hosts secrets may be sent to is begun anew, with what this replica knows and the host that was confirmed");
                let mut hosts = self.ports.token_hosts.take_up(&token_hosts::TokenHosts::default());
                hosts.confirm(app.as_str(), host, now);
                self.repository.put_pending(Kind::TokenHosts, &id, &hosts, now, KEPT).await?;
                Some(hosts)
            }
            written => written?,
        };
        if written.is_none() {
            return Err(Refusal::StoreUnavailable);
        }
        self.ports.token_hosts.confirmed(app.as_str(), host, now);
        self.engine.app_is_mended(app);
        Ok(())
    }
}
