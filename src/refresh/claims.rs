//! The part of a resource's claims challenge that a caller may pass on to the authority.
//!
//! A challenge is about the next access token. A claims request could ask for more: for content of an
//! `id_token`, or to be treated as a client that answers challenges (`xms_cc`), whose tokens live for a day.
//! Only the app may declare that. So only members that challenges of resources have are passed on, and
//! [`Claims::read`] is the only way to make a [`Claims`].

use serde_json::{Map, Value};

use crate::domain::digest::sha256_hex;
use crate::domain::time::Timestamp;

/// The longest challenge of a caller, as JSON text. Real ones are far smaller.
const LARGEST: usize = 8 * 1024;
/// Values of one member: policies that must be met, or contexts.
const MOST_VALUES: usize = 64;
/// A resource's clock may be ahead of ours by this much.
const CLOCKS_APART: u64 = 300;

/// The members of resources' challenges, each with whether any newer token answers it. The others ask for
/// more than a plain refresh.
///
/// `nbf` and `xms_caeerror` come with continuous access evaluation (a session that was revoked),
/// `xms_rp_ipaddr` with its check of addresses, `acrs` is an authentication context, `capolids` and `polids`
/// are policies.
const MEMBERS: [(&str, bool); 6] = [
    ("nbf", true),
    ("xms_caeerror", true),
    ("xms_rp_ipaddr", false),
    ("acrs", false),
    ("capolids", false),
    ("polids", false),
];

/// A resource's claims challenge, reduced to the members that may be passed on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claims {
    json: String,
    digest: String,
    /// The time after which its token must be made, if it asks for nothing else.
    newer_than: Option<u64>,
}

/// Why a challenge is not passed on. The text continues a sentence that begins with the challenge's name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ClaimsProblem {
    /// It is no object, or too long.
    #[error("must be a JSON object of at most 8 KiB")]
    NoObject,
    /// No member of it may be passed on.
    #[error(
        "has nothing in `access_token` that a resource's challenge has (nbf, xms_caeerror, xms_rp_ipaddr, \
         acrs, capolids, polids); what the app declares of itself, such as xms_cc, is the configuration's \
         (continuous_access_evaluation)"
    )]
    NothingLeft,
    /// A member has another form than OpenID Connect Core 5.5.1 gives it.
    #[error("asks for something in `access_token` in another way than by `essential`, `value` and `values`")]
    OddMember,
}

impl Claims {
    /// Reads a challenge's JSON text. Members that no resource asks for are left out. If none remains, it is
    /// refused.
    pub fn read(text: &str) -> Result<Claims, ClaimsProblem> {
        if text.len() > LARGEST {
            return Err(ClaimsProblem::NoObject);
        }
        let Ok(Value::Object(mut challenge)) = serde_json::from_str(text) else {
            return Err(ClaimsProblem::NoObject);
        };
        let Some(Value::Object(mut asked)) = challenge.remove("access_token") else {
            return Err(ClaimsProblem::NothingLeft);
        };
        asked.retain(|name, _| MEMBERS.iter().any(|(known, _)| known == name));
        if asked.is_empty() {
            return Err(ClaimsProblem::NothingLeft);
        }
        if !asked.values().all(is_asked_for) {
            return Err(ClaimsProblem::OddMember);
        }
        let newer_than = newer_than(&asked);
        // Written anew with its members in order, so that one challenge has one text however it was spelt.
        let json =
            Value::Object(Map::from_iter([("access_token".to_owned(), Value::Object(asked))])).to_string();
        Ok(Claims { digest: sha256_hex(json.as_bytes()), json, newer_than })
    }

    /// As JSON text.
    pub fn json(&self) -> &str {
        &self.json
    }

    /// Lower-case hex SHA-256 of it. A token that answers it is marked with that.
    pub fn digest(&self) -> &str {
        &self.digest
    }

    /// Whether any token made from `now` on answers it, so that a plain refresh would do.
    pub fn is_met_by_any_new_token(&self, now: Timestamp) -> bool {
        let now = u64::try_from(now.unix_seconds()).unwrap_or(0);
        self.newer_than.is_some_and(|newer_than| newer_than <= now.saturating_add(CLOCKS_APART))
    }
}

/// The form of a requested claim in OpenID Connect Core 5.5.1: `null`, or a value, or several values.
/// (Entra's documents have `Values` too.)
fn is_asked_for(member: &Value) -> bool {
    let Value::Object(member) = member else { return member.is_null() };
    member.iter().all(|(name, value)| match (name.as_str(), value) {
        ("essential", Value::Bool(_)) => true,
        ("value", value) => is_value(value),
        ("values" | "Values", Value::Array(values)) => {
            values.len() <= MOST_VALUES && values.iter().all(is_value)
        }
        _ => false,
    })
}

fn is_value(value: &Value) -> bool {
    matches!(value, Value::String(_) | Value::Number(_) | Value::Bool(_))
}

/// The latest time in it, if it asks only for a newer token.
fn newer_than(asked: &Map<String, Value>) -> Option<u64> {
    let is_met = |name: &str| MEMBERS.iter().any(|(known, is_met)| known == &name && *is_met);
    if !asked.keys().all(|name| is_met(name)) {
        return None;
    }
    match asked.get("nbf").and_then(|nbf| nbf.get("value")) {
        None => Some(0),
        Some(Value::String(text)) => text.parse().ok(),
        Some(value) => value.as_u64(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_unix_seconds(seconds)
    }

    #[test]
    fn what_a_resource_asks_for_gets_through_and_nothing_else() {
        let rows = [
            (r#"{"access_token":{"nbf":{"essential":true,"value":"17"}}}"#, None),
            (
                r#"{"access_token":{"xms_cc":{"values":["cp1"]},"nbf":{"value":"17"}},"id_token":{"acr":null}}"#,
                Some(r#"{"access_token":{"nbf":{"value":"17"}}}"#),
            ),
            (
                r#"{ "access_token": { "xms_caeerror": {"value":"10012"}, "nbf": {"value":"17","essential":true} } }"#,
                Some(
                    r#"{"access_token":{"nbf":{"essential":true,"value":"17"},"xms_caeerror":{"value":"10012"}}}"#,
                ),
            ),
            (r#"{"access_token":{"capolids":{"essential":true,"values":["a","b"]}}}"#, None),
            (r#"{"access_token":{"polids":{"Values":["a"],"essential":true}}}"#, None),
            (r#"{"access_token":{"acrs":null}}"#, None),
            // The second of two members of one name counts, and what is passed on has one.
            (
                r#"{"access_token":{"nbf":{"value":"1"}},"access_token":{"xms_cc":{"values":["cp1"]},"acrs":null}}"#,
                Some(r#"{"access_token":{"acrs":null}}"#),
            ),
        ];
        for (text, passed_on) in rows {
            let claims = Claims::read(text).expect(text);
            assert_eq!(claims.json(), passed_on.unwrap_or(text));
        }
        let many =
            format!(r#"{{"access_token":{{"acrs":{{"values":[{}"x"]}}}}}}"#, r#""x","#.repeat(MOST_VALUES));
        let long = format!(r#"{{"access_token":{{"acrs":{{"value":"{}"}}}}}}"#, "x".repeat(LARGEST));
        let rows = [
            ("[]", ClaimsProblem::NoObject),
            ("{", ClaimsProblem::NoObject),
            (&long, ClaimsProblem::NoObject),
            ("{}", ClaimsProblem::NothingLeft),
            (r#"{"access_token":[]}"#, ClaimsProblem::NothingLeft),
            (r#"{"access_token":{"xms_cc":{"values":["cp1"]}}}"#, ClaimsProblem::NothingLeft),
            (r#"{"access_token":{"XMS_CC":{"values":["cp1"]},"nbf ":null}}"#, ClaimsProblem::NothingLeft),
            (r#"{"xms_cc":{"values":["cp1"]},"nbf":null}"#, ClaimsProblem::NothingLeft),
            (r#"{"id_token":{"nbf":null}}"#, ClaimsProblem::NothingLeft),
            (r#"{"access_token":{"acrs":"c1"}}"#, ClaimsProblem::OddMember),
            (r#"{"access_token":{"acrs":{"value":{"xms_cc":1}}}}"#, ClaimsProblem::OddMember),
            (r#"{"access_token":{"acrs":{"values":[["cp1"]]}}}"#, ClaimsProblem::OddMember),
            (r#"{"access_token":{"acrs":{"essential":1}}}"#, ClaimsProblem::OddMember),
            (r#"{"access_token":{"acrs":{"xms_cc":"cp1"}}}"#, ClaimsProblem::OddMember),
            (&many, ClaimsProblem::OddMember),
        ];
        for (text, problem) in rows {
            assert_eq!(Claims::read(text), Err(problem), "{text}");
        }
    }

    #[test]
    fn one_challenge_is_one_however_it_is_spelt() {
        let read = |text: &str| Claims::read(text).expect("a challenge");
        let one = read(r#"{"access_token":{"acrs":{"essential":true,"value":"c1"}}}"#);
        let other =
            read(r#"{ "access_token" : {"acrs":{"value":"\u00631","essential":true}}, "userinfo": {} }"#);
        assert_eq!(one, other);
        assert_ne!(one.digest(), read(r#"{"access_token":{"acrs":{"value":"c1"}}}"#).digest());
    }

    #[test]
    fn only_a_challenge_that_asks_for_a_newer_token_is_met_by_any() {
        let rows = [
            (r#"{"nbf":{"essential":true,"value":"1000"}}"#, true),
            (r#"{"nbf":{"value":1000},"xms_caeerror":{"value":"10012"}}"#, true),
            (r#"{"nbf":null}"#, true),
            (r#"{"nbf":{"value":"1301"}}"#, false),
            (r#"{"nbf":{"value":"-1"}}"#, false),
            (r#"{"nbf":{"value":"x"}}"#, false),
            (r#"{"nbf":{"value":"1000"},"xms_rp_ipaddr":{"value":"192.0.2.1"}}"#, false),
            (r#"{"acrs":{"value":"c1"}}"#, false),
            (r#"{"capolids":{"values":["a"]}}"#, false),
        ];
        for (asked, is_met) in rows {
            let claims = Claims::read(&format!(r#"{{"access_token":{asked}}}"#)).expect("a challenge");
            assert_eq!(claims.is_met_by_any_new_token(at(1000)), is_met, "{asked}");
        }
    }
}
