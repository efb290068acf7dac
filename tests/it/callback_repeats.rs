//! Only a person's navigation uses anything up, and the session's browser may come back as often as it likes.
//! Tested with prefetches, mail scanners, reload, Back, and an attacker who repeats what he saw.

use bytes::Bytes;
use http::{Method, StatusCode};
use serde_json::{Value, json};

use crate::attacks_connect::{
    RETURN_URL, account_of, assert_headers, confirm, parameter, press, redemptions, refused, session, set,
    sign_in, state_of, up_to_callback, up_to_form,
};
use crate::http_client::{Answer, Browser, request};
use crate::world::{Kept, Plan, World, text};

/// What asks without a person: a method and headers.
const NOBODY: [(&str, &[(&str, &str)]); 9] = [
    ("HEAD", &[]),
    ("OPTIONS", &[]),
    ("GET", &[("sec-purpose", "prefetch")]),
    ("GET", &[("sec-purpose", "prefetch;prerender")]),
    ("GET", &[("purpose", "prefetch")]),
    ("GET", &[("sec-fetch-mode", "no-cors"), ("sec-fetch-dest", "image")]),
    ("HEAD", &[("sec-purpose", "prefetch")]),
    ("POST", &[("sec-purpose", "prefetch")]),
    ("PUT", &[]),
];

/// Asks for a URL in every way that is no person's, with the browser's cookies, and sees that nothing comes
/// of it.
async fn nobody_asks(browser: &mut Browser, url: &str, form: &str) {
    for (method, headers) in NOBODY {
        let method = Method::from_bytes(method.as_bytes()).expect("a method");
        let mut headers = headers.to_vec();
        headers.push(("content-type", "application/x-www-form-urlencoded"));
        let body = if method == Method::POST { Bytes::from(form.to_owned()) } else { Bytes::new() };
        let answer = browser.send(method.clone(), url, body, &headers).await.expect("an answer");
        let what = format!("{method} {headers:?} {url}");
        assert!(!answer.status.is_redirection(), "{what}: {}", answer.status);
        assert!(answer.headers.get("set-cookie").is_none(), "{what}");
        assert_headers(&answer, &what);
        let expected = match method {
            // A browser keeps what it loaded ahead when that was a success, and shows it: it must ask again.
            _ if headers.iter().any(|(name, _)| name.starts_with("sec-") || *name == "purpose") => 503,
            Method::OPTIONS => 204,
            Method::PUT => 405,
            _ => 200,
        };
        assert_eq!(answer.status, expected, "{what}");
        if matches!(expected, 204 | 405) {
            assert!(answer.headers.contains_key("allow"), "{what}");
        }
    }
}

#[tokio::test]
async fn nothing_is_spent_before_a_person_goes_there() {
    for form_post in [false, true] {
        let world = Plan { form_post, ..Plan::default() }.start().await;
        let session = session(&world, "alice", json!({ "return_url": RETURN_URL })).await;
        let mut browser = Browser::default();
        let base = world.base_url();

        let link = text(&session, "connect_url").to_owned();
        nobody_asks(&mut browser, &format!("{base}/"), "").await;
        nobody_asks(&mut browser, &link, "").await;
        // Nobody's press has bound the link: a person's does.
        let callback = if form_post {
            let (action, form) = up_to_form(&mut browser, &session).await;
            nobody_asks(&mut browser, &format!("{action}?{form}"), &form).await;
            // As a cross-site form, without the cookie.
            let relay = Browser::default().post(&action, &form).await.expect("the relay").location();
            nobody_asks(&mut browser, &relay, &form).await;
            relay
        } else {
            up_to_callback(&mut browser, &session).await
        };
        nobody_asks(&mut browser, &callback, "").await;
        assert_eq!(redemptions(&world), 0);
        assert_eq!(state_of(&world, &session).await["state"], "pending");

        let person = [("sec-fetch-mode", "navigate"), ("sec-fetch-dest", "document")];
        let answer = browser.send(Method::GET, &callback, Bytes::new(), &person).await.expect("an answer");
        assert_eq!(answer.status, 303, "{}", answer.text());
        let code = json!({ "code": parameter(&answer.location(), "code") });
        assert_eq!(confirm(&world, &session, code).await.status, 200);
        world.access_token("alice").await;
    }
}

#[tokio::test]
async fn an_administrators_answer_counts_when_a_person_brings_it_and_once() {
    let world = Plan::default().start().await;
    let started = world
        .api(
            Method::POST,
            "/v1/admin-consent-sessions",
            json!({ "app": "outlook", "return_url": RETURN_URL }),
        )
        .await;
    assert_eq!(started.status, 201, "{}", started.text());
    let started = started.json();
    let state = parameter(text(&started, "admin_consent_url"), "state");
    let tenant = "aaaaaaaa-0000-4000-8000-00000000000a";
    let callback =
        format!("{}/callback/outlook?admin_consent=True&tenant={tenant}&state={state}", world.base_url());
    let path = format!("/v1/admin-consent-sessions/{}", text(&started, "id"));
    let mut browser = Browser::default();
    nobody_asks(&mut browser, &callback, "").await;
    assert_eq!(world.api(Method::GET, &path, Value::Null).await.json()["state"], "pending");

    let first = browser.get(&callback).await.expect("an answer");
    assert_eq!(first.status, 303, "{}", first.text());
    let stands = world.api(Method::GET, &path, Value::Null).await.json();
    assert_eq!(stands["state"], "reported");
    // Repeated, and then with another word: it ends where it ended, and nothing moves.
    let refusal = format!("{}/callback/outlook?error=access_denied&state={state}", world.base_url());
    for url in [&callback, &refusal] {
        let again = browser.get(url).await.expect("an answer");
        assert_eq!((again.status, again.location()), (first.status, first.location()));
        assert_eq!(world.api(Method::GET, &path, Value::Null).await.json(), stands);
    }
    let audit = std::fs::read_to_string(world.folder.path().join("audit.jsonl")).expect("an audit file");
    assert_eq!(audit.matches("\"reported\"").count(), 1);
}

/// What the browser's own pages say, by what its callback is answered with.
async fn reload(browser: &mut Browser, url: &str) -> Answer {
    let answer = browser.get(url).await.expect("an answer");
    assert_headers(&answer, url);
    answer
}

#[tokio::test]
async fn a_browser_that_repeats_its_callback_ends_where_it_ended_before() {
    for kept in [Kept::Embedded, Kept::Redis] {
        let world = Plan::default().kept(kept).start().await;
        let session = session(&world, "alice", json!({ "return_url": RETURN_URL })).await;
        let mut browser = Browser::default();
        let url = up_to_callback(&mut browser, &session).await;
        let first = reload(&mut browser, &url).await;
        assert_eq!(first.status, 303, "{}", first.text());
        for _ in 0..3 {
            let again = reload(&mut browser, &url).await;
            assert_eq!((again.status, again.location()), (first.status, first.location()));
        }
        assert_eq!(redemptions(&world), 1);
        // The link itself (Back, and Back again) says how it stands, to this browser alone.
        let link = text(&session, "connect_url");
        assert!(reload(&mut browser, link).await.text().contains("One more step"));
        assert_eq!(reload(&mut Browser::default(), link).await.status, 410);

        let code = json!({ "code": parameter(&first.location(), "code") });
        assert_eq!(confirm(&world, &session, code).await.status, 200);
        for (url, status) in [(&url[..], 200), (link, 200)] {
            let after = reload(&mut browser, url).await;
            assert_eq!(after.status, status, "{}", after.text());
            assert!(after.text().contains("Your account is connected"), "{}", after.text());
            assert!(!after.text().contains("Nothing was changed"), "{}", after.text());
            assert!(!after.text().contains("code="), "{}", after.text());
        }
        // A second audit record would be a second sign-in.
        let audit = std::fs::read_to_string(world.folder.path().join("audit.jsonl")).expect("an audit file");
        assert_eq!(audit.matches("\"action\":\"connected\"").count(), 1, "{audit}");
    }
}

#[tokio::test]
async fn a_repeated_callback_says_what_became_of_the_session() {
    let world = Plan::default().start().await;

    // Without a return URL: a page, and after the confirmation another one.
    let first = session(&world, "alice", Value::Null).await;
    let mut browser = Browser::default();
    let url = up_to_callback(&mut browser, &first).await;
    for _ in 0..2 {
        assert!(reload(&mut browser, &url).await.text().contains("One more step"));
    }
    let account = account_of(&state_of(&world, &first).await);
    assert_eq!(confirm(&world, &first, account).await.status, 200);
    assert!(reload(&mut browser, &url).await.text().contains("Your account is connected"));

    // Refused by the user.
    let second = session(&world, "refused", Value::Null).await;
    let mut browser = Browser::default();
    let authorize = press(&mut browser, &second).await;
    let state = parameter(&authorize, "state");
    let url = format!("{}/callback/outlook?error=access_denied&state={state}", world.base_url());
    let pages = [reload(&mut browser, &url).await, reload(&mut browser, &url).await];
    assert!(pages.iter().all(|page| page.text().contains("Access was not granted")), "{}", pages[1].text());

    // Ended by wrong confirmations.
    let third = session(&world, "guessed", json!({ "return_url": RETURN_URL })).await;
    let mut browser = Browser::default();
    let url = up_to_callback(&mut browser, &third).await;
    assert_eq!(reload(&mut browser, &url).await.status, 303);
    for _ in 0..5 {
        assert_eq!(confirm(&world, &third, json!({ "code": "wrong" })).await.status, 409);
    }
    let after = reload(&mut browser, &url).await.location();
    assert!(after.ends_with("&error=access_denied") && !after.contains("code="), "{after}");
}

#[tokio::test]
async fn who_repeats_a_callback_without_the_cookie_learns_nothing() {
    let world = Plan::default().start().await;
    let hers = session(&world, "alice", json!({ "return_url": RETURN_URL })).await;
    let his = session(&world, "mallory", json!({ "return_url": RETURN_URL })).await;
    let (mut alice, mut mallory) = (Browser::default(), Browser::default());
    let url = up_to_callback(&mut alice, &hers).await;
    up_to_callback(&mut mallory, &his).await;
    let first = reload(&mut alice, &url).await;
    let code = parameter(&first.location(), "code");

    let learns_nothing = |answer: Answer, who: &str| {
        let said = format!("{:?} {}", answer.headers, answer.text());
        assert!(!said.contains(&code) && !answer.headers.contains_key("location"), "{who}: {said}");
        assert!(!said.contains("alice@"), "{who}: {said}");
    };
    let relayed = Browser::default();
    for (who, browser) in [("nobody", Browser::default()), ("mallory", mallory.clone()), ("again", relayed)] {
        let mut browser = browser;
        learns_nothing(refused(&world, &mut browser, &url, who).await, who);
        learns_nothing(reload(&mut browser, text(&hers, "connect_url")).await, who);
    }
    // With her cookie, planted or stolen, and the `state`, but not the code that she brought.
    let with_cookie = |url: String| {
        let cookie = alice.cookie(&url);
        async move { request(Method::GET, &url, &[("cookie", &cookie)], "").await.expect("an answer") }
    };
    for forged in [set(&url, "code", "guessed"), set(&url, "code", &code)] {
        let answer = with_cookie(forged).await;
        // It is sent to the page of the session, and not to the product.
        assert_eq!((answer.status.as_u16(), answer.location().as_str()), (303, text(&hers, "connect_url")));
        assert!(!answer.text().contains(&code));
    }
    assert_eq!(redemptions(&world), 1);
    assert_eq!(state_of(&world, &hers).await["state"], "awaiting_confirmation");
    assert_eq!(confirm(&world, &hers, json!({ "code": code })).await.status, 200);
    // Nothing that was stored for it can be read in the store's file.
    let stored = stored_bytes(&world);
    assert!(!stored.windows(code.len()).any(|bytes| bytes == code.as_bytes()));
}

/// Every byte of the embedded store.
fn stored_bytes(world: &World) -> Vec<u8> {
    let mut bytes = Vec::new();
    for entry in std::fs::read_dir(world.folder.path().join("data")).expect("the store") {
        bytes.extend(std::fs::read(entry.expect("an entry").path()).expect("a file"));
    }
    assert!(!bytes.is_empty());
    bytes
}

#[tokio::test]
async fn a_second_tab_of_the_same_browser_is_told_how_the_session_stands() {
    let world = Plan::default().start().await;
    let session = session(&world, "alice", json!({ "return_url": RETURN_URL })).await;
    let mut browser = Browser::default();
    let (one, two) = (press(&mut browser, &session).await, press(&mut browser, &session).await);
    let one = sign_in(&mut browser, &one).await;
    let two = sign_in(&mut browser, &two).await;
    assert_eq!(reload(&mut browser, &one).await.status, StatusCode::SEE_OTHER);
    // Its own code stays at home, and the first one's is not its to bring.
    let second = reload(&mut browser, &two).await;
    assert_eq!(second.status, 200);
    assert!(second.text().contains("One more step") && !second.text().contains("code="), "{}", second.text());
    assert_eq!(redemptions(&world), 1);
}
