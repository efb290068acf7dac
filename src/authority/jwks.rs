//! The authority's signing keys (RFC 7517), and signatures checked with them.

use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED, RSA_PKCS1_2048_8192_SHA256, RSA_PSS_2048_8192_SHA256, RsaPublicKeyComponents,
    UnparsedPublicKey,
};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Map, Value};

use super::wire::Object;

/// More keys than this are a mistake or an attack.
const MAX_KEYS: usize = 100;

/// The signature algorithms that are accepted at all. `none` and the symmetric ones have no name here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Algorithm {
    Rs256,
    Ps256,
    Es256,
}

impl Algorithm {
    pub(super) fn parse(name: &str) -> Option<Self> {
        match name {
            "RS256" => Some(Algorithm::Rs256),
            "PS256" => Some(Algorithm::Ps256),
            "ES256" => Some(Algorithm::Es256),
            _ => None,
        }
    }

    pub(super) fn as_str(self) -> &'static str {
        match self {
            Algorithm::Rs256 => "RS256",
            Algorithm::Ps256 => "PS256",
            Algorithm::Es256 => "ES256",
        }
    }
}

/// The public half of a key.
enum Material {
    Rsa {
        n: Vec<u8>,
        e: Vec<u8>,
    },
    /// Uncompressed point on P-256.
    P256(Vec<u8>),
}

/// One key of the authority.
pub(super) struct Key {
    kid: Option<String>,
    algorithm: Option<String>,
    material: Material,
    /// Entra: whose tokens it may sign; a template or one tenant's issuer.
    pub(super) issuer: Option<String>,
    /// Entra: the cloud it belongs to.
    pub(super) cloud_instance_name: Option<String>,
}

impl Key {
    /// Whether the key signed `message`. False too when the key is of another kind than the algorithm.
    pub(super) fn verifies(&self, algorithm: Algorithm, message: &[u8], signature: &[u8]) -> bool {
        if self.algorithm.as_deref().is_some_and(|own| own != algorithm.as_str()) {
            return false;
        }
        match (&self.material, algorithm) {
            (Material::Rsa { n, e }, Algorithm::Rs256) => RsaPublicKeyComponents { n, e }
                .verify(&RSA_PKCS1_2048_8192_SHA256, message, signature)
                .is_ok(),
            (Material::Rsa { n, e }, Algorithm::Ps256) => {
                RsaPublicKeyComponents { n, e }.verify(&RSA_PSS_2048_8192_SHA256, message, signature).is_ok()
            }
            (Material::P256(point), Algorithm::Es256) => {
                UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, point).verify(message, signature).is_ok()
            }
            _ => false,
        }
    }
}

/// The keys that can be used.
pub(super) struct KeySet {
    keys: Vec<Key>,
}

impl KeySet {
    /// Reads a key set; keys of kinds that are not used here are left out. `Err` says in our words what is wrong.
    pub(super) fn parse(bytes: &[u8]) -> Result<Self, String> {
        let document = Object::parse(bytes)?;
        let Some(Value::Array(keys)) = document.0.get("keys") else {
            return Err("the key set has no list of keys".to_owned());
        };
        if keys.len() > MAX_KEYS {
            return Err(format!("the key set has more than {MAX_KEYS} keys"));
        }
        let keys: Vec<Key> = keys.iter().filter_map(Value::as_object).filter_map(key).collect();
        if keys.is_empty() {
            return Err("the key set has no key that can be used".to_owned());
        }
        Ok(KeySet { keys })
    }

    /// The keys of this id; without an id the only key, if there is but one (OpenID Connect Core §10.1).
    pub(super) fn find(&self, kid: Option<&str>) -> Vec<&Key> {
        match kid {
            Some(kid) => self.keys.iter().filter(|key| key.kid.as_deref() == Some(kid)).collect(),
            None if self.keys.len() == 1 => self.keys.iter().collect(),
            None => Vec::new(),
        }
    }
}

fn key(object: &Map<String, Value>) -> Option<Key> {
    let text = |name: &str| object.get(name).and_then(Value::as_str);
    let bytes = |name: &str| URL_SAFE_NO_PAD.decode(text(name)?.trim_end_matches('=')).ok();
    if text("use").is_some_and(|purpose| purpose != "sig") {
        return None;
    }
    let material = match text("kty")? {
        "RSA" => {
            let strip = |bytes: Vec<u8>| bytes.into_iter().skip_while(|byte| *byte == 0).collect::<Vec<u8>>();
            let (n, e) = (strip(bytes("n")?), strip(bytes("e")?));
            // An exponent of 1, or an even one, makes any signature fit.
            if !(256..=1024).contains(&n.len())
                || e.is_empty()
                || e.len() > 8
                || e == [1]
                || e.last()? % 2 == 0
            {
                return None;
            }
            Material::Rsa { n, e }
        }
        "EC" if text("crv")? == "P-256" => {
            let (x, y) = (bytes("x")?, bytes("y")?);
            if x.len() != 32 || y.len() != 32 {
                return None;
            }
            Material::P256([&[4][..], &x, &y].concat())
        }
        _ => return None,
    };
    Some(Key {
        kid: text("kid").map(str::to_owned),
        algorithm: text("alg").map(str::to_owned),
        material,
        issuer: text("issuer").map(str::to_owned),
        cloud_instance_name: text("cloud_instance_name").map(str::to_owned),
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::authority::testing::{P256, RSA, b64, p256_jwk, rsa_jwk};

    fn with(mut key: Value, name: &str, value: Value) -> Value {
        key[name] = value;
        key
    }

    #[test]
    fn only_keys_that_can_be_used_are_kept() {
        let good = rsa_jwk("good", &RSA);
        let ignored = [
            with(good.clone(), "use", json!("enc")),
            with(good.clone(), "kty", json!("oct")),
            with(good.clone(), "kty", json!(1)),
            with(good.clone(), "n", json!(b64([0xff; 128]))),
            with(good.clone(), "n", json!(b64([0xff; 1025]))),
            with(good.clone(), "n", json!("not base64 !")),
            with(good.clone(), "e", json!(b64([1]))),
            with(good.clone(), "e", json!(b64([2]))),
            with(good.clone(), "e", json!(b64([]))),
            with(good.clone(), "e", json!(b64([0xff; 9]))),
            with(p256_jwk("x", &P256), "crv", json!("P-384")),
            with(p256_jwk("x", &P256), "x", json!(b64([1; 31]))),
            json!("a key"),
            json!({}),
        ];
        let mut keys = ignored.to_vec();
        keys.push(good);
        let set = KeySet::parse(json!({ "keys": keys }).to_string().as_bytes()).expect("a set");
        assert_eq!(set.keys.len(), 1);
        assert!(KeySet::parse(json!({ "keys": ignored }).to_string().as_bytes()).is_err());
    }

    #[test]
    fn evil_sets_are_refused_whole() {
        let key = rsa_jwk("k", &RSA);
        let set = |count: usize| json!({ "keys": vec![key.clone(); count] }).to_string();
        assert!(KeySet::parse(set(100).as_bytes()).is_ok());
        for bad in [
            set(101),
            set(0),
            "{}".into(),
            "[]".into(),
            r#"{"keys":{}}"#.into(),
            r#"{"keys":[],"keys":[]}"#.into(),
        ] {
            assert!(KeySet::parse(bad.as_bytes()).is_err(), "{bad:.40}");
        }
    }

    #[test]
    fn a_missing_kid_finds_an_only_key() {
        let one =
            KeySet::parse(json!({ "keys": [rsa_jwk("k", &RSA)] }).to_string().as_bytes()).expect("a set");
        assert_eq!(one.find(None).len(), 1);
        assert_eq!(one.find(Some("other")).len(), 0);
    }
}
