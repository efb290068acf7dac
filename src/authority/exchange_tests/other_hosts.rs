//! A token host that differs from before: what is not sent there, and what may be.

use super::*;
use crate::authority::{AppHosts, KnownTokenHosts};
use crate::domain::token_hosts::TokenHosts;

/// An attacker's server that accepts what it is sent.
fn taker() -> Server {
    Server::start(|seen| {
        let origin = format!("http://{}", seen.header("host").expect("a host"));
        Reply::json(200, &tokens(&entra_claims(&origin)))
    })
}

/// An authority whose document may name the other server, and the credentials there.
fn world(credentials: Vec<ClientCredential>, other: &Server) -> World {
    let host = other.address.to_string();
    World::with("/common/v2.0", entra_script(), credentials, |config| {
        config.endpoint_hosts = Some(vec![host])
    })
}

async fn lead_to(world: &World, other: &Server) {
    let endpoint = format!("{}/common/oauth2/v2.0/token", other.origin());
    world.script(|script| {
        script.document = Box::new(move |origin| {
            let mut document = entra_document(origin);
            document["token_endpoint"] = json!(endpoint);
            Reply::json(200, &document)
        });
    });
    world.authority.renew_documents().await.expect("the document");
}

fn is_held_back<T>(result: Result<T, AuthorityFailure>) {
    let failure = failed(result);
    assert_eq!(failure.disposition, Disposition::Misconfigured, "{failure}");
    assert!(failure.answer.is_of_unconfirmed_host());
    assert_eq!(failure.answer.status, None);
}

#[tokio::test]
async fn a_document_that_names_another_token_host_leads_no_secret_there() {
    let other = taker();
    let world = world(vec![secret("one", "s"), secret("two", "t")], &other);
    world.redeem().await.expect("tokens");
    world.refresh().await.expect("tokens");
    lead_to(&world, &other).await;
    for _ in 0..2 {
        is_held_back(world.refresh().await);
    }
    assert!(other.seen().is_empty());
    let said = world.ledger.lines();
    assert_eq!(said.iter().filter(|line| line.starts_with("held back: ")).count(), 1, "{said:?}");
    assert!(
        !said.iter().any(|line| line.starts_with("rejected") || line.starts_with("unusable")),
        "{said:?}"
    );

    // A secret that was never sent goes to the named host: the second one was never needed before.
    app_token(&world.authority, Some(TENANT_A)).await.expect("a token");
    let secrets: Vec<_> =
        other.seen().iter().map(|seen| seen.field("client_secret").map(str::to_owned)).collect();
    assert_eq!(secrets, [Some("t".to_owned())]);
    is_held_back(world.refresh().await);

    let host = other.address.to_string();
    assert_eq!(world.authority.is_token_host(&host).await, Ok(()));
    assert!(world.authority.is_token_host("127.0.0.1").await.is_err());
    world.parts.token_hosts.known.confirmed("app", &host, world.clock.now());
    // (That server's answer does not matter.)
    let _answered = world.refresh().await;
    assert_eq!(
        other.seen().last().and_then(|seen| seen.field("refresh_token").map(str::to_owned)).as_deref(),
        Some("RT-1")
    );
}

#[tokio::test]
async fn a_certificate_needs_no_word_and_a_grant_and_an_assertion_of_others_do() {
    let pem = include_bytes!("../../../tests/data/authority/keys/app-rsa.pem");
    let other = taker();
    let with_certificate = world(vec![ClientCredential::certificate("cert", pem).expect("a pair")], &other);
    with_certificate.redeem().await.expect("tokens");
    lead_to(&with_certificate, &other).await;
    is_held_back(with_certificate.refresh().await);
    assert!(other.seen().is_empty());
    let own = app_token(&with_certificate.authority, Some(TENANT_A)).await;
    own.expect("what it signs is for that endpoint alone");
    assert_eq!(other.seen().len(), 1);

    // An assertion for the issuer would be valid at the earlier host, too.
    let certificate = ClientCredential::certificate("cert", pem).expect("a pair");
    let of_issuer = World::with("/common/v2.0", entra_script(), vec![certificate], |config| {
        config.endpoint_hosts = Some(vec![other.address.to_string()]);
        config.assertion_audience = AssertionAudience::Issuer;
    });
    of_issuer.redeem().await.expect("tokens");
    lead_to(&of_issuer, &other).await;
    is_held_back(app_token(&of_issuer.authority, Some(TENANT_A)).await);
    assert_eq!(other.seen().len(), 1);

    struct Projected;
    impl AssertionSource for Projected {
        fn read(&self) -> crate::domain::task::BoxFuture<'_, Result<Zeroizing<String>, String>> {
            let assertion = jwt(&json!({ "alg": "RS256" }), &json!({ "exp": NOW + 600 }));
            Box::pin(async move { Ok(Zeroizing::new(assertion)) })
        }
    }
    let federated = world(vec![ClientCredential::federated("pod", Arc::new(Projected))], &other);
    federated.redeem().await.expect("tokens");
    lead_to(&federated, &other).await;
    is_held_back(app_token(&federated.authority, Some(TENANT_A)).await);
    assert_eq!(other.seen().len(), 1);
}

#[tokio::test]
async fn nothing_is_sent_before_it_is_known_what_was_remembered() {
    let world = World::with("/common/v2.0", entra_script(), Vec::new(), |config| {
        config.timeout = Duration::from_millis(300);
    });
    let known = Arc::new(KnownTokenHosts::default());
    let parts = AuthorityParts {
        token_hosts: AppHosts { app: "app".to_owned(), known: known.clone() },
        ..world.parts.clone()
    };
    let config = world.config.clone();
    let authority = OpenIdAuthority::new(config, vec![secret("one", "s")], parts).expect("a config");
    let failure = failed(app_token(&authority, Some(TENANT_A)).await);
    assert_eq!(failure.disposition, LATER, "{failure}");
    assert!(world.token_requests().is_empty());
    let asked = app_token(&authority, Some(TENANT_A));
    let (answer, ()) = tokio::join!(asked, async {
        tokio::task::yield_now().await;
        known.take_up(&TokenHosts::default());
    });
    answer.expect("whoever waited goes on");
}
