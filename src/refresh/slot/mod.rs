//! One slot for each connection in use. A slot is locked for a few instructions, never across an await, and
//! never two at once.

mod at;
mod flight;
mod hand_outs;
mod held;
mod map;
mod memory;
mod remembered;
mod state;
mod trouble;
mod weight;

pub(super) use at::{At, OwnedAt};
pub(super) use flight::{Flight, Work};
pub use held::Held;
pub(super) use map::Slots;
#[cfg(test)]
pub(super) use memory::Memory;
pub(super) use memory::{Caching, Epoch, Journaling, Known, Look, Source};
pub(super) use remembered::{Recent, Repair};
pub(super) use state::{Slot, none_is_locked_here};
pub(super) use trouble::{Trouble, attempt, next_try_after};
