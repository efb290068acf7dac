//! `doctor`: looks at everything that a configuration names, and says what is wrong, whose fault it is and
//! what helps.
//!
//! [`probe`] asks: the files, the authorities, the store. [`judge`](judge::judge) decides, and asks nobody.

mod clocks;
pub mod facts;
pub mod finding;
pub mod judge;
mod of_app;
mod of_credentials;
mod of_store;
mod of_traces;
mod of_webhooks;
pub mod probe;
