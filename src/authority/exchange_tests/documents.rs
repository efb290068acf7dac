//! The discovery document and the keys: fetched, kept and renewed.

use futures_util::future::join_all;

use super::*;
use crate::jwt::testing::{P256, p256_jwk};

#[tokio::test]
async fn keys_roll_over_without_a_storm() {
    let world = World::entra();
    world.redeem().await.expect("an account");
    assert_eq!(world.server.count("keys"), 1);
    // A new key, at once and without overlap.
    world.script(|script| {
        script.keys = Box::new(|_| Reply::json(200, &json!({ "keys": [rsa_jwk("k2", &RSA)] })));
        script.token = Box::new(|origin, _| Reply::json(200, &tokens_under("k2", &entra_claims(origin))));
    });
    world.redeem().await.expect("an account");
    assert_eq!(world.server.count("keys"), 2);
    // Unknown keys do not cause repeated fetches.
    world.answer_tokens(|origin, _| Reply::json(200, &tokens_under("k9", &entra_claims(origin))));
    for _ in 0..10 {
        assert_eq!(failed(world.redeem().await).disposition, Disposition::Restart);
    }
    assert_eq!(world.server.count("keys"), 2);
    world.clock.advance(301);
    let failure = failed(world.redeem().await);
    assert_eq!(failure.disposition, Disposition::Restart);
    assert_eq!(world.server.count("keys"), 3);
    assert!(failure.cause.ends_with("by the rule unknown_key"), "{failure}");
}

/// A provider with one key may leave its id out (OpenID Connect Core §10.1). Then the signature says that the
/// key is another one.
#[tokio::test]
async fn a_key_without_a_name_rolls_over_too() {
    let world = World::openid();
    let sign = |alg: &'static str| {
        world.answer_tokens(move |origin, _| {
            let claims = json!({
                "iss": origin, "aud": CLIENT_ID, "sub": "alice", "iat": NOW, "exp": NOW + 600, "nonce": NONCE,
            });
            let mut body = tokens(&claims);
            body["id_token"] = jwt(&json!({ "alg": alg }), &claims).into();
            Reply::json(200, &body)
        });
    };
    sign("RS256");
    for _ in 0..3 {
        world.redeem().await.expect("an account");
    }
    assert_eq!(world.server.count("keys"), 1);
    world.script(|script| {
        script.keys = Box::new(|_| Reply::json(200, &json!({ "keys": [p256_jwk("k2", &P256)] })));
    });
    sign("ES256");
    world.redeem().await.expect("an account, by the new key");
    assert_eq!(world.server.count("keys"), 2);
    // What nobody signed does not cause repeated fetches.
    sign("RS256");
    for _ in 0..10 {
        let failure = failed(world.redeem().await);
        assert!(failure.cause.ends_with("by the rule signature"), "{failure}");
    }
    assert_eq!(world.server.count("keys"), 2);
}

#[tokio::test]
async fn the_last_good_documents_outlive_an_outage() {
    let world = World::entra();
    world.redeem().await.expect("an account");
    world.script(|script| {
        script.document = Box::new(|_| Reply::Answer { status: 503, headers: vec![], body: String::new() });
        script.keys = Box::new(|_| Reply::json(200, &json!({ "keys": [] })));
    });
    world.clock.advance(3000);
    world.refresh().await.expect("tokens");
    assert_eq!(
        (world.server.count("openid-configuration"), world.server.count("keys")),
        (1, 1),
        "young enough"
    );
    world.clock.advance(700);
    world.answer_tokens(|origin, _| {
        let mut claims = entra_claims(origin);
        (claims["iat"], claims["nbf"], claims["exp"]) =
            (json!(NOW + 3000), json!(NOW + 3000), json!(NOW + 9999));
        Reply::json(200, &tokens(&claims))
    });
    for _ in 0..5 {
        world.redeem().await.expect("an account, by the last good documents");
    }
    assert_eq!(
        (world.server.count("openid-configuration"), world.server.count("keys")),
        (2, 2),
        "one try each"
    );
    assert!(world.ledger.has("last_good discovery") && world.ledger.has("last_good keys"));
    // On an operator's word they are fetched at once; a failure loses nothing.
    assert_eq!(world.authority.renew_documents().await.expect_err("it is down").disposition, LATER);
    assert_eq!(world.server.count("openid-configuration"), 3);
    world.redeem().await.expect("an account, by the last good documents");
}

/// After an operator's word, a key that the authority has removed is no longer believed.
#[tokio::test]
async fn a_key_that_the_authority_took_away_is_dropped_at_an_operator_s_word() {
    let world = World::entra();
    assert!(world.authority.renew_documents().await.is_ok(), "nothing is here yet");
    assert_eq!(world.server.connections(), 0, "and nobody needs it");
    world.redeem().await.expect("an account");
    world.script(|script| {
        script.keys =
            Box::new(|_| Reply::json(200, &json!({ "keys": [rsa_jwk("k2", &super::testing::OTHER_RSA)] })));
    });
    world.redeem().await.expect("believed as long as nobody asks");
    world.authority.renew_documents().await.expect("fetched");
    let failure = failed(world.redeem().await);
    assert!(
        failure.cause.ends_with("by the rule unknown_key"),
        "signed with the key that was taken away: {failure}"
    );
}

#[tokio::test]
async fn a_herd_fetches_the_documents_once_and_shares_a_failure() {
    let world = World::entra();
    let mut herd = Vec::new();
    for _ in 0..50 {
        herd.push(world.authorize(|_| {}));
    }
    for answer in join_all(herd).await {
        answer.expect("a URL");
    }
    assert_eq!(world.server.count("openid-configuration"), 1);

    let world = World::entra();
    world.script(|script| {
        script.document = Box::new(|_| Reply::Answer { status: 500, headers: vec![], body: String::new() })
    });
    let mut herd = Vec::new();
    for _ in 0..50 {
        herd.push(world.authorize(|_| {}));
    }
    for answer in join_all(herd).await {
        assert_eq!(failed(answer).disposition, LATER);
    }
    assert_eq!(world.server.count("openid-configuration"), 1);
    // The next one tries again.
    world.clock.advance(2);
    world.script(|script| script.document = entra_script().document);
    world.authorize(|_| {}).await.expect("a URL");
}

#[tokio::test]
async fn a_document_whose_connection_breaks_is_read_once_more() {
    let world = World::entra();
    let broken = Arc::new(std::sync::atomic::AtomicBool::new(false));
    world.script(|script| {
        script.document = Box::new(move |origin| {
            let first = !broken.swap(true, std::sync::atomic::Ordering::SeqCst);
            if first { Reply::Close } else { Reply::json(200, &entra_document(origin)) }
        });
    });
    world.authorize(|_| {}).await.expect("a URL");
}

#[tokio::test]
async fn another_authority_of_the_same_address_holds_what_was_fetched_already() {
    let world = World::entra();
    world.redeem().await.expect("tokens");
    let another = |change: &dyn Fn(&mut AuthorityConfig)| {
        let mut config = AuthorityConfig::new(format!("{}/common/v2.0", world.server.origin()), CLIENT_ID);
        change(&mut config);
        let (random, observer) = (Arc::new(CountingRandom::default()), world.ledger.clone());
        let parts =
            AuthorityParts { token_hosts: AppHosts::default(), clock: world.clock.clone(), random, observer };
        let authority = OpenIdAuthority::new(config, Vec::new(), parts).expect("a config");
        authority.succeed(Some(&world.authority), vec![secret("one", "s3cr3t&=+ ü")]);
        authority
    };
    let fetched = || (world.server.count("openid-configuration"), world.server.count("keys"));
    assert_eq!(fetched(), (1, 1));
    another(&|config| config.timeout = Duration::from_secs(3)).probe().await.expect("both are held");
    assert_eq!(fetched(), (1, 1), "nothing is fetched again");
    let _checked = another(&|config| config.endpoint_hosts = Some(vec![])).probe().await;
    assert_eq!(fetched().0, 2, "what may be in the document is another thing now");
}
