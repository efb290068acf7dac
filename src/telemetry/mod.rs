//! The process's own reports: metrics, logs and the audit stream.
//!
//! May know: `domain`'s names and words, and what a listener knows of a request. Never a token, a code, a
//! secret or an assertion; no names of connections in metrics, and no usernames anywhere.

pub mod audit;
pub mod logging;
pub mod metrics;
pub mod sampler;
pub mod series;
pub mod session_mark;
pub mod traces;
