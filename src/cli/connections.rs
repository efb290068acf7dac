//! `connections`: an operator's view of connections, and acts on them, over the admin API.

use std::time::Duration;

use clap::Subcommand;
use clap::builder::PossibleValuesParser;
use http::Method;
use serde_json::{Value, json};

use super::args::{StoredConnectionArgs as ConnectionArgs, app_name};
use super::client::{Client, DEADLINE, ReachArgs, body, read, target, text};
use super::described::describe;
use super::explain::explain;
use super::output::{shown, table};
use super::{ConfigPath, Failure, World, block_on, shell_text, tried};
use crate::api::admin::wire::{Apps, LinkWanted, Pause, ReconnectLink};
use crate::domain::account::tenant_id;
use crate::domain::id::AppName;
use crate::domain::verdict::{BlockReason, ReauthReason};

/// The reasons that a status can have.
fn reasons() -> PossibleValuesParser {
    PossibleValuesParser::new(ReauthReason::WORDS.iter().chain(BlockReason::WORDS))
}

/// What to do with connections.
#[derive(Subcommand)]
pub(super) enum Command {
    /// List the connections of an app, or of every app
    #[command(
        after_help = "Example:\n  tokenward connections list outlook --status needs_reauthorization --json"
    )]
    List {
        /// The app, as in [apps.APP]
        #[arg(value_parser = app_name)]
        app: Option<AppName>,
        /// Only those in this status
        #[arg(long, value_parser = ["active", "needs_reauthorization", "blocked", "paused"])]
        status: Option<String>,
        /// Only those whose status has this reason
        #[arg(long, value_parser = reasons())]
        reason: Option<String>,
        /// Only those whose account is in this tenant
        #[arg(long, value_name = "TENANT_ID", value_parser = tenant_id)]
        tenant: Option<String>,
        /// Only those of this account, by its user name, object id or subject
        #[arg(long, value_name = "ACCOUNT")]
        account: Option<String>,
        /// Only those with this label
        #[arg(long, value_name = "LABEL")]
        label: Option<String>,
        /// Only those with this text, in either case, in their name, their labels or their account
        #[arg(long, value_name = "TEXT")]
        text: Option<String>,
        /// Print a list of connections as the API has them
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        reach: ReachArgs,
    },
    /// Show one connection; never a token
    #[command(after_help = "Example:\n  tokenward connections show outlook user-4711")]
    Show {
        #[command(flatten)]
        connection: ConnectionArgs,
        /// Print the connection as the API has it
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        reach: ReachArgs,
    },
    /// Show a connection with the last attempts at the authority, and what to do now
    #[command(after_help = "Example:\n  tokenward connections explain outlook user-4711")]
    Explain {
        #[command(flatten)]
        connection: ConnectionArgs,
        /// Print the explanation as the API has it
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        reach: ReachArgs,
    },
    /// Stop handing a connection out, on every replica within a second, without destroying its grant
    #[command(after_help = "Example:\n  tokenward connections pause outlook user-4711")]
    Pause {
        #[command(flatten)]
        connection: ConnectionArgs,
        /// Print the connection as the API has it; null if it was deleted meanwhile
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        reach: ReachArgs,
    },
    /// Let a paused connection go on
    #[command(after_help = "Example:\n  tokenward connections resume outlook user-4711")]
    Resume {
        #[command(flatten)]
        connection: ConnectionArgs,
        /// Print the connection as the API has it; null if it was deleted meanwhile
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        reach: ReachArgs,
    },
    /// Try a connection's grant at the authority now, and say what came of it
    #[command(after_help = "Example:\n  tokenward connections refresh outlook user-4711")]
    Refresh {
        #[command(flatten)]
        connection: ConnectionArgs,
        /// Begin it, and do not wait for its end
        #[arg(long)]
        no_wait: bool,
        /// Print the connection as it is afterwards; with --no-wait {refreshing}
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        reach: ReachArgs,
    },
    /// Make a link with which a connection's user signs in again, by the rules of its caller
    #[command(after_help = "Example:\n  tokenward connections reconnect-link outlook user-4711")]
    ReconnectLink {
        #[command(flatten)]
        connection: ConnectionArgs,
        /// Print {connect_url, expires_at}
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        reach: ReachArgs,
    },
    /// Delete a connection and destroy its grant; the user has to connect again
    #[command(after_help = "Example:\n  tokenward connections delete outlook user-4711")]
    Delete {
        #[command(flatten)]
        connection: ConnectionArgs,
        /// Do not ask
        #[arg(long)]
        yes: bool,
        /// Print {app, connection}
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        reach: ReachArgs,
    },
}

pub(super) fn run(command: &Command, config: &ConfigPath, world: &mut World) -> Result<(), Failure> {
    match command {
        Command::List { app, status, reason, tenant, account, label, text, json, reach } => {
            let client = reach.admin(config, world)?;
            let filter = [
                ("status", status.as_deref()),
                ("reason", reason.as_deref()),
                ("tenant", tenant.as_deref()),
                ("account", account.as_deref()),
                ("label", label.as_deref()),
                ("text", text.as_deref()),
            ];
            let all = block_on(list(&client, app.as_ref(), &filter, world))?;
            if *json {
                return world.output.json(&all);
            }
            if all.is_empty() {
                world.output.say("No connections.");
                return Ok(());
            }
            let rows: Vec<Vec<String>> = all.iter().map(row).collect();
            world.output.report(&table(
                &["APP", "CONNECTION", "STATUS", "REASON", "ACCOUNT", "TENANT", "LAST REFRESH"],
                &rows,
            ))
        }
        Command::Show { connection, json, reach } => {
            let client = reach.admin(config, world)?;
            let seen = block_on(async { Ok(client.get(&path(connection, None)).await?) })?;
            if *json { world.output.json(&seen) } else { world.output.report(&describe(&seen)) }
        }
        Command::Explain { connection, json, reach } => {
            let client = reach.admin(config, world)?;
            let (seen, status) = block_on(async {
                let seen = client.get(&path(connection, Some("explain"))).await?;
                // What it says of the store is shown beside the connection, where it can be had.
                let status = client.get("/admin/v1/status").await.unwrap_or_default();
                Ok((seen, read(&status).unwrap_or_default()))
            })?;
            if *json {
                return world.output.json(&seen);
            }
            let text = explain(connection, &seen, &status, &config.option());
            world.output.report(&text)
        }
        Command::Pause { connection, json, reach } => {
            let seen = set_paused(connection, true, reach, config, world)?;
            if *json {
                return world.output.json(&seen);
            }
            let of = if seen.is_null() { "the name " } else { "" };
            world.output.say(&format!("Paused {of}{} of app {}.", connection.connection, connection.app));
            Ok(())
        }
        Command::Resume { connection, json, reach } => {
            let seen = set_paused(connection, false, reach, config, world)?;
            if *json {
                return world.output.json(&seen);
            }
            let then =
                if seen.is_null() { " There is no such connection now; it can be made again." } else { "" };
            world.output.say(&format!("Resumed {} of app {}.{then}", connection.connection, connection.app));
            Ok(())
        }
        Command::Refresh { connection, no_wait, json, reach } => {
            let client = reach.admin(config, world)?;
            let tried = block_on(refresh(&client, connection, *no_wait, config, world))?;
            if *json {
                world.output.json(&tried.shape)?;
            }
            match tried.failure {
                Some(failure) => Err(failure),
                None if *json => Ok(()),
                None => {
                    world.output.say(&tried.said);
                    Ok(())
                }
            }
        }
        Command::ReconnectLink { connection, json, reach } => {
            let client = reach.admin(config, world)?;
            block_on(reconnect_link(&client, connection, *json, world))
        }
        Command::Delete { connection, yes, json, reach } => {
            let client = reach.admin(config, world)?;
            block_on(delete(&client, connection, *yes, *json, world))
        }
    }
}

/// Time between two looks at a connection that is tried, and how many looks at most: longer than a call to an
/// authority takes.
const LOOK: Duration = Duration::from_millis(300);
const MOST_LOOKS: u32 = 60;
/// The same where it is known that the grant is gone.
const FEW_LOOKS: u32 = 10;

/// What came of a grant that was tried.
struct Tried {
    /// What `--json` prints.
    shape: Value,
    /// What is said of it.
    said: String,
    /// Why it does not work, if it does not.
    failure: Option<Failure>,
}

/// Has a grant tried, and finds out what came of it: the connection works, or the reason why it does not.
async fn refresh(
    client: &Client,
    key: &ConnectionArgs,
    no_wait: bool,
    config: &ConfigPath,
    world: &mut World,
) -> Result<Tried, Failure> {
    let before = client.get(&path(key, Some("explain"))).await?;
    let begun = client.ask(Method::POST, &path(key, None), None, DEADLINE).await?;
    let option = config.option();
    if no_wait {
        let (app, name) = (&key.app, shell_text(key.connection.as_str()));
        let said = format!(
            "The grant of {} is tried now; `tokenward connections explain {app} {name}{option}` says what \
             comes of it.",
            key.connection
        );
        return Ok(Tried { shape: begun, said, failure: None });
    }
    let looks = if tried::is_dead(&before) { FEW_LOOKS } else { MOST_LOOKS };
    let mut after = before.clone();
    for _ in 0..looks {
        world.clock.sleep(LOOK).await;
        after = client.get(&path(key, Some("explain"))).await?;
        if tried::is_changed(&before, &after) {
            break;
        }
    }
    let shape = client.get(&path(key, None)).await?;
    let failure = tried::failure(key, &option, (&before, &after), LOOK * looks);
    let said = format!("The grant of {} of app {} works.", key.connection, key.app);
    Ok(Tried { shape, said, failure })
}

async fn reconnect_link(
    client: &Client,
    key: &ConnectionArgs,
    json: bool,
    world: &mut World,
) -> Result<(), Failure> {
    let wanted = LinkWanted { app: key.app.to_string(), connection: key.connection.to_string() };
    let answer =
        client.ask(Method::POST, "/admin/v1/reconnect-links", Some(&body(&wanted)), DEADLINE).await?;
    if json {
        return world.output.json(&answer);
    }
    let link: ReconnectLink = read(&answer)?;
    world.output.data(&shown(&link.connect_url))?;
    world.output.say(&format!(
        "Send it to the user. It works once, for the account that the connection has, until {}.",
        shown(&link.expires_at)
    ));
    Ok(())
}

fn set_paused(
    connection: &ConnectionArgs,
    paused: bool,
    reach: &ReachArgs,
    config: &ConfigPath,
    world: &mut World,
) -> Result<Value, Failure> {
    let client = reach.admin(config, world)?;
    let wish = body(&Pause { paused });
    block_on(async { Ok(client.ask(Method::PATCH, &path(connection, None), Some(&wish), DEADLINE).await?) })
}

fn path(key: &ConnectionArgs, of: Option<&str>) -> String {
    let mut segments = vec!["admin", "v1", "apps", key.app.as_str(), "connections", key.connection.as_str()];
    segments.extend(of);
    target(&segments, &[])
}

/// Lists every connection of one app or of all, page by page.
async fn list(
    client: &Client,
    app: Option<&AppName>,
    filter: &[(&str, Option<&str>)],
    world: &mut World,
) -> Result<Vec<Value>, Failure> {
    let apps: Vec<String> = match app {
        Some(app) => vec![app.to_string()],
        None => read::<Apps>(&client.get("/admin/v1/apps").await?)?.apps,
    };
    let mut all = Vec::new();
    for app in &apps {
        let path = ["admin", "v1", "apps", app, "connections"];
        client.every_page(&path, filter, "connections", &mut all, world).await?;
    }
    Ok(all)
}

async fn delete(
    client: &Client,
    key: &ConnectionArgs,
    yes: bool,
    json: bool,
    world: &mut World,
) -> Result<(), Failure> {
    if !yes {
        // Shown before the question: the name may be wrong, and the account helps to decide.
        let seen = client.get(&path(key, None)).await?;
        let question = format!(
            "Delete {} of app {}, the account {}? Its grant is destroyed, and the user has to connect again.",
            key.connection,
            key.app,
            shown(&account_name(&seen["account"]))
        );
        if !world.output.ask(&question).await {
            return Err(Failure::failed("not deleted"));
        }
    }
    client.ask(Method::DELETE, &path(key, None), None, DEADLINE).await?;
    if json {
        return world.output.json(&json!({ "app": key.app.as_str(), "connection": key.connection.as_str() }));
    }
    world.output.say(&format!("Deleted {} of app {}.", key.connection, key.app));
    Ok(())
}

/// Returns the user's name, or else the account's id.
pub(super) fn account_name(account: &Value) -> String {
    ["username", "oid", "sub"]
        .into_iter()
        .map(|member| text(account, member))
        .find(|name| !name.is_empty())
        .unwrap_or("(unknown)")
        .to_owned()
}

fn row(connection: &Value) -> Vec<String> {
    let or_dash = |value: &str| if value.is_empty() { "-".to_owned() } else { value.to_owned() };
    let account = &connection["account"];
    let tenant = match text(account, "tid") {
        "" => text(account, "iss"),
        tid => tid,
    };
    vec![
        text(connection, "app").to_owned(),
        text(connection, "connection").to_owned(),
        text(connection, "status").to_owned(),
        or_dash(text(connection, "reason")),
        account_name(account),
        or_dash(tenant),
        or_dash(text(connection, "last_refreshed_at")),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn connection() -> Value {
        json!({
            "app": "outlook", "connection": "user-1", "status": "blocked", "reason": "admin_consent_required",
            "account": { "tid": "t", "oid": "o", "username": "alice\u{1b}[31m@contoso.com" },
            "scopes_granted": ["Mail.Read", "openid"], "last_refreshed_at": "2026-11-23T00:00:00Z",
            "attempts": [{ "at": "2026-11-23T00:00:00Z", "action": "refresh", "outcome": "blocked",
                "conclusion": "kept", "error": "invalid_grant", "error_codes": [65001], "trace_id": null }],
            "advice": "An administrator must act.",
        })
    }

    #[test]
    fn a_connection_is_a_row_and_a_page_of_lines() {
        let shown = table(&["A", "B", "C", "D", "E", "F", "G"], &[row(&connection())]);
        assert!(shown.contains("alice\\u{1b}[31m@contoso.com  t  2026-11-23T00:00:00Z"), "{shown}");
        let shown = describe(&connection());
        assert!(shown.contains("scopes_granted     Mail.Read openid"), "{shown}");
        assert!(!shown.contains('\u{1b}') && !shown.contains("advice"), "{shown}");
    }
}
