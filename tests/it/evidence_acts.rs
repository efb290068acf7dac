//! Every act is in the audit stream, even if the requester did not wait; and no line of log or audit is a
//! link.

use std::collections::BTreeSet;
use std::io::Write as _;
use std::net::TcpStream;

use entra_emulator::{Endpoint, Fault, FaultRule};
use http::Method;
use serde_json::{Value, json};

use crate::attacks_api::sha256;
use crate::attacks_connect::{redemptions, up_to_callback};
use crate::http_client::Browser;
use crate::world::{ALICE, Plan, World, text};

fn audit(world: &World) -> String {
    std::fs::read_to_string(world.folder.path().join("audit.jsonl")).expect("an audit file")
}

/// The records of an action, and what was said of each connection.
fn records(world: &World, action: &str) -> Vec<Value> {
    let audit = audit(world);
    let lines = audit.lines().map(|line| serde_json::from_str::<Value>(line).expect("JSON"));
    lines.filter(|record| record["action"] == action).collect()
}

/// Asks, and goes without waiting for the answer.
fn ask_and_go(world: &World, method: &str, path: &str) {
    let address = world.daemon.local.strip_prefix("http://").expect("an address");
    let mut socket = TcpStream::connect(address).expect("connected");
    let head =
        format!("{method} {path} HTTP/1.1\r\nhost: {address}\r\nauthorization: Bearer {}\r\n\r\n", world.key);
    socket.write_all(head.as_bytes()).expect("sent");
}

#[tokio::test]
async fn an_act_whose_asker_has_gone_is_in_the_audit() {
    const ACTS: usize = 12;
    let world = Plan::default().start().await;
    for number in 0..ACTS {
        world.connect(&format!("user-{number}"), ALICE).await;
    }
    for number in 0..ACTS {
        let path = format!("/v1/apps/outlook/connections/user-{number}");
        // Whoever has gone before anything began has done nothing, and may ask again.
        let is_gone = async || {
            ask_and_go(&world, "DELETE", &path);
            world.api(Method::GET, &path, Value::Null).await.status == 404
        };
        world.until("it is deleted", is_gone).await;
    }
    let deleted = async || {
        let ok = records(&world, "deleted").into_iter().filter(|record| record["outcome"] == "ok");
        ok.map(|record| text(&record, "connection").to_owned()).collect::<BTreeSet<_>>().len() == ACTS
    };
    world.until("every delete is in the audit", deleted).await;

    // A browser that goes while the authority is asked has connected an account.
    let session = world.start_session(json!({ "app": "outlook", "connection": "last" })).await;
    let mut browser = Browser::default();
    let callback = up_to_callback(&mut browser, &session).await;
    let sent = redemptions(&world);
    let held = FaultRule::new(Endpoint::Token, Fault::HoldAnswer).grant_type("authorization_code");
    world.entra.faults().inject(held);
    tokio::select! {
        _ = browser.get(&callback) => panic!("the authority does not answer"),
        () = world.until_called("authorization_code", sent + 1) => {}
    }
    world.entra.faults().release();
    let is_told = async || records(&world, "connected").iter().any(|record| record["connection"] == "last");
    world.until("the sign-in is in the audit", is_told).await;
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

    let consent =
        world.api(Method::POST, "/v1/admin-consent-sessions", json!({ "app": "outlook" })).await.json();
    for id in [id, text(&consent, "id")] {
        assert!(!audit(&world).contains(id), "{}", audit(&world));
        assert!(!world.daemon.log().contains(id), "{}", world.daemon.log());
    }
}
