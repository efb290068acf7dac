//! Failures that are no verdicts, at their worst: the app is rejected, an authority throttles, one tenant
//! hangs. None of them changes a connection, and each affects only those it concerns.

#![expect(clippy::print_stdout, reason = "the long forms say what they measured")]

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use entra_emulator::{Endpoint, Fault, FaultRule, RevokeKind};
use serde_json::json;

use crate::attacks_connect;
use crate::http_client::Browser;
use crate::world::{ALICE, BOB, CLIENT_ID, CLIENT_SECRET, Kept, Plan, World, alone, text, until};

/// How long the long forms of these tests last; a few seconds in `make check`.
fn lasting(short: u64) -> Duration {
    let seconds = std::env::var("TOKENWARD_TROUBLE_SECONDS").ok().and_then(|text| text.parse().ok());
    Duration::from_secs(seconds.unwrap_or(short))
}

async fn statuses(world: &World, names: &[String]) -> Vec<String> {
    let mut statuses = Vec::new();
    for name in names {
        statuses.push(text(&world.show(name).await, "status").to_owned());
    }
    statuses
}

/// The authority rejects the only credential, under load: no connection changes, one connection at a time
/// asks for all, and everything serves again by itself after the repair; how soon is printed.
#[tokio::test]
async fn a_rejected_app_credential_changes_no_connection_and_heals_at_once() {
    let world = Arc::new(Plan::default().kept(Kept::Redis).start().await);
    let names: Arc<Vec<String>> = Arc::new((0..20).map(|number| format!("user-{number}")).collect());
    for name in names.iter() {
        world.connect(name, ALICE).await;
    }
    world.entra.rotate_secret(CLIENT_ID, "another-secret").expect("known");
    world.outlive_tokens();
    world.entra.clear_ledger();
    let outage = lasting(6);
    let begun = Instant::now();
    let load: Vec<_> = (0..8)
        .map(|caller: usize| {
            let (world, names) = (world.clone(), names.clone());
            tokio::spawn(async move {
                let mut asked = caller;
                while begun.elapsed() < outage {
                    let answer = world.token(&names[asked % names.len()]).await;
                    assert_eq!(answer.status, 503, "{}", answer.text());
                    assert_eq!(text(&answer.json(), "code"), "app_credential_rejected");
                    assert!(answer.headers.contains_key("retry-after"));
                    asked += 1;
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
                asked - caller
            })
        })
        .collect();
    let mut requests = 0;
    for caller in load {
        requests += caller.await.expect("as promised");
    }
    // The first wave may have been under way already; from then on it is one probe each 2 s, however long
    // this took.
    let calls = u64::try_from(world.token_calls("refresh_token")).expect("few");
    let took = begun.elapsed();
    assert!(calls <= 20 + took.as_secs(), "{calls} calls in {took:?}");
    assert!(statuses(&world, &names).await.iter().all(|status| status == "active"));

    world.entra.rotate_secret(CLIENT_ID, CLIENT_SECRET).expect("known");
    let repaired = Instant::now();
    for name in names.iter() {
        world.until_served(name).await;
    }
    let healed = repaired.elapsed();
    assert!(statuses(&world, &names).await.iter().all(|status| status == "active"));
    println!(
        "{requests} requests refused in {outage:?}, {calls} calls to the authority; no connection changed,"
    );
    println!("and all {} served {:.2} s after the repair", names.len(), healed.as_secs_f64());
}

/// One tenant's authority hangs, with more callers than one tenant may have calls: another tenant's requests
/// go on as before, their refreshes included. What they took before the hang and during it is printed, and
/// asserted by nobody: the long form says how a calm machine does.
#[tokio::test]
async fn a_tenant_that_hangs_is_nobody_elses_trouble() {
    let _alone = alone().await;
    let life = Duration::from_secs(2);
    let limits = "[limits]\nauthority_timeout = \"5s\"\nlease = \"12s\"\n";
    let world = Arc::new(Plan::default().kept(Kept::Redis).token_life(life).sections(limits).start().await);
    let named = |word: &str, many: u32| (0..many).map(|number| format!("{word}-{number}")).collect();
    let (hung, held): (Vec<String>, Vec<String>) = (named("hung", 100), named("held", 8));
    // Each is asked for again when a quarter of its token's life is over, so that every request needs a
    // refresh.
    let renewed: Vec<String> = named("renewed", 4 * RENEWED_EACH);
    for name in &hung {
        world.connect(name, ALICE).await;
    }
    for name in &renewed {
        world.connect(name, BOB).await;
    }
    world.entra.change_settings(|settings| settings.token_lifetime_seconds = Some(3600));
    for name in &held {
        world.connect(name, BOB).await;
    }
    world.entra.change_settings(|settings| settings.token_lifetime_seconds = Some(life.as_secs()));
    world.pass(life);

    let half = lasting(6) / 2;
    let before = healthy_load(&world, &held, &renewed, half).await;
    let hang = Fault::Hang(Some(Duration::from_secs(30)));
    world.entra.faults().inject(FaultRule::new(Endpoint::Token, hang).user(ALICE));
    let begun = Instant::now();
    let waiting: Vec<_> = hung
        .iter()
        .map(|name| {
            let (world, name) = (world.clone(), name.clone());
            tokio::spawn(async move {
                let mut refused = 0;
                while refused == 0 || begun.elapsed() < half {
                    assert_eq!(world.token(&name).await.status, 503);
                    refused += 1;
                    tokio::time::sleep(Duration::from_millis(500)).await;
                }
                refused
            })
        })
        .collect();
    let of_alice =
        |entry: &entra_emulator::LedgerEntry| entry.user.as_deref() == Some(ALICE) && entry.ended.is_none();
    world.until("somebody hangs", async || world.entra.ledger().iter().any(of_alice)).await;
    world.entra.clear_ledger();
    let during = healthy_load(&world, &held, &renewed, half).await;
    let of_bob = |entry: &&entra_emulator::LedgerEntry| entry.user.as_deref() == Some(BOB);
    let refreshed = world.entra.ledger().iter().filter(of_bob).count();
    let fresh = during.renewed.len();
    assert!(fresh > 1, "they were refreshed beside the hung ones");
    // The first of each may have been there before.
    assert!(refreshed + renewed.len() >= fresh, "each of them by one call: {refreshed} for {fresh}");
    let mut refused = 0;
    for one in waiting {
        refused += one.await.expect("joined");
    }
    println!(
        "another tenant's requests, {half:?} before a tenant hung and {half:?} while it did ({refused} \
         refused):"
    );
    println!("  held     before {}\n           during {}", spread(before.held), spread(during.held));
    println!("  renewed  before {}\n           during {}", spread(before.renewed), spread(during.renewed));
    assert_eq!(text(&world.show("hung-0").await, "status"), "active");
}

/// Connections that one caller goes round, each of which it must find too old again.
const RENEWED_EACH: u32 = 6;

/// What requests took: for tokens that were held, and for those that a refresh had to bring.
#[derive(Default)]
struct Took {
    held: Vec<Duration>,
    renewed: Vec<Duration>,
}

/// Eight callers of the healthy tenant for a while: four ask for what is held, four for what must be
/// refreshed.
async fn healthy_load(world: &Arc<World>, held: &[String], renewed: &[String], lasts: Duration) -> Took {
    let begun = Instant::now();
    let each = usize::try_from(RENEWED_EACH).expect("small");
    let of_held = held.chunks(held.len() / 4).map(|names| (names.to_vec(), false));
    let of_renewed = renewed.chunks(each).map(|names| (names.to_vec(), true));
    let callers: Vec<_> = of_held
        .chain(of_renewed)
        .map(|(names, renews)| {
            let world = world.clone();
            let pause = Duration::from_millis(if renews { 100 } else { 30 });
            tokio::spawn(async move {
                let (mut took, mut last) = (Vec::new(), BTreeMap::new());
                for name in names.iter().cycle().take_while(|_| begun.elapsed() < lasts) {
                    let asked = Instant::now();
                    let token = world.access_token(name).await;
                    let elapsed = asked.elapsed();
                    // One that was there before was not waited for.
                    let fresh = last.insert(name.clone(), token.clone()) != Some(token);
                    if !renews || fresh {
                        took.push(elapsed);
                    }
                    tokio::time::sleep(pause).await;
                }
                (took, renews)
            })
        })
        .collect();
    let mut all = Took::default();
    for caller in callers {
        let (took, renews) = caller.await.expect("served");
        if renews { all.renewed.extend(took) } else { all.held.extend(took) }
    }
    all
}

/// For people.
fn spread(mut took: Vec<Duration>) -> String {
    took.sort_unstable();
    let at = |share: usize| {
        let index = (took.len() * share).div_ceil(100).saturating_sub(1);
        took.get(index).copied().unwrap_or_default().as_secs_f64() * 1000.0
    };
    format!("p50 {:.1} ms, p99 {:.1} ms, longest {:.1} ms of {}", at(50), at(99), at(100), took.len())
}

/// What one replica is told by `Retry-After`, every replica keeps to.
#[tokio::test]
async fn a_throttled_tenant_is_left_alone_by_every_replica() {
    let told = Duration::from_secs(120);
    let world = Plan::default().kept(Kept::Redis).start().await;
    let other = world.replica("second").await;
    world.connect("one", ALICE).await;
    world.connect("two", ALICE).await;
    world.outlive_tokens();
    world.entra.clear_ledger();
    let throttled = FaultRule::new(Endpoint::Token, Fault::status_retry_after(429, told.as_secs())).once();
    world.entra.faults().inject(throttled);
    assert_eq!(world.token("one").await.status, 503);
    for _ in 0..10 {
        for (daemon, name) in [(&world.daemon, "two"), (&other, "one"), (&other, "two")] {
            let answer = world.token_at(daemon, name).await;
            assert_eq!(answer.status, 503, "{}", answer.text());
            assert_eq!(text(&answer.json(), "code"), "authority_unavailable");
        }
        world.pass(told / 20);
    }
    assert_eq!(world.token_calls("refresh_token"), 1, "nobody asked before the time was over");
    world.pass(told);
    world.pass_in_redis(told);
    until(&other, "the time is over", async || world.token_at(&other, "two").await.status == 200).await;
}

/// A tenant that blocks the app blocks every connection of it: each is `blocked`, and it is one event.
#[tokio::test]
async fn a_tenant_that_blocks_many_is_one_event() {
    let world = Plan::default().start().await;
    let names: Vec<String> = (0..12).map(|number| format!("user-{number}")).collect();
    for name in &names {
        world.connect(name, ALICE).await;
    }
    world.entra.revoke_user(ALICE, RevokeKind::ConditionalAccess).expect("known");
    world.outlive_tokens();
    for name in &names {
        assert_eq!(world.token(name).await.status, 409);
    }
    assert!(statuses(&world, &names).await.iter().all(|status| status == "blocked"));
    let log = world.daemon.log();
    let warnings =
        log.lines().filter(|line| line.contains("\"WARN\"") && line.contains("verdict changed")).count();
    assert_eq!(warnings, 1, "{log}");
    let counted = "tokenward_verdicts_total{app=\"outlook\",reason=\"policy_blocked\",status=\"blocked\"} 12";
    assert!(world.metrics().await.contains(counted), "{}", world.metrics().await);
    // A dead grant, or a blocked one, does not call the authority on every request.
    world.entra.clear_ledger();
    for _ in 0..5 {
        assert_eq!(world.token(&names[0]).await.status, 409);
    }
    assert_eq!(world.token_calls("refresh_token"), 0);
}

/// While one connection tries for all of its tenant, who comes waits for what becomes of that, and is not
/// refused before.
#[tokio::test]
async fn who_comes_while_one_tries_for_all_learns_of_its_success() {
    let world = Arc::new(Plan::default().start().await);
    for name in ["one", "two"] {
        world.connect(name, ALICE).await;
    }
    world.outlive_tokens();
    world.entra.faults().inject(FaultRule::new(Endpoint::Token, Fault::status(500)));
    world.entra.clear_ledger();
    while world.token_calls("refresh_token") < 5 {
        assert_eq!(world.token("one").await.status, 503);
        world.pass(Duration::from_secs(10));
    }
    world.entra.faults().clear();
    world.entra.faults().inject(FaultRule::new(Endpoint::Token, Fault::Hold).once());
    world.entra.clear_ledger();
    let asks = |name: &'static str| {
        let world = world.clone();
        tokio::spawn(async move { world.token(name).await.status })
    };
    let one = asks("one");
    world.until_called("refresh_token", 1).await;
    let two = asks("two");
    world.daemon.until_logged("a call waits for the tenant's probe").await;
    world.entra.faults().release();
    assert_eq!(one.await.expect("an answer"), 200);
    assert_eq!(two.await.expect("an answer"), 200);
}

/// What a code brought is nowhere else: while the store refuses, it is kept trying.
#[tokio::test]
async fn a_store_that_refuses_when_a_code_was_spent_costs_no_grant() {
    let world = Plan::default().kept(Kept::Redis).start().await;
    world.connect("alice", ALICE).await;
    let redis = world.redis.as_ref().expect("a Redis");
    let refuses = |line: &str| world.daemon.log().lines().filter(|logged| logged.contains(line)).count();
    // Renewed by its own account (nothing to confirm), and made for whoever comes (which is).
    for (connection, line) in [
        ("alice", "a connection could not be stored"),
        ("new", "a grant that waits for its confirmation could not be kept"),
    ] {
        world.entra.sign_in_as(ALICE);
        let session = attacks_connect::session(&world, connection, json!({})).await;
        let mut browser = Browser::default();
        let callback = attacks_connect::up_to_callback(&mut browser, &session).await;
        let sent = world.token_calls("authorization_code");
        let held = FaultRule::new(Endpoint::Token, Fault::HoldAnswer).grant_type("authorization_code");
        world.entra.faults().inject(held);
        let before = refuses(line);
        let outage = async {
            world.until_called("authorization_code", sent + 1).await;
            assert_eq!(redis.cli(&["ACL", "SETUSER", "default", "-@all", "+acl"]), "OK");
            world.entra.faults().release();
            world.until("the store refuses what came back", async || refuses(line) > before).await;
            assert_eq!(redis.cli(&["ACL", "SETUSER", "default", "+@all"]), "OK");
        };
        let (page, ()) = tokio::join!(browser.get(&callback), outage);
        world.entra.faults().clear();
        let page = page.expect("the callback");
        assert_eq!(page.status, 200, "{connection}: {}", page.text());
        let state = attacks_connect::state_of(&world, &session).await;
        let expected = if connection == "new" { "awaiting_confirmation" } else { "connected" };
        assert_eq!(state["state"], expected, "{connection}: {state}\n{}", world.daemon.log());
    }
}
