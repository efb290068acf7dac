//! Reasons for calls to an authority that no request without a token waits for.

/// Reason for a call to an authority.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Cause {
    /// The sweep renews a connection before anybody asks.
    Sweep,
    /// A caller reported that a resource refused the token.
    Report,
    /// A caller passed on a resource's claims challenge.
    Challenge,
    /// A caller asked for more life than its token has left, long before that token is due.
    MinTtl,
    /// A browser came back from an administrator's consent.
    Consent,
    /// A browser came back from a sign-in with a code.
    SignIn,
    /// An operator imports a grant that another system held.
    Import,
}

impl Cause {
    /// All causes.
    pub const ALL: [Cause; 7] = [
        Cause::Sweep,
        Cause::Report,
        Cause::Challenge,
        Cause::MinTtl,
        Cause::Consent,
        Cause::SignIn,
        Cause::Import,
    ];

    /// The label value in metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Cause::Sweep => "sweep",
            Cause::Report => "report",
            Cause::Challenge => "challenge",
            Cause::MinTtl => "min_ttl",
            Cause::Consent => "consent",
            Cause::SignIn => "sign_in",
            Cause::Import => "import",
        }
    }
}
