//! Signing keys (RFC 7517), and verification of signatures.

use aws_lc_rs::digest;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P384_SHA384_FIXED, ED25519, RSA_PKCS1_2048_8192_SHA256,
    RSA_PKCS1_2048_8192_SHA384, RSA_PKCS1_2048_8192_SHA512, RSA_PSS_2048_8192_SHA256,
    RSA_PSS_2048_8192_SHA384, RSA_PSS_2048_8192_SHA512, RsaPublicKeyComponents, UnparsedPublicKey,
    VerificationAlgorithm,
};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Map, Value};

use super::json::Object;

/// Most keys in a set; more are a mistake or an attack.
const MAX_KEYS: usize = 100;
/// Most keys of one id that a signature is tried with. Each costs a calculation over the whole token.
const MAX_OF_ONE_ID: usize = 8;
const NO_USABLE_KEY: &str = "the key set has no key that can be used";

/// The accepted signature algorithms. `none` and the symmetric ones are not among them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Algorithm {
    /// RSA, PKCS #1 v1.5, with SHA-256.
    Rs256,
    /// RSA, PKCS #1 v1.5, with SHA-384.
    Rs384,
    /// RSA, PKCS #1 v1.5, with SHA-512.
    Rs512,
    /// RSA-PSS with SHA-256.
    Ps256,
    /// RSA-PSS with SHA-384.
    Ps384,
    /// RSA-PSS with SHA-512.
    Ps512,
    /// ECDSA on P-256 with SHA-256.
    Es256,
    /// ECDSA on P-384 with SHA-384.
    Es384,
    /// With Ed25519.
    EdDsa,
}

impl Algorithm {
    /// All algorithms.
    pub const ALL: [Algorithm; 9] = [
        Algorithm::Rs256,
        Algorithm::Rs384,
        Algorithm::Rs512,
        Algorithm::Ps256,
        Algorithm::Ps384,
        Algorithm::Ps512,
        Algorithm::Es256,
        Algorithm::Es384,
        Algorithm::EdDsa,
    ];

    /// Finds the algorithm of this name (RFC 7518 §3.1).
    pub fn parse(name: &str) -> Option<Self> {
        if name == "Ed25519" {
            return Some(Algorithm::EdDsa); // its newer name (RFC 9864)
        }
        Algorithm::ALL.into_iter().find(|algorithm| algorithm.as_str() == name)
    }

    /// Its name.
    pub fn as_str(self) -> &'static str {
        match self {
            Algorithm::Rs256 => "RS256",
            Algorithm::Rs384 => "RS384",
            Algorithm::Rs512 => "RS512",
            Algorithm::Ps256 => "PS256",
            Algorithm::Ps384 => "PS384",
            Algorithm::Ps512 => "PS512",
            Algorithm::Es256 => "ES256",
            Algorithm::Es384 => "ES384",
            Algorithm::EdDsa => "EdDSA",
        }
    }

    /// Returns the digest for hashes of tokens (`at_hash`; OpenID Connect Core §3.1.3.6; for Ed25519 its
    /// inner digest).
    pub fn digest(self) -> &'static digest::Algorithm {
        match self {
            Algorithm::Rs256 | Algorithm::Ps256 | Algorithm::Es256 => &digest::SHA256,
            Algorithm::Rs384 | Algorithm::Ps384 | Algorithm::Es384 => &digest::SHA384,
            Algorithm::Rs512 | Algorithm::Ps512 | Algorithm::EdDsa => &digest::SHA512,
        }
    }
}

/// Public half of a key.
enum Material {
    Rsa {
        n: Vec<u8>,
        e: Vec<u8>,
    },
    /// Uncompressed point on P-256.
    P256(Vec<u8>),
    /// Uncompressed point on P-384.
    P384(Vec<u8>),
    Ed25519(Vec<u8>),
}

/// One key of an issuer.
pub struct Key {
    kid: Option<String>,
    algorithm: Option<String>,
    material: Material,
    /// Entra: the issuer it may sign for; a template or one tenant's.
    pub issuer: Option<String>,
    /// Entra: the cloud it belongs to.
    pub cloud_instance_name: Option<String>,
}

impl Key {
    /// Returns true if the key signed `message`; false for a key of another kind than the algorithm.
    pub fn verifies(&self, algorithm: Algorithm, message: &[u8], signature: &[u8]) -> bool {
        // A key for an unknown algorithm verifies nothing.
        if self.algorithm.as_deref().is_some_and(|own| Algorithm::parse(own) != Some(algorithm)) {
            return false;
        }
        let rsa = match algorithm {
            Algorithm::Rs256 => Some(&RSA_PKCS1_2048_8192_SHA256),
            Algorithm::Rs384 => Some(&RSA_PKCS1_2048_8192_SHA384),
            Algorithm::Rs512 => Some(&RSA_PKCS1_2048_8192_SHA512),
            Algorithm::Ps256 => Some(&RSA_PSS_2048_8192_SHA256),
            Algorithm::Ps384 => Some(&RSA_PSS_2048_8192_SHA384),
            Algorithm::Ps512 => Some(&RSA_PSS_2048_8192_SHA512),
            Algorithm::Es256 | Algorithm::Es384 | Algorithm::EdDsa => None,
        };
        let scheme: &'static dyn VerificationAlgorithm = match (&self.material, algorithm, rsa) {
            (Material::Rsa { n, e }, _, Some(rsa)) => {
                return RsaPublicKeyComponents { n, e }.verify(rsa, message, signature).is_ok();
            }
            (Material::P256(_), Algorithm::Es256, _) => &ECDSA_P256_SHA256_FIXED,
            (Material::P384(_), Algorithm::Es384, _) => &ECDSA_P384_SHA384_FIXED,
            (Material::Ed25519(_), Algorithm::EdDsa, _) => &ED25519,
            _ => return false,
        };
        let (Material::P256(key) | Material::P384(key) | Material::Ed25519(key)) = &self.material else {
            return false;
        };
        UnparsedPublicKey::new(scheme, key).verify(message, signature).is_ok()
    }
}

/// The usable keys.
pub struct KeySet {
    keys: Vec<Key>,
}

impl KeySet {
    /// Parses a key set and leaves out keys of unused kinds. `Err` says in our words what is wrong.
    ///
    /// # Errors
    /// It is no key set, has more than 100 keys, or none that can be used.
    pub fn parse(bytes: &[u8]) -> Result<Self, String> {
        let set = KeySet::parse_even_empty(bytes)?;
        if set.keys.is_empty() {
            return Err(NO_USABLE_KEY.to_owned());
        }
        Ok(set)
    }

    /// The same, but an issuer may also have no key that can be used, such as `"keys": []`: so it withdraws
    /// all that it had.
    ///
    /// # Errors
    /// It is no key set, or has more than 100 keys.
    pub fn parse_even_empty(bytes: &[u8]) -> Result<Self, String> {
        let document = Object::parse(bytes)?;
        let Some(Value::Array(keys)) = document.0.get("keys") else {
            return Err("the key set has no list of keys".to_owned());
        };
        if keys.len() > MAX_KEYS {
            return Err(format!("the key set has more than {MAX_KEYS} keys"));
        }
        Ok(KeySet { keys: keys.iter().filter_map(Value::as_object).filter_map(key).collect() })
    }

    /// Returns true if there is no key.
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// Adds another set's keys.
    #[must_use]
    pub fn and(mut self, more: KeySet) -> Self {
        self.keys.extend(more.keys);
        self
    }

    /// Returns the keys with this id; without an id, the key if there is only one (OpenID Connect Core
    /// §10.1).
    pub fn find(&self, kid: Option<&str>) -> Vec<&Key> {
        match kid {
            Some(kid) => {
                let of_id = self.keys.iter().filter(|key| key.kid.as_deref() == Some(kid));
                of_id.take(MAX_OF_ONE_ID).collect()
            }
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
            // An exponent of 1, or an even one, would accept any signature.
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
        "EC" => {
            let (size, material): (usize, fn(Vec<u8>) -> Material) = match text("crv")? {
                "P-256" => (32, Material::P256),
                "P-384" => (48, Material::P384),
                _ => return None,
            };
            let (x, y) = (bytes("x")?, bytes("y")?);
            if x.len() != size || y.len() != size {
                return None;
            }
            material([&[4][..], &x, &y].concat())
        }
        "OKP" if text("crv")? == "Ed25519" => Material::Ed25519(bytes("x").filter(|x| x.len() == 32)?),
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
    use crate::jwt::testing::{P256, RSA, b64, p256_jwk, rsa_jwk};

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
            with(p256_jwk("x", &P256), "crv", json!("secp256k1")),
            json!({ "kty": "OKP", "crv": "Ed25519", "x": b64([1; 31]) }),
            json!({ "kty": "OKP", "crv": "X25519", "x": b64([1; 32]) }),
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
        let many = json!({ "keys": vec![rsa_jwk("k", &RSA); 100] }).to_string();
        let many = KeySet::parse(many.as_bytes()).expect("a set");
        assert_eq!(many.find(Some("k")).len(), MAX_OF_ONE_ID, "a signature is tried with a few");
    }
}
