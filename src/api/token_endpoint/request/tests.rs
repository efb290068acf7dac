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
        ("grant_type=Client_Credentials".to_owned(), "grant_type: is not supported"),
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
        let refused = Asked::read(&form).err().map(|problem| problem.detail).unwrap_or_default();
        assert!(refused.starts_with(why), "{body:.200}: {refused}");
    }
}

#[test]
fn an_app_s_own_token_needs_no_name() {
    const TENANT: &str = "34e60b8e-a5b5-43c9-a67e-a85b7dd8768b";
    let graph = Some("https://graph.microsoft.com");
    let plain = || OfApp { app: None, tenant: None, resource: None, named_in: "resource", min_ttl: None };
    for (more, expected) in [
        (String::new(), plain()),
        ("&audience=outlook".to_owned(), OfApp { app: Some(app("outlook")), ..plain() }),
        (
            format!("&tenant={TENANT}&min_ttl=60"),
            OfApp { tenant: Some(TENANT), min_ttl: Some("60"), ..plain() },
        ),
        ("&resource=https://graph.microsoft.com".to_owned(), OfApp { resource: graph, ..plain() }),
        (
            "&scope=https://graph.microsoft.com/.default".to_owned(),
            OfApp { resource: graph, named_in: "scope", ..plain() },
        ),
        (
            "&scope=https://graph.microsoft.com/.default&resource=https://graph.microsoft.com".to_owned(),
            OfApp { resource: graph, ..plain() },
        ),
        // Entra's resources may be named by an id, which is no URI, or end in a slash.
        (format!("&scope={TENANT}/.default"), OfApp { resource: Some(TENANT), named_in: "scope", ..plain() }),
        (
            "&scope=https://database.windows.net//.default".to_owned(),
            OfApp { resource: Some("https://database.windows.net/"), named_in: "scope", ..plain() },
        ),
        ("&scope=&audience=&tenant=&unknown=1&client_id=x".to_owned(), plain()),
    ] {
        let form = form(&format!("grant_type=client_credentials{more}"));
        let read = Asked::read(&form).unwrap_or_else(|problem| panic!("{more}: {}", problem.detail));
        assert_eq!(read, Asked::OfApp(expected), "{more}");
    }
    for (more, why) in [
        ("&scope=Mail.Read", "scope: must be {resource}/.default"),
        ("&scope=.default", "scope: must be {resource}/.default"),
        ("&scope=/.default", "scope: must be {resource}/.default"),
        ("&scope=a/.default+b/.default", "scope: must be {resource}/.default"),
        ("&scope=openid+https://graph.microsoft.com/.default", "scope: must be {resource}/.default"),
        ("&scope=https://a.example/.default&resource=https://b.example", "resource: is another one"),
        ("&resource=graph", "resource: must be an absolute URI"),
        ("&resource=https://a.example&resource=https://b.example", "resource: is repeated"),
        ("&audience=outlook&audience=outlook", "audience: is repeated"),
        ("&audience=outlook:alice", "audience: names a connection"),
        ("&audience=https://graph.microsoft.com", "audience: must be"),
        ("&subject_token=outlook:alice", "subject_token: belongs to urn:ietf"),
        ("&subject_token_type=x", "subject_token_type: belongs to urn:ietf"),
        ("&actor_token=x", "actor_token: belongs to urn:ietf"),
        ("&requested_token_type=urn:ietf:params:oauth:token-type:jwt", "requested_token_type: "),
    ] {
        let form = form(&format!("grant_type=client_credentials{more}"));
        let refused = Asked::read(&form).err().map(|problem| problem.detail).unwrap_or_default();
        assert!(refused.starts_with(why), "{more}: {refused}");
    }
}
