//! The proof of a grant: it is used once, and what its answer brought is stored before anything is decided.

use std::collections::BTreeMap;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use parking_lot::Mutex;

use super::{Begun, ImportFault};
use crate::authority::{AdoptRequest, Adopted, RefusedAdoption, TokenAnswer};
use crate::broker::in_use::{InUse, Use};
use crate::broker::{Broker, Refusal};
use crate::domain::account::{Account, AccountId, PERSONAL_TENANT};
use crate::domain::cause::Cause;
use crate::domain::id::{AppName, ConnectionKey};
use crate::domain::not_now::NotNow;
use crate::domain::random::{Random, random_bytes};
use crate::domain::scope::ScopeSet;
use crate::domain::secret::RefreshToken;
use crate::domain::verdict::{AuthorityFailure, Disposition, GrantFate};
use crate::refresh::{held_token, warn_of_remarks};
use crate::repository::{
    FiledUnder, ImportState, Importing, JournaledImport, Redeemed, RepositoryError, SealedImport, TakenImport,
};

/// How long the result of a call is offered to a store that does not answer …
const KEEP_TRYING: Duration = Duration::from_secs(30);
/// … with this pause in between. (What the journal has is offered on and on.)
const KEEP_AGAIN: Duration = Duration::from_millis(250);
/// An answer that the store has not taken by then goes into the journal, if there is one.
const JOURNAL_AFTER: Duration = Duration::from_millis(40);
/// How long an app's authority is left alone that throttles and does not say for how long.
const THROTTLED: Duration = Duration::from_secs(5);
/// Time before a personal account's refusal is believed: Entra was seen to refuse good grants of such.
const SECOND_OPINION: Duration = Duration::from_secs(1);

/// Imports under way, and authorities that asked to be left alone.
pub(in crate::broker) struct Imports {
    under_way: InUse<String, ()>,
    /// This process, among those that share the store.
    me: OnceLock<[u8; 8]>,
    /// Until when (monotonic) no grant of an app is sent.
    throttled: Mutex<BTreeMap<AppName, Duration>>,
    /// Whether the journal may hold an import: at the start nobody knows.
    journaled: AtomicBool,
}

impl Default for Imports {
    fn default() -> Self {
        Imports {
            under_way: InUse::default(),
            me: OnceLock::new(),
            throttled: Mutex::default(),
            journaled: AtomicBool::new(true),
        }
    }
}

impl Imports {
    /// Begins the import of a grant; `None` while this process is at it.
    pub(super) fn begin(&self, filed: &FiledUnder) -> Option<Use<String, ()>> {
        self.under_way.try_share(filed.name().to_owned(), 1, || Some(()))
    }

    /// Returns true if a call was this process's own. (It is over then: a grant has one at a time here.)
    pub(super) fn is_mine(&self, by: &[u8; 8]) -> bool {
        self.me.get() == Some(by)
    }

    fn me(&self, random: &dyn Random) -> [u8; 8] {
        *self.me.get_or_init(|| random_bytes(random))
    }

    fn throttle(&self, app: &AppName, until: Duration) {
        let mut throttled = self.throttled.lock();
        let known = throttled.entry(app.clone()).or_insert(until);
        *known = until.max(*known);
    }

    /// Returns how long the app's authority is still left alone.
    fn throttled_for(&self, app: &AppName, now: Duration) -> Option<Duration> {
        let until = *self.throttled.lock().get(app)?;
        until.checked_sub(now).filter(|left| !left.is_zero())
    }
}

/// A grant that is not proven yet.
pub(super) struct Unproven {
    pub(super) read: Option<TakenImport>,
    /// The refresh token of an earlier answer.
    pub(super) successor: Option<RefreshToken>,
    /// True if nobody knows how an earlier call ended.
    pub(super) unsettled: bool,
}

impl Broker {
    /// Uses the grant. `None` if another replica changed its record meanwhile.
    pub(super) async fn prove(
        &self,
        begun: &Begun<'_>,
        given: &RefreshToken,
        Unproven { read, successor, unsettled }: Unproven,
    ) -> Result<Option<TakenImport>, Refusal> {
        let key = &begun.new.key;
        if let Some(left) = self.imports.throttled_for(&key.app, self.deps.clock.monotonic()) {
            return Err(NotNow::AskedToWait(Some(left)).into());
        }
        let permit = self.deps.engine.take(Cause::Import, None);
        let permit = permit.map_err(|retry_after| Refusal::TooManyImports { retry_after })?;
        let open = |since, unsettled, successor: Option<RefreshToken>| Importing {
            key: key.clone(),
            state: ImportState::Open {
                since,
                by: self.imports.me(self.deps.random.as_ref()),
                successor,
                unsettled,
            },
        };
        let intent = open(Some(self.deps.clock.now()), unsettled, successor.clone());
        let Some(taken) = self.note_import(begun.filed, read.as_ref(), intent).await? else {
            return Ok(None);
        };
        permit.spend();
        let used = successor.clone().unwrap_or_else(|| given.clone());
        match self.adopt(begun, &used).await {
            Ok(Adopted::Tokens { account, answer }) => {
                let nonce = random_bytes(self.deps.random.as_ref());
                let redeemed = redeemed(begun, &used, (*account, *answer), nonce);
                let state = ImportState::Proven(Box::new(redeemed));
                self.keep_answer(begun, taken, Importing { key: key.clone(), state }).await.map(Some)
            }
            Ok(Adopted::Refused(refused)) => {
                let RefusedAdoption { why, refresh_token, failure } = *refused;
                tracing::warn!(
                    app = %key.app, connection = %key.connection, %failure,
                    trace_id = failure.answer.trace_id, correlation_id = failure.answer.correlation_id,
                    "the answer to an imported grant's first use is refused; its refresh token is kept"
                );
                let kept = open(None, false, refresh_token.or(successor));
                self.keep_answer(begun, taken, kept).await?;
                Err(ImportFault::from(why).into())
            }
            Err(failure) => {
                let is_lost = failure.disposition == Disposition::OutcomeUnknown;
                let noted = open(None, unsettled || is_lost, successor);
                // (If that fails, the record says that a call is under way: its end is unknown.)
                let _ = self.note_import(begun.filed, Some(&taken), noted).await;
                Err(self.not_proven(key, failure, unsettled))
            }
        }
    }

    /// Calls the authority.
    async fn adopt(&self, begun: &Begun<'_>, used: &RefreshToken) -> Result<Adopted, AuthorityFailure> {
        let app = &begun.checked.app;
        let naming = app.naming();
        // A refresh is for one resource; the grant gets the others' tokens when they are needed.
        let resource = naming.primary_resource(&begun.checked.scopes);
        let scopes = begun.checked.scopes.of_resource(resource.as_deref());
        let tenant = match &begun.new.account {
            Some(AccountId::Entra { tid, .. }) => Some(tid.as_str()),
            _ => None,
        };
        let ask =
            async || app.authority.adopt(AdoptRequest { refresh_token: used, scopes: &scopes, tenant }).await;
        match ask().await {
            Err(AuthorityFailure { disposition: Disposition::Reauthorize(_, GrantFate::Dead), .. })
                if tenant == Some(PERSONAL_TENANT) =>
            {
                self.deps.clock.sleep(SECOND_OPINION).await;
                ask().await
            }
            answer => answer,
        }
    }

    /// Returns the refusal for a grant that did not work.
    fn not_proven(&self, key: &ConnectionKey, failure: AuthorityFailure, unsettled: bool) -> Refusal {
        tracing::info!(
            app = %key.app, connection = %key.connection, %failure,
            error = failure.answer.error, error_codes = ?failure.answer.error_codes,
            trace_id = failure.answer.trace_id, correlation_id = failure.answer.correlation_id,
            "a grant is not imported: it did not work"
        );
        match failure.disposition {
            Disposition::Reauthorize(_, GrantFate::Dead) if unsettled => ImportFault::GrantLost.into(),
            Disposition::Unclear => ImportFault::RefusedUnclearly.into(),
            disposition => {
                if let (Disposition::RetryAfter(asked), Some(429 | 503)) =
                    (disposition, failure.answer.status)
                {
                    let until = self.deps.clock.monotonic().saturating_add(asked.unwrap_or(THROTTLED));
                    self.imports.throttle(&key.app, until);
                }
                Refusal::of_disposition(disposition, failure.answer)
            }
        }
    }

    /// Stores what is known now, if the record is still the one that was read.
    async fn note_import(
        &self,
        filed: &FiledUnder,
        read: Option<&TakenImport>,
        value: Importing,
    ) -> Result<Option<TakenImport>, Refusal> {
        let repository = &self.deps.repository;
        let sealed = repository.seal_import(filed, &value);
        let stored = repository.swap_import(filed, read, &sealed, self.deps.clock.now()).await?;
        Ok(stored.then(|| sealed.stored(value)))
    }

    /// Stores what an answer brought. It is nowhere else, and the refresh token that was sent may be spent:
    /// it is offered for a while to a store that does not answer, and wins over what another replica noted
    /// without an answer.
    async fn keep_answer(
        &self,
        begun: &Begun<'_>,
        taken: TakenImport,
        value: Importing,
    ) -> Result<TakenImport, Refusal> {
        let repository = &self.deps.repository;
        let sealed = repository.seal_import(begun.filed, &value);
        let mut is_journaled = false;
        let kept = {
            let mut patient = std::pin::pin!(self.offer_patiently(begun.filed, taken, &sealed));
            tokio::select! {
                biased;
                kept = &mut patient => kept,
                () = self.deps.clock.sleep(JOURNAL_AFTER), if repository.has_journal() => {
                    match repository.journal_import(begun.filed, &sealed).await {
                        Ok(()) => {
                            is_journaled = true;
                            self.imports.journaled.store(true, Ordering::Release);
                        }
                        Err(error) => tracing::error!(%error, "an imported grant is not in the journal"),
                    }
                    patient.await
                }
            }
        };
        match kept {
            Ok(other) => {
                if is_journaled {
                    repository.unjournal_import(begun.filed).await;
                }
                Ok(other.unwrap_or_else(|| sealed.stored(value)))
            }
            Err(error) => {
                if !is_journaled {
                    tracing::error!(
                        app = %value.key.app, connection = %value.key.connection, %error,
                        "the answer to an imported grant's first use could not be stored and is lost"
                    );
                }
                Err(error.into())
            }
        }
    }

    /// Offers an answer to the store for a while. Returns what another replica stored in its place, if that
    /// came with an answer of its own.
    async fn offer_patiently(
        &self,
        filed: &FiledUnder,
        taken: TakenImport,
        sealed: &SealedImport,
    ) -> Result<Option<TakenImport>, RepositoryError> {
        let repository = &self.deps.repository;
        let since = self.deps.clock.monotonic();
        let mut read = Some(taken);
        loop {
            let now = self.deps.clock.now();
            let error = match repository.swap_import(filed, read.as_ref(), sealed, now).await {
                Ok(true) => return Ok(None),
                Ok(false) => match repository.importing(filed).await {
                    Ok(Some(other)) if !matches!(other.value.state, ImportState::Open { .. }) => {
                        return Ok(Some(other));
                    }
                    Ok(other) => {
                        read = other;
                        continue;
                    }
                    Err(error) => error,
                },
                Err(error) => error,
            };
            if self.deps.clock.monotonic().saturating_sub(since) >= KEEP_TRYING {
                return Err(error);
            }
            self.deps.clock.sleep(KEEP_AGAIN).await;
        }
    }

    /// Offers what is in the journal of imports to the store, also from before this process. Returns how many
    /// are left. For a timer.
    pub async fn store_journaled_imports(&self) -> usize {
        if !self.imports.journaled.swap(false, Ordering::AcqRel) {
            return 0;
        }
        let all = match self.deps.repository.journaled_imports().await {
            Ok(all) => all,
            Err(error) => {
                tracing::warn!(%error, "the journal of imports cannot be read; it is read again");
                self.imports.journaled.store(true, Ordering::Release);
                return 1;
            }
        };
        let mut left = 0;
        for entry in all {
            // A request that is at this grant stores it itself.
            let is_stored = match self.imports.begin(&entry.0) {
                None => false,
                Some(_alone) => self.store_journaled(&entry).await,
            };
            left += usize::from(!is_stored);
        }
        self.imports.journaled.fetch_or(left > 0, Ordering::AcqRel);
        left
    }

    /// Stores what the journal has of a grant, before anything is decided by what the store has: the refresh
    /// token that was given may be spent, and its successor be in the journal alone.
    ///
    /// # Errors
    /// It cannot be stored now.
    pub(super) async fn store_journaled_first(&self, filed: &FiledUnder) -> Result<(), Refusal> {
        let entry = self.deps.repository.journaled_import(filed).await.map_err(|error| {
            tracing::error!(%error, "an import waits until the journal can be read");
            Refusal::StoreUnavailable
        })?;
        match entry {
            Some(entry) if !self.store_journaled(&entry).await => Err(Refusal::StoreUnavailable),
            _ => Ok(()),
        }
    }

    /// Stores an entry of the journal, for whoever is alone at its grant. Returns true if it is stored, or
    /// something that came later is.
    async fn store_journaled(&self, (filed, value, sealed): &JournaledImport) -> bool {
        let repository = &self.deps.repository;
        let is_stored = match repository.importing(filed).await {
            Ok(Some(other)) if !matches!(other.value.state, ImportState::Open { .. }) => true,
            Ok(read) => {
                let swapped =
                    repository.swap_import(filed, read.as_ref(), sealed, self.deps.clock.now()).await;
                matches!(swapped, Ok(true))
            }
            Err(_) => false,
        };
        if is_stored {
            repository.unjournal_import(filed).await;
            tracing::info!(
                app = %value.key.app, connection = %value.key.connection,
                "what an imported grant's first use brought is stored now; ask for its import again"
            );
        }
        is_stored
    }
}

/// What is stored of an answer.
fn redeemed(
    begun: &Begun<'_>,
    used: &RefreshToken,
    (account, answer): (Account, TokenAnswer),
    nonce: [u8; 8],
) -> Redeemed {
    let (naming, requested) = (begun.checked.app.naming(), &begun.checked.scopes);
    warn_of_remarks(&begun.new.key, &answer.remarks);
    let resource = naming.primary_resource(requested);
    let answered = naming.scopes_lossy(answer.scopes.iter().map(String::as_str));
    // The answer covers one resource. Consent for the others shows when their tokens are fetched.
    let others = requested.iter().filter(|scope| {
        scope.resource().is_some() && scope.resource() != resource.as_deref() && !answered.contains(scope)
    });
    let granted: ScopeSet = answered.iter().chain(others).cloned().collect();
    // An answer without a refresh token means: keep the one you have (RFC 6749 §6).
    let refresh_token = answer.refresh_token.clone().unwrap_or_else(|| used.clone());
    Redeemed {
        account,
        scopes_granted: granted.to_words(),
        refresh_token,
        token: held_token(answer, resource),
        floor: begun.floor,
        nonce,
    }
}
