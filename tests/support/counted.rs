//! Counted work: the number of instructions that a piece of a test takes, from valgrind. The same code on the
//! same input takes the same number however busy the machine is, so these numbers can be compared where times
//! cannot.
//!
//! The test that asks ([`hold`]) runs another test of its own binary under valgrind, which runs its pieces
//! within [`count`], one after the other.

#![allow(unreachable_pub, missing_docs, dead_code, reason = "shared by tests")]

use std::collections::BTreeMap;
use std::hint::black_box;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Most times the work for plain text of the same size. It is more than one because an escape or a member is
/// more work than a letter; quadratic work is hundreds of times as much.
const MOST: u64 = 12;

/// One piece. The first of a group is plain, and the others are compared with it.
pub struct Case {
    pub group: String,
    pub what: &'static str,
    /// Bytes that are read.
    pub size: usize,
}

/// Counts what runs on this thread inside. Without valgrind it only runs it.
pub fn count(mut piece: impl FnMut()) {
    counted_by_valgrind(&mut piece);
    written_by_valgrind();
}

/// Valgrind recognizes this function by its name, and counts from its call to its end.
#[inline(never)]
fn counted_by_valgrind(piece: &mut dyn FnMut()) {
    piece();
    black_box(());
}

/// Valgrind recognizes this function too: at its call the count is written, and starts again from 0.
#[inline(never)]
fn written_by_valgrind() {
    black_box(());
}

/// Runs `test`, an otherwise ignored test of this binary, counts each [`count`] in it, and compares the
/// numbers with those for plain text. Returns a description of the worst of each group.
pub fn hold(test: &str, cases: &[Case]) -> Vec<String> {
    let counted = instructions(test);
    assert_eq!(counted.len(), cases.len(), "each case is counted once");
    let (mut plain, mut bad, mut worst) = (("", 0), Vec::new(), BTreeMap::new());
    for (case, &work) in cases.iter().zip(&counted) {
        if plain.0 != case.group {
            assert_eq!(case.what, "plain", "{}", case.group);
            plain = (&case.group, work);
        }
        assert!(work > 1000, "{} {}: {work} instructions are no reading", case.group, case.what);
        let [whole, hundredths] = [work / plain.1, work * 100 / plain.1 % 100];
        let bytes = case.size;
        let line = format!(
            "{whole}.{hundredths:02} times plain text: {}, {}: {work} instructions for {bytes} bytes",
            case.group, case.what
        );
        let known = worst.entry(&case.group).or_insert((0, String::new()));
        if work > known.0 {
            *known = (work, line.clone());
        }
        if work > plain.1 * MOST {
            bad.push(line);
        }
    }
    assert!(bad.is_empty(), "more than {MOST} times the work for plain text:\n{}", bad.join("\n"));
    worst.into_values().map(|(_, line)| line).collect()
}

/// Runs `test`, an otherwise ignored test of this binary, and returns the instructions of each [`count`] in
/// it.
pub fn instructions(test: &str) -> Vec<u64> {
    let folder = tempfile::tempdir().expect("a folder");
    dumps(test, folder.path()).iter().map(|dump| total(dump)).collect()
}

/// Does the same without what the functions take whose name holds one of `beside`, with all that they call.
/// None of them may call another of them.
pub fn instructions_without(test: &str, beside: &[&str]) -> Vec<u64> {
    let folder = tempfile::tempdir().expect("a folder");
    let counted = |dump: &PathBuf| total(dump) - taken(dump, beside);
    dumps(test, folder.path()).iter().map(counted).collect()
}

/// Runs `test` under valgrind. Returns a file for each [`count`].
fn dumps(test: &str, folder: &Path) -> Vec<PathBuf> {
    let out = folder.join("counted");
    let this = std::env::current_exe().expect("this binary");
    let run = Command::new("valgrind")
        .args(["-q", "--tool=callgrind", "--demangle=no", "--dump-line=no"])
        .args(["--toggle-collect=*counted_by_valgrind*", "--dump-before=*written_by_valgrind*"])
        .arg(format!("--callgrind-out-file={}", out.display()))
        .arg(this)
        .args([test, "--exact", "--ignored", "--test-threads=1"])
        .output()
        .expect("valgrind runs (scripts/tools.sh installs it)");
    let said = [run.stdout.as_slice(), run.stderr.as_slice()].map(String::from_utf8_lossy).concat();
    assert!(run.status.success() && said.contains("1 passed"), "{test} under valgrind:\n{said}");
    let dump = |number: usize| PathBuf::from(format!("{}.{number}", out.display()));
    (1..).map(dump).take_while(|dump| total_if_counted(dump).is_some()).collect()
}

fn total(dump: &Path) -> u64 {
    total_if_counted(dump).expect("a count")
}

/// The last dump is of the test's end, where nothing is counted.
fn total_if_counted(dump: &Path) -> Option<u64> {
    let text = std::fs::read_to_string(dump).ok()?;
    let total = text.lines().find_map(|line| line.strip_prefix("totals: "))?;
    Some(total.trim().parse().expect("a number of instructions"))
}

/// What the functions take whose name holds one of `beside`.
fn taken(dump: &Path, beside: &[&str]) -> u64 {
    let run =
        Command::new("callgrind_annotate").args(["--inclusive=yes", "--threshold=100"]).arg(dump).output();
    let run = run.expect("callgrind_annotate runs");
    let text = String::from_utf8_lossy(&run.stdout);
    assert!(text.contains("PROGRAM TOTALS"), "callgrind_annotate: {text}");
    let functions = text.lines().filter(|line| beside.iter().any(|name| line.contains(name)));
    let number =
        |line: &str| -> Option<u64> { line.split_whitespace().next()?.replace(',', "").parse().ok() };
    functions.filter_map(number).sum()
}
