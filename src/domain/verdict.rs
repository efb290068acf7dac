//! Meaning of an authority's failure. Only two of these dispositions are verdicts on a user's grant
//! ([`Disposition::Reauthorize`] and [`Disposition::Blocked`]); no other may ever change a connection.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Reason why the user must act.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ReauthReason {
    /// The grant expired: unused for too long, or ended by a sign-in frequency policy.
    GrantExpired,
    /// The grant was revoked.
    GrantRevoked,
    /// The user's password expired.
    PasswordExpired,
    /// The user has not consented to what is asked, or has withdrawn the consent.
    ConsentRequired,
    /// The authority requires interaction (multi-factor sign-in, terms of use, or no reason given).
    InteractionRequired,
    /// The account no longer exists.
    AccountGone,
}

/// Reason why an administrator must act.
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
    /// Conditional access or another policy blocks the user.
    PolicyBlocked,
    /// The app is absent, disabled or not licensed in the user's tenant.
    AppNotInTenant,
    /// The authority no longer knows the user's tenant.
    TenantGone,
}

macro_rules! words {
    ($type:ty { $($variant:ident => $word:literal),+ $(,)? }) => {
        impl $type {
            /// All words.
            pub const WORDS: &[&str] = &[$($word),+];

            /// Its name in the contract.
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

/// What happens to the stored grant on a [`Disposition::Reauthorize`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GrantFate {
    /// Keep it and retry ever more slowly, for it may work again.
    Keep,
    /// The authority said that this very refresh token is dead.
    Dead,
}

/// What to do about a failure of the authority.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Disposition {
    /// The authority is down, throttles, or answered nonsense: retry, after this long if it said so.
    RetryAfter(Option<Duration>),
    /// A verdict: the user must sign in again.
    Reauthorize(ReauthReason, GrantFate),
    /// A verdict: an administrator must act. The grant is kept.
    Blocked(BlockReason),
    /// The authority rejected the app's credential: try the next one; the operator must replace it.
    NextCredential,
    /// The authority refuses the registration itself (disabled, wrong tenant, redirect URI, resource): the
    /// operator must correct it.
    Misconfigured,
    /// This connect attempt failed; a new one may work.
    Restart,
    /// The request asked for something that does not exist, such as an unknown scope.
    CallerFault,
    /// The authority refused with an error of no certain meaning: an unknown word, or one that may concern
    /// the grant, the app or the request.
    Unclear,
    /// The request was sent and no whole answer came: the authority may have acted on it.
    OutcomeUnknown,
    /// We sent a malformed request.
    Bug,
}

impl Disposition {
    /// Returns true for a verdict on the user's grant; nothing else may change a connection.
    pub fn is_verdict(self) -> bool {
        matches!(self, Disposition::Reauthorize(..) | Disposition::Blocked(_))
    }

    /// All words of [`Disposition::as_str`].
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

    /// Its name in metrics and logs.
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

/// As operators and stored records have it.
const HOST_NOT_CONFIRMED: &str = "host_not_confirmed";

/// The authority's answer without its free text, which only ever reaches the log.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuthorityError {
    /// HTTP status; `None` if no answer came.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<u16>,
    /// `error`, if it has only the characters that RFC 6749 §5.2 allows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// Entra's `suberror`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub suberror: Option<String>,
    /// Entra's AADSTS numbers.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub error_codes: Vec<u32>,
    /// Entra's id of this answer, for support cases.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trace_id: Option<String>,
    /// Entra's id of this request.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub correlation_id: Option<String>,
}

impl AuthorityError {
    /// Stands where nothing was sent, because the token host differs from the one before: no answer has this
    /// error without a status.
    pub fn of_unconfirmed_host() -> Self {
        AuthorityError { error: Some(HOST_NOT_CONFIRMED.to_owned()), ..AuthorityError::default() }
    }

    /// Returns true for [`AuthorityError::of_unconfirmed_host`].
    pub fn is_of_unconfirmed_host(&self) -> bool {
        self.status.is_none() && self.error.as_deref() == Some(HOST_NOT_CONFIRMED)
    }

    /// Returns true if the authority answered with a refusal, and therefore is up. (That is any 4xx but those
    /// for timeouts and throttling.)
    pub fn is_refusal(&self) -> bool {
        self.status.is_some_and(|status| matches!(status, 400..=499) && !matches!(status, 408 | 425 | 429))
    }
}

/// Entra's numbers as everybody writes them: `AADSTS50011 AADSTS1`.
pub fn aadsts(codes: impl IntoIterator<Item = u32>) -> String {
    codes.into_iter().map(|code| format!("AADSTS{code}")).collect::<Vec<_>>().join(" ")
}

/// A failed call to the authority.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{doing}: {cause}")]
pub struct AuthorityFailure {
    /// The activity that failed, such as "refreshing a grant".
    pub doing: &'static str,
    /// The cause in our own words, never the authority's free text.
    pub cause: String,
    /// What to do about it.
    pub disposition: Disposition,
    /// The authority's answer.
    pub answer: AuthorityError,
    /// The claims challenge in the answer, as JSON text, for the next sign-in.
    pub claims: Option<String>,
}

impl AuthorityFailure {
    /// Returns false if nothing was asked of the authority, since the configuration lacks what a request
    /// needs.
    pub fn was_asked(&self) -> bool {
        self.answer.status.is_some() || self.disposition != Disposition::CallerFault
    }
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
