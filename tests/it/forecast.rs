//! Who will have to sign in again is foreseen, with how sure that is; and a tenant that blocks an app is one
//! thing, on every replica.

#![expect(clippy::print_stdout, reason = "a test says in how many pages its connections came")]

use std::time::Duration;

use entra_emulator::RevokeKind;
use http::Method;
use serde_json::{Value, json};
use tokenward::domain::time::{Clock, Timestamp};
use tokenward::repository::{FiledUnder, Kind};
use tokenward::system::SystemClock;

use crate::filling;
use crate::http_client::{Answer, Browser, request_unix};
use crate::notices_of_apps::until_done;
use crate::status::{err, out};
use crate::world::{ALICE, BOB, Kept, Plan, Process, World, text, until};

/// Alice's.
const TENANT: &str = "34e60b8e-a5b5-43c9-a67e-a85b7dd8768b";
const BOBS_TENANT: &str = "22222222-0000-4000-8000-00000000000b";
const DAY: Duration = Duration::from_secs(86_400);
const HOUR: Duration = Duration::from_secs(3600);

impl World {
    /// As an operator of the replica in this folder below the world's; empty for the first.
    async fn operate_at(&self, replica: &str, path: &str) -> Answer {
        let socket = self.folder.path().join(replica).join("admin.sock");
        request_unix(&socket, Method::GET, path, &[], "").await.expect("an answer")
    }

    /// All rows of a forecast of that replica.
    async fn foreseen_at(&self, replica: &str, query: &str) -> Vec<Value> {
        let (mut rows, mut cursor) = (Vec::new(), String::new());
        loop {
            let path = format!("/admin/v1/forecast?{query}&cursor={cursor}");
            let path = path.trim_end_matches("&cursor=");
            let answer = self.operate_at(replica, path).await;
            assert_eq!(answer.status, 200, "{}", answer.text());
            let page = answer.json();
            rows.extend(page["rows"].as_array().expect("rows").clone());
            match page["next_cursor"].as_str() {
                Some(next) => cursor = next.to_owned(),
                None => return rows,
            }
        }
    }

    async fn blocked_tenants_at(&self, replica: &str) -> Vec<Value> {
        let status = self.operate_at(replica, "/admin/v1/status").await.json();
        status["tenants_blocked"].as_array().expect("a list").clone()
    }

    /// The audit records of blocks, of the replicas in these folders: `change` of each.
    fn block_records(&self, replicas: &[&str]) -> Vec<String> {
        let of_replica = |replica: &&str| {
            let path = self.folder.path().join(replica).join("audit.jsonl");
            let text = std::fs::read_to_string(path).expect("an audit log");
            let records = text.lines().map(|line| serde_json::from_str::<Value>(line).expect("JSON"));
            let of_blocks = records.filter(|record| record["action"] == "tenant_block");
            of_blocks.map(|record| text_of(&record["detail"], "change")).collect::<Vec<_>>()
        };
        replicas.iter().flat_map(of_replica).collect()
    }
}

fn text_of(value: &Value, key: &str) -> String {
    text(value, key).to_owned()
}

/// A row without its times.
fn words(row: &Value) -> (String, String, String, u64) {
    let tenant = row["tenant"].as_str().unwrap_or("-").to_owned();
    let count = row["connections"].as_u64().expect("a number");
    (tenant, text_of(row, "reason"), text_of(row, "certainty"), count)
}

fn at(row: &Value, key: &str) -> Timestamp {
    Timestamp::parse_rfc3339(text(row, key)).expect("a time")
}

fn row(tenant: &str, reason: &str, certainty: &str, connections: u64) -> (String, String, String, u64) {
    (tenant.to_owned(), reason.to_owned(), certainty.to_owned(), connections)
}

#[tokio::test]
async fn who_must_sign_in_again_is_foreseen_by_app_and_tenant() {
    let begun = SystemClock::new().now();
    let secret_ends = begun.plus(DAY * 88).rfc3339();
    let credentials = format!(
        "[[apps.outlook.credentials]]\nid = \"first\"\nkind = \"secret\"\nfile = \"client-secret\"\nexpires = \
         {secret_ends}\n"
    );
    let mut world = Plan::default().credentials(&credentials).start().await;
    for (name, user) in [("left-1", ALICE), ("left-2", ALICE), ("left-3", BOB), ("used", ALICE)] {
        world.connect(name, user).await;
    }
    let nothing = world.asked(&["forecast"]);
    assert_eq!((nothing.status.code(), out(&nothing).as_str()), (Some(0), ""), "{}", err(&nothing));
    assert!(err(&nothing).contains("Of 4 connections nothing is foreseen"), "{}", err(&nothing));

    world.pass(DAY * 85);
    let refreshed = world.asked(&["connections", "refresh", "outlook", "used"]);
    assert_eq!(refreshed.status.code(), Some(0), "{}", err(&refreshed));
    let is_refreshed = async || {
        let shown = world.operate_at("", "/admin/v1/apps/outlook/connections/used").await.json();
        at(&shown, "last_refreshed_at") > begun.plus(DAY * 84)
    };
    world.until("it is refreshed", is_refreshed).await;
    let rows = world.foreseen_at("", "days=7").await;
    let all: Vec<_> = rows.iter().map(words).collect();
    assert_eq!(all.len(), 3, "{rows:?}");
    for expected in [
        row("-", "credential_ends", "certain", 0),
        row(TENANT, "grant_idle", "likely", 2),
        row(BOBS_TENANT, "grant_idle", "likely", 1),
    ] {
        assert!(all.contains(&expected), "{expected:?} in {rows:?}");
    }
    for one in &rows {
        match text(one, "reason") {
            "credential_ends" => {
                assert_eq!((text(one, "from"), text(one, "acts")), (secret_ends.as_str(), "operator"));
                assert_eq!(one["detail"], "first");
            }
            _ => {
                assert!(at(one, "from") >= begun.plus(DAY * 90 - Duration::from_secs(1)), "{one}");
                assert!(at(one, "to") < begun.plus(DAY * 90 + HOUR), "{one}");
                assert_eq!(text(one, "acts"), "user");
                assert!(one["examples"][0].as_str().is_some_and(|name| name.starts_with("left-")), "{one}");
            }
        }
    }
    assert_eq!(world.foreseen_at("", "days=1").await, Vec::<Value>::new(), "not so soon");
    let of_bob = world.foreseen_at("", &format!("app=outlook&tenant={BOBS_TENANT}")).await;
    assert_eq!(of_bob.iter().map(words).collect::<Vec<_>>(), [row(BOBS_TENANT, "grant_idle", "likely", 1)]);

    let table = out(&world.asked(&["forecast", "outlook", "--days", "7"]));
    for part in ["grant_idle", "credential_ends", TENANT, "left-1, left-2", "Read 4 connections"] {
        assert!(table.contains(part), "{part} in {table}");
    }
    let printed: Value = serde_json::from_str(&out(&world.asked(&["forecast", "--json"]))).expect("JSON");
    assert_eq!(printed["rows"].as_array().map(Vec::len), Some(3), "{printed}");
    assert_eq!(world.asked(&["forecast", "nothing"]).status.code(), Some(1));
    assert_eq!(world.asked(&["forecast", "--days", "0"]).status.code(), Some(2));

    // The walk over everything sees it too, for the metrics.
    world.stop_and_restart().await;
    let figure = "tokenward_forecast_connections{app=\"outlook\",reason=\"grant_idle\"} 3";
    world.until(figure, async || world.metrics().await.contains(figure)).await;
}

/// Many connections come by pages, each of which reads for a moment; together they say of each once.
#[tokio::test]
async fn of_many_connections_each_counts_once_however_the_pages_fall() {
    const MANY: usize = 3000;
    let world = Plan::default().kept(Kept::Redis).start().await;
    world.connect("one", BOB).await;
    let redis = world.redis.as_ref().expect("Redis");
    filling::fill(redis, world.folder.path(), MANY, filling::TENANT, &[]);
    world.pass(DAY * 85);
    let rows = world.foreseen_at("", "days=7").await;
    let of_many = |row: &&Value| row["tenant"] == filling::TENANT;
    let counted: u64 =
        rows.iter().filter(of_many).map(|row| row["connections"].as_u64().expect("a number")).sum();
    println!("{MANY} connections came in {} rows", rows.len());
    assert_eq!(counted, MANY as u64, "{rows:?}");
    let printed: Value = serde_json::from_str(&out(&world.asked(&["forecast", "--json"]))).expect("JSON");
    assert_eq!(printed["read"], MANY + 1);
    let mut all: Vec<_> = printed["rows"].as_array().expect("rows").iter().map(words).collect();
    all.sort();
    let expected = [
        row(filling::TENANT, "grant_idle", "likely", MANY as u64),
        row(BOBS_TENANT, "grant_idle", "likely", 1),
    ];
    assert_eq!(all, expected);
    let examples = printed["rows"].as_array().expect("rows").iter().map(|row| row["examples"].as_array());
    assert!(examples.flatten().all(|names| names.len() <= 3), "{printed}");
}

/// One replica sees grants end by the age of their sign-in; the other foresees the next one.
#[tokio::test]
async fn an_age_at_which_a_tenant_ends_grants_is_learnt_and_foreseen_by_every_replica() {
    let world = Plan::default().kept(Kept::Redis).start().await;
    let _other = world.replica("second").await;
    let names = ["one", "two", "three"];
    for name in names {
        world.connect(name, ALICE).await;
    }
    world.pass(HOUR * 2);
    for name in names {
        assert_eq!(world.token(name).await.status, 200);
    }
    world.pass(HOUR * 2);
    world.entra.revoke_user(ALICE, RevokeKind::SignInFrequency).expect("known");
    for name in names {
        assert_eq!(world.token(name).await.status, 409);
    }
    let connected = SystemClock::new().now().plus(world.ahead());
    world.connect("four", ALICE).await;
    // (The three that must be signed in again are in no row. It is only possible until all three are told.)
    let expected = [row(TENANT, "sign_in_frequency", "likely", 1)];
    let mut seen = Vec::new();
    world
        .until("it is foreseen", async || {
            seen = world.foreseen_at("second", "days=7").await;
            seen.iter().map(words).collect::<Vec<_>>() == expected
        })
        .await;
    assert!(at(&seen[0], "from") >= connected.plus(HOUR * 2).minus(HOUR / 2), "{seen:?}");
    assert!(at(&seen[0], "to") <= connected.plus(HOUR * 4 + HOUR), "{seen:?}");
    assert_eq!(seen[0]["examples"], json!(["four"]));
}

async fn until_blocked(world: &World, daemon: &Process, replica: &str, count: usize) -> Vec<Value> {
    let mut blocked = Vec::new();
    until(daemon, "it is known which tenants block the app", async || {
        blocked = world.blocked_tenants_at(replica).await;
        blocked.len() == count
    })
    .await;
    blocked
}

/// Three refusals, seen by two replicas, are one block: one record, one line, one row everywhere. When one
/// connection works again, all are tried.
#[tokio::test]
async fn a_tenant_that_blocks_an_app_is_one_thing_on_every_replica_and_ends_as_one() {
    let world = Plan::default().kept(Kept::Redis).start().await;
    let other = world.replica("second").await;
    let names: Vec<String> = (0..6).map(|number| format!("user-{number}")).collect();
    for name in &names {
        world.connect(name, ALICE).await;
    }
    world.connect("bob", BOB).await;
    world.entra.revoke_user(ALICE, RevokeKind::ConditionalAccess).expect("known");
    world.outlive_tokens();
    assert_eq!(world.token_at(&world.daemon, &names[0]).await.status, 409);
    assert_eq!(world.token_at(&other, &names[1]).await.status, 409);
    assert_eq!(world.token_at(&world.daemon, "bob").await.status, 200);
    assert_eq!(world.token_at(&other, &names[2]).await.status, 409);
    for (daemon, replica) in [(&world.daemon, ""), (&other, "second")] {
        let blocked = until_blocked(&world, daemon, replica, 1).await;
        let [one] = &blocked[..] else { panic!("one: {blocked:?}") };
        assert_eq!((text(one, "app"), text(one, "tenant")), ("outlook", TENANT));
        assert_eq!(text(one, "reason"), "policy_blocked");
    }
    for name in &names[3..] {
        assert_eq!(world.token_at(&other, name).await.status, 409);
    }
    let replicas = ["", "second"];
    assert_eq!(world.block_records(&replicas), ["blocked"]);
    let lines = |word: &str| {
        let logs = [world.daemon.log(), other.log()];
        logs.iter().flat_map(|log| log.lines()).filter(|line| line.contains(word)).count()
    };
    assert_eq!(lines("a tenant blocks the app"), 1);
    let metric = |count: u32| format!("tokenward_tenants_blocked{{app=\"outlook\"}} {count}");
    world.until("it is in the metrics", async || world.metrics().await.contains(&metric(1))).await;
    let all = world.blocked_tenants_at("").await;
    let at_least_all = async || world.blocked_tenants_at("").await[0]["connections"] == 6;
    world.until(&format!("all are counted: {all:?}"), at_least_all).await;

    let explained = world.operate_at("", "/admin/v1/apps/outlook/connections/user-0/explain").await.json();
    assert!(text(&explained, "advice").contains("The whole tenant blocks the app"), "{explained}");
    let path = "/v1/apps/outlook/connections/user-0/explain";
    let of_caller = world.api(Method::GET, path, Value::Null).await.json();
    assert!(!text(&of_caller, "advice").contains("whole tenant"), "no caller learns of others: {of_caller}");
    let screen = out(&world.asked(&["status", "--once"]));
    assert!(screen.contains("Tenants that block an app:") && screen.contains(TENANT), "{screen}");

    // One of them is tried, and works: so are all the others, though nobody asks for them.
    world.entra.restore_user(ALICE).expect("known");
    assert!(world.asked(&["connections", "refresh", "outlook", "user-0"]).status.success());
    for name in &names {
        let works = async || text(&world.show(name).await, "status") == "active";
        world.until(&format!("{name} works"), works).await;
    }
    for (daemon, replica) in [(&world.daemon, ""), (&other, "second")] {
        until_blocked(&world, daemon, replica, 0).await;
    }
    world.until("no tenant blocks", async || world.metrics().await.contains(&metric(0))).await;
    let mut records = world.block_records(&replicas);
    records.sort();
    assert_eq!(records, ["blocked", "recovered"]);
}

/// A metric without labels.
async fn figure(world: &World, name: &str) -> f64 {
    let metrics = world.metrics().await;
    let value = metrics.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    value.unwrap_or_else(|| panic!("{name} in {metrics}")).parse().expect("a number")
}

/// Nothing renews in the background here: a user who signs in is the only sign that the tenant lets the app
/// in again.
#[tokio::test]
async fn a_sign_in_that_succeeds_ends_its_tenants_block() {
    let world = Plan::default().start().await;
    let names = ["one", "two", "three"];
    for name in names {
        world.connect(name, ALICE).await;
    }
    world.entra.revoke_user(ALICE, RevokeKind::ConditionalAccess).expect("known");
    world.outlive_tokens();
    for name in names {
        assert_eq!(world.token(name).await.status, 409);
    }
    until_blocked(&world, &world.daemon, "", 1).await;
    world.entra.restore_user(ALICE).expect("known");
    world.entra.sign_in_as(ALICE);
    let session = world.start_session(json!({ "app": "outlook", "connection": "one" })).await;
    world.sign_in(&mut Browser::default(), text(&session, "connect_url")).await;
    assert_eq!(world.session(text(&session, "id")).await["state"], "connected");
    until_blocked(&world, &world.daemon, "", 0).await;
    for name in names {
        let works = async || text(&world.show(name).await, "status") == "active";
        world.until(&format!("{name} works"), works).await;
    }
    assert_eq!(world.block_records(&[""]), ["blocked", "recovered"]);
}

/// A newer version may know reasons that this one does not. What it wrote is not touched.
#[tokio::test]
async fn what_a_newer_version_knows_of_tenants_survives_an_older_replica() {
    let world = Plan::default().kept(Kept::Redis).start().await;
    let names = ["one", "two", "three"];
    for name in names {
        world.connect(name, ALICE).await;
    }
    let block = json!({ "reason": "of_a_newer_version", "since": 1, "connections": 3, "refused_at": 1 });
    let newer = json!({ "apps": { "outlook": { BOBS_TENANT: { "block": block } } } });
    let stored = filling::repository(world.redis.as_ref().expect("Redis"), world.folder.path());
    let (kind, id, now) = (Kind::TenantBlocks, FiledUnder::only(), SystemClock::new().now());
    stored.put_pending(kind, &id, &newer, now, DAY).await.expect("stored");
    let has_read = async || world.daemon.log().contains("tenant-blocks");
    world.until("it has read the record", has_read).await;
    world.entra.revoke_user(ALICE, RevokeKind::ConditionalAccess).expect("known");
    world.outlive_tokens();
    for name in names {
        assert_eq!(world.token(name).await.status, 409);
    }
    // What was seen is told, or not, by then.
    until_done(&world.daemon, "tenant_blocks").await;
    let kept = stored.pending::<Value>(kind, &id).await.expect("it opens").expect("it is there");
    assert_eq!(kept.value, newer);
}

/// While a tenant blocks the app, the background tries one of its connections, and not each of them.
#[tokio::test]
async fn one_connection_tries_for_a_tenant_that_blocks_all() {
    let mut plan = Plan::default();
    plan.files.push(("sweep", String::new()));
    let world = plan.start().await;
    let names: Vec<String> = (0..12).map(|number| format!("user-{number}")).collect();
    for name in &names {
        world.connect(name, ALICE).await;
    }
    world.entra.revoke_user(ALICE, RevokeKind::ConditionalAccess).expect("known");
    world.outlive_tokens();
    for name in &names {
        let is_refused = async || world.token(name).await.status == 409;
        world.until("it is refused", is_refused).await;
    }
    until_blocked(&world, &world.daemon, "", 1).await;
    world.entra.clear_ledger();
    let begun = figure(&world, "tokenward_sweep_refreshes_total").await;
    // Each would be tried a minute after its refusal.
    world.pass(Duration::from_secs(120));
    world.until_called("refresh_token", 1).await;
    // The background has looked at all that is due, and has begun no other one.
    for _ in 0..3 {
        let looked = figure(&world, "tokenward_sweep_last_success_timestamp_seconds").await;
        let has_looked =
            async || figure(&world, "tokenward_sweep_last_success_timestamp_seconds").await > looked;
        world.until("the background has looked again", has_looked).await;
    }
    assert_eq!(figure(&world, "tokenward_sweep_refreshes_total").await, begun + 1.0);
    assert_eq!(world.token_calls("refresh_token"), 1, "{}", world.daemon.log());
    world.entra.restore_user(ALICE).expect("known");
    world.pass(HOUR);
    for name in &names {
        let works = async || text(&world.show(name).await, "status") == "active";
        world.until(&format!("{name} works"), works).await;
    }
}
