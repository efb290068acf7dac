//! Patterns that say which connections a rule covers.

use std::fmt;

use crate::domain::account::{PERSONAL_TENANT, tenant_id};
use crate::domain::id::{ConnectionName, InvalidName};

/// One entry of a rule's `connections`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Pattern {
    /// One connection by its name.
    Exact(ConnectionName),
    /// Every connection whose name has this prefix: `team-a/*` is the prefix `team-a/`.
    Prefix(String),
    /// Every connection whose account belongs to this Entra tenant; lower case.
    Tenant(String),
    /// Every connection of the app. Matches only in a rule with `bulk = true`.
    Any,
}

/// Mistake in a pattern.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PatternError {
    /// A `*` stands before the last character.
    #[error("`*` may stand at the end only")]
    StarInside,
    /// No tenant id follows `tenant:`.
    #[error(
        "`tenant:` needs a tenant id such as 11111111-2222-3333-4444-555555555555 (a domain is not enough)"
    )]
    TenantId,
    /// No connection can have this name or prefix.
    #[error("a connection name {0}")]
    Name(#[from] InvalidName),
}

impl Pattern {
    /// Parses `name`, `prefix*`, `tenant:{tid}` or `*`.
    ///
    /// # Errors
    /// [`PatternError`] says which form was meant and what is wrong with it.
    pub fn parse(text: &str) -> Result<Self, PatternError> {
        if let Some(tid) = text.strip_prefix("tenant:") {
            return tenant_id(tid).map(Pattern::Tenant).map_err(|_| PatternError::TenantId);
        }
        match text.split_once('*') {
            None => Ok(Pattern::Exact(ConnectionName::parse(text)?)),
            Some(("", "")) => Ok(Pattern::Any),
            Some((prefix, "")) => {
                // The last part continues behind the star; the parts before it are complete.
                if let Some((whole, _)) = prefix.rsplit_once('/') {
                    ConnectionName::parse(whole)?;
                }
                Ok(Pattern::Prefix(ConnectionName::stored(prefix)?.as_str().to_owned()))
            }
            Some(_) => Err(PatternError::StarInside),
        }
    }

    /// Returns true for a prefix that does not end in a separator, so that it also covers other names:
    /// `team-a*` covers `team-ab/x`.
    pub fn ends_within_a_word(&self) -> bool {
        match self {
            Pattern::Prefix(prefix) => prefix.ends_with(|last: char| last.is_ascii_alphanumeric()),
            Pattern::Exact(_) | Pattern::Tenant(_) | Pattern::Any => false,
        }
    }

    /// Returns true for the tenant of all personal Microsoft accounts.
    pub fn is_every_personal_account(&self) -> bool {
        matches!(self, Pattern::Tenant(tid) if tid == PERSONAL_TENANT)
    }

    /// Returns true if it covers every connection. An empty prefix, which `parse` never makes, does too.
    pub(super) fn is_any(&self) -> bool {
        match self {
            Pattern::Any => true,
            Pattern::Prefix(prefix) => prefix.is_empty(),
            Pattern::Exact(_) | Pattern::Tenant(_) => false,
        }
    }

    /// Returns true if it covers this connection. A tenant pattern needs a known tenant.
    pub(super) fn matches(&self, connection: &ConnectionName, tenant: Option<&str>) -> bool {
        match self {
            Pattern::Exact(name) => name == connection,
            Pattern::Prefix(prefix) => connection.as_str().starts_with(prefix.as_str()),
            Pattern::Tenant(tid) => tenant.is_some_and(|tenant| tenant.eq_ignore_ascii_case(tid)),
            Pattern::Any => true,
        }
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Pattern::Exact(name) => write!(f, "{name}"),
            Pattern::Prefix(prefix) => write!(f, "{prefix}*"),
            Pattern::Tenant(tid) => write!(f, "tenant:{tid}"),
            Pattern::Any => f.write_str("*"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TID: &str = "aaaaaaaa-2222-3333-4444-555555555555";

    #[test]
    fn every_form_is_read_and_shown_again() {
        for text in ["user-4711", "team-a/*", "a*", "*", &format!("tenant:{TID}")] {
            assert_eq!(Pattern::parse(text).expect(text).to_string(), text);
        }
        let upper = format!("tenant:{}", TID.to_ascii_uppercase());
        assert_eq!(Pattern::parse(&upper), Ok(Pattern::Tenant(TID.into())));
    }

    #[test]
    fn what_means_more_than_it_seems_to_is_seen() {
        let pattern = |text: &str| Pattern::parse(text).expect("a pattern");
        for (text, wide) in [
            ("team-a*", true),
            ("a*", true),
            ("team-a/*", false),
            ("user-*", false),
            ("team-a", false),
            ("*", false),
        ] {
            assert_eq!(pattern(text).ends_within_a_word(), wide, "{text}");
        }
        assert!(pattern(&format!("tenant:{}", PERSONAL_TENANT.to_uppercase())).is_every_personal_account());
        assert!(!pattern(&format!("tenant:{TID}")).is_every_personal_account());
    }

    #[test]
    fn what_could_never_match_is_refused() {
        for bad in ["a*b", "**", "*a", "team-*/*"] {
            assert_eq!(Pattern::parse(bad), Err(PatternError::StarInside), "{bad}");
        }
        for bad in
            ["tenant:", "tenant:contoso.com", "tenant:*", "tenant:aaaaaaaa-2222-3333-4444-55555555555g"]
        {
            assert_eq!(Pattern::parse(bad), Err(PatternError::TenantId), "{bad}");
        }
        for bad in ["", "a b", "ü*", &"x".repeat(257)] {
            assert!(matches!(Pattern::parse(bad), Err(PatternError::Name(_))), "{bad}");
        }
    }
}
