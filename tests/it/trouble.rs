//! Trouble that is nobody's verdict, at its worst: the app is rejected, an authority throttles, one tenant hangs. Nothing
//! of it changes a connection, and each costs only whom it concerns.

use std::sync::Arc;
use std::time::{Duration, Instant};

use entra_emulator::{Endpoint, Fault, FaultRule, RevokeKind};

use crate::world::{ALICE, BOB, CLIENT_ID, CLIENT_SECRET, Kept, Plan, World, text};

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

/// The authority rejects the only credential, under load: no connection changes, one connection at a time asks for all, and
/// everything serves again within 5 s of the repair.
#[tokio::test]
async fn a_rejected_app_credential_changes_no_connection_and_heals_at_once() {
    let life = Duration::from_secs(2);
    let world = Arc::new(Plan::default().kept(Kept::Redis).token_life(life).start().await);
    let names: Arc<Vec<String>> = Arc::new((0..20).map(|number| format!("user-{number}")).collect());
    for name in names.iter() {
        world.connect(name, ALICE).await;
    }
    world.entra.rotate_secret(CLIENT_ID, "another-secret").expect("known");
    tokio::time::sleep(life).await;
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
            })
        })
        .collect();
    for caller in load {
        caller.await.expect("as promised");
    }
    // The first wave may have been under way already; from then on it is one probe each 2 s.
    let calls = u64::try_from(world.token_calls("refresh_token")).expect("few");
    assert!(calls <= 20 + outage.as_secs(), "{calls} calls in {outage:?}");
    assert!(statuses(&world, &names).await.iter().all(|status| status == "active"));

    world.entra.change_settings(|settings| settings.token_lifetime_seconds = Some(3600));
    world.entra.rotate_secret(CLIENT_ID, CLIENT_SECRET).expect("known");
    let repaired = Instant::now();
    for name in names.iter() {
        while world.token(name).await.status != 200 {
            assert!(repaired.elapsed() < Duration::from_secs(5), "{}", world.daemon.log());
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

/// One tenant's authority hangs, with more callers than one tenant may have calls: another tenant's requests go on as
/// before, their refreshes included.
#[tokio::test]
async fn a_tenant_that_hangs_is_nobody_elses_trouble() {
    let life = Duration::from_secs(2);
    let limits = "[limits]\nauthority_timeout = \"5s\"\nlease = \"12s\"\n";
    let world = Arc::new(Plan::default().kept(Kept::Redis).token_life(life).sections(limits).start().await);
    let hung: Vec<String> = (0..100).map(|number| format!("hung-{number}")).collect();
    world.connect("fine", BOB).await;
    for name in &hung {
        world.connect(name, ALICE).await;
    }
    tokio::time::sleep(life).await;
    let hang = Fault::Hang(Some(Duration::from_secs(30)));
    world.entra.faults().inject(FaultRule::new(Endpoint::Token, hang).user(ALICE));
    let waiting: Vec<_> = hung
        .iter()
        .map(|name| {
            let (world, name) = (world.clone(), name.clone());
            tokio::spawn(async move { world.token(&name).await.status.as_u16() })
        })
        .collect();
    tokio::time::sleep(Duration::from_millis(700)).await;
    world.entra.clear_ledger();
    let begun = Instant::now();
    let mut tokens = std::collections::BTreeSet::new();
    while begun.elapsed() < Duration::from_secs(4) {
        tokens.insert(world.access_token("fine").await);
    }
    assert!(tokens.len() > 1, "it was refreshed beside the hung ones");
    let of_bob = |entry: &&entra_emulator::LedgerEntry| entry.user.as_deref() == Some(BOB);
    let refreshed = world.entra.ledger().iter().filter(of_bob).count();
    assert!(refreshed + 1 >= tokens.len(), "each of them by one call: {refreshed} for {}", tokens.len());
    for one in waiting {
        assert_eq!(one.await.expect("joined"), 503);
    }
    assert_eq!(text(&world.show("hung-0").await, "status"), "active");
}

/// What one replica is told by `Retry-After`, every replica keeps to.
#[tokio::test]
async fn a_throttled_tenant_is_left_alone_by_every_replica() {
    let life = Duration::from_secs(2);
    let world = Plan::default().kept(Kept::Redis).token_life(life).start().await;
    let other = world.replica("second").await;
    world.connect("one", ALICE).await;
    world.connect("two", ALICE).await;
    tokio::time::sleep(life).await;
    world.entra.clear_ledger();
    let throttled = FaultRule::new(Endpoint::Token, Fault::status_retry_after(429, 6)).once();
    world.entra.faults().inject(throttled);
    assert_eq!(world.token("one").await.status, 503);
    let told = Instant::now();
    while told.elapsed() < Duration::from_secs(5) {
        for (daemon, name) in [(&world.daemon, "two"), (&other, "one"), (&other, "two")] {
            let answer = world.token_at(daemon, name).await;
            assert_eq!(answer.status, 503, "{}", answer.text());
            assert_eq!(text(&answer.json(), "code"), "authority_unavailable");
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert_eq!(world.token_calls("refresh_token"), 1, "nobody asked before the time was over");
    while world.token_at(&other, "two").await.status != 200 {
        assert!(told.elapsed() < Duration::from_secs(12), "{}", other.log());
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// A tenant that blocks the app blocks every connection of it: each is `blocked`, and it is one event.
#[tokio::test]
async fn a_tenant_that_blocks_many_is_one_event() {
    let life = Duration::from_secs(2);
    let world = Plan::default().token_life(life).start().await;
    let names: Vec<String> = (0..12).map(|number| format!("user-{number}")).collect();
    for name in &names {
        world.connect(name, ALICE).await;
    }
    world.entra.revoke_user(ALICE, RevokeKind::ConditionalAccess).expect("known");
    tokio::time::sleep(life).await;
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
