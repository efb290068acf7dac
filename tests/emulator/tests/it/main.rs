//! The emulator from outside: everything here goes over its sockets.

#![expect(clippy::unwrap_used, reason = "helpers of tests may unwrap as tests may")]

mod client;
mod consent;
mod control;
mod credentials;
mod discovery;
mod faults;
mod graph;
mod https;
mod interactive;
mod refusals;
mod sign_in;
