//! Faults on demand: rules that make chosen requests fail in chosen ways.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::ledger::Endpoint;

/// Most rules; more are refused.
const MOST_RULES: usize = 1_000;

/// Which requests a fault hits, how often, and the fault.
///
/// ```
/// use entra_emulator::{Endpoint, Fault, FaultRule};
/// let rule = FaultRule::new(Endpoint::Token, Fault::aadsts(90033)).grant_type("refresh_token").times(2);
/// assert_eq!(rule.times, Some(2));
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FaultRule {
    /// The endpoint to disturb.
    pub endpoint: Endpoint,
    /// Only requests with this `grant_type`.
    #[serde(default)]
    pub grant_type: Option<String>,
    /// Only requests about this user (UPN), if the request tells whom it concerns.
    #[serde(default)]
    pub user: Option<String>,
    /// Only requests of this client.
    #[serde(default)]
    pub client: Option<String>,
    /// How many requests to hit; `None` is all of them until the rules are cleared.
    #[serde(default)]
    pub times: Option<u32>,
    /// How many matching requests to let pass first.
    #[serde(default)]
    pub skip: u32,
    /// What happens to them.
    pub fault: Fault,
}

impl FaultRule {
    /// A rule for every request to `endpoint`.
    pub fn new(endpoint: Endpoint, fault: Fault) -> Self {
        Self { endpoint, grant_type: None, user: None, client: None, times: None, skip: 0, fault }
    }

    /// Narrows the rule to one `grant_type`.
    pub fn grant_type(mut self, grant_type: impl Into<String>) -> Self {
        self.grant_type = Some(grant_type.into());
        self
    }

    /// Narrows the rule to one user.
    pub fn user(mut self, upn: impl Into<String>) -> Self {
        self.user = Some(upn.into());
        self
    }

    /// Narrows the rule to one client.
    pub fn client(mut self, client_id: impl Into<String>) -> Self {
        self.client = Some(client_id.into());
        self
    }

    /// Hits this many requests, then rests.
    pub fn times(mut self, times: u32) -> Self {
        self.times = Some(times);
        self
    }

    /// Hits one request.
    pub fn once(self) -> Self {
        self.times(1)
    }

    /// Lets this many matching requests pass first.
    pub fn skip(mut self, skip: u32) -> Self {
        self.skip = skip;
        self
    }
}

/// A fault. Over HTTP it is written as `{"name": {fields}}`, or as `"name"` if it has no fields.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Fault {
    /// Answer this status with an empty JSON object, without processing the request.
    Status {
        /// The HTTP status.
        status: u16,
        /// A `Retry-After` header.
        #[serde(default)]
        retry_after: Option<RetryAfter>,
    },
    /// Do nothing for so long (for ever if `None`), then close the connection. The request is not processed.
    Hang(#[serde(with = "millis_or_never")] Option<Duration>),
    /// Close the connection without processing the request.
    DropBeforeProcessing,
    /// Process the request (a refresh rotates), then close the connection instead of answering.
    DropAfterProcessing,
    /// Process the request, announce the whole answer, send half of it, then close the connection.
    CutAnswer,
    /// Process the request and answer a few bytes at a time.
    SlowDrip {
        /// Bytes per step.
        bytes: usize,
        /// Pause between steps, in milliseconds over HTTP.
        #[serde(with = "millis")]
        interval: Duration,
    },
    /// Answer something that is not a proper answer, without processing the request.
    Garbage(Garbage),
    /// Fail with this AADSTS number, without processing the request. What is left out comes from the table.
    Aadsts {
        /// The number.
        code: u32,
        /// `error`.
        #[serde(default)]
        error: Option<String>,
        /// `suberror`.
        #[serde(default)]
        suberror: Option<String>,
        /// A claims request, as JSON text.
        #[serde(default)]
        claims: Option<String>,
        /// The HTTP status.
        #[serde(default)]
        status: Option<u16>,
        /// A `Retry-After` header.
        #[serde(default)]
        retry_after: Option<RetryAfter>,
    },
    /// Wait, then process the request. In milliseconds over HTTP.
    Delay(#[serde(with = "millis")] Duration),
    /// Process the request, then wait, then answer. In milliseconds over HTTP.
    DelayAnswer(#[serde(with = "millis")] Duration),
    /// Wait until `faults().release()`, then process the request.
    Hold,
    /// Process the request, wait until `faults().release()`, then answer.
    HoldAnswer,
    /// Answer 302 to this address, without processing the request.
    Redirect(String),
    /// Merge these members into a token answer; `null` removes one.
    TokenResponsePatch(Map<String, Value>),
    /// Put another user's claims into the id token.
    WrongUserIdToken(String),
    /// Merge these claims into the id token; `null` removes one.
    IdTokenPatch(Map<String, Value>),
    /// Merge these members into the id token's header; `null` removes one. The signature covers the result.
    IdTokenHeaderPatch(Map<String, Value>),
    /// Sign the id token otherwise.
    IdTokenSigning(IdTokenSigning),
    /// Merge these members into the discovery document; `null` removes one.
    DiscoveryPatch(Map<String, Value>),
    /// Merge these members into the key document; `null` removes one.
    JwksPatch(Map<String, Value>),
    /// Change the redirect back to the app.
    CallbackPatch(CallbackPatch),
}

impl Fault {
    /// This status, without `Retry-After`.
    pub fn status(status: u16) -> Self {
        Self::Status { status, retry_after: None }
    }

    /// This status, with `Retry-After` in seconds.
    pub fn status_retry_after(status: u16, seconds: u64) -> Self {
        Self::Status { status, retry_after: Some(RetryAfter::Seconds(seconds)) }
    }

    /// This AADSTS number with its usual error, status and suberror.
    pub fn aadsts(code: u32) -> Self {
        Self::Aadsts { code, error: None, suberror: None, claims: None, status: None, retry_after: None }
    }

    /// This AADSTS number with a claims request (JSON text) for the next sign-in.
    pub fn aadsts_with_claims(code: u32, claims: impl Into<String>) -> Self {
        let claims = Some(claims.into());
        Self::Aadsts { code, error: None, suberror: None, claims, status: None, retry_after: None }
    }

    /// A redirect back to the app with this error.
    pub fn callback_error(error: impl Into<String>, description: impl Into<String>) -> Self {
        let (error, description) = (error.into(), description.into());
        Self::CallbackPatch(CallbackPatch::Error { error, description: Some(description), subcode: None })
    }

    /// The fault's name in the ledger.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Status { .. } => "status",
            Self::Hang(_) => "hang",
            Self::DropBeforeProcessing => "drop_before_processing",
            Self::DropAfterProcessing => "drop_after_processing",
            Self::CutAnswer => "cut_answer",
            Self::SlowDrip { .. } => "slow_drip",
            Self::Garbage(_) => "garbage",
            Self::Aadsts { .. } => "aadsts",
            Self::Delay(_) => "delay",
            Self::DelayAnswer(_) => "delay_answer",
            Self::Hold => "hold",
            Self::HoldAnswer => "hold_answer",
            Self::Redirect(_) => "redirect",
            Self::TokenResponsePatch(_) => "token_response_patch",
            Self::WrongUserIdToken(_) => "wrong_user_id_token",
            Self::IdTokenPatch(_) => "id_token_patch",
            Self::IdTokenHeaderPatch(_) => "id_token_header_patch",
            Self::IdTokenSigning(_) => "id_token_signing",
            Self::DiscoveryPatch(_) => "discovery_patch",
            Self::JwksPatch(_) => "jwks_patch",
            Self::CallbackPatch(_) => "callback_patch",
        }
    }

    /// Returns true if the fault applies only once the callback is known.
    pub(crate) fn is_late(&self, endpoint: Endpoint) -> bool {
        matches!(endpoint, Endpoint::Authorize | Endpoint::AdminConsent)
            && matches!(self, Self::CallbackPatch(_) | Self::Aadsts { .. })
    }

    /// Returns true if the fault alone decides the answer.
    pub(crate) fn replaces_processing(&self) -> bool {
        matches!(
            self,
            Self::Status { .. }
                | Self::Hang(_)
                | Self::DropBeforeProcessing
                | Self::Garbage(_)
                | Self::Aadsts { .. }
                | Self::Redirect(_)
        )
    }
}

/// The two forms of `Retry-After`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RetryAfter {
    /// A number of seconds.
    Seconds(u64),
    /// A date this many seconds from now.
    DateAfterSeconds(u64),
}

/// Invalid answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Garbage {
    /// 200 with an HTML page.
    Html,
    /// 502 with an HTML page.
    HtmlError,
    /// 200 with text, labelled as JSON.
    NotJson,
    /// 200 with JSON that stops in the middle.
    TruncatedJson,
    /// 200 with JSON and more bytes behind it.
    TrailingBytes,
    /// 200 with JSON that says everything twice, differently.
    DuplicateKeys,
    /// 200 with 16 MiB of JSON.
    HugeBody,
    /// 200 with an empty body.
    Empty,
}

/// How an id token is signed when it is signed wrongly.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum IdTokenSigning {
    /// The right `kid`, another key's signature.
    WrongKey,
    /// A key and `kid` that no JWKS lists.
    UnpublishedKey,
    /// `alg: none` and no signature.
    AlgNone,
}

/// Changes to the redirect that ends an authorize request.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CallbackPatch {
    /// `state` is not the one sent.
    WrongState,
    /// `state` is missing.
    NoState,
    /// The user stays on a page; the app is never called.
    NeverReturns,
    /// Every parameter comes twice, with different values.
    DuplicateParams,
    /// The user presses Cancel on the sign-in page.
    Cancel,
    /// This error instead of a code.
    Error {
        /// `error`.
        error: String,
        /// `error_description`.
        #[serde(default)]
        description: Option<String>,
        /// `error_subcode`.
        #[serde(default)]
        subcode: Option<String>,
    },
    /// An `iss` parameter with this value.
    Iss(String),
    /// Set (string) or remove (`null`) parameters.
    Set(Map<String, Value>),
}

/// The visible properties of a request before it is processed, matched by rules.
#[derive(Clone, Debug)]
pub(crate) struct Target<'a> {
    pub(crate) endpoint: Endpoint,
    pub(crate) grant_type: Option<&'a str>,
    pub(crate) user: Option<&'a str>,
    pub(crate) client: Option<&'a str>,
}

/// The rules in force, oldest first.
#[derive(Debug, Default)]
pub(crate) struct Rules(Vec<FaultRule>);

impl Rules {
    /// Adds a rule; false when there are too many already.
    pub(crate) fn inject(&mut self, rule: FaultRule) -> bool {
        let room = self.0.len() < MOST_RULES;
        if room {
            self.0.push(rule);
        }
        room
    }

    /// Removes the rules that equal this one except for their remaining hits.
    pub(crate) fn withdraw(&mut self, rule: &FaultRule) {
        self.0.retain(|one| FaultRule { times: rule.times, skip: rule.skip, ..one.clone() } != *rule);
    }

    pub(crate) fn clear(&mut self) {
        self.0.clear();
    }

    pub(crate) fn all(&self) -> &[FaultRule] {
        &self.0
    }

    /// Returns the faults, among those now `eligible`, that hit this request: any number that alter it, and
    /// at most one that replaces it. Counts down the used rules.
    pub(crate) fn strike(&mut self, target: &Target<'_>, eligible: impl Fn(&Fault) -> bool) -> Vec<Fault> {
        let mut hits: Vec<Fault> = Vec::new();
        for rule in &mut self.0 {
            let replaced = hits.iter().any(Fault::replaces_processing);
            if !rule.fits(target) || !eligible(&rule.fault) || (replaced && rule.fault.replaces_processing())
            {
                continue;
            }
            if rule.skip > 0 {
                rule.skip -= 1;
                continue;
            }
            if let Some(left) = &mut rule.times {
                *left = left.saturating_sub(1);
            }
            hits.push(rule.fault.clone());
        }
        self.0.retain(|rule| rule.times != Some(0));
        hits
    }
}

impl FaultRule {
    fn fits(&self, target: &Target<'_>) -> bool {
        let same = |wanted: &Option<String>, found: Option<&str>| {
            wanted
                .as_deref()
                .is_none_or(|wanted| found.is_some_and(|found| found.eq_ignore_ascii_case(wanted)))
        };
        self.endpoint == target.endpoint
            && self.times != Some(0)
            && same(&self.grant_type, target.grant_type)
            && same(&self.user, target.user)
            && same(&self.client, target.client)
    }
}

/// Merges `patch` into `body`; `null` removes a member.
pub(crate) fn merge(body: &mut Map<String, Value>, patch: &Map<String, Value>) {
    for (name, value) in patch {
        if value.is_null() {
            body.remove(name);
        } else {
            body.insert(name.clone(), value.clone());
        }
    }
}

mod millis {
    use std::time::Duration;

    use serde::{Deserialize as _, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(value: &Duration, out: S) -> Result<S::Ok, S::Error> {
        out.serialize_u64(u64::try_from(value.as_millis()).unwrap_or(u64::MAX))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Duration, D::Error> {
        u64::deserialize(from).map(Duration::from_millis)
    }
}

mod millis_or_never {
    use std::time::Duration;

    use serde::{Deserialize as _, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(value: &Option<Duration>, out: S) -> Result<S::Ok, S::Error> {
        match value {
            Some(value) => super::millis::serialize(value, out),
            None => out.serialize_none(),
        }
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Duration>, D::Error> {
        Ok(Option::<u64>::deserialize(from)?.map(Duration::from_millis))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(user: &str) -> Target<'_> {
        Target {
            endpoint: Endpoint::Token,
            grant_type: Some("refresh_token"),
            user: Some(user),
            client: None,
        }
    }

    #[test]
    fn rules_count_skip_and_then_rest() {
        let mut rules = Rules::default();
        rules.inject(FaultRule::new(Endpoint::Token, Fault::status(503)).user("Alice@x").skip(1).times(2));
        assert!(rules.strike(&target("bob@x"), |_| true).is_empty());
        let hits: Vec<_> = (0..4).map(|_| rules.strike(&target("alice@x"), |_| true).len()).collect();
        assert_eq!(hits, [0, 1, 1, 0]);
    }

    #[test]
    fn one_replacing_fault_at_a_time_but_any_number_of_others() {
        let mut rules = Rules::default();
        let delay = Fault::Delay(Duration::from_millis(5));
        rules.inject(FaultRule::new(Endpoint::Token, Fault::aadsts(90033)).once());
        rules.inject(FaultRule::new(Endpoint::Token, Fault::status(500)).once());
        rules.inject(FaultRule::new(Endpoint::Token, delay.clone()));
        assert_eq!(rules.strike(&target("a"), |_| true), [Fault::aadsts(90033), delay.clone()]);
        assert_eq!(rules.strike(&target("a"), |_| true), [Fault::status(500), delay]);
    }

    #[test]
    fn rules_read_as_json() {
        let text = r#"{"endpoint":"token","times":1,"fault":{"slow_drip":{"bytes":1,"interval":20}}}"#;
        let rule: FaultRule = serde_json::from_str(text).unwrap();
        assert_eq!(rule.fault, Fault::SlowDrip { bytes: 1, interval: Duration::from_millis(20) });
        for text in [r#""drop_after_processing""#, r#"{"hang":null}"#, r#"{"aadsts":{"code":90033}}"#] {
            serde_json::from_str::<Fault>(text).unwrap();
        }
    }
}
