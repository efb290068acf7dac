//! The operators' endpoints: metrics and probes, on a listener of their own. They need no authentication and
//! show nothing about any user.

mod accept;

use std::sync::Arc;

use http::{HeaderValue, Method, StatusCode, header};

use crate::domain::task::BoxFuture;
use crate::domain::time::Clock;
use crate::lifecycle::Readiness;
use crate::listener::{Handler, Request, Response, problem, response};
use crate::telemetry::metrics::{Metrics, OPENMETRICS};

const TEXT: &str = "text/plain; charset=utf-8";
/// Content type of the text exposition format.
const EXPOSITION: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Answers `/metrics`, `/livez` and `/readyz`.
pub struct Ops {
    metrics: Arc<Metrics>,
    readiness: Readiness,
    clock: Arc<dyn Clock>,
}

impl std::fmt::Debug for Ops {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ops").field("readiness", &self.readiness).finish_non_exhaustive()
    }
}

impl Ops {
    /// Makes the handler.
    pub fn new(metrics: Arc<Metrics>, readiness: Readiness, clock: Arc<dyn Clock>) -> Self {
        Ops { metrics, readiness, clock }
    }

    fn answer(&self, request: &Request) -> Response {
        type Answer = fn(&Ops) -> Response;
        let answer: Answer = match request.path.as_str() {
            "/metrics" if accept::prefers_openmetrics(&request.headers) => {
                |ops| response(StatusCode::OK, OPENMETRICS, ops.metrics.encode_openmetrics(ops.clock.now()))
            }
            "/metrics" => |ops| response(StatusCode::OK, EXPOSITION, ops.metrics.encode(ops.clock.now())),
            "/livez" => |_| response(StatusCode::OK, TEXT, "live\n"),
            "/readyz" => Ops::ready,
            _ => {
                return problem(
                    StatusCode::NOT_FOUND,
                    "not_found",
                    "there is nothing here",
                    &request.request_id,
                );
            }
        };
        if request.method == Method::GET || request.method == Method::HEAD {
            return answer(self);
        }
        let detail = "only GET and HEAD are understood here";
        let mut response =
            problem(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", detail, &request.request_id);
        response.headers_mut().insert(header::ALLOW, HeaderValue::from_static("GET, HEAD"));
        response
    }

    fn ready(&self) -> Response {
        let waiting_for = self.readiness.waiting_for();
        let notes = self.readiness.notes();
        if waiting_for.is_empty() {
            let notes = notes.iter().map(|(part, what)| format!("{part}: {what}\n")).collect::<String>();
            return response(StatusCode::OK, TEXT, format!("ready\n{notes}"));
        }
        let status = if self.readiness.is_draining() { "draining" } else { "not_ready" };
        let mut document = serde_json::json!({ "status": status, "waiting_for": waiting_for });
        if !notes.is_empty() {
            document["notes"] = serde_json::json!(notes);
        }
        response(StatusCode::SERVICE_UNAVAILABLE, "application/json", document.to_string())
    }
}

impl Handler for Ops {
    fn handle<'a>(&'a self, request: Request) -> BoxFuture<'a, Response> {
        Box::pin(std::future::ready(self.answer(&request)))
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderMap;
    use http_body_util::BodyExt;

    use super::*;
    use crate::listener::{Body, Origin, Peer, PeerCertificate, RequestId, Streams};
    use crate::system::{SystemClock, SystemRandom};

    async fn ask(ops: &Ops, method: Method, path: &str) -> (u16, HeaderMap, String) {
        let origin = Origin::Tcp(([127, 0, 0, 1], 1).into());
        let request = Request {
            method,
            path: path.to_owned(),
            query: None,
            headers: HeaderMap::new(),
            peer: Peer { origin, tls: false, certificate: PeerCertificate::None },
            request_id: RequestId::new(&SystemRandom::new()),
            body: Body::whole(""),
            streams: Streams::none(),
        };
        let (head, body) = ops.handle(request).await.into_parts();
        let body = body.collect().await.expect("whole").to_bytes();
        (head.status.as_u16(), head.headers, String::from_utf8(body.to_vec()).expect("text"))
    }

    #[tokio::test]
    async fn probes_and_metrics_and_nothing_else() {
        let readiness = Readiness::new();
        let store = readiness.latch("store");
        let ops = Ops::new(Arc::new(Metrics::new("0.1.0")), readiness.clone(), Arc::new(SystemClock::new()));

        let (status, headers, body) = ask(&ops, Method::GET, "/metrics").await;
        assert_eq!((status, headers[header::CONTENT_TYPE].as_bytes()), (200, EXPOSITION.as_bytes()));
        assert!(body.contains("tokenward_build_info{version=\"0.1.0\"} 1\n"), "{body}");
        assert_eq!(ask(&ops, Method::GET, "/livez").await.0, 200);

        let (status, _, body) = ask(&ops, Method::GET, "/readyz").await;
        assert_eq!((status, body.as_str()), (503, r#"{"status":"not_ready","waiting_for":["store"]}"#));
        readiness.note("store", Some("no answer"));
        let (status, _, body) = ask(&ops, Method::GET, "/readyz").await;
        assert!(status == 503 && body.contains(r#""notes":{"store":"no answer"}"#), "{body}");
        store.release();
        let (status, _, body) = ask(&ops, Method::GET, "/readyz").await;
        assert_eq!((status, body.as_str()), (200, "ready\nstore: no answer\n"));
        readiness.note("store", None);
        let (status, _, body) = ask(&ops, Method::HEAD, "/readyz").await;
        assert_eq!((status, body.as_str()), (200, "ready\n"));
        readiness.drain();
        let (status, _, body) = ask(&ops, Method::GET, "/readyz").await;
        assert_eq!((status, body.as_str()), (503, r#"{"status":"draining","waiting_for":["draining"]}"#));
        assert_eq!(ask(&ops, Method::GET, "/livez").await.0, 200, "draining is not dead");

        for method in
            [Method::POST, Method::PUT, Method::DELETE, Method::OPTIONS, Method::TRACE, Method::PATCH]
        {
            let (status, headers, _) = ask(&ops, method, "/livez").await;
            assert_eq!((status, headers[header::ALLOW].as_bytes()), (405, &b"GET, HEAD"[..]));
        }
        for path in
            ["/", "/metrics/", "/Metrics", "//metrics", "/metrics;a", "/%6detrics", "/debug/pprof", "/livez."]
        {
            let (status, _, body) = ask(&ops, Method::GET, path).await;
            assert!(status == 404 && body.contains("\"code\":\"not_found\""), "{path} gave {status} {body}");
        }
    }
}
