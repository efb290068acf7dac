//! Properties of every answer of a token endpoint, whatever its bytes: nothing panics, no readable refresh
//! token is lost, and an `id_token` belongs to the owner or to another only if its claims say so.
//!
//! `testkit::fuzzing` tries a corpus of each kind and small changes of it; `make fuzz` runs a fuzzer.

pub mod documents;

use std::sync::LazyLock;

use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::header::HeaderMap;
use serde_json::value::RawValue;
use serde_json::{Value, json};

use super::clouds::Provider;
use super::discovery::Metadata;
use super::http::HttpAnswer;
use super::id_token::{Renewal, Rules, UnverifiedToken, UserTokenKind};
use super::token_answer;
use super::url::CheckedUrl;
use crate::domain::account::Account;
use crate::domain::secret::RefreshToken;
use crate::domain::tenants::Tenants;
use crate::domain::time::Timestamp;
use crate::jwt::keys::KeySet;

const CLIENT_ID: &str = "11111111-2222-3333-4444-555555555555";
const TENANT: &str = "aaaaaaaa-0000-4000-8000-00000000000a";
/// 2026-11-23T00:00:00Z.
const NOW: i64 = 1_795_392_000;
/// The meaningful members of an answer.
const MEMBERS: [&str; 8] =
    ["access_token", "token_type", "expires_in", "refresh_in", "scope", "id_token", "error", "unknown"];

/// Panics if a refresh token is lost that stands in the body, before it, or behind it.
pub fn no_refresh_token_is_lost(body: &[u8]) {
    let kept = kept_of(body);
    if let Some(token) = readable(body) {
        assert_eq!(kept, Some(token), "{}", String::from_utf8_lossy(body));
    }
    // Bytes after a refresh token can at most replace it by another.
    let behind = [br#"{"refresh_token":"R9","#, body].concat();
    assert!(kept_of(&behind).is_some(), "{}", String::from_utf8_lossy(&behind));
    // Whatever the value of another member.
    if serde_json::from_slice::<&RawValue>(body).is_ok() {
        for member in MEMBERS {
            let around = [b"{\"", member.as_bytes(), b"\":", body, br#","refresh_token":"R9"}"#].concat();
            assert_eq!(kept_of(&around).as_deref(), Some("R9"), "{}", String::from_utf8_lossy(&around));
        }
    }
}

/// Returns the refresh token that we keep of an answer, after checking what else was read.
fn kept_of(body: &[u8]) -> Option<String> {
    let answer = HttpAnswer { status: 200, headers: HeaderMap::new(), body: body.to_vec().into() };
    let kept = match token_answer::read(&answer) {
        Ok(success) => {
            let access_token = success.access_token.expose();
            assert!((1..=64 * 1024).contains(&access_token.len()));
            assert!(access_token.bytes().all(|byte| matches!(byte, 0x21..=0x7e)));
            assert!((1..=172_800).contains(&success.expires_in.as_secs()));
            assert!(
                success.refresh_in.is_none_or(|renew| renew.as_secs() >= 1 && renew < success.expires_in)
            );
            success.refresh_token
        }
        Err(unusable) => unusable.refresh_token,
    };
    kept.as_ref().map(RefreshToken::expose).map(str::to_owned)
}

/// Returns the refresh token as any JSON parser would see it; `None` if there is none that could be sent.
fn readable(body: &[u8]) -> Option<String> {
    let Ok(Value::Object(members)) = serde_json::from_slice(body) else { return None };
    let token = members.get("refresh_token")?.as_str()?;
    let fits =
        (1..=64 * 1024).contains(&token.len()) && token.bytes().all(|byte| matches!(byte, 0x20..=0x7e));
    fits.then(|| token.to_owned())
}

/// Panics if an `id_token` is judged against its claims. The input serves as a whole token, and as a header
/// and claims, separated by a line break, that an authority signed.
pub fn an_id_token_is_judged_by_its_claims(input: &[u8]) {
    let text = String::from_utf8_lossy(input);
    judge(&text, false);
    let at = input.iter().position(|byte| *byte == b'\n').unwrap_or(input.len());
    let (header, claims) = (&input[..at], input.get(at + 1..).unwrap_or_default());
    let message = format!("{}.{}", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(claims));
    let signature = SIGNER.sign(message.as_bytes());
    judge(&format!("{message}.{}", URL_SAFE_NO_PAD.encode(signature)), true);
}

fn judge(text: &str, is_signed: bool) {
    let Ok(token) = UnverifiedToken::parse(text) else { return };
    let _odd = token.odd_claims().count();
    let claims = text.split('.').nth(1).and_then(|part| URL_SAFE_NO_PAD.decode(part).ok());
    let claims: Value = serde_json::from_slice(&claims.expect("it was read")).expect("it was read");
    for Party { provider, metadata, owner } in &*PARTIES {
        let rules = Rules {
            kind: UserTokenKind::IdToken,
            provider: *provider,
            metadata,
            client_id: CLIENT_ID,
            tenants: &TENANTS,
            nonce: None,
            access_token: Some("a.b.c"),
            now: Timestamp::from_unix_seconds(NOW),
        };
        let verified = token.verify(Some(&KEYS), &rules);
        if let Err(fault) = &verified {
            let _words = token.words(*fault);
        }
        if let Ok(account) = &verified {
            assert!(is_signed, "no such signature was made: {text}");
            assert_eq!(claims["iss"].as_str(), Some(account.iss.as_str()), "{claims}");
            assert_eq!(claims["sub"].as_str(), Some(account.sub.as_str()), "{claims}");
            assert!(is_for_us(&claims), "{claims}");
            assert!(claims["exp"].as_f64().is_some_and(|exp| exp > (NOW - 60) as f64 - 1.0), "{claims}");
        }
        let is_owner = names(&claims, owner);
        match token.judge_renewal(verified, &rules, owner) {
            Renewal::Verified(_) | Renewal::Unverified(_) => assert!(is_owner, "not the owner's: {claims}"),
            // The refresh token beside it is dropped.
            Renewal::Another => assert!(!is_owner, "the owner's: {claims}"),
            Renewal::Unjudged(_) => {}
        }
    }
}

/// Returns true if the claims name this account, and us.
fn names(claims: &Value, owner: &Account) -> bool {
    let is = |name: &str, own: &str| claims[name].as_str() == Some(own);
    let is_guid =
        |name: &str, own: &str| claims[name].as_str().is_some_and(|said| said.eq_ignore_ascii_case(own));
    let is_them = match (&owner.tid, &owner.oid) {
        (Some(tid), Some(oid)) => is_guid("tid", tid) && is_guid("oid", oid),
        _ => is("sub", &owner.sub),
    };
    is("iss", &owner.iss) && is_for_us(claims) && is_them
}

fn is_for_us(claims: &Value) -> bool {
    claims["aud"] == json!(CLIENT_ID) || claims["aud"] == json!([CLIENT_ID])
}

/// An authority, and the owner of a grant there.
struct Party {
    provider: Provider,
    metadata: Metadata,
    owner: Account,
}

static PARTIES: LazyLock<[Party; 2]> = LazyLock::new(|| {
    let entra = "https://login.microsoftonline.com";
    let account =
        |iss: String| Account { iss, sub: "alice".to_owned(), tid: None, oid: None, username: None };
    [
        Party {
            provider: Provider::OpenId,
            metadata: metadata("https://issuer.example"),
            owner: account("https://issuer.example".to_owned()),
        },
        Party {
            provider: Provider::Entra,
            metadata: metadata(&format!("{entra}/{{tenantid}}/v2.0")),
            owner: Account {
                tid: Some(TENANT.to_owned()),
                oid: Some("cccccccc-0000-4000-8000-00000000000c".to_owned()),
                ..account(format!("{entra}/{TENANT}/v2.0"))
            },
        },
    ]
});
static TENANTS: LazyLock<Tenants> = LazyLock::new(Tenants::any_organization);
static SIGNER: LazyLock<Ed25519KeyPair> =
    LazyLock::new(|| Ed25519KeyPair::from_seed_unchecked(&[7; 32]).expect("a key"));
static KEYS: LazyLock<KeySet> = LazyLock::new(|| {
    let public = URL_SAFE_NO_PAD.encode(SIGNER.public_key());
    let keys = json!({ "keys": [{ "kty": "OKP", "crv": "Ed25519", "kid": "k1", "x": public }] });
    KeySet::parse(keys.to_string().as_bytes()).expect("keys")
});

fn metadata(issuer: &str) -> Metadata {
    let url = |path: &str| CheckedUrl::parse(&format!("https://issuer.example{path}"), false).expect("a URL");
    Metadata {
        issuer: issuer.to_owned(),
        authorization_endpoint: url("/authorize"),
        token_endpoint: url("/token"),
        jwks_uri: url("/keys"),
        iss_in_response: false,
        token_auth_methods: None,
        token_auth_algorithms: None,
        id_token_algorithms: None,
        offers_client_credentials: false,
        cloud_instance_name: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testkit::SeededRandom;
    use crate::testkit::fuzzing::tests::{changed, corpus};

    /// Tries the examples of the parser's tests in addition to the corpus.
    #[test]
    fn no_answer_loses_a_refresh_token_that_can_be_read() {
        let cases: Value =
            serde_json::from_str(include_str!("../../tests/data/authority/successes.json")).expect("cases");
        let cases = cases.as_array().expect("a list").iter();
        let cases: Vec<Vec<u8>> =
            cases.map(|case| case["body"].as_str().expect("a body").as_bytes().to_vec()).collect();
        let random = SeededRandom::new(2);
        for body in &cases {
            no_refresh_token_is_lost(body);
            // (For the longest ones a few changes are enough.)
            for _ in 0..if body.len() > 10_000 { 8 } else { 200 } {
                no_refresh_token_is_lost(&changed(body, &cases[0], &random));
            }
        }
        let all = cases.into_iter().chain(corpus("token_answer").into_iter().map(|(_, body)| body));
        let with_one = all.filter(|body| readable(body).is_some()).count();
        assert!(with_one >= 30, "{with_one}");
    }
}
