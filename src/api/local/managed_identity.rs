//! The routes of App Service's managed identity: an unmodified Azure SDK gets a connection's token with it.
//! <https://learn.microsoft.com/azure/app-service/overview-managed-identity#rest-endpoint-reference>

mod asked;

use http::StatusCode;
use serde::Serialize;

pub(super) use self::asked::{Asked, Whose};
use super::handlers::{tell_source, tell_source_of, wants_link};
use super::with_token::{PLACE, text_with_token};
use super::{Call, LocalApi};
use crate::api::doc::{Content, Doc};
use crate::api::local::examples;
use crate::api::problem::{Problem, json_bytes};
use crate::api::routes::{Effect, Permission, Route, Run};
use crate::broker::App;
use crate::domain::id::ConnectionKey;
use crate::domain::time::Timestamp;
use crate::domain::token::HeldToken;
use crate::listener::Response;
use crate::refresh::plan::ORDINARY_MIN_TTL;

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
        summary: "An access token of the connection or app that `client_id` names, for an Azure SDK",
        description: "Set `IDENTITY_ENDPOINT` to this URL and `IDENTITY_HEADER` to an API key. The token is \
         never one under continuous access evaluation, for no SDK passes a claims challenge on.",
        query: &["api-version", "msi-resource", "client_id", "token_sha256_to_refresh", "connect"],
        answer: (200, "A token that works now."),
        content: Some(Content::one("ManagedIdentityToken", examples::MANAGED_IDENTITY_TOKEN)),
        problems: &[(404, "ConnectionNotFound")],
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
        query: &["api-version", "msi-resource", "token_sha256_to_refresh", "connect"],
        answer: (200, "A token that works now."),
        content: Some(Content::one("ManagedIdentityToken", examples::MANAGED_IDENTITY_TOKEN)),
        problems: &[(404, "ConnectionNotFound")],
        ..Doc::PLAIN
    },
};

/// A token, in the one form that all clients take: numbers are text, and nothing is left out.
#[derive(Serialize)]
struct Token<'a> {
    access_token: &'static str,
    /// Unix seconds.
    expires_on: String,
    resource: &'a str,
    token_type: &'static str,
    client_id: String,
}

impl LocalApi {
    /// Hands a token out to an Azure SDK. `key` is the connection that the path names.
    async fn identity_token(&self, call: Call<'_>, key: Option<&ConnectionKey>) -> Result<Response, Problem> {
        let asked = Asked::read(&call.query, key)?;
        match &asked.whose {
            Whose::Connection(key) => {
                let (caller, connect) = ((call.admitted, call.who), wants_link(&call.query)?);
                let ask = |app: &App| asked.want(app.naming(), &app.scopes);
                let (served, _) = self.served_as(caller, key, None, ask, connect).await?;
                let text = identity_text(&asked, served.token(), self.clock.now());
                let mut response = json_bytes(StatusCode::OK, text);
                tell_source(&mut response, &served);
                Ok(response)
            }
            Whose::App(app) => {
                let wanted = Ok((Some(asked.resource.as_str()), ORDINARY_MIN_TTL));
                let (served, _) = self.app_served((call.admitted, call.who), app, None, wanted).await?;
                let text = identity_text(&asked, &served.token, self.clock.now());
                let mut response = json_bytes(StatusCode::OK, text);
                tell_source_of(&mut response, served.source);
                Ok(response)
            }
        }
    }
}

/// Writes the JSON of an answer as it is at `now`.
pub(super) fn identity_text(asked: &Asked, token: &HeldToken, now: Timestamp) -> Vec<u8> {
    let expires_on = now.plus(token.life_left(now)).unix_seconds();
    let shape = Token {
        access_token: PLACE,
        expires_on: expires_on.to_string(),
        resource: &asked.resource,
        token_type: "Bearer",
        client_id: asked.whose.to_string(),
    };
    text_with_token(&shape, &token.access_token)
}
