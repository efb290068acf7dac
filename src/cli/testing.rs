//! A test stage for the commands: captured output, a fixed clock, seeded randomness and a temporary
//! directory.

use parking_lot::Mutex;
use std::ffi::OsString;
use std::io::{self, Cursor, Write};
use std::os::unix::fs::PermissionsExt;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use super::{Output, World, run};
use crate::domain::task::BoxFuture;
use crate::domain::time::{Clock, Timestamp};
use crate::testkit::SeededRandom;

/// Captured standard output and error.
#[derive(Clone, Default)]
pub(super) struct Captured {
    out: Sink,
    err: Sink,
}

#[derive(Clone, Default)]
struct Sink(Arc<Mutex<Vec<u8>>>);

impl Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Captured {
    pub(super) fn output(input: &str) -> (Output, Captured) {
        let captured = Captured::default();
        let input = Box::new(Cursor::new(input.as_bytes().to_vec()));
        let output =
            Output::new(Box::new(captured.out.clone()), Box::new(captured.err.clone()), input, false);
        (output, captured)
    }

    pub(super) fn out(&self) -> String {
        String::from_utf8(self.out.0.lock().clone()).expect("UTF-8")
    }

    pub(super) fn err(&self) -> String {
        String::from_utf8(self.err.0.lock().clone()).expect("UTF-8")
    }
}

pub(super) struct FixedClock(pub(super) Timestamp);

impl Clock for FixedClock {
    fn now(&self) -> Timestamp {
        self.0
    }

    fn monotonic(&self) -> Duration {
        Duration::ZERO
    }

    fn sleep(&self, duration: Duration) -> BoxFuture<'static, ()> {
        Box::pin(tokio::time::sleep(duration.min(Duration::from_millis(1))))
    }
}

/// 2026-11-23T00:00:00Z.
pub(super) const NOW: Timestamp = Timestamp::from_unix_seconds(1_795_392_000);

pub(super) struct Scene {
    folder: tempfile::TempDir,
    seed: Mutex<u64>,
}

/// A world of this clock, with an empty environment and no input.
pub(super) fn world() -> (World, Captured) {
    let (output, captured) = Captured::output("");
    (in_the_world(1, &[], output), captured)
}

fn in_the_world(seed: u64, env: &[(&str, &str)], output: Output) -> World {
    World {
        env: env.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect(),
        clock: Arc::new(FixedClock(NOW)),
        random: Arc::new(SeededRandom::new(seed)),
        output,
        serve: |_, _, _| Ok(ExitCode::from(42)),
    }
}

/// A command's exit code and output.
pub(super) struct Ended {
    pub(super) code: u8,
    pub(super) out: String,
    pub(super) err: String,
}

impl Ended {
    pub(super) fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.out).unwrap_or_else(|error| panic!("{error}: {}{}", self.out, self.err))
    }
}

impl Scene {
    pub(super) fn new() -> Self {
        Scene { folder: tempfile::tempdir().expect("temp dir"), seed: Mutex::new(1) }
    }

    pub(super) fn path(&self, name: &str) -> String {
        self.folder.path().join(name).to_str().expect("UTF-8").to_owned()
    }

    pub(super) fn file(&self, name: &str, content: &str, mode: u32) -> String {
        let path = self.path(name);
        std::fs::write(&path, content).expect("write");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).expect("chmod");
        path
    }

    pub(super) fn run(&self, args: &[&str]) -> Ended {
        self.run_with(args, "")
    }

    pub(super) fn run_with(&self, args: &[&str], input: &str) -> Ended {
        self.run_all(args, input, &[])
    }

    /// Runs a command with environment variables.
    pub(super) fn run_in(&self, args: &[&str], env: &[(&str, &str)]) -> Ended {
        self.run_all(args, "", env)
    }

    fn run_all(&self, args: &[&str], input: &str, env: &[(&str, &str)]) -> Ended {
        let (output, captured) = Captured::output(input);
        let seed = {
            let mut seed = self.seed.lock();
            *seed += 1;
            *seed
        };
        let world = in_the_world(seed, env, output);
        let args = std::iter::once("tokenward").chain(args.iter().copied()).map(OsString::from);
        let code = run(args, world);
        let codes = [0, 1, 2, 42];
        let code = codes.into_iter().find(|&known| ExitCode::from(known) == code).expect("a code of ours");
        Ended { code, out: captured.out(), err: captured.err() }
    }
}
