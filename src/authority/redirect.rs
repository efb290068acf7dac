//! Refusals in the redirect that brings the browser back without a code. A redirect passes through a browser
//! and is untrusted: only its checked words and numbers are used.

use super::classify::{self, Asked, Question};
use super::clouds::Provider;
use super::text::{is_guid, trace_word};
use super::wire::{self, TokenError};
use crate::domain::verdict::{AuthorityError, BlockReason, Disposition};

/// Longest `error`: longer than any known one.
const LONGEST_WORD: usize = 64;

/// A parsed refusal in a redirect, not judged yet.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RedirectError {
    error: Option<String>,
    code: Option<u32>,
    is_cancelled: bool,
    trace_id: Option<String>,
    correlation_id: Option<String>,
}

/// Meaning of a refusal in a redirect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RedirectRefusal {
    /// The user or an administrator refused.
    Declined,
    /// The account may not be used here: it belongs to another tenant or is of another kind.
    WrongAccount,
    /// The same meaning as in the answer to a code redemption.
    As(Disposition),
}

/// AADSTS numbers that decide at the authorize endpoint, with any `error`. All others have their meaning at
/// the token endpoint.
#[rustfmt::skip]
const NUMBERS: &[(&[u32], RedirectRefusal)] = &[
    (&[65004],                                RedirectRefusal::Declined),
    (&[50020, 500208, 51004],                 RedirectRefusal::WrongAccount),
    (&[90094, 90095, 90099, 900941, 65001],   blocked(BlockReason::AdminConsentRequired)),
    (&[50105, 90072, 16000],                  blocked(BlockReason::AssignmentRequired)),
    (&[50057, 50053],                         blocked(BlockReason::AccountDisabled)),
    (&[53000, 53001, 530003],                 blocked(BlockReason::DeviceRequired)),
    (&[50131, 53002, 53003, 53010, 53011, 530032, 530034, 530035, 500021, 500022, 500212, 500213, 1000031],
                                              blocked(BlockReason::PolicyBlocked)),
    (&[70001],                                RedirectRefusal::As(Disposition::Misconfigured)),
];

/// `error` values of a refused authorize request that differ from, or are unknown at, the token endpoint (RFC
/// 6749 §4.1.2.1; OpenID Connect Core §3.1.2.6; Entra's own).
#[rustfmt::skip]
const ERRORS: &[(&str, RedirectRefusal)] = &[
    ("access_denied",              RedirectRefusal::Declined),
    ("permission_denied",          RedirectRefusal::Declined), // from Entra's older admin-consent page
    ("consent_required",           RedirectRefusal::Declined), // a possible answer to declining
    // no credential was presented
    ("invalid_client",             RedirectRefusal::As(Disposition::Misconfigured)),
    ("invalid_request",            RedirectRefusal::As(Disposition::Misconfigured)), // there is no grant yet
    ("invalid_request_object",     RedirectRefusal::As(Disposition::Misconfigured)),
    ("invalid_request_uri",        RedirectRefusal::As(Disposition::Misconfigured)),
    ("request_not_supported",      RedirectRefusal::As(Disposition::Misconfigured)),
    ("request_uri_not_supported",  RedirectRefusal::As(Disposition::Misconfigured)),
    ("registration_not_supported", RedirectRefusal::As(Disposition::Misconfigured)),
    ("unsupported_response",       RedirectRefusal::As(Disposition::Misconfigured)),
];

const fn blocked(reason: BlockReason) -> RedirectRefusal {
    RedirectRefusal::As(Disposition::Blocked(reason))
}

impl RedirectError {
    /// Parses `error`, `error_subcode` and `error_description`. Of the free text it keeps only the number at
    /// its start and its two ids.
    pub fn read(error: &str, subcode: Option<&str>, description: Option<&str>) -> Self {
        let is_word = !error.is_empty()
            && error.len() <= LONGEST_WORD
            && error.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.'));
        RedirectError {
            error: is_word.then(|| error.to_owned()),
            code: description.and_then(wire::aadsts),
            is_cancelled: subcode == Some("cancel"),
            trace_id: description.and_then(|text| id_after(text, "Trace ID: ")),
            correlation_id: description.and_then(|text| id_after(text, "Correlation ID: ")),
        }
    }

    /// Returns the parts that may be logged, audited and reported.
    pub fn answer(&self) -> AuthorityError {
        AuthorityError {
            error: self.error.clone(),
            error_codes: self.code.into_iter().collect(),
            trace_id: self.trace_id.clone(),
            correlation_id: self.correlation_id.clone(),
            ..AuthorityError::default()
        }
    }

    /// Judges it for a provider of this kind; `one_tenant` is true if the app is for a single tenant.
    pub(super) fn judge(&self, provider: Provider, one_tenant: bool) -> RedirectRefusal {
        if self.is_cancelled {
            return RedirectRefusal::Declined;
        }
        let row = NUMBERS.iter().find(|(numbers, _)| self.code.is_some_and(|code| numbers.contains(&code)));
        if let Some((_, refusal)) = row {
            return *refusal;
        }
        let error = self.error.clone().unwrap_or_default();
        let at_the_token_endpoint = |error: String, codes| {
            let refusal = TokenError { error: Some(error), codes, ..TokenError::default() };
            let question = Question { asked: Asked::Redeem, provider, one_tenant };
            classify::token_error(400, Some(&refusal), None, question).disposition
        };
        if let Some((_, refusal)) = ERRORS.iter().find(|(word, _)| *word == error) {
            // A known number says more.
            return match at_the_token_endpoint(String::new(), self.code.into_iter().collect()) {
                Disposition::Unclear => *refusal,
                known => RedirectRefusal::As(known),
            };
        }
        RedirectRefusal::As(at_the_token_endpoint(error, self.code.into_iter().collect()))
    }
}

/// Returns the GUID after a label in Entra's free text.
fn id_after(text: &str, label: &str) -> Option<String> {
    let id = text.split(label).nth(1)?.get(..36)?;
    is_guid(id).then(|| trace_word(id)).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::verdict::ReauthReason;

    fn judged(error: &str, subcode: Option<&str>, description: Option<&str>) -> RedirectRefusal {
        RedirectError::read(error, subcode, description).judge(Provider::Entra, false)
    }

    #[test]
    fn a_refusal_is_judged_by_its_number_then_by_its_word() {
        use RedirectRefusal::{As, Declined, WrongAccount};
        let operators = As(Disposition::Misconfigured);
        let approval = blocked(BlockReason::AdminConsentRequired);
        let rows = [
            ("access_denied", Some("cancel"), None, Declined),
            ("access_denied", None, Some("AADSTS65004: User declined to consent"), Declined),
            ("consent_required", None, Some("AADSTS65004: User declined to consent"), Declined),
            ("permission_denied", None, None, Declined),
            ("access_denied", None, Some("AADSTS90094: An administrator has set a policy"), approval),
            ("access_denied", None, Some("AADSTS90095: sent"), approval),
            ("access_denied", None, Some("AADSTS900941: An administrator of Contoso"), approval),
            ("consent_required", None, Some("AADSTS65001: not consented"), approval),
            (
                "interaction_required",
                None,
                Some("AADSTS50105: not assigned"),
                blocked(BlockReason::AssignmentRequired),
            ),
            (
                "invalid_client",
                None,
                Some("AADSTS50105: not assigned"),
                blocked(BlockReason::AssignmentRequired),
            ),
            ("access_denied", None, Some("AADSTS50020: user account"), WrongAccount),
            ("interaction_required", None, Some("AADSTS53003: blocked"), blocked(BlockReason::PolicyBlocked)),
            ("interaction_required", None, Some("AADSTS53000: device"), blocked(BlockReason::DeviceRequired)),
            ("login_required", None, Some("AADSTS50058: silent"), As(Disposition::Restart)),
            ("invalid_request", None, Some("AADSTS50194: not multi-tenant"), operators),
            ("invalid_client", None, Some("AADSTS650057: invalid resource"), operators),
            ("invalid_client", None, None, operators),
            ("access_denied", None, Some("AADSTS50011: redirect"), operators),
            (
                "unauthorized_client",
                None,
                Some("AADSTS700016: not found"),
                blocked(BlockReason::AppNotInTenant),
            ),
            ("unauthorized_client", None, None, operators),
            ("invalid_scope", None, None, As(Disposition::CallerFault)),
            ("invalid_request", None, None, operators),
            ("registration_not_supported", None, None, operators),
            ("server_error", None, None, As(Disposition::RetryAfter(None))),
            ("temporarily_unavailable", None, None, As(Disposition::RetryAfter(None))),
            ("access_denied", None, Some("see AADSTS90094: not at the start"), Declined),
            ("access_denied", None, Some("AADSTS"), Declined),
            ("access_denied", None, Some("AADSTS99999999999999999999: x"), Declined),
            ("access_denied", None, Some("AADSTS4: a number nobody knows"), Declined),
            ("<script>alert(1)</script>", Some("\r\n"), Some("\u{1b}[31m"), As(Disposition::Unclear)),
            ("", None, None, As(Disposition::Unclear)),
            ("a_word_of_tomorrow", None, None, As(Disposition::Unclear)),
        ];
        for (error, subcode, description, expected) in rows {
            assert_eq!(judged(error, subcode, description), expected, "{error} {description:?}");
        }
        let absent = RedirectError::read("unauthorized_client", None, Some("AADSTS700016: not found"));
        assert_eq!(absent.judge(Provider::Entra, true), operators, "the only tenant is the operator's own");
        let gone = judged("invalid_grant", None, Some("AADSTS50034: no such user"));
        assert!(matches!(gone, As(Disposition::Reauthorize(ReauthReason::AccountGone, _))), "{gone:?}");
    }

    #[test]
    fn only_checked_words_are_kept() {
        let text = "AADSTS650052: The app needs access to a service.\r\nTrace ID: \
            0f2b3c4d-0000-4000-8000-0123456789ab\r\nCorrelation ID: \
            aaaaaaaa-0000-4000-8000-0123456789ab\r\nTimestamp: 2026-11-28 13:00:00Z";
        let answer = RedirectError::read("invalid_client", None, Some(text)).answer();
        assert_eq!(answer.error.as_deref(), Some("invalid_client"));
        assert_eq!(answer.error_codes, [650_052]);
        assert_eq!(answer.trace_id.as_deref(), Some("0f2b3c4d-0000-4000-8000-0123456789ab"));
        assert_eq!(answer.correlation_id.as_deref(), Some("aaaaaaaa-0000-4000-8000-0123456789ab"));
        for bad in ["", "a b", "<b>", "a\"", "{{7*7}}", "ä", "a\r\nb", &"x".repeat(65)] {
            assert_eq!(
                RedirectError::read(bad, Some(bad), Some(bad)).answer(),
                AuthorityError::default(),
                "{bad}"
            );
        }
        for bad in ["Trace ID: <script>", "Trace ID: ", "Trace ID: ääääääääääääääääääääääääääääääääääää"]
        {
            assert_eq!(RedirectError::read("x", None, Some(bad)).answer().trace_id, None, "{bad}");
        }
    }
}
