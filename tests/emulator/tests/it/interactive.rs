//! Signing in through the pages, as a person does.

use crate::client::*;

#[tokio::test]
async fn a_person_picks_an_account_and_consents() {
    let emulator = builder().automatic(false).start().await.unwrap();
    let url = authorize_url(&emulator, "common", &[]);
    let page = get(&url, &[]).await;
    assert_eq!(page.status, 200);
    assert!(page.text().contains(ALICE) && !page.text().contains("<script"));

    let cancelled = post(&url, &[], &[("emu_step", "cancel")]).await.callback();
    assert_eq!(
        (cancelled["error"].as_str(), cancelled["error_subcode"].as_str()),
        ("access_denied", "cancel")
    );

    let consent = post(&url, &[], &[("emu_user", ALICE)]).await;
    assert!(
        consent.text().contains("Permissions requested")
            && consent.text().contains("https://graph.microsoft.com/Mail.Read")
    );
    let declined = post(&url, &[], &[("emu_user", ALICE), ("emu_step", "decline")]).await.callback();
    assert!(declined["error_description"].starts_with("AADSTS65004"));
    let accepted = post(&url, &[], &[("emu_user", ALICE), ("emu_step", "accept")]).await;
    let code = accepted.callback().remove("code").unwrap();
    assert_eq!(redeem(&emulator, "common", &code, &[]).await.status, 200);

    // The browser now has a session, and the app its consent.
    let cookie = accepted.headers.iter().find(|(_, value)| value.starts_with("ESTSAUTH=")).unwrap();
    let cookie = [("cookie", cookie.1.split(';').next().unwrap())];
    assert!(get(&url, &cookie).await.callback().contains_key("code"));
    let silent = authorize_url(&emulator, "common", &[("prompt", "none")]);
    assert!(get(&silent, &cookie).await.callback().contains_key("code"));
    assert_eq!(get(&silent, &[]).await.callback()["error"], "login_required");
    let choose = authorize_url(&emulator, "common", &[("prompt", "select_account")]);
    assert_eq!(get(&choose, &cookie).await.status, 200);
    let other = authorize_url(&emulator, "common", &[("login_hint", "bob@fabrikam.example")]);
    assert!(get(&other, &cookie).await.text().contains("bob@fabrikam.example"));
}

#[tokio::test]
async fn what_comes_from_outside_is_escaped() {
    let emulator = builder().automatic(false).start().await.unwrap();
    let url = authorize_url(&emulator, "common", &[("state", "\"><script>alert(1)</script>")]);
    assert!(!get(&url, &[]).await.text().contains("<script>alert"));
    let page = authorize(&emulator, "common", &[("redirect_uri", "https://x.example/<b>\"")]).await;
    assert!(page.status == 400 && !page.text().contains("<b>"));
}
