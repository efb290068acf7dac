//! The emulator as a program.

use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, ValueEnum};
use entra_emulator::{App, Config, Emulator, Mode, User};

/// A local stand-in for Microsoft Entra ID's v2.0 endpoints and a corner of Microsoft Graph.
///
/// It needs no configuration: without apps of your own it knows the client "emulator-app" with the secret
/// "emulator-secret" and the redirect URI http://localhost/callback (any port), and without users of your own
/// it knows alice@contoso.example, bob@contoso.example and the personal account carol@outlook.example.
#[derive(Debug, Parser)]
#[command(name = "entra-emulator", after_help = EXAMPLE)]
struct Arguments {
    /// Where to listen; a loopback address
    #[arg(long, default_value = "127.0.0.1:8400")]
    listen: String,
    /// Serve TLS with a certification authority of its own
    #[arg(long)]
    https: bool,
    /// Write the authority's certificate (PEM) to this file; implies --https
    #[arg(long, value_name = "FILE")]
    ca_out: Option<PathBuf>,
    /// What becomes of used refresh tokens
    #[arg(long, value_enum)]
    mode: Option<ModeArgument>,
    /// Show a sign-in page and a consent page instead of signing users in at once
    #[arg(long)]
    interactive: bool,
    /// Apps, users and settings as JSON, see the README
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

const EXAMPLE: &str = "\
Example:
  entra-emulator --listen 127.0.0.1:8400 &
  curl -s http://127.0.0.1:8400/contoso.example/oauth2/v2.0/token \\
    -d grant_type=client_credentials -d client_id=emulator-app -d client_secret=emulator-secret \\
    -d scope=https://graph.microsoft.com/.default
  curl -s http://127.0.0.1:8400/_emulator/ledger";

#[derive(Clone, Copy, Debug, ValueEnum)]
enum ModeArgument {
    /// Used refresh tokens stay valid, as with Entra
    Entra,
    /// Reuse of a used refresh token kills its whole family
    Strict,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let outcome = match runtime {
        Ok(runtime) => runtime.block_on(run(arguments)),
        Err(error) => Err(error.to_string()),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "entra-emulator: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn run(arguments: Arguments) -> Result<(), String> {
    let config = match &arguments.config {
        Some(file) => read_config(file)?,
        None => Config::default(),
    };
    let https = arguments.https || arguments.ca_out.is_some();
    let mut builder = Emulator::builder().address(arguments.listen).https(https);
    builder = builder.settings(|settings| settings.clone_from(&config.settings));
    if let Some(mode) = arguments.mode {
        builder = builder.mode(match mode {
            ModeArgument::Entra => Mode::Entra,
            ModeArgument::Strict => Mode::Strict,
        });
    }
    if arguments.interactive {
        builder = builder.automatic(false);
    }
    let mut apps = config.apps()?;
    if apps.is_empty() {
        apps.push(
            App::new("emulator-app").secret("emulator-secret").redirect_uri("http://localhost/callback"),
        );
    }
    let mut users = config.users();
    if users.is_empty() {
        users.extend(["alice@contoso.example", "bob@contoso.example"].map(User::work));
        users.push(User::personal("carol@outlook.example"));
    }
    for app in apps {
        builder = builder.app(app);
    }
    for user in users {
        builder = builder.user(user);
    }
    let emulator = builder.start().await.map_err(|error| chain(&error))?;
    if let (Some(file), Some(pem)) = (&arguments.ca_out, emulator.ca_pem()) {
        std::fs::write(file, pem).map_err(|error| format!("cannot write {}: {error}", file.display()))?;
    }
    announce(&emulator)?;
    wait_for_signal().await.map_err(|error| error.to_string())?;
    emulator.stop().await;
    Ok(())
}

fn read_config(file: &PathBuf) -> Result<Config, String> {
    let text = std::fs::read(file).map_err(|error| format!("cannot read {}: {error}", file.display()))?;
    serde_json::from_slice(&text).map_err(|error| format!("{}: {error}", file.display()))
}

/// One JSON line on standard output once requests are answered.
fn announce(emulator: &Emulator) -> Result<(), String> {
    let line = serde_json::json!({
        "base_url": emulator.base_url(),
        "authority": emulator.authority("common"),
        "graph_url": emulator.graph_url(),
        "control_url": format!("{}/_emulator", emulator.base_url()),
    });
    let mut out = std::io::stdout();
    writeln!(out, "{line}").and_then(|()| out.flush()).map_err(|error| error.to_string())
}

#[cfg(unix)]
async fn wait_for_signal() -> std::io::Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    Ok(())
}

#[cfg(not(unix))]
async fn wait_for_signal() -> std::io::Result<()> {
    tokio::signal::ctrl_c().await
}

fn chain(error: &dyn std::error::Error) -> String {
    match error.source() {
        Some(source) => format!("{error}: {}", chain(source)),
        None => error.to_string(),
    }
}
