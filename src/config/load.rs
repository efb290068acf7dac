//! From the text and the environment to a [`Config`], or to every mistake in them.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::Path;

use super::build::{self, Context};
use super::check::check_table;
use super::mistakes::{ConfigErrors, Finding, Mistake, Place};
use super::overrides;
use super::sections::Config;
use super::spec::ROOT;
use super::tree::{self, Value};

/// A file this long is not a configuration; reading on would only cost memory.
const MAX_FILE_SIZE: u64 = 4 * 1024 * 1024;

/// A configuration and what an operator should look at all the same.
#[derive(Debug, Clone, PartialEq)]
pub struct Loaded {
    /// The checked values.
    pub config: Config,
    /// One line each, in the same form as a mistake, in the order of the file.
    pub warnings: Vec<String>,
}

/// Checks a configuration: its text, the environment whose `TOKENWARD__…` variables override it, and the path it was
/// read from, to which relative paths are relative and which messages name. Reads nothing else.
///
/// # Errors
/// Every mistake at once, in the order of the file.
pub fn load(text: &str, env: &BTreeMap<String, String>, path: &Path) -> Result<Loaded, ConfigErrors> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let locate = |findings: Vec<Finding>| -> Vec<Mistake> {
        let mut findings = findings;
        findings.sort_by(|a, b| a.place.sort_key().cmp(&b.place.sort_key()));
        findings.into_iter().map(|finding| finding.locate(path, text)).collect()
    };
    let mut root = match tree::parse(text) {
        Ok(root) => root,
        Err(errors) => {
            let findings = errors.into_iter().map(|error| Finding {
                place: Place::File(error.offset),
                key: String::new(),
                problem: format!("not valid TOML: {}", error.message),
                nearest: None,
            });
            let mut mistakes = locate(findings.collect());
            // The parser goes on after an error; what it says about the rest of the same line is noise.
            mistakes.dedup_by_key(|mistake| mistake.line);
            return Err(ConfigErrors { mistakes });
        }
    };
    let Value::Table(entries) = &mut root.value else {
        unreachable!("a document is a table");
    };
    let mut findings = Vec::new();
    overrides::apply(env, &ROOT, entries, &mut findings);
    check_table(&ROOT, entries, &Place::File(0), "", &mut findings);

    let context = Context::new(path.parent().unwrap_or(Path::new("")), findings);
    let config = build::config(&context, entries);
    let (findings, warnings) = context.into_findings();
    match config {
        Some(config) if findings.is_empty() => {
            let warnings = locate(warnings).iter().map(Mistake::to_string).collect();
            Ok(Loaded { config, warnings })
        }
        _ => Err(ConfigErrors { mistakes: locate(findings) }),
    }
}

/// Reads the file and checks it with [`load`].
///
/// # Errors
/// A file that cannot be read is one mistake, without a line.
pub fn load_file(path: &Path, env: &BTreeMap<String, String>) -> Result<Loaded, ConfigErrors> {
    let unreadable = |problem: String| ConfigErrors {
        mistakes: vec![Mistake {
            file: path.to_owned(),
            variable: None,
            line: 0,
            column: 0,
            key: String::new(),
            problem,
            nearest: None,
        }],
    };
    let mut text = String::new();
    std::fs::File::open(path)
        .and_then(|file| file.take(MAX_FILE_SIZE + 1).read_to_string(&mut text))
        .map_err(|error| unreadable(format!("cannot read the configuration: {error}")))?;
    if text.len() as u64 > MAX_FILE_SIZE {
        return Err(unreadable(format!("is longer than {MAX_FILE_SIZE} bytes")));
    }
    load(&text, env, path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::*;

    const APP: &str = r#"
[apps.outlook]
client_id = "11111111-2222-3333-4444-555555555555"
authority = "https://login.microsoftonline.com/common/v2.0"
scopes = ["offline_access", "openid", "Mail.Read"]
credentials_dir = "credentials"
"#;

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

    /// The messages without the path, for a text that must be refused.
    #[track_caller]
    fn mistakes(text: &str, pairs: &[(&str, &str)]) -> Vec<String> {
        let errors = match try_load(text, pairs) {
            Ok(_) => panic!("was accepted:\n{text}"),
            Err(errors) => errors,
        };
        errors.to_string().lines().map(|line| line.replace("/etc/tokenward/t.toml:", "")).collect()
    }

    #[track_caller]
    fn one_mistake(text: &str, expected: &str) {
        let all = mistakes(text, &[]);
        assert!(all.len() == 1 && all[0].contains(expected), "expected {expected:?}, got {all:#?}");
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
                "4:20: store.serve_cached_for: must be a duration with its unit, in quotes, such as \"90s\" or \"5m\"",
                "7:12: listen.public.base_url: must be https; http is for localhost, 127.0.0.1 and [::1] only",
                "15:8: apps.outlook.credentials[0].kind: must be \"secret\", \"certificate\" or \"federated\" (did you mean `secret`?)",
                "18:11: callers.sync.authenticate: is required: any one of these will do",
                "19:7: callers.sync.allow[0].app: there is no such app (did you mean `outlook`?)",
                "20:16: callers.sync.allow[0].connections[0]: every connection of the app at once needs `bulk = true` in the same rule, to say that it is meant",
            ]
        );
    }

    #[test]
    fn syntax_mistakes_have_their_line() {
        let all = mistakes("[store]\nkind = \"embedded\n", &[]);
        assert_eq!(all.len(), 1, "{all:?}");
        assert!(all[0].starts_with("2:") && all[0].contains("not valid TOML"), "{all:?}");
        let all = mistakes("[store]\nkind = \"embedded\"\nkind = \"redis\"\n", &[]);
        assert!(all.len() == 1 && all[0].starts_with("3:"), "{all:?}");
    }

    #[test]
    fn an_empty_file_is_the_defaults() {
        let Loaded { config, warnings } = good("");
        assert_eq!(warnings, [""; 0]);
        assert_eq!(config, Config::default());
        assert_eq!(config.store.backend, StoreBackend::Embedded { path: "/var/lib/tokenward".into() });
        assert_eq!(config.store.serve_cached_for.as_secs(), 300);
        assert_eq!(config.listen.public.base_url, "http://localhost:8080");
        assert_eq!(
            config.listen.local,
            [
                Listener::Unix { path: "/run/tokenward/tokenward.sock".into(), mode: 0o666 },
                Listener::Tcp { address: "127.0.0.1:7070".parse().unwrap(), tls: None },
            ]
        );
        assert_eq!(
            config.listen.admin,
            [Listener::Unix { path: "/run/tokenward/admin.sock".into(), mode: 0o600 }]
        );
        assert_eq!(config.listen.ops.address, "127.0.0.1:9464".parse().unwrap());
        assert_eq!(config.limits.lease.as_secs(), 30);
        assert_eq!(config.audit.sink, AuditSink::Stdout);
        assert_eq!((config.log.level, config.log.format), (LogLevel::Info, LogFormat::Json));
    }
}
