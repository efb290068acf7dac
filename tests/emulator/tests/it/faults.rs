//! Faults on demand.

use std::time::Duration;

use entra_emulator::{
    CallbackPatch, Emulator, Endpoint, Fault, FaultRule, Garbage, IdTokenSigning, Mode, RetryAfter,
};
use serde_json::{Map, Value, json};

use crate::client::*;

fn object(value: Value) -> Map<String, Value> {
    value.as_object().cloned().unwrap()
}

fn once(emulator: &Emulator, endpoint: Endpoint, fault: Fault) {
    emulator.faults().inject(FaultRule::new(endpoint, fault).once());
}

#[tokio::test]
async fn failures_of_the_token_endpoint() {
    let emulator = emulator().await;
    let answer = sign_in(&emulator, &[]).await;
    let held = text(&answer, "refresh_token");
    let token = Endpoint::Token;

    once(&emulator, token, Fault::aadsts(90033));
    let reply = refresh(&emulator, held, &[]).await;
    assert_eq!((reply.status, &reply.json()["error"]), (503, &"temporarily_unavailable".into()));
    once(&emulator, token, Fault::aadsts(50196));
    let reply = refresh(&emulator, held, &[]).await;
    assert_eq!((reply.status, &reply.json()["error"]), (400, &"invalid_grant".into()));
    once(&emulator, token, Fault::aadsts_with_claims(50079, "{\"id_token\":{}}"));
    assert_eq!(refresh(&emulator, held, &[]).await.json()["claims"], "{\"id_token\":{}}");
    once(&emulator, token, Fault::status_retry_after(429, 60));
    let reply = refresh(&emulator, held, &[]).await;
    assert_eq!((reply.status, reply.header("retry-after")), (429, Some("60")));
    once(
        &emulator,
        token,
        Fault::Status { status: 503, retry_after: Some(RetryAfter::DateAfterSeconds(60)) },
    );
    assert!(refresh(&emulator, held, &[]).await.header("retry-after").unwrap().ends_with(" GMT"));
    once(&emulator, token, Fault::Redirect("https://elsewhere.example/".into()));
    assert_eq!(refresh(&emulator, held, &[]).await.status, 302);
    for kind in
        [Garbage::NotJson, Garbage::TruncatedJson, Garbage::TrailingBytes, Garbage::Empty, Garbage::Html]
    {
        once(&emulator, token, Fault::Garbage(kind));
        let reply = refresh(&emulator, held, &[]).await;
        assert_eq!(reply.status, 200);
        assert!(serde_json::from_slice::<Value>(&reply.body).is_err(), "{kind:?}");
    }
    once(&emulator, token, Fault::Garbage(Garbage::HugeBody));
    assert!(refresh(&emulator, held, &[]).await.body.len() > 16 << 20);
    once(&emulator, token, Fault::TokenResponsePatch(object(json!({ "scope": null, "token_type": "PoP" }))));
    let reply = refresh(&emulator, held, &[]).await.json();
    assert!(reply.get("scope").is_none() && reply["token_type"] == "PoP");
    assert_eq!(refresh(&emulator, held, &[]).await.status, 200, "every fault is used up");
    assert!(emulator.faults().rules().is_empty());
}

#[tokio::test]
async fn a_dropped_answer_has_rotated_the_token() {
    let emulator = builder().mode(Mode::Strict).start().await.unwrap();
    let answer = sign_in(&emulator, &[]).await;
    let form = [("grant_type", "refresh_token"), ("refresh_token", text(&answer, "refresh_token"))];
    for (fault, processed) in [
        (Fault::DropBeforeProcessing, false),
        (Fault::Hang(Some(Duration::from_millis(20))), false),
        (Fault::CutAnswer, true),
    ] {
        once(&emulator, Endpoint::Token, fault);
        assert!(try_token(&emulator, "common", &form).await.is_none());
        let last = emulator.ledger().pop().unwrap();
        assert_eq!(last.refresh_issued.is_some(), processed);
        assert_eq!(last.faults.len(), 1);
    }
    let answer = sign_in(&emulator, &[]).await;
    let form = [("grant_type", "refresh_token"), ("refresh_token", text(&answer, "refresh_token"))];
    once(&emulator, Endpoint::Token, Fault::DropAfterProcessing);
    assert!(try_token(&emulator, "common", &form).await.is_none());
    let last = emulator.ledger().pop().unwrap();
    assert!(last.refresh_issued.is_some() && last.status.is_none());
    assert_eq!(refresh(&emulator, text(&answer, "refresh_token"), &[]).await.aadsts(), 50173, "it was used");
}

#[tokio::test]
async fn rules_choose_by_user_and_grant_and_slow_answers_arrive_whole() {
    let emulator = emulator().await;
    let rule = FaultRule::new(Endpoint::Token, Fault::aadsts(90033))
        .user("bob@fabrikam.example")
        .grant_type("refresh_token");
    emulator.faults().inject(rule);
    let alice = sign_in(&emulator, &[]).await;
    let bob = sign_in(&emulator, &[("login_hint", "bob@fabrikam.example")]).await;
    assert_eq!(refresh(&emulator, text(&alice, "refresh_token"), &[]).await.status, 200);
    assert_eq!(refresh(&emulator, text(&bob, "refresh_token"), &[]).await.status, 503);
    emulator.faults().clear();
    let drip = Fault::SlowDrip { bytes: 512, interval: Duration::from_millis(1) };
    once(&emulator, Endpoint::Token, drip);
    once(&emulator, Endpoint::Token, Fault::Delay(Duration::from_millis(5)));
    once(&emulator, Endpoint::Token, Fault::DelayAnswer(Duration::from_millis(5)));
    assert_eq!(refresh(&emulator, text(&bob, "refresh_token"), &[]).await.status, 200);
    assert_eq!(emulator.ledger().pop().unwrap().faults, ["slow_drip", "delay", "delay_answer"]);
}

#[tokio::test]
async fn what_is_held_goes_on_when_it_is_released_and_not_before() {
    let emulator = emulator().await;
    let token = text(&sign_in(&emulator, &[]).await, "refresh_token").to_owned();
    for (fault, is_processed) in [(Fault::Hold, false), (Fault::HoldAnswer, true)] {
        emulator.clear_ledger();
        once(&emulator, Endpoint::Token, fault);
        let released = async {
            while emulator.ledger_count(Endpoint::Token, None) == 0
                || emulator.ledger()[0].refresh_issued.is_some() != is_processed
            {
                tokio::task::yield_now().await;
            }
            assert_eq!(emulator.ledger()[0].status, None);
            emulator.faults().release();
        };
        let (answer, ()) = tokio::join!(refresh(&emulator, &token, &[]), released);
        assert_eq!(answer.status, 200);
        assert!(emulator.ledger()[0].refresh_issued.is_some());
    }
}

#[tokio::test]
async fn a_hanging_request_hangs_until_the_client_leaves() {
    let emulator = emulator().await;
    once(&emulator, Endpoint::Token, Fault::Hang(None));
    let hanging = token(&emulator, "common", &[("grant_type", "refresh_token")]);
    assert!(tokio::time::timeout(Duration::from_millis(50), hanging).await.is_err());
    assert_eq!(emulator.ledger().pop().unwrap().status, None);
    tokio::time::timeout(Duration::from_secs(5), emulator.stop()).await.unwrap();
}

#[tokio::test]
async fn id_tokens_can_lie() {
    let emulator = emulator().await;
    once(&emulator, Endpoint::Token, Fault::WrongUserIdToken("bob@fabrikam.example".into()));
    let answer = sign_in(&emulator, &[]).await;
    assert_eq!(claims(text(&answer, "id_token"))["preferred_username"], "bob@fabrikam.example");
    assert_eq!(claims(text(&answer, "access_token"))["emu_user"], ALICE);
    once(&emulator, Endpoint::Token, Fault::IdTokenPatch(object(json!({ "aud": "other", "nonce": null }))));
    let claims = claims(text(&sign_in(&emulator, &[]).await, "id_token"));
    assert!(claims["aud"] == "other" && claims.get("nonce").is_none());
    once(&emulator, Endpoint::Token, Fault::IdTokenHeaderPatch(object(json!({ "kid": "other" }))));
    let answer = sign_in(&emulator, &[]).await;
    assert_eq!(jsonwebtoken::decode_header(text(&answer, "id_token")).unwrap().kid.as_deref(), Some("other"));
    once(&emulator, Endpoint::Token, Fault::IdTokenSigning(IdTokenSigning::AlgNone));
    assert!(text(&sign_in(&emulator, &[]).await, "id_token").ends_with('.'));
}

#[tokio::test]
async fn callbacks_can_go_wrong() {
    let emulator = emulator().await;
    let patch = |patch| once(&emulator, Endpoint::Authorize, Fault::CallbackPatch(patch));
    patch(CallbackPatch::WrongState);
    let callback = authorize(&emulator, "common", &[]).await.callback();
    assert!(callback["state"] != "st-1" && callback.contains_key("code"));
    patch(CallbackPatch::NeverReturns);
    let reply = authorize(&emulator, "common", &[]).await;
    assert!(reply.status == 200 && reply.header("location").is_none());
    patch(CallbackPatch::DuplicateParams);
    let reply = authorize(&emulator, "common", &[]).await;
    assert_eq!(
        reply.header("location").unwrap().matches("state=").count(),
        4,
        "state and session_state, twice"
    );
    patch(CallbackPatch::Iss("https://other.example".into()));
    assert_eq!(authorize(&emulator, "common", &[]).await.callback()["iss"], "https://other.example");
    patch(CallbackPatch::Cancel);
    let callback = authorize(&emulator, "common", &[]).await.callback();
    assert_eq!((callback["error"].as_str(), callback["error_subcode"].as_str()), ("access_denied", "cancel"));
    once(&emulator, Endpoint::Authorize, Fault::callback_error("server_error", "sorry"));
    let callback = authorize(&emulator, "common", &[]).await.callback();
    assert_eq!((callback["error"].as_str(), callback["state"].as_str()), ("server_error", "st-1"));
    emulator.faults().inject(FaultRule::new(Endpoint::Authorize, Fault::aadsts(53003)).user(ALICE).once());
    let callback = authorize(&emulator, "common", &[]).await.callback();
    assert!(callback["error_description"].starts_with("AADSTS53003"));
    assert_eq!(callback["error"], "interaction_required", "a redirect knows no invalid_grant");
    once(&emulator, Endpoint::Authorize, Fault::aadsts(50105));
    assert_eq!(authorize(&emulator, "common", &[]).await.status, 400, "this one stays on the page");
    assert!(authorize(&emulator, "common", &[]).await.callback().contains_key("code"));
}

#[tokio::test]
async fn the_ledger_says_how_each_request_ended() {
    let emulator = emulator().await;
    let answer = sign_in(&emulator, &[]).await;
    let held = text(&answer, "refresh_token");
    let of_sign_in =
        emulator.take_ledger().into_iter().rfind(|entry| entry.endpoint == Endpoint::Token).unwrap();
    assert!(of_sign_in.delivered && of_sign_in.family.is_some());
    assert!(emulator.ledger().is_empty(), "what was taken is gone");

    for (fault, delivered) in [
        (Fault::Delay(Duration::from_millis(20)), true),
        (Fault::SlowDrip { bytes: 1000, interval: Duration::from_millis(1) }, true),
        (Fault::Garbage(Garbage::Empty), true),
        (Fault::CutAnswer, false),
        (Fault::DropBeforeProcessing, false),
        (Fault::DropAfterProcessing, false),
        (Fault::Hang(Some(Duration::from_millis(20))), false),
    ] {
        once(&emulator, Endpoint::Token, fault.clone());
        let _ = tokio::time::timeout(Duration::from_secs(5), try_refresh(&emulator, held)).await;
        // A body that was cut is over a moment after its client has seen it.
        let mut taken = emulator.take_ledger();
        while taken.is_empty() {
            tokio::time::sleep(Duration::from_millis(5)).await;
            taken = emulator.take_ledger();
        }
        let entry = taken.pop().unwrap();
        assert_eq!((entry.delivered, entry.family), (delivered, of_sign_in.family), "{fault:?}");
        assert!(entry.ended.unwrap() >= entry.time && entry.peer.ip().is_loopback());
    }

    // A request whose client goes away is over.
    once(&emulator, Endpoint::Token, Fault::Hang(None));
    let _ = tokio::time::timeout(Duration::from_millis(100), try_refresh(&emulator, held)).await;
    let mut taken = emulator.take_ledger();
    while taken.is_empty() {
        tokio::time::sleep(Duration::from_millis(5)).await;
        taken = emulator.take_ledger();
    }
    assert!(!taken[0].delivered && taken[0].ended.is_some());
}

#[tokio::test]
async fn a_rule_is_withdrawn_whatever_is_left_of_it() {
    let emulator = emulator().await;
    let answer = sign_in(&emulator, &[]).await;
    let held = text(&answer, "refresh_token");
    let rule = FaultRule::new(Endpoint::Token, Fault::status(503)).times(3);
    let other = FaultRule::new(Endpoint::Token, Fault::Delay(Duration::from_millis(1)));
    emulator.faults().inject(rule.clone());
    emulator.faults().inject(other.clone());
    assert_eq!(refresh(&emulator, held, &[]).await.status, 503);
    emulator.faults().withdraw(&rule);
    assert_eq!(emulator.faults().rules(), [other]);
    assert_eq!(refresh(&emulator, held, &[]).await.status, 200);
}
