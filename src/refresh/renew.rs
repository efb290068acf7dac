//! The work of one flight: look a connection up, or use its grant and store what comes back.

use std::sync::Arc;
use std::time::Duration;

use super::backoff;
use super::engine::Inner;
use super::lease::{self, Lease};
use super::plan::{self, Want};
use super::slots::{Failure, Slot, Trouble, Unstored};
use crate::authority::{RefreshRequest, TokenAnswer};
use crate::domain::connection::{Attempt, Status};
use crate::domain::grant::Grant;
use crate::domain::id::ConnectionKey;
use crate::domain::scope::{ScopeNaming, ScopeSet};
use crate::domain::secret::{AccessToken, RefreshToken};
use crate::domain::token::{Freshness, HeldToken};
use crate::domain::verdict::{AuthorityError, AuthorityFailure, Disposition, GrantFate};
use crate::repository::{Connection, Loaded, RepositoryError};
use crate::store::{Committed, Revision, StoreError, Writer};

/// Tokens kept for one connection: one per resource, and nobody uses more resources than this.
const MOST_TOKENS: usize = 8;
/// How often the store is asked to take an answer before its waiters are told.
const STORE_TRIES: u32 = 5;
/// A verdict on a resource besides the one that the connection was made for is asked about again after this long.
const VERDICT_AGAIN: Duration = Duration::from_secs(60);
/// How often a commit may be overtaken before its waiters are told.
const MOST_OVERTAKEN: usize = 4;
/// How long another replica's word is waited for before its lease is tried for all the same: what is told may be lost.
const UNTOLD: Duration = Duration::from_secs(1);
/// A lease that is about to end is not tried for more often than this.
const SHORTEST_WAIT: Duration = Duration::from_millis(20);
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
    let repository = &inner.deps.repository;
    if let Some(held) = held {
        match repository.store().revision(key).await {
            Ok(Some(revision)) if revision == held.connection.revision => {
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

/// Loads a connection and holds it. A connection that is gone is forgotten.
async fn load(
    inner: &Arc<Inner>,
    key: &ConnectionKey,
    slot: &Slot,
    epoch: u64,
) -> Result<Loaded, Arc<Failure>> {
    let looked_at = inner.deps.clock.monotonic();
    match inner.deps.repository.load(key).await {
        Ok(Some(loaded)) => {
            inner.publish(key, slot, epoch, loaded.connection.clone(), looked_at);
            Ok(loaded)
        }
        Ok(None) => {
            let mut state = slot.state();
            if state.epoch == epoch && looked_at >= state.checked_at {
                state.held = None;
                state.unchecked = None;
                state.checked_at = looked_at;
            }
            Err(Arc::new(Failure::NotFound))
        }
        Err(error) => Err(store_does_not_answer(inner, slot, Failure::Repository(error))),
    }
}

fn store_does_not_answer(inner: &Inner, slot: &Slot, failure: Failure) -> Arc<Failure> {
    tracing::error!(%failure, "a connection could not be looked up");
    let failure = Arc::new(failure);
    let mut state = slot.state();
    if state.held.is_some() {
        state.unchecked = Some((inner.deps.clock.monotonic(), failure.clone()));
    }
    failure
}

/// Uses the grant, unless somebody else has just done so, and stores what comes back before anyone sees it. Where another
/// replica is at it, its outcome is waited for.
pub(super) async fn renew(
    inner: &Arc<Inner>,
    key: &ConnectionKey,
    slot: &Arc<Slot>,
    want: &Want,
) -> Result<(), Arc<Failure>> {
    let enough = |connection: &Connection| {
        let now = inner.deps.clock.now();
        connection.tokens.iter().any(|token| {
            token.resource == want.resource
                && token.freshness(now, want.min_ttl) == Freshness::Fresh
                && !plan::is_refused(token, want)
                && token.refresh_at.is_none_or(|at| at > now)
                && connection.profile.status == Status::Active
        })
    };
    let may_try = |connection: &Connection| connection.profile.may_try(inner.deps.clock.now());
    let used = with_lease(inner, key, slot, want, |connection| !enough(connection) && may_try(connection));
    let connection = used.await?;
    if connection.is_some_and(|connection| enough(&connection)) {
        slot.state().trouble.remove(&want.resource); // somebody else's try went well
    }
    Ok(())
}

/// Takes the connection's lease and uses its grant, if it is `needed` by then: gives the connection where it was not. While
/// somebody else has the lease, their word is waited for.
async fn with_lease(
    inner: &Arc<Inner>,
    key: &ConnectionKey,
    slot: &Arc<Slot>,
    want: &Want,
    needed: impl Fn(&Connection) -> bool,
) -> Result<Option<Connection>, Arc<Failure>> {
    let begun = inner.deps.clock.monotonic();
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
        if !needed(&loaded.connection) {
            return Ok(Some(loaded.connection));
        }
        let tenant = loaded.connection.profile.account.tid.as_deref();
        let monotonic = inner.deps.clock.monotonic();
        if let Some((left, failure)) = inner.buckets.closed(&key.app, tenant, monotonic) {
            note_trouble(inner, slot, want, &failure, Some(left));
            return Err(failure);
        }
        match Lease::take(inner, key).await.map_err(|error| noted(error.into()))? {
            lease::Attempt::Mine(lease) => {
                // It may have been somebody else's until just now.
                let revision = inner.deps.repository.store().revision(key).await;
                if revision.as_ref().is_ok_and(|stored| *stored == Some(loaded.connection.revision)) {
                    let seen = Seen { epoch, loaded };
                    return use_grant(inner, key, slot, seen, want, lease).await.map(|()| None);
                }
                lease.release(inner, key, true).await;
                revision.map_err(|error| noted(error.into()))?;
            }
            lease::Attempt::Theirs(left) => {
                // A holder that lives prolongs its lease, one that died loses it: both are seen within this time.
                if monotonic.saturating_sub(begun) > inner.settings.lease * 2 {
                    return Err(noted(busy().into()));
                }
                tokio::select! {
                    biased;
                    () = told => {}
                    () = inner.deps.clock.sleep(left.clamp(SHORTEST_WAIT, UNTOLD)) => {}
                }
            }
        }
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
) -> Result<(), Arc<Failure>> {
    let epoch = slot.state().epoch;
    let loaded = load(inner, key, slot, epoch).await?;
    let Some(app) = inner.apps.get(&key.app) else { return Ok(()) };
    let naming = app.authority.scope_naming();
    let granted = naming.scopes_lossy(loaded.connection.profile.scopes_granted.iter().map(String::as_str));
    let want = Want {
        resource: naming.primary_resource(&granted),
        scopes: ScopeSet::default(),
        min_ttl: Duration::ZERO,
        rejected: None,
        claims: None,
    };
    let usable = |connection: &Connection| {
        connection.profile.status != Status::Paused && !connection.profile.grant_destroyed
    };
    with_lease(inner, key, slot, &want, usable).await.map(|_| ())
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
    want: &Want,
    lease: Lease,
) -> Result<(), Arc<Failure>> {
    let connection = &seen.loaded.connection;
    let tenant = connection.profile.account.tid.clone();
    let grant = match inner.deps.repository.open_grant(key, &seen.loaded) {
        Ok(Some(grant)) => grant,
        Ok(None) => {
            lease.release(inner, key, true).await;
            return Ok(());
        }
        Err(error) => {
            lease.release(inner, key, true).await;
            let failure = Arc::new(Failure::Repository(error));
            note_trouble(inner, slot, want, &failure, None);
            return Err(failure);
        }
    };
    if lease.unsettled {
        slot.state().remember(unsettled_attempt(inner));
        if must_not_replay(inner, key, connection) {
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
    match asked.await {
        Ok((used, answer)) => {
            inner.buckets.open(&key.app);
            let renewed = grant.renewed(&used, answer.refresh_token.clone());
            let expected = Some(connection.revision);
            let connection = succeed(inner, key, slot, connection, want, answer);
            let successor = successor(inner, key, expected, lease.writer(), connection, renewed, used);
            slot.state().unstored = Some(successor);
            // The commit gives the lease back. One that is not stored yet keeps it until it ends.
            let stored = store_with_patience(inner, key, slot).await;
            if let Err(failure) = &stored {
                note_trouble(inner, slot, want, failure, None);
            } else {
                slot.state().trouble.remove(&want.resource);
            }
            stored
        }
        Err(failure) => {
            let judged =
                failure.disposition.is_verdict() && speaks_of_the_grant(inner, key, connection, want);
            let known = failure.disposition != Disposition::OutcomeUnknown;
            let failure = Arc::new(Failure::Authority(failure));
            // What was said of a grant is no trouble of the one that took its place meanwhile.
            let connected_at = slot.state().connected_at;
            if connected_at.is_none_or(|at| at == connection.profile.connected_at) {
                note_trouble(inner, slot, want, &failure, None);
            }
            note_buckets(inner, key, tenant.as_deref(), &failure);
            let noted = if judged {
                judge(inner, key, slot, seen, grant, &failure, lease.writer()).await
            } else {
                Ok(())
            };
            lease.release(inner, key, known).await;
            noted?;
            Err(failure)
        }
    }
}

/// Whether the grant must be left alone, because somebody may have used it up, for as long as a token of it lives: once
/// there is none, another try is all that is left.
pub(super) fn must_not_replay(inner: &Inner, key: &ConnectionKey, connection: &Connection) -> bool {
    let may_replay = inner.apps.get(&key.app).is_some_and(|app| app.authority.may_replay_refresh_tokens());
    let now = inner.deps.clock.now();
    let lives = |token: &HeldToken| token.freshness(now, Duration::ZERO) != Freshness::Expired;
    !may_replay && connection.tokens.iter().any(lives)
}

/// For `explain`: what a verdict that follows may come from.
fn unsettled_attempt(inner: &Inner) -> Attempt {
    Attempt {
        at: inner.deps.clock.now(),
        action: "refresh".into(),
        outcome: Disposition::OutcomeUnknown.as_str().into(),
        conclusion: "a replica began to refresh this connection and never said how that ended: it died, was stopped, or \
                     lost the authority's answer"
            .into(),
        answer: AuthorityError::default(),
    }
}

fn unsettled_failure() -> AuthorityFailure {
    AuthorityFailure {
        doing: "refreshing a grant",
        cause: "another replica may have used the refresh token up; it is not sent again while a token lives"
            .into(),
        disposition: Disposition::OutcomeUnknown,
        answer: AuthorityError::default(),
        claims: None,
    }
}

/// Whether a verdict on this request is one on the grant itself. A refusal of one more resource, or of a challenge that a
/// caller brought, is an answer to whoever asked: the connection is judged by its plain refresh for what it was
/// connected for.
fn speaks_of_the_grant(inner: &Inner, key: &ConnectionKey, connection: &Connection, want: &Want) -> bool {
    let Some(app) = inner.apps.get(&key.app) else { return false };
    let naming = app.authority.scope_naming();
    let granted = naming.scopes_lossy(connection.profile.scopes_granted.iter().map(String::as_str));
    want.claims.is_none() && want.resource == naming.primary_resource(&granted)
}

/// Asks the authority, with a second opinion where one is due. Says which refresh token worked.
async fn ask_authority(
    inner: &Arc<Inner>,
    key: &ConnectionKey,
    connection: &Connection,
    grant: &Grant,
    want: &Want,
    lease: &Lease,
) -> Result<(RefreshToken, TokenAnswer), AuthorityFailure> {
    let authority = &inner.apps.get(&key.app).expect("only configured apps reach the engine").authority;
    let scopes = scopes_to_ask(authority.scope_naming(), connection, want);
    let call = async |refresh_token: &RefreshToken| {
        // A process that was stopped and goes on must not call beside whoever has the lease by now.
        if !lease.outlasts(inner, inner.settings.authority_timeout) {
            return Err(lease_ran_out());
        }
        let begun = inner.deps.clock.monotonic();
        let answer = authority
            .refresh(RefreshRequest {
                refresh_token,
                scopes: &scopes,
                account: &connection.profile.account,
                claims: want.claims.as_ref().map(|claims| claims.json.as_str()),
            })
            .await;
        let outcome = answer.as_ref().map_or_else(|failure| failure.disposition.as_str(), |_| "ok");
        let elapsed = inner.deps.clock.monotonic().saturating_sub(begun);
        inner.deps.observer.refreshed(&key.app, outcome, elapsed);
        answer
    };
    let says_dead = |failure: &AuthorityFailure| {
        matches!(failure.disposition, Disposition::Reauthorize(_, GrantFate::Dead))
    };

    let mut verdict = match call(&grant.current).await {
        Ok(answer) => return Ok((grant.current.clone(), answer)),
        Err(failure) => failure,
    };
    // Personal accounts have been seen to answer bad_token on a good one: ask once more before believing it.
    if says_dead(&verdict) && connection.profile.account.is_personal() {
        inner.deps.clock.sleep(SECOND_OPINION).await;
        match call(&grant.current).await {
            Ok(answer) => return Ok((grant.current.clone(), answer)),
            Err(failure) => verdict = failure,
        }
    }
    // A token that never worked may be the damaged one; the one before it is kept for just this.
    if let Some(previous) = &grant.previous
        && says_dead(&verdict)
        && authority.may_replay_refresh_tokens()
    {
        match call(previous).await {
            Ok(answer) => return Ok((previous.clone(), answer)),
            // Nothing is known of it: the grant must not die of an outage.
            Err(failure) if !failure.disposition.is_verdict() => return Err(failure),
            Err(_) => {}
        }
    }
    Err(verdict)
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
    let naming =
        inner.apps.get(&key.app).expect("only configured apps reach the engine").authority.scope_naming();
    let now = inner.deps.clock.now();
    let granted =
        granted_after(naming, &before.profile.scopes_granted, want.resource.as_deref(), &answer.scopes);
    let mut profile = before.profile.clone();
    for attempt in std::mem::take(&mut slot.state().attempts) {
        profile.attempts.push(attempt);
    }
    let profile = profile.refreshed(Some(granted), now);
    let answers_claims = want.claims.as_ref().map(|claims| claims.digest.clone());
    let token = held_token(answer, want.resource.clone(), answers_claims);
    let mut tokens: Vec<HeldToken> = before
        .tokens
        .iter()
        .filter(|held| held.resource != token.resource && held.expires_at > now)
        .cloned()
        .collect();
    tokens.push(token);
    let extra = tokens.len().saturating_sub(MOST_TOKENS);
    tokens.drain(..extra);
    Connection { revision: before.revision, profile, tokens }
}

/// An answer's access token as it is held.
pub(crate) fn held_token(
    answer: TokenAnswer,
    resource: Option<String>,
    answers_claims: Option<String>,
) -> HeldToken {
    HeldToken {
        digest: digest(&answer.access_token),
        issued_at: answer.requested_at,
        expires_at: answer.requested_at.plus(answer.expires_in),
        refresh_at: answer.refresh_in.map(|after| answer.requested_at.plus(after)),
        scopes: answer.scopes,
        resource,
        answers_claims,
        access_token: answer.access_token,
    }
}

/// Lower-case hex SHA-256.
fn digest(token: &AccessToken) -> String {
    sha256_hex(token.expose().as_bytes())
}

/// Lower-case hex SHA-256 of some bytes.
pub(crate) fn sha256_hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, bytes);
    digest.as_ref().iter().fold(String::with_capacity(64), |mut hex, byte| {
        let _ = write!(hex, "{byte:02x}");
        hex
    })
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

/// The sealed successor of a connection.
fn successor(
    inner: &Inner,
    key: &ConnectionKey,
    expected: Option<Revision>,
    writer: Writer,
    mut connection: Connection,
    grant: Grant,
    used: RefreshToken,
) -> Unstored {
    let repository = &inner.deps.repository;
    let sealed = repository.seal(key, expected, &connection.profile, &connection.tokens, Some(&grant));
    connection.revision = sealed.revision;
    Unstored { writer, expected, sealed, connection, grant, used }
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
        let Unstored { expected, sealed, writer, .. } = &unstored;
        let begun = inner.deps.clock.monotonic();
        let committed = inner.deps.repository.commit_sealed(key, *expected, sealed, *writer).await;
        match committed {
            Ok(Committed::Done) => {
                // Another try may have stored this one and kept a newer one since.
                if !clear_unstored(slot, sealed.revision) {
                    continue;
                }
                inner.publish_written(key, slot, epoch, unstored.connection, begun);
                return Ok(());
            }
            Ok(Committed::Conflict) => overtaken(inner, key, slot, epoch, unstored).await?,
            // Somebody else uses the grant: what they store, or that they store nothing, decides.
            Ok(Committed::Fenced) => return Err(Arc::new(Failure::Repository(busy().into()))),
            Err(error) => return Err(Arc::new(Failure::Repository(error))),
        }
    }
    Err(Arc::new(Failure::Repository(
        StoreError::Unavailable {
            doing: "storing a refreshed grant",
            cause: "others kept changing the connection".into(),
        }
        .into(),
    )))
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

/// The connection changed while the authority was asked. If what changed it was a verdict, and the grant there is still
/// the one that was used, the answer goes on top: it proves the verdict wrong. Else (deleted, connected anew, renewed by
/// another replica) theirs counts.
async fn overtaken(
    inner: &Arc<Inner>,
    key: &ConnectionKey,
    slot: &Slot,
    epoch: u64,
    unstored: Unstored,
) -> Result<(), Arc<Failure>> {
    let loaded = load(inner, key, slot, epoch).await;
    let still_used = match &loaded {
        Ok(loaded) => {
            let grant = inner.deps.repository.open_grant(key, loaded).ok().flatten();
            grant.is_some_and(|grant| grant.current == unstored.used)
        }
        Err(failure) => match failure.as_ref() {
            Failure::NotFound => false,
            Failure::Repository(_) | Failure::Authority(_) => return Err(failure.clone()),
        },
    };
    let before = unstored.sealed.revision;
    match loaded {
        Ok(loaded) if still_used => {
            let mut connection = unstored.connection;
            connection.profile.created_at = loaded.connection.profile.created_at;
            connection.tokens = newest_of_each(&loaded.connection.tokens, connection.tokens);
            let expected = Some(loaded.connection.revision);
            let again =
                successor(inner, key, expected, unstored.writer, connection, unstored.grant, unstored.used);
            // In one step: in between nobody would know of the answer, and use the refresh token again.
            let mut state = slot.state();
            if state.unstored.as_ref().is_some_and(|kept| kept.sealed.revision == before) {
                state.unstored = Some(again);
            }
            Ok(())
        }
        _ if !clear_unstored(slot, before) => Ok(()),
        Ok(_) => {
            tracing::info!(app = %key.app, connection = %key.connection, "a refreshed grant was overtaken by a newer one and is dropped");
            Ok(())
        }
        Err(failure) => Err(failure),
    }
}

/// Of two sets of tokens, by resource, those that live longer: where an authority answers without a new refresh token, another
/// replica's answer for the same grant may be stored beside ours.
fn newest_of_each(theirs: &[HeldToken], ours: Vec<HeldToken>) -> Vec<HeldToken> {
    let mut tokens: Vec<HeldToken> = theirs.to_vec();
    for token in ours {
        match tokens.iter_mut().find(|other| other.resource == token.resource) {
            Some(other) if other.expires_at < token.expires_at => *other = token,
            Some(_) => {}
            None => tokens.push(token),
        }
    }
    tokens.truncate(MOST_TOKENS);
    tokens
}

/// Writes a verdict down, if the connection still is the one it was about.
async fn judge(
    inner: &Arc<Inner>,
    key: &ConnectionKey,
    slot: &Arc<Slot>,
    seen: Seen,
    grant: Grant,
    failure: &Arc<Failure>,
    writer: Writer,
) -> Result<(), Arc<Failure>> {
    let Failure::Authority(verdict) = failure.as_ref() else { return Ok(()) };
    let now = inner.deps.clock.now();
    let attempt = attempt(inner, verdict);
    let Seen { epoch, loaded } = seen;
    let Connection { revision, mut profile, tokens } = loaded.connection;
    // What failed before the verdict may be its cause: a lost answer, where a refresh token works only once.
    profile.attempts.extend(slot.state().attempts.iter().cloned());
    let profile = profile.judged(verdict.disposition, attempt, verdict.claims.clone(), now);
    let kept = (!profile.grant_destroyed).then_some(&grant);
    let begun = inner.deps.clock.monotonic();
    let committed = inner.deps.repository.commit(key, Some(revision), &profile, &tokens, kept, writer).await;
    match committed {
        Ok((Committed::Done, revision)) => {
            tracing::warn!(
                app = %key.app, connection = %key.connection, status = profile.status.as_str(),
                reason = profile.status.reason(), error_codes = ?verdict.answer.error_codes,
                correlation_id = verdict.answer.correlation_id, "the authority's verdict changed a connection"
            );
            slot.state().attempts.clear();
            inner.publish_written(key, slot, epoch, Connection { revision, profile, tokens }, begun);
            Ok(())
        }
        // It is another one by now: the verdict was not about that.
        Ok((Committed::Conflict | Committed::Fenced, _)) => {
            slot.state().trouble.clear();
            load(inner, key, slot, epoch).await.map(|_| ())
        }
        Err(error) => {
            tracing::error!(app = %key.app, connection = %key.connection, %error, "a verdict could not be stored");
            Ok(())
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

/// Remembers a failed try, so that the next waits a little.
fn note_trouble(inner: &Inner, slot: &Slot, want: &Want, failure: &Arc<Failure>, left: Option<Duration>) {
    let in_doubt = matches!(
        failure.as_ref(),
        Failure::Authority(failure) if failure.disposition == Disposition::OutcomeUnknown
    );
    if want.claims.is_some() && !in_doubt {
        return; // a challenge that could not be met is the trouble of whoever brought it
    }
    let asked = match failure.as_ref() {
        Failure::Authority(AuthorityFailure { disposition: Disposition::RetryAfter(asked), .. }) => *asked,
        Failure::Authority(AuthorityFailure {
            disposition: Disposition::NextCredential | Disposition::Misconfigured,
            ..
        }) => Some(backoff::APP_REJECTED),
        // Nobody's status says when to ask again where the verdict was on one more resource.
        Failure::Authority(failure) if failure.disposition.is_verdict() => Some(VERDICT_AGAIN),
        Failure::Authority(_) | Failure::NotFound | Failure::Repository(_) => None,
    };
    let now = inner.deps.clock.monotonic();
    let mut state = slot.state();
    let failures = state.trouble.get(&want.resource).map_or(0, |trouble| trouble.failures) + 1;
    let wait = left.unwrap_or_else(|| backoff::wait(failures, asked, inner.deps.random.as_ref()));
    let trouble = Trouble { until: now + wait, failures, failure: failure.clone() };
    state.trouble.insert(want.resource.clone(), trouble);
    if let (Failure::Authority(failure), None) = (failure.as_ref(), left)
        && !failure.disposition.is_verdict()
    {
        let attempt = attempt(inner, failure);
        state.remember(attempt);
    }
}

/// Closes the app's or the tenant's bucket where the failure concerns more than this connection.
fn note_buckets(inner: &Inner, key: &ConnectionKey, tenant: Option<&str>, failure: &Arc<Failure>) {
    let Failure::Authority(authority) = failure.as_ref() else { return };
    let now = inner.deps.clock.monotonic();
    match authority.disposition {
        Disposition::RetryAfter(Some(asked)) if authority.answer.status == Some(429) => {
            let until = now + backoff::wait(1, Some(asked), inner.deps.random.as_ref());
            inner.buckets.close(&key.app, tenant, until, failure.clone());
        }
        Disposition::NextCredential => {
            inner.buckets.close(&key.app, None, now + backoff::APP_REJECTED, failure.clone());
        }
        Disposition::RetryAfter(_)
        | Disposition::Misconfigured
        | Disposition::Reauthorize(..)
        | Disposition::Blocked(_)
        | Disposition::Restart
        | Disposition::CallerFault
        | Disposition::OutcomeUnknown
        | Disposition::Bug => {}
    }
}
