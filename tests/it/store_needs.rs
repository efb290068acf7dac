//! Requirements for Redis: they are checked, and failures are shown in the log, `/readyz`, `status` and the
//! metrics.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use http::Method;

use crate::http_client::{request, request_unix};
use crate::world::{ALICE, Kept, Plan, Process, World};

async fn ready(daemon: &Process) -> (u16, String) {
    let answer = request(Method::GET, &format!("{}/readyz", daemon.ops), &[], "").await.expect("an answer");
    (answer.status.as_u16(), answer.text().to_owned())
}

/// Waits until `/readyz` says this.
async fn until_ready_says(world: &World, status: u16, part: &str) -> String {
    let begun = Instant::now();
    loop {
        let (now, body) = ready(&world.daemon).await;
        if now == status && body.contains(part) {
            return body;
        }
        assert!(begun.elapsed() < Duration::from_secs(30), "{now} {body}\n{}", world.daemon.log());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// A Redis that runs no scripts for us, and then does: not ready, why and what to do, once in the log; then
/// ready by itself.
#[tokio::test]
async fn a_redis_without_scripts_is_not_ready_and_says_why() {
    let mut world = Plan::default().kept(Kept::Redis).start().await;
    let folder: PathBuf = world.folder.path().to_owned();
    world.connect("one", ALICE).await;
    assert_eq!(world.daemon.terminate(), Some(0), "{}", world.daemon.log());
    world.redis.as_ref().expect("redis").cli(&["ACL", "SETUSER", "default", "-evalsha"]);
    world.daemon = Process::launch(&folder).await;
    let said = until_ready_says(&world, 503, "+evalsha").await;
    assert!(
        said.contains("\"waiting_for\":[\"store\"") && said.contains("deploy/compose/redis.acl"),
        "{said}"
    );
    let status = || {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_tokenward"));
        command.args(["status", "--once", "--config"]).arg(folder.join("tokenward.toml"));
        let ended = command.output().expect("it ends");
        (ended.status.code(), String::from_utf8_lossy(&ended.stdout).into_owned())
    };
    let (code, screen) = status();
    assert!(code == Some(1) && screen.contains("not ready: waits for store"), "{code:?} {screen}");
    // It is asked five times a second, and said once.
    let asked = |metrics: &str| {
        let name = "tokenward_store_errors_total{operation=\"ping\"} ";
        metrics.lines().find_map(|line| line.strip_prefix(name)?.parse::<u64>().ok()).unwrap_or(0)
    };
    while asked(&world.metrics().await) < 10 {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let log = world.daemon.log();
    let lines = |word: &str| log.lines().filter(|line| line.contains(word)).count();
    assert_eq!(lines("the store does not answer"), 1, "{log}");
    assert!(lines("+evalsha") > 0 && lines("something else") + lines("broken pipe") == 0, "{log}");

    world.redis.as_ref().expect("redis").cli(&["ACL", "SETUSER", "default", "+evalsha"]);
    assert_eq!(until_ready_says(&world, 200, "ready").await, "ready\n");
    let (code, screen) = status();
    assert!(code == Some(0) && !screen.contains("not ready"), "{code:?} {screen}");
    assert_eq!(world.token("one").await.status, 200, "{}", world.daemon.log());
    let log = world.daemon.log();
    assert_eq!(log.lines().filter(|line| line.contains("the store answers again")).count(), 1, "{log}");
}

/// A Redis that evicts loses connections: it serves, and everybody who looks is told.
#[tokio::test]
async fn a_redis_that_evicts_is_said_wherever_somebody_looks() {
    let mut world = Plan::default().kept(Kept::Redis).start().await;
    let folder: PathBuf = world.folder.path().to_owned();
    assert_eq!(ready(&world.daemon).await, (200, "ready\n".to_owned()));
    assert!(world.metrics().await.contains("tokenward_store_risk{risk=\"eviction\"} 0\n"));
    assert_eq!(world.daemon.terminate(), Some(0), "{}", world.daemon.log());
    let redis = world.redis.as_ref().expect("redis");
    redis.cli(&["CONFIG", "SET", "maxmemory", "200mb", "maxmemory-policy", "allkeys-lru"]);
    world.daemon = Process::start(&folder).await;
    until_ready_says(&world, 200, "store eviction: ").await;
    assert!(world.metrics().await.contains("tokenward_store_risk{risk=\"eviction\"} 1\n"));
    let log = world.daemon.log();
    assert!(
        log.lines().any(|line| line.contains("WARN") && line.contains("maxmemory-policy noeviction")),
        "{log}"
    );
    let socket = folder.join("admin.sock");
    let status = request_unix(&socket, Method::GET, "/admin/v1/status", &[], "").await.expect("an answer");
    assert!(status.text().contains("store eviction"), "{}", status.text());
}
