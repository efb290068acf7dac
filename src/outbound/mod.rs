//! The way out: how every outgoing request gets to its host, and whose certificate counts there.
//!
//! May know: `domain`, HTTP, TLS. It knows no authority, no store and no caller.
//!
//! Invariants:
//! 1. A connection goes where the operator's proxies and exceptions say, and nowhere else.
//! 2. A name leads to addresses of the kind that its owner may lead to (`AddressGuard`).
//! 3. No redirect is followed. What is sent to a resource is what its caller was judged by; nothing is
//!    repeated that may have arrived.
//!
//! The one hard problem: a body of any length has no time limit of its own. So a resource is judged by its
//! silence: by the time in which no byte of request or answer moved (`resource.rs`).

mod address;
mod resource;
mod roots;
mod times;
mod way_out;

pub(crate) use address::{AddressGuard, GuardedResolver, Reach};
pub use resource::{
    Answered, Leads, Obstacle, Resource, ResourceAnswerBody, ResourceBody, ResourceFault, Settings, Silence,
};
pub(crate) use roots::tls_config;
pub use roots::{Roots, RootsFault};
pub(crate) use times::{http_date, retry_after};
pub use way_out::Outbound;
pub(crate) use way_out::{STEP, WayOut};
