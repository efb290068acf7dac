use super::*;
use crate::api::openapi;
use crate::api::routes::tests::{assert_every_row_is_served, found};

/// The bad answers of every route that asks who is there.
const COMMON: [(u16, &str); 4] =
    [(400, "InvalidRequest"), (401, "Unauthenticated"), (429, "RateLimited"), (503, "StoreUnavailable")];

fn at(path: &str) -> Found<LocalApi> {
    found(find, path)
}

#[test]
fn the_document_is_written_from_the_table() {
    openapi::assert_is_written_from("src/api/openapi.json", TABLE, &COMMON);
}

#[test]
fn every_row_is_served() {
    assert_every_row_is_served(TABLE, find);
    let allow = |path| at(path).other_method("an-id").headers()["allow"].clone();
    assert_eq!(allow("/v1/apps/{app}/connections/{connection}"), "GET, DELETE");
    assert_eq!(allow("/v1/apps/{app}/connections/{connection}/token"), "GET, POST");
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
