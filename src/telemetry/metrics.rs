//! Every metric, worded by event. The names in product.md are a contract; the rest may change.
//!
//! Invariants:
//! 1. Labels are names that are configured now, or words of the code, never text of a request ([`series`]).
//! 2. A time until expiry is worked out when it is read, so it is never stale.
//! 3. Handles that a hot path needs are resolved once ([`TokenRequestHandles`], [`ListenerMetrics`]).

use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use prometheus::core::Collector;
use prometheus::process_collector::ProcessCollector;
use prometheus::{Gauge, Histogram, IntCounter, IntGauge, Opts, Registry, TextEncoder};

use crate::domain::cause::Cause;
use crate::domain::connection::Status;
use crate::domain::credential::CredentialState;
use crate::domain::id::{AppName, CallerName};
use crate::domain::time::Timestamp;
use crate::domain::verdict::{BlockReason, Disposition, ReauthReason};
use crate::telemetry::series::{self, Ends, Family, Known, Label, Names, UNKNOWN};

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

type Counters = Family<IntCounter>;
type IntGauges = Family<IntGauge>;
type Gauges = Family<Gauge>;
type Histograms = Family<Histogram>;

/// What became of a look into the token cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CacheResult {
    /// A token with enough life left.
    Hit,
    /// No such token.
    Miss,
    /// A token, but not with enough life left.
    Stale,
}

/// What became of an attempt at a lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LeaseResult {
    /// It is ours.
    Acquired,
    /// Another replica has it.
    Held,
    /// The store could not be reached.
    Unreachable,
    /// It was ours and was lost before the work was done.
    Lost,
}

/// Why a connection was refused or closed before a request came through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ConnectionRefusal {
    /// The listener's own cap.
    ListenerFull,
    /// The peer's cap.
    PeerFull,
    /// The TLS handshake failed or took too long.
    Handshake,
    /// No head, or half of one, in time.
    TooSlow,
    /// Framing that has more than one reading.
    Malformed,
    /// It had waited longest when others needed its room.
    GaveWay,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Expiring {
    Credential(AppName, String),
    TlsCertificate(&'static str),
    CallerKey(CallerName, String),
    StoreCertificate(&'static str),
}

/// All metrics of the process, with the registry they live in.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    known: Arc<Known>,
    families: Vec<Box<dyn Ends>>,
    token_requests: Counters,
    token_request_duration: Histograms,
    over_their_rate: Counters,
    names_without_series: IntGauge,
    cache_hits: IntCounter,
    cache_misses: IntCounter,
    cache_stale: IntCounter,
    refreshes: Counters,
    refresh_duration: Histograms,
    store_reachable: IntGauge,
    sweep_shards: IntGauge,
    sweep_begun: IntCounter,
    sweep_waiting: IntGauge,
    sweep_last: Gauge,
    verdicts: Counters,
    lease_attempts: Counters,
    upstream_budget: Counters,
    connections: IntGauges,
    credential_expiry: Gauges,
    credential_expiry_unknown: IntGauges,
    credential_state: IntGauges,
    credential_last_used: Gauges,
    tls_certificate_expiry: Gauges,
    caller_key_expiry: Gauges,
    caller_key_last_used: Gauges,
    sealing_key_records: IntGauges,
    sealing_key_created: Gauges,
    sealing_key_last_used: Gauges,
    sealing_key_primary: IntGauges,
    authority_requests: Counters,
    authority_request_duration: Histograms,
    store_operation_duration: Histograms,
    store_errors: Counters,
    store_risk: IntGauges,
    store_login_refused: IntGauges,
    store_login_taken: Gauges,
    store_certificate_expiry: Gauges,
    config_reloads: Counters,
    config_last_reload: Gauge,
    job_last_run: Gauges,
    job_last_run_successful: IntGauges,
    audit_lost: IntCounter,
    audit_suppressed: IntCounter,
    strangers_refused: Counters,
    record_damage: Counters,
    http_requests: Counters,
    http_connections: IntGauges,
    http_connections_refused: Counters,
    panics: IntCounter,
    expiries: Mutex<BTreeMap<Expiring, Timestamp>>,
}

/// Registers metrics under their prefix; a name can only clash by a mistake in this file.
struct Register {
    registry: Registry,
    known: Arc<Known>,
    families: Mutex<Vec<Box<dyn Ends>>>,
}

impl Register {
    fn put<C: Collector + Clone + 'static>(&self, made: prometheus::Result<C>) -> C {
        let collector = made.expect("names and labels are literals of this file");
        self.registry.register(Box::new(collector.clone())).expect("every name is registered once");
        collector
    }

    fn family<M: Collector + Clone + 'static>(
        &self,
        (name, help): (&str, &str),
        labels: &'static [&'static str],
        make: fn(Opts, &'static [f64]) -> prometheus::Result<M>,
        buckets: &'static [f64],
    ) -> Family<M> {
        let name = format!("tokenward_{name}");
        let family = Family::new(self.known.clone(), (&name, help), labels, make, buckets);
        self.families.lock().push(Box::new(family.clone()));
        self.put(Ok(family))
    }

    fn opts(name: &str, help: &str) -> Opts {
        Opts::new(format!("tokenward_{name}"), help)
    }

    fn counter(&self, name: &str, help: &str) -> IntCounter {
        self.put(IntCounter::with_opts(Self::opts(name, help)))
    }

    fn counters(&self, name: &str, labels: &'static [&'static str], help: &str) -> Counters {
        self.family((name, help), labels, |opts, _| IntCounter::with_opts(opts), &[])
    }

    fn gauge(&self, name: &str, help: &str) -> Gauge {
        self.put(Gauge::with_opts(Self::opts(name, help)))
    }

    fn gauges(&self, name: &str, labels: &'static [&'static str], help: &str) -> Gauges {
        self.family((name, help), labels, |opts, _| Gauge::with_opts(opts), &[])
    }

    fn int_gauge(&self, name: &str, help: &str) -> IntGauge {
        self.put(IntGauge::with_opts(Self::opts(name, help)))
    }

    fn int_gauges(&self, name: &str, labels: &'static [&'static str], help: &str) -> IntGauges {
        self.family((name, help), labels, |opts, _| IntGauge::with_opts(opts), &[])
    }

    fn histograms(
        &self,
        name: &str,
        labels: &'static [&'static str],
        buckets: &'static [f64],
        help: &str,
    ) -> Histograms {
        self.family((name, help), labels, series::histogram, buckets)
    }
}

impl Metrics {
    /// All metrics at zero; `version` goes into `build_info`.
    pub fn new(version: &'static str) -> Self {
        let new = Register { registry: Registry::new(), known: Arc::default(), families: Mutex::default() };
        new.registry.register(Box::new(ProcessCollector::for_self())).expect("every name is registered once");
        new.int_gauges("build_info", &["version"], "Constant 1, labelled with the running version.")
            .with(&[Label::Word(version)])
            .set(1);
        let lookups = new.counters(
            "token_cache_lookups_total",
            &["result"],
            "Looks into the token cache, by what came of them.",
        );
        let mut metrics = Metrics {
            token_requests: new.counters(
                "token_requests_total",
                &["app", "caller", "dialect", "outcome"],
                "Requests for a token; outcome is ok or the error code that was answered.",
            ),
            token_request_duration: new.histograms(
                "token_request_duration_seconds",
                &["dialect"],
                REQUEST_BUCKETS,
                "Time to answer a request for a token.",
            ),
            over_their_rate: new.counters(
                "requests_over_rate_total",
                &["caller"],
                "Requests that were answered 429 because their caller's come too fast, for whatever they were.",
            ),
            names_without_series: new.int_gauge(
                "metrics_full",
                "1 while there are so many apps, callers and outcomes that more of them are counted under `unknown`, so that the page stays small enough to be scraped.",
            ),
            cache_hits: lookups.with(&[Label::Word("hit")]),
            cache_misses: lookups.with(&[Label::Word("miss")]),
            cache_stale: lookups.with(&[Label::Word("stale")]),
            refreshes: new.counters(
                "refreshes_total",
                &["app", "outcome"],
                "Refreshes of a grant at the authority, by outcome.",
            ),
            refresh_duration: new.histograms(
                "refresh_duration_seconds",
                &["app"],
                AUTHORITY_BUCKETS,
                "Time from the decision to refresh until the result is stored.",
            ),
            store_reachable: new.int_gauge(
                "store_reachable",
                "1 while the store answers; at 0 what is held in memory is served for `serve_cached_for` and nothing else.",
            ),
            sweep_shards: new.int_gauge(
                "sweep_shards",
                "Sixteenths of the background refreshing that are this replica's.",
            ),
            sweep_begun: new.counter("sweep_refreshes_total", "Refreshes begun before anybody asked."),
            sweep_waiting: new.int_gauge(
                "sweep_waiting",
                "1 while connections are due for which the background's budget does not suffice.",
            ),
            sweep_last: new.gauge(
                "sweep_last_success_timestamp_seconds",
                "When the background last looked for what is due.",
            ),
            verdicts: new.counters(
                "verdicts_total",
                &["app", "status", "reason"],
                "Verdicts of the authority that changed a connection.",
            ),
            lease_attempts: new.counters(
                "lease_attempts_total",
                &["result"],
                "Attempts to get the right to refresh a connection; held means another replica was first.",
            ),
            upstream_budget: new.counters(
                "upstream_budget_total",
                &["cause", "result"],
                "Calls to authorities for what nobody waits for who has no token, by what they are for: begun, or refused or put off because a budget was used up.",
            ),
            connections: new.int_gauges("connections", &["app", "status"], "Connections by status."),
            credential_expiry: new.gauges(
                "credential_expiry_seconds",
                &["app", "credential"],
                "Seconds until a client credential expires; negative once it has.",
            ),
            credential_expiry_unknown: new.int_gauges(
                "credential_expiry_unknown",
                &["app", "credential"],
                "1 for a client secret of which nobody said when it expires: no alert will come before it does.",
            ),
            credential_state: new.int_gauges(
                "credential_state",
                &["app", "credential", "state"],
                "1 for the state that a client credential is in, and for in_use where it is tried first; 0 for the others.",
            ),
            credential_last_used: new.gauges(
                "credential_last_used_timestamp_seconds",
                &["app", "credential"],
                "When a client credential was last used at the authority.",
            ),
            tls_certificate_expiry: new.gauges(
                "tls_certificate_expiry_seconds",
                &["listener"],
                "Seconds until a listener's certificate expires; negative once it has.",
            ),
            caller_key_expiry: new.gauges(
                "caller_key_expiry_seconds",
                &["caller", "key"],
                "Seconds until a caller's API key expires; negative once it has.",
            ),
            caller_key_last_used: new.gauges(
                "caller_key_last_used_timestamp_seconds",
                &["caller", "key"],
                "When a caller's API key was last accepted.",
            ),
            sealing_key_records: new.int_gauges(
                "sealing_key_records",
                &["key"],
                "Stored records that need this sealing key to be opened; remove a key only at 0.",
            ),
            sealing_key_created: new.gauges(
                "sealing_key_created_timestamp_seconds",
                &["key"],
                "When a sealing key was made.",
            ),
            sealing_key_last_used: new.gauges(
                "sealing_key_last_used_timestamp_seconds",
                &["key"],
                "When a sealing key last sealed or opened a record.",
            ),
            sealing_key_primary: new.int_gauges(
                "sealing_key_primary",
                &["key"],
                "1 for the sealing key that seals, 0 for those that only open.",
            ),
            authority_requests: new.counters(
                "authority_requests_total",
                &["app", "endpoint", "outcome"],
                "Requests to an authority, by endpoint and outcome.",
            ),
            authority_request_duration: new.histograms(
                "authority_request_duration_seconds",
                &["app", "endpoint"],
                AUTHORITY_BUCKETS,
                "Time of a request to an authority.",
            ),
            store_operation_duration: new.histograms(
                "store_operation_duration_seconds",
                &["operation"],
                STORE_BUCKETS,
                "Time of an operation of the store, failed ones included.",
            ),
            store_errors: new.counters(
                "store_errors_total",
                &["operation"],
                "Operations of the store that failed.",
            ),
            store_risk: new.int_gauges(
                "store_risk",
                &["risk"],
                "1 while the store is not as it must be, though it serves: it evicts, keeps nothing on disk, has no replica, or does not tell.",
            ),
            store_login_refused: new.int_gauges(
                "store_login_refused",
                &["secret"],
                "1 while what a file of the store's password, the sentinels' or TLS holds is refused or cannot be used, and the one before is in use.",
            ),
            store_login_taken: new.gauges(
                "store_login_taken_timestamp_seconds",
                &["secret"],
                "Since when what such a file holds is in use on every connection; the one before may be taken away.",
            ),
            store_certificate_expiry: new.gauges(
                "store_certificate_expiry_seconds",
                &["certificate"],
                "Seconds until the client certificate for the store expires, or the last of the authorities that it is believed by; negative once it has.",
            ),
            config_reloads: new.counters(
                "config_reloads_total",
                &["outcome"],
                "Reloads of configuration and secrets; one that failed changed nothing.",
            ),
            config_last_reload: new.gauge(
                "config_last_reload_timestamp_seconds",
                "When configuration and secrets were last read successfully.",
            ),
            job_last_run: new.gauges(
                "job_last_run_timestamp_seconds",
                &["job_name"],
                "When a job that the daemon does at intervals last ended a run.",
            ),
            job_last_run_successful: new.int_gauges(
                "job_last_run_successful",
                &["job_name"],
                "1 if the last run of a job did all that it was to do, else 0; `tokenward status` has the reason.",
            ),
            audit_lost: new.counter("audit_lost_total", "Audit records that could not be written, or not before their request was answered."),
            audit_suppressed: new.counter(
                "audit_suppressed_total",
                "Refusals that are in the audit stream as part of a sum only: more of one kind within a second than are told one by one.",
            ),
            strangers_refused: new.counters(
                "strangers_refused_total",
                &["reason"],
                "Requests of those with no right, or who did not show it, by what they were refused for.",
            ),
            record_damage: new.counters(
                "record_damage_total",
                &["kind"],
                "Looks at stored records that cannot be used: damaged, tampered with, or sealed with a key that is missing.",
            ),
            http_requests: new.counters(
                "http_requests_total",
                &["listener", "status"],
                "Requests answered, by listener and status.",
            ),
            http_connections: new.int_gauges("http_connections", &["listener"], "Open connections."),
            http_connections_refused: new.counters(
                "http_connections_refused_total",
                &["listener", "reason"],
                "Connections closed before a request came through, by reason.",
            ),
            panics: new.counter("panics_total", "Panics caught while handling a request; each is a bug."),
            expiries: Mutex::new(BTreeMap::new()),
            registry: new.registry,
            known: new.known,
            families: Vec::new(),
        };
        metrics.families = new.families.into_inner();
        // A series that appears with its first event hides that event from rate(): known ones begin at 0.
        for result in ["acquired", "held", "unreachable", "lost"] {
            metrics.lease_attempts.with(&[Label::Word(result)]);
        }
        for cause in Cause::ALL {
            for result in ["begun", "put_off"] {
                metrics.upstream_budget.with(&[Label::Word(cause.as_str()), Label::Word(result)]);
            }
        }
        for outcome in ["ok", "failed"] {
            metrics.config_reloads.with(&[Label::Word(outcome)]);
        }
        metrics
    }

    /// Other names are configured: the series of those that are not any more end.
    pub fn rename(&self, change: impl FnOnce(&mut Names)) {
        if !self.known.change(change) {
            return;
        }
        let mut expiries = self.expiries.lock();
        expiries.retain(|what, _| match what {
            Expiring::Credential(app, credential) => self.known.has(Label::Credential(app, credential)),
            Expiring::CallerKey(caller, key) => self.known.has(Label::CallerKey(caller, key)),
            Expiring::TlsCertificate(_) | Expiring::StoreCertificate(_) => true,
        });
        self.families.iter().for_each(|family| family.end_what_is_gone());
    }

    /// Whether a caller's requests for an app have series of their own.
    pub fn knows(&self, app: &AppName, caller: &CallerName) -> bool {
        self.known.has(Label::App(app)) && self.known.has(Label::Caller(caller))
    }

    /// The text exposition at this moment.
    pub fn encode(&self, now: Timestamp) -> String {
        {
            let expiries = self.expiries.lock();
            for (what, at) in expiries.iter() {
                let left = (at.unix_millis().saturating_sub(now.unix_millis())) as f64 / 1000.0;
                match what {
                    Expiring::Credential(app, credential) => {
                        self.credential_expiry.with(&credential_labels(app, credential)).set(left);
                    }
                    Expiring::TlsCertificate(listener) => {
                        self.tls_certificate_expiry.with(&[Label::Word(listener)]).set(left);
                    }
                    Expiring::CallerKey(caller, key) => {
                        self.caller_key_expiry.with(&caller_key_labels(caller, key)).set(left);
                    }
                    Expiring::StoreCertificate(certificate) => {
                        self.store_certificate_expiry.with(&[Label::Word(certificate)]).set(left);
                    }
                }
            }
        }
        self.names_without_series.set(self.known.is_full().into());
        let mut text = String::with_capacity(32 * 1024);
        TextEncoder::new()
            .encode_utf8(&self.registry.gather(), &mut text)
            .expect("writing to a string does not fail, and every family has a series");
        text
    }

    /// These are all operations of a store: their series begin at 0.
    pub fn expect_store_operations(&self, operations: &[&'static str]) {
        for operation in operations {
            let _at_zero = self.store_errors.with(&[Label::Word(operation)]);
            let _at_zero = self.store_operation_duration.with(&[Label::Word(operation)]);
        }
    }

    /// An app is configured, whose authority has these endpoints: its series begin at 0, so that the first event of each is an increase that is seen.
    pub fn expect_app(&self, app: &AppName, endpoints: &[&'static str]) {
        let app = Label::App(app);
        let outcomes = || Disposition::WORDS.iter().copied().chain(["ok"]).map(Label::Word);
        let _at_zero = self.refresh_duration.with(&[app]);
        for outcome in outcomes() {
            let _at_zero = self.refreshes.with(&[app, outcome]);
        }
        for endpoint in endpoints.iter().copied().map(Label::Word) {
            let _at_zero = self.authority_request_duration.with(&[app, endpoint]);
            for outcome in outcomes() {
                let _at_zero = self.authority_requests.with(&[app, endpoint, outcome]);
            }
        }
        let active = (Status::Active.as_str(), "none");
        let reauthorize = ReauthReason::WORDS.iter().map(|reason| ("needs_reauthorization", *reason));
        let blocked = BlockReason::WORDS.iter().map(|reason| ("blocked", *reason));
        for (status, reason) in reauthorize.chain(blocked).chain([active]) {
            let _at_zero = self.verdicts.with(&[app, Label::Word(status), Label::Word(reason)]);
        }
    }

    /// Handles for one caller's requests for one app's tokens in one dialect, to be kept and reused.
    pub fn token_request_handles(
        &self,
        app: &AppName,
        caller: &CallerName,
        dialect: &'static str,
    ) -> TokenRequestHandles {
        let labels = [Label::App(app), Label::Caller(caller), Label::Word(dialect), Label::Word("ok")];
        TokenRequestHandles {
            ok: self.token_requests.with(&labels),
            duration: self.token_request_duration.with(&[Label::Word(dialect)]),
        }
    }

    /// A request for a token was answered; `outcome` is `ok` or the error's code. For a path that is walked
    /// seldom, or where the caller is not known: it is then `unknown`, as an app is that is not configured.
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
        self.token_requests.with(&[app, caller, Label::Word(dialect), Label::Word(outcome)]).inc();
        self.token_request_duration.with(&[Label::Word(dialect)]).observe(duration.as_secs_f64());
    }

    /// A caller is configured: its series begin at 0.
    pub fn expect_caller(&self, caller: &CallerName) {
        let _at_zero = self.over_their_rate.with(&[Label::Caller(caller)]);
    }

    /// A caller's request was refused because they come too fast.
    pub fn over_its_rate(&self, caller: &CallerName) {
        self.over_their_rate.with(&[Label::Caller(caller)]).inc();
    }

    /// The token cache was looked into.
    pub fn cache_lookup(&self, result: CacheResult) {
        match result {
            CacheResult::Hit => self.cache_hits.inc(),
            CacheResult::Miss => self.cache_misses.inc(),
            CacheResult::Stale => self.cache_stale.inc(),
        }
    }

    /// A refresh ended; `outcome` is `ok` or a disposition's word.
    pub fn refresh(&self, app: &AppName, outcome: &'static str, duration: Duration) {
        self.refreshes.with(&[Label::App(app), Label::Word(outcome)]).inc();
        self.refresh_duration.with(&[Label::App(app)]).observe(duration.as_secs_f64());
    }

    /// Whether the store answers.
    pub fn store_reachable(&self, reachable: bool) {
        self.store_reachable.set(reachable.into());
    }

    /// A round of the sweep was made.
    pub fn swept(&self, shards: u32, begun: u32, waiting: bool, now: Timestamp) {
        self.sweep_shards.set(shards.into());
        self.sweep_begun.inc_by(begun.into());
        self.sweep_waiting.set(waiting.into());
        self.sweep_last.set(now.unix_millis() as f64 / 1000.0);
    }

    /// A verdict of the authority changed a connection.
    pub fn verdict(&self, app: &AppName, status: &'static str, reason: &'static str) {
        self.verdicts.with(&[Label::App(app), Label::Word(status), Label::Word(reason)]).inc();
    }

    /// A lease was tried for, or lost.
    pub fn lease_attempt(&self, result: LeaseResult) {
        let result = match result {
            LeaseResult::Acquired => "acquired",
            LeaseResult::Held => "held",
            LeaseResult::Unreachable => "unreachable",
            LeaseResult::Lost => "lost",
        };
        self.lease_attempts.with(&[Label::Word(result)]).inc();
    }

    /// A call out of the budget that all have together was begun, or has to wait for it.
    pub fn upstream_budget(&self, cause: Cause, is_begun: bool) {
        let result = if is_begun { "begun" } else { "put_off" };
        self.upstream_budget.with(&[Label::Word(cause.as_str()), Label::Word(result)]).inc();
    }

    /// How many connections an app has in each status. Name every status, also those at 0.
    pub fn connections_by_status(&self, app: &AppName, counts: &[(&'static str, u64)]) {
        for (status, count) in counts {
            let count = i64::try_from(*count).unwrap_or(i64::MAX);
            self.connections.with(&[Label::App(app), Label::Word(status)]).set(count);
        }
    }

    /// This app has no connections any more.
    pub fn connections_gone(&self, app: &AppName, statuses: &[&'static str]) {
        for status in statuses {
            self.connections.end(&[Label::App(app), Label::Word(status)]);
        }
    }

    /// When a client credential expires; none when it does not say.
    pub fn credential_expiry(&self, app: &AppName, credential: &str, at: Option<Timestamp>) {
        self.expiry(Expiring::Credential(app.clone(), credential.to_owned()), at);
        if at.is_none() {
            self.credential_expiry.end(&credential_labels(app, credential));
        }
    }

    /// Whether nobody said of a client credential when it expires, though it does.
    pub fn credential_expiry_unknown(&self, app: &AppName, credential: &str, is_unknown: bool) {
        self.credential_expiry_unknown.with(&credential_labels(app, credential)).set(is_unknown.into());
    }

    /// The state of a client credential, and whether it is the first to be tried: one that expires soon may be.
    pub fn credential_state(&self, app: &AppName, credential: &str, state: CredentialState, in_use: bool) {
        for each in CredentialState::ALL {
            let holds = each == state || (each == CredentialState::InUse && in_use);
            let [app, credential] = credential_labels(app, credential);
            let labels = [app, credential, Label::Word(each.as_str())];
            self.credential_state.with(&labels).set(i64::from(holds));
        }
    }

    /// When a client credential was last used; none for one that was not, as far as this process knows.
    pub fn credential_used(&self, app: &AppName, credential: &str, at: Option<Timestamp>) {
        let labels = credential_labels(app, credential);
        match at {
            Some(at) => self.credential_last_used.with(&labels).set(seconds(at)),
            None => self.credential_last_used.end(&labels),
        }
    }

    /// When a listener's certificate expires; of several listeners of one name, the one that ends first.
    pub fn tls_certificate_expiry(&self, listener: &'static str, at: Timestamp) {
        self.expiry(Expiring::TlsCertificate(listener), Some(at));
    }

    /// When a caller's API key expires.
    pub fn caller_key_expiry(&self, caller: &CallerName, key: &str, at: Timestamp) {
        self.expiry(Expiring::CallerKey(caller.clone(), key.to_owned()), Some(at));
    }

    /// A caller's API key was accepted.
    pub fn caller_key_used(&self, caller: &CallerName, key: &str, at: Timestamp) {
        self.caller_key_last_used.with(&caller_key_labels(caller, key)).set(seconds(at));
    }

    /// How many records need each sealing key, and the one that seals. Keys that the keyring does not have are one series: whoever
    /// writes to the store writes their names.
    pub fn sealing_keys<'a>(&self, keys: impl Iterator<Item = (&'a str, u64, bool)>) {
        let mut unknown = 0_u64;
        for (key, records, is_primary) in keys {
            let label = Label::SealingKey(key);
            if !self.known.has(label) {
                unknown += records;
                continue;
            }
            self.sealing_key_records.with(&[label]).set(i64::try_from(records).unwrap_or(i64::MAX));
            self.sealing_key_primary.with(&[label]).set(i64::from(is_primary));
        }
        let label = [Label::Word(UNKNOWN)];
        self.sealing_key_records.with(&label).set(i64::try_from(unknown).unwrap_or(i64::MAX));
    }

    /// A sealing key is in the keyring, and was made then.
    pub fn sealing_key_created(&self, key: &str, at: Timestamp) {
        self.sealing_key_created.with(&[Label::SealingKey(key)]).set(seconds(at));
    }

    /// A sealing key sealed or opened a record.
    pub fn sealing_key_used(&self, key: &str, at: Timestamp) {
        self.sealing_key_last_used.with(&[Label::SealingKey(key)]).set(seconds(at));
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
        self.authority_requests.with(&[app, endpoint, Label::Word(outcome)]).inc();
        self.authority_request_duration.with(&[app, endpoint]).observe(duration.as_secs_f64());
    }

    /// An operation of the store ended.
    pub fn store_operation(&self, operation: &'static str, duration: Duration, error: bool) {
        let operation = [Label::Word(operation)];
        self.store_operation_duration.with(&operation).observe(duration.as_secs_f64());
        if error {
            self.store_errors.with(&operation).inc();
        }
    }

    /// Whether the store is at this risk.
    pub fn store_risk(&self, risk: &'static str, is_there: bool) {
        self.store_risk.with(&[Label::Word(risk)]).set(is_there.into());
    }

    /// What a file holds that proves us to the store is refused, or is in use since.
    pub fn store_login(&self, secret: &'static str, is_refused: bool, since: Timestamp) {
        self.store_login_refused.with(&[Label::Word(secret)]).set(is_refused.into());
        if !is_refused {
            self.store_login_taken.with(&[Label::Word(secret)]).set(seconds(since));
        }
    }

    /// When a certificate expires by which the store and this process know each other: `client` or `ca`.
    pub fn store_certificate_expiry(&self, certificate: &'static str, at: Timestamp) {
        self.expiry(Expiring::StoreCertificate(certificate), Some(at));
    }

    /// Configuration was read and is in force from `at` on; or, with none, was refused.
    pub fn config_reload(&self, at: Option<Timestamp>) {
        self.config_reloads.with(&[Label::Word(if at.is_some() { "ok" } else { "failed" })]).inc();
        if let Some(at) = at {
            self.config_last_reload.set(seconds(at));
        }
    }

    /// A run of a job ended.
    pub fn job_ended(&self, job: &'static str, at: Timestamp, is_success: bool) {
        let job = [Label::Word(job)];
        self.job_last_run.with(&job).set(seconds(at));
        self.job_last_run_successful.with(&job).set(is_success.into());
    }

    /// Audit records were lost.
    pub fn audit_lost(&self, records: u64) {
        self.audit_lost.inc_by(records);
    }

    /// Records were put into a sum.
    pub fn audit_suppressed(&self, records: u64) {
        self.audit_suppressed.inc_by(records);
    }

    /// These are all reasons for which strangers are refused: their series begin at 0.
    pub fn expect_strangers(&self, reasons: impl Iterator<Item = &'static str>) {
        for reason in reasons {
            let _at_zero = self.strangers_refused.with(&[Label::Word(reason)]);
        }
    }

    /// Somebody was refused who has no right.
    pub fn stranger_refused(&self, reason: &'static str) {
        self.strangers_refused.with(&[Label::Word(reason)]).inc();
    }

    /// These are all kinds of records: their series begin at 0.
    pub fn expect_damage(&self, kinds: impl Iterator<Item = &'static str>) {
        for kind in kinds {
            let _at_zero = self.record_damage.with(&[Label::Word(kind)]);
        }
    }

    /// A record of this kind was found that cannot be used.
    pub fn record_damaged(&self, kind: &'static str) {
        self.record_damage.with(&[Label::Word(kind)]).inc();
    }

    /// A panic was caught while a request was handled.
    pub fn panicked(&self) {
        self.panics.inc();
    }

    /// Handles for one listener, to be kept and reused.
    pub fn listener(&self, listener: &'static str) -> ListenerMetrics {
        let refused =
            |reason| self.http_connections_refused.with(&[Label::Word(listener), Label::Word(reason)]);
        ListenerMetrics {
            ok: self.http_requests.with(&[Label::Word(listener), Label::Status(http::StatusCode::OK)]),
            requests: self.http_requests.clone(),
            listener,
            open: self.http_connections.with(&[Label::Word(listener)]),
            listener_full: refused("listener_full"),
            peer_full: refused("peer_full"),
            handshake: refused("handshake"),
            too_slow: refused("too_slow"),
            malformed: refused("malformed"),
            gave_way: refused("gave_way"),
            panics: self.panics.clone(),
        }
    }

    fn expiry(&self, what: Expiring, at: Option<Timestamp>) {
        let mut expiries = self.expiries.lock();
        match at {
            Some(at) => expiries.insert(what, at),
            None => expiries.remove(&what),
        };
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

/// Counters of one (app, caller, dialect), resolved once so that a token from the cache costs two atomics.
#[derive(Debug, Clone)]
pub struct TokenRequestHandles {
    ok: IntCounter,
    duration: Histogram,
}

impl TokenRequestHandles {
    /// A token was handed out.
    pub fn served(&self, duration: Duration) {
        self.ok.inc();
        self.duration.observe(duration.as_secs_f64());
    }
}

/// One listener's counters.
#[derive(Debug, Clone)]
pub struct ListenerMetrics {
    ok: IntCounter,
    requests: Counters,
    listener: &'static str,
    open: IntGauge,
    listener_full: IntCounter,
    peer_full: IntCounter,
    handshake: IntCounter,
    too_slow: IntCounter,
    malformed: IntCounter,
    gave_way: IntCounter,
    panics: IntCounter,
}

impl ListenerMetrics {
    /// A request was answered.
    pub fn http_request(&self, status: http::StatusCode) {
        if status == http::StatusCode::OK {
            self.ok.inc();
        } else {
            self.requests.with(&[Label::Word(self.listener), Label::Status(status)]).inc();
        }
    }

    /// A connection was opened.
    pub fn connection_opened(&self) {
        self.open.inc();
    }

    /// A connection was closed.
    pub fn connection_closed(&self) {
        self.open.dec();
    }

    /// A connection was refused or cut.
    pub fn connection_refused(&self, reason: ConnectionRefusal) {
        match reason {
            ConnectionRefusal::ListenerFull => self.listener_full.inc(),
            ConnectionRefusal::PeerFull => self.peer_full.inc(),
            ConnectionRefusal::Handshake => self.handshake.inc(),
            ConnectionRefusal::TooSlow => self.too_slow.inc(),
            ConnectionRefusal::Malformed => self.malformed.inc(),
            ConnectionRefusal::GaveWay => self.gave_way.inc(),
        }
    }

    /// A handler panicked.
    pub fn panicked(&self) {
        self.panics.inc();
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::process::{Command, Stdio};

    use super::*;

    const NOW: Timestamp = Timestamp::from_unix_seconds(1_795_392_000);

    fn app() -> AppName {
        AppName::parse("outlook").expect("a name")
    }

    fn caller() -> CallerName {
        CallerName::parse("mail-sync").expect("a name")
    }

    fn figure(page: &str, series: &str) -> u64 {
        let lines = page.lines().filter(|line| line.starts_with(series));
        lines.map(|line| line.rsplit_once(' ').expect("a figure").1.parse::<u64>().expect("a number")).sum()
    }

    /// Apps, callers and what came of their requests, multiplied: the page can be scraped, every event is on it, and what apps have
    /// of their own is not pushed out by the pairs.
    #[test]
    fn however_many_names_are_configured_the_page_can_be_scraped() {
        let metrics = Metrics::new("0.1.0");
        let long = |kind: &str, number: usize| format!("{kind}-{number:0>50}");
        let apps: Vec<AppName> =
            (0..500).map(|number| AppName::parse(&long("app", number)).expect("a name")).collect();
        let callers: Vec<CallerName> =
            (0..100).map(|number| CallerName::parse(&long("caller", number)).expect("a name")).collect();
        metrics.rename(|names| {
            names.apps = apps.iter().cloned().collect();
            names.callers = callers.iter().cloned().collect();
        });
        assert_eq!(figure(&metrics.encode(NOW), "tokenward_metrics_full"), 0);
        for (number, app) in apps.iter().enumerate() {
            for caller in &callers {
                let outcome = ["ok", "connection_not_found", "scope_forbidden"][number % 3];
                metrics.token_request(Some(app), Some(caller), "rest", outcome, Duration::ZERO);
            }
        }
        let requests = (apps.len() * callers.len()) as u64;
        let page = metrics.encode(NOW);
        assert_eq!(figure(&page, "tokenward_token_requests_total{"), requests);
        assert!(page.contains(&format!("app=\"{UNKNOWN}\",caller=\"{UNKNOWN}\"")), "those beyond");
        for app in &apps {
            metrics.expect_app(app, &["token", "discovery", "jwks"]);
            metrics.refresh(app, "ok", Duration::ZERO);
        }
        let page = metrics.encode(NOW);
        assert!(page.len() <= series::MOST_PAGE, "{} bytes", page.len());
        assert!(page.len() > series::MOST_PAGE / 2, "{} bytes: there is room left", page.len());
        assert_eq!(figure(&page, "tokenward_refreshes_total{"), apps.len() as u64);
        let own = apps
            .iter()
            .filter(|app| page.contains(&format!("refresh_duration_seconds_count{{app=\"{app}\"")));
        let own = own.count();
        assert!(own >= 80, "{own} apps have series of their own beside all the pairs");
        assert_eq!(figure(&page, "tokenward_metrics_full"), 1);
        // Those that leave the configuration make room.
        metrics.rename(|names| names.apps = [apps[499].clone()].into());
        metrics.token_request(Some(&apps[499]), Some(&callers[7]), "rest", "ok", Duration::ZERO);
        let page = metrics.encode(NOW);
        assert!(page.contains(&format!("{{app=\"{}\",caller=\"{}\"", apps[499], callers[7])));
        assert_eq!(figure(&page, "tokenward_metrics_full"), 0);
    }

    /// Every event once.
    fn exercised() -> Metrics {
        let (metrics, second) = (Metrics::new("0.1.0"), Duration::from_secs(1));
        metrics.rename(|names| {
            names.apps = [app()].into();
            names.callers = [caller()].into();
            names.credentials = [(app(), "2026-11".to_owned())].into();
            names.caller_keys = [(caller(), "k1".to_owned())].into();
            names.sealing_keys = ["2026-01".to_owned()].into();
        });
        let handles = metrics.token_request_handles(&app(), &caller(), "rest");
        handles.served(second);
        metrics.token_request(Some(&app()), Some(&caller()), "rest", "connection_not_found", second);
        metrics.token_request(None, None, "msi", "caller_unauthenticated", second);
        metrics.cache_lookup(CacheResult::Hit);
        metrics.refresh(&app(), "ok", second);
        metrics.lease_attempt(LeaseResult::Acquired);
        metrics.connections_by_status(&app(), &[("active", 3), ("blocked", 0)]);
        metrics.credential_expiry(&app(), "2026-11", Some(NOW.plus(second * 60)));
        metrics.credential_expiry_unknown(&app(), "2026-11", false);
        metrics.credential_state(&app(), "2026-11", CredentialState::InUse, true);
        metrics.credential_used(&app(), "2026-11", Some(NOW));
        metrics.tls_certificate_expiry("public", NOW.minus(second));
        metrics.caller_key_expiry(&caller(), "k1", NOW.plus(second));
        metrics.caller_key_used(&caller(), "k1", NOW);
        metrics.sealing_keys([("2026-01", 12, true), ("lost", 2, false), ("made-up", 1, false)].into_iter());
        metrics.sealing_key_created("2026-01", NOW);
        metrics.sealing_key_used("2026-01", NOW);
        metrics.authority_request(&app(), "token", "ok", second);
        metrics.store_operation("commit", second, true);
        metrics.store_login("password", false, NOW);
        metrics.store_login("password", true, NOW);
        metrics.store_certificate_expiry("client", NOW.plus(second * 2));
        metrics.config_reload(Some(NOW));
        metrics.config_reload(None);
        metrics.job_ended("keyring", NOW, false);
        metrics.audit_lost(2);
        metrics.listener("local").http_request(http::StatusCode::NOT_FOUND);
        metrics
    }

    #[test]
    fn the_fixed_names_are_there_with_their_labels() {
        let text = exercised().encode(NOW);
        for series in [
            r#"token_requests_total{app="outlook",caller="mail-sync",dialect="rest",outcome="ok"} 1"#,
            r#"token_requests_total{app="outlook",caller="mail-sync",dialect="rest",outcome="connection_not_found"} 1"#,
            r#"token_requests_total{app="unknown",caller="unknown",dialect="msi",outcome="caller_unauthenticated"} 1"#,
            r#"token_request_duration_seconds_count{dialect="rest"} 2"#,
            r#"token_cache_lookups_total{result="hit"} 1"#,
            r#"token_cache_lookups_total{result="miss"} 0"#,
            r#"refreshes_total{app="outlook",outcome="ok"} 1"#,
            r#"refresh_duration_seconds_count{app="outlook"} 1"#,
            r#"lease_attempts_total{result="acquired"} 1"#,
            r#"connections{app="outlook",status="active"} 3"#,
            r#"connections{app="outlook",status="blocked"} 0"#,
            r#"credential_expiry_seconds{app="outlook",credential="2026-11"} 60"#,
            r#"credential_state{app="outlook",credential="2026-11",state="in_use"} 1"#,
            r#"credential_state{app="outlook",credential="2026-11",state="rejected"} 0"#,
            r#"credential_last_used_timestamp_seconds{app="outlook",credential="2026-11"} 1795392000"#,
            r#"sealing_key_records{key="2026-01"} 12"#,
            r#"sealing_key_records{key="unknown"} 3"#,
            r#"sealing_key_created_timestamp_seconds{key="2026-01"} 1795392000"#,
            r#"sealing_key_last_used_timestamp_seconds{key="2026-01"} 1795392000"#,
            r#"authority_requests_total{app="outlook",endpoint="token",outcome="ok"} 1"#,
            r#"store_operation_duration_seconds_count{operation="commit"} 1"#,
            r#"store_errors_total{operation="commit"} 1"#,
            r#"store_login_refused{secret="password"} 1"#,
            r#"store_login_taken_timestamp_seconds{secret="password"} 1795392000"#,
            r#"store_certificate_expiry_seconds{certificate="client"} 2"#,
            r#"config_reloads_total{outcome="ok"} 1"#,
            r#"config_reloads_total{outcome="failed"} 1"#,
            "config_last_reload_timestamp_seconds 1795392000",
            r#"job_last_run_timestamp_seconds{job_name="keyring"} 1795392000"#,
            r#"job_last_run_successful{job_name="keyring"} 0"#,
            r#"build_info{version="0.1.0"} 1"#,
            r#"tls_certificate_expiry_seconds{listener="public"} -1"#,
            "audit_lost_total 2",
        ] {
            let series = format!("tokenward_{series}");
            assert!(text.lines().any(|line| line == series), "no {series} in\n{text}");
        }
        assert!(text.contains("\nprocess_open_fds "), "{text}");
    }

    #[test]
    fn a_credential_that_is_gone_leaves_no_series() {
        let metrics = exercised();
        metrics.connections_gone(&app(), &["active", "blocked"]);
        metrics.rename(|names| {
            names.credentials.clear();
            names.caller_keys.clear();
            names.sealing_keys.clear();
        });
        let text = metrics.encode(NOW);
        assert!(!text.contains("tokenward_connections{"), "{text}");
        for gone in ["2026-11", "k1", "2026-01"] {
            assert!(!text.contains(gone), "{gone} is still in\n{text}");
        }
    }

    /// The rules that promtool checks, for where it is not installed.
    fn lint(text: &str) -> Vec<String> {
        let mut problems = Vec::new();
        let types: Vec<(&str, &str)> =
            text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' ')).collect();
        for (name, kind) in &types {
            if !text.contains(&format!("# HELP {name} ")) {
                problems.push(format!("{name} has no help"));
            }
            if (*kind == "counter") != name.ends_with("_total") {
                problems.push(format!("{name} is a {kind}"));
            }
            if !name.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'_')) {
                problems.push(format!("{name} has other characters than a-z and _"));
            }
            if ["_ms", "_millis", "_milliseconds", "_minutes", "_kb"].iter().any(|unit| name.ends_with(unit))
            {
                problems.push(format!("{name} is not in base units"));
            }
            if !name.starts_with("tokenward_") && !name.starts_with("process_") {
                problems.push(format!("{name} lacks the prefix"));
            }
        }
        if types.len() < 30 {
            problems.push(format!("only {} families", types.len()));
        }
        problems
    }

    #[test]
    fn the_names_follow_prometheus_s_own_rules() {
        let text = exercised().encode(NOW);
        assert_eq!(lint(&text), Vec::<String>::new());
        let promtool = Command::new("promtool")
            .args(["check", "metrics"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn();
        let mut promtool = match promtool {
            Ok(promtool) => promtool,
            // The rules above have been checked all the same.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return,
            Err(error) => panic!("promtool: {error}"),
        };
        promtool.stdin.take().expect("piped").write_all(text.as_bytes()).expect("written");
        let output = promtool.wait_with_output().expect("ended");
        let said = [output.stdout, output.stderr].concat();
        assert!(output.status.success(), "promtool: {}", String::from_utf8_lossy(&said));
    }
}
