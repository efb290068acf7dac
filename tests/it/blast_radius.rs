//! The reach of each answer of the authority. One tenant's users trigger everything that all users of an app
//! share (its credential's standing, the pause while the app is rejected, breakers, throttles). Another
//! tenant's users ask all the while: they get no error, and the credential keeps its standing.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use entra_emulator::{Endpoint, Fault, FaultRule, RetryAfter, User};

use crate::http_client::Answer;
use crate::world::{ALICE, BOB, Plan, World, text};

/// How many connections the faulty tenant has for each answer: a breaker opens after five failures.
const EACH: usize = 5;

fn aadsts(code: u32, error: &str, status: u16) -> Fault {
    let (error, status) = (Some(error.to_owned()), Some(status));
    Fault::Aadsts { code, error, suberror: None, claims: None, status, retry_after: None }
}

/// What the connection's callers get once its token is over.
async fn refused(world: &World, name: &str) -> Answer {
    let begun = Instant::now();
    loop {
        let answer = world.token(name).await;
        if answer.status != 200 {
            return answer;
        }
        assert!(begun.elapsed() < Duration::from_secs(20), "{name} is still served");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// What one tenant's users are answered, and what their callers get then.
fn rows() -> Vec<(&'static str, Fault, &'static str)> {
    let held = Fault::Status { status: 429, retry_after: Some(RetryAfter::Seconds(2)) };
    vec![
        ("disabled there", aadsts(7_000_112, "unauthorized_client", 400), "connection_blocked"),
        ("disabled there, as 401", aadsts(7_000_112, "unauthorized_client", 401), "connection_blocked"),
        ("disabled there, as invalid_client", aadsts(7_000_112, "invalid_client", 401), "connection_blocked"),
        ("absent there", aadsts(700_016, "unauthorized_client", 401), "connection_blocked"),
        ("no service principal", aadsts(7_000_229, "invalid_client", 401), "connection_blocked"),
        ("not licensed", aadsts(650_052, "invalid_client", 401), "connection_blocked"),
        ("tenant gone", aadsts(90002, "invalid_tenant", 400), "connection_blocked"),
        ("tenant gone, as it was said before", aadsts(90002, "invalid_request", 401), "connection_blocked"),
        ("an unknown number", aadsts(999_999, "invalid_client", 401), "app_credential_rejected"),
        ("an unknown number of the app's", aadsts(999_999, "unauthorized_client", 401), "app_rejected"),
        ("registered otherwise", aadsts(9_002_327, "invalid_request", 400), "app_rejected"),
        ("an unknown error", aadsts(999_999, "brand_new_error", 400), "authority_unavailable"),
        ("nothing", Fault::status(400), "authority_unavailable"),
        ("no failure of one's own", Fault::status(500), "authority_unavailable"),
        ("no answer", Fault::DropBeforeProcessing, "authority_unavailable"),
        ("to wait", held, "authority_unavailable"),
    ]
}

#[tokio::test]
async fn what_one_tenants_users_are_answered_is_no_other_tenants_trouble() {
    let world = Arc::new(Plan::default().token_life(Duration::from_secs(2)).start().await);
    let others: Vec<String> = (0..4).map(|number| format!("bob-{number}")).collect();
    for name in &others {
        world.connect(name, BOB).await;
    }
    let (over, served) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let bobs: Vec<_> = others
        .into_iter()
        .map(|name| {
            let (world, over, served) = (world.clone(), over.clone(), served.clone());
            tokio::spawn(async move {
                while !over.load(Ordering::Relaxed) {
                    let answer = world.token(&name).await;
                    assert_eq!(answer.status, 200, "{name}: {}", answer.text());
                    served.fetch_add(1, Ordering::Relaxed);
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
            })
        })
        .collect();
    // Each in a tenant of its own, all at once.
    let rows = rows();
    for (number, (_, fault, _)) in rows.iter().enumerate() {
        let user = format!("user@tenant-{number}.example");
        world.entra.add_user(User::work(&user).tenant(format!("{number:08}-0000-4000-8000-00000000000c")));
        let rule = FaultRule::new(Endpoint::Token, fault.clone()).grant_type("refresh_token").user(&user);
        world.entra.faults().inject(rule);
        for one in 0..EACH {
            world.connect(&format!("tenant-{number}-{one}"), &user).await;
        }
    }
    let (before, refreshed) = (served.load(Ordering::Relaxed), of_bob(&world));
    for (number, (case, _, expected)) in rows.iter().enumerate() {
        for one in 0..EACH {
            let answer = refused(&world, &format!("tenant-{number}-{one}")).await;
            assert_eq!(text(&answer.json(), "code"), *expected, "{case}: {}", answer.text());
        }
    }
    // The other tenant is served, and refreshed, after it as before.
    let begun = Instant::now();
    while served.load(Ordering::Relaxed) < before + 100 || of_bob(&world) < refreshed + 8 {
        assert!(!bobs.iter().any(tokio::task::JoinHandle::is_finished), "it was another tenant's trouble");
        assert!(begun.elapsed() < Duration::from_secs(20), "another tenant is not refreshed");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    over.store(true, Ordering::Relaxed);
    for bob in bobs {
        bob.await.expect("served all the while");
    }
    let log = world.daemon.log();
    assert!(!log.contains("the authority rejects a client credential"), "{log}");
    let metrics = world.metrics().await;
    let in_use = "tokenward_credential_state{app=\"outlook\",credential=\"first\",state=\"in_use\"} 1";
    assert!(metrics.contains(in_use), "{metrics}");

    // What two tenants are told, with nothing working in between, is the app's.
    world.entra.faults().clear();
    let rule = FaultRule::new(Endpoint::Token, aadsts(999_999, "invalid_client", 401));
    world.entra.faults().inject(rule.grant_type("refresh_token"));
    world.connect("alice", ALICE).await;
    for name in ["alice", "bob-0"] {
        let answer = refused(&world, name).await;
        assert_eq!(text(&answer.json(), "code"), "app_credential_rejected", "{}", answer.text());
    }
    // (What one of them was told before alice came is repeated for a moment, and is no word of now.)
    world
        .until("the credential is rejected", async || {
            for name in ["alice", "bob-0"] {
                world.token(name).await;
            }
            world.daemon.log().contains("the authority rejects a client credential")
        })
        .await;
}

/// Refreshes of the other tenant that came to the authority.
fn of_bob(world: &World) -> usize {
    let ledger = world.entra.ledger();
    let refreshed = ledger.iter().filter(|entry| entry.user.as_deref() == Some(BOB));
    refreshed.filter(|entry| entry.grant_type.as_deref() == Some("refresh_token")).count()
}
