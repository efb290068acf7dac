//! An app's client credentials, what is known of each, and which is tried first.
//!
//! A set never changes its members: another set takes its place, and what is known of a credential goes along as long as it
//! is the same one, by its id and its content. What is configured no longer stays as a fallback until what is has been trusted
//! for a while.

use parking_lot::{Mutex, MutexGuard};
use std::cmp::Reverse;
use std::sync::Arc;

use super::client_auth::ClientCredential;
use crate::domain::choice::{Choices, View};
use crate::domain::credential::{self, CredentialState, InVain, Standing, Witness};
use crate::domain::time::Timestamp;

/// A credential and what is known of it.
pub struct Member {
    credential: Arc<ClientCredential>,
    label: String,
    /// Of all members that are the same credential: a request that began with the set before still says what it learns.
    standing: Arc<Mutex<Standing>>,
}

/// What is known of a credential, for whoever shows it.
#[derive(Debug, Clone)]
pub struct CredentialReport {
    /// The operator's name for it; `{id}~before` where other content took its id's place.
    pub label: String,
    /// `secret`, `certificate` or `federated`.
    pub kind: &'static str,
    /// Which content.
    pub fingerprint: credential::Fingerprint,
    /// Its state.
    pub state: CredentialState,
    /// Whether it is the first to be tried.
    pub in_use: bool,
    /// What it is based on.
    pub standing: Standing,
}

/// An app's credentials.
pub struct CredentialSet {
    members: Vec<Arc<Member>>,
    /// What operators decided, as far as is known. Of all sets of an app: what is decided while one takes another's place holds.
    choices: Arc<Mutex<Choices>>,
}

impl Member {
    /// The operator's name for it; `{id}~before` where other content took its id's place.
    pub fn label(&self) -> &str {
        &self.label
    }

    /// The credential.
    pub fn credential(&self) -> &Arc<ClientCredential> {
        &self.credential
    }

    /// Whether the authority has taken it and not rejected it since.
    pub(super) fn is_trusted(&self) -> bool {
        self.standing().is_trusted()
    }

    /// The authority took it. `is_use`: for a token that somebody wanted. True when that made it trusted.
    pub(super) fn accept(&self, is_use: bool, now: Timestamp) -> bool {
        let mut standing = self.standing();
        match is_use {
            true => standing.used_at = Some(now),
            false => standing.is_proven_by_use = false, // it can be asked about, after all
        }
        standing.accept(now)
    }

    /// The authority rejected it, or it could not be shown. True when that is news.
    pub(super) fn reject(&self, codes: &[u32], cause: &str, now: Timestamp) -> bool {
        self.standing().reject(now, codes, cause)
    }

    /// It was refused for this tenant or account, in words that may be about that one: of how many now, if that is news.
    pub(super) fn doubt(&self, kind: Witness, who: &str, most: usize) -> Option<usize> {
        self.standing().doubt(kind, who, most)
    }

    /// Whether it may be sent in the other way now; noted if so.
    pub(super) fn may_send_otherwise(&self, now: Timestamp) -> bool {
        self.standing().may_send_otherwise(now)
    }

    /// It was asked about, and the answer says nothing about it.
    pub(super) fn ask_in_vain(&self, why: InVain, now: Timestamp) {
        self.standing().ask_in_vain(now, why);
    }

    fn standing(&self) -> MutexGuard<'_, Standing> {
        self.standing.lock()
    }

    fn is_same(&self, other: &ClientCredential) -> bool {
        self.credential.id() == other.id() && self.credential.fingerprint() == other.fingerprint()
    }

    fn labelled(&self, label: String) -> Arc<Member> {
        let (credential, standing) = (self.credential.clone(), self.standing.clone());
        Arc::new(Member { credential, label, standing })
    }
}

impl CredentialSet {
    /// A set, listed in the order of preference; nothing is known of any of them.
    pub fn new(credentials: Vec<ClientCredential>, now: Timestamp) -> Self {
        CredentialSet {
            members: credentials.into_iter().map(|credential| member(credential, now)).collect(),
            choices: Arc::default(),
        }
    }

    /// The set of these, in the place of this one. What is known of those that stay goes along; those that go are fallbacks.
    #[must_use]
    pub fn succeeded_by(&self, credentials: Vec<ClientCredential>, now: Timestamp) -> CredentialSet {
        let mut members: Vec<Arc<Member>> = Vec::new();
        for credential in credentials {
            let before = self.members.iter().find(|before| before.is_same(&credential));
            members.push(match before {
                // (It may have been a fallback: somebody went back to it.)
                Some(before) => {
                    let mut standing = before.standing();
                    standing.expires_at = credential.expires_at();
                    standing.superseded_at = None;
                    drop(standing);
                    before.labelled(credential.id().to_owned())
                }
                None => member(credential, now),
            });
        }
        let goes = |before: &&Arc<Member>| !members.iter().any(|member| member.is_same(&before.credential));
        let mut fallbacks: Vec<Arc<Member>> = self
            .members
            .iter()
            .filter(goes)
            .map(|before| {
                let id = before.credential.id();
                let is_taken = members.iter().any(|member| member.label == id);
                let label = if is_taken { format!("{id}~before") } else { id.to_owned() };
                before.standing().superseded_at.get_or_insert(now);
                before.labelled(label)
            })
            .collect();
        // Of several contents that one id had one is enough to fall back to: the last that works.
        fallbacks.sort_by_key(|fallback| {
            let standing = fallback.standing();
            Reverse((standing.is_trusted(), standing.superseded_at))
        });
        for fallback in fallbacks {
            if members.iter().all(|member| member.label != fallback.label) {
                members.push(fallback);
            }
        }
        let set = CredentialSet { members, choices: self.choices.clone() };
        set.choose_by(|_| {});
        set
    }

    /// Whether asking proves anything is found out anew: it is another tenant that is asked, or another endpoint.
    pub(super) fn ask_anew(&self) {
        for member in &self.members {
            member.standing().ask_anew();
        }
    }

    /// The ids, in the order of preference.
    pub fn ids(&self) -> Vec<&str> {
        self.members.iter().map(|member| member.label.as_str()).collect()
    }

    /// One of them, by its label.
    pub fn member(&self, label: &str) -> Option<Arc<Member>> {
        self.members.iter().find(|member| member.label == label).cloned()
    }

    /// Those that the configuration has: no fallbacks.
    pub(super) fn configured(&self) -> impl Iterator<Item = &Arc<Member>> {
        self.members.iter().filter(|member| member.standing().superseded_at.is_none())
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    /// The one that is tried first.
    pub fn in_use(&self, now: Timestamp) -> Option<Arc<Member>> {
        self.in_order(now).into_iter().next()
    }

    /// Whether there is one in service that the authority has never been asked about: no refusal until now was of it.
    pub fn has_untried(&self) -> bool {
        let is_untried = |standing: &Standing| {
            standing.accepted_at.is_none() && standing.rejection.is_none() && !standing.is_retired
        };
        self.members.iter().any(|member| is_untried(&member.standing()))
    }

    /// Whether the authority has taken any of them and not rejected it since.
    pub fn has_trusted(&self) -> bool {
        self.members.iter().any(|member| member.standing().is_trusted())
    }

    /// What is known of each, at `now`.
    pub fn report(&self, now: Timestamp) -> Vec<CredentialReport> {
        let first = self.in_use(now);
        self.members
            .iter()
            .map(|member| {
                let in_use = first.as_ref().is_some_and(|first| Arc::ptr_eq(first, member));
                let standing = member.standing().clone();
                CredentialReport {
                    label: member.label.clone(),
                    kind: member.credential.kind(),
                    fingerprint: member.credential.fingerprint(),
                    state: standing.state(in_use, now),
                    in_use,
                    standing,
                }
            })
            .collect()
    }

    /// Those that it is time to ask the authority about.
    pub fn to_be_asked_about(&self, now: Timestamp) -> Vec<Arc<Member>> {
        let first = self.in_use(now);
        let is_due = |member: &&Arc<Member>| {
            let in_use = first.as_ref().is_some_and(|first| Arc::ptr_eq(first, member));
            member.standing().is_to_be_asked_about(in_use, now)
        };
        self.members.iter().filter(is_due).cloned().collect()
    }

    /// This set without the fallbacks that are needed no longer; none where it has no such.
    pub fn without_spent(&self, now: Timestamp) -> Option<CredentialSet> {
        let standings = self.standings();
        let spent = credential::spent(&standings, now);
        if spent.is_empty() {
            return None;
        }
        let stay = (0..self.members.len()).filter(|at| !spent.contains(at));
        Some(CredentialSet {
            members: stay.map(|at| self.members[at].clone()).collect(),
            choices: self.choices.clone(),
        })
    }

    /// What operators decided.
    pub fn choose(&self, choices: &Choices) {
        self.choose_by(|known| choices.clone_into(known));
    }

    fn choose_by(&self, change: impl FnOnce(&mut Choices)) {
        // Held until all of them know.
        let mut choices = self.choices.lock();
        change(&mut choices);
        for member in &self.members {
            let fingerprint = member.credential.fingerprint();
            let mut standing = member.standing();
            standing.promoted_at =
                choices.promoted.filter(|(promoted, _)| *promoted == fingerprint).map(|(_, at)| at);
            standing.is_retired = choices.retired.contains(&fingerprint);
        }
    }

    /// What operators decided, as far as is known.
    pub fn choices(&self) -> Choices {
        self.choices.lock().clone()
    }

    /// The order to try them in. One that only users' requests can prove comes first now and then, where there is something to
    /// fall back to within the same request: of several the one that was tried longest ago.
    pub(super) fn candidates(&self, now: Timestamp) -> Vec<Arc<Member>> {
        let mut order = self.in_order(now);
        let standings: Vec<Standing> = order.iter().map(|member| member.standing().clone()).collect();
        if let Some(trial) = credential::trial(&standings, now) {
            let member = order.remove(trial);
            member.standing().tried_at = Some(now);
            order.insert(0, member);
        }
        order
    }

    fn in_order(&self, now: Timestamp) -> Vec<Arc<Member>> {
        let standings = self.standings();
        credential::order(&standings, now).into_iter().map(|at| self.members[at].clone()).collect()
    }

    fn standings(&self) -> Vec<Standing> {
        self.members.iter().map(|member| member.standing().clone()).collect()
    }
}

impl CredentialReport {
    /// What a replica says of it to the others.
    pub fn view(&self, now: Timestamp) -> View {
        let standing = &self.standing;
        View {
            fingerprint: self.fingerprint,
            state: self.state.as_str().to_owned(),
            in_use: self.in_use,
            usable: standing.rejection.is_none() && !standing.is_expired(now),
            stays: standing.superseded_at.is_none(),
            accepted_at: standing.accepted_at,
            used_at: standing.used_at,
        }
    }
}

fn member(credential: ClientCredential, now: Timestamp) -> Arc<Member> {
    let label = credential.id().to_owned();
    let standing = Standing::new(now, credential.expires_at());
    Arc::new(Member { credential: Arc::new(credential), label, standing: Arc::new(Mutex::new(standing)) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    use crate::domain::credential::FALLBACK_FOR;
    use crate::domain::secret::ClientSecret;

    const NOW: Timestamp = Timestamp::from_unix_seconds(1_800_000_000);

    fn secret(id: &str, value: &str) -> ClientCredential {
        ClientCredential::secret(id, ClientSecret::new(value))
    }

    fn at(seconds: u64) -> Timestamp {
        NOW.plus(Duration::from_secs(seconds))
    }

    fn tried(set: &CredentialSet, now: Timestamp) -> Vec<String> {
        set.candidates(now).iter().map(|member| member.label.clone()).collect()
    }

    fn find(set: &CredentialSet, label: &str) -> Arc<Member> {
        set.member(label).expect("a member")
    }

    #[test]
    fn changed_content_keeps_the_content_before_until_the_new_one_is_proven_and_a_while_after() {
        let set = CredentialSet::new(vec![secret("main", "old")], at(0));
        find(&set, "main").accept(true, at(1));
        let set = set.succeeded_by(vec![secret("main", "new")], at(10));
        assert_eq!(tried(&set, at(10)), ["main~before", "main"], "what works stays first");
        find(&set, "main").accept(false, at(20));
        assert_eq!(tried(&set, at(20)), ["main", "main~before"]);
        assert!(set.without_spent(at(20).plus(FALLBACK_FOR).minus(Duration::from_secs(1))).is_none());
        let left = set.without_spent(at(20).plus(FALLBACK_FOR)).expect("one goes");
        assert_eq!(left.ids(), ["main"]);
    }

    #[test]
    fn what_is_known_goes_along_and_changed_content_begins_anew() {
        let set = CredentialSet::new(vec![secret("a", "1"), secret("b", "2")], at(0));
        find(&set, "b").accept(true, at(1));
        let set = set.succeeded_by(vec![secret("a", "1"), secret("b", "2"), secret("c", "3")], at(5));
        assert_eq!(tried(&set, at(5)), ["b", "c", "a"]);
        assert_eq!(find(&set, "b").standing().used_at, Some(at(1)));
        let back = set.succeeded_by(vec![secret("a", "1"), secret("b", "other")], at(6));
        assert_eq!(tried(&back, at(6)), ["b~before", "b", "a", "c"]);
    }

    #[test]
    fn a_file_changed_twice_keeps_the_content_that_works() {
        let set = CredentialSet::new(vec![secret("main", "old")], at(0));
        find(&set, "main").accept(true, at(1));
        let set = set.succeeded_by(vec![secret("main", "half")], at(2));
        let set = set.succeeded_by(vec![secret("main", "whole")], at(3));
        let labels = set.ids();
        assert!(labels.contains(&"main") && labels.contains(&"main~before"), "{labels:?}");
        assert!(find(&set, "main~before").standing().is_trusted());
    }

    #[test]
    fn what_operators_decided_holds_for_what_a_reload_brings_and_reloads_do_not_keep_a_fallback_alive() {
        let set = CredentialSet::new(vec![secret("a", "1"), secret("b", "2")], at(0));
        find(&set, "b").accept(true, at(0));
        let mut choices = Choices::default();
        choices.retired.push(find(&set, "a").credential.fingerprint());
        set.choose(&choices);
        let renamed = set.succeeded_by(vec![secret("b", "2"), secret("c", "1")], at(1));
        assert_eq!(tried(&renamed, at(1)), ["b"], "the same secret under another name is retired too");
        let mut set = set.succeeded_by(vec![secret("b", "3")], at(10));
        find(&set, "b").accept(true, at(11));
        for minute in 1..=15 {
            set = set.succeeded_by(vec![secret("b", "3")], at(10 + minute * 60));
        }
        assert!(set.without_spent(at(11 + 900)).is_some_and(|left| left.ids() == ["b"]));
    }

    #[test]
    fn one_that_cannot_be_proven_alone_is_tried_in_one_request_now_and_then() {
        let set = CredentialSet::new(vec![secret("old", "1")], at(0));
        find(&set, "old").accept(true, at(0));
        let set = set.succeeded_by(vec![secret("old", "1"), secret("new", "2")], at(1));
        find(&set, "new").ask_in_vain(InVain::ProvenByUse, at(1));
        assert_eq!(tried(&set, at(1)), ["new", "old"]);
        assert_eq!(tried(&set, at(2)), ["old", "new"], "one request at a time");
        assert_eq!(tried(&set, at(6)), ["new", "old"]);
        find(&set, "new").accept(true, at(6));
        assert_eq!(tried(&set, at(7)), ["new", "old"], "trusted, and the younger");
    }

    #[test]
    fn of_several_that_users_requests_prove_each_has_its_turn() {
        let set = CredentialSet::new(vec![secret("old", "1"), secret("b", "2"), secret("c", "3")], at(0));
        find(&set, "old").accept(true, at(0));
        for label in ["b", "c"] {
            find(&set, label).ask_in_vain(InVain::ProvenByUse, at(0));
        }
        let first = |seconds| tried(&set, at(seconds)).remove(0);
        assert_eq!([first(1), first(1), first(1)], ["b", "c", "old"]);
        find(&set, "b").reject(&[], "no", at(1));
        assert_eq!([first(6), first(6)], ["c", "b"]);
    }

    #[test]
    fn a_request_that_began_with_the_set_before_says_what_it_learns() {
        let set = CredentialSet::new(vec![secret("main", "old")], at(0));
        let member = find(&set, "main");
        let after = set.succeeded_by(vec![secret("main", "new")], at(1));
        member.accept(true, at(2));
        assert_eq!(find(&after, "main~before").standing().used_at, Some(at(2)));
        let new = find(&after, "main");
        let after = after.succeeded_by(vec![secret("main", "new"), secret("b", "2")], at(3));
        new.accept(false, at(4));
        assert!(
            after.without_spent(at(4).plus(FALLBACK_FOR)).is_some_and(|left| left.ids() == ["main", "b"])
        );
    }
}
