//! A connection in memory.

use crate::domain::scope::ScopeSet;
use crate::repository::Connection;

/// A connection in memory. It has no refresh token.
pub struct Held {
    /// The connection.
    pub connection: Connection,
    /// Its granted scopes, parsed once.
    pub granted: ScopeSet,
}
