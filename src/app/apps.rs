//! The configured apps: their authorities with their client credentials.

use std::collections::BTreeMap;
use std::sync::Arc;

use zeroize::Zeroizing;

use super::{Ports, StartError};
use crate::authority::{
    AssertionFile, AuthorityConfig, AuthorityParts, ClientCredential, CredentialSet, OpenIdAuthority,
    Provider, ResponseMode, Roots, SecretMethod,
};
use crate::broker::{App, Apps, Tenants};
use crate::config::secret_ref::SecretReader;
use crate::config::{
    self, AppConfig, Config, CredentialConfig, CredentialKind, RefreshTokenReuse, SecretAuthMethod,
    TenantRule,
};
use crate::domain::id::AppName;
use crate::domain::secret::ClientSecret;
use crate::domain::time::Timestamp;
use crate::events::AppCounters;
use crate::telemetry::metrics::{CredentialState, Metrics};

pub(super) fn build(
    config: &Config,
    secrets: &SecretReader,
    ports: &Ports,
    metrics: &Arc<Metrics>,
) -> Result<Apps, StartError> {
    let mut apps = BTreeMap::new();
    for (name, app) in &config.apps {
        let key = AppName::parse(name).map_err(|error| StartError::new(format!("apps.{name}: {error}")))?;
        let redirect_uri = config.redirect_uri(name).expect("the app is in the configuration");
        let built = build_one(&key, app, redirect_uri, config, secrets, ports, metrics)
            .map_err(|problem| StartError::new(format!("apps.{name}.{problem}")))?;
        apps.insert(key, Arc::new(built));
    }
    Ok(apps)
}

fn build_one(
    name: &AppName,
    app: &AppConfig,
    redirect_uri: String,
    config: &Config,
    secrets: &SecretReader,
    ports: &Ports,
    metrics: &Arc<Metrics>,
) -> Result<App, String> {
    let credentials = read_credentials(name, app, secrets, metrics)?;
    let parts = AuthorityParts {
        clock: ports.clock.clone(),
        random: ports.random.clone(),
        observer: Arc::new(AppCounters {
            app: name.clone(),
            metrics: metrics.clone(),
            clock: ports.clock.clone(),
        }),
    };
    let authority = OpenIdAuthority::new(authority_config(app, config)?, credentials, parts)
        .map_err(|error| format!("authority: {error}"))?;
    let scopes = {
        use crate::authority::Authority;
        authority.scope_naming().scopes(&app.scopes.join(" ")).map_err(|scope| {
            format!("scopes: {scope:?} holds a character that no scope has (RFC 6749 section 3.3)")
        })?
    };
    Ok(App {
        tenants: tenants(app, authority.provider()),
        authority: Arc::new(authority),
        display_name: app.display_name.clone().unwrap_or_else(|| name.to_string()),
        support_contact: app.support_contact.clone(),
        scopes,
        return_urls: app.return_urls.clone(),
        redirect_uri,
    })
}

fn authority_config(app: &AppConfig, config: &Config) -> Result<AuthorityConfig, String> {
    let mut authority = AuthorityConfig::new(app.authority.as_str(), app.client_id.clone());
    authority.provider = app.provider.map(|provider| match provider {
        config::Provider::Entra => Provider::Entra,
        config::Provider::OpenId => Provider::OpenId,
    });
    authority.tenants = app
        .tenants
        .iter()
        .map(|rule| match rule {
            TenantRule::AnyOrganization => "*".to_owned(),
            TenantRule::Personal => "personal".to_owned(),
            TenantRule::Id(id) => id.clone(),
        })
        .collect();
    if !app.endpoint_hosts.is_empty() {
        authority.endpoint_hosts = Some(app.endpoint_hosts.clone());
    }
    if let Some(path) = &app.authority_ca {
        let pem = std::fs::read_to_string(path)
            .map_err(|error| format!("authority_ca: {} cannot be read: {error}", path.display()))?;
        authority.roots = Roots::Only(pem);
    }
    authority.timeout = config.limits.authority_timeout;
    authority.continuous_access_evaluation = app.continuous_access_evaluation;
    authority.token_endpoint_auth_method = app.token_endpoint_auth_method.map(|method| match method {
        SecretAuthMethod::Post => SecretMethod::Post,
        SecretAuthMethod::Basic => SecretMethod::Basic,
    });
    authority.refresh_token_reuse = app.refresh_token_reuse.map(|reuse| reuse == RefreshTokenReuse::Safe);
    authority.response_mode = match app.response_mode {
        config::ResponseMode::Query => ResponseMode::Query,
        config::ResponseMode::FormPost => ResponseMode::FormPost,
    };
    Ok(authority)
}

fn tenants(app: &AppConfig, provider: Provider) -> Tenants {
    let mut tenants = Tenants { everyone: provider == Provider::OpenId, ..Tenants::default() };
    for rule in &app.tenants {
        match rule {
            TenantRule::AnyOrganization => tenants.any_organization = true,
            TenantRule::Personal => tenants.personal = true,
            TenantRule::Id(id) => tenants.ids.push(id.to_ascii_lowercase()),
        }
    }
    tenants
}

fn read_credentials(
    app_name: &AppName,
    app: &AppConfig,
    secrets: &SecretReader,
    metrics: &Arc<Metrics>,
) -> Result<CredentialSet, String> {
    let mut configs = app.credentials.clone();
    if let Some(directory) = &app.credentials_dir {
        configs.extend(
            config::read_credentials_dir(directory).map_err(|error| format!("credentials_dir: {error}"))?,
        );
    }
    if configs.is_empty() {
        tracing::warn!(app = %app_name, "the app has no client credential: no account can be connected and no token refreshed until it has one");
    }
    let mut credentials = Vec::new();
    for credential in &configs {
        let read = read_credential(credential, secrets)
            .map_err(|problem| format!("credentials.{}: {problem}", credential.id))?;
        let configured = credential.expires.map(|at| Timestamp::from_unix_seconds(at.unix_timestamp()));
        metrics.credential_expiry(app_name, &credential.id, read.expires_at().or(configured));
        metrics.credential_state(app_name, &credential.id, CredentialState::Unproven);
        credentials.push(read);
    }
    Ok(CredentialSet::new(credentials))
}

fn read_credential(
    credential: &CredentialConfig,
    secrets: &SecretReader,
) -> Result<ClientCredential, String> {
    match credential.kind {
        CredentialKind::Secret => {
            let secret = secrets.read_text(&credential.file).map_err(|error| error.to_string())?;
            Ok(ClientCredential::secret(&credential.id, ClientSecret::new(secret.as_str())))
        }
        CredentialKind::Certificate => {
            let mut pem = secrets.read(&credential.file).map_err(|error| error.to_string())?;
            if let Some(key) = &credential.key {
                let key = secrets.read(key).map_err(|error| error.to_string())?;
                let mut both = Zeroizing::new(Vec::with_capacity(pem.len() + key.len() + 1));
                both.extend_from_slice(&pem);
                both.push(b'\n');
                both.extend_from_slice(&key);
                pem = both;
            }
            ClientCredential::certificate(&credential.id, &pem)
                .map_err(|fault| format!("{} {fault}", credential.file.display()))
        }
        CredentialKind::Federated => {
            Ok(ClientCredential::federated(&credential.id, Arc::new(AssertionFile(credential.file.clone()))))
        }
    }
}
