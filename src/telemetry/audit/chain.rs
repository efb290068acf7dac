//! The chain through all lines: each is bound to the one before it, and `verify` finds what was changed.

use std::io::{self, BufRead, BufReader, Read};

use serde::Serialize;

use super::AuditEvent;

#[derive(Serialize)]
struct Line<'a> {
    seq: u64,
    #[serde(flatten)]
    event: &'a AuditEvent,
}

pub(super) fn append(lines: &mut Vec<u8>, seq: u64, event: &AuditEvent, chain: &mut String) {
    let text = serde_json::to_string(&Line { seq, event })
        .expect("a record is strings, numbers and a map of strings");
    *chain = link(chain, &text);
    let open = text.strip_suffix('}').expect("a record is an object");
    lines.extend_from_slice(open.as_bytes());
    lines.extend_from_slice(b",\"chain\":\"");
    lines.extend_from_slice(chain.as_bytes());
    lines.extend_from_slice(b"\"}\n");
}

/// Returns the chain value after `line`, which is a record without its `chain`.
pub(super) fn link(before: &str, line: &str) -> String {
    use aws_lc_rs::digest::{Context, SHA256};
    let mut context = Context::new(&SHA256);
    context.update(before.as_bytes());
    context.update(line.as_bytes());
    hex::encode(context.finish())
}

const CHAIN_KEY: &str = ",\"chain\":\"";
/// End of a line: the key, 64 digits, `"}`.
const CHAIN_TAIL: usize = CHAIN_KEY.len() + 64 + 2;

/// Splits a line into (record without its chain, chain).
pub(super) fn split_chain(line: &str) -> Option<(String, &str)> {
    let at = line.len().checked_sub(CHAIN_TAIL)?;
    let (record, tail) = line.split_at_checked(at)?;
    let chain = tail.strip_prefix(CHAIN_KEY)?.strip_suffix("\"}")?;
    chain.bytes().all(|byte| byte.is_ascii_hexdigit()).then(|| (format!("{record}}}"), chain))
}

/// Fault of an audit log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Flaw {
    /// This line does not follow from the previous one: it was changed or added, or one before it was
    /// removed.
    Broken {
        /// The line's number, from 1.
        line: u64,
    },
    /// This line is no complete record: an interrupted write, or tampering.
    Unreadable {
        /// The line's number, from 1.
        line: u64,
    },
    /// Records before this line could not be written.
    Gap {
        /// The line's number, from 1.
        line: u64,
        /// Number of missing records.
        missing: u64,
    },
}

/// Result of a check of an audit log.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Verified {
    /// Lines read.
    pub lines: u64,
    /// Faults, in order.
    pub flaws: Vec<Flaw>,
    /// Chain value of the last line. Keep it elsewhere, since a log cut off at its end looks complete.
    pub last_chain: Option<String>,
}

/// Checks an audit log's chain from its first line on. `before` is the chain of the first line's predecessor
/// (the end of the earlier file, if logs are rotated); without it the first line is believed.
pub fn verify(log: impl Read, before: Option<&str>) -> io::Result<Verified> {
    let mut found = Verified::default();
    let mut previous = before.map(str::to_owned);
    let mut last_seq: Option<u64> = None;
    for text in BufReader::new(log).split(b'\n') {
        let text = text?;
        found.lines += 1;
        let line = found.lines;
        let record = std::str::from_utf8(&text).ok().and_then(split_chain).and_then(|(record, chain)| {
            let seq = serde_json::from_str::<serde_json::Value>(&record).ok()?.get("seq")?.as_u64()?;
            Some((record, chain, seq))
        });
        let Some((record, chain, seq)) = record else {
            found.flaws.push(Flaw::Unreadable { line });
            continue;
        };
        if previous.as_ref().is_some_and(|previous| link(previous, &record) != chain) {
            found.flaws.push(Flaw::Broken { line });
        }
        // A number 1 is a new start of the process.
        if let Some(last) = last_seq
            && seq > last + 1
        {
            found.flaws.push(Flaw::Gap { line, missing: seq - last - 1 });
        }
        previous = Some(chain.to_owned());
        last_seq = Some(seq);
    }
    found.last_chain = previous.filter(|_| found.lines > 0);
    Ok(found)
}
