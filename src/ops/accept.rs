//! Which format a scraper prefers (RFC 9110 §12.5.1).

use http::HeaderMap;
use http::header::ACCEPT;

/// Versions of OpenMetrics whose readers understand 1.0. (`0.0.1` is what Prometheus called it before.)
const VERSIONS: [&str; 2] = ["1.0.0", "0.0.1"];

/// Returns true if the sender names OpenMetrics, and prefers nothing else.
pub(super) fn prefers_openmetrics(headers: &HeaderMap) -> bool {
    let (mut openmetrics, mut text) = (0.0_f32, 0.0_f32);
    let values = headers.get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok());
    for range in values.flat_map(|value| value.split(',')) {
        let mut parts = range.split(';').map(str::trim);
        let name = parts.next().unwrap_or_default().to_ascii_lowercase();
        let (mut weight, mut is_ours) = (1.0_f32, true);
        for (key, value) in parts.filter_map(|part| part.split_once('=')) {
            let value = value.trim().trim_matches('"');
            match key.trim().to_ascii_lowercase().as_str() {
                "q" => weight = value.parse().unwrap_or(0.0),
                "version" => is_ours = VERSIONS.contains(&value),
                _ => {}
            }
        }
        match name.as_str() {
            "application/openmetrics-text" if is_ours => openmetrics = openmetrics.max(weight),
            "text/plain" | "text/*" | "*/*" => text = text.max(weight),
            _ => {}
        }
    }
    openmetrics > 0.0 && openmetrics >= text
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn only_a_scraper_that_asks_for_openmetrics_gets_it() {
        // What Prometheus 2 and 3 send, and others.
        let prometheus_2 = "application/openmetrics-text;version=1.0.0,application/openmetrics-text;\
                            version=0.0.1;q=0.75,text/plain;version=0.0.4;q=0.5,*/*;q=0.1";
        let prometheus_3 = "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,\
                            application/openmetrics-text;version=0.0.1;q=0.5,text/plain;version=1.0.0;\
                            escaping=allow-utf-8;q=0.4,text/plain;version=0.0.4;q=0.3,*/*;q=0.2";
        let rows = [
            (prometheus_2, true),
            (prometheus_3, true),
            ("application/openmetrics-text", true),
            ("Application/OpenMetrics-Text; Version=\"1.0.0\" ; Q=1", true),
            ("application/openmetrics-text, text/plain", true),
            ("text/plain, application/openmetrics-text;q=0.9", false),
            ("application/openmetrics-text;q=0", false),
            ("application/openmetrics-text;version=2.0.0", false),
            ("application/openmetrics-text;q=x", false),
            ("application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily", false),
            ("text/plain;version=0.0.4", false),
            ("*/*", false),
            ("", false),
            (",;,=;q", false),
        ];
        for (accept, expected) in rows {
            let mut headers = HeaderMap::new();
            headers.insert(ACCEPT, HeaderValue::from_static(accept));
            assert_eq!(prefers_openmetrics(&headers), expected, "{accept}");
        }
        assert!(!prefers_openmetrics(&HeaderMap::new()));
    }
}
