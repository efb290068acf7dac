//! What an Azure SDK asks for: a connection, or the app itself, by `client_id` or by the path, and a resource
//! or a scope by `resource`. Pure.

use std::fmt;

use crate::api::problem::Problem;
use crate::api::token_body::{TokenBody, is_digest};
use crate::broker::Refusal;
use crate::domain::id::{AppName, ConnectionKey, ConnectionName};
use crate::domain::scope::{ScopeNaming, ScopeSet};
use crate::listener::Pairs;
use crate::refresh::Want;

/// The protocol's versions: App Service's, oldest first, and Service Fabric's, which differs in the header
/// alone. A request without one is read like the others.
const VERSIONS: [&str; 4] = ["2017-09-01", "2019-07-01-preview", "2019-08-01", "2025-03-30"];

/// The names of `client_id` in all versions.
const CLIENT_ID: [&str; 2] = ["client_id", "clientid"];

/// Parameters that name an identity of Azure in another way, which no connection has.
const OTHER_IDS: [&str; 4] = ["object_id", "principal_id", "mi_res_id", "msi_res_id"];

/// Whose token is asked for.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::api::local) enum Whose {
    /// `{app}:{connection}`
    Connection(ConnectionKey),
    /// `{app}`: the app's own.
    App(AppName),
}

/// A request for a token.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::api::local) struct Asked {
    /// Whose it is.
    pub(in crate::api::local) whose: Whose,
    /// `resource` as it came: a resource, or one scope.
    pub(in crate::api::local) resource: String,
    /// The token that a resource refused, by its lower-case hex SHA-256.
    rejected: Option<String>,
}

impl Asked {
    /// Reads a query. `key` is the connection that the path names.
    pub(in crate::api::local) fn read(query: &Pairs, key: Option<&ConnectionKey>) -> Result<Self, Problem> {
        // An empty parameter is one that was left out: Rust's SDK sends `client_id=`.
        let value = |name: &str| query.value(name).filter(|value| !value.is_empty());
        if let Some(version) = value("api-version")
            && !VERSIONS.contains(&version)
        {
            return Err(Problem::invalid("api-version", format!("must be one of {}", VERSIONS.join(", "))));
        }
        if let Some(other) = OTHER_IDS.into_iter().find(|name| value(name).is_some()) {
            return Err(Problem::invalid(
                other,
                "names no connection; give the SDK the client id `{app}:{connection}`",
            ));
        }
        let client_ids: Vec<&str> = CLIENT_ID.into_iter().filter_map(value).collect();
        let whose = match (key, &client_ids[..]) {
            (Some(key), client_ids) => {
                let of_path = format!("{}:{}", key.app, key.connection);
                if client_ids.iter().any(|client_id| *client_id != of_path) {
                    return Err(Problem::invalid(
                        "client_id",
                        "names another connection than the path; leave it out, or set IDENTITY_ENDPOINT to \
                         the shared address /msi/token",
                    ));
                }
                Whose::Connection(key.clone())
            }
            (None, [client_id]) => named(client_id)?,
            (None, [one, other]) if one == other => named(one)?,
            (None, _) => {
                return Err(Problem::invalid(
                    "client_id",
                    "must say whose token is asked for: give the SDK the client id `{app}:{connection}`, \
                     `{app}` for the app itself, or set IDENTITY_ENDPOINT to the address of one connection",
                ));
            }
        };
        let resource = value("resource").ok_or_else(|| {
            Problem::invalid("resource", "must name a resource, such as https://graph.microsoft.com")
        })?;
        let rejected = value("token_sha256_to_refresh").map(str::to_ascii_lowercase);
        if rejected.as_deref().is_some_and(|digest| !is_digest(digest)) {
            return Err(Problem::invalid(
                "token_sha256_to_refresh",
                "must be the hex SHA-256 of the token that was refused, never the token itself",
            ));
        }
        Ok(Asked { whose, resource: resource.to_owned(), rejected })
    }

    /// Returns the token of a connection that it asks for. `known` are the scopes of the app.
    pub(in crate::api::local) fn want(
        &self,
        naming: &ScopeNaming,
        known: &ScopeSet,
    ) -> Result<Want, Refusal> {
        let text = Some(self.resource.as_str());
        let mut body = match is_resource(naming, known, &self.resource) {
            true => TokenBody::plain(None, text),
            false => TokenBody::plain(text, None),
        };
        body.rejected.clone_from(&self.rejected);
        // No SDK passes a claims challenge on to this endpoint.
        body.want(naming).map(|want| Want { cae: false, ..want })
    }
}

/// Reads `{app}:{connection}` or `{app}`. An app's name has no colon.
fn named(client_id: &str) -> Result<Whose, Problem> {
    let app = |text| {
        AppName::parse(text).map_err(|_| {
            Problem::invalid(
                "client_id",
                "must be `{app}:{connection}`, or `{app}` for a token of the app itself",
            )
        })
    };
    let Some((of_app, connection)) = client_id.split_once(':') else { return app(client_id).map(Whose::App) };
    let app = app(of_app)?;
    let connection = ConnectionName::parse(connection)
        .map_err(|invalid| Problem::invalid("client_id", format!("the connection's name {invalid}")))?;
    Ok(Whose::Connection(ConnectionKey { app, connection }))
}

impl fmt::Display for Whose {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Whose::Connection(key) => write!(f, "{}:{}", key.app, key.connection),
            Whose::App(app) => write!(f, "{app}"),
        }
    }
}

/// Returns true if the text names a resource, and false if it is a scope. SDKs cut `/.default` off and send
/// the rest of the scope, whatever it is: an address with a path may be either, and is the resource if the
/// app has scopes of it.
fn is_resource(naming: &ScopeNaming, known: &ScopeSet, text: &str) -> bool {
    let ScopeNaming::Entra { graph } = naming else { return false };
    let resource = naming.resource(text);
    let is_known = resource.eq_ignore_ascii_case(graph) || known.resources().contains(&resource.as_str());
    let has_no_path = resource.split_once("://").is_some_and(|(_, rest)| !rest.contains('/'));
    is_known || has_no_path || is_id(&resource) || text.ends_with("/.default")
}

/// Returns true for an application's id, which is a name of its API.
fn is_id(text: &str) -> bool {
    let is_dash = |at: usize| [8, 13, 18, 23].contains(&at);
    text.len() == 36
        && text.bytes().enumerate().all(|(at, byte)| match is_dash(at) {
            true => byte == b'-',
            false => byte.is_ascii_hexdigit(),
        })
}

#[cfg(test)]
mod tests;
