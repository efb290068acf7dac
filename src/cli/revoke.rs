//! `revoke`: the kill switch.

use http::Method;

use super::args::{app_name, caller_name, handle_id};
use super::client::{DEADLINE, ReachArgs, body, read};
use super::{ConfigPath, Failure, World, block_on};
use crate::api::admin::wire::{Revocation, Revoked};
use crate::domain::account::{PERSONAL_TENANT, tenant_id};
use crate::domain::handle::HandleId;
use crate::domain::id::{AppName, CallerName};

#[derive(clap::Args)]
#[group(id = "what", required = true, multiple = true, args = ["app", "tenant", "caller", "handle"])]
pub(super) struct Args {
    /// Of this app
    #[arg(long, value_name = "APP", value_parser = app_name)]
    app: Option<AppName>,
    /// Of this tenant, by its id
    #[arg(long, value_name = "TENANT_ID", value_parser = tenant_id)]
    tenant: Option<String>,
    /// Connected by this caller
    #[arg(long, value_name = "CALLER", value_parser = caller_name)]
    caller: Option<CallerName>,
    /// This handle alone, by its id: the part between the first two `_` of the handle
    #[arg(
        long, value_name = "ID", value_parser = handle_id,
        conflicts_with_all = ["app", "tenant", "caller", "even_if_unknown", "dry_run"]
    )]
    handle: Option<HandleId>,
    /// Revoke even if no such app, tenant or caller is known
    #[arg(long)]
    even_if_unknown: bool,
    /// Only say how many connections are meant
    #[arg(long, conflicts_with = "yes")]
    dry_run: bool,
    /// Do not ask
    #[arg(long)]
    yes: bool,
    /// Print {revoked_at, connections, complete}
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    reach: ReachArgs,
}

pub(super) fn run(args: &Args, config: &ConfigPath, world: &mut World) -> Result<(), Failure> {
    let client = args.reach.admin(config, world)?;
    if let Some(handle) = &args.handle {
        // (It ends one bearer and destroys nothing, so nobody is asked.)
        let asked = body(&Revocation { handle: Some(handle.to_string()), ..Revocation::default() });
        return block_on(async {
            let done = client.ask(Method::POST, "/admin/v1/revocations", Some(&asked), DEADLINE).await?;
            match args.json {
                true => return world.output.json(&done),
                false => world.output.say(&format!(
                    "Ended the handle {handle}, if there is one of this id. Every replica follows within \
                     seconds."
                )),
            }
            Ok(())
        });
    }
    let named = [
        args.app.as_ref().map(|app| format!("of app {app}")),
        args.tenant.as_ref().map(|tenant| format!("of tenant {tenant}")),
        args.caller.as_ref().map(|caller| format!("connected by {caller}")),
    ];
    let named = named.into_iter().flatten().collect::<Vec<_>>().join(", ");
    let body = |dry_run: bool| {
        body(&Revocation {
            app: args.app.clone(),
            tenant: args.tenant.clone(),
            caller: args.caller.as_ref().map(CallerName::to_string),
            handle: None,
            even_if_unknown: args.even_if_unknown,
            dry_run,
        })
    };
    if args.tenant.as_deref() == Some(PERSONAL_TENANT) {
        world
            .output
            .say("This is the tenant of every personal Microsoft account there is, not of one customer.");
    }
    block_on(async {
        let path = "/admin/v1/revocations";
        if args.dry_run {
            let meant = client.ask(Method::POST, path, Some(&body(true)), DEADLINE).await?;
            if args.json {
                return world.output.json(&meant);
            }
            world.output.say(&format!("That would end {}, {named}.", count(&read(&meant)?)));
            return Ok(());
        }
        if !args.yes {
            let meant = client.ask(Method::POST, path, Some(&body(true)), DEADLINE).await?;
            let question = format!(
                "End every connection {named}, {} now? Their grants are destroyed, and links made before \
                 stop working; each user must connect again. Tokens already handed out work until they \
                 expire, and consent at the authority stays.",
                count(&read(&meant)?)
            );
            if !world.output.ask(&question).await {
                return Err(Failure::failed("not revoked"));
            }
        }
        let done = client.ask(Method::POST, path, Some(&body(false)), DEADLINE).await?;
        if args.json {
            return world.output.json(&done);
        }
        world.output.say(&format!(
            "Revoked every connection {named}: {}. Every replica follows within seconds.",
            count(&read(&done).unwrap_or_default())
        ));
        Ok(())
    })
}

/// Formats the number of affected connections.
fn count(meant: &Revoked) -> String {
    let at_least = if meant.complete == Some(false) { "at least " } else { "" };
    match meant.connections {
        Some(1) => format!("{at_least}1 connection"),
        Some(connections) => format!("{at_least}{connections} connections"),
        None => "an unknown number of connections".to_owned(),
    }
}
