//! What a call to an authority is for, where nobody waits for it who has no token.

/// What a call to an authority is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Cause {
    /// A connection is renewed before anybody asks.
    Sweep,
    /// A caller said that a resource refused the token.
    Report,
    /// A caller passed a resource's challenge on.
    Challenge,
    /// A caller asked for more life than its token has, long before that token is due.
    MinTtl,
    /// Somebody came back from an administrator's consent.
    Consent,
    /// Somebody came back from a sign-in with a code.
    SignIn,
}

impl Cause {
    /// All of them.
    pub const ALL: [Cause; 6] =
        [Cause::Sweep, Cause::Report, Cause::Challenge, Cause::MinTtl, Cause::Consent, Cause::SignIn];

    /// The word for it in metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Cause::Sweep => "sweep",
            Cause::Report => "report",
            Cause::Challenge => "challenge",
            Cause::MinTtl => "min_ttl",
            Cause::Consent => "consent",
            Cause::SignIn => "sign_in",
        }
    }
}
