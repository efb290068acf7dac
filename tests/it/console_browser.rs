//! The operators' console in a real browser: everything with the keyboard alone, everything with script switched
//! off on a phone, and every page judged by axe-core and by its width. The pictures of docs/console.md are made by
//! the same means.

use std::time::Duration;

use bytes::Bytes;
use entra_emulator::{RevokeKind, User};
use http::Method;
use serde_json::{Value, json};
use tokenward::callers::key_file;
use tokenward::domain::id::CallerName;
use tokenward::domain::time::Clock;
use tokenward::system::{SystemClock, SystemRandom};

use crate::attacks_rights::{operate, pause};
use crate::chromium::Chromium;
use crate::console::{Scene, audited};
use crate::http_client::Browser;
use crate::notices::{SECRET as WEBHOOK_SECRET, section};
use crate::resource::{Reply, Resource, Seen};
use crate::world::{ALICE, BOB, CLIENT_ID, CLIENT_SECRET, Plan, READER, SYNC, text, write_secret};

const CREDENTIALS: &str = "credentials_dir = \"credentials\"\nhome_tenant = \"contoso.example\"\n";
const NEXT_SECRET: &str = "the-next-secret";
const PHONE: (u32, u32) = (375, 720);
const DESK: (u32, u32) = (1280, 800);

/// Every page that can be opened by its address.
const PAGES: [(&str, &str); 8] = [
    ("overview", "/console"),
    ("connections", "/console/connections?app=outlook"),
    ("connection", "/console/connection?app=outlook&name=team-a%2Fone"),
    ("apps", "/console/apps"),
    ("callers", "/console/callers"),
    ("keys", "/console/keys"),
    ("revoke", "/console/revoke"),
    ("forecast", "/console/forecast"),
];

fn look((width, height): (u32, u32), dark: bool, script: bool) -> Value {
    json!({ "width": width, "height": height, "dark": dark, "script": script })
}

/// A daemon with some connections, and an app that has two credentials.
async fn scene() -> Scene {
    scene_with(Plan::default()).await
}

async fn scene_with(plan: Plan) -> Scene {
    let plan = plan
        .credentials("")
        .app_lines(CREDENTIALS)
        .file("credentials/2026-11@2026-12-20.secret", CLIENT_SECRET);
    let scene = Scene::with(plan).await;
    scene.world.entra.add_secret(CLIENT_ID, NEXT_SECRET, Duration::ZERO, None).expect("room for one more");
    let next = scene.world.folder.path().join("credentials/2027-05@2027-08-20.secret");
    write_secret(&next, NEXT_SECRET);
    scene
        .world
        .until("the next secret is proven", async || {
            let shown = operate(&scene.world, Method::GET, "/admin/v1/credentials", Value::Null).await.json();
            let all = shown["apps"][0]["credentials"].as_array().cloned().unwrap_or_default();
            all.iter().any(|one| one["id"] == "2027-05" && !one["accepted_at"].is_null())
        })
        .await;
    for (name, user) in [("team-a/one", ALICE), ("team-a/two", BOB), ("zoe", ALICE)] {
        scene.world.connect(name, user).await;
    }
    scene
}

/// An operator at a browser, with the keyboard alone or with a finger.
struct Hands {
    chromium: Chromium,
    base: String,
    has_keyboard: bool,
}

impl Hands {
    /// Presses a button or follows a link, and returns the page that comes.
    fn press(&mut self, selector: &str) -> Value {
        match self.has_keyboard {
            true => _ = self.chromium.act(json!({ "keys": { "selector": selector } })),
            false => self.chromium.click(selector),
        }
        self.page()
    }

    /// Opens what is folded up, or ticks a box.
    fn touch(&mut self, selector: &str) {
        match self.has_keyboard {
            true => {
                self.chromium
                    .act(json!({ "keys": { "selector": selector, "then": "Space", "stays": true } }));
            }
            false => self.chromium.touch(selector),
        }
    }

    /// Goes to a field without leaving anything there.
    fn reach(&mut self, selector: &str) {
        match self.has_keyboard {
            true => _ = self.chromium.act(json!({ "keys": { "selector": selector, "then": null } })),
            false => self.chromium.touch(selector),
        }
    }

    fn write(&mut self, selector: &str, words: &str) {
        self.reach(selector);
        self.chromium.act(json!({ "write": words }));
    }

    /// Chooses the entry after the one that is chosen.
    fn choose_next(&mut self, selector: &str) {
        if self.has_keyboard {
            self.reach(selector);
            self.chromium.act(json!({ "press": { "key": "ArrowDown", "stays": true } }));
        } else {
            // (A list that is opened by a finger is the system's, out of the page's reach.)
            let choice = format!("document.querySelector('{selector}').selectedIndex += 1");
            self.chromium.act(json!({ "evaluate": choice }));
        }
    }

    /// The page, judged. axe is a script: where there is none, only the width is.
    fn page(&mut self) -> Value {
        if self.has_keyboard {
            return self.chromium.judged();
        }
        let page = self.chromium.read();
        assert_eq!(page["wide"], json!(false), "it can be scrolled sideways: {page}");
        page
    }

    fn go(&mut self, path: &str) -> Value {
        let url = format!("{}{path}", self.base);
        self.chromium.go(&url);
        self.page()
    }
}

fn says(page: &Value, words: &str) {
    assert!(text(page, "text").contains(words), "not {words}: {page}");
}

/// From the link to the last act, as an operator goes.
async fn everything(scene: &Scene, hands: &mut Hands) {
    let link = scene.link().await;
    hands.chromium.go(&link);
    says(&hands.page(), "This link opens the console once");
    let overview = hands.press("form button");
    says(&overview, "Are callers served?");
    if hands.has_keyboard {
        // The first key leads past the navigation.
        hands.chromium.act(json!({ "keys": { "selector": ".skip", "within": 1, "stays": true } }));
        hands.chromium.act(json!({ "keys": { "selector": "main *", "within": 1, "then": null } }));
        hands.go("/console");
    }

    // Search, and one connection with its timeline.
    hands.press("nav a[href='/console/connections']");
    hands.write("input[name=text]", "team-a/");
    let found = hands.press("form[role=search] button");
    says(&found, "team-a/two");
    assert!(!text(&found, "text").contains("zoe"), "{found}");
    let one = hands.press("a[href*='name=team-a%2Fone']");
    for words in ["Timeline", "signed in, by mail-sync", "The connection works. Nothing to do.", ALICE] {
        says(&one, words);
    }

    // The acts on it.
    let act = |name: &str| format!("form:has(input[value={name}]) button");
    says(&hands.press(&act("pause")), "It is paused");
    assert_eq!(scene.status("team-a%2Fone").await.as_deref(), Some("paused"));
    says(&hands.press(&act("resume")), "It is resumed");
    assert_eq!(scene.status("team-a%2Fone").await.as_deref(), Some("active"));
    says(&hands.press(&act("refresh")), "A refresh has begun");
    let linked = hands.press(&act("reconnect"));
    says(&linked, "A reconnect link");
    // What only a script does is offered where there is one.
    assert_eq!(text(&linked, "text").contains("\nCopy"), hands.has_keyboard, "{linked}");
    hands.press("main p:last-child a");
    hands.touch("summary");
    hands.touch("input[name=sure]");
    says(&hands.press(&act("delete")), "It is deleted");
    assert_eq!(scene.status("team-a%2Fone").await, None);

    // Credentials: prove, promote, retire.
    hands.press("nav a[href='/console/apps']");
    says(&hands.press("form:has(input[value=verify]) button"), "accepted");
    hands.press("main p:last-child a");
    let of = |id: &str, act: &str| format!("form:has(input[value='{id}']):has(input[value={act}])");
    says(&hands.press(&format!("{} button", of("2027-05", "promote"))), "It is preferred");
    hands.touch("tr:has(input[value='2026-11']) summary");
    hands.touch(&format!("{} input[name=sure]", of("2026-11", "retire")));
    says(&hands.press(&format!("{} button", of("2026-11", "retire"))), "It is out of service");

    for path in ["/console/callers", "/console/keys"] {
        hands.press(&format!("nav a[href='{path}']"));
    }

    // The kill switch counts first.
    hands.press("nav a[href='/console/revoke']");
    hands.choose_next("select[name=app]");
    let counted = hands.press("main form button");
    says(&counted, "2 connections");
    assert_eq!(scene.status("zoe").await.as_deref(), Some("active"), "counting changes nothing");
    hands.touch("input[name=sure]");
    says(&hands.press("button.risk"), "Revoked");
    scene.world.until("they are gone", async || scene.status("zoe").await.is_none()).await;

    says(&hands.press("form[action='/console/leave'] button"), "You have left the console");
    says(&hands.go("/console"), "Who are you?");
    for act in ["pause", "resume", "refresh", "delete", "credential_promote", "credential_retire", "revoke"] {
        assert_eq!(audited(&scene.world, act).len(), 1, "{act}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn everything_is_done_with_the_keyboard_alone() {
    let scene = scene().await;
    let mut chromium = Chromium::start();
    chromium.open(&look(DESK, false, true));
    let mut hands = Hands { chromium, base: scene.base.clone(), has_keyboard: true };
    everything(&scene, &mut hands).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn everything_is_done_without_script_on_a_phone() {
    let scene = scene().await;
    let mut chromium = Chromium::start();
    chromium.open(&look(PHONE, false, false));
    let mut hands = Hands { chromium, base: scene.base.clone(), has_keyboard: false };
    everything(&scene, &mut hands).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_page_can_be_read_by_everybody_on_every_screen() {
    let (product, archive) = receivers().await;
    let scene = scene_with(with_webhooks(Plan::default(), &product, &archive)).await;
    trouble(&scene).await;
    hand_a_part_on(&scene).await;
    let mut chromium = Chromium::start();
    for (screen, dark) in [(PHONE, false), (PHONE, true), (DESK, true)] {
        chromium.open(&look(screen, dark, true));
        let link = scene.link().await;
        chromium.go(&link);
        chromium.judged();
        chromium.click("form button");
        for path in PAGES.into_iter().map(|(_, path)| path).chain(["/console/codes", "/console/sessions"]) {
            chromium.go(&format!("{}{path}", scene.base));
            chromium.judged();
        }
        for (path, words) in [
            ("/console/nowhere", "There is no such page"),
            ("/console/connection?app=outlook&name=nobody", "That is not there"),
        ] {
            chromium.go(&format!("{}{path}", scene.base));
            says(&chromium.judged(), words);
        }
    }

    // A page follows the daemon by itself.
    chromium.go(&format!("{}/console/connection?app=outlook&name=team-a%2Ftwo", scene.base));
    assert_eq!(pause(&scene.world, "team-a/two", true).await.status, 200);
    chromium.until("An operator paused the connection");
}

/// A receiver that takes events, and one that does not.
async fn receivers() -> (Resource, Resource) {
    let answers = |status| move |_: &Seen| Reply::Whole(status, Vec::new(), Bytes::new());
    (Resource::start(answers(204)).await, Resource::start(answers(503)).await)
}

fn with_webhooks(plan: Plan, product: &Resource, archive: &Resource) -> Plan {
    let archive = section(&archive.url, "").replace("webhooks.product", "webhooks.archive");
    let plan = plan.sections("[apps.outlook.relay]\nbases = { graph = \"{graph}\" }\n");
    let rule = "[[callers.mail-reader.allow]]\napp = \"outlook\"\nconnections = [\"team-a/*\"]\nscopes = []";
    let plan = plan.sections(&format!("{rule}\nrelay = [\"GET graph:/v1.0/me*\"]\n"));
    plan.sections(&section(&product.url, "")).sections(&archive).file("webhook.secret", WEBHOOK_SECRET)
}

/// Has a caller make three handles, one of which is used.
async fn hand_a_part_on(scene: &Scene) {
    let of = |rest: &str| format!("/v1/apps/outlook/connections/team-a%2Fone{rest}");
    let mut last = String::new();
    for _ in 0..3 {
        let wanted = json!({ "ttl": 3600, "relay": ["GET graph:/v1.0/me/messages*"] });
        let made = scene.world.api_as(&scene.world.reader_key, Method::POST, &of("/handles"), wanted).await;
        assert_eq!(made.status, 201, "{}", made.text());
        text(&made.json(), "handle").clone_into(&mut last);
    }
    let path = of("/relay/graph/v1.0/me/messages");
    // (Where time has just passed, the list of ended handles is too old for a moment.)
    let used = async || scene.world.api_as(&last, Method::GET, &path, Value::Null).await.status == 200;
    scene.world.until("one is used", used).await;
}

/// Something of everything that a page may have to show.
async fn trouble(scene: &Scene) {
    scene
        .world
        .connect("team-b/a-very-long-name-of-a-connection-that-has-no-place-to-break-0123456789", BOB)
        .await;
    assert_eq!(pause(&scene.world, "zoe", true).await.status, 200);
    let config = scene.world.folder.path().join("tokenward.toml");
    let before = std::fs::read_to_string(&config).expect("the configuration");
    std::fs::write(&config, format!("{before}\n[no-such-section]\n")).expect("written");
    operate(&scene.world, Method::POST, "/admin/v1/reload", Value::Null).await;
}

/// A daemon as an operator may meet it on a day with some trouble.
async fn a_working_day(product: &Resource, archive: &Resource) -> Scene {
    const CAROL: &str = "carol@contoso.example";
    const DAVE: &str = "dave@contoso.example";
    const ERIN: &str = "erin@fabrikam.example";
    let scene = scene_with(with_webhooks(Plan::default(), product, archive)).await;
    let world = &scene.world;
    for user in [CAROL, DAVE, ERIN] {
        world.entra.add_user(User::work(user));
    }
    for (name, user) in [("support/inbox", DAVE), ("team-b/carol", CAROL), ("team-b/dave", DAVE)] {
        world.connect(name, user).await;
    }
    // A tenant that ends sign-ins by their age.
    let aged = ["team-c/erin", "team-c/desk", "team-c/books"];
    for name in aged {
        world.connect(name, ERIN).await;
    }
    let connections = ["team-a/one", "team-a/two", "zoe", "support/inbox", "team-b/carol", "team-b/dave"];
    // Each caller's key ends soon, and has its successor.
    for name in [SYNC, READER] {
        let caller = CallerName::parse(name).expect("a name");
        let file = world.folder.path().join(format!("{name}.keys"));
        let (random, now) = (SystemRandom::new(), SystemClock::new().now());
        key_file::add(&file, &caller, &random, now, Duration::from_secs(330 * 86_400)).expect("a key");
    }
    for hours in [11, 6, 3] {
        world.pass(Duration::from_secs(hours * 3600));
        for name in connections.into_iter().chain(aged) {
            assert_eq!(world.token(name).await.status, 200);
        }
    }
    world.entra.revoke_user(ERIN, RevokeKind::SignInFrequency).expect("known");
    world.outlive_tokens();
    for name in aged {
        assert_eq!(world.token(name).await.status, 409);
    }
    world.entra.sign_in_as(ERIN);
    for name in aged {
        let session = world.start_session(json!({ "app": "outlook", "connection": name })).await;
        world.sign_in(&mut Browser::default(), text(&session, "connect_url")).await;
    }
    world.entra.revoke_user(BOB, RevokeKind::ConditionalAccess).expect("known");
    world.entra.revoke_user(CAROL, RevokeKind::GrantRevoked).expect("known");
    world.outlive_tokens();
    for name in ["team-a/one", "zoe", "support/inbox", "team-b/dave"] {
        assert_eq!(world.token(name).await.status, 200);
    }
    for name in ["team-a/two", "team-b/carol"] {
        assert_eq!(world.token(name).await.status, 409);
    }
    assert_eq!(pause(world, "zoe", true).await.status, 200);
    hand_a_part_on(&scene).await;
    let foreseen = async || {
        let shown = operate(world, Method::GET, "/admin/v1/forecast", Value::Null).await;
        shown.text().contains("sign_in_frequency")
    };
    world.until("the next sign-ins are foreseen", foreseen).await;
    scene
}

/// `make screenshots`.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "it writes docs/pictures"]
async fn the_pictures_are_made_anew() {
    let (product, archive) = receivers().await;
    let scene = a_working_day(&product, &archive).await;
    let mut chromium = Chromium::start();
    for (screen, size) in [(PHONE, "phone"), (DESK, "desktop")] {
        for (dark, light) in [(false, ""), (true, "-dark")] {
            chromium.open(&look(screen, dark, true));
            let link = scene.link().await;
            chromium.go(&link);
            chromium.click("form button");
            // Some requests, so that there is something to tell.
            for name in ["team-a/one", "team-a/one", "support/inbox", "team-b/dave", "team-b/carol", "zoe"] {
                scene.world.token(name).await;
            }
            for (name, path) in PAGES {
                let path = path.replace("team-a%2Fone", "team-b%2Fcarol");
                chromium.go(&format!("{}{path}", scene.base));
                if name == "revoke" {
                    chromium
                        .act(json!({ "evaluate": "document.querySelector('[name=app]').selectedIndex = 1" }));
                    chromium.click("main form button");
                }
                chromium.picture(&format!("console-{name}-{size}{light}"));
            }
            // What stands lower down.
            for (name, path, heading) in
                [("webhooks", "/console", "Webhooks"), ("handles", "/console/callers", "Handles")]
            {
                chromium.go(&format!("{}{path}", scene.base));
                let found = format!(
                    "[...document.querySelectorAll('h2, h3')].find((one) => one.textContent === '{heading}')"
                );
                chromium.act(json!({ "evaluate": format!("{found}.parentElement.scrollIntoView()") }));
                chromium.picture(&format!("console-{name}-{size}{light}"));
            }
        }
    }
}
