//! The ledger: every request and its answer, never a secret.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::SystemTime;

use serde::{Deserialize, Serialize};

/// Older entries are dropped beyond this many, so that a long soak stays small.
const MOST_ENTRIES: usize = 50_000;

/// The endpoint a request was for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Endpoint {
    /// `/{tenant}/oauth2/v2.0/authorize`
    Authorize,
    /// `/{tenant}/oauth2/v2.0/token`
    Token,
    /// `/{tenant}/discovery/v2.0/keys`
    Jwks,
    /// `/{tenant}/v2.0/.well-known/openid-configuration`, and instance and user realm discovery
    Discovery,
    /// `/v1.0/…` and `/graph/v1.0/…`
    Graph,
    /// `/{tenant}/v2.0/adminconsent` and `/{tenant}/adminconsent`
    AdminConsent,
    /// `/{tenant}/oauth2/v2.0/logout`
    Logout,
    /// Anything else.
    Other,
}

/// Client authentication method at the token endpoint.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AuthMethod {
    /// No authentication.
    #[default]
    None,
    /// `client_secret` in the form.
    SecretPost,
    /// `Authorization: Basic`.
    SecretBasic,
    /// A JWT signed with a registered certificate.
    Certificate,
    /// Another issuer's JWT.
    Federated,
    /// Several methods at once, which is refused.
    Several,
}

/// One request. Refresh and access tokens appear as serial numbers only.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct LedgerEntry {
    /// Number of the request since the start, from 1.
    pub sequence: u64,
    /// The emulator's clock when the request arrived.
    #[serde(serialize_with = "as_millis")]
    pub time: SystemTime,
    /// Number of its TCP connection, from 1.
    pub connection: u64,
    /// The address it came from.
    pub peer: SocketAddr,
    /// The HTTP method.
    pub method: String,
    /// The path, without the query.
    pub path: String,
    /// Which endpoint that is.
    pub endpoint: Endpoint,
    /// Tenant segment of the path.
    pub tenant: Option<String>,
    /// The client that asked.
    pub client_id: Option<String>,
    /// `grant_type` of a token request.
    pub grant_type: Option<String>,
    /// Client authentication method.
    pub auth_method: AuthMethod,
    /// The app's secret or certificate that was used: the key id, or the thumbprint.
    pub credential: Option<String>,
    /// Status of the answer; `None` before it, and for good if the connection was dropped.
    pub status: Option<u16>,
    /// When the request ended: its answer was sent, whole or not, or the client went away. `None` while it
    /// lasts.
    #[serde(serialize_with = "as_maybe_millis")]
    pub ended: Option<SystemTime>,
    /// True if the last byte of an answer was handed to the connection. It may still have been lost on the
    /// way.
    pub delivered: bool,
    /// AADSTS number of the answer.
    pub aadsts: Option<u32>,
    /// `error` of the answer.
    pub error: Option<String>,
    /// Names of the faults that hit this request.
    pub faults: Vec<String>,
    /// The user that the request concerned.
    pub user: Option<String>,
    /// The requested scopes, as written.
    pub scopes_requested: Vec<String>,
    /// The granted scopes, in full form.
    pub scopes_granted: Vec<String>,
    /// The sign-in of the presented or issued refresh token: `emu_family` of the access token.
    pub family: Option<u64>,
    /// Serial of the refresh token presented.
    pub refresh_presented: Option<u64>,
    /// Serial of the refresh token issued.
    pub refresh_issued: Option<u64>,
    /// Serial of the access token presented to Graph.
    pub access_presented: Option<u64>,
    /// Serial of the access token issued.
    pub access_issued: Option<u64>,
    /// True if the request had a `claims` parameter.
    pub claims_sent: bool,
    /// Names in the query, without values.
    pub query_keys: Vec<String>,
    /// Names in the form, without values.
    pub form_keys: Vec<String>,
    /// Names of the header fields, in lower case, without values.
    pub header_keys: Vec<String>,
    /// The correlation id of the answer: the caller's `client-request-id`, if it sent one.
    pub correlation_id: String,
}

/// Facts about a request that its handler finds.
#[derive(Clone, Debug, Default)]
pub(crate) struct Notes {
    pub(crate) client_id: Option<String>,
    pub(crate) auth_method: AuthMethod,
    pub(crate) credential: Option<String>,
    pub(crate) aadsts: Option<u32>,
    pub(crate) error: Option<String>,
    pub(crate) user: Option<String>,
    pub(crate) scopes_granted: Vec<String>,
    pub(crate) family: Option<u64>,
    pub(crate) refresh_presented: Option<u64>,
    pub(crate) refresh_issued: Option<u64>,
    pub(crate) access_presented: Option<u64>,
    pub(crate) access_issued: Option<u64>,
    /// Faults that struck while the request was processed.
    pub(crate) late_faults: Vec<&'static str>,
}

/// The entries, oldest first.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    entries: VecDeque<LedgerEntry>,
    written: u64,
}

impl Ledger {
    /// Writes an entry and returns its sequence number.
    pub(crate) fn open(&mut self, mut entry: LedgerEntry) -> u64 {
        self.written += 1;
        entry.sequence = self.written;
        if self.entries.len() == MOST_ENTRIES {
            self.entries.pop_front();
        }
        self.entries.push_back(entry);
        self.written
    }

    /// Completes an entry with what its handler learnt.
    pub(crate) fn note(&mut self, sequence: u64, notes: &Notes) {
        let Some(entry) = self.entry(sequence) else { return };
        entry.auth_method = notes.auth_method;
        entry.client_id = notes.client_id.clone().or(entry.client_id.take());
        entry.credential.clone_from(&notes.credential);
        entry.aadsts = notes.aadsts;
        entry.error.clone_from(&notes.error);
        entry.user = notes.user.clone().or(entry.user.take());
        entry.scopes_granted.clone_from(&notes.scopes_granted);
        entry.family = notes.family.or(entry.family);
        entry.refresh_presented = notes.refresh_presented.or(entry.refresh_presented);
        entry.refresh_issued = notes.refresh_issued;
        entry.access_presented = notes.access_presented.or(entry.access_presented);
        entry.access_issued = notes.access_issued;
        entry.faults.extend(notes.late_faults.iter().map(|name| (*name).to_owned()));
    }

    /// Records the status when the answer is about to be sent.
    pub(crate) fn close(&mut self, sequence: u64, status: u16) {
        if let Some(entry) = self.entry(sequence) {
            entry.status = Some(status);
        }
    }

    /// Records that a request is over.
    pub(crate) fn end(&mut self, sequence: u64, now: SystemTime, delivered: bool) {
        if let Some(entry) = self.entry(sequence) {
            entry.ended = Some(now);
            entry.delivered = delivered;
        }
    }

    /// Removes the oldest entries, up to the first that is not over.
    pub(crate) fn take_ended(&mut self) -> Vec<LedgerEntry> {
        let ended = self.entries.iter().take_while(|entry| entry.ended.is_some()).count();
        self.entries.drain(..ended).collect()
    }

    pub(crate) fn entries(&self) -> Vec<LedgerEntry> {
        self.entries.iter().cloned().collect()
    }

    pub(crate) fn count(&self, endpoint: Endpoint, grant_type: Option<&str>) -> usize {
        let fits = |entry: &&LedgerEntry| {
            entry.endpoint == endpoint && (grant_type.is_none() || entry.grant_type.as_deref() == grant_type)
        };
        self.entries.iter().filter(fits).count()
    }

    /// How many requests of the same client about the same user are under way at the endpoint of this one,
    /// itself included.
    pub(crate) fn beside(&mut self, sequence: u64) -> usize {
        let Some(one) = self.entry(sequence) else { return 0 };
        let (endpoint, client, user) = (one.endpoint, one.client_id.clone(), one.user.clone());
        let is_beside = |entry: &&LedgerEntry| {
            let is_same = (entry.endpoint, &entry.client_id, &entry.user) == (endpoint, &client, &user);
            is_same && entry.ended.is_none()
        };
        self.entries.iter().filter(is_beside).count()
    }

    pub(crate) fn clear(&mut self) {
        self.entries.clear();
    }

    fn entry(&mut self, sequence: u64) -> Option<&mut LedgerEntry> {
        let first = self.entries.front()?.sequence;
        self.entries.get_mut(usize::try_from(sequence.checked_sub(first)?).ok()?)
    }
}

fn as_maybe_millis<S: serde::Serializer>(time: &Option<SystemTime>, out: S) -> Result<S::Ok, S::Error> {
    match time {
        Some(time) => as_millis(time, out),
        None => out.serialize_none(),
    }
}

fn as_millis<S: serde::Serializer>(time: &SystemTime, out: S) -> Result<S::Ok, S::Error> {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    out.serialize_u64(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}
