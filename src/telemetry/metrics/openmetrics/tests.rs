use prometheus::core::Collector as _;

use super::*;
use crate::domain::time::Timestamp;
use crate::telemetry::metrics::Metrics;

#[test]
fn numbers_are_written_as_bounds_have_to_be() {
    let rows = [
        (0.0, "0.0"),
        (1.0, "1.0"),
        (2.5, "2.5"),
        (0.001, "0.001"),
        (0.000_1, "0.0001"),
        (0.000_05, "5e-05"),
        (1e21, "1e+21"),
        (1_795_392_000.0, "1795392000.0"),
        (-1.5, "-1.5"),
        (f64::INFINITY, "+Inf"),
        (f64::NEG_INFINITY, "-Inf"),
        (f64::NAN, "NaN"),
    ];
    for (value, expected) in rows {
        assert_eq!(number(value), expected);
    }
}

#[test]
fn each_kind_of_family_is_written_as_the_format_has_it() {
    let counter = prometheus::IntCounter::with_opts(
        prometheus::Opts::new("x_total", "Line\none, \"two\" \\.").const_label("l", "a\"b\\c\nd"),
    )
    .expect("a counter");
    counter.inc();
    let families = counter.collect();
    assert_eq!(
        text(&families, std::iter::empty()),
        "# TYPE x counter\n\
         # HELP x Line\\none, \\\"two\\\" \\\\.\n\
         x_total{l=\"a\\\"b\\\\c\\nd\"} 1.0\n# EOF\n"
    );
    let page = Metrics::new("0.1.0").encode_openmetrics(Timestamp::from_unix_seconds(0));
    for line in [
        "# TYPE tokenward_panics counter",
        "tokenward_panics_total 0.0",
        "# TYPE process_cpu_seconds counter",
        "# TYPE tokenward_build_info gauge",
        "tokenward_build_info{version=\"0.1.0\"} 1.0",
    ] {
        assert!(page.lines().any(|one| one == line), "no {line} in\n{page}");
    }
    assert!(page.ends_with("# EOF\n") && page.matches("# EOF").count() == 1);
}
