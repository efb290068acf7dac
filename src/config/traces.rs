//! `[traces]`.

use super::context::{Leaf, Section};
use super::sections::TracesConfig;
use super::url::HttpUrl;

/// Where collectors take traces (OTLP over HTTP).
const PATH: &str = "/v1/traces";

/// Reads the section. `Some(None)`: there is no endpoint.
pub(super) fn traces(section: &Section<'_>) -> Option<Option<TracesConfig>> {
    let Some(endpoint) = section.text("endpoint") else {
        for key in ["sample_ratio", "headers_file", "ca_file", "service_name"] {
            if let Some(leaf) = section.node(key).filter(Leaf::is_given) {
                leaf.warning("has no effect: without `endpoint` there are no traces");
            }
        }
        return (!section.has_wrong_keys()).then_some(None);
    };
    let url = HttpUrl::parse(endpoint.value).map_err(|error| endpoint.mistake(error.to_string())).ok()?;
    if url.query().is_some() {
        endpoint.mistake("must not have a query: what the collector wants to know goes into `headers_file`");
        return None;
    }
    if let Some(leaf) = section.text("headers_file").filter(|_| !url.is_private_on_the_way()) {
        leaf.mistake(
            "needs `https://` in `endpoint`: over plain http others could read the secret on its way",
        );
        return None;
    }
    if let Some(leaf) = section.text("ca_file").filter(|_| !url.is_https()) {
        leaf.warning("has no effect: only an endpoint at `https://` shows a certificate");
    }
    if matches!(url.port(), 4317) {
        endpoint.warning("is at port 4317, where collectors speak gRPC; OTLP over HTTP is at 4318");
    }
    let endpoint = match url.path() {
        "" => HttpUrl::parse(&format!("{url}{PATH}")),
        "/" => HttpUrl::parse(&format!("{}{PATH}", url.as_str().trim_end_matches('/'))),
        _ => Ok(url),
    };
    Some(Some(TracesConfig {
        endpoint: endpoint.ok()?,
        sample_ratio: section.ratio("sample_ratio")?,
        headers_file: section.path("headers_file"),
        ca_file: section.path("ca_file"),
        service_name: section.string("service_name")?,
    }))
}
