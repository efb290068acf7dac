//! The dialects of the local API: each path has its own credential and its own form of an error.

use http::{Method, StatusCode};
use serde_json::Value;

use crate::http_client::request;
use crate::world::{ALICE, Plan, World};

async fn ask(world: &World, method: Method, target: &str, headers: &[(&str, &str)]) -> (StatusCode, Value) {
    let url = format!("{}{target}", world.daemon.local);
    let answer = request(method, &url, headers, String::new()).await.expect("an answer");
    assert_eq!(answer.headers["content-type"], "application/json", "{}", answer.text());
    assert_eq!(answer.headers["cache-control"], "no-store");
    (answer.status, answer.json())
}

/// The message leads the user on, and every client finds the words that it shows.
fn assert_is_a_refusal(status: StatusCode, body: &Value, code: &str) {
    assert_eq!(body["statusCode"], status.as_u16(), "{body}");
    assert_eq!(body["error"], code, "{body}");
    assert_eq!(body["message"], body["error_description"], "{body}");
    assert!(body["message"].as_str().is_some_and(|message| message.len() > 20), "{body}");
    assert_eq!(body["correlationId"].as_str().map(str::len), Some(32), "{body}");
}

#[tokio::test]
async fn managed_identity_gives_the_token_of_the_connection_that_is_named() {
    let world = Plan::default().start().await;
    world.connect("team-a/alice", ALICE).await;
    let token = world.access_token("team-a/alice").await;
    let key = world.key.clone();
    let header = [("x-identity-header", key.as_str())];
    let query = "api-version=2019-08-01&resource=https://graph.microsoft.com";
    for target in [
        format!("/msi/token?{query}&client_id=outlook:team-a/alice"),
        format!("/msi/token?{query}&client_id=outlook%3Ateam-a%2Falice"),
        format!("/v1/apps/outlook/connections/team-a%2Falice/msi/token?{query}"),
        format!("/v1/apps/outlook/connections/team-a/alice/msi/token?{query}"),
    ] {
        let (status, body) = ask(&world, Method::GET, &target, &header).await;
        assert_eq!(status, 200, "{target}: {body}");
        assert_eq!(body["access_token"], token, "{target}");
        assert_eq!(body["client_id"], "outlook:team-a/alice", "{target}");
        let seconds = body["expires_on"].as_str().and_then(|text| text.parse::<u64>().ok());
        assert!(seconds.is_some(), "{body}");
    }
    let metrics = world.metrics().await;
    assert!(metrics.contains(r#"dialect="msi",outcome="ok"} 4"#), "{metrics}");
}

#[tokio::test]
async fn every_refusal_below_a_dialect_has_its_form() {
    let world = Plan::default().start().await;
    let key = world.key.clone();
    let known = [("x-identity-header", key.as_str())];
    let bearer = format!("Bearer {key}");
    let native = [("authorization", bearer.as_str())];
    let of_nobody = "/msi/token?resource=https://graph.microsoft.com&client_id=outlook:nobody";
    let many = format!("/msi/token?{}", "a&".repeat(70));
    let long = format!("/msi/token?a={}", "a".repeat(9000));
    let get = Method::GET;
    for (method, target, headers, status, code) in [
        (get.clone(), of_nobody, &known[..], 403, "connection_not_found"),
        (get.clone(), of_nobody, &[], 401, "caller_unauthenticated"),
        (get.clone(), of_nobody, &native, 401, "caller_unauthenticated"),
        (get.clone(), "/msi/token?client_id=outlook:a", &known, 403, "invalid_request"),
        (get.clone(), "/msi/token?resource=x&resource=y", &known, 403, "invalid_request"),
        (get.clone(), "/msi/token/", &known, 404, "not_found"),
        (get.clone(), "/msi", &known, 404, "not_found"),
        (Method::POST, of_nobody, &known, 405, "method_not_allowed"),
        (get.clone(), &many, &known, 403, "invalid_request"),
        (get, &long, &known, 414, "invalid_request"),
    ] {
        let (answered, body) = ask(&world, method, target, headers).await;
        assert_eq!(answered, status, "{target}: {body}");
        assert_is_a_refusal(answered, &body, code);
    }
}
