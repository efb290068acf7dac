//! Secrets that come and go, certificates, and other issuers' tokens.

use std::time::{Duration, SystemTime};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use entra_emulator::{App, Audience, AuthMethod, Emulator, FederatedCredential};
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use rcgen::{CertificateParams, KeyPair, PKCS_RSA_SHA256, RsaKeySize};
use serde_json::{Value, json};

use crate::client::*;

const ASSERTION: (&str, &str) =
    ("client_assertion_type", "urn:ietf:params:oauth:client-assertion-type:jwt-bearer");
const GRANT: (&str, &str) = ("grant_type", "client_credentials");
const SCOPE: (&str, &str) = ("scope", "https://graph.microsoft.com/.default");

struct Signer {
    key: EncodingKey,
    certificate: rcgen::Certificate,
    pair: KeyPair,
}

fn signer() -> Signer {
    let _ = jsonwebtoken::crypto::aws_lc::DEFAULT_PROVIDER.install_default();
    let pair = KeyPair::generate_rsa_for(&PKCS_RSA_SHA256, RsaKeySize::_2048).unwrap();
    let certificate = CertificateParams::default().self_signed(&pair).unwrap();
    Signer { key: EncodingKey::from_rsa_pem(pair.serialize_pem().as_bytes()).unwrap(), certificate, pair }
}

impl Signer {
    fn sha256(&self) -> String {
        URL_SAFE_NO_PAD.encode(aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, self.certificate.der()))
    }

    fn sha1(&self) -> String {
        URL_SAFE_NO_PAD.encode(aws_lc_rs::digest::digest(
            &aws_lc_rs::digest::SHA1_FOR_LEGACY_USE_ONLY,
            self.certificate.der(),
        ))
    }

    fn assertion(&self, algorithm: Algorithm, claims: &Value) -> String {
        let mut header = Header::new(algorithm);
        match algorithm {
            Algorithm::PS256 => header.x5t_s256 = Some(self.sha256()),
            _ => header.x5t = Some(self.sha1()),
        }
        encode(&header, claims, &self.key).unwrap()
    }
}

fn seconds(emulator: &Emulator) -> u64 {
    emulator.now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs()
}

fn claims_for(emulator: &Emulator, jti: &str) -> Value {
    let now = seconds(emulator);
    let aud = format!("{}/contoso.example/oauth2/v2.0/token", emulator.base_url());
    json!({ "aud": aud, "iss": CLIENT, "sub": CLIENT, "jti": jti, "nbf": now, "exp": now + 600 })
}

async fn with_assertion(emulator: &Emulator, assertion: &str) -> Reply {
    let form = [GRANT, SCOPE, ASSERTION, ("client_assertion", assertion), ("client_secret", "")];
    token(emulator, "contoso.example", &form).await
}

async fn with_secret(emulator: &Emulator, secret: &str) -> Reply {
    token(emulator, "contoso.example", &[GRANT, SCOPE, ("client_secret", secret)]).await
}

#[tokio::test]
async fn secrets_start_late_expire_and_are_two_at_most() {
    let emulator = emulator().await;
    emulator.add_secret(CLIENT, "second", Duration::from_secs(30), Some(Duration::from_secs(3600))).unwrap();
    assert!(
        emulator.add_secret(CLIENT, "third", Duration::ZERO, None).is_err(),
        "personal accounts are allowed"
    );
    assert_eq!(with_secret(&emulator, "second").await.aadsts(), 7000215);
    emulator.advance(Duration::from_secs(31));
    assert_eq!(with_secret(&emulator, "second").await.status, 200);
    assert_eq!(with_secret(&emulator, SECRET).await.status, 200);
    emulator.advance(Duration::from_secs(3600));
    let expired = with_secret(&emulator, "second").await;
    assert_eq!((expired.status, expired.aadsts()), (401, 7000222));
    emulator.remove_secret(CLIENT, "second").unwrap();
    assert_eq!(with_secret(&emulator, "second").await.aadsts(), 7000215);
    emulator.rotate_secret(CLIENT, "third").unwrap();
    assert_eq!(with_secret(&emulator, SECRET).await.aadsts(), 7000215);
    assert_eq!(with_secret(&emulator, "third").await.status, 200);
    assert_eq!(emulator.ledger().pop().unwrap().auth_method, AuthMethod::SecretPost);
}

#[tokio::test]
async fn a_certificate_proves_the_client_and_its_faults_are_told_apart() {
    let (ours, other) = (signer(), signer());
    let emulator = emulator().await;
    emulator.set_certificates(CLIENT, &[&ours.certificate.pem()]).unwrap();
    for algorithm in [Algorithm::PS256, Algorithm::RS256] {
        let good = ours.assertion(algorithm, &claims_for(&emulator, "1"));
        assert_eq!(with_assertion(&emulator, &good).await.status, 200);
        assert_eq!(with_assertion(&emulator, &good).await.status, 200, "reuse is allowed by default");
    }
    assert_eq!(emulator.ledger().pop().unwrap().auth_method, AuthMethod::Certificate);
    assert_eq!(emulator.ledger().pop().unwrap().credential, Some(ours.sha256()));
    let changed = |name: &str, value: Value| {
        let mut claims = claims_for(&emulator, "2");
        claims[name] = value;
        ours.assertion(Algorithm::PS256, &claims)
    };
    let now = seconds(&emulator);
    for (assertion, code) in [
        (other.assertion(Algorithm::PS256, &claims_for(&emulator, "3")), 700027),
        (changed("exp", json!(now - 600)), 700024),
        (changed("nbf", json!(now + 600)), 700024),
        (changed("aud", json!("https://other.example")), 700023),
        (changed("sub", json!("somebody")), 700021),
        ("not.a.jwt".to_owned(), 50027),
    ] {
        assert_eq!(with_assertion(&emulator, &assertion).await.aadsts(), code);
    }
    let mut forged = ours.assertion(Algorithm::PS256, &claims_for(&emulator, "4"));
    forged.truncate(forged.len() - 8);
    forged.push_str("AAAAAAAA");
    assert_eq!(with_assertion(&emulator, &forged).await.aadsts(), 700027);

    emulator.change_settings(|settings| settings.strict_jti = true);
    let once = ours.assertion(Algorithm::PS256, &claims_for(&emulator, "5"));
    assert_eq!(with_assertion(&emulator, &once).await.status, 200);
    assert_eq!(with_assertion(&emulator, &once).await.aadsts(), 50012);
    emulator.revoke_certificates(CLIENT).unwrap();
    assert_eq!(
        with_assertion(&emulator, &ours.assertion(Algorithm::PS256, &claims_for(&emulator, "6")))
            .await
            .aadsts(),
        7000214
    );
}

#[tokio::test]
async fn a_foreign_token_proves_the_client_once_the_trust_has_spread() {
    let foreign = signer();
    let key = aws_lc_rs::rsa::KeyPair::from_pkcs8(&foreign.pair.serialize_der()).unwrap();
    let public = aws_lc_rs::signature::KeyPair::public_key(&key);
    let part = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
    let jwks = json!({ "keys": [{
        "kty": "RSA", "kid": "k1",
        "n": part(public.modulus().big_endian_without_leading_zero()),
        "e": part(public.exponent().big_endian_without_leading_zero()),
    }]});
    let mut credential = FederatedCredential::new("https://ci.example", "repo:one", jwks);
    credential.active_after = Duration::from_secs(60);
    let app = App::new(CLIENT).redirect_uri(CALLBACK).audience(Audience::Work).federated(credential);
    let emulator =
        Emulator::builder().app(app).user(entra_emulator::User::work(ALICE)).start().await.unwrap();
    let assertion = |subject: &str, audience: &str| {
        let exp = seconds(&emulator) + 600;
        let claims = json!({ "iss": "https://ci.example", "sub": subject, "aud": audience, "exp": exp });
        let header = Header { kid: Some("k1".into()), ..Header::new(Algorithm::RS256) };
        encode(&header, &claims, &foreign.key).unwrap()
    };
    let default = "api://AzureADTokenExchange";
    assert_eq!(
        with_assertion(&emulator, &assertion("repo:one", default)).await.aadsts(),
        70021,
        "not spread yet"
    );
    emulator.advance(Duration::from_secs(61));
    assert_eq!(with_assertion(&emulator, &assertion("repo:one", default)).await.status, 200);
    assert_eq!(emulator.ledger().pop().unwrap().auth_method, AuthMethod::Federated);
    assert_eq!(with_assertion(&emulator, &assertion("repo:two", default)).await.aadsts(), 70021);
    assert_eq!(with_assertion(&emulator, &assertion("repo:one", "api://other")).await.aadsts(), 70021);
}
