//! Every refusal as an RFC 9457 problem document: one exhaustive match from what a use case says to status, stable
//! code, words for the caller, and what to do next.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, StatusCode, header};
use http_body_util::Full;
use serde::Serialize;

use crate::authority::HOST_NOT_CONFIRMED;
use crate::broker::Refusal;
use crate::domain::id::{ConnectionKey, InvalidName};
use crate::domain::not_now::NotNow;
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

    fn retry_after(mut self, after: Duration) -> Self {
        self.retry_after = Some(after.as_secs_f64().ceil().max(1.0) as u64);
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
        .retry_after(Duration::from_secs(1))
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
        use StatusCode as S;
        match refusal {
            Refusal::InvalidRequest { parameter, problem } => {
                let mut invalid =
                    Problem::new(S::BAD_REQUEST, "invalid_request", "The request is not understood", format!("{parameter}: {problem}"));
                invalid.parameter = Some(parameter);
                invalid.hint(format!("correct {parameter} and send it again; the same request will fail again"))
            }
            Refusal::Forbidden { problem } => {
                Problem::new(S::FORBIDDEN, "caller_forbidden", "This caller may not do this", problem)
                    .hint("ask the operator to add it to this caller's allow rules")
            }
            Refusal::AppNotFound => Problem::new(S::NOT_FOUND, "app_not_found", "No such app", "there is no such app for this caller")
                .hint("check the app's name, and that a rule of this caller names it"),
            Refusal::ConnectionNotFound => Problem::new(
                S::NOT_FOUND,
                "connection_not_found",
                "No such connection",
                "there is no such connection for this caller",
            )
            .hint("connect the account first (POST /v1/connect-sessions), and check that a rule of this caller covers the name"),
            Refusal::SessionNotFound => {
                Problem::new(S::NOT_FOUND, "session_not_found", "No such session", "there is no such session for this caller")
                    .hint("sessions are seen only by the caller that started them, and end; start a new one")
            }
            Refusal::ReauthorizationRequired { reason, answer } => Problem::new(
                S::CONFLICT,
                "reauthorization_required",
                "The user must sign in again",
                format!("the connection's grant does not work any more ({reason})"),
            )
            .reason(reason.as_str())
            .hint("start a connect session (POST /v1/connect-sessions with this app and connection) and send the user to its connect_url; adding connect=1 to this request does it in one call")
            .answer(answer),
            Refusal::ConnectionBlocked { reason, answer } => Problem::new(
                S::CONFLICT,
                "connection_blocked",
                "An administrator must act",
                format!("the user's organisation does not let this connection work ({reason})"),
            )
            .reason(reason.as_str())
            .hint(blocked_hint(reason.as_str()))
            .answer(answer),
            Refusal::ScopeNotGranted { scopes } => {
                let mut problem = Problem::new(
                    S::CONFLICT,
                    "scope_not_granted",
                    "A scope was not granted",
                    format!("the user has not granted {}", scopes.join(" ")),
                )
                .hint("connect the account again and have the user grant these scopes; the app's configuration must list them");
                problem.scopes = scopes;
                problem
            }
            Refusal::ConnectionPaused => {
                Problem::new(S::CONFLICT, "connection_paused", "The connection is paused", "an operator paused this connection")
                    .hint("ask the operator to resume it")
            }
            Refusal::ConfirmationRejected { problem } => {
                Problem::new(S::CONFLICT, "confirmation_rejected", "The confirmation does not fit", problem)
                    .hint("read the session (GET /v1/connect-sessions/{id}) and confirm what came back there, or start a new one")
            }
            Refusal::RateLimited { retry_after } => {
                Problem::new(S::TOO_MANY_REQUESTS, "rate_limited", "Too many requests", "this caller asks for more than its rate limit")
                    .hint("wait, and keep tokens until they expire instead of asking for each use")
                    .retry_after(retry_after)
            }
            Refusal::TooManyForced { retry_after } => Problem::new(
                S::TOO_MANY_REQUESTS,
                "rate_limited",
                "Too many forced renewals",
                "reports of rejected tokens and challenges force renewals of this connection, or of many, faster than they are made",
            )
            .hint("report a token once; without `rejected` and `claims` the token that is held is served")
            .retry_after(retry_after),
            Refusal::TooMany { what, most, retry_after } => Problem::new(
                S::TOO_MANY_REQUESTS,
                "rate_limited",
                "Too many are open",
                format!("this caller has {most} {what}, which is as many as it may have"),
            )
            .hint("use the sessions that are open (one link works until it expires), or wait until some are over; what is over counts no more")
            .retry_after(retry_after),
            Refusal::TooManyWalks { most, retry_after } => Problem::new(
                S::TOO_MANY_REQUESTS,
                "rate_limited",
                "Too many lists at one time",
                format!("{most} requests of this caller that look at many connections are under way, or as many as there may be of all"),
            )
            .hint("ask for one page after the other; name connections in the caller's rules, or a prefix of theirs, rather than a tenant: only those are read then")
            .retry_after(retry_after),
            Refusal::NotNow(why) => Problem::of_not_now(why),
            Refusal::SameTokenAgain { retry_after } => Problem::new(
                S::SERVICE_UNAVAILABLE,
                "authority_unavailable",
                "The authority gives the same token again",
                "the authority answered the refresh with the very token that was reported as rejected: to it that token is valid",
            )
            .hint("find out why the resource refuses a token that its authority calls valid (audience, scopes, clock); without `rejected` this token is served")
            .retry_after(retry_after),
            Refusal::AuthorityUnavailable { retry_after, answer } if answer.is_refusal() => Problem::new(
                S::SERVICE_UNAVAILABLE,
                "authority_unavailable",
                "The authority refuses, and does not say why",
                format!("the authority refused the refresh with {}, and no valid token is held", said(&answer)),
            )
            .hint("try again after the time in Retry-After; if it stays so for this connection alone, have its user sign in again; if it is so for all, the operator must look at the app's registration and its client credential")
            .retry_after(retry_after)
            .answer(answer),
            Refusal::AuthorityUnavailable { retry_after, answer } if answer.status == Some(200) => Problem::new(
                S::SERVICE_UNAVAILABLE,
                "authority_unavailable",
                "The authority's answer cannot be used",
                "the authority answered the refresh with something that cannot be used, and no valid token is held",
            )
            .hint("try again after the time in Retry-After; `explain` of the connection says which rule the answer broke")
            .retry_after(retry_after)
            .answer(answer),
            Refusal::AuthorityUnavailable { retry_after, answer } => Problem::new(
                S::SERVICE_UNAVAILABLE,
                "authority_unavailable",
                "The authority does not answer now",
                "the authority is down, slow or throttling, and no valid token is held",
            )
            .hint("try again after the time in Retry-After; the connection itself is fine")
            .retry_after(retry_after)
            .answer(answer),
            Refusal::AppCredentialRejected { retry_after, answer } => Problem::new(
                S::SERVICE_UNAVAILABLE,
                "app_credential_rejected",
                "The authority rejects the app's credential",
                "the authority accepts none of the app's client credentials",
            )
            .hint("the operator must replace the app's client credential; connections are fine and serve again by themselves")
            .retry_after(retry_after)
            .answer(answer),
            Refusal::AppRejected { retry_after, answer }
                if answer.status.is_none() && answer.error.as_deref() == Some(HOST_NOT_CONFIRMED) =>
            {
                Problem::new(
                    S::SERVICE_UNAVAILABLE,
                    "app_rejected",
                    "The app's token host has changed",
                    "the app's authority leads to another host than before, and no secret is sent there unconfirmed",
                )
                .hint("the operator must confirm the host (`tokenward credentials confirm`, the log has the whole command) or put the authority back; connections are fine")
                .retry_after(retry_after)
                .answer(answer)
            }
            Refusal::AppRejected { retry_after, answer } => Problem::new(
                S::SERVICE_UNAVAILABLE,
                "app_rejected",
                "The authority rejects the app",
                "the authority refuses the app's registration",
            )
            .hint(app_rejected_hint(&answer))
            .retry_after(retry_after)
            .answer(answer),
            Refusal::StoreNearlyFull { retry_after } => Problem::new(
                S::SERVICE_UNAVAILABLE,
                "store_unavailable",
                "The store is nearly full",
                "what is left of tokenward's store is kept for connections, so no session can be started now",
            )
            .hint("the operator must give the store more room; connections serve and are renewed all the same")
            .retry_after(retry_after),
            Refusal::RecordDamaged => Problem::new(
                S::SERVICE_UNAVAILABLE,
                "record_damaged",
                "What is stored cannot be used",
                "what is stored of this is damaged, was tampered with, or is sealed with a key that is missing here",
            )
            .hint("tell the operator, whose log says which record it is; for a connection, starting a new connect session mends it where no backup does")
            .retry_after(Duration::from_secs(60)),
            Refusal::StoreUnavailable { retry_after } => Problem::new(
                S::SERVICE_UNAVAILABLE,
                "store_unavailable",
                "The store does not answer now",
                "tokenward cannot reach its store, and what was asked for is not held in memory",
            )
            .hint("try again after the time in Retry-After; nothing was lost")
            .retry_after(retry_after),
        }
    }

    /// Where tokenward holds itself back it is `overloaded`; where an answer of the authority is waited for,
    /// `authority_unavailable`.
    fn of_not_now(why: NotNow) -> Self {
        let (code, title, hint, seconds) = match why {
            NotNow::Crowded => (
                "overloaded",
                "Too many calls are under way for this tenant",
                "try again after the time in Retry-After; if it lasts, the authority is slow for this tenant",
                2,
            ),
            NotNow::LeaseElsewhere => (
                "overloaded",
                "Another replica is at this connection",
                "try again after the time in Retry-After; a replica that died gives way when its lease ends",
                1,
            ),
            NotNow::LeaseRanOut => (
                "overloaded",
                "This replica was too slow",
                "try again after the time in Retry-After; if it lasts, the operator must give this replica more processor time",
                2,
            ),
            NotNow::AskedToWait(_) => (
                "authority_unavailable",
                "The authority throttles",
                "try again after the time in Retry-After; the connection itself is fine",
                2,
            ),
            NotNow::Unsettled => (
                "authority_unavailable",
                "How a refresh ended is not known",
                "try again after the time in Retry-After; `explain` of the connection says which refresh it was",
                5,
            ),
            NotNow::UnderWay => (
                "authority_unavailable",
                "The authority has not answered yet",
                "try again after the time in Retry-After; the refresh goes on, and its token is served then",
                2,
            ),
        };
        let asked = match why {
            NotNow::AskedToWait(asked) => asked,
            _ => None,
        };
        Problem::new(StatusCode::SERVICE_UNAVAILABLE, code, title, why.to_string())
            .hint(hint)
            .retry_after(asked.unwrap_or(Duration::from_secs(seconds)))
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

/// What the authority said, in its own checked words.
fn said(answer: &AuthorityError) -> String {
    match (&answer.error, answer.status) {
        (Some(error), _) => format!("the error {error}, which may mean several things or is not known here"),
        (None, Some(status)) => format!("status {status} and nothing that says why"),
        (None, None) => "nothing that says why".to_owned(),
    }
}

fn app_rejected_hint(answer: &AuthorityError) -> &'static str {
    let has = |numbers: &[u32]| answer.error_codes.iter().any(|code| numbers.contains(code));
    if has(&[9_002_326, 9_002_327]) {
        "the operator must register the redirect URI for the platform Web: it is registered for a single-page application; connections are fine"
    } else if has(&[900_382, 900_432, 900_439]) {
        "the operator must register the app in the user's cloud, and name that cloud's host as the authority; connections are fine"
    } else {
        "the operator must mend the app's registration (disabled, wrong tenant, redirect URI or permissions); connections are fine"
    }
}

fn blocked_hint(reason: &str) -> String {
    let what = match reason {
        "admin_consent_required" => {
            "an administrator of the user's tenant must approve the app: POST /v1/admin-consent-sessions makes the link for it"
        }
        "assignment_required" => "an administrator of the user's tenant must assign the user to the app",
        "account_disabled" => "an administrator must enable or unlock the user's account",
        "device_required" => {
            "the user's organisation wants a managed device; its administrator can say which"
        }
        "app_not_in_tenant" => {
            "the app is absent, disabled or not licensed in the user's tenant: an administrator must approve or enable it there"
        }
        "tenant_gone" => {
            "the authority does not know the user's tenant any more; where that stays so, delete the connection"
        }
        _ => "the user's organisation blocks this by policy; its administrator can say why",
    };
    format!("{what}; tokenward tries again by itself")
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

#[cfg(test)]
mod tests {
    use super::*;

    fn problem(refusal: impl Fn(AuthorityError) -> Refusal, answer: AuthorityError) -> Problem {
        Problem::of(refusal(answer))
    }

    fn answer(status: u16, error: Option<&str>, error_codes: &[u32]) -> AuthorityError {
        let (error, error_codes) = (error.map(str::to_owned), error_codes.to_vec());
        AuthorityError { status: Some(status), error, error_codes, ..AuthorityError::default() }
    }

    /// Only silence, a failure of its own and throttling are told as passing.
    #[test]
    fn what_the_authority_answered_is_not_told_as_an_outage() {
        let unavailable =
            |answer| Refusal::AuthorityUnavailable { retry_after: Duration::from_secs(1), answer };
        let is_outage = |answer| problem(unavailable, answer).detail.contains("down, slow or throttling");
        for status in [408, 425, 429, 500, 502, 503, 504] {
            assert!(is_outage(answer(status, None, &[])), "{status}");
        }
        assert!(is_outage(AuthorityError::default()), "no answer");
        for status in [200, 400, 401, 403, 404, 418] {
            assert!(!is_outage(answer(status, None, &[])), "{status}");
            assert!(!is_outage(answer(status, Some("invalid_request"), &[])), "{status}");
        }
        let said = problem(unavailable, answer(400, Some("token_inactive"), &[]));
        assert!(said.detail.contains("token_inactive"), "{}", said.detail);
    }

    /// What tokenward puts off itself is not told as an outage of the authority, and the other way round.
    #[test]
    fn each_reason_of_our_own_is_told_as_ours() {
        let rows = [
            (NotNow::Crowded, "overloaded", 2),
            (NotNow::LeaseElsewhere, "overloaded", 1),
            (NotNow::LeaseRanOut, "overloaded", 2),
            (NotNow::AskedToWait(None), "authority_unavailable", 2),
            (NotNow::AskedToWait(Some(Duration::from_secs(17))), "authority_unavailable", 17),
            (NotNow::Unsettled, "authority_unavailable", 5),
            (NotNow::UnderWay, "authority_unavailable", 2),
        ];
        for (why, code, retry_after) in rows {
            let problem = Problem::of(Refusal::NotNow(why));
            assert_eq!((problem.status, problem.code, problem.retry_after), (503, code, Some(retry_after)));
            assert_eq!((problem.detail, problem.error), (why.to_string(), None), "{why:?}");
        }
    }

    #[test]
    fn the_operator_is_told_what_to_mend() {
        let rejected = |answer| Refusal::AppRejected { retry_after: Duration::from_secs(1), answer };
        let hint = |code| problem(rejected, answer(400, Some("invalid_request"), &[code])).hint;
        assert!(hint(9_002_327).contains("platform Web") && hint(9_002_326).contains("platform Web"));
        assert!(hint(900_382).contains("cloud") && hint(900_439).contains("cloud"));
        assert!(hint(50011).contains("redirect URI"));
    }
}
