//! What callers prove who they are with: API keys, certificates, JWTs, the user of a Unix socket. And the
//! configuration that knows them.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use serde_json::json;
use tokenward::callers::key_file;
use tokenward::domain::id::CallerName;
use tokenward::domain::time::Clock;
use tokenward::system::{SystemClock, SystemRandom};
use tokenward::telemetry::audit::{SigningKey, VerifyingKey};
use tokio_rustls::TlsConnector;

use crate::doors::{DOORS, Door};
use crate::pki::{Authority, Identity, Leaf, connector, server};
use crate::tokens::{P256, jwt, p256_jwk};
use crate::world::now;

/// How a caller proves who it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Proof {
    /// An API key.
    ApiKey,
    /// The user at the other end of a Unix socket.
    UnixUser,
    /// A certificate with a SPIFFE id.
    Spiffe,
    /// A certificate with a DNS name.
    San,
    /// A JWT of an issuer.
    Jwt,
    /// A JWT that the caller signs for each request.
    ClientAssertion,
    /// Nothing that is known: a key of nobody.
    Nothing,
}

impl Proof {
    /// The audit's word for it.
    pub fn method(self) -> Option<&'static str> {
        match self {
            Proof::ApiKey => Some("api_keys"),
            Proof::UnixUser => Some("unix_user"),
            Proof::Spiffe => Some("spiffe"),
            Proof::San => Some("san"),
            Proof::Jwt => Some("jwt"),
            Proof::ClientAssertion => Some("client_assertion"),
            Proof::Nothing => None,
        }
    }
}

/// The daemons' own issuer, for which clients sign.
const TOKENWARD: &str = "https://tokens.soak.example";
const ISSUER: &str = "https://cluster.soak.example";
const SUBJECT: &str = "system:serviceaccount:soak:pod";
const SPIFFE_ID: &str = "spiffe://soak.example/mesh";
const SAN: &str = "host.soak.example";
/// Every assertion is another one.
static ASSERTIONS: AtomicU64 = AtomicU64::new(1);
/// A key of nobody, in the form of a key.
const OF_NOBODY: &str = "twk_mail-sync_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA_00000000";
/// The caller that signs.
pub(crate) const SIGNER: &str = "signer";
/// Callers whose rule is another than everybody's.
const NARROW: &str = "narrow";
const EAGER: &str = "eager";

/// The callers' credentials.
pub struct Access {
    /// API keys, by caller.
    keys: BTreeMap<String, String>,
    /// Clients with a certificate, by caller.
    tls: BTreeMap<&'static str, TlsConnector>,
    /// The public half of the key with which the daemons sign their audit.
    pub audit_key: VerifyingKey,
}

/// The file of the key with which the daemons sign their audit.
pub const AUDIT_KEY: &str = "audit-signing.pem";

impl Access {
    /// Makes all of it, with the files that the daemons read, in a folder. `more` are callers beside those of
    /// the doors.
    ///
    /// # Errors
    /// When a file cannot be written.
    pub fn make<'a>(folder: &Path, more: impl Iterator<Item = &'a str>) -> io::Result<Self> {
        let with_keys = DOORS.iter().filter(|door| door.proof == Proof::ApiKey).map(|door| door.caller);
        let with_keys: BTreeSet<&str> = with_keys.chain(more).collect();
        let mut keys = BTreeMap::new();
        for caller in with_keys {
            keys.insert(caller.to_owned(), new_key(&folder.join(format!("{caller}.keys")), caller)?);
        }
        let (servers, callers) = (Authority::root("servers", 48), Authority::root("callers", 48));
        let Identity { chain, key } = server(&servers);
        write(&folder.join("server.pem"), &chain)?;
        write(&folder.join("server.key"), &key)?;
        write(&folder.join("callers-ca.pem"), &callers.pem())?;
        write(&folder.join("jwks.json"), &json!({ "keys": [p256_jwk("soak", &P256)] }).to_string())?;
        let shows = |leaf: Leaf| connector(&servers.pem(), Some(&callers.issue(leaf)));
        // (The same key pair signs for the issuer and for the caller.)
        write(&folder.join("signer.jwks"), &json!({ "keys": [p256_jwk("soak", &P256)] }).to_string())?;
        let tls = BTreeMap::from([
            ("mesh", shows(Leaf::new().uri(SPIFFE_ID))),
            ("host", shows(Leaf::new().dns(SAN))),
        ]);
        let (signing, pem) = SigningKey::make().map_err(io::Error::other)?;
        write(&folder.join(AUDIT_KEY), &pem)?;
        let audit_key = VerifyingKey::read(signing.public_pem().as_bytes()).map_err(io::Error::other)?;
        Ok(Access { keys, tls, audit_key })
    }

    /// A caller's API key.
    ///
    /// # Panics
    /// When it has none.
    pub fn key(&self, caller: &str) -> &str {
        self.keys.get(caller).expect("a caller with an API key")
    }

    /// What a caller sends at this door.
    pub fn secret(&self, door: &Door) -> String {
        match door.proof {
            Proof::ApiKey => self.key(door.caller).to_owned(),
            Proof::Jwt => {
                let seconds = now() / 1000;
                let claims = json!({
                    "iss": ISSUER, "aud": ["tokenward"], "sub": SUBJECT, "exp": seconds + 600,
                    "iat": seconds - 5, "nbf": seconds - 5,
                });
                jwt(&json!({ "alg": "ES256", "kid": "soak", "typ": "JWT" }), &claims)
            }
            Proof::ClientAssertion => {
                let (seconds, number) = (now() / 1000, ASSERTIONS.fetch_add(1, Ordering::Relaxed));
                let claims = json!({
                    "iss": SIGNER, "sub": SIGNER, "aud": TOKENWARD, "exp": seconds + 60, "iat": seconds,
                    "jti": number.to_string(),
                });
                jwt(&json!({ "alg": "ES256", "kid": "soak", "typ": "JWT" }), &claims)
            }
            Proof::Nothing => OF_NOBODY.to_owned(),
            Proof::UnixUser | Proof::Spiffe | Proof::San => String::new(),
        }
    }

    /// The TLS client of a caller with a certificate.
    pub fn tls(&self, caller: &str) -> Option<&TlsConnector> {
        self.tls.get(caller)
    }
}

/// The sections of the doors' callers and of the listeners that they need, with the files of `folder`.
pub fn sections(folder: &str, tls: SocketAddr) -> String {
    let mut text = format!(
        "[listen]\nissuer = \"{TOKENWARD}\"\n[[listen.local]]\nunix = \"local.sock\"\n[[listen.local]]\naddress = \"{tls}\"\n\
         tls = {{ certificate = \"{folder}server.pem\", key = \"{folder}server.key\", client_ca = \"{folder}callers-ca.pem\" }}\n\
         [issuers.cluster]\nissuer = \"{ISSUER}\"\naudience = \"tokenward\"\n\
         jwks_file = \"{folder}jwks.json\"\n"
    );
    let callers: BTreeMap<&str, Proof> = DOORS.iter().map(|door| (door.caller, door.proof)).collect();
    // (The first caller connects accounts, too: the world has its section.)
    for (caller, proof) in callers.into_iter().filter(|(caller, _)| !caller.is_empty() && *caller != FIRST) {
        let way = match proof {
            Proof::UnixUser => format!("{{ unix_user = {} }}", rustix::process::getuid().as_raw()),
            Proof::Spiffe => format!("{{ spiffe = \"{SPIFFE_ID}\" }}"),
            Proof::San => format!("{{ san = \"{SAN}\" }}"),
            Proof::Jwt => format!("{{ jwt = {{ issuer = \"cluster\", subject = \"{SUBJECT}\" }} }}"),
            Proof::ClientAssertion => {
                format!("{{ client_assertion = {{ jwks_file = \"{folder}signer.jwks\" }} }}")
            }
            Proof::ApiKey | Proof::Nothing => format!("{{ api_keys = \"{folder}{caller}.keys\" }}"),
        };
        let rate = if caller == EAGER { "rate_limit = 1\n" } else { "" };
        let scopes = if caller == NARROW { "\"User.Read\"" } else { "\"*\"" };
        text += &format!(
            "[callers.{caller}]\n{rate}authenticate = [{way}]\n[[callers.{caller}.allow]]\n\
             app = \"outlook\"\nconnections = [\"*\"]\nbulk = true\nscopes = [{scopes}]\napp_only = [\"home\"]\n"
        );
    }
    text
}

/// The caller of the native API that connects accounts.
pub const FIRST: &str = "mail-sync";

/// Makes an API key of a caller's.
fn new_key(path: &Path, caller: &str) -> io::Result<String> {
    let caller = CallerName::parse(caller).map_err(io::Error::other)?;
    let month = Duration::from_secs(30 * 86_400);
    let (random, now) = (SystemRandom::new(), SystemClock::new().now());
    let (key, _) = key_file::add(path, &caller, &random, now, month).map_err(io::Error::other)?;
    Ok(key.expose().to_owned())
}

fn write(path: &Path, content: &str) -> io::Result<()> {
    fs::write(path, content)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o600))
}
