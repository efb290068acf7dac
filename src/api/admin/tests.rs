use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::*;
use crate::api::doc::Example;
use crate::api::openapi;
use crate::api::routes::tests::{asked, assert_every_row_is_served, found};
use crate::api::routes::{Effect, Target};

/// The bad answers of every route that asks who is there.
const COMMON: [(u16, &str); 3] =
    [(400, "InvalidRequest"), (401, "Unauthenticated"), (503, "StoreUnavailable")];

#[test]
fn the_document_is_written_from_the_table() {
    openapi::assert_is_written_from("src/api/openapi-admin.json", TABLE, &COMMON);
}

#[test]
fn every_row_is_served() {
    assert_every_row_is_served::<AdminApi>();
    let allow = |path| found::<AdminApi>(path).other_method().response("an-id").headers()["allow"].clone();
    assert_eq!(allow("/admin/v1/apps/{app}/connections/{connection}"), "GET, PATCH, POST, DELETE");
    assert_eq!(allow("/admin/v1/apps/{app}/connections/{connection}/explain"), "GET");
    // Operators get no token.
    assert!(asked::<AdminApi>("/admin/v1/apps/outlook/connections/a/token", None).found.is_err());
}

#[test]
fn what_is_no_reading_is_done_to_its_end() {
    for route in TABLE {
        let is_act = route.effect == Effect::Acts;
        assert_eq!(is_act, route.method != "GET", "{} {}", route.method, route.path);
    }
}

#[test]
fn an_operator_names_what_nobody_else_can() {
    let named = |name: &str| {
        let asked = asked::<AdminApi>(&format!("/admin/v1/apps/outlook/connections/{name}"), None);
        match asked.found.ok()?.target {
            Target::Connection(key) => Some(key.connection.to_string()),
            _ => None,
        }
    };
    assert_eq!(named("%2E%2E").as_deref(), Some(".."));
    assert_eq!(named("a%2F..%2Fb").as_deref(), Some("a/../b"));
    assert_eq!(named("%2Flead").as_deref(), Some("/lead"));
    assert_eq!((named(".."), named("a/../b")), (None, None));
}

/// What both documents have under a name is the same, unless it is said here why not.
#[test]
fn both_documents_agree_on_what_they_share() {
    // Operators meet fewer refusals, may name more connections, and learn to whom tokens were handed out.
    const DIFFER: [&str; 10] = [
        "apiKey",
        "connection",
        "InvalidRequest",
        "Unauthenticated",
        "AppNotFound",
        "ConnectionNotFound",
        "Paused",
        "Code",
        "Problem",
        "Explanation",
    ];
    let components = |text| serde_json::from_str::<Value>(text).expect("JSON")["components"].clone();
    let (ours, local) = (components(OPENAPI), components(crate::api::OPENAPI));
    let mut shared = 0;
    for (kind, of_kind) in ours.as_object().expect("kinds") {
        for (name, one) in of_kind.as_object().expect("components") {
            match local[kind].get(name) {
                Some(other) if DIFFER.contains(&name.as_str()) => assert_ne!(one, other, "{kind}/{name}"),
                Some(other) => assert_eq!(one, other, "{kind}/{name}"),
                None => continue,
            }
            shared += 1;
        }
    }
    assert!(shared > 20, "{shared}");
}

/// An answer is read and written again as it was: no member of an example is unknown, and none is missing.
/// Where the daemon's order of members is that of the alphabet, it stays so.
#[test]
fn the_types_of_the_wire_have_the_members_of_the_examples() {
    fn again<T: Serialize + DeserializeOwned>(example: &str) {
        let value: Value = serde_json::from_str(example).expect("JSON");
        let typed = T::deserialize(&value).unwrap_or_else(|error| panic!("{error}: {example}"));
        assert_eq!(serde_json::to_value(&typed).expect("JSON"), value);
    }
    fn in_order<T: Serialize + DeserializeOwned>(example: &str) {
        again::<T>(example);
        let value: Value = serde_json::from_str(example).expect("JSON");
        let written = serde_json::to_string(&T::deserialize(&value).expect("typed")).expect("JSON");
        assert_eq!(written, value.to_string());
    }
    let each = |examples: &[Example], check: fn(&str)| examples.iter().for_each(|one| check(one.2));
    in_order::<wire::Status>(examples::STATUS);
    in_order::<wire::Forecast>(examples::FORECAST);
    in_order::<wire::Adopted>(examples::ADOPTED);
    in_order::<wire::Apps>(examples::APPS);
    in_order::<wire::ConsoleLink>(examples::CONSOLE_LINK);
    each(examples::IMPORT, |example| {
        serde_json::from_str::<wire::Import>(example).unwrap_or_else(|error| panic!("{error}: {example}"));
    });
    each(examples::IMPORTED, again::<wire::Imported>);
    again::<wire::Export>(examples::EXPORT);
    in_order::<wire::Exported>(examples::EXPORTED);
    in_order::<wire::LinkWanted>(examples::LINK_WANTED);
    in_order::<wire::ReconnectLink>(examples::RECONNECT_LINK);
    in_order::<wire::AdminConsentLink>(examples::ADMIN_CONSENT_LINK);
    in_order::<wire::Refreshing>(examples::REFRESHING);
    in_order::<wire::Credentials>(examples::CREDENTIALS);
    in_order::<wire::CredentialChosen>(examples::CREDENTIAL_CHOSEN);
    in_order::<wire::TokenHost>(examples::TOKEN_HOST);
    in_order::<wire::Rewrapping>(examples::REWRAPPING);
    in_order::<wire::ApiKeys>(examples::API_KEYS);
    each(examples::POLICY_DECISION, in_order::<wire::PolicyDecision>);
    each(examples::RELOAD, in_order::<wire::Reload>);
    each(examples::REVOKED, in_order::<wire::Revoked>);
    each(examples::VERIFIED, in_order::<wire::Verified>);
    each(examples::SEALING_KEY_VERDICT, in_order::<wire::SealingKeyVerdict>);
    again::<wire::Keyring>(examples::KEYRING);
    each(examples::REVOCATION, |example| {
        serde_json::from_str::<wire::Revocation>(example)
            .unwrap_or_else(|error| panic!("{error}: {example}"));
    });
    in_order::<wire::Pause>(examples::PAUSE);
    in_order::<wire::SealingKeyNamed>(examples::SEALING_KEY_NAMED);
}
