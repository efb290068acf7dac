//! Turns at a mailbox: whose request may be under way, when a mailbox takes only a few at a time. Pure: time,
//! the limit and the names of replicas are arguments.
//!
//! Microsoft Graph takes at most four requests of one app at one mailbox at a time, and refuses the fifth.
//! Several callers and several replicas share these four. They share one record of each mailbox
//! ([`Line`]): who is under way, who waits, and who has had how much. A replica changes it by
//! compare-and-swap. What it writes is made from what it read and from its own turns ([`Line::merge`]), never
//! from what it believes of others.
//!
//! May know: `domain` (time), std and small data crates. It knows no store and no clock.
//!
//! Invariants:
//! 1. A turn begins only if the places of all turns under way, its own included, are within the limit; or
//!    if nothing else is under way.
//! 2. The next turn is of the waiting caller that has had the least lately; of its turns, the oldest. Nothing
//!    overtakes it, also where a smaller request would have room; but if the caller itself has something
//!    under way, other callers do.
//! 3. A replica begins and ends its own turns alone. The turns of another one end only when that one has not
//!    been heard of for [`SILENT`].
//! 4. A record that was lost or rolled back is made whole by the next merge of each replica: what is under
//!    way stays counted.
//!
//! The one hard problem: a replica that dies must not keep its places, and one that is slow must not lose
//! them. Clocks of several machines do not agree, so no instant is shared. Each replica counts in the record
//! while it has turns there ([`BEAT`]), and another one takes it for dead when the count stood still for
//! [`SILENT`] by its own clock.

mod desk;
mod line;
#[cfg(test)]
mod simulation_tests;
#[cfg(test)]
mod tests;
mod watch;

pub use desk::{Desk, Full, MOST_WAITING, MOST_WAITING_OF_CALLER};
pub use line::{LONGEST_CLOSED, Line, Mine, ReplicaId, Ticket, Turn};
pub use watch::{BEAT, SILENT, Watch};
