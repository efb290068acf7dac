//! Spans: what a sampled trace shows of the work of this process.
//!
//! A span belongs to the future that it is about ([`within`]), and whatever begins in there is its child
//! ([`begin`]). So no room passes a span on to the next. Only what begins a trace needs a [`Tracer`].
//!
//! Invariants:
//! 1. Outside of a sampled trace nothing here has an effect, and each call costs a look at one value of the
//!    thread. Every span that exists is sampled: it is decided before it is made.
//! 2. What a span says is a word of the code, a number, or a name that was checked ([`Value`]): there is no
//!    variant for other text. So no secret and no name of a user can get into one, unless the sender of a
//!    continued trace writes them into its `tracestate`, which belongs to each span of the trace.
//! 3. Log lines of work in a trace have the ids of its first span in this process (`span.trace_id`,
//!    `span.span_id`).

use std::cell::Cell;
use std::fmt;
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use arc_swap::ArcSwap;
use http::{Method, StatusCode};
use opentelemetry::trace::{
    SpanBuilder, SpanContext, SpanId, SpanKind, Status, TraceContextExt, TraceFlags, TraceId, TraceState,
    Tracer as _, TracerProvider as _,
};
use opentelemetry::{Context, InstrumentationScope, KeyValue};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::{
    IdGenerator, Sampler, SamplingDecision, SdkTracer, SdkTracerProvider, ShouldSample, SpanLimits,
    SpanProcessor,
};

use crate::domain::id::{AppName, CallerName};
use crate::domain::random::{Random, Stock, random_bytes};
use crate::domain::time::{Clock, Timestamp};

/// Most bytes of a `tracestate` that is passed on: what W3C Trace Context §3.3.1.5 asks for.
const LONGEST_STATE: usize = 512;

/// Attributes of our own.
pub mod key {
    /// The app that the work is for.
    pub const APP: &str = "tokenward.app";
    /// The caller that asks.
    pub const CALLER: &str = "tokenward.caller";
    /// The error code of the answer.
    pub const CODE: &str = "tokenward.code";
    /// The wire form of a request for a token.
    pub const DIALECT: &str = "tokenward.dialect";
    /// Which of an authority's endpoints was called.
    pub const ENDPOINT: &str = "tokenward.authority.endpoint";
    /// The listener that a request came to.
    pub const LISTENER: &str = "tokenward.listener";
    /// What came of it: `ok`, or the word that metrics have.
    pub const OUTCOME: &str = "tokenward.outcome";
    /// The request's id, where it is not the trace's.
    pub const REQUEST_ID: &str = "tokenward.request_id";
}

/// What an attribute says. There is no variant for text.
#[derive(Debug, Clone, Copy)]
pub enum Value<'a> {
    /// A word of the code.
    Word(&'static str),
    /// A number.
    Number(i64),
    /// An HTTP status.
    Status(StatusCode),
    /// An app that is configured.
    App(&'a AppName),
    /// A caller that is configured.
    Caller(&'a CallerName),
    /// A host or a URL of an authority, without user, query and fragment.
    Address(&'a str),
    /// The id of a request, 32 hexadecimal digits.
    RequestId(&'a str),
}

impl Value<'_> {
    fn at(self, key: &'static str) -> KeyValue {
        match self {
            Value::Word(word) => KeyValue::new(key, word),
            Value::Number(number) => KeyValue::new(key, number),
            Value::Status(status) => KeyValue::new(key, status.as_str().to_owned()),
            Value::App(name) => KeyValue::new(key, name.as_str().to_owned()),
            Value::Caller(name) => KeyValue::new(key, name.as_str().to_owned()),
            Value::Address(text) | Value::RequestId(text) => KeyValue::new(key, text.to_owned()),
        }
    }
}

/// What is sent with a request by the one before it in its trace (W3C Trace Context).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Parent<'a> {
    /// The trace's id, 32 lower-case hexadecimal digits, not all 0.
    pub trace: &'a str,
    /// The id of the span before, 16 of them.
    pub span: &'a str,
    /// True if the trace is sampled.
    pub is_sampled: bool,
}

/// Which trace a request belongs to.
#[derive(Debug, Clone, Copy)]
pub enum Origin<'a> {
    /// That of its sender, whose `tracestate` this is.
    Continued(Parent<'a>, Option<&'a str>),
    /// A new one with this id.
    Own(&'a str),
    /// A new one, whatever its sender says.
    Anew,
}

/// Begins traces.
#[derive(Clone)]
pub struct Tracer(Option<Arc<Source>>);

struct Source {
    is_on: AtomicBool,
    sampler: ArcSwap<Sampler>,
    ids: Ids,
    tracer: SdkTracer,
    clock: Arc<dyn Clock>,
}

impl fmt::Debug for Tracer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tracer").field("is_on", &self.is_on()).finish_non_exhaustive()
    }
}

impl Tracer {
    /// Makes one whose spans go to `processor`. It begins nothing before [`Tracer::sample`].
    pub fn new(
        processor: impl SpanProcessor + 'static,
        random: Arc<dyn Random>,
        clock: Arc<dyn Clock>,
    ) -> Self {
        let ids = Ids(Arc::new(Stock::new(random)));
        // (Whether a span is sampled is decided before it is made. The resource is the exporter's.)
        let provider = SdkTracerProvider::builder()
            .with_sampler(Sampler::AlwaysOn)
            .with_id_generator(ids.clone())
            .with_span_processor(processor)
            .with_resource(Resource::builder_empty().build())
            // (By default they come from the environment.)
            .with_span_limits(SpanLimits::default())
            .build();
        let scope = InstrumentationScope::builder("tokenward").with_version(env!("CARGO_PKG_VERSION"));
        let tracer = provider.tracer_with_scope(scope.build());
        let (is_on, sampler) = (AtomicBool::new(false), ArcSwap::from_pointee(Sampler::AlwaysOff));
        Tracer(Some(Arc::new(Source { is_on, sampler, ids, tracer, clock })))
    }

    /// One that never begins anything.
    pub fn off() -> Self {
        Tracer(None)
    }

    /// Samples this part of the traces that begin here, from 0 to 1, and those that their sender samples.
    /// `None`: none at all.
    pub fn sample(&self, ratio: Option<f64>) {
        let Some(source) = &self.0 else { return };
        if let Some(ratio) = ratio {
            let sampler = Sampler::ParentBased(Box::new(Sampler::TraceIdRatioBased(ratio)));
            source.sampler.store(Arc::new(sampler));
        }
        source.is_on.store(ratio.is_some(), Ordering::Release);
    }

    fn source(&self) -> Option<&Arc<Source>> {
        self.0.as_ref().filter(|source| source.is_on.load(Ordering::Acquire))
    }

    /// Whether anything is sampled.
    pub fn is_on(&self) -> bool {
        self.source().is_some()
    }

    /// Whether a request of this origin is sampled. The answer is always the same, but for [`Origin::Anew`].
    pub fn samples(&self, origin: Origin<'_>) -> bool {
        self.source().is_some_and(|source| source.samples(origin).is_some())
    }

    /// Begins the span of a request, if it is sampled.
    pub fn request(&self, origin: Origin<'_>, method: &Method) -> Option<Span> {
        let source = self.source()?;
        let (trace, parent) = source.samples(origin)?;
        Some(source.begin(method_word(method), SpanKind::Server, trace, parent))
    }

    /// Begins a span of work that nobody asked for, as a trace of its own, if it is sampled.
    pub fn root(&self, name: &'static str) -> Option<Span> {
        let source = self.source()?;
        let (trace, parent) = source.samples(Origin::Anew)?;
        Some(source.begin(name, SpanKind::Internal, trace, parent))
    }
}

impl Source {
    /// The trace's id and the context of the span before, if it is sampled.
    fn samples(&self, origin: Origin<'_>) -> Option<(TraceId, Context)> {
        let (trace, parent) = match origin {
            Origin::Continued(parent, _) if !parent.is_sampled => return None,
            Origin::Continued(parent, state) => {
                let trace = TraceId::from_hex(parent.trace).ok()?;
                let span = SpanId::from_hex(parent.span).ok()?;
                let flags = TraceFlags::default().with_sampled(parent.is_sampled);
                let state = state.filter(|state| state.len() <= LONGEST_STATE);
                let state: TraceState = state.and_then(|state| state.parse().ok()).unwrap_or_default();
                let before = SpanContext::new(trace, span, flags, true, state);
                (trace, Context::new().with_remote_span_context(before))
            }
            Origin::Own(id) => (TraceId::from_hex(id).ok()?, Context::new()),
            Origin::Anew => (self.ids.new_trace_id(), Context::new()),
        };
        let sampler = self.sampler.load();
        let decided = sampler.should_sample(Some(&parent), trace, "", &SpanKind::Server, &[], &[]).decision;
        (decided == SamplingDecision::RecordAndSample).then_some((trace, parent))
    }

    fn begin(self: &Arc<Self>, name: &'static str, kind: SpanKind, trace: TraceId, parent: Context) -> Span {
        let parent = parent.with_value(Arc::clone(self));
        // (A builder takes no trace id: the generator is asked for one, in this thread.)
        NEXT.set(Some(trace));
        let span = self.tracer.build_with_context(SpanBuilder::from_name(name).with_kind(kind), &parent);
        NEXT.set(None);
        Span::first(parent.with_span(span))
    }
}

thread_local! {
    /// The id of the trace that this thread is about to begin.
    static NEXT: Cell<Option<TraceId>> = const { Cell::new(None) };
}

/// Makes ids.
#[derive(Clone)]
struct Ids(Arc<Stock>);

impl fmt::Debug for Ids {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Ids")
    }
}

impl IdGenerator for Ids {
    fn new_trace_id(&self) -> TraceId {
        NEXT.take().unwrap_or_else(|| TraceId::from_bytes(random_bytes::<16>(&*self.0)))
    }

    fn new_span_id(&self) -> SpanId {
        SpanId::from_bytes(random_bytes::<8>(&*self.0))
    }
}

/// A span under way. It ends when it is dropped.
pub struct Span(Inside);

/// The place of work in a trace.
#[derive(Clone)]
struct Inside {
    context: Context,
    /// Gives log lines the ids.
    log: tracing::Span,
}

impl Inside {
    fn current() -> Option<Self> {
        let context = Context::map_current(|context| context.has_active_span().then(|| context.clone()))?;
        Some(Inside { context, log: tracing::Span::current() })
    }

    fn enter<T>(&self, work: impl FnOnce() -> T) -> T {
        let _context = self.context.clone().attach();
        self.log.in_scope(work)
    }
}

impl Span {
    /// The first of this process in its trace.
    fn first(context: Context) -> Self {
        let ids = context.span().span_context().clone();
        let (trace_id, span_id) = (ids.trace_id(), ids.span_id());
        // At this level, so that lines of every level have it.
        let log = tracing::error_span!(parent: None, "trace", %trace_id, %span_id);
        Span(Inside { context, log })
    }

    /// Sets an attribute.
    pub fn set(&self, key: &'static str, value: Value<'_>) {
        self.0.context.span().set_attribute(value.at(key));
    }

    /// Marks it as failed; `why` is a word of the code, or a status.
    pub fn fail(&self, why: Value<'_>) {
        let span = self.0.context.span();
        span.set_attribute(why.at("error.type"));
        span.set_status(Status::error(""));
    }

    /// Does `work` as a part of it.
    pub fn enter<T>(&self, work: impl FnOnce() -> T) -> T {
        self.0.enter(work)
    }

    /// Its ids, for spans of other traces that have to do with it.
    pub fn reference(&self) -> Reference {
        Reference(self.0.context.span().span_context().clone())
    }
}

impl Drop for Span {
    fn drop(&mut self) {
        self.0.context.span().end();
    }
}

impl fmt::Debug for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Span({:?})", self.0.context.span().span_context().span_id())
    }
}

/// Points at a span.
#[derive(Debug, Clone, PartialEq)]
pub struct Reference(SpanContext);

/// Begins a part of the present work. `None` outside of a sampled trace.
pub fn begin(name: &'static str) -> Option<Span> {
    child(SpanKind::Internal, || name.into())
}

/// The same for one operation of a part of this process, such as its store.
pub fn begin_operation(of: &'static str, operation: &'static str) -> Option<Span> {
    child(SpanKind::Internal, || format!("{of} {operation}").into())
}

/// The same for a request to another server.
pub fn begin_call(method: &Method) -> Option<Span> {
    let span = child(SpanKind::Client, || method_word(method).into())?;
    span.set("http.request.method", Value::Word(method_word(method)));
    Some(span)
}

fn child(kind: SpanKind, name: impl FnOnce() -> std::borrow::Cow<'static, str>) -> Option<Span> {
    let Inside { context, log } = Inside::current()?;
    let source = Arc::clone(context.get::<Arc<Source>>()?);
    let span = source.tracer.build_with_context(SpanBuilder::from_name(name()).with_kind(kind), &context);
    Some(Span(Inside { context: context.with_span(span), log }))
}

/// Does `work` as a part of this span, if there is one.
pub async fn within<F: Future>(span: Option<&Span>, work: F) -> F::Output {
    let inside = span.map(|span| span.0.clone());
    polled(inside, work).await
}

/// Keeps `work` a part of the present span, wherever it goes on.
pub fn carried<F: Future>(work: F) -> impl Future<Output = F::Output> {
    polled(Inside::current(), work)
}

async fn polled<F: Future>(inside: Option<Inside>, work: F) -> F::Output {
    let mut work = pin!(work);
    poll_fn(|cx| match &inside {
        Some(inside) => inside.enter(|| work.as_mut().poll(cx)),
        None => work.as_mut().poll(cx),
    })
    .await
}

/// Whether the present work is a part of a sampled trace.
pub fn is_shown() -> bool {
    Context::map_current(Context::has_active_span)
}

/// Sets an attribute of the present span.
pub fn set(key: &'static str, value: Value<'_>) {
    Context::map_current(|context| {
        if context.has_active_span() {
            context.span().set_attribute(value.at(key));
        }
    });
}

/// Says by which route the present request goes, as a template.
pub fn route(method: &Method, template: &'static str) {
    Context::map_current(|context| {
        if context.has_active_span() {
            let span = context.span();
            span.set_attribute(KeyValue::new("http.route", template));
            span.update_name(format!("{} {template}", method_word(method)));
        }
    });
}

/// Links the present span to one of another trace.
pub fn link(to: &Reference) {
    Context::map_current(|context| {
        if context.has_active_span() && context.span().span_context().trace_id() != to.0.trace_id() {
            context.span().add_link(to.0.clone(), Vec::new());
        }
    });
}

/// The ids of the present trace and span, for log lines that have more to say about their work.
pub fn ids() -> Option<(String, String)> {
    Context::map_current(|context| {
        context.has_active_span().then(|| {
            let ids = context.span().span_context().clone();
            (ids.trace_id().to_string(), ids.span_id().to_string())
        })
    })
}

/// The present trace's id and the time, for an exemplar.
pub fn exemplar() -> Option<([u8; 16], Timestamp)> {
    Context::map_current(|context| {
        if !context.has_active_span() {
            return None;
        }
        let source = context.get::<Arc<Source>>()?;
        Some((context.span().span_context().trace_id().to_bytes(), source.clock.now()))
    })
}

/// A method as conventions name it, so that none is a stranger's text.
pub fn method_word(method: &Method) -> &'static str {
    let known = [
        Method::GET,
        Method::HEAD,
        Method::POST,
        Method::PUT,
        Method::DELETE,
        Method::OPTIONS,
        Method::PATCH,
        Method::CONNECT,
        Method::TRACE,
    ];
    let words = ["GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH", "CONNECT", "TRACE"];
    known.iter().zip(words).find(|(one, _)| *one == method).map_or("_OTHER", |(_, word)| word)
}

#[cfg(test)]
mod tests;
