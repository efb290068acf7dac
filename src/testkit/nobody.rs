//! An observer of the engine that notes nothing.

use std::time::Duration;

use crate::domain::cause::Cause;
use crate::domain::connection::Status;
use crate::domain::id::AppName;
use crate::refresh::{LeaseOutcome, Lookup, Observer, Swept};

/// Ignores everything.
pub(crate) struct Nobody;

impl Observer for Nobody {
    fn cache_lookup(&self, _result: Lookup) {}
    fn refreshed(&self, _app: &AppName, _outcome: &'static str, _elapsed: Duration) {}
    fn judged(&self, _app: &AppName, _tenant: Option<&str>, _status: Status) {}
    fn swept(&self, _swept: Swept) {}
    fn budgeted(&self, _cause: Cause, _is_begun: bool) {}
    fn lease(&self, _outcome: LeaseOutcome) {}
}
