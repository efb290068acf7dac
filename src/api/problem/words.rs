//! What a caller is told of a refusal, for people: what happened, and what to do next.

use std::borrow::Cow;

use crate::broker::Refusal;
use crate::domain::not_now::NotNow;
use crate::domain::verdict::{AuthorityError, BlockReason};

/// A refusal in words.
pub(super) struct Words {
    /// The code in words.
    pub(super) title: &'static str,
    /// What happened.
    pub(super) detail: Cow<'static, str>,
    /// What to do next.
    pub(super) hint: Cow<'static, str>,
}

fn words(
    title: &'static str,
    detail: impl Into<Cow<'static, str>>,
    hint: impl Into<Cow<'static, str>>,
) -> Words {
    Words { title, detail: detail.into(), hint: hint.into() }
}

/// The words for a refusal.
pub(super) fn of(refusal: &Refusal) -> Words {
    match refusal {
        Refusal::InvalidRequest { parameter, problem } => words(
            "The request is not understood",
            format!("{parameter}: {problem}"),
            format!("correct {parameter} and send it again; the same request will fail again"),
        ),
        Refusal::Forbidden { problem } => words(
            "This caller may not do this",
            problem.clone(),
            "ask the operator to add it to this caller's allow rules",
        ),
        Refusal::HandleEnded => words(
            "The caller is not known",
            "the handle that the request carries has ended",
            "have the service that made it make another one (POST …/handles)",
        ),
        Refusal::AppNotFound => words(
            "No such app",
            "there is no such app for this caller",
            "check the app's name, and that a rule of this caller names it",
        ),
        Refusal::ConnectionNotFound => words(
            "No such connection",
            "there is no such connection for this caller",
            "connect the account first (POST /v1/connect-sessions), and check that a rule of this caller \
             covers the name",
        ),
        Refusal::SessionNotFound => words(
            "No such session",
            "there is no such session for this caller",
            "sessions are seen only by the caller that started them, and end; start a new one",
        ),
        Refusal::ReauthorizationRequired { reason, .. } => words(
            "The user must sign in again",
            format!("the connection's grant does not work any more ({reason})"),
            "start a connect session (POST /v1/connect-sessions with this app and connection) and send the \
             user to its connect_url; adding connect=1 to this request does it in one call",
        ),
        Refusal::ConnectionBlocked { reason, .. } => words(
            "An administrator must act",
            format!("the user's organisation does not let this connection work ({reason})"),
            format!("{}; tokenward tries again by itself", administrator_s_part(*reason)),
        ),
        Refusal::TenantBlocked { reason, .. } => words(
            "An administrator of the tenant must act",
            format!("the app gets no token of its own in this tenant ({reason})"),
            format!("{}; tokenward tries again by itself", tenant_administrator_s_part(*reason)),
        ),
        Refusal::ScopeNotGranted { scopes } => words(
            "A scope was not granted",
            format!("the user has not granted {}", scopes.join(" ")),
            "connect the account again and have the user grant these scopes; the app's configuration must \
             list them",
        ),
        Refusal::ConnectionPaused => words(
            "The connection is paused",
            "an operator paused this connection",
            "ask the operator to resume it",
        ),
        Refusal::ConfirmationRejected { problem } => words(
            "The confirmation does not fit",
            problem.clone(),
            "read the session (GET /v1/connect-sessions/{id}) and confirm what came back there, or start a \
             new one",
        ),
        Refusal::ImportRefused(why) => words("The grant is not imported", why.to_string(), why.hint()),
        Refusal::TooManyImports { .. } => words(
            "Too many imports",
            "grants are imported faster than the budget of calls to the authority allows",
            "send it again after the time in Retry-After; nothing was sent to the authority",
        ),
        Refusal::EventsGone => words(
            "Events are not kept that long",
            "the event that `after` names is older than what is kept, or never was",
            "list the connections (GET /v1/apps/{app}/connections) to learn what there is, and begin without \
             `after`",
        ),
        Refusal::RateLimited { .. } => words(
            "Too many requests",
            "this caller asks for more than its rate limit",
            "wait, and keep tokens until they expire instead of asking for each use",
        ),
        Refusal::ConnectionRateLimited { .. } => words(
            "Too many requests",
            "this caller asks for this connection more often than its connection_rate_limit allows",
            "wait, and keep this connection's token until it expires; the caller's requests for other \
             connections go on",
        ),
        Refusal::MailboxBusy { .. } => words(
            "The mailbox is busy",
            "as many requests of the app are under way at this mailbox as it takes, and this one's turn did \
             not come in time; or the mailbox said when to come back",
            "send it again after the time in Retry-After, and fewer at a time; nothing was sent",
        ),
        Refusal::TooManyForced { .. } => words(
            "Too many forced renewals",
            "reports of rejected tokens and challenges force renewals of this connection, or of many, faster \
             than they are made",
            "report a token once; without `rejected` and `claims` the token that is held is served",
        ),
        Refusal::TooMany { what, most, .. } => words(
            "Too many are open",
            format!("this caller has {most} {what}, which is as many as it may have"),
            "use the sessions that are open (one link works until it expires), or wait until some are over; \
             what is over counts no more",
        ),
        Refusal::TooManyStreams { most } => words(
            "Too many streams are open",
            format!("this caller has {most} open streams, which is as many as it may have here"),
            "close the streams that nobody reads; ask for the other connections' tokens when they are needed",
        ),
        Refusal::TooManyWalks { most } => words(
            "Too many lists at one time",
            format!(
                "{most} requests of this caller that look at many connections are under way, or as many as \
                 there may be of all"
            ),
            "ask for one page after the other; name connections in the caller's rules, or a prefix of \
             theirs, rather than a tenant: only those are read then",
        ),
        Refusal::NotNow(why) => of_not_now(*why),
        Refusal::SameTokenAgain => words(
            "The authority gives the same token again",
            "the authority answered the refresh with the very token that was reported as rejected: to it \
             that token is valid",
            "find out why the resource refuses a token that its authority calls valid (audience, scopes, \
             clock); without `rejected` this token is served",
        ),
        Refusal::AuthorityUnavailable { answer, .. } | Refusal::AuthorityUnclear { answer } => {
            of_authority(answer)
        }
        Refusal::AppCredentialRejected { .. } => words(
            "The authority rejects the app's credential",
            "the authority accepts none of the app's client credentials",
            "the operator must replace the app's client credential; connections are fine and serve again by \
             themselves",
        ),
        Refusal::AppRejected { answer } if answer.is_of_unconfirmed_host() => words(
            "The app's token host has changed",
            "the app's authority leads to another host than before, and no secret is sent there unconfirmed",
            "the operator must confirm the host (`tokenward credentials confirm`, the log has the whole \
             command) or put the authority back; connections are fine",
        ),
        Refusal::AppRejected { answer } => words(
            "The authority rejects the app",
            "the authority refuses the app's registration",
            registration_s_fault(answer),
        ),
        Refusal::StoreNearlyFull => words(
            "The store is nearly full",
            "what is left of tokenward's store is kept for connections, so no session can be started now",
            "the operator must give the store more room; connections serve and are renewed all the same",
        ),
        Refusal::StoreFull => words(
            "The store's disk is full",
            "the disk of tokenward's store has no room, so this could not be written; connections in memory \
             are served",
            "the operator must give that disk room, and it goes on without a restart; then ask again",
        ),
        Refusal::RecordDamaged => words(
            "What is stored cannot be used",
            "what is stored of this is damaged, was tampered with, or is sealed with a key that is missing \
             here",
            "tell the operator, whose log says which record it is; for a connection, starting a new connect \
             session mends it where no backup does",
        ),
        Refusal::StoreUnavailable => words(
            "The store does not serve now",
            "tokenward's store does not answer, or is not to be believed, or has no room; and nothing of \
             this is held that may be served without it",
            "try again after the time in Retry-After; if it lasts, the operator must act: `tokenward status` \
             and the daemon's log say what is wrong with the store",
        ),
        Refusal::AuditUnavailable => words(
            "The audit log takes no records now",
            "no token, handle or grant leaves whose record no sink of the audit log takes",
            "try again after the time in Retry-After; if it lasts, the operator must mend a sink of the \
             audit log (its disk, its syslog daemon); the daemon's log says what fails",
        ),
    }
}

/// The words for a refusal of a token of the app itself: no user and no connection has a part in it.
pub(super) fn of_app(refusal: &Refusal) -> Words {
    let Words { title, detail, hint } = of(refusal);
    let (detail, hint): (Cow<'static, str>, &str) = match refusal {
        Refusal::NotNow(NotNow::AskedToWait(_)) => (detail, "try again after the time in Retry-After"),
        Refusal::NotNow(NotNow::UnderWay) => (
            "the authority has not answered yet, and no valid token is held".into(),
            "try again after the time in Retry-After; the call goes on, and its token is served then",
        ),
        Refusal::AuthorityUnavailable { answer, .. } | Refusal::AuthorityUnclear { answer } => {
            if answer.is_refusal() {
                (
                    format!("the authority refused with {}, and no valid token is held", said(answer)).into(),
                    "try again after the time in Retry-After; if it stays so, the operator must look at the \
                     app's registration, its permissions at the resource and its client credential",
                )
            } else if answer.status == Some(200) {
                (
                    "the authority answered with something that cannot be used, and no valid token is held"
                        .into(),
                    "try again after the time in Retry-After; the daemon's log says which rule the answer \
                     broke",
                )
            } else {
                (detail, "try again after the time in Retry-After")
            }
        }
        Refusal::AppCredentialRejected { .. } => {
            (detail, "the operator must replace the app's client credential")
        }
        Refusal::AppRejected { answer } if answer.is_of_unconfirmed_host() => (
            detail,
            "the operator must confirm the host (`tokenward credentials confirm`, the log has the whole \
             command) or put the authority back",
        ),
        Refusal::AppRejected { .. } => (
            detail,
            "the operator must mend the app's registration: it is disabled, in another tenant, or lacks the \
             resource",
        ),
        Refusal::StoreUnavailable => (
            "tokenward's store does not serve, so it would not learn that an operator revoked the right"
                .into(),
            "try again after the time in Retry-After; if it lasts, the operator must act: `tokenward status` \
             and the daemon's log say what is wrong with the store",
        ),
        _ => return Words { title, detail, hint },
    };
    Words { title, detail, hint: hint.into() }
}

/// What tokenward puts off itself; the detail is the reason's own text.
fn of_not_now(why: NotNow) -> Words {
    let (title, hint) = match why {
        NotNow::Crowded => (
            "Too many calls are under way for this tenant",
            "try again after the time in Retry-After; if it lasts, the authority is slow for this tenant",
        ),
        NotNow::LeaseElsewhere => (
            "Another replica is at this connection",
            "try again after the time in Retry-After; a replica that died gives way when its lease ends",
        ),
        NotNow::LeaseRanOut => (
            "This replica was too slow",
            "try again after the time in Retry-After; if it lasts, the operator must give this replica more \
             processor time",
        ),
        NotNow::AskedToWait(_) => (
            "The authority throttles",
            "try again after the time in Retry-After; the connection itself is fine",
        ),
        NotNow::Unsettled => (
            "How a refresh ended is not known",
            "try again after the time in Retry-After; `explain` of the connection says which refresh it was",
        ),
        NotNow::UnderWay => (
            "The authority has not answered yet",
            "try again after the time in Retry-After; the refresh goes on, and its token is served then",
        ),
    };
    words(title, why.to_string(), hint)
}

/// What the authority answered is told as passing only where it is: silence, a failure of its own,
/// throttling.
fn of_authority(answer: &AuthorityError) -> Words {
    if answer.is_refusal() {
        words(
            "The authority refuses, and does not say why",
            format!("the authority refused the refresh with {}, and no valid token is held", said(answer)),
            "try again after the time in Retry-After; if it stays so for this connection alone, have its \
             user sign in again; if it is so for all, the operator must look at the app's registration and \
             its client credential",
        )
    } else if answer.status == Some(200) {
        words(
            "The authority's answer cannot be used",
            "the authority answered the refresh with something that cannot be used, and no valid token is \
             held",
            "try again after the time in Retry-After; `explain` of the connection says which rule the \
             answer broke",
        )
    } else {
        words(
            "The authority does not answer now",
            "the authority is down, slow or throttling, and no valid token is held",
            "try again after the time in Retry-After; the connection itself is fine",
        )
    }
}

/// What the authority said, in its own checked words.
fn said(answer: &AuthorityError) -> String {
    match (&answer.error, answer.status) {
        (Some(error), _) => format!("the error {error}, which may mean several things or is not known here"),
        (None, Some(status)) => format!("status {status} and nothing that says why"),
        (None, None) => "nothing that says why".to_owned(),
    }
}

fn registration_s_fault(answer: &AuthorityError) -> &'static str {
    let has = |numbers: &[u32]| answer.error_codes.iter().any(|code| numbers.contains(code));
    if has(&[9_002_326, 9_002_327]) {
        "the operator must register the redirect URI for the platform Web: it is registered for a \
         single-page application; connections are fine"
    } else if has(&[900_382, 900_432, 900_439]) {
        "the operator must register the app in the user's cloud, and name that cloud's host as the \
         authority; connections are fine"
    } else {
        "the operator must mend the app's registration (disabled, wrong tenant, redirect URI or \
         permissions); connections are fine"
    }
}

fn administrator_s_part(reason: BlockReason) -> &'static str {
    match reason {
        BlockReason::AdminConsentRequired => {
            "an administrator of the user's tenant must approve the app: POST /v1/admin-consent-sessions \
             makes the link for it"
        }
        BlockReason::AssignmentRequired => {
            "an administrator of the user's tenant must assign the user to the app"
        }
        BlockReason::AccountDisabled => "an administrator must enable or unlock the user's account",
        BlockReason::DeviceRequired => {
            "the user's organisation wants a managed device; its administrator can say which"
        }
        BlockReason::PolicyBlocked => {
            "the user's organisation blocks this by policy; its administrator can say why"
        }
        BlockReason::AppNotInTenant => {
            "the app is absent, disabled or not licensed in the user's tenant: an administrator must approve \
             or enable it there"
        }
        BlockReason::TenantGone => {
            "the authority does not know the user's tenant any more; where that stays so, delete the \
             connection"
        }
    }
}

fn tenant_administrator_s_part(reason: BlockReason) -> &'static str {
    match reason {
        BlockReason::AppNotInTenant => {
            "the app is absent, disabled or not licensed in the tenant: an administrator must approve or \
             enable it there (POST /v1/admin-consent-sessions makes the link)"
        }
        BlockReason::TenantGone => "the authority does not know the tenant: check its id",
        BlockReason::AdminConsentRequired
        | BlockReason::AssignmentRequired
        | BlockReason::AccountDisabled
        | BlockReason::DeviceRequired
        | BlockReason::PolicyBlocked => {
            "an administrator of the tenant must give the app its permissions at the resource: POST \
             /v1/admin-consent-sessions makes the link"
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(status: u16, error: Option<&str>, error_codes: &[u32]) -> AuthorityError {
        let (error, error_codes) = (error.map(str::to_owned), error_codes.to_vec());
        AuthorityError { status: Some(status), error, error_codes, ..AuthorityError::default() }
    }

    /// A token of the app itself is no connection's and no user's.
    #[test]
    fn a_refusal_of_the_app_s_own_token_speaks_of_no_connection() {
        let refused = || answer(400, Some("invalid_request"), &[]);
        for refusal in [
            Refusal::NotNow(NotNow::AskedToWait(None)),
            Refusal::NotNow(NotNow::UnderWay),
            Refusal::NotNow(NotNow::Crowded),
            Refusal::AuthorityUnavailable { asked: None, answer: answer(503, None, &[]) },
            Refusal::AuthorityUnavailable { asked: None, answer: answer(200, None, &[]) },
            Refusal::AuthorityUnclear { answer: refused() },
            Refusal::AppCredentialRejected { answer: refused() },
            Refusal::AppRejected { answer: refused() },
            Refusal::TenantBlocked { reason: BlockReason::AppNotInTenant, answer: refused() },
            Refusal::StoreUnavailable,
            Refusal::AuditUnavailable,
        ] {
            let Words { title, detail, hint } = of_app(&refusal);
            assert_eq!(title, of(&refusal).title);
            let said = format!("{title} {detail} {hint}");
            for word in ["connection", "refresh", "user", "sign in"] {
                assert!(!said.contains(word), "{word}: {said}");
            }
        }
    }

    /// Only silence, a failure of its own and throttling are told as passing.
    #[test]
    fn what_the_authority_answered_is_not_told_as_an_outage() {
        let is_outage = |answer| {
            let refusal = Refusal::AuthorityUnavailable { asked: None, answer };
            of(&refusal).detail.contains("down, slow or throttling")
        };
        for status in [408, 425, 429, 500, 502, 503, 504] {
            assert!(is_outage(answer(status, None, &[])), "{status}");
        }
        assert!(is_outage(AuthorityError::default()), "no answer");
        for status in [200, 400, 401, 403, 404, 418] {
            assert!(!is_outage(answer(status, None, &[])), "{status}");
            assert!(!is_outage(answer(status, Some("invalid_request"), &[])), "{status}");
        }
        let unclear = Refusal::AuthorityUnclear { answer: answer(400, Some("token_inactive"), &[]) };
        let detail = of(&unclear).detail;
        assert!(detail.contains("token_inactive"), "{detail}");
    }

    #[test]
    fn the_operator_is_told_what_to_mend() {
        let hint =
            |code| of(&Refusal::AppRejected { answer: answer(400, Some("invalid_request"), &[code]) }).hint;
        assert!(hint(9_002_327).contains("platform Web") && hint(9_002_326).contains("platform Web"));
        assert!(hint(900_382).contains("cloud") && hint(900_439).contains("cloud"));
        assert!(hint(50011).contains("redirect URI"));
    }
}
