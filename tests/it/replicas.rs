//! Several replicas with one Redis: together they make one refresh, and nobody waits for a dead one.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use entra_emulator::{Endpoint, Fault, FaultRule, Mode};
use http::Method;
use rustix::process::Signal;
use serde_json::{Value, json};

use crate::attacks_api::sha256;
use crate::attacks_connect::{account_of, confirm, state_of, up_to_callback};
use crate::http_client::{Browser, request, request_unix};
use crate::redis_server::RedisServer;
use crate::world::{ALICE, BOB, Kept, PATIENCE, Plan, Process, World, alone, text, until};

/// Authority calls of at most 2 s, under leases of 7 s.
const QUICK: &str = "[limits]\nauthority_timeout = \"2s\"\nlease = \"7s\"\n";
const LEASE: Duration = Duration::from_secs(7);

/// Callers and authority calls that wait for as long as a busy machine may take.
const PATIENT: &str = "[limits]\nauthority_timeout = \"60s\"\ncaller_wait = \"60s\"\nlease = \"2m\"\n";

/// 2,000 callers on 3 replicas at one expired token: the authority sees one refresh, and everyone gets its
/// token. It answers when each of the others has asked for the lease so often.
async fn crowd(mode: Mode, asked: u64) {
    let _alone = alone().await;
    let world = Arc::new(Plan::default().kept(Kept::Redis).mode(mode).sections(PATIENT).start().await);
    let others = Arc::new([world.replica("second").await, world.replica("third").await]);
    world.connect("crowd", ALICE).await;
    let mut before = Vec::new();
    for daemon in [&world.daemon, &others[0], &others[1]] {
        before.push((daemon, lease_requests(daemon).await));
    }
    world.outlive_tokens();
    world.entra.clear_ledger();
    world.entra.faults().inject(FaultRule::new(Endpoint::Token, Fault::HoldAnswer).once());
    let callers: Vec<_> = (0..2000)
        .map(|number: usize| {
            let (world, others) = (world.clone(), others.clone());
            tokio::spawn(async move {
                let daemon = match number % 3 {
                    0 => &world.daemon,
                    other => &others[other - 1],
                };
                let begun = Instant::now();
                loop {
                    let answer = world.token_at(daemon, "crowd").await;
                    if answer.status == 200 {
                        return text(&answer.json(), "access_token").to_owned();
                    }
                    // (A busy machine may keep Redis from answering in its time. Callers come again then.)
                    let is_store = answer.json()["code"] == "store_unavailable";
                    assert!(is_store && begun.elapsed() < PATIENCE, "{}\n{}", answer.text(), daemon.log());
                    tokio::time::sleep(Duration::from_secs(1)).await;
                }
            })
        })
        .collect();
    world.until_called("refresh_token", 1).await;
    let wait = async || {
        let mut waiting = 0;
        for (daemon, before) in &before {
            waiting += usize::from(lease_requests(daemon).await >= before + asked);
        }
        waiting >= 2
    };
    world.until("the others wait for the lease", wait).await;
    world.entra.faults().release();
    let mut tokens = BTreeSet::new();
    for caller in callers {
        tokens.insert(caller.await.expect("a token"));
    }
    assert_eq!(tokens.len(), 1);
    assert_eq!(world.token_calls("refresh_token"), 1);
}

/// How often a replica has asked the store for a lease.
async fn lease_requests(daemon: &Process) -> u64 {
    let shown = request(Method::GET, &format!("{}/metrics", daemon.ops), &[], "").await.expect("metrics");
    let series = "tokenward_store_operation_duration_seconds_count{operation=\"take_lease\"} ";
    let text = shown.text();
    let count = text.lines().find_map(|line| line.strip_prefix(series)).unwrap_or("0");
    count.parse().expect("a number")
}

#[tokio::test]
async fn two_thousand_callers_on_three_replicas_make_one_refresh() {
    crowd(Mode::Strict, 1).await;
}

/// The others wait for it again and again, a second each time.
#[tokio::test]
async fn they_do_with_a_slow_authority_too() {
    crowd(Mode::Entra, 4).await;
}

/// On a Cluster it is as on one Redis: connected, refreshed once for all, followed through the death of
/// a primary, and deleted everywhere.
#[tokio::test]
async fn three_replicas_on_a_cluster_make_one_refresh_and_live_through_a_failover() {
    let _alone = alone().await;
    let mut world = Plan::default().kept(Kept::Cluster).sections(QUICK).start().await;
    let others = [world.replica("second").await, world.replica("third").await];
    let names = ["shared", "team-a/one", "team-b/two"];
    for name in names {
        world.connect(name, ALICE).await;
    }
    world.outlive_tokens();
    world.entra.clear_ledger();
    let slow = FaultRule::new(Endpoint::Token, Fault::Delay(Duration::from_millis(300)));
    world.entra.faults().inject(slow);
    let daemons = [&world.daemon, &others[0], &others[1]];
    let ask = |number: usize| world.token_at(daemons[number % 3], "shared");
    let (first, second, third) = tokio::join!(ask(0), ask(1), ask(2));
    let mut tokens = BTreeSet::new();
    for (answer, daemon) in [first, second, third].iter().zip(daemons) {
        assert_eq!(answer.status, 200, "{}\n{}", answer.text(), daemon.log());
        tokens.insert(text(&answer.json(), "access_token").to_owned());
    }
    assert_eq!((tokens.len(), world.token_calls("refresh_token")), (1, 1));

    let mut cluster = world.cluster.take().expect("it is kept there");
    let slot = slot_of("tokenward:{outlook:team-a/one}", &cluster.nodes[0]);
    let victim = cluster.owner(slot).expect("they agree");
    cluster.nodes[victim].stop();
    cluster.failed_over(slot, victim);
    for name in names {
        for daemon in [&world.daemon, &others[0], &others[1]] {
            until(daemon, "it is served", async || world.token_at(daemon, name).await.status == 200).await;
        }
    }

    let path = "/v1/apps/outlook/connections/team-a%2Fone";
    let deleted = world.api(http::Method::DELETE, path, serde_json::Value::Null).await;
    assert_eq!(deleted.status, 204, "{}", deleted.text());
    for daemon in [&world.daemon, &others[0], &others[1]] {
        until(daemon, "404", async || world.token_at(daemon, "team-a/one").await.status == 404).await;
    }
}

/// The slot of a key, as Redis says.
fn slot_of(key: &str, node: &RedisServer) -> u16 {
    node.cli(&["CLUSTER", "KEYSLOT", key]).parse().expect("a slot")
}

/// The holder of a lease is stopped in the middle of its call, for longer than the lease: another replica
/// goes on at its end, and what the first one brings back late overwrites nothing.
#[tokio::test]
async fn a_holder_that_is_stopped_holds_nobody_up_beyond_its_lease() {
    let world = Plan::default().kept(Kept::Redis).sections(QUICK).start().await;
    let other = world.replica("second").await;
    world.connect("one", ALICE).await;
    world.outlive_tokens();
    world.entra.clear_ledger();
    world.entra.faults().inject(FaultRule::new(Endpoint::Token, Fault::HoldAnswer).once());
    let (world, other) = (Arc::new(world), Arc::new(other));
    let waiting = {
        let world = world.clone();
        tokio::spawn(async move { world.token_at(&world.daemon, "one").await })
    };
    world.until_called("refresh_token", 1).await;
    world.daemon.signal(Signal::STOP);
    let next = {
        let (world, other) = (world.clone(), other.clone());
        tokio::spawn(async move { world.token_at(&other, "one").await })
    };
    // It keeps to the lease. (A machine that is too slow for this half second to mean anything cannot fail
    // here.)
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!((world.token_calls("refresh_token"), next.is_finished()), (1, false));
    world.pass_in_redis(LEASE);
    let answer = next.await.expect("joined");
    assert_eq!(answer.status, 200, "{}\n{}", answer.text(), other.log());
    let served = text(&answer.json(), "access_token").to_owned();
    assert_eq!(world.token_calls("refresh_token"), 2);
    world.daemon.signal(Signal::CONT);
    world.entra.faults().release();
    let late = waiting.await.expect("joined");
    assert_eq!(late.status, 200, "{}\n{}", late.text(), world.daemon.log());
    assert_eq!(text(&late.json(), "access_token"), served, "the late answer lost");
    assert_eq!(text(&world.token_at(&other, "one").await.json(), "access_token"), served);
    assert_eq!(world.token_calls("refresh_token"), 2);
}

/// A replica that is killed while it refreshes: its lease ends by itself, and the next one refreshes.
#[tokio::test]
async fn a_killed_holder_s_lease_ends_by_itself() {
    let mut world = Plan::default().kept(Kept::Redis).sections(QUICK).start().await;
    let other = world.replica("second").await;
    world.connect("one", ALICE).await;
    world.outlive_tokens();
    world.entra.clear_ledger();
    world.entra.faults().inject(FaultRule::new(Endpoint::Token, Fault::Hang(None)).once());
    let url = format!("{}/v1/apps/outlook/connections/one/token", world.daemon.local);
    let bearer = format!("Bearer {}", world.key);
    let asked = tokio::spawn(async move {
        let headers = [("authorization", bearer.as_str())];
        crate::http_client::request(http::Method::GET, &url, &headers, "").await.is_ok()
    });
    world.until_called("refresh_token", 1).await;
    world.daemon.kill();
    assert!(!asked.await.expect("joined"));
    world.pass_in_redis(LEASE);
    assert_eq!(world.token_at(&other, "one").await.status, 200, "{}", other.log());
    assert!(explains_the_doubt(&world, &other).await, "{}", other.log());
}

/// That somebody began a refresh and never said how it ended is part of the story that `explain` tells.
async fn explains_the_doubt(world: &World, daemon: &Process) -> bool {
    let url = format!("{}/v1/apps/outlook/connections/one/explain", daemon.local);
    let bearer = format!("Bearer {}", world.key);
    let headers = [("authorization", bearer.as_str())];
    let answer = crate::http_client::request(http::Method::GET, &url, &headers, "").await.expect("an answer");
    let explained = answer.json();
    explained["attempts"]
        .as_array()
        .is_some_and(|attempts| attempts.iter().any(|attempt| attempt["outcome"] == "outcome_unknown"))
}

/// Redis goes away between the question to the authority and its answer, and the daemon dies before it is
/// back: the answer was served, so it was in the journal, and where a used refresh token ends the grant it is
/// all that keeps it alive.
#[tokio::test]
async fn the_journal_keeps_what_redis_did_not_take_through_a_crash() {
    let mut plan = Plan::default().kept(Kept::Redis).mode(Mode::Strict);
    plan.store_lines = "journal = \"journal\"".into();
    let mut world = plan.start().await;
    world.connect("one", ALICE).await;
    world.outlive_tokens();
    world.entra.clear_ledger();
    world.entra.faults().inject(FaultRule::new(Endpoint::Token, Fault::HoldAnswer).once());
    let url = format!("{}/v1/apps/outlook/connections/one/token", world.daemon.local);
    let bearer = format!("Bearer {}", world.key);
    let headers_bearer = bearer.clone();
    let waiting = tokio::spawn(async move {
        let headers = [("authorization", headers_bearer.as_str())];
        crate::http_client::request(http::Method::GET, &url, &headers, "").await.expect("an answer")
    });
    world.until_called("refresh_token", 1).await;
    world.redis.as_mut().expect("redis").stop();
    world.entra.faults().release();
    let served = waiting.await.expect("joined");
    assert_eq!(served.status, 200, "{}\n{}", served.text(), world.daemon.log());
    assert_eq!(served.headers["tokenward-degraded"], "store");
    let token = text(&served.json(), "access_token").to_owned();
    let journal = world.folder.path().join("journal");
    let entries = || {
        let files = std::fs::read_dir(&journal).expect("the journal");
        files
            .filter(|file| {
                file.as_ref().is_ok_and(|file| file.path().extension().is_some_and(|end| end == "entry"))
            })
            .count()
    };
    assert_eq!(entries(), 1);
    world.daemon.kill();
    world.redis.as_mut().expect("redis").restart();
    world.kill_and_restart().await;
    assert_eq!(text(&world.token("one").await.json(), "access_token"), token, "{}", world.daemon.log());
    assert_eq!(world.token_calls("refresh_token"), 1);
    world.until("the journal is empty", async || entries() == 0).await;
    // And the grant lives on: its newest refresh token is the one that is stored.
    let next = world
        .api(
            Method::POST,
            "/v1/apps/outlook/connections/one/token",
            serde_json::json!({ "rejected": sha256(&token) }),
        )
        .await;
    assert_eq!(next.status, 200, "{}\n{}", next.text(), world.daemon.log());
    assert_eq!(world.token_calls("refresh_token"), 2);
    assert!(next.headers.get("tokenward-degraded").is_none());
    assert_eq!(world.show("one").await["status"], "active");
}

/// The store falls back to the state before the last commit, as a failover may make it: what was stored is
/// stored again, so that the refresh token there is the one that still works.
#[tokio::test]
async fn a_store_that_falls_back_is_given_what_it_lost() {
    let world = Plan::default().kept(Kept::Redis).mode(Mode::Strict).start().await;
    world.connect("one", ALICE).await;
    let redis = world.redis.as_ref().expect("redis");
    let record = "tokenward:{outlook:one}";
    assert_eq!(redis.cli(&["COPY", record, "tokenward:{outlook:one}:before"]), "1");
    world.outlive_tokens();
    let token = world.access_token("one").await;
    assert_eq!(redis.cli(&["COPY", "tokenward:{outlook:one}:before", record, "REPLACE"]), "1");
    assert_eq!(redis.cli(&["DEL", "tokenward:{outlook:one}:before"]), "1");
    world
        .until("it is stored again", async || {
            assert_eq!(world.access_token("one").await, token);
            world.daemon.log().contains("it is stored again")
        })
        .await;
    world.outlive_tokens();
    assert_ne!(world.access_token("one").await, token);
    assert_eq!(world.show("one").await["status"], "active");
}

/// The same where whoever stored it is dead: a replica that has only seen it gives it back.
#[tokio::test]
async fn what_a_store_lost_is_given_back_by_a_replica_that_has_only_seen_it() {
    let mut world = Plan::default().kept(Kept::Redis).mode(Mode::Strict).start().await;
    let witness = world.replica("witness").await;
    world.connect("one", ALICE).await;
    let redis = world.redis.as_ref().expect("redis");
    let record = "tokenward:{outlook:one}";
    assert_eq!(redis.cli(&["COPY", record, "tokenward:{outlook:one}:before"]), "1");
    world.outlive_tokens();
    let token = world.access_token("one").await;
    let seen = world.token_at(&witness, "one").await;
    assert_eq!(text(&seen.json(), "access_token"), token);
    world.daemon.kill();
    assert_eq!(redis.cli(&["COPY", "tokenward:{outlook:one}:before", record, "REPLACE"]), "1");
    assert_eq!(redis.cli(&["DEL", "tokenward:{outlook:one}:before"]), "1");
    until(&witness, "it is stored again", async || {
        world.token_at(&witness, "one").await;
        witness.log().contains("it is stored again")
    })
    .await;
    world.outlive_tokens();
    let next = world.token_at(&witness, "one").await;
    assert_eq!(next.status, 200, "{}\n{}", next.text(), witness.log());
    assert_ne!(text(&next.json(), "access_token"), token);
}

/// The store falls back to the state before a delete: whoever deleted it does so again, and a later sign-in
/// stands.
#[tokio::test]
async fn a_delete_that_the_store_lost_is_done_again_and_takes_no_later_sign_in_along() {
    let world = Plan::default().kept(Kept::Redis).start().await;
    let other = world.replica("other").await;
    world.connect("one", ALICE).await;
    let redis = world.redis.as_ref().expect("redis");
    let (record, floor) = ("tokenward:{outlook:one}", "tokenward:floor:{outlook:one}");
    assert_eq!(redis.cli(&["COPY", record, "tokenward:{outlook:one}:before"]), "1");
    let delete = async || {
        let path = "/v1/apps/outlook/connections/one";
        world.api(Method::DELETE, path, Value::Null).await.status.as_u16()
    };
    assert_eq!(delete().await, 204);
    assert_eq!(redis.cli(&["DEL", floor]), "1");
    assert_eq!(redis.cli(&["COPY", "tokenward:{outlook:one}:before", record]), "1");
    assert_eq!(world.token("one").await.status, 404, "{}", world.daemon.log());
    assert!(world.daemon.log().contains("it is deleted again"), "{}", world.daemon.log());
    assert_eq!(world.token_at(&other, "one").await.status, 404);
    assert_eq!(redis.cli(&["EXISTS", record]), "0");
    world.connect("one", ALICE).await;
    assert_eq!(redis.cli(&["DEL", "tokenward:{outlook:one}:before"]), "1");
    for daemon in [&world.daemon, &other] {
        assert_eq!(world.token_at(daemon, "one").await.status, 200, "{}", daemon.log());
    }
}

/// Redis loses everything while it runs: nothing of that is believed. What is held is served, the rest is 503
/// and never 404, on every replica and after a restart of one; until an operator says that this is the store
/// now.
#[tokio::test]
async fn an_emptied_redis_is_not_believed_until_an_operator_says_so() {
    let mut plan = Plan::default().kept(Kept::Redis);
    plan.store_lines = "journal = \"journal\"".into();
    let mut world = plan.start().await;
    let other = world.replica("second").await;
    for connection in ["held", "cold"] {
        world.connect(connection, ALICE).await;
    }
    let held = world.access_token("held").await;
    assert_eq!(world.token_at(&other, "held").await.status, 200);
    world.redis.as_ref().expect("redis").cli(&["FLUSHALL"]);
    for _ in 0..30 {
        for daemon in [&world.daemon, &other] {
            assert_eq!(text(&world.token_at(daemon, "held").await.json(), "access_token"), held);
            for nobody in ["cold", "nobody"] {
                let answer = world.token_at(daemon, nobody).await;
                // One that was looked at when it was connected is held, and served.
                if answer.status != 200 || nobody == "nobody" {
                    let refused = (answer.status.as_u16(), text(&answer.json(), "code").to_owned());
                    assert_eq!(refused, (503, "store_unavailable".to_owned()));
                }
            }
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let gone =
        world.api(http::Method::DELETE, "/v1/apps/outlook/connections/nobody", serde_json::Value::Null).await;
    assert_eq!(gone.status, 503);
    // A restart forgets what was held, and remembers what store it was.
    world.daemon.kill();
    world.daemon = Process::launch(world.folder.path()).await;
    let answer = world.token("cold").await;
    assert_eq!((answer.status.as_u16(), text(&answer.json(), "code")), (503, "store_unavailable"));
    world.daemon.until_logged("tokenward store adopt").await;

    let adopted = std::process::Command::new(env!("CARGO_BIN_EXE_tokenward"))
        .args(["store", "adopt", "--yes", "--config"])
        .arg(world.folder.path().join("tokenward.toml"))
        .output()
        .expect("it ends");
    assert!(adopted.status.success(), "{}", String::from_utf8_lossy(&adopted.stderr));
    for daemon in [&world.daemon, &other] {
        until(daemon, "404", async || world.token_at(daemon, "held").await.status == 404).await;
    }
    world.connect("held", ALICE).await;
    assert_eq!(world.token_at(&other, "held").await.status, 200);
}

/// The kill switch: every connection of a tenant ends on all replicas, through restarts, and comes back with
/// its user alone.
#[tokio::test]
async fn one_act_revokes_a_tenant_on_every_replica_and_through_a_restart() {
    let mut world = Plan::default().kept(Kept::Redis).start().await;
    let other = world.replica("second").await;
    for number in 0..5 {
        world.connect(&format!("alice-{number}"), ALICE).await;
    }
    world.connect("bob", BOB).await;
    let tenant = text(&world.show("alice-0").await["account"], "tid").to_owned();
    for daemon in [&world.daemon, &other] {
        assert_eq!(world.token_at(daemon, "alice-0").await.status, 200);
    }
    let run = |arguments: &[&str]| {
        std::process::Command::new(env!("CARGO_BIN_EXE_tokenward"))
            .args(arguments)
            .arg("--config")
            .arg(world.folder.path().join("tokenward.toml"))
            .output()
            .expect("it ends")
    };
    assert_eq!(run(&["revoke", "--yes"]).status.code(), Some(2), "nothing named is not everything");
    let revoked = run(&["revoke", "--tenant", &tenant, "--yes"]);
    assert!(revoked.status.success(), "{}", String::from_utf8_lossy(&revoked.stderr));
    assert_eq!(world.token("alice-0").await.status, 404, "at once where it was said");
    for number in 0..5 {
        let name = format!("alice-{number}");
        until(&other, "404", async || world.token_at(&other, &name).await.status == 404).await;
    }
    assert_eq!(world.token_at(&other, "bob").await.status, 200, "another tenant's goes on");
    world.kill_and_restart().await;
    assert_eq!(world.token("alice-1").await.status, 404);
    let redis = world.redis.as_ref().expect("redis");
    world
        .until("the grants are destroyed as well", async || {
            redis.cli(&["EXISTS", "tokenward:{outlook:alice-4}"]) == "0"
        })
        .await;
    world.connect("alice-0", ALICE).await;
    assert_eq!(world.token_at(&other, "alice-0").await.status, 200, "who signs in again is not meant");
}

/// A session that was started before a revocation is over on every replica: on one that has not heard of it
/// as on one whose clock is ahead. What is started after it is not meant, whatever the clock says of whoever
/// revoked.
#[tokio::test]
async fn a_session_from_before_a_revocation_is_over_wherever_it_is_finished() {
    let world = Plan::default().kept(Kept::Redis).start().await;
    let other = world.replica("second").await;
    let ahead = world.replica_ahead("ahead", Duration::from_secs(3)).await;
    let api = async |daemon: &Process, path: &str, body: Value| {
        let headers = [("authorization", format!("Bearer {}", world.key))];
        let headers = headers.each_ref().map(|(name, value)| (*name, value.as_str()));
        let url = format!("{}{path}", daemon.local);
        request(Method::POST, &url, &headers, body.to_string()).await.expect("an answer")
    };
    let revoke = async |daemon: &str| {
        let socket = world.folder.path().join(daemon).join("admin.sock");
        let body = json!({ "app": "outlook" }).to_string();
        let revoked = request_unix(&socket, Method::POST, "/admin/v1/revocations", &[], body).await;
        assert_eq!(revoked.expect("an answer").status, 200);
    };
    let start = async |daemon: &Process, name: &str| {
        let body = json!({ "app": "outlook", "connection": name });
        let session = api(daemon, "/v1/connect-sessions", body).await.json();
        let mut browser = Browser::default();
        let callback = up_to_callback(&mut browser, &session).await;
        browser.get(&callback).await.expect("the callback");
        let path = format!("/v1/connect-sessions/{}/confirm", text(&session, "id"));
        (path, account_of(&state_of(&world, &session).await))
    };
    let mut open = Vec::new();
    for (name, daemon) in [("of-other", &other), ("of-ahead", &ahead), ("of-first", &world.daemon)] {
        open.push((name, start(daemon, name).await));
    }
    revoke("").await;
    // Within the second in which it need not have heard.
    for (name, (path, account)) in open {
        let answer = api(&other, &path, account).await;
        assert_eq!(answer.status, 409, "{name}: {}", answer.text());
    }
    for name in ["of-other", "of-ahead", "of-first"] {
        for daemon in [&world.daemon, &other, &ahead] {
            assert_eq!(world.token_at(daemon, name).await.status, 404, "{name}");
        }
    }
    // Said by the clock that is ahead, and begun anew at once.
    revoke("ahead").await;
    let (path, account) = start(&other, "anew").await;
    let answer = api(&other, &path, account).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    for daemon in [&world.daemon, &other, &ahead] {
        assert_eq!(world.token_at(daemon, "anew").await.status, 200);
    }
}

/// Its code is spent by then: no grant is lost for a look at what was revoked that fails.
#[tokio::test]
async fn a_sign_in_is_stored_though_the_record_of_revocations_does_not_open() {
    let world = Plan::default().kept(Kept::Redis).start().await;
    let session = world.start_session(json!({ "app": "outlook", "connection": "alice" })).await;
    let mut browser = Browser::default();
    let callback = up_to_callback(&mut browser, &session).await;
    browser.get(&callback).await.expect("the callback");
    let account = account_of(&state_of(&world, &session).await);
    let socket = world.folder.path().join("admin.sock");
    let body = json!({ "caller": "of-nothing", "even_if_unknown": true }).to_string();
    let revoked = request_unix(&socket, Method::POST, "/admin/v1/revocations", &[], body).await;
    assert_eq!(revoked.expect("an answer").status, 200);
    let redis = world.redis.as_ref().expect("Redis");
    let kept = redis.cli(&["KEYS", "tokenward:pending:*revocations*"]);
    assert_eq!(redis.cli(&["SET", kept.trim(), "rubbish"]), "OK");
    let answer = confirm(&world, &session, account).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(world.token("alice").await.status, 200);
}

/// A revocation that cannot be read may cover the sign-in and not the connection, which began later: both would
/// be gone. The grant waits.
#[tokio::test]
async fn a_sign_in_waits_where_it_would_replace_a_later_one_and_revocations_do_not_open() {
    let world = Plan::default().kept(Kept::Redis).start().await;
    let sign_in = async || {
        let session = world.start_session(json!({ "app": "outlook", "connection": "alice" })).await;
        let mut browser = Browser::default();
        let callback = up_to_callback(&mut browser, &session).await;
        browser.get(&callback).await.expect("the callback");
        let account = account_of(&state_of(&world, &session).await);
        (session, account)
    };
    let (early, account) = sign_in().await;
    let (late, _) = sign_in().await;
    assert_eq!(confirm(&world, &late, account.clone()).await.status, 200);
    let of_late = world.access_token("alice").await;
    let socket = world.folder.path().join("admin.sock");
    let body = json!({ "caller": "of-nothing", "even_if_unknown": true }).to_string();
    let revoked = request_unix(&socket, Method::POST, "/admin/v1/revocations", &[], body).await;
    assert_eq!(revoked.expect("an answer").status, 200);
    let redis = world.redis.as_ref().expect("Redis");
    let kept = redis.cli(&["KEYS", "tokenward:pending:*revocations*"]);
    let kept = kept.trim();
    assert_eq!(redis.cli(&["RENAME", kept, "aside"]), "OK");
    assert_eq!(redis.cli(&["SET", kept, "rubbish"]), "OK");
    let answer = confirm(&world, &early, account.clone()).await;
    assert_eq!(answer.status, 503, "{}", answer.text());
    assert_eq!(answer.json()["code"], "store_unavailable");
    assert_eq!(world.access_token("alice").await, of_late);
    assert_eq!(redis.cli(&["RENAME", "aside", kept]), "OK");
    assert_eq!(confirm(&world, &early, account).await.status, 200);
    assert_ne!(world.access_token("alice").await, of_late);
}

/// Redis gone under load: what is held is served without one failed request, and the health that readiness
/// and metrics tell of comes back by itself. Half a minute with `TOKENWARD_TROUBLE_SECONDS=30`.
#[tokio::test]
async fn redis_may_be_gone_for_a_while_and_no_held_token_fails() {
    let mut world = Plan::default().kept(Kept::Redis).sections(QUICK).start().await;
    let names: Vec<String> = (0..10).map(|number| format!("user-{number}")).collect();
    for name in &names {
        world.connect(name, ALICE).await;
        world.access_token(name).await;
    }
    let seconds = std::env::var("TOKENWARD_TROUBLE_SECONDS").ok().and_then(|text| text.parse().ok());
    world.redis.as_mut().expect("redis").stop();
    let ask = async |number: usize| {
        let answer = world.token(&names[number % names.len()]).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        answer.headers.contains_key("tokenward-degraded")
    };
    let mut asked = 0_usize;
    world
        .until("it is noticed", async || {
            asked += 1;
            ask(asked).await && world.metrics().await.contains("tokenward_store_reachable 0")
        })
        .await;
    let (begun, gone) = (Instant::now(), Duration::from_secs(seconds.unwrap_or(1)));
    let (noticed, mut degraded) = (asked, 0);
    while begun.elapsed() < gone || asked < noticed + 100 {
        asked += 1;
        degraded += usize::from(ask(asked).await);
    }
    assert!(degraded > (asked - noticed) / 2, "{degraded} of {} said so", asked - noticed);
    world.redis.as_mut().expect("redis").restart();
    world
        .until("it is well again", async || {
            world.metrics().await.contains("tokenward_store_reachable 1")
                && !world.token("user-0").await.headers.contains_key("tokenward-degraded")
        })
        .await;
}

/// Redis' password is replaced in its file and at Redis, in this order: the metrics say how far it is, and no
/// request fails.
#[tokio::test]
async fn the_redis_password_is_replaced_without_a_restart_and_the_metrics_say_how_it_stands() {
    let folder = tempfile::tempdir().expect("a temp dir");
    let file = folder.path().join("password");
    let put = |password: &str| {
        use std::os::unix::fs::PermissionsExt as _;
        let unfinished = folder.path().join("unfinished");
        std::fs::write(&unfinished, password).expect("is ours");
        std::fs::set_permissions(&unfinished, std::fs::Permissions::from_mode(0o600)).expect("is ours");
        std::fs::rename(&unfinished, &file).expect("is ours");
    };
    put("one");
    let mut plan = Plan::default().kept(Kept::Redis);
    plan.store_lines = format!("username = \"default\"\npassword_file = \"{}\"", file.display());
    let world = plan.start().await;
    let redis = world.redis.as_ref().expect("redis");
    assert_eq!(redis.cli(&["ACL", "SETUSER", "default", ">one"]), "OK");
    let says = async |refused: &str| {
        let line = format!("tokenward_store_login_refused{{secret=\"password\"}} {refused}\n");
        world.until(&line, async || world.metrics().await.contains(&line)).await;
    };
    says("0").await;
    world.connect("before", ALICE).await;
    put("the-next-one");
    says("1").await;
    world.connect("between", ALICE).await;
    assert_eq!(redis.cli(&["-a", "one", "ACL", "SETUSER", "default", ">the-next-one"]), "OK");
    says("0").await;
    assert_eq!(redis.cli(&["-a", "one", "ACL", "SETUSER", "default", "<one"]), "OK");
    redis.cli(&["-a", "the-next-one", "CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"]);
    world.connect("after", ALICE).await;
    for name in ["before", "between", "after"] {
        world.access_token(name).await;
    }
    let logged = world.daemon.log();
    assert!(logged.contains("what the file holds is refused"), "{logged}");
    assert!(!logged.contains("the-next-one"), "{logged}");
}

/// A pause takes a token away that still lives, on every replica within a second; a resume gives it back.
#[tokio::test]
async fn a_pause_reaches_every_replica_and_a_resume_undoes_it() {
    let world = Plan::default().kept(Kept::Redis).start().await;
    let other = world.replica("second").await;
    world.connect("one", ALICE).await;
    let token = text(&world.token_at(&other, "one").await.json(), "access_token").to_owned();
    let run = |act: &str| {
        let done = std::process::Command::new(env!("CARGO_BIN_EXE_tokenward"))
            .args(["connections", act, "outlook", "one", "--config"])
            .arg(world.folder.path().join("tokenward.toml"))
            .output()
            .expect("it ends");
        assert!(done.status.success(), "{act}: {}", String::from_utf8_lossy(&done.stderr));
    };
    run("pause");
    assert_eq!(text(&world.token("one").await.json(), "code"), "connection_paused");
    until(&other, "the pause", async || world.token_at(&other, "one").await.status != 200).await;
    let refused = world.token_at(&other, "one").await;
    assert_eq!((refused.status.as_u16(), text(&refused.json(), "code")), (409, "connection_paused"));
    assert_eq!(world.show("one").await["status"], "paused");
    run("resume");
    until(&other, "the resumption", async || world.token_at(&other, "one").await.status == 200).await;
    assert_eq!(text(&world.token_at(&other, "one").await.json(), "access_token"), token);
    world.entra.clear_ledger();
    run("refresh");
    world.until_called("refresh_token", 1).await;
}
