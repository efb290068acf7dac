//! What operators see of the daemon itself and may do to it, besides connections: its configuration and its client credentials.
//! A port: only the room that puts the daemon together has these in its hands.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::{Value, json};

use crate::authority::CredentialReport;
use crate::broker::Refusal;
pub use crate::broker::credentials::{Heard, Verified};
use crate::broker::replicas::Replica;
use crate::domain::choice::{Choice, View};
use crate::domain::id::AppName;
use crate::domain::task::BoxFuture;
use crate::domain::time::Timestamp;

/// How a reload ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reloaded {
    /// When it was.
    pub at: Timestamp,
    /// What asked for it: `SIGHUP`, `a file changed`, `an operator`.
    pub asked_by: &'static str,
    /// The sections that are others now, or why it was refused: one line each.
    pub result: Result<Vec<String>, Vec<String>>,
    /// Authorities' documents that could not be fetched anew, one line each; nothing else depends on that.
    pub not_fetched: Vec<String>,
    /// Apps whose secrets stay here because their token host is another one now, one line each, with what to do.
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
    /// Until when tokens in memory are served all the same.
    pub cached_until: Timestamp,
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

    /// Every secret that ends, those first that end first, and last those of which nobody knows when.
    fn endings(&self) -> BoxFuture<'_, Vec<Ending>>;

    /// Every app's client credentials.
    fn credentials(&self) -> BTreeMap<AppName, Vec<CredentialReport>>;

    /// Asks the authority about an app's credential, or about all of them.
    fn verify<'a>(
        &'a self,
        app: &'a AppName,
        label: Option<&'a str>,
    ) -> BoxFuture<'a, Result<Vec<Verified>, Refusal>>;

    /// Prefers a credential, or takes it out of service, on every replica within seconds and through restarts.
    fn choose<'a>(
        &'a self,
        app: &'a AppName,
        label: &'a str,
        choice: Choice,
    ) -> BoxFuture<'a, Result<(), Refusal>>;

    /// Has an app's secrets go to this token host, which is another one than before.
    fn confirm_token_host<'a>(
        &'a self,
        app: &'a AppName,
        host: &'a str,
    ) -> BoxFuture<'a, Result<(), Refusal>>;
}

/// A credential as it is shown: never the secret.
#[derive(Serialize)]
struct CredentialShape {
    id: String,
    kind: &'static str,
    state: &'static str,
    /// Whether it is the first to be tried.
    in_use: bool,
    since: String,
    expires_at: Option<String>,
    accepted_at: Option<String>,
    /// When a token was last got with it, by any replica that reports.
    last_used_at: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    rejection: Option<Value>,
    /// The configuration has another in its place.
    superseded_at: Option<String>,
    promoted_at: Option<String>,
    /// Only a user's request can prove it: the authority does not let the app ask for a token of its own.
    proven_by_use: bool,
    /// What the other replicas say of it; null when that cannot be looked up.
    replicas: Option<Vec<ElsewhereShape>>,
}

/// A credential as another replica has it.
#[derive(Serialize)]
struct ElsewhereShape {
    replica: String,
    /// `absent` where it has none of that content: its files may not have come yet.
    state: String,
    in_use: bool,
    last_used_at: Option<String>,
}

impl ElsewhereShape {
    fn new(replica: &Replica, view: Option<&View>) -> Self {
        let absent = View { state: "absent".to_owned(), ..View::default() };
        let view = view.unwrap_or(&absent);
        ElsewhereShape {
            replica: replica.name(),
            state: view.state.clone(),
            in_use: view.in_use,
            last_used_at: view.used_at.map(Timestamp::rfc3339),
        }
    }
}

impl CredentialShape {
    fn new(app: &AppName, report: CredentialReport, replicas: Option<&[Replica]>) -> Self {
        let standing = report.standing;
        // Of those who know the app, and say what they know.
        let others = |replica: &&Replica| !replica.is_me && replica.report.credentials.contains_key(app);
        let view_of = |replica: &'_ Replica| {
            let mut views = replica.report.credentials.get(app).into_iter().flatten();
            views.find(|view| view.fingerprint == report.fingerprint).cloned()
        };
        let elsewhere: Option<Vec<(&Replica, Option<View>)>> = replicas.map(|replicas| {
            replicas.iter().filter(others).map(|replica| (replica, view_of(replica))).collect()
        });
        let uses = elsewhere.iter().flatten().filter_map(|(_, view)| view.as_ref()?.used_at);
        let used_at = uses.chain(standing.used_at).max();
        let text = |at: Option<Timestamp>| at.map(Timestamp::rfc3339);
        CredentialShape {
            id: report.label,
            kind: report.kind,
            state: report.state.as_str(),
            in_use: report.in_use,
            since: standing.since.rfc3339(),
            expires_at: text(standing.expires_at),
            accepted_at: text(standing.accepted_at),
            last_used_at: text(used_at),
            rejection: standing.rejection.map(|no| {
                json!({ "at": no.at.rfc3339(), "error_codes": no.codes, "cause": no.cause, "times": no.times })
            }),
            superseded_at: text(standing.superseded_at),
            promoted_at: text(standing.promoted_at),
            proven_by_use: standing.is_proven_by_use,
            replicas: elsewhere.map(|elsewhere| {
                elsewhere
                    .into_iter()
                    .map(|(replica, view)| ElsewhereShape::new(replica, view.as_ref()))
                    .collect()
            }),
        }
    }
}

/// Every app's credentials as they are shown. `replicas` are all of them, where that could be looked up.
pub(super) fn apps_shape(
    credentials: BTreeMap<AppName, Vec<CredentialReport>>,
    replicas: Option<&[Replica]>,
) -> Vec<Value> {
    let shape = |(app, reports): (AppName, Vec<CredentialReport>)| {
        let shape = |report| CredentialShape::new(&app, report, replicas);
        let credentials: Vec<CredentialShape> = reports.into_iter().map(shape).collect();
        json!({ "app": app.as_str(), "credentials": credentials })
    };
    credentials.into_iter().map(shape).collect()
}

/// The store as it is shown.
pub(super) fn store_shape(lost: Option<StoreLost>) -> Value {
    match lost {
        None => json!({ "reachable": true }),
        Some(StoreLost { answered_at, cached_until }) => json!({
            "reachable": false,
            "answered_at": answered_at.rfc3339(),
            "cached_until": cached_until.rfc3339(),
        }),
    }
}

/// What ends, as it is shown.
pub(super) fn endings_shape(endings: &[Ending]) -> Vec<Value> {
    let shape = |one: &Ending| json!({ "what": one.what, "of": one.of, "id": one.id, "ends_at": one.at.map(Timestamp::rfc3339) });
    endings.iter().map(shape).collect()
}

/// Jobs as they are shown. `outcome` is null until the first run has ended.
pub(super) fn jobs_shape(jobs: &[JobReport]) -> Vec<Value> {
    let shape = |one: &JobReport| {
        let last = one.last_run.as_ref();
        json!({
            "job": one.job,
            "last_run_at": last.map(|run| run.at.rfc3339()),
            "outcome": last.map(|run| if run.result.is_ok() { "ok" } else { "failed" }),
            "problem": last.and_then(|run| run.result.as_ref().err()),
        })
    };
    jobs.iter().map(shape).collect()
}

/// A reload as it is shown.
pub(super) fn reloaded_shape(reloaded: &Reloaded) -> Value {
    let (outcome, changed, problems) = match &reloaded.result {
        Ok(changed) => ("ok", changed.as_slice(), [].as_slice()),
        Err(problems) => ("refused", [].as_slice(), problems.as_slice()),
    };
    json!({
        "outcome": outcome,
        "at": reloaded.at.rfc3339(),
        "asked_by": reloaded.asked_by,
        "changed": changed,
        "problems": problems,
        "not_fetched": reloaded.not_fetched,
        "held_back": reloaded.held_back,
    })
}

/// What was heard of a credential, as it is shown.
pub(super) fn verified_shape(verified: &Verified) -> Value {
    let (outcome, at, cause) = match &verified.heard {
        Heard::Accepted => ("accepted", None, None),
        Heard::AcceptedInUse(at) => ("accepted_in_use", Some(at.rfc3339()), None),
        Heard::Rejected(cause) => ("rejected", None, Some(cause)),
        Heard::Unknown(cause) => ("unknown", None, Some(cause)),
    };
    json!({ "id": verified.label, "outcome": outcome, "accepted_at": at, "cause": cause })
}
