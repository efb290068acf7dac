//! All doors agree about names: a name accepted at one is accepted at every one, and an impossible name is
//! reported as such.

use http::Method;
use serde_json::{Value, json};

use crate::http_client::{Browser, request, request_unix};
use crate::world::{Plan, World, text};

/// Names as they are, and as a path may spell them.
const IMPOSSIBLE: [(&str, &str); 10] = [
    (".", "%2E"),
    ("..", "%2e%2e"),
    ("a/../b", "a%2F..%2Fb"),
    ("a/./b", "a/%2E/b"),
    ("/lead", "%2Flead"),
    ("trail/", "trail%2F"),
    ("a//b", "a%2F%2Fb"),
    ("john+test@contoso.com", "john+test@contoso.com"),
    ("auth0|5f7c", "auth0%7C5f7c"),
    ("Jürgen", "J%C3%BCrgen"),
];

async fn refused_as_a_name(world: &World, method: Method, path: &str, body: Value) {
    let answer = world.api(method.clone(), path, body).await;
    let what = format!("{method} {path}: {}", answer.text());
    assert_eq!(answer.status, 400, "{what}");
    let problem = answer.json();
    assert_eq!(
        (text(&problem, "code"), text(&problem, "parameter")),
        ("invalid_request", "connection"),
        "{what}"
    );
    let detail = text(&problem, "detail");
    assert!(detail.contains("A-Z a-z 0-9 . _ @ : / -") || detail.contains("`.` or `..`"), "{what}");
}

#[tokio::test]
async fn a_name_that_cannot_be_is_refused_at_every_door_with_the_reason() {
    let world = Plan::default().start().await;
    for (name, escaped) in IMPOSSIBLE {
        let asked = json!({ "app": "outlook", "connection": name });
        refused_as_a_name(&world, Method::POST, "/v1/connect-sessions", asked).await;
        let base = format!("/v1/apps/outlook/connections/{escaped}");
        refused_as_a_name(&world, Method::GET, &base, Value::Null).await;
        refused_as_a_name(&world, Method::DELETE, &base, Value::Null).await;
        refused_as_a_name(&world, Method::GET, &format!("{base}/explain"), Value::Null).await;
        refused_as_a_name(&world, Method::GET, &format!("{base}/token"), Value::Null).await;
        refused_as_a_name(&world, Method::POST, &format!("{base}/token"), json!({})).await;
    }
    // A path that is not there stays one; an app that cannot be is an app that is not there.
    for (path, code) in [
        ("/v1/nothing", "not_found"),
        ("/v1/apps/outlook/connections/", "not_found"),
        ("/v1/apps/NOPE/connections/alice/token", "app_not_found"),
    ] {
        let answer = world.api(Method::GET, path, Value::Null).await;
        assert_eq!((answer.status.as_u16(), text(&answer.json(), "code")), (404, code), "{path}");
    }
    // Whoever is not known learns nothing of it.
    let url = format!("{}/v1/apps/outlook/connections/%2E%2E/token", world.daemon.local);
    assert_eq!(request(Method::GET, &url, &[], "").await.expect("an answer").status, 401);

    // What was connected before such names were refused: an operator can still delete it.
    let socket = world.folder.path().join("admin.sock");
    for escaped in ["%2E%2E", "a%2F..%2Fb", "%2Flead"] {
        let path = format!("/admin/v1/apps/outlook/connections/{escaped}");
        for method in [Method::GET, Method::DELETE] {
            let answer = request_unix(&socket, method, &path, &[], "").await.expect("an answer");
            let code = text(&answer.json(), "code").to_owned();
            assert_eq!((answer.status.as_u16(), &code[..]), (404, "connection_not_found"), "{path}");
        }
    }
}

#[tokio::test]
async fn two_names_of_one_service_are_one_resource() {
    let scopes =
        r#"["offline_access", "openid", "profile", "User.Read", "https://outlook.office.com/SMTP.Send"]"#;
    let world = Plan { scopes, ..Plan::default() }.start().await;
    world.connect("alice", crate::world::ALICE).await;
    for resource in
        ["https://outlook.office.com", "https://outlook.office365.com", "https://outlook.office365.com/"]
    {
        let answer = world.token_with("alice", &format!("?resource={resource}")).await;
        assert_eq!(answer.status, 200, "{resource}: {}", answer.text());
        assert!(text(&answer.json(), "scope").contains("SMTP.Send"), "{resource}: {}", answer.text());
    }
    let by_scope = world.token_with("alice", "?scope=https://outlook.office365.com/SMTP.Send").await;
    assert_eq!(by_scope.status, 200, "{}", by_scope.text());
    // One token for all of them.
    assert_eq!(world.token_calls("refresh_token"), 1);
}

#[tokio::test]
async fn headers_that_are_too_large_are_answered_with_what_to_do() {
    let world = Plan::default().start().await;
    let cookies = format!("other={}", "x".repeat(17_000));
    let url = format!("{}/callback/outlook?code=c&state=s", world.daemon.public);
    let page = request(Method::GET, &url, &[("cookie", &cookies)], "").await.expect("an answer");
    assert_eq!(page.status, 431);
    crate::attacks_connect::assert_headers(&page, "431");
    assert!(page.text().contains("Delete the cookies of localhost"), "{}", page.text());
    assert!(page.headers.contains_key("x-request-id"));
    // The listener goes on.
    let link = format!("{}/", world.base_url());
    assert_eq!(Browser::default().get(&link).await.expect("a page").status, 200);

    let many: Vec<(String, &str)> = (0..70).map(|number| (format!("x-{number}"), "y")).collect();
    let many: Vec<(&str, &str)> = many.iter().map(|(name, value)| (&name[..], *value)).collect();
    let url = format!("{}/v1/connect-sessions", world.daemon.local);
    for headers in [&many[..], &[("x-large", &cookies)]] {
        let answer = request(Method::GET, &url, headers, "").await.expect("an answer");
        assert_eq!(answer.status, 431);
        assert_eq!(answer.headers["content-type"], "application/problem+json");
        let problem = answer.json();
        assert_eq!(text(&problem, "code"), "invalid_request");
        assert!(
            text(&problem, "detail").contains("16 KiB") && !text(&problem, "request_id").is_empty(),
            "{problem}"
        );
    }
}
