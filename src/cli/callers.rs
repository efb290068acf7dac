//! `callers`: API keys in the files that the configuration names, with or without a running daemon.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::Duration;

use clap::Subcommand;
use http::Method;
use serde::Serialize;
use serde_json::json;

use super::args::{caller_name, duration};
use super::client::{ReachArgs, read, target};
use super::output::table;
use super::{ConfigPath, Failure, World, block_on};
use crate::api::admin::wire::ApiKeys;
use crate::callers::key_file::{self, DEFAULT_LIFETIME, KeyFileError, KeyInfo};
use crate::config::{Authenticate, CallerConfig};
use crate::domain::id::CallerName;

/// Longest life of a key: longer than any key should live, and short enough for a year of four digits.
const LONGEST_LIFETIME: Duration = Duration::from_secs(100 * 365 * 86_400);

/// The callers of a configuration, by their names.
type Callers = BTreeMap<String, CallerConfig>;

/// Time for a daemon on the same machine to answer.
const ASK_DAEMON: Duration = Duration::from_secs(2);

/// What to do with a caller's keys.
#[derive(Subcommand)]
pub(super) enum Command {
    /// List the callers: how they prove who they are, what they may have, and when they last used a key
    #[command(after_help = "Example:\n  tokenward callers list")]
    List {
        /// Print a list of {caller, authenticate, apps, connect, keys, next_end, last_used_at}
        #[arg(long)]
        json: bool,
    },
    /// Make a key and print it, once; at most two are live at a time
    #[command(
        after_help = "Example:\n  tokenward callers add-key mail-sync --expires-in 90d > mail-sync.key"
    )]
    AddKey {
        /// The caller, as in [callers.CALLER]
        #[arg(value_parser = caller_name)]
        caller: CallerName,
        /// How long the key is accepted
        #[arg(long, value_name = "DURATION", default_value = "365d", value_parser = duration)]
        expires_in: Duration,
        /// Print {caller, id, key, expires_at}
        #[arg(long)]
        json: bool,
    },
    /// List a caller's keys; never the keys themselves
    #[command(after_help = "Example:\n  tokenward callers list-keys mail-sync")]
    ListKeys {
        /// The caller, as in [callers.CALLER]
        #[arg(value_parser = caller_name)]
        caller: CallerName,
        /// Print a list of {id, created_at, expires_at, last_used_at, sealing_key}
        #[arg(long)]
        json: bool,
    },
    /// Remove a key; it is refused within a second
    #[command(after_help = "Example:\n  tokenward callers retire-key mail-sync 2026-11-23-5f3a9c")]
    RetireKey {
        /// The caller, as in [callers.CALLER]
        #[arg(value_parser = caller_name)]
        caller: CallerName,
        /// The key's id, as `list-keys` shows it
        id: String,
        /// Print {caller, id}
        #[arg(long)]
        json: bool,
    },
}

pub(super) fn run(command: &Command, config: &ConfigPath, world: &mut World) -> Result<(), Failure> {
    // What only looks works beside a broken file.
    match command {
        Command::List { json } => {
            let callers = config.load_readable(world)?.callers;
            list_callers(&callers, config, *json, world)
        }
        Command::ListKeys { caller, json } => {
            let callers = config.load_readable(world)?.callers;
            let last_used = last_used(caller, config, world);
            list(&callers, caller, &last_used, *json, world)
        }
        Command::AddKey { caller, expires_in, json } => {
            let callers = config.load(world)?.config.callers;
            add(&callers, caller, (*expires_in).min(LONGEST_LIFETIME), *json, world)
        }
        Command::RetireKey { caller, id, json } => {
            let callers = config.load(world)?.config.callers;
            retire(&callers, caller, id, *json, world)
        }
    }
}

fn add(
    callers: &Callers,
    caller: &CallerName,
    lifetime: Duration,
    as_json: bool,
    world: &mut World,
) -> Result<(), Failure> {
    let path = key_files(callers, caller)?[0];
    let (key, info) = key_file::add(path, caller, &*world.random, world.clock.now(), lifetime)
        .map_err(|error| failed(&error, path))?;
    let expires_at = info.expires_at.rfc3339();
    if as_json {
        return world.output.json(&json!({
            "caller": caller.as_str(), "id": info.id, "key": key.expose(), "expires_at": expires_at,
        }));
    }
    let shown = world.output.data(key.expose());
    world.output.say(&format!(
        "Key {} of caller {caller}, until {expires_at}. It is shown this once and kept nowhere; only its \
         hash is in {}.",
        info.id,
        path.display()
    ));
    shown
}

/// Returns when each key was last used since the daemon's start. Empty if no daemon answers.
fn last_used(caller: &CallerName, config: &ConfigPath, world: &mut World) -> BTreeMap<String, String> {
    let reach = ReachArgs { key_file: None, endpoint: None };
    let Ok(client) = reach.admin_quietly(config, world) else { return BTreeMap::new() };
    let path = target(&["admin", "v1", "callers", caller.as_str(), "keys"], &[]);
    let asked = block_on(async { Ok(client.ask(Method::GET, &path, None, ASK_DAEMON).await?) });
    let Ok(answer) = asked else { return BTreeMap::new() };
    let ApiKeys { keys } = read(&answer).unwrap_or_default();
    keys.into_iter().filter_map(|key| Some((key.id, key.last_used_at?))).collect()
}

/// A caller, as a row.
#[derive(Serialize)]
struct Listed {
    caller: String,
    /// The words of `authenticate`.
    authenticate: Vec<&'static str>,
    /// The apps of its rules.
    apps: Vec<String>,
    /// True if it may connect accounts to one of them.
    connect: bool,
    /// API keys that work now; null where a key file cannot be read.
    keys: Option<usize>,
    /// When the first of them ends.
    next_end: Option<String>,
    /// When an API key was last used, since the daemon's start.
    last_used_at: Option<String>,
}

fn list_callers(
    callers: &Callers,
    path: &ConfigPath,
    as_json: bool,
    world: &mut World,
) -> Result<(), Failure> {
    let mut listed = Vec::new();
    for (name, settings) in callers {
        let mut keys: Option<Vec<KeyInfo>> = Some(Vec::new());
        for file in files_of(settings) {
            match key_file::list(file) {
                Ok(more) => keys = keys.map(|keys| keys.into_iter().chain(more).collect()),
                Err(error) => {
                    world.output.say(&format!("warning: {}", failed(&error, file).message));
                    keys = None;
                }
            }
        }
        let now = world.clock.now();
        let live = keys.map(|keys| keys.into_iter().filter(|key| key.is_live(now)).collect::<Vec<_>>());
        let next_end = live.iter().flatten().map(|key| key.expires_at).min();
        let has_keys = live.as_ref().is_none_or(|live| !live.is_empty());
        let used = match CallerName::parse(name) {
            Ok(caller) if has_keys => last_used(&caller, path, world),
            _ => BTreeMap::new(),
        };
        let words: BTreeSet<&str> = settings.authenticate.iter().map(|way| way.method().as_str()).collect();
        let apps: BTreeSet<&String> = settings.allow.iter().map(|rule| &rule.app).collect();
        listed.push(Listed {
            caller: name.clone(),
            authenticate: words.into_iter().collect(),
            apps: apps.into_iter().cloned().collect(),
            connect: settings.allow.iter().any(|rule| rule.connect),
            keys: live.map(|live| live.len()),
            next_end: next_end.map(|end| end.rfc3339()),
            last_used_at: used.into_values().max(),
        });
    }
    if as_json {
        return world.output.json(&listed);
    }
    if listed.is_empty() {
        world.output.say("The configuration has no callers: add a section [callers.NAME] for each service.");
        return Ok(());
    }
    let row = |one: &Listed| {
        let or_dash = |text: Option<String>| text.filter(|text| !text.is_empty()).unwrap_or("-".to_owned());
        vec![
            one.caller.clone(),
            one.authenticate.join(" "),
            or_dash(Some(one.apps.join(" "))),
            if one.connect { "yes" } else { "no" }.to_owned(),
            one.keys.map_or("?".to_owned(), |keys| keys.to_string()),
            or_dash(one.next_end.clone()),
            or_dash(one.last_used_at.clone()),
        ]
    };
    let rows: Vec<Vec<String>> = listed.iter().map(row).collect();
    let headings =
        ["CALLER", "AUTHENTICATES BY", "APPS", "CONNECTS", "LIVE KEYS", "NEXT END", "KEY LAST USED"];
    world.output.report(&table(&headings, &rows))
}

fn list(
    callers: &Callers,
    caller: &CallerName,
    last_used: &BTreeMap<String, String>,
    as_json: bool,
    world: &mut World,
) -> Result<(), Failure> {
    let mut keys: Vec<KeyInfo> = Vec::new();
    for path in key_files(callers, caller)? {
        keys.extend(key_file::list(path).map_err(|error| failed(&error, path))?);
    }
    if as_json {
        let list: Vec<_> = keys
            .iter()
            .map(|key| {
                json!({
                    "id": key.id,
                    "created_at": key.created_at.rfc3339(),
                    "expires_at": key.expires_at.rfc3339(),
                    "last_used_at": last_used.get(&key.id),
                    "sealing_key": key.sealing_key,
                })
            })
            .collect();
        return world.output.json(&list);
    }
    if keys.is_empty() {
        world
            .output
            .say(&format!("Caller {caller} has no key. Make one with `tokenward callers add-key {caller}`."));
        return Ok(());
    }
    let now = world.clock.now();
    let rows: Vec<Vec<String>> = keys
        .iter()
        .map(|key| {
            let state = if key.is_live(now) { "live" } else { "expired" };
            let used = last_used.get(&key.id).map_or("-", String::as_str);
            vec![
                key.id.clone(),
                key.created_at.rfc3339(),
                key.expires_at.rfc3339(),
                state.to_owned(),
                used.to_owned(),
            ]
        })
        .collect();
    world.output.report(&table(&["ID", "CREATED", "EXPIRES", "STATE", "LAST USED"], &rows))?;
    for key in keys.iter().filter(|key| key.is_live(now)) {
        if let Some(sealing_key) = &key.sealing_key {
            world.output.say(&format!(
                "The key {} is from before 0.2: it works only while the sealing key {sealing_key} is in the \
                 keyring. `tokenward callers add-key {caller}` makes one that needs no sealing key.",
                key.id
            ));
        }
    }
    Ok(())
}

fn retire(
    callers: &Callers,
    caller: &CallerName,
    id: &str,
    as_json: bool,
    world: &mut World,
) -> Result<(), Failure> {
    let paths = key_files(callers, caller)?;
    let holds = |path: &&Path| key_file::list(path).is_ok_and(|keys| keys.iter().any(|key| key.id == id));
    // If no file has it, the first one reports the existing ids.
    let path = paths.iter().copied().find(holds).unwrap_or(paths[0]);
    key_file::retire(path, id).map_err(|error| failed(&error, path))?;
    if as_json {
        return world.output.json(&json!({ "caller": caller.as_str(), "id": id }));
    }
    world.output.say(&format!(
        "Key {id} of caller {caller} is retired; a running daemon refuses it within a second."
    ));
    Ok(())
}

/// Returns the caller's key files; at least one.
fn key_files<'a>(callers: &'a Callers, caller: &CallerName) -> Result<Vec<&'a Path>, Failure> {
    let Some(settings) = callers.get(caller.as_str()) else {
        let known: Vec<String> = callers.keys().map(|name| format!("`{name}`")).collect();
        let failure = Failure::usage(format!("the configuration has no caller `{caller}`"));
        return Err(failure.hint(match known.len() {
            0 => format!("add a section [callers.{caller}] to it"),
            _ => format!("it has {}", known.join(", ")),
        }));
    };
    let paths: Vec<&Path> = files_of(settings).collect();
    if paths.is_empty() {
        return Err(Failure::usage(format!("caller `{caller}` has no file for API keys")).hint(format!(
            "add one to callers.{caller}.authenticate: {{ api_keys = \
             \"/etc/tokenward/callers/{caller}.keys\" }}"
        )));
    }
    Ok(paths)
}

fn files_of(settings: &CallerConfig) -> impl Iterator<Item = &Path> {
    settings.authenticate.iter().filter_map(|way| match way {
        Authenticate::ApiKeys(path) => Some(path.as_path()),
        Authenticate::UnixUser(_)
        | Authenticate::Spiffe(_)
        | Authenticate::San(_)
        | Authenticate::Jwt(_)
        | Authenticate::ClientAssertion(_) => None,
    })
}

fn failed(error: &KeyFileError, path: &Path) -> Failure {
    let failure = Failure::failed(error.to_string());
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() && !parent.exists() => failure.hint(format!(
            "make its directory first: install -d -m 0700 {} (owner: the daemon's user)",
            super::shell_word(parent)
        )),
        _ => failure,
    }
}

const _: () = assert!(DEFAULT_LIFETIME.as_secs() == 365 * 86_400, "the help says 365d");

#[cfg(test)]
mod tests {
    use crate::cli::testing::Scene;

    #[test]
    fn a_caller_without_a_key_file_is_a_mistake_of_the_configuration() {
        let scene = Scene::new();
        let config = scene.file("t.toml", "[callers.sync]\nauthenticate = [{ unix_user = 1 }]\n", 0o600);
        let refused = scene.run(&["callers", "list-keys", "sync", "--config", &config]);
        assert_eq!(refused.code, 2);
        assert!(refused.err.contains("callers.sync.authenticate") && refused.err.contains("api_keys"));
    }

    #[test]
    fn a_key_is_alone_on_standard_output() {
        let scene = Scene::new();
        let directory = scene.path("t");
        scene.run(&["init", &directory]);
        let config = format!("{directory}/tokenward.toml");
        let added = scene.run(&["callers", "add-key", "cli", "--expires-in", "2d", "--config", &config]);
        assert_eq!(added.out.lines().count(), 1);
        assert!(added.out.starts_with("twk_cli_") && !added.err.contains("twk_"), "{}", added.err);
        assert!(added.err.contains("2026-11-25T00:00:00Z"), "{}", added.err);
        let listed = scene.run(&["callers", "list-keys", "cli", "--config", &config]);
        assert!(listed.out.starts_with("ID") && listed.out.lines().count() == 3, "{}", listed.out);
    }
}
