//! Identity of the account behind a connection. The key is (`tid`, `oid`) at Entra and (`iss`, `sub`)
//! elsewhere, never a name or an e-mail address: those are mutable and not unique (ID token claims reference;
//! OpenID Connect Core §5.7).

use std::fmt;

use serde::{Deserialize, Serialize};

use super::text::is_guid;

/// The tenant of every personal Microsoft account.
pub const PERSONAL_TENANT: &str = "9188040d-6c67-4c5b-b112-36a304b66dad";

/// Returns true for the tenant of an Entra authority's path that takes personal accounts alone.
pub fn is_for_personal_accounts(tenant: &str) -> bool {
    tenant.eq_ignore_ascii_case("consumers") || tenant.eq_ignore_ascii_case(PERSONAL_TENANT)
}

/// The account behind a connection, from a validated `id_token`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Account {
    /// `iss` of the ID token.
    pub iss: String,
    /// `sub` of the ID token; pairwise at Entra.
    pub sub: String,
    /// Entra's tenant id, lower case.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tid: Option<String>,
    /// Entra's object id of the user in that tenant, lower case.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub oid: Option<String>,
    /// Shown to people; never compared.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub username: Option<String>,
}

/// The part of an account that identifies it. A connect session may require one.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(untagged)]
pub enum AccountId {
    /// A user of an Entra tenant.
    Entra {
        /// Tenant id.
        tid: String,
        /// Object id.
        oid: String,
    },
    /// A user of any other OpenID provider.
    OpenId {
        /// Issuer.
        iss: String,
        /// Subject.
        sub: String,
    },
}

/// The mistake in a tenant's id, and where to find the right one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "is no tenant id such as 11111111-2222-3333-4444-555555555555. A domain is not enough, for accounts do \
     not name it. `tokenward connections list` shows each account's tenant; the issuer in \
     https://login.microsoftonline.com/DOMAIN/v2.0/.well-known/openid-configuration names a domain's"
)]
pub struct NoTenantId;

/// Parses an Entra tenant's id (8-4-4-4-12 hexadecimal digits) into lower case.
///
/// # Errors
/// [`NoTenantId`] for a domain or an incomplete id.
pub fn tenant_id(text: &str) -> Result<String, NoTenantId> {
    if is_guid(text) { Ok(text.to_ascii_lowercase()) } else { Err(NoTenantId) }
}

impl AccountId {
    /// Makes the id of an Entra user. Ids are compared in lower case.
    pub fn entra(tid: &str, oid: &str) -> Self {
        AccountId::Entra { tid: tid.to_ascii_lowercase(), oid: oid.to_ascii_lowercase() }
    }
}

impl fmt::Display for AccountId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            AccountId::Entra { tid, oid } => write!(f, "tid={tid} oid={oid}"),
            AccountId::OpenId { iss, sub } => write!(f, "iss={iss} sub={sub}"),
        }
    }
}

impl Account {
    /// Returns the identity, which must not change under a connection.
    pub fn id(&self) -> AccountId {
        match (&self.tid, &self.oid) {
            (Some(tid), Some(oid)) => AccountId::entra(tid, oid),
            _ => AccountId::OpenId { iss: self.iss.clone(), sub: self.sub.clone() },
        }
    }

    /// Returns true for a personal Microsoft account.
    pub fn is_personal(&self) -> bool {
        self.tid.as_deref().is_some_and(|tid| tid.eq_ignore_ascii_case(PERSONAL_TENANT))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn account(oid: &str) -> Account {
        Account {
            iss: "https://issuer".into(),
            sub: "s".into(),
            tid: Some("T".into()),
            oid: Some(oid.into()),
            username: Some("alice@contoso.com".into()),
        }
    }

    #[test]
    fn one_username_and_two_object_ids_are_two_users() {
        assert_ne!(account("1").id(), account("2").id());
        assert_eq!(account("AB").id(), account("ab").id());
    }
}
