//! The table of an API. A request is routed by it, a wrong method is answered from it with `Allow`, the API's document
//! is written from it, and the tests walk over it.

use http::{HeaderValue, Method};

use super::doc::Doc;
use super::problem::Problem;
use crate::broker::Refusal;
use crate::domain::id::{AppName, ConnectionKey, ConnectionName, InvalidName, SessionId};

/// Words of the API below a connection. A path's last part is one of them, and not of the connection's name, when
/// something stands before it.
const BELOW_A_CONNECTION: [&str; 2] = ["token", "explain"];

/// One row of an API's table: a method of a path. `H` is how the API's handlers are called.
pub struct Route<H: 'static> {
    /// The method.
    pub method: &'static str,
    /// The path as the document spells it. `{connection}` stands for one part or more, any other name for one.
    pub path: &'static str,
    /// What answers.
    pub handler: H,
    /// Who may ask. The use case judges that; this is for routing and for the document.
    pub permission: Permission,
    /// What the request does.
    pub effect: Effect,
    /// What the document says of it.
    pub doc: Doc,
}

/// Who may ask.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Permission {
    /// Anybody, before it is known who asks.
    Anybody,
    /// A caller whose rules cover what the path names, or that started the session.
    Sees,
    /// A caller whose rules give the scopes.
    HasScopes,
    /// A caller with a rule that has `connect = true`.
    Connects,
}

/// What a request does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effect {
    /// Nothing, and what it tells is no secret.
    None,
    /// It reads. A refusal is recorded as a refused reading of this.
    Reads(&'static str),
    /// It hands a token out. It acts as well when it asks for a connect link.
    HandsOut,
    /// It may change what outlives the request, so it is done to its end ([`super::to_its_end`]).
    Acts,
}

/// What the parameters of a path name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// The path has none.
    Nothing,
    /// `{app}`
    App(AppName),
    /// `{app}` and `{connection}`
    Connection(ConnectionKey),
    /// `{id}`
    Session(SessionId),
}

/// A path of the table that a request asks for.
pub struct Found<H: 'static> {
    /// What it names.
    pub target: Target,
    path: &'static str,
    table: &'static [Route<H>],
}

/// Finds the path that these segments ask for. `name` reads a connection's name.
///
/// # Errors
/// The 404 of a path that the table does not have, or what is wrong with what the path names.
pub fn find<H>(
    table: &'static [Route<H>],
    segments: &[String],
    name: impl Fn(&str) -> Result<ConnectionName, InvalidName>,
) -> Result<Found<H>, Problem> {
    let found = table.iter().find_map(|route| Some((route.path, parameters(route.path, segments)?)));
    let (path, parameters) = found.ok_or_else(Problem::no_such_path)?;
    Ok(Found { target: target(&parameters, name)?, path, table })
}

/// Which segments stand for each parameter of a path; `None` when they ask for another path.
fn parameters<'s>(path: &'static str, segments: &'s [String]) -> Option<Vec<(&'static str, &'s [String])>> {
    let mut parameters = Vec::new();
    let mut rest = segments;
    let mut parts = path.split('/').skip(1);
    while let Some(part) = parts.next() {
        let of_part = match part {
            "{connection}" => rest.len().checked_sub(parts.clone().count())?,
            _ => 1,
        };
        let (named, after) = rest.split_at_checked(of_part)?;
        rest = after;
        match (part.strip_prefix('{'), named) {
            (Some("connection}"), []) => return None,
            (Some("connection}"), [_, .., last])
                if BELOW_A_CONNECTION.contains(&last.as_str()) && rest.is_empty() =>
            {
                return None;
            }
            (Some(name), named) => parameters.push((name.trim_end_matches('}'), named)),
            (None, [literal]) if literal == part => {}
            (None, _) => return None,
        }
    }
    rest.is_empty().then_some(parameters)
}

fn target(
    parameters: &[(&str, &[String])],
    name: impl Fn(&str) -> Result<ConnectionName, InvalidName>,
) -> Result<Target, Problem> {
    // A name that nothing can have is one that nothing has.
    match parameters {
        [] => Ok(Target::Nothing),
        [("app", [app])] => AppName::parse(app).map(Target::App).map_err(|_| Problem::no_such_path()),
        [("app", [app]), ("connection", connection)] => {
            let app = AppName::parse(app).map_err(|_| Problem::of(Refusal::AppNotFound))?;
            let connection = name(&connection.join("/")).map_err(Problem::no_connection)?;
            Ok(Target::Connection(ConnectionKey { app, connection }))
        }
        [("id", [id])] => SessionId::parse(id).map(Target::Session).map_err(|_| Problem::no_such_path()),
        _ => Err(Problem::no_such_path()),
    }
}

impl<H> Found<H> {
    /// The row of a method.
    pub fn route(&self, method: &Method) -> Option<&'static Route<H>> {
        self.routes().find(|route| route.method == method.as_str())
    }

    /// Whether the request spells the path as the table does, without an escape.
    pub fn is_spelled(&self, path: &str) -> bool {
        path == self.path
    }

    /// Whether tokens are handed out at this path, by whatever method.
    pub fn hands_out(&self) -> bool {
        self.routes().any(|route| route.effect == Effect::HandsOut)
    }

    /// For the `Allow` header: the methods of this path.
    pub fn allow(&self) -> HeaderValue {
        let methods: Vec<&str> = self.routes().map(|route| route.method).collect();
        HeaderValue::from_str(&methods.join(", ")).expect("methods are plain words")
    }

    fn routes(&self) -> impl Iterator<Item = &'static Route<H>> {
        self.table.iter().filter(|route| route.path == self.path)
    }
}

impl Target {
    /// The app and the connection that it names.
    pub fn about(&self) -> (Option<&AppName>, Option<&ConnectionName>) {
        match self {
            Target::Connection(key) => (Some(&key.app), Some(&key.connection)),
            Target::App(app) => (Some(app), None),
            Target::Nothing | Target::Session(_) => (None, None),
        }
    }

    /// The session that it names.
    pub fn session(&self) -> Option<&SessionId> {
        match self {
            Target::Session(session) => Some(session),
            Target::Nothing | Target::App(_) | Target::Connection(_) => None,
        }
    }
}
