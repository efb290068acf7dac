//! Documents that are refused.

use super::*;

/// A change to a good document, and what its refusal must say.
type Evil = (&'static str, fn(&str, &mut Value), &'static str);

async fn judged(world: World, name: &str, change: fn(&str, &mut Value), says: &str, good: fn(&str) -> Value) {
    world.script(|script| {
        script.document = Box::new(move |origin| {
            let mut document = good(origin);
            change(origin, &mut document);
            Reply::json(200, &document)
        });
    });
    let failure = failed(world.authorize(|_| {}).await);
    assert_eq!(failure.disposition, LATER, "{name}");
    assert!(failure.cause.contains(says), "{name}: {}", failure.cause);
    assert_eq!(world.server.seen().len(), 1, "{name}: nothing it named was called");
}

#[tokio::test]
async fn evil_metadata_is_refused_and_nothing_it_names_is_called() {
    let rows: Vec<Evil> = vec![
        ("another issuer", |_, d| d["issuer"] = "https://evil.example/{tenantid}/v2.0".into(), "issuer"),
        (
            "the real Entra's issuer on another host",
            |_, d| d["issuer"] = "https://login.microsoftonline.com/{tenantid}/v2.0".into(),
            "issuer",
        ),
        (
            "one tenant's issuer on common",
            |o, d| d["issuer"] = format!("{o}/{TENANT_A}/v2.0").into(),
            "issuer",
        ),
        ("a template in the host", |_, d| d["issuer"] = "http://{tenantid}/v2.0".into(), "issuer"),
        (
            "an issuer with more behind it",
            |o, d| d["issuer"] = format!("{o}/{{tenantid}}/v2.0/x").into(),
            "issuer",
        ),
        (
            "an issuer that begins alike",
            |o, d| d["issuer"] = format!("{o}0/{{tenantid}}/v2.0").into(),
            "issuer",
        ),
        (
            "an issuer with a line break",
            |o, d| d["issuer"] = format!("{o}/{{tenantid}}/v2.0\r\nx").into(),
            "issuer",
        ),
        ("an issuer that is a list", |_, d| d["issuer"] = json!(["x"]), "issuer"),
        (
            "no issuer",
            |_, d| {
                d.as_object_mut().expect("an object").remove("issuer");
            },
            "issuer",
        ),
        ("no token endpoint", |_, d| d["token_endpoint"] = Value::Null, "token_endpoint"),
        (
            "a token endpoint elsewhere",
            |_, d| d["token_endpoint"] = "https://evil.example/token".into(),
            "evil.example",
        ),
        (
            "a token endpoint in the clear",
            |_, d| d["token_endpoint"] = "http://evil.example/token".into(),
            "token_endpoint",
        ),
        (
            "a token endpoint at the clouds' metadata",
            |_, d| d["token_endpoint"] = "http://169.254.169.254/token".into(),
            "token_endpoint",
        ),
        (
            "a token endpoint with credentials",
            |_, d| d["token_endpoint"] = "https://a:b@evil.example/".into(),
            "token_endpoint",
        ),
        (
            "a token endpoint on another local port",
            |_, d| d["token_endpoint"] = "http://127.0.0.1:6379/token".into(),
            "127.0.0.1",
        ),
        ("keys elsewhere", |_, d| d["jwks_uri"] = "https://evil.example/keys".into(), "evil.example"),
        ("keys in a file", |_, d| d["jwks_uri"] = "file:///etc/passwd".into(), "jwks_uri"),
        (
            "keys at the clouds' metadata",
            |_, d| d["jwks_uri"] = "https://169.254.169.254/keys".into(),
            "169.254.169.254",
        ),
        (
            "an authorize page elsewhere",
            |_, d| d["authorization_endpoint"] = "https://evil.example/".into(),
            "evil.example",
        ),
        (
            "an authorize page that is a script",
            |_, d| d["authorization_endpoint"] = "javascript:alert(1)".into(),
            "authorization_endpoint",
        ),
        (
            "an authorize page with a fragment",
            |o, d| d["authorization_endpoint"] = format!("{o}/a#b").into(),
            "authorization_endpoint",
        ),
        ("a document that is not Entra's", |o, d| *d = openid_document(o), "provider"),
        (
            "methods that are no list",
            |_, d| d["token_endpoint_auth_methods_supported"] = json!("x"),
            "token_endpoint_auth_methods_supported",
        ),
    ];
    for (name, change, says) in rows {
        judged(World::entra(), name, change, says, entra_document).await;
    }
    let rows: Vec<Evil> = vec![
        ("an issuer with a slash more", |o, d| d["issuer"] = format!("{o}/").into(), "to the letter"),
        ("another issuer", |_, d| d["issuer"] = "https://evil.example".into(), "to the letter"),
        ("Entra's document", |o, d| *d = entra_document(o), "provider"),
        (
            "a token endpoint at the clouds' metadata",
            |_, d| d["token_endpoint"] = "http://169.254.169.254/t".into(),
            "token_endpoint",
        ),
        (
            "a token endpoint on another local port",
            |_, d| d["token_endpoint"] = "http://localhost:6379/".into(),
            "localhost",
        ),
        ("the same over https", |_, d| d["token_endpoint"] = "https://localhost/".into(), "localhost"),
        ("keys at a private address", |_, d| d["jwks_uri"] = "https://10.0.0.1/".into(), "10.0.0.1"),
        ("keys at a mapped address", |_, d| d["jwks_uri"] = "https://[::ffff:a9fe:a9fe]/".into(), "a9fe"),
    ];
    for (name, change, says) in rows {
        judged(World::openid(), name, change, says, openid_document).await;
    }
}

#[tokio::test]
async fn documents_that_are_none_are_refused() {
    let headers = || vec![("content-type", "application/json".to_owned())];
    type Make = Box<dyn Fn() -> Reply + Send + Sync>;
    let rows: Vec<(&str, Make)> = vec![
        (
            "a redirect",
            Box::new(|| Reply::Answer {
                status: 302,
                headers: vec![("location", "http://127.0.0.1:1/x".into())],
                body: String::new(),
            }),
        ),
        (
            "too large",
            Box::new(move || Reply::Answer { status: 200, headers: headers(), body: " ".repeat(300_000) }),
        ),
        (
            "too large without its length",
            Box::new(|| {
                Reply::Raw([&b"HTTP/1.1 200 X\r\nconnection: close\r\n\r\n"[..], &[b' '; 300_000]].concat())
            }),
        ),
        (
            "an outage's page",
            Box::new(|| Reply::Answer { status: 200, headers: vec![], body: "<html>".into() }),
        ),
        ("nothing", Box::new(|| Reply::Answer { status: 204, headers: vec![], body: String::new() })),
        (
            "an issuer twice",
            Box::new(move || Reply::Answer {
                status: 200,
                headers: headers(),
                body: r#"{"issuer":"a","issuer":"b"}"#.into(),
            }),
        ),
        ("a connection closed", Box::new(|| Reply::Close)),
    ];
    for (name, make) in rows {
        let world = World::entra();
        world.script(|script| script.document = Box::new(move |_| make()));
        let failure = failed(world.authorize(|_| {}).await);
        assert_eq!(failure.disposition, LATER, "{name}: {failure}");
        assert!(!world.server.seen().iter().any(|seen| seen.path == "/x"), "{name}");
    }
}

#[tokio::test]
async fn a_flood_of_keys_is_refused() {
    let world = World::entra();
    world.script(|script| {
        script.keys = Box::new(|_| Reply::json(200, &json!({ "keys": vec![rsa_jwk("k1", &RSA); 101] })));
    });
    let failure = failed(world.redeem().await);
    assert!(failure.cause.contains("100 keys"), "{failure}");
    assert!(world.token_requests().is_empty());
}
