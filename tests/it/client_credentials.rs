//! Tokens of an app itself at the OAuth token endpoint (`grant_type=client_credentials`; RFC 6749 §4.4).

use std::io::Write as _;
use std::process::Stdio;

use entra_emulator::User;
use http::Method;
use serde_json::{Value, json};

use crate::attacks_rights::{reconfigure, with_harness};
use crate::doors::Asked;
use crate::http_client::{Answer, request};
use crate::interop::node_folder;
use crate::launcher::{command, repository};
use crate::token_exchange::{CONNECTION, EXCHANGE, FORM, ask_as_libraries, basic, form, is, refusal};
use crate::world::{ALICE, PATIENCE, Plan, World, text, write_secret};

/// The tenant of [`crate::world::BOB`].
const BOBS_TENANT: &str = "22222222-0000-4000-8000-00000000000b";
const GRAPH: &str = "https://graph.microsoft.com";
const GRANT: &str = "client_credentials";

/// The request with these parameters, by the caller that the key names.
pub(crate) fn asked(key: &str, more: &[(&str, &str)]) -> Asked {
    let name = key.split('_').nth(1).unwrap_or_default();
    let pairs: Vec<(&str, &str)> = [("grant_type", GRANT)].into_iter().chain(more.iter().copied()).collect();
    Asked {
        method: Method::POST,
        target: "/oauth2/token".to_owned(),
        headers: vec![("authorization", basic(name, key)), (FORM.0, FORM.1.to_owned())],
        body: form(&pairs),
    }
}

async fn ask(world: &World, key: &str, more: &[(&str, &str)]) -> Answer {
    let Asked { method, target, headers, body } = asked(key, more);
    let headers: Vec<(&str, &str)> = headers.iter().map(|(name, value)| (*name, value.as_str())).collect();
    request(method, &format!("{}{target}", world.daemon.local), &headers, body).await.expect("an answer")
}

#[tokio::test]
async fn a_client_gets_the_app_s_own_token_and_it_is_the_native_api_s() {
    let alices = User::work(ALICE).tenant_id().to_owned();
    let rules = format!("app_only = [\"{alices}\", \"home\"]");
    let plan = Plan::default().app_lines(&format!("home_tenant = \"{BOBS_TENANT}\""));
    let (world, key) = with_harness(plan, &rules).await;
    let native = async |query: &str| {
        let path = format!("/v1/apps/outlook/token{query}");
        let answer = world.api_as(&key, Method::GET, &path, Value::Null).await;
        text(&answer.json(), "access_token").to_owned()
    };
    let (of_home, of_alices) = (native("").await, native(&format!("?tenant={alices}")).await);
    let scope = format!("{GRAPH}/.default");
    for (more, expected) in [
        (&[][..], &of_home),
        (&[("audience", "outlook")], &of_home),
        (&[("scope", &*scope)], &of_home),
        (&[("resource", GRAPH), ("scope", &scope), ("tenant", "home")], &of_home),
        (&[("tenant", &*alices), ("resource", GRAPH), ("min_ttl", "60")], &of_alices),
        (&[("tenant", &*alices), ("audience", "outlook"), ("unknown", "x")], &of_alices),
    ] {
        let answer = ask(&world, &key, more).await;
        assert_eq!(answer.status, 200, "{more:?}: {}\n{}", answer.text(), world.daemon.log());
        assert_eq!(
            (&answer.headers["cache-control"], &answer.headers["pragma"]),
            (&"no-store".parse().expect("a value"), &"no-cache".parse().expect("a value"))
        );
        let body = answer.json();
        let mut members: Vec<&String> = body.as_object().expect("an object").keys().collect();
        members.sort_unstable();
        assert_eq!(members, ["access_token", "expires_in", "scope", "token_type"], "{more:?}");
        assert_eq!(text(&body, "access_token"), expected, "{more:?}");
        assert_eq!((text(&body, "token_type"), text(&body, "scope")), ("Bearer", &*scope));
        assert!(body["expires_in"].as_u64().is_some_and(|life| life > 300), "{body}");
    }
    let metrics = world.metrics().await;
    let line = "tokenward_token_requests_total{app=\"outlook\",caller=\"harness\",dialect=\"oauth2\",outcome=\"ok\"} 6";
    assert!(metrics.contains(line), "{metrics}");
    let audit = std::fs::read_to_string(world.folder.path().join("audit.jsonl")).expect("the audit");
    let records = audit.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let own: Vec<Value> = records
        .filter(|record| record["action"] == "token" && record["door"] == "oauth2")
        .map(|record| json!([record["caller"], record["app"], record["connection"], record["tenant"]]))
        .collect();
    assert_eq!(own.len(), 6, "{audit}");
    assert_eq!(own[0], json!(["harness", "outlook", null, BOBS_TENANT]), "{audit}");
}

#[tokio::test]
async fn what_no_rule_gives_is_refused_in_the_words_of_the_rfcs() {
    let alices = User::work(ALICE).tenant_id().to_owned();
    let (world, key) = with_harness(Plan::default(), &format!("app_only = [\"{alices}\"]")).await;
    let (of, invalid) = (("tenant", &*alices), |error: &str| is(400, error, "invalid_request"));
    let forbidden = |error: &str| is(400, error, "caller_forbidden");
    let vault = "https://vault.azure.net";
    for (more, expected) in [
        (&[][..], forbidden("invalid_target")),
        (&[("tenant", BOBS_TENANT)], forbidden("invalid_target")),
        (&[("tenant", "contoso.example")], invalid("invalid_target")),
        (&[of, ("resource", vault)], forbidden("invalid_target")),
        (&[("scope", "https://vault.azure.net/.default")], forbidden("invalid_scope")),
        (&[of, ("scope", "Mail.Read")], invalid("invalid_scope")),
        (&[of, ("scope", "a\"b/.default")], invalid("invalid_scope")),
        (&[of, ("resource", "https://a.example/x y")], invalid("invalid_target")),
        (&[of, ("audience", "nobody-s")], is(400, "invalid_target", "app_not_found")),
        (&[of, ("audience", "outlook:alice")], invalid("invalid_target")),
        (&[of, ("min_ttl", "1")], invalid("invalid_request")),
        (&[of, ("min_ttl", "soon")], invalid("invalid_request")),
        // Whoever means a user must not get what can do more.
        (
            &[of, ("subject_token", "outlook:alice"), ("subject_token_type", CONNECTION)],
            invalid("invalid_request"),
        ),
    ] {
        let answer = ask(&world, &key, more).await;
        assert_eq!(refusal(&answer), expected, "{more:?}: {}", answer.text());
    }
    // Rights to connections give none, whatever is named.
    for (key, more) in [
        (&world.key, &[][..]),
        (&world.key, &[("audience", "outlook")]),
        (&world.reader_key, &[("audience", "outlook"), of]),
    ] {
        let answer = ask(&world, key, more).await;
        assert_eq!(refusal(&answer), forbidden("unauthorized_client"), "{more:?}: {}", answer.text());
    }
    assert_eq!(world.token_calls(GRANT), 0, "nothing was asked");
    // A caller of two apps says which.
    let second = "[apps.second]\nclient_id = \"second\"\nauthority = \"https://login.microsoftonline.com/common/v2.0\"\n\
                  scopes = [\"offline_access\", \"Mail.Read\"]\n";
    let rule = format!("[[callers.harness.allow]]\napp = \"second\"\napp_only = [\"{alices}\"]\n");
    reconfigure(&world, "[listen.public]", &format!("{second}{rule}[listen.public]")).await;
    assert_eq!(refusal(&ask(&world, &key, &[of]).await), invalid("invalid_target"));
    let named = ask(&world, &key, &[of, ("audience", "outlook")]).await;
    assert_eq!(named.status, 200, "{}", named.text());
    // What is wrong in the tenant is told as the target's.
    world.entra.change_settings(|settings| settings.app_only_needs_consent = true);
    world.outlive_tokens();
    let blocked = ask(&world, &key, &[of, ("audience", "outlook")]).await;
    assert_eq!(refusal(&blocked), is(400, "invalid_target", "tenant_blocked"), "{}", blocked.text());
    assert_eq!(text(&blocked.json(), "reason"), "app_not_in_tenant");
}

/// Authlib, requests, oauth4webapi and openid-client, the last two with a key of their own (`private_key_jwt`).
#[tokio::test]
async fn four_libraries_get_the_app_s_own_token_and_two_of_them_sign() {
    let alices = User::work(ALICE).tenant_id().to_owned();
    let (world, key) = with_harness(Plan::default(), &format!("app_only = [\"{alices}\"]")).await;
    world.connect("user-1", ALICE).await;
    let path = format!("/v1/apps/outlook/token?tenant={alices}");
    let own = world.api_as(&key, Method::GET, &path, Value::Null).await.json()["access_token"].clone();
    let form = json!({ "scope": format!("{GRAPH}/.default"), "tenant": alices });
    let with_secret = |library: &str, method: &str| {
        let mut form = form.clone();
        form["grant_type"] = GRANT.into();
        json!({
            "library": library, "method": method, "client_id": "harness", "client_secret": key,
            "url": format!("{}/oauth2/token", world.daemon.local), "form": form,
        })
    };
    let cases = vec![
        with_secret("authlib", "client_secret_basic"),
        with_secret("authlib", "client_secret_post"),
        with_secret("requests", "client_secret_basic"),
    ];
    for answer in ask_as_libraries(cases).await {
        assert_eq!(answer["token"]["access_token"], own, "{answer}");
    }

    let (jwk, jwks) = key_pair();
    write_secret(&world.folder.path().join("harness.jwks"), &jwks.to_string());
    let (way, and) =
        ("{ api_keys = \"harness.keys\" }", "{ client_assertion = { jwks_file = \"harness.jwks\" } }");
    reconfigure(&world, way, &format!("{way}, {and}")).await;
    let rule = "[[callers.harness.allow]]\napp = \"outlook\"\nconnections = [\"user-1\"]\nscopes = [\"*\"]\n";
    reconfigure(&world, "[listen.public]", &format!("{rule}[listen.public]")).await;
    let signing = |package: &str, grant_type: &str, form: &Value| {
        json!({
            "package": package, "issuer": world.daemon.local, "client_id": "harness", "jwk": jwk,
            "grant_type": grant_type, "form": form,
        })
    };
    let exchange = json!({ "subject_token": "outlook:user-1", "subject_token_type": CONNECTION });
    let packages = ["oauth4webapi", "openid-client"];
    let cases: Vec<Value> = packages
        .iter()
        .flat_map(|package| [signing(package, GRANT, &form), signing(package, EXCHANGE, &exchange)])
        .collect();
    let users = Value::from(world.access_token("user-1").await);
    for (at, answer) in sign_as_libraries(cases).await.into_iter().enumerate() {
        let expected = if at % 2 == 0 { &own } else { &users };
        assert_eq!(&answer["token"]["access_token"], expected, "{answer}\n{}", world.daemon.log());
    }
}

/// A key pair made by Node: the private half, and a set with the public one.
fn key_pair() -> (Value, Value) {
    let script = "const { subtle } = crypto\n\
        const pair = await subtle.generateKey({ name: 'ECDSA', namedCurve: 'P-256' }, true, ['sign', 'verify'])\n\
        const [own, open] = [await subtle.exportKey('jwk', pair.privateKey), await subtle.exportKey('jwk', pair.publicKey)]\n\
        const named = { kid: 'k-1' }\n\
        console.log(JSON.stringify([{ ...own, ...named }, { keys: [{ ...open, ...named }] }]))";
    let output =
        command("node").args(["--input-type=module", "-e", script]).output().expect("node: run `make tools`");
    let pair: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    (pair[0].clone(), pair[1].clone())
}

/// Has oauth4webapi and openid-client ask. Returns what each case brought.
async fn sign_as_libraries(cases: Vec<Value>) -> Vec<Value> {
    let mut node = command("node");
    node.arg(repository().join("tests/interop/token-exchange/signing.mjs")).current_dir(node_folder());
    node.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let run = tokio::task::spawn_blocking(move || {
        let mut child = node.spawn().expect("node is missing: run `make tools`");
        let mut stdin = child.stdin.take().expect("piped");
        stdin.write_all(json!(cases).to_string().as_bytes()).expect("it reads");
        drop(stdin);
        child.wait_with_output().expect("it ends")
    });
    let output = tokio::time::timeout(PATIENCE, run).await.expect("it ends").expect("joined");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).expect("JSON")
}
