//! Which records of a log are signed.
//!
//! A checkpoint signs the records that its process wrote right before it. Those that a process left unsigned
//! at its end are judged by their number and by the time they span: a process signs more often than that.

use std::time::Duration;

use super::{Flaw, What};
use crate::domain::time::Timestamp;
use crate::telemetry::audit::checkpoint::{Checkpoint, EVERY, Statement, VerifyingKey, WITHIN};

/// How much later than it should a checkpoint may be: a busy machine is slow.
const SLACK: Duration = Duration::from_secs(60);

/// Records of one process since its last checkpoint.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Run {
    records: u64,
    from: String,
    to: String,
    /// The line of the last one.
    line: u64,
    /// Whether records before it may be missing here: what is given begins in the middle.
    is_open: bool,
}

/// What ended the first run of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
enum End {
    /// A checkpoint, which signs so many records.
    Signed { line: u64, records: u64 },
    /// A start of the daemon.
    Start,
}

/// The last good signature.
#[derive(Debug, Clone, PartialEq, Eq)]
struct SignedUntil {
    /// The checkpoint's time, as the record has it.
    at: String,
    every: u64,
    within: Duration,
}

/// A checkpoint in a file's first line: only who knows the line before it can check its signature.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Unchecked {
    line: u64,
    seq: u64,
    at: String,
    checkpoint: Checkpoint,
}

/// What is known of a file's signatures.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Signed {
    /// Good checkpoints.
    checkpoints: u64,
    /// The last of them.
    last: Option<SignedUntil>,
    /// The first line, if it is a checkpoint.
    unchecked: Option<Unchecked>,
    /// Until the first start or checkpoint.
    head: Run,
    first: Option<End>,
    /// Since the last one; the same as the head if there was none.
    tail: Run,
}

/// The signatures of files in order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AllSigned {
    /// Good checkpoints.
    pub checkpoints: u64,
    /// When the last one was made.
    pub until: Option<String>,
    /// Records after it, which are not signed yet.
    pub unsigned: u64,
}

impl Run {
    fn add(&mut self, line: u64, at: &str) {
        if self.records == 0 {
            at.clone_into(&mut self.from);
        }
        self.records += 1;
        at.clone_into(&mut self.to);
        self.line = line;
    }

    /// Together with what follows it in the next file.
    fn and(mut self, next: &Run) -> Run {
        if next.records > 0 {
            if self.records == 0 {
                self.from.clone_from(&next.from);
            }
            self.records += next.records;
            self.to.clone_from(&next.to);
            self.line = next.line;
        }
        self
    }

    /// Judges what a process left unsigned at its end. A process has signed by then if there were more, or
    /// if it lasted longer.
    fn judge_end(&self, cadence: Option<&SignedUntil>) -> Option<What> {
        let (every, within) = cadence.map_or((EVERY, WITHIN), |last| (last.every, last.within));
        let instant = |text: &str| Timestamp::parse_rfc3339(text);
        let lasted = match (instant(&self.from), instant(&self.to)) {
            (Some(from), Some(to)) => to.since(from),
            _ => Duration::ZERO,
        };
        let is_too_long = self.records >= every || lasted > within + SLACK;
        (self.records > 0 && is_too_long).then_some(What::Unsigned { records: self.records })
    }

    /// Judges it by the checkpoint that follows it.
    fn judge_signed(&self, signed: u64) -> Option<What> {
        match signed {
            signed if signed == self.records => None,
            // The rest stands in a file that was not given.
            signed if signed > self.records && self.is_open => None,
            signed => Some(What::Unsigned { records: self.records.abs_diff(signed) }),
        }
    }
}

impl Signed {
    /// Takes a record that signs nothing. Returns what is wrong with the records before it.
    pub(super) fn take(&mut self, line: u64, seq: u64, at: &str) -> Option<Flaw> {
        let flaw = if seq == 1 { self.start() } else { None };
        self.tail.add(line, at);
        if self.first.is_none() {
            self.head.add(line, at);
        }
        flaw
    }

    fn start(&mut self) -> Option<Flaw> {
        let ended = std::mem::take(&mut self.tail);
        if self.first.is_none() {
            self.first = Some(End::Start);
            return None;
        }
        ended.judge_end(self.last.as_ref()).map(|what| Flaw { line: ended.line, what })
    }

    /// Takes a checkpoint. Returns what is wrong with it, or with the records before it.
    pub(super) fn take_checkpoint(
        &mut self,
        (line, seq, at): (u64, u64, &str),
        before: Option<&str>,
        checkpoint: &Checkpoint,
        keys: &[VerifyingKey],
    ) -> Option<Flaw> {
        let Some(before) = before else {
            let (at, checkpoint) = (at.to_owned(), checkpoint.clone());
            self.first = Some(End::Signed { line, records: checkpoint.records });
            self.unchecked = Some(Unchecked { line, seq, at, checkpoint });
            return None;
        };
        if let Err(what) = check((seq, at), before, checkpoint, keys) {
            // Its own records, and itself, stay unsigned.
            let flaw = self.take(line, seq, at);
            return Some(flaw.unwrap_or(Flaw { line, what }));
        }
        let started = if seq == 1 { self.start() } else { None };
        let run = std::mem::take(&mut self.tail);
        let records = checkpoint.records;
        let flaw = if self.first.is_none() {
            self.first = Some(End::Signed { line, records });
            None
        } else {
            run.judge_signed(records).map(|what| Flaw { line, what })
        };
        self.checkpoints += 1;
        self.last = Some(SignedUntil::of(at, checkpoint));
        started.or(flaw)
    }
}

impl SignedUntil {
    fn of(at: &str, checkpoint: &Checkpoint) -> Self {
        let within = Duration::from_secs(checkpoint.within);
        SignedUntil { at: at.to_owned(), every: checkpoint.every, within }
    }
}

/// Checks a checkpoint that follows this chain.
fn check(
    (seq, at): (u64, &str),
    before: &str,
    checkpoint: &Checkpoint,
    keys: &[VerifyingKey],
) -> Result<(), What> {
    let Checkpoint { key: id, records, every, within, signature } = checkpoint;
    let key = keys.iter().find(|key| key.id() == id).ok_or(What::UnknownKey)?;
    let (records, every, within) = (*records, *every, *within);
    let statement = Statement { before, seq, at, key: id, records, every, within };
    if key.has_signed(&statement, signature) { Ok(()) } else { Err(What::Forged) }
}

/// One file in the order of the chain.
pub(super) struct InOrder<'a> {
    pub(super) place: usize,
    pub(super) signed: &'a Signed,
    /// The chain before its first line, if that is known.
    pub(super) before: Option<&'a str>,
    /// Whether records before it are missing here.
    pub(super) begins_open: bool,
}

/// Judges what spans files, and the end.
pub(super) fn join(files: &[InOrder<'_>], keys: &[VerifyingKey]) -> (AllSigned, Vec<(usize, Flaw)>) {
    let (mut all, mut flaws) = (AllSigned::default(), Vec::new());
    let mut carried = Run::default();
    let (mut cadence, mut end): (Option<SignedUntil>, _) = (None, None);
    for InOrder { place, signed, before, begins_open } in files {
        let before_it = match begins_open {
            true => Run { is_open: true, ..Run::default() },
            false => std::mem::take(&mut carried),
        };
        let run = before_it.clone().and(&signed.head);
        if let (Some(before), Some(Unchecked { line, seq, at, checkpoint })) = (before, &signed.unchecked) {
            match check((*seq, at), before, checkpoint, keys) {
                Ok(()) => {
                    all.checkpoints += 1;
                    cadence = Some(SignedUntil::of(at, checkpoint));
                }
                Err(what) => flaws.push((*place, Flaw { line: *line, what })),
            }
        }
        let (line, what) = match &signed.first {
            None => (0, None),
            Some(End::Signed { line, records }) => (*line, run.judge_signed(*records)),
            Some(End::Start) => (run.line.max(1), run.judge_end(cadence.as_ref())),
        };
        flaws.extend(what.map(|what| (*place, Flaw { line, what })));
        carried = if signed.first.is_none() { run } else { signed.tail.clone() };
        cadence = signed.last.clone().or(cadence);
        all.checkpoints += signed.checkpoints;
        end = Some(*place);
    }
    if let Some(place) = end {
        let what = carried.judge_end(cadence.as_ref());
        flaws.extend(what.map(|what| (place, Flaw { line: carried.line, what })));
        all.unsigned = carried.records;
    }
    all.until = cadence.map(|last| last.at);
    (all, flaws)
}
