//! A soak test: real daemons, a real Redis (with sentinels), an emulator of Entra, callers that keep a
//! ledger, and faults of every kind from a seeded plan. Afterwards a checker compares the records of callers,
//! daemons and the authority with tokenward's promises.
//!
//! ```text
//! cargo run -p soak -- --minutes 1 --faults 20 --seed 7 --mode entra --redis standalone
//! ```
//!
//! - [`world`] starts everything and connects accounts; every way from a replica to a server goes through a
//!   [`proxy::Link`] of its own, which can be cut, slowed, reset or left half open.
//! - [`plan`] draws the faults of a seed, [`faults`] makes them, [`caller`] asks for tokens meanwhile through
//!   every one of the [`doors`], and [`acts`] deletes, revokes and pauses connections, and has the authority
//!   judge their users.
//! - [`flood`] is another drill: one daemon under every flood at once.
//! - [`check`] is pure and reads nothing but [`ledger::Evidence`]: a run that was kept can be checked again.

#![allow(
    clippy::disallowed_methods,
    reason = "the soak looks at the daemon from outside, with the real clock and tasks"
)]

pub mod access;
pub mod acts;
pub mod caller;
pub mod check;
pub mod client;
pub mod daemon;
pub mod doors;
pub mod faults;
pub mod flood;
pub mod ledger;
pub mod listener;
pub mod plan;
pub mod ports;
pub mod proxy;
pub mod random;
pub mod redis;
pub mod run;
pub mod slow;
pub mod world;

#[path = "../../support/config_text.rs"]
mod config_text;
#[path = "../../support/http.rs"]
mod http_client;
#[path = "../../it/pki.rs"]
mod pki;
#[path = "../../../src/jwt/testing.rs"]
mod tokens;
