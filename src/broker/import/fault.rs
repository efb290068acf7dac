//! Why a grant is not imported, in the words of the contract.

use std::fmt;

use crate::authority::NoAdoption;
use crate::domain::account::AccountId;

/// Two accounts that should be one, each with who names it. It is for the operator who asks, and for no log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Accounts {
    expected: (&'static str, AccountId),
    found: (&'static str, AccountId),
}

impl Accounts {
    /// Both, each with who names it.
    pub(super) fn differ(
        expected: (&'static str, AccountId),
        found: (&'static str, AccountId),
    ) -> ImportFault {
        ImportFault::AccountMismatch(Box::new(Accounts { expected, found }))
    }
}

impl fmt::Display for Accounts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ((one, expected), (other, found)) = (&self.expected, &self.found);
        write!(f, "{one} is for the account {expected}, and {other} names {found}")
    }
}

/// Why a grant is not imported. None of these is the authority's verdict.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ImportFault {
    /// The connection exists.
    #[error("the connection exists already")]
    ConnectionExists,
    /// The same grant is another connection.
    #[error("this grant was imported already, as another connection")]
    ImportedElsewhere,
    /// It is another account's than was expected.
    #[error("{0}")]
    AccountMismatch(Box<Accounts>),
    /// The authority does not say whose it is.
    #[error("the authority's answer does not say whose grant it is")]
    NoAccount,
    /// Its account is of a tenant whose users may not be connected.
    #[error("the account is of a tenant that the app's `tenants` does not allow")]
    TenantNotAllowed,
    /// The answer is not believed.
    #[error("the authority answered with something that breaks a rule, so none of it is used")]
    AnswerNotBelieved,
    /// It is for another registration.
    #[error("the grant is for another client_id than the app's")]
    WrongApp,
    /// An operator revoked what it is for, or deleted the connection, while it was imported.
    #[error("the connection was deleted or revoked while the grant was imported")]
    Revoked,
    /// The answer to an earlier attempt was lost, and the refresh token is spent.
    #[error("the answer to an earlier attempt was lost, and the refresh token does not work any more")]
    GrantLost,
    /// The authority refuses it with words of no certain meaning.
    #[error("the authority refuses the grant and does not say why")]
    RefusedUnclearly,
}

impl ImportFault {
    /// Every word.
    pub const WORDS: [&str; 10] = [
        "connection_exists",
        "imported_elsewhere",
        "account_mismatch",
        "no_account",
        "tenant_not_allowed",
        "answer_not_believed",
        "wrong_app",
        "revoked",
        "grant_lost",
        "refused_unclearly",
    ];

    /// Returns its stable word.
    pub fn as_str(&self) -> &'static str {
        match self {
            ImportFault::ConnectionExists => "connection_exists",
            ImportFault::ImportedElsewhere => "imported_elsewhere",
            ImportFault::AccountMismatch(_) => "account_mismatch",
            ImportFault::NoAccount => "no_account",
            ImportFault::TenantNotAllowed => "tenant_not_allowed",
            ImportFault::AnswerNotBelieved => "answer_not_believed",
            ImportFault::WrongApp => "wrong_app",
            ImportFault::Revoked => "revoked",
            ImportFault::GrantLost => "grant_lost",
            ImportFault::RefusedUnclearly => "refused_unclearly",
        }
    }

    /// Says what to do.
    pub fn hint(&self) -> &'static str {
        match self {
            ImportFault::ConnectionExists => "with replace the grant renews it, if the account is the same",
            ImportFault::ImportedElsewhere => "one grant is one connection: leave this row out",
            ImportFault::AccountMismatch(_) => {
                "correct the row's account, or give it another connection name: the grant is kept for a month"
            }
            ImportFault::NoAccount => "have the user connect; the provider gives no id_token at a refresh",
            ImportFault::TenantNotAllowed => "add the tenant to the app's `tenants`, or leave this row out",
            ImportFault::AnswerNotBelieved => {
                "the daemon's log names the rule; the grant is kept for a month"
            }
            ImportFault::WrongApp => "import it for the app with that client_id; others cannot use the grant",
            ImportFault::Revoked => "import it again if the connection is wanted all the same",
            ImportFault::GrantLost => "have the user connect",
            ImportFault::RefusedUnclearly => {
                "the daemon's log has its words; if others work, have the user connect"
            }
        }
    }
}

impl From<NoAdoption> for ImportFault {
    fn from(why: NoAdoption) -> Self {
        match why {
            NoAdoption::NoAccount => ImportFault::NoAccount,
            NoAdoption::TenantNotAllowed => ImportFault::TenantNotAllowed,
            NoAdoption::NotBelieved => ImportFault::AnswerNotBelieved,
        }
    }
}
