use std::sync::Arc;
use std::time::Duration;

use super::SimServer;
use crate::store::suite;
use crate::store::{Change, Committed, Records as _, Store as _, Writer};
use crate::testkit::faults::{Dice, Mutant, StoreWeather};
use crate::testkit::tasks::Pid;

#[tokio::test]
async fn in_good_weather_it_passes_the_suite_of_every_store() {
    for wait in [false, true] {
        let (clock, tasks) = (suite::RealClock::shared(), Arc::new(suite::RealTasks));
        let server = SimServer::new(clock, tasks, Dice::new(7), 2, wait, Mutant::None, None);
        suite::run(Arc::new(server.client(0, Pid(1)))).await;
    }
}

#[tokio::test]
async fn a_failover_loses_what_the_copy_had_not_got_and_others_hear_of_changes() {
    let (clock, tasks) = (suite::RealClock::shared(), Arc::new(suite::RealTasks));
    let server = SimServer::new(clock.clone(), tasks, Dice::new(7), 2, false, Mutant::None, None);
    let (one, other) = (server.client(0, Pid(1)), server.client(1, Pid(2)));
    assert_eq!(other.next_change().await, Change::Missed);
    let key = suite::key("outlook", "user-1");
    let (first, second) = (suite::connection(1, 1), suite::connection(2, 2));
    assert_eq!(one.commit(&key, None, &first, Writer::SignIn).await.expect("serves"), Committed::Done);
    assert_eq!(other.next_change().await, Change::Connection(key.clone()));
    clock.sleep(Duration::from_millis(50)).await;
    server.set_weather(StoreWeather { lag: Duration::from_secs(3600), ..StoreWeather::default() });
    let expected = Some(first.revision);
    let done = one.commit(&key, expected, &second, Writer::SignIn).await.expect("serves");
    assert_eq!(done, Committed::Done);
    server.lose_primary();
    assert!(one.load(&key).await.is_err());
    server.promote();
    assert_eq!(one.load(&key).await.expect("serves"), Some(first));
    assert_eq!(other.next_change().await, Change::Connection(key.clone()));
    assert_eq!(other.next_change().await, Change::Missed);
}
