//! The file as an owned tree in which every value has its position.

use std::collections::BTreeMap;

use toml::Spanned;
use toml::de::{DeTable, DeValue};
use toml::value::Datetime;

use super::mistakes::Place;

/// A value and its position.
#[derive(Debug, Clone)]
pub(super) struct Node {
    pub(super) value: Value,
    pub(super) place: Place,
}

#[derive(Debug, Clone)]
pub(super) enum Value {
    String(String),
    /// `None` if it does not fit into 64 bits.
    Integer(Option<i64>),
    Float(f64),
    Bool(bool),
    Datetime(Datetime),
    List(Vec<Node>),
    Table(Entries),
    /// A value that was reported and is ignored from then on.
    Wrong,
}

/// A table's entries by key.
pub(super) type Entries = BTreeMap<String, Entry>;

/// A key and its value.
#[derive(Debug, Clone)]
pub(super) struct Entry {
    /// Position of the key, for mistakes about the key.
    pub(super) key_place: Place,
    pub(super) node: Node,
}

impl Value {
    /// Returns the kind of value, for messages.
    pub(super) fn what(&self) -> &'static str {
        match self {
            Self::String(_) => "a string",
            Self::Integer(_) => "a number",
            Self::Float(_) => "a number with a fraction",
            Self::Bool(_) => "true or false",
            Self::Datetime(_) => "a date",
            Self::List(_) => "a list",
            Self::Table(_) => "a table",
            Self::Wrong => "something else",
        }
    }
}

/// A syntax error.
#[derive(Debug)]
pub(super) struct SyntaxError {
    pub(super) offset: usize,
    pub(super) message: String,
}

/// Parses a whole file, and returns the readable parts and the syntax errors.
pub(super) fn parse(text: &str) -> (Node, Vec<SyntaxError>) {
    let (table, errors) = DeTable::parse_recoverable(text);
    let errors = errors.iter().map(|error| SyntaxError {
        offset: error.span().map_or(0, |span| span.start),
        message: error.message().replace('\n', " "),
    });
    let span = table.span().start;
    let entries = entries(table.into_inner(), &|offset| Place::File(offset));
    (Node { value: Value::Table(entries), place: Place::File(span) }, errors.collect())
}

/// Parses a default from the table in `spec`, as if it were at `place`.
pub(super) fn parse_default(text: &str, place: &Place) -> Node {
    let value = DeValue::parse(text).expect("defaults are tested to be TOML");
    let absent = place.absent();
    Node { value: convert(value.into_inner(), &|_| absent.clone()), place: absent }
}

fn entries(table: DeTable<'_>, place: &impl Fn(usize) -> Place) -> Entries {
    table
        .into_iter()
        .map(|(key, value)| {
            let key_offset = key.span().start;
            let offset = match value.get_ref() {
                // A table's own span may be that of any of its headers; readers look for its key.
                DeValue::Table(_) => key_offset,
                _ => value.span().start,
            };
            let node = Node { value: convert(value.into_inner(), place), place: place(offset) };
            (key.into_inner().into_owned(), Entry { key_place: place(key_offset), node })
        })
        .collect()
}

fn convert(value: DeValue<'_>, place: &impl Fn(usize) -> Place) -> Value {
    match value {
        DeValue::String(text) => Value::String(text.into_owned()),
        DeValue::Integer(number) => Value::Integer(i64::from_str_radix(number.as_str(), number.radix()).ok()),
        DeValue::Float(number) => Value::Float(number.as_str().parse().unwrap_or(f64::NAN)),
        DeValue::Boolean(value) => Value::Bool(value),
        DeValue::Datetime(value) => Value::Datetime(value),
        DeValue::Array(items) => Value::List(
            items
                .into_iter()
                .map(|item: Spanned<DeValue<'_>>| {
                    let place_of_item = place(item.span().start);
                    Node { value: convert(item.into_inner(), place), place: place_of_item }
                })
                .collect(),
        ),
        DeValue::Table(table) => Value::Table(entries(table, place)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::mistakes::line_and_column;

    fn line_of(text: &str, path: &[&str]) -> usize {
        let mut node = parse(text).0;
        for step in path {
            node = match node.value {
                Value::Table(mut table) => table.remove(*step).unwrap().node,
                Value::List(mut items) => items.remove(step.parse().unwrap()),
                _ => panic!("{step}: {}", node.value.what()),
            };
        }
        match node.place {
            Place::File(offset) => line_and_column(text, offset).0,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn places() {
        let text = "a = 1\n\n[t]\nb = 2\n[t.u]\nc = [\n 3,\n { d = 4 }]\n[[t.l]]\ne = 5\n\n[[t.l]]\nf = 6\n";
        for (path, line) in [
            (&["a"][..], 1),
            (&["t"], 3),
            (&["t", "b"], 4),
            (&["t", "u"], 5),
            (&["t", "u", "c", "0"], 7),
            (&["t", "u", "c", "1"], 8),
            (&["t", "u", "c", "1", "d"], 8),
            (&["t", "l", "0"], 9),
            (&["t", "l", "1"], 12),
            (&["t", "l", "1", "f"], 13),
        ] {
            assert_eq!(line_of(text, path), line, "{path:?}");
        }
    }

    #[test]
    fn syntax_errors_have_a_place() {
        let (_, errors) = parse("a = 1\nb = = 2\n");
        assert_eq!(line_and_column("a = 1\nb = = 2\n", errors[0].offset).0, 2);
    }
}
