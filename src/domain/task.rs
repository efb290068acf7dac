//! Task spawning as a port, so that a stop waits for every task and a simulation sees each one.

use std::future::Future;
use std::pin::Pin;

/// The boxed future that ports return.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Runs work that must outlive the request that started it.
pub trait Tasks: Send + Sync {
    /// Starts `task`. The log uses `name` if it panics.
    fn spawn(&self, name: &'static str, task: BoxFuture<'static, ()>);
}
