//! Graph: who may read, challenges, throttling.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use entra_emulator::{ChallengeStyle, Emulator, Endpoint, Fault, FaultRule, RevokeKind};
use serde_json::Value;

use crate::client::*;

async fn call(emulator: &Emulator, token: &str, path: &str) -> Reply {
    get(&format!("{}{path}", emulator.graph_url()), &[("authorization", &format!("Bearer {token}"))]).await
}

#[tokio::test]
async fn only_live_tokens_with_a_fitting_scope_are_served() {
    let emulator = emulator().await;
    let answer = sign_in(&emulator, &[("scope", "User.Read")]).await;
    let access_token = text(&answer, "access_token");
    assert_eq!(call(&emulator, access_token, "/v1.0/me").await.status, 200);
    assert_eq!(call(&emulator, access_token, "/v1.0/me/messages").await.status, 403);
    assert_eq!(call(&emulator, access_token, "/v1.0/me/drive").await.status, 404);
    assert_eq!(call(&emulator, access_token, "/oidc/userinfo").await.json()["email"], ALICE);
    let forged = call(&emulator, &format!("{access_token}x"), "/v1.0/me").await;
    assert!(forged.status == 401 && forged.header("www-authenticate").unwrap().starts_with("Bearer realm"));
    assert_eq!(get(&format!("{}/v1.0/me", emulator.base_url()), &[]).await.status, 401);
    emulator.advance(Duration::from_secs(5401));
    assert_eq!(call(&emulator, access_token, "/v1.0/me").await.status, 401);

    let answer = sign_in(&emulator, &[]).await;
    emulator.expire_access_tokens();
    assert_eq!(call(&emulator, text(&answer, "access_token"), "/v1.0/me").await.status, 401);
}

#[tokio::test]
async fn calls_are_challenged_in_every_spelling() {
    let emulator = emulator().await;
    let answer = sign_in(&emulator, &[]).await;
    let access_token = text(&answer, "access_token");
    for (style, sign) in [
        (ChallengeStyle::Camel, "errorDescription=\""),
        (ChallengeStyle::Snake, "error_description=\""),
        (ChallengeStyle::Joined, "PoP realm"),
        (ChallengeStyle::Unquoted, "error=insufficient_claims,"),
    ] {
        emulator.challenge_graph(Some(ALICE), 1, style);
        let reply = call(&emulator, access_token, "/v1.0/me").await;
        let header = reply.header("www-authenticate").unwrap();
        assert!(reply.status == 401 && header.contains(sign), "{header}");
        let claims = header.split("claims=\"").nth(1).unwrap().split('"').next().unwrap();
        let claims: Value = serde_json::from_slice(&STANDARD.decode(claims).unwrap()).unwrap();
        assert!(claims["access_token"]["nbf"]["value"].is_string());
    }
    emulator.throttle_graph(None, 1, 7);
    let reply = call(&emulator, access_token, "/v1.0/me").await;
    assert_eq!((reply.status, reply.header("retry-after")), (429, Some("7")));
    assert_eq!(call(&emulator, access_token, "/v1.0/me").await.status, 200);
}

#[tokio::test]
async fn revocation_reaches_tokens_of_clients_that_understand_challenges() {
    let emulator = emulator().await;
    let capable = [("claims", r#"{"access_token":{"xms_cc":{"values":["cp1"]}}}"#)];
    let plain = sign_in(&emulator, &[]).await;
    let cae = sign_in(&emulator, &capable).await;
    emulator.revoke_user(ALICE, RevokeKind::GrantRevoked).unwrap();
    assert_eq!(call(&emulator, text(&plain, "access_token"), "/v1.0/me").await.status, 200);
    let reply = call(&emulator, text(&cae, "access_token"), "/v1.0/me").await;
    assert!(reply.status == 401 && reply.header("www-authenticate").unwrap().contains("insufficient_claims"));
    let fresh = sign_in(&emulator, &capable).await;
    assert_eq!(call(&emulator, text(&fresh, "access_token"), "/v1.0/me").await.status, 200);
}

#[tokio::test]
async fn a_round_of_delta_has_what_has_come_since_the_one_before() {
    let emulator = emulator().await;
    let answer = sign_in(&emulator, &[]).await;
    let access_token = text(&answer, "access_token");
    emulator.set_messages(ALICE, 25);
    let round = async |first: String| {
        let (mut next, mut pages) = (Some(first), Vec::new());
        loop {
            let url = next.take().expect("a link");
            let reply = get(&url, &[("authorization", &format!("Bearer {access_token}"))]).await;
            assert_eq!(reply.status, 200, "{url}");
            let page = reply.json();
            pages.push(page["value"].as_array().expect("messages").len());
            if let Some(link) = page["@odata.deltaLink"].as_str() {
                assert!(page["@odata.nextLink"].is_null(), "{page}");
                return (link.to_owned(), pages);
            }
            next = page["@odata.nextLink"].as_str().map(str::to_owned);
        }
    };
    let first = format!("{}/v1.0/me/mailFolders/inbox/messages/delta", emulator.graph_url());
    let (link, pages) = round(first.clone()).await;
    assert_eq!(pages, [10, 10, 5]);
    emulator.set_messages(ALICE, 27);
    let (link, pages) = round(link).await;
    assert_eq!(pages, [2]);
    assert_eq!(round(link).await.1, [0]);
    assert_eq!(round(format!("{first}()")).await.1, [10, 10, 7]);
    for token in ["%24deltatoken=x", "%24deltatoken=28", "%24skiptoken=3", "%24skiptoken=9-3"] {
        let reply =
            get(&format!("{first}?{token}"), &[("authorization", &format!("Bearer {access_token}"))]).await;
        assert_eq!(reply.status, 400, "{token}");
    }
}

#[tokio::test]
async fn one_request_too_many_at_a_mailbox_is_throttled() {
    let emulator = emulator().await;
    let answer = sign_in(&emulator, &[]).await;
    let access_token = text(&answer, "access_token").to_owned();
    emulator.change_settings(|settings| settings.mailbox_concurrency = Some(4));
    emulator.faults().inject(FaultRule::new(Endpoint::Graph, Fault::Hold).times(4));
    let mut held = tokio::task::JoinSet::new();
    for _ in 0..4 {
        let (emulator, token) = (emulator.clone(), access_token.clone());
        held.spawn(async move { call(&emulator, &token, "/v1.0/me/messages").await.status });
    }
    let wait = async {
        while emulator.ledger().iter().filter(|entry| entry.endpoint == Endpoint::Graph).count() < 4 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), wait).await.expect("four have come");
    let fifth = call(&emulator, &access_token, "/v1.0/me/messages").await;
    assert_eq!((fifth.status, fifth.header("retry-after")), (429, None));
    let error = fifth.json()["error"].clone();
    assert_eq!(error["code"], "ApplicationThrottled");
    assert!(error["message"].as_str().unwrap().contains("MailboxConcurrency"), "{error}");
    // What is about no mailbox is not counted.
    assert_eq!(call(&emulator, &access_token, "/v1.0/me").await.status, 200);
    emulator.faults().release();
    while let Some(one) = held.join_next().await {
        assert_eq!(one.unwrap(), 200);
    }
    assert_eq!(call(&emulator, &access_token, "/v1.0/me/messages").await.status, 200);
}
