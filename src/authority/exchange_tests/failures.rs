//! Refusals, answers that are none, and connections that break.

use super::*;

#[tokio::test]
async fn a_refusal_leaves_with_its_codes_and_without_its_words() {
    let world = World::entra();
    world.answer_tokens(|_, _| {
        let mut body = json!({
            "error": "invalid_grant", "suberror": "basic_action", "error_codes": [50076],
            "error_description": "AADSTS50076: secret text", "trace_id": "t-1", "correlation_id": "c-1",
        });
        body["claims"] = r#"{"access_token":{"capolids":{"essential":true}}}"#.into();
        Reply::json(400, &body)
    });
    let failure = failed(world.refresh().await);
    assert_eq!(
        failure.disposition,
        Disposition::Reauthorize(ReauthReason::InteractionRequired, GrantFate::Keep)
    );
    assert_eq!(failure.claims.as_deref(), Some(r#"{"access_token":{"capolids":{"essential":true}}}"#));
    assert_eq!(failure.answer.status, Some(400));
    assert_eq!(failure.answer.error_codes, [50076]);
    assert_eq!(
        (failure.answer.trace_id.as_deref(), failure.answer.correlation_id.as_deref()),
        (Some("t-1"), Some("c-1"))
    );
    assert!(!format!("{failure:?}").contains("secret text"));
    assert!(world.ledger.has("token reauthorize"));
}

#[tokio::test]
async fn a_refused_code_ends_the_attempt_and_judges_no_grant() {
    let world = World::entra();
    for (error, code, disposition) in [
        ("invalid_grant", 54005, Disposition::Restart),
        ("invalid_grant", 70008, Disposition::Restart),
        ("invalid_grant", 0, Disposition::Restart),
        ("access_denied", 90094, Disposition::Blocked(BlockReason::AdminConsentRequired)),
    ] {
        world.answer_tokens(move |_, _| refused(400, error, code));
        assert_eq!(failed(world.redeem().await).disposition, disposition, "{code}");
    }
}

#[tokio::test]
async fn an_app_that_is_absent_is_the_tenants_or_the_operators() {
    let absent = |_: &str, _: &Seen| refused(400, "unauthorized_client", 700016);
    let world = World::entra();
    world.answer_tokens(absent);
    assert_eq!(failed(world.refresh().await).disposition, Disposition::Blocked(BlockReason::AppNotInTenant));
    let world = World::with("/common/v2.0", entra_script(), vec![secret("one", "s")], |config| {
        config.tenants = only(TENANT_A);
    });
    world.answer_tokens(absent);
    assert_eq!(failed(world.refresh().await).disposition, Disposition::Misconfigured);
}

#[tokio::test]
async fn what_is_no_token_answer_is_trouble_and_never_a_verdict() {
    let html = || vec![("content-type", "text/html".to_owned())];
    let json_type = || vec![("content-type", "application/json".to_owned())];
    type Make = Box<dyn Fn() -> Reply + Send + Sync>;
    let unknown = Disposition::OutcomeUnknown;
    let rows: Vec<(&str, Make, Disposition)> = vec![
        (
            "an outage's page",
            Box::new(move || Reply::Answer { status: 503, headers: html(), body: "<html>".into() }),
            LATER,
        ),
        (
            "a success page",
            Box::new(move || Reply::Answer { status: 200, headers: html(), body: "<html>".into() }),
            unknown,
        ),
        (
            "throttled",
            Box::new(|| Reply::Answer {
                status: 429,
                headers: vec![("retry-after", "60".into())],
                body: String::new(),
            }),
            Disposition::RetryAfter(Some(Duration::from_secs(60))),
        ),
        (
            "a redirect",
            Box::new(|| Reply::Answer {
                status: 302,
                headers: vec![("location", "http://127.0.0.1:1/".into())],
                body: String::new(),
            }),
            LATER,
        ),
        (
            "a redirect that keeps the method",
            Box::new(|| Reply::Answer {
                status: 307,
                headers: vec![("location", "http://127.0.0.1:1/".into())],
                body: String::new(),
            }),
            LATER,
        ),
        (
            "an error and a success",
            Box::new(|| {
                Reply::json(
                    200,
                    &json!({ "error": "invalid_grant", "access_token": "x", "token_type": "Bearer" }),
                )
            }),
            unknown,
        ),
        (
            "a huge success",
            Box::new(move || Reply::Answer { status: 200, headers: json_type(), body: " ".repeat(300_000) }),
            unknown,
        ),
        (
            "a huge refusal",
            Box::new(move || Reply::Answer { status: 400, headers: json_type(), body: " ".repeat(300_000) }),
            LATER,
        ),
        (
            "a huge success without its length",
            Box::new(|| {
                Reply::Raw(
                    [
                        &b"HTTP/1.1 200 X\r\nconnection: close\r\ncontent-type: application/json\r\n\r\n"[..],
                        &[b' '; 300_000],
                    ]
                    .concat(),
                )
            }),
            unknown,
        ),
        (
            "a truncated success",
            Box::new(|| {
                Reply::Raw(
                    b"HTTP/1.1 200 X\r\ncontent-type: application/json\r\ncontent-length: 900\r\n\r\n{\"tok"
                        .to_vec(),
                )
            }),
            unknown,
        ),
        ("a connection closed", Box::new(|| Reply::Close), unknown),
        ("bytes that are no HTTP", Box::new(|| Reply::Raw(b"SSH-2.0-OpenSSH\r\n\r\n".to_vec())), unknown),
        ("half a head", Box::new(|| Reply::Raw(b"HTTP/1.1 200 X\r\ncont".to_vec())), unknown),
        (
            "a head without end",
            Box::new(|| Reply::Raw([&b"HTTP/1.1 200 X\r\nx: "[..], &[b'x'; 100_000]].concat())),
            unknown,
        ),
    ];
    let world = World::entra();
    world.redeem().await.expect("documents are here");
    for (name, make, disposition) in rows {
        let before = world.token_requests().len();
        world.answer_tokens(move |_, _| make());
        let failure = failed(world.refresh().await);
        assert_eq!(failure.disposition, disposition, "{name}: {failure}");
        assert_eq!(world.token_requests().len(), before + 1, "{name}: sent once");
    }
}

#[tokio::test]
async fn silence_is_an_unknown_outcome_within_the_deadline() {
    let world = World::with("/common/v2.0", entra_script(), vec![secret("one", "s")], |config| {
        config.timeout = Duration::from_millis(1500);
    });
    world.redeem().await.expect("documents are here");
    for make in [|| Reply::Hang, || Reply::Drip] {
        world.answer_tokens(move |_, _| make());
        let failure = failed(world.refresh().await);
        assert_eq!(failure.disposition, Disposition::OutcomeUnknown, "{failure}");
        assert!(world.ledger.has("token outcome_unknown"));
    }
}

#[tokio::test]
async fn a_server_that_is_not_there_was_sent_nothing() {
    let world = World::entra();
    world.redeem().await.expect("documents are here");
    // A port that was free a moment ago.
    let port =
        std::net::TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("an address").port();
    world.script(|script| {
        script.document = Box::new(move |origin| {
            let mut document = entra_document(origin);
            document["token_endpoint"] = format!("http://127.0.0.1:{port}/token").into();
            Reply::json(200, &document)
        });
    });
    let mut config = AuthorityConfig::new(format!("{}/common/v2.0", world.server.origin()), CLIENT_ID);
    config.endpoint_hosts = Some(vec![format!("127.0.0.1:{port}")]);
    let parts = AuthorityParts {
        token_hosts: AppHosts::default(),
        clock: world.clock.clone(),
        random: Arc::new(CountingRandom::default()),
        observer: world.ledger.clone(),
    };
    let authority = OpenIdAuthority::new(config, vec![secret("one", "s")], parts).expect("a config");
    let failure = failed(app_token(&authority, None).await);
    assert_eq!(failure.disposition, LATER, "{failure}");
}

#[tokio::test]
async fn a_pooled_connection_that_died_costs_nothing() {
    let world = World::entra();
    world.redeem().await.expect("documents are here");
    // The connection closes after each answer, which the head does not announce.
    world.answer_tokens(|origin, _| {
        let body = tokens(&entra_claims(origin)).to_string();
        let head = format!(
            "HTTP/1.1 200 X\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
            body.len()
        );
        Reply::Raw(format!("{head}{body}").into_bytes())
    });
    for _ in 0..5 {
        world.refresh().await.expect("tokens");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test]
async fn where_an_unknown_outcome_may_cost_a_grant_no_connection_is_used_twice() {
    let world = World::openid();
    world.redeem().await.expect("tokens");
    assert_eq!(world.server.connections(), 3, "document, keys, token");
    let world = World::entra();
    world.redeem().await.expect("tokens");
    assert_eq!(world.server.connections(), 1);
}

#[tokio::test]
async fn any_other_refusal_is_not_asked_twice() {
    let credentials = vec![secret("new", "n"), secret("old", "o")];
    let world = World::with("/common/v2.0", entra_script(), credentials, |_| {});
    world.answer_tokens(|_, _| refused(400, "invalid_grant", 700082));
    let failure = failed(world.refresh().await);
    assert_eq!(failure.disposition, Disposition::Reauthorize(ReauthReason::GrantExpired, GrantFate::Dead));
    assert_eq!(world.token_requests().len(), 1);
}

#[tokio::test]
async fn no_secret_is_in_any_failure() {
    let world = World::entra();
    world.redeem().await.expect("documents are here");
    for make in [
        || refused(401, "invalid_client", 7000215),
        || refused(400, "invalid_grant", 700082),
        || Reply::Close,
        || Reply::json(200, &json!({ "token_type": "x", "access_token": "AT-SECRET" })),
        || Reply::json(200, &json!({ "error": "RT-1", "access_token": "AT-SECRET" })),
    ] {
        world.answer_tokens(move |_, _| make());
        for failure in [failed(world.refresh().await), failed(world.redeem().await)] {
            let text = format!("{failure} {failure:?}");
            for secret in ["s3cr3t", "RT-1", "M.C0_de", "dBjftJeZ", "AT-SECRET", "secret text"] {
                assert!(!text.contains(secret), "{secret}: {text}");
            }
        }
    }
}
