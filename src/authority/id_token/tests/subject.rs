use super::*;
use crate::domain::account::AccountId;

const SPA: &str = "22222222-3333-4444-5555-666666666666";

impl Trial {
    fn id_token() -> Self {
        Trial { nonce: None, ..Trial::entra() }.claim("at_hash", json!("of a token that is not here"))
    }

    /// An access token of Entra's version 2.0 for the app's own API.
    fn access_token() -> Self {
        Trial { kind: UserTokenKind::AccessToken, nonce: None, ..Trial::entra() }
            .without("nonce")
            .claim("azp", json!(SPA))
            .claim("scp", json!("access_as_user"))
    }

    /// An access token as RFC 9068 has it.
    fn rfc_9068() -> Self {
        Trial { kind: UserTokenKind::AccessToken, nonce: None, ..Trial::openid() }
            .header("typ", json!("at+jwt"))
            .claim("client_id", json!(SPA))
    }

    fn subject(&self) -> Result<Subject, IdTokenFault> {
        let keys = KeySet::parse(self.keys.to_string().as_bytes()).expect("keys");
        let token = self.token();
        let token = UnverifiedToken::parse(&token)?;
        let rules = Rules { access_token: None, ..self.rules() };
        let subject = token.verify_subject(&keys, &rules)?;
        token.claims_to_be_for(&rules).expect("so it does");
        assert!(token.names_audience(CLIENT_ID));
        assert_eq!(token.claimed_kind(), self.kind);
        Ok(subject)
    }
}

fn party(sub: &str, iss: Option<&str>) -> Delegate {
    Delegate { sub: sub.to_owned(), iss: iss.map(str::to_owned) }
}

#[test]
fn a_user_s_token_names_the_account_and_who_acts() {
    let entra = AccountId::Entra { tid: TENANT_A.to_owned(), oid: USER.to_owned() };
    let openid = AccountId::OpenId { iss: "https://issuer.example".to_owned(), sub: "alice".to_owned() };
    for (trial, account) in [
        (Trial::id_token(), &entra),
        (Trial::access_token(), &entra),
        (Trial::access_token().claim("aud", json!(format!("api://{CLIENT_ID}"))), &entra),
        (Trial::access_token().header("typ", json!("at+jwt")), &entra),
        (Trial { nonce: None, ..Trial::openid() }, &openid),
        (Trial::rfc_9068(), &openid),
        (Trial::rfc_9068().header("typ", json!("application/AT+JWT")), &openid),
    ] {
        let subject = trial.subject().expect("a good token");
        let expected = Subject { account: account.clone(), actors: vec![], may_act: None };
        assert_eq!(subject, expected, "{} {}", trial.header, trial.claims);
    }
    let acted = Trial::id_token()
        .claim("act", json!({ "sub": "gateway", "act": { "sub": "portal", "iss": "https://a.example" } }))
        .claim("may_act", json!({ "sub": "mail-sync", "client_id": "ignored" }))
        .subject()
        .expect("a good token");
    assert_eq!(acted.actors, [party("gateway", None), party("portal", Some("https://a.example"))]);
    assert_eq!(acted.may_act, Some(party("mail-sync", None)));
}

#[test]
fn a_token_of_another_kind_or_an_app_s_own_is_refused() {
    use IdTokenFault::{
        AnotherKind, Audience, AuthorizedParty, ClaimMissing, Expired, ExtraAudience, Issuer, Version,
        WrongType,
    };
    let graph = "00000003-0000-0000-c000-000000000000";
    let rows: Vec<(&str, Trial, IdTokenFault)> = vec![
        ("an access token sent as id_token", Trial::id_token().claim("scp", json!("x")), AnotherKind),
        ("another app's id_token", Trial::id_token().claim("azp", json!(SPA)), AuthorizedParty),
        (
            "an id_token for the API's URI",
            Trial::id_token().claim("aud", json!(format!("api://{CLIENT_ID}"))),
            Audience,
        ),
        ("an id_token sent as access token", Trial::access_token().without("scp"), AnotherKind),
        ("an app's own token", Trial::access_token().claim("idtyp", json!("app")), AnotherKind),
        ("a token for Graph", Trial::access_token().claim("aud", json!(graph)), Audience),
        ("another app's URI", Trial::access_token().claim("aud", json!(format!("api://{SPA}"))), Audience),
        ("one audience too many", Trial::access_token().claim("aud", json!([CLIENT_ID, SPA])), ExtraAudience),
        (
            "version 1.0",
            Trial::access_token()
                .claim("iss", json!(format!("https://sts.windows.net/{TENANT_A}/")))
                .claim("ver", json!("1.0")),
            Issuer,
        ),
        ("version 1.0 by this issuer", Trial::access_token().claim("ver", json!("1.0")), Version),
        ("an expired one", Trial::access_token().at(NOW + 3660), Expired),
        ("an id_token as RFC 9068's", Trial::rfc_9068().header("typ", json!("JWT")), WrongType),
        ("one without a type", Trial::rfc_9068().header("typ", Value::Null), WrongType),
        ("RFC 9068's as id_token", Trial { kind: UserTokenKind::IdToken, ..Trial::rfc_9068() }, WrongType),
        ("no client", Trial::rfc_9068().without("client_id"), ClaimMissing),
        ("a client's own", Trial::rfc_9068().claim("client_id", json!("alice")), AnotherKind),
        ("the app's own", Trial::rfc_9068().claim("sub", json!(CLIENT_ID)), AnotherKind),
    ];
    for (what, trial, fault) in rows {
        assert_eq!(trial.subject().err(), Some(fault), "{what}");
    }
}

#[test]
fn who_acts_is_an_object_with_a_name_and_four_deep_at_most() {
    let nested =
        |depth: usize| (0..depth).fold(Value::Null, |act, at| json!({ "sub": format!("a{at}"), "act": act }));
    assert_eq!(Trial::id_token().claim("act", nested(4)).subject().expect("good").actors.len(), 4);
    let long = "x".repeat(256);
    for bad in [
        nested(5),
        nested(60),
        json!("gateway"),
        json!([]),
        json!({}),
        json!({ "sub": "" }),
        json!({ "sub": 1 }),
        json!({ "sub": long }),
        json!({ "sub": "a\u{1b}[31m" }),
        json!({ "sub": "a", "iss": ["x"] }),
        json!({ "sub": "a", "act": "b" }),
    ] {
        assert_eq!(
            Trial::id_token().claim("act", bad.clone()).subject().err(),
            Some(IdTokenFault::Actor),
            "{bad}"
        );
        if bad["act"].is_null() {
            let may_act = Trial::id_token().claim("may_act", bad.clone()).subject();
            assert_eq!(may_act.err(), Some(IdTokenFault::Actor), "{bad}");
        }
    }
}
