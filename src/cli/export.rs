//! `export`: gives grants out, sealed to a public key of the company's, so that nobody is locked in. What is
//! exported can be imported again, here or elsewhere.

use std::fs::OpenOptions;
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use http::Method;
use zeroize::Zeroizing;

use super::args::app_name;
use super::client::{Client, DEADLINE, ReachArgs, body, read};
use super::progress::Progress;
use super::{ConfigPath, Failure, World, block_on, is_there_already};
use crate::api::admin::wire::{Apps, Export, Exported};
use crate::domain::id::AppName;
use crate::jwe::{Opener, PublicJwk, Recipient, has_private_part};
use crate::secret_file::SecretReader;

/// Largest file of a public key.
const LARGEST: usize = 4096;

/// What to export, and to whom.
#[derive(clap::Args)]
pub(super) struct Args {
    /// The form of what is printed
    #[arg(long, value_enum, value_name = "FORMAT", required_unless_present = "make_key")]
    to: Option<Form>,
    /// A file with the public key (a JWK) that every grant is sealed to
    #[arg(long, value_name = "FILE", required_unless_present = "make_key")]
    recipient: Option<PathBuf>,
    /// Only this app's; else every app's
    #[arg(long, value_name = "APP", value_parser = app_name)]
    app: Option<AppName>,
    /// Pause each connection first, so that its grant is not used here any more
    #[arg(long)]
    pause: bool,
    /// Do not ask
    #[arg(long)]
    yes: bool,
    /// Make a key: the private one goes into this new file, the public one beside it into FILE.pub
    #[arg(long, value_name = "FILE", conflicts_with_all = ["to", "recipient", "app", "pause", "yes"])]
    make_key: Option<PathBuf>,
    #[command(flatten)]
    reach: ReachArgs,
}

/// A form of what is printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Form {
    /// A line for each grant: a sealed row, as an import reads it
    Jsonl,
}

pub(super) fn run(args: &Args, config: &ConfigPath, world: &mut World) -> Result<(), Failure> {
    if let Some(path) = &args.make_key {
        return make_key(path, world);
    }
    let Some(path) = &args.recipient else { return Err(Failure::usage("--recipient names the public key")) };
    let recipient = recipient(path, world)?;
    let client = args.reach.admin(config, world)?;
    block_on(async {
        let apps = match &args.app {
            Some(app) => vec![app.to_string()],
            None => read::<Apps>(&client.get("/admin/v1/apps").await?)?.apps,
        };
        let paused = if args.pause { " Each connection is paused first." } else { "" };
        let question = format!(
            "Print the grants of {}, sealed to {}? Who has its private key can act for their users until the \
             grants end.{paused}",
            apps.join(", "),
            path.display()
        );
        if !args.yes && !world.output.ask(&question).await {
            return Err(Failure::failed("nothing was exported"));
        }
        let (mut done, mut left_out) = (0, 0);
        for app in apps {
            let (some, not) = export(&client, &app, &recipient, args.pause, world).await?;
            (done, left_out) = (done + some, left_out + not);
        }
        let mut said = format!("{done} grants exported");
        if left_out > 0 {
            said.push_str(&format!(
                ", {left_out} connections left out: they have none, or their record is damaged and the \
                 daemon's log names them"
            ));
        }
        said.push('.');
        // (A script that keeps what it got must not take nothing for a copy.)
        if done == 0 && left_out > 0 {
            return Err(Failure::failed(said));
        }
        world.output.say(&said);
        Ok(())
    })
}

async fn export(
    client: &Client,
    app: &str,
    recipient: &PublicJwk,
    pause: bool,
    world: &mut World,
) -> Result<(u64, u64), Failure> {
    let (mut done, mut left_out, mut cursor) = (0, 0, None);
    let mut progress = Progress::new(&*world.clock, "grants", None);
    loop {
        let (app, recipient) = (app.to_owned(), recipient.clone());
        let asked = body(&Export { app, recipient, cursor, pause });
        let answer = client.ask(Method::POST, "/admin/v1/exports", Some(&asked), DEADLINE).await?;
        let page: Exported = read(&answer)?;
        done += page.grants.len() as u64;
        left_out += page.left_out;
        if !page.grants.is_empty() {
            world.output.data(&page.grants.join("\n"))?;
        }
        progress.show(done, &*world.clock, &mut world.output);
        cursor = page.next_cursor;
        if cursor.is_none() {
            return Ok((done, left_out));
        }
    }
}

/// Reads the public key. Who could change it would get every grant.
fn recipient(path: &Path, world: &World) -> Result<PublicJwk, Failure> {
    let reader = SecretReader::new(world.env.get("CREDENTIALS_DIRECTORY").map(Path::new));
    let bytes = reader.guard().read(path, LARGEST);
    let bytes = bytes.map_err(|error| Failure::usage(format!("--recipient: {error}")))?;
    let wrong =
        |why: &dyn std::fmt::Display| Failure::usage(format!("--recipient: {} {why}", path.display()));
    let bytes = Zeroizing::new(bytes);
    if has_private_part(&bytes) {
        let why = "has the private key, which opens every export, and must not lie where a daemon runs";
        return Err(wrong(&why).hint(
            "name the file with the public key, which `--make-key` writes beside it as FILE.pub, and take \
             the private one away",
        ));
    }
    let jwk: PublicJwk = serde_json::from_slice(&bytes).map_err(|_| wrong(&crate::jwe::NoKey))?;
    Recipient::new(&jwk).map_err(|error| wrong(&error))?;
    Ok(jwk)
}

fn make_key(path: &Path, world: &mut World) -> Result<(), Failure> {
    let opener = Opener::generate(world.random.as_ref());
    let mut public = path.as_os_str().to_owned();
    public.push(".pub");
    let public = PathBuf::from(public);
    let jwk = serde_json::to_string(&opener.public_jwk()).expect("a key is plain JSON") + "\n";
    for (path, content, mode) in
        [(path, opener.private_jwk().as_bytes(), 0o600), (&public, jwk.as_bytes(), 0o644)]
    {
        let file = OpenOptions::new().write(true).create_new(true).mode(mode).open(path);
        let written = file.and_then(|mut file| file.write_all(content).and_then(|()| file.sync_all()));
        written.map_err(|error| match error.kind() {
            io::ErrorKind::AlreadyExists => is_there_already(path),
            _ => Failure::failed(format!("cannot write {}: {error}", path.display())),
        })?;
    }
    world.output.say(&format!(
        "The private key is in {}: keep it where no daemon runs. {} is for --recipient.",
        path.display(),
        public.display()
    ));
    Ok(())
}
