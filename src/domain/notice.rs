//! Notices: what callers and webhooks are told of one change. To the outside a notice is called an event; in
//! code an *event* is what becomes a log line, a count and an audit record.
//!
//! The one hard problem: one notice for each change and none for anything else. So a notice is made from the
//! state before and the state after, is stored with the state after, and has an id that follows from it.

use std::borrow::Cow;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::connection::SignIn;
pub use super::connection::outlook::Outlook;
use super::digest::sha256_hex;
use super::id::{AppName, ConnectionKey, ConnectionName};
use super::time::Timestamp;

/// How long a notice is kept for streams, and tried at webhooks.
pub const KEPT: Duration = Duration::from_secs(3 * 86_400);

/// Length of an id in hexadecimal digits: 128 bits.
const ID_DIGITS: usize = 32;

/// What kinds of notices this version makes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum NoticeKind {
    /// A user signed in for a connection, for the first time or again.
    Connected,
    /// The user must act.
    NeedsReauthorization,
    /// An administrator must act.
    Blocked,
    /// The grant works again, or is to be tried again by an operator's word.
    Recovered,
    /// The connection is gone.
    Deleted,
    /// The authority rejects a client credential of the app.
    CredentialRejected,
    /// A client credential of the app expires soon.
    CredentialExpiring,
    /// No client credential of the app is rejected any more.
    AppRecovered,
    /// The app gets no token of its own in a tenant.
    TenantBlocked,
    /// It gets one again.
    TenantRecovered,
}

impl NoticeKind {
    /// All of them, in the order of the contract.
    pub const ALL: [NoticeKind; 10] = [
        NoticeKind::Connected,
        NoticeKind::NeedsReauthorization,
        NoticeKind::Blocked,
        NoticeKind::Recovered,
        NoticeKind::Deleted,
        NoticeKind::CredentialRejected,
        NoticeKind::CredentialExpiring,
        NoticeKind::AppRecovered,
        NoticeKind::TenantBlocked,
        NoticeKind::TenantRecovered,
    ];

    /// Its `type` in the contract.
    pub const fn as_str(self) -> &'static str {
        match self {
            NoticeKind::Connected => "connection.connected",
            NoticeKind::NeedsReauthorization => "connection.needs_reauthorization",
            NoticeKind::Blocked => "connection.blocked",
            NoticeKind::Recovered => "connection.recovered",
            NoticeKind::Deleted => "connection.deleted",
            NoticeKind::CredentialRejected => "app.credential_rejected",
            NoticeKind::CredentialExpiring => "app.credential_expiring",
            NoticeKind::AppRecovered => "app.recovered",
            NoticeKind::TenantBlocked => "tenant.blocked",
            NoticeKind::TenantRecovered => "tenant.recovered",
        }
    }
}

impl Outlook {
    /// The kind of the notice that a change to `after` has, if it is a change.
    pub fn change_to(self, after: Outlook) -> Option<NoticeKind> {
        if self == after {
            return None;
        }
        Some(match after {
            Outlook::Good => NoticeKind::Recovered,
            Outlook::User => NoticeKind::NeedsReauthorization,
            Outlook::Administrator => NoticeKind::Blocked,
        })
    }
}

/// What became of a connection, as far as its notice depends on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Turn {
    /// Its user signed in.
    SignedIn {
        /// When that was stored.
        at: Timestamp,
    },
    /// It follows a state with this outlook.
    After {
        /// The outlook of the state before.
        before: Outlook,
        /// When it followed.
        at: Timestamp,
    },
}

impl Turn {
    /// The notice that the state `after` brings, if it brings one. `nonce` is that of its revision.
    pub fn notice(
        self,
        key: &ConnectionKey,
        tenant: Option<&str>,
        after: Outlook,
        nonce: &[u8; 16],
    ) -> Option<Notice> {
        let (kind, at) = match self {
            Turn::SignedIn { at } => (NoticeKind::Connected, at),
            Turn::After { before, at } => (before.change_to(after)?, at),
        };
        let about = About::Connection { connection: key.connection.clone(), of: tenant.map(str::to_owned) };
        Some(Notice { id: hex::encode(nonce), kind: kind.into(), at, app: key.app.clone(), about })
    }
}

/// A notice.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Written")]
pub struct Notice {
    /// Its id, the same however often it is written and delivered.
    pub id: String,
    /// Its `type`. A later version may have written one that this version does not know.
    #[serde(rename = "type")]
    pub kind: Cow<'static, str>,
    /// When the change was.
    pub at: Timestamp,
    /// The app.
    pub app: AppName,
    /// What changed.
    #[serde(flatten)]
    pub about: About,
}

/// What a notice is about, beside its app.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum About {
    /// A connection.
    Connection {
        /// Its name.
        connection: ConnectionName,
        /// The tenant of its account, for rules by tenant. It is not told.
        #[serde(skip_serializing_if = "Option::is_none")]
        of: Option<String>,
    },
    /// The app in a tenant.
    Tenant {
        /// The tenant's id.
        tenant: String,
    },
    /// The app itself.
    App {},
}

/// A notice as it is read. What a later version may tell of is not taken for a notice of the app, which
/// others may hear.
#[derive(Deserialize)]
struct Written {
    id: String,
    #[serde(rename = "type")]
    kind: Cow<'static, str>,
    at: Timestamp,
    app: AppName,
    connection: Option<ConnectionName>,
    of: Option<String>,
    tenant: Option<String>,
}

impl TryFrom<Written> for Notice {
    type Error = &'static str;

    fn try_from(written: Written) -> Result<Self, Self::Error> {
        let Written { id, kind, at, app, connection, of, tenant } = written;
        let about = match (kind.split('.').next(), connection, tenant) {
            (Some("connection"), Some(connection), None) => About::Connection { connection, of },
            (Some("tenant"), None, Some(tenant)) => About::Tenant { tenant },
            (Some("app"), None, None) => About::App {},
            _ => return Err("it is about nothing that this version knows"),
        };
        Ok(Notice { id, kind, at, app, about })
    }
}

impl From<NoticeKind> for Cow<'static, str> {
    fn from(kind: NoticeKind) -> Self {
        Cow::Borrowed(kind.as_str())
    }
}

impl Notice {
    /// The notice of a delete, which whoever repeats the delete makes again.
    pub fn deleted(key: &ConnectionKey, meant: &SignIn, tenant: Option<&str>, at: Timestamp) -> Self {
        let about = About::Connection { connection: key.connection.clone(), of: tenant.map(str::to_owned) };
        let id = id_of(&["deleted", &key.to_string(), &meant.number.to_string(), &hex::encode(meant.nonce)]);
        Notice { id, kind: NoticeKind::Deleted.into(), at, app: key.app.clone(), about }
    }

    /// The notice of a change of an app or of a tenant. `turn` tells it from every other, also after the
    /// store went back to an earlier record: so it is no count.
    pub fn of_app(app: &AppName, kind: NoticeKind, tenant: Option<&str>, turn: &str, at: Timestamp) -> Self {
        let about = match tenant {
            Some(tenant) => About::Tenant { tenant: tenant.to_owned() },
            None => About::App {},
        };
        let id = id_of(&[kind.as_str(), app.as_str(), tenant.unwrap_or_default(), turn]);
        Notice { id, kind: kind.into(), at, app: app.clone(), about }
    }

    /// Notices of one subject are delivered in their order. Its text has no other meaning.
    pub fn subject(&self) -> String {
        match &self.about {
            About::Connection { connection, .. } => format!("{}:{connection}", self.app),
            About::Tenant { tenant } => format!("{} {tenant}", self.app),
            About::App {} => self.app.to_string(),
        }
    }

    /// Whether its time at webhooks and streams is over.
    pub fn is_over(&self, now: Timestamp) -> bool {
        is_over(self.at, now)
    }
}

/// The same for a notice of this time.
pub fn is_over(at: Timestamp, now: Timestamp) -> bool {
    now.since(at) >= KEPT
}

/// Whether a text has the form of an id.
pub fn is_id(text: &str) -> bool {
    text.len() == ID_DIGITS && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

fn id_of(parts: &[&str]) -> String {
    let mut id = sha256_hex(parts.join("\0").as_bytes());
    id.truncate(ID_DIGITS);
    id
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key() -> ConnectionKey {
        let connection = ConnectionName::stored("user-1").expect("a name");
        ConnectionKey { app: AppName::parse("outlook").expect("a name"), connection }
    }

    #[test]
    fn a_change_has_one_notice_and_the_same_state_none() {
        use Outlook::{Administrator, Good, User};
        let at = Timestamp::from_unix_seconds(5);
        for (before, after, expected) in [
            (Good, Good, None),
            (Good, User, Some("connection.needs_reauthorization")),
            (Good, Administrator, Some("connection.blocked")),
            (User, User, None),
            (User, Administrator, Some("connection.blocked")),
            (User, Good, Some("connection.recovered")),
            (Administrator, Administrator, None),
            (Administrator, User, Some("connection.needs_reauthorization")),
            (Administrator, Good, Some("connection.recovered")),
        ] {
            let notice = Turn::After { before, at }.notice(&key(), Some("t"), after, &[7; 16]);
            assert_eq!(notice.as_ref().map(|notice| notice.kind.as_ref()), expected, "{before:?} {after:?}");
            // A sign-in is a change whatever was before.
            let connected = Turn::SignedIn { at }.notice(&key(), None, after, &[7; 16]).expect("a change");
            assert_eq!(connected.kind, "connection.connected");
            assert!(is_id(&connected.id));
        }
    }

    #[test]
    fn an_id_follows_from_the_change() {
        let (now, later) = (Timestamp::from_unix_seconds(5), Timestamp::from_unix_seconds(6));
        let (one, two) = (SignIn { number: 1, nonce: [1; 8] }, SignIn { number: 1, nonce: [2; 8] });
        let deleted = Notice::deleted(&key(), &one, None, now);
        assert_eq!(deleted.id, Notice::deleted(&key(), &one, Some("t"), later).id);
        assert_ne!(deleted.id, Notice::deleted(&key(), &two, None, now).id);
        let app = key().app;
        let blocked = |tenant, turn| Notice::of_app(&app, NoticeKind::TenantBlocked, tenant, turn, now).id;
        assert_eq!(blocked(Some("t"), "1"), blocked(Some("t"), "1"));
        assert_ne!(blocked(Some("t"), "1"), blocked(Some("t"), "2"));
        assert_ne!(blocked(Some("t"), "1"), blocked(Some("u"), "1"));
        assert!(is_id(&deleted.id) && !is_id("x") && !is_id(&deleted.id.to_uppercase()));
    }
}
