use super::*;
use crate::api::openapi;
use crate::api::routes::Permission;

/// The bad answers of every route that asks who is there.
const COMMON: [(u16, &str); 4] =
    [(400, "InvalidRequest"), (401, "Unauthenticated"), (429, "RateLimited"), (503, "StoreUnavailable")];

fn at(path: &str) -> Found<Run> {
    let path =
        path.replace("{app}", "outlook").replace("{connection}", "a%2Ftoken").replace("{id}", "session-1");
    find(&path).unwrap_or_else(|problem| panic!("{path}: {problem:?}"))
}

#[test]
fn the_document_is_written_from_the_table() {
    openapi::assert_is_written_from("src/api/openapi.json", TABLE, &COMMON);
}

#[test]
fn every_route_is_found_at_its_path_and_named_in_allow() {
    for route in TABLE {
        let found = at(route.path);
        let of_method = found.route(&route.method.parse().expect("a method")).expect("a route");
        assert_eq!((of_method.method, of_method.path), (route.method, route.path));
        let allow = found.allow();
        let mut allowed = allow.to_str().expect("words").split(", ");
        assert!(allowed.any(|method| method == route.method), "{} {}", route.method, route.path);
    }
    assert_eq!(at("/v1/apps/{app}/connections/{connection}").allow(), "GET, DELETE");
    assert_eq!(at("/v1/apps/{app}/connections/{connection}/token").allow(), "GET, POST");
}

#[test]
fn every_handler_takes_what_its_path_names() {
    for route in TABLE {
        let fits = match (&route.handler, at(route.path).target) {
            (Run::Open(_), target) => {
                target == Target::Nothing
                    && (route.permission, route.effect) == (Permission::Anybody, Effect::None)
            }
            (Run::Plain(_), target) => target == Target::Nothing,
            (Run::App(_), target) => matches!(target, Target::App(_)),
            (Run::Connection(_), target) => matches!(target, Target::Connection(_)),
            (Run::Session(_), target) => matches!(target, Target::Session(_)),
        };
        assert!(fits, "{} {}", route.method, route.path);
        let is_open = matches!(route.handler, Run::Open(_));
        assert_eq!(is_open, route.permission == Permission::Anybody, "{} {}", route.method, route.path);
    }
}

#[test]
fn whatever_is_more_than_a_look_or_a_hand_out_is_done_to_its_end() {
    for route in TABLE {
        let is_token = route.path.ends_with("/token");
        let method = route.method.parse().expect("a method");
        let found = at(route.path);
        let (name, is_get) = (format!("{} {}", route.method, route.path), route.method == "GET");
        assert_eq!(is_act(Some(&found), &method, None), !is_get && !is_token, "{name}");
        // The link that comes beside a refusal, however its name is spelled.
        for query in ["connect=1", "min_ttl=60&c%6Fnnect=1", "connect"] {
            assert_eq!(is_act(Some(&found), &method, Some(query)), !is_get || is_token, "{name}");
        }
    }
    assert!(!is_act(None, &Method::GET, Some("connect=1")));
}
