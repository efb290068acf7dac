//! Apps and users as JSON describes them, in a configuration file and over HTTP.

use std::time::Duration;

use serde::Deserialize;

use crate::directory::{App, Audience, FederatedCredential, User};
use crate::scope::Scopes;
use crate::settings::Settings;

/// A configuration file: `{"settings": {…}, "apps": […], "users": […]}`.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// The settings to start with.
    pub settings: Settings,
    apps: Vec<AppSpec>,
    users: Vec<UserSpec>,
}

impl Config {
    /// The apps described.
    ///
    /// # Errors
    /// When a description contradicts itself.
    pub fn apps(&self) -> Result<Vec<App>, String> {
        self.apps.iter().map(AppSpec::app).collect()
    }

    /// The users described.
    pub fn users(&self) -> Vec<User> {
        self.users.iter().map(UserSpec::user).collect()
    }
}

/// An app.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct AppSpec {
    client_id: String,
    #[serde(default)]
    secrets: Vec<SecretSpec>,
    #[serde(default)]
    redirect_uris: Vec<String>,
    #[serde(default)]
    spa_redirect_uris: Vec<String>,
    /// Application permissions, granted.
    #[serde(default)]
    app_roles: Vec<String>,
    /// PEM texts.
    #[serde(default)]
    certificates: Vec<String>,
    #[serde(default)]
    federated: Vec<FederatedSpec>,
    /// Scopes configured on the registration, separated by spaces.
    #[serde(default)]
    permissions: Option<String>,
    #[serde(default)]
    audience: AudienceSpec,
    #[serde(default)]
    public: bool,
    #[serde(default)]
    id_token_from_authorize: bool,
}

/// A secret: its value alone, or with its times.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
pub(crate) enum SecretSpec {
    Value(String),
    Timed {
        value: String,
        #[serde(default)]
        active_after_seconds: u64,
        #[serde(default)]
        expires_after_seconds: Option<u64>,
    },
}

impl SecretSpec {
    /// Its value, the delay until it works, and the time until it expires.
    pub(crate) fn parts(&self) -> (&str, Duration, Option<Duration>) {
        match self {
            Self::Value(value) => (value, Duration::ZERO, None),
            Self::Timed { value, active_after_seconds, expires_after_seconds } => (
                value,
                Duration::from_secs(*active_after_seconds),
                expires_after_seconds.map(Duration::from_secs),
            ),
        }
    }
}

/// A federated credential.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct FederatedSpec {
    issuer: String,
    subject: String,
    #[serde(default)]
    audience: Option<String>,
    jwks: serde_json::Value,
    #[serde(default)]
    active_after_seconds: u64,
}

impl FederatedSpec {
    pub(crate) fn credential(&self) -> FederatedCredential {
        let mut credential = FederatedCredential::new(&self.issuer, &self.subject, self.jwks.clone());
        credential.audience = self.audience.clone().unwrap_or(credential.audience);
        credential.active_after = Duration::from_secs(self.active_after_seconds);
        credential
    }
}

/// Whose accounts may sign in: a word, or `{"single_tenant": "id"}`.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
enum AudienceSpec {
    #[default]
    WorkAndPersonal,
    Work,
    Personal,
    SingleTenant(String),
}

impl AppSpec {
    /// The app described.
    pub(crate) fn app(&self) -> Result<App, String> {
        let mut app = App::new(&self.client_id).audience(match &self.audience {
            AudienceSpec::WorkAndPersonal => Audience::WorkAndPersonal,
            AudienceSpec::Work => Audience::Work,
            AudienceSpec::Personal => Audience::Personal,
            AudienceSpec::SingleTenant(id) => Audience::SingleTenant(id.clone()),
        });
        for secret in &self.secrets {
            let (value, active_after, expires_after) = secret.parts();
            app = app.secret_with(value, active_after, expires_after);
        }
        for uri in &self.redirect_uris {
            app = app.redirect_uri(uri);
        }
        for uri in &self.spa_redirect_uris {
            app = app.spa_redirect_uri(uri);
        }
        for role in &self.app_roles {
            app = app.app_role(role);
        }
        for pem in &self.certificates {
            app = app.certificate(pem);
        }
        for credential in &self.federated {
            app = app.federated(credential.credential());
        }
        if let Some(permissions) = &self.permissions {
            Scopes::parse(permissions).map_err(|bad| format!("not a scope: {bad}"))?;
            app = app.permissions(permissions);
        }
        if self.public {
            app = app.public();
        }
        if self.id_token_from_authorize {
            app = app.id_token_from_authorize();
        }
        Ok(app)
    }
}

/// A user.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct UserSpec {
    upn: String,
    #[serde(default)]
    personal: bool,
    #[serde(default)]
    tenant: Option<String>,
    #[serde(default)]
    oid: Option<String>,
    #[serde(default)]
    name: Option<String>,
    #[serde(default)]
    token_lifetime_seconds: Option<u64>,
}

impl UserSpec {
    /// The user described.
    pub(crate) fn user(&self) -> User {
        let mut user = if self.personal { User::personal(&self.upn) } else { User::work(&self.upn) };
        if let Some(tenant) = &self.tenant {
            user = user.tenant(tenant);
        }
        if let Some(oid) = &self.oid {
            user = user.oid(oid);
        }
        if let Some(name) = &self.name {
            user = user.name(name);
        }
        if let Some(seconds) = self.token_lifetime_seconds {
            user = user.token_lifetime(Duration::from_secs(seconds));
        }
        user
    }
}
