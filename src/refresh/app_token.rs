//! Tokens of the app itself. They are kept in memory and nowhere else, because a new one costs one call and
//! ends nothing. Everything about the tenant is shared with the refreshes of its users: the circuit breaker,
//! the throttles, the places and the budget.
//!
//! A renewal is a task of its own, at most one for each tenant and resource of an app. It begins behind an
//! answer, or by a timer if the token was asked for within a day. A living token is served when its renewal
//! fails.

mod held;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

pub(super) use self::held::AppTokens;
use super::answer::held_token;
use super::breaker::Admission;
use super::failure::Failure;
use super::fly::{REFRESH, tell_outcome, wait};
use super::observer::Lookup;
use super::permit::CallPermit;
use super::plan::{self, ORDINARY_MIN_TTL, Step};
use super::ports::Ports;
use super::serve::{TokenSource, patience};
use super::slot::Flight;
use super::tenant;
use super::turn::{PATIENCE_WITH_PROBE, await_probe};
use crate::authority::AppTokenRequest;
use crate::domain::app_only::AppResource;
use crate::domain::cause::Cause;
use crate::domain::id::{AppName, CallerName};
use crate::domain::not_now::NotNow;
use crate::domain::token::HeldToken;
use crate::span::{self, Span, Value, key as attribute};

/// Longest wait for the store's word on what other replicas were told. Without it the call is made.
const THROTTLE_KNOWN_WITHIN: Duration = Duration::from_millis(500);

/// What a token of the app itself is for.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct AppTokenKey {
    /// The app.
    pub app: AppName,
    /// The tenant by its id or domain; `None` if the authority has no tenants.
    pub tenant: Option<String>,
    /// The resource; `None` leaves it to the authority.
    pub resource: Option<AppResource>,
}

/// A token of the app itself, to hand out.
#[derive(Clone)]
pub struct ServedAppToken {
    /// The token.
    pub token: Arc<HeldToken>,
    /// Where it came from; never from the store.
    pub source: TokenSource,
}

/// Why there is no token of the app itself.
#[derive(Debug, Clone)]
pub enum NoAppToken {
    /// The app is not configured.
    NoApp,
    /// The revocations are not known: the store has not answered for too long.
    Store,
    /// The call failed, or is not made now.
    Failed(Arc<Failure>),
}

/// A token for `key`. With a living token a request waits for a renewal as a connection's does.
pub(super) async fn serve(
    ports: &Arc<Ports>,
    held: &Arc<AppTokens>,
    key: &AppTokenKey,
    by: &CallerName,
    min_ttl: Duration,
) -> Result<ServedAppToken, NoAppToken> {
    if !ports.knows_app(&key.app) {
        return Err(NoAppToken::NoApp);
    }
    let settings = ports.settings();
    // (A replica that is cut off from the store would not learn of a revocation.)
    if !ports.revoked.is_known_since(ports.monotonic(), settings.serve_cached_for) {
        return Err(NoAppToken::Store);
    }
    let known = held.look(key, &registration(ports, &key.app), ports.monotonic());
    let (token, now) = (known.token.as_deref(), ports.now());
    let due = token.is_some_and(|token| token.refresh_at.is_some_and(|at| at <= now));
    let step = plan::of_token(token, min_ttl, now, known.trouble.is_none(), known.is_failing, due);
    ports.deps.observer.cache_lookup(match step {
        Some(Step::Serve { renew: false, .. }) => Lookup::Hit,
        Some(Step::Serve { renew: true, .. }) => Lookup::Stale,
        Some(Step::Renew { .. } | Step::Refuse(_)) | None => Lookup::Miss,
    });
    let as_it_is = |token: &Option<Arc<HeldToken>>| {
        let token = token.clone().expect("the step has a token");
        Ok(ServedAppToken { token, source: TokenSource::Memory })
    };
    let has_fallback = match step {
        Some(Step::Serve { renew, .. }) => {
            if renew {
                start_renewal(ports, held, key, None, || span::begin(REFRESH));
            }
            return as_it_is(&known.token);
        }
        Some(Step::Renew { fallback }) => fallback.is_some(),
        Some(Step::Refuse(_)) | None => {
            let why = known.trouble.unwrap_or_else(|| Arc::new(NotNow::UnderWay.into()));
            return Err(NoAppToken::Failed(why));
        }
    };
    // A renewal that would be made by now without any request takes nothing from the budget.
    let is_forced = min_ttl > ORDINARY_MIN_TTL && token.is_some_and(|token| !plan::is_due(token, now));
    let permit = match has_fallback && is_forced {
        false => None,
        true => match ports.take(Cause::MinTtl, Some(by), false) {
            Ok(permit) => Some(permit),
            Err(_) => return as_it_is(&known.token),
        },
    };
    let flight = start_renewal(ports, held, key, permit, || span::begin(REFRESH));
    let outcome = wait(ports, flight, patience(has_fallback, settings.caller_wait)).await;
    // What lives now is served with its true life, and also when its renewal failed.
    match (held.living(key, ports.now()), outcome) {
        (Some(new), _) if token.is_none_or(|token| token.digest != new.digest) => {
            Ok(ServedAppToken { token: new, source: TokenSource::Authority })
        }
        (Some(_), _) => as_it_is(&known.token),
        (None, Some(Err(failure))) => Err(NoAppToken::Failed(failure)),
        (None, Some(Ok(())) | None) => Err(NoAppToken::Failed(Arc::new(NotNow::UnderWay.into()))),
    }
}

/// Starts the renewals that are due of tokens that were asked for lately, so that nobody waits for one. Their
/// calls take from the budget of all renewals that nobody waits for.
pub(super) fn renew_ahead(ports: &Arc<Ports>, held: &Arc<AppTokens>) {
    let settings = ports.settings();
    let is_current = ports.revoked.is_known_since(ports.monotonic(), settings.serve_cached_for);
    if settings.sweep_rate <= 0.0 || !is_current {
        return;
    }
    for key in held.due((ports.now(), ports.monotonic()), |app| registration(ports, app)) {
        let Ok(permit) = ports.take(Cause::Sweep, None, false) else { return };
        start_renewal(ports, held, &key, Some(permit), || ports.deps.tracer.root(REFRESH));
    }
}

/// Joins the renewal under way, or starts one, with the span that `begin` begins. `permit` is spent when the
/// authority is called.
fn start_renewal(
    ports: &Arc<Ports>,
    held: &Arc<AppTokens>,
    key: &AppTokenKey,
    permit: Option<CallPermit>,
    begin: impl FnOnce() -> Option<Span>,
) -> Flight {
    let mut start = None;
    let flight = held.join(key, (ports.now(), ports.monotonic()), |landing| start = Some(landing));
    let Some(landing) = start else { return flight };
    let span = begin();
    let (ports, held, key) = (ports.clone(), held.clone(), key.clone());
    let task = {
        let ports = ports.clone();
        async move {
            let (registration, learnt) = (registration(&ports, &key.app), ports.revoked.learnt());
            let got = span::within(span.as_ref(), renew(&ports, &key, permit.as_ref())).await;
            let outcome = match got {
                Ok(token) => {
                    // What an operator revoked meanwhile is not kept.
                    let is_revoked =
                        || ports.revoked.any(|revocation| held::is_meant(revocation, &key, &token));
                    if ports.revoked.learnt() == learnt || !is_revoked() {
                        held.put(&key, registration, token);
                    }
                    Ok(())
                }
                Err((failure, left)) => {
                    let failures = held.failed(&key, &failure, left, ports.monotonic(), ports.random());
                    warn(&key, &failure, failures);
                    Err(failure)
                }
            };
            if let Some(span) = &span {
                span.set(attribute::APP, Value::App(&key.app));
                tell_outcome(span, &outcome);
            }
            landing.land(outcome);
        }
    };
    ports.spawn("get a token of the app itself", task);
    flight
}

/// Calls the authority when it is the tenant's turn. A failure comes with how long the tenant's breaker is
/// open, if that is the reason.
async fn renew(
    ports: &Ports,
    key: &AppTokenKey,
    permit: Option<&CallPermit>,
) -> Result<HeldToken, (Arc<Failure>, Option<Duration>)> {
    let (app, tenant) = (&key.app, key.tenant.as_deref());
    let not_now = |why: NotNow| (Arc::new(Failure::from(why)), None);
    let authority = ports.authority(app).ok_or((Arc::new(Failure::NotFound), None))?;
    await_probe(ports, app, tenant, ports.monotonic() + PATIENCE_WITH_PROBE).await;
    if let Some((left, failure)) = ports.breakers.refuses(app, tenant, ports.monotonic()) {
        return Err((failure, Some(left)));
    }
    let hurried = permit.map(|_| std::future::pending());
    let Some(_turn) = tenant::turn(ports, app, tenant, hurried).await else {
        return Err(not_now(NotNow::Crowded));
    };
    if ports.repository().is_shared() {
        tokio::select! {
            biased;
            () = tenant::learn_throttle(ports, app, tenant) => {}
            () = ports.sleep(THROTTLE_KNOWN_WITHIN) => {}
        }
    }
    if let Admission::Wait(left, failure) = ports.breakers.admit(app, tenant, ports.monotonic()) {
        return Err((failure, Some(left)));
    }
    if let Some(permit) = permit {
        permit.spend();
    }
    let began = ports.monotonic();
    let answer = authority.app_token(AppTokenRequest { tenant, resource: key.resource.as_ref() }).await;
    tenant::app_call_ended(ports, app, tenant, began, answer.as_ref().err()).await;
    match answer {
        Ok(answer) => {
            if let Some(rule) = answer.remarks.words() {
                tracing::warn!(%app, tenant, rule, "an answer with a token of the app itself is odd");
            }
            Ok(held_token(answer, key.resource.as_ref().map(ToString::to_string)))
        }
        Err(failure) => Err((Arc::new(Failure::Authority(failure)), None)),
    }
}

fn registration(ports: &Ports, app: &AppName) -> String {
    ports.authority(app).map(|authority| authority.registration()).unwrap_or_default()
}

/// Logs the first failure of several in a row.
fn warn(key: &AppTokenKey, failure: &Failure, failures: u32) {
    let AppTokenKey { app, tenant, resource } = key;
    let resource = resource.as_ref().map(AppResource::as_str);
    if failures == 1 {
        tracing::warn!(%app, tenant, resource, %failure, "the app got no token of its own");
    } else {
        tracing::debug!(%app, tenant, resource, %failure, failures, "the app got no token of its own");
    }
}
