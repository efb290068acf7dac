//! What callers may expect beside a token: a tag to ask again by, where it came from, what is missing, and no
//! renewal under the copies that are in use.

use std::time::Duration;

use entra_emulator::{Endpoint, Fault, FaultRule};
use http::Method;
use serde_json::{Map, Value, json};

use crate::attacks_connect::{account_of, confirm, state_of, up_to_callback};
use crate::http_client::{Answer, Browser, request};
use crate::world::{ALICE, Kept, Plan, World, text};

const TOKEN: &str = "/v1/apps/outlook/connections/alice/token";

async fn token_unless(world: &World, tag: &str) -> Answer {
    let bearer = format!("Bearer {}", world.key);
    let headers = [("authorization", bearer.as_str()), ("if-none-match", tag)];
    let url = format!("{}{TOKEN}", world.daemon.local);
    request(Method::GET, &url, &headers, "").await.expect("an answer")
}

fn header<'a>(answer: &'a Answer, name: &str) -> &'a str {
    answer.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
}

#[tokio::test]
async fn a_caller_that_has_the_token_is_told_so_without_it() {
    let world = Plan::default().start().await;
    world.connect("alice", ALICE).await;
    let first = world.token("alice").await;
    let tag = header(&first, "etag").to_owned();
    assert!(tag.starts_with("W/\""), "{tag}");
    for known in [tag.as_str(), "*", &format!("\"other\", {tag}")] {
        let answer = token_unless(&world, known).await;
        assert_eq!((answer.status.as_u16(), answer.text().as_str()), (304, ""), "{known}");
        assert_eq!(header(&answer, "etag"), tag);
        assert_eq!(header(&answer, "cache-control"), "no-store");
        assert_eq!(header(&answer, "tokenward-source"), "memory");
    }
    assert_eq!(token_unless(&world, "\"other\"").await.status, 200);
    world.outlive_tokens();
    let renewed = token_unless(&world, &tag).await;
    assert_eq!(renewed.status, 200, "{}", renewed.text());
    assert_ne!(header(&renewed, "etag"), tag);
}

#[tokio::test]
async fn a_token_says_where_it_came_from() {
    let world = Plan::default().kept(Kept::Redis).start().await;
    world.connect("alice", ALICE).await;
    let other = world.replica("second").await;
    assert_eq!(header(&world.token_at(&other, "alice").await, "tokenward-source"), "store");
    assert_eq!(header(&world.token_at(&other, "alice").await, "tokenward-source"), "memory");
    world.outlive_tokens();
    assert_eq!(header(&world.token_at(&other, "alice").await, "tokenward-source"), "authority");
    assert_eq!(header(&world.token_at(&other, "alice").await, "tokenward-source"), "memory");
    // What another replica renewed is in the store.
    assert_eq!(header(&world.token("alice").await, "tokenward-source"), "store");
}

#[tokio::test]
async fn a_connection_says_which_scopes_are_missing_and_who_established_it() {
    let world = Plan::default().start().await;
    world.connect("alice", ALICE).await;
    let shown = world.show("alice").await;
    assert_eq!((&shown["scopes_missing"], &shown["established_by"]), (&json!([]), &json!("mail-sync")));
    let patch = Map::from_iter([("scope".to_owned(), json!("openid profile User.Read Mail.Read"))]);
    world.entra.faults().inject(FaultRule::new(Endpoint::Token, Fault::TokenResponsePatch(patch)));
    world.connect("partly", ALICE).await;
    assert_eq!(world.show("partly").await["scopes_missing"], json!(["Calendars.Read"]));
}

/// Its provider ends the old token at each refresh: other callers may be using theirs.
#[tokio::test]
async fn nothing_is_renewed_under_a_token_that_a_refresh_would_end() {
    let life = Duration::from_secs(3600);
    for (line, renewals) in [("", 1), ("refresh_ends_tokens = true", 0)] {
        let world = Plan::default().token_life(life).app_lines(line).start().await;
        world.connect("alice", ALICE).await;
        let first = world.access_token("alice").await;
        world.pass(Duration::from_secs(3000));
        for _ in 0..3 {
            let answer = world.token_with("alice", "?min_ttl=3000").await;
            assert_eq!(answer.status, 200, "{}", answer.text());
            assert_eq!(answer.json()["access_token"] == first, renewals == 0, "{line}");
        }
        assert_eq!(world.token_calls("refresh_token"), renewals, "{line}");
        world.pass(Duration::from_secs(600));
        assert_ne!(world.access_token("alice").await, first, "{line}");
        assert!(world.token_calls("refresh_token") > 0, "{line}");
    }
}

/// Microsoft's default policy leaves mail, calendars and contacts to write to administrators.
#[tokio::test]
async fn a_session_says_before_the_user_goes_what_it_adds_and_whether_an_administrator_is_needed() {
    let scopes = r#"["offline_access", "openid", "profile", "User.Read", "Mail.Read", "Calendars.Read", "Mail.Send",
        "Contacts.ReadWrite"]"#;
    let world = Plan { scopes, ..Plan::default() }.start().await;
    let consent = async |body: Value| {
        let session = world.start_session(body).await;
        session.get("consent").cloned().unwrap_or_default()
    };
    let with = |more: &[&str]| {
        let scopes =
            [&["openid", "profile", "offline_access", "User.Read", "Mail.Read", "Calendars.Read"], more];
        json!({ "app": "outlook", "connection": "alice", "scopes": scopes.concat() })
    };
    let first = consent(with(&[])).await;
    assert_eq!(first["administrator"], "likely", "{first}");
    assert_eq!(first["scopes_added"], json!(["Calendars.Read", "Mail.Read", "User.Read"]), "{first}");
    let session = world.start_session(with(&[])).await;
    let mut browser = Browser::default();
    let callback = up_to_callback(&mut browser, &session).await;
    browser.get(&callback).await.expect("the callback");
    let account = account_of(&state_of(&world, &session).await);
    assert_eq!(confirm(&world, &session, account).await.status, 200);
    assert_eq!(consent(with(&[])).await, Value::Null, "it adds nothing");
    let sends = consent(with(&["Mail.Send"])).await;
    assert_eq!(sends, json!({ "scopes_added": ["Mail.Send"], "administrator": "not_needed" }));
    let writes = consent(with(&["Contacts.ReadWrite"])).await;
    assert_eq!(writes, json!({ "scopes_added": ["Contacts.ReadWrite"], "administrator": "likely" }));
    // Another user of a tenant whose consent shows.
    let account = world.show("alice").await["account"].clone();
    let other = json!({
        "app": "outlook",
        "connection": "bob",
        "scopes": with(&[])["scopes"],
        "account": { "tid": account["tid"], "oid": "00000000-0000-0000-0000-000000000001" }
    });
    assert_eq!(consent(other).await["administrator"], "not_needed");
}

/// What is mistaken is said, and not passed over.
#[tokio::test]
async fn a_parameter_that_cannot_be_meant_is_refused_by_name() {
    let world = Plan::default().start().await;
    world.connect("alice", ALICE).await;
    for (query, expected) in
        [("connect=true", 400), ("connect=yes", 400), ("connect=0", 200), ("connect=", 200)]
    {
        let answer = world.token_with("alice", &format!("?{query}")).await;
        assert_eq!(answer.status, expected, "{query}: {}", answer.text());
        if expected == 400 {
            assert_eq!(answer.json()["parameter"], "connect", "{query}");
        }
    }
    for tenant in [".example", "-a.example", "a..example", "a b", ""] {
        let asked = json!({ "app": "outlook", "tenant": tenant });
        let answer = world.api(Method::POST, "/v1/admin-consent-sessions", asked).await;
        assert_eq!(
            (answer.status.as_u16(), &answer.json()["parameter"]),
            (400, &json!("tenant")),
            "{tenant:?}"
        );
    }
}

/// A client that compresses its bodies is told so, and not that its JSON is none.
#[tokio::test]
async fn a_compressed_body_is_refused_by_the_name_of_its_field() {
    let world = Plan::default().start().await;
    let bearer = format!("Bearer {}", world.key);
    let body = r#"{"app":"outlook","connection":"team-b/alice"}"#;
    let sent = async |path: &str, kind: &str, coding: &str, body: &[u8]| {
        let mut headers = vec![("content-type", kind), ("content-encoding", coding)];
        // (A client of the token endpoint names itself in the form.)
        headers.extend((path != "/oauth2/token").then_some(("authorization", bearer.as_str())));
        let url = format!("{}{path}", world.daemon.local);
        request(Method::POST, &url, &headers, body.to_owned()).await.expect("an answer")
    };
    for coding in ["gzip", "br", "identity, gzip"] {
        let refused = sent("/v1/connect-sessions", "application/json", coding, b"\x1f\x8b\x08\x00").await;
        assert_eq!((refused.status.as_u16(), text(&refused.json(), "parameter")), (400, "body"), "{coding}");
        assert!(text(&refused.json(), "detail").contains("Content-Encoding"), "{}", refused.text());
        assert_eq!(header(&refused, "connection"), "close", "the body is left unread");
    }
    let form = "application/x-www-form-urlencoded";
    let refused = sent("/oauth2/token", form, "gzip", b"grant_type=client_credentials").await;
    assert_eq!(refused.status, 400, "{}", refused.text());
    assert!(refused.text().contains("Content-Encoding"), "{}", refused.text());
    for (coding, body) in [("identity", body), ("Identity", body)] {
        let made = sent("/v1/connect-sessions", "application/json", coding, body.as_bytes()).await;
        assert_eq!(made.status, 201, "{coding}: {}", made.text());
    }
}
