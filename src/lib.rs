//! tokenward: an OAuth token broker for Microsoft Entra ID and any other OpenID provider.

pub mod authority;
pub mod callers;
pub mod domain;
pub mod keyring;
pub mod policy;
pub mod store;
#[cfg(any(test, feature = "testkit"))]
pub mod testkit;
