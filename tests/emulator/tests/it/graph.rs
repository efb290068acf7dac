//! Graph: who may read, challenges, throttling.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use entra_emulator::{ChallengeStyle, Emulator, RevokeKind};
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
