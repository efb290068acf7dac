//! An act is done to its end and written down, though the client that asked for it has gone.

use std::sync::Arc;

use tokio::sync::{Semaphore, oneshot};

use crate::domain::task::{BoxFuture, Tasks};
use crate::listener::{AtOnce, Handler, PlainRequest, Refused, Request, RequestId, Response};
use crate::span;

/// Acts under way: more than any number of honest callers has, and few enough to be held where the store
/// hangs.
const MOST_ACTS: usize = 1024;

/// An API that knows which of its requests are acts.
pub(super) trait Acts: Send + Sync + 'static {
    /// What the URL of a request asks for.
    type Asked: Send + 'static;

    /// Reads a request's URL.
    fn read(&self, request: &Request) -> Self::Asked;

    /// Returns true if the request may change something that outlives it.
    fn is_act(&self, request: &Request, asked: &Self::Asked) -> bool;

    /// Answers the request.
    fn answer<'a>(&'a self, request: Request, asked: Self::Asked) -> BoxFuture<'a, Response>;

    /// Answers a plain request at once ([`Handler::at_once`]). None of those is an act.
    fn at_once(self: &Arc<Self>, _request: PlainRequest<'_>) -> Option<AtOnce> {
        None
    }

    /// Makes the answer to a request that is refused without it ([`Handler::refuse`]).
    fn refuse(&self, refused: Refused, _path: &str, id: &RequestId) -> Response {
        refused.problem(id)
    }
}

/// A handler whose acts are tasks of their own: a client that hangs up in the middle of one takes neither the
/// act nor its record along. (Its body comes from the client all the same: where it breaks off, nothing has
/// begun.)
pub(super) struct ToItsEnd<A> {
    api: Arc<A>,
    tasks: Arc<dyn Tasks>,
    /// An act outlives its connection, so that no limit of the listener counts it.
    acts: Arc<Semaphore>,
}

impl<A: Acts> ToItsEnd<A> {
    /// Makes the handler of an API, with its acts as tasks.
    pub(super) fn new(api: Arc<A>, tasks: Arc<dyn Tasks>) -> Self {
        ToItsEnd { api, tasks, acts: Arc::new(Semaphore::new(MOST_ACTS)) }
    }
}

impl<A: Acts> Handler for ToItsEnd<A> {
    fn handle<'a>(&'a self, request: Request) -> BoxFuture<'a, Response> {
        let asked = self.api.read(&request);
        if !self.api.is_act(&request, &asked) {
            return self.api.answer(request, asked);
        }
        let Ok(place) = Arc::clone(&self.acts).try_acquire_owned() else {
            let answer = self.refuse(Refused::Overloaded, &request.path, &request.request_id);
            return Box::pin(async { answer });
        };
        let (sender, receiver) = oneshot::channel();
        let api = Arc::clone(&self.api);
        let act = async move {
            // Nobody waits any more where this fails.
            let _ = sender.send(api.answer(request, asked).await);
            drop(place);
        };
        self.tasks.spawn("what somebody asks for", Box::pin(span::carried(act)));
        Box::pin(async { receiver.await.expect("the act did not panic") })
    }

    fn at_once(&self, request: PlainRequest<'_>) -> Option<AtOnce> {
        self.api.at_once(request)
    }

    fn refuse(&self, refused: Refused, path: &str, id: &RequestId) -> Response {
        self.api.refuse(refused, path, id)
    }
}

#[cfg(test)]
mod tests {
    use parking_lot::Mutex;

    use http::{HeaderMap, Method, StatusCode};

    use super::*;
    use crate::listener::{Body, Origin, Peer, PeerCertificate, Streams};
    use crate::testkit::SeededRandom;

    /// Never answers.
    struct Hangs;

    impl Acts for Hangs {
        type Asked = ();

        fn read(&self, _request: &Request) {}

        fn is_act(&self, request: &Request, (): &()) -> bool {
            request.method != Method::GET
        }

        fn answer<'a>(&'a self, _request: Request, (): ()) -> BoxFuture<'a, Response> {
            Box::pin(std::future::pending())
        }
    }

    /// Keeps the tasks, and runs none.
    #[derive(Default)]
    struct Kept(Mutex<Vec<BoxFuture<'static, ()>>>);

    impl Tasks for Kept {
        fn spawn(&self, _name: &'static str, task: BoxFuture<'static, ()>) {
            self.0.lock().push(task);
        }
    }

    fn request(method: Method) -> Request {
        Request {
            method,
            path: "/v1/connect-sessions".to_owned(),
            query: None,
            headers: HeaderMap::new(),
            peer: Peer {
                origin: Origin::Tcp(([127, 0, 0, 1], 1).into()),
                tls: false,
                certificate: PeerCertificate::None,
            },
            request_id: RequestId::new(&SeededRandom::new(1)),
            body: Body::whole(""),
            streams: Streams::none(),
        }
    }

    /// Clients hang up on acts that hang: no more of them are kept than so many, and an act that ends gives
    /// its place back.
    #[tokio::test]
    async fn acts_that_outlive_their_connections_are_bounded() {
        let tasks = Arc::new(Kept::default());
        let acts = ToItsEnd::new(Arc::new(Hangs), tasks.clone());
        let kept = || tasks.0.lock().len();
        for _ in 0..MOST_ACTS {
            drop(acts.handle(request(Method::POST)));
        }
        assert_eq!(kept(), MOST_ACTS);
        let refused = acts.handle(request(Method::POST)).await;
        assert_eq!((refused.status(), kept()), (StatusCode::SERVICE_UNAVAILABLE, MOST_ACTS));
        drop(tasks.0.lock().pop());
        drop(acts.handle(request(Method::DELETE)));
        assert_eq!(kept(), MOST_ACTS);
        drop(acts.handle(request(Method::GET)));
        assert_eq!(kept(), MOST_ACTS, "what is no act is no task");
    }
}
