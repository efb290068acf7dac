//! The operator's looks at callers, connections, sessions and hand-outs, with the real binary: what somebody on
//! call asks when a user quotes a reference, a tenant is blocked, or a token went where it should not.

use std::process::{Command, Stdio};
use std::time::Duration;

use entra_emulator::{CallbackPatch, Endpoint, Fault, FaultRule, RevokeKind};
use http::Method;
use rustix::process::{Pid, Resource, Rlimit, prlimit};
use serde_json::{Value, json};
use tokenward::domain::time::Timestamp;

use crate::attacks_connect::{session, up_to_callback};
use crate::http_client::Browser;
use crate::status::{err, out};
use crate::world::{
    ALICE, BOB, CLIENT_ID, CLIENT_SECRET, Kept, PERSONAL, Plan, SYNC, World, text, write_secret,
};

impl World {
    /// Runs a command that must succeed, and reads its JSON.
    pub(crate) fn printed(&self, arguments: &[&str]) -> Value {
        let ended = self.asked(arguments);
        assert!(ended.status.success(), "{arguments:?}: {}{}", out(&ended), err(&ended));
        serde_json::from_slice(&ended.stdout).unwrap_or_else(|error| panic!("{error}: {}", out(&ended)))
    }

    pub(crate) fn said(&self, arguments: &[&str]) -> String {
        let ended = self.asked(arguments);
        assert!(ended.status.success(), "{arguments:?}: {}{}", out(&ended), err(&ended));
        out(&ended)
    }
}

/// A user quotes what the page showed: the operator finds the session, with the reason, on every replica.
async fn a_quoted_reference(kept: Kept) {
    let world = Plan::default().kept(kept).start().await;
    let patch = CallbackPatch::Error {
        error: "access_denied".to_owned(),
        description: Some("AADSTS53003: canary-text".to_owned()),
        subcode: None,
    };
    world.entra.faults().inject(FaultRule::new(Endpoint::Authorize, Fault::CallbackPatch(patch)).once());
    let failed = session(&world, "team-b/failed", Value::Null).await;
    let mut browser = Browser::default();
    let url = up_to_callback(&mut browser, &failed).await;
    let page = browser.get(&url).await.expect("a page");
    let audit = std::fs::read_to_string(world.folder.path().join("audit.jsonl")).expect("an audit file");
    let record = audit
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).expect("JSON"))
        .find(|record| record["action"] == "connect_failed")
        .expect("a record");
    let request_id = text(&record, "request_id");
    // The page shows the whole id or its beginning.
    assert!(page.text().to_lowercase().contains(&request_id[..4]), "{}", page.text());

    // Others, which do not have it: one that works, one that nobody has opened.
    world.connect("team-b/alice", ALICE).await;
    let pending = session(&world, "team-b/pending", Value::Null).await;

    let quoted = format!("{}-{}", &request_id[..4], &request_id[4..8]).to_uppercase();
    for reference in [&*quoted, request_id] {
        let found = world.printed(&["sessions", "list", "--reference", reference, "--json"]);
        assert_eq!(found.as_array().map(Vec::len), Some(1), "{found}");
        let found = &found[0];
        assert_eq!((text(found, "connection"), text(found, "state")), ("team-b/failed", "failed"), "{found}");
        assert_eq!(
            (&found["error_codes"], text(found, "request_id")),
            (&json!([53003]), request_id),
            "{found}"
        );
        assert_eq!(found["session"], record["session"], "{found}");
        assert!(text(found, "started_at") <= text(found, "expires_at"), "{found}");
    }
    let shown = world.said(&["sessions", "list", "--reference", &quoted]);
    assert!(shown.contains("AADSTS53003") && shown.contains("What to do: "), "{shown}");
    // The link is nobody's but its user's.
    for session in [&failed, &pending] {
        assert!(!shown.contains(text(session, "id")) && !shown.contains("canary-text"), "{shown}");
    }

    let states = |filter: &[&str]| {
        let all = world.printed(&[&["sessions", "list", "--json"][..], filter].concat());
        let all = all.as_array().expect("a list").iter();
        let mut states: Vec<String> = all.map(|one| text(one, "state").to_owned()).collect();
        states.sort();
        states
    };
    assert_eq!(states(&[]), ["connected", "failed", "pending"]);
    assert_eq!(states(&["--state", "failed"]), ["failed"]);
    assert_eq!(states(&["outlook", "team-b/pending"]), ["pending"]);
    let table = world.said(&["sessions", "list"]);
    assert!(table.contains(&quoted) && table.contains("access_denied AADSTS53003"), "{table}");

    // Who looks for the connection that was to be is led here.
    let missing = world.asked(&["connections", "explain", "outlook", "team-b/failed"]);
    assert_eq!(missing.status.code(), Some(1));
    assert!(err(&missing).contains("tokenward sessions list outlook team-b/failed"), "{}", err(&missing));

    let unknown = world.asked(&["sessions", "list", "--reference", "0000-0000"]);
    assert_eq!(unknown.status.code(), Some(1));
    assert!(err(&unknown).contains(r#""request_id":"00000000"#), "{}", err(&unknown));
}

#[tokio::test]
async fn a_failed_sign_in_is_found_by_the_reference_that_its_user_quotes_embedded() {
    a_quoted_reference(Kept::Embedded).await;
}

#[tokio::test]
async fn a_failed_sign_in_is_found_by_the_reference_that_its_user_quotes_redis() {
    a_quoted_reference(Kept::Redis).await;
}

/// More than one page of sessions, of two callers: each is on exactly one page.
#[tokio::test]
async fn every_session_is_on_one_page() {
    let world = Plan::default().start().await;
    for number in 0..130 {
        session(&world, &format!("team-b/user-{number}"), Value::Null).await;
    }
    let listed = world.printed(&["sessions", "list", "--json"]);
    let listed = listed.as_array().expect("a list").iter();
    let names: std::collections::BTreeSet<String> =
        listed.clone().map(|one| text(one, "connection").to_owned()).collect();
    assert_eq!((listed.count(), names.len()), (130, 130));
}

#[tokio::test]
async fn connections_are_found_by_account_text_tenant_and_reason() {
    let world = Plan::default().start().await;
    for (name, user) in [("team-a/one", ALICE), ("team-b/two", BOB), ("team-b/three", PERSONAL)] {
        world.connect(name, user).await;
    }
    world.entra.revoke_user(BOB, RevokeKind::ConditionalAccess).expect("known");
    world.outlive_tokens();
    assert_eq!(world.token("team-b/two").await.status, 409);
    let two = world.show("team-b/two").await;
    let (tenant, oid) = (text(&two["account"], "tid"), text(&two["account"], "oid"));
    let names = |filter: &[&str]| {
        let all = world.printed(&[&["connections", "list", "outlook", "--json"][..], filter].concat());
        let all = all.as_array().expect("a list").iter();
        all.map(|one| text(one, "connection").to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(names(&["--text", "TEAM-B"]), ["team-b/three", "team-b/two"]);
    assert_eq!(names(&["--text", &BOB[..4].to_uppercase()]), ["team-b/two"]);
    assert_eq!(names(&["--account", &ALICE.to_uppercase()]), ["team-a/one"]);
    assert_eq!(names(&["--account", oid]), ["team-b/two"]);
    assert_eq!(names(&["--tenant", tenant]), ["team-b/two"]);
    assert_eq!(names(&["--reason", "policy_blocked"]), ["team-b/two"]);
    assert_eq!(names(&["--reason", "policy_blocked", "--text", "team-a"]), [""; 0]);
    assert_eq!(world.asked(&["connections", "list", "--reason", "policy_block"]).status.code(), Some(2));
}

/// Labels find a connection, and a renewal without labels leaves them.
#[tokio::test]
async fn connections_are_found_by_the_labels_that_their_session_gave_them() {
    let world = Plan::default().start().await;
    world.connect("team-a/one", ALICE).await;
    world.connect("team-a/two", ALICE).await;
    let renew = async |labels: Value| {
        let session = session(&world, "team-a/one", labels).await;
        world.sign_in(&mut Browser::default(), text(&session, "connect_url")).await;
        assert_eq!(world.session(text(&session, "id")).await["state"], "connected");
    };
    let names = |filter: &[&str]| {
        let all = world.printed(&[&["connections", "list", "outlook", "--json"][..], filter].concat());
        let all = all.as_array().expect("a list").iter();
        all.map(|one| text(one, "connection").to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(names(&["--label", "eu"]), [""; 0]);
    renew(json!({ "labels": ["team=sales", "eu"] })).await;
    for _ in 0..2 {
        assert_eq!(names(&["--label", "eu"]), ["team-a/one"]);
        assert_eq!(names(&["--text", "SALES"]), ["team-a/one"]);
        assert_eq!(world.show("team-a/one").await["labels"], json!(["team=sales", "eu"]));
        assert!(world.show("team-a/two").await.get("labels").is_none());
        renew(Value::Null).await;
    }
    renew(json!({ "labels": [] })).await;
    assert_eq!(names(&["--label", "eu"]), [""; 0]);
    let wrong = json!({ "app": "outlook", "connection": "team-a/one", "labels": ["two words"] });
    let refused = world.api(http::Method::POST, "/v1/connect-sessions", wrong).await;
    assert_eq!((refused.status.as_u16(), &refused.json()["parameter"]), (400, &json!("labels")));
}

#[tokio::test]
async fn an_explanation_says_until_when_callers_are_served_and_what_to_run() {
    let world = Plan::default().start().await;
    world.connect("team-b/alice", ALICE).await;
    let explain = ["connections", "explain", "outlook", "team-b/alice"];
    let works = world.said(&explain);
    assert!(
        works.contains("Nothing to do.") && works.contains("The token that is held lives until "),
        "{works}"
    );

    // The grant is dead, and the token that is held is served all the same.
    let held = world.printed(&[&explain[..], &["--json"]].concat());
    world.entra.revoke_user(ALICE, RevokeKind::GrantRevoked).expect("known");
    let refreshed = world.asked(&["connections", "refresh", "outlook", "team-b/alice"]);
    assert_eq!(refreshed.status.code(), Some(1), "{}", err(&refreshed));
    assert!(err(&refreshed).contains("needs_reauthorization ("), "{}", err(&refreshed));
    // It is not tried any more, and is as dead as before.
    let refreshed = world.asked(&["connections", "refresh", "outlook", "team-b/alice"]);
    assert_eq!(refreshed.status.code(), Some(1), "{}", err(&refreshed));
    for words in ["its user must sign in again", "connections reconnect-link outlook team-b/alice"] {
        assert!(err(&refreshed).contains(words), "{words}: {}", err(&refreshed));
    }
    let dead = world.said(&explain);
    let until = format!("Callers are served until {}, ", text(&held, "served_until"));
    assert!(dead.contains(&until), "{until}: {dead}");
    let config = world.folder.path().join("tokenward.toml");
    let command = "Run: tokenward connections reconnect-link outlook team-b/alice --config";
    assert!(dead.trim_end().ends_with(&format!("{command} {}", config.display())), "{dead}");
    assert!(dead.contains("AADSTS") && dead.contains("Make a reconnect link and send it to"), "{dead}");
    let path = "/v1/apps/outlook/connections/team-b%2Falice/explain";
    let of_caller = world.api(Method::GET, path, Value::Null).await.json();
    assert!(text(&of_caller, "advice").contains("Start a connect session"), "{of_caller}");
    assert_eq!(world.token("team-b/alice").await.status, 200, "as it said");

    world.outlive_tokens();
    let over = world.said(&explain);
    assert!(over.contains("Callers are not served: no token with life is held."), "{over}");

    let paused = world.asked(&["connections", "pause", "outlook", "team-b/alice"]);
    assert!(paused.status.success(), "{}", err(&paused));
    let paused = world.said(&explain);
    assert!(paused.contains("Run: tokenward connections resume outlook team-b/alice"), "{paused}");
    let refreshed = world.asked(&["connections", "refresh", "outlook", "team-b/alice"]);
    assert_eq!(refreshed.status.code(), Some(1), "{}", err(&refreshed));
    assert!(
        err(&refreshed).contains("tokenward connections resume outlook team-b/alice"),
        "{}",
        err(&refreshed)
    );
}

/// The store answered for another connection a moment before it was lost. That proves nothing of this one.
#[tokio::test]
async fn an_idle_connection_is_promised_no_more_than_a_lost_store_allows() {
    const SERVE_CACHED_FOR: Duration = Duration::from_secs(300);
    let mut world = Plan::default().kept(Kept::Redis).start().await;
    world.connect("idle", ALICE).await;
    world.connect("busy", BOB).await;
    world.access_token("idle").await;
    let pinged = || {
        let status = world.printed(&["status", "--json"]);
        let jobs = status["jobs"].as_array().expect("jobs");
        let ping = jobs.iter().find(|job| job["job"] == "store_ping").expect("the store is asked");
        Timestamp::parse_rfc3339(text(ping, "last_run_at"))
    };
    world.until("the store answers", async || pinged().is_some()).await;
    let ahead = pinged().map(|at| at.plus(Duration::from_secs(100)));
    world.pass(Duration::from_secs(120));
    world.until("the store answers later", async || pinged() > ahead).await;
    world.access_token("busy").await;
    world.redis.as_mut().expect("redis").stop();
    world
        .until("it is noticed", async || world.metrics().await.contains("tokenward_store_reachable 0"))
        .await;

    let explain = ["connections", "explain", "outlook", "idle"];
    let cached_until = world.printed(&[&explain[..], &["--json"]].concat());
    let cached_until = text(&cached_until, "cached_until").to_owned();
    let of_store = world.printed(&["status", "--json"]);
    let of_store = text(&of_store["store"], "cached_until").to_owned();
    assert!(!cached_until.is_empty() && cached_until < of_store, "{cached_until} {of_store}");
    let said = world.said(&explain);
    assert!(said.contains(&format!("Callers are served until {cached_until}, unless")), "{said}");
    assert_eq!(world.token("idle").await.status, 200, "as it said");

    world.pass(SERVE_CACHED_FOR - Duration::from_secs(110));
    world.until("its time is over", async || world.token("idle").await.status == 503).await;
    assert_eq!(world.token("busy").await.status, 200, "the store's last answer was about this one");
}

/// A full disk of the embedded store is called that, and not a store that is away.
#[tokio::test]
async fn a_delete_that_finds_the_disk_full_says_so_and_works_once_there_is_room() {
    let world = Plan::default().start().await;
    world.connect("user-1", ALICE).await;
    let limit = |bytes: Option<u64>| {
        let pid = Pid::from_raw(i32::try_from(world.daemon.pid()).expect("a pid"));
        prlimit(pid, Resource::Fsize, Rlimit { current: bytes, maximum: None }).expect("a limit");
    };
    let delete = ["connections", "delete", "outlook", "user-1", "--yes"];
    limit(Some(64));
    let refused = world.asked(&delete);
    assert_eq!(refused.status.code(), Some(1), "{}", err(&refused));
    for words in ["disk of tokenward's store has no room", "goes on without a restart"] {
        assert!(err(&refused).contains(words), "{words}: {}", err(&refused));
    }
    limit(None);
    let deleted = async || world.asked(&delete).status.success();
    world.until("there is room again", deleted).await;
    assert_eq!(world.token("user-1").await.status, 404);
}

/// A grant that works and one that cannot be tried, because the app's own secret is rejected.
#[tokio::test]
async fn a_refresh_says_whether_the_grant_or_the_app_is_at_fault() {
    let world = Plan::default().start().await;
    world.connect("one", ALICE).await;
    let refresh = ["connections", "refresh", "outlook", "one"];
    let works = world.asked(&refresh);
    assert!(works.status.success(), "{}", err(&works));
    assert!(err(&works).contains("The grant of one of app outlook works."), "{}", err(&works));
    world.entra.remove_secret(CLIENT_ID, CLIENT_SECRET).expect("removed");
    for _ in 0..2 {
        let refused = world.asked(&refresh);
        assert_eq!(refused.status.code(), Some(1), "{}", err(&refused));
        assert!(
            err(&refused).contains("could not be tried: the authority rejects the app's credential"),
            "{}",
            err(&refused)
        );
    }
}

/// An operator has no rules, and types names.
#[tokio::test]
async fn what_is_mistyped_is_told_to_an_operator_and_not_to_a_caller() {
    let world = Plan::default().start().await;
    let (key, public) = (world.folder.path().join("k"), world.folder.path().join("k.pub"));
    let (key, public) = (key.to_str().expect("UTF-8"), public.to_str().expect("UTF-8"));
    world.said(&["export", "--make-key", key]);
    let export = ["export", "--to", "jsonl", "--recipient", public, "--app", "outlok", "--yes"];
    for command in [&["connections", "list", "outlok"][..], &["forecast", "outlok"], &export] {
        let refused = world.asked(command);
        assert_eq!(refused.status.code(), Some(1), "{command:?}: {}", err(&refused));
        assert!(err(&refused).contains("there is no such app"), "{command:?}: {}", err(&refused));
        assert!(!err(&refused).contains("caller"), "{command:?}: {}", err(&refused));
    }
    for (command, words) in [
        (&["connections", "list", "--tenant", "contoso.example"][..], "is no tenant id"),
        (&["forecast", "--tenant", "contoso.example"], "is no tenant id"),
        (&["callers", "add-key", SYNC, "--expires-in", "0s"], "must be longer than 0"),
    ] {
        let refused = world.asked(command);
        assert_eq!(refused.status.code(), Some(2), "{command:?}: {}", err(&refused));
        assert!(err(&refused).contains(words), "{command:?}: {}", err(&refused));
    }
    for command in [["export", "--make-key", key], ["audit", "make-key", key]] {
        let refused = world.asked(&command);
        assert_eq!(refused.status.code(), Some(1), "{command:?}: {}", err(&refused));
        assert!(err(&refused).contains("exists, and a key is not overwritten"), "{}", err(&refused));
    }
    let none = world.asked(&["export", "--to", "jsonl", "--recipient", public, "--yes"]);
    assert!(err(&none).contains("0 grants exported.") && !err(&none).contains("left out"), "{}", err(&none));
}

#[tokio::test]
async fn the_audit_says_who_had_a_connection() {
    let world = Plan::default().start().await;
    world.connect("team-b/alice", ALICE).await;
    let who = ["audit", "who", "outlook", "team-b/alice"];
    assert!(world.said(&who).contains("No caller had a token of team-b/alice of app outlook"));
    for _ in 0..3 {
        assert_eq!(world.token("team-b/alice").await.status, 200);
    }
    let answer = world.printed(&[&who[..], &["--json"]].concat());
    assert_eq!(answer["callers"].as_array().map(Vec::len), Some(1), "{answer}");
    let had = &answer["callers"][0];
    assert_eq!((&had["times"], &had["doors"]), (&json!(3), &json!(["native"])), "{answer}");
    assert!(text(had, "first_at") < text(had, "last_at"), "{answer}");
    let name = text(had, "caller");

    // The same from files that logrotate packed, and beside a configuration that is being corrected.
    let live = world.folder.path().join("audit.jsonl");
    let packed = std::fs::File::create(world.folder.path().join("audit.jsonl.1.gz")).expect("a file");
    let mut gz = flate2::write::GzEncoder::new(packed, flate2::Compression::default());
    std::io::Write::write_all(&mut gz, &std::fs::read(&live).expect("read")).expect("packed");
    gz.finish().expect("packed");
    std::fs::write(&live, "").expect("emptied");
    let from_packed = world.printed(&[&who[..], &["--json"]].concat());
    assert_eq!(from_packed["callers"], answer["callers"], "{from_packed}");
    assert_eq!(from_packed["files"].as_array().map(Vec::len), Some(2), "{from_packed}");
    assert_eq!(world.token("team-b/alice").await.status, 200);
    let both = world.printed(&[&who[..], &["--json"]].concat());
    assert_eq!(both["callers"][0]["times"], 4, "{both}");
    let config = world.folder.path().join("tokenward.toml");
    let good = std::fs::read_to_string(&config).expect("a file");
    std::fs::write(&config, good.replace("response_mode", "responsemode")).expect("written");
    for command in [&who[..], &["callers", "list"], &["callers", "list-keys", text(had, "caller")]] {
        let ended = world.asked(command);
        assert_eq!(ended.status.code(), Some(0), "{command:?}: {}", err(&ended));
        assert_eq!(
            err(&ended).matches("warning: the configuration has mistakes (").count(),
            1,
            "{}",
            err(&ended)
        );
        assert!(out(&ended).contains(text(had, "caller")) || command[1] == "list-keys", "{}", out(&ended));
    }
    std::fs::write(&config, good).expect("written");

    // The same in the list of callers, whose key was used.
    let callers = world.printed(&["callers", "list", "--json"]);
    let row = callers.as_array().expect("a list").iter().find(|row| row["caller"] == name).expect("it");
    assert!(row["last_used_at"].is_string() && row["keys"] == 1, "{callers}");
    assert!(row["apps"].as_array().expect("apps").contains(&json!("outlook")), "{callers}");
    assert!(world.said(&["callers", "list"]).contains(name));
}

/// Each act prints with `--json` what the API answers, and nothing else.
#[tokio::test]
async fn acts_print_what_the_api_answers() {
    let world = Plan::default().app_lines("home_tenant = \"contoso.example\"").start().await;
    world.connect("one", ALICE).await;
    let one = |act: &'static str| {
        let more: &[&str] = if act == "delete" { &["--yes"] } else { &[] };
        world.printed(&[&["connections", act, "outlook", "one", "--json"][..], more].concat())
    };
    assert_eq!(one("pause")["status"], "paused");
    assert_eq!(one("resume")["status"], "active");
    let refreshed = one("refresh");
    assert_eq!((&refreshed["connection"], &refreshed["status"]), (&json!("one"), &json!("active")));
    assert_eq!(one("delete"), json!({ "app": "outlook", "connection": "one" }));
    assert_eq!(world.printed(&["store", "adopt", "--yes", "--json"]), json!({ "adopted": true }));
    world
        .until("it is taken", async || {
            world.asked(&["credentials", "promote", "outlook", "first"]).status.success()
        })
        .await;
    let promoted = world.printed(&["credentials", "promote", "outlook", "first", "--json"]);
    assert_eq!(promoted, json!({ "id": "first" }));
    let listed = world.printed(&["callers", "list-keys", "mail-sync", "--json"]);
    let id = text(&listed[0], "id");
    let retired = world.printed(&["callers", "retire-key", "mail-sync", id, "--json"]);
    assert_eq!(retired, json!({ "caller": "mail-sync", "id": id }));

    // Where there is no connection, an operator reads of no caller and no rule.
    for act in ["show", "explain", "refresh"] {
        let missing = world.asked(&["connections", act, "outlook", "nobody"]);
        assert_eq!(missing.status.code(), Some(1), "{}", err(&missing));
        let said = err(&missing);
        assert!(said.contains("tokenward sessions list outlook nobody") && !said.contains("rule"), "{said}");
    }
}

#[tokio::test]
async fn an_administrator_s_link_is_printed_with_what_they_will_see() {
    let world = Plan::default().start().await;
    let key = world.folder.path().join("cli.key");
    write_secret(&key, &world.key);
    let key = key.to_str().expect("UTF-8");
    let at = ["--key-file", key, "--endpoint", &world.daemon.local];
    let asked =
        world.asked(&[&["admin-consent", "outlook", "--tenant", "contoso.example"][..], &at].concat());
    assert!(asked.status.success(), "{}", err(&asked));
    let link = out(&asked);
    assert!(link.starts_with(&world.entra.base_url()) && link.contains("/adminconsent?"), "{link}");
    assert_eq!(link.lines().count(), 1, "{link}");
    // The link leaves nothing out; what the sign-in needs is no question for people.
    assert!(link.contains("offline_access") && link.contains("openid"), "{link}");
    for part in ["Mail.Read\n  Calendars.Read", "Cloud Application", "an administrator of contoso.example"] {
        assert!(err(&asked).contains(part), "{}", err(&asked));
    }
    assert!(!err(&asked).contains("offline_access"), "{}", err(&asked));

    let printed = world.printed(&[&["admin-consent", "outlook", "--json"][..], &at].concat());
    let path = format!("/v1/admin-consent-sessions/{}", text(&printed, "id"));
    let shown = world.api(http::Method::GET, &path, Value::Null);
    assert_eq!(shown.await.json()["state"], "pending");
    let wrong = world.asked(&[&["admin-consent", "outlook", "--tenant", "a b"][..], &at].concat());
    assert_eq!(wrong.status.code(), Some(1), "{}", err(&wrong));
}

/// Colours are for a terminal whose user did not ask for none. What a program reads has none.
#[tokio::test]
async fn colours_are_for_terminals_alone() {
    let world = Plan::default().start().await;
    world.connect("team-b/alice", ALICE).await;
    let list = ["connections", "list"];
    let seen = async |no_color: &str| {
        let (screen, terminal) = crate::status::terminal();
        let mut command = world.command(&list);
        command.env("TERM", "xterm").env("NO_COLOR", no_color).stdout(Stdio::from(terminal));
        let mut child = command.spawn().expect("it starts");
        drop(command);
        let read =
            || crate::status::read_until(screen, |shown| shown.contains("active") && shown.ends_with('\n'));
        let shown = tokio::task::spawn_blocking(read).await.expect("read");
        assert!(child.wait().expect("it ends").success());
        shown
    };
    let coloured = seen("").await;
    assert!(
        coloured.contains("\u{1b}[32mactive\u{1b}[0m") && coloured.contains("\u{1b}[1mAPP "),
        "{coloured:?}"
    );
    let plain = seen("1").await;
    assert!(plain.contains("  active  ") && !plain.contains('\u{1b}'), "{plain:?}");
    assert_eq!(plain.replace("\r\n", "\n"), world.said(&list));
}

/// Runs a script in a shell, if it is there.
fn in_shell(shell: &str, arguments: &[&str], script: &str) -> Option<String> {
    let mut command = Command::new(shell);
    command.args(arguments).arg("-c").arg(script).env("TOKENWARD", env!("CARGO_BIN_EXE_tokenward"));
    let ended = command.stdin(Stdio::null()).output().ok()?;
    let said = String::from_utf8_lossy(&ended.stderr);
    assert!(ended.status.success() && said.is_empty(), "{shell}: {said}");
    Some(String::from_utf8_lossy(&ended.stdout).into_owned())
}

#[test]
fn bash_completes_commands_options_and_values() {
    let complete = |words: &[&str]| {
        let words: Vec<String> = words.iter().map(|word| format!("'{word}'")).collect();
        let script = format!(
            ". <(\"$TOKENWARD\" completions bash)\nCOMP_WORDS=({})\nCOMP_CWORD=$((${{#COMP_WORDS[@]}} - 1))\n\
             _tokenward tokenward \"${{COMP_WORDS[COMP_CWORD]}}\" \"${{COMP_WORDS[COMP_CWORD-1]}}\"\nprintf '%s\\n' \
             \"${{COMPREPLY[@]}}\"",
            words.join(" ")
        );
        in_shell("bash", &["--norc"], &script).expect("bash is there")
    };
    let lines = |text: String| text.lines().map(str::to_owned).collect::<Vec<_>>();
    assert_eq!(lines(complete(&["tokenward", "conne"])), ["connect", "connections"]);
    assert_eq!(lines(complete(&["tokenward", "sessions", "list", "--ref"])), ["--reference"]);
    let states = lines(complete(&["tokenward", "sessions", "list", "--state", ""]));
    assert_eq!(states, ["pending", "awaiting_confirmation", "connected", "failed", "expired"]);
}

#[test]
fn zsh_and_fish_take_their_completions_where_they_are_there() {
    let folder = tempfile::tempdir().expect("a temp dir");
    let path = folder.path().display();
    let zsh = format!(
        "\"$TOKENWARD\" completions zsh > {path}/_tokenward; fpath=({path} $fpath); autoload -Uz compinit; compinit \
         -D -u; print -r -- $_comps[tokenward]"
    );
    if let Some(said) = in_shell("zsh", &["-f"], &zsh) {
        assert_eq!(said.trim(), "_tokenward");
    }
    let fish = "$TOKENWARD completions fish | source; complete -C 'tokenward sessions list --ref'";
    if let Some(said) = in_shell("fish", &["--no-config"], fish) {
        assert!(said.starts_with("--reference"), "{said}");
    }
}

#[test]
fn each_command_has_a_man_page_that_a_formatter_takes() {
    let folder = tempfile::tempdir().expect("a temp dir");
    let mut command = Command::new(env!("CARGO_BIN_EXE_tokenward"));
    let ended = command.arg("man").arg(folder.path()).output().expect("it ends");
    assert!(ended.status.success(), "{}", err(&ended));
    let pages = out(&ended);
    for name in ["tokenward.1", "tokenward-serve.1", "tokenward-connections-list.1", "tokenward-audit-who.1"]
    {
        let page = folder.path().join(name);
        assert!(pages.lines().any(|line| line == page.to_str().expect("UTF-8")), "{name}: {pages}");
        let text = std::fs::read_to_string(&page).expect(name);
        assert!(text.contains(".TH") && text.contains("tokenward "), "{text}");
    }
    let list = std::fs::read_to_string(folder.path().join("tokenward-sessions-list.1")).expect("a page");
    assert!(list.contains("9F86"), "its example: {list}");
    for page in pages.lines() {
        let Ok(formatted) = Command::new("groff").args(["-man", "-Kutf8", "-Tutf8", "-ww", page]).output()
        else {
            return;
        };
        assert!(formatted.status.success() && formatted.stderr.is_empty(), "{page}: {}", err(&formatted));
    }
    let nowhere = Command::new(env!("CARGO_BIN_EXE_tokenward"))
        .args(["man", "/dev/null/directory"])
        .output()
        .expect("it ends");
    assert_eq!(nowhere.status.code(), Some(1), "{}", err(&nowhere));
}

/// A person at a terminal reads plain lines; a supervisor reads JSON.
#[tokio::test]
async fn the_first_start_on_a_terminal_reads_as_plain_lines() {
    let folder = tempfile::tempdir().expect("a temp dir");
    let home = folder.path().join("t");
    let ports: Vec<String> = (0..3).map(|_| crate::redis_server::free_port().to_string()).collect();
    let made = Command::new(env!("CARGO_BIN_EXE_tokenward"))
        .arg("init")
        .arg(&home)
        .args(["--public-port", &ports[0], "--local-port", &ports[1], "--ops-port", &ports[2]])
        .args(["--client-id", "11111111-2222-3333-4444-555555555555"])
        .output()
        .expect("it ends");
    assert!(made.status.success(), "{}", err(&made));
    let config = home.join("tokenward.toml");
    let (screen, terminal) = crate::status::terminal();
    let mut child = Command::new(env!("CARGO_BIN_EXE_tokenward"))
        .args(["serve", "--config"])
        .arg(&config)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::from(terminal))
        .spawn()
        .expect("it starts");
    let last = format!("tokenward connect outlook NAME --config {}", config.display());
    let wanted = last.clone();
    let read = tokio::task::spawn_blocking(move || {
        crate::status::read_until(screen, |shown| shown.contains(&wanted))
    });
    let shown = tokio::time::timeout(Duration::from_secs(30), read).await.expect("in time").expect("read");
    child.kill().expect("a child of ours");
    child.wait().expect("it ends");
    for part in [
        format!("browsers   http://localhost:{} ", ports[0]),
        format!("http://127.0.0.1:{}/metrics", ports[2]),
        format!("redirect URI http://localhost:{}/callback/outlook", ports[0]),
        format!("unix:{}", home.join("run/tokenward.sock").display()),
        format!("embedded, in {}", home.join("data").display()),
        last,
    ] {
        assert!(shown.contains(&part), "{part}: {shown}");
    }
    assert!(!shown.contains("{\"timestamp\""), "{shown}");
}
