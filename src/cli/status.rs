//! `status`: the daemon's state, over the admin API. On a terminal it is shown again and again.

use std::io::IsTerminal;
use std::time::Duration;

use serde_json::Value;

use super::client::{ReachArgs, text};
use super::credentials::credentials_table;
use super::output::{shown, table};
use super::{ConfigPath, Exit, Failure, World, block_on};

/// Time between two refreshes of a terminal's screen.
const AGAIN: Duration = Duration::from_secs(2);

#[derive(clap::Args)]
pub(super) struct Args {
    /// Show it once, on a terminal too
    #[arg(long)]
    once: bool,
    /// Print it once, as the API has it
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    reach: ReachArgs,
}

pub(super) fn run(args: &Args, config: &ConfigPath, world: &mut World) -> Result<(), Failure> {
    let client = args.reach.admin(config, world)?;
    let live = !args.once && !args.json && std::io::stdout().is_terminal();
    block_on(async {
        loop {
            let status = client.get("/admin/v1/status").await?;
            match (args.json, live) {
                (true, _) => world.output.json(&status)?,
                (false, true) => world.output.screen(&screen(&status))?,
                (false, false) => world.output.data(&screen(&status))?,
            }
            if !live {
                let is_ready = status["waiting_for"].as_array().is_none_or(Vec::is_empty);
                return if is_ready { Ok(()) } else { Err(Failure::silent(Exit::Failed)) };
            }
            world.clock.sleep(AGAIN).await;
        }
    })
}

/// Describes a lost store, if it is lost.
pub(super) fn store_lost(status: &Value) -> Option<String> {
    let store = &status["store"];
    (store["reachable"] == false).then(|| {
        format!(
            "the store: NOT REACHABLE since {}; tokens in memory are served until {}",
            shown(text(store, "answered_at")),
            shown(text(store, "cached_until"))
        )
    })
}

/// Lists what expires, the soonest first.
fn ends_next(status: &Value) -> Option<String> {
    let all = status["ends_next"].as_array().filter(|all| !all.is_empty())?;
    let row = |one: &Value| {
        let at = text(one, "ends_at");
        let at = if at.is_empty() { "unknown" } else { at };
        vec![shown(at), shown(text(one, "what")), shown(text(one, "of")), shown(text(one, "id"))]
    };
    let rows: Vec<Vec<String>> = all.iter().map(row).collect();
    Some(table(&["ENDS", "WHAT", "OF", "ID"], &rows))
}

/// Every job with its last run.
fn jobs(status: &Value) -> Option<String> {
    let all = status["jobs"].as_array().filter(|all| !all.is_empty())?;
    let row = |one: &Value| {
        let at = text(one, "last_run_at");
        let ended = match (text(one, "outcome"), text(one, "problem")) {
            ("", _) => "-".to_owned(),
            ("ok", _) => "ok".to_owned(),
            (_, problem) => format!("FAILED: {}", shown(problem)),
        };
        vec![shown(text(one, "job")), shown(if at.is_empty() { "not yet" } else { at }), ended]
    };
    let rows: Vec<Vec<String>> = all.iter().map(row).collect();
    Some(table(&["JOB", "LAST RUN", "ENDED"], &rows))
}

fn screen(status: &Value) -> String {
    let list = |value: &Value| -> Vec<String> {
        value.as_array().into_iter().flatten().filter_map(Value::as_str).map(shown).collect()
    };
    let waiting = list(&status["waiting_for"]);
    let ready = if waiting.is_empty() {
        "ready".to_owned()
    } else {
        format!("not ready: waits for {}", waiting.join(", "))
    };
    let mut lines = vec![format!(
        "tokenward {} at {}: {ready}",
        shown(text(status, "version")),
        shown(text(status, "now"))
    )];
    let notes = status["notes"].as_object().into_iter().flatten();
    lines.extend(
        notes.map(|(part, what)| format!("{}: {}", shown(part), shown(what.as_str().unwrap_or_default()))),
    );
    let reload = &status["last_reload"];
    match text(reload, "outcome") {
        "" => lines.push("configuration: as it was at the start".to_owned()),
        "ok" => lines.push(format!(
            "configuration: taken up at {} ({}): {}",
            shown(text(reload, "at")),
            shown(text(reload, "asked_by")),
            list(&reload["changed"]).join(", ")
        )),
        _ => {
            lines.push(format!(
                "configuration: REFUSED at {} ({}); the one before is in force",
                shown(text(reload, "at")),
                shown(text(reload, "asked_by"))
            ));
            lines.extend(list(&reload["problems"]).into_iter().map(|problem| format!("  {problem}")));
        }
    }
    lines.extend(store_lost(status));
    let apps = status["apps"].as_array().cloned().unwrap_or_default();
    lines.push(String::new());
    lines.push(credentials_table(&apps));
    if let Some(ends) = ends_next(status) {
        lines.extend([String::new(), "What ends next:".to_owned(), ends]);
    }
    if let Some(jobs) = jobs(status) {
        lines.extend([String::new(), "What runs at intervals:".to_owned(), jobs]);
    }
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_refused_reload_is_shown_with_its_reasons_and_control_characters_are_not() {
        let status = json!({
            "version": "0.1.0", "now": "2026-11-25T12:00:00Z", "waiting_for": ["store"],
            "notes": { "store eviction": "Redis is set to evict" },
            "last_reload": {
                "outcome": "refused", "at": "2026-11-25T11:00:00Z", "asked_by": "SIGHUP", "changed": [],
                "problems": ["t.toml:3:1: apps.x: no\u{1b}[31m"] },
            "apps": [{
                "app": "outlook",
                "credentials": [{ "id": "a", "kind": "secret", "state": "in_use", "in_use": true }],
            }],
            "store": {
                "reachable": false, "answered_at": "2026-11-25T11:59:00Z",
                "cached_until": "2026-11-25T12:04:00Z",
            },
            "ends_next": [
                { "what": "API key", "of": "mail-sync", "id": "k", "ends_at": "2026-12-01T00:00:00Z" },
                { "what": "client secret", "of": "outlook", "id": "a", "ends_at": null },
            ],
            "jobs": [
                { "job": "files", "last_run_at": null, "outcome": null, "problem": null },
                { "job": "keyring", "last_run_at": "2026-11-25T11:59:59Z", "outcome": "ok", "problem": null },
                {
                    "job": "store_ping",
                    "last_run_at": "2026-11-25T11:59:58Z",
                    "outcome": "failed",
                    "problem": "no\u{1b}route",
                },
            ],
        });
        let shown = screen(&status);
        for part in [
            "not ready: waits for store",
            "store eviction: Redis is set to evict",
            "REFUSED at 2026-11-25T11:00:00Z (SIGHUP)",
            "t.toml:3:1",
            "in_use",
            "NOT REACHABLE since 2026-11-25T11:59:00Z; tokens in memory are served until \
             2026-11-25T12:04:00Z",
            "2026-12-01T00:00:00Z  API key        mail-sync  k",
            "unknown               client secret  outlook    a",
            "files       not yet               -",
            "keyring     2026-11-25T11:59:59Z  ok",
            "store_ping  2026-11-25T11:59:58Z  FAILED: no",
        ] {
            assert!(shown.contains(part), "{part} in {shown}");
        }
        assert!(!shown.contains('\u{1b}'));
    }
}
