//! `revoke`: the kill switch.

use http::Method;
use serde_json::json;

use super::args::{app_name, caller_name};
use super::client::{DEADLINE, ReachArgs};
use super::{ConfigPath, Failure, World, block_on};
use crate::domain::id::{AppName, CallerName};

#[derive(clap::Args)]
#[group(id = "what", required = true, multiple = true, args = ["app", "tenant", "caller"])]
pub(super) struct Args {
    /// Of this app
    #[arg(long, value_name = "APP", value_parser = app_name)]
    app: Option<AppName>,
    /// Of this tenant, by its id
    #[arg(long, value_name = "TENANT")]
    tenant: Option<String>,
    /// Connected by this caller
    #[arg(long, value_name = "CALLER", value_parser = caller_name)]
    caller: Option<CallerName>,
    /// Do not ask
    #[arg(long)]
    yes: bool,
    #[command(flatten)]
    reach: ReachArgs,
}

pub(super) fn run(args: &Args, config: &ConfigPath, world: &mut World) -> Result<(), Failure> {
    let client = args.reach.admin(config, world)?;
    let named = [
        args.app.as_ref().map(|app| format!("of app {app}")),
        args.tenant.as_ref().map(|tenant| format!("of tenant {tenant}")),
        args.caller.as_ref().map(|caller| format!("connected by {caller}")),
    ];
    let named = named.into_iter().flatten().collect::<Vec<_>>().join(", ");
    block_on(async {
        let question = format!(
            "End every connection {named}? Their grants are destroyed; each user has to connect again. Tokens that were handed out work until they end, and consent at the authority stays."
        );
        if !args.yes && !world.output.ask(&question).await {
            return Err(Failure::failed("not revoked"));
        }
        let body = json!({
            "app": args.app.as_ref().map(AppName::as_str),
            "tenant": args.tenant,
            "caller": args.caller.as_ref().map(CallerName::as_str),
        });
        client.ask(Method::POST, "/admin/v1/revocations", Some(&body), DEADLINE).await?;
        world.output.say(&format!("Revoked every connection {named}. Every replica follows within seconds."));
        Ok(())
    })
}
