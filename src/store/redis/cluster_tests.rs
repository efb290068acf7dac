use super::super::suite::{self, CountingRandom, RealClock, RealTasks, app_name, connection, key, put};
use super::super::testing::{RedisCluster, RedisServer, free_port};
use super::tests::{healed, password, store_with, unavailable};
use super::*;

/// Longer than a failover of [`RedisCluster`] takes on a busy machine.
const FAILOVER: Duration = Duration::from_secs(30);

fn config(cluster: &RedisCluster) -> RedisConfig {
    let nodes = cluster.nodes.iter().take(3).map(|node| ("127.0.0.1".to_owned(), node.port()));
    RedisConfig::cluster(nodes.collect())
}

/// For a busy machine.
fn patient(mut config: RedisConfig) -> RedisConfig {
    config.connect_timeout = Duration::from_secs(3);
    config.response_timeout = Duration::from_secs(4);
    config.operation_timeout = Duration::from_secs(8);
    config.wait_timeout = Duration::from_secs(3);
    config
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn passes_the_suite() {
    let cluster = RedisCluster::start(3, 1);
    let store = Arc::new(store_with(patient(config(&cluster))));
    let start = store.link.clock().monotonic();
    store.ping().await.expect("serves");
    eprintln!("founding took {:?}", store.link.clock().monotonic() - start);
    suite::run(Arc::clone(&store) as Arc<dyn Store>).await;
}
