//! Refusals of unauthenticated requests. Anybody can cause them without limit, so each is counted, and
//! `crowd` limits how many reach the log and the audit stream.

use crate::broker::sign_in::CallbackProblem;
use crate::callers::AuthenticationFailure;
use crate::callers::jwt::JwtRefusal;
use crate::domain::time::Timestamp;
use crate::telemetry::audit::{Action, AuditEvent};

/// The listener that received a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Listener {
    /// For browsers.
    Public,
    /// For callers.
    Local,
    /// For operators.
    Admin,
}

impl Listener {
    /// Its name in log and audit.
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Listener::Public => "public",
            Listener::Local => "local",
            Listener::Admin => "admin",
        }
    }
}

/// Events that are limited together. Noise at one listener hides nothing at another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Kind {
    pub(super) stranger: Stranger,
    pub(super) listener: Listener,
}

impl Kind {
    /// Makes the kind of a refusal at a listener. JWTs are limited together: there are many rules to break.
    pub(super) fn of(stranger: Stranger, listener: Listener) -> Self {
        let stranger = match stranger {
            Stranger::Jwt(_) => Stranger::Jwts,
            other => other,
        };
        Kind { stranger, listener }
    }

    /// Makes its audit record, without the peer.
    pub(super) fn record(self, at: Timestamp) -> AuditEvent {
        let mut event = self.stranger.record(at);
        event.detail.insert("listener", self.listener.as_str().to_owned());
        event
    }
}

/// Reason why a request was refused that had no right, or did not prove one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stranger {
    /// A request has no credential.
    NoCredential,
    /// The credential has not the form of an API key.
    NoKey,
    /// The credential is unknown.
    UnknownCredential,
    /// The API key has expired.
    ExpiredKey,
    /// The listener does not accept credentials of this kind.
    CredentialNotAccepted,
    /// The handle has expired, or was ended.
    EndedHandle,
    /// A client certificate has the names of several callers.
    AmbiguousCertificate,
    /// A client certificate is not trusted any more.
    DistrustedCertificate,
    /// The JWT breaks a rule, or is no caller's.
    Jwt(JwtRefusal),
    /// Several JWTs were refused, by any rules. Only sums have this reason.
    Jwts,
    /// A callback cannot be parsed.
    MalformedCallback,
    /// A callback has an unknown `state`.
    UnknownState,
    /// A callback came from another browser than the one that began.
    AnotherBrowser,
    /// A callback came from another issuer than the one that was asked.
    MixedUp,
    /// A callback cannot be checked at present.
    UnavailableCallback,
    /// A callback came while its caller's sign-ins return faster than codes may be redeemed.
    CrowdedCallback,
    /// A repeated callback, which changes nothing.
    RepeatedCallback,
    /// A repeated callback, while the first one is still being processed.
    CallbackUnderWay,
    /// A link is unknown or has expired.
    UnknownLink,
    /// The caller that made the link may no longer connect that name.
    BarredLink,
    /// A link's button was pressed in another browser or on another site.
    LinkFromElsewhere,
    /// A link's button was pressed too often.
    LinkPressedTooOften,
}

impl Stranger {
    /// Iterates over all reasons.
    pub fn all() -> impl Iterator<Item = Stranger> {
        let of_jwts = JwtRefusal::ALL.iter().map(|refusal| Stranger::Jwt(*refusal));
        Stranger::WITHOUT_JWTS.into_iter().chain(of_jwts)
    }

    const WITHOUT_JWTS: [Stranger; 20] = [
        Stranger::NoCredential,
        Stranger::NoKey,
        Stranger::UnknownCredential,
        Stranger::ExpiredKey,
        Stranger::CredentialNotAccepted,
        Stranger::EndedHandle,
        Stranger::AmbiguousCertificate,
        Stranger::DistrustedCertificate,
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

    /// Its name in metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Stranger::NoCredential => "credential_missing",
            Stranger::NoKey => "credential_malformed",
            Stranger::UnknownCredential => "credential_unknown",
            Stranger::ExpiredKey => "credential_expired",
            Stranger::CredentialNotAccepted => "credential_not_accepted",
            Stranger::EndedHandle => "handle_ended",
            Stranger::AmbiguousCertificate => "certificate_ambiguous",
            Stranger::DistrustedCertificate => "certificate_distrusted",
            Stranger::Jwt(refusal) => refusal.credential(),
            Stranger::Jwts => "credential_jwt",
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

    /// Its text in log and audit.
    pub fn reason(self) -> &'static str {
        match self {
            Stranger::NoCredential => AuthenticationFailure::Missing.as_str(),
            Stranger::NoKey => AuthenticationFailure::Malformed.as_str(),
            Stranger::UnknownCredential => AuthenticationFailure::Unknown.as_str(),
            Stranger::ExpiredKey => AuthenticationFailure::Expired.as_str(),
            Stranger::CredentialNotAccepted => AuthenticationFailure::NotAccepted.as_str(),
            Stranger::EndedHandle => AuthenticationFailure::HandleEnded.as_str(),
            Stranger::AmbiguousCertificate => AuthenticationFailure::Ambiguous.as_str(),
            Stranger::DistrustedCertificate => AuthenticationFailure::Distrusted.as_str(),
            Stranger::Jwt(refusal) => refusal.as_str(),
            Stranger::Jwts => "jwt",
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

    /// Returns true if it is audited. A browser that repeats a step changes nothing and is refused nothing,
    /// so that is not.
    pub(super) fn is_audited(self) -> bool {
        !matches!(self, Stranger::RepeatedCallback | Stranger::CallbackUnderWay)
    }

    /// Makes its audit record, without the peer.
    fn record(self, at: Timestamp) -> AuditEvent {
        let (action, outcome) = match self {
            Stranger::NoCredential
            | Stranger::NoKey
            | Stranger::UnknownCredential
            | Stranger::ExpiredKey
            | Stranger::CredentialNotAccepted
            | Stranger::EndedHandle
            | Stranger::AmbiguousCertificate
            | Stranger::DistrustedCertificate
            | Stranger::Jwt(_)
            | Stranger::Jwts => (Action::Refused, "caller_unauthenticated"),
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
            AuthenticationFailure::NotAccepted => Stranger::CredentialNotAccepted,
            AuthenticationFailure::HandleEnded => Stranger::EndedHandle,
            AuthenticationFailure::Ambiguous => Stranger::AmbiguousCertificate,
            AuthenticationFailure::Distrusted => Stranger::DistrustedCertificate,
            AuthenticationFailure::Jwt(refusal) => Stranger::Jwt(refusal),
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
