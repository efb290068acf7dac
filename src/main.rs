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
}
