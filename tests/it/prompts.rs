//! Prompts that a caller requests at Entra: `prompt=consent` would refuse the users of a tenant whose
//! administrator has consented for them.

use entra_emulator::User;
use serde_json::{Value, json};

use crate::attacks_connect::{account_of, confirm, parameter, press, session};
use crate::http_client::Browser;
use crate::world::{ALICE, Plan, World, text};

const NOBODY: &str = "00000000-0000-4000-8000-0000000000ff";

/// The prompt that the authority is sent, and what the caller is told.
async fn asked(world: &World, connection: &str, more: Value) -> (String, Option<String>) {
    let session = session(world, connection, more).await;
    let url = press(&mut Browser::default(), &session).await;
    let prompt = if url.contains("&prompt=") { parameter(&url, "prompt") } else { String::new() };
    (prompt, session["remark"].as_str().map(str::to_owned))
}

fn tenant_of(user: &str) -> String {
    User::work(user).tenant_id().to_owned()
}

#[tokio::test]
async fn consent_is_not_asked_for_again_where_the_tenant_has_given_it() {
    let world = Plan::default().start().await;
    let consent = || json!({ "prompt": "consent" });

    // Nobody knows yet whose account it will be, nor what its tenant allows.
    assert_eq!(asked(&world, "alice", consent()).await, ("consent".to_owned(), None));

    world.connect("alice", ALICE).await;
    let (prompt, remark) = asked(&world, "alice", consent()).await;
    assert_eq!(prompt, "", "her tenant has shown its consent");
    let remark = remark.expect("that is said");
    assert!(remark.contains("prompt=consent is left out") && remark.contains("AADSTS90095"), "{remark}");
    let line = world
        .daemon
        .log()
        .lines()
        .find(|line| line.contains("prompt=consent is left out"))
        .map(str::to_owned);
    let line = line.expect("a line in the log");
    assert!(line.contains(r#""connection":"alice""#) && line.contains(r#""app":"outlook""#), "{line}");

    // A colleague of hers, said by account.
    let tid = tenant_of(ALICE);
    let colleague = json!({ "prompt": "consent", "account": { "tid": tid, "oid": NOBODY } });
    assert_eq!(asked(&world, "colleague", colleague).await.0, "");

    // Another tenant has shown nothing, any account may come to a new name, and other prompts are the
    // caller's.
    let stranger = json!({ "prompt": "consent", "account": {
        "tid": "22222222-0000-4000-8000-00000000000b", "oid": NOBODY } });
    assert_eq!(asked(&world, "stranger", stranger).await, ("consent".to_owned(), None));
    assert_eq!(asked(&world, "new", consent()).await, ("consent".to_owned(), None));
    assert_eq!(asked(&world, "alice", json!({ "prompt": "login" })).await, ("login".to_owned(), None));
}

#[tokio::test]
async fn scopes_that_the_tenant_was_not_seen_to_allow_are_asked_for_as_the_caller_wants_it() {
    let world = Plan::default().start().await;
    let fewer = json!({ "scopes": "User.Read", "login_hint": ALICE });
    let begun = session(&world, "alice", fewer).await;
    let mut browser = Browser::default();
    let _ = world.sign_in(&mut browser, text(&begun, "connect_url")).await;
    let state = world.session(text(&begun, "id")).await;
    assert_eq!(confirm(&world, &begun, account_of(&state)).await.status, 200, "{state}");
    let more = json!({ "prompt": "consent", "scopes": "User.Read Mail.Read" });
    assert_eq!(asked(&world, "alice", more).await, ("consent".to_owned(), None));
    let same = json!({ "prompt": "consent", "scopes": "User.Read" });
    assert_eq!(asked(&world, "alice", same).await.0, "");
}

#[tokio::test]
async fn an_app_of_one_tenant_needs_no_account_to_know_it() {
    let tid = tenant_of(ALICE);
    let tenants = Box::leak(format!(r#"["{tid}"]"#).into_boxed_str());
    let world = Plan { tenants, ..Plan::default() }.start().await;
    assert_eq!(asked(&world, "new", json!({ "prompt": "consent" })).await, ("consent".to_owned(), None));
    world.connect("alice", ALICE).await;
    let (prompt, remark) = asked(&world, "new", json!({ "prompt": "consent" })).await;
    assert_eq!(prompt, "");
    assert!(remark.is_some());
}
