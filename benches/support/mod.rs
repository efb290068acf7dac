//! What the benches share: starting a daemon and an account for it, reading answers, spreads of figures.

#![allow(dead_code, reason = "each bench uses a part of it")]

pub mod account;
pub mod answer;
pub mod daemon;
pub mod process;
pub mod rounds;
pub mod spread;

#[path = "../../tests/support/http.rs"]
pub mod http_client;
#[path = "../../tests/support/setup.rs"]
pub mod setup;

pub use self::http_client::Failure;

/// The daemon's allocator, so that none gains by another one.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;
