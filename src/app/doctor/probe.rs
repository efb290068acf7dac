//! The probes: they read the files, ask the authorities and look at the store. They decide nothing.
//!
//! Nothing is changed but at Redis, where a script tries what the user may do (`store::redis::examine`).
//! The store is opened to read it alone: it gets no name, and an embedded one is held for moments. A
//! client secret goes only where the daemon would send it: the record of token hosts is read from the
//! store first, and where it cannot be read, no credential is presented from here. Which credentials
//! operators retired is in the store too.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use futures_util::future::join_all;

use super::facts::{Answer, AppFacts, CollectorFacts, CredentialFacts, Facts, StoreFacts, WebhookFacts};
use crate::app::apps::{self, Authorities};
use crate::app::environment::Environment;
use crate::app::findings::{By, Checked, Findings};
use crate::app::process::Ports;
use crate::app::reading;
use crate::app::store::{self, PreparedStore};
use crate::app::traces;
use crate::app::webhooks;
use crate::authority::{OpenIdAuthority, RegistrationSeen};
use crate::broker::{App, Apps};
use crate::config::{AppConfig, Config, Loaded, StoreBackend};
use crate::domain::choice::Choices;
use crate::domain::id::AppName;
use crate::domain::random::Random;
use crate::domain::time::{Clock, Timestamp};
use crate::domain::token_hosts::TokenHosts;
use crate::domain::verdict::{AuthorityFailure, Disposition};
use crate::keyring::{Keyring, files as keyring_files};
use crate::notices::Webhook;
use crate::repository::{FiledUnder, Kind, Repository, Taken};
use crate::store::Store;
use crate::store::embedded::{EmbeddedConfig, EmbeddedStore, FILE_NAME};
use crate::store::redis::{self, Found, RedisConfig, RedisStore, StoreName};
use crate::telemetry::metrics::Metrics;
use crate::telemetry::traces::probe;

/// A Redis without a name is a new one, unless a daemon uses it.
const EMPTIED: &str = "Redis is empty, and a daemon that runs has named its store before: it came back \
                       empty, or is another one";

/// Looks at everything that a configuration names. `daemon_runs` is true if a daemon with this configuration
/// answers.
pub async fn examine(
    loaded: &Loaded,
    environment: &Environment,
    daemon_runs: bool,
    clock: Arc<dyn Clock>,
    random: Arc<dyn Random>,
) -> Facts {
    let Checked { mistakes, warnings } = reading::check(loaded, environment, clock.clone(), random.clone());
    let ports = Ports::new(clock, random);
    let config = &loaded.config;
    // The same is read once more, part by part: a mistake in one of them does not keep the others from being
    // looked at. What is wrong has been said above.
    let metrics = Arc::new(Metrics::new(env!("CARGO_PKG_VERSION")));
    let by = By { environment, ports: &ports, metrics: &metrics };
    let mut said = Findings::new(&loaded.places);
    let secrets = environment.secrets();
    let prepared = apps::prepare(config, &secrets, &by, &Authorities::new(), &mut said);
    let store = store::prepare(&config.store, &secrets, &ports, &mut said);
    let keyring = keyring_files::open_as(&config.sealing.keyring, environment.secrets()).ok().map(Arc::new);
    let traces = traces::prepare(config, &prepared.outbound, &by, &mut said);
    let webhooks = webhooks::prepare(config, &prepared.outbound, &by, &mut said);
    let (apps, authorities) = apps::install(prepared, &Authorities::new());

    // First the clocks: an answer of the token endpoint corrects our own.
    let mut looked: Vec<_> = authorities.iter().collect();
    looked.sort_by_key(|(name, _)| (*name).clone());
    let looked = looked.into_iter().map(|(name, installed)| async move {
        let seen = installed.authority.examine().await;
        (name, &installed.authority, seen)
    });
    let looked = join_all(looked).await;
    let seen_store = match &store {
        None => None,
        Some(PreparedStore::Embedded(path)) => Some(of_disk(path)),
        Some(PreparedStore::Redis(redis)) => {
            let remembers = redis.identity_file.is_some();
            let found = redis::examine(
                (**redis).clone(),
                ports.clock.clone(),
                ports.random.clone(),
                ports.store_tasks.clone(),
            );
            let mut found = found.await;
            if let Ok(Found { name: name @ StoreName::None, .. }) = &mut found
                && daemon_runs
            {
                *name = StoreName::Another(EMPTIED.to_owned());
            }
            Some(StoreFacts::Redis { place: place(config), found, remembers })
        }
    };
    let (collector, webhooks) =
        (of_collector(config, traces).await, of_webhooks(config, webhooks.webhooks, &ports).await);
    let decided = decided(store, seen_store.as_ref(), keyring, &apps, &ports).await;
    if let Ok(decided) = &decided {
        ports.token_hosts.take_up(&decided.hosts);
        for (name, authority, _) in &looked {
            authority.credentials().choose(&decided.choices.get(*name).cloned().unwrap_or_default());
        }
    }

    let mut facts = Facts {
        now: ports.clock.now(),
        config: loaded.places.file().display().to_string(),
        mistakes,
        warnings: loaded.warnings.iter().cloned().chain(warnings).collect(),
        left_out: config.apps.keys().filter(|name| !has(&apps, name)).cloned().collect(),
        apps: Vec::new(),
        store: seen_store,
        collector,
        webhooks,
    };
    for (name, authority, seen) in looked {
        let (Some(app), Some(settings)) = (apps.get(name), config.apps.get(name.as_str())) else { continue };
        let mut of_app = app_facts(name.as_str(), app, settings, config, authority, seen);
        if of_app.looked.problem.is_none() && of_app.looked.way.is_ok() {
            for credential in &mut of_app.credentials {
                credential.answer = match &decided {
                    Ok(_) => prove(authority, &credential.id).await,
                    Err(why) => Answer::ByDaemon(why.clone()),
                };
            }
            of_app.redirect = Some(authority.try_redirect(&app.redirect_uri, &app.scopes).await);
            let mut in_force = of_app.credentials.iter().filter(|one| !one.is_retired);
            // (What another provider has registered is nowhere to be read.)
            of_app.registration = match authority.is_entra() {
                true if decided.is_err() => {
                    let why = "no secret is sent from here, and without one there is no token with which to \
                               read the registration";
                    Some(RegistrationSeen::NotRead(why.to_owned()))
                }
                true if in_force.any(|one| one.answer == Answer::Accepted) => {
                    Some(authority.read_registration().await)
                }
                _ => None,
            };
        }
        facts.apps.push(of_app);
    }
    facts
}

fn has(apps: &Apps, name: &str) -> bool {
    apps.keys().any(|one| one.as_str() == name)
}

fn app_facts(
    name: &str,
    app: &App,
    settings: &AppConfig,
    config: &Config,
    authority: &OpenIdAuthority,
    looked: crate::authority::LookedAt,
) -> AppFacts {
    let set = authority.credentials();
    let reports = set.report(Timestamp::default());
    let is_retired = |id: &str| reports.iter().any(|one| one.label == id && one.standing.is_retired);
    let credentials = set.configured().map(|member| {
        let credential = member.credential();
        CredentialFacts {
            id: credential.id().to_owned(),
            kind: credential.kind(),
            expires_at: credential.expires_at(),
            is_guid: authority.is_entra() && credential.is_guid(),
            is_retired: is_retired(credential.id()),
            answer: Answer::NotAsked("the authority is not reached".to_owned()),
        }
    });
    AppFacts {
        name: name.to_owned(),
        client_id: settings.client_id.clone(),
        authority: settings.authority.as_str().to_owned(),
        home_tenant: authority.home_tenant().map(str::to_owned),
        way_out: config.outbound.way_to(&settings.authority),
        roots: match &settings.authority_ca {
            Some(_) => "authority_ca",
            None => "this machine's roots",
        },
        is_entra: authority.is_entra(),
        is_personal: authority.is_for_personal_accounts(),
        graph: authority.graph().map(str::to_ascii_lowercase),
        scopes: app.scopes.clone(),
        credentials: credentials.collect(),
        redirect_uri: app.redirect_uri.clone(),
        redirect: None,
        registration: None,
        looked,
    }
}

/// Proves a credential as `credentials verify` does.
async fn prove(authority: &OpenIdAuthority, id: &str) -> Answer {
    match authority.prove_credential(id).await {
        None => Answer::NotAsked("it is not in use".to_owned()),
        Some(Ok(())) => Answer::Accepted,
        Some(Err(failure)) => of_failure(failure),
    }
}

fn of_failure(failure: AuthorityFailure) -> Answer {
    let was_asked = failure.was_asked();
    let AuthorityFailure { cause, disposition, answer, .. } = failure;
    match disposition {
        Disposition::NextCredential => Answer::Rejected(cause, answer.error_codes),
        // `check` warns of the reason.
        _ if !was_asked => Answer::NotAsked(cause),
        _ => Answer::Unknown(cause, answer.error_codes),
    }
}

/// Asks the collector of traces, if one is configured and can be.
async fn of_collector(config: &Config, prepared: traces::Prepared) -> Option<CollectorFacts> {
    let (Some(wanted), traces::Prepared::On(settings)) = (&config.traces, prepared) else { return None };
    Some(CollectorFacts {
        url: wanted.endpoint.as_str().to_owned(),
        way_out: config.outbound.way_to(&wanted.endpoint),
        probed: probe(settings.collector.as_ref()).await,
    })
}

/// Asks each webhook's receiver, without an event.
async fn of_webhooks(config: &Config, webhooks: Vec<Arc<Webhook>>, ports: &Ports) -> Vec<WebhookFacts> {
    let asked = webhooks.iter().filter_map(|webhook| {
        let wanted = config.webhooks.get(webhook.name())?;
        Some(async move {
            Some(WebhookFacts {
                name: webhook.name().to_owned(),
                host: wanted.url.host().to_owned(),
                way_out: config.outbound.way_to(&wanted.url),
                probed: webhook.probe(&ports.clock).await?,
                heard: None,
            })
        })
    });
    join_all(asked).await.into_iter().flatten().collect()
}

fn of_disk(path: &Path) -> StoreFacts {
    let nearest = path.ancestors().find(|folder| folder.exists()).unwrap_or(path);
    let room = rustix::fs::statvfs(nearest).ok();
    StoreFacts::Embedded {
        path: path.to_owned(),
        // (One that cannot be looked at may be there.)
        is_there: path.join(FILE_NAME).try_exists().unwrap_or(true),
        room: room.map(|disk| {
            (disk.f_bavail.saturating_mul(disk.f_frsize), disk.f_blocks.saturating_mul(disk.f_frsize))
        }),
    }
}

fn place(config: &Config) -> String {
    match &config.store.backend {
        StoreBackend::Embedded { path } => path.display().to_string(),
        StoreBackend::Redis(redis) => redis.place(),
    }
}

/// What operators decided, as the store has it.
#[derive(Default)]
struct Decided {
    /// Which hosts the apps' secrets may be sent to.
    hosts: TokenHosts,
    /// Which client credentials are promoted or retired.
    choices: BTreeMap<AppName, Choices>,
}

/// Reads what operators decided. Where there is no store yet, nobody decided anything, and no secret was sent
/// anywhere.
///
/// # Errors
/// Why it cannot be read from here.
async fn decided(
    store: Option<PreparedStore>,
    seen: Option<&StoreFacts>,
    keyring: Option<Arc<Keyring>>,
    apps: &Apps,
    ports: &Ports,
) -> Result<Decided, String> {
    let unread = "where its secrets may be sent is in the store, and";
    match (store, seen) {
        (_, None) | (None, _) => Err(format!("{unread} mistakes keep that from being read")),
        (_, Some(StoreFacts::Redis { found: Err(_), .. })) => Err(format!("{unread} that cannot be reached")),
        (_, Some(StoreFacts::Embedded { is_there: false, .. })) => Ok(Decided::default()),
        (_, Some(StoreFacts::Redis { found: Ok(Found { name: StoreName::None, .. }), .. })) => {
            Ok(Decided::default())
        }
        (_, Some(StoreFacts::Redis { found: Ok(Found { name: StoreName::Another(_), .. }), .. })) => {
            Err(format!("{unread} that is not the one from before"))
        }
        (Some(store), Some(_)) => {
            let Some(keyring) = keyring else { return Err(format!("{unread} the keyring does not open")) };
            let store: Arc<dyn Store> = match store {
                PreparedStore::Embedded(path) => {
                    let opened = EmbeddedStore::read_only(&EmbeddedConfig::new(path), ports.clock.clone());
                    Arc::new(opened.map_err(|error| format!("{unread} reading it failed: {error}"))?)
                }
                PreparedStore::Redis(redis) => Arc::new(open_redis(*redis, ports)?),
            };
            let repository = Repository::new(store, keyring, ports.random.clone());
            let failed = |error| format!("{unread} reading it failed: {error}");
            let hosts: Option<Taken<TokenHosts>> =
                repository.pending(Kind::TokenHosts, &FiledUnder::only()).await.map_err(failed)?;
            let mut choices = BTreeMap::new();
            for app in apps.keys() {
                let id = FiledUnder::app(app);
                let read: Option<Taken<Choices>> =
                    repository.pending(Kind::CredentialChoices, &id).await.map_err(failed)?;
                choices.extend(read.map(|read| (app.clone(), read.value)));
            }
            Ok(Decided { hosts: hosts.map(|read| read.value).unwrap_or_default(), choices })
        }
    }
}

fn open_redis(mut config: RedisConfig, ports: &Ports) -> Result<RedisStore, String> {
    config.only_reads = true;
    RedisStore::new(config, ports.clock.clone(), ports.random.clone(), ports.store_tasks.clone())
        .map_err(|error| error.to_string())
}
