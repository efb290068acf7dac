//! tokenward: arguments and environment in, exit code out; nothing else.

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::sync::Arc;

use tokenward::cli::{self, Output, World};
#[cfg(debug_assertions)]
use tokenward::system::moved;
use tokenward::system::{SystemClock, SystemRandom};

/// It returns memory to the system within seconds of its last use, from a thread of its own.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    // The only place that reads the environment. A value that is not UTF-8 becomes a wrong value, not a
    // missing one.
    let env: BTreeMap<String, String> = std::env::vars_os()
        .map(|(name, value)| (name.to_string_lossy().into_owned(), value.to_string_lossy().into_owned()))
        .collect();
    #[cfg(debug_assertions)]
    if let Some(path) = env.get(moved::VARIABLE) {
        moved::follow(path.as_ref()).expect("the test that set it made the file");
    }
    let output = Output::system(&env);
    let world = World {
        env,
        clock: Arc::new(SystemClock::new()),
        random: Arc::new(SystemRandom::new()),
        output,
        serve: tokenward::app::serve,
    };
    cli::run(std::env::args_os(), world)
}
