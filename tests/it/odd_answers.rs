//! Odd answers of an authority whose refresh tokens work once: none costs a grant, each causes one warning,
//! and `explain` describes it.

use std::time::Duration;

use entra_emulator::{Endpoint, Fault, FaultRule, IdTokenSigning, Mode};
use http::Method;
use serde_json::{Map, Value, json};

use crate::http_client::Answer;
use crate::world::{ALICE, Plan, World, text};

fn object(value: Value) -> Map<String, Value> {
    value.as_object().expect("an object").clone()
}

fn answer(value: Value) -> Fault {
    Fault::TokenResponsePatch(object(value))
}

fn claims(value: Value) -> Fault {
    Fault::IdTokenPatch(object(value))
}

fn header(value: Value) -> Fault {
    Fault::IdTokenHeaderPatch(object(value))
}

/// Says that a resource refused the token: the way to have a connection refreshed now.
async fn report(world: &World, name: &str, token: &str) -> Answer {
    let path = format!("/v1/apps/outlook/connections/{name}/token");
    world.api(Method::POST, &path, json!({ "rejected": crate::attacks_api::sha256(token) })).await
}

/// The warnings about this connection.
fn warnings(world: &World, name: &str) -> Vec<Value> {
    let log = world.daemon.log();
    let lines = log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    lines.filter(|line| line["level"] == "WARN" && line["connection"] == name).collect()
}

/// The same, once there is one: the log comes through a pipe, so a line may be on its way when its answer is
/// here.
async fn warned(world: &World, name: &str) -> Vec<Value> {
    world.until("it is warned of", async || !warnings(world, name).is_empty()).await;
    warnings(world, name)
}

async fn explained(world: &World, name: &str) -> Vec<Value> {
    let path = format!("/v1/apps/outlook/connections/{name}/explain");
    let explained = world.api(Method::GET, &path, Value::Null).await.json();
    explained["attempts"].as_array().expect("attempts").clone()
}

/// What a report is answered once the refresh is tried again, a second after it failed.
async fn served_again(world: &World, name: &str, token: &str) -> Answer {
    loop {
        let answered = report(world, name, token).await;
        if answered.json()["code"] != "authority_unavailable" {
            return answered;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

#[tokio::test]
async fn no_odd_answer_costs_a_grant() {
    let world = Plan::default().mode(Mode::Strict).start().await;
    // What is done to an answer, whether its access token is used, and the rule that is named.
    let odd: Vec<(Fault, bool, &str)> = vec![
        (answer(json!({ "expires_in": 864_000 })), true, "expires_in_cut"),
        (answer(json!({ "expires_in": 3599.5 })), true, "expires_in_fraction"),
        (answer(json!({ "expires_in": "soon" })), true, "expires_in_unreadable"),
        (answer(json!({ "scope": 7 })), true, "scope_unreadable"),
        (answer(json!({ "token_type": 7 })), true, "token_type_unreadable"),
        (claims(json!({ "azp": 7 })), true, "claim_azp_ignored"),
        (claims(json!({ "at_hash": false })), true, "claim_at_hash_ignored"),
        (claims(json!({ "nbf": "now" })), true, "claim_nbf_ignored"),
        (claims(json!({ "preferred_username": {} })), true, "claim_preferred_username_ignored"),
        (claims(json!({ "exp": 1 })), true, "id_token expired"),
        (header(json!({ "alg": "RS512" })), true, "id_token algorithm (RS512)"),
        (Fault::IdTokenSigning(IdTokenSigning::UnpublishedKey), true, "id_token unknown_key"),
        (Fault::IdTokenSigning(IdTokenSigning::WrongKey), false, "id_token signature"),
        (header(json!({ "crit": ["x"] })), false, "id_token critical"),
        (claims(json!({ "sub": 7 })), false, "id_token claim_type"),
        (claims(json!({ "aud": [] })), false, "id_token claim_missing"),
        (answer(json!({ "id_token": "not.a.token" })), false, "id_token malformed"),
        (answer(json!({ "id_token": 7 })), false, "id_token malformed"),
        (answer(json!({ "token_type": "DPoP" })), false, "token_type"),
        (answer(json!({ "access_token": 7 })), false, "access_token"),
        (answer(json!({ "access_token": null })), false, "access_token"),
        (answer(json!({ "expires_in": 0 })), false, "expires_in"),
        (answer(json!({ "error": "server_error" })), false, "error_in_success"),
    ];
    let mut tokens = Vec::new();
    for (number, (fault, is_used, rule)) in odd.iter().enumerate() {
        let name = format!("user-{number}");
        world.connect(&name, ALICE).await;
        let before = world.access_token(&name).await;
        let rule_of = FaultRule::new(Endpoint::Token, fault.clone()).grant_type("refresh_token");
        world.entra.faults().inject(rule_of);
        let answered = report(&world, &name, &before).await;
        world.entra.faults().clear();
        assert_eq!(answered.status == 200, *is_used, "{fault:?}: {}", answered.text());
        let expected = if *is_used { Value::Null } else { json!("authority_unavailable") };
        assert_eq!(answered.json()["code"], expected, "{fault:?}");
        assert_eq!(world.show(&name).await["status"], "active", "{fault:?}");
        tokens.push(if *is_used { text(&answered.json(), "access_token").to_owned() } else { before });

        let warned = warned(&world, &name).await;
        assert_eq!(warned.len(), 1, "{fault:?}: {warned:?}");
        assert_eq!((&warned[0]["rule"], &warned[0]["app"]), (&json!(rule), &json!("outlook")), "{fault:?}");
        assert!(warned[0]["correlation_id"].is_string(), "{fault:?}: {warned:?}");
        let attempts = explained(&world, &name).await;
        let last = attempts.last().expect("an attempt");
        assert!(text(last, "conclusion").contains(rule), "{fault:?}: {attempts:?}");
        assert!(last["correlation_id"].is_string(), "{fault:?}: {attempts:?}");
        assert!(!attempts.iter().any(|one| text(one, "conclusion").contains("replica")), "{attempts:?}");
    }
    // A refresh token that had been used before would have ended its grant.
    for (number, (fault, ..)) in odd.iter().enumerate() {
        let name = format!("user-{number}");
        let answered = served_again(&world, &name, &tokens[number]).await;
        assert_eq!(answered.status, 200, "{fault:?}: {}", answered.text());
        assert_eq!(world.show(&name).await["status"], "active", "{fault:?}");
    }
}

/// What a refused answer brought may be damaged, or somebody else's: the refresh token that last worked is
/// beside it.
#[tokio::test]
async fn a_refresh_token_that_a_refused_answer_brought_gives_way_to_the_one_before() {
    let world = Plan::default().start().await;
    world.connect("alice", ALICE).await;
    let token = world.access_token("alice").await;
    let odd = answer(json!({ "expires_in": 0, "refresh_token": "damaged" }));
    world.entra.faults().inject(FaultRule::new(Endpoint::Token, odd).grant_type("refresh_token"));
    assert_eq!(report(&world, "alice", &token).await.json()["code"], "authority_unavailable");
    world.entra.faults().clear();
    let answered = served_again(&world, "alice", &token).await;
    assert_eq!(answered.status, 200, "{}", answered.text());
    assert_eq!(world.show("alice").await["status"], "active");
}

/// One answer that names somebody else is a fault of the authority's, not of the refresh token that was sent:
/// that one came with an answer that was believed. The one before it is spent, and sending it again would end
/// the grant.
#[tokio::test]
async fn an_answer_for_somebody_else_has_no_spent_refresh_token_sent() {
    for mode in [Mode::Strict, Mode::Entra] {
        let world = Plan::default().mode(mode).start().await;
        world.connect("alice", ALICE).await;
        let first = world.access_token("alice").await;
        // Rotated once: there is one before the one that is kept.
        let second = text(&report(&world, "alice", &first).await.json(), "access_token").to_owned();
        world.entra.clear_ledger();
        let other = claims(json!({ "oid": "00000000-0000-4000-8000-0000000000ff" }));
        world.entra.faults().inject(FaultRule::new(Endpoint::Token, other).grant_type("refresh_token"));
        let refused = report(&world, "alice", &second).await;
        assert_eq!(refused.json()["code"], "authority_unavailable", "{}", refused.text());
        world.entra.faults().clear();
        assert_eq!(world.token_calls("refresh_token"), 1, "{mode:?}");
        assert_eq!(world.show("alice").await["status"], "active");
    }
}

/// A sign-in's answer is read as a refresh's is: what is odd in it is one warning, and the connection is
/// made.
#[tokio::test]
async fn a_sign_in_names_what_was_odd_in_its_answer() {
    let world = Plan::default().mode(Mode::Strict).start().await;
    let odd = [
        (answer(json!({ "expires_in": 864_000 })), "expires_in_cut"),
        (claims(json!({ "azp": 7 })), "claim_azp_ignored"),
    ];
    for (number, (fault, rule)) in odd.into_iter().enumerate() {
        let name = format!("user-{number}");
        world.entra.faults().inject(FaultRule::new(Endpoint::Token, fault).grant_type("authorization_code"));
        world.connect(&name, ALICE).await;
        world.entra.faults().clear();
        assert_eq!(world.show(&name).await["status"], "active", "{rule}");
        let warned = warned(&world, &name).await;
        assert_eq!(warned.len(), 1, "{rule}: {warned:?}");
        assert_eq!((&warned[0]["rule"], &warned[0]["app"]), (&json!(rule), &json!("outlook")), "{rule}");
        assert!(warned[0]["correlation_id"].is_string(), "{rule}: {warned:?}");
    }
}
