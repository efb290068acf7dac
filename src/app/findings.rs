//! Findings of a reading of the configuration: mistakes and warnings, each with the place of its key.

use std::sync::Arc;

use super::environment::Environment;
use super::process::Ports;
use crate::config::{ConfigErrors, Mistake, Places, Topic};
use crate::secret_file::fix::with_meanwhile;
use crate::telemetry::metrics::Metrics;

/// All findings so far.
pub(super) struct Findings<'a> {
    pub(super) places: &'a Places,
    mistakes: Vec<Mistake>,
    warnings: Vec<Mistake>,
    /// Whether the configuration's own words are wrong, and not only a file or user that they name.
    by_word: bool,
}

/// Why a configuration is not taken up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refused {
    /// Every mistake.
    pub errors: ConfigErrors,
    /// The warnings.
    pub warnings: Vec<Mistake>,
    /// Whether every mistake is in something that the configuration names, such as a file. Then the same
    /// configuration may be right a moment later.
    pub may_heal: bool,
}

/// What `check` says.
#[derive(Debug)]
pub struct Checked {
    /// Mistakes with which `serve` would refuse to start. If there are none, it would start.
    pub mistakes: Vec<Mistake>,
    /// Warnings with which `serve` would start.
    pub warnings: Vec<Mistake>,
}

impl<'a> Findings<'a> {
    pub(super) fn new(places: &'a Places) -> Self {
        Findings { places, mistakes: Vec::new(), warnings: Vec::new(), by_word: false }
    }

    /// A value that cannot be right.
    pub(super) fn value(&mut self, key: &str, problem: impl std::fmt::Display, nearest: Option<String>) {
        self.by_word = true;
        self.mistakes.push(Mistake { nearest, ..self.places.mistake(key, problem.to_string()) });
    }

    /// Something that a value names is wrong: a file, a directory, a user of this machine.
    pub(super) fn file(&mut self, key: &str, problem: impl std::fmt::Display) {
        let problem = problem.to_string();
        // A folder that others can change is one mistake, whatever lies in it.
        if !self.mistakes.iter().any(|known| known.problem == problem) {
            self.mistakes.push(self.places.mistake(key, problem));
        }
    }

    /// Prepares something that the daemon can do without: what is wrong with its files is a warning, and ends
    /// in `meanwhile`. A start, or a reload that brings a new secret, must not wait for it.
    pub(super) fn optional<T>(
        &mut self,
        meanwhile: &str,
        prepare: impl FnOnce(&mut Self) -> Option<T>,
    ) -> Option<T> {
        let before = self.mistakes.len();
        let made = prepare(self);
        let odd = self.mistakes.split_off(before).into_iter();
        self.warnings
            .extend(odd.map(|one| Mistake { problem: with_meanwhile(&one.problem, meanwhile), ..one }));
        made
    }

    /// Something that an operator should look at.
    pub(super) fn warning(&mut self, key: &str, problem: impl std::fmt::Display) {
        self.warnings.push(self.places.mistake(key, problem.to_string()));
    }

    /// The same, about something that `doctor` also asks others about.
    pub(super) fn warning_about(&mut self, topic: Topic, key: &str, problem: impl std::fmt::Display) {
        self.warnings.push(Mistake { topic, ..self.places.mistake(key, problem.to_string()) });
    }

    /// How many mistakes there are so far.
    pub(super) fn mistakes(&self) -> usize {
        self.mistakes.len()
    }

    /// In the order of the file.
    pub(super) fn sorted(mut self) -> Checked {
        let place = |one: &Mistake| (one.variable.clone(), one.line, one.column);
        self.mistakes.sort_by_key(place);
        self.warnings.sort_by_key(place);
        Checked { mistakes: self.mistakes, warnings: self.warnings }
    }

    pub(super) fn refused(self) -> Refused {
        let may_heal = !self.by_word;
        let Checked { mistakes, warnings } = self.sorted();
        Refused { errors: ConfigErrors { mistakes }, warnings, may_heal }
    }
}

/// The process for which, and the ports by which, a reading is made.
pub(super) struct By<'a> {
    pub(super) environment: &'a Environment,
    pub(super) ports: &'a Ports,
    pub(super) metrics: &'a Arc<Metrics>,
}
