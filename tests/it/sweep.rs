//! The sweep renews connections before anybody asks: each once, by any replica.

use std::time::Duration;

use tokenward::domain::time::Clock;
use tokenward::system::SystemClock;

use crate::world::{ALICE, Kept, Plan, World, until};

async fn sweeping(kept: Kept, life: Duration) -> World {
    let mut plan = Plan::default().kept(kept).token_life(life);
    plan.files.push(("sweep", String::new()));
    plan.start().await
}

/// Nobody asks, and the token that is there is renewed ahead of its end, on either store.
async fn renewed_ahead(kept: Kept) {
    let life = Duration::from_secs(3600);
    let world = sweeping(kept, life).await;
    world.connect("used", ALICE).await;
    let first = world.access_token("used").await;
    world.entra.clear_ledger();
    world.pass(life - Duration::from_secs(300));
    world.until_called("refresh_token", 1).await;
    world.until("it is stored", async || world.access_token("used").await != first).await;
    assert_eq!(world.token_calls("refresh_token"), 1, "{}", world.daemon.log());
    let metrics = world.metrics().await;
    assert!(metrics.contains("tokenward_sweep_refreshes_total 1"), "{metrics}");
    assert!(metrics.contains("tokenward_sweep_shards 16"), "{metrics}");
}

#[tokio::test]
async fn a_used_connection_is_renewed_before_anybody_asks_embedded() {
    renewed_ahead(Kept::Embedded).await;
}

#[tokio::test]
async fn a_used_connection_is_renewed_before_anybody_asks_redis() {
    renewed_ahead(Kept::Redis).await;
}

/// Three replicas, of which the one that has the work is killed: each connection is renewed once.
#[tokio::test]
async fn replicas_share_the_work_and_do_none_of_it_twice() {
    let life = Duration::from_secs(3600);
    let mut world = sweeping(Kept::Redis, life).await;
    let others = [world.sweeping_replica("second").await, world.sweeping_replica("third").await];
    let names: Vec<String> = (0..24).map(|number| format!("user-{number}")).collect();
    for name in &names {
        world.connect(name, ALICE).await;
    }
    world.entra.clear_ledger();
    let has_all = "tokenward_sweep_shards 16";
    world.until(has_all, async || world.metrics().await.contains(has_all)).await;
    world.daemon.kill();
    world.pass(life - Duration::from_secs(300));
    // What it had is taken up when its leases have ended.
    world.pass_in_redis(Duration::from_secs(10));
    until(&others[0], "24 refreshes", async || world.token_calls("refresh_token") >= 24).await;
    for (name, daemon) in names.iter().zip(others.iter().cycle()) {
        assert_eq!(world.token_at(daemon, name).await.status, 200);
    }
    assert_eq!(world.token_calls("refresh_token"), 24, "{}", others[0].log());
}

/// The seconds since the last round that counts as made.
async fn since_last_round(world: &World) -> f64 {
    let metrics = world.metrics().await;
    let name = "tokenward_sweep_last_success_timestamp_seconds ";
    let at = metrics.lines().find_map(|line| line.strip_prefix(name)).expect("it is there from the start");
    let at: f64 = at.parse().expect("a number");
    SystemClock::new().now().unix_millis() as f64 / 1000.0 - at
}

/// Leases of the work are asked for every few seconds, and a round is made every second. Those in between say nothing
/// either while the store is away, so that an alert sees that nothing is searched for.
#[tokio::test]
async fn no_round_counts_while_the_store_is_away() {
    let mut world = sweeping(Kept::Redis, Duration::from_secs(3600)).await;
    let has_all = "tokenward_sweep_shards 16";
    world.until(has_all, async || world.metrics().await.contains(has_all)).await;
    world.until("a round was made", async || since_last_round(&world).await < 5.0).await;
    world.redis.as_mut().expect("it is kept in Redis").stop();
    world.until("no round is made", async || since_last_round(&world).await > 15.0).await;
    world.redis.as_mut().expect("it is kept in Redis").restart();
    world.until("rounds are made again", async || since_last_round(&world).await < 5.0).await;
}
