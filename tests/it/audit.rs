//! The audit stream from outside: its sinks, what `audit verify` finds, and that each act is one record.

use std::collections::BTreeSet;
use std::io::Read as _;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Arc;
use std::time::Duration;

use http::Method;
use parking_lot::Mutex;
use rustix::process::{Pid, Resource, Rlimit, Signal, kill_process, prlimit};
use serde_json::{Value, json};

use crate::http_client::{Answer, request, request_unix};
use crate::world::{ALICE, Kept, Plan, Process, World, text};

fn verify(arguments: &[&str], files: &[&Path]) -> Output {
    let command = ["audit", "verify"];
    let mut program = Command::new(env!("CARGO_BIN_EXE_tokenward"));
    program.args(command).args(arguments).args(files).output().expect("it ends")
}

fn printed(output: &Output) -> (Option<i32>, Value) {
    let json = serde_json::from_slice(&output.stdout);
    (output.status.code(), json.unwrap_or_else(|_| panic!("{}", String::from_utf8_lossy(&output.stderr))))
}

/// Has the daemon start again with other settings of the audit.
async fn restart_with(world: &mut World, settings: &str) {
    assert_eq!(world.daemon.terminate(), Some(0), "{}", world.daemon.log());
    std::fs::write(world.folder.path().join("environment"), settings).expect("written");
    world.daemon = Process::start(world.folder.path()).await;
}

fn lines(path: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
}

fn request_id(answer: &Answer) -> &str {
    answer.headers["x-request-id"].to_str().expect("text")
}

fn pack(path: &Path) -> PathBuf {
    let packed = PathBuf::from(format!("{}.gz", path.display()));
    let file = std::fs::File::create(&packed).expect("made");
    let mut gz = flate2::write::GzEncoder::new(file, flate2::Compression::default());
    std::io::Write::write_all(&mut gz, &std::fs::read(path).expect("read")).expect("packed");
    gz.finish().expect("packed");
    std::fs::remove_file(path).expect("removed");
    packed
}

#[tokio::test]
async fn a_log_is_verified_over_kills_rotations_and_packed_files_and_every_change_is_named() {
    let mut world = Plan::default().start().await;
    world.connect("user-1", ALICE).await;
    let path = world.folder.path().join("audit.jsonl");
    let moved = |name: &str| world.folder.path().join(name);
    let (first, second, third) = (moved("audit.jsonl.3"), moved("audit.jsonl.2"), moved("audit.jsonl.1"));
    world.access_token("user-1").await;
    // While it runs, as logrotate does it.
    std::fs::rename(&path, &first).expect("moved");
    world.access_token("user-1").await;
    world.daemon.kill();
    // A kill may tear the last line.
    let mut torn = std::fs::read_to_string(&path).expect("a log");
    torn.push_str("{\"seq\":99,\"at\":\"2026-");
    std::fs::write(&path, torn).expect("written");
    world.daemon = Process::start(world.folder.path()).await;
    world.access_token("user-1").await;
    std::fs::rename(&path, &second).expect("moved");
    world.access_token("user-1").await;
    assert_eq!(world.daemon.terminate(), Some(0));
    // While no process runs.
    std::fs::rename(&path, &third).expect("moved");
    world.daemon = Process::start(world.folder.path()).await;
    world.access_token("user-1").await;
    let first = pack(&first);
    let all = [path.as_path(), &third, &second, &first];

    let (code, found) = printed(&verify(&["--json"], &all));
    assert_eq!((code, &found["whole"], &found["starts"]), (Some(0), &json!(true), &json!(3)), "{found:#}");
    assert_eq!((&found["flaws"], &found["from_the_beginning"]), (&json!([]), &json!(true)));
    assert_eq!(found["torn"][0]["file"], second.to_str().expect("text"), "{found:#}");
    let order: Vec<&str> =
        found["files"].as_array().expect("files").iter().map(|file| text(file, "file")).collect();
    assert_eq!(order, [&first, &second, &third, &path].map(|file| file.to_str().expect("text")));
    let said = verify(&[], &all);
    assert!(String::from_utf8_lossy(&said.stdout).contains("\nwhole: "), "{said:?}");
    assert!(said.stderr.is_empty(), "{said:?}");

    // What an earlier check printed is where the later files begin.
    let (_, before) = printed(&verify(&["--json"], &[&first, &second, &third]));
    let chain = text(&before, "last_chain");
    assert_eq!(printed(&verify(&["--json", "--after", chain], &[&path])).0, Some(0));
    assert_eq!(printed(&verify(&["--json", "--after", chain], &[&third])).0, Some(1));
    let says =
        |arguments: &[&str], file: &Path| String::from_utf8(verify(arguments, &[file]).stdout).expect("text");
    let goes_on = says(&["--after", chain], &path);
    assert!(goes_on.contains("begins: where the chain of --after ends"), "{goes_on}");
    assert!(!goes_on.contains("within a chain"), "{goes_on}");
    assert!(says(&[], &path).contains("begins: within a chain; keep the earlier files"));
    assert_eq!(verify(&["--after", "abc"], &[&path]).status.code(), Some(2));
    let empty = moved("empty.jsonl");
    std::fs::write(&empty, "").expect("written");
    for arguments in [&[][..], &["--after", chain]] {
        let nothing = says(arguments, &empty);
        assert!(nothing.contains("no records: there was nothing to verify"), "{nothing}");
        assert!(!nothing.contains("whole") && !nothing.contains("begins"), "{nothing}");
        assert_eq!(verify(arguments, &[&empty]).status.code(), Some(0));
    }
    assert_eq!(verify(&[], &[&moved("not-there")]).status.code(), Some(2));

    // A missing file, a changed line, a removed one.
    let (code, found) = printed(&verify(&["--json"], &[&first, &third, &path]));
    assert_eq!((code, text(&found["flaws"][0], "what")), (Some(1), "unlinked"), "{found:#}");
    assert_eq!(text(&found["flaws"][0], "file"), third.to_str().expect("text"));
    let whole = std::fs::read_to_string(&second).expect("a log");
    let hand_out = |line: &str| line.contains("\"action\":\"token\"");
    let place =
        whole.lines().collect::<Vec<_>>().iter().rposition(|line| hand_out(line)).expect("a hand-out");
    let change = |change: &dyn Fn(&mut Vec<String>)| {
        let mut lines: Vec<String> = whole.lines().map(str::to_owned).collect();
        change(&mut lines);
        std::fs::write(&second, lines.join("\n") + "\n").expect("written");
        let said = verify(&[], &all);
        std::fs::write(&second, &whole).expect("written");
        (said.status.code(), String::from_utf8(said.stdout).expect("text"))
    };
    let (code, said) = change(&|lines| lines[place] = lines[place].replace("user-1", "user-2"));
    let named = format!("{}:{}: changed: ", second.display(), place + 1);
    assert!(code == Some(1) && said.contains(&named), "{said}");
    let (code, said) = change(&|lines| drop(lines.remove(place)));
    assert!(code == Some(1) && said.contains("not whole"), "{said}");
    assert_eq!(change(&|_| {}).0, Some(0));
}

/// What somebody can do who can write the file and does not have the key: change it, and make the numbers and
/// the chain anew.
fn made_anew(log: &str, change: impl Fn(&mut Vec<String>)) -> String {
    use aws_lc_rs::digest::{Context, SHA256};
    let open = |line: &str| line.rsplit_once(",\"chain\":").expect("a chain").0.to_owned();
    let mut opens: Vec<String> = log.lines().map(open).collect();
    change(&mut opens);
    let (mut chain, mut anew) = ("0".repeat(64), String::new());
    for open in opens {
        let mut context = Context::new(&SHA256);
        context.update(chain.as_bytes());
        context.update(open.as_bytes());
        context.update(b"}");
        chain = context.finish().as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
        anew += &format!("{open},\"chain\":\"{chain}\"}}\n");
    }
    anew
}

#[tokio::test]
async fn a_signed_log_cannot_be_written_anew_or_cut_off_unseen_and_its_key_is_replaced_while_it_runs() {
    let mut world = Plan::default().start().await;
    world.connect("user-1", ALICE).await;
    assert_eq!(world.daemon.terminate(), Some(0));
    let in_folder = |name: &str| world.folder.path().join(name);
    let make_key = |name: &str| {
        let mut program = Command::new(env!("CARGO_BIN_EXE_tokenward"));
        let made = program.args(["audit", "make-key"]).arg(in_folder(name)).output().expect("it ends");
        if made.status.success() {
            std::fs::write(in_folder(&format!("{name}.pub")), &made.stdout).expect("written");
        }
        made.status.code()
    };
    assert_eq!((make_key("signing"), make_key("second")), (Some(0), Some(0)));
    assert_eq!(make_key("signing"), Some(1), "a key is never overwritten");
    let [path, moved, signing, second] =
        ["audit.jsonl", "audit.jsonl.1", "signing.pub", "second.pub"].map(in_folder);
    // From here on it is signed: what was before is a file of its own.
    std::fs::remove_file(&path).expect("removed");
    let settings = format!("TOKENWARD__AUDIT__SIGNING_KEY={}\n", in_folder("signing").display());
    std::fs::write(in_folder("environment"), settings).expect("written");
    world.daemon = Process::start(world.folder.path()).await;
    let is_checkpoint = |line: &Value| line["action"] == "checkpoint";
    // An orderly end leaves nothing unsigned.
    world.access_token("user-1").await;
    assert_eq!(world.daemon.terminate(), Some(0));
    let ended = lines(&path);
    let last = ended.last().expect("a line");
    assert!(is_checkpoint(last) && last["checkpoint"]["records"].as_u64() > Some(2), "{last:#}");
    std::fs::remove_file(&path).expect("removed");
    world.daemon = Process::start(world.folder.path()).await;
    let checkpoints = |path: &Path| lines(path).into_iter().filter(is_checkpoint).collect::<Vec<_>>();
    let pass_to_the_next = async |world: &World| {
        let before = checkpoints(&path).len();
        world.pass(Duration::from_secs(300));
        world.until("a checkpoint", async || checkpoints(&path).len() > before).await;
    };
    for _ in 0..3 {
        world.access_token("user-1").await;
    }
    pass_to_the_next(&world).await;
    world.access_token("user-1").await;
    std::fs::rename(&path, &moved).expect("moved");
    world.access_token("user-1").await;
    assert!(is_checkpoint(&lines(&path)[0]), "the next file begins with the signature of the one before");
    // Another key, while it runs.
    let of_first = text(&checkpoints(&path)[0]["checkpoint"], "key").to_owned();
    std::fs::rename(in_folder("second"), in_folder("signing")).expect("replaced");
    let reloaded = |line: &Value| line["action"] == "reloaded" && line["outcome"] == "ok";
    world.until("it is taken up", async || lines(&path).iter().any(reloaded)).await;
    pass_to_the_next(&world).await;
    let of_second = text(&checkpoints(&path)[1]["checkpoint"], "key").to_owned();
    assert_ne!(of_first, of_second);
    // A bad one is refused, and the one before signs on.
    std::fs::write(in_folder("signing"), "no key").expect("written");
    world.daemon.until_logged("holds no Ed25519 private key").await;
    pass_to_the_next(&world).await;
    world.access_token("user-1").await;
    world.daemon.kill();

    let verify = |keys: &[&Path], more: &[&str], files: &[&Path]| {
        let keys = keys.iter().flat_map(|key| ["--public-key", key.to_str().expect("text")]);
        let arguments: Vec<&str> = ["--json"].into_iter().chain(keys).chain(more.iter().copied()).collect();
        printed(&verify(&arguments, files))
    };
    let words = |found: &Value| {
        let flaws = found["flaws"].as_array().expect("flaws");
        flaws.iter().map(|flaw| text(flaw, "what").to_owned()).collect::<BTreeSet<_>>()
    };
    let both = [signing.as_path(), &second];
    let (code, found) = verify(&both, &[], &[&path, &moved]);
    assert_eq!((code, words(&found)), (Some(0), BTreeSet::new()), "{found:#}");
    assert_eq!(found["signed"]["checkpoints"], 4, "{found:#}");
    assert!(found["signed"]["unsigned"].as_u64().is_some_and(|left| left > 0), "it was killed: {found:#}");
    let until = text(&found["signed"], "until").to_owned();
    assert_eq!(verify(&both, &["--signed-until", &until], &[&path, &moved]).0, Some(0));
    let (_, found) = verify(&[&signing], &[], &[&path, &moved]);
    assert!(words(&found).contains("unknown_key"), "{found:#}");

    // The chain of what was changed can be made anew, so that nothing shows without the key.
    let whole = std::fs::read_to_string(&moved).expect("a log");
    let last = std::fs::read_to_string(&path).expect("a log");
    let lines_of_first = whole.lines().count();
    let anew = made_anew(&(whole + &last), |lines| {
        let at = lines.iter().position(|line| line.contains("\"action\":\"token\"")).expect("a hand-out");
        lines[at] = lines[at].replace("user-1", "user-2");
    });
    let split: Vec<&str> = anew.split_inclusive('\n').collect();
    std::fs::write(&moved, split[..lines_of_first].concat()).expect("written");
    std::fs::write(&path, split[lines_of_first..].concat()).expect("written");
    assert_eq!(verify(&[], &[], &[&path, &moved]).0, Some(0), "the chain alone does not tell");
    let (code, found) = verify(&both, &[], &[&path, &moved]);
    assert!(code == Some(1) && words(&found).contains("forged"), "{found:#}");

    // Cut off behind a checkpoint, it is whole as far as anybody can tell, but for the time of its end.
    let cut: Vec<&str> = last.split_inclusive('\n').take(1).collect();
    std::fs::write(&path, cut.concat()).expect("written");
    let (code, found) = verify(&both, &[], &[&path]);
    assert_eq!((code, words(&found)), (Some(0), BTreeSet::new()), "{found:#}");
    let (code, found) = verify(&both, &["--signed-until", &until], &[&path]);
    assert_eq!((code, words(&found)), (Some(1), BTreeSet::from(["cut_off".to_owned()])), "{found:#}");
}

/// A daemon for datagrams, which reads while it is let.
pub(crate) struct Journal(Arc<Mutex<Vec<String>>>, UnixDatagram);

impl Journal {
    pub(crate) fn bind(path: &Path) -> Self {
        let socket = UnixDatagram::bind(path).expect("bound");
        let (got, reader) = (Arc::new(Mutex::new(Vec::new())), socket.try_clone().expect("a handle"));
        let kept = got.clone();
        std::thread::spawn(move || {
            let mut datagram = [0; 65536];
            while let Ok(length) = reader.recv(&mut datagram) {
                match String::from_utf8_lossy(&datagram[..length]).into_owned() {
                    end if end.is_empty() => break,
                    message => kept.lock().push(message),
                }
            }
        });
        Journal(got, socket)
    }

    pub(crate) fn text(&self) -> String {
        self.0.lock().join("\n")
    }

    pub(crate) fn has(&self, request_id: &str) -> bool {
        self.0.lock().iter().any(|message| message.contains(request_id))
    }
}

#[tokio::test]
async fn each_of_several_sinks_has_every_record_and_none_hangs_another() {
    let mut world = Plan::default().start().await;
    world.connect("user-1", ALICE).await;
    let folder = world.folder.path().to_owned();
    let (syslog, journald) = (folder.join("syslog.sock"), folder.join("journald.sock"));
    let (to_syslog, to_journald) = (Journal::bind(&syslog), Journal::bind(&journald));
    std::fs::create_dir(folder.join("apart")).expect("made");
    let also = [
        "apart/audit.jsonl".to_owned(),
        format!("syslog:{}", syslog.display()),
        format!("journald:{}", journald.display()),
    ];
    let settings: Vec<String> = also
        .iter()
        .enumerate()
        .map(|(item, sink)| format!("TOKENWARD__AUDIT__ALSO__{item}={sink}\n"))
        .collect();
    restart_with(&mut world, &settings.concat()).await;

    let one = folder.join("audit.jsonl");
    let apart = folder.join("apart/audit.jsonl");
    let in_file = |path: &Path, id: &str| lines(path).iter().any(|line| line["request_id"] == id);
    let mut tokens = BTreeSet::new();
    for _ in 0..5 {
        let answer = world.token("user-1").await;
        assert_eq!(answer.status, 200);
        let id = request_id(&answer);
        assert!(in_file(&one, id) && in_file(&apart, id), "the files have it before it is answered");
        world.until("the sockets' daemons have it", async || to_syslog.has(id) && to_journald.has(id)).await;
        tokens.insert(text(&answer.json(), "access_token").to_owned());
    }
    for token in &tokens {
        assert!(!to_syslog.has(token) && !to_journald.has(token), "a token is in a record");
    }
    let (code, found) = printed(&verify(&["--json"], &[&apart]));
    assert_eq!((code, &found["from_the_beginning"]), (Some(0), &json!(true)), "each has a chain of its own");

    // A folder is removed, and one daemon ends: the others go on, and who waits is answered.
    std::fs::rename(folder.join("apart"), folder.join("away")).expect("moved");
    for (socket, path) in [(&to_syslog.1, &syslog), (&to_journald.1, &journald)] {
        std::fs::remove_file(path).expect("removed");
        socket.shutdown(std::net::Shutdown::Both).expect("shut");
    }
    for _ in 0..5 {
        let answer = world.token("user-1").await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        assert!(in_file(&one, request_id(&answer)));
    }
    let metrics = world.metrics().await;
    for (sink, failing) in
        [(one.display().to_string(), 0), (apart.display().to_string(), 1), (also[1].clone(), 1)]
    {
        let series = format!("tokenward_audit_sink_failing{{sink=\"{sink}\"}} {failing}\n");
        assert!(metrics.contains(&series), "{series}{metrics}");
    }
    assert!(metrics.contains("tokenward_audit_lost_total 0\n"), "{metrics}");

    // They come back.
    std::fs::rename(folder.join("away"), folder.join("apart")).expect("moved");
    let to_syslog = Journal::bind(&syslog);
    let answer = world.token("user-1").await;
    assert!(in_file(&apart, request_id(&answer)));
    world.until("syslog has it", async || to_syslog.has(request_id(&answer))).await;
    let (code, found) = printed(&verify(&["--json"], &[&apart]));
    assert_eq!((code, text(&found["flaws"][0], "what")), (Some(1), "lost"), "and the gap shows: {found:#}");
    assert_eq!(found["flaws"].as_array().map(Vec::len), Some(1), "{found:#}");
}

#[tokio::test]
async fn where_it_is_demanded_no_token_leaves_without_a_record() {
    let mut world = Plan::default().start().await;
    world.connect("user-1", ALICE).await;
    let folder = world.folder.path().to_owned();

    // By default a full disk stops nobody.
    restart_with(&mut world, "TOKENWARD__AUDIT__PATH=/dev/full\n").await;
    world.access_token("user-1").await;
    let metrics = world.metrics().await;
    assert!(metrics.contains("tokenward_audit_sink_failing{sink=\"/dev/full\"} 1\n"), "{metrics}");
    assert!(!metrics.contains("tokenward_audit_lost_total 0\n"), "{metrics}");

    let refused = async |world: &World, why: &str| {
        let answer = world.token("user-1").await;
        assert_eq!(answer.status, 503, "{why}: {}", answer.text());
        assert_eq!(text(&answer.json(), "code"), "audit_unavailable", "{why}");
        assert!(answer.headers.contains_key("retry-after") && !answer.text().contains("access_token"));
    };
    restart_with(&mut world, "TOKENWARD__AUDIT__PATH=/dev/full\nTOKENWARD__AUDIT__FAIL_CLOSED=true\n").await;
    refused(&world, "the disk is full").await;
    let metrics = world.metrics().await;
    assert!(metrics.contains("outcome=\"audit_unavailable\"} 1\n"), "{metrics}");

    // One sink that takes it is enough.
    let settings = "TOKENWARD__AUDIT__PATH=/dev/full\nTOKENWARD__AUDIT__FAIL_CLOSED=true\n\
                    TOKENWARD__AUDIT__ALSO__0=sink/audit.jsonl\n";
    std::fs::create_dir(folder.join("sink")).expect("made");
    restart_with(&mut world, settings).await;
    world.access_token("user-1").await;
    std::fs::rename(folder.join("sink"), folder.join("away")).expect("moved");
    refused(&world, "its folder is gone").await;
    std::fs::rename(folder.join("away"), folder.join("sink")).expect("moved");
    let answer = world.token("user-1").await;
    assert_eq!(answer.status, 200);
    let log = folder.join("sink/audit.jsonl");
    let handed_out = lines(&log).iter().filter(|line| line["action"] == "token").count();
    assert_eq!(handed_out, 2, "the refused one has none");

    // A pipe that nobody reads is full after some records, and takes them again when somebody reads.
    let pipe = folder.join("pipe");
    assert!(Command::new("mkfifo").arg(&pipe).status().expect("mkfifo").success());
    let mut reader = std::fs::OpenOptions::new().read(true).write(true).open(&pipe).expect("a pipe");
    let settings = format!("TOKENWARD__AUDIT__PATH={}\nTOKENWARD__AUDIT__FAIL_CLOSED=true\n", pipe.display());
    restart_with(&mut world, &settings).await;
    let mut served = 0;
    while world.token("user-1").await.status == 200 {
        served += 1;
        assert!(served < 2000, "a pipe has room for 64 KiB");
    }
    assert!(served > 10, "{served}");
    refused(&world, "nobody reads").await;
    std::thread::spawn(move || {
        let mut some = [0; 4096];
        while reader.read(&mut some).is_ok_and(|count| count > 0) {}
    });
    world.until("it is read", async || world.token("user-1").await.status == 200).await;
}

/// The most that any file of a process may hold, which is a disk's end to it.
fn limit_files(process: &Process, bytes: Option<u64>) {
    let limit = Rlimit { current: bytes, maximum: None };
    let pid = Pid::from_raw(i32::try_from(process.pid()).expect("a pid"));
    prlimit(pid, Resource::Fsize, limit).expect("a limit");
}

/// A syslog daemon of its own process, which can be stopped.
struct Syslog {
    process: std::process::Child,
    got: PathBuf,
}

impl Syslog {
    async fn start(world: &World, socket: &Path) -> Self {
        const READER: &str = "import socket, sys\ns = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)\n\
            s.bind(sys.argv[1])\nout = open(sys.argv[2], 'ab', buffering=0)\n\
            while True:\n    out.write(s.recv(65536) + b'\\n')\n";
        let got = world.folder.path().join("syslog.got");
        let mut python = Command::new("python3");
        let process = python.args(["-c", READER]).args([socket, &got]).spawn().expect("python3");
        world.until("it listens", async || socket.exists()).await;
        Syslog { process, got }
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.process), signal).expect("it is there");
    }

    fn has(&self, request_id: &str) -> bool {
        std::fs::read_to_string(&self.got).is_ok_and(|got| got.contains(request_id))
    }
}

impl Drop for Syslog {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[tokio::test]
async fn a_full_disk_and_a_reader_that_stands_still_are_told_and_heal() {
    // (An embedded store would have the same limit.)
    let mut world = Plan::default().kept(Kept::Redis).start().await;
    world.connect("user-1", ALICE).await;
    let folder = world.folder.path().to_owned();
    let (file, socket) = (folder.join("audit.jsonl"), folder.join("syslog.sock"));
    let syslog = Syslog::start(&world, &socket).await;
    let settings = format!(
        "TOKENWARD__AUDIT__ALSO__0=syslog:{}\nTOKENWARD__AUDIT__FAIL_CLOSED=true\n",
        socket.display()
    );
    restart_with(&mut world, &settings).await;
    let in_file = |id: &str| lines(&file).iter().any(|line| line["request_id"] == id);
    let served = async |world: &World| {
        let answer = world.token("user-1").await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        request_id(&answer).to_owned()
    };
    let id = served(&world).await;
    assert!(in_file(&id));

    // The disk is full in the middle of a line: the other sink takes it, and the file keeps whole lines.
    let size = std::fs::metadata(&file).expect("a file").len();
    limit_files(&world.daemon, Some(size + 100));
    for _ in 0..5 {
        let id = served(&world).await;
        assert!(!in_file(&id));
        world.until("the second sink has it", async || syslog.has(&id)).await;
    }
    assert_eq!(std::fs::metadata(&file).expect("a file").len(), size, "nothing of a line stays");
    let failing = |metrics: &str, sink: &str| {
        let series = format!("tokenward_audit_sink_failing{{sink=\"{sink}\"}} ");
        metrics.lines().find_map(|line| line.strip_prefix(&series)).map(str::to_owned)
    };
    let (of_file, of_socket) = (file.display().to_string(), format!("syslog:{}", socket.display()));
    let metrics = world.metrics().await;
    assert_eq!(failing(&metrics, &of_file).as_deref(), Some("1"), "{metrics}");
    assert_eq!(failing(&metrics, &of_socket).as_deref(), Some("0"));
    assert!(metrics.contains("tokenward_audit_lost_total 0\n"), "{metrics}");

    // The second one's reader stands still: its queue takes some, then nobody takes any more.
    syslog.signal(Signal::STOP);
    let mut taken = 0;
    let refused = loop {
        let answer = world.token("user-1").await;
        if answer.status != 200 {
            break answer;
        }
        taken += 1;
        assert!(taken < 5_000, "the queue of a socket is bounded");
    };
    assert_eq!(text(&refused.json(), "code"), "audit_unavailable", "{}", refused.text());
    assert!(refused.headers.contains_key("retry-after") && !refused.text().contains("access_token"));

    // It reads on: what comes then is taken. Then there is room on the disk again.
    syslog.signal(Signal::CONT);
    world.until("it is served", async || world.token("user-1").await.status == 200).await;
    limit_files(&world.daemon, None);
    let id = served(&world).await;
    assert!(in_file(&id), "the file heals by itself");
    assert_eq!(failing(&world.metrics().await, &of_file).as_deref(), Some("0"));

    // With a disk that has room, a reader that stands still holds up nobody beyond the first.
    syslog.signal(Signal::STOP);
    for _ in 0..taken + 100 {
        let id = served(&world).await;
        assert!(in_file(&id), "it is answered on the file's account");
    }
    assert_eq!(failing(&world.metrics().await, &of_socket).as_deref(), Some("1"));
    syslog.signal(Signal::CONT);

    // The file has a gap, which shows, and nothing else is wrong with it.
    let (code, found) = printed(&verify(&["--json"], &[&file]));
    let words: BTreeSet<&str> =
        found["flaws"].as_array().expect("flaws").iter().map(|flaw| text(flaw, "what")).collect();
    assert_eq!((code, words), (Some(1), BTreeSet::from(["lost"])), "{found:#}");
    assert_eq!(found["torn"], json!([]));
}

/// What an act leaves: `refused` acts, too.
struct Act {
    method: &'static str,
    route: &'static str,
    path: String,
    body: Value,
}

fn act(method: &'static str, route: &'static str, path: impl Into<String>, body: Value) -> Act {
    Act { method, route, path: path.into(), body }
}

/// The rows of a table that hand something out or change something.
fn acting(routes: &[(&'static str, &'static str)]) -> BTreeSet<(&'static str, &'static str)> {
    let acts = |(method, route): &&(&str, &str)| {
        !["GET", "HEAD"].contains(method) || route.ends_with("/token") || route.contains("/creds/")
    };
    routes.iter().filter(acts).copied().collect()
}

/// Records with a request's id.
async fn records(world: &World, id: &str) -> Vec<Value> {
    let of = || {
        let all = lines(&world.folder.path().join("audit.jsonl"));
        all.into_iter().filter(|line| line["request_id"] == id).collect::<Vec<_>>()
    };
    world.until(&format!("a record of {id}"), async || !of().is_empty()).await;
    of()
}

#[tokio::test]
async fn every_act_of_every_route_is_one_record() {
    const NAME: &str = "/v1/apps/{app}/connections/{connection}";
    let world = Plan::default().start().await;
    for name in ["one", "two"] {
        world.connect(name, ALICE).await;
    }
    let session = world.start_session(json!({ "app": "outlook", "connection": "three" })).await;
    let confirm = format!("/v1/connect-sessions/{}/confirm", text(&session, "id"));
    let msi = "resource=https://graph.microsoft.com&api-version=2019-08-01";
    let of = |name: &str, rest: &str| format!("/v1/apps/outlook/connections/{name}{rest}");
    let mut acts = Vec::new();
    for name in ["one", "nobody"] {
        let session = json!({ "app": "outlook", "connection": name });
        acts.push(act(
            "GET",
            "/v1/apps/{app}/connections/{connection}/token",
            of(name, "/token"),
            Value::Null,
        ));
        acts.push(act(
            "POST",
            "/v1/apps/{app}/connections/{connection}/token",
            of(name, "/token"),
            json!({}),
        ));
        acts.push(act("POST", "/v1/connect-sessions", "/v1/connect-sessions", session));
        let path = format!("/v1/outlook/creds/{name}");
        acts.push(act("GET", "/v1/{mount}/creds/{connection}", path, Value::Null));
        let path = of(name, &format!("/msi/token?{msi}"));
        acts.push(act("GET", "/v1/apps/{app}/connections/{connection}/msi/token", path, Value::Null));
        acts.push(act(
            "GET",
            "/msi/token",
            format!("/msi/token?{msi}&client_id=outlook:{name}"),
            Value::Null,
        ));
        let exchange = format!(
            "grant_type=urn:ietf:params:oauth:grant-type:token-exchange&subject_token=outlook:{name}&\
             subject_token_type=urn:tokenward:params:oauth:token-type:connection&client_id=mail-sync&\
             client_secret={}",
            world.key
        );
        acts.push(act("POST", "/oauth2/token", "/oauth2/token", Value::String(exchange)));
    }
    // (No rule of this caller has anything relayed: tests/it/relay.rs has the records of what is.)
    for method in ["POST", "PUT", "PATCH", "DELETE"] {
        for name in ["one", "nobody"] {
            let path = of(name, "/relay/graph/v1.0/me/messages");
            let route = "/v1/apps/{app}/connections/{connection}/relay/{base}/{path}";
            acts.push(act(method, route, path, Value::Null));
        }
    }
    for name in ["one", "nobody"] {
        let wanted = json!({ "ttl": 60, "relay": ["GET graph:/v1.0/me"] });
        acts.push(act(
            "POST",
            "/v1/apps/{app}/connections/{connection}/handles",
            of(name, "/handles"),
            wanted,
        ));
    }
    acts.push(act("GET", "/v1/apps/{app}/token", "/v1/apps/outlook/token?tenant=home", Value::Null));
    acts.push(act("POST", "/v1/connect-sessions/{id}/confirm", confirm, json!({ "code": "wrong" })));
    let consent = json!({ "app": "outlook", "tenant": "11111111-2222-3333-4444-555555555555" });
    acts.push(act("POST", "/v1/admin-consent-sessions", "/v1/admin-consent-sessions", consent));
    for name in ["one", "nobody"] {
        acts.push(act("DELETE", NAME, of(name, ""), Value::Null));
    }
    let tried: BTreeSet<_> = acts.iter().map(|act| (act.method, act.route)).collect();
    let left: Vec<_> = acting(&tokenward::api::ROUTES).difference(&tried).copied().collect();
    assert_eq!(left, [], "an act without a try here");
    for Act { method, path, body, .. } in &acts {
        let url = format!("{}{path}", world.daemon.local);
        let bearer = format!("Bearer {}", world.key);
        let credential = if path.contains("/msi/") {
            ("x-identity-header", world.key.as_str())
        } else {
            ("authorization", bearer.as_str())
        };
        let (kind, body) = match body {
            Value::Null => ("application/json", String::new()),
            Value::String(form) => ("application/x-www-form-urlencoded", form.clone()),
            body => ("application/json", body.to_string()),
        };
        // (A form has the caller's credential in it.)
        let headers = [("content-type", kind), credential];
        let headers = if path == "/oauth2/token" { &headers[..1] } else { &headers };
        let answer =
            request(method.parse().expect("a method"), &url, headers, body).await.expect("an answer");
        let found = records(&world, request_id(&answer)).await;
        assert_eq!(found.len(), 1, "{method} {path} {}: {found:#?}", answer.status);
        let record = &found[0];
        let (is_ok, is_done) =
            (matches!(text(record, "outcome"), "ok" | "started"), answer.status.is_success());
        assert_eq!(is_ok, is_done, "{method} {path}: {record}");
        assert_eq!(text(record, "caller"), "mail-sync", "{record}");
        let door = match path.as_str() {
            "/oauth2/token" => "oauth2",
            path if path.contains("/msi/") => "msi",
            path if path.contains("/creds/") => "vault",
            path if path.contains("/relay/") => "relay",
            _ => "native",
        };
        assert_eq!(text(record, "door"), door, "{record}");
        if record["action"] == "token" {
            assert_eq!(text(record, "token_sha256").len(), 64, "{record}");
        }
    }
    operators_acts(&world).await;
}

#[tokio::test]
async fn a_request_that_cannot_be_read_is_one_record_too() {
    const NAME: &str = "/v1/apps/outlook/connections/one";
    let world = Plan::default().start().await;
    world.connect("one", ALICE).await;
    let session = world.start_session(json!({ "app": "outlook", "connection": "two" })).await;
    let confirm = format!("/v1/connect-sessions/{}/confirm", text(&session, "id"));
    let exchange =
        format!("grant_type=x&subject_token=outlook:one&client_id=mail-sync&client_secret={}", world.key);
    let bearer = format!("Bearer {}", world.key);
    let large = format!("{{\"rejected\": \"{}\"}}", "a".repeat(70_000));
    // Method, path, body, and the connection that the record names.
    let rows = [
        ("POST", format!("{NAME}/token"), "{\"rejected\": 7}", Some("one")),
        ("POST", format!("{NAME}/token"), "{", Some("one")),
        ("POST", format!("{NAME}/token"), large.as_str(), Some("one")),
        ("GET", format!("{NAME}/token?min_ttl=soon"), "", Some("one")),
        ("GET", format!("{NAME}/token?scope=a&scope=b"), "", Some("one")),
        ("PUT", format!("{NAME}/token"), "", Some("one")),
        ("GET", format!("{NAME}/token?access_token=abc"), "", None),
        ("GET", "/v1/apps/outlook/connections/one%20two/token".to_owned(), "", None),
        ("GET", format!("{NAME}/msi/token?api-version=2019-08-01"), "", Some("one")),
        ("GET", "/msi/token?resource=https://graph.microsoft.com".to_owned(), "", None),
        ("GET", "/v1/outlook/creds/one?minimum_seconds=soon".to_owned(), "", Some("one")),
        ("GET", "/v1/outlook/creds/one%20two".to_owned(), "", None),
        ("GET", "/v1/outlook/creds/one//two".to_owned(), "", None),
        ("GET", "/v1/OUT/creds/one".to_owned(), "", None),
        ("GET", "/v1/apps/outlook/token?min_ttl=soon".to_owned(), "", None),
        ("POST", "/oauth2/token".to_owned(), exchange.as_str(), None),
        ("POST", "/v1/connect-sessions".to_owned(), "{\"app\": 7}", None),
        ("POST", "/v1/admin-consent-sessions".to_owned(), "[]", None),
        ("POST", confirm, "{\"code\": 7}", None),
    ];
    for (method, path, body, connection) in rows {
        // More than ten of a kind in one second are summed up.
        world.pass(Duration::from_secs(1));
        let url = format!("{}{path}", world.daemon.local);
        let is_form = path == "/oauth2/token";
        let kind = if is_form { "application/x-www-form-urlencoded" } else { "application/json" };
        let credential = match path.contains("/msi/") {
            true => ("x-identity-header", world.key.as_str()),
            false => ("authorization", bearer.as_str()),
        };
        let headers = [("content-type", kind), credential];
        let headers = if is_form { &headers[..1] } else { &headers };
        let method = method.parse().expect("a method");
        let answer = request(method, &url, headers, body.to_owned()).await.expect("an answer");
        assert!(answer.status.is_client_error(), "{path}: {}", answer.text());
        let found = records(&world, request_id(&answer)).await;
        assert_eq!(found.len(), 1, "{path}: {found:#?}");
        let record = &found[0];
        let said = [text(record, "action"), text(record, "caller"), text(record, "method")];
        assert_eq!(said, ["refused", "mail-sync", "api_keys"], "{path}: {record}");
        let body = answer.json();
        let code = body.get("code").unwrap_or(&body["error"]);
        assert!(path.contains("/creds/") || record["outcome"] == *code, "{path}: {record} {body}");
        assert_eq!(record["connection"].as_str(), connection, "{path}: {record}");
    }
}

async fn operators_acts(world: &World) {
    const NAME: &str = "/admin/v1/apps/{app}/connections/{connection}";
    const CREDENTIALS: &str = "/admin/v1/apps/{app}/credentials";
    let plain = |path: &'static str, body: Value| act("POST", path, path, body);
    let grant =
        json!({ "app": "nothing", "connection": "new", "caller": "mail-sync", "refresh_token": "1.A" });
    let recipient =
        json!({ "kty": "OKP", "crv": "X25519", "x": "hSDwCYkwp1R0i33ctD73Wg2_Og0mOBr066SpjqqbTmo" });
    let mut acts = vec![
        plain("/admin/v1/reload", Value::Null),
        plain("/admin/v1/store/adopt", Value::Null),
        plain("/admin/v1/console-links", Value::Null),
        plain("/admin/v1/reconnect-links", json!({ "app": "outlook", "connection": "two" })),
        plain("/admin/v1/admin-consent-links", json!({ "app": "outlook", "connection": "nobody" })),
        plain("/admin/v1/imports", grant),
        plain("/admin/v1/exports", json!({ "app": "nothing", "recipient": recipient })),
        plain("/admin/v1/keyring/rewrap", Value::Null),
        plain("/admin/v1/keyring/promote", json!({ "key": "2026-11-23-d1166f" })),
        plain("/admin/v1/keyring/retire", json!({ "key": "2026-11-23-d1166f" })),
        plain("/admin/v1/revocations", json!({ "caller": "nobody-here", "even_if_unknown": true })),
        act(
            "POST",
            "/admin/v1/apps/{app}/token-host/{host}/confirm",
            "/admin/v1/apps/outlook/token-host/login.example.com/confirm",
            Value::Null,
        ),
    ];
    for (route, rest) in [
        ("/verify", "verify"),
        ("/{credential}/verify", "nobody/verify"),
        ("/{credential}/promote", "nobody/promote"),
        ("/{credential}/retire", "nobody/retire"),
    ] {
        let route = acting(&tokenward::api::admin::ROUTES)
            .into_iter()
            .map(|(_, known)| known)
            .find(|known| *known == format!("{CREDENTIALS}{route}"));
        acts.push(act(
            "POST",
            route.expect("a route"),
            format!("/admin/v1/apps/outlook/credentials/{rest}"),
            Value::Null,
        ));
    }
    for name in ["two", "nobody"] {
        let path = format!("/admin/v1/apps/outlook/connections/{name}");
        acts.push(act("POST", NAME, path.clone(), Value::Null));
        for paused in [true, false] {
            acts.push(act("PATCH", NAME, path.clone(), json!({ "paused": paused })));
        }
        acts.push(act("DELETE", NAME, path, Value::Null));
    }
    let tried: BTreeSet<_> = acts.iter().map(|act| (act.method, act.route)).collect();
    let left: Vec<_> = acting(&tokenward::api::admin::ROUTES).difference(&tried).copied().collect();
    assert_eq!(left, [], "an act without a try here");
    let socket = world.folder.path().join("admin.sock");
    for Act { method, path, body, .. } in acts {
        let method: Method = method.parse().expect("a method");
        let body = if body.is_null() { String::new() } else { body.to_string() };
        let answer = request_unix(&socket, method.clone(), &path, &[], body).await.expect("an answer");
        let found = records(world, request_id(&answer)).await;
        assert_eq!(found.len(), 1, "{method} {path} {}: {found:#?}", answer.status);
        assert_eq!((text(&found[0], "action"), text(&found[0], "door")), ("admin", "admin"), "{}", found[0]);
        assert!(
            found[0]["detail"]["admin"].is_string() && found[0]["detail"]["act"].is_string(),
            "{}",
            found[0]
        );
    }
}
