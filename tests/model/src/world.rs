//! The state of the world: the store, the authority, the replicas, and what is under way between them.
//!
//! Fields marked *ghost* are for the properties only; no replica reads them.

use crate::setup::{Budget, Setup};

/// A lease's random nonce. Numbers are used again once nothing refers to them, which a random nonce never is: only
/// whether two are equal matters, and so runs that differ in names are one.
pub type Nonce = u8;

/// No lease's nonce.
pub const NOBODY: Nonce = 0;

/// A refresh token: the authority stamps the family (one sign-in of one user) and its number there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RefreshToken {
    /// The sign-in it descends from; also what the record's incarnation is.
    pub family: u8,
    /// The how manieth of its family. The access token issued with it has the same number.
    pub number: u8,
}

/// A record's revision: a counter, and what makes it unlike every other revision with that counter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Revision {
    /// The generation counter.
    pub counter: u8,
    /// The refresh token in the record: no two answers bring the same.
    pub token: RefreshToken,
    /// The nonce of the verdict's flight; [`NOBODY`] for anything else.
    pub verdict: Nonce,
}

/// What is stored for a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Record {
    /// Its revision.
    pub revision: Revision,
    /// The how manieth sign-in of this connection it descends from.
    pub sign_in: u8,
    /// How many renewals of this sign-in led to it. Unlike the revision's counter no verdict raises it, so it says which
    /// of two grants came first.
    pub renewals: u8,
    /// Its refresh token.
    pub token: RefreshToken,
    /// When its access token was issued.
    pub issued: u8,
    /// Whether the user must sign in again.
    pub dead: bool,
}

/// Which sign-in of its connection something descends from. The store may lose one and give its number again, so a number alone
/// does not say; the family stands for the random part.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SignIn {
    /// Its number.
    pub number: u8,
    /// What makes it unlike every other one of that number.
    pub family: u8,
}

impl SignIn {
    /// Whether what ends this one ends that one too.
    pub fn includes(&self, other: &SignIn) -> bool {
        other == self || other.number < self.number
    }
}

/// A record's place among those of its connection: by sign-in (of two with one number, the later one), then by grant, then by
/// revision.
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

    /// Whether the store has fallen back to this from that.
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
    /// The absence it replaces, if it expects none.
    pub tombstone: u8,
    /// What is to be stored.
    pub record: Record,
    /// The refresh token that the authority was asked with.
    pub used: Option<RefreshToken>,
    /// The lease it was made under.
    pub nonce: Nonce,
    /// That lease's number, where leases are numbered ([`crate::Bug::CounterFence`]).
    pub fence: u8,
    /// Why.
    pub purpose: Purpose,
}

/// A lease on a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Lease {
    /// Whose.
    pub nonce: Nonce,
    /// Its number, where leases are numbered.
    pub fence: u8,
}

/// The mark that somebody began and has not said how it ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Intent {
    /// Whose.
    pub nonce: Nonce,
    /// The refresh token that was current. Of it the store knows the sign-in; its number is a *ghost*.
    pub about: Option<RefreshToken>,
}

/// What the store has for one connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Cell {
    /// The record.
    pub record: Option<Record>,
    /// The lease, until it runs out.
    pub lease: Option<Lease>,
    /// The intent, until its outcome is known.
    pub intent: Option<Intent>,
    /// The last lease's number, where leases are numbered.
    pub fence: u8,
    /// The last sign-in that was deleted: the revision of a record's absence.
    pub tombstone: u8,
}

/// A write that a failover may drop.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Undo {
    /// Which connection it changed.
    pub connection: u8,
    /// What was there before.
    pub before: Cell,
    /// *Ghost*: whether its sender was told that it is done.
    pub acknowledged: bool,
}

/// A request to the store that changes something.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Write {
    /// Take the lease and leave the intent.
    Take(Nonce),
    /// Give the lease back.
    Release {
        /// Whose.
        nonce: Nonce,
        /// Whether the intent goes too.
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
    /// Whose it is.
    pub connection: u8,
    /// The number of its newest refresh token.
    pub newest: u8,
    /// Whether the authority has ended it.
    pub killed: bool,
    /// *Ghost*: bit n says that answer n was committed (and acknowledged) or journaled.
    pub durable: u8,
    /// *Ghost*: bit n says that answer n has been in the store, whether or not anybody was told.
    pub stored: u8,
    /// *Ghost*: whether the connection was deleted or signed in anew, so that nobody needs it any more.
    pub closed: bool,
    /// *Ghost*: whether its deletion was acknowledged.
    pub deleted: bool,
}

/// A flight's state: what it does next.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Phase {
    /// Nothing is under way.
    Idle,
    /// Told "theirs", and deaf until a message comes ([`crate::Bug::WaitsForMessage`] only).
    Deaf,
    /// Has looked, and asks for the lease next. What it saw is used only by [`crate::Bug::NoReloadUnderLease`].
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
    /// Another's commit came first: looks what it was.
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
    /// *Ghost*: whether it is the last resort: nobody knows how the last use ended, and no access token lives.
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

/// What one replica knows of one connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Slot {
    /// What it holds and serves.
    pub held: Option<Record>,
    /// Whether it has committed that itself.
    pub own: bool,
    /// An answer that the store has not taken.
    pub unstored: Option<Commit>,
    /// The same on disk.
    pub journal: Option<Commit>,
    /// A sign-in that the store has not taken.
    pub signing_in: Option<Commit>,
    /// Whether an offer of it went unanswered.
    pub sign_in_in_doubt: bool,
    /// The last sign-in that it has deleted lately.
    pub deleted: Option<SignIn>,
    /// What it does.
    pub phase: Phase,
    /// Whether the flight's lease has run out or was lost. The replica learns it from its clock, and not of a failover.
    pub lost: bool,
    /// Whether that was by time.
    pub ran_out: bool,
    /// Whether the connection was forgotten since the flight began: it must publish nothing.
    pub orphan: bool,
    /// *Ghost*: the highest generation it has held, since it last found nothing.
    pub seen: Option<Generation>,
    /// *Ghost*: bit n says that it has looked at the store since family n was deleted.
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

    /// The slot after its process died: only the journal is left, and what it holds is offered again.
    pub fn after_crash(self) -> Self {
        Slot { journal: self.journal, unstored: self.journal, ..Slot::EMPTY }
    }

    /// The lease that a living flight works under.
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

/// Everything.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct World {
    /// The store, by connection.
    pub store: Vec<Cell>,
    /// What a failover may drop, oldest first.
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
    /// What may still happen.
    pub left: Budget,
    /// *Ghost*: whether a failover has dropped a write that was acknowledged.
    pub dropped: bool,
    /// *Ghost*: what has gone wrong in a step, as bits of [`crate::properties`].
    pub wrong: u16,
}

impl World {
    /// Every connection signed in, its access token due, and nobody has looked yet.
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

    /// The same world with interchangeable names made the same: replicas in order, nonces by first mention.
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
