//! A batch that is relayed: its requests, and what becomes of each.

use http::StatusCode;
use http::header::{CONTENT_ENCODING, CONTENT_RANGE, CONTENT_TYPE, HeaderMap};
use parking_lot::Mutex;

use crate::api::body::unread;
use crate::api::problem::{Problem, json_bytes};
use crate::events::BatchParts;
use crate::listener::{Body, BodyError, Response};
use crate::policy::Denial;
use crate::relay::{Asked, Batch, Links, Method, Plan};

/// Most bytes of a batch. It is read as a whole before anything of it is sent.
const MOST_BYTES: usize = 1024 * 1024;

/// The requests of a batch, and the last verdict on each.
pub(super) struct Requests {
    batch: Batch,
    plan: Mutex<Option<Plan>>,
}

/// What the answer of a batch needs.
pub(super) struct BatchAnswer {
    /// The answers of what was refused, as items of a list in JSON.
    pub(super) refused: Vec<String>,
    /// The ids of what was sent, in the order in which their turns are known.
    pub(super) ids: Vec<String>,
}

/// Reads the batch that a request is.
pub(super) async fn read(
    asked: &Asked,
    headers: &HeaderMap,
    body: Body,
    links: &Links,
) -> Result<Requests, Problem> {
    let kind = headers.get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or("application/json");
    let is_json =
        kind.split(';').next().is_some_and(|kind| kind.trim().eq_ignore_ascii_case("application/json"));
    let is_plain = headers.get(CONTENT_ENCODING).is_none_or(|coding| coding.as_bytes() == b"identity");
    if asked.method != Method::Post || !is_json || !is_plain || headers.contains_key(CONTENT_RANGE) {
        return Err(Problem::invalid("body", "of a batch must be plain JSON, and sent by POST as a whole"));
    }
    let text = body.of_at_most(MOST_BYTES).read_all().await.map_err(|error| match error {
        BodyError::TooLarge => Problem::invalid("body", "of a batch may have 1 MiB"),
        error => unread(error),
    })?;
    let batch = Batch::read(&text, &asked.base, asked.path.version(), links);
    let batch = batch.map_err(|fault| Problem::invalid("body", format!("of a batch {fault}")))?;
    Ok(Requests { batch, plan: Mutex::default() })
}

impl Requests {
    /// Judges each.
    pub(super) fn judge(&self, relays: impl Fn(&Asked) -> Result<(), Denial>) {
        let judge = |asked: &Asked| relays(asked).map_err(|denial| denial.to_string());
        *self.plan.lock() = Some(self.batch.plan(judge));
    }

    /// Returns what becomes of them. They have been judged.
    pub(super) fn plan(&self) -> Plan {
        self.plan.lock().clone().expect("a token was served by a permit that judged them")
    }

    /// Returns how many requests there are beside the first.
    pub(super) fn more(&self) -> u32 {
        u32::try_from(self.batch.count()).unwrap_or(u32::MAX).saturating_sub(1)
    }
}

/// What the record of a batch says of its requests.
pub(super) fn recorded(plan: &Plan) -> BatchParts {
    BatchParts {
        sent: plan.shapes.join(", "),
        refused: plan.refused.len(),
        refused_shapes: plan.refused_shapes.join(", "),
    }
}

/// The answer where all are refused.
pub(super) fn refused(items: &[String]) -> Response {
    json_bytes(StatusCode::OK, format!("{{\"responses\":[{}]}}", items.join(",")).into_bytes())
}
