//! The routes of App Service's managed identity: an unmodified Azure SDK gets a connection's token with it.
//! <https://learn.microsoft.com/azure/app-service/overview-managed-identity#rest-endpoint-reference>

use std::time::Duration;

use http::StatusCode;
use serde::Serialize;

use super::{Call, LocalApi};
use crate::api::doc::{Content, Doc};
use crate::api::local::examples;
use crate::api::problem::{Problem, json};
use crate::api::routes::{Effect, Permission, Route, Run};
use crate::api::token_body::TokenBody;
use crate::domain::id::{AppName, ConnectionKey, ConnectionName};
use crate::listener::Response;
use crate::refresh::Served;

/// `GET /msi/token`
pub(super) const TOKEN: Route<LocalApi> = Route {
    method: "GET",
    path: "/msi/token",
    handler: Run::Plain(|api, call| Box::pin(api.identity_token(call, None))),
    permission: Permission::HasScopes,
    effect: Effect::HandsOut,
    doc: Doc {
        id: "managedIdentityToken",
        tag: "managed identity",
        summary: "An access token of the connection that `client_id` names, for an Azure SDK",
        description: "Set `IDENTITY_ENDPOINT` to this URL and `IDENTITY_HEADER` to an API key.",
        query: &["api-version", "msi-resource", "client_id"],
        answer: (200, "A token that works now."),
        content: Some(Content::one("ManagedIdentityToken", examples::MANAGED_IDENTITY_TOKEN)),
        ..Doc::PLAIN
    },
};

/// `GET /v1/apps/{app}/connections/{connection}/msi/token`
pub(super) const TOKEN_OF_CONNECTION: Route<LocalApi> = Route {
    method: "GET",
    path: "/v1/apps/{app}/connections/{connection}/msi/token",
    handler: Run::Connection(|api, call, key| Box::pin(api.identity_token(call, Some(key)))),
    permission: Permission::HasScopes,
    effect: Effect::HandsOut,
    doc: Doc {
        id: "managedIdentityTokenOfConnection",
        tag: "managed identity",
        summary: "An access token of one connection, for an Azure SDK",
        description: "Set `IDENTITY_ENDPOINT` to this URL and `IDENTITY_HEADER` to an API key.",
        query: &["api-version", "msi-resource"],
        answer: (200, "A token that works now."),
        content: Some(Content::one("ManagedIdentityToken", examples::MANAGED_IDENTITY_TOKEN)),
        ..Doc::PLAIN
    },
};

/// A token, in the one form that all clients take: numbers are text, and nothing is left out.
#[derive(Serialize)]
struct Token<'a> {
    access_token: &'a str,
    /// Unix seconds.
    expires_on: String,
    resource: &'a str,
    token_type: &'static str,
    client_id: String,
}

impl LocalApi {
    /// Hands a token out to an Azure SDK. The path's connection beats `client_id`.
    async fn identity_token(&self, call: Call<'_>, key: Option<&ConnectionKey>) -> Result<Response, Problem> {
        let named = match key {
            Some(key) => key.clone(),
            None => named(call.query.value("client_id").unwrap_or_default())?,
        };
        let resource = call.query.value("resource").filter(|resource| !resource.is_empty());
        let resource = resource.ok_or_else(|| Problem::invalid("resource", "must name a resource"))?;
        let asked = TokenBody::plain(None, Some(resource.strip_suffix("/.default").unwrap_or(resource)));
        let (served, life) = self.served((call.admitted, call.who), &named, asked, false).await?;
        Ok(self.identity_answer(&named, resource, &served, life))
    }

    fn identity_answer(
        &self,
        key: &ConnectionKey,
        resource: &str,
        served: &Served,
        life: Duration,
    ) -> Response {
        let expires_on = self.clock.now().plus(life).unix_millis() / 1000;
        let token = Token {
            access_token: served.token.access_token.expose(),
            expires_on: expires_on.to_string(),
            resource,
            token_type: "Bearer",
            client_id: format!("{}:{}", key.app, key.connection),
        };
        json(StatusCode::OK, &token)
    }
}

/// Reads `{app}:{connection}`. An app's name has no colon.
fn named(client_id: &str) -> Result<ConnectionKey, Problem> {
    let problem = "must be {app}:{connection}, the connection whose token is asked for";
    let (app, connection) =
        client_id.split_once(':').ok_or_else(|| Problem::invalid("client_id", problem))?;
    let app = AppName::parse(app).map_err(|_| Problem::invalid("client_id", problem))?;
    let connection = ConnectionName::parse(connection).map_err(Problem::no_connection)?;
    Ok(ConnectionKey { app, connection })
}
