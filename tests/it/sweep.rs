//! Connections are looked after before anybody asks: each once, by whichever replica.

use std::time::Duration;

use crate::world::{ALICE, Kept, Plan, World};

async fn sweeping(kept: Kept, life: Duration) -> World {
    let mut plan = Plan::default().kept(kept).token_life(life);
    plan.files.push(("sweep", String::new()));
    plan.start().await
}

/// Nobody asks, and the token that is there is renewed ahead of its end, on either store.
async fn renewed_ahead(kept: Kept) {
    let world = sweeping(kept, Duration::from_secs(10)).await;
    world.connect("used", ALICE).await;
    let first = world.access_token("used").await;
    world.entra.clear_ledger();
    tokio::time::sleep(Duration::from_secs(9) + Duration::from_millis(500)).await;
    assert_eq!(world.token_calls("refresh_token"), 1, "{}", world.daemon.log());
    assert_ne!(world.access_token("used").await, first);
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

/// Three replicas, one of them killed in the middle: each connection is renewed once.
#[tokio::test]
async fn replicas_share_the_work_and_do_none_of_it_twice() {
    let life = Duration::from_secs(30);
    let world = sweeping(Kept::Redis, life).await;
    let mut others = Vec::new();
    for name in ["second", "third"] {
        std::fs::create_dir_all(world.folder.path()).expect("there");
        others.push(world.sweeping_replica(name).await);
    }
    for number in 0..24 {
        world.connect(&format!("user-{number}"), ALICE).await;
    }
    world.entra.clear_ledger();
    tokio::time::sleep(Duration::from_secs(16)).await;
    others.pop().expect("the third").kill();
    tokio::time::sleep(Duration::from_secs(14)).await;
    let calls = world.token_calls("refresh_token");
    assert_eq!(calls, 24, "{}", world.daemon.log());
}
