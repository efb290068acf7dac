//! The form of the OAuth token endpoint's refusals (RFC 6749 §5.2, RFC 8693 §2.2.2).

use http::{HeaderMap, HeaderValue, StatusCode, header};
use serde::Serialize;

use crate::api::problem::{Members, Problem, json};
use crate::listener::Response;

/// A refusal: the members of RFC 6749, and the contract's own beside them.
#[derive(Serialize)]
struct Refusal<'a> {
    error: &'static str,
    error_description: String,
    code: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    parameter: Option<&'static str>,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    scopes: &'a [String],
    #[serde(skip_serializing_if = "Option::is_none")]
    retry_after: Option<u64>,
    /// The authority's own `error`.
    #[serde(skip_serializing_if = "Option::is_none")]
    authority_error: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    suberror: Option<&'a str>,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    error_codes: &'a [u32],
    #[serde(skip_serializing_if = "Option::is_none")]
    trace_id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    correlation_id: Option<&'a str>,
    request_id: &'a str,
}

/// Writes a refusal.
pub(super) fn refusal(problem: &Problem, request_id: &str) -> Response {
    let status = status(problem);
    let Members {
        reason,
        scopes,
        retry_after,
        error: theirs,
        suberror,
        error_codes,
        trace_id,
        correlation_id,
        ..
    } = &problem.more;
    let body = Refusal {
        error: error(problem),
        error_description: description(problem),
        code: problem.code,
        reason: *reason,
        parameter: problem.parameter(),
        scopes,
        retry_after: *retry_after,
        authority_error: theirs.as_deref(),
        suberror: suberror.as_deref(),
        error_codes,
        trace_id: trace_id.as_deref(),
        correlation_id: correlation_id.as_deref(),
        request_id,
    };
    let mut response = json(status, &body);
    let headers = response.headers_mut();
    problem.tell_headers(headers, u64::MAX);
    tell_not_to_store(headers);
    if status == StatusCode::UNAUTHORIZED {
        // The only method that is offered in this header.
        let basic = HeaderValue::from_static("Basic realm=\"tokenward\", charset=\"UTF-8\"");
        headers.insert(header::WWW_AUTHENTICATE, basic);
    }
    response
}

/// RFC 6749 §5.1 wants the older header, too.
pub(in crate::api) fn tell_not_to_store(headers: &mut HeaderMap) {
    headers.insert(header::PRAGMA, HeaderValue::from_static("no-cache"));
}

/// Returns the status. What the broker refuses a known client is 400 (RFC 6749 §5.2); what says nothing about
/// the request stays as it is.
fn status(problem: &Problem) -> StatusCode {
    match (problem.status(), problem.code) {
        (status, "not_found" | "method_not_allowed") => status,
        (StatusCode::FORBIDDEN | StatusCode::NOT_FOUND | StatusCode::CONFLICT, _) => StatusCode::BAD_REQUEST,
        (status, _) => status,
    }
}

/// Returns the `error`. What is passing or the operator's to mend is told by its status, whatever the code.
fn error(problem: &Problem) -> &'static str {
    match problem.status() {
        StatusCode::UNAUTHORIZED => return "invalid_client",
        StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE => return "temporarily_unavailable",
        status if status.is_server_error() => return "server_error",
        _ => {}
    }
    match (problem.code, problem.parameter()) {
        (
            "invalid_request" | "caller_forbidden" | "scope_not_granted" | "app_not_found",
            Some("resource" | "audience" | "tenant"),
        ) => "invalid_target",
        // The app's own token is for no grant, but for this tenant.
        ("tenant_blocked", _) => "invalid_target",
        ("invalid_request", Some("scope")) => "invalid_scope",
        ("invalid_request", Some("grant_type")) => "unsupported_grant_type",
        ("caller_forbidden", Some("grant_type")) => "unauthorized_client",
        ("caller_forbidden" | "scope_not_granted", _) => "invalid_scope",
        (
            "reauthorization_required" | "connection_blocked" | "connection_paused" | "confirmation_rejected",
            _,
        ) => "invalid_grant",
        // A subject token that names nothing the client may have is unacceptable (RFC 8693 §2.2.2).
        _ => "invalid_request",
    }
}

/// Returns what happened and what to do next, in the characters that `error_description` may have.
fn description(problem: &Problem) -> String {
    let hint = match problem.code {
        "caller_unauthenticated" => {
            "authenticate by one method: client_secret_basic or client_secret_post with the caller's name as \
             client_id and its API key as client_secret, or private_key_jwt with an assertion that is made \
             for this request and whose aud is this issuer, as one string"
        }
        "reauthorization_required" => {
            "start a connect session (POST /v1/connect-sessions with the app and the connection) and send \
             the user to its connect_url"
        }
        _ => problem.hint.as_str(),
    };
    let hint = match problem.more.retry_after {
        // Clients show the description and not the header.
        Some(seconds) => hint.replace("the time in Retry-After", &format!("{seconds} s")),
        None => hint.to_owned(),
    };
    let text = if hint.is_empty() { problem.detail.clone() } else { format!("{}; {hint}", problem.detail) };
    let in_set = |character| match character {
        '"' => '\'',
        '\\' => '/',
        ' '..='~' => character,
        _ => '?',
    };
    text.chars().map(in_set).collect()
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt;
    use serde_json::Value;

    use super::*;
    use crate::broker::Refusal as Broker;
    use crate::callers::jwt::JwtRefusal;
    use crate::domain::not_now::NotNow;
    use crate::domain::verdict::{AuthorityError, BlockReason, ReauthReason};

    async fn written(problem: Problem) -> (u16, Value, HeaderMap) {
        let (parts, body) = refusal(&problem, "an-id").into_parts();
        let bytes = body.collect().await.expect("a whole body").to_bytes();
        (parts.status.as_u16(), serde_json::from_slice(&bytes).expect("JSON"), parts.headers)
    }

    /// The contract's codes in this dialect: every refusal has a row.
    #[tokio::test]
    async fn what_each_refusal_is_at_the_token_endpoint() {
        let answer = AuthorityError::default;
        let invalid = |parameter| Problem::invalid(parameter, "is odd");
        let of = Problem::of;
        let forbidden = || Problem::of(Broker::Forbidden { problem: "no rule gives it".to_owned() });
        let not_granted = || Problem::of(Broker::ScopeNotGranted { scopes: vec!["Mail.Send".to_owned()] });
        let rows = [
            (invalid("body"), 400, "invalid_request"),
            (invalid("subject_token"), 400, "invalid_request"),
            (invalid("client_id"), 400, "invalid_request"),
            (invalid("query"), 400, "invalid_request"),
            (invalid("scope"), 400, "invalid_scope"),
            (invalid("resource"), 400, "invalid_target"),
            (invalid("audience"), 400, "invalid_target"),
            (invalid("grant_type"), 400, "unsupported_grant_type"),
            (Problem::unauthenticated(), 401, "invalid_client"),
            (forbidden(), 400, "invalid_scope"),
            (forbidden().about("resource"), 400, "invalid_target"),
            (forbidden().about("grant_type"), 400, "unauthorized_client"),
            (not_granted(), 400, "invalid_scope"),
            (not_granted().about("resource"), 400, "invalid_target"),
            (forbidden().about("tenant"), 400, "invalid_target"),
            (forbidden().about("scope"), 400, "invalid_scope"),
            (invalid("tenant"), 400, "invalid_target"),
            (of(Broker::AppNotFound), 400, "invalid_request"),
            (of(Broker::AppNotFound).about("audience"), 400, "invalid_target"),
            (
                of(Broker::TenantBlocked { reason: BlockReason::AppNotInTenant, answer: answer() }),
                400,
                "invalid_target",
            ),
            (of(Broker::ConnectionNotFound), 400, "invalid_request"),
            (of(Broker::SessionNotFound), 400, "invalid_request"),
            (
                of(Broker::ReauthorizationRequired { reason: ReauthReason::GrantExpired, answer: answer() }),
                400,
                "invalid_grant",
            ),
            (
                of(Broker::ConnectionBlocked { reason: BlockReason::PolicyBlocked, answer: answer() }),
                400,
                "invalid_grant",
            ),
            (of(Broker::ConnectionPaused), 400, "invalid_grant"),
            (
                of(Broker::RateLimited { retry_after: std::time::Duration::ZERO }),
                429,
                "temporarily_unavailable",
            ),
            (of(Broker::NotNow(NotNow::Crowded)), 503, "temporarily_unavailable"),
            (
                of(Broker::AuthorityUnavailable { asked: None, answer: answer() }),
                503,
                "temporarily_unavailable",
            ),
            (of(Broker::AuthorityUnclear { answer: answer() }), 503, "temporarily_unavailable"),
            (of(Broker::SameTokenAgain), 503, "temporarily_unavailable"),
            (of(Broker::AppCredentialRejected { answer: answer() }), 503, "temporarily_unavailable"),
            (of(Broker::AppRejected { answer: answer() }), 503, "temporarily_unavailable"),
            (of(Broker::StoreNearlyFull), 503, "temporarily_unavailable"),
            (of(Broker::RecordDamaged), 503, "temporarily_unavailable"),
            (of(Broker::StoreUnavailable), 503, "temporarily_unavailable"),
            (of(Broker::AuditUnavailable), 503, "temporarily_unavailable"),
            (Problem::overloaded(), 503, "temporarily_unavailable"),
            (Problem::of_stranger(JwtRefusal::NoKeys.into(), false), 503, "temporarily_unavailable"),
            (Problem::no_such_path(), 404, "invalid_request"),
            (Problem::method_not_allowed(HeaderValue::from_static("POST")), 405, "invalid_request"),
            (Problem::internal(), 500, "server_error"),
        ];
        for (problem, status, error) in rows {
            let code = problem.code;
            let (written_status, body, headers) = written(problem).await;
            assert_eq!((written_status, body["error"].as_str()), (status, Some(error)), "{code} {body}");
            assert_eq!((body["code"].as_str(), body["request_id"].as_str()), (Some(code), Some("an-id")));
            let said = body["error_description"].as_str().expect("text");
            assert!(said.contains("; "), "no way out: {said}");
            assert!(
                said.bytes().all(|byte| matches!(byte, 0x20..=0x21 | 0x23..=0x5b | 0x5d..=0x7e)),
                "{said}"
            );
            assert_eq!(headers["cache-control"], "no-store");
            assert_eq!(headers["pragma"], "no-cache");
            assert_eq!(headers.contains_key("retry-after"), matches!(status, 429 | 503), "{code}");
            assert_eq!(headers.contains_key("www-authenticate"), status == 401);
        }
    }

    #[tokio::test]
    async fn the_authority_s_words_stand_beside_ours() {
        let answer = AuthorityError {
            error: Some("invalid_grant".to_owned()),
            error_codes: vec![50173],
            trace_id: Some("t".to_owned()),
            ..AuthorityError::default()
        };
        let reason = ReauthReason::GrantRevoked;
        let (_, body, _) = written(Problem::of(Broker::ReauthorizationRequired { reason, answer })).await;
        assert_eq!(body["error"], "invalid_grant");
        assert_eq!(
            (&body["authority_error"], &body["error_codes"][0]),
            (&"invalid_grant".into(), &50173.into())
        );
        assert_eq!((&body["reason"], &body["trace_id"]), (&"grant_revoked".into(), &"t".into()));
        assert!(!body["error_description"].as_str().expect("text").contains("connect=1"));
    }

    #[test]
    fn a_description_has_the_characters_that_it_may_have() {
        let problem = Problem::invalid("body", "says \"a\\b\", and ü\n\u{1b}");
        assert!(
            description(&problem).starts_with("body: says 'a/b', and ???; "),
            "{}",
            description(&problem)
        );
    }
}
