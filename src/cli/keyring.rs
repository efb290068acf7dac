//! `keyring`: sealing keys, in the directory that the configuration names. With or without a running daemon.

use std::os::unix::fs::MetadataExt;
use std::path::Path;

use clap::Subcommand;
use serde::Serialize;

use super::output::table;
use super::{ConfigPath, Failure, World};
use crate::keyring::{Keyring, KeyringError, SealingKey, files};

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
    /// List the sealing keys; never the keys themselves
    #[command(after_help = "Example:\n  tokenward keyring status")]
    Status {
        /// Print a list of {id, created_at, promoted_at, primary}
        #[arg(long)]
        json: bool,
    },
}

#[derive(Serialize)]
struct KeyShape {
    id: String,
    created_at: String,
    promoted_at: Option<String>,
    primary: bool,
}

impl KeyShape {
    fn new(key: &SealingKey, primary: bool) -> Self {
        KeyShape {
            id: key.id.clone(),
            created_at: key.created_at.rfc3339(),
            promoted_at: key.promoted_at.map(|at| at.rfc3339()),
            primary,
        }
    }
}

pub(super) fn run(command: &Command, config: &ConfigPath, world: &mut World) -> Result<(), Failure> {
    let loaded = config.load(world)?;
    let directory = &loaded.config.sealing.keyring;
    match command {
        Command::Add { json } => add(directory, *json, world),
        Command::Status { json } => status(directory, *json, world),
    }
}

fn failed(error: &KeyringError) -> Failure {
    Failure::failed(format!("sealing.keyring: {error}"))
}

fn add(directory: &Path, as_json: bool, world: &mut World) -> Result<(), Failure> {
    let key = files::add(directory, &*world.random, world.clock.now()).map_err(|error| failed(&error))?;
    let handed_over = hand_over(directory, &key.id);
    // Of an older ring nothing but the first key promotes itself, so a promoted new one is the primary.
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
    handed_over.map_err(|error| {
        Failure::failed(format!(
            "the key was made, but its file could not be given to the directory's owner: {error}"
        ))
        .hint(format!("chown it to the daemon's user: {}", file_of(directory, &key.id).display()))
    })
}

/// When root runs the command, the daemon's user must still be able to read the file.
fn hand_over(directory: &Path, id: &str) -> std::io::Result<()> {
    use rustix::fs::{Gid, Uid, chown};
    let owner = std::fs::metadata(directory)?;
    if rustix::process::geteuid().is_root() && owner.uid() != 0 {
        let (uid, gid) = (Uid::from_raw(owner.uid()), Gid::from_raw(owner.gid()));
        chown(file_of(directory, id), Some(uid), Some(gid))?;
    }
    Ok(())
}

fn file_of(directory: &Path, id: &str) -> std::path::PathBuf {
    directory.join(format!("{id}.key"))
}

fn status(directory: &Path, as_json: bool, world: &mut World) -> Result<(), Failure> {
    let ring: Keyring = files::open(directory).map_err(|error| failed(&error))?;
    let primary = ring.primary();
    let mut keys = ring.keys();
    keys.sort_by(|a, b| (a.created_at, &a.id).cmp(&(b.created_at, &b.id)));
    let shapes: Vec<KeyShape> = keys.iter().map(|key| KeyShape::new(key, key.id == primary.id)).collect();
    if as_json {
        return world.output.json(&shapes);
    }
    let rows: Vec<Vec<String>> = shapes
        .into_iter()
        .map(|key| {
            let promoted = key.promoted_at.unwrap_or_else(|| "-".to_owned());
            vec![key.id, key.created_at, promoted, if key.primary { "yes" } else { "no" }.to_owned()]
        })
        .collect();
    world.output.data(&table(&["ID", "CREATED", "PROMOTED", "PRIMARY"], &rows))
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
        assert!(status.out.lines().count() == 2 && status.out.trim_end().ends_with("yes"), "{}", status.out);
    }
}
