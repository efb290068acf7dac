//! What a request costs, in instructions: counted under valgrind, and compared with what is written down in
//! `work.txt`. So a change that makes the daemon slower is one on purpose. The numbers are of a build for
//! tests, which is not optimised; only their changes mean something.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;

use entra_emulator::{App, Emulator, User};
use http::Method;
use tokenward::app::Daemon;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::runtime::Runtime;

use crate::counted;
use crate::http_client::{Browser, request};
use crate::linear_work::in_this_process;
use crate::setup::{CLIENT_ID, CLIENT_SECRET, free_port};

const WRITTEN_DOWN: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/work.txt");
/// What is counted, how often it is done for that, and by how many hundredths its number may rise. A refresh
/// waits for two other threads, the store's and the authority's, so its number differs by itself. A caller
/// forces five in ten seconds at most.
const KINDS: [(&str, usize, u64); 4] =
    [("hand-out", 100, 3), ("not modified", 100, 3), ("refusal", 100, 3), ("refresh", 1, 5)];
/// The daemon's jobs, as the compiler names their closures. How often they run in a request's time depends on
/// what else the machine does, so they are not counted.
const JOBS: [&str; 2] = [
    "4jobs4Jobs5every28_$u7b$$u7b$closure$u7d$$u7d$17h",
    "4jobs4Jobs10until_stop28_$u7b$$u7b$closure$u7d$$u7d$17h",
];
/// How often each is counted. The least is the number: what the daemon does beside requests comes on top.
const ROUNDS: usize = 3;
/// Most runs before a number counts as too high. A busy machine only adds to a number: the least is right.
const RUNS: usize = 3;

/// The numbers for one request of each kind.
fn counted_now() -> BTreeMap<&'static str, u64> {
    let counts = counted::instructions_without("work::each_kind_once", &JOBS);
    assert_eq!(counts.len(), ROUNDS * KINDS.len(), "each kind is counted");
    let mut least = BTreeMap::new();
    for ((kind, times, _), count) in KINDS.iter().cycle().zip(counts) {
        let known = least.entry(*kind).or_insert(u64::MAX);
        *known = (*known).min(count / *times as u64);
    }
    least
}

/// The least numbers of both.
fn least(
    mut one: BTreeMap<&'static str, u64>,
    other: BTreeMap<&'static str, u64>,
) -> BTreeMap<&'static str, u64> {
    for (kind, count) in other {
        one.entry(kind).and_modify(|known| *known = (*known).min(count)).or_insert(count);
    }
    one
}

/// The kinds that take more than is written down.
fn too_high(now: &BTreeMap<&str, u64>, known: &BTreeMap<&str, u64>) -> Vec<String> {
    KINDS
        .iter()
        .map(|(kind, _, may_rise)| (kind, now[kind], known[kind], may_rise))
        .filter(|(_, count, known, may_rise)| count * 100 > known * (100 + **may_rise))
        .map(|(kind, count, known, _)| format!("{kind}: {count} instructions, {known} are written down"))
        .collect()
}

#[test]
fn no_request_takes_more_instructions_than_is_written_down() {
    let text = std::fs::read_to_string(WRITTEN_DOWN).expect("the numbers");
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    let known: BTreeMap<&str, u64> = lines
        .map(|line| {
            let (kind, number) = line.rsplit_once(' ').expect("a kind and its number");
            (kind, number.parse().expect("a number"))
        })
        .collect();
    let mut now = counted_now();
    assert_eq!(known.keys().collect::<Vec<_>>(), now.keys().collect::<Vec<_>>());
    for _ in 1..RUNS {
        if too_high(&now, &known).is_empty() {
            return;
        }
        now = least(now, counted_now());
    }
    let more = too_high(&now, &known);
    assert!(
        more.is_empty(),
        "a request takes more than before; if it must, `make work` writes the numbers down anew:\n{}",
        more.join("\n")
    );
}

/// `make work`
#[test]
#[ignore = "writes the numbers down anew: make work"]
fn the_numbers_are_written_down_anew() {
    let mut text =
        "# Instructions of one request in a build for tests; `make work` writes this file.\n".to_owned();
    for (kind, count) in least(counted_now(), counted_now()) {
        writeln!(text, "{kind} {count}").expect("text");
    }
    std::fs::write(WRITTEN_DOWN, text).expect("written");
}

#[test]
#[ignore = "the tests above run it under valgrind"]
fn each_kind_once() {
    // The authority has a thread of its own, where nothing is counted.
    let elsewhere = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
    let elsewhere = elsewhere.expect("a runtime");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let folder = tempfile::tempdir().expect("a folder");
    let (daemon, key, entra) = runtime.block_on(start(folder.path(), &elsewhere));
    let mut caller = runtime.block_on(Caller::connect(&daemon, key));
    // What is done once only is not counted.
    KINDS.iter().for_each(|(kind, ..)| caller.ask(&runtime, kind));
    for _ in 0..ROUNDS {
        for (kind, times, _) in KINDS {
            counted::count(|| (0..times).for_each(|_| caller.ask(&runtime, kind)));
        }
    }
    runtime.block_on(daemon.stop());
    elsewhere.block_on(entra.stop());
}

async fn start(folder: &Path, elsewhere: &Runtime) -> (Daemon, String, Emulator) {
    let public = free_port().expect("a port");
    let callback = format!("http://localhost:{public}/callback/outlook");
    let app = App::new(CLIENT_ID).secret(CLIENT_SECRET).redirect_uri(callback);
    let user = User::work("alice@contoso.example");
    let entra = elsewhere.spawn(Emulator::builder().app(app).user(user).start());
    let entra = entra.await.expect("no panic").expect("the emulator starts");
    let (daemon, key) = in_this_process(folder, public, &entra).await;
    let bearer = format!("Bearer {key}");
    let headers = [("authorization", bearer.as_str()), ("content-type", "application/json")];
    let sessions = format!("http://{}/v1/connect-sessions", daemon.local_addresses()[0]);
    let body = r#"{"app":"outlook","connection":"user-1"}"#;
    let session = request(Method::POST, &sessions, &headers, body).await.expect("an answer").json();
    let mut browser = Browser::default();
    let link = session["connect_url"].as_str().expect("a link");
    let pressed = browser.post(link, "").await.expect("an answer");
    browser.follow(&pressed.location(), |_| false).await.expect("signed in");
    let one = format!("{sessions}/{}", session["id"].as_str().expect("an id"));
    let state = request(Method::GET, &one, &headers, "").await.expect("an answer").json();
    let (tid, oid) = (&state["account"]["tid"], &state["account"]["oid"]);
    let confirm = serde_json::json!({ "account": { "tid": tid, "oid": oid } }).to_string();
    let confirmed = request(Method::POST, &format!("{one}/confirm"), &headers, confirm).await;
    assert_eq!(confirmed.expect("an answer").status, 200);
    (daemon, key, entra)
}

/// A caller with a connection that it keeps.
struct Caller {
    stream: TcpStream,
    key: String,
    /// The last token, by its digest.
    digest: String,
}

impl Caller {
    async fn connect(daemon: &Daemon, key: String) -> Self {
        let stream = TcpStream::connect(daemon.local_addresses()[0]).await.expect("connected");
        stream.set_nodelay(true).expect("no delay");
        Caller { stream, key, digest: String::new() }
    }

    fn ask(&mut self, runtime: &Runtime, kind: &str) {
        let (name, more, body) = match kind {
            "hand-out" => ("user-1", "", String::new()),
            "not modified" => ("user-1", "if-none-match: *\r\n", String::new()),
            "refusal" => ("user-2", "", String::new()),
            "refresh" => ("user-1", "", format!("{{\"rejected\":\"{}\"}}", self.digest)),
            _ => unreachable!("one of the kinds"),
        };
        let method = if body.is_empty() { "GET" } else { "POST" };
        let sent = format!(
            "{method} /v1/apps/outlook/connections/{name}/token HTTP/1.1\r\nhost: tokenward\r\n\
             authorization: Bearer {}\r\ncontent-type: application/json\r\ncontent-length: {}\r\n{more}\r\n{body}",
            self.key,
            body.len()
        );
        let answer = runtime.block_on(self.exchange(sent.as_bytes()));
        let expected = match kind {
            "not modified" => "HTTP/1.1 304",
            "refusal" => "HTTP/1.1 404",
            _ => "HTTP/1.1 200",
        };
        assert!(answer.starts_with(expected), "{kind}: {answer}");
        if let Some((_, token)) = answer.split_once("\"access_token\":\"") {
            let token = token.split('"').next().unwrap_or_default();
            self.digest = tokenward::domain::digest::sha256_hex(token.as_bytes());
        }
    }

    /// Sends a request, and reads its whole answer.
    async fn exchange(&mut self, sent: &[u8]) -> String {
        self.stream.write_all(sent).await.expect("sent");
        let mut answer = Vec::new();
        loop {
            let read = self.stream.read_buf(&mut answer).await.expect("read");
            assert!(read > 0, "the daemon closed the connection");
            let text = String::from_utf8_lossy(&answer);
            if let Some((head, body)) = text.split_once("\r\n\r\n") {
                let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
                if body.len() >= length.map_or(0, |length| length.parse().expect("a length")) {
                    return text.into_owned();
                }
            }
        }
    }
}
