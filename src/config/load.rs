//! Loading: from the text and the environment to a [`Config`], or to all mistakes in them.

use std::collections::BTreeMap;
use std::io::Read as _;
use std::path::Path;

use super::build;
use super::check::check_table;
use super::context::Context;
use super::mistakes::{ConfigErrors, Finding, Mistake, Place, Topic};
use super::overrides;
use super::places::Places;
use super::sections::{Config, ListenConfig, Readable};
use super::spec::ROOT;
use super::tree::{self, Value};

/// Largest file: a longer one is no configuration, and reading on would only cost memory.
const MAX_FILE_SIZE: u64 = 4 * 1024 * 1024;

/// A configuration and its warnings.
#[derive(Debug, Clone, PartialEq)]
pub struct Loaded {
    /// The checked values.
    pub config: Config,
    /// Warnings, in the same form as mistakes and in the order of the file.
    pub warnings: Vec<Mistake>,
    /// Positions of all values, for mistakes that are found later in the named files.
    pub places: Places,
}

/// The readable parts of a text, whatever is wrong with the rest.
struct Read {
    config: Option<Config>,
    readable: Readable,
    places: Places,
    mistakes: Vec<Mistake>,
    warnings: Vec<Mistake>,
}

fn read(text: &str, env: &BTreeMap<String, String>, path: &Path) -> Read {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let locate = |findings: Vec<Finding>| -> Vec<Mistake> {
        let mut findings = findings;
        findings.sort_by(|a, b| a.place.sort_key().cmp(&b.place.sort_key()));
        findings.into_iter().map(|finding| finding.locate(path, text)).collect()
    };
    let (mut root, errors) = tree::parse(text);
    let Value::Table(entries) = &mut root.value else {
        unreachable!("a document is a table");
    };
    let mut findings = Vec::new();
    overrides::apply(env, &ROOT, entries, &mut findings);
    check_table(&ROOT, entries, &Place::File(0), "", &mut findings);

    let context = Context::new(path.parent().unwrap_or(Path::new("")), findings);
    let readable = build::readable(entries, path.parent().unwrap_or(Path::new("")));
    let config = build::config(&context, entries, env);
    let (findings, warnings) = context.into_findings();
    let mistakes = if errors.is_empty() {
        locate(findings)
    } else {
        // The meaning of the rest is not judged, since a part is missing.
        let findings = errors.into_iter().map(|error| Finding {
            place: Place::File(error.offset),
            key: String::new(),
            problem: format!("not valid TOML: {}", error.message),
            nearest: None,
            topic: Topic::Other,
        });
        let mut mistakes = locate(findings.collect());
        // The parser continues after an error; its messages about the rest of the line are noise.
        mistakes.dedup_by_key(|mistake| mistake.line);
        mistakes
    };
    Read { config, readable, places: Places::of(entries, path, text), mistakes, warnings: locate(warnings) }
}

/// Checks a configuration. The arguments are its text, the environment whose `TOKENWARD__…` variables
/// override it, and its path, which is the base of relative paths and appears in messages. It reads nothing
/// else.
///
/// # Errors
/// All mistakes at once, in the order of the file.
pub fn load(text: &str, env: &BTreeMap<String, String>, path: &Path) -> Result<Loaded, ConfigErrors> {
    let Read { config, places, mistakes, warnings, .. } = read(text, env, path);
    match config {
        Some(config) if mistakes.is_empty() => Ok(Loaded { config, warnings, places }),
        _ => Err(ConfigErrors { mistakes }),
    }
}

/// The default configuration: that of an empty file.
impl Default for Config {
    fn default() -> Self {
        load("", &BTreeMap::new(), Path::new("/etc/tokenward/tokenward.toml"))
            .expect("an empty file is a valid configuration")
            .config
    }
}

/// Returns the listeners of a daemon that was started with this file, and the mistakes in the rest. It is for
/// commands that only need to reach the daemon, and that must work while the file is being corrected.
///
/// # Errors
/// The file cannot be read, or its listeners cannot be determined.
pub fn load_listeners(
    path: &Path,
    env: &BTreeMap<String, String>,
) -> Result<(ListenConfig, Option<ConfigErrors>), ConfigErrors> {
    let (Readable { listen, .. }, errors) = load_readable(path, env)?;
    match (listen, errors) {
        (Some(listen), errors) => Ok((listen, errors)),
        (None, errors) => Err(errors.unwrap_or(ConfigErrors { mistakes: Vec::new() })),
    }
}

/// Returns what can be read of a file, and the mistakes in it.
///
/// # Errors
/// The file cannot be read.
pub fn load_readable(
    path: &Path,
    env: &BTreeMap<String, String>,
) -> Result<(Readable, Option<ConfigErrors>), ConfigErrors> {
    let Read { readable, mistakes, .. } = read(&text_of(path)?, env, path);
    let errors = (!mistakes.is_empty()).then_some(ConfigErrors { mistakes });
    Ok((readable, errors))
}

/// Reads the file and checks it with [`load`].
///
/// # Errors
/// An unreadable file is one mistake, without a line.
pub fn load_file(path: &Path, env: &BTreeMap<String, String>) -> Result<Loaded, ConfigErrors> {
    load(&text_of(path)?, env, path)
}

fn text_of(path: &Path) -> Result<String, ConfigErrors> {
    let unreadable = |problem: String| ConfigErrors {
        mistakes: vec![Mistake {
            file: path.to_owned(),
            variable: None,
            line: 0,
            column: 0,
            key: String::new(),
            problem,
            nearest: None,
            topic: Topic::default(),
        }],
    };
    let mut text = String::new();
    std::fs::File::open(path)
        .and_then(|file| file.take(MAX_FILE_SIZE + 1).read_to_string(&mut text))
        .map_err(|error| unreadable(format!("cannot read the configuration: {error}")))?;
    if text.len() as u64 > MAX_FILE_SIZE {
        return Err(unreadable(format!("is longer than {MAX_FILE_SIZE} bytes")));
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::*;
    use crate::domain::account::PERSONAL_TENANT;
    use crate::domain::auth_method::{AuthMethod, AuthMethods};
    use crate::domain::tenants::Tenants;

    const APP: &str = r#"
[apps.outlook]
client_id = "11111111-2222-3333-4444-555555555555"
authority = "https://login.microsoftonline.com/common/v2.0"
scopes = ["offline_access", "openid", "Mail.Read"]
credentials_dir = "credentials"
"#;

    fn of_admins_on_unix() -> AuthMethods {
        AuthMethods::from_iter([AuthMethod::UnixUser, AuthMethod::ApiKeys, AuthMethod::Jwt])
    }

    fn on_unix() -> AuthMethods {
        let of_callers = [AuthMethod::ClientAssertion, AuthMethod::Handles];
        of_admins_on_unix().iter().chain(of_callers).collect()
    }

    fn on_tcp() -> AuthMethods {
        use AuthMethod::{ApiKeys, ClientAssertion, Handles, Jwt};
        AuthMethods::from_iter([ApiKeys, Jwt, ClientAssertion, Handles])
    }

    fn env(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    fn try_load(text: &str, pairs: &[(&str, &str)]) -> Result<Loaded, ConfigErrors> {
        load(text, &env(pairs), Path::new("/etc/tokenward/t.toml"))
    }

    #[track_caller]
    fn good(text: &str) -> Loaded {
        try_load(text, &[]).unwrap_or_else(|errors| panic!("{errors}\n--- in ---\n{text}"))
    }

    /// Returns the messages without the path, for a text that must be refused.
    #[track_caller]
    fn mistakes(text: &str, pairs: &[(&str, &str)]) -> Vec<String> {
        let errors = match try_load(text, pairs) {
            Ok(_) => panic!("was accepted:\n{text}"),
            Err(errors) => errors,
        };
        errors.to_string().lines().map(|line| line.replace("/etc/tokenward/t.toml:", "")).collect()
    }

    /// All mistakes in the text alone; `tests/it/check.rs` runs the commands against the whole table.
    #[test]
    fn each_mistake_is_one_line_with_its_place() {
        let rows = mistakes_table::rows();
        for row in rows.iter().filter(|row| row.is_of_words()) {
            let all = mistakes(&row.config, &[]);
            assert!(all.len() == 1 && all[0].contains(row.says), "{}\n{}: {all:#?}", row.config, row.says);
            assert!(!all[0].contains("hunter2"), "{all:?}");
        }
        assert!(rows.len() > 100, "{}", rows.len());
    }

    #[test]
    fn five_mistakes_are_five_lines() {
        let text = r#"
[store]
knd = "embedded"
serve_cached_for = 300

[listen.public]
base_url = "http://tokens.contoso.com"

[apps.outlook]
client_id = "x"
authority = "https://login.microsoftonline.com/common/v2.0"
scopes = ["openid", "offline_access"]
[[apps.outlook.credentials]]
id = "a"
kind = "secert"
file = "a"

[[callers.sync.allow]]
app = "outlok"
connections = ["*"]
scopes = ["*"]
"#;
        assert_eq!(
            mistakes(text, &[]),
            [
                "3:1: store.knd: unknown key (did you mean `kind`?)",
                "4:20: store.serve_cached_for: must be a duration with its unit, in quotes, such as \"90s\" \
                 or \"5m\"",
                "7:12: listen.public.base_url: must be https; http is for localhost, 127.0.0.1 and [::1] \
                 only",
                "15:8: apps.outlook.credentials[0].kind: must be \"secret\", \"certificate\" or \
                 \"federated\" (did you mean `secret`?)",
                "18:11: callers.sync.authenticate: is required: any one of these will do",
                "19:7: callers.sync.allow[0].app: there is no such app (did you mean `outlook`?)",
                "20:16: callers.sync.allow[0].connections[0]: every connection of the app at once needs \
                 `bulk = true` in the same rule, to say that it is meant",
            ]
        );
    }

    #[test]
    fn an_empty_file_is_the_defaults() {
        let Loaded { config, warnings, .. } = good("");
        assert_eq!(warnings, []);
        assert_eq!(config, Config::default());
        assert_eq!(config.store.backend, StoreBackend::Embedded { path: "/var/lib/tokenward".into() });
        assert_eq!(config.store.serve_cached_for.as_secs(), 300);
        assert_eq!(config.listen.public.base_url, "http://localhost:8080");
        assert_eq!(
            config.listen.local,
            [
                Listener::Unix {
                    path: "/run/tokenward/tokenward.sock".into(),
                    mode: 0o666,
                    accept: on_unix()
                },
                Listener::Tcp { address: "127.0.0.1:7070".parse().unwrap(), tls: None, accept: on_tcp() },
            ]
        );
        assert_eq!(
            config.listen.admin,
            [Listener::Unix {
                path: "/run/tokenward/admin.sock".into(),
                mode: 0o600,
                accept: of_admins_on_unix()
            }]
        );
        assert_eq!(config.listen.ops.address, "127.0.0.1:9464".parse().unwrap());
        assert_eq!(config.limits.lease.as_secs(), 30);
        assert_eq!(
            config.audit,
            AuditConfig { sinks: vec![AuditSink::Stdout], fail_closed: false, signing_key: None }
        );
        assert_eq!((config.log.level, config.log.format), (LogLevel::Info, LogFormat::Auto));
    }

    #[test]
    fn a_secret_in_the_environment_is_a_mistake() {
        let all = mistakes(APP, &[("TOKENWARD__APPS__OUTLOOK__CLIENT_SECRET", "hunter2")]);
        assert!(
            all.len() == 1 && all[0].contains("secrets are never values") && !all[0].contains("hunter2"),
            "{all:?}"
        );
    }

    #[test]
    fn overrides() {
        let text = format!(
            "{APP}{}",
            r#"
[callers.mail-sync]
authenticate = [{ unix_user = "a" }]
"#
        );
        let loaded = try_load(
            &text,
            &[
                ("TOKENWARD_CONFIG", "elsewhere"),
                ("PATH", "/bin"),
                ("TOKENWARD__LISTEN__OPS__ADDRESS", "0.0.0.0:9999"),
                ("tokenward__listen__local__1__address", "127.0.0.1:7171"),
                ("TOKENWARD__LISTEN__LOCAL__2__ADDRESS", "127.0.0.1:7272"),
                ("TOKENWARD__CALLERS__MAIL_SYNC__RATE_LIMIT", "7"),
                ("TOKENWARD__CALLERS__MAIL-SYNC__AUTHENTICATE__0__UNIX_USER", "1001"),
                ("TOKENWARD__APPS__OUTLOOK__CONTINUOUS_ACCESS_EVALUATION", "true"),
                ("TOKENWARD__APPS__OUTLOOK__SCOPES__2", "Mail.Send"),
                ("TOKENWARD__APPS__OUTLOOK__SCOPES__3", "Calendars.Read"),
                ("TOKENWARD__LIMITS__DRAIN", "1m"),
            ],
        )
        .unwrap();
        let config = loaded.config;
        assert_eq!(config.listen.ops.address, "0.0.0.0:9999".parse().unwrap());
        assert_eq!(
            config.listen.local,
            [
                Listener::Unix {
                    path: "/run/tokenward/tokenward.sock".into(),
                    mode: 0o666,
                    accept: on_unix()
                },
                Listener::Tcp { address: "127.0.0.1:7171".parse().unwrap(), tls: None, accept: on_tcp() },
                Listener::Tcp { address: "127.0.0.1:7272".parse().unwrap(), tls: None, accept: on_tcp() },
            ]
        );
        assert_eq!(config.callers["mail-sync"].rate_limit, Some(7));
        assert_eq!(config.callers["mail-sync"].authenticate, [Authenticate::UnixUser(UnixUser::Id(1001))]);
        assert!(config.apps["outlook"].continuous_access_evaluation);
        assert_eq!(
            config.apps["outlook"].scopes,
            ["offline_access", "openid", "Mail.Send", "Calendars.Read"]
        );
        assert_eq!(config.limits.drain.as_secs(), 60);
    }

    /// A section that only variables make has its other defaults, and nobody has written those.
    #[test]
    fn a_default_beside_an_override_is_not_given() {
        let redis = [
            ("TOKENWARD__STORE__KIND", "redis"),
            ("TOKENWARD__STORE__URL", "rediss://redis.redis.svc:6379/0"),
            ("TOKENWARD__STORE__JOURNAL", "/var/lib/tokenward/journal"),
        ];
        let loaded = try_load(APP, &redis).unwrap();
        assert!(matches!(loaded.config.store.backend, StoreBackend::Redis(_)));
        let with_path = [redis[0], redis[1], ("TOKENWARD__STORE__PATH", "/var/lib/tokenward")];
        assert_eq!(
            mistakes(APP, &with_path),
            ["environment TOKENWARD__STORE__PATH: store.path: is for `kind = \"embedded\"` only"]
        );
    }

    #[test]
    fn overrides_that_reach_nothing_are_mistakes() {
        let one = |name: &str, value: &str, expected: &str| {
            let all = mistakes(APP, &[(name, value)]);
            assert!(
                all.len() == 1
                    && all[0].starts_with(&format!("environment {name}: "))
                    && all[0].contains(expected),
                "{all:?}"
            );
        };
        one("TOKENWARD__LISTEN__OPS__ADRESS", "x", "unknown key (did you mean `address`?)");
        one("TOKENWARD__APPS__OUTLOK__CLIENT_ID", "x", "no app called `outlok` (did you mean `outlook`?)");
        one("TOKENWARD__CALLERS__X__RATE_LIMIT", "1", "no caller called `x`");
        one("TOKENWARD__APPS__OUTLOOK__SCOPES", "a,b", "is a list; set its items one by one");
        one("TOKENWARD__APPS__OUTLOOK__SCOPES__FIRST", "a", "is not the number of an item");
        one("TOKENWARD__APPS__OUTLOOK__SCOPES__7", "a", "so the next one is 3");
        one("TOKENWARD__STORE", "a", "is a table; name one of its keys");
        one("TOKENWARD__LISTEN__PUBLIC__TLS__CERT", "a", "unknown key");
        one("TOKENWARD__LISTEN__LOCAL__2__ADRESS", "a", "unknown key (did you mean `address`?)");
        one("TOKENWARD__STORE__KIND__X", "a", "has nothing below it");
        one("TOKENWARD__", "a", "unknown key");
        one("TOKENWARD__LISTEN__OPS__ADDRESS", "x", "must be an IP address and a port");
        one("TOKENWARD__APPS__OUTLOOK__CONTINUOUS_ACCESS_EVALUATION", "yes", "must be true or false");
        one("TOKENWARD__LIMITS__DRAIN", "30", "must be a duration such as");
    }

    #[test]
    fn listeners() {
        let config = good(
            "[[listen.local]]\naddress = \"0.0.0.0:0\"\ntls = { certificate = \"c.pem\", key \
            = \"/k.pem\" }\n[[listen.local]]\naddress = \"[::1]:0\"\n[listen.public]\nbase_url = \
            \"https://x.example/\"\n",
        )
        .config;
        let (certificate, key) = ("/etc/tokenward/c.pem".into(), "/k.pem".into());
        let tls = Tls { certificate, key, client_ca: None, client_crl: None, http2: true };
        assert_eq!(
            config.listen.local[0],
            Listener::Tcp { address: "0.0.0.0:0".parse().unwrap(), tls: Some(tls), accept: on_tcp() }
        );
        assert_eq!(config.listen.public.base_url, "https://x.example");
    }

    #[test]
    fn stores() {
        let redis = |url: &str| match try_load(&format!("[store]\nkind = \"redis\"\nurl = \"{url}\"\n"), &[])
        {
            Ok(Loaded {
                config: Config { store: StoreConfig { backend: StoreBackend::Redis(redis), .. }, .. },
                warnings,
                ..
            }) => Ok((redis, warnings.len())),
            Ok(_) => panic!("not redis"),
            Err(errors) => Err(errors.to_string()),
        };
        let (config, warnings) = redis("rediss://redis:6380/3").unwrap();
        assert_eq!((config.kind, config.tls, config.db, warnings), (RedisKind::Standalone, true, 3, 0));
        assert_eq!(config.hosts, [HostPort { host: "redis".into(), port: 6380 }]);
        let config = super::super::build::redis_url("redis+sentinel://h1,[::1]:26380/primary/2").unwrap();
        assert_eq!(
            (config.kind, config.tls, config.db),
            (RedisKind::Sentinel { primary: "primary".into() }, false, 2)
        );
        assert_eq!(
            config.hosts,
            [HostPort { host: "h1".into(), port: 26379 }, HostPort { host: "::1".into(), port: 26380 }]
        );
        let config = super::super::build::redis_url("rediss+cluster://h1:1,h2:2").unwrap();
        assert_eq!((config.kind, config.tls, config.hosts.len()), (RedisKind::Cluster, true, 2));
        let (config, warnings) = redis("redis+cluster://localhost,[::1]:7000/").unwrap();
        assert_eq!(
            (config.kind, config.hosts[0].port, config.db, warnings),
            (RedisKind::Cluster, 6379, 0, 0)
        );
        assert_eq!(redis("redis+cluster://a,b").unwrap().1, 1, "without TLS");
        assert_eq!(redis("redis://localhost").unwrap().1, 0);
        let (config, warnings) = redis("rediss+sentinel://a,b/primary").unwrap();
        assert_eq!((config.kind, warnings), (RedisKind::Sentinel { primary: "primary".into() }, 0));
        assert_eq!((config.wait_replicas, config.wait_timeout.as_millis()), (0, 250));
        assert_eq!(redis("redis+sentinel://a,localhost/primary").unwrap().1, 1, "without TLS");
        for (url, said) in [("redis+sentinel://a/primary", true), ("redis://a", false)] {
            let warnings = good(&format!("[store]\nkind = \"redis\"\nurl = \"{url}\"\n")).warnings;
            let is_said = warnings[0].problem.contains("a sentinel's answers is sent the password");
            assert_eq!(is_said, said, "{warnings:?}");
        }
    }

    #[test]
    fn apps() {
        let first = &mistakes("[apps.Out_look]\nclient_id = \"\"\n", &[])[0];
        assert!(first.starts_with("1:7: apps.Out_look: app names are"), "{first}");

        let Loaded { config, warnings, .. } = good(&format!(
            "{APP}tenants = [\"11111111-AAAA-3333-4444-555555555555\", \"personal\", \"*\"]\n"
        ));
        assert_eq!(warnings, []);
        let app = &config.apps["outlook"];
        assert_eq!(
            ["11111111-aaaa-3333-4444-555555555555", PERSONAL_TENANT, "*"]
                .map(|tid| app.tenants.allow_tenant(tid)),
            [true, true, true]
        );
        assert_eq!(app.credentials_dir.as_deref(), Some(Path::new("/etc/tokenward/credentials")));
        assert_eq!(config.redirect_uri("outlook").as_deref(), Some("http://localhost:8080/callback/outlook"));
        assert_eq!(
            good(&APP.replace("common", "consumers")).config.apps["outlook"].tenants,
            Tenants::personal()
        );
    }

    #[test]
    fn every_cloud_of_entra_is_known_by_its_host() {
        for host in ["login.microsoftonline.com", "login.usgovcloudapi.net", "login.sovcloud-identity.fr"] {
            let lines = format!(
                "[apps.a]\nclient_id = \"11111111-2222-3333-4444-555555555555\"\nscopes = [\"openid\"]\n\
                 authority = \"https://{host}/common/v2.0\"\n"
            );
            let warnings: Vec<String> = good(&lines).warnings.iter().map(Mistake::to_string).collect();
            let says =
                |line: &String| line.contains("without `offline_access` Entra issues no refresh token");
            assert!(warnings.iter().any(says), "{host}: {warnings:#?}");
        }
    }

    #[test]
    fn warnings() {
        let text = r#"
[apps.a]
client_id = "x"
authority = "http://127.0.0.1:4000/common/v2.0"
provider = "entra"
scopes = ["Mail.Read"]
[apps.b]
client_id = "x"
authority = "https://issuer.example/"
scopes = ["openid"]
[[apps.b.credentials]]
id = "s"
kind = "secret"
file = "f"
[callers.signer]
authenticate = [{ client_assertion = { jwks_file = "j" } }]
"#;
        let lines: Vec<String> = good(text).warnings.iter().map(Mistake::to_string).collect();
        let starts = [
            "2:7: apps.a: has no client",
            "3:13: apps.a.client_id: is no Application (client) ID",
            "4:13: apps.a.authority: is plain http",
            "6:10: apps.a.scopes: without `offline_access`",
            "6:10: apps.a.scopes: without `openid`",
            "11:1: apps.b.credentials[0]: a secret without `expires`",
            "16:19: callers.signer.authenticate[0].client_assertion: without `listen.issuer`",
        ];
        assert_eq!(lines.len(), starts.len(), "{lines:#?}");
        for (line, start) in lines.iter().zip(starts) {
            assert!(line.contains(start), "{line}");
        }
        let named = format!("[listen]\nissuer = \"https://tokens.example\"\n{text}");
        assert_eq!(good(&named).warnings.len(), starts.len() - 1);
    }

    #[test]
    fn callers() {
        let rule = |lines: &str| {
            format!(
                "{APP}[callers.sync]\nauthenticate = [{{ unix_user = \"sync\" \
                 }}]\n[[callers.sync.allow]]\n{lines}\n"
            )
        };
        let text = rule(
            "app = \"outlook\"\nconnections = [\"*\", \"team-a/*\", \"user@x.example\"]\nbulk = \
             true\nscopes = [\"*\"]\nconnect = true",
        );
        let config = good(&text).config;
        let rule = &config.callers["sync"].allow[0];
        assert!(rule.bulk && rule.connect && rule.connections.len() == 3);
    }

    #[test]
    fn a_file_that_is_not_there_is_one_mistake() {
        let errors = load_file(Path::new("/nowhere/t.toml"), &BTreeMap::new()).unwrap_err();
        assert!(
            errors.to_string().starts_with("/nowhere/t.toml: cannot read the configuration: "),
            "{errors}"
        );
    }

    #[test]
    fn nothing_makes_it_panic() {
        // Every prefix and every single-byte deletion of the full example, which has every key.
        let text =
            std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/config/tokenward.toml")).unwrap();
        let text: String =
            text.lines().filter(|line| !line.starts_with('#')).flat_map(|line| [line, "\n"]).collect();
        for at in 0..text.len() {
            if text.is_char_boundary(at) && text.is_char_boundary(at + 1) {
                let _ = try_load(&format!("{}{}", &text[..at], &text[at + 1..]), &[]);
                if at % 7 == 0 {
                    let _ = try_load(&text[..at], &[]);
                }
            }
        }
    }
}
