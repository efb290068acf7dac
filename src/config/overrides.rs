//! Environment overrides: `TOKENWARD__LISTEN__OPS__ADDRESS=…` sets `listen.ops.address`.
//!
//! Two underscores separate names; case does not matter; `_` stands for `-` in the name of an app, a caller
//! or an admin; items of a list are named by index. Only plain values can be set, and apps, callers and
//! admins must be in the file. An override that sets nothing is a mistake, so that a misspelt one cannot seem
//! to work.

use std::collections::BTreeMap;

use super::mistakes::{Finding, Place, Topic};
use super::spec::{Kind, Presence, Table, nearest};
use super::tree::{Entries, Entry, Node, Value, parse_default};

/// Prefix of every override.
pub(super) const PREFIX: &str = "TOKENWARD__";

/// Applies the overrides to the tree.
pub(super) fn apply(
    env: &BTreeMap<String, String>,
    spec: &Table,
    root: &mut Entries,
    out: &mut Vec<Finding>,
) {
    let mut overrides: Vec<(Vec<Step>, &str, &str)> = env
        .iter()
        .filter(|(name, _)| name.get(..PREFIX.len()).is_some_and(|start| start.eq_ignore_ascii_case(PREFIX)))
        .map(|(name, value)| {
            let steps = name[PREFIX.len()..].split("__").map(Step::new).collect();
            (steps, name.as_str(), value.as_str())
        })
        .collect();
    // Item 2 comes before item 10, so that a list can be continued.
    overrides.sort();
    for (steps, name, value) in overrides {
        let variable = Override { name, value };
        if let Err(finding) = variable.enter_table(spec, root, &steps, "") {
            out.push(finding);
        }
    }
}

/// One part of an override's name, ordered by number first.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Step {
    index: Option<usize>,
    name: String,
}

impl Step {
    fn new(text: &str) -> Self {
        Self { index: text.parse().ok(), name: text.to_ascii_lowercase() }
    }
}

struct Override<'a> {
    name: &'a str,
    value: &'a str,
}

impl Override<'_> {
    fn place(&self) -> Place {
        Place::Variable(self.name.to_owned())
    }

    fn mistake(&self, key: &str, problem: impl Into<String>) -> Finding {
        Finding {
            place: self.place(),
            key: key.to_owned(),
            problem: problem.into(),
            nearest: None,
            topic: Topic::Other,
        }
    }

    fn enter_table(
        &self,
        spec: &Table,
        entries: &mut Entries,
        steps: &[Step],
        path: &str,
    ) -> Result<(), Finding> {
        let Some((step, rest)) = steps.split_first() else {
            return Err(self.mistake(path, "is a table; name one of its keys"));
        };
        let full = super::check::join(path, &step.name);
        let Some(key) = spec.key(&step.name) else {
            return Err(super::check::unknown_key(spec, &step.name, self.place(), full));
        };
        let is_new = !entries.contains_key(key.name);
        let entry = entries.entry(key.name.to_owned()).or_insert_with(|| {
            let node = match (&key.kind, &key.presence) {
                // An override of one item of a default list keeps the other items.
                (Kind::List(_), Presence::Default(text)) => parse_default(text, &Place::Absent(0)),
                (Kind::List(_), _) => Node { value: Value::List(Vec::new()), place: self.place() },
                _ => Node { value: Value::Table(Entries::new()), place: self.place() },
            };
            Entry { key_place: self.place(), node }
        });
        let result = self.enter(&key.kind, &mut entry.node, rest, &full);
        if is_new && result.is_err() {
            // The start of a wrong override is no mistake of its own.
            entries.remove(key.name);
        }
        result
    }

    fn enter(&self, kind: &Kind, node: &mut Node, steps: &[Step], path: &str) -> Result<(), Finding> {
        match (kind, &mut node.value) {
            (Kind::Table(table), Value::Table(entries)) => self.enter_table(table, entries, steps, path),
            (Kind::Map { noun, table }, Value::Table(entries)) => {
                let Some((step, rest)) = steps.split_first() else {
                    return Err(self.mistake(path, format!("name one {noun} and one of its keys")));
                };
                let wanted = step.name.replace('_', "-");
                let known: Vec<String> = entries.keys().cloned().collect();
                let Some(name) =
                    known.iter().find(|name| name.to_ascii_lowercase().replace('_', "-") == wanted)
                else {
                    return Err(Finding {
                        nearest: nearest(&wanted, known.iter().map(String::as_str)),
                        ..self.mistake(path, format!("the file has no {noun} called `{wanted}`"))
                    });
                };
                let entry = entries.get_mut(name).expect("the name comes from this table");
                let full = super::check::join(path, name);
                self.enter(&Kind::Table(table), &mut entry.node, rest, &full)
            }
            (Kind::List(item_kind), Value::List(items)) => {
                let Some((step, rest)) = steps.split_first() else {
                    return Err(self.mistake(
                        path,
                        format!("is a list; set its items one by one, beginning with {}__0", self.name),
                    ));
                };
                let Some(index) = step.index else {
                    return Err(self
                        .mistake(path, format!("is a list; `{}` is not the number of an item", step.name)));
                };
                let full = format!("{path}[{index}]");
                if index > items.len() {
                    return Err(self.mistake(
                        &full,
                        format!(
                            "the list has {} items, counted from 0, so the next one is {}",
                            items.len(),
                            items.len()
                        ),
                    ));
                }
                let is_new = index == items.len();
                if is_new {
                    let value = match item_kind {
                        Kind::Table(_) => Value::Table(Entries::new()),
                        _ => Value::Wrong,
                    };
                    items.push(Node { value, place: self.place() });
                }
                let result = self.enter(item_kind, &mut items[index], rest, &full);
                if is_new && result.is_err() {
                    items.pop();
                }
                result
            }
            // The file has another kind of value there, which is reported by itself.
            (Kind::Table(_) | Kind::Map { .. } | Kind::List(_), _) => Ok(()),
            _ if !steps.is_empty() => Err(self.mistake(path, "is a plain value and has nothing below it")),
            (kind, _) => {
                *node = Node { value: self.plain_value(kind, path)?, place: self.place() };
                Ok(())
            }
        }
    }

    fn plain_value(&self, kind: &Kind, path: &str) -> Result<Value, Finding> {
        let text = self.value;
        let wrong = || self.mistake(path, format!("must be {}", kind.what()));
        Ok(match kind {
            Kind::Bool => Value::Bool(text.parse().map_err(|_| wrong())?),
            Kind::Integer { .. } => Value::Integer(Some(text.parse().map_err(|_| wrong())?)),
            Kind::Ratio => Value::Float(text.parse().map_err(|_| wrong())?),
            Kind::User if text.bytes().all(|b| b.is_ascii_digit()) => Value::Integer(text.parse().ok()),
            Kind::Instant => Value::Datetime(text.parse().map_err(|_| wrong())?),
            _ => Value::String(text.to_owned()),
        })
    }
}
