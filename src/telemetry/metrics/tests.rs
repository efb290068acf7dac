use std::io::Write;
use std::process::{Command, Stdio};

use super::*;
use crate::telemetry::series;

const NOW: Timestamp = Timestamp::from_unix_seconds(1_795_392_000);

fn app() -> AppName {
    AppName::parse("outlook").expect("a name")
}

fn caller() -> CallerName {
    CallerName::parse("mail-sync").expect("a name")
}

fn figure(page: &str, series: &str) -> u64 {
    let lines = page.lines().filter(|line| line.starts_with(series));
    lines.map(|line| line.rsplit_once(' ').expect("a figure").1.parse::<u64>().expect("a number")).sum()
}

/// Apps, callers and what came of their requests, multiplied: the page can be scraped, every event is on it,
/// and what apps have of their own is not pushed out by the pairs.
#[test]
fn however_many_names_are_configured_the_page_can_be_scraped() {
    let metrics = Metrics::new("0.1.0");
    let long = |kind: &str, number: usize| format!("{kind}-{number:0>50}");
    let apps: Vec<AppName> =
        (0..500).map(|number| AppName::parse(&long("app", number)).expect("a name")).collect();
    let callers: Vec<CallerName> =
        (0..100).map(|number| CallerName::parse(&long("caller", number)).expect("a name")).collect();
    metrics.rename(|names| {
        names.apps = apps.iter().cloned().collect();
        names.callers = callers.iter().cloned().collect();
    });
    assert_eq!(figure(&metrics.encode(NOW), "tokenward_metrics_full"), 0);
    for (number, app) in apps.iter().enumerate() {
        for caller in &callers {
            let outcome = ["ok", "connection_not_found", "scope_forbidden"][number % 3];
            metrics.token_request(Some(app), Some(caller), "rest", outcome, Duration::ZERO);
        }
    }
    let requests = (apps.len() * callers.len()) as u64;
    let page = metrics.encode(NOW);
    assert_eq!(figure(&page, "tokenward_token_requests_total{"), requests);
    assert!(page.contains(&format!("app=\"{UNKNOWN}\",caller=\"{UNKNOWN}\"")), "those beyond");
    for app in &apps {
        metrics.expect_app(app, &["token", "discovery", "jwks"]);
        metrics.refresh(app, "ok", Duration::ZERO);
    }
    let page = metrics.encode(NOW);
    assert!(page.len() <= series::MOST_PAGE, "{} bytes", page.len());
    assert!(page.len() > series::MOST_PAGE / 2, "{} bytes: there is room left", page.len());
    assert_eq!(figure(&page, "tokenward_refreshes_total{"), apps.len() as u64);
    let own =
        apps.iter().filter(|app| page.contains(&format!("refresh_duration_seconds_count{{app=\"{app}\"")));
    let own = own.count();
    assert!(own >= 80, "{own} apps have series of their own beside all the pairs");
    assert_eq!(figure(&page, "tokenward_metrics_full"), 1);
    // Those that leave the configuration make room.
    metrics.rename(|names| names.apps = [apps[499].clone()].into());
    metrics.token_request(Some(&apps[499]), Some(&callers[7]), "rest", "ok", Duration::ZERO);
    let page = metrics.encode(NOW);
    assert!(page.contains(&format!("{{app=\"{}\",caller=\"{}\"", apps[499], callers[7])));
    assert_eq!(figure(&page, "tokenward_metrics_full"), 0);
}

/// Every event once.
fn exercised() -> Metrics {
    let (metrics, second) = (Metrics::new("0.1.0"), Duration::from_secs(1));
    metrics.rename(|names| {
        names.apps = [app()].into();
        names.callers = [caller()].into();
        names.credentials = [(app(), "2026-11".to_owned())].into();
        names.caller_keys = [(caller(), "k1".to_owned())].into();
        names.sealing_keys = ["2026-01".to_owned()].into();
    });
    let handles = metrics.token_request_handles(&app(), &caller(), "rest");
    handles.served(second);
    metrics.token_request(Some(&app()), Some(&caller()), "rest", "connection_not_found", second);
    metrics.token_request(None, None, "msi", "caller_unauthenticated", second);
    metrics.cache_lookup(CacheResult::Hit);
    metrics.refresh(&app(), "ok", second);
    metrics.lease_attempt(LeaseResult::Acquired);
    metrics.connections_by_status(&app(), &[("active", 3), ("blocked", 0)]);
    metrics.credential_expiry(&app(), "2026-11", Some(NOW.plus(second * 60)));
    metrics.credential_expiry_unknown(&app(), "2026-11", false);
    metrics.credential_state(&app(), "2026-11", CredentialState::InUse, true);
    metrics.credential_used(&app(), "2026-11", Some(NOW));
    metrics.tls_certificate_expiry("public", NOW.minus(second));
    metrics.caller_key_expiry(&caller(), "k1", NOW.plus(second));
    metrics.caller_key_used(&caller(), "k1", NOW);
    metrics.sealing_keys([("2026-01", 12, true), ("lost", 2, false), ("made-up", 1, false)].into_iter());
    metrics.sealing_key_created("2026-01", NOW);
    metrics.sealing_key_used("2026-01", NOW);
    metrics.authority_request(&app(), "token", "ok", second);
    metrics.store_operation("commit", second, true);
    metrics.store_login("password", false, NOW);
    metrics.store_login("password", true, NOW);
    metrics.store_certificate_expiry("client", NOW.plus(second * 2));
    metrics.config_reload(Some(NOW));
    metrics.config_reload(None);
    metrics.job_ended("keyring", NOW, false);
    metrics.audit_lost(2);
    metrics.listener("local").http_request(http::StatusCode::NOT_FOUND);
    metrics
}

#[test]
fn the_fixed_names_are_there_with_their_labels() {
    let text = exercised().encode(NOW);
    for series in [
        r#"token_requests_total{app="outlook",caller="mail-sync",dialect="rest",outcome="ok"} 1"#,
        r#"token_requests_total{app="outlook",caller="mail-sync",dialect="rest",outcome="connection_not_found"} 1"#,
        r#"token_requests_total{app="unknown",caller="unknown",dialect="msi",outcome="caller_unauthenticated"} 1"#,
        r#"token_request_duration_seconds_count{dialect="rest"} 2"#,
        r#"token_cache_lookups_total{result="hit"} 1"#,
        r#"token_cache_lookups_total{result="miss"} 0"#,
        r#"refreshes_total{app="outlook",outcome="ok"} 1"#,
        r#"refresh_duration_seconds_count{app="outlook"} 1"#,
        r#"lease_attempts_total{result="acquired"} 1"#,
        r#"connections{app="outlook",status="active"} 3"#,
        r#"connections{app="outlook",status="blocked"} 0"#,
        r#"credential_expiry_seconds{app="outlook",credential="2026-11"} 60"#,
        r#"credential_state{app="outlook",credential="2026-11",state="in_use"} 1"#,
        r#"credential_state{app="outlook",credential="2026-11",state="rejected"} 0"#,
        r#"credential_last_used_timestamp_seconds{app="outlook",credential="2026-11"} 1795392000"#,
        r#"sealing_key_records{key="2026-01"} 12"#,
        r#"sealing_key_records{key="unknown"} 3"#,
        r#"sealing_key_created_timestamp_seconds{key="2026-01"} 1795392000"#,
        r#"sealing_key_last_used_timestamp_seconds{key="2026-01"} 1795392000"#,
        r#"authority_requests_total{app="outlook",endpoint="token",outcome="ok"} 1"#,
        r#"store_operation_duration_seconds_count{operation="commit"} 1"#,
        r#"store_errors_total{operation="commit"} 1"#,
        r#"store_login_refused{secret="password"} 1"#,
        r#"store_login_taken_timestamp_seconds{secret="password"} 1795392000"#,
        r#"store_certificate_expiry_seconds{certificate="client"} 2"#,
        r#"config_reloads_total{outcome="ok"} 1"#,
        r#"config_reloads_total{outcome="failed"} 1"#,
        "config_last_reload_timestamp_seconds 1795392000",
        r#"job_last_run_timestamp_seconds{job_name="keyring"} 1795392000"#,
        r#"job_last_run_successful{job_name="keyring"} 0"#,
        r#"build_info{version="0.1.0"} 1"#,
        r#"tls_certificate_expiry_seconds{listener="public"} -1"#,
        "audit_lost_total 2",
    ] {
        let series = format!("tokenward_{series}");
        assert!(text.lines().any(|line| line == series), "no {series} in\n{text}");
    }
    assert!(text.contains("\nprocess_open_fds "), "{text}");
}

#[test]
fn a_credential_that_is_gone_leaves_no_series() {
    let metrics = exercised();
    metrics.connections_gone(&app(), &["active", "blocked"]);
    metrics.rename(|names| {
        names.credentials.clear();
        names.caller_keys.clear();
        names.sealing_keys.clear();
    });
    let text = metrics.encode(NOW);
    assert!(!text.contains("tokenward_connections{"), "{text}");
    for gone in ["2026-11", "k1", "2026-01"] {
        assert!(!text.contains(gone), "{gone} is still in\n{text}");
    }
}

/// The rules that promtool checks, for where it is not installed.
fn lint(text: &str) -> Vec<String> {
    let mut problems = Vec::new();
    let types: Vec<(&str, &str)> =
        text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' ')).collect();
    for (name, kind) in &types {
        if !text.contains(&format!("# HELP {name} ")) {
            problems.push(format!("{name} has no help"));
        }
        if (*kind == "counter") != name.ends_with("_total") {
            problems.push(format!("{name} is a {kind}"));
        }
        if !name.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'_')) {
            problems.push(format!("{name} has other characters than a-z and _"));
        }
        if ["_ms", "_millis", "_milliseconds", "_minutes", "_kb"].iter().any(|unit| name.ends_with(unit)) {
            problems.push(format!("{name} is not in base units"));
        }
        if !name.starts_with("tokenward_") && !name.starts_with("process_") {
            problems.push(format!("{name} lacks the prefix"));
        }
    }
    if types.len() < 30 {
        problems.push(format!("only {} families", types.len()));
    }
    problems
}

#[test]
fn the_names_follow_prometheus_s_own_rules() {
    let text = exercised().encode(NOW);
    assert_eq!(lint(&text), Vec::<String>::new());
    let promtool = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let mut promtool = match promtool {
        Ok(promtool) => promtool,
        // The rules above have been checked all the same.
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return,
        Err(error) => panic!("promtool: {error}"),
    };
    promtool.stdin.take().expect("piped").write_all(text.as_bytes()).expect("written");
    let output = promtool.wait_with_output().expect("ended");
    let said = [output.stdout, output.stderr].concat();
    assert!(output.status.success(), "promtool: {}", String::from_utf8_lossy(&said));
}
