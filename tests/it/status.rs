//! Output of an operator's commands when something is wrong: with the file on disk, with the store, with a
//! secret's date.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::process::{Command, Output, Stdio};

use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};

use crate::world::{ALICE, Kept, Plan, World};

impl World {
    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_tokenward"));
        command.args(arguments).args(["--config"]).arg(self.folder.path().join("tokenward.toml"));
        command.stdin(Stdio::null());
        command
    }

    pub(crate) fn asked(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().expect("it ends")
    }
}

pub(crate) fn out(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

pub(crate) fn err(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[tokio::test]
async fn a_file_with_mistakes_stops_no_command_that_asks_the_daemon() {
    let world = Plan::default().start().await;
    world.connect("one", ALICE).await;
    let path = world.folder.path().join("tokenward.toml");
    let good = std::fs::read_to_string(&path).expect("the configuration");
    for broken in [
        good.replacen("client_id", "clientid", 1),
        format!("{good}\n[limits]\ndrain = \"soon\n"),
        format!("{good}\n[callers.x]\nauthenticate = []\n"),
    ] {
        std::fs::write(&path, &broken).expect("written");
        for (arguments, code) in [
            (&["connections", "list", "outlook"][..], 0),
            (&["connections", "explain", "outlook", "one"], 0),
            (&["credentials", "list"], 0),
            (&["status", "--once"], 0),
            // The daemon is asked, and refuses.
            (&["reload"], 1),
        ] {
            let ended = world.asked(arguments);
            assert_eq!(ended.status.code(), Some(code), "{arguments:?}: {}{}", out(&ended), err(&ended));
            assert!(
                err(&ended).contains("the configuration has mistakes") && err(&ended).contains("--endpoint"),
                "{}",
                err(&ended)
            );
        }
        let status = out(&world.asked(&["status", "--once"]));
        assert!(status.contains("REFUSED") && status.contains("tokenward.toml:"), "{status}");
        assert_eq!(world.asked(&["check"]).status.code(), Some(2));
    }
    std::fs::remove_file(&path).expect("removed");
    let ended = world.asked(&["status", "--once"]);
    assert_eq!(ended.status.code(), Some(2));
    assert!(err(&ended).contains("--endpoint"), "{}", err(&ended));
    let socket = format!("unix:{}", world.folder.path().join("admin.sock").display());
    assert!(world.asked(&["status", "--once", "--endpoint", &socket]).status.success());
}

#[tokio::test]
async fn a_lost_store_is_said_with_since_when_and_until_when() {
    let mut world = Plan::default().kept(Kept::Redis).start().await;
    world.connect("held", ALICE).await;
    let status = out(&world.asked(&["status", "--once"]));
    assert!(!status.contains("NOT REACHABLE"), "{status}");
    world.redis.as_mut().expect("redis").stop();
    let metric = "tokenward_store_reachable 0";
    world.until("it is noticed", async || world.metrics().await.contains(metric)).await;
    for arguments in [&["status", "--once"][..], &["connections", "explain", "outlook", "held"]] {
        let said = out(&world.asked(arguments));
        assert!(said.contains("the store: NOT REACHABLE since 2"), "{arguments:?}: {said}");
        assert!(said.contains("tokens in memory are served until 2"), "{arguments:?}: {said}");
    }
    let listed = world.asked(&["connections", "list", "outlook"]);
    assert!(
        err(&listed).contains("store_unavailable") && !err(&listed).contains("token is held"),
        "{}",
        err(&listed)
    );
    world.redis.as_mut().expect("redis").restart();
    world.until("it is back", async || !world.metrics().await.contains(metric)).await;
    assert!(!out(&world.asked(&["status", "--once"])).contains("NOT REACHABLE"));
}

#[tokio::test]
async fn what_ends_next_is_listed_and_a_secret_without_a_date_has_a_series() {
    let credentials = "[[apps.outlook.credentials]]\nid = \"dated\"\nkind = \"secret\"\nfile = \
        \"client-secret\"\nexpires = 2099-01-01\n\
                       [[apps.outlook.credentials]]\nid = \"undated\"\nkind = \"secret\"\nfile = \
                       \"client-secret\"\n";
    let world = Plan::default().credentials(credentials).start().await;
    let series = |credential: &str, figure: u8| {
        format!("tokenward_credential_expiry_unknown{{app=\"outlook\",credential=\"{credential}\"}} {figure}")
    };
    world
        .until("the series", async || {
            let metrics = world.metrics().await;
            metrics.contains(&series("undated", 1)) && metrics.contains(&series("dated", 0))
        })
        .await;
    let status = out(&world.asked(&["status", "--once"]));
    let (_, ends) = status.split_once("What ends next:").expect("a list");
    let row = |words: [&str; 2]| {
        let found = ends.lines().position(|line| words.iter().all(|word| line.contains(word)));
        found.unwrap_or_else(|| panic!("{words:?} in {status}"))
    };
    let (key, dated) = (row(["API key", "mail-sync"]), row(["client secret", " dated"]));
    assert!(key < dated && dated < row(["unknown", "undated"]), "{status}");
    let listed = out(&world.asked(&["credentials", "list"]));
    assert!(listed.lines().any(|line| line.contains("undated") && line.contains("unknown")), "{listed}");
}

/// Makes a terminal: the end that shows what is written to the other one.
pub(crate) fn terminal() -> (File, File) {
    let controller = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).expect("a terminal");
    grantpt(&controller).expect("ours");
    unlockpt(&controller).expect("unlocked");
    let name = ptsname(&controller, Vec::new()).expect("a name");
    let terminal = std::fs::OpenOptions::new().read(true).write(true).open(name.to_str().expect("a path"));
    (File::from(controller), terminal.expect("the other end"))
}

/// Reads what a terminal shows until that is enough, or nobody writes to it any more.
pub(crate) fn read_until(mut screen: File, is_enough: impl Fn(&str) -> bool) -> String {
    let (mut shown, mut bytes) = (String::new(), [0; 4096]);
    while !is_enough(&shown) {
        match std::io::Read::read(&mut screen, &mut bytes) {
            Ok(0) | Err(_) => break,
            Ok(read) => shown.push_str(&String::from_utf8_lossy(&bytes[..read])),
        }
    }
    shown
}

#[tokio::test]
async fn a_terminal_is_drawn_anew_and_shows_no_escape_as_text() {
    let world = Plan::default().start().await;
    let (screen, terminal) = terminal();
    let mut child = world.command(&["status"]).stdout(OwnedFd::from(terminal)).spawn().expect("it starts");
    // Drawn twice.
    let reader =
        std::thread::spawn(|| read_until(screen, |shown| shown.matches("tokenward 0.").count() == 2));
    let shown = tokio::task::spawn_blocking(|| reader.join().expect("read")).await.expect("joined");
    child.kill().expect("a child of ours");
    child.wait().expect("it ends");
    assert!(shown.starts_with("\u{1b}[2J\u{1b}[H") && shown.matches("\u{1b}[2J").count() == 2, "{shown:?}");
    assert!(!shown.contains("\\u{1b}"), "{shown:?}");
}

#[tokio::test]
async fn each_job_s_last_run_is_shown_and_counted_and_one_that_fails_says_why() {
    let webhook = crate::notices::section("http://127.0.0.1:9", "");
    let plan = Plan::default().sections(&webhook).file("webhook.secret", crate::notices::SECRET);
    let mut world = plan.kept(Kept::Redis).start().await;
    let jobs = async |world: &World| {
        let status = world.asked(&["status", "--json"]);
        let status: serde_json::Value = serde_json::from_slice(&status.stdout).expect("JSON");
        status["jobs"].as_array().cloned().expect("a list")
    };
    world
        .until("each has run", async || {
            jobs(&world).await.iter().all(|job| job["outcome"] == "ok" && job["last_run_at"].is_string())
        })
        .await;
    let (all, metrics) = (jobs(&world).await, world.metrics().await);
    assert_eq!(all.len(), 16, "{all:?}");
    for job in &all {
        let name = job["job"].as_str().expect("a name");
        let is_well = format!("tokenward_job_last_run_successful{{job_name=\"{name}\"}} 1");
        let ran = format!("tokenward_job_last_run_timestamp_seconds{{job_name=\"{name}\"}} ");
        assert!(metrics.contains(&is_well) && metrics.contains(&ran), "{name} in {metrics}");
    }
    world.redis.as_mut().expect("redis").stop();
    let failed = "tokenward_job_last_run_successful{job_name=\"store_ping\"} 0";
    world.until("it is noticed", async || world.metrics().await.contains(failed)).await;
    let screen = out(&world.asked(&["status", "--once"]));
    let row = screen.lines().find(|line| line.starts_with("store_ping")).expect("a row");
    assert!(row.contains("FAILED: "), "{screen}");
    let row = screen.lines().find(|line| line.starts_with("product ")).expect("a row");
    assert!(row.ends_with("not known now"), "{screen}");
    world.redis.as_mut().expect("redis").restart();
    world.until("it is back", async || !world.metrics().await.contains(failed)).await;
}
