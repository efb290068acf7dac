//! One grant of another system, and what it is called here.

use aws_lc_rs::digest::{SHA256, digest};
use serde::Serialize;
use zeroize::Zeroizing;

use crate::api::admin::wire::{Import, ImportAccount};
use crate::domain::id::{AppName, CallerName, ConnectionName};
use crate::domain::secret::RefreshToken;

/// A grant as its source has it.
pub(super) struct Foreign {
    /// The app, if its row names one.
    pub(super) app: Option<String>,
    /// The connection's name, if its row names one.
    pub(super) connection: Option<String>,
    /// What its source files it under, for `--map`.
    pub(super) filed_under: Option<String>,
    /// The source's own id of it, for a template.
    pub(super) id: Option<String>,
    pub(super) refresh_token: RefreshToken,
    pub(super) caller: Option<String>,
    pub(super) client_id: Option<String>,
    pub(super) account: Option<ImportAccount>,
    pub(super) scopes: Option<Vec<String>>,
    pub(super) labels: Option<Vec<String>>,
}

impl Foreign {
    /// A grant of which nothing else is known.
    pub(super) fn new(refresh_token: RefreshToken) -> Self {
        Foreign {
            app: None,
            connection: None,
            filed_under: None,
            id: None,
            refresh_token,
            caller: None,
            client_id: None,
            account: None,
            scopes: None,
            labels: None,
        }
    }
}

/// A row of the file.
pub(super) struct Row {
    /// Its line, or its number where the source has no lines.
    pub(super) place: u64,
    /// The grant, or why there is none to import.
    pub(super) grant: Result<Foreign, String>,
}

/// How grants are called here whose rows do not say it.
#[derive(Clone, Copy)]
pub(super) struct Naming<'a> {
    pub(super) app: Option<&'a AppName>,
    pub(super) map: &'a [(String, AppName)],
    pub(super) caller: Option<&'a CallerName>,
    pub(super) template: &'a str,
}

/// A grant as it is handed to the daemon.
pub(super) struct Grant {
    pub(super) place: u64,
    /// Everything but the secret.
    pub(super) import: Import,
    pub(super) refresh_token: RefreshToken,
    /// Knows the row again, and reveals nothing of it.
    pub(super) digest: Digest,
}

/// The beginning of a SHA-256.
pub(super) type Digest = [u8; 16];

/// The digest of these parts.
pub(super) fn digest_of(parts: &[&str]) -> Digest {
    // (Names have no line ends.)
    let text = Zeroizing::new(parts.join("\n"));
    let mut short = Digest::default();
    short.copy_from_slice(&digest(&SHA256, text.as_bytes()).as_ref()[..16]);
    short
}

impl Naming<'_> {
    /// Makes the grant of a row.
    ///
    /// # Errors
    /// What is missing or wrong, without anything secret.
    pub(super) fn grant(&self, place: u64, foreign: Foreign) -> Result<Grant, String> {
        let under = foreign.filed_under.as_deref();
        let app = match &foreign.app {
            Some(app) => AppName::parse(app).map_err(|error| format!("app: {error}"))?,
            None => {
                let mapped = self.map.iter().find(|(key, _)| under == Some(key)).map(|(_, app)| app);
                mapped.or(self.app).cloned().ok_or_else(|| match under {
                    Some(key) => format!("no app is named: --map '{key}=APP' or --app says which"),
                    None => "no app is named: --app says which".to_owned(),
                })?
            }
        };
        let name = match &foreign.connection {
            Some(name) => name.clone(),
            None => self.name(&foreign)?,
        };
        let connection = ConnectionName::parse(&name).map_err(|error| format!("connection: {error}"))?;
        if foreign.refresh_token.expose().is_empty() {
            return Err("its refresh token is empty".to_owned());
        }
        let caller = foreign.caller.or_else(|| self.caller.map(CallerName::to_string));
        let (app, connection) = (app.to_string(), connection.to_string());
        let digest = digest_of(&[&app, &connection, foreign.refresh_token.expose()]);
        let import = Import {
            app,
            connection,
            caller,
            refresh_token: None,
            client_id: foreign.client_id,
            account: foreign.account,
            scopes: foreign.scopes,
            labels: foreign.labels,
            replace: false,
            dry_run: false,
        };
        Ok(Grant { place, import, refresh_token: foreign.refresh_token, digest })
    }

    fn name(&self, foreign: &Foreign) -> Result<String, String> {
        let account = foreign.account.clone().unwrap_or_default();
        let mut name = self.template.to_owned();
        for (word, value) in [
            ("{id}", &foreign.id),
            ("{username}", &account.username),
            ("{tid}", &account.tid),
            ("{oid}", &account.oid),
        ] {
            if name.contains(word) {
                let value = value.as_ref().ok_or_else(|| {
                    format!("the row has no {word} for its connection's name; see --connection-template")
                })?;
                name = name.replace(word, value);
            }
        }
        if name.is_empty() {
            return Err("no connection is named: --connection-template says how".to_owned());
        }
        Ok(name)
    }
}

/// The body of a request, with its secret.
#[derive(Serialize)]
struct Body<'a> {
    #[serde(flatten)]
    import: &'a Import,
    #[serde(skip_serializing_if = "Option::is_none")]
    refresh_token: Option<&'a str>,
}

impl Grant {
    /// Makes the request that imports it, or that only checks it.
    pub(super) fn body(&self, replace: bool, dry_run: bool) -> Zeroizing<Vec<u8>> {
        let import = Import {
            app: self.import.app.clone(),
            connection: self.import.connection.clone(),
            caller: self.import.caller.clone(),
            refresh_token: None,
            client_id: self.import.client_id.clone(),
            account: self.import.account.clone(),
            scopes: self.import.scopes.clone(),
            labels: self.import.labels.clone(),
            replace,
            dry_run,
        };
        // (A check needs no secret, so it does not get one.)
        let refresh_token = (!dry_run).then(|| self.refresh_token.expose());
        // Ample, so that it does not grow and leave copies.
        let room = 16 * 1024 + 2 * self.refresh_token.expose().len();
        let mut bytes = Zeroizing::new(Vec::with_capacity(room));
        let body = Body { import: &import, refresh_token };
        serde_json::to_writer(&mut *bytes, &body).expect("requests are plain JSON");
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn foreign() -> Foreign {
        let account = ImportAccount {
            tid: Some("T".into()),
            oid: Some("O".into()),
            username: Some("al@b.example".into()),
            ..ImportAccount::default()
        };
        Foreign { account: Some(account), ..Foreign::new(RefreshToken::new("canary")) }
    }

    #[test]
    fn a_grant_is_called_by_its_row_or_by_the_options() {
        let outlook = AppName::parse("outlook").expect("a name");
        let map = [("microsoft".to_owned(), AppName::parse("mapped").expect("a name"))];
        let naming = |template| Naming { app: Some(&outlook), map: &map, caller: None, template };
        let named = |naming: Naming<'_>, foreign| {
            naming.grant(3, foreign).map(|grant| (grant.import.app, grant.import.connection))
        };
        let both = |app: &str, name: &str| Ok((app.to_owned(), name.to_owned()));
        assert_eq!(named(naming("{tid}/{oid}"), foreign()), both("outlook", "T/O"));
        assert_eq!(named(naming("mail/{username}"), foreign()), both("outlook", "mail/al@b.example"));
        let by_key = Foreign { filed_under: Some("microsoft".into()), ..foreign() };
        assert_eq!(named(naming("{oid}"), by_key), both("mapped", "O"));
        let own = Foreign { app: Some("own".into()), connection: Some("a".into()), ..foreign() };
        assert_eq!(named(naming("{oid}"), own), both("own", "a"));
        for (template, foreign) in [
            ("{id}", foreign()),
            ("", foreign()),
            ("a b", foreign()),
            ("{oid}", Foreign { app: Some("No App".into()), ..foreign() }),
            ("{oid}", Foreign { account: None, ..foreign() }),
            ("x", Foreign::new(RefreshToken::new(""))),
        ] {
            assert!(named(naming(template), foreign).is_err_and(|why| !why.contains("canary")), "{template}");
        }
        let nowhere = Naming { app: None, ..naming("{oid}") };
        let unknown = Foreign { filed_under: Some("google".into()), ..foreign() };
        assert!(named(nowhere, unknown).is_err_and(|why| why.contains("--map 'google=APP'")));
    }

    #[test]
    fn a_check_brings_no_secret_and_a_digest_shows_none() {
        let outlook = AppName::parse("outlook").expect("a name");
        let naming = Naming { app: Some(&outlook), map: &[], caller: None, template: "{oid}" };
        let grant = naming.grant(1, foreign()).expect("a grant");
        let check = grant.body(true, true);
        assert!(!String::from_utf8_lossy(&check).contains("canary"));
        let import: Import = serde_json::from_slice(&grant.body(false, false)).expect("a request");
        assert_eq!(import.refresh_token.as_deref(), Some("canary"));
        assert!(!import.replace && !import.dry_run && import.connection == "O");
        let same = naming.grant(9, foreign()).expect("a grant");
        assert_eq!(grant.digest, same.digest);
        let other = Foreign { refresh_token: RefreshToken::new("other"), ..foreign() };
        assert_ne!(grant.digest, naming.grant(1, other).expect("a grant").digest);
    }
}
