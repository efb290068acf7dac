//! What a caller may have open at once. Whatever a caller, or somebody with a link of its, has kept in the store is counted
//! against that caller: in the store, for all replicas together and through restarts. What counts ends by itself, so a crash
//! leaks nothing; what is over before counts no more.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::connect::READABLE_AFTER_END;
use super::session::{ConnectSession, SessionState};
use super::{Broker, Refusal};
use crate::domain::id::{AppName, CallerName, ConnectionKey, SessionId};
use crate::domain::time::Timestamp;
use crate::repository::{RepositoryError, sha256_hex};
use crate::store::Counted;

/// Open connect sessions of a caller for one connection: one user who presses "connect" over and over shuts nobody else out.
const MOST_OF_CONNECTION: usize = 20;
/// Connect sessions of a caller that are over and can still be read, for each that may be open (`limits.open_sessions`: nobody
/// has come back yet, or the caller has still to confirm). Each is some 2 KB of the store at the most.
const ENDED_FOR_EACH: usize = 2;
/// For so long one that is over can be read, and takes the place of an open one, where there are as many as that already:
/// longer than a long poll waits.
const READABLE_BRIEFLY: Duration = Duration::from_secs(120);
/// Admin consent sessions of a caller, for as long as they are kept.
const MOST_CONSENTS: usize = 500;
/// Those of them that name one tenant.
const MOST_CONSENTS_OF_TENANT: usize = 50;

/// The authorize requests of one session that count: of its last presses.
pub(super) const MOST_STATES: usize = 4;
/// How often the button of one session may be pressed. It takes no key, only the link.
pub(super) const MOST_PRESSES: u32 = 50;

/// A caller that was refused is refused for so long without a question to the store: what it has counted is looked at then.
const REFUSED_FOR: Duration = Duration::from_secs(1);
/// The longest that somebody is told to wait: what is open may be over at any time.
const LONGEST_WAIT: Duration = Duration::from_secs(60);

/// Who is at its limit, by what is counted: until when that is believed, and when the first of it ends. No more than callers.
#[derive(Default)]
pub(super) struct AtTheirLimit(Mutex<BTreeMap<String, (Duration, Timestamp)>>);

impl AtTheirLimit {
    fn all(&self) -> MutexGuard<'_, BTreeMap<String, (Duration, Timestamp)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn sessions_of(caller: &str) -> String {
    format!("sessions/{caller}")
}

/// Those for one connection. Its name is text that a caller may have from its user: it has a hash of it.
fn sessions_for(caller: &str, key: &ConnectionKey) -> String {
    format!("connection/{caller}/{}", sha256_hex(key.to_string().as_bytes()))
}

fn ended_of(caller: &str) -> String {
    format!("ended/{caller}")
}

fn consents_of(caller: &str) -> String {
    format!("consents/{caller}")
}

/// A session among those of its caller: its app, and the hash of its id, for the id is its link.
fn session_entry(app: &AppName, id: &SessionId) -> String {
    format!("{app} {}", sha256_hex(id.as_str().as_bytes()))
}

/// What the admin consent sessions of an app for one tenant begin with. A tenant's name is the caller's text: it has a hash of it, and
/// no key of its own in the store.
fn consent_group(app: &AppName, tenant: Option<&str>) -> String {
    let tenant = tenant.map(|tenant| sha256_hex(tenant.to_ascii_lowercase().as_bytes()));
    format!("{app} {} ", tenant.as_deref().unwrap_or("any"))
}

fn consent_entry(group: &str, id: &SessionId) -> String {
    format!("{group}{}", sha256_hex(id.as_str().as_bytes()))
}

impl Broker {
    /// Counts a connect session of a caller, before it is kept.
    ///
    /// # Errors
    /// The caller has as many as it may have, or the store does not serve.
    pub(super) async fn count_session(
        &self,
        caller: &CallerName,
        key: &ConnectionKey,
        id: &SessionId,
        expires_at: Timestamp,
    ) -> Result<(), Refusal> {
        let (owner, entry) = (sessions_of(caller.as_str()), session_entry(&key.app, id));
        self.count(owner, &entry, expires_at, self.most_sessions(), "open connect sessions").await?;
        // (Who is at this limit is not remembered: there are as many connections as a caller names.)
        let of_connection = sessions_for(caller.as_str(), key);
        let store = self.deps.repository.store();
        let refusal = match store.count_in(&of_connection, &entry, expires_at, MOST_OF_CONNECTION).await {
            Ok(Counted::In) => return Ok(()),
            Ok(Counted::Full { until }) => Refusal::TooMany {
                what: "open connect sessions for this connection",
                most: MOST_OF_CONNECTION,
                retry_after: wait_for(until, self.deps.clock.now()),
            },
            Err(error) => RepositoryError::from(error).into(),
        };
        self.uncount_session(caller.as_str(), key, id).await;
        Err(refusal)
    }

    /// Counts a session no more: it is over, or could not be kept after all.
    pub(super) async fn uncount_session(&self, caller: &str, key: &ConnectionKey, id: &SessionId) {
        let entry = session_entry(&key.app, id);
        self.count_out(&sessions_for(caller, key), &entry).await;
        self.count_out(&sessions_of(caller), &entry).await;
    }

    /// Counts an admin consent session of a caller, before it is kept, for as long as that will be.
    ///
    /// # Errors
    /// The caller has as many as it may have, in all or of this tenant, or the store does not serve.
    pub(super) async fn count_consent(
        &self,
        caller: &CallerName,
        app: &AppName,
        tenant: Option<&str>,
        id: &SessionId,
        kept_until: Timestamp,
    ) -> Result<(), Refusal> {
        let owner = consents_of(caller.as_str());
        let group = consent_group(app, tenant);
        if tenant.is_some() {
            let counted =
                self.deps.repository.store().counted(&owner).await.map_err(RepositoryError::from)?;
            let of_tenant = counted.iter().filter(|entry| entry.starts_with(&group)).count();
            if of_tenant >= MOST_CONSENTS_OF_TENANT {
                return Err(Refusal::TooMany {
                    what: "admin consent sessions for this tenant",
                    most: MOST_CONSENTS_OF_TENANT,
                    retry_after: LONGEST_WAIT,
                });
            }
        }
        let entry = consent_entry(&group, id);
        self.count(owner, &entry, kept_until, MOST_CONSENTS, "admin consent sessions").await
    }

    /// Counts an admin consent session no more that could not be kept after all.
    pub(super) async fn uncount_consent(
        &self,
        caller: &CallerName,
        app: &AppName,
        tenant: Option<&str>,
        id: &SessionId,
    ) {
        let entry = consent_entry(&consent_group(app, tenant), id);
        self.count_out(&consents_of(caller.as_str()), &entry).await;
    }

    /// For how long a session that now stands so can be read, after it is over. Whoever has many that are over has them for a
    /// shorter time.
    pub(super) async fn readable_after_end(&self, id: &SessionId, after: &ConnectSession) -> Duration {
        if !is_over(&after.state) {
            return READABLE_AFTER_END;
        }
        let (owner, entry) = (ended_of(&after.created_by), session_entry(&after.app, id));
        let until = self.deps.clock.now().plus(READABLE_AFTER_END);
        let most = ENDED_FOR_EACH * self.most_sessions();
        match self.deps.repository.store().count_in(&owner, &entry, until, most).await {
            Ok(Counted::Full { .. }) => READABLE_BRIEFLY,
            Ok(Counted::In) | Err(_) => READABLE_AFTER_END,
        }
    }

    /// A session stands elsewhere now, until `until`: as one that is open it counts for longer, or no more.
    pub(super) async fn recount_session(
        &self,
        id: &SessionId,
        after: &ConnectSession,
        until: Timestamp,
        readable: Duration,
    ) {
        let (owner, entry) = (sessions_of(&after.created_by), session_entry(&after.app, id));
        let until = match &after.state {
            // Its place is still counted, for as long as its link works.
            SessionState::Pending => return,
            SessionState::AwaitingConfirmation { .. } => until,
            _ if readable == READABLE_AFTER_END => {
                return self.uncount_session(&after.created_by, &after.key(), id).await;
            }
            _ => self.deps.clock.now().plus(readable),
        };
        // It counts already, so no limit is in its way.
        let most = self.most_sessions();
        let counted = self.deps.repository.store().count_in(&owner, &entry, until, most).await;
        if let Err(error) = counted {
            tracing::debug!(%error, "a session counts as open until its link's end");
        }
    }

    /// What can be refused goes before what cannot: the last of the store is for connections.
    ///
    /// # Errors
    /// The store is nearly full.
    pub(super) fn room(&self) -> Result<(), Refusal> {
        match self.deps.repository.store().has_room() {
            true => Ok(()),
            false => Err(Refusal::StoreNearlyFull { retry_after: LONGEST_WAIT }),
        }
    }

    fn most_sessions(&self) -> usize {
        usize::try_from(self.settings().open_sessions).unwrap_or(usize::MAX)
    }

    async fn count(
        &self,
        owner: String,
        entry: &str,
        until: Timestamp,
        most: usize,
        what: &'static str,
    ) -> Result<(), Refusal> {
        self.room()?;
        let (now, monotonic) = (self.deps.clock.now(), self.deps.clock.monotonic());
        let refused = |first: Timestamp| Refusal::TooMany { what, most, retry_after: wait_for(first, now) };
        if let Some((_, first)) =
            self.at_their_limit.all().get(&owner).filter(|(believed, _)| monotonic < *believed)
        {
            return Err(refused(*first));
        }
        let counted = self.deps.repository.store().count_in(&owner, entry, until, most).await;
        match counted.map_err(RepositoryError::from)? {
            Counted::In => {
                self.at_their_limit.all().remove(&owner);
                Ok(())
            }
            Counted::Full { until: first } => {
                let believed = monotonic.saturating_add(REFUSED_FOR);
                self.at_their_limit.all().insert(owner, (believed, first));
                Err(refused(first))
            }
        }
    }

    async fn count_out(&self, owner: &str, entry: &str) {
        if let Err(error) = self.deps.repository.store().count_out(owner, entry).await {
            tracing::debug!(%error, "what is over counts until its time is over");
        }
    }
}

/// How long somebody waits for a place of which the first is free then.
fn wait_for(first: Timestamp, now: Timestamp) -> Duration {
    first.since(now).clamp(Duration::from_secs(1), LONGEST_WAIT)
}

fn is_over(state: &SessionState) -> bool {
    match state {
        SessionState::Pending | SessionState::AwaitingConfirmation { .. } => false,
        SessionState::Connected { .. } | SessionState::Failed(_) | SessionState::Expired => true,
    }
}
