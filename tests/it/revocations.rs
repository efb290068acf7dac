//! The kill switch at size: a tenant of many connections ends on every replica within seconds.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use futures_util::{StreamExt as _, stream};
use http::Method;
use serde_json::json;
use tokenward::domain::digest::sha256_hex;
use tokenward::domain::secret::AccessToken;
use tokenward::domain::time::Clock as _;
use tokenward::domain::token::HeldToken;
use tokenward::system::SystemClock;

use crate::attacks_rights::operate;
use crate::filling::{TENANT, fill, name};
use crate::world::{Kept, Plan, Process, World, alone};

/// Within this time no replica hands out a token of what was revoked (the promise of `revoke`).
const WITHIN: Duration = Duration::from_secs(5);
/// Requests under way at once.
const AT_ONCE: usize = 32;

/// A token that lives through the test, as Entra's for Graph.
fn token() -> HeldToken {
    let (now, text) = (SystemClock::new().now(), "t".repeat(1500));
    HeldToken {
        digest: sha256_hex(text.as_bytes()),
        access_token: AccessToken::new(text),
        uti: None,
        issued_at: now,
        expires_at: now.plus(Duration::from_secs(86_400)),
        refresh_at: None,
        scopes: vec!["Mail.Read".to_owned()],
        resource: Some("https://graph.microsoft.com".to_owned()),
        answers_claims: None,
        got_for: None,
        cae: true,
    }
}

/// Asks each of these daemons for a token of each connection, and returns the statuses that came.
async fn ask_all(world: &World, daemons: &[&Process], count: usize) -> BTreeSet<u16> {
    let asked = daemons.iter().flat_map(|daemon| (0..count).map(move |number| (*daemon, number)));
    stream::iter(asked)
        .map(async |(daemon, number)| world.token_at(daemon, &name(number)).await.status.as_u16())
        .buffer_unordered(AT_ONCE)
        .collect()
        .await
}

async fn a_tenant_ends_on_every_replica(count: usize) {
    let _alone = alone().await;
    let world = Plan::default().kept(Kept::Redis).start().await;
    let other = world.replica("second").await;
    let redis = world.redis.as_ref().expect("redis");
    fill(redis, world.folder.path(), count, TENANT, &[token()]);
    let daemons = [&world.daemon, &other];
    let held = ask_all(&world, &daemons, count).await;
    assert_eq!(held, BTreeSet::from([200]), "{}", world.daemon.log());

    let revoked = operate(&world, Method::POST, "/admin/v1/revocations", json!({ "tenant": TENANT })).await;
    assert_eq!(revoked.status, 200, "{}", revoked.text());
    let since = Instant::now();
    // Callers go on asking meanwhile, for all of them in turn.
    let (next, last) = (AtomicUsize::new(0), Arc::new(AtomicUsize::new(0)));
    let callers = (0..AT_ONCE).map(async |caller| {
        while since.elapsed() < WITHIN {
            let number = next.fetch_add(1, Ordering::Relaxed) % count;
            if world.token_at(daemons[caller % 2], &name(number)).await.status == 200 {
                last.fetch_max(since.elapsed().as_millis() as usize, Ordering::Relaxed);
            }
        }
    });
    futures_util::future::join_all(callers).await;
    let served = ask_all(&world, &daemons, count).await;
    eprintln!(
        "{count} connections on two replicas: the last hand-out came {} ms after the answer to `revoke`",
        last.load(Ordering::Relaxed)
    );
    assert_eq!(served, BTreeSet::from([404]), "{}", other.log());
}

#[tokio::test]
async fn a_tenant_of_two_hundred_ends_on_every_replica_within_five_seconds() {
    a_tenant_ends_on_every_replica(200).await;
}

/// `make revoke-load`: at size.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes minutes: `make revoke-load`"]
async fn a_tenant_of_ten_thousand_ends_on_every_replica_within_five_seconds() {
    a_tenant_ends_on_every_replica(10_000).await;
}
