//! Tokens of the app itself, for callers whose rules say so.

use std::time::Duration;

use entra_emulator::{Endpoint, Fault, FaultRule, RetryAfter, User};
use http::Method;
use serde_json::{Value, json};
use tokenward::domain::time::{Clock, Timestamp};
use tokenward::system::SystemClock;

use crate::attacks_rights::{reconfigure, with_harness};
use crate::http_client::{Answer, request, request_unix};
use crate::launcher::command;
use crate::token_exchange::blocks;
use crate::world::{ALICE, BOB, Kept, Plan, World, text, write_secret};

/// The tenant of [`BOB`].
const BOBS_TENANT: &str = "22222222-0000-4000-8000-00000000000b";
const GRAPH: &str = "https://graph.microsoft.com";
/// In all tenants.
const BULK: &str = "app_only = [\"*\"]\nbulk = true";
const GRANT: &str = "client_credentials";

fn alices_tenant() -> String {
    User::work(ALICE).tenant_id().to_owned()
}

async fn ask(world: &World, key: &str, query: &str) -> Answer {
    world.api_as(key, Method::GET, &format!("/v1/apps/outlook/token{query}"), Value::Null).await
}

/// What it is refused with: status, code and reason.
fn refused(answer: &Answer) -> (u16, String, String) {
    let body = answer.json();
    let word = |name: &str| body[name].as_str().unwrap_or_default().to_owned();
    (answer.status.as_u16(), word("code"), word("reason"))
}

fn code(answer: &Answer) -> (u16, String) {
    let (status, code, _) = refused(answer);
    (status, code)
}

fn of_the_app(fault: Fault) -> FaultRule {
    FaultRule::new(Endpoint::Token, fault).grant_type(GRANT)
}

fn audited(world: &World, is_so: impl Fn(&Value) -> bool) -> Vec<Value> {
    let audit = std::fs::read_to_string(world.folder.path().join("audit.jsonl")).expect("an audit file");
    let lines = audit.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    lines.filter(is_so).collect()
}

#[tokio::test]
async fn a_caller_gets_tokens_of_the_app_in_the_tenants_that_its_rules_name() {
    let alices = alices_tenant();
    let rules = format!("app_only = [\"{alices}\", \"home\"]");
    let plan = Plan::default().app_lines(&format!("home_tenant = \"{BOBS_TENANT}\""));
    let (world, key) = with_harness(plan, &rules).await;
    // (With a home tenant the credential is proven by a token of the app, too.)
    world.until_called(GRANT, 1).await;
    world.entra.clear_ledger();

    let answer = ask(&world, &key, &format!("?tenant={alices}")).await;
    assert_eq!(answer.status, 200, "{} {}", answer.text(), world.daemon.log());
    assert_eq!(answer.headers["cache-control"], "no-store");
    assert_eq!(answer.headers["tokenward-source"], "authority");
    let token = answer.json();
    let members: Vec<&String> = token.as_object().expect("an object").keys().collect();
    let expected = ["access_token", "app", "expires_at", "expires_in", "resource", "tenant", "token_type"];
    assert_eq!(members, expected);
    assert_eq!(
        (text(&token, "app"), text(&token, "tenant"), text(&token, "resource"), text(&token, "token_type")),
        ("outlook", alices.as_str(), GRAPH, "Bearer")
    );
    assert!(token["expires_in"].as_u64().is_some_and(|life| life > 3000), "{token}");
    let sent = world.entra.ledger();
    let [call] = &sent[..] else { panic!("one call: {sent:#?}") };
    assert_eq!(call.path, format!("/{alices}/oauth2/v2.0/token"));
    assert_eq!(call.scopes_requested, [format!("{GRAPH}/.default")]);
    assert_eq!(call.grant_type.as_deref(), Some(GRANT));

    // It is kept, however it is asked for; the home tenant's is another one.
    for query in [
        format!("?tenant={}", alices.to_uppercase()),
        format!("?tenant={alices}&resource={GRAPH}"),
        format!("?tenant={alices}&resource=https%3A%2F%2FGraph.microsoft.com%2F.default&min_ttl=60"),
        format!("?tenant={alices}&min_ttl=86400"),
    ] {
        let again = ask(&world, &key, &query).await.json();
        assert_eq!(again["access_token"], token["access_token"], "{query}: {again}");
    }
    let headers = [
        ("authorization", format!("Bearer {key}")),
        ("if-none-match", answer.headers["etag"].to_str().expect("text").to_owned()),
    ];
    let headers = headers.each_ref().map(|(name, value)| (*name, value.as_str()));
    let url = format!("{}/v1/apps/outlook/token?tenant={alices}", world.daemon.local);
    let known = request(Method::GET, &url, &headers, "").await.expect("an answer");
    assert_eq!((known.status.as_u16(), known.text().as_str()), (304, ""));
    assert_eq!(known.headers["tokenward-source"], "memory");
    for query in ["", "?tenant=home", &format!("?tenant={BOBS_TENANT}")] {
        let own = ask(&world, &key, query).await.json();
        assert_eq!(text(&own, "tenant"), BOBS_TENANT, "{own}");
        assert_ne!(own["access_token"], token["access_token"], "{query}: {own}");
    }
    assert_eq!(world.token_calls(GRANT), 2);

    // The audit says who got what, and a count does.
    let lines = audited(&world, |line| line["action"] == "token" && line["caller"] == "harness");
    let line = &lines[0];
    assert_eq!(
        (text(line, "outcome"), text(line, "app"), text(line, "tenant"), &line["connection"]),
        ("ok", "outlook", alices.as_str(), &Value::Null),
        "{line}"
    );
    assert_eq!(line["scopes"], json!([format!("{GRAPH}/.default")]));
    assert_eq!(lines.len(), 9);
    let metrics = world.metrics().await;
    let counted = "tokenward_token_requests_total{app=\"outlook\",caller=\"harness\",dialect=\"native\",\
                   outcome=\"ok\"} 9";
    assert!(metrics.contains(counted), "{metrics}");
}

#[tokio::test]
async fn what_no_rule_gives_is_refused_and_nothing_is_asked() {
    let alices = alices_tenant();
    let rules = format!("app_only = [\"{alices}\"]\nresources = [\"{GRAPH}\", \"api://reports\"]");
    let (world, key) = with_harness(Plan::default(), &rules).await;
    let forbidden = (403, "caller_forbidden".to_owned());
    // A tenant that is there, and one that is not: nobody can tell them apart.
    let there = ask(&world, &key, &format!("?tenant={BOBS_TENANT}")).await;
    let absent = ask(&world, &key, "?tenant=99999999-0000-4000-8000-000000000099").await;
    let no_resource = ask(&world, &key, &format!("?tenant={alices}&resource=https://vault.azure.net")).await;
    let body = |answer: &Answer| {
        let mut body = answer.json();
        body.as_object_mut().expect("an object").remove("request_id");
        body
    };
    assert_eq!(body(&there), body(&absent));
    assert_eq!(body(&there), body(&no_resource));
    for query in ["", "?tenant=home", "?tenant=9188040d-6c67-4c5b-b112-36a304b66dad"] {
        assert_eq!(code(&ask(&world, &key, query).await), forbidden, "{query}");
    }
    assert_eq!(code(&there), forbidden);
    // Rights to connections give none.
    for key in [&world.key, &world.reader_key] {
        assert_eq!(code(&ask(&world, key, &format!("?tenant={alices}")).await), forbidden);
    }
    let of_nobody = world.api_as(&key, Method::GET, "/v1/apps/nobody-s/token", Value::Null).await;
    assert_eq!(code(&of_nobody), (404, "app_not_found".to_owned()));
    // And rights to tokens of the app give no connection.
    let shown = world.api_as(&key, Method::GET, "/v1/apps/outlook/connections/a", Value::Null).await;
    assert_eq!(code(&shown), (404, "connection_not_found".to_owned()));

    for (query, parameter) in [
        ("?tenant=common", "tenant"),
        ("?tenant=contoso.example", "tenant"),
        ("?tenant=..%2F..%2Fx", "tenant"),
        (&format!("?tenant={alices}%2Foauth2"), "tenant"),
        (&format!("?tenant={alices}&tenant={alices}"), "tenant"),
        (&format!("?tenant={alices}&min_ttl=59"), "min_ttl"),
        (&format!("?tenant={alices}&min_ttl=soon"), "min_ttl"),
        (&format!("?tenant={alices}&resource=a%20b"), "resource"),
        (&format!("?tenant={alices}&resource={}", "x".repeat(300)), "resource"),
    ] {
        let answer = ask(&world, &key, query).await;
        let said = (answer.status.as_u16(), text(&answer.json(), "parameter").to_owned());
        assert_eq!(said, (400, parameter.to_owned()), "{query}: {}", answer.text());
    }
    assert_eq!(world.token_calls(GRANT), 0);
    let lines = audited(&world, |line| line["action"] == "refused" && line["caller"] == "harness");
    assert!(lines.iter().any(|line| line["tenant"] == BOBS_TENANT && line["outcome"] == "caller_forbidden"));

    let other = ask(&world, &key, &format!("?tenant={alices}&resource=api://Reports/.default")).await;
    assert_eq!(text(&other.json(), "resource"), "api://reports", "{}", other.text());
}

#[tokio::test]
async fn however_many_ask_one_call_is_made_and_a_living_token_outlives_an_outage() {
    let alices = alices_tenant();
    let plan = Plan::default().token_life(Duration::from_secs(3600));
    let (world, key) = with_harness(plan, &format!("app_only = [\"{alices}\"]")).await;
    let query = format!("?tenant={alices}");
    let held = of_the_app(Fault::Hold);
    world.entra.faults().inject(held.clone());
    let all = futures_util::future::join_all((0..40).map(|_| ask(&world, &key, &query)));
    let (all, ()) = tokio::join!(all, async {
        world.until_called(GRANT, 1).await;
        world.entra.faults().withdraw(&held);
        world.entra.faults().release();
    });
    let tokens: std::collections::BTreeSet<String> =
        all.iter().map(|answer| text(&answer.json(), "access_token").to_owned()).collect();
    assert_eq!((tokens.len(), world.token_calls(GRANT)), (1, 1));

    // Renewed ahead of its end, behind the answer.
    world.pass(Duration::from_secs(3000));
    world.entra.faults().inject(of_the_app(Fault::status(503)));
    let token = tokens.first().expect("one").as_str();
    let outlived = ask(&world, &key, &query).await;
    assert_eq!(text(&outlived.json(), "access_token"), token, "{}", world.daemon.log());
    world.until_called(GRANT, 2).await;
    world.pass(Duration::from_secs(400));
    let outlived = ask(&world, &key, &format!("{query}&min_ttl=900")).await;
    assert_eq!(text(&outlived.json(), "access_token"), token, "{}", world.daemon.log());
    // Without a living token the outage shows, and when to come back.
    world.pass(Duration::from_secs(300));
    let away = ask(&world, &key, &query).await;
    assert_eq!(code(&away), (503, "authority_unavailable".to_owned()));
    assert!(away.headers.contains_key("retry-after"));
    world.entra.faults().clear();
    world.until("a new token", async || ask(&world, &key, &query).await.status == 200).await;
}

fn aadsts(code: u32, error: &str, status: u16) -> Fault {
    let (error, status) = (Some(error.to_owned()), Some(status));
    Fault::Aadsts { code, error, suberror: None, claims: None, status, retry_after: None }
}

#[tokio::test]
async fn what_each_answer_of_the_authority_becomes() {
    let (world, key) = with_harness(Plan::default(), BULK).await;
    let held = Fault::Status { status: 429, retry_after: Some(RetryAfter::Seconds(17)) };
    let rows = [
        (aadsts(700_016, "unauthorized_client", 400), 409, "tenant_blocked", "app_not_in_tenant"),
        (aadsts(7_000_229, "invalid_client", 401), 409, "tenant_blocked", "app_not_in_tenant"),
        (aadsts(7_000_112, "unauthorized_client", 400), 409, "tenant_blocked", "app_not_in_tenant"),
        (aadsts(650_052, "invalid_client", 400), 409, "tenant_blocked", "app_not_in_tenant"),
        (aadsts(90002, "invalid_tenant", 400), 409, "tenant_blocked", "tenant_gone"),
        (aadsts(65001, "invalid_grant", 400), 409, "tenant_blocked", "admin_consent_required"),
        (aadsts(501_051, "invalid_grant", 400), 409, "tenant_blocked", "admin_consent_required"),
        (aadsts(500_011, "invalid_resource", 400), 503, "app_rejected", ""),
        (aadsts(53003, "invalid_grant", 400), 503, "app_rejected", ""),
        (aadsts(999_999, "brand_new_error", 400), 503, "authority_unavailable", ""),
        (Fault::status(500), 503, "authority_unavailable", ""),
        (Fault::DropBeforeProcessing, 503, "authority_unavailable", ""),
        (held, 503, "authority_unavailable", ""),
        (aadsts(7_000_215, "invalid_client", 401), 503, "app_credential_rejected", ""),
    ];
    for (number, (fault, status, code, reason)) in rows.into_iter().enumerate() {
        let rule = of_the_app(fault);
        world.entra.faults().inject(rule.clone());
        let query = format!("?tenant={number:08}-0000-4000-8000-00000000000c");
        let answer = ask(&world, &key, &query).await;
        assert_eq!(
            refused(&answer),
            (status, code.to_owned(), reason.to_owned()),
            "{rule:?}: {}",
            answer.text()
        );
        assert_eq!(answer.headers.contains_key("retry-after"), status == 503, "{rule:?}");
        // No user and no connection has a part in it.
        let (detail, hint) = (answer.json()["detail"].clone(), answer.json()["hint"].clone());
        assert!(!format!("{detail} {hint}").contains("connection"), "{rule:?}: {}", answer.text());
        let calls = world.token_calls(GRANT);
        // Nobody asks the authority again at once, and the answer stays the same.
        let again = ask(&world, &key, &query).await;
        assert_eq!(refused(&again), refused(&answer), "{rule:?}: {}", again.text());
        assert_eq!(world.token_calls(GRANT), calls, "{rule:?}");
        world.entra.faults().clear();
    }
    // Another tenant is not concerned by any of it, once the app's credential is accepted again.
    let alices = format!("?tenant={}", alices_tenant());
    world.until("a token", async || ask(&world, &key, &alices).await.status == 200).await;
}

#[tokio::test]
async fn a_tenant_is_served_once_its_administrator_has_consented() {
    let (world, key) = with_harness(Plan::default(), BULK).await;
    world.entra.change_settings(|settings| settings.app_only_needs_consent = true);
    let alices = alices_tenant();
    world.entra.grant_admin_consent(BOBS_TENANT, crate::world::CLIENT_ID, "User.Read").expect("a tenant");
    let (alices, bobs) = (format!("?tenant={alices}"), format!("?tenant={BOBS_TENANT}"));
    assert_eq!(ask(&world, &key, &bobs).await.status, 200);
    let blocked = ask(&world, &key, &alices).await;
    let reason = "app_not_in_tenant".to_owned();
    assert_eq!(refused(&blocked), (409, "tenant_blocked".to_owned(), reason), "{}", blocked.text());
    assert!(text(&blocked.json(), "hint").contains("admin-consent-sessions"), "{}", blocked.text());
    assert_eq!(blocked.json()["error_codes"], json!([7_000_229]));
    world
        .entra
        .grant_admin_consent(&alices_tenant(), crate::world::CLIENT_ID, "User.Read")
        .expect("a tenant");
    // It is tried again by itself.
    world.pass(Duration::from_secs(120));
    let served = ask(&world, &key, &alices).await;
    assert_eq!(served.status, 200, "{}", served.text());
}

/// The tenant's throttle and outage are one for the app itself and for its users.
#[tokio::test]
async fn a_tenant_that_throttles_the_app_is_not_called_for_its_users_either() {
    let alices = alices_tenant();
    let (world, key) = with_harness(Plan::default(), &format!("app_only = [\"{alices}\"]")).await;
    world.connect("alice", ALICE).await;
    world.connect("bob", BOB).await;
    world.outlive_tokens();
    let held = Fault::Status { status: 429, retry_after: Some(RetryAfter::Seconds(30)) };
    world.entra.faults().inject(of_the_app(held));
    assert_eq!(ask(&world, &key, &format!("?tenant={alices}")).await.status, 503);
    let refreshes = world.token_calls("refresh_token");
    let throttled = world.token("alice").await;
    assert_eq!(code(&throttled), (503, "authority_unavailable".to_owned()), "{}", throttled.text());
    assert_eq!(world.token_calls("refresh_token"), refreshes, "nobody was called");
    world.access_token("bob").await;
}

async fn operate(world: &World, method: Method, path: &str, body: Value) -> Answer {
    let socket = world.folder.path().join("admin.sock");
    let body = if body.is_null() { String::new() } else { body.to_string() };
    request_unix(&socket, method, path, &[], body).await.expect("an answer")
}

async fn an_operators_revocation_ends_what_the_rule_gave_before_it(kept: Kept) {
    let alices = alices_tenant();
    let rules = format!("app_only = [\"{alices}\", \"{BOBS_TENANT}\"]");
    for (meant, in_alices, in_bobs) in [
        (json!({ "app": "outlook" }), 403, 403),
        (json!({ "tenant": alices }), 403, 200),
        (json!({ "caller": "harness" }), 403, 403),
        (json!({ "caller": "mail-sync" }), 200, 200),
    ] {
        let (mut world, key) = with_harness(Plan::default().kept(kept), &rules).await;
        let queries = [format!("?tenant={alices}"), format!("?tenant={BOBS_TENANT}")];
        let statuses = async |world: &World| {
            [ask(world, &key, &queries[0]).await.status, ask(world, &key, &queries[1]).await.status]
                .map(|status| status.as_u16())
        };
        assert_eq!(statuses(&world).await, [200, 200]);
        let mut body = meant.clone();
        body["even_if_unknown"] = json!(true);
        let revoked = operate(&world, Method::POST, "/admin/v1/revocations", body).await;
        assert_eq!(revoked.status, 200, "{}", revoked.text());
        assert_eq!(statuses(&world).await, [in_alices, in_bobs], "{meant}");
        world.kill_and_restart().await;
        assert_eq!(statuses(&world).await, [in_alices, in_bobs], "{meant}");
        if in_alices == 403 {
            // Given again by the operator.
            let later = SystemClock::new().now().plus(Duration::from_secs(60));
            let since = Timestamp::from_unix_seconds(later.unix_seconds()).rfc3339();
            reconfigure(&world, &rules, &format!("{rules}\napp_only_since = {since}")).await;
            assert_eq!(statuses(&world).await, [200, 200], "{meant}");
        }
    }
}

#[tokio::test]
async fn an_operators_revocation_ends_what_the_rule_gave_before_it_embedded() {
    an_operators_revocation_ends_what_the_rule_gave_before_it(Kept::Embedded).await;
}

#[tokio::test]
async fn an_operators_revocation_ends_what_the_rule_gave_before_it_redis() {
    an_operators_revocation_ends_what_the_rule_gave_before_it(Kept::Redis).await;
}

#[tokio::test]
async fn a_token_stays_through_a_changed_credential_and_goes_with_another_registration() {
    let alices = alices_tenant();
    let (world, key) = with_harness(Plan::default(), &format!("app_only = [\"{alices}\"]")).await;
    let query = format!("?tenant={alices}");
    let token = ask(&world, &key, &query).await.json();
    world.entra.rotate_secret(crate::world::CLIENT_ID, "another-secret-8Zt~1").expect("an app");
    write_secret(&world.folder.path().join("client-secret"), "another-secret-8Zt~1");
    reconfigure(&world, "return_urls   =", "display_name = \"Post\"\nreturn_urls   =").await;
    let again = ask(&world, &key, &query).await.json();
    assert_eq!(again["access_token"], token["access_token"]);
    assert_eq!(world.token_calls(GRANT), 1);
    // The new credential gets the next one.
    world.outlive_tokens();
    let next = ask(&world, &key, &query).await;
    assert_eq!(next.status, 200, "{}", next.text());
    // What another registration got is not this one's.
    let calls = world.token_calls(GRANT);
    let other = entra_emulator::App::new("other-client").secret("another-secret-8Zt~1");
    world.entra.add_app(other).expect("an app");
    reconfigure(&world, crate::world::CLIENT_ID, "other-client").await;
    let of_other = ask(&world, &key, &query).await;
    assert_eq!(of_other.status, 200, "{}", of_other.text());
    assert_ne!(of_other.json()["access_token"], next.json()["access_token"]);
    assert_eq!(world.token_calls(GRANT), calls + 1);
}

#[tokio::test]
async fn a_token_is_renewed_before_anybody_asks_again() {
    let life = Duration::from_secs(3600);
    let rules = format!("app_only = [\"{}\"]", alices_tenant());
    let plan = Plan::default().token_life(life).file("sweep", "");
    let (world, key) = with_harness(plan, &rules).await;
    let query = format!("?tenant={}", alices_tenant());
    let mut before = ask(&world, &key, &query).await.json()["access_token"].clone();
    let mut calls = world.token_calls(GRANT);
    for _ in 0..2 {
        // The renewal is due, and the token is still long enough for every request.
        world.pass(Duration::from_secs(3000));
        world.until_called(GRANT, calls + 1).await;
        let renewed = async || {
            let answer = ask(&world, &key, &query).await;
            assert_eq!(
                (answer.status.as_u16(), &answer.headers["tokenward-source"]),
                (200, &"memory".parse().expect("text"))
            );
            answer.json()["access_token"].clone()
        };
        world.until("the new one is served", async || renewed().await != before).await;
        before = renewed().await;
        calls += 1;
    }
    assert_eq!(world.token_calls(GRANT), calls, "one call each time");
}

/// What the page about them shows.
#[tokio::test]
async fn the_page_s_commands_get_a_token_of_the_app() {
    let page = "docs/app-tokens.md";
    let toml =
        blocks(page, "toml").concat().replace("8f4c4a1e-5f5e-4d0c-9d2e-0b8a54f4a7c1", &alices_tenant());
    let rules = toml.split_once("app = \"outlook\"\n").expect("the app").1.to_owned();
    let (world, key) = with_harness(Plan::default(), &rules).await;
    let folder = world.folder.path();
    write_secret(&folder.join("harness.key"), &format!("{key}\n"));
    let path = std::path::Path::new(env!("CARGO_BIN_EXE_tokenward")).parent().expect("a folder").to_owned();
    let path = format!("{}:{}", path.display(), std::env::var("PATH").expect("a path"));
    let mut printed = Vec::new();
    for block in blocks(page, "sh")
        .into_iter()
        .chain(blocks("README.md", "sh").into_iter().filter(|block| block.contains("?tenant=")))
    {
        for line in block.lines().filter(|line| !line.is_empty()) {
            let line = line.replace("8f4c4a1e-5f5e-4d0c-9d2e-0b8a54f4a7c1", &alices_tenant()).replace(
                "tokenward token",
                &format!("tokenward token --endpoint {} --key-file harness.key", world.daemon.local),
            );
            let mut sh = command("sh");
            sh.args(["-euc", &line]).current_dir(folder).env("PATH", &path);
            sh.env("api", &world.daemon.local).env("key", &key);
            let ended =
                tokio::task::spawn_blocking(move || sh.output()).await.expect("joined").expect("it ends");
            assert!(ended.status.success(), "{line}: {}", String::from_utf8_lossy(&ended.stderr));
            printed.push(String::from_utf8(ended.stdout).expect("text"));
        }
    }
    let query = format!("?tenant={}", alices_tenant());
    let token = text(&ask(&world, &key, &query).await.json(), "access_token").to_owned();
    let [asked, bare, json, of_readme] = &printed[..] else { panic!("{printed:?}") };
    assert_eq!(bare, &format!("{token}\n"), "the token, and nothing else");
    for answer in [asked, json, of_readme] {
        let answer: Value = serde_json::from_str(answer).expect("JSON");
        assert_eq!((text(&answer, "access_token"), text(&answer, "app")), (token.as_str(), "outlook"));
    }

    let tenant = "99999999-0000-4000-8000-000000000099";
    let refused = std::process::Command::new(env!("CARGO_BIN_EXE_tokenward"))
        .args(["token", "outlook", "--tenant", tenant, "--endpoint", &world.daemon.local])
        .arg("--key-file")
        .arg(folder.join("harness.key"))
        .output()
        .expect("it ends");
    let said = String::from_utf8_lossy(&refused.stderr);
    assert_eq!(
        (refused.status.code(), refused.stdout.len(), said.matches('\n').count()),
        (Some(1), 0, 1),
        "{said}"
    );
    assert!(said.contains("caller_forbidden"), "{said}");
}
