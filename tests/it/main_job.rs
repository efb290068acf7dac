//! The main job with both stores and both of the authority's modes: connect, hand out, refresh, reconnect in
//! place, delete. A crowd makes one call, and a kill loses nothing.

use std::sync::Arc;
use std::time::Duration;

use entra_emulator::{Endpoint, Fault, FaultRule, Mode};
use http::Method;
use serde_json::{Value, json};

use crate::http_client::Browser;
use crate::world::{ALICE, BOB, Kept, PATIENCE, Plan, alone, text};

/// A user who signs in and a confirmation that comes later: the connection is not younger than the sign-in
/// that it came from.
#[tokio::test]
async fn a_connection_is_as_old_as_the_sign_in_that_made_it() {
    let world = Plan::default().start().await;
    world.entra.sign_in_as(ALICE);
    let session = world.start_session(json!({ "app": "outlook", "connection": "one" })).await;
    world.sign_in(&mut Browser::default(), text(&session, "connect_url")).await;
    let id = text(&session, "id");
    let account = world.session(id).await["account"].clone();
    world.pass(Duration::from_secs(120));
    let account = json!({ "account": { "tid": account["tid"], "oid": account["oid"] } });
    let confirmed = world.api(Method::POST, &format!("/v1/connect-sessions/{id}/confirm"), account).await;
    assert_eq!(confirmed.status, 200, "{}", confirmed.text());
    let shown = world.show("one").await;
    assert_eq!(shown["created_at"], shown["connected_at"], "{shown}");
    assert!(text(&shown, "connected_at") < text(&shown, "last_refreshed_at"), "time has passed: {shown}");
}

async fn main_job(kept: Kept, mode: Mode, form_post: bool) {
    let mut plan = Plan::default().kept(kept).mode(mode);
    plan.form_post = form_post;
    let world = plan.start().await;

    // Connect, and hand out.
    world.connect("team-a/alice", ALICE).await;
    let first = world.token("team-a/alice").await;
    assert_eq!(first.status, 200, "{}", first.text());
    assert_eq!(first.headers["cache-control"], "no-store");
    let first = first.json();
    assert_eq!(first["connection"], "team-a/alice");
    assert_eq!(first["token_type"], "Bearer");
    assert_eq!(first["account"]["username"], ALICE);
    let first = text(&first, "access_token").to_owned();
    let me = world.graph(&first).await;
    assert_eq!((me.status.as_u16(), text(&me.json(), "userPrincipalName")), (200, ALICE));

    // Age, refresh: three times, so that both generations of refresh tokens have been used.
    let mut before = first;
    for round in 0..3 {
        world.outlive_tokens();
        let now = world.access_token("team-a/alice").await;
        assert_ne!(now, before, "round {round}");
        assert_eq!(world.graph(&now).await.status, 200);
        before = now;
    }
    assert_eq!(world.token_calls("refresh_token"), 3);

    // Reconnect in place: the same account needs no confirmation, and the connection keeps its birth.
    let shown = world.show("team-a/alice").await;
    assert_eq!(shown["status"], "active");
    let session = world.start_session(json!({ "app": "outlook", "connection": "team-a/alice" })).await;
    let mut browser = Browser::default();
    let (_, page) = world.sign_in(&mut browser, text(&session, "connect_url")).await;
    assert!(page.text().contains("connected"), "{}\n{}", page.text(), world.daemon.log());
    assert_eq!(world.session(text(&session, "id")).await["state"], "connected");
    assert_eq!(world.show("team-a/alice").await["created_at"], shown["created_at"]);
    assert_ne!(world.access_token("team-a/alice").await, before);

    // Another one is another one.
    world.connect("team-b/bob", BOB).await;
    let bobs = world.access_token("team-b/bob").await;
    assert_eq!(text(&world.graph(&bobs).await.json(), "userPrincipalName"), BOB);

    // List, by pages and by status.
    let page = world.api(Method::GET, "/v1/apps/outlook/connections?status=active", Value::Null).await.json();
    let names: Vec<&str> =
        page["connections"].as_array().expect("a page").iter().map(|one| text(one, "connection")).collect();
    assert_eq!(names, ["team-a/alice", "team-b/bob"]);

    // Delete: gone at once, from store and memory.
    let path = "/v1/apps/outlook/connections/team-a%2Falice";
    assert_eq!(world.api(Method::DELETE, path, Value::Null).await.status, 204);
    assert_eq!(world.token("team-a/alice").await.status, 404);
    assert_eq!(world.api(Method::DELETE, path, Value::Null).await.status, 404);
    assert_eq!(world.token("team-b/bob").await.status, 200);
}

#[tokio::test]
async fn embedded_entra_query() {
    main_job(Kept::Embedded, Mode::Entra, false).await;
}

#[tokio::test]
async fn embedded_strict_form_post() {
    main_job(Kept::Embedded, Mode::Strict, true).await;
}

#[tokio::test]
async fn embedded_entra_form_post() {
    main_job(Kept::Embedded, Mode::Entra, true).await;
}

#[tokio::test]
async fn embedded_strict_query() {
    main_job(Kept::Embedded, Mode::Strict, false).await;
}

#[tokio::test]
async fn redis_entra_form_post() {
    main_job(Kept::Redis, Mode::Entra, true).await;
}

#[tokio::test]
async fn redis_strict_query() {
    main_job(Kept::Redis, Mode::Strict, false).await;
}

#[tokio::test]
async fn redis_entra_query() {
    main_job(Kept::Redis, Mode::Entra, false).await;
}

#[tokio::test]
async fn redis_strict_form_post() {
    main_job(Kept::Redis, Mode::Strict, true).await;
}

/// 500 requests at once on an expired token: the authority sees one refresh, and everyone gets its token.
async fn crowd(kept: Kept, mode: Mode) {
    let _alone = alone().await;
    let world = Arc::new(Plan::default().kept(kept).mode(mode).start().await);
    world.connect("crowd", ALICE).await;
    world.outlive_tokens();
    world.entra.clear_ledger();
    world.entra.faults().inject(FaultRule::new(Endpoint::Token, Fault::Delay(Duration::from_millis(500))));
    let requests: Vec<_> = (0..500)
        .map(|_| {
            let world = world.clone();
            tokio::spawn(async move { world.access_token("crowd").await })
        })
        .collect();
    let mut tokens = std::collections::BTreeSet::new();
    for request in requests {
        tokens.insert(request.await.expect("a token"));
    }
    assert_eq!(tokens.len(), 1);
    assert_eq!(world.token_calls("refresh_token"), 1);
}

#[tokio::test]
async fn a_crowd_makes_one_call_embedded_entra() {
    crowd(Kept::Embedded, Mode::Entra).await;
}

#[tokio::test]
async fn a_crowd_makes_one_call_embedded_strict() {
    crowd(Kept::Embedded, Mode::Strict).await;
}

#[tokio::test]
async fn a_crowd_makes_one_call_redis_entra() {
    crowd(Kept::Redis, Mode::Entra).await;
}

#[tokio::test]
async fn a_crowd_makes_one_call_redis_strict() {
    crowd(Kept::Redis, Mode::Strict).await;
}

/// SIGKILL while refreshes are under way, the authority having rotated or not: after the restart every
/// connection yields a token, for used refresh tokens stay valid.
async fn killed_during_a_refresh(kept: Kept) {
    // A lease of the process that was killed ends by itself.
    let limits = "[limits]\nauthority_timeout = \"2s\"\nlease = \"7s\"\n";
    let mut world = Plan::default().kept(kept).sections(limits).start().await;
    let names: Vec<String> = (0..4).map(|number| format!("user-{number}")).collect();
    for name in &names {
        world.connect(name, ALICE).await;
    }
    for fault in [Fault::DelayAnswer(PATIENCE), Fault::Delay(PATIENCE)] {
        world.outlive_tokens();
        world.entra.clear_ledger();
        world.entra.faults().inject(FaultRule::new(Endpoint::Token, fault));
        let bearer = format!("Bearer {}", world.key);
        let waiting: Vec<_> = names
            .iter()
            .map(|name| {
                let url = format!("{}/v1/apps/outlook/connections/{name}/token", world.daemon.local);
                let bearer = bearer.clone();
                tokio::spawn(async move {
                    let headers = [("authorization", bearer.as_str())];
                    crate::http_client::request(Method::GET, &url, &headers, "").await.is_ok()
                })
            })
            .collect();
        world.until_called("refresh_token", names.len()).await;
        world.daemon.kill();
        for request in waiting {
            assert!(!request.await.expect("joined"), "the daemon was killed before it could answer");
        }
        world.entra.faults().clear();
        world.pass_in_redis(Duration::from_secs(7));
        world.kill_and_restart().await;
        for name in &names {
            let token = world.access_token(name).await;
            assert_eq!(world.graph(&token).await.status, 200);
            assert_eq!(world.show(name).await["status"], "active");
        }
    }
}

#[tokio::test]
async fn a_kill_during_a_refresh_loses_nothing_embedded() {
    killed_during_a_refresh(Kept::Embedded).await;
}

#[tokio::test]
async fn a_kill_during_a_refresh_loses_nothing_redis() {
    killed_during_a_refresh(Kept::Redis).await;
}
