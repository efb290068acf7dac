//! The three causes of a renewal: a caller needs a token, the cause of a verdict may be gone, the schedule
//! says so.

use std::sync::Arc;
use std::time::Duration;

use super::failure::Failure;
use super::fly::fly;
use super::look::load;
use super::permit::CallPermit;
use super::plan::{self, Want};
use super::ports::Ports;
use super::schedule::{due_of, jitter, learn_idle_limit, primary_resource, schedule};
use super::slot::{At, Flight, Work};
use super::turn::with_lease;
use crate::domain::connection::Status;
use crate::domain::id::ConnectionKey;
use crate::domain::scope::ScopeSet;
use crate::domain::time::Timestamp;
use crate::domain::token::Freshness;
use crate::repository::Connection;

/// How much later a connection is tried whose tenant has waiting callers, or whose attempt failed for no
/// reason of its own.
const LATER: Duration = Duration::from_secs(30);
/// How often a connection is tried at once while another connection of its tenant is the probe.
const TRIES_NOW: u32 = 4;
/// How long such a connection waits for its turn at most.
const LONGEST_TURN: Duration = Duration::from_secs(5);

/// Joins the renewal under way for the connection, or starts one, with the permit of a forced one.
pub(super) fn start_renewal(
    ports: &Arc<Ports>,
    at: At<'_>,
    want: &Want,
    permit: Option<CallPermit>,
) -> Flight {
    note_use(ports, at, ports.monotonic());
    if permit.is_none() {
        at.slot.hurry();
    }
    let want = want.clone();
    fly(
        ports,
        at,
        Work::Renewal,
        |ports, owned| async move { renew(&ports, owned.at(), &want, permit).await },
    )
}

/// Uses the grant, unless another has just done so, and stores the answer before anyone sees it. While
/// another replica uses it, this waits for the outcome.
async fn renew(
    ports: &Arc<Ports>,
    at: At<'_>,
    want: &Want,
    permit: Option<CallPermit>,
) -> Result<(), Arc<Failure>> {
    let is_enough = |connection: &Connection| {
        let now = ports.now();
        plan::pick(&connection.tokens, want, now).is_some_and(|token| {
            token.freshness(now, want.min_ttl) == Freshness::Fresh
                && !plan::is_refused(token, want)
                && token.refresh_at.is_none_or(|at| at > now)
                && connection.profile.status() == Status::Active
        })
    };
    let may_try = |connection: &Connection| connection.profile.may_try(ports.now());
    let needed = |connection: &Connection| !is_enough(connection) && may_try(connection);
    let connection = with_lease(ports, at, want, permit.as_ref(), needed).await?;
    if connection.is_some_and(|connection| is_enough(&connection)) {
        at.state().troubles.worked(&want.resource); // somebody else's try went well
    }
    Ok(())
}

/// Starts an attempt whatever the verdict's time. If a renewal is under way, it began before this request, so
/// the attempt follows it.
pub(super) fn start_try_now(ports: &Arc<Ports>, at: At<'_>, permit: Option<CallPermit>) {
    let under_way = at.state().flights.under_way(Work::Renewal).cloned();
    let (by, owned) = (ports.clone(), at.owned());
    let again = async move {
        if let Some(flight) = under_way {
            let _ = flight.landed().await;
        }
        fly(&by, owned.at(), Work::Renewal, |ports, owned| async move {
            try_now(&ports, owned.at(), permit).await
        });
    };
    ports.spawn("try a connection again", again);
}

/// Uses the grant whatever the verdict's time, for the resource of the first connect.
async fn try_now(ports: &Arc<Ports>, at: At<'_>, permit: Option<CallPermit>) -> Result<(), Arc<Failure>> {
    let epoch = at.state().memory.epoch();
    let loaded = load(ports, at, epoch).await?;
    let want = plain_want(primary_resource(ports, at.key, &loaded.connection));
    let is_usable = |connection: &Connection| {
        connection.profile.status() != Status::Paused && !connection.profile.grant_destroyed()
    };
    let tenant = loaded.connection.profile.account().tid.as_deref();
    for _ in 1..TRIES_NOW {
        let outcome = with_lease(ports, at, &want, permit.as_ref(), is_usable).await;
        // While one connection tries for its whole tenant, the others wait for that. It does not take long.
        let refused = ports.breakers.refuses(&at.key.app, tenant, ports.monotonic());
        match (outcome, refused) {
            (Err(_), Some((left, _))) if left <= LONGEST_TURN => ports.sleep(left).await,
            (outcome, _) => return outcome.map(|_| ()),
        }
    }
    with_lease(ports, at, &want, permit.as_ref(), is_usable).await.map(|_| ())
}

/// Renews a scheduled connection if it still is due, and schedules it again.
pub(super) async fn renew_due(
    ports: &Arc<Ports>,
    at: At<'_>,
    used_at: Option<Timestamp>,
    permit: CallPermit,
) -> Result<(), Arc<Failure>> {
    let key = at.key;
    let epoch = at.state().memory.epoch();
    let loaded = match load(ports, at, epoch).await {
        Ok(loaded) => loaded,
        Err(failure) => {
            if matches!(*failure, Failure::NotFound) {
                schedule(ports, key, None).await;
            }
            return Err(failure);
        }
    };
    let tenant = loaded.connection.profile.account().tid.clone();
    learn_idle_limit(ports, &key.app, tenant.as_deref().unwrap_or_default()).await;
    let want = plain_want(primary_resource(ports, key, &loaded.connection));
    let is_due = |connection: &Connection| {
        due_of(ports, key, connection, used_at, 0.0).is_some_and(|at| at <= ports.now())
    };
    // Callers come first: a tenant whose permits are half taken has none to spare for this.
    if ports.breakers.is_busy(&key.app, tenant.as_deref()) {
        schedule(ports, key, Some(ports.now().plus(LATER))).await;
        return Ok(());
    }
    let outcome = with_lease(ports, at, &want, Some(&permit), is_due).await;
    let connection = match &outcome {
        Ok(Some(connection)) => Some(connection.clone()),
        Ok(None) => at.state().memory.cached().map(|held| held.connection.clone()),
        Err(_) => None,
    };
    let next = match connection {
        Some(connection) => due_of(ports, key, &connection, used_at, jitter(ports)),
        None => match &outcome {
            // A verdict's own commit has scheduled the connection.
            Err(failure) if failure.is_verdict() => return outcome.map(|_| ()),
            _ => Some(ports.now().plus(LATER.mul_f64(1.0 + jitter(ports)))),
        },
    };
    schedule(ports, key, next).await;
    outcome.map(|_| ())
}

/// Notes in the store, once in a while, that callers use the connection, so that it is renewed ahead of time.
pub(super) fn note_use(ports: &Arc<Ports>, at: At<'_>, now: Duration) {
    let is_due = at.state().usage.note(now);
    if is_due {
        let (by, key): (_, ConnectionKey) = (ports.clone(), at.key.clone());
        let note = async move {
            if let Err(error) = by.repository().mark_used(&key, by.now()).await {
                tracing::debug!(
                    %error,
                    "that a connection is used could not be noted; it is with its next refresh"
                );
            }
        };
        ports.spawn("note that a connection is used", note);
    }
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
        cae: true,
    }
}
