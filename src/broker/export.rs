//! Export: an operator takes grants away, sealed to a public key of the company's. Nothing of them is shown
//! to anybody else, and each can be imported again.

use serde::Serialize;
use zeroize::Zeroizing;

use super::{Broker, Refusal};
use crate::domain::account::Account;
use crate::domain::id::{AppName, ConnectionKey, ConnectionName};
use crate::jwe::Recipient;

/// Connections of one page.
const PAGE: usize = 50;

/// A page of an app's grants.
pub struct ExportedPage {
    /// Each with its connection, sealed.
    pub grants: Vec<(ConnectionName, String)>,
    /// Connections that have no grant any more, or whose record is damaged.
    pub left_out: u64,
    /// Where the next page begins.
    pub next: Option<ConnectionName>,
}

/// What there is to export of one connection.
enum OfOne {
    /// Its grant, sealed.
    Sealed(String),
    /// It has none any more.
    NoGrant,
    /// It was deleted meanwhile.
    Gone,
}

/// A grant, in the form in which it is imported.
#[derive(Serialize)]
struct Exported<'a> {
    app: &'a str,
    connection: &'a str,
    refresh_token: &'a str,
    caller: &'a str,
    client_id: &'a str,
    account: ExportedAccount<'a>,
    scopes: &'a [String],
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    labels: &'a [String],
}

#[derive(Serialize)]
#[serde(untagged)]
enum ExportedAccount<'a> {
    Entra { tid: &'a str, oid: &'a str },
    OpenId { iss: &'a str, sub: &'a str },
}

impl<'a> From<&'a Account> for ExportedAccount<'a> {
    fn from(account: &'a Account) -> Self {
        match (&account.tid, &account.oid) {
            (Some(tid), Some(oid)) => ExportedAccount::Entra { tid, oid },
            _ => ExportedAccount::OpenId { iss: &account.iss, sub: &account.sub },
        }
    }
}

impl Broker {
    /// Seals a page of an app's grants.
    pub async fn export(
        &self,
        app: &AppName,
        recipient: &Recipient,
        after: Option<&ConnectionName>,
    ) -> Result<ExportedPage, Refusal> {
        let page = self.deps.repository.list(app, "", after, PAGE).await?;
        let mut exported = ExportedPage { grants: Vec::new(), left_out: 0, next: page.next };
        exported.left_out += (page.read - page.profiles.len()) as u64;
        let names = page.profiles.into_iter().map(|(connection, _)| connection);
        self.seal_grants(app, recipient, names.collect(), &mut exported).await?;
        Ok(exported)
    }

    /// Pauses the connections of a page, so that their grants are not used here any more, and seals what they
    /// have then: a grant may have been renewed since.
    pub async fn export_paused(
        &self,
        app: &AppName,
        recipient: &Recipient,
        page: ExportedPage,
    ) -> Result<ExportedPage, Refusal> {
        let names: Vec<ConnectionName> = page.grants.into_iter().map(|(connection, _)| connection).collect();
        for connection in &names {
            let key = ConnectionKey { app: app.clone(), connection: connection.clone() };
            match self.set_paused(&key, true).await {
                Ok(_) | Err(Refusal::ConnectionNotFound) => {}
                Err(refusal) => return Err(refusal),
            }
        }
        let mut exported = ExportedPage { grants: Vec::new(), ..page };
        self.seal_grants(app, recipient, names, &mut exported).await?;
        Ok(exported)
    }

    async fn seal_grants(
        &self,
        app: &AppName,
        recipient: &Recipient,
        names: Vec<ConnectionName>,
        exported: &mut ExportedPage,
    ) -> Result<(), Refusal> {
        let of_app = self.app(app)?;
        for connection in names {
            let key = ConnectionKey { app: app.clone(), connection };
            match self.export_one(&key, recipient, of_app.authority.client_id()).await {
                Ok(OfOne::Sealed(sealed)) => exported.grants.push((key.connection, sealed)),
                Ok(OfOne::NoGrant) => exported.left_out += 1,
                Ok(OfOne::Gone) => {}
                // The others' grants do not wait until somebody mends it.
                Err(Refusal::RecordDamaged) => {
                    tracing::warn!(
                        app = %key.app, connection = %key.connection,
                        "a connection is left out of an export: what is stored of it is damaged"
                    );
                    exported.left_out += 1;
                }
                Err(refusal) => return Err(refusal),
            }
        }
        Ok(())
    }

    async fn export_one(
        &self,
        key: &ConnectionKey,
        recipient: &Recipient,
        client_id: &str,
    ) -> Result<OfOne, Refusal> {
        let Some(loaded) = self.deps.repository.load(key).await? else { return Ok(OfOne::Gone) };
        let profile = &loaded.connection.profile;
        let grant = self.deps.repository.open_grant(key, &loaded)?;
        let Some(grant) = grant.filter(|_| !self.deps.engine.is_revoked(key, profile)) else {
            return Ok(OfOne::NoGrant);
        };
        let row = Exported {
            app: key.app.as_str(),
            connection: key.connection.as_str(),
            refresh_token: grant.current.expose(),
            caller: profile.connected_by(),
            client_id,
            account: profile.account().into(),
            scopes: profile.scopes_requested(),
            labels: profile.labels(),
        };
        // Ample, so that it does not grow and leave copies.
        let mut bytes = Zeroizing::new(Vec::with_capacity(16 * 1024 + 2 * row.refresh_token.len()));
        serde_json::to_writer(&mut *bytes, &row).expect("a row is plain JSON");
        Ok(OfOne::Sealed(recipient.seal(&bytes, self.deps.random.as_ref())))
    }
}
