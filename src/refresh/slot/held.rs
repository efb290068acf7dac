//! A cached connection.

use crate::domain::scope::ScopeSet;
use crate::repository::Connection;

/// A cached connection. It has no refresh token.
pub struct Held {
    /// The connection.
    pub connection: Connection,
    /// Its granted scopes, parsed once.
    pub granted: ScopeSet,
}
