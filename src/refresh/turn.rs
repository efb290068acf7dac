//! The turn of a connection to use its grant: first the tenant's turn, then the connection's lease.

use std::sync::Arc;
use std::time::Duration;

use super::breaker::Admission;
use super::failure::Failure;
use super::grant::{Seen, note_trouble, noted, use_grant};
use super::lease::{Lease, Taken};
use super::look::load;
use super::permit::CallPermit;
use super::plan::Want;
use super::ports::Ports;
use super::slot::At;
use super::{durable, tenant};
use crate::domain::id::AppName;
use crate::domain::not_now::NotNow;
use crate::repository::Connection;

/// Longest wait for the other replica's message before its lease is requested again, since a message may be
/// lost.
const UNTOLD: Duration = Duration::from_secs(1);
/// Shortest pause between two requests for a lease that is about to end.
const SHORTEST_WAIT: Duration = Duration::from_millis(20);
/// Longest wait for the tenant's probe, which another call makes.
pub(super) const PATIENCE_WITH_PROBE: Duration = Duration::from_secs(2);

/// Takes the connection's lease and uses its grant, if that is still `needed` then; otherwise it returns the
/// connection. While another replica has the lease, this waits for that replica's message. `permit` is spent
/// when the authority is called.
pub(super) async fn with_lease(
    ports: &Arc<Ports>,
    at: At<'_>,
    want: &Want,
    permit: Option<&CallPermit>,
    needed: impl Fn(&Connection) -> bool,
) -> Result<Option<Connection>, Arc<Failure>> {
    let key = at.key;
    let begun = ports.monotonic();
    let probe_deadline = begun + PATIENCE_WITH_PROBE;
    let mut is_refuted = false;
    loop {
        durable::offer(ports, at).await?;
        let told = at.slot.told();
        let (epoch, at_hand) = {
            let state = at.state();
            (state.memory.epoch(), state.memory.at_hand(ports.monotonic()))
        };
        // A record that was read a moment ago will do: the lease's answer says whether it is still stored.
        let loaded = match at_hand.filter(|_| !is_refuted) {
            Some(loaded) => loaded,
            None => load(ports, at, epoch)
                .await
                .inspect_err(|failure| note_trouble(ports, at, want, failure, None))?,
        };
        let profile = &loaded.connection.profile;
        if ports.revoked.covers(key, profile) {
            return Err(Arc::new(Failure::NotFound));
        }
        if !needed(&loaded.connection) {
            return Ok(Some(loaded.connection));
        }
        let tenant = profile.account().tid.as_deref();
        let monotonic = ports.monotonic();
        // A living holder prolongs its lease, and a dead one loses it. Both show within this time.
        if monotonic.saturating_sub(begun) > ports.settings().lease * 2 {
            return Err(noted(ports, at, want, NotNow::LeaseElsewhere.into()));
        }
        if let Some(throttled) = at.state().troubles.throttled(monotonic) {
            return Err(throttled.failure.clone());
        }
        await_probe(ports, &key.app, tenant, probe_deadline).await;
        if let Some((left, failure)) = ports.breakers.refuses(&key.app, tenant, ports.monotonic()) {
            note_trouble(ports, at, want, &failure, Some(left));
            return Err(failure);
        }
        // Before the lease, so that no holder of a lease waits for its tenant's turn.
        let spare = permit.map(|_| at.slot.hurried());
        let Some(turn) = tenant::turn(ports, &key.app, tenant, spare).await else {
            return Err(noted(ports, at, want, NotNow::Crowded.into()));
        };
        let (taken, ()) =
            tokio::join!(Lease::take(ports, key), tenant::learn_throttle(ports, &key.app, tenant));
        match taken.map_err(|error| noted(ports, at, want, Failure::Repository(error.into())))? {
            Taken::Mine(lease) => {
                // Another replica may have just used the grant, and a failover may have rolled the store
                // back.
                let ours = Some(loaded.connection.revision);
                if lease.stored != ours || at.state().memory.cached_revision() != ours {
                    lease.release(ports, key, true).await;
                    is_refuted = true;
                    continue;
                }
                if let Admission::Wait(left, failure) =
                    ports.breakers.admit(&key.app, tenant, ports.monotonic())
                {
                    lease.release(ports, key, true).await;
                    note_trouble(ports, at, want, &failure, Some(left));
                    return Err(failure);
                }
                let seen = Seen { epoch, loaded };
                return use_grant(ports, at, seen, (want, permit), lease).await.map(|()| None);
            }
            Taken::Theirs(left) => {
                is_refuted = true; // the holder is about to change it
                drop(turn); // waiting uses up nobody's turn
                tokio::select! {
                    biased;
                    () = told => {}
                    () = ports.sleep(left.clamp(SHORTEST_WAIT, UNTOLD)) => {}
                }
            }
        }
    }
}

/// Waits, until `until` (monotonic), for the tenant's probe to end.
pub(super) async fn await_probe(ports: &Ports, app: &AppName, tenant: Option<&str>, until: Duration) {
    let mut now = ports.monotonic();
    while now < until
        && let Some(ended) = ports.breakers.probe(app, tenant, now)
    {
        tracing::debug!(%app, tenant, "a call waits for the tenant's probe");
        tokio::select! {
            biased;
            () = ended => {}
            () = ports.sleep(until - now) => {}
        }
        now = ports.monotonic();
    }
}
