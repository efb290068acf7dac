//! `tokenward credentials rotate`: one command replaces a client credential, and is run again after whatever
//! stopped it.

use std::io::{Read as _, Write as _};
use std::net::Shutdown;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::{UnixListener, UnixStream};
use std::process::{Output, Stdio};
use std::time::Duration;

use serde_json::{Value, json};

use crate::status::{err, out};
use crate::world::{ALICE, CLIENT_ID, CLIENT_SECRET, Plan, World, text, write_secret};

const SECOND: &str = "the-second-secret";

/// A daemon with one secret in its folder, `2026-11.secret`, that is in use, and one connection.
async fn with_a_secret() -> World {
    let plan = Plan::default()
        .credentials("")
        .app_lines("credentials_dir = \"credentials\"\nhome_tenant = \"contoso.example\"\n")
        .file("credentials/2026-11.secret", CLIENT_SECRET);
    let world = plan.start().await;
    world.connect("one", ALICE).await;
    world.until("it is in use", async || state(&world, "2026-11") == "in_use").await;
    world
}

fn state(world: &World, id: &str) -> String {
    let listed = world.printed(&["credentials", "list", "outlook", "--json"]);
    let all = listed[0]["credentials"].as_array().expect("a list");
    all.iter().find(|one| one["id"] == id).map(|one| text(one, "state").to_owned()).unwrap_or_default()
}

fn rotate(world: &World, more: &[&str]) -> Output {
    world.asked(&[&["credentials", "rotate", "outlook"][..], more].concat())
}

fn files(world: &World) -> Vec<String> {
    let folder = std::fs::read_dir(world.folder.path().join("credentials")).expect("a folder");
    let mut names: Vec<String> =
        folder.map(|entry| entry.expect("an entry").file_name().into_string().expect("UTF-8")).collect();
    names.sort();
    names
}

/// A way to the daemon on which the answer to one request is lost: the daemon gives it, and nobody hears it.
fn way_that_loses(world: &World, lost: &'static str) -> String {
    let [relay, daemon] = ["relay.sock", "admin.sock"].map(|name| world.folder.path().join(name));
    let listener = UnixListener::bind(&relay).expect("a socket");
    std::thread::spawn(move || {
        for caller in listener.incoming() {
            let mut caller = caller.expect("a connection");
            let mut daemon = UnixStream::connect(&daemon).expect("the daemon listens");
            let mut begin = [0; 16 * 1024];
            let read = caller.read(&mut begin).expect("a request");
            daemon.write_all(&begin[..read]).expect("taken");
            if begin.starts_with(lost.as_bytes()) {
                assert!(daemon.read(&mut begin).expect("an answer") > 0);
                continue;
            }
            let (mut from, mut to) = (caller.try_clone().expect("two"), daemon.try_clone().expect("two"));
            std::thread::spawn(move || {
                let _ = std::io::copy(&mut from, &mut to);
                let _ = to.shutdown(Shutdown::Write);
            });
            let _ = std::io::copy(&mut daemon, &mut caller);
        }
    });
    format!("unix:{}", relay.display())
}

/// The connection dies after the daemon has taken the file up: it stays, since the daemon may use nothing else
/// soon, and the command says so.
#[tokio::test]
async fn a_file_that_the_daemon_may_have_stays_when_its_answer_is_lost() {
    let world = with_a_secret().await;
    world.entra.add_secret(CLIENT_ID, SECOND, Duration::ZERO, None).expect("room for one more");
    let new = world.folder.path().join("new-secret");
    write_secret(&new, SECOND);
    let all = ["2027-05", "--from", new.to_str().expect("UTF-8")];
    let way = way_that_loses(&world, "POST /admin/v1/reload ");
    let lost = rotate(&world, &[&all[..], &["--endpoint", &way]].concat());
    assert_eq!(lost.status.code(), Some(1), "{}", err(&lost));
    for part in ["broke off", "whether the daemon took it up is not known: run the command again"] {
        assert!(err(&lost).contains(part), "{part}: {}", err(&lost));
    }
    for part in ["removed", "nothing was changed"] {
        assert!(!err(&lost).contains(part), "{part}: {}", err(&lost));
    }
    assert!(!err(&lost).contains(SECOND) && out(&lost).is_empty(), "{}", out(&lost));
    assert_eq!(files(&world), ["2026-11.secret", "2027-05.secret"]);
    world.until("the daemon has it", async || !state(&world, "2027-05").is_empty()).await;
    assert_ne!(state(&world, "2026-11"), "retired");

    // The same command goes on where it was.
    let done = rotate(&world, &all);
    assert_eq!(done.status.code(), Some(0), "{}", err(&done));
    assert!(err(&done).contains("2027-05 is in ") && err(&done).contains("already"), "{}", err(&done));
    assert_eq!((state(&world, "2027-05"), state(&world, "2026-11")), ("in_use".into(), "retired".into()));
}

#[tokio::test]
async fn a_secret_is_replaced_by_one_command_that_can_be_run_again() {
    let world = with_a_secret().await;
    let new = world.folder.path().join("new-secret");
    let from = new.to_str().expect("UTF-8");
    // What is certainly wrong is refused before anything is done.
    for (content, arguments, said) in [
        ("x", &["2027-05"][..], "has no credential 2027-05 of app outlook yet"),
        ("8f4c4a1e-5f5e-4d0c-9d2e-0b8a54f4a7c1", &["2027-05", "--from", from], "the secret's ID"),
        ("\"quoted\"", &["2027-05", "--from", from], "quotes around it"),
        (SECOND, &["2027/05", "--from", from], "the id must be"),
        (SECOND, &["2027-05", "--from", from, "--expires", "soon"], "is not a date"),
        (SECOND, &["2027-05", "--from", from, "--retire", "2025-11"], "no credential 2025-11 in service"),
    ] {
        write_secret(&new, content);
        let refused = rotate(&world, arguments);
        assert_eq!(refused.status.code(), Some(2), "{arguments:?}: {}", err(&refused));
        assert!(
            err(&refused).contains(said) && !err(&refused).contains(content.trim_matches('"'))
                || content == "x",
            "{arguments:?}: {}",
            err(&refused)
        );
        assert_eq!(files(&world), ["2026-11.secret"]);
    }

    // The authority does not know it yet: the old one stays, and so does the file.
    write_secret(&new, SECOND);
    let all = ["2027-05", "--from", from, "--expires", "2099-05-20"];
    let early = rotate(&world, &[&all[..], &["--wait", "1s"]].concat());
    assert_eq!(early.status.code(), Some(1), "{}", err(&early));
    assert!(err(&early).contains("does not take the new credential") && err(&early).contains("AADSTS"));
    assert!(err(&early).contains("mistyped, remove ") && err(&early).contains("2027-05@2099-05-20.secret"));
    assert_eq!(state(&world, "2026-11"), "in_use");
    let file = world.folder.path().join("credentials/2027-05@2099-05-20.secret");
    assert_eq!(std::fs::read_to_string(&file).expect("it is there").trim(), SECOND);
    assert_eq!(std::fs::metadata(&file).expect("it is there").permissions().mode() & 0o777, 0o600);

    // Once it does, the same command goes on where it was.
    world.entra.add_secret(CLIENT_ID, SECOND, Duration::ZERO, None).expect("room for one more");
    let done = rotate(&world, &[&all[..], &["--json"]].concat());
    assert_eq!(done.status.code(), Some(0), "{}", err(&done));
    let shape: Value = serde_json::from_slice(&done.stdout).expect("JSON");
    assert_eq!(
        (&shape["id"], &shape["added"], &shape["retired"]),
        (&json!("2027-05"), &json!(false), &json!("2026-11")),
        "{shape}"
    );
    assert!(shape["left"][0].as_str().is_some_and(|left| left.contains("2026-11.secret")), "{shape}");
    assert!(!out(&done).contains(SECOND) && !err(&done).contains(SECOND));
    assert_eq!((state(&world, "2027-05"), state(&world, "2026-11")), ("in_use".into(), "retired".into()));
    world.entra.remove_secret(CLIENT_ID, CLIENT_SECRET).expect("known");
    world.outlive_tokens();
    assert_eq!(world.token("one").await.status, 200, "with the new one");

    // A third time there is nothing to do.
    let again = rotate(&world, &["2027-05"]);
    assert_eq!(again.status.code(), Some(0), "{}", err(&again));
    assert!(err(&again).contains("2027-05 is in use.") && err(&again).contains("nothing to retire"));
    write_secret(&new, "another-one");
    let other = rotate(&world, &all);
    assert_eq!(other.status.code(), Some(1), "{}", err(&other));
    assert!(err(&other).contains("is there already, with another content"), "{}", err(&other));
}

#[tokio::test]
async fn a_secret_comes_through_a_pipe_and_a_folder_that_is_no_good_stays_as_it_was() {
    let world = with_a_secret().await;
    world.entra.add_secret(CLIENT_ID, SECOND, Duration::ZERO, None).expect("room for one more");
    let piped = |more: &[&str]| {
        let arguments = [&["credentials", "rotate", "outlook", "2027-05", "--from", "-"][..], more].concat();
        let mut command = world.command(&arguments);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("it starts");
        let mut input = child.stdin.take().expect("piped");
        input.write_all(format!("{SECOND}\n").as_bytes()).expect("written");
        drop(input);
        child.wait_with_output().expect("it ends")
    };
    // Something else keeps the daemon from taking the folder up: nothing is left behind.
    let notes = world.folder.path().join("credentials/notes.txt");
    write_secret(&notes, "x");
    let refused = piped(&[]);
    assert_eq!(refused.status.code(), Some(1), "{}", err(&refused));
    for part in ["does not take it up", "notes.txt", "is removed again"] {
        assert!(err(&refused).contains(part), "{part}: {}", err(&refused));
    }
    assert_eq!(files(&world), ["2026-11.secret", "notes.txt"]);
    std::fs::remove_file(&notes).expect("removed");

    let kept = piped(&["--keep"]);
    assert_eq!(kept.status.code(), Some(0), "{}", err(&kept));
    assert!(err(&kept).contains("without --expires nobody is warned"), "{}", err(&kept));
    assert_eq!(state(&world, "2027-05"), "in_use");
    assert_ne!(state(&world, "2026-11"), "retired");

    // With several left, somebody says which one goes.
    write_secret(&world.folder.path().join("credentials/2025-11.secret"), "long-gone");
    world.until("it is known", async || !state(&world, "2025-11").is_empty()).await;
    let unclear = rotate(&world, &["2027-05"]);
    assert_eq!(unclear.status.code(), Some(2), "{}", err(&unclear));
    assert!(err(&unclear).contains("2025-11, 2026-11"), "{}", err(&unclear));
    let named = rotate(&world, &["2027-05", "--retire", "2026-11"]);
    assert_eq!(named.status.code(), Some(0), "{}", err(&named));
    assert_eq!(state(&world, "2026-11"), "retired");
}

/// The authority takes a retired secret and not the one in use: callers are refused, so `doctor` calls that an
/// error, and each command that an operator runs leads to the one that mends it.
#[tokio::test]
async fn the_way_back_to_a_retired_secret_is_found_from_everywhere() {
    let mut world = with_a_secret().await;
    world.entra.add_secret(CLIENT_ID, SECOND, Duration::ZERO, None).expect("room for one more");
    write_secret(&world.folder.path().join("new-secret"), SECOND);
    let from = world.folder.path().join("new-secret");
    let done = rotate(&world, &["2027-05", "--from", from.to_str().expect("UTF-8")]);
    assert_eq!(done.status.code(), Some(0), "{}", err(&done));
    // Both are taken: the retired one is named as such, and nothing is wrong.
    let calm = doctor(&world);
    assert_eq!(calm.1, json!([]), "{calm:#?}");
    assert!(calm.2.contains("2026-11 secret, retired (accepted)"), "{calm:#?}");

    world.entra.remove_secret(CLIENT_ID, SECOND).expect("known");
    world.outlive_tokens();
    assert_eq!(world.token("one").await.status, 503);
    let way_back = "tokenward credentials promote outlook 2026-11";
    let says_so = |world: &World| {
        let (code, findings, states) = doctor(world);
        assert_eq!(code, Some(1), "{findings:#}");
        assert_eq!(findings.as_array().map(Vec::len), Some(1), "{findings:#}");
        assert_eq!(
            (text(&findings[0], "severity"), text(&findings[0], "code")),
            ("error", "credential_wrong")
        );
        assert!(text(&findings[0], "fix").contains(way_back), "{findings:#}");
        assert!(states.contains("2027-05 secret, REJECTED"), "{states}");
        assert!(states.contains("2026-11 secret, retired (accepted)"), "{states}");
    };
    says_so(&world);
    let verified = world.asked(&["credentials", "verify", "outlook"]);
    assert!(
        out(&verified).contains("2026-11: the authority takes it, but it is retired"),
        "{}",
        out(&verified)
    );
    assert!(out(&verified).contains(way_back), "{}", out(&verified));
    let explained = world.asked(&["connections", "explain", "outlook", "one"]);
    assert!(out(&explained).contains(way_back), "{}", out(&explained));

    // Without a daemon the store says what is retired, and a restarted one needs no more than the command.
    assert_eq!(world.daemon.terminate(), Some(0), "{}", world.daemon.log());
    says_so(&world);
    world.kill_and_restart().await;
    world.until("it is retired", async || state(&world, "2026-11") == "retired").await;
    let promoted = world.asked(&way_back.split(' ').skip(1).collect::<Vec<_>>());
    assert_eq!(promoted.status.code(), Some(0), "{}", err(&promoted));
    world.until_served("one").await;
    let mended = doctor(&world);
    let errors = mended.1.as_array().expect("a list").iter().filter(|one| one["severity"] == "error");
    assert_eq!(errors.count(), 0, "{mended:#?}");
    assert!(mended.2.contains("2026-11 secret, accepted"), "{mended:#?}");
}

/// Exit code of `doctor` and its findings about credentials, and a line for each credential with what was seen of it.
fn doctor(world: &World) -> (Option<i32>, Value, String) {
    let ended = world.asked(&["doctor", "--json"]);
    let report: Value = serde_json::from_slice(&ended.stdout).expect("JSON");
    let seen = report["seen"].as_array().expect("a list").iter();
    let of_credentials = seen.filter(|one| one["area"] == "credential");
    let line = |one: &Value| {
        let subject = text(one, "subject").rsplit(' ').next().unwrap_or_default().to_owned();
        format!("{subject} {}\n", text(one, "state"))
    };
    let all = report["findings"].as_array().expect("a list").iter();
    let of_the_app = all.filter(|one| text(one, "code").starts_with("credential_")).cloned();
    (ended.status.code(), of_the_app.collect(), of_credentials.map(line).collect())
}
