//! The log: one line on stderr for each event.
//!
//! Invariants:
//! 1. One event is one line: control characters in values are escaped.
//! 2. The level can be changed while the process runs.
//! 3. The log of a panic has its place and never data: see [`scrub`].

use std::fmt;
use std::io::{self, Write};
use std::panic::PanicHookInfo;
use std::str::FromStr;

use tracing::level_filters::LevelFilter;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::{Layer, SubscriberExt};
use tracing_subscriber::reload;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Registry, fmt as format};

/// Level of this process's own events. Libraries log only warnings and errors.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Level {
    /// Nothing.
    Off,
    /// Faults that an operator must check.
    Error,
    /// Conditions that may become faults.
    Warn,
    /// Changes: starts, reloads, connections made and lost.
    #[default]
    Info,
    /// Each request and refresh.
    Debug,
    /// All events, without secrets; a large number.
    Trace,
}

impl Level {
    fn filter(self) -> LevelFilter {
        match self {
            Level::Off => LevelFilter::OFF,
            Level::Error => LevelFilter::ERROR,
            Level::Warn => LevelFilter::WARN,
            Level::Info => LevelFilter::INFO,
            Level::Debug => LevelFilter::DEBUG,
            Level::Trace => LevelFilter::TRACE,
        }
    }

    fn targets(self) -> Targets {
        Targets::new()
            .with_default(self.filter().min(LevelFilter::WARN))
            .with_target("tokenward", self.filter())
    }
}

/// Error: the word is no level.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("must be one of off, error, warn, info, debug, trace")]
pub struct UnknownLevel;

impl FromStr for Level {
    type Err = UnknownLevel;

    fn from_str(word: &str) -> Result<Self, UnknownLevel> {
        Ok(match word {
            "off" => Level::Off,
            "error" => Level::Error,
            "warn" => Level::Warn,
            "info" => Level::Info,
            "debug" => Level::Debug,
            "trace" => Level::Trace,
            _ => return Err(UnknownLevel),
        })
    }
}

/// Form of a log line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Format {
    /// A JSON object: `timestamp`, `level`, `target`, and the event's own fields with `message`.
    #[default]
    Json,
    /// Text for a terminal.
    Text,
}

/// Changes the level of the installed log.
#[derive(Clone)]
pub struct LevelHandle(reload::Handle<Targets, Registry>);

impl fmt::Debug for LevelHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("LevelHandle")
    }
}

impl LevelHandle {
    /// Sets the level. It has no effect once the log itself is gone.
    pub fn set(&self, level: Level) {
        let _gone = self.0.reload(level.targets());
    }
}

/// Error: the log is already installed.
#[derive(Debug, thiserror::Error)]
#[error("the log is already set up")]
pub struct AlreadySet;

/// Installs the process's log on stderr, and its panic hook. Call it once, first in `main`.
pub fn install(level: Level, format: Format) -> Result<LevelHandle, AlreadySet> {
    let (subscriber, handle) = subscriber(level, format, io::stderr);
    subscriber.try_init().map_err(|_| AlreadySet)?;
    std::panic::set_hook(Box::new(log_panic));
    Ok(handle)
}

/// Makes the log of [`install`] for another writer.
pub fn subscriber<W>(
    level: Level,
    format: Format,
    writer: W,
) -> (impl tracing::Subscriber + Send + Sync + 'static, LevelHandle)
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    let (filter, handle) = reload::Layer::new(level.targets());
    // Internal errors would go to stderr by eprintln!, which panics if stderr fails.
    let layer: Box<dyn Layer<Registry> + Send + Sync> = match format {
        Format::Json => format::layer()
            .json()
            .log_internal_errors(false)
            .flatten_event(true)
            .with_current_span(true)
            .with_span_list(false)
            .with_writer(writer)
            .with_filter(filter)
            .boxed(),
        Format::Text => format::layer()
            .log_internal_errors(false)
            .with_ansi(false)
            .with_writer(OneLine(writer))
            .with_filter(filter)
            .boxed(),
    };
    (tracing_subscriber::registry().with(layer), LevelHandle(handle))
}

/// Keeps an event on one line: it escapes line breaks and the like as in a Rust literal.
struct OneLine<W>(W);

struct OneLineWriter<W>(W);

impl<'a, W: MakeWriter<'a>> MakeWriter<'a> for OneLine<W> {
    type Writer = OneLineWriter<W::Writer>;

    fn make_writer(&'a self) -> Self::Writer {
        OneLineWriter(self.0.make_writer())
    }

    fn make_writer_for(&'a self, metadata: &tracing::Metadata<'_>) -> Self::Writer {
        OneLineWriter(self.0.make_writer_for(metadata))
    }
}

impl<W: Write> Write for OneLineWriter<W> {
    /// The subscriber writes an event as a whole, with its own newline at the end.
    fn write(&mut self, event: &[u8]) -> io::Result<usize> {
        let text = String::from_utf8_lossy(event);
        let text = text.strip_suffix('\n').unwrap_or(&text);
        if text.chars().any(char::is_control) {
            let mut line = String::with_capacity(text.len() + 16);
            for character in text.chars() {
                if character.is_control() {
                    line.extend(character.escape_default());
                } else {
                    line.push(character);
                }
            }
            line.push('\n');
            self.0.write_all(line.as_bytes())?;
        } else {
            self.0.write_all(event)?;
        }
        Ok(event.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

fn log_panic(panic: &PanicHookInfo<'_>) {
    let place = panic.location().map(ToString::to_string).unwrap_or_default();
    let thread = std::thread::current();
    let thread = thread.name().unwrap_or("unnamed");
    let message = match panic.payload().downcast_ref::<&'static str>() {
        Some(literal) => (*literal).to_owned(),
        None => panic.payload().downcast_ref::<String>().map(|text| scrub(text)).unwrap_or_default(),
    };
    tracing::error!(place, thread, said = message, "panic");
}

/// Removes data from a panic message. Formatting puts data after a colon (`expect`, `unwrap`, `assert_eq`) or
/// between quotes, and secrets have digits or are long: all of that is removed.
pub fn scrub(message: &str) -> String {
    let head = message.split([':', '\n', '"']).next().unwrap_or_default();
    let words = head.split_whitespace().map(|word| {
        let plain =
            word.len() <= 24 && word.chars().all(|c| c.is_ascii_alphabetic() || "`'.,-_()=<>!".contains(c));
        if plain { word } else { "…" }
    });
    words.take(24).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use parking_lot::Mutex;
    use std::sync::Arc;

    use super::*;

    #[derive(Clone, Default)]
    struct Memory(Arc<Mutex<Vec<u8>>>);

    impl Memory {
        fn text(&self) -> String {
            String::from_utf8(self.0.lock().clone()).expect("text")
        }
    }

    impl Write for Memory {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn logged(level: Level, format: Format, events: impl FnOnce(&LevelHandle)) -> String {
        let memory = Memory::default();
        let writer = memory.clone();
        let (subscriber, handle) = subscriber(level, format, move || writer.clone());
        tracing::subscriber::with_default(subscriber, || events(&handle));
        memory.text()
    }

    #[test]
    fn an_event_is_one_json_line_whatever_its_values_hold() {
        let text = logged(Level::Info, Format::Json, |_| {
            tracing::info!(
                target: "tokenward::x", app = "a\n{\"level\":\"ERROR\"}\u{1b}[31m\0",
                "two\r\nlines"
            );
            tracing::debug!(target: "tokenward::x", "not logged");
        });
        assert_eq!(text.matches('\n').count(), 1, "{text:?}");
        assert!(text.trim_end().chars().all(|c| !c.is_control()), "{text:?}");
        let event: serde_json::Value = serde_json::from_str(&text).expect("JSON");
        assert_eq!(event["level"], "INFO");
        assert_eq!(event["message"], "two\r\nlines");
        assert_eq!(event["app"], "a\n{\"level\":\"ERROR\"}\u{1b}[31m\0");
        assert!(event["timestamp"].as_str().is_some_and(|at| at.ends_with('Z')), "{event}");
    }

    #[test]
    fn a_text_event_is_one_line_too() {
        let text = logged(Level::Info, Format::Text, |_| {
            tracing::info!(target: "tokenward::x", app = %"a\nb\u{1b}[31m", "two\r\nlines");
        });
        assert_eq!(text.matches('\n').count(), 1, "{text:?}");
        assert!(text.trim_end().chars().all(|c| !c.is_control()), "{text:?}");
        assert!(text.contains("two\\r\\nlines"), "{text:?}");
    }

    #[test]
    fn the_level_is_ours_alone_and_can_change() {
        let text = logged(Level::Debug, Format::Json, |handle| {
            tracing::debug!(target: "tokenward::x", "one");
            tracing::info!(target: "hyper::x", "two");
            tracing::warn!(target: "hyper::x", "three");
            handle.set(Level::Error);
            tracing::warn!(target: "tokenward::x", "four");
            tracing::error!(target: "tokenward::x", "five");
            handle.set(Level::Off);
            tracing::error!(target: "tokenward::x", "six");
        });
        let said: Vec<_> =
            ["one", "two", "three", "four", "five", "six"].into_iter().filter(|w| text.contains(w)).collect();
        assert_eq!(said, ["one", "three", "five"], "{text}");
        assert_eq!("debug".parse(), Ok(Level::Debug));
        assert_eq!("verbose".parse::<Level>(), Err(UnknownLevel));
    }

    #[test]
    fn a_panic_message_keeps_its_words_and_loses_its_data() {
        let secrets = ["twk_mail_AbCdEf", "hunter2", "s3cr3t", "eyJhbGciOiJSUzI1NiJ9.e30.c2ln", "hunter"];
        for secret in secrets {
            for message in [
                format!("called `Result::unwrap()` on an `Err` value: Error({secret:?})"),
                format!("cannot open: {secret}"),
                format!("assertion `left == right` failed\n  left: {secret}\n right: 1"),
                format!("bad value \"{secret}\""),
            ] {
                assert!(!scrub(&message).contains(secret), "{}", scrub(&message));
            }
        }
        assert_eq!(scrub("index out of bounds: the len is 3 but the index is 7"), "index out of bounds");
        assert_eq!(scrub("token twk_a_b1 refused"), "token … refused");
    }

    /// Runs in a child process, because it sets the process's log and panic hook.
    #[test]
    fn an_installed_log_tells_of_a_panic_without_its_data() {
        const CHILD: &str = "TOKENWARD_TEST_LOGGING";
        if std::env::var_os(CHILD).is_some() {
            let level = install(Level::Info, Format::Json).expect("the first");
            level.set(Level::Error);
            assert!(install(Level::Info, Format::Json).is_err(), "the second");
            let thread = std::thread::Builder::new().name("worker".to_owned());
            let secret = "canary-1234";
            let panicking = thread.spawn(move || panic!("cannot use {secret}: {secret}")).expect("started");
            assert!(panicking.join().is_err());
            return;
        }
        let child = std::process::Command::new(std::env::current_exe().expect("this test"))
            .args([
                "--exact",
                "telemetry::logging::tests::an_installed_log_tells_of_a_panic_without_its_data",
            ])
            .arg("--nocapture")
            .env(CHILD, "1")
            .output()
            .expect("started");
        let said = String::from_utf8_lossy(&child.stderr);
        assert!(child.status.success(), "{said}");
        let event: serde_json::Value = said
            .lines()
            .find_map(|line| serde_json::from_str(line).ok())
            .unwrap_or_else(|| panic!("no event: {said}"));
        assert_eq!((&event["message"], &event["thread"]), (&"panic".into(), &"worker".into()), "{event}");
        assert_eq!(event["said"], "cannot use …");
        assert!(event["place"].as_str().is_some_and(|place| place.contains("logging.rs")), "{event}");
        assert!(!said.contains("canary"), "{said}");
    }
}
