//! The last word on a connect session: whoever started it says that the right user came back, and the connection is made
//! or renewed.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::connect::{SWAP_TRIES, unavailable};
use super::rights::{Barred, Put};
use super::session::ConnectSession;
use super::{Broker, FailureReason, Refusal, SessionState};
use crate::domain::account::{Account, AccountId};
use crate::domain::connection::{Profile, SignIn};
use crate::domain::grant::Grant;
use crate::domain::id::{ConnectionKey, SessionId};
use crate::domain::secret::ConfirmationCode;
use crate::policy::CallerPolicy;
use crate::repository::{FiledUnder, Kind, Redeemed, RepositoryError, SecretHash, Taken};

/// Wrong confirmations that end a session.
const MOST_WRONG_CODES: u8 = 5;

/// What the one who started the session says.
pub enum Confirmation {
    /// The one-time code that the browser brought.
    Code(ConfirmationCode),
    /// The account that came back.
    Account(AccountId),
}

impl Broker {
    /// The one who started the session says that the right user came back. Goes on whether the caller waits or not.
    pub async fn confirm(
        self: &Arc<Self>,
        caller: &CallerPolicy,
        id: &SessionId,
        confirmation: Confirmation,
    ) -> Result<(ConnectionKey, Account), Refusal> {
        let (broker, caller, id) = (Arc::clone(self), caller.clone(), id.clone());
        let work = async move { broker.confirm_to_the_end(&caller, &id, confirmation).await };
        let outcome = self.to_the_end("confirm a connect session", work).await;
        outcome.unwrap_or(Err(Refusal::StoreUnavailable))
    }

    async fn confirm_to_the_end(
        &self,
        caller: &CallerPolicy,
        id: &SessionId,
        confirmation: Confirmation,
    ) -> Result<(ConnectionKey, Account), Refusal> {
        let rejected = |problem: &str| Refusal::ConfirmationRejected { problem: problem.to_owned() };
        for _ in 0..SWAP_TRIES {
            let taken = self.own_session(caller, id).await?;
            let session = &taken.value;
            let key = session.key();
            let (account, code_hash, wrong_codes, until) = match self.stands(session) {
                SessionState::AwaitingConfirmation { account, code_hash, wrong_codes, until } => {
                    (account, code_hash, wrong_codes, until)
                }
                SessionState::Connected { account, code_hash } => {
                    return if already_confirmed(&confirmation, &account, code_hash.as_ref()) {
                        Ok((key, account))
                    } else {
                        Err(rejected("the session was confirmed before, with something else"))
                    };
                }
                SessionState::Pending => return Err(rejected("nobody has signed in yet")),
                state if state.is_failed_for(FailureReason::Revoked) => return Err(Barred::Revoked.into()),
                SessionState::Failed(_) | SessionState::Expired => {
                    return Err(rejected("the session is over; start a new one"));
                }
            };
            self.right_of_session(session, Some(&account)).await?;
            let fits = match &confirmation {
                Confirmation::Code(code) => code_hash.is_of(code.expose()),
                Confirmation::Account(_) if session.return_url.is_some() => {
                    return Err(rejected(
                        "this session has a return_url: confirm it with the code that the browser brought there",
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
                    SessionState::failed(FailureReason::AccessDenied)
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
                    FailureReason::Expired => {
                        rejected("the connection was deleted or connected anew since its user signed in; start a new session")
                    }
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
            // Unmarked, the session still waits, and what was redeemed stays for a repeated confirmation to find.
            if self.note_connected(id, taken, &connected).await
                && let Err(error) = self.deps.repository.discard_redeemed(&confirmed).await
            {
                tracing::warn!(%error, "a confirmed grant's waiting copy could not be discarded; it expires");
            }
            return Ok((key, account));
        }
        Err(Refusal::StoreUnavailable)
    }

    /// Says in the session that it is connected, even where a wrong confirmation was counted meanwhile. False when that
    /// could not be stored: the connection stands all the same.
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

    /// Notes what a confirmation is about to put its grant in the place of. False when an earlier call did so with something
    /// else there: nobody knows whether that one's grant was stored, and used and replaced since. (A commit that was refused is
    /// known not to have been.)
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

    /// Makes or renews the connection. Of a connection that is there, only its own account may renew it. A delete that has come
    /// since the user signed in has the last word ([`FailureReason::Expired`]): also where this sign-in had been stored before
    /// it, and nobody was told.
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
            tracing::error!(app = %key.app, connection = %key.connection, %error, "a connection could not be stored");
            FailureReason::Internal
        };
        for attempt in 0..SWAP_TRIES {
            let before = repository.load(&key).await.map_err(internal)?;
            let before = before.map(|loaded| loaded.connection);
            // After the load: what a later delete takes away is not what the commit expects.
            let floor = repository.floor(&key).await.map_err(|error| internal(error.into()))?;
            if floor.cut > redeemed.floor.cut {
                return Err(FailureReason::Expired);
            }
            // This replica may not have heard of it yet. What is revoked after this look, or where the look fails, means the
            // connection as well, by when its session was started: so no grant is lost for it.
            if let Err(error) = self.follow_revocations().await {
                tracing::warn!(app = %key.app, connection = %key.connection, %error, "a sign-in is stored, and what was revoked lately could not be read; what it means is refused once it is known");
            }
            // After the floor: a pause that this does not see changes what the commit expects, or is deleted after it.
            let right = self.right_of_session(session, Some(&redeemed.account)).await;
            let right = right.map_err(|barred| barred.reason())?;
            // Another account gives way only where the session was started to move it, and only the account that the
            // connection had then.
            if let Some(before) = &before {
                let account = before.profile.account.id();
                let may_move = session.change_account && session.seen.as_ref() == Some(&account);
                if account != redeemed.account.id() && !may_move {
                    return Err(FailureReason::AccountMismatch);
                }
            }
            let same_account =
                before.as_ref().filter(|before| before.profile.account.id() == redeemed.account.id());
            // This very sign-in, whose answer was lost: its first refresh token must not go over a newer one.
            if before.as_ref().is_some_and(|before| before.profile.sign_in.nonce == redeemed.nonce) {
                return Ok(());
            }
            if let Some(code_hash) = confirmed_with {
                let replaced = Replaced { sign_in: before.as_ref().map(|before| before.revision.sign_in) };
                let may = self.note_attempt(code_hash, &replaced, attempt == 0).await.map_err(internal)?;
                if !may {
                    return Err(FailureReason::Expired);
                }
            }
            let mut profile = Profile::connected(
                redeemed.account.clone(),
                session.scopes.clone(),
                redeemed.scopes_granted.clone(),
                session.created_by.clone(),
                self.deps.clock.now(),
                same_account.map(|before| &before.profile),
            );
            // However long it waited to be confirmed: what was revoked meanwhile stays revoked.
            profile.connected_at = redeemed.token.issued_at;
            profile.session_started_at = Some(session.started_at);
            // Nor is it younger than the sign-in that it came from.
            profile.created_at = profile.created_at.min(profile.connected_at);
            if self.deps.engine.is_revoked(&key, &profile) {
                return Err(FailureReason::Revoked);
            }
            let expected = before.as_ref().map(|before| (before.revision, &before.profile));
            let tokens = std::slice::from_ref(&redeemed.token);
            // Before it is there: one that nothing looks after would end unseen.
            self.deps.engine.expect(&key, &profile, tokens).await;
            let base = (floor.number.max(redeemed.floor.number), redeemed.nonce);
            match self.put(&right, expected, base, profile, tokens, &grant).await {
                Ok(Put::Done(revision)) => {
                    self.deps.engine.connected(&key, revision.sign_in);
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

/// What a confirmed sign-in takes the place of.
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
