//! Caches a state of the connection that became known: parses its scopes, tells the memory, and weighs the
//! slot.

use std::time::Duration;

use super::ports::Ports;
use super::slot::{At, Caching, Epoch, Held, Known, Source};
use crate::repository::{Connection, Loaded};

/// Caches the result of a read of the store that began at `begun` (monotonic).
pub(super) fn read(ports: &Ports, at: At<'_>, epoch: Epoch, loaded: &Loaded, begun: Duration) {
    if is_succeeded_by_ours(ports, at, loaded) {
        at.state().memory.read_predecessor(epoch, begun);
        return;
    }
    put(ports, at, epoch, &loaded.connection, Source::Read(&loaded.sealed), begun);
}

/// Whether the journaled answer goes on top of the loaded state, although that is an answer too: another
/// replica's answer without a new refresh token leaves the token that ours used.
fn is_succeeded_by_ours(ports: &Ports, at: At<'_>, loaded: &Loaded) -> bool {
    let Some(used) = at.state().memory.used_beside(&loaded.connection).cloned() else { return false };
    let grant = ports.repository().open_grant(at.key, loaded).ok().flatten();
    grant.is_some_and(|grant| grant.current == used)
}

/// Caches a state that a read showed or that this process wrote, in the store or in the journal, by a read or
/// a write that began at `begun` (monotonic). Ignored if something was written or deleted since `epoch`.
pub(super) fn put(
    ports: &Ports,
    at: At<'_>,
    epoch: Epoch,
    connection: &Connection,
    source: Source<'_>,
    begun: Duration,
) {
    let Some(authority) = ports.authority(&at.key.app) else { return };
    let answer = at.state().memory.answer_on_top_of(connection).map(|answer| answer.connection.clone());
    let is_answer = answer.is_some();
    let connection = answer.unwrap_or_else(|| connection.clone());
    let granted = connection.profile.scopes_granted();
    let granted = ports.granted.of(&at.key.app, authority.scope_naming(), granted);
    let status = connection.profile.status();
    let is_ours = matches!(source, Source::Committed(_) | Source::Journaled);
    let known = Known { held: Held::new(connection, granted), is_answer, source, epoch, begun };
    let now = ports.monotonic();
    let is_shared = ports.repository().is_shared();
    let mut was = None;
    let is_cached = {
        let mut state = at.state();
        if is_ours {
            was = state.memory.cached().map(|held| held.connection.profile.status());
        }
        match state.memory.cache(known, now, is_shared) {
            Caching::Dropped => false,
            Caching::Done { replaces_sign_in } => {
                if replaces_sign_in {
                    state.troubles.grant_is_replaced();
                }
                true
            }
        }
    };
    if is_cached {
        if was.is_some() {
            ports.census.lock().changed(at.key, was, Some(status));
        }
        at.slots.weigh(at.key, at.slot, now);
        at.slot.stir();
    }
}
