//! `keyring rewrap`: starts the daemon's rewrapping, and follows it to its end.

use std::sync::Arc;
use std::time::Duration;

use serde_json::json;

use super::daemon::{seen, start_rewrap, until_next_poll};
use crate::api::admin::wire::{Keyring, Rewrap};
use crate::cli::client::Client;
use crate::cli::progress::pace;
use crate::cli::{Failure, World, block_on};

/// Most equal polls of a rewrapping replica before that counts as no progress: it counts every half a minute.
const STUCK: u32 = 90;

/// How far it is, and how long it will take at this pace.
fn line(left: u64, resealed: u64, took: Duration) -> String {
    let to_do = left.saturating_sub(resealed);
    let pace = match pace(resealed, to_do, took) {
        Some(pace) => format!(" ({pace})"),
        None => String::new(),
    };
    format!("{resealed} records rewrapped, {left} counted before{pace}.")
}

pub(super) fn rewrap(client: &Client, as_json: bool, world: &mut World) -> Result<(), Failure> {
    let clock = Arc::clone(&world.clock);
    let began = clock.monotonic();
    let seen: Keyring = block_on(async {
        let before = seen(client).await?;
        start_rewrap(client).await?;
        let (mut is_counted, mut said, mut same) = (false, None, 0);
        loop {
            until_next_poll().await;
            let seen = seen(client).await?;
            // A count from before the request says nothing.
            is_counted |= seen.rewrap.counts != before.rewrap.counts;
            if is_counted && seen.rewrap.left == 0 && !seen.rewrap.running {
                return Ok(seen);
            }
            let Rewrap { left, running, resealed, refused, .. } = seen.rewrap;
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
                (None, true) => world.output.say(&line(left, resealed, clock.monotonic() - began)),
                (None, false) => world.output.say(&format!("{left} records are left.")),
            }
            said = Some(progress);
        }
    })?;
    let others = seen.keys.iter().filter(|key| !key.primary);
    let passing: u64 = others.filter_map(|key| key.passing).sum();
    let Rewrap { left, resealed, refused, .. } = seen.rewrap;
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
