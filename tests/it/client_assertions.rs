//! Clients of the token endpoint that authenticate with a JWT of their own (`private_key_jwt`; RFC 7523).

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use http::Method;
use serde_json::{Map, Value, json};

use crate::attacks_rights::reconfigure;
use crate::http_client::{Answer, request, request_unix};
use crate::setup::config_text::EVERYTHING;
use crate::token_exchange::{CONNECTION, FORM, exchange, form, is, refusal};
use crate::tokens::{OTHER_RSA, P256, RSA, jwt, jwt_by_the_other, p256_jwk, rsa_jwk};
use crate::world::{ALICE, Kept, Plan, Process, SYNC, World, text, write_secret};

pub(crate) const JWT_BEARER: &str = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer";
/// What the issuer is called in these tests, whichever port a daemon has.
const ISSUER: &str = "https://tokens.contoso.example:7443";
/// A caller that signs, and one that is a pod.
const SECTIONS: &str = "[issuers.kubernetes]\nissuer = \"https://kubernetes.default.svc.cluster.local\"\n\
                        audience = \"tokenward\"\njwks_file = \"cluster.jwks\"\n";

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs()
}

fn keys() -> String {
    json!({ "keys": [rsa_jwk("k1", &RSA), p256_jwk("k2", &P256)] }).to_string()
}

/// A daemon with a caller `signer`, whose keys are in `signer.jwks`, and a caller `pod`.
fn plan() -> Plan {
    let caller = |name: &str, way: &str| {
        format!(
            "[callers.{name}]\nauthenticate = [{{ {way} }}]\n[[callers.{name}.allow]]\napp = \"outlook\"\n\
             {EVERYTHING}\n"
        )
    };
    let pod = "jwt = { issuer = \"kubernetes\", subject = \"system:serviceaccount:mail:sync\" }";
    let callers = [
        caller("signer", "client_assertion = { jwks_file = \"signer.jwks\" }"),
        caller("other", "client_assertion = { jwks_file = \"other.jwks\" }"),
        caller("pod", pod),
    ];
    Plan::default()
        .file("signer.jwks", &keys())
        .file("other.jwks", &json!({ "keys": [rsa_jwk("o1", &OTHER_RSA)] }).to_string())
        .file("cluster.jwks", &json!({ "keys": [rsa_jwk("c1", &RSA)] }).to_string())
        .sections(&format!("{SECTIONS}{}", callers.concat()))
}

/// Starts it, with [`ISSUER`] as its issuer and a connection.
async fn start(plan: Plan) -> World {
    let mut world = plan.start().await;
    let path = world.folder.path().join("tokenward.toml");
    let config = std::fs::read_to_string(&path).expect("the configuration");
    let config =
        config.replacen("[listen.public]", &format!("[listen]\nissuer = \"{ISSUER}\"\n[listen.public]"), 1);
    std::fs::write(&path, config).expect("write");
    world.stop_and_restart().await;
    world.connect("user-1", ALICE).await;
    world
}

/// The claims of an assertion with this `jti`, with changes; `null` takes one out.
fn claims(jti: &str, ahead: Duration, changes: &Value) -> Value {
    let now = now() + ahead.as_secs();
    let mut all = json!({
        "iss": "signer", "sub": "signer", "aud": ISSUER, "iat": now, "exp": now + 60, "jti": jti,
    });
    let changed: Map<String, Value> = changes.as_object().cloned().expect("an object");
    let claims = all.as_object_mut().expect("an object");
    claims.extend(changed);
    claims.retain(|_, value| !value.is_null());
    all
}

fn signed(jti: &str) -> String {
    jwt(&json!({ "alg": "RS256", "kid": "k1" }), &claims(jti, Duration::ZERO, &json!({})))
}

fn by(assertion: &str, more: &[(&str, &str)]) -> String {
    let client = [("client_assertion_type", JWT_BEARER), ("client_assertion", assertion)];
    let pairs: Vec<(&str, &str)> = client.into_iter().chain(more.iter().copied()).collect();
    format!("{}&{}", exchange("outlook:user-1", CONNECTION, &[]), form(&pairs))
}

async fn post_at(daemon: &Process, headers: &[(&str, &str)], body: String) -> Answer {
    let url = format!("{}/oauth2/token", daemon.local);
    let headers: Vec<(&str, &str)> = headers.iter().copied().chain([FORM]).collect();
    request(Method::POST, &url, &headers, body).await.expect("an answer")
}

async fn ask(world: &World, assertion: &str) -> Answer {
    post_at(&world.daemon, &[], by(assertion, &[])).await
}

/// The audit's words for refusals without a caller so far.
fn reasons(world: &World) -> Vec<String> {
    let audit = std::fs::read_to_string(world.folder.path().join("audit.jsonl")).unwrap_or_default();
    let records = audit.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    records.filter_map(|record| record["reason"].as_str().map(str::to_owned)).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_signs_for_each_request_and_each_assertion_is_good_once() {
    let world = start(plan()).await;
    let token = world.access_token("user-1").await;
    let of = |header: Value, jti: &str| jwt(&header, &claims(jti, Duration::ZERO, &json!({})));
    let mut used = Vec::new();
    for (jti, header) in [
        ("rs256", json!({ "alg": "RS256", "kid": "k1" })),
        ("ps256", json!({ "alg": "PS256", "kid": "k1", "typ": "JWT" })),
        ("es256", json!({ "alg": "ES256", "kid": "k2", "typ": "client-authentication+jwt" })),
        ("no kid", json!({ "alg": "ES256" })),
    ] {
        let assertion = of(header, jti);
        let answer = ask(&world, &assertion).await;
        assert_eq!(answer.status, 200, "{jti}: {}\n{}", answer.text(), world.daemon.log());
        assert_eq!(text(&answer.json(), "access_token"), token, "{jti}");
        used.push(assertion);
    }
    for assertion in used {
        let answer = ask(&world, &assertion).await;
        assert_eq!(refusal(&answer), is(401, "invalid_client", "caller_unauthenticated"));
        assert!(!world.daemon.log().contains(&assertion), "no assertion in the log");
    }
    // Another client's with the same `jti` is another.
    let changes = json!({ "iss": "other", "sub": "other" });
    let others = claims("rs256", Duration::ZERO, &changes);
    let others = jwt_by_the_other(&json!({ "alg": "RS256", "kid": "o1" }), &others);
    assert_eq!(ask(&world, &others).await.status, 200);
    world
        .until("the replays are in the audit", async || {
            reasons(&world).iter().filter(|word| *word == "jwt_replayed").count() == 4
        })
        .await;
    let audit = std::fs::read_to_string(world.folder.path().join("audit.jsonl")).expect("the audit");
    let records = audit.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let of_signer = records.filter(|record| record["caller"] == "signer" && record["action"] == "token");
    let methods: Vec<Value> = of_signer.map(|record| record["method"].clone()).collect();
    assert_eq!(methods, vec![json!("client_assertion"); 4], "{audit}");
    // On-call sees which keys are used.
    world
        .until("the uses are in the metrics", async || {
            let metrics = world.metrics().await;
            ["k1", "k2"].iter().all(|key| {
                metrics.contains(&format!(
                    "tokenward_caller_key_last_used_timestamp_seconds{{caller=\"signer\",key=\"{key}\"}}"
                ))
            })
        })
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_used_assertion_that_comes_again_shuts_nobody_out() {
    let world = start(plan()).await;
    reconfigure(&world, "[callers.signer]\n", "[callers.signer]\nrate_limit = 1\n").await;
    let used = signed("used");
    assert_eq!(ask(&world, &used).await.status, 200);
    // Far more than the caller's burst of two.
    for _ in 0..8 {
        assert_eq!(refusal(&ask(&world, &used).await), is(401, "invalid_client", "caller_unauthenticated"));
    }
    assert_eq!(ask(&world, &signed("fresh")).await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_good_assertion_is_the_same_401_and_only_the_audit_has_the_rule() {
    let world = start(plan()).await;
    let rs256 = json!({ "alg": "RS256", "kid": "k1" });
    let with = |changes: Value| jwt(&rs256, &claims("x", Duration::ZERO, &changes));
    let header = |header: Value| jwt(&header, &claims("x", Duration::ZERO, &json!({})));
    let token_endpoint = format!("{ISSUER}/oauth2/token");
    let rows = [
        ("jwt_audience", with(json!({ "aud": token_endpoint }))),
        ("jwt_audience", with(json!({ "aud": [ISSUER] }))),
        ("jwt_audience", with(json!({ "aud": world.daemon.local }))),
        ("jwt_claim_missing", with(json!({ "jti": null }))),
        ("jwt_issuer", with(json!({ "sub": "other" }))),
        ("jwt_no_caller", with(json!({ "iss": SYNC, "sub": SYNC }))),
        // (Of a crowd of strangers only the first few are told one by one.)
        ("jwt_signature", with(json!({ "iss": "other", "sub": "other" }))),
    ];
    let mut first = None;
    for (word, assertion) in rows {
        let before = reasons(&world).len();
        let answer = ask(&world, &assertion).await;
        assert_eq!(refusal(&answer), is(401, "invalid_client", "caller_unauthenticated"), "{word}");
        let mut body = answer.json();
        body["request_id"] = Value::Null;
        assert_eq!(first.get_or_insert_with(|| body.clone()), &body, "{word} looks like the others");
        world.until(word, async || reasons(&world).len() > before).await;
        let expected = if word == "jwt_signature" { "jwt_unknown_key" } else { word };
        assert_eq!(reasons(&world).last().map(String::as_str), Some(expected), "{word}");
    }
    // Not JWTs' rules but the form's, and the ways that are no way at all.
    let good = signed("two-ways");
    let basic = crate::token_exchange::basic(SYNC, &world.key);
    let in_header = [("authorization", basic.as_str())];
    let other_type = by(&good, &[]).replace("jwt-bearer", "saml2-bearer");
    for (what, headers, body, expected) in [
        ("a secret beside it", &[][..], by(&good, &[("client_secret", "x")]), 401),
        ("another's name", &[], by(&good, &[("client_id", SYNC)]), 401),
        ("another type", &[], other_type, 401),
        ("no type", &[], by(&good, &[]).replace("client_assertion_type=", "x="), 401),
        ("a good header beside it", &in_header, by(&good, &[]), 400),
        ("in the header", &[("authorization", &*format!("Bearer {good}"))], exchange("a", "b", &[]), 401),
        ("none", &[], by(&header(json!({ "alg": "none", "kid": "k1" })), &[]), 401),
        ("symmetric", &[], by(&header(json!({ "alg": "HS256", "kid": "k1" })), &[]), 401),
        ("crit", &[], by(&header(json!({ "alg": "RS256", "kid": "k1", "crit": ["x"] })), &[]), 401),
    ] {
        let answer = post_at(&world.daemon, headers, body).await;
        let error = if expected == 401 { "invalid_client" } else { "invalid_request" };
        assert_eq!((answer.status.as_u16(), text(&answer.json(), "error")), (expected, error), "{what}");
    }
    // A refused form did not use it up: nobody was let in by it.
    let answer = post_at(&world.daemon, &[], by(&good, &[("client_id", "signer")])).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    // At the native API it is nobody's.
    let native = world
        .api_as(&signed("native"), Method::GET, "/v1/apps/outlook/connections/user-1/token", Value::Null)
        .await;
    assert_eq!(native.status, 401);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_assertion_that_one_replica_took_is_used_at_every_other() {
    let mut world = start(plan().kept(Kept::Redis)).await;
    world.prepare_replica("second");
    for file in ["signer.jwks", "other.jwks", "cluster.jwks"] {
        let content = std::fs::read_to_string(world.folder.path().join(file)).expect("the file");
        write_secret(&world.folder.path().join("second").join(file), &content);
    }
    let second = Process::start(&world.folder.path().join("second")).await;
    let assertion = signed("everywhere");
    // Both at once, many times: one of them is served.
    let asked = (0..20).map(|at| {
        let daemon = if at % 2 == 0 { &world.daemon } else { &second };
        post_at(daemon, &[], by(&assertion, &[]))
    });
    let answers = futures_util::future::join_all(asked).await;
    let served = answers.iter().filter(|answer| answer.status == 200).count();
    let refused = answers.iter().filter(|answer| answer.status == 401).count();
    assert_eq!((served, refused), (1, 19), "{}\n{}", world.daemon.log(), second.log());
    // For as long as it would be taken.
    let minutes = Duration::from_secs(6 * 60);
    let long = |jti: &str| {
        let exp = json!({ "exp": now() + 3600 });
        jwt(&json!({ "alg": "RS256", "kid": "k1" }), &claims(jti, Duration::ZERO, &exp))
    };
    let (used, unused) = (long("used"), long("unused"));
    assert_eq!(post_at(&second, &[], by(&used, &[])).await.status, 200);
    world.pass_in_redis(minutes - Duration::from_secs(10));
    assert_eq!(post_at(&second, &[], by(&used, &[])).await.status, 401, "the store remembers");
    world.pass(minutes + Duration::from_secs(1));
    assert_eq!(post_at(&second, &[], by(&unused, &[])).await.status, 401, "too old");

    // Nobody knows whether it was used, so it is refused, and the client may try again.
    world.redis.as_mut().expect("Redis").stop();
    let ahead = minutes + Duration::from_secs(1);
    let fresh = jwt(&json!({ "alg": "RS256", "kid": "k1" }), &claims("fresh", ahead, &json!({})));
    let answer = ask(&world, &fresh).await;
    assert_eq!(refusal(&answer), is(503, "temporarily_unavailable", "store_unavailable"));
    assert!(answer.headers.contains_key("retry-after"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_s_key_is_replaced_while_it_is_used() {
    let world = start(plan()).await;
    let by_new = |jti: &str| {
        let claims = claims(jti, Duration::ZERO, &json!({}));
        jwt_by_the_other(&json!({ "alg": "RS256", "kid": "k3" }), &claims)
    };
    let replace = |keys: Value| {
        let path = world.folder.path().join("signer.jwks");
        let beside = path.with_extension("next");
        write_secret(&beside, &json!({ "keys": keys }).to_string());
        std::fs::rename(&beside, &path).expect("renamed");
    };
    let count = std::cell::Cell::new(0);
    let next = || {
        count.set(count.get() + 1);
        format!("jti-{}", count.get())
    };
    assert_eq!(ask(&world, &signed(&next())).await.status, 200);
    assert_eq!(ask(&world, &by_new(&next())).await.status, 401);
    replace(json!([rsa_jwk("k1", &RSA), rsa_jwk("k3", &OTHER_RSA)]));
    world.until("the new key counts", async || ask(&world, &by_new(&next())).await.status == 200).await;
    assert_eq!(ask(&world, &signed(&next())).await.status, 200, "the old one still counts");
    // A file that is no good changes nothing.
    replace(json!([rsa_jwk("", &RSA)]));
    world.daemon.until_logged("needs a `kid`").await;
    assert_eq!(ask(&world, &by_new(&next())).await.status, 200);
    replace(json!([rsa_jwk("k3", &OTHER_RSA)]));
    world.until("the old key is refused", async || ask(&world, &signed(&next())).await.status == 401).await;
    assert_eq!(ask(&world, &by_new(&next())).await.status, 200);
    let used = |key: &str| {
        format!("tokenward_caller_key_last_used_timestamp_seconds{{caller=\"signer\",key=\"{key}\"}}")
    };
    world
        .until("the old key's series has ended", async || {
            let metrics = world.metrics().await;
            metrics.contains(&used("k3")) && !metrics.contains(&used("k1"))
        })
        .await;
}

/// A pod's projected token, in the place where Azure and others take one.
#[tokio::test(flavor = "multi_thread")]
async fn a_token_of_a_configured_issuer_is_an_assertion_too() {
    let world = start(plan()).await;
    let now = now();
    let claims = json!({
        "iss": "https://kubernetes.default.svc.cluster.local", "sub": "system:serviceaccount:mail:sync",
        "aud": ["tokenward"], "iat": now, "nbf": now, "exp": now + 3600, "jti": "a-pod-s",
    });
    let token = jwt(&json!({ "alg": "RS256", "kid": "c1" }), &claims);
    // A kubelet writes one an hour, and its pod shows it in every request.
    for more in [&[][..], &[("client_id", "pod")], &[]] {
        let answer = post_at(&world.daemon, &[], by(&token, more)).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
    }
    let answer = post_at(&world.daemon, &[], by(&token, &[("client_id", "signer")])).await;
    assert_eq!(answer.status, 401);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_listener_does_not_accept_is_refused_there() {
    let sections = "[[listen.local]]\nunix = \"keys.sock\"\naccept = [\"api_keys\"]\n";
    let mut plan = plan();
    plan.sections.push_str(sections);
    let world = start(plan).await;
    let socket = world.folder.path().join("keys.sock");
    let at = async |path: &str, headers: &[(&str, &str)], body: String| {
        let method = if body.is_empty() { Method::GET } else { Method::POST };
        request_unix(&socket, method, path, headers, body).await.expect("an answer")
    };
    let now = now();
    let claims = json!({
        "iss": "https://kubernetes.default.svc.cluster.local", "sub": "system:serviceaccount:mail:sync",
        "aud": ["tokenward"], "iat": now, "nbf": now, "exp": now + 3600,
    });
    let pod = jwt(&json!({ "alg": "RS256", "kid": "c1" }), &claims);
    let bearer = format!("Bearer {pod}");
    let native = "/v1/apps/outlook/connections/user-1/token";
    assert_eq!(at(native, &[("authorization", &bearer)], String::new()).await.status, 401);
    for assertion in [signed("a"), pod.clone()] {
        let answer = at("/oauth2/token", &[FORM], by(&assertion, &[])).await;
        assert_eq!(refusal(&answer), is(401, "invalid_client", "caller_unauthenticated"));
    }
    world
        .until("each is in the audit", async || {
            reasons(&world).iter().filter(|word| *word == "not_accepted").count() == 3
        })
        .await;
    let secret = format!(
        "{}&{}",
        exchange("outlook:user-1", CONNECTION, &[]),
        form(&[("client_id", SYNC), ("client_secret", &world.key)])
    );
    assert_eq!(at("/oauth2/token", &[FORM], secret).await.status, 200);
    // The metadata of each listener says what counts there, and of its assertions how they are signed.
    let path = "/.well-known/oauth-authorization-server";
    let here = at(path, &[], String::new()).await.json();
    assert_eq!(
        here["token_endpoint_auth_methods_supported"],
        json!(["client_secret_basic", "client_secret_post"])
    );
    assert_eq!(here.get("token_endpoint_auth_signing_alg_values_supported"), None);
    let there =
        request(Method::GET, &format!("{}{path}", world.daemon.local), &[], "").await.expect("an answer");
    let there = there.json();
    assert_eq!(there["token_endpoint_auth_methods_supported"][2], "private_key_jwt", "{there}");
    assert_eq!(there["token_endpoint_auth_signing_alg_values_supported"][0], "RS256", "{there}");
    assert_eq!(world.api_as(&pod, Method::GET, native, Value::Null).await.status, 200);
}
