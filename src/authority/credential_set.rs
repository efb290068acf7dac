//! An app's client credentials, the knowledge about each, and their order.
//!
//! A set's members never change: a new set replaces it. Knowledge about a credential is kept while its id and
//! content stay the same. A credential removed from the configuration stays as a fallback until a configured
//! one has been trusted for a while.

use parking_lot::{Mutex, MutexGuard};
use std::cmp::Reverse;
use std::sync::Arc;

use super::client_auth::ClientCredential;
use crate::domain::choice::{Choices, View};
use crate::domain::credential::{self, CredentialState, InVain, Standing, Witness};
use crate::domain::time::Timestamp;

/// A credential and the knowledge about it.
pub struct Member {
    credential: Arc<ClientCredential>,
    label: String,
    /// Shared by all members with the same credential, so that a request that began with an earlier set still
    /// records its result.
    standing: Arc<Mutex<Standing>>,
}

/// The knowledge about a credential, for display.
#[derive(Debug, Clone)]
pub struct CredentialReport {
    /// The operator's name for it; `{id}~before` for an earlier content of that id.
    pub label: String,
    /// `secret`, `certificate` or `federated`.
    pub kind: &'static str,
    /// Fingerprint of its content.
    pub fingerprint: credential::Fingerprint,
    /// Its state.
    pub state: CredentialState,
    /// True if it is tried first.
    pub in_use: bool,
    /// The knowledge behind the state.
    pub standing: Standing,
}

/// An app's credentials.
pub struct CredentialSet {
    members: Vec<Arc<Member>>,
    /// Operators' decisions, as far as known. Shared by all sets of an app, so that a decision during a
    /// replacement holds.
    choices: Arc<Mutex<Choices>>,
}

impl Member {
    /// Returns the operator's name for it; `{id}~before` for an earlier content of that id.
    pub fn label(&self) -> &str {
        &self.label
    }

    /// Returns the credential.
    pub fn credential(&self) -> &Arc<ClientCredential> {
        &self.credential
    }

    /// Returns true if the authority has accepted it and not rejected it since.
    pub(super) fn is_trusted(&self) -> bool {
        self.standing().is_trusted()
    }

    /// Records an acceptance; `is_use` is true if a token was wanted for use. Returns true if the credential
    /// became trusted by it.
    pub(super) fn accept(&self, is_use: bool, now: Timestamp) -> bool {
        let mut standing = self.standing();
        match is_use {
            true => standing.used_at = Some(now),
            false => standing.is_proven_by_use = false, // a proof works after all
        }
        standing.accept(now)
    }

    /// Records a rejection, or that the credential could not be presented. Returns true if that is news.
    pub(super) fn reject(&self, codes: &[u32], cause: &str, now: Timestamp) -> bool {
        self.standing().reject(now, codes, cause)
    }

    /// Records a refusal for this tenant or account, whose error may concern that one. Returns how many were
    /// refused by now, if that is news.
    pub(super) fn suspect(&self, kind: Witness, who: &str, most: usize) -> Option<usize> {
        self.standing().suspect(kind, who, most)
    }

    /// Returns true, and notes it, if it may now be sent by the other method.
    pub(super) fn may_send_otherwise(&self, now: Timestamp) -> bool {
        self.standing().may_send_otherwise(now)
    }

    /// Records a proof whose answer says nothing about it.
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
    /// Makes a set in the order of preference, without any knowledge.
    pub fn new(credentials: Vec<ClientCredential>, now: Timestamp) -> Self {
        CredentialSet {
            members: credentials.into_iter().map(|credential| member(credential, now)).collect(),
            choices: Arc::default(),
        }
    }

    /// Makes the set that replaces this one. Knowledge about staying credentials is kept; removed ones become
    /// fallbacks.
    #[must_use]
    pub fn succeeded_by(&self, credentials: Vec<ClientCredential>, now: Timestamp) -> CredentialSet {
        let mut members: Vec<Arc<Member>> = Vec::new();
        for credential in credentials {
            let before = self.members.iter().find(|before| before.is_same(&credential));
            members.push(match before {
                // (It may have been a fallback: the operator went back to it.)
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
        // One earlier content of an id is enough as a fallback: the last that works.
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

    /// Forgets whether proofs are useful: the tenant or the endpoint has changed.
    pub(super) fn ask_anew(&self) {
        for member in &self.members {
            member.standing().ask_anew();
        }
    }

    /// Returns the ids in the order of preference.
    pub fn ids(&self) -> Vec<&str> {
        self.members.iter().map(|member| member.label.as_str()).collect()
    }

    /// Returns a member by its label.
    pub fn member(&self, label: &str) -> Option<Arc<Member>> {
        self.members.iter().find(|member| member.label == label).cloned()
    }

    /// Iterates over the configured members, without fallbacks.
    pub fn configured(&self) -> impl Iterator<Item = &Arc<Member>> {
        self.members.iter().filter(|member| member.standing().superseded_at.is_none())
    }

    /// Returns true if the set is empty.
    pub fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    /// Returns the member that is tried first.
    pub fn in_use(&self, now: Timestamp) -> Option<Arc<Member>> {
        self.in_order(now).into_iter().next()
    }

    /// Returns true if an active member was never tried at the authority: no earlier refusal was about it.
    pub fn has_untried(&self) -> bool {
        let is_untried = |standing: &Standing| {
            standing.accepted_at.is_none() && standing.rejection.is_none() && !standing.is_retired
        };
        self.members.iter().any(|member| is_untried(&member.standing()))
    }

    /// Returns true if the authority has accepted a member and not rejected it since.
    pub fn has_trusted(&self) -> bool {
        self.members.iter().any(|member| member.standing().is_trusted())
    }

    /// Returns the knowledge about each member, at `now`.
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

    /// Returns the members whose proof is due.
    pub fn to_be_asked_about(&self, now: Timestamp) -> Vec<Arc<Member>> {
        let first = self.in_use(now);
        let is_due = |member: &&Arc<Member>| {
            let in_use = first.as_ref().is_some_and(|first| Arc::ptr_eq(first, member));
            member.standing().is_to_be_asked_about(in_use, now)
        };
        self.members.iter().filter(is_due).cloned().collect()
    }

    /// Returns this set without its unneeded fallbacks; `None` if it has none.
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

    /// Sets the operators' decisions.
    pub fn choose(&self, choices: &Choices) {
        self.choose_by(|known| choices.clone_into(known));
    }

    fn choose_by(&self, change: impl FnOnce(&mut Choices)) {
        // Locked until all members are updated.
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

    /// Returns the operators' decisions, as far as known.
    pub fn choices(&self) -> Choices {
        self.choices.lock().clone()
    }

    /// Returns the order in which members are tried. A member that only users' requests can prove comes first
    /// now and then, if the same request can fall back to another: the one whose last trial is oldest.
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
    /// Returns a replica's view of it, for the other replicas.
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
