//! `token`: an access token of a connection, requested over the local API as any caller requests it.

use std::time::Duration;

use super::args::{ConnectionArgs, seconds};
use super::client::{ClientError, ReachArgs, target, text};
use super::{ConfigPath, Failure, World, block_on};

/// Which token.
#[derive(clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    connection: ConnectionArgs,
    /// Scopes that the token must have, space-separated; else what the caller's rule lists
    #[arg(long, value_name = "SCOPES")]
    scope: Option<String>,
    /// The resource that the token is for, when the caller's rule spans several
    #[arg(long, value_name = "RESOURCE")]
    resource: Option<String>,
    /// How much life it must have left, where the authority gives that much (60s to 24h)
    #[arg(long, value_name = "DURATION", value_parser = min_ttl)]
    min_ttl: Option<Duration>,
    /// Print the whole answer: the token with its expiry, scope, account and status
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    reach: ReachArgs,
}

/// Parses a life within the API's bounds of 60 s to 24 h.
fn min_ttl(text: &str) -> Result<Duration, String> {
    let asked = seconds(text).map_err(|error| error.to_string())?;
    match asked.as_secs() {
        60..=86_400 => Ok(asked),
        _ => Err("must be from 60s to 24h".to_owned()),
    }
}

pub(super) fn run(args: &Args, config: &ConfigPath, world: &mut World) -> Result<(), Failure> {
    let client = args.reach.local(config, world)?;
    let key = &args.connection;
    let min_ttl = args.min_ttl.map(|min_ttl| min_ttl.as_secs().to_string());
    let target = target(
        &["v1", "apps", key.app.as_str(), "connections", key.connection.as_str(), "token"],
        &[
            ("scope", args.scope.as_deref()),
            ("resource", args.resource.as_deref()),
            ("min_ttl", min_ttl.as_deref()),
        ],
    );
    let answer = block_on(async {
        client.get(&target).await.map_err(|error| {
            let codes = ["connection_not_found", "reauthorization_required", "scope_not_granted"];
            let connectable =
                matches!(&error, ClientError::Refused(problem) if codes.contains(&&*problem.code));
            let failure = Failure::from(error);
            if !connectable {
                return failure;
            }
            failure.hint(format!("tokenward connect {} {}{}", key.app, key.connection, config.option()))
        })
    })?;
    if args.json {
        return world.output.json(&answer);
    }
    let token = text(&answer, "access_token");
    // Any bytes could come; they go into a header next, and perhaps to a terminal.
    if token.is_empty() || !token.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(Failure::failed("the daemon's answer holds no access token"));
    }
    world.output.data(token)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn min_ttl_is_within_the_api_s_bounds() {
        assert_eq!(min_ttl("60"), Ok(Duration::from_secs(60)));
        assert_eq!(min_ttl("24h"), Ok(Duration::from_secs(86_400)));
        for bad in ["59", "25h", "", "1x"] {
            assert!(min_ttl(bad).is_err(), "{bad}");
        }
    }
}
