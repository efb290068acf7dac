//! `store adopt`: declares that the present store is the right one.

use http::Method;

use super::client::{DEADLINE, ReachArgs};
use super::{ConfigPath, Failure, World, block_on};

#[derive(clap::Subcommand)]
pub(super) enum Command {
    /// Believe a Redis that is not the one that was there before (one that came back empty, say)
    #[command(
        after_help = "Example:\n  tokenward store adopt\n\nWhat is not in it counts as gone from then on: \
            restore what there is first."
    )]
    Adopt {
        /// Do not ask
        #[arg(long)]
        yes: bool,
        #[command(flatten)]
        reach: ReachArgs,
    },
}

pub(super) fn run(command: &Command, config: &ConfigPath, world: &mut World) -> Result<(), Failure> {
    let Command::Adopt { yes, reach } = command;
    let client = reach.admin(config, world)?;
    block_on(async {
        const QUESTION: &str = "Believe what is in the store's place now? Connections that are not in it \
            have to be connected again.";
        if !yes && !world.output.ask(QUESTION).await {
            return Err(Failure::failed("not adopted"));
        }
        client.ask(Method::POST, "/admin/v1/store/adopt", None, DEADLINE).await?;
        world.output.say("Adopted. Every replica follows by itself.");
        Ok(())
    })
}
