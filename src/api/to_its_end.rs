//! An act is done to its end and written down, though whoever asked for it has gone.

use std::sync::Arc;

use tokio::sync::oneshot;

use crate::domain::task::{BoxFuture, Tasks};
use crate::listener::{Handler, Request, RequestId, Response};

/// A handler that knows which of its requests are acts.
pub trait Acts: Handler {
    /// Whether this request may change something that outlives it.
    fn is_act(&self, request: &Request) -> bool;
}

/// A handler whose acts are tasks of their own: a client that hangs up in the middle of one takes neither the act nor its record
/// along. (Its body comes from the client all the same: where it breaks off, nothing has begun.)
pub struct ToItsEnd<H> {
    handler: Arc<H>,
    tasks: Arc<dyn Tasks>,
}

impl<H: Acts> ToItsEnd<H> {
    /// The handler, with its acts as tasks.
    pub fn new(handler: H, tasks: Arc<dyn Tasks>) -> Self {
        ToItsEnd { handler: Arc::new(handler), tasks }
    }
}

impl<H: Acts> Handler for ToItsEnd<H> {
    fn handle<'a>(&'a self, request: Request) -> BoxFuture<'a, Response> {
        if !self.handler.is_act(&request) {
            return self.handler.handle(request);
        }
        let (sender, receiver) = oneshot::channel();
        let handler = Arc::clone(&self.handler);
        let act = async move {
            // Nobody waits any more where this fails.
            let _ = sender.send(handler.handle(request).await);
        };
        self.tasks.spawn("what somebody asks for", Box::pin(act));
        Box::pin(async { receiver.await.expect("the act did not panic") })
    }

    fn head_too_large(&self, request_id: &RequestId) -> Response {
        self.handler.head_too_large(request_id)
    }

    fn overloaded(&self, request_id: &RequestId) -> Response {
        self.handler.overloaded(request_id)
    }

    fn too_many_parameters(&self, request_id: &RequestId) -> Response {
        self.handler.too_many_parameters(request_id)
    }
}
