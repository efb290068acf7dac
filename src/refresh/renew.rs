//! The work of one flight: look a connection up, or use its grant and store what comes back.

use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::sync::OwnedSemaphorePermit;

use super::backoff;
use super::breaker::{Admission, Ended};
use super::claims::Claims;
use super::engine::Inner;
use super::kept::{drop_oldest, is_in_place_of};
use super::lease::{self, Lease};
use super::permit::CallPermit;
use super::plan::{self, Want};
use super::slots::{Failure, Recent, Slot, Trouble, Unchecked};
use super::{due, sweep, unclear};
use crate::authority::{Fate, RefreshRequest, Refreshed, RefusedAnswer, TokenAnswer};
use crate::domain::connection::{Attempt, DAMAGED, Profile, Status};
use crate::domain::grant::Grant;
use crate::domain::id::{AppName, ConnectionKey};
use crate::domain::remarks::Remarks;
use crate::domain::scope::{ScopeNaming, ScopeSet};
use crate::domain::secret::{AccessToken, RefreshToken};
use crate::domain::time::Timestamp;
use crate::domain::token::{Freshness, HeldToken, nobody};
use crate::domain::verdict::{AuthorityError, AuthorityFailure, Disposition, GrantFate, ReauthReason};
use crate::repository::{Connection, FiledUnder, Kind, Loaded, RepositoryError, Unstored, sha256_hex};
use crate::store::{Committed, LeaseNonce, Revision, StoreError, StoredConnection, Writer};

/// An answer that the store has not acknowledged by then goes into the journal.
const JOURNAL_AFTER: Duration = Duration::from_millis(40);
/// How often the store is asked to take an answer before its waiters are told.
const STORE_TRIES: u32 = 5;
/// A verdict on a resource besides the one that the connection was made for is asked about again after this long.
const VERDICT_AGAIN: Duration = Duration::from_secs(60);
/// A connection whose try showed that the app itself is rejected waits this long; the breaker lets one of all of them try.
const APP_REJECTED: Duration = Duration::from_secs(2);
/// How often a commit may be overtaken before its waiters are told.
const MOST_OVERTAKEN: usize = 4;
/// How much later a connection is looked after whose tenant has callers waiting, or whose try failed for no reason of its own.
const LATER: Duration = Duration::from_secs(30);
/// A grant that ended after so long without use ended for that, and sooner than Entra promises (90 days, configurable-token-
/// lifetimes). One that was used within a day ended for another reason.
const IDLE: std::ops::Range<Duration> = Duration::from_secs(86_400)..Duration::from_secs(80 * 86_400);
/// What was learnt of a tenant is believed for so long; then it is tried anew.
const LIMIT_KEPT: Duration = Duration::from_secs(180 * 86_400);
/// Tenants of which something was learnt.
const MOST_LIMITS: usize = 10_000;
/// How long another replica's word is waited for before its lease is tried for all the same: what is told may be lost.
const UNTOLD: Duration = Duration::from_secs(1);
/// A lease that is about to end is not tried for more often than this.
const SHORTEST_WAIT: Duration = Duration::from_millis(20);
/// How often a connection is tried that somebody wants to be tried now, where others of its tenant are being tried.
const TRIES_NOW: u32 = 4;
/// How long another connection's try is waited for that is made for all of its tenant.
const PATIENCE_WITH_PROBE: Duration = Duration::from_secs(2);
/// How long such a one waits for its turn at the most.
const LONGEST_TURN: Duration = Duration::from_secs(5);
/// Entra's number for a request with something malformed in it, such as a refresh token.
const MALFORMED: u32 = 9_002_313;
/// Pause before a personal account's verdict is checked once more.
const SECOND_OPINION: Duration = Duration::from_millis(500);

/// Looks a connection up and holds it; cheap when what is held is still the stored revision.
pub(super) async fn look_up(
    inner: &Arc<Inner>,
    key: &ConnectionKey,
    slot: &Slot,
) -> Result<(), Arc<Failure>> {
    let looked_at = inner.deps.clock.monotonic();
    let (epoch, held) = {
        let mut state = slot.state();
        state.outdated = false; // whoever says so from here on says it of what we are about to see
        (state.epoch, state.held.clone())
    };
    if let Some(held) = held {
        match inner.deps.repository.store().revision(key).await {
            Ok(Some(revision)) if revision == held.connection.revision => {
                inner.note_answer();
                let mut state = slot.state();
                state.checked_at = state.checked_at.max(looked_at);
                state.unchecked = None;
                return Ok(());
            }
            Ok(_) => {}
            Err(error) => return Err(store_does_not_answer(inner, slot, Failure::Repository(error.into()))),
        }
    }
    load(inner, key, slot, epoch).await.map(|_| ())
}

/// Loads a connection and holds it. A connection that is gone is forgotten. Where the store shows less than it had a moment
/// ago, it gets that back first: what was deleted is deleted again, and what was stored is stored again. While somebody holds
/// the lease of what is less that has to wait; it is given as it is then, and not held.
async fn load(
    inner: &Arc<Inner>,
    key: &ConnectionKey,
    slot: &Slot,
    epoch: u64,
) -> Result<Loaded, Arc<Failure>> {
    for _ in 0..MOST_OVERTAKEN {
        let looked_at = inner.deps.clock.monotonic();
        let loaded = match inner.deps.repository.load(key).await {
            Ok(Some(loaded)) => {
                inner.note_answer();
                loaded
            }
            Ok(None) => {
                inner.note_answer();
                let mut state = slot.state();
                if state.epoch == epoch && looked_at >= state.checked_at {
                    // Deleted since: whatever was begun or stored before may not bring it back.
                    state.epoch += 1;
                    state.recent = None;
                    state.held = None;
                    state.unchecked = None;
                    state.checked_at = looked_at;
                }
                return Err(Arc::new(Failure::NotFound));
            }
            Err(error) => return Err(store_does_not_answer(inner, slot, Failure::Repository(error))),
        };
        let now = inner.deps.clock.monotonic();
        let sign_in = loaded.connection.profile.sign_in;
        let (was_deleted, fell_back) = {
            let state = slot.state();
            (state.was_deleted(&loaded.connection, now), state.fell_back(&loaded.connection, now))
        };
        let repaired = match fell_back {
            _ if was_deleted => {
                tracing::warn!(app = %key.app, connection = %key.connection, "the store lost a delete that it had acknowledged (a failover?); it is deleted again");
                inner
                    .deps
                    .repository
                    .store()
                    .delete(key, sign_in, false)
                    .await
                    .map(|_| true)
                    .map_err(Into::into)
            }
            Some(recent) => store_again(inner, key, &loaded.connection, &recent).await,
            None => Ok(false),
        };
        match repaired {
            Ok(true) => {}
            Ok(false) => {
                inner.publish(key, slot, epoch, &loaded, looked_at);
                return Ok(loaded);
            }
            Err(error) => {
                let failure = store_does_not_answer(inner, slot, Failure::Repository(error));
                // It was seen, though: it is there.
                let mut state = slot.state();
                if state.epoch == epoch {
                    state.checked_at = state.checked_at.max(looked_at);
                }
                return Err(failure);
            }
        }
    }
    Err(Arc::new(Failure::Repository(ever_changing("loading a connection").into())))
}

/// Stores what the store had already. False when somebody who holds the lease stands before that.
async fn store_again(
    inner: &Inner,
    key: &ConnectionKey,
    stored: &Connection,
    recent: &Recent,
) -> Result<bool, RepositoryError> {
    let replaces_grant = stored.grant_place() != recent.held.connection.grant_place();
    let writer = Writer::Again { replaces_grant };
    let repository = &inner.deps.repository;
    let known = &recent.held.connection;
    let committed = if stored.profile.status == Status::Paused && known.profile.status != Status::Paused {
        // An operator's act on less than there was is meant for all of it.
        let loaded = Loaded { connection: known.clone(), sealed: StoredConnection::clone(&recent.sealed) };
        let grant = repository.open_grant(key, &loaded)?;
        let after = stored.revision.generation.max(known.revision.generation);
        let sealed =
            repository.seal(key, after, &known.profile.clone().paused(), &known.tokens, grant.as_ref());
        repository.commit_sealed(key, stored.revision, &sealed, writer).await?
    } else {
        repository.commit_sealed(key, stored.revision, &recent.sealed, writer).await?
    };
    if committed == Committed::Done {
        tracing::warn!(app = %key.app, connection = %key.connection, "the store had lost what it had acknowledged (a failover?); it is stored again");
    }
    Ok(committed != Committed::Fenced)
}

fn ever_changing(doing: &'static str) -> StoreError {
    StoreError::Unavailable { doing, cause: "others kept changing the connection".into() }
}

fn store_does_not_answer(inner: &Inner, slot: &Slot, failure: Failure) -> Arc<Failure> {
    match &failure {
        Failure::Repository(error) if error.is_outage() || error.is_damage() => {
            tracing::debug!(%failure, "a connection could not be looked up");
        }
        _ => tracing::error!(%failure, "a connection could not be looked up"),
    }
    let failure = Arc::new(failure);
    let mut state = slot.state();
    if state.held.is_some() {
        let persists =
            state.unchecked.as_ref().is_some_and(|before| inner.has_answered_since(before.asked_at));
        let asked_at = inner.deps.clock.monotonic();
        state.unchecked = Some(Unchecked { asked_at, failure: failure.clone(), persists });
    }
    failure
}

/// Has `explain` say that the stored grant cannot be used: once, for it is found with each try.
fn note_damage(inner: &Inner, slot: &Slot, error: &RepositoryError) {
    let mut state = slot.state();
    if state.attempts.last().is_none_or(|last| last.outcome != DAMAGED) {
        state.remember(Attempt {
            at: inner.deps.clock.now(),
            action: "refresh".to_owned(),
            outcome: DAMAGED.to_owned(),
            conclusion: error.to_string(),
            answer: AuthorityError::default(),
        });
    }
}

/// Uses the grant, unless somebody else has just done so, and stores what comes back before anyone sees it. Where another
/// replica is at it, its outcome is waited for.
pub(super) async fn renew(
    inner: &Arc<Inner>,
    key: &ConnectionKey,
    slot: &Arc<Slot>,
    want: &Want,
    permit: Option<CallPermit>,
) -> Result<(), Arc<Failure>> {
    let enough = |connection: &Connection| {
        let now = inner.deps.clock.now();
        plan::pick(&connection.tokens, want, now).is_some_and(|token| {
            token.freshness(now, want.min_ttl) == Freshness::Fresh
                && !plan::is_refused(token, want)
                && token.refresh_at.is_none_or(|at| at > now)
                && connection.profile.status == Status::Active
        })
    };
    let may_try = |connection: &Connection| connection.profile.may_try(inner.deps.clock.now());
    let needed = |connection: &Connection| !enough(connection) && may_try(connection);
    let connection = with_lease(inner, key, slot, want, permit.as_ref(), needed).await?;
    if connection.is_some_and(|connection| enough(&connection)) {
        slot.state().trouble.remove(&want.resource); // somebody else's try went well
    }
    Ok(())
}

/// Takes the connection's lease and uses its grant, if it is `needed` by then: gives the connection where it was not. While
/// somebody else has the lease, their word is waited for. `call` is spent where the authority is asked.
async fn with_lease(
    inner: &Arc<Inner>,
    key: &ConnectionKey,
    slot: &Arc<Slot>,
    want: &Want,
    call: Option<&CallPermit>,
    needed: impl Fn(&Connection) -> bool,
) -> Result<Option<Connection>, Arc<Failure>> {
    let begun = inner.deps.clock.monotonic();
    let patience = begun + PATIENCE_WITH_PROBE;
    let noted = |failure: RepositoryError| {
        let failure = Arc::new(Failure::Repository(failure));
        note_trouble(inner, slot, want, &failure, None);
        failure
    };
    loop {
        store_unstored(inner, key, slot).await?;
        let told = slot.told();
        let epoch = slot.state().epoch;
        let loaded = load_or_note(inner, key, slot, epoch, want).await?;
        if inner.is_revoked(key, &loaded.connection.profile) {
            return Err(Arc::new(Failure::NotFound));
        }
        if !needed(&loaded.connection) {
            return Ok(Some(loaded.connection));
        }
        let tenant = loaded.connection.profile.account.tid.as_deref();
        let monotonic = inner.deps.clock.monotonic();
        // A holder that lives prolongs its lease, one that died loses it: both are seen within this time.
        if monotonic.saturating_sub(begun) > inner.settings().lease * 2 {
            return Err(noted(busy().into()));
        }
        if let Some(held_back) = slot.state().held_back(monotonic) {
            return Err(held_back.failure);
        }
        // Another connection tries for all of its tenant: what becomes of that is soon known.
        let mut monotonic = monotonic;
        while monotonic < patience
            && let Some(ended) = inner.breakers.probe(&key.app, tenant, monotonic)
        {
            tracing::debug!(app = %key.app, connection = %key.connection, "waits for another connection's try");
            tokio::select! {
                biased;
                () = ended => {}
                () = inner.deps.clock.sleep(patience - monotonic) => {}
            }
            monotonic = inner.deps.clock.monotonic();
        }
        if let Some((left, failure)) = inner.breakers.refuses(&key.app, tenant, monotonic) {
            note_trouble(inner, slot, want, &failure, Some(left));
            return Err(failure);
        }
        // Before the lease, so that nobody holds one while it waits for its tenant's turn.
        let Some(turn) = turn(inner, key, slot, tenant, call.is_some()).await else {
            return Err(noted_authority(inner, slot, want, crowded()));
        };
        let (taken, ()) = tokio::join!(Lease::take(inner, key), hear_of_holds(inner, key, tenant));
        match taken.map_err(|error| noted(error.into()))? {
            lease::Attempt::Mine(lease) => {
                // It may have been somebody else's until just now; and what is there may be less than is held.
                let revision = inner.deps.repository.store().revision(key).await;
                let ours = Some(loaded.connection.revision);
                let is_there = revision.as_ref().is_ok_and(|stored| *stored == ours);
                if !is_there || slot.state().held_revision() != ours {
                    lease.release(inner, key, true).await;
                    revision.map_err(|error| noted(error.into()))?;
                    continue;
                }
                if let Admission::Wait(left, failure) =
                    inner.breakers.admit(&key.app, tenant, inner.deps.clock.monotonic())
                {
                    lease.release(inner, key, true).await;
                    note_trouble(inner, slot, want, &failure, Some(left));
                    return Err(failure);
                }
                let seen = Seen { epoch, loaded };
                return use_grant(inner, key, slot, seen, (want, call), lease).await.map(|()| None);
            }
            lease::Attempt::Theirs(left) => {
                drop(turn); // nobody's turn is used up by waiting
                tokio::select! {
                    biased;
                    () = told => {}
                    () = inner.deps.clock.sleep(left.clamp(SHORTEST_WAIT, UNTOLD)) => {}
                }
            }
        }
    }
}

/// A place among the calls of a tenant.
struct Turn {
    _spare: Option<OwnedSemaphorePermit>,
    _call: OwnedSemaphorePermit,
}

/// One of the tenant's permits for a call, waited for as long as a call may take. What the budget paid for, for somebody who has a
/// token or for nobody, waits for one of the spare ones first: no more than these stand before who has no token, and where
/// somebody without one joins it, it goes on at once.
async fn turn(
    inner: &Inner,
    key: &ConnectionKey,
    slot: &Slot,
    tenant: Option<&str>,
    is_budgeted: bool,
) -> Option<Turn> {
    let lanes = inner.breakers.lanes(&key.app, tenant);
    let taken = async {
        let spare = if is_budgeted {
            tokio::select! {
                biased;
                spare = lanes.spare.acquire_owned() => Some(spare.ok()?),
                () = slot.hurried() => None,
            }
        } else {
            None
        };
        Some(Turn { _spare: spare, _call: lanes.calls.acquire_owned().await.ok()? })
    };
    tokio::select! {
        biased;
        turn = taken => turn,
        () = inner.deps.clock.sleep(inner.settings().authority_timeout) => None,
    }
}

/// Whether another replica was asked to leave the tenant alone.
async fn hear_of_holds(inner: &Inner, key: &ConnectionKey, tenant: Option<&str>) {
    let id = FiledUnder::tenant(&key.app, tenant);
    let Ok(Some(hold)) = inner.deps.repository.pending::<Hold>(Kind::Hold, &id).await else { return };
    // Whose clock is wrong may hold the others for as long as it was asked to wait, and no longer.
    let asked = hold.value.asked_millis.map_or(backoff::LONGEST_ASKED, Duration::from_millis);
    let left = hold.value.until.since(inner.deps.clock.now()).min(asked).min(backoff::LONGEST_ASKED);
    if !left.is_zero() {
        let failure = Arc::new(Failure::Authority(AuthorityFailure {
            doing: "refreshing a grant",
            cause: "the authority asked another replica to leave this tenant alone for a while".into(),
            disposition: Disposition::RetryAfter(Some(left)),
            answer: AuthorityError { status: Some(429), ..AuthorityError::default() },
            claims: None,
        }));
        inner.breakers.hold(&key.app, tenant, inner.deps.clock.monotonic() + left, failure);
    }
}

/// Tells the other replicas that the authority asked to be left alone.
async fn tell_of_hold(inner: &Inner, key: &ConnectionKey, tenant: Option<&str>, asked: Duration) {
    let now = inner.deps.clock.now();
    let asked_millis = u64::try_from(asked.as_millis()).ok();
    let hold = Hold { until: now.plus(asked), asked_millis };
    let id = FiledUnder::tenant(&key.app, tenant);
    if let Err(error) = inner.deps.repository.put_pending(Kind::Hold, &id, &hold, now, asked).await {
        tracing::warn!(%error, "other replicas are not told that the authority throttles");
    }
}

/// That an authority asked to be left alone.
#[derive(Serialize, Deserialize)]
struct Hold {
    until: Timestamp,
    /// For how long: two clocks may differ.
    #[serde(default)]
    asked_millis: Option<u64>,
}

fn noted_authority(inner: &Inner, slot: &Slot, want: &Want, failure: AuthorityFailure) -> Arc<Failure> {
    let failure = Arc::new(Failure::Authority(failure));
    note_trouble(inner, slot, want, &failure, None);
    failure
}

fn crowded() -> AuthorityFailure {
    AuthorityFailure {
        doing: "refreshing a grant",
        cause: "as many calls as one tenant may have are under way, and none of them ends".into(),
        disposition: Disposition::RetryAfter(None),
        answer: AuthorityError::default(),
        claims: None,
    }
}

fn busy() -> StoreError {
    StoreError::Unavailable {
        doing: "refreshing a connection",
        cause: "another replica is at it and does not come to an end".into(),
    }
}

/// Uses the grant whatever its verdict's time, for the resource it was first connected for.
pub(super) async fn try_now(
    inner: &Arc<Inner>,
    key: &ConnectionKey,
    slot: &Arc<Slot>,
    permit: Option<CallPermit>,
) -> Result<(), Arc<Failure>> {
    let epoch = slot.state().epoch;
    let loaded = load(inner, key, slot, epoch).await?;
    let want = plain_want(primary_resource(inner, key, &loaded.connection));
    let usable = |connection: &Connection| {
        connection.profile.status != Status::Paused && !connection.profile.grant_destroyed
    };
    let tenant = loaded.connection.profile.account.tid.as_deref();
    for _ in 1..TRIES_NOW {
        let outcome = with_lease(inner, key, slot, &want, permit.as_ref(), usable).await;
        // While one connection tries for all of its tenant the others wait for that; it takes no long.
        let refused = inner.breakers.refuses(&key.app, tenant, inner.deps.clock.monotonic());
        match (outcome, refused) {
            (Err(_), Some((left, _))) if left <= LONGEST_TURN => inner.deps.clock.sleep(left).await,
            (outcome, _) => return outcome.map(|_| ()),
        }
    }
    with_lease(inner, key, slot, &want, permit.as_ref(), usable).await.map(|_| ())
}

/// Looks after a connection that is due, for nobody in particular: renews it if it still is, and says when it is due next.
pub(super) async fn look_after(
    inner: &Arc<Inner>,
    key: &ConnectionKey,
    slot: &Arc<Slot>,
    used_at: Option<Timestamp>,
    permit: CallPermit,
) -> Result<(), Arc<Failure>> {
    let epoch = slot.state().epoch;
    let loaded = match load(inner, key, slot, epoch).await {
        Ok(loaded) => loaded,
        Err(failure) => {
            if matches!(*failure, Failure::NotFound) {
                schedule(inner, key, None).await;
            }
            return Err(failure);
        }
    };
    let tenant = loaded.connection.profile.account.tid.clone().unwrap_or_default();
    learn_idle_limit(inner, &key.app, &tenant).await;
    let resource = primary_resource(inner, key, &loaded.connection);
    let want = plain_want(resource);
    let due = |connection: &Connection| {
        let due = due_of(inner, key, connection, used_at, 0.0);
        due.is_some_and(|at| at <= inner.deps.clock.now())
    };
    // Callers come first: a tenant whose permits are half taken has none to spare for this.
    if inner.breakers.is_busy(&key.app, loaded.connection.profile.account.tid.as_deref()) {
        schedule(inner, key, Some(inner.deps.clock.now().plus(LATER))).await;
        return Ok(());
    }
    let outcome = with_lease(inner, key, slot, &want, Some(&permit), due).await;
    let connection = match &outcome {
        Ok(Some(connection)) => Some(connection.clone()),
        Ok(None) => slot.state().held.as_ref().map(|held| held.connection.clone()),
        Err(_) => None,
    };
    let next = match connection {
        Some(connection) => due_of(inner, key, &connection, used_at, sweep::jitter(inner)),
        // Its own trouble says when; a verdict has been scheduled where it was stored.
        None => match &outcome {
            Err(failure) if is_verdict(failure) => return outcome.map(|_| ()),
            _ => Some(inner.deps.clock.now().plus(LATER.mul_f64(1.0 + sweep::jitter(inner)))),
        },
    };
    schedule(inner, key, next).await;
    outcome.map(|_| ())
}

fn is_verdict(failure: &Failure) -> bool {
    matches!(failure, Failure::Authority(failure) if failure.disposition.is_verdict())
}

/// When a connection is due next.
fn due_of(
    inner: &Inner,
    key: &ConnectionKey,
    connection: &Connection,
    used_at: Option<Timestamp>,
    jitter: f64,
) -> Option<Timestamp> {
    let tenant = connection.profile.account.tid.clone().unwrap_or_default();
    let limits = inner.idle_limits.lock();
    let limit = limits.get(&(key.app.clone(), tenant)).copied().flatten();
    drop(limits);
    let resource = primary_resource(inner, key, connection);
    let now = inner.deps.clock.now();
    due::due_at(&connection.profile, &connection.tokens, resource.as_deref(), used_at, limit, now, jitter)
}

/// The resource that a connection was made for, and is judged by.
fn primary_resource(inner: &Inner, key: &ConnectionKey, connection: &Connection) -> Option<String> {
    let authority = inner.authority(&key.app)?;
    let naming = authority.scope_naming();
    let granted = naming.scopes_lossy(connection.profile.scopes_granted.iter().map(String::as_str));
    naming.primary_resource(&granted)
}

/// A plain refresh for a resource.
fn plain_want(resource: Option<String>) -> Want {
    Want {
        by: None,
        resource,
        scopes: ScopeSet::default(),
        min_ttl: Duration::ZERO,
        rejected: None,
        claims: None,
    }
}

/// Schedules a connection that its user's sign-in is about to make: somebody will use it.
pub(super) async fn expect(inner: &Inner, key: &ConnectionKey, profile: &Profile, tokens: &[HeldToken]) {
    let connection = Connection {
        revision: Revision { sign_in: profile.sign_in, generation: 0, nonce: [0; 16] },
        profile: profile.clone(),
        tokens: tokens.to_vec(),
    };
    let now = inner.deps.clock.now();
    schedule(inner, key, due_of(inner, key, &connection, Some(now), sweep::jitter(inner))).await;
    // It counts as used: whoever had it connected will ask for it.
    if let Err(error) = inner.deps.repository.store().mark_used(key, now).await {
        tracing::debug!(%error, "a new connection is not noted as used until it is");
    }
}

/// Says when a connection is due. A schedule that could not be written keeps the time before, which is sooner.
pub(super) async fn schedule(inner: &Inner, key: &ConnectionKey, due_at: Option<Timestamp>) {
    if let Err(error) = inner.deps.repository.store().schedule(key, due_at).await {
        tracing::debug!(%error, "a connection could not be scheduled");
    }
}

/// How long idle grants of a tenant were seen to last, as another process may have learnt.
async fn learn_idle_limit(inner: &Inner, app: &AppName, tenant: &str) {
    let one = (app.clone(), tenant.to_owned());
    if inner.idle_limits.lock().contains_key(&one) {
        return;
    }
    let id = FiledUnder::tenant(app, Some(tenant));
    let Ok(found) = inner.deps.repository.pending::<IdleLimit>(Kind::IdleLimit, &id).await else { return };
    let mut limits = inner.idle_limits.lock();
    if limits.len() >= MOST_LIMITS {
        limits.pop_first();
    }
    limits.insert(one, found.map(|found| Duration::from_secs(found.value.seconds)));
}

/// A grant ended for its age although it was used inside the time that idle grants are promised: the others of its tenant
/// are used more often from now on.
async fn note_idle_limit(inner: &Inner, app: &AppName, profile: &Profile) {
    let now = inner.deps.clock.now();
    let lasted = now.since(profile.last_refreshed_at);
    if profile.status != Status::NeedsReauthorization(ReauthReason::GrantExpired) || !IDLE.contains(&lasted) {
        return;
    }
    let tenant = profile.account.tid.clone().unwrap_or_default();
    learn_idle_limit(inner, app, &tenant).await;
    {
        let mut limits = inner.idle_limits.lock();
        let known = limits.entry((app.clone(), tenant.clone())).or_insert(None);
        if known.is_some_and(|known| known <= lasted) {
            return;
        }
        *known = Some(lasted);
    }
    let id = FiledUnder::tenant(app, Some(&tenant));
    let limit = IdleLimit { seconds: lasted.as_secs() };
    let kept = inner.deps.repository.put_pending(Kind::IdleLimit, &id, &limit, now, LIMIT_KEPT).await;
    if let Err(error) = kept {
        tracing::warn!(%error, "how long grants of a tenant last could not be noted");
    }
}

/// How long idle grants of a tenant were seen to last.
#[derive(Serialize, Deserialize)]
struct IdleLimit {
    seconds: u64,
}

async fn load_or_note(
    inner: &Arc<Inner>,
    key: &ConnectionKey,
    slot: &Slot,
    epoch: u64,
    want: &Want,
) -> Result<Loaded, Arc<Failure>> {
    let loaded = load(inner, key, slot, epoch).await;
    if let Err(failure) = &loaded {
        note_trouble(inner, slot, want, failure, None);
    }
    loaded
}

/// A connection as it was read, and the slot's epoch from before that.
struct Seen {
    epoch: u64,
    loaded: Loaded,
}

/// Uses the grant under the lease, which ends here whatever comes of it.
async fn use_grant(
    inner: &Arc<Inner>,
    key: &ConnectionKey,
    slot: &Arc<Slot>,
    seen: Seen,
    (want, call): (&Want, Option<&CallPermit>),
    lease: Lease,
) -> Result<(), Arc<Failure>> {
    let connection = &seen.loaded.connection;
    let tenant = connection.profile.account.tid.clone();
    // Of a connection that callers use here; who looks after one for nobody schedules it by itself.
    let used_at = slot.state().noted_at.is_some().then(|| inner.deps.clock.now());
    let grant = match inner.deps.repository.open_grant(key, &seen.loaded) {
        Ok(Some(grant)) => grant,
        Ok(None) => {
            inner.breakers.not_called(&key.app, tenant.as_deref());
            lease.release(inner, key, true).await;
            return Ok(());
        }
        Err(error) => {
            inner.breakers.not_called(&key.app, tenant.as_deref());
            lease.release(inner, key, true).await;
            note_damage(inner, slot, &error);
            let failure = Arc::new(Failure::Repository(error));
            note_trouble(inner, slot, want, &failure, None);
            return Err(failure);
        }
    };
    if lease.unsettled {
        note_unsettled(inner, slot);
        if must_not_replay(inner, key, connection) {
            inner.breakers.not_called(&key.app, tenant.as_deref());
            lease.release(inner, key, false).await;
            let failure = Arc::new(Failure::Authority(unsettled_failure()));
            note_trouble(inner, slot, want, &failure, None);
            return Err(failure);
        }
    }

    let asked = async {
        tokio::select! {
            biased;
            answer = ask_authority(inner, key, connection, &grant, want, &lease) => answer,
            () = lease.keep(inner, key) => unreachable!("a lease is kept for as long as it is asked for"),
        }
    };
    let began = inner.deps.clock.monotonic();
    if let Some(call) = call {
        call.spend();
    }
    let answered = asked.await;
    let in_vain = match &answered {
        Ok((_, Refreshed::Tokens(_))) => None,
        Ok((_, Refreshed::Refused(refused))) => Some(&refused.failure),
        Err(failure) => Some(failure),
    };
    note_ended(inner, key, slot, want, tenant.as_deref(), began, in_vain).await;
    match answered {
        Ok((used, Refreshed::Tokens(answer))) => {
            warn_of_remarks(key, &answer.remarks);
            let renewed = grant.renewed(&used, answer.refresh_token.clone());
            let expected = connection.revision;
            let connection = succeed(inner, key, slot, connection, want, *answer);
            let renewed_connection = connection.clone();
            let successor = successor(inner, key, (lease.nonce, expected), connection, renewed, used);
            let stored = keep(inner, key, slot, seen.epoch, successor, lease).await;
            if let Err(failure) = &stored {
                note_trouble(inner, slot, want, failure, None);
            } else {
                slot.state().trouble.remove(&want.resource);
            }
            slot.state().unclear = None;
            if let Some(used_at) = used_at {
                let next = due_of(inner, key, &renewed_connection, Some(used_at), sweep::jitter(inner));
                schedule(inner, key, next).await;
            }
            stored
        }
        Ok((used, Refreshed::Refused(refused))) => {
            let RefusedAnswer { rule, fate, failure } = *refused;
            warn_of_refused(key, &rule, &fate, &failure);
            let refresh_token = match fate {
                Fate::Replaced(next) if next != used => next,
                Fate::Replaced(_) | Fate::AsBefore | Fate::Unknown | Fate::Anothers => {
                    return failed(inner, key, slot, (seen, grant), want, lease, failure).await;
                }
            };
            slot.state().unclear = None;
            let mut attempts = std::mem::take(&mut slot.state().attempts);
            attempts.push(attempt(inner, &failure));
            let expected = connection.revision;
            let mut connection = connection.clone();
            connection.profile = connection.profile.grant_replaced(attempts);
            let replaced = grant.replaced(&used, refresh_token);
            let successor = successor(inner, key, (lease.nonce, expected), connection, replaced, used);
            let stored = keep(inner, key, slot, seen.epoch, successor, lease).await;
            let failure = stored.err().unwrap_or_else(|| Arc::new(Failure::Authority(failure)));
            pace(inner, slot, want, &failure, None);
            Err(failure)
        }
        Err(failure) => failed(inner, key, slot, (seen, grant), want, lease, failure).await,
    }
}

/// Makes what came of the grant durable, and gives the lease back.
async fn keep(
    inner: &Arc<Inner>,
    key: &ConnectionKey,
    slot: &Arc<Slot>,
    epoch: u64,
    successor: Unstored,
    lease: Lease,
) -> Result<(), Arc<Failure>> {
    slot.state().unstored = Some(successor);
    let stored = make_durable(inner, key, slot, epoch).await;
    // Its commit gave the lease back; an answer that was dropped did not. One that is not in the store yet, though it
    // is in the journal, keeps lease and doubt: to others the refresh token there is as good as spent.
    let is_stored_or_dropped = slot.state().unstored.is_none();
    if is_stored_or_dropped {
        let (giver, of) = (inner.clone(), key.clone());
        let give_back = async move { lease.release(&giver, &of, true).await };
        inner.deps.tasks.spawn("give a lease back", Box::pin(give_back));
    }
    stored
}

/// Notes that the grant was used in vain, writes a verdict down, and gives the lease back.
async fn failed(
    inner: &Arc<Inner>,
    key: &ConnectionKey,
    slot: &Arc<Slot>,
    (seen, grant): (Seen, Grant),
    want: &Want,
    lease: Lease,
    failure: AuthorityFailure,
) -> Result<(), Arc<Failure>> {
    let connection = &seen.loaded.connection;
    let is_of_the_grant = speaks_of_the_grant(inner, key, connection, want);
    let failure = match is_of_the_grant {
        true => unclear::weigh(inner, key, slot, connection, failure),
        false => failure,
    };
    let judged = failure.disposition.is_verdict() && is_of_the_grant;
    let known = failure.disposition != Disposition::OutcomeUnknown;
    let failure = Arc::new(Failure::Authority(failure));
    // What was said of a grant is no trouble of the one that took its place meanwhile.
    let sign_in = slot.state().sign_in;
    if sign_in.is_none_or(|sign_in| sign_in == connection.profile.sign_in) {
        note_trouble(inner, slot, want, &failure, None);
    }
    warn_of_refusal(key, slot, want, &failure);
    if judged {
        let noted = judge(inner, key, slot, seen, grant, &failure, lease.nonce).await;
        lease.release(inner, key, matches!(noted, Ok(true))).await;
        noted?;
    } else {
        lease.release(inner, key, known).await;
    }
    Err(failure)
}

/// Says in one line what was odd about an answer whose tokens are used.
pub(crate) fn warn_of_remarks(key: &ConnectionKey, remarks: &Remarks) {
    let Some(rule) = remarks.words() else { return };
    let AuthorityError { trace_id, correlation_id, .. } = &remarks.answer;
    tracing::warn!(
        app = %key.app, connection = %key.connection, rule, trace_id, correlation_id,
        "an answer of the authority is odd; its tokens are used, what is odd in it was cut or ignored"
    );
}

/// Says in one line why an answer's access token is not used, and what becomes of its refresh token.
fn warn_of_refused(key: &ConnectionKey, rule: &str, fate: &Fate, failure: &AuthorityFailure) {
    let AuthorityError { trace_id, correlation_id, .. } = &failure.answer;
    let refresh_token = match fate {
        Fate::Replaced(_) => "the answer's is kept, and the one before it",
        Fate::AsBefore => "the answer has none, the one before it is kept",
        Fate::Unknown => "the one before it is kept, and may be spent",
        Fate::Anothers => "the answer's is thrown away; the one before it is kept, and may be spent",
    };
    tracing::warn!(
        app = %key.app, connection = %key.connection, rule, trace_id, correlation_id, refresh_token, %failure,
        "an answer of the authority is refused; its access token is not used"
    );
}

/// Whether the grant must be left alone, because somebody may have used it up, for as long as a token of it lives: once
/// there is none, another try is all that is left.
pub(super) fn must_not_replay(inner: &Inner, key: &ConnectionKey, connection: &Connection) -> bool {
    let may_replay = inner.authority(&key.app).is_some_and(|authority| authority.may_replay_refresh_tokens());
    !may_replay && is_alive(inner, connection)
}

/// Whether a token of the connection lives that is everybody's.
pub(super) fn is_alive(inner: &Inner, connection: &Connection) -> bool {
    let now = inner.deps.clock.now();
    let mut tokens = connection.tokens.iter().filter(|token| token.got_for.is_none());
    tokens.any(|token| token.freshness(now, Duration::ZERO) != Freshness::Expired)
}

/// For `explain`: what a verdict that follows may come from. Where it was this replica, it has said better what happened.
fn note_unsettled(inner: &Inner, slot: &Slot) {
    let in_doubt = Disposition::OutcomeUnknown.as_str();
    let mut state = slot.state();
    if state.attempts.iter().any(|attempt| attempt.outcome == in_doubt) {
        return;
    }
    state.remember(Attempt {
        at: inner.deps.clock.now(),
        action: "refresh".into(),
        outcome: in_doubt.into(),
        conclusion: "a replica began to refresh this connection and never said how that ended: it died, was stopped, or \
                     got no answer that could be used"
            .into(),
        answer: AuthorityError::default(),
    });
}

fn unsettled_failure() -> AuthorityFailure {
    AuthorityFailure {
        doing: "refreshing a grant",
        cause: "the refresh token may be used up; it is not sent again while a token lives".into(),
        disposition: Disposition::OutcomeUnknown,
        answer: AuthorityError::default(),
        claims: None,
    }
}

/// Whether a verdict on this request is one on the grant itself. A refusal of one more resource, or of a challenge that a
/// caller brought, is an answer to whoever asked: the connection is judged by its plain refresh for what it was
/// connected for.
fn speaks_of_the_grant(inner: &Inner, key: &ConnectionKey, connection: &Connection, want: &Want) -> bool {
    want.claims.is_none() && want.resource == primary_resource(inner, key, connection)
}

/// Asks the authority, with a second opinion where one is due. Says which refresh token worked.
async fn ask_authority(
    inner: &Arc<Inner>,
    key: &ConnectionKey,
    connection: &Connection,
    grant: &Grant,
    want: &Want,
    lease: &Lease,
) -> Result<(RefreshToken, Refreshed), AuthorityFailure> {
    let authority = inner.authority(&key.app).expect("only configured apps reach the engine");
    let scopes = scopes_to_ask(authority.scope_naming(), connection, want);
    let call = async |refresh_token: &RefreshToken| {
        // A process that was stopped and goes on must not call beside whoever has the lease by now.
        if !lease.outlasts(inner, inner.settings().authority_timeout) {
            return Err(lease_ran_out());
        }
        let begun = inner.deps.clock.monotonic();
        let answer = authority
            .refresh(RefreshRequest {
                refresh_token,
                scopes: &scopes,
                account: &connection.profile.account,
                claims: want.claims.as_ref().map(Claims::json),
            })
            .await;
        let outcome = match &answer {
            Ok(Refreshed::Tokens(_)) => "ok",
            Ok(Refreshed::Refused(refused)) => refused.failure.disposition.as_str(),
            Err(failure) => failure.disposition.as_str(),
        };
        let elapsed = inner.deps.clock.monotonic().saturating_sub(begun);
        inner.deps.observer.refreshed(&key.app, outcome, elapsed);
        answer
    };
    let says_dead = |failure: &AuthorityFailure| {
        matches!(failure.disposition, Disposition::Reauthorize(_, GrantFate::Dead))
    };

    let mut verdict = match call(&grant.current).await {
        // A refresh token that came with an answer that was not believed leads to somebody else: the one before it is all that
        // is left, spent or not. One that came with an answer that was believed is the owner's whatever this answer says, and
        // the one before it stays unused, for using it again may end the grant.
        Ok(Refreshed::Refused(refused)) if matches!(refused.fate, Fate::Anothers) && grant.is_doubtful => {
            let Some(previous) = &grant.previous else {
                return Ok((grant.current.clone(), Refreshed::Refused(refused)));
            };
            return call(previous).await.map(|answer| (previous.clone(), answer));
        }
        Ok(answer) => return Ok((grant.current.clone(), answer)),
        Err(failure) => failure,
    };
    let tenant = connection.profile.account.tid.as_deref();
    // Personal accounts have been seen to answer bad_token on a good one: ask once more before believing it.
    if says_dead(&verdict) && connection.profile.account.is_personal() {
        inner.deps.clock.sleep(SECOND_OPINION).await;
        not_held_since(inner, key, tenant).await?;
        match call(&grant.current).await {
            Ok(answer) => return Ok((grant.current.clone(), answer)),
            Err(failure) => verdict = failure,
        }
    }
    // A token that never worked may be the damaged one; the one before it is kept for just this. Not where a used one ends the
    // grant, doubtful or not: a refusal may be wrong, and then it is the one before it that costs a good grant.
    if let Some(previous) = &grant.previous
        && may_be_the_refresh_token(&verdict)
        && authority.may_replay_refresh_tokens()
    {
        not_held_since(inner, key, tenant).await?;
        match call(previous).await {
            Ok(answer) => return Ok((previous.clone(), answer)),
            Err(failure)
                if failure.disposition.is_verdict() || failure.disposition == Disposition::Unclear => {}
            // Nothing is known of it: the grant must not die of an outage.
            Err(failure) => return Err(failure),
        }
    }
    Err(verdict)
}

/// Whether a refusal may be of the refresh token that was sent, and not of the grant or its user: another one may work.
fn may_be_the_refresh_token(failure: &AuthorityFailure) -> bool {
    let AuthorityError { error, suberror, error_codes, .. } = &failure.answer;
    match failure.disposition {
        Disposition::Reauthorize(ReauthReason::GrantExpired | ReauthReason::GrantRevoked, _) => true,
        // `invalid_grant` that says no more, or that the refresh token is malformed (AADSTS9002313).
        Disposition::Reauthorize(ReauthReason::InteractionRequired, _) => {
            error.as_deref() == Some("invalid_grant")
                && suberror.is_none()
                && matches!(error_codes[..], [] | [MALFORMED])
        }
        Disposition::Unclear => true,
        _ => false,
    }
}

/// Whether the authority asked, since the first call, to be left alone. A verdict that was not heard twice is none.
async fn not_held_since(
    inner: &Inner,
    key: &ConnectionKey,
    tenant: Option<&str>,
) -> Result<(), AuthorityFailure> {
    hear_of_holds(inner, key, tenant).await;
    if !inner.breakers.is_held(&key.app, tenant, inner.deps.clock.monotonic()) {
        return Ok(());
    }
    Err(AuthorityFailure {
        doing: "asking about a verdict once more",
        cause: "the authority asked to be left alone meanwhile".into(),
        disposition: Disposition::RetryAfter(None),
        answer: AuthorityError::default(),
        claims: None,
    })
}

fn lease_ran_out() -> AuthorityFailure {
    AuthorityFailure {
        doing: "refreshing a grant",
        cause: "the lease would end before the call".into(),
        disposition: Disposition::RetryAfter(None),
        answer: AuthorityError::default(),
        claims: None,
    }
}

/// What was granted for the wanted resource, with the sign-in's own scopes where the authority does not list them
/// among the granted ones (Entra leaves out `offline_access`).
fn scopes_to_ask(naming: &ScopeNaming, connection: &Connection, want: &Want) -> ScopeSet {
    let words = |words: &[String]| naming.scopes_lossy(words.iter().map(String::as_str));
    let mut scopes = words(&connection.profile.scopes_granted).of_resource(want.resource.as_deref());
    if matches!(naming, ScopeNaming::Entra { .. }) {
        for scope in words(&connection.profile.scopes_requested).iter().filter(|scope| scope.is_openid()) {
            scopes.insert(scope.clone());
        }
    }
    scopes
}

/// The connection after the grant worked.
fn succeed(
    inner: &Inner,
    key: &ConnectionKey,
    slot: &Slot,
    before: &Connection,
    want: &Want,
    answer: TokenAnswer,
) -> Connection {
    let authority = inner.authority(&key.app).expect("only configured apps reach the engine");
    let naming = authority.scope_naming();
    let now = inner.deps.clock.now();
    let granted =
        granted_after(naming, &before.profile.scopes_granted, want.resource.as_deref(), &answer.scopes);
    let mut profile = before.profile.clone();
    for attempt in std::mem::take(&mut slot.state().attempts) {
        profile.attempts.push(attempt);
    }
    let profile = profile.refreshed(Some(granted), &answer.remarks, now);
    let mut token = held_token(answer, want.resource.clone());
    if let Some(claims) = &want.claims {
        token.answers_claims = Some(claims.digest().to_owned());
        // What a plain refresh would not have asked for is of no use to others, or too much.
        let is_everybodys = claims.is_met_by_any_new_token(now);
        token.got_for = (!is_everybodys).then(|| want.by.clone().unwrap_or_else(nobody));
    }
    let mut tokens: Vec<HeldToken> = before
        .tokens
        .iter()
        .filter(|held| !is_in_place_of(&token, held) && held.expires_at > now)
        .cloned()
        .collect();
    tokens.push(token);
    drop_oldest(&mut tokens);
    Connection { revision: before.revision, profile, tokens }
}

/// An answer's access token as it is held.
pub(crate) fn held_token(answer: TokenAnswer, resource: Option<String>) -> HeldToken {
    let digest = digest(&answer.access_token);
    // Any number that differs from token to token will do to spread renewals.
    let jitter = f64::from(u8::from_str_radix(&digest[..2], 16).unwrap_or(128)) / 255.0;
    let refresh_at = match answer.refresh_in {
        Some(after) => answer.requested_at.plus(after),
        None => due::renew_at(answer.requested_at, answer.expires_in, jitter),
    };
    HeldToken {
        digest,
        issued_at: answer.requested_at,
        expires_at: answer.requested_at.plus(answer.expires_in),
        refresh_at: Some(refresh_at),
        scopes: answer.scopes,
        resource,
        answers_claims: None,
        got_for: None,
        access_token: answer.access_token,
    }
}

/// Lower-case hex SHA-256.
fn digest(token: &AccessToken) -> String {
    sha256_hex(token.expose().as_bytes())
}

/// The granted scopes after an answer. At Entra an answer speaks of one resource and says all that is consented for
/// it; elsewhere an answer may narrow what was granted, never widen it (RFC 6749 §6).
pub(crate) fn granted_after(
    naming: &ScopeNaming,
    before: &[String],
    resource: Option<&str>,
    answered: &[String],
) -> Vec<String> {
    let words = |words: &[String]| naming.scopes_lossy(words.iter().map(String::as_str));
    let (before, answered) = (words(before), words(answered));
    let after: ScopeSet = match naming {
        ScopeNaming::Entra { .. } => before
            .iter()
            .filter(|scope| scope.resource() != resource)
            .chain(answered.iter())
            .cloned()
            .collect(),
        ScopeNaming::Plain => answered.iter().filter(|scope| before.contains(scope)).cloned().collect(),
    };
    after.to_words()
}

/// The sealed successor of what is `expected`, got under this lease.
fn successor(
    inner: &Inner,
    key: &ConnectionKey,
    (lease, expected): (LeaseNonce, Revision),
    mut connection: Connection,
    grant: Grant,
    used: RefreshToken,
) -> Unstored {
    // Above what it replaces, and above what it was before, if the store has fallen back meanwhile.
    let after = expected.generation.max(connection.revision.generation);
    let repository = &inner.deps.repository;
    let sealed = repository.seal(key, after, &connection.profile, &connection.tokens, Some(&grant));
    connection.revision = sealed.revision;
    Unstored { lease, expected, sealed, connection, grant, used, journaled: false }
}

/// Makes an answer to a question asked at `epoch` durable, so that its tokens may be served: in the store, or in the journal
/// when the store does not take it at once; then the store is offered it again and again beside.
async fn make_durable(
    inner: &Arc<Inner>,
    key: &ConnectionKey,
    slot: &Slot,
    epoch: u64,
) -> Result<(), Arc<Failure>> {
    let patient = store_with_patience(inner, key, slot);
    if !inner.deps.repository.has_journal() {
        return patient.await;
    }
    tokio::select! {
        biased;
        stored = patient => return stored,
        () = inner.deps.clock.sleep(JOURNAL_AFTER) => {}
    }
    // What was on its way to the store may arrive all the same; it is known when it is offered again.
    let Some(unstored) = slot.state().unstored.clone() else { return Ok(()) };
    match inner.deps.repository.journal(key, &unstored).await {
        Ok(()) => {
            let revision = unstored.sealed.revision;
            let (kept, seen, replaced) = {
                let mut state = slot.state();
                let kept = state.unstored.as_mut().filter(|kept| kept.sealed.revision == revision);
                let kept = kept.map(|kept| kept.journaled = true).is_some();
                let replaced = state.held_revision().is_some_and(|held| held != unstored.expected);
                (kept, state.checked_at, replaced)
            };
            if kept {
                tracing::warn!(app = %key.app, connection = %key.connection, "the store does not take a refreshed grant; it is in the journal and is served");
                // What a look at the store found meanwhile (a sign-in elsewhere, a pause) is newer than what this succeeds. (The
                // store has not been seen since the connection was loaded.)
                if !replaced {
                    inner.publish_written(key, slot, epoch, (&unstored.connection, None), seen);
                }
            } else {
                inner.deps.repository.unjournal(&revision).await; // forgotten or overtaken meanwhile
            }
            Ok(())
        }
        Err(error) => {
            tracing::error!(%error, "a refreshed grant is neither in the store nor in the journal; it is held in memory and not served");
            store_with_patience(inner, key, slot).await
        }
    }
}

/// Stores what is kept, trying a few times before its waiters are told.
async fn store_with_patience(
    inner: &Arc<Inner>,
    key: &ConnectionKey,
    slot: &Slot,
) -> Result<(), Arc<Failure>> {
    let mut tries = 0;
    loop {
        match store_unstored(inner, key, slot).await {
            Err(failure) if tries < STORE_TRIES => {
                tries += 1;
                tracing::warn!(app = %key.app, connection = %key.connection, %failure, "the store does not take a refreshed grant; trying again");
                let wait = Duration::from_millis(50) * 2u32.pow(tries);
                inner.deps.clock.sleep(wait).await;
            }
            outcome => return outcome,
        }
    }
}

/// Stores an answer that the store has not taken yet, and only then makes it the held one.
pub(super) async fn store_unstored(
    inner: &Arc<Inner>,
    key: &ConnectionKey,
    slot: &Slot,
) -> Result<(), Arc<Failure>> {
    for _ in 0..MOST_OVERTAKEN {
        let (epoch, unstored) = {
            let state = slot.state();
            (state.epoch, state.unstored.clone())
        };
        let Some(unstored) = unstored else { return Ok(()) };
        let Unstored { expected, sealed, lease, .. } = &unstored;
        let begun = inner.deps.clock.monotonic();
        let is_new = unstored.grant.current != unstored.used;
        let writer = if is_new { Writer::Lease(*lease) } else { Writer::Verdict(*lease) };
        let committed = inner.deps.repository.commit_sealed(key, *expected, sealed, writer).await;
        match committed {
            Ok(Committed::Done) => {
                // Another try may have stored this one and kept a newer one since.
                if !slot.state().is_unstored(sealed.revision) {
                    continue;
                }
                inner.publish_written(key, slot, epoch, (&unstored.connection, Some(sealed)), begun);
                clear_unstored(slot, sealed.revision);
                if unstored.journaled {
                    inner.deps.repository.unjournal(&sealed.revision).await;
                }
                return Ok(());
            }
            Ok(Committed::Conflict) => overtaken(inner, key, slot, epoch, unstored).await?,
            // Somebody else uses the grant: what they store, or that they store nothing, decides.
            Ok(Committed::Fenced) => return Err(Arc::new(Failure::Repository(busy().into()))),
            Err(error) => return Err(Arc::new(Failure::Repository(error))),
        }
    }
    Err(Arc::new(Failure::Repository(ever_changing("storing a refreshed grant").into())))
}

/// Forgets the unstored answer if it still is that of `revision`.
fn clear_unstored(slot: &Slot, revision: Revision) -> bool {
    let mut state = slot.state();
    let same = state.unstored.as_ref().is_some_and(|unstored| unstored.sealed.revision == revision);
    if same {
        state.unstored = None;
    }
    same
}

/// The connection changed while the authority was asked. The answer goes on top of what is there now
/// - if that still has the grant that was used, and only a verdict or an operator's act came between: it proves the verdict
///   wrong;
/// - if that has an earlier grant: the store has lost what was used, and the answer is the way back to it;
/// - if that is this very grant, with something stored on top of it. Seeing it there is no word for that it will last: that
///   is what storing it once more is for.
///
/// Else (deleted, connected anew, renewed by another replica) theirs counts.
async fn overtaken(
    inner: &Arc<Inner>,
    key: &ConnectionKey,
    slot: &Slot,
    epoch: u64,
    unstored: Unstored,
) -> Result<(), Arc<Failure>> {
    let loaded = load(inner, key, slot, epoch).await;
    let (mut goes_on_top, mut is_there) = (false, false);
    match &loaded {
        Ok(loaded) => {
            let grant = inner.deps.repository.open_grant(key, loaded).ok().flatten();
            let is = |token: &RefreshToken| grant.as_ref().is_some_and(|grant| grant.current == *token);
            let rotated = unstored.grant.current != unstored.used;
            is_there = rotated && is(&unstored.grant.current);
            let (theirs, ours) = (loaded.connection.grant_place(), unstored.connection.grant_place());
            let used = ours.before();
            // One that brought no new refresh token is worth nothing beside another answer that was stored since.
            let nothing_new = !rotated && !theirs.is_before(&ours);
            // A verdict that destroyed the grant leaves nothing to compare with but its place.
            let is_destroyed = loaded.connection.profile.grant_destroyed && theirs == used;
            let is_used = is(&unstored.used) || is_destroyed;
            goes_on_top = theirs.is_before(&used) || (is_used && !nothing_new);
        }
        Err(failure) => match failure.as_ref() {
            Failure::NotFound => {}
            Failure::Repository(_) | Failure::Authority(_) => return Err(failure.clone()),
        },
    }
    let before = unstored.sealed.revision;
    let journaled = unstored.journaled;
    match loaded {
        // Once more as it is there: that settles nothing, and whoever waits for replicas after it waits for all of it.
        Ok(loaded) if is_there => {
            let Loaded { connection, sealed } = loaded;
            let repository = &inner.deps.repository;
            let committed =
                repository.commit_sealed(key, connection.revision, &sealed, Writer::Operator).await;
            let committed = committed.map_err(|error| Arc::new(error.into()))?;
            if committed == Committed::Done && clear_unstored(slot, before) && journaled {
                repository.unjournal(&before).await;
            }
            Ok(())
        }
        Ok(loaded) if goes_on_top => {
            let theirs = loaded.connection;
            let expected = theirs.revision;
            let mut connection = unstored.connection;
            let succeeds = theirs.grant_place().is_before(&connection.grant_place());
            let tokens = newest_of_each(&theirs.tokens, std::mem::take(&mut connection.tokens), succeeds);
            if theirs.profile.status == Status::Paused {
                // What an operator did meanwhile is not the authority's to undo.
                connection.profile.status = Status::Paused;
            }
            connection.tokens = tokens;
            let base = (unstored.lease, expected);
            let again = successor(inner, key, base, connection, unstored.grant, unstored.used);
            if journaled {
                inner.deps.repository.journal(key, &again).await.map_err(|error| Arc::new(error.into()))?;
            }
            let revision = again.sealed.revision;
            // In one step: in between nobody would know of the answer, and use the refresh token again.
            let is_kept = {
                let mut state = slot.state();
                let same = state.unstored.as_ref().is_some_and(|kept| kept.sealed.revision == before);
                if same {
                    state.unstored = Some(Unstored { journaled, ..again });
                }
                same
            };
            if journaled {
                let superseded = if is_kept { before } else { revision };
                inner.deps.repository.unjournal(&superseded).await;
            }
            Ok(())
        }
        _ if !clear_unstored(slot, before) => Ok(()),
        loaded => {
            if journaled {
                inner.deps.repository.unjournal(&before).await;
            }
            tracing::info!(app = %key.app, connection = %key.connection, "a refreshed grant was overtaken by a newer one and is dropped");
            loaded.map(|_| ())
        }
    }
}

/// The tokens of an answer that goes on top of theirs: of each kind the one that lives longer. The answer's own, the last of
/// ours, counts in any case where it `succeeds` theirs: lives are by the clocks of those who got the tokens.
fn newest_of_each(theirs: &[HeldToken], ours: Vec<HeldToken>, succeeds: bool) -> Vec<HeldToken> {
    let own = ours.last().filter(|_| succeeds).cloned();
    let is_own = |token: &HeldToken| own.as_ref().is_some_and(|own| is_in_place_of(own, token));
    let mut tokens: Vec<HeldToken> = theirs.to_vec();
    for token in ours {
        let is_own = is_own(&token);
        match tokens.iter_mut().find(|other| is_in_place_of(&token, other)) {
            Some(other) if is_own || other.expires_at < token.expires_at => *other = token,
            Some(_) => {}
            None => tokens.push(token),
        }
    }
    // It stays the last: the answer may have to go on top of something once more.
    if let Some(at) = tokens.iter().position(is_own) {
        let own = tokens.remove(at);
        tokens.push(own);
    }
    drop_oldest(&mut tokens);
    tokens
}

/// Writes a verdict down, if the connection still is the one it was about. Says whether that settles what was begun: not where
/// the grant is the same and the verdict is not stored, for it may be due to a use of the grant that nobody knows of.
async fn judge(
    inner: &Arc<Inner>,
    key: &ConnectionKey,
    slot: &Arc<Slot>,
    seen: Seen,
    grant: Grant,
    failure: &Arc<Failure>,
    lease: LeaseNonce,
) -> Result<bool, Arc<Failure>> {
    let Failure::Authority(verdict) = failure.as_ref() else { return Ok(false) };
    let now = inner.deps.clock.now();
    let attempt = attempt(inner, verdict);
    let Seen { epoch, loaded } = seen;
    let place = loaded.connection.grant_place();
    let Connection { revision, mut profile, tokens } = loaded.connection;
    // What failed before the verdict may be its cause: a lost answer, where a refresh token works only once.
    profile.attempts.extend(slot.state().attempts.iter().cloned());
    let profile = profile.judged(verdict.disposition, attempt, verdict.claims.clone(), now);
    let kept = (!profile.grant_destroyed).then_some(&grant);
    let begun = inner.deps.clock.monotonic();
    let repository = &inner.deps.repository;
    let sealed = repository.seal(key, revision.generation, &profile, &tokens, kept);
    let committed = repository.commit_sealed(key, revision, &sealed, Writer::Verdict(lease)).await;
    match committed {
        Ok(Committed::Done) => {
            tracing::info!(
                app = %key.app, connection = %key.connection, status = profile.status.as_str(),
                reason = profile.status.reason(), error_codes = ?verdict.answer.error_codes,
                correlation_id = verdict.answer.correlation_id, "the authority's verdict changed a connection"
            );
            inner.deps.observer.judged(&key.app, profile.account.tid.as_deref(), profile.status);
            slot.state().attempts.clear();
            note_idle_limit(inner, &key.app, &profile).await;
            let connection = Connection { revision: sealed.revision, profile, tokens };
            schedule(inner, key, due_of(inner, key, &connection, None, sweep::jitter(inner))).await;
            inner.publish_written(key, slot, epoch, (&connection, Some(&sealed)), begun);
            Ok(true)
        }
        // It is another one by now: the verdict was not about that.
        Ok(Committed::Conflict | Committed::Fenced) => {
            slot.state().trouble.clear();
            let loaded = load(inner, key, slot, epoch).await?;
            Ok(loaded.connection.grant_place() != place)
        }
        Err(error) => {
            tracing::error!(app = %key.app, connection = %key.connection, %error, "a verdict could not be stored");
            Ok(false)
        }
    }
}

fn attempt(inner: &Inner, failure: &AuthorityFailure) -> Attempt {
    Attempt {
        at: inner.deps.clock.now(),
        action: "refresh".into(),
        outcome: failure.disposition.as_str().into(),
        conclusion: failure.cause.clone(),
        answer: failure.answer.clone(),
    }
}

/// Remembers a failed try: for `explain`, and so that the next waits a little.
fn note_trouble(inner: &Inner, slot: &Slot, want: &Want, failure: &Arc<Failure>, left: Option<Duration>) {
    let is_noted = pace(inner, slot, want, failure, left);
    if let (Failure::Authority(failure), None, true) = (failure.as_ref(), left, is_noted)
        && !failure.disposition.is_verdict()
    {
        let attempt = attempt(inner, failure);
        slot.state().remember(attempt);
    }
}

/// Has the next try wait a little. Not where it is only the trouble of whoever brought it.
fn pace(inner: &Inner, slot: &Slot, want: &Want, failure: &Arc<Failure>, left: Option<Duration>) -> bool {
    let in_doubt = matches!(
        failure.as_ref(),
        Failure::Authority(failure) if failure.disposition == Disposition::OutcomeUnknown
    );
    if want.claims.is_some() && !in_doubt {
        return false; // a challenge that could not be met is the trouble of whoever brought it
    }
    let asked = match failure.as_ref() {
        Failure::Authority(AuthorityFailure { disposition: Disposition::RetryAfter(asked), .. }) => *asked,
        Failure::Authority(AuthorityFailure {
            disposition: Disposition::NextCredential | Disposition::Misconfigured,
            ..
        }) => Some(APP_REJECTED),
        // Nobody's status says when to ask again where the verdict was on one more resource.
        Failure::Authority(failure) if failure.disposition.is_verdict() => Some(VERDICT_AGAIN),
        Failure::Authority(_) | Failure::NotFound | Failure::Repository(_) => None,
    };
    let now = inner.deps.clock.monotonic();
    let mut state = slot.state();
    let failures = state.trouble.get(&want.resource).map_or(0, |trouble| trouble.failures) + 1;
    let random = inner.deps.random.as_ref();
    let is_unclear = matches!(
        failure.as_ref(),
        Failure::Authority(failure) if failure.disposition == Disposition::Unclear
    );
    let wait = left.unwrap_or_else(|| match is_unclear {
        true => backoff::wait_unclear(failures, random),
        false => backoff::wait(failures, asked, random),
    });
    let about = state.held.as_ref().map(|held| held.connection.profile.last_refreshed_at);
    let trouble = Trouble { until: now + wait, failures, failure: failure.clone(), about };
    state.trouble.insert(want.resource.clone(), trouble);
    true
}

/// Tells the operator what the authority refuses for another reason than the user's, an administrator's or a credential's, which
/// are told elsewhere: the first time, and ever more rarely while it lasts.
fn warn_of_refusal(key: &ConnectionKey, slot: &Slot, want: &Want, failure: &Failure) {
    let Failure::Authority(failure) = failure else { return };
    let is_told_elsewhere =
        failure.disposition.is_verdict() || failure.disposition == Disposition::NextCredential;
    let times = slot.state().trouble.get(&want.resource).map_or(1, |trouble| trouble.failures);
    if failure.answer.is_refusal() && !is_told_elsewhere && times.is_power_of_two() {
        let AuthorityError { status, error, error_codes, trace_id, correlation_id, .. } = &failure.answer;
        tracing::warn!(
            app = %key.app, connection = %key.connection, outcome = failure.disposition.as_str(), cause = failure.cause,
            status, error, ?error_codes, trace_id, correlation_id, times, "the authority refuses a refresh"
        );
    }
}

/// What it means beyond the connection that the authority asked to be left alone for so long. The connection is, in any case;
/// where callers forced renewals of it lately, nobody else is.
fn throttled(
    inner: &Inner,
    key: &ConnectionKey,
    slot: &Slot,
    tenant: Option<&str>,
    asked: Duration,
    failure: &AuthorityFailure,
) -> Ended {
    let random = inner.deps.random.as_ref();
    let now = inner.deps.clock.monotonic();
    let forced = {
        let mut state = slot.state();
        let until = now + backoff::wait(1, Some(asked), random);
        let failure = Arc::new(Failure::Authority(failure.clone()));
        state.held_back = Some(Trouble { until, failures: 1, failure, about: None });
        state.forced.lately(now)
    };
    if forced {
        return Ended::Nothing;
    }
    let held = inner.breakers.held_for(&key.app, tenant, &key.connection, asked);
    Ended::Throttled(backoff::wait(1, Some(held), random))
}

/// Says what a call's end means beyond its connection.
async fn note_ended(
    inner: &Inner,
    key: &ConnectionKey,
    slot: &Slot,
    want: &Want,
    tenant: Option<&str>,
    began: Duration,
    failure: Option<&AuthorityFailure>,
) {
    let ended = match failure.map(|failure| (failure.disposition, failure.answer.status)) {
        None => Ended::Answered,
        Some((Disposition::Reauthorize(..) | Disposition::Blocked(_), _)) => Ended::Answered,
        Some((Disposition::RetryAfter(Some(asked)), Some(429))) => match failure {
            Some(failure) => throttled(inner, key, slot, tenant, asked, failure),
            None => Ended::Nothing,
        },
        Some((Disposition::NextCredential, _)) if inner.breakers.is_mended_since(&key.app, began) => {
            Ended::Nothing
        }
        Some((Disposition::NextCredential, _)) => Ended::AppRejected,
        // An answer is no outage, whatever it says: grants that ended must not look like one.
        Some((_, _)) if failure.is_some_and(|failure| failure.answer.is_refusal()) => Ended::Refused,
        // Nor is one that cannot be used.
        Some((_, Some(200..=299))) => Ended::Refused,
        // What a caller's challenge makes of an authority says nothing of what it is for others.
        Some((Disposition::RetryAfter(_) | Disposition::OutcomeUnknown, _)) if want.claims.is_some() => {
            Ended::Nothing
        }
        Some((Disposition::RetryAfter(_) | Disposition::OutcomeUnknown, _)) => Ended::Failed,
        Some((
            Disposition::Misconfigured
            | Disposition::Restart
            | Disposition::CallerFault
            | Disposition::Unclear
            | Disposition::Bug,
            _,
        )) => Ended::Nothing,
    };
    let now = inner.deps.clock.monotonic();
    if failure.is_none() {
        inner.breakers.note_work(&key.app, tenant, now);
    }
    let why = failure.cloned().unwrap_or_else(crowded);
    inner.breakers.ended(&key.app, tenant, now, ended, &Arc::new(Failure::Authority(why)));
    if let Ended::Throttled(asked) = ended {
        tell_of_hold(inner, key, tenant, asked).await;
    }
}
