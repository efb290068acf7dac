//! Knowledge about each client credential of an app, and the order in which they are tried. Pure: time is an
//! argument.
//!
//! The one hard problem: an authority accepts a new credential at its first replica seconds or minutes before
//! its last one (Entra gives no bound), so acceptances and rejections may alternate for a while. Therefore a
//! rejected credential is trusted again only after several acceptances in a row, and trusted credentials stay
//! ahead of the others.

use std::cmp::Reverse;
use std::time::Duration;

use super::backoff::Backoff;
use super::time::Timestamp;

/// Acceptances in a row after which a rejected credential is trusted again.
pub const TRUST_AGAIN: u32 = 3;
/// A replaced credential stays as a fallback for this long after its successor is trusted.
pub const FALLBACK_FOR: Duration = Duration::from_secs(15 * 60);
/// A credential counts as young for this long: some of the authority's replicas may not know it yet.
pub const YOUNG: Duration = Duration::from_secs(15 * 60);
/// A credential that expires within this time has the state "expiring".
pub const EXPIRING: Duration = Duration::from_secs(30 * 86_400);
/// First wait before a young rejected credential is proved again …
const YOUNG_AGAIN: Duration = Duration::from_secs(2);
/// … and an older one after this long, growing with each rejection.
const OLD_AGAIN: Backoff = Backoff { first: Duration::from_secs(30), longest: Duration::from_secs(600) };
/// Time between two proofs of a trusted credential that is not in use: a fallback must be known to work.
const IDLE_AGAIN: Duration = Duration::from_secs(6 * 3600);
/// First wait after a proof without an answer; it grows with each …
const UNANSWERED_AGAIN: Backoff =
    Backoff { first: Duration::from_secs(30), longest: Duration::from_secs(600) };
/// … and after this many in a row, users' requests prove the credential too.
const UNANSWERED_LONG: u32 = 3;
/// Least time between two uses of the other client authentication method for a refused credential.
const OTHERWISE_AGAIN: Duration = Duration::from_secs(300);
/// Least time between two users' requests that try a credential which only such requests can prove.
const TRIAL_AGAIN: Duration = Duration::from_secs(5);

/// The authority's latest rejection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rejection {
    /// When it happened.
    pub at: Timestamp,
    /// AADSTS numbers, if the authority is Entra.
    pub codes: Vec<u32>,
    /// Cause, in our words.
    pub cause: String,
    /// Rejections in a row.
    pub times: u32,
}

/// Whose request a credential was refused for, when the error may concern the credential.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Witness {
    /// A tenant.
    Tenant,
    /// An account.
    Account,
}

/// What this process knows about one credential.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Standing {
    /// When this process first had it.
    pub since: Timestamp,
    /// When it expires, if known.
    pub expires_at: Option<Timestamp>,
    /// When the authority last accepted it.
    pub accepted_at: Option<Timestamp>,
    /// Since when it has been trusted.
    pub trusted_since: Option<Timestamp>,
    /// When a token was last obtained with it, for a user or the app. A proof does not count.
    pub used_at: Option<Timestamp>,
    /// The authority's rejection, until enough acceptances followed it.
    pub rejection: Option<Rejection>,
    /// Acceptances since the rejection.
    pub accepted_in_a_row: u32,
    /// When another credential replaced it in the configuration.
    pub superseded_at: Option<Timestamp>,
    /// When an operator promoted it.
    pub promoted_at: Option<Timestamp>,
    /// True if an operator retired it.
    pub is_retired: bool,
    /// When it was last proved.
    pub asked_at: Option<Timestamp>,
    /// Proofs in a row that had no answer.
    pub unanswered: u32,
    /// How long the authority asked to be left alone, from then on.
    pub hold: Duration,
    /// When a user's request last tried it while it was not trusted.
    pub tried_at: Option<Timestamp>,
    /// True if the authority gives the app no token of its own: only a user's request can prove the
    /// credential.
    pub is_proven_by_use: bool,
    /// Users and tenants whose requests were refused since the last acceptance, with an error that need not
    /// concern the credential.
    pub suspicions: Vec<(Witness, String)>,
    /// When it was last sent by the client authentication method that was not guessed first.
    pub sent_otherwise_at: Option<Timestamp>,
}

/// Reason why a proof said nothing about the credential.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InVain {
    /// The app gets no token of its own, now or later.
    ProvenByUse,
    /// There was no answer, or the authority asked us to wait for this long.
    Unanswered(Option<Duration>),
}

/// A credential's state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CredentialState {
    /// Neither accepted nor rejected yet.
    New,
    /// Accepted, but not the one in use.
    Proven,
    /// Accepted, and the first to be tried.
    InUse,
    /// Rejected by the authority.
    Rejected,
    /// Accepted, and expires within 30 days.
    Expiring,
    /// Its time is over.
    Expired,
    /// Out of service: an operator retired it, or another replaced it.
    Retired,
}

impl CredentialState {
    /// All states.
    pub const ALL: [CredentialState; 7] = [
        CredentialState::New,
        CredentialState::Proven,
        CredentialState::InUse,
        CredentialState::Rejected,
        CredentialState::Expiring,
        CredentialState::Expired,
        CredentialState::Retired,
    ];

    /// Its name in the contract.
    pub fn as_str(self) -> &'static str {
        match self {
            CredentialState::New => "new",
            CredentialState::Proven => "proven",
            CredentialState::InUse => "in_use",
            CredentialState::Rejected => "rejected",
            CredentialState::Expiring => "expiring",
            CredentialState::Expired => "expired",
            CredentialState::Retired => "retired",
        }
    }
}

impl Standing {
    /// Makes the standing of a credential that is new to this process.
    pub fn new(since: Timestamp, expires_at: Option<Timestamp>) -> Self {
        Standing {
            since,
            expires_at,
            accepted_at: None,
            trusted_since: None,
            used_at: None,
            rejection: None,
            accepted_in_a_row: 0,
            superseded_at: None,
            promoted_at: None,
            is_retired: false,
            asked_at: None,
            unanswered: 0,
            hold: Duration::ZERO,
            tried_at: None,
            is_proven_by_use: false,
            suspicions: Vec::new(),
            sent_otherwise_at: None,
        }
    }

    /// Returns true if it was accepted and not rejected since.
    pub fn is_trusted(&self) -> bool {
        self.accepted_at.is_some() && self.rejection.is_none()
    }

    /// Returns true if it works as far as is known: trusted, in service and not expired.
    pub fn works(&self, now: Timestamp) -> bool {
        self.is_trusted() && !self.is_retired && !self.is_expired(now)
    }

    /// Returns true if it is known to have expired.
    pub fn is_expired(&self, now: Timestamp) -> bool {
        self.expires_at.is_some_and(|at| at <= now)
    }

    /// Returns its state; `in_use` says whether it is tried first.
    pub fn state(&self, in_use: bool, now: Timestamp) -> CredentialState {
        let expires_soon = self.expires_at.is_some_and(|at| at <= now.plus(EXPIRING));
        if self.is_retired {
            CredentialState::Retired
        } else if self.is_expired(now) {
            CredentialState::Expired
        } else if self.rejection.is_some() {
            CredentialState::Rejected
        } else if self.accepted_at.is_none() {
            CredentialState::New
        } else if expires_soon {
            CredentialState::Expiring
        } else if in_use {
            CredentialState::InUse
        } else {
            CredentialState::Proven
        }
    }

    /// Records an acceptance. Returns true if the credential became trusted by it.
    pub fn accept(&mut self, now: Timestamp) -> bool {
        let before = self.is_trusted();
        self.accepted_at = Some(now);
        self.answered(now);
        self.suspicions.clear();
        self.accepted_in_a_row = self.accepted_in_a_row.saturating_add(1);
        if self.accepted_in_a_row >= TRUST_AGAIN {
            self.rejection = None;
        }
        let is_news = !before && self.is_trusted();
        if is_news {
            self.trusted_since = Some(now);
        }
        is_news
    }

    /// Records that the authority refused it, or that it could not even be presented. Returns true if it was
    /// new or trusted until now.
    pub fn reject(&mut self, now: Timestamp, codes: &[u32], cause: &str) -> bool {
        let is_news = self.rejection.is_none();
        let times = self.rejection.as_ref().map_or(0, |before| before.times).saturating_add(1);
        self.rejection = Some(Rejection { at: now, codes: codes.to_vec(), cause: cause.to_owned(), times });
        self.accepted_in_a_row = 0;
        self.trusted_since = None;
        self.answered(now);
        is_news
    }

    /// Records a refusal for one tenant or account, whose error may or may not concern the credential.
    /// Returns how many of that kind were refused since the last acceptance; `None` if this one was known
    /// already, or there are more than `most`.
    pub fn suspect(&mut self, kind: Witness, who: &str, most: usize) -> Option<usize> {
        let of_kind = self.suspicions.iter().filter(|(known, _)| *known == kind);
        let (count, is_known) =
            of_kind.fold((0, false), |(count, is_known), (_, known)| (count + 1, is_known || known == who));
        if count >= most || is_known {
            return None;
        }
        self.suspicions.push((kind, who.to_owned()));
        Some(count + 1)
    }

    /// Returns true, and notes it, if the credential may now be sent by the other client authentication
    /// method, after a refusal that may concern the method. Limited in time, so that a wrong secret does not
    /// double the calls.
    pub fn may_send_otherwise(&mut self, now: Timestamp) -> bool {
        let is_due = is_due(self.sent_otherwise_at, OTHERWISE_AGAIN, now);
        if is_due {
            self.sent_otherwise_at = Some(now);
        }
        is_due
    }

    fn answered(&mut self, now: Timestamp) {
        (self.asked_at, self.unanswered, self.hold) = (Some(now), 0, Duration::ZERO);
    }

    /// Records a proof whose answer says nothing about the credential.
    pub fn ask_in_vain(&mut self, now: Timestamp, why: InVain) {
        match why {
            InVain::ProvenByUse => {
                self.answered(now);
                self.is_proven_by_use = true;
            }
            InVain::Unanswered(hold) => {
                self.asked_at = Some(now);
                self.unanswered = self.unanswered.saturating_add(1);
                self.hold = hold.unwrap_or_default();
            }
        }
    }

    /// Forgets that proofs are useless, so that the next one finds out anew.
    pub fn ask_anew(&mut self) {
        self.is_proven_by_use = false;
        (self.unanswered, self.hold) = (0, Duration::ZERO);
    }

    /// Returns true if a proof in a call of its own is due.
    pub fn is_to_be_asked_about(&self, in_use: bool, now: Timestamp) -> bool {
        if self.is_retired || self.is_proven_by_use {
            return false;
        }
        let wait = match &self.rejection {
            // Every request that uses it proves it.
            None if self.is_trusted() && in_use => return false,
            None if self.is_trusted() => IDLE_AGAIN,
            None => UNANSWERED_AGAIN.after(self.unanswered),
            Some(rejection) => self.after(rejection, now).max(match self.unanswered {
                0 => Duration::ZERO,
                unanswered => UNANSWERED_AGAIN.after(unanswered),
            }),
        };
        is_due(self.asked_at, wait.max(self.hold), now)
    }

    /// Returns true if the next user's request should try it first although it is not trusted: a proof of its
    /// own is impossible, or has had no answer for long.
    pub fn is_to_be_tried(&self, now: Timestamp) -> bool {
        if self.is_trusted() || self.is_retired || self.is_expired(now) {
            return false;
        }
        let wait = self.rejection.as_ref().map_or(Duration::ZERO, |rejection| self.after(rejection, now));
        (self.is_proven_by_use || self.unanswered >= UNANSWERED_LONG)
            && is_due(self.tried_at, wait.max(TRIAL_AGAIN), now)
    }

    /// Returns the wait from this rejection to the next proof.
    fn after(&self, rejection: &Rejection, now: Timestamp) -> Duration {
        // The authority's replicas may not know it yet, or some accept it again. A replaced credential will
        // not become known to more of them.
        let is_news = now.since(self.since) < YOUNG && self.superseded_at.is_none();
        let may_change_soon = is_news || self.accepted_in_a_row > 0;
        if may_change_soon { YOUNG_AGAIN } else { OLD_AGAIN.after(rejection.times.saturating_add(1)) }
    }
}

/// (A `last` in the future was noted before the clock was set back.)
fn is_due(last: Option<Timestamp>, wait: Duration, now: Timestamp) -> bool {
    last.is_none_or(|last| last.plus(wait) <= now || last > now)
}

/// Hash of a credential's content, which tells it from others.
pub type Fingerprint = [u8; 32];

/// Returns the indexes of the credentials in the order in which they are tried, without the retired ones.
/// Trusted ones come first, then new ones, then those that should have expired, then rejected ones: even
/// these are tried when there is nothing better. Ties are broken by the latest promotion, then by not being
/// replaced, then by the later arrival, then by the order in the list.
pub fn order(standings: &[Standing], now: Timestamp) -> Vec<usize> {
    let class = |standing: &Standing| {
        if standing.rejection.is_some() {
            3
        } else if standing.is_expired(now) {
            2
        } else if standing.is_trusted() {
            0
        } else {
            1
        }
    };
    let mut order: Vec<usize> = (0..standings.len()).filter(|at| !standings[*at].is_retired).collect();
    order.sort_by_key(|at| {
        let standing = &standings[*at];
        (
            class(standing),
            Reverse(standing.promoted_at),
            standing.superseded_at.is_some(),
            Reverse(standing.since),
            *at,
        )
    });
    order
}

/// Returns the index of the untrusted credential that the next user's request tries first: among those that
/// are due, the one whose last trial is oldest. `None` if no credential is trusted, for there would be
/// nothing to fall back to. A rejected fallback is not tried while a configured credential works: nobody
/// waits for its acceptance.
pub fn trial(standings: &[Standing], now: Timestamp) -> Option<usize> {
    if !standings.iter().any(Standing::is_trusted) {
        return None;
    }
    let is_replaced = standings.iter().any(|one| one.superseded_at.is_none() && one.works(now));
    let is_over = |one: &Standing| is_replaced && one.superseded_at.is_some() && one.rejection.is_some();
    (0..standings.len())
        .filter(|at| standings[*at].is_to_be_tried(now) && !is_over(&standings[*at]))
        .min_by_key(|at| standings[*at].tried_at)
}

/// Returns the indexes of fallbacks that are no longer needed: each was replaced, and a configured credential
/// works and has been trusted for long enough.
pub fn spent(standings: &[Standing], now: Timestamp) -> Vec<usize> {
    let is_settled = |one: &Standing| {
        let for_long = one.trusted_since.is_some_and(|since| since.plus(FALLBACK_FOR) <= now);
        // It must work at this very moment too: a working fallback is never dropped for a successor that only
        // used to work.
        one.superseded_at.is_none() && one.works(now) && for_long
    };
    let over = standings.iter().any(is_settled);
    let is_spent = |standing: &Standing| {
        standing.superseded_at.is_some_and(|at| over && at.plus(FALLBACK_FOR) <= now)
            || (standing.superseded_at.is_some() && standing.is_retired)
    };
    (0..standings.len()).filter(|at| is_spent(&standings[*at])).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp::from_unix_seconds(1_800_000_000);

    fn new() -> Standing {
        Standing::new(NOW, None)
    }

    fn trusted(since: u64) -> Standing {
        let mut standing = Standing::new(NOW.plus(Duration::from_secs(since)), None);
        standing.accept(NOW);
        standing
    }

    #[test]
    fn one_acceptance_is_trust_and_after_a_rejection_it_takes_three_in_a_row() {
        let mut standing = new();
        assert_eq!(standing.state(false, NOW), CredentialState::New);
        assert!(standing.accept(NOW));
        assert_eq!(standing.state(true, NOW), CredentialState::InUse);
        assert_eq!(standing.state(false, NOW), CredentialState::Proven);
        assert!(standing.reject(NOW, &[7_000_215], "wrong secret"));
        assert!(!standing.reject(NOW, &[7_000_215], "wrong secret"));
        assert_eq!(standing.state(true, NOW), CredentialState::Rejected);
        assert!(!standing.accept(NOW) && !standing.accept(NOW));
        assert!(!standing.reject(NOW, &[7_000_215], "wrong secret"), "it flaps");
        assert!(!standing.accept(NOW) && !standing.accept(NOW) && standing.accept(NOW));
        assert!(standing.is_trusted());
    }

    #[test]
    fn suspicions_of_different_ones_of_a_kind_add_up_until_it_is_taken_again() {
        let mut standing = new();
        let tenant = |standing: &mut Standing, who| standing.suspect(Witness::Tenant, who, 2);
        assert_eq!(tenant(&mut standing, "a"), Some(1));
        assert_eq!(tenant(&mut standing, "a"), None, "no news");
        // The two kinds are counted apart.
        assert_eq!(standing.suspect(Witness::Account, "x", 3), Some(1));
        assert_eq!(standing.suspect(Witness::Account, "a", 3), Some(2));
        assert_eq!(tenant(&mut standing, "b"), Some(2));
        assert_eq!(tenant(&mut standing, "c"), None, "enough said it");
        assert_eq!(standing.suspect(Witness::Account, "z", 3), Some(3));
        standing.accept(NOW);
        assert_eq!(tenant(&mut standing, "b"), Some(1));
    }

    #[test]
    fn the_other_way_is_tried_once_in_a_while() {
        let mut standing = new();
        let later = |seconds| NOW.plus(Duration::from_secs(seconds));
        assert!(standing.may_send_otherwise(NOW));
        assert!(!standing.may_send_otherwise(NOW) && !standing.may_send_otherwise(later(299)));
        assert!(standing.may_send_otherwise(later(300)) && !standing.may_send_otherwise(later(301)));
    }

    #[test]
    fn time_has_the_last_word_on_the_state() {
        let mut standing = trusted(0);
        standing.expires_at = Some(NOW.plus(EXPIRING));
        assert_eq!(standing.state(true, NOW), CredentialState::Expiring);
        assert_eq!(standing.state(true, NOW.plus(EXPIRING)), CredentialState::Expired);
        standing.is_retired = true;
        assert_eq!(standing.state(true, NOW), CredentialState::Retired);
    }

    #[test]
    fn what_is_trusted_comes_first_and_what_is_rejected_last() {
        let mut rejected = trusted(9);
        rejected.reject(NOW, &[], "no");
        let mut expired = trusted(9);
        expired.expires_at = Some(NOW);
        let mut retired = trusted(9);
        retired.is_retired = true;
        let standings = [rejected, expired, new(), trusted(0), retired];
        assert_eq!(order(&standings, NOW), [3, 2, 1, 0]);
    }

    #[test]
    fn among_the_trusted_the_operator_s_word_counts_then_the_youngest_then_the_list() {
        let mut old = trusted(1);
        old.superseded_at = Some(NOW);
        let mut before = trusted(0);
        before.promoted_at = Some(NOW);
        let standings = [old, trusted(5), before, trusted(0), trusted(0)];
        assert_eq!(order(&standings, NOW), [2, 1, 3, 4, 0]);
    }

    #[test]
    fn when_each_is_asked_about() {
        let later = |seconds| NOW.plus(Duration::from_secs(seconds));
        assert!(new().is_to_be_asked_about(false, NOW));
        let used = trusted(0);
        assert!(!used.is_to_be_asked_about(true, later(86_400)), "its use says it");
        assert!(!used.is_to_be_asked_about(false, later(3600)));
        assert!(used.is_to_be_asked_about(false, later(6 * 3600)));
        let mut young = new();
        young.reject(NOW, &[], "no");
        assert!(!young.is_to_be_asked_about(false, later(1)) && young.is_to_be_asked_about(false, later(2)));
        let mut old = young.clone();
        old.asked_at = Some(later(1000));
        assert!(
            !old.is_to_be_asked_about(false, later(1059)) && old.is_to_be_asked_about(false, later(1060))
        );
        let mut unanswered = new();
        unanswered.ask_in_vain(NOW, InVain::Unanswered(None));
        assert!(
            !unanswered.is_to_be_asked_about(false, later(29))
                && unanswered.is_to_be_asked_about(false, later(30))
        );
        old.is_retired = true;
        assert!(!old.is_to_be_asked_about(false, later(100_000)));
        unanswered.ask_in_vain(NOW, InVain::ProvenByUse);
        assert!(!unanswered.is_to_be_asked_about(false, later(100_000)), "asking says nothing");
    }

    #[test]
    fn where_nothing_answers_it_is_asked_ever_more_rarely_and_as_late_as_the_authority_wants() {
        let later = |seconds| NOW.plus(Duration::from_secs(seconds));
        let mut one = new();
        for wait in [30, 60, 120, 240, 480, 600, 600] {
            one.ask_in_vain(NOW, InVain::Unanswered(None));
            assert!(!one.is_to_be_asked_about(false, later(wait - 1)), "{wait}");
            assert!(one.is_to_be_asked_about(false, later(wait)), "{wait}");
        }
        one.ask_in_vain(NOW, InVain::Unanswered(Some(Duration::from_secs(3600))));
        assert!(
            !one.is_to_be_asked_about(false, later(3599)) && one.is_to_be_asked_about(false, later(3600))
        );
        let mut young = new();
        young.reject(NOW, &[], "no");
        young.ask_in_vain(NOW, InVain::Unanswered(Some(Duration::from_secs(40))));
        assert!(
            !young.is_to_be_asked_about(false, later(39)) && young.is_to_be_asked_about(false, later(40))
        );
        young.reject(later(40), &[], "no");
        assert!(young.is_to_be_asked_about(false, later(42)), "an answer ends the waiting");
    }

    #[test]
    fn a_clock_that_is_set_back_does_not_put_a_question_off() {
        let mut rejected = new();
        rejected.reject(NOW.plus(Duration::from_secs(86_400)), &[], "no");
        assert!(rejected.is_to_be_asked_about(false, NOW));
    }

    #[test]
    fn when_a_user_s_request_tries_it() {
        let later = |seconds| NOW.plus(Duration::from_secs(seconds));
        let mut one = new();
        assert!(!one.is_to_be_tried(NOW), "a question of its own says it");
        one.ask_in_vain(NOW, InVain::Unanswered(None));
        one.ask_in_vain(NOW, InVain::Unanswered(None));
        assert!(!one.is_to_be_tried(NOW));
        one.ask_in_vain(NOW, InVain::Unanswered(None));
        assert!(one.is_to_be_tried(NOW), "and when that has no answer for long, a user's does");
        let mut one = new();
        one.ask_in_vain(NOW, InVain::ProvenByUse);
        one.tried_at = Some(NOW);
        assert!(!one.is_to_be_tried(later(4)) && one.is_to_be_tried(later(5)));
        one.reject(NOW, &[], "no");
        assert!(!one.is_to_be_tried(later(4)) && one.is_to_be_tried(later(5)), "young: it may be known soon");
        one.tried_at = Some(later(1000));
        assert!(!one.is_to_be_tried(later(1059)) && one.is_to_be_tried(later(1060)));
        one.reject(NOW, &[], "no");
        assert!(!one.is_to_be_tried(later(1119)) && one.is_to_be_tried(later(1120)));
        one.is_retired = true;
        assert!(!one.is_to_be_tried(later(100_000)));
        assert!(!trusted(0).is_to_be_tried(later(100_000)));
    }

    #[test]
    fn a_fallback_that_was_rejected_is_not_tried_while_a_configured_one_works() {
        let later = |seconds| NOW.plus(Duration::from_secs(seconds));
        let proven_by_use = |mut one: Standing| {
            one.ask_in_vain(NOW, InVain::ProvenByUse);
            one
        };
        let rejected = |mut one: Standing| {
            one.reject(NOW, &[], "no");
            proven_by_use(one)
        };
        let fallback = |mut one: Standing| {
            one.superseded_at = Some(NOW);
            one
        };
        let gone = |mut one: Standing| {
            one.expires_at = Some(NOW);
            one
        };
        // Standings, and which of them is tried a minute later.
        for (what, standings, expected) in [
            ("it was removed at the authority", vec![trusted(0), fallback(rejected(new()))], None),
            ("the content before, never seen", vec![trusted(0), fallback(proven_by_use(new()))], Some(1)),
            ("a configured one that is not known yet", vec![trusted(0), rejected(new())], Some(1)),
            ("the same behind a fallback", vec![rejected(new()), fallback(trusted(0))], Some(0)),
            (
                "only a fallback works",
                vec![rejected(new()), fallback(trusted(0)), fallback(rejected(new()))],
                Some(0),
            ),
            ("the configured one has expired", vec![gone(trusted(0)), fallback(rejected(new()))], Some(1)),
            ("nothing works", vec![rejected(new()), fallback(rejected(new()))], None),
            (
                "beside it a new one",
                vec![proven_by_use(new()), trusted(0), fallback(rejected(new()))],
                Some(0),
            ),
        ] {
            assert_eq!(trial(&standings, later(60)), expected, "{what}");
        }
    }

    #[test]
    fn a_fallback_that_was_rejected_is_asked_about_ever_more_rarely() {
        let mut one = new();
        one.superseded_at = Some(NOW);
        one.reject(NOW, &[], "no");
        let later = |seconds| NOW.plus(Duration::from_secs(seconds));
        assert!(!one.is_to_be_asked_about(false, later(59)) && one.is_to_be_asked_about(false, later(60)));
    }

    #[test]
    fn a_fallback_is_spent_a_quarter_of_an_hour_after_its_successor_is_trusted() {
        let mut before = trusted(0);
        before.superseded_at = Some(NOW);
        let later = |seconds| NOW.plus(Duration::from_secs(seconds));
        let mut retired = trusted(1);
        retired.is_retired = true;
        assert!(spent(&[retired, before.clone()], later(100_000)).is_empty(), "it is all there is");
        assert!(spent(&[new(), before.clone()], later(100_000)).is_empty(), "nothing else works");
        let mut successor = new();
        successor.accept(later(10));
        assert!(spent(&[successor.clone(), before.clone()], later(909)).is_empty());
        assert_eq!(spent(&[successor.clone(), before.clone()], later(910)), [1]);
        successor.reject(later(911), &[], "no");
        assert!(spent(&[successor.clone(), before.clone()], later(2000)).is_empty());
        for second in 0..3 {
            successor.accept(later(2000 + second));
        }
        let standings = [successor, before];
        assert!(spent(&standings, later(2901)).is_empty(), "its time begins anew");
        assert_eq!(spent(&standings, later(2902)), [1]);
    }
}
