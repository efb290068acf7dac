//! Export: what must be true before a grant leaves, and what does not keep the others back.

use http::Method;
use rustix::process::{Pid, Resource, Rlimit, prlimit};
use serde_json::{Value, json};

use crate::attacks_rights::operate;
use crate::evidence::tamper;
use crate::http_client::Answer;
use crate::status::{err, out};
use crate::world::{ALICE, BOB, Kept, Plan, Process, World, text};

/// Makes a key: its public half, and the path of that.
fn recipient(world: &World) -> (Value, String) {
    let key = world.folder.path().join("export.jwk").to_str().expect("UTF-8").to_owned();
    world.said(&["export", "--make-key", &key]);
    let public = format!("{key}.pub");
    let jwk = std::fs::read_to_string(&public).expect("a public key");
    (serde_json::from_str(&jwk).expect("JSON"), public)
}

async fn export(world: &World, recipient: &Value, pause: bool) -> Answer {
    let asked = json!({ "app": "outlook", "recipient": recipient, "pause": pause });
    operate(world, Method::POST, "/admin/v1/exports", asked).await
}

/// The lines of the audit file that say that a grant left, or was to.
fn acts(world: &World) -> Vec<String> {
    let audit = std::fs::read_to_string(world.folder.path().join("audit.jsonl")).unwrap_or_default();
    audit.lines().filter(|line| line.contains(r#""act":"export""#)).map(str::to_owned).collect()
}

/// Sets the end of every file that the daemon writes, as a full disk would.
fn limit_files(daemon: &Process, bytes: Option<u64>) {
    let pid = Pid::from_raw(i32::try_from(daemon.pid()).expect("a pid"));
    prlimit(pid, Resource::Fsize, Rlimit { current: bytes, maximum: None }).expect("a limit");
}

async fn restart_with(world: &mut World, settings: &str) {
    std::fs::write(world.folder.path().join("environment"), settings).expect("written");
    world.stop_and_restart().await;
}

/// Where records are demanded, the fate of each grant's record decides whether any of them leaves: so the
/// answer cannot be before the records.
#[tokio::test]
async fn where_it_is_demanded_no_grant_leaves_without_a_record() {
    // (The store's own files have no limit here.)
    let mut world = Plan::default().kept(Kept::Redis).start().await;
    for (name, user) in [("one", ALICE), ("two", BOB)] {
        world.connect(name, user).await;
    }
    let (jwk, public) = recipient(&world);
    restart_with(&mut world, "TOKENWARD__AUDIT__FAIL_CLOSED=true\n").await;
    let answer = export(&world, &jwk, false).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    // (No waiting: the records are there when the answer is.)
    let written = acts(&world);
    assert_eq!((written.len(), answer.json()["grants"].as_array().map(Vec::len)), (2, Some(2)));

    // There is room for one more record, not for two.
    let size = std::fs::metadata(world.folder.path().join("audit.jsonl")).expect("the file").len();
    let line = written.iter().map(String::len).max().unwrap_or_default() as u64;
    limit_files(&world.daemon, Some(size + line + line / 2));
    let refused = export(&world, &jwk, true).await;
    assert_eq!((refused.status.as_u16(), text(&refused.json(), "code")), (503, "audit_unavailable"));
    for name in ["one", "two"] {
        assert_eq!(world.show(name).await["status"], "active", "nobody is shut out for what did not leave");
    }
    assert!(refused.headers.contains_key("retry-after"));
    assert!(refused.json()["grants"].is_null(), "{}", refused.text());
    let recorded = acts(&world).iter().filter(|line| line.contains(r#""outcome":"ok""#)).count();
    assert_eq!(recorded, 3, "the first grant's record was written, and it did not leave either");
    limit_files(&world.daemon, None);

    // Nowhere at all, with the command: nothing is printed.
    restart_with(&mut world, "TOKENWARD__AUDIT__PATH=/dev/full\nTOKENWARD__AUDIT__FAIL_CLOSED=true\n").await;
    // The private key in place of the public one.
    let private = public.strip_suffix(".pub").expect("the public one");
    let refused = world.asked(&["export", "--to", "jsonl", "--recipient", private, "--yes"]);
    assert_eq!((refused.status.code(), out(&refused)), (Some(2), String::new()), "{}", err(&refused));
    let said = err(&refused);
    assert!(said.contains("has the private key") && said.contains("FILE.pub"), "{said}");
    let command = ["export", "--to", "jsonl", "--recipient", &public, "--yes"];
    let refused = world.asked(&command);
    assert_eq!((refused.status.code(), out(&refused).as_str()), (Some(1), ""), "{}", err(&refused));
    assert!(err(&refused).contains("audit_unavailable"), "{}", err(&refused));
    // By default a full disk stops no export, as it stops no hand-out.
    restart_with(&mut world, "TOKENWARD__AUDIT__PATH=/dev/full\n").await;
    let done = world.asked(&command);
    assert!(done.status.success() && out(&done).lines().count() == 2, "{}", err(&done));
}

/// A damaged connection is left out, counted and named; the others are exported, and paused if that is asked.
#[tokio::test]
async fn a_damaged_connection_keeps_no_other_grant_back() {
    let mut world = Plan::default().kept(Kept::Redis).start().await;
    for name in ["a-grant", "b-profile", "c-whole", "d-good"] {
        world.connect(name, ALICE).await;
    }
    let (jwk, public) = recipient(&world);
    tamper(&world, "tokenward:{outlook:a-grant}", 0);
    tamper(&world, "tokenward:{outlook:b-profile}", 2200);
    let redis = world.redis.as_ref().expect("Redis");
    assert_eq!(redis.cli(&["SET", "tokenward:{outlook:c-whole}", "rubbish"]), "OK");
    world.stop_and_restart().await;
    for pause in [false, true] {
        let answer = export(&world, &jwk, pause).await;
        assert_eq!(answer.status, 200, "{}\n{}", answer.text(), world.daemon.log());
        let page = answer.json();
        assert_eq!(
            (page["grants"].as_array().map(Vec::len), &page["left_out"]),
            (Some(1), &json!(3)),
            "{page}"
        );
    }
    assert_eq!(world.show("d-good").await["status"], "paused");
    let log = world.daemon.log();
    for name in ["a-grant", "b-profile", "c-whole"] {
        let told = |line: &str| line.contains("a stored record cannot be used") && line.contains(name);
        assert!(log.lines().any(told), "{name}: {log}");
    }
    let left_out = |line: &str| line.contains("left out of an export") && line.contains("a-grant");
    assert!(log.lines().any(left_out), "{log}");
    let done = world.asked(&["export", "--to", "jsonl", "--recipient", &public, "--yes"]);
    assert!(done.status.success() && out(&done).lines().count() == 1, "{}", err(&done));
    assert!(err(&done).contains("1 grants exported, 3 connections left out"), "{}", err(&done));
}
