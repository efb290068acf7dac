//! What operators see of the daemon itself, and may do to it. A port: only the room that puts the daemon
//! together has these in its hands.

use std::collections::BTreeMap;

use crate::domain::task::BoxFuture;
use crate::domain::time::Timestamp;
use crate::notices::Standing;

/// How a reload ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reloaded {
    /// When it was.
    pub at: Timestamp,
    /// What asked for it: `SIGHUP`, `a file changed`, `an operator`.
    pub asked_by: &'static str,
    /// The sections that are others now, or why it was refused: one line each.
    pub result: Result<Vec<String>, Vec<String>>,
    /// The sections that wait for a restart: sockets, and the form of the log. Of a refused reload: those of
    /// the one before.
    pub needs_restart: Vec<&'static str>,
    /// What a check would warn of, one line each, also what a wrong file keeps out of force.
    pub warnings: Vec<String>,
    /// Authorities' documents that could not be fetched anew, one line each; nothing else depends on that.
    pub not_fetched: Vec<String>,
    /// Apps whose secrets stay here because their token host is another one now, one line each, with what to
    /// do.
    pub held_back: Vec<String>,
}

/// A secret and when it ends.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Ending {
    /// When; none where nobody knows.
    pub at: Option<Timestamp>,
    /// What kind of secret: `client secret`, `API key`.
    pub what: &'static str,
    /// Whose: an app, a caller, a listener.
    pub of: String,
    /// Which one of those.
    pub id: String,
}

/// The store does not answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StoreLost {
    /// When it last did, or when the daemon began to ask.
    pub answered_at: Timestamp,
    /// Until when tokens in memory are served all the same; none if that ends when they do.
    pub cached_until: Option<Timestamp>,
}

/// A job of the daemon, which runs at intervals, and its last run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JobReport {
    /// Which.
    pub job: &'static str,
    /// None where the first run has not ended yet.
    pub last_run: Option<LastRun>,
}

/// When a job last ran, and how that ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LastRun {
    /// When the run ended.
    pub at: Timestamp,
    /// Well, or why not.
    pub result: Result<(), String>,
}

/// Counts since the start, by the words of the metrics. What happened lately is the difference of two.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Requests for a token, by outcome: `ok`, or the code of the refusal.
    pub tokens: BTreeMap<String, u64>,
    /// Requests to authorities, by outcome.
    pub authority: BTreeMap<String, u64>,
}

/// The daemon itself, for operators.
pub trait Upkeep: Send + Sync {
    /// Reads configuration and secrets again.
    fn reload(&self) -> BoxFuture<'_, Reloaded>;

    /// What readiness waits for; empty when the daemon takes traffic.
    fn waiting_for(&self) -> Vec<&'static str>;

    /// What an operator should know, by part.
    fn notes(&self) -> BTreeMap<String, String>;

    /// How the last reload ended; none since the start.
    fn last_reload(&self) -> Option<Reloaded>;

    /// Since when the store does not answer; none while it does.
    fn store_lost(&self) -> Option<StoreLost>;

    /// Every job that runs at intervals, with its last run.
    fn jobs(&self) -> Vec<JobReport>;

    /// How much was handed out and asked for since the start.
    fn traffic(&self) -> Traffic;

    /// Every configured webhook.
    fn webhooks(&self) -> BoxFuture<'_, Vec<Standing>>;

    /// Every secret that ends, those first that end first, and last those of which nobody knows when.
    fn endings(&self) -> BoxFuture<'_, Vec<Ending>>;
}
