//! Client credentials beside the requests: each is proven before users' refreshes depend on it, and shown.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use super::Parts;
use crate::domain::credential::warning;
use crate::domain::id::AppName;
use crate::domain::task::Tasks;
use crate::telemetry::metrics::Metrics;

/// How often it is looked whether one is to be proven, and how they stand.
const LOOK: Duration = Duration::from_secs(1);

/// Proves and shows them, once a second, for as long as the daemon runs. An authority that hangs holds up no other's.
pub(super) fn watch(parts: &Parts, metrics: Arc<Metrics>) {
    let (authorities, engine) = (parts.reloader.authorities.clone(), parts.engine.clone());
    let (clock, shutdown, tasks) = (parts.clock.clone(), parts.shutdown.clone(), parts.tasks.clone());
    let under_way: Arc<std::sync::Mutex<BTreeSet<AppName>>> = Arc::default();
    let watch = async move {
        let mut shown: BTreeSet<(AppName, String)> = BTreeSet::new();
        let mut warned: BTreeMap<(AppName, String), u32> = BTreeMap::new();
        loop {
            let mut there = BTreeSet::new();
            for (app, installed) in authorities.load().iter() {
                let now = clock.now();
                for one in installed.authority.credentials().report(now) {
                    metrics.credential_expiry(app, &one.label, one.standing.expires_at);
                    metrics.credential_state(app, &one.label, one.state, one.in_use);
                    if let Some(at) = one.standing.used_at {
                        metrics.credential_used(app, &one.label, at);
                    }
                    let key = (app.clone(), one.label);
                    if let Some(days) = one.standing.expires_at.and_then(|at| warning(at, now))
                        && warned.insert(key.clone(), days).is_none_or(|before| days < before)
                    {
                        tracing::warn!(%app, credential = key.1, days, "a client credential expires within so many days; add the next one now");
                    }
                    there.insert(key);
                }
                let is_mine = under_way.lock().is_ok_and(|mut under_way| under_way.insert(app.clone()));
                if is_mine {
                    let (authority, engine) = (installed.authority.clone(), engine.clone());
                    let (app, under_way) = (app.clone(), under_way.clone());
                    let prove = async move {
                        if authority.prove_credentials().await {
                            engine.app_is_mended(&app);
                        }
                        if let Ok(mut under_way) = under_way.lock() {
                            under_way.remove(&app);
                        }
                    };
                    tasks.spawn("prove client credentials", Box::pin(prove));
                }
            }
            for (app, label) in shown.difference(&there) {
                metrics.credential_gone(app, label);
            }
            shown = there;
            tokio::select! {
                () = clock.sleep(LOOK) => {}
                () = shutdown.soft().cancelled() => return,
            }
        }
    };
    parts.tasks.spawn("watch client credentials", Box::pin(watch));
}
