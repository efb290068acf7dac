//! The page of metrics in OpenMetrics 1.0, which has exemplars.
//! <https://prometheus.io/docs/specs/om/open_metrics_spec/>

use std::borrow::Cow;
use std::collections::HashMap;
use std::fmt::Write;

use prometheus::proto::{LabelPair, Metric, MetricFamily, MetricType};

use crate::telemetry::series::{Exemplar, Exemplars, OfSeries};

/// Content type of the format.
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// A counter's samples end so, and its family does not.
const TOTAL: &str = "_total";

/// Writes the page.
pub(super) fn text(families: &[MetricFamily], exemplars: impl Iterator<Item = OfSeries>) -> String {
    let mut page = Page { text: String::with_capacity(32 * 1024), exemplars: HashMap::new() };
    for ((family, labels), exemplars) in exemplars {
        let series = labels.iter().map(|(name, value)| label(name, value)).collect::<Vec<_>>().join(",");
        page.exemplars.insert(format!("{family}{{{series}"), exemplars);
    }
    families.iter().for_each(|family| page.family(family));
    page.text.push_str("# EOF\n");
    page.text
}

struct Page {
    text: String,
    /// By the family's name and the labels, as they are written.
    exemplars: HashMap<String, Exemplars>,
}

impl Page {
    fn family(&mut self, family: &MetricFamily) {
        let (full, kind) = (family.name(), family.get_field_type());
        let is_counter = kind == MetricType::COUNTER;
        let name = if is_counter { full.strip_suffix(TOTAL).unwrap_or(full) } else { full };
        let word = match kind {
            MetricType::COUNTER => "counter",
            MetricType::HISTOGRAM => "histogram",
            MetricType::GAUGE => "gauge",
            MetricType::SUMMARY | MetricType::UNTYPED => "unknown",
        };
        self.line(format_args!("# TYPE {name} {word}"));
        self.line(format_args!("# HELP {name} {}", escaped(family.help())));
        for metric in family.get_metric() {
            let labels = labels(metric.get_label());
            match kind {
                MetricType::COUNTER => {
                    let value = number(metric.get_counter().get_value());
                    self.line(format_args!("{name}{TOTAL}{} {value}", braced(&labels)));
                }
                MetricType::HISTOGRAM => self.histogram(name, &labels, metric),
                _ => {
                    let value = number(metric.get_gauge().get_value());
                    self.line(format_args!("{name}{} {value}", braced(&labels)));
                }
            }
        }
    }

    fn histogram(&mut self, name: &str, labels: &str, metric: &Metric) {
        let histogram = metric.get_histogram();
        let exemplars = self.exemplars.remove(&format!("{name}{{{labels}")).unwrap_or_default();
        let comma = if labels.is_empty() { "" } else { "," };
        let (count, sum) = (histogram.get_sample_count(), histogram.get_sample_sum());
        let buckets = histogram.get_bucket().iter().filter(|bucket| bucket.upper_bound().is_finite());
        let buckets = buckets.map(|bucket| (bucket.upper_bound(), bucket.cumulative_count()));
        for (place, (bound, seen)) in buckets.chain([(f64::INFINITY, count)]).enumerate() {
            let exemplar = exemplars.get(place).copied().flatten().map(shown).unwrap_or_default();
            let bound = number(bound);
            self.line(format_args!("{name}_bucket{{{labels}{comma}le=\"{bound}\"}} {seen}{exemplar}"));
        }
        self.line(format_args!("{name}_sum{} {}", braced(labels), number(sum)));
        self.line(format_args!("{name}_count{} {count}", braced(labels)));
    }

    fn line(&mut self, line: std::fmt::Arguments<'_>) {
        // (Writing to a string does not fail.)
        let _ = self.text.write_fmt(line);
        self.text.push('\n');
    }
}

fn shown(exemplar: Exemplar) -> String {
    let millis = exemplar.at.unix_millis();
    let (seconds, rest) = (millis.div_euclid(1000), millis.rem_euclid(1000));
    format!(" # {{trace_id=\"{}\"}} {} {seconds}.{rest:03}", exemplar.trace_id(), number(exemplar.value))
}

fn labels(pairs: &[LabelPair]) -> String {
    pairs.iter().map(|pair| label(pair.name(), pair.value())).collect::<Vec<_>>().join(",")
}

fn label(name: &str, value: &str) -> String {
    format!("{name}=\"{}\"", escaped(value))
}

fn braced(labels: &str) -> Cow<'static, str> {
    if labels.is_empty() { Cow::Borrowed("") } else { Cow::Owned(format!("{{{labels}}}")) }
}

fn escaped(text: &str) -> Cow<'_, str> {
    match text.contains(['\\', '\n', '"']) {
        false => Cow::Borrowed(text),
        true => Cow::Owned(text.replace('\\', r"\\").replace('\n', r"\n").replace('"', "\\\"")),
    }
}

/// A number in the form that the format wants for bounds: with a fraction, or an exponent as Go writes it.
fn number(value: f64) -> String {
    match value {
        _ if value.is_nan() => "NaN".to_owned(),
        _ if value.is_infinite() => if value > 0.0 { "+Inf" } else { "-Inf" }.to_owned(),
        _ if value != 0.0 && (value.abs() < 1e-4 || value.abs() >= 1e21) => {
            let text = format!("{value:e}");
            let (digits, exponent) = text.split_once('e').unwrap_or((&text, "0"));
            let exponent: i32 = exponent.parse().unwrap_or_default();
            let sign = if exponent < 0 { '-' } else { '+' };
            format!("{digits}e{sign}{:02}", exponent.abs())
        }
        _ => format!("{value:?}"),
    }
}

#[cfg(test)]
mod tests;
