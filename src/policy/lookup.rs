//! The parts of a store to search for the connections that a caller may see. A listing reads only what the
//! caller's rules name.

use super::{CallerPolicy, Rule};
use crate::domain::id::{AppName, ConnectionName};
use crate::policy::Pattern;

/// A range of an app's connection names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Lookup {
    /// One name.
    Exact(ConnectionName),
    /// Names with this prefix; an empty prefix means all names.
    Prefix(String),
}

impl Lookup {
    /// All connections of an app.
    pub const EVERYTHING: Lookup = Lookup::Prefix(String::new());

    fn text(&self) -> &str {
        match self {
            Lookup::Exact(name) => name.as_str(),
            Lookup::Prefix(prefix) => prefix,
        }
    }

    /// Returns true if a name, or every name with this prefix, lies in this range.
    fn covers(&self, text: &str) -> bool {
        match self {
            Lookup::Exact(name) => name.as_str() == text,
            Lookup::Prefix(prefix) => text.starts_with(prefix.as_str()),
        }
    }

    /// Returns true if no name of this range comes after `name`.
    pub fn is_over_at(&self, name: &ConnectionName) -> bool {
        let name = name.as_str();
        match self {
            Lookup::Exact(exact) => exact.as_str() <= name,
            Lookup::Prefix(prefix) => prefix.as_str() < name && !name.starts_with(prefix.as_str()),
        }
    }
}

impl CallerPolicy {
    /// Returns the ranges of an app's connections that the caller may see, ordered and without overlap. A
    /// tenant is not part of a name, so a rule for a tenant covers the whole range, as `*` does, and the
    /// results are judged afterwards. The list is empty if the caller knows nothing of the app.
    pub fn lookups(&self, app: &AppName) -> Vec<Lookup> {
        let of_pattern = |pattern: &Pattern| match pattern {
            Pattern::Exact(name) => Lookup::Exact(name.clone()),
            Pattern::Prefix(prefix) => Lookup::Prefix(prefix.clone()),
            Pattern::Tenant(_) | Pattern::Any => Lookup::EVERYTHING,
        };
        let mut lookups: Vec<Lookup> = self.of_app(app).flat_map(Rule::effective).map(of_pattern).collect();
        // A prefix comes before all names that begin with it, including the equal name.
        lookups.sort_by(|one, other| {
            let is_name = |lookup: &Lookup| matches!(lookup, Lookup::Exact(_));
            (one.text(), is_name(one)).cmp(&(other.text(), is_name(other)))
        });
        lookups.dedup_by(|next, kept| kept.covers(next.text()));
        lookups
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> ConnectionName {
        ConnectionName::stored(text).expect("a name")
    }

    #[test]
    fn a_part_is_over_at_its_last_name() {
        let over = |lookup: &Lookup, names: &[&str]| {
            names.iter().map(|at| lookup.is_over_at(&name(at))).collect::<Vec<_>>()
        };
        let names = ["a", "b", "b/", "b/1", "b0", "c"];
        assert_eq!(over(&Lookup::Exact(name("b")), &names), [false, true, true, true, true, true]);
        assert_eq!(over(&Lookup::Prefix("b/".into()), &names), [false, false, false, false, true, true]);
        assert_eq!(over(&Lookup::Prefix("b".into()), &names), [false, false, false, false, false, true]);
        assert_eq!(over(&Lookup::EVERYTHING, &names), [false; 6]);
    }
}
