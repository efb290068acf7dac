//! How each webhook stands, for operators. What the store says is true on every replica, also on those that
//! do not deliver.

use futures_util::future::join_all;

use super::deliver::Deliveries;
use super::endpoint::Webhook;
use super::plan::Progress;
use crate::domain::time::Timestamp;
use crate::repository::{FiledUnder, Kind, RepositoryError, Taken};

/// Notices that are read to find the oldest that waits.
const PAGE: usize = 100;

/// How a webhook stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Standing {
    /// Its name in the configuration.
    pub name: String,
    /// Whether it takes notices; `None` if the store does not say.
    pub state: Option<State>,
    /// When the oldest notice was written that waits for it.
    pub oldest: Option<Timestamp>,
    /// Notices that it will never get, of all time.
    pub undelivered: u64,
}

/// Whether a webhook takes notices.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum State {
    /// It took the last one, or none was sent yet.
    Takes,
    /// A file of it is wrong: nothing is sent to it, and its notices wait.
    LeftOut,
    /// Its last requests failed.
    Fails {
        /// When the first of them did.
        since: Timestamp,
        /// How many.
        failures: u32,
        /// How the last one failed, for people.
        why: String,
    },
    /// It answered 410: it says that it is gone.
    Gone {
        /// When the first of its last requests failed.
        since: Timestamp,
        /// How many failed.
        failures: u32,
    },
}

impl Deliveries {
    /// How each webhook in force stands. If the store is lost, that is not known, and it is not asked.
    pub async fn standings(&self, is_store_lost: bool) -> Vec<Standing> {
        let webhooks = self.webhooks();
        join_all(webhooks.iter().map(async |webhook| {
            let unknown =
                || Standing { name: webhook.name().to_owned(), state: None, oldest: None, undelivered: 0 };
            if is_store_lost {
                return unknown();
            }
            self.standing(webhook).await.unwrap_or_else(|_| unknown())
        }))
        .await
    }

    async fn standing(&self, webhook: &Webhook) -> Result<Standing, RepositoryError> {
        let repository = &self.ports.repository;
        let filed = FiledUnder::webhook(webhook.name());
        let progress: Option<Taken<Progress>> = repository.pending(Kind::Webhook, &filed).await?;
        // (Without one it is new: nothing is delivered yet, and it begins when it was read.)
        let progress = progress.map_or_else(|| Progress::new(0, webhook.since()), |taken| taken.value);
        let behind = match progress.first_aside() {
            Some(place) => place.saturating_sub(1),
            None => progress.through,
        };
        let page = repository.notices(behind, PAGE).await?.notices;
        let waits = page.iter().find(|(_, notice)| notice.at >= progress.since() && webhook.wants(notice));
        let state = match progress.trouble() {
            _ if webhook.is_left_out() => State::LeftOut,
            None => State::Takes,
            Some(trouble) if trouble.is_gone => {
                State::Gone { since: trouble.since, failures: progress.failures() }
            }
            Some(trouble) => {
                State::Fails { since: trouble.since, failures: progress.failures(), why: trouble.why.clone() }
            }
        };
        Ok(Standing {
            name: webhook.name().to_owned(),
            state: Some(state),
            oldest: waits.map(|(_, notice)| notice.at),
            undelivered: progress.undelivered,
        })
    }
}
