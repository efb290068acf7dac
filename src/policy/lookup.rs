//! Where to look for the connections that a caller may see: a listing reads what its rules name, and nothing beside it.

use super::{CallerPolicy, Rule};
use crate::domain::id::{AppName, ConnectionName};
use crate::policy::Pattern;

/// A part of an app's connections, by their names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Lookup {
    /// One name.
    Exact(ConnectionName),
    /// The names that begin so; without a character, all of them.
    Prefix(String),
}

impl Lookup {
    /// Every connection of an app.
    pub const EVERYTHING: Lookup = Lookup::Prefix(String::new());

    fn text(&self) -> &str {
        match self {
            Lookup::Exact(name) => name.as_str(),
            Lookup::Prefix(prefix) => prefix,
        }
    }

    /// Whether a name lies in this part. So does a prefix all of whose names do.
    fn covers(&self, text: &str) -> bool {
        match self {
            Lookup::Exact(name) => name.as_str() == text,
            Lookup::Prefix(prefix) => text.starts_with(prefix.as_str()),
        }
    }

    /// Whether no name of this part comes after this one.
    pub fn is_over_at(&self, name: &ConnectionName) -> bool {
        let name = name.as_str();
        match self {
            Lookup::Exact(exact) => exact.as_str() <= name,
            Lookup::Prefix(prefix) => prefix.as_str() < name && !name.starts_with(prefix.as_str()),
        }
    }
}

impl CallerPolicy {
    /// Where those connections of an app are that the caller may see: in the order of their names, and no part within
    /// another. A tenant stands in no name, so a rule for one takes looking at everything, as `*` does; what is found
    /// is judged then. Nothing where the caller knows nothing of the app.
    pub fn lookups(&self, app: &AppName) -> Vec<Lookup> {
        let of_pattern = |pattern: &Pattern| match pattern {
            Pattern::Exact(name) => Lookup::Exact(name.clone()),
            Pattern::Prefix(prefix) => Lookup::Prefix(prefix.clone()),
            Pattern::Tenant(_) | Pattern::Any => Lookup::EVERYTHING,
        };
        let mut lookups: Vec<Lookup> = self.of_app(app).flat_map(Rule::effective).map(of_pattern).collect();
        // A prefix comes before whatever begins with it, itself as a name too.
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
