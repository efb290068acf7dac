//! `tokenward doctor`: each mistake is named with its fix, and nothing else is.

use std::collections::BTreeSet;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use bytes::Bytes;
use entra_emulator::{App, Emulator, User};
use http::Method;
use serde_json::Value;
use tokenward::domain::time::Clock as _;
use tokenward::keyring::files;
use tokenward::system::{SystemClock, SystemRandom};

use crate::notices::{SECRET as WEBHOOK_SECRET, section};
use crate::redis_server::{RedisCluster, RedisServer};
use crate::resource::{Reply, Resource};
use crate::setup::config_text::ConfigText;
use crate::traces::collector::{Collector, Mood};
use crate::world::{ALICE, BOB, CLIENT_ID, CLIENT_SECRET, Kept, Plan, free_port, text, write_secret};

const HOME: &str = "contoso.example";
const ENDS: &str = "2029-05-20T00:00:00Z";
/// Scopes to which users may consent by themselves.
const SCOPES: &str = r#"["offline_access", "openid", "profile", "User.Read", "Mail.Send", "Contacts.Read"]"#;

/// A configuration with all that it names, right unless a test changes it.
struct Clinic {
    folder: tempfile::TempDir,
    entra: Emulator,
    redis: RedisServer,
    /// Lines of the app beside its tenants.
    home: &'static str,
    scopes: &'static str,
    base_url: String,
    secret: String,
    /// More sections of the configuration.
    sections: String,
}

/// The parts of the registration that tests differ in.
#[derive(Default)]
struct Registered {
    /// Another redirect URI than the right one.
    elsewhere: bool,
    /// The right one, for the platform of single-page applications.
    spa: bool,
    /// The app may not read its own registration.
    is_blind: bool,
}

impl Clinic {
    async fn new(registered: Registered, redis: RedisServer) -> Clinic {
        let folder = tempfile::tempdir().expect("a temp dir");
        let base_url = format!("http://localhost:{}", free_port());
        let uri = match registered.elsewhere {
            true => format!("{base_url}/callback/Outlook"),
            false => format!("{base_url}/callback/outlook"),
        };
        let app = App::new(CLIENT_ID).secret(CLIENT_SECRET);
        let app = if registered.spa { app.spa_redirect_uri(uri) } else { app.redirect_uri(uri) };
        let app = if registered.is_blind { app } else { app.app_role("Application.Read.All") };
        let entra = Emulator::builder()
            .https(true)
            .app(app)
            .user(User::work(ALICE))
            .user(User::work(BOB))
            .settings(|settings| settings.app_only_needs_consent = true)
            .start()
            .await
            .expect("the emulator starts");
        // The app is known in the tenant where it is registered.
        entra.grant_admin_consent(HOME, CLIENT_ID, "User.Read").expect("granted");
        write_secret(&folder.path().join("ca.pem"), &entra.ca_pem().expect("it has TLS"));
        let (random, now) = (SystemRandom::new(), SystemClock::new().now());
        files::add(&folder.path().join("keyring"), &random, now).expect("a key");
        Clinic {
            folder,
            entra,
            redis,
            home: "home_tenant = \"contoso.example\"",
            scopes: SCOPES,
            base_url,
            secret: CLIENT_SECRET.to_owned(),
            sections: String::new(),
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn write(&self) -> PathBuf {
        write_secret(&self.path("client-secret"), &self.secret);
        let app = format!("tenants = [\"*\", \"personal\"]\nauthority_ca = \"ca.pem\"\n{}", self.home);
        let credentials = format!(
            "[[apps.outlook.credentials]]\nid = \"first\"\nkind = \"secret\"\nfile = \"client-secret\"\nexpires = {ENDS}\n"
        );
        let text = ConfigText {
            store: &format!("kind = \"redis\"\nurl = \"{}\"", self.redis.url()),
            authority: &self.entra.authority("common"),
            scopes: self.scopes,
            app: &app,
            credentials: Some(&credentials),
            sections: &self.sections,
            ..ConfigText::default()
        }
        .text()
        .replace("http://localhost:0", &self.base_url);
        let config = self.path("tokenward.toml");
        std::fs::write(&config, text).expect("written");
        config
    }

    /// Runs `doctor` and returns its exit code, its report, and its page for people.
    fn examine(&self) -> Examined {
        let config = self.write();
        let json = run(&config, &["--json"]);
        let page = run(&config, &[]);
        assert_eq!(json.status.code(), page.status.code());
        let report: Value = serde_json::from_slice(&json.stdout).unwrap_or_else(|error| {
            panic!("{error}: {}", String::from_utf8_lossy(&json.stderr));
        });
        Examined {
            code: json.status.code(),
            report,
            page: String::from_utf8_lossy(&page.stdout).into_owned(),
        }
    }
}

struct Examined {
    code: Option<i32>,
    report: Value,
    page: String,
}

impl Examined {
    fn codes(&self) -> BTreeSet<&str> {
        let all = self.report["findings"].as_array().expect("a list");
        all.iter().map(|finding| text(finding, "code")).collect()
    }

    /// The only finding has this code and severity, and its fix these words; the page says the same.
    fn is_only(&self, severity: &str, code: &str, fix: &str) {
        let findings = self.report["findings"].as_array().expect("a list");
        assert_eq!(findings.len(), 1, "{:#}", self.report);
        let finding = &findings[0];
        assert_eq!((text(finding, "code"), text(finding, "severity")), (code, severity), "{finding:#}");
        assert!(text(finding, "fix").contains(fix), "{finding:#}");
        assert_eq!(text(finding, "docs"), format!("docs/doctor.md#{code}"));
        assert_eq!(self.report["worst"], severity);
        assert!(self.page.contains(&format!("{severity} {code}: ")), "{}", self.page);
        assert!(self.page.contains(fix), "{}", self.page);
        assert!(!self.page.contains(CLIENT_SECRET), "{}", self.page);
    }
}

fn run(config: &Path, more: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tokenward"));
    for name in ["HTTPS_PROXY", "HTTP_PROXY", "NO_PROXY"] {
        command.env_remove(name).env_remove(name.to_ascii_lowercase());
    }
    command.args(["doctor", "--config"]).arg(config).args(more).stdin(Stdio::null());
    command.output().expect("it ends")
}

async fn good() -> Clinic {
    Clinic::new(Registered::default(), RedisServer::start()).await
}

#[tokio::test]
async fn nothing_is_wrong_on_one_screen() {
    let clinic = good().await;
    let examined = clinic.examine();
    assert_eq!(examined.codes(), BTreeSet::new(), "{:#}", examined.report);
    assert_eq!(examined.code, Some(0));
    let page = &examined.page;
    assert!(page.lines().count() <= 24 && page.ends_with("Nothing is wrong.\n"), "{page}");
    for seen in [
        "over IPv4, directly; certificate of ",
        "trusted by authority_ca",
        "credential first",
        "secret, accepted, ends 2029-05-20T00:00:00Z",
        "/callback/outlook: registered, platform Web",
        "users may consent to all of them",
        "keeps an append-only file; empty",
        "0 s from the authority's",
    ] {
        assert!(page.contains(seen), "{seen} is missing in\n{page}");
    }
    assert!(examined.report["worst"].is_null());
    // It took nothing into use: an empty Redis is empty afterwards.
    assert_eq!(clinic.redis.cli(&["DBSIZE"]), "0");
}

#[tokio::test]
async fn each_mistake_is_named_with_its_fix_and_nothing_else_is() {
    // 1 to 3: the client secret.
    let mut clinic = good().await;
    clinic.secret = "Qe8~another-secret-of-another-app".to_owned();
    let examined = clinic.examine();
    examined.is_only("error", "credential_wrong", "write the secret's Value to the file");
    assert_eq!(examined.code, Some(1));

    clinic.secret = "8f4c4a1e-5f5e-4d0c-9d2e-0b8a54f4a7c1".to_owned();
    let examined = clinic.examine();
    examined.is_only("error", "credential_is_secret_id", "the value is shown only once");

    clinic.secret = CLIENT_SECRET.to_owned();
    clinic.entra.expire_secret(CLIENT_ID, CLIENT_SECRET).expect("expired");
    clinic.examine().is_only("error", "credential_expired", "make a new one");

    // 4: a tenant in which the app is not, and one that is nowhere.
    let mut clinic = good().await;
    clinic.home = "home_tenant = \"fabrikam.example\"";
    let examined = clinic.examine();
    examined.is_only("error", "app_not_in_tenant", "let `home_tenant` name the tenant where the app is");
    clinic.home = "home_tenant = \"nowhere.example\"";
    clinic.examine().is_only("error", "tenant_not_found", "copy *Directory (tenant) ID*");

    // 5 and 6: the redirect URI.
    let elsewhere = Registered { elsewhere: true, ..Registered::default() };
    let clinic = Clinic::new(elsewhere, RedisServer::start()).await;
    let fix = format!("add {}/callback/outlook for the platform Web", clinic.base_url);
    clinic.examine().is_only("error", "redirect_uri_not_registered", &fix);
    let spa = Registered { spa: true, ..Registered::default() };
    let clinic = Clinic::new(spa, RedisServer::start()).await;
    clinic.examine().is_only("error", "redirect_uri_platform", "add it for the platform Web");

    // 7: the clock, ten minutes behind the authority's.
    let clinic = good().await;
    clinic.entra.advance(Duration::from_secs(600));
    let examined = clinic.examine();
    examined.is_only("error", "clock_off", "timedatectl set-ntp true");
    assert!(examined.page.contains("10 minutes behind"), "{}", examined.page);

    // 8: a key that everybody can read.
    let clinic = good().await;
    let key = std::fs::read_dir(clinic.path("keyring")).expect("a folder").next().expect("a key");
    let key = key.expect("an entry").path();
    std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o644)).expect("chmod");
    let examined = clinic.examine();
    examined.is_only("error", "file_permissions", &format!("chmod 600 {}", key.display()));
    assert_eq!(examined.code, Some(2), "serve would refuse it");

    // 9 and 10: Redis.
    let clinic = good().await;
    clinic.redis.cli(&["CONFIG", "SET", "maxmemory", "200mb", "maxmemory-policy", "allkeys-lru"]);
    clinic.examine().is_only("error", "store_evicts", "maxmemory-policy noeviction");
    let forgetful = RedisServer::start_with(&["--appendonly", "no"]);
    let clinic = Clinic::new(Registered::default(), forgetful).await;
    let examined = clinic.examine();
    examined.is_only("warning", "store_persistence", "set `appendonly yes`");
    assert_eq!(examined.code, Some(0), "a warning is no failure, unless one asks for that");
    assert_eq!(run(&clinic.path("tokenward.toml"), &["--fail-on", "warning"]).status.code(), Some(1));

    // 11: a scope to which users cannot consent.
    let mut clinic = good().await;
    clinic.scopes = r#"["offline_access", "openid", "profile", "User.Read", "Calendars.Read"]"#;
    let examined = clinic.examine();
    examined.is_only("hint", "scope_needs_admin", "administrator of each tenant approve the app once");
    assert!(examined.page.contains("users cannot consent to Calendars.Read"), "{}", examined.page);

    // 12: a base URL without TLS.
    let mut clinic = good().await;
    clinic.base_url = "http://tokens.contoso.example".to_owned();
    let examined = clinic.examine();
    examined.is_only("error", "base_url_not_https", "give `listen.public.base_url` the https address");
    assert_eq!(examined.code, Some(2));
}

/// (On two threads: the collector answers while the command runs.)
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_collector_of_traces_is_asked_as_the_daemon_would() {
    let (mut clinic, collector) = (good().await, Collector::start().await);
    clinic.sections = collector.section("headers_file = \"collector-headers\"");
    write_secret(&clinic.path("collector-headers"), "X-Scope-OrgID: 7\n");
    let examined = clinic.examine();
    assert_eq!(examined.codes(), BTreeSet::new(), "{:#}", examined.report);
    assert!(examined.page.contains("takes spans"), "{}", examined.page);
    collector.posted(|posted| {
        assert!(posted.iter().all(|one| one.body.is_empty() && one.headers["x-scope-orgid"] == "7"));
    });
    assert!(collector.spans().is_empty());

    collector.is(Mood::Status(401));
    let examined = clinic.examine();
    examined.is_only("warning", "collector_refuses", "`traces.headers_file` to what it asks for");
    assert!(examined.page.contains("status 401") && examined.code == Some(0), "{}", examined.page);
    collector.is(Mood::Status(503));
    clinic.examine().is_only("warning", "collector_unreachable", "see whether it runs");
    drop(collector);
    clinic.sections = format!("[traces]\nendpoint = \"http://127.0.0.1:{}\"\n", free_port());
    let examined = clinic.examine();
    examined.is_only("warning", "collector_unreachable", "see whether it runs");
    assert!(examined.page.contains("refused"), "{}", examined.page);
}

/// (On two threads: the receiver answers while the command runs.)
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_webhook_s_receiver_is_asked_without_an_event() {
    let mut clinic = good().await;
    let status = Arc::new(AtomicU16::new(405));
    let answers = Arc::clone(&status);
    let receiver =
        Resource::start(move |_| Reply::Whole(answers.load(Ordering::Relaxed), Vec::new(), Bytes::new()))
            .await;
    let secret = clinic.path("webhook.secret");
    write_secret(&secret, WEBHOOK_SECRET);
    let webhook = |url: &str, lines: &str| {
        format!(
            "[webhooks.product]\nurl = \"{url}/in/a-secret-path\"\nsecret_file = \"webhook.secret\"\n{lines}\n"
        )
    };
    let own = "allow_private = true";
    clinic.sections = webhook(&receiver.url, own);
    let examined = clinic.examine();
    assert_eq!(examined.codes(), BTreeSet::new(), "{:#}", examined.report);
    assert!(examined.page.contains("127.0.0.1 answers, directly"), "{}", examined.page);
    assert!(!examined.page.contains("a-secret-path"), "{}", examined.page);
    for seen in receiver.all() {
        assert_eq!((seen.method.as_str(), seen.target.as_str()), ("HEAD", "/in/a-secret-path"));
        assert!(!seen.headers.contains_key("webhook-signature") && seen.body.is_empty());
    }
    status.store(410, Ordering::Relaxed);
    let examined = clinic.examine();
    examined.is_only("error", "webhook_gone", "take [webhooks.product] out of the configuration");
    assert_eq!(examined.code, Some(1));

    // Its secret.
    status.store(405, Ordering::Relaxed);
    write_secret(&secret, "whsec_short");
    let examined = clinic.examine();
    examined.is_only("error", "webhook_secret", "24 to 64 random bytes in base64");
    assert!(!examined.page.contains("whsec_short"), "{}", examined.page);
    write_secret(&secret, WEBHOOK_SECRET);
    std::fs::set_permissions(&secret, std::fs::Permissions::from_mode(0o644)).expect("chmod");
    let examined = clinic.examine();
    examined.is_only("error", "file_permissions", &format!("chmod 600 {}", secret.display()));
    assert_eq!(examined.code, Some(1), "callers are served all the same");
    write_secret(&secret, WEBHOOK_SECRET);
    std::fs::set_permissions(&secret, std::fs::Permissions::from_mode(0o600)).expect("chmod");

    // The way: nobody there, a name that nobody has, another network, another authority.
    clinic.sections = webhook(&format!("http://127.0.0.1:{}", free_port()), own);
    clinic.examine().is_only("warning", "webhook_unreachable", "see whether it runs");
    clinic.sections = webhook("https://no-such-host.invalid", "");
    clinic.examine().is_only("error", "webhook_unresolved", "correct the host of `webhooks.product.url`");
    let near = clinic.entra.base_url().replace("127.0.0.1", "localhost");
    clinic.sections = webhook(&near, "");
    clinic.examine().is_only("error", "webhook_not_public", "webhooks.product.allow_private = true");
    clinic.sections = webhook(&near, own);
    clinic.examine().is_only("error", "webhook_certificate", "`webhooks.product.ca_file`");
    clinic.sections = webhook(&near, "allow_private = true\nca_file = \"ca.pem\"");
    assert_eq!(clinic.examine().codes(), BTreeSet::new());
}

/// What the daemon knows of its deliveries counts for more than an answer of the moment.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_webhook_that_takes_no_events_is_found_where_a_daemon_runs() {
    let receiver = Resource::start(|seen| {
        let status = if seen.method == "HEAD" { 405 } else { 503 };
        Reply::Whole(status, Vec::new(), Bytes::new())
    })
    .await;
    let plan = Plan::default().file("webhook.secret", WEBHOOK_SECRET).sections(&section(&receiver.url, ""));
    let world = plan.app_lines("home_tenant = \"contoso.example\"").start().await;
    world.connect("alice", ALICE).await;
    world.until("the receiver refused it", async || !receiver.all().is_empty()).await;
    let config = world.folder.path().join("tokenward.toml");
    let found = || {
        let report: Value = serde_json::from_slice(&run(&config, &["--json"]).stdout).expect("JSON");
        let all = report["findings"].as_array().expect("a list").clone();
        all.into_iter().find(|one| text(one, "code").starts_with("webhook_"))
    };
    assert_eq!(found(), None, "it may be restarting");
    world.pass(Duration::from_secs(1200));
    let is_found = async || found().is_some();
    world.until("it is found", is_found).await;
    let finding = found().expect("one");
    assert_eq!((text(&finding, "code"), text(&finding, "severity")), ("webhook_failing", "warning"));
    assert!(text(&finding, "what").contains("it answered 503"), "{finding:#}");
}

/// Each primary of a Cluster is looked at, and the record of token hosts is read from it.
#[tokio::test]
async fn a_cluster_is_looked_at_node_by_node() {
    let mut world =
        Plan::default().kept(Kept::Cluster).app_lines("home_tenant = \"contoso.example\"").start().await;
    assert_eq!(world.daemon.terminate(), Some(0), "{}", world.daemon.log());
    let config = world.folder.path().join("tokenward.toml");
    let ended = run(&config, &["--json"]);
    let report: Value = serde_json::from_slice(&ended.stdout).expect("JSON");
    let seen = report["seen"].as_array().expect("a list");
    let of = |area: &str| seen.iter().filter(|one| one["area"] == area).collect::<Vec<_>>();
    assert_eq!(of("store").len(), 3, "{report:#}");
    assert!(of("store").iter().all(|one| text(one, "state").contains("holds a store")), "{report:#}");
    assert!(text(of("credential")[0], "state").starts_with("secret, accepted"), "{report:#}");

    // One node's ACL lacks a right, which the others' have: each has its own.
    let cluster = world.cluster.as_ref().expect("a Cluster");
    cluster.nodes[2].cli(&["ACL", "SETUSER", "default", "-zadd"]);
    let report: Value = serde_json::from_slice(&run(&config, &["--json"]).stdout).expect("JSON");
    let findings = report["findings"].as_array().expect("a list");
    let of_rights: Vec<&Value> = findings.iter().filter(|one| one["code"] == "store_rights").collect();
    assert_eq!(of_rights.len(), 1, "{report:#}");
    let (subject, port) = (text(of_rights[0], "subject"), cluster.nodes[2].port().to_string());
    assert!(subject.ends_with(&port) && text(of_rights[0], "fix").contains("+zadd"), "{report:#}");
    cluster.nodes[2].cli(&["ACL", "SETUSER", "default", "+zadd"]);
    assert_eq!(run(&config, &[]).status.code(), Some(0));
}

/// A Cluster that other programs use has keys, and is no store of ours: looking gives it no name.
#[tokio::test]
async fn a_cluster_without_a_store_stays_without_one() {
    let clinic = good().await;
    let cluster = RedisCluster::start(3, 0);
    let mut config = std::fs::read_to_string(clinic.write()).expect("a file");
    config = config.replace(&clinic.redis.url(), &cluster.url());
    let path = clinic.path("cluster.toml");
    std::fs::write(&path, config).expect("written");
    cluster.nodes[0].cli(&["-c", "SET", "somebody:elses", "x"]);
    for _ in 0..2 {
        let ended = run(&path, &["--json"]);
        let report: Value = serde_json::from_slice(&ended.stdout).expect("JSON");
        let seen = report["seen"].as_array().expect("a list");
        let state = |area: &str| {
            let all = seen.iter().filter(|one| one["area"] == area).map(|one| text(one, "state"));
            all.collect::<Vec<_>>().join("; ")
        };
        assert_eq!(state("store").matches("empty: the first start").count(), 3, "{report:#}");
        assert!(
            state("credential").starts_with("secret, accepted"),
            "no secret was sent anywhere: {report:#}"
        );
    }
    let keys: u32 =
        cluster.nodes.iter().map(|node| node.cli(&["DBSIZE"]).parse::<u32>().expect("a number")).sum();
    assert_eq!(keys, 1, "nothing was written");
}

/// The name of the store stands in the journal's folder. A Redis that came back empty is not a new one.
#[tokio::test]
async fn a_redis_that_came_back_empty_is_not_a_new_one() {
    let mut plan = Plan::default().kept(Kept::Redis).app_lines("home_tenant = \"contoso.example\"");
    plan.store_lines = "journal = \"journal\"".to_owned();
    let mut world = plan.start().await;
    assert_eq!(world.daemon.terminate(), Some(0), "{}", world.daemon.log());
    let config = world.folder.path().join("tokenward.toml");
    let remembered = world.folder.path().join("journal/store-identity");
    let name = std::fs::read_to_string(&remembered).expect("it is remembered");
    assert_eq!(run(&config, &[]).status.code(), Some(0));
    world.redis.as_ref().expect("Redis").cli(&["FLUSHALL"]);
    let before = world.token_calls("client_credentials");
    let ended = run(&config, &["--json"]);
    assert_eq!(ended.status.code(), Some(1));
    let report: Value = serde_json::from_slice(&ended.stdout).expect("JSON");
    let codes: Vec<&str> =
        report["findings"].as_array().expect("a list").iter().map(|one| text(one, "code")).collect();
    assert!(codes[0] == "store_is_another" && !codes.contains(&"credential_unknown"), "{report:#}");
    assert_eq!(world.token_calls("client_credentials"), before, "no secret is sent: the record is lost");
    assert_eq!(world.redis.as_ref().expect("Redis").cli(&["DBSIZE"]), "0");
    assert_eq!(std::fs::read_to_string(&remembered).expect("it is there"), name);
}

/// Without a journal only the daemon that runs knows that there was a store.
#[tokio::test]
async fn a_redis_that_came_back_empty_is_known_by_the_daemon_that_runs() {
    let plan = Plan::default().kept(Kept::Redis).app_lines("home_tenant = \"contoso.example\"");
    let mut world = plan.start().await;
    let config = world.folder.path().join("tokenward.toml");
    assert_eq!(run(&config, &[]).status.code(), Some(0));
    world.redis.as_ref().expect("Redis").cli(&["FLUSHALL"]);
    let ended = run(&config, &["--json"]);
    assert_eq!(ended.status.code(), Some(1), "{}", String::from_utf8_lossy(&ended.stdout));
    let report: Value = serde_json::from_slice(&ended.stdout).expect("JSON");
    assert_eq!(text(&report["findings"][0], "code"), "store_is_another", "{report:#}");

    assert_eq!(world.daemon.terminate(), Some(0), "{}", world.daemon.log());
    let alone = run(&config, &[]);
    assert_eq!(alone.status.code(), Some(0));
    let said = String::from_utf8_lossy(&alone.stdout);
    assert!(said.contains("no daemon answers, and without `store.journal`"), "{said}");
}

/// Only a sign-in shows the platform to an app that may not read its registration, and the report says so.
#[tokio::test]
async fn what_cannot_be_seen_is_said_to_be_unseen() {
    let blind = Registered { spa: true, is_blind: true, ..Registered::default() };
    let clinic = Clinic::new(blind, RedisServer::start()).await;
    let examined = clinic.examine();
    assert_eq!(examined.codes(), BTreeSet::new(), "{:#}", examined.report);
    assert!(
        examined.page.contains("whether the URI stands under the platform Web could not be read")
            && examined.page.contains("look at *Authentication* in the portal"),
        "{}",
        examined.page
    );
    assert!(examined.page.contains("Application.Read.All"), "{}", examined.page);
}

#[tokio::test]
async fn a_user_of_redis_that_may_too_little_is_told_what_is_missing() {
    let clinic = good().await;
    clinic.redis.cli(&["ACL", "SETUSER", "default", "-zadd", "-scan"]);
    let examined = clinic.examine();
    examined.is_only("error", "store_rights", "+scan +zadd");
    clinic.redis.cli(&["ACL", "SETUSER", "default", "-info"]);
    let codes = clinic.examine();
    assert_eq!(codes.codes(), BTreeSet::from(["store_rights", "store_unknown"]), "{:#}", codes.report);
}

/// A full Redis refuses what the trial writes, which is no missing right.
#[tokio::test]
async fn a_full_redis_is_told_from_a_user_without_rights() {
    let clinic = good().await;
    clinic.redis.cli(&["CONFIG", "SET", "maxmemory", "1", "maxmemory-policy", "noeviction"]);
    clinic.examine().is_only("error", "store_full", "raise `maxmemory`");
}

/// The record of token hosts cannot be read. That is not the same as none: no secret is sent.
#[tokio::test]
async fn a_store_that_cannot_be_read_is_not_taken_for_an_empty_one() {
    let clinic = good().await;
    clinic.redis.cli(&["ACL", "SETUSER", "default", "-get"]);
    let examined = clinic.examine();
    assert_eq!(clinic.entra.presented_secrets(), [], "{:#}", examined.report);
    assert!(examined.page.contains("not asked"), "{}", examined.page);
    clinic.redis.cli(&["ACL", "SETUSER", "default", "+get"]);
    clinic.examine();
    assert_ne!(clinic.entra.presented_secrets(), [], "an empty one has no record");
}

#[tokio::test]
async fn what_is_not_there_is_named_alone() {
    let mut clinic = good().await;
    clinic.redis.stop();
    let examined = clinic.examine();
    examined.is_only("error", "store_unreachable", "see whether Redis runs");
    assert_eq!(examined.code, Some(1));
    clinic.redis.restart();
    // An authority that does not answer: nothing is said about what only it could tell.
    let text = std::fs::read_to_string(clinic.path("tokenward.toml")).expect("a file");
    let gone = text.replace(&clinic.entra.base_url(), &format!("https://localhost:{}", free_port()));
    std::fs::write(clinic.path("tokenward.toml"), gone).expect("written");
    let ended = run(&clinic.path("tokenward.toml"), &["--json"]);
    let report: Value = serde_json::from_slice(&ended.stdout).expect("JSON");
    let codes: Vec<&str> =
        report["findings"].as_array().expect("a list").iter().map(|one| self::text(one, "code")).collect();
    assert_eq!(codes, ["authority_unreachable"], "{report:#}");
}

/// A daemon that has the embedded store open presents the credentials for it; with the daemon gone, the
/// command does so itself. Neither sends a secret to another token host than before.
#[tokio::test]
async fn it_works_beside_a_running_daemon_and_without_one() {
    let mut world = Plan::default().app_lines("home_tenant = \"contoso.example\"").start().await;
    let config = world.folder.path().join("tokenward.toml");
    let of = |ended: &Output, area: &str| {
        let report: Value = serde_json::from_slice(&ended.stdout).expect("JSON");
        let seen = report["seen"].as_array().expect("a list");
        let one = seen.iter().find(|one| one["area"] == area);
        text(one.expect("it was looked at"), "state").to_owned()
    };
    let state = |ended: &Output| of(ended, "credential");
    let before = world.token_calls("client_credentials");
    let beside = run(&config, &["--json"]);
    assert!(state(&beside).starts_with("secret, accepted"), "{}", state(&beside));
    assert!(world.token_calls("client_credentials") > before, "it was presented");
    let redirect = of(&beside, "redirect URI");
    assert!(
        redirect.contains("registered") && redirect.contains("no secret is sent from here"),
        "{redirect}"
    );
    // Without a way to the daemon nothing is presented, and the report says why, in both places.
    let before = world.token_calls("client_credentials");
    let nowhere = format!("unix:{}", world.folder.path().join("nowhere.sock").display());
    let unasked = run(&config, &["--json", "--endpoint", &nowhere]);
    let not_asked = state(&unasked);
    for part in ["not asked", "in use by another process", "asking the daemon: cannot reach", "nowhere.sock"]
    {
        assert!(not_asked.contains(part), "{part}: {not_asked}");
    }
    assert_eq!(world.token_calls("client_credentials"), before, "nothing was presented");
    assert_eq!(unasked.status.code(), Some(0), "and nothing is wrong");
    // The daemon still serves, from the file that it has open.
    world.connect("one", ALICE).await;
    let answer = world.api(Method::GET, "/v1/apps/outlook/connections/one/token", Value::Null).await;
    assert_eq!(answer.status, 200);
    assert_eq!(world.daemon.terminate(), Some(0), "{}", world.daemon.log());
    let alone = run(&config, &["--json"]);
    assert!(state(&alone).starts_with("secret, accepted"), "{}", state(&alone));

    // The same secret, and another authority: it is not sent there.
    let other = Emulator::builder()
        .app(App::new(CLIENT_ID).secret(CLIENT_SECRET))
        .user(User::work(ALICE))
        .start()
        .await
        .expect("another emulator");
    let moved = std::fs::read_to_string(&config).expect("a file");
    std::fs::write(&config, moved.replace(&world.entra.base_url(), &other.base_url())).expect("written");
    let ended = run(&config, &["--json"]);
    let report: Value = serde_json::from_slice(&ended.stdout).expect("JSON");
    let findings = report["findings"].as_array().expect("a list");
    let held = findings.iter().find(|one| one["code"] == "credential_unknown").expect("it is held back");
    assert!(text(held, "what").contains("credentials confirm outlook"), "{held:#}");
    assert_eq!(other.presented_secrets(), [], "nothing was sent");
}

/// What is not asked for want of `home_tenant` is no finding, whoever would have asked.
#[tokio::test]
async fn the_same_is_said_beside_a_daemon_and_without_one() {
    let mut world = Plan::default().start().await;
    let config = world.folder.path().join("tokenward.toml");
    let credential = || {
        let ended = run(&config, &["--json"]);
        let report: Value = serde_json::from_slice(&ended.stdout).expect("JSON");
        let seen = report["seen"].as_array().expect("a list");
        let state =
            seen.iter().find(|one| one["area"] == "credential").map(|one| text(one, "state").to_owned());
        let findings = report["findings"].as_array().expect("a list").iter();
        let codes = findings.map(|one| text(one, "code").to_owned()).collect::<Vec<_>>();
        (state.expect("it was looked at"), codes)
    };
    let beside = credential();
    assert_eq!(world.daemon.terminate(), Some(0), "{}", world.daemon.log());
    assert_eq!(beside, credential());
    assert!(beside.0.contains("not asked") && beside.0.contains("set home_tenant"), "{beside:?}");
    assert!(!beside.1.contains(&"credential_unknown".to_owned()), "{beside:?}");
}
