//! Calls to the authority that callers and strangers can cause, and their effect on others: claims challenges
//! that say more than a resource does, forced renewals, forged redirects of an administrator's consent, and a
//! throttle that one caller provokes. The calls are counted at the authority.

use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use entra_emulator::{Endpoint, Fault, FaultRule, Mode, RevokeKind, User};
use http::Method;
use serde_json::{Value, json};

use crate::attacks_api::sha256;
use crate::attacks_connect::press;
use crate::http_client::{Answer, Browser, request};
use crate::world::{ALICE, BOB, Kept, Plan, World, text};

/// No token of an app that declares nothing lives for so long at the emulator, and every one lives longer
/// that is for who declares continuous access evaluation.
const LONG: i64 = 3 * 3600;

async fn forced(world: &World, key: &str, name: &str, body: Value) -> Answer {
    let name = name.replace('/', "%2F");
    world.api_as(key, Method::POST, &format!("/v1/apps/outlook/connections/{name}/token"), body).await
}

async fn plain(world: &World, key: &str, name: &str) -> Answer {
    let name = name.replace('/', "%2F");
    let path = format!("/v1/apps/outlook/connections/{name}/token");
    world.api_as(key, Method::GET, &path, Value::Null).await
}

fn token(answer: &Answer) -> String {
    assert_eq!(answer.status, 200, "{}", answer.text());
    text(&answer.json(), "access_token").to_owned()
}

fn life(answer: &Answer) -> i64 {
    assert_eq!(answer.status, 200, "{}", answer.text());
    answer.json()["expires_in"].as_i64().expect("seconds")
}

fn step_up(number: usize) -> Value {
    json!({ "access_token": { "acrs": { "essential": true, "value": format!("c{number}") } } })
}

/// Client capabilities are the app's to declare, in whatever spelling a caller brings them.
#[tokio::test]
async fn a_callers_challenge_declares_no_capability_of_the_app() {
    let world = Plan::default().start().await;
    world.connect("team-b/alice", ALICE).await;
    let cp1 = json!({ "access_token": { "xms_cc": { "values": ["cp1"] } } });
    let beside = json!({
        "access_token": {
            "nbf": { "essential": true, "value": "1700000000" },
            "xms_cc": { "values": ["cp1"] },
            "xms_cc ": { "values": ["cp1"] },
            "XMS_CC": { "values": ["cp1"] },
        },
        "id_token": { "xms_cc": { "values": ["cp1"] } },
        "xms_cc": { "values": ["cp1"] },
    });
    let twice = concat!(
        r#"{"access_token":{"nbf":{"value":"1"}},"#,
        r#""access_token":{"xms_cc":{"values":["cp1"]},"nbf":{"value":"1"}}}"#
    );
    world.entra.clear_ledger();
    for (claims, passed_on) in [
        (cp1.clone(), false),
        (json!(cp1.to_string()), false),
        (json!(STANDARD.encode(cp1.to_string())), false),
        (json!({ "id_token": { "acrs": { "value": "c1" } } }), false),
        (json!({}), false),
        (json!({ "access_token": {} }), false),
        (json!({ "access_token": { "acrs": { "essential": "yes" } } }), false),
        (json!({ "access_token": { "acrs": { "value": { "deep": 1 } } } }), false),
        (beside.clone(), true),
        (json!(STANDARD.encode(beside.to_string())), true),
        (json!(twice), true),
    ] {
        let calls = world.token_calls("refresh_token");
        let held = token(&plain(&world, &world.key, "team-b/alice").await);
        let sent = json!({ "rejected": sha256(&held), "claims": claims });
        let answer = forced(&world, &world.key, "team-b/alice", sent).await;
        let made = world.token_calls("refresh_token") - calls;
        if passed_on {
            assert!(life(&answer) < LONG, "{claims}: {}", answer.text());
            assert_eq!(made, 1, "{claims}");
        } else {
            assert_eq!(answer.status, 400, "{claims}: {}", answer.text());
            assert_eq!(answer.json()["parameter"], "claims", "{claims}");
            assert_eq!(made, 0, "{claims}");
        }
        assert!(life(&plain(&world, &world.reader_key, "team-b/alice").await) < LONG, "{claims}");
        world.pass(Duration::from_secs(15));
    }
}

/// A step-up's token is for who brings that challenge and for the caller that got it; the others keep what a
/// plain refresh brought. The refresh token that came with it counts for everybody.
#[tokio::test]
async fn a_token_under_a_callers_claims_is_nobody_elses() {
    let world = Plan::default().mode(Mode::Strict).start().await;
    world.connect("team-b/alice", ALICE).await;
    let before = token(&plain(&world, &world.reader_key, "team-b/alice").await);
    world.entra.clear_ledger();
    let sent = json!({ "rejected": sha256(&before), "claims": step_up(1) });
    let stepped_up = token(&forced(&world, &world.key, "team-b/alice", sent.clone()).await);
    assert_ne!(stepped_up, before);
    assert_eq!(token(&plain(&world, &world.reader_key, "team-b/alice").await), before);
    assert_eq!(token(&plain(&world, &world.key, "team-b/alice").await), stepped_up, "its caller has it");
    // Whoever brings the same challenge gets that token, however it is spelt.
    let spelt = json!({ "claims": STANDARD.encode("{ \"access_token\": \
        {\"acrs\":{\"value\":\"c1\",\"essential\":true}} }") });
    assert_eq!(token(&forced(&world, &world.reader_key, "team-b/alice", spelt).await), stepped_up);
    assert_eq!(token(&forced(&world, &world.key, "team-b/alice", sent).await), stepped_up);
    assert_eq!(world.token_calls("refresh_token"), 1);

    // A challenge that any new token answers is a report: its token is everybody's.
    let fresh = json!({
        "rejected": sha256(&before),
        "claims": { "access_token": {
            "nbf": { "essential": true, "value": "1700000000" }, "xms_caeerror": { "value": "10012" },
        } },
    });
    let renewed = token(&forced(&world, &world.key, "team-b/alice", fresh).await);
    assert!(renewed != before && renewed != stepped_up);
    assert_eq!(token(&plain(&world, &world.reader_key, "team-b/alice").await), renewed);

    // This authority takes a refresh token once: what the challenge's answer brought is what is used now.
    world.outlive_tokens();
    token(&plain(&world, &world.reader_key, "team-b/alice").await);
    assert_eq!(world.show("team-b/alice").await["status"], "active");
}

/// One caller forces renewals for as long as it is let; another's report of the token that it holds is
/// answered by a new one.
#[tokio::test]
async fn one_caller_cannot_use_up_anothers_report() {
    let world = Plan::default().start().await;
    world.connect("team-b/alice", ALICE).await;
    world.entra.clear_ledger();
    let mut held = token(&plain(&world, &world.reader_key, "team-b/alice").await);
    let begun = Instant::now();
    let (mut forced_by_one, mut refused) = (0, 0);
    for number in 0..40 {
        let claims = if number % 2 == 0 { step_up(number) } else { Value::Null };
        let mut sent = json!({ "rejected": sha256(&held) });
        if !claims.is_null() {
            sent["claims"] = claims;
        }
        let answer = forced(&world, &world.key, "team-b/alice", sent).await;
        match answer.status.as_u16() {
            200 => forced_by_one += 1,
            429 => {
                refused += 1;
                assert_eq!(answer.json()["code"], "rate_limited");
                assert!(answer.headers.contains_key("retry-after"));
            }
            other => panic!("{other}: {}", answer.text()),
        }
        held = token(&plain(&world, &world.reader_key, "team-b/alice").await);
    }
    assert!(forced_by_one > 0 && refused > 0, "{forced_by_one} {refused}");
    let calls = world.token_calls("refresh_token");
    let windows = 1 + usize::try_from(begun.elapsed().as_secs() / 10).expect("small");
    assert!(calls <= 5 * windows, "{calls} calls in {:?}", begun.elapsed());
    // The honest one.
    let answer =
        forced(&world, &world.reader_key, "team-b/alice", json!({ "rejected": sha256(&held) })).await;
    assert_ne!(token(&answer), held);
    assert_eq!(world.token_calls("refresh_token"), calls + 1);
}

/// The calls that somebody forces over many connections come out of one budget, and not out of anybody
/// else's.
#[tokio::test]
async fn forced_renewals_of_many_connections_are_paced_and_leave_others_alone() {
    let mut plan = Plan::default();
    plan.files.push(("sweep", "4".to_owned()));
    let world = plan.start().await;
    let names: Vec<String> = (0..24).map(|number| format!("team-b/user-{number}")).collect();
    for name in &names {
        world.connect(name, ALICE).await;
    }
    let mut held = Vec::new();
    for name in &names {
        held.push(token(&plain(&world, &world.reader_key, name).await));
    }
    world.entra.clear_ledger();
    let (mut done, mut refused) = (0, 0);
    for round in 0..4 {
        for (name, held) in names.iter().zip(&mut held) {
            let sent = json!({ "rejected": sha256(held), "claims": step_up(round) });
            let answer = forced(&world, &world.key, name, sent).await;
            match answer.status.as_u16() {
                200 => done += 1,
                429 => refused += 1,
                other => panic!("{other}: {}", answer.text()),
            }
            *held = token(&plain(&world, &world.reader_key, name).await);
        }
    }
    assert!(done > 0 && refused > 0, "{done} {refused}");
    let answer = forced(&world, &world.reader_key, &names[7], json!({ "rejected": sha256(&held[7]) })).await;
    assert_ne!(token(&answer), held[7], "another's report");
    world.outlive_tokens();
    for name in &names {
        token(&plain(&world, &world.key, name).await);
    }
    let metrics = world.metrics().await;
    let refusals = "tokenward_upstream_budget_total{cause=\"challenge\",result=\"put_off\"}";
    assert!(metrics.lines().any(|line| line.starts_with(refusals) && !line.ends_with(" 0")), "{metrics}");
}

/// Who asks for more life than a token has forces a renewal too: of many connections at once some are
/// renewed, and every answer is a token that lives.
#[tokio::test]
async fn more_life_for_many_connections_is_paced_and_everybody_has_a_token() {
    let mut plan = Plan::default();
    plan.files.push(("sweep", "4".to_owned()));
    let world = plan.start().await;
    let names: Vec<String> = (0..40).map(|number| format!("team-b/user-{number}")).collect();
    for name in &names {
        world.connect(name, ALICE).await;
    }
    // Older than a quarter of its life, and far from due.
    world.pass(Duration::from_secs(1500));
    world.entra.clear_ledger();
    let mut asked = tokio::task::JoinSet::new();
    for name in &names {
        let url = format!(
            "{}/v1/apps/outlook/connections/{}/token?min_ttl=86400",
            world.daemon.local,
            name.replace('/', "%2F")
        );
        let bearer = format!("Bearer {}", world.key);
        asked.spawn(async move {
            request(Method::GET, &url, &[("authorization", &bearer)], String::new()).await.expect("an answer")
        });
    }
    for answer in asked.join_all().await {
        assert!(life(&answer) > 0);
    }
    let calls = world.token_calls("refresh_token");
    // A second's worth, and what comes back while a slow machine sends them.
    assert!((1..names.len()).contains(&calls), "{calls}");
    let metrics = world.metrics().await;
    let put_off = "tokenward_upstream_budget_total{cause=\"min_ttl\",result=\"put_off\"}";
    assert!(metrics.lines().any(|line| line.starts_with(put_off) && !line.ends_with(" 0")), "{metrics}");
    // Once they are dead they are renewed for whoever asks, whatever the budget says.
    world.outlive_tokens();
    for name in &names {
        token(&plain(&world, &world.key, name).await);
    }
}

/// The redirect of an administrator's consent can be forged, as often as somebody likes.
#[tokio::test]
async fn forged_redirects_of_a_consent_have_a_tenant_tried_once_a_minute() {
    let world = Plan::default().start().await;
    let names: Vec<String> = (0..10).map(|number| format!("user-{number}")).collect();
    for name in &names {
        world.connect(name, ALICE).await;
    }
    world.connect("bob", BOB).await;
    for user in [ALICE, BOB] {
        world.entra.revoke_user(user, RevokeKind::ConditionalAccess).expect("known");
    }
    world.outlive_tokens();
    for name in names.iter().map(String::as_str).chain(["bob"]) {
        assert_eq!(world.token(name).await.status, 409);
    }
    let tenant = async |name: &str| text(&world.show(name).await["account"], "tid").to_owned();
    let (alices, bobs) = (tenant("user-0").await, tenant("bob").await);
    let calls_of = |user: &str| {
        let ledger = world.entra.ledger();
        ledger
            .iter()
            .filter(|call| call.endpoint == Endpoint::Token && call.user.as_deref() == Some(user))
            .count()
    };
    world.entra.clear_ledger();
    for number in 0..24 {
        // Strangers' tenants, and the same one in other letters, are no way around it.
        let tenant = match number % 3 {
            0 => alices.clone(),
            1 => alices.to_ascii_uppercase(),
            _ => format!("{number:08}-0000-4000-8000-00000000000c"),
        };
        forge_consent(&world, &tenant).await;
    }
    forge_consent(&world, &bobs).await;
    world.until("the other tenant is tried", async || calls_of(BOB) > 0).await;
    world.until("the tenant is tried", async || calls_of(ALICE) >= 10).await;
    // What came while it was tried is not lost, and waits for its minute.
    world.entra.restore_user(ALICE).expect("known");
    forge_consent(&world, &alices).await;
    assert_eq!(calls_of(ALICE), 10, "{:?}", world.entra.ledger());
    world.pass(Duration::from_secs(61));
    world.until("it is tried again", async || world.show("user-9").await["status"] == "active").await;
    world.until("all are", async || calls_of(ALICE) >= 20).await;
    assert_eq!(calls_of(ALICE), 20);
}

/// A stranger may send them to each replica in turn.
#[tokio::test]
async fn forged_redirects_to_several_replicas_have_a_tenant_tried_once_a_minute() {
    let world = Plan::default().kept(Kept::Redis).start().await;
    let other = world.replica("other").await;
    world.connect("user-1", ALICE).await;
    world.connect("bob", BOB).await;
    world.entra.revoke_user(ALICE, RevokeKind::ConditionalAccess).expect("known");
    world.entra.revoke_user(BOB, RevokeKind::ConditionalAccess).expect("known");
    world.outlive_tokens();
    assert_eq!(world.token("user-1").await.status, 409);
    assert_eq!(world.token("bob").await.status, 409);
    let tenant = async |name: &str| text(&world.show(name).await["account"], "tid").to_owned();
    let (alices, bobs) = (tenant("user-1").await, tenant("bob").await);
    world.entra.clear_ledger();
    let refreshes = || world.token_calls("refresh_token");
    forge_consent(&world, &alices).await;
    world.until("it is tried", async || refreshes() == 1).await;
    forge_consent_at(&world, &other.public, &alices).await;
    // (Each replica has one walk at a time: this one comes behind.)
    forge_consent_at(&world, &other.public, &bobs).await;
    world.until("the other tenant is tried", async || refreshes() == 2).await;
    // Nothing is lost: it waits for its minute.
    world.entra.restore_user(ALICE).expect("known");
    world.pass(Duration::from_secs(61));
    world.until("it is tried again", async || world.show("user-1").await["status"] == "active").await;
    assert_eq!(refreshes(), 3);
}

/// Comes back from a consent page that nobody has seen.
async fn forge_consent(world: &World, tenant: &str) {
    forge_consent_at(world, &world.base_url(), tenant).await;
}

/// The same, to the replica at this address.
async fn forge_consent_at(world: &World, replica: &str, tenant: &str) {
    let body = json!({ "app": "outlook" });
    let started = world.api(Method::POST, "/v1/admin-consent-sessions", body).await;
    assert_eq!(started.status, 201, "{}", started.text());
    let started = started.json();
    let (_, query) = text(&started, "admin_consent_url").split_once('?').expect("a query");
    let mut pairs = form_urlencoded::parse(query.as_bytes());
    let (_, state) = pairs.find(|(name, _)| name == "state").expect("a state");
    let url = format!("{replica}/callback/outlook?admin_consent=True&tenant={tenant}&state={state}");
    let answer = Browser::default().get(&url).await.expect("an answer");
    assert_eq!(answer.status, 200, "{}", answer.text());
}

/// Failures that a caller's challenges provoke are no outage for the other connections of the tenant.
#[tokio::test]
async fn failures_of_a_callers_challenges_are_no_outage_of_a_tenant() {
    const CAROL: &str = "carol@contoso.example";
    let world = Plan::default().start().await;
    world.entra.add_user(User::work(CAROL).tenant(User::work(ALICE).tenant_id()));
    world.connect("alice", ALICE).await;
    world.connect("carol", CAROL).await;
    world.outlive_tokens();
    let ill = FaultRule::new(Endpoint::Token, Fault::status(500)).grant_type("refresh_token").user(ALICE);
    world.entra.faults().inject(ill);
    world.entra.clear_ledger();
    for number in 0..8 {
        let answer = forced(&world, &world.key, "alice", json!({ "claims": step_up(number) })).await;
        assert_eq!(answer.status, 503, "{}", answer.text());
        world.pass(Duration::from_secs(11));
    }
    assert!(world.token_calls("refresh_token") >= 8, "each was asked");
    let answer = forced(&world, &world.key, "alice", json!({ "claims": step_up(8) })).await;
    assert_eq!(answer.status, 503, "{}", answer.text());
    world.access_token("carol").await;
}

/// What a caller provokes with one mailbox is that mailbox's, with a challenge and without; what a plain
/// refresh is told is its tenant's, for a minute at first.
#[tokio::test]
async fn a_throttle_that_a_caller_provokes_holds_no_tenant() {
    const CAROL: &str = "carol@contoso.example";
    for claims in [Value::Null, step_up(1)] {
        let world = Plan::default().start().await;
        world.entra.add_user(User::work(CAROL).tenant(User::work(ALICE).tenant_id()));
        world.connect("alice", ALICE).await;
        world.connect("carol", CAROL).await;
        let held = world.access_token("alice").await;
        let throttled = Fault::status_retry_after(429, 3600);
        let rule = FaultRule::new(Endpoint::Token, throttled).grant_type("refresh_token").user(ALICE);
        world.entra.faults().inject(rule);
        let mut sent = json!({ "rejected": sha256(&held) });
        if !claims.is_null() {
            sent["claims"] = claims;
        }
        world.entra.clear_ledger();
        for _ in 0..3 {
            let answer = forced(&world, &world.key, "alice", sent.clone()).await;
            assert_eq!(answer.status, 503, "{}", answer.text());
        }
        assert_eq!(world.token_calls("refresh_token"), 1, "the connection is left alone");
        assert_eq!(world.access_token("alice").await, held);
        world.outlive_tokens();
        world.access_token("carol").await;
        // Alice's own plain refresh is told the same: others of her tenant wait for a minute and a bit, and
        // no longer.
        world.outlive_tokens();
        assert_eq!(world.token("alice").await.status, 503);
        assert_eq!(world.token_calls("refresh_token"), 3);
        assert_eq!(world.token("carol").await.status, 503);
        world.pass(Duration::from_secs(75));
        world.access_token("carol").await;
    }
}

/// Signs in again and again with codes that nobody gave out: one call to the authority each.
async fn sign_in_forever(world: &World, of: &str) {
    for number in 0.. {
        let body = json!({ "app": "outlook", "connection": format!("{of}-{number}") });
        let started = world.api(Method::POST, "/v1/connect-sessions", body).await;
        if started.status == 429 {
            continue; // as many are kept as a caller may have: it goes on trying
        }
        let session = started.json();
        let mut browser = Browser::default();
        let asked = press(&mut browser, &session).await;
        let state = url_state(&asked);
        let callback = format!("{}/callback/outlook?code=made-up&state={state}", world.base_url());
        browser.get(&callback).await.expect("a page");
    }
}

fn url_state(url: &str) -> String {
    let (_, query) = url.split_once('?').expect("a query");
    let mut pairs = form_urlencoded::parse(query.as_bytes());
    pairs.find(|(name, _)| name == "state").expect("a state").1.into_owned()
}

/// Whoever signs in how often, connections of others are renewed ahead of time as they are without him.
#[tokio::test]
async fn sign_ins_without_end_leave_the_renewals_of_others_their_part() {
    let life = Duration::from_secs(3600);
    let mut plan = Plan::default().token_life(life);
    plan.files.push(("sweep", "4".to_owned()));
    let world = plan.start().await;
    for number in 0..24 {
        world.connect(&format!("user-{number}"), ALICE).await;
    }
    world.entra.clear_ledger();
    let renewed = async {
        world.until_called("authorization_code", 20).await;
        world.pass(life - Duration::from_secs(300));
        world.until_called("refresh_token", 8).await;
    };
    tokio::select! {
        () = renewed => {}
        _ = async { tokio::join!(
            sign_in_forever(&world, "a"), sign_in_forever(&world, "b"), sign_in_forever(&world, "c"),
        ) } => unreachable!("they have no end"),
    }
    let metrics = world.metrics().await;
    let count = |result: &str| {
        let name = format!("tokenward_upstream_budget_total{{cause=\"sign_in\",result=\"{result}\"}} ");
        let line = metrics.lines().find_map(|line| line.strip_prefix(&name)).expect("it is counted");
        line.parse::<f64>().expect("a number")
    };
    // (A slow machine takes so long that the caller's own 200 are used up.)
    assert!(count("put_off") == 0.0 || count("begun") >= 200.0, "who signs in does not wait: {metrics}");
}

/// Who has no token is given one although its challenge may not be passed on; who has one has the limit, with
/// whatever challenge.
#[tokio::test]
async fn a_challenge_of_a_caller_without_a_token_is_no_429() {
    let world = Plan::default().start().await;
    world.connect("team-b/alice", ALICE).await;
    world.outlive_tokens();
    // The first challenge cannot be met, and uses up what a caller may force without a token.
    world.entra.faults().inject(FaultRule::new(Endpoint::Token, Fault::aadsts(50_076)).once());
    let bare =
        async |number| forced(&world, &world.key, "team-b/alice", json!({ "claims": step_up(number) })).await;
    world.entra.clear_ledger();
    assert_eq!(bare(1).await.status, 409);
    let plainly = token(&bare(2).await);
    assert_eq!(world.token_calls("refresh_token"), 2);
    assert_eq!(token(&plain(&world, &world.reader_key, "team-b/alice").await), plainly, "it is everybody's");
    for number in 3..20 {
        let refused = bare(number).await;
        assert_eq!((refused.status.as_u16(), text(&refused.json(), "code")), (429, "rate_limited"));
    }
    assert_eq!(world.token_calls("refresh_token"), 2, "ever new challenges are no way round");
    // It says which token was refused, as whoever has one can.
    let sent = json!({ "rejected": sha256(&plainly), "claims": step_up(20) });
    assert_ne!(token(&forced(&world, &world.key, "team-b/alice", sent).await), plainly);
}
