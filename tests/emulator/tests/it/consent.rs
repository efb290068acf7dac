//! Who may consent, and administrators.

use entra_emulator::{
    AdminApproval, CallbackPatch, ConsentPolicy, Emulator, Endpoint, Fault, FaultRule, User,
};

use crate::client::*;

async fn ask_admin(emulator: &Emulator, tenant: &str, path: &str) -> Reply {
    let query = form_urlencoded::Serializer::new(String::new())
        .extend_pairs([
            ("client_id", CLIENT),
            ("redirect_uri", CALLBACK),
            ("state", "st-2"),
            ("scope", "Mail.Read User.Read"),
        ])
        .finish();
    get(&format!("{}/{tenant}/{path}?{query}", emulator.base_url()), &[]).await
}

#[tokio::test]
async fn an_administrator_has_to_consent_first_where_policy_says_so() {
    let emulator = emulator().await;
    emulator.set_consent_policy(Some("contoso.example"), ConsentPolicy::AdminRequired).unwrap();
    let reply = authorize(&emulator, "common", &[]).await;
    assert!(
        reply.status == 200 && reply.text().contains("AADSTS90094") && reply.header("location").is_none()
    );
    emulator.change_settings(|settings| settings.admin_approval = AdminApproval::Redirect);
    let callback = authorize(&emulator, "common", &[]).await.callback();
    assert!(callback["error"] == "access_denied" && callback["error_description"].starts_with("AADSTS90094"));
    assert_eq!(authorize(&emulator, "common", &[("login_hint", "bob@fabrikam.example")]).await.status, 302);

    let callback = ask_admin(&emulator, "contoso.example", "v2.0/adminconsent").await.callback();
    assert_eq!(callback["admin_consent"], "True");
    assert_eq!(callback["tenant"], User::work(ALICE).tenant_id());
    assert_eq!((callback["state"].as_str(), callback.contains_key("scope")), ("st-2", true));
    sign_in(&emulator, &[]).await;
    emulator.withdraw_admin_consent("contoso.example", CLIENT).unwrap();
}

#[tokio::test]
async fn an_administrator_may_cancel() {
    let emulator = emulator().await;
    emulator.change_settings(|settings| settings.admin_declines = true);
    let callback = ask_admin(&emulator, "organizations", "v2.0/adminconsent").await.callback();
    assert!(callback["error"] == "access_denied" && callback["error_description"].starts_with("AADSTS65004"));
    assert!(!callback.contains_key("tenant") && callback.contains_key("error_uri"));
    let legacy = ask_admin(&emulator, "common", "adminconsent").await.callback();
    assert_eq!(legacy["error"], "permission_denied");
    emulator.change_settings(|settings| settings.admin_declines = false);
    let forged = Fault::CallbackPatch(CallbackPatch::WrongState);
    emulator.faults().inject(FaultRule::new(Endpoint::AdminConsent, forged).once());
    assert_ne!(ask_admin(&emulator, "organizations", "v2.0/adminconsent").await.callback()["state"], "st-2");
    emulator.faults().inject(FaultRule::new(Endpoint::AdminConsent, Fault::aadsts(90036)).once());
    let callback = ask_admin(&emulator, "organizations", "v2.0/adminconsent").await.callback();
    assert_eq!(callback["error"], "server_error");
    emulator.change_settings(|settings| settings.automatic = false);
    let page = ask_admin(&emulator, "contoso.example", "v2.0/adminconsent").await;
    assert!(page.status == 200 && page.text().contains("for your organization"));
    assert_eq!(ask_admin(&emulator, "common", "v2.0/adminconsent").await.status, 400, "common is for users");
}

#[tokio::test]
async fn the_managed_policy_lets_users_send_but_not_read() {
    let emulator = emulator().await;
    emulator.set_consent_policy(None, ConsentPolicy::MicrosoftManaged).unwrap();
    assert_eq!(authorize(&emulator, "common", &[("scope", "Mail.Send User.Read")]).await.status, 302);
    assert!(authorize(&emulator, "common", &[]).await.text().contains("AADSTS90094"));
    assert_eq!(authorize(&emulator, "common", &[("login_hint", "carol@outlook.example")]).await.status, 302);
    emulator.grant_admin_consent("contoso.example", CLIENT, "Mail.Read User.Read").unwrap();
    assert_eq!(authorize(&emulator, "common", &[]).await.status, 302);
}
