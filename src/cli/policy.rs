//! `policy`: what the rules in the configuration allow.

use serde_json::json;

use super::args::{app_name, caller_name, connection_name};
use super::client::{ReachArgs, read, target};
use super::{ConfigPath, Exit, Failure, World, block_on};
use crate::api::admin::wire::{PolicyDecision, rule_key};
use crate::app::Environment;
use crate::app::reading::{self, Rules};
use crate::config::{Places, nearest};
use crate::domain::account::tenant_id;
use crate::domain::id::{AppName, CallerName, ConnectionKey, ConnectionName};
use crate::policy::Decision;
use crate::relay::Asked;

#[derive(clap::Subcommand)]
pub(super) enum Command {
    /// Say whether a caller gets a token of a connection, or has a request relayed with it, and which rule
    /// decides. 0 is yes, 1 is no
    #[command(
        after_help = "Examples:\n  tokenward policy test mail-sync outlook team-a/user-7 Mail.Read\n  \
        tokenward policy test mail-sync outlook team-a/user-7 --relay 'GET graph:/v1.0/me/messages'"
    )]
    Test(TestArgs),
}

#[derive(clap::Args)]
pub(super) struct TestArgs {
    /// The caller, as in [callers.CALLER]
    #[arg(value_name = "CALLER", value_parser = caller_name)]
    caller: CallerName,
    /// The app, as in [apps.APP]
    #[arg(value_name = "APP", value_parser = app_name)]
    app: AppName,
    /// The connection's name; it need not exist
    #[arg(value_name = "CONNECTION", value_parser = connection_name)]
    connection: ConnectionName,
    /// The scopes, separated by spaces
    #[arg(value_name = "SCOPE", required_unless_present_any = ["connect", "relay"])]
    #[arg(conflicts_with_all = ["connect", "relay"])]
    scope: Option<String>,
    /// Ask for the right to connect, confirm and delete instead
    #[arg(long)]
    connect: bool,
    /// Ask for the right to have this request relayed instead: method, base and path, as rules write it, with
    /// its query
    #[arg(long, value_name = "REQUEST", conflicts_with = "connect")]
    relay: Option<String>,
    /// The tenant id of the connection's account, for rules with `tenant:`
    #[arg(long, value_name = "TENANT_ID", value_parser = tenant_id)]
    tenant: Option<String>,
    /// Ask the running daemon, as an operator: the rules in force, and the tenant of the connection that is
    /// there
    #[arg(long, conflicts_with = "tenant")]
    running: bool,
    /// Print {allowed, code?, detail?, rules: [{rule, file?, line?}]}
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    reach: ReachArgs,
}

/// The answer, from the files or from the daemon.
struct Said {
    /// Code and words of a refusal.
    refused: Option<(String, String)>,
    /// Keys of the rules that decided.
    rules: Vec<String>,
}

pub(super) fn run(command: &Command, config: &ConfigPath, world: &mut World) -> Result<(), Failure> {
    let Command::Test(args) = command;
    if args.running {
        let said = ask_daemon(args, config, world)?;
        return show(args, &said, None, world);
    }
    let loaded = config.load(world)?;
    let environment = Environment::of_process(&world.env).as_owner_of(&loaded.config.sealing.keyring);
    let rules = reading::rules(&loaded, &environment, world.clock.clone(), world.random.clone());
    let rules = rules.map_err(|refused| config.failure(&refused.errors))?;
    show(args, &ask_files(args, &rules, config)?, Some(&loaded.places), world)
}

fn ask_files(args: &TestArgs, rules: &Rules, config: &ConfigPath) -> Result<Said, Failure> {
    let policy = rules.policies.get(&args.caller).ok_or_else(|| {
        not_configured("caller", args.caller.as_str(), rules.policies.keys().map(CallerName::as_str), config)
    })?;
    let naming = rules.naming.get(&args.app).ok_or_else(|| {
        not_configured("app", args.app.as_str(), rules.naming.keys().map(AppName::as_str), config)
    })?;
    let key = ConnectionKey { app: args.app.clone(), connection: args.connection.clone() };
    let decision = match (&args.scope, &args.relay) {
        (None, None) => policy.decide_connect(&key, args.tenant.as_deref()),
        (None, Some(text)) => {
            let asked = Asked::written(text).map_err(|why| Failure::usage(format!("REQUEST {why}")))?;
            policy.decide_relay(&key, args.tenant.as_deref(), &asked)
        }
        (Some(scope), _) => {
            let asked = naming.scopes_asked(scope).map_err(|why| Failure::usage(format!("SCOPE {why}")))?;
            policy.decide(&key, args.tenant.as_deref(), &asked)
        }
    };
    let (refused, at) = match decision {
        Decision::Yes { rules } => (None, rules),
        Decision::No { denial, rules } => (Some((denial.code().to_owned(), denial.to_string())), rules),
    };
    Ok(Said { refused, rules: at.iter().map(|at| rule_key(&args.caller, *at)).collect() })
}

/// The failure for a name that the configuration lacks.
fn not_configured<'a>(
    noun: &str,
    name: &str,
    known: impl Iterator<Item = &'a str> + Clone,
    config: &ConfigPath,
) -> Failure {
    /// Most names that are listed.
    const MOST: usize = 10;
    let failure =
        Failure::usage(format!("the configuration {} has no {noun} `{name}`", config.path.display()));
    let quoted: Vec<String> = known.clone().map(|one| format!("`{one}`")).collect();
    failure.hint(match (nearest(name, known), quoted.len()) {
        (Some(near), _) => format!("is `{near}` meant?"),
        (None, 0) => format!("it has none at all: add a section [{noun}s.{name}]"),
        (None, 1..=MOST) => format!("it has {}", quoted.join(", ")),
        (None, all) => format!("it has {all}, such as {}", quoted[..MOST].join(", ")),
    })
}

fn ask_daemon(args: &TestArgs, config: &ConfigPath, world: &mut World) -> Result<Said, Failure> {
    let client = args.reach.admin(config, world)?;
    let path = target(
        &["admin", "v1", "callers", args.caller.as_str(), "policy"],
        &[
            ("app", Some(args.app.as_str())),
            ("connection", Some(args.connection.as_str())),
            ("scope", args.scope.as_deref()),
            ("connect", args.connect.then_some("1")),
            ("relay", args.relay.as_deref()),
        ],
    );
    let answer = block_on(async { Ok(client.get(&path).await?) })?;
    let PolicyDecision { allowed, code, detail, rules } = read(&answer)?;
    let refused = (!allowed).then(|| (code.unwrap_or_default(), detail.unwrap_or_default()));
    Ok(Said { refused, rules })
}

fn show(args: &TestArgs, said: &Said, places: Option<&Places>, world: &mut World) -> Result<(), Failure> {
    let place = |rule: &String| places.map(|places| places.mistake(rule, ""));
    if args.json {
        let rule = |rule: &String| match place(rule) {
            Some(place) => json!({ "rule": rule, "file": place.file, "line": place.line }),
            None => json!({ "rule": rule }),
        };
        let rules: Vec<_> = said.rules.iter().map(rule).collect();
        let mut answer = json!({ "allowed": said.refused.is_none(), "rules": rules });
        if let Some((code, detail)) = &said.refused {
            answer["code"] = code.as_str().into();
            answer["detail"] = detail.as_str().into();
        }
        world.output.json(&answer)?;
    } else {
        let rule = |rule: &String| match place(rule) {
            Some(place) => format!("{}:{}: {rule}", place.file.display(), place.line),
            None => rule.clone(),
        };
        let first = match &said.refused {
            None => "yes, by".to_owned(),
            Some((code, detail)) if said.rules.is_empty() => format!("no ({code}): {detail}"),
            Some((code, detail)) => format!("no ({code}): {detail}; the connection is covered by"),
        };
        let lines: Vec<String> = std::iter::once(first).chain(said.rules.iter().map(rule)).collect();
        world.output.data(&lines.join("\n"))?;
    }
    match said.refused {
        None => Ok(()),
        Some(_) => Err(Failure::silent(Exit::Failed)),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use crate::cli::testing::Scene;

    /// From line 9 on, rules of one caller.
    const RULES: &str = "[apps.outlook]\nclient_id = \"11111111-2222-3333-4444-555555555555\"\n\
        authority = \"https://login.microsoftonline.com/common/v2.0\"\n\
        scopes = [\"offline_access\", \"openid\", \"Mail.Read\"]\n[callers.sync]\n\
        authenticate = [{ unix_user = 0 }]\n\
        [[callers.sync.allow]]\napp = \"outlook\"\nconnections = [\"team-a/*\"]\nscopes = [\"Mail.Read\"]\n\
        relay = [\"GET graph:/v1.0/me/messages*\"]\n\
        [[callers.sync.allow]]\napp = \"outlook\"\n\
        connections = [\"tenant:aaaaaaaa-2222-3333-4444-555555555555\"]\nscopes = [\"*\"]\nconnect = true\n";

    const READ: &str = "GET graph:/v1.0/me/messages?$top=5";

    #[test]
    fn the_answer_names_the_rule_and_its_line() {
        let scene = Scene::new();
        let config = scene.file("t.toml", &format!("sealing.keyring = \"ring\"\n{RULES}"), 0o600);
        scene.run(&["keyring", "add", "--config", &config]);
        let ask = |args: &[&str]| {
            let args = [&["policy", "test", "--config", config.as_str()], args].concat();
            scene.run(&args)
        };
        let tenant = "--tenant=AAAAAAAA-2222-3333-4444-555555555555";
        for (args, exit, words) in [
            (&["sync", "outlook", "team-a/1", "Mail.Read"][..], 0, "t.toml:8: callers.sync.allow[0]"),
            (&["sync", "outlook", "team-a/1", "https://graph.microsoft.com/mail.read"], 0, "allow[0]"),
            (&["sync", "outlook", "team-a/1", "Mail.Send"], 1, "gives Mail.Send"),
            (&["sync", "outlook", "team-a/1", "Mail.Send", tenant], 0, "t.toml:13: callers.sync.allow[1]"),
            (&["sync", "outlook", "team-a/1", "--connect"], 1, "caller_forbidden"),
            (&["sync", "outlook", "b", "--connect", tenant], 0, "allow[1]"),
            (&["sync", "outlook", "b", "Mail.Read"], 1, "connection_not_found"),
            (&["sync", "outlook", "team-a/1", "--relay", READ], 0, "t.toml:8: callers.sync.allow[0]"),
            (&["sync", "outlook", "team-a/1", "--relay", "GET graph:/v1.0/me"], 1, "caller_forbidden"),
            (&["sync", "outlook", "b", "--relay", READ], 1, "connection_not_found"),
        ] {
            let said = ask(args);
            assert_eq!(said.code, exit, "{args:?}: {} {}", said.out, said.err);
            assert!(said.out.contains(words), "{args:?}: {}", said.out);
        }
        for args in [
            &["nobody", "outlook", "b", "Mail.Read"][..],
            &["sync", "nothing", "b", "Mail.Read"],
            &["sync", "outlook", "b", "a\"b"],
            &["sync", "outlook", "b"],
            &["sync", "outlook", "b c", "Mail.Read"],
            &["sync", "outlook", "b", "Mail.Read", "--relay", READ],
            &["sync", "outlook", "b", "--connect", "--relay", READ],
            &["sync", "outlook", "b", "--relay", "GET graph:/v1.0/me/../users"],
            &["sync", "outlook", "b", "--relay", "graph:/v1.0/me"],
        ] {
            let said = ask(args);
            assert_eq!((said.code, said.out.as_str()), (2, ""), "{args:?}: {}", said.err);
        }
        // A name that the file lacks: in which file that is, and which name may be meant.
        for (args, has_no, hint) in [
            (["nobody", "outlook", "b", "Mail.Read"], "t.toml has no caller `nobody`", "it has `sync`"),
            (["syncs", "outlook", "b", "Mail.Read"], "t.toml has no caller `syncs`", "is `sync` meant?"),
            (["sync", "outlok", "b", "Mail.Read"], "t.toml has no app `outlok`", "is `outlook` meant?"),
        ] {
            let said = ask(&args);
            assert!(said.err.contains(has_no) && said.err.contains(hint), "{args:?}: {}", said.err);
        }
        let said = ask(&["sync", "outlook", "team-a/1", "Mail.Send", "--json"]);
        let said = said.json();
        assert_eq!((&said["allowed"], &said["code"]), (&json!(false), &json!("caller_forbidden")), "{said}");
        assert_eq!(said["rules"][0]["rule"], "callers.sync.allow[0]");
        assert_eq!(said["rules"][0]["line"], 8);
    }
}
