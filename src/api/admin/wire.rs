//! The bodies of the admin API, as both of its sides have them: the daemon writes what the commands read, and
//! the other way round. A member that another version does not have is read as its default.
//!
//! Members stand in the order in which they are written.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

pub use crate::broker::session_list::STATES as SESSION_STATES;
use crate::domain::id::{AppName, CallerName};
use crate::jwe::PublicJwk;

/// `GET /admin/v1/status`
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Status {
    /// Every app's client credentials.
    pub apps: Vec<AppCredentials>,
    /// Every secret that ends, the soonest first.
    pub ends_next: Vec<Ending>,
    /// Every job that runs at intervals.
    pub jobs: Vec<Job>,
    /// Null since the start.
    pub last_reload: Option<Reload>,
    /// What an operator should know, by part.
    pub notes: BTreeMap<String, String>,
    /// The daemon's clock.
    pub now: String,
    /// Whether the store answers. None from a daemon that does not say.
    pub store: Option<Store>,
    /// The tenants that block an app.
    pub tenants_blocked: Vec<TenantBlocked>,
    /// The daemon's version.
    pub version: String,
    /// What readiness waits for.
    pub waiting_for: Vec<String>,
    /// Every configured webhook.
    pub webhooks: Vec<Webhook>,
}

/// A configured webhook.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Webhook {
    /// When the first of its last requests failed, all of which did.
    pub failing_since: Option<String>,
    /// How many these are.
    pub failures: u32,
    /// Its name.
    pub name: String,
    /// When the oldest event was written that waits for it.
    pub oldest_waiting_at: Option<String>,
    /// How the last request failed.
    pub problem: Option<String>,
    /// `takes`, `fails`, `gone`, `left_out` or `unknown`.
    pub state: String,
    /// Events that it will never get.
    pub undelivered: u64,
}

/// A secret that ends.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Ending {
    /// When; null where nobody knows.
    pub ends_at: Option<String>,
    /// Which one of its owner's.
    pub id: String,
    /// The app, the caller or the listener.
    pub of: String,
    /// What kind.
    pub what: String,
}

/// A tenant that blocks an app.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct TenantBlocked {
    /// The app.
    pub app: String,
    /// How many connections were refused; at least so many are blocked. 0: the tenant gives the app no token
    /// of its own, and nothing is known of its users.
    pub connections: u64,
    /// Why.
    pub reason: String,
    /// Since when.
    pub since: String,
    /// The tenant; empty where the authority has none.
    pub tenant: String,
}

/// `GET /admin/v1/forecast`
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Forecast {
    /// Where the next page begins; none on the last.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next_cursor: Option<String>,
    /// The daemon's clock.
    pub now: String,
    /// Connections that were read for this page.
    pub read: u64,
    /// What is foreseen, those first that come first.
    pub rows: Vec<ForecastRow>,
    /// How far it looks.
    pub until: String,
}

/// Connections of one app and tenant of which the same is foreseen.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ForecastRow {
    /// Who can do something about it: `user`, `administrator` or `operator`.
    pub acts: String,
    /// The app.
    pub app: String,
    /// `certain`, `likely` or `possible`.
    pub certainty: String,
    /// How many connections; 0 where it is the whole app.
    pub connections: u64,
    /// Which policy, or which credential.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
    /// Some of their names.
    pub examples: Vec<String>,
    /// At the earliest.
    pub from: String,
    /// Why.
    pub reason: String,
    /// The tenant, where there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tenant: Option<String>,
    /// At the latest.
    pub to: String,
}

/// A job and its last run.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Job {
    /// Its name.
    pub job: String,
    /// When its last run ended; null before the first one has.
    pub last_run_at: Option<String>,
    /// `ok` or `failed`.
    pub outcome: Option<String>,
    /// Why it failed.
    pub problem: Option<String>,
}

/// Whether the store answers, and what is known while it does not.
#[derive(Debug, Serialize, Deserialize)]
pub struct Store {
    /// When it last answered.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub answered_at: Option<String>,
    /// Until when tokens in memory are served; none if that ends when they do.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cached_until: Option<String>,
    /// Which store it is: random, given when it was made. A restored backup has the same. None while nobody
    /// knows.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// Whether it answers.
    pub reachable: bool,
}

/// `POST /admin/v1/reload`
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Reload {
    /// What asked for it.
    pub asked_by: String,
    /// When it ended.
    pub at: String,
    /// The sections that differ from before.
    pub changed: Vec<String>,
    /// Apps whose secrets are not sent because their token host changed.
    pub held_back: Vec<String>,
    /// The sections that wait for a restart, such as `listen.admin`; also those that a refused reload left
    /// waiting.
    pub needs_restart: Vec<String>,
    /// Authorities' documents that could not be fetched again.
    pub not_fetched: Vec<String>,
    /// `ok` or `refused`.
    pub outcome: String,
    /// Why it was refused.
    pub problems: Vec<String>,
    /// What a check would warn of.
    pub warnings: Vec<String>,
}

/// What `changed` has where no section differs.
pub const ONLY_FILES: &str = "nothing but the content of files";

/// `POST /admin/v1/console-links`
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct ConsoleLink {
    /// When it ends.
    pub expires_at: String,
    /// Where it opens the console; each is the same link.
    pub urls: Vec<String>,
}

/// The request of `POST /admin/v1/reconnect-links` and `/admin/v1/admin-consent-links`
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LinkWanted {
    /// The connection's app.
    pub app: String,
    /// The connection.
    pub connection: String,
}

/// `POST /admin/v1/reconnect-links`
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct ReconnectLink {
    /// The link for the connection's user.
    pub connect_url: String,
    /// When it ends.
    pub expires_at: String,
}

/// `POST /admin/v1/admin-consent-links`
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct AdminConsentLink {
    /// The link for an administrator of the connection's tenant.
    pub admin_consent_url: String,
    /// Until when the administrator's way back counts.
    pub expires_at: String,
}

/// The request of `POST /admin/v1/imports`. It has a secret, so it cannot be shown.
#[derive(Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Import {
    /// The connection's app.
    pub app: String,
    /// The connection that the grant becomes.
    pub connection: String,
    /// The caller in whose name; the only one that may connect it, if it is left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub caller: Option<String>,
    /// The grant's newest refresh token. A dry run needs none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refresh_token: Option<String>,
    /// The app's id at the authority that the grant is for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_id: Option<String>,
    /// Whose grant it must be: `tid` and `oid`, or `iss` and `sub`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub account: Option<ImportAccount>,
    /// Its scopes; the app's, if they are left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scopes: Option<Vec<String>>,
    /// Labels for the connection.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub labels: Option<Vec<String>>,
    /// Whether it may renew a connection that there is.
    #[serde(default)]
    pub replace: bool,
    /// Only check it, without the grant's use.
    #[serde(default)]
    pub dry_run: bool,
}

/// An account, as an import names one.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ImportAccount {
    /// Entra's tenant id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tid: Option<String>,
    /// Entra's object id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub oid: Option<String>,
    /// The issuer, elsewhere.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub iss: Option<String>,
    /// The subject, elsewhere.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sub: Option<String>,
    /// For people; never compared.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub username: Option<String>,
}

/// `POST /admin/v1/imports`
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Imported {
    /// The account that the authority named; absent from a dry run.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub account: Option<ImportAccount>,
    /// The app.
    pub app: String,
    /// The caller in whose name.
    pub caller: String,
    /// The connection.
    pub connection: String,
    /// `imported`, `replaced` or `already_imported`; of a dry run, what it would be.
    pub outcome: String,
    /// The scopes that the authority granted; absent from a dry run.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scopes_granted: Option<Vec<String>>,
}

/// The request of `POST /admin/v1/exports`
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Export {
    /// The app.
    pub app: String,
    /// The public key that every grant is sealed to.
    pub recipient: PublicJwk,
    /// Where the page begins.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cursor: Option<String>,
    /// Whether each connection is paused first.
    #[serde(default)]
    pub pause: bool,
}

/// `POST /admin/v1/exports`
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Exported {
    /// Each grant, sealed.
    pub grants: Vec<String>,
    /// Connections that have no grant any more, or whose record is damaged: the daemon's log names those.
    pub left_out: u64,
    /// Where the next page begins.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next_cursor: Option<String>,
}

/// `GET /admin/v1/credentials`
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Credentials {
    /// Every app's.
    pub apps: Vec<AppCredentials>,
}

/// An app's client credentials.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct AppCredentials {
    /// The app.
    pub app: String,
    /// Its credentials.
    pub credentials: Vec<ClientCredential>,
}

/// A client credential; never the secret.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct ClientCredential {
    /// When the authority last took it.
    pub accepted_at: Option<String>,
    /// When it ends.
    pub expires_at: Option<String>,
    /// The operator's name for it.
    pub id: String,
    /// Whether it is tried first.
    pub in_use: bool,
    /// What it is.
    pub kind: String,
    /// When a token was last got with it, by any replica that reports.
    pub last_used_at: Option<String>,
    /// When an operator promoted it.
    pub promoted_at: Option<String>,
    /// Only a user's request can prove it: the authority does not let the app ask for a token of its own.
    pub proven_by_use: bool,
    /// Why the authority rejects it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rejection: Option<Rejection>,
    /// What the other replicas say of it; null when that cannot be looked up.
    pub replicas: Option<Vec<CredentialElsewhere>>,
    /// When it came.
    pub since: String,
    /// Its state.
    pub state: String,
    /// When the configuration put another in its place.
    pub superseded_at: Option<String>,
}

/// The authority's rejection of a credential.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Rejection {
    /// How often in a row the authority has taken it since. It counts again after three times.
    pub accepted_since: u32,
    /// When.
    pub at: String,
    /// Why, in words.
    pub cause: String,
    /// Entra's AADSTS numbers.
    pub error_codes: Vec<u32>,
    /// How often in a row.
    pub times: u32,
}

/// A credential as another replica has it.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct CredentialElsewhere {
    /// Whether it is tried first there.
    pub in_use: bool,
    /// When a token was last got with it there.
    pub last_used_at: Option<String>,
    /// The replica.
    pub replica: String,
    /// Its state there; `absent` where the replica has none of that content: its files may not have come yet.
    pub state: String,
}

/// `POST …/credentials/verify` and `…/credentials/{credential}/verify`
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Verified {
    /// Each.
    pub credentials: Vec<VerifiedCredential>,
}

/// What the authority says of a credential.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct VerifiedCredential {
    /// When the authority took it in a user's request.
    pub accepted_at: Option<String>,
    /// False if nothing was asked of the authority: the configuration lacks what the request needs.
    pub asked: bool,
    /// Why it is not taken, or why that is not known.
    pub cause: Option<String>,
    /// The authority's numbers, if it refused.
    pub error_codes: Vec<u32>,
    /// The credential.
    pub id: String,
    /// `accepted`, `accepted_in_use`, `rejected` or `unknown`.
    pub outcome: String,
    /// True if an operator retired it: whatever the outcome, it is not used until it is promoted.
    pub retired: bool,
}

/// `POST …/credentials/{credential}/promote` and `…/retire`
#[derive(Debug, Serialize, Deserialize)]
pub struct CredentialChosen {
    /// The credential.
    pub id: String,
}

/// `POST …/token-host/{host}/confirm`
#[derive(Debug, Serialize, Deserialize)]
pub struct TokenHost {
    /// The host.
    pub host: String,
}

/// `GET /admin/v1/apps`
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Apps {
    /// Their names.
    pub apps: Vec<String>,
}

/// The request of `PATCH …/connections/{connection}`
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pause {
    /// False to resume it.
    pub paused: bool,
}

/// `POST …/connections/{connection}`
#[derive(Debug, Serialize, Deserialize)]
pub struct Refreshing {
    /// Always true.
    pub refreshing: bool,
}

/// `POST /admin/v1/store/adopt`
#[derive(Debug, Serialize, Deserialize)]
pub struct Adopted {
    /// Always true.
    pub adopted: bool,
}

/// The request of `POST /admin/v1/revocations`
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Revocation {
    /// Connections of this app.
    pub app: Option<AppName>,
    /// Connections whose account is in this tenant.
    pub tenant: Option<String>,
    /// Connections that this caller made.
    pub caller: Option<String>,
    /// This handle alone, by its id.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub handle: Option<String>,
    /// Although no such app, tenant or caller is known.
    pub even_if_unknown: bool,
    /// Only say what it would mean.
    pub dry_run: bool,
}

/// `POST /admin/v1/revocations`
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Revoked {
    /// False if there are more than were counted.
    pub complete: Option<bool>,
    /// How many.
    pub connections: Option<u64>,
    /// What began before is revoked. Absent if nothing was, but only counted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub revoked_at: Option<String>,
}

/// `GET /admin/v1/callers/{caller}/policy`
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct PolicyDecision {
    /// Whether the caller may have it.
    pub allowed: bool,
    /// The code that it would be refused with.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub code: Option<String>,
    /// Why it would be refused.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
    /// The rules that decided, by their keys.
    pub rules: Vec<String>,
}

/// Returns the key of a caller's rule in the configuration.
pub fn rule_key(caller: &CallerName, at: usize) -> String {
    format!("callers.{caller}.allow[{at}]")
}

/// `GET /admin/v1/callers/{caller}/keys`
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct ApiKeys {
    /// The caller's keys.
    pub keys: Vec<ApiKey>,
}

/// An API key; never the key, never its hash.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct ApiKey {
    /// When it was made.
    pub created_at: String,
    /// When it ends.
    pub expires_at: String,
    /// Its id.
    pub id: String,
    /// When it was last used; null when not since the daemon started.
    pub last_used_at: Option<String>,
}

/// `GET /admin/v1/keyring`
#[derive(Debug, Serialize, Deserialize)]
pub struct Keyring {
    /// Those of the keyring, and those that records need and it lacks.
    pub keys: Vec<SealingKey>,
    /// Those that report.
    pub replicas: Vec<Replica>,
    /// How far rewrapping is.
    pub rewrap: Rewrap,
}

/// A sealing key; never its content.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct SealingKey {
    /// The key.
    pub id: String,
    /// Null for a key that records need and the keyring lacks.
    pub created_at: Option<String>,
    /// When it was last promoted.
    pub promoted_at: Option<String>,
    /// Whether it seals.
    pub primary: bool,
    /// The records that it sealed; null before the first count since the daemon's start.
    pub records: Option<u64>,
    /// Of those, the ones that expire by themselves.
    pub passing: Option<u64>,
    /// When they were counted.
    pub counted_at: Option<String>,
    /// Since when the count is zero.
    pub none_since: Option<String>,
    /// Whether the count was zero twice, long enough apart, and no API key needs it.
    #[serde(default)]
    pub counted_away: bool,
    /// The replicas that have it.
    pub opened_by: Vec<String>,
    /// The replicas that do not.
    pub not_opened_by: Vec<String>,
}

/// A replica.
#[derive(Debug, Serialize, Deserialize)]
pub struct Replica {
    /// Its id, new with each start.
    pub id: String,
    /// Its machine.
    pub host: String,
    /// Its version.
    #[serde(default)]
    pub version: String,
    /// When it reported.
    #[serde(default)]
    pub reported_at: String,
    /// The key that it seals with.
    pub primary: String,
    /// The keys that it has.
    #[serde(default)]
    pub keys: Vec<String>,
    /// Whether it is the one that answers.
    #[serde(default)]
    pub answers: bool,
}

/// How far rewrapping is.
#[derive(Debug, Serialize, Deserialize)]
pub struct Rewrap {
    /// Records that must still be rewrapped, by the last count.
    pub left: u64,
    /// How often the replica has counted since it started.
    pub counts: u64,
    /// Whether the replica is rewrapping.
    pub running: bool,
    /// Why nothing is rewrapped although it is needed.
    pub waits_for: Option<String>,
    /// Records that the replica's last pass rewrapped.
    pub resealed: u64,
    /// Records that it could not rewrap.
    pub refused: u64,
}

/// `POST /admin/v1/keyring/rewrap`
#[derive(Debug, Serialize, Deserialize)]
pub struct Rewrapping {
    /// Always true.
    pub rewrapping: bool,
}

/// The request of `POST /admin/v1/keyring/promote` and `…/retire`
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SealingKeyNamed {
    /// The key.
    pub key: String,
}

/// `POST /admin/v1/keyring/promote` and `…/retire`
#[derive(Debug, Serialize, Deserialize)]
pub struct SealingKeyVerdict {
    /// The latest time at which waiting alone allows it.
    #[serde(default)]
    pub gone_by: Option<String>,
    /// Whether it is allowed.
    pub may: bool,
    /// Why not.
    pub reasons: Vec<String>,
}
