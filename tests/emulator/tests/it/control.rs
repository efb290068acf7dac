//! The same knobs over HTTP.

use entra_emulator::Emulator;
use serde_json::{Value, json};

use crate::client::*;

async fn turn(emulator: &Emulator, method: &str, knob: &str, body: Value) -> Reply {
    let url = format!("{}/_emulator/{knob}", emulator.base_url());
    let body = if body.is_null() { String::new() } else { body.to_string() };
    send(method, &url, &[("content-type", "application/json")], &body).await.unwrap()
}

#[tokio::test]
async fn everything_can_be_turned_from_any_language() {
    let emulator = emulator().await;
    let users = [("alice@contoso.example", "revoke", json!({ "kind": "grant_revoked" }))];
    let held = sign_in(&emulator, &[]).await;
    for (upn, knob, body) in users {
        assert_eq!(turn(&emulator, "POST", &format!("users/{upn}/{knob}"), body).await.status, 200);
    }
    assert_eq!(refresh(&emulator, text(&held, "refresh_token"), &[]).await.aadsts(), 50173);
    let held = sign_in(&emulator, &[]).await;

    let fault = json!({ "endpoint": "token", "times": 1, "fault": { "aadsts": { "code": 90033 } } });
    assert_eq!(turn(&emulator, "POST", "faults", fault).await.status, 200);
    assert_eq!(turn(&emulator, "GET", "faults", Value::Null).await.json().as_array().unwrap().len(), 1);
    assert_eq!(refresh(&emulator, text(&held, "refresh_token"), &[]).await.status, 503);

    let before = turn(&emulator, "GET", "clock", Value::Null).await.json()["now"].as_u64().unwrap();
    let after = turn(&emulator, "POST", "clock", json!({ "advance_seconds": 1000 })).await.json();
    assert!(after["now"].as_u64().unwrap() >= before + 1000);

    let settings = turn(&emulator, "PATCH", "settings", json!({ "expires_in_as_string": true })).await;
    assert_eq!(settings.json()["expires_in_as_string"], true);
    let answer = refresh(&emulator, text(&held, "refresh_token"), &[]).await.json();
    assert!(answer["expires_in"].is_string());

    let known =
        turn(&emulator, "POST", "inspect-token", json!({ "token": answer["access_token"] })).await.json();
    assert_eq!((&known["emu_user"], &known["active"]), (&ALICE.into(), &true.into()));
    let ledger = turn(&emulator, "GET", "ledger", Value::Null).await;
    assert!(ledger.json().as_array().unwrap().iter().any(|entry| entry["aadsts"] == 50173));
    assert!(!ledger.text().contains(text(&held, "refresh_token")) && !ledger.text().contains(SECRET));
    turn(&emulator, "DELETE", "ledger", Value::Null).await;
    assert!(emulator.ledger().is_empty());
    for (method, knob, body, status) in [
        ("GET", "health", Value::Null, 200),
        ("POST", "users", json!({ "upn": "dan@contoso.example" }), 200),
        ("POST", "events", json!({ "type": "connection.connected" }), 200),
        ("POST", "sign-in-as", json!({ "upn": "dan@contoso.example" }), 200),
        (
            "POST",
            "apps",
            json!({ "client_id": "second", "secrets": ["a", { "value": "b", "active_after_seconds": 5 }] }),
            200,
        ),
        ("POST", "apps/second/secrets", json!("c"), 409),
        ("POST", "apps/second/secrets/remove", json!({ "secret": "a" }), 200),
        ("POST", "apps/second/secrets", json!("c"), 200),
        ("POST", "apps/second/secrets/expire", json!({ "secret": "c" }), 200),
        ("POST", "apps/none/secrets/rotate", json!({ "secret": "c" }), 404),
        ("POST", "apps/second/certificates", json!({ "certificates": ["nonsense"] }), 404),
        (
            "POST",
            "apps/second/federated",
            json!({ "issuer": "i", "subject": "s", "jwks": { "keys": [] } }),
            200,
        ),
        ("POST", "keys/rotate", json!({ "overlap": false }), 200),
        ("POST", "access-tokens/expire", Value::Null, 200),
        ("POST", "consent-policy", json!({ "policy": "admin_required" }), 200),
        ("POST", "admin-consent", json!({ "tenant": "contoso.example", "client_id": "second" }), 200),
        ("POST", "graph/challenge", json!({ "style": "joined" }), 200),
        ("POST", "graph/throttle", json!({ "times": 2 }), 200),
        ("PATCH", "settings", json!({ "unknown": 1 }), 400),
        ("DELETE", "faults", Value::Null, 200),
        ("POST", "nothing", Value::Null, 404),
    ] {
        let reply = turn(&emulator, method, knob, body).await;
        assert_eq!(reply.status, status, "{method} {knob}: {}", reply.text());
    }
}

#[tokio::test]
async fn web_pages_turn_no_knobs_and_bodies_are_bounded() {
    let emulator = emulator().await;
    let url = format!("{}/_emulator/health", emulator.base_url());
    assert_eq!(get(&url, &[("origin", "https://evil.example")]).await.status, 403);
    let huge = "x".repeat(70_000);
    let reply =
        token(&emulator, "common", &[("grant_type", "refresh_token"), ("refresh_token", &huge)]).await;
    assert_eq!(reply.status, 413);
}
