//! Links that were given, kept so that whoever asks again gets the same one: a caller beside its refusal, and
//! an operator.

use parking_lot::{Mutex, MutexGuard};
use std::collections::BTreeMap;

use crate::domain::id::CallerName;
use crate::domain::time::Timestamp;

/// Most links of one caller. Beyond that it gets new links for some connections; another limit bounds how
/// many are open.
const MOST_OF_A_CALLER: usize = 1000;

/// A link that ends.
pub(super) trait Link: Clone {
    fn expires_at(&self) -> Timestamp;
}

/// By caller, so that no caller can push out another's, and then by what a link is for.
pub(super) struct Invitations<K, L>(Mutex<BTreeMap<CallerName, BTreeMap<K, L>>>);

impl<K, L> Default for Invitations<K, L> {
    fn default() -> Self {
        Invitations(Mutex::default())
    }
}

impl<K: Ord + Clone, L: Link> Invitations<K, L> {
    pub(super) fn given(&self, caller: &CallerName, key: &K) -> Option<L> {
        self.all().get(caller)?.get(key).cloned()
    }

    /// Remembers a link. If the caller has too many, ended ones are forgotten, or else the one that ends
    /// first.
    pub(super) fn give(&self, caller: &CallerName, key: K, link: L, now: Timestamp) {
        let mut all = self.all();
        let given = all.entry(caller.clone()).or_default();
        if given.len() >= MOST_OF_A_CALLER && !given.contains_key(&key) {
            given.retain(|_, given| given.expires_at() > now);
        }
        if given.len() >= MOST_OF_A_CALLER && !given.contains_key(&key) {
            let first = given.iter().min_by_key(|(_, given)| given.expires_at()).map(|(key, _)| key.clone());
            first.map(|first| given.remove(&first));
        }
        given.insert(key, link);
    }

    fn all(&self) -> MutexGuard<'_, BTreeMap<CallerName, BTreeMap<K, L>>> {
        self.0.lock()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::broker::connect::StartedSession;
    use crate::domain::id::{AppName, ConnectionKey, ConnectionName, SessionId};

    fn caller(name: &str) -> CallerName {
        CallerName::parse(name).expect("a name")
    }

    fn key(number: usize) -> ConnectionKey {
        let connection = ConnectionName::parse(&format!("user-{number}")).expect("a name");
        ConnectionKey { app: AppName::parse("outlook").expect("a name"), connection }
    }

    fn started(expires_at: Timestamp) -> StartedSession {
        let id = SessionId::parse("session").expect("an id");
        StartedSession { id, connect_url: String::new(), expires_at, remark: None, consent: None }
    }

    #[test]
    fn no_caller_has_another_s_link_forgotten() {
        let (invitations, now) = (Invitations::default(), Timestamp::from_unix_seconds(1_800_000_000));
        let at = |seconds: usize| now.plus(Duration::from_secs(u64::try_from(seconds).expect("small")));
        invitations.give(&caller("a"), key(0), started(at(1)), now);
        for number in 0..3 * MOST_OF_A_CALLER {
            invitations.give(&caller("z"), key(number), started(at(number + 1)), now);
        }
        assert!(invitations.given(&caller("a"), &key(0)).is_some());
        assert!(invitations.given(&caller("z"), &key(3 * MOST_OF_A_CALLER - 1)).is_some(), "the newest stay");
        assert!(invitations.given(&caller("z"), &key(0)).is_none());
        assert_eq!(invitations.all()[&caller("z")].len(), MOST_OF_A_CALLER);
        // Ended links make room.
        invitations.give(&caller("z"), key(0), started(at(10_000)), at(5000));
        assert_eq!(invitations.all()[&caller("z")].len(), 1);
    }
}
