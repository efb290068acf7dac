//! The kill switch at size: a tenant of many connections ends on every replica within seconds.

use std::collections::BTreeSet;
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
use crate::world::{Kept, Plan, Process, World, alone, until};

/// The promise of `revoke`: after this time no replica hands out a token of what was revoked.
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

/// Revokes a tenant of so many connections whose tokens two replicas hold. Returns how long it took until the
/// last of them had heard of it.
async fn a_tenant_ends_on_every_replica(count: usize) -> Duration {
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
    for daemon in daemons {
        until(daemon, "it is revoked", async || world.token_at(daemon, &name(0)).await.status == 404).await;
    }
    let took = since.elapsed();
    let served = ask_all(&world, &daemons, count).await;
    assert_eq!(served, BTreeSet::from([404]), "{}", other.log());
    took
}

#[tokio::test]
async fn a_tenant_of_two_hundred_ends_on_every_replica() {
    a_tenant_ends_on_every_replica(200).await;
}

/// `make revoke-load`: at size, and in time.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes minutes: `make revoke-load`"]
async fn a_tenant_of_ten_thousand_ends_on_every_replica_within_five_seconds() {
    let took = a_tenant_ends_on_every_replica(10_000).await;
    eprintln!(
        "10,000 connections on two replicas: the last replica had heard of it {took:?} after the answer"
    );
    assert!(took <= WITHIN);
}
