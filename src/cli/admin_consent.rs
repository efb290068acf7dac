//! `admin-consent`: a link with which a tenant's administrator approves an app for everyone, made over the
//! local API as any caller makes one.

use std::time::Duration;

use http::Method;
use serde_json::{Value, json};

use super::args::app_name;
use super::client::{Client, DEADLINE, ReachArgs, target, text};
use super::output::shown;
use super::{ConfigPath, Failure, World, block_on};
use crate::config;
use crate::domain::clouds::GRAPH;
use crate::domain::id::AppName;
use crate::domain::scope::{Scope, ScopeNaming};

/// Time between two looks at the session.
const LOOK: Duration = Duration::from_secs(2);
/// Most failed looks in a row, for a restart of the daemon.
const MOST_FAILURES: u32 = 30;

/// Whose approval to ask for.
#[derive(clap::Args)]
pub(super) struct Args {
    /// The app, as in [apps.APP]
    #[arg(value_name = "APP", value_parser = app_name)]
    app: AppName,
    /// The tenant, by id or by one of its domains; without it, that of the administrator who signs in
    #[arg(long, value_name = "TENANT")]
    tenant: Option<String>,
    /// Where the browser goes afterwards; must be among the app's return_urls
    #[arg(long, value_name = "URL")]
    return_url: Option<String>,
    /// Wait until the administrator comes back
    #[arg(long)]
    wait: bool,
    /// Print {app, tenant, id, admin_consent_url, expires_at}; with --wait also {state, reason}
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    reach: ReachArgs,
}

pub(super) fn run(args: &Args, config: &ConfigPath, world: &mut World) -> Result<(), Failure> {
    let client = args.reach.local(config, world)?;
    // Only for what is told: the daemon's own file decides what the link asks for.
    let scopes = config::load_file(&config.path, &world.env).ok().and_then(|loaded| {
        let app = loaded.config.apps.get(args.app.as_str())?;
        Some(consented(&app.scopes))
    });
    block_on(async {
        let mut session = start(&client, args).await?;
        let url = shown(text(&session, "admin_consent_url"));
        if args.json && !args.wait {
            return world.output.json(&session);
        }
        if args.json {
            world.output.say(&format!("Send this link to the administrator:\n{url}"));
        } else {
            world.output.say("Send this link to an administrator of the tenant:");
            world.output.data(&url)?;
            world.output.say(&told(args, scopes.as_deref(), text(&session, "expires_at")));
        }
        if !args.wait {
            return Ok(());
        }
        let state = tokio::select! {
            state = follow(&client, text(&session, "id"), world) => state?,
            _ = tokio::signal::ctrl_c() => {
                return Err(Failure::failed("stopped waiting; the link works until it ends"));
            }
        };
        for member in ["state", "tenant", "reason"] {
            if let Some(value) = state.get(member) {
                session[member] = value.clone();
            }
        }
        if args.json {
            world.output.json(&session)?;
        }
        conclude(&state, args, world)
    })
}

/// Returns the scopes that an administrator is asked about: not those that the sign-in itself needs. Only
/// Entra has administrators who consent.
fn consented(scopes: &[String]) -> Vec<String> {
    let naming = ScopeNaming::Entra { graph: GRAPH.to_owned() };
    let is_of_sign_in = |scope: &str| naming.scopes_lossy([scope]).iter().any(Scope::is_openid);
    scopes.iter().filter(|scope| !is_of_sign_in(scope)).cloned().collect()
}

/// Makes the session. Its shape is what `--json` prints.
async fn start(client: &Client, args: &Args) -> Result<Value, Failure> {
    let mut body = json!({ "app": args.app.as_str() });
    for (member, value) in [("tenant", &args.tenant), ("return_url", &args.return_url)] {
        if let Some(value) = value {
            body[member] = json!(value);
        }
    }
    let started = client.ask(Method::POST, "/v1/admin-consent-sessions", Some(&body), DEADLINE).await?;
    let mut session = json!({ "app": args.app.as_str(), "tenant": args.tenant });
    for member in ["id", "admin_consent_url", "expires_at"] {
        session[member] = json!(text(&started, member));
    }
    if text(&session, "admin_consent_url").is_empty() {
        return Err(Failure::failed("the daemon's answer holds no link"));
    }
    Ok(session)
}

/// Tells what happens at the other end of the link.
fn told(args: &Args, scopes: Option<&[String]>, expires_at: &str) -> String {
    let whose = match &args.tenant {
        Some(tenant) => format!("an administrator of {}", shown(tenant)),
        None => "an administrator, whose tenant it then is".to_owned(),
    };
    let what = match scopes {
        Some(scopes) => {
            format!(":\n  {}", scopes.iter().map(|one| shown(one)).collect::<Vec<_>>().join("\n  "))
        }
        None => ", which are those of the app's `scopes`".to_owned(),
    };
    format!(
        "Whoever opens it signs in as {whose}. Microsoft shows the app's name and publisher as they are \
         registered (\"unverified\" if the publisher is not verified), that the approval is for everyone \
         in the organisation, and the permissions{what}\nThe role Cloud Application Administrator or \
         Application Administrator may accept. Afterwards the browser comes back to a page of tokenward, \
         and the tenant's blocked connections are tried at once.\nThe way back works until {}.",
        shown(expires_at)
    )
}

/// Waits until the administrator has come back, or it is too late.
async fn follow(client: &Client, id: &str, world: &mut World) -> Result<Value, Failure> {
    let look = target(&["v1", "admin-consent-sessions", id], &[]);
    let mut failures = 0;
    loop {
        match client.get(&look).await {
            Ok(state) if text(&state, "state") == "pending" => failures = 0,
            Ok(state) => return Ok(state),
            Err(error) if error.is_passing() && failures < MOST_FAILURES => failures += 1,
            Err(error) => return Err(error.into()),
        }
        world.clock.sleep(LOOK).await;
        world.output.dot();
    }
}

fn conclude(state: &Value, args: &Args, world: &mut World) -> Result<(), Failure> {
    let tenant = Some(text(state, "tenant")).filter(|tenant| !tenant.is_empty());
    let of = tenant.map(|tenant| format!(" of tenant {}", shown(tenant))).unwrap_or_default();
    match text(state, "state") {
        "reported" => {
            world.output.say(&format!(
                "The browser came back and says that the administrator{of} approved. Anybody with the link \
                 can say that: the next user's sign-in there shows it."
            ));
            Ok(())
        }
        "consented" => {
            world.output.say(&format!("Approved: a user's token{of} has shown the permissions."));
            Ok(())
        }
        "expired" => {
            Err(Failure::failed("nobody came back in time").hint("run the command again for a new link"))
        }
        _ => {
            let reason = shown(text(state, "reason"));
            let failure = Failure::failed(format!("not approved: {reason}"));
            Err(match text(state, "hint") {
                "" => failure.hint(format!("tokenward admin-consent {} makes a new link", args.app)),
                hint => failure.hint(shown(hint)),
            })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(tenant: Option<&str>) -> Args {
        Args {
            app: AppName::parse("outlook").expect("a name"),
            tenant: tenant.map(str::to_owned),
            return_url: None,
            wait: false,
            json: false,
            reach: ReachArgs { key_file: None, endpoint: None },
        }
    }

    #[test]
    fn the_operator_is_told_what_the_administrator_will_see() {
        let scopes = ["Mail.Read".to_owned(), "Calendars.Read".to_owned()];
        let words = told(&args(Some("contoso.com")), Some(&scopes), "2026-11-23T01:00:00Z");
        for part in
            ["administrator of contoso.com", "\n  Mail.Read\n  Calendars.Read\n", "2026-11-23T01:00:00Z"]
        {
            assert!(words.contains(part), "{part}: {words}");
        }
        let words = told(&args(None), None, "");
        assert!(words.contains("whose tenant it then is") && words.contains("the app's `scopes`"), "{words}");
        let all = ["Offline_Access", "openid", "address", "Mail.Read"].map(str::to_owned);
        assert_eq!(consented(&all), ["Mail.Read"]);
    }
}
