//! Signing keys: one set for work tenants, one for personal accounts, and their JWKS.

use parking_lot::Mutex;
use std::sync::Arc;

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::KeyPair as RsaKeyPair;
use aws_lc_rs::signature::{KeyPair as _, RSA_PKCS1_SHA256};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use rcgen::{CertificateParams, DnType, KeyPair, PKCS_RSA_SHA256, RsaKeySize};
use serde_json::{Map, Value, json};

use crate::directory::PERSONAL_TENANT;
use crate::random::digests::sha1;

/// Keys already made by this process. Making one takes a while, so emulators that run one after another in a
/// test binary take the same keys in the same order.
static POOL: Mutex<Vec<Arc<SigningKey>>> = Mutex::new(Vec::new());

/// One RSA key with its self-signed certificate, as Entra publishes them.
#[derive(Debug)]
pub(crate) struct SigningKey {
    pub(crate) kid: String,
    pair: RsaKeyPair,
    modulus: String,
    exponent: String,
    certificate: String,
}

impl SigningKey {
    fn make() -> Self {
        let key =
            KeyPair::generate_rsa_for(&PKCS_RSA_SHA256, RsaKeySize::_2048).expect("an RSA key can be made");
        let pair = RsaKeyPair::from_pkcs8(&key.serialize_der()).expect("the key just made can be read");
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, "accounts.accesscontrol.windows.net");
        let certificate = params.self_signed(&key).expect("a key can certify itself");
        let public = pair.public_key();
        Self {
            kid: URL_SAFE_NO_PAD.encode(sha1(certificate.der())),
            modulus: URL_SAFE_NO_PAD.encode(public.modulus().big_endian_without_leading_zero()),
            exponent: URL_SAFE_NO_PAD.encode(public.exponent().big_endian_without_leading_zero()),
            certificate: STANDARD.encode(certificate.der()),
            pair,
        }
    }

    /// An RS256 signature over `data`.
    pub(crate) fn sign(&self, data: &[u8]) -> Vec<u8> {
        let mut signature = vec![0; self.pair.public_modulus_len()];
        self.pair
            .sign(&RSA_PKCS1_SHA256, &SystemRandom::new(), data, &mut signature)
            .expect("an RSA key can sign");
        signature
    }

    fn jwk(&self, issuer: &str) -> Value {
        json!({
            "kty": "RSA", "use": "sig", "kid": self.kid, "x5t": self.kid, "n": self.modulus,
            "e": self.exponent,
            "x5c": [self.certificate], "cloud_instance_name": "microsoftonline.com", "issuer": issuer,
        })
    }
}

/// The keys of one emulator. The first of each list signs.
#[derive(Debug)]
pub(crate) struct Keys {
    work: Vec<Arc<SigningKey>>,
    personal: Vec<Arc<SigningKey>>,
    unpublished: Option<Arc<SigningKey>>,
    taken: usize,
}

impl Keys {
    pub(crate) fn new() -> Self {
        let mut keys = Self { work: Vec::new(), personal: Vec::new(), unpublished: None, taken: 0 };
        // Entra always publishes more than one key; the second is the next to sign.
        keys.work = vec![keys.take(), keys.take()];
        keys.personal = vec![keys.take()];
        keys
    }

    pub(crate) fn signing(&self, tenant: &str) -> &SigningKey {
        if tenant == PERSONAL_TENANT { &self.personal[0] } else { &self.work[0] }
    }

    /// A key that no JWKS of this emulator lists.
    pub(crate) fn unpublished(&mut self) -> Arc<SigningKey> {
        if let Some(key) = &self.unpublished {
            return Arc::clone(key);
        }
        let key = self.take();
        Arc::clone(self.unpublished.insert(key))
    }

    /// Signs with new keys from now on. With `overlap` the old ones stay published.
    pub(crate) fn rotate(&mut self, overlap: bool) {
        let (work, personal) = (self.take(), self.take());
        for (list, fresh) in [(&mut self.work, work), (&mut self.personal, personal)] {
            if !overlap {
                list.clear();
            }
            list.insert(0, fresh);
            list.truncate(4);
        }
    }

    /// The key document of a tenant path. Work keys name a templated issuer, the personal key its own tenant.
    pub(crate) fn document(&self, base: &str, tenant_path: &str) -> Map<String, Value> {
        let personal_path = matches!(tenant_path, "common" | "consumers" | PERSONAL_TENANT);
        let work_path = !matches!(tenant_path, "consumers" | PERSONAL_TENANT);
        let mut keys = Vec::new();
        if work_path {
            keys.extend(self.work.iter().map(|key| key.jwk(&format!("{base}/{{tenantid}}/v2.0"))));
        }
        if personal_path {
            keys.extend(self.personal.iter().map(|key| key.jwk(&format!("{base}/{PERSONAL_TENANT}/v2.0"))));
        }
        Map::from_iter([("keys".to_owned(), Value::Array(keys))])
    }

    fn take(&mut self) -> Arc<SigningKey> {
        let mut pool = POOL.lock();
        while pool.len() <= self.taken {
            pool.push(Arc::new(SigningKey::make()));
        }
        self.taken += 1;
        Arc::clone(&pool[self.taken - 1])
    }
}
