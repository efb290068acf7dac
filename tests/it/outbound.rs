//! The way out: all outgoing requests use the forward proxy, and its faults are reported as its own.

use parking_lot::Mutex;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use base64::Engine;
use entra_emulator::Endpoint;
use http::Method;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

use crate::attacks_api::sha256;
use crate::http_client::{Browser, exchange};
use crate::world::{ALICE, Plan, World, free_port, text, write_secret};

const PASSWORD: &str = "canary-proxy-password-3fQ:~";

/// What a proxy saw, and whom it lets through.
#[derive(Default)]
struct Seen {
    /// The destinations that it was asked for, in order.
    targets: Vec<String>,
    /// The `Proxy-Authorization` that it wants.
    login: Option<String>,
}

/// A forward proxy that knows CONNECT and nothing else.
struct Proxy {
    port: u16,
    seen: Arc<Mutex<Seen>>,
    listens: JoinHandle<()>,
}

impl Proxy {
    async fn start() -> Proxy {
        Proxy::on(free_port(), Arc::default()).await
    }

    async fn on(port: u16, seen: Arc<Mutex<Seen>>) -> Proxy {
        let listener = TcpListener::bind(("127.0.0.1", port)).await.expect("a port");
        let of_all = seen.clone();
        let listens = tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.expect("a connection");
                tokio::spawn(carry(stream, of_all.clone()));
            }
        });
        Proxy { port, seen, listens }
    }

    /// Refuses connections from now on.
    async fn stop(self) -> (u16, Arc<Mutex<Seen>>) {
        self.listens.abort();
        let _ = self.listens.await;
        (self.port, self.seen)
    }

    fn section(&self) -> String {
        format!("[outbound]\nproxy = \"http://127.0.0.1:{}\"\n", self.port)
    }

    fn targets(&self) -> Vec<String> {
        self.seen.lock().targets.clone()
    }
}

async fn carry(mut stream: TcpStream, seen: Arc<Mutex<Seen>>) -> io::Result<()> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await?);
    }
    let head = String::from_utf8_lossy(&head).into_owned();
    let target = head.strip_prefix("CONNECT ").and_then(|rest| rest.split(' ').next()).unwrap_or_default();
    let login = head.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("proxy-authorization").then(|| value.trim().to_owned())
    });
    let is_let_through = {
        let mut seen = seen.lock();
        seen.targets.push(target.to_owned());
        seen.login.is_none() || seen.login == login
    };
    if !is_let_through {
        let refused = b"HTTP/1.1 407 Proxy Authentication Required\r\nproxy-authenticate: Basic \
            realm=\"p\"\r\ncontent-length: 4\r\n\r\nno!\n";
        return stream.write_all(refused).await;
    }
    let mut onward = TcpStream::connect(target).await?;
    stream.write_all(b"HTTP/1.1 200 Connection established\r\n\r\n").await?;
    tokio::io::copy_bidirectional(&mut stream, &mut onward).await.map(|_| ())
}

/// What is asked of the authority by the daemon and not by the browser.
fn asked(world: &World) -> usize {
    let count = |endpoint| world.entra.ledger_count(endpoint, None);
    count(Endpoint::Discovery) + count(Endpoint::Jwks) + count(Endpoint::Token)
}

/// Reports a token as refused, so that the grant has to be used.
async fn renew(world: &World, token: &str) -> crate::http_client::Answer {
    let body = json!({ "rejected": sha256(token) });
    world.api(Method::POST, "/v1/apps/outlook/connections/alice/token", body).await
}

/// Renews until it works.
async fn renewed(world: &World, token: &str) -> String {
    let begun = Instant::now();
    loop {
        let answer = renew(world, token).await;
        if answer.status == 200 {
            return text(&answer.json(), "access_token").to_owned();
        }
        assert!(begun.elapsed() < Duration::from_secs(30), "{}\n{}", answer.text(), world.daemon.log());
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

async fn explained(world: &World) -> String {
    let path = "/v1/apps/outlook/connections/alice/explain";
    world.api(Method::GET, path, serde_json::Value::Null).await.text()
}

async fn tokenward(world: &World, arguments: &[&str]) -> (Option<i32>, String) {
    run(world, arguments, &[]).await
}

async fn run(world: &World, arguments: &[&str], environment: &[(&str, &str)]) -> (Option<i32>, String) {
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_tokenward"));
    for name in ["HTTPS_PROXY", "HTTP_PROXY", "NO_PROXY"] {
        command.env_remove(name).env_remove(name.to_ascii_lowercase());
    }
    command.envs(environment.iter().copied());
    command.args(arguments).arg("--config").arg(world.folder.path().join("tokenward.toml"));
    let ended = tokio::task::spawn_blocking(move || command.output()).await.expect("run").expect("it ends");
    let said = [ended.stdout, ended.stderr].concat();
    (ended.status.code(), String::from_utf8_lossy(&said).into_owned())
}

fn edit(world: &World, from: &str, to: &str) {
    let path = world.folder.path().join("tokenward.toml");
    let config = std::fs::read_to_string(&path).expect("the configuration");
    assert!(config.contains(from), "{config}");
    std::fs::write(path, config.replace(from, to)).expect("written");
}

/// Connects a user at an authority that speaks TLS, which the tests' browser does not.
pub(crate) async fn connect_over_tls(world: &World, connection: &str, user: &str) {
    world.entra.sign_in_as(user);
    let session = json!({ "app": "outlook", "connection": connection, "login_hint": user });
    let session = world.start_session(session).await;
    let mut browser = Browser::default();
    let pressed = browser.post(text(&session, "connect_url"), "").await.expect("the button");
    let uri: http::Uri = pressed.location().parse().expect("a URL");
    let mut roots = rustls::RootCertStore::empty();
    let ca = world.entra.ca_pem().expect("an authority");
    roots.add(CertificateDer::from_pem_slice(ca.as_bytes()).expect("PEM")).expect("a root");
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_root_certificates(roots)
        .with_no_client_auth();
    let (host, port) = (uri.host().expect("a host").to_owned(), uri.port_u16().expect("a port"));
    let stream = TcpStream::connect((host.as_str(), port)).await.expect("the authority");
    let name = ServerName::try_from(host.clone()).expect("a name");
    let stream = tokio_rustls::TlsConnector::from(Arc::new(config)).connect(name, stream).await.expect("TLS");
    let host = format!("{host}:{port}");
    let back = exchange(stream, Method::GET, &uri, &host, &[], bytes::Bytes::new()).await.expect("an answer");
    let page = browser.get(&back.location()).await.expect("the callback");
    let id = text(&session, "id");
    let state = world.session(id).await;
    assert_eq!(state["state"], "awaiting_confirmation", "{} {}", page.text(), world.daemon.log());
    let account = json!({ "account": { "tid": state["account"]["tid"], "oid": state["account"]["oid"] } });
    let confirmed = world.api(Method::POST, &format!("/v1/connect-sessions/{id}/confirm"), account).await;
    assert_eq!(confirmed.status, 200, "{}", confirmed.text());
}

#[tokio::test]
async fn everything_leaves_through_the_proxy_and_what_no_proxy_names_does_not() {
    let proxy = Proxy::start().await;
    // Without replays each request has a connection of its own: as many tunnels as requests.
    let plan = Plan { https: true, ..Plan::default() }
        .app_lines("authority_ca = \"ca.pem\"")
        .app_lines("refresh_token_reuse = \"never\"")
        .sections(&proxy.section());
    let world = plan.start().await;
    connect_over_tls(&world, "alice", ALICE).await;
    let token = world.access_token("alice").await;
    let token = renewed(&world, &token).await;
    let through = proxy.targets();
    assert!(through.len() >= 4, "document, keys, code and refresh: {through:?}");
    assert_eq!(through.len(), asked(&world), "{through:?}\n{}", world.daemon.log());
    let authority = world.entra.authority("common");
    let host = authority.trim_start_matches("https://").split('/').next().unwrap_or_default().to_owned();
    assert!(through.iter().all(|target| *target == host), "{through:?} and {host}");
    let way = format!("through the proxy 127.0.0.1:{} (outbound.proxy)", proxy.port);
    assert!(world.daemon.log().contains(&way), "{}", world.daemon.log());
    let (code, said) = tokenward(&world, &["check"]).await;
    assert!(
        code == Some(0) && said.contains(&format!("outlook: the authority localhost is reached {way}")),
        "{said}"
    );

    edit(&world, "[outbound]\n", "[outbound]\nno_proxy = [\"127.0.0.0/8\", \"localhost\"]\n");
    let (code, said) = tokenward(&world, &["reload"]).await;
    assert!(code == Some(0) && said.contains("outbound"), "{said}");
    let before = asked(&world);
    renewed(&world, &token).await;
    assert!(asked(&world) > before);
    assert_eq!(proxy.targets().len(), through.len(), "they went directly");
    let (code, said) = tokenward(&world, &["check"]).await;
    assert!(code == Some(0) && said.contains("is reached directly, as no_proxy says"), "{said}");
}

/// Each request makes a connection of its own, so that one from before hides nothing.
fn one_by_one(proxy: &Proxy) -> Plan {
    Plan::default().app_lines("refresh_token_reuse = \"never\"").sections(&proxy.section())
}

#[tokio::test]
async fn a_proxy_that_is_down_is_named_and_nothing_goes_around_it() {
    let proxy = Proxy::start().await;
    let world = one_by_one(&proxy).start().await;
    world.connect("alice", ALICE).await;
    let token = world.access_token("alice").await;
    let (port, seen) = proxy.stop().await;
    let before = asked(&world);
    let answer = renew(&world, &token).await;
    assert_eq!((answer.status.as_u16(), &answer.json()["code"]), (503, &json!("authority_unavailable")));
    assert_eq!(world.access_token("alice").await, token, "others have what they had");
    let explained = explained(&world).await;
    assert!(
        explained.contains(&format!("through the proxy 127.0.0.1:{port} (outbound.proxy)")),
        "{explained}"
    );
    assert!(explained.contains("the proxy cannot be reached"), "{explained}");
    assert_eq!(asked(&world), before);
    let _proxy = Proxy::on(port, seen).await;
    assert_ne!(renewed(&world, &token).await, token);
}

#[tokio::test]
async fn a_login_at_the_proxy_is_a_file_and_never_seen() {
    let proxy = Proxy::start().await;
    let world = one_by_one(&proxy).file("proxy-password", "canary-wrong").start().await;
    world.connect("alice", ALICE).await;
    let token = world.access_token("alice").await;
    let login = base64::engine::general_purpose::STANDARD.encode(format!("tokenward:{PASSWORD}"));
    proxy.seen.lock().login = Some(format!("Basic {login}"));
    let before = asked(&world);
    assert_eq!(renew(&world, &token).await.status, 503);
    let wanted = explained(&world).await;
    assert!(wanted.contains("the proxy wants a login (407): set proxy_username"), "{wanted}");

    let lines = "[outbound]\nproxy_username = \"tokenward\"\nproxy_password_file = \"proxy-password\"\n";
    edit(&world, "[outbound]\n", lines);
    let (code, said) = tokenward(&world, &["reload"]).await;
    assert_eq!(code, Some(0), "{said}");
    let refused = refused_until(&world, &token, "the proxy refuses the login").await;
    assert_eq!(asked(&world), before);

    // Only the file changes: it is looked at by itself.
    write_secret(&world.folder.path().join("proxy-password"), PASSWORD);
    renewed(&world, &token).await;
    for shown in [&world.daemon.log(), &wanted, &refused, &said, &world.metrics().await] {
        for secret in [PASSWORD, "canary-wrong", &login] {
            assert!(!shown.contains(secret), "{secret} in {shown}");
        }
    }
}

/// Renews until it is refused for this reason, and gives what `explain` says.
async fn refused_until(world: &World, token: &str, reason: &str) -> String {
    let begun = Instant::now();
    loop {
        let answer = renew(world, token).await;
        assert_eq!(answer.status, 503, "{}", answer.text());
        let explained = explained(world).await;
        if explained.contains(reason) {
            return explained;
        }
        assert!(begun.elapsed() < Duration::from_secs(30), "{explained}\n{}", world.daemon.log());
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

#[tokio::test]
async fn the_environment_names_the_proxy_and_no_password() {
    let proxy = Proxy::start().await;
    let address = format!("http://127.0.0.1:{}", proxy.port);
    let environment = format!("HTTP_PROXY={address}\nHTTPS_PROXY=http://127.0.0.1:1\n");
    let world = Plan::default().file("environment", &environment).start().await;
    world.connect("alice", ALICE).await;
    assert!(!proxy.targets().is_empty());
    let way = format!("through the proxy 127.0.0.1:{} (HTTP_PROXY)", proxy.port);
    assert!(world.daemon.log().contains(&way), "{}", world.daemon.log());

    let rows = [
        (vec![("http_proxy", address.as_str())], Some(0), "(http_proxy)"),
        (
            vec![("HTTP_PROXY", &address), ("NO_PROXY", "localhost,127.0.0.1")],
            Some(0),
            "reached directly, as no_proxy says",
        ),
        (vec![("HTTPS_PROXY", &address)], Some(0), "reached directly\n"),
        (
            vec![("HTTP_PROXY", "http://u:canary@127.0.0.1:1")],
            Some(2),
            "environment HTTP_PROXY: must not hold a user",
        ),
    ];
    for (environment, code, expected) in rows {
        let (ended, said) = run(&world, &["check"], &environment).await;
        assert!(ended == code && said.contains(expected), "{environment:?}: {said}");
        assert!(!said.contains("canary"), "{said}");
    }
}
