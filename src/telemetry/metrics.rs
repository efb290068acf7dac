//! What happens, as changes of metrics: a method for each event. The metrics are declared in `catalogue`.
//!
//! Invariants:
//! 1. Labels are names that are configured now, or words of the code, never text of a request (`series`).
//! 2. The time until an expiry is worked out when the page is read, so it is never stale.
//! 3. Metrics that a hot path needs are looked up once ([`TokenRequestHandles`], [`ListenerMetrics`]).

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use prometheus::process_collector::ProcessCollector;
use prometheus::proto::MetricFamily;
use prometheus::{IntCounter, Registry, TextEncoder};

use self::catalogue::Catalogue;
use self::declare::Register;
use self::expiries::{Expiries, Expiring};
pub use self::handles::{
    AuditSinkMetrics, ConnectionRefusal, ListenerMetrics, Protocol, SpanMetrics, TokenRequestHandles,
    Undelivered,
};
use crate::domain::cause::Cause;
use crate::domain::connection::Status;
use crate::domain::credential::CredentialState;
use crate::domain::id::{AppName, CallerName};
use crate::domain::time::Timestamp;
use crate::domain::verdict::{BlockReason, Disposition, ReauthReason};
use crate::telemetry::series::{Ends, Known, Label, Names, UNKNOWN};

mod catalogue;
mod declare;
mod expiries;
mod handles;
mod openmetrics;

pub use self::openmetrics::CONTENT_TYPE as OPENMETRICS;

/// Result of a lookup in the token cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CacheResult {
    /// A token with enough life left.
    Hit,
    /// No token.
    Miss,
    /// A token with too little life left.
    Stale,
}

/// Result of a request for a lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LeaseResult {
    /// This replica got it.
    Acquired,
    /// Another replica has it.
    Held,
    /// The store could not be reached.
    Unreachable,
    /// This replica had it, and lost it before the work was done.
    Lost,
}

impl LeaseResult {
    const ALL: [LeaseResult; 4] =
        [LeaseResult::Acquired, LeaseResult::Held, LeaseResult::Unreachable, LeaseResult::Lost];

    fn as_str(self) -> &'static str {
        match self {
            LeaseResult::Acquired => "acquired",
            LeaseResult::Held => "held",
            LeaseResult::Unreachable => "unreachable",
            LeaseResult::Lost => "lost",
        }
    }
}

/// All metrics of the process, with the registry they live in.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    known: Arc<Known>,
    families: Vec<Box<dyn Ends>>,
    all: Catalogue,
    cache_hits: IntCounter,
    cache_misses: IntCounter,
    cache_stale: IntCounter,
    expiries: Expiries,
}

impl Metrics {
    /// All metrics at zero; `version` goes into `build_info`.
    pub fn new(version: &'static str) -> Self {
        let mut register = Register::default();
        let all = Catalogue::register(&mut register);
        let Register { registry, known, families } = register;
        registry.register(Box::new(ProcessCollector::for_self())).expect("every name is registered once");
        all.build_info.with(&[Label::Word(version)]).set(1);
        let [cache_hits, cache_misses, cache_stale] =
            ["hit", "miss", "stale"].map(|result| all.token_cache_lookups_total.with(&[Label::Word(result)]));
        let expiries = Expiries::default();
        // A series that appears with its first event hides that event from rate(): known ones begin at 0.
        for result in LeaseResult::ALL {
            all.lease_attempts_total.with(&[Label::Word(result.as_str())]);
        }
        for cause in Cause::ALL {
            for result in ["begun", "put_off"] {
                all.upstream_budget_total.with(&[Label::Word(cause.as_str()), Label::Word(result)]);
            }
        }
        for outcome in ["ok", "failed"] {
            all.config_reloads_total.with(&[Label::Word(outcome)]);
        }
        Metrics { registry, known, families, all, cache_hits, cache_misses, cache_stale, expiries }
    }

    /// Changes the configured names. Series of removed names end.
    pub fn rename(&self, change: impl FnOnce(&mut Names)) {
        if !self.known.change(change) {
            return;
        }
        self.expiries.end_what_is_gone(&self.known);
        self.families.iter().for_each(|family| family.end_what_is_gone());
    }

    /// Returns true if a caller's requests for an app have series of their own.
    pub fn knows(&self, app: &AppName, caller: &CallerName) -> bool {
        self.known.has(Label::App(app)) && self.known.has(Label::Caller(caller))
    }

    /// Returns the page of metrics at this moment, in Prometheus' text format.
    pub fn encode(&self, now: Timestamp) -> String {
        let mut text = String::with_capacity(32 * 1024);
        TextEncoder::new()
            .encode_utf8(&self.gather(now), &mut text)
            .expect("writing to a string does not fail, and every family has a series");
        text
    }

    /// Returns the page of metrics at this moment, in OpenMetrics 1.0 and with exemplars.
    pub fn encode_openmetrics(&self, now: Timestamp) -> String {
        let families = self.gather(now);
        openmetrics::text(&families, self.families.iter().flat_map(|family| family.exemplars()))
    }

    fn gather(&self, now: Timestamp) -> Vec<MetricFamily> {
        self.expiries.show(&self.all, now);
        self.all.metrics_full.set(self.known.is_full().into());
        self.registry.gather()
    }

    /// Returns the requests for tokens and the requests to authorities since the start, summed up by outcome.
    pub fn by_outcome(&self) -> (BTreeMap<String, u64>, BTreeMap<String, u64>) {
        (self.all.token_requests_total.sums("outcome"), self.all.authority_requests_total.sums("outcome"))
    }

    /// Starts the series of all operations of a store at 0.
    pub fn expect_store_operations(&self, operations: &[&'static str]) {
        for operation in operations {
            let _at_zero = self.all.store_errors_total.with(&[Label::Word(operation)]);
            let _at_zero = self.all.store_operation_duration_seconds.with(&[Label::Word(operation)]);
        }
    }

    /// Starts the series of an app at 0, so that the first event of each is an increase. Its authority has
    /// these endpoints.
    pub fn expect_app(&self, app: &AppName, endpoints: &[&'static str]) {
        let app = Label::App(app);
        let outcomes = || Disposition::WORDS.iter().copied().chain(["ok"]).map(Label::Word);
        let _at_zero = self.all.refresh_duration_seconds.with(&[app]);
        for outcome in outcomes() {
            let _at_zero = self.all.refreshes_total.with(&[app, outcome]);
        }
        for endpoint in endpoints.iter().copied().map(Label::Word) {
            let _at_zero = self.all.authority_request_duration_seconds.with(&[app, endpoint]);
            for outcome in outcomes() {
                let _at_zero = self.all.authority_requests_total.with(&[app, endpoint, outcome]);
            }
        }
        let active = (Status::Active.as_str(), "none");
        let reauthorize = ReauthReason::WORDS.iter().map(|reason| ("needs_reauthorization", *reason));
        let blocked = BlockReason::WORDS.iter().map(|reason| ("blocked", *reason));
        for (status, reason) in reauthorize.chain(blocked).chain([active]) {
            let _at_zero = self.all.verdicts_total.with(&[app, Label::Word(status), Label::Word(reason)]);
        }
    }

    /// Starts the series of an app's relayed requests and of their turns at 0, for these outcomes.
    pub fn expect_relayed(&self, app: &AppName, outcomes: &[&'static str], of_turns: &[&'static str]) {
        let _at_zero = self.all.relay_request_duration_seconds.with(&[Label::App(app)]);
        let _at_zero = self.all.relay_turn_wait_seconds.with(&[Label::App(app)]);
        for outcome in outcomes {
            let _at_zero = self.all.relay_requests_total.with(&[Label::App(app), Label::Word(outcome)]);
        }
        for outcome in of_turns {
            let _at_zero = self.all.relay_turns_total.with(&[Label::App(app), Label::Word(outcome)]);
        }
    }

    /// A relayed request waits for its turn.
    pub fn waits_for_turn(&self) {
        self.all.relay_turns_waiting.inc();
    }

    /// A relayed request needs no turn.
    pub fn needs_no_turn(&self) {
        self.all.relay_turns_waiting.dec();
    }

    /// A relayed request no longer waits for its turn.
    pub fn waited_for_turn(&self, app: &AppName, outcome: &'static str, waited: Duration) {
        self.all.relay_turns_waiting.dec();
        self.all.relay_turns_total.with(&[Label::App(app), Label::Word(outcome)]).inc();
        self.all.relay_turn_wait_seconds.with(&[Label::App(app)]).observe(waited.as_secs_f64());
    }

    /// A relayed request has lost its turn.
    pub fn turn_taken_back(&self, app: &AppName, outcome: &'static str) {
        self.all.relay_turns_total.with(&[Label::App(app), Label::Word(outcome)]).inc();
    }

    /// A relayed request has ended, or its answer has begun.
    pub fn relayed(&self, app: &AppName, outcome: &'static str, duration: Duration) {
        self.all.relay_requests_total.with(&[Label::App(app), Label::Word(outcome)]).inc();
        self.all.relay_request_duration_seconds.with(&[Label::App(app)]).observe(duration.as_secs_f64());
    }

    /// Starts the series of a caller's handles for an app at 0.
    pub fn expect_handles(&self, app: &AppName, caller: &CallerName) {
        let _at_zero = self.all.handles_made_total.with(&[Label::App(app), Label::Caller(caller)]);
        let _at_zero = self.all.handles_live.with(&[Label::App(app), Label::Caller(caller)]);
    }

    /// A caller made a handle.
    pub fn handle_made(&self, app: &AppName, caller: &CallerName) {
        self.all.handles_made_total.with(&[Label::App(app), Label::Caller(caller)]).inc();
    }

    /// So many handles of a caller live.
    pub fn handles_live(&self, app: &AppName, caller: &CallerName, count: u64) {
        let count = i64::try_from(count).unwrap_or(i64::MAX);
        self.all.handles_live.with(&[Label::App(app), Label::Caller(caller)]).set(count);
    }

    /// A stream of tokens is open.
    pub fn token_stream_opened(&self) {
        self.all.token_streams.inc();
    }

    /// A stream of tokens is over.
    pub fn token_stream_closed(&self) {
        self.all.token_streams.dec();
    }

    /// Returns the metrics of one caller's requests for one app's tokens in one dialect, to be kept.
    pub fn token_request_handles(
        &self,
        app: &AppName,
        caller: &CallerName,
        dialect: &'static str,
    ) -> TokenRequestHandles {
        TokenRequestHandles::new(&self.all, app, caller, dialect)
    }

    /// A request for a token was answered; `outcome` is `ok` or the error's code. An unknown caller, or an
    /// app that is not configured, is `unknown`. A hot path takes [`Metrics::token_request_handles`] instead.
    pub fn token_request(
        &self,
        app: Option<&AppName>,
        caller: Option<&CallerName>,
        dialect: &'static str,
        outcome: &'static str,
        duration: Duration,
    ) {
        let app = app.map_or(Label::Word(UNKNOWN), Label::App);
        let caller = caller.map_or(Label::Word(UNKNOWN), Label::Caller);
        self.all.token_requests_total.with(&[app, caller, Label::Word(dialect), Label::Word(outcome)]).inc();
        self.all.token_request_duration_seconds.with(&[Label::Word(dialect)]).observe(duration.as_secs_f64());
    }

    /// Starts the series of an issuer of callers' JWTs at 0.
    pub fn expect_issuer(&self, issuer: &str) {
        for outcome in ["ok", "failed"] {
            let labels = [Label::Issuer(issuer), Label::Word(outcome)];
            let _at_zero = self.all.issuer_keys_fetches_total.with(&labels);
        }
    }

    /// Starts the series of a webhook at 0, for these outcomes.
    pub fn expect_webhook(&self, webhook: &str, outcomes: &[&'static str]) {
        let label = Label::Webhook(webhook);
        for outcome in outcomes {
            let _at_zero = self.all.webhook_deliveries_total.with(&[label, Label::Word(outcome)]);
        }
        let _at_zero = self.all.webhook_undelivered_total.with(&[label]);
        self.webhook_backlog(webhook, Duration::ZERO, 0);
    }

    /// A request to a webhook ended.
    pub fn webhook_delivery(&self, webhook: &str, outcome: &'static str) {
        self.all.webhook_deliveries_total.with(&[Label::Webhook(webhook), Label::Word(outcome)]).inc();
    }

    /// So many events will never be delivered to a webhook.
    pub fn webhook_undelivered(&self, webhook: &str, count: u64) {
        self.all.webhook_undelivered_total.with(&[Label::Webhook(webhook)]).inc_by(count);
    }

    /// The age of the oldest event that a webhook has not taken.
    pub fn webhook_backlog(&self, webhook: &str, oldest: Duration, events: u64) {
        let label = Label::Webhook(webhook);
        self.all.webhook_backlog_age_seconds.with(&[label]).set(oldest.as_secs_f64());
        let events = i64::try_from(events).unwrap_or(i64::MAX);
        self.all.webhook_backlog_events.with(&[label]).set(events);
    }

    /// A fetch of an issuer's keys ended.
    pub fn issuer_keys_fetched(&self, issuer: &str, at: Timestamp, is_ok: bool) {
        let label = Label::Issuer(issuer);
        let outcome = Label::Word(if is_ok { "ok" } else { "failed" });
        self.all.issuer_keys_fetches_total.with(&[label, outcome]).inc();
        if is_ok {
            self.all.issuer_keys_last_success_timestamp_seconds.with(&[label]).set(seconds(at));
        }
    }

    /// Starts the series of a caller at 0.
    pub fn expect_caller(&self, caller: &CallerName) {
        let _at_zero = self.all.requests_over_rate_total.with(&[Label::Caller(caller)]);
    }

    /// A caller's request was refused because its requests come too fast.
    pub fn over_its_rate(&self, caller: &CallerName) {
        self.all.requests_over_rate_total.with(&[Label::Caller(caller)]).inc();
    }

    /// A token was looked up in the cache.
    pub fn cache_lookup(&self, result: CacheResult) {
        match result {
            CacheResult::Hit => self.cache_hits.inc(),
            CacheResult::Miss => self.cache_misses.inc(),
            CacheResult::Stale => self.cache_stale.inc(),
        }
    }

    /// A refresh ended; `outcome` is `ok` or a disposition's word.
    pub fn refresh(&self, app: &AppName, outcome: &'static str, duration: Duration) {
        self.all.refreshes_total.with(&[Label::App(app), Label::Word(outcome)]).inc();
        self.all.refresh_duration_seconds.with(&[Label::App(app)]).observe(duration.as_secs_f64());
    }

    /// Starts the series of an app's imports at 0.
    pub fn expect_imports(&self, app: &AppName, outcomes: &[&'static str]) {
        for outcome in outcomes {
            let _at_zero = self.all.imports_total.with(&[Label::App(app), Label::Word(outcome)]);
        }
    }

    /// An attempt to import a grant ended; `outcome` is a word of the import, or the error code.
    pub fn imported(&self, app: &AppName, outcome: &'static str) {
        self.all.imports_total.with(&[Label::App(app), Label::Word(outcome)]).inc();
    }

    /// The store answers, or does not.
    pub fn store_reachable(&self, reachable: bool) {
        self.all.store_reachable.set(reachable.into());
    }

    /// A round of the sweep ended; `made_at` is `None` if it did not see everything.
    pub fn swept(&self, shards: u32, begun: u32, waiting: bool, made_at: Option<Timestamp>) {
        self.all.sweep_shards.set(shards.into());
        self.all.sweep_refreshes_total.inc_by(begun.into());
        self.all.sweep_waiting.set(waiting.into());
        if let Some(at) = made_at {
            self.all.sweep_last_success_timestamp_seconds.set(at.unix_millis() as f64 / 1000.0);
        }
    }

    /// A verdict of the authority changed a connection.
    pub fn verdict(&self, app: &AppName, status: &'static str, reason: &'static str) {
        self.all.verdicts_total.with(&[Label::App(app), Label::Word(status), Label::Word(reason)]).inc();
    }

    /// A lease was requested, or lost.
    pub fn lease_attempt(&self, result: LeaseResult) {
        self.all.lease_attempts_total.with(&[Label::Word(result.as_str())]).inc();
    }

    /// A call that needs the shared budget was begun, or was put off.
    pub fn upstream_budget(&self, cause: Cause, is_begun: bool) {
        let result = if is_begun { "begun" } else { "put_off" };
        self.all.upstream_budget_total.with(&[Label::Word(cause.as_str()), Label::Word(result)]).inc();
    }

    /// Sets the number of an app's connections in each status. `counts` names every status, also those at 0.
    pub fn connections_by_status(&self, app: &AppName, counts: &[(&'static str, u64)]) {
        for (status, count) in counts {
            let count = i64::try_from(*count).unwrap_or(i64::MAX);
            self.all.connections.with(&[Label::App(app), Label::Word(status)]).set(count);
        }
    }

    /// An app has no connections any more.
    pub fn connections_gone(&self, app: &AppName, statuses: &[&'static str]) {
        for status in statuses {
            self.all.connections.end(&[Label::App(app), Label::Word(status)]);
        }
    }

    /// Sets for how many of an app's connections somebody will have to act, for this reason.
    pub fn foreseen(&self, app: &AppName, reason: &'static str, connections: u64) {
        let count = i64::try_from(connections).unwrap_or(i64::MAX);
        self.all.forecast_connections.with(&[Label::App(app), Label::Word(reason)]).set(count);
    }

    /// An app is not looked at any more.
    pub fn foreseen_gone(&self, app: &AppName, reasons: &[&'static str]) {
        for reason in reasons {
            self.all.forecast_connections.end(&[Label::App(app), Label::Word(reason)]);
        }
    }

    /// Sets how many tenants block an app.
    pub fn tenants_blocked(&self, app: &AppName, tenants: u64) {
        let count = i64::try_from(tenants).unwrap_or(i64::MAX);
        self.all.tenants_blocked.with(&[Label::App(app)]).set(count);
    }

    /// An app has no tenants any more.
    pub fn tenants_gone(&self, app: &AppName) {
        self.all.tenants_blocked.end(&[Label::App(app)]);
    }

    /// Sets when a client credential expires; `None` if that is unknown, or it never does.
    pub fn credential_expiry(&self, app: &AppName, credential: &str, at: Option<Timestamp>) {
        self.expiries.set(Expiring::Credential(app.clone(), credential.to_owned()), at);
        if at.is_none() {
            self.all.credential_expiry_seconds.end(&credential_labels(app, credential));
        }
    }

    /// Sets whether a client credential expires at an unknown time.
    pub fn credential_expiry_unknown(&self, app: &AppName, credential: &str, is_unknown: bool) {
        self.all.credential_expiry_unknown.with(&credential_labels(app, credential)).set(is_unknown.into());
    }

    /// Sets the state of a client credential, and whether it is the first choice. A credential that expires
    /// soon can be the first choice too.
    pub fn credential_state(&self, app: &AppName, credential: &str, state: CredentialState, in_use: bool) {
        for each in CredentialState::ALL {
            let holds = each == state || (each == CredentialState::InUse && in_use);
            let [app, credential] = credential_labels(app, credential);
            let labels = [app, credential, Label::Word(each.as_str())];
            self.all.credential_state.with(&labels).set(i64::from(holds));
        }
    }

    /// Sets when a client credential was last used; `None` if this process knows of no use.
    pub fn credential_used(&self, app: &AppName, credential: &str, at: Option<Timestamp>) {
        let labels = credential_labels(app, credential);
        match at {
            Some(at) => self.all.credential_last_used_timestamp_seconds.with(&labels).set(seconds(at)),
            None => self.all.credential_last_used_timestamp_seconds.end(&labels),
        }
    }

    /// Sets when a listener's certificate expires; for several listeners of one name, the earliest end.
    pub fn tls_certificate_expiry(&self, listener: &'static str, at: Timestamp) {
        self.expiries.set(Expiring::TlsCertificate(listener), Some(at));
    }

    /// Sets when the first authority of clients' certificates at listeners of this name expires; `None` if
    /// there is none.
    pub fn tls_client_ca_expiry(&self, listener: &'static str, at: Option<Timestamp>) {
        self.expiries.set(Expiring::TlsClientCa(listener), at);
        if at.is_none() {
            self.all.tls_client_ca_expiry_seconds.end(&[Label::Word(listener)]);
        }
    }

    /// Sets when the first revocation list of clients' certificates at listeners of this name is out of date;
    /// `None` if there is none.
    pub fn tls_client_crl_expiry(&self, listener: &'static str, at: Option<Timestamp>) {
        self.expiries.set(Expiring::TlsClientCrl(listener), at);
        if at.is_none() {
            self.all.tls_client_crl_expiry_seconds.end(&[Label::Word(listener)]);
        }
    }

    /// Sets when a caller's API key expires.
    pub fn caller_key_expiry(&self, caller: &CallerName, key: &str, at: Timestamp) {
        self.expiries.set(Expiring::CallerKey(caller.clone(), key.to_owned()), Some(at));
    }

    /// A caller's API key was accepted.
    pub fn caller_key_used(&self, caller: &CallerName, key: &str, at: Timestamp) {
        self.all
            .caller_key_last_used_timestamp_seconds
            .with(&caller_key_labels(caller, key))
            .set(seconds(at));
    }

    /// Sets how many records need each sealing key, and which key is the primary. All keys that are not in
    /// the keyring share one series, because anyone who can write to the store can invent names.
    pub fn sealing_keys<'a>(&self, keys: impl Iterator<Item = (&'a str, u64, bool)>) {
        let mut unknown = 0_u64;
        for (key, records, is_primary) in keys {
            let label = Label::SealingKey(key);
            if !self.known.has(label) {
                unknown += records;
                continue;
            }
            self.all.sealing_key_records.with(&[label]).set(i64::try_from(records).unwrap_or(i64::MAX));
            self.all.sealing_key_primary.with(&[label]).set(i64::from(is_primary));
        }
        let label = [Label::Word(UNKNOWN)];
        self.all.sealing_key_records.with(&label).set(i64::try_from(unknown).unwrap_or(i64::MAX));
    }

    /// Sets when a sealing key of the keyring was made.
    pub fn sealing_key_created(&self, key: &str, at: Timestamp) {
        self.all.sealing_key_created_timestamp_seconds.with(&[Label::SealingKey(key)]).set(seconds(at));
    }

    /// A sealing key sealed or opened a record.
    pub fn sealing_key_used(&self, key: &str, at: Timestamp) {
        self.all.sealing_key_last_used_timestamp_seconds.with(&[Label::SealingKey(key)]).set(seconds(at));
    }

    /// A request to an authority ended; `outcome` is `ok` or a disposition's word.
    pub fn authority_request(
        &self,
        app: &AppName,
        endpoint: &'static str,
        outcome: &'static str,
        duration: Duration,
    ) {
        let (app, endpoint) = (Label::App(app), Label::Word(endpoint));
        self.all.authority_requests_total.with(&[app, endpoint, Label::Word(outcome)]).inc();
        self.all.authority_request_duration_seconds.with(&[app, endpoint]).observe(duration.as_secs_f64());
    }

    /// An operation of the store ended.
    pub fn store_operation(&self, operation: &'static str, duration: Duration, error: bool) {
        let operation = [Label::Word(operation)];
        self.all.store_operation_duration_seconds.with(&operation).observe(duration.as_secs_f64());
        if error {
            self.all.store_errors_total.with(&operation).inc();
        }
    }

    /// Sets whether the store is at this risk.
    pub fn store_risk(&self, risk: &'static str, is_there: bool) {
        self.all.store_risk.with(&[Label::Word(risk)]).set(is_there.into());
    }

    /// The store refuses the secret that a file has, or the secret is in use since then.
    pub fn store_login(&self, secret: &'static str, is_refused: bool, since: Timestamp) {
        self.all.store_login_refused.with(&[Label::Word(secret)]).set(is_refused.into());
        if !is_refused {
            self.all.store_login_taken_timestamp_seconds.with(&[Label::Word(secret)]).set(seconds(since));
        }
    }

    /// Sets when a certificate for the store's TLS expires: `client` or `ca`.
    pub fn store_certificate_expiry(&self, certificate: &'static str, at: Timestamp) {
        self.expiries.set(Expiring::StoreCertificate(certificate), Some(at));
    }

    /// A configuration is in force since `at`; `None` if it was refused.
    pub fn config_reload(&self, at: Option<Timestamp>) {
        self.all.config_reloads_total.with(&[Label::Word(if at.is_some() { "ok" } else { "failed" })]).inc();
        if let Some(at) = at {
            self.all.config_last_reload_timestamp_seconds.set(seconds(at));
        }
    }

    /// A run of a job ended.
    pub fn job_ended(&self, job: &'static str, at: Timestamp, is_success: bool) {
        let job = [Label::Word(job)];
        self.all.job_last_run_timestamp_seconds.with(&job).set(seconds(at));
        self.all.job_last_run_successful.with(&job).set(is_success.into());
    }

    /// Counts of a sink of the audit; `is_only` where there is no other.
    pub fn audit_sink(&self, sink: &str, is_only: bool) -> AuditSinkMetrics {
        AuditSinkMetrics::new(&self.all, sink, is_only)
    }

    /// Audit records were taken by no sink.
    pub fn audit_lost(&self, records: u64) {
        self.all.audit_lost_total.inc_by(records);
    }

    /// Audit records were replaced by a sum.
    pub fn audit_suppressed(&self, records: u64) {
        self.all.audit_suppressed_total.inc_by(records);
    }

    /// Starts the series of all reasons to refuse strangers at 0.
    pub fn expect_strangers(&self, reasons: impl Iterator<Item = &'static str>) {
        for reason in reasons {
            let _at_zero = self.all.strangers_refused_total.with(&[Label::Word(reason)]);
        }
    }

    /// A stranger was refused.
    pub fn stranger_refused(&self, reason: &'static str) {
        self.all.strangers_refused_total.with(&[Label::Word(reason)]).inc();
    }

    /// Starts the series of all kinds of records at 0.
    pub fn expect_damage(&self, kinds: impl Iterator<Item = &'static str>) {
        for kind in kinds {
            let _at_zero = self.all.record_damage_total.with(&[Label::Word(kind)]);
        }
    }

    /// A stored record of this kind cannot be used.
    pub fn record_damaged(&self, kind: &'static str) {
        self.all.record_damage_total.with(&[Label::Word(kind)]).inc();
    }

    /// A panic was caught while a request was handled.
    pub fn panicked(&self) {
        self.all.panics_total.inc();
    }

    /// Returns the metrics of spans, to be kept.
    pub fn spans(&self) -> SpanMetrics {
        SpanMetrics::new(&self.all)
    }

    /// Returns the metrics of one listener, to be kept.
    pub fn listener(&self, listener: &'static str) -> ListenerMetrics {
        ListenerMetrics::new(&self.all, listener)
    }
}

fn credential_labels<'a>(app: &'a AppName, credential: &'a str) -> [Label<'a>; 2] {
    [Label::App(app), Label::Credential(app, credential)]
}

fn caller_key_labels<'a>(caller: &'a CallerName, key: &'a str) -> [Label<'a>; 2] {
    [Label::Caller(caller), Label::CallerKey(caller, key)]
}

fn seconds(at: Timestamp) -> f64 {
    at.unix_millis() as f64 / 1000.0
}

#[cfg(test)]
mod tests;
