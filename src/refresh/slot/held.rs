//! A cached connection.

use std::any::Any;
use std::sync::Arc;

use parking_lot::Mutex;

use crate::domain::scope::ScopeSet;
use crate::repository::Connection;

/// A cached connection. It has no refresh token.
pub struct Held {
    /// The connection.
    pub connection: Connection,
    /// Its granted scopes, parsed once.
    pub granted: ScopeSet,
    /// What has been prepared of it.
    pub prepared: Prepared,
}

impl Held {
    /// Caches a connection.
    pub fn new(connection: Connection, granted: ScopeSet) -> Self {
        Held { connection, granted, prepared: Prepared::default() }
    }
}

/// What is the same for every hand-out of a cached token, such as the text around it in an answer: made once,
/// and gone with the next change of the connection. It never holds the token itself.
#[derive(Default)]
pub struct Prepared(Mutex<Vec<Part>>);

/// A token by its place in the connection, and what was prepared of it.
type Part = (usize, Arc<dyn Any + Send + Sync>);

impl Prepared {
    /// Returns what was prepared as a `T` of the token at this place, or makes it. There is one of each type
    /// for a token.
    pub fn of<T: Any + Send + Sync>(&self, at: usize, make: impl FnOnce() -> T) -> Arc<T> {
        if let Some(known) = self.known(at) {
            return known;
        }
        // (Two may make it at once: the second is used by its maker alone.)
        let made = Arc::new(make());
        let mut parts = self.0.lock();
        if !parts.iter().any(|(of, part)| *of == at && part.is::<T>()) {
            parts.push((at, Arc::clone(&made) as _));
        }
        made
    }

    /// The same of the connection as a whole.
    pub fn of_connection<T: Any + Send + Sync>(&self, make: impl FnOnce() -> T) -> Arc<T> {
        self.of(usize::MAX, make)
    }

    fn known<T: Any + Send + Sync>(&self, at: usize) -> Option<Arc<T>> {
        let parts = self.0.lock();
        let (_, part) = parts.iter().find(|(of, part)| *of == at && part.is::<T>())?;
        let part = Arc::clone(part);
        drop(parts);
        part.downcast().ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_token_has_one_of_each_type() {
        let prepared = Prepared::default();
        assert_eq!(*prepared.of(0, || "first".to_owned()), "first");
        assert_eq!(*prepared.of(0, || "again".to_owned()), "first");
        assert_eq!(*prepared.of(1, || "another token's".to_owned()), "another token's");
        assert_eq!(*prepared.of(0, || 7_u32), 7);
        assert_eq!(*prepared.of(0, || "still".to_owned()), "first");
    }
}
