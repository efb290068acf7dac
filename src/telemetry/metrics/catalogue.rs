//! Every metric of our own: name, type, labels and help. `docs/metrics.md` is made from it. The names in
//! product.md are a contract; the rest may change.

use prometheus::{Gauge, IntCounter, IntGauge};

use super::declare::{Counters, Declare, Gauges, Histograms, IntGauges, Register, metrics};
use crate::telemetry::series::Declared;

/// From a cache hit (tens of microseconds) to a caller's longest wait (15 s).
const REQUEST_BUCKETS: &[f64] = &[
    0.000_05, 0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0,
    15.0,
];
/// A call over the internet, to its deadline of 10 s and past it for what is made of several.
const AUTHORITY_BUCKETS: &[f64] = &[0.01, 0.025, 0.05, 0.1, 0.2, 0.4, 0.8, 1.5, 3.0, 5.0, 10.0, 20.0, 30.0];
/// From a map in memory to a Redis that times out.
const STORE_BUCKETS: &[f64] =
    &[0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5];

metrics! {
    /// All metrics of the process, but those that the `prometheus` crate has of every process.
    pub(super) struct Catalogue {
        /// Constant 1, labelled with the running version.
        build_info: IntGauges["version"],
        /// Looks into the token cache, by what came of them.
        token_cache_lookups_total: Counters["result"],
        /// Requests for a token, and what a stream pushed (dialect `watch`); outcome is ok or the error code
        /// that was answered.
        token_requests_total: Counters["app", "caller", "dialect", "outcome"],
        /// Time to answer a request for a token.
        token_request_duration_seconds: Histograms["dialect"] in REQUEST_BUCKETS,
        /// Requests relayed to an app's bases, by the resource's answer; `throttled` is 429 and 503,
        /// `relay_failed` no answer, `caller_gone` a caller that did not wait for it, `resource_full` no
        /// place on the way there.
        relay_requests_total: Counters["app", "outcome"],
        /// Time from the sending of a relayed request to the head of its answer.
        relay_request_duration_seconds: Histograms["app"] in AUTHORITY_BUCKETS,
        /// Waits of relayed requests for a turn at their mailbox; outcome is begun, mailbox_busy or
        /// caller_gone. And turns that were taken_back, because their caller was slow and others waited.
        relay_turns_total: Counters["app", "outcome"],
        /// Relayed requests that wait for a turn at their mailbox now.
        relay_turns_waiting: IntGauge,
        /// How long relayed requests waited for a turn at their mailbox, in vain or not.
        relay_turn_wait_seconds: Histograms["app"] in REQUEST_BUCKETS,
        /// Handles that callers made for a part of their relay.
        handles_made_total: Counters["app", "caller"],
        /// Handles that live, as far as this replica knows: it made them, or they were used here.
        handles_live: IntGauges["app", "caller"],
        /// Open streams of tokens (`…/token/watch`).
        token_streams: IntGauge,
        /// Requests that were answered 429 because their caller is over its rate, of every route.
        requests_over_rate_total: Counters["caller"],
        /// 1 while there are so many apps, callers and outcomes that more of them are counted under
        /// `unknown`, so that the page stays small enough to be scraped.
        metrics_full: IntGauge,
        /// Refreshes of a grant at the authority, by outcome.
        refreshes_total: Counters["app", "outcome"],
        /// Time from the decision to refresh until the result is stored.
        refresh_duration_seconds: Histograms["app"] in AUTHORITY_BUCKETS,
        /// 1 while the store answers; at 0 cached tokens are served for `serve_cached_for`, and nothing
        /// else.
        store_reachable: IntGauge,
        /// Sixteenths of the background refreshing that are this replica's.
        sweep_shards: IntGauge,
        /// Refreshes begun before anybody asked.
        sweep_refreshes_total: IntCounter,
        /// 1 while connections are due for which the background's budget does not suffice.
        sweep_waiting: IntGauge,
        /// When the background last looked for what is due.
        sweep_last_success_timestamp_seconds: Gauge,
        /// Attempts to import a grant of another system; outcome is imported, replaced, already_imported or
        /// the error code that was answered.
        imports_total: Counters["app", "outcome"],
        /// Verdicts of the authority that changed a connection.
        verdicts_total: Counters["app", "status", "reason"],
        /// Attempts to get the right to refresh a connection; held means another replica was first.
        lease_attempts_total: Counters["result"],
        /// Calls to authorities that no caller without a token waits for, by cause; result is begun, or
        /// put_off because a budget was used up.
        upstream_budget_total: Counters["cause", "result"],
        /// Connections by status, as far as they are known: kept by the replicas, and corrected by a slow
        /// walk.
        connections: IntGauges["app", "status"],
        /// Connections for which somebody will have to act within seven days, by reason, as the last walk
        /// over all connections foresaw; a connection may count under several reasons.
        forecast_connections: IntGauges["app", "reason"],
        /// Tenants that block the app: many of their connections are refused for one reason, and none works.
        tenants_blocked: IntGauges["app"],
        /// Seconds until a client credential expires; negative once it has.
        credential_expiry_seconds: Gauges["app", "credential"],
        /// 1 for a client secret of which nobody said when it expires: no alert will come before it does.
        credential_expiry_unknown: IntGauges["app", "credential"],
        /// 1 for the state that a client credential is in, and for in_use where it is tried first; 0 for the
        /// others.
        credential_state: IntGauges["app", "credential", "state"],
        /// When a client credential was last used at the authority.
        credential_last_used_timestamp_seconds: Gauges["app", "credential"],
        /// Seconds until a listener's certificate expires; negative once it has.
        tls_certificate_expiry_seconds: Gauges["listener"],
        /// Seconds until the first authority in a listener's client_ca expires; negative once it has.
        tls_client_ca_expiry_seconds: Gauges["listener"],
        /// Seconds until the first list in a listener's client_crl is out of date; negative once it is, and
        /// then every certificate of its authority is refused.
        tls_client_crl_expiry_seconds: Gauges["listener"],
        /// Seconds until a caller's API key expires; negative once it has.
        caller_key_expiry_seconds: Gauges["caller", "key"],
        /// When a caller's API key, or a key by which it signs its own assertions (`key` is its `kid`), was
        /// last accepted.
        caller_key_last_used_timestamp_seconds: Gauges["caller", "key"],
        /// Stored records that need this sealing key to be opened, at the last count; remove a key only with
        /// `tokenward keyring retire`, which counts anew.
        sealing_key_records: IntGauges["key"],
        /// When a sealing key was made.
        sealing_key_created_timestamp_seconds: Gauges["key"],
        /// When a sealing key last sealed or opened a record.
        sealing_key_last_used_timestamp_seconds: Gauges["key"],
        /// 1 for the sealing key that seals, 0 for those that only open.
        sealing_key_primary: IntGauges["key"],
        /// Requests to an authority, by endpoint and outcome.
        authority_requests_total: Counters["app", "endpoint", "outcome"],
        /// Time of a request to an authority.
        authority_request_duration_seconds: Histograms["app", "endpoint"] in AUTHORITY_BUCKETS,
        /// Fetches of the keys of an issuer of callers' JWTs; outcome is ok or failed. The keys from before
        /// stay in use.
        issuer_keys_fetches_total: Counters["issuer", "outcome"],
        /// When the keys of an issuer of callers' JWTs were last fetched.
        issuer_keys_last_success_timestamp_seconds: Gauges["issuer"],
        /// Requests to a webhook; outcome is delivered, refused (3xx and 4xx), failed or unreachable.
        webhook_deliveries_total: Counters["webhook", "outcome"],
        /// Events that a webhook did not take for three days, and that are not tried any more.
        webhook_undelivered_total: Counters["webhook"],
        /// Age of the oldest event that a webhook has not taken; 0 without one, and on replicas that do not
        /// deliver.
        webhook_backlog_age_seconds: Gauges["webhook"],
        /// Events that a webhook has not taken; behind one that fails, those are counted too that are for
        /// others. 0 on replicas that do not deliver.
        webhook_backlog_events: IntGauges["webhook"],
        /// Time of an operation of the store, failed ones included.
        store_operation_duration_seconds: Histograms["operation"] in STORE_BUCKETS,
        /// Operations of the store that failed.
        store_errors_total: Counters["operation"],
        /// 1 while the store is not as it must be, though it serves: it evicts, keeps nothing on disk, has no
        /// replica, or does not tell.
        store_risk: IntGauges["risk"],
        /// 1 while what a file of the store's password, the sentinels' or TLS holds is refused or cannot be
        /// used, and the one before is in use.
        store_login_refused: IntGauges["secret"],
        /// Since when what such a file holds is in use on every connection; the one before may be taken away.
        store_login_taken_timestamp_seconds: Gauges["secret"],
        /// Seconds until a certificate for the store expires: the client's own, or the last of the
        /// authorities that the store is checked against; negative once it has.
        store_certificate_expiry_seconds: Gauges["certificate"],
        /// Reloads of configuration and secrets; one that failed changed nothing.
        config_reloads_total: Counters["outcome"],
        /// When configuration and secrets were last read successfully.
        config_last_reload_timestamp_seconds: Gauge,
        /// When a job that the daemon does at intervals last ended a run.
        job_last_run_timestamp_seconds: Gauges["job_name"],
        /// 1 if the last run of a job did all that it was to do, else 0; `tokenward status` has the reason.
        job_last_run_successful: IntGauges["job_name"],
        /// Audit records that no sink took, or not before their request was answered.
        audit_lost_total: IntCounter,
        /// Audit records that a sink took.
        audit_records_total: Counters["sink"],
        /// Audit records that a sink did not take, or not in time.
        audit_records_lost_total: Counters["sink"],
        /// 1 while a sink of the audit takes no records: its last write failed, or does not end.
        audit_sink_failing: IntGauges["sink"],
        /// Signed checkpoints of the audit that a sink took; none without `audit.signing_key`.
        audit_checkpoints_total: Counters["sink"],
        /// Signed checkpoints of the audit that a sink did not take; the next one signs the same records.
        audit_checkpoints_failed_total: Counters["sink"],
        /// Records in a sink of the audit since its last signed checkpoint; 0 without `audit.signing_key`.
        audit_unsigned_records: IntGauges["sink"],
        /// Refusals that are in the audit stream as part of a sum only: more of one kind within a second than
        /// are told one by one.
        audit_suppressed_total: IntCounter,
        /// Requests without valid credentials, or with credentials that give no right, by reason.
        strangers_refused_total: Counters["reason"],
        /// Looks at stored records that cannot be used: damaged, tampered with, or sealed with a key that is
        /// missing.
        record_damage_total: Counters["kind"],
        /// Requests answered, by listener and status.
        http_requests_total: Counters["listener", "status"],
        /// Open connections.
        http_connections: IntGauges["listener"],
        /// Connections accepted, by what they speak: http1 or http2.
        http_connections_accepted_total: Counters["listener", "protocol"],
        /// Connections closed before a request came through, by reason.
        http_connections_refused_total: Counters["listener", "reason"],
        /// Spans of traces that the collector took.
        spans_exported_total: IntCounter,
        /// Spans that were given up, by reason: queue_full, unreachable, refused or stopped. No request waits
        /// for them.
        spans_dropped_total: Counters["reason"],
        /// Panics caught while handling a request; each is a bug.
        panics_total: IntCounter,
    }
}

#[cfg(test)]
mod tests;
