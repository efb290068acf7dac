//! The operator's commands.
//!
//! Purpose: parse the arguments, use the configuration's files or the daemon's APIs once, and print words,
//! data and an exit code: 0 done, 1 failed, 2 wrong usage or configuration.
//!
//! May know: `config`, `app::reading`, `app::doctor`, the files of `keyring` and `callers`, the check of the
//! audit's files, and the wire shapes of the local and the admin API. Never the store or the broker:
//! everything about connections is asked of the running daemon, as every client asks it. `serve` is passed
//! in.
//!
//! Invariants:
//! 1. Data goes to standard output and words to standard error, both only through [`Output`].
//! 2. No secret is an argument. None is printed except a new caller key, a requested token
//!    and a link to the console, which works once.
//! 3. Text from the network reaches a terminal only with its control characters escaped.
//! 4. Existing files are not overwritten.
//!
//! The one hard problem: error messages that tell the reader what to type next. So each `Failure` has hints
//! beside its message, and the daemon's own hints are passed on.

mod admin_consent;
mod args;
mod audit;
mod audit_who;
mod callers;
mod check;
mod client;
mod connect;
mod connections;
mod console;
mod credential_file;
mod credentials;
mod described;
mod doctor;
mod explain;
mod export;
mod forecast;
mod import;
mod init;
mod keyring;
mod output;
mod paint;
mod policy;
mod progress;
mod reload;
mod revoke;
mod rotate;
mod sessions;
mod shell;
mod status;
mod store;
mod token;
mod tried;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use clap::{Parser, Subcommand};

use crate::app::reading::Refused;
use crate::config::{self, Loaded, Readable};
use crate::domain::random::Random;
use crate::domain::time::Clock;

pub use output::Output;

/// Default path of the configuration.
const DEFAULT_CONFIG: &str = "/etc/tokenward/tokenward.toml";

/// Runs the daemon. The arguments are its configuration, the path it was read from, and the environment.
pub type Serve = fn(Loaded, &Path, &BTreeMap<String, String>) -> Result<ExitCode, Refused>;

/// The commands' view of the outside.
pub struct World {
    /// The environment, read once.
    pub env: BTreeMap<String, String>,
    /// The machine's clocks.
    pub clock: Arc<dyn Clock>,
    /// Randomness for keys.
    pub random: Arc<dyn Random>,
    /// Standard input, output and error.
    pub output: Output,
    /// Runs the daemon until it is told to stop.
    pub serve: Serve,
}

/// Runs the command that the arguments name; the first argument is the program's own name.
pub fn run(args: impl IntoIterator<Item = OsString>, mut world: World) -> ExitCode {
    let cli = match Cli::try_parse_from(args) {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version are successes; everything else is wrong usage, which is 2 here and in clap.
            let text = error.render().to_string();
            if error.use_stderr() {
                world.output.say(text.trim_end());
                return Exit::Usage.into();
            }
            return match world.output.data(text.trim_end()) {
                Ok(()) => ExitCode::SUCCESS,
                Err(failure) => failure.exit.into(),
            };
        }
    };
    match dispatch(cli, &mut world) {
        Ok(code) => code,
        Err(failure) => {
            failure.show(&mut world.output);
            failure.exit.into()
        }
    }
}

fn dispatch(cli: Cli, world: &mut World) -> Result<ExitCode, Failure> {
    let config = ConfigPath::new(cli.config, &world.env);
    match cli.command {
        Command::Serve => {
            let loaded = config.load(world)?;
            return (world.serve)(loaded, &config.path, &world.env).map_err(|refused| {
                // Files may be correct a moment later: the supervisor tries again.
                let exit = if refused.may_heal { Exit::Failed } else { Exit::Usage };
                Failure { exit, ..config.failure(&refused.errors) }
            });
        }
        Command::Check(args) => check::run(&args, &config, world),
        Command::Doctor(args) => doctor::run(&args, &config, world),
        Command::Init(args) => init::run(&args, world),
        Command::Connect(args) => connect::run(&args, &config, world),
        Command::Token(args) => token::run(&args, &config, world),
        Command::AdminConsent(args) => admin_consent::run(&args, &config, world),
        Command::Sessions(command) => sessions::run(&command, &config, world),
        Command::Console(args) => console::run(&args, &config, world),
        Command::Connections(command) => connections::run(&command, &config, world),
        Command::Import(args) => import::run(&args, &config, world),
        Command::Export(args) => export::run(&args, &config, world),
        Command::Callers(command) => callers::run(&command, &config, world),
        Command::Keyring(command) => keyring::run(&command, &config, world),
        Command::Credentials(command) => credentials::run(&command, &config, world),
        Command::Forecast(args) => forecast::run(&args, &config, world),
        Command::Status(args) => status::run(&args, &config, world),
        Command::Reload(args) => reload::run(&args, &config, world),
        Command::Revoke(args) => revoke::run(&args, &config, world),
        Command::Store(command) => store::run(&command, &config, world),
        Command::Policy(command) => policy::run(&command, &config, world),
        Command::Audit(command) => audit::run(&command, &config, world),
        Command::Completions(args) => shell::completions(&args, world),
        Command::Man(args) => shell::man(&args, world),
    }?;
    Ok(ExitCode::SUCCESS)
}

/// OAuth token broker for Microsoft Entra ID: connects accounts once, hands short-lived access tokens to
/// internal services.
#[derive(Parser)]
#[command(name = "tokenward", version, disable_help_subcommand = true, subcommand_required = true)]
#[command(after_help = "Exit codes: 0 done, 1 failed, 2 wrong usage or configuration.\n\n\
                        Begin with:\n  tokenward init ./tokenward\n  tokenward check --config \
                        ./tokenward/tokenward.toml")]
struct Cli {
    /// The configuration file; else $TOKENWARD_CONFIG, else /etc/tokenward/tokenward.toml
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run the daemon until it is told to stop
    #[command(after_help = "Example:\n  tokenward serve --config /etc/tokenward/tokenward.toml")]
    Serve,
    /// Check the configuration and its files, without the network, and print the redirect URIs to register
    #[command(after_help = "Example:\n  tokenward check --config ./tokenward/tokenward.toml")]
    Check(check::Args),
    /// Ask the authority and the store what is wrong, whose fault it is, and what helps
    #[command(
        after_help = "Example:\n  tokenward doctor\n\nExit codes: 0 no error, 1 an error was found, 2 the \
                            configuration or its files are wrong."
    )]
    Doctor(doctor::Args),
    /// Make a directory with a working configuration, a keyring and a first caller
    #[command(
        after_help = "Example:\n  tokenward init ./tokenward --client-id 11111111-2222-3333-4444-555555555555"
    )]
    Init(init::Args),
    /// Connect an account: print the link, wait for the user, show who came back, confirm
    #[command(after_help = "Example:\n  tokenward connect outlook user-4711 --login-hint alice@contoso.com")]
    Connect(connect::Args),
    /// Print an access token of a connection, and nothing else
    #[command(
        after_help = "Example:\n  curl -H \"Authorization: Bearer $(tokenward token outlook user-4711)\" \
            \\\n      https://graph.microsoft.com/v1.0/me/messages"
    )]
    Token(token::Args),
    /// Print the link with which a tenant's administrator approves an app, and say what they will see
    #[command(after_help = "Example:\n  tokenward admin-consent outlook --tenant fabrikam.com --wait")]
    AdminConsent(admin_consent::Args),
    /// List connect sessions with what became of them, as an operator
    #[command(subcommand, after_help = "Example:\n  tokenward sessions list --reference 9F86-D081")]
    Sessions(sessions::Command),
    /// List, show, explain and delete connections, as an operator
    #[command(subcommand, after_help = "Example:\n  tokenward connections list outlook --status blocked")]
    Connections(connections::Command),
    /// Take over grants that another system holds: each is proven by a refresh, and then a connection
    #[command(
        after_help = "Examples:\n  tokenward import --from jsonl grants.jsonl --dry-run\n  tokenward import \
            --from msal-python cache.json --app outlook --caller webshop"
    )]
    Import(import::Args),
    /// Give grants out, sealed to a public key; they can be imported again
    #[command(
        after_help = "Examples:\n  tokenward export --make-key export.jwk\n  tokenward export --to jsonl \
            --recipient export.jwk.pub > grants.jsonl"
    )]
    Export(export::Args),
    /// Print a link that opens the operators' console in a browser, once
    #[command(after_help = "Example:\n  tokenward console")]
    Console(console::Args),
    /// List callers, and make, list and retire their API keys
    #[command(subcommand, after_help = "Example:\n  tokenward callers add-key mail-sync --expires-in 90d")]
    Callers(callers::Command),
    /// List, verify, promote, retire and rotate client credentials
    #[command(subcommand, after_help = "Example:\n  tokenward credentials list")]
    Credentials(credentials::Command),
    /// Show who will have to sign in again, why and when, as far as can be known
    #[command(after_help = "Example:\n  tokenward forecast --days 7\n  tokenward forecast outlook --json")]
    Forecast(forecast::Args),
    /// Show the daemon's state: repeatedly on a terminal, otherwise once
    #[command(after_help = "Example:\n  tokenward status\n  tokenward status --json")]
    Status(status::Args),
    /// Have the daemon read its configuration and secrets again
    #[command(after_help = "Example:\n  tokenward reload")]
    Reload(reload::Args),
    /// Make, list, promote and retire sealing keys
    #[command(subcommand, after_help = "Example:\n  tokenward keyring status")]
    Keyring(keyring::Command),
    /// End every connection of an app, a tenant or a caller, or one handle, on all replicas within seconds
    #[command(after_help = "Examples:\n  tokenward revoke --app outlook --tenant \
            11111111-2222-3333-4444-555555555555\n  tokenward revoke --handle 0PmK2xWb7LqYdR4cTn1q3Vn2")]
    Revoke(revoke::Args),
    /// Ask what the rules in the configuration allow
    #[command(
        subcommand,
        after_help = "Example:\n  tokenward policy test mail-sync outlook team-a/user-7 Mail.Read"
    )]
    Policy(policy::Command),
    /// Adopt the present store
    #[command(subcommand, after_help = "Example:\n  tokenward store adopt")]
    Store(store::Command),
    /// Check the files of the audit stream, and ask them who had a connection's tokens
    #[command(subcommand, after_help = "Example:\n  tokenward audit verify /var/log/tokenward/audit.jsonl*")]
    Audit(audit::Command),
    /// Print the completions of a shell
    #[command(after_help = "Examples:\n  . <(tokenward completions bash)\n  tokenward completions zsh > \
            /usr/local/share/zsh/site-functions/_tokenward\n  tokenward completions fish > \
            ~/.config/fish/completions/tokenward.fish")]
    Completions(shell::CompletionsArgs),
    /// Write the man pages
    #[command(after_help = "Example:\n  tokenward man /usr/local/share/man/man1")]
    Man(shell::ManArgs),
}

/// The configuration file for this command.
struct ConfigPath {
    path: PathBuf,
    /// True if the user named it.
    named: bool,
}

impl ConfigPath {
    fn new(argument: Option<PathBuf>, env: &BTreeMap<String, String>) -> Self {
        let named = argument
            .or_else(|| env.get("TOKENWARD_CONFIG").filter(|path| !path.is_empty()).map(PathBuf::from));
        match named {
            Some(path) => ConfigPath { path, named: true },
            None => ConfigPath { path: PathBuf::from(DEFAULT_CONFIG), named: false },
        }
    }

    /// Loads the configuration; its mistakes fail the command. `check` and the daemon show the warnings.
    fn load(&self, world: &World) -> Result<Loaded, Failure> {
        config::load_file(&self.path, &world.env).map_err(|errors| self.failure(&errors))
    }

    /// Reads what can be read of it, for a command that works beside a broken file: its mistakes are a
    /// warning.
    fn load_readable(&self, world: &mut World) -> Result<Readable, Failure> {
        let loaded = config::load_readable(&self.path, &world.env);
        let (readable, errors) = loaded.map_err(|errors| self.failure(&errors))?;
        if let Some(errors) = errors {
            world.output.say(&format!("warning: {}", self.has_mistakes(&errors)));
            world.output.say("warning: going on with what can be read of it");
        }
        Ok(readable)
    }

    /// Says that there are mistakes, and which is the first.
    fn has_mistakes(&self, errors: &config::ConfigErrors) -> String {
        let first = errors.mistakes.first().map(ToString::to_string).unwrap_or_default();
        format!(
            "the configuration has mistakes ({}; `tokenward check{}` shows them), the first: {first}",
            errors.mistakes.len(),
            self.option()
        )
    }

    fn failure(&self, errors: &config::ConfigErrors) -> Failure {
        let failure = Failure { bare: true, ..Failure::usage(errors.to_string()) };
        if !self.named && !self.path.exists() {
            return failure.hint(
                "name the configuration with --config or TOKENWARD_CONFIG, or make one with \
                `tokenward init DIR`",
            );
        }
        failure
    }

    /// Returns the option that makes another command use this configuration.
    fn option(&self) -> String {
        if self.named { format!(" --config {}", shell_word(&self.path)) } else { String::new() }
    }
}

/// Quotes a path for a shell.
fn shell_word(path: &Path) -> String {
    shell_text(&path.display().to_string())
}

/// The refusal to make a key where a file is.
fn is_there_already(path: &Path) -> Failure {
    Failure::failed(format!("{} exists, and a key is not overwritten", path.display()))
        .hint("name another file, or move this one away if nothing needs it any more")
}

/// Quotes text for a shell.
fn shell_text(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-+@:,=".contains(c);
    if !text.is_empty() && text.chars().all(plain) {
        text.to_owned()
    } else {
        format!("'{}'", text.replace('\'', "'\\''"))
    }
}

/// Exit code of a command that fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Exit {
    /// The command was understood and did not work.
    Failed,
    /// The arguments or the configuration are wrong: the same command will fail again.
    Usage,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        match exit {
            Exit::Failed => ExitCode::from(1),
            Exit::Usage => ExitCode::from(2),
        }
    }
}

/// Reason why a command failed, in words, with hints.
#[derive(Debug)]
struct Failure {
    exit: Exit,
    /// Empty if everything has been printed already.
    message: String,
    /// True if the message's lines are printed unchanged, so that an editor finds `file:line:column: what`.
    bare: bool,
    hints: Vec<String>,
}

impl Failure {
    fn failed(message: impl Into<String>) -> Self {
        Failure { exit: Exit::Failed, message: message.into(), bare: false, hints: Vec::new() }
    }

    fn usage(message: impl Into<String>) -> Self {
        Failure { exit: Exit::Usage, message: message.into(), bare: false, hints: Vec::new() }
    }

    /// Makes a failure whose message has been printed already.
    fn silent(exit: Exit) -> Self {
        Failure { exit, message: String::new(), bare: false, hints: Vec::new() }
    }

    fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hints.push(hint.into());
        self
    }

    /// Puts message and hints on one line, for a command whose words another program shows.
    fn on_one_line(self) -> Self {
        if self.message.is_empty() {
            return self;
        }
        let lines = self.message.lines().chain(self.hints.iter().map(String::as_str));
        let message = lines.collect::<Vec<_>>().join("; ");
        Failure { message, hints: Vec::new(), ..self }
    }

    fn show(&self, output: &mut Output) {
        match &*self.message {
            "" => {}
            lines if self.bare => output.say(lines),
            message => output.say(&format!("error: {message}")),
        }
        for hint in &self.hints {
            output.say(&format!("hint: {hint}"));
        }
    }
}

/// Runs a command that waits for the daemon. A pending read of standard input is abandoned.
fn block_on<T>(task: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::failed(format!("cannot start: {error}")))?;
    let result = runtime.block_on(task);
    runtime.shutdown_background();
    result
}

#[cfg(test)]
mod testing;

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::testing::Scene;
    use super::*;

    #[test]
    fn every_command_is_sound_and_shows_an_example() {
        Cli::command().debug_assert();
        fn walk(command: &clap::Command) {
            if command.get_subcommands().next().is_none() {
                let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
                assert!(help.contains("tokenward "), "{} has no example", command.get_name());
            }
            command.get_subcommands().for_each(walk);
        }
        walk(&Cli::command());
    }

    #[test]
    fn wrong_usage_is_2_and_help_is_0() {
        let scene = Scene::new();
        for (args, code) in [
            (&["frobnicate"][..], 2),
            (&[][..], 2),
            (&["token", "Outlook", "a"][..], 2),
            (&["token", "outlook", "a b"][..], 2),
            (&["--help"][..], 0),
            (&["--version"][..], 0),
            (&["connections", "list", "--help"][..], 0),
        ] {
            assert_eq!(scene.run(args).code, code, "{args:?}");
        }
    }

    #[test]
    fn the_configuration_is_the_argument_s_then_the_environment_s() {
        let env = |value: &str| BTreeMap::from([("TOKENWARD_CONFIG".to_owned(), value.to_owned())]);
        let path = |argument: Option<&str>, env| {
            let config = ConfigPath::new(argument.map(PathBuf::from), &env);
            (config.path.display().to_string(), config.named)
        };
        assert_eq!(path(Some("a"), env("b")), ("a".into(), true));
        assert_eq!(path(None, env("b")), ("b".into(), true));
        assert_eq!(path(None, env("")), (DEFAULT_CONFIG.into(), false));
    }

    #[test]
    fn paths_become_one_shell_word() {
        assert_eq!(shell_word(Path::new("/etc/t.toml")), "/etc/t.toml");
        assert_eq!(shell_word(Path::new("a b's")), r"'a b'\''s'");
    }

    #[test]
    fn from_nothing_to_a_retired_key() {
        let scene = Scene::new();
        let directory = scene.path("made");
        let made = scene.run(&["init", &directory, "--json"]);
        assert_eq!(made.code, 0, "{}", made.err);
        let made = made.json();
        let config = made["config"].as_str().expect("config").to_owned();

        let checked = scene.run(&["check", "--config", &config]);
        assert_eq!(checked.code, 0, "{}", checked.err);
        assert!(checked.out.contains("http://localhost:8080/callback/outlook"), "{}", checked.out);
        assert!(checked.err.contains("credentials_dir"), "{}", checked.err);

        let added = scene.run(&["callers", "add-key", "cli", "--json", "--config", &config]);
        assert_eq!(added.code, 0, "{}", added.err);
        let added = added.json();
        assert_eq!(added["caller"], "cli");
        assert!(added["key"].as_str().expect("key").starts_with("twk_cli_"));
        let full = scene.run(&["callers", "add-key", "cli", "--config", &config]);
        assert_eq!((full.code, full.out.as_str()), (1, ""), "two keys are enough");

        let ids = || -> Vec<String> {
            let listed = scene.run(&["callers", "list-keys", "cli", "--json", "--config", &config]).json();
            let listed = listed.as_array().expect("a list").clone();
            assert!(listed.iter().all(|key| key["last_used_at"].is_null()));
            listed.iter().map(|key| key["id"].as_str().expect("id").to_owned()).collect()
        };
        let before = ids();
        assert_eq!(before.len(), 2);
        assert_eq!(added["id"], before[1].as_str());
        let retired = scene.run(&["callers", "retire-key", "cli", &before[0], "--config", &config]);
        assert_eq!(retired.code, 0, "{}", retired.err);
        assert_eq!(ids(), before[1..]);
        assert_eq!(scene.run(&["callers", "retire-key", "cli", &before[0], "--config", &config]).code, 1);

        let nobody = scene.run(&["callers", "add-key", "clip", "--config", &config]);
        assert!(nobody.code == 2 && nobody.err.contains("`cli`"), "{}", nobody.err);

        let second = scene.run(&["keyring", "add", "--json", "--config", &config]).json();
        assert!(second["promoted_at"].is_null());
        let ring = scene.run(&["keyring", "status", "--json", "--config", &config]).json();
        let primaries: Vec<&str> = ring
            .as_array()
            .expect("a list")
            .iter()
            .filter(|key| key["primary"] == true)
            .filter_map(|key| key["id"].as_str())
            .collect();
        assert_eq!(primaries, [made["keyring_key"].as_str().expect("an id")]);
        assert_eq!(scene.run(&["check", "--config", &config]).code, 0);
    }

    #[test]
    fn serve_gets_the_checked_configuration_and_a_wrong_one_never_starts() {
        let scene = Scene::new();
        let config = scene.file("t.toml", "", 0o600);
        assert_eq!(scene.run(&["serve", "--config", &config]).code, 42);
        let config = scene.file("wrong.toml", "stroe = 1\n[log]\nlevle = 1\n", 0o600);
        let refused = scene.run(&["serve", "--config", &config]);
        assert_eq!(refused.code, 2);
        assert!(refused.err.contains("`store`") && refused.err.contains("`level`"), "{}", refused.err);
        assert!(scene.run(&["serve"]).err.contains("tokenward init"), "says how to begin");
    }
}
