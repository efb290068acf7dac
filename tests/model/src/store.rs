//! The store: each write is one atomic step; a failover takes back any suffix of what was not replicated.

use crate::bugs::Bug;
use crate::properties::wrong;
use crate::setup::Setup;
use crate::world::{
    Cell, Commit, Intent, Lease, NOBODY, Nonce, Purpose, RefreshToken, SignIn, Undo, World, Write,
};

/// The store's answer to a write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reply {
    /// Done.
    Done,
    /// The lease is yours.
    Mine {
        /// Whether there was an intent.
        unsettled: bool,
        /// The lease's number, where leases are numbered.
        fence: u8,
    },
    /// The lease is another's.
    Theirs,
    /// The lease is another's, so nothing was written.
    Fenced,
    /// The record is not the expected one.
    Conflict,
}

/// Carries out a write. With `acknowledged`, its sender gets the reply.
pub fn write(world: &mut World, setup: &Setup, connection: u8, write: Write, acknowledged: bool) -> Reply {
    let before = world.store[usize::from(connection)];
    let reply = match write {
        Write::Take(nonce) => take(world, setup, connection, nonce),
        Write::Release { nonce, settled } => {
            release(cell(world, connection), setup, nonce, settled);
            Reply::Done
        }
        Write::Commit(new) => commit(world, setup, connection, new),
        Write::Delete(meant) => {
            delete(world, setup, connection, meant);
            Reply::Done
        }
    };
    if before != world.store[usize::from(connection)] && world.left.failovers > 0 {
        world.log.push(Undo { connection, before, acknowledged });
        if world.log.len() > setup.unreplicated {
            world.log.remove(0);
        }
    }
    if acknowledged && setup.wait {
        world.log.clear();
    }
    if acknowledged && reply == Reply::Done {
        // It may have been carried out by an earlier try whose answer was lost.
        world
            .log
            .iter_mut()
            .filter(|undo| undo.connection == connection)
            .for_each(|undo| undo.acknowledged = true);
    }
    reply
}

/// Compares as a commit does and writes nothing, for [`Bug::CheckThenSet`].
pub fn compare(world: &World, setup: &Setup, connection: u8, new: &Commit) -> Option<Reply> {
    let cell = &world.store[usize::from(connection)];
    let by_counter = setup.has(Bug::CounterFence);
    if new.purpose != Purpose::Connect
        && !setup.has(Bug::NoFence)
        && let Some(lease) = cell.lease
        && !(if by_counter { lease.fence == new.fence } else { lease.nonce == new.nonce })
    {
        return Some(Reply::Fenced);
    }
    if cell.record.is_some_and(|record| record.revision == new.record.revision) {
        return Some(Reply::Done);
    }
    let expected = match (cell.record, new.expected) {
        (None, None) => cell.tombstone == new.tombstone || setup.has(Bug::NoTombstone),
        (Some(record), Some(expected)) if by_counter => record.revision.counter == expected.counter,
        (Some(record), Some(expected)) => record.revision == expected,
        (None, Some(_)) => setup.has(Bug::CommitCreates),
        (Some(_), None) => false,
    };
    let unconditional =
        setup.has(Bug::VerdictUnconditional) && new.purpose == Purpose::Verdict && cell.record.is_some();
    (!expected && !unconditional).then_some(Reply::Conflict)
}

/// A lease runs out. Time passes for the store's replicas too.
pub fn expire(world: &mut World, connection: u8) {
    let Some(lease) = cell(world, connection).lease.take() else { return };
    for undo in world.log.iter_mut().filter(|undo| undo.connection == connection) {
        if undo.before.lease.is_some_and(|before| before.nonce == lease.nonce) {
            undo.before.lease = None;
        }
    }
}

/// Another server becomes the primary, and the last `count` writes have never been.
pub fn fail_over(world: &mut World, count: usize) {
    for _ in 0..count {
        let Some(undo) = world.log.pop() else { break };
        world.dropped |= undo.acknowledged;
        *cell(world, undo.connection) = undo.before;
    }
    world.log.clear();
}

/// Stores without comparing: the comparison was made before, correctly or not.
pub fn set(world: &mut World, setup: &Setup, connection: u8, new: Commit) {
    let before = *cell(world, connection);
    let stored = before.record;
    let anothers = before.lease.is_some_and(|lease| lease.nonce != new.nonce);
    let moved = stored.map(|record| record.revision) != new.expected;
    if moved || (anothers && new.purpose != Purpose::Connect) {
        world.wrong |= wrong::I5;
    }
    if new.purpose == Purpose::Verdict {
        let about = stored.filter(|record| Some(record.token) == new.used);
        let truly = about.is_some_and(|record| {
            let family = &world.families[usize::from(record.token.family)];
            family.killed || family.newest != record.token.number
        });
        if !truly {
            world.wrong |= wrong::I9;
        }
    }
    let mut record = new.record;
    if let (true, Some(stored)) = (moved && new.purpose == Purpose::Verdict, stored) {
        record = stored;
        record.dead = true;
        record.revision.counter += 1;
        record.revision.verdict = new.nonce;
    }
    if let Some(replaced) = stored.filter(|replaced| replaced.token.family != record.token.family) {
        world.families[usize::from(replaced.token.family)].closed = true;
    }
    world.families[usize::from(record.token.family)].stored |= 1 << record.token.number;
    let cell = cell(world, connection);
    cell.record = Some(record);
    let mine = |nonce: Nonce| nonce != NOBODY && nonce == new.nonce;
    let lease_is_mine = |lease: &Lease| {
        if setup.has(Bug::CounterFence) { lease.fence == new.fence } else { mine(lease.nonce) }
    };
    cell.lease = cell.lease.filter(|lease| !lease_is_mine(lease));
    // An intent is about the refresh token that this replaces, unless its holder may still be about to load
    // the new one.
    let replaced = stored.is_none_or(|stored| stored.token != record.token);
    let moot = replaced && cell.lease.is_none() && !setup.has(Bug::IntentOutlives);
    cell.intent = cell.intent.filter(|intent| !moot && !mine(intent.nonce));
}

fn cell(world: &mut World, connection: u8) -> &mut Cell {
    &mut world.store[usize::from(connection)]
}

fn take(world: &mut World, setup: &Setup, connection: u8, nonce: Nonce) -> Reply {
    let cell = cell(world, connection);
    if cell.lease.is_some() && !setup.has(Bug::StealsByWallClock) {
        return Reply::Theirs;
    }
    let before = cell.intent;
    let about = cell.record.map(|record| record.token);
    if setup.has(Bug::CounterFence) {
        cell.fence += 1;
    }
    cell.lease = Some(Lease { nonce, fence: cell.fence });
    if !setup.has(Bug::NoIntent) {
        cell.intent = Some(Intent { nonce, about });
    }
    let fence = cell.fence;
    if let (Some(was), Some(now)) = (before.and_then(|intent| intent.about), about)
        && was.family == now.family
        && was.number < now.number
        && !world.dropped
    {
        world.wrong |= wrong::DOUBT;
    }
    // Doubt is about the grants of one sign-in: what was begun with those of another does not matter.
    let family = |token: Option<RefreshToken>| token.map(|token| token.family);
    let same_sign_in = |intent: Intent| family(intent.about) == family(about);
    Reply::Mine { unsettled: before.is_some_and(same_sign_in), fence }
}

fn release(cell: &mut Cell, setup: &Setup, nonce: Nonce, settled: bool) {
    let mine = cell.lease.is_some_and(|lease| lease.nonce == nonce) || setup.has(Bug::ReleasesAnothers);
    if mine {
        cell.lease = None;
        if settled {
            cell.intent = None;
        }
    }
}

fn commit(world: &mut World, setup: &Setup, connection: u8, new: Commit) -> Reply {
    if let Some(reply) = compare(world, setup, connection, &new) {
        return reply;
    }
    set(world, setup, connection, new);
    Reply::Done
}

fn delete(world: &mut World, setup: &Setup, connection: u8, sign_in: SignIn) {
    let cell = cell(world, connection);
    let Some(record) = cell.record else { return };
    let meant = sign_in == record.which_sign_in();
    let by_number = setup.has(Bug::DeletesByNumber) && record.sign_in <= sign_in.number;
    if !meant && !by_number && !setup.has(Bug::DeletesWhatever) && !setup.has(Bug::RedeletesWhatever) {
        return;
    }
    cell.record = None;
    cell.tombstone = record.sign_in;
    // The lease stays until its holder gives it back or it runs out, and so does its intent: whoever is told
    // "mine" can count on it.
    if cell.lease.is_none() {
        cell.intent = None;
    }
    world.families[usize::from(record.token.family)].closed = true;
    if !meant {
        world.wrong |= wrong::RECONNECT;
    }
}
