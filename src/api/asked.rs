//! What the URL of a request asks for. It is decoded once, before anything is decided by it; a URL that
//! cannot be read is decoded again only to say why.

use std::borrow::Cow;

use http::Method;
use percent_encoding::percent_decode_str;

use super::problem::Problem;
use super::relayed::{KEY, holds_key};
use super::routes::{Api, Effect, Found, find, find_relayed};
use crate::domain::handle;
use crate::listener::{BadPairs, Pairs, segments};

/// A request's URL, as its API reads it.
pub(super) struct Asked<A> {
    /// The path of the API's table, and what it names.
    pub(super) found: Result<Found<A>, BadUrl>,
    /// The query.
    pub(super) query: Result<Pairs, BadPairs>,
}

/// Why a URL leads nowhere.
#[derive(Debug)]
pub(super) enum BadUrl {
    /// It is refused, whichever route it meant. The admin API says so to everybody; the local API only to a
    /// caller it knows.
    Refused(Box<Problem>),
    /// It is no route of this API.
    NoRoute(Box<Problem>),
}

impl<A: Api> Asked<A> {
    /// Reads a path and a query.
    pub(super) fn read(path: &str, query: Option<&str>) -> Self {
        let parameters = match Pairs::decoded(query.unwrap_or_default().as_bytes()) {
            Ok(parameters) => parameters,
            Err(bad) => {
                let problem = Box::new(Problem::query(bad.clone()));
                return Asked { found: Err(BadUrl::Refused(problem)), query: Err(bad) };
            }
        };
        let relayed = find_relayed(path, query);
        let segments = if relayed.is_some() { None } else { segments(path, A::DOTS) };
        let shows = match &relayed {
            Some(_) => relayed_shows_credential(path, query.unwrap_or_default(), &parameters),
            None => shows_credential(path, segments.as_deref(), &parameters),
        };
        let found = if shows {
            // RFC 6750 section 2.3 is not offered: what stands in a URL stands in every log on the way.
            Err(BadUrl::Refused(Box::new(Problem::invalid(
                "query",
                "carries a credential; send it in the Authorization header, and replace this one: it is in \
                 logs now",
            ))))
        } else {
            let found = relayed.unwrap_or_else(|| {
                segments.map_or_else(|| Err(A::unreadable(path)), |segments| find(&segments))
            });
            found.map_err(|problem| BadUrl::NoRoute(Box::new(problem)))
        };
        Asked { found, query: Pairs::by_name(parameters) }
    }

    /// Returns true if a request by this method may change something that outlives it.
    pub(super) fn is_act(&self, method: &Method) -> bool {
        let route = self.found.as_ref().ok().and_then(|found| found.route(method));
        match route.map(|route| route.effect) {
            Some(Effect::Acts) => true,
            // A hand-out is recorded in the step that decides it, so it needs no task. The link that is asked
            // for beside a refusal is an act.
            Some(Effect::HandsOut) => self.query.as_ref().is_ok_and(|query| query.has("connect")),
            Some(Effect::None | Effect::Reads(_) | Effect::Pushes | Effect::Relays) | None => false,
        }
    }
}

impl From<BadUrl> for Problem {
    fn from(bad: BadUrl) -> Self {
        match bad {
            BadUrl::Refused(problem) | BadUrl::NoRoute(problem) => *problem,
        }
    }
}

/// Parameters that hold a credential, or a user's token.
const SECRET_PARAMETERS: [&str; 7] = [
    "access_token",
    "actor_token",
    "api_key",
    "authorization",
    "client_assertion",
    "client_secret",
    "subject_token",
];

/// The same of a relayed request, whose path and query are the resource's.
fn relayed_shows_credential(path: &str, query: &str, parameters: &[(Cow<'_, str>, Cow<'_, str>)]) -> bool {
    let is_name = |name: &str| SECRET_PARAMETERS.contains(&&*name.to_ascii_lowercase());
    holds_key(path) || holds_key(query) || parameters.iter().any(|(name, _)| is_name(name))
}

/// An escape hides nothing from those who read a log, so what was decoded counts.
fn shows_credential(
    path: &str,
    segments: Option<&[Cow<'_, str>]>,
    parameters: &[(Cow<'_, str>, Cow<'_, str>)],
) -> bool {
    let is_key = |text: &str| KEY.find(text.as_bytes()).is_some() || handle::is_in(text);
    let is_name = |name: &str| SECRET_PARAMETERS.contains(&&*name.to_ascii_lowercase());
    let in_path = match segments {
        // What has no escape is as it was sent.
        Some(_) if !path.contains('%') => is_key(path),
        Some(segments) => segments.iter().any(|segment| is_key(segment)),
        None => is_key(&percent_decode_str(path).decode_utf8_lossy()),
    };
    in_path || parameters.iter().any(|(name, value)| is_name(name) || is_key(name) || is_key(value))
}
