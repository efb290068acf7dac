//! Handles: a caller gives a part of its relay on, to a bearer that gets nothing else. A handle says itself
//! what it allows, sealed, and is not stored. So each replica judges it alone, and what ends it must be known
//! beside it: the list of those that operators ended, which every replica reads each second, and what is held
//! of its caller and its connection.

use std::collections::BTreeMap;
use std::time::Duration;

use parking_lot::{Mutex, MutexGuard, RwLock};
use serde::{Deserialize, Serialize};

use super::living_handles::{self, Living, LivingHandles};
use super::{Broker, Refusal};
use crate::domain::account::AccountId;
use crate::domain::connection::{Profile, Status};
use crate::domain::handle::{self, EndedHandles, HandleId, LONGEST_LIFE, MOST_ENDED, PresentedHandle};
use crate::domain::id::{AppName, CallerName, ConnectionKey, ConnectionName};
use crate::domain::revocation::CLOCKS_APART;
use crate::domain::secret::HandleText;
use crate::domain::time::Timestamp;
use crate::keyring::KeyId;
use crate::keyring::seal::key_id;
use crate::policy::{Provisional, RelayPart};
use crate::relay::RelayRule;
use crate::repository::{FiledUnder, Kind, RepositoryError, Taken};

/// The smallest difference between two instants.
const NEXT: Duration = Duration::from_millis(1);
/// How much longer a sealing key is noted as needed, so that not each handle is a write.
const NOTED_AHEAD: Duration = Duration::from_secs(600);
/// How long the list of ended handles is kept after its last change.
const KEPT: Duration = Duration::from_secs(2 * 86_400);

/// What a caller wants to give on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewHandle {
    /// For how long: a day at most.
    pub ttl: Duration,
    /// Which rules.
    pub rules: Vec<RelayRule>,
}

/// A handle that was made.
pub struct MadeHandle {
    /// The handle itself. It is shown once.
    pub text: HandleText,
    /// Its id.
    pub id: HandleId,
    /// When it ends by itself.
    pub expires_at: Timestamp,
}

/// What a handle says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Handle {
    /// Its id.
    pub id: HandleId,
    /// The connection.
    pub key: ConnectionKey,
    /// The caller that made it, and whose rights, limits and turns count.
    pub caller: CallerName,
    /// The API key with which the caller made it, and with which it ends.
    pub api_key: Option<String>,
    /// What it allows of the caller's relay.
    pub part: RelayPart,
    /// The account that the connection had.
    account: AccountId,
    /// When the connection was first made: one that was deleted and made anew is another.
    connected_since: Timestamp,
    /// When it was made, as revocations count.
    made_at: Timestamp,
    /// When it ends by itself.
    expires_at: Timestamp,
}

/// The same, as it is sealed. A member that is not known here could narrow the handle, so it is refused.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Sealed {
    app: AppName,
    connection: String,
    caller: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    api_key: Option<String>,
    relay: Vec<String>,
    account: AccountId,
    connected_since: Timestamp,
    made_at: Timestamp,
    expires_at: Timestamp,
}

impl Sealed {
    fn of(handle: &Handle) -> Self {
        Sealed {
            app: handle.key.app.clone(),
            connection: handle.key.connection.to_string(),
            caller: handle.caller.to_string(),
            api_key: handle.api_key.clone(),
            relay: handle.part.rules().iter().map(RelayRule::to_string).collect(),
            account: handle.account.clone(),
            connected_since: handle.connected_since,
            made_at: handle.made_at,
            expires_at: handle.expires_at,
        }
    }

    fn opened(self, id: HandleId) -> Option<Handle> {
        let rules: Result<Vec<RelayRule>, _> = self.relay.iter().map(|rule| RelayRule::parse(rule)).collect();
        let connection = ConnectionName::stored(&self.connection).ok()?;
        Some(Handle {
            id,
            key: ConnectionKey { app: self.app, connection },
            caller: CallerName::parse(&self.caller).ok()?,
            api_key: self.api_key,
            part: RelayPart::given(rules.ok()?),
            account: self.account,
            connected_since: self.connected_since,
            made_at: self.made_at,
            expires_at: self.expires_at,
        })
    }
}

impl Handle {
    /// Whether it is of this connection as it is now: of the same account, not made anew, and not paused
    /// since.
    fn is_of(&self, profile: &Profile) -> bool {
        profile.created_at() == self.connected_since
            && profile.account().id() == self.account
            && profile.handles_over().is_none_or(|over| self.made_at > over)
    }
}

/// What this replica knows.
#[derive(Default)]
pub(super) struct Known {
    /// The handles that operators ended, and when the list was read (monotonic); `None` before.
    ended: RwLock<Option<(EndedHandles, Duration)>>,
    /// Until when handles of a sealing key live, as this replica noted it in the store.
    noted: Mutex<BTreeMap<KeyId, Timestamp>>,
    /// The same of handles that were used here, wherever they were made.
    used: Mutex<BTreeMap<KeyId, Timestamp>>,
    /// Those that this replica made or that were used here.
    living: Mutex<Living>,
}

impl Broker {
    /// Makes a handle for a part of what a caller may have relayed with a connection's token. `api_key` is
    /// the id of the API key with which the caller asks, if it has one.
    ///
    /// # Errors
    /// The caller may not have the part relayed itself; the connection is paused; the store does not answer.
    pub async fn make_handle(
        &self,
        permit: Provisional<'_>,
        api_key: Option<String>,
        wanted: NewHandle,
    ) -> Result<MadeHandle, Refusal> {
        let key = permit.key();
        let held = self.deps.engine.inspect(key).await.map_err(|failure| Refusal::of_failure(&failure))?;
        let profile = &held.connection.profile;
        let part = permit.of_tenant(profile.account().tid.as_deref())?.give_on(wanted.rules)?;
        if profile.status() == Status::Paused {
            return Err(Refusal::ConnectionPaused);
        }
        let begins_at = self.session_begins_at().await?;
        let now = self.deps.clock.now();
        let expires_at = now.plus(wanted.ttl.min(LONGEST_LIFE));
        // (Later than the last pause, whatever the clock of the replica says that took it.)
        let after_pause = profile.handles_over().map_or(now, |over| over.plus(NEXT));
        let handle = Handle {
            id: HandleId::generate(self.deps.random.as_ref()),
            key: key.clone(),
            caller: permit.caller().clone(),
            api_key,
            part,
            account: profile.account().id(),
            connected_since: profile.created_at(),
            made_at: begins_at.max(after_pause),
            expires_at,
        };
        let repository = &self.deps.repository;
        let sealing = repository.keyring().primary();
        if self.handles.noted.lock().get(&sealing.id).is_none_or(|until| *until < expires_at) {
            let until = expires_at.plus(NOTED_AHEAD);
            repository.note_handles(&sealing, until, now).await?;
            self.handles.noted.lock().insert(sealing.id.clone(), until);
        }
        let sealed = repository.seal_handle(&sealing, &handle.id, &Sealed::of(&handle));
        let text = handle::write(&handle.id, &sealed);
        let text = text.ok_or_else(|| Refusal::invalid("relay", "has more than a handle has room for"))?;
        self.note_handle(&handle, None);
        Ok(MadeHandle { text, id: handle.id, expires_at })
    }

    /// Opens a handle. It says what it allows, and not yet that it still counts.
    pub fn open_handle(&self, text: &str) -> Option<Handle> {
        let presented = PresentedHandle::parse(text)?;
        let sealed: Sealed = self.deps.repository.open_handle(&presented).ok()?;
        let key = key_id(&presented.sealed)?;
        let handle = sealed.opened(presented.id)?;
        let mut used = self.handles.used.lock();
        let until = used.entry(key).or_insert(handle.expires_at);
        *until = handle.expires_at.max(*until);
        drop(used);
        Some(handle)
    }

    /// Notes anew until when handles live, as far as this replica made or saw them: a failover may have lost
    /// the note, and then their sealing key could be retired under them. Called every second.
    ///
    /// # Errors
    /// The store's.
    pub async fn note_living_handles(&self) -> Result<(), RepositoryError> {
        let (repository, now) = (&self.deps.repository, self.deps.clock.now());
        let mut living = self.handles.noted.lock().clone();
        {
            let mut used = self.handles.used.lock();
            used.retain(|_, until| *until > now);
            for (key, until) in used.iter() {
                let noted = living.entry(key.clone()).or_insert(*until);
                *noted = until.max(noted).to_owned();
            }
        }
        let mut noted = Ok(());
        for (key, until) in living.into_iter().filter(|(_, until)| *until > now) {
            if let Some(key) = repository.keyring().key(&key) {
                // (One key's note keeps no other's back.)
                noted = noted.and(repository.note_handles(&key, until, now).await);
            }
        }
        noted
    }

    /// Whether a handle's time is over, or an operator ended it, as far as is known.
    pub fn is_handle_over(&self, handle: &Handle) -> bool {
        let is_ended = |(ended, _): &(EndedHandles, Duration)| ended.has(&handle.id);
        self.deps.clock.now() >= handle.expires_at || self.handles.ended.read().as_ref().is_some_and(is_ended)
    }

    /// Judges whether a handle still counts for a connection as it is now, and notes its use.
    ///
    /// # Errors
    /// It has ended; or this replica has not heard for too long which have.
    pub fn handle_stands(&self, handle: &Handle, profile: &Profile) -> Result<(), Refusal> {
        let judged = self.judge_handle(handle, profile);
        match &judged {
            Ok(()) => self.note_handle(handle, Some(self.deps.clock.now())),
            Err(Refusal::HandleEnded) => self.handles.living.lock().end(&handle.id),
            Err(_) => {}
        }
        judged
    }

    fn note_handle(&self, handle: &Handle, used_at: Option<Timestamp>) {
        let one = living_handles::One {
            app: handle.key.app.clone(),
            caller: handle.caller.clone(),
            api_key: handle.api_key.clone(),
            expires_at: handle.expires_at,
            used_at,
        };
        self.handles.living.lock().note(&handle.id, one);
    }

    fn judge_handle(&self, handle: &Handle, profile: &Profile) -> Result<(), Refusal> {
        if self.is_handle_over(handle) || !handle.is_of(profile) {
            return Err(Refusal::HandleEnded);
        }
        let tenant = profile.account().tid.as_deref();
        let (app, by) = (&handle.key.app, handle.caller.as_str());
        if self.deps.engine.revokes(|one| one.covers_what_began(app, tenant, by, handle.made_at)) {
            return Err(Refusal::HandleEnded);
        }
        let within = self.deps.engine.serve_cached_for();
        let now = self.deps.clock.monotonic();
        match &*self.handles.ended.read() {
            Some((_, read_at)) if now.saturating_sub(*read_at) <= within => Ok(()),
            _ => Err(Refusal::StoreUnavailable),
        }
    }

    /// Ends a handle: at once on this replica, and within seconds on every other.
    ///
    /// # Errors
    /// The store does not answer; or as many are ended as are remembered.
    pub async fn end_handle(&self, id: &HandleId) -> Result<(), Refusal> {
        let now = self.deps.clock.now();
        let written = self
            .deps
            .repository
            .change_pending(Kind::EndedHandles, &FiledUnder::only(), now, KEPT, |list: &mut EndedHandles| {
                match list.end(id.clone(), now) {
                    true => Ok(()),
                    false => Err(Refusal::invalid(
                        "handle",
                        format!(
                            "could not be ended: {MOST_ENDED} handles are, which is the most; pause the \
                             connection, retire the API key that made it, or take the caller's rule away"
                        ),
                    )),
                }
            })
            .await?;
        self.learn_ended_handles(&written.ok_or(Refusal::StoreUnavailable)?);
        Ok(())
    }

    /// Takes in the handles that were ended on other replicas. Called every second; after an error, the known
    /// ones stay ended.
    ///
    /// # Errors
    /// The store's, or the list does not open.
    pub async fn follow_ended_handles(&self) -> Result<(), RepositoryError> {
        let (repository, now) = (&self.deps.repository, self.deps.clock.now());
        let (kind, id) = (Kind::EndedHandles, FiledUnder::only());
        let list: Option<Taken<EndedHandles>> = repository.pending(kind, &id).await?;
        let mut all = list.as_ref().map(|list| list.value.clone()).unwrap_or_default();
        // Known ones stay ended: a failover may have lost one.
        let mut known =
            self.handles.ended.read().as_ref().map(|(known, _)| known.clone()).unwrap_or_default();
        known.forget(now);
        if all.join(&known) {
            // (If others change it at this moment, the next call succeeds.)
            repository.swap_pending(kind, &id, list.as_ref(), &all, now, KEPT).await?;
        }
        self.learn_ended_handles(&all);
        Ok(())
    }

    fn learn_ended_handles(&self, list: &EndedHandles) {
        let (now, monotonic) = (self.deps.clock.now(), self.deps.clock.monotonic());
        let mut known = self.handles.ended.write();
        let (ended, read_at) = known.get_or_insert_with(|| (EndedHandles::default(), monotonic));
        ended.join(list);
        ended.forget(now);
        *read_at = monotonic;
    }

    /// The handles that live, by caller and API key, as far as this replica knows: it made them, or they were
    /// used here. One that a pause, a delete or a revocation ended counts until it is used or over.
    pub fn living_handles(&self) -> Vec<LivingHandles> {
        self.forget_handles().by_key()
    }

    /// The same, by app and caller, with those that had some at the last call.
    pub fn count_handles(&self) -> BTreeMap<(AppName, CallerName), u64> {
        self.forget_handles().counts()
    }

    fn forget_handles(&self) -> MutexGuard<'_, Living> {
        let mut living = self.handles.living.lock();
        let ended = self.handles.ended.read();
        living.forget(ended.as_ref().map(|(ended, _)| ended), self.deps.clock.now());
        living
    }

    /// The last instant whose handles a pause ends: also those of a replica whose clock is ahead.
    pub(super) fn handles_made_by_now(&self) -> Timestamp {
        self.deps.clock.now().plus(CLOCKS_APART)
    }
}
