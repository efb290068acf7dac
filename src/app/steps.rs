//! A daemon's local API for `benches/steps`, which calls it without a listener.

use std::sync::Arc;

use super::Daemon;
use crate::api::{CallersUrl, LocalApi, Steps};
use crate::callers::limit::Limiter;
use crate::domain::auth_method::{AuthMethods, LiveAuthMethods};

impl Daemon {
    /// A local API that accepts every credential, as `edges.rs` makes one for a listener.
    pub fn steps(&self) -> Steps {
        let process = &self.parts.process;
        Steps(Arc::new(LocalApi::new(
            self.parts.core.broker.clone(),
            self.parts.in_force.roster().callers.clone(),
            LiveAuthMethods::new(AuthMethods::all()),
            Arc::new(Limiter::default()),
            process.ports.clock.clone(),
            self.parts.events.clone(),
            CallersUrl { issuer: String::new(), configured: None },
        )))
    }
}
