//! The admin API's routes from outside: each path takes its own methods, and the listener serves its own document.

use http::Method;
use serde_json::{Value, json};

use crate::docs::Document;
use crate::http_client::{Answer, request_unix};
use crate::world::{ALICE, CLIENT_ID, Plan, SYNC, World, text};

const METHODS: [&str; 9] = ["GET", "POST", "DELETE", "PUT", "PATCH", "OPTIONS", "TRACE", "HEAD", "CONNECTX"];

async fn operate(world: &World, method: &str, path: &str) -> Answer {
    let socket = world.folder.path().join("admin.sock");
    let method: Method = method.parse().expect("a method");
    request_unix(&socket, method, path, &[], "").await.expect("an answer")
}

#[tokio::test]
async fn a_path_of_the_admin_api_takes_its_own_methods_and_no_others() {
    let world = Plan::default().start().await;
    for (path, allowed) in [
        ("/openapi.json", "GET"),
        ("/admin/v1/status", "GET"),
        ("/admin/v1/reload", "POST"),
        ("/admin/v1/store/adopt", "POST"),
        ("/admin/v1/console-links", "POST"),
        ("/admin/v1/revocations", "POST"),
        ("/admin/v1/imports", "POST"),
        ("/admin/v1/exports", "POST"),
        ("/admin/v1/reconnect-links", "POST"),
        ("/admin/v1/admin-consent-links", "POST"),
        ("/admin/v1/apps", "GET"),
        ("/admin/v1/forecast", "GET"),
        ("/admin/v1/credentials", "GET"),
        ("/admin/v1/apps/outlook/credentials/verify", "POST"),
        ("/admin/v1/apps/outlook/credentials/a/verify", "POST"),
        ("/admin/v1/apps/outlook/credentials/a/promote", "POST"),
        ("/admin/v1/apps/outlook/credentials/a/retire", "POST"),
        ("/admin/v1/apps/outlook/token-host/login.example.com/confirm", "POST"),
        ("/admin/v1/keyring", "GET"),
        ("/admin/v1/keyring/rewrap", "POST"),
        ("/admin/v1/keyring/promote", "POST"),
        ("/admin/v1/keyring/retire", "POST"),
        ("/admin/v1/callers/tests/keys", "GET"),
        ("/admin/v1/callers/tests/policy", "GET"),
        ("/admin/v1/apps/outlook/connections", "GET"),
        ("/admin/v1/apps/outlook/connections/a", "GET, PATCH, POST, DELETE"),
        ("/admin/v1/apps/outlook/connections/a/explain", "GET"),
    ] {
        for method in METHODS.iter().filter(|method| !allowed.split(", ").any(|one| one == **method)) {
            let answer = operate(&world, method, path).await;
            assert_eq!(answer.status, 405, "{method} {path}: {}", answer.text());
            assert_eq!(answer.headers["allow"], allowed, "{method} {path}");
            assert_eq!(answer.headers["cache-control"], "no-store", "{method} {path}");
        }
    }
    for path in ["/", "/admin/v1", "/admin/v1/apps/outlook/connections/a/token", "/v1/connect-sessions"] {
        for method in METHODS {
            assert_eq!(operate(&world, method, path).await.status, 404, "{method} {path}");
        }
    }
}

/// Asks, holds the answer up against the document, and gives it back.
async fn fits(
    world: &World,
    document: &Document,
    (method, route, path): (&str, &str, &str),
    body: Value,
) -> Answer {
    let socket = world.folder.path().join("admin.sock");
    let sent = if body.is_null() { String::new() } else { body.to_string() };
    let answer = request_unix(&socket, method.parse().expect("a method"), path, &[], sent).await;
    let answer = answer.expect("an answer");
    document.fits(&method.to_ascii_lowercase(), route, &answer);
    answer
}

const APP: &str = "/admin/v1/apps/{app}";

#[tokio::test]
async fn the_admin_listener_serves_its_document_and_every_answer_fits_it() {
    let document = Document::of("src/api/openapi-admin.json");
    let world = Plan::default().start().await;
    world.connect("team-b/alice", ALICE).await;
    let connection = "/admin/v1/apps/outlook/connections/team-b%2Falice";
    let (of_connection, explain) =
        (format!("{APP}/connections/{{connection}}"), format!("{connection}/explain"));
    let of_credential = |act: &str| format!("{APP}/credentials/{{credential}}/{act}");
    let ask = async |method: &str, route: &str, path: &str, body: Value, status: u16| {
        let answer = fits(&world, &document, (method, route, path), body).await;
        assert_eq!(answer.status, status, "{method} {path}: {}", answer.text());
        answer
    };
    let plain = async |method: &str, path: &str, body: Value, status: u16| {
        ask(method, path, path, body, status).await
    };

    // To anybody who comes to this listener, byte for byte; all else is for operators.
    let stranger = [("authorization", "Bearer nobody")];
    let socket = world.folder.path().join("admin.sock");
    let served = request_unix(&socket, Method::GET, "/openapi.json", &stranger, "").await.expect("an answer");
    assert_eq!(served.text(), include_str!("../../src/api/openapi-admin.json"));
    document.fits("get", "/openapi.json", &served);
    for path in ["/openapi%2ejson", "/openapi.json/", "/admin/v1/status", "/nowhere"] {
        let refused = request_unix(&socket, Method::GET, path, &stranger, "").await.expect("an answer");
        assert_eq!(refused.status, 401, "{path}");
    }

    let credentials = plain("GET", "/admin/v1/credentials", Value::Null, 200).await.json();
    let label = text(&credentials["apps"][0]["credentials"][0], "id").to_owned();
    for path in ["/admin/v1/status", "/admin/v1/apps", "/admin/v1/keyring"] {
        plain("GET", path, Value::Null, 200).await;
    }
    plain("POST", "/admin/v1/reload", Value::Null, 200).await;
    plain("POST", "/admin/v1/console-links", Value::Null, 201).await;
    plain("POST", "/admin/v1/keyring/rewrap", Value::Null, 202).await;
    for act in ["promote", "retire"] {
        let path = format!("/admin/v1/keyring/{act}");
        plain("POST", &path, json!({ "key": "2026-11-23-d1166f" }), 200).await;
        plain("POST", &path, json!({ "key": "" }), 400).await;
    }
    for (caller, status) in [(SYNC, 200), ("nobody", 404)] {
        let path = format!("/admin/v1/callers/{caller}/keys");
        ask("GET", "/admin/v1/callers/{caller}/keys", &path, Value::Null, status).await;
    }
    let policy = "/admin/v1/callers/{caller}/policy";
    for (caller, query, status) in [
        ("mail-reader", "?app=outlook&connection=team-b/alice&scope=Mail.Read", 200),
        ("mail-reader", "?app=outlook&connection=team-b/alice&scope=Mail.Send", 200),
        ("mail-reader", "?app=outlook&connection=team-b/alice&connect=1", 200),
        ("mail-reader", "?app=outlook&connection=team-b/alice&relay=GET+graph:/v1.0/me", 200),
        ("mail-reader", "?app=outlook&connection=team-b/alice&relay=GET+graph:/v1.0/me/../users", 400),
        ("mail-reader", "?app=outlook&connection=team-b/alice&connect=1&relay=GET+graph:/v1.0/me", 400),
        ("mail-reader", "?app=outlook&connection=team-b/alice", 400),
        ("mail-reader", "?connection=team-b/alice&scope=Mail.Read", 400),
        ("mail-reader", "?app=nothing&connection=a&scope=Mail.Read", 404),
        ("nobody", "?app=outlook&connection=a&scope=Mail.Read", 404),
    ] {
        let path = format!("/admin/v1/callers/{caller}/policy{query}");
        let answer = ask("GET", policy, &path, Value::Null, status).await;
        if status == 200 {
            let said = answer.json();
            assert_eq!(said["allowed"], query.ends_with("Mail.Read"), "{query}: {said}");
            assert_eq!(said["rules"], json!(["callers.mail-reader.allow[0]"]), "{query}");
        }
    }
    let verify = "/admin/v1/apps/outlook/credentials/verify";
    ask("POST", &format!("{APP}/credentials/verify"), verify, Value::Null, 200).await;
    for (act, status) in [("verify", 200), ("promote", 200), ("retire", 400)] {
        let path = format!("/admin/v1/apps/outlook/credentials/{label}/{act}");
        ask("POST", &of_credential(act), &path, Value::Null, status).await;
    }
    let confirm = "/admin/v1/apps/outlook/token-host/login.example.com/confirm";
    ask("POST", &format!("{APP}/token-host/{{host}}/confirm"), confirm, Value::Null, 400).await;

    let list = format!("{APP}/connections");
    ask("GET", &list, "/admin/v1/apps/outlook/connections", Value::Null, 200).await;
    ask("GET", &list, "/admin/v1/apps/outlook/connections?status=x", Value::Null, 400).await;
    ask("GET", &list, "/admin/v1/apps/nothing/connections", Value::Null, 404).await;
    let forecast = "/admin/v1/forecast";
    for (query, status) in [
        ("", 200),
        ("?days=366&app=outlook&tenant=t&cursor=outlook", 200),
        ("?days=0", 400),
        ("?days=seven", 400),
        ("?cursor=outlook.x", 400),
        ("?app=nothing", 404),
    ] {
        ask("GET", forecast, &format!("{forecast}{query}"), Value::Null, status).await;
    }
    ask("GET", &of_connection, connection, Value::Null, 200).await;
    ask("GET", &format!("{of_connection}/explain"), &explain, Value::Null, 200).await;
    ask("POST", &of_connection, connection, Value::Null, 202).await;
    for path in ["/admin/v1/reconnect-links", "/admin/v1/admin-consent-links"] {
        let wanted = |connection: &str| json!({ "app": "outlook", "connection": connection });
        plain("POST", path, wanted("team-b/alice"), 201).await;
        plain("POST", path, wanted("nobody"), 404).await;
        plain("POST", path, wanted("a b"), 400).await;
        plain("POST", path, json!({ "app": "outlook" }), 400).await;
    }
    let grant = world.entra.foreign_grant(ALICE, CLIENT_ID, "openid profile offline_access Mail.Read");
    let grant = grant.expect("a grant");
    let wanted = |more: Value| {
        let mut body = json!({ "app": "outlook", "connection": "moved", "refresh_token": grant });
        body.as_object_mut().expect("an object").extend(more.as_object().cloned().unwrap_or_default());
        body
    };
    for (more, status) in [
        (json!({ "dry_run": true }), 200),
        (Value::Null, 200),
        (json!({ "connection": "team-b/alice" }), 409),
        (json!({ "client_id": "another" }), 409),
        (json!({ "caller": "mail-reader" }), 403),
        (json!({ "app": "nothing" }), 404),
        (json!({ "sekrit": 1 }), 400),
    ] {
        plain("POST", "/admin/v1/imports", wanted(more), status).await;
    }
    let recipient = |x: &str| json!({ "kty": "OKP", "crv": "X25519", "x": x });
    let mine = recipient("hSDwCYkwp1R0i33ctD73Wg2_Og0mOBr066SpjqqbTmo");
    for (body, status) in [
        (json!({ "app": "outlook", "recipient": mine }), 200),
        (json!({ "app": "nothing", "recipient": mine }), 404),
        (json!({ "app": "outlook", "recipient": recipient("AAAA") }), 400),
        (json!({ "app": "outlook", "recipient": mine, "cursor": "x" }), 400),
    ] {
        plain("POST", "/admin/v1/exports", body, status).await;
    }
    ask("PATCH", &of_connection, connection, json!({ "paused": true }), 200).await;
    ask("POST", &of_connection, connection, Value::Null, 409).await;
    ask("DELETE", &of_connection, connection, Value::Null, 204).await;
    ask("DELETE", &of_connection, connection, Value::Null, 404).await;
    ask("PATCH", &of_connection, connection, json!({ "paused": false }), 204).await;

    let revoke = async |body, status| plain("POST", "/admin/v1/revocations", body, status).await;
    revoke(json!({ "app": "outlook", "dry_run": true }), 200).await;
    revoke(json!({ "app": "outlook" }), 200).await;
    revoke(json!({ "app": "nothing" }), 400).await;
    plain("POST", "/admin/v1/store/adopt", Value::Null, 200).await;
}
