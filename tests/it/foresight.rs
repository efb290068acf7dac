//! No expiring secret is a surprise: its expiry is shown, and logged in time.

use std::time::Duration;

use serde_json::Value;
use tokenward::domain::time::Clock;
use tokenward::system::SystemClock;

use crate::redis_server::RedisServer;
use crate::rotation::certificate_for;
use crate::world::{Plan, World, write_secret};

const DAY: f64 = 86_400.0;

impl World {
    /// The figure of a series, once it is there.
    async fn figure(&self, series: &str) -> f64 {
        let mut figure = None;
        self.until(series, async || {
            let metrics = self.metrics().await;
            let line = metrics.lines().find_map(|line| line.strip_prefix(&format!("tokenward_{series} ")));
            figure = line.map(|figure| figure.parse().expect("a number"));
            figure.is_some()
        })
        .await;
        figure.expect("was waited for")
    }

    /// Whether it shows that about so many days are left.
    async fn shows_days(&self, series: &str, days: f64) -> bool {
        let left = self.figure(series).await / DAY;
        (days - 0.1..=days).contains(&left)
    }

    /// The days in every warning that begins with these words.
    fn warnings_of(&self, words: &str) -> Vec<u64> {
        let log = self.daemon.log();
        let events = log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        let said = events.filter(|event| {
            let message = event["message"].as_str().unwrap_or_default();
            event["level"] == "WARN" && message.starts_with(words)
        });
        said.filter_map(|event| event["days"].as_u64()).collect()
    }
}

#[tokio::test]
async fn when_each_secret_ends_is_shown_and_said_once() {
    let redis = RedisServer::start_tls();
    let file = |name: &str| redis.file(name).display().to_string();
    let store = format!(
        "kind = \"redis\"\nurl = \"{}\"\nca_file = \"authorities.pem\"\nclient_certificate = \
         \"{}\"\nclient_key = \"{}\"",
        redis.url(),
        file("client.crt"),
        file("client.key")
    );
    let (soon_key, soon) = certificate_for("soon", 5);
    let (later_key, later) = certificate_for("later", 90);
    let listener = |name: &str| {
        format!(
            "[[listen.local]]\naddress = \"127.0.0.1:0\"\ntls = {{ certificate = \"{name}.pem\", key = \
             \"{name}.key\" }}\n"
        )
    };
    let in_ten_days = SystemClock::new().now().plus(Duration::from_secs(10 * 86_400)).rfc3339();
    let credential = |id: &str, expires: &str| {
        format!(
            "[[apps.outlook.credentials]]\nid = \"{id}\"\nkind = \"secret\"\nfile = \
             \"client-secret\"\nexpires = {expires}\n"
        )
    };
    let credentials = credential("first", &in_ten_days) + &credential("over", "2026-01-01T00:00:00Z");
    let authorities = std::fs::read_to_string(redis.file("ca.crt")).expect("was made") + &soon;
    let plan = Plan::default()
        .store(&store)
        .credentials(&credentials)
        .sections(&format!("{}{}", listener("soon"), listener("later")))
        .file("authorities.pem", &authorities)
        .file("soon.pem", &soon)
        .file("soon.key", &soon_key)
        .file("later.pem", &later)
        .file("later.key", &later_key);
    let world = plan.start().await;

    let local = "tls_certificate_expiry_seconds{listener=\"local\"}";
    assert!(world.shows_days(local, 5.0).await, "of two, the one that ends first");
    let client = "store_certificate_expiry_seconds{certificate=\"client\"}";
    assert!(world.shows_days(client, 2.0).await);
    let ca = "store_certificate_expiry_seconds{certificate=\"ca\"}";
    assert!(world.shows_days(ca, 5.0).await, "of two, the one that ends last");
    let credential = "credential_expiry_seconds{app=\"outlook\",credential=\"first\"}";
    assert!(world.shows_days(credential, 10.0).await);
    let metrics = world.metrics().await;
    let keys = metrics.lines().filter(|line| line.starts_with("tokenward_caller_key_expiry_seconds{"));
    assert_eq!(keys.count(), 2, "{metrics}");
    for (words, days) in [
        ("a listener's certificate expires", vec![7]),
        ("the client certificate for the store expires", vec![7]),
        ("a client credential expires", vec![14]),
        ("a client credential has expired", vec![0]),
        ("an API key expires", vec![1, 1]),
    ] {
        // (The log comes by another way than the figures.)
        world.until(words, async || world.warnings_of(words).len() >= days.len()).await;
        assert_eq!(world.warnings_of(words), days, "{words}\n{}", world.daemon.log());
    }

    // Another one is in force as soon as it is written: the figure goes by it, and nothing more is said.
    let (next_key, next) = certificate_for("next", 60);
    write_secret(&world.folder.path().join("soon.key"), &next_key);
    write_secret(&world.folder.path().join("soon.pem"), &next);
    world.until("the new certificate's end", async || world.shows_days(local, 60.0).await).await;
    assert_eq!(world.warnings_of("a listener's certificate"), [7]);
}
