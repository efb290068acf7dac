//! Which requests are traced, and how their traces begin.

use http::request::Parts;
use http::{StatusCode, Version};

use super::fields::Fields;
use super::{Peer, RequestId};
use crate::span::{Origin, Parent, Span, Tracer, Value, key, method_word};

/// Which requests of a listener are traced.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Traced {
    /// None.
    #[default]
    Not,
    /// A part of them, as new traces: strangers do not choose which.
    Anew,
    /// A part of them, and those that belong to a sampled trace.
    Continued,
}

/// Reads <https://www.w3.org/TR/trace-context/#traceparent-header>: version, trace id, parent id, flags. A
/// later version may add fields at the end.
pub(super) fn parent(headers: &impl Fields) -> Option<Parent<'_>> {
    let mut values = headers.values("traceparent");
    let (Some(value), None) = (values.next(), values.next()) else {
        return None;
    };
    let mut fields = std::str::from_utf8(value).ok()?.split('-');
    let (version, trace, span, flags) = (fields.next()?, fields.next()?, fields.next()?, fields.next()?);
    let hex = |field: &str, length| {
        field.len() == length && field.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
    };
    let zero = |field: &str| field.bytes().all(|byte| byte == b'0');
    let valid = hex(version, 2)
        && version != "ff"
        && hex(trace, 32)
        && !zero(trace)
        && hex(span, 16)
        && !zero(span)
        && hex(flags, 2)
        && (version != "00" || fields.next().is_none());
    let is_sampled = u8::from_str_radix(flags, 16).is_ok_and(|flags| flags & 1 == 1);
    valid.then_some(Parent { trace, span, is_sampled })
}

/// Begins the traces of one listener.
pub(super) struct Tracing {
    pub(super) listener: &'static str,
    pub(super) traced: Traced,
    pub(super) tracer: Tracer,
}

impl Tracing {
    /// Whether a request is traced. It is asked where this is decided by its head and its id alone.
    pub(super) fn is_traced(&self, headers: &impl Fields, id: &RequestId) -> bool {
        self.tracer.is_on() && self.origin(headers, id).is_some_and(|origin| self.tracer.samples(origin))
    }

    /// Begins the span of a request, if it is traced.
    pub(super) fn begin(&self, head: &Parts, id: &RequestId) -> Option<Box<Span>> {
        if !self.tracer.is_on() {
            return None;
        }
        let span = self.tracer.request(self.origin(&head.headers, id)?, &head.method)?;
        span.set(key::LISTENER, Value::Word(self.listener));
        span.set("http.request.method", Value::Word(method_word(&head.method)));
        span.set("network.protocol.version", Value::Word(version(head.version)));
        if self.traced == Traced::Anew {
            span.set(key::REQUEST_ID, Value::RequestId(id.as_str()));
        }
        Some(Box::new(span))
    }

    /// The trace of a request with this id. Lines of `tracestate` are not joined: of several, none counts.
    fn origin<'a>(&self, headers: &'a impl Fields, id: &'a RequestId) -> Option<Origin<'a>> {
        match self.traced {
            Traced::Not => None,
            Traced::Anew => Some(Origin::Anew),
            Traced::Continued => Some(match parent(headers) {
                None => Origin::Own(id.as_str()),
                Some(parent) => {
                    let mut states = headers.values("tracestate");
                    let state = states.next().filter(|_| states.next().is_none());
                    Origin::Continued(parent, state.and_then(|state| std::str::from_utf8(state).ok()))
                }
            }),
        }
    }
}

/// Says whom a request comes from. (Not its address, which is the audit's.)
pub(super) fn comes_from(span: &Span, peer: &Peer) {
    span.set("url.scheme", Value::Word(if peer.tls { "https" } else { "http" }));
    span.set("network.transport", Value::Word(peer.origin.kind()));
}

/// Says how a request was answered.
pub(super) fn answered(span: &Span, status: StatusCode) {
    span.set("http.response.status_code", Value::Number(status.as_u16().into()));
    if status.is_server_error() {
        span.fail(Value::Status(status));
    }
}

fn version(version: Version) -> &'static str {
    match version {
        Version::HTTP_10 => "1.0",
        Version::HTTP_2 => "2",
        _ => "1.1",
    }
}
