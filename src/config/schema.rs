//! The JSON Schema and the reference page, both written from the table in `spec`.

use std::fmt::Write;

use serde_json::{Map, Value as Json, json};

use super::mistakes::Place;
use super::spec::{Key, Kind, Presence, ROOT, Table};
use super::tree::{Node, Value, parse_default};

/// Returns the JSON Schema (draft 2020-12) of the configuration file, as pretty JSON with a line end.
pub fn json_schema() -> String {
    let mut schema = Map::new();
    schema.insert("$schema".to_owned(), json!("https://json-schema.org/draft/2020-12/schema"));
    schema.insert("title".to_owned(), json!("tokenward configuration"));
    if let Json::Object(root) = table_schema(&ROOT) {
        schema.extend(root);
    }
    let mut text = serde_json::to_string_pretty(&Json::Object(schema)).expect("a schema is plain JSON");
    text.push('\n');
    text
}

fn table_schema(table: &Table) -> Json {
    let properties: Map<String, Json> =
        table.keys.iter().map(|key| (key.name.to_owned(), key_schema(key))).collect();
    let required: Vec<&str> = table
        .keys
        .iter()
        .filter(|key| matches!(key.presence, Presence::Required))
        .map(|key| key.name)
        .collect();
    let mut schema = json!({
        "type": "object",
        "description": table.doc,
        "properties": properties,
        "additionalProperties": false,
    });
    if !required.is_empty() {
        schema["required"] = json!(required);
    }
    schema
}

fn key_schema(key: &Key) -> Json {
    let mut schema = kind_schema(&key.kind);
    schema["description"] = json!(key.doc);
    if let Presence::Default(text) = key.presence
        && text != "{}"
    {
        schema["default"] = to_json(&parse_default(text, &Place::Absent(0)));
    }
    schema
}

fn kind_schema(kind: &Kind) -> Json {
    match kind {
        Kind::Text | Kind::Path => json!({ "type": "string", "minLength": 1 }),
        Kind::Url => json!({ "type": "string", "pattern": "^[a-z+]+://" }),
        Kind::Address => json!({ "type": "string", "pattern": "^.+:[0-9]{1,5}$" }),
        Kind::OneOf(words) => json!({ "enum": words }),
        Kind::Integer { min, max } => json!({ "type": "integer", "minimum": min, "maximum": max }),
        Kind::Ratio => json!({ "type": "number", "minimum": 0, "maximum": 1 }),
        Kind::Bool => json!({ "type": "boolean" }),
        Kind::Duration { .. } => json!({ "type": "string", "pattern": "^([0-9]+(ms|[smhd]))+$" }),
        Kind::Instant => json!({ "type": "string", "pattern": "^[0-9]{4}-[0-9]{2}-[0-9]{2}" }),
        Kind::User => json!({ "type": ["string", "integer"], "minLength": 1, "minimum": 0 }),
        Kind::List(item) => json!({ "type": "array", "items": kind_schema(item) }),
        Kind::Table(table) => table_schema(table),
        Kind::Map { table, .. } => json!({
            "type": "object",
            "propertyNames": { "pattern": "^[a-z0-9][a-z0-9-]{0,62}$" },
            "additionalProperties": table_schema(table),
        }),
        Kind::Urls { .. } => json!({
            "type": "object",
            "propertyNames": { "pattern": "^[a-z0-9][a-z0-9-]{0,62}$" },
            "additionalProperties": kind_schema(&Kind::Url),
        }),
        Kind::Claims => json!({
            "type": "object",
            "minProperties": 1,
            "additionalProperties": { "type": ["string", "integer", "boolean", "object"] },
        }),
    }
}

fn to_json(node: &Node) -> Json {
    match &node.value {
        Value::String(text) => json!(text),
        Value::Integer(number) => json!(number),
        Value::Float(number) => json!(number),
        Value::Bool(value) => json!(value),
        Value::List(items) => items.iter().map(to_json).collect(),
        Value::Table(entries) => entries
            .iter()
            .map(|(name, entry)| (name.clone(), to_json(&entry.node)))
            .collect::<Map<_, _>>()
            .into(),
        Value::Datetime(datetime) => json!(datetime.to_string()),
        Value::Wrong => Json::Null,
    }
}

const INTRODUCTION: &str = "\
# Configuration

<!-- Generated from src/config/spec.rs: change that, then run `UPDATE_SCHEMA=1 cargo test --lib config` -->

One TOML file: `--config`, else `TOKENWARD_CONFIG`, else `/etc/tokenward/tokenward.toml`. An empty file is
valid, and means every default below. `tokenward check` reports all mistakes in a file at once, each with its
line, its key and the nearest known key:

```text
tokenward.toml:7:12: listen.public.base_url: must be https; http is for localhost, 127.0.0.1 and [::1] only
tokenward.toml:12:1: apps.outlook.clientid: unknown key (did you mean `client_id`?)
```

Annotated examples are in [`config/`](../config). [`tokenward.toml`](../config/tokenward.toml) has every key;
[`embedded.toml`](../config/embedded.toml) and [`redis.toml`](../config/redis.toml) are small examples for
each kind of store. With [`schema.json`](../config/schema.json) an editor can complete and check the file: put
`#:schema ./schema.json` on its first line.

## Values

- **Durations** are strings with a unit: `\"250ms\"`, `\"90s\"`, `\"5m\"`, `\"1h30m\"`, `\"2d\"`.
- **Relative paths** start at the directory of the configuration file.
- **URLs** are https; http is for `localhost`, `127.0.0.1` and `[::1]` only. They have no user, password or
  fragment, and are written in ASCII (`xn--…` for international names).
- **Names** of apps, issuers, callers, admins and webhooks are up to 63 of `a-z 0-9 -` and begin with a
  letter or digit.

## Secrets are files

No secret is a value in this file or in the environment; the file names the files with the secrets. A secret
file must

- be a regular file of 1 byte to 64 KiB that does not end in a zero byte. A link may lead elsewhere inside its
  directory, as in a Kubernetes secret, but not outside;
- belong to root or to the daemon's user;
- be closed to everyone else: mode `0600` or less. Its group may read it (`0640`) if the daemon itself reads
  it that way: root owns the file, and the daemon is not root and is in the group (`fsGroup` in Kubernetes).
  systemd credentials are below `$CREDENTIALS_DIRECTORY`, `/run/credentials/tokenward.service` for a unit of
  that name, and may be readable for a group too.

A client secret or password is one line; a line end after it is not part of it.

## Environment overrides

`TOKENWARD__LISTEN__OPS__ADDRESS=0.0.0.0:9464` sets `listen.ops.address`. Two underscores separate names, and
case does not matter. `_` stands for `-` in the name of an app, an issuer, a caller or an admin, which must
be in the file. Items of a list are named by index: `TOKENWARD__LISTEN__LOCAL__1__ADDRESS=127.0.0.1:7071`,
`TOKENWARD__APPS__OUTLOOK__SCOPES__0=openid`. The index after the last one adds an item. A variable that
begins with `TOKENWARD__` and names no key is a mistake.

## Reload

The daemon checks once a second whether this file, or a file or directory that it names, has changed. An
editor's rename, a Kubernetes volume's swapped link and a mount that comes back all count. A file that has
stayed the same for a second is read again; SIGHUP and `tokenward reload` read everything at once. The whole
configuration is checked and built before anything is replaced. A mistake changes nothing: it is logged,
counted (`tokenward_config_reloads_total{outcome=\"failed\"}`) and printed by `tokenward reload`.

Live: `[apps]` with their credentials, `[issuers]`, `[callers]`, `[admins]`, `[limits]`, `[pages]`,
`[traces]`, `[webhooks]`, `store.serve_cached_for`, `listen.public.base_url`, the content of every
certificate and key file, and `log.level`. API keys, federated assertions, sealing keys, and the password
and certificates for Redis are checked by themselves and need no reload.

A change of these waits for a restart, and holds nothing else up: the addresses of listeners, how many there
are and whether they have TLS, `listen.issuer` and `log.format`. `tokenward reload` and `status` name what
waits.

A change of these is refused by name, with the whole reload: `[store]`'s address, `store.journal`,
`sealing.keyring` and `[audit]`.
";

/// Returns the reference page `docs/configuration.md`.
pub fn reference_page() -> String {
    let mut page = INTRODUCTION.to_owned();
    page.push_str("\n## Reference\n");
    for key in ROOT.keys {
        page_of_kind(&mut page, key.name, &key.kind);
    }
    page
}

fn page_of_kind(page: &mut String, path: &str, kind: &Kind) {
    match kind {
        Kind::Table(table) => page_of_table(page, &format!("[{path}]"), path, table),
        Kind::List(Kind::Table(table)) => page_of_table(page, &format!("[[{path}]]"), path, table),
        Kind::Map { table, .. } => {
            let path = format!("{path}.NAME");
            page_of_table(page, &format!("[{path}]"), &path, table);
        }
        // Plain values have their row in the table that contains them.
        _ => {}
    }
}

fn page_of_table(page: &mut String, title: &str, path: &str, table: &Table) {
    let plain = |kind: &Kind| !matches!(kind, Kind::Table(_) | Kind::Map { .. });
    // Writing to a String cannot fail.
    let _ = write!(page, "\n### `{title}`\n\n{}", wrapped("", "", table.doc));
    if table.keys.iter().any(|key| plain(&key.kind)) {
        page.push('\n');
    }
    for key in table.keys.iter().filter(|key| plain(&key.kind)) {
        let default = match key.presence {
            Presence::Required => "; **required**".to_owned(),
            Presence::Optional => String::new(),
            Presence::Default(text) => format!("; default `{text}`"),
        };
        let (what, doc) = (key.kind.what(), key.doc);
        page.push_str(&list_item(&format!("**`{}`** ({what}{default}). {doc}", key.name)));
    }
    for key in table.keys {
        page_of_kind(page, &format!("{path}.{}", key.name), &key.kind);
    }
}

/// Returns `text` as an item of a Markdown list, in lines of at most 120 characters.
pub fn list_item(text: &str) -> String {
    wrapped("- ", "  ", text)
}

/// Returns the words of `text` in lines of at most 120 characters, with what the first and the other lines
/// begin with.
fn wrapped(first: &str, others: &str, text: &str) -> String {
    const WIDTH: usize = 120;
    let (mut lines, mut line, mut is_empty) = (String::new(), first.to_owned(), true);
    for word in text.split_whitespace() {
        if !is_empty && line.chars().count() + 1 + word.chars().count() > WIDTH {
            lines.push_str(&line);
            lines.push('\n');
            others.clone_into(&mut line);
            is_empty = true;
        }
        if !is_empty {
            line.push(' ');
        }
        line.push_str(word);
        is_empty = false;
    }
    lines + &line + "\n"
}

#[cfg(test)]
mod tests {
    use std::path::{Path, PathBuf};

    use super::*;

    fn root() -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).to_owned()
    }

    #[expect(clippy::disallowed_methods, reason = "a test may be told to write")]
    fn up_to_date(path: &str, wanted: &str) {
        let path = root().join(path);
        if std::env::var("UPDATE_SCHEMA").is_ok() {
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(&path, wanted).unwrap();
        }
        let found = std::fs::read_to_string(&path).unwrap_or_default();
        assert!(
            found == wanted,
            "{} is out of date: UPDATE_SCHEMA=1 cargo test --lib config",
            path.display()
        );
    }

    #[test]
    fn the_schema_is_up_to_date() {
        up_to_date("config/schema.json", &json_schema());
    }

    #[test]
    fn the_reference_page_is_up_to_date() {
        up_to_date("docs/configuration.md", &reference_page());
    }

    #[test]
    fn the_examples_load_without_a_warning() {
        let mut seen = 0;
        for entry in std::fs::read_dir(root().join("config")).unwrap() {
            let path = entry.unwrap().path();
            if path.extension().is_some_and(|extension| extension == "toml") {
                let loaded = crate::config::load_file(&path, &Default::default())
                    .unwrap_or_else(|errors| panic!("{errors}"));
                assert_eq!(loaded.warnings, [], "{}", path.display());
                seen += 1;
            }
        }
        assert!(seen >= 3, "the examples are gone");
    }

    #[test]
    fn the_full_example_names_every_key() {
        let text = std::fs::read_to_string(root().join("config/tokenward.toml")).unwrap();
        fn walk(table: &Table, text: &str) {
            for key in table.keys {
                let found = text.lines().any(|line| {
                    line.split(|c: char| !c.is_ascii_alphanumeric() && c != '_').any(|word| word == key.name)
                });
                assert!(found, "{} is not in the example", key.name);
                match &key.kind {
                    Kind::Table(inner) | Kind::Map { table: inner, .. } => walk(inner, text),
                    Kind::List(Kind::Table(inner)) => walk(inner, text),
                    _ => {}
                }
            }
        }
        walk(&ROOT, &text);
    }
}
