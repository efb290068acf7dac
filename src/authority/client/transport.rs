//! The requests to the authority. Each is sent once and reported; its answer is read or classified.

use std::sync::Arc;
use std::time::Duration;

use http::Method;
use http::header::{HeaderMap, HeaderName, HeaderValue};
use zeroize::Zeroizing;

use super::answered::Answered;
use super::config::AuthorityParts;
use super::failure::{LATER, from_transport, ours};
use crate::authority::classify::{self, Question};
use crate::authority::http::{HttpAnswer, HttpClient};
use crate::authority::observer::{AuthorityEvent, AuthorityObserver, Endpoint};
use crate::authority::text::{one_line, trace_word};
use crate::authority::token_answer;
use crate::authority::url::CheckedUrl;
use crate::authority::wire::{self, TokenError};
use crate::domain::random::{Random, random_uuid};
use crate::domain::time::Clock;
use crate::domain::verdict::{AuthorityError, AuthorityFailure, Disposition};
use crate::outbound::{http_date, retry_after};
use crate::span::{self, Span, Value, key};

/// Sends requests, and reports each.
pub(super) struct Transport {
    http: HttpClient,
    clock: Arc<dyn Clock>,
    random: Arc<dyn Random>,
    observer: Arc<dyn AuthorityObserver>,
}

impl Transport {
    pub(super) fn new(http: HttpClient, parts: &AuthorityParts) -> Self {
        let AuthorityParts { clock, random, observer, token_hosts: _ } = parts.clone();
        Transport { http, clock, random, observer }
    }

    /// The client, for looking at the authority beside the requests.
    pub(super) fn http(&self) -> &HttpClient {
        &self.http
    }

    /// Fetches a document, and returns what `check` makes of it.
    pub(super) async fn document<T>(
        &self,
        doing: &'static str,
        endpoint: Endpoint,
        url: &CheckedUrl,
        limit: Duration,
        check: impl Fn(&[u8]) -> Result<T, String>,
    ) -> Result<T, AuthorityFailure> {
        let began = self.clock.monotonic();
        let span = call_of(&Method::GET, endpoint, url);
        let got = span::within(span.as_ref(), self.http.get(url, HeaderMap::new(), limit)).await;
        tell_status(span.as_ref(), got.as_ref().ok());
        let read = match got {
            Err(failure) => Err(from_transport(doing, failure, true)),
            Ok(answer) if answer.status != 200 => {
                let after = self.retry_after(&answer);
                let cause = format!("{} answered with status {}", url.host(), answer.status);
                Err(AuthorityFailure {
                    answer: AuthorityError { status: Some(answer.status), ..AuthorityError::default() },
                    ..ours(doing, Disposition::RetryAfter(after), cause)
                })
            }
            // The document is not down but unsuitable: an operator must check it, unless that passes.
            Ok(answer) => check(&answer.body).map_err(|cause| ours(doing, LATER, cause)),
        };
        let outcome = read.as_ref().map_or_else(|failure| failure.disposition.as_str(), |_| "ok");
        self.request_ended(endpoint, began, outcome);
        tell_outcome(span, outcome);
        if let Err(failure) = &read {
            tracing::warn!(doing, cause = failure.cause, "a document of the authority could not be used");
        }
        read
    }

    /// Sends one token request and returns its answer.
    pub(super) async fn exchange(
        &self,
        (doing, question): (&'static str, Question),
        endpoint: &CheckedUrl,
        mut headers: HeaderMap,
        form: Zeroizing<String>,
        limit: Duration,
    ) -> Result<Answered, AuthorityFailure> {
        // The form in which Entra takes a request's id.
        let request_id = random_uuid(&*self.random);
        if let Ok(value) = HeaderValue::from_str(&request_id) {
            headers.insert(HeaderName::from_static("client-request-id"), value);
        }
        let began = self.clock.monotonic();
        let span = call_of(&Method::POST, Endpoint::Token, endpoint);
        let answered = span::within(span.as_ref(), self.http.post(endpoint, headers, form, limit)).await;
        tell_status(span.as_ref(), answered.as_ref().ok());
        // The authority counts the lives of tokens, so its clock is the one to follow.
        if let Ok(answer) = &answered
            && let Some(date) = answer.header("date").and_then(http_date)
        {
            self.clock.witness(date);
        }
        let requested_at = self.clock.now().minus(self.clock.monotonic().saturating_sub(began));
        let result = match answered {
            Err(failure) => Err(from_transport(doing, failure, false)),
            // (RFC 6749 §5.1 knows only 200. A gateway may send another success, and the refresh token was
            // used all the same.)
            Ok(answer) if (200..300).contains(&answer.status) => {
                let trace_id = answer.header("x-ms-request-id").and_then(trace_word);
                let correlation_id = Some(request_id.clone());
                let ids = AuthorityError {
                    status: Some(answer.status),
                    trace_id,
                    correlation_id,
                    ..AuthorityError::default()
                };
                Ok(Answered { read: token_answer::read(&answer), requested_at, ids })
            }
            Ok(answer) => Err(self.refused(doing, question, &answer)),
        };
        let outcome = match &result {
            Ok(Answered { read: Ok(_), .. }) => "ok",
            Ok(_) => LATER.as_str(),
            Err(failure) => failure.disposition.as_str(),
        };
        self.request_ended(Endpoint::Token, began, outcome);
        tell_outcome(span, outcome);
        match result {
            Ok(answered) => {
                tracing::debug!(doing, request_id, "the authority answered");
                Ok(answered)
            }
            Err(mut failure) => {
                failure.answer.correlation_id.get_or_insert_with(|| request_id.clone());
                tracing::debug!(
                    doing,
                    request_id,
                    cause = failure.cause,
                    "the authority did not give a token"
                );
                Err(failure)
            }
        }
    }

    /// Makes the failure for an answer that is no success.
    fn refused(&self, doing: &'static str, question: Question, answer: &HttpAnswer) -> AuthorityFailure {
        let refusal = wire::refusal(answer);
        let after = self.retry_after(answer);
        let conclusion = classify::token_error(answer.status, refusal.as_ref(), after, question);
        let TokenError { error, suberror, codes, trace_id, correlation_id, claims, description } =
            refusal.unwrap_or_default();
        if let Some(description) = description {
            tracing::debug!(description = one_line(&description), "the authority's words");
        }
        tracing::debug!(
            request = answer.header("x-ms-request-id").map(one_line),
            server = answer.header("x-ms-ests-server").map(one_line),
            "the authority's ids of its answer"
        );
        let trace_id = trace_id.or_else(|| answer.header("x-ms-request-id").and_then(trace_word));
        AuthorityFailure {
            doing,
            cause: conclusion.why.to_owned(),
            disposition: conclusion.disposition,
            answer: AuthorityError {
                status: Some(answer.status),
                error,
                suberror,
                error_codes: codes,
                trace_id,
                correlation_id,
            },
            claims,
        }
    }

    fn retry_after(&self, answer: &HttpAnswer) -> Option<Duration> {
        answer.header("retry-after").and_then(|value| retry_after(value, self.clock.now()))
    }

    fn request_ended(&self, endpoint: Endpoint, began: Duration, outcome: &'static str) {
        let duration = self.clock.monotonic().saturating_sub(began);
        self.observe(AuthorityEvent::Request { endpoint, outcome, duration });
    }

    pub(super) fn observe(&self, event: AuthorityEvent<'_>) {
        self.observer.observe(event);
    }
}

/// Begins the span of a request, in a sampled trace. (The authority is somebody else's, and is not told of
/// the trace.)
fn call_of(method: &Method, endpoint: Endpoint, url: &CheckedUrl) -> Option<Span> {
    let span = span::begin_call(method)?;
    span.set(key::ENDPOINT, Value::Word(endpoint.as_str()));
    span.set("server.address", Value::Address(url.host()));
    span.set("server.port", Value::Number(url.port().into()));
    span.set("url.full", Value::Address(url.without_query()));
    Some(span)
}

fn tell_status(span: Option<&Span>, answer: Option<&HttpAnswer>) {
    if let (Some(span), Some(answer)) = (span, answer) {
        span.set("http.response.status_code", Value::Number(answer.status.into()));
    }
}

/// Ends the span of a request.
fn tell_outcome(span: Option<Span>, outcome: &'static str) {
    let Some(span) = span else { return };
    span.set(key::OUTCOME, Value::Word(outcome));
    if outcome != "ok" {
        span.fail(Value::Word(outcome));
    }
}
