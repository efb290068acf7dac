//! Families of metrics, and the only place that gives a label its text.
//!
//! Invariants:
//! 1. A label is a word of the code or a configured name. Every other name becomes [`UNKNOWN`]. The number of
//!    series is therefore bounded by the configuration, whatever strangers, callers, authorities or the store
//!    send.
//! 2. Series of names that left the configuration end.
//! 3. The page of all series is no longer than [`MOST_PAGE`], which a scrape can always fetch. If it is full,
//!    further names get no series and are counted under [`UNKNOWN`].
//! 4. Each combination of values has its own series. (The vectors of the `prometheus` crate hash values
//!    without a separator, so that `a` with `bc` and `ab` with `c` are one.)
//!
//! A new kind of label is a new variant of [`Label`], which says where its names are looked up. `clippy.toml`
//! bans the crate's own vectors, and functions that make a `&'static str` of text.

use parking_lot::RwLock;
use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use http::StatusCode;
use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;
use prometheus::{IntCounter, Opts};

pub use self::declared::{Declared, Metric};
pub use self::exemplar::{Exemplar, Exemplars};
pub use self::timing::Timing;
use crate::domain::id::{AppName, CallerName};

mod declared;
mod exemplar;
mod timing;

/// Replaces a name that is not configured.
pub const UNKNOWN: &str = "unknown";

/// A label's value. There is no variant for text.
#[derive(Debug, Clone, Copy)]
pub enum Label<'a> {
    /// A word of the code.
    Word(&'static str),
    /// An HTTP status.
    Status(StatusCode),
    /// A configured app.
    App(&'a AppName),
    /// A configured caller or administrator.
    Caller(&'a CallerName),
    /// A client credential of this app, by its label.
    Credential(&'a AppName, &'a str),
    /// An API key of this caller, by its id.
    CallerKey(&'a CallerName, &'a str),
    /// A key of the keyring, by its id.
    SealingKey(&'a str),
    /// A sink of the audit, as the configuration spells it.
    AuditSink(&'a str),
    /// A configured issuer of callers' JWTs.
    Issuer(&'a str),
    /// A configured webhook.
    Webhook(&'a str),
}

impl Label<'_> {
    fn is_name(&self) -> bool {
        match self {
            // (A sink of the audit is configured, too. There are few, and none goes while the process runs.)
            Label::Word(_) | Label::Status(_) | Label::AuditSink(_) => false,
            Label::App(_)
            | Label::Caller(_)
            | Label::Credential(..)
            | Label::CallerKey(..)
            | Label::SealingKey(_)
            | Label::Issuer(_)
            | Label::Webhook(_) => true,
        }
    }
}

/// The configured names.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Names {
    /// Apps.
    pub apps: BTreeSet<AppName>,
    /// Callers and administrators.
    pub callers: BTreeSet<CallerName>,
    /// Client credentials in use, by app and label.
    pub credentials: BTreeSet<(AppName, String)>,
    /// API keys, by caller and id.
    pub caller_keys: BTreeSet<(CallerName, String)>,
    /// Keys in the keyring.
    pub sealing_keys: BTreeSet<String>,
    /// Sinks of the audit.
    pub audit_sinks: BTreeSet<String>,
    /// Issuers of callers' JWTs.
    pub issuers: BTreeSet<String>,
    /// Webhooks.
    pub webhooks: BTreeSet<String>,
}

impl Names {
    fn text<'a>(&self, label: Label<'a>) -> Cow<'a, str> {
        let (is_known, text) = match label {
            Label::Word(word) => (true, Cow::Borrowed(word)),
            Label::Status(status) => (true, Cow::Owned(status.as_str().to_owned())),
            Label::App(app) => (self.apps.contains(app), Cow::Borrowed(app.as_str())),
            Label::Caller(caller) => (self.callers.contains(caller), Cow::Borrowed(caller.as_str())),
            Label::Credential(app, credential) => {
                let is_known = self.credentials.contains(&(app.clone(), credential.to_owned()));
                (is_known, Cow::Borrowed(credential))
            }
            Label::CallerKey(caller, key) => {
                (self.caller_keys.contains(&(caller.clone(), key.to_owned())), Cow::Borrowed(key))
            }
            Label::SealingKey(key) => (self.sealing_keys.contains(key), Cow::Borrowed(key)),
            Label::AuditSink(sink) => (self.audit_sinks.contains(sink), Cow::Borrowed(sink)),
            Label::Issuer(issuer) => (self.issuers.contains(issuer), Cow::Borrowed(issuer)),
            Label::Webhook(webhook) => (self.webhooks.contains(webhook), Cow::Borrowed(webhook)),
        };
        if is_known { text } else { Cow::Borrowed(UNKNOWN) }
    }
}

/// Most bytes on the page of metrics for series with names, all families together: some 60,000 lines, which
/// is more than a scraper should get. Series of further names are counted under [`UNKNOWN`].
const MOST_OF_NAMES: usize = 7 * 1024 * 1024;
/// Most bytes for series of an app with a caller (and an outcome), whose numbers multiply; the rest is left
/// to the others.
const MOST_OF_PAIRS: usize = MOST_OF_NAMES / 2;
/// Most bytes of the page, including series with words only, help lines, and process figures.
pub const MOST_PAGE: usize = MOST_OF_NAMES + 960 * 1024;

/// The configured names, in which every family looks its labels up.
#[derive(Debug, Default)]
pub struct Known {
    names: RwLock<Names>,
    /// Bytes on the page for series with names.
    page: AtomicUsize,
    /// True if some names are counted under [`UNKNOWN`] for lack of room.
    is_full: AtomicBool,
}

impl Known {
    /// Changes the configured names. Returns true if they differ.
    pub fn change(&self, change: impl FnOnce(&mut Names)) -> bool {
        let mut names = self.names.write();
        let before = names.clone();
        change(&mut names);
        // Removed names may have made room; the next one that finds none sets it again.
        self.is_full.store(false, Ordering::Relaxed);
        *names != before
    }

    /// Returns true if there are more names than series for them.
    pub fn is_full(&self) -> bool {
        self.is_full.load(Ordering::Relaxed)
    }

    /// Takes bytes of the page, if there are enough.
    fn take(&self, bytes: usize, most: usize) -> bool {
        let taken = self.page.fetch_update(Ordering::AcqRel, Ordering::Acquire, |used| {
            Some(used + bytes).filter(|used| *used <= most)
        });
        self.is_full.fetch_or(taken.is_err(), Ordering::Relaxed);
        taken.is_ok()
    }

    /// Returns true if a name is configured.
    pub fn has(&self, label: Label<'_>) -> bool {
        self.names.read().text(label) != UNKNOWN
    }
}

/// Label values, in the order of the family's labels.
type Values = Vec<String>;

/// The configured name of a series, which may be removed.
#[derive(Debug, Clone, Default)]
struct Subject {
    app: Option<AppName>,
    caller: Option<CallerName>,
    credential: Option<(AppName, String)>,
    caller_key: Option<(CallerName, String)>,
    sealing_key: Option<String>,
    issuer: Option<String>,
    webhook: Option<String>,
}

impl Subject {
    fn of(labels: &[Label<'_>], values: &[String]) -> Self {
        let mut subject = Subject::default();
        for label in labels.iter().zip(values).filter(|(_, value)| *value != UNKNOWN).map(|(label, _)| label)
        {
            match *label {
                Label::Word(_) | Label::Status(_) | Label::AuditSink(_) => {}
                Label::App(app) => subject.app = Some(app.clone()),
                Label::Caller(caller) => subject.caller = Some(caller.clone()),
                Label::Credential(app, credential) => {
                    subject.credential = Some((app.clone(), credential.to_owned()));
                }
                Label::CallerKey(caller, key) => subject.caller_key = Some((caller.clone(), key.to_owned())),
                Label::SealingKey(key) => subject.sealing_key = Some(key.to_owned()),
                Label::Issuer(issuer) => subject.issuer = Some(issuer.to_owned()),
                Label::Webhook(webhook) => subject.webhook = Some(webhook.to_owned()),
            }
        }
        subject
    }

    /// Returns true if it has a name, and not only words.
    fn is_somebody(&self) -> bool {
        let Subject { app, caller, credential, caller_key, sealing_key, issuer, webhook } = self;
        app.is_some()
            || caller.is_some()
            || credential.is_some()
            || caller_key.is_some()
            || sealing_key.is_some()
            || issuer.is_some()
            || webhook.is_some()
    }

    fn is_in(&self, names: &Names) -> bool {
        fn there<T: Ord>(one: Option<&T>, all: &BTreeSet<T>) -> bool {
            one.is_none_or(|one| all.contains(one))
        }
        there(self.app.as_ref(), &names.apps)
            && there(self.caller.as_ref(), &names.callers)
            && there(self.credential.as_ref(), &names.credentials)
            && there(self.caller_key.as_ref(), &names.caller_keys)
            && there(self.sealing_key.as_ref(), &names.sealing_keys)
            && there(self.issuer.as_ref(), &names.issuers)
            && there(self.webhook.as_ref(), &names.webhooks)
    }
}

/// Metrics with the same name that differ in their labels.
#[derive(Clone)]
pub struct Family<M>(Arc<Inner<M>>);

struct Inner<M> {
    known: Arc<Known>,
    declared: Declared,
    desc: Desc,
    series: RwLock<BTreeMap<Values, One<M>>>,
}

/// A series.
struct One<M> {
    subject: Subject,
    metric: M,
    /// Bytes it takes of the page's room for names.
    bytes: usize,
}

impl<M> Inner<M> {
    /// Returns the most bytes that a series takes on the page.
    fn bytes(&self, values: &[String]) -> usize {
        const NUMBER: usize = 20;
        const MARKS: usize = 4;
        const BOUND: usize = 8;
        /// ` # {trace_id="…"} 0.123456789012 1795392000.123`
        const EXEMPLAR: usize = 14 + 32 + 2 * NUMBER;
        let escaped =
            |text: &str| text.bytes().map(|byte| 1 + usize::from(b"\\\"\n".contains(&byte))).sum::<usize>();
        let labels = self
            .declared
            .labels
            .iter()
            .zip(values)
            .map(|(label, value)| label.len() + escaped(value) + MARKS);
        let line = self.declared.name.len() + labels.sum::<usize>() + NUMBER + MARKS;
        if self.declared.buckets.is_empty() {
            return line;
        }
        // Each bucket with its bound and its exemplar, the one without a bound, the sum and the count.
        let bucket = line + "_bucket".len() + "le".len() + BOUND + MARKS;
        (self.declared.buckets.len() + 3) * bucket + (self.declared.buckets.len() + 1) * EXEMPLAR
    }

    /// Returns the most bytes that these may take.
    fn most(&self) -> usize {
        if ["app", "caller"].iter().all(|name| self.declared.labels.contains(name)) {
            MOST_OF_PAIRS
        } else {
            MOST_OF_NAMES
        }
    }
}

impl<M: Metric> Family<M> {
    /// Makes a family without series, whose names are looked up in `known`.
    pub fn new(known: Arc<Known>, declared: Declared) -> Self {
        let Declared { name, help, labels, .. } = declared;
        let variable = labels.iter().map(|label| (*label).to_owned()).collect();
        let desc = Desc::new(name.to_owned(), help.to_owned(), variable, HashMap::new())
            .expect("names and labels are literals of the metrics");
        Family(Arc::new(Inner { known, declared, desc, series: RwLock::default() }))
    }

    /// Returns the series with these labels, and makes it if there is none yet.
    pub fn with(&self, labels: &[Label<'_>]) -> M {
        let inner = &self.0;
        assert_eq!(labels.len(), inner.declared.labels.len(), "{}: labels", inner.declared.name);
        // Locked until the series exists: one for a name that is being removed must not be made after its
        // others have ended.
        let names = inner.known.names.read();
        let mut values: Values = labels.iter().map(|label| names.text(*label).into_owned()).collect();
        let series = inner.series.read();
        if let Some(one) = series.get(&values) {
            return one.metric.clone();
        }
        drop(series);
        let mut series = inner.series.write();
        if let Some(one) = series.get(&values) {
            return one.metric.clone();
        }
        let mut bytes = if Subject::of(labels, &values).is_somebody() { inner.bytes(&values) } else { 0 };
        if !inner.known.take(bytes, inner.most()) {
            bytes = 0;
            for (_, value) in labels.iter().zip(&mut values).filter(|(label, _)| label.is_name()) {
                UNKNOWN.clone_into(value);
            }
        }
        let subject = Subject::of(labels, &values);
        let make = || {
            let pairs = inner.declared.labels.iter().zip(&values);
            let opts = Opts::new(inner.declared.name, inner.declared.help);
            let opts = pairs.fold(opts, |opts, (label, value)| opts.const_label(*label, value));
            M::make(opts, inner.declared.buckets).expect("names and labels are literals of the metrics")
        };
        let make = || One { subject, metric: make(), bytes };
        series.entry(values.clone()).or_insert_with(make).metric.clone()
    }

    /// Ends the series with these labels, if it exists.
    pub fn end(&self, labels: &[Label<'_>]) {
        let names = self.0.known.names.read();
        let values: Values = labels.iter().map(|label| names.text(*label).into_owned()).collect();
        if let Some(one) = self.0.series.write().remove(&values) {
            self.0.known.page.fetch_sub(one.bytes, Ordering::AcqRel);
        }
    }
}

impl Family<IntCounter> {
    /// Returns the sums of the counters by one of their labels.
    pub fn sums(&self, label: &'static str) -> BTreeMap<String, u64> {
        let mut sums = BTreeMap::new();
        let Some(at) = self.0.declared.labels.iter().position(|one| *one == label) else { return sums };
        for (values, one) in self.0.series.read().iter() {
            *sums.entry(values[at].clone()).or_default() += one.metric.get();
        }
        sums
    }
}

/// Metrics whose series can end.
pub trait Ends: std::fmt::Debug + Send + Sync {
    /// Ends the series of names that are no longer configured.
    fn end_what_is_gone(&self);

    /// The exemplars of its series.
    fn exemplars(&self) -> Vec<OfSeries>;
}

/// The exemplars of one series, by the family's name and the values of its labels by their names.
pub type OfSeries = ((&'static str, BTreeMap<&'static str, String>), Exemplars);

impl<M: Metric> Ends for Family<M> {
    fn end_what_is_gone(&self) {
        let names = self.0.known.names.read();
        let mut series = self.0.series.write();
        series.retain(|_, one| {
            let stays = one.subject.is_in(&names);
            self.0.known.page.fetch_sub(if stays { 0 } else { one.bytes }, Ordering::AcqRel);
            stays
        });
    }

    fn exemplars(&self) -> Vec<OfSeries> {
        let Declared { name, labels, .. } = self.0.declared;
        let series = self.0.series.read();
        let named = |values: &Values| labels.iter().copied().zip(values.iter().cloned()).collect();
        let all = series.iter().map(|(values, one)| (values, one.metric.exemplars()));
        let with_some = all.filter(|(_, exemplars)| !exemplars.is_empty());
        with_some.map(|(values, exemplars)| ((name, named(values)), exemplars)).collect()
    }
}

impl<M: Metric> Collector for Family<M> {
    fn desc(&self) -> Vec<&Desc> {
        vec![&self.0.desc]
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let series = self.0.series.read();
        let mut families = series.values().flat_map(|one| one.metric.collect());
        let Some(mut all) = families.next() else { return Vec::new() };
        let mut metrics = all.take_metric();
        metrics.extend(families.flat_map(|mut family| family.take_metric()));
        all.set_metric(metrics);
        vec![all]
    }
}

impl<M> std::fmt::Debug for Family<M> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Family({})", self.0.declared.name)
    }
}

#[cfg(test)]
mod tests;
