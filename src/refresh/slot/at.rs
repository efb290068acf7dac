//! A connection and its slot, as drivers and tasks have it.

use std::sync::Arc;

use super::map::Slots;
use super::state::{Locked, Slot};
use crate::domain::id::ConnectionKey;

/// A connection and its slot: what a driver works on.
#[derive(Clone, Copy)]
pub(in crate::refresh) struct At<'a> {
    pub(in crate::refresh) key: &'a ConnectionKey,
    pub(in crate::refresh) slot: &'a Arc<Slot>,
    pub(in crate::refresh) slots: &'a Arc<Slots>,
}

impl At<'_> {
    /// The slot's state, locked.
    pub(in crate::refresh) fn state(&self) -> Locked<'_> {
        self.slot.state()
    }

    /// Its own copy, for a task.
    pub(in crate::refresh) fn owned(&self) -> OwnedAt {
        OwnedAt { key: self.key.clone(), slot: self.slot.clone(), slots: self.slots.clone() }
    }
}

/// A connection and its slot, for a task.
pub(in crate::refresh) struct OwnedAt {
    key: ConnectionKey,
    slot: Arc<Slot>,
    slots: Arc<Slots>,
}

impl OwnedAt {
    pub(in crate::refresh) fn at(&self) -> At<'_> {
        At { key: &self.key, slot: &self.slot, slots: &self.slots }
    }

    /// Gives the slot back. It is dropped if it knows nothing and nobody else has it.
    pub(in crate::refresh) fn give_back(self) {
        self.slots.give_back(&self.key, self.slot);
    }
}
