//! Positions of all values in a configuration, for checks that find mistakes later.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::check::join;
use super::mistakes::{Finding, Mistake, Place, Topic};
use super::tree::{Entries, Node, Value};

/// The position of each value by its key: `apps.outlook.credentials[0].file`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Places {
    file: PathBuf,
    /// By key; the mistakes' own key is empty.
    places: BTreeMap<String, Mistake>,
}

impl Places {
    pub(super) fn of(entries: &Entries, file: &Path, text: &str) -> Self {
        let mut places = Places { file: file.to_owned(), places: BTreeMap::new() };
        places.add("", &Place::File(0), text);
        places.table("", entries, text);
        places
    }

    fn table(&mut self, path: &str, entries: &Entries, text: &str) {
        for (name, entry) in entries {
            self.node(join(path, name), &entry.node, text);
        }
    }

    fn node(&mut self, key: String, node: &Node, text: &str) {
        self.add(&key, &node.place, text);
        match &node.value {
            Value::Table(entries) => self.table(&key, entries, text),
            Value::List(items) => {
                for (index, item) in items.iter().enumerate() {
                    self.node(format!("{key}[{index}]"), item, text);
                }
            }
            _ => {}
        }
    }

    fn add(&mut self, key: &str, place: &Place, text: &str) {
        let finding = Finding {
            place: place.clone(),
            key: String::new(),
            problem: String::new(),
            nearest: None,
            topic: Topic::Other,
        };
        self.places.insert(key.to_owned(), finding.locate(&self.file, text));
    }

    /// Returns the configuration file's path.
    pub fn file(&self) -> &Path {
        &self.file
    }

    /// Makes a mistake (or a warning) about a key at its position. If the key is not in the file, the
    /// position is that of its table.
    pub fn mistake(&self, key: &str, problem: impl Into<String>) -> Mistake {
        let mut at = key;
        let place = loop {
            match self.places.get(at) {
                Some(place) => break place.clone(),
                None => at = &at[..at.rfind(['.', '[']).unwrap_or(0)],
            }
            if at.is_empty() {
                break self.places.get("").cloned().unwrap_or_else(|| Mistake {
                    file: self.file.clone(),
                    variable: None,
                    line: 0,
                    column: 0,
                    key: String::new(),
                    problem: String::new(),
                    nearest: None,
                    topic: Topic::default(),
                });
            }
        };
        Mistake { key: key.to_owned(), problem: problem.into(), ..place }
    }
}
