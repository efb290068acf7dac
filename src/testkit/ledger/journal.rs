//! Checks that an entry of a journal is as durable as a record in the store.

use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use super::{Books, Ledger, serials};
use crate::domain::id::ConnectionKey;
use crate::domain::task::BoxFuture;
use crate::journal::{Entry, Journal, JournalError};
use crate::repository::Repository;
use crate::testkit::authority::{Family, Stamp};
use crate::testkit::journal::Watch;

/// Opens a journal's entry.
pub(crate) type Opener = Box<dyn Fn(Entry) -> Option<Answer> + Send + Sync>;

/// An answer of the authority in a journal.
#[derive(Debug, Clone)]
pub(crate) struct Answer {
    key: ConnectionKey,
    family: Family,
    generation: u64,
    serials: Vec<u64>,
}

/// An entry that a journal acknowledged.
pub(super) struct Journaled {
    pub(super) answer: Answer,
    pub(super) replica: usize,
    pub(super) at: Duration,
    name: String,
    removed: bool,
}

/// A journal of one entry.
struct One(Entry);

impl Journal for One {
    fn write<'a>(&'a self, _name: &'a str, _sealed: Vec<u8>) -> BoxFuture<'a, Result<(), JournalError>> {
        Box::pin(std::future::pending())
    }

    fn replace<'a>(
        &'a self,
        _name: &'a str,
        _before: Vec<u8>,
        _after: Vec<u8>,
    ) -> BoxFuture<'a, Result<(), JournalError>> {
        Box::pin(std::future::pending())
    }

    fn remove<'a>(&'a self, _name: &'a str) -> BoxFuture<'a, Result<(), JournalError>> {
        Box::pin(std::future::pending())
    }

    fn read<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<Option<Vec<u8>>, JournalError>> {
        let sealed = (self.0.0 == name).then(|| self.0.1.clone());
        Box::pin(std::future::ready(Ok(sealed)))
    }

    fn entries(&self) -> BoxFuture<'_, Result<Vec<Entry>, JournalError>> {
        Box::pin(std::future::ready(Ok(vec![self.0.clone()])))
    }
}

impl Answer {
    /// Opens an entry whose keys `repository` has.
    pub(crate) fn of(repository: Repository, entry: Entry) -> Option<Self> {
        let entries = at_once(repository.with_journal(Arc::new(One(entry))).journaled()).ok()?;
        let (key, unstored) = entries.into_iter().next()?;
        let (family, generation) = Stamp::of_refresh(unstored.grant.current.expose());
        Some(Answer { key, family, generation, serials: serials(&unstored.connection) })
    }
}

/// Returns the result of a future that never waits.
pub(crate) fn at_once<T>(work: impl Future<Output = T>) -> T {
    match pin!(work).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(outcome) => outcome,
        Poll::Pending => unreachable!("it waits for nothing"),
    }
}

impl Ledger {
    /// Sets how journals' entries are opened.
    pub(crate) fn open_entries_with(&self, opener: Opener) {
        assert!(self.opener.set(opener).is_ok(), "once");
    }

    fn open_entry(&self, entry: &Entry) -> Answer {
        let opener = self.opener.get().expect("set before anything happens");
        opener(entry.clone()).expect("what is in the journal opens")
    }

    /// Records the entries with which a process begins: they are durable, even if their write was never
    /// acknowledged.
    pub(crate) fn found_in_journal(&self, replica: usize, entries: &[Entry]) {
        let names: Vec<&String> = entries.iter().map(|(name, _)| name).collect();
        let is_gone =
            |one: &&Journaled| one.replica == replica && !one.removed && !names.contains(&&one.name);
        let gone: Vec<Answer> =
            self.books().journaled.iter().filter(is_gone).map(|one| one.answer.clone()).collect();
        for answer in gone {
            let what = format!(
                "{}: generation {} was written to the journal of replica {replica}, and is not there",
                answer.key, answer.generation
            );
            self.violated("I24", what);
        }
        for entry in entries {
            let serials = self.open_entry(entry).serials;
            self.books().keep_in_journal(replica, &serials, self.world.now());
        }
    }

    /// Checks at the end that everything from the journals, or something newer, is in the store.
    pub(crate) fn judge_journals(&self) {
        if !self.insight().1.punishes_reuse() {
            return; // another replica's answer is as good
        }
        let mut wrong = Vec::new();
        let stored_of = |answer: &Answer| self.stored(&answer.key).and_then(|stored| stored.grant);
        let books = self.books();
        for Journaled { answer, at, replica, .. } in &books.journaled {
            let lost = books.lost(&answer.key, *at);
            wrong.push((answer.clone(), *at, *replica, lost));
        }
        drop(books);
        for (answer, at, replica, lost) in wrong {
            let fallen = stored_of(&answer)
                .filter(|(family, generation)| *family == answer.family && *generation < answer.generation);
            if let Some((_, generation)) = fallen.filter(|_| !lost) {
                let what = format!(
                    "{}: generation {} was in the journal of replica {replica} at {at:?}, and {generation} \
                     is stored",
                    answer.key, answer.generation
                );
                self.violated("I6", what);
            }
        }
    }
}

impl Watch for Ledger {
    fn journaled(&self, replica: usize, entry: &Entry) {
        let answer = self.open_entry(entry);
        self.world.note(format_args!(
            "{replica} has {} grant {} generation {} in its journal",
            answer.key.connection, answer.family.0, answer.generation
        ));
        let at = self.world.now();
        let mut books = self.books();
        books.counts.journaled += 1;
        books.keep_in_journal(replica, &answer.serials, at);
        let name = entry.0.clone();
        books.journaled.push(Journaled { answer, replica, at, name, removed: false });
    }

    fn unjournaled(&self, replica: usize, entry: &Entry, left: &[Entry]) {
        for one in self.books().journaled.iter_mut().filter(|one| one.name == entry.0) {
            one.removed = true;
        }
        let answer = self.open_entry(entry);
        let better = |other: &Answer| other.family == answer.family && other.generation >= answer.generation;
        let kept = left.iter().any(|entry| better(&self.open_entry(entry)));
        let stored = self.stored(&answer.key).and_then(|stored| stored.grant);
        let older =
            stored.filter(|(family, generation)| *family == answer.family && *generation < answer.generation);
        if let Some((_, generation)) = older
            && self.insight().1.punishes_reuse()
            && !kept
            && !self.books().lost(&answer.key, Duration::ZERO)
        {
            let what = format!(
                "{}: generation {} is taken out of the journal of replica {replica}, and {generation} is \
                 stored",
                answer.key, answer.generation
            );
            self.violated("I6", what);
        }
    }
}

impl Books {
    fn keep_in_journal(&mut self, replica: usize, serials: &[u64], at: Duration) {
        for serial in serials {
            self.kept_in_journal.entry((replica, *serial)).or_insert(at);
        }
    }

    /// Returns the latest time by which an answer came into a journal, and whose journal.
    pub(super) fn journaled(&self, family: Family, generation: u64) -> Option<&Journaled> {
        let same = |one: &&Journaled| one.answer.family == family && one.answer.generation == generation;
        self.journaled.iter().find(same)
    }
}
