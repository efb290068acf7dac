//! The keys that an issuer publishes, and the port by which they are fetched.

use super::keys::{Algorithm, KeySet};
use crate::domain::task::BoxFuture;

/// What an issuer publishes about its signatures.
pub struct PublishedKeys {
    /// Its keys.
    pub keys: KeySet,
    /// The algorithms that its discovery document names; `None` if it names none, or there is no document.
    pub algorithms: Option<Vec<Algorithm>>,
}

impl PublishedKeys {
    /// Returns true if the issuer signs with this algorithm, as far as it says.
    pub fn allow(&self, algorithm: Algorithm) -> bool {
        self.algorithms.as_ref().is_none_or(|named| named.contains(&algorithm))
    }
}

/// Fetches an issuer's keys. Each call asks the issuer, and ends by a time limit of its own.
pub trait FetchKeys: Send + Sync {
    /// Fetches them. `Err` says in our words why they could not be had.
    fn fetch(&self) -> BoxFuture<'_, Result<PublishedKeys, String>>;
}
