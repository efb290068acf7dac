//! `status`: the daemon's state, over the admin API. On a terminal it is shown again and again.

use std::io::IsTerminal;
use std::time::Duration;

use super::client::{ReachArgs, read};
use super::credentials::credentials_table;
use super::output::{shown, table};
use super::reload::needs_restart;
use super::{ConfigPath, Exit, Failure, World, block_on};
use crate::api::admin::wire::{Ending, Job, Status, TenantBlocked, Webhook};

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
            let answer = client.get("/admin/v1/status").await?;
            if args.json {
                world.output.json(&answer)?;
            }
            let status: Status = read(&answer)?;
            match (args.json, live) {
                (true, _) => {}
                (false, true) => world.output.screen(&screen(&status, true))?,
                (false, false) => world.output.report(&screen(&status, false))?,
            }
            if !live {
                return if status.waiting_for.is_empty() {
                    Ok(())
                } else {
                    Err(Failure::silent(Exit::Failed))
                };
            }
            world.clock.sleep(AGAIN).await;
        }
    })
}

/// Describes a lost store, if it is lost.
pub(super) fn store_lost(status: &Status) -> Option<String> {
    let store = status.store.as_ref().filter(|store| !store.reachable)?;
    let served = match store.cached_until.as_deref() {
        Some(until) => format!("until {}", shown(until)),
        None => "while they live".to_owned(),
    };
    Some(format!(
        "the store: NOT REACHABLE since {}; tokens in memory are served {served}",
        shown(store.answered_at.as_deref().unwrap_or_default())
    ))
}

/// Lists the tenants that block an app.
fn tenants_blocked(all: &[TenantBlocked]) -> Option<String> {
    let row = |one: &TenantBlocked| {
        let tenant = if one.tenant.is_empty() { "-" } else { &one.tenant };
        vec![
            shown(&one.since),
            shown(&one.app),
            shown(tenant),
            shown(&one.reason),
            match one.connections {
                0 => "tokens of the app's own".to_owned(),
                some => some.to_string(),
            },
        ]
    };
    let rows: Vec<Vec<String>> = all.iter().map(row).collect();
    (!rows.is_empty()).then(|| table(&["SINCE", "APP", "TENANT", "REASON", "CONNECTIONS"], &rows))
}

/// Lists the webhooks.
fn webhooks(all: &[Webhook]) -> Option<String> {
    let row = |one: &Webhook| {
        let since =
            one.failing_since.as_deref().map(|at| format!(" since {}", shown(at))).unwrap_or_default();
        let how = one.problem.as_deref().map(|why| format!(": {}", shown(why))).unwrap_or_default();
        let state = match one.state.as_str() {
            "takes" => "takes events".to_owned(),
            "fails" => format!("FAILS{since}{how}"),
            "gone" => format!("SAYS THAT IT IS GONE (410){since}"),
            "left_out" => "LEFT OUT: a file of it is wrong".to_owned(),
            _ => "not known now".to_owned(),
        };
        let oldest = one.oldest_waiting_at.as_deref().unwrap_or("-");
        vec![shown(&one.name), shown(oldest), one.undelivered.to_string(), state]
    };
    let rows: Vec<Vec<String>> = all.iter().map(row).collect();
    (!rows.is_empty()).then(|| table(&["WEBHOOK", "OLDEST WAITING", "NEVER DELIVERED", "STATE"], &rows))
}

/// Lists what expires, the soonest first.
fn ends_next(all: &[Ending]) -> Option<String> {
    let row = |one: &Ending| {
        let at = one.ends_at.as_deref().unwrap_or("unknown");
        vec![shown(at), shown(&one.what), shown(&one.of), shown(&one.id)]
    };
    let rows: Vec<Vec<String>> = all.iter().map(row).collect();
    (!rows.is_empty()).then(|| table(&["ENDS", "WHAT", "OF", "ID"], &rows))
}

/// Every job with its last run.
fn jobs(all: &[&Job]) -> Option<String> {
    let row = |one: &&Job| {
        let ended = match one.outcome.as_deref() {
            None => "-".to_owned(),
            Some("ok") => "ok".to_owned(),
            Some(_) => format!("FAILED: {}", shown(one.problem.as_deref().unwrap_or_default())),
        };
        vec![shown(&one.job), shown(one.last_run_at.as_deref().unwrap_or("not yet")), ended]
    };
    let rows: Vec<Vec<String>> = all.iter().map(row).collect();
    (!rows.is_empty()).then(|| table(&["JOB", "LAST RUN", "ENDED"], &rows))
}

/// `live`: it is to fit on a terminal, so jobs without trouble are left out.
fn screen(status: &Status, live: bool) -> String {
    let list = |all: &[String]| -> Vec<String> { all.iter().map(|one| shown(one)).collect() };
    let ready = if status.waiting_for.is_empty() {
        "ready".to_owned()
    } else {
        format!("not ready: waits for {}", list(&status.waiting_for).join(", "))
    };
    let mut lines = vec![format!("tokenward {} at {}: {ready}", shown(&status.version), shown(&status.now))];
    lines.extend(status.notes.iter().map(|(part, what)| format!("{}: {}", shown(part), shown(what))));
    match &status.last_reload {
        None => lines.push("configuration: as it was at the start".to_owned()),
        Some(reload) if reload.outcome == "ok" => {
            lines.push(format!(
                "configuration: taken up at {} ({}){}",
                shown(&reload.at),
                shown(&reload.asked_by),
                // (What a wrong file keeps out is not among them.)
                match &list(&reload.changed)[..] {
                    [] => String::new(),
                    changed => format!(": {}", changed.join(", ")),
                }
            ));
            lines.extend(list(&reload.warnings).into_iter().map(|warning| format!("  warning: {warning}")));
            lines.extend(needs_restart(reload));
        }
        Some(reload) => {
            lines.push(format!(
                "configuration: REFUSED at {} ({}); the one before is in force",
                shown(&reload.at),
                shown(&reload.asked_by)
            ));
            lines.extend(list(&reload.problems).into_iter().map(|problem| format!("  {problem}")));
            lines.extend(needs_restart(reload));
        }
    }
    lines.extend(store_lost(status));
    lines.push(String::new());
    lines.push(credentials_table(&status.apps));
    if let Some(blocked) = tenants_blocked(&status.tenants_blocked) {
        lines.extend([String::new(), "Tenants that block an app:".to_owned(), blocked]);
    }
    if let Some(webhooks) = webhooks(&status.webhooks) {
        lines.extend([String::new(), "Webhooks:".to_owned(), webhooks]);
    }
    if let Some(ends) = ends_next(&status.ends_next) {
        lines.extend([String::new(), "What ends next:".to_owned(), ends]);
    }
    let has_failed = |job: &&Job| job.outcome.as_deref().is_some_and(|outcome| outcome != "ok");
    let shown_jobs: Vec<&Job> = status.jobs.iter().filter(|job| !live || has_failed(job)).collect();
    if let Some(jobs) = jobs(&shown_jobs) {
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
            "tenants_blocked": [{
                "app": "outlook", "tenant": "t-1", "reason": "policy_blocked",
                "since": "2026-11-25T10:00:00Z", "connections": 412,
            }, {
                "app": "outlook", "tenant": "t-2", "reason": "app_not_in_tenant",
                "since": "2026-11-25T10:00:00Z", "connections": 0,
            }],
            "webhooks": [
                { "name": "product", "state": "takes" },
                {
                    "name": "archive", "state": "fails", "failures": 7,
                    "failing_since": "2026-11-25T10:00:00Z",
                    "problem": "it answered\u{1b} 503", "oldest_waiting_at": "2026-11-25T09:59:00Z",
                    "undelivered": 2,
                },
            ],
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
        let status: Status = read(&status).expect("a status");
        let shown = screen(&status, false);
        let embedded = json!({ "store": { "reachable": false, "answered_at": "2026-11-25T11:59:00Z" } });
        let embedded = store_lost(&read(&embedded).expect("a status")).expect("it is lost");
        assert!(embedded.ends_with("tokens in memory are served while they live"), "{embedded}");
        for part in [
            "not ready: waits for store",
            "store eviction: Redis is set to evict",
            "REFUSED at 2026-11-25T11:00:00Z (SIGHUP)",
            "t.toml:3:1",
            "in_use",
            "NOT REACHABLE since 2026-11-25T11:59:00Z; tokens in memory are served until \
             2026-11-25T12:04:00Z",
            "2026-11-25T10:00:00Z  outlook  t-1     policy_blocked     412",
            "2026-11-25T10:00:00Z  outlook  t-2     app_not_in_tenant  tokens of the app's own",
            "product  -                     0                takes events",
            "archive  2026-11-25T09:59:00Z  2                FAILS since 2026-11-25T10:00:00Z: it answered",
            "2026-12-01T00:00:00Z  API key        mail-sync  k",
            "unknown               client secret  outlook    a",
            "files       not yet               -",
            "keyring     2026-11-25T11:59:59Z  ok",
            "store_ping  2026-11-25T11:59:58Z  FAILED: no",
        ] {
            assert!(shown.contains(part), "{part} in {shown}");
        }
        assert!(!shown.contains('\u{1b}'));
        // A terminal is not high: what runs well is left out.
        let live = screen(&status, true);
        assert!(live.contains("store_ping  2026-11-25T11:59:58Z  FAILED: no"), "{live}");
        assert!(!live.contains("keyring     2026") && !live.contains("not yet"), "{live}");
    }
    #[test]
    fn the_last_reload_s_warnings_are_shown() {
        let status = json!({ "last_reload": {
            "outcome": "ok", "at": "2026-11-25T11:00:00Z", "asked_by": "SIGHUP", "changed": ["apps.outlook"],
            "warnings": ["t.toml:3:1: apps.outlook: no\u{1b} `home_tenant`"],
        } });
        let shown = screen(&read(&status).expect("a status"), true);
        let lines = "(SIGHUP): apps.outlook\n  warning: t.toml:3:1: apps.outlook: no";
        assert!(shown.contains(lines) && !shown.contains('\u{1b}'), "{shown}");
    }
}
