//! Import: grants that another system held become connections, each once, whatever is killed on the way.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::os::unix::process::ExitStatusExt as _;
use std::path::PathBuf;
use std::process::{Child, Output, Stdio};
use std::time::{Duration, Instant, UNIX_EPOCH};

use entra_emulator::{Endpoint, Fault, FaultRule, LedgerEntry, Mode, RevokeKind, User};
use http::Method;
use serde_json::{Map, Value, json};

use crate::attacks_rights::operate;
use crate::status::{err, out};
use crate::world::{ALICE, BOB, CLIENT_ID, Kept, Plan, READER, SYNC, World, alone, text, write_secret};

/// What the other system asked its users for.
const SCOPES: &str = "openid profile offline_access User.Read Mail.Read Calendars.Read";
const IMPORTS: &str = "/admin/v1/imports";
/// How long another process's call is left alone, and a little more.
pub(crate) const LEFT_ALONE: Duration = Duration::from_secs(61);

/// Where the emulator has Bob.
const BOBS_TENANT: &str = "22222222-0000-4000-8000-00000000000b";

/// An account as a refusal names it.
fn id(tenant: &str, user: &User) -> String {
    format!("tid={tenant} oid={}", user.object_id())
}

/// A grant that another system holds.
pub(crate) struct Foreign {
    pub(crate) connection: String,
    pub(crate) refresh_token: String,
}

impl Foreign {
    pub(crate) fn row(&self) -> Value {
        json!({ "app": "outlook", "connection": self.connection, "refresh_token": self.refresh_token })
    }
}

pub(crate) fn foreign(world: &World, connection: &str, user: &str) -> Foreign {
    let refresh_token = world.entra.foreign_grant(user, CLIENT_ID, SCOPES).expect("a grant");
    Foreign { connection: connection.to_owned(), refresh_token }
}

/// So many users, each with a grant of another system.
pub(crate) fn foreigners(world: &World, count: usize) -> Vec<Foreign> {
    let one = |number: usize| {
        let user = format!("user-{number}@contoso.example");
        world.entra.add_user(User::work(&user));
        foreign(world, &format!("moved/{number}"), &user)
    };
    (0..count).map(one).collect()
}

/// Writes rows into a file that only its owner reads.
pub(crate) fn written(world: &World, name: &str, rows: &[Value]) -> String {
    let text = rows.iter().fold(String::new(), |mut text, row| {
        let _ = writeln!(text, "{row}");
        text
    });
    let path: PathBuf = world.folder.path().join(name);
    write_secret(&path, &text);
    path.to_str().expect("UTF-8").to_owned()
}

/// Asks for the import of a grant, as the command does.
pub(crate) async fn import(world: &World, grant: &Foreign, more: Value) -> (u16, Value) {
    let mut body = grant.row();
    if let (Some(body), Some(more)) = (body.as_object_mut(), more.as_object()) {
        body.extend(more.clone());
    }
    let answer = operate(world, Method::POST, IMPORTS, body).await;
    (answer.status.as_u16(), answer.json())
}

fn members(value: Value) -> Map<String, Value> {
    value.as_object().cloned().expect("an object")
}

/// The refreshes that the authority was asked for.
pub(crate) fn refreshes(world: &World) -> Vec<LedgerEntry> {
    let all = world.entra.ledger().into_iter();
    all.filter(|entry| entry.grant_type.as_deref() == Some("refresh_token")).collect()
}

#[tokio::test]
async fn a_grant_of_another_system_is_proven_once_and_serves() {
    let world = Plan::default().start().await;
    let grant = foreign(&world, "moved/alice", ALICE);
    let (status, checked) = import(&world, &grant, json!({ "dry_run": true })).await;
    assert_eq!((status, &checked["outcome"]), (200, &json!("imported")), "{checked}");
    assert!(refreshes(&world).is_empty(), "a dry run uses nothing");
    let (status, imported) = import(&world, &grant, json!({ "labels": ["eu"] })).await;
    assert_eq!(status, 200, "{imported}");
    let user = User::work(ALICE);
    assert_eq!(imported["account"]["oid"], user.object_id());
    assert_eq!((&imported["outcome"], &imported["caller"]), (&json!("imported"), &json!(SYNC)));
    assert_eq!(refreshes(&world).len(), 1);

    // Served at once, with what the proof brought; who established it, and how, can be seen.
    let token = world.access_token("moved/alice").await;
    assert_eq!(world.graph(&token).await.status, 200);
    assert_eq!(refreshes(&world).len(), 1);
    let shown = world.show("moved/alice").await;
    assert_eq!((&shown["status"], &shown["established_by"]), (&json!("active"), &json!(SYNC)), "{shown}");
    assert_eq!(shown["labels"], json!(["eu"]));
    let explained = world.printed(&["connections", "explain", "outlook", "moved/alice", "--json"]);
    assert_eq!(explained["attempts"][0]["action"], "import", "{explained}");

    // The same request again does nothing; another name for the same grant is refused.
    let (status, again) = import(&world, &grant, Value::Null).await;
    assert_eq!((status, &again["outcome"]), (200, &json!("already_imported")), "{again}");
    let other = Foreign { connection: "moved/twice".to_owned(), refresh_token: grant.refresh_token.clone() };
    let (status, refused) = import(&world, &other, Value::Null).await;
    assert_eq!((status, &refused["reason"]), (409, &json!("imported_elsewhere")), "{refused}");
    assert_eq!(refreshes(&world).len(), 1);

    // Its successor is what is kept: the grant goes on by itself.
    world.outlive_tokens();
    world.access_token("moved/alice").await;
    let last = refreshes(&world).pop().expect("a refresh");
    assert_eq!(last.refresh_presented, refreshes(&world)[0].refresh_issued);

    // The audit has the act, and no log has the token.
    let audit = std::fs::read_to_string(world.folder.path().join("audit.jsonl")).expect("an audit file");
    let acts: Vec<Value> = audit
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).expect("JSON"))
        .filter(|record| record["detail"]["act"] == "import")
        .collect();
    let outcomes: Vec<&str> = acts.iter().map(|record| text(record, "outcome")).collect();
    assert_eq!(outcomes, ["ok", "ok", "import_refused"]);
    let log = world.daemon.log();
    assert!(!log.contains(&grant.refresh_token) && !audit.contains(&grant.refresh_token));
    let metrics = world.metrics().await;
    for line in [
        r#"tokenward_imports_total{app="outlook",outcome="imported"} 1"#,
        r#"tokenward_imports_total{app="outlook",outcome="import_refused"} 1"#,
        r#"tokenward_upstream_budget_total{cause="import",result="begun"} 1"#,
    ] {
        assert!(metrics.contains(line), "{line}: {metrics}");
    }
}

#[tokio::test]
async fn nothing_that_exists_is_overwritten_and_another_account_never() {
    let world = Plan::default().start().await;
    world.connect("taken", ALICE).await;
    let before = world.access_token("taken").await;
    world.entra.clear_ledger();
    let (own, others) = (foreign(&world, "taken", ALICE), foreign(&world, "taken", BOB));
    for grant in [&own, &others] {
        let (status, refused) = import(&world, grant, Value::Null).await;
        assert_eq!((status, &refused["reason"]), (409, &json!("connection_exists")), "{refused}");
    }
    assert!(refreshes(&world).is_empty(), "found out before the grant is used");
    let (status, refused) = import(&world, &others, json!({ "replace": true })).await;
    assert_eq!((status, &refused["reason"]), (409, &json!("account_mismatch")), "{refused}");
    let alice = User::work(ALICE);
    let (alice, bob) = (id(alice.tenant_id(), &alice), id(BOBS_TENANT, &User::work(BOB)));
    let both = format!("the connection is for the account {alice}, and the authority names {bob}");
    assert_eq!(text(&refused, "detail"), both);
    assert_eq!(world.access_token("taken").await, before);
    let (status, replaced) = import(&world, &own, json!({ "replace": true })).await;
    assert_eq!((status, &replaced["outcome"]), (200, &json!("replaced")), "{replaced}");
    assert_ne!(world.access_token("taken").await, before);

    // The other one's rotated token was kept: under another name it needs no second proof.
    let used = refreshes(&world).len();
    let moved = Foreign { connection: "bob".to_owned(), refresh_token: others.refresh_token };
    let (status, imported) = import(&world, &moved, Value::Null).await;
    assert_eq!((status, &imported["outcome"]), (200, &json!("imported")), "{imported}");
    assert_eq!(refreshes(&world).len(), used);
    assert_eq!(world.graph(&world.access_token("bob").await).await.status, 200);
}

#[tokio::test]
async fn a_refused_grant_says_why_and_makes_no_connection() {
    let world = Plan::default().start().await;
    let expected = |tid: &str, oid: &str| json!({ "account": { "tid": tid, "oid": oid } });
    let alice = User::work(ALICE);
    let dead = foreign(&world, "dead", ALICE);
    world.entra.revoke_user(ALICE, RevokeKind::GrantRevoked).expect("known");
    let (status, refused) = import(&world, &dead, Value::Null).await;
    assert_eq!((status, text(&refused, "code")), (409, "reauthorization_required"), "{refused}");
    assert_eq!(refused["error"], "invalid_grant", "{refused}");
    let grant = foreign(&world, "good", BOB);
    world.entra.clear_ledger();
    for (more, status, code, reason) in [
        (json!({ "client_id": "22222222-3333-4444-5555-666666666666" }), 409, "import_refused", "wrong_app"),
        (json!({ "caller": READER }), 403, "caller_forbidden", ""),
        (json!({ "caller": "nobody" }), 400, "invalid_request", ""),
        (json!({ "scopes": ["Mail.Send"] }), 400, "invalid_request", ""),
        (json!({ "app": "nothing" }), 404, "app_not_found", ""),
        (json!({ "connection": "a b" }), 400, "invalid_request", ""),
        (json!({ "refresh_token": "" }), 400, "invalid_request", ""),
        (json!({ "sekrit": 1 }), 400, "invalid_request", ""),
    ] {
        let (got, refused) = import(&world, &grant, more.clone()).await;
        assert_eq!((got, text(&refused, "code")), (status, code), "{more}: {refused}");
        assert_eq!(refused["reason"].as_str().unwrap_or_default(), reason, "{more}: {refused}");
    }
    assert!(refreshes(&world).is_empty(), "each is found out before the grant is used");

    // The authority's answer decides whose it is.
    let (status, refused) = import(&world, &grant, expected(alice.tenant_id(), alice.object_id())).await;
    assert_eq!((status, &refused["reason"]), (409, &json!("account_mismatch")), "{refused}");
    let (of_row, bob) = (id(alice.tenant_id(), &alice), id(BOBS_TENANT, &User::work(BOB)));
    let both = format!("the row is for the account {of_row}, and the authority names {bob}");
    assert_eq!(text(&refused, "detail"), both);
    // The operator who asks is told, and nobody who reads the log or the audit stream.
    let audit = std::fs::read_to_string(world.folder.path().join("audit.jsonl")).expect("an audit file");
    for place in [world.daemon.log(), audit] {
        assert!(!place.contains("is for the account"), "{place}");
    }
    // An answer without an id_token, or with one that is not to be believed.
    for (fault, reason) in [
        (Fault::TokenResponsePatch(members(json!({ "id_token": null }))), "no_account"),
        (Fault::IdTokenPatch(members(json!({ "aud": "another" }))), "answer_not_believed"),
    ] {
        let odd = foreign(&world, "odd", BOB);
        world.entra.faults().inject(FaultRule::new(Endpoint::Token, fault).once());
        let (status, refused) = import(&world, &odd, Value::Null).await;
        assert_eq!((status, &refused["reason"]), (409, &json!(reason)), "{refused}");
        let issued = refreshes(&world).pop().and_then(|entry| entry.refresh_issued);
        // Its refresh token was kept, and stands in for the one that was used up.
        let (status, imported) = import(&world, &odd, Value::Null).await;
        assert_eq!((status, &imported["outcome"]), (200, &json!("imported")), "{imported}");
        assert_eq!(refreshes(&world).pop().and_then(|entry| entry.refresh_presented), issued);
        operate(&world, Method::DELETE, "/admin/v1/apps/outlook/connections/odd", Value::Null).await;
    }
    for name in ["dead", "good"] {
        assert_eq!(world.token(name).await.status, 404, "{name}");
    }
}

/// A paused name stays paused, a deleted one is imported anew on an operator's word.
#[tokio::test]
async fn an_operators_pause_stands_and_a_delete_is_no_obstacle() {
    let world = Plan::default().start().await;
    let grant = foreign(&world, "alice", ALICE);
    assert_eq!(import(&world, &grant, Value::Null).await.0, 200);
    let path = "/admin/v1/apps/outlook/connections/alice";
    operate(&world, Method::PATCH, path, json!({ "paused": true })).await;
    operate(&world, Method::DELETE, path, Value::Null).await;
    let (status, refused) = import(&world, &grant, Value::Null).await;
    assert_eq!((status, text(&refused, "code")), (409, "connection_paused"), "{refused}");
    operate(&world, Method::PATCH, path, json!({ "paused": false })).await;
    let (status, imported) = import(&world, &grant, Value::Null).await;
    assert_eq!((status, &imported["outcome"]), (200, &json!("imported")), "{imported}");
    // The name is deleted while its grant is at the authority: the delete wins.
    operate(&world, Method::DELETE, path, Value::Null).await;
    let other = foreign(&world, "alice", ALICE);
    world.entra.faults().inject(FaultRule::new(Endpoint::Token, Fault::HoldAnswer).once());
    world.entra.clear_ledger();
    let (answer, ()) = tokio::join!(import(&world, &other, Value::Null), async {
        world.until_called("refresh_token", 1).await;
        operate(&world, Method::DELETE, path, Value::Null).await;
        world.entra.faults().release();
    });
    assert_eq!((answer.0, &answer.1["reason"]), (409, &json!("revoked")), "{}", answer.1);
    assert_eq!(world.token("alice").await.status, 404);
}

#[tokio::test]
async fn the_command_checks_asks_imports_and_reports_each_row_that_failed() {
    let world = Plan::default().start().await;
    world.connect("taken", ALICE).await;
    let mut grants = foreigners(&world, 6);
    let mut rows: Vec<Value> = grants.iter().map(Foreign::row).collect();
    rows.push(foreign(&world, "taken", ALICE).row());
    rows.push(json!({ "app": "outlook", "connection": "moved/0", "refresh_token": "another" }));
    rows.push(json!({ "app": "outlook", "connection": "moved/x", "refresh_token": grants[0].refresh_token }));
    rows.push(json!({ "app": "outlook", "connection": "unknown", "refresh_token": "canary-of-nobody" }));
    rows.push(json!({ "app": "outlook", "connection": "half" }));
    world.entra.clear_ledger();
    let file = written(&world, "grants.jsonl", &rows);
    let command = |more: &[&str]| {
        world.asked(&[&["import", "--from", "jsonl", &file, "--rate", "500"][..], more].concat())
    };

    let dry = command(&["--dry-run"]);
    assert_eq!(dry.status.code(), Some(1), "{}{}", out(&dry), err(&dry));
    assert!(
        err(&dry).contains("11 rows: 7 would be imported, 0 imported before, 4 failed."),
        "{}",
        err(&dry)
    );
    assert!(refreshes(&world).is_empty());
    let no = command(&[]);
    assert_eq!(no.status.code(), Some(1));
    assert!(err(&no).contains("nothing was imported") && refreshes(&world).is_empty(), "{}", err(&no));

    let done = command(&["--yes"]);
    assert_eq!(done.status.code(), Some(1), "{}{}", out(&done), err(&done));
    assert!(err(&done).contains("11 rows: 6 imported, 0 imported before, 5 failed."), "{}", err(&done));
    let mut failed: Vec<String> = out(&done).lines().map(str::to_owned).collect();
    failed.sort();
    for (line, begin) in failed.iter().zip([
        "row 10 outlook/unknown: ",
        "row 11: invalid_row: ",
        "row 7 outlook/taken: connection_exists: ",
        "row 8 outlook/moved/0: duplicate: row 1 has the same connection",
        "row 9 outlook/moved/x: duplicate: row 1 has the same grant",
    ]) {
        assert!(line.starts_with(begin), "{begin}: {failed:?}");
    }
    assert_eq!(failed.len(), 5, "{failed:?}");
    for grant in &grants {
        world.access_token(&grant.connection).await;
    }

    // Again: nothing is done twice, and what failed is tried again.
    world.entra.clear_ledger();
    let again = command(&["--yes", "--json", "--replace"]);
    assert_eq!(again.status.code(), Some(1), "{}", err(&again));
    let lines: Vec<Value> =
        out(&again).lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    let counts = lines.last().expect("the counts");
    assert_eq!(*counts, json!({ "rows": 11, "done": 1, "before": 6, "deleted": 0, "failed": 4, "left": 0 }));
    assert_eq!(refreshes(&world).len(), 2, "the one that is replaced, and the unknown one");
    let all = format!("{}{}{}{}", out(&done), err(&done), out(&again), err(&again));
    let ledger = std::fs::read_to_string(format!("{file}.imported")).expect("the ledger");
    grants.push(Foreign { connection: String::new(), refresh_token: "canary-of-nobody".to_owned() });
    for grant in &grants {
        for text in [&all, &ledger, &world.daemon.log()] {
            assert!(!text.contains(&grant.refresh_token));
        }
    }

    // A file that others can read is refused.
    let open = std::os::unix::fs::PermissionsExt::from_mode(0o644);
    std::fs::set_permissions(&file, open).expect("chmod");
    let refused = command(&["--dry-run"]);
    assert_eq!(refused.status.code(), Some(2), "{}", err(&refused));
    assert!(err(&refused).contains("chmod"), "{}", err(&refused));
}

/// While the authority throttles, the daemon sends it no grant of the app, whoever asks; and the command is
/// slower afterwards and loses nothing.
#[tokio::test]
async fn a_throttled_authority_slows_the_import_down_and_loses_nothing() {
    let mut world = Plan::default().start().await;
    let grants = foreigners(&world, 30);
    let throttled = FaultRule::new(Endpoint::Token, Fault::status_retry_after(429, 300)).once();
    world.entra.faults().inject(throttled);
    for grant in &grants[..2] {
        let answer = operate(&world, Method::POST, IMPORTS, grant.row()).await;
        let wait = answer.headers.get("retry-after").and_then(|wait| wait.to_str().ok()?.parse::<u64>().ok());
        assert_eq!((answer.status.as_u16(), text(&answer.json(), "code")), (503, "authority_unavailable"));
        assert!(wait.is_some_and(|wait| (240..=300).contains(&wait)), "{wait:?}: {}", answer.text());
    }
    assert_eq!(refreshes(&world).len(), 1, "the second one was not sent");
    // A daemon that starts knows nothing of it.
    world.stop_and_restart().await;
    world.entra.clear_ledger();

    let rows: Vec<Value> = grants.iter().map(Foreign::row).collect();
    let file = written(&world, "grants.jsonl", &rows);
    for (fault, times) in [(Fault::status_retry_after(429, 1), 3), (Fault::status(503), 3)] {
        world.entra.faults().inject(FaultRule::new(Endpoint::Token, fault).times(times));
    }
    let done = world.asked(&["import", "--from", "jsonl", &file, "--rate", "200", "--yes"]);
    assert!(done.status.success(), "{}{}", out(&done), err(&done));
    assert!(err(&done).contains("30 rows: 30 imported"), "{}", err(&done));
    assert!(err(&done).contains("more slowly"), "{}", err(&done));
    let calls = refreshes(&world);
    assert_eq!(calls.len(), 36, "each refusal cost one call, and no grant was used twice");
    // Between a 429 and its second there is nothing but what was under way with it.
    let at = |entry: &LedgerEntry| entry.time.duration_since(UNIX_EPOCH).expect("a time").as_millis();
    let refused = calls.iter().find(|entry| entry.status == Some(429)).and_then(|entry| entry.ended);
    let refused = refused.and_then(|ended| ended.duration_since(UNIX_EPOCH).ok()).expect("one was refused");
    let within =
        |entry: &&LedgerEntry| (refused.as_millis() + 50..refused.as_millis() + 950).contains(&at(entry));
    let in_between = calls.iter().filter(within).count();
    assert!(in_between <= 8, "{in_between}");
}

/// The import of a file, which is killed now and then.
fn begin(world: &World, file: &str, rate: &str) -> Child {
    let arguments = ["import", "--from", "jsonl", file, "--rate", rate, "--yes", "--json"];
    let mut command = world.command(&arguments);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
    command.spawn().expect("it starts")
}

/// What a command printed at its end: the counts, and why rows failed, by connection.
fn report(ended: &Output) -> (Value, BTreeMap<String, String>) {
    let text = out(ended);
    let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    let (counts, failed) = lines.split_last().unwrap_or_else(|| panic!("{ended:?}"));
    let failed = failed.iter().map(|row| (text_of(row, "connection"), text_of(row, "reason"))).collect();
    (counts.clone(), failed)
}

/// The lines of the command's own file.
fn noted(file: &str) -> usize {
    std::fs::read_to_string(format!("{file}.imported")).map_or(0, |text| text.lines().count())
}

/// What a drill found.
struct Drilled {
    counts: Value,
    failed: BTreeMap<String, String>,
    /// How often the daemon was killed, and how often a command that was under way.
    kills: (usize, usize),
    took: Duration,
}

/// Imports so many grants while command and daemon are killed again and again. `rate` is grants a second.
async fn drill(world: &mut World, grants: &[Foreign], kills: usize, rate: usize) -> Drilled {
    let begun = Instant::now();
    let rows: Vec<Value> = grants.iter().map(Foreign::row).collect();
    let file = written(world, "grants.jsonl", &rows);
    let rate_text = rate.to_string();
    let mut command = begin(world, &file, &rate_text);
    let mut killed = (0, 0);
    // A kill for each part of the rows: of the daemon, of the command, of both.
    for kill in 0..kills {
        let goal = grants.len() * (kill + 1) / (kills + 1);
        while noted(&file) < goal {
            if let Some(status) = command.try_wait().expect("a child") {
                panic!("it ended before row {goal}: {status} {:?}", command.wait_with_output());
            }
            tokio::time::sleep(Duration::from_millis(3)).await;
        }
        if kill % 3 != 1 {
            world.daemon.kill();
            // (Another process's calls are left alone for a while, where the store is shared.)
            world.pass(LEFT_ALONE);
            killed.0 += 1;
        }
        if kill % 3 != 0 {
            let _ = command.kill();
            // A command that had ended by itself was not killed.
            let was_killed = command.wait().is_ok_and(|status| status.signal().is_some());
            killed.1 += usize::from(was_killed);
        }
        if kill % 3 != 1 {
            world.kill_and_restart().await;
        }
        if kill % 3 != 0 {
            command = begin(world, &file, &rate_text);
        }
    }
    let _ended = command.wait_with_output().expect("it ends");
    // Once more, for what a killed command left.
    let last = begin(world, &file, &rate_text).wait_with_output().expect("it ends");
    let (counts, failed) = report(&last);
    Drilled { counts, failed, kills: killed, took: begun.elapsed() }
}

fn text_of(row: &Value, member: &str) -> String {
    row[member].as_str().unwrap_or_default().to_owned()
}

/// Each grant is one connection, and works; the report has each that is not, and no other.
async fn assert_each_is_there_once(world: &World, grants: &[Foreign], drilled: &Drilled) {
    let Drilled { counts, failed, kills, took } = drilled;
    let (of_daemon, of_command) = kills;
    eprintln!(
        "{} grants, {of_daemon} kills of the daemon, {of_command} of the command, {took:?}: {counts}, failed: \
         {failed:?}",
        grants.len()
    );
    let listed = world.printed(&["connections", "list", "outlook", "--json"]);
    let names: Vec<String> =
        listed.as_array().expect("a list").iter().map(|one| text_of(one, "connection")).collect();
    let unique: BTreeSet<&String> = names.iter().collect();
    assert_eq!(names.len(), unique.len());
    for grant in grants {
        let (is_there, is_failed) =
            (unique.contains(&grant.connection), failed.contains_key(&grant.connection));
        assert!(is_there != is_failed, "{}: there {is_there}, failed {is_failed}", grant.connection);
    }
    assert_eq!(counts["rows"], grants.len());
    assert_eq!(counts["left"], 0);
    assert_eq!(counts["failed"], failed.len());
    assert_eq!(
        counts["done"].as_u64().unwrap_or_default() + counts["before"].as_u64().unwrap_or_default(),
        (grants.len() - failed.len()) as u64
    );
    // What is stored works: each grant is used once more.
    world.outlive_tokens();
    for grant in grants.iter().filter(|grant| !failed.contains_key(&grant.connection)) {
        let answer = world.token(&grant.connection).await;
        assert_eq!(answer.status, 200, "{}: {}", grant.connection, answer.text());
    }
}

async fn drilled(kept: Kept, mode: Mode, count: usize, kills: usize, rate: usize) -> Drilled {
    let _alone = alone().await;
    let mut world = Plan::default().kept(kept).mode(mode).start().await;
    std::fs::write(world.folder.path().join("sweep"), (rate * 2).min(1000).to_string()).expect("write");
    world.kill_and_restart().await;
    let grants = foreigners(&world, count);
    let drilled = drill(&mut world, &grants, kills, rate).await;
    // Each third kill is of one of them alone.
    let of_one = kills - kills / 3;
    assert_eq!(drilled.kills.0, of_one, "of the daemon");
    assert!(drilled.kills.1 + 1 >= of_one && drilled.kills.1 > 0, "of the command: {}", drilled.kills.1);
    assert_each_is_there_once(&world, &grants, &drilled).await;
    drilled
}

/// At Entra a used refresh token still works, so a kill loses nothing.
#[tokio::test]
async fn hundreds_of_grants_are_imported_once_each_while_daemon_and_command_are_killed_embedded() {
    let drilled = drilled(Kept::Embedded, Mode::Entra, 300, 12, 200).await;
    assert!(drilled.failed.is_empty(), "{:?}", drilled.failed);
}

#[tokio::test]
async fn hundreds_of_grants_are_imported_once_each_while_daemon_and_command_are_killed_redis() {
    let drilled = drilled(Kept::Redis, Mode::Entra, 200, 6, 200).await;
    assert!(drilled.failed.is_empty(), "{:?}", drilled.failed);
}

/// Where a refresh token works once, what a killed daemon had not stored is lost, and is reported as lost;
/// nothing else is.
#[tokio::test]
async fn where_a_refresh_token_works_once_a_lost_answer_is_reported_and_nothing_else() {
    const LOST: usize = 5;
    let mut world = Plan::default().mode(Mode::Strict).start().await;
    let grants = foreigners(&world, 20);
    let rows: Vec<Value> = grants.iter().map(Foreign::row).collect();
    let file = written(&world, "grants.jsonl", &rows);
    let held = FaultRule::new(Endpoint::Token, Fault::HoldAnswer).skip(3).times(LOST as u32);
    world.entra.faults().inject(held);
    let command = begin(&world, &file, "500");
    world.until_called("refresh_token", 20).await;
    world.until("the others are imported", async || noted(&file) == 20 - LOST).await;
    world.daemon.kill();
    world.entra.faults().release();
    world.kill_and_restart().await;
    let ended = command.wait_with_output().expect("it ends");
    let (counts, failed) = report(&ended);
    assert_eq!(failed.len(), LOST, "{failed:?}");
    assert!(failed.values().all(|reason| reason == "grant_lost"), "{failed:?}");
    assert_eq!(
        counts,
        json!({ "rows": 20, "done": 20 - LOST, "before": 0, "deleted": 0, "failed": LOST, "left": 0 })
    );
    for grant in &grants {
        let expected = if failed.contains_key(&grant.connection) { 404 } else { 200 };
        assert_eq!(world.token(&grant.connection).await.status, expected, "{}", grant.connection);
    }
}

/// `make import-drill`
#[tokio::test]
#[ignore = "minutes; `make import-drill`"]
async fn ten_thousand_grants_are_imported_once_each_while_daemon_and_command_are_killed() {
    let drilled = drilled(Kept::Embedded, Mode::Entra, 10_000, 120, 900).await;
    assert!(drilled.failed.is_empty(), "{:?}", drilled.failed);
}

/// Grants go out sealed to a key, with a record each, and come in again at another installation.
#[tokio::test]
async fn what_is_exported_is_sealed_and_can_be_imported_again() {
    let world = Plan::default().start().await;
    for (name, user) in [("team/alice", ALICE), ("bob", BOB)] {
        world.connect(name, user).await;
    }
    let path = |name: &str| world.folder.path().join(name).to_str().expect("UTF-8").to_owned();
    let (key, public) = (path("export.jwk"), path("export.jwk.pub"));
    world.said(&["export", "--make-key", &key]);
    let again = world.asked(&["export", "--make-key", &key]);
    assert_eq!(again.status.code(), Some(1), "an existing key is not overwritten");
    let unasked = world.asked(&["export", "--to", "jsonl", "--recipient", &public]);
    assert!(unasked.status.code() == Some(1) && out(&unasked).is_empty(), "{}", err(&unasked));
    let exported = world.asked(&["export", "--to", "jsonl", "--recipient", &public, "--pause", "--yes"]);
    assert!(exported.status.success(), "{}", err(&exported));
    let sealed = out(&exported);
    assert_eq!(sealed.lines().count(), 2, "{sealed}");
    for (kind, secret) in world.entra.issued_secrets() {
        assert!(!sealed.contains(&secret), "{kind}");
    }
    assert_eq!(world.show("bob").await["status"], "paused");
    let audit = std::fs::read_to_string(world.folder.path().join("audit.jsonl")).expect("an audit file");
    let acts = audit.lines().filter(|line| line.contains(r#""act":"export""#)).count();
    assert_eq!(acts, 2, "{audit}");

    // A public key that others could change is not believed.
    let open = std::os::unix::fs::PermissionsExt::from_mode(0o666);
    std::fs::set_permissions(&public, open).expect("chmod");
    let refused = world.asked(&["export", "--to", "jsonl", "--recipient", &public, "--yes"]);
    assert!(refused.status.code() == Some(2) && out(&refused).is_empty(), "{}", err(&refused));

    // The names are free again, and the grants come back; without the key they do not.
    for name in ["team%2Falice", "bob"] {
        let connection = format!("/admin/v1/apps/outlook/connections/{name}");
        operate(&world, Method::DELETE, &connection, Value::Null).await;
        operate(&world, Method::PATCH, &connection, json!({ "paused": false })).await;
    }
    let file = path("grants.jsonl");
    write_secret(&PathBuf::from(&file), &sealed);
    let closed = world.asked(&["import", "--from", "jsonl", &file, "--yes"]);
    assert_eq!(closed.status.code(), Some(1), "{}", err(&closed));
    assert!(out(&closed).contains("is sealed: --source-key-file names the private key"), "{}", out(&closed));
    let command = ["import", "--from", "jsonl", &file, "--source-key-file", &key, "--yes"];
    assert!(world.asked(&command).status.success(), "{}", err(&world.asked(&command)));
    for name in ["team/alice", "bob"] {
        let token = world.access_token(name).await;
        assert_eq!(world.graph(&token).await.status, 200, "{name}");
    }
}
