//! The relay with many streams: beside each other on one HTTP/2 connection of a caller, and by the hundred in
//! memory that does not grow with their length.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Response, StatusCode};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Empty, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use serde_json::json;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Barrier, Mutex, mpsc};
use tokio::time::timeout;

use crate::http_client::request;
use crate::pki;
use crate::relay::{RULES, plan_with, with_resource};
use crate::resource::{MOST_STREAMS, Reply, Resource};
use crate::world::{ALICE, PATIENCE, World, alone, free_port};

const MIB: usize = 1024 * 1024;
const HERE: &str = "/v1/apps/outlook/connections/user-1/relay/graph";

type Parts = UnsyncBoxBody<Bytes, Infallible>;

/// One HTTP/2 connection of a caller.
struct Line {
    sender: http2::SendRequest<Parts>,
    origin: String,
    bearer: String,
}

impl Line {
    async fn open(world: &World, authority: &pki::Authority, port: u16) -> Line {
        let mut roots = rustls::RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(authority.pem().as_bytes()).expect("PEM")).expect("a CA");
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut tls = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_root_certificates(roots)
            .with_no_client_auth();
        tls.alpn_protocols = vec![b"h2".to_vec()];
        let stream = pki::dial(&tokio_rustls::TlsConnector::from(Arc::new(tls)), port).await.expect("TLS");
        assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
        let (sender, connection) =
            http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.expect("HTTP/2");
        tokio::spawn(connection);
        let bearer = format!("Bearer {}", world.reader_key);
        Line { sender, origin: format!("https://localhost:{port}"), bearer }
    }

    /// Sends a request, and returns its answer once its head has come.
    async fn ask(
        &self,
        method: Method,
        path: &str,
        length: Option<usize>,
        body: Parts,
    ) -> Response<Incoming> {
        let mut request = http::Request::builder()
            .method(method)
            .uri(format!("{}{HERE}{path}", self.origin))
            .header("authorization", &self.bearer);
        if let Some(length) = length {
            request = request.header("content-length", length);
        }
        let mut sender = self.sender.clone();
        let answer = sender.send_request(request.body(body).expect("a request"));
        timeout(PATIENCE, answer).await.expect("in time").expect("an answer")
    }

    async fn get(&self, path: &str) -> Response<Incoming> {
        self.ask(Method::GET, path, None, Empty::new().boxed_unsync()).await
    }
}

async fn whole(answer: Response<Incoming>) -> Bytes {
    timeout(PATIENCE, answer.into_body().collect()).await.expect("in time").expect("whole").to_bytes()
}

/// A body whose parts come from a channel.
fn parts(receiver: mpsc::Receiver<Bytes>) -> Parts {
    let parts = futures_util::stream::unfold(receiver, async |mut receiver| {
        let part = receiver.recv().await?;
        Some((Ok(Frame::data(part)), receiver))
    });
    StreamBody::new(parts).boxed_unsync()
}

#[tokio::test]
async fn a_caller_s_streams_over_http_2_pass_beside_each_other() {
    let authority = pki::Authority::root("listeners", 48);
    let (certificate, port) = (pki::server(&authority), free_port());
    let resource = Resource::start(|_| Reply::json(200, "{}")).await;
    let listener = format!(
        "[[listen.local]]\naddress = \"127.0.0.1:{port}\"\ntls = {{ certificate = \"local.pem\", key = \
         \"local.key\" }}\n"
    );
    let plan = plan_with(&resource.url, "", RULES)
        .sections(&listener)
        .file("local.pem", &certificate.chain)
        .file("local.key", &certificate.key);
    let world = plan.start().await;
    world.connect("user-1", ALICE).await;
    let line = Line::open(&world, &authority, port).await;

    // An answer that nobody takes is held back at its resource, and holds up nobody else.
    let (slow, receiver) = mpsc::channel(1);
    let receiver = parking_lot::Mutex::new(Some(receiver));
    let base = resource.url.clone();
    resource.answer_with(move |seen| match (seen.method.as_str(), seen.target.as_str()) {
        ("GET", "/v1.0/files/slow") => {
            Reply::Stream(200, vec![], receiver.lock().take().expect("one request"))
        }
        ("GET", "/v1.0/files/long") => Reply::Whole(200, vec![], vec![7; 16 * MIB].into()),
        ("DELETE", _) => Reply::Whole(204, vec![], Bytes::new()),
        ("PUT", _) => Reply::json(201, &json!({ "length": seen.length }).to_string()),
        _ => Reply::json(
            200,
            &json!({ "@odata.nextLink": format!("{base}/v1.0/me/messages?$skip=1") }).to_string(),
        ),
    });
    let mut held = line.get("/v1.0/files/slow").await.into_body();
    let part = Bytes::from(vec![1; 64 * 1024]);
    slow.send(Ok(part.clone())).await.expect("it is read");
    held.frame().await.expect("a part").expect("whole");
    let mut sent = 0;
    while let Ok(sending) = timeout(Duration::from_secs(1), slow.send(Ok(part.clone()))).await {
        sending.expect("nobody has given up");
        sent += part.len();
        assert!(sent < 64 * MIB, "it is kept somewhere");
    }

    let long = line.get("/v1.0/files/long").await;
    assert_eq!(long.headers()["content-length"], (16 * MIB).to_string());
    assert_eq!(whole(long).await.len(), 16 * MIB);
    // Uploads, sized and not.
    for length in [Some(3 * MIB), None] {
        let (sender, receiver) = mpsc::channel(1);
        tokio::spawn(async move {
            for _ in 0..48 {
                let _ = sender.send(Bytes::from(vec![9; 64 * 1024])).await;
            }
        });
        resource.take();
        let answer = line.ask(Method::PUT, "/v1.0/upload/1", length, parts(receiver)).await;
        assert_eq!((answer.status(), resource.take()[0].length), (StatusCode::CREATED, 3 * MIB as u64));
        assert_eq!(whole(answer).await, format!("{{\"length\":{}}}", 3 * MIB));
    }
    // Links have the address that the caller came by; an empty answer is empty.
    let links = whole(line.get("/v1.0/me/messages").await).await;
    let links: serde_json::Value = serde_json::from_slice(&links).expect("JSON");
    assert_eq!(links["@odata.nextLink"], format!("{}{HERE}/v1.0/me/messages?$skip=1", line.origin));
    let empty = line.ask(Method::DELETE, "/v1.0/me/messages/1", None, Empty::new().boxed_unsync()).await;
    assert_eq!((empty.status(), whole(empty).await.len()), (StatusCode::NO_CONTENT, 0));

    // Who drops a stream is gone at the resource, and the connection goes on.
    let before = resource.dropped();
    drop(held);
    resource.until("the answer is given up", |resource| resource.dropped() > before).await;
    let (sender, receiver) = mpsc::channel(1);
    let upload = line.ask(Method::PUT, "/v1.0/upload/2", Some(MIB), parts(receiver));
    let received = resource.received();
    tokio::select! {
        _ = upload => panic!("an answer to half a request"),
        () = async {
            sender.send(Bytes::from(vec![9; 1000])).await.expect("it is read");
            resource.until("half of it has come", |resource| resource.received() > received).await;
        } => (),
    }
    resource.until("the upload is given up", |resource| resource.broken() == 1).await;

    // What breaks off does not look whole.
    let (breaks, receiver) = mpsc::channel(1);
    let receiver = parking_lot::Mutex::new(Some(receiver));
    resource.answer_with(move |_| Reply::Stream(200, vec![], receiver.lock().take().expect("one request")));
    let answer = line.get("/v1.0/files/1").await;
    breaks.send(Ok(Bytes::from("before"))).await.expect("it is read");
    breaks.send(Err(std::io::Error::other("broken"))).await.expect("it is read");
    assert!(timeout(PATIENCE, answer.into_body().collect()).await.expect("in time").is_err());
    resource.answer_with(|_| Reply::json(200, "{}"));
    assert_eq!(line.get("/v1.0/files/1").await.status(), StatusCode::OK);
}

/// A server takes so many requests on one connection; the next ones have another connection.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn more_requests_than_a_connection_takes_wait_for_none_of_them() {
    let authority = pki::Authority::root("a private authority", 48);
    let identity = authority.issue(pki::Leaf::new().dns("localhost").for_servers());
    let resource = Resource::start_with(Some(pki::http2_server(&identity)), |_| Reply::Silence).await;
    let plan = plan_with(&resource.url, "ca = \"private.pem\"", RULES).file("private.pem", &authority.pem());
    let world = plan.start().await;
    world.connect("user-1", ALICE).await;
    let (address, bearer) =
        (format!("{}{HERE}/v1.0/files/1", world.daemon.local), format!("Bearer {}", world.reader_key));
    let many = usize::try_from(MOST_STREAMS).expect("few") + 30;
    let asked: Vec<_> = (0..many)
        .map(|_| {
            let (address, bearer) = (address.clone(), bearer.clone());
            tokio::spawn(async move {
                let _ = request(Method::GET, &address, &[("authorization", &bearer)], "").await;
            })
        })
        .collect();
    resource.until("all of them have come", |resource| resource.seen() == many).await;
    asked.iter().for_each(tokio::task::JoinHandle::abort);
    // Their places are free again.
    resource.until("they are given up", |resource| resource.dropped() == many as u64).await;
    resource.answer_with(|_| Reply::json(200, "{}"));
    let answer = request(Method::GET, &address, &[("authorization", &bearer)], "").await.expect("an answer");
    assert_eq!(answer.status, StatusCode::OK);
}

/// A reset without an error ends a stream as well as another: what came before it is no whole answer. (hyper
/// takes it for the end, RFC 9113 section 8.1.)
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_that_is_reset_without_an_error_does_not_look_whole() {
    let authority = pki::Authority::root("a private authority", 48);
    let identity = authority.issue(pki::Leaf::new().dns("localhost").for_servers());
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let url = format!("https://localhost:{}", listener.local_addr().expect("an address").port());
    tokio::spawn(resetting(listener, pki::http2_server(&identity)));
    let plan = plan_with(&url, "ca = \"private.pem\"", RULES).file("private.pem", &authority.pem());
    let world = plan.start().await;
    world.connect("user-1", ALICE).await;
    let ask = async |path: &str| {
        let (address, bearer) =
            (format!("{}{HERE}{path}", world.daemon.local), format!("Bearer {}", world.reader_key));
        request(Method::GET, &address, &[("authorization", &bearer)], "").await
    };
    let short = ask("/v1.0/files/short").await.expect("an answer");
    assert_eq!(short.status, StatusCode::BAD_GATEWAY, "{}", short.text());
    for path in ["/v1.0/files/json", "/v1.0/files/long"] {
        let answer = ask(path).await;
        assert!(answer.is_err(), "{path}: {:?}", answer.map(|answer| answer.text()));
    }
}

/// Begins each answer, and resets it once its client has what came of it.
async fn resetting(listener: TcpListener, tls: Arc<rustls::ServerConfig>) {
    let acceptor = tokio_rustls::TlsAcceptor::from(tls);
    while let Ok((stream, _)) = listener.accept().await {
        let Ok(stream) = acceptor.accept(stream).await else { continue };
        let mut connection = h2::server::handshake(stream).await.expect("HTTP/2");
        let ping = Arc::new(Mutex::new(connection.ping_pong().expect("the first")));
        tokio::spawn(async move {
            while let Some(Ok((asked, mut respond))) = connection.accept().await {
                let ping = Arc::clone(&ping);
                tokio::spawn(async move {
                    let head = match asked.uri().path() {
                        "/v1.0/files/short" => Response::builder().header("content-length", 100),
                        "/v1.0/files/long" => Response::builder().header("content-length", 100_000),
                        _ => Response::builder().header("content-type", "application/json"),
                    };
                    let head = head.body(()).expect("a head");
                    let mut stream = respond.send_response(head, false).expect("it goes on");
                    if asked.uri().path() != "/v1.0/files/short" {
                        stream.send_data(Bytes::from_static(b"{}"), false).expect("it goes on");
                    }
                    // What is queued goes before a ping, and what is reset goes no more.
                    ping.lock().await.ping(h2::Ping::opaque()).await.expect("it is there");
                    stream.send_reset(h2::Reason::NO_ERROR);
                });
            }
        });
    }
}

/// What a stream may take on its way, of whatever length it is: the buffers of two connections.
const PER_STREAM: usize = 128 * 1024;
/// What a build for tests takes besides, its records and the like.
const BESIDES: usize = 16 * MIB;

fn resident(world: &World) -> usize {
    let status = std::fs::read_to_string(format!("/proc/{}/status", world.daemon.pid())).expect("it runs");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("a figure");
    line.trim().trim_end_matches(" kB").trim().parse::<usize>().expect("a number") * 1024
}

/// One of the streams: it is begun, waits until all are, and goes to its end.
async fn one(at: usize, address: String, bearer: String, content: Bytes, begun: Arc<Barrier>) {
    let stream = TcpStream::connect(&address).await.expect("the daemon");
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.expect("HTTP");
    tokio::spawn(connection);
    let is_upload = at.is_multiple_of(2);
    let (method, path) = if is_upload { ("PUT", "/v1.0/upload/1") } else { ("GET", "/v1.0/files/1") };
    let request = http::Request::builder()
        .method(method)
        .uri(format!("{HERE}{path}"))
        .header("host", &address)
        .header("authorization", &bearer);
    let body = if is_upload { content.clone() } else { Bytes::new() };
    let mut answer = Box::pin(sender.send_request(request.body(Full::new(body)).expect("a request")));
    if is_upload {
        // (It is sent while all are waited for, as far as anybody takes it.)
        tokio::select! {
            answer = &mut answer => panic!("an answer to what nobody has read: {answer:?}"),
            _ = begun.wait() => (),
        }
        let answer = timeout(PATIENCE * 4, answer).await.expect("in time").expect("an answer");
        let said = timeout(PATIENCE, answer.into_body().collect()).await.expect("in time").expect("whole");
        assert_eq!(said.to_bytes(), format!("{{\"length\":{}}}", content.len()));
    } else {
        let mut answer = timeout(PATIENCE * 4, answer).await.expect("in time").expect("an answer");
        assert_eq!(answer.status(), StatusCode::OK);
        begun.wait().await;
        let mut length = 0;
        while let Some(frame) = timeout(PATIENCE, answer.frame()).await.expect("in time") {
            let part = frame.expect("whole").into_data().expect("data");
            assert!(part.iter().step_by(4096).all(|byte| *byte == 7));
            length += part.len();
        }
        assert_eq!(length, content.len());
    }
}

/// So many streams of 10 MiB at a time, uploads and downloads: all are begun, nobody takes anything, and then
/// all go to their ends.
async fn memory_is_flat(many: usize) {
    let _alone = alone().await;
    let content = Bytes::from(vec![7; 10 * MIB]);
    let answered = content.clone();
    let (world, resource) = with_resource(move |seen| match seen.method.as_str() {
        "PUT" => Reply::json(200, &json!({ "length": seen.length }).to_string()),
        _ => Reply::Whole(200, vec![], answered.clone()),
    })
    .await;
    let address = world.daemon.local.trim_start_matches("http://").to_owned();
    let bearer = format!("Bearer {}", world.reader_key);
    let start = |at: usize, begun: &Arc<Barrier>| {
        tokio::spawn(one(at, address.clone(), bearer.clone(), content.clone(), Arc::clone(begun)))
    };
    // Once with a few, so that what is there from then on is there.
    let begun = Arc::new(Barrier::new(4));
    for task in (0..4).map(|at| start(at, &begun)).collect::<Vec<_>>() {
        task.await.expect("it ends well");
    }
    let before = resident(&world);
    let peak = AtomicUsize::new(before);
    let look = || peak.fetch_max(resident(&world), Ordering::Relaxed);
    resource.hold_bodies(true);
    let begun = Arc::new(Barrier::new(many + 1));
    let mut tasks: Vec<_> = (0..many).map(|at| start(at, &begun)).collect();
    // Nothing moves: whoever would keep a body has kept it by now.
    let all = begun.wait();
    tokio::pin!(all);
    let mut quiet = tokio::time::interval(Duration::from_millis(20));
    loop {
        tokio::select! {
            _ = &mut all => break,
            _ = quiet.tick() => { look(); }
        }
    }
    for _ in 0..50 {
        quiet.tick().await;
        look();
    }
    let at_rest = peak.load(Ordering::Relaxed);
    resource.hold_bodies(false);
    while let Some(task) = tasks.pop() {
        tokio::pin!(task);
        loop {
            tokio::select! {
                done = &mut task => break done.expect("it ends well"),
                _ = quiet.tick() => { look(); }
            }
        }
    }
    let peak = peak.load(Ordering::Relaxed);
    let grown = |to: usize| to.saturating_sub(before);
    eprintln!(
        "{many} streams of 10 MiB: {} KiB before, {} KiB more at rest, {} KiB more at the most",
        before / 1024,
        grown(at_rest) / 1024,
        grown(peak) / 1024
    );
    let bound = many * PER_STREAM + BESIDES;
    assert!(grown(peak) <= bound, "{} bytes more for {many} streams, more than {bound}", grown(peak));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_streams_of_10_mib_take_no_more_memory_than_short_ones() {
    memory_is_flat(100).await;
}

/// `make relay-streams`
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "10 GiB: make relay-streams"]
async fn a_thousand_streams_of_10_mib_take_no_more_memory_than_short_ones() {
    memory_is_flat(1000).await;
}
