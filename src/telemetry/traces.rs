//! Traces: spans wait in a bounded queue, and one task sends them to a collector (OTLP over HTTP).
//!
//! Invariants:
//! 1. No request waits for a span. What the queue has no room for is dropped, and counted.
//! 2. Where spans go, and how many traces are sampled, changes with [`Traces::replace`]; a batch on its way
//!    follows.
//! 3. Nothing is sent before the first `replace`, and nothing after [`Traces::end`].

mod judge;

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwapOption;
use bytes::Bytes;
use opentelemetry::{Context, KeyValue};
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::transform::common::tonic::ResourceAttributesWithSchema;
use opentelemetry_proto::transform::trace::tonic::group_spans_by_resource_and_scope;
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::trace::{Span, SpanData, SpanProcessor};
use parking_lot::Mutex;
use prost::Message as _;
use tokio::sync::{Notify, mpsc};
use tokio_util::sync::CancellationToken;

use self::judge::{Judgement, judge};
use crate::domain::backoff::Backoff;
use crate::domain::random::{Random, random_uuid};
use crate::domain::task::{BoxFuture, Tasks};
use crate::domain::time::Clock;
use crate::span::Tracer;
use crate::telemetry::metrics::{SpanMetrics, Undelivered};

/// Most spans that wait: some 2 MB.
const MOST_WAITING: usize = 2048;
/// Most spans of one request to the collector.
const MOST_OF_BATCH: usize = 512;
/// How long the first span of a batch waits for more.
const GATHERED_FOR: Duration = Duration::from_secs(1);
/// How often a batch is tried.
const TRIES: u32 = 6;
/// The pause between two tries, unless the collector says one.
const PAUSE: Backoff = Backoff { first: Duration::from_secs(1), longest: Duration::from_secs(30) };

/// An answer of the collector.
#[derive(Debug, Clone, Default)]
pub struct Answer {
    /// Its status.
    pub status: u16,
    /// After what time to come again, if it says so.
    pub retry_after: Option<Duration>,
    /// Its body.
    pub body: Vec<u8>,
}

/// The way to a collector.
pub trait Collector: Send + Sync {
    /// Posts a message, with the time limit of its own. An error says why no answer came.
    fn post(&self, message: Bytes) -> BoxFuture<'_, Result<Answer, String>>;
}

/// How a collector answers a message without spans.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Probed {
    /// It takes it.
    Taken,
    /// It does not, and would take no spans either, for this reason.
    Refused(String),
    /// It does not now, for this reason, and may later.
    NotNow(String),
}

/// Posts a message without spans.
pub async fn probe(collector: &dyn Collector) -> Probed {
    // (No bytes are such a message.)
    match judge(collector.post(Bytes::new()).await) {
        Judgement::Taken { .. } => Probed::Taken,
        Judgement::Refused(why) => Probed::Refused(why),
        Judgement::Again { why, .. } => Probed::NotNow(why),
    }
}

/// Where spans go, and which.
pub struct Settings {
    /// The part of the traces that begin here which is sampled, from 0 to 1.
    pub ratio: f64,
    /// `service.name` of every span.
    pub service: String,
    /// The machine's name.
    pub host: String,
    /// The collector.
    pub collector: Arc<dyn Collector>,
}

/// Traces of the process.
pub struct Traces {
    tracer: Tracer,
    shared: Arc<Shared>,
    /// Taken by the exporter.
    waiting: Mutex<Option<mpsc::Receiver<SpanData>>>,
}

struct Shared {
    clock: Arc<dyn Clock>,
    metrics: SpanMetrics,
    /// `service.instance.id`: another one with every start.
    instance: String,
    way: ArcSwapOption<Way>,
    changed: Notify,
    stop: CancellationToken,
}

struct Way {
    resource: ResourceAttributesWithSchema,
    collector: Arc<dyn Collector>,
}

impl Traces {
    /// Makes them, off.
    pub fn new(metrics: SpanMetrics, random: &Arc<dyn Random>, clock: &Arc<dyn Clock>) -> Self {
        let (spans, waiting) = mpsc::channel(MOST_WAITING);
        let queue = Queue { spans, metrics: metrics.clone() };
        Traces {
            tracer: Tracer::new(queue, Arc::clone(random), Arc::clone(clock)),
            shared: Arc::new(Shared {
                clock: Arc::clone(clock),
                metrics,
                instance: random_uuid(&**random),
                way: ArcSwapOption::empty(),
                changed: Notify::new(),
                stop: CancellationToken::new(),
            }),
            waiting: Mutex::new(Some(waiting)),
        }
    }

    /// What begins them.
    pub fn tracer(&self) -> Tracer {
        self.tracer.clone()
    }

    /// Starts the task that sends spans; it ends with [`Traces::end`].
    pub fn start(&self, tasks: &dyn Tasks) {
        if let Some(waiting) = self.waiting.lock().take() {
            let exporter = Exporter { shared: Arc::clone(&self.shared), waiting, is_failing: false };
            tasks.spawn("send spans", Box::pin(exporter.run()));
        }
    }

    /// Puts other settings in force; `None` turns tracing off.
    pub fn replace(&self, settings: Option<Settings>) {
        self.tracer.sample(settings.as_ref().map(|settings| settings.ratio));
        let way = settings.map(|Settings { service, host, collector, ratio: _ }| {
            let text = |key: &'static str, value: String| KeyValue::new(key, value);
            let resource = Resource::builder_empty().with_attributes([
                text("service.name", service),
                text("service.version", env!("CARGO_PKG_VERSION").to_owned()),
                text("service.instance.id", self.shared.instance.clone()),
                text("host.name", host),
            ]);
            Arc::new(Way { resource: (&resource.build()).into(), collector })
        });
        self.shared.way.store(way);
        self.shared.changed.notify_waiters();
    }

    /// Begins no more spans, and has those that wait sent, each batch once. What is not delivered when the
    /// exporter's task is dropped is lost.
    pub fn end(&self) {
        self.tracer.sample(None);
        self.shared.stop.cancel();
    }
}

/// Spans that have ended.
#[derive(Debug)]
struct Queue {
    spans: mpsc::Sender<SpanData>,
    metrics: SpanMetrics,
}

impl SpanProcessor for Queue {
    fn on_start(&self, _: &mut Span, _: &Context) {}

    fn on_end(&self, span: SpanData) {
        match self.spans.try_send(span) {
            Ok(()) => {}
            Err(mpsc::error::TrySendError::Full(_)) => self.metrics.dropped(Undelivered::QueueFull, 1),
            Err(mpsc::error::TrySendError::Closed(_)) => self.metrics.dropped(Undelivered::Stopped, 1),
        }
    }

    fn force_flush(&self) -> OTelSdkResult {
        Ok(())
    }

    fn shutdown_with_timeout(&self, _: Duration) -> OTelSdkResult {
        Ok(())
    }
}

struct Exporter {
    shared: Arc<Shared>,
    waiting: mpsc::Receiver<SpanData>,
    /// The present trouble is in the log already.
    is_failing: bool,
}

impl Exporter {
    async fn run(mut self) {
        let stop = self.shared.stop.clone();
        let mut batch = Vec::new();
        while !stop.is_cancelled() {
            tokio::select! {
                () = stop.cancelled() => {}
                more = self.waiting.recv_many(&mut batch, MOST_OF_BATCH) => match more {
                    // Nobody is left who could begin a span.
                    0 => return,
                    _ => self.gather(&mut batch).await,
                }
            }
            self.deliver(&mut batch).await;
        }
        self.waiting.close();
        while self.waiting.recv_many(&mut batch, MOST_OF_BATCH).await > 0 {
            self.deliver(&mut batch).await;
        }
    }

    /// Lets a batch grow for a moment.
    async fn gather(&mut self, batch: &mut Vec<SpanData>) {
        let mut is_over = self.shared.clock.sleep(GATHERED_FOR);
        while batch.len() < MOST_OF_BATCH {
            let room = MOST_OF_BATCH - batch.len();
            tokio::select! {
                () = &mut is_over => return,
                () = self.shared.stop.cancelled() => return,
                more = self.waiting.recv_many(batch, room) => if more == 0 { return },
            }
        }
    }

    /// Sends a batch, more than once if it has to be. Meanwhile spans wait in the queue.
    async fn deliver(&mut self, batch: &mut Vec<SpanData>) {
        let spans = batch.len() as u64;
        if spans == 0 {
            return;
        }
        let (shared, mut message) = (Arc::clone(&self.shared), None);
        for tried in 1..=TRIES {
            // (Before the way is read, so that no change of it is missed.)
            let changed = shared.changed.notified();
            let Some(way) = shared.way.load_full() else {
                batch.clear();
                return shared.metrics.dropped(Undelivered::Stopped, spans);
            };
            let message = message.get_or_insert_with(|| message_of(std::mem::take(batch), &way.resource));
            let wait = match judge(way.collector.post(message.clone()).await) {
                Judgement::Taken { rejected, remark } => {
                    let rejected = rejected.min(spans);
                    shared.metrics.exported(spans - rejected);
                    shared.metrics.dropped(Undelivered::Refused, rejected);
                    if rejected > 0 {
                        return self.fails(format!("it refused {rejected} of {spans} spans: {remark}"));
                    }
                    return self.works();
                }
                Judgement::Refused(why) => {
                    shared.metrics.dropped(Undelivered::Refused, spans);
                    return self.fails(why);
                }
                Judgement::Again { after, why } => {
                    self.fails(why);
                    after.unwrap_or_else(|| PAUSE.after(tried))
                }
            };
            if tried == TRIES || shared.stop.is_cancelled() {
                break;
            }
            // (Another collector, or another secret, is tried at once.)
            tokio::select! {
                () = shared.clock.sleep(wait) => {}
                () = shared.stop.cancelled() => break,
                () = changed => {}
            }
        }
        shared.metrics.dropped(Undelivered::Unreachable, spans);
    }

    fn fails(&mut self, why: String) {
        if !std::mem::replace(&mut self.is_failing, true) {
            tracing::warn!(
                why,
                "spans cannot be delivered to the collector; what it does not take is dropped"
            );
        } else {
            tracing::debug!(why, "spans cannot be delivered to the collector");
        }
    }

    fn works(&mut self) {
        if std::mem::take(&mut self.is_failing) {
            tracing::info!("the collector takes spans again");
        }
    }
}

fn message_of(spans: Vec<SpanData>, resource: &ResourceAttributesWithSchema) -> Bytes {
    let resource_spans = group_spans_by_resource_and_scope(spans, resource);
    ExportTraceServiceRequest { resource_spans }.encode_to_vec().into()
}

#[cfg(test)]
mod tests;
