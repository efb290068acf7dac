//! How metrics are declared: a documented field is the metric. Its name is the field's after `tokenward_`,
//! and its help is the field's comment.

use std::sync::Arc;

use prometheus::core::Collector;
use prometheus::{Gauge, IntCounter, IntGauge, Opts, Registry};

use crate::telemetry::series::{Declared, Ends, Family, Known, Metric, Timing};

pub(super) type Counters = Family<IntCounter>;
pub(super) type IntGauges = Family<IntGauge>;
pub(super) type Gauges = Family<Gauge>;
pub(super) type Histograms = Family<Timing>;

/// Declares a struct of metrics. A type in the plural has labels.
///
/// ```text
/// metrics! {
///     struct Catalogue {
///         /// The help.
///         name_total: Counters["label", "other"],
///         /// The help.
///         name_seconds: Histograms["label"] in BUCKETS,
///         /// The help.
///         name: Gauge,
///     }
/// }
/// ```
macro_rules! metrics {
    (@buckets) => { &[] };
    (@buckets $buckets:ident) => { $buckets };
    ($(#[doc = $about:literal])* $vis:vis struct $name:ident {$(
        $(#[doc = $help:literal])+
        $metric:ident: $kind:ident $([$($label:literal),+])? $(in $buckets:ident)?,
    )+}) => {
        $(#[doc = $about])*
        #[derive(Debug)]
        $vis struct $name {
            $($(#[doc = $help])+ $vis $metric: $kind,)+
        }

        impl $name {
            /// The declarations, in the order of the fields.
            $vis const ALL: &[Declared] = &[$(Declared {
                name: concat!("tokenward_", stringify!($metric)),
                help: concat!($($help),+).trim_ascii_start(),
                kind: <$kind as Declare>::KIND,
                labels: &[$($($label),+)?],
                buckets: metrics!(@buckets $($buckets)?),
            }),+];

            /// Registers all of them, at zero.
            $vis fn register(register: &mut Register) -> Self {
                let mut declared = Self::ALL.iter().copied();
                let mut next = || declared.next().expect("there is one for each field");
                $name { $($metric: register.declare(next()),)+ }
            }
        }
    };
}
pub(super) use metrics;

/// Where metrics are registered.
#[derive(Debug, Default)]
pub(super) struct Register {
    pub(super) registry: Registry,
    pub(super) known: Arc<Known>,
    pub(super) families: Vec<Box<dyn Ends>>,
}

impl Register {
    /// Registers a metric; a name can only clash by a mistake in a declaration.
    pub(super) fn declare<D: Declare>(&mut self, declared: Declared) -> D {
        let metric = D::new(self, declared);
        self.registry.register(Box::new(metric.clone())).expect("every name is registered once");
        metric
    }
}

/// What a field may be: a metric, or a family of metrics that differ in their labels.
pub(super) trait Declare: Collector + Clone + 'static {
    const KIND: &'static str;

    fn new(register: &mut Register, declared: Declared) -> Self;
}

impl<M: Metric> Declare for M {
    const KIND: &'static str = M::KIND;

    fn new(_: &mut Register, declared: Declared) -> Self {
        let opts = Opts::new(declared.name, declared.help);
        M::make(opts, declared.buckets).expect("the name is a field's")
    }
}

impl<M: Metric> Declare for Family<M> {
    const KIND: &'static str = M::KIND;

    fn new(register: &mut Register, declared: Declared) -> Self {
        let family = Family::new(register.known.clone(), declared);
        register.families.push(Box::new(family.clone()));
        family
    }
}
