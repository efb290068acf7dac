//! Metrics before the first event: a series that appears with its first event hides that event from `rate()`
//! and `increase()`, and from every alert that uses them.

use std::collections::BTreeSet;

use tokenward::authority::Endpoint;
use tokenward::domain::cause::Cause;
use tokenward::domain::verdict::{BlockReason, Disposition, ReauthReason};
use tokenward::events::{IMPORT_OUTCOMES, RELAY_OUTCOMES, Stranger, TURN_OUTCOMES};
use tokenward::repository::Owner;
use tokenward::store::observed::{OPERATIONS, Risk};

use crate::world::Plan;

#[tokio::test]
async fn every_series_whose_labels_are_a_closed_set_is_there_at_0_from_the_start() {
    let world = Plan::default().start().await;
    let shown = world.metrics().await;
    let series: BTreeSet<&str> = shown.lines().filter_map(|line| Some(line.rsplit_once(' ')?.0)).collect();

    let mut expected: Vec<String> = Vec::new();
    let mut expect = |series: String| expected.push(format!("tokenward_{series}"));
    for operation in OPERATIONS {
        expect(format!("store_errors_total{{operation=\"{operation}\"}}"));
        expect(format!("store_operation_duration_seconds_count{{operation=\"{operation}\"}}"));
    }
    for outcome in Disposition::WORDS.iter().chain([&"ok"]) {
        expect(format!("refreshes_total{{app=\"outlook\",outcome=\"{outcome}\"}}"));
        for endpoint in Endpoint::WORDS {
            expect(format!(
                "authority_requests_total{{app=\"outlook\",endpoint=\"{endpoint}\",outcome=\"{outcome}\"}}"
            ));
        }
    }
    for outcome in RELAY_OUTCOMES {
        expect(format!("relay_requests_total{{app=\"outlook\",outcome=\"{outcome}\"}}"));
    }
    for outcome in TURN_OUTCOMES {
        expect(format!("relay_turns_total{{app=\"outlook\",outcome=\"{outcome}\"}}"));
    }
    for outcome in IMPORT_OUTCOMES {
        expect(format!("imports_total{{app=\"outlook\",outcome=\"{outcome}\"}}"));
    }
    let verdict = |status: &str, reason: &str| {
        format!("verdicts_total{{app=\"outlook\",reason=\"{reason}\",status=\"{status}\"}}")
    };
    expect(verdict("active", "none"));
    ReauthReason::WORDS.iter().for_each(|reason| expect(verdict("needs_reauthorization", reason)));
    BlockReason::WORDS.iter().for_each(|reason| expect(verdict("blocked", reason)));
    for result in ["acquired", "held", "unreachable", "lost"] {
        expect(format!("lease_attempts_total{{result=\"{result}\"}}"));
    }
    for cause in Cause::ALL.map(Cause::as_str) {
        for result in ["begun", "put_off"] {
            expect(format!("upstream_budget_total{{cause=\"{cause}\",result=\"{result}\"}}"));
        }
    }
    for risk in Risk::ALL.map(Risk::as_str) {
        expect(format!("store_risk{{risk=\"{risk}\"}}"));
    }
    for result in ["hit", "miss", "stale"] {
        expect(format!("token_cache_lookups_total{{result=\"{result}\"}}"));
    }
    for outcome in ["ok", "failed"] {
        expect(format!("config_reloads_total{{outcome=\"{outcome}\"}}"));
    }
    for reason in
        ["listener_full", "peer_full", "handshake", "too_slow", "malformed", "client_certificate", "flood"]
    {
        expect(format!("http_connections_refused_total{{listener=\"public\",reason=\"{reason}\"}}"));
    }
    for protocol in ["http1", "http2"] {
        expect(format!("http_connections_accepted_total{{listener=\"public\",protocol=\"{protocol}\"}}"));
    }
    for stranger in Stranger::all().map(Stranger::as_str) {
        expect(format!("strangers_refused_total{{reason=\"{stranger}\"}}"));
    }
    for kind in Owner::kinds().chain(["unreadable"]) {
        expect(format!("record_damage_total{{kind=\"{kind}\"}}"));
    }
    for reason in ["queue_full", "unreachable", "refused", "stopped"] {
        expect(format!("spans_dropped_total{{reason=\"{reason}\"}}"));
    }
    for name in [
        "audit_lost_total",
        "audit_suppressed_total",
        "panics_total",
        "spans_exported_total",
        "sweep_refreshes_total",
    ] {
        expect(name.to_owned());
    }
    let missing: Vec<_> = expected.iter().filter(|one| !series.contains(one.as_str())).collect();
    assert!(missing.is_empty(), "{missing:#?}\n{shown}");

    // What else is counted has a label that is not a closed set.
    let counters = shown.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.strip_suffix(" counter"));
    let known = |name: &&str| expected.iter().any(|one| one.split('{').next() == Some(name));
    let open: Vec<_> =
        counters.filter(|name| name.starts_with("tokenward_")).filter(|name| !known(name)).collect();
    let with_names = [
        "tokenward_audit_checkpoints_failed_total",
        "tokenward_audit_checkpoints_total",
        "tokenward_audit_records_lost_total",
        "tokenward_audit_records_total",
        "tokenward_http_requests_total",
        "tokenward_requests_over_rate_total",
        "tokenward_token_requests_total",
    ];
    assert_eq!(open, with_names);
}

/// The unit test of the catalogue holds the page to what is declared; this holds it to what is served.
#[tokio::test]
async fn what_is_served_is_in_the_reference_with_its_type() {
    let world = Plan::default().start().await;
    let shown = world.metrics().await;
    let page = include_str!("../../docs/metrics.md");
    let rows: BTreeSet<(&str, &str)> = page
        .lines()
        .filter_map(|line| line.strip_prefix("| `")?.split_once("` | "))
        .filter_map(|(name, rest)| Some((name, rest.split_once(" |")?.0)))
        .collect();
    let served: BTreeSet<(&str, &str)> = shown
        .lines()
        .filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' '))
        .filter(|(name, _)| !name.starts_with("process_"))
        .collect();
    assert!(served.len() > 30, "{served:?}");
    let missing: Vec<_> = served.difference(&rows).collect();
    assert!(missing.is_empty(), "{missing:?}");
}
