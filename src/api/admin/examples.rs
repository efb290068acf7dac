//! Examples for the document of the admin API.

use crate::api::doc::Example;
pub(super) use crate::api::examples::{CONNECTION, CONNECTION_PAGE};

pub(super) const EXPLANATION: &str = r#"
{"app": "outlook", "connection": "user-4711", "status": "active",
"account": {"tid": "34e60b8e-a5b5-43c9-a67e-a85b7dd8768b",
"oid": "503c2116-3318-4ef4-9137-98e7501a0886", "username": "alice@contoso.com"},
"scopes_requested": ["offline_access", "openid", "profile", "Mail.Read"], "scopes_granted": ["openid",
"profile", "Mail.Read"], "scopes_missing": [], "established_by": "webshop",
"created_at": "2026-11-23T08:00:00Z", "connected_at": "2026-11-23T08:00:00Z",
"last_refreshed_at": "2026-11-23T09:12:40Z", "next_refresh_at": "2026-11-23T10:20:11Z",
"served_until": "2026-11-23T10:28:03Z", "cached_until": "2026-11-23T10:26:23Z",
"attempts": [{"at": "2026-11-23T09:12:40Z", "action": "refresh",
"outcome": "ok", "conclusion": "the grant works", "error_codes": []}],
"hand_outs": [{"caller": "webshop", "last_at": "2026-11-23T10:02:19Z"}],
"advice": "The connection works. Nothing to do."}"#;

pub(super) const STATUS: &str = r#"
{"version": "0.2.0", "now": "2026-11-23T10:21:23Z", "waiting_for": [], "notes": {"store eviction":
"Redis is set to evict"}, "last_reload": {"outcome": "ok", "at": "2026-11-23T09:00:00Z",
"asked_by": "a file changed", "changed": ["callers"], "problems": [], "not_fetched": [],
"needs_restart": [], "held_back": [], "warnings": []}, "store": {"reachable": true},
"jobs": [{"job": "keyring",
"last_run_at": "2026-11-23T10:21:20Z", "outcome": "ok", "problem": null}, {"job": "files",
"last_run_at": null, "outcome": null, "problem": null}], "ends_next": [{"what": "client secret",
"of": "outlook", "id": "2026-11", "ends_at": "2027-05-01T00:00:00Z"}], "apps": [{"app": "outlook",
"credentials": [{"id": "2026-11", "kind": "secret", "state": "in_use", "in_use": true,
"since": "2026-11-20T08:00:00Z", "expires_at": "2027-05-01T00:00:00Z",
"accepted_at": "2026-11-23T10:20:11Z", "last_used_at": "2026-11-23T10:20:11Z", "superseded_at": null,
"promoted_at": null, "proven_by_use": false, "replicas": []}]}], "tenants_blocked": [{"app": "outlook",
"tenant": "34e60b8e-a5b5-43c9-a67e-a85b7dd8768b", "reason": "policy_blocked",
"since": "2026-11-23T09:47:12Z", "connections": 412}], "webhooks": [{"name": "product", "state": "fails",
"failing_since": "2026-11-23T10:02:19Z", "failures": 8, "problem": "it answered 503",
"oldest_waiting_at": "2026-11-23T10:02:18Z", "undelivered": 0}]}"#;

pub(super) const FORECAST: &str = r#"
{"now": "2026-11-23T10:21:23Z", "until": "2026-11-30T10:21:23Z", "read": 1300, "rows": [{"app": "outlook",
"tenant": "34e60b8e-a5b5-43c9-a67e-a85b7dd8768b", "reason": "sign_in_frequency", "acts": "user",
"certainty": "likely", "from": "2026-11-24T06:10:02Z", "to": "2026-11-27T16:44:51Z", "connections": 118,
"examples": ["user-4711", "user-4712", "user-5020"]}, {"app": "outlook", "reason": "credential_ends",
"acts": "operator", "certainty": "certain", "from": "2026-11-29T00:00:00Z", "to": "2026-11-29T00:00:00Z",
"connections": 0, "examples": [], "detail": "2026-05"}], "next_cursor": "outlook.dXNlci00NzEx"}"#;

pub(super) const RELOAD: &[Example] = &[
    (
        "taken_up",
        "",
        r#"
{"outcome": "ok", "at": "2026-11-23T10:21:23Z", "asked_by": "an operator", "changed": ["callers"],
"problems": [], "needs_restart": ["listen.admin"], "not_fetched": [], "held_back": [],
"warnings": []}"#,
    ),
    (
        "refused",
        "The configuration before stays in force",
        r#"
{"outcome": "refused", "at": "2026-11-23T10:21:23Z", "asked_by": "an operator", "changed": [],
"problems": ["/etc/tokenward/tokenward.toml:12:1: apps.outlook: no client_id"], "not_fetched": [],
"needs_restart": [], "held_back": [], "warnings": []}"#,
    ),
];

pub(super) const CONSOLE_LINK: &str = r#"
{"expires_at": "2026-11-23T10:22:23Z",
"urls": ["http://127.0.0.1:7071/console/enter/8Yk0b1m3Qm2u5s9xw7Jt4oDqfS6cVvA1hXzNnR0LgEI"]}"#;

pub(super) const IMPORT: &[Example] = &[
    (
        "a_grant",
        "",
        r#"
{"app": "outlook", "connection": "user-4711", "caller": "webshop", "refresh_token": "1.AXkA…",
"account": {"tid": "34e60b8e-a5b5-43c9-a67e-a85b7dd8768b", "oid": "503c2116-3318-4ef4-9137-98e7501a0886"},
"replace": false, "dry_run": false}"#,
    ),
    (
        "what_would_be_done",
        "",
        r#"
{"app": "outlook", "connection": "user-4711", "replace": true, "dry_run": true}"#,
    ),
];

pub(super) const IMPORTED: &[Example] = &[
    (
        "imported",
        "",
        r#"
{"account": {"tid": "34e60b8e-a5b5-43c9-a67e-a85b7dd8768b", "oid": "503c2116-3318-4ef4-9137-98e7501a0886",
"username": "alice@contoso.com"}, "app": "outlook", "caller": "webshop", "connection": "user-4711",
"outcome": "imported", "scopes_granted": ["openid", "profile", "Mail.Read"]}"#,
    ),
    (
        "nothing_speaks_against_it",
        "",
        r#"
{"app": "outlook", "caller": "webshop", "connection": "user-4711", "outcome": "replaced"}"#,
    ),
];

pub(super) const EXPORT: &str = r#"
{"app": "outlook", "recipient": {"kty": "OKP", "crv": "X25519",
"x": "hSDwCYkwp1R0i33ctD73Wg2_Og0mOBr066SpjqqbTmo"}, "pause": true}"#;

pub(super) const EXPORTED: &str = r#"
{"grants": ["eyJhbGciOiJFQ0RILUVTIiwiZW5jIjoiQTI1NkdDTSIs…..kq2v….Zm9v….3d9c…"], "left_out": 0,
"next_cursor": "AQEMMjAyNi0xMS0yMy…"}"#;

pub(super) const LINK_WANTED: &str = r#"{"app": "outlook", "connection": "user-4711"}"#;

pub(super) const RECONNECT_LINK: &str = r#"
{"connect_url": "https://tokens.contoso.com/connect/6Dk0b1m3Qm2u5s9xw7Jt4oDqfS6cVvA1hXzNnR0LgEI",
"expires_at": "2026-11-23T11:21:23Z"}"#;

pub(super) const ADMIN_CONSENT_LINK: &str = r#"
{"admin_consent_url":
"https://login.microsoftonline.com/34e60b8e-a5b5-43c9-a67e-a85b7dd8768b/v2.0/adminconsent?client_id=…",
"expires_at": "2026-11-23T11:21:23Z"}"#;

pub(super) const ADOPTED: &str = r#"{"adopted": true}"#;

pub(super) const REVOCATION: &[Example] = &[
    (
        "tenant",
        "",
        r#"
{"app": "outlook", "tenant": "34e60b8e-a5b5-43c9-a67e-a85b7dd8768b"}"#,
    ),
    ("what_it_would_mean", "", r#"{"caller": "mail-sync", "dry_run": true}"#),
    ("handle", "", r#"{"handle": "0PmK2xWb7LqYdR4cTn1q3Vn2"}"#),
];

pub(super) const REVOKED: &[Example] = &[
    (
        "revoked",
        "",
        r#"
{"revoked_at": "2026-11-23T10:21:23Z", "connections": 41, "complete": true}"#,
    ),
    ("what_it_would_mean", "", r#"{"connections": 100000, "complete": false}"#),
];

pub(super) const APPS: &str = r#"{"apps": ["calendar", "outlook"]}"#;

pub(super) const SESSION_PAGE: &str = r#"
{"sessions": [{"session": "3b1f0c9a55d2e871", "app": "outlook", "connection": "user-4711",
"caller": "webshop", "started_at": "2026-11-23T10:20:23Z", "expires_at": "2026-11-23T11:20:23Z",
"request_id": "9f86d081884c7d659a2feaa0c55ad015", "state": "failed", "reason": "access_denied",
"hint": "an administrator of the user's organisation must allow it; error_codes say what stands in the way",
"error": "invalid_grant", "error_codes": [53003], "trace_id": "0a8b3c31-88ba-43d7-a8f5-2b83f0b20800",
"correlation_id": "3b9f9a3a-1f0e-4a74-b2a5-2f5f4d8f7f11"}], "next_cursor": "dXNlci00NzEx"}"#;

pub(super) const PAUSE: &str = r#"{"paused": true}"#;

pub(super) const REFRESHING: &str = r#"{"refreshing": true}"#;

pub(super) const CREDENTIALS: &str = r#"
{"apps": [{"app": "outlook", "credentials": [{"id": "2026-11", "kind": "secret", "state": "in_use",
"in_use": true, "since": "2026-11-20T08:00:00Z", "expires_at": "2027-05-01T00:00:00Z",
"accepted_at": "2026-11-23T10:20:11Z", "last_used_at": "2026-11-23T10:20:11Z", "superseded_at": null,
"promoted_at": null, "proven_by_use": false, "replicas": [{"replica": "host-b (5f0c2a)",
"state": "in_use", "in_use": true, "last_used_at": "2026-11-23T10:19:54Z"}]}, {"id": "2026-05",
"kind": "secret", "state": "rejected", "in_use": false, "since": "2026-11-23T10:20:11Z",
"expires_at": null, "accepted_at": null, "last_used_at": null, "rejection": {"at": "2026-11-23T10:20:11Z",
"error_codes": [7000222], "cause": "the secret has expired", "times": 1, "accepted_since": 0},
"superseded_at": null,
"promoted_at": null, "proven_by_use": false, "replicas": null}]}]}"#;

pub(super) const VERIFIED: &[Example] = &[
    (
        "accepted",
        "",
        r#"
{"credentials": [{"id": "2026-11", "outcome": "accepted", "asked": true, "retired": false,
"accepted_at": null, "cause": null, "error_codes": []}]}"#,
    ),
    (
        "accepted_in_use",
        "Asking proves nothing, and the authority took it in a user's request lately",
        r#"
{"credentials": [{"id": "2026-11", "outcome": "accepted_in_use", "asked": true, "retired": false,
"accepted_at": "2026-11-23T10:20:11Z", "cause": null, "error_codes": [700016]}]}"#,
    ),
    (
        "rejected",
        "",
        r#"
{"credentials": [{"id": "2026-11", "outcome": "rejected", "asked": true, "retired": false,
"accepted_at": null,
"cause": "the app's credential was rejected AADSTS7000222", "error_codes": [7000222]}]}"#,
    ),
];

pub(super) const CREDENTIAL_CHOSEN: &str = r#"{"id": "2026-11"}"#;

pub(super) const TOKEN_HOST: &str = r#"{"host": "login.microsoftonline.com"}"#;

pub(super) const KEYRING: &str = r#"
{"keys": [{"id": "2026-11-23-d1166f", "created_at": "2026-11-23T08:00:00Z",
"promoted_at": "2026-11-23T08:10:00Z", "primary": true, "records": 41, "passing": 2,
"counted_at": "2026-11-23T10:20:00Z", "none_since": null, "counted_away": false,
"opened_by": ["host-a (1c9e77)"], "not_opened_by": []}], "replicas": [{"id": "1c9e77", "host": "host-a",
"version": "0.2.0", "reported_at": "2026-11-23T10:21:20Z", "primary": "2026-11-23-d1166f",
"keys": ["2026-11-23-d1166f"], "answers": true}], "rewrap": {"left": 0, "counts": 12, "running": false,
"waits_for": null, "resealed": 0, "refused": 0}}"#;

pub(super) const REWRAPPING: &str = r#"{"rewrapping": true}"#;

pub(super) const SEALING_KEY_NAMED: &str = r#"{"key": "2026-11-23-d1166f"}"#;

pub(super) const SEALING_KEY_VERDICT: &[Example] = &[
    ("it_may", "", r#"{"may": true, "reasons": [], "gone_by": null}"#),
    (
        "not_yet",
        "Only time is needed",
        r#"
{"may": false, "reasons": ["2 records that go by themselves are sealed with it"],
"gone_by": "2026-11-23T12:31:00Z"}"#,
    ),
];

pub(super) const POLICY_DECISION: &[Example] = &[
    ("yes", "", r#"{"allowed": true, "rules": ["callers.mail-sync.allow[0]"]}"#),
    (
        "no",
        "",
        r#"
{"allowed": false, "code": "caller_forbidden", "detail": "no rule of this caller gives Mail.Send",
"rules": ["callers.mail-sync.allow[0]"]}"#,
    ),
];

pub(super) const API_KEYS: &str = r#"
{"keys": [{"id": "k7f2", "created_at": "2026-11-01T08:00:00Z", "expires_at": "2027-11-01T08:00:00Z",
"last_used_at": "2026-11-23T10:21:20Z"}]}"#;
