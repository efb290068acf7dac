//! One record.
//!
//! Keys are stable, absent values have no key, and new keys may be added.
//!
//! | key | meaning |
//! |---|---|
//! | `at` | when, RFC 3339 UTC with milliseconds |
//! | `seq` | counts up from 1 in each life of the process; a gap is what the disk did not take |
//! | `action` | see [`Action`] |
//! | `outcome` | `ok`, or the stable code of the error |
//! | `reason` | the reason that goes with a code |
//! | `caller` | the caller's or administrator's name |
//! | `method` | how the caller proved who it is: a word of `authenticate` |
//! | `door` | what the request came through: a dialect of the local API, `browser` or `admin` |
//! | `peer`, `peer_address`, `peer_uid` | `unix` or `tcp`, and where from |
//! | `app`, `connection`, `tenant`, `object` | the connection and, by Entra's ids, its user; no username |
//! | `scopes`, `expires_in` | what was handed out, and for how many seconds it lives |
//! | `token_sha256`, `uti` | which token: its SHA-256, and the id that Entra's logs have of it |
//! | `session` | the connect session: the first 16 hex digits of its id's SHA-256, for the id is a link |
//! | `detail` | subject of an administrative act, `{"credential": "2026-11"}`; in a sum: `peers`, `most` |
//! | `suppressed` | a sum: how many requests this record stands for; it has no `peer` and `request_id` |
//! | `request_id` | the request, as in the log and in the caller's response |
//! | `checkpoint` | a checkpoint: `key`, `records`, `every`, `within`, `signature` |
//! | `chain` | SHA-256 over the `chain` of the line before and this line, so that every change shows |

use std::collections::BTreeMap;

use serde::{Serialize, Serializer};

use super::checkpoint::Checkpoint;
use crate::domain::id::{AppName, CallerName, ConnectionName};
use crate::domain::time::Timestamp;
use crate::telemetry::session_mark::SessionMark;

/// The recorded action.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    /// A token was handed out.
    Token,
    /// A caller was unknown, or not allowed what it asked.
    Refused,
    /// A connect session was made.
    ConnectStarted,
    /// A browser came back with an account.
    Connected,
    /// The session's starter confirmed the account.
    Confirmed,
    /// A connect session failed.
    ConnectFailed,
    /// A read of a connection, of a list of them or of a session was refused.
    Read,
    /// A connection was deleted.
    Deleted,
    /// An admin consent session was made or ended.
    AdminConsent,
    /// Any other administrative act; `detail` says which.
    Admin,
    /// Configuration or secrets were read again.
    Reloaded,
    /// The daemon started.
    Started,
    /// The daemon stopped.
    Stopped,
    /// The daemon signed the records before this one.
    Checkpoint,
}

/// One record. Begin with [`AuditEvent::new`] and set the known values.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct AuditEvent {
    /// Time of the event.
    #[serde(serialize_with = "rfc3339_millis")]
    pub at: Timestamp,
    /// The action.
    pub action: Action,
    /// `ok`, or the stable code of the error.
    pub outcome: &'static str,
    /// The reason that belongs to the code.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<&'static str>,
    /// The caller.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub caller: Option<CallerName>,
    /// How the caller or administrator proved who it is: a word of `authenticate`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub method: Option<&'static str>,
    /// The door that the request came through: a dialect's word, or `browser` or `admin`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub door: Option<&'static str>,
    /// Origin of the request: `unix` or `tcp`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub peer: Option<&'static str>,
    /// The address of a TCP peer, without its port.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub peer_address: Option<String>,
    /// The user of a Unix peer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub peer_uid: Option<u32>,
    /// The app.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub app: Option<AppName>,
    /// The connection.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub connection: Option<ConnectionName>,
    /// The account's tenant id (`tid`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tenant: Option<String>,
    /// The account's object id (`oid`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub object: Option<String>,
    /// The scopes handed out or asked for.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub scopes: Vec<String>,
    /// Seconds of life left in the token.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expires_in: Option<u64>,
    /// Lower-case hex SHA-256 of the token.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token_sha256: Option<String>,
    /// The token's `uti` claim, unverified.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub uti: Option<String>,
    /// The connect session.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub session: Option<SessionMark>,
    /// Subject of an administrative act. Names and ids only.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub detail: BTreeMap<&'static str, String>,
    /// Number of further events that this record stands for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub suppressed: Option<u64>,
    /// The request.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub request_id: Option<String>,
    /// The signature of a checkpoint. The writer alone makes one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) checkpoint: Option<Checkpoint>,
}

impl AuditEvent {
    /// Makes a record of this action without further values.
    pub fn new(at: Timestamp, action: Action, outcome: &'static str) -> Self {
        AuditEvent {
            at,
            action,
            outcome,
            reason: None,
            caller: None,
            method: None,
            door: None,
            peer: None,
            peer_address: None,
            peer_uid: None,
            app: None,
            connection: None,
            tenant: None,
            object: None,
            scopes: Vec::new(),
            expires_in: None,
            token_sha256: None,
            uti: None,
            session: None,
            detail: BTreeMap::new(),
            suppressed: None,
            request_id: None,
            checkpoint: None,
        }
    }
}

/// A time as a record has it.
pub(super) fn rfc3339_of(at: Timestamp) -> String {
    let text = at.rfc3339();
    let whole = text.strip_suffix('Z').unwrap_or(&text);
    format!("{whole}.{:03}Z", at.unix_millis().rem_euclid(1000))
}

fn rfc3339_millis<S: Serializer>(at: &Timestamp, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&rfc3339_of(*at))
}
