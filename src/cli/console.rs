//! `console`: a link that opens the operators' console in a browser.

use http::Method;

use super::client::{DEADLINE, ReachArgs, read};
use super::output::shown;
use super::{ConfigPath, Failure, World, block_on};
use crate::api::admin::wire::ConsoleLink;

/// Where a listener for the console is configured.
const LISTENER: &str = "add a listener that a browser on this machine can open, and start the daemon \
                        again:\n  [[listen.admin]]\n  address = \"127.0.0.1:7071\"";

#[derive(clap::Args)]
pub(super) struct Args {
    /// Print {urls, expires_at}
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    reach: ReachArgs,
}

pub(super) fn run(args: &Args, config: &ConfigPath, world: &mut World) -> Result<(), Failure> {
    let client = args.reach.admin(config, world)?;
    block_on(async {
        let answer = client.ask(Method::POST, "/admin/v1/console-links", None, DEADLINE).await?;
        let link: ConsoleLink = read(&answer)?;
        let Some(url) = link.urls.first() else {
            return Err(Failure::failed(
                "no browser can open the console: listen.admin has no TCP listener that admits you",
            )
            .hint(LISTENER));
        };
        if args.json {
            return world.output.json(&answer);
        }
        world.output.data(&shown(url))?;
        world.output.say("Open it within a minute, in a browser that reaches this address. It works once.");
        for other in &link.urls[1..] {
            world.output.say(&format!("The same link at another listener: {}", shown(other)));
        }
        Ok(())
    })
}
