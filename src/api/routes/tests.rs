//! What is true of the table of every API.

use super::*;
use crate::api::asked::Asked;

/// Looks a row's path up with an example for each parameter.
pub(in crate::api) fn asked<A: Api>(path: &str, query: Option<&str>) -> Asked<A> {
    let examples = [
        ("{app}", "outlook"),
        ("{connection}", "a%2Ftoken"),
        ("{credential}", "2026-11"),
        ("{host}", "login.example.com"),
        ("{caller}", "mail-sync"),
        ("{id}", "session-1"),
        ("{mount}", "outlook"),
        ("{base}", "graph"),
        ("{path}", "v1.0/me"),
    ];
    let path = examples.iter().fold(path.to_owned(), |path, (name, example)| path.replace(name, example));
    Asked::read(&path, query)
}

pub(in crate::api) fn found<A: Api>(path: &str) -> Found<A> {
    asked(path, None).found.unwrap_or_else(|problem| panic!("{path}: {problem:?}"))
}

/// Each row is found at its path and named in `Allow`, and its handler takes what its path names.
pub(in crate::api) fn assert_every_row_is_served<A: Api>() {
    for route in A::TABLE {
        let name = format!("{} {}", route.method, route.path);
        let found = found::<A>(route.path);
        let of_method = found.route(&route.method.parse().expect("a method")).expect("a route");
        assert_eq!((of_method.method, of_method.path), (route.method, route.path));
        let answer = found.other_method().response("an-id");
        let allow = &answer.headers()["allow"];
        assert!(allow.to_str().expect("words").split(", ").any(|method| method == route.method), "{name}");

        let fits = match (&route.handler, &found.target) {
            (Run::Open(_), Target::Nothing) => route.effect == Effect::None,
            (Run::Plain(_), Target::Nothing)
            | (Run::App(_), Target::App(_))
            | (Run::Connection(_), Target::Connection(_))
            | (Run::Credential(_), Target::Credential(..))
            | (Run::TokenHost(_), Target::TokenHost(..))
            | (Run::Caller(_), Target::Caller(_))
            | (Run::Mount(_), Target::Mount(..))
            | (Run::Relay(_), Target::Relay(_))
            | (Run::Session(_), Target::Session(_)) => true,
            _ => false,
        };
        assert!(fits, "{name}");
        let is_open = matches!(route.handler, Run::Open(_));
        assert_eq!(is_open, route.permission == Permission::Anybody, "{name}");
    }
}
