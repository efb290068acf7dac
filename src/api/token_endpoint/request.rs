//! A token request: an exchange (RFC 8693 §2.1), or one for the app's own token (RFC 6749 §4.4).

use super::form::Form;
use crate::api::problem::Problem;
use crate::authority::UserTokenKind;
use crate::broker::exchange::Named;
use crate::domain::id::{AppName, ConnectionKey, ConnectionName};

/// `grant_type` of an exchange.
pub(in crate::api) const TOKEN_EXCHANGE: &str = "urn:ietf:params:oauth:grant-type:token-exchange";
/// `grant_type` of a request for the app's own token.
pub(in crate::api) const CLIENT_CREDENTIALS: &str = "client_credentials";
/// The type of the tokens that are issued.
pub(in crate::api) const ACCESS_TOKEN: &str = "urn:ietf:params:oauth:token-type:access_token";
const ID_TOKEN: &str = "urn:ietf:params:oauth:token-type:id_token";
const JWT: &str = "urn:ietf:params:oauth:token-type:jwt";
/// The type of a connection's name.
const CONNECTION: &str = "urn:tokenward:params:oauth:token-type:connection";

/// Longest token of a user that is read. Entra's stay below 8 KiB, even with many groups.
const LONGEST_TOKEN: usize = 16 * 1024;

/// Parameters that say whose token is meant. They belong to an exchange.
const OF_AN_EXCHANGE: [&str; 4] = ["subject_token", "subject_token_type", "actor_token", "actor_token_type"];
/// What Entra's clients put behind a resource to name all that the app has there.
const DEFAULT: &str = "/.default";

/// What is asked for.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::api) enum Asked<'a> {
    /// A connection's token.
    Exchange(Exchange<'a>),
    /// A token of an app itself.
    OfApp(OfApp<'a>),
}

impl<'a> Asked<'a> {
    /// Reads a form.
    pub(in crate::api) fn read(form: &'a Form) -> Result<Self, Problem> {
        match form.value("grant_type") {
            Some(TOKEN_EXCHANGE) => Exchange::read(form).map(Asked::Exchange),
            Some(CLIENT_CREDENTIALS) => OfApp::read(form).map(Asked::OfApp),
            Some(_) => Err(Problem::invalid(
                "grant_type",
                format!("is not supported; send {TOKEN_EXCHANGE} or {CLIENT_CREDENTIALS}"),
            )),
            None => Err(Problem::invalid("body", "has no grant_type")),
        }
    }
}

/// A request for a token of an app itself.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::api) struct OfApp<'a> {
    /// The app; `None` leaves it to the rules.
    pub(in crate::api) app: Option<AppName>,
    /// The tenant.
    pub(in crate::api) tenant: Option<&'a str>,
    /// The resource, perhaps with `/.default`.
    pub(in crate::api) resource: Option<&'a str>,
    /// In which parameter the resource stands.
    pub(in crate::api) named_in: &'static str,
    pub(in crate::api) min_ttl: Option<&'a str>,
}

impl<'a> OfApp<'a> {
    fn read(form: &'a Form) -> Result<Self, Problem> {
        if let Some(other) = OF_AN_EXCHANGE.into_iter().find(|name| form.value(name).is_some()) {
            // A client that means a user's token must not get one that can do more.
            let problem = format!("belongs to {TOKEN_EXCHANGE}; a token of the app itself is nobody's");
            return Err(Problem::invalid(other, problem));
        }
        only_access_tokens(form)?;
        let Named { app, connection } = audience(form.values("audience"))?;
        if connection.is_some() {
            let problem = "names a connection; a token of the app itself is for the app alone";
            return Err(Problem::invalid("audience", problem));
        }
        let Wanted { scope, resource, min_ttl } = Wanted::read(form)?;
        let of_scope = scope.map(resource_of_scope).transpose()?;
        let (resource, named_in) = match (resource, of_scope) {
            (Some(one), Some(other)) if one.strip_suffix(DEFAULT).unwrap_or(one) != other => {
                let problem = "is another one than in scope; send the resource once";
                return Err(Problem::invalid("resource", problem));
            }
            (None, Some(resource)) => (Some(resource), "scope"),
            (resource, _) => (resource, "resource"),
        };
        Ok(OfApp { app, tenant: form.value("tenant"), resource, named_in, min_ttl })
    }
}

/// The resource of `{resource}/.default`, the one scope that such a request can have: it is all that the app
/// was given there.
fn resource_of_scope(scope: &str) -> Result<&str, Problem> {
    let resource = scope.strip_suffix(DEFAULT).filter(|rest| !rest.is_empty() && !rest.contains(' '));
    resource.ok_or_else(|| {
        let problem = "must be {resource}/.default or be left out: the app's own token can do all that the \
                       app was given there";
        Problem::invalid("scope", problem)
    })
}

/// An exchange.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::api) struct Exchange<'a> {
    /// Whose token it is.
    pub(in crate::api) subject: Subject<'a>,
    /// What the token is for.
    pub(in crate::api) wanted: Wanted<'a>,
}

/// Whose token is asked for.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::api) enum Subject<'a> {
    /// A connection's, by its name.
    Connection(ConnectionKey),
    /// The one of a user whose token is presented.
    User {
        /// The user's token.
        token: &'a str,
        /// Which token; `None` if its own words tell.
        kind: Option<UserTokenKind>,
        /// What the audience says of the connection.
        named: Named,
    },
}

/// What a token is for, in the words of the native API.
#[derive(Debug, Default, PartialEq, Eq)]
pub(in crate::api) struct Wanted<'a> {
    pub(in crate::api) scope: Option<&'a str>,
    pub(in crate::api) resource: Option<&'a str>,
    pub(in crate::api) min_ttl: Option<&'a str>,
}

impl<'a> Exchange<'a> {
    fn read(form: &'a Form) -> Result<Self, Problem> {
        only_access_tokens(form)?;
        no_actor(form)?;
        let missing = |name| Problem::invalid(name, "is missing");
        let token = form.value("subject_token").ok_or_else(|| missing("subject_token"))?;
        let kind = form.value("subject_token_type").ok_or_else(|| missing("subject_token_type"))?;
        let named = audience(form.values("audience"))?;
        let user = |kind| match token.len() {
            ..=LONGEST_TOKEN => Ok(Subject::User { token, kind, named: named.clone() }),
            _ => Err(Problem::invalid("subject_token", format!("is longer than {LONGEST_TOKEN} bytes"))),
        };
        let subject = match kind {
            CONNECTION => connection(token, &named)?,
            ID_TOKEN => user(Some(UserTokenKind::IdToken))?,
            ACCESS_TOKEN => user(Some(UserTokenKind::AccessToken))?,
            JWT => user(None)?,
            _ => {
                let problem =
                    format!("is not known here; send {CONNECTION}, {ID_TOKEN}, {ACCESS_TOKEN} or {JWT}");
                return Err(Problem::invalid("subject_token_type", problem));
            }
        };
        Ok(Exchange { subject, wanted: Wanted::read(form)? })
    }
}

fn only_access_tokens(form: &Form) -> Result<(), Problem> {
    if form.value("requested_token_type").is_some_and(|kind| kind != ACCESS_TOKEN) {
        let problem = format!("only {ACCESS_TOKEN} is issued here; send that or leave it out");
        return Err(Problem::invalid("requested_token_type", problem));
    }
    Ok(())
}

/// An actor token is not taken: the client itself acts, and it has authenticated.
fn no_actor(form: &Form) -> Result<(), Problem> {
    match (form.value("actor_token"), form.value("actor_token_type")) {
        (None, None) => Ok(()),
        (None, Some(_)) => Err(Problem::invalid("actor_token_type", "stands without an actor_token")),
        (Some(_), None) => Err(Problem::invalid("actor_token_type", "is missing beside actor_token")),
        (Some(_), Some(_)) => {
            let problem = "is not taken here: the client that authenticates is the actor; leave it out";
            Err(Problem::invalid("actor_token", problem))
        }
    }
}

/// The subject `{app}:{connection}`. An audience may name the same once more.
fn connection<'a>(text: &str, named: &Named) -> Result<Subject<'a>, Problem> {
    let key = text.split_once(':').and_then(|(app, connection)| {
        let (app, connection) = (AppName::parse(app).ok()?, ConnectionName::parse(connection).ok()?);
        Some(ConnectionKey { app, connection })
    });
    let key =
        key.ok_or_else(|| Problem::invalid("subject_token", "must be {app}:{connection} for its type"))?;
    let is_other = named.app.as_ref().is_some_and(|app| *app != key.app)
        || named.connection.as_ref().is_some_and(|connection| *connection != key.connection);
    if is_other {
        return Err(Problem::invalid("audience", "names another app or connection than subject_token"));
    }
    Ok(Subject::Connection(key))
}

/// The audience of an exchange: an app, or one of its connections.
fn audience(values: &[String]) -> Result<Named, Problem> {
    let value = match values {
        [] => return Ok(Named::default()),
        [one] => one,
        _ => return Err(Problem::invalid("audience", "is repeated; a token is for one app")),
    };
    let read = |app: &str, connection: Option<&str>| {
        let connection = connection.map(ConnectionName::parse).transpose().ok()?;
        Some(Named { app: Some(AppName::parse(app).ok()?), connection })
    };
    let named = match value.split_once(':') {
        None => read(value, None),
        Some((app, connection)) => read(app, Some(connection)),
    };
    named.ok_or_else(|| {
        let problem = "must be the name of an app or {app}:{connection}; an API's address goes into resource";
        Problem::invalid("audience", problem)
    })
}

impl<'a> Wanted<'a> {
    fn read(form: &'a Form) -> Result<Self, Problem> {
        let resource = match form.values("resource") {
            [] => None,
            [one] if is_absolute_uri(one) => Some(one.as_str()),
            [_] => {
                let problem = "must be an absolute URI without a fragment (RFC 8707 section 2)";
                return Err(Problem::invalid("resource", problem));
            }
            _ => return Err(Problem::invalid("resource", "is repeated; a token is for one resource")),
        };
        Ok(Wanted { scope: form.value("scope"), resource, min_ttl: form.value("min_ttl") })
    }
}

/// RFC 3986 §4.3, as far as a name needs it.
fn is_absolute_uri(text: &str) -> bool {
    let Some((scheme, rest)) = text.split_once(':') else { return false };
    let is_scheme = scheme.starts_with(|first: char| first.is_ascii_alphabetic())
        && scheme.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'-' | b'.'));
    is_scheme && !rest.is_empty() && text.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'#')
}

#[cfg(test)]
mod tests;
