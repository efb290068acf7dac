//! The sweep renews connections before anybody asks: each once, by any replica.

use std::time::Duration;

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
