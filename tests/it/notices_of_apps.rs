//! Events of apps and of tenants: what several replicas learn is told once.

use std::time::Duration;

use entra_emulator::User;
use http::Method;
use serde_json::Value;
use tokenward::domain::time::Clock as _;
use tokenward::system::SystemClock;

use crate::attacks_rights::{operate, with_harness};
use crate::http_client::{Answer, request};
use crate::notices::{events, is, refuse, said};
use crate::world::{ALICE, Kept, Plan, Process, World, text, until, write_secret};

fn alices_tenant() -> String {
    User::work(ALICE).tenant_id().to_owned()
}

fn tenant(what: &str) -> (String, String) {
    (format!("tenant.{what}"), alices_tenant())
}

/// A second replica, with the caller of the test.
async fn other(world: &World) -> Process {
    world.prepare_replica("other");
    let folder = world.folder.path().join("other");
    let keys = std::fs::read_to_string(world.folder.path().join("harness.keys")).expect("the key file");
    write_secret(&folder.join("harness.keys"), &keys);
    Process::start(&folder).await
}

/// Waits until a replica's job has ended another run: two more ends, as the first may be of a run that began before.
pub(crate) async fn until_done(daemon: &Process, job: &str) {
    let ran = async || {
        let metrics =
            request(Method::GET, &format!("{}/metrics", daemon.ops), &[], "").await.expect("metrics");
        let series = format!("tokenward_job_last_run_timestamp_seconds{{job_name=\"{job}\"}} ");
        metrics.text().lines().find_map(|line| line.strip_prefix(&series).map(str::to_owned))
    };
    for _ in 0..2 {
        let before = ran().await;
        until(daemon, job, async || ran().await != before).await;
    }
}

/// The events behind `after`, up to that of a connection which is made for it, in order; and its id.
async fn up_to(world: &World, key: &str, after: &str, marker: &str) -> (Vec<(String, String)>, String) {
    world.connect(marker, ALICE).await;
    // (Time that passes ends a stream.)
    let mut stream = events(&world.daemon, key, &format!("?after={after}")).await;
    let mut told = Vec::new();
    loop {
        let event = stream.event().await;
        let said = said(&event);
        if said == is("connected", marker) {
            return (told, event.id);
        }
        told.push(said);
    }
}

/// The first event that a caller hears, and its id.
async fn begin(world: &World, key: &str) -> ((String, String), String) {
    let mut stream = events(&world.daemon, key, "").await;
    world.connect("marker-begin", ALICE).await;
    let event = stream.event().await;
    (said(&event), event.id)
}

fn of_tenants(told: Vec<(String, String)>) -> Vec<(String, String)> {
    told.into_iter().filter(|(kind, _)| kind.starts_with("tenant.")).collect()
}

#[tokio::test]
async fn a_credential_that_expires_soon_is_told_once_by_two_replicas() {
    let soon = SystemClock::new().now().plus(Duration::from_secs(10 * 86_400)).rfc3339();
    let credentials = format!(
        "[[apps.outlook.credentials]]\nid = \"first\"\nkind = \"secret\"\nfile = \"client-secret\"\nexpires = \
         {soon}\n"
    );
    let plan = Plan::default().kept(Kept::Redis).credentials(&credentials);
    // A caller with a rule for the app hears of it, whatever the rule covers.
    let rules = "connections = [\"marker-*\"]\nscopes = [\"*\"]";
    let (world, key) = with_harness(plan, rules).await;
    // What was told cannot be read: it is begun anew, and silences nothing.
    let record = tokenward::store::keyspace::redis_pending("app-outlook:outlook");
    let redis = world.redis.as_ref().expect("a Redis");
    assert_eq!(redis.cli(&["SET", &record, "rubbish", "EX", "9999999"]), "OK");
    // Nobody knows a credential before it was used.
    let (first, after) = begin(&world, &key).await;
    let other = other(&world).await;
    for daemon in [&world.daemon, &other] {
        world.outlive_tokens();
        assert_eq!(world.token_at(daemon, "marker-begin").await.status, 200);
        until_done(daemon, "client_credentials").await;
    }
    let (mut told, _) = up_to(&world, &key, &after, "marker-end").await;
    told.push(first);
    let apps: Vec<&str> =
        told.iter().map(|(kind, _)| kind.as_str()).filter(|kind| kind.starts_with("app.")).collect();
    assert_eq!(apps, ["app.credential_expiring"], "{told:?}");
}

/// One replica sees a tenant refuse and the other sees it work again, and then the other way round.
#[tokio::test]
async fn a_tenant_that_blocks_and_recovers_is_told_once_by_two_replicas() {
    let rules = format!("connections = [\"tenant:{}\"]\nscopes = [\"*\"]", alices_tenant());
    let (world, key) = with_harness(Plan::default().kept(Kept::Redis), &rules).await;
    let (_, mut after) = begin(&world, &key).await;
    let names = ["one", "two", "three"];
    for name in names {
        world.connect(name, ALICE).await;
    }
    let other = other(&world).await;
    for (round, [sees, mends]) in [[&world.daemon, &other], [&other, &world.daemon]].into_iter().enumerate() {
        world.outlive_tokens();
        refuse(&world, 50105);
        for name in names {
            assert_eq!(world.token_at(sees, name).await.status, 409);
        }
        for daemon in [&world.daemon, &other] {
            until_done(daemon, "tenant_blocks").await;
        }
        world.entra.faults().clear();
        world.pass(Duration::from_secs(7200));
        for name in names {
            until(mends, "it works again", async || world.token_at(mends, name).await.status == 200).await;
        }
        for daemon in [&world.daemon, &other] {
            until_done(daemon, "tenant_blocks").await;
        }
        let (told, last) = up_to(&world, &key, &after, &format!("marker-{round}")).await;
        assert_eq!(of_tenants(told), [tenant("blocked"), tenant("recovered")], "round {round}");
        assert!(blocked(&world).await.is_null());
        after = last;
    }
}

/// The same of tokens of the app itself.
/// The first tenant that blocks an app, as `status` has it.
async fn blocked(world: &World) -> Value {
    let status = operate(world, Method::GET, "/admin/v1/status", Value::Null).await.json();
    status["tenants_blocked"][0].clone()
}

#[tokio::test]
async fn a_tenant_that_gives_the_app_no_token_of_its_own_is_told_once_by_two_replicas() {
    let rules =
        format!("app_only = [\"{}\"]\nconnections = [\"marker-*\"]\nscopes = [\"*\"]", alices_tenant());
    let (world, key) = with_harness(Plan::default().kept(Kept::Redis), &rules).await;
    let (_, mut after) = begin(&world, &key).await;
    let other = other(&world).await;
    let ask = async |daemon: &Process| -> Answer {
        let url = format!("{}/v1/apps/outlook/token?tenant={}", daemon.local, alices_tenant());
        let bearer = format!("Bearer {key}");
        request(Method::GET, &url, &[("authorization", &bearer)], "").await.expect("an answer")
    };
    let told = async || {
        for daemon in [&world.daemon, &other] {
            until_done(daemon, "tenant_blocks").await;
        }
    };
    for round in 0..2 {
        world.entra.change_settings(|settings| settings.app_only_needs_consent = true);
        world.outlive_tokens();
        // Again and again is one event, by whomever it is seen.
        for daemon in [&world.daemon, &other, &world.daemon] {
            let refused = ask(daemon).await;
            assert_eq!(text(&refused.json(), "code"), "tenant_blocked", "{}", refused.text());
        }
        told().await;
        let shown = blocked(&world).await;
        assert_eq!(
            (shown["connections"].as_u64(), text(&shown, "tenant")),
            (Some(0), alices_tenant().as_str()),
            "{shown}"
        );
        assert_eq!(text(&shown, "reason"), "app_not_in_tenant");
        world.entra.change_settings(|settings| settings.app_only_needs_consent = false);
        world.pass(Duration::from_secs(3600));
        let (first, second) = if round == 0 { (&other, &world.daemon) } else { (&world.daemon, &other) };
        for daemon in [first, second] {
            until(daemon, "it works again", async || ask(daemon).await.status == 200).await;
            told().await;
        }
        let (told, last) = up_to(&world, &key, &after, &format!("marker-{round}")).await;
        assert_eq!(of_tenants(told), [tenant("blocked"), tenant("recovered")], "round {round}");
        after = last;
    }
}
