//! Attacks on rights: a right is judged when it is used, and only operators undo an operator's act. Every
//! door of a caller, its user's browser or an operator is tried, and not only the one that an attack once
//! used.

use std::collections::BTreeMap;
use std::time::Duration;

use entra_emulator::{Endpoint, Fault, FaultRule, User};
use http::Method;
use serde_json::{Value, json};
use tokenward::callers::key_file;
use tokenward::domain::account::PERSONAL_TENANT;
use tokenward::domain::id::CallerName;
use tokenward::domain::time::Clock;
use tokenward::system::{SystemClock, SystemRandom};

use crate::attacks_connect::{account_of, redemptions, up_to_callback};
use crate::http_client::{Answer, Browser, request_unix};
use crate::world::{ALICE, BOB, Kept, Plan, World, text};

/// The tenant of [`BOB`].
pub(crate) const BOBS_TENANT: &str = "22222222-0000-4000-8000-00000000000b";
/// The caller whose rights are taken away.
const HARNESS: &str = "harness";

/// A world with one more caller, whose rules are these lines.
pub(crate) async fn with_harness(plan: Plan, rules: &str) -> (World, String) {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("keys");
    let caller = CallerName::parse(HARNESS).expect("a name");
    let (now, day) = (SystemClock::new().now(), Duration::from_secs(86_400));
    let (key, _) = key_file::add(&path, &caller, &SystemRandom::new(), now, day).expect("a key");
    let hashes = std::fs::read_to_string(&path).expect("the key file");
    let plan = plan.file("harness.keys", &hashes).sections(&harness(rules));
    (plan.start().await, key.expose().to_owned())
}

pub(crate) fn harness(rules: &str) -> String {
    format!(
        "[callers.{HARNESS}]\nauthenticate = [{{ api_keys = \"harness.keys\" }}]\n\
         [[callers.{HARNESS}.allow]]\napp = \"outlook\"\n{rules}\n"
    )
}

pub(crate) const TEAM_A: &str = "connections = [\"team-a/*\"]\nscopes = [\"*\"]\nconnect = true";

/// Asks as an operator.
pub(crate) async fn operate(world: &World, method: Method, path: &str, body: Value) -> Answer {
    let socket = world.folder.path().join("admin.sock");
    let body = if body.is_null() { String::new() } else { body.to_string() };
    request_unix(&socket, method, path, &[], body).await.expect("an answer")
}

pub(crate) async fn pause(world: &World, connection: &str, paused: bool) -> Answer {
    let path = format!("/admin/v1/apps/outlook/connections/{}", connection.replace('/', "%2F"));
    operate(world, Method::PATCH, &path, json!({ "paused": paused })).await
}

/// Has the configuration changed and taken up.
pub(crate) async fn reconfigure(world: &World, from: &str, to: &str) {
    let path = world.folder.path().join("tokenward.toml");
    let config = std::fs::read_to_string(&path).expect("the configuration");
    assert!(config.contains(from), "{config}");
    std::fs::write(&path, config.replace(from, to)).expect("write");
    let reloaded = operate(world, Method::POST, "/admin/v1/reload", Value::Null).await.json();
    assert_eq!(reloaded["outcome"], "ok", "{reloaded}");
}

fn account(user: &User) -> Value {
    json!({ "tid": user.tenant_id(), "oid": user.object_id() })
}

/// Sessions of one connection, each brought to another step by its user before anything happens to the right
/// that they were started with.
struct Open {
    connection: String,
    /// The link was opened, its button is still to be pressed.
    link: (Browser, Value),
    /// The user has signed in, and the browser is about to come back.
    signed_in: (Browser, Value, String),
    /// It waits for its confirmation.
    waiting: (Value, Value),
}

impl Open {
    /// For [`ALICE`], by whoever has this key. A connection that is there is to be renewed.
    async fn new(world: &World, key: &str, connection: &str, is_there: bool) -> Open {
        world.entra.sign_in_as(ALICE);
        let alice = account(&User::work(ALICE));
        let start = async |more: Value| {
            let mut body = json!({ "app": "outlook", "connection": connection });
            body.as_object_mut().expect("an object").extend(more.as_object().expect("one").clone());
            let started = world.api_as(key, Method::POST, "/v1/connect-sessions", body).await;
            assert_eq!(started.status, 201, "{}", started.text());
            started.json()
        };
        let mut link = (Browser::default(), start(json!({ "account": alice })).await);
        let page = link.0.get(text(&link.1, "connect_url")).await.expect("the page");
        assert_eq!(page.status, 200, "{}", page.text());
        let mut browser = Browser::default();
        let session = start(json!({ "account": alice })).await;
        let callback = up_to_callback(&mut browser, &session).await;
        let signed_in = (browser, session, callback);
        let unpinned = if is_there { json!({ "change_account": true }) } else { json!({}) };
        let session = start(unpinned).await;
        let (mut browser, url) = (Browser::default(), text(&session, "connect_url").to_owned());
        world.sign_in(&mut browser, &url).await;
        let path = format!("/v1/connect-sessions/{}", text(&session, "id"));
        let state = world.api_as(key, Method::GET, &path, Value::Null).await.json();
        assert_eq!(state["state"], "awaiting_confirmation", "{state}");
        Open { connection: connection.to_owned(), link, signed_in, waiting: (session, state) }
    }

    /// What each door says now: its status, and its code or its page's title. No door may have a code sent.
    async fn try_doors(&mut self, world: &World, key: &str) -> BTreeMap<&'static str, (u16, String)> {
        let sent = redemptions(world);
        let mut said: BTreeMap<&'static str, (u16, String)> = BTreeMap::new();
        let name = self.connection.replace('/', "%2F");
        let path = |tail: &str| format!("/v1/apps/outlook/connections/{name}{tail}");
        let session = |id: &Value, tail: &str| format!("/v1/connect-sessions/{}{tail}", text(id, "id"));
        let start = json!({ "app": "outlook", "connection": self.connection });
        let moved = json!({ "app": "outlook", "connection": self.connection, "change_account": true });
        for (door, method, path, body) in [
            ("start", Method::POST, "/v1/connect-sessions".to_owned(), start),
            ("start to move it", Method::POST, "/v1/connect-sessions".to_owned(), moved),
            ("confirm", Method::POST, session(&self.waiting.0, "/confirm"), account_of(&self.waiting.1)),
            ("token", Method::GET, path("/token"), Value::Null),
            ("token with a link", Method::GET, path("/token?connect=1"), Value::Null),
            ("show", Method::GET, path(""), Value::Null),
            ("explain", Method::GET, path("/explain"), Value::Null),
            ("delete", Method::DELETE, path(""), Value::Null),
        ] {
            let answer = world.api_as(key, method, &path, body).await;
            let code = if answer.status.is_success() { "ok".to_owned() } else { code(&answer) };
            let starts = answer.status.is_success() || said.get("start").is_some_and(|start| start.0 == 201);
            assert!(starts || !answer.text().contains("\"connect_url\""), "{door}: {}", answer.text());
            said.insert(door, (answer.status.as_u16(), code));
        }
        let listed = world.api_as(key, Method::GET, "/v1/apps/outlook/connections", Value::Null).await;
        let lists = listed.text().contains(&format!("\"connection\":\"{}\"", self.connection));
        said.insert("list", (listed.status.as_u16(), if lists { "listed" } else { "not listed" }.to_owned()));
        let (browser, link) = &mut self.link;
        let url = text(link, "connect_url");
        let page = browser.get(url).await.expect("the link");
        said.insert("link", (page.status.as_u16(), title(&page)));
        let pressed = browser.post(url, "").await.expect("the button");
        said.insert("button", (pressed.status.as_u16(), title(&pressed)));
        let (browser, _, callback) = &mut self.signed_in;
        let back = browser.get(callback).await.expect("the callback");
        said.insert("callback", (back.status.as_u16(), title(&back)));
        assert_eq!(redemptions(world), sent, "a code was sent");
        said
    }

    /// Where the session stands whose user came back.
    async fn came_back(&self, world: &World, key: &str) -> Value {
        let path = format!("/v1/connect-sessions/{}", text(&self.signed_in.1, "id"));
        world.api_as(key, Method::GET, &path, Value::Null).await.json()
    }
}

/// Every route of the local API is tried with rights that are gone: here by [`Open::try_doors`], or by a test
/// that is named. A new one finds its place before this passes.
#[test]
fn every_route_is_a_door_that_is_tried() {
    const CONNECTION: &str = "/v1/apps/{app}/connections/{connection}";
    let token = format!("{CONNECTION}/token");
    let explain = format!("{CONNECTION}/explain");
    let of_identity = format!("{CONNECTION}/msi/token");
    let watch = format!("{CONNECTION}/token/watch");
    let relay = format!("{CONNECTION}/relay/{{base}}/{{path}}");
    let mut tried = vec![
        ("GET", token.as_str()),
        ("GET", explain.as_str()),
        ("GET", CONNECTION),
        ("DELETE", CONNECTION),
        ("GET", "/v1/apps/{app}/connections"),
        ("POST", "/v1/connect-sessions"),
        ("GET", "/v1/connect-sessions/{id}"),
        ("POST", "/v1/connect-sessions/{id}/confirm"),
        // It does what GET does, once its body is read.
        ("POST", token.as_str()),
        // an_administrators_answer_counts_for_those_who_may_ask_for_it_now
        ("POST", "/v1/admin-consent-sessions"),
        ("GET", "/v1/admin-consent-sessions/{id}"),
        // app_tokens::an_operators_revocation_ends_what_the_rule_gave_before_it
        ("GET", "/v1/apps/{app}/token"),
        // They ask for a token as GET does (doors::the_same_trouble_is_told_at_every_door_in_its_own_form).
        ("GET", "/msi/token"),
        ("GET", of_identity.as_str()),
        // watch::what_takes_the_right_away_ends_a_stream_and_what_passes_does_not
        ("GET", watch.as_str()),
        // It asks for a token as GET does (token_exchange::a_pause_and_a_delete_hold_at_this_door_too).
        ("POST", "/oauth2/token"),
        // They are anybody's.
        ("GET", "/openapi.json"),
        ("GET", "/.well-known/oauth-authorization-server"),
        ("GET", "/v1/sys/health"),
        ("HEAD", "/v1/sys/health"),
        // It tells a caller what it may see: notices::a_caller_hears_of_what_it_may_see_alone
        ("GET", "/v1/events"),
        // It tells a caller who it is.
        ("GET", "/v1/auth/token/lookup-self"),
        // It hands out as GET …/token does: vault_s_paths_give_the_token_and_refuse_in_vault_s_form
        ("GET", "/v1/{mount}/creds/{connection}"),
    ];
    // They ask for a token as GET …/token does, and are judged by the same rules' connections
    // (doors::the_same_trouble_is_told_at_every_door_in_its_own_form).
    tried.extend(["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"].map(|method| (method, relay.as_str())));
    // handles::what_a_handle_hangs_on_ends_it
    let handles = format!("{CONNECTION}/handles");
    tried.push(("POST", handles.as_str()));
    let mut routes = tokenward::api::ROUTES.to_vec();
    tried.sort_unstable();
    routes.sort_unstable();
    assert_eq!(routes, tried);
}

fn code(answer: &Answer) -> String {
    answer.json()["code"].as_str().unwrap_or_default().to_owned()
}

fn title(page: &Answer) -> String {
    let page = page.text();
    let title = page.split("<h1>").nth(1).and_then(|rest| rest.split("</h1>").next());
    title.unwrap_or_default().to_owned()
}

fn expected(rows: &[(&'static str, u16, &str)]) -> BTreeMap<&'static str, (u16, String)> {
    rows.iter().map(|(door, status, said)| (*door, (*status, (*said).to_owned()))).collect()
}

/// Everything that a caller and its user can do to a paused connection, and what is left of the pause by a
/// delete.
async fn a_pause_ends_by_an_operators_word_alone(kept: Kept) {
    let (mut world, key) = with_harness(Plan::default().kept(kept), TEAM_A).await;
    world.connect("team-a/ceo", ALICE).await;
    let before = world.show("team-a/ceo").await;
    let mut open = Open::new(&world, &key, "team-a/ceo", true).await;
    let mut second = Open::new(&world, &key, "team-a/ceo", true).await;
    assert_eq!(pause(&world, "team-a/ceo", true).await.status, 200);

    let doors = |token: (u16, &'static str), shown: (u16, &'static str), listed: &'static str| {
        expected(&[
            ("start", 409, "connection_paused"),
            ("start to move it", 409, "connection_paused"),
            ("confirm", 409, "connection_paused"),
            ("token", token.0, token.1),
            ("token with a link", token.0, token.1),
            ("show", shown.0, shown.1),
            ("explain", shown.0, shown.1),
            ("delete", 409, "connection_paused"),
            ("list", 200, listed),
            ("link", 409, "This cannot be connected at the moment"),
            ("button", 409, "This cannot be connected at the moment"),
            ("callback", 200, "This cannot be connected at the moment"),
        ])
    };
    let said = open.try_doors(&world, &key).await;
    assert_eq!(said, doors((409, "connection_paused"), (200, "ok"), "listed"));
    let state = open.came_back(&world, &key).await;
    assert_eq!((text(&state, "state"), text(&state, "reason")), ("failed", "connection_paused"), "{state}");
    let shown = world.show("team-a/ceo").await;
    assert_eq!((text(&shown, "status"), &shown["created_at"]), ("paused", &before["created_at"]), "{shown}");

    // An operator has nothing tried of it either before it is resumed.
    let path = "/admin/v1/apps/outlook/connections/team-a%2Fceo";
    let tried = operate(&world, Method::POST, path, Value::Null).await;
    assert_eq!((tried.status.as_u16(), code(&tried)), (409, "connection_paused".to_owned()));

    // An operator may delete it; the name stays paused, through a restart too.
    assert_eq!(operate(&world, Method::DELETE, path, Value::Null).await.status, 204);
    world.kill_and_restart().await;
    let said = second.try_doors(&world, &key).await;
    assert_eq!(said, doors((404, "connection_not_found"), (404, "connection_not_found"), "not listed"));
    let shown = operate(&world, Method::GET, path, Value::Null).await;
    assert_eq!(shown.status, 404);
    assert!(text(&shown.json(), "hint").contains("connections resume"), "{}", shown.text());

    // What an operator did, an operator undoes.
    let resumed = pause(&world, "team-a/ceo", false).await;
    assert_eq!(resumed.status, 204, "{}", resumed.text());
    world.connect("team-a/ceo", ALICE).await;
    world.access_token("team-a/ceo").await;
    assert_eq!(world.show("team-a/ceo").await["status"], "active");
    // Where there is nothing and nothing is held, there is nothing to pause.
    assert_eq!(pause(&world, "team-a/nobody", true).await.status, 404);
    assert_eq!(pause(&world, "team-a/nobody", false).await.status, 404);
}

#[tokio::test]
async fn a_pause_ends_by_an_operators_word_alone_embedded() {
    a_pause_ends_by_an_operators_word_alone(Kept::Embedded).await;
}

#[tokio::test]
async fn a_pause_ends_by_an_operators_word_alone_redis() {
    a_pause_ends_by_an_operators_word_alone(Kept::Redis).await;
}

/// The kill switch destroys a paused connection; its name stays paused all the same, also where it was paused
/// by a build that noted it in the connection alone.
#[tokio::test]
async fn a_pause_outlives_a_revocation() {
    let world = Plan::default().kept(Kept::Redis).start().await;
    world.connect("one", ALICE).await;
    assert_eq!(pause(&world, "one", true).await.status, 200);
    let redis = world.redis.as_ref().expect("redis");
    assert_eq!(redis.cli(&["DEL", "tokenward:pending:{paused-name:outlook:one}"]), "1");
    let start = json!({ "app": "outlook", "connection": "one" });
    let started = world.api(Method::POST, "/v1/connect-sessions", start).await;
    assert_eq!((started.status.as_u16(), code(&started)), (409, "connection_paused".to_owned()));
    let revoked = operate(&world, Method::POST, "/admin/v1/revocations", json!({ "app": "outlook" })).await;
    assert_eq!(revoked.status, 200, "{}", revoked.text());
    world.until("the connection is gone", async || world.token("one").await.status == 404).await;
    let start = json!({ "app": "outlook", "connection": "one" });
    let started = world.api(Method::POST, "/v1/connect-sessions", start).await;
    assert_eq!((started.status.as_u16(), code(&started)), (409, "connection_paused".to_owned()));
    assert_eq!(pause(&world, "one", false).await.status, 204);
    world.connect("one", ALICE).await;
}

/// A caller that may do no more, or is gone, has started sessions before: none of them connects anybody.
#[tokio::test]
async fn a_session_is_worth_what_its_starter_may_now() {
    let (world, key) = with_harness(Plan::default(), TEAM_A).await;
    let mut narrowed = Open::new(&world, &key, "team-a/narrowed", false).await;
    let mut elsewhere = Open::new(&world, &key, "team-a/elsewhere", false).await;
    let mut gone = Open::new(&world, &key, "team-a/gone", false).await;
    let no_more = "This application may not connect your account";
    let doors = |start: (u16, &'static str), shown: (u16, &'static str)| {
        expected(&[
            ("start", start.0, start.1),
            ("start to move it", start.0, start.1),
            ("confirm", start.0, start.1),
            ("delete", start.0, start.1),
            ("token", shown.0, shown.1),
            ("token with a link", shown.0, shown.1),
            ("show", shown.0, shown.1),
            ("explain", shown.0, shown.1),
            ("list", if shown.0 == 401 { 401 } else { 200 }, "not listed"),
            ("link", 403, no_more),
            ("button", 403, no_more),
            ("callback", 200, no_more),
        ])
    };

    // It may see, and not connect any more.
    reconfigure(&world, TEAM_A, &TEAM_A.replace("true", "false")).await;
    let said = narrowed.try_doors(&world, &key).await;
    assert_eq!(said, doors((403, "caller_forbidden"), (404, "connection_not_found")));
    let state = narrowed.came_back(&world, &key).await;
    assert_eq!((text(&state, "state"), text(&state, "reason")), ("failed", "caller_forbidden"), "{state}");

    // Other names are its business now.
    reconfigure(&world, "\"team-a/*\"", "\"team-c/*\"").await;
    let said = elsewhere.try_doors(&world, &key).await;
    let mut not_there = doors((404, "connection_not_found"), (404, "connection_not_found"));
    not_there.insert("confirm", (404, "session_not_found".to_owned()));
    assert_eq!(said, not_there);
    assert_eq!(elsewhere.came_back(&world, &key).await["code"], "session_not_found");

    // It is gone.
    let rules = TEAM_A.replace("true", "false").replace("team-a", "team-c");
    reconfigure(&world, &harness(&rules), "").await;
    let said = gone.try_doors(&world, &key).await;
    assert_eq!(said, doors((401, "caller_unauthenticated"), (401, "caller_unauthenticated")));

    for name in ["narrowed", "elsewhere", "gone"] {
        assert_eq!(world.token(&format!("team-a/{name}")).await.status, 404, "{name}");
    }
}

/// What an operator does while the authority is being asked counts: the answer is judged when it comes.
#[tokio::test]
async fn an_answer_that_comes_after_an_operators_act_is_judged_by_it() {
    let (world, key) = with_harness(Plan::default(), TEAM_A).await;
    world.connect("team-a/one", ALICE).await;
    let before = world.show("team-a/one").await;
    let narrow = TEAM_A.replace("true", "false");
    for reason in ["connection_paused", "caller_forbidden", "revoked"] {
        let start = json!({ "app": "outlook", "connection": "team-a/one" });
        let session = world.api_as(&key, Method::POST, "/v1/connect-sessions", start).await.json();
        let mut browser = Browser::default();
        let callback = up_to_callback(&mut browser, &session).await;
        world.pass(Duration::from_secs(1));
        let sent = redemptions(&world);
        let held = FaultRule::new(Endpoint::Token, Fault::HoldAnswer).grant_type("authorization_code");
        world.entra.faults().inject(held);
        let act = async {
            world.until_called("authorization_code", sent + 1).await;
            match reason {
                "connection_paused" => assert_eq!(pause(&world, "team-a/one", true).await.status, 200),
                "caller_forbidden" => reconfigure(&world, TEAM_A, &narrow).await,
                _ => {
                    let meant = json!({ "caller": HARNESS });
                    let revoked = operate(&world, Method::POST, "/admin/v1/revocations", meant).await;
                    assert_eq!(revoked.status, 200, "{}", revoked.text());
                }
            }
            world.entra.faults().release();
        };
        let (page, ()) = tokio::join!(browser.get(&callback), act);
        world.entra.faults().clear();
        let page = page.expect("the callback");
        assert_eq!(page.status, 200, "{reason}: {}", page.text());
        let path = format!("/v1/connect-sessions/{}", text(&session, "id"));
        let state = world.api_as(&key, Method::GET, &path, Value::Null).await.json();
        assert_eq!((text(&state, "state"), text(&state, "reason")), ("failed", reason), "{state}");
        match reason {
            "connection_paused" => assert_eq!(pause(&world, "team-a/one", false).await.status, 200),
            "caller_forbidden" => reconfigure(&world, &narrow, TEAM_A).await,
            _ => {}
        }
        // What was there is as it was, and what was brought was not put into its place.
        let shown = world.show("team-a/one").await;
        for member in ["status", "account", "created_at", "last_refreshed_at", "established_by"] {
            assert_eq!(shown[member], before[member], "{reason} {member}");
        }
    }
}

/// An administrator's answer is used for those who may still ask for it.
#[tokio::test]
async fn an_administrators_answer_counts_for_those_who_may_ask_for_it_now() {
    let (world, key) = with_harness(Plan::default(), TEAM_A).await;
    let start = async || {
        let body = json!({ "app": "outlook", "tenant": User::work(ALICE).tenant_id() });
        let started = world.api_as(&key, Method::POST, "/v1/admin-consent-sessions", body).await;
        assert_eq!(started.status, 201, "{}", started.text());
        started.json()
    };
    let answer = async |session: &Value| {
        let url = text(session, "admin_consent_url").to_owned();
        let (_, page) = Browser::default().follow(&url, |_| false).await.expect("the way back");
        let path = format!("/v1/admin-consent-sessions/{}", text(session, "id"));
        (title(&page), world.api_as(&key, Method::GET, &path, Value::Null).await.json())
    };
    let (good, narrowed, revoked) = (start().await, start().await, start().await);
    let (page, state) = answer(&good).await;
    assert_eq!((page.as_str(), text(&state, "state")), ("Thank you", "reported"));

    let narrow = TEAM_A.replace("true", "false");
    reconfigure(&world, TEAM_A, &narrow).await;
    let (page, state) = answer(&narrowed).await;
    assert_eq!(page, "This link was withdrawn");
    assert_eq!((text(&state, "state"), text(&state, "reason")), ("failed", "caller_forbidden"), "{state}");

    reconfigure(&world, &narrow, TEAM_A).await;
    world.pass(Duration::from_secs(1));
    let meant = json!({ "caller": HARNESS });
    assert_eq!(operate(&world, Method::POST, "/admin/v1/revocations", meant).await.status, 200);
    let (page, state) = answer(&revoked).await;
    assert_eq!(page, "This link was withdrawn");
    assert_eq!((text(&state, "state"), text(&state, "reason")), ("failed", "revoked"), "{state}");
}

/// The kill switch ends what was begun: links that were given, users who are on their way, accounts that
/// wait.
#[tokio::test]
async fn the_kill_switch_ends_open_sessions() {
    let tenant = User::work(ALICE).tenant_id().to_owned();
    for (number, meant) in
        [json!({ "caller": HARNESS }), json!({ "app": "outlook" }), json!({ "tenant": tenant })]
            .into_iter()
            .enumerate()
    {
        let (world, key) = with_harness(Plan::default(), TEAM_A).await;
        world.connect("another", BOB).await;
        world.connect("alice", ALICE).await;
        let name = format!("team-a/{number}");
        let mut open = Open::new(&world, &key, &name, false).await;
        let start = json!({ "app": "outlook", "connection": name });
        let session = world.api_as(&key, Method::POST, "/v1/connect-sessions", start).await.json();
        let mut whoever = (Browser::default(), String::new());
        whoever.1 = up_to_callback(&mut whoever.0, &session).await;
        world.pass(Duration::from_secs(1));
        let revoked = operate(&world, Method::POST, "/admin/v1/revocations", meant.clone()).await;
        assert_eq!(revoked.status, 200, "{meant}: {}", revoked.text());
        world.pass(Duration::from_secs(1));
        let said = open.try_doors(&world, &key).await;
        let over = "This link was withdrawn";
        let rows = expected(&[
            // What begins anew is not meant.
            ("start", 201, "ok"),
            ("start to move it", 201, "ok"),
            ("confirm", 409, "confirmation_rejected"),
            ("token", 404, "connection_not_found"),
            ("show", 404, "connection_not_found"),
            ("explain", 404, "connection_not_found"),
            ("delete", 404, "connection_not_found"),
            ("list", 200, "not listed"),
            ("link", 410, over),
            ("button", 410, over),
            ("callback", 200, over),
        ]);
        for (door, row) in &rows {
            assert_eq!(&said[door], row, "{meant} {door}: {said:?}");
        }
        let state = open.came_back(&world, &key).await;
        assert_eq!((text(&state, "state"), text(&state, "reason")), ("failed", "revoked"), "{meant} {state}");
        // Whose account it would be was not known before: it is refused as soon as it is.
        let back = whoever.0.get(&whoever.1).await.expect("the callback");
        assert_eq!((back.status.as_u16(), title(&back).as_str()), (200, over), "{meant}");
        assert_eq!(world.token(&name).await.status, 404);
        world.connect(&name, ALICE).await;
        world.access_token(&name).await;
    }
}

/// An emergency command that names nothing is refused, and one that means something says how much, before and
/// after.
#[tokio::test]
async fn the_kill_switch_says_what_it_means_and_refuses_what_names_nothing() {
    let world = Plan::default().start().await;
    for name in ["alice-1", "alice-2"] {
        world.connect(name, ALICE).await;
    }
    world.connect("bob", BOB).await;
    let tenant = User::work(ALICE).tenant_id().to_owned();
    let cut = &tenant[..tenant.len() - 1];
    let mistyped = format!("{cut}{}", if tenant.ends_with('f') { '0' } else { 'f' });
    let run = |arguments: &[&str]| {
        let done = std::process::Command::new(env!("CARGO_BIN_EXE_tokenward"))
            .arg("revoke")
            .args(arguments)
            .arg("--config")
            .arg(world.folder.path().join("tokenward.toml"))
            .stdin(std::process::Stdio::null())
            .output()
            .expect("it ends");
        let said = String::from_utf8_lossy(&done.stderr).into_owned();
        (done.status.code(), said, String::from_utf8_lossy(&done.stdout).into_owned())
    };
    for (named, value, status, words) in [
        ("tenant", "contoso.example", 2, "is no tenant id"),
        ("tenant", cut, 2, "is no tenant id"),
        ("tenant", mistyped.as_str(), 1, "no connection has an account of this tenant"),
        ("caller", "mail-synk", 1, "no caller of this name"),
        ("app", "outlok", 1, "no app of this name"),
    ] {
        let (code, said, _) = run(&[&format!("--{named}"), value, "--yes"]);
        assert_eq!((code, said.contains(words)), (Some(status), true), "{named} {value}: {said}");
        let answer = operate(&world, Method::POST, "/admin/v1/revocations", json!({ named: value })).await;
        assert_eq!(answer.status, 400, "{named} {value}: {}", answer.text());
        assert_eq!(answer.json()["parameter"], named, "{}", answer.text());
    }
    for name in ["alice-1", "alice-2", "bob"] {
        world.access_token(name).await;
    }

    // How many are meant is said before anything is done.
    let (code, said, _) = run(&["--tenant", &tenant]);
    assert_eq!((code, said.contains("2 connections")), (Some(1), true), "{said}");
    world.access_token("alice-1").await;
    let (code, said, printed) = run(&["--tenant", &tenant.to_uppercase(), "--yes", "--json"]);
    assert_eq!(code, Some(0), "{said}");
    let answer: Value = serde_json::from_str(&printed).expect("JSON");
    assert_eq!((&answer["connections"], &answer["complete"]), (&json!(2), &json!(true)), "{answer}");
    for name in ["alice-1", "alice-2"] {
        assert_eq!(world.token(name).await.status, 404);
    }
    world.access_token("bob").await;
    let audit = std::fs::read_to_string(world.folder.path().join("audit.jsonl")).expect("the audit stream");
    let lines: Vec<Value> = audit
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).expect("JSON"))
        .filter(|line| line.to_string().contains("\"revoke\"") && line["outcome"] == "ok")
        .collect();
    assert_eq!(lines.len(), 1, "{lines:?}");
    assert!(lines[0].to_string().contains("\"connections\":\"2\""), "{}", lines[0]);

    // It may be repeated; and what is not known can be meant all the same.
    assert_eq!(run(&["--tenant", &tenant, "--yes"]).0, Some(0));
    let (code, said, _) = run(&["--caller", "mail-synk", "--even-if-unknown", "--yes"]);
    assert_eq!((code, said.contains("0 connections")), (Some(0), true), "{said}");
    let personal = ["--tenant", PERSONAL_TENANT, "--even-if-unknown", "--yes"];
    let (code, said, _) = run(&personal);
    assert_eq!((code, said.contains("every personal Microsoft account")), (Some(0), true), "{said}");
    world.access_token("bob").await;
}

/// A rule for a tenant gives what is there. It makes no name, takes none over, and tells of none whether it
/// is taken.
#[tokio::test]
async fn a_rule_for_a_tenant_makes_nothing_and_tells_nothing() {
    let rules = format!("connections = [\"tenant:{BOBS_TENANT}\"]\nscopes = [\"*\"]\nconnect = true");
    let (world, key) = with_harness(Plan::default(), &rules).await;
    world.connect("acme/ceo", ALICE).await;
    world.connect("fabrikam/bob", BOB).await;
    let bob = account(&User::work(BOB).tenant(BOBS_TENANT));
    let alice = account(&User::work(ALICE));
    let start = async |connection: &str, more: &Value| {
        let mut body = json!({ "app": "outlook", "connection": connection });
        body.as_object_mut().expect("an object").extend(more.as_object().expect("one").clone());
        world.api_as(&key, Method::POST, "/v1/connect-sessions", body).await
    };
    let said = |answer: &Answer| {
        let mut problem = answer.json();
        problem.as_object_mut().expect("an object").remove("request_id");
        (answer.status.as_u16(), problem)
    };

    // Whatever is asked with it, a name of another tenant and a free one are the same.
    for more in [
        json!({}),
        json!({ "account": bob }),
        json!({ "account": alice }),
        json!({ "account": bob, "change_account": true }),
        json!({ "change_account": true }),
        json!({ "account": bob, "scopes": "no-such-scope" }),
        json!({ "account": bob, "return_url": "https://evil.example/" }),
    ] {
        let (taken, free) = (start("acme/ceo", &more).await, start("acme/cfo", &more).await);
        assert_eq!(said(&taken), said(&free), "{more}");
        assert_eq!((taken.status.as_u16(), code(&taken)), (404, "connection_not_found".to_owned()), "{more}");
    }
    assert_eq!(pause(&world, "acme/ceo", true).await.status, 200);
    assert_eq!(said(&start("acme/ceo", &json!({})).await), said(&start("acme/cfo", &json!({})).await));
    for (method, tail) in [
        (Method::GET, "/token"),
        (Method::GET, "/token?connect=1"),
        (Method::GET, ""),
        (Method::GET, "/explain"),
        (Method::DELETE, ""),
    ] {
        let at = |name: &str| format!("/v1/apps/outlook/connections/acme%2F{name}{tail}");
        let taken = world.api_as(&key, method.clone(), &at("ceo"), Value::Null).await;
        let free = world.api_as(&key, method.clone(), &at("cfo"), Value::Null).await;
        assert_eq!(said(&taken), said(&free), "{method} {tail}");
    }
    let listed = world.api_as(&key, Method::GET, "/v1/apps/outlook/connections", Value::Null).await.json();
    assert_eq!(listed["connections"].as_array().map(Vec::len), Some(1), "{listed}");

    // It renews what is there, for the account it has, and moves it to no other.
    let moved = start("fabrikam/bob", &json!({ "change_account": true })).await;
    assert_eq!((moved.status.as_u16(), code(&moved)), (403, "caller_forbidden".to_owned()));
    world.entra.sign_in_as(BOB);
    let session = start("fabrikam/bob", &json!({})).await;
    assert_eq!(session.status, 201, "{}", session.text());
    let session = session.json();
    world.sign_in(&mut Browser::default(), text(&session, "connect_url")).await;
    let path = format!("/v1/connect-sessions/{}", text(&session, "id"));
    let state = world.api_as(&key, Method::GET, &path, Value::Null).await.json();
    assert_eq!(state["state"], "connected", "{state}");

    // What was to be renewed and has gone is not made.
    let session = start("fabrikam/bob", &json!({})).await.json();
    let mut browser = Browser::default();
    let callback = up_to_callback(&mut browser, &session).await;
    let path = "/v1/apps/outlook/connections/fabrikam%2Fbob";
    assert_eq!(world.api_as(&key, Method::DELETE, path, Value::Null).await.status, 204);
    let back = browser.get(&callback).await.expect("the callback");
    assert_eq!(
        (back.status.as_u16(), title(&back).as_str()),
        (200, "This application may not connect your account")
    );
    assert_eq!(world.token("fabrikam/bob").await.status, 404);
}
