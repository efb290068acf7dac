//! The pages for users in a real browser: a headless Chromium goes through every way in which a sign-in ends, in
//! both languages, with axe-core beside it. The pictures of docs/ are made by the same means.

use std::time::Duration;

use entra_emulator::{CallbackPatch, Endpoint, Fault, FaultRule};
use http::Method;
use serde_json::{Value, json};

use crate::attacks_connect::{account_of, confirm, session, state_of, up_to_callback};
use crate::attacks_rights::operate;
use crate::chromium::Chromium;
use crate::http_client::{Browser, request};
use crate::world::{ALICE, BOB, Plan, World, text};

const LOGO: &str = r##"<svg xmlns="http://www.w3.org/2000/svg" width="168" height="40" viewBox="0 0 168 40">
<rect width="40" height="40" rx="9" fill="#0f766e"/><path d="M27 13a10 10 0 1 0 0 14" fill="none" stroke="#fff"
stroke-width="4" stroke-linecap="round"/><text x="50" y="28" font-family="sans-serif" font-size="22"
font-weight="700" fill="#0f766e">Contoso</text></svg>"##;

const PAGES: &str = "[pages]\nname = \"Contoso\"\nsupport = \"it-help@contoso.example\"\nlogo = \"logo.svg\"\n\
    languages_dir = \"languages\"\n";

/// Reads a page for users, after it was judged: by axe, by its size on this screen, and by what it must not
/// show.
fn judged(chromium: &mut Chromium, language: &str) -> Value {
    let page = chromium.judged();
    assert_eq!((text(&page, "language"), &page["small"]), (language, &json!([])));
    for key in ["mail-sync", "user-4711", "outlook"] {
        assert!(!text(&page, "words").contains(key), "{key} is a key of the configuration: {page}");
    }
    page
}

async fn contoso() -> World {
    let plan = Plan::default()
        .app_lines("display_name = \"Contoso Mail\"")
        .app_lines("purpose = \"It shows your e-mail beside your customers' tickets.\"")
        .sections(PAGES)
        .file("logo.svg", LOGO)
        .file("languages/fr.toml", "[texts]\nconnect_button_microsoft = \"Continuer chez Microsoft\"\n")
        .file("languages/de.toml", "[purposes]\noutlook = \"Es zeigt Ihre E-Mails neben den Anfragen.\"\n");
    plan.start().await
}

fn refuse_at_the_authority(world: &World, error: &str, description: Option<&str>) {
    let (error, description) = (error.to_owned(), description.map(str::to_owned));
    let patch = CallbackPatch::Error { error, description, subcode: None };
    world.entra.faults().inject(FaultRule::new(Endpoint::Authorize, Fault::CallbackPatch(patch)).once());
}

/// What a page of a language says.
struct Said {
    language: &'static str,
    accepted: &'static str,
    connect: &'static str,
    button: &'static str,
    waiting: &'static str,
    connected: &'static str,
    declined: &'static str,
    approval: &'static str,
    copied: &'static str,
    another_account: &'static str,
    came_back: &'static str,
    over: &'static str,
    used: &'static str,
    gone: &'static str,
    reference: &'static str,
}

const ENGLISH: Said = Said {
    language: "en",
    accepted: "en-GB,en;q=0.9,de;q=0.8",
    connect: "Connect your Microsoft account to Contoso Mail",
    button: "Continue to Microsoft",
    waiting: "One more step",
    connected: "Your account is connected",
    declined: "Access was not granted",
    approval: "Your administrator has to approve this first",
    copied: "Copied",
    another_account: "That was another account",
    came_back: "You signed in as",
    over: "This took too long",
    used: "This link was used already",
    gone: "This link does not work any more",
    reference: "For whoever helps you: ",
};

const GERMAN: Said = Said {
    language: "de",
    accepted: "de-AT,de;q=0.9,en;q=0.1",
    connect: "Ihr Microsoft-Konto mit Contoso Mail verbinden",
    button: "Weiter zu Microsoft",
    waiting: "Noch ein Schritt",
    connected: "Ihr Konto ist verbunden",
    declined: "Der Zugriff wurde nicht erlaubt",
    approval: "Ihre Administration muss dem erst zustimmen",
    copied: "Kopiert",
    another_account: "Das war ein anderes Konto",
    came_back: "Sie haben sich als",
    over: "Das hat zu lange gedauert",
    used: "Dieser Link wurde schon benutzt",
    gone: "Dieser Link gilt nicht mehr",
    reference: "Für alle, die Ihnen helfen: ",
};

fn says(page: &Value, words: &str) {
    assert!(text(page, "text").contains(words), "not {words}: {page}");
}

/// The address bar has nothing of what the authority sent.
fn is_clean(page: &Value, session: &Value) {
    assert_eq!(text(page, "url"), text(session, "connect_url"));
}

#[tokio::test(flavor = "multi_thread")]
async fn every_end_of_a_sign_in_in_a_browser_and_in_both_languages() {
    let mut chromium = Chromium::start();
    let phone = |said: &Said| json!({ "language": said.accepted, "width": 375, "height": 720 });
    let dark = |said: &Said| json!({ "language": said.accepted, "dark": true });
    for said in [ENGLISH, GERMAN] {
        let world = contoso().await;
        world.entra.sign_in_as(ALICE);

        // To success, by keyboard, without script; the waiting page becomes the last one by itself.
        let link = session(&world, "user-4711", Value::Null).await;
        let without_script =
            json!({ "language": said.accepted, "script": false, "width": 375, "height": 720 });
        chromium.open(&without_script);
        chromium.go(text(&link, "connect_url"));
        let page = chromium.act(json!({ "read": true }));
        says(&page, said.connect);
        says(&page, said.button);
        chromium.act(json!({ "keys": "form button" }));
        chromium.act(json!({ "until": said.waiting }));
        let page = chromium.act(json!({ "read": true }));
        says(&page, ALICE);
        is_clean(&page, &link);
        let account = account_of(&state_of(&world, &link).await);
        let alice = account["account"].clone();
        assert_eq!(confirm(&world, &link, account).await.status, 200);
        chromium.act(json!({ "until": said.connected }));
        chromium.act(json!({ "reload": true }));
        let page = chromium.act(json!({ "read": true }));
        says(&page, said.connected);
        is_clean(&page, &link);
        // Once more from the start, with axe, which is a script.
        for look in [phone(&said), dark(&said)] {
            let link = session(&world, "user-4711", json!({ "change_account": true })).await;
            chromium.open(&look);
            chromium.go(text(&link, "connect_url"));
            says(&judged(&mut chromium, said.language), said.connect);
            chromium.click("form button");
            says(&judged(&mut chromium, said.language), said.waiting);
            let account = account_of(&state_of(&world, &link).await);
            assert_eq!(confirm(&world, &link, account).await.status, 200);
            chromium.act(json!({ "until": said.connected }));
            judged(&mut chromium, said.language);
            // Another browser learns that it was used, and nothing else.
            chromium.open(&look);
            chromium.go(text(&link, "connect_url"));
            let page = judged(&mut chromium, said.language);
            says(&page, said.used);
            assert!(!text(&page, "text").contains(ALICE), "{page}");
        }

        for look in [phone(&said), dark(&said)] {
            // Cancelled.
            refuse_at_the_authority(&world, "access_denied", None);
            let link = session(&world, "cancelled", Value::Null).await;
            chromium.open(&look);
            chromium.go(text(&link, "connect_url"));
            chromium.click("form button");
            let page = judged(&mut chromium, said.language);
            says(&page, said.declined);
            says(&page, said.reference);
            is_clean(&page, &link);
            chromium.act(json!({ "reload": true }));
            assert_eq!(chromium.act(json!({ "read": true }))["text"], page["text"]);

            // An administrator has to approve: a mail, and a link to copy.
            refuse_at_the_authority(&world, "access_denied", Some("AADSTS90095: canary-text"));
            let link = session(&world, "approval", Value::Null).await;
            chromium.open(&look);
            chromium.go(text(&link, "connect_url"));
            chromium.click("form button");
            let page = judged(&mut chromium, said.language);
            says(&page, said.approval);
            says(&page, "AADSTS90095");
            is_clean(&page, &link);
            chromium.act(json!({ "click": { "selector": "[data-done]", "stays": true } }));
            chromium.act(json!({ "until": said.copied }));
            let shown = chromium.act(json!({ "evaluate": "document.querySelector('code').textContent" }));
            assert_eq!(chromium.act(json!({ "clipboard": true })), shown);
            let mail = chromium.act(json!({ "evaluate": "document.querySelector('a.go').href" }));
            let mail = mail.as_str().expect("a link");
            assert!(mail.starts_with("mailto:?subject=") && mail.len() < 2000, "{mail}");

            // Another account than the one the link is for.
            world.entra.sign_in_as(BOB);
            let link = session(&world, "another", json!({ "account": alice })).await;
            chromium.open(&look);
            chromium.go(text(&link, "connect_url"));
            chromium.click("form button");
            let page = judged(&mut chromium, said.language);
            says(&page, said.another_account);
            says(&page, &format!("{} {BOB}", said.came_back));
            world.entra.sign_in_as(ALICE);

            // A link that nobody knows.
            chromium.go(&format!("{}/connect/AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA", world.base_url()));
            let page = judged(&mut chromium, said.language);
            says(&page, said.gone);
            says(&page, "help@contoso.example");
        }

        // It took too long: the browser that signed in is told so, and no other.
        let link = session(&world, "slow", Value::Null).await;
        chromium.open(&phone(&said));
        chromium.go(text(&link, "connect_url"));
        chromium.click("form button");
        world.pass(Duration::from_secs(660));
        chromium.act(json!({ "until": said.over }));
        is_clean(&judged(&mut chromium, said.language), &link);
    }
}

#[tokio::test]
async fn a_page_says_its_language_and_a_files_texts_come_first() {
    let world = contoso().await;
    let link = session(&world, "user-4711", Value::Null).await;
    let page = |accepted: &'static str| {
        let url = text(&link, "connect_url").to_owned();
        async move { request(Method::GET, &url, &[("accept-language", accepted)], "").await.expect("a page") }
    };
    for (accepted, tag, words) in [
        ("fr-CA, de;q=0.5", "fr", "Continuer chez Microsoft"),
        ("de-CH", "de", "Weiter zu Microsoft"),
        ("de;q=0.2, en;q=0.3", "en", "Continue to Microsoft"),
        ("nl", "en", "Continue to Microsoft"),
    ] {
        let answer = page(accepted).await;
        assert_eq!(answer.headers["content-language"], tag, "{accepted}");
        let html = answer.text();
        assert!(
            html.contains(&format!("<html lang=\"{tag}\">")) && html.contains(words),
            "{accepted}: {html}"
        );
        assert!(html.len() < 6000, "{} bytes", html.len());
        for key in ["mail-sync", "outlook", "user-4711"] {
            assert!(!html.contains(key), "{key}: {html}");
        }
    }
    // What `check` names.
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_tokenward"))
        .args(["check", "--config"])
        .arg(world.folder.path().join("tokenward.toml"))
        .output()
        .expect("it runs");
    let said =
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(
        said.contains("fr.toml lacks texts, which are shown in English: ") && said.contains("declined_title")
    );

    let logo = request(Method::GET, &format!("{}/logo", world.base_url()), &[], "").await.expect("a picture");
    assert_eq!((logo.status.as_u16(), logo.text()), (200, LOGO.to_owned()));
    assert_eq!(logo.headers["content-type"], "image/svg+xml");
    assert!(logo.headers["content-security-policy"].to_str().expect("text").contains("sandbox"));
}

/// A wrong picture or text is left out and warned of: it holds up neither the start nor a reload.
#[tokio::test]
async fn a_wrong_picture_or_text_holds_nothing_up() {
    let plan = Plan::default()
        .sections(PAGES)
        .file("logo.svg", "no picture")
        .file("languages/README.md", "how we translate")
        .file("languages/fr.toml", "[texts]\nno_such_text = \"Bonjour\"\n");
    let world = plan.start().await;
    let reloaded = operate(&world, Method::POST, "/admin/v1/reload", Value::Null).await;
    assert_eq!(text(&reloaded.json(), "outcome"), "ok", "{}", reloaded.text());
    let link = session(&world, "user-4711", Value::Null).await;
    let url = text(&link, "connect_url");
    let page = request(Method::GET, url, &[("accept-language", "fr")], "").await.expect("a page");
    assert_eq!(
        (page.status.as_u16(), &page.headers["content-language"]),
        (200, &"en".parse().expect("a tag"))
    );
    let checked = std::process::Command::new(env!("CARGO_BIN_EXE_tokenward"))
        .args(["check", "--config"])
        .arg(world.folder.path().join("tokenward.toml"))
        .output()
        .expect("it runs");
    let said = String::from_utf8_lossy(&checked.stderr);
    assert!(checked.status.success(), "{said}");
    for wrong in ["logo.svg", "README.md", "no_such_text"] {
        assert!(said.contains(wrong), "{wrong}: {said}");
    }
}

/// A page asks again for as long as its account can be confirmed, and not longer.
#[tokio::test]
async fn a_page_that_waits_asks_again_and_stops_with_the_confirmations_time() {
    let world = Plan::default().start().await;
    let link = session(&world, "alice", Value::Null).await;
    let mut browser = Browser::default();
    let callback = up_to_callback(&mut browser, &link).await;
    let answer = browser.send(Method::GET, &callback, bytes::Bytes::new(), &[]).await.expect("an answer");
    assert_eq!((answer.status.as_u16(), answer.location()), (303, text(&link, "connect_url").to_owned()));
    let waiting = browser.get(text(&link, "connect_url")).await.expect("a page");
    assert_eq!(
        (waiting.status.as_u16(), &waiting.headers["refresh"]),
        (200, &"5".parse().expect("a header"))
    );
    world.pass(Duration::from_secs(660));
    world
        .until("the wait is over", async || {
            let page = browser.clone().get(text(&link, "connect_url")).await.expect("a page");
            page.status == 410 && !page.headers.contains_key("refresh")
        })
        .await;
}

/// `make screenshots`.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "it writes docs/pictures"]
async fn the_pictures_are_made_anew() {
    let mut chromium = Chromium::start();
    let world = contoso().await;
    world.entra.sign_in_as(ALICE);
    let phone = |dark: bool, language: &str| json!({ "language": language, "dark": dark, "width": 375, "height": 720 });
    let desk = |dark: bool| json!({ "dark": dark, "width": 1280, "height": 800 });
    for (name, look) in [
        ("connect-phone", phone(false, "en")),
        ("connect-desktop-dark", desk(true)),
        ("connect-phone-german", phone(true, "de")),
    ] {
        let link = session(&world, name, Value::Null).await;
        chromium.open(&look);
        chromium.go(text(&link, "connect_url"));
        chromium.picture(name);
    }
    let link = session(&world, "user-4711", Value::Null).await;
    chromium.open(&desk(false));
    chromium.go(text(&link, "connect_url"));
    chromium.click("form button");
    chromium.picture("waiting-desktop");
    let account = account_of(&state_of(&world, &link).await);
    let alice = account["account"].clone();
    assert_eq!(confirm(&world, &link, account).await.status, 200);
    chromium.act(json!({ "until": "Your account is connected" }));
    chromium.picture("connected-desktop");
    refuse_at_the_authority(&world, "access_denied", Some("AADSTS90095: x"));
    let link = session(&world, "approval", Value::Null).await;
    chromium.open(&phone(false, "en"));
    chromium.go(text(&link, "connect_url"));
    chromium.click("form button");
    chromium.picture("approval-phone");
    world.entra.sign_in_as(BOB);
    let link = session(&world, "another", json!({ "account": alice })).await;
    chromium.open(&phone(true, "en"));
    chromium.go(text(&link, "connect_url"));
    chromium.click("form button");
    chromium.picture("another-account-phone-dark");
}

/// A file of a language says it in that language; where none does, the app's own sentence is shown.
#[tokio::test]
async fn why_an_app_asks_is_said_in_the_reader_s_language() {
    let world = contoso().await;
    let link = session(&world, "user-4711", Value::Null).await;
    for (accepted, said) in [
        ("de-AT,de;q=0.9", "Es zeigt Ihre E-Mails neben den Anfragen."),
        ("en", "It shows your e-mail beside"),
        ("fr", "It shows your e-mail beside"),
    ] {
        let headers = [("accept-language", accepted), ("accept", "text/html")];
        let page = request(Method::GET, text(&link, "connect_url"), &headers, "").await.expect("a page");
        assert_eq!(page.status, 200, "{}", page.text());
        assert!(page.text().contains(said), "{accepted}: {}", page.text());
    }
}
