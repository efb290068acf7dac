//! The table of an API. A request is routed by it, a wrong method is answered from it with `Allow`, the API's
//! document is written from it, and the tests walk over it.

use std::borrow::Cow;
use std::marker::PhantomData;

use http::{HeaderValue, Method};

use super::doc::Doc;
use super::problem::Problem;
use super::relayed::{RELAY, Relayed, Split};
use crate::broker::Refusal;
use crate::domain::id::{AppName, CallerName, ConnectionKey, ConnectionName, InvalidName, SessionId};
use crate::domain::task::BoxFuture;
use crate::listener::{Dots, Response, segments};

/// Words of the API below a connection. A path's last part is one of them, and not of the connection's name,
/// when something stands before it.
const BELOW_A_CONNECTION: [&str; 3] = ["token", "explain", "handles"];

/// An API that has a table.
pub(super) trait Api: Sized + 'static {
    /// A request whose sender is known, as the handlers get it.
    type Call<'a>;
    /// Every route, in the order of the document.
    const TABLE: &'static [Route<Self>];
    /// Which segments of dots may be a connection's name.
    const DOTS: Dots;
    /// Whether it relays requests ([`RELAY`]).
    const RELAYS: bool;

    /// Returns the table's paths ([`Paths::of`]), read once.
    fn paths() -> &'static Paths;

    /// Reads a connection's name.
    ///
    /// # Errors
    /// What is wrong with it.
    fn connection_name(text: &str) -> Result<ConnectionName, InvalidName>;

    /// Returns the problem of a path that cannot be read.
    fn unreadable(_path: &str) -> Problem {
        Problem::no_such_path()
    }
}

/// One row of an API's table: a method of a path.
pub(super) struct Route<A: Api> {
    /// The method.
    pub(super) method: &'static str,
    /// The path as the document spells it. `{connection}` and `{mount}` stand for one part or more, any other
    /// name for one.
    pub(super) path: &'static str,
    /// What answers.
    pub(super) handler: Run<A>,
    /// Who may ask. The use case judges that; this is for routing and for the document.
    #[cfg_attr(not(test), expect(dead_code, reason = "a test writes the document"))]
    pub(super) permission: Permission,
    /// What the request does.
    pub(super) effect: Effect,
    /// What the document says of it.
    #[cfg_attr(not(test), expect(dead_code, reason = "a test writes the document"))]
    pub(super) doc: Doc,
}

/// What a handler becomes.
pub(super) type Outcome<'a> = BoxFuture<'a, Result<Response, Problem>>;

/// How a handler is called: with what its path names.
pub(super) enum Run<A: Api> {
    /// Before it is known who asks.
    Open(fn(&A) -> Response),
    /// The path names nothing.
    Plain(for<'a> fn(&'a A, A::Call<'a>) -> Outcome<'a>),
    /// `{app}`
    App(for<'a> fn(&'a A, A::Call<'a>, &'a AppName) -> Outcome<'a>),
    /// `{app}` and `{connection}`
    Connection(for<'a> fn(&'a A, A::Call<'a>, &'a ConnectionKey) -> Outcome<'a>),
    /// `{app}` and `{credential}`
    Credential(for<'a> fn(&'a A, A::Call<'a>, &'a AppName, &'a str) -> Outcome<'a>),
    /// `{app}` and `{host}`
    TokenHost(for<'a> fn(&'a A, A::Call<'a>, &'a AppName, &'a str) -> Outcome<'a>),
    /// `{caller}`
    Caller(for<'a> fn(&'a A, A::Call<'a>, &'a CallerName) -> Outcome<'a>),
    /// `{mount}` and `{connection}`
    Mount(for<'a> fn(&'a A, A::Call<'a>, &'a str, &'a ConnectionName) -> Outcome<'a>),
    /// `{id}`
    Session(for<'a> fn(&'a A, A::Call<'a>, &'a SessionId) -> Outcome<'a>),
    /// `{app}`, `{connection}`, `{base}` and `{path}`
    Relay(for<'a> fn(&'a A, A::Call<'a>, &'a Relayed) -> Outcome<'a>),
}

/// Who may ask.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Permission {
    /// Anybody, before it is known who asks.
    Anybody,
    /// A caller whose rules cover what the path names, or that started the session.
    Sees,
    /// A caller whose rules give the scopes.
    HasScopes,
    /// A caller with a rule that has the request relayed.
    HasRelay,
    /// A caller with a rule that has `connect = true`.
    Connects,
    /// An operator.
    Operates,
}

/// What a request does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Effect {
    /// Nothing, and what it tells is no secret.
    None,
    /// It reads this. A caller's refusal is recorded as a refused reading of it.
    Reads(&'static str),
    /// It hands a token out. It acts as well when it asks for a connect link.
    HandsOut,
    /// It hands tokens out in a stream.
    Pushes,
    /// It is relayed with a token.
    Relays,
    /// It may change what outlives the request, so it is done to its end ([`super::to_its_end`]).
    Acts,
}

/// What the parameters of a path name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Target {
    /// The path has none.
    Nothing,
    /// `{app}`
    App(AppName),
    /// `{app}` and `{connection}`
    Connection(ConnectionKey),
    /// `{app}` and `{credential}`, as the operator calls it
    Credential(AppName, String),
    /// `{app}` and `{host}`
    TokenHost(AppName, String),
    /// `{caller}`
    Caller(CallerName),
    /// `{mount}`, as it was sent, and `{connection}`
    Mount(String, ConnectionName),
    /// `{id}`
    Session(SessionId),
    /// `{app}`, `{connection}`, `{base}` and `{path}`
    Relay(Box<Relayed>),
}

/// A path of the table that a request asks for.
pub(super) struct Found<A> {
    /// What it names.
    pub(super) target: Target,
    /// The path as the table spells it.
    pub(super) path: &'static str,
    api: PhantomData<fn() -> A>,
}

/// Method and path of every row.
pub(super) const fn listed<A: Api, const N: usize>(
    table: &'static [Route<A>],
) -> [(&'static str, &'static str); N] {
    let mut routes = [("", ""); N];
    let mut at = 0;
    while at < N {
        routes[at] = (table[at].method, table[at].path);
        at += 1;
    }
    routes
}

/// The paths of a table, each once.
pub(super) struct Paths(Vec<Path>);

/// A path of a table.
struct Path {
    /// As the table spells it.
    text: &'static str,
    /// Its parts, behind the first slash.
    parts: Vec<Part>,
}

/// A part of a path.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Part {
    /// A word that stands there.
    Word(&'static str),
    /// A parameter that takes one segment.
    One(&'static str),
    /// `{connection}`
    Connection,
    /// `{mount}`
    Mount,
}

impl Part {
    fn of(text: &'static str) -> Self {
        match text.strip_prefix('{').map(|name| name.trim_end_matches('}')) {
            None => Part::Word(text),
            Some("connection") => Part::Connection,
            Some("mount") => Part::Mount,
            Some(name) => Part::One(name),
        }
    }
}

impl Paths {
    /// Reads a table's paths.
    pub(super) fn of<A: Api>() -> Self {
        let mut paths: Vec<Path> = Vec::new();
        for Route { path, .. } in A::TABLE {
            if !paths.iter().any(|known| known.text == *path) {
                paths.push(Path { text: path, parts: path.split('/').skip(1).map(Part::of).collect() });
            }
        }
        Paths(paths)
    }

    /// Whether a path begins with this word, behind the version: no mount does.
    fn is_ours(&self, word: &str) -> bool {
        let is_it = |path: &Path| matches!(path.parts.get(1), Some(Part::Word(ours)) if *ours == word);
        self.0.iter().any(is_it)
    }
}

/// Finds the path that these segments ask for.
///
/// # Errors
/// The 404 of a path that the table does not have, or what is wrong with what the path names.
pub(super) fn find<A: Api>(segments: &[Cow<'_, str>]) -> Result<Found<A>, Problem> {
    let (paths, last) = (A::paths(), segments.last().map(AsRef::as_ref));
    let found = paths.0.iter().filter(|path| path.text != RELAY).find_map(|path| {
        // (Most are ruled out by their last word.)
        let is_other = matches!(path.parts.last(), Some(Part::Word(word)) if Some(*word) != last);
        if is_other { None } else { Some((path.text, parameters(paths, &path.parts, segments)?)) }
    });
    let (path, (parameters, count)) = found.ok_or_else(Problem::no_such_path)?;
    Ok(Found { target: target::<A>(&parameters[..count])?, path, api: PhantomData })
}

/// Finds the path of a relayed request, if the API relays and this is one.
///
/// # Errors
/// As of [`find`]: what is wrong with the name of its connection.
pub(super) fn find_relayed<A: Api>(path: &str, query: Option<&str>) -> Option<Result<Found<A>, Problem>> {
    let split = Split::of(path).filter(|_| A::RELAYS)?;
    let connection = segments(split.connection, A::DOTS).ok_or_else(|| A::unreadable(split.connection));
    let found = connection.and_then(|segments| find::<A>(&segments)).and_then(|found| {
        // (`…/{connection}/token` and its kin are of a connection, too, and have nothing below them.)
        let key = match found.target {
            Target::Connection(key) if found.path.ends_with("/{connection}") => key,
            _ => return Err(Problem::no_such_path()),
        };
        let here = path[..split.connection.len() + "/relay/".len()].to_owned();
        let (base, path) = (split.base.to_owned(), split.path.to_owned());
        let relayed = Relayed { key, here, base, path, query: query.map(str::to_owned) };
        Ok(Found { target: Target::Relay(Box::new(relayed)), path: RELAY, api: PhantomData })
    });
    Some(found)
}

/// A parameter of a path, and the segments that stand for it.
type Parameter<'s> = (&'static str, &'s [Cow<'s, str>]);
/// Most parameters of a path.
const MOST_PARAMETERS: usize = 2;

/// Which segments stand for each parameter of a path, and how many it has; `None` when they ask for another
/// path.
fn parameters<'s>(
    paths: &Paths,
    mut parts: &[Part],
    segments: &'s [Cow<'s, str>],
) -> Option<([Parameter<'s>; MOST_PARAMETERS], usize)> {
    let mut parameters: [Parameter<'s>; MOST_PARAMETERS] = [("", &[]); MOST_PARAMETERS];
    let (mut rest, mut count) = (segments, 0);
    while let Some((part, following)) = parts.split_first() {
        let (name, of_part) = match part {
            Part::Word(word) => {
                let (first, after) = rest.split_first()?;
                if first != word {
                    return None;
                }
                (rest, parts) = (after, following);
                continue;
            }
            Part::One(name) => (*name, 1),
            Part::Connection => ("connection", rest.len().checked_sub(following.len())?),
            // Up to the first place where its path goes on.
            Part::Mount => {
                let Some(Part::Word(word)) = following.first() else { return None };
                ("mount", rest.iter().position(|segment| segment == word)?)
            }
        };
        let (named, after) = rest.split_at_checked(of_part)?;
        match (part, named) {
            (_, []) => return None,
            (Part::Mount, [first, ..]) if paths.is_ours(first) => return None,
            (Part::Connection, [_, .., last])
                if BELOW_A_CONNECTION.contains(&last.as_ref()) && after.is_empty() =>
            {
                return None;
            }
            _ => {}
        }
        *parameters.get_mut(count)? = (name, named);
        (rest, parts, count) = (after, following, count + 1);
    }
    rest.is_empty().then_some((parameters, count))
}

/// A name that takes several segments, as it was before it was split.
fn joined<'s>(segments: &'s [Cow<'s, str>]) -> Cow<'s, str> {
    match segments {
        [one] => Cow::Borrowed(one),
        several => Cow::Owned(several.join("/")),
    }
}

fn target<A: Api>(parameters: &[Parameter<'_>]) -> Result<Target, Problem> {
    // A name that nothing can have is one that nothing has.
    let app_name = |app: &str| AppName::parse(app).map_err(|_| Problem::no_such_path());
    match parameters {
        [] => Ok(Target::Nothing),
        [("app", [app])] => app_name(app).map(Target::App),
        [("app", [app]), ("connection", connection)] => {
            let app = AppName::parse(app).map_err(|_| Problem::of(Refusal::AppNotFound))?;
            let connection = A::connection_name(&joined(connection)).map_err(Problem::no_connection)?;
            Ok(Target::Connection(ConnectionKey { app, connection }))
        }
        [("mount", mount), ("connection", connection)] => {
            let connection = A::connection_name(&joined(connection)).map_err(Problem::no_connection)?;
            Ok(Target::Mount(joined(mount).into_owned(), connection))
        }
        [("app", [app]), ("credential", [label])] => {
            Ok(Target::Credential(app_name(app)?, label.clone().into_owned()))
        }
        [("app", [app]), ("host", [host])] => {
            Ok(Target::TokenHost(app_name(app)?, host.clone().into_owned()))
        }
        [("caller", [caller])] => {
            CallerName::parse(caller).map(Target::Caller).map_err(|_| Problem::no_such_path())
        }
        [("id", [id])] => SessionId::parse(id).map(Target::Session).map_err(|_| Problem::no_such_path()),
        _ => Err(Problem::no_such_path()),
    }
}

impl<A: Api> Found<A> {
    /// The row of a method.
    pub(super) fn route(&self, method: &Method) -> Option<&'static Route<A>> {
        self.routes().find(|route| route.method == method.as_str())
    }

    /// What anybody is answered, before it is known who asks. The path must be spelled as the table has it,
    /// without an escape.
    pub(super) fn open(&self, api: &A, method: &Method, path: &str) -> Option<Response> {
        match self.route(method)?.handler {
            Run::Open(answer) if path == self.path => Some(answer(api)),
            _ => None,
        }
    }

    /// Whether tokens are handed out at this path, by whatever method.
    pub(super) fn hands_out(&self) -> bool {
        self.routes().any(|route| matches!(route.effect, Effect::HandsOut | Effect::Pushes | Effect::Relays))
    }

    /// 405, with the methods of this path in `Allow`.
    pub(super) fn other_method(&self) -> Problem {
        let methods: Vec<&str> = self.routes().map(|route| route.method).collect();
        let allow = HeaderValue::from_str(&methods.join(", ")).expect("methods are plain words");
        Problem::method_not_allowed(allow)
    }

    fn routes(&self) -> impl Iterator<Item = &'static Route<A>> {
        A::TABLE.iter().filter(|route| route.path == self.path)
    }
}

impl<A: Api> Route<A> {
    /// Has the handler answer.
    pub(super) fn run<'a>(&self, api: &'a A, call: A::Call<'a>, target: &'a Target) -> Outcome<'a> {
        match (&self.handler, target) {
            (Run::Open(answer), _) => {
                let answer = answer(api);
                Box::pin(async { Ok(answer) })
            }
            (Run::Plain(run), Target::Nothing) => run(api, call),
            (Run::App(run), Target::App(app)) => run(api, call, app),
            (Run::Connection(run), Target::Connection(key)) => run(api, call, key),
            (Run::Credential(run), Target::Credential(app, label)) => run(api, call, app, label),
            (Run::TokenHost(run), Target::TokenHost(app, host)) => run(api, call, app, host),
            (Run::Caller(run), Target::Caller(caller)) => run(api, call, caller),
            (Run::Mount(run), Target::Mount(mount, connection)) => run(api, call, mount, connection),
            (Run::Session(run), Target::Session(session)) => run(api, call, session),
            (Run::Relay(run), Target::Relay(relayed)) => run(api, call, relayed),
            _ => unreachable!("a test compares every row with its path"),
        }
    }
}

impl Target {
    /// The app and the connection that it names.
    pub(super) fn about(&self) -> (Option<&AppName>, Option<&ConnectionName>) {
        match self {
            Target::Connection(key) => (Some(&key.app), Some(&key.connection)),
            Target::Relay(relayed) => (Some(&relayed.key.app), Some(&relayed.key.connection)),
            Target::App(app) | Target::Credential(app, _) | Target::TokenHost(app, _) => (Some(app), None),
            Target::Mount(_, connection) => (None, Some(connection)),
            Target::Nothing | Target::Caller(_) | Target::Session(_) => (None, None),
        }
    }

    /// The session that it names.
    pub(super) fn session(&self) -> Option<&SessionId> {
        match self {
            Target::Session(session) => Some(session),
            _ => None,
        }
    }
}

#[cfg(test)]
pub(super) mod tests;
