//! `POST …/connections/{connection}/handles`: a caller makes a bearer for a part of its relay. And who asks
//! by one, which is for the relay alone.

use std::time::Duration;

use http::StatusCode;
use serde::{Deserialize, Serialize};

use super::{Call, LocalApi, NoCaller, examples};
use crate::api::doc::{Body as Document, Content, Doc};
use crate::api::problem::{Problem, json};
use crate::api::routes::{Effect, Permission, Route, Run};
use crate::api::token_body::whole_seconds;
use crate::api::{body, credential};
use crate::broker::handles::{Handle, NewHandle};
use crate::callers::{Authenticated, AuthenticationFailure, Credential};
use crate::domain::auth_method::AuthMethod;
use crate::domain::handle::LONGEST_LIFE;
use crate::domain::id::ConnectionKey;
use crate::events::HandleMade;
use crate::listener::Response;
use crate::relay::RelayRule;

/// Most rules of a handle.
const MOST_RULES: usize = 32;
/// Most bytes of their texts together.
const MOST_TEXT: usize = 3 * 1024;
/// The longest note.
const LONGEST_NOTE: usize = 200;

/// `POST …/connections/{connection}/handles`
pub(super) const MAKE: Route<LocalApi> = Route {
    method: "POST",
    path: "/v1/apps/{app}/connections/{connection}/handles",
    handler: Run::Connection(|api, call, key| Box::pin(api.make_handle(call, key))),
    permission: Permission::HasRelay,
    effect: Effect::Acts,
    doc: Doc {
        id: "makeHandle",
        tag: "relay",
        summary: "A handle: a bearer for a part of the caller's relay",
        description: "For a worker that should hold nothing better. It is sent as `Authorization: Bearer …` \
         to the relay of this connection, and counts nowhere else. Each of its rules must be included in \
         one of the caller's own, now and whenever it is used. It ends by its time (a day at most), with \
         its connection, at a pause, with the caller or the API key that made it, and by `tokenward \
         revoke`.",
        body: Document::Required(Content::one("NewHandle", examples::NEW_HANDLE)),
        answer: (201, "The handle. It is shown once, and stored nowhere."),
        content: Some(Content::one("Handle", examples::HANDLE)),
        problems: &[(404, "ConnectionNotFound"), (409, "Paused"), (503, "HandleUnavailable")],
        ..Doc::PLAIN
    },
};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Wanted {
    #[serde(deserialize_with = "whole_seconds")]
    ttl: Option<u64>,
    relay: Vec<String>,
    note: Option<String>,
}

impl Wanted {
    /// Reads what is wanted, and the note.
    fn read(self) -> Result<(NewHandle, Option<String>), Problem> {
        let Wanted { ttl, relay, note } = self;
        let longest = LONGEST_LIFE.as_secs();
        let ttl = ttl.filter(|ttl| (1..=longest).contains(ttl)).ok_or_else(|| {
            Problem::invalid("ttl", format!("must be 1 to {longest}, in seconds: a day at most"))
        })?;
        let is_too_long = relay.iter().map(String::len).sum::<usize>() > MOST_TEXT;
        if relay.is_empty() || relay.len() > MOST_RULES || is_too_long {
            let most = format!("must have 1 to {MOST_RULES} rules, of {MOST_TEXT} bytes in all");
            return Err(Problem::invalid("relay", most));
        }
        let mut rules = Vec::with_capacity(relay.len());
        for (text, number) in relay.iter().zip(1..) {
            let rule = RelayRule::parse(text);
            rules.push(rule.map_err(|fault| Problem::invalid("relay", format!("rule {number} {fault}")))?);
        }
        let is_odd =
            |note: &String| note.chars().count() > LONGEST_NOTE || note.chars().any(char::is_control);
        if note.as_ref().is_some_and(is_odd) {
            let most = format!("may have {LONGEST_NOTE} characters, and no control characters");
            return Err(Problem::invalid("note", most));
        }
        Ok((NewHandle { ttl: Duration::from_secs(ttl), rules }, note))
    }
}

#[derive(Serialize)]
struct Made<'a> {
    handle: &'a str,
    id: &'a str,
    expires_at: String,
}

impl LocalApi {
    /// Makes a handle.
    async fn make_handle(&self, call: Call<'_>, key: &ConnectionKey) -> Result<Response, Problem> {
        let (caller, who) = (call.admitted.caller(), call.who);
        // (Who may not know of the connection is told nothing else.)
        let permit = caller.policy.may_see(key).map_err(|denial| Problem::of(denial.into()))?;
        let (wanted, note) = body::parse::<Wanted>(&body::read(call.body).await?)?.read()?;
        let api_key = match credential(&call.headers, &call.streaming.1) {
            Some(Credential::ApiKey(text)) => match self.callers.load().key_id(text) {
                Some(id) => Some(id),
                // It was retired while the body came. (A handle of no key would outlive it.)
                None => {
                    let problem = Problem::unauthenticated();
                    self.events.handle_refused(who, &caller.name, key, problem.code).await;
                    return Err(problem.recorded());
                }
            },
            _ => None,
        };
        let relay: Vec<String> = wanted.rules.iter().map(RelayRule::to_string).collect();
        let made = match self.broker.make_handle(permit, api_key, wanted).await {
            Ok(made) => made,
            Err(refusal) => {
                let problem = Problem::of(refusal);
                self.events.handle_refused(who, &caller.name, key, problem.code).await;
                return Err(problem.recorded());
            }
        };
        let (id, expires_at, note) = (&made.id, made.expires_at, note.as_deref());
        let recorded =
            self.events.handle_made(who, &caller.name, key, HandleMade { id, expires_at, relay, note });
        recorded.await.map_err(|refusal| Problem::of(refusal).recorded())?;
        let (handle, id) = (made.text.expose(), made.id.as_str());
        Ok(json(StatusCode::CREATED, &Made { handle, id, expires_at: expires_at.rfc3339() }))
    }

    /// Finds the caller in whose stead a handle asks, as far as that needs no look at the connection.
    pub(super) async fn by_handle(&self, text: &str) -> Result<(Authenticated, Box<Handle>), NoCaller> {
        if !self.accepted.current().contains(AuthMethod::Handles) {
            return Err(AuthenticationFailure::NotAccepted.into());
        }
        let handle = self.broker.open_handle(text).ok_or(AuthenticationFailure::Unknown)?;
        let callers = self.callers.load_full();
        callers.check_key_files(self.clock.as_ref()).await;
        let has_key = |id: &String| callers.use_key(&handle.caller, id, self.clock.now());
        let caller = callers.named(&handle.caller);
        match caller.filter(|_| !self.broker.is_handle_over(&handle) && handle.api_key.iter().all(has_key)) {
            Some(caller) => Ok((Authenticated { caller, method: AuthMethod::Handles }, Box::new(handle))),
            None => Err(NoCaller::Unknown(AuthenticationFailure::HandleEnded, Some(handle.id))),
        }
    }
}
