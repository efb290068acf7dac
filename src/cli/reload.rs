//! `reload`: makes the daemon read its configuration and secrets again, and shows the result.

use http::Method;

use super::client::{DEADLINE, ReachArgs, read};
use super::output::shown;
use super::{ConfigPath, Exit, Failure, World, block_on};
use crate::api::admin::wire::{ONLY_FILES, Reload};

#[derive(clap::Args)]
pub(super) struct Args {
    /// Print {outcome, at, asked_by, changed, problems, needs_restart, not_fetched, held_back, warnings}
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    reach: ReachArgs,
}

pub(super) fn run(args: &Args, config: &ConfigPath, world: &mut World) -> Result<(), Failure> {
    let client = args.reach.admin(config, world)?;
    block_on(async {
        let answer = client.ask(Method::POST, "/admin/v1/reload", None, DEADLINE).await?;
        if args.json {
            world.output.json(&answer)?;
        }
        let reload: Reload = read(&answer)?;
        let lines = |all: &[String]| -> Vec<String> { all.iter().map(|one| shown(one)).collect() };
        for warning in lines(&reload.warnings) {
            world.output.say(&format!("warning: {warning}"));
        }
        for problem in lines(&reload.not_fetched).into_iter().chain(lines(&reload.held_back)) {
            world.output.say(&problem);
        }
        if reload.outcome == "ok" {
            if let Some(said) = in_force(&reload) {
                world.output.say(&said);
            }
            if let Some(left) = needs_restart(&reload) {
                world.output.say(&left);
            }
            return Ok(());
        }
        for problem in lines(&reload.problems) {
            world.output.say(&problem);
        }
        world.output.say("Refused, and nothing was changed.");
        if let Some(left) = needs_restart(&reload) {
            world.output.say(&left);
        }
        Err(Failure::silent(Exit::Failed))
    })
}

/// Says what is in force now. (A section that a wrong file keeps out is not among those that changed.)
fn in_force(reload: &Reload) -> Option<String> {
    let but = if reload.warnings.is_empty() { "" } else { ", but where a warning says otherwise" };
    match &reload.changed[..] {
        [] if reload.needs_restart.is_empty() => {
            Some("Read again; nothing that differs is in force: the warnings say why.".to_owned())
        }
        [] => None,
        [only] if only == ONLY_FILES => {
            Some(format!("Read again; no setting differs. The content of secret files is in force{but}."))
        }
        sections => {
            let sections: Vec<String> = sections.iter().map(|one| shown(one)).collect();
            Some(format!("In force: {}.", sections.join(", ")))
        }
    }
}

/// Says which sections wait for a restart, if some do.
pub(super) fn needs_restart(reload: &Reload) -> Option<String> {
    let sections: Vec<String> = reload.needs_restart.iter().map(|one| shown(one)).collect();
    (!sections.is_empty()).then(|| {
        let rest =
            if reload.outcome == "ok" && reload.warnings.is_empty() { "; all else is in force" } else { "" };
        let sections = sections.join(", ");
        format!("Needs a restart: {sections} (until then the daemon runs with these as before{rest}).")
    })
}
