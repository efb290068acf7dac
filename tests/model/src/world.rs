//! The state of the world: the store, the authority, the replicas, and everything in transit between them.
//!
//! Fields marked *ghost* are for the properties only; no replica reads them.

use crate::setup::{Budget, Setup};

/// A lease's random nonce. A number is reused once nothing refers to it, unlike a random nonce: only the
/// equality of two nonces matters, so runs that differ in names are one.
pub type Nonce = u8;

/// No lease's nonce.
pub const NOBODY: Nonce = 0;

/// A refresh token, marked by the authority with its family (one sign-in of one user) and its number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RefreshToken {
    /// Its sign-in, and the incarnation of its record.
    pub family: u8,
    /// Its number within the family. The access token in the same answer has the same number.
    pub number: u8,
}

/// A record's revision: a counter, and the parts that tell revisions with the same counter apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Revision {
    /// The generation counter.
    pub counter: u8,
    /// The refresh token in the record; no two answers have the same.
    pub token: RefreshToken,
    /// The nonce of the verdict's flight; [`NOBODY`] for other records.
    pub verdict: Nonce,
}

/// The record of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Record {
    /// Its revision.
    pub revision: Revision,
    /// Number of its sign-in, within the connection.
    pub sign_in: u8,
    /// Number of renewals of this sign-in before it. No verdict raises it, unlike the revision's counter, so
    /// it says which of two grants came first.
    pub renewals: u8,
    /// Its refresh token.
    pub token: RefreshToken,
    /// When its access token was issued.
    pub issued: u8,
    /// True if the user must sign in again.
    pub dead: bool,
}

/// The sign-in that something descends from. The store may lose one and reuse its number, so the number alone
/// is not enough; the family stands for the random part.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SignIn {
    /// Its number.
    pub number: u8,
    /// Tells it from others with the same number.
    pub family: u8,
}

impl SignIn {
    /// Returns true if the end of this sign-in also ends the other.
    pub fn includes(&self, other: &SignIn) -> bool {
        other == self || other.number < self.number
    }
}

/// A record's place among those of its connection: by sign-in (of two with one number, the later), then by
/// grant, then by revision.
pub type Generation = (SignIn, u8, u8);

impl Record {
    /// Its place.
    pub fn generation(&self) -> Generation {
        (self.which_sign_in(), self.renewals, self.revision.counter)
    }

    /// Its sign-in.
    pub fn which_sign_in(&self) -> SignIn {
        SignIn { number: self.sign_in, family: self.token.family }
    }

    /// Returns true if a fallback of the store led from `other` to this record.
    pub fn is_before(&self, other: &Record) -> bool {
        self.generation() < other.generation()
    }
}

/// Why a record is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Purpose {
    /// The answer of a refresh.
    Renewal,
    /// The authority's verdict.
    Verdict,
    /// A sign-in.
    Connect,
    /// A record that the store has had and lost.
    Republish,
}

/// A sealed record on its way to the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Commit {
    /// The revision it replaces.
    pub expected: Option<Revision>,
    /// The absence that it replaces, if it expects no record.
    pub tombstone: u8,
    /// What is to be stored.
    pub record: Record,
    /// The refresh token that the authority was asked with.
    pub used: Option<RefreshToken>,
    /// The lease under which it was made.
    pub nonce: Nonce,
    /// Number of that lease, if leases are numbered ([`crate::Bug::CounterFence`]).
    pub fence: u8,
    /// Reason for the write.
    pub purpose: Purpose,
}

/// A lease on a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Lease {
    /// Its holder.
    pub nonce: Nonce,
    /// Its number, if leases are numbered.
    pub fence: u8,
}

/// The note that a holder has begun a call and has not reported its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Intent {
    /// Its holder.
    pub nonce: Nonce,
    /// The refresh token that was current. The store knows its sign-in; its number is a *ghost*.
    pub about: Option<RefreshToken>,
}

/// The store's data for one connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Cell {
    /// The record.
    pub record: Option<Record>,
    /// The lease, until it runs out.
    pub lease: Option<Lease>,
    /// The intent, until its outcome is known.
    pub intent: Option<Intent>,
    /// Number of the last lease, if leases are numbered.
    pub fence: u8,
    /// The last deleted sign-in: the revision of a record's absence.
    pub tombstone: u8,
}

/// A write that a failover may drop.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Undo {
    /// The changed connection.
    pub connection: u8,
    /// The state before.
    pub before: Cell,
    /// *Ghost*: true if its sender got an acknowledgement.
    pub acknowledged: bool,
}

/// A request to the store that changes something.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Write {
    /// Take the lease and leave the intent.
    Take(Nonce),
    /// Give the lease back.
    Release {
        /// Its holder.
        nonce: Nonce,
        /// True if the intent goes too.
        settled: bool,
    },
    /// Replace the record.
    Commit(Commit),
    /// Remove what descends from this sign-in.
    Delete(SignIn),
}

/// One sign-in at the authority.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Family {
    /// Its connection.
    pub connection: u8,
    /// The number of its newest refresh token.
    pub newest: u8,
    /// Whether the authority has ended it.
    pub killed: bool,
    /// *Ghost*: bit n is set if answer n was committed (and acknowledged) or journaled.
    pub durable: u8,
    /// *Ghost*: bit n is set if answer n has been in the store, acknowledged or not.
    pub stored: u8,
    /// *Ghost*: true if the connection was deleted or signed in anew, so that nobody needs it any more.
    pub closed: bool,
    /// *Ghost*: true if its deletion was acknowledged.
    pub deleted: bool,
}

/// A flight's state: its next step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Phase {
    /// Nothing is under way.
    Idle,
    /// Told "theirs", and waits only for a message ([`crate::Bug::WaitsForMessage`]).
    Deaf,
    /// Has read the record, and requests the lease next. The record is used only by
    /// [`crate::Bug::NoReloadUnderLease`].
    Take(Record),
    /// Has the lease and loads next.
    Load {
        /// The lease.
        nonce: Nonce,
        /// Whether there was an intent.
        unsettled: bool,
        /// What it saw before it had the lease.
        before: Record,
    },
    /// Has loaded and calls next.
    Ready(Call),
    /// The request is on its way to the authority.
    Calling(Call),
    /// The answer is on its way back.
    Answered(Call, Answer),
    /// Offers what is unstored.
    Offer,
    /// Has compared and writes next ([`crate::Bug::CheckThenSet`] only).
    Set(Commit),
    /// Another's commit came first: reads it next.
    Overtaken,
    /// Offers the verdict.
    Judge(Commit),
    /// Offers a record that the store has had and lost.
    Republish(Commit),
    /// Writes its journal.
    Journal,
    /// Gives the lease back.
    Release {
        /// The lease.
        nonce: Nonce,
        /// Whether the outcome is known.
        settled: bool,
    },
}

/// One call to the authority.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Call {
    /// The lease it is made under.
    pub nonce: Nonce,
    /// That lease's number, where leases are numbered.
    pub fence: u8,
    /// Whether there was an intent.
    pub unsettled: bool,
    /// *Ghost*: true if it is the last resort: nobody knows how the last use ended, and no access token
    /// lives.
    pub resort: bool,
    /// The record it was begun with.
    pub base: Record,
}

/// What the authority answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Answer {
    /// New tokens.
    Tokens {
        /// The refresh token.
        token: RefreshToken,
        /// When they were issued.
        issued: u8,
    },
    /// The grant is dead.
    Verdict,
    /// Not now.
    Transient,
}

/// A replica's knowledge about one connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Slot {
    /// The cached record, which it serves.
    pub held: Option<Record>,
    /// True if it has committed that record itself.
    pub own: bool,
    /// An answer that the store has not taken.
    pub unstored: Option<Commit>,
    /// The unstored answer on disk.
    pub journal: Option<Commit>,
    /// A sign-in that the store has not taken.
    pub signing_in: Option<Commit>,
    /// True if an offer of the sign-in had no answer.
    pub sign_in_in_doubt: bool,
    /// The sign-in it deleted last, while remembered.
    pub deleted: Option<SignIn>,
    /// Its flight's state.
    pub phase: Phase,
    /// True if the flight's lease has run out or was lost. The replica learns the former from its clock, and
    /// does not learn about a failover.
    pub lost: bool,
    /// True if the lease ended by time.
    pub ran_out: bool,
    /// True if the connection was forgotten since the flight began: it must publish nothing.
    pub orphan: bool,
    /// *Ghost*: the highest generation it has cached since it last found nothing.
    pub seen: Option<Generation>,
    /// *Ghost*: bit n is set if it has read the store since family n was deleted.
    pub told: u8,
}

impl Slot {
    const EMPTY: Slot = Slot {
        held: None,
        own: false,
        unstored: None,
        journal: None,
        signing_in: None,
        sign_in_in_doubt: false,
        deleted: None,
        phase: Phase::Idle,
        lost: false,
        ran_out: false,
        orphan: false,
        seen: None,
        told: 0,
    };

    /// Returns the slot after its process died: only the journal is left, and its answer is offered again.
    pub fn after_crash(self) -> Self {
        Slot { journal: self.journal, unstored: self.journal, ..Slot::EMPTY }
    }

    /// Returns the lease of a live flight.
    pub fn lease(&self) -> Option<Nonce> {
        match self.phase {
            Phase::Load { nonce, .. } | Phase::Release { nonce, .. } => Some(nonce),
            Phase::Ready(call) | Phase::Calling(call) | Phase::Answered(call, _) => Some(call.nonce),
            Phase::Set(commit) | Phase::Judge(commit) | Phase::Republish(commit) => Some(commit.nonce),
            Phase::Offer | Phase::Overtaken => self.unstored.map(|commit| commit.nonce),
            Phase::Idle | Phase::Deaf | Phase::Take(_) | Phase::Journal => None,
        }
    }
}

/// The whole state.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct World {
    /// The store, by connection.
    pub store: Vec<Cell>,
    /// Writes that a failover may drop, oldest first.
    pub log: Vec<Undo>,
    /// The authority's sign-ins.
    pub families: Vec<Family>,
    /// The replicas, each with its slots by connection.
    pub replicas: Vec<Vec<Slot>>,
    /// Requests to the store whose sender has given up.
    pub late_writes: Vec<(u8, Write)>,
    /// Requests to the authority whose sender has given up.
    pub late_calls: Vec<RefreshToken>,
    /// What change messages would say if they said more than the key ([`crate::Bug::TrustsMessages`] only).
    pub mail: Vec<(u8, Record)>,
    /// The time, in half lives of an access token.
    pub era: u8,
    /// Remaining faults and events.
    pub left: Budget,
    /// *Ghost*: true if a failover has dropped an acknowledged write.
    pub dropped: bool,
    /// *Ghost*: violations seen in a step, as bits of [`crate::properties`].
    pub wrong: u16,
}

impl World {
    /// Makes a world with every connection signed in, its access token due, and nothing read yet.
    pub fn new(setup: &Setup) -> Self {
        let cell = |connection: u8| {
            let token = RefreshToken { family: connection, number: 0 };
            let revision = Revision { counter: 1, token, verdict: NOBODY };
            Cell {
                record: Some(Record { revision, sign_in: 1, renewals: 0, token, issued: 0, dead: false }),
                ..Cell::default()
            }
        };
        let family = |connection| Family {
            connection,
            newest: 0,
            killed: false,
            durable: 1,
            stored: 1,
            closed: false,
            deleted: false,
        };
        World {
            store: (0..setup.connections).map(cell).collect(),
            log: Vec::new(),
            families: (0..setup.connections).map(family).collect(),
            replicas: vec![vec![Slot::EMPTY; usize::from(setup.connections)]; usize::from(setup.replicas)],
            late_writes: Vec::new(),
            late_calls: Vec::new(),
            mail: Vec::new(),
            era: 1,
            left: setup.budget,
            dropped: false,
            wrong: 0,
        }
    }

    /// Whether a record's access token is due for renewal.
    pub fn is_due(&self, record: &Record) -> bool {
        self.era > record.issued
    }

    /// Whether a record's access token still lives.
    pub fn lives(&self, record: &Record) -> bool {
        self.era <= record.issued + 1
    }

    /// A nonce that nothing refers to.
    pub fn fresh_nonce(&mut self) -> Nonce {
        let mut used = 0u64;
        self.each_nonce(&mut |nonce| used |= 1 << *nonce);
        (1..64).find(|nonce| used & (1 << nonce) == 0).expect("far fewer than 64 nonces are alive at a time")
    }

    /// Makes worlds equal that differ only in names: replicas are ordered, and nonces are numbered by first
    /// mention.
    pub fn canonical(mut self) -> Self {
        self.replicas.sort_unstable();
        self.late_writes.sort_unstable();
        self.late_calls.sort_unstable();
        let mut names = [NOBODY; 64];
        let mut next = NOBODY;
        self.each_nonce(&mut |nonce| {
            if *nonce == NOBODY {
                return;
            }
            let name = &mut names[usize::from(*nonce)];
            if *name == NOBODY {
                next += 1;
                *name = next;
            }
            *nonce = *name;
        });
        self
    }

    fn each_nonce(&mut self, visit: &mut impl FnMut(&mut Nonce)) {
        for cell in &mut self.store {
            cell_nonces(cell, visit);
        }
        for slot in self.replicas.iter_mut().flatten() {
            slot.held.iter_mut().for_each(|record| visit(&mut record.revision.verdict));
            for commit in [&mut slot.unstored, &mut slot.journal, &mut slot.signing_in].into_iter().flatten()
            {
                commit_nonces(commit, visit);
            }
            match &mut slot.phase {
                Phase::Take(record) => visit(&mut record.revision.verdict),
                Phase::Load { nonce, before, .. } => {
                    visit(nonce);
                    visit(&mut before.revision.verdict);
                }
                Phase::Ready(call) | Phase::Calling(call) | Phase::Answered(call, _) => {
                    visit(&mut call.nonce);
                    visit(&mut call.base.revision.verdict);
                }
                Phase::Set(commit) | Phase::Judge(commit) | Phase::Republish(commit) => {
                    commit_nonces(commit, visit);
                }
                Phase::Release { nonce, .. } => visit(nonce),
                Phase::Idle | Phase::Deaf | Phase::Offer | Phase::Overtaken | Phase::Journal => {}
            }
        }
        for (_, write) in &mut self.late_writes {
            match write {
                Write::Take(nonce) | Write::Release { nonce, .. } => visit(nonce),
                Write::Commit(commit) => commit_nonces(commit, visit),
                Write::Delete(_) => {}
            }
        }
        for undo in &mut self.log {
            cell_nonces(&mut undo.before, visit);
        }
        self.mail.iter_mut().for_each(|(_, record)| visit(&mut record.revision.verdict));
    }
}

fn cell_nonces(cell: &mut Cell, visit: &mut impl FnMut(&mut Nonce)) {
    cell.record.iter_mut().for_each(|record| visit(&mut record.revision.verdict));
    cell.lease.iter_mut().for_each(|lease| visit(&mut lease.nonce));
    cell.intent.iter_mut().for_each(|intent| visit(&mut intent.nonce));
}

fn commit_nonces(commit: &mut Commit, visit: &mut impl FnMut(&mut Nonce)) {
    visit(&mut commit.nonce);
    visit(&mut commit.record.revision.verdict);
    commit.expected.iter_mut().for_each(|revision| visit(&mut revision.verdict));
}
