//! Examples that the documents of both APIs have.

pub(super) const CONNECTION: &str = r#"
{"app": "outlook", "connection": "user-4711", "status": "active",
"account": {"tid": "34e60b8e-a5b5-43c9-a67e-a85b7dd8768b",
"oid": "503c2116-3318-4ef4-9137-98e7501a0886", "username": "alice@contoso.com"},
"scopes_requested": ["offline_access", "openid", "profile", "Mail.Read"], "scopes_granted": ["openid",
"profile", "Mail.Read"], "scopes_missing": [], "established_by": "webshop",
"created_at": "2026-11-23T08:00:00Z", "connected_at": "2026-11-23T08:00:00Z",
"last_refreshed_at": "2026-11-23T09:12:40Z", "next_refresh_at": "2026-11-23T10:20:11Z"}"#;

pub(super) const CONNECTION_PAGE: &str = r#"
{"connections": [{"app": "outlook", "connection": "user-4711", "status": "active",
"account": {"tid": "34e60b8e-a5b5-43c9-a67e-a85b7dd8768b",
"oid": "503c2116-3318-4ef4-9137-98e7501a0886", "username": "alice@contoso.com"},
"scopes_requested": ["offline_access", "openid", "profile", "Mail.Read"], "scopes_granted": ["openid",
"profile", "Mail.Read"], "scopes_missing": [], "established_by": "webshop",
"created_at": "2026-11-23T08:00:00Z", "connected_at": "2026-11-23T08:00:00Z",
"last_refreshed_at": "2026-11-23T09:12:40Z"}], "next_cursor": "dXNlci00NzEx"}"#;

pub(super) const EXPLANATION: &str = r#"
{"app": "outlook", "connection": "user-4711", "status": "needs_reauthorization",
"account": {"tid": "34e60b8e-a5b5-43c9-a67e-a85b7dd8768b",
"oid": "503c2116-3318-4ef4-9137-98e7501a0886", "username": "alice@contoso.com"},
"scopes_requested": ["offline_access", "openid", "profile", "Mail.Read"], "scopes_granted": ["openid",
"profile", "Mail.Read"], "scopes_missing": [], "established_by": "webshop",
"created_at": "2026-11-23T08:00:00Z", "connected_at": "2026-11-23T08:00:00Z",
"last_refreshed_at": "2026-11-23T09:12:40Z", "next_refresh_at": "2026-11-23T10:20:11Z",
"reason": "grant_revoked", "last_error": {"at": "2026-11-23T10:20:12Z", "action": "refresh",
"outcome": "reauthorize", "conclusion": "the authority revoked the grant", "status": 400,
"error": "invalid_grant", "error_codes": [50173], "trace_id": "b9b6d2b6-91f1-4c0c-9c5e-0a5f0f5b3a00",
"correlation_id": "1f6d7f0c-5c32-4d7e-8a6b-2b8f6f1f2d11"}, "attempts": [{"at": "2026-11-23T10:20:12Z",
"action": "refresh", "outcome": "reauthorize", "conclusion": "the authority revoked the grant",
"status": 400, "error": "invalid_grant", "error_codes": [50173],
"trace_id": "b9b6d2b6-91f1-4c0c-9c5e-0a5f0f5b3a00",
"correlation_id": "1f6d7f0c-5c32-4d7e-8a6b-2b8f6f1f2d11"}],
"advice": "The user must sign in again (grant_revoked). Start a connect session for this connection and send the user its connect_url. The stored grant is kept and tried again by itself."}"#;
