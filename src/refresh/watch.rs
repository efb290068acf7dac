//! Tells who watches a connection when to look again. It polls nothing: each change of the slot wakes them.

use std::sync::Arc;

use super::slot::{Slot, Slots};
use crate::domain::id::ConnectionKey;

/// A watched connection. Its slot stays while it is watched, so that every change meets it.
pub struct Watched {
    key: ConnectionKey,
    slots: Arc<Slots>,
    slot: Option<Arc<Slot>>,
}

impl Watched {
    pub(super) fn new(key: ConnectionKey, slot: Arc<Slot>, slots: Arc<Slots>) -> Self {
        Watched { key, slots, slot: Some(slot) }
    }

    /// Returns how often it changed. Ask before you look at the connection.
    pub fn changes(&self) -> u64 {
        self.slot.as_ref().map_or(0, |slot| slot.changes())
    }

    /// Completes once it changed more often than this. It may complete without a difference to a caller.
    pub async fn changed_since(&self, seen: u64) {
        match &self.slot {
            Some(slot) => slot.changed_since(seen).await,
            None => std::future::pending().await,
        }
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        if let Some(slot) = self.slot.take() {
            self.slots.give_back(&self.key, slot);
        }
    }
}
