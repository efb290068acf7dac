//! `credentials rotate`: leads through the replacement of a client credential. It adds the new one's file,
//! has the authority asked about it until it takes it, prefers it, and takes the one before out of
//! service.
//!
//! Each step is skipped where it is done already, so the command may be stopped and run again at any time.
//! The order is the safe one: nothing is taken out of service before the new one works on every replica,
//! which the daemon itself sees to.

use std::path::{Path, PathBuf};
use std::time::Duration;

use http::Method;
use serde::Serialize;

use super::args::{app_name, duration};
use super::client::{Client, ClientError, DEADLINE, ReachArgs, read, target};
use super::credential_file::{self, NewFile};
use super::output::shown;
use super::{ConfigPath, Failure, World, block_on};
use crate::api::admin::wire::{ClientCredential, Credentials, Reload, Verified, VerifiedCredential};
use crate::config::AppConfig;
use crate::domain::id::AppName;

/// Time between two questions to the authority.
const AGAIN: Duration = Duration::from_secs(3);
/// Time for the daemon to put a credential into use that the authority takes.
const PREFERRED_WITHIN: Duration = Duration::from_secs(60);

/// What to replace, and by what.
#[derive(clap::Args)]
pub(super) struct Args {
    /// The app, as in [apps.APP]
    #[arg(value_parser = app_name)]
    app: AppName,
    /// The id of the new credential, as its file's name begins
    id: String,
    /// A file with the new secret, or with certificate and key (PEM); `-` is standard input. Not needed if
    /// the daemon has the credential already
    #[arg(long, value_name = "FILE")]
    from: Option<PathBuf>,
    /// The day on which the new secret ends, such as 2027-11-20; a certificate says it itself
    #[arg(long, value_name = "DAY")]
    expires: Option<String>,
    /// The one to take out of service, where the app has several
    #[arg(long, value_name = "ID", conflicts_with = "keep")]
    retire: Option<String>,
    /// Take none out of service: end once the new one is in use
    #[arg(long)]
    keep: bool,
    /// How long the authority may take to know the new one
    #[arg(long, value_name = "DURATION", default_value = "10m", value_parser = duration)]
    wait: Duration,
    /// Print {app, id, file, added, promoted, retired, left}
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    reach: ReachArgs,
}

/// What was done, for `--json`.
#[derive(Serialize)]
struct Done {
    app: String,
    id: String,
    /// The new credential's file, if this run made it.
    file: Option<String>,
    added: bool,
    /// False if it was in use already.
    promoted: bool,
    /// The one that is out of service now.
    retired: Option<String>,
    /// What is left to do by hand.
    left: Vec<String>,
}

pub(super) fn run(args: &Args, config: &ConfigPath, world: &mut World) -> Result<(), Failure> {
    let loaded = config.load(world)?;
    let app = &args.app;
    let Some(settings) = loaded.config.apps.get(app.as_str()) else {
        return Err(Failure::usage(format!("the configuration has no app `{app}`")));
    };
    let client = args.reach.admin(config, world)?;
    let done = block_on(rotate(&client, args, settings, world))?;
    if args.json {
        return world.output.json(&done);
    }
    for left in &done.left {
        world.output.say(&format!("Left to do: {left}"));
    }
    Ok(())
}

async fn rotate(
    client: &Client,
    args: &Args,
    settings: &AppConfig,
    world: &mut World,
) -> Result<Done, Failure> {
    let (app, id) = (&args.app, &args.id);
    let there = credentials_of(client, app).await?;
    let before = before(&there, args)?;
    let file = add(client, args, settings, &there, world).await?;
    let is_in = |folder: &PathBuf| credential_file::of(folder, id);
    verify(client, args, settings.credentials_dir.as_ref().and_then(is_in).as_deref(), world).await?;
    let promoted = prefer(client, args, world).await?;
    let mut done = Done {
        app: app.to_string(),
        id: id.clone(),
        added: file.is_some(),
        file: file.map(|file| file.display().to_string()),
        promoted,
        retired: None,
        left: Vec::new(),
    };
    let Some(before) = before else {
        if !args.keep {
            world.output.say("There is nothing to retire.");
        }
        return Ok(done);
    };
    act(client, app, &before, "retire").await.map_err(|refused| {
        Failure::from(refused).hint(format!(
            "the new one is in use, and {before} stays in service; run the command again once that is mended"
        ))
    })?;
    world.output.say(&format!("{before} is out of service, on every replica within seconds."));
    done.left = left(&before, settings);
    done.retired = Some(before);
    Ok(done)
}

/// The one to take out of service. An unclear choice is found before anything is done.
fn before(there: &[ClientCredential], args: &Args) -> Result<Option<String>, Failure> {
    if args.keep {
        return Ok(None);
    }
    let mut others: Vec<&str> = there
        .iter()
        .filter(|one| one.id != args.id && one.state != "retired" && one.superseded_at.is_none())
        .map(|one| one.id.as_str())
        .collect();
    others.sort_unstable();
    match (&args.retire, &others[..]) {
        (Some(wanted), _) if *wanted == args.id => {
            Err(Failure::usage(format!("{wanted} is the new one: --retire names the one before")))
        }
        (Some(wanted), others) if others.contains(&wanted.as_str()) => Ok(Some(wanted.clone())),
        (Some(wanted), _) if there.iter().any(|one| one.id == *wanted) => Ok(None),
        (Some(wanted), others) => Err(Failure::usage(format!(
            "the app {} has no credential {wanted} in service{}",
            args.app,
            if others.is_empty() { String::new() } else { format!("; it has {}", others.join(", ")) }
        ))),
        (None, []) => Ok(None),
        (None, [one]) => Ok(Some((*one).to_owned())),
        (None, several) => Err(Failure::usage(format!("the app {} has several credentials", args.app))
            .hint(format!("--retire says which goes: {}; --keep keeps them all", several.join(", ")))),
    }
}

/// Puts the new credential's file into the folder, and has the daemon take it up.
async fn add(
    client: &Client,
    args: &Args,
    settings: &AppConfig,
    there: &[ClientCredential],
    world: &mut World,
) -> Result<Option<PathBuf>, Failure> {
    let (app, id) = (&args.app, &args.id);
    let is_there = there.iter().any(|one| one.id == *id);
    let Some(from) = &args.from else {
        return match is_there {
            true => Ok(None),
            false => Err(Failure::usage(format!("the daemon has no credential {id} of app {app} yet")).hint(
                "name the file of the new secret with --from, or add the credential as the guide says",
            )),
        };
    };
    let Some(folder) = &settings.credentials_dir else {
        return match is_there {
            true => Ok(None),
            false => Err(Failure::usage(format!(
                "the app {app} has no `credentials_dir` to put a file into"
            ))
            .hint(format!(
                "add a table [[apps.{app}.credentials]] with id = \"{id}\", save it, and run this command \
                     again without --from"
            ))),
        };
    };
    let content = credential_file::content(from, world)?;
    let new = NewFile { folder, id, expires: args.expires.as_deref() };
    let written = new.write(&content, world)?;
    if written.is_none() {
        world.output.say(&format!("{id} is in {} already.", folder.display()));
        if is_there {
            return Ok(None);
        }
    }
    // Without an answer the daemon may have it, and use nothing else soon: the file stays.
    let unknown = |failure: Failure| {
        failure.hint(format!(
            "the file of {id} is in {}, and whether the daemon took it up is not known: run the command \
             again",
            folder.display()
        ))
    };
    let answer = client.ask(Method::POST, "/admin/v1/reload", None, DEADLINE).await;
    let answer = answer.map_err(|problem| unknown(problem.into()))?;
    let Reload { outcome, problems, .. } = read(&answer).map_err(unknown)?;
    if outcome != "ok" {
        let problems: Vec<String> = problems.iter().map(|one| shown(one)).collect();
        let failure = Failure::failed(format!("the daemon does not take it up:\n{}", problems.join("\n")));
        // Left there, our own would keep every later reload from being taken up.
        let Some(path) = written else { return Err(failure) };
        let removed = match std::fs::remove_file(&path) {
            Ok(()) => format!("{} is removed again, and nothing was changed", path.display()),
            Err(error) => format!("remove {} by hand: {error}", path.display()),
        };
        return Err(failure.hint(removed));
    }
    let Some(path) = written else { return Ok(None) };
    world.output.say(&format!("Added {}.", path.display()));
    if path.extension().is_some_and(|kind| kind == "secret") && args.expires.is_none() {
        world.output.say("warning: without --expires nobody is warned before it ends");
    }
    Ok(Some(path))
}

/// Has the authority asked until it takes the credential: Entra needs seconds to minutes to know a new one.
/// `file` is where it stands.
async fn verify(client: &Client, args: &Args, file: Option<&Path>, world: &mut World) -> Result<(), Failure> {
    let give_up = world.clock.monotonic().saturating_add(args.wait);
    let mut has_said = false;
    loop {
        let heard = ask(client, args).await?;
        let cause = shown(heard.cause.as_deref().unwrap_or_default());
        let failed = |what: &str| {
            let hint = "nothing else was changed; run the command again once that is mended";
            Failure::failed(format!("{what}: {cause}")).hint(match file {
                Some(file) if heard.outcome == "rejected" => format!(
                    "{hint}. If the value was mistyped, remove {} first, and run it with the right one",
                    file.display()
                ),
                _ => hint.to_owned(),
            })
        };
        match heard.outcome.as_str() {
            "accepted" | "accepted_in_use" => {
                world.output.say(&format!("The authority takes {}.", args.id));
                return Ok(());
            }
            "unknown" if !heard.asked => {
                return Err(failed("the authority cannot be asked about the new credential"));
            }
            _ if world.clock.monotonic() >= give_up => {
                return Err(failed("the authority does not take the new credential"));
            }
            _ if !has_said => {
                has_said = true;
                world
                    .output
                    .say(&format!("The authority does not take {} yet: {cause}; asking again …", args.id));
            }
            _ => world.output.dot(),
        }
        world.clock.sleep(AGAIN).await;
    }
}

async fn ask(client: &Client, args: &Args) -> Result<VerifiedCredential, Failure> {
    let path = ["admin", "v1", "apps", args.app.as_str(), "credentials", &args.id, "verify"];
    let answer = client.ask(Method::POST, &target(&path, &[]), None, DEADLINE).await?;
    let Verified { credentials } = read(&answer)?;
    let heard = credentials.into_iter().find(|one| one.id == args.id);
    heard.ok_or_else(|| Failure::failed(format!("the daemon says nothing of {}", args.id)))
}

/// Prefers it, and waits until it is in use: after a rejection it takes three acceptances in a row. Returns
/// false if it was in use already.
async fn prefer(client: &Client, args: &Args, world: &mut World) -> Result<bool, Failure> {
    let (app, id) = (&args.app, &args.id);
    if is_in_use(&credentials_of(client, app).await?, id) {
        world.output.say(&format!("{id} is in use."));
        return Ok(false);
    }
    let give_up = world.clock.monotonic().saturating_add(PREFERRED_WITHIN);
    let mut is_promoted = false;
    loop {
        if !is_promoted {
            match act(client, app, id, "promote").await {
                Ok(()) => is_promoted = true,
                Err(refused)
                    if world.clock.monotonic() < give_up && may_heal(client, app, id, &refused).await => {}
                Err(refused) => return Err(refused.into()),
            }
        }
        if is_promoted && is_in_use(&credentials_of(client, app).await?, id) {
            world.output.say(&format!("{id} is preferred and in use, on every replica within seconds."));
            return Ok(true);
        }
        if world.clock.monotonic() >= give_up {
            return Err(Failure::failed(format!("{id} is preferred, and the daemon does not use it yet"))
                .hint("`tokenward credentials list` says why; run the command again after that"));
        }
        world.clock.sleep(AGAIN).await;
        world.output.dot();
        ask(client, args).await?;
    }
}

/// Whether a promotion that was refused may succeed by itself: the daemon could not be asked, or does not
/// know yet that the authority takes the credential, which it is asked about again.
async fn may_heal(client: &Client, app: &AppName, id: &str, refused: &ClientError) -> bool {
    match refused {
        ClientError::Refused(problem) if problem.code == "invalid_request" => {
            let there = credentials_of(client, app).await;
            there.is_ok_and(|all| {
                all.iter().any(|one| one.id == id && matches!(&*one.state, "new" | "rejected"))
            })
        }
        other => other.is_passing(),
    }
}

fn is_in_use(all: &[ClientCredential], id: &str) -> bool {
    all.iter().any(|one| one.id == id && one.in_use && one.state != "rejected")
}

async fn credentials_of(client: &Client, app: &AppName) -> Result<Vec<ClientCredential>, Failure> {
    let Credentials { apps } = read(&client.get("/admin/v1/credentials").await?)?;
    let of_app = apps.into_iter().find(|one| one.app == app.as_str());
    let of_app = of_app.ok_or_else(|| Failure::failed(format!("the daemon has no app {app}")))?;
    Ok(of_app.credentials)
}

async fn act(client: &Client, app: &AppName, id: &str, act: &str) -> Result<(), ClientError> {
    let path = target(&["admin", "v1", "apps", app.as_str(), "credentials", id, act], &[]);
    client.ask(Method::POST, &path, None, DEADLINE).await?;
    Ok(())
}

/// What only a person does: the old one's file and the authority's copy of it.
fn left(before: &str, settings: &AppConfig) -> Vec<String> {
    let file = settings.credentials_dir.as_deref().and_then(|folder| credential_file::of(folder, before));
    let where_it_is = match file {
        Some(file) => format!("remove {}", file.display()),
        None => format!("take {before} out of the configuration"),
    };
    vec![
        format!(
            "{where_it_is}, once no replica has used it for an hour (`tokenward credentials list`, LAST USED)"
        ),
        format!("after that, remove {before} at the authority"),
    ]
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use clap::Parser as _;
    use serde_json::json;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::UnixListener;

    use super::*;
    use crate::cli::testing::world;

    #[derive(clap::Parser)]
    struct Parsed {
        #[command(flatten)]
        args: Args,
    }

    /// Answers requests for a promotion with these, and shows the credential in this state.
    async fn daemon(listener: UnixListener, state: Option<&str>, mut promotions: VecDeque<(u16, &str)>) {
        loop {
            let (mut stream, _) = listener.accept().await.expect("a connection");
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                head.push(stream.read_u8().await.expect("a head"));
            }
            let head = String::from_utf8(head).expect("text");
            let path = head.split(' ').nth(1).expect("a path");
            let (status, body) = match path.rsplit('/').next() {
                Some("promote") => {
                    let (status, code) = promotions.pop_front().expect("it is not asked once more");
                    (status, json!({ "code": code, "detail": "d", "id": "b" }))
                }
                Some("verify") => {
                    (200, json!({ "credentials": [{ "id": "b", "outcome": "accepted", "asked": true }] }))
                }
                _ => {
                    let in_use = promotions.is_empty();
                    let shown = |state| if in_use { "in_use" } else { state };
                    let one = |state| json!({ "id": "b", "state": shown(state), "in_use": in_use });
                    let all: Vec<_> = state.into_iter().map(one).collect();
                    (200, json!({ "apps": [{ "app": "outlook", "credentials": all }] }))
                }
            };
            let body = body.to_string();
            let head =
                format!("HTTP/1.1 {status} X\r\ncontent-length: {}\r\nconnection: close\r\n\r\n", body.len());
            stream.write_all(format!("{head}{body}").as_bytes()).await.expect("sent");
        }
    }

    #[tokio::test]
    async fn a_promotion_is_asked_for_again_only_where_waiting_may_help() {
        for (state, promotions, is_promoted) in [
            // It heals: the daemon was away, or the authority's last answer was a no.
            (Some("new"), vec![(503, "store_unavailable"), (429, "rate_limited"), (200, "")], true),
            (Some("new"), vec![(400, "invalid_request"), (200, "")], true),
            (Some("rejected"), vec![(400, "invalid_request"), (200, "")], true),
            // It does not.
            (Some("expired"), vec![(400, "invalid_request"), (200, "")], false),
            (None, vec![(400, "invalid_request"), (200, "")], false),
            (Some("new"), vec![(403, "caller_not_allowed"), (200, "")], false),
            (Some("new"), vec![(404, "app_not_found"), (200, "")], false),
        ] {
            let folder = tempfile::tempdir().expect("a folder");
            let socket = folder.path().join("admin.sock");
            let endpoint = format!("unix:{}", socket.display());
            let arguments = ["x", "outlook", "b", "--endpoint", &endpoint];
            let Parsed { args } = Parsed::try_parse_from(arguments).expect("arguments");
            let (mut world, said) = world();
            let config = ConfigPath::new(None, &world.env);
            let client = args.reach.admin(&config, &mut world).expect("a client");
            let case = format!("{state:?} {promotions:?}");
            let listener = UnixListener::bind(&socket).expect("a socket");
            let answers = daemon(listener, state, promotions.into());
            let ended = tokio::select! {
                ended = prefer(&client, &args, &mut world) => ended,
                () = answers => unreachable!("it goes on"),
            };
            assert_eq!(ended.is_ok(), is_promoted, "{case}: {}", said.err());
        }
    }
}
