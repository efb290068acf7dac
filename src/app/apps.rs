//! The configured apps: their authorities and client credentials. All are built beside the apps in force, and
//! then replace them at once.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::bases;
use super::findings::{By, Findings};
use super::reading::{credentials, public_file};
use crate::authority::{
    AppHosts, AssertionAudience, Authority as _, AuthorityConfig, AuthorityConfigError, AuthorityParts,
    ClientCredential, OpenIdAuthority, Outbound, Provider, ResponseMode, Roots, SecretMethod,
};
use crate::broker::{App, Apps, RelayBase};
use crate::config::{self, AppConfig, Config, RefreshTokenReuse, SecretAuthMethod};
use crate::domain::id::AppName;
use crate::domain::tenants::Tenants;
use crate::events::AppCounters;
use crate::secret_file::SecretReader;

/// The authority of each app, with the configuration that it was made from.
pub(super) type Authorities = BTreeMap<AppName, Installed>;

/// An authority in force.
#[derive(Clone)]
pub(super) struct Installed {
    config: AuthorityConfig,
    pub(super) authority: Arc<OpenIdAuthority>,
    bases: Vec<Arc<RelayBase>>,
}

impl Installed {
    fn has_credentials(&self) -> bool {
        !self.authority.credentials().is_empty()
    }
}

/// Apps that are ready to be taken into service.
pub(super) struct PreparedApps {
    pub(super) apps: Apps,
    /// The way of outgoing requests.
    pub(super) outbound: Arc<Outbound>,
    authorities: Authorities,
    credentials: BTreeMap<AppName, Vec<ClientCredential>>,
}

/// Builds every app that can be built, and notes the mistakes in the others. An app with the same settings
/// keeps its authority, and all that the authority has learnt.
pub(super) fn prepare(
    config: &Config,
    secrets: &SecretReader,
    by: &By<'_>,
    before: &Authorities,
    findings: &mut Findings<'_>,
) -> PreparedApps {
    let outbound = Arc::new(outbound(config, secrets, findings).unwrap_or_default());
    let mut prepared = PreparedApps {
        apps: Apps::new(),
        outbound: outbound.clone(),
        authorities: Authorities::new(),
        credentials: BTreeMap::new(),
    };
    for (name, app) in &config.apps {
        let key = format!("apps.{name}");
        let app_name = match AppName::parse(name) {
            Ok(app_name) => app_name,
            Err(error) => {
                findings.value(&key, error, None);
                continue;
            }
        };
        let installed = authority(&key, &app_name, app, config, &outbound, by, before, findings);
        let is_entra = installed.as_ref().is_some_and(|one| one.authority.provider() == Provider::Entra);
        let had_one = before.get(&app_name).is_some_and(Installed::has_credentials);
        let credentials = credentials::read(&key, app, is_entra, secrets, by, had_one, findings);
        let built = installed.and_then(|mut installed| {
            let kept = before.get(&app_name).map_or(&[][..], |one| &one.bases);
            let naming = installed.authority.scope_naming();
            installed.bases = bases::build(&key, &app.relay, naming, &outbound, by, kept, findings)?;
            let redirect_uri = config.redirect_uri(name).expect("the app is in the configuration");
            Some((build(&key, &app_name, app, redirect_uri, &installed, findings)?, installed))
        });
        if let (Some((built, installed)), Some(credentials)) = (built, credentials) {
            prepared.apps.insert(app_name.clone(), Arc::new(built));
            prepared.authorities.insert(app_name.clone(), installed);
            prepared.credentials.insert(app_name, credentials);
        }
    }
    prepared
}

/// Takes the apps into service. From here on their credentials are used.
pub(super) fn install(prepared: PreparedApps, before: &Authorities) -> (Apps, Authorities) {
    for (name, credentials) in prepared.credentials {
        let known = before.get(&name).map(|installed| &*installed.authority);
        prepared.authorities[&name].authority.succeed(known, credentials);
    }
    (prepared.apps, prepared.authorities)
}

#[expect(clippy::too_many_arguments, reason = "one app's words, and what they are read with")]
fn authority(
    key: &str,
    name: &AppName,
    app: &AppConfig,
    config: &Config,
    outbound: &Arc<Outbound>,
    by: &By<'_>,
    before: &Authorities,
    findings: &mut Findings<'_>,
) -> Option<Installed> {
    let mut wanted = authority_config(key, app, config, &by.environment.secrets(), findings)?;
    wanted.outbound = Arc::clone(outbound);
    if let Some(installed) = before.get(name).filter(|installed| installed.config == wanted) {
        return Some(installed.clone());
    }
    let parts = AuthorityParts {
        clock: by.ports.clock.clone(),
        random: by.ports.random.clone(),
        observer: Arc::new(AppCounters { app: name.clone(), metrics: by.metrics.clone() }),
        token_hosts: AppHosts { app: name.to_string(), known: by.ports.token_hosts.clone() },
    };
    match OpenIdAuthority::new(wanted.clone(), Vec::new(), parts) {
        Ok(authority) => {
            Some(Installed { config: wanted, authority: Arc::new(authority), bases: Vec::new() })
        }
        Err(error) => {
            let key = format!("{key}.{}", error.key());
            match error {
                AuthorityConfigError::Roots(_) => findings.file(&key, error),
                _ => findings.value(&key, &error, error.nearest().map(str::to_owned)),
            }
            None
        }
    }
}

/// Logs the way by which each authority is reached, the collector of traces, and each webhook.
pub(super) fn log_ways_out(config: &Config) {
    for (app, settings) in &config.apps {
        let (authority, way) = (settings.authority.host(), config.outbound.way_to(&settings.authority));
        tracing::info!(app, authority, "the authority is reached {way}");
    }
    if let Some(traces) = &config.traces {
        let (collector, way) = (traces.endpoint.host(), config.outbound.way_to(&traces.endpoint));
        tracing::info!(collector, "the collector of traces is reached {way}");
    }
    for (webhook, settings) in &config.webhooks {
        let (host, way) = (settings.url.host(), config.outbound.way_to(&settings.url));
        tracing::info!(webhook, host, "the webhook is reached {way}");
    }
}

fn outbound(config: &Config, secrets: &SecretReader, findings: &mut Findings<'_>) -> Option<Outbound> {
    let outbound = &config.outbound;
    let password = match outbound.proxy_password_file.as_deref().map(|path| (path, secrets.read_text(path))) {
        None => None,
        Some((path, Ok(password))) => {
            public_file::warn_of_a_secret("outbound.proxy_password_file", path, &password, findings);
            Some(password)
        }
        Some((_, Err(error))) => {
            findings.file("outbound.proxy_password_file", error);
            return None;
        }
    };
    let login = outbound.proxy_username.as_deref().zip(password.as_ref().map(|password| password.as_str()));
    let roots = match &outbound.proxy_ca_file {
        Some(path) => {
            Roots::Only(public_file::certificates("outbound.proxy_ca_file", path, secrets, findings)?)
        }
        None => Roots::System,
    };
    Some(Outbound::new(outbound.routes.clone(), login, roots))
}

fn build(
    key: &str,
    name: &AppName,
    app: &AppConfig,
    redirect_uri: String,
    installed: &Installed,
    findings: &mut Findings<'_>,
) -> Option<App> {
    let authority = installed.authority.clone();
    let scopes = authority.scope_naming().scopes(&app.scopes.join(" "));
    let scopes = scopes
        .map_err(|scope| {
            findings.value(
                &format!("{key}.scopes"),
                format_args!("{scope:?} holds a character that no scope has (RFC 6749 section 3.3)"),
                None,
            );
        })
        .ok()?;
    Some(App {
        credentials: authority.clone(),
        tenants: match authority.provider() {
            Provider::Entra => app.tenants.clone(),
            Provider::OpenId => Tenants::Everyone,
        },
        home_tenant: authority.home_tenant().map(str::to_owned),
        authority,
        display_name: app.display_name.clone(),
        purpose: app.purpose.clone(),
        support_contact: app.support_contact.clone(),
        scopes,
        return_urls: app.return_urls.clone(),
        redirect_uri,
        mount: app.mount(name.as_str()).map(str::to_owned),
        bases: installed.bases.clone(),
    })
}

fn authority_config(
    key: &str,
    app: &AppConfig,
    config: &Config,
    secrets: &SecretReader,
    findings: &mut Findings<'_>,
) -> Option<AuthorityConfig> {
    let mut authority = AuthorityConfig::new(app.authority.as_str(), app.client_id.clone());
    authority.provider = app.provider.map(|provider| match provider {
        config::Provider::Entra => Provider::Entra,
        config::Provider::OpenId => Provider::OpenId,
    });
    authority.tenants.clone_from(&app.tenants);
    if !app.endpoint_hosts.is_empty() {
        authority.endpoint_hosts = Some(app.endpoint_hosts.clone());
    }
    if let Some(path) = &app.authority_ca {
        let key = format!("{key}.authority_ca");
        authority.roots = Roots::Only(public_file::certificates(&key, path, secrets, findings)?);
    }
    authority.timeout = config.limits.authority_timeout;
    authority.home_tenant.clone_from(&app.home_tenant);
    authority.refresh_ends_tokens = app.refresh_ends_tokens;
    authority.continuous_access_evaluation = app.continuous_access_evaluation;
    authority.token_endpoint_auth_method = app.token_endpoint_auth_method.map(|method| match method {
        SecretAuthMethod::Post => SecretMethod::Post,
        SecretAuthMethod::Basic => SecretMethod::Basic,
    });
    authority.assertion_audience = match &app.assertion_audience {
        config::AssertionAudience::TokenEndpoint => AssertionAudience::TokenEndpoint,
        config::AssertionAudience::Issuer => AssertionAudience::Issuer,
        config::AssertionAudience::Url(url) => AssertionAudience::Url(url.clone()),
    };
    authority.refresh_token_reuse = app.refresh_token_reuse.map(|reuse| reuse == RefreshTokenReuse::Safe);
    authority.response_mode = match app.response_mode {
        config::ResponseMode::Query => ResponseMode::Query,
        config::ResponseMode::FormPost => ResponseMode::FormPost,
    };
    Some(authority)
}
