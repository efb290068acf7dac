//! What a refusal says of the app where no user took part: in the app's own token request, or in an authorize
//! request with nobody signed in. It is read from the same tables.

use super::{ACCOUNT_NUMBERS, LATER_ERRORS, NO_TENANT_NUMBERS, NUMBERS, REDIRECT_NUMBERS, TENANT_NUMBERS};
use crate::domain::verdict::BlockReason::{AppNotInTenant, TenantGone};
use crate::domain::verdict::Disposition::{Blocked, RetryAfter};

/// AADSTS7000222: the client secret has expired.
pub const EXPIRED_SECRET: u32 = 7_000_222;

/// What is wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AppFault {
    /// The app is absent, disabled or not licensed in the tenant.
    NotInTenant,
    /// The authority does not know the tenant.
    NoTenant,
    /// The redirect URI is not registered.
    RedirectUri,
    /// The registration does not admit the accounts that the authority's path is for.
    Accounts,
    /// It passes by itself: the authority throttles or has a failure. In our words.
    Passing(&'static str),
    /// A policy or an administrator of the tenant refuses. In our words.
    Tenant(&'static str),
    /// Anything else, in our words if there are some.
    Other(Option<&'static str>),
}

impl AppFault {
    /// Judges a refusal by its numbers and its `error`.
    pub fn of(codes: &[u32], error: Option<&str>) -> Self {
        let has = |numbers: &[u32]| codes.iter().any(|code| numbers.contains(code));
        if error.is_some_and(|error| LATER_ERRORS.contains(&error)) {
            return AppFault::Passing("the authority is unavailable for now");
        }
        match TENANT_NUMBERS.iter().find(|(numbers, ..)| has(numbers)) {
            Some((_, AppNotInTenant, _)) => return AppFault::NotInTenant,
            Some((_, TenantGone, _)) => return AppFault::NoTenant,
            Some((_, _, why)) => return AppFault::Tenant(why),
            None => {}
        }
        match () {
            () if has(NO_TENANT_NUMBERS) => return AppFault::NoTenant,
            () if has(REDIRECT_NUMBERS) => return AppFault::RedirectUri,
            () if has(ACCOUNT_NUMBERS) => return AppFault::Accounts,
            () => {}
        }
        match NUMBERS.iter().find(|(numbers, ..)| has(numbers)) {
            Some((_, RetryAfter(_), why)) => AppFault::Passing(why),
            Some((_, Blocked(_), why)) => AppFault::Tenant(why),
            Some((_, _, why)) => AppFault::Other(Some(why)),
            None => AppFault::Other(None),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_says_of_an_app_what_it_says_in_the_table() {
        let passing = "the authority has a passing failure";
        let policy = "a policy of the tenant refuses";
        for (code, expected) in [
            (700_016, AppFault::NotInTenant),
            (7_000_229, AppFault::NotInTenant),
            (90_002, AppFault::NoTenant),
            (900_023, AppFault::NoTenant),
            (50_011, AppFault::RedirectUri),
            (900_971, AppFault::RedirectUri),
            (50_194, AppFault::Accounts),
            (9_002_331, AppFault::Accounts),
            (9_002_346, AppFault::Accounts),
            (90_033, AppFault::Passing(passing)),
            (1_000_031, AppFault::Tenant(policy)),
            (EXPIRED_SECRET, AppFault::Other(Some("the app's credential was rejected"))),
            (1, AppFault::Other(None)),
        ] {
            assert_eq!(AppFault::of(&[code], None), expected, "{code}");
            assert_eq!(AppFault::of(&[1, code], Some("invalid_request")), expected, "{code}");
        }
        assert!(matches!(AppFault::of(&[], Some("temporarily_unavailable")), AppFault::Passing(_)));
        assert_eq!(AppFault::of(&[], Some("invalid_scope")), AppFault::Other(None));
    }
}
