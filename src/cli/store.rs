//! `store adopt`: declares that the present store is the right one.

use http::Method;

use super::client::{DEADLINE, ReachArgs};
use super::{ConfigPath, Failure, World, block_on};

#[derive(clap::Subcommand)]
pub(super) enum Command {
    /// Accept a Redis that differs from the earlier one, for example one that came back empty
    #[command(
        after_help = "Example:\n  tokenward store adopt\n\nConnections that are not in it count as deleted \
            from then on: restore a backup first, if there is one."
    )]
    Adopt {
        /// Do not ask
        #[arg(long)]
        yes: bool,
        /// Print {adopted}
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        reach: ReachArgs,
    },
}

pub(super) fn run(command: &Command, config: &ConfigPath, world: &mut World) -> Result<(), Failure> {
    let Command::Adopt { yes, json, reach } = command;
    let client = reach.admin(config, world)?;
    block_on(async {
        const QUESTION: &str = "Adopt the present store? Connections that are not in it must be connected \
            again.";
        if !yes && !world.output.ask(QUESTION).await {
            return Err(Failure::failed("not adopted"));
        }
        let answer = client.ask(Method::POST, "/admin/v1/store/adopt", None, DEADLINE).await?;
        if *json {
            return world.output.json(&answer);
        }
        world.output.say("Adopted. Every replica follows by itself.");
        Ok(())
    })
}
