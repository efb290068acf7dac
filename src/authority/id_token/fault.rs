//! The rules that an `id_token` can break, each with its name in metrics and logs.

use crate::jwt::JwtFault;

macro_rules! faults {
    ($($(#[$doc:meta])* $variant:ident => $word:literal),+ $(,)?) => {
        /// The rule that an `id_token` breaks.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum IdTokenFault { $($(#[$doc])* $variant),+ }

        impl IdTokenFault {
            /// All faults, for a metric's labels.
            pub const ALL: &'static [IdTokenFault] = &[$(IdTokenFault::$variant),+];

            /// Its name in metrics and logs.
            pub fn as_str(self) -> &'static str {
                match self { $(IdTokenFault::$variant => $word),+ }
            }
        }
    };
}

faults! {
    /// A redemption has no `id_token`.
    Missing => "missing",
    /// The token is not three parts of unpadded base64url with JSON objects in the first two.
    Malformed => "malformed",
    /// It has five parts: it is encrypted, which we did not ask for.
    Encrypted => "encrypted",
    /// `typ` is present and not `JWT`.
    WrongType => "wrong_type",
    /// `alg` is not allowed for this authority; `none` and the symmetric ones never are.
    Algorithm => "algorithm",
    /// `crit` is present: we support no extension (RFC 7515 §4.1.11).
    Critical => "critical",
    /// There is no `kid` to find a key by, and more than one key.
    NoKeyId => "no_key_id",
    /// No key has this id, even after a fetch.
    UnknownKey => "unknown_key",
    /// The key may not sign for this issuer, or belongs to another cloud.
    KeyIssuer => "key_issuer",
    /// The signature is wrong.
    Signature => "signature",
    /// A claim has a wrong JSON type or is out of range.
    ClaimType => "claim_type",
    /// A required claim is missing.
    ClaimMissing => "claim_missing",
    /// `iss` is not this authority's.
    Issuer => "issuer",
    /// `aud` is not our client id.
    Audience => "audience",
    /// `aud` names others besides us.
    ExtraAudience => "extra_audience",
    /// `azp` is present and not our client id.
    AuthorizedParty => "authorized_party",
    /// `exp` is in the past.
    Expired => "expired",
    /// `nbf` is in the future.
    NotYetValid => "not_yet_valid",
    /// `iat` is in the future.
    IssuedInFuture => "issued_in_future",
    /// `nonce` is not this flow's.
    Nonce => "nonce",
    /// `at_hash` is present and does not match the access token.
    AccessTokenHash => "access_token_hash",
    /// Entra: `ver` is not 2.0.
    Version => "version",
    /// Entra: `tid` is not a GUID, or not the one in `iss`.
    TenantId => "tenant_id",
    /// Entra: users of the tenant may not be connected.
    TenantNotAllowed => "tenant_not_allowed",
    /// Entra: `oid` is not a GUID.
    ObjectId => "object_id",
    /// A user's token that a caller presents is of another kind than it says, or an app's own.
    AnotherKind => "another_kind",
    /// `act` or `may_act` is not an object that names who acts (RFC 8693 §4.1, §4.4), or is nested too deep.
    Actor => "actor",
}

impl IdTokenFault {
    /// Returns true if the cause may be our clock, or our lack of keys or of an algorithm, and not the token.
    pub(super) fn may_be_ours(self) -> bool {
        use IdTokenFault::{Algorithm, Expired, IssuedInFuture, NoKeyId, NotYetValid, UnknownKey};
        matches!(self, UnknownKey | NoKeyId | Algorithm | Expired | NotYetValid | IssuedInFuture)
    }
}

impl std::fmt::Display for IdTokenFault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

impl From<JwtFault> for IdTokenFault {
    fn from(fault: JwtFault) -> Self {
        match fault {
            JwtFault::Malformed => IdTokenFault::Malformed,
            JwtFault::Encrypted => IdTokenFault::Encrypted,
            JwtFault::WrongType => IdTokenFault::WrongType,
            JwtFault::Algorithm => IdTokenFault::Algorithm,
            JwtFault::Critical => IdTokenFault::Critical,
            JwtFault::NoKeyId => IdTokenFault::NoKeyId,
            JwtFault::UnknownKey => IdTokenFault::UnknownKey,
            JwtFault::Signature => IdTokenFault::Signature,
            JwtFault::ClaimType => IdTokenFault::ClaimType,
            JwtFault::ClaimMissing => IdTokenFault::ClaimMissing,
            JwtFault::Expired => IdTokenFault::Expired,
            JwtFault::NotYetValid => IdTokenFault::NotYetValid,
            JwtFault::IssuedInFuture => IdTokenFault::IssuedInFuture,
        }
    }
}
