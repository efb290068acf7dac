//! The form of App Service's managed identity.
//! <https://learn.microsoft.com/azure/app-service/overview-managed-identity#rest-endpoint-reference>

use std::borrow::Cow;

use http::StatusCode;
use serde::Serialize;

use super::only;
use crate::api::problem::{Problem, json};
use crate::api::{credential_of_peer, text_of};
use crate::callers::Credential;
use crate::listener::{Fields, Peer, Response};

/// The headers with the caller's API key: clients take it from `IDENTITY_HEADER`, and in the older versions
/// from `MSI_SECRET`.
pub(super) const KEYS: [&str; 2] = ["x-identity-header", "secret"];

/// The longest wait that a client is told, in seconds: Python and Rust obey without a limit of their own.
const LONGEST_WAIT: u64 = 5;

/// A refusal. Each client shows its user other members, and one takes a body without `message` and `error`
/// for an empty token.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Refusal<'a> {
    status_code: u16,
    message: &'a str,
    correlation_id: &'a str,
    error: &'a str,
    #[serde(rename = "error_description")]
    error_description: &'a str,
}

/// Reads the credential. One in another place than this protocol's is refused, even on a Unix socket.
pub(super) fn credential<'a>(headers: &'a impl Fields, peer: &'a Peer) -> Option<Credential<'a>> {
    if headers.has("authorization") {
        return None;
    }
    let key = match KEYS.map(|name| only(headers, name)) {
        [Some(key), Some(None)] | [Some(None), Some(key)] => key,
        _ => return None,
    };
    let key = match key {
        Some(value) => Some(text_of(value)?),
        None => None,
    };
    Some(key.map_or_else(|| credential_of_peer(peer), Credential::ApiKey))
}

/// Writes a refusal.
pub(super) fn refusal(problem: &Problem, request_id: &str) -> Response {
    let status = status(problem);
    let message = message(problem);
    let body = Refusal {
        status_code: status.as_u16(),
        message: &message,
        correlation_id: request_id,
        error: problem.code,
        error_description: &message,
    };
    let mut response = json(status, &body);
    problem.tell_headers(response.headers_mut(), LONGEST_WAIT);
    response
}

/// What happened, and the way out: for developers, in the words of their SDK.
fn message(problem: &Problem) -> String {
    const ADDRESS: &str = "set IDENTITY_ENDPOINT to /msi/token of a local listener, or to \
        /v1/apps/{app}/connections/{connection}/msi/token, without a slash at the end";
    const LINK: &str = "start a connect session (POST /v1/connect-sessions with this app and connection) \
        and send the user to its connect_url; with ?connect=1 at the end of IDENTITY_ENDPOINT the link \
        stands here";
    let hint: Cow<'_, str> = match problem.code {
        "caller_unauthenticated" => {
            "set IDENTITY_HEADER to an API key of the caller, and IDENTITY_ENDPOINT to \
                                     the URL of /msi/token or of a connection's msi/token"
                .into()
        }
        "not_found" => ADDRESS.into(),
        "method_not_allowed" => format!("SDKs send GET; {ADDRESS}").into(),
        code => match problem.connect_url() {
            Some(url) => format!("send the user to {url}").into(),
            None if code == "reauthorization_required" => LINK.into(),
            None => problem.hint.as_str().into(),
        },
    };
    match &*hint {
        "" => problem.detail.clone(),
        hint => format!("{}; {hint}", problem.detail),
    }
}

/// Returns the status for these clients. What is wrong with the request, the connection or the rights is 403:
/// two of them ask again and again after 404 and 410, and one drops the body of a 400.
fn status(problem: &Problem) -> StatusCode {
    match (problem.status(), problem.code) {
        (StatusCode::NOT_FOUND, "app_not_found" | "connection_not_found")
        | (StatusCode::BAD_REQUEST | StatusCode::CONFLICT, _) => StatusCode::FORBIDDEN,
        (status, _) => status,
    }
}

#[cfg(test)]
mod tests {
    use http::{HeaderMap, HeaderValue};
    use http_body_util::BodyExt;

    use super::*;
    use crate::broker::Refusal as Refused;
    use crate::callers::jwt::JwtRefusal;
    use crate::domain::not_now::NotNow;
    use crate::domain::verdict::{AuthorityError, BlockReason, ReauthReason};
    use crate::listener::{Origin, PeerCertificate};

    #[test]
    fn the_key_stands_in_one_header_of_this_protocol() {
        let from = |origin| Peer { origin, tls: false, certificate: PeerCertificate::None };
        let unix = from(Origin::Unix { uid: 7, gid: 7, pid: None });
        let tcp = from(Origin::Tcp(([127, 0, 0, 1], 1).into()));
        // headers, the key with TCP, the key with Unix
        type Row<'a> = (&'a [(&'a str, &'a str)], Option<&'a str>, Option<&'a str>);
        let rows: [Row<'_>; 9] = [
            (&[], Some("none"), Some("uid 7")),
            (&[("X-IDENTITY-HEADER", "k")], Some("k"), Some("k")),
            (&[("x-identity-header", "k"), ("Metadata", "true")], Some("k"), Some("k")),
            (&[("secret", "k")], Some("k"), Some("k")),
            (&[("secret", "")], Some(""), Some("")),
            (&[("secret", "k"), ("x-identity-header", "k")], None, None),
            (&[("secret", "k"), ("secret", "k")], None, None),
            (&[("authorization", "Bearer k")], None, None),
            (&[("authorization", "Bearer k"), ("secret", "k")], None, None),
        ];
        for (lines, of_tcp, of_unix) in rows {
            let mut headers = HeaderMap::new();
            for (name, value) in lines {
                let name: http::HeaderName = name.parse().expect("a name");
                headers.append(name, HeaderValue::from_str(value).expect("a value"));
            }
            for (peer, expected) in [(&tcp, of_tcp), (&unix, of_unix)] {
                let found = credential(&headers, peer).map(|credential| match credential {
                    Credential::ApiKey(key) | Credential::Jwt(key) | Credential::Handle(key) => {
                        key.to_owned()
                    }
                    Credential::UnixPeer { uid } => format!("uid {uid}"),
                    Credential::Certificate(_) | Credential::DistrustedCertificate => {
                        "a certificate".to_owned()
                    }
                    Credential::None => "none".to_owned(),
                });
                assert_eq!(found.as_deref(), expected, "{lines:?}");
            }
        }
    }

    /// Every refusal, as these clients get it.
    #[tokio::test]
    async fn what_each_refusal_is_for_an_sdk() {
        let answer = AuthorityError::default;
        let seconds = std::time::Duration::from_secs;
        let reason = (ReauthReason::GrantExpired, BlockReason::PolicyBlocked);
        let rows = [
            (Refused::invalid("resource", "odd"), 403, "invalid_request", None),
            (Refused::Forbidden { problem: "no".into() }, 403, "caller_forbidden", None),
            (Refused::AppNotFound, 403, "app_not_found", None),
            (Refused::ConnectionNotFound, 403, "connection_not_found", None),
            (
                Refused::ReauthorizationRequired { reason: reason.0, answer: answer() },
                403,
                "reauthorization_required",
                None,
            ),
            (
                Refused::ConnectionBlocked { reason: reason.1, answer: answer() },
                403,
                "connection_blocked",
                None,
            ),
            (Refused::ScopeNotGranted { scopes: vec!["x".into()] }, 403, "scope_not_granted", None),
            (Refused::ConnectionPaused, 403, "connection_paused", None),
            (Refused::RateLimited { retry_after: seconds(1) }, 429, "rate_limited", Some("1")),
            (Refused::TooManyForced { retry_after: seconds(10) }, 429, "rate_limited", Some("5")),
            (Refused::NotNow(NotNow::Crowded), 503, "overloaded", Some("2")),
            (
                Refused::AuthorityUnavailable { asked: Some(seconds(600)), answer: answer() },
                503,
                "authority_unavailable",
                Some("5"),
            ),
            (Refused::AppCredentialRejected { answer: answer() }, 503, "app_credential_rejected", Some("5")),
            (Refused::AppRejected { answer: answer() }, 503, "app_rejected", Some("5")),
            (Refused::RecordDamaged, 503, "record_damaged", Some("5")),
            (Refused::StoreNearlyFull, 503, "store_unavailable", Some("5")),
            (Refused::StoreUnavailable, 503, "store_unavailable", Some("1")),
        ];
        for (refused, status, code, retry_after) in rows {
            let words = format!("{refused:?}");
            let response = refusal(&Problem::of(refused), "an-id");
            let after = response.headers().get("retry-after").map(|value| value.to_str().expect("text"));
            assert_eq!((response.status().as_u16(), after), (status, retry_after), "{words}");
            assert_form(response, status, code).await;
        }
        let others = [
            (Problem::unauthenticated(), 401, "caller_unauthenticated"),
            (Problem::no_such_path(), 404, "not_found"),
            (Problem::internal(), 500, "internal"),
            (Problem::overloaded(), 503, "overloaded"),
            (Problem::of_stranger(JwtRefusal::NoKeys.into(), true), 503, "issuer_unavailable"),
            (Problem::of_stranger(JwtRefusal::UnknownKey.into(), true), 401, "caller_unauthenticated"),
        ];
        for (problem, status, code) in others {
            assert_form(refusal(&problem, "an-id"), status, code).await;
        }
        let link = "https://tokens.contoso.com/connect/x";
        let problem = Problem::of(Refused::ConnectionNotFound).with_connect_url(link.into());
        assert!(message(&problem).ends_with(&format!("; send the user to {link}")));
    }

    async fn assert_form(response: Response, status: u16, code: &str) {
        let body = response.into_body().collect().await.expect("a body").to_bytes();
        let body: serde_json::Value = serde_json::from_slice(&body).expect("JSON");
        let members: Vec<&str> = body.as_object().expect("an object").keys().map(String::as_str).collect();
        assert_eq!(members, ["correlationId", "error", "error_description", "message", "statusCode"]);
        assert_eq!((&body["statusCode"], &body["error"]), (&status.into(), &code.into()), "{body}");
        assert_eq!((&body["message"], &body["correlationId"]), (&body["error_description"], &"an-id".into()));
        let message = body["message"].as_str().expect("text");
        assert!(message.contains("; "), "what happened, and the way out: {message}");
        // @azure/identity takes a 403 with this word for a network that is away.
        assert!(!message.contains("unreachable"), "{message}");
    }
}
