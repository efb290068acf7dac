//! The steps of a replica, one atomic step at a time, and the events around it.

use crate::bugs::Bug;
use crate::properties::wrong;
use crate::setup::{Authority, Setup};
use crate::store::{self, Reply};
use crate::world::{
    Answer, Call, Commit, NOBODY, Phase, Purpose, Record, RefreshToken, Revision, SignIn, World, Write,
};

/// Something that happens. Replicas and connections go by number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Action {
    /// A replica begins a flight: somebody asks, a message or the poll wakes it, or it has something to
    /// offer.
    Start(u8, u8),
    /// A flight takes its next step, and all goes well.
    Step(u8, u8),
    /// The store's answer to that step is lost; the request is carried out later or never.
    StoreTimeout(u8, u8),
    /// The authority's answer is lost; a request that it does not have yet it gets later or never.
    CallTimeout(u8, u8),
    /// The authority puts the call off.
    Refuse(u8, u8),
    /// A replica asks the store whether its cached record is current: every second, or after a message.
    Check(u8, u8),
    /// A message comes that a deaf waiter waits for.
    Wake(u8, u8),
    /// A message's content is believed.
    Believe(u8, u8),
    /// A user disconnects, and is told that it is done.
    Delete(u8, u8),
    /// A user disconnects, and the store's answer is lost.
    DeleteTimeout(u8, u8),
    /// A replica sees a connection again that it has deleted.
    DeleteAgain(u8, u8),
    /// A user signs in again; the authority has answered.
    Connect(u8, u8),
    /// The sign-in is offered to the store.
    ConnectCommit(u8, u8),
    /// The sign-in is offered to the store, and the answer is lost.
    ConnectTimeout(u8, u8),
    /// A process dies and starts again.
    Crash(u8),
    /// A lease runs out.
    Expire(u8),
    /// The store changes its primary; so many writes have never been.
    FailOver(u8),
    /// Half an access token's life passes.
    Tick,
    /// The authority ends a grant.
    Revoke(u8),
    /// A request reaches the store whose sender has given up.
    LateWrite(u8),
    /// A request reaches the authority whose sender has given up.
    LateCall(u8),
}

/// Lists all possible actions.
pub fn actions(world: &World, setup: &Setup, actions: &mut Vec<Action>) {
    let left = &world.left;
    for (r, c) in slots(setup) {
        let slot = world.slot(r, c);
        let record = world.store[usize::from(c)].record;
        match slot.phase {
            Phase::Idle if slot.unstored.is_some() || slot.held.is_none_or(|held| world.is_due(&held)) => {
                actions.push(Action::Start(r, c));
            }
            Phase::Idle => {}
            Phase::Deaf => actions.push(Action::Wake(r, c)),
            Phase::Take(_) | Phase::Offer | Phase::Judge(_) | Phase::Republish(_) | Phase::Release { .. } => {
                actions.push(Action::Step(r, c));
                if left.lost_by_store > 0 {
                    actions.push(Action::StoreTimeout(r, c));
                }
            }
            Phase::Load { .. } | Phase::Ready(_) | Phase::Set(_) | Phase::Overtaken | Phase::Journal => {
                actions.push(Action::Step(r, c));
            }
            Phase::Calling(_) | Phase::Answered(..) => {
                actions.push(Action::Step(r, c));
                if left.lost_calls > 0 {
                    actions.push(Action::CallTimeout(r, c));
                }
                if left.transients > 0 && matches!(slot.phase, Phase::Calling(_)) {
                    actions.push(Action::Refuse(r, c));
                }
            }
        }
        if slot.held.is_some_and(|held| record.is_none_or(|record| record.revision != held.revision)) {
            actions.push(Action::Check(r, c));
        }
        if world.mail.iter().any(|(connection, _)| *connection == c) {
            actions.push(Action::Believe(r, c));
        }
        if let Some(record) = record {
            if left.deletes > 0 {
                actions.push(Action::Delete(r, c));
                if left.lost_by_store > 0 {
                    actions.push(Action::DeleteTimeout(r, c));
                }
            }
            let gone = |meant: SignIn| {
                let by_number = setup.has(Bug::DeletesByNumber) && record.sign_in <= meant.number;
                meant.includes(&record.which_sign_in()) || by_number || setup.has(Bug::RedeletesWhatever)
            };
            if slot.deleted.is_some_and(gone) {
                actions.push(Action::DeleteAgain(r, c));
            }
        }
        if slot.signing_in.is_some() {
            actions.push(Action::ConnectCommit(r, c));
            if left.lost_by_store > 0 {
                actions.push(Action::ConnectTimeout(r, c));
            }
        } else if left.connects > 0 {
            actions.push(Action::Connect(r, c));
        }
    }
    if left.crashes > 0 {
        actions.extend((0..setup.replicas).map(Action::Crash));
    }
    for c in 0..setup.connections {
        let cell = &world.store[usize::from(c)];
        if cell.lease.is_some()
            && !setup.has(Bug::LeaseWithoutEnd)
            && (holder(world, setup, c).is_none() || left.pauses > 0)
        {
            actions.push(Action::Expire(c));
        }
        let alive = |record: &Record| !world.families[usize::from(record.token.family)].killed;
        if left.revocations > 0 && cell.record.as_ref().is_some_and(alive) {
            actions.push(Action::Revoke(c));
        }
    }
    if left.failovers > 0 {
        actions.extend((1..=world.log.len()).map(|count| Action::FailOver(as_u8(count))));
    }
    if left.ticks > 0 {
        actions.push(Action::Tick);
    }
    actions.extend((0..world.late_writes.len()).map(|index| Action::LateWrite(as_u8(index))));
    actions.extend((0..world.late_calls.len()).map(|index| Action::LateCall(as_u8(index))));
}

/// Applies an action.
pub fn happen(world: &mut World, setup: &Setup, action: Action) {
    match action {
        Action::Start(r, c) => start(world, setup, r, c),
        Action::Step(r, c) => step(world, setup, r, c),
        Action::StoreTimeout(r, c) => store_timeout(world, setup, r, c),
        Action::CallTimeout(r, c) => call_timeout(world, setup, r, c),
        Action::Refuse(r, c) => {
            world.left.transients -= 1;
            if let Phase::Calling(call) = world.slot(r, c).phase {
                world.slot_mut(r, c).phase = Phase::Answered(call, Answer::Transient);
            }
        }
        Action::Check(r, c) => {
            let looked = look(world, setup, r, c);
            if world.slot(r, c).phase == Phase::Idle
                && let Some(commit) = fallen_back(world, setup, r, c, looked)
            {
                world.slot_mut(r, c).phase = Phase::Republish(commit);
            }
        }
        Action::Wake(r, c) => world.slot_mut(r, c).phase = Phase::Idle,
        Action::Believe(r, c) => {
            let last = world.mail.iter().rev().find(|(connection, _)| *connection == c).copied();
            if let Some((_, record)) = last {
                publish(world, setup, r, c, record, false);
            }
        }
        Action::Delete(r, c) => {
            world.left.deletes -= 1;
            if let Some(record) = world.store[usize::from(c)].record {
                delete(world, setup, r, c, record.which_sign_in());
            }
        }
        Action::DeleteTimeout(_, c) => {
            world.left.deletes -= 1;
            world.left.lost_by_store -= 1;
            if let Some(record) = world.store[usize::from(c)].record {
                world.late_writes.push((c, Write::Delete(record.which_sign_in())));
            }
        }
        Action::DeleteAgain(r, c) => {
            let there = world.store[usize::from(c)].record.map(|record| record.which_sign_in());
            if let (Some(meant), Some(there)) = (world.slot(r, c).deleted, there) {
                if !meant.includes(&there) {
                    world.wrong |= wrong::RECONNECT;
                }
                delete(world, setup, r, c, there);
            }
        }
        Action::Connect(r, c) => connect(world, r, c),
        Action::ConnectCommit(r, c) => connect_commit(world, setup, r, c),
        Action::ConnectTimeout(r, c) => {
            world.left.lost_by_store -= 1;
            world.slot_mut(r, c).sign_in_in_doubt = true;
            if let Some(commit) = world.slot(r, c).signing_in {
                world.late_writes.push((c, Write::Commit(commit)));
            }
        }
        Action::Crash(r) => crash(world, setup, r),
        Action::Expire(c) => {
            if let Some((r, c)) = holder(world, setup, c) {
                world.left.pauses -= 1;
                let slot = world.slot_mut(r, c);
                slot.lost = true;
                slot.ran_out = true;
            }
            store::expire(world, c);
        }
        Action::FailOver(count) => {
            world.left.failovers -= 1;
            store::fail_over(world, usize::from(count));
            note_lost_leases(world, setup);
        }
        Action::Tick => {
            world.left.ticks -= 1;
            world.era += 1;
        }
        Action::Revoke(c) => {
            world.left.revocations -= 1;
            if let Some(record) = world.store[usize::from(c)].record {
                world.families[usize::from(record.token.family)].killed = true;
            }
        }
        Action::LateWrite(index) => {
            let (c, write) = world.late_writes.remove(usize::from(index));
            store::write(world, setup, c, write, false);
        }
        Action::LateCall(index) => {
            let token = world.late_calls.remove(usize::from(index));
            ask(world, setup, token, true);
        }
    }
}

/// Every slot's replica and connection.
pub fn slots(setup: &Setup) -> impl Iterator<Item = (u8, u8)> + use<> {
    let connections = setup.connections;
    (0..setup.replicas).flat_map(move |r| (0..connections).map(move |c| (r, c)))
}

/// The living flight whose lease is the one in the store.
pub fn holder(world: &World, setup: &Setup, c: u8) -> Option<(u8, u8)> {
    let lease = world.store[usize::from(c)].lease?;
    slots(setup).find(|&(r, of)| of == c && world.slot(r, c).lease() == Some(lease.nonce))
}

/// Returns what a replica would hand out now.
pub fn served(world: &World, setup: &Setup, r: u8, c: u8) -> Option<Record> {
    let lives = |record: &Record| world.lives(record) || setup.has(Bug::ServesExpired);
    world.slot(r, c).held.filter(lives)
}

/// Begins a flight.
pub fn start(world: &mut World, setup: &Setup, r: u8, c: u8) {
    if world.slot(r, c).unstored.is_some() && !setup.has(Bug::RefreshesOverUnstored) {
        world.slot_mut(r, c).phase = Phase::Offer;
        return;
    }
    let before = *world.slot(r, c);
    let looked = look(world, setup, r, c);
    let next = match looked {
        None => match before.held {
            // Just signed in, and it is not there: was it dropped by a failover, or deleted elsewhere?
            Some(held) if setup.has(Bug::RepublishesOnNothing) && before.own && held.token.number == 0 => {
                Phase::Republish(Commit {
                    expected: None,
                    tombstone: world.store[usize::from(c)].tombstone,
                    ..again(held)
                })
            }
            _ => Phase::Idle,
        },
        Some(record) => match fallen_back(world, setup, r, c, looked) {
            Some(commit) => Phase::Republish(commit),
            None if record.dead || !world.is_due(&record) => Phase::Idle,
            None => Phase::Take(record),
        },
    };
    world.slot_mut(r, c).phase = next;
}

/// Takes a flight's next step.
pub fn step(world: &mut World, setup: &Setup, r: u8, c: u8) {
    match world.slot(r, c).phase {
        Phase::Idle | Phase::Deaf => {}
        Phase::Take(before) => {
            let nonce = world.fresh_nonce();
            let next = match store::write(world, setup, c, Write::Take(nonce), true) {
                Reply::Mine { unsettled, .. } => Phase::Load { nonce, unsettled, before },
                _ if setup.has(Bug::WaitsForMessage) => Phase::Deaf,
                _ => Phase::Idle,
            };
            go(world, r, c, next);
        }
        Phase::Load { nonce, unsettled, before } => load(world, setup, r, c, nonce, unsettled, before),
        Phase::Ready(call) => {
            let slot = *world.slot(r, c);
            if slot.ran_out && !setup.has(Bug::NoClockCheck) {
                return go(world, r, c, Phase::Idle);
            }
            // Its own replica may have learned meanwhile that the record was replaced or deleted.
            let moved = slot.held.is_none_or(|held| held.revision != call.base.revision) || slot.orphan;
            let looks = !setup.has(Bug::CallsOnStale)
                && !setup.has(Bug::NoReloadUnderLease)
                && !setup.has(Bug::RepublishesOwnOnly);
            if moved && looks {
                let settled = !call.unsettled;
                return go(world, r, c, Phase::Release { nonce: call.nonce, settled });
            }
            if slot.ran_out {
                world.wrong |= wrong::I4;
            }
            if slot.seen.is_some_and(|seen| call.base.generation() < seen) {
                world.wrong |= wrong::I3;
            }
            go(world, r, c, Phase::Calling(call));
        }
        Phase::Calling(call) => {
            let suspecting = call.resort || world.slot(r, c).lost;
            let answer = ask(world, setup, call.base.token, suspecting);
            go(world, r, c, Phase::Answered(call, answer));
        }
        Phase::Answered(call, answer) => receive(world, setup, r, c, call, answer),
        Phase::Offer => offer(world, setup, r, c),
        Phase::Set(commit) => {
            store::set(world, setup, c, commit);
            stored(world, setup, r, c, commit);
        }
        Phase::Overtaken => overtaken(world, setup, r, c),
        Phase::Judge(commit) => judge(world, setup, r, c, commit),
        Phase::Republish(commit) => {
            if store::write(world, setup, c, Write::Commit(commit), true) == Reply::Done {
                world.slot_mut(r, c).own = true;
            }
            go(world, r, c, Phase::Idle);
        }
        Phase::Journal => {
            let slot = world.slot_mut(r, c);
            slot.journal = slot.unstored;
            let (held, orphan) = (slot.held, slot.orphan);
            if let Some(commit) = slot.unstored {
                durable(world, commit.record.token);
                let same = held.is_some_and(|held| Some(held.revision) == commit.expected) && !orphan;
                if same || setup.has(Bug::PublishesAfterDelete) {
                    publish(world, setup, r, c, commit.record, true);
                }
            }
            go(world, r, c, Phase::Idle);
        }
        Phase::Release { nonce, settled } => {
            store::write(world, setup, c, Write::Release { nonce, settled }, true);
            go(world, r, c, Phase::Idle);
        }
    }
}

impl World {
    /// What a replica knows of a connection.
    pub fn slot(&self, r: u8, c: u8) -> &crate::world::Slot {
        &self.replicas[usize::from(r)][usize::from(c)]
    }

    /// The same, to be changed.
    pub fn slot_mut(&mut self, r: u8, c: u8) -> &mut crate::world::Slot {
        &mut self.replicas[usize::from(r)][usize::from(c)]
    }
}

fn load(world: &mut World, setup: &Setup, r: u8, c: u8, nonce: u8, unsettled: bool, before: Record) {
    let looked = if setup.has(Bug::NoReloadUnderLease) { Some(before) } else { look(world, setup, r, c) };
    // Nothing was done under this lease; what was in doubt before it still is.
    let unchanged = Phase::Release { nonce, settled: !unsettled };
    let Some(record) = looked else { return go(world, r, c, unchanged) };
    // What is begun is begun with what was seen before the lease: it is what the intent is about.
    if record.revision != before.revision {
        return go(world, r, c, unchanged);
    }
    // What it holds goes back first, and without the lease: a commit under it would also settle what is in
    // doubt.
    if fallen_back(world, setup, r, c, looked).is_some() {
        return go(world, r, c, unchanged);
    }
    if record.dead || !world.is_due(&record) {
        return go(world, r, c, unchanged);
    }
    let in_doubt = unsettled && !setup.authority.reuse_is_safe();
    let lives = served(world, setup, r, c).is_some() || world.lives(&record);
    if in_doubt && lives && !setup.has(Bug::ReplaysInDoubt) {
        return go(world, r, c, Phase::Release { nonce, settled: false });
    }
    let fence = world.store[usize::from(c)].lease.map_or(0, |lease| lease.fence);
    go(world, r, c, Phase::Ready(Call { nonce, fence, unsettled, resort: in_doubt && !lives, base: record }));
}

fn receive(world: &mut World, setup: &Setup, r: u8, c: u8, call: Call, answer: Answer) {
    let Call { nonce, fence, unsettled, base, .. } = call;
    match answer {
        Answer::Tokens { token, issued } => {
            let revision = Revision { counter: base.revision.counter + 1, token, verdict: NOBODY };
            let record = Record { revision, renewals: base.renewals + 1, token, issued, dead: false, ..base };
            world.slot_mut(r, c).unstored = Some(Commit {
                expected: Some(base.revision),
                tombstone: 0,
                record,
                used: Some(base.token),
                nonce,
                fence,
                purpose: Purpose::Renewal,
            });
            if setup.has(Bug::ServesBeforeDurable) {
                publish(world, setup, r, c, record, true);
            }
            go(world, r, c, Phase::Offer);
        }
        Answer::Verdict => go(world, r, c, Phase::Judge(verdict(call))),
        Answer::Transient => {
            // The authority did nothing now; what was in doubt before still is.
            let settled = !unsettled || setup.has(Bug::TransientIsSettled);
            go(world, r, c, Phase::Release { nonce, settled });
        }
    }
}

fn verdict(call: Call) -> Commit {
    let mut record = call.base;
    record.dead = true;
    record.revision =
        Revision { counter: record.revision.counter + 1, token: record.token, verdict: call.nonce };
    Commit {
        expected: Some(call.base.revision),
        tombstone: 0,
        record,
        used: Some(call.base.token),
        nonce: call.nonce,
        fence: call.fence,
        purpose: Purpose::Verdict,
    }
}

fn offer(world: &mut World, setup: &Setup, r: u8, c: u8) {
    let Some(commit) = world.slot(r, c).unstored else { return go(world, r, c, Phase::Idle) };
    if setup.has(Bug::CheckThenSet) && store::compare(world, setup, c, &commit).is_none() {
        return go(world, r, c, Phase::Set(commit));
    }
    match store::write(world, setup, c, Write::Commit(commit), true) {
        Reply::Done => stored(world, setup, r, c, commit),
        Reply::Conflict => go(world, r, c, Phase::Overtaken),
        _ => not_taken(world, setup, r, c),
    }
}

fn stored(world: &mut World, setup: &Setup, r: u8, c: u8, commit: Commit) {
    let slot = world.slot_mut(r, c);
    slot.unstored = None;
    slot.journal = None;
    let orphan = slot.orphan;
    durable(world, commit.record.token);
    if !orphan || setup.has(Bug::PublishesAfterDelete) {
        publish(world, setup, r, c, commit.record, true);
    }
    if setup.has(Bug::TrustsMessages) && world.mail.len() < 2 {
        world.mail.push((c, commit.record));
    }
    go(world, r, c, Phase::Idle);
}

fn not_taken(world: &mut World, setup: &Setup, r: u8, c: u8) {
    let slot = world.slot(r, c);
    let next = if setup.journal && slot.journal != slot.unstored { Phase::Journal } else { Phase::Idle };
    go(world, r, c, next);
}

fn overtaken(world: &mut World, setup: &Setup, r: u8, c: u8) {
    let looked = look(world, setup, r, c);
    let Some(mut commit) = world.slot(r, c).unstored else { return go(world, r, c, Phase::Idle) };
    let base = looked.filter(|record| {
        let same = commit.used == Some(record.token) && !setup.has(Bug::NoRebase);
        // Older than the used grant: the store has lost the record, and this answer is the way back to it.
        let place = |record: &Record| (record.which_sign_in(), record.renewals);
        let fallen = place(record) < (commit.record.which_sign_in(), commit.record.renewals - 1);
        // A late try of this very answer, or its republishing by another, came first. Only a reply says that
        // it will last.
        let taken = record.token == commit.record.token;
        same || taken || (fallen && !setup.has(Bug::DropsOnFallback))
    });
    if let Some(record) = base {
        commit.expected = Some(record.revision);
        if record.token == commit.record.token {
            commit.record = record;
        } else {
            let counter = commit.record.revision.counter.max(record.revision.counter + 1);
            commit.record.revision.counter = counter;
        }
        world.slot_mut(r, c).unstored = Some(commit);
        return go(world, r, c, Phase::Offer);
    }
    let family = &world.families[usize::from(commit.record.token.family)];
    // Nothing there may also be a failover's doing: a sign-in that it has dropped is gone, and the user is
    // told so.
    let excused = looked.is_none() && world.dropped;
    if !excused
        && !setup.authority.reuse_is_safe()
        && family.newest == commit.record.token.number
        && !family.killed
        && !family.closed
    {
        world.wrong |= wrong::I6;
    }
    let slot = world.slot_mut(r, c);
    slot.unstored = None;
    slot.journal = None;
    go(world, r, c, Phase::Release { nonce: commit.nonce, settled: true });
}

fn judge(world: &mut World, setup: &Setup, r: u8, c: u8, mut commit: Commit) {
    let settled = Phase::Release { nonce: commit.nonce, settled: false };
    let next = match store::write(world, setup, c, Write::Commit(commit), true) {
        Reply::Done => {
            look(world, setup, r, c);
            Phase::Idle
        }
        Reply::Conflict => match look(world, setup, r, c) {
            Some(record) if setup.has(Bug::VerdictOnNewer) => {
                commit.expected = Some(record.revision);
                commit.record = record;
                commit.record.dead = true;
                commit.record.revision.counter += 1;
                commit.record.revision.verdict = commit.nonce;
                Phase::Judge(commit)
            }
            _ => settled,
        },
        _ => Phase::Idle,
    };
    go(world, r, c, next);
}

fn store_timeout(world: &mut World, setup: &Setup, r: u8, c: u8) {
    world.left.lost_by_store -= 1;
    match world.slot(r, c).phase {
        Phase::Take(before) => {
            let nonce = world.fresh_nonce();
            world.late_writes.push((c, Write::Take(nonce)));
            let next = if setup.has(Bug::RefreshesWithoutStore) {
                Phase::Load { nonce, unsettled: false, before }
            } else {
                Phase::Idle
            };
            go(world, r, c, next);
        }
        Phase::Offer => {
            if let Some(commit) = world.slot(r, c).unstored {
                world.late_writes.push((c, Write::Commit(commit)));
            }
            not_taken(world, setup, r, c);
        }
        Phase::Judge(commit) | Phase::Republish(commit) => {
            world.late_writes.push((c, Write::Commit(commit)));
            go(world, r, c, Phase::Idle);
        }
        Phase::Release { nonce, settled } => {
            world.late_writes.push((c, Write::Release { nonce, settled }));
            go(world, r, c, Phase::Idle);
        }
        _ => {}
    }
}

fn call_timeout(world: &mut World, setup: &Setup, r: u8, c: u8) {
    world.left.lost_calls -= 1;
    let call = match world.slot(r, c).phase {
        Phase::Calling(call) => {
            world.late_calls.push(call.base.token);
            call
        }
        Phase::Answered(call, _) => call,
        _ => return,
    };
    let next = if setup.has(Bug::LostIsVerdict) {
        Phase::Judge(verdict(call))
    } else {
        Phase::Release { nonce: call.nonce, settled: setup.has(Bug::LostIsSettled) }
    };
    go(world, r, c, next);
}

fn delete(world: &mut World, setup: &Setup, r: u8, c: u8, meant: SignIn) {
    let removed = world.store[usize::from(c)].record.map(|record| record.token.family);
    store::write(world, setup, c, Write::Delete(meant), true);
    let removed = removed.filter(|_| world.store[usize::from(c)].record.is_none());
    if let Some(family) = removed {
        world.families[usize::from(family)].deleted = true;
        world.slot_mut(r, c).told |= 1 << family;
    }
    let slot = world.slot_mut(r, c);
    slot.held = slot.held.filter(|held| !meant.includes(&held.which_sign_in()));
    if slot.held.is_none() {
        slot.seen = None;
    }
    slot.deleted = Some(slot.deleted.filter(|before| before.includes(&meant)).unwrap_or(meant));
    slot.orphan = slot.phase != Phase::Idle;
}

fn connect(world: &mut World, r: u8, c: u8) {
    world.left.connects -= 1;
    let family = as_u8(world.families.len());
    world.families.push(crate::world::Family {
        connection: c,
        newest: 0,
        killed: false,
        durable: 0,
        stored: 0,
        closed: false,
        deleted: false,
    });
    let token = RefreshToken { family, number: 0 };
    let revision = Revision { counter: 0, token, verdict: NOBODY };
    let record = Record { revision, sign_in: 0, renewals: 0, token, issued: world.era, dead: false };
    let mut commit = Commit { purpose: Purpose::Connect, ..again(record) };
    put_on(world, c, &mut commit);
    world.slot_mut(r, c).signing_in = Some(commit);
}

fn connect_commit(world: &mut World, setup: &Setup, r: u8, c: u8) {
    let Some(mut commit) = world.slot(r, c).signing_in else { return };
    if store::write(world, setup, c, Write::Commit(commit), true) == Reply::Done {
        durable(world, commit.record.token);
        let slot = world.slot_mut(r, c);
        slot.signing_in = None;
        slot.sign_in_in_doubt = false;
        publish(world, setup, r, c, commit.record, true);
    } else if world.slot(r, c).sign_in_in_doubt && !setup.has(Bug::RebasesLostSignIn) {
        // It may have been stored, used and deleted since: the user is asked to try again.
        let slot = world.slot_mut(r, c);
        slot.signing_in = None;
        slot.sign_in_in_doubt = false;
    } else {
        put_on(world, c, &mut commit);
        world.slot_mut(r, c).signing_in = Some(commit);
    }
}

/// Lets a sign-in expect what is there.
fn put_on(world: &World, c: u8, commit: &mut Commit) {
    let cell = &world.store[usize::from(c)];
    commit.expected = cell.record.map(|record| record.revision);
    commit.tombstone = cell.tombstone;
    commit.record.revision.counter = cell.record.map_or(0, |record| record.revision.counter) + 1;
    commit.record.sign_in = cell.record.map_or(cell.tombstone, |record| record.sign_in) + 1;
}

fn crash(world: &mut World, setup: &Setup, r: u8) {
    world.left.crashes -= 1;
    for c in 0..setup.connections {
        if let Phase::Calling(call) = world.slot(r, c).phase {
            world.late_calls.push(call.base.token);
        }
        let slot = world.slot_mut(r, c);
        if setup.has(Bug::JournalNotReplayed) {
            slot.journal = None;
        }
        *slot = slot.after_crash();
    }
}

/// Reads the record and caches it, unless it is older than the cached one.
fn look(world: &mut World, setup: &Setup, r: u8, c: u8) -> Option<Record> {
    for family in 0..world.families.len() {
        if world.families[family].deleted && world.families[family].connection == c {
            world.slot_mut(r, c).told |= 1 << family;
        }
    }
    // What this replica has deleted is gone for it, even if a failover has brought it back: it deletes it
    // again.
    let deleted = world.slot(r, c).deleted;
    let record = world.store[usize::from(c)]
        .record
        .filter(|record| deleted.is_none_or(|deleted| !deleted.includes(&record.which_sign_in())));
    match record {
        Some(record) => publish(world, setup, r, c, record, false),
        None => {
            let slot = world.slot_mut(r, c);
            slot.held = None;
            slot.seen = None;
            slot.own = false;
            slot.orphan = slot.phase != Phase::Idle;
        }
    }
    record
}

fn publish(world: &mut World, setup: &Setup, r: u8, c: u8, record: Record, own: bool) {
    let slot = world.slot_mut(r, c);
    let generation = record.generation();
    if slot.held.is_some_and(|held| record.is_before(&held)) && !setup.has(Bug::AdoptsOlder) {
        return;
    }
    slot.own = own || (slot.own && slot.held.is_some_and(|held| held.revision == record.revision));
    slot.held = Some(record);
    slot.seen = slot.seen.max(Some(generation));
}

/// What puts the store right, if it shows less than this replica holds.
fn fallen_back(world: &World, setup: &Setup, r: u8, c: u8, looked: Option<Record>) -> Option<Commit> {
    let (slot, stored) = (world.slot(r, c), looked?);
    let held = slot.held?;
    let less = stored.is_before(&held) && (slot.own || !setup.has(Bug::RepublishesOwnOnly));
    less.then(|| Commit { expected: Some(stored.revision), ..again(held) })
}

fn again(record: Record) -> Commit {
    Commit {
        expected: None,
        tombstone: 0,
        record,
        used: None,
        nonce: NOBODY,
        fence: 0,
        purpose: Purpose::Republish,
    }
}

fn ask(world: &mut World, setup: &Setup, token: RefreshToken, suspecting: bool) -> Answer {
    let issued = world.era;
    let family = &mut world.families[usize::from(token.family)];
    if family.killed {
        return Answer::Verdict;
    }
    if setup.authority != Authority::Entra && token.number != family.newest {
        family.killed = setup.authority == Authority::Strict;
        if !suspecting && !world.dropped {
            world.wrong |= wrong::I6;
        }
        return Answer::Verdict;
    }
    family.newest += 1;
    Answer::Tokens { token: RefreshToken { number: family.newest, ..token }, issued }
}

fn durable(world: &mut World, token: RefreshToken) {
    world.families[usize::from(token.family)].durable |= 1 << token.number;
}

/// A failover takes leases away; their holders are not to blame for what follows.
fn note_lost_leases(world: &mut World, setup: &Setup) {
    for (r, c) in slots(setup) {
        let stored = world.store[usize::from(c)].lease.map(|lease| lease.nonce);
        let slot = world.slot_mut(r, c);
        if slot.lease().is_some_and(|lease| Some(lease) != stored) {
            slot.lost = true;
        }
    }
}

fn go(world: &mut World, r: u8, c: u8, next: Phase) {
    let slot = world.slot_mut(r, c);
    slot.phase = next;
    if matches!(next, Phase::Idle | Phase::Deaf) {
        slot.lost = false;
        slot.ran_out = false;
        slot.orphan = false;
    }
}

fn as_u8(count: usize) -> u8 {
    u8::try_from(count).expect("every list here is far shorter than 256")
}
