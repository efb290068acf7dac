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
    /// Somebody came back from an administrator's consent.
    Consent,
    /// Somebody came back from a sign-in with a code.
    SignIn,
}

impl Cause {
    /// All of them.
    pub const ALL: [Cause; 5] =
        [Cause::Sweep, Cause::Report, Cause::Challenge, Cause::Consent, Cause::SignIn];

    /// The word for it in metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Cause::Sweep => "sweep",
            Cause::Report => "report",
            Cause::Challenge => "challenge",
            Cause::Consent => "consent",
            Cause::SignIn => "sign_in",
        }
    }
}
