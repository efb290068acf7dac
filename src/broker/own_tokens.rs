//! Tenants in which an app gets no token of its own: what this replica saw of them and has not told the store
//! yet. `tenant_blocks.rs` tells it, in one record and one step with what is seen of the tenants'
//! connections.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use arc_swap::ArcSwap;
use parking_lot::Mutex;

use super::app_notices::turn;
use super::{Broker, Refusal};
use crate::domain::id::AppName;
use crate::domain::notice::{Notice, NoticeKind};
use crate::domain::own_tokens::{MOST_TENANTS, News, OwnToken, Refusals, Seen};
use crate::domain::tenant_block::Blocks;
use crate::domain::time::Timestamp;
use crate::refresh::{AppTokenKey, Failure, NoAppToken, ServedAppToken};

/// See above.
#[derive(Default)]
pub(super) struct OwnTokens {
    /// As the store last said.
    known: ArcSwap<Refusals>,
    untold: Mutex<News>,
    /// The last failure of each: whoever asks again soon is answered by the same one, which is no news.
    failures: Mutex<BTreeMap<OwnToken, Arc<Failure>>>,
}

impl OwnTokens {
    /// Notes what became of a request, if that is news.
    pub(super) fn note(
        &self,
        key: &AppTokenKey,
        outcome: &Result<ServedAppToken, NoAppToken>,
        now: Timestamp,
    ) {
        let Some(tenant) = &key.tenant else { return };
        let of = || {
            let resource = key.resource.as_ref().map(ToString::to_string).unwrap_or_default();
            (key.app.clone(), tenant.clone(), resource)
        };
        let (of, seen) = match outcome {
            Ok(_) if self.known.load().is_empty() && self.untold.lock().is_empty() => return,
            Ok(served) => (of(), Seen::Worked(served.token.issued_at)),
            Err(NoAppToken::Failed(failure)) => {
                let of = of();
                let Refusal::TenantBlocked { reason, .. } = Refusal::of_app_failure(failure) else { return };
                if !self.is_first(&of, failure) {
                    return;
                }
                (of, Seen::Refused(now, reason))
            }
            Err(NoAppToken::NoApp | NoAppToken::Store) => return,
        };
        let mut untold = self.untold.lock();
        let is_after = match (untold.get(&of), seen) {
            (Some(Seen::Refused(at, _)), Seen::Worked(asked_at)) => asked_at > *at,
            _ => true,
        };
        if !is_after {
            return;
        }
        if !self.known.load().is_news(&of, seen) {
            // What was not told is over.
            untold.remove(&of);
        } else if untold.len() < MOST_TENANTS || untold.contains_key(&of) {
            untold.insert(of, seen);
        }
    }

    fn is_first(&self, of: &OwnToken, failure: &Arc<Failure>) -> bool {
        let mut failures = self.failures.lock();
        if failures.get(of).is_some_and(|before| Arc::ptr_eq(before, failure)) {
            return false;
        }
        if failures.len() >= MOST_TENANTS {
            failures.clear();
        }
        failures.insert(of.clone(), Arc::clone(failure));
        true
    }

    /// What the store has not been told.
    pub(super) fn untold(&self) -> News {
        self.untold.lock().clone()
    }

    /// Learns what the store has. What it has need not be told any more.
    pub(super) fn learn(&self, stored: &Refusals) {
        if *self.known.load_full() != *stored {
            self.known.store(Arc::new(stored.clone()));
        }
        self.untold.lock().retain(|of, seen| stored.is_news(of, *seen));
    }
}

impl Broker {
    /// The notices of a change of the record: of tenants that block the app now and did not before, and the
    /// other way round. (One without a name is the authority itself, which has no tenants.)
    pub(super) fn notices_of_tenants(&self, before: &Blocks, after: &Blocks, now: Timestamp) -> Vec<Notice> {
        let closed = |blocks: &Blocks| -> BTreeSet<(String, String)> {
            let connections = blocks.all().map(|(app, tenant, _)| (app, tenant));
            let all = connections.chain(blocks.own.all()).filter(|(_, tenant)| !tenant.is_empty());
            all.map(|(app, tenant)| (app.to_owned(), tenant.to_owned())).collect()
        };
        let (before, after) = (closed(before), closed(after));
        let notice = |kind, (app, tenant): &(String, String)| {
            let app = AppName::parse(app).ok()?;
            let turn = turn(self.deps.random.as_ref());
            Some(Notice::of_app(&app, kind, Some(tenant), &turn, now))
        };
        let blocked = after.difference(&before).filter_map(|one| notice(NoticeKind::TenantBlocked, one));
        let over = before.difference(&after).filter_map(|one| notice(NoticeKind::TenantRecovered, one));
        blocked.chain(over).collect()
    }
}
