//! The routes of the admin API.

use super::examples;
use super::{AdminApi, OPENAPI};
use crate::api::doc::{Body, Content, Doc};
use crate::api::document;
use crate::api::routes::{Effect, Permission, Route, Run};
use crate::domain::choice::Choice;

/// What the routes that make a link in a caller's name have in common.
const FOR_A_LINK: Doc = Doc {
    tag: "connections",
    description: "A session of the caller that connected it, by the rules of that caller as they are now. A \
     link for the user is for the account that the connection has; an open one is given again.",
    answer: (201, "The link."),
    body: Body::Required(Content::one("LinkWanted", examples::LINK_WANTED)),
    problems: &[
        (403, "Forbidden"),
        (404, "ConnectionNotFound"),
        (409, "Paused"),
        (429, "RateLimited"),
        (503, "LinkUnavailable"),
    ],
    ..Doc::PLAIN
};

/// Every route of the admin API, in the order of its document.
pub(super) const TABLE: &[Route<AdminApi>] = &[
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
    Route {
        method: "GET",
        path: "/admin/v1/status",
        handler: Run::Plain(|api, call| Box::pin(api.status(call))),
        permission: Permission::Operates,
        effect: Effect::Reads("status"),
        doc: Doc {
            id: "status",
            tag: "daemon",
            summary: "The daemon's state",
            description: "Of the replica that answers. It answers while the store does not.",
            answer: (200, "The state."),
            content: Some(Content::one("Status", examples::STATUS)),
            ..Doc::PLAIN
        },
    },
    Route {
        method: "POST",
        path: "/admin/v1/reload",
        handler: Run::Plain(|api, call| Box::pin(api.reload(call))),
        permission: Permission::Operates,
        effect: Effect::Acts,
        doc: Doc {
            id: "reload",
            tag: "daemon",
            summary: "Read configuration and secrets again",
            description: "A configuration with a mistake is refused whole, and the one before stays in \
             force. The answer is 200 then too, with the outcome `refused`.",
            answer: (200, "How it ended."),
            content: Some(Content::several("Reload", examples::RELOAD)),
            ..Doc::PLAIN
        },
    },
    Route {
        method: "POST",
        path: "/admin/v1/console-links",
        handler: Run::Plain(|api, call| Box::pin(api.console_link(call))),
        permission: Permission::Operates,
        effect: Effect::Acts,
        doc: Doc {
            id: "makeConsoleLink",
            tag: "daemon",
            summary: "Make a link that opens the console in a browser, once",
            description: "For the operator who asks. It works once and for a minute, at the daemon that \
             answers. There is a URL for each TCP listener of `listen.admin` where it counts: one that \
             accepts how the operator proved who it is, or, for a Unix user, one without TLS. There may be \
             none.",
            answer: (201, "The link."),
            content: Some(Content::one("ConsoleLink", examples::CONSOLE_LINK)),
            ..Doc::PLAIN
        },
    },
    Route {
        method: "POST",
        path: "/admin/v1/store/adopt",
        handler: Run::Plain(|api, call| Box::pin(api.adopt_store(call))),
        permission: Permission::Operates,
        effect: Effect::Acts,
        doc: Doc {
            id: "adoptStore",
            tag: "daemon",
            summary: "Accept a store that differs from the earlier one",
            description: "For example a Redis that came back empty. Connections that are not in it count \
             as deleted from then on.",
            answer: (200, "It is accepted. Every replica follows by itself."),
            content: Some(Content::one("Adopted", examples::ADOPTED)),
            ..Doc::PLAIN
        },
    },
    Route {
        method: "POST",
        path: "/admin/v1/revocations",
        handler: Run::Plain(|api, call| Box::pin(api.revoke(call))),
        permission: Permission::Operates,
        effect: Effect::Acts,
        doc: Doc {
            id: "revoke",
            tag: "connections",
            summary: "End every connection of an app, a tenant or a caller, or one handle",
            description: "Several members narrow it to what they have in common; `handle` stands alone. It \
             is in force on the replica that answers before the answer, and on every other one within \
             seconds. Tokens that were handed out work until they end.",
            body: Body::Required(Content::several("Revocation", examples::REVOCATION)),
            answer: (200, "They are revoked; with `dry_run`, what would be."),
            content: Some(Content::several("Revoked", examples::REVOKED)),
            ..Doc::PLAIN
        },
    },
    Route {
        method: "GET",
        path: "/admin/v1/apps",
        handler: Run::Plain(|api, call| Box::pin(api.apps(call))),
        permission: Permission::Operates,
        effect: Effect::Reads("apps"),
        doc: Doc {
            id: "apps",
            tag: "daemon",
            summary: "The names of all apps",
            answer: (200, "The names."),
            content: Some(Content::one("Apps", examples::APPS)),
            ..Doc::PLAIN
        },
    },
    Route {
        method: "GET",
        path: "/admin/v1/apps/{app}/connections",
        handler: Run::App(|api, call, app| Box::pin(api.list(call, app))),
        permission: Permission::Operates,
        effect: Effect::Reads("connections"),
        doc: Doc {
            id: "listConnections",
            tag: "connections",
            summary: "An app's connections",
            description: "At most 100 a page, and what is found in 40 ms. Go on while there is a \
             `next_cursor`: a filter that matches few makes short and even empty pages.",
            query: &["status", "tenant", "reason", "account", "label", "text", "cursor"],
            answer: (200, "A page."),
            content: Some(Content::one("ConnectionPage", examples::CONNECTION_PAGE)),
            problems: &[(404, "AppNotFound")],
            ..Doc::PLAIN
        },
    },
    Route {
        method: "GET",
        path: "/admin/v1/forecast",
        handler: Run::Plain(|api, call| Box::pin(api.forecast(call))),
        permission: Permission::Operates,
        effect: Effect::Reads("forecast"),
        doc: Doc {
            id: "forecast",
            tag: "connections",
            summary: "Who will have to act, why and when, as far as can be known",
            description: "By app and tenant, from the connections that are read in 40 ms. Go on while there \
             is a `next_cursor`, and put rows together that differ in their times, numbers and examples \
             alone. A connection that must already be signed in again is in no row.",
            query: &["session_app", "tenant", "days", "cursor"],
            answer: (200, "A part of the forecast."),
            content: Some(Content::one("Forecast", examples::FORECAST)),
            problems: &[(404, "AppNotFound")],
            ..Doc::PLAIN
        },
    },
    Route {
        method: "GET",
        path: "/admin/v1/apps/{app}/connections/{connection}/explain",
        handler: Run::Connection(|api, call, key| Box::pin(api.explain(call, key))),
        permission: Permission::Operates,
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
        path: "/admin/v1/apps/{app}/connections/{connection}",
        handler: Run::Connection(|api, call, key| Box::pin(api.show(call, key))),
        permission: Permission::Operates,
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
        method: "PATCH",
        path: "/admin/v1/apps/{app}/connections/{connection}",
        handler: Run::Connection(|api, call, key| Box::pin(api.set_paused(call, key))),
        permission: Permission::Operates,
        effect: Effect::Acts,
        doc: Doc {
            id: "pauseConnection",
            tag: "connections",
            summary: "Pause or resume a connection",
            description: "No token of a paused connection is handed out, and its name cannot be connected. \
             A pause outlives a delete: the name stays paused until it is resumed. 204 where only the name \
             was paused or resumed.",
            body: Body::Required(Content::one("Pause", examples::PAUSE)),
            answer: (200, "The connection."),
            content: Some(Content::one("Connection", examples::CONNECTION)),
            problems: &[(204, "NameChanged"), (404, "ConnectionNotFound")],
            ..Doc::PLAIN
        },
    },
    Route {
        method: "POST",
        path: "/admin/v1/apps/{app}/connections/{connection}",
        handler: Run::Connection(|api, call, key| Box::pin(api.refresh(call, key))),
        permission: Permission::Operates,
        effect: Effect::Acts,
        doc: Doc {
            id: "refreshConnection",
            tag: "connections",
            summary: "Refresh a connection now",
            description: "Its verdict, if it has one, is tested at once. `GET` shows how it ends.",
            answer: (202, "It is begun."),
            content: Some(Content::one("Refreshing", examples::REFRESHING)),
            problems: &[(404, "ConnectionNotFound"), (409, "Paused")],
            ..Doc::PLAIN
        },
    },
    Route {
        method: "DELETE",
        path: "/admin/v1/apps/{app}/connections/{connection}",
        handler: Run::Connection(|api, call, key| Box::pin(api.delete(call, key))),
        permission: Permission::Operates,
        effect: Effect::Acts,
        doc: Doc {
            id: "deleteConnection",
            tag: "connections",
            summary: "Destroy a connection",
            description: "The grant is gone from the store before this answers, and from every replica's \
             memory within a second. Tokens that were handed out work until they end.",
            answer: (204, "It is gone."),
            problems: &[(404, "ConnectionNotFound")],
            ..Doc::PLAIN
        },
    },
    Route {
        method: "POST",
        path: "/admin/v1/imports",
        handler: Run::Plain(|api, call| Box::pin(api.import(call))),
        permission: Permission::Operates,
        effect: Effect::Acts,
        doc: Doc {
            id: "importGrant",
            tag: "connections",
            summary: "Take over a grant that another system held",
            description: "It is used once, and is stored as a connection only if it worked; account and \
             scopes are the authority's. The refresh token that its answer brings is stored in any case. The \
             same request may be sent again at any time: a grant is known by its refresh token, and nothing \
             is done twice. A connection that exists is left as it is, unless `replace` is true and the \
             account is the same.",
            body: Body::Required(Content::several("Import", examples::IMPORT)),
            answer: (200, "It is a connection; with `dry_run`, nothing speaks against it."),
            content: Some(Content::several("Imported", examples::IMPORTED)),
            problems: &[
                (403, "Forbidden"),
                (404, "AppNotFound"),
                (409, "NotImported"),
                (429, "TooManyImports"),
                (503, "ImportUnavailable"),
            ],
            ..Doc::PLAIN
        },
    },
    Route {
        method: "POST",
        path: "/admin/v1/exports",
        handler: Run::Plain(|api, call| Box::pin(api.export(call))),
        permission: Permission::Operates,
        effect: Effect::Acts,
        doc: Doc {
            id: "exportGrants",
            tag: "connections",
            summary: "Give an app's grants out, sealed to a public key",
            description: "At most 50 a page; each is a JWE (compact, ECDH-ES with X25519, A256GCM) of the \
             row that an import takes. For operators who come over a Unix socket alone. The grants stay \
             here, and are used here unless their connections are paused.",
            body: Body::Required(Content::one("Export", examples::EXPORT)),
            answer: (200, "A page."),
            content: Some(Content::one("Exported", examples::EXPORTED)),
            problems: &[(403, "Forbidden"), (404, "AppNotFound"), (503, "ExportUnavailable")],
            ..Doc::PLAIN
        },
    },
    Route {
        method: "POST",
        path: "/admin/v1/reconnect-links",
        handler: Run::Plain(|api, call| Box::pin(api.reconnect_link(call))),
        permission: Permission::Operates,
        effect: Effect::Acts,
        doc: Doc {
            id: "makeReconnectLink",
            summary: "Make a link with which a connection's user signs in again",
            content: Some(Content::one("ReconnectLink", examples::RECONNECT_LINK)),
            ..FOR_A_LINK
        },
    },
    Route {
        method: "POST",
        path: "/admin/v1/admin-consent-links",
        handler: Run::Plain(|api, call| Box::pin(api.admin_consent_link(call))),
        permission: Permission::Operates,
        effect: Effect::Acts,
        doc: Doc {
            id: "makeAdminConsentLink",
            summary: "Make a link with which an administrator approves the app in a connection's tenant",
            content: Some(Content::one("AdminConsentLink", examples::ADMIN_CONSENT_LINK)),
            ..FOR_A_LINK
        },
    },
    Route {
        method: "GET",
        path: "/admin/v1/sessions",
        handler: Run::Plain(|api, call| Box::pin(api.sessions(call))),
        permission: Permission::Operates,
        effect: Effect::Reads("sessions"),
        doc: Doc {
            id: "listSessions",
            tag: "connections",
            summary: "Connect sessions, and what became of them",
            description: "Of all replicas, as long as they can be read: while their link works, and an hour \
             after they ended. Not those of a caller that the configuration does not have any more. At most \
             100 a page. Go on while there is a `next_cursor`: a filter makes short and even empty pages.",
            query: &["session_app", "session_connection", "state", "reference", "cursor"],
            answer: (200, "A page."),
            content: Some(Content::one("SessionPage", examples::SESSION_PAGE)),
            ..Doc::PLAIN
        },
    },
    Route {
        method: "GET",
        path: "/admin/v1/credentials",
        handler: Run::Plain(|api, call| Box::pin(api.credentials(call))),
        permission: Permission::Operates,
        effect: Effect::Reads("credentials"),
        doc: Doc {
            id: "credentials",
            tag: "credentials",
            summary: "Every app's client credentials with their states; never a secret",
            answer: (200, "The credentials."),
            content: Some(Content::one("Credentials", examples::CREDENTIALS)),
            ..Doc::PLAIN
        },
    },
    Route {
        method: "POST",
        path: "/admin/v1/apps/{app}/credentials/verify",
        handler: Run::App(|api, call, app| Box::pin(api.verify(call, app, None))),
        permission: Permission::Operates,
        effect: Effect::Acts,
        doc: Doc {
            id: "verifyCredentials",
            tag: "credentials",
            summary: "Prove all credentials of an app with token requests of the app's own",
            answer: (200, "What the authority says of each."),
            content: Some(Content::several("Verified", examples::VERIFIED)),
            problems: &[(404, "AppNotFound")],
            ..Doc::PLAIN
        },
    },
    Route {
        method: "POST",
        path: "/admin/v1/apps/{app}/credentials/{credential}/verify",
        handler: Run::Credential(|api, call, app, label| Box::pin(api.verify(call, app, Some(label)))),
        permission: Permission::Operates,
        effect: Effect::Acts,
        doc: Doc {
            id: "verifyCredential",
            tag: "credentials",
            summary: "Prove a credential with a token request of the app's own",
            answer: (200, "What the authority says of it."),
            content: Some(Content::several("Verified", examples::VERIFIED)),
            problems: &[(404, "AppNotFound")],
            ..Doc::PLAIN
        },
    },
    Route {
        method: "POST",
        path: "/admin/v1/apps/{app}/credentials/{credential}/promote",
        handler: Run::Credential(|api, call, app, label| {
            Box::pin(api.choose(call, app, label, Choice::Promote))
        }),
        permission: Permission::Operates,
        effect: Effect::Acts,
        doc: Doc {
            id: "promoteCredential",
            tag: "credentials",
            summary: "Prefer a credential that the authority accepts",
            description: "Every replica follows within seconds; restarts change nothing.",
            answer: (200, "It is preferred."),
            content: Some(Content::one("CredentialChosen", examples::CREDENTIAL_CHOSEN)),
            problems: &[(404, "AppNotFound")],
            ..Doc::PLAIN
        },
    },
    Route {
        method: "POST",
        path: "/admin/v1/apps/{app}/credentials/{credential}/retire",
        handler: Run::Credential(|api, call, app, label| {
            Box::pin(api.choose(call, app, label, Choice::Retire))
        }),
        permission: Permission::Operates,
        effect: Effect::Acts,
        doc: Doc {
            id: "retireCredential",
            tag: "credentials",
            summary: "Take a credential out of service",
            description: "It is refused where another credential is not proven. Every replica follows \
             within seconds; restarts change nothing. Remove its file, and then the credential at the \
             authority.",
            answer: (200, "It is not used any more."),
            content: Some(Content::one("CredentialChosen", examples::CREDENTIAL_CHOSEN)),
            problems: &[(404, "AppNotFound")],
            ..Doc::PLAIN
        },
    },
    Route {
        method: "POST",
        path: "/admin/v1/apps/{app}/token-host/{host}/confirm",
        handler: Run::TokenHost(|api, call, app, host| Box::pin(api.confirm_token_host(call, app, host))),
        permission: Permission::Operates,
        effect: Effect::Acts,
        doc: Doc {
            id: "confirmTokenHost",
            tag: "credentials",
            summary: "Let an app's secrets and grants go to its new token host",
            description: "The app's credentials are not sent to a host that differs from the earlier one \
             until this is said. Every replica follows within seconds.",
            answer: (200, "They go there."),
            content: Some(Content::one("TokenHost", examples::TOKEN_HOST)),
            problems: &[(404, "AppNotFound")],
            ..Doc::PLAIN
        },
    },
    Route {
        method: "GET",
        path: "/admin/v1/keyring",
        handler: Run::Plain(|api, call| Box::pin(api.keyring(call))),
        permission: Permission::Operates,
        effect: Effect::Reads("keyring"),
        doc: Doc {
            id: "keyring",
            tag: "keyring",
            summary: "The sealing keys, what needs them, and who can open them; never a key",
            answer: (200, "The keyring."),
            content: Some(Content::one("Keyring", examples::KEYRING)),
            ..Doc::PLAIN
        },
    },
    Route {
        method: "POST",
        path: "/admin/v1/keyring/rewrap",
        handler: Run::Plain(|api, call| Box::pin(api.rewrap(call))),
        permission: Permission::Operates,
        effect: Effect::Acts,
        doc: Doc {
            id: "rewrap",
            tag: "keyring",
            summary: "Rewrap the records of other keys with the primary",
            description: "`GET /admin/v1/keyring` shows how far it is.",
            answer: (202, "It is begun."),
            content: Some(Content::one("Rewrapping", examples::REWRAPPING)),
            ..Doc::PLAIN
        },
    },
    Route {
        method: "POST",
        path: "/admin/v1/keyring/promote",
        handler: Run::Plain(|api, call| Box::pin(api.may_promote(call))),
        permission: Permission::Operates,
        effect: Effect::Acts,
        doc: Doc {
            id: "mayPromoteSealingKey",
            tag: "keyring",
            summary: "Ask whether a sealing key may be promoted now",
            description: "The daemon changes nothing: `tokenward keyring promote` asks and then writes the \
             key's file.",
            body: Body::Required(Content::one("SealingKeyNamed", examples::SEALING_KEY_NAMED)),
            answer: (200, "Whether it may, or why not."),
            content: Some(Content::several("SealingKeyVerdict", examples::SEALING_KEY_VERDICT)),
            ..Doc::PLAIN
        },
    },
    Route {
        method: "POST",
        path: "/admin/v1/keyring/retire",
        handler: Run::Plain(|api, call| Box::pin(api.may_retire(call))),
        permission: Permission::Operates,
        effect: Effect::Acts,
        doc: Doc {
            id: "mayRetireSealingKey",
            tag: "keyring",
            summary: "Ask whether a sealing key may be retired now",
            description: "The daemon changes nothing: `tokenward keyring retire` asks and then removes the \
             key's file.",
            body: Body::Required(Content::one("SealingKeyNamed", examples::SEALING_KEY_NAMED)),
            answer: (200, "Whether it may, or why not."),
            content: Some(Content::several("SealingKeyVerdict", examples::SEALING_KEY_VERDICT)),
            ..Doc::PLAIN
        },
    },
    Route {
        method: "GET",
        path: "/admin/v1/callers/{caller}/keys",
        handler: Run::Caller(|api, call, caller| Box::pin(api.api_keys(call, caller))),
        permission: Permission::Operates,
        effect: Effect::Reads("api_keys"),
        doc: Doc {
            id: "apiKeys",
            tag: "callers",
            summary: "A caller's API keys and when each was last used; never a key",
            description: "As the replica that answers has them in force.",
            answer: (200, "The keys."),
            content: Some(Content::one("ApiKeys", examples::API_KEYS)),
            problems: &[(404, "NotFound")],
            ..Doc::PLAIN
        },
    },
    Route {
        method: "GET",
        path: "/admin/v1/callers/{caller}/policy",
        handler: Run::Caller(|api, call, caller| Box::pin(api.policy(call, caller))),
        permission: Permission::Operates,
        effect: Effect::Reads("policy"),
        doc: Doc {
            id: "policy",
            tag: "callers",
            summary: "What the rules in force give a caller, and which rule decides",
            description: "Decided by the code that decides every request. `connect=1` in place of `scope` \
             asks for the right to connect, confirm and delete, `relay` for the right to have a request \
             relayed. A connection that is there counts with its tenant.",
            query: &["asked_app", "asked_connection", "asked_scope", "asked_connect", "asked_relay"],
            answer: (200, "The decision."),
            content: Some(Content::several("PolicyDecision", examples::POLICY_DECISION)),
            problems: &[(404, "AppNotFound")],
            ..Doc::PLAIN
        },
    },
];
