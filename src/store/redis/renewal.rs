//! Decides when a file's content is offered to a server again, what a new connection offers, and what to
//! report. Pure: nothing here reads, sends or waits.

use std::time::Duration;

use crate::domain::backoff::Backoff;

/// The pause before a refused content is offered again. It grows with each refusal.
const PAUSE: Backoff = Backoff { first: Duration::from_secs(1), longest: Duration::from_secs(30) };
/// A refusal that was not repeated for so long is forgotten. A connection to that server would have had it
/// again, so nobody asks that server now.
const STALE: Duration = Duration::from_secs(90);

/// A refusal by a server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Refusal<T> {
    pub(super) what: T,
    /// How many in a row.
    pub(super) times: u32,
    /// The time of the last one, monotonic.
    pub(super) at: Duration,
    /// Its text, without the secret.
    pub(super) cause: String,
}

impl<T: PartialEq> Refusal<T> {
    /// The refusal after `before`. Another content begins anew.
    pub(super) fn after(before: Option<&Self>, what: T, at: Duration, cause: String) -> Self {
        let times =
            before.filter(|before| before.what == what).map_or(1, |before| before.times.saturating_add(1));
        Refusal { what, times, at, cause }
    }

    /// Whether it is too early to offer the same again.
    pub(super) fn holds_back(&self, what: &T, now: Duration) -> bool {
        self.what == *what && now < self.at.saturating_add(PAUSE.after(self.times))
    }
}

/// Whether the file's content is to be offered over a connection that uses `in_use`.
pub(super) fn is_due<T: PartialEq>(
    file: Option<&T>,
    in_use: Option<&T>,
    refusal: Option<&Refusal<T>>,
    now: Duration,
) -> bool {
    let Some(file) = file else { return false };
    in_use != Some(file) && !refusal.is_some_and(|refusal| refusal.holds_back(file, now))
}

/// The contents that a new connection offers, in order: the file's, then earlier accepted ones. While the
/// file's content was refused a moment ago, it comes last.
pub(super) fn offers<T: PartialEq + Clone>(file: Option<&T>, accepted: &[T], is_held_back: bool) -> Vec<T> {
    let mut offers: Vec<T> = Vec::new();
    let (first, last) = if is_held_back { (None, file) } else { (file, None) };
    for offer in first.into_iter().chain(accepted.iter().filter(|one| Some(*one) != file)).chain(last) {
        if !offers.contains(offer) {
            offers.push(offer.clone());
        }
    }
    offers
}

/// The standing of a file's content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Outlook<T> {
    /// No server has judged this content yet.
    Open,
    /// It is in use, and no server refuses it.
    InUse(T),
    /// A server refuses it.
    Refused(Refusal<T>),
    /// It cannot be read, or has a wrong form; and why.
    Unusable(String),
}

impl<T: PartialEq> Outlook<T> {
    /// Whether it needs no report after `before`. Content that no server has judged needs none.
    pub(super) fn says_the_same_as(&self, said: &Self) -> bool {
        match (self, said) {
            (Outlook::Open, _) => true,
            (Outlook::InUse(one), Outlook::InUse(other)) => one == other,
            (Outlook::Refused(one), Outlook::Refused(other)) => one.what == other.what,
            (Outlook::Unusable(_), Outlook::Unusable(_)) => true,
            _ => false,
        }
    }
}

/// Works the standing out. `words` are the last answers of all servers about some content: in use there, or
/// refused.
pub(super) fn outlook<'a, T: PartialEq + Clone + 'a>(
    file: Result<&T, &str>,
    words: impl Iterator<Item = (Option<&'a T>, Option<&'a Refusal<T>>)>,
    now: Duration,
) -> Outlook<T> {
    let file = match file {
        Ok(file) => file,
        Err(cause) => return Outlook::Unusable(cause.to_owned()),
    };
    let mut is_in_use = false;
    for (in_use, refusal) in words {
        let counts = |refusal: &&Refusal<T>| refusal.what == *file && now < refusal.at.saturating_add(STALE);
        if let Some(refusal) = refusal.filter(counts) {
            return Outlook::Refused(refusal.clone());
        }
        is_in_use |= in_use == Some(file);
    }
    if is_in_use { Outlook::InUse(file.clone()) } else { Outlook::Open }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(what: char, times: u32, at: u64) -> Refusal<char> {
        Refusal { what, times, at: Duration::from_secs(at), cause: String::new() }
    }

    #[test]
    fn what_the_file_holds_is_offered_when_it_is_another_and_after_a_refusal_ever_more_slowly() {
        let now = 100;
        for (file, in_use, refused, expected) in [
            (None, None, None, false),
            (None, Some('a'), None, false), // unreadable: the old one stays
            (Some('a'), Some('a'), None, false),
            (Some('b'), Some('a'), None, true),
            (Some('b'), None, None, true), // nothing was said to this server yet
            (Some('b'), Some('a'), Some(refusal('b', 1, now)), false),
            (Some('b'), Some('a'), Some(refusal('b', 1, now - 1)), true),
            (Some('b'), Some('a'), Some(refusal('b', 2, now - 1)), false),
            (Some('b'), Some('a'), Some(refusal('b', 2, now - 2)), true),
            (Some('b'), Some('a'), Some(refusal('b', 5, now - 15)), false),
            (Some('b'), Some('a'), Some(refusal('b', 5, now - 16)), true),
            (Some('b'), Some('a'), Some(refusal('b', 6, now - 29)), false),
            (Some('b'), Some('a'), Some(refusal('b', 6, now - 30)), true),
            (Some('b'), Some('a'), Some(refusal('b', u32::MAX, now - 30)), true),
            (Some('c'), Some('a'), Some(refusal('b', 9, now)), true), // changed again: at once
            (Some('a'), Some('a'), Some(refusal('b', 9, now - 60)), false), // taken back
        ] {
            let at = Duration::from_secs(now);
            let found = is_due(file.as_ref(), in_use.as_ref(), refused.as_ref(), at);
            assert_eq!(found, expected, "{file:?} {in_use:?} {refused:?}");
        }
        let first = Refusal::after(None, 'b', Duration::ZERO, String::new());
        let second = Refusal::after(Some(&first), 'b', Duration::ZERO, String::new());
        let other = Refusal::after(Some(&second), 'c', Duration::ZERO, String::new());
        assert_eq!((first.times, second.times, other.times), (1, 2, 1));
    }

    #[test]
    fn a_new_connection_offers_the_files_and_then_what_was_accepted_each_once() {
        for (file, accepted, is_held_back, expected) in [
            (None, "", false, ""),
            (None, "a", false, "a"),
            (Some('b'), "", false, "b"),
            (Some('b'), "a", false, "ba"),
            (Some('b'), "ba", false, "ba"),
            (Some('b'), "ab", false, "ba"),
            (Some('c'), "ba", false, "cba"),
            (Some('c'), "bb", false, "cb"),
            (Some('b'), "", true, "b"),
            (Some('b'), "a", true, "ab"),
            (Some('b'), "ba", true, "ab"),
            (None, "ba", true, "ba"),
        ] {
            let known: Vec<char> = accepted.chars().collect();
            let found: String = offers(file.as_ref(), &known, is_held_back).into_iter().collect();
            assert_eq!(found, expected, "{file:?} {accepted:?} {is_held_back}");
        }
    }

    #[test]
    fn one_refusal_outweighs_all_who_take_it_until_it_is_of_another_content_or_old() {
        let now = Duration::from_secs(100);
        let refused = |at| Some(refusal('b', 1, at));
        let unusable = || Outlook::Unusable("empty".to_owned());
        for (file, words, expected) in [
            (Ok('b'), vec![], Outlook::Open),
            (Ok('b'), vec![(Some('a'), None)], Outlook::Open),
            (Ok('b'), vec![(Some('a'), None), (Some('b'), None)], Outlook::InUse('b')),
            (
                Ok('b'),
                vec![(Some('b'), None), (Some('a'), refused(99))],
                Outlook::Refused(refusal('b', 1, 99)),
            ),
            (Ok('b'), vec![(None, refused(99))], Outlook::Refused(refusal('b', 1, 99))),
            (Ok('b'), vec![(Some('b'), None), (Some('a'), refused(10))], Outlook::InUse('b')),
            (Ok('a'), vec![(Some('a'), refused(99))], Outlook::InUse('a')),
            (Ok('c'), vec![(Some('a'), refused(99))], Outlook::Open),
            (Err("empty"), vec![(Some('a'), None)], unusable()),
            (Err("empty"), vec![(Some('a'), refused(99))], unusable()),
        ] {
            let said = words.iter().map(|(in_use, refusal)| (in_use.as_ref(), refusal.as_ref()));
            assert_eq!(
                outlook(file.as_ref().map_err(|cause| *cause), said, now),
                expected,
                "{file:?} {words:?}"
            );
        }
    }
}
