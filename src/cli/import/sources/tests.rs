//! Files that the programs themselves wrote (`tests/data/import/make.py`, `make.mjs`).

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use super::*;
use crate::cli::import::row::Foreign;
use crate::cli::testing::world;

const CLIENT: &str = "11111111-2222-3333-4444-555555555555";
const TENANT: &str = "34e60b8e-a5b5-43c9-a67e-a85b7dd8768b";
const ALICE: &str = "503c2116-3318-4ef4-9137-98e7501a0886";

/// A copy of a fixture that only its owner reads.
fn copy(folder: &tempfile::TempDir, name: &str) -> PathBuf {
    let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/import").join(name);
    let to = folder.path().join(name);
    std::fs::copy(&from, &to).unwrap_or_else(|error| panic!("{}: {error}", from.display()));
    std::fs::set_permissions(&to, std::fs::Permissions::from_mode(0o600)).expect("chmod");
    to
}

fn rows(format: Format, name: &str, key: Option<&str>) -> Vec<Result<Foreign, String>> {
    let folder = tempfile::tempdir().expect("a folder");
    let key = key.map(|content| {
        let path = folder.path().join("key");
        std::fs::write(&path, content).expect("written");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).expect("chmod");
        path
    });
    let (world, _) = world();
    let rows = format.open(&copy(&folder, name), key.as_deref(), &world);
    let mut rows = rows.unwrap_or_else(|failure| panic!("{failure:?}"));
    std::iter::from_fn(|| rows.next().unwrap_or_else(|failure| panic!("{failure:?}")))
        .map(|row| row.grant)
        .collect()
}

/// Id, tenant with object, and token.
type Fit = (String, Option<(String, String)>, String);

/// Those that can be imported.
fn fit(rows: &[Result<Foreign, String>]) -> Vec<Fit> {
    let fit = rows.iter().filter_map(|row| row.as_ref().ok());
    fit.map(|grant| {
        let account = grant.account.as_ref();
        let ids = account.and_then(|account| Some((account.tid.clone()?, account.oid.clone()?)));
        (grant.id.clone().unwrap_or_default(), ids, grant.refresh_token.expose().to_owned())
    })
    .collect()
}

fn ids(tid: &str, oid: &str) -> Option<(String, String)> {
    Some((tid.to_owned(), oid.to_owned()))
}

#[test]
fn caches_of_msal_for_python_and_node() {
    let python = rows(Format::MsalPython, "msal-python.json", None);
    let alice = (format!("{ALICE}.{TENANT}"), ids(TENANT, ALICE), "refresh-of-alice".to_owned());
    let gina = (
        "66666666-1111-4222-8333-444444444444.99999999-8888-4777-8666-555555555555".to_owned(),
        // As the app got it: a guest's id in the app's tenant.
        ids(TENANT, "77777777-1111-4222-8333-444444444444"),
        "refresh-of-gina".to_owned(),
    );
    let mut found = fit(&python);
    found.sort();
    assert_eq!(found, [alice.clone(), gina]);
    let family: Vec<&String> = python.iter().filter_map(|row| row.as_ref().err()).collect();
    assert!(family.iter().all(|why| why.contains("family")) && !family.is_empty(), "{family:?}");

    let node = rows(Format::MsalNode, "msal-node.json", None);
    assert_eq!(fit(&node), [alice]);
    for grant in python.iter().chain(&node).filter_map(|row| row.as_ref().ok()) {
        assert_eq!(grant.client_id.as_deref(), Some(CLIENT));
        assert!(grant.account.as_ref().is_some_and(|account| account.username.is_some()));
    }
}

#[test]
fn rows_of_nango_and_the_answers_of_its_api() {
    let key = include_str!("../../../../tests/data/import/nango.key");
    let opened = rows(Format::Nango, "nango.jsonl", Some(key));
    let alice = |name: &str| (name.to_owned(), ids(TENANT, ALICE), "refresh-of-alice".to_owned());
    assert_eq!(fit(&opened), [alice("user-1"), alice("user-3")]);
    assert!(opened.iter().flatten().all(|grant| grant.filed_under.as_deref() == Some("outlook-prod")));
    let (deleted, other) = (&opened[1], &opened[3]);
    assert!(deleted.as_ref().is_err_and(|why| why.contains("deleted")));
    assert!(other.as_ref().is_err_and(|why| why.contains("OAUTH2") && !why.contains("canary")));

    // Without the key, and with another one.
    for key in [None, Some("AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=")] {
        let rows = rows(Format::Nango, "nango.jsonl", key);
        assert_eq!(fit(&rows), [alice("user-3")], "{key:?}");
    }
}

#[test]
fn accounts_of_email_oauth2_proxy() {
    let opened = rows(Format::Emailproxy, "emailproxy.config", Some("correct horse\n"));
    let account = |name: &str| (format!("{name}@contoso.com"), None, format!("refresh-of-{name}"));
    assert_eq!(fit(&opened), [account("alice"), account("bob")]);
    let wrong = rows(Format::Emailproxy, "emailproxy.config", Some("battery staple"));
    assert!(wrong.len() == 2 && wrong.iter().all(Result::is_err));
}

/// What is cut off would be missing without a word.
#[test]
fn a_file_that_is_too_large_is_refused_whole() {
    for (format, size) in [(Format::Emailproxy, 64 << 20), (Format::MsalPython, 512 << 20)] {
        let folder = tempfile::tempdir().expect("a folder");
        let path = copy(&folder, "emailproxy.config");
        let file = std::fs::OpenOptions::new().write(true).open(&path).expect("opened");
        file.set_len(size + 1).expect("a sparse file");
        let key = matches!(format, Format::Emailproxy).then(|| copy(&folder, "nango.key"));
        let (world, _) = world();
        let Err(failure) = format.open(&path, key.as_deref(), &world) else { panic!("{format:?} is read") };
        assert!(failure.message.contains("more than"), "{failure:?}");
    }
}

/// Each grant of a cache has its own account, of its own cloud.
#[test]
fn a_cache_of_many_users_is_read_with_each_one_s_account() {
    let (mut grants, mut accounts) = (serde_json::Map::new(), serde_json::Map::new());
    for user in 0..3000 {
        for cloud in ["microsoftonline.com", "microsoftonline.us"] {
            let whose = serde_json::json!({ "home_account_id": format!("{user}.{TENANT}"),
                "environment": cloud, "client_id": CLIENT, "secret": format!("of-{user}-{cloud}"),
                "realm": TENANT, "local_account_id": format!("{user}"),
                "username": format!("{user}@{cloud}") });
            grants.insert(format!("{user}-{cloud}"), whose.clone());
            accounts.insert(format!("{user}-{cloud}"), whose);
        }
    }
    let folder = tempfile::tempdir().expect("a folder");
    let path = copy(&folder, "msal-python.json");
    let cache = serde_json::json!({ "RefreshToken": grants, "Account": accounts });
    std::fs::write(&path, cache.to_string()).expect("written");
    let (world, _) = world();
    let rows = Format::MsalPython.open(&path, None, &world);
    let mut rows = rows.unwrap_or_else(|failure| panic!("{failure:?}"));
    let mut read = 0;
    while let Some(row) = rows.next().unwrap_or_else(|failure| panic!("{failure:?}")) {
        let grant = row.grant.unwrap_or_else(|why| panic!("{why}"));
        let username = grant.account.and_then(|account| account.username).expect("an account");
        assert_eq!(format!("of-{}", username.replace('@', "-")), grant.refresh_token.expose());
        read += 1;
    }
    assert_eq!(read, 6000);
}

/// MSAL for Python notes the last part of its authority's path as the realm, whatever it is.
#[test]
fn a_realm_that_is_no_tenant_id_is_none_in_a_cache_of_msal_for_python() {
    const GUEST: &str = "77777777-1111-4222-8333-444444444444";
    const MSA: &str = "00000000-0000-0000-a1b2-c3d4e5f60718";
    let personal = crate::domain::account::PERSONAL_TENANT;
    let elsewhere = "99999999-8888-4777-8666-555555555555";
    let id_token = |tid: &str, oid: &str| {
        let claims = serde_json::json!({ "iss": "https://issuer", "sub": "s", "tid": tid, "oid": oid });
        format!("e30.{}.e30", URL_SAFE_NO_PAD.encode(claims.to_string()))
    };
    let domain = "contoso.example";
    for (realm, (home_oid, home_tid), local, cached, expected) in [
        ("common", (ALICE, TENANT), ALICE, Some(id_token(TENANT, ALICE)), ids(TENANT, ALICE)),
        ("common", (ALICE, TENANT), ALICE, None, ids(TENANT, ALICE)),
        ("organizations", (ALICE, TENANT), ALICE, Some(id_token(TENANT, ALICE)), ids(TENANT, ALICE)),
        // Without `profile` its ID token has no oid, and the local id is the pairwise subject.
        ("organizations", (ALICE, TENANT), "pairwise", None, ids(TENANT, ALICE)),
        ("consumers", (MSA, personal), MSA, Some(id_token(personal, MSA)), ids(personal, MSA)),
        ("common", (MSA, personal), MSA, None, ids(personal, MSA)),
        (domain, (ALICE, TENANT), ALICE, None, ids(TENANT, ALICE)),
        (domain, (ALICE, elsewhere), GUEST, Some(id_token(TENANT, GUEST)), ids(TENANT, GUEST)),
        // Nobody can say which tenant's user this is: the authority does.
        (domain, (ALICE, elsewhere), GUEST, None, None),
        (TENANT, (ALICE, elsewhere), GUEST, None, ids(TENANT, GUEST)),
    ] {
        let whose = serde_json::json!({ "home_account_id": format!("{home_oid}.{home_tid}"),
            "environment": "login.microsoftonline.com", "client_id": CLIENT });
        let with = |more: serde_json::Value| {
            let mut entry = whose.clone();
            let (Some(all), serde_json::Value::Object(more)) = (entry.as_object_mut(), more) else {
                panic!("objects")
            };
            all.extend(more);
            serde_json::json!({ "key": entry })
        };
        let mut cache = serde_json::json!({
            "RefreshToken": with(serde_json::json!({ "secret": "r" })),
            "Account": with(serde_json::json!({ "realm": realm, "local_account_id": local,
                "username": "a@contoso.example", "authority_type": "MSSTS" })),
        });
        if let Some(secret) = &cached {
            cache["IdToken"] = with(serde_json::json!({ "realm": realm, "secret": secret }));
        }
        let folder = tempfile::tempdir().expect("a folder");
        let path = copy(&folder, "msal-python.json");
        std::fs::write(&path, cache.to_string()).expect("written");
        let (world, _) = world();
        let rows = Format::MsalPython.open(&path, None, &world);
        let mut rows = rows.unwrap_or_else(|failure| panic!("{failure:?}"));
        let row = rows.next().unwrap_or_else(|failure| panic!("{failure:?}")).expect("a row");
        assert_eq!(fit(&[row.grant])[0].1, expected, "{realm} {home_oid}.{home_tid} {local} {cached:?}");
    }
}
