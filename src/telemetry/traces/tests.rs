use std::collections::VecDeque;

use super::*;
use crate::domain::time::Timestamp;
use crate::system::{SystemClock, SystemRandom, TokioTasks};
use crate::telemetry::metrics::Metrics;

/// A collector that answers as it is told, and otherwise takes everything.
#[derive(Default)]
struct Fake {
    answers: Mutex<VecDeque<Result<Answer, String>>>,
    posted: Mutex<Vec<Bytes>>,
    came: Notify,
}

impl Collector for Fake {
    fn post(&self, message: Bytes) -> BoxFuture<'_, Result<Answer, String>> {
        self.posted.lock().push(message);
        self.came.notify_one();
        let answer = self.answers.lock().pop_front();
        Box::pin(std::future::ready(answer.unwrap_or(Ok(Answer { status: 200, ..Answer::default() }))))
    }
}

impl Fake {
    fn spans(&self) -> usize {
        let decode = |message: &Bytes| ExportTraceServiceRequest::decode(message.clone()).expect("a message");
        let all = self.posted.lock().iter().map(decode).collect::<Vec<_>>();
        all.iter()
            .flat_map(|one| &one.resource_spans)
            .flat_map(|one| &one.scope_spans)
            .map(|one| one.spans.len())
            .sum()
    }
}

struct Scene {
    metrics: Metrics,
    traces: Traces,
    tasks: TokioTasks,
}

/// A clock that sleeps for no time.
struct Hasty;

impl Clock for Hasty {
    fn now(&self) -> Timestamp {
        Timestamp::from_unix_seconds(0)
    }

    fn monotonic(&self) -> Duration {
        Duration::ZERO
    }

    fn sleep(&self, _: Duration) -> BoxFuture<'static, ()> {
        Box::pin(tokio::task::yield_now())
    }
}

impl Scene {
    fn new() -> Self {
        Scene::with(Arc::new(SystemClock::new()))
    }

    fn with(clock: Arc<dyn Clock>) -> Self {
        let metrics = Metrics::new("0.1.0");
        let random: Arc<dyn Random> = Arc::new(SystemRandom::new());
        let traces = Traces::new(metrics.spans(), &random, &clock);
        Scene { metrics, traces, tasks: TokioTasks::new() }
    }

    fn send_to(&self, collector: &Arc<Fake>) {
        self.traces.replace(Some(Settings {
            ratio: 1.0,
            service: "tokenward".to_owned(),
            host: "h".to_owned(),
            collector: collector.clone(),
        }));
    }

    fn spans(&self, count: usize) {
        for _ in 0..count {
            drop(self.traces.tracer().root("x"));
        }
    }

    fn figure(&self, series: &str) -> u64 {
        let page = self.metrics.encode(Timestamp::from_unix_seconds(0));
        let line = page.lines().find(|line| line.starts_with(&format!("tokenward_spans_{series} ")));
        line.and_then(|line| line.rsplit(' ').next()?.parse().ok())
            .unwrap_or_else(|| panic!("{series}\n{page}"))
    }

    async fn end(&self) {
        self.traces.end();
        self.tasks.close_and_wait().await;
    }
}

#[tokio::test]
async fn spans_go_out_in_batches_and_a_stop_sends_the_rest() {
    let (scene, collector) = (Scene::new(), Arc::new(Fake::default()));
    scene.spans(3); // it is off
    scene.send_to(&collector);
    scene.spans(MOST_OF_BATCH * 2 + 7);
    scene.traces.start(&scene.tasks);
    scene.end().await;
    assert_eq!(collector.spans(), MOST_OF_BATCH * 2 + 7);
    assert_eq!(collector.posted.lock().len(), 3);
    assert_eq!(scene.figure("exported_total"), (MOST_OF_BATCH * 2 + 7) as u64);
    scene.spans(1);
    assert_eq!(collector.spans(), MOST_OF_BATCH * 2 + 7, "nothing begins after the end");
}

#[tokio::test]
async fn what_the_queue_has_no_room_for_is_dropped_and_counted() {
    let (scene, collector) = (Scene::new(), Arc::new(Fake::default()));
    scene.send_to(&collector);
    scene.spans(MOST_WAITING + 9);
    assert_eq!(scene.figure("dropped_total{reason=\"queue_full\"}"), 9);
    scene.traces.start(&scene.tasks);
    scene.end().await;
    assert_eq!(collector.spans(), MOST_WAITING);
}

#[tokio::test]
async fn a_batch_is_tried_again_and_given_up_in_the_end() {
    let (scene, collector) = (Scene::with(Arc::new(Hasty)), Arc::new(Fake::default()));
    scene.send_to(&collector);
    let refused =
        |status| Ok(Answer { status, retry_after: Some(Duration::from_secs(1)), ..Answer::default() });
    collector.answers.lock().extend([refused(503), Err("no way".to_owned()), refused(429)]);
    scene.traces.start(&scene.tasks);
    let posted = async |times: usize| {
        while collector.posted.lock().len() < times {
            tokio::task::yield_now().await;
        }
    };
    scene.spans(1);
    posted(4).await;
    // As often as it is tried.
    let tries = TRIES as usize;
    collector.answers.lock().extend((0..tries).map(|_| refused(503)));
    scene.spans(2);
    posted(4 + tries).await;
    scene.spans(4);
    posted(4 + tries + 1).await;
    scene.end().await;
    assert_eq!(scene.figure("exported_total"), 5);
    assert_eq!(scene.figure("dropped_total{reason=\"unreachable\"}"), 2);
    assert_eq!(collector.posted.lock().len(), 4 + tries + 1);
}

#[tokio::test]
async fn a_batch_on_its_way_follows_to_another_collector() {
    let (scene, down, other) = (Scene::new(), Arc::new(Fake::default()), Arc::new(Fake::default()));
    down.answers.lock().extend((0..9).map(|_| Err("no way".to_owned())));
    scene.send_to(&down);
    scene.traces.start(&scene.tasks);
    scene.spans(1);
    down.came.notified().await;
    scene.send_to(&other);
    other.came.notified().await;
    scene.traces.replace(None);
    scene.spans(1);
    scene.end().await;
    assert_eq!((down.posted.lock().len(), other.spans()), (1, 1));
    assert_eq!(scene.figure("exported_total"), 1);
}

/// (Without an end: as of a start that failed halfway.)
#[tokio::test]
async fn the_task_ends_with_the_last_who_could_begin_a_span_and_sends_what_waits() {
    let (scene, collector) = (Scene::new(), Arc::new(Fake::default()));
    scene.send_to(&collector);
    scene.spans(3);
    scene.traces.start(&scene.tasks);
    let Scene { metrics: _, traces, tasks } = scene;
    drop(traces);
    let ends = tokio::time::timeout(Duration::from_secs(60), tasks.close_and_wait());
    ends.await.expect("it looks no more at a queue that nobody fills");
    assert_eq!(collector.spans(), 3);
}
