//! Every path that a configuration can hold, and what is said where others can change what lies there.

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use super::*;
use crate::domain::time::Timestamp;
use crate::system::{SystemClock, SystemRandom};

/// The reaction to a path that others can write to.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Said {
    /// Nothing from there is taken up.
    Refused,
    /// It is the daemon's own folder, which nobody else may enter. Its files are sealed, so moving it gains
    /// nothing.
    Own,
    /// Others can put something there, and a warning says so.
    Warned,
    /// It is not used, and a warning says so: nothing depends on it.
    LeftOut,
    /// Nothing, and why that is right.
    Nothing(&'static str),
}

use Said::{LeftOut, Nothing, Own, Refused, Warned};

const REDIS: &str = "[store]\nkind = \"redis\"\nurl = \"rediss+sentinel://127.0.0.1:1/primary/0\"\n";
const APP: &str = "[apps.a]\nclient_id = \"11111111-2222-3333-4444-555555555555\"\n\
                   authority = \"https://login.microsoftonline.com/common/v2.0\"\n\
                   scopes = [\"offline_access\"]\n";
const CLIENTS: &str = "address = \"127.0.0.1:0\"\n\
                       tls = { certificate = \"good\", key = \"good\", client_ca = \"CA\", \
                       client_crl = \"CRL\" }\n";
const TLS: &str = "address = \"127.0.0.1:0\"\ntls = { certificate = \"C\", key = \"K\" }\n";

/// Each key that holds a path, with the reaction, and a configuration in which `PLACE` stands for the path.
/// The path is a file's, unless its key ends in `/` here. A new key needs a row here, and its path a guard
/// (`secret_file::guarded`).
fn rows() -> Vec<(&'static str, Said, String)> {
    let redis = |line: &str| format!("{REDIS}{line}\n");
    let app = |line: &str| format!("{APP}{line}\n");
    let tls = |head: &str, at: &str| {
        let other = if at == "C" { "K" } else { "C" };
        format!("{head}\n{TLS}")
            .replace(&format!("\"{at}\""), "\"PLACE\"")
            .replace(&format!("\"{other}\""), "\"good\"")
    };
    let clients = |head: &str, at: &str| {
        format!("{head}\n{CLIENTS}")
            .replace(&format!("\"{at}\""), "\"PLACE\"")
            .replace("\"CA\"", "\"good\"")
            .replace("\"CRL\"", "\"good\"")
    };
    let issuer = |lines: &str| {
        format!("[issuers.a]\nissuer = \"http://127.0.0.1:1\"\naudience = \"tokenward\"\n{lines}\n")
    };
    let credential =
        |kind: &str, rest: &str| app(&format!("credentials = [{{ id = \"a\", kind = \"{kind}\", {rest} }}]"));
    vec![
        ("store.path/", Own, "[store]\npath = \"PLACE\"\n".to_owned()),
        ("store.password_file", Refused, redis("password_file = \"PLACE\"")),
        ("store.ca_file", Refused, redis("ca_file = \"PLACE\"")),
        ("store.client_certificate", Refused, redis("client_certificate = \"PLACE\"\nclient_key = \"good\"")),
        ("store.client_key", Refused, redis("client_certificate = \"good\"\nclient_key = \"PLACE\"")),
        ("store.sentinel_password_file", Refused, redis("sentinel_password_file = \"PLACE\"")),
        ("store.journal/", Own, redis("journal = \"PLACE\"")),
        ("sealing.keyring/", Refused, String::new()),
        ("listen.public.tls.certificate", Refused, tls("[listen.public]", "C")),
        ("listen.public.tls.key", Refused, tls("[listen.public]", "K")),
        ("listen.local[].unix", Warned, "[[listen.local]]\nunix = \"PLACE\"\n".to_owned()),
        ("listen.local[].tls.certificate", Refused, tls("[[listen.local]]", "C")),
        ("listen.local[].tls.key", Refused, tls("[[listen.local]]", "K")),
        ("listen.local[].tls.client_ca", Refused, clients("[[listen.local]]", "CA")),
        ("listen.local[].tls.client_crl", Refused, clients("[[listen.local]]", "CRL")),
        ("listen.admin[].unix", Warned, "[[listen.admin]]\nunix = \"PLACE\"\n".to_owned()),
        ("listen.admin[].tls.certificate", Refused, tls("[[listen.admin]]", "C")),
        ("listen.admin[].tls.key", Refused, tls("[[listen.admin]]", "K")),
        ("listen.admin[].tls.client_ca", Refused, clients("[[listen.admin]]", "CA")),
        ("listen.admin[].tls.client_crl", Refused, clients("[[listen.admin]]", "CRL")),
        ("listen.ops.tls.certificate", Refused, tls("[listen.ops]", "C")),
        ("listen.ops.tls.key", Refused, tls("[listen.ops]", "K")),
        (
            "outbound.proxy_password_file",
            Refused,
            "[outbound]\nproxy = \"http://127.0.0.1:1\"\nproxy_username = \"u\"\nproxy_password_file = \
             \"PLACE\"\n"
                .to_owned(),
        ),
        (
            "outbound.proxy_ca_file",
            Refused,
            format!("[outbound]\nproxy = \"https://127.0.0.1:1\"\nproxy_ca_file = \"PLACE\"\n{APP}"),
        ),
        ("apps.NAME.authority_ca", Refused, app("authority_ca = \"PLACE\"")),
        ("apps.NAME.relay.ca", Refused, app("relay = { ca = \"PLACE\" }")),
        ("apps.NAME.credentials[].file", Refused, credential("secret", "file = \"PLACE\"")),
        (
            "apps.NAME.credentials[].key",
            Refused,
            credential("certificate", "file = \"good\", key = \"PLACE\""),
        ),
        ("apps.NAME.credentials_dir/", Refused, app("credentials_dir = \"PLACE\"")),
        ("issuers.NAME.jwks_file", Refused, issuer("jwks_file = \"PLACE\"")),
        ("issuers.NAME.ca_file", Refused, issuer("ca_file = \"PLACE\"")),
        ("issuers.NAME.token_file", Refused, issuer("token_file = \"PLACE\"")),
        (
            "callers.NAME.authenticate[].api_keys",
            Refused,
            "[callers.a]\nauthenticate = [{ api_keys = \"PLACE\" }]\n".to_owned(),
        ),
        (
            "callers.NAME.authenticate[].client_assertion.jwks_file",
            Refused,
            "[callers.a]\nauthenticate = [{ client_assertion = { jwks_file = \"PLACE\" } }]\n".to_owned(),
        ),
        (
            "admins.NAME.authenticate[].api_keys",
            Refused,
            "[admins.a]\nauthenticate = [{ api_keys = \"PLACE\" }]\n".to_owned(),
        ),
        (
            "audit.path",
            Nothing("it grants nothing, and its chain tells what was changed"),
            "[audit]\npath = \"PLACE\"\n".to_owned(),
        ),
        (
            "audit.also[]",
            Nothing("it grants nothing, and its chain tells what was changed"),
            "[audit]\nalso = [\"PLACE\"]\n".to_owned(),
        ),
        ("pages.logo", LeftOut, "[pages]\nlogo = \"PLACE\"\n".to_owned()),
        ("pages.languages_dir/", LeftOut, "[pages]\nlanguages_dir = \"PLACE\"\n".to_owned()),
        (
            "webhooks.NAME.secret_file",
            LeftOut,
            "[webhooks.a]\nurl = \"https://h/\"\nsecret_file = \"PLACE\"\n".to_owned(),
        ),
        (
            "webhooks.NAME.ca_file",
            LeftOut,
            "[webhooks.a]\nurl = \"https://h/\"\nsecret_file = \"good\"\nca_file = \"PLACE\"\n".to_owned(),
        ),
        ("audit.signing_key", Refused, "[audit]\nsigning_key = \"PLACE\"\n".to_owned()),
        (
            "traces.headers_file",
            LeftOut,
            "[traces]\nendpoint = \"https://127.0.0.1:1\"\nheaders_file = \"PLACE\"\n".to_owned(),
        ),
        (
            "traces.ca_file",
            LeftOut,
            "[traces]\nendpoint = \"https://127.0.0.1:1\"\nca_file = \"PLACE\"\n".to_owned(),
        ),
    ]
}

fn mode(path: &Path, mode: u32) {
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).expect("chmod");
}

/// What is refused, and what is warned of, with `place` as the place that others can change.
fn judged(folder: &Path, config: &str, place: &str, keyring: &str) -> (String, String) {
    let text = format!("{}\n[sealing]\nkeyring = \"{keyring}\"\n", config.replace("PLACE", place));
    let file = folder.join("t.toml");
    std::fs::write(&file, &text).expect("written");
    let loaded =
        crate::config::load(&text, &BTreeMap::new(), &file).unwrap_or_else(|error| panic!("{text}: {error}"));
    let environment = Environment { credentials_directory: None, passwd: String::new(), of_owner: None };
    let said = check(&loaded, &environment, Arc::new(SystemClock::new()), Arc::new(SystemRandom::new()));
    let lines = |all: &[Mistake]| all.iter().map(|one| format!("{one}\n")).collect::<String>();
    (lines(&said.mistakes), lines(&said.warnings))
}

#[test]
fn every_path_of_a_configuration_is_guarded_or_says_why_not() {
    let rows = rows();
    let mut listed: Vec<&str> = rows.iter().map(|(key, ..)| key.trim_end_matches('/')).collect();
    listed.sort_unstable();
    let mut known = crate::config::path_keys();
    known.sort_unstable();
    assert_eq!(listed, known, "say of each path what happens where others can write to it");

    for (key, said, config) in rows {
        for at_its_folder in [true, false] {
            let scene = tempfile::tempdir().expect("a folder");
            let folder = scene.path().join("loose");
            std::fs::create_dir(&folder).expect("a folder");
            std::fs::write(scene.path().join("good"), "hunter2\n").expect("a file");
            mode(&scene.path().join("good"), 0o600);
            crate::keyring::files::add(
                &scene.path().join("ring"),
                &SystemRandom::new(),
                Timestamp::from_unix_seconds(0),
            )
            .expect("a key");
            let place = folder.join("x");
            let is_folder = key.ends_with('/');
            if is_folder {
                std::fs::create_dir(&place).expect("a folder");
            } else if said != Warned {
                std::fs::write(&place, "hunter2\n").expect("a file");
            }
            let keyring = if key == "sealing.keyring/" { "loose/x" } else { "ring" };
            let judged = |config: &str| judged(scene.path(), config, "loose/x", keyring);
            mode(&folder, 0o755);
            if place.exists() {
                mode(&place, if is_folder { 0o700 } else { 0o600 });
            }
            let (mistakes, warnings) = judged(&config);
            assert!(!format!("{mistakes}{warnings}").contains("0777"), "{key}: {mistakes}{warnings}");

            let at = if at_its_folder { &folder } else { &place };
            if at.exists() {
                mode(at, 0o777);
            }
            let (mistakes, warnings) = judged(&config);
            let what = format!("{key}, its folder: {at_its_folder}:\n{mistakes}{warnings}");
            let of_place = format!("{} has mode 0777, so that ", at.display());
            match said {
                Refused => assert!(
                    mistakes.contains(&of_place) || !at_its_folder && mistakes.contains("mode 0777"),
                    "{what}"
                ),
                LeftOut => assert!(!mistakes.contains("0777") && warnings.contains("mode 0777"), "{what}"),
                Own if at_its_folder => assert!(!mistakes.contains("0777"), "{what}"),
                Own => assert!(mistakes.contains("others may enter it"), "{what}"),
                Warned if at_its_folder => {
                    assert!(
                        warnings.contains(&of_place) && warnings.contains("a socket of their own"),
                        "{what}"
                    );
                }
                Warned => {}
                Nothing(why) => assert!(!why.is_empty() && !mistakes.contains("0777"), "{what}"),
            }
        }
    }
}

/// `docs/keys.md` is the inventory: every file with a key or a secret, and every label of a derived key.
#[test]
fn the_inventory_of_keys_has_every_key_of_the_configuration_and_of_the_code() {
    // Paths that hold neither a key nor a secret, nor what is believed.
    const OTHERS: [&str; 15] = [
        "store.path",
        "store.journal",
        "store.client_certificate",
        "listen.public.tls.certificate",
        "listen.local[].unix",
        "listen.local[].tls.certificate",
        "listen.local[].tls.client_crl",
        "listen.admin[].unix",
        "listen.admin[].tls.certificate",
        "listen.admin[].tls.client_crl",
        "listen.ops.tls.certificate",
        "pages.logo",
        "pages.languages_dir",
        "audit.path",
        "audit.also[]",
    ];
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let page = std::fs::read_to_string(root.join("docs/keys.md")).expect("the inventory");
    let mut known = crate::config::path_keys();
    known.retain(|key| !OTHERS.contains(&key.as_str()));
    let missing: Vec<_> = known.iter().filter(|key| !page.contains(&format!("`{key}`"))).collect();
    assert_eq!(missing, [""; 0], "not in docs/keys.md");
    for row in page.lines().filter_map(|line| line.strip_prefix("| `")) {
        let name = row.split('`').next().unwrap_or_default();
        let is_known = known.iter().any(|key| key == name) || name.starts_with("tokenward/");
        assert!(is_known, "{name} is no key");
    }
    // Labels of derived keys: a new one is in the code and not yet on the page.
    let mut folders = vec![root.join("src")];
    let mut labels = 0;
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).expect("a folder").map_while(Result::ok) {
            let path = entry.path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = std::fs::read_to_string(&path).expect("source");
                let begun = concat!("b\"token", "ward/");
                for (at, _) in text.match_indices(begun) {
                    let label = text[at + 2..].split('"').next().unwrap_or_default();
                    assert!(page.contains(&format!("| `{label}` |")), "{label} of {}", path.display());
                    labels += 1;
                }
            }
        }
    }
    assert_eq!(labels, 2);
}
