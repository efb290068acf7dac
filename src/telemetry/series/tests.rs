use std::path::Path;

use prometheus::IntCounter;

use super::*;

fn app(name: &str) -> AppName {
    AppName::parse(name).expect("a name")
}

fn caller(name: &str) -> CallerName {
    CallerName::parse(name).expect("a name")
}

fn family(known: &Arc<Known>, labels: &'static [&'static str]) -> Family<IntCounter> {
    let declared = Declared { name: "x_total", help: "Help.", kind: "counter", labels, buckets: &[] };
    Family::new(known.clone(), declared)
}

fn shown<M: Metric>(family: &Family<M>) -> String {
    prometheus::TextEncoder::new().encode_to_string(&family.collect()).expect("text")
}

#[test]
fn any_number_of_names_that_are_not_configured_is_one_series() {
    let known = Arc::new(Known::default());
    known.change(|names| names.apps = [app("outlook")].into());
    let family = family(&known, &["app", "outcome"]);
    family.with(&[Label::App(&app("outlook")), Label::Word("ok")]).inc();
    for each in 0..1000 {
        family.with(&[Label::App(&app(&format!("app-{each}"))), Label::Word("ok")]).inc();
    }
    let shown = shown(&family);
    let series: Vec<_> = shown.lines().filter(|line| !line.starts_with('#')).collect();
    let expected =
        [r#"x_total{app="outlook",outcome="ok"} 1"#, r#"x_total{app="unknown",outcome="ok"} 1000"#];
    assert_eq!(series, expected);
}

#[test]
fn every_kind_of_name_is_looked_up_and_ends_with_its_configuration() {
    let (one, who) = (app("outlook"), caller("sync"));
    let full = Names {
        apps: [one.clone()].into(),
        callers: [who.clone()].into(),
        credentials: [(one.clone(), "2026".to_owned())].into(),
        caller_keys: [(who.clone(), "k1".to_owned())].into(),
        sealing_keys: ["s1".to_owned()].into(),
        audit_sinks: BTreeSet::from(["file".to_owned()]),
        issuers: ["kubernetes".to_owned()].into(),
        webhooks: ["product".to_owned()].into(),
    };
    let labels = [
        Label::App(&one),
        Label::Caller(&who),
        Label::Credential(&one, "2026"),
        Label::CallerKey(&who, "k1"),
        Label::SealingKey("s1"),
        Label::Issuer("kubernetes"),
        Label::Webhook("product"),
    ];
    for label in labels {
        let known = Arc::new(Known::default());
        let family = family(&known, &["name"]);
        assert_eq!(family.with(&[label]).collect()[0].get_metric()[0].get_label()[0].value(), UNKNOWN);
        known.change(|names| names.clone_from(&full));
        family.with(&[label]).inc();
        family.end_what_is_gone();
        assert_eq!(shown(&family).lines().filter(|line| !line.starts_with('#')).count(), 2, "{label:?}");
        known.change(|names| *names = Names::default());
        family.end_what_is_gone();
        assert_eq!(shown(&family).lines().filter(|line| !line.starts_with('#')).count(), 1, "{label:?}");
    }
}

#[test]
fn values_that_are_the_same_text_when_put_together_are_two_series() {
    let known = Arc::new(Known::default());
    known.change(|names| {
        names.apps = [app("a"), app("ab")].into();
        names.callers = [caller("bc"), caller("c")].into();
    });
    let family = family(&known, &["app", "caller"]);
    family.with(&[Label::App(&app("a")), Label::Caller(&caller("bc"))]).inc();
    family.with(&[Label::App(&app("ab")), Label::Caller(&caller("c"))]).inc();
    assert_eq!(shown(&family).matches("} 1").count(), 2, "{}", shown(&family));
}

/// Metrics made elsewhere would have unchecked labels.
#[test]
fn metrics_are_made_in_this_room_alone() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut all = vec![root.clone()];
    let mut found = Vec::new();
    while let Some(path) = all.pop() {
        if path.is_dir() {
            all.extend(std::fs::read_dir(&path).expect("a folder").map(|entry| entry.expect("there").path()));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = std::fs::read_to_string(&path).expect("text");
            if text.contains("prometheus::") && !path.ends_with("tests.rs") {
                found.push((path.strip_prefix(&root).expect("below").to_owned(), text));
            }
        }
    }
    assert!(found.iter().any(|(path, _)| path.ends_with("metrics/declare.rs")), "{found:?}");
    for (path, text) in found {
        assert!(path.starts_with("telemetry"), "{} makes metrics", path.display());
        // Nothing but the family gives a label its text.
        for banned in ["CounterVec", "GaugeVec", "HistogramVec", "MetricVec", "const_label", "variable_label"]
        {
            let is_family = path.ends_with("telemetry/series.rs");
            assert!(is_family || !text.contains(banned), "{} has {banned}", path.display());
        }
    }
}
