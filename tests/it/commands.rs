//! The operator's commands, from `init` to a token and back, with one real binary for daemon and commands.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use entra_emulator::{App, Emulator, User};
use serde_json::Value;

use crate::http_client::Browser;
use crate::redis_server::{free_port, wait_for};
use crate::world::{ALICE, CLIENT_ID, CLIENT_SECRET, Process, text, write_secret};

/// A folder made by `init`, with listeners on free ports.
struct Desk {
    config: PathBuf,
    entra: Emulator,
    base_url: String,
    _folder: tempfile::TempDir,
}

impl Desk {
    async fn new() -> Desk {
        let folder = tempfile::tempdir().expect("a temp dir");
        let [public, ops, local] = [free_port(), free_port(), free_port()];
        let base_url = format!("http://localhost:{public}");
        let entra = Emulator::builder()
            .app(
                App::new(CLIENT_ID)
                    .secret(CLIENT_SECRET)
                    .redirect_uri(format!("{base_url}/callback/outlook")),
            )
            .user(User::work(ALICE))
            .start()
            .await
            .expect("the emulator starts");
        let home = folder.path().join("home");
        let made = Command::new(env!("CARGO_BIN_EXE_tokenward"))
            .arg("init")
            .arg(&home)
            .args(["--client-id", CLIENT_ID, "--authority", &entra.authority("common"), "--json"])
            .output()
            .expect("it ends");
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        let config = home.join("tokenward.toml");
        let text = std::fs::read_to_string(&config).expect("the configuration");
        let text = text
            .replace("127.0.0.1:8080", &format!("127.0.0.1:{public}"))
            .replace("localhost:8080", &format!("localhost:{public}"))
            .replace("127.0.0.1:7070", &format!("127.0.0.1:{local}"))
            .replace("127.0.0.1:9464", &format!("127.0.0.1:{ops}"));
        std::fs::write(&config, text).expect("write");
        write_secret(&home.join("credentials/outlook/2026-11@2029-05-20.secret"), CLIENT_SECRET);
        Desk { config, entra, base_url, _folder: folder }
    }

    fn home(&self) -> &Path {
        self.config.parent().expect("a folder")
    }

    fn run(&self, arguments: &[&str]) -> Output {
        Command::new(env!("CARGO_BIN_EXE_tokenward"))
            .args(arguments)
            .env("TOKENWARD_CONFIG", &self.config)
            .stdin(Stdio::null())
            .output()
            .expect("it ends")
    }

    /// What a command printed, which must have succeeded.
    fn said(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        let out = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success(), "{arguments:?}: {out}{}", String::from_utf8_lossy(&output.stderr));
        out
    }

    fn json(&self, arguments: &[&str]) -> Value {
        let said = self.said(arguments);
        serde_json::from_str(&said).unwrap_or_else(|_| panic!("{arguments:?} printed {said}"))
    }
}

#[tokio::test]
async fn from_init_to_a_token_and_back() {
    let desk = Desk::new().await;
    assert!(desk.said(&["check"]).contains(&format!("{}/callback/outlook", desk.base_url)));
    let daemon = Process::start(desk.home()).await;

    // `connect` prints the link, waits while the user signs in, and confirms.
    let mut connecting = Command::new(env!("CARGO_BIN_EXE_tokenward"))
        .args(["connect", "outlook", "team-a/alice", "--yes"])
        .env("TOKENWARD_CONFIG", &desk.config)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("it starts");
    let mut lines = BufReader::new(connecting.stdout.take().expect("piped")).lines().map_while(Result::ok);
    let link = lines
        .find_map(|line| line.split_whitespace().find(|word| word.contains("/connect/")).map(str::to_owned));
    let link = link.expect("a link");
    let mut browser = Browser::default();
    let pressed = browser.post(&link, "").await.expect("the button");
    browser.follow(&pressed.location(), |_| false).await.expect("the way back");
    let ended = tokio::task::spawn_blocking(move || connecting.wait_with_output())
        .await
        .expect("joined")
        .expect("it ends");
    assert!(ended.status.success(), "{}\n{}", String::from_utf8_lossy(&ended.stderr), daemon.log());

    // A token by the Unix user, and by the key that `init` made.
    let token = desk.said(&["token", "outlook", "team-a/alice"]);
    let graph = format!("{}/v1.0/me", desk.entra.graph_url());
    let bearer = format!("Bearer {}", token.trim());
    let me = crate::http_client::request(http::Method::GET, &graph, &[("authorization", &bearer)], "")
        .await
        .expect("Graph");
    assert_eq!(me.status, 200);
    let key_file = desk.home().join("cli.key");
    let by_key = desk.json(&[
        "token",
        "outlook",
        "team-a/alice",
        "--json",
        "--key-file",
        key_file.to_str().expect("UTF-8"),
    ]);
    assert_eq!(text(&by_key, "access_token"), token.trim());

    // Look at it.
    let list = desk.json(&["connections", "list", "--json"]);
    assert_eq!(list[0]["connection"], "team-a/alice", "{list}");
    assert!(desk.said(&["connections", "list"]).contains("team-a/alice"));
    assert_eq!(desk.json(&["connections", "show", "outlook", "team-a/alice", "--json"])["status"], "active");
    let explained = desk.said(&["connections", "explain", "outlook", "team-a/alice"]);
    assert!(explained.contains("Nothing to do"), "{explained}");

    // Caller keys: two live ones at most; a new one works on the running daemon, a retired one does not.
    let added = desk.json(&["callers", "add-key", "cli", "--json"]);
    let second = desk.home().join("second.key");
    write_secret(&second, text(&added, "key"));
    let second = second.to_str().expect("UTF-8");
    // Key files are looked at once a second.
    let asks = || desk.run(&["token", "outlook", "team-a/alice", "--key-file", second]);
    wait_for("the new key to be known", || asks().status.success());
    assert!(!desk.run(&["callers", "add-key", "cli"]).status.success(), "a third live key is refused");
    let keys = desk.json(&["callers", "list-keys", "cli", "--json"]);
    assert_eq!(keys.as_array().map(Vec::len), Some(2));
    assert!(
        keys[0]["last_used_at"].is_string() && keys[1]["last_used_at"].is_string(),
        "both were used: {keys}"
    );
    desk.said(&["callers", "retire-key", "cli", text(&added, "id")]);
    wait_for("the retired key to be refused", || !asks().status.success());
    let refused = asks();
    assert_eq!(refused.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&refused.stderr).contains("caller_unauthenticated"));

    // The keyring: a second key only opens.
    desk.said(&["keyring", "add"]);
    let keys = desk.json(&["keyring", "status", "--json"]);
    let listed = keys.as_array().or_else(|| keys["keys"].as_array()).expect("a list").len();
    assert_eq!(listed, 2, "{keys}");

    // End it.
    desk.said(&["connections", "delete", "outlook", "team-a/alice", "--yes"]);
    let gone = desk.run(&["token", "outlook", "team-a/alice"]);
    assert_eq!(gone.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&gone.stderr).contains("connection_not_found"));
}

/// As systemd does with `Type=notify` and `WatchdogSec=`.
#[tokio::test]
async fn the_service_manager_is_told_when_the_daemon_serves_and_that_it_lives() {
    let desk = Desk::new().await;
    let path = desk.home().join("notify.sock");
    let manager = std::os::unix::net::UnixDatagram::bind(&path).expect("bound");
    manager.set_read_timeout(Some(std::time::Duration::from_secs(60))).expect("a limit");
    let told = || {
        let mut text = [0; 64];
        let length = manager.recv(&mut text).expect("a message");
        String::from_utf8_lossy(&text[..length]).into_owned()
    };
    let variables = format!("NOTIFY_SOCKET={}\nWATCHDOG_USEC=200000\n", path.display());
    std::fs::write(desk.home().join("environment"), variables).expect("write");
    let mut daemon = Process::launch(desk.home()).await;
    assert_eq!(told(), "READY=1");
    for _ in 0..5 {
        assert_eq!(told(), "WATCHDOG=1");
    }
    // It still listens to its signals, and a stopped process says nothing.
    assert_eq!(daemon.terminate(), Some(0), "{}", daemon.log());
}

#[tokio::test]
async fn exit_codes_say_whose_mistake_it_was() {
    let desk = Desk::new().await;
    for (arguments, code) in [
        (&["no-such-command"][..], 2),
        (&["token", "outlook"], 2),
        (&["check", "--config", "/nonexistent/tokenward.toml"], 2),
        (&["token", "outlook", "one"], 1), // the daemon is not running
        (&["--help"], 0),
    ] {
        assert_eq!(desk.run(arguments).status.code(), Some(code), "{arguments:?}");
    }
    let stopped = desk.run(&["token", "outlook", "one"]);
    assert!(
        String::from_utf8_lossy(&stopped.stderr).contains("running"),
        "it says that the daemon may not be running"
    );
}
