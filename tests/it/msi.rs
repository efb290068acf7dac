//! The managed-identity door as it is on the wire: requests as each client sends them, answers that each
//! client takes, tokens in their last minutes, refused tokens. (`managed_identity.rs` has the clients.)

use std::time::Duration;

use entra_emulator::{Endpoint, Fault, FaultRule, RevokeKind};
use http::Method;
use serde_json::Value;

use crate::attacks_api::sha256;
use crate::attacks_rights::{pause, with_harness};
use crate::http_client::{Answer, request};
use crate::world::{ALICE, BOB, Plan, World, text};

const GRAPH: &str = "https://graph.microsoft.com";

async fn ask(world: &World, target: &str, headers: &[(&str, &str)]) -> Answer {
    let url = format!("{}{target}", world.daemon.local);
    request(Method::GET, &url, headers, "").await.expect("an answer")
}

/// Asks for nobody's token at one of the paths, as the caller that may have little.
pub(crate) async fn of_nobody_s(world: &World, path: &str) -> Answer {
    let name = if path == "/msi/token" { "&client_id=nobody-s:nobody-s" } else { "" };
    let key = [("x-identity-header", world.reader_key.as_str())];
    ask(world, &format!("{path}?resource={GRAPH}{name}"), &key).await
}

/// Asks as a client does.
async fn ask_for(world: &World, connection: &str, more: &str) -> Answer {
    let target =
        format!("/msi/token?api-version=2019-08-01&resource={GRAPH}&client_id=outlook:{connection}{more}");
    ask(world, &target, &[("x-identity-header", &world.key)]).await
}

async fn token_for(world: &World, connection: &str, more: &str) -> String {
    let answer = ask_for(world, connection, more).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    text(&answer.json(), "access_token").to_owned()
}

/// Checks the form, the status and the code of a refusal; returns its `Retry-After`.
fn assert_refused(answer: &Answer, status: u16, code: &str) -> Option<u64> {
    let body = answer.json();
    assert_eq!((answer.status.as_u16(), &body["error"]), (status, &Value::from(code)), "{body}");
    assert_eq!(body["statusCode"], status, "{body}");
    assert!(body["message"].as_str().is_some_and(|message| message.contains("; ")), "{body}");
    answer.headers.get("retry-after").map(|value| value.to_str().expect("text").parse().expect("seconds"))
}

/// Query and headers as five clients send them, and the older ones.
#[tokio::test]
async fn every_clients_request_is_answered_in_the_form_that_all_take() {
    let world = Plan::default().start().await;
    world.connect("team-a/user-7", ALICE).await;
    let token = world.access_token("team-a/user-7").await;
    let key = world.key.clone();
    let form = "application/x-www-form-urlencoded;charset=utf-8";
    let plain = "resource=https://graph.microsoft.com&client_id=outlook:team-a/user-7";
    let encoded = "resource=https%3A%2F%2Fgraph.microsoft.com&client_id=outlook%3Ateam-a%2Fuser-7";
    let of_path = "/v1/apps/outlook/connections/team-a%2Fuser-7/msi/token";
    let id = ("x-ms-client-request-id", "ab5b4090-8069-462e-986d-f027fbd4a43a");
    let rows: [(String, &[(&str, &str)]); 9] = [
        // azure-identity and msal for Python, @azure/identity, msal-node, azure_identity for Rust.
        (
            format!("/msi/token?api-version=2019-08-01&{plain}"),
            &[("X-IDENTITY-HEADER", &key), ("Metadata", "true"), id],
        ),
        (
            format!("/msi/token?api-version=2019-08-01&{encoded}"),
            &[("X-IDENTITY-HEADER", &key), ("Metadata", "true")],
        ),
        (
            format!("/msi/token?api-version=2019-08-01&{encoded}"),
            &[("X-IDENTITY-HEADER", &key), ("Content-Type", form), id],
        ),
        (
            format!("/msi/token?api-version=2019-08-01&xms_cc=CP1&{encoded}"),
            &[("X-IDENTITY-HEADER", &key), ("Content-Type", form)],
        ),
        (
            format!("/msi/token?api-version=2019-08-01&{encoded}"),
            &[("x-identity-header", &key), ("metadata", "true"), id],
        ),
        // The newest version; MSI_ENDPOINT with MSI_SECRET; Service Fabric's.
        (format!("/msi/token?api-version=2025-03-30&xms_cc=cp1&{plain}"), &[("x-identity-header", &key)]),
        (
            format!("/msi/token?api-version=2017-09-01&{}", encoded.replace("client_id", "clientid")),
            &[("secret", &key), ("Metadata", "true")],
        ),
        (format!("/msi/token?api-version=2019-07-01-preview&{encoded}"), &[("secret", &key)]),
        // The connection's own address.
        (format!("{of_path}?api-version=2019-08-01&resource={GRAPH}"), &[("x-identity-header", &key)]),
    ];
    for (target, headers) in rows {
        let answer = ask(&world, &target, headers).await;
        assert_eq!(answer.status, 200, "{target}: {}", answer.text());
        let body = answer.json();
        let members: Vec<&str> = body.as_object().expect("an object").keys().map(String::as_str).collect();
        assert_eq!(
            members,
            ["access_token", "client_id", "expires_on", "resource", "token_type"],
            "{target}"
        );
        assert_eq!((text(&body, "access_token"), text(&body, "token_type")), (token.as_str(), "Bearer"));
        assert_eq!((text(&body, "client_id"), text(&body, "resource")), ("outlook:team-a/user-7", GRAPH));
        let now = world.entra.now().duration_since(std::time::UNIX_EPOCH).expect("after 1970").as_secs();
        let left = text(&body, "expires_on").parse::<u64>().expect("whole seconds") - now;
        assert!((301..=5400).contains(&left), "{left}");
    }
    assert_eq!(world.token_calls("refresh_token"), 0);
    // A header in another place than this protocol's is no credential, and two are none.
    let bearer = format!("Bearer {key}");
    let target = format!("/msi/token?api-version=2019-08-01&{plain}");
    for headers in [
        &[][..],
        &[("authorization", bearer.as_str())],
        &[("authorization", bearer.as_str()), ("secret", &key)],
        &[("secret", &key), ("x-identity-header", &key)],
        &[("x-identity-header", "twk_wrong")],
        &[("secret", "")],
    ] {
        let answer = ask(&world, &target, headers).await;
        assert_eq!(assert_refused(&answer, 401, "caller_unauthenticated"), None, "{headers:?}");
    }
}

#[tokio::test]
async fn what_has_no_token_to_give_is_403_and_what_passes_says_when() {
    let world = Plan::default().start().await;
    for (connection, user) in [("gone", ALICE), ("blocked", BOB), ("paused", ALICE), ("fine", ALICE)] {
        world.connect(connection, user).await;
    }
    assert_eq!(pause(&world, "paused", true).await.status, 200);
    let reader = [("x-identity-header", world.reader_key.as_str())];
    let foreign = ask(&world, &format!("/msi/token?resource={GRAPH}&client_id=outlook:fine"), &reader).await;
    assert_eq!(assert_refused(&foreign, 403, "connection_not_found"), None);
    let missing =
        ask(&world, &format!("/msi/token?resource={GRAPH}&client_id=outlook:nobody"), &reader).await;
    assert_eq!(foreign.json()["message"], missing.json()["message"], "they look the same");
    let forbidden =
        ask(&world, "/msi/token?resource=Calendars.Read&client_id=outlook:team-b/x", &reader).await;
    assert_eq!(assert_refused(&forbidden, 403, "connection_not_found"), None);
    let of_scope = async |scope: &str| {
        let target = format!("/msi/token?resource={scope}&client_id=outlook:fine");
        ask(&world, &target, &[("x-identity-header", &world.key)]).await
    };
    assert_eq!(of_scope("https://graph.microsoft.com/Mail.Read").await.status, 200);
    assert_eq!(of_scope("mail.read").await.status, 200);
    assert_eq!(assert_refused(&of_scope("Mail.Send").await, 403, "scope_not_granted"), None);
    assert_eq!(assert_refused(&of_scope("https://vault.azure.net").await, 403, "scope_not_granted"), None);

    world.outlive_tokens();
    // An outage is 503, and its wait is short however long the authority asks for.
    let slow = FaultRule::new(Endpoint::Token, Fault::aadsts(90033));
    world.entra.faults().inject(slow);
    let answer = ask_for(&world, "fine", "").await;
    let after = assert_refused(&answer, 503, "authority_unavailable").expect("a wait");
    assert!((1..=5).contains(&after), "{after}");
    world.entra.faults().clear();

    world.entra.revoke_user(ALICE, RevokeKind::GrantRevoked).expect("known");
    world.entra.revoke_user(BOB, RevokeKind::ConditionalAccess).expect("known");
    for connection in ["gone", "blocked"] {
        world.until("a verdict", async || ask_for(&world, connection, "").await.status == 403).await;
    }
    for (connection, code) in [
        ("gone", "reauthorization_required"),
        ("blocked", "connection_blocked"),
        ("paused", "connection_paused"),
        ("nobody", "connection_not_found"),
    ] {
        assert_eq!(assert_refused(&ask_for(&world, connection, "").await, 403, code), None, "{connection}");
    }
    // A link in the message, if the address asks for it.
    let linked = ask_for(&world, "gone", "&connect=1").await;
    assert_refused(&linked, 403, "reauthorization_required");
    let link = format!("send the user to {}/connect/", world.base_url());
    assert!(text(&linked.json(), "message").contains(&link), "{}", linked.text());
}

/// SDKs ask at every call in a token's last five minutes, and fail if they are refused.
#[tokio::test]
async fn a_token_that_cannot_be_renewed_is_served_to_its_end() {
    let world = Plan::default().token_life(Duration::from_secs(3600)).start().await;
    world.connect("alice", ALICE).await;
    let token = token_for(&world, "alice", "").await;
    world.entra.faults().inject(FaultRule::new(Endpoint::Token, Fault::aadsts(90033)));
    for (pass, left) in [(3350, 250), (150, 100), (80, 20)] {
        world.pass(Duration::from_secs(pass));
        for _ in 0..3 {
            assert_eq!(token_for(&world, "alice", "").await, token, "{left} s left");
        }
    }
    world.pass(Duration::from_secs(20));
    // A renewal that was under way while the time passed counts as too slow.
    world
        .until("nothing is under way", async || {
            ask_for(&world, "alice", "").await.json()["error"] != "overloaded"
        })
        .await;
    assert_refused(&ask_for(&world, "alice", "").await, 503, "authority_unavailable");
    world.entra.faults().clear();
    world.until("it is over", async || ask_for(&world, "alice", "").await.status == 200).await;
    assert_ne!(token_for(&world, "alice", "").await, token);
}

#[tokio::test]
async fn a_refused_token_is_replaced_once_if_it_is_the_one_that_is_held() {
    let world = Plan::default().start().await;
    world.connect("alice", ALICE).await;
    let first = token_for(&world, "alice", "").await;
    let report = format!("&token_sha256_to_refresh={}&xms_cc=cp1", sha256(&first));
    let second = token_for(&world, "alice", &report).await;
    assert_ne!(second, first);
    assert_eq!(token_for(&world, "alice", &report).await, second, "it is no longer held");
    let another = format!("&token_sha256_to_refresh={}", sha256("another"));
    assert_eq!(token_for(&world, "alice", &another).await, second);
    assert_eq!(world.token_calls("refresh_token"), 1);
    assert_refused(&ask_for(&world, "alice", "&token_sha256_to_refresh=x").await, 403, "invalid_request");
}

/// No SDK passes a challenge on, so its token is never one that a resource may challenge.
#[tokio::test]
async fn no_token_of_this_door_is_under_continuous_access_evaluation() {
    let world = Plan::default().app_lines("continuous_access_evaluation = true").start().await;
    world.connect("alice", ALICE).await;
    let native = world.token("alice").await.json();
    assert!(native["expires_in"].as_u64() > Some(20 * 3600), "a day: {native}");
    let token = token_for(&world, "alice", "&xms_cc=cp1").await;
    assert_ne!(text(&native, "access_token"), token);
    let body = ask_for(&world, "alice", "").await.json();
    assert_eq!(text(&body, "access_token"), token, "it is kept");
    let now = world.entra.now().duration_since(std::time::UNIX_EPOCH).expect("after 1970").as_secs();
    assert!(text(&body, "expires_on").parse::<u64>().expect("seconds") - now <= 5400, "{body}");
    assert_eq!(world.access_token("alice").await, text(&native, "access_token"), "each has its own");
    assert_eq!(world.token_calls("refresh_token"), 1);
    // Its user's sessions are revoked: the day-long token is challenged, and this one is not.
    world.entra.revoke_user(ALICE, RevokeKind::GrantRevoked).expect("known");
    assert_eq!(world.graph(text(&native, "access_token")).await.status, 401);
    assert_eq!(world.graph(&token).await.status, 200);
}

#[tokio::test]
async fn a_client_id_without_a_connection_is_the_app_itself() {
    let plan = Plan::default().app_lines("home_tenant = \"22222222-0000-4000-8000-00000000000b\"");
    let (world, key) = with_harness(plan, "app_only = [\"home\"]").await;
    let native = world.api_as(&key, Method::GET, "/v1/apps/outlook/token", Value::Null).await;
    let token = text(&native.json(), "access_token").to_owned();
    let of_app = async |key: &str, resource: &str| {
        let target = format!("/msi/token?api-version=2019-08-01&resource={resource}&client_id=outlook");
        ask(&world, &target, &[("x-identity-header", key)]).await
    };
    for resource in [GRAPH, "https://graph.microsoft.com/.default", "00000003-0000-0000-c000-000000000000"] {
        let answer = of_app(&key, resource).await;
        assert_eq!(answer.status, 200, "{resource}: {}", answer.text());
        let body = answer.json();
        assert_eq!((text(&body, "access_token"), text(&body, "client_id")), (token.as_str(), "outlook"));
        assert_eq!(text(&body, "resource"), resource);
    }
    assert_eq!(assert_refused(&of_app(&key, "https://vault.azure.net").await, 403, "caller_forbidden"), None);
    assert_eq!(assert_refused(&of_app(&world.key, GRAPH).await, 403, "caller_forbidden"), None);
}

/// One client takes a refusal in any other form for an empty token.
#[tokio::test]
async fn a_misspelt_path_of_a_connection_is_refused_in_its_form() {
    let world = Plan::default().start().await;
    world.connect("alice", ALICE).await;
    for path in ["msi/token/", "msi/tokens", "msi/", "msi/Token", "token", "tokn"] {
        let target = format!("/v1/apps/outlook/connections/alice/{path}?resource={GRAPH}");
        for (key, statuses) in [(world.key.as_str(), [403, 404, 401]), ("x", [401; 3])] {
            let answer = ask(&world, &target, &[("x-identity-header", key)]).await;
            let body = answer.json();
            assert!(statuses.contains(&answer.status.as_u16()), "{path}: {body}");
            for member in ["statusCode", "message", "correlationId", "error", "error_description"] {
                assert!(!body[member].is_null(), "{path}: {member}: {body}");
            }
        }
    }
}
