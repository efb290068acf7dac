//! The local API and the admin API. Internal services come as themselves and get tokens and connect sessions.
//! Operators see and end connections, and look after the daemon. Each API is a table of routes.
//!
//! May know: the broker, callers, the listener's request and response. Decides nothing of the product: it
//! reads requests strictly, asks the broker, and puts the answer into the contract's shapes.
//!
//! Invariants:
//! 1. Nothing is looked at before the caller is known, but `/openapi.json`; a path that is no route is 401 to
//!    those who are not (B11).
//! 2. A credential is read from its dialect's own place alone; one in a URL is refused, never used (B1).
//! 3. Every answer carries `Cache-Control: no-store` (B2).
//! 4. Every request of a caller is counted before it is served, whatever it is for: routes are for an
//!    `Admitted` one. (The admin API has no limit for operators.)
//! 5. Every hand-out and every refusal is one audit record and one count, and is answered after that.

pub mod admin;
mod asked;
mod body;
mod dialect;
pub mod doc;
mod examples;
mod local;
#[cfg(test)]
mod openapi;
pub mod problem;
#[cfg(any(test, feature = "testkit"))]
pub mod properties;
mod relayed;
mod routes;
pub mod shapes;
mod to_its_end;
mod token_body;
mod token_endpoint;
pub mod upkeep;

use http::{HeaderValue, StatusCode, header};
use memchr::memchr;

pub use self::local::{CallersUrl, DEGRADED, LocalApi, OPENAPI, ROUTES};
#[cfg(feature = "testkit")]
pub use self::local::{Routed, Steps};
use self::problem::Problem;
use self::shapes::PageShape;
use crate::broker::inspect::{ListRequest, ShownPage};
use crate::broker::{Broker, Refusal};
use crate::callers::Credential;
use crate::domain::id::AppName;
use crate::listener::{AnswerBody, Fields, Origin, Pairs, Peer, PeerCertificate, Response};

/// The credential a request carries: its header's, which then decides alone, else the peer's. `None` for a
/// header that is there and is no bearer.
fn credential<'a>(headers: &'a impl Fields, peer: &'a Peer) -> Option<Credential<'a>> {
    let mut values = headers.values("authorization");
    match (values.next(), values.next()) {
        (Some(value), None) => {
            let text = text_of(value)?;
            let (scheme, text) = text.split_at_checked(memchr(b' ', text.as_bytes())?)?;
            scheme.eq_ignore_ascii_case("bearer").then_some(Credential::bearer(text.trim_start_matches(' ')))
        }
        (Some(_), Some(_)) => None,
        (None, _) => Some(credential_of_peer(peer)),
    }
}

/// A field's value as text, if it is visible ASCII. (As [`HeaderValue::to_str`].)
fn text_of(value: &[u8]) -> Option<&str> {
    // (Without a branch for each byte, so that many are looked at at once.)
    let is_visible = |byte: u8| (byte == b'\t') | (b' '..=b'~').contains(&byte);
    let is_text = value.iter().fold(true, |so_far, byte| so_far & is_visible(*byte));
    is_text.then(|| std::str::from_utf8(value).ok())?
}

/// The credential of a request that brings none itself: the Unix user or the client certificate.
fn credential_of_peer(peer: &Peer) -> Credential<'_> {
    match (peer.origin, &peer.certificate) {
        (Origin::Unix { uid, .. }, _) => Credential::UnixPeer { uid },
        (Origin::Tcp(_), PeerCertificate::Trusted(names)) => Credential::Certificate(names),
        (Origin::Tcp(_), PeerCertificate::Distrusted) => Credential::DistrustedCertificate,
        (Origin::Tcp(_), PeerCertificate::None) => Credential::None,
    }
}

fn no_content() -> Response {
    let mut response = Response::default();
    *response.status_mut() = StatusCode::NO_CONTENT;
    response
}

/// `GET /openapi.json`
fn document(text: &'static str) -> Response {
    let mut response = Response::new(AnswerBody::whole(text));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

fn list_request(broker: &Broker, app: &AppName, query: &Pairs) -> Result<ListRequest, Problem> {
    let after = query.value("cursor").map(|cursor| broker.read_cursor(app, cursor));
    Ok(ListRequest {
        status: query.value("status").map(str::to_owned),
        tenant: query.value("tenant").map(str::to_owned),
        reason: None,
        account: None,
        label: None,
        text: None,
        after: after.transpose().map_err(Problem::of)?,
    })
}

fn page_shape(broker: &Broker, app: &AppName, page: &ShownPage) -> PageShape {
    PageShape::new(page, page.next.as_ref().map(|next| broker.cursor(app, next)))
}

fn code_of<T>(outcome: &Result<T, Refusal>) -> &'static str {
    match outcome {
        Ok(_) => "ok",
        Err(refusal) => refusal.outside().code,
    }
}
