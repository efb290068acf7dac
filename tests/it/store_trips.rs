//! What a hand-out and a refresh ask of Redis, counted.

use crate::bearers::Monitor;
use crate::world::{ALICE, Kept, Plan, World};

/// The commands that named a connection, each with the kind of its first key, in their order. Those inside
/// scripts are left out.
async fn commands(monitor: &Monitor, world: &World, connection: &str) -> Vec<String> {
    let name = format!("outlook:{connection}");
    let seen = String::from_utf8(monitor.until_now(world).await).expect("MONITOR escapes what is no text");
    let in_index = format!(r#"index:{{outlook}}" "0" "{connection}""#);
    let is_own = |line: &&str| line.contains(&name) || line.contains(&in_index);
    let own = seen.lines().filter(|line| is_own(line) && !line.contains(" lua] "));
    own.filter_map(|line| {
        let (command, rest) = line.split_once("] \"")?.1.split_once('"')?;
        let key = rest.split_once("\"tokenward:")?.1;
        let kind = key.split_once(['{', ':'])?.0;
        Some(format!("{command} {}", if kind.is_empty() { "record" } else { kind }))
    })
    .collect()
}

#[tokio::test]
async fn the_first_hand_out_after_a_restart_is_one_read() {
    let mut world = Plan::default().kept(Kept::Redis).start().await;
    for name in ["one", "two", "three"] {
        world.connect(name, ALICE).await;
    }
    let _log = world.stop_and_restart().await;
    // The daemon first learns what is revoked.
    world.until_served("one").await;
    let monitor = Monitor::of(world.redis.as_ref().expect("Redis"));
    for name in ["two", "three"] {
        let answer = world.token(name).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        // The answer does not wait for the note of its use, which is made once an hour.
        world.until("the use is noted", async || commands(&monitor, &world, name).await.len() > 1).await;
        assert_eq!(commands(&monitor, &world, name).await, ["GET record", "ZADD used"], "{name}");
        // From then on the token is held. (Once a second the revision is compared.)
        assert_eq!(world.token(name).await.status, 200);
        let more = commands(&monitor, &world, name).await.split_off(2);
        assert!(more.iter().all(|command| command == "GETRANGE record"), "{more:?}");
    }
}

#[tokio::test]
async fn a_refresh_reads_takes_its_lease_commits_and_no_more() {
    let world = Plan::default().kept(Kept::Redis).sections("[limits]\nsweep_rate = 0\n").start().await;
    for name in ["first", "second"] {
        world.connect(name, ALICE).await;
    }
    world.outlive_tokens();
    // Redis learns the scripts from it.
    world.access_token("first").await;
    let monitor = Monitor::of(world.redis.as_ref().expect("Redis"));
    world.access_token("second").await;
    let is_scheduled = async || commands(&monitor, &world, "second").await.contains(&"ZADD due".to_owned());
    world.until("it is scheduled", is_scheduled).await;
    let mut seen = commands(&monitor, &world, "second").await;
    // (Once an hour the use is noted, too.)
    seen.retain(|command| command != "ZADD used");
    let wanted = [
        "GETRANGE record", // is it still what is cached?
        "GET record",      // with the grant
        "EVALSHA lease",   // takes it, writes the intent, says which revision is stored
        "EVALSHA record",  // commits, settles the intent, gives the lease back, tells the other replicas
        "ZADD index",      // beside the commit
        "ZADD due",        // nobody waits for it
    ];
    assert_eq!(seen, wanted);
}
