//! What each listener serves: figures and probes, browsers, callers, operators.

use std::sync::Arc;

use super::listeners::BoundListeners;
use super::parts::Parts;
use super::upkeep::Keeper;
use crate::api::LocalApi;
use crate::api::admin::AdminApi;
use crate::callers::limit::Limiter;
use crate::ops::Ops;
use crate::public::PublicSite;

/// Begins to serve. The ops listener is first, since it says what is not ready yet.
pub(super) fn serve(listeners: BoundListeners, parts: &Parts) {
    let Parts { process, keyring, events, .. } = parts;
    let (broker, roster, tasks) = (&parts.core.broker, parts.in_force.roster(), &process.tasks);
    let (clock, random) = (&process.ports.clock, &process.ports.random);

    let ops = Ops::new(process.metrics.clone(), process.readiness.clone(), clock.clone());
    listeners.ops.serve(Arc::new(ops), process.surroundings());

    let site =
        PublicSite::new(broker.clone(), keyring.clone(), random.clone(), clock.clone(), events.clone());
    listeners.public.serve(Arc::new(site), process.surroundings());

    let local = LocalApi::new(
        broker.clone(),
        roster.callers.clone(),
        Limiter::default(),
        clock.clone(),
        events.clone(),
    );
    let local = local.handler(tasks.clone());
    for listener in listeners.local {
        listener.serve(local.clone(), process.surroundings());
    }

    let own_uids = vec![0, rustix::process::geteuid().as_raw()];
    let admin = AdminApi::new(
        broker.clone(),
        roster.callers.clone(),
        roster.admins.clone(),
        own_uids,
        clock.clone(),
        events.clone(),
        Arc::new(Keeper::new(parts)),
    );
    let admin = admin.handler(tasks.clone());
    for listener in listeners.admin {
        listener.serve(admin.clone(), process.surroundings());
    }
}
