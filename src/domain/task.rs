//! Task spawning as a port, so that a stop waits for every task and a simulation sees each one.

use std::future::Future;
use std::pin::Pin;

/// A boxed future, as every port returns it.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Runs work that must not die with the request that asked for it.
pub trait Tasks: Send + Sync {
    /// Starts `task`; `name` is for the log when it panics.
    fn spawn(&self, name: &'static str, task: BoxFuture<'static, ()>);
}
