//! A token request as it comes, in a body or in a query, and the token that it asks for.

use std::collections::BTreeMap;
use std::num::ParseIntError;
use std::ops::RangeInclusive;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD, URL_SAFE, URL_SAFE_NO_PAD};
use bytes::Bytes;
use serde::Deserialize;
use serde_json::Value;
use serde_json::value::{RawValue, to_raw_value};

use super::body::parse;
use super::problem::Problem;
use crate::broker::Refusal;
use crate::domain::account::AccountId;
use crate::domain::scope::{LONGEST_SCOPE, ScopeNaming, ScopeSet};
use crate::listener::Pairs;
use crate::refresh::plan::ORDINARY_MIN_TTL;
use crate::refresh::{Claims, Want};

/// What is passed on to an authority at the most; a claims challenge is far smaller.
const LARGEST_CLAIMS: usize = 8 * 1024;
/// Allowed `min_ttl` in seconds.
const MIN_TTL: RangeInclusive<u64> = 60..=86_400;

/// A token request's members.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct TokenBody {
    /// Lower-case hex SHA-256 of a token that a resource refused.
    pub(super) rejected: Option<String>,
    /// A resource's claims challenge. [`TokenBody::read`] makes it an object, whatever form it came in.
    pub(super) claims: Option<Box<RawValue>>,
    scope: Option<String>,
    resource: Option<String>,
    #[serde(deserialize_with = "whole_seconds")]
    min_ttl: Option<u64>,
    /// The user on whose own token it is asked for. No body has it.
    #[serde(skip)]
    pub(super) user: Option<OfUser>,
    /// Its client cannot answer claims challenges.
    #[serde(skip)]
    pub(super) without_cae: bool,
}

/// A user whose token was verified.
pub(super) struct OfUser {
    /// The account that the connection must have.
    pub(super) account: AccountId,
    /// For the audit.
    pub(super) detail: BTreeMap<&'static str, String>,
}

/// Reads whole seconds, also as `300.0`: to JSON Schema that is an integer.
pub(super) fn whole_seconds<'de, D: serde::Deserializer<'de>>(from: D) -> Result<Option<u64>, D::Error> {
    let Some(number) = Option::<serde_json::Number>::deserialize(from)? else { return Ok(None) };
    let is_whole =
        |seconds: &f64| (0.0..=9_007_199_254_740_992.0).contains(seconds) && seconds.fract() == 0.0;
    // The value is whole and far below what the type holds.
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "whole and in range")]
    let whole = |seconds: f64| seconds as u64;
    let seconds = number.as_u64().or_else(|| number.as_f64().filter(is_whole).map(whole));
    seconds.map(Some).ok_or_else(|| serde::de::Error::custom("whole seconds"))
}

impl TokenBody {
    /// Reads a body; an empty one is a plain request.
    pub(super) fn read(bytes: &Bytes) -> Result<Self, Problem> {
        let mut body: TokenBody = if bytes.is_empty() { TokenBody::default() } else { parse(bytes)? };
        body.claims = body.claims.as_deref().map(claims_object).transpose()?;
        Ok(body)
    }

    /// Reads a query.
    pub(super) fn of_query(query: &Pairs) -> Result<Self, Problem> {
        TokenBody::plain(query.value("scope"), query.value("resource")).min_ttl(query.value("min_ttl"))
    }

    /// Reads Vault's `minimum_seconds`. Less than our least `min_ttl` asks for that.
    pub(super) fn of_minimum_seconds(text: Option<&str>) -> Result<Self, Problem> {
        let problem = "must be whole seconds, 0 to 86400";
        let min_ttl = match text.filter(|text| !text.is_empty()) {
            None => None,
            Some(text) => {
                let seconds: u64 = text.parse().map_err(|_| Problem::invalid("minimum_seconds", problem))?;
                if seconds > *MIN_TTL.end() {
                    return Err(Problem::invalid("minimum_seconds", problem));
                }
                Some(seconds.max(*MIN_TTL.start()))
            }
        };
        Ok(TokenBody { min_ttl, ..TokenBody::default() })
    }

    /// Makes the request of a dialect: a token for a resource, or for a scope's resource.
    pub(super) fn plain(scope: Option<&str>, resource: Option<&str>) -> Self {
        let [scope, resource] = [scope, resource].map(|text| text.map(str::to_owned));
        TokenBody { scope, resource, ..TokenBody::default() }
    }

    /// Sets the life that the token must have, in seconds.
    pub(super) fn min_ttl(mut self, text: Option<&str>) -> Result<Self, Problem> {
        let seconds = text.map(str::parse).transpose();
        self.min_ttl =
            seconds.map_err(|_| Problem::invalid("min_ttl", "must be whole seconds, 60 to 86400"))?;
        Ok(self)
    }

    /// Returns the life that the token must have.
    pub(super) fn life(&self) -> Result<Duration, Problem> {
        min_ttl(self.min_ttl.map(Ok::<u64, ParseIntError>)).map_err(Problem::of)
    }

    /// Returns the token that it asks for, in the words of the app's authority.
    pub(super) fn want(self, naming: &ScopeNaming) -> Result<Want, Refusal> {
        let scopes = match self.scope.as_deref().filter(|scope| !scope.is_empty()) {
            Some(scope) => naming.scopes_asked(scope).map_err(|why| Refusal::invalid("scope", why))?,
            None => ScopeSet::default(),
        };
        let resource = self.resource.as_deref().filter(|resource| !resource.is_empty());
        if resource.is_some_and(|resource| resource.len() > LONGEST_SCOPE) {
            return Err(Refusal::invalid("resource", "is longer than any resource's name"));
        }
        if resource.is_some() && *naming == ScopeNaming::Plain {
            return Err(Refusal::invalid("resource", "this app's authority has no resources; leave it out"));
        }
        let min_ttl = min_ttl(self.min_ttl.map(Ok::<u64, ParseIntError>))?;
        if self.rejected.as_deref().is_some_and(|digest| !is_digest(digest)) {
            return Err(Refusal::invalid(
                "rejected",
                "must be the lower-case hex SHA-256 of the token that was refused, never the token itself",
            ));
        }
        let claims = self.claims.as_deref().map(|claims| Claims::read(claims.get())).transpose();
        Ok(Want {
            by: None,
            resource: resource.map(|resource| naming.resource(resource)),
            scopes,
            min_ttl,
            rejected: self.rejected,
            claims: claims.map_err(|problem| Refusal::invalid("claims", problem.to_string()))?,
            cae: !self.without_cae,
        })
    }
}

/// Reads a `min_ttl`; without one it is the ordinary one.
pub(super) fn min_ttl(asked: Option<Result<u64, ParseIntError>>) -> Result<Duration, Refusal> {
    match asked {
        None => Ok(ORDINARY_MIN_TTL),
        Some(Ok(seconds)) if MIN_TTL.contains(&seconds) => Ok(Duration::from_secs(seconds)),
        Some(_) => {
            let problem = format!("must be {} to {} seconds", MIN_TTL.start(), MIN_TTL.end());
            Err(Refusal::invalid("min_ttl", problem))
        }
    }
}

/// Returns true for a lower-case hex SHA-256.
pub(super) fn is_digest(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

/// Reads a claims challenge, which is an object, its JSON text, or the base64 that the header had.
fn claims_object(claims: &RawValue) -> Result<Box<RawValue>, Problem> {
    let refused =
        || Problem::invalid("claims", "must be a JSON object, its text, or its base64, at most 8 KiB");
    // A text that is too long is not decoded: with its escapes it may take more room than what it says.
    if claims.get().len() > LARGEST_CLAIMS * 4 {
        return Err(refused());
    }
    let object = match serde_json::from_str::<Value>(claims.get()).map_err(|_| refused())? {
        Value::String(text) if text.len() > LARGEST_CLAIMS * 2 => return Err(refused()),
        Value::String(text) => match serde_json::from_str::<Value>(&text) {
            Ok(value) => value,
            Err(_) => {
                let engines = [&STANDARD, &STANDARD_NO_PAD, &URL_SAFE, &URL_SAFE_NO_PAD];
                let decoded =
                    engines.iter().find_map(|engine| engine.decode(&text).ok()).ok_or_else(refused)?;
                serde_json::from_slice(&decoded).map_err(|_| refused())?
            }
        },
        other => other,
    };
    let read = to_raw_value(&object).map_err(|_| refused())?;
    if !object.is_object() || read.get().len() > LARGEST_CLAIMS {
        return Err(refused());
    }
    Ok(read)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(body: String) -> Result<TokenBody, Problem> {
        TokenBody::read(&Bytes::from(body))
    }

    #[test]
    fn claims_come_as_object_as_text_and_as_base64() {
        let object = r#"{"access_token":{"nbf":{"essential":true,"value":"1"}}}"#;
        let base64 = STANDARD.encode(object);
        let unpadded = URL_SAFE_NO_PAD.encode(object);
        let cases =
            [object.to_owned(), format!("{object:?}"), format!("{base64:?}"), format!("{unpadded:?}")];
        for claims in cases {
            let body = read(format!("{{\"claims\":{claims}}}")).expect("a request");
            assert_eq!(body.claims.as_deref().map(RawValue::get), Some(object));
        }
        let many: Vec<String> = (0..5000).map(|at| format!("\"{at}\":0")).collect();
        let long = format!("{{{}}}", many.join(","));
        let deep = "[".repeat(200) + &"]".repeat(200);
        for bad in [&long, &deep, "\"x\"", "1", "[]", "\"[]\"", "null_"] {
            assert!(read(format!("{{\"claims\":{bad}}}")).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_whole_number_of_seconds_may_have_a_point() {
        for (body, seconds) in [
            ("{}", None),
            (r#"{"min_ttl":null}"#, None),
            (r#"{"min_ttl":60}"#, Some(60)),
            (r#"{"min_ttl":6e2}"#, Some(600)),
        ] {
            assert_eq!(read(body.to_owned()).ok().map(|body| body.min_ttl), Some(seconds), "{body}");
        }
        for body in [r#"{"min_ttl":60.5}"#, r#"{"min_ttl":-1}"#, r#"{"min_ttl":"60"}"#, r#"{"min_ttl":1e99}"#]
        {
            assert!(read(body.to_owned()).is_err(), "{body}");
        }
    }

    #[test]
    fn an_unknown_member_is_refused_and_never_quoted() {
        let problem = read("{\"sekrit-value\":1}".to_owned()).err().expect("refused");
        let text = serde_json::to_string(&problem).expect("JSON");
        assert!(text.contains("line 1") && !text.contains("sekrit"), "{text}");
    }
}
