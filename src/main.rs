<<<<<<< HEAD
//! Arguments, configuration, run, exit code; nothing else.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::ExitCode;

fn main() -> ExitCode {
    let variables: BTreeMap<String, String> = std::env::vars().collect();
    let path = PathBuf::from(std::env::args().nth(3).unwrap_or_default());
    match tokenward::config::load_file(&path, &variables) {
        Ok(loaded) => tokenward::app::serve(loaded, &path, &variables),
        Err(_) => ExitCode::from(2),
    }
=======
//! tokenward: arguments and environment in, exit code out; nothing else.

use std::process::ExitCode;
use std::sync::Arc;

use tokenward::cli::{self, Output, World};
use tokenward::system::{SystemClock, SystemRandom};

fn main() -> ExitCode {
    // The one place where the environment is read. What is not UTF-8 shows up as a wrong value rather than not at all.
    let env = std::env::vars_os()
        .map(|(name, value)| (name.to_string_lossy().into_owned(), value.to_string_lossy().into_owned()))
        .collect();
    let world = World {
        env,
        clock: Arc::new(SystemClock::new()),
        random: Arc::new(SystemRandom::new()),
        output: Output::system(),
        serve: tokenward::app::serve,
    };
    cli::run(std::env::args_os(), world)
>>>>>>> cli
}
