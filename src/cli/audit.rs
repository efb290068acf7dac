//! `audit`: whether files of the audit stream are as the daemon wrote them, and complete.

use std::collections::BTreeSet;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::args::instant;
use super::output::Output;
use super::progress::Watched;
use super::{ConfigPath, Exit, Failure, World, audit_who, is_there_already};
use crate::domain::time::{Clock, Timestamp};
use crate::telemetry::audit::{
    BadKey, Flaw, SigningKey, Verified, VerifyingKey, What, is_chain, join_signed, unpacked, verify_signed,
};

/// What to do with the audit stream's files.
#[derive(clap::Subcommand)]
pub(super) enum Command {
    /// Say whether lines were changed, removed, moved, added or lost, and where
    #[command(
        after_help = "Examples:\n  tokenward audit verify /var/log/tokenward/audit.jsonl*\n  journalctl -t \
            tokenward-audit -o cat | tokenward audit verify --stream -\n\nExit codes: 0 whole, 1 not whole, \
            2 a file cannot be read."
    )]
    Verify(Args),
    /// Say which callers had a connection's tokens, how often and when last
    #[command(
        after_help = "Examples:\n  tokenward audit who outlook user-4711\n  journalctl -t tokenward-audit -o \
            cat | tokenward audit who outlook user-4711 -"
    )]
    Who(audit_who::Args),
    /// Make the key that signs the audit stream, and print its public half
    #[command(
        after_help = "Example:\n  tokenward audit make-key /etc/tokenward/audit-signing.pem > audit.pub\n\n\
            Name the file in `audit.signing_key`, and give the public half to the person who \
            verifies."
    )]
    MakeKey {
        /// The new file, which only its owner may read
        file: PathBuf,
    },
}

/// The files, and how to read them.
#[derive(clap::Args)]
pub(super) struct Args {
    /// Files of one sink, in any order, also packed ones (.gz); `-` is standard input
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    /// The last chain that an earlier check printed; the files must go on from there
    #[arg(long, value_name = "CHAIN", value_parser = chain)]
    after: Option<String>,
    /// The lines went through standard output, syslog or the journal, where each start begins a new chain
    #[arg(long)]
    stream: bool,
    /// A public key of the signatures, in PEM; several, if it was replaced
    #[arg(long, value_name = "FILE")]
    public_key: Vec<PathBuf>,
    /// The log must be signed at least until this instant (RFC 3339): an earlier end was cut off
    #[arg(long, value_name = "INSTANT", requires = "public_key", value_parser = instant)]
    signed_until: Option<Timestamp>,
    /// Print {whole, lines, starts, last_chain, signed, files, flaws, torn}
    #[arg(long)]
    json: bool,
}

fn chain(text: &str) -> Result<String, &'static str> {
    if is_chain(text) { Ok(text.to_owned()) } else { Err("must be the 64 hex digits that a check printed") }
}

pub(super) fn run(command: &Command, config: &ConfigPath, world: &mut World) -> Result<(), Failure> {
    match command {
        Command::Who(args) => audit_who::run(args, config, world),
        Command::Verify(args) => verify_files(args, world),
        Command::MakeKey { file } => make_key(file, world),
    }
}

/// Makes a key. It overwrites nothing: without the old key, nobody could sign in its name any more.
fn make_key(path: &Path, world: &mut World) -> Result<(), Failure> {
    let cannot = |error: &dyn std::fmt::Display| {
        Failure::failed(format!("cannot make the key {}: {error}", path.display()))
    };
    let (key, pem) = SigningKey::make().map_err(|error| cannot(&error))?;
    let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
    let mut file = file.map_err(|error| match error.kind() {
        io::ErrorKind::AlreadyExists => is_there_already(path),
        _ => cannot(&error),
    })?;
    file.write_all(pem.as_bytes()).and_then(|()| file.sync_all()).map_err(|error| cannot(&error))?;
    world.output.data(key.public_pem().trim_end())
}

fn public_key(path: &Path) -> Result<VerifyingKey, Failure> {
    /// Far longer than a key.
    const LONGEST: u64 = 64 * 1024;
    let failed = |problem: String| Failure::usage(format!("cannot read {}: {problem}", path.display()));
    let mut pem = Vec::new();
    let read = File::open(path).and_then(|file| file.take(LONGEST).read_to_end(&mut pem));
    read.map_err(|error| failed(error.to_string()))?;
    VerifyingKey::read(&pem).map_err(|bad: BadKey| failed(format!("it {bad}")))
}

fn verify_files(args: &Args, world: &mut World) -> Result<(), Failure> {
    let keys = args.public_key.iter().map(|path| public_key(path)).collect::<Result<Vec<_>, _>>()?;
    let mut names = Vec::new();
    let mut files = Vec::new();
    let mut seen = BTreeSet::new();
    for path in &args.files {
        // A glob and a name may mean the same file.
        if seen.insert(std::fs::canonicalize(path).unwrap_or_else(|_| path.clone())) {
            names.push(path.display().to_string());
            files.push(read(path, &keys, &*world.clock, &mut world.output)?);
        }
    }
    let report = Report::new(&names, &files, args, &keys);
    if args.json {
        world.output.json(&report)?;
    } else {
        world.output.report(&report.text())?;
    }
    if report.whole { Ok(()) } else { Err(Failure::silent(Exit::Failed)) }
}

fn read(
    path: &Path,
    keys: &[VerifyingKey],
    clock: &dyn Clock,
    output: &mut Output,
) -> Result<Verified, Failure> {
    let failed = |error: io::Error| Failure::usage(format!("cannot read {}: {error}", path.display()));
    if path == Path::new("-") {
        return verify_signed(output.take_input(), keys).map_err(failed);
    }
    let file = File::open(path).map_err(failed)?;
    let file = Watched::new(file, clock, output).map_err(failed)?;
    verify_signed(unpacked(path, file), keys).map_err(failed)
}

#[derive(Serialize)]
struct Report {
    /// Whether there is no flaw.
    whole: bool,
    lines: u64,
    /// Starts of the daemon.
    starts: u64,
    /// Whether the first line is the first of a chain. Otherwise lines before it exist.
    from_the_beginning: bool,
    /// Whether it goes on from the chain of `--after`.
    #[serde(skip)]
    goes_on: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    last_chain: Option<String>,
    /// With keys.
    #[serde(skip_serializing_if = "Option::is_none")]
    signed: Option<Signatures>,
    /// In the order of the chain.
    files: Vec<Part>,
    flaws: Vec<Place>,
    /// Lines that the end of a process tore. They are no flaws.
    torn: Vec<Place>,
}

#[derive(Serialize)]
struct Signatures {
    checkpoints: u64,
    /// When the last checkpoint was made.
    until: Option<String>,
    /// Lines after it, which are not signed yet.
    unsigned: u64,
}

#[derive(Serialize)]
struct Part {
    file: String,
    lines: u64,
    starts: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    first_at: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    last_at: Option<String>,
}

#[derive(Serialize)]
struct Place {
    file: String,
    line: u64,
    what: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    missing: Option<u64>,
    says: String,
}

impl Report {
    fn new(names: &[String], files: &[Verified], args: &Args, keys: &[VerifyingKey]) -> Self {
        let joined = join_signed(files, args.after.as_deref(), keys);
        let empty = (0..files.len()).filter(|place| files[*place].first.is_none());
        let order: Vec<usize> = joined.order.iter().copied().chain(empty).collect();
        let counts = |what: What| !(args.stream && what == What::NewChain);
        let mut flaws = Vec::new();
        let mut torn = Vec::new();
        for &place in &order {
            let seams = joined.flaws.iter().filter(|(of, _)| *of == place).map(|(_, flaw)| flaw);
            let mut all: Vec<&Flaw> = seams.chain(&files[place].flaws).collect();
            all.sort_by_key(|flaw| flaw.line);
            let all = all.into_iter().filter(|flaw| counts(flaw.what));
            flaws.extend(all.map(|flaw| Place::of(&names[place], flaw)));
            torn.extend(
                files[place].torn.iter().map(|line| Place {
                    file: names[place].clone(),
                    line: *line,
                    what: "torn",
                    missing: None,
                    says: "the daemon ended while it wrote this line; nobody was answered on its account"
                        .to_owned(),
                }),
            );
        }
        let until = joined.signed.until.as_deref().and_then(Timestamp::parse_rfc3339);
        if let (Some(wanted), Some(&place)) = (args.signed_until, order.last())
            && until.is_none_or(|until| until < wanted)
        {
            let line = files[place].lines;
            flaws.push(Place::of(&names[place], &Flaw { line, what: What::CutOff }));
        }
        let first = joined.order.first().and_then(|place| files[*place].first.as_ref());
        let goes_on =
            first.is_some_and(|first| args.after.as_deref().is_some_and(|after| first.follows(after)));
        let last = joined.order.last().and_then(|place| files[*place].last_chain());
        Report {
            whole: flaws.is_empty(),
            lines: files.iter().map(|file| file.lines).sum(),
            starts: files.iter().map(|file| file.starts).sum(),
            from_the_beginning: first.is_some_and(|first| first.begins_a_chain()),
            goes_on,
            last_chain: last.map(str::to_owned),
            signed: (!keys.is_empty()).then(|| Signatures {
                checkpoints: joined.signed.checkpoints,
                until: joined.signed.until.clone(),
                unsigned: joined.signed.unsigned,
            }),
            files: order.iter().map(|&place| Part::of(&names[place], &files[place])).collect(),
            flaws,
            torn,
        }
    }

    fn text(&self) -> String {
        let mut lines = Vec::new();
        for Part { file, lines: count, starts, first_at, last_at } in &self.files {
            let span = match (first_at, last_at) {
                (Some(first), Some(last)) => format!(", {first} to {last}"),
                _ => String::new(),
            };
            lines.push(format!("{file}: {count} lines, {starts} starts{span}"));
        }
        for Place { file, line, what, says, .. } in self.torn.iter().chain(&self.flaws) {
            lines.push(format!("{file}:{line}: {what}: {says}"));
        }
        lines.push(match self.flaws.len() {
            0 if self.lines == 0 => "no records: there was nothing to verify".to_owned(),
            0 => format!("whole: {} lines", self.lines),
            1 => format!("not whole: 1 flaw in {} lines", self.lines),
            flaws => format!("not whole: {flaws} flaws in {} lines", self.lines),
        });
        if self.goes_on {
            lines.push("begins: where the chain of --after ends".to_owned());
        } else if !self.from_the_beginning && self.lines > 0 {
            lines.push("begins: within a chain; keep the earlier files, or compare with --after".to_owned());
        }
        if let Some(Signatures { checkpoints, until, unsigned }) = &self.signed {
            let until = until.as_deref().unwrap_or("never");
            lines.push(format!(
                "signed until {until} by {checkpoints} checkpoints; {unsigned} lines after that"
            ));
        }
        if let Some(chain) = &self.last_chain {
            lines.push(format!("last chain: {chain}"));
        }
        lines.join("\n")
    }
}

impl Part {
    fn of(name: &str, file: &Verified) -> Self {
        Part {
            file: name.to_owned(),
            lines: file.lines,
            starts: file.starts,
            first_at: file.first.as_ref().map(|first| first.at.clone()),
            last_at: file.last.as_ref().map(|last| last.at.clone()),
        }
    }
}

impl Place {
    fn of(file: &str, flaw: &Flaw) -> Self {
        Place {
            file: file.to_owned(),
            line: flaw.line,
            what: flaw.what.word(),
            missing: flaw.what.missing(),
            says: says(flaw.what),
        }
    }
}

/// What a flaw means, in words.
fn says(what: What) -> String {
    let words = match what {
        What::Changed => "this line or the one before it was changed",
        What::Removed { lines } => return format!("{lines} lines before this one were removed or moved"),
        What::BrokenAtStart => {
            "the daemon's start does not follow from the lines before it: they were changed or removed, or \
             it was added"
        }
        What::OutOfOrder => "this line was moved or added: its number is not above the one before it",
        What::Unreadable => "this is no record: it was damaged or added",
        What::Lost { records } => {
            return format!("{records} records before this one were not taken by the sink");
        }
        What::NewChain => "a new chain begins here: nothing shows what was before it",
        What::Unlinked => {
            "this file goes on from a line that is in none of the files: one is missing or was cut, or this \
             line was changed"
        }
        What::Forged => {
            "the signature of this checkpoint does not fit: lines before it were changed, or it was added"
        }
        What::UnknownKey => "this checkpoint is signed with a key that was not given as --public-key",
        What::Unsigned { records } => {
            return format!(
                "{records} records up to this one have no signature; the daemon signs more often than that"
            );
        }
        What::CutOff => "the log is not signed until the instant of --signed-until: its end was cut off",
    };
    words.to_owned()
}
