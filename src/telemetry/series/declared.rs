//! What a metric is to us: its declaration, and a type of the `prometheus` crate.

use prometheus::core::Collector;
use prometheus::{Gauge, IntCounter, IntGauge, Opts};

use super::exemplar::Exemplars;

/// A metric as its field in the catalogue declares it.
#[derive(Debug, Clone, Copy)]
pub struct Declared {
    /// The full name.
    pub name: &'static str,
    /// The help.
    pub help: &'static str,
    /// Prometheus' word for its type.
    pub kind: &'static str,
    /// The names of its labels.
    pub labels: &'static [&'static str],
    /// A histogram's bounds; empty for the others.
    pub buckets: &'static [f64],
}

/// A type of metric.
pub trait Metric: Collector + Clone + 'static {
    /// Prometheus' word for it.
    const KIND: &'static str;

    /// Makes one series.
    fn make(opts: Opts, buckets: &'static [f64]) -> prometheus::Result<Self>;

    /// Its exemplars, if it is a histogram that has some.
    fn exemplars(&self) -> Exemplars {
        Exemplars::new()
    }
}

impl Metric for IntCounter {
    const KIND: &'static str = "counter";

    fn make(opts: Opts, _: &'static [f64]) -> prometheus::Result<Self> {
        IntCounter::with_opts(opts)
    }
}

impl Metric for IntGauge {
    const KIND: &'static str = "gauge";

    fn make(opts: Opts, _: &'static [f64]) -> prometheus::Result<Self> {
        IntGauge::with_opts(opts)
    }
}

impl Metric for Gauge {
    const KIND: &'static str = "gauge";

    fn make(opts: Opts, _: &'static [f64]) -> prometheus::Result<Self> {
        Gauge::with_opts(opts)
    }
}
