//! The rule that says whose accounts may be connected to an app.

use std::collections::BTreeSet;

use super::account::{Account, PERSONAL_TENANT};
use super::text::is_guid;

/// The accounts that may be connected to an app.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Tenants {
    /// All accounts: the authority has no tenants.
    Everyone,
    /// Only accounts of the listed tenants.
    Listed(Listed),
}

/// A list of tenants. Entries only add to it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Listed {
    any_organization: bool,
    personal: bool,
    /// In lower case, without the tenant of personal accounts.
    ids: BTreeSet<String>,
}

/// Error for an entry that is not `*`, `personal` or a tenant's id.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UnknownTenant;

impl Listed {
    /// Adds an entry: `*` for every work or school tenant, `personal` for personal accounts, or a tenant's
    /// id.
    pub fn add(&mut self, entry: &str) -> Result<(), UnknownTenant> {
        match entry {
            "*" => self.any_organization = true,
            "personal" => self.personal = true,
            id if id.eq_ignore_ascii_case(PERSONAL_TENANT) => self.personal = true,
            id if is_guid(id) => {
                self.ids.insert(id.to_ascii_lowercase());
            }
            _ => return Err(UnknownTenant),
        }
        Ok(())
    }

    /// Returns true if the list is empty, so that nobody may be connected.
    pub fn is_empty(&self) -> bool {
        *self == Listed::default()
    }
}

impl Tenants {
    /// Allows every work or school tenant.
    pub fn any_organization() -> Self {
        Tenants::Listed(Listed { any_organization: true, ..Listed::default() })
    }

    /// Allows personal Microsoft accounts.
    pub fn personal() -> Self {
        Tenants::Listed(Listed { personal: true, ..Listed::default() })
    }

    /// Returns true if this account may be connected.
    pub fn allow(&self, account: &Account) -> bool {
        match (self, &account.tid) {
            (Tenants::Everyone, _) => true,
            (Tenants::Listed(_), None) => false,
            (Tenants::Listed(_), Some(tid)) => self.allow_tenant(tid),
        }
    }

    /// Returns true if users of the tenant with this id may be connected.
    pub fn allow_tenant(&self, tid: &str) -> bool {
        let Tenants::Listed(listed) = self else { return true };
        let tid = tid.to_ascii_lowercase();
        match tid == PERSONAL_TENANT {
            true => listed.personal,
            false => listed.any_organization || listed.ids.contains(&tid),
        }
    }

    /// Returns true if the list names personal Microsoft accounts.
    pub fn list_personal(&self) -> bool {
        matches!(self, Tenants::Listed(listed) if listed.personal)
    }

    /// Returns true if a work or school account may connect.
    pub fn has_organizations(&self) -> bool {
        match self {
            Tenants::Everyone => true,
            Tenants::Listed(Listed { any_organization, ids, .. }) => *any_organization || !ids.is_empty(),
        }
    }

    /// Returns the tenant if the list names exactly one organization and nothing else.
    pub fn only(&self) -> Option<&str> {
        match self {
            Tenants::Listed(Listed { any_organization: false, personal: false, ids }) if ids.len() == 1 => {
                ids.first().map(String::as_str)
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONTOSO: &str = "72f988bf-86f1-41af-91ab-2d7cd011db47";
    const FABRIKAM: &str = "82f988bf-86f1-41af-91ab-2d7cd011db47";

    fn listed(entries: &[&str]) -> Tenants {
        let mut listed = Listed::default();
        entries.iter().for_each(|entry| listed.add(entry).expect("an entry"));
        Tenants::Listed(listed)
    }

    #[test]
    fn who_is_let_in() {
        // list; whether it has Contoso, Fabrikam, personal accounts and accounts of no tenant; the only
        // tenant
        let rows = [
            (Tenants::Everyone, [true, true, true, true], None),
            (listed(&[]), [false; 4], None),
            (listed(&["*"]), [true, true, false, false], None),
            (listed(&["personal"]), [false, false, true, false], None),
            (listed(&[&PERSONAL_TENANT.to_uppercase()]), [false, false, true, false], None),
            (listed(&[CONTOSO]), [true, false, false, false], Some(CONTOSO)),
            (listed(&[&CONTOSO.to_uppercase()]), [true, false, false, false], Some(CONTOSO)),
            (listed(&[CONTOSO, CONTOSO]), [true, false, false, false], Some(CONTOSO)),
            (listed(&[CONTOSO, FABRIKAM]), [true, true, false, false], None),
            (listed(&[CONTOSO, "personal"]), [true, false, true, false], None),
            (listed(&[CONTOSO, "*"]), [true, true, false, false], None),
        ];
        for (tenants, allowed, only) in rows {
            let accounts = [Some(CONTOSO), Some(FABRIKAM), Some(PERSONAL_TENANT), None].map(|tid| Account {
                iss: "i".into(),
                sub: "s".into(),
                tid: tid.map(str::to_uppercase),
                oid: None,
                username: None,
            });
            assert_eq!(accounts.map(|account| tenants.allow(&account)), allowed, "{tenants:?}");
            assert_eq!(tenants.only(), only, "{tenants:?}");
        }
    }

    #[test]
    fn what_is_no_entry() {
        for entry in ["contoso.com", "Personal", "common", "", "72f988bf"] {
            assert_eq!(Listed::default().add(entry), Err(UnknownTenant), "{entry}");
        }
    }
}
