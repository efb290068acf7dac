//! `connections`: an operator's view of connections, and acts on them, over the admin API.

use clap::Subcommand;
use http::Method;
use serde_json::Value;

use super::args::{StoredConnectionArgs as ConnectionArgs, app_name};
use super::client::{Client, DEADLINE, ReachArgs, body, read, target, text};
use super::output::{shown, table};
use super::status::store_lost;
use super::{ConfigPath, Failure, World, block_on};
use crate::api::admin::wire::{Apps, Pause};
use crate::domain::id::AppName;

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
        /// Only those whose account is in this tenant
        #[arg(long, value_name = "TENANT_ID")]
        tenant: Option<String>,
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
        #[command(flatten)]
        reach: ReachArgs,
    },
    /// Let a paused connection go on
    #[command(after_help = "Example:\n  tokenward connections resume outlook user-4711")]
    Resume {
        #[command(flatten)]
        connection: ConnectionArgs,
        #[command(flatten)]
        reach: ReachArgs,
    },
    /// Try a connection's grant at the authority now
    #[command(after_help = "Example:\n  tokenward connections refresh outlook user-4711")]
    Refresh {
        #[command(flatten)]
        connection: ConnectionArgs,
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
        #[command(flatten)]
        reach: ReachArgs,
    },
}

pub(super) fn run(command: &Command, config: &ConfigPath, world: &mut World) -> Result<(), Failure> {
    match command {
        Command::List { app, status, tenant, json, reach } => {
            let client = reach.admin(config, world)?;
            let filter = [("status", status.as_deref()), ("tenant", tenant.as_deref())];
            let all = block_on(list(&client, app.as_ref(), filter))?;
            if *json {
                return world.output.json(&all);
            }
            if all.is_empty() {
                world.output.say("No connections.");
                return Ok(());
            }
            let rows: Vec<Vec<String>> = all.iter().map(row).collect();
            world.output.data(&table(
                &["APP", "CONNECTION", "STATUS", "REASON", "ACCOUNT", "TENANT", "LAST REFRESH"],
                &rows,
            ))
        }
        Command::Show { connection, json, reach } => {
            let client = reach.admin(config, world)?;
            let seen = block_on(async { Ok(client.get(&path(connection, None)).await?) })?;
            if *json { world.output.json(&seen) } else { world.output.data(&describe(&seen)) }
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
            let lost = store_lost(&status).map(|lost| format!("\n\nBut {lost}."));
            world.output.data(&(explain(&seen) + &lost.unwrap_or_default()))
        }
        Command::Pause { connection, reach } => {
            let seen = set_paused(connection, true, reach, config, world)?;
            let of = if seen.is_null() { "the name " } else { "" };
            world.output.say(&format!("Paused {of}{} of app {}.", connection.connection, connection.app));
            Ok(())
        }
        Command::Resume { connection, reach } => {
            let seen = set_paused(connection, false, reach, config, world)?;
            let then =
                if seen.is_null() { " There is no such connection now; it can be made again." } else { "" };
            world.output.say(&format!("Resumed {} of app {}.{then}", connection.connection, connection.app));
            Ok(())
        }
        Command::Refresh { connection, reach } => {
            let client = reach.admin(config, world)?;
            block_on(async { Ok(client.ask(Method::POST, &path(connection, None), None, DEADLINE).await?) })?;
            world.output.say(&format!(
                "The grant of {} is tried now; `tokenward connections explain {} {}` says what comes of it.",
                connection.connection, connection.app, connection.connection
            ));
            Ok(())
        }
        Command::Delete { connection, yes, reach } => {
            let client = reach.admin(config, world)?;
            block_on(delete(&client, connection, *yes, world))
        }
    }
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
    filter: [(&str, Option<&str>); 2],
) -> Result<Vec<Value>, Failure> {
    let apps: Vec<String> = match app {
        Some(app) => vec![app.to_string()],
        None => read::<Apps>(&client.get("/admin/v1/apps").await?)?.apps,
    };
    let mut all = Vec::new();
    for app in &apps {
        let mut cursor: Option<String> = None;
        loop {
            let query = [filter[0], filter[1], ("cursor", cursor.as_deref())];
            let target = target(&["admin", "v1", "apps", app, "connections"], &query);
            let mut page = client.get(&target).await?;
            if let Some(Value::Array(connections)) = page.get_mut("connections").map(Value::take) {
                all.extend(connections);
            }
            let next = page.get("next_cursor").and_then(Value::as_str).map(str::to_owned);
            if next.is_none() {
                break;
            }
            if next == cursor {
                return Err(Failure::failed("the daemon gave the same page twice; the list would never end"));
            }
            cursor = next;
        }
    }
    Ok(all)
}

async fn delete(client: &Client, key: &ConnectionArgs, yes: bool, world: &mut World) -> Result<(), Failure> {
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

/// Formats a connection as lines of name and value, including members that the API may add later.
fn describe(connection: &Value) -> String {
    const FIRST: [&str; 5] = ["app", "connection", "status", "reason", "account"];
    const LAST: [&str; 3] = ["last_error", "attempts", "advice"];
    let Some(members) = connection.as_object() else { return String::new() };
    let rest =
        members.keys().map(String::as_str).filter(|name| !FIRST.contains(name) && !LAST.contains(name));
    let names: Vec<&str> = FIRST.into_iter().chain(rest).chain(["last_error"]).collect();
    let width = names.iter().map(|name| name.len()).max().unwrap_or(0);
    let lines: Vec<String> = names
        .into_iter()
        .filter_map(|name| Some((name, members.get(name)?)))
        .map(|(name, value)| format!("{:<width$}  {}", shown(name), shown(&plain(value))))
        .collect();
    lines.join("\n")
}

/// Formats a value without JSON's marks: lists as words, tables as `name=value`.
fn plain(value: &Value) -> String {
    match value {
        Value::Null => "-".to_owned(),
        Value::String(text) => text.clone(),
        Value::Array(items) => items.iter().map(plain).collect::<Vec<_>>().join(" "),
        Value::Object(members) => members
            .iter()
            .map(|(name, value)| format!("{name}={}", plain(value)))
            .collect::<Vec<_>>()
            .join(" "),
        other => other.to_string(),
    }
}

fn explain(seen: &Value) -> String {
    let mut text_out = describe(seen);
    let attempts = seen.get("attempts").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    text_out.push_str("\n\n");
    if attempts.is_empty() {
        text_out.push_str("No attempts at the authority are recorded.");
    } else {
        let rows: Vec<Vec<String>> = attempts
            .iter()
            .map(|attempt| {
                let mut others = attempt.clone();
                if let Some(members) = others.as_object_mut() {
                    members.retain(|name, value| {
                        !["at", "action", "outcome", "conclusion"].contains(&name.as_str())
                            && !value.is_null()
                            && value.as_array().is_none_or(|items| !items.is_empty())
                    });
                }
                let mut row: Vec<String> = ["at", "action", "outcome", "conclusion"]
                    .into_iter()
                    .map(|member| text(attempt, member).to_owned())
                    .collect();
                row.push(plain(&others));
                row
            })
            .collect();
        text_out.push_str(&table(&["AT", "ACTION", "OUTCOME", "CONCLUSION", "THE AUTHORITY SAID"], &rows));
    }
    let advice = text(seen, "advice");
    if !advice.is_empty() {
        text_out.push_str(&format!("\n\n{}", shown(advice)));
    }
    text_out
}

#[cfg(test)]
mod tests {
    use serde_json::json;

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

    #[test]
    fn an_explanation_ends_with_what_to_do() {
        let shown = explain(&connection());
        assert!(shown.contains("error=invalid_grant error_codes=65001"), "{shown}");
        assert!(shown.ends_with("An administrator must act."), "{shown}");
        assert!(!shown.contains("trace_id"), "{shown}");
    }
}
