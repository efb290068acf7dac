//! What happened here, as values, for whoever counts.

use std::time::Duration;

use super::client_auth::SecretMethod;

/// Receives each event as it happens. Must not block.
pub trait AuthorityObserver: Send + Sync {
    /// One event.
    fn observe(&self, event: AuthorityEvent<'_>);
}

/// Observes nothing.
#[derive(Debug, Clone, Copy, Default)]
pub struct Unobserved;

impl AuthorityObserver for Unobserved {
    fn observe(&self, _: AuthorityEvent<'_>) {}
}

/// Which of the authority's endpoints was called.
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
    /// Every word of [`Endpoint::as_str`].
    pub const WORDS: [&'static str; 3] = ["discovery", "keys", "token"];

    /// The word for metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Endpoint::Discovery => "discovery",
            Endpoint::Keys => "keys",
            Endpoint::Token => "token",
        }
    }
}

/// Something worth counting.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AuthorityEvent<'a> {
    /// One HTTP exchange ended.
    Request {
        /// Where it went.
        endpoint: Endpoint,
        /// `ok`, or [`Disposition::as_str`](crate::domain::verdict::Disposition::as_str).
        outcome: &'static str,
        /// How long it took.
        duration: Duration,
    },
    /// The authority accepted a client credential.
    CredentialAccepted {
        /// The credential's label.
        id: &'a str,
        /// It was not trusted until now.
        is_news: bool,
    },
    /// The authority rejected a client credential.
    CredentialRejected {
        /// The credential's label.
        id: &'a str,
        /// The authority's numbers, such as 7000222 for a secret that expired.
        codes: &'a [u32],
        /// Why, in our words, and how it was sent.
        cause: &'a str,
        /// It was not rejected until now.
        is_news: bool,
    },
    /// A client credential was refused in words that may be about it or about a tenant; or nothing has worked with it yet, and several
    /// accounts were refused without a reason.
    CredentialDoubted {
        /// The credential's label.
        id: &'a str,
    },
    /// A secret was taken in the other way than the one that had been guessed; that is the way from now on.
    SecretMethodSeen {
        /// Which.
        method: SecretMethod,
    },
    /// A client credential could not be used at all, such as an assertion whose file is missing or out of date.
    CredentialUnusable {
        /// The credential's label.
        id: &'a str,
        /// Why, in our words.
        cause: &'a str,
        /// It was usable until now.
        is_news: bool,
    },
    /// A secret was not sent, because the token host is another one than before. Once for each host.
    HeldBack {
        /// Why, in our words, and what to do.
        cause: &'a str,
    },
    /// The discovery document or the key set could not be renewed; the last good one is still in use.
    ServingLastGood {
        /// Which of the two.
        endpoint: Endpoint,
    },
}
