//! The routes of the local API.

use super::{LocalApi, OPENAPI};
use super::{examples, handles, managed_identity, notices, relay, token_endpoint, vault, watch};
use crate::api::doc::{Body, Content, Doc};
use crate::api::document;
use crate::api::routes::{Effect, Permission, Route, Run};

/// Every route of the local API, in the order of its document.
pub(super) const TABLE: &[Route<LocalApi>] = &[
    Route {
        method: "GET",
        path: "/openapi.json",
        handler: Run::Open(|_| document(OPENAPI)),
        permission: Permission::Anybody,
        effect: Effect::None,
        doc: Doc {
            id: "document",
            tag: "document",
            summary: "This document",
            answer: (200, "This document."),
            content: Some(Content::ANY),
            ..Doc::PLAIN
        },
    },
    managed_identity::TOKEN_OF_CONNECTION,
    managed_identity::TOKEN,
    watch::WATCH,
    token_endpoint::TOKEN,
    token_endpoint::METADATA,
    Route {
        method: "GET",
        path: "/v1/apps/{app}/connections/{connection}/token",
        handler: Run::Connection(|api, call, key| Box::pin(api.token(call, key))),
        permission: Permission::HasScopes,
        effect: Effect::HandsOut,
        doc: Doc {
            id: "token",
            tag: "tokens",
            summary: "An access token of a connection",
            description: "A token with less life than `min_ttl` is refreshed first, unless it is younger \
             than a quarter of its own life; one fresh from the authority is handed out with its true life. \
             A token that still lives is handed out when the refresh fails or takes longer than 3 s. Keep it \
             and ask again near its end; asking for each use is fine too.",
            query: &["scope", "resource", "min_ttl", "connect", "If-None-Match"],
            answer: (200, "A token that works now."),
            content: Some(Content::several("Token", examples::TOKEN)),
            problems: &[
                (304, "NotModified"),
                (404, "ConnectionNotFound"),
                (409, "NotServed"),
                (503, "Unavailable"),
            ],
            ..Doc::PLAIN
        },
    },
    Route {
        method: "POST",
        path: "/v1/apps/{app}/connections/{connection}/token",
        handler: Run::Connection(|api, call, key| Box::pin(api.token_after_refusal(call, key))),
        permission: Permission::HasScopes,
        effect: Effect::HandsOut,
        doc: Doc {
            id: "tokenAfterRefusal",
            tag: "tokens",
            summary: "An access token in place of one that a resource refused",
            description: "When a resource answers 401, send the SHA-256 of the token it refused and, if its \
             `WWW-Authenticate` brings one, the claims challenge. The reported token is replaced once, \
             however many callers report it; a report of a token that is no longer current gets the current \
             one. When the refresh fails, the reporter gets the error and all others keep the token that \
             they had.",
            query: &["connect"],
            body: Body::Optional(Content::several("TokenRequest", examples::TOKEN_REQUEST)),
            answer: (200, "A token that works now."),
            content: Some(Content::several("Token", examples::TOKEN)),
            problems: &[(404, "ConnectionNotFound"), (409, "NotServed"), (503, "Unavailable")],
        },
    },
    Route {
        method: "GET",
        path: "/v1/apps/{app}/token",
        handler: Run::App(|api, call, app| Box::pin(api.app_token(call, app))),
        permission: Permission::HasScopes,
        effect: Effect::HandsOut,
        doc: Doc {
            id: "appToken",
            tag: "tokens",
            summary: "An access token of the app itself",
            description: "For work without a user (client credentials). Needs a rule with `app_only` for \
             the tenant, and with the resource in `resources`. The token can do everything that the app \
             was given in that tenant. It is kept in memory and renewed ahead of its end; one that still \
             lives is handed out when its renewal fails or takes longer than 3 s.",
            query: &["app_tenant", "app_resource", "min_ttl", "If-None-Match"],
            answer: (200, "A token that works now."),
            content: Some(Content::one("AppToken", examples::APP_TOKEN)),
            problems: &[
                (304, "NotModified"),
                (404, "AppNotFound"),
                (409, "TenantBlocked"),
                (503, "Unavailable"),
            ],
            ..Doc::PLAIN
        },
    },
    Route {
        method: "GET",
        path: "/v1/apps/{app}/connections/{connection}/explain",
        handler: Run::Connection(|api, call, key| Box::pin(api.explain(call, key))),
        permission: Permission::Sees,
        effect: Effect::Reads("explain"),
        doc: Doc {
            id: "explainConnection",
            tag: "connections",
            summary: "A connection with its last tries, and what to do now",
            answer: (200, "What is known."),
            content: Some(Content::one("Explanation", examples::EXPLANATION)),
            problems: &[(404, "ConnectionNotFound")],
            ..Doc::PLAIN
        },
    },
    Route {
        method: "GET",
        path: "/v1/apps/{app}/connections/{connection}",
        handler: Run::Connection(|api, call, key| Box::pin(api.show(call, key))),
        permission: Permission::Sees,
        effect: Effect::Reads("connection"),
        doc: Doc {
            id: "showConnection",
            tag: "connections",
            summary: "A connection; never a token",
            answer: (200, "The connection."),
            content: Some(Content::one("Connection", examples::CONNECTION)),
            problems: &[(404, "ConnectionNotFound")],
            ..Doc::PLAIN
        },
    },
    Route {
        method: "DELETE",
        path: "/v1/apps/{app}/connections/{connection}",
        handler: Run::Connection(|api, call, key| Box::pin(api.delete(call, key))),
        permission: Permission::Connects,
        effect: Effect::Acts,
        doc: Doc {
            id: "deleteConnection",
            tag: "connections",
            summary: "Destroy a connection",
            description: "The grant is gone from the store before this answers, and from every replica's \
             memory within a second. Tokens that were handed out work until they end. Needs a rule with \
             `connect = true`.",
            answer: (204, "It is gone."),
            problems: &[(404, "ConnectionNotFound"), (409, "Paused")],
            ..Doc::PLAIN
        },
    },
    Route {
        method: "GET",
        path: "/v1/apps/{app}/connections",
        handler: Run::App(|api, call, app| Box::pin(api.list(call, app))),
        permission: Permission::Sees,
        effect: Effect::Reads("connections"),
        doc: Doc {
            id: "listConnections",
            tag: "connections",
            summary: "The connections that the caller may see",
            description: "At most 100 a page. Go on while there is a `next_cursor`: a filter, or a rule for \
             a tenant, that matches few makes short and even empty pages. A page for which more than 100 \
             connections were read counts as two requests. Two lists of a caller are under way at one time; \
             more are 429.",
            query: &["status", "tenant", "cursor"],
            answer: (200, "A page."),
            content: Some(Content::one("ConnectionPage", examples::CONNECTION_PAGE)),
            problems: &[(404, "AppNotFound")],
            ..Doc::PLAIN
        },
    },
    Route {
        method: "POST",
        path: "/v1/connect-sessions",
        handler: Run::Plain(|api, call| Box::pin(api.start_session(call))),
        permission: Permission::Connects,
        effect: Effect::Acts,
        doc: Doc {
            id: "startConnectSession",
            tag: "connecting",
            summary: "Invite one browser to create or renew a connection",
            description: "Send the user to `connect_url`. A connection that exists is renewed by its own \
             account, which needs no confirmation; so does a session with `account`. Any other waits for a \
             confirmation. Needs a rule with `connect = true`, when it is started and still when the user \
             comes back; a name that is not there yet, and `change_account`, need one that covers the name \
             (a `tenant:` rule renews only).",
            body: Body::Required(Content::several("NewConnectSession", examples::NEW_CONNECT_SESSION)),
            answer: (201, "The session."),
            content: Some(Content::one("ConnectSession", examples::CONNECT_SESSION)),
            problems: &[(404, "ConnectionNotFound"), (409, "Paused")],
            ..Doc::PLAIN
        },
    },
    Route {
        method: "GET",
        path: "/v1/connect-sessions/{id}",
        handler: Run::Session(|api, call, id| Box::pin(api.session(call, id))),
        permission: Permission::Sees,
        effect: Effect::Reads("connect_session"),
        doc: Doc {
            id: "connectSession",
            tag: "connecting",
            summary: "Where a connect session stands",
            query: &["wait"],
            answer: (200, "Its state."),
            content: Some(Content::several("ConnectSessionState", examples::CONNECT_SESSION_STATE)),
            problems: &[(404, "SessionNotFound")],
            ..Doc::PLAIN
        },
    },
    Route {
        method: "POST",
        path: "/v1/connect-sessions/{id}/confirm",
        handler: Run::Session(|api, call, id| Box::pin(api.confirm(call, id))),
        permission: Permission::Connects,
        effect: Effect::Acts,
        doc: Doc {
            id: "confirmConnectSession",
            tag: "connecting",
            summary: "Say that the right user came back",
            description: "The confirmation prevents that a link made for one user captures another user's \
             mailbox. With a `return_url`: the product checks that the browser with the `code` is signed in \
             as the user of the session, and sends the code. Without one: name the account that `GET` shows, \
             after a person has checked it. A confirmation may be repeated.",
            body: Body::Required(Content::several("Confirmation", examples::CONFIRMATION)),
            answer: (200, "The connection is made."),
            content: Some(Content::one("Confirmed", examples::CONFIRMED)),
            problems: &[(404, "SessionNotFound"), (409, "ConfirmationRejected")],
            ..Doc::PLAIN
        },
    },
    Route {
        method: "POST",
        path: "/v1/admin-consent-sessions",
        handler: Run::Plain(|api, call| Box::pin(api.start_admin_consent(call))),
        permission: Permission::Connects,
        effect: Effect::Acts,
        doc: Doc {
            id: "startAdminConsentSession",
            tag: "connecting",
            summary: "Invite a tenant's administrator to approve the app for everyone",
            description: "Most tenants let their administrators alone consent to mail and calendars, so this \
             is usually the first step in a tenant. Only at Entra. Needs a rule with `connect = true`.",
            body: Body::Required(Content::several(
                "NewAdminConsentSession",
                examples::NEW_ADMIN_CONSENT_SESSION,
            )),
            answer: (201, "The session."),
            content: Some(Content::one("AdminConsentSession", examples::ADMIN_CONSENT_SESSION)),
            problems: &[(404, "AppNotFound"), (503, "LinkUnavailable")],
            ..Doc::PLAIN
        },
    },
    Route {
        method: "GET",
        path: "/v1/admin-consent-sessions/{id}",
        handler: Run::Session(|api, call, id| Box::pin(api.admin_consent(call, id))),
        permission: Permission::Sees,
        effect: Effect::Reads("admin_consent_session"),
        doc: Doc {
            id: "adminConsentSession",
            tag: "connecting",
            summary: "Where an admin consent session stands",
            answer: (200, "Its state."),
            content: Some(Content::several("AdminConsentState", examples::ADMIN_CONSENT_STATE)),
            problems: &[(404, "SessionNotFound")],
            ..Doc::PLAIN
        },
    },
    handles::MAKE,
    notices::EVENTS,
    relay::GET,
    relay::HEAD,
    relay::POST,
    relay::PUT,
    relay::PATCH,
    relay::DELETE,
    vault::HEALTH,
    vault::HEALTH_HEAD,
    vault::LOOKUP_SELF,
    // Last, because its first part stands for any.
    vault::CREDS,
];
