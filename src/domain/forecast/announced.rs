//! Changes of Entra's policies that Microsoft has announced with a date, and the scopes that they concern.

use super::Certainty;
use crate::domain::time::Timestamp;

/// An announced change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Announced {
    /// The scopes that it concerns, by their bare names.
    pub scopes: &'static [&'static str],
    /// When it comes into force.
    pub at: Timestamp,
    /// Whether it takes the scope away for everybody, or changes it for some.
    pub certainty: Certainty,
    /// What it is, in words.
    pub what: &'static str,
}

/// All of them. (A policy that holds already is in the authority's answers, and needs no row here.)
pub const ANNOUNCED: &[Announced] = &[
    // Exchange Team Blog, 24 March 2026.
    Announced {
        scopes: &["Mail.ReadWrite", "Mail.ReadWrite.Shared"],
        // 2026-12-31
        at: Timestamp::from_unix_seconds(1_798_675_200),
        certainty: Certainty::Possible,
        what: "changing mail that is no draft needs Mail-Advanced.ReadWrite, with an administrator's consent",
    },
    // Message Center MC1227454.
    Announced {
        scopes: &["EWS.AccessAsUser.All"],
        // 2027-04-01
        at: Timestamp::from_unix_seconds(1_806_537_600),
        certainty: Certainty::Certain,
        what: "Exchange Web Services end",
    },
];

impl Announced {
    /// Whether it concerns this scope, bare or as a URI.
    pub(super) fn names(&self, scope: &str) -> bool {
        let bare = scope.rsplit('/').next().unwrap_or(scope);
        self.scopes.iter().any(|named| named.eq_ignore_ascii_case(bare))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scope_is_known_bare_and_as_a_uri_and_the_dates_are_those_of_the_sources() {
        let [mail, ews] = ANNOUNCED else { panic!("two") };
        assert!(mail.names("mail.readwrite") && mail.names("https://graph.microsoft.com/Mail.ReadWrite"));
        assert!(!mail.names("Mail.Read") && !mail.names("MailboxSettings.ReadWrite"));
        assert!(ews.names("https://outlook.office.com/EWS.AccessAsUser.All"));
        let dates = [mail, ews].map(|one| one.at.rfc3339());
        assert_eq!(dates, ["2026-12-31T00:00:00Z", "2027-04-01T00:00:00Z"]);
    }
}
