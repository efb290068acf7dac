//! The chain through all lines: each has the SHA-256 over the chain of the line before it and its own text.

use std::cell::RefCell;

use super::queue::Record;
use crate::domain::digest::sha256_hex;
use crate::domain::json_text::push_number;

/// The chain before the first line of all.
pub(super) fn beginning() -> String {
    "0".repeat(DIGITS)
}

/// Appends a record's line, and moves the chain on.
pub(super) fn append(lines: &mut Vec<u8>, seq: u64, record: &Record, chain: &mut String) {
    let begin = lines.len();
    lines.extend_from_slice(b"{\"seq\":");
    push_number(lines, seq);
    lines.push(b',');
    record.push_members(lines);
    *chain = link_bytes(chain, &lines[begin..]);
    lines.extend_from_slice(CHAIN_KEY.as_bytes());
    lines.extend_from_slice(chain.as_bytes());
    lines.extend_from_slice(b"\"}\n");
}

/// Returns the chain after a line. `open` is its record without the chain and without the closing brace.
pub(super) fn link(before: &str, open: &str) -> String {
    link_bytes(before, open.as_bytes())
}

thread_local! {
    /// What is hashed, in one piece: hashing pieces costs an allocation, and more calls.
    static HASHED: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

fn link_bytes(before: &str, open: &[u8]) -> String {
    HASHED.with_borrow_mut(|hashed| {
        hashed.clear();
        for part in [before.as_bytes(), open, b"}"] {
            hashed.extend_from_slice(part);
        }
        sha256_hex(hashed)
    })
}

const DIGITS: usize = 64;
const CHAIN_KEY: &str = ",\"chain\":\"";
/// End of a line: the key, 64 digits, `"}`.
const CHAIN_TAIL: usize = CHAIN_KEY.len() + DIGITS + 2;

/// Splits a line into (record without its chain and closing brace, chain).
pub(super) fn split_chain(line: &str) -> Option<(&str, &str)> {
    let at = line.len().checked_sub(CHAIN_TAIL)?;
    let (open, tail) = line.split_at_checked(at)?;
    let chain = tail.strip_prefix(CHAIN_KEY)?.strip_suffix("\"}")?;
    is_chain(chain).then_some((open, chain))
}

/// Returns true for a chain's text.
pub(super) fn is_chain(text: &str) -> bool {
    text.len() == DIGITS && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

/// Returns the chain of the last whole line.
pub(super) fn last_chain(lines: &[u8]) -> Option<String> {
    let text = String::from_utf8_lossy(lines);
    text.lines().rev().find_map(|line| split_chain(line).map(|(_, chain)| chain.to_owned()))
}
