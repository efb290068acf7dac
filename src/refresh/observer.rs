//! What the engine tells telemetry.

use std::time::Duration;

use crate::domain::cause::Cause;
use crate::domain::connection::Status;
use crate::domain::id::AppName;

/// Result of a look for a cached token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lookup {
    /// A token with enough life left.
    Hit,
    /// A token that is served while it is renewed.
    Stale,
    /// No token to serve.
    Miss,
}

/// Result of trying for a lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LeaseOutcome {
    /// This replica has it.
    Acquired,
    /// Another replica has it.
    Held,
    /// The store did not answer.
    Unreachable,
    /// It passed to another replica during its use.
    Lost,
}

/// Receives the engine's events, for telemetry.
pub trait Observer: Send + Sync {
    /// A request looked for a cached token.
    fn cache_lookup(&self, result: Lookup);
    /// A call to the authority for a connection ended; `outcome` is `ok` or a disposition's word.
    fn refreshed(&self, app: &AppName, outcome: &'static str, elapsed: Duration);
    /// A verdict of the authority changed a connection.
    fn judged(&self, app: &AppName, tenant: Option<&str>, status: Status);
    /// A round of the sweep ended.
    fn swept(&self, swept: Swept);
    /// A call that no request without a token waits for was begun, or was put off because the budget was used
    /// up.
    fn budgeted(&self, cause: Cause, is_begun: bool);
    /// A lease was requested, or lost during its use.
    fn lease(&self, outcome: LeaseOutcome);
}

/// Result of a round, for an operator.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Swept {
    /// Shards that this replica had.
    pub shards: u32,
    /// Connections renewed.
    pub begun: u32,
    /// Due connections that wait for a budget.
    pub waiting: u32,
    /// Shards of which nobody knows whose they are: the store did not say when it was last asked. So the
    /// round looked for less than it should, and does not count as made.
    pub unknown: u32,
}
