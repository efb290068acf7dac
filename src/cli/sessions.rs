//! `sessions list`: connect sessions and what became of them, over the admin API. A user who was shown a
//! reference is helped with that alone.

use clap::Subcommand;
use clap::builder::PossibleValuesParser;
use serde_json::Value;

use super::args::{app_name, stored_connection_name};
use super::client::{ReachArgs, text};
use super::connections::account_name;
use super::described::{self, describe};
use super::output::{shown, table};
use super::{ConfigPath, Failure, World, block_on};
use crate::api::admin::wire::SESSION_STATES;
use crate::domain::id::{AppName, ConnectionName};
use crate::domain::reference::{self, NoReference, Reference};

/// What to do with connect sessions.
#[derive(Subcommand)]
pub(super) enum Command {
    /// List connect sessions with what became of them and why, the latest first
    #[command(after_help = "Examples:\n  tokenward sessions list --state failed\n  tokenward sessions list \
            --reference 9F86-D081")]
    List {
        /// The app, as in [apps.APP]; every app without it
        #[arg(value_parser = app_name)]
        app: Option<AppName>,
        /// Only those for this connection
        #[arg(value_parser = stored_connection_name)]
        connection: Option<ConnectionName>,
        /// Only those in this state
        #[arg(long, value_parser = PossibleValuesParser::new(SESSION_STATES))]
        state: Option<String>,
        /// Only the one whose page showed its user this reference; a whole request id does, too
        #[arg(long, value_name = "XXXX-XXXX", value_parser = parse_reference)]
        reference: Option<Reference>,
        /// Print a list of sessions as the API has them
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        reach: ReachArgs,
    },
}

fn parse_reference(text: &str) -> Result<Reference, NoReference> {
    Reference::parse(text)
}

pub(super) fn run(command: &Command, config: &ConfigPath, world: &mut World) -> Result<(), Failure> {
    let Command::List { app, connection, state, reference, json, reach } = command;
    let client = reach.admin(config, world)?;
    let filter = [
        ("app", app.as_ref().map(AppName::as_str)),
        ("connection", connection.as_ref().map(ConnectionName::as_str)),
        ("state", state.as_deref()),
        ("reference", reference.as_ref().map(Reference::digits)),
    ];
    let mut all = Vec::new();
    let path = ["admin", "v1", "sessions"];
    block_on(client.every_page(&path, &filter, "sessions", &mut all, world))?;
    // RFC 3339 in UTC: the order of the text is that of time.
    all.sort_by(|one, other| text(other, "started_at").cmp(text(one, "started_at")));
    if let (Some(reference), true) = (reference, all.is_empty()) {
        return Err(no_such_session(reference));
    }
    if *json {
        return world.output.json(&all);
    }
    match (reference, &*all) {
        (_, []) => {
            world.output.say("No connect sessions. Those that ended more than an hour ago are not kept.");
            Ok(())
        }
        (Some(_), [one]) => world.output.report(&of_one(one)),
        _ => {
            let rows: Vec<Vec<String>> = all.iter().map(row).collect();
            world.output.report(&table(
                &["STARTED", "APP", "CONNECTION", "CALLER", "STATE", "REASON", "ACCOUNT", "REFERENCE"],
                &rows,
            ))
        }
    }
}

fn no_such_session(reference: &Reference) -> Failure {
    Failure::failed("no connect session that can still be read has this reference")
        .hint("a session can be read until an hour after its end; later, log and audit have it:")
        .hint(format!(r#"  grep '"request_id":"{}' FILE"#, reference.digits()))
}

fn row(session: &Value) -> Vec<String> {
    let or_dash = |value: &str| if value.is_empty() { "-".to_owned() } else { value.to_owned() };
    let account = session.get("account").map_or_else(String::new, account_name);
    let reason = numbers(session).map_or_else(
        || text(session, "reason").to_owned(),
        |numbers| format!("{} {numbers}", text(session, "reason")),
    );
    vec![
        or_dash(text(session, "started_at")),
        text(session, "app").to_owned(),
        text(session, "connection").to_owned(),
        text(session, "caller").to_owned(),
        text(session, "state").to_owned(),
        or_dash(&reason),
        or_dash(&account),
        or_dash(&reference::shown(text(session, "request_id"))),
    ]
}

/// Entra's numbers, in the form that can be looked up.
fn numbers(session: &Value) -> Option<String> {
    Some(described::numbers(&session["error_codes"])).filter(|numbers| !numbers.is_empty())
}

/// Everything about one session, and at its end what to do.
fn of_one(session: &Value) -> String {
    let mut members = session.clone();
    if let Some(members) = members.as_object_mut() {
        members.remove("hint");
        if let Some(numbers) = numbers(session) {
            members.insert("error_codes".to_owned(), Value::String(numbers));
        }
    }
    let hint = Some(text(session, "hint")).filter(|hint| !hint.is_empty());
    let hint = hint.map(|hint| format!("\n\nWhat to do: {}.", shown(hint)));
    describe(&members) + &hint.unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::cli::testing::Scene;

    #[test]
    fn a_session_is_a_row_with_the_reference_that_its_user_saw() {
        let session = json!({
            "app": "outlook", "connection": "user-1", "caller": "webshop", "state": "failed",
            "reason": "access_denied", "error_codes": [53003], "hint": "an administrator must\u{1b} allow it",
            "started_at": "2026-11-23T00:00:00Z", "request_id": "9f86d081884c7d659a2feaa0c55ad015",
        });
        let row = row(&session);
        assert_eq!(row[5], "access_denied AADSTS53003");
        assert_eq!(row[7], "9F86-D081");
        let one = of_one(&session);
        assert!(one.ends_with("\n\nWhat to do: an administrator must\\u{1b} allow it."), "{one}");
        assert!(one.contains("AADSTS53003") && one.contains("9f86d081884c7d659a2feaa0c55ad015"), "{one}");
    }

    #[test]
    fn what_is_no_reference_is_wrong_usage() {
        let scene = Scene::new();
        let ended = scene.run(&["sessions", "list", "--reference", "9F86"]);
        assert!(ended.code == 2 && ended.err.contains("9F86-D081"), "{}", ended.err);
    }
}
