//! `keyring`: sealing keys in the directory that the configuration names. Only the running daemon knows what
//! is in the store, so the command asks it before a key is promoted or retired, and says so if it cannot.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use clap::Subcommand;
use http::Method;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::client::{Client, ClientError, DEADLINE, ReachArgs};
use super::output::{shown, table};
use super::{ConfigPath, Failure, World, block_on};
use crate::callers::key_file;
use crate::config::{Authenticate, Config, StoreBackend};
use crate::keyring::{KeyId, Keyring, KeyringError, SealingKey, files};
use crate::secret_file::is_of_systemd;

/// Time for a daemon on the same machine to answer.
const ASK_DAEMON: Duration = Duration::from_secs(2);
/// Time between two polls of the daemon's progress.
const LOOK: Duration = Duration::from_secs(1);
/// Polls to wait for replicas to take up a change; those on the same directory do so within two seconds.
const TAKE_UP: u32 = 8;
/// Polls to wait for a new key to be taken up.
const OPENED: u32 = 3;
/// Most equal polls of a rewrapping replica before that counts as no progress: it counts every half a minute.
const STUCK: u32 = 90;

/// What to do with the keyring.
#[derive(Subcommand)]
pub(super) enum Command {
    /// Make a sealing key; the first one of a keyring seals, any other opens until it is promoted
    #[command(after_help = "Example:\n  tokenward keyring add")]
    Add {
        /// Print {id, created_at, promoted_at, primary}
        #[arg(long)]
        json: bool,
    },
    /// List the sealing keys, what they sealed and who can open them; never the keys themselves
    #[command(after_help = "Example:\n  tokenward keyring status")]
    Status {
        /// Print a list of {id, created_at, promoted_at, primary, records, …}
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        reach: ReachArgs,
    },
    /// Make a key the one that seals; every replica must have it. To go back, promote the earlier key again
    #[command(after_help = "Example:\n  tokenward keyring promote 2026-11-23-d1166f")]
    Promote {
        /// The key's id, as `status` shows it
        id: String,
        /// Do not ask the daemon whether every replica can open it
        #[arg(long)]
        unchecked: bool,
        /// Print {id, created_at, promoted_at, primary}
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        reach: ReachArgs,
    },
    /// Rewrap the records of other keys with the primary, and wait until it is done
    #[command(
        after_help = "Example:\n  tokenward keyring rewrap\n\nIt goes on when this command is stopped."
    )]
    Rewrap {
        /// Print {left, passing, resealed, refused} at the end
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        reach: ReachArgs,
    },
    /// Remove a key that nothing needs any more
    #[command(after_help = "Example:\n  tokenward keyring retire 2026-11-23-d1166f")]
    Retire {
        /// The key's id, as `status` shows it
        id: String,
        /// Do not ask the daemon whether anything is still sealed with it
        #[arg(long)]
        unchecked: bool,
        /// Print {id, created_at, promoted_at, primary}
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        reach: ReachArgs,
    },
}

#[derive(Serialize)]
struct KeyShape {
    id: String,
    created_at: Option<String>,
    promoted_at: Option<String>,
    primary: bool,
    /// Only in `status`.
    #[serde(skip_serializing_if = "Option::is_none")]
    api_keys: Option<Vec<HashedKey>>,
}

/// An API key whose hash was made with a sealing key, like those from before 0.2.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
struct HashedKey {
    caller: String,
    id: String,
}

/// Live API keys by the sealing key they need.
type Hashed = BTreeMap<KeyId, BTreeSet<HashedKey>>;

impl KeyShape {
    fn new(key: &SealingKey, primary: bool) -> Self {
        KeyShape {
            id: key.id.clone(),
            created_at: Some(key.created_at.rfc3339()),
            promoted_at: key.promoted_at.map(|at| at.rfc3339()),
            primary,
            api_keys: None,
        }
    }
}

/// The parts of the daemon's keyring answer that are used here.
#[derive(Deserialize)]
struct Seen {
    keys: Vec<SeenKey>,
    replicas: Vec<SeenReplica>,
    rewrap: SeenRewrap,
}

#[derive(Default, Serialize, Deserialize)]
struct SeenKey {
    id: String,
    created_at: Option<String>,
    promoted_at: Option<String>,
    primary: bool,
    records: Option<u64>,
    passing: Option<u64>,
    counted_at: Option<String>,
    none_since: Option<String>,
    #[serde(default)]
    counted_away: bool,
    opened_by: Vec<String>,
    not_opened_by: Vec<String>,
    /// Comes from local files, not from the daemon.
    #[serde(default)]
    api_keys: Vec<HashedKey>,
}

#[derive(Deserialize)]
struct SeenReplica {
    id: String,
    host: String,
    primary: String,
}

#[derive(Deserialize)]
struct SeenRewrap {
    left: u64,
    counts: u64,
    running: bool,
    waits_for: Option<String>,
    resealed: u64,
    refused: u64,
}

/// The daemon's answer about whether an act is allowed.
#[derive(Deserialize)]
struct Word {
    may: bool,
    reasons: Vec<String>,
    /// The latest time at which waiting alone will allow it.
    #[serde(default)]
    gone_by: Option<String>,
}

pub(super) fn run(command: &Command, config: &ConfigPath, world: &mut World) -> Result<(), Failure> {
    if let Command::Rewrap { json, reach } = command {
        return rewrap(&reach.admin(config, world)?, *json, world);
    }
    let loaded = config.load(world)?;
    let directory = &loaded.config.sealing.keyring;
    let act = match command {
        Command::Add { .. } => Some("made"),
        Command::Promote { .. } => Some("promoted"),
        Command::Retire { .. } => Some("retired"),
        Command::Status { .. } | Command::Rewrap { .. } => None,
    };
    let credentials_directory = world.env.get("CREDENTIALS_DIRECTORY").map(Path::new);
    if let Some(act) = act.filter(|_| is_of_systemd(directory, credentials_directory)) {
        return Err(Failure::failed(format!(
            "no key is {act}: {} is systemd's copy of a keyring, made anew whenever the unit starts",
            directory.display()
        ))
        .hint(
            "give --config one whose sealing.keyring is the folder that the unit's \
            LoadCredential=keyring: names, and restart the unit after that",
        ));
    }
    match command {
        Command::Add { json } => add(directory, *json, world),
        Command::Status { json, reach } => {
            let seen = asked(reach, config, world)?;
            let hashed = hashed(&loaded.config, world);
            match seen {
                Ok(seen) => status(beside_files(seen, directory, world), &hashed, *json, world),
                Err(why) => status_of_files(directory, &why, &hashed, *json, world),
            }
        }
        Command::Promote { id, unchecked, json, reach } => {
            let daemon = if *unchecked { None } else { reachable(reach, config, world)? };
            promote(&loaded.config, id, (daemon, *unchecked), *json, world)
        }
        Command::Retire { id, unchecked, json, reach } => {
            let daemon = if *unchecked { None } else { reachable(reach, config, world)? };
            retire(&loaded.config, id, (daemon, *unchecked), *json, world)
        }
        Command::Rewrap { .. } => Ok(()),
    }
}

fn failed(error: &KeyringError) -> Failure {
    Failure::failed(format!("sealing.keyring: {error}"))
}

fn add(directory: &Path, as_json: bool, world: &mut World) -> Result<(), Failure> {
    let key = files::add(directory, &*world.random, world.clock.now()).map_err(|error| failed(&error))?;
    // In an older ring only the first key promotes itself, so a promoted new one is the primary.
    let primary = key.promoted_at.is_some();
    if as_json {
        world.output.json(&KeyShape::new(&key, primary))?;
    } else {
        world.output.data(&key.id)?;
    }
    let role = if primary { "seals from now on" } else { "opens, and seals nothing until it is promoted" };
    world.output.say(&format!(
        "Sealing key {} in {}; it {role}. Back it up now: what it seals cannot be opened without it.",
        key.id,
        directory.display()
    ));
    Ok(())
}

/// Returns the daemon's answer, or why none answers.
fn asked(reach: &ReachArgs, config: &ConfigPath, world: &mut World) -> Result<Result<Seen, String>, Failure> {
    let client = match reach.admin(config, world) {
        Ok(client) => client,
        // An explicit endpoint or key must work.
        Err(failure) if reach.endpoint.is_some() || reach.key_file.is_some() => return Err(failure),
        Err(failure) => return Ok(Err(failure.message)),
    };
    block_on(async {
        match client.ask(Method::GET, KEYRING, None, ASK_DAEMON).await {
            Ok(answer) => Ok(Ok(read(answer)?)),
            Err(error) if is_silence(&error) => Ok(Err(error.to_string())),
            Err(error) => Err(error.into()),
        }
    })
}

/// Returns a client of the daemon, if one answers.
fn reachable(reach: &ReachArgs, config: &ConfigPath, world: &mut World) -> Result<Option<Client>, Failure> {
    match asked(reach, config, world)? {
        Ok(_) => Ok(Some(reach.admin(config, world)?)),
        Err(why) => {
            world.output.say(&format!("Could not ask a running daemon: {why}."));
            Ok(None)
        }
    }
}

/// Returns true if nobody answered, whatever the reason.
fn is_silence(error: &ClientError) -> bool {
    match error {
        ClientError::Unreachable { .. } | ClientError::Broken { .. } | ClientError::TimedOut { .. } => true,
        ClientError::Foreign { .. } | ClientError::Refused(_) => false,
    }
}

const KEYRING: &str = "/admin/v1/keyring";

fn read<T: serde::de::DeserializeOwned>(answer: Value) -> Result<T, Failure> {
    serde_json::from_value(answer).map_err(|_| {
        Failure::failed("the daemon's answer is not what this command knows")
            .hint("does the daemon have another version than the command?")
    })
}

/// Returns the reasons against an act; empty if it is allowed.
async fn against(client: &Client, act: &str, id: &str) -> Result<Word, Failure> {
    let path = format!("{KEYRING}/{act}");
    let answer = client.ask(Method::POST, &path, Some(&json!({ "key": id })), DEADLINE).await?;
    read(answer)
}

/// Adds the keys in local files that the daemon has not taken up, and reports a lasting difference.
fn beside_files(mut seen: Seen, directory: &Path, world: &mut World) -> Seen {
    let keys = match files::read(directory) {
        Ok(keys) => keys,
        Err(error) => {
            world.output.say(&format!("The daemon keeps the keys from before in force: {error}."));
            return seen;
        }
    };
    for key in seen.keys.iter().filter(|key| key.created_at.is_some()) {
        if !keys.iter().any(|file| file.id == key.id) {
            world.output.say(&format!(
                "The file of the key {} is gone; the daemon keeps the key until nothing needs it.",
                key.id
            ));
        }
    }
    let names: Vec<String> =
        seen.replicas.iter().map(|replica| format!("{} ({})", replica.host, replica.id)).collect();
    for key in keys {
        if seen.keys.iter().any(|taken_up| taken_up.id == key.id && taken_up.created_at.is_some()) {
            continue;
        }
        seen.keys.retain(|named| named.id != key.id);
        seen.keys.push(SeenKey {
            created_at: Some(key.created_at.rfc3339()),
            promoted_at: key.promoted_at.map(|at| at.rfc3339()),
            not_opened_by: names.clone(),
            id: key.id,
            ..SeenKey::default()
        });
    }
    seen
}

fn status(mut seen: Seen, hashed: &Hashed, as_json: bool, world: &mut World) -> Result<(), Failure> {
    for key in &mut seen.keys {
        key.api_keys = hashed.get(&key.id).into_iter().flatten().cloned().collect();
    }
    if as_json {
        return world.output.json(&seen.keys);
    }
    let number = |number: Option<u64>| number.map_or("-".to_owned(), |number| number.to_string());
    let text = |text: &Option<String>| text.clone().unwrap_or_else(|| "-".to_owned());
    let rows: Vec<Vec<String>> = seen
        .keys
        .iter()
        .map(|key| {
            let live = key.opened_by.len() + key.not_opened_by.len();
            let opened = match key.not_opened_by.len() {
                0 => "all".to_owned(),
                _ if key.opened_by.is_empty() => "none yet".to_owned(),
                _ => format!("{} of {live}, not {}", key.opened_by.len(), key.not_opened_by.join(", ")),
            };
            let primary = if key.primary { "yes" } else { "no" }.to_owned();
            let (created, promoted) = (text(&key.created_at), text(&key.promoted_at));
            let counted = text(&key.counted_at);
            vec![key.id.clone(), created, promoted, primary, number(key.records), counted, opened]
        })
        .collect();
    let headings = ["ID", "CREATED", "PROMOTED", "PRIMARY", "RECORDS", "COUNTED", "OPENED BY"];
    world.output.data(&table(&headings, &rows))?;
    say_hashed(hashed, world);
    for key in seen.keys.iter().filter(|key| key.created_at.is_none()) {
        let records = key.records.unwrap_or(0);
        world.output.say(&format!(
            "{records} records need the key {}, which is not there: restore its file from its backup.",
            key.id
        ));
    }
    if seen.rewrap.left > 0 {
        let why =
            seen.rewrap.waits_for.as_deref().map(|why| format!("; it waits: {why}")).unwrap_or_default();
        world.output.say(&format!("{} records must still be rewrapped{why}.", seen.rewrap.left));
    }
    Ok(())
}

fn status_of_files(
    directory: &Path,
    why: &str,
    hashed: &Hashed,
    as_json: bool,
    world: &mut World,
) -> Result<(), Failure> {
    let ring: Keyring = files::open(directory).map_err(|error| failed(&error))?;
    let primary = ring.primary();
    let mut keys = ring.keys();
    keys.sort_by(|a, b| (a.created_at, &a.id).cmp(&(b.created_at, &b.id)));
    let shape = |key: &Arc<SealingKey>| {
        let api_keys = hashed.get(&key.id).into_iter().flatten().cloned().collect();
        KeyShape { api_keys: Some(api_keys), ..KeyShape::new(key, key.id == primary.id) }
    };
    let shapes: Vec<KeyShape> = keys.iter().map(shape).collect();
    world.output.say(&format!("Could not ask a running daemon, so this is what the files say: {why}."));
    if as_json {
        return world.output.json(&shapes);
    }
    let rows: Vec<Vec<String>> = shapes
        .into_iter()
        .map(|key| {
            let or_dash = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
            let primary = if key.primary { "yes" } else { "no" }.to_owned();
            vec![key.id, or_dash(key.created_at), or_dash(key.promoted_at), primary]
        })
        .collect();
    world.output.data(&table(&["ID", "CREATED", "PROMOTED", "PRIMARY"], &rows))?;
    say_hashed(hashed, world);
    Ok(())
}

/// Reports which API keys need which sealing key.
fn say_hashed(hashed: &Hashed, world: &mut World) {
    for (id, keys) in hashed {
        world.output.say(&format!(
            "API keys from before 0.2 work only while the sealing key {id} is there: {}. Replace them \
             before it is retired.",
            listed(keys)
        ));
    }
}

fn listed(keys: &BTreeSet<HashedKey>) -> String {
    keys.iter().map(|key| format!("{} {}", key.caller, key.id)).collect::<Vec<_>>().join(", ")
}

fn promote(
    config: &Config,
    id: &str,
    (daemon, unchecked): (Option<Client>, bool),
    as_json: bool,
    world: &mut World,
) -> Result<(), Failure> {
    let directory = &config.sealing.keyring;
    let ring = files::open(directory).map_err(|error| failed(&error))?;
    if ring.key(id).is_none() {
        return Err(failed(&no_such_key(directory, id, &ring)));
    }
    match &daemon {
        Some(client) => {
            let Word { may, reasons, .. } = block_on(async {
                wait_until_opened(client, id).await?;
                against(client, "promote", id).await
            })?;
            if !may {
                let failure =
                    Failure::failed(format!("the key {id} is not promoted: {}", reasons.join("; ")));
                return Err(failure.hint(
                    "copy the key's file into the keyring of each of them; it is taken up within a second. \
                     One that is gone is forgotten after a minute",
                ));
            }
        }
        None if is_shared(config) && !unchecked => {
            return Err(Failure::failed(format!(
                "the key {id} is not promoted: nobody could say whether every replica can open it"
            ))
            .hint(
                "run the command where a daemon answers, or give --unchecked when you know that all of \
                them have the key",
            ));
        }
        None => world.output.say("Nobody was asked whether every replica can open it."),
    }
    let key = files::promote(directory, id, world.clock.now()).map_err(|error| failed(&error))?;
    if as_json {
        world.output.json(&KeyShape::new(&key, true))?;
    } else {
        world.output.data(&key.id)?;
    }
    let Some(client) = &daemon else {
        world.output.say(&format!("The key {id} seals from now on, wherever its file says so."));
        return Ok(());
    };
    let others = block_on(wait_for_primary(client, id))?;
    if others.is_empty() {
        world.output.say(&format!(
            "Every replica seals with {id} now, and the records of other keys are being rewrapped: see \
             `tokenward keyring rewrap`."
        ));
    } else {
        world.output.say(&format!(
            "Not every replica seals with {id} yet: {}. Where the keyring is another directory, promote it \
             there too; nothing is rewrapped before all agree.",
            others.join(", ")
        ));
    }
    Ok(())
}

/// Waits a moment for a new key: replicas on its directory take it up within a second, and report it.
async fn wait_until_opened(client: &Client, id: &str) -> Result<(), Failure> {
    for _ in 0..OPENED {
        let seen: Seen = read(client.get(KEYRING).await?)?;
        let is_opened = |key: &SeenKey| key.id == id && key.not_opened_by.is_empty();
        if seen.keys.iter().any(is_opened) {
            break;
        }
        tokio::time::sleep(LOOK).await;
    }
    Ok(())
}

/// Waits for all replicas to seal with a key, as long as that takes on one directory. Returns those that do
/// not yet.
async fn wait_for_primary(client: &Client, id: &str) -> Result<Vec<String>, Failure> {
    let mut others = Vec::new();
    for _ in 0..TAKE_UP {
        tokio::time::sleep(LOOK).await;
        let seen: Seen = read(client.get(KEYRING).await?)?;
        let other = seen.replicas.into_iter().filter(|replica| replica.primary != id);
        others = other.map(|replica| format!("{} ({})", replica.host, replica.id)).collect();
        if others.is_empty() {
            break;
        }
    }
    Ok(others)
}

fn rewrap(client: &Client, as_json: bool, world: &mut World) -> Result<(), Failure> {
    let seen: Seen = block_on(async {
        let before: Seen = read(client.get(KEYRING).await?)?;
        client.ask(Method::POST, &format!("{KEYRING}/rewrap"), None, DEADLINE).await?;
        let (mut is_counted, mut said, mut same) = (false, None, 0);
        loop {
            tokio::time::sleep(LOOK).await;
            let seen: Seen = read(client.get(KEYRING).await?)?;
            // A count from before the request says nothing.
            is_counted |= seen.rewrap.counts != before.rewrap.counts;
            if is_counted && seen.rewrap.left == 0 && !seen.rewrap.running {
                return Ok(seen);
            }
            let SeenRewrap { left, running, resealed, refused, .. } = seen.rewrap;
            if is_counted && !running && refused > 0 && left <= refused {
                return Err(Failure::failed(format!(
                    "{refused} records do not open and were left unchanged"
                ))
                .hint("the daemon's log names them: restore the key's file, or delete those connections"));
            }
            let progress = (left, resealed, seen.rewrap.waits_for.clone());
            if said.as_ref() == Some(&progress) {
                same += 1;
                if same >= STUCK {
                    return Err(Failure::failed(format!(
                        "{left} records are left, and there is no progress"
                    ))
                    .hint("look at the daemon's log, and at `tokenward keyring status`"));
                }
                world.output.dot();
                continue;
            }
            same = 0;
            match (&seen.rewrap.waits_for, running) {
                (Some(why), _) => world.output.say(&format!("Waits: {why}.")),
                (None, true) => {
                    world.output.say(&format!("{resealed} records rewrapped, {left} counted before."))
                }
                (None, false) => world.output.say(&format!("{left} records are left.")),
            }
            said = Some(progress);
        }
    })?;
    let others = seen.keys.iter().filter(|key| !key.primary);
    let passing: u64 = others.filter_map(|key| key.passing).sum();
    let SeenRewrap { left, resealed, refused, .. } = seen.rewrap;
    if as_json {
        let shape = json!({ "left": left, "passing": passing, "resealed": resealed, "refused": refused });
        world.output.json(&shape)?;
    }
    world.output.say("All long-lived records are sealed with the primary.");
    if passing > 0 {
        world.output.say(&format!(
            "{passing} short-lived records still need other keys, and expire by themselves; a key can be \
             retired after that."
        ));
    }
    Ok(())
}

fn retire(
    config: &Config,
    id: &str,
    (daemon, unchecked): (Option<Client>, bool),
    as_json: bool,
    world: &mut World,
) -> Result<(), Failure> {
    let directory = &config.sealing.keyring;
    let ring = files::open(directory).map_err(|error| failed(&error))?;
    if ring.key(id).is_none() {
        return Err(failed(&no_such_key(directory, id, &ring)));
    }
    let not = |why: &str| Failure::failed(format!("the key {id} is not retired: {why}"));
    if ring.primary().id == id {
        return Err(not("it is the primary").hint("promote another key first: tokenward keyring promote ID"));
    }
    if let Some(hashed) = api_keys(config, world)?.get(id) {
        let list = listed(hashed);
        return Err(not(&format!("API keys from before 0.2 are known by hashes made with it: {list}")).hint(
            "replace each first: `tokenward callers add-key CALLER`, hand the new key over, `tokenward \
             callers retire-key CALLER ID`",
        ));
    }
    match &daemon {
        Some(client) => {
            let word = block_on(against(client, "retire", id))?;
            if !word.may {
                let hint = match &word.gone_by {
                    Some(at) => format!("there is nothing to do but wait: try again after {}", shown(at)),
                    None => "`tokenward keyring status` shows what is left, and `tokenward keyring rewrap` \
                        rewraps what does not expire by itself"
                        .to_owned(),
                };
                return Err(not(&word.reasons.join("; ")).hint(hint));
            }
        }
        None if !unchecked => {
            return Err(not("nobody could say whether anything is still sealed with it").hint(
                "run the command where a daemon answers; --unchecked removes the key all the same, and its \
                 records can then never be opened",
            ));
        }
        None => world.output.say("Nobody was asked whether anything is still sealed with it."),
    }
    let key = files::retire(directory, id).map_err(|error| failed(&error))?;
    if as_json {
        world.output.json(&KeyShape::new(&key, false))?;
    }
    world.output.say(&format!(
        "The key {id} is retired. Keep its backup for as long as you keep backups of the store: they need it."
    ));
    Ok(())
}

/// Returns the live API keys whose hashes were made with a sealing key.
fn api_keys(config: &Config, world: &World) -> Result<Hashed, Failure> {
    let now = world.clock.now();
    let callers = config.callers.iter().map(|(name, caller)| (name, &caller.authenticate));
    let admins = config.admins.iter().map(|(name, admin)| (name, &admin.authenticate));
    let mut found = Hashed::new();
    for (name, ways) in callers.chain(admins) {
        for way in ways {
            let Authenticate::ApiKeys(path) = way else { continue };
            let keys = key_file::list(path).map_err(|error| Failure::failed(error.to_string()))?;
            for key in keys.into_iter().filter(|key| key.is_live(now)) {
                let Some(sealing_key) = key.sealing_key else { continue };
                let hashed = HashedKey { caller: name.clone(), id: key.id };
                found.entry(sealing_key).or_default().insert(hashed);
            }
        }
    }
    Ok(found)
}

/// Like [`api_keys`], for `status`: unreadable files are reported, and the rest is still shown.
fn hashed(config: &Config, world: &mut World) -> Hashed {
    api_keys(config, world).unwrap_or_else(|failure| {
        world.output.say(&format!("Whether API keys need a sealing key is not known: {}.", failure.message));
        Hashed::new()
    })
}

fn is_shared(config: &Config) -> bool {
    matches!(config.store.backend, StoreBackend::Redis(_))
}

fn no_such_key(directory: &Path, id: &str, ring: &Keyring) -> KeyringError {
    KeyringError::NoSuchKey {
        place: directory.display().to_string(),
        key: id.to_owned(),
        ids: ring.keys().iter().map(|key| key.id.clone()).collect(),
    }
}

#[cfg(test)]
mod tests {
    use crate::cli::testing::Scene;

    #[test]
    fn the_first_key_is_primary_and_an_empty_ring_says_what_to_do() {
        let scene = Scene::new();
        let config = scene.file("t.toml", "[sealing]\nkeyring = \"ring\"\n", 0o600);
        let missing = scene.run(&["keyring", "status", "--config", &config]);
        assert!(missing.code == 1 && missing.err.contains("sealing.keyring"), "{}", missing.err);
        std::fs::create_dir(scene.path("ring")).expect("a directory");
        let empty = scene.run(&["keyring", "status", "--config", &config]);
        assert!(empty.code == 1 && empty.err.contains("tokenward keyring add"), "{}", empty.err);
        let added = scene.run(&["keyring", "add", "--config", &config]);
        assert_eq!((added.code, added.out.lines().count()), (0, 1), "{}", added.err);
        assert!(added.err.contains("seals from now on"));
        let status = scene.run(&["keyring", "status", "--config", &config]);
        assert!(status.err.contains("what the files say"), "{}", status.err);
        assert!(status.out.lines().count() == 2 && status.out.trim_end().ends_with("yes"), "{}", status.out);
    }

    #[test]
    fn without_a_daemon_files_are_promoted_and_back_unless_others_use_the_store_too() {
        let scene = Scene::new();
        let config = scene.file("t.toml", "[sealing]\nkeyring = \"ring\"\n", 0o600);
        let run = |words: &[&str]| scene.run(&[words, &["--config", &config]].concat());
        let id = |words: &[&str]| run(words).out.trim().to_owned();
        let (first, second) = (id(&["keyring", "add"]), id(&["keyring", "add"]));
        let primary = || {
            let keys = run(&["keyring", "status", "--json"]).json();
            let keys = keys.as_array().expect("a list").clone();
            keys.iter()
                .find(|key| key["primary"] == true)
                .map(|key| key["id"].as_str().expect("id").to_owned())
        };
        for id in [&second, &first] {
            let promoted = run(&["keyring", "promote", id]);
            assert_eq!((promoted.code, promoted.out.trim()), (0, id.as_str()), "{}", promoted.err);
            assert!(promoted.err.contains("Could not ask"), "{}", promoted.err);
            assert_eq!(primary().as_ref(), Some(id));
        }
        let unknown = run(&["keyring", "promote", "nobody"]);
        assert!(unknown.code == 1 && unknown.err.contains(&second), "{}", unknown.err);
        // Nobody can say what is sealed with it.
        let refused = run(&["keyring", "retire", &second]);
        assert!(refused.code == 1 && refused.err.contains("--unchecked"), "{}", refused.err);
        let refused = run(&["keyring", "retire", &first, "--unchecked"]);
        assert!(refused.code == 1 && refused.err.contains("is the primary"), "{}", refused.err);
        assert_eq!(run(&["keyring", "retire", &second, "--unchecked"]).code, 0);

        let shared =
            "[sealing]\nkeyring = \"ring\"\n[store]\nkind = \"redis\"\nurl = \"redis://127.0.0.1:1\"\n";
        let shared = scene.file("shared.toml", shared, 0o600);
        let third = scene.run(&["keyring", "add", "--config", &shared]).out.trim().to_owned();
        let refused = scene.run(&["keyring", "promote", &third, "--config", &shared]);
        assert!(refused.code == 1 && refused.err.contains("--unchecked"), "{}", refused.err);
        assert_eq!(primary().as_ref(), Some(&first));
        assert_eq!(scene.run(&["keyring", "promote", &third, "--unchecked", "--config", &shared]).code, 0);
    }

    #[test]
    fn systemd_s_copy_is_not_written_to() {
        let scene = Scene::new();
        for ring in ["/run/credentials/tokenward.service".to_owned(), scene.path("copy")] {
            let config = scene.file("t.toml", &format!("[sealing]\nkeyring = \"{ring}\"\n"), 0o600);
            let copy = scene.path("copy");
            for words in [&["add"][..], &["promote", "x", "--unchecked"], &["retire", "x", "--unchecked"]] {
                let words = [&["keyring"], words, &["--config", &config]].concat();
                let refused = scene.run_in(&words, &[("CREDENTIALS_DIRECTORY", &copy)]);
                assert_eq!(refused.code, 1);
                assert!(
                    refused.err.contains("is systemd's copy") && refused.err.contains(&ring),
                    "{}",
                    refused.err
                );
                assert!(refused.err.contains("LoadCredential=") && refused.err.contains("restart the unit"));
            }
            assert!(!std::path::Path::new(&ring).exists(), "nothing is made");
            let status = scene.run(&["keyring", "status", "--config", &config]);
            assert!(!status.err.contains("systemd's copy"), "{}", status.err);
        }
    }

    #[test]
    fn a_key_is_retired_whatever_api_keys_there_are_unless_they_are_from_before() {
        let scene = Scene::new();
        let directory = scene.path("t");
        let made = scene.run(&["init", &directory, "--json"]).json();
        let (config, first) =
            (format!("{directory}/tokenward.toml"), made["keyring_key"].as_str().expect("id"));
        let run = |words: &[&str]| scene.run(&[words, &["--config", &config]].concat());
        let second = run(&["keyring", "add"]).out.trim().to_owned();
        assert_eq!(run(&["keyring", "promote", &second]).code, 0);
        let listed = || run(&["callers", "list-keys", "cli", "--json"]).json();
        let key = listed()[0]["id"].as_str().expect("id").to_owned();
        assert!(listed()[0]["sealing_key"].is_null());
        assert_eq!(run(&["keyring", "status", "--json"]).json()[0]["api_keys"], serde_json::json!([]));

        // As before 0.2.
        let keys = format!("{directory}/callers/cli.keys");
        let unkeyed = std::fs::read_to_string(&keys).expect("text");
        std::fs::write(&keys, unkeyed.replace(" sha256 ", &format!(" {first} "))).expect("written");
        assert_eq!(listed()[0]["sealing_key"], first);
        let status = run(&["keyring", "status"]);
        assert!(
            status.err.contains(&format!("the sealing key {first} is there: cli {key}")),
            "{}",
            status.err
        );
        let shown = run(&["keyring", "status", "--json"]).json();
        let first_shown = shown.as_array().expect("a list").iter().find(|one| one["id"] == first);
        let expected = serde_json::json!([{ "caller": "cli", "id": key }]);
        assert_eq!(first_shown.expect("there")["api_keys"], expected);
        assert!(run(&["callers", "list-keys", "cli"]).err.contains("is from before 0.2"));
        let refused = run(&["keyring", "retire", first, "--unchecked"]);
        assert!(refused.code == 1 && refused.err.contains(&format!("cli {key}")), "{}", refused.err);

        std::fs::write(&keys, unkeyed).expect("written");
        assert_eq!(run(&["keyring", "retire", first, "--unchecked"]).code, 0);
    }
}
