//! Drives rows through the daemon: a few at a time, at a pace, again where that may help.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::time::Duration;

use futures_util::future::LocalBoxFuture;
use futures_util::stream::{FuturesUnordered, StreamExt as _};
use serde::Serialize;
use serde_json::Value;
use tokio::signal::unix::{SignalKind, signal};

use super::ledger::{Done, Ledger};
use super::pace::Pace;
use super::row::{Digest, Grant, Naming, Row, digest_of};
use super::sources::Rows;
use super::verdict::{Verdict, judge};
use crate::api::admin::wire::{ImportAccount, Imported};
use crate::cli::client::{Client, ClientError, DEADLINE, read, target};
use crate::cli::output::shown;
use crate::cli::progress::Progress;
use crate::cli::{Failure, World};

/// How many rows are under way at a time.
const AT_ONCE: usize = 8;
/// Time for a request; longer than the daemon offers an answer to a store that is away.
const LONG: Duration = DEADLINE.saturating_add(Duration::from_secs(30));

/// What is done with rows.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Mode {
    /// They are checked; whether those that fail are told.
    Check { tell: bool },
    /// They are imported.
    Import,
}

/// What became of all rows.
#[derive(Debug, Default, Serialize)]
pub(super) struct Counts {
    /// Rows that were read.
    pub(super) rows: u64,
    /// Imported now, or fit to be.
    pub(super) done: u64,
    /// Imported by an earlier run.
    pub(super) before: u64,
    /// Imported by an earlier run, and deleted from this store since.
    pub(super) deleted: u64,
    /// That the ledger had for imported, and that are no such connection of this daemon.
    #[serde(skip)]
    pub(super) forgotten: u64,
    /// That failed.
    pub(super) failed: u64,
    /// That were not tried, because the command was stopped.
    pub(super) left: u64,
}

impl Counts {
    /// Where a row is counted that an earlier run made a connection.
    fn of(&mut self, done: Option<&Done>) -> Option<&mut u64> {
        Some(if done?.is_deleted { &mut self.deleted } else { &mut self.before })
    }
}

/// What a run needs.
pub(super) struct Drive<'a> {
    pub(super) client: &'a Client,
    pub(super) naming: Naming<'a>,
    /// The id of the daemon's store, if it says one.
    pub(super) store: Option<String>,
    /// Renews connections that exist.
    pub(super) replace: bool,
    /// Imports what was deleted since.
    pub(super) again: bool,
    /// Most grants a second.
    pub(super) rate: f64,
    pub(super) json: bool,
}

/// A row that is tried.
struct Tried {
    grant: Grant,
    /// Whether the ledger has it: then the daemon is asked whether it has the connection.
    is_noted: bool,
    tries: u32,
    /// Monotonic: when it was first tried.
    since: Duration,
    /// Monotonic: not before.
    not_before: Duration,
}

/// A row that failed, for programs.
#[derive(Serialize)]
struct Failed<'a> {
    place: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    app: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    connection: Option<&'a str>,
    reason: &'a str,
    detail: &'a str,
}

/// What was seen in this file before.
#[derive(Default)]
struct Seen {
    names: HashMap<Digest, u64>,
    grants: HashMap<Digest, u64>,
    accounts: HashMap<Digest, u64>,
}

/// The state of one run.
struct Run<'a> {
    drive: &'a Drive<'a>,
    ledger: &'a Ledger,
    mode: Mode,
    counts: Counts,
    seen: Seen,
    pace: Pace,
    again: Vec<Tried>,
    /// Why no more rows are tried.
    over: Option<Failure>,
    is_stopped: bool,
    has_said: bool,
}

type Answer = (Tried, Result<Value, ClientError>);

impl Drive<'_> {
    /// Drives every row. Ctrl-C ends it after the rows that are under way, a second one at once.
    pub(super) async fn run(
        &self,
        mut rows: Box<dyn Rows>,
        ledger: &Ledger,
        mode: Mode,
        world: &mut World,
    ) -> Result<Counts, Failure> {
        let interrupts = signal(SignalKind::interrupt());
        let mut interrupts =
            interrupts.map_err(|error| Failure::failed(format!("cannot listen to Ctrl-C: {error}")))?;
        let rate = if mode == Mode::Import { self.rate } else { f64::MAX };
        let mut run = Run {
            drive: self,
            ledger,
            mode,
            counts: Counts::default(),
            seen: Seen::default(),
            pace: Pace::new(rate.min(1e6)),
            again: Vec::new(),
            over: None,
            is_stopped: false,
            has_said: false,
        };
        let mut progress = Progress::new(&*world.clock, "rows", None);
        let mut under_way: FuturesUnordered<LocalBoxFuture<'_, Answer>> = FuturesUnordered::new();
        let mut is_read = false;
        loop {
            let mut wait = None;
            while under_way.len() < AT_ONCE && !run.is_over() {
                let now = world.clock.monotonic();
                let slow = run.pace.wait(now);
                if !slow.is_zero() {
                    wait = Some(slow);
                    break;
                }
                let tried = match run.due(now) {
                    Some(tried) => tried,
                    // (So many that wait are enough: the rest of the file stays where it is.)
                    None if is_read || run.again.len() >= 4 * AT_ONCE => {
                        wait = run.next_due(now);
                        break;
                    }
                    None => match rows.next()? {
                        None => {
                            is_read = true;
                            continue;
                        }
                        Some(row) => match run.begin(row, now, world)? {
                            Some(tried) => tried,
                            None => continue,
                        },
                    },
                };
                run.pace.tried(now);
                under_way.push(Box::pin(run.drive.ask(tried, mode)));
            }
            if under_way.is_empty() && (run.is_over() || (is_read && run.again.is_empty())) {
                break;
            }
            let sleep = world.clock.sleep(wait.unwrap_or(Duration::from_secs(3600)));
            tokio::select! {
                biased;
                Some(()) = interrupts.recv() => {
                    if std::mem::replace(&mut run.is_stopped, true) {
                        return Err(stopped_at_once(mode));
                    }
                    world.output.say("Stopping after the rows that are under way …");
                }
                Some((tried, answer)) = under_way.next() => {
                    run.end(tried, answer, world)?;
                    let Counts { done, before, deleted, failed, .. } = run.counts;
                    let ended = done + before + deleted + failed;
                    progress.show(ended, &*world.clock, &mut world.output);
                }
                () = sleep, if wait.is_some() && !run.is_over() => {}
            }
        }
        // What is left is counted, not tried.
        run.counts.left += run.again.len() as u64;
        while run.is_stopped && run.over.is_none() && !is_read {
            match rows.next()? {
                None => is_read = true,
                Some(row) => {
                    run.counts.rows += 1;
                    let grant = row.grant.ok().and_then(|foreign| run.drive.naming.grant(0, foreign).ok());
                    let done = grant.and_then(|grant| ledger.done(&grant.digest));
                    match run.counts.of(done.as_ref()) {
                        Some(count) => *count += 1,
                        None => run.counts.left += 1,
                    }
                }
            }
        }
        match run.over {
            Some(failure) => Err(failure),
            None => Ok(run.counts),
        }
    }

    async fn ask(&self, tried: Tried, mode: Mode) -> Answer {
        if tried.is_noted {
            let import = &tried.grant.import;
            let path = ["admin", "v1", "apps", &import.app, "connections", &import.connection];
            let answer = self.client.get(&target(&path, &[])).await;
            return (tried, answer);
        }
        let body = tried.grant.body(self.replace, mode != Mode::Import);
        let answer = self.client.post_secret("/admin/v1/imports", body, LONG).await;
        (tried, answer)
    }
}

fn stopped_at_once(mode: Mode) -> Failure {
    match mode {
        Mode::Check { .. } => Failure::failed("the check was stopped, so nothing was imported"),
        Mode::Import => Failure::failed("stopped before the answers about the rows that were under way")
            .hint("run the command again to go on: the daemon knows how far each of them is"),
    }
}

/// The words that are an account's id.
fn words_of(account: &ImportAccount) -> String {
    let ids = match (&account.tid, &account.oid) {
        (Some(tid), Some(oid)) => vec![tid.as_str(), oid],
        _ => [&account.iss, &account.sub].into_iter().flatten().map(String::as_str).collect(),
    };
    ids.join(" ")
}

/// Whether the daemon says that there is no such connection.
fn is_of_nothing(error: &ClientError) -> bool {
    let ClientError::Refused(problem) = error else { return false };
    matches!(&*problem.code, "connection_not_found" | "app_not_found")
}

impl Run<'_> {
    fn is_over(&self) -> bool {
        self.is_stopped || self.over.is_some()
    }

    /// Takes a row that is to be tried again now.
    fn due(&mut self, now: Duration) -> Option<Tried> {
        let at = self.again.iter().position(|tried| tried.not_before <= now)?;
        Some(self.again.swap_remove(at))
    }

    fn next_due(&self, now: Duration) -> Option<Duration> {
        self.again.iter().map(|tried| tried.not_before.saturating_sub(now)).min()
    }

    /// Begins with a row; `None` if there is nothing to ask about it.
    fn begin(&mut self, row: Row, now: Duration, world: &mut World) -> Result<Option<Tried>, Failure> {
        self.counts.rows += 1;
        let grant = row.grant.and_then(|foreign| self.drive.naming.grant(row.place, foreign));
        let grant = match grant {
            Ok(grant) => grant,
            Err(why) => {
                self.fail(row.place, None, ("invalid_row", &why), world)?;
                return Ok(None);
            }
        };
        if let Some(twice) = self.seen.twice(&grant) {
            self.fail(row.place, Some(&grant), ("duplicate", &twice), world)?;
            return Ok(None);
        }
        let done = self.ledger.done(&grant.digest);
        // (The check before an import asked.)
        if self.mode == Mode::Import
            && let Some(count) = self.counts.of(done.as_ref())
        {
            *count += 1;
            return Ok(None);
        }
        let is_noted = done.is_some();
        Ok(Some(Tried { grant, is_noted, tries: 0, since: now, not_before: now }))
    }

    fn end(
        &mut self,
        mut tried: Tried,
        answer: Result<Value, ClientError>,
        world: &mut World,
    ) -> Result<(), Failure> {
        let now = world.clock.monotonic();
        let error = match answer {
            Ok(seen) if tried.is_noted => {
                let account: ImportAccount = read(&seen["account"]).unwrap_or_default();
                if self.ledger.may_be_of(&tried.grant.digest, &words_of(&account)) {
                    self.counts.before += 1;
                } else {
                    self.forget(tried, now);
                }
                return Ok(());
            }
            Ok(answer) => return self.succeed(&tried.grant, &read(&answer)?, world),
            Err(error) if tried.is_noted && is_of_nothing(&error) => {
                self.forget(tried, now);
                return Ok(());
            }
            Err(error) => error,
        };
        tried.tries += 1;
        match judge(&error, tried.tries, now.saturating_sub(tried.since)) {
            Verdict::Again(wait) => {
                if !std::mem::replace(&mut self.has_said, true) {
                    world.output.say(&format!("{error}; going on more slowly, and trying again …"));
                }
                self.pace.slow_down(now, wait);
                tried.not_before = now.saturating_add(wait);
                self.again.push(tried);
            }
            Verdict::Later(wait) => {
                tried.not_before = now.saturating_add(wait);
                self.again.push(tried);
            }
            Verdict::Failed { reason, detail } => {
                self.fail(tried.grant.place, Some(&tried.grant), (&reason, &detail), world)?;
            }
            Verdict::Stop => {
                let failure = Failure::from(error);
                let hint = "what was imported is noted; run the command again once that is mended";
                self.over.get_or_insert(failure.hint(hint));
            }
        }
        Ok(())
    }

    /// The daemon does not have what the ledger has. If its store had it, it was deleted there, and stays so
    /// unless the operator says otherwise; at another one the row is asked for like any other.
    fn forget(&mut self, tried: Tried, now: Duration) {
        if !self.drive.again && self.ledger.is_deleted_from(self.drive.store.as_deref(), &tried.grant.digest)
        {
            self.counts.deleted += 1;
            return;
        }
        self.ledger.forget(&tried.grant.digest);
        self.counts.forgotten += 1;
        self.again.push(Tried { is_noted: false, tries: 0, since: now, not_before: now, ..tried });
    }

    fn succeed(&mut self, grant: &Grant, imported: &Imported, world: &mut World) -> Result<(), Failure> {
        self.counts.done += 1;
        self.pace.done();
        if self.mode != Mode::Import {
            return Ok(());
        }
        let names = (grant.import.app.as_str(), grant.import.connection.as_str());
        let account = imported.account.as_ref().map(words_of).unwrap_or_default();
        let is_in = Some((&*account, self.drive.store.as_deref()));
        self.ledger.note(&grant.digest, grant.place, names, &imported.outcome, is_in)?;
        if account.is_empty() {
            return Ok(());
        }
        let key = digest_of(&[names.0, &account]);
        if let Some(other) = self.seen.accounts.insert(key, grant.place) {
            let (app, connection) = names;
            world.output.say(&format!(
                "note: {app}/{connection} (row {}) has the same account as row {other}",
                grant.place
            ));
        }
        Ok(())
    }

    fn fail(
        &mut self,
        place: u64,
        grant: Option<&Grant>,
        (reason, detail): (&str, &str),
        world: &mut World,
    ) -> Result<(), Failure> {
        self.counts.failed += 1;
        let app = grant.map(|grant| grant.import.app.as_str());
        let connection = grant.map(|grant| grant.import.connection.as_str());
        if let (Mode::Import, Some(grant)) = (self.mode, grant) {
            let names = (grant.import.app.as_str(), grant.import.connection.as_str());
            self.ledger.note(&grant.digest, place, names, reason, None)?;
        }
        if self.mode == (Mode::Check { tell: false }) {
            return Ok(());
        }
        let failed = Failed { place, app, connection, reason, detail };
        if self.drive.json {
            return world.output.data(&serde_json::to_string(&failed).expect("plain JSON"));
        }
        let name = match (app, connection) {
            (Some(app), Some(connection)) => format!(" {app}/{connection}"),
            _ => String::new(),
        };
        world.output.data(&format!("row {place}{name}: {}: {}", shown(reason), shown(detail)))
    }
}

impl Seen {
    /// Notes a grant. Returns what is wrong with one that came before.
    fn twice(&mut self, grant: &Grant) -> Option<String> {
        let import = &grant.import;
        let of_grant = digest_of(&[&import.app, grant.refresh_token.expose()]);
        let of_name = digest_of(&[&import.app, &import.connection]);
        let earlier = |entry: Entry<'_, Digest, u64>| match entry {
            Entry::Occupied(there) => Some(*there.get()),
            Entry::Vacant(free) => {
                free.insert(grant.place);
                None
            }
        };
        let same_name = earlier(self.names.entry(of_name));
        let same_grant = earlier(self.grants.entry(of_grant));
        match (same_name, same_grant) {
            (Some(row), _) => Some(format!("row {row} has the same connection; that row counts")),
            (None, Some(row)) => Some(format!("row {row} has the same grant; that row counts")),
            (None, None) => None,
        }
    }
}
