//! Connect sessions as an operator looks them up: what became of a link, and why. A session is found through
//! the counts of its caller ([`super::quota`]), for as long as its record can be read. So the list is of all
//! replicas, and no record is kept for it.

use std::collections::BTreeSet;

use super::session::{ConnectSession, SessionState};
use super::{Broker, Refusal};
use crate::domain::id::{AppName, CallerName, ConnectionKey, ConnectionName, SessionId};
use crate::domain::reference::Reference;
use crate::domain::time::Timestamp;
use crate::repository::{FiledUnder, Kind, SecretHash};

/// Most records read for one page.
const MOST_READ_FOR_A_PAGE: usize = 100;
/// All states of a session.
pub const STATES: [&str; 5] = ["pending", "awaiting_confirmation", "connected", "failed", "expired"];

/// A request for a list. What is there must all be true of a session.
#[derive(Debug, Clone, Default)]
pub struct SessionsWanted {
    /// Of this app.
    pub app: Option<AppName>,
    /// For this connection.
    pub connection: Option<ConnectionName>,
    /// In this state.
    pub state: Option<String>,
    /// Failed in this request.
    pub reference: Option<Reference>,
    /// Where the previous page ended.
    pub after: Option<SessionsAfter>,
}

/// Where a page of sessions ended: the caller, and the hash of the last session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SessionsAfter {
    caller: String,
    hash: String,
}

/// A session as it is shown; never its link.
#[derive(Debug, Clone)]
pub struct ShownSession {
    /// What log and audit call it.
    pub mark: String,
    /// The connection that it was made for.
    pub key: ConnectionKey,
    /// The caller that started it.
    pub caller: String,
    /// Its state now.
    pub state: SessionState,
    /// When it was started; the earliest instant if that was not recorded.
    pub started_at: Timestamp,
    /// When its link ends.
    pub expires_at: Timestamp,
}

impl ShownSession {
    /// Id of the request in which it failed. A page shows the user the beginning of it.
    pub fn failed_in(&self) -> Option<&str> {
        match &self.state {
            SessionState::Failed(failure) => failure.noted.as_ref().map(|noted| noted.request_id.as_str()),
            _ => None,
        }
    }
}

/// A page of sessions.
pub struct SessionPage {
    /// By caller; within one, in no order that means anything.
    pub sessions: Vec<ShownSession>,
    /// Where the next page starts; `None` on the last. A page may be empty without being the last.
    pub next: Option<SessionsAfter>,
}

impl Broker {
    /// Returns a page of these callers' sessions to an operator.
    ///
    /// # Errors
    /// The request is wrong, or the store is unavailable.
    pub async fn list_sessions(
        &self,
        callers: &BTreeSet<CallerName>,
        wanted: &SessionsWanted,
    ) -> Result<SessionPage, Refusal> {
        if let Some(state) = &wanted.state
            && !STATES.contains(&state.as_str())
        {
            return Err(Refusal::invalid("state", format!("must be one of {}", STATES.join(", "))));
        }
        let (mut sessions, mut read, mut last) = (Vec::new(), 0, None);
        for caller in callers.iter().map(CallerName::as_str) {
            let after = match &wanted.after {
                Some(after) if caller < after.caller.as_str() => continue,
                Some(after) if caller == after.caller => Some(after.hash.as_str()),
                _ => None,
            };
            let hashes = self.session_hashes(caller).await?;
            for hash in hashes.iter().filter(|hash| after.is_none_or(|after| hash.as_str() > after)) {
                if read == MOST_READ_FOR_A_PAGE {
                    return Ok(SessionPage { sessions, next: last });
                }
                read += 1;
                last = Some(SessionsAfter { caller: caller.to_owned(), hash: hash.clone() });
                let found = self.session_of(hash).await?;
                sessions.extend(found.filter(|session| wanted.is_met_by(session)));
            }
        }
        Ok(SessionPage { sessions, next: None })
    }

    async fn session_of(&self, hash: &str) -> Result<Option<ShownSession>, Refusal> {
        let Some(filed) = SecretHash::parse(hash).map(|hash| FiledUnder::hash(&hash)) else {
            return Ok(None);
        };
        match self.deps.repository.pending::<ConnectSession>(Kind::ConnectSession, &filed).await {
            Ok(taken) => Ok(taken.map(|taken| {
                let session = taken.value;
                ShownSession {
                    mark: hash.chars().take(SessionId::MARK_DIGITS).collect(),
                    state: self.stands(&session),
                    key: session.key(),
                    caller: session.created_by,
                    started_at: session.started_at,
                    expires_at: session.expires_at,
                }
            })),
            // It was counted and logged; the others can be shown all the same.
            Err(error) if error.is_damage() => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Makes a page's cursor.
    pub fn sessions_cursor(&self, next: &SessionsAfter) -> String {
        self.deps.repository.seal_cursor(LIST, &format!("{} {}", next.caller, next.hash))
    }

    /// Reads a cursor.
    ///
    /// # Errors
    /// It is none of this list.
    pub fn read_sessions_cursor(&self, cursor: &str) -> Result<SessionsAfter, Refusal> {
        let opened = self.deps.repository.open_cursor(LIST, cursor);
        let after = opened.as_deref().and_then(|text| {
            let (caller, hash) = text.split_once(' ')?;
            Some(SessionsAfter { caller: caller.to_owned(), hash: hash.to_owned() })
        });
        after.ok_or_else(|| Refusal::invalid("cursor", "is not one that was given for this list"))
    }
}

/// The name that seals the list's cursors. No app has it.
const LIST: &str = "connect sessions";

impl SessionsWanted {
    fn is_met_by(&self, session: &ShownSession) -> bool {
        self.app.as_ref().is_none_or(|app| session.key.app == *app)
            && self.connection.as_ref().is_none_or(|connection| session.key.connection == *connection)
            && self.state.as_ref().is_none_or(|state| session.state.as_str() == state)
            && self.reference.as_ref().is_none_or(|reference| {
                session.failed_in().is_some_and(|request_id| reference.is_of(request_id))
            })
    }
}
