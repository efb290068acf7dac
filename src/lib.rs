//! tokenward: an OAuth token broker for Microsoft Entra ID and any other OpenID provider.

pub mod authority;
pub mod domain;
pub mod lifecycle;
pub mod listener;
pub mod ops;
pub mod store;
pub mod system;
pub mod telemetry;
