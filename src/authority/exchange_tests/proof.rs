//! The proof of a new credential, before and while users depend on it.

use super::*;

#[tokio::test]
async fn a_new_credential_is_proven_by_a_call_of_its_own_before_users_depend_on_it() {
    let home = |config: &mut AuthorityConfig| config.home_tenant = Some(TENANT_B.to_owned());
    let world = World::with("/common/v2.0", entra_script(), vec![secret("old", "o")], home);
    world.answer_tokens(by_secret("o"));
    world.refresh().await.expect("tokens");
    world.replace(vec![secret("new", "n"), secret("old", "o")]);
    // The authority does not know it yet, which is found out without any user's request.
    assert!(!world.authority.prove_credentials().await);
    assert_eq!(world.in_use().as_deref(), Some("old"));
    // Its replicas learn of it one by one, so one acceptance after a rejection is not believed.
    let replica = Arc::new(AtomicUsize::new(0));
    let asked = replica.clone();
    world.answer_tokens(move |origin, seen| {
        let is_new = seen.field("client_secret") == Some("n");
        let knows = asked.fetch_add(usize::from(is_new), Ordering::SeqCst).is_multiple_of(2);
        match is_new && !knows {
            true => refused(401, "invalid_client", 7000215),
            false => Reply::json(200, &tokens(&entra_claims(origin))),
        }
    });
    for _ in 0..6 {
        world.clock.advance(2);
        world.authority.prove_credentials().await;
        assert_eq!(world.in_use().as_deref(), Some("old"));
    }
    assert!(replica.load(Ordering::SeqCst) >= 6, "it was asked about all the while");
    world.answer_tokens(|origin, _| Reply::json(200, &tokens(&entra_claims(origin))));
    for _ in 0..3 {
        world.clock.advance(2);
        world.authority.prove_credentials().await;
    }
    assert_eq!(world.in_use().as_deref(), Some("new"));
    let before = world.token_requests().len();
    world.refresh().await.expect("tokens");
    let requests = world.token_requests();
    assert_eq!(requests.len(), before + 1);
    assert_eq!(requests[before].field("client_secret"), Some("n"));
}

#[tokio::test]
async fn where_the_app_may_ask_for_nothing_itself_a_user_s_request_that_can_fall_back_is_the_proof() {
    let world = World::with("/common/v2.0", entra_script(), vec![secret("old", "o")], |_| {});
    world.answer_tokens(by_secret("o"));
    world.refresh().await.expect("tokens");
    world.replace(vec![secret("old", "o"), secret("new", "n")]);
    assert!(!world.authority.prove_credentials().await, "its own tenant is not known");
    let before = world.token_requests().len();
    world.refresh().await.expect("tokens, by the old one");
    let requests = world.token_requests();
    let secrets: Vec<_> = requests[before..].iter().map(|seen| seen.field("client_secret")).collect();
    assert_eq!(secrets, [Some("n"), Some("o")], "one request tries it, and falls back");
    world.refresh().await.expect("tokens");
    assert_eq!(world.token_requests().len(), before + 3, "the next one does not");
}

#[tokio::test]
async fn nothing_is_asked_of_another_provider_that_it_does_not_offer() {
    let world = World::openid();
    assert!(!world.authority.prove_credentials().await);
    assert_eq!(world.server.connections(), 0, "nobody needed it yet");
    world.redeem().await.expect("tokens");
    let before = world.token_requests().len();
    world.replace(vec![secret("one", "a:b c"), secret("new", "n")]);
    assert!(!world.authority.prove_credentials().await);
    assert_eq!(world.token_requests().len(), before, "its document lists no client_credentials");
    assert_eq!(world.in_use().as_deref(), Some("one"));
}

/// Keycloak's answer to a wrong secret.
#[tokio::test]
async fn a_trial_that_is_refused_in_other_words_falls_back_within_the_request() {
    let world = World::with("/common/v2.0", entra_script(), vec![secret("old", "o")], |_| {});
    world.answer_tokens(|origin, seen| match seen.field("client_secret") {
        Some("o") => Reply::json(200, &tokens(&entra_claims(origin))),
        _ => Reply::json(401, &json!({ "error": "unauthorized_client" })),
    });
    world.refresh().await.expect("tokens");
    world.replace(vec![secret("old", "o"), secret("new", "n")]);
    assert!(!world.authority.prove_credentials().await, "its own tenant is not known");
    world.refresh().await.expect("tokens, by the old one");
    assert_eq!(world.in_use().as_deref(), Some("old"));
}

/// Whatever a provider answers to a wrong secret: the user's request is served, and the new secret does not
/// stay `new`.
#[tokio::test]
async fn a_trial_falls_back_whatever_it_is_refused_with_and_then_counts_as_rejected() {
    let empty = |status| move || Reply::Answer { status, headers: Vec::new(), body: String::new() };
    let says = |status, error: &'static str| move || Reply::json(status, &json!({ "error": error }));
    let page = || {
        let headers = vec![("content-type", "text/html".to_owned())];
        Reply::Answer { status: 403, headers, body: "<html>".to_owned() }
    };
    type Make = Box<dyn Fn() -> Reply + Send>;
    let rows: Vec<(&str, Make)> = vec![
        ("an empty 400", Box::new(empty(400))),
        ("an empty 401", Box::new(empty(401))),
        ("a page", Box::new(page)),
        ("invalid_client", Box::new(says(401, "invalid_client"))),
        ("invalid_request", Box::new(says(400, "invalid_request"))),
        ("unauthorized_client", Box::new(says(403, "unauthorized_client"))),
        ("access_denied", Box::new(says(400, "access_denied"))),
        ("an unknown error", Box::new(says(400, "a_word_of_tomorrow"))),
        ("a user's", Box::new(says(400, "invalid_grant"))),
        ("a failure of its own", Box::new(empty(500))),
    ];
    for (case, refusal) in rows {
        let world = World::openid();
        world.redeem().await.expect("tokens");
        let wanted = world.token_requests()[0].header("authorization").expect("a secret").to_owned();
        world.answer_tokens(move |_, seen| match seen.header("authorization") {
            Some(sent) if sent == wanted => {
                Reply::json(200, &json!({ "token_type": "Bearer", "access_token": "AT", "expires_in": 3600 }))
            }
            _ => refusal(),
        });
        world.replace(vec![secret("one", "a:b c"), secret("new", "wrong")]);
        assert!(!world.authority.prove_credentials().await, "its document offers no token of the app's own");
        let before = world.token_requests().len();
        world.refresh_as("alice").await.unwrap_or_else(|failure| panic!("{case}: {failure}"));
        assert_eq!(world.token_requests().len(), before + 2, "{case}: the new one is tried, and gives way");
        assert_eq!(world.in_use().as_deref(), Some("one"), "{case}");
        assert!(world.ledger.has("rejected new []"), "{case}: {:?}", world.ledger.lines());
        // It is tried again ever more rarely: once in the next minute's eight requests after its first
        // quarter of an hour.
        world.clock.advance(1000);
        world.refresh_as("alice").await.expect("tokens");
        let before = world.token_requests().len();
        for _ in 0..8 {
            world.clock.advance(6);
            world.refresh_as("alice").await.expect("tokens");
        }
        assert_eq!(world.token_requests().len(), before + 8, "{case}");
    }
}

/// It is the only credential, and nothing says that it is the cause.
#[tokio::test]
async fn a_credential_that_has_never_worked_does_not_stay_new_in_silence() {
    let world = World::openid();
    world.answer_tokens(|_, _| Reply::Answer { status: 400, headers: Vec::new(), body: String::new() });
    for account in ["a", "b", "a", "b", "a"] {
        assert_eq!(failed(world.refresh_as(account).await).disposition, Disposition::Unclear);
    }
    assert!(!world.ledger.has("suspected one"), "two users' grants may have ended");
    for account in ["c", "d", "e"] {
        failed(world.refresh_as(account).await);
    }
    let told = world.ledger.lines().iter().filter(|line| *line == "suspected one").count();
    assert_eq!(told, 1);
}
