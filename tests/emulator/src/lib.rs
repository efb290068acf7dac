//! A local stand-in for Microsoft Entra ID's v2.0 endpoints and a corner of Microsoft Graph.
//!
//! It signs users in, issues and rotates tokens, and fails on demand the way the real service is known to
//! fail. Every request is kept in a ledger that never holds a secret. Nothing here is secure, on purpose: it
//! listens on loopback only.
//!
//! ```
//! # async fn demo() -> Result<(), Box<dyn std::error::Error>> {
//! use entra_emulator::{App, Emulator, Endpoint, Fault, FaultRule, User};
//!
//! let emulator = Emulator::builder()
//!     .app(App::new("my-app").secret("s3cret").redirect_uri("http://localhost:8080/callback"))
//!     .user(User::work("alice@contoso.example"))
//!     .start()
//!     .await?;
//! let authority = emulator.authority("common");
//! emulator.faults().inject(FaultRule::new(Endpoint::Token, Fault::aadsts(90033)).once());
//! # drop(authority);
//! emulator.stop().await;
//! # Ok(())
//! # }
//! ```
//!
//! # The map
//! `server` reads requests, applies faults and routes to the handlers: `discovery`, `authorize` (with
//! `callback` and `pages`), `token` (with `client_auth` and `issue`), `admin_consent` and `graph` (with `mailbox`). They work
//! on one `state`, made of the `directory`, the `keys`, the `ledger`, the fault rules and the `clock`.
//! `emulator` and `control` turn the same knobs, from Rust and over HTTP.

mod admin_consent;
mod authorize;
mod callback;
mod client_auth;
mod clock;
mod control;
mod directory;
mod discovery;
mod emulator;
mod errors;
mod faults;
mod graph;
mod issue;
mod keys;
mod ledger;
mod mailbox;
mod message;
mod pages;
mod random;
mod scope;
mod server;
mod settings;
mod spec;
mod state;
mod tls;
mod token;

pub use directory::{App, Audience, FederatedCredential, PERSONAL_TENANT, User};
pub use emulator::{Builder, Emulator, Faults, KnobError, StartError};
pub use faults::{CallbackPatch, Fault, FaultRule, Garbage, IdTokenSigning, RetryAfter};
pub use graph::ChallengeStyle;
pub use ledger::{AuthMethod, Endpoint, LedgerEntry};
pub use settings::{AdminApproval, ConsentPolicy, Mode, ScopeStyle, Settings};
pub use spec::Config;
pub use state::RevokeKind;
