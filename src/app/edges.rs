//! What each listener serves: figures and probes, browsers, callers, operators.

use std::sync::Arc;
use std::time::Duration;

use super::listeners::BoundListeners;
use super::parts::Parts;
use super::process::Process;
use super::upkeep::Keeper;
use crate::api::admin::{AdminApi, Consoles};
use crate::api::{CallersUrl, LocalApi};
use crate::callers::limit::Limiter;
use crate::domain::task::BoxFuture;
use crate::ops::Ops;
use crate::public::PublicSite;

/// How long browsers and callers wait in the kernel for a daemon that has just started, at most. It is ready
/// within milliseconds if the store answers; who came before would get 503.
const OPENS: Duration = Duration::from_secs(2);
/// How often it is asked meanwhile whether it is ready.
const LOOK: Duration = Duration::from_millis(5);

/// Begins to serve: figures, probes and operators at once, since they see what is not ready yet; browsers and
/// callers once the daemon is ready.
pub(super) fn serve(listeners: BoundListeners, parts: &Parts) {
    let Parts { process, keyring, events, .. } = parts;
    let (broker, roster, tasks) = (&parts.core.broker, parts.in_force.roster(), &process.tasks);
    let (clock, random) = (&process.ports.clock, &process.ports.random);

    let configured = parts.in_force.config().listen.issuer.clone();
    let url = CallersUrl { issuer: listeners.issuer(&parts.in_force.config().listen), configured };
    let places = listeners.console_places(&parts.in_force.config().listen);
    let consoles = Arc::new(Consoles::new(places, random.clone()));
    let ops = Ops::new(process.metrics.clone(), process.readiness.clone(), clock.clone());
    listeners.ops.serve(Arc::new(ops), process.surroundings());

    let site = PublicSite::new(
        broker.clone(),
        keyring.clone(),
        random.clone(),
        clock.clone(),
        events.clone(),
        parts.in_force.look(),
    );
    listeners.public.serve_after(ready(process), Arc::new(site), process.surroundings());

    let limiter = Arc::new(Limiter::default());
    for (listener, accepted) in listeners.local {
        let local = LocalApi::new(
            broker.clone(),
            roster.callers.clone(),
            accepted,
            limiter.clone(),
            clock.clone(),
            events.clone(),
            url.clone(),
        );
        listener.serve_after(ready(process), local.handler(tasks.clone()), process.surroundings());
    }

    let own_uids = vec![0, rustix::process::geteuid().as_raw()];
    let keeper = Arc::new(Keeper::new(parts));
    for (listener, accepted) in listeners.admin {
        let admin = AdminApi::new(
            broker.clone(),
            roster.callers.clone(),
            roster.admins.clone(),
            own_uids.clone(),
            accepted,
            clock.clone(),
            events.clone(),
            keeper.clone(),
            consoles.clone(),
        );
        listener.serve(admin.handler(tasks.clone()), process.surroundings());
    }
}

/// Completes once the process is ready, or has had its time.
fn ready(process: &Process) -> BoxFuture<'static, ()> {
    let (readiness, clock) = (process.readiness.clone(), process.ports.clock.clone());
    Box::pin(async move {
        let at_latest = clock.monotonic() + OPENS;
        while !readiness.is_ready() && clock.monotonic() < at_latest {
            clock.sleep(LOOK).await;
        }
    })
}
