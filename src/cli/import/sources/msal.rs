//! Caches of MSAL, for Python and for Node: one JSON object in the same schema. A refresh token belongs to a
//! home account and a client; a family refresh token (FOCI) belongs to Microsoft's own applications.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::Read as _;
use std::vec::IntoIter;

use serde::Deserialize;
use zeroize::Zeroizing;

use super::{Rows, Secret, misread};
use crate::api::admin::wire::ImportAccount;
use crate::cli::Failure;
use crate::cli::import::row::{Foreign, Row};

/// Largest cache. A user takes some 20 KiB of it.
const LARGEST: u64 = 512 * 1024 * 1024;

/// The grants of a cache, in the order of their keys.
pub(super) struct Cache(IntoIter<Row>);

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Schema {
    #[serde(default)]
    refresh_token: BTreeMap<String, Held>,
    #[serde(default)]
    account: BTreeMap<String, Account>,
}

#[derive(Deserialize)]
struct Held {
    home_account_id: String,
    environment: String,
    client_id: String,
    secret: Secret,
    family_id: Option<String>,
}

#[derive(Deserialize)]
struct Account {
    home_account_id: String,
    environment: String,
    realm: Option<String>,
    local_account_id: Option<String>,
    username: Option<String>,
}

impl Cache {
    /// Reads a cache whole.
    pub(super) fn read(mut file: File) -> Result<Self, Failure> {
        let failed = |error: std::io::Error| Failure::failed(format!("cannot read the cache: {error}"));
        let size = file.metadata().map_err(failed)?.len();
        if size > LARGEST {
            return Err(Failure::usage(
                "the cache has more than 512 MiB: split it, or write JSON lines of it",
            ));
        }
        // It never grows, so that no copy is left in freed memory.
        let mut bytes = Zeroizing::new(vec![0; usize::try_from(size).unwrap_or_default()]);
        file.read_exact(&mut bytes).map_err(failed)?;
        Self::parse(&bytes).map_err(|why| {
            Failure::usage(format!("the file is no cache of MSAL: it {why}")).hint(
                "a cache that MSAL's extensions encrypted is read by the user and on the machine that it \
                 belongs to; have its program write it down with serialize()",
            )
        })
    }

    fn parse(bytes: &[u8]) -> Result<Self, String> {
        let schema: Schema = serde_json::from_slice(bytes).map_err(|error| misread(&error))?;
        let mut accounts: HashMap<(&str, &str), Vec<&Account>> = HashMap::new();
        for account in schema.account.values() {
            let whose = (account.home_account_id.as_str(), account.environment.as_str());
            accounts.entry(whose).or_default().push(account);
        }
        let row = |(at, held): (usize, Held)| {
            let whose = (held.home_account_id.as_str(), held.environment.as_str());
            let of_grant = accounts.get(&whose).map_or(&[][..], Vec::as_slice);
            Row { place: at as u64 + 1, grant: grant(&held, of_grant) }
        };
        let rows: Vec<Row> = schema.refresh_token.into_values().enumerate().map(row).collect();
        Ok(Cache(rows.into_iter()))
    }
}

impl Rows for Cache {
    fn next(&mut self) -> Result<Option<Row>, Failure> {
        Ok(self.0.next())
    }
}

/// Reads a grant; `of_grant` are the accounts that it may be of.
fn grant(held: &Held, of_grant: &[&Account]) -> Result<Foreign, String> {
    if held.family_id.as_deref().is_some_and(|family| !family.is_empty()) {
        return Err("is a family refresh token, which only Microsoft's own applications may use".to_owned());
    }
    let home = held.home_account_id.split_once('.');
    let at_home = |one: &&&Account| home.is_some_and(|(_, tid)| one.realm.as_deref() == Some(tid));
    // A guest is another user in another tenant: which of them the app gets, its authority decides.
    let account = match (of_grant, of_grant.iter().find(at_home)) {
        (_, Some(one)) | ([one], None) => Some(one),
        _ => None,
    };
    let username = of_grant.iter().find_map(|one| one.username.clone());
    let account = match account {
        Some(one) => ImportAccount {
            tid: one.realm.clone(),
            oid: one.local_account_id.clone(),
            username,
            ..ImportAccount::default()
        },
        None => {
            let (oid, tid) = home.ok_or("its home_account_id is no user's of Entra")?;
            let (tid, oid) = (Some(tid.to_owned()), Some(oid.to_owned()));
            ImportAccount { tid, oid, username, ..ImportAccount::default() }
        }
    };
    Ok(Foreign {
        id: Some(held.home_account_id.clone()),
        client_id: Some(held.client_id.clone()),
        account: Some(account).filter(|account| account.tid.is_some() && account.oid.is_some()),
        ..Foreign::new(held.secret.0.clone())
    })
}
