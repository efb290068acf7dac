//! The stores of a soak support its faults.

#![allow(clippy::unwrap_used, reason = "tests may unwrap")]

use soak::redis::Redis;

#[test]
fn a_server_keeps_its_data_over_a_kill_and_can_come_back_empty_and_be_restored() {
    let folder = tempfile::tempdir().unwrap();
    let redis = Redis::standalone(folder.path()).unwrap();
    let node = redis.primary().unwrap();
    let size = || node.ask("DBSIZE").unwrap();
    assert!(redis.is_whole());
    assert!(node.ask("SET one 1").unwrap().starts_with("+OK"));
    node.kill();
    assert!(node.ask("PING").is_err());
    node.launch().unwrap();
    assert!(size().starts_with(":1"));
    node.kill();
    node.hide_data(true).unwrap();
    node.launch().unwrap();
    assert!(size().starts_with(":0"));
    node.kill();
    node.hide_data(false).unwrap();
    node.launch().unwrap();
    assert!(size().starts_with(":1"));
    node.freeze(true);
    assert!(node.ask("PING").is_err(), "it does not run");
    node.freeze(false);
    assert!(size().starts_with(":1"));
}
