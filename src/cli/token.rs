//! `token`: an access token of a connection, or of the app itself, requested over the local API as any caller
//! requests it, and printed in the form that its reader takes.
//!
//! Mail programs run this command and use what it prints. Some use it even if the command failed (msmtp,
//! neomutt), and some show one line of its words. So standard output stays empty until the whole line is
//! known to be good, and a failure is one line on standard error.

mod programs;
mod sasl;

use std::time::Duration;

use serde_json::Value;

use self::programs::{Form, Program};
use self::sasl::{Host, Login, Mechanism, User};
use super::args::{app_name, connection_name, seconds};
use super::client::{Client, ClientError, ReachArgs, target, text};
use super::{ConfigPath, Failure, World, block_on};
use crate::domain::app_only::AppTenant;
use crate::domain::id::{AppName, ConnectionName};

/// Which token, and in which form.
#[derive(clap::Args)]
pub(super) struct Args {
    /// The app, as in [apps.APP]
    #[arg(value_name = "APP", value_parser = app_name)]
    app: AppName,
    /// The connection's name
    #[arg(value_name = "CONNECTION", value_parser = connection_name, required_unless_present = "tenant")]
    connection: Option<ConnectionName>,
    /// A token of the app itself in this tenant, by its id, or `home` for the app's own; without a connection
    #[arg(long, value_name = "TENANT", value_parser = app_tenant)]
    #[arg(conflicts_with_all = ["connection", "scope", "sasl", "program", "user", "host", "port"])]
    tenant: Option<String>,
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
    #[arg(long, conflicts_with_all = ["sasl", "program"])]
    json: bool,
    /// Print the initial response of this SASL mechanism, as IMAP, POP and SMTP take it: Base64, one line
    #[arg(long, value_name = "MECHANISM")]
    sasl: Option<Mechanism>,
    /// Print what this mail program reads, and fail if the token is longer than it takes with XOAUTH2, or
    /// with the mechanism of --sasl
    #[arg(long = "for", value_name = "PROGRAM")]
    program: Option<Program>,
    /// The user name at the mail server; else the connection's account. A shared mailbox is named here
    #[arg(long, value_name = "NAME", value_parser = User::parse)]
    user: Option<User>,
    /// The mail server's name, for OAUTHBEARER
    #[arg(long, value_name = "NAME", value_parser = Host::parse)]
    host: Option<Host>,
    /// The mail server's port, for OAUTHBEARER
    #[arg(long, value_name = "PORT", value_parser = clap::value_parser!(u16).range(1..))]
    port: Option<u16>,
    #[command(flatten)]
    reach: ReachArgs,
}

/// Parses a tenant's id, or `home`.
fn app_tenant(text: &str) -> Result<String, String> {
    match AppTenant::parse(text) {
        Ok(_) => Ok(text.to_owned()),
        Err(_) => Err("must be a tenant's id, or `home` for the app's own".to_owned()),
    }
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
    print(args, config, world).map_err(Failure::on_one_line)
}

fn print(args: &Args, config: &ConfigPath, world: &mut World) -> Result<(), Failure> {
    let printed = Printed::of(args)?;
    let answer = ask(args, config, world)?;
    match printed {
        Printed::Answer => world.output.json(&answer),
        Printed::Token(program) => {
            let token = access_token(&answer)?;
            if let Some(program) = program {
                fits(program, args.sasl.unwrap_or(Mechanism::Xoauth2), &login(args, &answer)?, token)?;
            }
            world.output.data(token)
        }
        Printed::InitialResponse(mechanism, program) => {
            let (token, login) = (access_token(&answer)?, login(args, &answer)?);
            if let Some(program) = program {
                fits(program, mechanism, &login, token)?;
            }
            world.output.data(&mechanism.initial_response(&login, token))
        }
    }
}

/// What is printed.
enum Printed {
    /// The API's answer.
    Answer,
    /// The token, if it is not too long for the program.
    Token(Option<Program>),
    /// The initial response, if it is not too long for the program.
    InitialResponse(Mechanism, Option<Program>),
}

impl Printed {
    /// Refuses options that contradict each other before anything is asked.
    fn of(args: &Args) -> Result<Self, Failure> {
        if args.sasl != Some(Mechanism::Oauthbearer) && (args.host.is_some() || args.port.is_some()) {
            return Err(Failure::usage("--host and --port are of OAUTHBEARER alone")
                .hint("leave them out, or say --sasl oauthbearer"));
        }
        if args.user.is_some() && args.sasl.is_none() && args.program.is_none() {
            return Err(Failure::usage("a token alone has no user name")
                .hint("leave --user out, or say --sasl xoauth2 or --for PROGRAM"));
        }
        if args.json {
            return Ok(Printed::Answer);
        }
        let Some(program) = args.program else {
            return Ok(args
                .sasl
                .map_or(Printed::Token(None), |mechanism| Printed::InitialResponse(mechanism, None)));
        };
        if let Some(mechanism) = args.sasl {
            program.speaks(mechanism).map_err(|error| {
                Failure::usage(error.to_string()).hint("set it to XOAUTH2, and leave --sasl out")
            })?;
            if program.counts_host_and_port(mechanism) && (args.host.is_none() || args.port.is_none()) {
                return Err(Failure::usage(format!(
                    "{program} sends host and port with the token, and both count to its limit"
                ))
                .hint(format!("add --host and --port as in {program}'s configuration")));
            }
        }
        match (program.form(), args.sasl) {
            (Form::Token, _) => Ok(Printed::Token(Some(program))),
            (Form::InitialResponse, Some(mechanism)) => {
                Ok(Printed::InitialResponse(mechanism, Some(program)))
            }
            (Form::InitialResponse, None) => {
                Err(Failure::usage(format!("{program} reads an initial response"))
                    .hint("add --sasl xoauth2 or --sasl oauthbearer"))
            }
        }
    }
}

/// Asks the daemon.
fn ask(args: &Args, config: &ConfigPath, world: &World) -> Result<Value, Failure> {
    // What is wrong with the configuration is said only if it may be why there is no token.
    let mut warnings = Vec::new();
    let answer =
        args.reach.local_with(config, world, &mut warnings).and_then(|client| ask_at(&client, args, config));
    answer.map_err(|failure| warnings.into_iter().fold(failure, Failure::hint))
}

fn ask_at(client: &Client, args: &Args, config: &ConfigPath) -> Result<Value, Failure> {
    let min_ttl = args.min_ttl.map(|min_ttl| min_ttl.as_secs().to_string());
    let (app, connection) = (args.app.as_str(), args.connection.as_ref().map(ConnectionName::as_str));
    let path = match connection {
        Some(connection) => &["v1", "apps", app, "connections", connection, "token"][..],
        None => &["v1", "apps", app, "token"],
    };
    let target = target(
        path,
        &[
            ("tenant", args.tenant.as_deref()),
            ("scope", args.scope.as_deref()),
            ("resource", args.resource.as_deref()),
            ("min_ttl", min_ttl.as_deref()),
        ],
    );
    block_on(async {
        client.get(&target).await.map_err(|error| {
            let code = match &error {
                ClientError::Refused(problem) => problem.code.clone(),
                _ => String::new(),
            };
            let Some(connection) = connection else { return Failure::from(error) };
            let connect = format!("tokenward connect {app} {connection}{}", config.option());
            // The command does what the daemon's hint says in terms of its API.
            let hint = match &*code {
                "reauthorization_required" | "scope_not_granted" => format!("run: {connect}"),
                "connection_not_found" => {
                    let whose = match args.reach.key_file {
                        Some(_) => "the caller of --key-file",
                        None => "this caller",
                    };
                    format!(
                        "run: {connect}; if its user has signed in already, confirm that first; or check \
                         that a rule of {whose} covers the name"
                    )
                }
                _ => return Failure::from(error),
            };
            Failure { hints: vec![hint], ..Failure::from(error) }
        })
    })
}

/// Reads the token of an answer. Any bytes could come; they go into a header or a response next, and perhaps
/// to a terminal.
fn access_token(answer: &Value) -> Result<&str, Failure> {
    let token = text(answer, "access_token");
    if token.is_empty() || !token.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(Failure::failed("the daemon's answer holds no access token"));
    }
    Ok(token)
}

/// Returns who logs in: the user that was named, or else the connection's account.
fn login(args: &Args, answer: &Value) -> Result<Login, Failure> {
    let user = match &args.user {
        Some(user) => user.clone(),
        None => User::parse(text(&answer["account"], "username")).map_err(|_| {
            Failure::failed("the connection's account has no name that a mail server takes")
                .hint("name the user with --user")
        })?,
    };
    Ok(Login { user, host: args.host.clone(), port: args.port })
}

/// Fails if the program would cut or refuse the token.
fn fits(program: Program, mechanism: Mechanism, login: &Login, token: &str) -> Result<(), Failure> {
    program.check(mechanism, login, token).map_err(|error| {
        let failure = Failure::failed(error.to_string());
        if mechanism == Mechanism::Oauthbearer && program.check(Mechanism::Xoauth2, login, token).is_ok() {
            return failure.hint(format!("set {program} to XOAUTH2, and leave --sasl out"));
        }
        failure.hint("use a program without that limit: docs/mail-programs.md lists them")
    })
}

#[cfg(test)]
mod tests;
