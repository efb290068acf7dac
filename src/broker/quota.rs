//! Limits on what a caller may have open at once. Every record that a caller, or a person with its link,
//! causes in the store counts against that caller: in the store, for all replicas together and across
//! restarts. Counted records expire by themselves, so a crash leaks nothing; what ends earlier is uncounted
//! earlier.

use parking_lot::{Mutex, MutexGuard};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::connect::READABLE_AFTER_END;
use super::session::{ConnectSession, ConsentSession, SessionState};
use super::{Broker, Refusal};
use crate::domain::digest::sha256_hex;
use crate::domain::id::{AppName, CallerName, ConnectionKey, SessionId};
use crate::domain::time::Timestamp;
use crate::repository::RepositoryError;
use crate::store::{Counted, Full, Most};

/// Most open connect sessions of a caller for one connection, so that one user who keeps pressing "connect"
/// shuts nobody else out.
const MOST_OF_CONNECTION: usize = 20;
/// Readable ended sessions of a caller for each open one that is allowed (`limits.open_sessions`: nobody has
/// come back yet, or the caller must still confirm). Each takes at most some 2 KB of the store.
const ENDED_FOR_EACH: usize = 2;
/// How long an ended session can be read if there are already that many; until then it counts as an open one.
/// Longer than a long poll waits.
const READABLE_BRIEFLY: Duration = Duration::from_secs(120);
/// Most open admin consent sessions of a caller.
const MOST_CONSENTS: usize = 500;
/// Most of them for one tenant.
const MOST_CONSENTS_OF_TENANT: usize = 50;

/// Valid authorize requests of one session: those of its last presses.
pub(super) const MOST_STATES: usize = 4;
/// Most presses of one session's button. Pressing needs no key, only the link.
pub(super) const MOST_PRESSES: u32 = 50;

/// How long a refused caller is refused again without asking the store.
const REFUSED_FOR: Duration = Duration::from_secs(1);
/// Longest wait that is announced: an open session may end at any time.
const LONGEST_WAIT: Duration = Duration::from_secs(60);

/// Callers at a limit, by what is counted: until when that is assumed, and when the first record ends.
/// Outdated entries are removed when the next is added, so there are a few for each caller.
#[derive(Default)]
pub(super) struct AtTheirLimit(Mutex<BTreeMap<String, (Duration, Timestamp)>>);

impl AtTheirLimit {
    fn all(&self) -> MutexGuard<'_, BTreeMap<String, (Duration, Timestamp)>> {
        self.0.lock()
    }

    /// Returns when the first record ends, if the limit is assumed to be reached.
    fn first_end(&self, counted: &str, monotonic: Duration) -> Option<Timestamp> {
        self.all().get(counted).filter(|(believed, _)| monotonic < *believed).map(|(_, first)| *first)
    }

    fn add(&self, counted: String, monotonic: Duration, first: Timestamp) {
        let mut all = self.all();
        all.retain(|_, (believed, _)| monotonic < *believed);
        all.insert(counted, (monotonic.saturating_add(REFUSED_FOR), first));
    }
}

/// A kind of record to count, and its names for callers.
struct Counting<'a> {
    owner: String,
    most: Most<'a>,
    /// Name of the records.
    what: &'static str,
    /// Name of a group of them.
    what_of_group: &'static str,
}

fn sessions_of(caller: &str) -> String {
    format!("sessions/{caller}")
}

fn ended_of(caller: &str) -> String {
    format!("ended/{caller}")
}

fn consents_of(caller: &str) -> String {
    format!("consents/{caller}")
}

/// Owner of the readable ended ones.
fn ended_consents_of(caller: &str) -> String {
    format!("ended-consents/{caller}")
}

/// Returns the prefix of a caller's open sessions for one connection, which are counted as a group. A
/// connection's name may come from a user, so it appears as a hash and gets no key of its own in the store.
fn session_group(key: &ConnectionKey) -> String {
    format!("{} {} ", key.app, sha256_hex(key.to_string().as_bytes()))
}

/// Returns the entry of an open session among its caller's. It has a hash of the id, since the id is the
/// link.
fn open_entry(key: &ConnectionKey, id: &SessionId) -> String {
    format!("{}{}", session_group(key), sha256_hex(id.expose().as_bytes()))
}

/// Returns the entry of an ended session among its caller's.
fn ended_entry(app: &AppName, id: &SessionId) -> String {
    format!("{app} {}", sha256_hex(id.expose().as_bytes()))
}

/// Returns the prefix of an app's admin consent sessions for one tenant, which are counted as a group. A
/// tenant's name comes from the caller, so it appears as a hash and gets no key of its own in the store.
fn consent_group(app: &AppName, tenant: Option<&str>) -> String {
    let tenant = tenant.map(|tenant| sha256_hex(tenant.to_ascii_lowercase().as_bytes()));
    format!("{app} {} ", tenant.as_deref().unwrap_or("any"))
}

fn consent_entry(group: &str, id: &SessionId) -> String {
    format!("{group}{}", sha256_hex(id.expose().as_bytes()))
}

impl Broker {
    /// Counts a caller's connect session before it is stored: among all of them and among those for this
    /// connection, in one step.
    ///
    /// # Errors
    /// The caller has reached its limit, or the store is unavailable.
    pub(super) async fn count_session(
        &self,
        caller: &CallerName,
        key: &ConnectionKey,
        id: &SessionId,
        expires_at: Timestamp,
    ) -> Result<(), Refusal> {
        let group = session_group(key);
        let counting = Counting {
            owner: sessions_of(caller.as_str()),
            most: Most::of_owner(self.most_sessions()).and_of_group(&group, MOST_OF_CONNECTION),
            what: "open connect sessions",
            what_of_group: "open connect sessions for this connection",
        };
        self.count(counting, &open_entry(key, id), expires_at).await
    }

    /// Returns the hashes of the ids of a caller's sessions: the open ones, and those whose end can be read.
    pub(super) async fn session_hashes(&self, caller: &str) -> Result<BTreeSet<String>, Refusal> {
        let mut hashes = BTreeSet::new();
        for owner in [sessions_of(caller), ended_of(caller)] {
            let entries = self.deps.repository.counted(&owner).await.map_err(RepositoryError::from)?;
            hashes.extend(entries.iter().filter_map(|entry| entry.rsplit(' ').next().map(str::to_owned)));
        }
        Ok(hashes)
    }

    /// Uncounts a session that is over, or that could not be stored.
    pub(super) async fn uncount_session(&self, caller: &str, key: &ConnectionKey, id: &SessionId) {
        self.count_out(&sessions_of(caller), &open_entry(key, id)).await;
    }

    /// Counts a caller's open admin consent session before it is stored: among all of them and among those of
    /// this tenant, in one step.
    ///
    /// # Errors
    /// The caller has reached its limit, in all or for this tenant, or the store is unavailable.
    pub(super) async fn count_consent(
        &self,
        caller: &CallerName,
        app: &AppName,
        tenant: Option<&str>,
        id: &SessionId,
        expires_at: Timestamp,
    ) -> Result<(), Refusal> {
        let group = consent_group(app, tenant);
        let all = Most::of_owner(MOST_CONSENTS);
        let counting = Counting {
            owner: consents_of(caller.as_str()),
            most: if tenant.is_some() { all.and_of_group(&group, MOST_CONSENTS_OF_TENANT) } else { all },
            what: "open admin consent sessions",
            what_of_group: "open admin consent sessions for this tenant",
        };
        self.count(counting, &consent_entry(&group, id), expires_at).await
    }

    /// Uncounts an open admin consent session that is over, or that could not be stored.
    pub(super) async fn uncount_consent(
        &self,
        caller: &str,
        app: &AppName,
        tenant: Option<&str>,
        id: &SessionId,
    ) {
        self.count_out(&consents_of(caller), &consent_entry(&consent_group(app, tenant), id)).await;
    }

    /// Returns how long an answered admin consent session can be read.
    pub(super) async fn consent_readable(&self, id: &SessionId, after: &ConsentSession) -> Duration {
        let entry = ended_entry(&after.app, id);
        self.readable(&ended_consents_of(&after.created_by), &entry, MOST_CONSENTS).await
    }

    /// Uncounts an answered admin consent session as open, at once or after a while.
    pub(super) async fn recount_consent(&self, id: &SessionId, after: &ConsentSession, readable: Duration) {
        let (caller, tenant) = (&after.created_by, after.tenant.as_deref());
        if readable == READABLE_AFTER_END {
            return self.uncount_consent(caller, &after.app, tenant, id).await;
        }
        let entry = consent_entry(&consent_group(&after.app, tenant), id);
        self.prolong(&consents_of(caller), &entry, self.deps.clock.now().plus(readable), MOST_CONSENTS).await;
    }

    /// Returns how long a session with this new state can be read after its end. A caller with many ended
    /// sessions has them for a shorter time.
    pub(super) async fn readable_after_end(&self, id: &SessionId, after: &ConnectSession) -> Duration {
        if !is_over(&after.state) {
            return READABLE_AFTER_END;
        }
        let entry = ended_entry(&after.app, id);
        self.readable(&ended_of(&after.created_by), &entry, self.most_sessions()).await
    }

    async fn readable(&self, ended: &str, entry: &str, most_open: usize) -> Duration {
        let until = self.deps.clock.now().plus(READABLE_AFTER_END);
        let most = Most::of_owner(ENDED_FOR_EACH * most_open);
        match self.deps.repository.count_in(ended, entry, until, most).await {
            Ok(Counted::Full { .. }) => READABLE_BRIEFLY,
            Ok(Counted::In) | Err(_) => READABLE_AFTER_END,
        }
    }

    /// Updates a session's count after a change of its state, which lasts until `until`: it counts as open
    /// for longer, or no more.
    pub(super) async fn recount_session(
        &self,
        id: &SessionId,
        after: &ConnectSession,
        until: Timestamp,
        readable: Duration,
    ) {
        let (owner, entry) = (sessions_of(&after.created_by), open_entry(&after.key(), id));
        let until = match &after.state {
            // It stays counted while its link works.
            SessionState::Pending => return,
            SessionState::AwaitingConfirmation { .. } => until,
            _ if readable == READABLE_AFTER_END => {
                return self.uncount_session(&after.created_by, &after.key(), id).await;
            }
            _ => self.deps.clock.now().plus(readable),
        };
        self.prolong(&owner, &entry, until, self.most_sessions()).await;
    }

    /// Extends a counted entry; no limit applies to it.
    async fn prolong(&self, owner: &str, entry: &str, until: Timestamp, most: usize) {
        let most = Most::of_owner(most);
        if let Err(error) = self.deps.repository.count_in(owner, entry, until, most).await {
            tracing::debug!(%error, "a session counts as open until its link's end");
        }
    }

    /// Refuses new sessions when the store is nearly full: the last of it is reserved for connections.
    ///
    /// # Errors
    /// The store is nearly full.
    pub(super) fn room(&self) -> Result<(), Refusal> {
        match self.deps.repository.has_room() {
            true => Ok(()),
            false => Err(Refusal::StoreNearlyFull),
        }
    }

    fn most_sessions(&self) -> usize {
        usize::try_from(self.settings().open_sessions).unwrap_or(usize::MAX)
    }

    async fn count(&self, counting: Counting<'_>, entry: &str, until: Timestamp) -> Result<(), Refusal> {
        self.room()?;
        let (now, monotonic) = (self.deps.clock.now(), self.deps.clock.monotonic());
        let Counting { owner, most, what, what_of_group } = counting;
        let group = most.of_group.map(|group| (format!("{owner} {}", group.prefix), group.most));
        let refused = |which, first| {
            let retry_after = wait_for(first, now);
            match (which, &group) {
                (Full::Group, Some((_, most))) => {
                    Refusal::TooMany { what: what_of_group, most: *most, retry_after }
                }
                _ => Refusal::TooMany { what, most: most.of_owner, retry_after },
            }
        };
        let of_group = group.as_ref().map(|(group, _)| (Full::Group, group));
        for (which, counted) in of_group.into_iter().chain([(Full::Owner, &owner)]) {
            if let Some(first) = self.at_their_limit.first_end(counted, monotonic) {
                return Err(refused(which, first));
            }
        }
        let counted = self.deps.repository.count_in(&owner, entry, until, most).await;
        match counted.map_err(RepositoryError::from)? {
            Counted::In => Ok(()),
            Counted::Full { which, until: first } => {
                let refusal = refused(which, first);
                let full = if which == Full::Group { group.map_or(owner, |(group, _)| group) } else { owner };
                self.at_their_limit.add(full, monotonic, first);
                Err(refusal)
            }
        }
    }

    async fn count_out(&self, owner: &str, entry: &str) {
        if let Err(error) = self.deps.repository.count_out(owner, entry).await {
            tracing::debug!(%error, "what is over counts until its time is over");
        }
    }
}

/// Returns how long to wait for a place if the first becomes free then.
fn wait_for(first: Timestamp, now: Timestamp) -> Duration {
    first.since(now).clamp(Duration::from_secs(1), LONGEST_WAIT)
}

fn is_over(state: &SessionState) -> bool {
    match state {
        SessionState::Pending | SessionState::AwaitingConfirmation { .. } => false,
        SessionState::Connected { .. } | SessionState::Failed(_) | SessionState::Expired => true,
    }
}
