//! Comparison of the deliberate acts on connections with what callers got afterwards.

use std::collections::HashMap;

use super::{AFTERMATH, BEFORE, Faults, Findings, Rule, asked, words};
use crate::ledger::{Act, Call, Deed, Effect, Ending, Evidence, Final};

/// What one replica does, every other takes up within a second …
const TAKEN_UP: u64 = 1_000;
/// … but a revocation within 5 s …
const REVOCATION_TAKEN_UP: u64 = 5_000;
/// … and a machine that runs everything at once is late.
const SLACK: u64 = 2_000;
/// A primary that was replaced while it stood still is left within seconds.
const RUNS_ON: u64 = 5_000;
/// Those of a primary, where there are sentinels.
const STORE_REPLICAS: u8 = 2;
/// A connection that is blocked is tried again after a minute; then it may have to wait for its turn and for
/// an answer.
const TRIED_AGAIN: u64 = 60_000;
const HEALS_WITHIN: u64 = 10_000;
/// The authority's word for a grant that was revoked.
const REVOKED: u32 = 50173;

/// A process of a replica, asked for a connection at some time.
#[derive(Clone, Copy)]
pub(super) struct Asked {
    pub(super) connection: u16,
    pub(super) replica: u8,
    /// None where it is not known which process it was.
    pub(super) life: Option<u32>,
    pub(super) started: u64,
    pub(super) ended: u64,
}

impl From<&Call> for Asked {
    fn from(call: &Call) -> Self {
        let Call { connection, replica, life, started, ended, .. } = *call;
        Asked { connection, replica, life: Some(life), started, ended }
    }
}

/// The acts, by connection, and what explains that one was not taken up.
pub(super) struct Acts<'a> {
    of: HashMap<u16, Vec<&'a Act>>,
    /// When each sign-in's code was redeemed.
    signed_in: HashMap<u64, u64>,
    faults: &'a Faults<'a>,
    /// For how many replicas of the store an acknowledgement waited; none where there are no failovers.
    waited_for: Option<u8>,
}

impl<'a> Acts<'a> {
    pub(super) fn new(evidence: &'a Evidence, faults: &'a Faults<'a>) -> Self {
        let mut of: HashMap<u16, Vec<&Act>> = HashMap::new();
        for act in &evidence.acts {
            for connection in &act.connections {
                of.entry(*connection).or_default().push(act);
            }
        }
        for acts in of.values_mut() {
            acts.sort_by_key(|act| (act.started, act.ended));
        }
        let codes = evidence.authority.iter().filter(|call| !call.refresh);
        let signed_in = codes.filter_map(|call| Some((call.family?, call.started))).collect();
        let waited_for = (evidence.setup.redis == "sentinel").then_some(evidence.setup.wait_replicas);
        Acts { of, signed_in, faults, waited_for }
    }

    /// What was begun before this was answered, of these kinds, the latest first.
    fn before(&self, asked: Asked, deeds: &'static [Deed]) -> impl Iterator<Item = &'a Act> {
        let all = self.of.get(&asked.connection).map_or(&[][..], Vec::as_slice);
        let begun = all.iter().rev().copied().filter(move |act| act.started <= asked.ended);
        begun.filter(move |act| deeds.contains(&act.deed))
    }

    /// Returns true if the asked process must know of an act, or may serve nothing: it did the act itself,
    /// was in touch with the store for long enough since, or was cut off for too long.
    fn must_know(&self, act: &Act, asked: Asked) -> bool {
        if !act.done || act.ended >= asked.started {
            return false;
        }
        if act.replica == Some(asked.replica) && asked.life == Some(act.life) {
            return true;
        }
        let within = if act.deed == Deed::Revoke { REVOCATION_TAKEN_UP } else { TAKEN_UP } + SLACK;
        const APART: [Effect; 4] = [Effect::StoreLink, Effect::Store, Effect::Stopped, Effect::Down];
        self.faults.quiet(&APART, Some(asked.replica), (act.ended, asked.started), within)
            || asked.started >= act.ended + self.faults.serve_cached_for + within
    }

    /// Returns true if a failover may have taken back something acknowledged: anything if no replica was
    /// waited for; and, if not all were, what an old primary accepted while it was being replaced.
    fn may_be_dropped(&self, act: &Act) -> bool {
        match self.waited_for {
            Some(0) => self.faults.during(&[Effect::Store], None, act.started, act.ended + BEFORE),
            Some(some) if some < STORE_REPLICAS => {
                let (from, until) = (act.started.saturating_sub(RUNS_ON), act.ended + BEFORE);
                self.faults.stood_still(from, until)
            }
            _ => false,
        }
    }

    /// Whether this sign-in was made before an act.
    fn is_before(&self, family: u64, act: &Act) -> bool {
        self.signed_in.get(&family).is_some_and(|at| *at < act.started)
    }

    /// Returns true if a connection may rightly not be found: somebody has ended it or tried to, and a later
    /// sign-in need not be known.
    pub(super) fn may_be_absent(&self, asked: Asked) -> bool {
        for act in self.before(asked, &[Deed::Delete, Deed::Revoke, Deed::SignIn]) {
            match act.deed {
                Deed::SignIn if self.must_know(act, asked) && !self.may_be_dropped(act) => return false,
                Deed::SignIn => {}
                _ => return true,
            }
        }
        false
    }

    /// Returns true if an earlier hand-out may rightly be gone: the connection was ended or taken away since,
    /// or that had not yet reached every replica.
    pub(super) fn taken_away(&self, call: &Call, handed_out: u64) -> bool {
        let all = self.of.get(&call.connection).map_or(&[][..], Vec::as_slice);
        let mut since: Option<u64> = None;
        for act in all.iter().filter(|act| act.started <= call.ended) {
            match act.deed {
                Deed::Delete | Deed::Revoke | Deed::Pause => since = since.or(Some(act.started)),
                Deed::SignIn | Deed::Resume if act.done && since.is_some() => {
                    let back = self.must_know(act, Asked::from(call)) && !self.may_be_dropped(act);
                    if back && handed_out > act.ended {
                        since = None;
                    }
                }
                _ => {}
            }
        }
        since.is_some()
    }
}

/// A deleted, revoked or paused connection is not served and comes back only by its user or operator; a
/// reported token is not given to its reporter again.
pub(super) fn acts(evidence: &Evidence, acts: &Acts<'_>, found: &mut Findings) {
    for call in &evidence.calls {
        if let (Some(reported), Some(token)) = (call.reported, &call.token)
            && reported == token.serial
        {
            found.broken(Rule::RejectedAgain, || format!("{}: {token:?}", words(evidence, call)));
        }
        ended(evidence, acts, call, found);
        paused(evidence, acts, call, found);
        blocked(evidence, acts, call, found);
    }
    used(evidence, acts, found);
    for act in evidence.acts.iter().filter(|act| act.deed == Deed::Delete && act.status == 404) {
        let (Some(replica), Some(connection)) = (act.replica, act.connections.first().copied()) else {
            continue;
        };
        // What it was before this act is asked.
        let asked = Asked {
            connection,
            replica,
            life: Some(act.life),
            started: act.started,
            ended: act.started.saturating_sub(1),
        };
        if !acts.may_be_absent(asked) {
            found.broken(Rule::FalseNotFound, || format!("{act:?}"));
        }
    }
}

/// Nothing of a connection that was deleted or revoked.
fn ended(evidence: &Evidence, acts: &Acts<'_>, call: &Call, found: &mut Findings) {
    let asked = Asked::from(call);
    let mut signed_in = false;
    for act in acts.before(asked, &[Deed::Delete, Deed::Revoke, Deed::SignIn]) {
        if act.deed == Deed::SignIn {
            signed_in = true;
            continue;
        }
        if !acts.must_know(act, asked) || acts.may_be_dropped(act) {
            continue;
        }
        found.report.after_acts += u64::from(!signed_in);
        let old = call.token.as_ref().is_some_and(|token| acts.is_before(token.family, act));
        // That it needs its user, or an operator, is said of what is there.
        let there = call.status == 409 && !signed_in;
        if old || there {
            let rule = if act.deed == Deed::Delete { Rule::DeletedServed } else { Rule::RevokedServed };
            found.broken(rule, || {
                format!("{}: {:?} {:?} after {act:?}", words(evidence, call), call.code, call.token)
            });
            return;
        }
        // What was done before that act is counted by it.
        if !signed_in {
            return;
        }
    }
}

/// Nothing of a connection that is paused, and no word of a pause that is over.
fn paused(evidence: &Evidence, acts: &Acts<'_>, call: &Call, found: &mut Findings) {
    let asked = Asked::from(call);
    let Some(last) = acts.before(asked, &[Deed::Pause, Deed::Resume]).next() else { return };
    if !acts.must_know(last, asked) || acts.may_be_dropped(last) {
        return;
    }
    found.report.after_acts += u64::from(last.deed == Deed::Pause);
    let broken = match last.deed {
        Deed::Pause if call.status == 200 => Rule::PausedServed,
        Deed::Resume if call.code.as_deref() == Some("connection_paused") => Rule::StillPaused,
        _ => return,
    };
    found.broken(broken, || format!("{}: {:?} after {last:?}", words(evidence, call), call.code));
}

/// A block that was lifted is noticed when the connection is tried again.
fn blocked(evidence: &Evidence, acts: &Acts<'_>, call: &Call, found: &mut Findings) {
    if call.code.as_deref() != Some("connection_blocked") {
        return;
    }
    let last = acts.before(Asked::from(call), &[Deed::Block, Deed::Lift]).next();
    let Some(lifted) = last.filter(|act| act.deed == Deed::Lift) else { return };
    const HINDERED: [Effect; 6] = [
        Effect::StoreLink,
        Effect::Store,
        Effect::Stopped,
        Effect::Down,
        Effect::AuthorityLink,
        Effect::Authority,
    ];
    let tried = lifted.ended + TRIED_AGAIN;
    if acts.faults.quiet(&HINDERED, None, (tried, call.started), HEALS_WITHIN) {
        found.broken(Rule::StillBlocked, || format!("{} after {lifted:?}", words(evidence, call)));
    }
}

/// No replica asks the authority with a grant that was deleted or revoked, once what was under way is over.
fn used(evidence: &Evidence, acts: &Acts<'_>, found: &mut Findings) {
    let owner: HashMap<u64, u16> = (0u16..)
        .zip(&evidence.connections)
        .flat_map(|(number, one)| one.families.iter().map(move |family| (*family, number)))
        .collect();
    for call in evidence.authority.iter().filter(|call| call.refresh) {
        let (Some(family), Some(replica)) = (call.family, call.replica) else { continue };
        let Some(connection) = owner.get(&family).copied() else { continue };
        // It was decided a lease before it came, at the earliest.
        let decided = call.started.saturating_sub(evidence.setup.lease + AFTERMATH);
        let by = Asked { connection, replica, life: None, started: decided, ended: call.started };
        let act = acts.before(by, &[Deed::Delete, Deed::Revoke]).find(|act| acts.is_before(family, act));
        if let Some(act) = act
            && acts.must_know(act, by)
            && !acts.may_be_dropped(act)
            && !acts.faults.is_late(call)
        {
            found.broken(Rule::EndedGrantUsed, || format!("family {family}: {} after {act:?}", asked(call)));
        }
    }
}

/// How a connection stood that must give no token; whether it was one.
pub(super) fn ending(end: &Final, acts: &Acts<'_>, found: &mut Findings) -> bool {
    let all = acts.of.get(&end.connection).map_or(&[][..], Vec::as_slice);
    let dropped = |deed: Deed| {
        all.iter().rev().find(|act| act.deed == deed && act.done).is_some_and(|act| acts.may_be_dropped(act))
    };
    let stands = end.refused_by.is_empty();
    let (rule, fits) = match end.expected {
        Ending::Served => return false,
        Ending::Deleted => (Rule::DeletedServed, stands || dropped(Deed::Delete)),
        Ending::Paused => (Rule::PausedServed, stands || dropped(Deed::Pause)),
        Ending::Dead => {
            let status = end.status.as_deref() == Some("needs_reauthorization");
            (Rule::MissedVerdict, stands && status && end.error_codes.contains(&REVOKED))
        }
    };
    if !fits {
        found.broken(rule, || format!("in the end: {end:?}"));
    }
    true
}
