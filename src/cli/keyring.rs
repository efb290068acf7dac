//! `keyring`: sealing keys in the directory that the configuration names. Only the running daemon knows what
//! is in the store, so the command asks it before a key is promoted or retired, and says so if it cannot.

mod acts;
mod api_keys;
mod daemon;
mod rewrap;
mod status;
#[cfg(test)]
mod tests;

use std::path::Path;

use clap::Subcommand;
use serde::Serialize;

use self::api_keys::HashedKey;
use self::daemon::Daemon;
use super::client::ReachArgs;
use super::{ConfigPath, Failure, World};
use crate::keyring::{KeyringError, SealingKey};
use crate::secret_file::is_of_systemd;

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

/// A key as its file describes it, for `--json`.
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

pub(super) fn run(command: &Command, config: &ConfigPath, world: &mut World) -> Result<(), Failure> {
    if let Command::Rewrap { json, reach } = command {
        return rewrap::rewrap(&reach.admin(config, world)?, *json, world);
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
        Command::Add { json } => acts::add(directory, *json, world),
        Command::Status { json, reach } => {
            let seen = daemon::asked(reach, config, world)?;
            let hashed = api_keys::hashed(&loaded.config, world);
            match seen {
                Ok(seen) => {
                    status::status(&status::beside_files(seen, directory, world), &hashed, *json, world)
                }
                Err(why) => status::status_of_files(directory, &why, &hashed, *json, world),
            }
        }
        Command::Promote { id, unchecked, json, reach } => {
            let daemon = Daemon::find(*unchecked, reach, config, world)?;
            acts::promote(&loaded.config, id, &daemon, *json, world)
        }
        Command::Retire { id, unchecked, json, reach } => {
            let daemon = Daemon::find(*unchecked, reach, config, world)?;
            acts::retire(&loaded.config, id, &daemon, *json, world)
        }
        Command::Rewrap { .. } => Ok(()),
    }
}

/// The failure of an operation on the keyring's files.
fn failed(error: &KeyringError) -> Failure {
    Failure::failed(format!("sealing.keyring: {error}"))
}
