//! The configured apps: their authorities with their client credentials. Prepared whole beside what is in force, and then put
//! in its place.

use std::collections::BTreeMap;
use std::sync::Arc;

use zeroize::Zeroizing;

use super::Ports;
use crate::authority::{
    AssertionFile, AuthorityConfig, AuthorityParts, ClientCredential, OpenIdAuthority, Outbound, Provider,
    ResponseMode, Roots, SecretMethod,
};
use crate::broker::{App, Apps, Tenants};
use crate::config::{
    self, AppConfig, Config, CredentialConfig, CredentialKind, RefreshTokenReuse, SecretAuthMethod,
    TenantRule,
};
use crate::domain::id::AppName;
use crate::domain::secret::ClientSecret;
use crate::domain::time::Timestamp;
use crate::events::AppCounters;
use crate::secret_file::SecretReader;
use crate::telemetry::metrics::Metrics;

/// The authority of each app, with the configuration that it was made from.
pub(super) type Authorities = BTreeMap<AppName, Installed>;

/// An authority in force.
#[derive(Clone)]
pub(super) struct Installed {
    config: AuthorityConfig,
    pub(super) authority: Arc<OpenIdAuthority>,
}

/// Entra's limit for apps whose audience includes personal accounts (validation differences by supported account types).
const MOST_SECRETS_WITH_PERSONAL: usize = 2;

/// Apps that are ready to be taken into service.
pub(super) struct PreparedApps {
    pub(super) apps: Apps,
    authorities: Authorities,
    credentials: BTreeMap<AppName, Vec<ClientCredential>>,
}

/// Builds every app. What has not changed keeps its authority, with all that it has learnt.
pub(super) fn prepare(
    config: &Config,
    secrets: &SecretReader,
    ports: &Ports,
    metrics: &Arc<Metrics>,
    before: &Authorities,
) -> Result<PreparedApps, Vec<String>> {
    let mut problems = Vec::new();
    let mut prepared =
        PreparedApps { apps: Apps::new(), authorities: Authorities::new(), credentials: BTreeMap::new() };
    let outbound = match outbound(config, secrets) {
        Ok(outbound) => Arc::new(outbound),
        Err(problem) => {
            problems.push(format!("outbound.{problem}"));
            Arc::default()
        }
    };
    for (name, app) in &config.apps {
        let built = AppName::parse(name).map_err(|error| format!(": {error}")).and_then(|key| {
            let credentials =
                read_credentials(&key, app, secrets, before).map_err(|problem| format!(".{problem}"))?;
            let installed = authority(&key, app, config, &outbound, ports, metrics, before)
                .map_err(|problem| format!(".{problem}"))?;
            let redirect_uri = config.redirect_uri(name).expect("the app is in the configuration");
            let built =
                build(&key, app, redirect_uri, &installed).map_err(|problem| format!(".{problem}"))?;
            Ok((key, built, installed, credentials))
        });
        match built {
            Ok((key, built, installed, credentials)) => {
                prepared.apps.insert(key.clone(), Arc::new(built));
                prepared.authorities.insert(key.clone(), installed);
                prepared.credentials.insert(key, credentials);
            }
            Err(problem) => problems.push(format!("apps.{name}{problem}")),
        }
    }
    if problems.is_empty() { Ok(prepared) } else { Err(problems) }
}

/// Takes them into service: from here on the credentials are those.
pub(super) fn install(prepared: PreparedApps, before: &Authorities) -> (Apps, Authorities) {
    for (name, credentials) in prepared.credentials {
        let known = before.get(&name).map(|installed| &*installed.authority);
        prepared.authorities[&name].authority.succeed(known, credentials);
    }
    (prepared.apps, prepared.authorities)
}

fn authority(
    name: &AppName,
    app: &AppConfig,
    config: &Config,
    outbound: &Arc<Outbound>,
    ports: &Ports,
    metrics: &Arc<Metrics>,
    before: &Authorities,
) -> Result<Installed, String> {
    let mut wanted = authority_config(app, config)?;
    wanted.outbound = Arc::clone(outbound);
    if let Some(installed) = before.get(name).filter(|installed| installed.config == wanted) {
        return Ok(installed.clone());
    }
    let parts = AuthorityParts {
        clock: ports.clock.clone(),
        random: ports.random.clone(),
        observer: Arc::new(AppCounters { app: name.clone(), metrics: metrics.clone() }),
    };
    let authority = OpenIdAuthority::new(wanted.clone(), Vec::new(), parts)
        .map_err(|error| format!("authority: {error}"))?;
    Ok(Installed { config: wanted, authority: Arc::new(authority) })
}

/// Says which way each authority is reached.
pub(super) fn say_ways_out(config: &Config) {
    for (app, settings) in &config.apps {
        let (authority, way) = (settings.authority.host(), config.outbound.way_to(&settings.authority));
        tracing::info!(app, authority, "the authority is reached {way}");
    }
}

fn outbound(config: &Config, secrets: &SecretReader) -> Result<Outbound, String> {
    let outbound = &config.outbound;
    let password = outbound
        .proxy_password_file
        .as_deref()
        .map(|path| secrets.read_text(path).map_err(|error| format!("proxy_password_file: {error}")));
    let password = password.transpose()?;
    let login = outbound.proxy_username.as_deref().zip(password.as_ref().map(|password| password.as_str()));
    let roots = match &outbound.proxy_ca_file {
        Some(path) => Roots::Only(
            std::fs::read_to_string(path)
                .map_err(|error| format!("proxy_ca_file: {} cannot be read: {error}", path.display()))?,
        ),
        None => Roots::System,
    };
    Ok(Outbound::new(outbound.routes.clone(), login, roots))
}

fn build(
    name: &AppName,
    app: &AppConfig,
    redirect_uri: String,
    installed: &Installed,
) -> Result<App, String> {
    use crate::authority::Authority;
    let authority = installed.authority.clone();
    let scopes = authority.scope_naming().scopes(&app.scopes.join(" ")).map_err(|scope| {
        format!("scopes: {scope:?} holds a character that no scope has (RFC 6749 section 3.3)")
    })?;
    Ok(App {
        tenants: tenants(app, authority.provider()),
        authority,
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
    authority.home_tenant.clone_from(&app.home_tenant);
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

/// The app's credentials: those of its list as they are listed, then those of its directory, the one that expires last first.
fn read_credentials(
    app_name: &AppName,
    app: &AppConfig,
    secrets: &SecretReader,
    before: &Authorities,
) -> Result<Vec<ClientCredential>, String> {
    let mut configs = app.credentials.clone();
    if let Some(directory) = &app.credentials_dir {
        let mut found =
            config::read_credentials_dir(directory).map_err(|error| format!("credentials_dir: {error}"))?;
        found.sort_by(|a, b| (b.expires, &b.id).cmp(&(a.expires, &a.id)));
        configs.extend(found);
    }
    if configs.is_empty() {
        let has_one = before.get(app_name).is_some_and(|before| !before.authority.credentials().is_empty());
        if has_one {
            return Err(
                "credentials: none is left, and no token could be refreshed; give the new one before the old one goes"
                    .to_owned(),
            );
        }
        tracing::warn!(app = %app_name, "the app has no client credential: no account can be connected and no token refreshed until it has one");
    }
    for (at, credential) in configs.iter().enumerate() {
        if configs[..at].iter().any(|other| other.id == credential.id) {
            return Err(format!("credentials: two have the id {:?}", credential.id));
        }
    }
    let secrets_there = configs.iter().filter(|one| one.kind == CredentialKind::Secret).count();
    if secrets_there > MOST_SECRETS_WITH_PERSONAL && app.tenants.contains(&TenantRule::Personal) {
        tracing::warn!(app = %app_name, secrets = secrets_there, "Entra keeps two client secrets at the most for an app that allows personal accounts: of these, some cannot be good; retire them");
    }
    let read = |credential: &CredentialConfig| {
        let configured = credential.expires.map(|at| Timestamp::from_unix_seconds(at.unix_timestamp()));
        read_credential(credential, secrets)
            .map(|read| read.expiring(configured))
            .map_err(|problem| format!("credentials.{}: {problem}", credential.id))
    };
    configs.iter().map(read).collect()
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
