//! Comparison of the callers' own ledgers with the audit, request by request.

use std::collections::HashMap;

use super::{AFTERMATH, BEFORE, Faults, Findings, Rule};
use crate::ledger::{Answer, Audited, Effect, Entry, Evidence};

/// A daemon sums up callers' refusals every second …
const SUMMED_WITHIN: u64 = 1_000;
/// … and strangers' every ten.
const STRANGERS_SUMMED_WITHIN: u64 = 10_000;

/// The code of a request of nobody: of a stranger's, or of a caller's whose credential is not in its time by
/// the daemon's clock.
const UNKNOWN: &str = "caller_unauthenticated";

/// Refusals that a daemon may sum up: whose (none for strangers), and with which code.
type Kind<'a> = (u8, Option<&'a str>, &'a str);

/// How many refusals of a kind have no record of their own.
#[derive(Default)]
struct Summed<'a> {
    /// By the callers' ledgers.
    left: Vec<&'a Entry>,
    /// By the sums.
    said: u64,
}

/// Every answer has one record, which says the same; and every record has its request.
pub(super) fn audit(evidence: &Evidence, faults: &Faults<'_>, found: &mut Findings) {
    for flaw in &evidence.audit_flaws {
        found.broken(Rule::AuditChain, || flaw.clone());
    }
    let mut records: HashMap<u64, Vec<&Audited>> = HashMap::new();
    let mut sums: HashMap<Kind<'_>, Summed<'_>> = HashMap::new();
    for record in &evidence.audited {
        match record.call {
            Some(call) => records.entry(call).or_default().push(record),
            None => {
                let kind = (record.replica, record.caller.as_deref(), record.outcome.as_str());
                sums.entry(kind).or_default().said += record.suppressed;
                found.report.records.1 += record.suppressed;
            }
        }
    }
    found.report.records.0 = records.values().map(|of| of.len() as u64).sum();
    for entry in &evidence.entries {
        let counts = found.report.doors.entry(entry.door.clone()).or_default();
        match entry.answer {
            Answer::Token { .. } => counts.0 += 1,
            Answer::Refused(_) => counts.1 += 1,
            Answer::Lost => counts.2 += 1,
        }
        let of = records.remove(&entry.number).unwrap_or_default();
        match (&of[..], &entry.answer) {
            ([], Answer::Token { .. }) => {
                let rule = match killed(faults, entry, BEFORE) {
                    true => Rule::UnauditedAtKill,
                    false => Rule::UnauditedHandOut,
                };
                found.broken(rule, || words(entry));
            }
            ([], Answer::Refused(code)) => {
                let caller = entry.caller.as_deref().filter(|_| code != UNKNOWN);
                let kind = (entry.replica, caller, code.as_str());
                sums.entry(kind).or_default().left.push(entry);
            }
            ([], Answer::Lost) => {}
            ([record], answer) => {
                if !fits(record, entry) {
                    found.broken(Rule::AuditDisagrees, || format!("{}; {record:?}", words(entry)));
                } else if *answer == Answer::Lost && !may_be_lost(faults, entry) {
                    found.broken(Rule::AuditUnasked, || format!("{}; {record:?}", words(entry)));
                }
            }
            // A stream's later hand-outs reached nobody: who asked was content with the first.
            ([first, later @ ..], _)
                if entry.hung_up
                    && fits(first, entry)
                    && later.iter().all(|record| fits_lost(record, entry)) => {}
            (several, _) => {
                found.broken(Rule::AuditDisagrees, || format!("{}; several: {several:?}", words(entry)));
            }
        }
    }
    for record in records.into_values().flatten() {
        found.broken(Rule::AuditUnasked, || format!("{record:?}"));
    }
    for (kind, summed) in sums {
        compare(evidence, faults, kind, &summed, found);
    }
}

/// Whether a record says what the ledger has.
fn fits(record: &Audited, entry: &Entry) -> bool {
    let same_caller = record.caller == entry.caller
        && record.method == entry.method
        && record.connection == entry.connection;
    let is_nobody = record.caller.is_none() && record.outcome == UNKNOWN;
    let same = record.replica == entry.replica
        && (same_caller || is_nobody)
        && record.door.as_deref() == Some(entry.word.as_str());
    same && match &entry.answer {
        Answer::Token { sha256, uti } => {
            record.action == "token"
                && record.outcome == "ok"
                && record.token_sha256.as_deref() == Some(sha256)
                && record.uti == *uti
        }
        Answer::Refused(code) => {
            record.action == "refused" && record.outcome == *code && record.token_sha256.is_none()
        }
        Answer::Lost => matches!(record.action.as_str(), "token" | "refused"),
    }
}

/// The same for what came to nobody.
fn fits_lost(record: &Audited, entry: &Entry) -> bool {
    fits(record, &Entry { answer: Answer::Lost, ..entry.clone() })
}

/// The sums stand for exactly those refusals that have no record of their own; but a kill takes the sum of
/// its last second along, and a refusal whose answer was lost may stand in a sum.
fn compare(
    evidence: &Evidence,
    faults: &Faults<'_>,
    (replica, caller, code): Kind<'_>,
    summed: &Summed<'_>,
    found: &mut Findings,
) {
    let within = if caller.is_some() { SUMMED_WITHIN } else { STRANGERS_SUMMED_WITHIN } + AFTERMATH;
    let (with_a_kill, left): (Vec<&Entry>, Vec<&Entry>) =
        summed.left.iter().partition(|entry| killed(faults, entry, within));
    let said = summed.said;
    if left.len() as u64 > said {
        let lacking = left.len() as u64 - said;
        found.broken(Rule::UnauditedRefusal, || {
            let first = left.first().map(|entry| words(entry)).unwrap_or_default();
            format!("{lacking} of {} with {code} of {caller:?} at replica {replica}: {first}", left.len())
        });
    }
    let of_caller = |entry: &&Entry| entry.replica == replica && entry.caller.as_deref() == caller;
    let lost = evidence.entries.iter().filter(of_caller).filter(|entry| entry.answer == Answer::Lost).count();
    let most = left.len() + with_a_kill.len() + lost;
    if said > most as u64 {
        found.broken(Rule::AuditDisagrees, || {
            format!("sums of {said} with {code} of {caller:?} at replica {replica}, of at most {most}")
        });
    }
}

/// Whether the process was killed while it answered, or within this time after it.
fn killed(faults: &Faults<'_>, entry: &Entry, within: u64) -> bool {
    faults.all.iter().any(|fault| {
        fault.effect == Effect::Down
            && fault.replica == Some(entry.replica)
            && (entry.started..=entry.ended + within).contains(&fault.started)
    })
}

/// Whether an answer may be lost: the process was killed on the way, or stood still for longer than its
/// caller waits.
fn may_be_lost(faults: &Faults<'_>, entry: &Entry) -> bool {
    let until = entry.ended + AFTERMATH;
    faults.during(&[Effect::Down, Effect::Stopped], Some(entry.replica), entry.started, until)
}

fn words(entry: &Entry) -> String {
    let Entry { number, door, caller, connection, replica, started, ended, answer, .. } = entry;
    let (caller, connection) =
        (caller.as_deref().unwrap_or("a stranger"), connection.as_deref().unwrap_or("-"));
    format!(
        "request {number} at {started}..{ended} to replica {replica} through {door} by {caller} for \
         {connection}: {answer:?}"
    )
}
