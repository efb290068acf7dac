//! Properties of every document and refusal of an authority.

use std::time::Duration;

use http::header::HeaderMap;
use serde_json::{Value, json};

use super::{NOW, SIGNER};
use crate::authority::classify::{self, Asked, Question};
use crate::authority::clouds::{Provider, TenantPath};
use crate::authority::discovery::Expected;
use crate::authority::http::HttpAnswer;
use crate::authority::redirect::RedirectError;
use crate::authority::url::CheckedUrl;
use crate::authority::wire::{self, MAX_CLAIMS};
use crate::domain::time::Timestamp;
use crate::domain::verdict::{BlockReason, Disposition};
use crate::jwt::json::Object;
use crate::jwt::keys::{Algorithm, KeySet};
use aws_lc_rs::signature::KeyPair;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

/// Panics if its neighbours keep a good key from being found.
pub fn a_key_set_loses_no_good_key(input: &[u8]) {
    if let Err(why) = KeySet::parse(input) {
        assert!(is_tame(&why, 200), "{why:?}");
    }
    let Ok(document) = Object::parse(input) else { return };
    let mut document = Value::Object(document.0.clone());
    let Some(keys) = document.get_mut("keys").and_then(Value::as_array_mut) else { return };
    keys.retain(|key| key.get("kid") != Some(&json!("ours")));
    keys.truncate(99);
    let public = URL_SAFE_NO_PAD.encode(SIGNER.public_key());
    keys.push(json!({ "kty": "OKP", "crv": "Ed25519", "kid": "ours", "x": public }));
    let set = KeySet::parse(document.to_string().as_bytes()).expect("one of its keys is good");
    let found = set.find(Some("ours"));
    assert_eq!(found.len(), 1);
    let signature = SIGNER.sign(b"message");
    for algorithm in Algorithm::ALL {
        let verifies = found[0].verifies(algorithm, b"message", signature.as_ref());
        assert_eq!(verifies, algorithm == Algorithm::EdDsa, "{}", algorithm.as_str());
    }
    for kid in document["keys"].as_array().into_iter().flatten().filter_map(|key| key["kid"].as_str()) {
        for key in set.find(Some(kid)).into_iter().filter(|_| kid != "ours") {
            let _no_panic = key.verifies(Algorithm::Rs256, b"message", signature.as_ref());
            let _nor_here = key.verifies(Algorithm::Es256, b"message", signature.as_ref());
        }
    }
}

/// Panics if a document is believed that leads over a network in plain text, or has another issuer.
pub fn an_authority_s_document_leads_nowhere_else(input: &[u8]) {
    let expected = |authority: &str, provider| {
        let authority = CheckedUrl::parse(authority, true).expect("a URL");
        let tenant = TenantPath::of(&authority).filter(|_| provider == Provider::Entra);
        Expected { authority, provider, provider_is_configured: false, tenant, endpoint_hosts: None }
    };
    for expected in [
        expected("https://login.microsoftonline.com/common/v2.0", Provider::Entra),
        expected(
            "https://login.microsoftonline.com/aaaaaaaa-0000-4000-8000-00000000000a/v2.0",
            Provider::Entra,
        ),
        expected("https://issuer.example", Provider::OpenId),
        expected("http://127.0.0.1:8080/realms/one", Provider::OpenId),
    ] {
        match expected.check(input) {
            Ok(metadata) => {
                assert!(expected.is_issuer(&metadata.issuer), "{}", metadata.issuer);
                for url in [&metadata.authorization_endpoint, &metadata.token_endpoint, &metadata.jwks_uri] {
                    let is_plain = url.is_loopback() && !expected.authority.is_https();
                    assert!(url.is_https() || is_plain, "{}", url.as_str());
                }
                if expected.provider == Provider::OpenId {
                    assert_eq!(metadata.issuer, expected.authority.as_str());
                }
            }
            Err(why) => assert!(is_tame(&why, 2500), "{why:?}"),
        }
    }
}

/// Panics if a refusal reports more than the authority's own few words, or destroys a grant that it did not
/// concern.
pub fn a_refusal_is_told_in_tame_words(input: &[u8]) {
    let body = input.to_vec();
    let refusal = wire::refusal(&HttpAnswer { status: 400, headers: HeaderMap::new(), body: body.into() });
    if let Some(refusal) = &refusal {
        let words = [&refusal.error, &refusal.suberror, &refusal.trace_id, &refusal.correlation_id];
        for word in words.into_iter().flatten() {
            assert!(
                (1..=64).contains(&word.len()) && word.bytes().all(|byte| byte.is_ascii_graphic()),
                "{word}"
            );
        }
        assert!(refusal.codes.len() <= 10);
        if let Some(claims) = &refusal.claims {
            assert!(claims.len() <= MAX_CLAIMS && Object::parse(claims.as_bytes()).is_ok(), "{claims}");
        }
    }
    for provider in [Provider::Entra, Provider::OpenId] {
        for asked in [Asked::Refresh, Asked::Redeem, Asked::ClientCredentials] {
            let question = Question { asked, provider, one_tenant: input.len().is_multiple_of(2) };
            for status in [200, 400, 401, 403, 429, 500, 503] {
                let judged = classify::token_error(status, refusal.as_ref(), None, question).disposition;
                let is_verdict = matches!(judged, Disposition::Reauthorize(..) | Disposition::Blocked(_));
                // Only a readable refusal is a verdict, and only on a grant.
                assert!(
                    !is_verdict || refusal.is_some() && (400..429).contains(&status),
                    "{status}: {judged:?}"
                );
                // The app's own token has no user: only the state of a tenant is one.
                let is_of_tenant = matches!(
                    judged,
                    Disposition::Blocked(
                        BlockReason::AppNotInTenant
                            | BlockReason::TenantGone
                            | BlockReason::AdminConsentRequired
                    )
                );
                assert!(!is_verdict || is_of_tenant || asked != Asked::ClientCredentials, "{judged:?}");
            }
        }
    }
    let text = String::from_utf8_lossy(input);
    if let Some(wait) = crate::outbound::retry_after(&text, Timestamp::from_unix_seconds(NOW)) {
        assert!((Duration::from_secs(1)..=Duration::from_secs(3600)).contains(&wait), "{wait:?}");
    }
    let answer = RedirectError::read(&text, Some(&text), Some(&text)).answer();
    for word in [answer.error, answer.trace_id, answer.correlation_id].into_iter().flatten() {
        assert!((1..=64).contains(&word.len()) && word.bytes().all(|byte| byte.is_ascii_graphic()), "{word}");
    }
}

/// Returns the host and port that a call of this URL leads to; `None` if it is refused.
pub fn host_and_port_of(text: &str) -> Option<(String, u16)> {
    let url = CheckedUrl::parse(text, true).ok()?;
    assert_eq!(CheckedUrl::parse(url.as_str(), true).as_ref(), Ok(&url));
    assert!(url.is_https() || url.is_loopback(), "{text}");
    assert!(!url.host().is_empty() && !url.host().contains(['@', '#', '?', '/', '\\', '%']), "{text}");
    Some((url.host().to_owned(), url.port()))
}

/// Returns true for one line of a size fit for logs.
fn is_tame(text: &str, most: usize) -> bool {
    text.len() <= most && !text.contains(char::is_control)
}
