//! The table that gives the meaning of an authority's refusal.
//!
//! It is read in this order; the first match decides:
//!
//! 1. the HTTP status (anything but 4xx is the authority's trouble, never the grant's);
//! 2. `error` values that say "later";
//! 3. [`TENANT_NUMBERS`], the AADSTS numbers for the state of one tenant, with any `error`;
//! 4. [`NUMBERS`], the AADSTS numbers that say more than their `error`, or something else;
//! 5. [`SUBERRORS`];
//! 6. [`ERRORS`];
//! 7. no match: unclear, and the operator is told.
//!
//! Microsoft says that numbers and texts change without notice: an unknown number decides nothing. A rejected
//! client credential (`invalid_client`) never becomes a verdict on a user, even with a number about a user
//! beside it.

mod without_user;

use std::time::Duration;

pub use self::without_user::{AppFault, EXPIRED_SECRET};

use super::clouds::Provider;
use super::wire::TokenError;
use crate::domain::verdict::BlockReason;
use crate::domain::verdict::BlockReason::{
    AccountDisabled, AdminConsentRequired, AppNotInTenant, AssignmentRequired, DeviceRequired, PolicyBlocked,
    TenantGone,
};
use crate::domain::verdict::Disposition::{
    self, Blocked, Bug, CallerFault, Misconfigured, NextCredential, Restart, Unclear,
};
use crate::domain::verdict::GrantFate::{Dead, Keep};
use crate::domain::verdict::ReauthReason::{
    AccountGone, ConsentRequired, GrantExpired, GrantRevoked, InteractionRequired, PasswordExpired,
};

/// The refused request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Asked {
    /// A code redemption: there is no grant to judge yet.
    Redeem,
    /// The use of a refresh token.
    Refresh,
    /// A token for the app itself: there is no user to judge.
    ClientCredentials,
}

/// The context of a refusal: the same answer means something else in an app of many tenants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Question {
    /// The refused request.
    pub(super) asked: Asked,
    /// Kind of authority.
    pub(super) provider: Provider,
    /// True if the app is for a single tenant, so that the operator must correct what is wrong there.
    pub(super) one_tenant: bool,
}

/// Result of the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Conclusion {
    /// What to do.
    pub disposition: Disposition,
    /// Cause, in our words.
    pub why: &'static str,
}

const LATER: Disposition = Disposition::RetryAfter(None);
/// AADSTS50196 throttles a loop for some minutes.
const LOOP_THROTTLED: Disposition = Disposition::RetryAfter(Some(Duration::from_secs(300)));
const SIGN_IN: Disposition = Disposition::Reauthorize(InteractionRequired, Keep);
const CONSENT: Disposition = Disposition::Reauthorize(ConsentRequired, Keep);
const PASSWORD: Disposition = Disposition::Reauthorize(PasswordExpired, Keep);
const EXPIRED: Disposition = Disposition::Reauthorize(GrantExpired, Keep);
const GONE: Disposition = Disposition::Reauthorize(AccountGone, Keep);
const DEAD_EXPIRED: Disposition = Disposition::Reauthorize(GrantExpired, Dead);
const DEAD_REVOKED: Disposition = Disposition::Reauthorize(GrantRevoked, Dead);

/// `error` values that mean "later", with any number beside them.
const LATER_ERRORS: [&str; 3] = ["temporarily_unavailable", "server_error", "slow_down"];

/// AADSTS numbers for the state of the user's tenant. Entra sends them with several values of `error`
/// (`invalid_client` and `unauthorized_client` among them) and statuses, so the number alone decides. In an
/// app of many tenants each blocks that tenant's connections; in an app for one tenant the operator must
/// correct the app.
#[rustfmt::skip]
const TENANT_NUMBERS: &[(&[u32], BlockReason, &str)] = &[
    (&[700016, 700011, 7000112, 7000229, 650052], AppNotInTenant,
     "the app is absent, disabled or not licensed in the tenant"),
    (&[90002],                                    TenantGone,     "the authority does not know the tenant"),
];

/// AADSTS numbers for a client credential, whose `error` may not be `invalid_client`.
#[rustfmt::skip]
const CREDENTIAL_NUMBERS: &[u32] = &[
    50012, 50027, 70021, 700020, 700021, 700023, 700024, 700026, 700027, 700030, 700211, 700212, 700213,
    700229, 7000214, 7000215, 7000222, 7000274, 7000277, 1000502,
];

/// AADSTS numbers for a tenant in the authority's path that cannot be one's name.
const NO_TENANT_NUMBERS: &[u32] = &[900023];
/// For a redirect URI that is not registered.
const REDIRECT_NUMBERS: &[u32] = &[50011, 900971];
/// For accounts that the registration does not admit, such as personal ones.
const ACCOUNT_NUMBERS: &[u32] = &[50194, 9002331, 9002332, 9002346];

/// AADSTS numbers that decide: the first row with one of the answer's numbers counts. Sources of the
/// meanings: the Entra error-code reference, and for the rest the sources of MSAL and Identity Web.
#[rustfmt::skip]
const NUMBERS: &[(&[u32], Disposition, &str)] = &[
    // No verdicts, though they look like it.
    (&[50196], LOOP_THROTTLED,
     "the authority throttles us for asking the same thing in a loop; the grant is fine"),
    (&[50033, 50087, 70012, 90006, 90012, 90024, 90033, 90055, 90090], LATER,
     "the authority has a passing failure"),
    // The code or its proof.
    (&[54005, 50089], Restart, "the authorization code was used before or its flow is over"),
    (&[50148, 501481], Restart, "the code verifier does not fit the code"),
    // The grant itself.
    (&[700082], DEAD_EXPIRED, "the refresh token was not used for too long"),
    (&[50173], DEAD_REVOKED, "the grant was revoked"),
    (&[70008, 700081, 700084, 70043, 70044], EXPIRED, "the grant outlived its time or the sign-in frequency"),
    (&[50132, 50133], Disposition::Reauthorize(GrantRevoked, Keep),
     "the session ended with a password change"),
    // The user.
    (&[50055, 50144], PASSWORD, "the user's password expired"),
    (&[50034, 51004], GONE, "the authority does not know the account any more"),
    (&[65001, 65004], CONSENT, "the user has not consented"),
    (&[50020, 500208], SIGN_IN, "the account is of a tenant or of a kind that the app does not accept"),
    (&[50014, 50056, 50058, 50072, 50074, 50076, 50078, 50079, 50085, 50126, 50140, 50158, 50199, 50097,
       50129, 50155, 50187, 53004, 700003], SIGN_IN, "the authority requires the user to sign in"),
    // An administrator.
    (&[90094, 90095, 90099, 900941], Blocked(AdminConsentRequired), "an administrator must approve the app"),
    (&[50105, 501051, 16000, 90072], Blocked(AssignmentRequired),
     "the user, or the app itself, must be assigned or invited by an administrator"),
    (&[50057, 50053], Blocked(AccountDisabled), "the account is disabled or locked"),
    (&[53000, 53001, 530003], Blocked(DeviceRequired), "a managed device is required"),
    (&[50131, 53002, 53003, 53010, 53011, 530032, 530034, 530035, 500021, 500022, 500212, 500213, 1000031],
       Blocked(PolicyBlocked), "a policy of the tenant refuses"),
    // The registration.
    (&[7000218, 700025], Misconfigured,
     "the registration wants a credential where none was sent, or none where one was"),
    (&[9002326, 9002327], Misconfigured,
     "the redirect URI is registered for a single-page application; register it as Web"),
    (NO_TENANT_NUMBERS, Misconfigured, "the authority's tenant is no tenant's name"),
    (REDIRECT_NUMBERS, Misconfigured, "the redirect URI is not registered"),
    (ACCOUNT_NUMBERS, Misconfigured, "the registration does not admit the accounts of this authority"),
    (&[500011, 50049, 50059, 50128, 90019, 50146, 65005, 650054, 650056, 650057, 70005, 70007, 700054, 90009,
       900382, 900432, 900439],
       Misconfigured, "the app's registration or its authority does not fit"),
    // A credential, if the `error` may not be `invalid_client`.
    (CREDENTIAL_NUMBERS, NextCredential, "the app's credential was rejected"),
    // Ourselves.
    (&[70011, 28002], CallerFault, "a scope does not exist"),
    (&[28000, 28003, 700022, 700005, 50013, 500131, 500133, 50147, 501491, 90014, 900144], Bug,
       "the authority calls our request malformed"),
];

/// Entra's `suberror` beside `invalid_grant` or `interaction_required`.
#[rustfmt::skip]
const SUBERRORS: &[(&str, Disposition, &str)] = &[
    ("bad_token",                    DEAD_REVOKED,           "this refresh token is dead"),
    ("token_expired",                EXPIRED,                "the grant outlived its time"),
    ("consent_required",             CONSENT,                "consent is missing or was withdrawn"),
    ("user_password_expired",        PASSWORD,               "the user's password expired"),
    ("basic_action",                 SIGN_IN,                "the user must act in the sign-in page"),
    ("additional_action",            SIGN_IN,                "the user must act outside the sign-in page"),
    ("device_authentication_failed", SIGN_IN,                "the user's device must be registered again"),
    ("message_only",                 Blocked(PolicyBlocked), "a policy of the tenant refuses"),
    ("protection_policy_required",   Misconfigured,
     "the tenant wants a mobile app's protection of a service"),
    ("client_mismatch",              Misconfigured,          "the refresh token belongs to another client"),
];

/// `error` alone (RFC 6749 §5.2; OpenID Connect Core §3.1.2.6; RFC 8707 §2; Entra's own).
#[rustfmt::skip]
const ERRORS: &[(&str, Disposition, &str)] = &[
    ("invalid_grant",             SIGN_IN,        "the authority refuses the grant and says no more"),
    ("interaction_required",      SIGN_IN,        "the authority requires the user to sign in"),
    ("login_required",            SIGN_IN,        "the authority requires the user to sign in"),
    ("account_selection_required",SIGN_IN,        "the authority requires the user to sign in"),
    ("consent_required",          CONSENT,        "the user has not consented"),
    ("invalid_client",            NextCredential, "the app's credential was rejected"),
    ("unauthorized_client",       Misconfigured,  "the app may not do this"),
    ("invalid_tenant",            Misconfigured,  "the tenant does not exist"),
    ("invalid_instance",          Misconfigured,  "the authority's host is unknown to it"),
    ("invalid_resource",          Misconfigured,  "the resource does not exist or is not in the tenant"),
    ("unsupported_grant_type",    Misconfigured,  "the authority does not offer this grant type"),
    ("unsupported_response_type", Misconfigured,  "the authority does not offer this response type"),
    ("invalid_scope",             CallerFault,    "a scope does not exist"),
    ("invalid_target",            CallerFault,    "the resource does not exist"),
    // Some providers mean an ended grant, and some a wrong secret.
    ("invalid_request",           Unclear,
     "the authority calls the request invalid, which it may say of a grant that ended"),
];

/// Judges a refused token request. `refusal` is `None` if the body had nothing readable.
pub(super) fn token_error(
    status: u16,
    refusal: Option<&TokenError>,
    retry_after: Option<Duration>,
    question: Question,
) -> Conclusion {
    let mut conclusion = look_up(status, refusal, question);
    conclusion.disposition = match (conclusion.disposition, question.asked) {
        (Disposition::RetryAfter(ours), _) => Disposition::RetryAfter(ours.max(retry_after)),
        (Unclear, _) if retry_after.is_some() => Disposition::RetryAfter(retry_after),
        (Blocked(AppNotInTenant | TenantGone), _) if question.one_tenant => Misconfigured,
        (disposition, Asked::ClientCredentials) => of_the_app(disposition, question.provider),
        // There is no grant yet: a verdict on a grant ends this attempt. One that needs a person stays.
        (Disposition::Reauthorize(InteractionRequired | GrantExpired | GrantRevoked, _), Asked::Redeem) => {
            Restart
        }
        (Disposition::Reauthorize(reason, _), Asked::Redeem) => Disposition::Reauthorize(reason, Keep),
        // A code's own failures cannot happen in a refresh; if the authority reports one, the user must sign
        // in.
        (Restart, Asked::Refresh) => SIGN_IN,
        (other, _) => other,
    };
    conclusion
}

/// Returns the meaning of a refusal for a token of the app itself. No user signed in, so there is none to
/// send to a sign-in: a consent, or a role at the resource, that is missing is an administrator's to give.
fn of_the_app(disposition: Disposition, provider: Provider) -> Disposition {
    match disposition {
        Blocked(AppNotInTenant | TenantGone) => disposition,
        Disposition::Reauthorize(ConsentRequired, _) | Blocked(AdminConsentRequired | AssignmentRequired)
            if provider == Provider::Entra =>
        {
            Blocked(AdminConsentRequired)
        }
        Disposition::Reauthorize(..) | Blocked(_) => Misconfigured,
        other => other,
    }
}

/// Returns true if a rejection certainly concerns the credential. In an app of many tenants Entra also says
/// `invalid_client` for a fault of one tenant. If the number is not a known credential number, one tenant's
/// answer is not enough to reject what all of them use.
pub(super) fn is_surely_the_credential(codes: &[u32], question: Question) -> bool {
    // 70002 accompanies the more specific number, and says that the credentials were not accepted.
    let is_known = |code: &u32| CREDENTIAL_NUMBERS.contains(code) || *code == 70002;
    question.provider != Provider::Entra
        || question.one_tenant
        || codes.is_empty()
        || codes.iter().any(is_known)
}

fn look_up(status: u16, refusal: Option<&TokenError>, question: Question) -> Conclusion {
    let Question { asked, provider, .. } = question;
    let says = |disposition, why| Conclusion { disposition, why };
    match status {
        408 | 425 | 429 => return says(LATER, "the authority is throttling or out of time"),
        400..=499 => {}
        500..=599 => return says(LATER, "the authority has a failure of its own"),
        _ => return says(LATER, "the authority answered with something that is no token answer"),
    }
    let Some(refusal) = refusal else {
        return says(Unclear, "the authority refused with something that is no OAuth error");
    };
    let error = refusal.error.as_deref().unwrap_or_default();
    if LATER_ERRORS.contains(&error) {
        return says(LATER, "the authority is unavailable for now");
    }
    let has = |numbers: &[u32]| refusal.codes.iter().any(|code| numbers.contains(code));
    if let Some((_, reason, why)) = TENANT_NUMBERS.iter().find(|(numbers, ..)| has(numbers))
        && !has(CREDENTIAL_NUMBERS)
    {
        return says(Blocked(*reason), why);
    }
    // At Entra this error concerns the app and where it may be used, never its proof.
    let is_of_the_app = provider == Provider::Entra && error == "unauthorized_client";
    let row = NUMBERS.iter().find(|(numbers, ..)| has(numbers));
    if let Some((_, disposition, why)) = row
        && !(error == "invalid_client" && disposition.is_verdict())
        && !(is_of_the_app && *disposition == NextCredential)
    {
        return match *disposition {
            // The number gives the reason, and this error makes it final.
            Disposition::Reauthorize(reason @ (GrantExpired | GrantRevoked), _)
                if refusal.suberror.as_deref() == Some("bad_token") =>
            {
                says(Disposition::Reauthorize(reason, Dead), why)
            }
            disposition => says(disposition, why),
        };
    }
    if matches!(error, "invalid_grant" | "interaction_required")
        && let Some(suberror) = refusal.suberror.as_deref()
        && let Some((_, disposition, why)) = SUBERRORS.iter().find(|(word, ..)| *word == suberror)
    {
        return says(*disposition, why);
    }
    // A 401 is for a client that could not prove itself (RFC 6749 §5.2), and Keycloak sends this error for a
    // wrong secret. It also sends it for an app that may not have tokens of its own, so it means nothing in
    // that request.
    if status == 401 && error == "unauthorized_client" && !is_of_the_app && asked != Asked::ClientCredentials
    {
        return says(NextCredential, "the app's credential was rejected");
    }
    match ERRORS.iter().find(|(word, ..)| *word == error) {
        Some((_, disposition, why)) => says(*disposition, why),
        None => says(Unclear, "the authority refused with an unknown error; tell the operator"),
    }
}

#[cfg(test)]
mod page_tests;

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;
    use crate::authority::http::HttpAnswer;
    use crate::authority::wire;
    use crate::domain::time::Timestamp;
    use crate::outbound::retry_after;

    /// 2026-11-23T00:00:00Z.
    const NOW: Timestamp = Timestamp::from_unix_seconds(1_795_392_000);

    fn words(disposition: Disposition) -> String {
        match disposition {
            Disposition::RetryAfter(None) => "later".to_owned(),
            Disposition::RetryAfter(Some(wait)) => format!("later {}", wait.as_secs()),
            Disposition::Reauthorize(reason, Keep) => format!("reauthorize {reason} keep"),
            Disposition::Reauthorize(reason, Dead) => format!("reauthorize {reason} dead"),
            Blocked(reason) => format!("blocked {reason}"),
            NextCredential => "next_credential".to_owned(),
            Misconfigured => "misconfigured".to_owned(),
            Restart => "restart".to_owned(),
            CallerFault => "caller_fault".to_owned(),
            Unclear => "unclear".to_owned(),
            Disposition::OutcomeUnknown => "outcome_unknown".to_owned(),
            Bug => "bug".to_owned(),
        }
    }

    fn body(case: &Value, codes: &[u64]) -> Vec<u8> {
        if let Some(body) = case["body"].as_str() {
            return body.as_bytes().to_vec();
        }
        let mut body = serde_json::json!({
            "error": case["error"],
            "error_description": "AADSTS0: Some text.\r\nTrace ID: 1",
            "error_codes": codes,
        });
        if let Some(suberror) = case["suberror"].as_str() {
            body["suberror"] = suberror.into();
        }
        body.to_string().into_bytes()
    }

    #[test]
    fn every_row_of_the_facts() {
        let cases: Value =
            serde_json::from_str(include_str!("../../tests/data/authority/refusals.json")).expect("cases");
        for case in cases.as_array().expect("a list") {
            let alone = case["codes"].as_array().cloned().unwrap_or_default();
            let mut lists: Vec<Vec<u64>> = alone
                .iter()
                .map(|code| match code {
                    Value::Array(codes) => codes.iter().filter_map(Value::as_u64).collect(),
                    code => code.as_u64().into_iter().collect(),
                })
                .collect();
            if lists.is_empty() {
                lists.push(Vec::new());
            }
            for codes in lists {
                let status = u16::try_from(case["status"].as_u64().expect("a status")).expect("a status");
                let answer =
                    HttpAnswer { status, headers: Default::default(), body: body(case, &codes).into() };
                let refusal = wire::refusal(&answer);
                let after = case["retry_after"].as_str().and_then(|value| retry_after(value, NOW));
                let of = |asked, provider, one_tenant| {
                    let question = Question { asked, provider, one_tenant };
                    token_error(status, refusal.as_ref(), after, question).disposition
                };
                let says = |asked, one_tenant| words(of(asked, Provider::Entra, one_tenant));
                let expect = |key: &str, got: String| {
                    if let Some(expected) = case[key].as_str() {
                        assert_eq!(got, expected, "{key}: {} {codes:?}", case["case"]);
                    }
                };
                expect("refresh", says(Asked::Refresh, false));
                expect("redeem", says(Asked::Redeem, false));
                expect("refresh_one_tenant", says(Asked::Refresh, true));
                expect("client_credentials", says(Asked::ClientCredentials, false));
                expect("client_credentials_home", says(Asked::ClientCredentials, true));
                expect("refresh_openid", words(of(Asked::Refresh, Provider::OpenId, false)));
                for provider in [Provider::Entra, Provider::OpenId] {
                    // No sign-in can correct a request without a user, and no redemption condemns a grant.
                    let own = of(Asked::ClientCredentials, provider, false);
                    let is_of_a_tenant =
                        matches!(own, Blocked(AppNotInTenant | TenantGone | AdminConsentRequired));
                    assert!(!own.is_verdict() || is_of_a_tenant, "{}", case["case"]);
                    let redeemed = of(Asked::Redeem, provider, false);
                    assert!(!matches!(redeemed, Disposition::Reauthorize(_, Dead)), "{}", case["case"]);
                }
            }
        }
    }

    #[test]
    fn no_number_stands_in_two_rows() {
        let mut seen = std::collections::HashSet::new();
        let numbers = NUMBERS.iter().map(|(numbers, ..)| numbers);
        for numbers in TENANT_NUMBERS.iter().map(|(numbers, ..)| numbers).chain(numbers) {
            for number in *numbers {
                assert!(seen.insert(number), "{number}");
            }
        }
    }

    /// One tenant's state, with whatever `error` and status: seen with 7000112 as `unauthorized_client` and
    /// 401, with 650052 and 7000229 as `invalid_client`.
    #[test]
    fn a_tenants_state_blocks_that_tenant_whatever_error_and_status_say() {
        let rows = [
            (700_016, "blocked app_not_in_tenant"),
            (700_011, "blocked app_not_in_tenant"),
            (7_000_112, "blocked app_not_in_tenant"),
            (7_000_229, "blocked app_not_in_tenant"),
            (650_052, "blocked app_not_in_tenant"),
            (90002, "blocked tenant_gone"),
        ];
        let errors =
            ["unauthorized_client", "invalid_client", "invalid_request", "invalid_tenant", "invalid_grant"];
        for (code, expected) in rows {
            for error in errors {
                for status in [400, 401, 403] {
                    let refusal = TokenError {
                        error: Some(error.to_owned()),
                        codes: vec![code],
                        ..TokenError::default()
                    };
                    let says = |one_tenant, asked| {
                        let question = Question { asked, provider: Provider::Entra, one_tenant };
                        words(token_error(status, Some(&refusal), None, question).disposition)
                    };
                    let case = format!("{code} {error} {status}");
                    assert_eq!(says(false, Asked::Refresh), expected, "{case}");
                    assert_eq!(says(false, Asked::Redeem), expected, "{case}");
                    assert_eq!(says(false, Asked::ClientCredentials), expected, "{case}");
                    assert_eq!(says(true, Asked::Refresh), "misconfigured", "{case}: of one tenant");
                    assert_eq!(says(true, Asked::ClientCredentials), "misconfigured", "{case}: at home");
                }
            }
        }
    }

    #[test]
    fn unauthorized_client_never_speaks_of_a_credential_at_entra() {
        let every = CREDENTIAL_NUMBERS.iter().chain(&[999_999]).map(|code| vec![*code]);
        for codes in every.chain([Vec::new()]) {
            for status in [400, 401, 403] {
                for asked in [Asked::Redeem, Asked::Refresh, Asked::ClientCredentials] {
                    for one_tenant in [false, true] {
                        let (error, codes) = (Some("unauthorized_client".to_owned()), codes.clone());
                        let refusal = TokenError { error, codes, ..TokenError::default() };
                        let question = Question { asked, provider: Provider::Entra, one_tenant };
                        let says = token_error(status, Some(&refusal), None, question).disposition;
                        assert_ne!(says, NextCredential, "{refusal:?} {status} {asked:?}");
                    }
                }
            }
        }
    }

    #[test]
    fn one_tenants_invalid_client_is_surely_the_credentials_only_with_a_number_of_it() {
        let many = Question { asked: Asked::Refresh, provider: Provider::Entra, one_tenant: false };
        let rows: [(&[u32], bool); 6] = [
            (&[], true),
            (&[7_000_215], true),
            (&[70002], true),
            (&[999_999, 7_000_222], true),
            (&[999_999], false),
            (&[50173], false),
        ];
        for (codes, expected) in rows {
            assert_eq!(is_surely_the_credential(codes, many), expected, "{codes:?}");
            assert!(is_surely_the_credential(codes, Question { one_tenant: true, ..many }), "{codes:?}");
            let openid = Question { provider: Provider::OpenId, ..many };
            assert!(is_surely_the_credential(codes, openid), "{codes:?}");
        }
    }
}
