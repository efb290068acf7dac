//! What the simulated store holds, and how each operation changes it: by the rules of every store
//! (`store/rules.rs`), but for what a mutant gets wrong.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::domain::connection::SignIn;
use crate::domain::id::{AppName, ConnectionKey, ConnectionName};
use crate::domain::notice::Notice;
use crate::domain::time::Timestamp;
use crate::store::rules::{self, Found, Intent, Known, Swap};
use crate::store::{
    Committed, ConnectionPage, Deleted, Due, Floor, LOWEST_FLOOR, LeaseAnswer, LeaseNonce, LeaseOf, MAX_PAGE,
    NoticePage, RecordOf, Revision, SEALED_HEAD, SealedPage, SealedRecord, StoredConnection, StoredProfile,
    Writer,
};
use crate::testkit::faults::Mutant;
use crate::testkit::schedule::Schedule;

#[derive(Clone, Default)]
pub(super) struct Data {
    pub(super) connections: BTreeMap<ConnectionKey, StoredConnection>,
    pub(super) leases: rules::Leases<LeaseKey>,
    pub(super) intents: BTreeMap<LeaseKey, Intent>,
    pub(super) schedule: Schedule,
    pub(super) floors: BTreeMap<ConnectionKey, Floor>,
    pub(super) pending: BTreeMap<String, (Vec<u8>, Duration)>,
    /// In their order, from place 1 on. The world is too young to forget any.
    pub(super) notices: Vec<Notice>,
}

#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum LeaseKey {
    Connection(ConnectionKey),
    Sweep(u8),
    Rewrap,
    Notices,
}

impl LeaseKey {
    pub(super) fn of(of: LeaseOf<'_>) -> Self {
        match of {
            LeaseOf::Connection(key) => LeaseKey::Connection(key.clone()),
            LeaseOf::Sweep(shard) => LeaseKey::Sweep(shard),
            LeaseOf::Rewrap => LeaseKey::Rewrap,
            LeaseOf::Notices => LeaseKey::Notices,
        }
    }
}

#[derive(Clone)]
pub(super) enum Op {
    Ping,
    Load(ConnectionKey),
    Commit {
        key: ConnectionKey,
        expected: Option<Revision>,
        connection: StoredConnection,
        writer: Writer,
    },
    Take {
        of: LeaseKey,
        nonce: LeaseNonce,
        ttl: Duration,
    },
    Extend {
        of: LeaseKey,
        nonce: LeaseNonce,
        ttl: Duration,
    },
    Release {
        of: LeaseKey,
        nonce: LeaseNonce,
        settled: bool,
    },
    Schedule(ConnectionKey, Option<Timestamp>),
    MarkUsed(ConnectionKey, Timestamp),
    Due {
        shard: u8,
        until: Timestamp,
        limit: usize,
    },
    Floor(ConnectionKey),
    Delete(ConnectionKey, SignIn, bool, Option<Notice>),
    Profiles(Vec<ConnectionKey>),
    List {
        app: AppName,
        prefix: String,
        after: Option<ConnectionName>,
        limit: usize,
    },
    PutPending {
        id: String,
        sealed: Vec<u8>,
        ttl: Duration,
    },
    Pending(String),
    TakePending(String),
    SwapPending {
        id: String,
        expected: Option<Vec<u8>>,
        sealed: Vec<u8>,
        ttl: Duration,
        notices: Vec<Notice>,
    },
    Notices {
        after: u64,
        limit: usize,
    },
    PlaceOf(String),
    Sealed {
        after: Option<usize>,
        limit: usize,
    },
    Reseal {
        key: ConnectionKey,
        before: StoredConnection,
        after: StoredConnection,
    },
    ResealPending {
        id: String,
        before: Vec<u8>,
        after: Vec<u8>,
    },
}

impl Op {
    pub(super) fn writes(&self) -> bool {
        !matches!(
            self,
            Op::Ping
                | Op::Load(_)
                | Op::Floor(_)
                | Op::Due { .. }
                | Op::Profiles(_)
                | Op::List { .. }
                | Op::Pending(_)
                | Op::Notices { .. }
                | Op::PlaceOf(_)
                | Op::Sealed { .. }
        )
    }

    /// Those whose loss anybody could notice.
    pub(super) fn key(&self) -> Option<&ConnectionKey> {
        match self {
            Op::Commit { key, .. } | Op::Delete(key, ..) => Some(key),
            Op::Take { of: LeaseKey::Connection(key), .. }
            | Op::Extend { of: LeaseKey::Connection(key), .. } => Some(key),
            Op::Release { of: LeaseKey::Connection(key), .. } => Some(key),
            _ => None,
        }
    }

    /// Whether it is about pending records of this kind.
    pub(super) fn is_about(&self, kind: &str) -> bool {
        matches!(self, Op::Pending(id) | Op::PutPending { id, .. } if id.starts_with(kind))
    }

    /// Whether the network may bring it a second time when it was answered long ago. What is kept or taken
    /// whatever is there would be so again: a client must not leave such a one behind, and this one does not.
    pub(super) fn may_come_late(&self) -> bool {
        !matches!(self, Op::PutPending { .. } | Op::TakePending(_))
    }
}

impl Mutant {
    /// Whether a run has a chance to notice it only when this comes twice.
    pub(super) fn is_shown_by_repeating(self, op: &Op) -> bool {
        match self {
            Mutant::DeletesWhatever => matches!(op, Op::Delete(..)),
            _ => false,
        }
    }
}

pub(super) enum Reply {
    Nothing,
    Connection(Option<StoredConnection>),
    Committed(Committed),
    Lease(LeaseAnswer),
    Yes(bool),
    Floor(Floor),
    Deleted(Deleted),
    Due(Vec<Due>),
    Profiles(Vec<Option<StoredProfile>>),
    Page(ConnectionPage),
    Sealed(SealedPage),
    Notices(NoticePage),
    Place(Option<u64>),
    Bytes(Option<Vec<u8>>),
    /// Not now.
    Refused,
}

impl Data {
    pub(super) fn stored(&self, key: &ConnectionKey) -> Option<Revision> {
        self.connections.get(key).map(|stored| stored.revision)
    }

    pub(super) fn floor(&self, key: &ConnectionKey) -> Floor {
        self.floors.get(key).copied().unwrap_or(LOWEST_FLOOR)
    }

    pub(super) fn commit(
        &mut self,
        key: &ConnectionKey,
        expected: Option<Revision>,
        connection: &StoredConnection,
        writer: Writer,
        now: Duration,
        mutant: Mutant,
    ) -> Committed {
        let of = LeaseKey::Connection(key.clone());
        let (stored, holder) = (self.stored(key), self.leases.holder(&of, now));
        let ours = holder.filter(|holder| Some(*holder) == writer.lease());
        let holder = if mutant == Mutant::CommitIgnoresLease { ours } else { holder };
        let expected = if mutant == Mutant::CommitIgnoresRevision { stored } else { expected };
        let known = Known { stored, holder, floor: self.floor(key) };
        let (answer, stores) = rules::commit(&known, expected, &connection.revision, writer);
        let forgets = mutant == Mutant::ForgetsCommits && connection.revision.nonce[0] < 32;
        if let Some(stores) = stores.filter(|_| !forgets) {
            let stored = StoredConnection { notice: None, ..connection.clone() };
            self.connections.insert(key.clone(), stored);
            self.tell(connection.notice.as_deref(), mutant);
            if let Some(nonce) = ours.filter(|_| stores.gives_lease_back) {
                self.leases.release(&of, nonce, now);
            }
            if self.intents.get(&of).is_some_and(|intent| stores.settles(intent)) {
                self.intents.remove(&of);
            }
        }
        answer
    }

    pub(super) fn take(
        &mut self,
        of: &LeaseKey,
        nonce: LeaseNonce,
        ttl: Duration,
        now: Duration,
        mutant: Mutant,
    ) -> LeaseAnswer {
        if mutant == Mutant::LeaseForEveryone
            && let Some(holder) = self.leases.holder(of, now)
        {
            self.leases.release(of, holder, now);
        }
        if let Err(left) = self.leases.take(of.clone(), nonce, ttl, now) {
            return LeaseAnswer::Theirs { left };
        }
        let stored = match of {
            LeaseKey::Connection(key) => self.stored(key),
            LeaseKey::Sweep(_) | LeaseKey::Rewrap | LeaseKey::Notices => None,
        };
        let about = stored.map(|stored| stored.sign_in).unwrap_or_default();
        let intent = Intent::after(self.intents.get(of).copied(), nonce, about);
        self.intents.insert(of.clone(), intent);
        LeaseAnswer::Mine { unsettled: intent.unsettled, stored }
    }

    /// Gives a notice its place, unless it has one.
    pub(super) fn tell(&mut self, notice: Option<&Notice>, mutant: Mutant) {
        let Some(notice) = notice else { return };
        if mutant == Mutant::ForgetsNotices && notice.id.starts_with(|first: char| first.is_ascii_digit()) {
            return;
        }
        if !self.notices.iter().any(|known| known.id == notice.id) {
            self.notices.push(notice.clone());
        }
    }

    pub(super) fn delete(
        &mut self,
        key: &ConnectionKey,
        (meant, cuts_off): (SignIn, bool),
        notice: Option<&Notice>,
        now: Duration,
        mutant: Mutant,
    ) -> Deleted {
        if mutant == Mutant::KeepsDeleted {
            return Deleted::Gone;
        }
        let of = LeaseKey::Connection(key.clone());
        let stored = self.stored(key);
        let there = stored.map(|stored| stored.sign_in);
        let meant = there.filter(|_| mutant == Mutant::DeletesWhatever).unwrap_or(meant);
        let found = stored.map_or(Found::Nothing, Found::Revision);
        let is_leased = self.leases.holder(&of, now).is_some();
        let (answer, destroys) = rules::delete(found, is_leased, self.floor(key), meant, cuts_off);
        if let Some(destroys) = destroys {
            self.floors.insert(key.clone(), destroys.floor);
            if self.connections.remove(key).is_some() {
                self.schedule.remove(key);
                self.tell(notice, mutant);
            }
            if destroys.settles {
                self.intents.remove(&of);
            }
        }
        answer
    }

    pub(super) fn waiting(&self, id: &str, now: Duration) -> Option<&Vec<u8>> {
        self.pending.get(id).filter(|(_, until)| *until > now).map(|(sealed, _)| sealed)
    }

    /// Everything, from the record of this number on.
    pub(super) fn sealed(&self, first: usize, limit: usize, now: Duration) -> SealedPage {
        let head = |sealed: &[u8]| sealed[..sealed.len().min(SEALED_HEAD)].to_vec();
        let connections = self.connections.iter().map(|(key, stored)| SealedRecord {
            of: RecordOf::Connection(key.clone()),
            head: head(&stored.profile),
        });
        let pending = self.pending.iter().filter(|(_, (_, until))| *until > now);
        let pending = pending
            .map(|(id, (sealed, _))| SealedRecord { of: RecordOf::Pending(id.clone()), head: head(sealed) });
        let records: Vec<_> = connections.chain(pending).skip(first).take(limit).collect();
        let next = (records.len() == limit).then(|| (first + limit).to_string());
        SealedPage { records, next }
    }

    pub(super) fn apply(&mut self, op: &Op, now: Duration, mutant: Mutant) -> Reply {
        match op {
            Op::Ping => Reply::Nothing,
            Op::Load(key) => Reply::Connection(self.connections.get(key).cloned()),
            Op::Commit { key, expected, connection, writer } => {
                Reply::Committed(self.commit(key, *expected, connection, *writer, now, mutant))
            }
            Op::Take { of, nonce, ttl } => Reply::Lease(self.take(of, *nonce, *ttl, now, mutant)),
            Op::Extend { of, nonce, ttl } => Reply::Yes(self.leases.extend(of.clone(), *nonce, *ttl, now)),
            Op::Release { of, nonce, settled } => {
                if *settled && self.intents.get(of).is_some_and(|intent| intent.is_settled_by(*nonce)) {
                    self.intents.remove(of);
                }
                self.leases.release(of, *nonce, now);
                Reply::Nothing
            }
            Op::Schedule(key, due_at) => {
                self.schedule.set(key, *due_at);
                Reply::Nothing
            }
            Op::MarkUsed(key, at) => {
                self.schedule.mark_used(key, *at);
                Reply::Nothing
            }
            Op::Due { shard, until, limit } => {
                Reply::Due(self.schedule.due(*shard, *until, *limit.min(&MAX_PAGE)))
            }
            Op::Floor(key) => Reply::Floor(self.floor(key)),
            Op::Delete(key, meant, cuts_off, notice) => {
                Reply::Deleted(self.delete(key, (*meant, *cuts_off), notice.as_ref(), now, mutant))
            }
            Op::Profiles(keys) => {
                let profile = |key| self.connections.get(key).cloned().map(StoredProfile::from);
                Reply::Profiles(keys.iter().map(profile).collect())
            }
            Op::List { app, prefix, after, limit } => {
                let limit = *limit.min(&MAX_PAGE);
                let mut found = self
                    .connections
                    .iter()
                    .filter(|(key, _)| {
                        key.app == *app && key.connection.as_str().starts_with(prefix.as_str())
                    })
                    .filter(|(key, _)| {
                        after.as_ref().is_none_or(|after| key.connection.as_str() > after.as_str())
                    })
                    .map(|(key, stored)| (key.connection.clone(), stored.clone().into()));
                let connections: Vec<_> = found.by_ref().take(limit).collect();
                let next = found.next().and(connections.last()).map(|(name, _)| name.clone());
                Reply::Page(ConnectionPage { connections, next })
            }
            Op::PutPending { id, sealed, ttl } => {
                self.pending.insert(id.clone(), (sealed.clone(), now + *ttl));
                Reply::Nothing
            }
            Op::Pending(id) => Reply::Bytes(self.waiting(id, now).cloned()),
            Op::TakePending(id) => {
                let taken = self.waiting(id, now).cloned();
                self.pending.remove(id);
                Reply::Bytes(taken)
            }
            Op::SwapPending { id, expected, sealed, ttl, notices } => {
                let swap = Swap::of(self.waiting(id, now), expected.as_ref(), sealed);
                if swap == Swap::Write {
                    self.pending.insert(id.clone(), (sealed.clone(), now + *ttl));
                    notices.iter().for_each(|notice| self.tell(Some(notice), mutant));
                }
                Reply::Yes(swap.is_done())
            }
            Op::Notices { after, limit } => {
                let places = (1_u64..).zip(&self.notices);
                let behind = places.filter(|(place, _)| place > after).take(*limit.min(&MAX_PAGE));
                let notices = behind.map(|(place, notice)| (place, notice.clone())).collect();
                Reply::Notices(NoticePage { notices, last: self.notices.len() as u64 })
            }
            Op::PlaceOf(id) => {
                let place = (1_u64..).zip(&self.notices).find(|(_, notice)| notice.id == *id);
                Reply::Place(place.map(|(place, _)| place))
            }
            Op::Sealed { after, limit } => Reply::Sealed(self.sealed(after.unwrap_or(0), *limit, now)),
            Op::Reseal { key, before, after } => {
                let swap = Swap::of(self.connections.get(key), Some(before), after);
                if swap == Swap::Write {
                    self.connections.insert(key.clone(), after.clone());
                }
                Reply::Yes(swap.is_done())
            }
            Op::ResealPending { id, before, after } => {
                let swap = Swap::of(self.waiting(id, now), Some(before), after);
                if let (Swap::Write, Some((sealed, _))) = (swap, self.pending.get_mut(id)) {
                    sealed.clone_from(after);
                }
                Reply::Yes(swap.is_done())
            }
        }
    }
}

/// What a store says that forgets intents, or what it was asked to tell others.
pub(super) fn wrong(mutant: Mutant, op: &Op, reply: Reply) -> Reply {
    match reply {
        Reply::Lease(LeaseAnswer::Mine { stored, .. }) if mutant == Mutant::IntentIsForgotten => {
            Reply::Lease(LeaseAnswer::Mine { unsettled: false, stored })
        }
        Reply::Bytes(_) if mutant == Mutant::HoldsAreForgotten && op.is_about("hold:") => Reply::Bytes(None),
        reply => reply,
    }
}
