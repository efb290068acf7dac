//! The operators' console, as a browser without script meets it.

use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use bytes::Bytes;
use entra_emulator::User;
use http::Method;
use serde_json::{Value, json};
use tokenward::callers::key_file;
use tokenward::domain::id::CallerName;
use tokenward::domain::time::Clock;
use tokenward::system::{SystemClock, SystemRandom};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::attacks_connect::parameter;
use crate::attacks_rights::{operate, reconfigure};
use crate::filling;
use crate::http_client::{Answer, Browser, request, request_unix};
use crate::notices::{SECRET, section};
use crate::resource::{Reply, Resource};
use crate::token_hosts::{another, host};
use crate::world::{
    ALICE, BOB, CLIENT_SECRET, Kept, PERSONAL, Plan, SYNC, World, attribute, free_port, hidden_fields, text,
};

const FORM: (&str, &str) = ("content-type", "application/x-www-form-urlencoded");
const ADA: &str = "[admins.ada]\nauthenticate = [{ api_keys = \"ada.keys\" }]\n";

/// A world whose console a browser can open.
pub(crate) struct Scene {
    pub(crate) world: World,
    pub(crate) base: String,
}

/// A browser at the console, with its session.
struct Console {
    browser: Browser,
    base: String,
}

impl Scene {
    async fn start() -> Scene {
        Scene::with(Plan::default()).await
    }

    pub(crate) async fn with(plan: Plan) -> Scene {
        let port = free_port();
        let listener = format!("[[listen.admin]]\naddress = \"127.0.0.1:{port}\"\n");
        let world = plan.sections(&listener).start().await;
        Scene { world, base: format!("http://127.0.0.1:{port}") }
    }

    /// A link for the user who runs the daemon.
    pub(crate) async fn link(&self) -> String {
        let socket = self.world.folder.path().join("admin.sock");
        let made = request_unix(&socket, Method::POST, "/admin/v1/console-links", &[], "").await;
        first_url(&made.expect("an answer"))
    }

    async fn open(&self) -> Console {
        let link = self.link().await;
        self.enter(&link).await
    }

    async fn enter(&self, link: &str) -> Console {
        let mut console = self.stranger();
        let entered = console.send(link, "", Some(&self.base)).await;
        assert_eq!(entered.status, 303, "{}", entered.text());
        assert_eq!(entered.location(), "/console");
        console
    }

    fn stranger(&self) -> Console {
        Console { browser: Browser::default(), base: self.base.clone() }
    }

    pub(crate) async fn status(&self, connection: &str) -> Option<String> {
        let path = format!("/admin/v1/apps/outlook/connections/{connection}");
        let socket = self.world.folder.path().join("admin.sock");
        let shown = request_unix(&socket, Method::GET, &path, &[], "").await.expect("an answer");
        (shown.status == 200).then(|| text(&shown.json(), "status").to_owned())
    }

    fn command(&self, arguments: &[&str]) -> Output {
        command(self.world.folder.path(), arguments)
    }
}

impl Console {
    async fn get(&mut self, path: &str) -> Answer {
        self.browser.get(&format!("{}{path}", self.base)).await.expect("an answer")
    }

    async fn page(&mut self, path: &str) -> String {
        let answer = self.get(path).await;
        assert_eq!(answer.status, 200, "{path}: {}", answer.text());
        answer.text()
    }

    /// Sends a form, with this `Origin`.
    async fn send(&mut self, url: &str, form: &str, origin: Option<&str>) -> Answer {
        let headers: Vec<(&str, &str)> =
            [FORM].into_iter().chain(origin.map(|origin| ("origin", origin))).collect();
        let body = Bytes::from(form.to_owned());
        self.browser.send(Method::POST, url, body, &headers).await.expect("an answer")
    }

    /// The form of a page that has these words, with its hidden fields filled in.
    async fn form(&mut self, path: &str, words: &str) -> (String, String) {
        let page = self.page(path).await;
        let forms = page.split("<form").skip(1).map(|form| form.split("</form>").next().expect("an end"));
        let form = forms.into_iter().find(|form| form.contains(words));
        let form = form.unwrap_or_else(|| panic!("no form with {words} in {page}"));
        let mut fields = hidden_fields(form);
        if form.contains("name=\"sure\"") {
            fields.push_str("&sure=yes");
        }
        (format!("{}{}", self.base, attribute(form, "action")), fields)
    }

    /// Presses the button of the form that has these words, and follows where that leads.
    async fn press(&mut self, path: &str, words: &str) -> Answer {
        let (action, fields) = self.form(path, words).await;
        let base = self.base.clone();
        let answer = self.send(&action, &fields, Some(&base)).await;
        if answer.status == 303 { self.get(&answer.location()).await } else { answer }
    }
}

fn command(folder: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tokenward"));
    command.args(arguments).arg("--config").arg(folder.join("tokenward.toml")).stdin(Stdio::null());
    command.output().expect("it ends")
}

fn first_url(made: &Answer) -> String {
    assert_eq!(made.status, 201, "{}", made.text());
    made.json()["urls"][0].as_str().expect("a URL").to_owned()
}

pub(crate) fn audited(world: &World, act: &str) -> Vec<Value> {
    let file = world.folder.path().join("audit.jsonl");
    let lines = std::fs::read_to_string(file).expect("the audit");
    let records = lines.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    records.filter(|record| record.to_string().contains(&format!("\"{act}\""))).collect()
}

#[tokio::test]
async fn the_command_prints_a_link_that_opens_a_session_once() {
    let scene = Scene::start().await;
    let printed = scene.command(&["console"]);
    assert!(printed.status.success(), "{}", String::from_utf8_lossy(&printed.stderr));
    let link = String::from_utf8(printed.stdout).expect("text").trim().to_owned();
    assert!(link.starts_with(&format!("{}/console/enter/", scene.base)), "{link}");

    // Looking at the link uses nothing up, and its page says whose it is.
    let mut stranger = scene.stranger();
    for _ in 0..2 {
        let page = stranger.browser.get(&link).await.expect("a page");
        assert_eq!(page.status, 200);
        assert!(page.text().contains("uid:"), "{}", page.text());
        assert!(!page.headers.contains_key("set-cookie"));
    }
    // Its button counts only on that page.
    for origin in [None, Some("null"), Some("https://evil.example"), Some("http://127.0.0.1:1")] {
        let refused = stranger.send(&link, "", origin).await;
        assert_eq!(refused.status, 403, "{origin:?}");
    }
    assert_eq!(stranger.get("/console").await.status, 401);

    let entered = stranger.send(&link, "", Some(&scene.base)).await;
    let cookie = entered.headers["set-cookie"].to_str().expect("text").to_owned();
    assert!(cookie.contains("; HttpOnly; SameSite=Strict") && cookie.contains("; Path=/"), "{cookie}");
    assert!(stranger.page("/console").await.contains("Are callers served?"));

    // It is used up, also for the browser that used it.
    for console in [&mut stranger, &mut scene.stranger()] {
        let again = console.send(&link, "", Some(&scene.base)).await;
        assert_eq!(again.status, 404);
        assert!(again.text().contains("once and for a minute"), "{}", again.text());
        assert_eq!(console.browser.get(&link).await.expect("a page").status, 404);
    }
    assert_eq!(audited(&scene.world, "console_link").len(), 1);
    assert_eq!(audited(&scene.world, "console_open").len(), 1);
    // Neither link nor cookie is in the log.
    let secret = link.rsplit('/').next().expect("a secret");
    let value = cookie.split(['=', ';']).nth(1).expect("a value");
    let log = scene.world.daemon.log();
    assert!(!log.contains(secret) && !log.contains(value));
    let audit = std::fs::read_to_string(scene.world.folder.path().join("audit.jsonl")).expect("the audit");
    assert!(!audit.contains(secret) && !audit.contains(value));
}

#[tokio::test]
async fn links_and_sessions_end() {
    let scene = Scene::start().await;
    let link = scene.link().await;
    scene.world.pass(Duration::from_secs(61));
    scene
        .world
        .until("the link is too old", async || {
            scene.stranger().browser.get(&link).await.expect("a page").status == 404
        })
        .await;
    assert_eq!(scene.stranger().send(&link, "", Some(&scene.base)).await.status, 404);

    // By its operator's word.
    let mut console = scene.open().await;
    let mut before = Console { browser: console.browser.clone(), base: scene.base.clone() };
    let left = console.press("/console", "Leave").await;
    assert_eq!(left.status, 200, "{}", left.text());
    for browser in [&mut console, &mut before] {
        assert_eq!(browser.get("/console").await.status, 401, "also with the cookie that it had");
    }

    // Idle: a page that keeps itself up to date is nobody who asks.
    let mut console = scene.open().await;
    assert_eq!(console.get("/console").await.status, 200);
    scene.world.pass(Duration::from_secs(20 * 60));
    drop(Live::open(&scene, &console, "/console/live?page=overview").await);
    scene.world.pass(Duration::from_secs(11 * 60));
    scene.world.until("it is idle too long", async || console.get("/console").await.status == 401).await;

    // With a restart, since no session is kept anywhere.
    let mut console = scene.open().await;
    assert_eq!(console.get("/console").await.status, 200);
    let mut scene = scene;
    scene.world.kill_and_restart().await;
    assert_eq!(console.get("/console").await.status, 401);
}

#[tokio::test]
async fn a_session_is_its_operators_and_ends_with_the_operators_rights() {
    let folder = tempfile::tempdir().expect("a folder");
    let (random, now) = (SystemRandom::new(), SystemClock::new().now());
    let keys = folder.path().join("ada.keys");
    let ada = CallerName::parse("ada").expect("a name");
    let (key, info) = key_file::add(&keys, &ada, &random, now, Duration::from_secs(86_400)).expect("a key");
    let id = info.id;
    let file = std::fs::read_to_string(&keys).expect("the file");
    let plan = Plan::default().file("ada.keys", &file).sections(ADA);
    let scene = Scene::with(plan).await;
    scene.world.connect("one", ALICE).await;

    let url = format!("{}/admin/v1/console-links", scene.base);
    let bearer = format!("Bearer {}", key.expose());
    let made = request(Method::POST, &url, &[("authorization", bearer.as_str())], "").await;
    let link = first_url(&made.expect("an answer"));
    let mut hers = scene.enter(&link).await;
    assert!(hers.page("/console").await.contains("<strong>ada</strong>"));
    let paused = hers.press("/console/connection?app=outlook&name=one", "Pause").await;
    assert!(paused.text().contains("It is paused"), "{}", paused.text());
    let records = audited(&scene.world, "pause");
    assert_eq!(records.len(), 1, "{records:?}");
    assert_eq!(records[0]["detail"]["admin"], "ada", "{records:?}");

    // A caller's key makes no link, and no cookie of one session opens another's forms.
    let bearer = format!("Bearer {}", scene.world.key);
    let refused = request(Method::POST, &url, &[("authorization", bearer.as_str())], "").await;
    assert_eq!(refused.expect("an answer").status, 401);

    // Her key is retired: what it opened ends, and what her other key opened goes on.
    let file = scene.world.folder.path().join("ada.keys");
    let (second, _) = key_file::add(&file, &ada, &random, now, Duration::from_secs(86_400)).expect("a key");
    let bearer = format!("Bearer {}", second.expose());
    let made = async || {
        let made = request(Method::POST, &url, &[("authorization", bearer.as_str())], "").await;
        made.expect("an answer")
    };
    scene.world.until("the new key is known", async || made().await.status == 201).await;
    let of_first = {
        let bearer = format!("Bearer {}", key.expose());
        let made = request(Method::POST, &url, &[("authorization", bearer.as_str())], "").await;
        first_url(&made.expect("an answer"))
    };
    let mut by_second = scene.enter(&first_url(&made().await)).await;
    assert!(hers.page("/console/sessions").await.contains(&format!("API key {id}")));
    key_file::retire(&file, &id).expect("retired");
    scene.world.until("her session is over", async || hers.get("/console").await.status == 401).await;
    assert_eq!(scene.stranger().send(&of_first, "", Some(&scene.base)).await.status, 404, "its link, too");
    let page = by_second.page("/console/sessions").await;
    assert!(!page.contains(&format!("API key {id}")) && page.contains("this one"), "{page}");

    // She is no operator any more: her session ends, another's goes on, and her link is worth nothing.
    let (key, mut hers) = (second, by_second);
    let bearer = format!("Bearer {}", key.expose());
    let made = request(Method::POST, &url, &[("authorization", bearer.as_str())], "").await;
    let unused = first_url(&made.expect("an answer"));
    let mut other = scene.open().await;
    reconfigure(&scene.world, ADA, "").await;
    assert_eq!(hers.get("/console").await.status, 401);
    assert_eq!(other.get("/console").await.status, 200);
    assert_eq!(scene.stranger().send(&unused, "", Some(&scene.base)).await.status, 404);
}

#[tokio::test]
async fn an_operator_sees_the_own_sessions_and_ends_the_others() {
    let scene = Scene::start().await;
    let (mut first, mut second, mut third) = (scene.open().await, scene.open().await, scene.open().await);
    scene.world.pass(Duration::from_secs(10 * 60));
    let old = async |console: &mut Console| console.page("/console/sessions").await;
    scene.world.until("the time", async || old(&mut first).await.contains("10 minutes ago")).await;
    let page = old(&mut first).await;
    assert_eq!(page.matches("this one").count(), 1, "{page}");
    assert_eq!(page.matches("127.0.0.1").count(), 3, "{page}");
    assert_eq!(page.matches("Unix user").count(), 3, "{page}");
    // Of this one when it began; of the others when they were last used, too.
    assert_eq!(page.matches("10 minutes ago").count(), 5, "{page}");

    let one = page.split("name=\"session\"").nth(1).expect("a form");
    let ended = first.press("/console/sessions", "End it").await.text();
    assert!(ended.contains("It is over.") && ended.matches("127.0.0.1").count() == 2, "{ended}");
    let id = attribute(one, "value");
    assert!(page.contains(&format!("<code>{id}</code>")) && !ended.contains(&id), "{id}: {ended}");
    let left = [second.get("/console").await.status.as_u16(), third.get("/console").await.status.as_u16()];
    assert!(left == [200, 401] || left == [401, 200], "{left:?}");
    let ended = first.press("/console/sessions", "End all others").await.text();
    assert!(ended.contains("The others are over.") && !ended.contains("End all others"), "{ended}");
    for other in [&mut second, &mut third] {
        assert_eq!(other.get("/console").await.status, 401);
    }
    assert_eq!(first.get("/console").await.status, 200);
    let records = audited(&scene.world, "console_end");
    assert_eq!(records.len(), 2, "{records:?}");
}

#[tokio::test]
async fn no_act_is_done_without_the_sessions_own_form() {
    let scene = Scene::start().await;
    scene.world.connect("one", ALICE).await;
    let (mut console, mut other) = (scene.open().await, scene.open().await);
    let connection = "/console/connection?app=outlook&name=one";
    let acts = [
        (connection, "Pause"),
        (connection, "Refresh now"),
        (connection, "Make a reconnect link"),
        (connection, "Delete it"),
        ("/console/apps", "Promote"),
        ("/console/apps", "Retire it"),
        ("/console/apps", "Prove all of them"),
        ("/console/revoke", "Count what it would end"),
        ("/console", "Read them again now"),
        ("/console/keys", "Rewrap now"),
        ("/console/sessions", "End it"),
        ("/console/sessions", "End all others"),
        ("/console", "Leave"),
    ];
    for (path, words) in acts {
        let (action, fields) = console.form(path, words).await;
        let (_, of_other) = other.form(path, words).await;
        let token =
            |fields: &str| fields.split('&').find(|field| field.starts_with("csrf=")).map(str::to_owned);
        let (ours, theirs) = (token(&fields).expect("a token"), token(&of_other).expect("a token"));
        assert_ne!(ours, theirs);
        let without = fields.replace(&ours, "csrf=");
        let base = scene.base.clone();
        for (form, origin) in [
            (&fields, None),
            (&fields, Some("https://evil.example")),
            (&fields, Some("null")),
            (&without, Some(base.as_str())),
            (&fields.replace(&ours, &theirs), Some(base.as_str())),
        ] {
            let refused = console.send(&action, form, origin).await;
            assert_eq!(refused.status, 400, "{words} {origin:?} {form}: {}", refused.text());
            assert!(refused.text().contains("nothing was done"), "{words}: {}", refused.text());
        }
        // A form that a page of another site sends by script, and one with the token in the address.
        let headers = [FORM, ("sec-fetch-site", "cross-site"), ("origin", base.as_str())];
        let body = Bytes::from(fields.clone());
        let sent = console.browser.send(Method::POST, &action, body, &headers).await;
        assert_eq!(sent.expect("an answer").status, 400, "{words}");
        let sent = console.send(&format!("{action}?{fields}"), "", Some(&base)).await;
        assert_eq!(sent.status, 400, "{words}");
        // And nobody without a session.
        assert_eq!(scene.stranger().send(&action, &fields, Some(&base)).await.status, 401, "{words}");
    }
    assert_eq!(scene.status("one").await.as_deref(), Some("active"));
    for act in [
        "pause",
        "delete",
        "refresh",
        "reconnect_link",
        "credential_promote",
        "credential_verify",
        "reload",
        "keyring_rewrap",
    ] {
        assert_eq!(audited(&scene.world, act).len(), 0, "{act}");
    }
    // What cannot be undone needs its tick, too.
    let (action, fields) = console.form(connection, "Delete it").await;
    let base = scene.base.clone();
    let unsure = console.send(&action, &fields.replace("&sure=yes", ""), Some(&base)).await;
    assert_eq!(unsure.status, 400);
    assert_eq!(scene.status("one").await.as_deref(), Some("active"));
}

#[tokio::test]
async fn an_operator_does_everything_without_script() {
    let scene = Scene::start().await;
    for (name, user) in [("team-a/one", ALICE), ("team-a/two", BOB), ("zoe", ALICE)] {
        scene.world.connect(name, user).await;
    }
    let mut console = scene.open().await;
    let overview = console.page("/console").await;
    for part in
        ["Are callers served?", "Is the authority answering?", "What ends next?", "Does the store answer?"]
    {
        assert!(overview.contains(part), "{part} in {overview}");
    }

    // Search: by name, by account, by tenant, by status.
    for (query, found, left_out) in [
        ("app=outlook", &["team-a/one", "team-a/two", "zoe"][..], &[][..]),
        ("app=outlook&name=team-a/", &["team-a/one", "team-a/two"], &["zoe"]),
        ("text=BOB%40fabrikam", &["team-a/two"], &["team-a/one", "zoe"]),
        ("tenant=22222222-0000-4000-8000-00000000000b", &["team-a/two"], &["zoe"]),
        ("status=active&text=zo", &["zoe"], &["team-a/one"]),
        ("status=blocked", &[], &["team-a/one", "team-a/two", "zoe"]),
    ] {
        let page = console.page(&format!("/console/connections?{query}")).await;
        let is_there = |name: &str| page.contains(&format!(">{name}</a>"));
        assert!(found.iter().all(|name| is_there(name)), "{query}: {page}");
        assert!(!left_out.iter().any(|name| is_there(name)), "{query}: {page}");
    }

    // One connection: its timeline, and the acts.
    let one = "/console/connection?app=outlook&name=team-a%2Fone";
    let page = console.page(one).await;
    assert!(page.contains("<svg") && page.contains("signed in, by mail-sync"), "{page}");
    assert!(page.contains(ALICE) && page.contains("The connection works. Nothing to do."), "{page}");
    let calls = scene.world.token_calls("refresh_token");
    let said = console.press(one, "Refresh now").await.text();
    assert!(said.contains("A refresh has begun"), "{said}");
    scene.world.until_called("refresh_token", calls + 1).await;

    let linked = console.press(one, "Make a reconnect link").await.text();
    let link = linked.split("value=\"").find(|rest| rest.contains("/connect/")).expect("a link");
    let link = link.split('"').next().expect("its end").to_owned();
    let invitation = Browser::default().get(&link).await.expect("a page");
    assert_eq!(invitation.status, 200, "{link}");
    let recorded = audited(&scene.world, "reconnect_link");
    assert_eq!(recorded.len(), 1, "{recorded:?}");
    assert_eq!((text(&recorded[0], "outcome"), text(&recorded[0], "connection")), ("ok", "team-a/one"));
    let secret = link.rsplit('/').next().expect("a secret");
    assert!(!recorded[0].to_string().contains(secret), "{recorded:?}");

    assert!(console.press(one, "Pause").await.text().contains("It is paused"));
    assert_eq!(scene.status("team-a%2Fone").await.as_deref(), Some("paused"));
    assert_eq!(scene.world.token("team-a/one").await.status, 409);
    assert!(console.press(one, "Resume").await.text().contains("It is resumed"));
    assert_eq!(scene.world.token("team-a/one").await.status, 200);
    let deleted = console.press(one, "Delete it").await;
    assert!(deleted.text().contains("It is deleted"), "{}", deleted.text());
    assert_eq!(scene.status("team-a%2Fone").await, None);
    let gone = console.get(one).await;
    assert_eq!(gone.status, 404);

    // Apps, callers, keys.
    let proven = console.press("/console/apps", "Prove all of them").await.text();
    assert!(proven.contains("first") && proven.contains("accepted"), "{proven}");
    let promoted = console.press("/console/apps", "Promote").await.text();
    assert!(promoted.contains("It is preferred"), "{promoted}");
    let refused = console.press("/console/apps", "Retire it").await;
    assert_eq!(refused.status, 400, "the last one stays: {}", refused.text());
    let callers = console.page("/console/callers").await;
    assert!(callers.contains(SYNC) && callers.contains("mail-reader"), "{callers}");
    assert!(console.page("/console/keys").await.contains("seals"));

    // The kill switch counts first.
    let (action, fields) = console.form("/console/revoke", "Count what it would end").await;
    let base = scene.base.clone();
    let form = format!("{fields}&app=outlook&caller={SYNC}");
    let counted = console.send(&action, &form, Some(&base)).await.text();
    assert!(counted.contains("2 connections"), "{counted}");
    assert_eq!(scene.status("zoe").await.as_deref(), Some("active"));
    let nothing = console.send(&action, &fields, Some(&base)).await;
    assert_eq!(nothing.status, 400, "something must be chosen");
    let second = hidden_fields(counted.split("<form").last().expect("a form"));
    let unsure = console.send(&action, &second, Some(&base)).await;
    assert_eq!(unsure.status, 400);
    assert_eq!(scene.status("zoe").await.as_deref(), Some("active"));
    let revoked = console.send(&action, &format!("{second}&sure=yes"), Some(&base)).await.text();
    assert!(revoked.contains("Revoked") && revoked.contains("2 connections"), "{revoked}");
    scene.world.until("they are gone", async || scene.status("zoe").await.is_none()).await;

    for (path, words) in [
        ("/console/nowhere", "There is no such page"),
        ("/console/connection?app=outlook&name=nobody", "That is not there"),
    ] {
        let answer = console.get(path).await;
        assert_eq!(answer.status, 404, "{path}");
        let page = answer.text();
        assert!(page.contains(words) && !page.contains("openapi.json"), "{path}: {page}");
    }
}

/// The page of a connection.
const ONE: &str = "/console/connection?app=outlook&name=one";
/// The names in the rule of a caller that may do everything.
const ALL_NAMES: &str = "connections = [\"*\"]\nbulk        = true";

#[tokio::test]
async fn a_link_for_a_user_or_an_administrator_is_made_by_the_rules_of_the_connections_caller() {
    let scene = Scene::start().await;
    let world = &scene.world;
    for (name, user) in [("one", BOB), ("private", PERSONAL)] {
        world.connect(name, user).await;
    }
    let make = async |path: &str, connection: &str| {
        let body = json!({ "app": "outlook", "connection": connection });
        operate(world, Method::POST, &format!("/admin/v1/{path}"), body).await
    };
    let made = make("reconnect-links", "one").await;
    assert_eq!(made.status, 201, "{}", made.text());
    let link = text(&made.json(), "connect_url").to_owned();
    assert_eq!(Browser::default().get(&link).await.expect("a page").status, 200);
    let made = make("admin-consent-links", "one").await;
    assert_eq!(made.status, 201, "{}", made.text());
    let tenant = "22222222-0000-4000-8000-00000000000b";
    let made = made.json();
    assert!(text(&made, "admin_consent_url").contains(tenant), "{made}");
    for act in ["reconnect_link", "admin_consent_link"] {
        let recorded = audited(world, act);
        assert_eq!(recorded.len(), 1, "{recorded:?}");
        assert_eq!((text(&recorded[0], "outcome"), text(&recorded[0], "connection")), ("ok", "one"));
        assert!(text(&recorded[0]["detail"], "admin").starts_with("uid:"), "{recorded:?}");
    }

    // The command asks for the same.
    let printed = scene.command(&["connections", "reconnect-link", "outlook", "one"]);
    assert_eq!(String::from_utf8_lossy(&printed.stdout).trim(), link, "a link that is open is given again");
    assert_eq!(audited(world, "reconnect_link").len(), 2);

    // So is an administrator's, for whichever connection of the tenant, also by the console.
    let of_admin = text(&made, "admin_consent_url");
    world.connect("another", BOB).await;
    let again = make("admin-consent-links", "another").await.json();
    assert_eq!(again, made);
    let mut console = scene.open().await;
    let (action, fields) = console.form(ONE, "Pause").await;
    let fields = fields.replace("act=pause", "act=admin_consent");
    let page = console.send(&action, &fields, Some(&scene.base)).await.text();
    let state = parameter(of_admin, "state");
    assert!(page.contains("administrator") && page.contains(&state), "{page}");
    // One that was used is over, and so is one that is half as old as it may get.
    let redirect = format!("{}/callback/outlook?error=access_denied&state={state}", world.base_url());
    Browser::default().get(&redirect).await.expect("a page");
    let second = make("admin-consent-links", "one").await.json();
    assert_ne!(second, made);
    world.pass(Duration::from_secs(31 * 60));
    let third = make("admin-consent-links", "one").await.json();
    assert_ne!(third, second);
    assert_eq!(make("admin-consent-links", "one").await.json(), third);
    let recorded = audited(world, "admin_consent_link");
    assert!(recorded.len() == 6 && recorded.iter().all(|one| one["outcome"] == "ok"), "{recorded:?}");

    // A personal account has no administrator.
    let none = make("admin-consent-links", "private").await;
    assert_eq!((none.status.as_u16(), text(&none.json(), "parameter")), (400, "connection"));

    // Nobody signs in while the connection is paused, and so nobody is asked to approve that.
    let mut console = scene.open().await;
    console.press(ONE, "Pause").await;
    for path in ["reconnect-links", "admin-consent-links"] {
        let refused = make(path, "one").await;
        assert_eq!((refused.status.as_u16(), text(&refused.json(), "code")), (409, "connection_paused"));
    }
    console.press(ONE, "Resume").await;
    assert_eq!(make("admin-consent-links", "one").await.json(), third);

    // The rules are those of now: of a narrower one that leaves this connection out, and of one that connects
    // nothing any more.
    reconfigure(world, ALL_NAMES, "connections = [\"team-*\"]").await;
    world.connect("team-one", BOB).await;
    for path in ["reconnect-links", "admin-consent-links"] {
        let refused = make(path, "one").await;
        assert!([403, 404].contains(&refused.status.as_u16()), "{path}: {}", refused.text());
        assert_eq!(make(path, "team-one").await.status, 201, "{path}");
    }
    reconfigure(world, "connections = [\"team-*\"]", ALL_NAMES).await;
    reconfigure(world, "connect     = true", "connect     = false").await;
    for path in ["reconnect-links", "admin-consent-links"] {
        let refused = make(path, "one").await;
        assert_eq!(refused.status, 403, "{path}: {}", refused.text());
    }
    let recorded = audited(world, "reconnect_link");
    assert_eq!(text(recorded.last().expect("the last"), "outcome"), "caller_forbidden", "{recorded:?}");
}

#[tokio::test]
async fn an_operator_reloads_rewraps_and_confirms_a_token_host() {
    let scene = Scene::start().await;
    let world = &scene.world;
    // (From now on the credential belongs to a host.)
    world.connect("alice", ALICE).await;
    let mut console = scene.open().await;
    let again = console.press("/console", "Read them again now").await.text();
    assert!(again.contains("read again, and in force"), "{again}");
    let begun = console.press("/console/keys", "Rewrap now").await.text();
    assert!(begun.contains("Rewrapping has begun"), "{begun}");
    for act in ["reload", "keyring_rewrap"] {
        assert_eq!(audited(world, act).len(), 1, "{act}");
    }

    // Another authority: its host is confirmed with a tick, and for this app alone.
    assert!(!console.page("/console/apps").await.contains("Confirm the host"));
    let other = another(world).await;
    reconfigure(world, &world.entra.authority("common"), &other.authority("common")).await;
    let page = console.page("/console/apps").await;
    assert!(page.contains(&host(&other)) && page.contains("Confirm the host"), "{page}");
    let (action, fields) = console.form("/console/apps", "Confirm the host").await;
    let base = scene.base.clone();
    let unsure = console.send(&action, &fields.replace("&sure=yes", ""), Some(&base)).await;
    assert_eq!(unsure.status, 400);
    let confirmed = console.press("/console/apps", "Confirm the host").await.text();
    assert!(confirmed.contains("The host is confirmed"), "{confirmed}");
    assert!(!confirmed.contains("Confirm the host"), "{confirmed}");
    let recorded = audited(world, "token_host_confirm");
    assert_eq!(recorded.len(), 1, "{recorded:?}");
    assert_eq!(text(&recorded[0]["detail"], "host"), host(&other));

    // What is wrong with a configuration is said, and each code that callers were refused with.
    let config = world.folder.path().join("tokenward.toml");
    let before = std::fs::read_to_string(&config).expect("the configuration");
    std::fs::write(&config, format!("{before}\n[nothing]\n")).expect("written");
    let refused = console.press("/console", "Read them again now").await.text();
    assert!(refused.contains("refused: what was before") && refused.contains("nothing"), "{refused}");
    console.page("/console").await;
    assert_eq!(world.token("nobody").await.status, 404);
    world
        .until("the overview has it", async || {
            let page = scene.open().await.page("/console").await;
            page.contains("Recent refusals") && page.contains("/console/codes#connection_not_found")
        })
        .await;
    let codes = console.page("/console/codes").await;
    assert!(codes.contains("id=\"connection_not_found\""), "{codes}");
}

#[tokio::test]
async fn what_a_page_shows_of_others_is_escaped_and_no_page_takes_anything_from_elsewhere() {
    const EVIL: &str = "<script>alert(1)</script>\"'&@contoso.example";
    let scene = Scene::start().await;
    scene.world.entra.add_user(User::work(EVIL));
    scene.world.connect("evil", EVIL).await;
    let mut console = scene.open().await;
    let evil = "%22%3E%3Cscript%3Ealert(1)%3C%2Fscript%3E";
    for path in [
        "/console",
        "/console/connections",
        &format!("/console/connections?text={evil}"),
        &format!("/console/connections?name={evil}"),
        &format!("/console/connections?app={evil}"),
        &format!("/console/connections?status={evil}"),
        &format!("/console/connections?cursor={evil}"),
        "/console/connection?app=outlook&name=evil",
        &format!("/console/connection?app=outlook&name={evil}"),
        &format!("/console/connection?app=outlook&name=evil&done={evil}"),
        "/console/apps",
        "/console/callers",
        "/console/keys",
        "/console/codes",
        "/console/forecast",
        &format!("/console/revoke?app={evil}&tenant={evil}"),
        &format!("/console/{evil}"),
        &format!("/console/enter/{evil}"),
    ] {
        let answer = console.get(path).await;
        let page = answer.text();
        assert!(!page.contains("<script>") && !page.contains("\"'&@"), "{path}: {page}");
        assert!(!page.contains(" style=") && !page.contains(" onclick="), "{path}");
        let policy = answer.headers["content-security-policy"].to_str().expect("text");
        assert!(policy.starts_with("default-src 'none'") && !policy.contains("unsafe"), "{policy}");
        for (name, value) in [
            ("cache-control", "no-store"),
            ("x-content-type-options", "nosniff"),
            ("x-frame-options", "DENY"),
            ("referrer-policy", "same-origin"),
        ] {
            assert_eq!(answer.headers[name], value, "{path}");
        }
        // No secret is anywhere.
        let token = scene.world.token("evil").await.json();
        assert!(!page.contains(CLIENT_SECRET) && !page.contains(text(&token, "access_token")), "{path}");
    }
    let shown = console.page("/console/connection?app=outlook&name=evil").await;
    assert!(shown.contains("&lt;script&gt;alert(1)&lt;/script&gt;"), "{shown}");
    for asset in ["/console/console.css", "/console/console.js"] {
        let answer = scene.stranger().get(asset).await;
        assert_eq!(answer.status, 200, "{asset}");
        assert!(!answer.text().contains("http"), "{asset}");
    }
}

/// The stream of a page.
struct Live {
    stream: TcpStream,
    seen: String,
}

impl Live {
    async fn open(scene: &Scene, console: &Console, path: &str) -> Self {
        let cookie = console.browser.cookie(&scene.base);
        let authority = scene.base.strip_prefix("http://").expect("a host");
        let mut stream = TcpStream::connect(authority).await.expect("a connection");
        let head = format!("GET {path} HTTP/1.1\r\nHost: {authority}\r\nCookie: {cookie}\r\n\r\n");
        stream.write_all(head.as_bytes()).await.expect("written");
        let mut live = Live { stream, seen: String::new() };
        live.until("text/event-stream").await;
        live
    }

    async fn until(&mut self, words: &str) {
        let mut buffer = [0; 4096];
        while !self.seen.contains(words) {
            let read = tokio::time::timeout(Duration::from_secs(60), self.stream.read(&mut buffer)).await;
            let read = read.expect("something comes").expect("it is read");
            assert_ne!(read, 0, "{words} in {}", self.seen);
            self.seen.push_str(&String::from_utf8_lossy(&buffer[..read]));
        }
    }
}

#[tokio::test]
async fn a_page_is_kept_up_to_date_by_a_stream_that_ends_with_its_session() {
    let scene = Scene::start().await;
    scene.world.connect("one", ALICE).await;
    let mut console = scene.open().await;
    let live = "/console/live?page=connection&app=outlook&name=one";
    let mut stream = Live::open(&scene, &console, live).await;
    stream.until("event: page").await;
    stream.until("The connection works").await;
    console.press("/console/connection?app=outlook&name=one", "Pause").await;
    stream.until("An operator paused the connection").await;
    console.press("/console", "Leave").await;
    stream.until("event: over").await;
    assert_eq!(scene.stranger().get(live).await.status, 401);
}

/// For which caller a sign-in was is known of the last one alone.
#[tokio::test]
async fn the_timeline_names_the_caller_of_the_last_sign_in_only() {
    let scene = Scene::start().await;
    scene.world.connect("one", ALICE).await;
    let mut console = scene.open().await;
    let one = "/console/connection?app=outlook&name=one";
    let before = console.page(one).await;
    let wanted = json!({ "app": "outlook", "connection": "one", "login_hint": ALICE });
    let session = scene.world.start_session(wanted).await;
    scene.world.sign_in(&mut Browser::default(), text(&session, "connect_url")).await;
    assert_eq!(scene.world.session(text(&session, "id")).await["state"], "connected");
    let after = console.page(one).await;
    let named = |page: &str| page.matches("signed in, by mail-sync").count();
    assert!(named(&before) > 0 && named(&before) == named(&after), "{after}");
    assert!(after.matches("signed in").count() > named(&after), "{after}");
}

#[tokio::test]
async fn a_stream_sends_a_region_when_it_changed_and_otherwise_the_time() {
    let scene = Scene::start().await;
    scene.world.connect("one", ALICE).await;
    let mut console = scene.open().await;
    let mut stream = Live::open(&scene, &console, "/console/live?page=connection&app=outlook&name=one").await;
    stream.until("event: page").await;
    let (_, of_first) = stream.seen.split_once("event: page").expect("a page");
    assert!(of_first.contains("signed in, by mail-sync"), "{of_first}");
    // Two looks later nothing was sent but the time.
    stream.until("event: time").await;
    stream.seen = stream.seen.replacen("event: time", "", 1);
    stream.until("event: time").await;
    assert_eq!(stream.seen.matches("event: page").count(), 1, "{}", stream.seen);
    // A hand-out is something that happened.
    stream.seen.clear();
    assert_eq!(scene.world.token("one").await.status, 200);
    stream.until("last handed out to mail-sync").await;
    let page = console.page("/console/connection?app=outlook&name=one").await;
    assert!(
        page.contains("last handed out to mail-sync") && page.contains("audit who outlook one"),
        "{page}"
    );
}

/// Connections that a search has to read: more than it reads in a moment.
const MANY: usize = 3_000;

#[tokio::test]
async fn a_search_goes_on_by_itself_until_all_was_read() {
    let scene = Scene::with(Plan::default().kept(Kept::Redis)).await;
    scene.world.connect("zz-last", BOB).await;
    let redis = scene.world.redis.as_ref().expect("Redis");
    filling::fill(redis, scene.world.folder.path(), MANY, filling::TENANT, &[]);
    let mut console = scene.open().await;
    // Without script, by its button: each answer goes on where the one before stopped.
    let mut path = "/console/connections?text=BOB%40fabrikam".to_owned();
    loop {
        let page = console.page(&path).await;
        if page.contains(">zz-last</a>") {
            assert!(page.contains("All 3,001 were read."), "{page}");
            break;
        }
        assert!(page.contains("None among the ") && page.contains("that were read so far."), "{page}");
        let before = page.split("Search on").next().expect("a page");
        path = attribute(before.rsplit("<p>").next().expect("a link"), "href");
    }

    // With script, in one stream, as the page says where.
    let page = console.page("/console/connections?text=BOB%40fabrikam").await;
    let live = match page.contains("data-search=") {
        true => attribute(page.split("<section").nth(1).expect("a section"), "data-search"),
        // (This machine reads them all in a moment. The stream begins at the beginning then.)
        false => "/console/live?page=search&app=outlook&text=BOB%40fabrikam".to_owned(),
    };
    let mut stream = Live::open(&scene, &console, &live).await;
    stream.until("event: done").await;
    assert!(stream.seen.contains(">zz-last</a>"), "{}", stream.seen);
    assert_eq!(stream.seen.matches(">zz-last</a>").count(), 1);
    assert!(stream.seen.contains("All 3,001 were read."), "{}", stream.seen);

    // One of this very name is there at once, whatever was read, and its stream does not bring it again.
    let page = console.page("/console/connections?text=zz-last").await;
    assert_eq!(page.matches(">zz-last</a>").count(), 1, "{page}");
    let live = match page.contains("data-search=") {
        true => attribute(page.split("<section").nth(1).expect("a section"), "data-search"),
        false => "/console/live?page=search&app=outlook&text=zz-last".to_owned(),
    };
    let mut stream = Live::open(&scene, &console, &live).await;
    stream.until("event: done").await;
    assert!(!stream.seen.contains(">zz-last</a>"), "{}", stream.seen);
    assert!(stream.seen.contains("All 3,001 were read."), "{}", stream.seen);
    let page = console.page("/console/connections?text=zz-last&status=blocked").await;
    assert!(!page.contains(">zz-last</a>"), "it is not blocked: {page}");

    // The command follows it to its end.
    let listed = scene.command(&["connections", "list", "outlook", "--text", "BOB@fabrikam", "--json"]);
    let listed: Value = serde_json::from_slice(&listed.stdout).expect("JSON");
    assert_eq!(listed[0]["connection"], "zz-last", "{listed}");
    assert_eq!(listed.as_array().map(Vec::len), Some(1), "{listed}");
}

#[tokio::test]
async fn without_a_listener_for_browsers_the_command_says_which_to_add() {
    let world = Plan::default().start().await;
    let refused = command(world.folder.path(), &["console"]);
    assert_eq!(refused.status.code(), Some(1));
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(said.contains("[[listen.admin]]") && said.contains("address = \"127.0.0.1:7071\""), "{said}");
    let recorded = audited(&world, "console_link");
    assert_eq!(recorded.len(), 1);
    assert_eq!(recorded[0]["outcome"], "refused", "there was no link: {recorded:?}");
}

#[tokio::test]
async fn webhooks_and_handles_have_their_rows_and_no_handle_is_shown() {
    let status = Arc::new(AtomicU16::new(204));
    let answers = Arc::clone(&status);
    let receiver =
        Resource::start(move |_| Reply::Whole(answers.load(Ordering::Relaxed), Vec::new(), Bytes::new()))
            .await;
    let plan = crate::relay::plan("{graph}", crate::relay::RULES);
    let scene = Scene::with(plan.sections(&section(&receiver.url, "")).file("webhook.secret", SECRET)).await;
    let (world, mut console) = (&scene.world, scene.open().await);
    let takes = console.page("/console").await;
    assert!(takes.contains("Webhooks") && takes.contains("product"), "{takes}");
    status.store(503, Ordering::Relaxed);
    world.connect("user-1", ALICE).await;
    world.until("the receiver has refused an event", async || !receiver.all().is_empty()).await;
    let operator = async || operate(world, Method::GET, "/admin/v1/status", Value::Null).await.json();
    let fails = async || operator().await["webhooks"][0]["state"] == "fails";
    world.until("that is known", fails).await;
    let said = operator().await["webhooks"][0].clone();
    assert_eq!((text(&said, "name"), text(&said, "problem")), ("product", "it answered 503"), "{said}");
    assert!(said["oldest_waiting_at"].is_string() && said["failing_since"].is_string(), "{said}");
    let page = console.page("/console").await;
    assert!(page.contains("it answered 503"), "{page}");
    let printed = String::from_utf8(scene.command(&["status", "--once"]).stdout).expect("text");
    assert!(printed.contains("FAILS since ") && printed.contains("it answered 503"), "{printed}");
    // It takes them again.
    status.store(204, Ordering::Relaxed);
    world.pass(Duration::from_secs(600));
    let takes = async || {
        let said = operator().await["webhooks"][0].clone();
        said["state"] == "takes" && said["oldest_waiting_at"].is_null()
    };
    world.until("all is delivered", takes).await;

    // A caller's handles: how many, of which key, and when one was used.
    assert!(!console.page("/console/callers").await.contains("Handles"));
    let of = |rest: &str| format!("/v1/apps/outlook/connections/user-1{rest}");
    let mut handles = Vec::new();
    for _ in 0..2 {
        let wanted = json!({ "ttl": 3600, "relay": ["GET graph:/v1.0/me/messages*"] });
        let made = world.api_as(&world.reader_key, Method::POST, &of("/handles"), wanted).await;
        assert_eq!(made.status, 201, "{}", made.text());
        handles.push((text(&made.json(), "handle").to_owned(), text(&made.json(), "id").to_owned()));
    }
    let living = "tokenward_handles_live{app=\"outlook\",caller=\"mail-reader\"}";
    world.until("both are counted", async || world.metrics().await.contains(&format!("{living} 2"))).await;
    let unused = console.page("/console/callers").await;
    let (_, unused) = unused.split_once("Handles").expect("a table");
    assert!(unused.contains("not since the start"), "{unused}");
    let path = of("/relay/graph/v1.0/me/messages");
    let used = world.api_as(&handles[0].0, Method::GET, &path, Value::Null).await;
    assert_eq!(used.status, 200, "{}", used.text());
    let page = console.page("/console/callers").await;
    let (_, table) = page.split_once("Handles").expect("a table");
    assert!(table.contains(">2<") && !table.contains("not since the start"), "{table}");
    for (handle, id) in &handles {
        assert!(!page.contains(handle.as_str()) && !page.contains(id.as_str()), "{page}");
    }
    let ended =
        operate(world, Method::POST, "/admin/v1/revocations", json!({ "handle": handles[0].1 })).await;
    assert_eq!(ended.status, 200, "{}", ended.text());
    world.until("one is counted", async || world.metrics().await.contains(&format!("{living} 1"))).await;
}
