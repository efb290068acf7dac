//! Settings that change the emulator's behaviour as a whole.

use serde::{Deserialize, Serialize};

/// What happens to a refresh token once it has been used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// As Entra does it: used refresh tokens stay valid until they lie idle for 90 days.
    #[default]
    Entra,
    /// As strict authorities do it: reuse of a used refresh token kills its whole family.
    Strict,
}

/// How the `scope` of a token answer is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ScopeStyle {
    /// As the request wrote them, which is what SDKs find in their caches again.
    #[default]
    AsAsked,
    /// `https://graph.microsoft.com/Mail.Read`
    Full,
    /// `Mail.Read`
    Short,
}

/// Who may consent to an app's scopes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ConsentPolicy {
    /// Users consent to anything themselves.
    #[default]
    UserAllowed,
    /// Microsoft's managed default: users may not consent to reading mail, calendars and the like.
    MicrosoftManaged,
    /// Users consent to nothing beyond the identity scopes.
    AdminRequired,
}

/// The reaction to a request that needs an administrator (AADSTS90094).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AdminApproval {
    /// A "Need admin approval" page; the app never hears of it.
    #[default]
    Page,
    /// A redirect to the app with `error=access_denied`.
    Redirect,
}

/// Everything that can be switched while the emulator runs. Over HTTP: `GET` and `PATCH /_emulator/settings`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// What becomes of used refresh tokens.
    pub mode: Mode,
    /// Sign users in at once, without pages. Off: a sign-in page and a consent page.
    pub automatic: bool,
    /// Whether automatic mode pretends that the user has a session; without one `prompt=none` is refused.
    pub signed_in: bool,
    /// The user that automatic mode signs in without a `login_hint`; by default the first user.
    pub sign_in_as: Option<String>,
    /// A fixed access token life; by default a random one between 60 and 90 minutes.
    pub token_lifetime_seconds: Option<u64>,
    /// Write `expires_in` and its siblings as strings.
    pub expires_in_as_string: bool,
    /// How granted scopes are written.
    pub scope_style: ScopeStyle,
    /// Write URLs (issuer, endpoints) with the loopback address and port that the request was sent to, for
    /// clients that come through proxies of their own.
    pub follow_host: bool,
    /// Change the order and the letter case of granted scopes from answer to answer.
    pub vary_scopes: bool,
    /// Refuse a client assertion whose `jti` was seen before.
    pub strict_jti: bool,
    /// The consent policy of tenants that have none of their own.
    pub consent_policy: ConsentPolicy,
    /// What a user meets whose request needs an administrator.
    pub admin_approval: AdminApproval,
    /// In automatic mode, the administrator presses Cancel on the admin consent page.
    pub admin_declines: bool,
    /// An app gets tokens of its own only in tenants whose administrator consented to it (AADSTS7000229
    /// elsewhere). Off: in every tenant.
    pub app_only_needs_consent: bool,
    /// How many requests of one app Graph takes at one mailbox at a time. One more is answered at once, with
    /// 429 and no `Retry-After`. `None`: any number.
    pub mailbox_concurrency: Option<usize>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            mode: Mode::Entra,
            automatic: true,
            signed_in: true,
            sign_in_as: None,
            token_lifetime_seconds: None,
            expires_in_as_string: false,
            scope_style: ScopeStyle::AsAsked,
            follow_host: false,
            vary_scopes: false,
            strict_jti: false,
            consent_policy: ConsentPolicy::UserAllowed,
            admin_approval: AdminApproval::Page,
            admin_declines: false,
            app_only_needs_consent: false,
            mailbox_concurrency: None,
        }
    }
}
