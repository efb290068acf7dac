//! Imports that something cuts short or gets in the way of: a store that is away when the answer comes,
//! Ctrl-C, another replica with the same grants.

use std::collections::BTreeSet;
use std::io::{Read as _, Write as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::process::{Child, ChildStderr, ChildStdin, Stdio};
use std::sync::Arc;

use entra_emulator::{Endpoint, Fault, FaultRule, Mode};
use http::{Method, StatusCode};
use parking_lot::Mutex;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use crate::attacks_rights::operate;
use crate::http_client::request_unix;
use crate::imports::{Foreign, LEFT_ALONE, foreign, foreigners, import, refreshes, written};
use crate::status::{err, out};
use crate::world::{ALICE, Kept, PATIENCE, Plan, World};

/// The store goes away between the grant's use and its answer, and the daemon dies before it is back. The
/// journal has the successor alone; the request that comes before the journal was offered to the store finds
/// it all the same, where the grant that it brings is spent.
#[tokio::test]
async fn what_the_journal_has_of_a_grant_is_stored_before_anything_is_decided() {
    let mut plan = Plan::default().kept(Kept::Redis).mode(Mode::Strict);
    plan.store_lines = "journal = \"journal\"".into();
    let mut world = plan.start().await;
    let grant = foreign(&world, "moved/alice", ALICE);
    world.entra.faults().inject(FaultRule::new(Endpoint::Token, Fault::HoldAnswer).once());
    let (socket, row) = (world.folder.path().join("admin.sock"), grant.row().to_string());
    let cut = tokio::spawn(async move {
        request_unix(&socket, Method::POST, "/admin/v1/imports", &[], row).await.map(|answer| answer.status)
    });
    world.until_called("refresh_token", 1).await;
    world.redis.as_mut().expect("redis").stop();
    world.entra.faults().release();
    let journal = world.folder.path().join("journal");
    let entries = || {
        let files = std::fs::read_dir(&journal).expect("the journal").flatten();
        let names = files.map(|file| file.file_name().to_string_lossy().into_owned());
        // (Under another name it is not whole yet.)
        names.filter(|name| name.starts_with("import-") && name.ends_with(".entry")).count()
    };
    world.until("the journal has the answer", async || entries() == 1).await;
    world.daemon.kill();
    assert!(cut.await.expect("joined").is_err(), "nobody was told how it ended");
    world.redis.as_mut().expect("redis").restart();
    // (The record says that a call is under way; now it is too old to be left alone.)
    world.pass(LEFT_ALONE);
    world.kill_and_restart().await;

    let (status, imported) = import(&world, &grant, Value::Null).await;
    assert_eq!(
        (status, &imported["outcome"]),
        (200, &json!("imported")),
        "{imported}\n{}",
        world.daemon.log()
    );
    assert_eq!(refreshes(&world).len(), 1, "the grant was used once");
    assert_eq!(entries(), 0);
    world.access_token("moved/alice").await;
    // And the successor is what is kept.
    world.outlive_tokens();
    let token = world.access_token("moved/alice").await;
    assert_eq!(world.graph(&token).await.status, 200);
    assert_eq!(refreshes(&world).len(), 2);
}

/// A command under way, and what it has said so far.
struct Running {
    child: Child,
    /// Open to its end, so that a question waits.
    stdin: ChildStdin,
    said: Arc<Mutex<String>>,
    reader: std::thread::JoinHandle<()>,
}

impl Running {
    /// Begins the import of a file at the daemon of a folder. An empty list of options asks.
    fn begin(world: &World, file: &str, options: &[&str]) -> Running {
        Running::begin_at(
            world,
            &[&["import", "--from", "jsonl", file, "--rate", "500"][..], options].concat(),
        )
    }

    fn begin_at(world: &World, arguments: &[&str]) -> Running {
        let mut command = world.command(arguments);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("it starts");
        let said = Arc::new(Mutex::new(String::new()));
        let (stdin, stderr) = (child.stdin.take().expect("piped"), child.stderr.take().expect("piped"));
        let kept = said.clone();
        let reader = std::thread::spawn(move || keep(stderr, &kept));
        Running { child, stdin, said, reader }
    }

    /// Waits until it has said these words.
    async fn until_said(&self, world: &World, words: &str) {
        world.until(words, async || self.said.lock().contains(words)).await;
    }

    /// As Ctrl-C.
    fn interrupt(&self) {
        // (It may have ended already.)
        let _ = kill_process(self.pid(), Signal::INT);
    }

    fn pid(&self) -> Pid {
        i32::try_from(self.child.id()).ok().and_then(Pid::from_raw).expect("a pid")
    }

    /// Waits until it ends: its exit code, and what it said.
    async fn ended(self) -> (Option<i32>, String) {
        let pid = self.pid();
        let Running { child, stdin, said, reader } = self;
        let ended = tokio::task::spawn_blocking(move || child.wait_with_output().expect("it ends"));
        let Ok(ended) = tokio::time::timeout(PATIENCE, ended).await else {
            let _ = kill_process(pid, Signal::KILL);
            panic!("it does not end: {}", said.lock());
        };
        let ended = ended.expect("joined");
        drop(stdin);
        reader.join().expect("it was read");
        let said = said.lock().clone();
        (ended.status.code(), said + &out(&ended))
    }
}

fn keep(mut stderr: ChildStderr, kept: &Mutex<String>) {
    let mut piece = [0; 4096];
    while let Ok(length @ 1..) = stderr.read(&mut piece) {
        kept.lock().push_str(&String::from_utf8_lossy(&piece[..length]));
    }
}

fn rows(grants: &[Foreign]) -> Vec<Value> {
    grants.iter().map(Foreign::row).collect()
}

/// The lines of the ledger that say what is a connection.
fn done(file: &str) -> usize {
    let ledger = std::fs::read_to_string(format!("{file}.imported")).unwrap_or_default();
    ledger.lines().filter(|line| line.contains(r#""imported":true"#)).count()
}

/// A way to a daemon that is gone once it said how it is.
fn way_to_a_daemon_that_goes(world: &World) -> String {
    let [way, daemon] = ["way.sock", "admin.sock"].map(|name| world.folder.path().join(name));
    let listener = UnixListener::bind(&way).expect("a socket");
    std::thread::spawn(move || {
        for caller in listener.incoming() {
            let mut caller = caller.expect("a connection");
            let mut begin = [0; 16 * 1024];
            let read = caller.read(&mut begin).unwrap_or(0);
            if !begin.starts_with(b"GET /admin/v1/status ") {
                continue;
            }
            let mut daemon = UnixStream::connect(&daemon).expect("the daemon listens");
            daemon.write_all(&begin[..read]).expect("taken");
            let mut answer = caller.try_clone().expect("two");
            std::thread::spawn(move || std::io::copy(&mut daemon, &mut answer));
        }
    });
    format!("unix:{}", way.display())
}

/// In the check: whatever was checked, nothing is imported, at the question neither.
#[tokio::test]
async fn an_interrupted_check_imports_nothing() {
    let world = Plan::default().start().await;
    let grants = foreigners(&world, 3);
    let file = written(&world, "grants.jsonl", &rows(&grants));
    // Without a daemon the check cannot end.
    let way = way_to_a_daemon_that_goes(&world);
    for (options, second) in [(&["--yes"][..], false), (&["--dry-run"], false), (&["--yes"], true)] {
        let running = Running::begin(&world, &file, &[&["--endpoint", &way][..], options].concat());
        running.until_said(&world, "trying again …").await;
        running.interrupt();
        running.until_said(&world, "Stopping after the rows that are under way …").await;
        if second {
            running.interrupt();
        }
        let (code, said) = running.ended().await;
        assert_eq!(code, Some(1), "{said}");
        let expected = match options {
            ["--dry-run"] => "3 not tried: run the command again to go on",
            _ => "so nothing was imported",
        };
        assert!(said.contains(expected), "{said}");
    }
    let asked = Running::begin(&world, &file, &[]);
    asked.until_said(&world, "[y/N]").await;
    asked.interrupt();
    let (code, said) = asked.ended().await;
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("error: nothing was imported"), "{said}");
    assert!(refreshes(&world).is_empty() && done(&file) == 0);
}

/// In the import: what is under way is finished and noted, and the next run goes on from there. A second
/// Ctrl-C does not wait, and costs nothing either.
#[tokio::test]
async fn an_interrupted_import_goes_on_where_it_was() {
    const AT_ONCE: usize = 8;
    let world = Plan::default().mode(Mode::Strict).start().await;
    let grants = foreigners(&world, 20);
    let file = written(&world, "grants.jsonl", &rows(&grants));
    let hold = |first: usize| {
        world.entra.clear_ledger();
        let held = FaultRule::new(Endpoint::Token, Fault::HoldAnswer).times(AT_ONCE as u32);
        world.entra.faults().inject(held);
        let running = Running::begin(&world, &file, &["--yes"]);
        assert_eq!(done(&file), first);
        running
    };
    let running = hold(0);
    world.until_called("refresh_token", AT_ONCE).await;
    running.interrupt();
    running.until_said(&world, "Stopping after the rows that are under way …").await;
    world.entra.faults().release();
    let (code, said) = running.ended().await;
    assert_eq!(code, Some(1), "{said}");
    let counts =
        "20 rows: 8 imported, 0 imported before, 0 failed, 12 not tried: run the command again to go on";
    assert!(said.contains(counts), "{said}");
    assert_eq!((done(&file), refreshes(&world).len()), (AT_ONCE, AT_ONCE));

    // Twice.
    let running = hold(AT_ONCE);
    world.until_called("refresh_token", AT_ONCE).await;
    running.interrupt();
    running.until_said(&world, "Stopping after the rows that are under way …").await;
    running.interrupt();
    let (code, said) = running.ended().await;
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("error: stopped before the answers"), "{said}");
    assert_eq!(done(&file), AT_ONCE, "nobody waited for the others");
    world.entra.faults().release();

    world.entra.clear_ledger();
    let last = world.asked(&["import", "--from", "jsonl", &file, "--rate", "500", "--yes"]);
    assert!(last.status.success(), "{}{}", out(&last), err(&last));
    let counts = "20 rows: 12 imported, 8 imported before, 0 failed";
    assert!(err(&last).contains(counts), "{}", err(&last));
    assert_eq!(refreshes(&world).len(), 4, "those whose answers nobody waited for were not used again");
    assert_eq!(done(&file), 20);
}

/// Two commands, each at another replica, with the same grants: each grant is used once.
#[tokio::test]
async fn two_replicas_import_the_same_grants_once() {
    const COUNT: usize = 24;
    let world = Plan::default().kept(Kept::Redis).mode(Mode::Strict).start().await;
    let second = world.replica("second").await;
    let grants = foreigners(&world, COUNT);
    let files = ["one.jsonl", "other.jsonl"].map(|name| written(&world, name, &rows(&grants)));
    let socket = format!("unix:{}", world.folder.path().join("second/admin.sock").display());
    // All that are under way first wait, until one replica has met a grant of the other's.
    world.entra.faults().inject(FaultRule::new(Endpoint::Token, Fault::HoldAnswer).times(16));
    let command = |file: &str, endpoint: &[&str]| {
        let options = ["import", "--from", "jsonl", file, "--rate", "500", "--yes", "--json"];
        Running::begin_at(&world, &[&options[..], endpoint].concat())
    };
    let running = [command(&files[0], &[]), command(&files[1], &["--endpoint", &socket])];
    let met = async || {
        let audits = ["audit.jsonl", "second/audit.jsonl"].map(|name| world.folder.path().join(name));
        let audits = audits.map(|path| std::fs::read_to_string(path).unwrap_or_default());
        audits.concat().contains(r#""outcome":"overloaded""#)
    };
    world.until("one meets a grant of the other's", met).await;
    world.entra.faults().clear();
    world.entra.faults().release();
    // What goes through one replica is known as this store's at the other one.
    let store = |endpoint: &[&str]| {
        let status = world.printed(&[&["status", "--once", "--json"][..], endpoint].concat());
        status["store"]["id"].as_str().map(str::to_owned)
    };
    assert!(store(&[]).is_some_and(|id| store(&["--endpoint", &socket]) == Some(id)));
    let mut counted = 0;
    for one in running {
        let (code, said) = one.ended().await;
        assert_eq!(code, Some(0), "{said}");
        let counts = said.lines().find(|line| line.starts_with("{\"rows\"")).expect("the counts");
        let counts: Value = serde_json::from_str(counts).expect("JSON");
        assert_eq!(
            (&counts["rows"], &counts["failed"], &counts["left"]),
            (&json!(COUNT), &json!(0), &json!(0))
        );
        counted += counts["done"].as_u64().unwrap_or_default();
    }
    assert_eq!(counted, 2 * COUNT as u64);
    let used: Vec<_> = refreshes(&world).into_iter().map(|entry| entry.refresh_presented).collect();
    let unique: BTreeSet<_> = used.iter().collect();
    assert_eq!((used.len(), unique.len()), (COUNT, COUNT));
    for grant in &grants {
        for daemon in [&world.daemon, &second] {
            let answer = world.token_at(daemon, &grant.connection).await;
            assert_eq!(answer.status, 200, "{}: {}", grant.connection, answer.text());
        }
    }
    world.outlive_tokens();
    for grant in &grants {
        world.access_token(&grant.connection).await;
    }
}

/// The ledger says what is done, and not where: the daemon is asked whether it has it.
#[tokio::test]
async fn what_the_ledger_has_and_the_daemon_has_not_is_imported_again() {
    let world = Plan::default().start().await;
    let file = written(&world, "grants.jsonl", &rows(&foreigners(&world, 3)));
    let command = ["import", "--from", "jsonl", &file, "--rate", "500", "--yes"];
    let first = world.asked(&command);
    assert!(first.status.success(), "{}", err(&first));
    // What is deleted on purpose stays so, whoever runs it again, unless the operator says otherwise.
    let gone = "/admin/v1/apps/outlook/connections/moved%2F1";
    operate(&world, Method::DELETE, gone, Value::Null).await;
    for last in ["--dry-run", "--yes"] {
        let again = world.asked(&[&command[..6], &[last]].concat());
        assert!(again.status.success(), "{}", err(&again));
        for words in
            ["1 rows were imported into this daemon before", "2 imported before, 0 failed, 1 deleted since."]
        {
            assert!(err(&again).contains(words), "{words}: {}", err(&again));
        }
    }
    assert_eq!(world.token("moved/1").await.status, StatusCode::NOT_FOUND);
    let json = world.asked(&[&command[..], &["--json"]].concat());
    let counts: Value = serde_json::from_str(out(&json).trim()).expect("one object");
    assert_eq!(counts["deleted"], 1, "{counts}");
    let again = world.asked(&[&command[..], &["--again"]].concat());
    assert!(again.status.success(), "{}", err(&again));
    assert!(err(&again).contains("3 rows: 1 imported, 2 imported before, 0 failed."), "{}", err(&again));
    world.access_token("moved/1").await;
    let over = world.asked(&command);
    assert!(err(&over).contains("3 rows: 0 imported, 3 imported before, 0 failed."), "{}", err(&over));

    // Another daemon has none of them, and a connection of another account under a name of theirs.
    let other = Plan::default().start().await;
    other.connect("moved/0", ALICE).await;
    let dry = other.asked(&["import", "--from", "jsonl", &file, "--dry-run"]);
    assert_eq!(dry.status.code(), Some(1), "{}", err(&dry));
    assert!(err(&dry).contains("3 rows: 2 would be imported, 0 imported before, 1 failed."), "{}", err(&dry));
    assert!(out(&dry).contains("row 1 outlook/moved/0: connection_exists"), "{}", out(&dry));

    // No daemon at all is not waited for, whatever the ledger says.
    let nowhere = format!("unix:{}", world.folder.path().join("nowhere.sock").display());
    for options in [&["--dry-run"][..], &["--yes"]] {
        let begun = std::time::Instant::now();
        let gone = [&["import", "--from", "jsonl", &file, "--endpoint", &nowhere][..], options].concat();
        let gone = world.asked(&gone);
        assert_eq!(gone.status.code(), Some(1), "{}", err(&gone));
        assert!(err(&gone).contains("is tokenward running?"), "{}", err(&gone));
        assert!(!err(&gone).contains("before"), "{}", err(&gone));
        assert!(begun.elapsed() < std::time::Duration::from_secs(20), "{:?}", begun.elapsed());
    }
}
