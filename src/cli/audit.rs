//! `audit verify`: whether files of the audit stream are as the daemon wrote them, and complete.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::output::Output;
use super::{Exit, Failure, World};
use crate::telemetry::audit::{Flaw, Verified, What, is_chain, join, unpacked, verify};

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
    /// Print {whole, lines, starts, last_chain, files, flaws, torn}
    #[arg(long)]
    json: bool,
}

fn chain(text: &str) -> Result<String, &'static str> {
    if is_chain(text) { Ok(text.to_owned()) } else { Err("must be the 64 hex digits that a check printed") }
}

/// How many bytes are read between two signs of life.
const STEP: u64 = 4 << 20;

pub(super) fn run(command: &Command, world: &mut World) -> Result<(), Failure> {
    let Command::Verify(args) = command;
    let mut names = Vec::new();
    let mut files = Vec::new();
    let mut seen = BTreeSet::new();
    for path in &args.files {
        // A glob and a name may mean the same file.
        if seen.insert(std::fs::canonicalize(path).unwrap_or_else(|_| path.clone())) {
            names.push(path.display().to_string());
            files.push(read(path, &mut world.output)?);
        }
    }
    let report = Report::new(&names, &files, args);
    if args.json {
        world.output.json(&report)?;
    } else {
        world.output.data(&report.text())?;
    }
    if report.whole { Ok(()) } else { Err(Failure::silent(Exit::Failed)) }
}

fn read(path: &Path, output: &mut Output) -> Result<Verified, Failure> {
    let failed = |error: io::Error| Failure::usage(format!("cannot read {}: {error}", path.display()));
    if path == Path::new("-") {
        return verify(output.take_input()).map_err(failed);
    }
    let file = File::open(path).map_err(failed)?;
    let size = file.metadata().map_err(failed)?.len();
    let show = |read: u64| {
        let percent = (read * 100).checked_div(size).unwrap_or(100).min(100);
        output.progress(&format!("{}: {percent} %", path.display()));
    };
    verify(unpacked(path, Watched { file, read: 0, shown: 0, show })).map_err(failed)
}

/// A file that says how far it was read.
struct Watched<S> {
    file: File,
    read: u64,
    shown: u64,
    show: S,
}

impl<S: FnMut(u64)> Read for Watched<S> {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        let count = self.file.read(bytes)?;
        self.read += count as u64;
        if self.read - self.shown >= STEP {
            self.shown = self.read;
            (self.show)(self.read);
        }
        Ok(count)
    }
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
    #[serde(skip_serializing_if = "Option::is_none")]
    last_chain: Option<String>,
    /// In the order of the chain.
    files: Vec<Part>,
    flaws: Vec<Place>,
    /// Lines that the end of a process tore. They are no flaws.
    torn: Vec<Place>,
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
    fn new(names: &[String], files: &[Verified], args: &Args) -> Self {
        let joined = join(files, args.after.as_deref());
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
        let first = joined.order.first().and_then(|place| files[*place].first.as_ref());
        let last = joined.order.last().and_then(|place| files[*place].last_chain());
        Report {
            whole: flaws.is_empty(),
            lines: files.iter().map(|file| file.lines).sum(),
            starts: files.iter().map(|file| file.starts).sum(),
            from_the_beginning: first.is_some_and(|first| first.begins_a_chain()),
            last_chain: last.map(str::to_owned),
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
            0 => format!("whole: {} lines", self.lines),
            1 => format!("not whole: 1 flaw in {} lines", self.lines),
            flaws => format!("not whole: {flaws} flaws in {} lines", self.lines),
        });
        if !self.from_the_beginning {
            lines.push("begins: within a chain; keep the earlier files, or compare with --after".to_owned());
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
    };
    words.to_owned()
}
