//! The routes of Vault's and OpenBao's OAuth plugin, for teams that migrate, and what clients ask beside it.
//! <https://github.com/puppetlabs/vault-plugin-secrets-oauthapp>

use std::time::Duration;

use http::StatusCode;
use serde::Serialize;
use serde_json::{Value, json};

use super::with_token::{PLACE, text_with_token};
use super::{Call, LocalApi};
use crate::api::doc::{Content, Doc};
use crate::api::local::examples;
use crate::api::problem::{self, Problem, json_bytes};
use crate::api::routes::{Effect, Permission, Route, Run};
use crate::api::token_body::TokenBody;
use crate::domain::id::{AppName, ConnectionKey, ConnectionName};
use crate::domain::time::Timestamp;
use crate::domain::token::HeldToken;
use crate::listener::{RequestId, Response};

/// `GET /v1/{mount}/creds/{connection}`
pub(super) const CREDS: Route<LocalApi> = Route {
    method: "GET",
    path: "/v1/{mount}/creds/{connection}",
    handler: Run::Mount(|api, call, mount, connection| Box::pin(api.vault_creds(call, mount, connection))),
    permission: Permission::HasScopes,
    effect: Effect::HandsOut,
    doc: Doc {
        id: "vaultCreds",
        tag: "vault",
        summary: "An access token of a connection, for a client of Vault's OAuth plugin",
        description: "Set `VAULT_ADDR` to this API and `VAULT_TOKEN` to an API key.",
        query: &["minimum_seconds"],
        answer: (200, "A token that works now."),
        content: Some(Content::one("VaultCreds", examples::VAULT_CREDS)),
        problems: &[(404, "ConnectionNotFound")],
        ..Doc::PLAIN
    },
};

/// `GET /v1/sys/health`
pub(super) const HEALTH: Route<LocalApi> = Route {
    method: "GET",
    path: "/v1/sys/health",
    handler: Run::Open(|_| health()),
    permission: Permission::Anybody,
    effect: Effect::None,
    doc: Doc {
        id: "vaultHealth",
        tag: "vault",
        summary: "What a client of Vault asks before its first request",
        answer: (200, "It answers."),
        content: Some(Content::ANY),
        ..Doc::PLAIN
    },
};

/// `HEAD /v1/sys/health`
pub(super) const HEALTH_HEAD: Route<LocalApi> = Route {
    method: "HEAD",
    doc: Doc {
        id: "vaultHealthHead",
        tag: "vault",
        summary: "The same without a body, as hvac asks it",
        answer: (200, "It answers."),
        ..Doc::PLAIN
    },
    ..HEALTH
};

/// `GET /v1/auth/token/lookup-self`
pub(super) const LOOKUP_SELF: Route<LocalApi> = Route {
    method: "GET",
    path: "/v1/auth/token/lookup-self",
    handler: Run::Plain(|api, call| Box::pin(async move { Ok(api.vault_lookup_self(&call)) })),
    permission: Permission::Sees,
    effect: Effect::None,
    doc: Doc {
        id: "vaultLookupSelf",
        tag: "vault",
        summary: "Who the caller is, in Vault's form",
        description: "A client asks it to find out whether its token is good.",
        answer: (200, "The caller is known."),
        content: Some(Content::ANY),
        ..Doc::PLAIN
    },
};

/// An answer of Vault. Nothing here is leased.
#[derive(Serialize)]
struct Answer<'a, T> {
    request_id: &'a str,
    lease_id: &'static str,
    renewable: bool,
    lease_duration: u64,
    data: T,
    wrap_info: Option<Value>,
    warnings: Option<Value>,
    auth: Option<Value>,
}

impl<'a, T> Answer<'a, T> {
    fn new(request_id: &'a RequestId, data: T) -> Self {
        let (wrap_info, warnings, auth) = (None, None, None);
        let request_id = request_id.as_str();
        Answer {
            request_id,
            lease_id: "",
            renewable: false,
            lease_duration: 0,
            data,
            wrap_info,
            warnings,
            auth,
        }
    }
}

/// The plugin's data of a credential.
#[derive(Serialize)]
struct Creds<'a> {
    access_token: &'static str,
    #[serde(rename = "type")]
    kind: &'static str,
    /// The app.
    server: &'a str,
    /// RFC 3339.
    expire_time: String,
}

impl LocalApi {
    async fn vault_creds(
        &self,
        call: Call<'_>,
        mount: &str,
        connection: &ConnectionName,
    ) -> Result<Response, Problem> {
        let key = self.at_mount(&call, mount, connection).await?;
        let asked = TokenBody::of_minimum_seconds(call.query.value("minimum_seconds"))?;
        let (served, _) = self.served((call.admitted, call.who), &key, asked, false).await?;
        let text = creds_text(call.who.request_id, &key, served.token(), self.clock.now());
        Ok(json_bytes(StatusCode::OK, text))
    }

    /// Finds the connection of a path. A mount that no app has is told and recorded as a refusal.
    async fn at_mount(
        &self,
        call: &Call<'_>,
        mount: &str,
        connection: &ConnectionName,
    ) -> Result<ConnectionKey, Problem> {
        let refusal = match self.broker.app_at(mount) {
            Ok(app) => return Ok(ConnectionKey { app, connection: connection.clone() }),
            Err(refusal) => refusal,
        };
        let (problem, name) = (Problem::of(refusal).recorded(), &call.caller().name);
        let app = AppName::parse(mount).ok();
        match app {
            Some(app) => {
                let key = ConnectionKey { app, connection: connection.clone() };
                self.events.refused(call.who, name, &key, problem.code, Duration::ZERO).await;
            }
            None => self.events.refused_unnamed(call.who, name, None, problem.code, Duration::ZERO).await,
        }
        Err(problem)
    }

    fn vault_lookup_self(&self, call: &Call<'_>) -> Response {
        let data = json!({
            "display_name": call.caller().name.as_str(), "path": "auth/token/lookup-self", "policies": [],
            "meta": null, "expire_time": null, "ttl": 0, "num_uses": 0, "orphan": true, "renewable": false,
            "type": "service",
        });
        problem::json(StatusCode::OK, &Answer::new(call.who.request_id, data))
    }
}

/// tokenward has no seal and no standby: what answers is active.
fn health() -> Response {
    let body =
        json!({ "initialized": true, "sealed": false, "standby": false, "performance_standby": false });
    problem::json(StatusCode::OK, &body)
}

/// Writes the JSON of an answer with a token, as it is at `now`.
pub(super) fn creds_text(id: &RequestId, key: &ConnectionKey, token: &HeldToken, now: Timestamp) -> Vec<u8> {
    let creds = Creds {
        access_token: PLACE,
        kind: "Bearer",
        server: key.app.as_str(),
        expire_time: now.plus(token.life_left(now)).rfc3339(),
    };
    text_with_token(&Answer::new(id, creds), &token.access_token)
}
