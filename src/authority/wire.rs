//! The token endpoint's refusals (RFC 6749 §5.2). `token_answer` reads its successes.

use serde_json::Value;

use super::http::HttpAnswer;
use super::text::{code_word, trace_word};
use crate::jwt::json::Object;

/// Longest claims challenge that is kept, in bytes.
pub(super) const MAX_CLAIMS: usize = 8 * 1024;
/// Most error numbers that are kept.
const MAX_CODES: usize = 10;

/// A refusal, as far as it is readable.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct TokenError {
    pub(super) error: Option<String>,
    pub(super) suberror: Option<String>,
    pub(super) codes: Vec<u32>,
    pub(super) trace_id: Option<String>,
    pub(super) correlation_id: Option<String>,
    /// A claims challenge, as the JSON text of an object.
    pub(super) claims: Option<String>,
    /// The authority's free text, only for a debug log.
    pub(super) description: Option<String>,
}

/// Parses the answer to a refused token request. `None` if it is no meaningful JSON object: an outage's HTML
/// page, a proxy's text, or empty.
pub(super) fn refusal(answer: &HttpAnswer) -> Option<TokenError> {
    let object = Object::parse(&answer.body).ok()?;
    let text = |key: &str| object.0.get(key).and_then(Value::as_str);
    let description = text("error_description").map(str::to_owned);
    let mut codes: Vec<u32> = match object.0.get("error_codes") {
        Some(Value::Array(codes)) => {
            codes.iter().filter_map(Value::as_u64).filter_map(|code| u32::try_from(code).ok()).collect()
        }
        _ => Vec::new(),
    };
    codes.truncate(MAX_CODES);
    if codes.is_empty() {
        codes.extend(description.as_deref().and_then(aadsts));
    }
    let claims = match object.0.get("claims") {
        Some(Value::String(text)) if text.len() <= MAX_CLAIMS => {
            Object::parse(text.as_bytes()).is_ok().then(|| text.clone())
        }
        Some(object @ Value::Object(_)) => Some(object.to_string()).filter(|text| text.len() <= MAX_CLAIMS),
        _ => None,
    };
    Some(TokenError {
        error: Some(code_word(text("error")?)?),
        suberror: text("suberror").and_then(code_word),
        codes,
        trace_id: text("trace_id").and_then(trace_word),
        correlation_id: text("correlation_id").and_then(trace_word),
        claims,
        description,
    })
}

/// Returns the number at the start of Entra's free text, as in `AADSTS50076: …`. No other part of it is ever
/// read.
pub(super) fn aadsts(description: &str) -> Option<u32> {
    let digits = description.strip_prefix("AADSTS")?;
    let end = digits.find(|c: char| !c.is_ascii_digit()).unwrap_or(digits.len());
    digits[..end].parse().ok()
}

#[cfg(test)]
mod tests {
    use http::header::{CONTENT_TYPE, HeaderMap, HeaderValue};

    use super::*;

    fn answer(status: u16, content_type: Option<&str>, body: &str) -> HttpAnswer {
        let mut headers = HeaderMap::new();
        if let Some(value) = content_type {
            headers.insert(CONTENT_TYPE, HeaderValue::from_str(value).expect("a header"));
        }
        HttpAnswer { status, headers, body: body.as_bytes().to_vec().into() }
    }

    #[test]
    fn a_refusal_gives_up_its_codes_and_nothing_of_its_words() {
        let body = r#"{"error":"invalid_grant","suberror":"basic_action",
            "error_description":"AADSTS50076: Due to a change.\r\nTrace ID: 1",
            "error_codes":[50076, -1, "x", 5000000000],
            "trace_id":"0cd7b4c4-0000-0000-0000-3d2d5e1c0100","correlation_id":"not an id <b>",
            "claims":"{\"access_token\":{\"capolids\":{\"essential\":true}}}","error_uri":"https://x"}"#;
        let read = refusal(&answer(400, None, body)).expect("a refusal");
        assert_eq!(read.error.as_deref(), Some("invalid_grant"));
        assert_eq!(read.suberror.as_deref(), Some("basic_action"));
        assert_eq!(read.codes, [50076]);
        assert_eq!(read.trace_id.as_deref(), Some("0cd7b4c4-0000-0000-0000-3d2d5e1c0100"));
        assert_eq!(read.correlation_id, None);
        assert_eq!(read.claims.as_deref(), Some(r#"{"access_token":{"capolids":{"essential":true}}}"#));
    }

    #[test]
    fn the_number_is_found_in_the_words_when_the_list_is_missing() {
        let read = |body: &str| refusal(&answer(400, None, body)).map(|read| read.codes);
        assert_eq!(
            read(r#"{"error":"invalid_grant","error_description":"AADSTS700082: x"}"#),
            Some(vec![700082])
        );
        assert_eq!(read(r#"{"error":"invalid_grant","error_description":"see AADSTS700082"}"#), Some(vec![]));
    }

    #[test]
    fn claims_that_are_no_object_are_left_out() {
        for claims in [r#""x""#, r#""[1]""#, "1", r#""{\"a\":1,\"a\":2}""#] {
            let body = format!(r#"{{"error":"invalid_grant","claims":{claims}}}"#);
            assert_eq!(refusal(&answer(400, None, &body)).expect("a refusal").claims, None, "{claims}");
        }
        let long = format!(r#"{{"error":"invalid_grant","claims":{{"a":"{}"}}}}"#, "x".repeat(MAX_CLAIMS));
        assert_eq!(refusal(&answer(400, None, &long)).expect("a refusal").claims, None);
    }
}
