//! The files of other systems, each as a stream of rows.

mod emailproxy;
mod jsonl;
mod lines;
mod msal;
mod nango;
mod oauthapp;

use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Deserializer};

use self::lines::Lines;
use super::row::Row;
use crate::api::admin::wire::ImportAccount;
use crate::cli::{Failure, World};
use crate::domain::secret::RefreshToken;
use crate::jwe::Opener;
use crate::secret_file::SecretReader;

/// What a file is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Format {
    /// JSON lines: {app, connection, refresh_token, …}
    Jsonl,
    /// Nango: its API's answers, or rows of its table of connections, as JSON lines
    Nango,
    /// A cache of MSAL for Python
    MsalPython,
    /// A cache of MSAL for Node
    MsalNode,
    /// Entries of the OAuth plugin for Vault (vault-plugin-secrets-oauthapp), as JSON lines
    Oauthapp,
    /// The configuration or the cache of email-oauth2-proxy
    Emailproxy,
}

/// The rows of a file, in their order.
pub(super) trait Rows {
    /// Returns the next row; `None` behind the last.
    ///
    /// # Errors
    /// The file cannot be read any further.
    fn next(&mut self) -> Result<Option<Row>, Failure>;
}

impl Format {
    /// Returns how connections are called whose rows do not say it.
    pub(super) fn template(self) -> &'static str {
        match self {
            Format::Jsonl => "",
            Format::Nango | Format::Oauthapp | Format::Emailproxy => "{id}",
            Format::MsalPython | Format::MsalNode => "{oid}",
        }
    }

    /// Opens a file. Only its owner may read it: it has secrets.
    pub(super) fn open(
        self,
        path: &Path,
        key: Option<&Path>,
        world: &World,
    ) -> Result<Box<dyn Rows>, Failure> {
        let reader = SecretReader::new(world.env.get("CREDENTIALS_DIRECTORY").map(Path::new));
        let file = reader.open(path).map_err(|error| Failure::usage(error.to_string()))?;
        if let (Some(_), false) = (key, matches!(self, Format::Nango | Format::Emailproxy | Format::Jsonl)) {
            return Err(Failure::usage("--source-key-file has no effect for this format"));
        }
        Ok(match self {
            Format::Jsonl => {
                let opener = match key {
                    None => None,
                    Some(path) => {
                        let wrong = |why: String| Failure::usage(format!("--source-key-file: {why}"));
                        let text = reader.read_text(path).map_err(|error| wrong(error.to_string()))?;
                        Some(
                            Opener::parse(&text)
                                .map_err(|error| wrong(format!("{} {error}", path.display())))?,
                        )
                    }
                };
                Box::new(Lines::new(file, move |line: &[u8]| jsonl::read(line, opener.as_ref())))
            }
            Format::Nango => {
                let key = match key {
                    None => None,
                    Some(path) => {
                        let text = reader.read_text(path);
                        let text =
                            text.map_err(|error| Failure::usage(format!("--source-key-file: {error}")))?;
                        let key = nango::Key::parse(&text).ok_or_else(|| {
                            Failure::usage(
                                "--source-key-file has no NANGO_ENCRYPTION_KEY: 32 bytes in base64",
                            )
                        })?;
                        Some(key)
                    }
                };
                Box::new(Lines::new(file, move |line: &[u8]| nango::read(line, key.as_ref())))
            }
            Format::MsalPython | Format::MsalNode => Box::new(msal::Cache::read(file)?),
            Format::Oauthapp => Box::new(Lines::new(file, oauthapp::read)),
            Format::Emailproxy => {
                let path = key.ok_or_else(|| {
                    Failure::usage("the tokens are encrypted: --source-key-file names the password's file")
                })?;
                let password = reader.read_text(path);
                let password =
                    password.map_err(|error| Failure::usage(format!("--source-key-file: {error}")))?;
                Box::new(emailproxy::Accounts::read(file, &password)?)
            }
        })
    }
}

/// A refresh token as it is read: wiped when dropped.
struct Secret(RefreshToken);

impl<'de> Deserialize<'de> for Secret {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer).map(|text| Secret(RefreshToken::new(text)))
    }
}

/// Says where a line of JSON is wrong. Nothing of it is repeated.
fn misread(error: &serde_json::Error) -> String {
    let column = error.column();
    match error.classify() {
        serde_json::error::Category::Data => {
            format!("has a member that is missing, unknown or of the wrong type (column {column})")
        }
        _ => format!("is not JSON (column {column})"),
    }
}

/// The account that an `id_token` names. Its signature is not checked: whatever it says, a grant is believed
/// by the authority's own answer alone, which has to name the same one.
fn unverified_account(id_token: &str) -> Option<ImportAccount> {
    let claims = URL_SAFE_NO_PAD.decode(id_token.split('.').nth(1)?.trim_end_matches('=')).ok()?;
    let claims: Claims = serde_json::from_slice(&claims).ok()?;
    let Claims { iss, sub, tid, oid, preferred_username } = claims;
    let (iss, sub) = if tid.is_some() && oid.is_some() { (None, None) } else { (iss, sub) };
    let (tid, oid) = if iss.is_some() { (None, None) } else { (tid, oid) };
    let is_whole = (tid.is_some() && oid.is_some()) || (iss.is_some() && sub.is_some());
    is_whole.then_some(ImportAccount { tid, oid, iss, sub, username: preferred_username })
}

#[derive(Deserialize)]
struct Claims {
    iss: Option<String>,
    sub: Option<String>,
    tid: Option<String>,
    oid: Option<String>,
    preferred_username: Option<String>,
}

#[cfg(test)]
mod tests;
