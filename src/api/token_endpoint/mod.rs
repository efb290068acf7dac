//! The OAuth token endpoint: its form, its clients and its requests (RFC 6749, RFC 8693). Pure: nothing is
//! asked and nothing is served here.

pub(super) mod client;
pub(super) mod form;
pub(super) mod metadata;
pub(super) mod request;
