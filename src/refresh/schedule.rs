//! Writes the time at which a connection is due into the store's schedule. Also learns how long idle grants
//! of a tenant last.

use std::ops::Range;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::due;
use super::ports::Ports;
use crate::domain::connection::{Profile, Status};
use crate::domain::id::{AppName, ConnectionKey};
use crate::domain::random::random_bytes;
use crate::domain::time::Timestamp;
use crate::domain::token::HeldToken;
use crate::domain::verdict::ReauthReason;
use crate::repository::{Connection, FiledUnder, Kind};
use crate::store::Revision;

/// The idle times that count as an idle limit. A longer one is Entra's own (90 days,
/// configurable-token-lifetimes). A grant that was used within a day ended for another reason.
const IDLE: Range<Duration> = Duration::from_secs(86_400)..Duration::from_secs(80 * 86_400);
/// How long a tenant's idle limit is kept; then it is tried anew.
const LIMIT_KEPT: Duration = Duration::from_secs(180 * 86_400);
/// Sets when a connection is due. If that cannot be written, the earlier time stays, which is sooner.
pub(super) async fn schedule(ports: &Ports, key: &ConnectionKey, due_at: Option<Timestamp>) {
    if let Err(error) = ports.repository().schedule(key, due_at).await {
        tracing::debug!(%error, "a connection could not be scheduled");
    }
}

/// Schedules a connection that its user's sign-in is about to make, since somebody will use it.
pub(super) async fn expect(ports: &Ports, key: &ConnectionKey, profile: &Profile, tokens: &[HeldToken]) {
    let connection = Connection {
        revision: Revision { sign_in: profile.sign_in(), generation: 0, nonce: [0; 16] },
        profile: profile.clone(),
        tokens: tokens.to_vec(),
    };
    let now = ports.now();
    schedule(ports, key, due_of(ports, key, &connection, Some(now), jitter(ports))).await;
    // It counts as used, since the caller that started the session will ask for it.
    if let Err(error) = ports.repository().mark_used(key, now).await {
        tracing::debug!(%error, "a new connection is not noted as used until it is");
    }
}

/// When a connection is due next; `jitter` from 0 to 1.
pub(super) fn due_of(
    ports: &Ports,
    key: &ConnectionKey,
    connection: &Connection,
    used_at: Option<Timestamp>,
    jitter: f64,
) -> Option<Timestamp> {
    let tenant = connection.profile.account().tid.clone().unwrap_or_default();
    let limit = ports.idle_limits.of(&key.app, tenant);
    let resource = primary_resource(ports, key, connection);
    let now = ports.now();
    due::due_at(&connection.profile, &connection.tokens, resource.as_deref(), used_at, limit, now, jitter)
}

/// The resource that a connection was made for, and is judged by.
pub(super) fn primary_resource(
    ports: &Ports,
    key: &ConnectionKey,
    connection: &Connection,
) -> Option<String> {
    let authority = ports.authority(&key.app)?;
    let naming = authority.scope_naming();
    let granted = naming.scopes_lossy(connection.profile.scopes_granted().iter().map(String::as_str));
    naming.primary_resource(&granted)
}

/// A random number from 0 to 1.
pub(super) fn jitter(ports: &Ports) -> f64 {
    f64::from(u16::from_be_bytes(random_bytes(ports.random()))) / f64::from(u16::MAX)
}

/// An idle limit, as it is stored.
#[derive(Serialize, Deserialize)]
struct IdleLimit {
    seconds: u64,
}

/// Learns an idle limit of the tenant that another process noted.
pub(super) async fn learn_idle_limit(ports: &Ports, app: &AppName, tenant: &str) {
    let one = (app.clone(), tenant.to_owned());
    if ports.idle_limits.knows(&one) {
        return;
    }
    let id = FiledUnder::tenant(app, Some(tenant));
    let Ok(found) = ports.repository().pending::<IdleLimit>(Kind::IdleLimit, &id).await else { return };
    ports.idle_limits.learn(one, found.map(|found| Duration::from_secs(found.value.seconds)));
}

/// A grant ended. If it ended by age, and sooner than idle grants should, the tenant's other grants are used
/// more often from now on.
pub(super) async fn note_idle_limit(ports: &Ports, app: &AppName, profile: &Profile) {
    let now = ports.now();
    let lasted = now.since(profile.last_refreshed_at());
    if profile.status() != Status::NeedsReauthorization(ReauthReason::GrantExpired) || !IDLE.contains(&lasted)
    {
        return;
    }
    let tenant = profile.account().tid.clone().unwrap_or_default();
    learn_idle_limit(ports, app, &tenant).await;
    if !ports.idle_limits.note(app, tenant.clone(), lasted) {
        return;
    }
    let id = FiledUnder::tenant(app, Some(&tenant));
    let limit = IdleLimit { seconds: lasted.as_secs() };
    let kept = ports.repository().put_pending(Kind::IdleLimit, &id, &limit, now, LIMIT_KEPT).await;
    if let Err(error) = kept {
        tracing::warn!(%error, "how long grants of a tenant last could not be noted");
    }
}
