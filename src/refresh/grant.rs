//! Uses a grant under its lease, and records the result: new tokens, a verdict, or a failed attempt.

use std::sync::Arc;
use std::time::Duration;

use super::answer::{has_live_token, renewed};
use super::call::call;
use super::durable::{self, Offered};
use super::failure::Failure;
use super::lease::Lease;
use super::look::load;
use super::permit::CallPermit;
use super::plan::Want;
use super::ports::Ports;
use super::schedule::{due_of, jitter, note_idle_limit, primary_resource, schedule};
use super::slot::{At, Epoch, Source, attempt};
use super::{cache, tenant, unclear};
use crate::authority::{Fate, Refreshed, RefusedAnswer, TokenAnswer};
use crate::domain::grant::Grant;
use crate::domain::id::ConnectionKey;
use crate::domain::not_now::NotNow;
use crate::domain::notice::Turn;
use crate::domain::remarks::Remarks;
use crate::domain::secret::RefreshToken;
use crate::domain::time::Timestamp;
use crate::domain::verdict::{AuthorityError, AuthorityFailure, Disposition};
use crate::repository::{Connection, Loaded, Unstored};
use crate::store::{Committed, LeaseNonce, Writer};

/// A connection as it was read, and the epoch from before that.
pub(super) struct Seen {
    pub(super) epoch: Epoch,
    pub(super) loaded: Loaded,
}

/// One use of a grant.
struct Use<'a> {
    seen: Seen,
    grant: Grant,
    want: &'a Want,
    lease: Lease,
}

/// Uses the grant under the lease, which ends here in any case. `permit` is spent when the authority is
/// called.
pub(super) async fn use_grant(
    ports: &Arc<Ports>,
    at: At<'_>,
    seen: Seen,
    (want, permit): (&Want, Option<&CallPermit>),
    lease: Lease,
) -> Result<(), Arc<Failure>> {
    let tenant = seen.loaded.connection.profile.account().tid.clone();
    // The time of its last use, if callers use it here. (The sweep schedules the connections that it renews.)
    let used_at = at.state().usage.was_noted().then(|| ports.now());
    let Some(one) = usable(ports, at, seen, want, lease).await? else { return Ok(()) };
    let began = ports.monotonic();
    if let Some(permit) = permit {
        permit.spend();
    }
    let answered = call(ports, at.key, &one.seen.loaded.connection, &one.grant, want, &one.lease).await;
    let in_vain = match &answered {
        Ok((_, Refreshed::Tokens(_))) => None,
        Ok((_, Refreshed::Refused(refused))) => Some(Failure::Authority(refused.failure.clone())),
        Err(failure) => Some(failure.clone()),
    };
    tenant::call_ended(ports, at, want, tenant.as_deref(), began, in_vain).await;
    match answered {
        Ok((used, Refreshed::Tokens(answer))) => succeeded(ports, at, one, used, *answer, used_at).await,
        Ok((used, Refreshed::Refused(refused))) => {
            let RefusedAnswer { rule, fate, failure } = *refused;
            warn_of_refused(at.key, &rule, &fate, &failure);
            match fate {
                Fate::Replaced(next) if next != used => replaced(ports, at, one, (used, next), failure).await,
                Fate::Replaced(_) | Fate::AsBefore | Fate::Unknown | Fate::Anothers => {
                    failed(ports, at, one, Failure::Authority(failure)).await
                }
            }
        }
        Err(failure) => failed(ports, at, one, failure).await,
    }
}

/// The opened grant, if it may be used. If not, the lease is given back: the grant was destroyed by a
/// verdict, or does not open, or an earlier use of it is unsettled and must not be repeated.
async fn usable<'a>(
    ports: &Arc<Ports>,
    at: At<'_>,
    seen: Seen,
    want: &'a Want,
    lease: Lease,
) -> Result<Option<Use<'a>>, Arc<Failure>> {
    let key = at.key;
    let connection = &seen.loaded.connection;
    let not_called = || ports.breakers.not_called(&key.app, connection.profile.account().tid.as_deref());
    let grant = match ports.repository().open_grant(key, &seen.loaded) {
        Ok(Some(grant)) => grant,
        Ok(None) => {
            not_called();
            lease.release(ports, key, true).await;
            return Ok(None);
        }
        Err(error) => {
            not_called();
            lease.release(ports, key, true).await;
            at.state().troubles.damaged(error.to_string(), ports.now());
            return Err(noted(ports, at, want, Failure::Repository(error)));
        }
    };
    if lease.unsettled {
        at.state().troubles.unsettled(ports.now());
        if must_not_replay(ports, key, connection) {
            not_called();
            lease.release(ports, key, false).await;
            return Err(noted(ports, at, want, NotNow::Unsettled.into()));
        }
    }
    Ok(Some(Use { seen, grant, want, lease }))
}

/// The grant worked: its answer is stored before anybody sees it.
async fn succeeded(
    ports: &Arc<Ports>,
    at: At<'_>,
    Use { seen, grant, want, lease }: Use<'_>,
    used: RefreshToken,
    answer: TokenAnswer,
    used_at: Option<Timestamp>,
) -> Result<(), Arc<Failure>> {
    warn_of_remarks(at.key, &answer.remarks);
    let before = &seen.loaded.connection;
    let (tenant, status) = (before.profile.account().tid.as_deref(), before.profile.status());
    ports.tenants.lock().worked(&at.key.app, tenant, Some(status));
    let renewed_grant = grant.renewed(&used, answer.refresh_token.clone());
    let authority = ports.authority(&at.key.app).expect("only configured apps reach the engine");
    let attempts = at.state().troubles.take_attempts();
    let connection = renewed(authority.scope_naming(), before, want, attempts, answer, ports.now());
    let base = (lease.nonce, before.revision, before.profile.outlook());
    let sealed = durable::seal(ports, at, base, connection.clone(), renewed_grant, used);
    let stored = keep(ports, at, seen.epoch, sealed, lease).await;
    if let Err(failure) = &stored {
        note_trouble(ports, at, want, failure, None);
    } else {
        at.state().troubles.worked(&want.resource);
    }
    at.state().troubles.set_unclear(None);
    if let Some(used_at) = used_at {
        let next = due_of(ports, at.key, &connection, Some(used_at), jitter(ports));
        // Nobody waits for it: until it is written the connection is due sooner.
        let (by, key) = (ports.clone(), at.key.clone());
        ports.spawn("schedule a connection", async move { schedule(&by, &key, next).await });
    }
    stored
}

/// The answer is refused, but its refresh token replaces the one that was used.
async fn replaced(
    ports: &Arc<Ports>,
    at: At<'_>,
    Use { seen, grant, want, lease }: Use<'_>,
    (used, next): (RefreshToken, RefreshToken),
    failure: AuthorityFailure,
) -> Result<(), Arc<Failure>> {
    let mut attempts = {
        let mut state = at.state();
        state.troubles.set_unclear(None);
        state.troubles.take_attempts()
    };
    attempts.push(attempt(&failure, ports.now()));
    let mut connection = seen.loaded.connection;
    let base = (lease.nonce, connection.revision, connection.profile.outlook());
    connection.profile = connection.profile.grant_replaced(attempts);
    let replaced = grant.replaced(&used, next);
    let sealed = durable::seal(ports, at, base, connection, replaced, used);
    let stored = keep(ports, at, seen.epoch, sealed, lease).await;
    let failure = stored.err().unwrap_or_else(|| Arc::new(Failure::Authority(failure)));
    {
        let mut state = at.state();
        let about = state.about();
        state.troubles.pace(want, &failure, None, about, ports.monotonic(), ports.random());
    }
    Err(failure)
}

/// Makes an answer durable, and gives the lease back.
async fn keep(
    ports: &Arc<Ports>,
    at: At<'_>,
    epoch: Epoch,
    answer: Unstored,
    lease: Lease,
) -> Result<(), Arc<Failure>> {
    let kept = durable::keep(ports, at, epoch, answer).await;
    // The answer's commit gave the lease back; a dropped answer did not. While only the journal has the
    // answer, lease and intent stay: for other replicas the stored refresh token is as good as spent.
    let is_over = at.state().memory.answer().is_none();
    if is_over && !matches!(kept, Ok(Offered::Committed)) {
        let (by, key) = (ports.clone(), at.key.clone());
        ports.spawn("give a lease back", async move { lease.release(&by, &key, true).await });
    }
    kept.map(|_| ())
}

/// The use of the grant failed: notes the attempt, stores a verdict, and gives the lease back.
async fn failed(
    ports: &Arc<Ports>,
    at: At<'_>,
    Use { seen, grant, want, lease }: Use<'_>,
    failure: Failure,
) -> Result<(), Arc<Failure>> {
    let connection = &seen.loaded.connection;
    let is_of_the_grant = speaks_of_the_grant(ports, at.key, connection, want);
    let failure = match failure {
        Failure::Authority(failure) if is_of_the_grant => {
            Failure::Authority(weigh(ports, at, connection, failure))
        }
        as_it_is => as_it_is,
    };
    let is_judged = failure.is_verdict() && is_of_the_grant;
    let is_known = !failure.is_unsettled();
    let failure = Arc::new(failure);
    // A refusal of this grant says nothing about one that replaced it meanwhile.
    let sign_in = at.state().memory.sign_in();
    if sign_in.is_none_or(|sign_in| sign_in == connection.profile.sign_in()) {
        note_trouble(ports, at, want, &failure, None);
    }
    warn_of_refusal(at, want, &failure);
    if is_judged {
        let noted = judge(ports, at, seen, grant, &failure, lease.nonce).await;
        lease.release(ports, at.key, matches!(noted, Ok(true))).await;
        noted?;
    } else {
        lease.release(ports, at.key, is_known).await;
    }
    Err(failure)
}

/// Weighs a refusal that may have no known meaning ([`unclear`]).
fn weigh(ports: &Ports, at: At<'_>, connection: &Connection, failure: AuthorityFailure) -> AuthorityFailure {
    let key = at.key;
    let sign_in = connection.profile.sign_in();
    let worked_at = ports.breakers.worked_at(&key.app, connection.profile.account().tid.as_deref());
    let is_alive = has_live_token(connection, ports.now());
    let before = at.state().troubles.unclear(sign_in);
    let status = connection.profile.status();
    let weighed = unclear::weigh(before, status, is_alive, worked_at, ports.monotonic(), failure);
    if let Some(count) = weighed.count {
        at.state().troubles.set_unclear(count.map(|count| (sign_in, count)));
    }
    if let Some(refusals) = weighed.ended_after {
        let AuthorityError { status, error, trace_id, correlation_id, .. } = &weighed.failure.answer;
        tracing::warn!(
            app = %key.app, connection = %key.connection, refusals, status, error, trace_id, correlation_id,
            "the authority refuses one grant again and again without saying why, while others work; it is \
             taken for ended, and tried again ever more rarely"
        );
    }
    weighed.failure
}

/// Stores a verdict, if the connection still is the one it was about. Returns false if the verdict was not
/// stored for this same grant: an unknown earlier use may have caused it, so the refresh stays unsettled.
async fn judge(
    ports: &Arc<Ports>,
    at: At<'_>,
    seen: Seen,
    grant: Grant,
    failure: &Arc<Failure>,
    lease: LeaseNonce,
) -> Result<bool, Arc<Failure>> {
    let Failure::Authority(verdict) = failure.as_ref() else { return Ok(false) };
    let key = at.key;
    let now = ports.now();
    let attempt = attempt(verdict, now);
    let Seen { epoch, loaded } = seen;
    let place = loaded.connection.grant_place();
    let Connection { revision, profile, tokens } = loaded.connection;
    let turn = Some(Turn::After { before: profile.outlook(), at: now });
    // An earlier failed attempt may be the verdict's cause, such as a lost answer if a refresh token works
    // once.
    let before = profile.clone();
    let profile = profile.remembering(at.state().troubles.attempts().iter().cloned());
    let profile = profile.judged(verdict.disposition, attempt, verdict.claims.clone(), now);
    let kept = (!profile.grant_destroyed()).then_some(&grant);
    let begun = ports.monotonic();
    let repository = ports.repository();
    let sealed = repository.seal(key, revision.generation, &profile, &tokens, kept, turn);
    let committed = repository.commit_sealed(key, revision, &sealed, Writer::Verdict(lease)).await;
    match committed {
        Ok(Committed::Done) => {
            tracing::info!(
                app = %key.app, connection = %key.connection, status = profile.status().as_str(),
                reason = profile.status().reason(), error_codes = ?verdict.answer.error_codes,
                correlation_id = verdict.answer.correlation_id, "the authority's verdict changed a connection"
            );
            ports.deps.observer.judged(&key.app, profile.account().tid.as_deref(), profile.status());
            let codes = &verdict.answer.error_codes;
            ports.tenants.lock().judged(key, &before, profile.status(), codes, now);
            at.state().troubles.take_attempts();
            note_idle_limit(ports, &key.app, &profile).await;
            let connection = Connection { revision: sealed.revision, profile, tokens };
            schedule(ports, key, due_of(ports, key, &connection, None, jitter(ports))).await;
            cache::put(ports, at, epoch, &connection, Source::Committed(&sealed), begun);
            Ok(true)
        }
        // The connection has changed: the verdict was not about its present state.
        Ok(Committed::Conflict | Committed::Fenced) => {
            at.state().troubles.are_over();
            let loaded = load(ports, at, epoch).await?;
            Ok(loaded.connection.grant_place() != place)
        }
        Err(error) => {
            tracing::error!(
                app = %key.app, connection = %key.connection, %error,
                "a verdict could not be stored"
            );
            Ok(false)
        }
    }
}

/// Notes a failed attempt, and returns its failure.
pub(super) fn noted(ports: &Ports, at: At<'_>, want: &Want, failure: Failure) -> Arc<Failure> {
    let failure = Arc::new(failure);
    note_trouble(ports, at, want, &failure, None);
    failure
}

/// Notes a failed attempt, for `explain` and for the wait before the next one. `left`: how long the breaker
/// stays open, if it is the cause.
pub(super) fn note_trouble(
    ports: &Ports,
    at: At<'_>,
    want: &Want,
    failure: &Arc<Failure>,
    left: Option<Duration>,
) {
    let moment = ports.moment();
    let mut state = at.state();
    let about = state.about();
    state.troubles.failed(want, failure, left, about, moment, ports.random());
}

/// Whether the grant must not be used, because somebody may have used it up. That holds while a token of it
/// lives. Without one, another attempt is all that is left.
pub(super) fn must_not_replay(ports: &Ports, key: &ConnectionKey, connection: &Connection) -> bool {
    let may_replay = ports.authority(&key.app).is_some_and(|authority| authority.may_replay_refresh_tokens());
    !may_replay && has_live_token(connection, ports.now())
}

/// Whether a verdict on this request judges the grant. A refusal of another resource, or of a caller's
/// challenge, is an answer to that caller. Only the plain refresh for its own resource judges a connection.
fn speaks_of_the_grant(ports: &Ports, key: &ConnectionKey, connection: &Connection, want: &Want) -> bool {
    want.claims.is_none() && want.resource == primary_resource(ports, key, connection)
}

/// Logs in one line what was odd about an answer whose tokens are used.
pub(crate) fn warn_of_remarks(key: &ConnectionKey, remarks: &Remarks) {
    let Some(rule) = remarks.words() else { return };
    let AuthorityError { trace_id, correlation_id, .. } = &remarks.answer;
    tracing::warn!(
        app = %key.app, connection = %key.connection, rule, trace_id, correlation_id,
        "an answer of the authority is odd; its tokens are used, what is odd in it was cut or ignored"
    );
}

/// Logs in one line why an answer's access token is not used, and what becomes of its refresh token.
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

/// Warns of a refusal that is about neither the user, an administrator nor a credential (those are logged
/// elsewhere): the first time, and ever more rarely while it lasts.
fn warn_of_refusal(at: At<'_>, want: &Want, failure: &Failure) {
    let Failure::Authority(failure) = failure else { return };
    let is_told_elsewhere =
        failure.disposition.is_verdict() || failure.disposition == Disposition::NextCredential;
    let times = at.state().troubles.failures(&want.resource).max(1);
    if failure.answer.is_refusal() && !is_told_elsewhere && times.is_power_of_two() {
        let AuthorityError { status, error, error_codes, trace_id, correlation_id, .. } = &failure.answer;
        tracing::warn!(
            app = %at.key.app, connection = %at.key.connection,
            outcome = failure.disposition.as_str(), cause = failure.cause,
            status, error, ?error_codes, trace_id, correlation_id, times, "the authority refuses a refresh"
        );
    }
}
