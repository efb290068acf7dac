//! The checker: it compares all records with the promises. It is pure, so that it is tested with small
//! ledgers in which each violation was planted.
//!
//! Excuses by faults are decided narrowly and in one place (`Faults`): a checker that explains everything
//! away finds nothing.

use std::collections::{BTreeMap, HashMap, HashSet};

use serde::Serialize;

use self::acts::Acts;
use crate::ledger::{
    AuthorityCall, Call, Connected, Effect, Ending, Evidence, FaultRecord, Final, HandedOut,
};

/// Least life for a token to count as cached: a caller may wait 3 s for a better one.
const HELD_MARGIN: u64 = 5_000;
/// How much later a call that its client gave up ends at the authority, because of the proxy in between.
const GIVING_UP: u64 = 250;
/// How long a fault's effects last after it: connections are made anew, and pauses run out.
const AFTERMATH: u64 = 2_000;
/// Time in which a sent answer reaches a replica and is durable there.
const KEEPING: u64 = 500;
/// A restart or a failover may lose writes of this time before it.
const BEFORE: u64 = 1_000;
/// Time with the store after which a replica knows every connection that it is asked for.
const HEARD_WITHIN: u64 = 1_000;
/// Examples shown of each violation.
const MOST_EXAMPLES: usize = 5;
/// An interval in which every answer must be good for a replica to count as healthy again.
const HEALTHY_FOR: u64 = 500;
/// Cached tokens must be served at least this often, in a hundred thousand.
const CACHED_AT_LEAST: u64 = 99_950;
/// Time in which a process has an answer of the authority, whose date corrects its clock.
const CLOCK_TOLD_WITHIN: u64 = 10_000;
/// AADSTS50196 holds a connection off for minutes: it is not lost.
const LOOP_THROTTLED: u32 = 50196;

/// The rules: what must never happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Rule {
    /// A token of another user or connection was handed out.
    WrongToken,
    /// A token was handed out that was dead already when it was asked for.
    DeadToken,
    /// A hand-out has no record in the audit stream of the replica that made it.
    UnauditedHandOut,
    /// The same, where that replica was killed within a second.
    UnauditedAtKill,
    /// A refusal has neither a record of its own nor a place in a sum.
    UnauditedRefusal,
    /// A record, or a sum of refusals, says something else than the caller's own ledger.
    AuditDisagrees,
    /// A record is of a request whose caller has no answer, and no fault explains that; or of none at all.
    AuditUnasked,
    /// An audit stream's chain is broken.
    AuditChain,
    /// A connection could not be refreshed in the end, and nothing explains it.
    LostGrant,
    /// A connection is not active, and no verdict of the authority explains it.
    FalseReauthorization,
    /// The authority ended a grant because a used refresh token was sent again, and no lost answer explains
    /// that.
    KilledGrant,
    /// Two refreshes of one connection at a time, while every lease was alive.
    DoubleRefresh,
    /// A refresh token whose successor had arrived was used again.
    ReusedRefreshToken,
    /// A replica handed out an older generation after a newer one.
    GenerationBackwards,
    /// A connection that is there was "not found".
    FalseNotFound,
    /// After the end, replicas did not serve what others did.
    Disagreement,
    /// A connection that was deleted gave a token of before, or came back without a sign-in.
    DeletedServed,
    /// The same of one that the kill switch ended.
    RevokedServed,
    /// The authority was asked with a grant that was deleted or revoked.
    EndedGrantUsed,
    /// A paused connection gave a token.
    PausedServed,
    /// A connection that was resumed was refused as paused.
    StillPaused,
    /// The reporter of a rejected token got the same token.
    RejectedAgain,
    /// A grant that the authority ended was not reported with its reason.
    MissedVerdict,
    /// A block that the authority lifted stayed.
    StillBlocked,
    /// The events of a connection say something else than how it stands, or one change twice.
    EventsDisagree,
}

impl Rule {
    /// Every rule.
    pub const ALL: [Rule; 25] = [
        Rule::WrongToken,
        Rule::DeadToken,
        Rule::UnauditedHandOut,
        Rule::UnauditedAtKill,
        Rule::UnauditedRefusal,
        Rule::AuditDisagrees,
        Rule::AuditUnasked,
        Rule::AuditChain,
        Rule::LostGrant,
        Rule::FalseReauthorization,
        Rule::KilledGrant,
        Rule::DoubleRefresh,
        Rule::ReusedRefreshToken,
        Rule::GenerationBackwards,
        Rule::FalseNotFound,
        Rule::Disagreement,
        Rule::DeletedServed,
        Rule::RevokedServed,
        Rule::EndedGrantUsed,
        Rule::PausedServed,
        Rule::StillPaused,
        Rule::RejectedAgain,
        Rule::MissedVerdict,
        Rule::StillBlocked,
        Rule::EventsDisagree,
    ];

    /// The name in reports and in `--tolerate`.
    pub fn name(self) -> &'static str {
        match self {
            Rule::WrongToken => "wrong_token",
            Rule::DeadToken => "dead_token",
            Rule::UnauditedHandOut => "unaudited_hand_out",
            Rule::UnauditedAtKill => "unaudited_at_kill",
            Rule::UnauditedRefusal => "unaudited_refusal",
            Rule::AuditDisagrees => "audit_disagrees",
            Rule::AuditUnasked => "audit_unasked",
            Rule::AuditChain => "audit_chain",
            Rule::LostGrant => "lost_grant",
            Rule::FalseReauthorization => "false_reauthorization",
            Rule::KilledGrant => "killed_grant",
            Rule::DoubleRefresh => "double_refresh",
            Rule::ReusedRefreshToken => "reused_refresh_token",
            Rule::GenerationBackwards => "generation_backwards",
            Rule::FalseNotFound => "false_not_found",
            Rule::Disagreement => "disagreement",
            Rule::DeletedServed => "deleted_served",
            Rule::RevokedServed => "revoked_served",
            Rule::EndedGrantUsed => "ended_grant_used",
            Rule::PausedServed => "paused_served",
            Rule::StillPaused => "still_paused",
            Rule::RejectedAgain => "rejected_again",
            Rule::MissedVerdict => "missed_verdict",
            Rule::StillBlocked => "still_blocked",
            Rule::EventsDisagree => "events_disagree",
        }
    }
}

/// How often something happened, and some of it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Figure {
    /// How often.
    pub count: u64,
    /// The first few.
    pub examples: Vec<String>,
}

impl Figure {
    fn add(&mut self, example: impl FnOnce() -> String) {
        self.count += 1;
        if self.examples.len() < MOST_EXAMPLES {
            self.examples.push(example());
        }
    }
}

/// Requests for a connection whose token the asked replica held.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Cached {
    /// How many.
    pub asked: u64,
    /// How many got one.
    pub served: u64,
    /// Those that did not.
    pub failed: Figure,
    /// Of those, by code.
    pub codes: BTreeMap<String, u64>,
}

impl Cached {
    fn good_enough(&self) -> bool {
        self.served * 100_000 >= self.asked * CACHED_AT_LEAST
    }
}

/// How long things took, in milliseconds.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Spread {
    /// How many.
    pub count: u64,
    /// Half took no longer.
    pub p50: u64,
    /// All but one in a hundred took no longer.
    pub p99: u64,
    /// All but one in a thousand took no longer.
    pub p999: u64,
    /// None took longer.
    pub longest: u64,
}

impl Spread {
    fn of(mut all: Vec<u64>) -> Self {
        all.sort_unstable();
        let at = |share: usize| {
            let index = (all.len() * share).div_ceil(1000).saturating_sub(1);
            all.get(index).copied().unwrap_or(0)
        };
        Spread { count: all.len() as u64, p50: at(500), p99: at(990), p999: at(999), longest: at(1000) }
    }
}

/// Result of a run.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Report {
    /// Whether every rule held that is not tolerated, and cached tokens were served.
    pub passed: bool,
    /// The seed.
    pub seed: u64,
    /// `entra` or `strict`.
    pub mode: String,
    /// `standalone` or `sentinel`.
    pub redis: String,
    /// Requests of callers.
    pub requests: u64,
    /// Requests that were never answered, or by 200, or with which code.
    pub answers: BTreeMap<String, u64>,
    /// Every door's hand-outs, refusals and lost answers, as the callers' ledgers have them.
    pub doors: BTreeMap<String, (u64, u64, u64)>,
    /// Records of the audit that were compared with them, and refusals that stand in sums.
    pub records: (u64, u64),
    /// Calls for tokens that the authority saw, and how many it answered with one.
    pub refreshes: u64,
    /// Of those, the ones that were given a token.
    pub refreshed: u64,
    /// What was done to connections and acknowledged, and what was not, by kind.
    pub acts: BTreeMap<String, (u64, u64)>,
    /// Requests at a process that had to know of such an act, and of no sign-in or resumption since.
    pub after_acts: u64,
    /// Reports of a token as rejected.
    pub reports: u64,
    /// Faults by kind.
    pub faults: BTreeMap<String, u64>,
    /// What must be 0.
    pub violations: BTreeMap<&'static str, Figure>,
    /// Rules that do not fail this run.
    pub tolerated: Vec<&'static str>,
    /// Cached tokens.
    pub cached: Cached,
    /// Latency of all requests.
    pub latency_ms: Spread,
    /// Latency of requests whose token was held.
    pub cached_latency_ms: Spread,
    /// From the end of a fault until the replicas it hit answered well again, by kind.
    pub healthy_after_ms: BTreeMap<String, Spread>,
    /// Dead tokens and overlong promises that a wrong wall clock explains: the store's times are that
    /// clock's.
    pub dead_by_wrong_clock: u64,
    /// Answers whose `expires_at` is more than 1 s later than the token's own end.
    pub overlong_expires_at: u64,
    /// Overlapping or repeated refreshes that a fault explains.
    pub explained_double_refreshes: u64,
    /// Grants that the authority ended for the reuse of a refresh token, by what explains it.
    pub ended_grants: BTreeMap<&'static str, u64>,
    /// Connections that were connected again because their grant had ended.
    pub reconnected: u64,
    /// Connections that were not active in the end.
    pub not_active_in_the_end: u64,
    /// Connections that the authority holds off for minutes.
    pub held_off_in_the_end: u64,
}

/// The faults, and their excuses.
struct Faults<'a> {
    all: &'a [FaultRecord],
    lease: u64,
    serve_cached_for: u64,
}

impl Faults<'_> {
    /// Returns true if a fault with one of these effects on this replica lasted at some time from `from` to
    /// `until`.
    fn during(&self, effects: &[Effect], replica: Option<u8>, from: u64, until: u64) -> bool {
        self.all.iter().any(|fault| {
            let hits = fault.replica.is_none() || replica.is_none() || fault.replica == replica;
            hits && effects.contains(&fault.effect) && fault.started <= until && from <= fault.ended
        })
    }

    /// Returns true if, from `from` to `until`, there was this long a time without a fault with one of these
    /// effects on this replica or its aftermath.
    fn quiet(&self, effects: &[Effect], replica: Option<u8>, (from, until): (u64, u64), within: u64) -> bool {
        let hits = |fault: &&FaultRecord| {
            let hits = fault.replica.is_none() || replica.is_none() || fault.replica == replica;
            hits && effects.contains(&fault.effect)
        };
        let mut hitting: Vec<&FaultRecord> = self.all.iter().filter(hits).collect();
        hitting.sort_by_key(|fault| fault.started);
        let mut since = from;
        for fault in hitting.into_iter().take_while(|fault| fault.started < until) {
            if fault.started >= since + within {
                return true;
            }
            since = since.max(fault.ended + AFTERMATH);
        }
        until >= since + within
    }

    /// Returns true if the store's primary stood still and ran on, at some time from `from` to `until`.
    fn stood_still(&self, from: u64, until: u64) -> bool {
        let mut stops =
            self.all.iter().filter(|fault| fault.effect == Effect::Store && fault.kind == "redis_stop");
        stops.any(|fault| fault.started <= until && from <= fault.ended)
    }

    /// Returns true if this replica may, at this time, have been without the store for longer than it serves
    /// its cache.
    fn cut_off_too_long(&self, replica: u8, at: u64) -> bool {
        const APART: [Effect; 3] = [Effect::StoreLink, Effect::Store, Effect::Stopped];
        let from = at.saturating_sub(self.serve_cached_for);
        !self.quiet(&APART, Some(replica), (from, at), HEARD_WITHIN)
    }

    /// Returns true if a fault with this effect on this replica began from `from` to `until`.
    fn began(&self, effect: Effect, replica: Option<u8>, from: u64, until: u64) -> bool {
        self.all.iter().any(|fault| {
            fault.effect == effect && fault.replica == replica && (from..=until).contains(&fault.started)
        })
    }

    /// Returns true if a lease of this replica may have been lost, or its outcome unknown, around this call.
    fn lease_in_doubt(&self, call: &AuthorityCall, next: &AuthorityCall) -> bool {
        const HOLDER: [Effect; 4] = [Effect::Down, Effect::Stopped, Effect::StoreLink, Effect::AuthorityLink];
        let from = call.started.saturating_sub(self.lease + AFTERMATH);
        let until = next.started + BEFORE;
        let before_next = next.started.saturating_sub(self.lease + AFTERMATH);
        self.during(&HOLDER, call.replica, from, until)
            || self.during(&[Effect::Store], None, from, until)
            || self.during(&[Effect::Stopped], next.replica, from.max(before_next), until)
            || self.is_late(next)
            || self.during(&[Effect::Clock], call.replica, from, until)
            || self.during(&[Effect::Clock], next.replica, from, until)
    }

    /// Returns true if this call may have been sent long before it came: held data arrives when the link is
    /// repaired.
    fn is_late(&self, call: &AuthorityCall) -> bool {
        let held_until = call.started.saturating_sub(GIVING_UP);
        self.during(&[Effect::AuthorityLink], call.replica, held_until, call.started)
    }

    /// Returns why the answer to this call may have reached nobody who could store it.
    fn answer_lost(&self, call: &AuthorityCall) -> Option<&'static str> {
        const REPLACED: [&str; 3] = ["wrong_user_id_token", "token_response_patch", "id_token_patch"];
        let ended = call.ended.unwrap_or(u64::MAX);
        let (from, until) = (call.started, ended.saturating_add(KEEPING));
        let began = |effect| self.began(effect, call.replica, from, until);
        let lasted = |effect| self.during(&[effect], call.replica, from, until);
        if !call.delivered {
            Some("lost_answer")
        } else if call.faults.iter().any(|fault| REPLACED.contains(&fault.as_str())) {
            Some("unusable_answer")
        } else if began(Effect::Down) {
            Some("killed_in_flight")
        } else if lasted(Effect::AuthorityLink) {
            Some("lost_on_the_way")
        } else if lasted(Effect::Stopped) {
            Some("stopped_in_flight")
        } else {
            None
        }
    }
}

/// Checks everything. Rules in `tolerated` are counted and fail nothing.
pub fn check(evidence: &Evidence, tolerated: &[Rule]) -> Report {
    let mut found = Findings::default();
    let faults = Faults {
        all: &evidence.faults,
        lease: evidence.setup.lease,
        serve_cached_for: evidence.setup.serve_cached_for,
    };
    let acts = Acts::new(evidence, &faults);
    tokens(evidence, &faults, &acts, &mut found);
    audit::audit(evidence, &faults, &mut found);
    refreshes(evidence, &faults, &mut found);
    endings(evidence, &acts, &mut found);
    generations(evidence, &mut found);
    cached(evidence, &faults, &acts, &mut found);
    acts::acts(evidence, &acts, &mut found);
    events::events(evidence, &mut found);
    let mut report = found.report;
    let of = |count: fn(&AuthorityCall) -> bool| {
        evidence.authority.iter().filter(|call| count(call)).count() as u64
    };
    report.seed = evidence.setup.seed;
    report.mode.clone_from(&evidence.setup.mode);
    report.redis.clone_from(&evidence.setup.redis);
    report.requests = evidence.calls.len() as u64;
    for call in &evidence.calls {
        let word = match (call.status, &call.code) {
            (200, _) => "200".to_owned(),
            (status, code) => format!("{status} {}", code.as_deref().unwrap_or_default()).trim().to_owned(),
        };
        *report.answers.entry(word).or_default() += 1;
    }
    report.refreshes = of(|call| call.refresh);
    report.refreshed = of(|call| call.refresh && call.access.is_some());
    for act in &evidence.acts {
        let word = serde_json::to_value(act.deed).unwrap_or_default();
        let counts = report.acts.entry(word.as_str().unwrap_or_default().to_owned()).or_default();
        if act.done { counts.0 += 1 } else { counts.1 += 1 }
    }
    report.reports = evidence.calls.iter().filter(|call| call.reported.is_some()).count() as u64;
    for fault in &evidence.faults {
        *report.faults.entry(fault.kind.clone()).or_default() += 1;
    }
    let latency = |call: &Call| call.ended.saturating_sub(call.started);
    report.latency_ms = Spread::of(evidence.calls.iter().map(latency).collect());
    report.healthy_after_ms = healing(evidence);
    report.not_active_in_the_end = evidence
        .finals
        .iter()
        .filter(|end| end.status.as_deref().is_some_and(|status| status != "active"))
        .count() as u64;
    report.reconnected =
        evidence.connections.iter().map(|one| one.families.len().saturating_sub(1) as u64).sum();
    for rule in Rule::ALL {
        report.violations.insert(rule.name(), found.violations.remove(&rule).unwrap_or_default());
    }
    report.tolerated = tolerated.iter().map(|rule| rule.name()).collect();
    report.passed = report.cached.good_enough()
        && report
            .violations
            .iter()
            .all(|(name, figure)| figure.count == 0 || report.tolerated.contains(name));
    report
}

#[derive(Default)]
struct Findings {
    violations: BTreeMap<Rule, Figure>,
    report: Report,
}

impl Findings {
    fn broken(&mut self, rule: Rule, example: impl FnOnce() -> String) {
        self.violations.entry(rule).or_default().add(example);
    }
}

/// Every token handed out is its connection's own, and lives.
fn tokens(evidence: &Evidence, faults: &Faults<'_>, acts: &Acts<'_>, found: &mut Findings) {
    let issued: HashMap<u64, &AuthorityCall> =
        evidence.authority.iter().filter_map(|call| Some((call.access?, call))).collect();
    // A sign-in whose confirmation was lost on its way is nobody's by name; its user's it is.
    let claimed: HashSet<u64> =
        evidence.connections.iter().flat_map(|one| one.families.iter().copied()).collect();
    let signed_in: HashSet<(u64, &str)> = evidence
        .authority
        .iter()
        .filter(|call| !call.refresh)
        .filter_map(|call| Some((call.family?, call.user.as_deref()?)))
        .collect();
    let is_of = |own: &Connected, family: u64| {
        own.families.contains(&family)
            || (!claimed.contains(&family) && signed_in.contains(&(family, own.user.as_str())))
    };
    for call in &evidence.calls {
        if call.status == 404 && !acts.may_be_absent(call.into()) {
            found.broken(Rule::FalseNotFound, || words(evidence, call));
        }
        let Some(token) = &call.token else {
            if call.status == 200 {
                found.broken(Rule::WrongToken, || {
                    format!("{}: no token that can be read", words(evidence, call))
                });
            }
            continue;
        };
        let own = evidence.connections.get(usize::from(call.connection));
        let is_own = own.is_some_and(|own| own.user == token.user && is_of(own, token.family))
            && issued.get(&token.serial).is_some_and(|call| call.family == Some(token.family));
        if !is_own {
            found.broken(Rule::WrongToken, || format!("{}: {token:?}", words(evidence, call)));
        }
        if token.dies <= call.started {
            // The end of its life was written down by a clock that was ahead, or is read by one that is
            // behind.
            let written_wrong = issued.get(&token.serial).is_some_and(|by| {
                faults.during(
                    &[Effect::Clock],
                    by.replica,
                    by.started.saturating_sub(BEFORE),
                    by.started + AFTERMATH,
                )
            });
            let reach = (call.started.saturating_sub(BEFORE), call.ended + BEFORE);
            if written_wrong || faults.during(&[Effect::Clock], Some(call.replica), reach.0, reach.1) {
                found.report.dead_by_wrong_clock += 1;
            } else {
                found.broken(Rule::DeadToken, || format!("{}: {token:?}", words(evidence, call)));
            }
        }
        if token.said_to_die > token.dies + 1000 {
            found.report.overlong_expires_at += 1;
        }
    }
}

fn words(evidence: &Evidence, call: &Call) -> String {
    let name = evidence.connections.get(usize::from(call.connection)).map_or("?", |one| one.name.as_str());
    let Call { number, started, ended, replica, life, status, .. } = call;
    let code = call.code.as_deref().unwrap_or_default();
    format!(
        "call {number} at {started}..{ended} to replica {replica} (life {life}) for {name}: {status} {code}"
    )
}

fn asked(call: &AuthorityCall) -> String {
    let number = |number: Option<u64>| number.map_or_else(|| "-".to_owned(), |number| number.to_string());
    format!(
        "#{} at {}..{} by replica {} with {} for {} ({}{}{}) {:?}",
        call.sequence,
        call.started,
        number(call.ended),
        number(call.replica.map(u64::from)),
        number(call.presented),
        number(call.issued),
        number(call.status.map(u64::from)),
        call.aadsts.map(|code| format!(" AADSTS{code}")).unwrap_or_default(),
        if call.delivered { "" } else { ", not delivered" },
        call.faults,
    )
}

/// One refresh of a connection at a time, and no refresh token twice without a cause.
fn refreshes(evidence: &Evidence, faults: &Faults<'_>, found: &mut Findings) {
    let mut families: BTreeMap<u64, Vec<&AuthorityCall>> = BTreeMap::new();
    for call in evidence.authority.iter().filter(|call| call.refresh) {
        if let Some(family) = call.family {
            families.entry(family).or_default().push(call);
        }
    }
    for (family, mut calls) in families {
        calls.sort_by_key(|call| (call.started, call.sequence));
        // The call that lasts longest of those begun so far: what a later one may overlap with.
        let mut open: Option<&AuthorityCall> = None;
        let mut used: HashMap<u64, &AuthorityCall> = HashMap::new();
        let mut dead: HashSet<u64> = HashSet::new();
        let mut ended = false;
        for call in calls {
            if let Some(open) = open {
                let end = open.ended.unwrap_or(u64::MAX);
                let grace = if open.delivered { 0 } else { GIVING_UP };
                if call.started.saturating_add(grace) < end {
                    if faults.lease_in_doubt(open, call) {
                        found.report.explained_double_refreshes += 1;
                    } else {
                        found.broken(Rule::DoubleRefresh, || {
                            format!("family {family}: {}; {}", asked(open), asked(call))
                        });
                    }
                }
            }
            if let Some(presented) = call.presented {
                let reused = used.get(&presented).copied();
                if let Some(first) = reused {
                    // One whose successor is said to be dead is tried once more where that does no harm.
                    let may_repeat = evidence.setup.mode != "strict"
                        && first.issued.is_some_and(|successor| dead.contains(&successor));
                    let explained = may_repeat
                        || faults.answer_lost(first).is_some()
                        || faults.lease_in_doubt(first, call);
                    if explained {
                        found.report.explained_double_refreshes += 1;
                    } else {
                        found.broken(Rule::ReusedRefreshToken, || {
                            format!("family {family}: {}; {}", asked(first), asked(call))
                        });
                    }
                }
                if call.issued.is_some() {
                    used.insert(presented, call);
                }
                if call.error.as_deref() == Some("invalid_grant") {
                    dead.insert(presented);
                }
                // An end of the grant for reuse: who lost the successor?
                if call.aadsts == Some(50173) && !ended && call.faults.iter().all(|fault| fault != "aadsts") {
                    ended = true;
                    judge_end(family, call, reused, faults, found);
                }
            }
            if open.is_none_or(|open| call.ended.unwrap_or(u64::MAX) > open.ended.unwrap_or(u64::MAX)) {
                open = Some(call);
            }
        }
    }
}

/// Who lost a refresh token's successor, where its reuse ended the grant.
fn judge_end(
    family: u64,
    call: &AuthorityCall,
    first: Option<&AuthorityCall>,
    faults: &Faults<'_>,
    found: &mut Findings,
) {
    // Without a first use the family was dead before, and its end has been judged.
    let Some(first) = first else { return };
    let why = faults.answer_lost(first).or_else(|| {
        let until = call.started + BEFORE;
        let from = first.started.saturating_sub(BEFORE);
        if faults.during(&[Effect::Store], None, from, until) {
            Some("store_lost_it")
        } else if faults.during(&[Effect::StoreLink], first.replica, from, until) {
            Some("store_cut_off")
        } else if faults.is_late(call) {
            Some("request_came_late")
        } else {
            None
        }
    });
    *found.report.ended_grants.entry(why.unwrap_or("unexplained")).or_default() += 1;
    if why.is_none() {
        found.broken(Rule::KilledGrant, || format!("family {family}: {}; {}", asked(first), asked(call)));
    }
}

/// The sign-ins that the authority ever judged.
fn judged(evidence: &Evidence) -> HashSet<u64> {
    const VERDICTS: [&str; 4] =
        ["invalid_grant", "interaction_required", "consent_required", "login_required"];
    let verdict = |call: &&AuthorityCall| {
        call.aadsts != Some(LOOP_THROTTLED)
            && call.error.as_deref().is_some_and(|error| VERDICTS.contains(&error))
    };
    evidence.authority.iter().filter(verdict).filter_map(|call| call.family).collect()
}

/// How connections stood in the end, and that nobody said before that they were dead without a verdict.
fn endings(evidence: &Evidence, acts: &Acts<'_>, found: &mut Findings) {
    let judged = judged(evidence);
    let families = |connection: u16| {
        evidence.connections.get(usize::from(connection)).map_or(&[][..], |one| &one.families[..])
    };
    let mut accused: BTreeMap<u16, &Call> = BTreeMap::new();
    for call in &evidence.calls {
        let verdict = matches!(call.code.as_deref(), Some("reauthorization_required" | "connection_blocked"));
        if verdict && !families(call.connection).iter().any(|family| judged.contains(family)) {
            accused.entry(call.connection).or_insert(call);
        }
    }
    for call in accused.into_values() {
        found.broken(Rule::FalseReauthorization, || words(evidence, call));
    }
    for end in &evidence.finals {
        if acts::ending(end, acts, found) {
            continue;
        }
        let name = || evidence.connections.get(usize::from(end.connection)).map(|one| one.name.clone());
        let active = end.status.as_deref().is_none_or(|status| status == "active");
        let dead = !active && families(end.connection).last().is_some_and(|family| judged.contains(family));
        if !active && !dead {
            found.broken(Rule::FalseReauthorization, || format!("{:?}: {end:?}", name()));
        } else if end.error_codes.contains(&LOOP_THROTTLED) {
            found.report.held_off_in_the_end += 1;
        } else if !end.refreshed && !dead {
            found.broken(Rule::LostGrant, || format!("{:?}: {end:?}", name()));
        } else if end.refreshed && !end.refused_by.is_empty() {
            found.broken(Rule::Disagreement, || format!("{:?}: {end:?}", name()));
        }
    }
}

/// Hand-outs of one process never get older, nor do those of its successor, unless the store itself lost
/// something in between.
fn generations(evidence: &Evidence, found: &mut Findings) {
    // Sign-ins have ascending numbers: a later one is newer than anything of one before it.
    let rank = |token: &HandedOut| (token.family, token.generation);
    let mut of: HashMap<(u8, u16), Vec<(&Call, &HandedOut)>> = HashMap::new();
    for call in &evidence.calls {
        if let Some(token) = &call.token {
            of.entry((call.replica, call.connection)).or_default().push((call, token));
        }
    }
    for calls in of.values_mut() {
        calls.sort_by_key(|(call, _)| call.ended);
        // The newest generation known to have been handed out before each call began.
        let mut begun: Vec<_> = calls.clone();
        begun.sort_by_key(|(call, _)| call.started);
        let mut over = calls.iter().peekable();
        let mut newest: Option<(&Call, &HandedOut)> = None;
        for (call, token) in begun {
            while let Some((before, handed)) = over.next_if(|(before, _)| before.ended < call.started) {
                if newest.is_none_or(|(_, newest)| rank(handed) >= rank(newest)) {
                    newest = Some((before, handed));
                }
            }
            let Some((before, handed)) = newest else { continue };
            if rank(token) >= rank(handed) {
                continue;
            }
            let during_store_fault = |aftermath| {
                evidence.faults.iter().any(|fault| {
                    fault.effect == Effect::Store
                        && fault.started <= call.ended
                        && before.started <= fault.ended + aftermath
                })
            };
            let store_lost = during_store_fault(0);
            // What a primary showed before a replica had it is lost with that primary, and one that stood
            // still continues until the sentinels tell it. The replica that stored a record caches it, and
            // stores it again.
            let replaced = evidence.setup.redis == "sentinel" && during_store_fault(AFTERMATH);
            if !replaced && (before.life == call.life || !store_lost) {
                found.broken(Rule::GenerationBackwards, || {
                    format!("{}: {token:?} after {handed:?}", words(evidence, call))
                });
            }
        }
    }
}

/// Requests for a connection whose token the asked process had handed out before, and that still lived.
fn cached(evidence: &Evidence, faults: &Faults<'_>, acts: &Acts<'_>, found: &mut Findings) {
    let mut calls: Vec<&Call> = evidence.calls.iter().collect();
    calls.sort_by_key(|call| call.started);
    let mut over: Vec<&Call> = calls.iter().copied().filter(|call| call.token.is_some()).collect();
    over.sort_by_key(|call| call.ended);
    let mut over = over.into_iter().peekable();
    // When the token that lives longest dies, and when one was last handed out.
    let mut held: HashMap<(u8, u32, u16), (u64, u64)> = HashMap::new();
    let mut latencies = Vec::new();
    for call in calls {
        while let Some(before) = over.next_if(|before| before.ended < call.started) {
            let dies = before.token.as_ref().map_or(0, |token| token.dies);
            let known = held.entry((before.replica, before.life, before.connection)).or_default();
            *known = (dies.max(known.0), before.ended);
        }
        let held = held.get(&(call.replica, call.life, call.connection));
        let held = held.filter(|(dies, _)| *dies >= call.started + HELD_MARGIN);
        let Some((_, handed_out)) = held else { continue };
        // Who reports a token wants another one, which the authority may not give.
        let wants_another = call.reported.is_some();
        let old = call.status == 503 && faults.cut_off_too_long(call.replica, call.started);
        let unknown = is_unknown_by_clock(faults, call);
        if wants_another || old || unknown || is_away(evidence, call) || acts.taken_away(call, *handed_out) {
            continue;
        }
        let cached = &mut found.report.cached;
        cached.asked += 1;
        if call.status == 200 {
            cached.served += 1;
            latencies.push(call.ended.saturating_sub(call.started));
        } else {
            let code = call.code.clone().unwrap_or_else(|| call.status.to_string());
            *cached.codes.entry(code).or_default() += 1;
            cached.failed.add(|| words(evidence, call));
        }
    }
    found.report.cached_latency_ms = Spread::of(latencies);
}

/// Whether a good credential may have been out of its time for the process: one that was started while its
/// wall clock was wrong keeps that time until the authority's tells it better.
fn is_unknown_by_clock(faults: &Faults<'_>, call: &Call) -> bool {
    matches!(call.code.as_deref(), Some("caller_unauthenticated" | "not_connected"))
        && faults.during(
            &[Effect::Clock],
            Some(call.replica),
            call.started.saturating_sub(CLOCK_TOLD_WITHIN),
            call.ended,
        )
}

/// Whether the process asked was killed or stopped while it was asked.
fn is_away(evidence: &Evidence, call: &Call) -> bool {
    evidence.faults.iter().any(|fault| {
        matches!(fault.effect, Effect::Down | Effect::Stopped)
            && fault.replica == Some(call.replica)
            && fault.started <= call.ended + GIVING_UP
            && call.started <= fault.ended + GIVING_UP
    })
}

/// From the end of each fault until the replicas that it hit answered everything for a while.
fn healing(evidence: &Evidence) -> BTreeMap<String, Spread> {
    let mut by_replica: Vec<Vec<&Call>> = vec![Vec::new(); usize::from(evidence.setup.replicas)];
    for call in &evidence.calls {
        if let Some(calls) = by_replica.get_mut(usize::from(call.replica)) {
            calls.push(call);
        }
    }
    for calls in &mut by_replica {
        calls.sort_by_key(|call| call.started);
    }
    let mut times: BTreeMap<String, Vec<u64>> = BTreeMap::new();
    for fault in &evidence.faults {
        let hit =
            (0u8..).zip(&by_replica).filter(|(replica, _)| fault.replica.is_none_or(|hit| hit == *replica));
        // Until the end of the run, if it never healed: the longest that was seen.
        let last = |calls: &[&Call]| calls.last().map(|call| call.ended);
        let healthy =
            hit.filter_map(|(_, calls)| healthy_from(calls, fault.ended).or_else(|| last(calls))).max();
        if let Some(healthy) = healthy {
            times.entry(fault.kind.clone()).or_default().push(healthy.saturating_sub(fault.ended));
        }
    }
    times.into_iter().map(|(kind, times)| (kind, Spread::of(times))).collect()
}

/// Returns the first moment from which every call begun for a while was answered well: with a live token, or
/// with the statement that the user must sign in or that the connection was deleted.
fn healthy_from(calls: &[&Call], from: u64) -> Option<u64> {
    let lives = |call: &Call| call.token.as_ref().is_some_and(|token| token.dies > call.started);
    let well = |call: &Call| matches!(call.status, 404 | 409) || lives(call);
    let first = calls.partition_point(|call| call.started < from);
    let mut since: Option<u64> = None;
    for call in &calls[first..] {
        if !well(call) {
            since = None;
            continue;
        }
        let since = *since.get_or_insert(call.started);
        if call.started >= since + HEALTHY_FOR {
            return Some(since.max(from));
        }
    }
    since
}

impl Report {
    /// For people.
    pub fn summary(&self) -> String {
        use std::fmt::Write as _;
        let mut text = String::new();
        let mut line = |words: String| {
            let _ = writeln!(text, "{words}");
        };
        line(format!(
            "{} seed {}, mode {}, redis {}",
            if self.passed { "PASSED" } else { "FAILED" },
            self.seed,
            self.mode,
            self.redis
        ));
        line(format!("requests            {} {:?}", self.requests, self.answers));
        for (door, (tokens, refusals, lost)) in &self.doors {
            line(format!("{door:<42} {tokens} tokens, {refusals} refusals, {lost} answers lost"));
        }
        let (records, summed) = self.records;
        line(format!("audit               {records} records, {summed} refusals in sums"));
        line(format!("authority           {} refreshes asked, {} given", self.refreshes, self.refreshed));
        let acts =
            self.acts.iter().map(|(deed, (done, not))| format!("{deed} {done} (unacknowledged {not})"));
        line(format!("acts                {}", acts.collect::<Vec<_>>().join(", ")));
        line(format!("held against them   {} requests, {} reports", self.after_acts, self.reports));
        let faults: u64 = self.faults.values().sum();
        line(format!("faults              {faults} {:?}", self.faults));
        for (name, figure) in &self.violations {
            let tolerated = if self.tolerated.contains(name) { " (tolerated)" } else { "" };
            line(format!("{name:<24} {}{tolerated}", figure.count));
            for example in &figure.examples {
                line(format!("    {example}"));
            }
        }
        let Cached { asked, served, failed, codes } = &self.cached;
        #[expect(clippy::cast_precision_loss, reason = "for people")]
        let share = if *asked == 0 { 100.0 } else { *served as f64 * 100.0 / *asked as f64 };
        line(format!("cached tokens       {served} of {asked} served: {share:.3} % {codes:?}"));
        for example in &failed.examples {
            line(format!("    {example}"));
        }
        line(format!("latency             {:?}", self.latency_ms));
        line(format!("cached latency      {:?}", self.cached_latency_ms));
        for (kind, spread) in &self.healthy_after_ms {
            line(format!(
                "healthy after {kind:<28} p50 {} ms, longest {} ms ({})",
                spread.p50, spread.longest, spread.count
            ));
        }
        line(format!(
            "explained           {} double refreshes, {} dead by a wrong clock, ended grants {:?}",
            self.explained_double_refreshes, self.dead_by_wrong_clock, self.ended_grants
        ));
        line(format!(
            "in the end          {} reconnected, {} not active, {} held off by the authority; {} overlong \
             expires_at",
            self.reconnected, self.not_active_in_the_end, self.held_off_in_the_end, self.overlong_expires_at
        ));
        text
    }
}

/// Whether a [`Final`] needs no other look before it is believed.
pub fn is_settled(end: &Final) -> bool {
    (end.refreshed || end.expected != Ending::Served) && end.refused_by.is_empty()
}

mod acts;
mod audit;
mod events;
#[cfg(test)]
mod tests;
