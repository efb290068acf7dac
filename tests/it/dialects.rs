//! The dialects of the local API: each path has its own credential and its own form of an error.

use entra_emulator::RevokeKind;
use http::{Method, StatusCode};
use serde_json::Value;

use crate::http_client::request;
use crate::launcher::{command, installed, repository};
use crate::world::{ALICE, BOB, Plan, World};

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

#[tokio::test]
async fn vault_s_paths_give_the_token_and_refuse_in_vault_s_form() {
    let world = Plan::default().app_lines("vault_mount = \"mail\"").start().await;
    world.connect("team-a/alice", ALICE).await;
    let token = world.access_token("team-a/alice").await;
    let key = world.key.clone();
    let bearer = format!("Bearer {key}");
    let (vault, native) = ([("x-vault-token", key.as_str())], [("authorization", bearer.as_str())]);
    for (target, headers) in [
        ("/v1/mail/creds/team-a/alice", &vault),
        ("/v1/mail/creds/team-a%2Falice?minimum_seconds=0", &vault),
        ("/v1/mail/creds/team-a/alice?minimum_seconds=300", &native),
    ] {
        let (status, body) = ask(&world, Method::GET, target, headers).await;
        assert_eq!(status, 200, "{target}: {body}");
        let expected = [
            "auth",
            "data",
            "lease_duration",
            "lease_id",
            "renewable",
            "request_id",
            "warnings",
            "wrap_info",
        ];
        assert!(body.as_object().expect("an object").keys().eq(expected), "{body}");
        assert_eq!(
            (&body["data"]["access_token"], &body["data"]["type"]),
            (&token.clone().into(), &"Bearer".into())
        );
    }
    let metrics = world.metrics().await;
    assert!(metrics.contains(r#"dialect="vault",outcome="ok"} 3"#), "{metrics}");

    let both = [("x-vault-token", "s.nobody"), ("authorization", bearer.as_str())];
    for (target, headers, status, words) in [
        // Without a word: whether it is missing or nobody's business.
        ("/v1/mail/creds/nobody", &vault[..], 404, None),
        ("/v1/outlook/creds/team-a/alice", &vault, 404, None),
        ("/v1/mail/creds", &vault, 404, None),
        ("/v1/mail/creds/team-a/alice", &[], 403, Some("permission denied")),
        ("/v1/mail/creds/team-a/alice", &both, 403, Some("permission denied")),
        ("/v1/auth/token/lookup-self", &[], 403, Some("permission denied")),
        (
            "/v1/mail/creds/team-a/alice?minimum_seconds=1.5",
            &vault,
            400,
            Some("invalid_request: minimum_seconds"),
        ),
    ] {
        let (answered, body) = ask(&world, Method::GET, target, headers).await;
        assert_eq!(answered, status, "{target}: {body}");
        let errors = body["errors"].as_array().expect("a list");
        assert_eq!(errors.len(), usize::from(words.is_some()), "{target}: {body}");
        assert!(
            errors.iter().all(|error| error.as_str().expect("text").starts_with(words.expect("words"))),
            "{body}"
        );
    }
    let (status, body) = ask(&world, Method::GET, "/v1/auth/token/lookup-self", &vault).await;
    assert_eq!((status.as_u16(), &body["data"]["display_name"]), (200, &"mail-sync".into()));
}

#[tokio::test]
async fn a_mount_may_have_slashes() {
    let world = Plan::default().app_lines("vault_mount = \"team/outlook\"").start().await;
    world.connect("creds/alice", ALICE).await;
    let token = world.access_token("creds/alice").await;
    let key = world.key.clone();
    let vault = [("x-vault-token", key.as_str())];
    for target in ["/v1/team/outlook/creds/creds/alice", "/v1/team%2Foutlook/creds/creds%2Falice"] {
        let (status, body) = ask(&world, Method::GET, target, &vault).await;
        assert_eq!(
            (status.as_u16(), &body["data"]["access_token"]),
            (200, &token.clone().into()),
            "{target}"
        );
    }
    for target in [
        "/v1/outlook/creds/creds/alice",
        "/v1/team/creds/creds/alice",
        "/v1/team/outlook/more/creds/creds/alice",
        "/v1/auth/outlook/creds/creds/alice",
    ] {
        let (status, body) = ask(&world, Method::GET, target, &vault).await;
        assert_eq!(
            (status.as_u16(), body["errors"].as_array().map(Vec::len)),
            (404, Some(0)),
            "{target}: {body}"
        );
    }
    // Below our own words nothing is a mount.
    let bearer = format!("Bearer {key}");
    let url = format!("{}/v1/apps/outlook/creds/creds/alice", world.daemon.local);
    let ours = request(Method::GET, &url, &[("authorization", &bearer)], "").await.expect("an answer");
    assert_eq!((ours.status.as_u16(), &ours.json()["code"]), (404, &"not_found".into()));
}

/// OpenBao's own command, of the wheel that `make vault` installs.
#[tokio::test]
#[ignore = "a download of 75 MB: make vault"]
async fn bao_reads_a_connection_s_token() {
    let world = Plan::default().start().await;
    world.connect("team-a/alice", ALICE).await;
    world.connect("renew", BOB).await;
    world.entra.revoke_user(BOB, RevokeKind::GrantRevoked).expect("revoked");
    world.outlive_tokens();
    let token = world.access_token("team-a/alice").await;
    let bao = async |key: &str, arguments: &[&str]| {
        let mut bao = command(installed("vault/bin/bao", "vault"));
        bao.args(arguments).env("BAO_ADDR", &world.daemon.local).env("BAO_TOKEN", key);
        let output =
            tokio::task::spawn_blocking(move || bao.output()).await.expect("joined").expect("it ends");
        let said = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        (output.status.success(), said(output.stdout), said(output.stderr))
    };
    // As the guide has it.
    let guide = std::fs::read_to_string(repository().join("docs/vault.md")).expect("the page");
    let line = guide.lines().find(|line| line.starts_with("bao read")).expect("the command");
    let arguments: Vec<&str> = line.split(' ').skip(1).collect();
    let (is_ok, out, err) = bao(&world.key, &arguments).await;
    assert!(is_ok && out.trim_end() == token, "{out}{err}");
    let (is_ok, out, err) = bao(&world.key, &["token", "lookup", "-format=json"]).await;
    assert!(is_ok && out.contains("mail-sync"), "{out}{err}");
    for (key, path, words) in [
        (world.key.as_str(), "outlook/creds/renew", "reauthorization_required"),
        ("s.nobody", "outlook/creds/team-a/alice", "permission denied"),
        (world.key.as_str(), "outlook/creds/nobody", "No value found"),
    ] {
        let (is_ok, out, err) = bao(key, &["read", path]).await;
        assert!(!is_ok && out.is_empty() && err.contains(words), "{path}: {out}{err}");
    }
}

#[tokio::test]
async fn hvac_reads_a_connection_s_token() {
    let world = Plan::default().start().await;
    world.connect("team-a/alice", ALICE).await;
    world.connect("renew", BOB).await;
    world.entra.revoke_user(BOB, RevokeKind::GrantRevoked).expect("revoked");
    world.outlive_tokens();
    let token = world.access_token("team-a/alice").await;
    let mut python = command(installed("venv/bin/python", "tools"));
    python
        .arg(repository().join("tests/interop/vault/creds.py"))
        .env("VAULT_ADDR", &world.daemon.local)
        .env("VAULT_TOKEN", &world.key)
        .env("EXPECTED", token);
    let output =
        tokio::task::spawn_blocking(move || python.output()).await.expect("joined").expect("it ends");
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        output.status.success(),
        "{said}{}\n{}",
        String::from_utf8_lossy(&output.stderr),
        world.daemon.log()
    );
    let said: Vec<&str> = said.lines().collect();
    assert_eq!(said.len(), 5, "{said:#?}");
    assert!(
        said[3].starts_with("ok: reauthorization_required: the connection's grant does not work"),
        "{said:#?}"
    );
    assert_eq!(said[4], "ok: permission denied");
}
