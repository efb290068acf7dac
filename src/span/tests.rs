use std::time::Duration;

use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::trace::SpanData;
use parking_lot::Mutex;

use super::*;
use crate::system::{SystemClock, SystemRandom};

const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const SPAN: &str = "b7ad6b7169203331";

/// Keeps what has ended.
#[derive(Debug, Clone, Default)]
struct Ended(Arc<Mutex<Vec<SpanData>>>);

impl SpanProcessor for Ended {
    fn on_start(&self, _: &mut opentelemetry_sdk::trace::Span, _: &Context) {}

    fn on_end(&self, span: SpanData) {
        self.0.lock().push(span);
    }

    fn force_flush(&self) -> OTelSdkResult {
        Ok(())
    }

    fn shutdown_with_timeout(&self, _: Duration) -> OTelSdkResult {
        Ok(())
    }
}

fn tracer(ratio: f64) -> (Tracer, Ended) {
    let ended = Ended::default();
    let tracer = Tracer::new(ended.clone(), Arc::new(SystemRandom::new()), Arc::new(SystemClock::new()));
    tracer.sample(Some(ratio));
    (tracer, ended)
}

fn continued(is_sampled: bool) -> Origin<'static> {
    Origin::Continued(Parent { trace: TRACE, span: SPAN, is_sampled }, Some("a=b"))
}

#[test]
fn who_decides_what_is_sampled() {
    for (ratio, own) in [(0.0, false), (1.0, true)] {
        let (tracer, _) = tracer(ratio);
        assert!(tracer.samples(continued(true)) && !tracer.samples(continued(false)), "{ratio}");
        assert_eq!(tracer.samples(Origin::Own(TRACE)), own);
        assert_eq!((tracer.samples(Origin::Anew), tracer.root("x").is_some()), (own, own));
        tracer.sample(None);
        assert!(!tracer.is_on() && !tracer.samples(continued(true)) && tracer.root("x").is_none());
    }
    assert!(!Tracer::off().samples(continued(true)));
    // The same id gets the same answer, and a part of all ids gets a yes.
    let (tracer, _) = tracer(0.5);
    let ids: Vec<String> = (0..200).map(|_| hex::encode(random_bytes::<16>(&SystemRandom::new()))).collect();
    let sampled = |id: &&String| tracer.samples(Origin::Own(id));
    let first: Vec<_> = ids.iter().filter(sampled).collect();
    assert_eq!(first, ids.iter().filter(sampled).collect::<Vec<_>>());
    assert!((50..150).contains(&first.len()), "{}", first.len());
}

#[test]
fn a_trace_has_the_id_of_its_request_and_goes_on_with_that_of_its_sender() {
    let (tracer, ended) = tracer(1.0);
    drop(tracer.request(Origin::Own(TRACE), &Method::GET));
    drop(tracer.request(continued(true), &Method::GET));
    drop(tracer.request(Origin::Anew, &Method::from_bytes(b"BREW").expect("a method")));
    let [own, continued, anew] = &ended.0.lock()[..] else { panic!("three") };
    let trace = |span: &SpanData| span.span_context.trace_id().to_string();
    assert_eq!((trace(own), own.parent_span_id), (TRACE.to_owned(), SpanId::INVALID));
    assert_eq!((trace(continued), continued.parent_span_id.to_string()), (TRACE.to_owned(), SPAN.to_owned()));
    assert_eq!(continued.span_context.trace_state().header(), "a=b");
    assert!(trace(anew) != TRACE && anew.name == "_OTHER");
    let ids = [own, continued, anew].map(|span| span.span_context.span_id());
    assert!(ids[0] != ids[1] && ids[1] != ids[2] && !ids.contains(&SpanId::INVALID));
}

#[test]
fn a_state_that_is_too_long_or_none_is_left_out() {
    let (tracer, ended) = tracer(0.0);
    let long = format!("a={}", "b".repeat(512));
    for state in [Some(long.as_str()), Some("no state"), None] {
        let parent = Parent { trace: TRACE, span: SPAN, is_sampled: true };
        drop(tracer.request(Origin::Continued(parent, state), &Method::GET).expect("sampled"));
    }
    assert!(ended.0.lock().iter().all(|span| span.span_context.trace_state().header().is_empty()));
    assert_eq!(ended.0.lock().len(), 3);
}

#[tokio::test]
async fn work_is_a_part_of_the_span_around_it_wherever_it_goes_on() {
    let (tracer, ended) = tracer(1.0);
    assert!(begin("alone").is_none() && exemplar().is_none() && !is_shown());
    set("a", Value::Number(1));
    let root = tracer.root("root").expect("sampled");
    let begun = within(Some(&root), async {
        tokio::task::yield_now().await;
        route(&Method::GET, "/{x}");
        set("tokenward.code", Value::Word("w"));
        let (trace, _) = exemplar().expect("in a trace");
        assert_eq!(hex::encode(trace), root.reference().0.trace_id().to_string());
        let work = carried(async {
            tokio::task::yield_now().await;
            begin("elsewhere").expect("in a trace").fail(Value::Status(StatusCode::BAD_GATEWAY));
        });
        Some(work)
    });
    let task = begun.await.expect("begun");
    assert!(!is_shown());
    let elsewhere = std::thread::spawn(|| {
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
        runtime.block_on(task);
    });
    elsewhere.join().expect("done");
    drop(root);
    let [elsewhere, root] = &ended.0.lock()[..] else { panic!("two") };
    assert_eq!((elsewhere.parent_span_id, &elsewhere.name[..]), (root.span_context.span_id(), "elsewhere"));
    assert_eq!(elsewhere.status, Status::error(""));
    assert!(elsewhere.attributes.contains(&KeyValue::new("error.type", "502")));
    assert_eq!(&root.name[..], "GET /{x}");
    assert_eq!(root.attributes.len(), 2);
}

#[test]
fn a_link_is_to_another_trace() {
    let (tracer, ended) = tracer(1.0);
    let (one, other) = (tracer.root("one").expect("sampled"), tracer.root("other").expect("sampled"));
    one.enter(|| link(&one.reference()));
    one.enter(|| link(&other.reference()));
    link(&other.reference());
    drop(one);
    let ended = ended.0.lock();
    let links: Vec<_> = ended[0].links.iter().map(|link| link.span_context.clone()).collect();
    assert_eq!(links, [other.reference().0]);
}
