//! Short, readable text for a run.

use std::fmt::Write as _;

use crate::protocol::Action;
use crate::world::{Answer, Call, Commit, Phase, Record, RefreshToken, Slot, World, Write};

/// Returns a line for each step: the action and the state after it. `f0#1` is refresh token 1 of family 0,
/// `g2` a generation counter, `n1` a nonce.
pub fn lines(path: Vec<(World, Option<Action>)>) -> String {
    let mut text = String::new();
    let mut what = "init".to_owned();
    for (number, (world, next)) in path.into_iter().enumerate() {
        let _ = writeln!(text, "{number:>3} {what:<24} {}", line(&world));
        what = next.map_or_else(String::new, |action| format!("{action:?}"));
    }
    text
}

/// Returns a line for a state.
pub fn line(world: &World) -> String {
    let mut text = String::new();
    for cell in &world.store {
        let _ = write!(text, "store[{}", cell.record.map_or_else(|| "-".to_owned(), record));
        if let Some(lease) = cell.lease {
            let _ = write!(text, " lease=n{}", lease.nonce);
        }
        if let Some(intent) = cell.intent {
            let _ = write!(text, " intent=n{}", intent.nonce);
        }
        let _ = write!(text, "] ");
    }
    for (r, slots) in world.replicas.iter().enumerate() {
        for state in slots {
            let _ = write!(text, "R{r}[{}] ", slot(state));
        }
    }
    for family in &world.families {
        let _ = write!(text, "auth[#{}{}] ", family.newest, if family.killed { " killed" } else { "" });
    }
    for (_, late) in &world.late_writes {
        let _ = match late {
            Write::Commit(late) => write!(text, "late[{}] ", commit(*late)),
            other => write!(text, "late[{other:?}] "),
        };
    }
    for late in &world.late_calls {
        let _ = write!(text, "late-call[{}] ", token(*late));
    }
    let _ = write!(text, "era={} log={} wrong={:b}", world.era, world.log.len(), world.wrong);
    text
}

fn slot(slot: &Slot) -> String {
    let mut text = phase(&slot.phase);
    if let Some(held) = slot.held {
        let _ = write!(text, " held={}", record(held));
    }
    for (name, kept) in
        [("unstored", slot.unstored), ("journal", slot.journal), ("signing-in", slot.signing_in)]
    {
        if let Some(kept) = kept {
            let _ = write!(text, " {name}={}", commit(kept));
        }
    }
    for (name, flag) in [("lost", slot.lost), ("ran-out", slot.ran_out), ("orphan", slot.orphan)] {
        if flag {
            let _ = write!(text, " {name}");
        }
    }
    text
}

fn phase(phase: &Phase) -> String {
    match phase {
        Phase::Take(before) => format!("take({})", record(*before)),
        Phase::Load { nonce, unsettled, .. } => format!("load(n{nonce}{})", doubt(*unsettled)),
        Phase::Ready(of) => format!("ready({})", call(of)),
        Phase::Calling(of) => format!("calling({})", call(of)),
        Phase::Answered(of, Answer::Tokens { token: new, .. }) => {
            format!("answered({} -> {})", call(of), token(*new))
        }
        Phase::Answered(of, other) => format!("answered({} -> {other:?})", call(of)),
        Phase::Set(of) => format!("set({})", commit(*of)),
        Phase::Judge(of) => format!("judge({})", commit(*of)),
        Phase::Republish(of) => format!("republish({})", commit(*of)),
        other => format!("{other:?}").to_lowercase(),
    }
}

fn call(call: &Call) -> String {
    format!("n{} {}{}", call.nonce, token(call.base.token), doubt(call.unsettled))
}

fn doubt(unsettled: bool) -> &'static str {
    if unsettled { "?" } else { "" }
}

fn record(record: Record) -> String {
    let dead = if record.dead { " DEAD" } else { "" };
    format!("g{} {}@{}{dead}", record.revision.counter, token(record.token), record.issued)
}

fn commit(commit: Commit) -> String {
    let expected = commit.expected.map_or_else(|| "-".to_owned(), |old| format!("g{}", old.counter));
    format!("{expected}->{} n{}", record(commit.record), commit.nonce)
}

fn token(token: RefreshToken) -> String {
    format!("f{}#{}", token.family, token.number)
}
