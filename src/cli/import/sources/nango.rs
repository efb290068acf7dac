//! Nango: the answers of its API (`GET /connections/{id}`), or rows of its table `_nango_connections` as
//! `row_to_json` writes them, whose credentials are encrypted with `NANGO_ENCRYPTION_KEY` (AES-256-GCM,
//! base64).

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use serde_json::value::RawValue;
use zeroize::Zeroizing;

use super::{Secret, misread, unverified_account};
use crate::cli::import::row::Foreign;

/// The key that opens credentials.
pub(super) struct Key(LessSafeKey);

impl Key {
    /// Reads the value of `NANGO_ENCRYPTION_KEY`.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let bytes = Zeroizing::new(STANDARD.decode(text.trim()).ok()?);
        UnboundKey::new(&AES_256_GCM, &bytes).ok().map(LessSafeKey::new).map(Key)
    }

    fn open(&self, sealed: &str, iv: &str, tag: &str) -> Option<Zeroizing<Vec<u8>>> {
        let mut bytes = Zeroizing::new(STANDARD.decode(sealed).ok()?);
        let nonce = Nonce::try_assume_unique_for_key(&STANDARD.decode(iv).ok()?).ok()?;
        bytes.extend_from_slice(&STANDARD.decode(tag).ok()?);
        let length = self.0.open_in_place(nonce, Aad::empty(), &mut bytes).ok()?.len();
        bytes.truncate(length);
        Some(bytes)
    }
}

#[derive(Deserialize)]
struct Connection<'a> {
    connection_id: String,
    provider_config_key: Option<String>,
    #[serde(borrow)]
    credentials: &'a RawValue,
    credentials_iv: Option<String>,
    credentials_tag: Option<String>,
    deleted_at: Option<String>,
    #[serde(default)]
    deleted: bool,
}

#[derive(Deserialize)]
struct Encrypted {
    encrypted_credentials: String,
}

#[derive(Deserialize)]
struct Credentials {
    #[serde(rename = "type")]
    kind: Option<String>,
    refresh_token: Option<Secret>,
    raw: Option<TokenAnswer>,
}

#[derive(Deserialize)]
struct TokenAnswer {
    refresh_token: Option<Secret>,
    id_token: Option<String>,
}

/// Reads a connection.
pub(super) fn read(line: &[u8], key: Option<&Key>) -> Result<Foreign, String> {
    let connection: Connection<'_> = serde_json::from_slice(line).map_err(|error| misread(&error))?;
    if connection.deleted || connection.deleted_at.is_some() {
        return Err("was deleted at Nango".to_owned());
    }
    let opened;
    let credentials = match (&connection.credentials_iv, &connection.credentials_tag) {
        (Some(iv), Some(tag)) => {
            let key = key.ok_or("its credentials are encrypted: --source-key-file names the key's file")?;
            let sealed: Encrypted = serde_json::from_str(connection.credentials.get())
                .map_err(|_| "its credentials are not as Nango writes them")?;
            opened = key
                .open(&sealed.encrypted_credentials, iv, tag)
                .ok_or("its credentials do not open: they were encrypted with another key, or damaged")?;
            &opened[..]
        }
        _ => connection.credentials.get().as_bytes(),
    };
    let credentials: Credentials =
        serde_json::from_slice(credentials).map_err(|_| "its credentials are not as Nango writes them")?;
    if credentials.kind.as_deref().is_some_and(|kind| kind != "OAUTH2") {
        return Err("its credentials are no user's OAuth 2 grant (type OAUTH2)".to_owned());
    }
    let raw = credentials.raw.as_ref();
    let Secret(refresh_token) = credentials
        .refresh_token
        .as_ref()
        .or_else(|| raw?.refresh_token.as_ref())
        .ok_or("has no refresh token")?;
    Ok(Foreign {
        id: Some(connection.connection_id),
        filed_under: connection.provider_config_key,
        account: raw.and_then(|raw| unverified_account(raw.id_token.as_ref()?)),
        ..Foreign::new(refresh_token.clone())
    })
}
