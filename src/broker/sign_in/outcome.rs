//! The page or URL for the browser after its callback.

use super::{Finished, FinishedSession};
use crate::broker::session::ConnectSession;
use crate::broker::{Broker, FailureReason, SessionState};
use crate::domain::id::{AppName, SessionId};
use crate::domain::secret::ConfirmationCode;

impl Broker {
    /// Returns what the browser is shown about a session, or the URL it is sent to.
    pub(super) async fn finished(
        &self,
        session: ConnectSession,
        id: SessionId,
        state: SessionState,
        code: Option<&ConfirmationCode>,
        repeated: bool,
    ) -> Finished {
        let gone_since = repeated && self.is_gone(&session.key(), &state).await;
        // A page reports later changes: the product knows about them already.
        let ended_there = match &state {
            SessionState::AwaitingConfirmation { .. } => code.is_some(),
            SessionState::Connected { code_hash, .. } => code_hash.is_none(),
            SessionState::Failed(_) | SessionState::Expired | SessionState::Pending => true,
        };
        // Only our own page can show the administrator's link; the product learns the reason by polling.
        let goes = (!repeated || ended_there) && self.approval_link(&session.app, &state).await.is_none();
        Finished::Session(Box::new(FinishedSession {
            return_to: return_to(session.return_url.as_deref(), id.expose(), &state, code).filter(|_| goes),
            key: session.key(),
            started_by: session.created_by,
            id,
            state,
            repeated,
            gone_since,
        }))
    }

    /// Returns a link for an administrator, if a session failed because one has to approve the app.
    pub(in crate::broker) async fn approval_link(
        &self,
        app: &AppName,
        state: &SessionState,
    ) -> Option<String> {
        match self.app(app) {
            Ok(app) if state.is_failed_for(FailureReason::AdminConsentRequired) => {
                self.consent_link(&app).await
            }
            _ => None,
        }
    }
}

/// Returns the URL for the browser after its session got a new state.
pub(in crate::broker) fn return_to(
    return_url: Option<&str>,
    id: &str,
    state: &SessionState,
    code: Option<&ConfirmationCode>,
) -> Option<String> {
    let return_url = return_url?;
    let joint = if return_url.contains('?') { '&' } else { '?' };
    let rest = match (state, code) {
        (SessionState::Failed(failure), _) => format!("&error={}", failure.reason.as_str()),
        (SessionState::Expired, _) => "&error=expired".to_owned(),
        (_, Some(code)) => format!("&code={}", code.expose()),
        (_, None) => String::new(),
    };
    Some(format!("{return_url}{joint}session={id}{rest}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_browser_returns_with_a_session_and_a_code_or_an_error_and_nothing_of_the_authority() {
        let failed = SessionState::failed(FailureReason::AccountMismatch);
        assert_eq!(
            return_to(Some("https://app/x?y=1"), "s1", &failed, None).as_deref(),
            Some("https://app/x?y=1&session=s1&error=account_mismatch")
        );
        let code = ConfirmationCode::new("c1");
        assert_eq!(
            return_to(Some("https://app/x"), "s1", &SessionState::Pending, Some(&code)).as_deref(),
            Some("https://app/x?session=s1&code=c1")
        );
        assert_eq!(return_to(None, "s1", &failed, None), None);
    }
}
