//! The OAuth plugin for Vault (puppetlabs/vault-plugin-secrets-oauthapp). Its API gives access tokens alone;
//! a refresh token is in the entry that it stores, which `vault read -format=json sys/raw/logical/…/creds/…`
//! shows. Each line is such an answer, or the entry itself, with the credential's `name` beside it: the
//! entry's key is only a hash of that.

use serde::Deserialize;

use super::{Secret, misread, unverified_account};
use crate::cli::import::row::Foreign;

#[derive(Deserialize)]
struct Line {
    name: Option<String>,
    data: Option<Data>,
}

#[derive(Deserialize)]
struct Data {
    /// The entry, as JSON text.
    value: Secret,
}

#[derive(Deserialize)]
struct Entry {
    auth_server_name: Option<String>,
    refresh_token: Option<Secret>,
    user_error: Option<String>,
    extra_data: Option<Extra>,
}

#[derive(Deserialize)]
struct Extra {
    id_token: Option<String>,
}

/// Reads an entry.
pub(super) fn read(text: &[u8]) -> Result<Foreign, String> {
    let line: Line = serde_json::from_slice(text).map_err(|error| misread(&error))?;
    let inner = line.data.as_ref().map(|data| data.value.0.expose().as_bytes());
    let entry = serde_json::from_slice(inner.unwrap_or(text));
    let entry: Entry = entry.map_err(|error| match inner {
        Some(_) => "data.value is no entry of the plugin".to_owned(),
        None => misread(&error),
    })?;
    let refresh_token = entry.refresh_token.as_ref().filter(|token| !token.0.expose().is_empty());
    let Secret(refresh_token) = refresh_token.ok_or_else(|| match entry.user_error.as_deref() {
        Some(error) if !error.is_empty() => "has no refresh token: its grant has ended".to_owned(),
        _ => "has no refresh token: it is of client credentials, or the plugin's API gave it".to_owned(),
    })?;
    Ok(Foreign {
        id: line.name,
        filed_under: entry.auth_server_name,
        account: entry.extra_data.as_ref().and_then(|extra| unverified_account(extra.id_token.as_ref()?)),
        ..Foreign::new(refresh_token.clone())
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn an_entry_and_what_vault_shows_of_it_are_read() {
        let entry = json!({ "access_token": "a", "refresh_token": "canary", "expiry": "2026-11-30T00:00:00Z",
            "auth_server_name": "outlook" });
        let raw = json!({ "request_id": "1", "name": "alice", "data": { "value": entry.to_string() } });
        let mut plain = entry.clone();
        plain["name"] = "alice".into();
        for line in [raw, plain] {
            let grant = read(line.to_string().as_bytes()).unwrap_or_else(|why| panic!("{why}: {line}"));
            assert_eq!((grant.id.as_deref(), grant.filed_under.as_deref()), (Some("alice"), Some("outlook")));
            assert_eq!(grant.refresh_token.expose(), "canary");
        }
        for line in [
            json!({ "name": "a", "data": { "access_token": "x", "expire_time": "y" } }),
            json!({ "name": "a", "access_token": "canary" }),
            json!({ "name": "a", "data": { "value": "canary" } }),
            json!({ "name": "a", "refresh_token": "", "user_error": "canary" }),
        ] {
            assert!(read(line.to_string().as_bytes()).is_err_and(|why| !why.contains("canary")), "{line}");
        }
    }
}
