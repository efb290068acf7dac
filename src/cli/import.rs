//! `import`: takes over grants that another system holds.
//!
//! A dry run comes first: every row is read and checked by the daemon, and nothing is used. Then each grant
//! is handed to the daemon, which proves it by a refresh and stores it. What became of each row stands in a
//! file beside the one that is imported, so the command may be stopped or killed at any time and run again:
//! what is done is not done twice, and what failed is tried again. The daemon is asked whether it has what
//! that file says.

mod drive;
mod ledger;
mod pace;
mod row;
mod sources;
mod verdict;

use std::path::PathBuf;

use self::drive::{Counts, Drive, Mode};
use self::ledger::Ledger;
use self::row::Naming;
use self::sources::Format;
use super::args::{app_name, caller_name};
use super::client::{ReachArgs, read};
use super::{ConfigPath, Exit, Failure, World, block_on};
use crate::api::admin::wire::Status;
use crate::domain::id::{AppName, CallerName};

/// What to import, and as what.
#[derive(clap::Args)]
pub(super) struct Args {
    /// What the file is
    #[arg(long, value_enum, value_name = "FORMAT")]
    from: Format,
    /// The file with the grants; only its owner may read it
    file: PathBuf,
    /// The app of grants whose row names none
    #[arg(long, value_name = "APP", value_parser = app_name)]
    app: Option<AppName>,
    /// The app of grants that their source files under this key, such as Nango's provider_config_key
    #[arg(long, value_name = "KEY=APP", value_parser = mapped)]
    map: Vec<(String, AppName)>,
    /// The caller in whose name, if its row names none; else the only one that may connect the name
    #[arg(long, value_name = "CALLER", value_parser = caller_name)]
    caller: Option<CallerName>,
    /// The connection's name, made of {id}, {username}, {tid} and {oid}, for grants whose row names none
    #[arg(long, value_name = "TEMPLATE")]
    connection_template: Option<String>,
    /// A file with what opens the source's secrets: Nango's NANGO_ENCRYPTION_KEY, an
    /// export's private key
    #[arg(long, value_name = "FILE")]
    source_key_file: Option<PathBuf>,
    /// Most grants a second
    #[arg(long, value_name = "NUMBER", default_value = "10", value_parser = rate)]
    rate: f64,
    /// Renew connections that exist, if the account is the same
    #[arg(long)]
    replace: bool,
    /// Also import what an earlier run imported and what was deleted from the daemon since
    #[arg(long)]
    again: bool,
    /// Only read and check every row; no grant is used
    #[arg(long, conflicts_with = "yes")]
    dry_run: bool,
    /// Do not ask
    #[arg(long)]
    yes: bool,
    /// Print a JSON object for each row that failed, and one with the counts
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    reach: ReachArgs,
}

pub(super) fn run(args: &Args, config: &ConfigPath, world: &mut World) -> Result<(), Failure> {
    let client = args.reach.admin(config, world)?;
    let naming = Naming {
        app: args.app.as_ref(),
        map: &args.map,
        caller: args.caller.as_ref(),
        template: args.connection_template.as_deref().unwrap_or(args.from.template()),
    };
    let key = args.source_key_file.as_deref();
    block_on(async {
        let ledger = Ledger::read(&args.file, world)?;
        let rows = args.from.open(&args.file, key, world)?;
        // A daemon that was there once is waited for, and no other one.
        let status: Status = read(&client.get("/admin/v1/status").await?)?;
        let drive = Drive {
            client: &client,
            naming,
            store: status.store.and_then(|store| store.id),
            replace: args.replace,
            again: args.again,
            rate: args.rate,
            json: args.json,
        };
        let mode = if args.dry_run { Mode::Check { tell: true } } else { Mode::Check { tell: false } };
        let checked = drive.run(rows, &ledger, mode, world).await?;
        if checked.forgotten > 0 {
            world.output.say(&format!(
                "{} rows that {} has as imported are no such connections of this daemon. They count as not \
                 imported.",
                checked.forgotten,
                ledger.path().display()
            ));
        }
        if checked.deleted > 0 {
            world.output.say(&format!(
                "{} rows were imported into this daemon before and were deleted from it since, or a backup \
                 from before them was restored. They are left out; --again imports them.",
                checked.deleted
            ));
        }
        if checked.left > 0 && !args.dry_run {
            return Err(Failure::failed("the check was stopped before its end, so nothing was imported"));
        }
        if args.dry_run {
            return ended(&checked, args.json, "would be imported", world);
        }
        world.output.say(&format!(
            "{} grants can be tried, {} rows would fail and are left out (`--dry-run` says why), {} were \
             imported before.",
            checked.done, checked.failed, checked.before
        ));
        if checked.done == 0 && checked.failed == 0 {
            return ended(&checked, args.json, "imported", world);
        }
        let question = "Each grant is used once at its authority, which may replace its refresh token: the \
                        other system must not use it any more. Import them now?";
        if checked.done > 0 && !args.yes {
            let is_agreed = tokio::select! {
                is_agreed = world.output.ask(question) => is_agreed,
                // (Since the check, the process does not end by it alone.)
                _ = tokio::signal::ctrl_c() => false,
            };
            if !is_agreed {
                return Err(Failure::failed("nothing was imported"));
            }
        }
        let ledger = ledger.into_writable(world)?;
        let rows = args.from.open(&args.file, key, world)?;
        let imported = drive.run(rows, &ledger, Mode::Import, world).await?;
        ended(&imported, args.json, "imported", world)
    })
}

fn ended(counts: &Counts, json: bool, done: &str, world: &mut World) -> Result<(), Failure> {
    if json {
        world.output.data(&serde_json::to_string(counts).expect("counts are plain JSON"))?;
    }
    let Counts { rows, done: now, before, deleted, failed, left, .. } = counts;
    let mut words = format!("{rows} rows: {now} {done}, {before} imported before, {failed} failed");
    if *deleted > 0 {
        words.push_str(&format!(", {deleted} deleted since"));
    }
    if *left > 0 {
        words.push_str(&format!(", {left} not tried: run the command again to go on"));
    }
    world.output.say(&format!("{words}."));
    match failed + left {
        0 => Ok(()),
        _ => Err(Failure::silent(Exit::Failed)),
    }
}

fn mapped(text: &str) -> Result<(String, AppName), String> {
    let (key, app) = text.split_once('=').ok_or("must be KEY=APP")?;
    Ok((key.to_owned(), AppName::parse(app).map_err(|error| error.to_string())?))
}

fn rate(text: &str) -> Result<f64, &'static str> {
    let rate = text.parse::<f64>().ok().filter(|rate| (0.01..=1000.0).contains(rate));
    rate.ok_or("must be a number from 0.01 to 1000")
}
