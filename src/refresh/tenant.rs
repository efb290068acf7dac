//! Work for all connections of a tenant: its turn at the bulkhead, throttles that replicas tell one another,
//! and the meaning of a call's end for its breaker.

use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::sync::OwnedSemaphorePermit;

use super::backoff;
use super::breaker::Ended;
use super::failure::Failure;
use super::plan::Want;
use super::ports::Ports;
use super::slot::At;
use crate::domain::id::AppName;
use crate::domain::not_now::NotNow;
use crate::domain::time::Timestamp;
use crate::domain::verdict::{AuthorityFailure, Disposition};
use crate::repository::{FiledUnder, Kind};

/// A place among the calls of a tenant.
pub(super) struct Turn {
    _spare: Option<OwnedSemaphorePermit>,
    _call: OwnedSemaphorePermit,
}

/// Waits for one of the tenant's permits, as long as a call may take. A call that the budget paid for first
/// waits for one of the spare permits, so it never stands before a caller without a token: its `hurried` ends
/// when such a caller joins it, and it goes on at once.
pub(super) async fn turn(
    ports: &Ports,
    app: &AppName,
    tenant: Option<&str>,
    hurried: Option<impl Future<Output = ()>>,
) -> Option<Turn> {
    let lanes = ports.breakers.lanes(app, tenant);
    let taken = async {
        let spare = match hurried {
            Some(hurried) => tokio::select! {
                biased;
                spare = lanes.spare.acquire_owned() => Some(spare.ok()?),
                () = hurried => None,
            },
            None => None,
        };
        Some(Turn { _spare: spare, _call: lanes.calls.acquire_owned().await.ok()? })
    };
    tokio::select! {
        biased;
        turn = taken => turn,
        () = ports.sleep(ports.settings().authority_timeout) => None,
    }
}

/// An authority's request not to be called, as replicas tell one another.
#[derive(Serialize, Deserialize)]
struct Hold {
    until: Timestamp,
    /// How long it was to last, since two clocks may differ.
    #[serde(default)]
    asked_millis: Option<u64>,
}

/// Learns whether the authority asked another replica not to call it for the tenant.
pub(super) async fn learn_throttle(ports: &Ports, app: &AppName, tenant: Option<&str>) {
    let id = FiledUnder::tenant(app, tenant);
    let Ok(Some(hold)) = ports.repository().pending::<Hold>(Kind::Hold, &id).await else { return };
    // A replica with a wrong clock throttles the others no longer than it was asked to wait.
    let asked = hold.value.asked_millis.map_or(backoff::LONGEST_ASKED, Duration::from_millis);
    let left = hold.value.until.since(ports.now()).min(asked).min(backoff::LONGEST_ASKED);
    if !left.is_zero() {
        let failure = Arc::new(Failure::NotNow(NotNow::AskedToWait(Some(left))));
        ports.breakers.throttle(app, tenant, ports.monotonic() + left, failure);
    }
}

/// Tells the other replicas that the authority asked not to be called for the tenant.
async fn tell_throttle(ports: &Ports, app: &AppName, tenant: Option<&str>, asked: Duration) {
    let now = ports.now();
    let asked_millis = u64::try_from(asked.as_millis()).ok();
    let hold = Hold { until: now.plus(asked), asked_millis };
    let id = FiledUnder::tenant(app, tenant);
    if let Err(error) = ports.repository().put_pending(Kind::Hold, &id, &hold, now, asked).await {
        tracing::warn!(%error, "other replicas are not told that the authority throttles");
    }
}

/// Tells the tenant's breaker how a call for a connection ended that began at `began` (monotonic).
pub(super) async fn call_ended(
    ports: &Ports,
    at: At<'_>,
    want: &Want,
    tenant: Option<&str>,
    began: Duration,
    failure: Option<Failure>,
) {
    let app = &at.key.app;
    let Some(failure) = failure else {
        ports.breakers.worked(app, tenant, ports.monotonic());
        return;
    };
    let ended = match &failure {
        Failure::Authority(failure) => match meaning(ports, app, began, failure, want.claims.is_some()) {
            Ended::Throttled(asked) => throttled(ports, at, tenant, asked, failure),
            ended => ended,
        },
        Failure::NotNow(_) | Failure::NotFound | Failure::Repository(_) => Ended::Nothing,
    };
    tell(ports, app, tenant, ended, Arc::new(failure)).await;
}

/// Tells the tenant's breaker how a call for a token of the app itself ended that began at `began`
/// (monotonic). It shows that tenant and app work, but of no grant that it does.
pub(super) async fn app_call_ended(
    ports: &Ports,
    app: &AppName,
    tenant: Option<&str>,
    began: Duration,
    failure: Option<&AuthorityFailure>,
) {
    let Some(failure) = failure else { return ports.breakers.answered(app, tenant) };
    let ended = match meaning(ports, app, began, failure, false) {
        Ended::Throttled(asked) => {
            let throttled = ports.breakers.throttled_for_one(app, tenant, None, asked);
            Ended::Throttled(backoff::wait(1, Some(throttled), ports.random()))
        }
        ended => ended,
    };
    tell(ports, app, tenant, ended, Arc::new(Failure::Authority(failure.clone()))).await;
}

async fn tell(ports: &Ports, app: &AppName, tenant: Option<&str>, ended: Ended, failure: Arc<Failure>) {
    ports.breakers.ended(app, tenant, ports.monotonic(), ended, &failure);
    if let Ended::Throttled(asked) = ended {
        tell_throttle(ports, app, tenant, asked).await;
    }
}

/// The meaning of a failed call beyond what it was for. `is_challenge`: it was made for a caller's challenge.
fn meaning(
    ports: &Ports,
    app: &AppName,
    began: Duration,
    failure: &AuthorityFailure,
    is_challenge: bool,
) -> Ended {
    match (failure.disposition, failure.answer.status) {
        (Disposition::Reauthorize(..) | Disposition::Blocked(_), _) => Ended::Answered,
        (Disposition::RetryAfter(Some(asked)), Some(429)) => Ended::Throttled(asked),
        (Disposition::NextCredential, _) if ports.breakers.is_mended_since(app, began) => Ended::Nothing,
        (Disposition::NextCredential, _) => Ended::AppRejected,
        // An answer is no outage, whatever it says: ended grants must not look like one.
        (_, _) if failure.answer.is_refusal() => Ended::Refused,
        // An unusable answer is none either.
        (_, Some(200..=299)) => Ended::Refused,
        // A failure after a caller's challenge says nothing about other calls.
        (Disposition::RetryAfter(_) | Disposition::OutcomeUnknown, _) if is_challenge => Ended::Nothing,
        (Disposition::RetryAfter(_) | Disposition::OutcomeUnknown, _) => Ended::Failed,
        (
            Disposition::Misconfigured
            | Disposition::Restart
            | Disposition::CallerFault
            | Disposition::Unclear
            | Disposition::Bug,
            _,
        ) => Ended::Nothing,
    }
}

/// The authority asked not to be called for `asked`. That holds for the connection in any case. If callers
/// forced renewals of it lately, it holds for that connection alone.
fn throttled(
    ports: &Ports,
    at: At<'_>,
    tenant: Option<&str>,
    asked: Duration,
    failure: &AuthorityFailure,
) -> Ended {
    let random = ports.random();
    let now = ports.monotonic();
    let is_forced = {
        let mut state = at.state();
        state.troubles.throttle(asked, failure.clone(), now, random);
        state.forced.lately(now)
    };
    if is_forced {
        return Ended::Nothing;
    }
    let held = ports.breakers.throttled_for_one(&at.key.app, tenant, Some(&at.key.connection), asked);
    Ended::Throttled(backoff::wait(1, Some(held), random))
}
