mod subject;

use serde_json::json;

use super::*;
use crate::authority::testing::{
    CLIENT_ID, NOW, OTHER_RSA, P256, RSA, TENANT_A, TENANT_B, USER, b64, jwt, p256_jwk, rsa_jwk,
};
use crate::authority::url::CheckedUrl;
use crate::domain::account::PERSONAL_TENANT;
use crate::domain::tenants::Listed;

const NONCE: &str = "n-0S6_WzA2Mj";
const HOST: &str = "https://login.microsoftonline.com";

fn url(path: &str) -> CheckedUrl {
    CheckedUrl::parse(&format!("{HOST}{path}"), false).expect("a URL")
}

fn metadata(issuer: &str) -> Metadata {
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
        cloud_instance_name: Some("microsoftonline.com".to_owned()),
    }
}

/// One authority and one token, both open to a test's changes.
struct Trial {
    kind: UserTokenKind,
    provider: Provider,
    metadata: Metadata,
    tenants: Tenants,
    nonce: Option<&'static str>,
    now: i64,
    header: Value,
    claims: Value,
    keys: Value,
}

impl Trial {
    fn entra() -> Self {
        let mut key = rsa_jwk("k1", &RSA);
        key["issuer"] = format!("{HOST}/{{tenantid}}/v2.0").into();
        key["cloud_instance_name"] = "microsoftonline.com".into();
        Trial {
            kind: UserTokenKind::IdToken,
            provider: Provider::Entra,
            metadata: metadata(&format!("{HOST}/{{tenantid}}/v2.0")),
            tenants: Tenants::any_organization(),
            nonce: Some(NONCE),
            now: NOW,
            header: json!({ "alg": "RS256", "typ": "JWT", "kid": "k1" }),
            claims: json!({
                "iss": format!("{HOST}/{TENANT_A}/v2.0"), "aud": CLIENT_ID, "sub": "pairwise",
                "ver": "2.0",
                "tid": TENANT_A, "oid": USER, "iat": NOW, "nbf": NOW, "exp": NOW + 3600, "nonce": NONCE,
                "preferred_username": "alice@contoso.com",
            }),
            keys: json!({ "keys": [key] }),
        }
    }

    fn openid() -> Self {
        Trial {
            provider: Provider::OpenId,
            metadata: Metadata { cloud_instance_name: None, ..metadata("https://issuer.example") },
            claims: json!({
                "iss": "https://issuer.example", "aud": [CLIENT_ID], "sub": "alice", "iat": NOW,
                "exp": NOW + 300, "nonce": NONCE, "email": "alice@issuer.example",
            }),
            keys: json!({ "keys": [rsa_jwk("k1", &RSA), p256_jwk("k2", &P256)] }),
            ..Trial::entra()
        }
    }

    fn claim(mut self, name: &str, value: Value) -> Self {
        self.claims[name] = value;
        self
    }

    fn without(mut self, name: &str) -> Self {
        self.claims.as_object_mut().expect("an object").remove(name);
        self
    }

    fn header(mut self, name: &str, value: Value) -> Self {
        self.header[name] = value;
        self
    }

    fn key(mut self, name: &str, value: Value) -> Self {
        self.keys["keys"][0][name] = value;
        self
    }

    fn tenants(mut self, entries: &[&str]) -> Self {
        let mut listed = Listed::default();
        entries.iter().for_each(|entry| listed.add(entry).expect("an entry"));
        self.tenants = Tenants::Listed(listed);
        self
    }

    fn at(mut self, now: i64) -> Self {
        self.now = now;
        self
    }

    fn issuer(mut self, issuer: String) -> Self {
        self.metadata.issuer = issuer;
        self
    }

    fn token(&self) -> String {
        jwt(&self.header, &self.claims)
    }

    fn judge(&self) -> Result<Account, IdTokenFault> {
        self.judge_text(&self.token())
    }

    fn rules(&self) -> Rules<'_> {
        Rules {
            kind: self.kind,
            provider: self.provider,
            metadata: &self.metadata,
            client_id: CLIENT_ID,
            tenants: &self.tenants,
            nonce: self.nonce,
            access_token: Some("jHkWEdUXMU1BwAsC4vtUsZwnNvTIxEl0z9K3vx5KF0Y"),
            now: Timestamp::from_unix_seconds(self.now),
        }
    }

    fn judge_text(&self, token: &str) -> Result<Account, IdTokenFault> {
        let rules = self.rules();
        let keys = KeySet::parse(self.keys.to_string().as_bytes()).expect("keys");
        UnverifiedToken::parse(token)?.verify(Some(&keys), &rules)
    }
}

#[test]
fn good_tokens_name_their_account() {
    let account = Trial::entra().judge().expect("a good token");
    assert_eq!((account.tid.as_deref(), account.oid.as_deref()), (Some(TENANT_A), Some(USER)));
    assert_eq!(account.username.as_deref(), Some("alice@contoso.com"));
    let account = Trial::openid().judge().expect("a good token");
    assert_eq!((account.iss.as_str(), account.sub.as_str()), ("https://issuer.example", "alice"));
    assert_eq!((account.tid, account.username.as_deref()), (None, Some("alice@issuer.example")));
    assert!(Trial::openid().header("alg", json!("PS256")).judge().is_ok());
    assert!(Trial::openid().header("alg", json!("ES256")).header("kid", json!("k2")).judge().is_ok());
}

#[test]
fn what_is_only_unusual_is_accepted() {
    let fine: Vec<(&str, Trial)> = vec![
        ("exp within the skew", Trial::entra().at(NOW + 3600 + 59)),
        ("iat and nbf within the skew", Trial::entra().at(NOW - 60)),
        ("a time with a fraction", Trial::entra().claim("iat", json!(1_795_391_999.5))),
        ("no nbf", Trial::entra().without("nbf")),
        ("our own azp", Trial::entra().claim("azp", json!(CLIENT_ID))),
        ("aud as a list of one", Trial::entra().claim("aud", json!([CLIENT_ID]))),
        ("no typ", Trial { header: json!({ "alg": "RS256", "kid": "k1" }), ..Trial::entra() }),
        ("typ in lower case", Trial::entra().header("typ", json!("jwt"))),
        ("kid null and one key", Trial::entra().header("kid", Value::Null)),
        ("typ null", Trial::entra().header("typ", Value::Null)),
        ("no name at all", Trial::entra().without("preferred_username")),
        ("a refresh's token without nonce", Trial { nonce: None, ..Trial::entra().without("nonce") }),
        (
            "key material in the header is not looked at",
            Trial::entra()
                .header("jku", json!("https://evil.example/keys"))
                .header("x5u", json!("https://evil.example/cert"))
                .header("jwk", rsa_jwk("k1", &OTHER_RSA))
                .header("x5c", json!(["MIIB"])),
        ),
        (
            "a key for this tenant alone",
            Trial::entra().key("issuer", json!(format!("{HOST}/{TENANT_A}/v2.0"))),
        ),
        ("a tenant that is listed", Trial::entra().tenants(&[TENANT_A])),
        (
            "a personal account where it is named",
            Trial::entra()
                .claim("tid", json!(PERSONAL_TENANT))
                .claim("iss", json!(format!("{HOST}/{PERSONAL_TENANT}/v2.0")))
                .tenants(&["personal"]),
        ),
        ("one tenant's own issuer", Trial::entra().issuer(format!("{HOST}/{TENANT_A}/v2.0"))),
        (
            "a fitting at_hash (OpenID Connect Core A.3)",
            Trial::openid().claim("at_hash", json!("77QmUPtjPfzWtF2AnpK9RQ")),
        ),
    ];
    for (name, trial) in fine {
        assert!(trial.judge().is_ok(), "{name}: {:?}", trial.judge().err());
    }
}

#[test]
fn a_claim_that_need_not_be_there_costs_nothing() {
    // Each alone; nothing reads them, so the other claims count as before.
    let names =
        ["preferred_username", "email", "azp", "at_hash", "nbf", "c_hash", "auth_time", "name", "acr"];
    for trial in [Trial::entra, Trial::openid] {
        for name in names {
            for value in [Value::Null, json!(true), json!({}), json!(["x"]), json!("")] {
                let judged = trial().claim(name, value.clone()).judge();
                assert!(judged.is_ok(), "{name} {value}: {:?}", judged.err());
            }
        }
    }
    let trial = Trial::openid().claim("preferred_username", json!(7));
    let account = trial.judge().expect("a good token");
    assert_eq!(account.username.as_deref(), Some("alice@issuer.example"), "the other name is there");
    let trial = Trial::openid().claim("azp", json!(1)).claim("nbf", json!("0")).claim("at_hash", Value::Null);
    let token = trial.token();
    let token = UnverifiedToken::parse(&token).expect("a token");
    assert_eq!(token.odd_claims().collect::<Vec<_>>(), ["azp", "nbf"]);
}

#[test]
fn every_rule_refuses_by_its_own_name() {
    use IdTokenFault as F;
    let e = Trial::entra;
    let o = Trial::openid;
    let rows: Vec<(&str, Trial, F)> = vec![
        // Header.
        ("alg none", e().header("alg", json!("none")), F::Algorithm),
        ("alg nOnE", e().header("alg", json!("nOnE")), F::Algorithm),
        ("alg HS256 with the public key", e().header("alg", json!("HS256")), F::Algorithm),
        ("alg RS384 at Entra", e().header("alg", json!("RS384")), F::Algorithm),
        ("an algorithm that is not known", o().header("alg", json!("ES512")), F::Algorithm),
        ("an algorithm in other case", o().header("alg", json!("rs256")), F::Algorithm),
        ("alg PS256 at Entra", e().header("alg", json!("PS256")), F::Algorithm),
        ("alg ES256 at Entra", e().header("alg", json!("ES256")), F::Algorithm),
        ("no alg", Trial { header: json!({ "kid": "k1" }), ..e() }, F::Algorithm),
        ("alg a number", e().header("alg", json!(1)), F::Malformed),
        (
            "alg that the document does not name",
            {
                let mut trial = o().header("alg", json!("PS256"));
                trial.metadata.id_token_algorithms = Some(vec!["RS256".into()]);
                trial
            },
            F::Algorithm,
        ),
        (
            "alg none although the document names it",
            {
                let mut trial = o().header("alg", json!("none"));
                trial.metadata.id_token_algorithms = Some(vec!["none".into()]);
                trial
            },
            F::Algorithm,
        ),
        ("crit", e().header("crit", json!(["exp"])), F::Critical),
        ("crit with b64", e().header("crit", json!(["b64"])).header("b64", json!(false)), F::Critical),
        ("an access token's typ", e().header("typ", json!("at+jwt")), F::WrongType),
        ("typ a list", e().header("typ", json!(["JWT"])), F::Malformed),
        ("enc in the header", e().header("enc", json!("A256GCM")), F::Encrypted),
        ("no kid among several keys", Trial { header: json!({ "alg": "RS256" }), ..o() }, F::NoKeyId),
        ("an unknown kid", e().header("kid", json!("k9")), F::UnknownKey),
        ("a kid that is a path", e().header("kid", json!("../../k1")), F::UnknownKey),
        ("an empty kid", e().header("kid", json!("")), F::UnknownKey),
        // Key.
        (
            "another key under the same kid",
            Trial { keys: json!({ "keys": [rsa_jwk("k1", &OTHER_RSA)] }), ..e() },
            F::Signature,
        ),
        ("an RSA signature under an elliptic key's kid", o().header("kid", json!("k2")), F::Signature),
        ("a key for another algorithm", o().key("alg", json!("PS256")), F::Signature),
        (
            "a key of tenant A for a token of tenant B",
            e().claim("tid", json!(TENANT_B))
                .claim("iss", json!(format!("{HOST}/{TENANT_B}/v2.0")))
                .key("issuer", json!(format!("{HOST}/{TENANT_A}/v2.0"))),
            F::KeyIssuer,
        ),
        (
            "a personal accounts' key for a tenant's token",
            e().key("issuer", json!(format!("{HOST}/{PERSONAL_TENANT}/v2.0"))),
            F::KeyIssuer,
        ),
        (
            "a key of the older endpoint",
            e().key("issuer", json!("https://sts.windows.net/{tenantid}/")),
            F::KeyIssuer,
        ),
        ("a key of another cloud", e().key("cloud_instance_name", json!("microsoftonline.us")), F::KeyIssuer),
        // Issuer and audience.
        ("another issuer", e().claim("iss", json!("https://evil.example/v2.0")), F::Issuer),
        ("the literal template", e().claim("iss", json!(format!("{HOST}/{{tenantid}}/v2.0"))), F::Issuer),
        (
            "the older endpoint's issuer",
            e().claim("iss", json!(format!("https://sts.windows.net/{TENANT_A}/"))),
            F::Issuer,
        ),
        (
            "an issuer with a slash more",
            e().claim("iss", json!(format!("{HOST}/{TENANT_A}/v2.0/"))),
            F::Issuer,
        ),
        ("an issuer in other case", o().claim("iss", json!("https://Issuer.example")), F::Issuer),
        (
            "an issuer of another tenant than tid",
            e().claim("iss", json!(format!("{HOST}/{TENANT_B}/v2.0"))),
            F::Issuer,
        ),
        (
            "tid of another tenant than a fixed issuer's",
            e().claim("tid", json!(TENANT_B)).issuer(format!("{HOST}/{TENANT_A}/v2.0")),
            F::TenantId,
        ),
        (
            "another tenant than the authority's",
            e().claim("tid", json!(TENANT_B))
                .claim("iss", json!(format!("{HOST}/{TENANT_B}/v2.0")))
                .issuer(format!("{HOST}/{TENANT_A}/v2.0")),
            F::Issuer,
        ),
        ("iss missing", e().without("iss"), F::ClaimMissing),
        ("iss null", o().claim("iss", Value::Null), F::ClaimMissing),
        ("iss a number", o().claim("iss", json!(1)), F::ClaimType),
        ("iss a list", o().claim("iss", json!(["https://issuer.example"])), F::ClaimType),
        ("another audience", e().claim("aud", json!("66666666-2222-3333-4444-555555555555")), F::Audience),
        ("audience in other case", e().claim("aud", json!(format!("{CLIENT_ID} "))), F::Audience),
        ("a list without us", e().claim("aud", json!(["x"])), F::Audience),
        ("an empty list", e().claim("aud", json!([])), F::ClaimMissing),
        ("an empty audience", e().claim("aud", json!("")), F::ClaimMissing),
        ("a list with others", e().claim("aud", json!([CLIENT_ID, "x"])), F::ExtraAudience),
        ("us twice", e().claim("aud", json!([CLIENT_ID, CLIENT_ID])), F::ExtraAudience),
        ("aud an object", e().claim("aud", json!({ "0": CLIENT_ID })), F::ClaimType),
        ("aud a list of numbers", e().claim("aud", json!([1])), F::ClaimType),
        ("aud missing", e().without("aud"), F::ClaimMissing),
        ("aud null", e().claim("aud", Value::Null), F::ClaimMissing),
        ("aud a number", e().claim("aud", json!(1)), F::ClaimType),
        ("another azp", e().claim("azp", json!("x")), F::AuthorizedParty),
        // Times.
        ("expired", e().at(NOW + 3660), F::Expired),
        ("exp a string", e().claim("exp", json!("9999999999")), F::ClaimType),
        ("exp null", e().claim("exp", Value::Null), F::ClaimMissing),
        ("nbf beyond all time", e().claim("nbf", json!(1e300)), F::ClaimType),
        ("exp negative", e().claim("exp", json!(-1)), F::ClaimType),
        ("exp beyond all time", e().claim("exp", json!(1e300)), F::ClaimType),
        ("exp missing", e().without("exp"), F::ClaimMissing),
        ("nbf to come", e().claim("nbf", json!(NOW + 61)), F::NotYetValid),
        ("iat to come", e().claim("iat", json!(NOW + 61)), F::IssuedInFuture),
        ("iat a list", e().claim("iat", json!([NOW])), F::ClaimType),
        ("iat missing", e().without("iat"), F::ClaimMissing),
        // Nonce and access token.
        ("another nonce", e().claim("nonce", json!("n-0S6_WzA2Mk")), F::Nonce),
        ("nonce missing", e().without("nonce"), F::Nonce),
        ("nonce a number", e().claim("nonce", json!(1)), F::ClaimType),
        ("nonce null", e().claim("nonce", Value::Null), F::Nonce),
        (
            "at_hash of another token",
            o().claim("at_hash", json!("87QmUPtjPfzWtF2AnpK9RQ")),
            F::AccessTokenHash,
        ),
        // Identity.
        ("sub missing", e().without("sub"), F::ClaimMissing),
        ("sub empty", e().claim("sub", json!("")), F::ClaimMissing),
        ("sub that reads backwards", o().claim("sub", json!("ali\u{202e}ecila")), F::ClaimType),
        ("sub with what nobody sees", o().claim("sub", json!("alice\u{200b}")), F::ClaimType),
        ("sub with a soft hyphen", o().claim("sub", json!("ali\u{ad}ce")), F::ClaimType),
        ("sub with a control character", o().claim("sub", json!("alice\u{7}")), F::ClaimType),
        ("sub too long", e().claim("sub", json!("x".repeat(256))), F::ClaimType),
        ("sub a number", e().claim("sub", json!(7)), F::ClaimType),
        ("sub null", e().claim("sub", Value::Null), F::ClaimMissing),
        ("sub a list", e().claim("sub", json!(["pairwise"])), F::ClaimType),
        ("oid null", e().claim("oid", Value::Null), F::ClaimMissing),
        ("oid empty", e().claim("oid", json!("")), F::ClaimMissing),
        ("tid null", e().claim("tid", Value::Null), F::ClaimMissing),
        ("sub with a line break", e().claim("sub", json!("a\nb")), F::ClaimType),
        ("tid missing", e().without("tid"), F::ClaimMissing),
        ("tid no GUID", e().claim("tid", json!("contoso.com")), F::TenantId),
        ("tid that climbs", e().claim("tid", json!("../common")), F::TenantId),
        ("oid missing", e().without("oid"), F::ClaimMissing),
        ("oid no GUID", e().claim("oid", json!("alice@contoso.com")), F::ObjectId),
        ("ver 1.0", e().claim("ver", json!("1.0")), F::Version),
        ("ver a number", e().claim("ver", json!(2.0)), F::ClaimType),
        ("ver missing", e().without("ver"), F::ClaimMissing),
        ("a tenant that is not listed", e().tenants(&[TENANT_B]), F::TenantNotAllowed),
        ("no tenant is listed", e().tenants(&[]), F::TenantNotAllowed),
        ("personal accounts only", e().tenants(&["personal"]), F::TenantNotAllowed),
        (
            "a personal account under *",
            e().claim("tid", json!(PERSONAL_TENANT))
                .claim("iss", json!(format!("{HOST}/{PERSONAL_TENANT}/v2.0"))),
            F::TenantNotAllowed,
        ),
    ];
    assert!(rows.len() >= 60);
    for (name, trial, fault) in rows {
        assert_eq!(trial.judge().err(), Some(fault), "{name}");
    }
}

#[test]
fn bytes_that_are_no_token_are_refused() {
    use IdTokenFault as F;
    let trial = Trial::entra();
    let token = trial.token();
    let parts: Vec<&str> = token.split('.').collect();
    let doubled = r#"{"alg":"RS256","alg":"none","kid":"k1"}"#;
    let claims_doubled = trial.claims.to_string().replacen('{', r#"{"tid":"x","#, 1);
    let rows = [
        (String::new(), F::Malformed),
        ("a.b".to_owned(), F::Malformed),
        ("..".to_owned(), F::Malformed),
        (format!("{token}."), F::Malformed),
        (format!("{token}=="), F::Malformed),
        (format!(" {token}"), F::Malformed),
        (format!("{token}.x.y"), F::Encrypted),
        (format!("{}.{}.", parts[0], parts[1]), F::Signature),
        (format!("{}.{}.{}", b64("[]"), parts[1], parts[2]), F::Malformed),
        (format!("{}.{}.{}", b64(doubled), parts[1], parts[2]), F::Malformed),
        (format!("{}.{}.{}", parts[0], b64(claims_doubled), parts[2]), F::Malformed),
        (format!("{}.{}.{}", parts[0], b64("x"), parts[2]), F::Malformed),
    ];
    for (text, fault) in rows {
        assert_eq!(trial.judge_text(&text).err(), Some(fault), "{text}");
    }
}

#[test]
fn no_flipped_bit_survives() {
    let trial = Trial::entra();
    let token = trial.token();
    assert!(trial.judge_text(&token).is_ok());
    for at in (0..token.len()).step_by(7) {
        let mut bytes = token.clone().into_bytes();
        bytes[at] = if bytes[at] == b'A' { b'B' } else { b'A' };
        let changed = String::from_utf8(bytes).expect("ASCII");
        assert!(trial.judge_text(&changed).is_err(), "byte {at}");
    }
}

#[test]
fn one_name_and_two_object_ids_are_two_accounts() {
    let first = Trial::entra().judge().expect("a good token");
    let other = Trial::entra().claim("oid", json!("dddddddd-0000-4000-8000-00000000000d")).judge();
    assert_ne!(first.id(), other.expect("a good token").id());
}

#[test]
fn the_words_are_distinct() {
    let words: std::collections::HashSet<_> = IdTokenFault::ALL.iter().map(|fault| fault.as_str()).collect();
    assert_eq!(words.len(), IdTokenFault::ALL.len());
}
