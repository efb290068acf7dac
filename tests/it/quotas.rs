//! Limits on everything that somebody can cause: requests of every kind, connect sessions and admin consent
//! sessions of a caller, authorize requests of a link.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use http::Method;
use serde_json::{Value, json};

use crate::attacks_api::sha256;
use crate::attacks_connect::{parameter, press};
use crate::http_client::{Answer, Browser, request, request_unix};
use crate::world::{ALICE, Kept, Plan, Process, SYNC, World, text};

const MOST_SESSIONS: usize = 20;
/// What `src/broker/quota.rs` has.
const MOST_CONSENTS: usize = 500;
const MOST_CONSENTS_OF_TENANT: usize = 50;
const MOST_STATES: usize = 4;
const MOST_PRESSES: usize = 50;

/// A caller by its Unix user beside the two that every world has.
fn neighbour(lines: &str) -> String {
    format!(
        "[callers.neighbour]\n{lines}\nauthenticate = [{{ unix_user = {} \
         }}]\n[[callers.neighbour.allow]]\napp = \"outlook\"\n\
         connections = [\"neighbour/*\"]\nscopes = [\"Mail.Read\"]\nconnect = true\n",
        rustix::process::getuid().as_raw()
    )
}

async fn as_neighbour(world: &World, method: Method, path: &str, body: &Value) -> Answer {
    let socket = world.folder.path().join("local.sock");
    let body = if body.is_null() { String::new() } else { body.to_string() };
    request_unix(&socket, method, path, &[("content-type", "application/json")], body)
        .await
        .expect("an answer")
}

fn is_over_the_limit(answer: &Answer) -> bool {
    if answer.status != 429 {
        return false;
    }
    let after: u64 = answer.headers["retry-after"].to_str().expect("text").parse().expect("seconds");
    assert!((1..=60).contains(&after), "{after}");
    // (An answer to HEAD has no body, and the length of one.)
    if answer.body.is_empty() {
        assert_ne!(answer.headers["content-length"], "0");
        return true;
    }
    let problem = answer.json();
    // Each dialect has its own place for the code.
    let code =
        [&problem["code"], &problem["error"], &problem["errors"][0]].into_iter().find_map(Value::as_str);
    assert!(code.is_some_and(|code| code.starts_with("rate_limited")), "{problem}");
    assert!(problem.get("retry_after").is_none_or(|said| *said == after), "{problem}");
    true
}

/// Requests that no route of the document is, and that count all the same.
const BESIDE_THE_ROUTES: [(&str, &str); 8] = [
    ("GET", "/v1/nowhere"),
    ("GET", "/"),
    ("GET", "/v1/apps/unknown/connections/x/token"),
    ("GET", "/v1/apps/unknown/connections/x/token/watch"),
    ("GET", "/v1/apps/outlook/connections/a%2F..%2Fb/token"),
    ("PUT", "/v1/connect-sessions"),
    ("GET", "/v1/apps/outlook/connections?status=active&status=active"),
    ("GET", "/v1/apps/outlook/connections?access_token=x"),
];

/// How many requests of the neighbour the audit says were refused for coming too fast.
fn over_the_rate(world: &World) -> u64 {
    let audit = std::fs::read_to_string(world.folder.path().join("audit.jsonl")).expect("the audit");
    let whole = audit.rsplit_once('\n').map_or("", |(whole, _)| whole);
    let records = whole.lines().map(|line| serde_json::from_str::<Value>(line).expect("JSON"));
    let refusals = records.filter(|record| {
        record["caller"] == "neighbour"
            && record["action"] == "refused"
            && record["outcome"] == "rate_limited"
    });
    refusals.map(|record| record["suppressed"].as_u64().unwrap_or(1)).sum()
}

#[tokio::test]
async fn every_request_takes_from_its_caller_s_bucket() {
    let world = Plan::default().sections(&neighbour("rate_limit = 5")).start().await;
    let document: Value = serde_json::from_str(include_str!("../../src/api/openapi.json")).expect("JSON");
    let mut requests: Vec<(String, String)> =
        BESIDE_THE_ROUTES.iter().map(|(method, path)| ((*method).to_owned(), (*path).to_owned())).collect();
    for (path, operations) in document["paths"].as_object().expect("paths") {
        for method in operations.as_object().expect("operations").keys() {
            // Some are for everybody; `parameters` is no method.
            let of_all = ["/openapi.json", "/.well-known/oauth-authorization-server", "/v1/sys/health"];
            if !of_all.contains(&&**path) && method != "parameters" {
                requests.push((method.to_ascii_uppercase(), path.clone()));
            }
        }
    }
    assert!(requests.len() > BESIDE_THE_ROUTES.len() + 8, "{requests:?}");
    let mut refused = 0;
    for (method, path) in requests {
        let path = path
            .replace("{app}", "outlook")
            .replace("{connection}", "neighbour%2Fnobody")
            .replace("{mount}", "outlook")
            .replace("{base}/{path}", "graph/v1.0/me")
            .replace("{id}", &"0".repeat(43))
            // (A stream that begins goes on.)
            .replace("/v1/events", "/v1/events?after=none");
        let method: Method = method.parse().expect("a method");
        // The bucket fills, and is emptied by this alone.
        world.pass(Duration::from_secs(60));
        world
            .until("the bucket is full again", async || {
                let answer = as_neighbour(&world, method.clone(), &path, &Value::Null).await;
                refused += u64::from(answer.status == 429);
                answer.status != 429
            })
            .await;
        let mut taken = 1;
        while !is_over_the_limit(&as_neighbour(&world, method.clone(), &path, &Value::Null).await) {
            taken += 1;
            assert!(taken < 2000, "{method} {path} takes nothing from its caller's bucket");
        }
        refused += 1;
        // Whatever it was for, it is in the audit, by itself or in a sum, and counted.
        world
            .until(&format!("{refused} refusals are in the audit: {method} {path}"), async || {
                over_the_rate(&world) == refused
            })
            .await;
        let counted = format!("tokenward_requests_over_rate_total{{caller=\"neighbour\"}} {refused}\n");
        assert!(world.metrics().await.contains(&counted), "{method} {path}: {counted}");
        let of_others = world.api(Method::GET, "/v1/apps/outlook/connections", Value::Null).await;
        assert_eq!(of_others.status, 200, "others are not limited");
    }
}

async fn start_at(daemon: &Process, key: &str, connection: &str) -> Answer {
    let body = json!({ "app": "outlook", "connection": connection }).to_string();
    let bearer = format!("Bearer {key}");
    let headers = [("authorization", bearer.as_str()), ("content-type", "application/json")];
    let url = format!("{}/v1/connect-sessions", daemon.local);
    request(Method::POST, &url, &headers, body).await.expect("an answer")
}

#[tokio::test]
async fn a_caller_has_so_many_open_sessions_over_all_replicas_and_through_restarts() {
    for kept in [Kept::Embedded, Kept::Redis] {
        let mut world = Plan::default()
            .kept(kept)
            .sections(&format!("{}[limits]\nopen_sessions = {MOST_SESSIONS}\n", neighbour("")))
            .start()
            .await;
        let other = match kept {
            Kept::Redis => Some(world.replica("other").await),
            Kept::Embedded | Kept::Cluster => None,
        };
        let mut first = None;
        for number in 0..MOST_SESSIONS {
            let daemon = other.as_ref().filter(|_| number % 2 == 1).unwrap_or(&world.daemon);
            let started = start_at(daemon, &world.key, &format!("user-{number}")).await;
            assert_eq!(started.status, 201, "{number}: {}", started.text());
            first.get_or_insert_with(|| started.json());
        }
        for daemon in std::iter::once(&world.daemon).chain(&other) {
            let refused = start_at(daemon, &world.key, "one-more").await;
            assert!(is_over_the_limit(&refused), "{} {}", refused.status, refused.text());
            assert!(text(&refused.json(), "detail").contains("open connect sessions"), "{}", refused.text());
        }
        if let Some(redis) = &world.redis {
            let counted = redis.cli(&["ZCARD", &format!("tokenward:counted:{{sessions/{SYNC}}}")]);
            assert_eq!(counted, MOST_SESSIONS.to_string());
            let records =
                redis.cli(&["EVAL", "return #redis.call('KEYS', 'tokenward:pending:*session:*')", "0"]);
            assert!(records.parse::<usize>().expect("a number") <= MOST_SESSIONS, "{records}");
        }
        // Another caller has its own.
        let body = json!({ "app": "outlook", "connection": "neighbour/one" });
        let of_another = as_neighbour(&world, Method::POST, "/v1/connect-sessions", &body).await;
        assert_eq!(of_another.status, 201, "{}", of_another.text());

        drop(other);
        world.kill_and_restart().await;
        assert!(is_over_the_limit(&start_at(&world.daemon, &world.key, "one-more").await));

        // One that is over gives its place back.
        let first = first.expect("there are many");
        let mut browser = Browser::default();
        world.sign_in(&mut browser, text(&first, "connect_url")).await;
        let confirm = format!("/v1/connect-sessions/{}/confirm", text(&first, "id"));
        let account = world.session(text(&first, "id")).await["account"].clone();
        assert!(
            is_over_the_limit(&start_at(&world.daemon, &world.key, "one-more").await),
            "it is not over yet"
        );
        let account = json!({ "account": { "tid": account["tid"], "oid": account["oid"] } });
        let confirmed = world.api(Method::POST, &confirm, account).await;
        assert_eq!(confirmed.status, 200, "{}", confirmed.text());
        world
            .until("a session may be started", async || {
                start_at(&world.daemon, &world.key, "one-more").await.status == 201
            })
            .await;
        assert!(
            is_over_the_limit(&start_at(&world.daemon, &world.key, "two-more").await),
            "one place, not two"
        );

        // Nobody has to do anything for those that were never used.
        world.pass(Duration::from_secs(2 * 3600));
        world
            .until("those that ended do not count", async || {
                start_at(&world.daemon, &world.key, "two-more").await.status == 201
            })
            .await;
    }
}

/// A product starts a session for each press of its user's: who presses over and over shuts out nobody but
/// himself.
#[tokio::test]
async fn one_connection_has_a_few_open_sessions_and_leaves_the_others_theirs() {
    for kept in [Kept::Embedded, Kept::Redis] {
        let world = Plan::default().kept(kept).start().await;
        let mut first = None;
        for number in 0..20 {
            let started = start_at(&world.daemon, &world.key, "eager").await;
            assert_eq!(started.status, 201, "{number}: {}", started.text());
            first.get_or_insert_with(|| started.json());
        }
        let refused = start_at(&world.daemon, &world.key, "eager").await;
        assert!(is_over_the_limit(&refused), "{} {}", refused.status, refused.text());
        assert!(text(&refused.json(), "detail").contains("for this connection"), "{}", refused.text());
        assert_eq!(start_at(&world.daemon, &world.key, "another").await.status, 201);
        // His links work all the same, and one that is over gives its place back.
        let mut browser = Browser::default();
        let first = first.expect("there are many");
        world.sign_in(&mut browser, text(&first, "connect_url")).await;
        let account = world.session(text(&first, "id")).await["account"].clone();
        let account = json!({ "account": { "tid": account["tid"], "oid": account["oid"] } });
        let confirm = format!("/v1/connect-sessions/{}/confirm", text(&first, "id"));
        assert_eq!(world.api(Method::POST, &confirm, account).await.status, 200);
        // (Who was at the limit is believed to be for a second.)
        world
            .until("there is a place again", async || {
                start_at(&world.daemon, &world.key, "eager").await.status == 201
            })
            .await;
    }
}

/// Sessions that nobody uses, for ever new connections, leave nothing behind in the store.
#[tokio::test]
async fn what_is_counted_has_as_many_keys_as_there_are_callers() {
    let world = Plan::default().kept(Kept::Redis).start().await;
    for number in 0..30 {
        let started = start_at(&world.daemon, &world.key, &format!("user-{number}")).await;
        assert_eq!(started.status, 201, "{number}: {}", started.text());
        let tenant = format!("tenant-{number}.example");
        assert_eq!(start_consent(&world.daemon.local, &world.key, &tenant).await.status, 201);
    }
    assert_eq!(keys_of(&world, "tokenward:counted:*"), 2, "open sessions, and open admin consent sessions");
    world.pass(Duration::from_secs(2 * 3600));
    world
        .until("those that ended are forgotten", async || {
            assert_eq!(start_at(&world.daemon, &world.key, "one-more").await.status, 201);
            let redis = world.redis.as_ref().expect("redis");
            redis
                .cli(&["ZCARD", &format!("tokenward:counted:{{sessions/{SYNC}}}")])
                .parse::<u32>()
                .is_ok_and(|left| left < 30)
        })
        .await;
    assert_eq!(keys_of(&world, "tokenward:counted:*"), 2);
}

/// Where as many sessions are over as a caller may have to read, one that ends holds its places for two
/// minutes and no longer: that among its caller's and that among its connection's.
#[tokio::test]
async fn a_session_that_is_over_gives_its_connection_s_place_back_within_minutes() {
    let sections = format!("[limits]\nopen_sessions = {MOST_SESSIONS}\n");
    let world = Plan::default().sections(&sections).start().await;
    let mut ended = 0;
    let refused = loop {
        let started = start_at(&world.daemon, &world.key, "eager").await;
        if started.status != 201 {
            break started;
        }
        let mut browser = Browser::default();
        let authorize_url = press(&mut browser, &started.json()).await;
        let state = parameter(&authorize_url, "state");
        let url = format!("{}/callback/outlook?error=access_denied&state={state}", world.base_url());
        assert_eq!(browser.get(&url).await.expect("a page").status, 200);
        ended += 1;
        assert!(ended <= 4 * MOST_SESSIONS, "they are counted");
    };
    assert!(is_over_the_limit(&refused), "{} {}", refused.status, refused.text());
    world.pass(Duration::from_secs(121));
    let again = start_at(&world.daemon, &world.key, "eager").await;
    assert_eq!(again.status, 201, "{}", again.text());
}

#[tokio::test]
async fn a_caller_has_so_many_admin_consent_sessions_and_of_one_tenant_fewer() {
    let world = Plan::default().kept(Kept::Redis).sections(&neighbour("")).start().await;
    let start = async |tenant: Option<String>| {
        let mut body = json!({ "app": "outlook" });
        if let Some(tenant) = tenant {
            body["tenant"] = json!(tenant);
        }
        as_neighbour(&world, Method::POST, "/v1/admin-consent-sessions", &body).await
    };
    for number in 0..MOST_CONSENTS_OF_TENANT {
        // However it is spelt.
        let tenant = if number % 2 == 0 { "contoso.example" } else { "CONTOSO.example" };
        let started = start(Some(tenant.to_owned())).await;
        assert_eq!(started.status, 201, "{}", started.text());
    }
    let refused = start(Some("contoso.example".to_owned())).await;
    assert!(is_over_the_limit(&refused), "{}", refused.text());
    assert!(text(&refused.json(), "detail").contains("for this tenant"), "{}", refused.text());
    for number in MOST_CONSENTS_OF_TENANT..MOST_CONSENTS {
        let tenant = (number % 2 == 0).then(|| format!("tenant-{number}.example"));
        assert_eq!(start(tenant).await.status, 201, "{number}");
    }
    assert!(is_over_the_limit(&start(Some("one-more.example".to_owned())).await));
    assert!(is_over_the_limit(&start(None).await));
    let of_another = world.api(Method::POST, "/v1/admin-consent-sessions", json!({ "app": "outlook" })).await;
    assert_eq!(of_another.status, 201, "another caller has its own: {}", of_another.text());
}

async fn start_consent(local: &str, key: &str, tenant: &str) -> Answer {
    let body = json!({ "app": "outlook", "tenant": tenant }).to_string();
    let bearer = format!("Bearer {key}");
    let headers = [("authorization", bearer.as_str()), ("content-type", "application/json")];
    let url = format!("{local}/v1/admin-consent-sessions");
    request(Method::POST, &url, &headers, body).await.expect("an answer")
}

/// So many ask at one moment, of every replica. The sessions that were started.
async fn all_at_once(daemons: &[&Process], key: &str, tenant: &str, asks: usize) -> Vec<Value> {
    let mut asked = tokio::task::JoinSet::new();
    for number in 0..asks {
        let url = daemons[number % daemons.len()].local.clone();
        let (key, tenant) = (key.to_owned(), tenant.to_owned());
        asked.spawn(async move { start_consent(&url, &key, &tenant).await });
    }
    let mut started = Vec::new();
    for answer in asked.join_all().await {
        match answer.status.as_u16() {
            201 => started.push(answer.json()),
            _ => assert!(is_over_the_limit(&answer), "{} {}", answer.status, answer.text()),
        }
    }
    started
}

/// Comes back from a consent page with these words.
async fn come_back(world: &World, session: &Value, words: &str) {
    let (_, query) = text(session, "admin_consent_url").split_once('?').expect("a query");
    let mut pairs = form_urlencoded::parse(query.as_bytes());
    let (_, state) = pairs.find(|(name, _)| name == "state").expect("a state");
    let url = format!("{}/callback/outlook?{words}&state={state}", world.base_url());
    let page = Browser::default().get(&url).await.expect("an answer");
    assert!(page.status == 200 || page.status == 403, "{} {}", page.status, page.text());
}

#[tokio::test]
async fn admin_consent_sessions_of_a_tenant_count_in_one_step_and_give_their_places_back() {
    const TENANT: &str = "6f1a3a3e-0000-4000-8000-00000000000d";
    for kept in [Kept::Embedded, Kept::Redis] {
        let mut world = Plan::default().kept(kept).start().await;
        let other = match kept {
            Kept::Redis => Some(world.replica("other").await),
            Kept::Embedded | Kept::Cluster => None,
        };
        let daemons: Vec<&Process> = std::iter::once(&world.daemon).chain(&other).collect();
        let at_once = async |asks| all_at_once(&daemons, &world.key, TENANT, asks).await;
        let started = at_once(2 * MOST_CONSENTS_OF_TENANT).await;
        assert_eq!(started.len(), MOST_CONSENTS_OF_TENANT, "never one too many, and none is lost");

        // One was refused by the administrator, one reported: two places are free, whoever asks at once.
        let refused = "error=access_denied&error_description=AADSTS65004%3A+declined";
        for (session, words, state) in [
            (&started[0], refused, "failed"),
            (&started[1], &*format!("admin_consent=True&tenant={TENANT}"), "reported"),
        ] {
            come_back(&world, session, words).await;
            let path = format!("/v1/admin-consent-sessions/{}", text(session, "id"));
            assert_eq!(world.api(Method::GET, &path, Value::Null).await.json()["state"], state);
            // It may be repeated, and gives one place.
            come_back(&world, session, words).await;
        }
        // (Who was at the limit is believed to be for a second.)
        let mut again = Vec::new();
        world
            .until("there are places again", async || {
                again.extend(at_once(20).await);
                again.len() >= 2
            })
            .await;
        assert_eq!(again.len() + at_once(20).await.len(), 2);

        // The links' end gives the others' places back. What became of them can still be read.
        world.pass(Duration::from_secs(3601));
        world
            .until("those that ended do not count", async || {
                start_consent(&world.daemon.local, &world.key, TENANT).await.status == 201
            })
            .await;
        let left = MOST_CONSENTS_OF_TENANT - 1;
        assert!(at_once(2 * left).await.len() <= left);
        let path = format!("/v1/admin-consent-sessions/{}", text(&started[2], "id"));
        assert_eq!(world.api(Method::GET, &path, Value::Null).await.json()["state"], "expired");
        drop(other);
        world.kill_and_restart().await;
        assert!(is_over_the_limit(&start_consent(&world.daemon.local, &world.key, TENANT).await));
    }
}

/// What the build before kept of a caller's sessions counts, and goes when they are over.
#[tokio::test]
async fn admin_consent_sessions_that_an_earlier_build_counted_count() {
    const TENANT: &str = "contoso.example";
    let world = Plan::default().kept(Kept::Redis).start().await;
    let redis = world.redis.as_ref().expect("redis");
    let key = format!("tokenward:counted:{{consents/{SYNC}}}");
    let later = (SystemTime::now() + Duration::from_secs(7200)).duration_since(UNIX_EPOCH).expect("later");
    for number in 1..MOST_CONSENTS_OF_TENANT {
        let entry = format!("outlook {} {}", sha256(TENANT), sha256(&number.to_string()));
        assert_eq!(redis.cli(&["ZADD", &key, &later.as_millis().to_string(), &entry]), "1");
    }
    let started = start_consent(&world.daemon.local, &world.key, TENANT).await;
    assert_eq!(started.status, 201, "{}", started.text());
    assert!(is_over_the_limit(&start_consent(&world.daemon.local, &world.key, TENANT).await));
    let of_it = format!("outlook {} {}", sha256(TENANT), sha256(text(&started.json(), "id")));
    assert!(redis.cli(&["ZSCORE", &key, &of_it]).parse::<f64>().is_ok(), "as the build before has it");
    assert_eq!(start_consent(&world.daemon.local, &world.key, "another.example").await.status, 201);
}

fn keys_of(world: &World, pattern: &str) -> usize {
    let redis = world.redis.as_ref().expect("the world has one");
    let counted = redis.cli(&["EVAL", "return #redis.call('KEYS', ARGV[1])", "0", pattern]);
    counted.parse().unwrap_or_else(|_| panic!("{counted}"))
}

#[tokio::test]
async fn a_link_pressed_over_and_over_leaves_a_few_records_and_the_last_presses_work() {
    let world = Plan::default().kept(Kept::Redis).start().await;
    world.entra.sign_in_as(ALICE);
    let session = world.start_session(json!({ "app": "outlook", "connection": "alice" })).await;
    let link = text(&session, "connect_url").to_owned();
    let mut browser = Browser::default();
    let mut pressed = Vec::new();
    for number in 0..MOST_PRESSES {
        let url = press(&mut browser, &session).await;
        pressed.push(url);
        let states = keys_of(&world, "tokenward:pending:{state:*");
        assert!(states <= MOST_STATES, "{states} after {number} presses");
    }
    for _ in 0..20 {
        let refused = browser.post(&link, "").await.expect("an answer");
        assert_eq!(refused.status, 429, "{}", refused.text());
        assert!(refused.text().contains("used too often"), "{}", refused.text());
    }
    assert_eq!(keys_of(&world, "tokenward:pending:{state:*"), MOST_STATES);

    // Back, or another tab: an earlier press goes on. One from long before is told that it is over.
    let base = world.base_url();
    let away = |url: &str| !url.starts_with(&base) && !url.contains("/oauth2/");
    let (_, page) = browser.follow(&pressed[0], away).await.expect("the way back");
    assert_eq!(page.status, 400, "{}", page.text());
    let earlier = &pressed[MOST_PRESSES - MOST_STATES];
    let (_, page) = browser.follow(earlier, away).await.expect("the way back");
    assert_eq!(page.status, 200, "{}", page.text());
    assert_eq!(world.session(text(&session, "id")).await["state"], "awaiting_confirmation");
}

#[tokio::test]
async fn a_store_that_is_nearly_full_starts_nothing_and_goes_on_renewing() {
    let world = Plan::default().kept(Kept::Redis).sections(&neighbour("")).start().await;
    world.connect("alice", ALICE).await;
    let connection = json!({ "app": "outlook", "connection": "bob" });
    let pressed = world.start_session(connection.clone()).await;
    let opened = world.start_session(json!({ "app": "outlook", "connection": "carol" })).await;
    let mut browser = Browser::default();
    let under_way = press(&mut browser, &pressed).await;

    let redis = world.redis.as_ref().expect("redis");
    redis.cli(&["EVAL", "redis.call('SET', 'somebody-elses', string.rep('x', 20000000)) return 1", "0"]);
    let memory = redis.cli(&["INFO", "memory"]);
    let used = memory.lines().find_map(|line| line.trim().strip_prefix("used_memory:")).expect("it tells");
    let used: u64 = used.parse().expect("a number");
    let maxmemory = (used / 94 * 100).to_string();
    assert_eq!(
        redis.cli(&["CONFIG", "SET", "maxmemory", &maxmemory, "maxmemory-policy", "noeviction"]),
        "OK"
    );
    let said = |is: u8| format!("tokenward_store_risk{{risk=\"full\"}} {is}\n");
    world.pass(Duration::from_secs(60));
    world.until("it is said", async || world.metrics().await.contains(&said(1))).await;

    let refused = world.api(Method::POST, "/v1/connect-sessions", connection.clone()).await;
    assert_eq!((refused.status.as_u16(), &refused.json()["code"]), (503, &json!("store_unavailable")));
    assert!(text(&refused.json(), "title").contains("nearly full"), "{}", refused.text());
    assert!(refused.headers.contains_key("retry-after"));
    let refused = world.api(Method::POST, "/v1/admin-consent-sessions", json!({ "app": "outlook" })).await;
    assert_eq!(refused.status, 503, "{}", refused.text());
    let refused = browser.post(text(&opened, "connect_url"), "").await.expect("an answer");
    assert_eq!(refused.status, 503, "{}", refused.text());

    // Whoever is at the authority comes back, and renewals are stored.
    let base = world.base_url();
    let away = |url: &str| !url.starts_with(&base) && !url.contains("/oauth2/");
    let (_, page) = browser.follow(&under_way, away).await.expect("the way back");
    assert_eq!(page.status, 200, "{}", page.text());
    assert_eq!(world.session(text(&pressed, "id")).await["state"], "awaiting_confirmation");
    world.outlive_tokens();
    let before = world.token_calls("refresh_token");
    assert_eq!(world.token("alice").await.status, 200, "{}", world.daemon.log());
    assert!(world.token_calls("refresh_token") > before);

    assert_eq!(redis.cli(&["CONFIG", "SET", "maxmemory", "0"]), "OK");
    world
        .until("there is room again", async || {
            world.api(Method::POST, "/v1/connect-sessions", connection.clone()).await.status == 201
        })
        .await;
}

/// A Redis that grows to the memory it may have is ended by the kernel; rewriting its append-only file takes
/// some beside.
#[test]
fn the_packaged_redis_stops_before_the_kernel_stops_it() {
    let compose = include_str!("../../deploy/compose/compose.yaml");
    let redis = compose.split("\n  redis:\n").nth(1).expect("it is there").split("\n  prometheus:").next();
    let lines: Vec<&str> = redis.expect("it ends").lines().map(str::trim).collect();
    let after = |word: &str| {
        let at = lines.iter().position(|line| *line == word).unwrap_or_else(|| panic!("no {word}"));
        lines[at + 1].trim_start_matches("- ")
    };
    let maxmemory: u64 = after("- --maxmemory").strip_suffix("mb").expect("MiB").parse().expect("a number");
    let limit = lines.iter().find_map(|line| line.strip_prefix("mem_limit: ")).expect("it has one");
    let limit: u64 = limit.strip_suffix('g').expect("GiB").parse().expect("a number");
    assert!(maxmemory * 3 <= limit * 1024 * 2, "{maxmemory} MiB of {limit} GiB");
    assert_eq!(after("- --maxmemory-policy"), "noeviction");
}
