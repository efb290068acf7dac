//! `credentials`: an app's client credentials as the daemon knows them, over the admin API.

use clap::Subcommand;
use http::Method;

use super::args::app_name;
use super::client::{Client, ClientError, DEADLINE, ReachArgs, read, target, text};
use super::output::{shown, table};
use super::rotate;
use super::{ConfigPath, Exit, Failure, World, block_on, shell_text};
use crate::api::admin::wire::{AppCredentials, ClientCredential, Status, Verified};
use crate::domain::credential::TRUST_AGAIN;
use crate::domain::id::AppName;
use crate::domain::verdict::aadsts;

/// What to do with client credentials.
#[derive(Subcommand)]
pub(super) enum Command {
    /// List client credentials with their states; never the secrets
    #[command(after_help = "Example:\n  tokenward credentials list outlook")]
    List {
        /// The app, as in [apps.APP]; every app without it
        #[arg(value_parser = app_name)]
        app: Option<AppName>,
        /// Print a list as the API has it
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        reach: ReachArgs,
    },
    /// Prove one credential, or all of an app, with a token request of the app's own
    #[command(after_help = "Example:\n  tokenward credentials verify outlook 2027-05")]
    Verify {
        /// The app, as in [apps.APP]
        #[arg(value_parser = app_name)]
        app: AppName,
        /// The credential; every one of the app without it
        id: Option<String>,
        /// Print a list of {id, outcome, cause, retired}
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        reach: ReachArgs,
    },
    /// Prefer one that the authority accepts, on every replica
    #[command(after_help = "Example:\n  tokenward credentials promote outlook 2027-05")]
    Promote(Chosen),
    /// Take one out of service, on every replica, before you remove its file and the authority's copy
    #[command(after_help = "Example:\n  tokenward credentials retire outlook 2026-11")]
    Retire(Chosen),
    /// Replace one: add the new one, wait until the authority takes it, prefer it, retire the one before
    #[command(after_help = "Example:\n  tokenward credentials rotate outlook 2027-05 --expires 2027-11-20 \
            --from new-secret\n\nRun it again whenever it was stopped: what is done already is skipped.")]
    Rotate(rotate::Args),
    /// Let an app's secrets and refresh tokens go to its new token host
    #[command(after_help = "Example:\n  tokenward credentials confirm outlook login.example.com")]
    Confirm {
        /// The app, as in [apps.APP]
        #[arg(value_parser = app_name)]
        app: AppName,
        /// The host, as the log and `connections explain` name it
        host: String,
        /// Print {host}
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        reach: ReachArgs,
    },
}

#[derive(clap::Args)]
pub(super) struct Chosen {
    /// The app, as in [apps.APP]
    #[arg(value_parser = app_name)]
    app: AppName,
    /// The credential
    id: String,
    /// Print {id}
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    reach: ReachArgs,
}

pub(super) fn run(command: &Command, config: &ConfigPath, world: &mut World) -> Result<(), Failure> {
    match command {
        Command::List { app, json, reach } => {
            let client = reach.admin(config, world)?;
            block_on(list(&client, app.as_ref(), *json, world))
        }
        Command::Verify { app, id, json, reach } => {
            let client = reach.admin(config, world)?;
            block_on(verify(&client, app, id.as_deref(), *json, world))
        }
        Command::Promote(chosen) => {
            let client = chosen.reach.admin(config, world)?;
            block_on(choose(&client, chosen, "promote", "is preferred from now on", world))
        }
        Command::Retire(chosen) => {
            let client = chosen.reach.admin(config, world)?;
            let what = "is not used any more. Remove its file, and then the credential at the authority";
            block_on(choose(&client, chosen, "retire", what, world))
        }
        Command::Rotate(args) => rotate::run(args, config, world),
        Command::Confirm { app, host, json, reach } => {
            let client = reach.admin(config, world)?;
            block_on(confirm(&client, app, host, *json, world))
        }
    }
}

async fn list(client: &Client, app: Option<&AppName>, json: bool, world: &mut World) -> Result<(), Failure> {
    let is_wanted = |name: &str| app.is_none_or(|app| name == app.as_str());
    // (The state has the credentials, too, and says whether their files were read.)
    let answer = client.get(if json { "/admin/v1/credentials" } else { "/admin/v1/status" }).await?;
    let status: Status = read(&answer)?;
    let apps: Vec<_> = status.apps.iter().filter(|one| is_wanted(&one.app)).collect();
    if let (Some(app), true) = (app, apps.is_empty()) {
        return Err(Failure::failed(format!("there is no app {app}")));
    }
    if json {
        let apps = answer["apps"].as_array().into_iter().flatten();
        return world.output.json(&apps.filter(|one| is_wanted(text(one, "app"))).collect::<Vec<_>>());
    }
    world.output.report(&credentials_table(apps))?;
    if let Some(said) = from_before(&status, is_wanted) {
        world.output.say(&said);
    }
    Ok(())
}

/// Formats every credential of these apps.
pub(super) fn credentials_table<'a>(apps: impl IntoIterator<Item = &'a AppCredentials>) -> String {
    let row = |app: &AppCredentials, one: &ClientCredential| {
        let or_dash = |at: &Option<String>| at.as_deref().map_or("-".to_owned(), shown);
        vec![
            shown(&app.app),
            shown(&one.id),
            shown(&one.kind),
            shown(&one.state),
            match (one.in_use, one.state.as_str()) {
                (true, "rejected" | "expired") => "no (none works)".to_owned(),
                (true, _) => "yes".to_owned(),
                (false, _) => "no".to_owned(),
            },
            match &one.expires_at {
                None if one.kind == "secret" => "unknown".to_owned(),
                at => or_dash(at),
            },
            or_dash(&one.last_used_at),
            shown(note(one).trim()),
        ]
    };
    let rows = apps.into_iter().flat_map(|app| app.credentials.iter().map(move |one| row(app, one)));
    let rows: Vec<Vec<String>> = rows.collect();
    table(&["APP", "ID", "KIND", "STATE", "IN USE", "EXPIRES", "LAST USED", "NOTE"], &rows)
}

fn note(one: &ClientCredential) -> String {
    if let Some(no) = &one.rejection {
        let why = format!("{} {}", aadsts(no.error_codes.iter().copied()), no.cause);
        // (One acceptance after a rejection may be a replica of the authority that knows less or more.)
        return match no.accepted_since {
            0 => why,
            times => format!(
                "the authority takes it again ({times} of the {TRUST_AGAIN} times in a row after which it \
                 counts); before: {}",
                why.trim()
            ),
        };
    }
    // Another content of its id is in its place, or the configuration has its id no more.
    let is_replaced = one.id.ends_with("~before");
    match &one.superseded_at {
        None if one.state == "retired" => "`promote` uses it again".to_owned(),
        None if one.proven_by_use && one.state == "new" => "is proven by a user's next refresh".to_owned(),
        None => elsewhere(one),
        Some(_) if one.in_use && is_replaced => "in use until its successor is proven".to_owned(),
        Some(_) if is_replaced => "a fallback: it was replaced".to_owned(),
        Some(_) if one.in_use => "its file was taken away; in use until another is proven".to_owned(),
        Some(_) => "its file was taken away; a fallback until another has proven itself".to_owned(),
    }
}

/// Says that an app's credentials are those from before, where the last reload was refused because of their
/// files.
fn from_before(status: &Status, is_wanted: impl Fn(&str) -> bool) -> Option<String> {
    let reload = status.last_reload.as_ref().filter(|reload| reload.outcome != "ok")?;
    let is_about =
        |problem: &str, app: &str| problem.contains(&format!("apps.{app}.credentials")) && is_wanted(app);
    let about = |problem: &&String| status.apps.iter().any(|one| is_about(problem, &one.app));
    let problems: Vec<String> =
        reload.problems.iter().filter(about).map(|problem| format!("  {}", shown(problem))).collect();
    (!problems.is_empty()).then(|| {
        format!(
            "These are the credentials from before: a file of theirs is not as the configuration says, so \
             the reload at {} was refused.\n{}",
            shown(&reload.at),
            problems.join("\n")
        )
    })
}

/// Lists the replicas where its state differs.
fn elsewhere(one: &ClientCredential) -> String {
    let others = one.replicas.iter().flatten().filter(|there| there.state != one.state);
    let said: Vec<String> = others.map(|there| format!("{} at {}", there.state, there.replica)).collect();
    said.join(", ")
}

async fn verify(
    client: &Client,
    app: &AppName,
    id: Option<&str>,
    json: bool,
    world: &mut World,
) -> Result<(), Failure> {
    let mut path = vec!["admin", "v1", "apps", app.as_str(), "credentials"];
    path.extend(id);
    path.push("verify");
    let answer = client.ask(Method::POST, &target(&path, &[]), None, DEADLINE).await?;
    let Verified { credentials: heard } = read(&answer)?;
    if json {
        world.output.json(&answer["credentials"])?;
    } else {
        for one in &heard {
            let (id, cause) = (shown(&one.id), shown(one.cause.as_deref().unwrap_or_default()));
            world.output.data(&match one.outcome.as_str() {
                "accepted" if one.retired => format!(
                    "{id}: the authority takes it, but it is retired, and not used. To use it again: \
                     tokenward credentials promote {app} {}",
                    shell_text(&one.id)
                ),
                "accepted" => format!("{id}: the authority takes it"),
                "accepted_in_use" => {
                    let at = shown(one.accepted_at.as_deref().unwrap_or_default());
                    format!(
                        "{id}: the authority took it in a user's request at {at}; asking proves nothing here"
                    )
                }
                "rejected" => format!("{id}: the authority rejects it: {cause}"),
                _ => format!("{id}: not known: {cause}"),
            })?;
        }
    }
    let all_taken = !heard.is_empty() && heard.iter().all(|one| one.outcome.starts_with("accepted"));
    if all_taken { Ok(()) } else { Err(Failure::silent(Exit::Failed)) }
}

async fn confirm(
    client: &Client,
    app: &AppName,
    host: &str,
    json: bool,
    world: &mut World,
) -> Result<(), Failure> {
    let path = target(&["admin", "v1", "apps", app.as_str(), "token-host", host, "confirm"], &[]);
    let answer = client.ask(Method::POST, &path, None, DEADLINE).await?;
    if json {
        return world.output.json(&answer);
    }
    let host = shown(host);
    world.output.say(&format!(
        "Secrets and grants of app {app} go to {host} from now on. Every replica follows within seconds."
    ));
    Ok(())
}

async fn choose(
    client: &Client,
    chosen: &Chosen,
    act: &str,
    what: &str,
    world: &mut World,
) -> Result<(), Failure> {
    let Chosen { app, id, json, .. } = chosen;
    let path = target(&["admin", "v1", "apps", app.as_str(), "credentials", id, act], &[]);
    let answer = client.ask(Method::POST, &path, None, DEADLINE).await;
    let answer = answer.map_err(|error| not_chosen(error, app, act))?;
    if *json {
        return world.output.json(&answer);
    }
    world.output.say(&format!("{id} of app {app} {what}. Every replica follows within seconds."));
    Ok(())
}

/// A choice that is refused is right as it was typed, mostly: another credential must come first.
fn not_chosen(error: ClientError, app: &AppName, act: &str) -> Failure {
    let is_about_it = matches!(&error, ClientError::Refused(problem) if problem.code == "invalid_request");
    if !is_about_it {
        return error.into();
    }
    let failure = Failure::failed(error.to_string());
    let list = format!("`tokenward credentials list {app}` shows what the authority takes");
    match act {
        "retire" => failure.hint(format!(
            "{list}; `tokenward credentials rotate {app} NEW_ID --from FILE` adds the next one and retires \
             the one before, in the right order"
        )),
        _ => failure.hint(list),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::api::admin::wire::Credentials;

    /// After a rejection the authority's yes counts after the third time. Until then the list says both.
    #[test]
    fn one_that_is_taken_again_is_not_shown_as_rejected_alone() {
        let noted = |accepted_since: u32| {
            let one = json!({ "id": "2026-11", "kind": "secret", "state": "rejected",
                "rejection": { "at": "2026-11-28T12:00:00Z", "cause": "no", "error_codes": [7_000_222],
                    "accepted_since": accepted_since } });
            let Credentials { apps } =
                read(&json!({ "apps": [{ "app": "outlook", "credentials": [one] }] })).expect("credentials");
            credentials_table(&apps)
        };
        let again = noted(1);
        assert!(again.contains("takes it again (1 of the 3 times in a row"), "{again}");
        assert!(again.contains("before: AADSTS7000222 no"), "{again}");
        assert!(!noted(0).contains("again"), "{}", noted(0));
    }

    #[test]
    fn one_whose_file_is_gone_is_said_to_be_from_before() {
        let taken_away = json!({ "id": "2026-11", "kind": "secret", "state": "in_use", "in_use": true,
            "superseded_at": "2026-11-28T12:00:00Z" });
        let status = |outcome: &str| -> Status {
            let apps = json!([{ "app": "outlook", "credentials": [taken_away] }, { "app": "other" }]);
            let problems = [
                "t.toml:9:1: apps.outlook.credentials[0].file: cannot read\u{1b} 2026-11.secret",
                "t.toml:3:1: listen.local: no",
            ];
            let reload = json!({ "outcome": outcome, "at": "2026-11-28T12:00:00Z", "problems": problems });
            read(&json!({ "apps": apps, "last_reload": reload })).expect("a status")
        };
        let all = from_before(&status("refused"), |_| true).expect("it is said");
        assert!(all.contains("12:00:00Z was refused.\n  t.toml:9:1: apps.outlook"), "{all}");
        assert!(!all.contains("listen.local") && !all.contains('\u{1b}'), "{all}");
        assert_eq!(from_before(&status("refused"), |app| app == "other"), None);
        assert_eq!(from_before(&status("ok"), |_| true), None);
        let table = credentials_table(&status("ok").apps);
        assert!(table.contains("its file was taken away; in use until another is proven"), "{table}");
    }

    /// An app's only credential is tried first whatever its state: that is no "in use".
    #[test]
    fn one_that_is_rejected_is_not_called_in_use() {
        let one = json!({ "id": "2026-11", "kind": "secret", "state": "rejected", "in_use": true,
            "rejection": { "at": "2026-11-28T12:00:00Z", "cause": "no", "error_codes": [7_000_222] } });
        let Credentials { apps } =
            read(&json!({ "apps": [{ "app": "outlook", "credentials": [one] }] })).expect("credentials");
        let table = credentials_table(&apps);
        assert!(table.contains("rejected  no (none works)"), "{table}");
        assert!(table.contains("AADSTS7000222 no"), "{table}");
    }

    #[test]
    fn the_note_on_one_whose_place_was_taken_says_whether_it_is_still_in_use() {
        let noted = |in_use: bool| {
            let one = json!({
                "id": "2026-11~before", "kind": "secret", "state": if in_use { "in_use" } else { "proven" },
                "in_use": in_use, "superseded_at": "2026-11-28T12:00:00Z", "proven_by_use": false,
            });
            let Credentials { apps } =
                read(&json!({ "apps": [{ "app": "outlook", "credentials": [one] }] })).expect("credentials");
            credentials_table(&apps)
        };
        let (in_use, fallback) = (noted(true), noted(false));
        assert!(in_use.contains("in use until its successor is proven"), "{in_use}");
        assert!(!in_use.contains("fallback"), "{in_use}");
        assert!(fallback.contains("a fallback: it was replaced"), "{fallback}");
    }
}
