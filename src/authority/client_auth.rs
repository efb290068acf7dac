//! Client authentication at the token endpoint: with a secret, a certificate's key, or another issuer's
//! assertion.
//!
//! An app has several credentials. `credential_set` chooses one and handles rejections; this file turns the
//! chosen one into form fields or a header, for each request.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::KeyPair as RsaKeyPair;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, RSA_PKCS1_SHA256,
    RSA_PSS_2048_8192_SHA256, RSA_PSS_SHA256, UnparsedPublicKey,
};
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use serde_json::{Value, json};
use zeroize::Zeroizing;

use super::clouds::Provider;
use super::discovery::Metadata;
use crate::domain::random::{Random, random_bytes};
use crate::domain::secret::ClientSecret;
use crate::domain::task::BoxFuture;
use crate::domain::text::is_guid;
use crate::domain::time::{Clock, Timestamp};
use crate::jwt::json::Object;
use crate::jwt::keys::Algorithm;
use crate::secret_file::guarded::{Guard, Unread};

/// Life of an assertion that we sign: short, since it serves one request.
const ASSERTION_LIFE: Duration = Duration::from_secs(300);
/// How far an assertion's `nbf` lies in the past, for an authority whose clock is behind ours.
const ASSERTION_BACKDATED: Duration = Duration::from_secs(60);
/// Longest assertion read from a source, in bytes.
const MAX_ASSERTION: usize = 32 * 1024;
/// RFC 7523 §2.2.
const ASSERTION_TYPE: &str = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer";

/// Source of another issuer's assertion. It is read for every request, so that a renewed one is used at once.
pub trait AssertionSource: Send + Sync {
    /// Reads the present assertion. `Err` says what is wrong with the source, never what it contains.
    fn read(&self) -> BoxFuture<'_, Result<Zeroizing<String>, String>>;

    /// Identifies the source: another source is another credential.
    fn place(&self) -> String {
        String::new()
    }
}

/// An assertion in a file that another program renews, such as a projected service-account token.
#[derive(Debug, Clone)]
pub struct AssertionFile {
    path: PathBuf,
    guard: Guard,
}

impl AssertionFile {
    /// Uses this file, if `guard` trusts it.
    pub fn new(path: &Path, guard: Guard) -> Self {
        AssertionFile { path: path.to_owned(), guard }
    }
}

impl AssertionSource for AssertionFile {
    fn read(&self) -> BoxFuture<'_, Result<Zeroizing<String>, String>> {
        let AssertionFile { path, guard } = self.clone();
        Box::pin(async move {
            let read = move || {
                guard.read(&path, MAX_ASSERTION + 1).map_err(|error| match error {
                    Unread::Io { source, .. } => format!("the file cannot be read: {}", source.kind()),
                    Unread::Loose(loose) => loose.to_string(),
                })
            };
            let read = tokio::task::spawn_blocking(read).await;
            let bytes = Zeroizing::new(read.map_err(|_| "the file could not be read".to_owned()).flatten()?);
            if bytes.len() > MAX_ASSERTION {
                return Err("the file is too long".to_owned());
            }
            let text = std::str::from_utf8(&bytes).map_err(|_| "the file is not text".to_owned())?;
            Ok(Zeroizing::new(text.trim().to_owned()))
        })
    }

    fn place(&self) -> String {
        self.path.display().to_string()
    }
}

/// Fault of a certificate or its key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CertificateFault {
    /// The PEM text has no readable certificate.
    #[error("holds no readable PEM certificate")]
    NoCertificate,
    /// The PEM text has no readable private key; an encrypted one is not readable.
    #[error("holds no readable, unencrypted PEM private key")]
    NoKey,
    /// The key is neither RSA of 2048 to 8192 bits nor on P-256.
    #[error("holds a key that is neither RSA of 2048 to 8192 bits nor on P-256")]
    KeyKind,
    /// The key does not belong to any of the certificates.
    #[error("holds a key that does not belong to its certificate")]
    NoMatch,
}

/// One client credential. Like its secret, it has no `Debug`.
pub struct ClientCredential {
    id: String,
    kind: Kind,
    /// As configured.
    expires_at: Option<Timestamp>,
}

enum Kind {
    Secret(ClientSecret),
    Certificate(Box<SigningCertificate>),
    Federated(Arc<dyn AssertionSource>),
}

impl ClientCredential {
    /// Makes a client secret from the value that the authority showed once, not from the secret's id.
    pub fn secret(id: impl Into<String>, secret: ClientSecret) -> Self {
        ClientCredential { id: id.into(), kind: Kind::Secret(secret), expires_at: None }
    }

    /// Makes a certificate credential from a certificate and its private key, both in `pem`. The key is
    /// checked against the certificate.
    pub fn certificate(id: impl Into<String>, pem: &[u8]) -> Result<Self, CertificateFault> {
        let certificate = SigningCertificate::parse(pem)?;
        Ok(ClientCredential {
            id: id.into(),
            kind: Kind::Certificate(Box::new(certificate)),
            expires_at: None,
        })
    }

    /// Makes a credential from another issuer's assertion, trusted by the registration.
    pub fn federated(id: impl Into<String>, source: Arc<dyn AssertionSource>) -> Self {
        ClientCredential { id: id.into(), kind: Kind::Federated(source), expires_at: None }
    }

    /// Sets the expiry that the operator configured. (A certificate has its own.)
    #[must_use]
    pub fn expiring(mut self, at: Option<Timestamp>) -> Self {
        self.expires_at = at;
        self
    }

    /// Returns the operator's name for it.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Returns `secret`, `certificate` or `federated`.
    pub fn kind(&self) -> &'static str {
        match self.kind {
            Kind::Secret(_) => "secret",
            Kind::Certificate(_) => "certificate",
            Kind::Federated(_) => "federated",
        }
    }

    /// Returns true if a receiver can use it elsewhere. An assertion signed by a certificate for one endpoint
    /// is useless at any other.
    pub(super) fn is_bearer(&self, audience: &AssertionAudience) -> bool {
        match self.kind {
            Kind::Secret(_) | Kind::Federated(_) => true,
            Kind::Certificate(_) => *audience != AssertionAudience::TokenEndpoint,
        }
    }

    /// Returns true for a secret that is a GUID. At Entra that is a secret's ID, and no secret's value.
    pub fn is_guid(&self) -> bool {
        match &self.kind {
            Kind::Secret(secret) => is_guid(secret.expose().trim().trim_matches(['"', '\''])),
            Kind::Certificate(_) | Kind::Federated(_) => false,
        }
    }

    /// Returns true for a secret, which can be sent by two methods.
    pub(super) fn is_secret(&self) -> bool {
        matches!(self.kind, Kind::Secret(_))
    }

    /// Returns its expiry: a certificate has one, and the operator may configure the others'.
    pub fn expires_at(&self) -> Option<Timestamp> {
        match &self.kind {
            Kind::Certificate(certificate) => Some(certificate.not_after),
            Kind::Secret(_) | Kind::Federated(_) => self.expires_at,
        }
    }

    /// Returns the start of its validity, if known.
    pub fn valid_from(&self) -> Option<Timestamp> {
        match &self.kind {
            Kind::Certificate(certificate) => Some(certificate.not_before),
            Kind::Secret(_) | Kind::Federated(_) => None,
        }
    }

    /// Identifies its content. The hash leaves this process only sealed.
    pub fn fingerprint(&self) -> [u8; 32] {
        let hash = match &self.kind {
            Kind::Secret(secret) => digest(&SHA256, secret.expose().as_bytes()),
            Kind::Certificate(certificate) => digest(&SHA256, certificate.thumbprint.as_bytes()),
            Kind::Federated(source) => digest(&SHA256, source.place().as_bytes()),
        };
        let mut fingerprint = [0; 32];
        fingerprint.copy_from_slice(hash.as_ref());
        fingerprint
    }
}

/// Client authentication method for a secret (RFC 6749 §2.3.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SecretMethod {
    /// In the form: `client_secret_post`.
    Post,
    /// In the `Authorization` header: `client_secret_basic`.
    Basic,
}

impl SecretMethod {
    /// Guesses the method. An unspecified registration means `client_secret_basic` (OpenID Connect
    /// Registration 1.0 §2), so that is the guess unless the document rules it out. Entra accepts both: there
    /// the guess is the form, which Microsoft's own libraries use and which cannot be decoded in two ways.
    pub(super) fn guess(provider: Provider, metadata: &Metadata) -> SecretMethod {
        let lists = |word: &str| {
            let methods = metadata.token_auth_methods.as_ref();
            methods.is_some_and(|methods| methods.iter().any(|method| method == word))
        };
        let is_ruled_out = lists(SecretMethod::Post.as_str()) && !lists(SecretMethod::Basic.as_str());
        if provider == Provider::Entra || is_ruled_out { SecretMethod::Post } else { SecretMethod::Basic }
    }

    /// Returns the other method.
    pub(super) fn other(self) -> SecretMethod {
        match self {
            SecretMethod::Post => SecretMethod::Basic,
            SecretMethod::Basic => SecretMethod::Post,
        }
    }

    /// Returns its name in discovery documents and in the configuration.
    pub fn as_str(self) -> &'static str {
        match self {
            SecretMethod::Post => "client_secret_post",
            SecretMethod::Basic => "client_secret_basic",
        }
    }
}

/// Audience of an assertion that we sign: a single value, never a list.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum AssertionAudience {
    /// The token endpoint, from the pinned document (RFC 7523 §3; Entra's certificate credentials).
    #[default]
    TokenEndpoint,
    /// The authority's issuer (draft-ietf-oauth-rfc7523bis).
    Issuer,
    /// A URL that the provider names.
    Url(String),
}

/// Parameters of a proof.
pub(super) struct Proving<'a> {
    pub(super) client_id: &'a str,
    pub(super) provider: Provider,
    pub(super) metadata: &'a Metadata,
    /// The assertion's only audience.
    pub(super) audience: &'a str,
    /// The method for a secret.
    pub(super) secret_method: SecretMethod,
    pub(super) clock: &'a dyn Clock,
    pub(super) random: &'a dyn Random,
}

/// Proof for one request, in either the header or the fields.
#[derive(Default)]
pub(super) struct Proof {
    /// Value of `Authorization`.
    pub(super) authorization: Option<Zeroizing<String>>,
    /// Form fields besides `client_id`.
    pub(super) fields: Vec<(&'static str, Zeroizing<String>)>,
    /// True if the form needs `client_id`; `Authorization` names it already.
    pub(super) client_id_in_form: bool,
}

impl ClientCredential {
    /// Makes the proof for one request. `Err` says in our words why this credential cannot be used now.
    pub(super) async fn prove(&self, proving: &Proving<'_>) -> Result<Proof, String> {
        let assertion = match &self.kind {
            Kind::Secret(secret) => return Ok(prove_by_secret(secret, proving)),
            Kind::Certificate(certificate) => certificate.assertion(proving)?,
            Kind::Federated(source) => {
                let assertion = source.read().await?;
                check_assertion(&assertion, proving.clock.now())?;
                assertion
            }
        };
        let fields = vec![
            ("client_assertion_type", Zeroizing::new(ASSERTION_TYPE.to_owned())),
            ("client_assertion", assertion),
        ];
        Ok(Proof { authorization: None, fields, client_id_in_form: true })
    }
}

fn prove_by_secret(secret: &ClientSecret, proving: &Proving<'_>) -> Proof {
    match proving.secret_method {
        SecretMethod::Post => Proof {
            authorization: None,
            fields: vec![("client_secret", Zeroizing::new(secret.expose().to_owned()))],
            client_id_in_form: true,
        },
        SecretMethod::Basic => {
            // Both halves are form-urlencoded first (RFC 6749 §2.3.1); otherwise a colon in one would move
            // the border.
            let encode = |text: &str| -> Zeroizing<String> {
                Zeroizing::new(form_urlencoded::byte_serialize(text.as_bytes()).collect())
            };
            let pair = Zeroizing::new(format!("{}:{}", *encode(proving.client_id), *encode(secret.expose())));
            let encoded = Zeroizing::new(STANDARD.encode(pair.as_bytes()));
            Proof {
                authorization: Some(Zeroizing::new(format!("Basic {}", *encoded))),
                fields: Vec::new(),
                client_id_in_form: false,
            }
        }
    }
}

/// Checks another issuer's assertion before it is sent: it must be a JWT with a future `exp`. The authority
/// checks the signature.
fn check_assertion(assertion: &str, now: Timestamp) -> Result<(), String> {
    let parts: Vec<&str> = assertion.split('.').collect();
    let [_, claims, _] = parts[..] else { return Err("the assertion is not a JWT".to_owned()) };
    let claims =
        URL_SAFE_NO_PAD.decode(claims).map(Zeroizing::new).map_err(|_| "the assertion is not a JWT")?;
    let claims = Object::parse(&claims).map_err(|_| "the assertion is not a JWT")?;
    let exp = claims.0.get("exp").and_then(Value::as_i64).ok_or("the assertion has no exp")?;
    if Timestamp::from_unix_seconds(exp) <= now {
        return Err("the assertion has expired and was not renewed".to_owned());
    }
    Ok(())
}

/// A certificate and the private key that belongs to it.
struct SigningCertificate {
    key: SigningKey,
    /// Base64url of the SHA-256 of the certificate: `x5t#S256` (RFC 7515 §4.1.8).
    thumbprint: String,
    not_before: Timestamp,
    not_after: Timestamp,
}

enum SigningKey {
    Rsa(RsaKeyPair),
    P256(EcdsaKeyPair),
}

impl SigningCertificate {
    fn parse(pem: &[u8]) -> Result<Self, CertificateFault> {
        let key = PrivateKeyDer::from_pem_slice(pem).map_err(|_| CertificateFault::NoKey)?;
        let key = Zeroizing::new(key.secret_der().to_vec());
        let key = SigningKey::parse(&key)?;
        let mut fault = CertificateFault::NoCertificate;
        for certificate in CertificateDer::pem_slice_iter(pem) {
            let Ok(der) = certificate else { return Err(CertificateFault::NoCertificate) };
            let Ok((_, parsed)) = x509_parser::parse_x509_certificate(&der) else { continue };
            if !key.belongs_to(&parsed.public_key().subject_public_key.data) {
                fault = CertificateFault::NoMatch;
                continue;
            }
            return Ok(SigningCertificate {
                key,
                thumbprint: URL_SAFE_NO_PAD.encode(digest(&SHA256, &der)),
                not_before: Timestamp::from_unix_seconds(parsed.validity().not_before.timestamp()),
                not_after: Timestamp::from_unix_seconds(parsed.validity().not_after.timestamp()),
            });
        }
        Err(fault)
    }

    /// Makes a new assertion (RFC 7523 §3; Entra's certificate credentials).
    fn assertion(&self, proving: &Proving<'_>) -> Result<Zeroizing<String>, String> {
        let algorithm = self.key.algorithm(proving)?;
        let now = proving.clock.now();
        let header = json!({ "alg": algorithm.as_str(), "typ": "JWT", "x5t#S256": self.thumbprint });
        let claims = json!({
            "iss": proving.client_id,
            "sub": proving.client_id,
            "aud": proving.audience,
            "jti": URL_SAFE_NO_PAD.encode(random_bytes::<16>(proving.random)),
            "iat": now.unix_seconds(),
            "nbf": now.minus(ASSERTION_BACKDATED).unix_seconds(),
            "exp": now.plus(ASSERTION_LIFE).unix_seconds(),
        });
        let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let message = format!("{}.{}", part(&header), part(&claims));
        let signature = self.key.sign(algorithm, message.as_bytes())?;
        Ok(Zeroizing::new(format!("{message}.{}", URL_SAFE_NO_PAD.encode(signature))))
    }
}

impl SigningKey {
    fn parse(der: &[u8]) -> Result<Self, CertificateFault> {
        if let Ok(key) = RsaKeyPair::from_pkcs8(der).or_else(|_| RsaKeyPair::from_der(der)) {
            return match key.public_modulus_len() {
                256..=1024 => Ok(SigningKey::Rsa(key)),
                _ => Err(CertificateFault::KeyKind),
            };
        }
        EcdsaKeyPair::from_private_key_der(&ECDSA_P256_SHA256_FIXED_SIGNING, der)
            .map(SigningKey::P256)
            .map_err(|_| CertificateFault::KeyKind)
    }

    /// Signs a sample and verifies it with the certificate's key.
    fn belongs_to(&self, public_key: &[u8]) -> bool {
        let probe = b"tokenward";
        let algorithm = match self {
            SigningKey::Rsa(_) => Algorithm::Ps256,
            SigningKey::P256(_) => Algorithm::Es256,
        };
        let Ok(signature) = self.sign(algorithm, probe) else { return false };
        match self {
            SigningKey::Rsa(_) => UnparsedPublicKey::new(&RSA_PSS_2048_8192_SHA256, public_key)
                .verify(probe, &signature)
                .is_ok(),
            SigningKey::P256(_) => {
                UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, public_key).verify(probe, &signature).is_ok()
            }
        }
    }

    /// Chooses PS256 for an RSA key, as Entra requires; RS256 only for an authority whose document omits
    /// PS256.
    fn algorithm(&self, proving: &Proving<'_>) -> Result<Algorithm, String> {
        let takes = |algorithm: Algorithm| match &proving.metadata.token_auth_algorithms {
            Some(names) => names.iter().any(|name| name == algorithm.as_str()),
            None => true,
        };
        match self {
            SigningKey::Rsa(_) if proving.provider == Provider::Entra => Ok(Algorithm::Ps256),
            SigningKey::Rsa(_) if takes(Algorithm::Ps256) => Ok(Algorithm::Ps256),
            SigningKey::Rsa(_) if takes(Algorithm::Rs256) => Ok(Algorithm::Rs256),
            SigningKey::P256(_) if proving.provider == Provider::OpenId && takes(Algorithm::Es256) => {
                Ok(Algorithm::Es256)
            }
            _ => Err("the authority takes no assertion signed with this kind of key".to_owned()),
        }
    }

    /// Signs. aws-lc takes a PSS salt and an ECDSA nonce from its own generator, so signatures do not replay.
    fn sign(&self, algorithm: Algorithm, message: &[u8]) -> Result<Vec<u8>, String> {
        let random = SystemRandom::new();
        let failed = |_| "signing failed".to_owned();
        match (self, algorithm) {
            (SigningKey::Rsa(key), Algorithm::Ps256 | Algorithm::Rs256) => {
                let mut signature = vec![0; key.public_modulus_len()];
                match algorithm {
                    Algorithm::Rs256 => key.sign(&RSA_PKCS1_SHA256, &random, message, &mut signature),
                    _ => key.sign(&RSA_PSS_SHA256, &random, message, &mut signature),
                }
                .map_err(failed)?;
                Ok(signature)
            }
            (SigningKey::P256(key), Algorithm::Es256) => {
                Ok(key.sign(&random, message).map_err(failed)?.as_ref().to_vec())
            }
            _ => Err("the key is of another kind than the algorithm".to_owned()),
        }
    }
}
