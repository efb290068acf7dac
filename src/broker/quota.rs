//! What a caller may have open at once. Whatever a caller, or somebody with a link of its, has kept in the store is counted
//! against that caller: in the store, for all replicas together and through restarts. What counts ends by itself, so a crash
//! leaks nothing; what is over before counts no more.

use parking_lot::{Mutex, MutexGuard};
use std::collections::BTreeMap;
use std::time::Duration;

use super::connect::READABLE_AFTER_END;
use super::session::{ConnectSession, ConsentSession, SessionState};
use super::{Broker, Refusal};
use crate::domain::id::{AppName, CallerName, ConnectionKey, SessionId};
use crate::domain::time::Timestamp;
use crate::repository::{RepositoryError, sha256_hex};
use crate::store::{Counted, Full, Most};

/// Open connect sessions of a caller for one connection: one user who presses "connect" over and over shuts nobody else out.
const MOST_OF_CONNECTION: usize = 20;
/// Sessions of a caller that are over and can still be read, for each that may be open (`limits.open_sessions`: nobody has come
/// back yet, or the caller has still to confirm). Each is some 2 KB of the store at the most.
const ENDED_FOR_EACH: usize = 2;
/// For so long one that is over can be read, and takes the place of an open one, where there are as many as that already:
/// longer than a long poll waits.
const READABLE_BRIEFLY: Duration = Duration::from_secs(120);
/// Open admin consent sessions of a caller.
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

/// Who is at its limit, by what is counted: until when that is believed, and when the first of it ends. What is believed no more is
/// forgotten when the next is added; so there are a few for each caller.
#[derive(Default)]
pub(super) struct AtTheirLimit(Mutex<BTreeMap<String, (Duration, Timestamp)>>);

impl AtTheirLimit {
    fn all(&self) -> MutexGuard<'_, BTreeMap<String, (Duration, Timestamp)>> {
        self.0.lock()
    }

    /// When the first of it ends, where this is believed to be at its limit.
    fn first_end(&self, counted: &str, monotonic: Duration) -> Option<Timestamp> {
        self.all().get(counted).filter(|(believed, _)| monotonic < *believed).map(|(_, first)| *first)
    }

    fn add(&self, counted: String, monotonic: Duration, first: Timestamp) {
        let mut all = self.all();
        all.retain(|_, (believed, _)| monotonic < *believed);
        all.insert(counted, (monotonic.saturating_add(REFUSED_FOR), first));
    }
}

/// What is counted, and what its callers call it.
struct Counting<'a> {
    owner: String,
    most: Most<'a>,
    /// What there are too many of.
    what: &'static str,
    /// And in a group.
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

/// Those that are over and can still be read.
fn ended_consents_of(caller: &str) -> String {
    format!("ended-consents/{caller}")
}

/// What a caller's open sessions for one connection begin with: the group that they count in. The connection's name is text that a
/// caller may have from its user: it has a hash of it, and no key of its own in the store.
fn session_group(key: &ConnectionKey) -> String {
    format!("{} {} ", key.app, sha256_hex(key.to_string().as_bytes()))
}

/// An open session among those of its caller. It has a hash of its id, for the id is its link.
fn open_entry(key: &ConnectionKey, id: &SessionId) -> String {
    format!("{}{}", session_group(key), sha256_hex(id.expose().as_bytes()))
}

/// A session that is over among those of its caller.
fn ended_entry(app: &AppName, id: &SessionId) -> String {
    format!("{app} {}", sha256_hex(id.expose().as_bytes()))
}

/// What the admin consent sessions of an app for one tenant begin with: the group that they count in. A tenant's name is the caller's
/// text: it has a hash of it, and no key of its own in the store.
fn consent_group(app: &AppName, tenant: Option<&str>) -> String {
    let tenant = tenant.map(|tenant| sha256_hex(tenant.to_ascii_lowercase().as_bytes()));
    format!("{app} {} ", tenant.as_deref().unwrap_or("any"))
}

fn consent_entry(group: &str, id: &SessionId) -> String {
    format!("{group}{}", sha256_hex(id.expose().as_bytes()))
}

impl Broker {
    /// Counts a connect session of a caller, before it is kept: among all of them and those for this connection, in one step.
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
        let group = session_group(key);
        let counting = Counting {
            owner: sessions_of(caller.as_str()),
            most: Most::of_owner(self.most_sessions()).and_of_group(&group, MOST_OF_CONNECTION),
            what: "open connect sessions",
            what_of_group: "open connect sessions for this connection",
        };
        self.count(counting, &open_entry(key, id), expires_at).await
    }

    /// Counts a session no more: it is over, or could not be kept after all.
    pub(super) async fn uncount_session(&self, caller: &str, key: &ConnectionKey, id: &SessionId) {
        self.count_out(&sessions_of(caller), &open_entry(key, id)).await;
    }

    /// Counts an admin consent session of a caller as open, before it is kept: among all of them and those of this tenant, in one
    /// step.
    ///
    /// # Errors
    /// The caller has as many as it may have, in all or of this tenant, or the store does not serve.
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

    /// Counts an admin consent session as open no more: it is over, or could not be kept after all.
    pub(super) async fn uncount_consent(
        &self,
        caller: &str,
        app: &AppName,
        tenant: Option<&str>,
        id: &SessionId,
    ) {
        self.count_out(&consents_of(caller), &consent_entry(&consent_group(app, tenant), id)).await;
    }

    /// For how long an admin consent session that has had its answer can be read.
    pub(super) async fn consent_readable(&self, id: &SessionId, after: &ConsentSession) -> Duration {
        let entry = ended_entry(&after.app, id);
        self.readable(&ended_consents_of(&after.created_by), &entry, MOST_CONSENTS).await
    }

    /// An admin consent session has had its answer: as one that is open it counts no more, or for a while.
    pub(super) async fn recount_consent(&self, id: &SessionId, after: &ConsentSession, readable: Duration) {
        let (caller, tenant) = (&after.created_by, after.tenant.as_deref());
        if readable == READABLE_AFTER_END {
            return self.uncount_consent(caller, &after.app, tenant, id).await;
        }
        let entry = consent_entry(&consent_group(&after.app, tenant), id);
        self.prolong(&consents_of(caller), &entry, self.deps.clock.now().plus(readable), MOST_CONSENTS).await;
    }

    /// For how long a session that now stands so can be read, after it is over. Whoever has many that are over has them for a
    /// shorter time.
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

    /// A session stands elsewhere now, until `until`: as one that is open it counts for longer, or no more.
    pub(super) async fn recount_session(
        &self,
        id: &SessionId,
        after: &ConnectSession,
        until: Timestamp,
        readable: Duration,
    ) {
        let (owner, entry) = (sessions_of(&after.created_by), open_entry(&after.key(), id));
        let until = match &after.state {
            // Its place is still counted, for as long as its link works.
            SessionState::Pending => return,
            SessionState::AwaitingConfirmation { .. } => until,
            _ if readable == READABLE_AFTER_END => {
                return self.uncount_session(&after.created_by, &after.key(), id).await;
            }
            _ => self.deps.clock.now().plus(readable),
        };
        self.prolong(&owner, &entry, until, self.most_sessions()).await;
    }

    /// What counts already counts until then: no limit is in its way.
    async fn prolong(&self, owner: &str, entry: &str, until: Timestamp, most: usize) {
        let most = Most::of_owner(most);
        if let Err(error) = self.deps.repository.count_in(owner, entry, until, most).await {
            tracing::debug!(%error, "a session counts as open until its link's end");
        }
    }

    /// What can be refused goes before what cannot: the last of the store is for connections.
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
