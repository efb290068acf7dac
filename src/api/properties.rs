//! What holds for every path, query and body that a caller sends.

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, header};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::value::RawValue;
use serde_json::{Value, json};

use super::asked::Asked;
use super::body;
use super::local::LocalApi;
use super::problem::Problem;
use super::routes::Target;
use super::token_body::TokenBody;
use crate::broker::confirm::Confirmation;
use crate::callers::Credential;
use crate::domain::id::{AppName, ConnectionKey, ConnectionName};
use crate::domain::time::Timestamp;
use crate::listener::{Dots, MOST_PARAMETERS, Origin, Pairs, Peer, PeerCertificate, segments};

/// Panics if a path or a query is read that would be read in another way when it is written anew. A `?` ends
/// the path.
pub fn a_path_and_its_query_are_read_in_one_way(input: &[u8]) {
    let text = String::from_utf8_lossy(input);
    let (path, query) = match text.split_once('?') {
        Some((path, query)) => (path, Some(query)),
        None => (&*text, None),
    };
    let of_operators = segments(path, Dots::Escaped);
    if let Some(read) = segments(path, Dots::Never) {
        for segment in &read {
            assert!(!matches!(segment.as_ref(), "" | "." | ".."), "{segment:?}");
            assert!(segment.bytes().all(|byte| byte.is_ascii_graphic()), "{segment:?}");
        }
        assert_eq!(of_operators.as_ref(), Some(&read), "an operator's path is another");
        let written: String = read.iter().map(|segment| format!("/{}", encoded(segment))).collect();
        assert_eq!(segments(&written, Dots::Never).as_ref(), Some(&read), "{written}");
    }
    if let Some((app, rest)) = path.trim_start_matches('/').split_once('/')
        && let Some((found, key)) = connection(&format!("/v1/apps/{app}/connections/{rest}"))
    {
        assert_eq!(ConnectionName::parse(key.connection.as_str()).as_ref(), Ok(&key.connection));
        let written = found.replace("{app}", &encoded(key.app.as_str()));
        let written = written.replace("{connection}", &encoded(key.connection.as_str()));
        assert_eq!(connection(&written), Some((found, key)), "{written}");
    }
    let _read = Asked::<LocalApi>::read(path, query);
    for segment in of_operators.iter().flatten() {
        assert!(!segment.is_empty() && segment.bytes().all(|byte| byte.is_ascii_graphic()), "{segment:?}");
    }
    if let Ok(pairs) = Pairs::read(query.unwrap_or_default().as_bytes()) {
        let read = pairs.sorted();
        assert!(read.len() <= MOST_PARAMETERS, "{}", read.len());
        assert!(read.iter().map(|(name, value)| name.len() + value.len()).sum::<usize>() <= 3 * text.len());
        assert!(read.windows(2).all(|two| two[0].0 != two[1].0), "one stands twice");
        let written = form_urlencoded::Serializer::new(String::new()).extend_pairs(&read).finish();
        let again = Pairs::read(written.as_bytes()).expect("they were read before");
        assert_eq!(again.sorted(), read, "{written}");
        if let Some((name, _)) = read.first() {
            let twice = format!("{written}&{}=x", encoded(name));
            assert!(Pairs::read(twice.as_bytes()).is_err(), "{twice}");
        }
        if let Ok(body) = TokenBody::of_query(&pairs) {
            assert!(body.claims.is_none() && body.rejected.is_none(), "a query carries no report");
        }
    }
}

/// The path of the table and the connection that it names.
fn connection(path: &str) -> Option<(&'static str, ConnectionKey)> {
    let found = Asked::<LocalApi>::read(path, None).found.ok()?;
    match found.target {
        Target::Connection(key) => Some((found.path, key)),
        _ => None,
    }
}

fn encoded(text: &str) -> String {
    utf8_percent_encode(text, NON_ALPHANUMERIC).to_string()
}

/// Panics if a body is taken that names what no name can be, or claims that are read in another way when they
/// are passed on; or if a refusal repeats what came.
pub fn a_body_asks_for_what_can_be(input: &[u8]) {
    let bytes = Bytes::copy_from_slice(input);
    if let Ok(body) = kept_to_itself(TokenBody::read(&bytes))
        && let Some(claims) = body.claims
    {
        let claims = claims.get();
        assert!(claims.len() <= 8 * 1024, "{}", claims.len());
        let object: Value = serde_json::from_str(claims).expect("it was read");
        assert!(object.is_object(), "{claims}");
        let again = Bytes::from(json!({ "claims": claims }).to_string());
        let again = TokenBody::read(&again).ok().and_then(|body| body.claims);
        assert_eq!(
            again.as_deref().map(RawValue::get),
            Some(claims),
            "it was taken as an object, and not as its text"
        );
    }
    if let Ok((key, _)) = kept_to_itself(body::new_session(bytes.clone())) {
        assert_eq!(AppName::parse(key.app.as_str()).as_ref(), Ok(&key.app));
        assert_eq!(ConnectionName::parse(key.connection.as_str()).as_ref(), Ok(&key.connection));
    }
    if let Ok(consent) = kept_to_itself(body::new_admin_consent(bytes.clone())) {
        assert_eq!(AppName::parse(consent.app.as_str()).as_ref(), Ok(&consent.app));
    }
    if let Ok(Confirmation::Account(account)) = kept_to_itself(body::confirmation(bytes.clone())) {
        assert!(!format!("{account:?}").contains("\"\""), "{account:?}");
    }
    if let Ok(key) = kept_to_itself(body::sealing_key(bytes.clone())) {
        assert!((1..=64).contains(&key.len()) && key.is_ascii());
    }
    let _flag = kept_to_itself(body::paused(bytes.clone()));
    if let Ok(revocation) = kept_to_itself(body::revocation(bytes, Timestamp::from_unix_seconds(0)))
        && let Some(app) = revocation.revocation.app
    {
        assert_eq!(AppName::parse(app.as_str()).as_ref(), Ok(&app), "no app can be called so");
    }
}

/// Panics if a request has another's credential than the one header that it brought. Each line is one
/// `Authorization`.
pub fn a_credential_is_the_one_that_was_brought(input: &[u8]) {
    let mut headers = HeaderMap::new();
    for line in input.split(|byte| *byte == b'\n') {
        if let Ok(value) = HeaderValue::from_bytes(line) {
            headers.append(header::AUTHORIZATION, value);
        }
    }
    let origin = Origin::Unix { uid: 1001, gid: 1001, pid: None };
    let peer = Peer { origin, tls: false, certificate: PeerCertificate::None };
    match super::credential(&headers, &peer) {
        // A header decides alone.
        Some(Credential::UnixPeer { uid }) => assert!(headers.is_empty() && uid == 1001),
        Some(Credential::ApiKey(text) | Credential::Jwt(text) | Credential::Handle(text)) => {
            let value = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
            let value = value.expect("it was read");
            assert_eq!(headers.len(), 1, "one of two decides");
            assert!(value.ends_with(text) && value.to_ascii_lowercase().starts_with("bearer "), "{value}");
        }
        Some(Credential::Certificate(_) | Credential::DistrustedCertificate | Credential::None) => {
            panic!("a Unix peer is somebody, and has no certificate")
        }
        None => assert!(!headers.is_empty(), "a peer without a header is refused"),
    }
}

/// A problem is short, whatever came.
fn kept_to_itself<T>(read: Result<T, Problem>) -> Result<T, ()> {
    read.map_err(|problem| {
        let text = serde_json::to_string(&problem).expect("a problem is JSON");
        assert!(text.len() < 1024, "{text}");
    })
}
