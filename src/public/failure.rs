//! Pages about a session that ended: what happened, and who can do something about it.

use super::page::Page;
use crate::broker::{FailureReason, Mender, SessionFailure, SessionState};

const START_AGAIN: &str = "Go back to the application you came from and start again.";
const IF_AGAIN: &str =
    "If it happens again, tell the people who run the application, and pass on the line below.";

/// Makes the page about a session's state, for the browser that the session belongs to.
pub(super) fn of_session(state: &SessionState, gone_since: bool, admin_consent_url: Option<String>) -> Page {
    match state {
        SessionState::Connected { .. } if gone_since => Page::new("Your account was connected").say(
            "The connection that this link made is not there any more. Go back to the application you \
                came from to connect your account again.",
        ),
        SessionState::Connected { .. } => Page::new("Your account is connected")
            .say("Everything is set. You can close this page and go back to the application you came from."),
        SessionState::AwaitingConfirmation { account, .. } => {
            let who = account.username.clone().unwrap_or_else(|| "your account".to_owned());
            Page::new("One more step").say(format!("You signed in as {who}.")).say(
                "The connection becomes active as soon as the person or application that sent you the \
                    link has confirmed that this is the right account. You can close this page.",
            )
        }
        SessionState::Expired | SessionState::Pending => of_failure(&FailureReason::Expired.into(), None),
        SessionState::Failed(failure) => of_failure(failure, admin_consent_url),
    }
}

fn of_failure(failure: &SessionFailure, admin_consent_url: Option<String>) -> Page {
    match failure.reason {
        FailureReason::AccessDenied | FailureReason::AuthorityError => of_refusal(failure),
        FailureReason::AccountMismatch => Page::new("That was another account")
            .say(
                "You signed in with another account than the one this link is for. It was not connected, \
                and nothing of it was kept.",
            )
            .say(
                "Sign out at your provider or use a private window, go back to the application you came \
                from, and start again with the right account.",
            ),
        FailureReason::AdminConsentRequired => {
            let page = Page::new("Your administrator has to approve this first").say(
                "Your organisation lets people connect an application like this only after an \
                    administrator has approved it once for everyone. Your account was not connected.",
            );
            match admin_consent_url {
                Some(url) => page
                    .say(
                        "Send this link to your IT administrator. Once it is approved, start again from \
                        the application you came from.",
                    )
                    .offer_copy("Link for your administrator", url),
                None => page,
            }
        }
        FailureReason::ScopeMissing => Page::new("A permission is missing")
            .say("The permission to stay connected was not granted, so your account was not connected.")
            .say(
                "Go back to the application you came from and start again, and leave all permissions \
                ticked.",
            ),
        FailureReason::TenantNotAllowed => Page::new("This kind of account cannot be connected")
            .say(
                "Your account belongs to an organisation, or is a personal account, that this application \
                does not take. It was not connected.",
            )
            .say("Start again with another account, or ask the people who run the application."),
        FailureReason::Expired => Page::new("This took too long")
            .say("The sign-in was not completed or not confirmed in time.")
            .say(
                "Go back to the application you came from. It shows whether your account is connected; if \
                it is not, ask for a new link there.",
            ),
        FailureReason::ConnectionPaused => Page::new("This cannot be connected at the moment")
            .say(
                "The people who run this service have stopped this connection for now. Your account was \
                not connected.",
            )
            .say("Go back to the application you came from, and ask the people who run it when it goes on."),
        FailureReason::CallerForbidden => Page::new("This application may not connect your account")
            .say(
                "The application that this link comes from is not allowed to connect it. Your account was \
                not connected.",
            )
            .say("Trying again does not help. Tell the people who run the application."),
        FailureReason::Revoked => Page::new("This link was withdrawn")
            .say(
                "The people who run this service have ended what was begun before. Your account was not \
                connected.",
            )
            .say(
                "Go back to the application you came from. If it offers to connect your account again, use \
                the new link.",
            ),
        FailureReason::Internal => Page::new("Something went wrong here")
            .say("Your sign-in worked, and the result could not be stored.")
            .say(
                "Go back to the application you came from. It shows whether your account is connected; if \
                it is not, start again in a few minutes.",
            ),
    }
}

/// Makes the page about the sign-in service's refusal. It names the person who can change that.
fn of_refusal(failure: &SessionFailure) -> Page {
    let declined = failure.reason == FailureReason::AccessDenied;
    match failure.mender {
        Mender::User if declined => Page::new("Access was not granted")
            .say("The sign-in was cancelled, or access was not allowed. Your account was not connected.")
            .say(format!("If that was not what you meant: {}", start_again())),
        Mender::User => Page::new("The sign-in was not completed")
            .say("The sign-in service ended it before it was complete. Your account was not connected.")
            .say(format!("{START_AGAIN} If it happens again, ask the people who run the application.")),
        Mender::Administrator => Page::new("Your organisation does not allow this")
            .say(
                "The sign-in service refused because of how your organisation has set it up. Your account \
                was not connected.",
            )
            .say(
                "Trying again does not help. Ask your IT administrator, and pass on the line below: it \
                says what stands in the way.",
            ),
        Mender::Operator => Page::new("This application is not set up correctly")
            .say("The sign-in service refused the application, not you. Your account was not connected.")
            .say(
                "Neither you nor your administrator can mend this, and trying again does not help. Tell \
                the people who run the application, and pass on the line below.",
            ),
        Mender::Time => Page::new("The sign-in service did not complete it")
            .say(
                "Something went wrong between this service and the sign-in service. Your account was not \
                connected.",
            )
            .say("Go back to the application you came from and start again in a few minutes.")
            .say(IF_AGAIN),
        Mender::Unknown => Page::new("The sign-in service did not complete it")
            .say(
                "Something went wrong between this service and the sign-in service. Your account was not \
                connected.",
            )
            .say(START_AGAIN)
            .say(IF_AGAIN),
    }
}

fn start_again() -> String {
    START_AGAIN.replacen("Go", "go", 1)
}

/// Makes the page for an administrator who came back without approving.
pub(super) fn approval_refused(failure: &SessionFailure) -> Page {
    if let FailureReason::CallerForbidden | FailureReason::Revoked = failure.reason {
        return Page::new("This link was withdrawn")
            .say(
                "The people who run this service have taken back what this link was for, so your answer \
                was not used.",
            )
            .say("You can close this page. If an approval is still wanted, you are sent a new link.");
    }
    match failure.mender {
        Mender::Operator | Mender::Time | Mender::Unknown => of_refusal(failure),
        Mender::User | Mender::Administrator => Page::new("Not approved")
            .say(
                "The approval was not given, so people in your organisation cannot connect their accounts. \
                You can close this page.",
            )
            .say(
                "To approve after all, ask the people who sent you the link for a new one. Only an \
                administrator who may approve applications for everyone can do it.",
            ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::public::page::Style;

    #[test]
    fn each_page_names_one_person_and_only_what_passes_is_told_as_passing() {
        let style = Style::new();
        let rows = [
            (Mender::User, "start again"),
            (Mender::Administrator, "Ask your IT administrator"),
            (Mender::Operator, "Tell the people who run the application"),
            (Mender::Time, "in a few minutes"),
            (Mender::Unknown, "If it happens again"),
        ];
        for reason in [FailureReason::AccessDenied, FailureReason::AuthorityError] {
            for (mender, words) in rows {
                let failure = SessionFailure { mender, ..reason.into() };
                let html = of_session(&SessionState::Failed(failure), false, None).html(&style);
                assert!(html.contains(words), "{mender:?}: {html}");
                assert_eq!(html.contains("a few minutes"), mender == Mender::Time, "{mender:?}");
                assert_eq!(
                    html.contains("Trying again") || html.contains("trying again"),
                    matches!(mender, Mender::Administrator | Mender::Operator),
                    "{mender:?}"
                );
                assert!(!html.contains("Nothing was changed"));
            }
        }
    }
}
