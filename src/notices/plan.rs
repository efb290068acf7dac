//! How far a webhook is delivered, and what is tried next. Pure: time is an argument.
//!
//! One notice at a time goes to an endpoint. After a failure the endpoint is left alone for a while, longer
//! with each failure in a row. A notice that failed [`TRIES`] times is set aside, and those behind it go on;
//! but not those of the same subject, which are set aside behind it. What is aside is tried again and again
//! until its time is over.

use std::collections::BTreeSet;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::domain::backoff::Backoff;
use crate::domain::notice::Notice;
use crate::domain::time::Timestamp;

/// The wait of an endpoint after failures in a row. It may be down for an hour and gets all of it some
/// minutes later.
const AGAIN: Backoff = Backoff { first: Duration::from_secs(5), longest: Duration::from_secs(300) };
/// The wait of a notice that is aside.
const ASIDE_AGAIN: Backoff = Backoff { first: Duration::from_secs(60), longest: Duration::from_secs(3600) };
/// The longest wait that an endpoint may ask for. One that says that it is gone waits as long.
const LONGEST: Duration = Duration::from_secs(3600);
/// Failures of one notice in a row after which it is set aside …
const TRIES: u32 = 5;
/// … if so few are aside. If more are, the endpoint fails and not the notices.
const MOST_ASIDE: usize = 100;

/// How far a webhook is delivered: a record of the store.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(super) struct Progress {
    /// Every notice up to this place is delivered, not wanted, given up, or aside.
    pub(super) through: u64,
    /// The id of the notice at that place, if there is one: a store that lost writes has another there.
    #[serde(default)]
    pub(super) through_id: Option<String>,
    /// What failed often, in the order of places.
    #[serde(default)]
    aside: Vec<Aside>,
    /// Failures of the next notice in a row.
    #[serde(default)]
    tries: u32,
    /// Failures of the endpoint in a row.
    #[serde(default)]
    failures: u32,
    /// What is wrong with the endpoint since the first of these.
    #[serde(default)]
    trouble: Option<Trouble>,
    /// The endpoint is left alone until then.
    #[serde(default)]
    not_before: Timestamp,
    /// The next try is not of what is aside: who fails again and again must not hold up the others.
    #[serde(default)]
    others_first: bool,
    /// Notices that were never delivered, of all time.
    #[serde(default)]
    pub(super) undelivered: u64,
    /// Notices from before are not for it.
    #[serde(default)]
    since: Timestamp,
    /// When it was written.
    #[serde(default)]
    pub(super) written_at: Timestamp,
}

/// What is wrong with an endpoint.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Trouble {
    /// When it failed first.
    pub(super) since: Timestamp,
    /// How it failed last.
    pub(super) why: String,
    /// True if it said last that it is gone.
    #[serde(default)]
    pub(super) is_gone: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Aside {
    place: u64,
    subject: String,
    tries: u32,
    not_before: Timestamp,
}

/// What to do next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Step {
    /// Deliver the notice at this place.
    Try(u64),
    /// Deliver this one, which is aside and need not be on the page.
    TryAside(u64),
    /// Read on: everything on the page is dealt with.
    ReadOn,
    /// Nothing before then; `None` is nothing before there are new notices.
    Wait(Option<Timestamp>),
}

/// What became of a try.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Tried {
    /// The endpoint took it.
    Taken,
    /// It did not, and may have said how long to wait.
    Failed(Option<Duration>),
    /// It says that it is gone for good.
    Gone,
}

impl Progress {
    /// That of a webhook which came into the configuration at `since`. `first_kept` is the place of the first
    /// notice that is kept.
    pub(super) fn new(first_kept: u64, since: Timestamp) -> Self {
        Progress { through: first_kept.saturating_sub(1), since, ..Progress::default() }
    }

    /// The first that is aside and due; what waits behind one is not.
    fn aside_due(&self, now: Timestamp) -> Option<u64> {
        if now < self.not_before {
            return None;
        }
        self.firsts_aside().find(|one| one.not_before <= now).map(|one| one.place)
    }

    /// The first of each subject that is aside: those behind it wait for it.
    fn firsts_aside(&self) -> impl Iterator<Item = &Aside> {
        let mut subjects = BTreeSet::new();
        self.aside.iter().filter(move |one| subjects.insert(one.subject.as_str()))
    }

    /// Passes over what is not to be delivered, and says what to do next. `page` is what follows `through`.
    /// `wants` says whether a notice is for this webhook.
    pub(super) fn next(
        &mut self,
        page: &[(u64, Notice)],
        now: Timestamp,
        wants: impl Fn(&Notice) -> bool,
    ) -> Step {
        if let Some(place) = self.aside_due(now).filter(|_| !self.others_first) {
            return Step::TryAside(place);
        }
        match self.next_on(page, now, wants) {
            wait @ Step::Wait(_) => self.aside_due(now).map_or(wait, Step::TryAside),
            step => step,
        }
    }

    fn next_on(&mut self, page: &[(u64, Notice)], now: Timestamp, wants: impl Fn(&Notice) -> bool) -> Step {
        for (place, notice) in
            page.iter().filter(|(place, _)| *place > self.through).cloned().collect::<Vec<_>>()
        {
            // Those in between were forgotten before they were delivered. (Not all of them need be wanted.)
            self.undelivered += place - self.through - 1;
            self.through = place - 1;
            if notice.at < self.since || !wants(&notice) {
                self.pass(place, &notice);
            } else if notice.is_over(now) {
                self.undelivered += 1;
                self.pass(place, &notice);
            } else if self.aside.iter().any(|one| one.subject == notice.subject()) {
                if self.aside.len() >= MOST_ASIDE {
                    return Step::Wait(self.wakes_at());
                }
                self.set_aside(place, &notice, 0, now);
                self.pass(place, &notice);
            } else if now < self.not_before {
                return Step::Wait(Some(self.not_before));
            } else {
                return Step::Try(place);
            }
        }
        if page.is_empty() { Step::Wait(self.wakes_at()) } else { Step::ReadOn }
    }

    /// Notes what became of a try, and in words why.
    pub(super) fn tried(&mut self, place: u64, notice: &Notice, tried: Tried, why: &str, now: Timestamp) {
        self.trouble = (tried != Tried::Taken).then(|| Trouble {
            since: self.trouble.as_ref().map_or(now, |trouble| trouble.since),
            why: why.to_owned(),
            is_gone: tried == Tried::Gone,
        });
        let (wait, is_taken) = match tried {
            Tried::Taken => {
                if self.failures > 0 {
                    // Whatever is aside may have failed for the endpoint's sake.
                    self.aside.iter_mut().for_each(|one| one.not_before = one.not_before.min(now));
                }
                self.failures = 0;
                (Duration::ZERO, true)
            }
            Tried::Failed(asked) => {
                self.failures = self.failures.saturating_add(1);
                (AGAIN.after(self.failures).max(asked.unwrap_or_default()).min(LONGEST), false)
            }
            Tried::Gone => {
                self.failures = self.failures.saturating_add(1);
                (LONGEST, false)
            }
        };
        self.not_before = now.plus(wait);
        let aside = self.aside.iter().position(|one| one.place == place);
        self.others_first = aside.is_some();
        if let Some(at) = aside {
            if is_taken {
                self.aside.remove(at);
            } else {
                let one = &mut self.aside[at];
                one.tries = one.tries.saturating_add(1);
                one.not_before = now.plus(ASIDE_AGAIN.after(one.tries));
            }
        } else if is_taken {
            self.pass(place, notice);
        } else {
            self.tries += 1;
            if self.tries >= TRIES && self.aside.len() < MOST_ASIDE {
                self.set_aside(place, notice, 1, now);
                self.pass(place, notice);
                self.others_first = true;
            }
        }
    }

    /// The endpoint may be mended: nothing waits for its next time.
    pub(super) fn try_at_once(&mut self, now: Timestamp) {
        self.not_before = self.not_before.min(now);
        self.aside.iter_mut().for_each(|one| one.not_before = one.not_before.min(now));
    }

    /// A notice that was aside is over, or is not kept any more.
    pub(super) fn give_up_aside(&mut self, place: u64) {
        let before = self.aside.len();
        self.aside.retain(|one| one.place != place);
        self.undelivered += u64::from(self.aside.len() < before);
    }

    /// The webhook does not want any more what was aside: its configuration is another one now.
    pub(super) fn drop_aside(&mut self, place: u64) {
        self.aside.retain(|one| one.place != place);
    }

    /// The store has another notice at `through`, or none: it lost writes. Everything that is kept is
    /// delivered again.
    pub(super) fn begin_again(&mut self, first_kept: u64) {
        (self.through, self.through_id, self.tries) = (first_kept.saturating_sub(1), None, 0);
        self.aside.clear();
    }

    /// What is wrong with the endpoint, if its last request failed.
    pub(super) fn trouble(&self) -> Option<&Trouble> {
        self.trouble.as_ref()
    }

    /// Notices from before are not for the webhook.
    pub(super) fn since(&self) -> Timestamp {
        self.since
    }

    /// The place of the first that is aside.
    pub(super) fn first_aside(&self) -> Option<u64> {
        self.aside.first().map(|one| one.place)
    }

    /// How many are aside.
    pub(super) fn aside(&self) -> usize {
        self.aside.len()
    }

    /// Failures of the endpoint in a row.
    pub(super) fn failures(&self) -> u32 {
        self.failures
    }

    fn pass(&mut self, place: u64, notice: &Notice) {
        (self.through, self.through_id, self.tries) = (place, Some(notice.id.clone()), 0);
    }

    fn set_aside(&mut self, place: u64, notice: &Notice, tries: u32, now: Timestamp) {
        let not_before = if tries == 0 { now } else { now.plus(ASIDE_AGAIN.after(tries)) };
        self.aside.push(Aside { place, subject: notice.subject(), tries, not_before });
    }

    fn wakes_at(&self) -> Option<Timestamp> {
        let aside = self.firsts_aside().map(|one| one.not_before).min();
        aside.map(|at| at.max(self.not_before))
    }
}

#[cfg(test)]
mod tests;
