//! Checks of a tree against the table in `spec`: unknown keys, wrong kinds, values out of bounds, required
//! keys.
//!
//! Wrong values are reported and removed from the tree; absent ones with a default are added. Afterwards
//! every value in the tree has its declared kind.

use super::mistakes::{Finding, Place, Topic};
use super::spec::{Kind, Presence, SECRET_NAMES, Table, nearest, parse_duration};
use super::tree::{Entries, Entry, Node, Value, parse_default};
use crate::domain::id::AppName;

/// Checks one table and everything below it.
pub(super) fn check_table(
    spec: &Table,
    entries: &mut Entries,
    at: &Place,
    path: &str,
    out: &mut Vec<Finding>,
) {
    entries.retain(|name, entry| {
        let full = join(path, name);
        let Some(key) = spec.key(name) else {
            out.push(unknown_key(spec, name, entry.key_place.clone(), full));
            return false;
        };
        check_kind(&key.kind, &mut entry.node, &full, out)
    });
    for key in spec.keys {
        // A key removed above has been reported already, but it is absent from here on: report it as missing
        // only if nothing was said about it.
        if entries.contains_key(key.name) {
            continue;
        }
        match key.presence {
            Presence::Optional => {}
            Presence::Required => {
                let full = join(path, key.name);
                let reported = |finding: &Finding| {
                    finding
                        .key
                        .strip_prefix(&full)
                        .is_some_and(|tail| tail.is_empty() || tail.starts_with(['.', '[']))
                        || finding.nearest.as_deref() == Some(key.name) && finding.key.starts_with(path)
                };
                if !out.iter().any(reported) {
                    out.push(Finding {
                        place: at.absent(),
                        key: full,
                        problem: format!("is required: {}", lower_first(key.doc)),
                        nearest: None,
                        topic: Topic::Other,
                    });
                }
            }
            Presence::Default(text) => {
                let mut node = parse_default(text, at);
                let place = node.place.clone();
                if check_kind(&key.kind, &mut node, &join(path, key.name), out) {
                    entries.insert(key.name.to_owned(), Entry { key_place: place, node });
                }
            }
        }
    }
}

/// Makes the finding about an unknown key.
pub(super) fn unknown_key(spec: &Table, name: &str, place: Place, full: String) -> Finding {
    if SECRET_NAMES.contains(&name.to_ascii_lowercase().replace('-', "_").as_str()) {
        let files = spec.keys.iter().map(|key| key.name).filter(|name| SECRET_FILES.contains(name));
        let files: Vec<_> = files.map(|name| format!("`{name}`")).collect();
        let instead = if files.is_empty() { "a file".to_owned() } else { files.join(" or ") };
        return Finding {
            place,
            key: full,
            problem: format!(
                "secrets are never values here, nor in the environment: write it to a file that only the \
                 daemon can read and name that file with {instead}; replace this secret, since it has been \
                 written down"
            ),
            nearest: None,
            topic: Topic::Other,
        };
    }
    Finding {
        place,
        key: full,
        problem: "unknown key".to_owned(),
        nearest: nearest(name, spec.keys.iter().map(|key| key.name)),
        topic: Topic::Other,
    }
}

/// Keys that name files with secrets.
const SECRET_FILES: &[&str] = &[
    "password_file",
    "proxy_password_file",
    "token_file",
    "headers_file",
    "credentials",
    "credentials_dir",
    "file",
    "api_keys",
    "authenticate",
];

/// Checks a value, and returns true if it may stay.
fn check_kind(kind: &Kind, node: &mut Node, full: &str, out: &mut Vec<Finding>) -> bool {
    let problem = match (kind, &mut node.value) {
        (Kind::Table(table), Value::Table(entries)) => {
            let place = node.place.clone();
            check_table(table, entries, &place, full, out);
            return true;
        }
        (Kind::Map { noun, table }, Value::Table(entries)) => {
            check_named(noun, &Kind::Table(table), entries, full, out);
            return true;
        }
        (Kind::Urls { noun }, Value::Table(entries)) => {
            check_named(noun, &Kind::Url, entries, full, out);
            return true;
        }
        (Kind::List(item_kind), Value::List(items)) => {
            for (index, item) in items.iter_mut().enumerate() {
                // Items keep their indexes, so that later messages count as the reader does.
                if !check_kind(item_kind, item, &format!("{full}[{index}]"), out) {
                    item.value = Value::Wrong;
                }
            }
            return true;
        }
        (Kind::Text | Kind::Path | Kind::Url | Kind::Address | Kind::User, Value::String(text)) => {
            if text.trim().is_empty() {
                Some("must not be empty".to_owned())
            } else if text.chars().any(char::is_control) {
                Some("must not hold control characters".to_owned())
            } else {
                None
            }
        }
        (Kind::Claims, Value::Table(entries)) => {
            if entries.is_empty() {
                Some("must not be empty: name a claim and its value".to_owned())
            } else {
                check_claims(entries, full, out);
                None
            }
        }
        (Kind::OneOf(words), Value::String(text)) => {
            if words.contains(&text.as_str()) {
                None
            } else {
                out.push(Finding {
                    place: node.place.clone(),
                    key: full.to_owned(),
                    problem: format!("must be {}", one_of(words)),
                    nearest: nearest(text, words.iter().copied()),
                    topic: Topic::Other,
                });
                return false;
            }
        }
        (Kind::Integer { min, max }, Value::Integer(number)) => match number {
            Some(number) if (min..=max).contains(&&*number) => None,
            _ => Some(format!("must be a whole number from {min} to {max}")),
        },
        (Kind::Ratio, Value::Integer(Some(0 | 1))) => None,
        (Kind::Ratio, Value::Float(number)) if (0.0..=1.0).contains(number) => None,
        (Kind::Ratio, Value::Float(_) | Value::Integer(_)) => {
            Some("must be a number from 0 to 1, such as 0.01".to_owned())
        }
        (Kind::User, Value::Integer(number)) => match number {
            Some(number) if u32::try_from(*number).is_ok() => None,
            _ => Some("is not a user id".to_owned()),
        },
        (Kind::Bool, Value::Bool(_)) => None,
        (Kind::Duration { min, max }, Value::String(text)) => match parse_duration(text) {
            None => Some("must be a duration such as \"90s\", \"5m\" or \"1h\"".to_owned()),
            Some(value) if parse_duration(min) <= Some(value) && Some(value) <= parse_duration(max) => None,
            Some(_) => Some(format!("must be from {min} to {max}")),
        },
        (Kind::Duration { .. }, Value::Integer(_)) => {
            Some("must be a duration with its unit, in quotes, such as \"90s\" or \"5m\"".to_owned())
        }
        (Kind::Instant, Value::Datetime(datetime)) => match instant(datetime) {
            Some(_) => None,
            None => Some("must be a date and time with its offset, such as 2027-05-20T00:00:00Z".to_owned()),
        },
        (Kind::Instant, Value::String(_)) => {
            Some("must be a date without quotes, such as 2027-05-20T00:00:00Z".to_owned())
        }
        (kind, value) => Some(format!("must be {}, not {}", kind.what(), value.what())),
    };
    match problem {
        None => true,
        Some(problem) => {
            out.push(Finding {
                place: node.place.clone(),
                key: full.to_owned(),
                problem,
                nearest: None,
                topic: Topic::Other,
            });
            false
        }
    }
}

/// Checks named values of one kind. Apps, issuers, callers, admins and bases are named alike.
fn check_named(noun: &str, kind: &Kind, entries: &mut Entries, full: &str, out: &mut Vec<Finding>) {
    entries.retain(|name, entry| {
        let full = join(full, name);
        if AppName::parse(name).is_err() {
            out.push(Finding {
                place: entry.key_place.clone(),
                key: full.clone(),
                problem: format!("{noun} names are up to 63 of `a-z 0-9 -` and begin with a letter or digit"),
                nearest: None,
                topic: Topic::Other,
            });
        }
        check_kind(kind, &mut entry.node, &full, out)
    });
}

/// Checks a table of claims and the tables in it. What is wrong is reported and removed.
fn check_claims(entries: &mut Entries, full: &str, out: &mut Vec<Finding>) {
    entries.retain(|name, entry| {
        let full = join(full, name);
        match &mut entry.node.value {
            Value::String(_) | Value::Bool(_) | Value::Integer(Some(_)) => return true,
            Value::Table(members) if !members.is_empty() => {
                check_claims(members, &full, out);
                return true;
            }
            _ => {}
        }
        out.push(Finding {
            place: entry.node.place.clone(),
            key: full,
            problem: "must be text, a whole number, true or false, or a table of these: a claim that is a \
                      list has to contain the value"
                .to_owned(),
            nearest: None,
            topic: Topic::Other,
        });
        false
    });
}

impl Kind {
    /// Describes the expected value, for messages and the reference page.
    pub(super) fn what(&self) -> String {
        match self {
            Self::Text => "a string".to_owned(),
            Self::Path => "a path in quotes".to_owned(),
            Self::Url => "a URL in quotes".to_owned(),
            Self::Address => "an address in quotes such as \"127.0.0.1:7070\"".to_owned(),
            Self::OneOf(words) => one_of(words),
            Self::Integer { min, max } => format!("a whole number from {min} to {max}"),
            Self::Ratio => "a number from 0 to 1".to_owned(),
            Self::Bool => "true or false".to_owned(),
            Self::Duration { min, max } => format!("a duration from \"{min}\" to \"{max}\""),
            Self::Instant => "a date such as 2027-05-20T00:00:00Z".to_owned(),
            Self::User => "a user's name in quotes or a user id".to_owned(),
            Self::List(item) => match item {
                Self::Text => "a list of strings".to_owned(),
                Self::Url => "a list of URLs in quotes".to_owned(),
                Self::OneOf(words) => format!("a list of {}", one_of(words)),
                _ => "a list of tables".to_owned(),
            },
            Self::Table(_) => "a table".to_owned(),
            Self::Map { noun, .. } => format!("tables, one for each {noun}"),
            Self::Urls { noun } => format!("a table of URLs, one for each {noun}"),
            Self::Claims => "a table of claims".to_owned(),
        }
    }
}

/// Converts a TOML date: one with its offset, or a date alone, which means midnight UTC.
pub(super) fn instant(datetime: &toml::value::Datetime) -> Option<time::OffsetDateTime> {
    use time::format_description::well_known::Rfc3339;
    let text = match (&datetime.date, &datetime.time, &datetime.offset) {
        (Some(_), Some(_), Some(_)) => datetime.to_string(),
        (Some(date), None, None) => format!("{date}T00:00:00Z"),
        _ => return None,
    };
    time::OffsetDateTime::parse(&text, &Rfc3339).ok()
}

pub(super) fn join(path: &str, name: &str) -> String {
    let plain = name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-');
    let name = if plain && !name.is_empty() { name.to_owned() } else { format!("{name:?}") };
    if path.is_empty() { name } else { format!("{path}.{name}") }
}

fn one_of(words: &[&str]) -> String {
    let quoted: Vec<_> = words.iter().map(|word| format!("\"{word}\"")).collect();
    match quoted.split_last() {
        Some((last, rest)) if !rest.is_empty() => format!("{} or {last}", rest.join(", ")),
        _ => quoted.concat(),
    }
}

fn lower_first(doc: &str) -> String {
    let mut characters = doc.trim_end_matches('.').chars();
    match characters.next() {
        Some(first) => first.to_lowercase().chain(characters).collect(),
        None => String::new(),
    }
}
