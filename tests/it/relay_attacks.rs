//! The relay under attack, to the byte: requests that mean to be two, or to carry a credential further, and
//! answers that mean to be two. Both ends are raw sockets.

use std::sync::Arc;
use std::time::Duration;

use http::Method;
use parking_lot::Mutex;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;

use crate::http_client::request;
use crate::relay::{RULES, plan, with_resource};
use crate::resource::Reply;
use crate::world::{ALICE, BOB, PATIENCE, World, text};

const HERE: &str = "/v1/apps/outlook/connections/user-1/relay/graph";
/// How long a daemon is listened to that keeps its connection open, or waits for more of a request. (What
/// comes of a request later is looked at with the next one.)
const QUIET: (Duration, Duration) = (Duration::from_secs(2), Duration::from_millis(150));
/// And one that closes.
const TO_ITS_END: (Duration, Duration) = (PATIENCE, PATIENCE);

/// A resource that keeps what comes to the byte, by connection, and answers each head with the same bytes.
#[derive(Clone)]
struct Wire {
    url: String,
    came: Arc<Mutex<Vec<Vec<u8>>>>,
    answer: Arc<Mutex<Vec<u8>>>,
}

const FINE: &str = "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 4\r\n\r\nfine";

impl Wire {
    async fn start() -> Wire {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let url = format!("http://{}", listener.local_addr().expect("an address"));
        let answer = Arc::new(Mutex::new(FINE.as_bytes().to_vec()));
        let wire = Wire { url, came: Arc::default(), answer };
        let served = wire.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let at = {
                    let mut came = served.came.lock();
                    came.push(Vec::new());
                    came.len() - 1
                };
                tokio::spawn(served.clone().serve(stream, at));
            }
        });
        wire
    }

    async fn serve(self, mut stream: TcpStream, at: usize) {
        let (mut heads, mut buffer) = (0, [0; 4096]);
        while let Ok(read @ 1..) = stream.read(&mut buffer).await {
            let now = {
                let mut came = self.came.lock();
                came[at].extend_from_slice(&buffer[..read]);
                came[at].windows(4).filter(|four| four == b"\r\n\r\n").count()
            };
            // (A body with an empty line in it has another answer. Nobody takes that for one of its own.)
            while heads < now {
                heads += 1;
                let answer = self.answer.lock().clone();
                if stream.write_all(&answer).await.is_err() {
                    return;
                }
            }
        }
    }

    fn answers(&self, answer: &str) {
        *self.answer.lock() = answer.as_bytes().to_vec();
    }

    fn take(&self) -> Vec<String> {
        let came = self.came.lock().iter_mut().map(std::mem::take).collect::<Vec<_>>();
        came.iter().filter(|came| !came.is_empty()).map(|came| printable(came)).collect()
    }
}

fn printable(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| char::from(*byte)).collect()
}

async fn world(wire: &Wire) -> World {
    let world = plan(&wire.url, RULES).start().await;
    world.connect("user-1", ALICE).await;
    world
}

/// Sends bytes, and returns what comes until the daemon closes or is quiet: for so long before the first
/// bytes, and for so long behind them.
async fn raw(world: &World, bytes: &[u8], (first, next): (Duration, Duration)) -> String {
    let address = world.daemon.local.trim_start_matches("http://");
    let mut stream = TcpStream::connect(address).await.expect("the daemon");
    // (It may have closed already.)
    let _ = stream.write_all(bytes).await;
    let (mut answer, mut buffer) = (Vec::new(), [0; 4096]);
    loop {
        let wait = if answer.is_empty() { first } else { next };
        let Ok(Ok(read @ 1..)) = timeout(wait, stream.read(&mut buffer)).await else { break };
        answer.extend_from_slice(&buffer[..read]);
    }
    printable(&answer)
}

/// The lines of a head, as any reader could cut them.
fn lines(head: &str) -> impl Iterator<Item = &str> {
    head.split(['\r', '\n']).filter(|line| !line.is_empty())
}

/// Whatever a caller sends, what comes to the resource is one request that was judged, with the connection's
/// token and nothing else of anybody's.
#[tokio::test]
async fn no_request_is_two_and_none_carries_another_credential() {
    let wire = Wire::start().await;
    let world = world(&wire).await;
    let (key, token) = (world.reader_key.clone(), world.access_token("user-1").await);
    let smuggled = "GET /v1.0/me/contacts HTTP/1.1\r\nHost: a\r\nX-Smuggled: 1\r\n\r\n";
    let length = smuggled.len();
    // Fields and a body behind a request that is allowed.
    let behind: Vec<(String, String)> = [
        // Two lengths, or none that anybody reads alike.
        (format!("Content-Length: 0\r\nContent-Length: {length}"), smuggled),
        (format!("Content-Length: {length}\r\nTransfer-Encoding: chunked"), smuggled),
        (format!("Transfer-Encoding: chunked\r\nContent-Length: {length}"), "0\r\n\r\n"),
        ("Transfer-Encoding: xchunked".to_owned(), smuggled),
        ("Transfer-Encoding: chunked, identity".to_owned(), smuggled),
        ("Transfer-Encoding: identity\r\nTransfer-Encoding: chunked".to_owned(), smuggled),
        ("Transfer-Encoding : chunked".to_owned(), smuggled),
        ("Transfer-Encoding:\u{b}chunked".to_owned(), smuggled),
        ("Transfer_Encoding: chunked".to_owned(), smuggled),
        ("X: y\r\n Transfer-Encoding: chunked".to_owned(), smuggled),
        ("Content-Length: +0".to_owned(), smuggled),
        ("Content-Length: 0x0".to_owned(), smuggled),
        ("Content-Length: 0, 0".to_owned(), smuggled),
        ("Content-Length: -1".to_owned(), smuggled),
        ("Content-Length : 0".to_owned(), smuggled),
        ("Content-Length: 18446744073709551617".to_owned(), smuggled),
        ("Expect: 100-continue\r\nContent-Length: 0".to_owned(), smuggled),
        // Chunks, and what may stand behind them.
        ("Transfer-Encoding: chunked".to_owned(), "0;a=\nb\r\n\r\n"),
        ("Transfer-Encoding: chunked".to_owned(), "-1\r\n\r\n"),
        ("Transfer-Encoding: chunked".to_owned(), "ffffffffffffffff1\r\nx\r\n0\r\n\r\n"),
        ("Transfer-Encoding: chunked".to_owned(), "1\r\nxy\r\n0\r\n\r\n"),
        ("Transfer-Encoding: chunked".to_owned(), "0\r\nX-Smuggled: 1\r\nAuthorization: Bearer x\r\n\r\n"),
        ("Trailer: Authorization\r\nTransfer-Encoding: chunked".to_owned(), "0\r\nAuthorization: x\r\n\r\n"),
        // Names and values with more in them.
        ("X-A: b\rX-Smuggled: 1".to_owned(), ""),
        ("X-A: b\nX-Smuggled: 1".to_owned(), ""),
        ("X-A: b\r\n X-Smuggled: 1".to_owned(), ""),
        ("X-A: b\0X-Smuggled: 1".to_owned(), ""),
        ("X-A\0: b".to_owned(), ""),
        ("X A: b".to_owned(), ""),
        (": b".to_owned(), ""),
        ("X-Smuggled".to_owned(), ""),
        // A connection that names fields which are not its own.
        ("Connection: authorization, host, content-length, x-a\r\nX-A: 1".to_owned(), ""),
        ("Connection: close, X-Smuggled\r\nX-Smuggled: 1".to_owned(), ""),
        ("Proxy-Connection: X-Smuggled\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk".to_owned(), ""),
        ("Upgrade: websocket\r\nConnection: upgrade".to_owned(), ""),
        // Another way, another method, somebody else.
        ("Host: evil.example".to_owned(), ""),
        ("X-Forwarded-Host: evil.example\r\nForwarded: host=evil.example".to_owned(), ""),
        ("X-HTTP-Method-Override: DELETE\r\nX_HTTP_Method: DELETE\r\nX-Method: DELETE".to_owned(), ""),
        ("X-Original-URL: /v1.0/me/contacts\r\nX-Rewrite-URL: /v1.0/me/contacts".to_owned(), ""),
        ("CF-Connecting-IP: 127.0.0.1\r\nX-Remote-User: root\r\nX-MS-CLIENT-PRINCIPAL: e30=".to_owned(), ""),
        // The caller's own, in more than one place, and another one's.
        (format!("Cookie: key={key}\r\nCookie2: {key}\r\nProxy-Authorization: Bearer {key}"), ""),
        (format!("X-Identity-Header: {key}\r\nSecret: {key}\r\nX-Vault-Token: {key}"), ""),
        (format!("Authorization: Bearer {key}"), ""),
        ("Authorization: Bearer eyJhbGciOiJub25lIn0.e30.".to_owned(), ""),
        (format!("authorization:\tBearer {key}\r\nX-Identity-Header: {key}"), ""),
    ]
    .into_iter()
    .map(|(fields, body)| (fields, body.to_owned()))
    .collect();
    let whole = |fields: &str, body: &str| {
        format!(
            "GET {HERE}/v1.0/me/messages HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {key}\r\n{fields}\r\n\r\n{body}"
        )
    };
    let mut requests: Vec<String> = behind.iter().map(|(fields, body)| whole(fields, body)).collect();
    // Lines that mean more than one thing.
    for line in [
        format!("GET {HERE}/v1.0/me/messages%20HTTP/1.1%0d%0aX-Smuggled:%201 HTTP/1.1"),
        format!("GET {HERE}/v1.0/me/messages%0aX-Smuggled:1 HTTP/1.1"),
        format!("GET {HERE}/v1.0/me/messages?a=b%0d%0aX-Smuggled:%201 HTTP/1.1"),
        format!("GET {HERE}/v1.0/me/messages?a=b\rX-Smuggled: 1 HTTP/1.1"),
        format!("GET {HERE}/v1.0/me/messages?key={key} HTTP/1.1"),
        format!("GET {HERE}/v1.0/me/messages/{key} HTTP/1.1"),
        format!("GET {HERE}/v1.0/me/messages?_method=DELETE HTTP/1.1"),
        format!("GET http://evil.example{HERE}/v1.0/me/messages HTTP/1.1"),
        format!("GET  {HERE}/v1.0/me/messages HTTP/1.1"),
        format!("GET\t{HERE}/v1.0/me/messages\tHTTP/1.1"),
        format!("GET {HERE}/v1.0/me/messages HTTP/1.1 HTTP/1.1"),
        format!("GET {HERE}/v1.0/me/messages HTTP/1.2"),
        format!("get {HERE}/v1.0/me/messages HTTP/1.1"),
        format!("GET {HERE}/v1.0/me/messages"),
        format!("CONNECT {HERE}/v1.0/me/messages HTTP/1.1"),
        format!("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\nGET {HERE}/v1.0/me/messages HTTP/1.1"),
    ] {
        requests.push(format!("{line}\r\nHost: a\r\nAuthorization: Bearer {key}\r\n\r\n"));
    }
    wire.take();
    let mut relayed = 0;
    for sent in &requests {
        let answer = raw(&world, sent.as_bytes(), QUIET).await;
        for came in wire.take() {
            relayed += 1;
            let (head, body) = came.split_once("\r\n\r\n").unwrap_or((&came, ""));
            assert!(head.starts_with("GET /v1.0/me/messages HTTP/1.1\r\n"), "{sent:?}\n{came:?}");
            let names: Vec<String> = lines(head)
                .skip(1)
                .map(|line| line.split(':').next().unwrap_or_default().to_lowercase())
                .collect();
            let of = |name: &str| names.iter().filter(|one| *one == name).count();
            assert_eq!((of("authorization"), of("host")), (1, 1), "{sent:?}\n{came:?}");
            let known = [
                "authorization",
                "host",
                "accept-encoding",
                "x",
                "x-a",
                "content-length",
                "transfer-encoding",
            ];
            assert!(names.iter().all(|name| known.contains(&name.as_str())), "{sent:?}\n{came:?}");
            assert!(head.contains(&format!("Bearer {token}")), "{sent:?}\n{came:?}");
            assert!(head.contains(wire.url.trim_start_matches("http://")), "{sent:?}\n{came:?}");
            assert!(!came.contains("twk_") && !came.contains(&key), "{sent:?}\n{came:?}");
            assert!(!came.to_lowercase().contains("smuggled"), "{sent:?}\n{came:?}");
            // (An empty body may be one of chunks.)
            assert!(["", "0\r\n\r\n"].contains(&body), "{sent:?}\n{came:?}");
        }
        assert!(!answer.contains(&token), "{sent:?}\n{answer:?}");
    }
    assert!(relayed >= 10, "some of them are harmless and pass: {relayed}");
}

/// Whatever a resource answers, the caller gets one answer, or a refusal, and the next request its own.
#[tokio::test]
async fn no_answer_is_two() {
    let wire = Wire::start().await;
    let world = world(&wire).await;
    let second = "HTTP/1.1 200 OK\r\nContent-Length: 8\r\nInjected: 1\r\n\r\nsmuggled";
    let base = &wire.url;
    for answer in [
        "HTTP/1.1 200 OK\r\nX-A: b\r\n Injected: 1\r\nContent-Length: 0\r\n\r\n".to_owned(),
        "HTTP/1.1 200 OK\r\nX-A: b\rInjected: 1\r\nContent-Length: 0\r\n\r\n".to_owned(),
        "HTTP/1.1 200 OK\r\nX-A: b\0Injected: 1\r\nContent-Length: 0\r\n\r\n".to_owned(),
        "HTTP/1.1 200 OK\r\nX A: b\r\nContent-Length: 0\r\n\r\n".to_owned(),
        "HTTP/1.1 200 OK\rInjected: 1\r\nContent-Length: 0\r\n\r\n".to_owned(),
        "HTTP/1.1 200 O\0K\r\nContent-Length: 0\r\n\r\n".to_owned(),
        format!("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok{second}"),
        format!("HTTP/1.1 204 No Content\r\n\r\n{second}"),
        format!("HTTP/1.1 204 No Content\r\nContent-Length: {}\r\n\r\n{second}", second.len()),
        format!("HTTP/1.1 304 Not Modified\r\nContent-Length: {}\r\n\r\n{second}", second.len()),
        format!("HTTP/1.1 200 OK\r\nContent-Length: 0\r\nContent-Length: {}\r\n\r\n{second}", second.len()),
        format!(
            "HTTP/1.1 200 OK\r\nContent-Length: {}\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n{second}",
            5
        ),
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\nInjected: 1\r\n\r\n".to_owned(),
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2;Injected: 1\r\nok\r\n0\r\n\r\n".to_owned(),
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\nok\r\n0\r\n\r\n".to_owned(),
        "HTTP/1.1 200 OK\r\nConnection: Injected\r\nInjected: 1\r\nContent-Length: 2\r\n\r\nok".to_owned(),
        "HTTP/1.1 200 OK\r\nKeep-Alive: Injected\r\nSet-Cookie: Injected=1\r\nContent-Length: 2\r\n\r\nok"
            .to_owned(),
        "HTTP/1.1 103 Early Hints\r\nInjected: 1\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
            .to_owned(),
        "HTTP/1.1 100 Continue\r\nInjected: 1\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
            .to_owned(),
        format!("HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n{second}"),
        format!(
            "HTTP/1.1 302 Found\r\nLocation: {base}/v1.0/x%0d%0aInjected:%201\r\nContent-Length: 0\r\n\r\n"
        ),
        format!(
            "HTTP/1.1 302 Found\r\nLocation: {base}/v1.0/x\r\n\tInjected: 1\r\nContent-Length: 0\r\n\r\n"
        ),
        "HTTP/1.1 99 Odd\r\nContent-Length: 0\r\n\r\n".to_owned(),
        "HTTP/9.9 200 OK\r\nContent-Length: 0\r\n\r\n".to_owned(),
        "no HTTP at all\r\n\r\n".to_owned(),
    ] {
        wire.answers(&answer);
        let here = format!(
            "GET {HERE}/v1.0/me/messages HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {}\r\nConnection: \
             close\r\n\r\n",
            world.reader_key
        );
        let got = raw(&world, here.as_bytes(), TO_ITS_END).await;
        let (head, body) =
            got.split_once("\r\n\r\n").unwrap_or_else(|| panic!("{answer:?}: no answer {got:?}"));
        assert!(head.starts_with("HTTP/1.1 "), "{answer:?}\n{got:?}");
        assert_eq!(got.matches("HTTP/1.").count(), 1, "{answer:?}\n{got:?}");
        let is_injected = |line: &str| line.trim_start().to_lowercase().starts_with("injected");
        assert!(!lines(head).any(is_injected), "{answer:?}\n{got:?}");
        assert!(!head.to_lowercase().contains("set-cookie"), "{answer:?}\n{got:?}");
        assert!(!body.contains("smuggled") && !body.contains("Injected"), "{answer:?}\n{got:?}");
        // Nothing of it is left over for anybody.
        wire.answers(FINE);
        let next = raw(&world, here.as_bytes(), TO_ITS_END).await;
        assert!(next.starts_with("HTTP/1.1 200") && next.ends_with("fine"), "after {answer:?}\n{next:?}");
    }
}

/// However many are under way beside each other, and whatever is renewed meanwhile, each has its own token.
#[tokio::test]
async fn no_request_has_another_connections_token() {
    // Each path tells whose it is. The first answer to each asks for another token.
    let refused: Mutex<Vec<String>> = Mutex::default();
    let (world, resource) = with_resource(move |seen| {
        let mut refused = refused.lock();
        match refused.contains(&seen.target) {
            true => Reply::json(200, "{\"responses\":[]}"),
            false => {
                refused.push(seen.target.clone());
                Reply::json(401, "{}")
            }
        }
    })
    .await;
    world.connect("user-2", BOB).await;
    let mut asked = Vec::new();
    for number in 0..40 {
        let user = if number % 2 == 0 { "user-1" } else { "user-2" };
        let url = format!(
            "{}/v1/apps/outlook/connections/{user}/relay/graph/v1.0/files/{user}-{number}",
            world.daemon.local
        );
        let bearer = format!("Bearer {}", world.reader_key);
        asked.push(tokio::spawn(async move {
            request(Method::GET, &url, &[("authorization", &bearer)], "").await.expect("an answer").status
        }));
    }
    for one in asked {
        let status = one.await.expect("no panic");
        assert!(status == 200 || status == 401, "{status}");
    }
    let seen = resource.take();
    assert!(seen.len() > 40, "some are sent once more");
    for one in &seen {
        let token =
            one.header("authorization").and_then(|value| value.strip_prefix("Bearer ")).expect("a token");
        let owner = if one.target.contains("user-1-") { ALICE } else { BOB };
        assert_eq!(owner_of(token), owner, "{}", one.target);
    }
    // Two in one batch are of one connection, whatever they name.
    let batch = json!({ "requests": [
        { "id": "1", "method": "GET", "url": "/files/a" },
        { "id": "2", "method": "GET", "url": "http://other/v1/apps/outlook/connections/user-2/relay/graph/v1.0/files/b" },
    ]});
    let path = "/v1/apps/outlook/connections/user-1/relay/graph/v1.0/$batch";
    let answer = world.api_as(&world.reader_key, Method::POST, path, batch).await;
    let sent: Vec<String> = resource.take().iter().map(|one| printable(&one.body)).collect();
    assert!(
        !sent.is_empty() && sent.iter().all(|body| !body.contains("files/b")),
        "{sent:?} {}",
        answer.text()
    );
}

/// Whose token it is: the emulator's say so.
fn owner_of(token: &str) -> String {
    use base64::Engine as _;
    let claims = token.split('.').nth(1).expect("claims");
    let claims = base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(claims).expect("base64");
    let claims: serde_json::Value = serde_json::from_slice(&claims).expect("JSON");
    text(&claims, "emu_user").to_owned()
}
