//! The emulator from outside: everything here goes over its sockets.

#![expect(clippy::unwrap_used, reason = "helpers of tests may unwrap as tests may")]

mod client;
mod sign_in;
