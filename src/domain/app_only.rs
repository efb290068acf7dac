//! What a token of an application itself is for: a tenant, and a resource (RFC 6749 §4.4).

use std::fmt;
use std::sync::Arc;

use super::account::{NoTenantId, tenant_id};
use super::scope::{LONGEST_SCOPE, ScopeNaming};

/// The word for the tenant in which an app is registered.
pub const HOME: &str = "home";

/// The tenant that a token of the app itself is for.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum AppTenant {
    /// The app's own, if no id is known for it: it is named by a domain, or the authority has no tenants.
    Home,
    /// The tenant with this id, in lower case.
    Id(String),
}

impl AppTenant {
    /// Parses `home` or a tenant's id.
    ///
    /// # Errors
    /// [`NoTenantId`] for everything else, a domain too.
    pub fn parse(text: &str) -> Result<Self, NoTenantId> {
        if text == HOME { Ok(AppTenant::Home) } else { tenant_id(text).map(AppTenant::Id) }
    }

    /// Returns the app's own tenant by its id, if its configured name is one.
    pub fn of_home(home_tenant: Option<&str>) -> Self {
        let id = home_tenant.and_then(|name| tenant_id(name).ok());
        id.map_or(AppTenant::Home, AppTenant::Id)
    }
}

/// The resource that a token of the app itself is for. Two spellings of one resource are equal.
#[derive(Debug, Clone)]
pub struct AppResource {
    canonical: Arc<str>,
    wire: Arc<str>,
}

impl AppResource {
    /// Parses a resource, with or without `/.default` at its end. `None` if no resource can have this name
    /// (RFC 6749 §3.3 for what is sent in a scope).
    pub fn parse(naming: &ScopeNaming, text: &str) -> Option<Self> {
        let wire = text.strip_suffix("/.default").unwrap_or(text);
        let is_of_a_scope = |byte| matches!(byte, 0x21 | 0x23..=0x5b | 0x5d..=0x7e);
        if wire.len() > LONGEST_SCOPE || !wire.bytes().all(is_of_a_scope) {
            return None;
        }
        let canonical = naming.resource(wire);
        (!canonical.is_empty()).then(|| AppResource { canonical: canonical.into(), wire: wire.into() })
    }

    /// Returns the spelling that was parsed, without `/.default`.
    pub fn as_str(&self) -> &str {
        &self.wire
    }

    /// Returns the scope that means "all that the app has of it" at Entra.
    pub fn default_scope(&self) -> String {
        format!("{}/.default", self.wire)
    }
}

impl PartialEq for AppResource {
    fn eq(&self, other: &Self) -> bool {
        self.canonical == other.canonical
    }
}

impl Eq for AppResource {}

impl PartialOrd for AppResource {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for AppResource {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.canonical.cmp(&other.canonical)
    }
}

impl fmt::Display for AppResource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.wire)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TID: &str = "AAAAAAAA-2222-3333-4444-555555555555";

    #[test]
    fn a_tenant_is_home_or_an_id_and_nothing_else() {
        assert_eq!(AppTenant::parse("home"), Ok(AppTenant::Home));
        assert_eq!(AppTenant::parse(TID), Ok(AppTenant::Id(TID.to_ascii_lowercase())));
        for bad in
            ["", "Home", "common", "organizations", "contoso.com", "*", "../x", &format!("{TID}/"), "{}"]
        {
            assert_eq!(AppTenant::parse(bad), Err(NoTenantId), "{bad}");
        }
        assert_eq!(AppTenant::of_home(Some(TID)), AppTenant::Id(TID.to_ascii_lowercase()));
        assert_eq!(AppTenant::of_home(Some("contoso.com")), AppTenant::Home);
        assert_eq!(AppTenant::of_home(None), AppTenant::Home);
    }

    #[test]
    fn two_spellings_of_a_resource_are_equal_and_each_is_sent_as_it_is_written() {
        let entra = ScopeNaming::Entra { graph: "https://graph.microsoft.com".into() };
        let of = |text: &str| AppResource::parse(&entra, text).expect(text);
        let graph = of("https://graph.microsoft.com");
        for text in ["https://Graph.Microsoft.com/", "https://graph.microsoft.com/.default"] {
            assert_eq!(of(text), graph, "{text}");
        }
        // Entra wants the second slash for a resource that ends in one.
        assert_eq!(
            of("https://database.windows.net/").default_scope(),
            "https://database.windows.net//.default"
        );
        assert_eq!(of("https://outlook.office365.com"), of("https://outlook.office.com"));
        for bad in ["", "/", "/.default", "a b", "a\"b", "ü", &"x".repeat(257)] {
            assert!(AppResource::parse(&entra, bad).is_none(), "{bad}");
        }
        let plain = AppResource::parse(&ScopeNaming::Plain, "https://outlook.office365.com");
        assert_ne!(plain, AppResource::parse(&ScopeNaming::Plain, "https://outlook.office.com"));
    }
}
