//! Signed JSON Web Tokens (RFC 7515, 7517, 7519): key sets, parsing, signatures and times. Shared by the
//! rooms that judge tokens: `authority` for `id_token`s, `callers` for callers' own tokens.
//!
//! May know: `domain`, aws-lc-rs, JSON. It knows no HTTP and no clock: the present time is an argument.
//!
//! Invariants:
//! 1. `none` and the symmetric algorithms are not known here, so nothing can allow them (RFC 8725 §3.1).
//! 2. A key verifies only the algorithms of its own kind; a token never brings a key with it (RFC 8725
//!    §3.10): `jku`, `jwk`, `x5u` and `x5c` are ignored.
//! 3. A token with a `crit`, a repeated member or an encrypted content is refused.
//! 4. Everything read here costs at most a constant for each byte, and at most eight signature checks.
//!
//! The one hard problem: every claim is a stranger's word until the signature was checked. So a claim is
//! reached through a type that says so.

pub mod json;
pub mod keys;
mod published;
#[cfg(test)]
pub(crate) mod testing;
mod token;

pub use published::{FetchKeys, PublishedKeys};
pub use token::{JwtFault, SKEW, Times, UnverifiedJwt};
