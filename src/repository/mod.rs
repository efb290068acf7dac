//! The repository: opened connections and sessions for the use cases, sealed records for the store. It is the
//! one room that knows both the keyring and the store. Neither of these knows the other.
//!
//! Invariants:
//! 1. Nothing enters the store unsealed but names, times, and notices made of these; and no name in it
//!    contains a bearer secret.
//! 2. Each field is sealed for its app, connection, field and generation, all fields of a record by one key;
//!    a record whose fields do not open together is refused whole.
//! 3. A grant is opened only for its use. Reading a connection, or serving a cached token, never puts a
//!    refresh token into memory.

mod damage;
mod filing;
mod handles;
mod importing;
mod journal;
mod kind;
mod pending;
#[cfg(any(test, feature = "testkit"))]
pub mod properties;
mod rewrap;
mod unsealed;
mod wire;

use std::sync::Arc;

pub use damage::{Damage, DamageObserver, Owner};
pub use filing::{FiledUnder, SecretHash};
pub use importing::{ImportState, Importing, JournaledImport, SealedImport, TakenImport};
pub use journal::Unstored;
pub use kind::Kind;
pub use pending::{Kept, PendingError, Taken};
pub use rewrap::{ByKey, Rewrapped, SealedBy, count_keys, keys_of};
use zeroize::Zeroizing;

use crate::domain::account::Account;
use crate::domain::connection::{Glimpse, Profile, SignIn};
use crate::domain::grant::Grant;
use crate::domain::id::{AppName, ConnectionKey, ConnectionName};
use crate::domain::notice::{Notice, Turn};
use crate::domain::random::{Random, random_bytes};
use crate::domain::secret::RefreshToken;
use crate::domain::time::Timestamp;
use crate::domain::token::HeldToken;
use crate::journal::{Journal, JournalError};
use crate::keyring::Keyring;
use crate::keyring::seal::Place;
use crate::store::{
    Committed, Deleted, Floor, Revision, Store, StoreError, StoredConnection, StoredProfile, Writer,
};

/// How often sign-ins may overtake a delete before it fails.
const DELETE_TRIES: usize = 4;
const CONNECTION: &str = "connection";
const PROFILE: &str = "profile";
const TOKENS: &str = "tokens";
const GRANT: &str = "grant";

/// Why a record cannot be had.
#[derive(Debug, Clone, thiserror::Error)]
pub enum RepositoryError {
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The journal failed.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// The record exists and cannot be used: a missing key, damage, or tampering.
    #[error(transparent)]
    Damaged(Damage),
}

impl RepositoryError {
    /// Whether the store does not answer. The store's pulse logs that once, and not each record.
    pub fn is_outage(&self) -> bool {
        matches!(self, RepositoryError::Store(StoreError::Unavailable { .. } | StoreError::Full { .. }))
    }

    /// Whether the store's disk is full.
    pub fn is_full(&self) -> bool {
        matches!(self, RepositoryError::Store(StoreError::Full { .. }))
    }

    /// Whether a record is lost: it is damaged and no newer version's, and no key that may come opens it.
    pub fn is_lost(&self) -> bool {
        match self {
            RepositoryError::Damaged(damage) => damage.is_lost(),
            RepositoryError::Store(StoreError::Corrupt { .. }) => true,
            RepositoryError::Store(_) | RepositoryError::Journal(_) => false,
        }
    }

    /// Whether a record is damaged. That was counted and logged when it was found.
    pub fn is_damage(&self) -> bool {
        matches!(self, RepositoryError::Damaged(_) | RepositoryError::Store(StoreError::Corrupt { .. }))
    }
}

/// A connection without its refresh tokens.
#[derive(Clone)]
pub struct Connection {
    /// Its state.
    pub revision: Revision,
    /// Account, scopes, status, times.
    pub profile: Profile,
    /// Its access tokens.
    pub tokens: Vec<HeldToken>,
}

impl Connection {
    /// The place of its grant among those of this name.
    pub fn grant_place(&self) -> GrantPlace {
        let Connection { profile, .. } = self;
        GrantPlace {
            sign_in: profile.sign_in(),
            connected_at: profile.connected_at(),
            renewals: profile.renewals(),
        }
    }

    /// Whether it is an earlier state than `other`: a store that shows it has lost a write. The generation
    /// alone does not tell, since a verdict on the older grant may have followed the lost write.
    pub fn is_before(&self, other: &Connection) -> bool {
        let (mine, theirs) = (self.grant_place(), other.grant_place());
        mine.is_before(&theirs) || (mine == theirs && self.revision.generation < other.revision.generation)
    }
}

/// The place of a grant among those of its connection's name: its sign-in, and how often the grant of that
/// sign-in has worked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GrantPlace {
    sign_in: SignIn,
    connected_at: Timestamp,
    renewals: u64,
}

impl GrantPlace {
    /// Whether it surely is the earlier one. Of two sign-ins both number and time must say so: after the
    /// store has lost deletes and sign-ins, a later one may have the lower number.
    pub fn is_before(&self, other: &GrantPlace) -> bool {
        if self.sign_in == other.sign_in {
            return self.renewals < other.renewals;
        }
        let (mine, theirs) = (self.sign_in.number, other.sign_in.number);
        let no_later = mine <= theirs && self.connected_at <= other.connected_at;
        no_later && (mine < theirs || self.connected_at < other.connected_at)
    }

    /// The place before this one.
    #[must_use]
    pub fn before(mut self) -> GrantPlace {
        self.renewals = self.renewals.saturating_sub(1);
        self
    }
}

/// The result of a code redemption, for a connection that does not exist yet.
pub struct Redeemed {
    /// The account that signed in.
    pub account: Account,
    /// The granted scopes.
    pub scopes_granted: Vec<String>,
    /// The grant.
    pub refresh_token: RefreshToken,
    /// The first access token. Its request was made just after the user's sign-in.
    pub token: HeldToken,
    /// The store's floor ([`Records::floor`](crate::store::Records::floor)) from before the sign-in.
    pub floor: Floor,
    /// The nonce of this sign-in ([`SignIn::nonce`]).
    pub nonce: [u8; 8],
}

/// A connection as it was loaded, with its grant still sealed.
pub struct Loaded {
    /// The connection.
    pub connection: Connection,
    /// The sealed record.
    pub sealed: StoredConnection,
}

/// Loads and commits connections and pending sessions.
pub struct Repository {
    store: Arc<dyn Store>,
    keyring: Arc<Keyring>,
    random: Arc<dyn Random>,
    journal: Option<Arc<dyn Journal>>,
    damage_observer: Arc<dyn DamageObserver>,
}

impl Repository {
    /// A repository over one store and one keyring.
    pub fn new(store: Arc<dyn Store>, keyring: Arc<Keyring>, random: Arc<dyn Random>) -> Self {
        Repository { store, keyring, random, journal: None, damage_observer: Arc::new(damage::Untold) }
    }

    /// The same with a journal, for answers that the store does not take at once.
    #[must_use]
    pub fn with_journal(mut self, journal: Arc<dyn Journal>) -> Self {
        self.journal = Some(journal);
        self
    }

    /// The same with an observer of damaged records.
    #[must_use]
    pub fn with_damage_observer(mut self, observer: Arc<dyn DamageObserver>) -> Self {
        self.damage_observer = observer;
        self
    }

    /// The keys that seal and open.
    pub fn keyring(&self) -> &Arc<Keyring> {
        &self.keyring
    }

    /// Loads a connection.
    pub async fn load(&self, key: &ConnectionKey) -> Result<Option<Loaded>, RepositoryError> {
        match self.store.load(key).await.map_err(|error| self.store_error(of(key), error))? {
            Some(stored) => Ok(Some(self.open(key, stored)?)),
            None => Ok(None),
        }
    }

    /// Opens the grant of a loaded connection; `None` if a verdict destroyed it.
    pub fn open_grant(&self, key: &ConnectionKey, loaded: &Loaded) -> Result<Option<Grant>, RepositoryError> {
        let generation = loaded.connection.revision.generation;
        let bytes = self.open_field(key, GRANT, generation, &loaded.sealed.grant)?;
        wire::decode_grant(&bytes).ok_or_else(|| self.format_error(of(key), GRANT))
    }

    /// Seals and stores the result of a user's sign-in, in the place of `before` or as a new record. Returns
    /// its revision. `floor` is the store's number from before the sign-in: a delete since then refuses it.
    pub async fn connect(
        &self,
        key: &ConnectionKey,
        (before, floor): (Option<Revision>, u64),
        (nonce, now): ([u8; 8], Timestamp),
        profile: Profile,
        tokens: &[HeldToken],
        grant: &Grant,
    ) -> Result<(Committed, Revision), RepositoryError> {
        let number = before.map_or(0, |before| before.generation + 1).max(floor);
        let profile = profile.of_sign_in(SignIn { number, nonce });
        let turn = Some(Turn::SignedIn { at: now });
        let sealed = self.seal(key, number - 1, &profile, tokens, Some(grant), turn);
        let committed = self.store.commit(key, before, &sealed, Writer::SignIn).await?;
        Ok((committed, sealed.revision))
    }

    /// Seals and stores a connection if its stored revision still is `expected`, with the notice of its turn.
    /// Returns the new revision if it was.
    pub async fn commit(
        &self,
        key: &ConnectionKey,
        (expected, turn): (Revision, Turn),
        profile: &Profile,
        tokens: &[HeldToken],
        grant: Option<&Grant>,
        writer: Writer,
    ) -> Result<(Committed, Revision), RepositoryError> {
        let sealed = self.seal(key, expected.generation, profile, tokens, grant, Some(turn));
        let committed = self.store.commit(key, Some(expected), &sealed, writer).await?;
        Ok((committed, sealed.revision))
    }

    /// Seals a connection with the generation after `after`, without storing it. One sealed value may be
    /// committed again after a lost answer; a second sealing may not. `turn` says what it follows; without
    /// one it tells nothing.
    pub fn seal(
        &self,
        key: &ConnectionKey,
        after: u64,
        profile: &Profile,
        tokens: &[HeldToken],
        grant: Option<&Grant>,
        turn: Option<Turn>,
    ) -> StoredConnection {
        let generation = after + 1;
        let nonce = random_bytes(self.random.as_ref());
        let revision = Revision { sign_in: profile.sign_in(), generation, nonce };
        let primary = self.keyring.primary();
        let field = |name, bytes: Zeroizing<Vec<u8>>| {
            primary.seal(&place(key, name, generation), &bytes, self.random.as_ref())
        };
        let tenant = profile.account().tid.as_deref();
        let notice = turn.and_then(|turn| turn.notice(key, tenant, profile.outlook(), &nonce));
        StoredConnection {
            revision,
            profile: field(PROFILE, wire::encode_profile(profile)),
            tokens: field(TOKENS, wire::encode_tokens(tokens)),
            grant: field(GRANT, wire::encode_grant(grant)),
            notice: notice.map(Box::new),
        }
    }

    /// Stores a record of [`Repository::seal`]. If its key is not the primary any more, the record is
    /// rewrapped first, with the same revision: so a key that was counted as unused never comes back with a
    /// record that waited in memory.
    pub async fn commit_sealed(
        &self,
        key: &ConnectionKey,
        expected: Revision,
        sealed: &StoredConnection,
        writer: Writer,
    ) -> Result<Committed, RepositoryError> {
        let anew = self.sealed_anew(key, sealed, &self.keyring.primary())?;
        Ok(self.store.commit(key, Some(expected), anew.as_ref().unwrap_or(sealed), writer).await?)
    }

    /// Destroys a connection as it is now, for its user or on the user's behalf. Returns its sign-in, or
    /// `None` if there was none. The delete covers sign-ins that have begun, and none that begin later.
    /// `tenant` is that of its account, as far as it is known.
    pub async fn delete(
        &self,
        key: &ConnectionKey,
        tenant: Option<&str>,
        now: Timestamp,
    ) -> Result<Option<SignIn>, RepositoryError> {
        for _ in 0..DELETE_TRIES {
            let meant = match self.store.revision(key).await {
                Ok(Some(revision)) => revision.sign_in,
                // (An unreadable record is destroyed too.)
                Ok(None) | Err(StoreError::Corrupt { .. }) => {
                    SignIn { number: self.store.floor(key).await?.number, nonce: [0; 8] }
                }
                Err(error) => return Err(error.into()),
            };
            let notice = Notice::deleted(key, &meant, tenant, now);
            match self.store.delete(key, meant, true, Some(&notice)).await? {
                Deleted::Gone => return Ok(Some(meant)),
                Deleted::Absent => return Ok(None),
                Deleted::Another => {} // connected anew, or given back to the store, in between
            }
        }
        let doing = "deleting a connection";
        Err(StoreError::Unavailable { doing, cause: "it is connected anew again and again".into() }.into())
    }

    /// A page of an app's connections. Only their profiles are opened. Those that do not open are left out
    /// and counted.
    pub async fn list(
        &self,
        app: &AppName,
        prefix: &str,
        after: Option<&ConnectionName>,
        limit: usize,
    ) -> Result<Page, RepositoryError> {
        self.search(app, prefix, after, limit, None).await
    }

    /// The same, but of the connections that are read only those that are wanted.
    pub async fn search(
        &self,
        app: &AppName,
        prefix: &str,
        after: Option<&ConnectionName>,
        limit: usize,
        wanted: Option<&Wanted<'_>>,
    ) -> Result<Page, RepositoryError> {
        let page = self.store.list(app, prefix, after, limit).await?;
        let last = page.connections.last().map(|(name, _)| name.clone());
        let mut listed = Page { last, next: page.next, ..Page::default() };
        listed.read = page.connections.len();
        for (name, stored) in page.connections {
            let key = ConnectionKey { app: app.clone(), connection: name };
            listed.profiles.extend(self.listed(key, &stored, wanted));
        }
        Ok(listed)
    }

    /// Those of these connections that exist and are wanted, as they may be shown, in their order. Only
    /// profiles are read. A damaged one is left out as in a list.
    pub async fn profiles(
        &self,
        app: &AppName,
        names: Vec<ConnectionName>,
        wanted: Option<&Wanted<'_>>,
    ) -> Result<Vec<(ConnectionName, Profile)>, RepositoryError> {
        let key = |connection| ConnectionKey { app: app.clone(), connection };
        let keys: Vec<ConnectionKey> = names.into_iter().map(key).collect();
        let found = self.store.profiles(&keys).await?;
        let mut profiles = Vec::with_capacity(keys.len());
        for (key, stored) in keys.into_iter().zip(found) {
            profiles.extend(stored.and_then(|stored| self.listed(key, &stored, wanted)));
        }
        Ok(profiles)
    }

    /// A connection as a list shows it; `None` if it is not wanted or does not open.
    fn listed(
        &self,
        key: ConnectionKey,
        stored: &StoredProfile,
        wanted: Option<&Wanted<'_>>,
    ) -> Option<(ConnectionName, Profile)> {
        match self.open_profile_if(&key, stored.revision, &stored.profile, wanted) {
            Ok(profile) => Some((key.connection, profile?)),
            Err(error) => {
                tracing::debug!(app = %key.app, connection = %key.connection, %error,
                    "a stored connection does not open and is left out of the list");
                None
            }
        }
    }

    fn open(&self, key: &ConnectionKey, stored: StoredConnection) -> Result<Loaded, RepositoryError> {
        let profile = self.open_profile(key, stored.revision, &stored.profile)?;
        let bytes = self.open_field(key, TOKENS, stored.revision.generation, &stored.tokens)?;
        let tokens = wire::decode_tokens(&bytes).ok_or_else(|| self.format_error(of(key), TOKENS))?;
        let connection = Connection { revision: stored.revision, profile, tokens };
        Ok(Loaded { connection, sealed: stored })
    }

    fn open_profile(
        &self,
        key: &ConnectionKey,
        revision: Revision,
        sealed: &[u8],
    ) -> Result<Profile, RepositoryError> {
        let profile = self.open_profile_if(key, revision, sealed, None)?;
        Ok(profile.expect("every profile is wanted"))
    }

    /// Opens a profile; `None` if it is not wanted. Most of those are known by a glimpse.
    fn open_profile_if(
        &self,
        key: &ConnectionKey,
        revision: Revision,
        sealed: &[u8],
        wanted: Option<&Wanted<'_>>,
    ) -> Result<Option<Profile>, RepositoryError> {
        let bytes = self.open_field(key, PROFILE, revision.generation, sealed)?;
        let wrong = || self.format_error(of(key), PROFILE);
        if let Some(is_wanted) = wanted {
            let glimpse: Glimpse<'_> = serde_json::from_slice(&bytes).map_err(|_| wrong())?;
            if !is_wanted(key, &glimpse) {
                return Ok(None);
            }
        }
        let profile: Profile = serde_json::from_slice(&bytes).map_err(|_| wrong())?;
        // The unsealed revision decides what a delete destroys.
        let same = profile.sign_in() == revision.sign_in;
        if same { Ok(Some(profile)) } else { Err(wrong()) }
    }

    fn open_field(
        &self,
        key: &ConnectionKey,
        field: &'static str,
        generation: u64,
        sealed: &[u8],
    ) -> Result<Zeroizing<Vec<u8>>, RepositoryError> {
        let opened = self.keyring.open(&place(key, field, generation), sealed);
        opened.map_err(|cause| self.sealed_error(of(key), field, cause))
    }
}

/// Says whether a connection is wanted.
pub type Wanted<'a> = dyn Fn(&ConnectionKey, &Glimpse<'_>) -> bool + Sync + 'a;

/// A page of connections as they may be shown.
#[derive(Default)]
pub struct Page {
    /// How many were read for it.
    pub read: usize,
    /// The last that was read.
    pub last: Option<ConnectionName>,
    /// Names and profiles, ordered by name.
    pub profiles: Vec<(ConnectionName, Profile)>,
    /// Where the next page starts; `None` on the last.
    pub next: Option<ConnectionName>,
}

fn place<'a>(key: &'a ConnectionKey, field: &'static str, generation: u64) -> Place<'a> {
    Place { schema: CONNECTION, owner: (key.app.as_str(), key.connection.as_str()), field, generation }
}

fn of(key: &ConnectionKey) -> Owner {
    Owner::Connection(key.clone())
}
