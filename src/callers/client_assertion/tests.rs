use serde_json::Map;

use super::*;
use crate::callers::Limits;
use crate::jwt::testing::{OTHER_RSA, P256, RSA, jwt, jwt_by_the_other, other_jwks, p256_jwk, rsa_jwk};
use crate::policy::CallerPolicy;

const NOW: i64 = 1_800_000_000;
const ISSUER: &str = "https://tokens.contoso.com:7443";

fn caller(name: &str) -> Arc<Caller> {
    let name = CallerName::parse(name).expect("a name");
    let policy = CallerPolicy::new(name.clone(), Vec::new());
    Arc::new(Caller { name, policy, limits: Limits::default() })
}

fn keys(jwks: &[Value]) -> Vec<Arc<ClientKey>> {
    read_keys(json!({ "keys": jwks }).to_string().as_bytes()).unwrap_or_else(|why| panic!("{why}"))
}

/// `sync` with an RSA and a P-256 key, and `other` with one of its own.
fn callers() -> AssertionCallers {
    let mut callers = AssertionCallers::default();
    callers.add(&caller("sync"), keys(&[rsa_jwk("k1", &RSA), p256_jwk("k2", &P256)]));
    callers.add(&caller("other"), keys(&[rsa_jwk("k1", &OTHER_RSA)]));
    callers.add(&caller("keyless"), Vec::new());
    callers
}

/// The claims that Authlib sends, with changes; `null` takes one out.
fn claims(changes: &Value) -> Value {
    let mut all = json!({
        "iss": "sync", "sub": "sync", "aud": ISSUER, "iat": NOW, "exp": NOW + 3600, "jti": "a-jti",
    });
    let changed: Map<String, Value> = changes.as_object().cloned().expect("an object");
    all.as_object_mut().expect("an object").extend(changed);
    all.as_object_mut().expect("an object").retain(|_, value| !value.is_null());
    all
}

fn judge(callers: &AssertionCallers, text: &str, now: i64) -> Result<(String, Once), JwtRefusal> {
    let token = parse(text)?;
    let judged = callers.authenticate(&token, ISSUER, Timestamp::from_unix_seconds(now));
    judged.map(|(caller, once)| (caller.name.to_string(), once))
}

#[test]
fn an_assertion_is_for_us_alone_fresh_and_by_a_key_of_its_client() {
    use JwtRefusal::{
        Algorithm, Audience, ClaimMissing, ClaimType, Critical, Encrypted, Expired, IssuedInFuture, Life,
        Malformed, NoCaller, NotYetValid, Signature, Stale, TooLong, UnknownKey, WrongType,
    };
    let rs256 = |changes: Value| jwt(&json!({ "alg": "RS256", "kid": "k1" }), &claims(&changes));
    let by = |header: Value| jwt(&header, &claims(&json!({})));
    let good = [
        rs256(json!({})),
        rs256(json!({ "exp": NOW + 1, "nbf": NOW })),
        // The clocks differ by a minute, one way or the other.
        rs256(json!({ "iat": NOW + 60, "nbf": NOW + 60, "exp": NOW + 60 + 3600 })),
        rs256(json!({ "iat": NOW - 359, "exp": NOW - 59 })),
        by(json!({ "alg": "PS256", "kid": "k1", "typ": "JWT" })),
        by(json!({ "alg": "ES256", "kid": "k2", "typ": "client-authentication+jwt" })),
        // Without a `kid` each key is tried.
        by(json!({ "alg": "RS256" })),
        by(json!({ "alg": "ES256" })),
        by(json!({ "alg": "RS512", "kid": "k1" })),
    ];
    let callers = callers();
    for (at, text) in good.iter().enumerate() {
        assert_eq!(judge(&callers, text, NOW).map(|(name, _)| name).as_deref(), Ok("sync"), "row {at}");
    }
    let other = |kid: &str, changes: Value| {
        jwt_by_the_other(&json!({ "alg": "RS256", "kid": kid }), &claims(&changes))
    };
    let of_other = json!({ "iss": "other", "sub": "other" });
    assert_eq!(judge(&callers, &other("k1", of_other), NOW).map(|(name, _)| name).as_deref(), Ok("other"));
    for (at, (text, expected)) in [
        (rs256(json!({ "aud": [ISSUER] })), Audience),
        (rs256(json!({ "aud": [ISSUER, "https://evil.example"] })), Audience),
        (rs256(json!({ "aud": format!("{ISSUER}/") })), Audience),
        (rs256(json!({ "aud": format!("{ISSUER}/oauth2/token") })), Audience),
        (rs256(json!({ "aud": "" })), Audience),
        (rs256(json!({ "aud": 7 })), ClaimType),
        (rs256(json!({ "aud": null })), ClaimMissing),
        (rs256(json!({ "exp": null })), ClaimMissing),
        (rs256(json!({ "iat": null })), ClaimMissing),
        (rs256(json!({ "jti": null })), ClaimMissing),
        (rs256(json!({ "jti": "" })), ClaimMissing),
        (rs256(json!({ "jti": 7 })), ClaimType),
        (rs256(json!({ "exp": "1800000300" })), ClaimType),
        (rs256(json!({ "iat": NOW - 120, "exp": NOW - 60 })), Expired),
        (rs256(json!({ "iat": NOW - 360, "exp": NOW + 10 })), Stale),
        (rs256(json!({ "iat": NOW + 61 })), IssuedInFuture),
        (rs256(json!({ "nbf": NOW + 61 })), NotYetValid),
        (rs256(json!({ "exp": NOW + 3601 })), Life),
        (rs256(json!({ "iss": "nobody", "sub": "nobody" })), NoCaller),
        (rs256(json!({ "iss": "keyless", "sub": "keyless" })), NoCaller),
        (rs256(json!({ "iss": "SYNC", "sub": "SYNC" })), NoCaller),
        (rs256(json!({ "iss": "other", "sub": "other" })), Signature),
        (other("k1", json!({})), Signature),
        (other("k3", json!({})), UnknownKey),
        (jwt_by_the_other(&json!({ "alg": "RS256" }), &claims(&json!({}))), Signature),
        (by(json!({ "alg": "RS256", "kid": "k2" })), Signature),
        (by(json!({ "alg": "none", "kid": "k1" })), Algorithm),
        (by(json!({ "alg": "HS256", "kid": "k1" })), Algorithm),
        (by(json!({ "alg": "HS256" })), Algorithm),
        (by(json!({ "alg": "RS256", "kid": "k1", "crit": ["exp"] })), Critical),
        (by(json!({ "alg": "RS256", "kid": "k1", "typ": "at+jwt" })), WrongType),
        (by(json!({ "alg": "RS256", "kid": "k1", "typ": "dpop+jwt" })), WrongType),
        ("a.b.c".to_owned(), Malformed),
        ("a.b.c.d.e".to_owned(), Encrypted),
        (rs256(json!({ "x": "x".repeat(MAX_TOKEN) })), TooLong),
    ]
    .into_iter()
    .enumerate()
    {
        assert_eq!(judge(&callers, &text, NOW).map(|(name, _)| name), Err(expected), "row {at}");
    }
}

/// However it is judged, the store remembers an assertion for as long as any replica would take it.
#[test]
fn an_assertion_is_remembered_until_every_replica_refuses_it() {
    let callers = callers();
    for (iat, exp) in [(0, 3600), (0, 60), (60, 3600), (-300, 10), (-359, 1)] {
        let changes = json!({ "iat": NOW + iat, "exp": NOW + exp });
        let text = jwt(&json!({ "alg": "RS256", "kid": "k1" }), &claims(&changes));
        let (_, once) = judge(&callers, &text, NOW).expect("good");
        let until = once.until.unix_seconds();
        assert!(until - NOW <= 8 * 60, "no longer than needed: {iat} {exp}");
        // A replica whose clock is a minute late.
        assert!(judge(&callers, &text, until - 60).is_err(), "{iat} {exp}");
        assert_eq!(once.name, "sync\na-jti");
    }
}

#[test]
fn a_file_of_keys_has_public_keys_with_names() {
    let with = |mut key: Value, name: &str, value: Value| {
        key[name] = value;
        key
    };
    let good = rsa_jwk("k1", &RSA);
    let of = |keys: &[Value]| {
        let read = read_keys(json!({ "keys": keys }).to_string().as_bytes());
        read.map(|keys| keys.iter().map(|key| key.id.clone()).collect::<Vec<_>>())
    };
    let [p384, ed25519] = other_jwks("k3", "k4");
    let all = of(&[good.clone(), p256_jwk("k2", &P256), p384, ed25519]);
    assert_eq!(all, Ok(["k1", "k2", "k3", "k4"].map(str::to_owned).to_vec()));
    let many: Vec<Value> = (0..9).map(|at| rsa_jwk(&format!("k{at}"), &RSA)).collect();
    for (keys, why) in [
        (vec![], "no key"),
        (many, "more than 8"),
        (vec![good.clone(), p256_jwk("k1", &P256)], "key 2 has the `kid` of another"),
        (vec![with(good.clone(), "kid", Value::Null)], "key 1 needs a `kid`"),
        (vec![with(good.clone(), "kid", json!("k".repeat(129)))], "key 1 needs a `kid`"),
        (vec![with(good.clone(), "kid", json!("a\nb"))], "key 1 needs a `kid`"),
        (vec![with(good.clone(), "d", json!("c2VjcmV0"))], "key 1 is a private"),
        (vec![json!({ "kty": "oct", "kid": "k", "k": "c2VjcmV0" })], "key 1 is a private"),
        (vec![with(good.clone(), "use", json!("enc"))], "key 1 cannot be used"),
        (vec![with(good.clone(), "e", json!("AQ"))], "key 1 cannot be used"),
        (vec![json!({ "kty": "EC", "crv": "P-521", "kid": "k", "x": "", "y": "" })], "key 1 cannot be used"),
    ] {
        let refused = of(&keys).expect_err(why);
        assert!(refused.contains(why) && !refused.contains("c2Vj"), "{refused}");
    }
    assert!(read_keys(b"{}").is_err() && read_keys(b"[]").is_err() && read_keys(b"-----BEGIN").is_err());
}

#[test]
fn the_last_use_of_a_key_is_known_and_outlives_a_reload() {
    let before = callers();
    let by_k2 = jwt(&json!({ "alg": "ES256", "kid": "k2" }), &claims(&json!({})));
    assert!(judge(&before, &by_k2, NOW).is_ok());
    let refused = jwt(&json!({ "alg": "RS256", "kid": "k1" }), &claims(&json!({ "aud": "x" })));
    assert!(judge(&before, &refused, NOW).is_err());
    let mut after = AssertionCallers::default();
    after.add(&caller("sync"), keys(&[p256_jwk("k2", &P256), rsa_jwk("k3", &RSA)]));
    after.take_over(&before);
    let used = |callers: &AssertionCallers| {
        let uses = callers.uses().into_iter().filter(|used| used.caller.as_str() == "sync");
        uses.map(|used| (used.key, used.last_used_at.map(Timestamp::unix_seconds))).collect::<Vec<_>>()
    };
    assert_eq!(used(&before), [("k1".to_owned(), None), ("k2".to_owned(), Some(NOW))]);
    assert_eq!(used(&after), [("k2".to_owned(), Some(NOW)), ("k3".to_owned(), None)]);
    // The same name for another key is another key.
    let mut renamed = AssertionCallers::default();
    renamed.add(&caller("sync"), keys(&[rsa_jwk("k2", &RSA)]));
    renamed.take_over(&before);
    assert_eq!(used(&renamed), [("k2".to_owned(), None)]);
}
