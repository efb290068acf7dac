//! `reload`: makes the daemon read its configuration and secrets again, and shows the result.

use http::Method;
use serde_json::Value;

use super::client::{DEADLINE, ReachArgs, text};
use super::output::shown;
use super::{ConfigPath, Exit, Failure, World, block_on};

#[derive(clap::Args)]
pub(super) struct Args {
    /// Print {outcome, at, asked_by, changed, problems, not_fetched, held_back}
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
        let lines = |member: &str| -> Vec<String> {
            answer[member].as_array().into_iter().flatten().filter_map(Value::as_str).map(shown).collect()
        };
        for problem in lines("not_fetched").into_iter().chain(lines("held_back")) {
            world.output.say(&problem);
        }
        if text(&answer, "outcome") == "ok" {
            world.output.say(&format!("In force: {}.", lines("changed").join(", ")));
            return Ok(());
        }
        for problem in lines("problems") {
            world.output.say(&problem);
        }
        world.output.say("Refused, and nothing was changed.");
        Err(Failure::silent(Exit::Failed))
    })
}
