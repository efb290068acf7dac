//! Checks a log: each file by itself ([`verify`]), and then how the files follow from each other ([`join`]).
//!
//! A log may be forged and may be large. So a line is read to a limit, nothing but the chain is believed, and
//! no file is kept in memory.

use std::borrow::Cow;
use std::io::{self, BufRead, BufReader, Read};
use std::path::Path;

use flate2::read::MultiGzDecoder;
use serde::Deserialize;

use super::chain::{beginning, link, split_chain};
use super::checkpoint::{Checkpoint, VerifyingKey};

mod signatures;

pub use self::signatures::AllSigned;
use self::signatures::{InOrder, Signed};

/// Longest line that is read. A record is far shorter.
const LONGEST_LINE: usize = 1 << 20;
/// What each line of the stream begins with, also a torn one.
const OPENING: &[u8] = b"{\"seq\":";

/// Something that is wrong with a log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Flaw {
    /// The line's number in its file, from 1.
    pub line: u64,
    /// What is wrong there.
    pub what: What,
}

/// What is wrong at a line or right before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum What {
    /// The line does not follow from the line before it, although its number does: one of them was changed.
    Changed,
    /// The chain breaks, and the numbers jump: lines before this one were taken out or moved.
    Removed {
        /// How many, by the numbers.
        lines: u64,
    },
    /// The chain breaks at a start of the daemon: the last lines before the start were changed or taken out,
    /// or the start was put here.
    BrokenAtStart,
    /// The chain breaks, and the number is not above the one before it: the line was moved or added.
    OutOfOrder,
    /// The line is no record.
    Unreadable,
    /// The chain is whole, and the numbers jump: the sink did not take these records.
    Lost {
        /// How many.
        records: u64,
    },
    /// A chain begins here, and nothing shows what was before it.
    NewChain,
    /// The file's first line follows from the last line of no file that was given.
    Unlinked,
    /// A checkpoint's signature does not fit: lines before it were changed, or it was added.
    Forged,
    /// A checkpoint is signed with a key that was not given.
    UnknownKey,
    /// The log is not signed as late as it must be.
    CutOff,
    /// More records than a process leaves unsigned have no signature.
    Unsigned {
        /// How many.
        records: u64,
    },
}

impl What {
    /// Its stable word.
    pub fn word(self) -> &'static str {
        match self {
            What::Changed => "changed",
            What::Removed { .. } => "removed",
            What::BrokenAtStart => "broken_at_start",
            What::OutOfOrder => "out_of_order",
            What::Unreadable => "unreadable",
            What::Lost { .. } => "lost",
            What::NewChain => "new_chain",
            What::Unlinked => "unlinked",
            What::Forged => "forged",
            What::UnknownKey => "unknown_key",
            What::CutOff => "cut_off",
            What::Unsigned { .. } => "unsigned",
        }
    }

    /// How many lines or records are missing, by the numbers.
    pub fn missing(self) -> Option<u64> {
        match self {
            What::Removed { lines } => Some(lines),
            What::Lost { records } | What::Unsigned { records } => Some(records),
            What::Changed
            | What::BrokenAtStart
            | What::OutOfOrder
            | What::Unreadable
            | What::NewChain
            | What::Unlinked
            | What::Forged
            | What::UnknownKey
            | What::CutOff => None,
        }
    }
}

/// A file's check by itself.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Verified {
    /// Lines read.
    pub lines: u64,
    /// What is wrong, in order.
    pub flaws: Vec<Flaw>,
    /// Lines that the end of a process tore. Nobody was answered on their account, so they are no flaws.
    pub torn: Vec<u64>,
    /// Starts of the daemon in it.
    pub starts: u64,
    /// Its first record.
    pub first: Option<First>,
    /// Its last record.
    pub last: Option<Last>,
    /// Its signatures, as far as keys were given.
    signed: Signed,
}

/// The first record of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct First {
    /// The line's number.
    pub line: u64,
    /// The record's number.
    pub seq: u64,
    /// Its time, as the record has it.
    pub at: String,
    /// The record without its chain and closing brace.
    open: String,
    chain: String,
}

/// The last record of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Last {
    /// The record's number.
    pub seq: u64,
    /// Its time, as the record has it.
    pub at: String,
    /// Its chain. Keep it elsewhere: a log that was cut off at its end looks complete.
    pub chain: String,
}

impl First {
    /// Whether it follows from a line with this chain.
    pub fn follows(&self, chain: &str) -> bool {
        link(chain, &self.open) == self.chain
    }

    /// Whether it is the first line of a chain.
    pub fn begins_a_chain(&self) -> bool {
        self.follows(&beginning())
    }
}

impl Verified {
    /// The chain of the last record.
    pub fn last_chain(&self) -> Option<&str> {
        self.last.as_ref().map(|last| last.chain.as_str())
    }
}

/// Reads a file, and what is packed in it if its name ends in `.gz`.
pub fn unpacked<'a>(path: &Path, file: impl Read + 'a) -> Box<dyn Read + 'a> {
    if path.extension().is_some_and(|extension| extension == "gz") {
        Box::new(MultiGzDecoder::new(file))
    } else {
        Box::new(file)
    }
}

/// The members of a record that are looked at.
#[derive(Deserialize)]
struct Head<'a> {
    seq: u64,
    #[serde(borrow)]
    at: Cow<'a, str>,
    checkpoint: Option<Checkpoint>,
}

/// Checks a file of the stream. Its first line is believed: [`join`] compares it with other files.
///
/// # Errors
/// The file cannot be read.
pub fn verify(log: impl Read) -> io::Result<Verified> {
    verify_signed(log, &[])
}

/// The same, with the signatures of checkpoints if there are keys.
///
/// # Errors
/// The file cannot be read.
pub fn verify_signed(log: impl Read, keys: &[VerifyingKey]) -> io::Result<Verified> {
    let mut reader = BufReader::with_capacity(128 * 1024, log);
    let (mut line, mut state) = (Vec::new(), State { keys, ..State::default() });
    loop {
        line.clear();
        let end = read_line(&mut reader, &mut line)?;
        match end {
            End::OfFile if line.is_empty() => break,
            End::OfFile | End::OfLine => state.take(&line, end == End::OfLine),
            End::TooLong => state.take(b"", true),
        }
        if end == End::OfFile {
            break;
        }
    }
    Ok(state.ended())
}

#[derive(PartialEq, Eq)]
enum End {
    OfLine,
    OfFile,
    TooLong,
}

/// Reads a line without its newline, to the limit; skips the rest of a longer one.
fn read_line(reader: &mut impl BufRead, line: &mut Vec<u8>) -> io::Result<End> {
    let mut is_too_long = false;
    loop {
        let piece = match reader.fill_buf() {
            Ok(piece) => piece,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        if piece.is_empty() {
            return Ok(if is_too_long { End::TooLong } else { End::OfFile });
        }
        let newline = piece.iter().position(|byte| *byte == b'\n');
        let taken = newline.unwrap_or(piece.len());
        is_too_long |= line.len() + taken > LONGEST_LINE;
        if !is_too_long {
            line.extend_from_slice(&piece[..taken]);
        }
        reader.consume(taken + usize::from(newline.is_some()));
        if newline.is_some() {
            return Ok(if is_too_long { End::TooLong } else { End::OfLine });
        }
    }
}

/// What is known after some lines.
#[derive(Default)]
struct State<'k> {
    keys: &'k [VerifyingKey],
    found: Verified,
    /// Lines since the last record that are none; true for one that may be the beginning of a record.
    unreadable: Vec<(u64, bool)>,
    /// Whether the last line has its newline.
    is_ended: bool,
}

impl State<'_> {
    fn take(&mut self, line: &[u8], is_ended: bool) {
        self.found.lines += 1;
        self.is_ended = is_ended;
        let record = std::str::from_utf8(line).ok().and_then(|text| {
            let (open, chain) = split_chain(text)?;
            let head: Head<'_> = serde_json::from_str(text).ok()?;
            Some((open, chain, head))
        });
        match record {
            Some((open, chain, head)) => self.take_record(open, chain, &head),
            None => {
                let is_begun = !line.is_empty() && (line.starts_with(OPENING) || OPENING.starts_with(line));
                self.unreadable.push((self.found.lines, is_begun));
            }
        }
    }

    fn take_record(&mut self, open: &str, chain: &str, head: &Head<'_>) {
        let (line, seq) = (self.found.lines, head.seq);
        let before = self.found.last.as_ref().map(|last| (last.seq, last.chain.as_str()));
        let what = before.and_then(|(seq_before, before)| {
            let follows = link(before, open) == chain;
            let is_new = || seq == 1 && link(&beginning(), open) == chain;
            judge(seq_before, seq, follows, is_new)
        });
        self.settle_unreadable(seq == 1 && what.is_none());
        self.found.flaws.extend(what.map(|what| Flaw { line, what }));
        self.found.starts += u64::from(seq == 1);
        if !self.keys.is_empty() {
            let before = self.found.last.as_ref().map(|last| last.chain.as_str());
            let flaw = match &head.checkpoint {
                // Another record around a good checkpoint: none follows a log's last one that would show
                // it.
                Some(checkpoint) if checkpoint.record(seq, &head.at) != open => {
                    let flaw = self.found.signed.take(line, seq, &head.at);
                    Some(flaw.unwrap_or(Flaw { line, what: What::Forged }))
                }
                Some(checkpoint) => {
                    self.found.signed.take_checkpoint((line, seq, &head.at), before, checkpoint, self.keys)
                }
                None => self.found.signed.take(line, seq, &head.at),
            };
            self.found.flaws.extend(flaw);
        }
        if self.found.first.is_none() {
            let (at, open, chain) = (head.at.to_string(), open.to_owned(), chain.to_owned());
            self.found.first = Some(First { line, seq, at, open, chain });
        }
        let last =
            self.found.last.get_or_insert_with(|| Last { seq, at: String::new(), chain: String::new() });
        last.seq = seq;
        last.at.clear();
        last.at.push_str(&head.at);
        last.chain.clear();
        last.chain.push_str(chain);
    }

    /// Judges the lines that are no records. One alone is torn if it begins as a record does, and the process
    /// ended with it: a new start follows from the line before it, or nothing follows.
    fn settle_unreadable(&mut self, process_ended: bool) {
        match self.unreadable[..] {
            [(line, true)] if process_ended => self.found.torn.push(line),
            _ => {
                let flaws = self.unreadable.iter();
                self.found.flaws.extend(flaws.map(|(line, _)| Flaw { line: *line, what: What::Unreadable }));
            }
        }
        self.unreadable.clear();
    }

    fn ended(mut self) -> Verified {
        self.settle_unreadable(!self.is_ended);
        self.found
    }
}

/// Judges a record by the one before it.
fn judge(before: u64, seq: u64, follows: bool, begins: impl FnOnce() -> bool) -> Option<What> {
    let missing = seq.saturating_sub(before).saturating_sub(1);
    match (follows, seq) {
        (true, 1) => None,
        (true, _) if seq <= before => Some(What::OutOfOrder),
        (true, _) if missing > 0 => Some(What::Lost { records: missing }),
        (true, _) => None,
        (false, 1) if begins() => Some(What::NewChain),
        (false, 1) => Some(What::BrokenAtStart),
        (false, _) if seq <= before => Some(What::OutOfOrder),
        (false, _) if missing > 0 => Some(What::Removed { lines: missing }),
        (false, _) => Some(What::Changed),
    }
}

/// Several files in the order of the chain.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Joined {
    /// The files' places in what was given. Files without a record are left out.
    pub order: Vec<usize>,
    /// What is wrong where a file begins, by the file's place in what was given.
    pub flaws: Vec<(usize, Flaw)>,
    /// The signatures, if there were keys.
    pub signed: AllSigned,
}

/// Puts files into the order of their chain, whatever their names and times say. `after` is the chain of the
/// last line before all of them; without it the very first line is believed.
pub fn join(files: &[Verified], after: Option<&str>) -> Joined {
    join_signed(files, after, &[])
}

/// The same with the signatures, for the keys with which the files were verified.
pub fn join_signed(files: &[Verified], after: Option<&str>, keys: &[VerifyingKey]) -> Joined {
    let mut left: Vec<(usize, &First, &Last)> = files
        .iter()
        .enumerate()
        .filter_map(|(place, file)| Some((place, file.first.as_ref()?, file.last.as_ref()?)))
        .collect();
    // (Times order only what the chain does not.)
    left.sort_by(|(_, one, _), (_, other, _)| one.at.cmp(&other.at));
    let mut joined = Joined::default();
    let mut before: Option<(u64, &str)> = after.map(|chain| (0, chain));
    let mut in_order = Vec::new();
    while !left.is_empty() {
        let next = before.and_then(|(_, chain)| left.iter().position(|(_, first, _)| first.follows(chain)));
        let is_head = |first: &First| {
            left.iter().all(|(_, other, last)| *other == first || !first.follows(&last.chain))
        };
        let (next, is_linked) = match next {
            Some(next) => (next, true),
            // Files in a ring are forged; any is as good as another.
            None => (left.iter().position(|(_, first, _)| is_head(first)).unwrap_or(0), false),
        };
        let (place, first, last) = left.remove(next);
        let what = match before {
            None => None,
            // Of `after` only the chain is known.
            Some((0, _)) if is_linked => None,
            Some((seq, _)) if is_linked => judge(seq, first.seq, true, || false),
            Some(_) if first.seq == 1 && first.begins_a_chain() => Some(What::NewChain),
            Some(_) => Some(What::Unlinked),
        };
        joined.flaws.extend(what.map(|what| (place, Flaw { line: first.line, what })));
        joined.order.push(place);
        let known = before.filter(|_| is_linked).map(|(_, chain)| chain);
        // (Of `after` only the chain is known.)
        let follows_records = before.is_some_and(|(seq, _)| seq > 0) && is_linked;
        let begins_open = !follows_records && !first.begins_a_chain();
        in_order.push(InOrder { place, signed: &files[place].signed, before: known, begins_open });
        before = Some((last.seq, &last.chain));
    }
    if !keys.is_empty() {
        let (signed, flaws) = signatures::join(&in_order, keys);
        joined.signed = signed;
        joined.flaws.extend(flaws);
    }
    joined
}

#[cfg(test)]
mod tests;
