//! Delivers notices to webhooks: one replica at a time, one request at a time to each webhook.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

use super::endpoint::{Outcome, Webhook};
use super::feed::{END, Feed};
use super::plan::{Progress, Step, Tried};
use crate::domain::notice::Notice;
use crate::domain::task::Tasks;
use crate::domain::time::{Clock, Timestamp};
use crate::repository::{FiledUnder, Kept, Kind, Repository, RepositoryError, Taken};
use crate::store::{LeaseAnswer, LeaseNonce, LeaseOf, StoreError};

/// The lease: a replica that dies is succeeded after so long …
const LEASE: Duration = Duration::from_secs(15);
/// … and it is prolonged, or tried for, this often.
const LEASE_AGAIN: Duration = Duration::from_secs(4);
/// Rounds of gathering in one go.
const MOST_GATHERED: usize = 50;
/// Requests to one webhook in one go.
const MOST_DELIVERED: usize = 200;
/// How often the notices are looked at that wait for a webhook that is left out.
const LEFT_OUT_AGAIN: Duration = Duration::from_secs(60);
/// Notices that are read at once.
const PAGE: usize = 100;
/// A webhook's progress is kept so long after it was written, also while the webhook is left out …
const KEPT: Duration = Duration::from_secs(90 * 86_400);
/// … and is written anew when it is this old.
const WRITE_AGAIN: Duration = Duration::from_secs(86_400);

/// What waits for a webhook.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Backlog {
    /// Age of the oldest notice that is not delivered; zero without one.
    pub oldest: Duration,
    /// Notices that are not delivered. (Behind one that fails, those are counted too that are for others.)
    pub notices: u64,
}

/// Is told of deliveries.
pub trait DeliveryObserver: Send + Sync {
    /// A request ended so.
    fn delivered(&self, webhook: &str, outcome: Outcome);
    /// So many notices will never be delivered.
    fn undelivered(&self, webhook: &str, count: u64);
    /// What waits; `None` where another replica knows.
    fn backlog(&self, webhook: &str, backlog: Option<Backlog>);
}

/// What delivering needs.
#[derive(Clone)]
pub struct Ports {
    /// Has the notices, and how far each webhook is.
    pub repository: Arc<Repository>,
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// Runs requests that take their time.
    pub tasks: Arc<dyn Tasks>,
    /// Is told of deliveries.
    pub observer: Arc<dyn DeliveryObserver>,
    /// Ends requests under way: a stop waits for no webhook.
    pub stop: CancellationToken,
}

/// Deliveries to all webhooks.
pub struct Deliveries {
    pub(super) ports: Ports,
    nonce: LeaseNonce,
    feed: Arc<Feed>,
    webhooks: ArcSwap<Vec<Arc<Webhook>>>,
    /// Monotonic milliseconds until which the lease is surely ours; 0 if it is not.
    ours_until: AtomicU64,
    /// Monotonic time at which the lease was asked for last.
    asked_at: Mutex<Option<Duration>>,
    under_way: Mutex<BTreeSet<String>>,
    /// Webhooks that are tried at once, whatever went before.
    anew: Mutex<BTreeSet<String>>,
    /// Webhooks for which there is nothing to do: behind this last place, until then.
    quiet: Mutex<BTreeMap<String, (u64, Option<Timestamp>)>>,
    /// What waited when a webhook was last worked for.
    waiting: Mutex<BTreeMap<String, Waiting>>,
}

/// When the oldest notice that waits was written, and how many wait.
#[derive(Clone, Copy, Default)]
struct Waiting {
    oldest: Option<Timestamp>,
    notices: u64,
}

impl Deliveries {
    /// Deliveries without a webhook, and the feed of this process's streams.
    pub fn new(ports: Ports, nonce: LeaseNonce, feed: Arc<Feed>) -> Self {
        Deliveries {
            ports,
            nonce,
            feed,
            webhooks: ArcSwap::default(),
            ours_until: AtomicU64::new(0),
            asked_at: Mutex::default(),
            under_way: Mutex::default(),
            anew: Mutex::default(),
            quiet: Mutex::default(),
            waiting: Mutex::default(),
        }
    }

    /// The webhooks in force.
    pub fn webhooks(&self) -> Arc<Vec<Arc<Webhook>>> {
        self.webhooks.load_full()
    }

    /// Puts other webhooks in force. Each succeeds the one of its name: also for work that is under way,
    /// whose next request is the new one's. That is sent at once: what was wrong may be mended.
    pub fn replace(&self, webhooks: Vec<Arc<Webhook>>) {
        let (before, now) = (self.webhooks.load_full(), self.ports.clock.now());
        for webhook in &webhooks {
            if let Some(before) = before.iter().find(|before| before.name() == webhook.name()) {
                webhook.succeed(before, now);
            }
        }
        *self.anew.lock() = webhooks.iter().map(|webhook| webhook.name().to_owned()).collect();
        self.webhooks.store(Arc::new(webhooks));
        self.quiet.lock().clear();
        for gone in before.iter().filter(|one| self.webhook(one.name()).is_none()) {
            self.ports.observer.backlog(gone.name(), None);
            self.waiting.lock().remove(gone.name());
        }
    }

    /// The webhook of this name that is in force now.
    fn webhook(&self, name: &str) -> Option<Arc<Webhook>> {
        self.webhooks.load().iter().find(|webhook| webhook.name() == name).cloned()
    }

    /// One round, a second after the last: streams learn what is new; and who has the lease puts notices into
    /// their order and begins what is to be delivered. It waits for no webhook.
    ///
    /// # Errors
    /// The store's. The next round goes on where this one ended.
    pub async fn round(self: &Arc<Self>) -> Result<(), StoreError> {
        let done = self.round_of_all().await;
        self.tell_backlogs(self.has_lease());
        done
    }

    async fn round_of_all(self: &Arc<Self>) -> Result<(), StoreError> {
        let is_ours = self.holds_lease().await?;
        let gathered = if is_ours { self.gather().await } else { Ok(()) };
        let looked = self.feed.look().await;
        let begun = if is_ours { self.begin().await } else { Ok(()) };
        gathered.and(looked).and(begun)
    }

    /// Tells what waits: in each round, for it grows older while nothing is tried.
    fn tell_backlogs(&self, is_ours: bool) {
        let (now, waiting) = (self.ports.clock.now(), self.waiting.lock());
        for webhook in self.webhooks.load().iter() {
            let known = waiting.get(webhook.name()).filter(|_| is_ours);
            let backlog = known.map(|waiting| Backlog {
                oldest: waiting.oldest.map_or(Duration::ZERO, |at| now.since(at)),
                notices: waiting.notices,
            });
            self.ports.observer.backlog(webhook.name(), backlog);
        }
    }

    async fn gather(&self) -> Result<(), StoreError> {
        for _ in 0..MOST_GATHERED {
            if !self.ports.repository.gather_notices(self.nonce).await?.more {
                break;
            }
        }
        Ok(())
    }

    /// Begins the work for each webhook that has something to do and is not worked for.
    async fn begin(self: &Arc<Self>) -> Result<(), StoreError> {
        let webhooks = self.webhooks.load_full();
        if webhooks.is_empty() {
            return Ok(());
        }
        let (last, now) = (self.ports.repository.notices(END, 1).await?.last, self.ports.clock.now());
        for webhook in webhooks.iter() {
            let quiet = self.quiet.lock().get(webhook.name()).copied();
            let is_quiet =
                quiet.is_some_and(|(behind, until)| behind == last && until.is_none_or(|until| now < until));
            if is_quiet || !self.under_way.lock().insert(webhook.name().to_owned()) {
                continue;
            }
            let (deliveries, name) = (Arc::clone(self), webhook.name().to_owned());
            let work = async move {
                let turn = Turn { deliveries: &deliveries, name: &name };
                let worked = tokio::select! {
                    worked = deliveries.work(&name, last) => worked,
                    () = deliveries.ports.stop.cancelled() => Ok(()),
                };
                if let Err(error) = worked {
                    tracing::debug!(webhook = name, %error, "notices could not be delivered");
                }
                drop(turn);
            };
            self.ports.tasks.spawn("deliver to a webhook", Box::pin(work));
        }
        Ok(())
    }

    /// Delivers what is due at one webhook.
    async fn work(&self, name: &str, last: u64) -> Result<(), RepositoryError> {
        let Ports { repository, clock, observer, .. } = &self.ports;
        let Some(webhook) = self.webhook(name) else { return Ok(()) };
        let filed = FiledUnder::webhook(name);
        let Kept { mut taken, is_lost } =
            repository.kept::<Progress>(Kind::Webhook, &filed, "how far a webhook is delivered").await?;
        let mut progress = match &taken {
            Some(taken) if !is_lost => taken.value.clone(),
            // Nobody knows what was delivered: all that is kept is, once more.
            Some(_) => Progress::new(self.first_kept().await?, Timestamp::default()),
            None => Progress::new(self.first_kept().await?, webhook.since()),
        };
        self.check_place(name, &mut progress, last).await?;
        if self.anew.lock().remove(name) {
            progress.try_at_once(clock.now());
        }
        let mut page: Vec<(u64, Notice)> = Vec::new();
        let mut wakes_at = None;
        let mut is_done = false;
        for _ in 0..MOST_DELIVERED {
            if !self.has_lease() {
                return Ok(());
            }
            // (A reload may have put another in its place, or none.)
            let Some(webhook) = self.webhook(name) else { break };
            let now = clock.now();
            page.retain(|(place, _)| *place > progress.through);
            if page.is_empty() {
                page = repository.notices(progress.through, PAGE).await?.notices;
            }
            let (place, notice) = match progress.next(&page, now, |notice| webhook.wants(notice)) {
                Step::Try(place) => {
                    let found = page.iter().find(|(at, _)| *at == place);
                    (place, found.expect("it is on the page").1.clone())
                }
                Step::TryAside(place) => {
                    let Some(notice) = self.kept_at(place).await?.filter(|notice| !notice.is_over(now))
                    else {
                        progress.give_up_aside(place);
                        continue;
                    };
                    if !webhook.wants(&notice) {
                        progress.drop_aside(place);
                        continue;
                    }
                    (place, notice)
                }
                Step::ReadOn => continue,
                Step::Wait(until) => {
                    (wakes_at, is_done) = (until, true);
                    break;
                }
            };
            let Some(answered) = webhook.deliver(&notice, clock).await else {
                // What is over meanwhile is counted then.
                (wakes_at, is_done) = (Some(now.plus(LEFT_OUT_AGAIN)), true);
                break;
            };
            let failures = progress.failures();
            progress.tried(place, &notice, answered.tried, &answered.why, clock.now());
            observer.delivered(name, answered.outcome);
            say(name, answered.tried, failures, &progress, &answered.why);
            let Some(next) = self.write(name, taken.as_ref(), &mut progress).await? else { return Ok(()) };
            taken = Some(next);
        }
        let is_old = clock.now().since(progress.written_at) >= WRITE_AGAIN;
        if (is_old || taken.as_ref().is_none_or(|taken| taken.value != progress))
            && self.write(name, taken.as_ref(), &mut progress).await?.is_none()
        {
            return Ok(());
        }
        let Some(webhook) = self.webhook(name) else { return Ok(()) };
        let first = page.iter().find(|(place, notice)| *place > progress.through && webhook.wants(notice));
        let mut oldest = first.map(|(_, notice)| notice.at);
        if let Some(place) = progress.first_aside() {
            oldest = self.kept_at(place).await?.map(|notice| notice.at).or(oldest);
        }
        let behind = if first.is_some() { last.saturating_sub(progress.through) } else { 0 };
        let notices = behind.saturating_add(progress.aside() as u64);
        self.waiting.lock().insert(name.to_owned(), Waiting { oldest, notices });
        if is_done {
            self.quiet.lock().insert(name.to_owned(), (last, wakes_at));
        }
        Ok(())
    }

    /// Begins again if the store lost writes: another notice has the place up to which all was delivered.
    async fn check_place(
        &self,
        webhook: &str,
        progress: &mut Progress,
        last: u64,
    ) -> Result<(), RepositoryError> {
        let repository = &self.ports.repository;
        let is_there = match &progress.through_id {
            Some(id) => repository.place_of_notice(id).await? == Some(progress.through),
            None => progress.through <= last,
        };
        if is_there {
            return Ok(());
        }
        let first = self.first_kept().await?;
        if progress.through > last || first <= progress.through {
            tracing::warn!(
                webhook,
                "the store lost notices that were delivered (a failover?); those it has are delivered again"
            );
            progress.begin_again(first);
        }
        Ok(())
    }

    /// The place of the first notice that is kept, or the place of the next one. (Some of the page may be
    /// such as cannot be read.)
    async fn first_kept(&self) -> Result<u64, RepositoryError> {
        let page = self.ports.repository.notices(0, PAGE).await?;
        Ok(page.notices.first().map_or(page.last + 1, |(place, _)| *place))
    }

    async fn kept_at(&self, place: u64) -> Result<Option<Notice>, RepositoryError> {
        let page = self.ports.repository.notices(place.saturating_sub(1), 1).await?;
        Ok(page.notices.into_iter().find(|(at, _)| *at == place).map(|(_, notice)| notice))
    }

    /// Writes how far it is, and counts what was given up with it: who goes on from what was written before
    /// counts that anew. `None` if another replica has written since.
    async fn write(
        &self,
        webhook: &str,
        taken: Option<&Taken<Progress>>,
        progress: &mut Progress,
    ) -> Result<Option<Taken<Progress>>, RepositoryError> {
        let now = self.ports.clock.now();
        progress.written_at = now;
        let (repository, filed) = (&self.ports.repository, FiledUnder::webhook(webhook));
        let next = progress.clone();
        let written = repository.replace_pending(Kind::Webhook, &filed, taken, next, now, KEPT).await?;
        let counted = taken.map_or(0, |taken| taken.value.undelivered);
        let count = progress.undelivered.saturating_sub(counted);
        if written.is_some() && count > 0 {
            self.ports.observer.undelivered(webhook, count);
            tracing::error!(
                webhook,
                count,
                "a webhook did not take notices for three days; they will not be delivered any more"
            );
        }
        Ok(written)
    }

    /// Takes or prolongs the lease, when it is time to. Returns whether it is ours.
    async fn holds_lease(&self) -> Result<bool, StoreError> {
        let now = self.ports.clock.monotonic();
        let is_fresh = self.asked_at.lock().is_some_and(|at| now.saturating_sub(at) < LEASE_AGAIN);
        if is_fresh {
            return Ok(self.has_lease());
        }
        let answer = self.ports.repository.take_lease(LeaseOf::Notices, self.nonce, LEASE).await?;
        *self.asked_at.lock() = Some(now);
        let is_ours = matches!(answer, LeaseAnswer::Mine { .. });
        // Its life counts from before the store was asked.
        let until = if is_ours { millis(now + LEASE) } else { 0 };
        if is_ours && !self.has_lease() {
            self.quiet.lock().clear();
            self.waiting.lock().clear();
        }
        self.ours_until.store(until, Ordering::Release);
        Ok(is_ours)
    }

    fn has_lease(&self) -> bool {
        millis(self.ports.clock.monotonic()) < self.ours_until.load(Ordering::Acquire)
    }
}

/// A webhook that is worked for; over when it is dropped.
struct Turn<'a> {
    deliveries: &'a Deliveries,
    name: &'a str,
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.deliveries.under_way.lock().remove(self.name);
    }
}

/// Logs failures, ever more rarely while they last, and their end.
fn say(webhook: &str, tried: Tried, before: u32, progress: &Progress, why: &str) {
    match tried {
        Tried::Taken if before > 0 => {
            tracing::info!(webhook, failures = before, "a webhook takes notices again");
        }
        Tried::Taken => {}
        Tried::Gone => tracing::warn!(
            webhook,
            "a webhook says that it is gone (410): take it out of the configuration, or mend it; it is tried \
             again each hour"
        ),
        Tried::Failed(_) if progress.failures().is_power_of_two() => {
            tracing::warn!(
                webhook,
                why,
                failures = progress.failures(),
                aside = progress.aside(),
                "a webhook does not take a notice; it is tried again, for three days"
            );
        }
        Tried::Failed(_) => {}
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests;
