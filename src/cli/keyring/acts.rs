//! The changes to the keyring's files: add, promote and retire.

use std::path::Path;

use super::api_keys::{api_keys, listed};
use super::daemon::{Daemon, against, wait_for_primary, wait_until_opened};
use super::{KeyShape, failed};
use crate::api::admin::wire::SealingKeyVerdict;
use crate::cli::output::shown;
use crate::cli::{Failure, World, block_on};
use crate::config::{Config, StoreBackend};
use crate::keyring::{Keyring, KeyringError, files};

pub(super) fn add(directory: &Path, as_json: bool, world: &mut World) -> Result<(), Failure> {
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

pub(super) fn promote(
    config: &Config,
    id: &str,
    daemon: &Daemon,
    as_json: bool,
    world: &mut World,
) -> Result<(), Failure> {
    let directory = &config.sealing.keyring;
    ring_with(directory, id)?;
    match daemon {
        Daemon::Answers(client) => {
            let SealingKeyVerdict { may, reasons, .. } = block_on(async {
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
        Daemon::Silent if is_shared(config) => {
            return Err(Failure::failed(format!(
                "the key {id} is not promoted: nobody could say whether every replica can open it"
            ))
            .hint(
                "run the command where a daemon answers, or give --unchecked when you know that all of \
                them have the key",
            ));
        }
        Daemon::Silent | Daemon::NotAsked => {
            world.output.say("Nobody was asked whether every replica can open it.")
        }
    }
    let key = files::promote(directory, id, world.clock.now()).map_err(|error| failed(&error))?;
    if as_json {
        world.output.json(&KeyShape::new(&key, true))?;
    } else {
        world.output.data(&key.id)?;
    }
    let Daemon::Answers(client) = daemon else {
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

pub(super) fn retire(
    config: &Config,
    id: &str,
    daemon: &Daemon,
    as_json: bool,
    world: &mut World,
) -> Result<(), Failure> {
    let directory = &config.sealing.keyring;
    let ring = ring_with(directory, id)?;
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
    match daemon {
        Daemon::Answers(client) => {
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
        Daemon::Silent => {
            return Err(not("nobody could say whether anything is still sealed with it").hint(
                "run the command where a daemon answers; --unchecked removes the key all the same, and its \
                 records can then never be opened",
            ));
        }
        Daemon::NotAsked => world.output.say("Nobody was asked whether anything is still sealed with it."),
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

/// Opens the keyring, which must have the key.
fn ring_with(directory: &Path, id: &str) -> Result<Keyring, Failure> {
    let ring = files::open(directory).map_err(|error| failed(&error))?;
    if ring.key(id).is_none() {
        return Err(failed(&no_such_key(directory, id, &ring)));
    }
    Ok(ring)
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
