//! Every refusal as an RFC 9457 problem document. Status, code and `Retry-After` are
//! [`Refusal::outside`]'s; the words are in `words`.

mod codes;
mod words;

use http::{HeaderMap, HeaderValue, StatusCode, header};
use serde::Serialize;

pub use self::codes::{CODES, meaning};
use self::words::Words;
use crate::broker::{Outside, Refusal};
use crate::callers::AuthenticationFailure;
use crate::callers::jwt::JwtRefusal;
use crate::domain::id::{ConnectionKey, InvalidName};
use crate::domain::verdict::AuthorityError;
use crate::listener::{BadPairs, MOST_PARAMETERS, Refused, Response, response};

/// `Retry-After` while an issuer's keys are missing, in seconds: they are asked for as often.
const NO_KEYS_FOR: u64 = 5;

/// A problem document. Codes are contract; words are not.
pub type Problem = crate::listener::Problem<Members>;

/// The members that only problems of an API have.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Members {
    /// For the `Allow` header of a 405.
    #[serde(skip)]
    allow: Option<Box<HeaderValue>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    parameter: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) reason: Option<&'static str>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) scopes: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) retry_after: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    connect_url: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) error: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) suberror: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) error_codes: Vec<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) trace_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) correlation_id: Option<String>,
    /// The request brought a credential, which `WWW-Authenticate` then says is no good.
    #[serde(skip)]
    brought_credential: bool,
    /// The audit has it already.
    #[serde(skip)]
    is_recorded: bool,
}

impl Problem {
    fn reason(mut self, reason: &'static str) -> Self {
        self.more.reason = Some(reason);
        self
    }

    fn after(mut self, seconds: u64) -> Self {
        self.more.retry_after = Some(seconds);
        self
    }

    fn answer(mut self, answer: AuthorityError) -> Self {
        self.more.error = answer.error;
        self.more.suberror = answer.suberror;
        self.more.error_codes = answer.error_codes;
        self.more.trace_id = answer.trace_id;
        self.more.correlation_id = answer.correlation_id;
        self
    }

    /// Notes that the audit has it.
    #[must_use]
    pub(super) fn recorded(mut self) -> Self {
        self.more.is_recorded = true;
        self
    }

    /// Returns true if the audit has it.
    pub(super) fn is_recorded(&self) -> bool {
        self.more.is_recorded
    }

    /// Names the parameter that the refusal is about.
    pub(super) fn about(mut self, parameter: &'static str) -> Self {
        self.more.parameter = Some(parameter);
        self
    }

    /// Returns the parameter that it is about.
    pub(super) fn parameter(&self) -> Option<&'static str> {
        self.more.parameter
    }

    /// Adds the link at which the user can mend it.
    pub fn with_connect_url(mut self, url: String) -> Self {
        self.more.connect_url = Some(url);
        self
    }

    /// Returns the link at which the user can mend it, if it was asked for.
    pub(super) fn connect_url(&self) -> Option<&str> {
        self.more.connect_url.as_deref()
    }

    /// For operators, who are no callers and have no rules: the same refusal.
    #[must_use]
    pub fn for_an_operator(mut self) -> Self {
        if self.code == "app_not_found" {
            "there is no such app".clone_into(&mut self.detail);
            "`tokenward credentials list` shows every app; check the name".clone_into(&mut self.hint);
        }
        self
    }

    /// For operators: the connection is paused.
    pub fn paused(key: &ConnectionKey) -> Self {
        let ConnectionKey { app, connection } = key;
        Problem::of(Refusal::ConnectionPaused)
            .hint(format!("`tokenward connections resume {app} {connection}` lets it go on"))
    }

    /// For operators, who are no callers: there is no connection of this name.
    pub fn no_such_connection(key: &ConnectionKey) -> Self {
        let ConnectionKey { app, connection } = key;
        Problem::new(
            StatusCode::NOT_FOUND,
            "connection_not_found",
            "No such connection",
            "there is no such connection",
        )
        .hint(format!(
            "`tokenward connections list {app} --text TEXT` finds connections by part of their name; \
             `tokenward sessions list {app} {connection}` shows the sign-ins for this one"
        ))
    }

    /// For operators: there is no connection, and an operator's pause holds its name.
    pub fn of_held_name(self, key: &ConnectionKey) -> Self {
        let ConnectionKey { app, connection } = key;
        self.hint(format!(
            "its name is paused: nobody can connect it until `tokenward connections resume {app} \
             {connection}`"
        ))
    }

    /// A parameter's mistake.
    pub fn invalid(parameter: &'static str, problem: impl Into<String>) -> Self {
        Problem::of(Refusal::InvalidRequest { parameter, problem: problem.into() })
    }

    /// A query that is not read. Only names of our own are repeated in the answer.
    pub fn query(bad: BadPairs) -> Self {
        const OURS: [&str; 17] = [
            "label",
            "account",
            "reason",
            "reference",
            "state",
            "text",
            "app",
            "connection",
            "scope",
            "resource",
            "min_ttl",
            "connect",
            "status",
            "tenant",
            "cursor",
            "wait",
            "client_id",
        ];
        let BadPairs::Repeated(name) = bad else {
            return Problem::invalid("query", format!("has more than {MOST_PARAMETERS} parameters"));
        };
        let parameter = OURS.into_iter().find(|ours| *ours == name).unwrap_or("query");
        Problem::invalid(parameter, "stands in the query twice")
    }

    /// Whether it denies a right, or that there is anything: no mistake of the request, and no trouble here.
    pub(super) fn denies(&self) -> bool {
        matches!(self.status().as_u16(), 401 | 403 | 404 | 409)
    }

    /// 401: nobody we know. Missing, malformed, unknown and expired look the same.
    pub fn unauthenticated() -> Self {
        Problem::new(
            StatusCode::UNAUTHORIZED,
            "caller_unauthenticated",
            "The caller is not known",
            "the request carries no credential that is known here",
        )
        .hint(
            "send an API key or a configured issuer's token as `Authorization: Bearer …`, come over the Unix \
             socket as a configured user, or show a client certificate with a configured name where the \
             listener asks for one",
        )
    }

    /// Who asks is not known: 401, or 503 while the keys that would tell could not be fetched yet. A client
    /// that is told 401 gives up, and this one has done nothing wrong. `brought` says that a header had a
    /// credential.
    pub(super) fn of_stranger(failure: AuthenticationFailure, brought: bool) -> Self {
        match failure {
            AuthenticationFailure::Jwt(JwtRefusal::NoKeys) => Problem::new(
                StatusCode::SERVICE_UNAVAILABLE,
                "issuer_unavailable",
                "The issuer's keys are not known yet",
                "the keys of this token's issuer could not be fetched yet, so nobody can verify it",
            )
            .hint("try again after the time in Retry-After; the operator must see to it if that lasts")
            .after(NO_KEYS_FOR),
            // (Only this daemon could seal it, so its bearer is no stranger.)
            AuthenticationFailure::HandleEnded => Problem::of(Refusal::HandleEnded),
            _ => Problem::unauthenticated().for_credential(brought),
        }
    }

    /// Notes whether the request brought a credential of its own in a header: `WWW-Authenticate` names an
    /// error only then (RFC 6750 §3.1).
    #[must_use]
    pub fn for_credential(mut self, brought: bool) -> Self {
        self.more.brought_credential = brought;
        self
    }

    /// A request that the listener refuses.
    pub(super) fn of_listener(refused: Refused) -> Self {
        let (status, code, detail) = refused.words();
        let problem = Problem::new(status, code, status.canonical_reason().unwrap_or("Error"), detail);
        match refused {
            Refused::Overloaded => problem.hint("try again after the time in Retry-After").after(1),
            Refused::Panicked => problem.hint("report the request_id to the operator"),
            Refused::HeadTooLarge
            | Refused::TargetTooLong
            | Refused::TooManyParameters
            | Refused::Malformed => problem.hint("correct the request; the same one will fail again"),
        }
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

    /// 502, or 504, for a resource that did not answer a relayed request.
    pub(super) fn relay_failed(status: u16, detail: impl Into<String>) -> Self {
        let status = StatusCode::from_u16(status).unwrap_or(StatusCode::BAD_GATEWAY);
        Problem::new(status, "relay_failed", "The resource did not answer", detail).hint(
            "the resource may have done what was asked: try again where that does no harm; the operator sees \
             to the way there (the base's address, [outbound] proxy, relay.ca) if that lasts",
        )
    }

    /// 404 for a path that is no route.
    pub fn no_such_path() -> Self {
        Problem::new(StatusCode::NOT_FOUND, "not_found", "No such path", "there is nothing at this path")
            .hint("the paths are listed in /openapi.json")
    }

    /// 405 for a path with these methods.
    pub fn method_not_allowed(allow: HeaderValue) -> Self {
        let mut problem = Problem::new(
            StatusCode::METHOD_NOT_ALLOWED,
            "method_not_allowed",
            "Another method is needed",
            "this path does not take this method",
        )
        .hint("the Allow header lists the methods");
        problem.more.allow = Some(Box::new(allow));
        problem
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
        let words = words::of(&refusal);
        Problem::in_words(refusal, words)
    }

    /// The problem that a refusal of a token of the app itself is.
    pub fn of_app(refusal: Refusal) -> Self {
        let words = words::of_app(&refusal);
        Problem::in_words(refusal, words)
    }

    fn in_words(refusal: Refusal, Words { title, detail, hint }: Words) -> Self {
        let Outside { status, code, retry_after } = refusal.outside();
        let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let mut problem = Problem::new(status, code, title, detail).hint(hint);
        problem.more.retry_after = retry_after;
        match refusal {
            Refusal::InvalidRequest { parameter, .. } => problem.more.parameter = Some(parameter),
            Refusal::ScopeNotGranted { scopes } => problem.more.scopes = scopes,
            Refusal::ReauthorizationRequired { reason, answer } => {
                return problem.reason(reason.as_str()).answer(answer);
            }
            Refusal::ConnectionBlocked { reason, answer } | Refusal::TenantBlocked { reason, answer } => {
                return problem.reason(reason.as_str()).answer(answer);
            }
            Refusal::ImportRefused(why) => return problem.reason(why.as_str()),
            Refusal::AuthorityUnavailable { answer, .. }
            | Refusal::AuthorityUnclear { answer }
            | Refusal::AppCredentialRejected { answer }
            | Refusal::AppRejected { answer } => return problem.answer(answer),
            // Only who brings a handle is told so.
            Refusal::HandleEnded => problem.more.brought_credential = true,
            Refusal::Forbidden { .. }
            | Refusal::AppNotFound
            | Refusal::ConnectionNotFound
            | Refusal::SessionNotFound
            | Refusal::ConnectionPaused
            | Refusal::ConfirmationRejected { .. }
            | Refusal::RateLimited { .. }
            | Refusal::ConnectionRateLimited { .. }
            | Refusal::MailboxBusy { .. }
            | Refusal::EventsGone
            | Refusal::TooManyForced { .. }
            | Refusal::TooManyImports { .. }
            | Refusal::TooMany { .. }
            | Refusal::TooManyWalks { .. }
            | Refusal::TooManyStreams { .. }
            | Refusal::NotNow(_)
            | Refusal::SameTokenAgain
            | Refusal::StoreNearlyFull
            | Refusal::StoreFull
            | Refusal::RecordDamaged
            | Refusal::StoreUnavailable
            | Refusal::AuditUnavailable => {}
        }
        problem
    }

    /// Writes the response.
    pub fn response(self, request_id: &str) -> Response {
        let mut headers = HeaderMap::new();
        self.tell_headers(&mut headers, u64::MAX);
        let mut response = self.document(request_id);
        response.headers_mut().extend(headers);
        response
    }

    /// Adds what is said in headers, with a wait of at most so many seconds.
    pub(super) fn tell_headers(&self, headers: &mut HeaderMap, longest_wait: u64) {
        if self.status() == StatusCode::UNAUTHORIZED {
            let challenge = match self.more.brought_credential {
                true => "Bearer realm=\"tokenward\", error=\"invalid_token\"",
                false => "Bearer realm=\"tokenward\"",
            };
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static(challenge));
        }
        if let Some(seconds) = self.more.retry_after {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds.min(longest_wait)));
        }
        if let Some(allow) = &self.more.allow {
            headers.insert(header::ALLOW, (**allow).clone());
        }
    }
}

/// A JSON answer that is never cached.
pub fn json<T: Serialize>(status: StatusCode, body: &T) -> Response {
    json_bytes(status, serde_json::to_vec(body).expect("answers are plain JSON"))
}

/// The same of JSON that is written already.
pub fn json_bytes(status: StatusCode, body: Vec<u8>) -> Response {
    let mut response = response(status, "application/json", body);
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}
