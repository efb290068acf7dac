//! What a reading of the configuration finds: mistakes and warnings, each with the place of its key.

use std::sync::Arc;

use super::environment::Environment;
use super::process::Ports;
use crate::config::{ConfigErrors, Mistake, Places};
use crate::telemetry::metrics::Metrics;

/// What has been found, each with the place of its key.
pub(super) struct Findings<'a> {
    pub(super) places: &'a Places,
    mistakes: Vec<Mistake>,
    warnings: Vec<Mistake>,
    /// Whether a word of the configuration itself is wrong, and not only what it leads to.
    by_word: bool,
}

/// Why a configuration is not taken up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refused {
    /// Every mistake.
    pub errors: ConfigErrors,
    /// What would have been said otherwise.
    pub warnings: Vec<Mistake>,
    /// Whether all of them are in what the configuration names, such as files: that may be right a moment later, with the same
    /// configuration.
    pub may_heal: bool,
}

/// What `check` says.
#[derive(Debug)]
pub struct Checked {
    /// What `serve` would refuse to start with. Empty: it would start.
    pub mistakes: Vec<Mistake>,
    /// What it would say and start all the same.
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

    /// What a value leads to is not right: a file, a directory, a user of this machine.
    pub(super) fn file(&mut self, key: &str, problem: impl std::fmt::Display) {
        let problem = problem.to_string();
        // A folder that others can change is one mistake, whatever lies in it.
        if !self.mistakes.iter().any(|known| known.problem == problem) {
            self.mistakes.push(self.places.mistake(key, problem));
        }
    }

    /// Something that an operator should look at.
    pub(super) fn warning(&mut self, key: &str, problem: impl std::fmt::Display) {
        self.warnings.push(self.places.mistake(key, problem.to_string()));
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

/// Whom and what a reading is for.
pub(super) struct By<'a> {
    pub(super) environment: &'a Environment,
    pub(super) ports: &'a Ports,
    pub(super) metrics: &'a Arc<Metrics>,
}
