//! What lists, and other requests that read many connections, read and reveal: only what the caller may see.

use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixListener;
use std::time::Instant;

use entra_emulator::User;
use http::Method;
use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::attacks_connect::{parameter, press};
use crate::attacks_rights::{TEAM_A, harness, reconfigure, with_harness};
use crate::http_client::{Answer, Browser, request, request_unix};
use crate::world::{ALICE, BOB, Kept, Plan, World, text};

const BOBS_TENANT: &str = "22222222-0000-4000-8000-00000000000b";
/// A tenant of which there is nobody.
const NOBODYS_TENANT: &str = "33333333-0000-4000-8000-00000000000c";
const NOBODY: &str = "00000000-0000-4000-8000-0000000000ff";
const LIST: &str = "/v1/apps/outlook/connections";
const ADMIN_LIST: &str = "/admin/v1/apps/outlook/connections";
const EVERYTHING: &str = "connections = [\"*\"]\nbulk = true\nscopes = [\"*\"]\nconnect = true";

/// How often Redis has been asked these.
fn asked(world: &World, commands: &[&str]) -> u64 {
    let statistics = world.redis.as_ref().expect("Redis").cli(&["INFO", "commandstats"]);
    let calls = |line: &str| {
        let (command, rest) = line.strip_prefix("cmdstat_")?.split_once(":calls=")?;
        commands.contains(&command).then(|| rest.split(',').next()?.parse::<u64>().ok())?
    };
    statistics.lines().filter_map(calls).sum()
}

async fn get(world: &World, key: &str, path: &str) -> Answer {
    world.api_as(key, Method::GET, path, Value::Null).await
}

async fn start(world: &World, key: &str, connection: &str, tenant: &str) -> Answer {
    let body = json!({ "app": "outlook", "connection": connection, "prompt": "consent",
        "account": { "tid": tenant, "oid": NOBODY } });
    world.api_as(key, Method::POST, "/v1/connect-sessions", body).await
}

/// Starts an admin consent session for a tenant, and forges its redirect. The path where it is polled.
async fn report(world: &World, key: &str, tenant: &str) -> String {
    let body = json!({ "app": "outlook", "tenant": tenant });
    let started = world.api_as(key, Method::POST, "/v1/admin-consent-sessions", body).await;
    assert_eq!(started.status, 201, "{}", started.text());
    let started = started.json();
    let state = parameter(text(&started, "admin_consent_url"), "state");
    let redirect =
        format!("{}/callback/outlook?admin_consent=True&tenant={tenant}&state={state}", world.base_url());
    assert_eq!(Browser::default().get(&redirect).await.expect("a page").status, 200);
    format!("/v1/admin-consent-sessions/{}", text(&started, "id"))
}

#[tokio::test]
async fn a_caller_without_connections_has_nobody_elses_read() {
    let rules = "connections = [\"a-one\", \"a-two\"]\nscopes = [\"*\"]\nconnect = true";
    let (world, key) = with_harness(Plan::default().kept(Kept::Redis), rules).await;
    for (connection, user) in [("alice", ALICE), ("a-bob", BOB), ("zoe", ALICE)] {
        world.connect(connection, user).await;
    }
    let all = get(&world, &world.key, LIST).await.json();
    assert_eq!(all["connections"].as_array().map(Vec::len), Some(3), "{all}");

    let (ranges, records) = (asked(&world, &["zrangebylex"]), asked(&world, &["get", "getrange"]));
    for _ in 0..50 {
        let listed = get(&world, &key, LIST).await;
        assert_eq!((listed.status.as_u16(), listed.json()), (200, json!({ "connections": [] })));
    }
    // (What runs by itself asks now and then, too: the slower the machine, the more often meanwhile.)
    let (ranges, records) =
        (asked(&world, &["zrangebylex"]) - ranges, asked(&world, &["get", "getrange"]) - records);
    assert!(ranges < 50, "the app's names were read {ranges} times for 50 lists");
    assert!(records >= 100, "two names were looked up 50 times with {records} reads");
    world.connect("a-one", ALICE).await;
    let listed = get(&world, &key, LIST).await.json();
    assert_eq!(listed["connections"][0]["connection"], "a-one", "{listed}");
    assert_eq!(listed["connections"].as_array().map(Vec::len), Some(1), "{listed}");
}

#[tokio::test]
async fn a_caller_that_walks_more_than_it_may_is_told_to_come_again() {
    let rules = format!("connections = [\"tenant:{BOBS_TENANT}\"]\nscopes = [\"*\"]");
    let (world, key) = with_harness(Plan::default().kept(Kept::Redis), &rules).await;
    world.connect("bob", BOB).await;
    let redis = world.redis.as_ref().expect("Redis");
    redis.pause();
    let mut lists = JoinSet::new();
    for number in 0..10 {
        let (url, of_another) = (format!("{}{LIST}", world.daemon.local), number == 9);
        let bearer = format!("Bearer {}", if of_another { &world.key } else { &key });
        lists.spawn(async move {
            let headers = [("authorization", bearer.as_str())];
            let answer = request(Method::GET, &url, &headers, String::new()).await;
            (of_another, answer.expect("an answer"))
        });
    }
    let mut refused = 0;
    while let Some(answer) = lists.join_next().await {
        let (of_another, answer) = answer.expect("a list");
        let problem = answer.json();
        if answer.status == 429 {
            assert!(!of_another, "another caller has places of its own: {problem}");
            assert_eq!((&problem["code"], &problem["retry_after"]), (&json!("rate_limited"), &json!(1)));
            assert_eq!(answer.headers["retry-after"], "1");
            refused += 1;
        } else {
            assert_eq!((answer.status.as_u16(), text(&problem, "code")), (503, "store_unavailable"));
        }
    }
    redis.resume();
    assert!(refused >= 5, "{refused} of nine were told to come again");
    world.until("it is served again", async || get(&world, &key, LIST).await.status == 200).await;
    let listed = get(&world, &key, LIST).await.json();
    assert_eq!(listed["connections"][0]["connection"], "bob", "{listed}");
}

/// Operators' lists have two places for all of them, and leave callers theirs.
#[tokio::test]
async fn operators_that_walk_more_than_they_may_are_told_to_come_again() {
    let world = Plan::default().kept(Kept::Redis).start().await;
    world.connect("bob", BOB).await;
    let redis = world.redis.as_ref().expect("Redis");
    redis.pause();
    let mut lists = JoinSet::new();
    for number in 0..10 {
        let socket = world.folder.path().join("admin.sock");
        let (url, bearer) = (format!("{}{LIST}", world.daemon.local), format!("Bearer {}", world.key));
        lists.spawn(async move {
            let answer = match number {
                9 => request(Method::GET, &url, &[("authorization", bearer.as_str())], "").await,
                _ => request_unix(&socket, Method::GET, &format!("{ADMIN_LIST}?text=b"), &[], "").await,
            };
            (number == 9, answer.expect("an answer"))
        });
    }
    let mut refused = 0;
    while let Some(answer) = lists.join_next().await {
        let (of_a_caller, answer) = answer.expect("a list");
        let problem = answer.json();
        if answer.status == 429 {
            assert!(!of_a_caller, "callers have places of their own: {problem}");
            assert_eq!((&problem["code"], &problem["retry_after"]), (&json!("rate_limited"), &json!(1)));
            refused += 1;
        } else {
            assert_eq!((answer.status.as_u16(), text(&problem, "code")), (503, "store_unavailable"));
        }
    }
    assert!(refused >= 5, "{refused} of nine were told to come again");
    redis.resume();
    let socket = world.folder.path().join("admin.sock");
    let list = async || {
        let path = format!("{ADMIN_LIST}?text=BOB");
        request_unix(&socket, Method::GET, &path, &[], "").await.expect("an answer")
    };
    world.until("it is served again", async || list().await.status == 200).await;
    let listed = list().await.json();
    assert_eq!(listed["connections"][0]["connection"], "bob", "{listed}");
}

#[tokio::test]
async fn a_command_comes_again_for_a_page_that_found_no_place() {
    const PLACELESS: &str = r#"{"status":429,"code":"rate_limited","title":"Too many","retry_after":0}"#;
    const PAGE: &str = r#"{"connections":[],"next_cursor":"c"}"#;
    const LAST: &str = r#"{"connections":[]}"#;
    let world = Plan::default().start().await;
    let socket = world.folder.path().join("busy.sock");
    let busy = UnixListener::bind(&socket).expect("a socket");
    let daemon = std::thread::spawn(move || {
        let answers = [("200", PAGE), ("429", PLACELESS), ("429", PLACELESS), ("200", LAST)];
        answers.map(|(status, body)| {
            let (mut caller, _) = busy.accept().expect("a connection");
            let mut head = [0; 4096];
            let read = caller.read(&mut head).expect("a request");
            let answer = format!("HTTP/1.1 {status} X\r\ncontent-length: {}\r\n\r\n{body}", body.len());
            caller.write_all(answer.as_bytes()).expect("written");
            let head = String::from_utf8_lossy(&head[..read]).into_owned();
            head.lines().next().unwrap_or_default().to_owned()
        })
    });
    let endpoint = format!("unix:{}", socket.display());
    let list = ["connections", "list", "outlook", "--text", "b", "--json", "--endpoint", &endpoint];
    let ended = world.asked(&list);
    assert_eq!(ended.status.code(), Some(0), "{}", String::from_utf8_lossy(&ended.stderr));
    let asked = daemon.join().expect("each was asked for");
    assert!(!asked[0].contains("cursor="), "{asked:?}");
    assert!(asked[1].contains("cursor=c") && asked[1..].iter().all(|one| *one == asked[1]), "{asked:?}");
}

#[tokio::test]
async fn sessions_that_are_refused_look_at_no_connection_and_others_share_a_look() {
    let limits = "[limits]\nopen_sessions = 20";
    let (world, key) = with_harness(Plan::default().kept(Kept::Redis).sections(limits), EVERYTHING).await;
    world.connect("alice", ALICE).await;
    let begun = (Instant::now(), asked(&world, &["zrangebylex"]));
    let looks = || (begun.0.elapsed().as_secs() / 2 + 12, asked(&world, &["zrangebylex"]) - begun.1);
    for number in 0..40 {
        let tenant = format!("44444444-0000-4000-8000-0000000000{number:02}");
        let answer = start(&world, &key, &format!("made-up-{number}"), &tenant).await;
        assert_eq!(answer.status, if number < 20 { 201 } else { 429 }, "{}", answer.text());
    }
    let (most, taken) = looks();
    assert!(taken <= most, "{taken} looks at all connections for 20 sessions and 20 refusals");

    let path = report(&world, &key, NOBODYS_TENANT).await;
    for _ in 0..60 {
        let state = get(&world, &key, &path).await.json();
        assert_eq!(state["state"], "reported", "{state}");
    }
    let (most, taken) = looks();
    assert!(taken <= most, "{taken} looks at all connections, 60 polls later");
}

/// A tenant with a connection that the caller may not see is to it as a tenant without one.
#[tokio::test]
async fn which_tenants_are_connected_is_told_by_connections_that_the_caller_may_see() {
    let alices = User::work(ALICE).tenant_id().to_owned();
    let own = |more: &str| format!("connections = [\"own\"{more}]\nscopes = [\"*\"]\nconnect = true");
    let matrix = [
        (TEAM_A.to_owned(), "team-a/own", vec![BOBS_TENANT]),
        (own(""), "own", vec![]),
        (own(&format!(", \"tenant:{alices}\"")), "own", vec![alices.as_str()]),
        (EVERYTHING.to_owned(), "own", vec![alices.as_str(), BOBS_TENANT]),
    ];
    let (world, key) = with_harness(Plan::default(), TEAM_A).await;
    world.connect("alice", ALICE).await;
    world.connect("team-a/bob", BOB).await;

    // Nobody's connection is called for a caller that may not see it.
    for tenant in [NOBODYS_TENANT, alices.as_str()] {
        report(&world, &key, tenant).await;
    }
    let path = report(&world, &key, BOBS_TENANT).await;
    world
        .until("consent is proven", async || get(&world, &key, &path).await.json()["state"] == "consented")
        .await;
    assert_eq!(world.token_calls("refresh_token"), 1, "the one that it may see");

    let mut before = TEAM_A.to_owned();
    for (rules, name, sees) in matrix {
        reconfigure(&world, &harness(&before), &harness(&rules)).await;
        before = rules.clone();
        world.pass(std::time::Duration::from_secs(61));
        let mut polled = Vec::new();
        for tenant in [alices.as_str(), BOBS_TENANT, NOBODYS_TENANT] {
            let answer = start(&world, &key, name, tenant).await;
            assert_eq!(answer.status, 201, "{}", answer.text());
            let session = answer.json();
            let url = press(&mut Browser::default(), &session).await;
            let is_told = (session["remark"].is_string(), !url.contains("&prompt=consent"));
            let is_seen = sees.contains(&tenant);
            assert_eq!(is_told, (is_seen, is_seen), "{rules} {tenant}: {session} {url}");

            // Another caller sees all of them.
            let path = report(&world, &key, tenant).await;
            polled.push((tenant, is_seen, path, report(&world, &world.key, tenant).await));
        }
        world.pass(std::time::Duration::from_secs(61));
        for (tenant, is_seen, path, of_another) in polled {
            if tenant != NOBODYS_TENANT {
                let is_proven =
                    async || get(&world, &world.key, &of_another).await.json()["state"] == "consented";
                world.until("it is proven to another caller", is_proven).await;
            }
            if is_seen {
                let is_proven = async || get(&world, &key, &path).await.json()["state"] == "consented";
                world.until("it is proven", is_proven).await;
            } else {
                // What it was told a moment ago is not remembered any more.
                world.pass(std::time::Duration::from_secs(5));
                let state = get(&world, &key, &path).await.json();
                assert_eq!(state["state"], "reported", "{rules} {tenant}: {state}");
            }
        }
    }

    // Who may not connect any more is told so, and who may not know of the app any more is told nothing.
    let path = report(&world, &key, NOBODYS_TENANT).await;
    let narrow = before.replace("connect = true", "connect = false");
    reconfigure(&world, &harness(&before), &harness(&narrow)).await;
    let state = get(&world, &key, &path).await.json();
    assert_eq!((text(&state, "state"), text(&state, "reason")), ("failed", "caller_forbidden"), "{state}");
    let without = harness(&narrow).split_once("[[").map(|(caller, _)| caller.to_owned()).expect("rules");
    reconfigure(&world, &harness(&narrow), &without).await;
    let gone = get(&world, &key, &path).await;
    assert_eq!((gone.status.as_u16(), text(&gone.json(), "code")), (404, "session_not_found"));
}
