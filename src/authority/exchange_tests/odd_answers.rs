//! Odd answers of the token endpoint: what is kept of them, and whose they must be.

use super::*;
use crate::authority::testing::{P256, other_jwks, p256_jwk};

/// Refreshes, with `change` applied to the answer.
async fn refreshed(change: impl Fn(&mut Value) + Send + 'static) -> Result<TokenAnswer, AuthorityFailure> {
    let world = World::entra();
    world.answer_tokens(move |origin, _| {
        let mut body = tokens(&entra_claims(origin));
        change(&mut body);
        Reply::json(200, &body)
    });
    world.refresh().await
}

#[tokio::test]
async fn what_is_optional_costs_no_refresh_its_tokens() {
    let cut = Duration::from_secs(172_800);
    let unsaid = Duration::from_secs(300);
    let hour = Duration::from_secs(3600);
    let rows: [(&str, Value, Duration); 17] = [
        ("expires_in", json!(172_801), cut),
        ("expires_in", json!(31_536_000), cut),
        ("expires_in", json!(600.0), Duration::from_secs(600)),
        ("expires_in", json!("3600.5"), hour),
        ("expires_in", json!("soon"), unsaid),
        ("expires_in", Value::Null, unsaid),
        ("scope", json!(["Mail.Read"]), hour),
        ("scope", json!({}), hour),
        ("refresh_in", json!([]), hour),
        ("refresh_in", json!(-1), hour),
        ("token_type", json!("bearer"), hour),
        ("token_type", Value::Null, hour),
        ("token_type", json!(7), hour),
        ("error", Value::Null, hour),
        ("id_token", json!(""), hour),
        ("id_token", Value::Null, hour),
        ("ext_expires_in", json!({ "a": [null] }), hour),
    ];
    for (name, value, life) in rows {
        let row = format!("{name} {value}");
        let answer = refreshed(move |body| body[name] = value.clone()).await;
        let answer = answer.unwrap_or_else(|failure| panic!("{row}: {failure}"));
        assert_eq!(answer.expires_in, life, "{row}");
        assert!(answer.refresh_token.is_some_and(|token| token.expose() == "RT-2"), "{row}");
    }
}

#[tokio::test]
async fn a_media_type_that_is_wrong_costs_nothing() {
    let world = World::entra();
    for media_type in ["text/plain", "text/html; charset=utf-8", ""] {
        world.answer_tokens(move |origin, _| Reply::Answer {
            status: 200,
            headers: vec![("content-type", media_type.to_owned())],
            body: tokens(&entra_claims(origin)).to_string(),
        });
        world.refresh().await.expect("tokens");
        world.redeem().await.expect("tokens");
    }
}

#[tokio::test]
async fn any_success_is_read_as_one() {
    let world = World::entra();
    for status in [200, 201, 203] {
        world.answer_tokens(move |origin, _| Reply::json(status, &tokens(&entra_claims(origin))));
        let answer = world.refresh().await.unwrap_or_else(|failure| panic!("{status}: {failure}"));
        assert!(answer.refresh_token.is_some_and(|token| token.expose() == "RT-2"), "{status}");
    }
    // Nobody knows what happened to the refresh token that was sent.
    world.answer_tokens(|_, _| Reply::Answer { status: 204, headers: Vec::new(), body: String::new() });
    assert_eq!(failed(world.refresh().await).disposition, Disposition::OutcomeUnknown);
}

#[tokio::test]
async fn a_claim_that_need_not_be_there_costs_neither_a_refresh_nor_a_sign_in() {
    let world = World::openid();
    for name in ["at_hash", "c_hash", "azp", "nbf", "preferred_username", "email", "auth_time"] {
        for value in [Value::Null, json!(7.5), json!({})] {
            if name == "nbf" && value.is_number() {
                continue; // a good answer
            }
            let row = format!("{name} {value}");
            world.answer_tokens(move |origin, _| {
                let mut claims = json!({
                    "iss": origin, "aud": CLIENT_ID, "sub": "s", "iat": NOW, "exp": NOW + 60, "nonce": NONCE,
                });
                claims[name] = value.clone();
                Reply::json(200, &tokens(&claims))
            });
            let signed_in = world.redeem().await;
            assert!(signed_in.is_ok(), "{row}: {}", failed(signed_in));
            let refreshed = world.refresh_as("s").await;
            assert!(refreshed.is_ok(), "{row}: {}", failed(refreshed));
        }
    }
}

/// Returns the fate of an answer to a refresh: `served`, or what is kept.
async fn fate(world: &World) -> (&'static str, String) {
    match world.refreshed(None).await.expect("an answer") {
        Refreshed::Tokens(answer) => {
            assert!(answer.refresh_token.is_some_and(|token| token.expose() == "RT-2"));
            ("served", answer.remarks.rules.join(", "))
        }
        Refreshed::Refused(refused) => {
            let RefusedAnswer { rule, fate, failure } = *refused;
            assert_eq!(failure.answer.status, Some(200), "{failure}");
            assert!(failure.answer.correlation_id.is_some() && failure.cause.contains(&rule), "{failure}");
            let (fate, disposition) = match fate {
                Fate::Replaced(token) => {
                    assert_eq!(token.expose(), "RT-2");
                    ("kept", LATER)
                }
                Fate::AsBefore => ("as before", LATER),
                Fate::Anothers => ("nowhere", Disposition::OutcomeUnknown),
                Fate::Unknown => ("unknown", Disposition::OutcomeUnknown),
            };
            assert_eq!(failure.disposition, disposition, "{failure}");
            (fate, rule)
        }
    }
}

/// The table of SEMANTICS 26a.
#[tokio::test]
async fn an_answer_is_served_kept_or_dropped_by_what_its_id_token_says() {
    type Change = fn(&mut Value, &mut Value);
    const SOMEBODY: &str = "dddddddd-0000-4000-8000-00000000000d";
    let rows: Vec<(&str, Change, &str, &str)> = vec![
        ("as it should be", |_, _| {}, "served", ""),
        // It cannot be verified, but names its owner.
        ("a key nobody has", |h, _| h["kid"] = "k9".into(), "served", "id_token unknown_key"),
        (
            "an algorithm that is not Entra's",
            |h, _| h["alg"] = "RS512".into(),
            "served",
            "id_token algorithm (RS512)",
        ),
        (
            "an algorithm that nobody knows",
            |h, _| h["alg"] = "XY1".into(),
            "served",
            "id_token algorithm (XY1)",
        ),
        ("a symmetric algorithm", |h, _| h["alg"] = "HS512".into(), "served", "id_token algorithm (HS512)"),
        ("no algorithm", |h, _| h["alg"] = "none".into(), "served", "id_token algorithm (none)"),
        ("an end that is past", |_, c| c["exp"] = json!(NOW - 999), "served", "id_token expired"),
        ("no end", |_, c| c["exp"] = Value::Null, "served", "id_token claim_missing"),
        ("a birth in words", |_, c| c["iat"] = "now".into(), "served", "id_token claim_type"),
        // It must not be believed, or does not name its owner.
        ("an extension nobody knows", |h, _| h["crit"] = json!(["x"]), "kept", "id_token critical"),
        ("another kind of token", |h, _| h["typ"] = "at+jwt".into(), "kept", "id_token wrong_type"),
        ("an algorithm that is a number", |h, _| h["alg"] = json!(1), "kept", "id_token malformed"),
        ("encrypted", |h, _| h["enc"] = "A256GCM".into(), "kept", "id_token encrypted"),
        ("no subject", |_, c| c["sub"] = Value::Null, "kept", "id_token claim_missing"),
        ("a subject that is a number", |_, c| c["sub"] = json!(7), "kept", "id_token claim_type"),
        ("an issuer that is a list", |_, c| c["iss"] = json!(["x"]), "kept", "id_token claim_type"),
        ("no object id", |_, c| c["oid"] = Value::Null, "kept", "id_token claim_missing"),
        ("an empty audience", |_, c| c["aud"] = json!([]), "kept", "id_token claim_missing"),
        ("an audience that is a number", |_, c| c["aud"] = json!(1), "kept", "id_token claim_type"),
        ("an audience more", |_, c| c["aud"] = json!([CLIENT_ID, "x"]), "kept", "id_token extra_audience"),
        (
            "another access token's hash",
            |_, c| c["at_hash"] = "x".into(),
            "kept",
            "id_token access_token_hash",
        ),
        // It belongs to another account.
        ("another object id", |_, c| c["oid"] = SOMEBODY.into(), "nowhere", "another_account"),
        (
            "another object id under a key nobody has",
            |h, c| {
                h["kid"] = "k9".into();
                c["oid"] = SOMEBODY.into();
            },
            "nowhere",
            "another_account",
        ),
        (
            "another object id without an audience",
            |_, c| {
                c["aud"] = Value::Null;
                c["oid"] = SOMEBODY.into();
            },
            "nowhere",
            "another_account",
        ),
        ("another tenant", |_, c| c["tid"] = TENANT_B.into(), "nowhere", "another_account"),
        ("another issuer", |_, c| c["iss"] = "https://evil.example".into(), "nowhere", "another_account"),
        ("another audience", |_, c| c["aud"] = "x".into(), "nowhere", "another_account"),
    ];
    let world = World::entra();
    for (name, change, becomes, rule) in rows {
        world.answer_tokens(move |origin, _| {
            let mut header = json!({ "alg": "RS256", "kid": "k1" });
            let mut claims = entra_claims(origin);
            change(&mut header, &mut claims);
            let mut body = tokens(&claims);
            body["id_token"] = jwt(&header, &claims).into();
            Reply::json(200, &body)
        });
        assert_eq!(fate(&world).await, (becomes, rule.to_owned()), "{name}");
    }
}

#[tokio::test]
async fn an_access_token_that_cannot_be_used_costs_no_refresh_token() {
    let world = World::entra();
    let rows = [
        ("access_token", Value::Null, "access_token"),
        ("access_token", json!(["AT-1"]), "access_token"),
        ("token_type", json!("DPoP"), "token_type"),
        ("token_type", json!("mac"), "token_type"),
        ("expires_in", json!(0), "expires_in"),
        ("expires_in", json!("-1"), "expires_in"),
        ("error", json!("server_error"), "error_in_success"),
        ("id_token", json!({}), "id_token malformed"),
        ("id_token", json!("a.b.c.d.e"), "id_token encrypted"),
        ("id_token", json!("?"), "id_token malformed"),
    ];
    for (name, value, rule) in rows.clone() {
        let row = format!("{name} {value}");
        world.answer_tokens(move |origin, _| {
            let mut body = tokens(&entra_claims(origin));
            body[name] = value.clone();
            Reply::json(200, &body)
        });
        assert_eq!(fate(&world).await, ("kept", rule.to_owned()), "{row}");
    }
    // Unless the answer belongs to another account.
    for (name, value, _) in rows {
        if name == "id_token" {
            continue;
        }
        let row = format!("{name} {value}");
        world.answer_tokens(move |origin, _| {
            let mut claims = entra_claims(origin);
            claims["oid"] = "dddddddd-0000-4000-8000-00000000000d".into();
            let mut body = tokens(&claims);
            body[name] = value.clone();
            Reply::json(200, &body)
        });
        assert_eq!(fate(&world).await, ("nowhere", "another_account".to_owned()), "{row}");
    }
    // A complete answer without one leaves the token that was sent valid.
    let fated = [
        (json!({ "access_token": "AT-1", "token_type": "mac" }), "as before"),
        (json!({ "access_token": "AT-1", "id_token": "?" }), "as before"),
        (json!({ "token_type": "Bearer" }), "unknown"),
        (json!({ "access_token": "AT-1", "error": "x" }), "unknown"),
    ];
    for (body, becomes) in fated {
        let row = body.to_string();
        world.answer_tokens(move |_, _| Reply::json(200, &body));
        assert_eq!(fate(&world).await.0, becomes, "{row}");
    }
}

#[tokio::test]
async fn algorithms_other_providers_sign_with_are_known_and_others_are_named() {
    let world = World::openid();
    world.script(|script| {
        script.keys = Box::new(|_| {
            let [p384, ed25519] = other_jwks("k3", "k4");
            Reply::json(200, &json!({ "keys": [rsa_jwk("k1", &RSA), p256_jwk("k2", &P256), p384, ed25519] }))
        });
    });
    let signed_by = |alg: &'static str, kid: &'static str| {
        world.answer_tokens(move |origin, _| {
            let claims = json!({
                "iss": origin, "aud": CLIENT_ID, "sub": "s", "iat": NOW, "exp": NOW + 60, "nonce": NONCE,
            });
            let mut body = tokens(&claims);
            body["id_token"] = jwt(&json!({ "alg": alg, "kid": kid }), &claims).into();
            Reply::json(200, &body)
        });
    };
    let known = [
        ("RS256", "k1"),
        ("RS384", "k1"),
        ("RS512", "k1"),
        ("PS256", "k1"),
        ("PS384", "k1"),
        ("PS512", "k1"),
        ("ES256", "k2"),
        ("ES384", "k3"),
        ("EdDSA", "k4"),
        ("Ed25519", "k4"),
    ];
    for (alg, kid) in known {
        signed_by(alg, kid);
        let answer = world.redeem().await.unwrap_or_else(|failure| panic!("{alg}: {failure}"));
        assert!(answer.account.is_some_and(|account| account.sub == "s"), "{alg}");
        let answer = world.refresh_as("s").await.unwrap_or_else(|failure| panic!("{alg}: {failure}"));
        assert!(answer.account.is_some() && answer.remarks.rules.is_empty(), "{alg}");
        // A key of another kind verifies nothing.
        signed_by(alg, if kid == "k1" { "k2" } else { "k1" });
        assert!(failed(world.redeem().await).cause.ends_with("by the rule signature"), "{alg}");
    }
    for alg in ["HS256", "HS512", "none", "ES512"] {
        signed_by(alg, "k1");
        let failure = failed(world.redeem().await);
        assert!(failure.cause.contains(&format!("by the rule algorithm ({alg})")), "{failure}");
        assert!(
            failure.cause.contains("RS512") && failure.cause.contains("EdDSA"),
            "what would do: {failure}"
        );
        let answer = world.refresh_as("s").await.unwrap_or_else(|failure| panic!("{alg}: {failure}"));
        assert_eq!(answer.remarks.rules, [format!("id_token algorithm ({alg})")]);
        assert!(answer.account.is_none(), "no identity is taken from it");
    }
}

/// Makes an answer with this body, status and headers.
fn raw(status: u16, headers: &str, body: &[u8]) -> Reply {
    let head = format!(
        "HTTP/1.1 {status} X\r\nconnection: close\r\ncontent-type: \
         application/json\r\n{headers}content-length: {}\r\n\r\n",
        body.len()
    );
    Reply::Raw([head.as_bytes(), body].concat())
}

#[tokio::test]
async fn compressed_answers_and_byte_order_marks_are_read_everywhere() {
    let marked = |value: &Value| [&b"\xef\xbb\xbf"[..], value.to_string().as_bytes()].concat();
    let gzip = "content-encoding: gzip\r\n";
    for (packs, headers) in [(false, ""), (true, gzip)] {
        let sent = move |status: u16, value: &Value| {
            let text = marked(value);
            raw(status, headers, &if packs { crate::authority::body::packed(&text) } else { text })
        };
        let world = World::entra();
        world.script(|script| {
            script.document = Box::new(move |origin| sent(200, &entra_document(origin)));
            script.keys = Box::new(move |_| sent(200, &json!({ "keys": [rsa_jwk("k1", &RSA)] })));
            script.token = Box::new(move |origin, _| sent(200, &tokens(&entra_claims(origin))));
        });
        world.redeem().await.expect("tokens");
        world.refresh().await.expect("tokens");
        world.answer_tokens(move |_, _| {
            sent(400, &json!({ "error": "invalid_grant", "error_codes": [50173] }))
        });
        let failure = failed(world.refresh().await);
        assert!(failure.disposition.is_verdict(), "{failure}");
        let asked = world.server.seen();
        assert!(asked.iter().all(|seen| seen.header("accept-encoding") == Some("identity")), "{asked:?}");
    }
    // A body that decompresses to too much is as lost as one that is too large.
    let world = World::entra();
    world.answer_tokens(move |_, _| raw(200, gzip, &crate::authority::body::packed(&vec![b' '; 1 << 20])));
    assert_eq!(failed(world.refresh().await).disposition, Disposition::OutcomeUnknown);
}

#[tokio::test]
async fn an_app_s_own_keys_are_found_where_the_app_is_named() {
    let world = World::entra();
    world.answer_tokens(|origin, seen| {
        if seen.path.ends_with(&format!("/keys?appid={CLIENT_ID}")) {
            return Reply::json(200, &json!({ "keys": [rsa_jwk("own", &RSA)] }));
        }
        Reply::json(200, &tokens_under("own", &entra_claims(origin)))
    });
    for _ in 0..3 {
        world.redeem().await.expect("an account");
    }
    assert_eq!((world.server.count("/keys"), world.server.count(&format!("?appid={CLIENT_ID}"))), (2, 1));
    // Both are renewed together, and an unknown key does not cause repeated fetches.
    world.clock.advance(3601);
    world.redeem().await.expect("an account");
    assert_eq!((world.server.count("/keys"), world.server.count(&format!("?appid={CLIENT_ID}"))), (3, 2));
    world.answer_tokens(|origin, _| Reply::json(200, &tokens_under("k9", &entra_claims(origin))));
    for _ in 0..5 {
        assert!(failed(world.redeem().await).cause.ends_with("by the rule unknown_key"));
    }
    assert!(world.server.count(&format!("?appid={CLIENT_ID}")) <= 3);
    // Nothing of the kind applies to other providers.
    let world = World::openid();
    world.answer_tokens(|origin, _| {
        let claims = json!({
            "iss": origin, "aud": CLIENT_ID, "sub": "s", "iat": NOW, "exp": NOW + 60, "nonce": NONCE,
        });
        Reply::json(200, &tokens_under("k9", &claims))
    });
    world.redeem().await.err().expect("nobody has the key");
    assert_eq!(world.server.count(&format!("?appid={CLIENT_ID}")), 0);
}
