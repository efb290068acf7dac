//! The token endpoint's success answer (RFC 6749 §5.1), parsed leniently. The refresh token that was sent may
//! be spent by now, so each member is read by itself: an odd member does not affect others, and a readable
//! refresh token is never lost.

use std::borrow::Cow;
use std::fmt;
use std::time::Duration;

use serde::de::{Deserializer, MapAccess, Visitor};
use serde_json::Value;
use serde_json::value::RawValue;
use zeroize::{Zeroize, Zeroizing};

use super::http::HttpAnswer;
use crate::domain::secret::{AccessToken, RefreshToken};
use crate::jwt::json::wipe;

/// Longest token that we keep, in bytes.
const MAX_TOKEN: usize = 64 * 1024;
/// Longest believed life of an access token: two days. With continuous access evaluation tokens live up to 28
/// hours.
const MAX_LIFE_SECONDS: f64 = 172_800.0;
/// Life of a token if the answer names none (RFC 6749 §5.1 only recommends `expires_in`): short enough if it
/// is wrong, and long enough to be served to a caller that asks for the usual five minutes.
const UNSAID_LIFE: Duration = Duration::from_secs(300);
/// Members that decide what an answer is. If one occurs twice with two values, it says nothing.
const DECIDING: [&str; 6] =
    ["access_token", "refresh_token", "token_type", "id_token", "error", "expires_in"];

/// Members that are read. Others are not kept, so that many of them cost no more than their bytes.
const READ: [&str; 10] = [
    "access_token",
    "refresh_token",
    "token_type",
    "id_token",
    "error",
    "expires_in",
    "refresh_in",
    "scope",
    "refresh_token_expires_in",
    "refresh_expires_in",
];

/// A stated life of a refresh token beyond this (ten years) says that it does not end.
const MAX_REFRESH_TOKEN_LIFE_SECONDS: f64 = 10.0 * 365.0 * 86_400.0;

/// A success with a usable access token.
pub(super) struct TokenSuccess {
    pub(super) access_token: AccessToken,
    pub(super) expires_in: Duration,
    pub(super) refresh_in: Option<Duration>,
    pub(super) refresh_token: Option<RefreshToken>,
    /// Life of the refresh token, if the answer states it: `refresh_token_expires_in` (Google, Entra for a
    /// `spa` redirect URI, the draft on refresh token expiration), or `refresh_expires_in` (Keycloak, where 0
    /// is none).
    pub(super) refresh_token_expires_in: Option<Duration>,
    /// In the authority's spelling; `None` if it named none.
    pub(super) scopes: Option<Vec<String>>,
    /// Empty if the member is no text, so that no token can be read from it.
    pub(super) id_token: Option<Zeroizing<String>>,
    /// The rules that cut or ignored a part of the answer.
    pub(super) remarks: Vec<&'static str>,
}

/// A success without a usable access token.
pub(super) struct Unusable {
    /// The broken rule.
    pub(super) rule: &'static str,
    /// The broken rule in words.
    pub(super) why: String,
    /// Its refresh token, if any.
    pub(super) refresh_token: Option<RefreshToken>,
    /// Every readable `id_token` in it: one may show that the refresh token belongs to another user.
    pub(super) id_tokens: Vec<Zeroizing<String>>,
    /// True for a complete and clear answer with an access token: without a refresh token, it leaves the one
    /// that was sent valid (RFC 6749 §6).
    pub(super) is_whole: bool,
}

/// Parses the answer with status 200 to a token request.
pub(super) fn read(answer: &HttpAnswer) -> Result<TokenSuccess, Unusable> {
    let text = String::from_utf8_lossy(&answer.body);
    let read = Members::read(&text).success(!answer.is_json());
    if let Cow::Owned(mut copy) = text {
        copy.zeroize();
    }
    read
}

/// The members of the outermost object, as far as it is readable.
struct Members<'a> {
    /// Members in [`READ`], in order, each with its raw value.
    entries: Vec<(&'static str, &'a str)>,
    end: End,
}

/// How the text ended.
enum End {
    Whole,
    /// More bytes follow the object.
    BytesAfter,
    /// It broke off or is invalid here, in words.
    Broken(String),
    NotAnObject,
}

impl<'a> Members<'a> {
    fn read(text: &'a str) -> Self {
        let mut entries = Vec::new();
        let mut reader = serde_json::Deserializer::from_str(text);
        let end = match reader.deserialize_map(Entries(&mut entries)) {
            Ok(()) if reader.end().is_ok() => End::Whole,
            Ok(()) => End::BytesAfter,
            Err(error) if error.is_data() => End::NotAnObject,
            // serde_json's message could quote a secret; the position is enough.
            Err(error) => {
                End::Broken(format!("it is not JSON at line {} column {}", error.line(), error.column()))
            }
        };
        Members { entries, end }
    }

    fn success(&self, is_mislabelled: bool) -> Result<TokenSuccess, Unusable> {
        let mut remarks = Vec::new();
        let refresh_token = self.refresh_token(&mut remarks);
        match self.tokens(remarks, is_mislabelled) {
            Ok(success) => Ok(TokenSuccess { refresh_token, ..success }),
            Err((rule, why)) => {
                let is_clear =
                    !["error_in_success", "repeated_member", "bytes_after_end", "not_json"].contains(&rule);
                let is_whole = is_clear && self.stands("access_token");
                let id_tokens =
                    self.all("id_token").filter_map(|raw| token(raw).and_then(Result::ok)).collect();
                Err(Unusable { rule, why, refresh_token, id_tokens, is_whole })
            }
        }
    }

    /// Reads everything but the refresh token.
    fn tokens(
        &self,
        mut remarks: Vec<&'static str>,
        is_mislabelled: bool,
    ) -> Result<TokenSuccess, (&'static str, String)> {
        let broken = |rule: &'static str, why: &str| Err((rule, why.to_owned()));
        match &self.end {
            End::Whole => {}
            // There may be two documents, and nobody knows which is right.
            End::BytesAfter => return broken("bytes_after_end", "there are bytes after the JSON"),
            End::Broken(why) => return Err(("not_json", why.clone())),
            End::NotAnObject => return broken("not_an_object", "it is JSON, but not an object"),
        }
        if let Some(key) = DECIDING.into_iter().find(|key| self.differs(key)) {
            return Err(("repeated_member", format!("{key} occurs twice, with two values")));
        }
        if self.value("error").is_some_and(|error| error != Value::Bool(false)) {
            return broken("error_in_success", "the answer is a success and an error at once");
        }
        match self.value("token_type") {
            Some(Value::String(kind)) if kind.trim().eq_ignore_ascii_case("bearer") => {}
            // A caller could not use it: it is bound to a key, or its type is unknown.
            Some(Value::String(_)) => return broken("token_type", "token_type is not Bearer"),
            Some(_) => remarks.push("token_type_unreadable"),
            None => remarks.push("token_type_missing"),
        }
        let access_token = match self.token("access_token") {
            Some(Ok(token)) if !token.contains(' ') => token,
            Some(_) => {
                return broken(
                    "access_token",
                    "access_token is too long, or holds a character that no token has",
                );
            }
            None => return broken("access_token", "access_token is missing"),
        };
        let expires_in = self.life(&mut remarks)?;
        if is_mislabelled {
            remarks.push("content_type");
        }
        let id_token = self.token("id_token").map(|token| token.unwrap_or_default());
        // Only a hint: an invalid one counts as absent.
        let refresh_in = self.seconds("refresh_in");
        if self.stands("refresh_in") && refresh_in.is_none() {
            remarks.push("refresh_in_unreadable");
        }
        let refresh_in = refresh_in.filter(|renew| *renew >= 1.0 && *renew < expires_in.as_secs_f64());
        Ok(TokenSuccess {
            access_token: AccessToken::new(access_token.as_str()),
            expires_in,
            refresh_in: refresh_in.map(|renew| Duration::from_secs_f64(renew.floor())),
            refresh_token: None,
            refresh_token_expires_in: self.refresh_token_life(),
            scopes: self.scopes(&mut remarks),
            id_token,
            remarks,
        })
    }

    /// Returns the last readable refresh token: of two, most parsers would return that one.
    fn refresh_token(&self, remarks: &mut Vec<&'static str>) -> Option<RefreshToken> {
        let all = self.all("refresh_token");
        let read = all.clone().rev().find_map(|raw| token(raw).and_then(Result::ok));
        if read.is_none() && all.clone().any(|raw| token(raw).is_some()) {
            remarks.push("refresh_token_unreadable");
        }
        read.map(|token| RefreshToken::new(token.as_str()))
    }

    /// Returns a token's life. A token that has expired by its own account is not used.
    fn life(&self, remarks: &mut Vec<&'static str>) -> Result<Duration, (&'static str, String)> {
        let Some(said) = self.seconds("expires_in") else {
            if self.stands("expires_in") {
                remarks.push("expires_in_unreadable");
            }
            return Ok(UNSAID_LIFE);
        };
        if said < 1.0 {
            return Err(("expires_in", "expires_in says that the access token has ended".to_owned()));
        }
        if said > MAX_LIFE_SECONDS {
            remarks.push("expires_in_cut");
        } else if said.fract() != 0.0 {
            remarks.push("expires_in_fraction");
        }
        Ok(Duration::from_secs_f64(said.min(MAX_LIFE_SECONDS).floor()))
    }

    /// Returns the stated life of the refresh token. It is only shown, so an odd one counts as absent.
    fn refresh_token_life(&self) -> Option<Duration> {
        let stated = ["refresh_token_expires_in", "refresh_expires_in"].map(|key| self.seconds(key));
        let life = stated.into_iter().flatten().find(|life| *life >= 1.0)?;
        (life <= MAX_REFRESH_TOKEN_LIFE_SECONDS).then(|| Duration::from_secs_f64(life.floor()))
    }

    /// Returns the scopes. Some servers send a list of words in place of a string.
    fn scopes(&self, remarks: &mut Vec<&'static str>) -> Option<Vec<String>> {
        let words = |text: &str| text.split_ascii_whitespace().map(str::to_owned).collect::<Vec<_>>();
        let scopes = match self.value("scope")? {
            Value::String(text) => words(&text),
            Value::Array(items) if items.iter().all(Value::is_string) => {
                remarks.push("scope_list");
                items.iter().filter_map(Value::as_str).flat_map(words).collect()
            }
            _ => {
                remarks.push("scope_unreadable");
                return None;
            }
        };
        Some(scopes).filter(|scopes| !scopes.is_empty())
    }

    fn all(&self, key: &str) -> impl DoubleEndedIterator<Item = &'a str> + Clone {
        let of_key = self.entries.iter().filter(move |(name, _)| *name == key).map(|(_, raw)| *raw);
        of_key.collect::<Vec<_>>().into_iter()
    }

    /// Returns true if a member occurs twice with different values.
    fn differs(&self, key: &str) -> bool {
        let mut all = self.all(key);
        let first = all.next();
        all.any(|other| Some(other) != first)
    }

    /// Returns true if a member is present; `null` and an empty string count as absent.
    fn stands(&self, key: &str) -> bool {
        self.all(key).next_back().is_some_and(|raw| !["null", "\"\""].contains(&raw))
    }

    /// Returns a number of seconds, from a JSON number or a string (old Entra answers have both).
    fn seconds(&self, key: &str) -> Option<f64> {
        let raw = self.all(key).next_back()?;
        let text: Cow<'_, str> =
            if raw.starts_with('"') { serde_json::from_str(raw).ok()? } else { raw.into() };
        // (Rust's own parser would accept "inf" and "nan" too.)
        let is_number = text.bytes().all(|byte| byte.is_ascii_digit() || b"+-.eE".contains(&byte));
        text.parse().ok().filter(|_| is_number)
    }

    /// Returns a member's value; `null` and an empty string count as absent.
    fn value(&self, key: &str) -> Option<Value> {
        let value = serde_json::from_str(self.all(key).next_back()?).unwrap_or(Value::Bool(true));
        Some(value).filter(|value| !value.is_null() && *value != Value::String(String::new()))
    }

    fn token(&self, key: &str) -> Option<Result<Zeroizing<String>, ()>> {
        token(self.all(key).next_back()?)
    }
}

/// Returns a token: 1 to 65,536 visible ASCII characters or spaces (RFC 6749 appendix A). `None` for `null`
/// and an empty string.
fn token(raw: &str) -> Option<Result<Zeroizing<String>, ()>> {
    let token = match serde_json::from_str(raw) {
        Ok(Value::Null) => return None,
        Ok(Value::String(token)) => Zeroizing::new(token),
        Ok(mut other) => {
            wipe(&mut other);
            return Some(Err(()));
        }
        Err(_) => return Some(Err(())),
    };
    if token.is_empty() {
        return None;
    }
    let fits = token.len() <= MAX_TOKEN && token.bytes().all(|byte| matches!(byte, 0x20..=0x7e));
    Some(if fits { Ok(token) } else { Err(()) })
}

/// Collects an object's members, and keeps those read before a failure.
struct Entries<'l, 'a>(&'l mut Vec<(&'static str, &'a str)>);

impl<'a> Visitor<'a> for Entries<'_, 'a> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'a>>(self, mut entries: A) -> Result<(), A::Error> {
        while let Some(key) = entries.next_key::<&RawValue>()? {
            let value: &RawValue = entries.next_value()?;
            // A key that is no valid text belongs to a member that is not read.
            let name: String = serde_json::from_str(key.get()).unwrap_or_default();
            if let Some(name) = READ.into_iter().find(|read| *read == name) {
                self.0.push((name, value.get()));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use http::header::{CONTENT_TYPE, HeaderMap, HeaderValue};

    use super::*;

    fn answer(content_type: Option<&str>, body: &[u8]) -> HttpAnswer {
        let mut headers = HeaderMap::new();
        if let Some(value) = content_type {
            headers.insert(CONTENT_TYPE, HeaderValue::from_str(value).expect("a header"));
        }
        HttpAnswer { status: 200, headers, body: body.to_vec().into() }
    }

    #[test]
    fn what_can_be_read_of_a_success_is_read_and_the_rest_is_named() {
        let cases: Value =
            serde_json::from_str(include_str!("../../tests/data/authority/successes.json")).expect("cases");
        for case in cases.as_array().expect("a list") {
            let name = case["case"].as_str().expect("a name");
            let body = case["body"].as_str().expect("a body");
            let read = read(&answer(case["content_type"].as_str(), body.as_bytes()));
            let refresh_token = match &read {
                Ok(success) => success.refresh_token.as_ref(),
                Err(unusable) => unusable.refresh_token.as_ref(),
            };
            assert_eq!(refresh_token.map(RefreshToken::expose), case["refresh_token"].as_str(), "{name}");
            match (read, case["refused"].as_str()) {
                (Ok(read), None) => {
                    let life = case["expires_in"].as_u64().expect("a life");
                    assert_eq!(read.expires_in.as_secs(), life, "{name}");
                    assert_eq!(read.refresh_in.map(|d| d.as_secs()), case["refresh_in"].as_u64(), "{name}");
                    let id_token = read.id_token.as_ref().map(|token| token.as_str());
                    assert_eq!(id_token, case["id_token"].as_str(), "{name}");
                    let words = |name: &str| {
                        let words = case[name].as_array()?;
                        Some(words.iter().map(|word| word.as_str().expect("a word")).collect::<Vec<_>>())
                    };
                    let scopes = read.scopes.as_ref();
                    let scopes = scopes.map(|scopes| scopes.iter().map(String::as_str).collect());
                    assert_eq!(scopes, words("scopes"), "{name}");
                    assert_eq!(read.remarks, words("remarks").unwrap_or_default(), "{name}");
                }
                (Err(unusable), Some(rule)) => assert_eq!(unusable.rule, rule, "{name}: {}", unusable.why),
                (Ok(_), Some(_)) => panic!("{name}: was believed"),
                (Err(unusable), None) => panic!("{name}: {}", unusable.why),
            }
        }
    }

    #[test]
    fn the_stated_life_of_a_refresh_token_is_read_and_an_odd_one_is_nothing() {
        let rows = [
            (r#""refresh_token_expires_in":7776000"#, Some(7_776_000)),
            (r#""refresh_token_expires_in":"86399""#, Some(86_399)),
            (r#""refresh_expires_in":1800.9"#, Some(1800)), // Keycloak
            (r#""refresh_expires_in":0"#, None),            // Keycloak: it does not end
            (r#""refresh_token_expires_in":null,"refresh_expires_in":60"#, Some(60)),
            (r#""refresh_token_expires_in":-5"#, None),
            (r#""refresh_token_expires_in":1e300"#, None),
            (r#""refresh_token_expires_in":"soon""#, None),
            (r#""x":1"#, None),
        ];
        for (member, seconds) in rows {
            let body = format!(r#"{{"access_token":"a","token_type":"Bearer",{member}}}"#);
            let read = read(&answer(Some("application/json"), body.as_bytes())).ok().expect("a success");
            assert_eq!(read.refresh_token_expires_in, seconds.map(Duration::from_secs), "{member}");
        }
    }

    #[test]
    fn bytes_that_are_no_text_cost_only_what_they_stand_in() {
        let body =
            b"{\"x\":\"\xff\",\"refresh_token\":\"R2\",\"access_token\":\"a\",\"token_type\":\"Bearer\"}";
        let read = read(&answer(Some("application/json"), body)).ok().expect("a success");
        assert_eq!(read.refresh_token.as_ref().map(RefreshToken::expose), Some("R2"));
    }

    #[test]
    fn an_answer_without_a_refresh_token_says_so_only_when_it_is_whole() {
        let rows = [
            (r#"{"access_token":"a","token_type":"mac"}"#, true),
            (r#"{"access_token":"a","token_type":"mac"#, false),
            (r#"{"token_type":"Bearer"}"#, false),
            (r#"{"access_token":"a","error":"server_error"}"#, false),
            (r#"{"access_token":"a","access_token":"b"}"#, false),
            ("<html>", false),
        ];
        for (body, is_whole) in rows {
            let unusable =
                read(&answer(Some("application/json"), body.as_bytes())).err().expect("no success");
            assert_eq!(unusable.is_whole, is_whole, "{body}");
        }
    }

    #[test]
    fn no_piece_of_a_bad_answer_is_quoted() {
        let secret = "EwB4A8l6BAAUsecretsecret";
        for body in [
            format!(r#"{{"token_type":"Bearer","access_token":["{secret}"]}}"#),
            format!(r#"{{"token_type":"{secret}","access_token":"a"}}"#),
            format!(r#"{{"token_type":"Bearer","access_token":"{secret}" "#),
            format!(r#"{{"token_type":"Bearer","access_token":"{secret}","access_token":"{secret}"}}"#),
            format!(r#"{{"{secret}":1,"{secret}":2}}"#),
            format!(r#"{{"token_type":"Bearer","access_token":"a","expires_in":"{secret}"}}"#),
            format!(r#""{secret}""#),
            secret.to_owned(),
        ] {
            if let Err(Unusable { rule, why, .. }) = read(&answer(Some("application/json"), body.as_bytes()))
            {
                assert!(!why.contains("EwB4") && !rule.contains("EwB4"), "{why}");
            }
        }
    }
}
