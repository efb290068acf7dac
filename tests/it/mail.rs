//! `tokenward token` as mail programs use it, and the guide for them (`docs/mail-programs.md`).
//!
//! What is here needs nothing but the daemon. `programs` has the programs themselves, which `make mail` installs.

mod guide;
mod limits;
mod programs;
mod servers;

use std::fs::File;
use std::io::Read as _;
use std::os::fd::OwnedFd;
use std::process::{Command, Output, Stdio};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use entra_emulator::{Endpoint, Fault, FaultRule, RevokeKind};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use serde_json::{Value, json};

use crate::world::{ALICE, BOB, PERSONAL, Plan, World, write_secret};

/// `tokenward token outlook …` with the key of the caller that may do everything.
fn command(world: &World, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tokenward"));
    let key = world.folder.path().join("sync.key");
    if !key.exists() {
        write_secret(&key, &world.key);
    }
    command.args(["token", "outlook"]).args(arguments).args(["--endpoint", &world.daemon.local]);
    command.arg("--key-file").arg(key).stdin(Stdio::null());
    command
}

fn run(world: &World, arguments: &[&str]) -> Output {
    command(world, arguments).output().expect("it ends")
}

fn words(output: &Output) -> (String, String) {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).expect("UTF-8");
    (text(&output.stdout), text(&output.stderr))
}

fn guide() -> String {
    let guide = crate::launcher::repository().join("docs/mail-programs.md");
    std::fs::read_to_string(guide).expect("the guide")
}

/// What a command printed that must have succeeded without a word.
fn printed(world: &World, arguments: &[&str]) -> String {
    let output = run(world, arguments);
    let (out, err) = words(&output);
    assert_eq!((output.status.code(), err.as_str()), (Some(0), ""), "{arguments:?}");
    out
}

/// The one line of a command that must have failed with nothing on standard output.
fn refused(output: &Output) -> String {
    let (out, err) = words(output);
    assert_eq!((output.status.code(), out.as_str()), (Some(1), ""), "{err}");
    assert!(err.starts_with("error: ") && err.ends_with('\n') && err.matches('\n').count() == 1, "{err:?}");
    err.trim_end().to_owned()
}

#[tokio::test]
async fn a_token_is_one_line_and_nothing_else_whatever_standard_output_is() {
    let world = Plan::default().start().await;
    world.connect("one", ALICE).await;
    let token = world.access_token("one").await;
    assert_eq!(printed(&world, &["one"]), format!("{token}\n"));
    for program in ["mbsync", "isync", "msmtp", "neomutt", "getmail", "getmail6", "aerc", "himalaya"] {
        assert_eq!(printed(&world, &["one", "--for", program]), format!("{token}\n"), "{program}");
    }

    // A terminal gets the same; the terminal itself writes each line feed as CR LF.
    let controller = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).expect("a terminal");
    grantpt(&controller).expect("ours");
    unlockpt(&controller).expect("unlocked");
    let name = ptsname(&controller, Vec::new()).expect("a name");
    let terminal = File::options().read(true).write(true).open(name.to_str().expect("a path"));
    let terminal = OwnedFd::from(terminal.expect("the other end"));
    let status = command(&world, &["one"]).stdout(terminal).status().expect("it ends");
    assert_eq!(status.code(), Some(0));
    let mut shown = vec![0; token.len() + 64];
    let mut screen = File::from(controller);
    let mut length = 0;
    while !shown[..length].ends_with(b"\n") {
        length += screen.read(&mut shown[length..]).expect("shown");
    }
    assert_eq!(String::from_utf8_lossy(&shown[..length]), format!("{token}\r\n"));

    // Nobody reads any more: it fails without a word. A full disk it names.
    let (reader, writer) = std::io::pipe().expect("a pipe");
    drop(reader);
    let output = command(&world, &["one"]).stdout(writer).stderr(Stdio::piped()).output().expect("it ends");
    assert_eq!((output.status.code(), output.stderr.len()), (Some(1), 0));
    let full = File::options().write(true).open("/dev/full").expect("Linux has it");
    let output = command(&world, &["one"]).stdout(full).stderr(Stdio::piped()).output().expect("it ends");
    assert!(refused(&output).contains("cannot write to standard output"));
}

#[tokio::test]
async fn an_initial_response_names_the_account_unless_a_user_is_named() {
    let world = Plan::default().start().await;
    world.connect("one", ALICE).await;
    let token = world.access_token("one").await;
    let response = |arguments: &[&str]| {
        let line = printed(&world, &[&["one"], arguments].concat());
        let line = line.strip_suffix('\n').expect("a line feed");
        String::from_utf8(STANDARD.decode(line).expect("Base64 on one line")).expect("UTF-8")
    };
    assert_eq!(response(&["--sasl", "xoauth2"]), format!("user={ALICE}\x01auth=Bearer {token}\x01\x01"));
    assert_eq!(
        response(&["--sasl", "xoauth2", "--user", "team@contoso.example"]),
        format!("user=team@contoso.example\x01auth=Bearer {token}\x01\x01")
    );
    assert_eq!(
        response(&["--sasl", "oauthbearer", "--host", "outlook.office365.com", "--port", "993"]),
        format!("n,a={ALICE},\x01host=outlook.office365.com\x01port=993\x01auth=Bearer {token}\x01\x01")
    );
    assert_eq!(
        response(&["--for", "dovecot", "--sasl", "oauthbearer"]),
        format!("n,a={ALICE},\x01auth=Bearer {token}\x01\x01")
    );
}

/// A program's limit is said and nothing is printed, so that nothing is cut.
#[tokio::test]
async fn a_token_that_a_program_would_cut_is_not_printed() {
    let world = Plan::default().start().await;
    let long = |length: usize| {
        let patch = json!({ "access_token": format!("canary{}", "t".repeat(length - 6)) });
        let Value::Object(patch) = patch else { unreachable!("an object") };
        world.entra.faults().inject(FaultRule::new(Endpoint::Token, Fault::TokenResponsePatch(patch)));
    };
    long(4095);
    world.connect("long", ALICE).await;
    let token = printed(&world, &["long"]);
    assert_eq!(token.len(), 4096);
    for program in ["mbsync", "getmail", "aerc", "himalaya", "offlineimap"] {
        assert_eq!(printed(&world, &["long", "--for", program]), token, "{program}");
    }
    let mut in_the_guide = false;
    // 20 bytes are the mechanism's own; msmtp's 3,049 are for user and token.
    let msmtp = 3049 - ALICE.len();
    for (arguments, said) in [
        (
            &["--for", "msmtp"][..],
            format!(
                "error: msmtp takes at most {msmtp} bytes of token with XOAUTH2 for {ALICE}, and this token has 4095"
            ),
        ),
        (
            &["--for", "neomutt"],
            format!(
                "error: neomutt takes at most 4094 bytes of token with XOAUTH2 for {ALICE}, and this token has 4095"
            ),
        ),
        (
            &["--for", "neomutt", "--sasl", "oauthbearer"],
            format!(
                "error: neomutt takes at most 510 bytes of token with OAUTHBEARER for {ALICE}, and this token has 4095"
            ),
        ),
    ] {
        let line = refused(&run(&world, &[&["long"], arguments].concat()));
        let way_out = "; use a program without that limit: docs/mail-programs.md lists them";
        assert_eq!(line, said + way_out);
        in_the_guide = in_the_guide || guide().lines().any(|shown| shown == line);
    }
    assert!(in_the_guide);
    // A shorter user name leaves the token more room, and another mechanism may.
    let world_with = |length: usize| {
        world.entra.faults().clear();
        long(length);
    };
    world_with(3035);
    world.connect("fits", BOB).await;
    let fits = |user: &str| run(&world, &["fits", "--for", "msmtp", "--user", user]).status.code();
    assert_eq!((fits("me@contoso.com"), fits("me2@contoso.com")), (Some(0), Some(1)));
    let line = refused(&run(&world, &["fits", "--for", "neomutt", "--sasl", "oauthbearer"]));
    assert!(line.ends_with("; set neomutt to XOAUTH2, and leave --sasl out"), "{line}");
}

/// A line of the command, without what differs from run to run: what is in parentheses after the words.
fn without_details(line: &str) -> String {
    let Some((before, rest)) = line.strip_prefix("error: ").and_then(|words| words.split_once(" (")) else {
        return line.to_owned();
    };
    // The reason stands in parentheses of its own before the code.
    let (reason, rest) = match rest.split_once(") (") {
        Some((reason, rest)) => (format!(" ({reason})"), rest),
        None => (String::new(), rest),
    };
    let after = rest.split_once(')').expect("closed").1;
    format!("error: {before}{reason} (…){after}")
}

/// Each way in which there is no token, and the words for it, which the guide shows.
#[tokio::test]
async fn every_failure_is_one_line_with_its_way_out_and_the_guide_has_it() {
    let slow = format!(
        "[callers.slow]\nrate_limit = 1\nauthenticate = [{{ unix_user = {} }}]\n[[callers.slow.allow]]\napp = \
         \"outlook\"\nconnections = [\"one\"]\nscopes = [\"Mail.Read\"]\n",
        rustix::process::getuid().as_raw()
    );
    let world = Plan::default().sections(&slow).start().await;
    world.connect("one", ALICE).await;
    world.connect("renew", BOB).await;
    world.connect("blocked", PERSONAL).await;
    world.entra.revoke_user(BOB, RevokeKind::GrantRevoked).expect("revoked");
    world.entra.revoke_user(PERSONAL, RevokeKind::Disabled).expect("disabled");
    world.outlive_tokens();
    let mut lines = vec![
        refused(&run(&world, &["renew"])),
        refused(&run(&world, &["blocked"])),
        refused(&run(&world, &["nobody"])),
        refused(&run(&world, &["one", "--scope", "Contacts.Read"])),
    ];
    let config = world.folder.path().join("tokenward.toml");
    let paused = Command::new(env!("CARGO_BIN_EXE_tokenward"))
        .args(["connections", "pause", "outlook", "one", "--config"])
        .arg(&config)
        .output()
        .expect("it ends");
    assert!(paused.status.success(), "{}", words(&paused).1);
    lines.push(refused(&run(&world, &["one"])));

    // As the Unix user, whose bucket two requests empty: some of eight at once are refused.
    let socket = format!("unix:{}", world.folder.path().join("local.sock").display());
    let limited = std::thread::scope(|scope| {
        let ask = || {
            Command::new(env!("CARGO_BIN_EXE_tokenward"))
                .args(["token", "outlook", "one", "--endpoint", &socket])
                .stdin(Stdio::null())
                .output()
                .expect("it ends")
        };
        let asked: Vec<_> = (0..24).map(|_| scope.spawn(ask)).collect();
        let asked = asked.into_iter().map(|asked| refused(&asked.join().expect("asked")));
        asked.filter(|line| line.contains("rate_limited")).collect::<Vec<_>>()
    });
    lines.push(limited.into_iter().next().expect("one of 24 came too fast"));

    let guide = guide();
    let missing: Vec<String> = lines
        .iter()
        .map(|line| without_details(line))
        .filter(|line| !guide.lines().any(|shown| shown == line))
        .collect();
    assert!(missing.is_empty(), "the guide does not show: {missing:#?}");
}
