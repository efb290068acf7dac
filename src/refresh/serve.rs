//! Serves one request: looks at the connection, asks `plan` what to do, does it, and looks again after every
//! await.

use std::any::Any;
use std::sync::Arc;
use std::time::Duration;

use super::failure::Failure;
use super::fly::wait;
use super::forced::Force;
use super::grant::must_not_replay;
use super::look::{MOST_LOOKS, look, look_now};
use super::observer::Lookup;
use super::plan::{self, Refusal, Step, Want};
use super::ports::Ports;
use super::renewals::{note_use, start_renewal};
use super::slot::{At, Held, Trouble};
use super::way::{Way, go, way};
use crate::domain::id::{CallerName, ConnectionKey};
use crate::domain::not_now::NotNow;
use crate::domain::time::{Moment, Timestamp};
use crate::domain::token::HeldToken;
use crate::domain::verdict::{AuthorityError, BlockReason, Disposition, ReauthReason};
use crate::span;

/// How long a caller waits for a renewal when there is a live token it could have instead.
const PATIENCE_WITH_FALLBACK: Duration = Duration::from_secs(3);
/// Renewals one request waits for: its own, and others' (for another resource, for a challenge) that were
/// under way before it. More would let an authority whose tokens are dead on arrival be called in a loop.
const MOST_RENEWALS: u32 = 3;

/// A token to hand out.
pub struct Served {
    /// The connection it is of, as it was cached then.
    pub held: Arc<Held>,
    /// Which of the connection's tokens it is.
    at: usize,
    /// The store does not answer for it. The connection may have changed or been deleted since, and its
    /// newest state may be safe on this machine only.
    pub degraded: bool,
    /// Where the token came from.
    pub source: TokenSource,
}

impl Served {
    /// The token.
    pub fn token(&self) -> &HeldToken {
        &self.held.connection.tokens[self.at]
    }

    /// What is the same for every hand-out of this token: returned if it was made before, made otherwise.
    pub fn prepared<T: Any + Send + Sync>(&self, make: impl FnOnce() -> T) -> Arc<T> {
        self.held.prepared.of(self.at, make)
    }
}

/// Where a token came from that is handed out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TokenSource {
    /// This process held it when the request came.
    Memory,
    /// It was read from the store for this request.
    Store,
    /// The request waited for a renewal, which brought it.
    Authority,
}

impl TokenSource {
    /// The word in the contract.
    pub fn as_str(self) -> &'static str {
        match self {
            TokenSource::Memory => "memory",
            TokenSource::Store => "store",
            TokenSource::Authority => "authority",
        }
    }
}

/// Why there is no token. `E` is the refusal of the engine's user.
#[derive(Debug, Clone)]
pub enum Refused<E> {
    /// The policy's refusal.
    Policy(E),
    /// No such connection.
    NotFound,
    /// An operator paused it.
    Paused,
    /// These wanted scopes were never granted.
    ScopeNotGranted(Vec<String>),
    /// The user must sign in again.
    NeedsReauthorization(ReauthReason, AuthorityError),
    /// An administrator must act.
    Blocked(BlockReason, AuthorityError),
    /// The authority's answer about itself or the app. It is no verdict.
    Authority {
        /// Its disposition.
        disposition: Disposition,
        /// Its words.
        answer: AuthorityError,
    },
    /// A reason of tokenward's own.
    NotNow(NotNow),
    /// The authority answers a refresh with the very token that was reported as rejected.
    SameTokenAgain,
    /// Reports and challenges come faster than they may be answered.
    TooManyForced(Duration),
    /// The stored record is damaged.
    Damaged,
    /// The store does not answer.
    Store,
}

/// One request, between its looks.
struct Request {
    /// Monotonic.
    begun: Duration,
    /// The digest and age of the token that was cached when it began to wait for a renewal.
    before_renewal: Option<Option<(String, Timestamp)>>,
    renewals: u32,
    last_failure: Option<Arc<Failure>>,
    /// A renewal failed or took too long: from here on a living token is served without another wait.
    is_impatient: bool,
    /// Its challenge may not be passed on now, and nobody has a token: it gets a plain renewal.
    is_plain: bool,
    /// What was cached when it came.
    cached: Option<Arc<Held>>,
}

/// A token for the connection. `want` says what the caller may have of the connection; it is called again
/// whenever the connection has changed.
pub(super) async fn serve<E>(
    ports: &Arc<Ports>,
    at: At<'_>,
    begun: Duration,
    want: impl Fn(&Held) -> Result<Want, E>,
) -> Result<Served, Refused<E>> {
    let mut request = Request {
        begun,
        before_renewal: None,
        renewals: 0,
        last_failure: None,
        is_impatient: false,
        is_plain: false,
        cached: at.state().memory.cached().cloned(),
    };
    for number in 0..MOST_LOOKS {
        let held = match look_now(ports, at, ports.monotonic()) {
            Some(held) => held,
            // (Boxed, as all that waits: most requests wait for nothing, and their futures are small.)
            None => Box::pin(look(ports, at, begun)).await.map_err(|failure| refused(&failure))?,
        };
        if ports.revoked.covers(at.key, &held.connection.profile) {
            return Err(Refused::NotFound);
        }
        let mut want = want(&held).map_err(Refused::Policy)?;
        if request.is_plain {
            want.claims = None;
        }
        at.state().usage.at(begun);
        let (trouble, is_failing) = known_trouble(ports, at, (&held, &want), ports.monotonic());
        let step = plan::next(
            &held.connection.profile,
            &held.granted,
            &held.connection.tokens,
            &want,
            ports.now(),
            trouble.is_some(),
            is_failing || request.is_impatient,
        );
        if number == 0 {
            ports.deps.observer.cache_lookup(match step {
                Step::Serve { renew: false, .. } => Lookup::Hit,
                Step::Serve { renew: true, .. } => Lookup::Stale,
                Step::Renew { .. } | Step::Refuse(_) => Lookup::Miss,
            });
        }
        match step {
            Step::Serve { token, renew } => {
                if renew {
                    start_renewal(ports, at, &want, None);
                }
                let source = request.source_of(token, &held);
                return Ok(served(ports, at, (token, want.by.as_ref()), (&held, source), begun));
            }
            Step::Refuse(refusal) => {
                let failure = request.last_failure.or(trouble.map(|trouble| trouble.failure));
                return Err(why(refusal, &held, &want, failure));
            }
            Step::Renew { fallback } => {
                let by = want.by.clone();
                let renewed = Box::pin(request.renew(ports, at, &held, want, fallback)).await?;
                if let Some(token) = renewed {
                    let source = request.source_of(token, &held);
                    return Ok(served(ports, at, (token, by.as_ref()), (&held, source), begun));
                }
            }
        }
    }
    Err(request.given_up())
}

/// A token for the connection, if it can be served without a wait or a renewal.
pub(super) fn serve_now(
    ports: &Arc<Ports>,
    at: At<'_>,
    begun: Moment,
    want: impl FnOnce(&Held) -> Option<Want>,
    admit: impl FnOnce() -> bool,
) -> Option<Served> {
    let Moment { monotonic: begun, now } = begun;
    let held = look_now(ports, at, begun)?;
    let connection = &held.connection;
    if ports.revoked.covers(at.key, &connection.profile) {
        return None;
    }
    let want = want(&held)?;
    let (trouble, is_failing) = known_trouble(ports, at, (&held, &want), begun);
    let (profile, has_trouble) = (&connection.profile, trouble.is_some());
    match plan::next(profile, &held.granted, &connection.tokens, &want, now, has_trouble, is_failing) {
        Step::Serve { token, renew: false } if admit() => {
            at.state().usage.at(begun);
            ports.deps.observer.cache_lookup(Lookup::Hit);
            let source = TokenSource::Memory;
            Some(served(ports, at, (token, want.by.as_ref()), (&held, source), begun))
        }
        _ => None,
    }
}

/// The trouble that prevents an attempt now, and whether the last attempt for this resource failed, however
/// long ago.
fn known_trouble(
    ports: &Ports,
    at: At<'_>,
    (held, want): (&Held, &Want),
    now: Duration,
) -> (Option<Trouble>, bool) {
    let state = at.state();
    let known = state.troubles.of(&want.resource);
    let recent = known.filter(|trouble| trouble.until > now);
    // An unsettled refresh is about the grant, whichever resource it was for.
    let unsettled = || state.troubles.all().find(|trouble| must_wait(ports, at.key, held, trouble));
    let trouble = recent.or_else(unsettled).or_else(|| state.troubles.throttled(now));
    (trouble.cloned(), known.is_some())
}

/// Whether the last attempt may have used the refresh token up, at an authority where it must not be used
/// again.
fn must_wait(ports: &Ports, key: &ConnectionKey, held: &Held, trouble: &Trouble) -> bool {
    let is_of_this = trouble.about.is_none_or(|about| about == held.connection.profile.last_refreshed_at());
    trouble.failure.is_unsettled() && is_of_this && must_not_replay(ports, key, &held.connection)
}

impl Request {
    /// Waits for a renewal; `fallback` is the token that it may have instead. Returns the token to serve, or
    /// `None` to look again.
    async fn renew<'a, E>(
        &mut self,
        ports: &Arc<Ports>,
        at: At<'_>,
        held: &'a Held,
        mut want: Want,
        fallback: Option<&'a HeldToken>,
    ) -> Result<Option<&'a HeldToken>, Refused<E>> {
        let tokens = &held.connection.tokens;
        let digest_before =
            self.before_renewal.as_ref().map(|before| before.as_ref().map(|(digest, _)| digest));
        // A token fresh from the authority is served with its true life, however slow the authority was.
        if let (Some(token), Some(before)) = (fallback, digest_before)
            && before != Some(&token.digest)
        {
            return Ok(Some(token));
        }
        let current = plan::pick(tokens, &want, ports.now());
        // The authority gave the rejected token again, and another call would bring it once more.
        if let (Some(Some((digest, since))), Some(token)) = (&self.before_renewal, current)
            && *digest == token.digest
            && *since < token.issued_at
            && want.rejected.as_ref() == Some(digest)
        {
            return Err(Refused::SameTokenAgain);
        }
        self.before_renewal = Some(current.map(|token| (token.digest.clone(), token.issued_at)));
        if self.renewals >= MOST_RENEWALS {
            return Err(self.given_up());
        }
        let waited = ports.monotonic().saturating_sub(self.begun);
        let patience = patience(fallback.is_some(), ports.settings().caller_wait).saturating_sub(waited);
        let force = plan::force(tokens, &want, ports.now());
        let way = match way(ports, at, want.by.as_ref(), force) {
            Ok(way) => way,
            Err(_) if plan::has_none(tokens, &want, ports.now()) => {
                self.is_plain = true;
                want.claims = None;
                Way::Begin(None)
            }
            // The budget has nothing left, so the living token is served.
            Err(_)
                if force == Some(Force::MoreLife)
                    && let Some(token) = fallback =>
            {
                return Ok(Some(token));
            }
            Err(wait) => return Err(Refused::TooManyForced(wait)),
        };
        self.renewals += 1;
        let waits = span::begin("wait for a refresh");
        let flight = match &waits {
            None => go(ports, at, &want, way),
            Some(span) => span.enter(|| go(ports, at, &want, way)),
        };
        let landed = span::within(waits.as_ref(), wait(ports, flight, patience)).await;
        drop(waits);
        match (landed, fallback) {
            (Some(Ok(())), _) => {}
            // A challenge that could not be met concerns nobody else, so it is not tried twice.
            (Some(Err(failure)), None) if want.claims.is_some() => return Err(refused(&failure)),
            (Some(Err(failure)), None) => self.last_failure = Some(failure),
            // Look again: the token may have been taken away during the wait.
            (Some(Err(_)) | None, Some(_)) => self.is_impatient = true,
            (None, None) => return Err(too_slow()),
        }
        Ok(None)
    }

    /// Where the token came from that it is served.
    fn source_of(&self, token: &HeldToken, held: &Arc<Held>) -> TokenSource {
        let has = |cached: &Arc<Held>| {
            Arc::ptr_eq(cached, held)
                || cached.connection.tokens.iter().any(|other| other.digest == token.digest)
        };
        if self.cached.as_ref().is_some_and(has) {
            return TokenSource::Memory;
        }
        // A renewal that this request waited for brought it, unless it was there before.
        let before = self.before_renewal.as_ref();
        let is_new = before.is_some_and(|before| before.as_ref().is_none_or(|(old, _)| *old != token.digest));
        if is_new { TokenSource::Authority } else { TokenSource::Store }
    }

    /// The request gives up after enough looks or renewals.
    fn given_up<E>(&self) -> Refused<E> {
        self.last_failure.as_ref().map_or_else(too_slow, |failure| refused(failure))
    }
}

/// How long a request waits for a renewal.
pub(super) fn patience(has_fallback: bool, caller_wait: Duration) -> Duration {
    if has_fallback { PATIENCE_WITH_FALLBACK.min(caller_wait) } else { caller_wait }
}

/// A token as it goes out to a caller, with one look at its slot.
fn served(
    ports: &Arc<Ports>,
    at: At<'_>,
    (token, by): (&HeldToken, Option<&CallerName>),
    (held, source): (&Arc<Held>, TokenSource),
    now: Duration,
) -> Served {
    let (degraded, is_noted) = {
        let mut state = at.state();
        if let Some(caller) = by {
            state.hand_outs.note(caller, now);
        }
        (state.memory.is_degraded(), state.usage.is_noted(now))
    };
    if !is_noted {
        note_use(ports, at, now);
    }
    let at = held.connection.tokens.iter().position(|one| std::ptr::eq(one, token));
    Served { held: held.clone(), at: at.expect("it is one of these"), degraded, source }
}

/// The renewal goes on; the request waits no longer.
fn too_slow<E>() -> Refused<E> {
    Refused::NotNow(NotNow::UnderWay)
}

/// The refusal for a failure.
fn refused<E>(failure: &Failure) -> Refused<E> {
    match failure {
        Failure::NotFound => Refused::NotFound,
        Failure::Repository(error) if error.is_damage() => Refused::Damaged,
        Failure::Repository(_) => Refused::Store,
        Failure::NotNow(why) => Refused::NotNow(*why),
        Failure::Authority(failure) => match failure.disposition {
            Disposition::Reauthorize(reason, _) => {
                Refused::NeedsReauthorization(reason, failure.answer.clone())
            }
            Disposition::Blocked(reason) => Refused::Blocked(reason, failure.answer.clone()),
            disposition => Refused::Authority { disposition, answer: failure.answer.clone() },
        },
    }
}

/// The refusal for a request for which the plan has no token.
fn why<E>(refusal: Refusal, held: &Held, want: &Want, failure: Option<Arc<Failure>>) -> Refused<E> {
    let profile = &held.connection.profile;
    let answer = || profile.last_error().map(|attempt| attempt.answer.clone()).unwrap_or_default();
    match refusal {
        Refusal::Paused => Refused::Paused,
        Refusal::ScopeNotGranted => {
            Refused::ScopeNotGranted(want.scopes.missing_from(&held.granted).to_words())
        }
        Refusal::NeedsReauthorization(reason) => Refused::NeedsReauthorization(reason, answer()),
        Refusal::Blocked(reason) => Refused::Blocked(reason, answer()),
        Refusal::Trouble => failure.map_or_else(too_slow, |failure| refused(&failure)),
    }
}
