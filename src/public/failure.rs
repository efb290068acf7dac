//! Pages about a session that ended: what happened, and who can do something about it.

use super::page::{Mark, Page};
use super::text::Text;
use crate::broker::{FailureReason, Mender, SessionFailure, SessionState};

/// How often a page that waits for its confirmation asks again, in seconds. It ends with the confirmation's
/// time.
const ASK_AGAIN: u32 = 5;

/// Makes the page about a session's state, for the browser that the session belongs to.
pub(super) fn of_session(state: &SessionState, gone_since: bool, admin_consent_url: Option<String>) -> Page {
    match state {
        SessionState::Connected { .. } if gone_since => {
            Page::new(Text::WasConnectedTitle).mark(Mark::Waiting).say(Text::WasConnected)
        }
        SessionState::Connected { account, .. } => {
            let page = Page::new(Text::ConnectedTitle).mark(Mark::Good);
            let page = match &account.username {
                Some(username) => page.with("username", username).say(Text::ConnectedAs),
                None => page,
            };
            page.say(Text::Connected)
        }
        SessionState::AwaitingConfirmation { account, .. } => {
            let page = Page::new(Text::WaitingTitle).mark(Mark::Waiting).reload(ASK_AGAIN);
            let page = match &account.username {
                Some(username) => page.with("username", username).say(Text::SignedInAs),
                None => page.say(Text::SignedIn),
            };
            page.say(Text::Waiting).say(Text::WaitingHere)
        }
        SessionState::Expired | SessionState::Pending => of_failure(&FailureReason::Expired.into(), None),
        SessionState::Failed(failure) => of_failure(failure, admin_consent_url),
    }
}

fn of_failure(failure: &SessionFailure, admin_consent_url: Option<String>) -> Page {
    let page = match failure.reason {
        FailureReason::AccessDenied | FailureReason::AuthorityError => of_refusal(failure),
        FailureReason::AccountMismatch => came_back(Page::problem(Text::AnotherAccountTitle), failure)
            .say(Text::AnotherAccount)
            .say(Text::AnotherAccountNext),
        FailureReason::AdminConsentRequired => {
            let page = Page::problem(Text::ApprovalTitle).say(Text::Approval).say(Text::NotConnected);
            match admin_consent_url {
                Some(url) => page.say(Text::ApprovalSend).approval(url),
                None => page,
            }
        }
        FailureReason::ScopeMissing => {
            not_connected(Text::ScopeMissingTitle, Text::ScopeMissing).say(Text::ScopeMissingNext)
        }
        FailureReason::TenantNotAllowed => came_back(Page::problem(Text::TenantTitle), failure)
            .say(Text::Tenant)
            .say(Text::NotConnected)
            .say(Text::TenantNext),
        FailureReason::Expired => Page::problem(Text::ExpiredTitle).say(Text::Expired).say(Text::GoBack),
        FailureReason::ConnectionPaused => {
            not_connected(Text::PausedTitle, Text::Paused).say(Text::PausedNext)
        }
        FailureReason::CallerForbidden => {
            not_connected(Text::ForbiddenTitle, Text::Forbidden).say(Text::ForbiddenNext)
        }
        FailureReason::Revoked => {
            not_connected(Text::WithdrawnTitle, Text::Withdrawn).say(Text::WithdrawnNext)
        }
        FailureReason::Internal => {
            Page::problem(Text::InternalTitle).say(Text::Internal).say(Text::InternalNext)
        }
    };
    page.of_failure(failure)
}

/// Says which account came back, to the browser that brought it.
fn came_back(page: Page, failure: &SessionFailure) -> Page {
    match &failure.came_back {
        Some(username) => page.with("username", username).say(Text::CameBack),
        None => page,
    }
}

fn not_connected(title: Text, why: Text) -> Page {
    Page::problem(title).say(why).say(Text::NotConnected)
}

/// Makes the page about the sign-in service's refusal. It names the person who can change that.
fn of_refusal(failure: &SessionFailure) -> Page {
    let declined = failure.reason == FailureReason::AccessDenied;
    let page = match failure.mender {
        Mender::User if declined => {
            not_connected(Text::DeclinedTitle, Text::Declined).say(Text::DeclinedNext)
        }
        Mender::User => not_connected(Text::EndedTitle, Text::Ended).say(Text::EndedNext),
        Mender::Administrator => {
            not_connected(Text::NotAllowedTitle, Text::NotAllowed).say(Text::NotAllowedNext)
        }
        Mender::Operator => not_connected(Text::SetUpTitle, Text::SetUp).say(Text::SetUpNext),
        Mender::Time => not_connected(Text::NotCompletedTitle, Text::NotCompleted)
            .say(Text::NotCompletedPasses)
            .say(Text::IfAgain),
        Mender::Unknown => not_connected(Text::NotCompletedTitle, Text::NotCompleted)
            .say(Text::StartAgain)
            .say(Text::IfAgain),
    };
    page.of_failure(failure)
}

/// Makes the page for an administrator who came back without approving.
pub(super) fn approval_refused(failure: &SessionFailure) -> Page {
    if let FailureReason::CallerForbidden | FailureReason::Revoked = failure.reason {
        let page = Page::problem(Text::WithdrawnTitle).say(Text::ApprovalWithdrawn);
        return page.say(Text::ApprovalWithdrawnNext).of_failure(failure);
    }
    match failure.mender {
        Mender::Operator | Mender::Time | Mender::Unknown => of_refusal(failure),
        Mender::User | Mender::Administrator => Page::problem(Text::NotApprovedTitle)
            .say(Text::NotApproved)
            .say(Text::NotApprovedNext)
            .of_failure(failure),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::public::look::Look;
    use crate::public::page::tests::written;

    #[test]
    fn each_page_names_one_person_and_only_what_passes_is_told_as_passing() {
        let rows = [
            (Mender::User, "start again", "beginnen Sie neu"),
            (Mender::Administrator, "Ask your IT administrator", "Fragen Sie Ihre IT-Administration"),
            (Mender::Operator, "Tell the people who run the application", "die die Anwendung betreiben"),
            (Mender::Time, "in a few minutes", "in ein paar Minuten"),
            (Mender::Unknown, "If it happens again", "Wenn das wieder geschieht"),
        ];
        for reason in [FailureReason::AccessDenied, FailureReason::AuthorityError] {
            for (mender, words, in_german) in rows {
                let failure = SessionFailure { mender, ..reason.into() };
                let page = of_session(&SessionState::Failed(failure), false, None);
                let html = written(&page, &Look::default(), "en");
                assert!(html.contains(words), "{mender:?}: {html}");
                assert_eq!(html.contains("a few minutes"), mender == Mender::Time, "{mender:?}");
                assert_eq!(
                    html.contains("Trying again") || html.contains("trying again"),
                    matches!(mender, Mender::Administrator | Mender::Operator),
                    "{mender:?}"
                );
                assert!(!html.contains("Nothing was changed"));
                let html = written(&page, &Look::default(), "de");
                assert!(html.contains(in_german), "{mender:?}: {html}");
                assert_eq!(html.contains("ein paar Minuten"), mender == Mender::Time, "{mender:?}");
            }
        }
    }
}
