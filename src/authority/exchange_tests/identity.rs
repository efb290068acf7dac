//! The `id_token`: which identity is believed, and what a refresh does without one.

use super::*;

#[tokio::test]
async fn an_id_token_that_is_not_believed_spoils_the_redemption() {
    let world = World::entra();
    world.answer_tokens(|origin, _| {
        let mut claims = entra_claims(origin);
        claims["nonce"] = "another".into();
        Reply::json(200, &tokens(&claims))
    });
    let failure = failed(world.redeem().await);
    assert_eq!(failure.disposition, Disposition::Restart);
    assert!(failure.cause.ends_with("by the rule nonce"), "{failure}");
    assert!(failure.answer.correlation_id.is_some(), "the ids of the answer: {:?}", failure.answer);
}

#[tokio::test]
async fn a_tenant_that_is_not_allowed_is_told_apart() {
    let world = World::with("/common/v2.0", entra_script(), vec![secret("one", "s")], |config| {
        config.tenants = only(TENANT_B);
    });
    let Err(RedeemFailure::TenantNotAllowed(failure)) = world.try_to_redeem().await else {
        panic!("the tenant is not allowed")
    };
    assert!(failure.cause.ends_with("by the rule tenant_not_allowed"), "{failure}");
    assert_eq!(failure.answer.error, None, "the authority said nothing wrong");
}

#[tokio::test]
async fn another_accounts_answer_to_a_refresh_is_used_by_nobody() {
    let world = World::entra();
    world.answer_tokens(|origin, _| {
        let mut claims = entra_claims(origin);
        claims["oid"] = "dddddddd-0000-4000-8000-00000000000d".into();
        Reply::json(200, &tokens(&claims))
    });
    let failure = failed(world.refresh().await);
    // It was a 200: the refresh token may be used up.
    assert_eq!(failure.disposition, Disposition::OutcomeUnknown);
    assert!(failure.cause.contains("another account's tokens"), "{failure}");
}

#[tokio::test]
async fn a_code_goes_to_the_authority_that_gave_it() {
    let mut world = World::entra();
    world.issuer = "https://login.microsoftonline.com/{tenantid}/v2.0".into();
    assert_eq!(failed(world.redeem().await).disposition, Disposition::Restart);
    assert!(world.token_requests().is_empty());
}

#[tokio::test]
async fn a_refresh_survives_a_clock_that_is_wrong_and_a_key_nobody_has() {
    let world = World::entra();
    let reissue = |kid: &'static str, claim: &'static str, value: Value| {
        world.answer_tokens(move |origin, _| {
            let mut claims = entra_claims(origin);
            claims[claim] = value.clone();
            Reply::json(200, &tokens_under(kid, &claims))
        });
    };
    for (kid, claim, value) in
        [("k9", "nonce", json!("x")), ("k1", "iat", json!(NOW + 999)), ("k1", "exp", json!(NOW - 999))]
    {
        reissue(kid, claim, value);
        let answer = world.refresh().await.expect("the tokens are kept");
        assert!(answer.account.is_none() && answer.refresh_token.is_some(), "{kid} {claim}");
    }
    // But this lack admits neither another account, nor a forged signature, nor a token for another client.
    for (kid, claim, value) in [
        ("k9", "oid", json!("dddddddd-0000-4000-8000-00000000000d")),
        ("k9", "aud", json!("x")),
        ("k9", "iss", json!("https://evil.example")),
    ] {
        reissue(kid, claim, value);
        assert_eq!(failed(world.refresh().await).disposition, Disposition::OutcomeUnknown, "{kid} {claim}");
    }
    world.script(|script| {
        script.keys =
            Box::new(|_| Reply::json(200, &json!({ "keys": [rsa_jwk("k1", &super::testing::OTHER_RSA)] })));
    });
    world.authority.renew_documents().await.expect("another key under the same name");
    reissue("k1", "nonce", json!("x"));
    let failure = failed(world.refresh().await);
    assert_eq!(failure.disposition, LATER);
    assert!(failure.cause.contains("by the rule id_token signature"), "{failure}");
}

#[tokio::test]
async fn a_refresh_survives_keys_that_cannot_be_had() {
    let world = World::entra();
    world.script(|script| {
        script.keys = Box::new(|_| Reply::Answer { status: 500, headers: vec![], body: String::new() })
    });
    let answer = world.refresh().await.expect("the tokens are not thrown away");
    assert!(answer.account.is_none(), "but no identity is taken from what was not verified");
    // A redemption must know the account, and finds out before it uses the code up.
    let before = world.token_requests().len();
    world.clock.advance(2);
    assert_eq!(failed(world.redeem().await).disposition, LATER);
    assert_eq!(world.token_requests().len(), before);
    // The lack of keys does not admit another account either.
    world.answer_tokens(|origin, _| {
        let mut claims = entra_claims(origin);
        claims["oid"] = "dddddddd-0000-4000-8000-00000000000d".into();
        Reply::json(200, &tokens(&claims))
    });
    world.clock.advance(2);
    let failure = failed(world.refresh().await);
    assert_eq!(failure.disposition, Disposition::OutcomeUnknown);
    assert!(failure.cause.contains("another account's tokens"), "{failure}");
}
