//! `doctor`: everything that can be wrong between this configuration, the authority and the store.

use http::Method;
use serde_json::json;

use super::client::{Client, DEADLINE, ReachArgs, read, target};
use super::output::{shown, table};
use super::{ConfigPath, Exit, Failure, World, block_on};
use crate::api::admin::wire::{Status, Verified};
use crate::app::Environment;
use crate::app::doctor::facts::{Answer, Facts, HeardOfWebhook};
use crate::app::doctor::finding::{Finding, Report, Seen, Severity};
use crate::app::doctor::{judge, probe};
use crate::config;
use crate::domain::time::Timestamp;
use crate::domain::verdict::aadsts;

#[derive(clap::Args)]
pub(super) struct Args {
    /// Print {config, worst, findings: [{severity, code, subject, what, fault, fix, docs}], seen: [{area,
    /// subject, state}]}
    #[arg(long)]
    json: bool,
    /// Exit with 1 for a finding of this severity or worse
    #[arg(long, value_enum, default_value_t = FailOn::Error, value_name = "SEVERITY")]
    fail_on: FailOn,
    #[command(flatten)]
    reach: ReachArgs,
}

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum FailOn {
    Error,
    Warning,
    Hint,
}

impl FailOn {
    fn severity(self) -> Severity {
        match self {
            FailOn::Error => Severity::Error,
            FailOn::Warning => Severity::Warning,
            FailOn::Hint => Severity::Hint,
        }
    }
}

pub(super) fn run(args: &Args, config: &ConfigPath, world: &mut World) -> Result<(), Failure> {
    let facts = match config::load_file(&config.path, &world.env) {
        Ok(loaded) => {
            let environment = Environment::of_process(&world.env).as_owner_of(&loaded.config.sealing.keyring);
            if !args.json {
                world.output.progress("asking the authorities and the store …");
            }
            block_on(async {
                let (clock, random) = (world.clock.clone(), world.random.clone());
                let said = daemon_says(args, config, world).await;
                let mut facts = probe::examine(&loaded, &environment, said.is_some(), clock, random).await;
                hear_of_webhooks(&mut facts, said.as_ref());
                ask_the_daemon(&mut facts, args, config, world).await;
                Ok(facts)
            })?
        }
        Err(errors) => Facts {
            now: world.clock.now(),
            config: config.path.display().to_string(),
            mistakes: errors.mistakes,
            ..Facts::default()
        },
    };
    let report = judge::judge(&facts);
    let worst = report.worst();
    if args.json {
        world.output.json(&json!({
            "config": facts.config,
            "worst": worst.map(Severity::as_str),
            "findings": report.findings,
            "seen": report.seen,
        }))?;
    } else {
        world.output.data(&page(&report))?;
    }
    match worst {
        _ if !facts.mistakes.is_empty() => Err(Failure::silent(Exit::Usage)),
        Some(worst) if worst >= args.fail_on.severity() => Err(Failure::silent(Exit::Failed)),
        _ => Ok(()),
    }
}

/// What a daemon says of itself that answers where the configuration says; `None` without one.
async fn daemon_says(args: &Args, config: &ConfigPath, world: &World) -> Option<Status> {
    let client = args.reach.admin_quietly(config, world).ok()?;
    let answer = client.get("/admin/v1/status").await.ok()?;
    Some(read(&answer).unwrap_or_default())
}

/// Notes the webhooks to which a running daemon fails to deliver.
fn hear_of_webhooks(facts: &mut Facts, said: Option<&Status>) {
    for webhook in &mut facts.webhooks {
        webhook.heard = said.and_then(|said| {
            let one = said.webhooks.iter().find(|one| one.name == webhook.name)?;
            let since = Timestamp::parse_rfc3339(one.failing_since.as_deref()?)?;
            Some(HeardOfWebhook {
                is_gone: one.state == "gone",
                since,
                lasts: Timestamp::parse_rfc3339(&said.now)?.since(since),
                why: one.problem.clone().unwrap_or_default(),
            })
        });
    }
}

/// Has the running daemon present the credentials that are not presented from here. Without a daemon, or
/// without its answer, the reason stays, with that one's beside it.
async fn ask_the_daemon(facts: &mut Facts, args: &Args, config: &ConfigPath, world: &mut World) {
    let waits = |facts: &Facts| {
        let mut credentials = facts.apps.iter().flat_map(|app| &app.credentials);
        credentials.any(|one| matches!(one.answer, Answer::ByDaemon(_)))
    };
    if !waits(facts) {
        return;
    }
    let client = args.reach.admin(config, world).map_err(|failure| failure.message);
    for app in &mut facts.apps {
        for credential in &mut app.credentials {
            let Answer::ByDaemon(why) = &credential.answer else { continue };
            let answer = match &client {
                Ok(client) => verified(client, &app.name, &credential.id).await,
                Err(cause) => Err(cause.clone()),
            };
            (credential.answer, credential.is_retired) = answer.unwrap_or_else(|cause| {
                (Answer::ByDaemon(format!("{why}; asking the daemon: {cause}")), false)
            });
        }
    }
}

/// What the daemon hears of a credential, and whether that one is retired.
async fn verified(client: &Client, app: &str, id: &str) -> Result<(Answer, bool), String> {
    let path = target(&["admin", "v1", "apps", app, "credentials", id, "verify"], &[]);
    let answer = client.ask(Method::POST, &path, None, DEADLINE).await.map_err(|error| error.to_string())?;
    let Verified { credentials } = read(&answer).map_err(|failure| failure.message)?;
    let heard = credentials.into_iter().find(|one| one.id == id).ok_or("it does not know this credential")?;
    let (cause, codes) = (heard.cause.unwrap_or_default(), heard.error_codes);
    // The numbers stand at its end, and are told by themselves here.
    let cause = cause.trim_end_matches(&aadsts(codes.iter().copied())).trim_end().to_owned();
    let answer = match heard.outcome.as_str() {
        "accepted" | "accepted_in_use" => Answer::Accepted,
        "rejected" => Answer::Rejected(cause, codes),
        _ if !heard.asked => Answer::NotAsked(cause),
        _ => Answer::Unknown(cause, codes),
    };
    Ok((answer, heard.retired))
}

/// The report for people: what was looked at, then what is wrong, the worst first.
fn page(report: &Report) -> String {
    let row = |seen: &Seen| vec![seen.area.to_owned(), shown(&seen.subject), shown(&seen.state)];
    let rows: Vec<Vec<String>> = report.seen.iter().map(row).collect();
    let mut text = table(&["AREA", "OF", "SEEN"], &rows);
    for finding in &report.findings {
        text.push_str("\n\n");
        text.push_str(&paragraph(finding));
    }
    text.push_str("\n\n");
    text.push_str(&sum(report));
    text
}

fn paragraph(finding: &Finding) -> String {
    let Finding { severity, code, subject, what, fault, fix, docs } = finding;
    format!(
        "{} {}: {}\n  {}\n  fault: {fault}\n  fix:   {}\n  more:  {docs}",
        severity.as_str(),
        code.as_str(),
        shown(subject),
        shown(what),
        shown(fix),
    )
}

fn sum(report: &Report) -> String {
    let count = |severity: Severity| report.findings.iter().filter(|one| one.severity == severity).count();
    let words = [(Severity::Error, "error"), (Severity::Warning, "warning"), (Severity::Hint, "hint")];
    let words: Vec<String> = words
        .into_iter()
        .map(|(severity, noun)| (count(severity), noun))
        .filter(|(number, _)| *number > 0)
        .map(|(number, noun)| format!("{number} {noun}{}", if number == 1 { "" } else { "s" }))
        .collect();
    match words.is_empty() {
        true => "Nothing is wrong.".to_owned(),
        false => format!("{}.", words.join(", ")),
    }
}
