//! Checks the refresh protocol and reports the number of states.
//!
//! `cargo run --release -p refresh-model` checks the small configurations, `-- full` the large ones too and
//! `-- full NAME` one of them; `-- bugs` shows for each broken rule how soon it is found, and `-- bugs
//! NoFence` how.

#![expect(clippy::print_stdout, reason = "a command that reports; there is nothing else it could do")]
#![expect(clippy::disallowed_methods, reason = "the time it took is all the clock is for")]

use std::process::ExitCode;
use std::time::Instant;

use refresh_model::{RefreshModel, Setup, catalogue, properties, trace};
use stateright::{Checker, HasDiscoveries, Model};

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    match words.first().map(String::as_str) {
        None => check(&catalogue::small()),
        Some("full") => {
            let mut setups = [catalogue::small(), catalogue::full()].concat();
            setups.retain(|setup| words.get(1).is_none_or(|name| setup.name == name));
            check(&setups)
        }
        Some("bugs") => show_bugs(words.get(1).map(String::as_str)),
        Some(other) => {
            println!("'{other}' is neither 'full' nor 'bugs'");
            ExitCode::FAILURE
        }
    }
}

fn check(setups: &[Setup]) -> ExitCode {
    let begun = Instant::now();
    let (mut generated, mut unique, mut failed) = (0, 0, false);
    println!(
        "{:<9} {:<34} {:>11} {:>10} {:>6} {:>7}",
        "authority", "configuration", "generated", "unique", "depth", "s"
    );
    for &setup in setups {
        let began = Instant::now();
        let checker =
            RefreshModel { setup }.checker().finish_when(HasDiscoveries::AnyFailures).spawn_bfs().join();
        generated += checker.state_count();
        unique += checker.unique_state_count();
        println!(
            "{:<9} {:<34} {:>11} {:>10} {:>6} {:>7.1}",
            format!("{:?}", setup.authority),
            setup.name,
            checker.state_count(),
            checker.unique_state_count(),
            checker.max_depth(),
            began.elapsed().as_secs_f64()
        );
        for (name, path) in checker.discoveries() {
            if name != properties::REFRESHES {
                failed = true;
                println!("FAILS: {name}, {setup:?}\n{}", trace::lines(path.into_vec()));
            }
        }
    }
    println!(
        "{} properties in {} configurations: {generated} states generated, {unique} unique, {:.1} s",
        properties::all().len(),
        setups.len(),
        begun.elapsed().as_secs_f64()
    );
    if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

fn show_bugs(only: Option<&str>) -> ExitCode {
    let mut missed = false;
    for seeded in catalogue::seeded() {
        let name = format!("{:?}", seeded.bug);
        if only.is_some_and(|only| only != name) {
            continue;
        }
        match catalogue::shortest(seeded.setup, seeded.violates) {
            Some(run) => {
                println!("{name}: '{}' after {} steps", seeded.violates, run.len() - 1);
                if only.is_some() {
                    println!("{}", trace::lines(run));
                }
            }
            None => {
                missed = true;
                println!("{name}: NOT FOUND");
            }
        }
    }
    if missed { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}
