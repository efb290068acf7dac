//! Signing in, redeeming, refreshing, and reading mail with the result.

use entra_emulator::{Endpoint, Mode, PERSONAL_TENANT, User};

use crate::client::*;

#[tokio::test]
async fn a_code_becomes_tokens_and_tokens_read_mail() {
    let emulator = emulator().await;
    let reply = authorize(&emulator, "common", &[]).await;
    assert_eq!(reply.status, 302);
    let callback = reply.callback();
    assert_eq!(callback["state"], "st-1");
    assert!(callback.contains_key("session_state"));

    let reply = redeem(&emulator, "common", &callback["code"], &[("client_info", "1")]).await;
    assert_eq!(reply.status, 200, "{}", reply.text());
    assert_eq!(reply.header("cache-control"), Some("no-store, no-cache"));
    let answer = reply.json();
    assert_eq!(answer["token_type"], "Bearer");
    assert!((3600..=5400).contains(&answer["expires_in"].as_u64().unwrap()));
    assert!(answer.get("refresh_in").is_none());
    assert_eq!(text(&answer, "scope"), "openid profile Mail.Read User.Read");

    let id_token = claims(text(&answer, "id_token"));
    let alice = User::work(ALICE);
    assert_eq!(id_token["tid"], alice.tenant_id());
    assert_eq!(id_token["oid"], alice.object_id());
    assert_eq!(id_token["nonce"], "no-1");
    assert_eq!(id_token["iss"], format!("{}/{}/v2.0", emulator.base_url(), alice.tenant_id()));

    let bearer = format!("Bearer {}", text(&answer, "access_token"));
    for base in [emulator.graph_url(), emulator.base_url()] {
        let me = get(&format!("{base}/v1.0/me"), &[("authorization", &bearer)]).await;
        assert_eq!(me.json()["userPrincipalName"], ALICE);
        assert_eq!(me.json()["id"], alice.object_id());
        let messages = get(&format!("{base}/v1.0/me/messages?$top=3"), &[("authorization", &bearer)]).await;
        assert_eq!(messages.json()["value"].as_array().unwrap().len(), 3);
    }
    assert_eq!(emulator.ledger_count(Endpoint::Token, Some("authorization_code")), 1);
}

#[tokio::test]
async fn refreshing_rotates_and_old_refresh_tokens_live_on() {
    let emulator = emulator().await;
    let first = sign_in(&emulator, &[]).await;
    let second = refresh(&emulator, text(&first, "refresh_token"), &[]).await.json();
    assert_ne!(second["refresh_token"], first["refresh_token"]);
    assert_ne!(second["access_token"], first["access_token"]);
    let claims = claims(text(&second, "access_token"));
    assert_eq!((&claims["emu_user"], &claims["emu_generation"]), (&ALICE.into(), &1.into()));
    let full = refresh(
        &emulator,
        text(&first, "refresh_token"),
        &[("scope", "https://graph.microsoft.com/Mail.Read")],
    );
    assert!(text(&full.await.json(), "scope").ends_with("https://graph.microsoft.com/User.Read"));
    let again = refresh(&emulator, text(&first, "refresh_token"), &[]).await;
    assert_eq!(again.status, 200, "Entra keeps used refresh tokens");
    let ledger = emulator.ledger();
    let last = ledger.last().unwrap();
    assert!(last.refresh_presented.is_some() && last.refresh_issued > last.refresh_presented);
    assert!(!format!("{ledger:?}").contains(text(&first, "refresh_token")));
}

#[tokio::test]
async fn strict_mode_kills_the_family_of_a_reused_refresh_token() {
    let emulator = builder().mode(Mode::Strict).start().await.unwrap();
    let first = sign_in(&emulator, &[]).await;
    let other_family = sign_in(&emulator, &[]).await;
    let second = refresh(&emulator, text(&first, "refresh_token"), &[]).await.json();
    let reuse = refresh(&emulator, text(&first, "refresh_token"), &[]).await;
    assert_eq!((reuse.status, &reuse.json()["suberror"]), (400, &"bad_token".into()));
    assert_eq!(refresh(&emulator, text(&second, "refresh_token"), &[]).await.aadsts(), 50173);
    assert_eq!(refresh(&emulator, text(&other_family, "refresh_token"), &[]).await.status, 200);
}

#[tokio::test]
async fn a_personal_account_gets_opaque_tokens() {
    let emulator = emulator().await;
    let code = code(&emulator, "common", &[("login_hint", "carol@outlook.example")]).await;
    assert!(code.starts_with("M."), "{code}");
    let answer = redeem(&emulator, "common", &code, &[]).await.json();
    let access_token = text(&answer, "access_token");
    assert!(access_token.starts_with("EwB") && !access_token.contains('.'));
    assert_eq!(claims(text(&answer, "id_token"))["tid"], PERSONAL_TENANT);
}

#[tokio::test]
async fn an_app_gets_a_token_of_its_own() {
    let emulator = emulator().await;
    let scope = ("scope", "https://graph.microsoft.com/.default");
    let grant = ("grant_type", "client_credentials");
    let answer = token(&emulator, "contoso.example", &[grant, scope]).await.json();
    assert!(answer.get("refresh_token").is_none() && answer.get("id_token").is_none());
    assert_eq!(claims(text(&answer, "access_token"))["idtyp"], "app");
    assert_eq!(token(&emulator, "common", &[grant, scope]).await.aadsts(), 50059);
    assert_eq!(token(&emulator, "contoso.example", &[grant, ("scope", "Mail.Read")]).await.aadsts(), 1002012);
}

#[tokio::test]
async fn a_client_proves_itself_in_the_form_or_in_the_header_but_not_in_both() {
    use base64::Engine as _;
    let emulator = emulator().await;
    let answer = sign_in(&emulator, &[]).await;
    let url = format!("{}/common/oauth2/v2.0/token", emulator.base_url());
    let encode = |text: &str| form_urlencoded::byte_serialize(text.as_bytes()).collect::<String>();
    let pair = format!("{}:{}", encode(CLIENT), encode(SECRET));
    let basic = format!("Basic {}", base64::engine::general_purpose::STANDARD.encode(pair));
    let refresh_token = text(&answer, "refresh_token");
    let form = [("grant_type", "refresh_token"), ("refresh_token", refresh_token)];
    let headers = [("authorization", basic.as_str())];
    assert_eq!(post(&url, &headers, &form).await.status, 200);
    let mut both = form.to_vec();
    both.extend([("client_id", CLIENT), ("client_secret", SECRET)]);
    assert_eq!(post(&url, &headers, &both).await.status, 400);
    assert_eq!(refresh(&emulator, refresh_token, &[("client_secret", "")]).await.aadsts(), 7000218);
    let wrong = refresh(&emulator, refresh_token, &[("client_secret", "wrong")]).await;
    assert_eq!(
        (wrong.status, wrong.aadsts(), &wrong.json()["error"]),
        (401, 7000215, &"invalid_client".into())
    );
}
