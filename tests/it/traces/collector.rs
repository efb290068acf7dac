//! A collector that takes OTLP over HTTP, in the test's own process.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTracePartialSuccess, ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use opentelemetry_proto::tonic::common::v1::any_value::Value as Any;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue};
use opentelemetry_proto::tonic::trace::v1::Span;
use parking_lot::Mutex;
use prost::Message as _;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use crate::world::PATIENCE;

/// How the collector answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mood {
    Takes,
    /// This status, with `Retry-After: 1`.
    Status(u16),
    /// It takes all but so many spans of each message.
    Rejects(i64),
    /// It reads, and never answers.
    Silent,
}

/// One message as it came.
pub(crate) struct Posted {
    pub(crate) path: String,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
    pub(crate) message: ExportTraceServiceRequest,
    pub(crate) mood: Mood,
}

#[derive(Default)]
struct Seen {
    posted: Vec<Posted>,
}

pub(crate) struct Collector {
    pub(crate) port: u16,
    seen: Arc<Mutex<Seen>>,
    mood: Arc<Mutex<Mood>>,
    listens: JoinHandle<()>,
}

impl Collector {
    pub(crate) async fn start() -> Collector {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let (seen, mood) = (Arc::<Mutex<Seen>>::default(), Arc::new(Mutex::new(Mood::Takes)));
        let (of_all, mood_of_all) = (seen.clone(), mood.clone());
        let listens = tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.expect("a connection");
                let (seen, mood) = (of_all.clone(), mood_of_all.clone());
                tokio::spawn(async move {
                    let service = service_fn(|request| take(request, &seen, &mood));
                    let _ = hyper::server::conn::http1::Builder::new()
                        .serve_connection(TokioIo::new(stream), service)
                        .await;
                });
            }
        });
        Collector { port, seen, mood, listens }
    }

    /// The section of the configuration, with more lines.
    pub(crate) fn section(&self, lines: &str) -> String {
        format!("[traces]\nendpoint = \"http://127.0.0.1:{}\"\n{lines}\n", self.port)
    }

    pub(crate) fn is(&self, mood: Mood) {
        *self.mood.lock() = mood;
    }

    /// Every message, whatever was answered.
    pub(crate) fn posted<T>(&self, look: impl FnOnce(&[Posted]) -> T) -> T {
        look(&self.seen.lock().posted)
    }

    /// The spans of messages that it took.
    pub(crate) fn spans(&self) -> Vec<Span> {
        self.posted(|posted| {
            let taken = posted.iter().filter(|one| one.mood == Mood::Takes);
            let of = |one: &Posted| {
                let scopes = one.message.resource_spans.iter().flat_map(|of| &of.scope_spans);
                scopes.flat_map(|of| of.spans.clone()).collect::<Vec<_>>()
            };
            taken.flat_map(of).collect()
        })
    }

    /// The spans of one trace.
    pub(crate) fn trace(&self, id: &str) -> Vec<Span> {
        self.spans().into_iter().filter(|span| hex::encode(&span.trace_id) == id).collect()
    }

    /// Waits until there are such spans.
    pub(crate) async fn until(&self, what: &str, is_so: impl Fn(&[Span]) -> bool) -> Vec<Span> {
        let begun = Instant::now();
        loop {
            let spans = self.spans();
            if is_so(&spans) {
                return spans;
            }
            let names: Vec<_> = spans.iter().map(|span| span.name.as_str()).collect();
            assert!(begun.elapsed() < PATIENCE, "waited in vain: {what}; there are {names:?}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Waits until a trace has the span of a request, and all spans below it have come.
    pub(crate) async fn until_trace(&self, id: &str) -> Vec<Span> {
        let is_server = |span: &Span| hex::encode(&span.trace_id) == id && span.kind == SERVER;
        self.until(&format!("the trace {id}"), |spans| spans.iter().any(is_server)).await;
        self.trace(id)
    }
}

impl Drop for Collector {
    fn drop(&mut self) {
        self.listens.abort();
    }
}

/// Kinds of spans.
pub(crate) const INTERNAL: i32 = 1;
pub(crate) const SERVER: i32 = 2;
pub(crate) const CLIENT: i32 = 3;

async fn take(
    request: Request<Incoming>,
    seen: &Mutex<Seen>,
    mood: &Mutex<Mood>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let (head, body) = request.into_parts();
    let Ok(body) = body.collect().await.map(http_body_util::Collected::to_bytes) else {
        return Ok(Response::default());
    };
    let mood = *mood.lock();
    let message = ExportTraceServiceRequest::decode(&*body).expect("a message of OTLP");
    let path = head.uri.path().to_owned();
    seen.lock().posted.push(Posted { path, headers: head.headers, body, message, mood });
    let mut response = Response::builder().header("content-type", "application/x-protobuf");
    let mut answer = ExportTraceServiceResponse::default();
    match mood {
        Mood::Takes => {}
        Mood::Status(status) => response = response.status(status).header("retry-after", "1"),
        Mood::Rejects(rejected_spans) => {
            let error_message = "these have the wrong colour".to_owned();
            answer.partial_success = Some(ExportTracePartialSuccess { rejected_spans, error_message });
        }
        Mood::Silent => std::future::pending().await,
    }
    Ok(response.body(Full::new(answer.encode_to_vec().into())).expect("an answer"))
}

/// Attributes as text, by their names.
pub(crate) fn attributes(all: &[KeyValue]) -> BTreeMap<String, String> {
    let text = |value: &Option<AnyValue>| match value.as_ref().and_then(|value| value.value.as_ref()) {
        Some(Any::StringValue(text)) => text.clone(),
        Some(Any::IntValue(number)) => number.to_string(),
        other => panic!("an attribute of another type: {other:?}"),
    };
    all.iter().map(|one| (one.key.clone(), text(&one.value))).collect()
}
