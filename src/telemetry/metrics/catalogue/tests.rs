//! Makes the reference page.

use std::path::Path;

use super::*;
use crate::config::list_item;

/// Names and labels that are promised: they change only with an entry in the changelog, and none is removed.
const FIXED: [(&str, &[&str]); 17] = [
    ("tokenward_build_info", &["version"]),
    ("tokenward_token_cache_lookups_total", &["result"]),
    ("tokenward_token_requests_total", &["app", "caller", "dialect", "outcome"]),
    ("tokenward_token_request_duration_seconds", &["dialect"]),
    ("tokenward_refreshes_total", &["app", "outcome"]),
    ("tokenward_refresh_duration_seconds", &["app"]),
    ("tokenward_lease_attempts_total", &["result"]),
    ("tokenward_connections", &["app", "status"]),
    ("tokenward_credential_expiry_seconds", &["app", "credential"]),
    ("tokenward_credential_state", &["app", "credential", "state"]),
    ("tokenward_credential_last_used_timestamp_seconds", &["app", "credential"]),
    ("tokenward_sealing_key_records", &["key"]),
    ("tokenward_authority_requests_total", &["app", "endpoint", "outcome"]),
    ("tokenward_store_operation_duration_seconds", &["operation"]),
    ("tokenward_store_errors_total", &["operation"]),
    ("tokenward_config_reloads_total", &["outcome"]),
    ("tokenward_config_last_reload_timestamp_seconds", &[]),
];

const INTRODUCTION: &str = "\
# Metrics

<!-- Generated from src/telemetry/metrics/catalogue.rs: change that, then run
`UPDATE_METRICS=1 cargo test --lib telemetry` -->

The `ops` listener shows these at `/metrics`, and memory, CPU time and open files of the process as
`process_…`. A label that names an app, a caller, a credential or a key has its name in the configuration, or
`unknown` for any other name. Alert rules are in [`deploy/prometheus`](../deploy/prometheus). The
[runbook](../deploy/RUNBOOK.md) says what to do about each, and [this page](alerts.md) by which fault each
was made to fire.

## The dashboard

[`deploy/grafana/tokenward.json`](../deploy/grafana/tokenward.json) is a dashboard for Grafana. It answers:
are callers served and how fast, is the authority answering, which credential or key ends next, who needs to
sign in again, is the store well, is tokenward itself well. It needs the recording rules of
[`deploy/prometheus`](../deploy/prometheus). Compose and [Kubernetes](kubernetes.md#tokenward-in-the-cluster)
bring it along. For any other Grafana: *Dashboards → New → Import*.

## Table

**fixed**: name and labels stay as they are. **may change**: with an entry in the
[changelog](../CHANGELOG.md).

| name | type | unit | labels | stability |
|---|---|---|---|---|
";

/// What a value counts or measures; the name says it, as Prometheus' conventions want.
fn unit(declared: &Declared) -> &'static str {
    let says = |end: &str| declared.name.ends_with(end);
    match () {
        () if says("_timestamp_seconds") => "seconds since 1970",
        () if says("_seconds") => "seconds",
        () if declared.help.starts_with("1 ") || says("_info") => "0 or 1",
        () => "number",
    }
}

fn reference_page() -> String {
    let mut page = INTRODUCTION.to_owned();
    for declared in Catalogue::ALL {
        let Declared { name, kind, labels, .. } = declared;
        let labels: Vec<String> = labels.iter().map(|label| format!("`{label}`")).collect();
        let is_fixed = FIXED.iter().any(|(fixed, _)| fixed == name);
        let stability = if is_fixed { "fixed" } else { "may change" };
        let (unit, labels) = (unit(declared), labels.join(", "));
        page.push_str(&format!("| `{name}` | {kind} | {unit} | {labels} | {stability} |\n"));
    }
    page.push_str("\n## What each says\n\n");
    for Declared { name, help, buckets, .. } in Catalogue::ALL {
        let range = match buckets {
            [first, .., last] => format!(" Buckets from {first} to {last} s."),
            _ => String::new(),
        };
        page.push_str(&list_item(&format!("**`{name}`**. {help}{range}")));
    }
    page
}

#[test]
fn what_is_promised_is_there_with_the_labels_that_are_promised() {
    for (name, labels) in FIXED {
        let declared = Catalogue::ALL.iter().find(|declared| declared.name == name);
        assert_eq!(declared.map(|declared| declared.labels), Some(labels), "{name}");
    }
}

#[test]
#[expect(clippy::disallowed_methods, reason = "a test may be told to write")]
fn the_reference_page_is_up_to_date() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/metrics.md");
    let wanted = reference_page();
    if std::env::var("UPDATE_METRICS").is_ok() {
        std::fs::write(&path, &wanted).expect("the page is written");
    }
    let found = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(found == wanted, "docs/metrics.md is out of date: UPDATE_METRICS=1 cargo test --lib telemetry");
}
