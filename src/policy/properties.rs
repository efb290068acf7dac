//! Properties of every pattern.

use super::pattern::Pattern;
use crate::domain::id::ConnectionName;

const TENANT: &str = "aaaaaaaa-2222-3333-4444-555555555555";

/// Panics if a pattern covers more than it shows. The input is a pattern and, after a line break, a name.
pub fn a_pattern_means_what_it_shows(input: &[u8]) {
    let text = String::from_utf8_lossy(input);
    let (text, name) = text.split_once('\n').unwrap_or((&text, "team-a/user-7"));
    let Ok(pattern) = Pattern::parse(text) else { return };
    let shown = pattern.to_string();
    assert_eq!(Pattern::parse(&shown).as_ref(), Ok(&pattern), "{text}");
    assert!(shown.eq_ignore_ascii_case(text), "{text} is shown as {shown}");
    assert_eq!(pattern.is_any(), text == "*", "{text}");
    let Ok(name) = ConnectionName::parse(name) else { return };
    let is_meant = match text.strip_prefix("tenant:") {
        Some(_) => {
            assert!(!pattern.matches(&name, None), "a tenant that is not known is none");
            return assert_eq!(pattern.matches(&name, Some(TENANT)), shown.ends_with(TENANT));
        }
        None => match text.strip_suffix('*') {
            Some(prefix) => name.as_str().starts_with(prefix),
            None => name.as_str() == text,
        },
    };
    for tenant in [None, Some(TENANT)] {
        assert_eq!(pattern.matches(&name, tenant), is_meant, "{text} and {name}");
    }
}
