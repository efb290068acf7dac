//! A resource for tests of the relay: a server that notes what reaches it and answers as it is told. With TLS
//! it speaks HTTP/2.

#![allow(unreachable_pub, missing_docs, dead_code, reason = "each test uses a part of it")]

use std::convert::Infallible;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Response, StatusCode, header};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use tokio::net::TcpListener;
use tokio::sync::{Notify, mpsc};

use crate::world::PATIENCE;

/// A request that reached the resource.
#[derive(Debug, Clone)]
pub struct Seen {
    pub method: String,
    pub version: http::Version,
    /// Path and query, as they came.
    pub target: String,
    pub headers: HeaderMap,
    /// The body; of a long one the beginning.
    pub body: Bytes,
    pub length: u64,
    /// False if the body broke off.
    pub is_whole: bool,
}

impl Seen {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }
}

/// An answer.
pub enum Reply {
    Whole(u16, Vec<(&'static str, String)>, Bytes),
    /// Parts as they are sent; an error breaks it off.
    Stream(u16, Vec<(&'static str, String)>, mpsc::Receiver<io::Result<Bytes>>),
    /// None, ever.
    Silence,
}

impl Reply {
    pub fn json(status: u16, body: &str) -> Self {
        Reply::Whole(status, vec![("content-type", "application/json".to_owned())], body.to_owned().into())
    }
}

type Answers = Box<dyn Fn(&Seen) -> Reply + Send + Sync>;

struct Shared {
    seen: Mutex<Vec<Seen>>,
    answers: Mutex<Arc<Answers>>,
    /// Bytes of bodies so far.
    received: AtomicU64,
    /// Exchanges that ended before their answer did.
    dropped: AtomicU64,
    changed: Notify,
    /// True while no body is read.
    held: tokio::sync::watch::Sender<bool>,
}

/// The server.
#[derive(Clone)]
pub struct Resource {
    shared: Arc<Shared>,
    pub url: String,
}

/// Streams of a connection over HTTP/2, as servers on the internet have them.
pub const MOST_STREAMS: u32 = 100;

/// Most bytes of a body that are kept.
const KEPT: usize = 128 * 1024;

impl Resource {
    /// Starts one that answers every request so.
    pub async fn start(answers: impl Fn(&Seen) -> Reply + Send + Sync + 'static) -> Self {
        Self::start_with(None, answers).await
    }

    /// Starts one with TLS, as `localhost`.
    pub async fn start_with(
        tls: Option<Arc<rustls::ServerConfig>>,
        answers: impl Fn(&Seen) -> Reply + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let url = match &tls {
            Some(_) => format!("https://localhost:{port}"),
            None => format!("http://127.0.0.1:{port}"),
        };
        let answers: Answers = Box::new(answers);
        let shared = Arc::new(Shared {
            seen: Mutex::default(),
            answers: Mutex::new(Arc::new(answers)),
            received: AtomicU64::new(0),
            dropped: AtomicU64::new(0),
            changed: Notify::new(),
            held: tokio::sync::watch::Sender::new(false),
        });
        let resource = Resource { shared: Arc::clone(&shared), url };
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (shared, tls) = (Arc::clone(&shared), tls.clone());
                tokio::spawn(async move {
                    let service = service_fn(move |request| {
                        let shared = Arc::clone(&shared);
                        async move { Ok::<_, Infallible>(answer(&shared, request).await) }
                    });
                    let Some(tls) = tls else {
                        let io = TokioIo::new(stream);
                        let _ =
                            hyper::server::conn::http1::Builder::new().serve_connection(io, service).await;
                        return;
                    };
                    let Ok(stream) = tokio_rustls::TlsAcceptor::from(tls).accept(stream).await else {
                        return;
                    };
                    let executor = hyper_util::rt::TokioExecutor::new();
                    let io = TokioIo::new(stream);
                    let _ = hyper::server::conn::http2::Builder::new(executor)
                        .max_concurrent_streams(MOST_STREAMS)
                        .serve_connection(io, service)
                        .await;
                });
            }
        });
        resource
    }

    /// Answers otherwise from now on.
    pub fn answer_with(&self, answers: impl Fn(&Seen) -> Reply + Send + Sync + 'static) {
        let answers: Answers = Box::new(answers);
        *self.shared.answers.lock() = Arc::new(answers);
    }

    /// Leaves bodies unread from now on, or reads on.
    pub fn hold_bodies(&self, is_so: bool) {
        self.shared.held.send_replace(is_so);
    }

    /// What has reached it, without taking it.
    pub fn all(&self) -> Vec<Seen> {
        self.shared.seen.lock().clone()
    }

    /// Takes what has reached it.
    pub fn take(&self) -> Vec<Seen> {
        std::mem::take(&mut self.shared.seen.lock())
    }

    /// Bytes of bodies that have reached it.
    pub fn received(&self) -> u64 {
        self.shared.received.load(Ordering::Relaxed)
    }

    /// Exchanges that were given up before their answer's end.
    pub fn dropped(&self) -> u64 {
        self.shared.dropped.load(Ordering::Relaxed)
    }

    /// Requests that have reached it and were not taken.
    pub fn seen(&self) -> usize {
        self.shared.seen.lock().len()
    }

    /// Of those, the ones whose body broke off.
    pub fn broken(&self) -> usize {
        self.shared.seen.lock().iter().filter(|seen| !seen.is_whole).count()
    }

    /// Waits until a condition holds.
    pub async fn until(&self, what: &str, is_so: impl Fn(&Self) -> bool) {
        let wait = async {
            while !is_so(self) {
                let _ = tokio::time::timeout(
                    std::time::Duration::from_millis(20),
                    self.shared.changed.notified(),
                )
                .await;
            }
        };
        assert!(tokio::time::timeout(PATIENCE, wait).await.is_ok(), "waited in vain: {what}");
    }
}

/// Notes an exchange that is dropped before its end.
struct Ending(Arc<Shared>, bool);

impl Drop for Ending {
    fn drop(&mut self) {
        if !self.1 {
            self.0.dropped.fetch_add(1, Ordering::Relaxed);
        }
        self.0.changed.notify_waiters();
    }
}

async fn answer(
    shared: &Arc<Shared>,
    request: http::Request<Incoming>,
) -> Response<UnsyncBoxBody<Bytes, io::Error>> {
    let mut ending = Ending(Arc::clone(shared), false);
    let (head, mut body) = request.into_parts();
    let (mut kept, mut length, mut is_whole) = (Vec::new(), 0, true);
    let mut held = shared.held.subscribe();
    loop {
        if !hyper::body::Body::is_end_stream(&body) {
            let _ = held.wait_for(|is_held| !is_held).await;
        }
        let Some(frame) = body.frame().await else { break };
        let Ok(frame) = frame else {
            is_whole = false;
            break;
        };
        let data = frame.into_data().unwrap_or_default();
        length += data.len() as u64;
        shared.received.fetch_add(data.len() as u64, Ordering::Relaxed);
        shared.changed.notify_waiters();
        kept.extend_from_slice(&data[..data.len().min(KEPT - kept.len().min(KEPT))]);
    }
    let seen = Seen {
        method: head.method.to_string(),
        version: head.version,
        target: head.uri.to_string(),
        headers: head.headers,
        body: kept.into(),
        length,
        is_whole,
    };
    shared.seen.lock().push(seen.clone());
    shared.changed.notify_waiters();
    let answers = Arc::clone(&shared.answers.lock());
    let (status, headers, body) = match answers(&seen) {
        Reply::Silence => std::future::pending().await,
        Reply::Whole(status, headers, body) => {
            ending.1 = true;
            (status, headers, Full::new(body).map_err(|never| match never {}).boxed_unsync())
        }
        Reply::Stream(status, headers, parts) => {
            let parts = futures_util::stream::unfold((parts, ending), async |(mut parts, mut ending)| {
                let part = parts.recv().await;
                ending.1 = part.as_ref().is_none_or(Result::is_err);
                part.map(|part| (part.map(Frame::data), (parts, ending)))
            });
            (status, headers, StreamBody::new(parts).boxed_unsync())
        }
    };
    let mut response = Response::new(body);
    *response.status_mut() = StatusCode::from_u16(status).expect("a status");
    for (name, value) in headers {
        response.headers_mut().append(name, HeaderValue::from_str(&value).expect("a value"));
    }
    response.headers_mut().entry(header::SERVER).or_insert(HeaderValue::from_static("a resource"));
    response
}
