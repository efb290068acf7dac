//! Confirmation of a connect session: its starter says that the right user came back, and the connection is
//! created or renewed.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::connect::{SWAP_TRIES, unavailable};
use super::rights::{Barred, Put};
use super::session::ConnectSession;
use super::{Broker, FailureReason, Refusal, SessionState};
use crate::domain::account::{Account, AccountId};
use crate::domain::connection::{Profile, SignIn, Status};
use crate::domain::grant::Grant;
use crate::domain::id::{ConnectionKey, SessionId};
use crate::domain::secret::ConfirmationCode;
use crate::policy::CallerPolicy;
use crate::repository::{FiledUnder, Kind, Redeemed, RepositoryError, SecretHash, Taken};

/// Wrong confirmations that end a session.
const MOST_WRONG_CODES: u8 = 5;

/// The starter's confirmation.
pub enum Confirmation {
    /// The one-time code from the browser.
    Code(ConfirmationCode),
    /// The account that signed in.
    Account(AccountId),
}

impl Broker {
    /// Confirms a session on its starter's word. The work continues even if the caller leaves. A session that
    /// this ends keeps `request_id`.
    pub async fn confirm(
        self: &Arc<Self>,
        caller: &CallerPolicy,
        id: &SessionId,
        confirmation: Confirmation,
        request_id: &str,
    ) -> Result<(ConnectionKey, Account), Refusal> {
        let (broker, caller, id) = (Arc::clone(self), caller.clone(), id.clone());
        let request_id = request_id.to_owned();
        let work = async move { broker.confirm_to_the_end(&caller, &id, confirmation, &request_id).await };
        let outcome = self.to_the_end("confirm a connect session", work).await;
        outcome.unwrap_or(Err(Refusal::StoreUnavailable))
    }

    async fn confirm_to_the_end(
        &self,
        caller: &CallerPolicy,
        id: &SessionId,
        confirmation: Confirmation,
        request_id: &str,
    ) -> Result<(ConnectionKey, Account), Refusal> {
        let rejected = |problem: &str| Refusal::ConfirmationRejected { problem: problem.to_owned() };
        for _ in 0..SWAP_TRIES {
            let taken = self.own_session(caller, id).await?;
            let session = &taken.value;
            let (account, code_hash, wrong_codes, until) = match self.stands(session) {
                SessionState::AwaitingConfirmation { account, code_hash, wrong_codes, until } => {
                    (account, code_hash, wrong_codes, until)
                }
                SessionState::Connected { account, code_hash } => {
                    return if already_confirmed(&confirmation, &account, code_hash.as_ref()) {
                        Ok((session.key(), account))
                    } else {
                        Err(rejected("the session was confirmed before, with another code or account"))
                    };
                }
                SessionState::Pending => return Err(rejected("nobody has signed in yet")),
                state if state.is_failed_for(FailureReason::Revoked) => return Err(Barred::Revoked.into()),
                SessionState::Failed(_) | SessionState::Expired => {
                    return Err(rejected("the session is over; start a new one"));
                }
            };
            let right = self.right_of_session(session, Some(&account)).await?;
            let fits = match &confirmation {
                Confirmation::Code(code) => code_hash.is_of(code.expose()),
                Confirmation::Account(_) if session.return_url.is_some() => {
                    return Err(rejected(
                        "this session has a return_url: confirm it with the code that the browser brought \
                         there",
                    ));
                }
                Confirmation::Account(named) => *named == account.id(),
            };
            if !fits {
                let wrong_codes = wrong_codes + 1;
                let over = wrong_codes >= MOST_WRONG_CODES;
                let mut after = session.clone();
                let waiting = code_hash.clone();
                after.state = if over {
                    SessionState::failed(FailureReason::AccessDenied).noted(request_id, self.deps.clock.now())
                } else {
                    let code_hash = code_hash.clone();
                    SessionState::AwaitingConfirmation { account, code_hash, wrong_codes, until }
                };
                if !self.swap_session(id, &taken, &after).await.map_err(unavailable)? {
                    continue;
                }
                if over {
                    self.deps.repository.discard_redeemed(&waiting).await?;
                    return Err(rejected(
                        "too many wrong confirmations; the session is over, start a new one",
                    ));
                }
                return Err(rejected("it does not fit what came back"));
            }
            let redeemed = self.deps.repository.redeemed(&code_hash).await?;
            let Some(redeemed) = redeemed.filter(|redeemed| redeemed.account.id() == account.id()) else {
                return Err(rejected("the session is over; start a new one"));
            };
            let session = session.clone();
            self.keep_connection(&session, &redeemed, Some(&code_hash)).await.map_err(
                |reason| match reason {
                    FailureReason::AccountMismatch => rejected(
                        "the connection belongs to another account by now; pass change_account to move it",
                    ),
                    FailureReason::Expired => rejected(
                        "the connection was deleted or connected anew since its user signed in; \
                            start a new session",
                    ),
                    FailureReason::ConnectionPaused => Refusal::ConnectionPaused,
                    FailureReason::Revoked => Barred::Revoked.into(),
                    FailureReason::CallerForbidden => {
                        let problem = "no rule of this caller lets it connect this account under this name";
                        Refusal::Forbidden { problem: problem.to_owned() }
                    }
                    _ => Refusal::StoreUnavailable,
                },
            )?;
            let confirmed = code_hash.clone();
            let connected = SessionState::Connected { account: account.clone(), code_hash: Some(code_hash) };
            // Without the mark the session still waits, and a repeated confirmation finds the redeemed grant.
            if self.note_connected(id, taken, &connected).await
                && let Err(error) = self.deps.repository.discard_redeemed(&confirmed).await
            {
                tracing::warn!(%error, "a confirmed grant's waiting copy could not be discarded; it expires");
            }
            return Ok((right.into_key(), account));
        }
        Err(Refusal::StoreUnavailable)
    }

    /// Records in the session that it is connected, even if a wrong confirmation was counted meanwhile.
    /// Returns false if that could not be stored: the connection exists all the same.
    async fn note_connected(
        &self,
        id: &SessionId,
        mut taken: Taken<ConnectSession>,
        connected: &SessionState,
    ) -> bool {
        for _ in 0..SWAP_TRIES {
            let mut after = taken.value.clone();
            after.state = connected.clone();
            match self.swap_session(id, &taken, &after).await {
                Ok(true) => return true,
                Ok(false) => {}
                Err(_) => break,
            }
            match self.session(id).await {
                Ok(now) if matches!(now.value.state, SessionState::AwaitingConfirmation { .. }) => {
                    taken = now
                }
                Ok(_) => return true,
                Err(_) => break,
            }
        }
        tracing::warn!("a confirmed session could not be marked as connected");
        false
    }

    /// Records which connection a confirmation is about to replace. Returns false if an earlier call recorded
    /// another one: that call's grant may have been stored, used and replaced since. (A refused commit is
    /// known not to have been stored.)
    async fn note_attempt(
        &self,
        code_hash: &SecretHash,
        replaced: &Replaced,
        is_first: bool,
    ) -> Result<bool, RepositoryError> {
        let repository = &self.deps.repository;
        let filed = FiledUnder::hash(code_hash);
        if is_first && let Some(earlier) = repository.pending::<Replaced>(Kind::Confirming, &filed).await? {
            return Ok(earlier.value == *replaced);
        }
        let (now, ttl) = (self.deps.clock.now(), self.settings().confirmation_ttl);
        repository.put_pending(Kind::Confirming, &filed, replaced, now, ttl).await?;
        Ok(true)
    }

    /// Creates or renews the connection. Only its own account may renew an existing one. A delete after the
    /// user's sign-in wins ([`FailureReason::Expired`]), even if this sign-in had been stored before it
    /// without an answer.
    pub(super) async fn keep_connection(
        &self,
        session: &ConnectSession,
        redeemed: &Redeemed,
        confirmed_with: Option<&SecretHash>,
    ) -> Result<(), FailureReason> {
        let key = session.key();
        let repository = &self.deps.repository;
        let grant = Grant::new(redeemed.refresh_token.clone());
        let internal = |error: RepositoryError| {
            tracing::error!(
                app = %key.app, connection = %key.connection, %error,
                "a connection could not be stored"
            );
            FailureReason::Internal
        };
        for attempt in 0..SWAP_TRIES {
            let before = repository.load(&key).await.map_err(internal)?;
            let before = before.map(|loaded| loaded.connection);
            // Read after the connection: a later delete removes what the commit expects.
            let floor = repository.floor(&key).await.map_err(|error| internal(error.into()))?;
            if floor.cut > redeemed.floor.cut {
                return Err(FailureReason::Expired);
            }
            let began_before = before.as_ref().map(|before| before.profile.began_at());
            self.follow_revocations_for(&key, session.started_at, began_before).await.map_err(internal)?;
            // Read after the floor: a pause that this read misses changes what the commit expects, or is
            // removed after it.
            let right = self.right_of_session(session, Some(&redeemed.account)).await;
            let right = right.map_err(|barred| barred.reason())?;
            // Another account is replaced only if the session was started to do that, and only the account
            // that the connection had then.
            if let Some(before) = &before {
                let account = before.profile.account().id();
                let may_move = session.change_account && session.seen.as_ref() == Some(&account);
                if account != redeemed.account.id() && !may_move {
                    return Err(FailureReason::AccountMismatch);
                }
            }
            let same_account =
                before.as_ref().filter(|before| before.profile.account().id() == redeemed.account.id());
            // This sign-in is stored already and its answer was lost: its first refresh token must not
            // replace a newer one.
            if before.as_ref().is_some_and(|before| before.profile.sign_in().nonce == redeemed.nonce) {
                return Ok(());
            }
            if let Some(code_hash) = confirmed_with {
                let replaced = Replaced { sign_in: before.as_ref().map(|before| before.revision.sign_in) };
                let may = self.note_attempt(code_hash, &replaced, attempt == 0).await.map_err(internal)?;
                if !may {
                    return Err(FailureReason::Expired);
                }
            }
            let profile = Profile::connected(
                redeemed.account.clone(),
                session.scopes.clone(),
                redeemed.scopes_granted.clone(),
                session.created_by.clone(),
                self.deps.clock.now(),
                same_account.map(|before| &before.profile),
            )
            // However long it waited for its confirmation: a revocation in that time covers it.
            .of_session(session.started_at)
            .labelled(session.labels.clone())
            .signed_in_at(redeemed.token.issued_at);
            if self.deps.engine.is_revoked(&key, &profile) {
                return Err(FailureReason::Revoked);
            }
            let expected = before.as_ref().map(|before| (before.revision, &before.profile));
            let was = expected.map(|(_, profile)| profile.status());
            let tokens = std::slice::from_ref(&redeemed.token);
            // Scheduled before it is stored: an unscheduled connection would expire unnoticed.
            self.deps.engine.expect(&key, &profile, tokens).await;
            let base = (floor.number.max(redeemed.floor.number), redeemed.nonce);
            match self.put(&right, expected, base, profile, tokens, &grant).await {
                Ok(Put::Done(revision)) => {
                    self.deps.engine.connected(&key, revision.sign_in);
                    self.status_changed(&key, was, Some(Status::Active));
                    self.shown_consents.forget(&key.app);
                    return Ok(());
                }
                Ok(Put::Barred(reason)) => return Err(reason),
                Ok(Put::Conflict) => self.deps.engine.distrust(&key),
                Err(error) => {
                    self.deps.engine.distrust(&key);
                    return Err(internal(error));
                }
            }
        }
        Err(FailureReason::Internal)
    }
}

/// The connection that a confirmed sign-in replaces.
#[derive(PartialEq, Eq, Serialize, Deserialize)]
struct Replaced {
    sign_in: Option<SignIn>,
}

fn already_confirmed(confirmation: &Confirmation, account: &Account, code_hash: Option<&SecretHash>) -> bool {
    match confirmation {
        Confirmation::Code(code) => code_hash.is_some_and(|hash| hash.is_of(code.expose())),
        Confirmation::Account(named) => *named == account.id(),
    }
}
