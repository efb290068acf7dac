//! Receivers of webhooks that verify with other people's packages: `standardwebhooks` for Python, in the program
//! of docs/events.md, and for JavaScript.

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde_json::Value;
use tokio::sync::mpsc;
use tokio::time::timeout;

use crate::attacks_rights::operate;
use crate::interop::node_folder;
use crate::launcher::{command, installed, repository};
use crate::notices::{SECRET, deliveries, section};
use crate::token_exchange::blocks;
use crate::world::{ALICE, LOOK, PATIENCE, Plan, World, free_port};

const NEXT: &str = "whsec_AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";

/// A receiver's program, and what it prints.
struct Receiver {
    program: Child,
    lines: mpsc::UnboundedReceiver<String>,
}

impl Receiver {
    fn start(mut run: Command, folder: &Path) -> Receiver {
        run.current_dir(folder).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut program = run.spawn().expect("it starts");
        let printed = BufReader::new(program.stdout.take().expect("piped"));
        let (sender, lines) = mpsc::unbounded_channel();
        std::thread::spawn(move || {
            for line in printed.lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        Receiver { program, lines }
    }

    async fn took(&mut self) -> String {
        timeout(PATIENCE, self.lines.recv()).await.expect("in time").expect("it goes on")
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        let _gone = self.program.kill();
        let _reaped = self.program.wait();
    }
}

/// The receiver takes what is signed with its secret, also while that is replaced; and the package refuses what
/// is signed with another, which is delivered once the receiver has it.
async fn a_receiver_verifies(start: impl Fn(u16, &Path) -> Receiver) {
    let port = free_port();
    let url = format!("http://127.0.0.1:{port}");
    let world = Plan::default().file("webhook.secret", SECRET).sections(&section(&url, "")).start().await;
    let folder = world.folder.path().join("receiver");
    std::fs::create_dir(&folder).expect("a folder");
    let write = |secret: &str| std::fs::write(folder.join("webhook.secret"), secret).expect("written");
    write(SECRET);
    let mut receiver = start(port, &folder);
    let mut failed = 0;
    // (It may be tried before it listens.)
    world.connect("one", ALICE).await;
    assert_eq!(next(&world, &mut receiver, "", &mut failed).await, "connection.connected one");
    // The secret is replaced: the receiver still has the one before.
    std::fs::write(world.folder.path().join("webhook.secret"), NEXT).expect("written");
    let reloaded = operate(&world, http::Method::POST, "/admin/v1/reload", Value::Null).await.json();
    assert_eq!(reloaded["outcome"], "ok", "{reloaded}");
    world.connect("two", ALICE).await;
    assert_eq!(
        next(&world, &mut receiver, "connection.connected one", &mut failed).await,
        "connection.connected two"
    );
    drop(receiver);
    write(NEXT);
    let mut receiver = start(port, &folder);
    world.connect("three", ALICE).await;
    assert_eq!(
        next(&world, &mut receiver, "connection.connected two", &mut failed).await,
        "connection.connected three"
    );
    drop(receiver);
    // One with a secret of its own takes nothing.
    write("whsec_b3RoZXItb3RoZXItb3RoZXItb3RoZXI=");
    let mut stranger = start(port, &folder);
    world.connect("four", ALICE).await;
    world.until("it refuses", async || deliveries(&world, "refused").await >= Some(1)).await;
    while let Ok(line) = stranger.lines.try_recv() {
        assert!(line.starts_with("refused"), "{line}");
    }
    drop(stranger);
    write(NEXT);
    let mut receiver = start(port, &folder);
    assert_eq!(
        next(&world, &mut receiver, "connection.connected three", &mut failed).await,
        "connection.connected four"
    );
}

/// The next event that it took. Time passes for the wait after each failure, `failed` of which had that; but less
/// than the five minutes by which the packages let a time differ from theirs.
async fn next(world: &World, receiver: &mut Receiver, before: &str, failed: &mut usize) -> String {
    loop {
        tokio::select! {
            line = receiver.took() => {
                // It may come twice: the receiver before was killed over its answer.
                if line != before {
                    return line;
                }
            }
            failures = fails_again(world, *failed), if world.ahead() < Duration::from_secs(200) => {
                *failed = failures;
                world.pass(Duration::from_secs(25));
            }
        }
    }
}

/// Waits for another failure.
async fn fails_again(world: &World, before: usize) -> usize {
    loop {
        let (refused, unreachable) =
            (deliveries(world, "refused").await, deliveries(world, "unreachable").await);
        let failures = refused.unwrap_or_default() + unreachable.unwrap_or_default();
        if failures > before {
            return failures;
        }
        tokio::time::sleep(LOOK).await;
    }
}

#[tokio::test]
async fn the_guides_receiver_in_python_verifies_what_it_gets() {
    a_receiver_verifies(|port, folder| {
        let [code] = &blocks("docs/events.md", "python")[..] else { panic!("one example in Python") };
        let mut run = command(installed("venv/bin/python", "tools"));
        run.args(["-c", code, &port.to_string()]);
        Receiver::start(run, folder)
    })
    .await;
}

#[tokio::test]
async fn a_receiver_in_javascript_verifies_what_it_gets() {
    a_receiver_verifies(|port, folder| {
        let modules = folder.join("node_modules");
        if !modules.exists() {
            std::os::unix::fs::symlink(node_folder().join("node_modules"), &modules).expect("a link");
        }
        let script = repository().join("tests/interop/webhooks/receiver.mjs");
        std::fs::copy(script, folder.join("receiver.mjs")).expect("copied");
        let mut run = command("node");
        run.args(["receiver.mjs", &port.to_string(), "webhook.secret"]);
        Receiver::start(run, folder)
    })
    .await;
}
