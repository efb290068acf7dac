//! Import: an operator hands over a grant that another system held. It becomes a connection once it has
//! worked here, in the name of a caller that may connect it.
//!
//! A grant is known by the hash of its refresh token. Its record says how far it is, so a request may be
//! repeated at any time and at any replica: nothing is done twice, and the refresh token that an answer
//! brought is stored before anything else is decided, whatever is decided then.

mod fault;
mod prove;

use std::sync::Arc;
use std::time::Duration;

use zeroize::Zeroizing;

use self::fault::Accounts;
pub use self::fault::ImportFault;
pub(super) use self::prove::Imports;
use self::prove::Unproven;
use super::connect::{SWAP_TRIES, scopes_to_request};
use super::rights::Put;
use super::{App, Broker, FailureReason, Refusal, Right};
use crate::domain::account::{Account, AccountId};
use crate::domain::connection::{Profile, Status};
use crate::domain::grant::Grant;
use crate::domain::id::{ConnectionKey, ConnectionName};
use crate::domain::not_now::NotNow;
use crate::domain::scope::ScopeSet;
use crate::domain::secret::RefreshToken;
use crate::domain::time::Timestamp;
use crate::policy::CallerPolicy;
use crate::repository::{FiledUnder, ImportState, Importing, Redeemed, SecretHash, TakenImport};
use crate::store::Floor;

/// How long another replica's call is left alone: longer than any takes. After that it is gone, and what it
/// heard is unknown.
const LEFT_ALONE: Duration = Duration::from_secs(60);

/// A grant to import.
pub struct NewImport {
    /// The connection that it becomes.
    pub key: ConnectionKey,
    /// Its newest refresh token; `None` for a dry run.
    pub refresh_token: Option<RefreshToken>,
    /// The app's id at the authority that the grant is for, if it is known.
    pub client_id: Option<String>,
    /// Whose grant it must be.
    pub account: Option<AccountId>,
    /// Its scopes; the app's by default.
    pub scopes: Option<String>,
    /// Labels for the connection; `None` leaves those that it has.
    pub labels: Option<Vec<String>>,
    /// True if it may renew a connection that there is.
    pub replace: bool,
}

/// What an import did, or would do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It makes a connection.
    Imported,
    /// It renews one.
    Replaced,
    /// An earlier request had imported this grant.
    AlreadyImported,
}

impl Outcome {
    /// Returns its word.
    pub fn as_str(self) -> &'static str {
        match self {
            Outcome::Imported => "imported",
            Outcome::Replaced => "replaced",
            Outcome::AlreadyImported => "already_imported",
        }
    }
}

/// An imported connection.
pub struct Imported {
    /// What was done.
    pub outcome: Outcome,
    /// The account that the authority named.
    pub account: Account,
    /// The scopes that it granted.
    pub scopes_granted: Vec<String>,
}

/// What an import needs, checked.
struct Checked {
    app: Arc<App>,
    scopes: ScopeSet,
    /// The connection's account, if it exists.
    existing: Option<Account>,
}

/// What is known before a grant is used.
struct Begun<'a> {
    new: &'a NewImport,
    checked: Checked,
    filed: &'a FiledUnder,
    /// As revocations count.
    started_at: Timestamp,
    /// From before the grant is used, so that a later delete covers it too.
    floor: Floor,
}

/// What to do next about a grant.
enum Next {
    /// It is a connection.
    Done(Imported),
    /// It works, and is no connection yet.
    Keep(TakenImport),
    /// It must be proven.
    Prove(Unproven),
}

impl Broker {
    /// Imports a grant, in the name of this caller.
    pub async fn import(&self, caller: &CallerPolicy, new: &NewImport) -> Result<Imported, Refusal> {
        let checked = self.check_import(caller, new).await?;
        let Some(given) = &new.refresh_token else {
            return Err(Refusal::invalid("refresh_token", "is missing"));
        };
        let name = Zeroizing::new(format!("{} {}", new.key.app, given.expose()));
        let filed = FiledUnder::hash(&SecretHash::of(&name));
        let _alone = self.imports.begin(&filed).ok_or(NotNow::LeaseElsewhere)?;
        self.store_journaled_first(&filed).await?;
        let begun = Begun {
            new,
            checked,
            filed: &filed,
            started_at: self.session_begins_at().await?,
            floor: self.deps.repository.floor(&new.key).await.map_err(|_| Refusal::StoreUnavailable)?,
        };
        for _ in 0..SWAP_TRIES {
            let read = self.deps.repository.importing(&filed).await?;
            let proven = match self.next(&new.key, read).await? {
                Next::Done(imported) => return Ok(imported),
                Next::Keep(proven) => proven,
                Next::Prove(unproven) => {
                    if begun.checked.existing.is_some() && !new.replace {
                        return Err(ImportFault::ConnectionExists.into());
                    }
                    match self.prove(&begun, given, unproven).await? {
                        Some(proven) => proven,
                        // Another replica changed the record.
                        None => continue,
                    }
                }
            };
            return self.keep_import(caller, &begun, proven).await;
        }
        Err(NotNow::LeaseElsewhere.into())
    }

    /// Checks an import as far as that can be done without the grant's use.
    pub async fn would_import(&self, caller: &CallerPolicy, new: &NewImport) -> Result<Outcome, Refusal> {
        let checked = self.check_import(caller, new).await?;
        match checked.existing {
            None => Ok(Outcome::Imported),
            Some(_) if !new.replace => Err(ImportFault::ConnectionExists.into()),
            Some(account) => match &new.account {
                Some(expected) if *expected != account.id() => {
                    let (row, connection) = (("the row", expected.clone()), ("the connection", account.id()));
                    Err(Accounts::differ(row, connection).into())
                }
                _ => Ok(Outcome::Replaced),
            },
        }
    }

    async fn check_import(&self, caller: &CallerPolicy, new: &NewImport) -> Result<Checked, Refusal> {
        let app = self.app(&new.key.app)?;
        let _right = self.right_to_import(caller, &new.key).await?;
        if new.client_id.as_deref().is_some_and(|of| !of.eq_ignore_ascii_case(app.authority.client_id())) {
            return Err(ImportFault::WrongApp.into());
        }
        let scopes = scopes_to_request(&app, new.scopes.as_deref())?;
        let existing = match self.deps.engine.inspect(&new.key).await {
            Ok(held) => Some(held.connection.profile.account().clone()),
            Err(failure) => match Refusal::of_failure(&failure) {
                Refusal::ConnectionNotFound => None,
                refusal => return Err(refusal),
            },
        };
        Ok(Checked { app, scopes, existing })
    }

    /// Returns the caller's right to connect. An operator is told whose rules do not give it.
    async fn right_to_import(&self, caller: &CallerPolicy, key: &ConnectionKey) -> Result<Right, Refusal> {
        self.may_connect(caller, key).await.map_err(|refusal| match refusal {
            Refusal::AppNotFound | Refusal::ConnectionNotFound | Refusal::Forbidden { .. } => {
                connects_not(caller, &key.connection)
            }
            refusal => refusal,
        })
    }

    /// Returns what is next, by what is known of the grant.
    async fn next(&self, key: &ConnectionKey, read: Option<TakenImport>) -> Result<Next, Refusal> {
        match read.as_ref().map(|read| (&read.value.key, &read.value.state)) {
            None => Ok(Next::Prove(Unproven { read, successor: None, unsettled: false })),
            Some((imported, ImportState::Done { nonce })) => {
                match self.imported_as(imported, *nonce).await? {
                    Some(_) if imported != key => Err(ImportFault::ImportedElsewhere.into()),
                    Some(profile) => Ok(Next::Done(Imported::of(Outcome::AlreadyImported, &profile))),
                    // It was deleted, or connected anew, since.
                    None => Ok(Next::Prove(Unproven { read, successor: None, unsettled: false })),
                }
            }
            Some((_, ImportState::Proven(_))) => {
                read.map(Next::Keep).ok_or_else(|| NotNow::LeaseElsewhere.into())
            }
            Some((_, ImportState::Open { since, by, successor, unsettled })) => {
                let may_be_anothers = self.deps.repository.is_shared() && !self.imports.is_mine(by);
                let now = self.deps.clock.now();
                if since.is_some_and(|since| may_be_anothers && now.since(since) < LEFT_ALONE) {
                    return Err(NotNow::LeaseElsewhere.into());
                }
                // Nobody noted how that call ended.
                let unsettled = *unsettled || since.is_some();
                let successor = successor.clone();
                Ok(Next::Prove(Unproven { read, successor, unsettled }))
            }
        }
    }

    /// Returns the connection if it still is that of the sign-in with this nonce.
    async fn imported_as(&self, key: &ConnectionKey, nonce: [u8; 8]) -> Result<Option<Profile>, Refusal> {
        let loaded = self.deps.repository.load(key).await?;
        let profile = loaded.map(|loaded| loaded.connection.profile);
        Ok(profile
            .filter(|profile| profile.sign_in().nonce == nonce && !self.deps.engine.is_revoked(key, profile)))
    }

    /// Makes or renews the connection of a grant that works.
    async fn keep_import(
        &self,
        caller: &CallerPolicy,
        begun: &Begun<'_>,
        proven: TakenImport,
    ) -> Result<Imported, Refusal> {
        let (new, key) = (begun.new, &begun.new.key);
        let ImportState::Proven(redeemed) = &proven.value.state else {
            return Err(NotNow::LeaseElsewhere.into());
        };
        let found = || ("the authority", redeemed.account.id());
        if let Some(expected) = new.account.as_ref().filter(|expected| **expected != redeemed.account.id()) {
            return Err(Accounts::differ(("the row", expected.clone()), found()).into());
        }
        if !begun.checked.app.tenants.allow(&redeemed.account) {
            return Err(ImportFault::TenantNotAllowed.into());
        }
        let put = self.put_import(caller, begun, redeemed).await?;
        let done = Importing { key: key.clone(), state: ImportState::Done { nonce: redeemed.nonce } };
        let sealed = self.deps.repository.seal_import(begun.filed, &done);
        let now = self.deps.clock.now();
        // If that fails, the next request finds the connection by its nonce.
        if let Err(error) = self.deps.repository.swap_import(begun.filed, Some(&proven), &sealed, now).await {
            tracing::warn!(
                app = %key.app, connection = %key.connection, %error,
                "an import is done, which could not be noted"
            );
        }
        Ok(put)
    }

    async fn put_import(
        &self,
        caller: &CallerPolicy,
        begun: &Begun<'_>,
        redeemed: &Redeemed,
    ) -> Result<Imported, Refusal> {
        let (new, key) = (begun.new, &begun.new.key);
        let repository = &self.deps.repository;
        let grant = Grant::new(redeemed.refresh_token.clone());
        for _ in 0..SWAP_TRIES {
            let before = repository.load(key).await?.map(|loaded| loaded.connection);
            // Read after the connection: a later delete removes what the commit expects.
            let floor = repository.floor(key).await.map_err(|_| Refusal::StoreUnavailable)?;
            if floor.cut > begun.floor.cut {
                return Err(ImportFault::Revoked.into());
            }
            let began_before = before.as_ref().map(|before| before.profile.began_at());
            self.follow_revocations_for(key, begun.started_at, began_before).await?;
            // Read after the floor: a pause that this read misses changes what the commit expects.
            let right = self.right_to_import(caller, key).await?;
            if let Some(before) = &before {
                // Stored already, and its answer was lost.
                if before.profile.sign_in().nonce == redeemed.nonce {
                    return Ok(Imported::of(Outcome::Imported, &before.profile));
                }
                if !new.replace {
                    return Err(ImportFault::ConnectionExists.into());
                }
                if before.profile.account().id() != redeemed.account.id() {
                    let connection = ("the connection", before.profile.account().id());
                    let authority = ("the authority", redeemed.account.id());
                    return Err(Accounts::differ(connection, authority).into());
                }
            }
            let profile = Profile::imported(
                redeemed.account.clone(),
                (begun.checked.scopes.to_words(), redeemed.scopes_granted.clone()),
                right.caller().to_string(),
                self.deps.clock.now(),
                before.as_ref().map(|before| &before.profile),
            )
            .of_session(begun.started_at)
            .labelled(new.labels.clone());
            if self.deps.engine.is_revoked(key, &profile) {
                return Err(ImportFault::Revoked.into());
            }
            let expected = before.as_ref().map(|before| (before.revision, &before.profile));
            let was = expected.map(|(_, profile)| profile.status());
            let outcome = if was.is_some() { Outcome::Replaced } else { Outcome::Imported };
            let imported = Imported::of(outcome, &profile);
            let tokens = std::slice::from_ref(&redeemed.token);
            // Scheduled before it is stored: an unscheduled connection would expire unnoticed.
            self.deps.engine.expect(key, &profile, tokens).await;
            let base = (floor.number.max(begun.floor.number), redeemed.nonce);
            match self.put(&right, expected, base, profile, tokens, &grant).await {
                Ok(Put::Done(revision)) => {
                    self.deps.engine.connected(key, revision.sign_in);
                    self.status_changed(key, was, Some(Status::Active));
                    self.shown_consents.forget(&key.app);
                    return Ok(imported);
                }
                Ok(Put::Barred(FailureReason::ConnectionPaused)) => return Err(Refusal::ConnectionPaused),
                // (The rules give it no connection of this name that is not there yet.)
                Ok(Put::Barred(_)) => return Err(connects_not(caller, &key.connection)),
                Ok(Put::Conflict) => self.deps.engine.distrust(key),
                Err(error) => {
                    self.deps.engine.distrust(key);
                    return Err(error.into());
                }
            }
        }
        Err(NotNow::LeaseElsewhere.into())
    }
}

fn connects_not(caller: &CallerPolicy, name: &ConnectionName) -> Refusal {
    Refusal::Forbidden {
        problem: format!("no rule of the caller `{}` lets it connect {name}", caller.caller),
    }
}

impl Imported {
    fn of(outcome: Outcome, profile: &Profile) -> Self {
        let (account, scopes_granted) = (profile.account().clone(), profile.scopes_granted().to_vec());
        Imported { outcome, account, scopes_granted }
    }
}
