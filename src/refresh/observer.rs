//! What the engine tells telemetry.

use std::time::Duration;

use crate::domain::cause::Cause;
use crate::domain::connection::Status;
use crate::domain::id::AppName;

/// What a look for a token in memory found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lookup {
    /// A token with enough life left.
    Hit,
    /// A token that is served while it is renewed.
    Stale,
    /// No token to serve.
    Miss,
}

/// What became of a lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LeaseOutcome {
    /// This replica has it.
    Acquired,
    /// Another replica has it.
    Held,
    /// The store did not answer.
    Unreachable,
    /// It passed to another replica while this one used it.
    Lost,
}

/// Told of what the engine does; telemetry listens.
pub trait Observer: Send + Sync {
    /// A token was looked for in memory.
    fn cache_lookup(&self, result: Lookup);
    /// A call to the authority for a connection ended; `outcome` is `ok` or a disposition's word.
    fn refreshed(&self, app: &AppName, outcome: &'static str, elapsed: Duration);
    /// A verdict of the authority changed a connection.
    fn judged(&self, app: &AppName, tenant: Option<&str>, status: Status);
    /// A round of the sweep was made.
    fn swept(&self, swept: Swept);
    /// A call that nobody waits for who has no token was begun, or had to wait because the budget was used
    /// up.
    fn budgeted(&self, cause: Cause, is_begun: bool);
    /// A lease was tried for, or lost while it was used.
    fn lease(&self, outcome: LeaseOutcome);
}

/// What a round did, for an operator to see.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Swept {
    /// Shards that were this replica's.
    pub shards: u32,
    /// Connections taken up.
    pub begun: u32,
    /// Connections that were due and have to wait for a budget.
    pub waiting: u32,
}
