//! The header fields of a request, however its head is kept.

use http::{HeaderMap, HeaderValue};

/// The header fields of a request, by name.
pub trait Fields {
    /// The values of a field, in their order. `name` is in lower case.
    fn values<'a>(&'a self, name: &'static str) -> impl Iterator<Item = &'a [u8]>;

    /// Whether the field is there.
    fn has(&self, name: &'static str) -> bool {
        self.values(name).next().is_some()
    }
}

impl Fields for HeaderMap {
    fn values<'a>(&'a self, name: &'static str) -> impl Iterator<Item = &'a [u8]> {
        self.get_all(name).iter().map(HeaderValue::as_bytes)
    }
}
