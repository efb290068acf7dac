//! Makes the reference page.

use std::path::Path;

use super::*;
use crate::config::list_item;

const INTRODUCTION: &str = "\
# Metrics

<!-- Generated from src/telemetry/metrics/catalogue.rs: change that, then run
`UPDATE_METRICS=1 cargo test --lib telemetry` -->

The `ops` listener shows these at `/metrics`, and memory, CPU time and open files of the process as
`process_…`. Times are in seconds. A label that names an app, a caller, a credential or a key has its name in
the configuration, or `unknown` for any other name. Alert rules are in
[`deploy/prometheus`](../deploy/prometheus). The [runbook](../deploy/RUNBOOK.md) says what to do about each.

";

fn reference_page() -> String {
    let mut page = INTRODUCTION.to_owned();
    for Declared { name, help, kind, labels, buckets } in Catalogue::ALL {
        let range = match buckets {
            [first, .., last] => format!(", buckets from {first} to {last} s"),
            _ => String::new(),
        };
        let labels: Vec<String> = labels.iter().map(|label| format!("`{label}`")).collect();
        let by = if labels.is_empty() { String::new() } else { format!(" by {}", labels.join(", ")) };
        page.push_str(&list_item(&format!("**`{name}`** ({kind}{by}{range}). {help}")));
    }
    page
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
