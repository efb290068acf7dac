//! The token endpoint's success (RFC 6749 §5.1), read for what it has. The refresh token that was sent may be spent by then,
//! so each member is read by itself: nothing odd in one costs another, and a refresh token that can be read is never lost.

use std::borrow::Cow;
use std::fmt;
use std::time::Duration;

use serde::de::{Deserializer, MapAccess, Visitor};
use serde_json::Value;
use serde_json::value::RawValue;
use zeroize::{Zeroize, Zeroizing};

use super::http::HttpAnswer;
use super::wire::wipe;
use crate::domain::secret::{AccessToken, RefreshToken};

/// The longest token we hold, in bytes.
const MAX_TOKEN: usize = 64 * 1024;
/// The longest life of an access token that is believed: two days. Tokens under continuous access evaluation live
/// up to 28 hours.
const MAX_LIFE_SECONDS: f64 = 172_800.0;
/// The life of a token whose answer names none (RFC 6749 §5.1 only recommends `expires_in`): short enough to be
/// wrong about, long enough to be served to a caller that asks for the usual five minutes.
const UNSAID_LIFE: Duration = Duration::from_secs(300);
/// The members that decide what an answer is. One of them that stands twice with two values says nothing.
const DECIDING: [&str; 6] =
    ["access_token", "refresh_token", "token_type", "id_token", "error", "expires_in"];

/// Every member that is read; the others are not kept, so that many of them cost no more than their bytes.
const READ: [&str; 8] =
    ["access_token", "refresh_token", "token_type", "id_token", "error", "expires_in", "refresh_in", "scope"];

/// A success whose access token can be used.
pub(super) struct TokenSuccess {
    pub(super) access_token: AccessToken,
    pub(super) expires_in: Duration,
    pub(super) refresh_in: Option<Duration>,
    pub(super) refresh_token: Option<RefreshToken>,
    /// As the authority spelt them; none when it said nothing.
    pub(super) scopes: Option<Vec<String>>,
    /// Empty when one came that is no text: no token can be read from it.
    pub(super) id_token: Option<Zeroizing<String>>,
    /// The rules by which something of the answer was cut or ignored.
    pub(super) remarks: Vec<&'static str>,
}

/// A success without an access token that can be used.
pub(super) struct Unusable {
    /// The rule that it broke.
    pub(super) rule: &'static str,
    /// The same in words.
    pub(super) why: String,
    /// The refresh token in it, all the same.
    pub(super) refresh_token: Option<RefreshToken>,
    /// Every `id_token` in it that can be read: it may say that the refresh token is somebody else's.
    pub(super) id_tokens: Vec<Zeroizing<String>>,
    /// It is a whole and clear answer with an access token, so one without a refresh token leaves the one that was sent in force
    /// (RFC 6749 §6).
    pub(super) is_whole: bool,
}

/// Reads the answer to a token request that has status 200.
pub(super) fn read(answer: &HttpAnswer) -> Result<TokenSuccess, Unusable> {
    let text = String::from_utf8_lossy(&answer.body);
    let read = Members::read(&text).success(!answer.is_json());
    if let Cow::Owned(mut copy) = text {
        copy.zeroize();
    }
    read
}

/// The members of the outermost object, as far as it can be read.
struct Members<'a> {
    /// Those that are [`READ`], in order, each with its value as it is written.
    entries: Vec<(&'static str, &'a str)>,
    end: End,
}

/// How the text ended.
enum End {
    Whole,
    /// Something stands behind the object.
    BytesAfter,
    /// It broke off or went wrong here, in words.
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
            // serde_json's own words could quote a secret; where it stopped is enough.
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

    /// Everything but the refresh token.
    fn tokens(
        &self,
        mut remarks: Vec<&'static str>,
        is_mislabelled: bool,
    ) -> Result<TokenSuccess, (&'static str, String)> {
        let broken = |rule: &'static str, why: &str| Err((rule, why.to_owned()));
        match &self.end {
            End::Whole => {}
            // Perhaps two documents: which one is meant nobody knows.
            End::BytesAfter => return broken("bytes_after_end", "something stands behind the JSON"),
            End::Broken(why) => return Err(("not_json", why.clone())),
            End::NotAnObject => return broken("not_an_object", "it is JSON, but not an object"),
        }
        if let Some(key) = DECIDING.into_iter().find(|key| self.differs(key)) {
            return Err(("repeated_member", format!("{key} stands twice, with two values")));
        }
        if self.value("error").is_some_and(|error| error != Value::Bool(false)) {
            return broken("error_in_success", "the answer is a success and an error at once");
        }
        match self.value("token_type") {
            Some(Value::String(kind)) if kind.trim().eq_ignore_ascii_case("bearer") => {}
            // Whoever has it cannot use it: it is bound to a key, or means something that we do not know.
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
        // A hint only: what cannot be used is as good as absent.
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
            scopes: self.scopes(&mut remarks),
            id_token,
            remarks,
        })
    }

    /// The last one that can be read: where two stand, that is what most readers see.
    fn refresh_token(&self, remarks: &mut Vec<&'static str>) -> Option<RefreshToken> {
        let all = self.all("refresh_token");
        let read = all.clone().rev().find_map(|raw| token(raw).and_then(Result::ok));
        if read.is_none() && all.clone().any(|raw| token(raw).is_some()) {
            remarks.push("refresh_token_unreadable");
        }
        read.map(|token| RefreshToken::new(token.as_str()))
    }

    /// A token's life. One that says of itself that it has ended is not to be used.
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

    /// The scopes; a list of words, as some servers send, is as good as a string.
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

    /// Whether a member stands twice and not with one value.
    fn differs(&self, key: &str) -> bool {
        let mut all = self.all(key);
        let first = all.next();
        all.any(|other| Some(other) != first)
    }

    /// Whether a member is there; `null` and an empty string are absence.
    fn stands(&self, key: &str) -> bool {
        self.all(key).next_back().is_some_and(|raw| !["null", "\"\""].contains(&raw))
    }

    /// A number of seconds, as a JSON number or in a string (old Entra answers have both).
    fn seconds(&self, key: &str) -> Option<f64> {
        let raw = self.all(key).next_back()?;
        let text: Cow<'_, str> =
            if raw.starts_with('"') { serde_json::from_str(raw).ok()? } else { raw.into() };
        // (Rust's own reader would take "inf" and "nan" too.)
        let is_number = text.bytes().all(|byte| byte.is_ascii_digit() || b"+-.eE".contains(&byte));
        text.parse().ok().filter(|_| is_number)
    }

    /// A member's value; `null` and an empty string are absence.
    fn value(&self, key: &str) -> Option<Value> {
        let value = serde_json::from_str(self.all(key).next_back()?).unwrap_or(Value::Bool(true));
        Some(value).filter(|value| !value.is_null() && *value != Value::String(String::new()))
    }

    fn token(&self, key: &str) -> Option<Result<Zeroizing<String>, ()>> {
        token(self.all(key).next_back()?)
    }
}

/// A token: 1 to 65,536 visible ASCII characters or spaces (RFC 6749 appendix A). None for `null` and an empty string.
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

/// Reads an object's members into a list that keeps what was read when the reading fails.
struct Entries<'l, 'a>(&'l mut Vec<(&'static str, &'a str)>);

impl<'a> Visitor<'a> for Entries<'_, 'a> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'a>>(self, mut entries: A) -> Result<(), A::Error> {
        while let Some(key) = entries.next_key::<&RawValue>()? {
            let value: &RawValue = entries.next_value()?;
            // One that cannot be a name is of a member that nobody asks for.
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
