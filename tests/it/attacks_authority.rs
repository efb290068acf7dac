//! Attacks through the token endpoint (E1-E8): credentials in the wrong place, invalid answers, refusals that
//! must not become verdicts, throttling, and tokens for the wrong resource.

use std::process::Command;
use std::time::Duration;

use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::encoding::AsDer;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::{KeyPair, KeySize};
use aws_lc_rs::signature::{KeyPair as _, RSA_PKCS1_SHA256};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use entra_emulator::{
    AuthMethod, Endpoint, Fault, FaultRule, FederatedCredential, Garbage, Mode, RetryAfter,
};
use http::Method;
use serde_json::{Map, Value, json};

use crate::http_client::Answer;
use crate::world::{ALICE, BOB, CLIENT_ID, CLIENT_SECRET, PERSONAL, Plan, World, text};

const GRAPH: &str = "https://graph.microsoft.com";
const OUTLOOK: &str = "https://outlook.office.com";

fn object(value: Value) -> Map<String, Value> {
    value.as_object().expect("an object").clone()
}

fn refresh(fault: Fault) -> FaultRule {
    FaultRule::new(Endpoint::Token, fault).grant_type("refresh_token")
}

fn patch(value: Value) -> Fault {
    Fault::TokenResponsePatch(object(value))
}

fn sha256(token: &str) -> String {
    digest(&SHA256, token.as_bytes()).as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Says that a resource refused this token: the way to have a connection refreshed now.
async fn report(world: &World, name: &str, token: &str) -> Answer {
    let path = format!("/v1/apps/outlook/connections/{name}/token");
    world.api(Method::POST, &path, json!({ "rejected": sha256(token) })).await
}

fn code(answer: &Answer) -> (u16, String) {
    (answer.status.as_u16(), answer.json()["code"].as_str().unwrap_or_default().to_owned())
}

fn retry_after(answer: &Answer) -> u64 {
    let value =
        answer.headers.get("retry-after").unwrap_or_else(|| panic!("no Retry-After: {}", answer.text()));
    value.to_str().expect("text").parse().expect("seconds")
}

/// One refresh under a fault must fail for its reporter and change nothing for anybody else.
async fn must_not_matter(world: &World, name: &str, fault: Fault, expected: &str) {
    world.connect(name, ALICE).await;
    // One that works first: failures in a row, of whichever connection, would have the tenant left alone.
    let first = world.access_token(name).await;
    let before = text(&report(world, name, &first).await.json(), "access_token").to_owned();
    world.entra.faults().inject(refresh(fault.clone()));
    let answer = report(world, name, &before).await;
    world.entra.faults().clear();
    assert_eq!(code(&answer), (503, expected.to_owned()), "{fault:?}: {}", answer.text());
    assert!(retry_after(&answer) >= 1, "{fault:?}");
    assert_eq!(world.access_token(name).await, before, "{fault:?}");
    assert_eq!(world.show(name).await["status"], "active", "{fault:?}");
}

/// No secret of any token request stands anywhere but in its body or its header.
fn credentials_were_sent_once(world: &World, expected: AuthMethod) {
    let secret_words =
        ["client_secret", "client_assertion", "refresh_token", "code_verifier", "access_token", "assertion"];
    let mut calls = 0;
    for entry in world.entra.ledger() {
        assert!(!entry.query_keys.iter().any(|key| secret_words.contains(&key.as_str())), "{entry:?}");
        if entry.endpoint != Endpoint::Token {
            continue;
        }
        calls += 1;
        assert_eq!(entry.method, "POST");
        assert!(entry.query_keys.is_empty(), "{entry:?}");
        assert_eq!(entry.auth_method, expected, "{entry:?}");
        let in_form = |key: &str| entry.form_keys.iter().filter(|known| *known == key).count();
        assert_eq!(in_form("client_secret"), usize::from(expected == AuthMethod::SecretPost));
        let signed = matches!(expected, AuthMethod::Certificate | AuthMethod::Federated);
        assert_eq!(in_form("client_assertion"), usize::from(signed));
        assert_eq!(entry.status, Some(200), "{entry:?}");
    }
    assert!(calls >= 4, "{calls}");
}

async fn connect_and_refresh(world: &World) {
    world.connect("alice", ALICE).await;
    let mut token = world.access_token("alice").await;
    for _ in 0..3 {
        let answer = report(world, "alice", &token).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        let next = text(&answer.json(), "access_token").to_owned();
        assert_ne!(next, token);
        assert_eq!(world.graph(&next).await.status, 200);
        token = next;
    }
}

#[tokio::test]
async fn a_secret_travels_in_the_form_or_in_the_header_and_nowhere_else() {
    for (method, expected) in
        [("client_secret_post", AuthMethod::SecretPost), ("client_secret_basic", AuthMethod::SecretBasic)]
    {
        let line = format!("token_endpoint_auth_method = \"{method}\"");
        let world = Plan::default().app_lines(&line).start().await;
        connect_and_refresh(&world).await;
        credentials_were_sent_once(&world, expected);
        assert!(!world.daemon.log().contains(CLIENT_SECRET));
    }
}

/// A key and its certificate, as PEM.
fn certificate() -> (String, String) {
    let folder = tempfile::tempdir().expect("a temp dir");
    let (key, certificate) = (folder.path().join("key.pem"), folder.path().join("cert.pem"));
    let made = Command::new("openssl")
        .args([
            "req",
            "-x509",
            "-newkey",
            "rsa:2048",
            "-nodes",
            "-days",
            "7",
            "-subj",
            "/CN=tokenward",
            "-keyout",
        ])
        .arg(&key)
        .arg("-out")
        .arg(&certificate)
        .output()
        .expect("openssl");
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let read = |path| std::fs::read_to_string(path).expect("PEM");
    (read(key), read(certificate))
}

#[tokio::test]
async fn a_certificate_proves_the_app_with_an_assertion_that_is_never_used_twice() {
    let (key, certificate) = certificate();
    let table =
        "[[apps.outlook.credentials]]\nid = \"cert\"\nkind = \"certificate\"\nfile = \"client.pem\"\n";
    let plan = Plan::default().credentials(table).file("client.pem", &format!("{certificate}{key}"));
    let world = plan.start().await;
    world.entra.set_certificates(CLIENT_ID, &[&certificate]).expect("registered");
    world.entra.change_settings(|settings| settings.strict_jti = true);
    connect_and_refresh(&world).await;
    credentials_were_sent_once(&world, AuthMethod::Certificate);

    // Revoked: the app's trouble and nobody else's.
    let token = world.access_token("alice").await;
    world.entra.revoke_certificates(CLIENT_ID).expect("revoked");
    assert_eq!(code(&report(&world, "alice", &token).await), (503, "app_credential_rejected".into()));
    assert_eq!(world.access_token("alice").await, token);
    assert_eq!(world.show("alice").await["status"], "active");
}

struct Issuer {
    key: KeyPair,
}

impl Issuer {
    fn new() -> Self {
        let key = KeyPair::generate(KeySize::Rsa2048).expect("a key");
        assert!(AsDer::<aws_lc_rs::encoding::Pkcs8V1Der<'_>>::as_der(&key).is_ok());
        Issuer { key }
    }

    fn jwks(&self) -> Value {
        let public = self.key.public_key();
        let part = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
        json!({ "keys": [{
            "kty": "RSA", "use": "sig", "kid": "issuer-1",
            "n": part(public.modulus().big_endian_without_leading_zero()),
            "e": part(public.exponent().big_endian_without_leading_zero()),
        }] })
    }

    fn assertion(&self, life: i64) -> String {
        let now = i64::try_from(std::time::UNIX_EPOCH.elapsed().expect("time").as_secs()).expect("seconds");
        let part = |value: Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let signed = format!(
            "{}.{}",
            part(json!({ "alg": "RS256", "typ": "JWT", "kid": "issuer-1" })),
            part(json!({
                "iss": "https://issuer.example", "sub": "system:serviceaccount:mail:tokenward",
                "aud": "api://AzureADTokenExchange", "iat": now - 60, "nbf": now - 60, "exp": now + life,
            }))
        );
        let mut signature = vec![0; self.key.public_modulus_len()];
        self.key
            .sign(&RSA_PKCS1_SHA256, &SystemRandom::new(), signed.as_bytes(), &mut signature)
            .expect("signed");
        format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature))
    }
}

#[tokio::test]
async fn an_assertion_of_another_issuer_proves_the_app_and_is_read_anew() {
    let issuer = Issuer::new();
    let table = "[[apps.outlook.credentials]]\nid = \"fed\"\nkind = \"federated\"\nfile = \"assertion\"\n";
    let world = Plan::default().credentials(table).file("assertion", &issuer.assertion(600)).start().await;
    let credential = FederatedCredential::new(
        "https://issuer.example",
        "system:serviceaccount:mail:tokenward",
        issuer.jwks(),
    );
    world.entra.add_federated_credential(CLIENT_ID, credential).expect("registered");
    connect_and_refresh(&world).await;
    credentials_were_sent_once(&world, AuthMethod::Federated);

    // An expired assertion is not even sent; a renewed one is used at once.
    let token = world.access_token("alice").await;
    let path = world.folder.path().join("assertion");
    crate::world::write_secret(&path, &issuer.assertion(-10));
    let calls = world.token_calls("refresh_token");
    assert_eq!(code(&report(&world, "alice", &token).await), (503, "app_credential_rejected".into()));
    assert_eq!(world.token_calls("refresh_token"), calls);
    crate::world::write_secret(&path, &issuer.assertion(600));
    heals(&world, "alice", &token).await;
}

/// A refresh works again by itself, soon.
async fn heals(world: &World, name: &str, token: &str) {
    world.until("a refresh works again", async || report(world, name, token).await.status == 200).await;
}

#[tokio::test]
async fn an_answer_that_is_none_changes_nothing() {
    let world = Plan::default().start().await;
    let long = "x".repeat(70_000);
    let mut faults: Vec<Fault> = [
        json!({ "access_token": "" }),
        json!({ "access_token": null }),
        json!({ "access_token": 7 }),
        json!({ "access_token": ["x"] }),
        json!({ "access_token": { "value": "x" } }),
        json!({ "access_token": "two words" }),
        json!({ "access_token": "line\nbreak" }),
        json!({ "access_token": "\u{fc}" }),
        json!({ "access_token": "nul\u{0}" }),
        json!({ "access_token": long }),
        json!({ "token_type": "mac" }),
        json!({ "token_type": "PoP" }),
        json!({ "expires_in": 0 }),
        json!({ "expires_in": -1 }),
        json!({ "expires_in": "-3600" }),
        json!({ "id_token": 7 }),
        json!({ "id_token": "not.a.token" }),
        json!({ "error": "invalid_grant" }),
        json!({ "error": { "code": "x" } }),
    ]
    .into_iter()
    .map(patch)
    .collect();
    use Garbage::{DuplicateKeys, Empty, Html, HtmlError, HugeBody, NotJson, TrailingBytes, TruncatedJson};
    for garbage in [DuplicateKeys, Empty, Html, HtmlError, HugeBody, NotJson, TrailingBytes, TruncatedJson] {
        faults.push(Fault::Garbage(garbage));
    }
    for (number, fault) in faults.into_iter().enumerate() {
        must_not_matter(&world, &format!("user-{number}"), fault, "authority_unavailable").await;
    }
}

#[tokio::test]
async fn odd_answers_that_are_good_are_taken() {
    let world = Plan::default().start().await;
    let cases = [
        (json!({ "expires_in": "3599" }), 3599),
        (json!({ "expires_in": 172_800 }), 172_800),
        (json!({ "expires_in": null }), 300),
        (json!({ "expires_in": 172_801 }), 172_800),
        (json!({ "expires_in": u64::MAX }), 172_800),
        (json!({ "expires_in": 1e300 }), 172_800),
        (json!({ "expires_in": 3599.5 }), 3599),
        (json!({ "expires_in": "3599.0" }), 3599),
        (json!({ "expires_in": "soon" }), 300),
        (json!({ "expires_in": "" }), 300),
        (json!({ "expires_in": true }), 300),
        (json!({ "expires_in": [3600] }), 300),
        (json!({ "token_type": "" }), 0),
        (json!({ "token_type": null }), 0),
        (json!({ "token_type": 7 }), 0),
        (json!({ "token_type": "Bearer " }), 0),
        (json!({ "refresh_token": "" }), 0),
        (json!({ "refresh_token": 7 }), 0),
        (json!({ "refresh_token": "bell\u{7}" }), 0),
        (json!({ "scope": 7 }), 0),
        (json!({ "scope": ["Mail.Read"] }), 0),
        (json!({ "id_token": "" }), 0),
        (json!({ "error": "" }), 0),
        (json!({ "token_type": "bearer" }), 0),
        (json!({ "token_type": "BEARER" }), 0),
        (json!({ "scope": null }), 0),
        (json!({ "scope": "" }), 0),
        (json!({ "refresh_in": "soon" }), 0),
        (json!({ "id_token": null }), 0),
        (json!({ "something_new": { "deep": [1, 2, 3] } }), 0),
    ];
    for (number, (members, life)) in cases.into_iter().enumerate() {
        let name = format!("user-{number}");
        world.connect(&name, ALICE).await;
        let before = world.access_token(&name).await;
        world.entra.faults().inject(refresh(patch(members.clone())));
        let answer = report(&world, &name, &before).await;
        world.entra.faults().clear();
        assert_eq!(answer.status, 200, "{members}: {}", answer.text());
        let answer = answer.json();
        assert_ne!(text(&answer, "access_token"), before, "{members}");
        let expires_in = answer["expires_in"].as_u64().expect("a life");
        assert!(life == 0 || (life - 5..=life).contains(&expires_in), "{members}: {expires_in}");
    }
}

/// The newest refresh token is presented each time, and the one before it only until the new one is stored.
#[tokio::test]
async fn the_newest_refresh_token_is_used_and_an_absent_one_keeps_the_old() {
    let world = Plan::default().mode(Mode::Strict).start().await;
    connect_and_refresh(&world).await;
    let serials: Vec<_> = world
        .entra
        .ledger()
        .into_iter()
        .filter(|entry| entry.endpoint == Endpoint::Token)
        .map(|entry| (entry.refresh_presented, entry.refresh_issued))
        .collect();
    for pair in serials.windows(2) {
        assert_eq!(pair[1].0, pair[0].1, "{serials:?}");
    }

    let world = Plan::default().start().await;
    world.connect("alice", ALICE).await;
    world.entra.clear_ledger();
    world.entra.faults().inject(refresh(patch(json!({ "refresh_token": null }))));
    let mut token = world.access_token("alice").await;
    for _ in 0..3 {
        let answer = report(&world, "alice", &token).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        token = text(&answer.json(), "access_token").to_owned();
    }
    let presented: Vec<_> = world
        .entra
        .ledger()
        .into_iter()
        .filter(|entry| entry.endpoint == Endpoint::Token)
        .map(|entry| entry.refresh_presented.expect("a serial"))
        .collect();
    assert_eq!(presented.len(), 3);
    assert!(presented.iter().all(|serial| *serial == presented[0]), "{presented:?}");
}

#[tokio::test]
async fn a_rejected_credential_is_the_apps_trouble_and_heals_by_itself() {
    let world = Plan::default().start().await;
    for (round, expired) in [false, true].into_iter().enumerate() {
        let name = format!("alice-{round}");
        world.connect(&name, ALICE).await;
        let token = world.access_token(&name).await;
        if expired {
            world.entra.expire_secret(CLIENT_ID, CLIENT_SECRET).expect("expired");
        } else {
            world.entra.remove_secret(CLIENT_ID, CLIENT_SECRET).expect("removed");
        }
        let answer = report(&world, &name, &token).await;
        assert_eq!(code(&answer), (503, "app_credential_rejected".into()), "{}", answer.text());
        assert!((1..=60).contains(&retry_after(&answer)));
        let expected = if expired { 7_000_222 } else { 7_000_215 };
        assert_eq!(answer.json()["error_codes"], json!([expected]));
        assert_eq!(world.access_token(&name).await, token, "a live token is served");
        assert_eq!(world.show(&name).await["status"], "active");

        world.outlive_tokens();
        let calls = world.token_calls("refresh_token");
        for _ in 0..20 {
            let answer = world.token(&name).await;
            assert_eq!(code(&answer), (503, "app_credential_rejected".into()));
            assert!(retry_after(&answer) >= 1);
        }
        assert!(world.token_calls("refresh_token") <= calls + 1, "nobody hammers");
        assert_eq!(world.show(&name).await["status"], "active");

        world.entra.rotate_secret(CLIENT_ID, CLIENT_SECRET).expect("restored");
        world.until_served(&name).await;
    }
}

/// Whatever number comes beside it, `invalid_client` judges no user.
#[tokio::test]
async fn a_users_number_beside_invalid_client_is_no_verdict() {
    let world = Plan::default().start().await;
    for (number, aadsts) in [50173, 700_082, 65001, 50057, 999_999].into_iter().enumerate() {
        let fault = Fault::Aadsts {
            code: aadsts,
            error: Some("invalid_client".into()),
            suberror: Some("bad_token".into()),
            claims: None,
            status: Some(401),
            retry_after: None,
        };
        must_not_matter(&world, &format!("user-{number}"), fault, "app_credential_rejected").await;
        world.pass(Duration::from_secs(3));
    }
}

#[tokio::test]
async fn trouble_of_the_authority_is_never_a_users() {
    let world = Plan::default().start().await;
    let unknown = |code, error: &str, status| Fault::Aadsts {
        code,
        error: Some(error.into()),
        suberror: None,
        claims: None,
        status: Some(status),
        retry_after: None,
    };
    let mut faults: Vec<Fault> =
        [400, 401, 403, 404, 408, 418, 429, 451, 500, 501, 502, 503, 504, 529, 201, 204, 299]
            .into_iter()
            .map(Fault::status)
            .collect();
    faults.extend([50196, 90033, 90055, 90006, 50033, 50087].map(Fault::aadsts));
    faults.extend([
        unknown(999_999, "brand_new_error", 400),
        unknown(50173, "temporarily_unavailable", 400),
        unknown(50173, "invalid_grant", 503),
        unknown(700_082, "invalid_grant", 429),
        unknown(65001, "server_error", 400),
        Fault::DropBeforeProcessing,
        Fault::DropAfterProcessing,
        Fault::CutAnswer,
    ]);
    for (number, fault) in faults.into_iter().enumerate() {
        must_not_matter(&world, &format!("user-{number}"), fault, "authority_unavailable").await;
    }
    // The registration's trouble, and our own requests', are not either.
    let faults = [50011, 70001, 650_057, 7_000_218, 9_002_327, 9_002_331].map(Fault::aadsts);
    for (number, fault) in faults.into_iter().enumerate() {
        must_not_matter(&world, &format!("app-{number}"), fault, "app_rejected").await;
    }
}

/// Some authorities keep a token and give it again: the reporter is told so after one call, and others are
/// served.
#[tokio::test]
async fn a_token_that_is_rejected_and_given_again_is_said_in_true_words() {
    let world = Plan::default().start().await;
    world.connect("alice", ALICE).await;
    let token = world.access_token("alice").await;
    world.entra.clear_ledger();
    world.entra.faults().inject(refresh(patch(json!({ "access_token": token }))));
    let answer = report(&world, "alice", &token).await;
    assert_eq!(code(&answer), (503, "authority_unavailable".into()), "{}", answer.text());
    let detail = answer.json()["detail"].as_str().unwrap_or_default().to_owned();
    assert!(detail.contains("the very token that was reported"), "{detail}");
    assert!(retry_after(&answer) >= 1);
    assert_eq!(world.token_calls("refresh_token"), 1);
    assert_eq!(world.access_token("alice").await, token);
    world.entra.faults().clear();
    assert_eq!(report(&world, "alice", &token).await.status, 200);
}

#[tokio::test]
async fn a_hanging_authority_costs_its_reporter_and_nobody_else() {
    let limits = "[limits]\nauthority_timeout = \"3s\"\nlease = \"9s\"\n";
    let world = Plan::default().sections(limits).start().await;
    must_not_matter(&world, "alice", Fault::Hang(None), "authority_unavailable").await;
    let drip = Fault::SlowDrip { bytes: 1, interval: Duration::from_secs(1) };
    must_not_matter(&world, "bob", drip, "authority_unavailable").await;
}

/// Number, suberror, and what the connection becomes.
const VERDICTS: [(u32, &str, &str); 26] = [
    (65001, "needs_reauthorization", "consent_required"),
    (50173, "needs_reauthorization", "grant_revoked"),
    (700_082, "needs_reauthorization", "grant_expired"),
    (70008, "needs_reauthorization", "grant_expired"),
    (70043, "needs_reauthorization", "grant_expired"),
    (70000, "needs_reauthorization", "grant_revoked"),
    (50132, "needs_reauthorization", "grant_revoked"),
    (50055, "needs_reauthorization", "password_expired"),
    (50144, "needs_reauthorization", "password_expired"),
    (50034, "needs_reauthorization", "account_gone"),
    (50076, "needs_reauthorization", "interaction_required"),
    (50079, "needs_reauthorization", "interaction_required"),
    (50158, "needs_reauthorization", "interaction_required"),
    (50057, "blocked", "account_disabled"),
    (50053, "blocked", "account_disabled"),
    (53003, "blocked", "policy_blocked"),
    (50131, "blocked", "policy_blocked"),
    (53000, "blocked", "device_required"),
    (50105, "blocked", "assignment_required"),
    (700_016, "blocked", "app_not_in_tenant"),
    (7_000_112, "blocked", "app_not_in_tenant"),
    (650_052, "blocked", "app_not_in_tenant"),
    (90002, "blocked", "tenant_gone"),
    (900_941, "blocked", "admin_consent_required"),
    (90094, "blocked", "admin_consent_required"),
    (90095, "blocked", "admin_consent_required"),
];

#[tokio::test]
async fn a_verdict_changes_the_status_and_leaves_a_live_token_be() {
    let world = Plan::default().start().await;
    let bare = Fault::Aadsts {
        code: 999_999,
        error: Some("invalid_grant".into()),
        suberror: None,
        claims: None,
        status: None,
        retry_after: None,
    };
    let cases = VERDICTS
        .map(|(code, status, reason)| (Fault::aadsts(code), status, reason))
        .into_iter()
        .chain([(bare, "needs_reauthorization", "interaction_required")]);
    for (number, (fault, status, reason)) in cases.enumerate() {
        let name = format!("user-{number}");
        world.connect(&name, ALICE).await;
        let before = world.access_token(&name).await;
        world.entra.faults().inject(refresh(fault.clone()));
        let answer = report(&world, &name, &before).await;
        let expected = if status == "blocked" { "connection_blocked" } else { "reauthorization_required" };
        assert_eq!(code(&answer), (409, expected.to_owned()), "{fault:?}: {}", answer.text());
        let problem = answer.json();
        assert_eq!(problem["reason"], reason, "{fault:?}");
        assert!(problem["hint"].as_str().is_some_and(|hint| !hint.is_empty()));
        let shown = world.show(&name).await;
        assert_eq!((&shown["status"], &shown["reason"]), (&json!(status), &json!(reason)), "{fault:?}");
        let served = world.token(&name).await;
        assert_eq!(served.status, 200, "{fault:?}: {}", served.text());
        let served = served.json();
        assert_eq!(served["access_token"], json!(before), "{fault:?}");
        assert_eq!((&served["status"], &served["reason"]), (&json!(status), &json!(reason)));
        world.entra.faults().clear();
    }
}

#[tokio::test]
async fn after_a_verdict_and_the_tokens_end_the_answer_names_the_reason() {
    // Shorter than the time after which a verdict is tried again.
    let life = Duration::from_secs(50);
    let world = Plan::default().token_life(life).start().await;
    for (name, aadsts) in [("consent", 65001), ("gone", 700_082), ("blocked", 53003)] {
        world.connect(name, ALICE).await;
        let token = world.access_token(name).await;
        world.entra.faults().inject(refresh(Fault::aadsts(aadsts)));
        assert_eq!(report(&world, name, &token).await.status, 409);
        world.entra.faults().clear();
    }
    world.pass(life);
    world.entra.clear_ledger();
    for (name, expected, reason, aadsts) in [
        ("consent", "reauthorization_required", "consent_required", 65001),
        ("gone", "reauthorization_required", "grant_expired", 700_082),
        ("blocked", "connection_blocked", "policy_blocked", 53003),
    ] {
        let answer = world.token(name).await;
        assert_eq!(code(&answer), (409, expected.to_owned()), "{name}");
        let problem = answer.json();
        assert_eq!((&problem["reason"], &problem["error_codes"]), (&json!(reason), &json!([aadsts])));
    }
    assert_eq!(world.token_calls("refresh_token"), 0, "a verdict is not asked for again at once");
}

#[tokio::test]
async fn where_one_tenant_only_is_served_a_missing_app_is_the_registrations_trouble() {
    let plan = Plan { tenants: r#"["22222222-0000-4000-8000-00000000000b"]"#, ..Plan::default() };
    let world = plan.start().await;
    for number in [700_016, 7_000_112, 90002, 650_052, 7_000_229] {
        let name = format!("bob-{number}");
        world.connect(&name, BOB).await;
        let before = world.access_token(&name).await;
        world.entra.faults().inject(refresh(Fault::aadsts(number)));
        let answer = report(&world, &name, &before).await;
        world.entra.faults().clear();
        assert_eq!(code(&answer), (503, "app_rejected".into()), "{}", answer.text());
        assert!(retry_after(&answer) >= 1);
        assert_eq!(world.show(&name).await["status"], "active");
    }
}

#[tokio::test]
async fn a_personal_accounts_first_bad_token_is_tried_once_more() {
    let world = Plan::default().start().await;
    world.connect("carol", PERSONAL).await;
    let before = world.access_token("carol").await;
    world.entra.clear_ledger();
    world.entra.faults().inject(refresh(Fault::aadsts(70000)).once());
    let answer = report(&world, "carol", &before).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(world.token_calls("refresh_token"), 2);
    assert_eq!(world.show("carol").await["status"], "active");

    let before = world.access_token("carol").await;
    world.entra.faults().inject(refresh(Fault::aadsts(70000)));
    let answer = report(&world, "carol", &before).await;
    assert_eq!(code(&answer), (409, "reauthorization_required".into()));
    assert_eq!(world.show("carol").await["reason"], "grant_revoked");
    assert_eq!(world.access_token("carol").await, before, "a live token is served");
}

#[tokio::test]
async fn a_retry_after_is_kept_for_the_whole_tenant_and_for_no_other() {
    for after in [RetryAfter::Seconds(30), RetryAfter::DateAfterSeconds(31)] {
        let world = Plan::default().start().await;
        world.connect("alice-1", ALICE).await;
        world.outlive_tokens();
        world.connect("alice-2", ALICE).await;
        world.connect("bob", BOB).await;
        let (alices, bobs) = (world.access_token("alice-2").await, world.access_token("bob").await);
        let throttled = Fault::Status { status: 429, retry_after: Some(after) };
        world.entra.faults().inject(refresh(throttled).once());
        let answer = world.token("alice-1").await;
        assert_eq!(code(&answer), (503, "authority_unavailable".into()), "{}", answer.text());
        assert!((25..=40).contains(&retry_after(&answer)), "{after:?}: {}", retry_after(&answer));

        world.entra.clear_ledger();
        for _ in 0..10 {
            for answer in [world.token("alice-1").await, report(&world, "alice-2", &alices).await] {
                assert_eq!(code(&answer), (503, "authority_unavailable".into()));
                assert!(retry_after(&answer) > 5, "{}", retry_after(&answer));
            }
            assert_eq!(world.access_token("alice-2").await, alices);
            world.pass(Duration::from_secs(1));
        }
        assert_eq!(world.entra.ledger_count(Endpoint::Token, None), 0, "{after:?}");
        assert_eq!(report(&world, "bob", &bobs).await.status, 200, "another tenant is not throttled");
    }
}

#[tokio::test]
async fn an_absurd_retry_after_is_capped() {
    let world = Plan::default().start().await;
    world.connect("alice", ALICE).await;
    let token = world.access_token("alice").await;
    world.entra.faults().inject(refresh(Fault::status_retry_after(429, 99_999_999)).once());
    let answer = report(&world, "alice", &token).await;
    assert_eq!(answer.status, 503);
    assert!(retry_after(&answer) <= 4320, "{}", retry_after(&answer));
}

/// The audience a work token says it is for; the tests may look, the daemon does not.
fn audience(token: &str) -> String {
    let payload = token.split('.').nth(1).expect("a payload");
    let claims: Value =
        serde_json::from_slice(&URL_SAFE_NO_PAD.decode(payload).expect("base64url")).expect("JSON");
    text(&claims, "aud").to_owned()
}

const TWO_RESOURCES: &str =
    r#"["offline_access", "openid", "profile", "Mail.Read", "https://outlook.office.com/SMTP.Send"]"#;

#[tokio::test]
async fn a_token_of_one_resource_is_never_handed_out_for_another() {
    let callers = r#"
[callers.smtp]
authenticate = [{ unix_user = 0 }]
[[callers.smtp.allow]]
app = "outlook"
connections = ["team-b/*"]
scopes = ["https://outlook.office.com/SMTP.Send"]
"#;
    let plan = Plan { scopes: TWO_RESOURCES, ..Plan::default() };
    let uid = rustix::process::getuid().as_raw();
    let world = plan.sections(&callers.replace("= 0", &format!("= {uid}"))).start().await;
    world.connect("team-b/alice", ALICE).await;

    let ambiguous = world.token("team-b/alice").await;
    assert_eq!(code(&ambiguous), (400, "invalid_request".into()), "{}", ambiguous.text());
    assert_eq!(ambiguous.json()["parameter"], "resource");
    let both = "?scope=Mail.Read%20https://outlook.office.com/SMTP.Send";
    assert_eq!(world.token_with("team-b/alice", both).await.json()["parameter"], "resource");

    let mut seen = std::collections::BTreeMap::new();
    for (query, resource) in [
        ("?resource=https://graph.microsoft.com", GRAPH),
        ("?resource=https://outlook.office.com", OUTLOOK),
        ("?resource=HTTPS://Outlook.Office.COM/.default", OUTLOOK),
        ("?resource=https://graph.microsoft.com/", GRAPH),
        ("?scope=Mail.Read", GRAPH),
        ("?scope=https://graph.microsoft.com/mail.read", GRAPH),
        ("?scope=https://outlook.office.com/SMTP.Send", OUTLOOK),
        ("?scope=https://outlook.office.com/smtp.send&min_ttl=86400", OUTLOOK),
        ("?scope=Mail.Read&resource=https://graph.microsoft.com", GRAPH),
    ] {
        let answer = world.token_with("team-b/alice", query).await;
        assert_eq!(answer.status, 200, "{query}: {}", answer.text());
        let token = text(&answer.json(), "access_token").to_owned();
        assert!(audience(&token).eq_ignore_ascii_case(resource), "{query}: {}", audience(&token));
        seen.entry(resource).or_insert_with(Vec::new).push(token);
    }
    assert!(!seen[GRAPH].iter().any(|token| seen[OUTLOOK].contains(token)));

    // What contradicts itself, or was never granted, is no token at all.
    for query in [
        "?scope=Mail.Read&resource=https://outlook.office.com",
        "?scope=https://outlook.office.com/SMTP.Send&resource=https://graph.microsoft.com",
        "?resource=https://evil.example",
        "?resource=https://graph.microsoft.com.evil.example",
        "?resource=https://outlook.office.com/SMTP.Send",
        "?scope=https://outlook.office.com/Mail.Read",
        "?scope=SMTP.Send",
    ] {
        let answer = world.token_with("team-b/alice", query).await;
        assert!(matches!(answer.status.as_u16(), 400 | 403 | 409), "{query}: {}", answer.text());
        assert!(answer.json().get("access_token").is_none());
    }

    // Each caller's rule names one resource, so neither has to say it, and neither gets the other's.
    let path = "/v1/apps/outlook/connections/team-b%2Falice/token";
    let reader = world.api_as(&world.reader_key, Method::GET, path, Value::Null).await;
    assert_eq!(audience(text(&reader.json(), "access_token")), GRAPH);
    let socket = world.folder.path().join("local.sock");
    let unix = async |query: &str| {
        crate::http_client::request_unix(&socket, Method::GET, &format!("{path}{query}"), &[], "")
            .await
            .expect("an answer")
    };
    assert_eq!(audience(text(&unix("").await.json(), "access_token")), OUTLOOK);
    for query in ["?resource=https://graph.microsoft.com", "?scope=Mail.Read", "?scope=openid%20Mail.Read"] {
        let answer = unix(query).await;
        assert!(matches!(answer.status.as_u16(), 400 | 403 | 409), "{query}: {}", answer.text());
    }
    for query in ["?resource=https://outlook.office.com", "?scope=https://outlook.office.com/SMTP.Send"] {
        let answer =
            world.api_as(&world.reader_key, Method::GET, &format!("{path}{query}"), Value::Null).await;
        assert!(matches!(answer.status.as_u16(), 400 | 403 | 409), "{query}: {}", answer.text());
    }
    // The sign-in's own scopes are no resource's: asked for alone they open nothing that the rule does not.
    assert_eq!(audience(text(&unix("?scope=openid").await.json(), "access_token")), OUTLOOK);
}

/// A rule that gives the sign-in's own scopes gives no right at a resource, and so no token of one.
#[tokio::test]
async fn a_rule_without_a_resources_scope_gives_no_token() {
    let uid = rustix::process::getuid().as_raw();
    let callers = format!(
        "[callers.greeter]\nauthenticate = [{{ unix_user = {uid} }}]\n[[callers.greeter.allow]]\napp = \
         \"outlook\"\n\
         connections = [\"team-b/*\"]\nscopes = [\"openid\", \"profile\"]\n"
    );
    let world = Plan::default().sections(&callers).start().await;
    world.connect("team-b/alice", ALICE).await;
    let socket = world.folder.path().join("local.sock");
    for query in ["", "?scope=openid", "?resource=https://graph.microsoft.com", "?scope=openid%20profile"] {
        let path = format!("/v1/apps/outlook/connections/team-b%2Falice/token{query}");
        let answer = crate::http_client::request_unix(&socket, Method::GET, &path, &[], "").await;
        let answer = answer.expect("an answer");
        assert!(matches!(answer.status.as_u16(), 403 | 409), "{query}: {} {}", answer.status, answer.text());
    }
}

#[tokio::test]
async fn an_authority_that_is_gone_is_nobodys_verdict() {
    let world = Plan::default().start().await;
    world.connect("alice", ALICE).await;
    let before = world.access_token("alice").await;
    world.entra.stop().await;
    let answer = report(&world, "alice", &before).await;
    assert_eq!(code(&answer), (503, "authority_unavailable".into()), "{}", answer.text());
    assert_eq!(world.access_token("alice").await, before);
    world.outlive_tokens();
    let answer = world.token("alice").await;
    assert_eq!(code(&answer), (503, "authority_unavailable".into()));
    assert!((1..=60).contains(&retry_after(&answer)));
    assert_eq!(world.show("alice").await["status"], "active");
    // It is nothing that a restart of ours would mend, so we stay ready.
    world.daemon.until_ready().await;
}
