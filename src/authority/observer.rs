//! Events of this room, as values.

use std::time::Duration;

use super::client_auth::SecretMethod;

/// Receives events. It must not block.
pub trait AuthorityObserver: Send + Sync {
    /// Receives one event.
    fn observe(&self, event: AuthorityEvent<'_>);
}

/// Ignores all events.
#[derive(Debug, Clone, Copy, Default)]
pub struct Unobserved;

impl AuthorityObserver for Unobserved {
    fn observe(&self, _: AuthorityEvent<'_>) {}
}

/// An endpoint of the authority.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Endpoint {
    /// The discovery document.
    Discovery,
    /// The key set.
    Keys,
    /// The token endpoint.
    Token,
}

impl Endpoint {
    /// All words of [`Endpoint::as_str`].
    pub const WORDS: [&'static str; 3] = ["discovery", "keys", "token"];

    /// Its name in metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Endpoint::Discovery => "discovery",
            Endpoint::Keys => "keys",
            Endpoint::Token => "token",
        }
    }
}

/// An event worth counting.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AuthorityEvent<'a> {
    /// One HTTP exchange ended.
    Request {
        /// The called endpoint.
        endpoint: Endpoint,
        /// `ok`, or [`Disposition::as_str`](crate::domain::verdict::Disposition::as_str).
        outcome: &'static str,
        /// Its duration.
        duration: Duration,
    },
    /// The authority accepted a client credential.
    CredentialAccepted {
        /// The credential's label.
        id: &'a str,
        /// True if it was not trusted until now.
        is_news: bool,
    },
    /// The authority rejected a client credential.
    CredentialRejected {
        /// The credential's label.
        id: &'a str,
        /// The authority's numbers, such as 7000222 for an expired secret.
        codes: &'a [u32],
        /// The cause in our words, and how the credential was sent.
        cause: &'a str,
        /// True if it was not rejected until now.
        is_news: bool,
    },
    /// A client credential was refused with an error that may concern it or a tenant; or nothing has worked
    /// with it yet, and several accounts were refused without a reason.
    CredentialSuspected {
        /// The credential's label.
        id: &'a str,
    },
    /// A secret was accepted by the method that had not been guessed, which is used from now on.
    SecretMethodSeen {
        /// The method.
        method: SecretMethod,
    },
    /// A client credential could not be used at all: an assertion's file is missing or outdated, for example.
    CredentialUnusable {
        /// The credential's label.
        id: &'a str,
        /// The cause in our words.
        cause: &'a str,
        /// True if it was usable until now.
        is_news: bool,
    },
    /// A secret was not sent because the token host differs from before. Reported once for each host.
    HeldBack {
        /// The cause in our words, and what to do.
        cause: &'a str,
    },
    /// The discovery document or the key set could not be renewed; the last good one stays in use.
    ServingLastGood {
        /// Which of the two.
        endpoint: Endpoint,
    },
}
