//! Discovery, keys, and an id token checked as a client would check it.

use entra_emulator::{Emulator, Endpoint, Fault, FaultRule, IdTokenSigning, PERSONAL_TENANT, User};
use jsonwebtoken::{Algorithm, DecodingKey, Validation, decode, decode_header};
use serde_json::Value;

use crate::client::*;

async fn configuration(emulator: &Emulator, tenant: &str) -> Value {
    get(&format!("{}/.well-known/openid-configuration", emulator.authority(tenant)), &[]).await.json()
}

async fn keys(emulator: &Emulator, tenant: &str) -> Vec<Value> {
    let uri = configuration(emulator, tenant).await["jwks_uri"].as_str().unwrap().to_owned();
    get(&uri, &[]).await.json()["keys"].as_array().unwrap().clone()
}

/// Finds the key by `kid` and checks signature, audience and issuer.
async fn verified(emulator: &Emulator, id_token: &str) -> Result<Value, String> {
    let _ = jsonwebtoken::crypto::aws_lc::DEFAULT_PROVIDER.install_default();
    let kid = decode_header(id_token).map_err(|error| error.to_string())?.kid.ok_or("no kid")?;
    let key =
        keys(emulator, "common").await.into_iter().find(|key| key["kid"] == kid).ok_or("unknown kid")?;
    let mut validation = Validation::new(Algorithm::RS256);
    validation.set_audience(&[CLIENT]);
    let material =
        DecodingKey::from_rsa_components(key["n"].as_str().unwrap(), key["e"].as_str().unwrap()).unwrap();
    let claims = decode::<Value>(id_token, &material, &validation).map_err(|error| error.to_string())?.claims;
    let issuer = key["issuer"].as_str().unwrap().replace("{tenantid}", claims["tid"].as_str().unwrap());
    if claims["iss"] == issuer {
        Ok(claims)
    } else {
        Err(format!("issuer {} is not {issuer}", claims["iss"]))
    }
}

#[tokio::test]
async fn issuers_are_templated_where_entra_templates_them() {
    let emulator = emulator().await;
    let base = emulator.base_url();
    let contoso = User::work(ALICE).tenant_id().to_owned();
    for (tenant, issuer) in [
        ("common", "{tenantid}"),
        ("organizations", "{tenantid}"),
        ("consumers", PERSONAL_TENANT),
        (PERSONAL_TENANT, PERSONAL_TENANT),
        ("contoso.example", &contoso),
        (&contoso, &contoso),
    ] {
        let document = configuration(&emulator, tenant).await;
        assert_eq!(document["issuer"], format!("{base}/{issuer}/v2.0"), "{tenant}");
        assert!(document.get("code_challenge_methods_supported").is_none());
        assert_eq!(document["claims_supported"].as_array().unwrap().len(), 19);
    }
    assert_eq!(
        get(&format!("{base}/nowhere.example/v2.0/.well-known/openid-configuration"), &[]).await.aadsts(),
        90002
    );
    let keys = keys(&emulator, "common").await;
    assert!(
        keys.iter().all(|key| key.get("alg").is_none() && key["issuer"].is_string() && key["x5c"].is_array())
    );
    assert_eq!(
        keys.iter().filter(|key| key["issuer"] == format!("{base}/{PERSONAL_TENANT}/v2.0")).count(),
        1
    );
}

#[tokio::test]
async fn id_tokens_verify_until_they_are_made_not_to() {
    let emulator = emulator().await;
    for user in [ALICE, "carol@outlook.example"] {
        let answer = sign_in(&emulator, &[("login_hint", user)]).await;
        let claims = verified(&emulator, text(&answer, "id_token")).await.unwrap();
        assert_eq!(claims["preferred_username"], user);
    }
    for (how, why) in
        [(IdTokenSigning::WrongKey, "InvalidSignature"), (IdTokenSigning::UnpublishedKey, "unknown kid")]
    {
        emulator.faults().inject(FaultRule::new(Endpoint::Token, Fault::IdTokenSigning(how)).once());
        let answer = sign_in(&emulator, &[]).await;
        assert_eq!(verified(&emulator, text(&answer, "id_token")).await.unwrap_err(), why);
    }
}

#[tokio::test]
async fn keys_roll_over_with_and_without_overlap() {
    let emulator = emulator().await;
    let old = sign_in(&emulator, &[]).await;
    emulator.rotate_signing_keys(true);
    assert!(verified(&emulator, text(&old, "id_token")).await.is_ok());
    let new = sign_in(&emulator, &[]).await;
    emulator.rotate_signing_keys(false);
    assert_eq!(verified(&emulator, text(&new, "id_token")).await.unwrap_err(), "unknown kid");
    let newest = sign_in(&emulator, &[]).await;
    assert!(verified(&emulator, text(&newest, "id_token")).await.is_ok());
}

#[tokio::test]
async fn documents_can_be_patched_and_sdk_lookups_answer() {
    let emulator = emulator().await;
    let patch = |value: Value| value.as_object().cloned().unwrap();
    let wrong = patch(serde_json::json!({ "issuer": "https://other.example", "token_endpoint": null }));
    emulator.faults().inject(FaultRule::new(Endpoint::Discovery, Fault::DiscoveryPatch(wrong)).once());
    let document = configuration(&emulator, "common").await;
    assert!(document["issuer"] == "https://other.example" && document.get("token_endpoint").is_none());
    emulator.faults().inject(
        FaultRule::new(Endpoint::Jwks, Fault::JwksPatch(patch(serde_json::json!({ "keys": [] })))).once(),
    );
    assert!(keys(&emulator, "common").await.is_empty());

    let base = emulator.base_url();
    let instance = format!("{base}/common/discovery/instance?api-version=1.1&authorization_endpoint=");
    let known = get(&format!("{instance}{base}/contoso.example/oauth2/v2.0/authorize"), &[]).await.json();
    assert!(
        text(&known, "tenant_discovery_endpoint")
            .ends_with("/contoso.example/v2.0/.well-known/openid-configuration")
    );
    assert_eq!(get(&format!("{instance}https://other.example/common"), &[]).await.aadsts(), 50049);
    let realm = get(&format!("{base}/common/userrealm/{ALICE}?api-version=1.0"), &[]).await.json();
    assert_eq!(realm["account_type"], "Managed");
}

#[tokio::test]
async fn urls_follow_the_address_a_request_was_sent_to_where_that_is_wanted() {
    let emulator = builder().settings(|settings| settings.follow_host = true).start().await.unwrap();
    let address = emulator.base_url().replace("http://", "");
    for (host, base) in [
        ("127.0.1.3:4444", "http://127.0.1.3:4444".to_owned()),
        ("evil.example:80", emulator.base_url()),
        ("10.0.0.1:80", emulator.base_url()),
    ] {
        let url = format!("http://{host}/common/v2.0/.well-known/openid-configuration");
        let stream = tokio::net::TcpStream::connect(&address).await.unwrap();
        let document = exchange(stream, "GET", &url, &[], "").await.unwrap().json();
        assert_eq!(document["issuer"], format!("{base}/{{tenantid}}/v2.0"));
        assert_eq!(document["token_endpoint"], format!("{base}/common/oauth2/v2.0/token"));
    }
    let usual = configuration(&emulator, "common").await;
    assert_eq!(usual["issuer"], format!("{}/{{tenantid}}/v2.0", emulator.base_url()));
}
