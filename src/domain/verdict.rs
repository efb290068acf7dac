//! What an authority's failure means. Only two of these dispositions are verdicts on a user's grant
//! ([`Disposition::Reauthorize`] and [`Disposition::Blocked`]); nothing else may ever change a connection.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Why the user must act.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ReauthReason {
    /// The grant outlived its time: unused for too long, or a sign-in frequency cut it short.
    GrantExpired,
    /// The grant was revoked.
    GrantRevoked,
    /// The user's password expired.
    PasswordExpired,
    /// The user has not consented to what is asked, or no longer.
    ConsentRequired,
    /// The authority wants to see the user (multi-factor sign-in, terms of use, or no reason given).
    InteractionRequired,
    /// The account does not exist any more.
    AccountGone,
}

/// Why an administrator must act.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BlockReason {
    /// The tenant's administrator must approve the app.
    AdminConsentRequired,
    /// The user must be assigned to the app.
    AssignmentRequired,
    /// The account is disabled or locked.
    AccountDisabled,
    /// A compliant or joined device is required.
    DeviceRequired,
    /// Conditional access or another policy refuses.
    PolicyBlocked,
    /// The app is absent, disabled or not licensed in the user's tenant.
    AppNotInTenant,
    /// The authority does not know the user's tenant any more.
    TenantGone,
}

macro_rules! words {
    ($type:ty { $($variant:ident => $word:literal),+ $(,)? }) => {
        impl $type {
            /// Every word there is.
            pub const WORDS: &[&str] = &[$($word),+];

            /// The word in the contract.
            pub fn as_str(self) -> &'static str {
                match self { $(<$type>::$variant => $word),+ }
            }
        }

        impl std::fmt::Display for $type {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(self.as_str())
            }
        }
    };
}
words!(ReauthReason {
    GrantExpired => "grant_expired",
    GrantRevoked => "grant_revoked",
    PasswordExpired => "password_expired",
    ConsentRequired => "consent_required",
    InteractionRequired => "interaction_required",
    AccountGone => "account_gone",
});
words!(BlockReason {
    AdminConsentRequired => "admin_consent_required",
    AssignmentRequired => "assignment_required",
    AccountDisabled => "account_disabled",
    DeviceRequired => "device_required",
    PolicyBlocked => "policy_blocked",
    AppNotInTenant => "app_not_in_tenant",
    TenantGone => "tenant_gone",
});

/// What becomes of the stored grant on a [`Disposition::Reauthorize`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GrantFate {
    /// It may work again later: keep it and try it ever more slowly.
    Keep,
    /// The authority said that this very refresh token is dead.
    Dead,
}

/// What to do about a failure of the authority.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Disposition {
    /// The authority is down, throttles, or answered nonsense: try again, after this long if it said so.
    RetryAfter(Option<Duration>),
    /// A verdict: the user must sign in again.
    Reauthorize(ReauthReason, GrantFate),
    /// A verdict: an administrator must act. The grant is kept.
    Blocked(BlockReason),
    /// The app's credential was rejected: try the next one, then the operator's to mend.
    NextCredential,
    /// The registration itself is refused (disabled, wrong tenant, redirect URI, resource): the operator's.
    Misconfigured,
    /// This connect attempt is over; a new one may work.
    Restart,
    /// The request asked for something that cannot be had, such as a scope that does not exist.
    CallerFault,
    /// The authority refused, and what it said means nothing certain: a word that nobody knows, or one that it may say of the
    /// grant, of the app or of the request.
    Unclear,
    /// The request left and no whole answer came: the authority may have acted on it.
    OutcomeUnknown,
    /// We sent something malformed.
    Bug,
}

impl Disposition {
    /// Whether this is the authority's word on the user's grant, which alone may change a connection.
    pub fn is_verdict(self) -> bool {
        matches!(self, Disposition::Reauthorize(..) | Disposition::Blocked(_))
    }

    /// Every word of [`Disposition::as_str`].
    pub const WORDS: &[&str] = &[
        "unavailable",
        "reauthorize",
        "blocked",
        "credential_rejected",
        "app_rejected",
        "restart",
        "caller_fault",
        "unclear",
        "outcome_unknown",
        "bug",
    ];

    /// The word used in metrics and logs.
    pub fn as_str(self) -> &'static str {
        match self {
            Disposition::RetryAfter(_) => "unavailable",
            Disposition::Reauthorize(..) => "reauthorize",
            Disposition::Blocked(_) => "blocked",
            Disposition::NextCredential => "credential_rejected",
            Disposition::Misconfigured => "app_rejected",
            Disposition::Restart => "restart",
            Disposition::CallerFault => "caller_fault",
            Disposition::Unclear => "unclear",
            Disposition::OutcomeUnknown => "outcome_unknown",
            Disposition::Bug => "bug",
        }
    }
}

/// What the authority answered, without its free text: that only ever reaches the log.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuthorityError {
    /// HTTP status; none when no answer came.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<u16>,
    /// `error` (RFC 6749 §5.2), when it is of that alphabet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// Entra's `suberror`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub suberror: Option<String>,
    /// Entra's AADSTS numbers.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub error_codes: Vec<u32>,
    /// Entra's id of this answer, for a support case.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trace_id: Option<String>,
    /// Entra's id of this request.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub correlation_id: Option<String>,
}

impl AuthorityError {
    /// Whether the authority answered what it was asked, with a no: it is there and works. (A 4xx, but those that say that it
    /// is out of time or throttles.)
    pub fn is_refusal(&self) -> bool {
        self.status.is_some_and(|status| matches!(status, 400..=499) && !matches!(status, 408 | 425 | 429))
    }
}

/// A call to the authority that did not yield what was asked.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{doing}: {cause}")]
pub struct AuthorityFailure {
    /// What we were doing, such as "refreshing a grant".
    pub doing: &'static str,
    /// What went wrong, in our own words and never with the authority's free text.
    pub cause: String,
    /// What to do about it.
    pub disposition: Disposition,
    /// What the authority answered.
    pub answer: AuthorityError,
    /// The claims challenge that came with it, as JSON text: to be passed to the next sign-in.
    pub claims: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_disposition_s_word_is_in_the_list() {
        let word = |one: Disposition| match one {
            // A new one belongs in `WORDS` too.
            Disposition::RetryAfter(_)
            | Disposition::Reauthorize(..)
            | Disposition::Blocked(_)
            | Disposition::NextCredential
            | Disposition::Misconfigured
            | Disposition::Restart
            | Disposition::CallerFault
            | Disposition::Unclear
            | Disposition::OutcomeUnknown
            | Disposition::Bug => one.as_str(),
        };
        let words = [
            Disposition::RetryAfter(None),
            Disposition::Reauthorize(ReauthReason::GrantExpired, GrantFate::Keep),
            Disposition::Blocked(BlockReason::PolicyBlocked),
            Disposition::NextCredential,
            Disposition::Misconfigured,
            Disposition::Restart,
            Disposition::CallerFault,
            Disposition::Unclear,
            Disposition::OutcomeUnknown,
            Disposition::Bug,
        ]
        .map(word);
        assert_eq!(words, Disposition::WORDS);
    }
}
