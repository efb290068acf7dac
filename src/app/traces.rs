//! The collector of traces: the way there, and the header fields that it wants.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{
    ACCEPT, ACCEPT_ENCODING, CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, HOST, TRANSFER_ENCODING, USER_AGENT,
};
use http::{HeaderMap, HeaderName, HeaderValue};

use super::core::host_name;
use super::findings::{By, Findings};
use super::reading::public_file;
use crate::authority::{CollectorConfig, CollectorError, Outbound, Roots, TraceCollector};
use crate::config::{Config, TracesConfig};
use crate::domain::task::BoxFuture;
use crate::secret_file::SecretReader;
use crate::telemetry::traces::{Answer, Collector, Settings, Traces};

/// The longest exchange with the collector.
const TIMEOUT: Duration = Duration::from_secs(10);
/// What a warning about the collector's files ends in.
const UNTIL_THEN: &str =
    "after a start no traces are sent until that is mended; a reload leaves them as they were";

/// What a reading of `[traces]` comes to.
pub(super) enum Prepared {
    /// There is no endpoint.
    Off,
    /// Traces are sent.
    On(Settings),
    /// Something is wrong: with a file that is a warning, and what is in force stays.
    Unclear,
}

impl Prepared {
    /// Puts it in force.
    pub(super) fn take_up(self, traces: &Traces) {
        match self {
            Prepared::Off => traces.replace(None),
            Prepared::On(settings) => traces.replace(Some(settings)),
            Prepared::Unclear => {}
        }
    }
}

/// Reads what `[traces]` names.
pub(super) fn prepare(
    config: &Config,
    outbound: &Arc<Outbound>,
    by: &By<'_>,
    findings: &mut Findings<'_>,
) -> Prepared {
    match &config.traces {
        None => Prepared::Off,
        Some(traces) => settings(traces, outbound, by, findings).map_or(Prepared::Unclear, Prepared::On),
    }
}

fn settings(
    traces: &TracesConfig,
    outbound: &Arc<Outbound>,
    by: &By<'_>,
    findings: &mut Findings<'_>,
) -> Option<Settings> {
    let secrets = by.environment.secrets();
    let (headers, roots) = findings.optional(UNTIL_THEN, |findings| {
        let headers = match &traces.headers_file {
            Some(path) => read_headers(path, &secrets, findings)?,
            None => HeaderMap::new(),
        };
        let roots = match &traces.ca_file {
            Some(path) => Roots::Only(public_file::certificates("traces.ca_file", path, &secrets, findings)?),
            None => Roots::System,
        };
        Some((headers, roots))
    })?;
    let wanted = CollectorConfig {
        url: traces.endpoint.as_str().to_owned(),
        headers,
        roots,
        outbound: Arc::clone(outbound),
        timeout: TIMEOUT,
    };
    let collector = TraceCollector::new(wanted, by.ports.clock.clone()).map_err(|error| match &error {
        CollectorError::Url(_) => findings.value("traces.endpoint", error, None),
        CollectorError::Roots(_) => {
            findings.warning("traces.ca_file", format_args!("{error}; {UNTIL_THEN}"));
        }
    });
    Some(Settings {
        ratio: traces.sample_ratio,
        service: traces.service_name.clone(),
        host: host_name(),
        collector: Arc::new(Way(collector.ok()?)),
    })
}

fn read_headers(path: &Path, secrets: &SecretReader, findings: &mut Findings<'_>) -> Option<HeaderMap> {
    const KEY: &str = "traces.headers_file";
    let bytes = secrets.read(path).map_err(|error| findings.file(KEY, error)).ok()?;
    let read = std::str::from_utf8(&bytes).map_err(|_| "is not text".to_owned()).and_then(headers);
    let read = read.map_err(|problem| format!("{} {problem}", path.display()));
    read.map_err(|problem| findings.file(KEY, problem)).ok()
}

/// Reads header fields. The messages never repeat a value.
fn headers(text: &str) -> Result<HeaderMap, String> {
    let ours = [
        ACCEPT,
        ACCEPT_ENCODING,
        CONNECTION,
        CONTENT_LENGTH,
        CONTENT_TYPE,
        HOST,
        TRANSFER_ENCODING,
        USER_AGENT,
    ];
    let mut headers = HeaderMap::new();
    for (number, line) in text.lines().enumerate() {
        let (number, line) = (number + 1, line.trim());
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let (name, value) =
            line.split_once(':').ok_or_else(|| format!("has no `Name: value` in line {number}"))?;
        let name: HeaderName =
            name.trim().parse().map_err(|_| format!("has no field's name in line {number}"))?;
        if ours.contains(&name) {
            return Err(format!("names {name} in line {number}, which tokenward sets itself"));
        }
        let value = HeaderValue::from_str(value.trim());
        let mut value =
            value.map_err(|_| format!("has characters in line {number} that no field may have"))?;
        value.set_sensitive(true);
        if headers.insert(name, value).is_some() {
            return Err(format!("names the field of line {number} twice"));
        }
    }
    match headers.is_empty() {
        true => Err("has no header field; write `Name: value`, one in each line".to_owned()),
        false => Ok(headers),
    }
}

/// The authority room's client as the way of spans.
struct Way(TraceCollector);

impl Collector for Way {
    fn post(&self, message: Bytes) -> BoxFuture<'_, Result<Answer, String>> {
        Box::pin(async move {
            let answer = self.0.post(message).await?;
            Ok(Answer { status: answer.status, retry_after: answer.retry_after, body: answer.body })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn header_fields_are_read_strictly_and_never_repeated_in_a_message() {
        let read = headers("# ours\n\nAuthorization: Bearer canary\r\nx-scope-orgid:  7  \n").expect("read");
        assert_eq!(
            (&read["authorization"], &read["x-scope-orgid"]),
            (&"Bearer canary".parse().expect("a value"), &"7".parse().expect("a value"))
        );
        assert!(read.values().all(HeaderValue::is_sensitive));
        for text in [
            "",
            "# nothing",
            "canary",
            "ca nary: x",
            ": canary",
            "x: canary\u{1}",
            "Host: canary",
            "Accept: canary",
            "accept-encoding: canary",
            "User-Agent: canary",
            "content-type: canary",
            "x: canary\nX: canary",
        ] {
            let problem = headers(text).expect_err(text);
            assert!(!problem.contains("canary"), "{problem}");
        }
    }
}
