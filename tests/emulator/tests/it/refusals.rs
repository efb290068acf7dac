//! Refusals of the authorize and token endpoints, and their form.

use std::time::Duration;

use entra_emulator::{App, Audience, Emulator, RevokeKind, Settings, User};

use crate::client::*;

#[tokio::test]
async fn a_failure_has_every_field_and_header() {
    let emulator = emulator().await;
    let url = format!("{}/common/oauth2/v2.0/token", emulator.base_url());
    let id = "3f2a8d52-0000-4000-8000-00000000abcd";
    let headers = [("client-request-id", id), ("return-client-request-id", "true")];
    let form = [("client_id", CLIENT), ("client_secret", SECRET), ("grant_type", "password")];
    let reply = post(&url, &headers, &form).await;
    assert_eq!((reply.status, reply.aadsts()), (400, 70003));
    let body = reply.json();
    for field in ["error", "error_description", "timestamp", "trace_id", "correlation_id", "error_uri"] {
        assert!(body[field].is_string(), "{field}");
    }
    assert_eq!(body["correlation_id"], id);
    assert_eq!(reply.header("client-request-id"), Some(id));
    assert_eq!(reply.header("x-ms-request-id"), body["trace_id"].as_str());
    assert!(reply.header("set-cookie").is_some());
    assert_eq!(get(&url, &[]).await.aadsts(), 900561);
}

#[tokio::test]
async fn a_code_works_once_soon_and_where_it_came_from() {
    let emulator = emulator().await;
    let code1 = code(&emulator, "common", &[]).await;
    assert_eq!(redeem(&emulator, "organizations", &code1, &[]).await.aadsts(), 700005);
    let elsewhere = [("redirect_uri", "http://localhost:8081/callback/outlook")];
    assert_eq!(redeem(&emulator, "common", &code1, &elsewhere).await.aadsts(), 500112);
    let verifier = [("code_verifier", "another-verifier-another-verifier-another-verifier")];
    assert_eq!(redeem(&emulator, "common", &code1, &verifier).await.aadsts(), 501481);
    assert_eq!(redeem(&emulator, "common", &code1, &[("code_verifier", "")]).await.aadsts(), 501481);
    assert_eq!(redeem(&emulator, "common", &code1, &[]).await.status, 200);
    assert_eq!(redeem(&emulator, "common", &code1, &[]).await.aadsts(), 54005);

    let code2 = code(&emulator, "common", &[]).await;
    emulator.advance(Duration::from_secs(601));
    assert_eq!(redeem(&emulator, "common", &code2, &[]).await.aadsts(), 70008);
}

#[tokio::test]
async fn a_client_with_a_secret_may_not_be_a_web_page() {
    let emulator = emulator().await;
    let url = format!("{}/common/oauth2/v2.0/token", emulator.base_url());
    let form = [
        ("client_id", CLIENT),
        ("client_secret", SECRET),
        ("grant_type", "refresh_token"),
        ("refresh_token", "x"),
    ];
    let reply = post(&url, &[("origin", "http://localhost:8080")], &form).await;
    assert_eq!(reply.aadsts(), 9002326);
}

#[tokio::test]
async fn one_access_token_is_for_one_resource() {
    let emulator = emulator().await;
    let both = "offline_access Mail.Read https://outlook.office.com/IMAP.AccessAsUser.All";
    let code1 = code(&emulator, "common", &[("scope", both)]).await;
    assert_eq!(redeem(&emulator, "common", &code1, &[("scope", both)]).await.aadsts(), 28000);
    let answer = redeem(&emulator, "common", &code1, &[("scope", "Mail.Read")]).await.json();
    let refresh_token = text(&answer, "refresh_token");
    let imap = "https://outlook.office.com/IMAP.AccessAsUser.All";
    let other = refresh(&emulator, refresh_token, &[("scope", imap)]).await.json();
    assert_eq!(text(&other, "scope"), imap);
    let bearer = format!("Bearer {}", text(&other, "access_token"));
    let me = get(&format!("{}/v1.0/me", emulator.graph_url()), &[("authorization", &bearer)]).await;
    assert_eq!(me.status, 401, "Graph refuses another resource's token");
    assert_eq!(refresh(&emulator, refresh_token, &[("scope", both)]).await.aadsts(), 28000);
    let mixed = "https://graph.microsoft.com/.default Mail.Read";
    assert_eq!(refresh(&emulator, refresh_token, &[("scope", mixed)]).await.aadsts(), 70011);
    let ungranted = refresh(&emulator, refresh_token, &[("scope", "Mail.Send")]).await;
    assert_eq!((ungranted.aadsts(), &ungranted.json()["suberror"]), (65001, &"consent_required".into()));
}

#[tokio::test]
async fn tokens_come_only_with_the_scopes_that_ask_for_them() {
    let emulator = emulator().await;
    let answer = sign_in(&emulator, &[("scope", "User.Read")]).await;
    assert!(answer.get("refresh_token").is_none() && answer.get("id_token").is_none());
    let answer = sign_in(&emulator, &[("scope", "openid User.Read")]).await;
    let claims = claims(text(&answer, "id_token"));
    assert!(claims.get("oid").is_none() && claims.get("sub").is_some());
    // What was consented before comes along.
    sign_in(&emulator, &[("scope", "Mail.Send")]).await;
    let answer = sign_in(&emulator, &[("scope", "User.Read offline_access")]).await;
    assert!(text(&answer, "scope").contains("Mail.Send"));
    let again = token(
        &emulator,
        "common",
        &[("grant_type", "refresh_token"), ("refresh_token", text(&answer, "refresh_token"))],
    )
    .await;
    assert_eq!(again.status, 200, "the scope may be left out");
}

#[tokio::test]
async fn a_refresh_token_dies_of_idleness_and_of_revocation() {
    let emulator = emulator().await;
    let refresh_token = |answer: &serde_json::Value| text(answer, "refresh_token").to_owned();
    for (kind, code) in [
        (RevokeKind::GrantRevoked, 50173),
        (RevokeKind::Idle, 700082),
        (RevokeKind::PasswordExpired, 50055),
        (RevokeKind::SignInFrequency, 70043),
        (RevokeKind::ConsentRemoved, 65001),
    ] {
        let held = refresh_token(&sign_in(&emulator, &[]).await);
        emulator.revoke_user(ALICE, kind).unwrap();
        assert_eq!(refresh(&emulator, &held, &[]).await.aadsts(), code, "{kind:?}");
    }
    let held = refresh_token(&sign_in(&emulator, &[]).await);
    emulator.revoke_user(ALICE, RevokeKind::MfaRequired).unwrap();
    let reply = refresh(&emulator, &held, &[]).await;
    assert_eq!(reply.aadsts(), 50076);
    assert!(text(&reply.json(), "claims").contains("capolids"));

    for (kind, code) in
        [(RevokeKind::Disabled, 50057), (RevokeKind::Deleted, 50034), (RevokeKind::ConditionalAccess, 53003)]
    {
        let held = refresh_token(&sign_in(&emulator, &[]).await);
        emulator.revoke_user(ALICE, kind).unwrap();
        assert_eq!(refresh(&emulator, &held, &[]).await.aadsts(), code, "{kind:?}");
        emulator.restore_user(ALICE).unwrap();
        assert_eq!(refresh(&emulator, &held, &[]).await.status, 200);
    }

    let held = refresh_token(&sign_in(&emulator, &[]).await);
    emulator.advance(Duration::from_secs(90 * 24 * 3600 - 60));
    let fresh = refresh(&emulator, &held, &[]).await.json();
    emulator.advance(Duration::from_secs(120));
    assert_eq!(refresh(&emulator, &held, &[]).await.aadsts(), 700082);
    assert_eq!(refresh(&emulator, text(&fresh, "refresh_token"), &[]).await.status, 200);

    let held = refresh_token(&sign_in(&emulator, &[("login_hint", "carol@outlook.example")]).await);
    emulator.revoke_user("carol@outlook.example", RevokeKind::GrantRevoked).unwrap();
    let reply = refresh(&emulator, &held, &[]).await;
    assert_eq!((reply.aadsts(), &reply.json()["suberror"]), (70000, &"bad_token".into()));
    assert!(emulator.revoke_user("nobody@x", RevokeKind::Idle).is_err());
}

#[tokio::test]
async fn some_authorize_failures_stay_on_a_page_and_others_go_back() {
    let emulator = emulator().await;
    for (more, code) in [
        (("client_id", "unknown"), "AADSTS700016"),
        (("redirect_uri", "http://localhost:8080/callback/Outlook"), "AADSTS50011"),
        (("redirect_uri", "https://evil.example/"), "AADSTS50011"),
        (("redirect_uri", ""), "AADSTS900144"),
    ] {
        let reply = authorize(&emulator, "common", &[more]).await;
        assert_eq!(reply.status, 400, "{more:?}");
        assert!(reply.text().contains(code) && reply.header("location").is_none(), "{more:?}");
    }
    assert!(authorize(&emulator, "nowhere.example", &[]).await.text().contains("AADSTS90002"));
    for (more, error, code) in [
        (("prompt", "maybe"), "invalid_request", "AADSTS90023"),
        (("response_type", "token"), "unsupported_response_type", "AADSTS70005"),
        (("response_type", "code id_token"), "unsupported_response_type", "AADSTS700054"),
        (("response_mode", "smoke"), "unsupported_response_type", "AADSTS70007"),
        (("code_challenge", "short"), "invalid_request", "AADSTS50147"),
        (("code_challenge_method", "S512"), "invalid_request", "AADSTS501491"),
        (("scope", "Mail.Read https://graph.microsoft.com/.default"), "invalid_scope", "AADSTS70011"),
        (("claims", "{not json"), "invalid_request", "AADSTS9002313"),
        (("scope", ""), "invalid_request", "AADSTS900144"),
    ] {
        let callback = authorize(&emulator, "common", &[more]).await.callback();
        assert_eq!(callback["error"], error, "{more:?}");
        assert!(callback["error_description"].starts_with(code), "{more:?} {callback:?}");
        assert_eq!(callback["state"], "st-1");
    }
    let port = [("redirect_uri", "http://localhost:12345/callback/outlook")];
    assert_eq!(
        authorize(&emulator, "common", &port).await.status,
        302,
        "the port of localhost does not count"
    );
}

#[tokio::test]
async fn a_method_left_out_means_a_plain_challenge() {
    let emulator = emulator().await;
    let plain = [("code_challenge", VERIFIER), ("code_challenge_method", "")];
    let code = code(&emulator, "common", &plain).await;
    assert_eq!(redeem(&emulator, "common", &code, &[]).await.status, 200);
}

#[tokio::test]
async fn response_modes_and_prompts() {
    let emulator = emulator().await;
    let silent = [("prompt", "none")];
    assert_eq!(authorize(&emulator, "common", &silent).await.callback()["error"], "consent_required");
    let fragment = authorize(&emulator, "common", &[("response_mode", "fragment")]).await;
    assert!(fragment.header("location").unwrap().starts_with("http://localhost:8080/callback/outlook#code="));
    let form = authorize(&emulator, "common", &[("response_mode", "form_post"), ("state", "\"'&amp;")]).await;
    assert_eq!(form.status, 200);
    let page = form.text();
    assert!(
        page.contains("action=\"http://localhost:8080/callback/outlook\"")
            && page.contains("<button>Continue")
    );
    assert!(page.contains("value=\"&quot;&#39;&amp;amp;\""), "{page}");

    authorize(&emulator, "common", &[]).await;
    assert!(authorize(&emulator, "common", &silent).await.callback().contains_key("code"));
    emulator.change_settings(|settings| settings.signed_in = false);
    assert_eq!(authorize(&emulator, "common", &silent).await.callback()["error"], "login_required");
}

#[tokio::test]
async fn accounts_and_apps_fit_tenant_paths_or_are_refused() {
    let emulator = emulator().await;
    let wrong = authorize(&emulator, "fabrikam.example", &[("login_hint", ALICE)]).await.callback();
    assert!(wrong["error"] == "access_denied" && wrong["error_description"].starts_with("AADSTS50020"));
    emulator.sign_in_as("bob@fabrikam.example");
    let answer = sign_in(&emulator, &[]).await;
    assert_eq!(claims(text(&answer, "access_token"))["emu_user"], "bob@fabrikam.example");

    let app = |audience| App::new(CLIENT).secret(SECRET).redirect_uri(CALLBACK).audience(audience);
    emulator.add_app(app(Audience::Work)).unwrap();
    let scope = ("scope", "https://graph.microsoft.com/.default");
    let grant = ("grant_type", "client_credentials");
    assert_eq!(token(&emulator, "consumers", &[grant, scope]).await.aadsts(), 9002332);
    emulator.add_app(app(Audience::Personal)).unwrap();
    assert_eq!(token(&emulator, "contoso.example", &[grant, scope]).await.aadsts(), 9002331);
    let home = entra_emulator::User::work(ALICE).tenant_id().to_owned();
    emulator.add_app(app(Audience::SingleTenant(home))).unwrap();
    assert!(
        authorize(&emulator, "common", &[]).await.callback()["error_description"].starts_with("AADSTS50194")
    );
    assert_eq!(authorize(&emulator, "contoso.example", &[("login_hint", ALICE)]).await.status, 302);
}

#[tokio::test]
async fn a_users_own_life_of_tokens_counts_before_the_setting() {
    let emulator = Emulator::builder()
        .app(App::new(CLIENT).secret(SECRET).redirect_uri(CALLBACK))
        .user(User::work(ALICE).token_lifetime(Duration::from_secs(20)))
        .token_lifetime(Duration::from_secs(120));
    let emulator = emulator.start().await.unwrap();
    let answer = sign_in(&emulator, &[]).await;
    assert_eq!(answer["expires_in"], 20);
    let answer = refresh(&emulator, text(&answer, "refresh_token"), &[]).await.json();
    assert_eq!(answer["expires_in"], 20);
}

#[tokio::test]
async fn answers_vary_as_entras_do() {
    let emulator = emulator().await;
    let capable = [("claims", r#"{"access_token":{"xms_cc":{"values":["CP1"]}}}"#)];
    let answer = sign_in(&emulator, &capable).await;
    let life = answer["expires_in"].as_u64().unwrap();
    assert!((20 * 3600..=28 * 3600).contains(&life));
    assert_eq!(answer["refresh_in"], life / 2);
    emulator.change_settings(|settings| {
        *settings = Settings {
            expires_in_as_string: true,
            scope_style: entra_emulator::ScopeStyle::Short,
            vary_scopes: true,
            token_lifetime_seconds: Some(120),
            ..settings.clone()
        };
    });
    let answer = refresh(&emulator, text(&answer, "refresh_token"), &[]).await.json();
    assert_eq!((&answer["expires_in"], &answer["ext_expires_in"]), (&"120".into(), &"120".into()));
    let scopes = text(&answer, "scope").to_lowercase();
    assert!(scopes.split(' ').any(|scope| scope == "mail.read"), "{scopes}");
}

#[tokio::test]
async fn a_code_for_a_single_page_application_is_for_browsers() {
    let uri = "http://localhost:8080/spa";
    let app = App::new(CLIENT).secret(SECRET).redirect_uri(CALLBACK).spa_redirect_uri(uri);
    let emulator =
        Emulator::builder().app(app).user(User::work("alice@contoso.example")).start().await.unwrap();
    let to_spa = [("redirect_uri", uri)];
    let without_pkce = [("redirect_uri", uri), ("code_challenge", ""), ("code_challenge_method", "")];
    let refused = authorize(&emulator, "common", &without_pkce).await.callback();
    assert!(refused["error_description"].starts_with("AADSTS9002325"), "{refused:?}");
    let found = code(&emulator, "common", &to_spa).await;
    assert_eq!(redeem(&emulator, "common", &found, &to_spa).await.aadsts(), 9002327);
    let found = code(&emulator, "common", &[]).await;
    assert_eq!(redeem(&emulator, "common", &found, &[]).await.status, 200, "the platform Web is for servers");
}

#[tokio::test]
async fn an_app_reads_its_registration_if_it_may() {
    let of = |role: Option<&str>| {
        let app = App::new(CLIENT).secret(SECRET).redirect_uri(CALLBACK).spa_redirect_uri("https://a/b");
        role.into_iter().fold(app, |app, role| app.app_role(role))
    };
    for (role, status) in [
        (None, 403),
        (Some("Mail.Read"), 403),
        (Some("Application.ReadWrite.OwnedBy"), 200),
        (Some("Application.Read.All"), 200),
    ] {
        let alice = User::work("alice@contoso.example");
        let emulator = Emulator::builder().app(of(role)).user(alice).start().await.unwrap();
        let form = [("grant_type", "client_credentials"), ("scope", "https://graph.microsoft.com/.default")];
        let token = token(&emulator, "contoso.example", &form).await.json();
        let bearer = format!("Bearer {}", token["access_token"].as_str().unwrap());
        let select = "$select=web,spa,publicClient,signInAudience";
        let url = format!("{}/v1.0/applications(appId='{CLIENT}')?{select}", emulator.base_url());
        let reply = get(&url, &[("authorization", &bearer)]).await;
        assert_eq!(reply.status, status, "{role:?} {}", reply.text());
        if status == 200 {
            let body = reply.json();
            assert_eq!(body["web"]["redirectUris"][0], CALLBACK);
            assert_eq!(body["spa"]["redirectUris"][0], "https://a/b");
        }
    }
}
