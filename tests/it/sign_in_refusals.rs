//! The authority's refusal of a sign-in is never dropped: its error and number reach the log, the audit
//! stream and the session's answer, and the page names who can do something about it.

use std::time::Duration;

use entra_emulator::{CallbackPatch, Endpoint, Fault, FaultRule};
use http::Method;
use serde_json::{Value, json};

use crate::attacks_connect::{RETURN_URL, assert_headers, parameter, session, state_of, up_to_callback};
use crate::http_client::{Answer, Browser};
use crate::world::{Plan, World, text};

const USER: &str = "start again";
const ADMINISTRATOR: &str = "IT administrator";
const OPERATOR: &str = "Tell the people who run the application";
const UNKNOWN: &str = "If it happens again";
const PASSES: &str = "in a few minutes";

/// A refusal as it comes: `error`, number, our reason, and whom the page sends the user to.
type Row = (&'static str, u32, &'static str, &'static str);

/// What both endpoints say in the same way, in an app of many tenants.
const ANYWHERE: [Row; 15] = [
    // What lasts, by whatever word it comes: trying again does not help.
    ("invalid_request", 9_002_327, "authority_error", OPERATOR),
    ("invalid_request", 9_002_326, "authority_error", OPERATOR),
    ("invalid_client", 7_000_215, "authority_error", OPERATOR),
    ("invalid_client", 700_025, "authority_error", OPERATOR),
    ("invalid_request", 900_382, "authority_error", OPERATOR),
    ("invalid_client", 700_213, "authority_error", OPERATOR),
    ("invalid_request", 900_439, "authority_error", OPERATOR),
    ("invalid_client", 650_056, "authority_error", OPERATOR),
    // The user's own organisation.
    ("invalid_grant", 53003, "access_denied", ADMINISTRATOR),
    ("invalid_grant", 90094, "admin_consent_required", ADMINISTRATOR),
    ("unauthorized_client", 700_016, "access_denied", ADMINISTRATOR),
    ("unauthorized_client", 7_000_112, "access_denied", ADMINISTRATOR),
    ("invalid_client", 650_052, "access_denied", ADMINISTRATOR),
    ("invalid_request", 90002, "access_denied", ADMINISTRATOR),
    // What passes.
    ("server_error", 90033, "authority_error", PASSES),
];

const AT_THE_CALLBACK: [Row; 8] = [
    ("access_denied", 65004, "access_denied", USER),
    ("access_denied", 900_941, "admin_consent_required", ADMINISTRATOR),
    ("access_denied", 50105, "access_denied", ADMINISTRATOR),
    ("access_denied", 50020, "tenant_not_allowed", "another account"),
    ("invalid_scope", 0, "authority_error", OPERATOR),
    ("unauthorized_client", 0, "authority_error", OPERATOR),
    ("temporarily_unavailable", 0, "authority_error", PASSES),
    ("a_word_of_tomorrow", 0, "authority_error", UNKNOWN),
];

/// The log's line about a failed sign-in: it comes through a pipe, so it may be on its way.
async fn line_of(world: &World, session: &str) -> Value {
    for _ in 0..500 {
        let log = world.daemon.log();
        let mut lines = log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        let found = lines.find(|line| {
            let message = line["message"].as_str().unwrap_or_default();
            line["session"] == session && message.starts_with("a sign-in failed")
        });
        if let Some(line) = found {
            return line;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("no line about {session}:\n{}", world.daemon.log());
}

/// What log and audit call a session.
fn mark_of(id: &str) -> String {
    crate::attacks_api::sha256(id)[..16].to_owned()
}

/// Looks for the refusal in the page, the session, the log and the audit stream.
async fn was_told(world: &World, session: &Value, page: &Answer, row: Row, at: &str) {
    let (error, number, reason, person) = row;
    let what = format!("{at}: {error} {number}\n{}", page.text());
    assert_headers(page, &what);
    assert!(page.text().contains(person), "{what}");
    let passes = page.text().contains(PASSES) || page.text().contains("later");
    assert_eq!(passes, person == PASSES, "{what}");

    let state = state_of(world, session).await;
    assert_eq!((text(&state, "state"), text(&state, "reason")), ("failed", reason), "{what}");
    assert_eq!(state["error"], error, "{state} {what}");
    let numbers = if number == 0 { Value::Null } else { json!([number]) };
    assert_eq!(state["error_codes"], numbers, "{state} {what}");
    assert!(!text(&state, "hint").is_empty(), "{state}");

    let mark = mark_of(text(session, "id"));
    let line = line_of(world, &mark).await;
    // What a browser brings back its user may have made up: it calls no operator.
    let by_browser = at == "callback";
    let reported_by = if by_browser { json!("browser") } else { Value::Null };
    assert_eq!(state["reported_by"], reported_by, "{state}");
    assert_eq!(line["reported_by"], reported_by, "{line}");
    let is_error = person == OPERATOR && !by_browser;
    assert_eq!(line["level"], if is_error { "ERROR" } else { "WARN" }, "{line}");
    assert_eq!((text(&line, "app"), text(&line, "error")), ("outlook", error), "{line}");
    assert!(number == 0 || line["error_codes"].to_string().contains(&number.to_string()), "{line}");
    assert!(line["connection"].is_string(), "{line}");
    // The page's reference leads to the line.
    let id = text(&line, "request_id").to_uppercase();
    assert!(page.text().contains(&format!(" {}-{}, ", &id[..4], &id[4..8])), "{line} {what}");
    assert!(number == 0 || page.text().contains(&format!("AADSTS{number}")), "{what}");

    let audit = std::fs::read_to_string(world.folder.path().join("audit.jsonl")).expect("an audit file");
    let record = audit
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).expect("JSON"))
        .find(|record| record["session"] == mark && record["action"] == "connect_failed")
        .unwrap_or_else(|| panic!("no record: {what}"));
    assert_eq!((text(&record, "outcome"), text(&record["detail"], "error")), (reason, error), "{record}");
    assert_eq!(record["request_id"], line["request_id"], "{record}");
    assert_eq!(record["detail"]["reported_by"], reported_by, "{record}");
    assert!(number == 0 || text(&record["detail"], "error_codes") == number.to_string(), "{record}");
}

#[tokio::test]
async fn a_refusal_at_the_callback_is_told_to_everybody_whom_it_concerns() {
    let world = Plan::default().start().await;
    for row in AT_THE_CALLBACK.into_iter().chain(ANYWHERE) {
        let (error, number, ..) = row;
        let description = format!(
            "AADSTS{number}: canary-text of the authority.\r\nTrace ID: \
             0f2b3c4d-0000-4000-8000-0123456789ab\r\nCorrelation ID: aaaaaaaa-0000-4000-8000-0123456789ab"
        );
        let patch = CallbackPatch::Error {
            error: error.to_owned(),
            description: (number != 0).then_some(description),
            subcode: None,
        };
        world.entra.faults().inject(FaultRule::new(Endpoint::Authorize, Fault::CallbackPatch(patch)).once());
        let session = session(&world, "alice", Value::Null).await;
        let mut browser = Browser::default();
        let url = up_to_callback(&mut browser, &session).await;
        let page = browser.get(&url).await.expect("a page");
        was_told(&world, &session, &page, row, "callback").await;
        if number != 0 {
            let state = state_of(&world, &session).await;
            assert_eq!(text(&state, "correlation_id"), "aaaaaaaa-0000-4000-8000-0123456789ab");
        }
    }
    let metrics = world.metrics().await;
    for kept in [world.daemon.log(), metrics] {
        assert!(!kept.contains("canary-text"), "the authority's free text");
    }
    assert!(!world.metrics().await.contains("a_word_of_tomorrow"), "a label of the authority's making");
}

#[tokio::test]
async fn a_refusal_of_the_code_is_told_to_everybody_whom_it_concerns() {
    let world = Plan::default().start().await;
    for row in ANYWHERE {
        let (error, number, ..) = row;
        let fault = Fault::Aadsts {
            code: number,
            error: Some(error.to_owned()),
            suberror: None,
            claims: None,
            status: Some(if error == "server_error" { 503 } else { 400 }),
            retry_after: None,
        };
        world.entra.faults().inject(FaultRule::new(Endpoint::Token, fault).once());
        let session = session(&world, "alice", Value::Null).await;
        let mut browser = Browser::default();
        let url = up_to_callback(&mut browser, &session).await;
        let page = browser.get(&url).await.expect("a page");
        was_told(&world, &session, &page, row, "token endpoint").await;
    }
}

#[tokio::test]
async fn an_administrators_refusal_is_told_too() {
    let world = Plan::default().start().await;
    for (error, number, reason, person) in [
        ("access_denied", 65004, "access_denied", "Not approved"),
        ("invalid_client", 650_056, "authority_error", OPERATOR),
    ] {
        let asked = json!({ "app": "outlook" });
        let started = world.api(Method::POST, "/v1/admin-consent-sessions", asked).await.json();
        let state = parameter(text(&started, "admin_consent_url"), "state");
        let url = format!(
            "{}/callback/outlook?error={error}&error_description=AADSTS{number}%3A+x\
             &admin_consent=True&state={state}",
            world.base_url()
        );
        let page = Browser::default().get(&url).await.expect("a page");
        assert!(
            page.text().contains(person) && page.text().contains(&format!("AADSTS{number}")),
            "{}",
            page.text()
        );
        let path = format!("/v1/admin-consent-sessions/{}", text(&started, "id"));
        let state = world.api(Method::GET, &path, Value::Null).await.json();
        assert_eq!((text(&state, "state"), text(&state, "reason")), ("failed", reason));
        assert_eq!((&state["error"], &state["error_codes"]), (&json!(error), &json!([number])), "{state}");
        let line = line_of(&world, &mark_of(text(&started, "id"))).await;
        assert!(line["error_codes"].to_string().contains(&number.to_string()), "{line}");
    }
}

#[tokio::test]
async fn the_product_gets_the_reason_and_nothing_of_the_authority() {
    let world = Plan::default().start().await;
    let patch = CallbackPatch::Error {
        error: "invalid_client".to_owned(),
        description: Some("AADSTS7000215: canary-text".to_owned()),
        subcode: None,
    };
    world.entra.faults().inject(FaultRule::new(Endpoint::Authorize, Fault::CallbackPatch(patch)).once());
    let session = session(&world, "alice", json!({ "return_url": RETURN_URL })).await;
    let mut browser = Browser::default();
    let url = up_to_callback(&mut browser, &session).await;
    let back = browser.get(&url).await.expect("the way back").location();
    assert_eq!(back, format!("{RETURN_URL}?session={}&error=authority_error", text(&session, "id")));
}
