//! The kinds of pending records.

use crate::keyring::seal::Place;

/// What a pending record is.
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
    /// What was there when the grant that waits was first put in its place.
    Confirming,
    /// That an authority asked to be left alone.
    Hold,
    /// How long idle grants of a tenant were seen to last.
    IdleLimit,
    /// What an operator revoked.
    Revocations,
    /// That an operator paused a name.
    PausedName,
    /// What an operator decided on an app's client credentials.
    CredentialChoices,
    /// Which token hosts secrets may be sent to.
    TokenHosts,
    /// What the replicas report of themselves.
    Replicas,
}

impl Kind {
    pub(super) fn schema(self) -> &'static str {
        match self {
            Kind::ConnectSession => "session",
            Kind::State => "state",
            Kind::AdminConsentSession => "consent",
            Kind::Redeemed => "redeemed",
            Kind::Confirming => "confirming",
            Kind::Hold => "hold",
            Kind::IdleLimit => "idle-limit",
            Kind::Revocations => "revocations",
            Kind::PausedName => "paused-name",
            Kind::CredentialChoices => "credential-choices",
            Kind::TokenHosts => "token-hosts",
            Kind::Replicas => "replicas",
        }
    }

    pub(super) const ALL: [Kind; 12] = [
        Kind::ConnectSession,
        Kind::State,
        Kind::AdminConsentSession,
        Kind::Redeemed,
        Kind::Confirming,
        Kind::Hold,
        Kind::IdleLimit,
        Kind::Revocations,
        Kind::PausedName,
        Kind::CredentialChoices,
        Kind::TokenHosts,
        Kind::Replicas,
    ];

    /// Whether such a record outlives the replacing of a sealing key, and has to be sealed anew for it. The
    /// others go by themselves, within a day.
    pub(super) fn lasts(self) -> bool {
        match self {
            Kind::IdleLimit
            | Kind::Revocations
            | Kind::PausedName
            | Kind::CredentialChoices
            | Kind::TokenHosts => true,
            Kind::ConnectSession
            | Kind::State
            | Kind::AdminConsentSession
            | Kind::Redeemed
            | Kind::Confirming
            | Kind::Hold
            // Written anew every few seconds.
            | Kind::Replicas => false,
        }
    }

    /// What the store's id of a record says: its kind, and its own id.
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
