//! Test tools: keys, and tokens signed with them.

#![allow(dead_code, reason = "shared with the tests from outside, each of which uses a part of it")]

use std::sync::LazyLock;

use aws_lc_rs::encoding::AsDer;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::{KeyPair, KeySize};
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair,
    KeyPair as _, RSA_PKCS1_SHA256, RSA_PKCS1_SHA384, RSA_PKCS1_SHA512, RSA_PSS_SHA256, RSA_PSS_SHA384,
    RSA_PSS_SHA512, RsaEncoding,
};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};

/// Keys of an issuer, made once for all tests.
pub(crate) static RSA: LazyLock<KeyPair> =
    LazyLock::new(|| KeyPair::generate(KeySize::Rsa2048).expect("a key"));
pub(crate) static OTHER_RSA: LazyLock<KeyPair> =
    LazyLock::new(|| KeyPair::generate(KeySize::Rsa2048).expect("a key"));
pub(crate) static P256: LazyLock<EcdsaKeyPair> =
    LazyLock::new(|| EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).expect("a key"));

pub(crate) static P384: LazyLock<EcdsaKeyPair> =
    LazyLock::new(|| EcdsaKeyPair::generate(&ECDSA_P384_SHA384_FIXED_SIGNING).expect("a key"));
pub(crate) static ED25519: LazyLock<Ed25519KeyPair> =
    LazyLock::new(|| Ed25519KeyPair::generate().expect("a key"));

pub(crate) fn b64(bytes: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

/// Returns the public half of an RSA key as a JWK.
pub(crate) fn rsa_jwk(kid: &str, key: &KeyPair) -> Value {
    let public = key.public_key();
    let (n, e) = (public.modulus(), public.exponent());
    let strip = |bytes: &[u8]| b64(bytes.iter().copied().skip_while(|byte| *byte == 0).collect::<Vec<u8>>());
    json!({
        "kty": "RSA", "use": "sig", "kid": kid,
        "n": strip(n.big_endian_without_leading_zero()), "e": strip(e.big_endian_without_leading_zero()),
    })
}

/// Returns the public half of a P-256 key as a JWK.
pub(crate) fn p256_jwk(kid: &str, key: &EcdsaKeyPair) -> Value {
    let point = key.public_key().as_ref();
    json!({
        "kty": "EC", "crv": "P-256", "use": "sig", "kid": kid,
        "x": b64(&point[1..33]), "y": b64(&point[33..]),
    })
}

/// Returns the public halves of the P-384 and Ed25519 keys as JWKs.
pub(crate) fn other_jwks(p384: &str, ed25519: &str) -> [Value; 2] {
    let (point, public) = (P384.public_key().as_ref(), ED25519.public_key().as_ref());
    [
        json!({ "kty": "EC", "crv": "P-384", "kid": p384, "x": b64(&point[1..49]), "y": b64(&point[49..]) }),
        json!({ "kty": "OKP", "crv": "Ed25519", "kid": ed25519, "x": b64(public) }),
    ]
}

/// Makes a JWT signed with the tests' own keys by the `alg` of its header.
pub(crate) fn jwt(header: &Value, claims: &Value) -> String {
    let message = format!("{}.{}", b64(header.to_string()), b64(claims.to_string()));
    let random = SystemRandom::new();
    let mut rsa = vec![0; RSA.public_modulus_len()];
    let mut by_rsa = |padding: &'static dyn RsaEncoding| {
        RSA.sign(padding, &random, message.as_bytes(), &mut rsa).expect("signs");
        rsa.clone()
    };
    let signature = match header["alg"].as_str() {
        Some("ES256") => P256.sign(&random, message.as_bytes()).expect("signs").as_ref().to_vec(),
        Some("ES384") => P384.sign(&random, message.as_bytes()).expect("signs").as_ref().to_vec(),
        Some("EdDSA" | "Ed25519") => ED25519.sign(message.as_bytes()).as_ref().to_vec(),
        Some("RS384") => by_rsa(&RSA_PKCS1_SHA384),
        Some("RS512") => by_rsa(&RSA_PKCS1_SHA512),
        Some("PS256") => by_rsa(&RSA_PSS_SHA256),
        Some("PS384") => by_rsa(&RSA_PSS_SHA384),
        Some("PS512") => by_rsa(&RSA_PSS_SHA512),
        Some("HS256") => {
            // A known attack: the public key as the secret of a symmetric algorithm.
            let secret = RSA.public_key().as_der().expect("DER");
            let key = aws_lc_rs::hmac::Key::new(aws_lc_rs::hmac::HMAC_SHA256, secret.as_ref());
            aws_lc_rs::hmac::sign(&key, message.as_bytes()).as_ref().to_vec()
        }
        Some("none") => Vec::new(),
        _ => by_rsa(&RSA_PKCS1_SHA256),
    };
    format!("{message}.{}", b64(signature))
}

/// Makes a JWT signed with RS256 by the other RSA key.
pub(crate) fn jwt_by_the_other(header: &Value, claims: &Value) -> String {
    let message = format!("{}.{}", b64(header.to_string()), b64(claims.to_string()));
    let mut signature = vec![0; OTHER_RSA.public_modulus_len()];
    let random = SystemRandom::new();
    OTHER_RSA.sign(&RSA_PKCS1_SHA256, &random, message.as_bytes(), &mut signature).expect("signs");
    format!("{message}.{}", b64(signature))
}
