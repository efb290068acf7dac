//! Signed assertions: certificates and federated credentials.

use super::*;

#[tokio::test]
async fn a_certificate_signs_anew_for_every_request() {
    let pem = include_bytes!("../../../tests/data/authority/keys/app-rsa.pem");
    let certificate = ClientCredential::certificate("cert", pem).expect("a pair");
    let world = World::with("/common/v2.0", entra_script(), vec![certificate], |_| {});
    world.refresh().await.expect("tokens");
    world.refresh().await.expect("tokens");
    let mut ids = Vec::new();
    for request in world.token_requests() {
        let kind = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer";
        assert_eq!(request.field("client_assertion_type"), Some(kind));
        assert_eq!((request.field("client_id"), request.field("client_secret")), (Some(CLIENT_ID), None));
        let assertion = request.field("client_assertion").expect("an assertion");
        let parts: Vec<&str> = assertion.split('.').collect();
        let read = |part: &str| -> Value {
            serde_json::from_slice(&URL_SAFE_NO_PAD.decode(part).expect("base64")).expect("JSON")
        };
        let (header, claims) = (read(parts[0]), read(parts[1]));
        let expected = json!({
            "alg": "PS256", "typ": "JWT", "x5t#S256": "P_ApQ5NmSVorkkySoSBNwdJBLd0d0Yh3gijG_kwe9n8",
        });
        assert_eq!(header, expected);
        assert_eq!((&claims["iss"], &claims["sub"]), (&json!(CLIENT_ID), &json!(CLIENT_ID)));
        assert_eq!(claims["aud"], format!("{}/common/oauth2/v2.0/token", world.server.origin()));
        assert_eq!((&claims["iat"], &claims["exp"]), (&json!(NOW), &json!(NOW + 300)));
        // An independent implementation accepts the signature with the certificate's key.
        let certificate = rustls_certificate(pem);
        let (_, parsed) = x509_parser::parse_x509_certificate(&certificate).expect("a certificate");
        let key = jsonwebtoken::DecodingKey::from_rsa_der(&parsed.public_key().subject_public_key.data);
        let message = assertion.rsplit_once('.').expect("three parts").0;
        let fits =
            jsonwebtoken::crypto::verify(parts[2], message.as_bytes(), &key, jsonwebtoken::Algorithm::PS256);
        assert!(fits.expect("a signature"));
        ids.push(claims["jti"].as_str().expect("an id").to_owned());
    }
    assert!(ids[0] != ids[1] && ids[0].len() == 22, "{ids:?}");
}

#[tokio::test]
async fn an_assertion_is_for_whom_the_configuration_says_and_for_one_alone() {
    let pem = include_bytes!("../../../tests/data/authority/keys/app-rsa.pem");
    let url = "https://login.example/as".to_owned();
    for audience in
        [AssertionAudience::TokenEndpoint, AssertionAudience::Issuer, AssertionAudience::Url(url.clone())]
    {
        let script = Script {
            document: Box::new(|origin| Reply::json(200, &openid_document(origin))),
            ..entra_script()
        };
        let certificate = ClientCredential::certificate("cert", pem).expect("a pair");
        let chosen = audience.clone();
        let world =
            World::with("", script, vec![certificate], move |config| config.assertion_audience = chosen);
        // (Without an id_token of its own provider the answer is useless; only the request matters.)
        let _answered = world.refresh_as("alice").await;
        let request = &world.token_requests()[0];
        let claims =
            request.field("client_assertion").and_then(|jwt| jwt.split('.').nth(1)).expect("an assertion");
        let claims: Value =
            serde_json::from_slice(&URL_SAFE_NO_PAD.decode(claims).expect("base64")).expect("JSON");
        let origin = world.server.origin();
        let expected = match audience {
            AssertionAudience::TokenEndpoint => format!("{origin}/token"),
            AssertionAudience::Issuer => origin,
            AssertionAudience::Url(url) => url,
        };
        assert_eq!(claims["aud"], json!(expected));
    }
}

fn rustls_certificate(pem: &[u8]) -> rustls::pki_types::CertificateDer<'static> {
    rustls::pki_types::pem::PemObject::from_pem_slice(pem).expect("a certificate")
}

#[test]
fn a_pair_that_does_not_match_is_refused_at_load() {
    let load =
        |pem: &[u8]| ClientCredential::certificate("x", pem).map(|credential| credential.expires_at()).err();
    assert_eq!(load(include_bytes!("../../../tests/data/authority/keys/app-rsa.pem")), None);
    assert_eq!(load(include_bytes!("../../../tests/data/authority/keys/app-p256.pem")), None);
    let mismatch = include_bytes!("../../../tests/data/authority/keys/app-mismatch.pem");
    assert_eq!(load(mismatch), Some(CertificateFault::NoMatch));
    let short = include_bytes!("../../../tests/data/authority/keys/app-short.pem");
    assert_eq!(load(short), Some(CertificateFault::KeyKind));
    assert_eq!(
        load(include_bytes!("../../../tests/data/authority/keys/tls-ca.pem")),
        Some(CertificateFault::NoKey)
    );
    assert_eq!(load(b""), Some(CertificateFault::NoKey));
    let pem = std::str::from_utf8(mismatch).expect("text");
    let key_only = &pem[pem.find("-----BEGIN PRIVATE").expect("a key")..];
    assert_eq!(load(key_only.as_bytes()), Some(CertificateFault::NoCertificate));
}

#[tokio::test]
async fn an_elliptic_key_is_for_others_than_entra() {
    let pem = include_bytes!("../../../tests/data/authority/keys/app-p256.pem");
    let world = World::with(
        "/common/v2.0",
        entra_script(),
        vec![ClientCredential::certificate("ec", pem).expect("a pair")],
        |_| {},
    );
    let failure = failed(world.refresh().await);
    assert_eq!(failure.disposition, Disposition::NextCredential);
    assert!(world.ledger.has("unusable ec") && world.token_requests().is_empty());

    let world = World::openid();
    world.replace(vec![ClientCredential::certificate("ec", pem).expect("a pair")]);
    world.redeem().await.expect("tokens");
    let requests = world.token_requests();
    let header =
        requests[0].field("client_assertion").and_then(|text| text.split('.').next()).expect("a header");
    let header: Value =
        serde_json::from_slice(&URL_SAFE_NO_PAD.decode(header).expect("base64")).expect("JSON");
    assert_eq!(header["alg"], "ES256");
}

/// An assertion that tests renew.
struct Renewed(Mutex<Result<String, String>>);

impl AssertionSource for Renewed {
    fn read(&self) -> crate::domain::task::BoxFuture<'_, Result<Zeroizing<String>, String>> {
        let read = self.0.lock().clone().map(Zeroizing::new);
        Box::pin(std::future::ready(read))
    }
}

#[tokio::test]
async fn a_federated_assertion_is_read_for_every_request_and_never_sent_stale() {
    let assertion =
        |exp: i64| format!("{}.{}.sig", b64(r#"{"alg":"RS256"}"#), b64(json!({ "exp": exp }).to_string()));
    let source = Arc::new(Renewed(Mutex::new(Ok(assertion(NOW + 100)))));
    let credentials = vec![ClientCredential::federated("k8s", source.clone())];
    let world = World::with("/common/v2.0", entra_script(), credentials, |_| {});
    world.refresh().await.expect("tokens");
    *source.0.lock() = Ok(assertion(NOW + 200));
    world.refresh().await.expect("tokens");
    let sent: Vec<_> = world
        .token_requests()
        .iter()
        .filter_map(|seen| seen.field("client_assertion").map(str::to_owned))
        .collect();
    assert_eq!(sent, [assertion(NOW + 100), assertion(NOW + 200)]);
    for bad in
        [Ok(assertion(NOW)), Ok("no JWT".into()), Ok(format!("a.{}.c", b64("{}"))), Err("missing".into())]
    {
        *source.0.lock() = bad;
        assert_eq!(failed(world.refresh().await).disposition, Disposition::NextCredential);
    }
    assert_eq!(world.token_requests().len(), 2, "nothing stale was sent");
}

#[tokio::test]
async fn an_assertion_file_is_read_anew_and_its_absence_told() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("token");
    let file = AssertionFile::new(&path, SecretReader::new(None).guard());
    assert!(file.read().await.is_err());
    std::fs::write(&path, "a.b.c\n").expect("writes");
    assert_eq!(file.read().await.expect("an assertion").as_str(), "a.b.c");
    std::fs::write(&path, "d.e.f").expect("writes");
    assert_eq!(file.read().await.expect("an assertion").as_str(), "d.e.f");
    std::fs::write(&path, "x".repeat(40_000)).expect("writes");
    assert!(file.read().await.is_err());
}

/// A file on a mount that hangs.
struct Hangs;

impl AssertionSource for Hangs {
    fn read(&self) -> crate::domain::task::BoxFuture<'_, Result<Zeroizing<String>, String>> {
        Box::pin(std::future::pending())
    }
}

#[tokio::test]
async fn an_assertion_that_cannot_be_read_in_time_holds_nobody_up_for_ever() {
    let credentials = vec![ClientCredential::federated("pod", Arc::new(Hangs))];
    let world = World::with("/common/v2.0", entra_script(), credentials, |config| {
        config.timeout = Duration::from_millis(300);
    });
    let failure = failed(world.refresh().await);
    assert_eq!(failure.disposition, Disposition::NextCredential);
    assert!(failure.cause.contains("in time"), "{}", failure.cause);
}
