//! One use of a grant at the authority, with a second call for some verdicts. Returns the answer; writes
//! nothing.

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

/// Entra's number for a malformed part of a request, such as a refresh token.
const MALFORMED: u32 = 9_002_313;
/// Pause before the second call for a personal account's verdict.
const SECOND_OPINION: Duration = Duration::from_millis(500);

/// Calls the authority while the lease is prolonged. Returns the used refresh token, too.
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
        // A process that was stopped and continues must not call beside the replica that has the lease by
        // now.
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
                cae: want.cae,
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
        // If the refresh token came with an answer that was not believed, it leads to another user: only the
        // one before it is left, spent or not. If it came with a believed answer, it is the owner's whatever
        // this answer says. Then the one before it is not used, since that may end the grant.
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
    // Entra was seen to answer bad_token for a good grant of a personal account: call again before believing
    // it.
    if says_dead(&verdict) && connection.profile.account().is_personal() {
        ports.sleep(SECOND_OPINION).await;
        not_throttled_since(ports, key, tenant).await?;
        match ask_once(&grant.current).await {
            Ok(answer) => return Ok((grant.current.clone(), answer)),
            Err(failure) => verdict = failure,
        }
    }
    // A token that never worked may be damaged, and the one before it is kept for that. It is not used if the
    // provider ends a grant whose token is used twice: this refusal may be wrong.
    if let Some(previous) = &grant.previous
        && may_be_the_refresh_token(&verdict)
        && authority.may_replay_refresh_tokens()
    {
        not_throttled_since(ports, key, tenant).await?;
        match ask_once(previous).await {
            Ok(answer) => return Ok((previous.clone(), answer)),
            Err(failure) if failure.is_verdict() || failure.is_unclear() => {}
            // This says nothing about the grant: it must not end by an outage.
            Err(failure) => return Err(failure),
        }
    }
    Err(verdict)
}

/// Whether the refusal may be about the refresh token that was sent, and not about the grant or its user.
/// Then another one may work.
fn may_be_the_refresh_token(failure: &Failure) -> bool {
    let Failure::Authority(failure) = failure else { return false };
    let AuthorityError { error, suberror, error_codes, .. } = &failure.answer;
    match failure.disposition {
        Disposition::Reauthorize(ReauthReason::GrantExpired | ReauthReason::GrantRevoked, _) => true,
        // `invalid_grant` that says no more, or says that the refresh token is malformed (AADSTS9002313).
        Disposition::Reauthorize(ReauthReason::InteractionRequired, _) => {
            error.as_deref() == Some("invalid_grant")
                && suberror.is_none()
                && matches!(error_codes[..], [] | [MALFORMED])
        }
        Disposition::Unclear => true,
        _ => false,
    }
}

/// Fails if the authority asked since the first call not to be called. A verdict counts only if it was given
/// twice.
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
