//! No line of log or audit is a link.

use entra_emulator::{Endpoint, Fault, FaultRule};
use http::Method;
use serde_json::{Value, json};

use crate::attacks_api::sha256;
use crate::http_client::Browser;
use crate::world::{Plan, World, text};

fn audit(world: &World) -> String {
    std::fs::read_to_string(world.folder.path().join("audit.jsonl")).expect("an audit file")
}

/// The records of an action.
fn records(world: &World, action: &str) -> Vec<Value> {
    let audit = audit(world);
    let lines = audit.lines().map(|line| serde_json::from_str::<Value>(line).expect("JSON"));
    lines.filter(|record| record["action"] == action).collect()
}

#[tokio::test]
async fn no_id_of_a_session_is_in_log_or_audit() {
    let world = Plan::default().start().await;
    let session = world.start_session(json!({ "app": "outlook", "connection": "user-1" })).await;
    let id = text(&session, "id");
    // Nobody has opened it: it is a link that works.
    let confirm = format!("/v1/connect-sessions/{id}/confirm");
    let refused = world.api(Method::POST, &confirm, json!({ "code": "A".repeat(43) })).await;
    assert_eq!(refused.status, 409, "{}", refused.text());
    assert_eq!(records(&world, "confirmed")[0]["session"], sha256(id)[..16], "which one it was can be told");

    let fault = Fault::Aadsts {
        code: 70_000,
        error: Some("invalid_grant".to_owned()),
        suberror: None,
        claims: None,
        status: Some(400),
        retry_after: None,
    };
    let fault = FaultRule::new(Endpoint::Token, fault).grant_type("authorization_code");
    world.entra.faults().inject(fault);
    world.sign_in(&mut Browser::default(), text(&session, "connect_url")).await;
    world.entra.faults().clear();
    world.daemon.until_logged("a sign-in failed").await;

    let consent = world.api(Method::POST, "/v1/admin-consent-sessions", json!({ "app": "outlook" })).await.json();
    for id in [id, text(&consent, "id")] {
        assert!(!audit(&world).contains(id), "{}", audit(&world));
        assert!(!world.daemon.log().contains(id), "{}", world.daemon.log());
    }
}
