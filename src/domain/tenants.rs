//! Whose accounts may be connected to an app.

use std::collections::BTreeSet;

use super::account::{Account, PERSONAL_TENANT};
use super::text::is_guid;

/// Whose accounts may be connected to an app.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Tenants {
    /// Everyone's: the authority has no tenants.
    Everyone,
    /// Those of these tenants.
    Listed(Listed),
}

/// A list of tenants, of which no entry takes anything away.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Listed {
    any_organization: bool,
    personal: bool,
    /// In lower case, without the tenant of personal accounts.
    ids: BTreeSet<String>,
}

/// An entry that is none of `*`, `personal` or a tenant's id.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UnknownTenant;

impl Listed {
    /// Adds an entry: `*` is every work or school tenant, `personal` is personal accounts, the rest are ids.
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

    /// Whether no entry was added: nobody may be connected.
    pub fn is_empty(&self) -> bool {
        *self == Listed::default()
    }
}

impl Tenants {
    /// Every work or school tenant.
    pub fn any_organization() -> Self {
        Tenants::Listed(Listed { any_organization: true, ..Listed::default() })
    }

    /// Personal Microsoft accounts.
    pub fn personal() -> Self {
        Tenants::Listed(Listed { personal: true, ..Listed::default() })
    }

    /// Whether this account may be connected.
    pub fn allow(&self, account: &Account) -> bool {
        match (self, &account.tid) {
            (Tenants::Everyone, _) => true,
            (Tenants::Listed(_), None) => false,
            (Tenants::Listed(_), Some(tid)) => self.allow_tenant(tid),
        }
    }

    /// Whether users of this tenant, by its id, may be connected.
    pub fn allow_tenant(&self, tid: &str) -> bool {
        let Tenants::Listed(listed) = self else { return true };
        let tid = tid.to_ascii_lowercase();
        match tid == PERSONAL_TENANT {
            true => listed.personal,
            false => listed.any_organization || listed.ids.contains(&tid),
        }
    }

    /// Whether personal Microsoft accounts may be connected because the list says so.
    pub fn list_personal(&self) -> bool {
        matches!(self, Tenants::Listed(listed) if listed.personal)
    }

    /// The only tenant there is, where the list names one organization and nothing else.
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
        // the list; whether Contoso, Fabrikam, personal accounts and accounts of no tenant are in it; the only tenant
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
