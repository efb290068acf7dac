//! From what the daemon knows to the bodies of the answers.

use std::collections::BTreeMap;

use super::wire::{
    ApiKey, AppCredentials, ClientCredential, CredentialElsewhere, Ending, ForecastRow, Job, Keyring,
    Rejection, Reload, Replica, Rewrap, SealingKey, Store, TenantBlocked, VerifiedCredential, Webhook,
};
use crate::api::upkeep::{self, JobReport, Reloaded, StoreLost};
use crate::authority::CredentialReport;
use crate::broker::credentials::{self, Heard};
use crate::broker::replicas;
use crate::broker::rewrap::{Progress, ShownKeyring};
use crate::broker::tenant_blocks::BlockedTenant;
use crate::callers::KeyUse;
use crate::domain::choice::View;
use crate::domain::forecast;
use crate::domain::id::AppName;
use crate::domain::time::Timestamp;
use crate::notices::{Standing, State};

fn text(at: Option<Timestamp>) -> Option<String> {
    at.map(Timestamp::rfc3339)
}

/// Every app's credentials. `replicas` are all of them, where that could be looked up.
pub(super) fn apps(
    credentials: BTreeMap<AppName, Vec<CredentialReport>>,
    replicas: Option<&[replicas::Replica]>,
) -> Vec<AppCredentials> {
    let of_app = |(app, reports): (AppName, Vec<CredentialReport>)| {
        let credentials = reports.into_iter().map(|report| ClientCredential::new(&app, report, replicas));
        AppCredentials { credentials: credentials.collect(), app: app.to_string() }
    };
    credentials.into_iter().map(of_app).collect()
}

impl ClientCredential {
    fn new(app: &AppName, report: CredentialReport, replicas: Option<&[replicas::Replica]>) -> Self {
        let standing = report.standing;
        // Of those who know the app, and say what they know.
        let others =
            |replica: &&replicas::Replica| !replica.is_me && replica.report.credentials.contains_key(app);
        let view_of = |replica: &'_ replicas::Replica| {
            let mut views = replica.report.credentials.get(app).into_iter().flatten();
            views.find(|view| view.fingerprint == report.fingerprint).cloned()
        };
        let elsewhere: Option<Vec<(&replicas::Replica, Option<View>)>> = replicas.map(|replicas| {
            replicas.iter().filter(others).map(|replica| (replica, view_of(replica))).collect()
        });
        let uses = elsewhere.iter().flatten().filter_map(|(_, view)| view.as_ref()?.used_at);
        let used_at = uses.chain(standing.used_at).max();
        ClientCredential {
            accepted_at: text(standing.accepted_at),
            expires_at: text(standing.expires_at),
            id: report.label,
            in_use: report.in_use,
            kind: report.kind.to_owned(),
            last_used_at: text(used_at),
            promoted_at: text(standing.promoted_at),
            proven_by_use: standing.is_proven_by_use,
            rejection: standing.rejection.map(|no| Rejection {
                accepted_since: standing.accepted_in_a_row,
                at: no.at.rfc3339(),
                cause: no.cause,
                error_codes: no.codes,
                times: no.times,
            }),
            replicas: elsewhere.map(|elsewhere| {
                elsewhere
                    .into_iter()
                    .map(|(replica, view)| CredentialElsewhere::new(replica, view.as_ref()))
                    .collect()
            }),
            since: standing.since.rfc3339(),
            state: report.state.as_str().to_owned(),
            superseded_at: text(standing.superseded_at),
        }
    }
}

impl CredentialElsewhere {
    fn new(replica: &replicas::Replica, view: Option<&View>) -> Self {
        let absent = View { state: "absent".to_owned(), ..View::default() };
        let view = view.unwrap_or(&absent);
        CredentialElsewhere {
            in_use: view.in_use,
            last_used_at: text(view.used_at),
            replica: replica.name(),
            state: view.state.clone(),
        }
    }
}

impl From<&credentials::Verified> for VerifiedCredential {
    fn from(verified: &credentials::Verified) -> Self {
        let (outcome, at, cause) = match &verified.heard {
            Heard::Accepted => ("accepted", None, None),
            Heard::AcceptedInUse(at) => ("accepted_in_use", Some(*at), None),
            Heard::Rejected(cause) => ("rejected", None, Some(cause)),
            Heard::Unknown(cause) => ("unknown", None, Some(cause)),
        };
        VerifiedCredential {
            accepted_at: text(at),
            asked: verified.was_asked,
            cause: cause.cloned(),
            error_codes: verified.error_codes.clone(),
            id: verified.label.clone(),
            outcome: outcome.to_owned(),
            retired: verified.is_retired,
        }
    }
}

impl From<Option<StoreLost>> for Store {
    fn from(lost: Option<StoreLost>) -> Self {
        Store {
            answered_at: lost.map(|lost| lost.answered_at.rfc3339()),
            cached_until: lost.and_then(|lost| lost.cached_until).map(Timestamp::rfc3339),
            id: None,
            reachable: lost.is_none(),
        }
    }
}

impl From<&upkeep::Ending> for Ending {
    fn from(one: &upkeep::Ending) -> Self {
        Ending { ends_at: text(one.at), id: one.id.clone(), of: one.of.clone(), what: one.what.to_owned() }
    }
}

impl From<&BlockedTenant> for TenantBlocked {
    fn from(one: &BlockedTenant) -> Self {
        TenantBlocked {
            app: one.app.clone(),
            connections: one.block.connections,
            reason: one.block.reason.as_str().to_owned(),
            since: one.block.since.rfc3339(),
            tenant: one.tenant.clone(),
        }
    }
}

impl From<&Standing> for Webhook {
    fn from(standing: &Standing) -> Self {
        let (state, since, failures, problem) = match &standing.state {
            None => ("unknown", None, 0, None),
            Some(State::Takes) => ("takes", None, 0, None),
            Some(State::LeftOut) => ("left_out", None, 0, None),
            Some(State::Fails { since, failures, why }) => {
                ("fails", Some(*since), *failures, Some(why.clone()))
            }
            Some(State::Gone { since, failures }) => ("gone", Some(*since), *failures, None),
        };
        Webhook {
            failing_since: text(since),
            failures,
            name: standing.name.clone(),
            oldest_waiting_at: text(standing.oldest),
            problem,
            state: state.to_owned(),
            undelivered: standing.undelivered,
        }
    }
}

impl From<&forecast::Row> for ForecastRow {
    fn from(row: &forecast::Row) -> Self {
        ForecastRow {
            acts: row.reason.acts().to_owned(),
            app: row.app.clone(),
            certainty: row.certainty.as_str().to_owned(),
            connections: row.connections,
            detail: row.detail.clone(),
            examples: row.examples.clone(),
            from: row.from.rfc3339(),
            reason: row.reason.as_str().to_owned(),
            tenant: row.tenant.clone(),
            to: row.to.rfc3339(),
        }
    }
}

impl From<&JobReport> for Job {
    fn from(report: &JobReport) -> Self {
        let last = report.last_run.as_ref();
        let outcome = last.map(|run| if run.result.is_ok() { "ok" } else { "failed" });
        Job {
            job: report.job.to_owned(),
            last_run_at: last.map(|run| run.at.rfc3339()),
            outcome: outcome.map(str::to_owned),
            problem: last.and_then(|run| run.result.clone().err()),
        }
    }
}

impl From<Reloaded> for Reload {
    fn from(reloaded: Reloaded) -> Self {
        let (outcome, changed, problems) = match reloaded.result {
            Ok(changed) => ("ok", changed, Vec::new()),
            Err(problems) => ("refused", Vec::new(), problems),
        };
        Reload {
            asked_by: reloaded.asked_by.to_owned(),
            at: reloaded.at.rfc3339(),
            changed,
            held_back: reloaded.held_back,
            needs_restart: reloaded.needs_restart.into_iter().map(str::to_owned).collect(),
            not_fetched: reloaded.not_fetched,
            outcome: outcome.to_owned(),
            problems,
            warnings: reloaded.warnings,
        }
    }
}

impl Keyring {
    pub(super) fn new(shown: &ShownKeyring, left: u64) -> Self {
        let keys = shown.keys.iter().map(|key| {
            let named = |opens: bool| {
                let those =
                    |replica: &&replicas::Replica| replica.report.sealing.keys.contains_key(&key.id) == opens;
                shown.replicas.iter().filter(those).map(replicas::Replica::name).collect()
            };
            let counted = key.counted.as_ref();
            SealingKey {
                id: key.id.clone(),
                created_at: text(key.created_at),
                promoted_at: text(key.promoted_at),
                primary: key.is_primary,
                records: counted.map(|counted| counted.records),
                passing: counted.map(|counted| counted.passing),
                counted_at: counted.map(|counted| counted.at.rfc3339()),
                none_since: text(counted.and_then(|counted| counted.none_since)),
                counted_away: key.may_go,
                opened_by: named(true),
                not_opened_by: named(false),
            }
        });
        let Progress { is_running, waits_for, resealed, refused } = shown.progress.clone();
        // Another replica may have done what this one waited with.
        let waits_for = waits_for.filter(|_| left > 0);
        let rewrap = Rewrap { left, counts: shown.counts, running: is_running, waits_for, resealed, refused };
        let replicas = shown.replicas.iter().map(Replica::from);
        Keyring { keys: keys.collect(), replicas: replicas.collect(), rewrap }
    }
}

impl From<&replicas::Replica> for Replica {
    fn from(replicas::Replica { report, is_me }: &replicas::Replica) -> Self {
        Replica {
            id: report.id.clone(),
            host: report.host.clone(),
            version: report.version.clone(),
            reported_at: report.at.rfc3339(),
            primary: report.sealing.primary.clone(),
            keys: report.sealing.keys.keys().cloned().collect(),
            answers: *is_me,
        }
    }
}

impl From<KeyUse> for ApiKey {
    fn from(used: KeyUse) -> Self {
        ApiKey {
            created_at: used.key.created_at.rfc3339(),
            expires_at: used.key.expires_at.rfc3339(),
            id: used.key.id,
            last_used_at: text(used.last_used_at),
        }
    }
}
