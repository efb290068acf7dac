//! `keyring status`: the keys as the daemon knows them; if no daemon answers, the keys in the files.

use std::path::Path;
use std::sync::Arc;

use serde::Serialize;

use super::api_keys::{Hashed, HashedKey, say_hashed};
use super::daemon::name;
use super::{KeyShape, failed};
use crate::api::admin::wire;
use crate::cli::output::table;
use crate::cli::{Failure, World};
use crate::keyring::{Keyring, SealingKey, files};

/// A key as the daemon describes it, with the API keys that need it, which are read from the local files.
#[derive(Serialize)]
struct StatusKey<'a> {
    #[serde(flatten)]
    seen: &'a wire::SealingKey,
    api_keys: Vec<&'a HashedKey>,
}

impl<'a> StatusKey<'a> {
    fn new(seen: &'a wire::SealingKey, hashed: &'a Hashed) -> Self {
        StatusKey { seen, api_keys: hashed.get(&seen.id).into_iter().flatten().collect() }
    }
}

/// Adds the keys in local files that the daemon has not taken up, and reports a lasting difference.
pub(super) fn beside_files(mut seen: wire::Keyring, directory: &Path, world: &mut World) -> wire::Keyring {
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
    let names: Vec<String> = seen.replicas.iter().map(name).collect();
    for key in keys {
        if seen.keys.iter().any(|taken_up| taken_up.id == key.id && taken_up.created_at.is_some()) {
            continue;
        }
        seen.keys.retain(|named| named.id != key.id);
        seen.keys.push(wire::SealingKey {
            created_at: Some(key.created_at.rfc3339()),
            promoted_at: key.promoted_at.map(|at| at.rfc3339()),
            not_opened_by: names.clone(),
            id: key.id,
            ..wire::SealingKey::default()
        });
    }
    seen
}

pub(super) fn status(
    seen: &wire::Keyring,
    hashed: &Hashed,
    as_json: bool,
    world: &mut World,
) -> Result<(), Failure> {
    if as_json {
        let keys: Vec<StatusKey> = seen.keys.iter().map(|key| StatusKey::new(key, hashed)).collect();
        return world.output.json(&keys);
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
    world.output.report(&table(&headings, &rows))?;
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

pub(super) fn status_of_files(
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
    world.output.report(&table(&["ID", "CREATED", "PROMOTED", "PRIMARY"], &rows))?;
    say_hashed(hashed, world);
    Ok(())
}
