//! One thing of the API as lines of name and value.

use serde_json::Value;

use super::output::shown;
use crate::domain::verdict::aadsts;

/// Formats a connection as lines of name and value, including members that the API may add later.
pub(super) fn describe(connection: &Value) -> String {
    const FIRST: [&str; 5] = ["app", "connection", "status", "reason", "account"];
    const LAST: [&str; 4] = ["last_error", "attempts", "hand_outs", "advice"];
    let Some(members) = connection.as_object() else { return String::new() };
    let rest =
        members.keys().map(String::as_str).filter(|name| !FIRST.contains(name) && !LAST.contains(name));
    let names: Vec<&str> = FIRST.into_iter().chain(rest).chain(["last_error"]).collect();
    let width = names.iter().map(|name| name.len()).max().unwrap_or(0);
    let lines: Vec<String> = names
        .into_iter()
        .filter_map(|name| Some((name, members.get(name)?)))
        .map(|(name, value)| format!("{:<width$}  {}", shown(name), shown(&plain(value))))
        .collect();
    lines.join("\n")
}

/// Formats the authority's numbers, which the API has as a list, as one looks them up.
pub(super) fn numbers(codes: &Value) -> String {
    let codes = codes.as_array().into_iter().flatten().filter_map(Value::as_u64);
    aadsts(codes.filter_map(|code| u32::try_from(code).ok()))
}

/// Formats a value without JSON's marks: lists as words, tables as `name=value`.
pub(super) fn plain(value: &Value) -> String {
    match value {
        Value::Null => "-".to_owned(),
        Value::String(text) => text.clone(),
        Value::Array(items) => items.iter().map(plain).collect::<Vec<_>>().join(" "),
        Value::Object(members) => members
            .iter()
            .map(|(name, value)| format!("{name}={}", plain(value)))
            .collect::<Vec<_>>()
            .join(" "),
        other => other.to_string(),
    }
}
