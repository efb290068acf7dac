//! Scopes: the resource of each name, and the wire form of sets.

use std::collections::BTreeSet;

/// Microsoft Graph, the resource of every scope that names none.
pub(crate) const GRAPH: &str = "https://graph.microsoft.com";

/// The identity scopes that belong to no resource.
const IDENTITY: [&str; 4] = ["openid", "profile", "email", "offline_access"];

/// Scopes users may not consent to under Microsoft's managed default policy.
const MANAGED_POLICY_BLOCKS: [&str; 7] =
    ["Mail.Read", "Mail.ReadBasic", "Mail.ReadWrite", "MailboxSettings.", "Calendars.", "IMAP.", "POP."];

/// One scope: a resource and a name, or an identity scope with no resource.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Scope {
    pub(crate) resource: String,
    pub(crate) name: String,
}

impl Scope {
    pub(crate) fn is_identity(&self) -> bool {
        self.resource.is_empty()
    }

    pub(crate) fn is_default(&self) -> bool {
        self.name == ".default"
    }

    /// The full form, `https://graph.microsoft.com/Mail.Read`.
    pub(crate) fn full(&self) -> String {
        if self.is_identity() { self.name.clone() } else { format!("{}/{}", self.resource, self.name) }
    }

    /// Whether Microsoft's managed policy keeps users from consenting to this one.
    pub(crate) fn needs_admin_when_managed(&self) -> bool {
        self.name == "Contacts.ReadWrite"
            || MANAGED_POLICY_BLOCKS
                .iter()
                .any(|blocked| self.name == *blocked || self.name.starts_with(&format!("{blocked}.")))
            || MANAGED_POLICY_BLOCKS
                .iter()
                .any(|family| family.ends_with('.') && self.name.starts_with(family))
    }

    fn parse(text: &str) -> Option<Self> {
        let allowed = |byte: u8| byte.is_ascii_graphic() && !matches!(byte, b'"' | b'\\' | b'<' | b'>');
        if !text.bytes().all(allowed) {
            return None;
        }
        if let Some(name) = IDENTITY.iter().find(|name| name.eq_ignore_ascii_case(text)) {
            return Some(Self { resource: String::new(), name: (*name).to_owned() });
        }
        let (resource, name) = match text.rsplit_once('/') {
            // `https://host//.default` is how a resource id ending in a slash is written.
            Some((resource, name)) => (resource.trim_end_matches('/'), name),
            None => (GRAPH, text),
        };
        let graph = ["00000003-0000-0000-c000-000000000000", GRAPH];
        let resource =
            if graph.iter().any(|id| id.eq_ignore_ascii_case(resource)) { GRAPH } else { resource };
        if name.is_empty() || resource.is_empty() {
            return None;
        }
        Some(Self { resource: resource.to_owned(), name: name.to_owned() })
    }
}

/// A set of scopes as one request or one consent holds them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Scopes {
    all: BTreeSet<Scope>,
    /// Whether a scope of Graph was written without its resource; answers are then written alike.
    bare: bool,
}

impl Scopes {
    /// Reads a space-separated list. The error is the first part that is no scope.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let parts = text.split_whitespace();
        let all = parts.clone().map(|part| Scope::parse(part).ok_or_else(|| part.to_owned()));
        let all = all.collect::<Result<BTreeSet<_>, _>>()?;
        let bare = parts.into_iter().any(|part| !part.contains('/') && !IDENTITY.contains(&part));
        Ok(Self { all, bare })
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Scope> {
        self.all.iter()
    }

    pub(crate) fn is_bare(&self) -> bool {
        self.bare
    }

    /// The same set, written bare or in full as `other` was.
    pub(crate) fn written_as(mut self, other: &Self) -> Self {
        self.bare = other.bare;
        self
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    /// Whether the identity scope `name` is in the set.
    pub(crate) fn identity(&self, name: &str) -> bool {
        self.all.iter().any(|scope| scope.is_identity() && scope.name == name)
    }

    /// Whether a scope of `resource` is called `name`, letter case aside.
    pub(crate) fn has(&self, resource: &str, name: &str) -> bool {
        self.all.iter().any(|scope| scope.resource == resource && scope.name.eq_ignore_ascii_case(name))
    }

    pub(crate) fn covers(&self, wanted: &Scope) -> bool {
        if wanted.is_default() {
            return self.all.iter().any(|scope| scope.resource == wanted.resource);
        }
        self.has(&wanted.resource, &wanted.name)
    }

    pub(crate) fn add(&mut self, other: &Self) {
        for scope in &other.all {
            if !self.covers(scope) || scope.is_identity() {
                self.all.insert(scope.clone());
            }
        }
    }

    /// The distinct resources named, identity scopes aside.
    pub(crate) fn resources(&self) -> Vec<String> {
        let found: BTreeSet<_> = self
            .all
            .iter()
            .filter(|scope| !scope.is_identity())
            .map(|scope| scope.resource.clone())
            .collect();
        found.into_iter().collect()
    }

    /// The named (not `.default`, not identity) scopes of one resource.
    pub(crate) fn of_resource(&self, resource: &str) -> Vec<Scope> {
        self.all.iter().filter(|scope| scope.resource == resource && !scope.is_default()).cloned().collect()
    }

    pub(crate) fn mixes_default(&self) -> bool {
        self.all.iter().any(|default| {
            default.is_default()
                && self.all.iter().any(|other| other.resource == default.resource && !other.is_default())
        })
    }

    pub(crate) fn full(&self) -> Vec<String> {
        self.all.iter().map(Scope::full).collect()
    }
}

impl FromIterator<Scope> for Scopes {
    fn from_iter<T: IntoIterator<Item = Scope>>(scopes: T) -> Self {
        Self { all: scopes.into_iter().collect(), bare: false }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bare_names_are_graphs_and_other_resources_keep_theirs() {
        let scopes =
            Scopes::parse("openid Mail.Read https://outlook.office.com/IMAP.AccessAsUser.All").unwrap();
        assert_eq!(scopes.resources(), [GRAPH, "https://outlook.office.com"]);
        assert!(scopes.has(GRAPH, "mail.read"));
        assert!(scopes.identity("openid"));
        assert_eq!(Scopes::parse("Mail.Read bad\"one"), Err("bad\"one".to_owned()));
    }

    #[test]
    fn default_may_not_stand_beside_named_scopes_of_its_resource() {
        assert!(Scopes::parse("https://graph.microsoft.com/.default Mail.Read").unwrap().mixes_default());
        assert!(!Scopes::parse("https://graph.microsoft.com/.default openid").unwrap().mixes_default());
    }

    #[test]
    fn the_managed_policy_blocks_mailboxes_but_not_sending() {
        let blocked = |text| Scopes::parse(text).unwrap().iter().any(Scope::needs_admin_when_managed);
        for text in [
            "Mail.Read",
            "Mail.Read.Shared",
            "Calendars.Read",
            "MailboxSettings.ReadWrite",
            "Contacts.ReadWrite",
        ] {
            assert!(blocked(text), "{text}");
        }
        for text in ["Mail.Send", "User.Read", "Contacts.Read", "openid"] {
            assert!(!blocked(text), "{text}");
        }
    }
}
