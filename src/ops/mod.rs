//! The operators' endpoints: metrics and probes, on a listener of their own. No authentication and nothing
//! about any user.

use std::sync::Arc;

use http::{HeaderValue, Method, StatusCode, header};

use crate::domain::task::BoxFuture;
use crate::domain::time::Clock;
use crate::lifecycle::Readiness;
use crate::listener::{Handler, Request, Response, problem, response};
use crate::telemetry::metrics::Metrics;

const TEXT: &str = "text/plain; charset=utf-8";
/// The text exposition format's own content type.
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
    /// Reports on these.
    pub fn new(metrics: Arc<Metrics>, readiness: Readiness, clock: Arc<dyn Clock>) -> Self {
        Ops { metrics, readiness, clock }
    }

    fn answer(&self, request: &Request) -> Response {
        type Answer = fn(&Ops) -> Response;
        let answer: Answer = match request.path.as_str() {
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
        if waiting_for.is_empty() {
            return response(StatusCode::OK, TEXT, "ready\n");
        }
        let status = if self.readiness.is_draining() { "draining" } else { "not_ready" };
        let document = serde_json::json!({ "status": status, "waiting_for": waiting_for });
        response(StatusCode::SERVICE_UNAVAILABLE, "application/json", document.to_string())
    }
}

impl Handler for Ops {
    fn handle<'a>(&'a self, request: Request) -> BoxFuture<'a, Response> {
        Box::pin(std::future::ready(self.answer(&request)))
    }
}
