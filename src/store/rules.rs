//! The rules of a store: what each operation answers, and what it leaves behind.
//!
//! Pure: what is stored comes in as values, and what to write goes out. The embedded store and the simulated
//! one apply the rules to tables of their own. Redis has the same rules as scripts (`redis/scripts.rs`); one
//! suite holds all three to them.

use std::collections::BTreeMap;
use std::time::Duration;

use super::{Committed, Counted, Deleted, Floor, Full, LeaseNonce, Most, Revision, Writer};
use crate::domain::connection::SignIn;
use crate::domain::time::Timestamp;

/// What a store knows of a connection when a commit arrives.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Known {
    /// The stored revision.
    pub(crate) stored: Option<Revision>,
    /// Who holds the connection's lease.
    pub(crate) holder: Option<LeaseNonce>,
    /// The floor that deletes left.
    pub(crate) floor: Floor,
}

/// Effects of a commit beside the record that it stores.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Stores {
    /// The lease of the commit is given back.
    pub(crate) gives_lease_back: bool,
    writer: Writer,
    /// Another replica holds the lease, and may be about to use the grant that is stored now.
    is_anothers: bool,
}

impl Stores {
    /// Whether the commit settles an intent: the one of its own lease, or one about a grant that it replaces.
    pub(crate) fn settles(&self, intent: &Intent) -> bool {
        self.writer.lease() == Some(intent.nonce) || (self.writer.replaces_grant() && !self.is_anothers)
    }
}

/// Judges a commit of `revision` in the place of `expected`. The record is stored if the second value is
/// `Some`.
pub(crate) fn commit(
    known: &Known,
    expected: Option<Revision>,
    revision: &Revision,
    writer: Writer,
) -> (Committed, Option<Stores>) {
    let is_ours = known.holder.is_some() && known.holder == writer.lease();
    let is_anothers = known.holder.is_some() && !is_ours;
    let is_below_floor = known.stored.is_none() && revision.sign_in.number < known.floor.number;
    if known.stored.as_ref() == Some(revision) {
        (Committed::Done, None) // this very commit, whose answer was lost
    } else if writer.is_fenced() && is_anothers {
        (Committed::Fenced, None)
    } else if known.stored != expected || is_below_floor {
        (Committed::Conflict, None)
    } else {
        (Committed::Done, Some(Stores { gives_lease_back: is_ours, writer, is_anothers }))
    }
}

/// What a store has under a connection's name when a delete arrives.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Found {
    Nothing,
    /// A record whose revision cannot be read. It is destroyed, whichever sign-in is meant.
    Unreadable,
    Revision(Revision),
}

/// Effects of a delete.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Destroys {
    /// The new floor of the name.
    pub(crate) floor: Floor,
    /// Whether the intent is settled. It is not while another holds the lease.
    pub(crate) settles: bool,
}

/// Judges a delete of the sign-in that is `meant`. It takes effect if the second value is `Some`.
pub(crate) fn delete(
    found: Found,
    is_leased: bool,
    mut floor: Floor,
    meant: SignIn,
    cuts_off: bool,
) -> (Deleted, Option<Destroys>) {
    let (answer, above) = match found {
        Found::Revision(revision) if revision.sign_in != meant => return (Deleted::Another, None),
        Found::Revision(revision) => (Deleted::Gone, revision.generation.saturating_add(1)),
        Found::Unreadable => (Deleted::Gone, 0),
        Found::Nothing => (Deleted::Absent, 0),
    };
    floor.number = floor.number.max(meant.number.saturating_add(1)).max(above);
    if cuts_off {
        floor.cut = floor.number;
    }
    (answer, Some(Destroys { floor, settles: answer == Deleted::Gone && !is_leased }))
}

/// Leases by subject, each with its holder and its end by the monotonic clock.
#[derive(Debug, Clone)]
pub(crate) struct Leases<K>(BTreeMap<K, (LeaseNonce, Duration)>);

impl<K> Default for Leases<K> {
    fn default() -> Self {
        Leases(BTreeMap::new())
    }
}

impl<K: Ord> Leases<K> {
    /// The holder of a lease.
    pub(crate) fn holder(&self, of: &K, now: Duration) -> Option<LeaseNonce> {
        self.living(of, now).map(|(nonce, _)| nonce)
    }

    /// Takes a lease, or takes it once more. While another holds it, the attempt is refused with the time
    /// that is left.
    pub(crate) fn take(
        &mut self,
        of: K,
        nonce: LeaseNonce,
        ttl: Duration,
        now: Duration,
    ) -> Result<(), Duration> {
        match self.living(&of, now) {
            Some((holder, until)) if holder != nonce => Err(until.saturating_sub(now)),
            _ => {
                self.0.insert(of, (nonce, now.saturating_add(ttl)));
                Ok(())
            }
        }
    }

    /// Prolongs a lease. False if it is not ours any more.
    pub(crate) fn extend(&mut self, of: K, nonce: LeaseNonce, ttl: Duration, now: Duration) -> bool {
        let is_ours = self.holder(&of, now) == Some(nonce);
        if is_ours {
            self.0.insert(of, (nonce, now.saturating_add(ttl)));
        }
        is_ours
    }

    /// Gives a lease back, if it is ours.
    pub(crate) fn release(&mut self, of: &K, nonce: LeaseNonce, now: Duration) {
        if self.holder(of, now) == Some(nonce) {
            self.0.remove(of);
        }
    }

    /// The subjects of all leases that are held.
    #[cfg(test)]
    pub(crate) fn held(&self, now: Duration) -> impl Iterator<Item = &K> {
        self.0.iter().filter(move |(_, (_, until))| *until > now).map(|(of, _)| of)
    }

    fn living(&self, of: &K, now: Duration) -> Option<(LeaseNonce, Duration)> {
        self.0.get(of).filter(|(_, until)| *until > now).copied()
    }
}

/// An intent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Intent {
    /// The lease with which it was written.
    pub(crate) nonce: LeaseNonce,
    /// The sign-in whose grant may be used.
    pub(crate) about: SignIn,
    /// Whether an earlier intent was not settled either.
    pub(crate) unsettled: bool,
}

impl Intent {
    /// The intent of a new holder, given the one before it.
    pub(crate) fn after(before: Option<Intent>, nonce: LeaseNonce, about: SignIn) -> Intent {
        let unsettled = match before.filter(|before| before.about == about) {
            Some(before) if before.nonce == nonce => before.unsettled,
            before => before.is_some(),
        };
        Intent { nonce, about, unsettled }
    }

    /// Whether a release that settles its own intent settles this one.
    pub(crate) fn is_settled_by(&self, nonce: LeaseNonce) -> bool {
        self.nonce == nonce && !self.unsettled
    }
}

/// What happens to a record that is to be swapped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Swap {
    /// It is the new one already: this very swap, whose answer was lost.
    Already,
    /// It is written.
    Write,
    /// It is another one, and stays.
    Refused,
}

impl Swap {
    /// Judges a swap.
    pub(crate) fn of<T: PartialEq + ?Sized>(stored: Option<&T>, expected: Option<&T>, new: &T) -> Swap {
        if stored == Some(new) {
            Swap::Already
        } else if stored == expected {
            Swap::Write
        } else {
            Swap::Refused
        }
    }

    /// The answer.
    pub(crate) fn is_done(self) -> bool {
        self != Swap::Refused
    }
}

/// When a connection is due and when it was last used, as far as that is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Scheduled {
    pub(crate) due_at: Timestamp,
    pub(crate) used_at: Option<Timestamp>,
}

impl Scheduled {
    /// The new place in the schedule, given the one before.
    pub(crate) fn anew(before: Option<Scheduled>, due_at: Option<Timestamp>) -> Option<Scheduled> {
        let used_at = before.and_then(|before| before.used_at);
        due_at.map(|due_at| Scheduled { due_at, used_at })
    }

    /// The same with a later use; `None` if a later use is noted.
    pub(crate) fn used(self, at: Timestamp) -> Option<Scheduled> {
        (self.used_at < Some(at)).then_some(Scheduled { used_at: Some(at), ..self })
    }
}

/// Counts the entries of an owner, for one more entry.
#[derive(Debug)]
pub(crate) struct Count<'a> {
    entry: &'a str,
    most: Most<'a>,
    now: Timestamp,
    is_counted: bool,
    of_owner: Others,
    of_group: Others,
}

/// The number of counted entries, and when the first of them ends.
#[derive(Debug, Default)]
struct Others {
    count: usize,
    first: Option<Timestamp>,
}

impl Others {
    fn add(&mut self, until: Timestamp) {
        self.count += 1;
        self.first = Some(self.first.map_or(until, |first| first.min(until)));
    }

    fn fill(&self, most: usize, which: Full) -> Option<Counted> {
        let until = self.first.filter(|_| self.count >= most)?;
        Some(Counted::Full { which, until })
    }
}

impl<'a> Count<'a> {
    pub(crate) fn new(entry: &'a str, most: Most<'a>, now: Timestamp) -> Self {
        let (of_owner, of_group) = (Others::default(), Others::default());
        Count { entry, most, now, is_counted: false, of_owner, of_group }
    }

    /// Takes an entry of the owner into account. False if it has ended and is to be forgotten.
    pub(crate) fn see(&mut self, other: &str, until: Timestamp) -> bool {
        if until <= self.now {
            return false;
        }
        if other == self.entry {
            self.is_counted = true;
        } else {
            self.of_owner.add(until);
            if self.most.of_group.is_some_and(|group| other.starts_with(group.prefix)) {
                self.of_group.add(until);
            }
        }
        true
    }

    /// The answer, after every entry was taken into account.
    pub(crate) fn answer(&self) -> Counted {
        let of_owner = self.of_owner.fill(self.most.of_owner, Full::Owner);
        let of_group = || self.of_group.fill(self.most.of_group?.most, Full::Group);
        of_owner.or_else(of_group).filter(|_| !self.is_counted).unwrap_or(Counted::In)
    }
}

#[cfg(test)]
mod tests;
