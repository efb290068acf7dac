//! The kinds of pending records.

use crate::keyring::seal::Place;

/// The kind of a pending record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// A connect session, by the hash of its id.
    ConnectSession,
    /// An authorize request under way, by the hash of its `state`.
    State,
    /// An admin consent session, by the hash of its id.
    AdminConsentSession,
    /// A grant that waits for its connect session to be confirmed.
    Redeemed,
    /// The connection that a waiting grant replaces, as it was first read.
    Confirming,
    /// When the connections of a tenant were last tried because its administrator is said to have consented.
    ConsentTried,
    /// An authority's request not to be called for a while.
    Hold,
    /// How long idle grants of a tenant were seen to last.
    IdleLimit,
    /// An operator's revocation.
    Revocations,
    /// An operator's pause of a name.
    PausedName,
    /// Operators' choices of an app's client credentials.
    CredentialChoices,
    /// Confirmed token hosts.
    TokenHosts,
    /// The replicas' reports.
    Replicas,
    /// That a client's assertion was used.
    Assertion,
    /// How many connections have which status.
    Counts,
    /// Whose requests are under way at a mailbox, and whose wait.
    Mailbox,
    /// The tenants that block an app, and those that may.
    TenantBlocks,
    /// The ages at which an app's tenants end grants.
    SignInFrequency,
    /// What the last walk over all connections foresaw.
    Forecast,
    /// Until when handles live that a sealing key sealed. It is sealed by that key, and keeps it in the ring.
    HandlesOfKey,
    /// The handles that operators ended.
    EndedHandles,
    /// How far the import of a grant is, by the hash of its refresh token.
    Import,
    /// How far a webhook's notices are delivered.
    Webhook,
    /// What notices last said of an app's credentials.
    AppOutlook,
}

impl Kind {
    pub(super) fn schema(self) -> &'static str {
        match self {
            Kind::ConnectSession => "session",
            Kind::State => "state",
            Kind::AdminConsentSession => "consent",
            Kind::Redeemed => "redeemed",
            Kind::Confirming => "confirming",
            Kind::ConsentTried => "consent-tried",
            Kind::Hold => "hold",
            Kind::IdleLimit => "idle-limit",
            Kind::Revocations => "revocations",
            Kind::PausedName => "paused-name",
            Kind::CredentialChoices => "credential-choices",
            Kind::TokenHosts => "token-hosts",
            Kind::Replicas => "replicas",
            Kind::Assertion => "assertion",
            Kind::Counts => "counts",
            Kind::Mailbox => "mailbox",
            Kind::TenantBlocks => "tenant-blocks",
            Kind::SignInFrequency => "sign-in-frequency",
            Kind::Forecast => "forecast",
            Kind::HandlesOfKey => "handles-of-key",
            Kind::EndedHandles => "ended-handles",
            Kind::Import => "import",
            Kind::Webhook => "webhook",
            Kind::AppOutlook => "app-outlook",
        }
    }

    pub(super) const ALL: [Kind; 24] = [
        Kind::ConnectSession,
        Kind::State,
        Kind::AdminConsentSession,
        Kind::Redeemed,
        Kind::Confirming,
        Kind::ConsentTried,
        Kind::Hold,
        Kind::IdleLimit,
        Kind::Revocations,
        Kind::PausedName,
        Kind::CredentialChoices,
        Kind::TokenHosts,
        Kind::Replicas,
        Kind::Assertion,
        Kind::Counts,
        Kind::Mailbox,
        Kind::TenantBlocks,
        Kind::SignInFrequency,
        Kind::Forecast,
        Kind::HandlesOfKey,
        Kind::EndedHandles,
        Kind::Import,
        Kind::Webhook,
        Kind::AppOutlook,
    ];

    /// Whether such records may outlive a sealing key, and so must be rewrapped. The others expire within a
    /// day.
    pub(super) fn lasts(self) -> bool {
        match self {
            Kind::IdleLimit
            | Kind::Revocations
            | Kind::PausedName
            | Kind::CredentialChoices
            | Kind::TokenHosts
            | Kind::EndedHandles
            | Kind::Counts
            | Kind::TenantBlocks
            | Kind::SignInFrequency
            | Kind::Forecast
            | Kind::Import
            | Kind::Webhook
            | Kind::AppOutlook => true,
            Kind::ConnectSession
            | Kind::State
            | Kind::AdminConsentSession
            | Kind::Redeemed
            | Kind::Confirming
            | Kind::ConsentTried
            | Kind::Hold
            | Kind::Assertion
            // Sealed anew, it would say nothing of the key that sealed the handles.
            | Kind::HandlesOfKey
            // Written anew every few seconds.
            | Kind::Mailbox
            | Kind::Replicas => false,
        }
    }

    /// The kind, and its own id, from the store's id of a record.
    pub(super) fn of_store_id(store_id: &str) -> Option<(Kind, &str)> {
        let (schema, id) = store_id.split_once(':')?;
        Some((Kind::ALL.into_iter().find(|kind| kind.schema() == schema)?, id))
    }

    pub(super) fn store_id(self, id: &str) -> String {
        format!("{}:{id}", self.schema())
    }

    pub(super) fn place(self, id: &str) -> Place<'_> {
        Place { schema: self.schema(), owner: (id, ""), field: "pending", generation: 0 }
    }
}
