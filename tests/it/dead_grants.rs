//! Grants that ended at an authority which reports that with an ambiguous error: they lock out nobody else,
//! and each is told from an app that is refused as a whole.

use std::time::{Duration, Instant};

use entra_emulator::{Endpoint, Fault, FaultRule, User};
use http::Method;
use serde_json::{Value, json};

use crate::http_client::Answer;
use crate::world::{ALICE, Plan, World, text};

/// Of the same tenant as [`ALICE`].
const DANA: &str = "dana@contoso.example";
const LIFE: Duration = Duration::from_secs(20);
/// By then every token is over, and whatever was refused is tried again.
const ROUND: Duration = Duration::from_secs(40);

async fn start() -> World {
    let world = Plan::default().token_life(LIFE).start().await;
    world.entra.add_user(User::work(DANA));
    world
}

fn refuse(world: &World, user: Option<&str>, fault: Fault) {
    let rule = FaultRule::new(Endpoint::Token, fault).grant_type("refresh_token");
    world.entra.faults().inject(match user {
        Some(user) => rule.user(user),
        None => rule,
    });
}

/// How some providers say that a grant ended.
fn invalid_request() -> Fault {
    let (error, status) = (Some("invalid_request".to_owned()), Some(400));
    Fault::Aadsts { code: 999_999, error, suberror: None, claims: None, status, retry_after: None }
}

fn code(answer: &Answer) -> (u16, String) {
    (answer.status.as_u16(), answer.json()["code"].as_str().unwrap_or_default().to_owned())
}

#[tokio::test]
async fn dead_grants_of_a_few_lock_nobody_else_out() {
    let world = start().await;
    let dead = ["dead-1", "dead-2", "dead-3"];
    for name in dead {
        world.connect(name, DANA).await;
    }
    let healthy = ["well-1", "well-2"];
    for name in healthy {
        world.connect(name, ALICE).await;
    }
    for fault in [Fault::status(400), Fault::status(403), invalid_request()] {
        refuse(&world, Some(DANA), fault.clone());
        // Nobody else asks meanwhile, so that nothing works in between.
        for _ in 0..4 {
            world.pass(ROUND);
            for name in dead {
                let answer = world.token(name).await;
                assert_eq!(code(&answer), (503, "authority_unavailable".to_owned()), "{}", answer.text());
                let detail = answer.json()["detail"].as_str().unwrap_or_default().to_owned();
                assert!(detail.contains("refused") && !detail.contains("down"), "{detail}");
            }
        }
        for name in healthy {
            let answer = world.token(name).await;
            assert_eq!(answer.status, 200, "{fault:?}: {}", answer.text());
        }
        world.entra.faults().clear();
        world.pass(ROUND);
        for name in dead {
            assert_eq!(world.token(name).await.status, 200, "{name} is asked for again");
        }
    }
    let log = world.daemon.log();
    let told = |line: &&str| line.contains("\"WARN\"") && line.contains("the authority refuses a refresh");
    assert!(log.lines().filter(told).any(|line| line.contains("dead-1")), "{log}");
}

#[tokio::test]
async fn a_grant_that_alone_is_refused_has_ended_and_heals_where_that_was_wrong() {
    let world = start().await;
    world.connect("dead", DANA).await;
    world.connect("well", ALICE).await;
    refuse(&world, Some(DANA), invalid_request());
    let mut refusals = 0;
    loop {
        world.pass(ROUND);
        assert_eq!(world.token("well").await.status, 200, "{}", world.daemon.log());
        let answer = world.token("dead").await;
        if answer.status == 409 {
            assert_eq!(code(&answer).1, "reauthorization_required");
            assert_eq!(answer.json()["reason"], "grant_revoked");
            break;
        }
        assert_eq!(code(&answer), (503, "authority_unavailable".to_owned()), "{}", answer.text());
        assert_eq!(world.show("dead").await["status"], "active");
        refusals += 1;
        assert!(refusals < 10, "{}", world.daemon.log());
    }
    assert!(refusals >= 3, "nothing is concluded from a few: {refusals}");
    assert_eq!(world.show("dead").await["status"], "needs_reauthorization");
    let path = "/v1/apps/outlook/connections/dead/explain";
    let explained = world.api(Method::GET, path, Value::Null).await.json();
    let last = explained["attempts"].as_array().and_then(|attempts| attempts.last()).cloned();
    let last = last.unwrap_or_default();
    assert_eq!(
        (&last["outcome"], &last["error"]),
        (&json!("reauthorize"), &json!("invalid_request")),
        "{explained}"
    );
    assert!(text(&last, "conclusion").contains("times in a row"), "{explained}");
    assert!(world.daemon.log().contains("it is taken for ended"), "{}", world.daemon.log());

    // It is not asked about at every request, …
    let asked = || world.entra.ledger().iter().filter(|entry| entry.user.as_deref() == Some(DANA)).count();
    let before = asked();
    for _ in 0..5 {
        assert_eq!(world.token("dead").await.status, 409);
    }
    assert_eq!(asked(), before, "{}", world.daemon.log());
    // … is asked about again all the same, and stays so after one more refusal, …
    world.pass(Duration::from_secs(75));
    assert_eq!(code(&world.token("dead").await), (409, "reauthorization_required".to_owned()));
    assert_eq!(asked(), before + 1);
    // … and heals with no one's help.
    world.entra.faults().clear();
    world.pass(Duration::from_secs(150));
    let begun = Instant::now();
    while world.token("dead").await.status != 200 {
        assert!(begun.elapsed() < Duration::from_secs(10), "{}", world.daemon.log());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(world.show("dead").await["status"], "active");
}

#[tokio::test]
async fn what_all_grants_are_refused_with_is_nobodys_verdict() {
    let world = start().await;
    let names = ["one", "two", "three"];
    for (name, user) in names.into_iter().zip([ALICE, DANA, ALICE]) {
        world.connect(name, user).await;
    }
    world.pass(ROUND);
    for name in names {
        assert_eq!(world.token(name).await.status, 200, "it worked for all of them before");
    }
    refuse(&world, None, invalid_request());
    for _ in 0..8 {
        world.pass(ROUND);
        for name in names {
            let answer = world.token(name).await;
            assert_eq!(code(&answer), (503, "authority_unavailable".to_owned()), "{}", answer.text());
            assert_eq!(world.show(name).await["status"], "active");
        }
    }
    world.entra.faults().clear();
    world.pass(ROUND);
    for name in names {
        assert_eq!(world.token(name).await.status, 200, "{}", world.daemon.log());
    }
}
