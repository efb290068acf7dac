//! What went wrong with a connection lately, and until when nobody tries again: a pure value.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use crate::domain::connection::{ATTEMPTS_KEPT, Attempt, DAMAGED, SignIn};
use crate::domain::not_now::NotNow;
use crate::domain::random::Random;
use crate::domain::time::{Moment, Timestamp};
use crate::domain::verdict::{AuthorityError, AuthorityFailure, Disposition};
use crate::refresh::backoff;
use crate::refresh::failure::Failure;
use crate::refresh::plan::Want;
use crate::refresh::unclear::Unclear;

/// A verdict on another resource than the one that the connection was made for is asked about again after
/// this long.
const VERDICT_AGAIN: Duration = Duration::from_secs(60);
/// A connection whose try showed that the app itself is rejected waits this long; the breaker lets one of all
/// of them try.
const APP_REJECTED: Duration = Duration::from_secs(2);

/// A failed try that still counts.
#[derive(Clone)]
pub(in crate::refresh) struct Trouble {
    /// Monotonic time until which nobody tries again.
    pub(in crate::refresh) until: Duration,
    /// How many in a row.
    pub(in crate::refresh) failures: u32,
    /// The last one.
    pub(in crate::refresh) failure: Arc<Failure>,
    /// When the grant had last worked then. An unsettled refresh is about that state of the grant and no
    /// later one.
    pub(in crate::refresh) about: Option<Timestamp>,
}

impl Trouble {
    /// Whether it may end with other credentials of the app: the app was rejected, or may have been.
    fn may_be_the_apps(&self) -> bool {
        self.failure.is_unclear() || self.failure.disposition() == Some(Disposition::NextCredential)
    }
}

/// What went wrong lately.
#[derive(Default)]
pub(in crate::refresh) struct Troubles {
    /// By resource: one that refuses is no trouble of another's.
    by_resource: BTreeMap<Option<String>, Trouble>,
    /// The authority asked not to be called for this connection, or for its tenant.
    throttled: Option<Trouble>,
    /// Failed tries that are not stored with the connection, newest last.
    attempts: Vec<Attempt>,
    /// Refusals in a row that said nothing tokenward knows, and of which sign-in's grant.
    unclear: Option<(SignIn, Unclear)>,
}

impl Troubles {
    /// The last failure for this resource, however old.
    pub(in crate::refresh) fn of(&self, resource: &Option<String>) -> Option<&Trouble> {
        self.by_resource.get(resource)
    }

    /// Every resource's last failure.
    pub(in crate::refresh) fn all(&self) -> impl Iterator<Item = &Trouble> {
        self.by_resource.values()
    }

    /// The authority's word not to be called, while it counts.
    pub(in crate::refresh) fn throttled(&self, now: Duration) -> Option<&Trouble> {
        self.throttled.as_ref().filter(|trouble| now < trouble.until)
    }

    /// Whether anything is known of troubles.
    pub(super) fn is_known(&self) -> bool {
        !self.by_resource.is_empty() || self.throttled.is_some()
    }

    /// Failed tries that are not stored with the connection, newest last.
    pub(in crate::refresh) fn attempts(&self) -> &[Attempt] {
        &self.attempts
    }

    /// Refusals in a row of this sign-in's grant that said nothing tokenward knows.
    pub(in crate::refresh) fn unclear(&self, sign_in: SignIn) -> Option<Unclear> {
        self.unclear.filter(|(of, _)| *of == sign_in).map(|(_, unclear)| unclear)
    }

    /// How often in a row it failed for this resource.
    pub(in crate::refresh) fn failures(&self, resource: &Option<String>) -> u32 {
        self.of(resource).map_or(0, |trouble| trouble.failures)
    }
}

impl Troubles {
    /// A try failed: notes it for `explain`, and has the next one wait. `left`: for how long the tenant's
    /// breaker is open, where that is why. `about`: when the grant had last worked.
    pub(in crate::refresh) fn failed(
        &mut self,
        want: &Want,
        failure: &Arc<Failure>,
        left: Option<Duration>,
        about: Option<Timestamp>,
        at: Moment,
        random: &dyn Random,
    ) {
        let is_noted = self.pace(want, failure, left, about, at.monotonic, random);
        if left.is_some() || !is_noted {
            return;
        }
        match failure.as_ref() {
            Failure::Authority(failure) if !failure.disposition.is_verdict() => {
                self.remember(attempt(failure, at.now));
            }
            // That another replica was at it is no try of this one.
            Failure::NotNow(NotNow::LeaseElsewhere) => {}
            Failure::NotNow(why) => {
                self.remember(attempt_without_answer(why.as_str(), why.to_string(), at.now))
            }
            Failure::Authority(_) | Failure::NotFound | Failure::Repository(_) => {}
        }
    }

    /// Has the next try wait. False where it does not: a challenge that could not be met is the trouble of
    /// the caller that brought it.
    pub(in crate::refresh) fn pace(
        &mut self,
        want: &Want,
        failure: &Arc<Failure>,
        left: Option<Duration>,
        about: Option<Timestamp>,
        now: Duration,
        random: &dyn Random,
    ) -> bool {
        if want.claims.is_some() && !failure.is_unsettled() {
            return false;
        }
        let failures = self.failures(&want.resource) + 1;
        let wait = left.unwrap_or_else(|| next_try_after(failure, failures, random));
        let trouble = Trouble { until: now + wait, failures, failure: failure.clone(), about };
        self.by_resource.insert(want.resource.clone(), trouble);
        true
    }

    /// The authority asked not to be called for `asked`.
    pub(in crate::refresh) fn throttle(
        &mut self,
        asked: Duration,
        failure: AuthorityFailure,
        now: Duration,
        random: &dyn Random,
    ) {
        let until = now + backoff::wait(1, Some(asked), random);
        let failure = Arc::new(Failure::Authority(failure));
        self.throttled = Some(Trouble { until, failures: 1, failure, about: None });
    }

    /// A try for this resource went well.
    pub(in crate::refresh) fn worked(&mut self, resource: &Option<String>) {
        self.by_resource.remove(resource);
    }

    /// Failures that may have been the app's are over: its credentials are others.
    pub(in crate::refresh) fn app_is_mended(&mut self) {
        self.by_resource.retain(|_, trouble| !trouble.may_be_the_apps());
    }

    /// Failures are over: they were about another state of the connection.
    pub(in crate::refresh) fn are_over(&mut self) {
        self.by_resource.clear();
    }

    /// All that was about a grant is over with it, the authority's word not to be called included.
    pub(in crate::refresh) fn grant_is_replaced(&mut self) {
        self.by_resource.clear();
        self.throttled = None;
    }

    /// A failed try is remembered until it is stored with the connection.
    fn remember(&mut self, attempt: Attempt) {
        self.attempts.push(attempt);
        let extra = self.attempts.len().saturating_sub(ATTEMPTS_KEPT);
        self.attempts.drain(..extra);
    }

    /// The stored grant cannot be used: noted once, for every try finds it.
    pub(in crate::refresh) fn damaged(&mut self, conclusion: String, now: Timestamp) {
        if self.attempts.last().is_none_or(|last| last.outcome != DAMAGED) {
            self.remember(attempt_without_answer(DAMAGED, conclusion, now));
        }
    }

    /// A replica began to use the grant and nobody knows how that ended: a verdict that follows may come from
    /// it. Not noted where it was this replica, which has noted better what happened.
    pub(in crate::refresh) fn unsettled(&mut self, now: Timestamp) {
        let outcome = Disposition::OutcomeUnknown.as_str();
        if self.attempts.iter().all(|attempt| attempt.outcome != outcome) {
            let conclusion = "a replica began to refresh this connection and never said how that ended: it \
                              died, was stopped, or got no answer that could be used";
            self.remember(attempt_without_answer(outcome, conclusion.to_owned(), now));
        }
    }

    /// The failed tries, which are about to be stored with the connection.
    pub(in crate::refresh) fn take_attempts(&mut self) -> Vec<Attempt> {
        std::mem::take(&mut self.attempts)
    }

    /// Refusals in a row that said nothing tokenward knows; `None` begins anew.
    pub(in crate::refresh) fn set_unclear(&mut self, unclear: Option<(SignIn, Unclear)>) {
        self.unclear = unclear;
    }
}

/// How long the next try waits after this many failures in a row.
pub(in crate::refresh) fn next_try_after(failure: &Failure, failures: u32, random: &dyn Random) -> Duration {
    match failure.is_unclear() {
        true => backoff::wait_unclear(failures, random),
        false => backoff::wait(failures, asked(failure), random),
    }
}

/// The time after which the next try may come, where the failure says one.
fn asked(failure: &Failure) -> Option<Duration> {
    if let Failure::NotNow(NotNow::AskedToWait(asked)) = failure {
        return *asked;
    }
    match failure.disposition()? {
        Disposition::RetryAfter(asked) => asked,
        Disposition::NextCredential | Disposition::Misconfigured => Some(APP_REJECTED),
        // A verdict on one more resource changes no status, which would say when to ask again.
        disposition if disposition.is_verdict() => Some(VERDICT_AGAIN),
        _ => None,
    }
}

/// A failed try, as `explain` shows it.
pub(in crate::refresh) fn attempt(failure: &AuthorityFailure, now: Timestamp) -> Attempt {
    Attempt {
        at: now,
        action: "refresh".into(),
        outcome: failure.disposition.as_str().into(),
        conclusion: failure.cause.clone(),
        answer: failure.answer.clone(),
    }
}

fn attempt_without_answer(outcome: &str, conclusion: String, now: Timestamp) -> Attempt {
    let action = "refresh".to_owned();
    Attempt { at: now, action, outcome: outcome.to_owned(), conclusion, answer: AuthorityError::default() }
}
