//! The checked properties. Their names are those of the project's invariants.

use stateright::Property;

use crate::RefreshModel;
use crate::protocol::{self, slots};
use crate::setup::{Authority, Budget, Setup};
use crate::world::{Answer, Phase, World, Write};

/// Bits of [`World::wrong`]: violations that only a step shows, and no state after it.
pub mod wrong {
    /// A call was based on less than its replica has held.
    pub const I3: u16 = 1;
    /// A call began although its lease had run out.
    pub const I4: u16 = 2;
    /// A record was replaced that was not the expected one, or under another's lease.
    pub const I5: u16 = 4;
    /// An answer was dropped that nothing replaced, or a used refresh token was sent without suspicion.
    pub const I6: u16 = 8;
    /// A connection was declared dead without a verdict on its current grant.
    pub const I9: u16 = 16;
    /// A sign-in was undone by an older delete.
    pub const RECONNECT: u16 = 32;
    /// A settled outcome was taken for an unsettled one.
    pub const DOUBT: u16 = 64;
}

/// A served token was issued for the connection that it is served for.
pub const I1: &str = "I1 isolation";
/// What a replica serves and builds on never falls.
pub const I3: &str = "I3 monotone generation";
/// Of concurrent calls for one grant, at most one has a lease that neither ran out nor was lost.
pub const I4: &str = "I4 single flight";
/// A commit replaces what it expects, and nothing under another's lease.
pub const I5: &str = "I5 fenced commit";
/// If reuse is not safe, the newest refresh token is never lost without an intent, and never once it is
/// durable.
pub const I6: &str = "I6 no lost rotation";
/// A deleted connection is not stored again, and not served by a replica that has read the store since.
pub const I7: &str = "I7 no resurrection";
/// No dead token is served.
pub const I8: &str = "I8 freshness";
/// Only a verdict on the current grant changes the status.
pub const I9: &str = "I9 no false death";
/// Once faults stop, each replica reaches a token or a true reason; with a healthy grant always a token.
pub const I18: &str = "I18 liveness";
/// A delete does not undo a later sign-in.
pub const RECONNECT: &str = "a sign-in stands";
/// An outcome stays unsettled only while its refresh token is the newest stored.
pub const DOUBT: &str = "doubt ends with its cause";
/// Refreshes do succeed: something that never happens cannot go wrong.
pub const REFRESHES: &str = "a refresh succeeds";

/// All of them.
pub fn all() -> Vec<Property<RefreshModel>> {
    vec![
        Property::always(I1, |model, world: &World| {
            slots(&model.setup).all(|(r, c)| {
                protocol::served(world, &model.setup, r, c)
                    .is_none_or(|record| world.families[usize::from(record.token.family)].connection == c)
            })
        }),
        Property::always(I3, |model, world: &World| {
            world.wrong & wrong::I3 == 0 && monotone(world, &model.setup)
        }),
        Property::always(I4, |model, world: &World| {
            world.wrong & wrong::I4 == 0 && single_flight(world, &model.setup)
        }),
        Property::always(I5, |_, world: &World| world.wrong & wrong::I5 == 0),
        Property::always(I6, |model, world: &World| {
            world.wrong & wrong::I6 == 0
                && nothing_served_early(world, &model.setup)
                && nothing_lost(world, &model.setup)
        }),
        Property::always(I7, |model, world: &World| no_resurrection(world, &model.setup)),
        Property::always(I8, |model, world: &World| {
            slots(&model.setup).all(|(r, c)| {
                protocol::served(world, &model.setup, r, c).is_none_or(|record| world.lives(&record))
            })
        }),
        Property::always(I9, |_, world: &World| world.wrong & wrong::I9 == 0),
        Property::always(RECONNECT, |_, world: &World| world.wrong & wrong::RECONNECT == 0),
        Property::always(DOUBT, |_, world: &World| world.wrong & wrong::DOUBT == 0),
        Property::always(I18, |model, world: &World| {
            slots(&model.setup).all(|(r, c)| comes_right(world, &model.setup, r, c))
        }),
        Property::sometimes(REFRESHES, |_, world: &World| {
            world.store.iter().flat_map(|cell| cell.record).any(|record| record.token.number > 0)
        }),
    ]
}

fn monotone(world: &World, setup: &Setup) -> bool {
    slots(setup).all(|(r, c)| {
        let seen = world.slot(r, c).seen;
        protocol::served(world, setup, r, c).is_none_or(|record| Some(record.generation()) >= seen)
    })
}

fn single_flight(world: &World, setup: &Setup) -> bool {
    let calls = slots(setup).filter_map(|(r, c)| {
        let slot = world.slot(r, c);
        match slot.phase {
            Phase::Calling(call) | Phase::Answered(call, _) if !slot.lost => Some(call.base.token.family),
            _ => None,
        }
    });
    let mut under_way = 0u64;
    for family in calls {
        if under_way & (1 << family) != 0 {
            return false;
        }
        under_way |= 1 << family;
    }
    true
}

fn nothing_served_early(world: &World, setup: &Setup) -> bool {
    slots(setup).all(|(r, c)| {
        protocol::served(world, setup, r, c).is_none_or(|record| {
            let family = &world.families[usize::from(record.token.family)];
            (family.stored | family.durable) & (1 << record.token.number) != 0
        })
    })
}

fn nothing_lost(world: &World, setup: &Setup) -> bool {
    if setup.authority.reuse_is_safe() {
        return true;
    }
    (0..world.families.len()).all(|index| {
        let family = &world.families[index];
        if family.killed || family.closed || newest_is_known(world, setup, index) {
            return true;
        }
        let cell = &world.store[usize::from(family.connection)];
        let durable = family.durable & (1 << family.newest) != 0;
        // A failover that takes back what was acknowledged is why there is WAIT.
        world.dropped || (!durable && (cell.intent.is_some() || cell.record.is_none_or(|record| record.dead)))
    })
}

/// Returns true if a process, a journal or the store has a family's newest refresh token, or if it is on its
/// way to one.
fn newest_is_known(world: &World, setup: &Setup, index: usize) -> bool {
    let family = &world.families[index];
    let is_it = |token: crate::world::RefreshToken| {
        usize::from(token.family) == index && token.number == family.newest
    };
    let c = family.connection;
    world.store[usize::from(c)].record.is_some_and(|record| is_it(record.token))
        || (0..setup.replicas).any(|r| {
            let slot = world.slot(r, c);
            let kept = [slot.unstored, slot.journal, slot.signing_in];
            slot.held.is_some_and(|record| is_it(record.token))
                || kept.into_iter().flatten().any(|commit| is_it(commit.record.token))
                || matches!(slot.phase, Phase::Answered(_, Answer::Tokens { token, .. }) if is_it(token))
        })
        || world.late_writes.iter().any(
            // Its sender died: it may still arrive. If it does not, the intent tells.
            |(_, write)| {
                matches!(write, Write::Commit(commit) if is_it(commit.record.token) && commit.used.is_none())
            },
        )
        // A sign-in whose process died before it was stored: the user is still at the browser, and told so.
        || (index >= usize::from(setup.connections) && family.newest == 0 && family.durable == 0)
}

fn no_resurrection(world: &World, setup: &Setup) -> bool {
    if world.dropped {
        return true;
    }
    let deleted = |family: u8| world.families[usize::from(family)].deleted;
    let stored = world.store.iter().flat_map(|cell| cell.record).any(|record| deleted(record.token.family));
    let served = slots(setup).any(|(r, c)| {
        let told = world.slot(r, c).told;
        protocol::served(world, setup, r, c).is_some_and(|record| told & (1 << record.token.family) != 0)
    });
    !stored && !served
}

/// Ends everything in transit well and lets all access tokens expire; then asks this replica for a token.
fn comes_right(world: &World, setup: &Setup, r: u8, c: u8) -> bool {
    let mut world = world.clone();
    world.left = Budget::default();
    world.log.clear();
    world.late_writes.clear();
    world.late_calls.clear();
    for _ in 0..2 {
        for (r, c) in slots(setup) {
            finish(&mut world, setup, r, c);
            expire_orphans(&mut world, setup);
            if world.slot(r, c).signing_in.is_some() {
                protocol::happen(&mut world, setup, protocol::Action::ConnectCommit(r, c));
            }
            let back = world.store[usize::from(c)].record.map(|record| record.which_sign_in());
            let means = |back| world.slot(r, c).deleted.is_some_and(|deleted| deleted.includes(&back));
            if back.is_some_and(means) {
                protocol::happen(&mut world, setup, protocol::Action::DeleteAgain(r, c));
            }
            if world.slot(r, c).phase == Phase::Idle && world.slot(r, c).unstored.is_some() {
                protocol::start(&mut world, setup, r, c);
                finish(&mut world, setup, r, c);
            }
            if world.slot(r, c).held.is_some() {
                protocol::happen(&mut world, setup, protocol::Action::Check(r, c));
                finish(&mut world, setup, r, c);
            }
        }
    }
    // What anybody still has may not be lost now.
    let healthy = world.store[usize::from(c)].record.is_some_and(|record| {
        let family = usize::from(record.token.family);
        let known = setup.authority == Authority::Entra || newest_is_known(&world, setup, family);
        !world.families[family].killed && known
    });
    world.era += 2;
    for _ in 0..4 {
        expire_orphans(&mut world, setup);
        if world.slot(r, c).phase == Phase::Idle {
            protocol::start(&mut world, setup, r, c);
        }
        finish(&mut world, setup, r, c);
        if world.slot(r, c).held.is_some_and(|held| world.lives(&held)) {
            return true;
        }
    }
    match world.store[usize::from(c)].record {
        None => true,
        Some(record) => {
            let index = usize::from(record.token.family);
            let family = &world.families[index];
            record.dead && !healthy && (family.killed || !newest_is_known(&world, setup, index))
        }
    }
}

fn finish(world: &mut World, setup: &Setup, r: u8, c: u8) {
    // No flight has more steps than this; one that goes round for ever is caught by what follows.
    for _ in 0..24 {
        if matches!(world.slot(r, c).phase, Phase::Idle | Phase::Deaf) {
            return;
        }
        protocol::step(world, setup, r, c);
    }
}

fn expire_orphans(world: &mut World, setup: &Setup) {
    for c in 0..setup.connections {
        if protocol::holder(world, setup, c).is_none() && !setup.has(crate::Bug::LeaseWithoutEnd) {
            crate::store::expire(world, c);
        }
    }
}
