//! Every secret is replaced while it is in use: with two replicas, constant callers, and tokens so
//! short-lived that the authority is asked all the time, no request fails.
//!
//! `ROTATION_SECONDS` sets the length of each phase (`make rotation`).

#![expect(clippy::print_stdout, reason = "the long form says what it measured")]

use parking_lot::Mutex;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use entra_emulator::{Endpoint, Fault, FaultRule};
use http::Method;
use serde_json::{Value, json};

use crate::attacks_api::sha256;
use crate::http_client::{Browser, request, request_unix};
use crate::redis_server::RedisServer;
use crate::world::{
    ALICE, CLIENT_ID, CLIENT_SECRET, Kept, LOOK, PATIENCE, Plan, Process, World, text, until, write_secret,
};

/// Short, so that every request or two needs a refresh.
const LIFE: Duration = Duration::from_secs(2);
const CONNECTIONS: usize = 12;
const CALLERS: usize = 6;
/// Requests that a load makes at least.
const ENOUGH: usize = 50;
const DIRECTORY: &str = "credentials_dir = \"credentials\"\nhome_tenant = \"contoso.example\"\n";

/// How long each phase lasts at least.
fn phase() -> Duration {
    let long = std::env::var("ROTATION_SECONDS").ok().and_then(|text| text.parse().ok());
    Duration::from_secs(long.unwrap_or(0))
}

/// How long the authority takes to learn of a new secret.
fn learning() -> Duration {
    phase().max(Duration::from_secs(2))
}

/// Two replicas with connections, and a folder of client credentials that both read.
struct Scene {
    world: Arc<World>,
    other: Arc<Process>,
    names: Arc<Vec<String>>,
    /// The API key that the callers present.
    key: Arc<Mutex<String>>,
}

impl Scene {
    async fn start(plan: Plan) -> Scene {
        let world = plan.kept(Kept::Redis).token_life(LIFE).start().await;
        let other = world.replica("other").await;
        Scene::of(world, other).await
    }

    async fn of(world: World, other: Process) -> Scene {
        let (world, other) = (Arc::new(world), Arc::new(other));
        let names: Vec<String> = (0..CONNECTIONS).map(|number| format!("user-{number}")).collect();
        for name in &names {
            world.connect(name, ALICE).await;
        }
        let key = Arc::new(Mutex::new(world.key.clone()));
        Scene { world, other, names: Arc::new(names), key }
    }

    /// With one secret in the folder, `2026-11.secret`.
    async fn with_a_secret() -> Scene {
        let plan = Plan::default()
            .credentials("")
            .app_lines(DIRECTORY)
            .file("credentials/2026-11.secret", CLIENT_SECRET);
        Scene::start(plan).await
    }

    /// The same, and each replica has a folder of its own.
    async fn with_a_secret_each() -> Scene {
        // (Named so that it is not taken for the one that all share.)
        let plan = Plan::default()
            .credentials("")
            .app_lines("credentials_dir = \"./credentials\"\nhome_tenant = \"contoso.example\"\n")
            .file("credentials/2026-11.secret", CLIENT_SECRET);
        let world = plan.kept(Kept::Redis).token_life(LIFE).start().await;
        world.prepare_replica("other");
        let folder = world.folder.path().join("other");
        std::fs::create_dir(folder.join("credentials")).expect("a folder");
        write_secret(&folder.join("credentials/2026-11.secret"), CLIENT_SECRET);
        let other = Process::start(&folder).await;
        Scene::of(world, other).await
    }

    fn daemons(&self) -> [&Process; 2] {
        [&self.world.daemon, &self.other]
    }

    fn file(&self, name: &str) -> PathBuf {
        self.world.folder.path().join("credentials").join(name)
    }

    /// Waits until both replicas show this line in their metrics.
    async fn both_show(&self, line: &str) {
        for daemon in self.daemons() {
            until(daemon, line, async || metrics(daemon).await.lines().any(|shown| shown == line)).await;
        }
    }

    /// Takes a file of the folder away, and waits until both replicas have noticed.
    async fn take_away(&self, file: &str) {
        let before = self.reloads().await;
        std::fs::remove_file(self.file(file)).expect("removed");
        let noticed = async || self.reloads().await.iter().zip(&before).all(|(now, before)| now != before);
        self.world.until("both have noticed", noticed).await;
    }

    /// How often each replica has taken up what its files say.
    async fn reloads(&self) -> Vec<String> {
        let mut reloads = Vec::new();
        for daemon in self.daemons() {
            let shown = metrics(daemon).await;
            let series = "tokenward_config_reloads_total{outcome=\"ok\"} ";
            reloads.push(shown.lines().find_map(|line| line.strip_prefix(series)).unwrap_or("0").to_owned());
        }
        reloads
    }

    /// Waits until the authority has been asked so often that each connection may have been renewed once
    /// more: whatever was under way is over, and what is seen from then on was begun after this. The long
    /// form waits for its time as well.
    async fn load_goes_on(&self) {
        let (begun, before) = (Instant::now(), self.asked());
        self.world.until("the load goes on", async || self.asked() >= before + CONNECTIONS).await;
        tokio::time::sleep(phase().saturating_sub(begun.elapsed())).await;
    }

    /// How many calls there were to the token endpoint, ever.
    fn asked(&self) -> usize {
        self.world.token_calls("refresh_token")
    }

    async fn credential_is(&self, label: &str, state: &str) {
        let labels = format!("{{app=\"outlook\",credential=\"{label}\",state=\"{state}\"}}");
        self.both_show(&format!("tokenward_credential_state{labels} 1")).await;
    }

    /// The ids of the secrets that the authority took since the last call.
    fn taken(&self) -> Vec<String> {
        let ledger = self.world.entra.take_ledger();
        ledger
            .into_iter()
            .filter(|entry| entry.status == Some(200))
            .filter_map(|entry| entry.credential)
            .collect()
    }

    /// Runs a command against the first replica: its exit code, and what it printed.
    async fn run(&self, arguments: &[&str]) -> (i32, String, String) {
        self.run_at("tokenward.toml", arguments).await
    }

    /// The same against the replica with this configuration file.
    async fn run_at(&self, config: &str, arguments: &[&str]) -> (i32, String, String) {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_tokenward"));
        command.args(arguments).arg("--config").arg(self.world.folder.path().join(config));
        let ended =
            tokio::task::spawn_blocking(move || command.output()).await.expect("run").expect("it ends");
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        (ended.status.code().unwrap_or(-1), text(&ended.stdout), text(&ended.stderr))
    }

    fn load(&self) -> Load {
        let (over, answers) = (Arc::new(AtomicBool::new(false)), Arc::<[AtomicUsize; CALLERS]>::default());
        let callers = (0..CALLERS).map(|caller| {
            let (world, other, names) = (self.world.clone(), self.other.clone(), self.names.clone());
            let (over, answers, key) = (over.clone(), answers.clone(), self.key.clone());
            tokio::spawn(async move {
                let mut seen = Seen::default();
                let mut at = caller;
                while !over.load(Ordering::Relaxed) {
                    // Each name is asked for at the one replica and the other in turn, evenly, so that both
                    // refresh.
                    let (round, place) = (at / names.len(), at % names.len());
                    let daemon = if (round + place).is_multiple_of(2) { &world.daemon } else { &*other };
                    let begun = Instant::now();
                    let name = &names[place];
                    let url = format!("{}/v1/apps/outlook/connections/{name}/token", daemon.local);
                    let bearer = format!("Bearer {}", key.lock());
                    let headers = [("authorization", bearer.as_str())];
                    let answer = request(http::Method::GET, &url, &headers, "").await.expect("an answer");
                    seen.took.push(begun.elapsed());
                    if answer.status != 200 {
                        seen.failed.push(format!("{}: {}", answer.status, answer.text()));
                    }
                    at += 1;
                    answers[caller].fetch_add(1, Ordering::Relaxed);
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
                seen
            })
        });
        let callers = callers.collect();
        Load { over, answers, callers }
    }
}

#[derive(Default)]
struct Seen {
    took: Vec<Duration>,
    failed: Vec<String>,
}

struct Load {
    over: Arc<AtomicBool>,
    /// How many requests of each caller were answered.
    answers: Arc<[AtomicUsize; CALLERS]>,
    callers: Vec<tokio::task::JoinHandle<Seen>>,
}

impl Load {
    /// Waits until each caller has made a whole request more: what it began with before is over.
    async fn each_asks_anew(&self) {
        let before = self.answered();
        self.until(|answers| answers.iter().zip(before).all(|(now, before)| *now >= before + 2)).await;
    }

    fn answered(&self) -> [usize; CALLERS] {
        std::array::from_fn(|caller| self.answers[caller].load(Ordering::Relaxed))
    }

    async fn until(&self, is_enough: impl Fn([usize; CALLERS]) -> bool) {
        let begun = Instant::now();
        while !is_enough(self.answered()) {
            assert!(begun.elapsed() < PATIENCE, "hardly anybody asks: {:?}", self.answered());
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Ends it once enough was asked for to mean something.
    async fn end(self) -> Seen {
        self.until(|answers| answers.iter().sum::<usize>() > ENOUGH).await;
        self.over.store(true, Ordering::Relaxed);
        let mut all = Seen::default();
        for caller in self.callers {
            let seen = caller.await.expect("as promised");
            all.took.extend(seen.took);
            all.failed.extend(seen.failed);
        }
        all
    }

    /// Ends it; nothing may have failed.
    async fn end_without_a_failure(self, what: &str) {
        self.end().await.without_a_failure(what);
    }
}

impl Seen {
    /// What it took is printed, and asserted by nobody.
    fn without_a_failure(mut self, what: &str) {
        self.took.sort();
        let part = |percent: usize| self.took[(self.took.len() - 1) * percent / 100].as_secs_f64() * 1000.0;
        println!(
            "{what}: {} requests, {} failed, p50 {:.1} ms, p99 {:.1} ms",
            self.took.len(),
            self.failed.len(),
            part(50),
            part(99)
        );
        assert!(self.failed.is_empty(), "{} failed, first: {}", self.failed.len(), self.failed[0]);
    }
}

async fn metrics(daemon: &Process) -> String {
    let url = format!("{}/metrics", daemon.ops);
    request(http::Method::GET, &url, &[], "").await.expect("metrics").text().to_owned()
}

/// R1. The authority knows the new secret later than we do, and for a while only at every other request.
#[tokio::test]
async fn a_second_secret_takes_over_and_the_first_goes() {
    let scene = Scene::with_a_secret().await;
    let entra = &scene.world.entra;
    scene.credential_is("2026-11", "in_use").await;
    let load = scene.load();
    let (unknown, flapping) = (learning(), learning() * 2);
    let new = entra.add_secret(CLIENT_ID, "the-second-secret", unknown, None).expect("room for one more");
    entra.let_secret_flap(CLIENT_ID, "the-second-secret", flapping).expect("known");
    write_secret(&scene.file("2027-05.secret"), "the-second-secret\n");
    scene.credential_is("2027-05", "rejected").await;
    scene.credential_is("2027-05", "in_use").await;
    scene.credential_is("2026-11", "proven").await;
    scene.take_away("2026-11.secret").await;
    scene.load_goes_on().await;
    entra.remove_secret(CLIENT_ID, CLIENT_SECRET).expect("removed");
    scene.taken();
    scene.load_goes_on().await;
    load.end_without_a_failure("a second secret takes over").await;
    let taken = scene.taken();
    assert!(!taken.is_empty() && taken.iter().all(|id| *id == new), "{taken:?}, and {new} is the new one");
}

/// A file's content is another one, by an editor's rename: what it held before is the fallback.
#[tokio::test]
async fn a_secret_s_file_is_overwritten_before_the_authority_knows_the_new_one() {
    let scene = Scene::with_a_secret().await;
    let entra = &scene.world.entra;
    scene.credential_is("2026-11", "in_use").await;
    let load = scene.load();
    write_secret(&scene.file(".2026-11.secret.swp"), "the-second-secret");
    std::fs::rename(scene.file(".2026-11.secret.swp"), scene.file("2026-11.secret")).expect("renamed");
    scene.credential_is("2026-11", "rejected").await;
    scene.credential_is("2026-11~before", "in_use").await;
    scene.load_goes_on().await;
    entra.add_secret(CLIENT_ID, "the-second-secret", Duration::ZERO, None).expect("room for one more");
    scene.credential_is("2026-11", "in_use").await;
    entra.remove_secret(CLIENT_ID, CLIENT_SECRET).expect("removed");
    scene.load_goes_on().await;
    load.end_without_a_failure("a secret's file is overwritten").await;
}

/// Without a tenant to ask in, users' requests prove a credential. A secret that the authority knows no more,
/// and whose file holds another by now, is not tried in them for as long as it would be a fallback.
#[tokio::test]
async fn a_rejected_fallback_is_not_tried_in_users_requests() {
    let plan = Plan::default()
        .credentials("")
        .app_lines("credentials_dir = \"credentials\"\n")
        .file("credentials/2026-11.secret", CLIENT_SECRET);
    let scene = Scene::start(plan).await;
    let entra = &scene.world.entra;
    let load = scene.load();
    let new =
        entra.add_secret(CLIENT_ID, "the-second-secret", Duration::ZERO, None).expect("room for one more");
    entra.remove_secret(CLIENT_ID, CLIENT_SECRET).expect("removed");
    scene.credential_is("2026-11", "rejected").await;
    write_secret(&scene.file(".2026-11.secret.swp"), "the-second-secret");
    std::fs::rename(scene.file(".2026-11.secret.swp"), scene.file("2026-11.secret")).expect("renamed");
    scene.credential_is("2026-11", "in_use").await;
    // Not `rejected`: nothing is left to mend, and no alert should go on for the quarter of an hour.
    scene.credential_is("2026-11~before", "retired").await;
    // (Until then requests fail: nothing works.)
    drop(load.end().await);
    for name in scene.names.iter() {
        for daemon in scene.daemons() {
            until(daemon, "served", async || scene.world.token_at(daemon, name).await.status == 200).await;
        }
    }

    let load = scene.load();
    scene.taken();
    // Longer than the pause between two tries of one that users' requests are to prove.
    for _ in 0..2 {
        scene.world.pass(Duration::from_secs(4));
        scene.load_goes_on().await;
    }
    scene.load_goes_on().await;
    let ledger = entra.take_ledger();
    load.end_without_a_failure("a rejected fallback").await;
    let calls = ledger.iter().filter(|call| call.grant_type.is_some());
    let refused: Vec<_> = calls.clone().filter(|call| call.credential.as_ref() != Some(&new)).collect();
    assert!(calls.count() > 20 && refused.is_empty(), "{refused:#?}");
}

/// What the authority said of an app's secret holds nobody back once a new one is in force, though only
/// users' requests can prove that one.
#[tokio::test]
async fn a_new_secret_is_asked_at_once_whatever_was_refused_before() {
    let plan = Plan::default()
        .credentials("")
        .app_lines("credentials_dir = \"credentials\"\n")
        .file("credentials/2026-11.secret", CLIENT_SECRET);
    let scene = Scene::start(plan).await;
    let entra = &scene.world.entra;
    entra.expire_secret(CLIENT_ID, CLIENT_SECRET).expect("known");
    // Each time in vain, so that the pauses grow.
    for _ in 0..3 {
        scene.world.pass(Duration::from_secs(60));
        for name in scene.names.iter() {
            for daemon in scene.daemons() {
                let refused = scene.world.token_at(daemon, name).await;
                assert_eq!(text(&refused.json(), "code"), "app_credential_rejected");
            }
        }
    }
    entra.add_secret(CLIENT_ID, "the-second-secret", Duration::ZERO, None).expect("room for one more");
    let before = scene.reloads().await;
    write_secret(&scene.file("2027-05.secret"), "the-second-secret");
    let noticed = async || scene.reloads().await.iter().zip(&before).all(|(now, before)| now != before);
    scene.world.until("both have noticed", noticed).await;
    for name in scene.names.iter() {
        for daemon in scene.daemons() {
            assert_eq!(scene.world.token_at(daemon, name).await.status, 200, "{name}");
        }
    }
}

/// A refusal that comes after a new secret is in force is of the one before: nobody else waits for it.
#[tokio::test]
async fn a_late_refusal_of_the_secret_before_holds_nobody_back() {
    let scene = Scene::with_a_secret().await;
    let (entra, world) = (&scene.world.entra, &scene.world);
    entra.expire_secret(CLIENT_ID, CLIENT_SECRET).expect("known");
    world.pass(Duration::from_secs(60));
    entra
        .faults()
        .inject(FaultRule::new(Endpoint::Token, Fault::HoldAnswer).grant_type("refresh_token").once());
    let (held, name) = (scene.world.clone(), scene.names[0].clone());
    let held = tokio::spawn(async move { held.token_at(&held.daemon, &name).await });
    world.until("an answer is held", async || entra.faults().rules().is_empty()).await;
    entra.add_secret(CLIENT_ID, "the-second-secret", Duration::ZERO, None).expect("room for one more");
    write_secret(&scene.file("2027-05.secret"), "the-second-secret");
    scene.credential_is("2027-05", "in_use").await;
    entra.faults().release();
    let late = held.await.expect("an answer");
    assert_eq!(text(&late.json(), "code"), "app_credential_rejected");
    for name in &scene.names[1..] {
        assert_eq!(world.token_at(&world.daemon, name).await.status, 200, "{name}");
    }
}

/// What is wrong is refused with its reason, and nothing is lost by it.
#[tokio::test]
async fn a_wrong_secret_an_empty_file_and_a_bad_configuration_harm_nobody() {
    let scene = Scene::with_a_secret().await;
    scene.credential_is("2026-11", "in_use").await;
    let load = scene.load();
    write_secret(&scene.file("2027-05.secret"), "nobody-knows-this-one");
    scene.credential_is("2027-05", "rejected").await;
    scene.credential_is("2026-11", "in_use").await;

    write_secret(&scene.file("2027-05.secret"), "");
    scene.both_show("tokenward_config_reloads_total{outcome=\"failed\"} 1").await;
    std::fs::remove_file(scene.file("2027-05.secret")).expect("removed");
    // Nothing that could be used is left: that is no replacement.
    std::fs::rename(scene.file("2026-11.secret"), scene.world.folder.path().join("aside")).expect("moved");
    scene.both_show("tokenward_config_reloads_total{outcome=\"failed\"} 2").await;
    std::fs::rename(scene.world.folder.path().join("aside"), scene.file("2026-11.secret")).expect("moved");

    let config = scene.world.folder.path().join("tokenward.toml");
    let good = std::fs::read_to_string(&config).expect("read");
    std::fs::write(&config, good.replace("response_mode", "responsemode")).expect("written");
    let log_says = |what: &'static str| scene.world.daemon.until_logged(what);
    log_says("did you mean `response_mode`").await;
    std::fs::write(&config, good.replace("path = \"audit.jsonl\"", "path = \"other.jsonl\""))
        .expect("written");
    log_says("audit cannot change while the daemon runs").await;
    let (code, shown, said) = scene.run(&["status"]).await;
    assert_eq!(code, 0, "{said}");
    assert!(shown.contains("configuration: REFUSED") && shown.contains("audit cannot change"), "{shown}");
    std::fs::write(&config, good).expect("written");
    scene.load_goes_on().await;
    load.end_without_a_failure("wrong secrets and files").await;
}

/// A listener that was added opens at the next start, and a rule that is taken away meanwhile counts at once.
#[tokio::test]
async fn a_listener_that_waits_for_a_restart_holds_no_other_change_up() {
    let world = Plan::default().start().await;
    world.connect("team-b/alice", ALICE).await;
    let reader = async || {
        let path = "/v1/apps/outlook/connections/team-b%2Falice/token";
        world.api_as(&world.reader_key, Method::GET, path, Value::Null).await.status.as_u16()
    };
    assert_eq!(reader().await, 200);
    let config = world.folder.path().join("tokenward.toml");
    let good = std::fs::read_to_string(&config).expect("read");
    let listener = "[[listen.admin]]\nunix = \"admin.sock\"\n[[listen.admin]]\naddress = \"127.0.0.1:0\"\n";
    let written = |text: &str| std::fs::write(&config, text).expect("written");
    assert!(good.contains("[[listen.admin]]\nunix = \"admin.sock\"\n"), "{good}");
    let more = good.replace("[[listen.admin]]\nunix = \"admin.sock\"\n", listener);
    written(&more);
    let reloaded = world.asked(&["reload"]);
    let said = String::from_utf8_lossy(&reloaded.stderr).into_owned();
    assert_eq!(reloaded.status.code(), Some(0), "{said}");
    assert!(said.contains("Needs a restart: listen.admin ("), "{said}");
    assert!(world.said(&["status"]).contains("Needs a restart: listen.admin ("));

    // Without the rule: it counts, whatever else waits.
    written(&more.replace("connections = [\"team-b/*\"]", "connections = [\"team-c/*\"]"));
    let reloaded = world.printed(&["reload", "--json"]);
    assert_eq!(
        (&reloaded["outcome"], &reloaded["needs_restart"]),
        (&json!("ok"), &json!(["listen.admin"])),
        "{reloaded}"
    );
    assert_eq!(reader().await, 404);

    // A reload that is refused changes nothing, so the listener waits as before.
    written(&format!("{more}\n[callers.x]\nauthenticate = []\n"));
    let refused = world.asked(&["reload"]);
    assert_eq!(refused.status.code(), Some(1));
    let status = world.said(&["status"]);
    for said in [String::from_utf8_lossy(&refused.stderr).into_owned(), status] {
        assert!(
            said.contains("Needs a restart: listen.admin (until then the daemon runs with these as before)."),
            "{said}"
        );
    }

    written(&good);
    let reloaded = world.printed(&["reload", "--json"]);
    assert_eq!(reloaded["needs_restart"], json!([]), "it was put back: {reloaded}");
    assert_eq!(reader().await, 200);
}

/// What a listener accepts is in force at once, and told so, beside a listener that waits for a restart.
#[tokio::test]
async fn what_a_listener_accepts_changes_beside_one_that_was_added() {
    const KEYS: &str = "[[listen.local]]\nunix = \"keys.sock\"\naccept = [\"api_keys\"]\n";
    let world = Plan::default().sections(KEYS).start().await;
    world.connect("team-b/alice", ALICE).await;
    let at = async |socket: &str| {
        let bearer = format!("Bearer {}", world.key);
        let path = "/v1/apps/outlook/connections/team-b%2Falice/token";
        let socket = world.folder.path().join(socket);
        let asked = request_unix(&socket, Method::GET, path, &[("authorization", &bearer)], "").await;
        asked.expect("an answer").status.as_u16()
    };
    assert_eq!((at("local.sock").await, at("keys.sock").await), (200, 200));
    let config = world.folder.path().join("tokenward.toml");
    let good = std::fs::read_to_string(&config).expect("read");
    let more = "[[listen.local]]\nunix = \"more.sock\"\n[[listen.local]]\nunix = \"keys.sock\"\naccept = \
                [\"unix_user\"]\n";
    std::fs::write(&config, good.replace(KEYS, more)).expect("written");
    let reloaded = world.printed(&["reload", "--json"]);
    assert_eq!(
        (&reloaded["outcome"], &reloaded["needs_restart"], &reloaded["changed"]),
        (&json!("ok"), &json!(["listen.local"]), &json!(["listen"])),
        "{reloaded}"
    );
    assert_eq!((at("local.sock").await, at("keys.sock").await), (200, 401));
    assert!(!world.folder.path().join("more.sock").exists());
    // With the added one alone, nothing else is told to have changed.
    let more = format!("[[listen.local]]\nunix = \"more.sock\"\n{KEYS}");
    std::fs::write(&config, good.replace(KEYS, &more)).expect("written");
    assert_eq!(world.printed(&["reload", "--json"])["changed"], json!(["listen"]), "accepted as before");
    assert_eq!(at("keys.sock").await, 200);
    let again = world.printed(&["reload", "--json"]);
    assert_eq!(
        (&again["needs_restart"], &again["changed"]),
        (&json!(["listen.local"]), &json!([])),
        "{again}"
    );
}

/// The outage that everybody has had: the only secret expires. Nobody is signed out, and a new file is the
/// whole repair.
#[tokio::test]
async fn the_only_secret_expires_and_a_new_file_heals_everything() {
    let scene = Scene::with_a_secret().await;
    let entra = &scene.world.entra;
    scene.world.outlive_tokens();
    entra.change_settings(|settings| settings.token_lifetime_seconds = Some(3600));
    for name in scene.names.iter() {
        scene.world.access_token(name).await;
    }
    entra.expire_secret(CLIENT_ID, CLIENT_SECRET).expect("known");
    // What is held is handed out to its end …
    for name in scene.names.iter() {
        for daemon in scene.daemons() {
            assert_eq!(scene.world.token_at(daemon, name).await.status, 200);
        }
    }
    scene.world.outlive_tokens();
    // … and then callers are told whose fault it is.
    for daemon in scene.daemons() {
        let refused = scene.world.token_at(daemon, &scene.names[0]).await;
        assert_eq!(refused.status, 503);
        assert_eq!(text(&refused.json(), "code"), "app_credential_rejected");
        assert!(refused.headers.contains_key("retry-after"));
    }
    for name in scene.names.iter() {
        assert_eq!(text(&scene.world.show(name).await, "status"), "active");
    }
    entra.add_secret(CLIENT_ID, "the-second-secret", Duration::ZERO, None).expect("room for one more");
    write_secret(&scene.file("2027-05.secret"), "the-second-secret");
    let repaired = Instant::now();
    for name in scene.names.iter() {
        for daemon in scene.daemons() {
            until(daemon, "served", async || scene.world.token_at(daemon, name).await.status == 200).await;
        }
    }
    println!("healed {:.2} s after the new file", repaired.elapsed().as_secs_f64());
}

/// What an operator types, and what comes of it on both replicas.
#[tokio::test]
async fn an_operator_lists_verifies_promotes_and_retires() {
    let scene = Scene::with_a_secret().await;
    let entra = &scene.world.entra;
    scene.credential_is("2026-11", "in_use").await;
    let load = scene.load();
    let (code, _, said) = scene.run(&["credentials", "retire", "outlook", "2026-11"]).await;
    assert_eq!(code, 1, "{said}");
    assert!(said.contains("no client credential is left that the authority takes"), "{said}");
    assert!(said.contains("`tokenward credentials rotate outlook NEW_ID --from FILE`"), "{said}");

    // Its file alone is no way to take it away. Who tries it is told so.
    let (file, aside) = (scene.file("2026-11.secret"), scene.file("../aside"));
    std::fs::rename(&file, &aside).expect("moved");
    let list = async || scene.run(&["credentials", "list", "outlook"]).await;
    let is_told = async || list().await.2.contains("no client credential is left");
    scene.world.until("the list says it", is_told).await;
    let (code, shown, said) = list().await;
    assert!(code == 0 && shown.contains("in_use") && said.contains("from before"), "{shown}{said}");
    std::fs::rename(&aside, &file).expect("moved");
    scene.world.until("it is there again", async || list().await.2.is_empty()).await;

    let new =
        entra.add_secret(CLIENT_ID, "the-second-secret", Duration::ZERO, None).expect("room for one more");
    write_secret(&scene.file("2027-05@2099-05-20.secret"), "the-second-secret");
    let (code, _, said) = scene.run(&["reload"]).await;
    assert_eq!((code, said.contains("is in force")), (0, true), "{said}");
    scene.credential_is("2027-05", "in_use").await;
    let (code, shown, said) = scene.run(&["credentials", "verify", "outlook"]).await;
    assert_eq!(code, 0, "{shown}{said}");
    assert!(
        shown.contains("2026-11: the authority takes it")
            && shown.contains("2027-05: the authority takes it")
    );
    for act in ["verify", "promote"] {
        let (code, shown, said) = scene.run(&["credentials", act, "outlook", "2O27-05"]).await;
        assert_eq!((code, shown.as_str()), (1, ""), "{said}");
        assert!(
            said.contains("there is no client credential \"2O27-05\"") && !said.contains("openapi"),
            "{said}"
        );
        assert!(said.contains("the app outlook has 2026-11, 2027-05"), "{said}");
    }

    // Back to the old one, by an operator's word, and forth again.
    let (code, _, said) = scene.run(&["credentials", "promote", "outlook", "2026-11"]).await;
    assert_eq!(code, 0, "{said}");
    scene.credential_is("2026-11", "in_use").await;
    // What it was about stands in members of its own, in the log and in the audit stream.
    let log = scene.world.daemon.log();
    let acted = log.lines().find(|line| line.contains("credential_promote") && line.contains("\"2026-11\""));
    let acted: serde_json::Value = serde_json::from_str(acted.expect("logged")).expect("JSON");
    assert_eq!((&acted["app"], &acted["credential"]), (&"outlook".into(), &"2026-11".into()), "{acted}");
    let audit = std::fs::read_to_string(scene.file("../audit.jsonl")).expect("an audit stream");
    let audited = audit.lines().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
    let is_so = |event: &serde_json::Value| {
        event["detail"]["act"] == "credential_promote" && event["detail"]["credential"] == "2026-11"
    };
    assert_eq!(audited.filter(is_so).count(), 1, "{audit}");
    let (code, _, said) = scene.run(&["credentials", "promote", "outlook", "2027-05"]).await;
    assert_eq!(code, 0, "{said}");
    scene.credential_is("2027-05", "in_use").await;

    let (code, _, said) = scene.run(&["credentials", "retire", "outlook", "2026-11"]).await;
    assert_eq!(code, 0, "{said}");
    scene.credential_is("2026-11", "retired").await;
    scene.load_goes_on().await;
    scene.taken();
    // A store that forgets what was decided is told again.
    let record = scene.redis().cli(&["KEYS", "*credential-choices*"]);
    assert_eq!(scene.redis().cli(&["DEL", record.trim()]), "1", "{record}");
    scene.world.until("told again", async || scene.redis().cli(&["EXISTS", record.trim()]) == "1").await;
    scene.load_goes_on().await;
    let taken = scene.taken();
    assert!(!taken.is_empty() && taken.iter().all(|id| *id == new), "{taken:?}, and {new} is the new one");
    let (code, shown, said) = scene.run(&["credentials", "list", "outlook", "--json"]).await;
    assert_eq!(code, 0, "{said}");
    let listed: serde_json::Value = serde_json::from_str(&shown).expect("JSON");
    let credentials = listed[0]["credentials"].as_array().expect("a list");
    let of = |id: &str| credentials.iter().find(|one| one["id"] == id).expect("listed").clone();
    assert_eq!(of("2026-11")["state"], "retired");
    assert_eq!(of("2027-05")["expires_at"], "2099-05-20T00:00:00Z");
    assert!(!shown.contains("the-second-secret") && !shown.contains(CLIENT_SECRET));
    load.end_without_a_failure("an operator promotes and retires").await;
}

/// Without a tenant to ask in, users' requests are the proof; one on any replica counts, and what is said of
/// it is what was seen.
#[tokio::test]
async fn what_only_use_proves_is_verified_and_retired_by_use() {
    let plan = Plan::default()
        .credentials("")
        .app_lines("credentials_dir = \"credentials\"\n")
        .file("credentials/2026-11.secret", CLIENT_SECRET);
    let scene = Scene::start(plan).await;
    let load = scene.load();
    scene.credential_is("2026-11", "in_use").await;
    write_secret(&scene.file("2027-05.secret"), "the-second-secret");
    // Nobody knows it yet: it was tried in a user's request, which fell back.
    let was_tried = async || {
        scene.world.entra.ledger().iter().any(|call| call.error.as_deref() == Some("invalid_client"))
    };
    scene.world.until("it was tried", was_tried).await;
    let (code, shown, said) = scene.run(&["credentials", "verify", "outlook", "2027-05"]).await;
    assert_eq!(code, 1, "{shown}{said}");
    let (code, _, said) = scene.run(&["credentials", "retire", "outlook", "2026-11"]).await;
    assert_eq!(code, 1, "{said}");
    let new = scene.world.entra.add_secret(CLIENT_ID, "the-second-secret", Duration::ZERO, None);
    let new = new.expect("room for one more");
    scene.credential_is("2027-05", "in_use").await;
    let (code, shown, said) = scene.run(&["credentials", "verify", "outlook", "2027-05"]).await;
    assert_eq!(code, 0, "{shown}{said}");
    assert!(shown.contains("took it in a user's request at 20"), "{shown}");
    let (code, _, said) = scene.run(&["credentials", "retire", "outlook", "2026-11"]).await;
    assert_eq!(code, 0, "{said}");
    scene.credential_is("2026-11", "retired").await;
    scene.load_goes_on().await;
    scene.taken();
    scene.load_goes_on().await;
    let taken = scene.taken();
    assert!(!taken.is_empty() && taken.iter().all(|id| *id == new), "{taken:?}, and {new} is the new one");
    load.end_without_a_failure("one that only use proves").await;
}

/// Of two operators who retire the last two credentials at two replicas at once only one does.
#[tokio::test]
async fn two_operators_do_not_take_both_out_of_service() {
    let scene = Scene::with_a_secret().await;
    scene
        .world
        .entra
        .add_secret(CLIENT_ID, "the-second-secret", Duration::ZERO, None)
        .expect("room for one more");
    write_secret(&scene.file("2027-05.secret"), "the-second-secret");
    scene.credential_is("2027-05", "in_use").await;
    let load = scene.load();
    for _ in 0..5 {
        // (What a replica knows of the other may be too old for either, so they try again.)
        let begun = Instant::now();
        let retired = loop {
            let ((one, _, why), (other, _, why_not)) = tokio::join!(
                scene.run_at("tokenward.toml", &["credentials", "retire", "outlook", "2026-11"]),
                scene.run_at("other/tokenward.toml", &["credentials", "retire", "outlook", "2027-05"]),
            );
            match (one, other) {
                (0, 1) => break "2026-11",
                (1, 0) => break "2027-05",
                (1, 1) => assert!(begun.elapsed() < PATIENCE, "{why}{why_not}"),
                both => panic!("{both:?}: {why}{why_not}"),
            }
        };
        // Back again: what is retired is the authority's still.
        let (code, _, said) = scene.run(&["credentials", "promote", "outlook", retired]).await;
        assert_eq!(code, 0, "{said}");
        scene.credential_is(retired, "in_use").await;
    }
    load.end_without_a_failure("two operators retire both").await;
}

/// Files come to replicas at different times: what one of them still lives on is not taken out of service by
/// way of another.
#[tokio::test]
async fn nothing_is_retired_that_another_replica_still_lives_on() {
    let scene = Scene::with_a_secret_each().await;
    let other = scene.world.folder.path().join("other/credentials");
    scene
        .world
        .entra
        .add_secret(CLIENT_ID, "the-second-secret", Duration::ZERO, None)
        .expect("room for one more");
    let load = scene.load();
    write_secret(&scene.file("2027-05.secret"), "the-second-secret");
    let listed = async || {
        let (code, shown, said) = scene.run(&["credentials", "list", "outlook", "--json"]).await;
        assert_eq!(code, 0, "{said}");
        let listed: serde_json::Value = serde_json::from_str(&shown).expect("JSON");
        let credentials = listed[0]["credentials"].as_array().expect("a list").clone();
        move |id: &str| credentials.iter().find(|one| one["id"] == id).cloned().unwrap_or_default()
    };
    let begun = Instant::now();
    loop {
        let of = listed().await;
        if of("2027-05")["state"] == "in_use" {
            let elsewhere = of("2027-05")["replicas"].as_array().expect("a list").clone();
            assert_eq!(elsewhere.len(), 1, "{elsewhere:?}");
            assert_eq!(elsewhere[0]["state"], "absent", "its file has not come there");
            assert_eq!(of("2026-11")["replicas"][0]["state"], "in_use");
            let (_, shown, _) = scene.run(&["credentials", "list", "outlook"]).await;
            assert!(shown.contains("absent at ") && shown.contains("in_use at "), "{shown}");
            break;
        }
        assert!(begun.elapsed() < PATIENCE, "{}", scene.world.daemon.log());
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let retire = ["credentials", "retire", "outlook", "2026-11"];
    let (code, _, said) = scene.run(&retire).await;
    assert_eq!(code, 1, "{said}");
    assert!(
        said.contains("has no client credential that the authority takes; give it the next one first"),
        "{said}"
    );
    assert!(!said.contains("this replica"), "{said}");

    // Its file comes while the next command waits for that; what was asked for is done, though whoever asked
    // has gone.
    let config = scene.world.folder.path().join("tokenward.toml");
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_tokenward"));
    let mut asks = command.args(retire).arg("--config").arg(config).spawn().expect("it starts");
    tokio::time::sleep(Duration::from_secs(2)).await;
    asks.kill().expect("it waits");
    asks.wait().expect("it is gone");
    write_secret(&other.join("2027-05.secret"), "the-second-secret");
    scene.credential_is("2026-11", "retired").await;
    // The other one's uses are in the figure as well, a report later.
    let begun = Instant::now();
    loop {
        let one = listed().await("2027-05");
        if let Some(there) = one["replicas"][0]["last_used_at"].as_str() {
            assert!(one["last_used_at"].as_str().expect("used") >= there, "{one}");
            break;
        }
        assert!(begun.elapsed() < PATIENCE, "{one}");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    load.end_without_a_failure("files that come at different times").await;
}

/// A key and a certificate for it, as PEM, named so.
fn certificate(name: &str) -> (String, String) {
    certificate_for(name, 90)
}

/// The same for so many days.
pub(crate) fn certificate_for(name: &str, days: u32) -> (String, String) {
    let folder = tempfile::tempdir().expect("a folder");
    let (key, certificate) = (folder.path().join("key.pem"), folder.path().join("cert.pem"));
    let made = std::process::Command::new("openssl")
        .args(["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj"])
        .arg(format!("/CN={name}"))
        .args(["-days", &days.to_string()])
        .args(["-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1", "-keyout"])
        .arg(&key)
        .arg("-out")
        .arg(&certificate)
        .output()
        .expect("openssl is missing: run `make tools`");
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let read = |path: &PathBuf| std::fs::read_to_string(path).expect("read");
    (read(&key), read(&certificate))
}

/// R2. Key and certificate in one file; one whose key is another's is refused, and the old one stays in
/// force.
#[tokio::test]
async fn a_client_certificate_takes_over_from_another() {
    let (first_key, first) = certificate("first");
    let (second_key, second) = certificate("second");
    let both = format!("{first_key}{first}");
    let plan = Plan::default()
        .credentials("")
        .app_lines(DIRECTORY)
        .file("credentials/2026-11.secret", CLIENT_SECRET)
        .file("credentials/cert-1.pem", &both);
    let scene = Scene::start(plan).await;
    let entra = &scene.world.entra;
    entra.set_certificates(CLIENT_ID, &[&first]).expect("known");
    // (Rejected at first, it is taken three times before it is trusted.)
    scene.credential_is("cert-1", "in_use").await;
    // From the secret to the certificate …
    let load = scene.load();
    scene.take_away("2026-11.secret").await;
    scene.load_goes_on().await;
    entra.remove_secret(CLIENT_ID, CLIENT_SECRET).expect("removed");
    // … whose successor comes with the wrong key first …
    write_secret(&scene.file("cert-2.pem"), &format!("{first_key}{second}"));
    scene.both_show("tokenward_config_reloads_total{outcome=\"failed\"} 1").await;
    assert!(scene.world.daemon.log().contains("holds a key that does not belong to its certificate"));
    // … then with its own, which the authority does not know yet.
    write_secret(&scene.file("cert-2.pem"), &format!("{second_key}{second}"));
    scene.credential_is("cert-2", "rejected").await;
    entra.set_certificates(CLIENT_ID, &[&first, &second]).expect("known");
    scene.credential_is("cert-2", "in_use").await;
    scene.take_away("cert-1.pem").await;
    scene.load_goes_on().await;
    entra.set_certificates(CLIENT_ID, &[&second]).expect("known");
    scene.load_goes_on().await;
    load.end_without_a_failure("a certificate takes over").await;
}

/// R9, the server's side. Whoever connects from then on sees the new certificate; a bad one changes nothing.
#[tokio::test]
async fn a_server_certificate_is_replaced_for_connections_from_then_on() {
    let (first_key, first) = certificate("first");
    let (second_key, second) = certificate("second");
    let port = crate::world::free_port();
    let listener = format!(
        "[[listen.local]]\naddress = \"127.0.0.1:{port}\"\ntls = {{ certificate = \"server.pem\", key = \
         \"server.key\" }}\n"
    );
    let plan = Plan::default().sections(&listener).file("server.pem", &first).file("server.key", &first_key);
    let world = Arc::new(plan.start().await);
    let file = |name: &str| world.folder.path().join(name);
    let shown = || certificate_at(port);
    assert!(shown().ends_with("first"), "{}", shown());
    // The certificate before its key: for a moment the two do not fit.
    write_secret(&file("server.pem"), &second);
    let refused = "tokenward_config_reloads_total{outcome=\"failed\"} 1";
    world.until(refused, async || world.metrics().await.contains(refused)).await;
    assert!(shown().ends_with("first"), "{}", shown());
    write_secret(&file("server.key"), &second_key);
    world.until("the second certificate", async || shown().ends_with("second")).await;
}

/// R8, the authority's side. Refreshes and new sign-ins go on when it signs with another key.
async fn the_authority_signs_with_another_key(overlap: bool) {
    let scene = Scene::with_a_secret().await;
    let load = scene.load();
    scene.load_goes_on().await;
    scene.world.entra.rotate_signing_keys(overlap);
    scene.world.connect("newcomer", ALICE).await;
    assert_eq!(scene.world.token_at(&scene.other, "newcomer").await.status, 200);
    // The key that signed before must not be believed any more, says somebody.
    scene.world.entra.clear_ledger();
    let (done, said) = scene.follow(&page("The authority changes its signing keys")[0], "").await;
    assert!(done, "{said}");
    let fetched = async || scene.world.entra.ledger().iter().any(|entry| entry.path.ends_with("/keys"));
    scene.world.until("the keys are fetched", fetched).await;
    // Where the list cannot be had, the command says so, and nothing else comes of it.
    let down = FaultRule::new(Endpoint::Discovery, Fault::status(503));
    scene.world.entra.faults().inject(down.clone());
    let (code, _, said) = scene.run(&["reload"]).await;
    assert_eq!((code, said.contains("could not be fetched anew")), (0, true), "{said}");
    scene.world.entra.faults().withdraw(&down);
    scene.load_goes_on().await;
    load.end_without_a_failure("the authority's signing key changes").await;
}

#[tokio::test]
async fn the_authority_s_signing_key_changes_with_overlap() {
    the_authority_signs_with_another_key(true).await;
}

#[tokio::test]
async fn the_authority_s_signing_key_changes_without_overlap() {
    the_authority_signs_with_another_key(false).await;
}

/// Rules, rates, limits and the log's level are taken up as well.
#[tokio::test]
async fn rules_limits_and_the_log_level_change_live() {
    let scene = Scene::with_a_secret().await;
    let world = &scene.world;
    world.connect("team-a/one", ALICE).await;
    let path = "/v1/apps/outlook/connections/team-a%2Fone/token?scope=Mail.Read";
    let as_reader = || world.api_as(&world.reader_key, http::Method::GET, path, serde_json::Value::Null);
    assert_eq!(as_reader().await.status, 404);
    let load = scene.load();
    let config = world.folder.path().join("tokenward.toml");
    let before = std::fs::read_to_string(&config).expect("read");
    let after = before
        .replace("connections = [\"team-b/*\"]", "connections = [\"team-a/*\", \"team-b/*\"]")
        .replace("level = \"debug\"", "level = \"warn\"");
    std::fs::write(&config, format!("{after}\n[limits]\ncaller_wait = \"14s\"\n")).expect("written");
    world.until("the rule is in force", async || as_reader().await.status == 200).await;
    // The log comes by a way of its own: what was said before has come when nothing more does.
    let mut quiet = 0;
    world
        .until("the log is quiet", async || {
            let before = std::mem::replace(&mut quiet, world.daemon.log().len());
            scene.load_goes_on().await;
            before == quiet
        })
        .await;
    scene.world.access_token("team-a/one").await;
    scene.load_goes_on().await;
    let since = world.daemon.log()[quiet..].to_owned();
    assert!(!since.contains("\"DEBUG\"") && !since.contains("\"INFO\""), "{since}");
    // And back: what was allowed is not any more.
    std::fs::write(&config, before).expect("written");
    world.until("the rule is gone", async || as_reader().await.status == 404).await;
    load.end_without_a_failure("rules and limits change").await;
}

/// A projected assertion is renewed, half written, and gone for a while: the other credential serves
/// meanwhile.
#[tokio::test]
async fn a_federated_assertion_is_renewed_and_goes_missing() {
    let (key, _) = certificate("issuer");
    let issuer = Issuer::new(&key);
    let plan = Plan::default()
        .credentials("")
        .app_lines(DIRECTORY)
        .file("credentials/2026-11.secret", CLIENT_SECRET)
        .file("credentials/pod.assertion", &issuer.assertion(3600));
    let scene = Scene::start(plan).await;
    let trusted = entra_emulator::FederatedCredential::new(ISSUER, SUBJECT, issuer.jwks.clone());
    scene.world.entra.add_federated_credential(CLIENT_ID, trusted).expect("room");
    scene.credential_is("pod", "in_use").await;
    let load = scene.load();
    // Renewed by a rename, as kubelet does.
    write_secret(&scene.file(".pod.new"), &issuer.assertion(3600));
    std::fs::rename(scene.file(".pod.new"), scene.file("pod.assertion")).expect("renamed");
    scene.load_goes_on().await;
    let half = issuer.assertion(3600);
    write_secret(&scene.file("pod.assertion"), &half[..half.len() / 2]);
    scene.credential_is("pod", "rejected").await;
    scene.credential_is("2026-11", "in_use").await;
    std::fs::remove_file(scene.file("pod.assertion")).expect("removed");
    scene.load_goes_on().await;
    // One that has expired is never sent.
    write_secret(&scene.file("pod.assertion"), &issuer.assertion(-10));
    scene.load_goes_on().await;
    write_secret(&scene.file("pod.assertion"), &issuer.assertion(3600));
    scene.credential_is("pod", "in_use").await;
    load.end_without_a_failure("an assertion goes missing").await;
    let log = scene.world.daemon.log();
    assert!(!log.contains(&half[..40]), "the log has an assertion");
}

const ISSUER: &str = "https://kubernetes.contoso.example";
const SUBJECT: &str = "system:serviceaccount:tokenward:tokenward";

/// Another issuer, whose assertions the registration trusts.
struct Issuer {
    folder: tempfile::TempDir,
    jwks: serde_json::Value,
}

impl Issuer {
    fn new(key_pem: &str) -> Issuer {
        use base64::Engine as _;
        let folder = tempfile::tempdir().expect("a folder");
        write_secret(&folder.path().join("key.pem"), key_pem);
        let output = std::process::Command::new("openssl")
            .args(["rsa", "-noout", "-modulus", "-in"])
            .arg(folder.path().join("key.pem"))
            .output()
            .expect("openssl");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let hex = text.trim().strip_prefix("Modulus=").expect("a modulus").to_owned();
        let bytes: Vec<u8> = (0..hex.len())
            .step_by(2)
            .map(|at| u8::from_str_radix(&hex[at..at + 2], 16).expect("hex"))
            .collect();
        let n = base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(bytes);
        let jwks = json!({ "keys": [{ "kty": "RSA", "use": "sig", "kid": "k1", "n": n, "e": "AQAB" }] });
        Issuer { folder, jwks }
    }

    /// An assertion that ends in so many seconds.
    fn assertion(&self, left: i64) -> String {
        use base64::Engine as _;
        let encode = |bytes: &[u8]| base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(bytes);
        let now = i64::try_from(
            std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("after 1970").as_secs(),
        )
        .expect("small");
        let header = json!({ "alg": "RS256", "typ": "JWT", "kid": "k1" });
        let claims = json!({
            "iss": ISSUER, "sub": SUBJECT, "aud": "api://AzureADTokenExchange",
            "iat": now - 20, "nbf": now - 20, "exp": now + left,
        });
        let message =
            format!("{}.{}", encode(header.to_string().as_bytes()), encode(claims.to_string().as_bytes()));
        let (input, output) = (self.folder.path().join("message"), self.folder.path().join("signature"));
        std::fs::write(&input, &message).expect("written");
        let signed = std::process::Command::new("openssl")
            .args(["dgst", "-sha256", "-sign"])
            .arg(self.folder.path().join("key.pem"))
            .arg("-out")
            .arg(&output)
            .arg(&input)
            .status()
            .expect("openssl");
        assert!(signed.success());
        format!("{message}.{}", encode(&std::fs::read(output).expect("a signature")))
    }
}

/// For so long a command waits for what is pasted: the daemons look several times meanwhile.
const TYPING: Duration = Duration::from_secs(3);

/// The shell blocks of a page of the runbook. Its secrets end in 2099 here, so that the tests hold when the
/// dates in the text have passed.
fn page(heading: &str) -> Vec<String> {
    let runbook =
        std::fs::read_to_string(PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("deploy/RUNBOOK.md"))
            .expect("read");
    let page =
        runbook.split(&format!("\n## {heading}\n")).nth(1).unwrap_or_else(|| panic!("no page {heading}"));
    let page = page.split("\n## ").next().unwrap_or_default();
    let page = page.replace("@2027-", "@2099-");
    let blocks = page.split("```sh\n").skip(1).filter_map(|rest| rest.split("```").next());
    blocks.map(str::to_owned).collect()
}

impl Scene {
    /// The id of the key that seals.
    async fn sealing_key(&self) -> String {
        let (done, said) = self.follow("tokenward keyring status --json", "").await;
        assert!(done, "{said}");
        let start = said.find('[').unwrap_or_default();
        let keys: Vec<serde_json::Value> = serde_json::from_str(&said[start..]).expect("JSON");
        let primary: Vec<_> = keys.iter().filter(|key| key["primary"] == true).collect();
        assert_eq!(primary.len(), 1, "{keys:?}");
        text(primary[0], "id").to_owned()
    }

    fn redis(&self) -> &RedisServer {
        self.world.redis.as_ref().expect("a Redis")
    }

    async fn no_reload_was_refused(&self) {
        for daemon in self.daemons() {
            let shown = metrics(daemon).await;
            let refused = "tokenward_config_reloads_total{outcome=\"failed\"}";
            let line = shown.lines().find(|line| line.starts_with(refused));
            let refused = line.and_then(|line| line.split_whitespace().last()).unwrap_or("0");
            assert_eq!(refused, "0", "{}", daemon.log());
        }
    }

    fn redis_port(&self) -> u16 {
        self.redis().port()
    }

    /// Runs a block of the runbook as on-call would, in this scene's folder in place of `/etc/tokenward`.
    /// What is typed comes as late as people are.
    async fn follow(&self, block: &str, typed: &str) -> (bool, String) {
        let folder = self.world.folder.path();
        let script = block
            .replace("/etc/tokenward/credentials/outlook", &folder.join("credentials").display().to_string())
            .replace("/etc/tokenward/", &format!("{}/", folder.display()))
            .replace("chown ", ": chown ")
            .replace("docker compose exec -T redis ", "")
            .replace("/run/secrets/", &format!("{}/", folder.display()))
            .replace("secrets/tokenward/", "")
            .replace("secrets/redis/", "")
            .replace("redis-cli -e ", &format!("redis-cli -e -p {} ", self.redis_port()))
            .replace("runuser -u tokenward -- ", "");
        let binary = PathBuf::from(env!("CARGO_BIN_EXE_tokenward"));
        let path = format!(
            "{}:{}",
            binary.parent().expect("a folder").display(),
            std::env::var("PATH").unwrap_or_default()
        );
        let mut shell = std::process::Command::new("sh");
        shell
            .args(["-e", "-c", &script])
            .current_dir(folder)
            .env("PATH", path)
            .env("TOKENWARD_CONFIG", folder.join("tokenward.toml"))
            .stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::piped())
            .stderr(std::process::Stdio::piped());
        let typed = typed.to_owned();
        let ended = tokio::task::spawn_blocking(move || {
            use std::io::Write as _;
            let mut child = shell.spawn().expect("sh");
            if !typed.is_empty() {
                std::thread::sleep(TYPING);
            }
            // (It may end without reading.)
            let _ = child.stdin.take().expect("piped").write_all(typed.as_bytes());
            child.wait_with_output().expect("it ends")
        });
        let ended = ended.await.expect("run");
        let said =
            format!("{}{}", String::from_utf8_lossy(&ended.stdout), String::from_utf8_lossy(&ended.stderr));
        (ended.status.success(), said)
    }
}

/// What the runbook says is what happens, command by command, under load.
#[tokio::test]
async fn the_runbook_s_page_on_the_client_secret() {
    // Named as README and `init` have it.
    let plan = Plan::default()
        .credentials("")
        .app_lines(DIRECTORY)
        .file("credentials/2026-11@2099-05-20.secret", CLIENT_SECRET);
    let scene = Scene::start(plan).await;
    let entra = &scene.world.entra;
    scene.credential_is("2026-11", "in_use").await;
    let blocks = page("Replace the client secret");
    assert_eq!(blocks.len(), 5, "{blocks:?}");
    let load = scene.load();
    let new = entra.add_secret(CLIENT_ID, "the-second-secret", learning(), None).expect("room for one more");
    let (done, said) = scene.follow(&blocks[0], "the-second-secret\n").await;
    assert!(done, "{said}");
    scene.no_reload_was_refused().await;
    let begun = Instant::now();
    loop {
        // `verify` fails until the authority takes it, and the list says the rest.
        let (done, said) = scene.follow(&blocks[1], "").await;
        if done && said.lines().any(|line| line.contains("2027-05") && line.contains("yes")) {
            break;
        }
        assert!(begun.elapsed() < PATIENCE, "{said}");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    scene.credential_is("2027-05", "in_use").await;
    let (done, said) = scene.follow(&blocks[2], "").await;
    assert!(done && said.contains("retired"), "{said}");
    scene.credential_is("2026-11", "retired").await;
    scene.load_goes_on().await;
    scene.taken();
    let (done, said) = scene.follow(&blocks[3], "").await;
    assert!(done, "{said}");
    entra.remove_secret(CLIENT_ID, CLIENT_SECRET).expect("removed");
    // The one command for all of it finds that everything is done. (tests/it/rotate.rs has it do that.)
    write_secret(&scene.world.folder.path().join("new-secret"), "the-second-secret");
    let (done, said) = scene.follow(&blocks[4], "").await;
    assert!(done && said.contains("2027-05 is in use.") && said.contains("nothing to retire"), "{said}");
    scene.load_goes_on().await;
    load.end_without_a_failure("the runbook's page on the client secret").await;
    let taken = scene.taken();
    assert!(!taken.is_empty() && taken.iter().all(|id| *id == new), "{taken:?}, and {new} is the new one");
}

/// The same for the certificate, with the commands that make it.
#[tokio::test]
async fn the_runbook_s_page_on_the_client_certificate() {
    let scene = Scene::with_a_secret().await;
    scene.credential_is("2026-11", "in_use").await;
    let load = scene.load();
    let blocks = page("Replace the client certificate");
    assert_eq!(blocks.len(), 2, "{blocks:?}");
    let (done, said) = scene.follow(&blocks[0], "").await;
    assert!(done, "{said}");
    // Uploading takes its time too.
    tokio::time::sleep(TYPING).await;
    let certificate = std::fs::read_to_string(scene.world.folder.path().join("new.cer")).expect("made");
    scene.world.entra.set_certificates(CLIENT_ID, &[&certificate]).expect("known");
    let (done, said) = scene.follow(&blocks[1], "").await;
    assert!(done, "{said}");
    scene.credential_is("2027-05", "in_use").await;
    scene.no_reload_was_refused().await;
    load.end_without_a_failure("the runbook's page on the client certificate").await;
}

/// R7. Two live keys, the time of last use of each, and the old one refused on every replica within a second.
#[tokio::test]
async fn the_runbook_s_page_on_an_api_key() {
    let scene = Scene::with_a_secret().await;
    let load = scene.load();
    let lines = page("Replace a caller's API key").concat();
    let line = |word: &str| lines.lines().find(|line| line.contains(word)).expect("on the page").to_owned();
    let (done, before) = scene.follow(&line("list-keys"), "").await;
    assert!(done, "{before}");
    let (done, said) = scene.follow(&line("add-key"), "").await;
    assert!(done, "{said}");
    let new = said.lines().find(|line| line.starts_with("twk_")).expect("a key").to_owned();
    let url = |daemon: &Process| format!("{}/v1/apps/outlook/connections/user-0/token", daemon.local);
    let ask = async |daemon: &Process, key: &str| {
        let headers = [("authorization", &*format!("Bearer {key}"))];
        request(http::Method::GET, &url(daemon), &headers, "").await.expect("an answer").status
    };
    for daemon in scene.daemons() {
        until(daemon, "the new key is known", async || ask(daemon, &new).await == 200).await;
    }
    let old_key = std::mem::replace(&mut *scene.key.lock(), new);
    let old = before
        .lines()
        .find_map(|line| line.split_whitespace().find(|word| word.starts_with("20")))
        .expect("an id");
    load.each_asks_anew().await;
    scene.load_goes_on().await;
    let (done, said) = scene.follow(&line("retire-key").replace("OLD_ID", old), "").await;
    assert!(done, "{said}");
    for daemon in scene.daemons() {
        until(daemon, "the old key is refused", async || ask(daemon, &old_key).await == 401).await;
    }
    load.end_without_a_failure("the runbook's page on an API key").await;
}

/// The users of the ACL file in `deploy/compose`, and `default` as the administrator.
fn redis_users() -> String {
    let file = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("deploy/compose/redis.acl");
    let shipped = std::fs::read_to_string(file).expect("read");
    let lines = shipped.lines().filter(|line| !line.starts_with('#')).map(|line| {
        let line =
            if line.starts_with("user default ") { "user default on nopass ~* &* +@all" } else { line };
        line.replace("@PASSWORD_SHA256@", &sha256("the-first-password"))
            .replace("@OPERATOR_SHA256@", &sha256("the-operator-s"))
    });
    lines.map(|line| format!("{line}\n")).collect()
}

/// With a password for Redis, and TLS on one of the listeners.
async fn a_scene_with_every_secret() -> (Scene, u16) {
    let (key, certificate) = certificate("first");
    let port = crate::world::free_port();
    let listener = format!(
        "[[listen.local]]\naddress = \"127.0.0.1:{port}\"\ntls = {{ certificate = \"server.pem\", key = \
         \"server.key\" }}\n"
    );
    let mut plan = Plan::default()
        .credentials("")
        .app_lines(DIRECTORY)
        .sections(&listener)
        .file("credentials/2026-11@2099-05-20.secret", CLIENT_SECRET)
        .file("redis-password", "the-first-password")
        .file("redis-operator-password", "the-operator-s")
        .file("server.pem", &certificate)
        .file("server.key", &key);
    plan.store_lines = "username = \"tokenward\"\npassword_file = \"redis-password\"\n".to_owned();
    (Scene::start(plan.redis_acl(redis_users())).await, port)
}

fn certificate_at(port: u16) -> String {
    let output = std::process::Command::new("openssl")
        .args(["s_client", "-connect", &format!("127.0.0.1:{port}")])
        .stdin(std::process::Stdio::null())
        .output()
        .expect("openssl");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    text.lines().find(|line| line.starts_with("subject=")).unwrap_or_default().to_owned()
}

impl Scene {
    /// Whether Redis would let tokenward in with what this file holds if it started again now: its ACL file
    /// says so.
    fn redis_knows(&self, file: &str) -> bool {
        let read = |name| std::fs::read_to_string(self.world.folder.path().join(name)).expect("a file");
        let users = read("redis.acl");
        let line = users.lines().find(|line| line.starts_with("user tokenward ")).expect("the user");
        line.contains(&format!(" #{}", sha256(read(file).trim_end())))
    }

    /// When each replica was last let in with a password that it had read.
    async fn password_taken(&self) -> Vec<String> {
        let mut taken = Vec::new();
        for daemon in self.daemons() {
            let shown = metrics(daemon).await;
            let series = "tokenward_store_login_taken_timestamp_seconds{secret=\"password\"} ";
            taken.push(
                shown.lines().find_map(|line| line.strip_prefix(series)).unwrap_or_default().to_owned(),
            );
        }
        taken
    }

    /// The three blocks of R10 under load, with what a restart of Redis in between would know.
    async fn replace_the_redis_password(&self, blocks: &[String]) -> Seen {
        assert_eq!(blocks.len(), 3, "{blocks:?}");
        let first = self.world.folder.path().join("first");
        write_secret(&first, "the-first-password");
        let load = self.load();
        let (done, said) = self.follow(&blocks[0], "").await;
        assert!(done, "{said}");
        assert!(self.redis_knows("redis-password.new") && self.redis_knows("first"), "{said}");
        let before = self.password_taken().await;
        let (done, said) = self.follow(&blocks[1], "").await;
        assert!(done, "{said}");
        let taken =
            async || self.password_taken().await.iter().zip(&before).all(|(now, before)| now != before);
        self.world.until("both have taken the new password", taken).await;
        self.both_show("tokenward_store_login_refused{secret=\"password\"} 0").await;
        let (done, said) = self.follow(&blocks[2], "").await;
        assert!(done, "{said}");
        assert!(self.redis_knows("redis-password") && !self.redis_knows("first"), "{said}");
        assert!(!self.world.folder.path().join("redis-password.old").exists());
        // Whoever connects from now on needs the new one.
        let redis = self.world.redis.as_ref().expect("a Redis");
        redis.cli(&["CLIENT", "KILL", "TYPE", "pubsub"]);
        self.load_goes_on().await;
        let seen = load.end().await;
        let refused = redis.cli(&["ACL", "LOG"]);
        assert!(refused.lines().all(|line| !line.contains("auth")), "{refused}");
        assert_eq!(redis.cli(&["ACL", "LOAD"]), "OK", "it would start");
        seen
    }
}

/// R10, as the runbook says it.
#[tokio::test]
async fn the_runbook_s_page_on_the_redis_password() {
    let (scene, _) = a_scene_with_every_secret().await;
    let blocks = page("Replace the Redis password");
    let seen = scene.replace_the_redis_password(&blocks[..3]).await;
    seen.without_a_failure("the runbook's page on the Redis password");
}

/// The same where the ACL file is edited and `operator` has it read: until Redis 7.2 that ends every
/// connection each time.
#[tokio::test]
async fn the_runbook_s_page_on_the_redis_password_with_compose() {
    let (scene, _) = a_scene_with_every_secret().await;
    let blocks = page("Replace the Redis password");
    let seen = scene.replace_the_redis_password(&blocks[3..]).await;
    seen.without_a_failure("the Redis password with compose");
}

/// An answer of Redis that is an error does not pass in silence.
#[tokio::test]
async fn the_runbook_s_page_on_the_redis_password_stops_at_an_error() {
    let (scene, _) = a_scene_with_every_secret().await;
    let blocks = page("Replace the Redis password");
    for (block, right, wrong) in [
        (0, "SETUSER tokenward", "SETUSER tokenward +what"),
        (3, "operator ACL LOAD", "operator ACL WHOAREYOU"),
    ] {
        assert!(blocks[block].contains(right), "{}", blocks[block]);
        let (done, said) = scene.follow(&blocks[block].replace(right, wrong), "").await;
        assert!(!done && said.contains("ERR"), "{said}");
    }
}

/// The whole of it, in one sequence.
#[tokio::test]
async fn the_drill_rotates_everything_at_once() {
    let (scene, port) = a_scene_with_every_secret().await;
    let entra = &scene.world.entra;
    scene.credential_is("2026-11", "in_use").await;
    let first_key = scene.sealing_key().await;
    let load = scene.load();
    let blocks = page("Rotate everything at once");
    let new = entra.add_secret(CLIENT_ID, "the-second-secret", learning(), None).expect("room for one more");
    let begun = Instant::now();
    let (done, said) = scene.follow(&blocks[0], "the-second-secret\n").await;
    assert!(done, "{said}");
    let key =
        std::fs::read_to_string(scene.world.folder.path().join("mail-sync.key.new")).expect("the new key");
    *scene.key.lock() = key.trim().to_owned();
    entra.rotate_signing_keys(true);
    let (done, said) = scene.follow(&blocks[1], "").await;
    assert!(done, "{said}");
    scene.credential_is("2027-05", "in_use").await;
    scene.both_show("tokenward_store_login_refused{secret=\"password\"} 0").await;
    assert_ne!(scene.sealing_key().await, first_key);
    assert!(certificate_at(port).ends_with("tokens.contoso.com"), "{}", certificate_at(port));
    let (_, listed) = scene.follow("tokenward callers list-keys mail-sync", "").await;
    let old = listed
        .lines()
        .find_map(|line| line.split_whitespace().find(|word| word.starts_with("20")))
        .expect("an id");
    let (done, said) = scene.follow(&blocks[2].replace("OLD_ID", old), "").await;
    assert!(done, "{said}");
    assert!(scene.redis_knows("redis-password"), "after a restart, too");
    scene.credential_is("2026-11", "retired").await;
    scene.load_goes_on().await;
    entra.remove_secret(CLIENT_ID, CLIENT_SECRET).expect("removed");
    scene.taken();
    scene.load_goes_on().await;
    println!("the drill took {:.1} s", begun.elapsed().as_secs_f64());
    load.end_without_a_failure("the drill").await;
    scene.no_reload_was_refused().await;
    let taken = scene.taken();
    assert!(!taken.is_empty() && taken.iter().all(|id| *id == new), "{taken:?}, and {new} is the new one");
}

/// R6. A sign-in that began under the old keys ends under the new ones: its link, its cookie, its `state` and
/// its code.
#[tokio::test]
async fn a_sign_in_that_is_under_way_survives_the_rotation_of_everything() {
    let (scene, _) = a_scene_with_every_secret().await;
    let world = &scene.world;
    let entra = &world.entra;
    scene.credential_is("2026-11", "in_use").await;
    let first_key = scene.sealing_key().await;
    let session = world.start_session(json!({ "app": "outlook", "connection": "late" })).await;
    // The browser has pressed the button and is at Entra …
    let mut browser = Browser::default();
    let url = text(&session, "connect_url");
    assert_eq!(browser.get(url).await.expect("the invitation").status, 200);
    let pressed = browser.post(url, "").await.expect("the button");
    assert_eq!(pressed.status, 303);
    // … while everything becomes another one …
    entra.add_secret(CLIENT_ID, "the-second-secret", Duration::ZERO, None).expect("room for one more");
    let blocks = page("Rotate everything at once");
    let (done, said) = scene.follow(&blocks[0], "the-second-secret\n").await;
    assert!(done, "{said}");
    let (done, said) = scene.follow(&blocks[1], "").await;
    assert!(done, "{said}");
    scene.credential_is("2027-05", "in_use").await;
    assert_ne!(scene.sealing_key().await, first_key);
    let (done, said) = scene.follow("tokenward credentials retire outlook 2026-11", "").await;
    assert!(done, "{said}");
    entra.remove_secret(CLIENT_ID, CLIENT_SECRET).expect("removed");
    // … and comes back.
    let base = world.base_url();
    let away = |url: &str| !url.starts_with(&base) && !url.contains("/oauth2/");
    browser.follow(&pressed.location(), away).await.expect("the way back");
    let id = text(&session, "id");
    let state = world.session(id).await;
    assert_eq!(state["state"], "awaiting_confirmation", "{state} {}", world.daemon.log());
    let account = json!({ "account": { "tid": state["account"]["tid"], "oid": state["account"]["oid"] } });
    let path = format!("/v1/connect-sessions/{id}/confirm");
    let confirmed = world.api(http::Method::POST, &path, account).await;
    assert_eq!(confirmed.status, 200, "{}", confirmed.text());
    assert_eq!(world.token_at(&scene.other, "late").await.status, 200);
}

/// What was wrong is mended where the daemon does not look for it: the refused reload is tried again.
#[tokio::test]
async fn a_refused_reload_is_tried_again() {
    let scene = Scene::with_a_secret().await;
    let config = scene.world.folder.path().join("tokenward.toml");
    let before = std::fs::read_to_string(&config).expect("read");
    let newcomer = "[callers.newcomer]\nauthenticate = [{ api_keys = \"newcomer.keys\" \
        }]\n[[callers.newcomer.allow]]\napp = \"outlook\"\nconnections = [\"user-0\"]\nscopes = \
        [\"Mail.Read\"]\n";
    let keys = scene.world.folder.path().join("newcomer.keys");
    write_secret(&keys, "half a li");
    std::fs::write(&config, format!("{before}\n{newcomer}")).expect("written");
    let refused = "tokenward_config_reloads_total{outcome=\"failed\"} 1";
    scene.world.until(refused, async || metrics(&scene.world.daemon).await.contains(refused)).await;
    std::fs::remove_file(&keys).expect("removed");
    let (done, key) = scene.follow("tokenward callers add-key newcomer", "").await;
    assert!(done, "{key}");
    let key = key.lines().find(|line| line.starts_with("twk_")).expect("a key").to_owned();
    let path = "/v1/apps/outlook/connections/user-0/token";
    let ask = async || scene.world.api_as(&key, http::Method::GET, path, serde_json::Value::Null).await;
    scene.world.until("the newcomer is known", async || ask().await.status == 200).await;
    let shown = metrics(&scene.world.daemon).await;
    assert!(shown.contains("tokenward_config_reloads_total{outcome=\"failed\"} 1"), "said once:\n{shown}");
}

/// A file on a mount that does not answer: here a pipe that nobody writes to.
#[tokio::test]
async fn a_file_that_cannot_be_read_holds_up_nobody_and_is_refused_with_a_reason() {
    let scene = Scene::with_a_secret().await;
    let config = scene.world.folder.path().join("tokenward.toml");
    let aside = scene.world.folder.path().join("aside.toml");
    let load = scene.load();
    std::fs::rename(&config, &aside).expect("moved");
    let made = std::process::Command::new("mkfifo").arg(&config).status().expect("mkfifo");
    assert!(made.success());
    scene.world.daemon.until_logged("may be on a mount that does not answer").await;
    // It answers again, late: what was given up stays so, and what is there now is taken up.
    std::fs::rename(&config, scene.world.folder.path().join("pipe")).expect("moved");
    std::fs::rename(&aside, &config).expect("moved back");
    let text = std::fs::read_to_string(&config).expect("text");
    std::fs::write(scene.world.folder.path().join("pipe"), text).expect("somebody reads it still");
    scene.world.daemon.until_logged("read again and are in force").await;
    load.end_without_a_failure("a file that cannot be read").await;

    // Nor is it waited for by who stops.
    let mut world = Arc::into_inner(scene.world).expect("nobody asks any more");
    std::fs::rename(&config, &aside).expect("moved");
    let made = std::process::Command::new("mkfifo").arg(&config).status().expect("mkfifo");
    assert!(made.success());
    tokio::time::sleep(Duration::from_secs(4)).await;
    // (Whoever waited for the pipe would wait for ever.)
    assert_eq!(world.daemon.terminate(), Some(0), "{}", world.daemon.log());
}
