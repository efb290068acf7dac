use http::Method;

use super::*;
use crate::api::dialect::OURS;
use crate::api::openapi;
use crate::api::routes::tests::{asked, assert_every_row_is_served, found};

/// The bad answers of every route that asks who is there.
const COMMON: [(u16, &str); 4] =
    [(400, "InvalidRequest"), (401, "Unauthenticated"), (429, "RateLimited"), (503, "StoreUnavailable")];

#[test]
fn the_document_is_written_from_the_table() {
    openapi::assert_is_written_from("src/api/openapi.json", TABLE, &COMMON);
}

#[test]
fn every_row_is_served() {
    assert_every_row_is_served::<LocalApi>();
    let allow = |path| found::<LocalApi>(path).other_method().response("an-id").headers()["allow"].clone();
    assert_eq!(allow("/v1/apps/{app}/connections/{connection}"), "GET, DELETE");
    assert_eq!(allow("/v1/apps/{app}/connections/{connection}/token"), "GET, POST");
}

#[test]
fn whatever_is_more_than_a_look_or_a_hand_out_is_done_to_its_end() {
    for route in TABLE {
        // (What is relayed ends with its caller.)
        if route.effect == Effect::Relays {
            continue;
        }
        // (A stream asks for no link.)
        let is_token = route.path.ends_with("/token") || route.path.contains("/creds/");
        let method = route.method.parse().expect("a method");
        let is_act = |query| asked::<LocalApi>(route.path, query).is_act(&method);
        let (name, is_get) =
            (format!("{} {}", route.method, route.path), ["GET", "HEAD"].contains(&route.method));
        assert_eq!(is_act(None), !is_get && !is_token, "{name}");
        // The link that comes beside a refusal, however its name is spelled.
        for query in ["connect=1", "min_ttl=60&c%6Fnnect=1", "connect"] {
            assert_eq!(is_act(Some(query)), !is_get || is_token, "{name}");
        }
    }
    assert!(!asked::<LocalApi>("/v1", Some("connect=1")).is_act(&Method::GET));
}

/// A mount of Vault's paths hides no route of our own.
#[test]
fn no_mount_is_a_word_of_the_api() {
    for route in TABLE {
        let word = route.path.strip_prefix("/v1/").and_then(|rest| rest.split('/').next());
        let is_reserved = |word: &str| crate::config::RESERVED_MOUNTS.contains(&word);
        assert!(word.is_none_or(|word| word == "{mount}" || is_reserved(word)), "{}", route.path);
        // Vault's own paths are its dialect anyway.
        let is_ours = |word: &str| OURS.contains(&word) || matches!(word, "sys" | "auth" | "{mount}");
        assert!(word.is_none_or(is_ours), "{}", route.path);
    }
}

const BASE: &str = "/v1/apps/outlook/connections";

/// The path of the table and the connection's name.
fn read(path: &str) -> Option<(&'static str, String)> {
    let found = Asked::<LocalApi>::read(path, None).found.ok()?;
    match found.target {
        Target::Connection(key) => Some((found.path, key.connection.to_string())),
        _ => None,
    }
}

#[test]
fn names_with_slashes_are_understood_raw_and_escaped() {
    let cases = [
        ("user-1", "user-1", ""),
        ("user-1/token", "user-1", "/token"),
        ("team-a%2Fuser-7/token", "team-a/user-7", "/token"),
        ("team-a/user-7/token", "team-a/user-7", "/token"),
        ("team-a/user-7/explain", "team-a/user-7", "/explain"),
        ("a%2Ftoken/token", "a/token", "/token"),
        ("a%2Ftoken", "a/token", ""),
        ("token", "token", ""),
        ("token/token", "token", "/token"),
        ("alice@contoso.com/token", "alice@contoso.com", "/token"),
        ("alice%40contoso.com", "alice@contoso.com", ""),
    ];
    for (tail, name, word) in cases {
        let (path, read) = read(&format!("{BASE}/{tail}")).unwrap_or_else(|| panic!("{tail}"));
        assert_eq!(
            (path, read.as_str()),
            (&*format!("/v1/apps/{{app}}/connections/{{connection}}{word}"), name)
        );
    }
}

#[test]
fn paths_that_are_not_plain_are_no_routes() {
    for tail in ["", "/", "a//token", "a/../b", "a%2", "a%20b", "a;b/token", "a/%2e%2e/b", "a\\b", "a/token/"]
    {
        assert_eq!(read(&format!("{BASE}/{tail}")), None, "{tail:?}");
    }
    assert_eq!(read("/V1/apps/outlook/connections/a"), None);
    assert_eq!(read("/v1/apps/Outlook/connections/a"), None);
}

#[test]
fn a_name_that_cannot_be_is_told_from_a_path_that_is_not_there() {
    let code =
        |path: &str| Asked::<LocalApi>::read(path, None).found.err().map(|bad| Problem::from(bad).code);
    for tail in
        ["..", "a/../b/token", "%2e%2e/token", "a%20b/token", "%C3%BC", "a//token", "a%zz/token", "a;b"]
    {
        assert_eq!(code(&format!("{BASE}/{tail}")), Some("invalid_request"), "{tail}");
    }
    for path in [BASE.to_owned() + "/", "/v1/apps/outlook/..".to_owned(), "/..".to_owned()] {
        assert_eq!(code(&path), Some("not_found"), "{path}");
    }
}

#[test]
fn a_path_of_many_parts_is_no_route_and_the_longest_name_is_one() {
    let longest = format!("{}a", "a/".repeat(127));
    let name = read(&format!("{BASE}/{longest}/token")).map(|(_, name)| name);
    assert_eq!(name, Some(longest));
    let path = format!("{BASE}/{}", "a/".repeat(160));
    assert!(matches!(unreadable_name(&path), Some(InvalidName::Length { .. })));
    assert_eq!(read(&path), None);
}

#[test]
fn a_credential_in_the_url_is_refused_for_every_sender() {
    let is_refused =
        |path: &str, query| matches!(Asked::<LocalApi>::read(path, query).found, Err(BadUrl::Refused(_)));
    let path = format!("{BASE}/a/token");
    for query in [
        "access_token=x",
        "x=1&Api%5fKey",
        "AUTHORIZATION=",
        "x=twk_1",
        "t%77k_1",
        "x=%74wk_",
        // Twice is no way round it.
        "scope=a&scope=b&api_key=x",
    ] {
        assert!(is_refused(&path, Some(query)), "{query}");
    }
    for tail in ["/twk_a", "/twk_a/token", "/%74wk_a/token", "/a;twk_", "/a%zztwk_"] {
        assert!(is_refused(&format!("{BASE}{tail}"), None), "{tail}");
    }
    for query in ["scope=a&scope=b", "x=access_token", "x=tw&k_=1"] {
        assert!(!is_refused(&path, Some(query)), "{query}");
    }
}
