//! The choice of a credential for a request, and what a refusal says about it.

use super::*;

#[tokio::test]
async fn a_rejected_credential_gives_way_to_the_next_within_the_call() {
    let credentials = vec![secret("new", "n"), secret("old", "o")];
    let world = World::with("/common/v2.0", entra_script(), credentials, |_| {});
    world.answer_tokens(by_secret("o"));
    world.refresh().await.expect("tokens, by the old secret");
    assert!(world.ledger.has("rejected new [7000222]") && world.ledger.has("accepted old"));
    assert_eq!(world.token_requests().len(), 2);
    // The credential that worked is remembered.
    world.refresh().await.expect("tokens");
    assert_eq!(world.token_requests().len(), 3);
    // It is forgotten when it no longer works.
    world.answer_tokens(by_secret("n"));
    world.refresh().await.expect("tokens, by the new secret");
    assert_eq!(world.in_use().as_deref(), Some("new"));
    // If none works, the operator is alarmed and no verdict is passed.
    world.answer_tokens(by_secret("neither"));
    let failure = failed(world.refresh().await);
    assert_eq!(failure.disposition, Disposition::NextCredential);
    assert_eq!(failure.answer.error_codes, [7000222]);
}

#[tokio::test]
async fn credentials_are_replaced_live_and_keep_their_proof() {
    let home = |config: &mut AuthorityConfig| config.home_tenant = Some(TENANT_B.to_owned());
    let world = World::with("/common/v2.0", entra_script(), vec![secret("old", "o")], home);
    world.answer_tokens(by_secret("o"));
    world.refresh().await.expect("tokens");
    world.replace(vec![secret("new", "n"), secret("old", "o")]);
    world.refresh().await.expect("tokens");
    assert_eq!(world.token_requests().len(), 2, "the proven one is still first");
    let failure = failed(world.authority.prove_credential("new").await.expect("it is there"));
    assert_eq!(failure.disposition, Disposition::NextCredential);
    let request = world.token_requests().pop().expect("a request");
    assert_eq!(request.path, format!("/{TENANT_B}/oauth2/v2.0/token"), "in the app's own tenant");
    assert_eq!(request.field("grant_type"), Some("client_credentials"));
    assert_eq!(request.field("scope"), Some("https://graph.microsoft.com/.default"));
    assert!(world.authority.prove_credential("other").await.is_none());
    let failure = failed(app_token(&world.authority, Some("a/../b")).await);
    assert_eq!(failure.disposition, Disposition::CallerFault);
}

#[tokio::test]
async fn an_app_without_credentials_sends_nothing() {
    let world = World::with("/common/v2.0", entra_script(), Vec::new(), |_| {});
    assert_eq!(failed(world.refresh().await).disposition, Disposition::NextCredential);
    assert!(world.token_requests().is_empty());
}

/// `invalid_client` that may come from one tenant's state: its callers are told, and the credential keeps its
/// state until a second tenant gets the same.
#[tokio::test]
async fn one_tenants_word_does_not_reject_a_credential() {
    let world = World::entra();
    world.refresh().await.expect("tokens");
    world.answer_tokens(|_, _| refused(401, "invalid_client", 999_999));
    for _ in 0..3 {
        assert_eq!(failed(world.refresh_of(TENANT_A).await).disposition, Disposition::NextCredential);
    }
    assert!(!world.ledger.has("rejected one [999999]"));
    world.answer_tokens(|origin, _| Reply::json(200, &tokens(&entra_claims(origin))));
    world.refresh().await.expect("tokens");
    world.answer_tokens(|_, _| refused(401, "invalid_client", 999_999));
    assert_eq!(failed(world.refresh_of(TENANT_B).await).disposition, Disposition::NextCredential);
    assert!(!world.ledger.has("rejected one [999999]"), "it was taken in between");
    assert_eq!(failed(world.refresh_of(TENANT_A).await).disposition, Disposition::NextCredential);
    assert!(world.ledger.has("rejected one [999999]"));
}

#[tokio::test]
async fn keycloak_s_words_for_a_rejected_secret_have_the_next_one_tried_at_once() {
    let world = World::openid();
    world.redeem().await.expect("tokens");
    world.answer_tokens(|_, _| Reply::json(401, &json!({ "error": "unauthorized_client" })));
    let failure = failed(world.refresh_as("alice").await);
    assert_eq!(failure.disposition, Disposition::NextCredential);
    assert!(world.ledger.has("rejected one []"), "it is no longer trusted");
}
