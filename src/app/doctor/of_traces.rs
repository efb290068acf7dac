//! The judgement of the collector of traces. Pure. No request depends on it, so nothing here is an error.

use super::facts::CollectorFacts;
use super::finding::{Code, Report, Severity, fault};
use crate::telemetry::traces::Probed;

pub(super) fn judge(collector: &CollectorFacts, report: &mut Report) {
    let CollectorFacts { url, way_out, probed } = collector;
    match probed {
        Probed::Taken => report.see("traces", url, "takes spans"),
        Probed::Refused(why) => {
            report.see("traces", url, "REFUSES SPANS");
            report.find(
                (Severity::Warning, Code::CollectorRefuses),
                url,
                fault::COLLECTOR,
                format!("the collector of traces refuses spans, which are dropped: {why}"),
                "set `traces.endpoint` to its address for OTLP over HTTP, and `traces.headers_file` to what \
                 it asks for",
            );
        }
        Probed::NotNow(why) => {
            report.see("traces", url, "DOES NOT TAKE SPANS NOW");
            report.find(
                (Severity::Warning, Code::CollectorUnreachable),
                url,
                fault::COLLECTOR,
                format!("the collector of traces cannot be had, and spans are dropped: {why} ({way_out})"),
                "see whether it runs, whether this machine may connect to it, and whether `[traces]` and \
                 `[outbound]` name its address, its certificates and the proxy",
            );
        }
    }
}
