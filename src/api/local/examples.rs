//! Examples for the document of the local API.

use crate::api::doc::Example;
pub(super) use crate::api::examples::{CONNECTION, CONNECTION_PAGE, EXPLANATION};

pub(super) const TOKEN: &[Example] = &[
    (
        "fresh",
        "",
        r#"
{"access_token": "eyJ0eXAiOiJKV1QiLCJub25jZSI6…", "token_type": "Bearer", "expires_in": 4123,
"expires_at": "2026-11-23T10:21:23Z", "scope": "openid profile Mail.Read", "connection": "user-4711",
"account": {"tid": "34e60b8e-a5b5-43c9-a67e-a85b7dd8768b",
"oid": "503c2116-3318-4ef4-9137-98e7501a0886", "username": "alice@contoso.com"}, "status": "active"}"#,
    ),
    (
        "beside_a_verdict",
        "The user must act soon; this token still lives",
        r#"
{"access_token": "eyJ0eXAiOiJKV1QiLCJub25jZSI6…", "token_type": "Bearer", "expires_in": 1402,
"expires_at": "2026-11-23T10:21:23Z", "scope": "openid profile Mail.Read", "connection": "user-4711",
"account": {"tid": "34e60b8e-a5b5-43c9-a67e-a85b7dd8768b",
"oid": "503c2116-3318-4ef4-9137-98e7501a0886", "username": "alice@contoso.com"},
"status": "needs_reauthorization", "reason": "grant_revoked"}"#,
    ),
];

pub(super) const APP_TOKEN: &str = r#"
{"access_token": "eyJ0eXAiOiJKV1QiLCJub25jZSI6…", "token_type": "Bearer", "expires_in": 3540,
"expires_at": "2026-11-23T10:21:23Z", "app": "outlook",
"tenant": "34e60b8e-a5b5-43c9-a67e-a85b7dd8768b", "resource": "https://graph.microsoft.com"}"#;

pub(super) const TOKEN_REQUEST: &[Example] = &[
    (
        "refused",
        "",
        r#"
{"rejected": "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"}"#,
    ),
    (
        "challenged",
        "",
        r#"
{"rejected": "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
"claims": "eyJhY2Nlc3NfdG9rZW4iOnsibmJmIjp7ImVzc2VudGlhbCI6dHJ1ZSwidmFsdWUiOiIxNzYzODg0ODAwIn19fQ=="}"#,
    ),
];

pub(super) const NEW_HANDLE: &str = r#"
{"ttl": 3600, "relay": ["GET graph:/v1.0/me/messages*"], "note": "nightly export of invoices"}"#;

pub(super) const HANDLE: &str = r#"
{"handle": "twh_0PmK2xWb7LqYdR4cTn1q3Vn2_AQEEazEtMQ…_2mZk0Q", "id": "0PmK2xWb7LqYdR4cTn1q3Vn2",
"expires_at": "2026-11-23T10:21:23Z"}"#;

pub(super) const NEW_CONNECT_SESSION: &[Example] = &[
    (
        "new",
        "",
        r#"
{"app": "outlook", "connection": "user-4711", "login_hint": "alice@contoso.com",
"return_url": "https://app.contoso.com/settings/outlook"}"#,
    ),
    (
        "pinned",
        "",
        r#"
{"app": "outlook", "connection": "user-4711", "account": {"tid": "34e60b8e-a5b5-43c9-a67e-a85b7dd8768b",
"oid": "503c2116-3318-4ef4-9137-98e7501a0886"}}"#,
    ),
];

pub(super) const CONNECT_SESSION: &str = r#"
{"id": "uF7JDWaWqH22wfeFmBBd8nvrieS58f3djZ9JiJNl1DI",
"connect_url": "https://tokens.contoso.com/connect/uF7JDWaWqH22wfeFmBBd8nvrieS58f3djZ9JiJNl1DI",
"expires_at": "2026-11-23T10:00:00Z"}"#;

pub(super) const CONNECT_SESSION_STATE: &[Example] = &[
    ("pending", "", r#"{"state": "pending"}"#),
    (
        "awaiting_confirmation",
        "",
        r#"
{"state": "awaiting_confirmation", "account": {"tid": "34e60b8e-a5b5-43c9-a67e-a85b7dd8768b",
"oid": "503c2116-3318-4ef4-9137-98e7501a0886", "username": "alice@contoso.com"}}"#,
    ),
    (
        "failed",
        "",
        r#"
{"state": "failed", "reason": "account_mismatch",
"hint": "have the user sign in with the account that the session is for"}"#,
    ),
    (
        "failed_at_the_authority",
        "",
        r#"
{"state": "failed", "reason": "authority_error",
"hint": "the operator must mend the app's registration or its configuration; trying again changes nothing",
"error": "invalid_request", "error_codes": [9002327],
"correlation_id": "1f6d7f0c-5c32-4d7e-8a6b-2b8f6f1f2d11"}"#,
    ),
];

pub(super) const CONFIRMATION: &[Example] = &[
    ("code", "", r#"{"code": "Zk3vJ2m0tq5b8n1wQd9xR7yLcU4sHfEoGiTaPzVbNMw"}"#),
    (
        "account",
        "",
        r#"
{"account": {"tid": "34e60b8e-a5b5-43c9-a67e-a85b7dd8768b",
"oid": "503c2116-3318-4ef4-9137-98e7501a0886"}}"#,
    ),
];

pub(super) const CONFIRMED: &str = r#"
{"state": "connected", "account": {"tid": "34e60b8e-a5b5-43c9-a67e-a85b7dd8768b",
"oid": "503c2116-3318-4ef4-9137-98e7501a0886", "username": "alice@contoso.com"}}"#;

pub(super) const NEW_ADMIN_CONSENT_SESSION: &[Example] =
    &[("a_tenant", "", r#"{"app": "outlook", "tenant": "fabrikam.com"}"#)];

pub(super) const ADMIN_CONSENT_SESSION: &str = r#"
{"id": "uF7JDWaWqH22wfeFmBBd8nvrieS58f3djZ9JiJNl1DI",
"admin_consent_url": "https://login.microsoftonline.com/fabrikam.com/v2.0/adminconsent?client_id=…",
"expires_at": "2026-11-23T10:00:00Z"}"#;

pub(super) const ADMIN_CONSENT_STATE: &[Example] = &[
    (
        "reported",
        "",
        r#"
{"state": "reported", "tenant": "34e60b8e-a5b5-43c9-a67e-a85b7dd8768b"}"#,
    ),
    (
        "consented",
        "",
        r#"
{"state": "consented", "tenant": "34e60b8e-a5b5-43c9-a67e-a85b7dd8768b"}"#,
    ),
];

pub(super) const MANAGED_IDENTITY_TOKEN: &str = r#"
{"access_token": "eyJ0eXAiOiJKV1QiLCJub25jZSI6…", "expires_on": "1795432883",
"resource": "https://graph.microsoft.com", "token_type": "Bearer", "client_id": "outlook:user-4711"}"#;

pub(super) const TOKEN_EXCHANGE: &str = r#"
{"grant_type": "urn:ietf:params:oauth:grant-type:token-exchange", "subject_token": "outlook:user-4711",
"subject_token_type": "urn:tokenward:params:oauth:token-type:connection", "scope": "Mail.Read"}"#;

pub(super) const EXCHANGED_TOKEN: &str = r#"
{"access_token": "eyJ0eXAiOiJKV1QiLCJub25jZSI6…",
"issued_token_type": "urn:ietf:params:oauth:token-type:access_token", "token_type": "Bearer",
"expires_in": 4123, "scope": "openid profile Mail.Read"}"#;

pub(super) const TOKEN_ENDPOINT_METADATA: &str = r#"
{"issuer": "http://127.0.0.1:7070", "token_endpoint": "http://127.0.0.1:7070/oauth2/token",
"token_endpoint_auth_methods_supported": ["client_secret_basic", "client_secret_post", "private_key_jwt"],
"token_endpoint_auth_signing_alg_values_supported": ["RS256", "RS384", "RS512", "PS256", "PS384", "PS512",
"ES256", "ES384", "EdDSA"],
"grant_types_supported": ["urn:ietf:params:oauth:grant-type:token-exchange", "client_credentials"],
"response_types_supported": ["none"]}"#;

pub(super) const VAULT_CREDS: &str = r#"
{"request_id": "5f3a0c1e9b7d4f60a1b2c3d4e5f60718", "lease_id": "", "renewable": false, "lease_duration": 0,
"data": {"access_token": "eyJ0eXAiOiJKV1QiLCJub25jZSI6…", "type": "Bearer", "server": "outlook",
"expire_time": "2026-11-23T10:21:23Z"}, "wrap_info": null, "warnings": null, "auth": null}"#;
