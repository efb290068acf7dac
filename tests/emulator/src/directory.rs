//! The directory: tenants, users, app registrations, and who consented to what.

use std::collections::HashMap;
use std::time::Duration;

use crate::clock::Moment;
use crate::random::{self, digests};
use crate::scope::{GRAPH, Scope, Scopes};
use crate::settings::ConsentPolicy;

/// The tenant of all personal accounts.
pub const PERSONAL_TENANT: &str = "9188040d-6c67-4c5b-b112-36a304b66dad";

/// The most secrets an app may have whose audience includes personal accounts.
const MOST_SECRETS_WITH_PERSONAL: usize = 2;

/// Whose accounts may sign in to an app.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Audience {
    /// Any work or school account and personal accounts.
    #[default]
    WorkAndPersonal,
    /// Any work or school account.
    Work,
    /// Personal accounts only.
    Personal,
    /// Accounts of the tenant with this id.
    SingleTenant(String),
}

/// An app registration.
#[derive(Clone, Debug)]
pub struct App {
    pub(crate) client_id: String,
    pub(crate) redirect_uris: Vec<String>,
    pub(crate) spa_redirect_uris: Vec<String>,
    /// Application permissions that an administrator granted, such as `Application.Read.All`.
    pub(crate) app_roles: Vec<String>,
    pub(crate) audience: Audience,
    pub(crate) public: bool,
    pub(crate) id_token_from_authorize: bool,
    permissions: Scopes,
    secrets: Vec<PlannedSecret>,
    certificates: Vec<String>,
    federated: Vec<FederatedCredential>,
}

#[derive(Clone, Debug)]
struct PlannedSecret {
    value: String,
    active_after: Duration,
    expires_after: Option<Duration>,
}

impl App {
    /// A confidential client for every kind of account, without credentials or redirect URIs yet.
    pub fn new(client_id: impl Into<String>) -> Self {
        Self {
            client_id: client_id.into(),
            redirect_uris: Vec::new(),
            spa_redirect_uris: Vec::new(),
            app_roles: Vec::new(),
            audience: Audience::default(),
            public: false,
            id_token_from_authorize: false,
            permissions: Scopes::default(),
            secrets: Vec::new(),
            certificates: Vec::new(),
            federated: Vec::new(),
        }
    }

    /// Adds a secret that works at once and never expires.
    pub fn secret(self, value: impl Into<String>) -> Self {
        self.secret_with(value, Duration::ZERO, None)
    }

    /// Adds a secret that works after `active_after` and, if given, stops working after `expires_after`.
    pub fn secret_with(
        mut self,
        value: impl Into<String>,
        active_after: Duration,
        expires_after: Option<Duration>,
    ) -> Self {
        self.secrets.push(PlannedSecret { value: value.into(), active_after, expires_after });
        self
    }

    /// Registers a redirect URI.
    pub fn redirect_uri(mut self, uri: impl Into<String>) -> Self {
        self.redirect_uris.push(uri.into());
        self
    }

    /// Registers a redirect URI for the platform *Single-page application*.
    pub fn spa_redirect_uri(mut self, uri: impl Into<String>) -> Self {
        self.spa_redirect_uris.push(uri.into());
        self
    }

    /// Grants an application permission of Microsoft Graph, such as `Application.Read.All`.
    pub fn app_role(mut self, role: impl Into<String>) -> Self {
        self.app_roles.push(role.into());
        self
    }

    /// Registers a certificate (PEM) for client assertions.
    pub fn certificate(mut self, pem: impl Into<String>) -> Self {
        self.certificates.push(pem.into());
        self
    }

    /// Registers a federated credential.
    pub fn federated(mut self, credential: FederatedCredential) -> Self {
        self.federated.push(credential);
        self
    }

    /// Restricts whose accounts may sign in.
    pub fn audience(mut self, audience: Audience) -> Self {
        self.audience = audience;
        self
    }

    /// Makes the app a public client, which may not authenticate.
    pub fn public(mut self) -> Self {
        self.public = true;
        self
    }

    /// Lists the scopes configured on the registration, which `.default` stands for.
    ///
    /// # Panics
    /// When `scopes` is no list of scopes.
    pub fn permissions(mut self, scopes: &str) -> Self {
        self.permissions = Scopes::parse(scopes).expect("permissions are scopes");
        self
    }

    /// Allows `id_token` in `response_type`.
    pub fn id_token_from_authorize(mut self) -> Self {
        self.id_token_from_authorize = true;
        self
    }

    /// Replaces `.default` by the scopes it stands for: the configured ones, or the least a resource offers.
    pub(crate) fn expand_default(&self, scopes: &Scopes) -> Scopes {
        let least = |resource: &str| if resource == GRAPH { "User.Read" } else { "user_impersonation" };
        let mut expanded = Scopes::default();
        for scope in scopes.iter() {
            let configured = self.permissions.of_resource(&scope.resource);
            expanded.add(&if !scope.is_default() {
                Scopes::from_iter([scope.clone()])
            } else if configured.is_empty() {
                Scopes::from_iter([Scope { name: least(&scope.resource).to_owned(), ..scope.clone() }])
            } else {
                configured.into_iter().collect()
            });
        }
        expanded.written_as(scopes)
    }
}

/// A trust in another issuer's tokens.
#[derive(Clone, Debug)]
pub struct FederatedCredential {
    /// `iss` of the assertion.
    pub issuer: String,
    /// `sub` of the assertion.
    pub subject: String,
    /// `aud` of the assertion; Entra's default is `api://AzureADTokenExchange`.
    pub audience: String,
    /// The issuer's JWKS document. RSA keys only, as with Entra.
    pub jwks: serde_json::Value,
    /// How long after registration the credential starts to match.
    pub active_after: Duration,
}

impl FederatedCredential {
    /// A credential with Entra's default audience that matches at once.
    pub fn new(issuer: impl Into<String>, subject: impl Into<String>, jwks: serde_json::Value) -> Self {
        let audience = "api://AzureADTokenExchange".to_owned();
        Self { issuer: issuer.into(), subject: subject.into(), audience, jwks, active_after: Duration::ZERO }
    }
}

/// A user.
#[derive(Clone, Debug)]
pub struct User {
    pub(crate) upn: String,
    pub(crate) name: String,
    pub(crate) tenant: String,
    pub(crate) oid: String,
    pub(crate) token_lifetime_seconds: Option<u64>,
}

impl User {
    /// A work account. Its tenant id follows from the domain and its object id from the whole name, so both
    /// are the same in every run.
    pub fn work(upn: impl Into<String>) -> Self {
        let upn = upn.into();
        let domain = domain_of(&upn).to_ascii_lowercase();
        let oid = random::named_guid(&format!("user:{}", upn.to_ascii_lowercase()));
        let tenant = random::named_guid(&format!("tenant:{domain}"));
        Self { name: display_name(&upn), tenant, oid, upn, token_lifetime_seconds: None }
    }

    /// A personal account.
    pub fn personal(upn: impl Into<String>) -> Self {
        let upn = upn.into();
        // Personal object ids are a 64-bit account number in a GUID's clothes.
        let guid = random::named_guid(&format!("personal:{}", upn.to_ascii_lowercase()));
        let oid = format!("00000000-0000-0000-{}", &guid[19..]);
        let tenant = PERSONAL_TENANT.to_owned();
        Self { name: display_name(&upn), tenant, oid, upn, token_lifetime_seconds: None }
    }

    /// Puts the user into another tenant. Their domain goes with them unless another tenant has it already.
    pub fn tenant(mut self, id: impl Into<String>) -> Self {
        self.tenant = id.into().to_ascii_lowercase();
        self
    }

    /// Gives the user this object id.
    pub fn oid(mut self, id: impl Into<String>) -> Self {
        self.oid = id.into();
        self
    }

    /// Gives the user this display name.
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = name.into();
        self
    }

    /// Gives the user's access tokens this life, whatever the emulator's own setting is.
    pub fn token_lifetime(mut self, lifetime: Duration) -> Self {
        self.token_lifetime_seconds = Some(lifetime.as_secs());
        self
    }

    /// The user's tenant id.
    pub fn tenant_id(&self) -> &str {
        &self.tenant
    }

    /// The user's object id.
    pub fn object_id(&self) -> &str {
        &self.oid
    }
}

/// A registered app with its live credentials.
#[derive(Clone, Debug)]
pub(crate) struct Registration {
    pub(crate) app: App,
    pub(crate) secrets: Vec<Secret>,
    pub(crate) certificates: Vec<Certificate>,
    pub(crate) federated: Vec<(FederatedCredential, Moment)>,
}

/// A client secret.
#[derive(Clone, Debug)]
pub(crate) struct Secret {
    pub(crate) key_id: String,
    pub(crate) value: String,
    pub(crate) active_at: Moment,
    pub(crate) expires_at: Option<Moment>,
    /// Until then every other request finds a replica that does not know it.
    pub(crate) flaps_until: Option<Moment>,
}

/// A certificate for client assertions.
#[derive(Clone, Debug)]
pub(crate) struct Certificate {
    pub(crate) sha256: Vec<u8>,
    pub(crate) sha1: Vec<u8>,
    pub(crate) public_key: Vec<u8>,
    pub(crate) not_before: u64,
    pub(crate) not_after: u64,
    pub(crate) revoked: bool,
}

impl Certificate {
    /// Reads the first certificate of a PEM text.
    pub(crate) fn from_pem(pem: &str) -> Result<Self, String> {
        use rustls::pki_types::CertificateDer;
        use rustls::pki_types::pem::PemObject as _;
        let der = CertificateDer::from_pem_slice(pem.as_bytes())
            .map_err(|error| format!("not a PEM certificate: {error}"))?;
        let (_, parsed) = x509_parser::parse_x509_certificate(&der)
            .map_err(|error| format!("not a certificate: {error}"))?;
        let secs = |at: i64| u64::try_from(at).unwrap_or(0);
        Ok(Self {
            sha256: digests::sha256(&der),
            sha1: digests::sha1(&der),
            public_key: parsed.public_key().subject_public_key.data.to_vec(),
            not_before: secs(parsed.validity().not_before.timestamp()),
            not_after: secs(parsed.validity().not_after.timestamp()),
            revoked: false,
        })
    }
}

impl Registration {
    pub(crate) fn new(app: App, now: Moment) -> Result<Self, String> {
        let mut new =
            Self { secrets: Vec::new(), certificates: Vec::new(), federated: Vec::new(), app: app.clone() };
        for secret in &app.secrets {
            new.add_secret(&secret.value, now, secret.active_after, secret.expires_after)?;
        }
        new.certificates =
            app.certificates.iter().map(|pem| Certificate::from_pem(pem)).collect::<Result<_, _>>()?;
        new.federated = app.federated.iter().map(|one| (one.clone(), now.plus(one.active_after))).collect();
        Ok(new)
    }

    /// Adds a secret and returns its key id. Apps open to personal accounts hold two at most.
    pub(crate) fn add_secret(
        &mut self,
        value: &str,
        now: Moment,
        active_after: Duration,
        expires_after: Option<Duration>,
    ) -> Result<String, String> {
        let personal = matches!(self.app.audience, Audience::WorkAndPersonal | Audience::Personal);
        if personal && self.secrets.len() >= MOST_SECRETS_WITH_PERSONAL {
            return Err(
                "an app that allows personal accounts holds two secrets at most; remove one first".into()
            );
        }
        let key_id = random::guid();
        self.secrets.push(Secret {
            key_id: key_id.clone(),
            value: value.to_owned(),
            active_at: now.plus(active_after),
            expires_at: expires_after.map(|after| now.plus(after)),
            flaps_until: None,
        });
        Ok(key_id)
    }
}

/// Reason why a user can neither sign in nor refresh.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Block {
    pub(crate) code: u32,
}

/// A user and their state.
#[derive(Clone, Debug)]
pub(crate) struct Account {
    pub(crate) user: User,
    /// Disabled, deleted, or blocked by policy.
    pub(crate) block: Option<Block>,
    /// Refresh tokens with a serial up to this one fail with this code until the user signs in anew.
    pub(crate) dead_tokens: Option<(u64, u32)>,
    /// The user's consents, by client.
    pub(crate) consents: HashMap<String, Scopes>,
}

impl Account {
    pub(crate) fn is_personal(&self) -> bool {
        self.user.tenant == PERSONAL_TENANT
    }
}

/// A tenant.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tenant {
    pub(crate) domains: Vec<String>,
    pub(crate) policy: Option<ConsentPolicy>,
    /// An administrator's consents for everyone, by client.
    pub(crate) consents: HashMap<String, Scopes>,
}

/// A parsed tenant segment of a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum TenantPath {
    Common,
    Organizations,
    Consumers,
    Tenant(String),
}

impl TenantPath {
    /// The segment in its canonical form: the word, or the tenant id.
    pub(crate) fn canonical(&self) -> &str {
        match self {
            Self::Common => "common",
            Self::Organizations => "organizations",
            Self::Consumers => PERSONAL_TENANT,
            Self::Tenant(id) => id,
        }
    }

    /// Whether an account of `tenant` may sign in here.
    pub(crate) fn admits(&self, tenant: &str) -> bool {
        match self {
            Self::Common => true,
            Self::Organizations => tenant != PERSONAL_TENANT,
            Self::Consumers => tenant == PERSONAL_TENANT,
            Self::Tenant(id) => id == tenant,
        }
    }
}

/// All tenants, users and apps.
#[derive(Clone, Debug, Default)]
pub(crate) struct Directory {
    pub(crate) apps: HashMap<String, Registration>,
    accounts: Vec<Account>,
    tenants: HashMap<String, Tenant>,
}

impl Directory {
    pub(crate) fn add_app(&mut self, app: App, now: Moment) -> Result<(), String> {
        let registration = Registration::new(app, now)?;
        self.apps.insert(registration.app.client_id.clone(), registration);
        Ok(())
    }

    /// Adds a user and the tenant that goes with them; replaces a user of the same name.
    pub(crate) fn add_user(&mut self, user: User) {
        if user.tenant != PERSONAL_TENANT {
            let domain = domain_of(&user.upn).to_ascii_lowercase();
            let taken = self.tenants.values().any(|tenant| tenant.domains.contains(&domain));
            let tenant = self.tenants.entry(user.tenant.clone()).or_default();
            if !taken {
                tenant.domains.push(domain);
            }
        }
        self.accounts.retain(|account| !account.user.upn.eq_ignore_ascii_case(&user.upn));
        self.accounts.push(Account { user, block: None, dead_tokens: None, consents: HashMap::new() });
    }

    pub(crate) fn accounts(&self) -> &[Account] {
        &self.accounts
    }

    pub(crate) fn account(&self, upn: &str) -> Option<&Account> {
        self.accounts.iter().find(|account| account.user.upn.eq_ignore_ascii_case(upn))
    }

    pub(crate) fn account_mut(&mut self, upn: &str) -> Option<&mut Account> {
        self.accounts.iter_mut().find(|account| account.user.upn.eq_ignore_ascii_case(upn))
    }

    pub(crate) fn tenant_mut(&mut self, id: &str) -> &mut Tenant {
        self.tenants.entry(id.to_ascii_lowercase()).or_default()
    }

    pub(crate) fn first_tenant(&self) -> Option<String> {
        self.accounts.iter().find(|account| !account.is_personal()).map(|account| account.user.tenant.clone())
    }

    /// Parses a tenant segment. The error is the AADSTS number.
    pub(crate) fn tenant_path(&self, segment: &str) -> Result<TenantPath, u32> {
        let lower = segment.to_ascii_lowercase();
        match lower.as_str() {
            "common" => Ok(TenantPath::Common),
            "organizations" => Ok(TenantPath::Organizations),
            "consumers" | PERSONAL_TENANT => Ok(TenantPath::Consumers),
            _ if self.tenants.contains_key(&lower) => Ok(TenantPath::Tenant(lower)),
            _ => match self.tenants.iter().find(|(_, tenant)| tenant.domains.contains(&lower)) {
                Some((id, _)) => Ok(TenantPath::Tenant(id.clone())),
                None if random::is_guid(&lower) || lower.contains('.') => Err(90002),
                None => Err(900023),
            },
        }
    }

    /// Returns the scopes of `wanted` that neither the user's nor the tenant's consent covers.
    pub(crate) fn unconsented(&self, client: &str, account: &Account, wanted: &Scopes) -> Scopes {
        let granted = self.granted(client, account);
        wanted.iter().filter(|scope| !scope.is_identity() && !granted.covers(scope)).cloned().collect()
    }

    /// Everything granted to `client` for this user.
    pub(crate) fn granted(&self, client: &str, account: &Account) -> Scopes {
        let mut granted = account.consents.get(client).cloned().unwrap_or_default();
        if let Some(by_admin) =
            self.tenants.get(&account.user.tenant).and_then(|tenant| tenant.consents.get(client))
        {
            granted.add(by_admin);
        }
        granted
    }

    /// Whether the user's tenant lets the user consent to all of these.
    pub(crate) fn may_consent(&self, account: &Account, default: ConsentPolicy, wanted: &Scopes) -> bool {
        if account.is_personal() {
            return true;
        }
        let own = self.tenants.get(&account.user.tenant).and_then(|tenant| tenant.policy);
        match own.unwrap_or(default) {
            ConsentPolicy::UserAllowed => true,
            ConsentPolicy::MicrosoftManaged => !wanted.iter().any(Scope::needs_admin_when_managed),
            ConsentPolicy::AdminRequired => wanted.iter().all(Scope::is_identity),
        }
    }
}

fn domain_of(upn: &str) -> &str {
    upn.rsplit_once('@').map_or("contoso.example", |(_, domain)| domain)
}

fn display_name(upn: &str) -> String {
    let local = upn.split_once('@').map_or(upn, |(local, _)| local);
    local
        .split(['.', '_', '-'])
        .map(|part| {
            let mut letters = part.chars();
            letters.next().map_or_else(String::new, |first| first.to_uppercase().chain(letters).collect())
        })
        .collect::<Vec<_>>()
        .join(" ")
}
