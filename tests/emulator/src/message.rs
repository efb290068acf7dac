//! Requests as handlers see them, and the answers they give back.

use bytes::Bytes;
use http::{HeaderMap, Method};
use serde_json::{Map, Value};

use crate::clock::Moment;
use crate::errors::{AadError, Ids};
use crate::ledger::Notes;

/// A request with its body read and its parameters decoded.
#[derive(Debug)]
pub(crate) struct Request {
    pub(crate) method: Method,
    pub(crate) path: String,
    pub(crate) raw_query: String,
    pub(crate) query: Params,
    pub(crate) form: Params,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
    pub(crate) ids: Ids,
    pub(crate) connection: u64,
}

impl Request {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    /// Whether the body is labelled as a form.
    pub(crate) fn is_form(&self) -> bool {
        self.header("content-type").is_some_and(|kind| kind.starts_with("application/x-www-form-urlencoded"))
    }

    /// The bearer token, if the request has one.
    pub(crate) fn bearer(&self) -> Option<&str> {
        let (scheme, token) = self.header("authorization")?.split_once(' ')?;
        scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
    }

    pub(crate) fn cookie(&self, name: &str) -> Option<&str> {
        self.header("cookie")?
            .split(';')
            .filter_map(|pair| pair.trim().split_once('='))
            .find(|pair| pair.0 == name)
            .map(|pair| pair.1)
    }
}

/// Decoded parameters in the order they came.
#[derive(Clone, Debug, Default)]
pub(crate) struct Params(Vec<(String, String)>);

impl Params {
    #[expect(clippy::disallowed_methods, reason = "the emulator is asked by our own tests")]
    pub(crate) fn parse(text: &[u8]) -> Self {
        Self(form_urlencoded::parse(text).into_owned().collect())
    }

    /// The first value of `name`. An empty one counts as absent, as Entra has it.
    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        self.0
            .iter()
            .find(|(key, _)| key == name)
            .map(|(_, value)| value.as_str())
            .filter(|value| !value.is_empty())
    }

    /// A name that comes more than once, if any does.
    pub(crate) fn repeated(&self) -> Option<&str> {
        let mut names: Vec<&str> = self.0.iter().map(|(name, _)| name.as_str()).collect();
        names.sort_unstable();
        names.windows(2).find(|pair| pair[0] == pair[1]).map(|pair| pair[0])
    }

    pub(crate) fn pairs(&self) -> &[(String, String)] {
        &self.0
    }

    pub(crate) fn keys(&self) -> Vec<String> {
        self.0.iter().map(|(name, _)| name.clone()).collect()
    }
}

/// What a handler answers.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(&'static str, String)>,
    pub(crate) body: Vec<u8>,
    pub(crate) notes: Notes,
}

impl Answer {
    pub(crate) fn json(status: u16, body: impl Into<Value>) -> Self {
        let text = body.into().to_string();
        Self::text(status, "application/json; charset=utf-8", text)
    }

    pub(crate) fn html(status: u16, body: String) -> Self {
        Self::text(status, "text/html; charset=utf-8", body)
    }

    pub(crate) fn text(status: u16, kind: &str, body: impl Into<Vec<u8>>) -> Self {
        let headers = vec![("content-type", kind.to_owned())];
        Self { status, headers, body: body.into(), notes: Notes::default() }
    }

    /// Without a body, and so without a word of its type: an SDK would read it.
    pub(crate) fn empty(status: u16) -> Self {
        Self { status, headers: Vec::new(), body: Vec::new(), notes: Notes::default() }
    }

    pub(crate) fn redirect(location: String) -> Self {
        Self::html(302, String::new()).header("location", location)
    }

    /// A failure as the token endpoint reports it.
    pub(crate) fn failure(error: &AadError, ids: &Ids, at: Moment, base: &str) -> Self {
        let mut answer = Self::json(error.status, Value::Object(error.body(ids, at, base)));
        if let Some(after) = &error.retry_after {
            answer = answer.header("retry-after", after.to_string());
        }
        answer.failed(error)
    }

    pub(crate) fn header(mut self, name: &'static str, value: String) -> Self {
        self.headers.push((name, value));
        self
    }

    /// Notes for the ledger that this answer reports `error`.
    pub(crate) fn failed(mut self, error: &AadError) -> Self {
        self.notes.aadsts = Some(error.code);
        self.notes.error = Some(error.error.clone());
        self
    }

    /// The body as a JSON object, to be patched.
    pub(crate) fn patch(mut self, patch: &Map<String, Value>) -> Self {
        if let Ok(Value::Object(mut body)) = serde_json::from_slice(&self.body) {
            crate::faults::merge(&mut body, patch);
            self.body = Value::Object(body).to_string().into_bytes();
        }
        self
    }
}
