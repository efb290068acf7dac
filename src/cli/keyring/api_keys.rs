//! API keys from before 0.2: their hashes were made with a sealing key, and are worthless without it.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use crate::callers::key_file;
use crate::cli::{Failure, World};
use crate::config::{Authenticate, Config};
use crate::keyring::KeyId;

/// An API key whose hash was made with a sealing key.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub(super) struct HashedKey {
    caller: String,
    id: String,
}

/// Live API keys by the sealing key they need.
pub(super) type Hashed = BTreeMap<KeyId, BTreeSet<HashedKey>>;

/// Returns the live API keys whose hashes were made with a sealing key.
pub(super) fn api_keys(config: &Config, world: &World) -> Result<Hashed, Failure> {
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
pub(super) fn hashed(config: &Config, world: &mut World) -> Hashed {
    api_keys(config, world).unwrap_or_else(|failure| {
        world.output.say(&format!("Whether API keys need a sealing key is not known: {}.", failure.message));
        Hashed::new()
    })
}

/// Reports which API keys need which sealing key.
pub(super) fn say_hashed(hashed: &Hashed, world: &mut World) {
    for (id, keys) in hashed {
        world.output.say(&format!(
            "API keys from before 0.2 work only while the sealing key {id} is there: {}. Replace them \
             before it is retired.",
            listed(keys)
        ));
    }
}

pub(super) fn listed(keys: &BTreeSet<HashedKey>) -> String {
    keys.iter().map(|key| format!("{} {}", key.caller, key.id)).collect::<Vec<_>>().join(", ")
}
