//! Those whom we do not know: what they are refused for. They can ask as often as they like, so each of these is counted, and told
//! in log and audit only as often as `crowd` lets it.

use crate::broker::sign_in::CallbackProblem;
use crate::callers::AuthenticationFailure;
use crate::domain::time::Timestamp;
use crate::telemetry::audit::{Action, AuditEvent};

/// Which listener a request came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Listener {
    /// Browsers'.
    Public,
    /// Callers'.
    Local,
    /// Operators'.
    Admin,
}

impl Listener {
    /// The word for log and audit.
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Listener::Public => "public",
            Listener::Local => "local",
            Listener::Admin => "admin",
        }
    }
}

/// What is told apart of strangers: noise at one listener hides nothing at another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Kind {
    pub(super) stranger: Stranger,
    pub(super) listener: Listener,
}

impl Kind {
    /// The record of it, without who and where from.
    pub(super) fn record(self, at: Timestamp) -> AuditEvent {
        let mut event = self.stranger.record(at);
        event.detail.insert("listener", self.listener.as_str().to_owned());
        event
    }
}

/// Why somebody was refused who has no right, or did not show it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stranger {
    /// A request without a credential.
    NoCredential,
    /// With something that is no API key.
    NoKey,
    /// With a credential of nobody's.
    UnknownCredential,
    /// With an API key that has expired.
    ExpiredKey,
    /// A callback that cannot be read.
    MalformedCallback,
    /// A callback with a `state` that is not kept here.
    UnknownState,
    /// A callback from another browser than the one that began.
    AnotherBrowser,
    /// A callback from another issuer than the one that was asked.
    MixedUp,
    /// A callback that could not be looked into now.
    UnavailableCallback,
    /// A callback of a caller whose sign-ins come back faster than codes are sent on.
    CrowdedCallback,
    /// A callback again, which changes nothing.
    RepeatedCallback,
    /// A callback again, while the first one is still being worked on.
    CallbackUnderWay,
    /// A link that is none, or none any more.
    UnknownLink,
    /// A link whose starter may not connect that name now.
    BarredLink,
    /// A link whose button was pressed in another browser, or on another site.
    LinkFromElsewhere,
    /// A link whose button was pressed too often.
    LinkPressedTooOften,
}

impl Stranger {
    /// Each of them.
    pub const ALL: [Stranger; 16] = [
        Stranger::NoCredential,
        Stranger::NoKey,
        Stranger::UnknownCredential,
        Stranger::ExpiredKey,
        Stranger::MalformedCallback,
        Stranger::UnknownState,
        Stranger::AnotherBrowser,
        Stranger::MixedUp,
        Stranger::UnavailableCallback,
        Stranger::CrowdedCallback,
        Stranger::RepeatedCallback,
        Stranger::CallbackUnderWay,
        Stranger::UnknownLink,
        Stranger::BarredLink,
        Stranger::LinkFromElsewhere,
        Stranger::LinkPressedTooOften,
    ];

    /// The word for metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Stranger::NoCredential => "credential_missing",
            Stranger::NoKey => "credential_malformed",
            Stranger::UnknownCredential => "credential_unknown",
            Stranger::ExpiredKey => "credential_expired",
            Stranger::MalformedCallback => "callback_malformed",
            Stranger::UnknownState => "callback_unknown_state",
            Stranger::AnotherBrowser => "callback_another_browser",
            Stranger::MixedUp => "callback_mixed_up",
            Stranger::UnavailableCallback => "callback_unavailable",
            Stranger::CrowdedCallback => "callback_crowded",
            Stranger::RepeatedCallback => "callback_repeated",
            Stranger::CallbackUnderWay => "callback_under_way",
            Stranger::UnknownLink => "link_unknown",
            Stranger::BarredLink => "link_barred",
            Stranger::LinkFromElsewhere => "link_from_elsewhere",
            Stranger::LinkPressedTooOften => "link_pressed_too_often",
        }
    }

    /// The word for log and audit.
    pub fn reason(self) -> &'static str {
        match self {
            Stranger::NoCredential => AuthenticationFailure::Missing.as_str(),
            Stranger::NoKey => AuthenticationFailure::Malformed.as_str(),
            Stranger::UnknownCredential => AuthenticationFailure::Unknown.as_str(),
            Stranger::ExpiredKey => AuthenticationFailure::Expired.as_str(),
            Stranger::MalformedCallback => "malformed",
            Stranger::UnknownState => "unknown_state",
            Stranger::AnotherBrowser => "another_browser",
            Stranger::MixedUp => "mixed_up",
            Stranger::UnavailableCallback => "unavailable",
            Stranger::CrowdedCallback => "crowded",
            Stranger::RepeatedCallback => "repeated",
            Stranger::CallbackUnderWay => "under_way",
            Stranger::UnknownLink => "unknown_link",
            Stranger::BarredLink => "barred_link",
            Stranger::LinkFromElsewhere => "link_from_elsewhere",
            Stranger::LinkPressedTooOften => "link_pressed_too_often",
        }
    }

    /// Whether it is a matter of the audit: a browser that repeats what it did changes nothing and is refused nothing.
    pub(super) fn is_audited(self) -> bool {
        !matches!(self, Stranger::RepeatedCallback | Stranger::CallbackUnderWay)
    }

    /// The record of it, without who and where.
    fn record(self, at: Timestamp) -> AuditEvent {
        let (action, outcome) = match self {
            Stranger::NoCredential | Stranger::NoKey | Stranger::UnknownCredential | Stranger::ExpiredKey => {
                (Action::Refused, "caller_unauthenticated")
            }
            _ => (Action::ConnectFailed, "refused"),
        };
        let mut event = AuditEvent::new(at, action, outcome);
        event.reason = Some(self.reason());
        event
    }
}

impl From<AuthenticationFailure> for Stranger {
    fn from(failure: AuthenticationFailure) -> Self {
        match failure {
            AuthenticationFailure::Missing => Stranger::NoCredential,
            AuthenticationFailure::Malformed => Stranger::NoKey,
            AuthenticationFailure::Unknown => Stranger::UnknownCredential,
            AuthenticationFailure::Expired => Stranger::ExpiredKey,
        }
    }
}

impl From<&CallbackProblem> for Stranger {
    fn from(problem: &CallbackProblem) -> Self {
        match problem {
            CallbackProblem::UnknownState => Stranger::UnknownState,
            CallbackProblem::AnotherBrowser => Stranger::AnotherBrowser,
            CallbackProblem::MixedUp => Stranger::MixedUp,
            CallbackProblem::Unavailable => Stranger::UnavailableCallback,
            CallbackProblem::Crowded => Stranger::CrowdedCallback,
            CallbackProblem::UnderWay => Stranger::CallbackUnderWay,
        }
    }
}
