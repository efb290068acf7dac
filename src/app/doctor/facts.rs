//! What the probes saw. Plain values, for a judgement that asks nobody.

use std::path::PathBuf;
use std::time::Duration;

use crate::authority::{LookedAt, RedirectSeen, RegistrationSeen};
use crate::config::Mistake;
use crate::domain::scope::ScopeSet;
use crate::domain::time::Timestamp;
use crate::notices::Probed;
use crate::store::redis::Found;
use crate::telemetry::traces;

/// All of it.
#[derive(Debug, Clone, Default)]
pub struct Facts {
    /// When it was asked.
    pub now: Timestamp,
    /// The configuration file, as it was named.
    pub config: String,
    /// Mistakes of the configuration and its files: `serve` would refuse to start.
    pub mistakes: Vec<Mistake>,
    /// Its warnings.
    pub warnings: Vec<Mistake>,
    /// The apps, as far as they could be made.
    pub apps: Vec<AppFacts>,
    /// Apps that could not be looked at because of mistakes.
    pub left_out: Vec<String>,
    /// The store; `None` if mistakes keep it from being looked at.
    pub store: Option<StoreFacts>,
    /// The collector of traces; `None` without one, or if a mistake keeps it from being asked.
    pub collector: Option<CollectorFacts>,
    /// The webhooks whose files are as they must be.
    pub webhooks: Vec<WebhookFacts>,
}

/// A webhook.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WebhookFacts {
    /// Its name.
    pub name: String,
    /// The host that it leads to. (The rest of its URL may be a secret.)
    pub host: String,
    /// The words for the way out that was configured.
    pub way_out: String,
    /// How it answered a request without an event.
    pub probed: Probed,
    /// What a running daemon says of its deliveries.
    pub heard: Option<HeardOfWebhook>,
}

/// What a running daemon says of a webhook whose last requests failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeardOfWebhook {
    /// True if it answered 410.
    pub is_gone: bool,
    /// When the first of them failed.
    pub since: Timestamp,
    /// How long ago that is, by the daemon's clock.
    pub lasts: Duration,
    /// How the last one failed.
    pub why: String,
}

/// The collector of traces.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CollectorFacts {
    /// Its URL.
    pub url: String,
    /// The words for the way out that was configured.
    pub way_out: String,
    /// How it answered a message without spans.
    pub probed: traces::Probed,
}

/// One app.
#[derive(Debug, Clone)]
pub struct AppFacts {
    /// Its name.
    pub name: String,
    /// Its client id.
    pub client_id: String,
    /// The authority's URL.
    pub authority: String,
    /// Where the app is registered, if that is known.
    pub home_tenant: Option<String>,
    /// The words for the way out that was configured.
    pub way_out: String,
    /// Which roots are trusted there.
    pub roots: &'static str,
    /// True for Microsoft Entra.
    pub is_entra: bool,
    /// True if only personal accounts can sign in: nobody administers them.
    pub is_personal: bool,
    /// The Graph to which bare scopes belong, in lower case; `None` for another provider.
    pub graph: Option<String>,
    /// What the app asks for.
    pub scopes: ScopeSet,
    /// What the authority showed.
    pub looked: LookedAt,
    /// Its client credentials.
    pub credentials: Vec<CredentialFacts>,
    /// The address that a sign-in comes back to.
    pub redirect_uri: String,
    /// What a request with it showed; `None` if it was not tried.
    pub redirect: Option<RedirectSeen>,
    /// Its registration; `None` if it was not tried.
    pub registration: Option<RegistrationSeen>,
}

/// One client credential.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CredentialFacts {
    /// The operator's name for it.
    pub id: String,
    /// `secret`, `certificate` or `federated`.
    pub kind: &'static str,
    /// When it ends, if that is known here.
    pub expires_at: Option<Timestamp>,
    /// True for a secret that is a GUID.
    pub is_guid: bool,
    /// True if an operator retired it: it is not used, whatever the authority says of it.
    pub is_retired: bool,
    /// What the authority says of it.
    pub answer: Answer,
}

/// What an authority says of a credential.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// It takes it.
    Accepted,
    /// It does not, for this reason and with these numbers.
    Rejected(String, Vec<u32>),
    /// It said something else, or nothing.
    Unknown(String, Vec<u32>),
    /// It was not asked, for this reason.
    NotAsked(String),
    /// It was not asked from here; the running daemon can ask it.
    ByDaemon(String),
}

/// The store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StoreFacts {
    /// A file on this machine.
    Embedded {
        /// The store's directory.
        path: PathBuf,
        /// True if there is a file in it.
        is_there: bool,
        /// Bytes that are free on its disk, and all that there are.
        room: Option<(u64, u64)>,
    },
    /// Redis.
    Redis {
        /// The words for where it is.
        place: String,
        /// What its servers showed, or why none could be reached.
        found: Result<Found, String>,
        /// True if the daemon writes the store's name to this machine's disk too: `store.journal`.
        remembers: bool,
    },
}
