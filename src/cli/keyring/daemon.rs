//! The running daemon's view of the keyring. Only the daemon knows which replicas can open a key, and which
//! keys the store still needs.

use std::time::Duration;

use http::Method;

use crate::api::admin::wire;
use crate::cli::client::{Client, ClientError, DEADLINE, ReachArgs, body, read};
use crate::cli::{ConfigPath, Failure, World, block_on};

/// Time for a daemon on the same machine to answer.
const ASK_DAEMON: Duration = Duration::from_secs(2);
/// Time between two polls of the daemon's progress.
const POLL_PAUSE: Duration = Duration::from_secs(1);
/// Polls to wait for replicas to take up a change; those on the same directory do so within two seconds.
const TAKE_UP: u32 = 8;
/// Polls to wait for a new key to be taken up.
const OPENED: u32 = 3;

const KEYRING: &str = "/admin/v1/keyring";

/// The daemon, as a change of the keyring's files finds it.
pub(super) enum Daemon {
    Answers(Client),
    /// Nobody answers.
    Silent,
    /// The operator gave `--unchecked`.
    NotAsked,
}

impl Daemon {
    /// Finds the daemon, and says why if it does not answer.
    pub(super) fn find(
        unchecked: bool,
        reach: &ReachArgs,
        config: &ConfigPath,
        world: &mut World,
    ) -> Result<Daemon, Failure> {
        if unchecked {
            return Ok(Daemon::NotAsked);
        }
        match asked(reach, config, world)? {
            Ok(_) => Ok(Daemon::Answers(reach.admin(config, world)?)),
            Err(why) => {
                world.output.say(&format!("Could not ask a running daemon: {why}."));
                Ok(Daemon::Silent)
            }
        }
    }
}

/// Returns the daemon's answer, or why none answers.
pub(super) fn asked(
    reach: &ReachArgs,
    config: &ConfigPath,
    world: &mut World,
) -> Result<Result<wire::Keyring, String>, Failure> {
    let client = match reach.admin(config, world) {
        Ok(client) => client,
        // An explicit endpoint or key must work.
        Err(failure) if reach.endpoint.is_some() || reach.key_file.is_some() => return Err(failure),
        Err(failure) => return Ok(Err(failure.message)),
    };
    block_on(async {
        match client.ask(Method::GET, KEYRING, None, ASK_DAEMON).await {
            Ok(answer) => Ok(Ok(read(&answer)?)),
            Err(error) if is_silence(&error) => Ok(Err(error.to_string())),
            Err(error) => Err(error.into()),
        }
    })
}

/// Returns true if nobody answered, whatever the reason.
fn is_silence(error: &ClientError) -> bool {
    match error {
        ClientError::Unreachable { .. } | ClientError::Broken { .. } | ClientError::TimedOut { .. } => true,
        ClientError::Foreign { .. } | ClientError::Refused(_) => false,
    }
}

/// Returns the answer of a daemon that must answer.
pub(super) async fn seen(client: &Client) -> Result<wire::Keyring, Failure> {
    read(&client.get(KEYRING).await?)
}

/// A replica's host and id, as the operator reads it.
pub(super) fn name(replica: &wire::Replica) -> String {
    format!("{} ({})", replica.host, replica.id)
}

/// Asks the daemon to rewrap all records with the primary.
pub(super) async fn start_rewrap(client: &Client) -> Result<(), Failure> {
    client.ask(Method::POST, &format!("{KEYRING}/rewrap"), None, DEADLINE).await?;
    Ok(())
}

/// Waits until the next poll of the daemon.
pub(super) async fn until_next_poll() {
    tokio::time::sleep(POLL_PAUSE).await;
}

/// Asks the daemon whether it allows an act on a key.
pub(super) async fn against(
    client: &Client,
    act: &str,
    id: &str,
) -> Result<wire::SealingKeyVerdict, Failure> {
    let path = format!("{KEYRING}/{act}");
    let named = wire::SealingKeyNamed { key: id.to_owned() };
    read(&client.ask(Method::POST, &path, Some(&body(&named)), DEADLINE).await?)
}

/// Waits a moment for a new key: replicas on its directory take it up within a second, and report it.
pub(super) async fn wait_until_opened(client: &Client, id: &str) -> Result<(), Failure> {
    for _ in 0..OPENED {
        let seen = seen(client).await?;
        let is_opened = |key: &wire::SealingKey| key.id == id && key.not_opened_by.is_empty();
        if seen.keys.iter().any(is_opened) {
            break;
        }
        until_next_poll().await;
    }
    Ok(())
}

/// Waits for all replicas to seal with a key, as long as that takes on one directory. Returns those that do
/// not yet.
pub(super) async fn wait_for_primary(client: &Client, id: &str) -> Result<Vec<String>, Failure> {
    let mut others = Vec::new();
    for _ in 0..TAKE_UP {
        until_next_poll().await;
        let seen = seen(client).await?;
        let other = seen.replicas.into_iter().filter(|replica| replica.primary != id);
        others = other.map(|replica| name(&replica)).collect();
        if others.is_empty() {
            break;
        }
    }
    Ok(others)
}
