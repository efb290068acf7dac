//! Replacement of a sealing key during operation: no request fails, nothing is lost, and a key is retired
//! only when nothing needs it.
//!
//! The short forms are part of `make check`. The long one, with 100,000 records and a worker killed twenty
//! times, is `make rotation-rewrap`.

use parking_lot::Mutex;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use http::Method;
use serde_json::Value;
use tokenward::callers::api_key::{KeyHasher, PresentedKey};
use tokenward::keyring::files;

use crate::filling::{TENANT, fill};
use crate::http_client::{request, request_unix};
use crate::redis_server::RedisServer;
use crate::world::{ALICE, Kept, PATIENCE, Plan, Process, World, text, write_secret};

/// Quick leases for callers that wait longer than those, and short-lived records that are gone soon.
const QUICK: &str = "[limits]\nauthority_timeout = \"10s\"\nlease = \"15s\"\ncaller_wait = \
    \"60s\"\nconnect_session_ttl = \"1m\"\nstate_ttl = \"1m\"\nconfirmation_ttl = \"1m\"\n";

/// Runs a command for the daemon of a folder.
fn run(folder: &Path, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_tokenward"))
        .args(arguments)
        .arg("--config")
        .arg(folder.join("tokenward.toml"))
        .stdin(Stdio::null())
        .output()
        .expect("it ends")
}

/// The same, elsewhere: whoever has to go on meanwhile does.
async fn said(folder: &Path, arguments: &[&str]) -> String {
    let (code, out, err) = ended(folder, arguments).await;
    assert_eq!(code, Some(0), "{arguments:?}: {out}{err}");
    out
}

/// What a command says that must not succeed.
async fn refused(folder: &Path, arguments: &[&str]) -> String {
    let (code, out, err) = ended(folder, arguments).await;
    assert_eq!((code, out.as_str()), (Some(1), ""), "{arguments:?}: {err}");
    err
}

async fn ended(folder: &Path, arguments: &[&str]) -> (Option<i32>, String, String) {
    let folder = folder.to_owned();
    let arguments: Vec<String> = arguments.iter().map(|argument| (*argument).to_owned()).collect();
    let output = tokio::task::spawn_blocking(move || {
        run(&folder, &arguments.iter().map(String::as_str).collect::<Vec<_>>())
    });
    let output = output.await.expect("joined");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code(), text(&output.stdout), text(&output.stderr))
}

async fn status(folder: &Path) -> Vec<Value> {
    let keys: Value =
        serde_json::from_str(&said(folder, &["keyring", "status", "--json"]).await).expect("JSON");
    keys.as_array().expect("a list").clone()
}

fn key_of<'a>(keys: &'a [Value], id: &str) -> &'a Value {
    keys.iter().find(|key| key["id"] == id).unwrap_or_else(|| panic!("no {id} in {keys:?}"))
}

/// How many replicas can open a key, and how many cannot, as the daemon that is asked knows.
async fn opened(folder: &Path, id: &str) -> (usize, usize) {
    let keys = status(folder).await;
    let key = keys.into_iter().find(|key| key["id"] == id);
    let count = |word: &str| key.as_ref().and_then(|key| key[word].as_array()).map_or(0, Vec::len);
    (count("opened_by"), count("not_opened_by"))
}

/// The key that seals, by its file.
fn primary(folder: &Path) -> String {
    files::open(&folder.join("keyring")).expect("a keyring").primary().id.clone()
}

/// Waits until something is so.
async fn until(what: &str, mut is_so: impl AsyncFnMut() -> bool) {
    let begun = Instant::now();
    while !is_so().await {
        assert!(begun.elapsed() < PATIENCE, "waited in vain for {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Which keys the records of connections name.
fn keys_in(redis: &RedisServer, names: &[String], ids: &[&str]) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for name in names {
        let record = redis.cli(&["GET", &format!("tokenward:{{outlook:{name}}}")]);
        let named = ids.iter().filter(|id| record.contains(**id));
        found.extend(named.map(|id| (*id).to_owned()));
    }
    found
}

/// Callers that ask for tokens all the time. A replica that is gone is left for another, as a balancer would;
/// whatever a replica answers counts.
struct Load {
    /// Where replicas are, which may be started again elsewhere.
    urls: Arc<Mutex<Vec<String>>>,
    ends: Arc<AtomicBool>,
    served: Arc<AtomicUsize>,
    callers: Vec<tokio::task::JoinHandle<Vec<String>>>,
}

impl Load {
    fn start(key: &str, urls: &[String], names: &[String]) -> Load {
        let (ends, served) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let urls = Arc::new(Mutex::new(urls.to_vec()));
        let caller = |number: usize| {
            let (ends, served) = (ends.clone(), served.clone());
            let (bearer, urls, names) = (format!("Bearer {key}"), urls.clone(), names.to_vec());
            tokio::spawn(async move {
                let mut failures = Vec::new();
                for step in number.. {
                    if ends.load(Ordering::Relaxed) {
                        break;
                    }
                    let name = &names[step % names.len()];
                    let path = format!("/v1/apps/outlook/connections/{name}/token");
                    let mut failure = Some(format!("{name}: nobody answers"));
                    for attempt in 0..100 {
                        let url = {
                            let urls = urls.lock();
                            format!("{}{path}", urls[(step + attempt) % urls.len()])
                        };
                        match request(Method::GET, &url, &[("authorization", bearer.as_str())], "").await {
                            Ok(answer) if answer.status == 200 => failure = None,
                            Ok(answer) => {
                                failure = Some(format!("{url}: {} {}", answer.status, answer.text()))
                            }
                            Err(_) => {
                                tokio::time::sleep(Duration::from_millis(50)).await;
                                continue;
                            }
                        }
                        break;
                    }
                    failures.extend(failure);
                    served.fetch_add(1, Ordering::Relaxed);
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
                failures
            })
        };
        let callers = (0..6).map(caller).collect();
        Load { urls, ends, served, callers }
    }

    /// Ends it once enough was asked for to mean something, and holds it against what was promised: none
    /// failed.
    async fn end(self, world: &World, replicas: &[&Process]) {
        let refreshes = || world.token_calls("refresh_token");
        let is_enough = async || self.served.load(Ordering::Relaxed) > 100 && refreshes() > 10;
        until("a load that means something", is_enough).await;
        let refreshes = refreshes();
        self.ends.store(true, Ordering::Relaxed);
        let mut failures = Vec::new();
        for caller in self.callers {
            failures.extend(caller.await.expect("a caller"));
        }
        let served = self.served.load(Ordering::Relaxed);
        eprintln!("{served} requests, {refreshes} refreshes, {} failures", failures.len());
        if !failures.is_empty() {
            for replica in replicas {
                let log = replica.log();
                let loud =
                    log.lines().filter(|line| !line.contains("\"DEBUG\"") && !line.contains("\"INFO\""));
                eprintln!("{}\n", loud.collect::<Vec<_>>().join("\n"));
            }
        }
        assert!(failures.is_empty(), "{} of {served}: {failures:#?}", failures.len());
    }
}

/// Two replicas on one keyring, and connections whose tokens are so short-lived that they are refreshed all
/// the time.
async fn two_replicas(count: usize) -> (World, Process, Vec<String>) {
    let plan = Plan::default().kept(Kept::Redis).token_life(Duration::from_secs(6)).sections(QUICK);
    let world = plan.start().await;
    let second = world.replica("second").await;
    let names: Vec<String> = (0..count).map(|number| format!("user-{number}")).collect();
    for name in &names {
        world.connect(name, ALICE).await;
    }
    (world, second, names)
}

/// Added, taken up by all, promoted, sealed anew, half way back, and on again, under load; and what may not
/// go does not.
#[tokio::test]
async fn a_key_is_replaced_and_put_back_under_load_without_one_failed_request() {
    let (world, second, names) = two_replicas(6).await;
    let folder = world.folder.path();
    let redis = world.redis.as_ref().expect("redis");
    let old = primary(folder);
    world.entra.clear_ledger();
    let load = Load::start(&world.key, &[world.daemon.local.clone(), second.local.clone()], &names);

    let new = said(folder, &["keyring", "add"]).await.trim().to_owned();
    until("both replicas to open the new key", async || opened(folder, &new).await == (2, 0)).await;
    assert_eq!(keys_in(redis, &names, &[&old, &new]), BTreeSet::from([old.clone()]), "it seals nothing yet");

    // There, back before it is done, and there again.
    for (to, from) in [(&new, &old), (&old, &new), (&new, &old)] {
        said(folder, &["keyring", "promote", to]).await;
        assert_eq!(primary(folder), *to);
        let done: Value =
            serde_json::from_str(&said(folder, &["keyring", "rewrap", "--json"]).await).expect("JSON");
        assert_eq!((done["left"].as_u64(), done["refused"].as_u64()), (Some(0), Some(0)), "{done}");
        assert_eq!(keys_in(redis, &names, &[from, to]), BTreeSet::from([to.clone()]));
    }
    let keys = status(folder).await;
    let counted = key_of(&keys, &old);
    assert_eq!(counted["records"], counted["passing"], "what lasts is sealed anew: {counted}");
    assert_eq!(key_of(&keys, &new)["primary"], true);
    let metrics = world.metrics().await;
    assert!(metrics.contains(&format!("tokenward_sealing_key_primary{{key=\"{new}\"}} 1")), "{metrics}");
    assert!(metrics.contains(&format!("tokenward_sealing_key_records{{key=\"{old}\"}}")), "{metrics}");

    // Sessions are sealed with the old one, or it was not counted zero twice. No caller is in the way.
    let said_no = refused(folder, &["keyring", "retire", &old]).await;
    assert!(said_no.contains("sealed with it") || said_no.contains("counted"), "{said_no}");
    assert!(!said_no.contains("mail-sync") && !said_no.contains("API key"), "{said_no}");
    let said_no = refused(folder, &["keyring", "retire", &new]).await;
    assert!(said_no.contains("it is the primary"), "{said_no}");
    load.end(&world, &[&world.daemon, &second]).await;

    let audit = ["audit.jsonl", "second/audit.jsonl"].map(|log| std::fs::read_to_string(folder.join(log)));
    let audit = audit.map(|log| log.expect("an audit log")).concat();
    for word in ["keyring_promote", "keyring_rewrap", "rewrap_ended", "\"what\":\"keyring\""] {
        assert!(audit.contains(word), "no {word} in the audit logs");
    }
}

/// A replica on another keyring that lacks the key: nobody promotes it; and while only one of them seals with
/// it, nothing is sealed anew.
#[tokio::test]
async fn a_key_that_one_replica_cannot_open_is_not_promoted() {
    let plan = Plan::default().kept(Kept::Redis).sections(QUICK);
    let world = plan.start().await;
    let folder = world.folder.path();
    let apart = folder.join("apart");
    world.prepare_replica("apart");
    let config = std::fs::read_to_string(apart.join("tokenward.toml")).expect("the configuration");
    std::fs::write(apart.join("tokenward.toml"), config.replace("\"../keyring\"", "\"keyring\""))
        .expect("write");
    copy_keys(folder, &apart);
    let second = Process::start(&apart).await;
    world.connect("one", ALICE).await;
    let names = ["one".to_owned()];
    let redis = world.redis.as_ref().expect("redis");
    let old = primary(folder);

    let new = said(folder, &["keyring", "add"]).await.trim().to_owned();
    until("this one to open it", async || opened(folder, &new).await == (1, 1)).await;
    let said_no = refused(folder, &["keyring", "promote", &new]).await;
    assert!(said_no.contains("cannot open it") && said_no.contains("copy the key's file"), "{said_no}");
    assert_eq!(primary(folder), old);

    copy_keys(folder, &apart);
    until("the other one to open it", async || opened(folder, &new).await == (2, 0)).await;
    let (code, _, err) = ended(folder, &["keyring", "promote", &new]).await;
    assert!(code == Some(0) && err.contains("Not every replica seals"), "{err}");
    assert_eq!(keys_in(redis, &names, &[&old, &new]), BTreeSet::from([old.clone()]), "they do not agree");
    assert!(world.daemon.log().contains("before all replicas agree"), "{}", world.daemon.log());
    let said_no = refused(folder, &["keyring", "retire", &old]).await;
    assert!(said_no.contains("seals with it") && !said_no.contains("API keys"), "{said_no}");
    assert_eq!(world.token_at(&second, "one").await.status, 200);

    said(&apart, &["keyring", "promote", &new]).await;
    said(folder, &["keyring", "rewrap"]).await;
    assert_eq!(keys_in(redis, &names, &[&old, &new]), BTreeSet::from([new.clone()]));
    for daemon in [&world.daemon, &second] {
        assert_eq!(world.token_at(daemon, "one").await.status, 200, "{}", daemon.log());
    }
}

fn copy_keys(from: &Path, to: &Path) {
    std::fs::create_dir_all(to.join("keyring")).expect("a folder");
    for file in std::fs::read_dir(from.join("keyring")).expect("a keyring") {
        let file = file.expect("a file").path();
        let name = file.file_name().expect("a name");
        let text = std::fs::read_to_string(&file).expect("a key");
        write_secret(&to.join("keyring").join(name), &text);
    }
}

/// A key's file that goes, or is damaged: the keys from before stay in force, why is said once, and nothing
/// fails.
#[tokio::test]
async fn a_keyring_that_does_not_validate_is_refused_with_a_reason_and_nothing_is_lost() {
    let world = Plan::default().sections(QUICK).start().await;
    let folder = world.folder.path();
    world.connect("one", ALICE).await;
    let old = primary(folder);
    let new = said(folder, &["keyring", "add"]).await.trim().to_owned();
    said(folder, &["keyring", "promote", &new]).await;
    said(folder, &["keyring", "rewrap"]).await;

    let file = |id: &str| folder.join("keyring").join(format!("{id}.key"));
    let (kept, elsewhere) = (file(&old), folder.join("elsewhere"));
    let content = std::fs::read_to_string(&kept).expect("a key");
    let events = |word: &str| world.daemon.log().lines().filter(|line| line.contains(word)).count();
    const REFUSED: &str = "the keyring on disk is not taken up";
    // Gone, although sessions are sealed with it, and a caller's API key is known by a hash made with it.
    as_before(folder, &world.key, &old);
    std::fs::rename(&kept, &elsewhere).expect("moved");
    until("it to be refused", async || events(REFUSED) == 1).await;
    let log = world.daemon.log();
    assert!(log.contains(&format!("lacks the key {old}")) && log.contains("restore the file"), "{log}");
    let listed = said(folder, &["callers", "list-keys", "mail-sync", "--json"]).await;
    let listed: Value = serde_json::from_str(&listed).expect("JSON");
    let key = text(&listed[0], "id");
    assert!(log.contains(&format!("replace mail-sync {key} first")), "{log}");
    assert_eq!(status(folder).await.len(), 2, "it is in force");
    assert_eq!(world.token("one").await.status, 200, "its callers are still known");
    tokio::time::sleep(Duration::from_millis(2200)).await;
    assert_eq!(events(REFUSED), 1, "once");
    std::fs::rename(&elsewhere, &kept).expect("moved back");
    until("it to be whole again", async || events("again what it was") == 1).await;
    // Damaged, and another one under its name.
    let other = content.replace(key_line(&content), "key = \"MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE=\"");
    for (number, (damage, word)) in
        [("id = \"x\"\n".to_owned(), "has no `key`; is it damaged?"), (other, "is another one than before")]
            .into_iter()
            .enumerate()
    {
        write_secret(&kept, &damage);
        until("it to be refused", async || events(REFUSED) == 2 + number).await;
        assert!(world.daemon.log().contains(word), "no {word} in {}", world.daemon.log());
        write_secret(&kept, &content);
        until("it to be whole again", async || events("again what it was") == 2 + number).await;
    }
    assert_eq!(world.token("one").await.status, 200);
}

fn key_line(content: &str) -> &str {
    content.lines().find(|line| line.starts_with("key = ")).expect("a key")
}

/// Makes the line of `mail-sync`'s key what `add-key` of before 0.2 would have written.
fn as_before(folder: &Path, key: &str, sealing_key: &str) {
    let ring = files::open(&folder.join("keyring")).expect("a keyring");
    let hasher = KeyHasher::keyed(&ring.key(sealing_key).expect("the key"));
    let hash = hasher.hash_presented(&PresentedKey::parse(key).expect("an API key"));
    let hash: String = hash.0.iter().map(|byte| format!("{byte:02x}")).collect();
    let file = folder.join("mail-sync.keys");
    let text = std::fs::read_to_string(&file).expect("text");
    let (line, _) = text.trim_end().rsplit_once(" sha256 ").expect("a line of today");
    write_secret(&file, &format!("{line} {sealing_key} {hash}\n"));
}

/// An API key of before 0.2: it works, it is marked, its sealing key waits for it by name; and one of today
/// takes its place.
#[tokio::test]
async fn an_api_key_from_before_works_and_names_the_sealing_key_that_it_needs() {
    let world = Plan::default().sections(QUICK).start().await;
    let folder = world.folder.path();
    let old = primary(folder);
    as_before(folder, &world.key, &old);
    world.connect("one", ALICE).await;
    let new = said(folder, &["keyring", "add"]).await.trim().to_owned();
    said(folder, &["keyring", "promote", &new]).await;

    let listed = said(folder, &["callers", "list-keys", "mail-sync", "--json"]).await;
    let listed: Value = serde_json::from_str(&listed).expect("JSON");
    assert_eq!(listed[0]["sealing_key"], Value::from(old.as_str()), "{listed}");
    let id = text(&listed[0], "id");
    let keys = status(folder).await;
    assert_eq!(key_of(&keys, &old)["api_keys"][0]["id"], listed[0]["id"], "{keys:?}");
    assert_eq!(key_of(&keys, &new)["api_keys"].as_array().map(Vec::len), Some(0), "{keys:?}");
    let said_no = refused(folder, &["keyring", "retire", &old]).await;
    assert!(said_no.contains(&format!("mail-sync {id}")) && said_no.contains("add-key"), "{said_no}");

    said(folder, &["callers", "add-key", "mail-sync"]).await;
    said(folder, &["callers", "retire-key", "mail-sync", id]).await;
    said(folder, &["keyring", "rewrap"]).await;
    let said_no = refused(folder, &["keyring", "retire", &old]).await;
    assert!(!said_no.contains("mail-sync") && !said_no.contains("API key"), "{said_no}");
    // What is left of the connect session goes by itself: nothing is to be done, and it is said until when.
    assert!(said_no.contains("short-lived record") && said_no.contains("Z at the latest"), "{said_no}");
    assert!(said_no.contains("nothing to do but wait") && !said_no.contains("rewrap"), "{said_no}");
    assert_eq!(key_of(&status(folder).await, &old)["api_keys"].as_array().map(Vec::len), Some(0));
}

/// Records that were sealed by a key which is not there: said plainly at the start, with how many, and healed
/// by the key's file.
#[tokio::test]
async fn records_of_a_key_that_is_not_there_are_said_plainly_at_the_start() {
    let mut world = Plan::default().kept(Kept::Redis).sections(QUICK).start().await;
    let folder: PathBuf = world.folder.path().to_owned();
    for name in ["one", "two", "three"] {
        world.connect(name, ALICE).await;
    }
    let old = primary(&folder);
    assert_eq!(world.daemon.terminate(), Some(0), "{}", world.daemon.log());
    let new = said(&folder, &["keyring", "add"]).await.trim().to_owned();
    said(&folder, &["keyring", "promote", &new, "--unchecked"]).await;
    let file = folder.join("keyring").join(format!("{old}.key"));
    std::fs::rename(&file, folder.join("elsewhere")).expect("moved");
    world.daemon = Process::launch(&folder).await;
    let names_it = |log: &str| {
        log.lines().any(|line| {
            line.contains("a key that the keyring does not hold")
                && line.contains(&old)
                && line.contains("ERROR")
        })
    };
    until("it to be said", async || names_it(&world.daemon.log())).await;
    let log = world.daemon.log();
    assert!(log.contains("restore that key's file"), "{log}");
    let keys = status(&folder).await;
    let counted = key_of(&keys, &old);
    assert!(counted["records"].as_u64() >= Some(3) && counted["created_at"].is_null(), "{counted}");
    let shown = ended(&folder, &["keyring", "status"]).await;
    assert!(shown.2.contains("which is not there"), "{}", shown.2);

    std::fs::rename(folder.join("elsewhere"), &file).expect("moved back");
    said(&folder, &["keyring", "rewrap"]).await;
    for name in ["one", "two", "three"] {
        let answer = world.token(name).await;
        assert_eq!(answer.status, 200, "{}\n{}", answer.text(), world.daemon.log());
    }
}

/// With `LoadCredential=keyring:…` the files have other names and modes, and lie beside other secrets.
#[tokio::test]
async fn the_keyring_may_be_credentials_of_systemd() {
    let mut world = Plan::default().start().await;
    let folder: PathBuf = world.folder.path().to_owned();
    world.connect("one", ALICE).await;
    assert_eq!(world.daemon.terminate(), Some(0), "{}", world.daemon.log());
    let (loaded, config) = (folder.join("systemd"), folder.join("tokenward.toml"));
    std::fs::create_dir(&loaded).expect("a folder");
    for file in std::fs::read_dir(folder.join("keyring")).expect("a folder") {
        let file = file.expect("a file");
        let name = format!("keyring_{}", file.file_name().to_string_lossy());
        std::fs::rename(file.path(), loaded.join(&name)).expect("moved");
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o440);
        std::fs::set_permissions(loaded.join(&name), mode).expect("changed");
    }
    std::fs::write(loaded.join("server.key"), "the private key of some certificate").expect("written");
    let text = std::fs::read_to_string(&config).expect("text");
    std::fs::write(&config, text.replace("\"keyring\"", "\"systemd\"")).expect("written");
    world.daemon = Process::start(&folder).await;
    let answer = world.token("one").await;
    assert_eq!(answer.status, 200, "{}\n{}", answer.text(), world.daemon.log());
}

/// The replica that seals anew is killed in the middle of it: another one does the rest.
#[tokio::test]
async fn a_worker_that_is_killed_is_followed_by_another() {
    // So slow that nobody misses it, and quick after that.
    let long = Long { records: 600, rate: 20, rate_of_the_rest: Some(2000), kills: 1, retire: false };
    let mut run = long.start().await;
    run.rotate().await;
    run.end().await;
}

/// `make rotation-rewrap`: the whole of it, at size.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes some ten minutes: `make rotation-rewrap`"]
async fn a_hundred_thousand_records_are_sealed_anew_under_load_though_the_worker_is_killed_twenty_times() {
    let number =
        |name: &str, default| std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default);
    let long = Long {
        records: number("ROTATION_RECORDS", 100_000),
        rate: number("ROTATION_RATE", 2000),
        rate_of_the_rest: None,
        kills: number("ROTATION_KILLS", 20),
        retire: true,
    };
    let mut run = long.start().await;
    run.rotate().await;
    run.end().await;
}

/// A rotation at size.
struct Long {
    records: usize,
    rate: usize,
    /// The rate of those that follow the first one that is killed, if it is another.
    rate_of_the_rest: Option<usize>,
    kills: usize,
    retire: bool,
}

struct Run {
    long: Long,
    world: World,
    /// The others, with their folders.
    replicas: Vec<(PathBuf, Process)>,
    names: Vec<String>,
    load: Option<Load>,
    old: String,
    new: String,
}

impl Long {
    async fn start(self) -> Run {
        let limits = format!("{QUICK}rewrap_rate = {}\n", self.rate);
        let plan = Plan::default().kept(Kept::Redis).token_life(Duration::from_secs(6)).sections(&limits);
        let world = plan.start().await;
        let folder = world.folder.path().to_owned();
        let begun = Instant::now();
        fill(world.redis.as_ref().expect("redis"), &folder, self.records, TENANT, &[]);
        eprintln!("{} records made in {:?}", self.records, begun.elapsed());
        let names: Vec<String> = (0..4).map(|number| format!("user-{number}")).collect();
        for name in &names {
            world.connect(name, ALICE).await;
        }
        let mut replicas = Vec::new();
        for name in ["second", "third"] {
            replicas.push((folder.join(name), world.replica(name).await));
        }
        world.entra.clear_ledger();
        let old = primary(&folder);
        let new = said(&folder, &["keyring", "add"]).await.trim().to_owned();
        let mut urls = vec![world.daemon.local.clone()];
        urls.extend(replicas.iter().map(|(_, process)| process.local.clone()));
        let load = Load::start(&world.key, &urls, &names);
        Run { long: self, world, replicas, names, load: Some(load), old, new }
    }
}

impl Run {
    fn folder(&self) -> PathBuf {
        self.world.folder.path().to_owned()
    }

    /// What a replica says of the sealing anew; none when it does not answer.
    async fn rewrap_of(folder: &Path) -> Option<Value> {
        let socket = folder.join("admin.sock");
        let answer = request_unix(&socket, Method::GET, "/admin/v1/keyring", &[], "").await.ok()?;
        (answer.status == 200).then(|| answer.json())
    }

    /// Which replica seals anew (0 is the first), and how much it has done.
    async fn worker(&self) -> Option<(usize, u64)> {
        let folders =
            std::iter::once(self.folder()).chain(self.replicas.iter().map(|(folder, _)| folder.clone()));
        for (at, folder) in folders.enumerate() {
            if let Some(seen) = Self::rewrap_of(&folder).await
                && seen["rewrap"]["running"] == true
            {
                return Some((at, seen["rewrap"]["resealed"].as_u64().unwrap_or(0)));
            }
        }
        None
    }

    /// Promoted, and sealed anew by one replica after the other: each is killed when it has done its share.
    async fn rotate(&mut self) {
        let folder = self.folder();
        let opened = async || opened(&folder, &self.new).await == (3, 0);
        until("all replicas to open the new key", opened).await;
        let begun = Instant::now();
        said(&folder, &["keyring", "promote", &self.new]).await;
        let parts = if self.long.rate_of_the_rest.is_some() { 10 } else { self.long.kills + 2 };
        let share = u64::try_from(self.long.records / parts).expect("small");
        for kill in 0..self.long.kills {
            let victim = loop {
                assert!(begun.elapsed() < Duration::from_secs(600), "{}", self.world.daemon.log());
                match self.worker().await {
                    // Since it began: a part of what is left.
                    Some((at, resealed)) if resealed >= share => break at,
                    _ => tokio::time::sleep(Duration::from_millis(50)).await,
                }
            };
            if kill == 0
                && let Some(rate) = self.long.rate_of_the_rest
            {
                self.change_rate(rate).await;
            }
            let process = match victim.checked_sub(1) {
                None => &mut self.world.daemon,
                Some(at) => &mut self.replicas[at].1,
            };
            process.kill();
            let again = if victim == 0 { folder.clone() } else { self.replicas[victim - 1].0.clone() };
            let process = Process::start(&again).await;
            self.load.as_ref().expect("runs").urls.lock()[victim] = process.local.clone();
            match victim.checked_sub(1) {
                None => self.world.daemon = process,
                Some(at) => self.replicas[at].1 = process,
            }
            eprintln!("kill {}: replica {victim}, after {:?}", kill + 1, begun.elapsed());
        }
        let done: Value =
            serde_json::from_str(&said(&folder, &["keyring", "rewrap", "--json"]).await).expect("JSON");
        eprintln!(
            "{} records sealed anew, {} kills: {:?}",
            self.long.records,
            self.long.kills,
            begun.elapsed()
        );
        assert_eq!((done["left"].as_u64(), done["refused"].as_u64()), (Some(0), Some(0)), "{done}");
        let redis = self.world.redis.as_ref().expect("redis");
        assert_eq!(count_in(redis, &self.old), 0, "nothing that lasts names the old key");
        assert!(count_in(redis, &self.new) >= self.long.records, "and nothing is lost");
    }

    /// Has every replica read another rate. (One that seals anew goes on at the rate that it began with.)
    async fn change_rate(&self, rate: usize) {
        let folder = self.folder();
        let of_all = self.replicas.iter().map(|(folder, process)| (folder, process));
        for (folder, process) in of_all.chain([(&folder, &self.world.daemon)]) {
            let read_so_often = async || {
                let shown = request(Method::GET, &format!("{}/metrics", process.ops), &[], "").await;
                let shown = shown.expect("metrics").text();
                let series = "tokenward_config_reloads_total{outcome=\"ok\"} ";
                shown.lines().find_map(|line| line.strip_prefix(series)).map(ToOwned::to_owned)
            };
            let (config, before) = (folder.join("tokenward.toml"), read_so_often().await);
            let text = std::fs::read_to_string(&config).expect("read");
            let of = |rate: usize| format!("rewrap_rate = {rate}");
            assert!(text.contains(&of(self.long.rate)), "{text}");
            std::fs::write(&config, text.replace(&of(self.long.rate), &of(rate))).expect("written");
            until("the other rate is read", async || read_so_often().await != before).await;
        }
    }

    async fn end_load(&mut self) {
        let mut replicas = vec![&self.world.daemon];
        replicas.extend(self.replicas.iter().map(|(_, process)| process));
        let load = self.load.take().expect("runs");
        load.end(&self.world, &replicas).await;
    }

    async fn end(mut self) {
        let folder = self.folder();
        if self.long.retire {
            // Sessions can be read for a while after their end; that is not waited for here.
            let sessions = "for _, key in ipairs(redis.call('KEYS', 'tokenward:pending:{session:*')) do \
                redis.call('DEL', key) end";
            self.world.redis.as_ref().expect("redis").cli(&["EVAL", sessions, "0"]);
            let begun = Instant::now();
            let (mut code, mut words) = (None, String::new());
            while code != Some(0) && begun.elapsed() < Duration::from_secs(300) {
                tokio::time::sleep(Duration::from_secs(2)).await;
                (code, _, words) = ended(&folder, &["keyring", "retire", &self.old]).await;
            }
            assert_eq!(code, Some(0), "{words}");
            assert!(
                begun.elapsed() > Duration::from_secs(110),
                "not before it was counted twice: {:?}",
                begun.elapsed()
            );
            eprintln!("retired after {:?}", begun.elapsed());
            until("every replica to be without it", async || status(&folder).await.len() == 1).await;
        }
        self.end_load().await;
        for name in &self.names {
            assert_eq!(self.world.token(name).await.status, 200, "{}", self.world.daemon.log());
        }
    }
}

/// How many connections' records name a key. (Their profile's, which is all that is looked at: they are
/// sealed whole.)
fn count_in(redis: &RedisServer, id: &str) -> usize {
    let script = "local n, cursor = 0, '0' repeat local page = redis.call('SCAN', cursor, 'MATCH', \
        'tokenward:{*', 'COUNT', 1000) cursor = page[1] for _, key in ipairs(page[2]) do if \
        string.find(redis.call('GET', key), ARGV[1], 1, true) then n = n + 1 end end until cursor == '0' \
        return n";
    redis.cli(&["EVAL", script, "0", id]).parse().expect("a number")
}
