//! Every refusal as an RFC 9457 problem document. Status, code and `Retry-After` are
//! [`Refusal::outside`]'s; the words are in `words`.

mod words;

use bytes::Bytes;
use http::{HeaderValue, StatusCode, header};
use http_body_util::Full;
use serde::Serialize;

use self::words::Words;
use crate::broker::{Outside, Refusal};
use crate::domain::id::{ConnectionKey, InvalidName};
use crate::domain::verdict::AuthorityError;
use crate::listener::{BadPairs, MOST_PARAMETERS, Response};

/// A problem document. Codes are contract; words are not.
#[derive(Debug, Clone, Serialize)]
pub struct Problem {
    #[serde(rename = "type")]
    kind: String,
    title: &'static str,
    status: u16,
    /// Stable: what programs branch on.
    pub code: &'static str,
    detail: String,
    hint: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    parameter: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'static str>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    scopes: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    retry_after: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    connect_url: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    request_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    suberror: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    error_codes: Vec<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    trace_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    correlation_id: Option<String>,
}

impl Problem {
    fn new(status: StatusCode, code: &'static str, title: &'static str, detail: impl Into<String>) -> Self {
        Problem {
            kind: format!("urn:tokenward:problem:{code}"),
            title,
            status: status.as_u16(),
            code,
            detail: detail.into(),
            hint: String::new(),
            parameter: None,
            reason: None,
            scopes: Vec::new(),
            retry_after: None,
            connect_url: None,
            request_id: None,
            error: None,
            suberror: None,
            error_codes: Vec::new(),
            trace_id: None,
            correlation_id: None,
        }
    }

    fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = hint.into();
        self
    }

    fn reason(mut self, reason: &'static str) -> Self {
        self.reason = Some(reason);
        self
    }

    fn after(mut self, seconds: u64) -> Self {
        self.retry_after = Some(seconds);
        self
    }

    fn answer(mut self, answer: AuthorityError) -> Self {
        self.error = answer.error;
        self.suberror = answer.suberror;
        self.error_codes = answer.error_codes;
        self.trace_id = answer.trace_id;
        self.correlation_id = answer.correlation_id;
        self
    }

    /// Adds the link at which the user can mend it.
    pub fn with_connect_url(mut self, url: String) -> Self {
        self.connect_url = Some(url);
        self
    }

    /// For operators: there is no connection, and an operator's pause holds its name.
    pub fn of_held_name(self, key: &ConnectionKey) -> Self {
        let ConnectionKey { app, connection } = key;
        self.hint(format!(
            "its name is paused: nobody can connect it until `tokenward connections resume {app} {connection}`"
        ))
    }

    /// A parameter's mistake.
    pub fn invalid(parameter: &'static str, problem: impl Into<String>) -> Self {
        Problem::of(Refusal::InvalidRequest { parameter, problem: problem.into() })
    }

    /// A query that is not read. Only names of our own are repeated in the answer.
    pub fn query(bad: BadPairs) -> Self {
        const OURS: [&str; 8] =
            ["scope", "resource", "min_ttl", "connect", "status", "tenant", "cursor", "wait"];
        let BadPairs::Repeated(name) = bad else {
            return Problem::invalid("query", format!("has more than {MOST_PARAMETERS} parameters"));
        };
        let parameter = OURS.into_iter().find(|ours| *ours == name).unwrap_or("query");
        Problem::invalid(parameter, "stands in the query twice")
    }

    /// Whether it denies a right, or that there is anything: no mistake of the request, and no trouble here.
    pub(super) fn denies(&self) -> bool {
        matches!(self.status, 401 | 403 | 404 | 409)
    }

    /// 401: nobody we know. Missing, malformed, unknown and expired look the same.
    pub fn unauthenticated() -> Self {
        Problem::new(
            StatusCode::UNAUTHORIZED,
            "caller_unauthenticated",
            "The caller is not known",
            "the request carries no credential that is known here",
        )
        .hint("send an API key as `Authorization: Bearer twk_…`, or come over the Unix socket as a configured user")
    }

    /// 503 for a body for which there was no room beside all others that were on their way.
    pub fn overloaded() -> Self {
        Problem::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "overloaded",
            "Too many requests are on their way",
            "more is on its way to this listener than it has room for",
        )
        .hint("try again after the time in Retry-After; bodies and heads of less than 4 KiB always find room")
        .after(1)
    }

    /// A name in a path that no connection can have, told as it is told in a body.
    pub fn no_connection(invalid: InvalidName) -> Self {
        Problem::invalid("connection", invalid.to_string())
    }

    /// 404 for a path that is no route.
    pub fn no_such_path() -> Self {
        Problem::new(StatusCode::NOT_FOUND, "not_found", "No such path", "there is nothing at this path")
            .hint("the paths are listed in /openapi.json")
    }

    /// 405.
    pub fn method_not_allowed() -> Self {
        Problem::new(
            StatusCode::METHOD_NOT_ALLOWED,
            "method_not_allowed",
            "Another method is needed",
            "this path does not take this method",
        )
        .hint("the Allow header lists the methods")
    }

    /// 500: our own mistake.
    pub fn internal() -> Self {
        Problem::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            "internal",
            "tokenward made a mistake",
            "the request could not be completed",
        )
        .hint("report the request_id to the operator")
    }

    /// The problem a refusal is.
    pub fn of(refusal: Refusal) -> Self {
        let Outside { status, code, retry_after } = refusal.outside();
        let Words { title, detail, hint } = words::of(&refusal);
        let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let mut problem = Problem::new(status, code, title, detail).hint(hint);
        problem.retry_after = retry_after;
        match refusal {
            Refusal::InvalidRequest { parameter, .. } => problem.parameter = Some(parameter),
            Refusal::ScopeNotGranted { scopes } => problem.scopes = scopes,
            Refusal::ReauthorizationRequired { reason, answer } => {
                return problem.reason(reason.as_str()).answer(answer);
            }
            Refusal::ConnectionBlocked { reason, answer } => {
                return problem.reason(reason.as_str()).answer(answer);
            }
            Refusal::AuthorityUnavailable { answer, .. }
            | Refusal::AuthorityUnclear { answer }
            | Refusal::AppCredentialRejected { answer }
            | Refusal::AppRejected { answer } => return problem.answer(answer),
            Refusal::Forbidden { .. }
            | Refusal::AppNotFound
            | Refusal::ConnectionNotFound
            | Refusal::SessionNotFound
            | Refusal::ConnectionPaused
            | Refusal::ConfirmationRejected { .. }
            | Refusal::RateLimited { .. }
            | Refusal::TooManyForced { .. }
            | Refusal::TooMany { .. }
            | Refusal::TooManyWalks { .. }
            | Refusal::NotNow(_)
            | Refusal::SameTokenAgain
            | Refusal::StoreNearlyFull
            | Refusal::RecordDamaged
            | Refusal::StoreUnavailable => {}
        }
        problem
    }

    /// The response. `request_id` lets a caller's report be found in the log.
    pub fn response(mut self, request_id: &str) -> Response {
        self.request_id = Some(request_id.to_owned());
        let status = StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let body = serde_json::to_vec(&self).expect("a problem is plain JSON");
        let mut response = http::Response::new(Full::new(Bytes::from(body)));
        *response.status_mut() = status;
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        if status == StatusCode::UNAUTHORIZED {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer realm=\"tokenward\""));
        }
        if let Some(seconds) = self.retry_after {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        response
    }
}

/// A JSON answer that is never cached.
pub fn json<T: Serialize>(status: StatusCode, body: &T) -> Response {
    let body = serde_json::to_vec(body).expect("answers are plain JSON");
    let mut response = http::Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}
