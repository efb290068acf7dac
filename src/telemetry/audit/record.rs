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
//! | `detail` | subject of an administrative act, `{"credential": "2026-11"}`; the `handle` by which it was \
//! asked; in a sum: `peers`, `most` |
//! | `suppressed` | a sum: how many requests this record stands for; it has no `peer` and `request_id` |
//! | `request_id` | the request, as in the log and in the caller's response |
//! | `checkpoint` | a checkpoint: `key`, `records`, `every`, `within`, `signature` |
//! | `chain` | SHA-256 over the `chain` of the line before and this line, so that every change shows |

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::io::Write as _;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use serde::{Serialize, Serializer};

use super::checkpoint::Checkpoint;
use super::source::Source;
use crate::domain::id::{AppName, CallerName, ConnectionName};
use crate::domain::json_text::{push_number, push_text};
use crate::domain::time::Timestamp;
use crate::domain::token::HeldToken;
use crate::telemetry::session_mark::SessionMark;

/// The recorded action.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    /// A token was handed out.
    Token,
    /// A request was relayed with a connection's token.
    Relayed,
    /// A caller made a handle for a part of its relay.
    HandleMade,
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
    /// A tenant began or ceased to block an app; `reason` says why it does, `change` in `detail` which of
    /// the two.
    TenantBlock,
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

impl Action {
    /// Returns its word in a record.
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Action::Token => "token",
            Action::Relayed => "relayed",
            Action::HandleMade => "handle_made",
            Action::Refused => "refused",
            Action::ConnectStarted => "connect_started",
            Action::Connected => "connected",
            Action::Confirmed => "confirmed",
            Action::ConnectFailed => "connect_failed",
            Action::Read => "read",
            Action::Deleted => "deleted",
            Action::AdminConsent => "admin_consent",
            Action::TenantBlock => "tenant_block",
            Action::Admin => "admin",
            Action::Reloaded => "reloaded",
            Action::Started => "started",
            Action::Stopped => "stopped",
            Action::Checkpoint => "checkpoint",
        }
    }
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
    pub peer_address: Option<IpAddr>,
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
    #[serde(skip_serializing_if = "no_scopes")]
    pub scopes: Arc<Vec<String>>,
    /// Seconds of life left in the token.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expires_in: Option<u64>,
    /// Lower-case hex SHA-256 of the token.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token_sha256: Option<Arc<str>>,
    /// The token's `uti` claim, unverified.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub uti: Option<Arc<str>>,
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
    pub request_id: Option<Arc<str>>,
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
            scopes: Arc::default(),
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

impl AuditEvent {
    /// Adds the token that is handed out, by its words, and the life that it has left.
    #[must_use]
    pub fn token(mut self, words: &TokenWords, life: Duration) -> Self {
        self.expires_in = Some(life.as_secs());
        self.token_sha256 = Some(Arc::clone(&words.sha256));
        self.uti.clone_from(&words.uti);
        self
    }

    /// Adds where a request came from, and its id.
    #[must_use]
    pub fn from(mut self, source: Source, request_id: &Arc<str>) -> Self {
        self.peer = Some(source.kind());
        (self.peer_uid, self.peer_address) = (source.uid(), source.address());
        self.request_id = Some(Arc::clone(request_id));
        self
    }

    /// Appends the members of its JSON, without the braces, as serde would write them.
    pub(super) fn push_members(&self, out: &mut Vec<u8>) {
        push_time(out, self.at);
        self.push_act(out);
        push_peer(out, self.peer, self.peer_address, self.peer_uid);
        self.push_object(out);
        push_number_of(out, "expires_in", self.expires_in);
        self.push_token(out);
        push_text_of(out, "request_id", self.request_id.as_ref());
        if let Some(checkpoint) = &self.checkpoint {
            push_key(out, "checkpoint");
            serde_json::to_writer(&mut *out, checkpoint).expect("strings and numbers");
        }
    }

    /// Appends what was done, by whom and how.
    pub(super) fn push_act(&self, out: &mut Vec<u8>) {
        push_text_of(out, "action", Some(self.action.as_str()));
        push_text_of(out, "outcome", Some(self.outcome));
        push_text_of(out, "reason", self.reason);
        push_text_of(out, "caller", self.caller.as_ref().map(CallerName::as_str));
        push_text_of(out, "method", self.method);
        push_text_of(out, "door", self.door);
    }

    /// Appends what it was done to.
    pub(super) fn push_object(&self, out: &mut Vec<u8>) {
        push_text_of(out, "app", self.app.as_ref().map(AppName::as_str));
        push_text_of(out, "connection", self.connection.as_ref().map(ConnectionName::as_str));
        push_text_of(out, "tenant", self.tenant.as_ref());
        push_text_of(out, "object", self.object.as_ref());
        if !self.scopes.is_empty() {
            push_key(out, "scopes");
            for (at, scope) in self.scopes.iter().enumerate() {
                out.push(if at == 0 { b'[' } else { b',' });
                push_text(out, scope);
            }
            out.push(b']');
        }
    }

    /// Appends which token it was, and what else belongs to the act.
    pub(super) fn push_token(&self, out: &mut Vec<u8>) {
        push_text_of(out, "token_sha256", self.token_sha256.as_ref());
        push_text_of(out, "uti", self.uti.as_ref());
        push_text_of(out, "session", self.session.as_ref().map(SessionMark::as_str));
        if !self.detail.is_empty() {
            push_key(out, "detail");
            serde_json::to_writer(&mut *out, &self.detail).expect("a map of strings");
        }
        push_number_of(out, "suppressed", self.suppressed);
    }
}

/// Begins a member that is not the first. No key needs an escape.
pub(super) fn push_key(out: &mut Vec<u8>, key: &str) {
    out.extend_from_slice(b",\"");
    out.extend_from_slice(key.as_bytes());
    out.extend_from_slice(b"\":");
}

fn push_text_of<T: AsRef<str>>(out: &mut Vec<u8>, key: &str, value: Option<T>) {
    if let Some(value) = value {
        push_key(out, key);
        push_text(out, value.as_ref());
    }
}

fn push_number_of(out: &mut Vec<u8>, key: &str, value: Option<u64>) {
    if let Some(value) = value {
        push_key(out, key);
        push_number(out, value);
    }
}

/// Appends where a request came from.
pub(super) fn push_peer(out: &mut Vec<u8>, kind: Option<&str>, address: Option<IpAddr>, uid: Option<u32>) {
    push_text_of(out, "peer", kind);
    if let Some(address) = address {
        push_key(out, "peer_address");
        push_address(out, address);
    }
    push_number_of(out, "peer_uid", uid.map(u64::from));
}

fn push_address(out: &mut Vec<u8>, address: IpAddr) {
    out.push(b'"');
    match address {
        IpAddr::V4(address) => {
            for (at, octet) in address.octets().into_iter().enumerate() {
                if at > 0 {
                    out.push(b'.');
                }
                push_number(out, u64::from(octet));
            }
        }
        IpAddr::V6(address) => write!(out, "{address}").expect("a list of bytes takes everything"),
    }
    out.push(b'"');
}

/// Appends the first member, the time.
pub(super) fn push_time(out: &mut Vec<u8>, at: Timestamp) {
    out.extend_from_slice(b"\"at\":\"");
    push_instant(out, at);
    out.push(b'"');
}

thread_local! {
    /// The last second that was written, and its text.
    static SECOND: RefCell<(Option<i64>, String)> = const { RefCell::new((None, String::new())) };
}

fn push_instant(out: &mut Vec<u8>, at: Timestamp) {
    SECOND.with_borrow_mut(|(second, text)| {
        if *second != Some(at.unix_seconds()) {
            (*second, *text) = (Some(at.unix_seconds()), at.rfc3339());
        }
        out.extend_from_slice(text.strip_suffix('Z').unwrap_or(text).as_bytes());
    });
    let millis = at.unix_millis().rem_euclid(1000).unsigned_abs();
    let digit = |one: u64| b'0' + u8::try_from(one % 10).unwrap_or_default();
    out.extend_from_slice(&[b'.', digit(millis / 100), digit(millis / 10), digit(millis), b'Z']);
}

/// A time as a record has it.
pub(super) fn rfc3339_of(at: Timestamp) -> String {
    let mut text = Vec::new();
    push_instant(&mut text, at);
    String::from_utf8(text).expect("digits and signs")
}

fn rfc3339_millis<S: Serializer>(at: &Timestamp, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&rfc3339_of(*at))
}

fn no_scopes(scopes: &Arc<Vec<String>>) -> bool {
    scopes.is_empty()
}

/// What a record says of the token that is handed out. It is the same each time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenWords {
    /// Its scopes.
    pub scopes: Arc<Vec<String>>,
    /// Lower-case hex SHA-256 of it.
    pub sha256: Arc<str>,
    /// Its `uti` claim, unverified.
    pub uti: Option<Arc<str>>,
}

impl TokenWords {
    /// Returns what records say of a token.
    pub fn of(token: &HeldToken) -> Self {
        TokenWords {
            scopes: Arc::new(token.scopes.clone()),
            sha256: token.digest.as_str().into(),
            uti: token.uti.as_deref().map(Arc::from),
        }
    }
}
