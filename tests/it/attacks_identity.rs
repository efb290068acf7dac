//! Attacks on identity (D1-D7): forged, stolen and misdirected id tokens, hostile discovery, changed signing
//! keys. Whatever the authority's side says, nobody is connected as another user.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use entra_emulator::{Endpoint, Fault, FaultRule, Garbage, IdTokenSigning, User};
use http::Method;
use serde_json::{Map, Value, json};

use crate::http_client::{Browser, request};
use crate::world::{ALICE, BOB, PERSONAL, Plan, World, text};

const SOMEBODY: &str = "0f0f0f0f-0000-4000-8000-0000000000aa";

fn object(value: Value) -> Map<String, Value> {
    value.as_object().expect("an object").clone()
}

fn claims(patch: Value) -> Fault {
    Fault::IdTokenPatch(object(patch))
}

fn header(patch: Value) -> Fault {
    Fault::IdTokenHeaderPatch(object(patch))
}

fn seconds(entra: &World) -> u64 {
    let now = entra.entra.now().duration_since(std::time::UNIX_EPOCH).expect("after 1970");
    now.as_secs()
}

/// Runs a connect session to its end with these faults in every token answer; its state, nothing confirmed
/// yet.
async fn connect_under(world: &World, name: &str, user: &str, faults: &[Fault]) -> (String, Value) {
    world.entra.sign_in_as(user);
    for fault in faults {
        world.entra.faults().inject(FaultRule::new(Endpoint::Token, fault.clone()));
    }
    let session = world.start_session(json!({ "app": "outlook", "connection": name })).await;
    let mut browser = Browser::default();
    world.sign_in(&mut browser, text(&session, "connect_url")).await;
    world.entra.faults().clear();
    let id = text(&session, "id").to_owned();
    let state = world.session(&id).await;
    (id, state)
}

/// The daemon's log says so from a place on; it is read beside us, so it may take a moment.
async fn assert_logged(world: &World, from: usize, words: &str) {
    world.until(words, async || world.daemon.log()[from..].contains(words)).await;
}

async fn assert_nothing_is_there(world: &World, name: &str) {
    let path = format!("/v1/apps/outlook/connections/{name}");
    assert_eq!(world.api(Method::GET, &path, Value::Null).await.status, 404, "{name}");
    assert_eq!(world.token(name).await.status, 404, "{name}");
}

#[tokio::test]
async fn an_id_token_that_breaks_a_rule_connects_nobody() {
    let world = Plan::default().start().await;
    let now = seconds(&world);
    let bob_tenant = "22222222-0000-4000-8000-00000000000b";
    let other_issuer = format!("{}/{bob_tenant}/v2.0", world.entra.base_url());
    let signing = Fault::IdTokenSigning;
    // What is done to the token, and the rule that must catch it.
    let attacks: Vec<(&str, Fault)> = vec![
        ("algorithm", signing(IdTokenSigning::AlgNone)),
        ("signature", signing(IdTokenSigning::WrongKey)),
        ("unknown_key", signing(IdTokenSigning::UnpublishedKey)),
        ("algorithm", header(json!({ "alg": "none" }))),
        ("algorithm", header(json!({ "alg": "None" }))),
        ("algorithm", header(json!({ "alg": "HS256" }))),
        ("algorithm", header(json!({ "alg": "RS512" }))),
        ("algorithm", header(json!({ "alg": null }))),
        // Allowed where the discovery document lists them; Entra's lists RS256 alone.
        ("algorithm", header(json!({ "alg": "ES256" }))),
        ("algorithm", header(json!({ "alg": "PS256" }))),
        ("malformed", header(json!({ "alg": 256 }))),
        ("critical", header(json!({ "crit": ["exp"] }))),
        ("critical", header(json!({ "crit": [] }))),
        ("encrypted", header(json!({ "enc": "A256GCM" }))),
        ("wrong_type", header(json!({ "typ": "at+jwt" }))),
        ("unknown_key", header(json!({ "kid": "../../../../etc/passwd" }))),
        ("unknown_key", header(json!({ "kid": "' OR 1=1 --" }))),
        ("no_key_id", header(json!({ "kid": null }))),
        ("audience", claims(json!({ "aud": "99999999-2222-3333-4444-555555555555" }))),
        ("extra_audience", claims(json!({ "aud": [crate::world::CLIENT_ID, "another"] }))),
        ("claim_missing", claims(json!({ "aud": [] }))),
        ("claim_type", claims(json!({ "aud": { "any": true } }))),
        ("claim_missing", claims(json!({ "aud": null }))),
        ("authorized_party", claims(json!({ "azp": "another" }))),
        ("issuer", claims(json!({ "iss": "https://login.microsoftonline.com/common/v2.0" }))),
        ("issuer", claims(json!({ "iss": other_issuer }))),
        ("issuer", claims(json!({ "iss": format!("{}/{{tenantid}}/v2.0", world.entra.base_url()) }))),
        ("claim_missing", claims(json!({ "iss": null }))),
        ("issuer", claims(json!({ "tid": bob_tenant }))),
        ("tenant_id", claims(json!({ "tid": "{tenantid}" }))),
        ("claim_missing", claims(json!({ "tid": null }))),
        ("claim_missing", claims(json!({ "oid": null }))),
        ("object_id", claims(json!({ "oid": ALICE }))),
        ("claim_type", claims(json!({ "oid": 7 }))),
        ("claim_missing", claims(json!({ "sub": null }))),
        ("claim_missing", claims(json!({ "sub": "" }))),
        ("version", claims(json!({ "ver": "1.0" }))),
        ("expired", claims(json!({ "exp": now - 3600 }))),
        ("claim_type", claims(json!({ "exp": (now + 3600).to_string() }))),
        ("claim_type", claims(json!({ "exp": -1 }))),
        ("claim_missing", claims(json!({ "exp": null }))),
        ("not_yet_valid", claims(json!({ "nbf": now + 600 }))),
        ("issued_in_future", claims(json!({ "iat": now + 600 }))),
        ("claim_type", claims(json!({ "iat": true }))),
        ("nonce", claims(json!({ "nonce": "somebody-else's" }))),
        ("nonce", claims(json!({ "nonce": null }))),
        ("claim_type", claims(json!({ "nonce": ["a"] }))),
        ("access_token_hash", claims(json!({ "at_hash": "AAAAAAAAAAAAAAAAAAAAAA" }))),
        ("missing", Fault::TokenResponsePatch(object(json!({ "id_token": null })))),
        ("malformed", Fault::TokenResponsePatch(object(json!({ "id_token": "a.b.c" })))),
        ("malformed", Fault::TokenResponsePatch(object(json!({ "id_token": "EwB4A8l6" })))),
        ("encrypted", Fault::TokenResponsePatch(object(json!({ "id_token": "a.b.c.d.e" })))),
    ];
    for (number, (rule, fault)) in attacks.into_iter().enumerate() {
        let name = format!("victim-{number}");
        let before = world.daemon.log().len();
        let (id, state) = connect_under(&world, &name, ALICE, std::slice::from_ref(&fault)).await;
        assert_eq!(state["state"], "failed", "{fault:?}: {state}");
        assert!(state["account"].is_null(), "{fault:?}: {state}");
        assert_logged(&world, before, &format!("refused by the rule {rule}")).await;
        let account = json!({ "account": { "tid": bob_tenant, "oid": SOMEBODY } });
        let confirmed = world.api(Method::POST, &format!("/v1/connect-sessions/{id}/confirm"), account).await;
        assert_eq!(confirmed.status, 409, "{fault:?}: {}", confirmed.text());
        assert_nothing_is_there(&world, &name).await;
    }
    // The same flow without a fault works, so it was the faults.
    world.connect("honest", ALICE).await;
    assert_eq!(world.token("honest").await.status, 200);
}

#[tokio::test]
async fn key_material_in_a_header_is_never_followed() {
    let world = Plan::default().start().await;
    let (evil, touched) = listener().await;
    let jwk = json!({ "kty": "RSA", "n": "AQAB", "e": "AQAB", "kid": "mine" });
    for (number, members) in [
        json!({ "jku": format!("{evil}/keys"), "x5u": format!("{evil}/cert") }),
        json!({ "jwk": jwk, "x5c": ["MIIB"] }),
    ]
    .into_iter()
    .enumerate()
    {
        // Beside a foreign signature they help nobody …
        let faults = [header(members.clone()), Fault::IdTokenSigning(IdTokenSigning::UnpublishedKey)];
        let name = format!("forged-{number}");
        let (_, state) = connect_under(&world, &name, ALICE, &faults).await;
        assert_eq!(state["state"], "failed", "{members}");
        assert_nothing_is_there(&world, &name).await;
        // … and beside a good one they harm nobody.
        let (_, state) = connect_under(&world, &format!("genuine-{number}"), ALICE, &[header(members)]).await;
        assert_eq!(state["state"], "awaiting_confirmation");
    }
    assert_eq!(touched.load(Ordering::SeqCst), 0);
}

/// Storm-0558: a key of personal accounts signed for work tenants, and mail was read.
#[tokio::test]
async fn a_key_of_personal_accounts_signs_for_no_work_tenant() {
    let world = Plan::default().start().await;
    let tenant = User::work(ALICE).tenant_id().to_owned();
    let forged = claims(json!({
        "tid": tenant,
        "iss": format!("{}/{tenant}/v2.0", world.entra.base_url()),
        "oid": User::work(ALICE).object_id(),
        "preferred_username": ALICE,
    }));
    let (_, state) = connect_under(&world, "victim", PERSONAL, &[forged]).await;
    assert_eq!(state["state"], "failed", "{state}");
    assert_logged(&world, 0, "refused by the rule key_issuer").await;
    assert_nothing_is_there(&world, "victim").await;
}

#[tokio::test]
async fn a_key_of_one_tenant_signs_for_no_other() {
    let world = Plan::default().start().await;
    let url = format!("{}/common/discovery/v2.0/keys", world.entra.base_url());
    let mut keys = request(Method::GET, &url, &[], "").await.expect("keys").json();
    let alices = format!("{}/{}/v2.0", world.entra.base_url(), User::work(ALICE).tenant_id());
    for key in keys["keys"].as_array_mut().expect("keys") {
        key["issuer"] = json!(alices);
    }
    world.entra.faults().inject(FaultRule::new(Endpoint::Jwks, Fault::JwksPatch(object(keys))));
    world.entra.sign_in_as(BOB);
    let session = world.start_session(json!({ "app": "outlook", "connection": "bob" })).await;
    world.sign_in(&mut Browser::default(), text(&session, "connect_url")).await;
    assert_eq!(world.session(text(&session, "id")).await["state"], "failed");
    assert_logged(&world, 0, "refused by the rule key_issuer").await;
    assert_nothing_is_there(&world, "bob").await;
    world.connect("alice", ALICE).await;
}

#[tokio::test]
async fn an_account_of_a_tenant_that_is_not_listed_connects_nothing() {
    let plan = Plan { tenants: r#"["22222222-0000-4000-8000-00000000000b"]"#, ..Plan::default() };
    let world = plan.start().await;
    for (name, user) in [("alice", ALICE), ("carol", PERSONAL)] {
        let (_, state) = connect_under(&world, name, user, &[]).await;
        assert_eq!(state["state"], "failed");
        assert_eq!(state["reason"], "tenant_not_allowed");
        assert_nothing_is_there(&world, name).await;
    }
    world.connect("bob", BOB).await;
}

/// nOAuth: who an account is, is its tenant and object id; what it is called is decoration.
#[tokio::test]
async fn one_email_address_and_two_object_ids_are_two_users() {
    let world = Plan::default().start().await;
    world.connect("alice", ALICE).await;
    let first = world.show("alice").await;
    let same_names = json!({ "oid": SOMEBODY, "email": ALICE, "preferred_username": ALICE });

    // Under a new name it is another account.
    let (_, state) = connect_under(&world, "impostor", BOB, &[claims(same_names.clone())]).await;
    assert_eq!(state["state"], "awaiting_confirmation", "{state}");
    assert_eq!(state["account"]["username"], ALICE);
    assert_eq!(state["account"]["oid"], SOMEBODY);

    // It renews nothing of hers: the connection is pinned to the account it has.
    let (_, state) = connect_under(&world, "alice", BOB, &[claims(same_names.clone())]).await;
    assert_eq!((&state["state"], &state["reason"]), (&json!("failed"), &json!("account_mismatch")));
    // Not even with her own tenant: the object id decides.
    let (_, state) = connect_under(&world, "alice", ALICE, &[claims(same_names)]).await;
    assert_eq!((&state["state"], &state["reason"]), (&json!("failed"), &json!("account_mismatch")));
    assert_eq!(world.show("alice").await["account"], first["account"]);

    // A confirmation of hers does not confirm his.
    let (id, state) = connect_under(
        &world,
        "impostor-2",
        BOB,
        &[claims(json!({ "oid": SOMEBODY, "preferred_username": ALICE }))],
    )
    .await;
    assert_eq!(state["state"], "awaiting_confirmation");
    let hers = json!({ "account": { "tid": first["account"]["tid"], "oid": first["account"]["oid"] } });
    let confirmed = world.api(Method::POST, &format!("/v1/connect-sessions/{id}/confirm"), hers).await;
    assert_eq!(confirmed.status, 409, "{}", confirmed.text());
    assert_nothing_is_there(&world, "impostor-2").await;
}

#[tokio::test]
async fn a_refresh_that_answers_with_another_user_is_thrown_away_whole() {
    // Short enough for each look to want a newer one.
    let third = Duration::from_secs(90);
    let world = Plan::default().token_life(3 * third).start().await;
    world.connect("alice", ALICE).await;
    let before = world.access_token("alice").await;
    let refresh = |fault| FaultRule::new(Endpoint::Token, fault).grant_type("refresh_token");
    let bob = Fault::WrongUserIdToken(BOB.into());
    let patch = claims(json!({ "oid": SOMEBODY, "preferred_username": ALICE }));
    for fault in [bob, patch] {
        world.entra.faults().clear();
        world.entra.faults().inject(refresh(fault));
        world.pass(third);
        let calls = world.token_calls("refresh_token");
        assert_eq!(world.access_token("alice").await, before);
        // Once one has failed the next is tried behind the answer.
        world.until_called("refresh_token", calls + 1).await;
        assert_eq!(world.access_token("alice").await, before);
        let shown = world.show("alice").await;
        assert_eq!(shown["status"], "active", "{shown}");
        assert_eq!(shown["account"]["username"], ALICE);
    }
    // With no life left there is no token, and never the other user's.
    world.pass(third);
    let answer = world.token("alice").await;
    assert_eq!(
        (answer.status.as_u16(), answer.json()["code"].clone()),
        (503, json!("authority_unavailable"))
    );
    assert_eq!(world.show("alice").await["status"], "active");
    assert_logged(&world, 0, "another account's tokens").await;
    world.entra.faults().clear();
    world.pass(third);
    let healed = world.access_token("alice").await;
    assert_eq!(world.graph(&healed).await.json()["userPrincipalName"], ALICE);
}

#[tokio::test]
async fn access_tokens_are_opaque_whatever_they_look_like() {
    let world = Plan::default().start().await;
    world.connect("carol", PERSONAL).await;
    let token = world.access_token("carol").await;
    assert!(token.starts_with("EwB"));
    assert_eq!(world.graph(&token).await.status, 200);

    let none = "eyJhbGciOiJub25lIn0.eyJleHAiOjF9.";
    for (number, garbage) in ["x", none, "~~.~~", "a/b+c==", &"Z".repeat(60_000)].into_iter().enumerate() {
        let name = format!("garbage-{number}");
        let patch = Fault::TokenResponsePatch(object(json!({ "access_token": garbage })));
        let (id, state) = connect_under(&world, &name, ALICE, &[patch]).await;
        let account = json!({ "tid": state["account"]["tid"], "oid": state["account"]["oid"] });
        let path = format!("/v1/connect-sessions/{id}/confirm");
        let confirmed = world.api(Method::POST, &path, json!({ "account": account })).await;
        assert_eq!(confirmed.status, 200, "{}", confirmed.text());
        assert_eq!(world.access_token(&name).await, garbage);
    }
}

/// A server that counts who comes and answers nothing.
async fn listener() -> (String, Arc<AtomicUsize>) {
    let socket = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let url = format!("http://{}", socket.local_addr().expect("an address"));
    let touched = Arc::new(AtomicUsize::new(0));
    let count = touched.clone();
    tokio::spawn(async move {
        while let Ok((stream, _)) = socket.accept().await {
            count.fetch_add(1, Ordering::SeqCst);
            drop(stream);
        }
    });
    (url, touched)
}

/// Presses the button of a new session under a fault: no browser may be sent off.
async fn begin_must_fail(world: &World) {
    let session = world.start_session(json!({ "app": "outlook", "connection": "victim" })).await;
    let url = text(&session, "connect_url");
    let mut browser = Browser::default();
    browser.get(url).await.expect("the page");
    let pressed = browser.post(url, "").await.expect("an answer");
    assert!(pressed.status.is_server_error(), "{} {}", pressed.status, pressed.text());
    assert!(pressed.headers.get("location").is_none());
    assert_eq!(world.session(text(&session, "id")).await["state"], "pending");
    assert_eq!(world.entra.ledger_count(Endpoint::Token, None), 0);
    assert_nothing_is_there(world, "victim").await;
}

#[tokio::test]
async fn a_hostile_discovery_document_is_not_believed() {
    let (evil, touched) = listener().await;
    let https = evil.replace("http://", "https://");
    let elsewhere = format!("{evil}/common/v2.0");
    let metadata_service = "http://169.254.169.254/latest/meta-data/iam";
    let patches = [
        json!({ "issuer": elsewhere }),
        json!({ "issuer": null }),
        json!({ "issuer": "https://login.microsoftonline.com/{tenantid}/v2.0" }),
        json!({ "token_endpoint": format!("{evil}/token") }),
        json!({ "token_endpoint": format!("{https}/token") }),
        json!({ "token_endpoint": metadata_service }),
        json!({ "token_endpoint": "https://[::ffff:169.254.169.254]/" }),
        json!({ "token_endpoint": "file:///etc/passwd" }),
        json!({ "token_endpoint": 7 }),
        json!({ "token_endpoint": null }),
        json!({ "jwks_uri": metadata_service }),
        json!({ "jwks_uri": format!("{evil}/keys") }),
        json!({ "authorization_endpoint": format!("{evil}/authorize") }),
        json!({ "authorization_endpoint": "javascript:alert(1)" }),
    ];
    let mut faults: Vec<Fault> =
        patches.into_iter().map(|patch| Fault::DiscoveryPatch(object(patch))).collect();
    faults.push(Fault::Redirect(format!("{evil}/.well-known/openid-configuration")));
    for garbage in [Garbage::HugeBody, Garbage::Html, Garbage::DuplicateKeys, Garbage::Empty] {
        faults.push(Fault::Garbage(garbage));
    }
    for fault in faults {
        let world = Plan::default().start().await;
        world.entra.faults().inject(FaultRule::new(Endpoint::Discovery, fault.clone()));
        begin_must_fail(&world).await;
        assert!(world.entra.ledger_count(Endpoint::Discovery, None) > 0, "{fault:?}");
        assert_eq!(world.entra.ledger_count(Endpoint::Jwks, None), 0, "{fault:?}");
    }
    assert_eq!(touched.load(Ordering::SeqCst), 0, "a document led elsewhere");
}

/// An issuer that may spread over public hosts still leads to none near us, nor to plain http.
#[tokio::test]
async fn an_https_authority_leads_to_no_near_address() {
    for endpoint in [
        "https://169.254.169.254/token",
        "https://127.0.0.1:1/token",
        "https://10.0.0.7/token",
        "https://[fd00::1]/token",
        "http://login.example/token",
    ] {
        let plan = Plan { https: true, ..Plan::default() };
        let plan = plan.app_lines("provider = \"openid\"").app_lines("authority_ca = \"ca.pem\"");
        let plan = Plan { tenants: "", ..plan };
        let world = plan.start().await;
        let patch = json!({ "issuer": world.entra.authority("common"), "token_endpoint": endpoint });
        world
            .entra
            .faults()
            .inject(FaultRule::new(Endpoint::Discovery, Fault::DiscoveryPatch(object(patch))));
        begin_must_fail(&world).await;
        assert_logged(&world, 0, "token_endpoint").await;
    }
}

#[tokio::test]
async fn no_redirect_is_followed_with_a_secret_or_for_keys() {
    let (evil, touched) = listener().await;
    let world = Plan::default().start().await;
    let to_evil = || Fault::Redirect(format!("{evil}/take"));
    world.entra.faults().inject(FaultRule::new(Endpoint::Jwks, to_evil()));
    let session = world.start_session(json!({ "app": "outlook", "connection": "victim" })).await;
    world.sign_in(&mut Browser::default(), text(&session, "connect_url")).await;
    assert_eq!(world.session(text(&session, "id")).await["state"], "failed");
    world.entra.faults().clear();
    // A failure to get the first keys is everyone's for a second.
    world.pass(Duration::from_secs(2));

    let (_, state) = connect_under(&world, "victim", ALICE, &[to_evil()]).await;
    assert_eq!(state["state"], "failed");
    assert_nothing_is_there(&world, "victim").await;

    world.connect("alice", ALICE).await;
    world.entra.faults().inject(FaultRule::new(Endpoint::Token, to_evil()));
    world.outlive_tokens();
    assert_eq!(world.token("alice").await.status, 503);
    assert_eq!(world.show("alice").await["status"], "active");
    assert_eq!(touched.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn hostile_key_sets_connect_nobody() {
    let many: Vec<Value> = (0..101).map(|n| json!({ "kty": "RSA", "kid": n.to_string() })).collect();
    let weak = json!({ "keys": [{ "kty": "RSA", "kid": "k", "n": "AQAB", "e": "AQ" }] });
    for fault in [
        Fault::JwksPatch(object(json!({ "keys": many }))),
        Fault::JwksPatch(object(json!({ "keys": [] }))),
        Fault::JwksPatch(object(json!({ "keys": "none" }))),
        Fault::JwksPatch(object(weak)),
        Fault::Garbage(Garbage::HugeBody),
        Fault::Garbage(Garbage::TrailingBytes),
    ] {
        let world = Plan::default().start().await;
        world.entra.faults().inject(FaultRule::new(Endpoint::Jwks, fault.clone()));
        let session = world.start_session(json!({ "app": "outlook", "connection": "victim" })).await;
        world.sign_in(&mut Browser::default(), text(&session, "connect_url")).await;
        assert_eq!(world.session(text(&session, "id")).await["state"], "failed", "{fault:?}");
        assert_nothing_is_there(&world, "victim").await;
        // The code was not spent on an answer that could not have been checked.
        assert_eq!(world.token_calls("authorization_code"), 0, "{fault:?}");
    }
}

#[tokio::test]
async fn signing_keys_may_roll_over_with_and_without_overlap() {
    for overlap in [true, false] {
        let world = Plan::default().start().await;
        world.connect("before", ALICE).await;
        world.entra.rotate_signing_keys(overlap);
        world.connect("after", BOB).await;
        world.connect("carol", PERSONAL).await;
        world.outlive_tokens();
        for name in ["before", "after", "carol"] {
            assert_eq!(world.token(name).await.status, 200, "{name} overlap {overlap}");
        }
    }
}

/// Forged tokens make no storm of key fetches.
#[tokio::test]
async fn unknown_keys_are_looked_for_at_a_pace_of_our_own() {
    let world = Plan::default().start().await;
    for number in 0..5 {
        let forged = Fault::IdTokenSigning(IdTokenSigning::UnpublishedKey);
        connect_under(&world, &format!("forged-{number}"), ALICE, &[forged]).await;
    }
    let looks = world.entra.ledger_count(Endpoint::Jwks, None);
    assert_eq!(looks, 3, "the first, one more look, and one for keys of the app's own");
}

/// Two links for one name: the second account does not take the connection over from the first.
#[tokio::test]
async fn a_second_session_of_a_name_moves_it_to_nobody_else() {
    let world = Plan::default().start().await;
    let (bobs, state) = connect_under(&world, "desk", BOB, &[]).await;
    assert_eq!(state["state"], "awaiting_confirmation");
    let late = world.start_session(json!({ "app": "outlook", "connection": "desk" })).await;
    world.connect("desk", ALICE).await;
    let first = world.show("desk").await;

    let account = json!({ "account": { "tid": state["account"]["tid"], "oid": state["account"]["oid"] } });
    let confirmed = world.api(Method::POST, &format!("/v1/connect-sessions/{bobs}/confirm"), account).await;
    assert_eq!(confirmed.status, 409, "{}", confirmed.text());

    world.entra.sign_in_as(BOB);
    world.sign_in(&mut Browser::default(), text(&late, "connect_url")).await;
    let id = text(&late, "id");
    let state = world.session(id).await;
    if state["state"] == "awaiting_confirmation" {
        let account =
            json!({ "account": { "tid": state["account"]["tid"], "oid": state["account"]["oid"] } });
        let confirmed = world.api(Method::POST, &format!("/v1/connect-sessions/{id}/confirm"), account).await;
        assert_eq!(confirmed.status, 409, "{}", confirmed.text());
    } else {
        assert_eq!(state["state"], "failed", "{state}");
    }
    assert_eq!(world.show("desk").await["account"], first["account"]);
    let token = world.access_token("desk").await;
    assert_eq!(world.graph(&token).await.json()["userPrincipalName"], ALICE);
}
