//! Why a caller's JWT is refused, each reason with its name in log, audit and metrics.

use crate::jwt::JwtFault;

macro_rules! refusals {
    ($($(#[$doc:meta])* $variant:ident => $word:literal),+ $(,)?) => {
        /// The rule that a caller's JWT breaks. Outside they all look the same.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum JwtRefusal { $($(#[$doc])* $variant),+ }

        impl JwtRefusal {
            /// All of them.
            pub const ALL: &'static [JwtRefusal] = &[$(JwtRefusal::$variant),+];

            /// Its name in log and audit, and, with `credential_` in front, in metrics.
            pub fn as_str(self) -> &'static str {
                &self.credential()["credential_".len()..]
            }

            /// Its name in metrics.
            pub fn credential(self) -> &'static str {
                match self { $(JwtRefusal::$variant => concat!("credential_jwt_", $word)),+ }
            }
        }
    };
}

refusals! {
    /// It is longer than any caller's token.
    TooLong => "too_long",
    /// It is not three parts of unpadded base64url with JSON objects in the first two.
    Malformed => "malformed",
    /// It has five parts: it is encrypted.
    Encrypted => "encrypted",
    /// `typ` is that of another kind of token.
    WrongType => "wrong_type",
    /// `alg` is not allowed; `none` and the symmetric ones never are.
    Algorithm => "algorithm",
    /// `crit` is present.
    Critical => "critical",
    /// No issuer is configured under its `iss`.
    Issuer => "issuer",
    /// The issuer's keys were never fetched yet.
    NoKeys => "no_keys",
    /// There is no `kid`, and the issuer has more than one key.
    NoKeyId => "no_key_id",
    /// The issuer has no key of this id.
    UnknownKey => "unknown_key",
    /// The signature is wrong.
    Signature => "signature",
    /// A claim has a wrong JSON type or is out of range.
    ClaimType => "claim_type",
    /// A required claim is missing.
    ClaimMissing => "claim_missing",
    /// `aud` does not name us.
    Audience => "audience",
    /// `aud` names one of our apps too: it is a user's token or an app's own, and no caller's credential.
    OwnApp => "own_app",
    /// `exp` is in the past.
    Expired => "expired",
    /// `nbf` is in the future.
    NotYetValid => "not_yet_valid",
    /// `iat` is in the future.
    IssuedInFuture => "issued_in_future",
    /// It is valid for longer than `max_ttl`.
    Life => "life",
    /// A client's assertion was issued too long ago to be for this request.
    Stale => "stale",
    /// The form's `client_id` is not the client that an assertion is of.
    ClientId => "client_id",
    /// A client's assertion was used before.
    Replayed => "replayed",
    /// No caller has this subject or these claims.
    NoCaller => "no_caller",
    /// More than one caller has them.
    SeveralCallers => "several_callers",
}

impl From<JwtFault> for JwtRefusal {
    fn from(fault: JwtFault) -> Self {
        match fault {
            JwtFault::Malformed => JwtRefusal::Malformed,
            JwtFault::Encrypted => JwtRefusal::Encrypted,
            JwtFault::WrongType => JwtRefusal::WrongType,
            JwtFault::Algorithm => JwtRefusal::Algorithm,
            JwtFault::Critical => JwtRefusal::Critical,
            JwtFault::NoKeyId => JwtRefusal::NoKeyId,
            JwtFault::UnknownKey => JwtRefusal::UnknownKey,
            JwtFault::Signature => JwtRefusal::Signature,
            JwtFault::ClaimType => JwtRefusal::ClaimType,
            JwtFault::ClaimMissing => JwtRefusal::ClaimMissing,
            JwtFault::Expired => JwtRefusal::Expired,
            JwtFault::NotYetValid => JwtRefusal::NotYetValid,
            JwtFault::IssuedInFuture => JwtRefusal::IssuedInFuture,
        }
    }
}
