//! What the process tells about itself: metrics, logs and the audit stream.
//!
//! May know: `domain`'s names and words. Never a token, a code, a secret or an assertion; no names of
//! connections in metrics, no usernames anywhere.

pub mod metrics;
