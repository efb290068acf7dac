//! Authentication: the internal services that may use the local API, and how each proves its identity.
//! (The listener verifies a client certificate; here its names find their caller.)
//!
//! May know: `domain`, `policy`, `keyring`, `jwt`, `flight`, `secret_file` and the file system (only for key
//! files), aws-lc-rs, tracing. It knows no HTTP, store or authority.
//!
//! Invariants:
//! 1. An explicit credential decides alone: a bad API key on a Unix socket or beside a client certificate is
//!    refused, and the peer is not taken instead.
//! 2. An API key is never stored, only its hash, from which nobody finds 256 random bits (B9).
//! 3. An unknown caller, an unknown key and a wrong key cost the same work and look the same outside (B3,
//!    B9).
//! 4. An unreadable key file changes nothing: the keys read before stay in force. A file counts as missing or
//!    blank only after a second.
//! 5. No thread that serves requests reads a file. A mount that hangs delays at most a request a second, and
//!    none once it is known to hang.
//! 6. Everything here is bounded: the number of buckets, and the size of files and tokens.
//! 7. A JWT is a caller only if its issuer is configured, its signature, audience, times and life satisfy
//!    every rule, and exactly one caller has its subject or claims (B8). A request whose key is held waits
//!    for no fetch, and strangers' tokens cause at most one in five minutes for each issuer (R8).
//! 8. A client's own assertion is for us alone, fresh, and good for one request ([`Once`]; E2).
//!
//! The one hard problem: `callers add-key` and `retire-key` write files while the daemon runs. Therefore a
//! file is replaced as a whole under a lock, and checked once a second and when an unknown key is presented.

pub mod api_key;
pub mod client_assertion;
mod file_check;
mod identities;
pub mod jwt;
pub mod key_file;
mod key_index;
pub mod limit;
#[cfg(any(test, feature = "testkit"))]
pub mod properties;
mod unix_user;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
pub use identities::Identity;
use memchr::memchr;
pub use unix_user::{UnixUser, UnknownUnixUser};

use crate::domain::auth_method::{AuthMethod, AuthMethods};
use crate::domain::certificate_names::CertificateNames;
use crate::domain::handle;
use crate::domain::id::CallerName;
use crate::domain::time::{Clock, Timestamp};
use crate::keyring::{Hashed, Keyring};
use crate::policy::{CallerPolicy, Policies};
use crate::secret_file::SecretReader;
use api_key::PresentedKey;
use client_assertion::{AssertionCallers, ClientAssertion, ClientKey, ClientKeyUse, Once};
use file_check::{Checked, FileCheck};
use identities::Identities;
use jwt::{Issuers, JwtCallers, JwtMatch, JwtRefusal};
use key_file::{KeyFileError, KeyInfo};
use key_index::KeyIndex;

/// How long a request waits for the files of API keys, whose mount may hang.
const FILES_ANSWER_WITHIN: Duration = Duration::from_secs(1);

/// One `[callers.NAME]`, checked.
#[derive(Debug, Clone)]
pub struct CallerSetup {
    /// Its name and what it may do.
    pub policy: CallerPolicy,
    /// The Unix users and the names in client certificates that are this caller.
    pub identities: Vec<Identity>,
    /// The files with the hashes of its API keys.
    pub api_key_files: Vec<PathBuf>,
    /// The tokens of issuers that are this caller.
    pub jwts: Vec<JwtMatch>,
    /// The keys by which it signs its own assertions.
    pub client_keys: Vec<Arc<ClientKey>>,
    /// Token requests a second; bursts may be twice that.
    pub rate_limit: Option<u32>,
    /// The same for any one connection.
    pub connection_rate_limit: Option<u32>,
}

/// An authenticated internal service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    /// Its name.
    pub name: CallerName,
    /// What it may do.
    pub policy: CallerPolicy,
    /// How often it may do it.
    pub limits: Limits,
}

/// Requests allowed a second; `None` means no limit. [`limit::Limiter`] keeps count.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Limits {
    /// For all requests together.
    pub rate_limit: Option<u32>,
    /// For any one connection.
    pub connection_rate_limit: Option<u32>,
}

/// The credential that came with a request.
#[derive(Clone, Copy)]
pub enum Credential<'a> {
    /// The text of an API key, from any place that may hold one.
    ApiKey(&'a str),
    /// The text of a JWT.
    Jwt(&'a str),
    /// The text of a handle. It is no caller's credential: the relay alone looks into it.
    Handle(&'a str),
    /// The user at the other end of a Unix socket, as the kernel reports it.
    UnixPeer {
        /// The user's number.
        uid: u32,
    },
    /// The names in a client certificate that the listener has verified.
    Certificate(&'a CertificateNames),
    /// A client certificate that was verified when the connection began and is not trusted any more.
    DistrustedCertificate,
    /// No credential.
    None,
}

impl<'a> Credential<'a> {
    /// Returns what a bearer credential is by its form: a JWT has dots, and an API key never has one.
    pub fn bearer(text: &'a str) -> Self {
        if text.starts_with(handle::PREFIX) {
            return Credential::Handle(text);
        }
        if memchr(b'.', text.as_bytes()).is_some() { Credential::Jwt(text) } else { Credential::ApiKey(text) }
    }
}

/// A caller, and how it proved that it is this one.
#[derive(Debug, Clone)]
pub struct Authenticated {
    /// The caller.
    pub caller: Arc<Caller>,
    /// The proof.
    pub method: AuthMethod,
}

/// Reason why authentication failed. The response is 401 in every case; only the audit log tells them apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
pub enum AuthenticationFailure {
    /// The request has no credential.
    #[error("no credential was presented")]
    Missing,
    /// The text has not the form of a key, or a wrong checksum.
    #[error("what was presented is no API key")]
    Malformed,
    /// No caller has this key, is this Unix user, or has a name of the certificate.
    #[error("no caller has the credential presented")]
    Unknown,
    /// The key has expired.
    #[error("the API key presented has expired")]
    Expired,
    /// The listener does not accept credentials of this kind.
    #[error("the listener does not accept what was presented")]
    NotAccepted,
    /// The handle has expired, or was ended.
    #[error("the handle presented has ended")]
    HandleEnded,
    /// The names in the client certificate are those of several callers.
    #[error("the certificate presented names several callers")]
    Ambiguous,
    /// The client certificate is not trusted any more.
    #[error("the certificate presented is not trusted any more")]
    Distrusted,
    /// The JWT breaks a rule, or is no caller's.
    #[error("the JWT presented is refused by the rule {}", _0.as_str())]
    Jwt(JwtRefusal),
}

impl From<JwtRefusal> for AuthenticationFailure {
    fn from(refusal: JwtRefusal) -> Self {
        AuthenticationFailure::Jwt(refusal)
    }
}

impl AuthenticationFailure {
    /// Its name in the audit log and in metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            AuthenticationFailure::Missing => "missing",
            AuthenticationFailure::Malformed => "malformed",
            AuthenticationFailure::Unknown => "unknown",
            AuthenticationFailure::Expired => "expired",
            AuthenticationFailure::NotAccepted => "not_accepted",
            AuthenticationFailure::HandleEnded => "handle_ended",
            AuthenticationFailure::Ambiguous => "ambiguous",
            AuthenticationFailure::Distrusted => "distrusted",
            AuthenticationFailure::Jwt(refusal) => refusal.as_str(),
        }
    }
}

/// Reason why the callers cannot be taken into service. The configuration is at fault.
#[derive(Debug, thiserror::Error)]
pub enum CallersError {
    /// Two callers have the same name.
    #[error("two callers are named `{caller}`")]
    SameName {
        /// The name.
        caller: CallerName,
    },
    /// One identity would be two callers.
    #[error("{identity} is both `{first}` and `{second}`; it can be one caller only")]
    SameIdentity {
        /// The identity.
        identity: Identity,
        /// The caller that has it.
        first: CallerName,
        /// The caller that wants it too.
        second: CallerName,
    },
    /// A key file cannot be used.
    #[error("caller `{caller}`: {source}")]
    KeyFile {
        /// The caller.
        caller: CallerName,
        /// What is wrong with it.
        source: KeyFileError,
    },
}

/// A key and its last use, for metrics, `list-keys` and `status`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyUse {
    /// The caller.
    pub caller: CallerName,
    /// The key.
    pub key: KeyInfo,
    /// `None` if not used since this process started.
    pub last_used_at: Option<Timestamp>,
}

/// A key file whose newest content is not in force.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyFileProblem {
    /// The caller.
    pub caller: CallerName,
    /// The file.
    pub file: PathBuf,
    /// What is wrong with it.
    pub problem: String,
}

/// What is remembered of a connection's last request, so that the same credential is found faster. It has no
/// secret.
#[derive(Default)]
pub struct Remembered(Option<key_index::Remembered>);

/// The callers now in force; a reload replaces them as a whole.
pub type LiveCallers = Arc<ArcSwap<Callers>>;

impl Policies for ArcSwap<Callers> {
    fn policy_of(&self, caller: &CallerName) -> Option<CallerPolicy> {
        self.load().by_name.get(caller).map(|caller| caller.policy.clone())
    }
}

/// All callers.
pub struct Callers {
    by_name: BTreeMap<CallerName, Arc<Caller>>,
    identities: Identities,
    by_jwt: JwtCallers,
    by_assertion: AssertionCallers,
    keys: KeyIndex,
    file_check: FileCheck,
}

impl Callers {
    /// Reads the callers' key files and takes the callers into service. `issuers` are those of their JWTs.
    ///
    /// # Errors
    /// All mistakes at once, each a [`CallersError`].
    pub fn new(
        setups: Vec<CallerSetup>,
        issuers: &Issuers,
        keyring: Arc<Keyring>,
        secrets: SecretReader,
        now: Timestamp,
    ) -> Result<Self, Vec<CallersError>> {
        let mut errors = Vec::new();
        let mut by_name = BTreeMap::new();
        let mut identities = Identities::default();
        let (mut files, mut jwts) = (Vec::new(), Vec::new());
        let mut by_assertion = AssertionCallers::default();
        for setup in setups {
            let name = setup.policy.caller.clone();
            let limits =
                Limits { rate_limit: setup.rate_limit, connection_rate_limit: setup.connection_rate_limit };
            let caller = Arc::new(Caller { name: name.clone(), policy: setup.policy, limits });
            for identity in setup.identities {
                errors.extend(identities.add(identity, &caller).err());
            }
            by_assertion.add(&caller, setup.client_keys);
            jwts.extend(setup.jwts.into_iter().map(|wanted| (wanted, caller.clone())));
            files.extend(setup.api_key_files.into_iter().map(|path| (name.clone(), path)));
            if by_name.insert(name.clone(), caller).is_some() {
                errors.push(CallersError::SameName { caller: name });
            }
        }
        match KeyIndex::new(files, keyring, secrets, now) {
            Ok(keys) if errors.is_empty() => {
                let by_jwt = JwtCallers::new(issuers, jwts);
                let file_check = FileCheck::default();
                Ok(Callers { by_name, identities, by_jwt, by_assertion, keys, file_check })
            }
            Ok(_) => Err(errors),
            Err(more) => {
                errors.extend(more);
                Err(errors)
            }
        }
    }

    /// Takes over, from the callers before a reload, when each key was last used, and the keys of files that
    /// have just gone missing.
    #[must_use]
    pub fn succeeding(self, before: &Callers) -> Self {
        self.keys.take_over(&before.keys);
        self.by_assertion.take_over(&before.by_assertion);
        self
    }

    /// Has the key files checked, at most once a second, so that the keys stay up to date even if nobody
    /// presents one. If the files do not answer, the known keys stay in use.
    pub async fn check_key_files(self: &Arc<Self>, clock: &dyn Clock) {
        let now = clock.now();
        if self.keys.is_due(now) {
            Box::pin(self.check_files(clock, now)).await;
        }
    }

    /// Authenticates a credential at a listener that accepts these methods. It may have the key files checked
    /// and wait for that: once a second, and for an unknown key. For a JWT it waits only if its key is not
    /// held, at most three seconds.
    ///
    /// A user or certificate that does not count at this listener is no credential: nobody presented it to
    /// be judged. An API key or JWT that does not count there is refused.
    ///
    /// # Errors
    /// [`AuthenticationFailure`] if no caller has this credential, or if it does not count at this listener.
    pub async fn authenticate(
        self: &Arc<Self>,
        presented: Credential<'_>,
        accepted: AuthMethods,
        clock: &dyn Clock,
    ) -> Result<Authenticated, AuthenticationFailure> {
        let by_certificate = accepted.iter().any(AuthMethod::needs_certificate);
        match presented {
            Credential::ApiKey(text) if accepted.contains(AuthMethod::ApiKeys) => {
                let caller = self.by_api_key(text, clock).await?;
                Ok(Authenticated { caller, method: AuthMethod::ApiKeys })
            }
            Credential::Jwt(text) if accepted.contains(AuthMethod::Jwt) => {
                // (Boxed, as all that waits seldom: so the futures of ordinary requests are small.)
                let caller = Box::pin(self.by_jwt.authenticate(text, clock)).await?;
                Ok(Authenticated { caller, method: AuthMethod::Jwt })
            }
            Credential::ApiKey(_) | Credential::Jwt(_) | Credential::Handle(_) => {
                Err(AuthenticationFailure::NotAccepted)
            }
            Credential::UnixPeer { uid } if accepted.contains(AuthMethod::UnixUser) => {
                let caller = self.identities.of_uid(uid).ok_or(AuthenticationFailure::Unknown)?;
                Ok(Authenticated { caller, method: AuthMethod::UnixUser })
            }
            Credential::Certificate(names) if by_certificate => {
                let (caller, method) = self.identities.of_certificate(names, accepted)?;
                Ok(Authenticated { caller, method })
            }
            Credential::DistrustedCertificate if by_certificate => Err(AuthenticationFailure::Distrusted),
            Credential::UnixPeer { .. }
            | Credential::Certificate(_)
            | Credential::DistrustedCertificate
            | Credential::None => Err(AuthenticationFailure::Missing),
        }
    }

    /// Authenticates like [`Callers::authenticate`] where that waits for nothing and succeeds. `None`, which
    /// has had no effect, in every other case.
    pub fn authenticate_now(
        &self,
        presented: Credential<'_>,
        accepted: AuthMethods,
        remembered: &mut Remembered,
        now: Timestamp,
    ) -> Option<Authenticated> {
        match presented {
            Credential::ApiKey(text) if accepted.contains(AuthMethod::ApiKeys) => {
                if self.keys.is_nearly_due(now) {
                    return None;
                }
                let caller = self.keys.known_again(text, &mut remembered.0, now, |name| self.named(name))?;
                Some(Authenticated { caller, method: AuthMethod::ApiKeys })
            }
            Credential::UnixPeer { uid } if accepted.contains(AuthMethod::UnixUser) => {
                Some(Authenticated { caller: self.identities.of_uid(uid)?, method: AuthMethod::UnixUser })
            }
            Credential::Certificate(names) if accepted.iter().any(AuthMethod::needs_certificate) => {
                let (caller, method) = self.identities.of_certificate(names, accepted).ok()?;
                Some(Authenticated { caller, method })
            }
            _ => None,
        }
    }

    /// Authenticates a client of the token endpoint by its assertion (RFC 7521 §4.2): one that it made
    /// itself, or a token of a configured issuer, as a pod has one. The first is good once, if nobody has
    /// used it.
    ///
    /// # Errors
    /// As [`Callers::authenticate`].
    pub async fn authenticate_client(
        self: &Arc<Self>,
        presented: ClientAssertion<'_>,
        accepted: AuthMethods,
        clock: &dyn Clock,
    ) -> Result<(Authenticated, Option<Once>), AuthenticationFailure> {
        let token = client_assertion::parse(presented.text)?;
        let (known, once) = match client_assertion::is_own(&token) {
            true if !accepted.contains(AuthMethod::ClientAssertion) => {
                return Err(AuthenticationFailure::NotAccepted);
            }
            true => {
                let (caller, once) =
                    self.by_assertion.authenticate(&token, presented.audience, clock.now())?;
                (Authenticated { caller, method: AuthMethod::ClientAssertion }, Some(once))
            }
            false => (self.authenticate(Credential::Jwt(presented.text), accepted, clock).await?, None),
        };
        match presented.client_id {
            Some(client_id) if client_id != known.caller.name.as_str() => Err(JwtRefusal::ClientId.into()),
            _ => Ok((known, once)),
        }
    }

    async fn by_api_key(
        self: &Arc<Self>,
        text: &str,
        clock: &dyn Clock,
    ) -> Result<Arc<Caller>, AuthenticationFailure> {
        let key = PresentedKey::parse(text).ok_or(AuthenticationFailure::Malformed)?;
        self.check_key_files(clock).await;
        let now = clock.now();
        let mut known = self.keys.known(&key, now);
        // The running check may have begun before the key's file was written; the next one begins after it.
        for _ in 0..2 {
            if known != Err(AuthenticationFailure::Unknown) || !self.keys.is_due_after_miss(now) {
                break;
            }
            Box::pin(self.check_files(clock, now)).await;
            known = self.keys.known(&key, now);
        }
        self.named(&known?).ok_or(AuthenticationFailure::Unknown)
    }

    async fn check_files(self: &Arc<Self>, clock: &dyn Clock, now: Timestamp) {
        let callers = Arc::clone(self);
        let checked = self.file_check.run(clock, FILES_ANSWER_WITHIN, move || callers.keys.check(now)).await;
        if checked == Checked::HangsNow {
            tracing::warn!(
                "the files of API keys do not answer; is their mount there? The keys read before stay in use"
            );
        }
    }

    /// Returns the caller of this name, for requests authenticated in another way.
    pub fn named(&self, name: &CallerName) -> Option<Arc<Caller>> {
        self.by_name.get(name).cloned()
    }

    /// Iterates over all callers in the order of their names.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Caller>> {
        self.by_name.values()
    }

    /// Returns the id of an API key in force, for what lasts no longer than the key; it authenticates nobody.
    pub fn key_id(&self, presented: &str) -> Option<String> {
        self.keys.id_of(&PresentedKey::parse(presented)?)
    }

    /// Notes that what was made with an API key is used, so that an operator sees that the key is needed.
    /// Returns false if this caller has no live API key of this id.
    pub fn use_key(&self, caller: &CallerName, id: &str, now: Timestamp) -> bool {
        self.keys.use_it(caller, id, now)
    }

    /// Returns true if this caller has a live API key of this id, as far as the files were checked.
    pub fn has_live_key(&self, caller: &CallerName, id: &str, now: Timestamp) -> bool {
        self.keys.is_live(caller, id, now)
    }

    /// Returns every API key in force and its last use.
    pub fn key_uses(&self) -> Vec<KeyUse> {
        self.keys.uses()
    }

    /// Returns every key by which callers sign their own assertions, and its last use.
    pub fn client_key_uses(&self) -> Vec<ClientKeyUse> {
        self.by_assertion.uses()
    }

    /// Returns the sealing keys that live API keys' hashes were made with (lines from before 0.2), each with
    /// the names of those API keys.
    pub fn sealing_keys_in_use(&self, now: Timestamp) -> Hashed {
        let mut hashed = Hashed::new();
        for used in self.key_uses().into_iter().filter(|used| used.key.is_live(now)) {
            let name = format!("{} {}", used.caller, used.key.id);
            let Some(sealing_key) = used.key.sealing_key else { continue };
            hashed.entry(sealing_key).or_default().insert(name);
        }
        hashed
    }

    /// Returns the key files whose newest content is not in force.
    pub fn key_file_problems(&self) -> Vec<KeyFileProblem> {
        self.keys.problems()
    }
}

#[cfg(test)]
mod tests;
