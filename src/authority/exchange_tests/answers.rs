//! Success answers to a code and to a refresh token.

use super::*;

#[tokio::test]
async fn a_code_becomes_tokens_and_an_account() {
    let world = World::entra();
    let answer = world.redeem().await.expect("tokens");
    assert_eq!(answer.access_token.expose(), "AT-1");
    assert_eq!(answer.refresh_token.as_ref().map(RefreshToken::expose), Some("RT-2"));
    assert_eq!(answer.requested_at, Timestamp::from_unix_seconds(NOW));
    assert_eq!(answer.scopes, ["Mail.Read", "User.Read"]);
    let account = answer.account.expect("an account");
    assert_eq!((account.tid.as_deref(), account.oid.as_deref()), (Some(TENANT_A), Some(USER)));

    let requests = world.token_requests();
    let [request] = requests.as_slice() else { panic!("{} token requests", requests.len()) };
    assert_eq!(
        request.path, "/common/oauth2/v2.0/token",
        "the tenant path of the authorize request, no query"
    );
    for (name, value) in [
        ("grant_type", "authorization_code"),
        ("code", "M.C0_de/+=&"),
        ("redirect_uri", "https://tokens.contoso.com/callback/outlook?x=1&y=2"),
        ("code_verifier", "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk"),
        ("client_id", CLIENT_ID),
        ("client_secret", "s3cr3t&=+ ü"),
        ("scope", "Mail.Read offline_access openid profile"),
    ] {
        assert_eq!(request.field(name), Some(value), "{name}");
    }
    assert_eq!(request.header("authorization"), None, "never both ways at once");
    assert_eq!(request.header("origin"), None, "Entra refuses a confidential client with an Origin");
    assert_eq!(request.header("content-type"), Some("application/x-www-form-urlencoded"));
    assert_eq!(request.header("client-request-id").map(str::len), Some(36));
    assert_eq!(world.ledger.lines(), ["discovery ok", "keys ok", "token ok", "accepted one"]);
}

#[tokio::test]
async fn a_refresh_always_sends_its_scope_and_keeps_the_account() {
    let world = World::entra();
    let answer = world.refresh().await.expect("tokens");
    assert_eq!(answer.account.and_then(|account| account.oid).as_deref(), Some(USER));
    let request = &world.token_requests()[0];
    assert_eq!(request.field("grant_type"), Some("refresh_token"));
    assert_eq!(request.field("refresh_token"), Some("RT-1"));
    assert_eq!(request.field("scope"), Some("Mail.Read offline_access openid"));
    assert_eq!(request.field("claims"), None);
    assert!(world.authority.may_replay_refresh_tokens());
}

#[tokio::test]
async fn an_answer_may_leave_out_scope_id_token_and_refresh_token() {
    let world = World::entra();
    world.answer_tokens(|_, _| {
        Reply::json(200, &json!({ "token_type": "bearer", "access_token": "EwB+/=", "expires_in": "60" }))
    });
    let answer = world.refresh().await.expect("tokens");
    assert_eq!(answer.scopes, ["Mail.Read", "offline_access", "openid"], "what was asked");
    assert!(answer.refresh_token.is_none() && answer.account.is_none());
    let failure = failed(world.redeem().await);
    assert_eq!(failure.disposition, Disposition::Restart, "a redemption without id_token is worth nothing");
    assert!(failure.cause.ends_with("by the rule missing"), "{failure}");
}
