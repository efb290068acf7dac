//! Possible answers of a proxy, over real sockets, and the conclusions from them.

use std::sync::Arc;
use std::time::Duration;

use http::HeaderMap;
use zeroize::Zeroizing;

use super::http::{HttpClient, HttpFault};
use super::testing::{ManualClock, Reply, Server};
use super::url::CheckedUrl;
use crate::domain::proxy::{Proxy, Routes};
use crate::outbound::Outbound;
use crate::outbound::Roots;

const CA: &str = include_str!("../../tests/data/authority/keys/tls-ca.pem");

/// Makes a client whose only way out is the proxy at this port.
fn client(port: u16, tls: bool, login: Option<(&str, &str)>) -> HttpClient {
    let proxy = Proxy { tls, host: "127.0.0.1".into(), port, named_by: "a test".into() };
    let routes = Routes { https: Some(proxy.clone()), http: Some(proxy), exceptions: Vec::new() };
    let roots = Roots::Only(CA.to_owned());
    let outbound = Arc::new(Outbound::new(routes, login, roots.clone()));
    HttpClient::new("login.example", &roots, &outbound, true, ManualClock::new()).expect("a client")
}

async fn failure(client: &HttpClient) -> (HttpFault, String) {
    let url = CheckedUrl::parse("https://login.example/token", false).expect("a URL");
    let form = Zeroizing::new("client_secret=canary".to_owned());
    let failed = client.post(&url, HeaderMap::new(), form, Duration::from_millis(700)).await.err();
    let failed = failed.expect("a failure");
    (failed.fault, failed.cause)
}

fn raw(answer: &str) -> Reply {
    Reply::Raw(answer.as_bytes().to_vec())
}

#[tokio::test]
async fn a_proxy_s_faults_are_told_as_its_own_and_nothing_was_sent() {
    let rows = [
        ("HTTP/1.1 407 X\r\ncontent-length: 0\r\n\r\n", "the proxy wants a login (407)"),
        ("HTTP/1.1 403 X\r\ncontent-length: 3\r\n\r\nno!", "the proxy forbids the way there (403)"),
        ("HTTP/1.1 502 X\r\n\r\n<html>", "the proxy did not get through to the host (502"),
        ("HTTP/1.0 504 X\r\n\r\n", "the proxy did not get through to the host (504"),
        ("HTTP/1.1 405 X\r\ncontent-length: 0\r\n\r\n", "the proxy answered CONNECT with 405"),
        (
            "HTTP/1.1 301 X\r\nlocation: http://x/\r\ncontent-length: 0\r\n\r\n",
            "the proxy answered CONNECT with 301",
        ),
        ("HTTP/1.1 200 X\r\n\r\n\x16\x03\x03", "the proxy sent bytes of its own into the tunnel"),
        ("SSH-2.0-x\r\n", "the proxy broke off"),
        ("", "the proxy broke off"),
    ];
    for (answer, expected) in rows {
        let server = Server::start(move |_| raw(answer));
        let (fault, cause) = failure(&client(server.address.port(), false, None)).await;
        assert_eq!(fault, HttpFault::NotSent, "{answer:?}: {cause}");
        assert!(cause.contains(expected), "{answer:?}: {cause}");
        let named = format!("calling login.example through the proxy {} (a test): ", server.address);
        assert!(cause.starts_with(&named), "{cause}");
        let seen = server.seen();
        assert!(
            seen.iter().all(|seen| seen.method == "CONNECT" && seen.path == "login.example:443"),
            "{seen:?}"
        );
        assert_eq!(seen[0].header("host"), Some("login.example:443"));
        assert_eq!(seen[0].header("proxy-authorization"), None);
    }
}

#[tokio::test]
async fn a_proxy_that_hangs_is_named() {
    let server = Server::start(|_| Reply::Hang);
    let (fault, cause) = failure(&client(server.address.port(), false, None)).await;
    assert_eq!(fault, HttpFault::NotSent, "{cause}");
    let expected =
        format!("login.example through the proxy {} (a test) did not answer within 700 ms", server.address);
    assert_eq!(cause, expected);
}

#[tokio::test]
async fn a_login_is_shown_to_the_proxy_and_to_nobody_else() {
    let server = Server::start(|_| raw("HTTP/1.1 407 X\r\ncontent-length: 0\r\n\r\n"));
    let client = client(server.address.port(), false, Some(("tokenward", "s3:cret")));
    let (_, cause) = failure(&client).await;
    assert!(cause.contains("the proxy refuses the login of [outbound] proxy_username (407)"), "{cause}");
    assert_eq!(server.seen()[0].header("proxy-authorization"), Some("Basic dG9rZW53YXJkOnMzOmNyZXQ="));
    assert!(!cause.contains("s3"), "{cause}");
    let outbound = Outbound::new(Routes::default(), Some(("tokenward", "s3:cret")), Roots::System);
    let shown = format!("{outbound:?}");
    assert!(!shown.contains("s3") && !shown.contains("dG9r"), "{shown}");
}

#[tokio::test]
async fn tls_is_spoken_to_the_proxy_too_where_its_url_says_so() {
    let server = Server::start_tls(|_| raw("HTTP/1.1 403 X\r\ncontent-length: 0\r\n\r\n"));
    let (_, cause) = failure(&client(server.address.port(), true, None)).await;
    assert!(cause.contains("the proxy forbids the way there (403)"), "{cause}");
    // A proxy with an untrusted certificate is sent nothing.
    let proxy =
        Proxy { tls: true, host: "127.0.0.1".into(), port: server.address.port(), named_by: "a test".into() };
    let routes = Routes { https: Some(proxy), http: None, exceptions: Vec::new() };
    let other = include_str!("../../tests/data/authority/keys/app-rsa.pem").to_owned();
    let outbound = Arc::new(Outbound::new(routes, Some(("u", "p")), Roots::Only(other)));
    let roots = Roots::Only(CA.to_owned());
    let strict =
        HttpClient::new("login.example", &roots, &outbound, true, ManualClock::new()).expect("a client");
    let (fault, cause) = failure(&strict).await;
    assert_eq!(fault, HttpFault::NotSent);
    assert!(cause.contains("the proxy cannot be reached: invalid peer certificate"), "{cause}");
    assert_eq!(server.seen().len(), 1);
    // A proxy without TLS that is configured with TLS does not work.
    let plain = Server::start(|_| raw("HTTP/1.1 403 X\r\n\r\n"));
    let (_, cause) = failure(&client(plain.address.port(), true, None)).await;
    assert!(cause.contains("the proxy cannot be reached") || cause.contains("did not answer"), "{cause}");
}
