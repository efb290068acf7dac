//! Pure values and their transitions: what a connection, a grant, a scope or a token *is*.
//!
//! May know: std and small data crates (`serde`'s derive, `time`, `zeroize`, `hex`, a digest of `aws-lc-rs`).
//! Never tokio, hyper, redis, prometheus or serde_json. Time, randomness and task spawning are traits here
//! and values everywhere else.
//!
//! Invariants: a status changes only through [`connection::Profile`]'s transitions; a secret has no `Debug`,
//! `Display` or `Serialize`; two spellings of one scope are one [`scope::Scope`].
//!
//! The one hard problem: telling a verdict on a user's grant from everything else that can go wrong
//! ([`verdict`]), because only a verdict may change a connection.

pub mod account;
pub mod app_only;
pub mod auth_method;
pub mod backoff;
pub mod base62;
pub mod bucket;
pub mod cause;
pub mod certificate_names;
pub mod choice;
pub mod clouds;
pub mod connection;
pub mod credential;
pub mod digest;
pub mod expiry;
pub mod forecast;
pub mod grant;
pub mod handle;
pub mod id;
pub mod json_text;
pub mod label;
pub mod not_now;
pub mod notice;
pub mod own_tokens;
#[cfg(any(test, feature = "testkit"))]
pub mod properties;
pub mod proxy;
pub mod random;
pub mod reference;
pub mod remarks;
pub mod revocation;
pub mod scope;
pub mod secret;
pub mod task;
pub mod tenant_block;
pub mod tenants;
pub mod text;
pub mod time;
pub mod token;
pub mod token_hosts;
pub mod user_consent;
pub mod verdict;
