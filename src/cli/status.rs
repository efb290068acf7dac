//! `status`: how the daemon stands, over the admin API. On a terminal it is shown again and again.

use std::io::IsTerminal;
use std::time::Duration;

use serde_json::Value;

use super::client::{ReachArgs, text};
use super::credentials::credentials_table;
use super::output::shown;
use super::{ConfigPath, Failure, World, block_on};

/// How often a terminal's screen is drawn anew.
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
            if args.json {
                return world.output.json(&status);
            }
            let clear = if live { "\u{1b}[2J\u{1b}[H" } else { "" };
            world.output.data(&format!("{clear}{}", screen(&status)))?;
            if !live {
                return Ok(());
            }
            world.clock.sleep(AGAIN).await;
        }
    })
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
    let apps = status["apps"].as_array().cloned().unwrap_or_default();
    lines.push(String::new());
    lines.push(credentials_table(&apps));
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
            "last_reload": { "outcome": "refused", "at": "2026-11-25T11:00:00Z", "asked_by": "SIGHUP", "changed": [],
                "problems": ["t.toml:3:1: apps.x: no\u{1b}[31m"] },
            "apps": [{ "app": "outlook", "credentials": [{ "id": "a", "kind": "secret", "state": "in_use", "in_use": true }] }],
        });
        let shown = screen(&status);
        for part in
            ["not ready: waits for store", "REFUSED at 2026-11-25T11:00:00Z (SIGHUP)", "t.toml:3:1", "in_use"]
        {
            assert!(shown.contains(part), "{part} in {shown}");
        }
        assert!(!shown.contains('\u{1b}'));
    }
}
