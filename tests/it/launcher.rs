//! A provider of `tests/interop` in a process of its own. Its launcher prints `{"issuer": …}` once the
//! provider answers, answers each line of its standard input with one line of JSON, and ends when the input
//! is closed.

use parking_lot::Mutex;
use std::io::{BufRead, BufReader, Read, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::world::text;

/// How long a provider may take to start on a busy machine.
const START: Duration = Duration::from_secs(120);
/// How long one may take to stop before it is killed.
const STOP: Duration = Duration::from_secs(10);

pub(crate) fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Something that is installed under `target/interop`; `target` is what to make when it is missing.
pub(crate) fn installed(path: &str, target: &str) -> PathBuf {
    let path = repository().join("target/interop").join(path);
    assert!(
        path.exists(),
        "{} is missing: run `make {target}`, which installs what this test needs",
        path.display()
    );
    path
}

/// A command that speaks to this machine only, whatever the environment says of proxies.
pub(crate) fn command(program: impl AsRef<std::ffi::OsStr>) -> Command {
    let mut command = Command::new(program);
    for name in ["http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"] {
        command.env_remove(name);
    }
    command
}

/// A provider that answers.
pub(crate) struct Launcher {
    pub(crate) issuer: String,
    name: String,
    child: Child,
    stdin: Option<ChildStdin>,
    /// What it printed that is JSON.
    answers: Receiver<Value>,
    /// Everything else that it said, for a test that fails.
    said: Arc<Mutex<String>>,
}

impl Launcher {
    /// Starts one and waits until its provider answers.
    pub(crate) fn start(name: &str, mut command: Command) -> Launcher {
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("{name} cannot be run ({error}): run `make tools`"));
        let said = Arc::new(Mutex::new(String::new()));
        let (mut stderr, kept) = (child.stderr.take().expect("piped"), said.clone());
        std::thread::spawn(move || {
            let mut chunk = [0; 4096];
            while let Ok(read @ 1..) = stderr.read(&mut chunk) {
                kept.lock().push_str(&String::from_utf8_lossy(&chunk[..read]));
            }
        });
        let (stdout, kept) = (child.stdout.take().expect("piped"), said.clone());
        let (sender, answers) = channel();
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                match serde_json::from_str::<Value>(&line) {
                    Ok(answer @ Value::Object(_)) => drop(sender.send(answer)),
                    _ => kept.lock().push_str(&(line + "\n")),
                }
            }
        });
        let stdin = child.stdin.take();
        let mut launcher =
            Launcher { issuer: String::new(), name: name.to_owned(), child, stdin, answers, said };
        launcher.issuer = text(&launcher.answer("start"), "issuer").to_owned();
        launcher
    }

    /// Has it do something, and returns its answer.
    pub(crate) fn obey(&mut self, line: &str) -> Value {
        let stdin = self.stdin.as_mut().expect("open until it is dropped");
        writeln!(stdin, "{line}").unwrap_or_else(|error| panic!("{}: {line}: {error}", self.name));
        self.answer(line)
    }

    fn answer(&self, to: &str) -> Value {
        let answer = self.answers.recv_timeout(START).unwrap_or_else(|error| {
            panic!("{} did not answer to {to:?} ({error})", self.name);
        });
        assert!(answer.get("error").is_none(), "{}: {to}: {answer}", self.name);
        answer
    }
}

impl Drop for Launcher {
    fn drop(&mut self) {
        // It ends by itself, and takes with it what it started.
        drop(self.stdin.take());
        let begun = Instant::now();
        while begun.elapsed() < STOP && matches!(self.child.try_wait(), Ok(None)) {
            std::thread::sleep(Duration::from_millis(5));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("{} said: {}", self.name, self.said.lock());
        }
    }
}
