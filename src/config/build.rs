//! Conversion of the checked tree into typed values, with the checks that need more than one key or more than
//! a kind.
//!
//! Every function returns `None` if a value that it needs is missing or wrong, which has been reported by
//! then.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::audit::audit;
use super::context::{Context, Leaf, Section, pair, private_url};
use super::credentials_dir::is_credential_id;
use super::issuers::{issuer, jwt};
use super::outbound::outbound;
use super::relay::relay;
use super::rule;
use super::scope_list::scopes;
use super::sections::*;
use super::spec::nearest;
use super::traces::traces;
use super::tree::{Entries, Value};
use super::url::{HttpUrl, is_host_name, is_loopback_host, split_host_port};
use super::webhooks::webhook;
use crate::domain::account::is_for_personal_accounts;
use crate::domain::auth_method::{AuthMethod, AuthMethods};
use crate::domain::certificate_names::{San, SpiffeId};
use crate::domain::clouds::cloud_of;
use crate::domain::tenants::{Listed, Tenants};
use crate::domain::text::is_guid;

/// Longest words that pages show, in characters.
const LONGEST_WORDS: usize = 200;

/// Reads the whole configuration. It returns `None` only if a mistake was reported.
pub(super) fn config(context: &Context, entries: &Entries, env: &BTreeMap<String, String>) -> Option<Config> {
    let root = Section::root(context, entries);
    // All sections are read before any is given up, so that every mistake is found.
    let store = root.section("store").and_then(|section| store(&section));
    let sealing = root.section("sealing").and_then(|s| Some(SealingConfig { keyring: s.path("keyring")? }));
    let listen = root.section("listen").and_then(|section| listen(&section));
    let known_apps: Vec<&str> = match root.section("apps") {
        Some(apps) => apps.keys().collect(),
        None => Vec::new(),
    };
    let apps = root.map("apps", app);
    mounts_differ(&root, &apps);
    assertions_name_us(&root);
    let outbound =
        root.section("outbound").and_then(|section| outbound(&section, context, env, apps.values()));
    let known_issuers: Vec<&str> = match root.section("issuers") {
        Some(issuers) => issuers.keys().collect(),
        None => Vec::new(),
    };
    let issuers = root.map("issuers", |_, section| issuer(section, &apps));
    let callers = root.map("callers", |_, section| caller(section, &known_apps, &known_issuers));
    let admins = root.map("admins", |_, section| {
        Some(AdminConfig { authenticate: authenticate(section, &known_issuers, true) })
    });
    let pages = root.section("pages").map(|section| pages(&section));
    let limits = root.section("limits").and_then(|section| limits(&section));
    let log = root.section("log").and_then(|section| log(&section));
    let audit = root.section("audit").and_then(|section| audit(&section));
    let traces = root.section("traces").and_then(|section| traces(&section));
    let webhooks = root.map("webhooks", |_, section| webhook(section, &known_apps));
    Some(Config {
        store: store?,
        sealing: sealing?,
        listen: listen?,
        outbound: outbound?,
        apps,
        issuers,
        callers,
        admins,
        pages: pages?,
        limits: limits?,
        log: log?,
        audit: audit?,
        traces: traces?,
        webhooks,
    })
}

/// Reads only the parts that commands need while the rest is being corrected. Mistakes are dropped: the full
/// reading finds them again.
pub(super) fn readable(entries: &Entries, base: &Path) -> Readable {
    let context = Context::new(base, Vec::new());
    let root = Section::root(&context, entries);
    let (apps, issuers) = (root.section("apps"), root.section("issuers"));
    let apps: Vec<&str> = apps.iter().flat_map(|apps| apps.keys()).collect();
    let issuers: Vec<&str> = issuers.iter().flat_map(|issuers| issuers.keys()).collect();
    Readable {
        listen: root.section("listen").and_then(|section| listen(&section)),
        callers: root.map("callers", |_, section| caller(section, &apps, &issuers)),
        audit: root.section("audit").and_then(|section| audit(&section)),
    }
}

// === store ===

fn store(section: &Section<'_>) -> Option<StoreConfig> {
    let kind = section.text("kind")?;
    const REDIS_ONLY: &[&str] = &[
        "url",
        "username",
        "password_file",
        "ca_file",
        "client_certificate",
        "client_key",
        "sentinel_username",
        "sentinel_password_file",
        "wait_replicas",
        "wait_timeout",
        "journal",
    ];
    let backend = if kind.value == "redis" {
        if let Some(path) = section.text("path").filter(Leaf::is_given) {
            path.mistake("is for `kind = \"embedded\"` only");
        }
        redis(section).map(|redis| StoreBackend::Redis(Box::new(redis)))
    } else {
        for key in REDIS_ONLY {
            if let Some(leaf) = section.node(key).filter(Leaf::is_given) {
                leaf.mistake("is for `kind = \"redis\"` only");
            }
        }
        section.path("path").map(|path| StoreBackend::Embedded { path })
    };
    Some(StoreConfig {
        backend: backend?,
        serve_cached_for: section.duration("serve_cached_for")?,
        journal: section.path("journal"),
    })
}

fn redis(section: &Section<'_>) -> Option<RedisConfig> {
    let target = match section.text("url") {
        Some(url) => match redis_url(url.value) {
            Ok(target) => Some((url, target)),
            Err(problem) => {
                url.mistake(problem);
                None
            }
        },
        None => {
            // A URL of the wrong kind has been reported already; a missing one has not.
            if !section.is_wrong("url") {
                section.itself().mistake("`kind = \"redis\"` needs a `url`");
            }
            None
        }
    };
    pair(section, "client_certificate", "client_key");
    let (url, target) = target?;
    if !matches!(target.kind, RedisKind::Sentinel { .. }) {
        for key in ["sentinel_username", "sentinel_password_file"] {
            if let Some(leaf) = section.text(key) {
                leaf.mistake("is for a `url` that names sentinels only");
            }
        }
    } else if let Some(username) = section.text("sentinel_username")
        && section.text("sentinel_password_file").is_none()
    {
        username.mistake("needs `sentinel_password_file` beside it");
    }
    if let Some(username) = section.text("username")
        && section.text("password_file").is_none()
    {
        username
            .mistake("needs `password_file` beside it: without one Redis is spoken to as its user `default`");
    }
    if !target.tls {
        for key in ["ca_file", "client_certificate", "client_key"] {
            if let Some(leaf) = section.text(key) {
                leaf.mistake("needs TLS: let the `url` begin with `rediss`");
            }
        }
        if !target.hosts.iter().all(|host| is_loopback_host(&host.host)) {
            let beside = match target.kind {
                RedisKind::Sentinel { .. } => {
                    ", and anyone who can change a sentinel's answers is sent the password"
                }
                _ => "",
            };
            url.warning(format!(
                "the store is reached without TLS; records are sealed, but the password and \
                the names of connections can be read on the way{beside}; `rediss` uses TLS"
            ));
        }
    }
    Some(RedisConfig {
        username: section.string("username"),
        password_file: section.path("password_file"),
        ca_file: section.path("ca_file"),
        client_certificate: section.path("client_certificate"),
        client_key: section.path("client_key"),
        sentinel_username: section.string("sentinel_username"),
        sentinel_password_file: section.path("sentinel_password_file"),
        wait_replicas: section.number("wait_replicas")?,
        wait_timeout: section.duration("wait_timeout")?,
        ..target
    })
}

/// Parses a Redis URL. The messages never repeat it: it may have a password all the same.
pub(super) fn redis_url(text: &str) -> Result<RedisConfig, String> {
    const FORMS: &str = "must be `redis://host:6379/0`, `redis+sentinel://host:26379,host:26379/primary` or \
        `redis+cluster://host:6379,host:6379`, each with `rediss` for TLS";
    let (scheme, rest) = text.split_once("://").ok_or(FORMS)?;
    let (tls, kind, default_port) = match scheme {
        "redis" => (false, "standalone", 6379),
        "rediss" => (true, "standalone", 6379),
        "redis+sentinel" => (false, "sentinel", 26379),
        "rediss+sentinel" => (true, "sentinel", 26379),
        "redis+cluster" => (false, "cluster", 6379),
        "rediss+cluster" => (true, "cluster", 6379),
        _ => return Err(FORMS.to_owned()),
    };
    if rest.contains('@') {
        return Err("must not hold a user or password: use `username` and `password_file`".to_owned());
    }
    if rest.contains(['?', '#']) {
        return Err("must not hold options (`?…`) or a fragment (`#…`)".to_owned());
    }
    let (hosts, path) = rest.split_once('/').unwrap_or((rest, ""));
    let hosts = hosts
        .split(',')
        .map(|host| {
            let (host, port) = split_host_port(host).map_err(|error| format!("a host in it {error}"))?;
            Ok(HostPort { host, port: port.unwrap_or(default_port) })
        })
        .collect::<Result<Vec<_>, String>>()?;
    let database = |text: &str| match text {
        "" => Ok(0),
        text => text.parse::<u32>().map_err(|_| "the database after the `/` must be a number".to_owned()),
    };
    let (kind, db) = match kind {
        "standalone" if hosts.len() > 1 => {
            return Err(
                "names several hosts: sentinels are named by `redis+sentinel`, nodes of a Cluster by \
                `redis+cluster`"
                    .to_owned(),
            );
        }
        "standalone" => (RedisKind::Standalone, database(path)?),
        "sentinel" => {
            let (primary, db) = path.split_once('/').unwrap_or((path, ""));
            if primary.is_empty() {
                return Err(
                    "must name the primary after the hosts: `redis+sentinel://host:26379/primary`".to_owned()
                );
            }
            (RedisKind::Sentinel { primary: primary.to_owned() }, database(db)?)
        }
        _ => {
            if database(path)? != 0 {
                return Err("a Cluster has database 0 only: let the `url` end with the hosts".to_owned());
            }
            (RedisKind::Cluster, 0)
        }
    };
    Ok(RedisConfig {
        kind,
        hosts,
        tls,
        db,
        username: None,
        password_file: None,
        ca_file: None,
        client_certificate: None,
        client_key: None,
        sentinel_username: None,
        sentinel_password_file: None,
        wait_replicas: 0,
        wait_timeout: Duration::ZERO,
    })
}

// === listeners ===

fn listen(section: &Section<'_>) -> Option<ListenConfig> {
    let public_section = section.section("public")?;
    let ops_section = section.section("ops")?;
    let mut sockets = Vec::new();

    let public_address = public_section.address("address");
    let public_base_url = host_url(&public_section, "base_url", "`/callback/{app}`");
    let issuer = host_url(section, "issuer", "`/oauth2/token`");
    let public_tls = tls(&public_section);
    sockets.extend(public_address.as_ref().map(|leaf| leaf.with(Socket::Tcp(leaf.value))));
    section.not_empty("local", "callers could not reach the daemon; leave it out for the default");
    let local = listeners(section, "local", 0o666, &mut sockets);
    let admin = listeners(section, "admin", 0o600, &mut sockets);
    let ops_address = ops_section.address("address");
    let ops_tls = tls(&ops_section);
    sockets.extend(ops_address.as_ref().map(|leaf| leaf.with(Socket::Tcp(leaf.value))));

    for (index, socket) in sockets.iter().enumerate() {
        if let Some(other) = sockets[..index].iter().find(|other| other.value.collides(&socket.value)) {
            // Report the key that the user wrote.
            let (culprit, other) = if socket.is_given() { (socket, other) } else { (other, socket) };
            culprit.mistake(format!("the same socket as `{}`", other.path()));
        }
    }
    Some(ListenConfig {
        issuer,
        public: PublicListener {
            address: public_address?.value,
            base_url: public_base_url?,
            tls: public_tls,
        },
        local,
        admin,
        ops: OpsListener { address: ops_address?.value, tls: ops_tls },
    })
}

enum Socket {
    Tcp(SocketAddr),
    Unix(PathBuf),
}

impl Socket {
    fn collides(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Tcp(one), Self::Tcp(other)) => {
                // Port 0 means any free port.
                one.port() == other.port()
                    && one.port() != 0
                    && (one.ip() == other.ip() || one.ip().is_unspecified() || other.ip().is_unspecified())
            }
            (Self::Unix(one), Self::Unix(other)) => one == other,
            _ => false,
        }
    }
}

fn listeners<'a>(
    parent: &Section<'a>,
    key: &str,
    default_mode: u32,
    sockets: &mut Vec<Leaf<'a, Socket>>,
) -> Vec<Listener> {
    let mut all = Vec::new();
    for section in parent.sections(key) {
        let itself = section.itself();
        let tls = tls(&section);
        let accept = accept(&section, tls.as_ref(), key == "admin");
        match (section.text("unix"), section.node("address")) {
            (Some(_), Some(_)) => itself.mistake("has both `unix` and `address`: make two listeners of it"),
            (None, None) => {
                if !section.has_wrong_keys() {
                    itself.mistake("needs `unix` (a path) or `address` (IP and port)");
                }
            }
            (Some(leaf), None) => {
                let path = section.resolve(leaf.value);
                if path.as_os_str().len() > LONGEST_SOCKET_PATH {
                    leaf.mistake(format!(
                        "is longer than the {LONGEST_SOCKET_PATH} bytes that the path of a \
                        Unix socket may have"
                    ));
                }
                if section.is_given("tls") {
                    leaf.mistake("a Unix socket has no TLS");
                }
                let mode = match section.text("mode") {
                    None => default_mode,
                    Some(mode) => match u32::from_str_radix(mode.value.trim_start_matches("0o"), 8) {
                        Ok(bits) if bits <= 0o777 => bits,
                        _ => {
                            mode.mistake("must be permission bits in octal, such as \"0660\"");
                            default_mode
                        }
                    },
                };
                sockets.push(leaf.with(Socket::Unix(path.clone())));
                all.push(Listener::Unix { path, mode, accept });
            }
            (None, Some(_)) => {
                if let Some(mode) = section.text("mode") {
                    mode.mistake("is for `unix` only");
                }
                let Some(leaf) = section.address("address") else { continue };
                let address = leaf.value;
                if !address.ip().is_loopback() && !section.has("tls") {
                    leaf.mistake(
                        "plain TCP is for loopback addresses only, since tokens would cross the \
                        network in clear: give it `tls`, or bind 127.0.0.1",
                    );
                }
                sockets.push(leaf.with(Socket::Tcp(address)));
                all.push(Listener::Tcp { address, tls, accept });
            }
        }
    }
    all
}

fn tls(section: &Section<'_>) -> Option<Tls> {
    let section = section.section("tls")?;
    let (client_ca, client_crl) = (section.path("client_ca"), section.path("client_crl"));
    if let (None, Some(leaf)) = (&client_ca, section.text("client_crl")) {
        leaf.mistake("needs `client_ca` beside it");
    }
    // (Where browsers come, or Prometheus, the key is unknown.)
    let http2 = section.bool("http2").unwrap_or(false);
    let (certificate, key) = (section.path("certificate")?, section.path("key")?);
    Some(Tls { certificate, key, client_ca, client_crl, http2 })
}

/// Reads which ways to authenticate count at a listener: by default all that it can carry.
fn accept(section: &Section<'_>, tls: Option<&Tls>, is_admin: bool) -> AuthMethods {
    let is_unix = section.has("unix");
    let has_client_ca = tls.is_some_and(|tls| tls.client_ca.is_some());
    let problem = |method: AuthMethod| match method {
        AuthMethod::UnixUser if !is_unix => {
            Some("is for a Unix socket: over TCP the kernel does not say who calls")
        }
        AuthMethod::Spiffe | AuthMethod::San if is_unix => {
            Some("needs a client certificate, and a Unix socket has no TLS")
        }
        AuthMethod::Spiffe | AuthMethod::San if !has_client_ca => {
            Some("needs a client certificate: give `tls` a `client_ca`, the authorities to verify it by")
        }
        AuthMethod::ClientAssertion if is_admin => {
            Some("is for the token endpoint, and the admin API has none")
        }
        AuthMethod::Handles if is_admin => Some("are for the relay, and the admin API has none"),
        _ => None,
    };
    if !section.is_given("accept") {
        return AuthMethod::ALL.into_iter().filter(|method| problem(*method).is_none()).collect();
    }
    section.not_empty("accept", "nobody could prove anything here; leave it out for all that can be carried");
    let mut accepted = Vec::new();
    for leaf in section.texts("accept") {
        let Some(method) = AuthMethod::of_word(leaf.value) else { continue };
        match problem(method) {
            Some(problem) => leaf.mistake(format!("`{}` {problem}", leaf.value)),
            None => accepted.push(method),
        }
    }
    let accepted: AuthMethods = accepted.into_iter().collect();
    if has_client_ca
        && !accepted.iter().any(AuthMethod::needs_certificate)
        && let Some(tls) = section.section("tls")
        && let Some(leaf) = tls.text("client_ca")
    {
        leaf.warning("has no effect, since `accept` has neither `spiffe` nor `san`");
    }
    accepted
}

/// Reads a URL that ends after its host and port, without a slash at the end. `path` is put behind it.
fn host_url(section: &Section<'_>, key: &str, path: &str) -> Option<String> {
    let leaf = section.text(key)?;
    let url = private_url(&leaf)?;
    if !matches!(url.path(), "" | "/") || url.query().is_some() {
        leaf.mistake(format!("must end after the host and port: {path} is put behind it"));
        return None;
    }
    Some(leaf.value.trim_end_matches('/').to_owned())
}

// === apps ===

fn app(name: &str, section: &Section<'_>) -> Option<AppConfig> {
    let provider = section.choice("provider", &[("entra", Provider::Entra), ("openid", Provider::OpenId)]);
    let authority = section.text("authority").and_then(|leaf| {
        let url = private_url(&leaf)?;
        if url.query().is_some() {
            leaf.mistake("must not hold a query (`?…`)");
            return None;
        }
        if !url.is_https() {
            leaf.warning("is plain http, which is for tests on this machine only");
        }
        Some(url)
    });
    let entra = provider == Some(Provider::Entra)
        || provider.is_none() && authority.as_ref().is_some_and(|url| cloud_of(url.host()).is_some());

    for leaf in section.texts("endpoint_hosts") {
        if !is_host_name(leaf.value) && leaf.value.parse::<std::net::IpAddr>().is_err() {
            leaf.mistake("must be a host name or an IP address, without scheme, port or path");
        }
    }
    section.not_empty("scopes", "name what the app asks for, such as \"Mail.Read\"");
    let scopes = scopes(section, false);
    scopes_make_sense(section, &scopes, entra);
    for leaf in section.texts("return_urls") {
        private_url(&leaf);
    }
    if let Some(leaf) = section.text("client_id") {
        client_id(&leaf, entra);
    }
    if let Some(leaf) = section.text("redirect_uri")
        && let Some(url) = private_url(&leaf)
    {
        let ours = format!("/callback/{name}");
        if url.path() != ours {
            leaf.warning(format!(
                "the daemon answers at {ours} only: unless what stands before it turns {} \
                into that, users end on an error page after they signed in",
                url.path()
            ));
        }
    }
    if let Some(leaf) = section.text("home_tenant") {
        if provider == Some(Provider::OpenId) {
            leaf.mistake("only Entra has tenants");
        } else if !is_host_name(leaf.value) {
            leaf.mistake("must be a tenant's id or one of its domains");
        }
    }
    if let Some(leaf) = section.text("vault_mount") {
        vault_mount(&leaf);
    }
    let tenants = tenants(section, provider, authority.as_ref());
    let credentials = credentials(section);
    Some(AppConfig {
        client_id: section.string("client_id")?,
        authority: authority?,
        provider,
        authority_ca: section.path("authority_ca"),
        endpoint_hosts: lower_case(section.texts("endpoint_hosts")),
        scopes,
        tenants,
        return_urls: section.texts("return_urls").iter().map(|leaf| leaf.value.to_owned()).collect(),
        home_tenant: section.string("home_tenant"),
        vault_mount: section.string("vault_mount"),
        response_mode: section.choice(
            "response_mode",
            &[("query", ResponseMode::Query), ("form_post", ResponseMode::FormPost)],
        )?,
        refresh_token_reuse: section.choice(
            "refresh_token_reuse",
            &[("safe", RefreshTokenReuse::Safe), ("never", RefreshTokenReuse::Never)],
        ),
        refresh_ends_tokens: section.bool("refresh_ends_tokens")?,
        continuous_access_evaluation: section.bool("continuous_access_evaluation")?,
        redirect_uri: section.string("redirect_uri"),
        token_endpoint_auth_method: section.choice(
            "token_endpoint_auth_method",
            &[
                ("client_secret_post", SecretAuthMethod::Post),
                ("client_secret_basic", SecretAuthMethod::Basic),
            ],
        ),
        assertion_audience: assertion_audience(section, entra)?,
        display_name: for_people(section, "display_name"),
        purpose: for_people(section, "purpose"),
        support_contact: for_people(section, "support_contact"),
        credentials,
        credentials_dir: section.path("credentials_dir"),
        relay: section.section("relay").map(|section| relay(&section)).unwrap_or_default(),
    })
}

fn vault_mount(leaf: &Leaf<'_, &str>) {
    let mount = leaf.value;
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    let is_part =
        |part: &str| !part.is_empty() && part.bytes().all(plain) && !matches!(part, "." | ".." | "creds");
    let first = mount.split('/').next().unwrap_or_default();
    if mount.len() > 63 || !mount.split('/').all(is_part) {
        leaf.mistake(
            "must be 1 to 63 letters, digits, `-`, `_`, `.` and `/`: parts like `team/outlook`, none of them \
             empty, `.`, `..` or `creds`",
        );
    } else if RESERVED_MOUNTS.contains(&first) {
        leaf.mistake(format!("`{first}` is a word of the API: choose another"));
    }
}

/// Reports each mount that two apps have. The one that is written in the file is the mistake.
fn mounts_differ(root: &Section<'_>, apps: &BTreeMap<String, AppConfig>) {
    let Some(sections) = root.section("apps") else { return };
    for (name, app) in apps {
        let other =
            apps.iter().find(|(other, config)| *other != name && config.mount(other) == app.mount(name));
        if let (Some((other, _)), Some(leaf)) =
            (other, sections.section(name).and_then(|section| section.text("vault_mount")))
        {
            leaf.mistake(format!("is the mount of the app {other}, too"));
        }
    }
}

/// Warns about callers that sign for an issuer which the configuration does not name: then it is the address
/// of a listener, which another host may have, too.
fn assertions_name_us(root: &Section<'_>) {
    let (Some(listen), Some(callers)) = (root.section("listen"), root.section("callers")) else { return };
    if listen.is_given("issuer") {
        return;
    }
    for caller in callers.keys().filter_map(|name| callers.section(name)) {
        for way in caller.sections("authenticate") {
            if let Some(leaf) = way.node("client_assertion") {
                leaf.warning(
                    "without `listen.issuer` the assertion's `aud` is a listener's address, which two hosts \
                    may have: give the URL at which callers reach this broker",
                );
            }
        }
    }
}

/// Warns about a suspicious client id. The authority's room reports what is certainly wrong.
fn client_id(leaf: &Leaf<'_, &str>, entra: bool) {
    let bare = leaf.value.trim_matches(['{', '}', '"', '\'', ' ']);
    if leaf.value == PLACEHOLDER_CLIENT_ID {
        leaf.warning("is a placeholder: put the Application (client) ID from Entra's overview page there");
    } else if entra && is_guid(bare) && bare != leaf.value {
        leaf.warning(format!("write it without what stands around it: `{bare}`"));
    } else if entra && !is_guid(leaf.value) {
        leaf.warning(
            "is no Application (client) ID, which Entra's overview page of the app shows as \
            8-4-4-4-12 hexadecimal digits",
        );
    }
}

fn assertion_audience(section: &Section<'_>, entra: bool) -> Option<AssertionAudience> {
    let leaf = section.text("assertion_audience")?;
    let audience = match leaf.value {
        "token_endpoint" => return Some(AssertionAudience::TokenEndpoint),
        "issuer" => AssertionAudience::Issuer,
        url if url.contains("://") => AssertionAudience::Url(private_url(&leaf)?.as_str().to_owned()),
        other => {
            leaf.mistake_near(
                "must be \"token_endpoint\", \"issuer\" or a URL",
                nearest(other, ["token_endpoint", "issuer"]),
            );
            return None;
        }
    };
    if entra {
        leaf.mistake("Entra takes an assertion for its token endpoint alone: leave this out");
    }
    Some(audience)
}

fn lower_case(leaves: Vec<Leaf<'_, &str>>) -> Vec<String> {
    leaves.iter().map(|leaf| leaf.value.to_ascii_lowercase()).collect()
}

/// Reads scopes in the grammar of RFC 6749 §3.3; a rule may also have `*`.
fn scopes_make_sense(section: &Section<'_>, scopes: &[String], entra: bool) {
    let Some(list) = section.node("scopes").filter(|_| !scopes.is_empty()) else { return };
    let has = |name: &str| scopes.iter().any(|scope| scope.eq_ignore_ascii_case(name));
    if entra && !has("offline_access") {
        list.warning(
            "without `offline_access` Entra issues no refresh token, and every connection ends \
            with its first access token",
        );
    }
    if !has("openid") {
        list.warning("without `openid` the authority does not say whose account was connected");
    }
}

fn tenants(section: &Section<'_>, provider: Option<Provider>, authority: Option<&HttpUrl>) -> Tenants {
    let tenant = authority.and_then(|url| url.path().split('/').nth(1));
    let consumers = tenant.is_some_and(is_for_personal_accounts);
    let Some(list) = section.node("tenants") else {
        return match provider {
            Some(Provider::OpenId) => Tenants::Everyone,
            _ if consumers => Tenants::personal(),
            _ => Tenants::any_organization(),
        };
    };
    if provider == Some(Provider::OpenId) {
        list.mistake("only Entra has tenants");
        return Tenants::Everyone;
    }
    section.not_empty("tenants", "nobody could connect; `\"*\"` is every work or school tenant");
    let mut listed = Listed::default();
    let mut all_valid = true;
    for leaf in section.texts("tenants") {
        if listed.add(leaf.value).is_err() {
            all_valid = false;
            let hint = if leaf.value.contains('.') {
                "a domain can move to another tenant: use the tenant's id, which Entra shows on its \
                 overview page"
            } else {
                "must be a tenant's id, \"*\" for every work or school tenant, or \"personal\""
            };
            leaf.mistake_near(hint, nearest(leaf.value, ["personal"]));
        }
    }
    let is_empty = listed.is_empty();
    let tenants = Tenants::Listed(listed);
    if consumers && all_valid && !is_empty && !tenants.list_personal() {
        list.mistake(
            "the authority `consumers` has personal accounts only: `tenants` must hold \"personal\"",
        );
    }
    tenants
}

fn credentials(section: &Section<'_>) -> Vec<CredentialConfig> {
    if let Some(directory) = section.node("credentials_dir") {
        if section.has("credentials") {
            directory.mistake("cannot be used together with `credentials`: keep one of the two");
        }
    } else if section.items("credentials").is_empty() {
        section.itself().warning(
            "has no client credentials, so no token can be fetched: add \
            `[[….credentials]]` or `credentials_dir`",
        );
    }
    let mut all: Vec<CredentialConfig> = Vec::new();
    for item in section.sections("credentials") {
        let kinds = [
            ("secret", CredentialKind::Secret),
            ("certificate", CredentialKind::Certificate),
            ("federated", CredentialKind::Federated),
        ];
        let kind = item.choice("kind", &kinds);
        let expires = item.instant("expires");
        if let Some(id) = item.text("id") {
            if !is_credential_id(id.value) {
                id.mistake("must be up to 63 of `A-Z a-z 0-9 . _ -` and begin with a letter or digit");
            } else if all.iter().any(|earlier| earlier.id == id.value) {
                id.mistake("another credential of this app has the same id");
            }
        }
        if let Some(key) = item.text("key")
            && kind.is_some_and(|kind| kind != CredentialKind::Certificate)
        {
            key.mistake("is for `kind = \"certificate\"` only");
        }
        if kind == Some(CredentialKind::Secret) && !item.has("expires") {
            item.itself()
                .warning("a secret without `expires`: nobody will be warned before it stops working");
        }
        if let Some(leaf) = item.node("expires")
            && kind.is_some_and(|kind| kind != CredentialKind::Secret)
        {
            leaf.warning("is ignored: only a secret does not know when it expires");
        }
        if let (Some(id), Some(kind), Some(file)) = (item.string("id"), kind, item.path("file")) {
            all.push(CredentialConfig { id, kind, file, key: item.path("key"), expires });
        }
    }
    all
}

// === callers and admins ===

fn caller(section: &Section<'_>, known_apps: &[&str], known_issuers: &[&str]) -> Option<CallerConfig> {
    Some(CallerConfig {
        authenticate: authenticate(section, known_issuers, false),
        display_name: for_people(section, "display_name"),
        rate_limit: section.number("rate_limit"),
        connection_rate_limit: section.number("connection_rate_limit"),
        allow: section
            .sections("allow")
            .iter()
            .filter_map(|section| rule::rule(section, known_apps))
            .collect(),
    })
}

fn pages(section: &Section<'_>) -> PagesConfig {
    PagesConfig {
        name: for_people(section, "name"),
        logo: section.path("logo"),
        support: for_people(section, "support"),
        languages_dir: section.path("languages_dir"),
    }
}

/// Reads words that pages show.
fn for_people(section: &Section<'_>, key: &str) -> Option<String> {
    let leaf = section.text(key)?;
    if leaf.value.chars().count() > LONGEST_WORDS || leaf.value.chars().any(char::is_control) {
        leaf.warning(format!(
            "should be one line of at most {LONGEST_WORDS} characters: users' pages show no more of it"
        ));
    }
    Some(leaf.value.chars().filter(|c| !c.is_control()).take(LONGEST_WORDS).collect())
}

fn authenticate(section: &Section<'_>, known_issuers: &[&str], is_admin: bool) -> Vec<Authenticate> {
    section.not_empty("authenticate", "nobody could prove to be this one");
    let mut all = Vec::new();
    for item in section.sections("authenticate") {
        let itself = item.itself();
        let user = item.node("unix_user").and_then(|leaf| match &leaf.value.value {
            Value::String(name)
                if name.bytes().any(|b| b.is_ascii_whitespace() || b == b':' || b == b'/') =>
            {
                leaf.mistake("is not a user's name");
                None
            }
            Value::String(name) => Some(UnixUser::Name(name.clone())),
            Value::Integer(Some(id)) => u32::try_from(*id).ok().map(UnixUser::Id),
            _ => None,
        });
        let keys = item.text("api_keys").and_then(|leaf| {
            if leaf.value.starts_with("twk_") {
                leaf.mistake(
                    "is an API key, but must be the file of its hash: `tokenward callers add-key` \
                    writes it; retire this key, since it has been written down",
                );
                return None;
            }
            Some(item.resolve(leaf.value))
        });
        let spiffe = item.text("spiffe").and_then(|leaf| match SpiffeId::parse(leaf.value) {
            Ok(id) => Some(Authenticate::Spiffe(id)),
            Err(problem) => {
                leaf.mistake(problem.to_string());
                None
            }
        });
        let san = item.text("san").and_then(|leaf| match San::parse(leaf.value) {
            Ok(name) => Some(Authenticate::San(name)),
            Err(problem) => {
                leaf.mistake(problem.to_string());
                None
            }
        });
        let token = item.section("jwt").and_then(|section| jwt(&section, known_issuers));
        let own_keys = item.section("client_assertion").and_then(|section| section.path("jwks_file"));
        let ways = [
            user.map(Authenticate::UnixUser),
            keys.map(Authenticate::ApiKeys),
            spiffe,
            san,
            token.map(Authenticate::Jwt),
            own_keys.map(Authenticate::ClientAssertion),
        ];
        let has_keys = |way: &Authenticate| matches!(way, Authenticate::ClientAssertion(_));
        if ways.iter().flatten().any(has_keys) && all.iter().any(has_keys) {
            itself.mistake("is a second `client_assertion`: one file holds all of the caller's keys");
        }
        let mut ways = ways.into_iter().flatten();
        match (ways.next(), ways.next()) {
            (Some(_), Some(_)) => itself.mistake("has two ways in one: put each in its own `{ }`"),
            (Some(way), None) => all.push(way),
            (None, _) => {
                if !item.has_wrong_keys() {
                    let last = if is_admin { "`san` or `jwt`" } else { "`san`, `jwt` or `client_assertion`" };
                    itself.mistake(format!("needs `unix_user`, `api_keys`, `spiffe`, {last}"));
                }
            }
        }
    }
    all
}

// === the rest ===

fn limits(section: &Section<'_>) -> Option<LimitsConfig> {
    let authority_timeout = section.duration("authority_timeout");
    let lease = section.duration("lease");
    if let (Some(call), Some(lease)) = (authority_timeout, lease)
        && lease < call + Duration::from_secs(5)
    {
        let key = if section.is_given("lease") { "lease" } else { "authority_timeout" };
        section.node(key)?.mistake(
            "`lease` must be at least 5 s longer than `authority_timeout`: otherwise \
            a second replica may refresh while the first still waits for its answer",
        );
    }
    Some(LimitsConfig {
        connect_session_ttl: section.duration("connect_session_ttl")?,
        state_ttl: section.duration("state_ttl")?,
        confirmation_ttl: section.duration("confirmation_ttl")?,
        open_sessions: section.number("open_sessions")?,
        streams_per_caller: section.number("streams_per_caller")?,
        authority_timeout: authority_timeout?,
        caller_wait: section.duration("caller_wait")?,
        lease: lease?,
        sweep_rate: section.number("sweep_rate")?,
        rewrap_rate: section.number("rewrap_rate")?,
        held_memory_mib: section.number("held_memory_mib")?,
        drain: section.duration("drain")?,
    })
}

fn log(section: &Section<'_>) -> Option<LogConfig> {
    let levels = [
        ("error", LogLevel::Error),
        ("warn", LogLevel::Warn),
        ("info", LogLevel::Info),
        ("debug", LogLevel::Debug),
        ("trace", LogLevel::Trace),
    ];
    let formats = [("auto", LogFormat::Auto), ("json", LogFormat::Json), ("text", LogFormat::Text)];
    Some(LogConfig { level: section.choice("level", &levels)?, format: section.choice("format", &formats)? })
}
