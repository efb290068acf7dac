//! Searches for connections. A caller's read only the parts of an app that its rules name, a limited number
//! of records at a time, and only a limited number of walks run at a time. A caller's own connections
//! therefore bound the work that it can cause. No caller's walks, and no operator's search that goes on,
//! delay everybody's.

use parking_lot::Mutex;
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::{Broker, Refusal};
use crate::domain::connection::Profile;
use crate::domain::id::{AppName, CallerName, ConnectionName};
use crate::policy::{CallerPolicy, Lookup};
use crate::repository::{Repository, RepositoryError, Wanted};

/// Most walks under way of one caller or of all operators together, and of all.
const MOST_OF_ONE: usize = 2;
const MOST_OF_ALL: usize = 8;
/// How long a walk waits for a place: other walks take milliseconds.
const WAIT_FOR_PLACE: Duration = Duration::from_millis(500);

/// Iterates over an app's connections in some ranges of names, in order.
pub(super) struct Search {
    app: AppName,
    parts: VecDeque<Lookup>,
    after: Option<ConnectionName>,
    read: usize,
}

/// The next request to the store.
#[derive(Debug)]
enum Question {
    /// Which of these names exist.
    Names(Vec<ConnectionName>),
    /// The first names with this prefix after that one.
    Range(String, Option<ConnectionName>),
}

impl Search {
    /// Makes a search. `lookups` are in the order of names; `after` is the name where an earlier search
    /// ended.
    pub(super) fn new(app: AppName, lookups: Vec<Lookup>, after: Option<ConnectionName>) -> Self {
        let is_ahead = |part: &Lookup| after.as_ref().is_none_or(|after| !part.is_over_at(after));
        let parts = lookups.into_iter().filter(is_ahead).collect();
        Search { app, parts, after, read: 0 }
    }

    /// Returns how many records were requested.
    pub(super) fn read(&self) -> usize {
        self.read
    }

    /// Returns the name to continue after; `None` at the end.
    pub(super) fn position(&self) -> Option<&ConnectionName> {
        self.after.as_ref().filter(|_| !self.parts.is_empty())
    }

    /// Returns some more records of those that are wanted; possibly none before the end. It reads at most
    /// this many.
    pub(super) async fn next(
        &mut self,
        repository: &Repository,
        most: usize,
        wanted: Option<&Wanted<'_>>,
    ) -> Result<Option<Vec<(ConnectionName, Profile)>>, RepositoryError> {
        Ok(match self.ask(most) {
            None => None,
            Some(Question::Names(names)) => {
                self.looked_up(&names);
                Some(repository.profiles(&self.app, names, wanted).await?)
            }
            Some(Question::Range(prefix, after)) => {
                let page = repository.search(&self.app, &prefix, after.as_ref(), most, wanted).await?;
                let read = if page.next.is_some() { most } else { page.read };
                self.ranged(read, page.last.as_ref(), page.next);
                Some(page.profiles)
            }
        })
    }

    fn ask(&self, most: usize) -> Option<Question> {
        let names = self.parts.iter().map_while(|part| match part {
            Lookup::Exact(name) => Some(name.clone()),
            Lookup::Prefix(_) => None,
        });
        match self.parts.front()? {
            Lookup::Exact(_) => Some(Question::Names(names.take(most).collect())),
            Lookup::Prefix(prefix) => Some(Question::Range(prefix.clone(), self.after.clone())),
        }
    }

    fn looked_up(&mut self, names: &[ConnectionName]) {
        self.parts.drain(..names.len());
        self.after = names.last().cloned();
        self.read += names.len();
    }

    /// Records the result of a range request: the number read, the last name, and the name that the next page
    /// starts after.
    fn ranged(&mut self, read: usize, last: Option<&ConnectionName>, next: Option<ConnectionName>) {
        self.read += read;
        if next.is_none() {
            self.parts.pop_front();
        }
        self.after = next.or_else(|| last.cloned()).or(self.after.take());
    }
}

/// Who walks.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Walker {
    Caller(CallerName),
    /// All operators together: their searches go on for long, and callers' must not wait for them.
    Operators,
}

/// The walks under way.
pub(super) struct Walks {
    all: Arc<Semaphore>,
    /// There are at most as many entries as callers in the configuration, and one.
    of_one: Mutex<BTreeMap<Walker, Arc<Semaphore>>>,
}

/// Permission to walk, given back when dropped.
pub(super) struct WalkPermit {
    _of_one: OwnedSemaphorePermit,
    _of_all: OwnedSemaphorePermit,
}

impl Default for Walks {
    fn default() -> Self {
        Walks { all: Arc::new(Semaphore::new(MOST_OF_ALL)), of_one: Mutex::default() }
    }
}

impl Walks {
    /// Waits for a place, in the order of requests. Whoever walks waits for its own walks first, so it never
    /// has more than those in the common queue.
    pub(super) async fn permit(&self, walker: &Walker) -> WalkPermit {
        let own = {
            let mut of_one = self.of_one.lock();
            let own = || Arc::new(Semaphore::new(MOST_OF_ONE));
            of_one.entry(walker.clone()).or_insert_with(own).clone()
        };
        let of_one = own.acquire_owned().await.expect("it is never closed");
        let of_all = self.all.clone().acquire_owned().await.expect("it is never closed");
        WalkPermit { _of_one: of_one, _of_all: of_all }
    }
}

impl Broker {
    /// Waits for a caller's permission to walk over connections.
    ///
    /// # Errors
    /// Too many walks are under way, of this caller or of all.
    pub(super) async fn walk_permit(&self, caller: &CallerPolicy) -> Result<WalkPermit, Refusal> {
        self.before_long(self.walks.permit(&Walker::Caller(caller.caller.clone()))).await
    }

    /// Waits for `coming`, which depends on others' walks, unless they take too long.
    pub(super) async fn before_long<T>(&self, coming: impl Future<Output = T>) -> Result<T, Refusal> {
        tokio::select! {
            come = coming => Ok(come),
            () = self.deps.clock.sleep(WAIT_FOR_PLACE) => {
                Err(Refusal::TooManyWalks { most: MOST_OF_ONE })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::domain::id::ConnectionKey;
    use crate::domain::random::random_bytes;
    use crate::policy::{Pattern, Rule, RuleScopes};
    use crate::testkit::SeededRandom;

    const TENANTS: [&str; 2] =
        ["aaaaaaaa-2222-3333-4444-555555555555", "bbbbbbbb-2222-3333-4444-555555555555"];

    fn app() -> AppName {
        AppName::parse("outlook").expect("a name")
    }

    /// Reads everything that a search returns, page by page. Each page continues after the last name of the
    /// one before.
    fn read_all(
        lookups: &[Lookup],
        there: &BTreeSet<ConnectionName>,
        mut most: impl FnMut() -> usize,
    ) -> Vec<ConnectionName> {
        let (mut found, mut after) = (Vec::new(), None);
        loop {
            let (mut search, of_page) = (Search::new(app(), lookups.to_vec(), after.clone()), most());
            while search.read() < of_page
                && let Some(question) = search.ask(of_page - search.read())
            {
                let most = of_page - search.read();
                match question {
                    Question::Names(names) => {
                        assert!(names.len() <= most);
                        search.looked_up(&names);
                        found.extend(names.into_iter().filter(|name| there.contains(name)));
                    }
                    Question::Range(prefix, after) => {
                        let mut more = there.iter().filter(|name| {
                            name.as_str().starts_with(&prefix) && Some(*name) > after.as_ref()
                        });
                        let page: Vec<ConnectionName> = more.by_ref().take(most).cloned().collect();
                        let next = more.next().and(page.last().cloned());
                        search.ranged(page.len(), page.last(), next);
                        found.extend(page);
                    }
                }
            }
            after = search.position().cloned();
            if after.is_none() {
                return found;
            }
        }
    }

    #[test]
    fn a_search_reads_what_the_caller_may_see_and_page_by_page_each_once() {
        let random = SeededRandom::new(4712);
        let byte = || usize::from(random_bytes::<1>(&random)[0]);
        let part = || ["a", "b", "team-a", "team-b", "team-a/x", "A", "-", "z"][byte() % 8].to_owned();
        let name = || format!("{}{}", part(), ["", "/1", "/2", "0"][byte() % 4]);
        for round in 0..3_000 {
            let of_tenant: BTreeMap<ConnectionName, &str> = (0..byte() % 40)
                .map(|_| (ConnectionName::parse(&name()).expect("a name"), TENANTS[byte() % 2]))
                .collect();
            let pattern = || match byte() % 12 {
                0 => "*".to_owned(),
                1 => format!("tenant:{}", TENANTS[byte() % 2]),
                2..6 => format!("{}*", part()),
                _ => name(),
            };
            let rule = || Rule {
                app: app(),
                connections: (0..byte() % 5)
                    .map(|_| Pattern::parse(&pattern()).expect("a pattern"))
                    .collect(),
                scopes: RuleScopes::All,
                relay: Vec::new(),
                connect: false,
                bulk: byte() % 2 == 0,
                app_only: Vec::new(),
                resources: Vec::new(),
                app_only_since: None,
            };
            let rules: Vec<Rule> = (0..byte() % 4).map(|_| rule()).collect();
            let caller = CallerPolicy::new(CallerName::parse("harness").expect("a name"), rules.clone());
            let lookups = caller.lookups(&app());
            let sees = |name: &ConnectionName| {
                let key = ConnectionKey { app: app(), connection: name.clone() };
                caller.see(&key, of_tenant.get(name).copied()).is_ok()
            };
            let there: BTreeSet<ConnectionName> = of_tenant.keys().cloned().collect();
            let read = read_all(&lookups, &there, || 1 + byte() % 7);
            let context = format!("round {round}: {rules:?} {lookups:?} {there:?}");
            assert!(read.is_sorted_by(|one, other| one < other), "{context} {read:?}");
            let expected: Vec<&ConnectionName> = there.iter().filter(|name| sees(name)).collect();
            let shown: Vec<&ConnectionName> = read.iter().filter(|name| sees(name)).collect();
            assert_eq!(shown, expected, "{context}");
            if !lookups.contains(&Lookup::EVERYTHING) {
                assert_eq!(shown.len(), read.len(), "somebody else's was read: {context} {read:?}");
            }
        }
    }

    #[test]
    fn a_caller_has_few_places_and_waits_for_its_own_before_it_stands_in_others_way() {
        let walks = Walks::default();
        let caller =
            |number: usize| Walker::Caller(CallerName::parse(&format!("caller-{number}")).expect("a name"));
        let place = |number: usize| {
            Box::pin({
                let (walks, caller) = (&walks, caller(number));
                async move { walks.permit(&caller).await }
            })
        };
        let mut places: Vec<WalkPermit> = (0..MOST_OF_ALL)
            .map(|number| ready(place(number / MOST_OF_ONE).as_mut()).expect("a place"))
            .collect();
        // All places are taken. The first caller asks for more, and then another one for its first.
        let (mut of_greedy, mut of_other) = (place(0), place(100));
        assert!(ready(of_greedy.as_mut()).is_none() && ready(of_other.as_mut()).is_none());
        drop(places.remove(0));
        assert!(ready(of_greedy.as_mut()).is_none(), "it is behind the other one");
        let _place = ready(of_other.as_mut()).expect("a place");
        drop(places.pop());
        let _place = ready(of_greedy.as_mut()).expect("a place");
    }

    fn ready<T>(future: std::pin::Pin<&mut impl Future<Output = T>>) -> Option<T> {
        match future.poll(&mut std::task::Context::from_waker(std::task::Waker::noop())) {
            std::task::Poll::Ready(ready) => Some(ready),
            std::task::Poll::Pending => None,
        }
    }
}
