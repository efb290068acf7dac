use http::{HeaderMap, HeaderValue, header};

use super::*;

const CONNECTION_ENCODED: &str = "urn:tokenward:params:oauth:token-type:connection";

fn form(body: &str) -> Form {
    let mut headers = HeaderMap::new();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/x-www-form-urlencoded"));
    Form::read(&headers, body.as_bytes()).unwrap_or_else(|problem| panic!("{}", problem.detail))
}

/// Reads an exchange of the connection `outlook:alice` with more parameters.
fn exchange(more: &str) -> String {
    format!(
        "grant_type={TOKEN_EXCHANGE}&subject_token=outlook:alice&\
         subject_token_type={CONNECTION_ENCODED}{more}"
    )
}

fn of_user(kind: &str, more: &str) -> String {
    format!(
        "grant_type={TOKEN_EXCHANGE}&subject_token=a.b.c&\
         subject_token_type=urn:ietf:params:oauth:token-type:{kind}{more}"
    )
}

fn app(name: &str) -> AppName {
    AppName::parse(name).expect("a name")
}

fn name(name: &str) -> ConnectionName {
    ConnectionName::parse(name).expect("a name")
}

#[test]
fn an_exchange_says_whose_token_it_wants_and_for_what() {
    let key = ConnectionKey { app: app("outlook"), connection: name("alice") };
    for (more, wanted) in [
        ("", Wanted::default()),
        ("&scope=Mail.Read+User.Read", Wanted { scope: Some("Mail.Read User.Read"), ..Wanted::default() }),
        (
            "&resource=https://graph.microsoft.com&min_ttl=600",
            Wanted {
                resource: Some("https://graph.microsoft.com"),
                min_ttl: Some("600"),
                ..Wanted::default()
            },
        ),
        ("&resource=api://1/x", Wanted { resource: Some("api://1/x"), ..Wanted::default() }),
        ("&audience=outlook&unknown=1", Wanted::default()),
        (
            "&audience=outlook:alice&requested_token_type=urn:ietf:params:oauth:token-type:access_token",
            Wanted::default(),
        ),
        ("&actor_token=&actor_token_type=&scope=&resource=", Wanted::default()),
    ] {
        let form = form(&exchange(more));
        let read = Exchange::read(&form).unwrap_or_else(|problem| panic!("{more}: {}", problem.detail));
        let subject = Subject::Connection(key.clone());
        assert_eq!(read, Exchange { subject, wanted }, "{more}");
    }
    let slashed = form(&exchange("").replace("alice", "team-a/b:c@contoso.com"));
    let Ok(Exchange { subject: Subject::Connection(key), .. }) = Exchange::read(&slashed) else {
        panic!("no exchange");
    };
    assert_eq!(key.connection.as_str(), "team-a/b:c@contoso.com");
}

#[test]
fn a_user_s_token_has_a_kind_and_may_come_with_a_name() {
    use UserTokenKind::{AccessToken, IdToken};
    for (kind, expected) in [("id_token", Some(IdToken)), ("access_token", Some(AccessToken)), ("jwt", None)]
    {
        for (more, named) in [
            ("", Named::default()),
            ("&audience=outlook", Named { app: Some(app("outlook")), connection: None }),
            ("&audience=outlook:a:b", Named { app: Some(app("outlook")), connection: Some(name("a:b")) }),
        ] {
            let form = form(&of_user(kind, more));
            let read = Exchange::read(&form).unwrap_or_else(|problem| panic!("{more}: {}", problem.detail));
            let subject = Subject::User { token: "a.b.c", kind: expected, named };
            assert_eq!(read, Exchange { subject, wanted: Wanted::default() }, "{kind}{more}");
        }
    }
}

#[test]
fn what_a_request_lacks_or_has_too_much_is_named() {
    let id_token = |more: &str| of_user("id_token", more);
    let long = format!("&x=1&subject_token={}", "a".repeat(LONGEST_TOKEN + 1));
    for (body, why) in [
        (String::new(), "body: has no grant_type"),
        ("grant_type=".to_owned(), "body: has no grant_type"),
        ("grant_type=password&username=a".to_owned(), "grant_type: is not supported"),
        ("grant_type=authorization_code".to_owned(), "grant_type: is not supported"),
        (format!("grant_type={TOKEN_EXCHANGE}"), "subject_token: is missing"),
        (exchange("").replace("subject_token=", "other="), "subject_token: is missing"),
        (exchange("").replace("subject_token_type=", "other="), "subject_token_type: is missing"),
        (
            exchange("").replace("token-type:connection", "token-type:saml2"),
            "subject_token_type: is not known",
        ),
        (exchange("").replace(CONNECTION_ENCODED, "refresh_token"), "subject_token_type: is not known"),
        (exchange("").replace("outlook:alice", "alice"), "subject_token: must be {app}:{connection}"),
        (exchange("").replace("outlook:alice", "Outlook:alice"), "subject_token: must be {app}:{connection}"),
        (exchange("").replace("outlook:alice", "outlook:"), "subject_token: must be {app}:{connection}"),
        (
            exchange("").replace("outlook:alice", "outlook:a/../b"),
            "subject_token: must be {app}:{connection}",
        ),
        (exchange("&actor_token=x"), "actor_token_type: is missing"),
        (exchange("&actor_token_type=x"), "actor_token_type: stands without"),
        (exchange("&actor_token=x&actor_token_type=y"), "actor_token: is not taken here"),
        (
            exchange("&requested_token_type=urn:ietf:params:oauth:token-type:refresh_token"),
            "requested_token_type: ",
        ),
        (exchange("&requested_token_type=urn:ietf:params:oauth:token-type:jwt"), "requested_token_type: "),
        (exchange("&audience=other"), "audience: names another"),
        (exchange("&audience=outlook:bob"), "audience: names another"),
        (exchange("&audience=https://graph.microsoft.com"), "audience: must be"),
        (exchange("&audience=a:"), "audience: must be"),
        (exchange("&audience=outlook&audience=outlook"), "audience: is repeated"),
        (exchange("&resource=https://a.example&resource=https://b.example"), "resource: is repeated"),
        (exchange("&resource=graph"), "resource: must be an absolute URI"),
        (exchange("&resource=https://a.example%23x"), "resource: must be an absolute URI"),
        (exchange("&resource=1a:b"), "resource: must be an absolute URI"),
        (exchange("&resource=a:"), "resource: must be an absolute URI"),
        (exchange("&resource=https://a.example/%20"), "resource: must be an absolute URI"),
        (id_token("").replace("subject_token=a.b.c", "y=1") + &long, "subject_token: is longer"),
        (id_token("&audience=%2F"), "audience: must be"),
    ] {
        let form = form(&body);
        let refused = Exchange::read(&form).err().map(|problem| problem.detail).unwrap_or_default();
        assert!(refused.starts_with(why), "{body:.200}: {refused}");
    }
}
