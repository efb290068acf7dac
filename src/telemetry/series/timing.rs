//! A histogram that remembers, for each bucket, the last sampled trace that fell into it.

use std::sync::Arc;

use parking_lot::Mutex;
use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;
use prometheus::{Histogram, HistogramOpts, Opts};

use super::declared::Metric;
use super::exemplar::{Exemplar, Exemplars};
use crate::span;

/// A histogram with exemplars. Without sampled traces it has none, and costs no more than a histogram.
#[derive(Debug, Clone)]
pub struct Timing {
    histogram: Histogram,
    bounds: &'static [f64],
    exemplars: Arc<Mutex<Exemplars>>,
}

impl Timing {
    /// Counts a time, in seconds.
    pub fn observe(&self, seconds: f64) {
        self.histogram.observe(seconds);
        if let Some((trace, at)) = span::exemplar() {
            let bucket = self.bounds.iter().take_while(|bound| seconds > **bound).count();
            let mut exemplars = self.exemplars.lock();
            exemplars.resize(self.bounds.len() + 1, None);
            exemplars[bucket] = Some(Exemplar::new(trace, seconds, at));
        }
    }

    /// Its exemplars; empty if there are none.
    pub fn exemplars(&self) -> Exemplars {
        self.exemplars.lock().clone()
    }
}

impl Collector for Timing {
    fn desc(&self) -> Vec<&Desc> {
        self.histogram.desc()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        self.histogram.collect()
    }
}

impl Metric for Timing {
    const KIND: &'static str = "histogram";

    fn make(opts: Opts, buckets: &'static [f64]) -> prometheus::Result<Self> {
        let histogram = Histogram::with_opts(HistogramOpts::from(opts).buckets(buckets.to_vec()))?;
        Ok(Timing { histogram, bounds: buckets, exemplars: Arc::default() })
    }

    fn exemplars(&self) -> Exemplars {
        Timing::exemplars(self)
    }
}
