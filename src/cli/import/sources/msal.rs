//! Caches of MSAL, for Python and for Node: one JSON object in the same schema. A refresh token belongs to a
//! home account and a client; a family refresh token (FOCI) belongs to Microsoft's own applications.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::Read as _;
use std::vec::IntoIter;

use serde::Deserialize;
use zeroize::Zeroizing;

use super::{Rows, Secret, misread, unverified_account};
use crate::api::admin::wire::ImportAccount;
use crate::cli::Failure;
use crate::cli::import::row::{Foreign, Row};
use crate::domain::account::tenant_id;

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
    #[serde(default)]
    id_token: BTreeMap<String, IdToken>,
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

#[derive(Deserialize)]
struct IdToken {
    home_account_id: String,
    environment: String,
    realm: Option<String>,
    secret: String,
}

/// An account of the cache, with its ID token if the cache has one.
type Known<'a> = (&'a Account, Option<&'a IdToken>);

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
        let id_tokens: HashMap<(&str, &str, Option<&str>), &IdToken> = (schema.id_token.values())
            .map(|one| ((&*one.home_account_id, &*one.environment, one.realm.as_deref()), one))
            .collect();
        let mut accounts: HashMap<(&str, &str), Vec<Known<'_>>> = HashMap::new();
        for account in schema.account.values() {
            let (home, environment) = (account.home_account_id.as_str(), account.environment.as_str());
            let id_token = id_tokens.get(&(home, environment, account.realm.as_deref()));
            accounts.entry((home, environment)).or_default().push((account, id_token.copied()));
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
fn grant(held: &Held, of_grant: &[Known<'_>]) -> Result<Foreign, String> {
    if held.family_id.as_deref().is_some_and(|family| !family.is_empty()) {
        return Err("is a family refresh token, which only Microsoft's own applications may use".to_owned());
    }
    let home = held.home_account_id.split_once('.');
    let found: Vec<Option<(String, String)>> = of_grant.iter().map(|known| ids(*known, home)).collect();
    let at_home = |one: &&Option<(String, String)>| {
        one.as_ref().zip(home).is_some_and(|((tid, _), (_, home))| tid.eq_ignore_ascii_case(home))
    };
    // A guest is another user in another tenant: which of them the app gets, its authority decides.
    let account = match (&*found, found.iter().find(at_home)) {
        (_, Some(one)) | ([one], None) => one.clone(),
        _ => {
            let (oid, tid) = home.ok_or("its home_account_id is no user's of Entra")?;
            Some((tid.to_owned(), oid.to_owned()))
        }
    };
    let username = of_grant.iter().find_map(|(one, _)| one.username.clone());
    let account = account.map(|(tid, oid)| ImportAccount {
        tid: Some(tid),
        oid: Some(oid),
        username,
        ..ImportAccount::default()
    });
    Ok(Foreign {
        id: Some(held.home_account_id.clone()),
        client_id: Some(held.client_id.clone()),
        account,
        ..Foreign::new(held.secret.0.clone())
    })
}

/// The tenant and the object id of an account. MSAL for Python notes what its authority's path says as the
/// realm, which may be `common` or a domain and then names no tenant.
fn ids((account, id_token): Known<'_>, home: Option<(&str, &str)>) -> Option<(String, String)> {
    let realm = account.realm.as_deref().unwrap_or_default();
    if tenant_id(realm).is_ok() {
        return Some((realm.to_owned(), account.local_account_id.clone()?));
    }
    let said = id_token.and_then(|one| unverified_account(&one.secret));
    if let Some(ImportAccount { tid: Some(tid), oid: Some(oid), .. }) = said {
        return Some((tid, oid));
    }
    let (oid, tid) = home.filter(|(_, tid)| tenant_id(tid).is_ok())?;
    // Below `common` and the like everybody signs in at home; below a domain a guest does not.
    let is_home = ["common", "organizations", "consumers"].contains(&realm)
        || account.local_account_id.as_deref().is_some_and(|local| local.eq_ignore_ascii_case(oid));
    is_home.then(|| (tid.to_owned(), oid.to_owned()))
}
