//! The guide docs/first-service.md: one service in seven languages, each run in every situation that it
//! handles.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Arc;
use std::time::{Duration, Instant};

use entra_emulator::{ChallengeStyle, Endpoint, Fault, FaultRule, RevokeKind};
use futures_util::future::join_all;
use http::Method;
use parking_lot::Mutex;
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt, copy};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;

use crate::attacks_rights::reconfigure;
use crate::http_client::Answer;
use crate::launcher::{command, installed, repository};
use crate::world::{ALICE, BOB, Plan, World, free_port, write_secret};

const GUIDE: &str = "docs/first-service.md";
/// What Microsoft Graph's stand-in has in every mailbox.
const SUBJECTS: &str = "Welcome to the mailbox\nMinutes of Tuesday's meeting\nYour invoice\n";
/// The programs give a call 20 seconds, and curl tries five times.
const UNTIL_GIVEN_UP: Duration = Duration::from_secs(180);

/// A language: its name in the guide's block, its file, and how it is run.
struct Language {
    name: &'static str,
    file: &'static str,
    program: fn(&Path) -> Command,
}

fn with(program: &str, file: &Path) -> Command {
    let mut run = command(program);
    run.arg(file);
    run
}

/// Those whose tools the other tests need, too.
const HERE: [Language; 3] = [
    Language { name: "python", file: "first.py", program: |file| with("python3", file) },
    Language { name: "js", file: "first.mjs", program: |file| with("node", file) },
    Language { name: "sh", file: "first.sh", program: |file| with("sh", file) },
];

/// Those that `make languages` installs or builds.
const MORE: [Language; 4] = [
    Language { name: "go", file: "first.go", program: |_| command(built("first-go")) },
    Language {
        name: "java",
        file: "First.java",
        program: |file| {
            let mut run = command("java");
            run.args(["-cp", "/usr/share/java/gson.jar"]).arg(file);
            run
        },
    },
    Language { name: "csharp", file: "First.cs", program: |_| with("mono", &built("First.exe")) },
    Language { name: "rust", file: "rust/src/main.rs", program: |_| command(built("debug/first-service")) },
];

fn built(name: &str) -> PathBuf {
    installed(&format!("../first-service/{name}"), "languages")
}

/// A way to the daemon that keeps what went there.
struct Way {
    address: String,
    asked: Arc<Mutex<String>>,
    /// What the next connection is answered, in place of the daemon's answer to it.
    next: Arc<Mutex<Option<Answer>>>,
    /// When each connection came.
    came: Arc<Mutex<Vec<Instant>>>,
}

impl Way {
    async fn to(world: &World) -> Way {
        let daemon = world.daemon.local.strip_prefix("http://").expect("an address").to_owned();
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bound");
        let address = format!("http://{}", listener.local_addr().expect("an address"));
        let asked: Arc<Mutex<String>> = Arc::default();
        let next: Arc<Mutex<Option<Answer>>> = Arc::default();
        let came: Arc<Mutex<Vec<Instant>>> = Arc::default();
        let (kept, given, instants) = (Arc::clone(&asked), Arc::clone(&next), Arc::clone(&came));
        tokio::spawn(async move {
            while let Ok((mut client, _)) = listener.accept().await {
                instants.lock().push(Instant::now());
                let given = given.lock().take();
                if let Some(answer) = given {
                    let mut head = [0; 4096];
                    let read = client.read(&mut head).await.expect("a request");
                    kept.lock().push_str(&String::from_utf8_lossy(&head[..read]));
                    client.write_all(&as_it_came(&answer)).await.expect("written");
                    continue;
                }
                let server = TcpStream::connect(&daemon).await.expect("connected");
                let (mut from, mut to_client) = client.into_split();
                let (mut answers, mut to) = server.into_split();
                tokio::spawn(async move { copy(&mut answers, &mut to_client).await });
                let kept = Arc::clone(&kept);
                tokio::spawn(async move {
                    let mut chunk = [0; 4096];
                    while let Ok(read @ 1..) = from.read(&mut chunk).await {
                        kept.lock().push_str(&String::from_utf8_lossy(&chunk[..read]));
                        to.write_all(&chunk[..read]).await.expect("written");
                    }
                });
            }
        });
        Way { address, asked, next, came }
    }
}

/// An answer of the daemon, on a connection that ends with it.
fn as_it_came(answer: &Answer) -> Vec<u8> {
    let mut text = format!("HTTP/1.1 {}\r\nconnection: close\r\n", answer.status);
    for (name, value) in &answer.headers {
        text.push_str(&format!("{name}: {}\r\n", value.to_str().expect("text")));
    }
    [text.as_bytes(), b"\r\n", &answer.body].concat()
}

impl Language {
    fn file(&self) -> PathBuf {
        repository().join("examples/first-service").join(self.file)
    }

    /// Runs the program for a connection, against a world or what stands in its place.
    async fn run(&self, world: &World, address: &str, key_file: &Path, connection: &str) -> Output {
        let mut run = (self.program)(&self.file());
        run.arg(connection)
            .env("TOKENWARD_URL", address)
            .env("TOKENWARD_KEY_FILE", key_file)
            .env("GRAPH_URL", world.entra.graph_url());
        let run = tokio::task::spawn_blocking(move || run.output());
        let output = timeout(UNTIL_GIVEN_UP, run).await.expect("it ends").expect("joined");
        output.unwrap_or_else(|error| panic!("{}: {error}: run `make languages`", self.name))
    }

    /// Every situation that the program handles.
    async fn does_what_the_guide_says(&self) {
        let world = Plan::default().start().await;
        world.connect("team-a/alice", ALICE).await;
        world.connect("bob", BOB).await;
        let key = world.folder.path().join("service.key");
        write_secret(&key, &format!("{}\n", world.key));
        let way = Way::to(&world).await;
        let run = async |connection: &str| {
            let output = self.run(&world, &way.address, &key, connection).await;
            let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
            (output.status.code(), text(&output.stdout).replace("\r\n", "\n"), text(&output.stderr))
        };
        let name = self.name;
        let reads = async |situation: &str| {
            let (code, printed, complaint) = run("team-a/alice").await;
            assert_eq!((code, printed.as_str()), (Some(0), SUBJECTS), "{name}, {situation}: {complaint}");
        };
        let is_refused = async |connection: &str, words: &[&str]| {
            let (code, printed, complaint) = run(connection).await;
            let is_there = words.iter().all(|word| complaint.contains(word));
            let is_refused = code == Some(1) && printed.is_empty() && is_there;
            assert!(is_refused, "{name}, {connection}: {code:?} {printed} {complaint}");
        };

        reads("a connection that works").await;

        // Graph refuses the token before its time: it is reported, with the challenge, and the next is used.
        let refused = crate::docs::sha256(&world.access_token("team-a/alice").await);
        world.entra.clear_ledger();
        world.entra.challenge_graph(Some(ALICE), 1, ChallengeStyle::Camel);
        reads("a token that was refused").await;
        let report = way.asked.lock().replace(' ', "");
        let has = |text: &str| report.matches(text).count() == 1;
        assert!(has(&format!("\"rejected\":\"{refused}\"")) && has("\"claims\":\"ey"), "{name}: {report}");
        let asked = world.entra.ledger();
        let calls = |endpoint: Endpoint| asked.iter().filter(|entry| entry.endpoint == endpoint).count();
        assert_eq!((calls(Endpoint::Graph), calls(Endpoint::Token)), (2, 1), "{name}: {asked:#?}");

        // The authority is away for a moment: the program waits as it is told.
        world.outlive_tokens();
        world.entra.clear_ledger();
        let away = FaultRule::new(Endpoint::Token, Fault::aadsts(90033)).grant_type("refresh_token");
        world.entra.faults().inject(away.once());
        reads("an authority that was away").await;
        assert_eq!(world.token_calls("refresh_token"), 2);

        // The user has to act.
        world.entra.revoke_user(BOB, RevokeKind::GrantRevoked).expect("known");
        world.outlive_tokens();
        is_refused("bob", &["reauthorization_required", "/connect/"]).await;
        is_refused("nobody", &["connection_not_found", "/connect/"]).await;

        // The caller's rule does not give what is asked for: the program ends, and asks no more.
        let path = "/v1/apps/outlook/connections/team-b%2Fbob/token?scope=Calendars.Read";
        world.connect("team-b/bob", BOB).await;
        let forbidden = world.api_as(&world.reader_key, Method::GET, path, Value::Null).await;
        assert_eq!(forbidden.status, 403, "{}", forbidden.text());
        *way.next.lock() = Some(forbidden);
        let before = way.came.lock().len();
        is_refused("team-b/bob", &["caller_forbidden"]).await;
        assert_eq!(way.came.lock().len() - before, 1, "{name} asked again");

        // The caller asks too often: the program waits as it is told, and asks again.
        reconfigure(&world, "[callers.mail-sync]\n", "[callers.mail-sync]\nrate_limit = 1\n").await;
        let too_often = loop {
            let answer = world.token("team-a/alice").await;
            if answer.status == 429 {
                break answer;
            }
        };
        let seconds = too_often.headers["retry-after"].to_str().expect("text").parse().expect("a number");
        *way.next.lock() = Some(too_often);
        let first = way.came.lock().len();
        reads("a caller that asks too often").await;
        let came = way.came.lock().clone();
        // (A clock of a program may be coarse.)
        let waited = came[first + 1] - came[first] + Duration::from_millis(20);
        assert!(waited >= Duration::from_secs(seconds), "{name} waited {waited:?} of {seconds} s");

        // A key that was replaced is read anew; a wrong one is said to be wrong.
        write_secret(&key, "twk_nobody");
        is_refused("team-a/alice", &["caller_unauthenticated"]).await;
    }
}

async fn all_at_once(languages: &[Language]) {
    join_all(languages.iter().map(Language::does_what_the_guide_says)).await;
}

#[tokio::test]
async fn the_programs_of_the_guide_handle_what_it_says() {
    all_at_once(&HERE).await;
}

#[tokio::test]
#[ignore = "it needs the compilers of more languages: make languages"]
async fn the_programs_in_other_languages_do_too() {
    all_at_once(&MORE).await;
}

/// No program waits for ever for a daemon that does not answer.
#[tokio::test]
#[ignore = "it waits for the programs' own time-outs: make languages"]
async fn every_program_gives_up_on_a_daemon_that_does_not_answer() {
    let world = Plan::default().start().await;
    let key = world.folder.path().join("service.key");
    write_secret(&key, &world.key);
    let silent = TcpListener::bind("127.0.0.1:0").await.expect("bound");
    let address = format!("http://{}", silent.local_addr().expect("an address"));
    let _accepts = tokio::spawn(async move {
        let mut open = Vec::new();
        while let Ok((connection, _)) = silent.accept().await {
            open.push(connection);
        }
    });
    let runs = HERE.iter().chain(&MORE).map(|language| language.run(&world, &address, &key, "alice"));
    for output in join_all(runs).await {
        assert!(!output.status.success() && !output.stderr.is_empty(), "{output:?}");
    }
}

/// What was forgotten is said in one line.
#[tokio::test]
async fn a_program_without_its_argument_its_key_or_its_daemon_says_so_in_a_line() {
    let away = format!("http://127.0.0.1:{}", free_port());
    for language in HERE.iter().filter(|language| language.name != "sh") {
        for (arguments, key) in
            [(&[][..], "/dev/null"), (&["alice"], "/no/such/key"), (&["alice"], "/dev/null")]
        {
            let mut run = (language.program)(&language.file());
            run.args(arguments).env("TOKENWARD_URL", &away).env("TOKENWARD_KEY_FILE", key);
            let ended = run.output().expect("it runs");
            let said = String::from_utf8_lossy(&ended.stderr);
            assert!(!ended.status.success(), "{}", language.name);
            assert_eq!(said.trim_end().lines().count(), 1, "{} {arguments:?} {key}: {said}", language.name);
        }
    }
}

/// The guide shows the programs that were run, and no others.
#[test]
fn the_guide_has_the_programs_word_for_word() {
    let guide = std::fs::read_to_string(repository().join(GUIDE)).expect("the guide");
    for language in HERE.iter().chain(&MORE) {
        let program = std::fs::read_to_string(language.file()).expect("the program");
        let is_shown = guide.contains(&format!("```{}\n{program}```\n", language.name));
        assert!(is_shown, "{GUIDE} does not show {} as it is", language.file);
    }
}
