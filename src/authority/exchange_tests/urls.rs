//! The URLs for the browser, and the claims that every request carries.

use super::*;

#[tokio::test]
async fn an_authorize_url_carries_everything_and_pkce_even_unadvertised() {
    let world = World::entra();
    let answer = world.authorize(|_| {}).await.expect("a URL");
    let query = query(&answer.url);
    assert!(answer.url.starts_with(&format!("{}/common/oauth2/v2.0/authorize?", world.server.origin())));
    assert_eq!(answer.issuer, format!("{}/{{tenantid}}/v2.0", world.server.origin()));
    assert!(!answer.iss_required);
    for (name, value) in [
        ("client_id", CLIENT_ID),
        ("response_type", "code"),
        ("response_mode", "query"),
        ("redirect_uri", "https://tokens.contoso.com/callback/outlook"),
        ("state", "the-state"),
        ("nonce", NONCE),
        ("code_challenge", "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM"), // RFC 7636 appendix B
        ("code_challenge_method", "S256"),
        ("login_hint", "alice@contoso.com"),
        ("domain_hint", "contoso.com"),
        ("scope", "Mail.Read https://outlook.office.com/SMTP.Send offline_access openid profile"),
    ] {
        assert!(has(&query, name, value), "{name}: {}", answer.url);
    }
    assert!(!query.iter().any(|(name, _)| name == "claims" || name == "prompt" || name == "client_secret"));
}

#[tokio::test]
async fn another_providers_authorize_url_has_none_of_entras_ways() {
    let world = World::openid();
    let answer = world.authorize(|_| {}).await.expect("a URL");
    let query = query(&answer.url);
    assert!(answer.iss_required);
    assert_eq!(answer.issuer, world.server.origin());
    assert!(has(&query, "tenant", "x"), "the endpoint's own query stays");
    assert!(has(&query, "scope", "Mail.Read https://outlook.office.com/SMTP.Send openid"), "{}", answer.url);
    assert!(!query.iter().any(|(name, _)| name == "domain_hint" || name == "response_mode"));
    assert!(!world.authority.may_replay_refresh_tokens());
}

#[tokio::test]
async fn prompts_and_hints_that_authorities_refuse_are_not_sent() {
    let world = World::entra();
    let url =
        world.authorize(|request| request.prompt = Some("select_account".into())).await.expect("a URL").url;
    assert!(url.contains("prompt=select_account") && !url.contains("login_hint"));
    let failure = failed(world.authorize(|request| request.prompt = Some("login&x=y".into())).await);
    assert_eq!(failure.disposition, Disposition::CallerFault);
    let failure = failed(world.authorize(|request| request.claims = Some("[1]".into())).await);
    assert_eq!(failure.disposition, Disposition::CallerFault);
}

#[tokio::test]
async fn continuous_access_evaluation_is_declared_on_every_call() {
    let world = World::with("/common/v2.0", entra_script(), vec![secret("one", "s")], |config| {
        config.continuous_access_evaluation = true;
    });
    let declared = r#"{"access_token":{"xms_cc":{"values":["cp1"]}}}"#;
    let url = world.authorize(|_| {}).await.expect("a URL").url;
    assert!(has(&query(&url), "claims", declared), "{url}");
    world.redeem().await.expect("tokens");
    world
        .refresh_with(Some(r#"{"access_token":{"nbf":{"essential":true,"value":"1"}},"id_token":{}}"#))
        .await
        .expect("tokens");
    let requests = world.token_requests();
    assert_eq!(requests[0].field("claims"), Some(declared));
    let merged: Value = serde_json::from_str(requests[1].field("claims").expect("claims")).expect("JSON");
    let expected = json!({
        "access_token": { "nbf": { "essential": true, "value": "1" }, "xms_cc": { "values": ["cp1"] } },
        "id_token": {},
    });
    assert_eq!(merged, expected);
}

/// A caller that cannot pass a challenge on gets a token that no resource challenges.
#[tokio::test]
async fn continuous_access_evaluation_is_declared_for_no_one_who_cannot_have_it() {
    for (app, caller, expected) in [(true, true, true), (true, false, false), (false, true, false)] {
        let world = World::with("/common/v2.0", entra_script(), vec![secret("one", "s")], |config| {
            config.continuous_access_evaluation = app;
        });
        let answer = tokens_of(world.refresh_in(TENANT_A, None, caller).await).expect("tokens");
        let declared = world.token_requests()[0].field("claims").is_some();
        assert_eq!((answer.cae, declared), (expected, expected), "{app} {caller}");
    }
}

#[tokio::test]
async fn a_claims_challenge_is_passed_on_and_must_be_an_object() {
    let world = World::entra();
    world.refresh_with(Some(r#"{"access_token":{"acrs":{"value":"c1"}}}"#)).await.expect("tokens");
    assert_eq!(
        world.token_requests()[0].field("claims"),
        Some(r#"{"access_token":{"acrs":{"value":"c1"}}}"#)
    );
    let long = format!(r#"{{"a":"{}"}}"#, "x".repeat(9000));
    for bad in ["", "x", "[]", r#"{"a":1,"a":2}"#, r#"{"a":1} {}"#, &long] {
        assert_eq!(
            failed(world.refresh_with(Some(bad)).await).disposition,
            Disposition::CallerFault,
            "{bad:.20}"
        );
    }
    assert_eq!(world.token_requests().len(), 1, "nothing else was sent");
}

#[tokio::test]
async fn an_administrators_page_is_entras_alone() {
    let world = World::entra();
    let naming = world.authority.scope_naming();
    let mut request = AdminConsentRequest {
        tenant: None,
        scopes: naming.scopes("Mail.Read openid https://outlook.office.com/SMTP.Send").expect("scopes"),
        redirect_uri: "https://tokens.contoso.com/callback/outlook".into(),
        state: "the-state".into(),
    };
    let url = world.authority.admin_consent_url(&request).await.expect("a URL").expect("Entra's");
    assert!(url.starts_with(&format!("{}/organizations/v2.0/adminconsent?", world.server.origin())), "{url}");
    let expected = "https://graph.microsoft.com/Mail.Read https://outlook.office.com/SMTP.Send openid";
    assert!(has(&query(&url), "scope", expected), "{url}");
    assert!(has(&query(&url), "state", "the-state"));
    request.tenant = Some("contoso.com".into());
    let url = world.authority.admin_consent_url(&request).await.expect("a URL").expect("Entra's");
    assert!(url.contains("/contoso.com/v2.0/adminconsent?"));
    request.tenant = Some("../evil".into());
    assert_eq!(
        failed(world.authority.admin_consent_url(&request).await).disposition,
        Disposition::CallerFault
    );
    request.tenant = None;
    assert_eq!(World::openid().authority.admin_consent_url(&request).await.expect("no failure"), None);
}
