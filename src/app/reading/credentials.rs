//! An app's client credentials, read from their files.

use std::collections::BTreeSet;
use std::sync::Arc;

use zeroize::Zeroizing;

use super::public_file;
use crate::app::findings::{By, Findings};
use crate::authority::{AssertionFile, CertificateFault, ClientCredential};
use crate::config::{self, AppConfig, CredentialConfig, CredentialKind, Topic};
use crate::domain::secret::ClientSecret;
use crate::domain::text::is_guid;
use crate::domain::time::Timestamp;
use crate::secret_file::SecretReader;

/// Entra's limit for apps that allow personal accounts (validation differences by supported account types).
const MOST_SECRETS_WITH_PERSONAL: usize = 2;

/// The credentials of the app's list in its order, then those of its directory, the last end first.
pub(in crate::app) fn read(
    app_key: &str,
    app: &AppConfig,
    is_entra: bool,
    secrets: &SecretReader,
    by: &By<'_>,
    had_one: bool,
    findings: &mut Findings<'_>,
) -> Option<Vec<ClientCredential>> {
    let listed = app.credentials.iter().enumerate();
    let mut configs: Vec<(String, CredentialConfig)> =
        listed.map(|(at, one)| (format!("{app_key}.credentials[{at}]"), one.clone())).collect();
    if let Some(directory) = &app.credentials_dir {
        let key = format!("{app_key}.credentials_dir");
        let folder = secrets.guard().folder(directory);
        let folder = folder.map_err(|error| findings.file(&key, error)).ok()?;
        match config::read_credentials_dir(&folder) {
            Ok(mut found) => {
                found.sort_by(|a, b| (b.expires, &b.id).cmp(&(a.expires, &a.id)));
                configs.extend(found.into_iter().map(|one| (key.clone(), one)));
            }
            Err(error) => {
                let source = std::error::Error::source(&error).map(|source| format!(": {source}"));
                findings.file(&key, format_args!("{error}{}", source.unwrap_or_default()));
                return None;
            }
        }
    }
    if configs.is_empty() {
        let key = match &app.credentials_dir {
            Some(_) => format!("{app_key}.credentials_dir"),
            None => app_key.to_owned(),
        };
        if had_one {
            findings.file(
                &key,
                "no client credential is left, and no token could be refreshed; give the new one before the \
                 old one goes",
            );
            return None;
        }
        if let Some(directory) = &app.credentials_dir {
            findings.warning(
                &key,
                format_args!(
                    "{} holds no client credential yet: no account can be connected and no token refreshed \
                     until it does",
                    directory.display()
                ),
            );
        }
    }
    let secrets_there = configs.iter().filter(|(_, one)| one.kind == CredentialKind::Secret).count();
    if secrets_there > MOST_SECRETS_WITH_PERSONAL && app.tenants.list_personal() {
        findings.warning(
            app_key,
            format_args!(
                "has {secrets_there} client secrets, and Entra keeps {MOST_SECRETS_WITH_PERSONAL} at the \
                 most for an app that allows personal accounts: of these, some cannot be good; retire them"
            ),
        );
    }
    let mistakes = findings.mistakes();
    let mut ids = BTreeSet::new();
    let mut read = Vec::new();
    for (key, credential) in &configs {
        if !ids.insert(&credential.id) {
            findings.file(key, format_args!("two credentials have the id {:?}", credential.id));
        }
        read.extend(read_one(key, credential, is_entra, secrets, by.ports.clock.now(), findings));
    }
    (findings.mistakes() == mistakes).then_some(read)
}

fn read_one(
    key: &str,
    credential: &CredentialConfig,
    is_entra: bool,
    secrets: &SecretReader,
    now: Timestamp,
    findings: &mut Findings<'_>,
) -> Option<ClientCredential> {
    let file = credential.file.display();
    // For a file of a directory the key is the directory's, and the text names the file.
    let is_listed = key.ends_with(']');
    let of_file = if is_listed { format!("{key}.file") } else { key.to_owned() };
    let read = match credential.kind {
        CredentialKind::Secret => {
            let secret = secrets.read_client_secret(&credential.file);
            let secret = secret.map_err(|error| findings.file(&of_file, error)).ok()?;
            public_file::warn_of_a_secret(&of_file, &credential.file, &secret, findings);
            if is_entra && is_guid(secret.trim().trim_matches(['"', '\''])) {
                findings.warning_about(
                    Topic::SecretId,
                    &of_file,
                    format_args!(
                        "{file} holds a GUID: that is the secret's ID, not its value, and Entra \
                         answers AADSTS7000215; the portal shows the value only once, so make a new \
                         secret"
                    ),
                );
            }
            if credential.expires.is_none() && !is_listed {
                findings.warning_about(
                    Topic::Expiry,
                    key,
                    format_args!(
                        "{file} does not say when it expires: nobody will be warned before it stops working; \
                         name it as in `{}@2027-05-20.secret`",
                        credential.id
                    ),
                );
            }
            ClientCredential::secret(&credential.id, ClientSecret::new(secret.as_str()))
        }
        CredentialKind::Certificate => {
            let pem = match &credential.key {
                None => {
                    secrets.read(&credential.file).map_err(|error| findings.file(&of_file, error)).ok()?
                }
                Some(private) => {
                    let of_key = format!("{key}.key");
                    let private = secrets.read(private).map_err(|error| findings.file(&of_key, error)).ok();
                    let chain = public_file::read(&credential.file, secrets);
                    let chain = chain.map_err(|problem| findings.file(&of_file, problem)).ok();
                    let (private, chain) = (private?, chain?);
                    let mut both = Zeroizing::new(Vec::with_capacity(private.len() + chain.len() + 1));
                    both.extend_from_slice(&chain);
                    both.push(b'\n');
                    both.extend_from_slice(&private);
                    both
                }
            };
            let read = ClientCredential::certificate(&credential.id, &pem);
            let of_which = match (&credential.key, &read) {
                (Some(private), Err(CertificateFault::NoKey)) => private,
                _ => &credential.file,
            };
            let problem = |fault| public_file::pem_problem(&pem, of_which, fault);
            read.map_err(|fault| findings.file(&of_file, problem(fault))).ok()?
        }
        CredentialKind::Federated => {
            // Its issuer replaces it all the time, may write it later, and sets its mode.
            if let Err(problem) = public_file::read(&credential.file, secrets) {
                findings.warning(&of_file, problem);
            }
            ClientCredential::federated(
                &credential.id,
                Arc::new(AssertionFile::new(&credential.file, secrets.guard())),
            )
        }
    };
    let configured = credential.expires.map(|at| Timestamp::from_unix_seconds(at.unix_timestamp()));
    let read = read.expiring(configured);
    let (from, end) = (read.valid_from(), read.expires_at());
    public_file::warn_of_its_time(&of_file, &credential.file, from, end, now, findings);
    Some(read)
}
