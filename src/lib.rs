//! tokenward: an OAuth token broker for Microsoft Entra ID and any other OpenID provider.

pub mod api;
pub mod app;
pub mod authority;
pub mod broker;
pub mod callers;
pub mod cli;
pub mod config;
pub mod domain;
pub mod events;
pub mod flight;
pub mod journal;
pub mod jwe;
pub mod jwt;
pub mod keyring;
pub mod lifecycle;
pub mod listener;
pub mod mailbox;
pub mod notices;
pub mod ops;
pub mod outbound;
pub mod policy;
pub mod public;
pub mod refresh;
pub mod relay;
pub mod repository;
pub mod secret_file;
pub mod span;
pub mod store;
pub mod system;
pub mod telemetry;
#[cfg(any(test, feature = "testkit"))]
pub mod testkit;
