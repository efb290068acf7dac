//! The navigations of `$expand`. Each is judged as a path of its own, so only the plain grammar is read.

use super::option::{QueryFault, begins_elsewhere, option};

/// Most levels of `$expand` within `$expand`.
const MOST_LEVELS: usize = 5;
/// Most navigations of a request.
const MOST_NAVIGATIONS: usize = 64;

/// Reads the value of `$expand`, and adds each navigation to `found`: `a($expand=b)` is `a` and `a/b`.
///
/// # Errors
/// What is wrong with it.
pub(super) fn navigations(value: &str, found: &mut Vec<String>) -> Result<(), QueryFault> {
    below("", value, MOST_LEVELS, found)
}

fn below(from: &str, value: &str, levels: usize, found: &mut Vec<String>) -> Result<(), QueryFault> {
    let levels = levels.checked_sub(1).ok_or(QueryFault::Expand)?;
    // (Within `$search` it quotes, too: what is text and what is an option would be told apart in two ways.)
    if value.contains('"') {
        return Err(QueryFault::Expand);
    }
    for item in split(value, b',')? {
        let item = item.trim_matches(' ');
        let (path, options) = match item.split_once('(') {
            None => (item, None),
            Some((path, rest)) => (path, Some(rest.strip_suffix(')').ok_or(QueryFault::Expand)?)),
        };
        let path = path.trim_end_matches(' ');
        if !path.split('/').all(is_step) || found.len() >= MOST_NAVIGATIONS {
            return Err(QueryFault::Expand);
        }
        let navigation = if from.is_empty() { path.to_owned() } else { format!("{from}/{path}") };
        found.push(navigation.clone());
        for one in options.map(|options| split(options, b';')).transpose()?.unwrap_or_default() {
            let (name, value) = one.split_once('=').ok_or(QueryFault::Expand)?;
            match option(name.trim_matches(' ')) {
                Some("expand") => below(&navigation, value, levels, found)?,
                Some("select") if value.contains(['(', ')']) => return Err(QueryFault::Select),
                Some("filter" | "orderby") if begins_elsewhere(value) => return Err(QueryFault::Filter),
                Some("select" | "filter" | "orderby" | "top" | "skip" | "count" | "search") => {}
                _ => return Err(QueryFault::Expand),
            }
        }
    }
    Ok(())
}

/// Whether a step of a navigation is a name, or what may stand at its end.
fn is_step(step: &str) -> bool {
    let is_name = step.starts_with(|first: char| first.is_ascii_alphabetic() || first == '_')
        && step.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'.')
        && !step.ends_with('.');
    is_name || matches!(step, "$ref" | "$count" | "$value")
}

/// Splits at a separator outside of quotes and parentheses.
fn split(text: &str, separator: u8) -> Result<Vec<&str>, QueryFault> {
    let (mut parts, mut begin, mut depth, mut is_quoted) = (Vec::new(), 0, 0_usize, false);
    for (at, byte) in text.bytes().enumerate() {
        match byte {
            b'\'' => is_quoted = !is_quoted,
            _ if is_quoted => {}
            b'(' => depth += 1,
            b')' => depth = depth.checked_sub(1).ok_or(QueryFault::Expand)?,
            byte if byte == separator && depth == 0 => {
                parts.push(&text[begin..at]);
                begin = at + 1;
            }
            _ => {}
        }
    }
    parts.push(&text[begin..]);
    if depth > 0 || is_quoted { Err(QueryFault::Expand) } else { Ok(parts) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(value: &str) -> Option<String> {
        let mut found = Vec::new();
        navigations(value, &mut found).ok().map(|()| found.join(" "))
    }

    #[test]
    fn every_navigation_is_found() {
        for (value, found) in [
            ("attachments", "attachments"),
            ("attachments,extensions", "attachments extensions"),
            ("attachments($select=id,name;$top=5)", "attachments"),
            ("a($expand=b($expand=c),d),e", "a a/b a/b/c a/d e"),
            ("a( $Expand =b)", "a a/b"),
            ("a(expand=b)", "a a/b"),
            ("a/$ref, b/$count", "a/$ref b/$count"),
            ("microsoft.graph.eventMessage/event", "microsoft.graph.eventMessage/event"),
            ("a($filter=name eq 'x),($expand=b';$top=1)", "a"),
        ] {
            assert_eq!(read(value).as_deref(), Some(found), "{value}");
        }
    }

    #[test]
    fn what_is_not_the_plain_grammar_is_refused() {
        for value in [
            "",
            "*",
            "a,*",
            "*/$ref",
            "a($levels=max)",
            "a($levels=3)",
            "a(",
            "a)",
            "a(b",
            "a($expand=b",
            "@x",
            "a/@x",
            "a/../b",
            "a//b",
            "a/",
            "a.",
            "a b",
            "a%20",
            "a($apply=x)",
            "a($select=b($expand=c))",
            "a($expand=*)",
            "a('k')",
            "a(1)",
            "a($filter=x eq 'y)",
            "$it",
            "$root/me",
            "a($expand=b($expand=c($expand=d($expand=e($expand=f)))))",
        ] {
            assert_eq!(read(value), None, "{value}");
        }
        let many = vec!["a"; MOST_NAVIGATIONS + 1].join(",");
        assert_eq!(read(&many), None);
    }
}
