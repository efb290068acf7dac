//! One use of a grant at the authority, with a second opinion where one is due. Returns the answer; writes
//! nothing down.

use std::sync::Arc;
use std::time::Duration;

use super::answer::scopes_to_ask;
use super::claims::Claims;
use super::failure::Failure;
use super::lease::Lease;
use super::plan::Want;
use super::ports::Ports;
use super::tenant;
use crate::authority::{Fate, RefreshRequest, Refreshed};
use crate::domain::grant::Grant;
use crate::domain::id::ConnectionKey;
use crate::domain::not_now::NotNow;
use crate::domain::secret::RefreshToken;
use crate::domain::verdict::{AuthorityError, Disposition, GrantFate, ReauthReason};
use crate::repository::Connection;

/// Entra's number for a request with something malformed in it, such as a refresh token.
const MALFORMED: u32 = 9_002_313;
/// Pause before a personal account's verdict is checked once more.
const SECOND_OPINION: Duration = Duration::from_millis(500);

/// Asks the authority for as long as the lease is kept. Returns the refresh token that was used, too.
pub(super) async fn call(
    ports: &Arc<Ports>,
    key: &ConnectionKey,
    connection: &Connection,
    grant: &Grant,
    want: &Want,
    lease: &Lease,
) -> Result<(RefreshToken, Refreshed), Failure> {
    tokio::select! {
        biased;
        answer = ask(ports, key, connection, grant, want, lease) => answer,
        () = lease.keep(ports, key) => unreachable!("a lease is kept for as long as it is asked for"),
    }
}

async fn ask(
    ports: &Ports,
    key: &ConnectionKey,
    connection: &Connection,
    grant: &Grant,
    want: &Want,
    lease: &Lease,
) -> Result<(RefreshToken, Refreshed), Failure> {
    let authority = ports.authority(&key.app).expect("only configured apps reach the engine");
    let scopes = scopes_to_ask(authority.scope_naming(), connection, want);
    let ask_once = async |refresh_token: &RefreshToken| {
        // A process that was stopped and goes on must not call beside the replica that has the lease by now.
        if !lease.outlasts(ports, ports.settings().authority_timeout) {
            return Err(NotNow::LeaseRanOut.into());
        }
        let begun = ports.monotonic();
        let answer = authority
            .refresh(RefreshRequest {
                refresh_token,
                scopes: &scopes,
                account: connection.profile.account(),
                claims: want.claims.as_ref().map(Claims::json),
            })
            .await;
        let outcome = match &answer {
            Ok(Refreshed::Tokens(_)) => "ok",
            Ok(Refreshed::Refused(refused)) => refused.failure.disposition.as_str(),
            Err(failure) => failure.disposition.as_str(),
        };
        let elapsed = ports.monotonic().saturating_sub(begun);
        ports.deps.observer.refreshed(&key.app, outcome, elapsed);
        answer.map_err(Failure::Authority)
    };
    let says_dead = |failure: &Failure| {
        matches!(failure.disposition(), Some(Disposition::Reauthorize(_, GrantFate::Dead)))
    };

    let mut verdict = match ask_once(&grant.current).await {
        // A refresh token that came with an answer that was not believed leads to somebody else: only the one
        // before it is left, spent or not. One that came with an answer that was believed is the owner's
        // whatever this answer says, and the one before it stays unused, for using it again may end the
        // grant.
        Ok(Refreshed::Refused(refused)) if matches!(refused.fate, Fate::Anothers) && grant.is_doubtful => {
            let Some(previous) = &grant.previous else {
                return Ok((grant.current.clone(), Refreshed::Refused(refused)));
            };
            return ask_once(previous).await.map(|answer| (previous.clone(), answer));
        }
        Ok(answer) => return Ok((grant.current.clone(), answer)),
        Err(failure) => failure,
    };
    let tenant = connection.profile.account().tid.as_deref();
    // Personal accounts have been seen to answer bad_token on a good one: ask once more before believing it.
    if says_dead(&verdict) && connection.profile.account().is_personal() {
        ports.sleep(SECOND_OPINION).await;
        not_throttled_since(ports, key, tenant).await?;
        match ask_once(&grant.current).await {
            Ok(answer) => return Ok((grant.current.clone(), answer)),
            Err(failure) => verdict = failure,
        }
    }
    // A token that never worked may be the damaged one; the one before it is kept for just this. Not where a
    // used one ends the grant, doubtful or not: a refusal may be wrong, and then it is the one before it that
    // costs a good grant.
    if let Some(previous) = &grant.previous
        && may_be_the_refresh_token(&verdict)
        && authority.may_replay_refresh_tokens()
    {
        not_throttled_since(ports, key, tenant).await?;
        match ask_once(previous).await {
            Ok(answer) => return Ok((previous.clone(), answer)),
            Err(failure) if failure.is_verdict() || failure.is_unclear() => {}
            // Nothing is known of it: the grant must not die of an outage.
            Err(failure) => return Err(failure),
        }
    }
    Err(verdict)
}

/// Whether a refusal may be of the refresh token that was sent, and not of the grant or its user: another one
/// may work.
fn may_be_the_refresh_token(failure: &Failure) -> bool {
    let Failure::Authority(failure) = failure else { return false };
    let AuthorityError { error, suberror, error_codes, .. } = &failure.answer;
    match failure.disposition {
        Disposition::Reauthorize(ReauthReason::GrantExpired | ReauthReason::GrantRevoked, _) => true,
        // `invalid_grant` that says no more, or that the refresh token is malformed (AADSTS9002313).
        Disposition::Reauthorize(ReauthReason::InteractionRequired, _) => {
            error.as_deref() == Some("invalid_grant")
                && suberror.is_none()
                && matches!(error_codes[..], [] | [MALFORMED])
        }
        Disposition::Unclear => true,
        _ => false,
    }
}

/// Fails if the authority asked, since the first call, not to be called. A verdict that was not heard twice
/// is none.
async fn not_throttled_since(
    ports: &Ports,
    key: &ConnectionKey,
    tenant: Option<&str>,
) -> Result<(), Failure> {
    tenant::learn_throttle(ports, &key.app, tenant).await;
    if !ports.breakers.is_throttled(&key.app, tenant, ports.monotonic()) {
        return Ok(());
    }
    Err(NotNow::AskedToWait(None).into())
}
