//! The OAuth token endpoint (RFC 6749 §3.2): token exchange (RFC 8693), and the metadata (RFC 8414).

use std::collections::BTreeMap;

use http::{HeaderMap, StatusCode, header};
use serde::Serialize;

use super::handlers::tell_source;
use super::{Call, LocalApi, NoCaller, examples};
use crate::api::dialect::tell_not_to_store;
use crate::api::doc::{Body as Document, Content, Doc};
use crate::api::problem::{Problem, json};
use crate::api::routes::{Effect, Permission, Route, Run};
use crate::api::token_body::{OfUser, TokenBody};
use crate::api::token_endpoint::client;
use crate::api::token_endpoint::form::Form;
use crate::api::token_endpoint::metadata::{self, Metadata};
use crate::api::token_endpoint::request::{ACCESS_TOKEN, Exchange, Subject};
use crate::api::{body, credential_of_peer};
use crate::authority::UserTokenKind;
use crate::broker::exchange::{Found, Named};
use crate::callers::limit::Admitted;
use crate::callers::{Authenticated, AuthenticationFailure, Credential};
use crate::domain::id::ConnectionKey;
use crate::events::Who;
use crate::listener::{Body, Peer, Response};

/// `POST /oauth2/token`
pub(super) const TOKEN: Route<LocalApi> = Route {
    method: "POST",
    path: metadata::TOKEN_ENDPOINT,
    handler: Run::Plain(|api, call| Box::pin(api.token_endpoint(call))),
    permission: Permission::HasScopes,
    effect: Effect::HandsOut,
    doc: Doc {
        id: "exchangeToken",
        tag: "token exchange",
        summary: "An access token of a connection, for an OAuth client (RFC 8693)",
        description: "The client is a caller: its name is the `client_id` and its API key the \
         `client_secret`, by `client_secret_basic` or `client_secret_post`. The subject is a connection's \
         name, `{app}:{connection}`, or the user's `id_token` or access token of that app. Unknown \
         parameters are passed over; of the known ones, only `resource` and `audience` may be repeated.",
        body: Document::Required(Content::form("TokenExchange", examples::TOKEN_EXCHANGE)),
        answer: (200, "A token that works now."),
        content: Some(Content::one("ExchangedToken", examples::EXCHANGED_TOKEN)),
        ..Doc::PLAIN
    },
};

/// `GET /.well-known/oauth-authorization-server`
pub(super) const METADATA: Route<LocalApi> = Route {
    method: "GET",
    path: metadata::PATH,
    handler: Run::Open(|api| json(StatusCode::OK, &Metadata::of(&api.issuer))),
    permission: Permission::Anybody,
    effect: Effect::None,
    doc: Doc {
        id: "tokenEndpointMetadata",
        tag: "token exchange",
        summary: "The metadata of the token endpoint (RFC 8414)",
        answer: (200, "The metadata."),
        content: Some(Content::one("TokenEndpointMetadata", examples::TOKEN_ENDPOINT_METADATA)),
        ..Doc::PLAIN
    },
};

/// What a client gets (RFC 8693 §2.2.1).
#[derive(Serialize)]
struct Issued<'a> {
    access_token: &'a str,
    issued_token_type: &'static str,
    token_type: &'static str,
    expires_in: u64,
    scope: String,
}

impl LocalApi {
    /// Finds out who asks: the `Authorization` header says so, else the form, else the peer. An explicit
    /// credential decides alone. Only without the header is the form read before the client is known; it is
    /// read again then, by [`LocalApi::token_endpoint`]. Returns the caller, and the body to read.
    pub(super) async fn client(
        &self,
        headers: &HeaderMap,
        peer: &Peer,
        body: Body,
    ) -> Result<(Authenticated, Body), NoCaller> {
        let malformed = |_| NoCaller::Unknown(AuthenticationFailure::Malformed);
        if let Some(presented) = client::of_header(headers).map_err(malformed)? {
            let known = self.named_caller(&presented).await.map_err(NoCaller::Unknown)?;
            return Ok((known, body));
        }
        let bytes = body::read(body).await.map_err(|problem| NoCaller::Body(Box::new(problem)))?;
        // What is wrong with the form is told to a caller that is known without it.
        let form = Form::read(headers, &bytes).ok();
        let presented = form.as_ref().map(client::of_form).transpose().map_err(malformed)?.flatten();
        let known = match presented {
            Some(presented) => self.named_caller(&presented).await,
            None => self.authenticate(Some(credential_of_peer(peer))).await,
        };
        Ok((known.map_err(NoCaller::Unknown)?, Body::whole(bytes)))
    }

    /// Returns the caller of a key, if its name is the one that stands beside it.
    async fn named_caller(
        &self,
        presented: &client::NameAndSecret,
    ) -> Result<Authenticated, AuthenticationFailure> {
        let known = self.authenticate(Some(Credential::ApiKey(&presented.secret))).await?;
        match known.caller.name.as_str() == presented.client_id {
            true => Ok(known),
            false => Err(AuthenticationFailure::Unknown),
        }
    }

    /// `POST /oauth2/token`
    async fn token_endpoint(&self, call: Call<'_>) -> Result<Response, Problem> {
        let Call { admitted, query, headers, body, streaming: _, who } = call;
        if !query.is_empty() {
            let problem = "must be empty here; send every parameter in the body, as a form";
            return Err(Problem::invalid("query", problem));
        }
        let form = Form::read(&headers, &body::read(body).await?)?;
        client::fits(&form, &admitted.caller().name, headers.contains_key(header::AUTHORIZATION))?;
        self.exchange((admitted, who), Exchange::read(&form)?).await
    }

    async fn exchange(
        &self,
        (admitted, who): (&Admitted<'_>, Who<'_>),
        Exchange { subject, wanted }: Exchange<'_>,
    ) -> Result<Response, Problem> {
        let mut asked = TokenBody::plain(wanted.scope, wanted.resource).min_ttl(wanted.min_ttl)?;
        // No OAuth client hands a challenge on.
        asked.without_cae = true;
        let key = match subject {
            Subject::Connection(key) => key,
            Subject::User { token, kind, named } => {
                let (key, user) = self.user((admitted, who), token, kind, &named).await?;
                asked.user = Some(user);
                key
            }
        };
        let served = self.served((admitted, who), &key, asked, false).await;
        let (served, life) = served.map_err(|problem| {
            let is_of_scopes = matches!(problem.code, "caller_forbidden" | "scope_not_granted");
            // Then the resource is what was refused.
            match is_of_scopes && wanted.scope.is_none() && wanted.resource.is_some() {
                true => problem.about("resource"),
                false => problem,
            }
        })?;
        let token = &served.token;
        let issued = Issued {
            access_token: token.access_token.expose(),
            issued_token_type: ACCESS_TOKEN,
            token_type: "Bearer",
            expires_in: life.as_secs(),
            scope: token.scopes.join(" "),
        };
        let mut response = json(StatusCode::OK, &issued);
        tell_not_to_store(response.headers_mut());
        tell_source(&mut response, &served);
        Ok(response)
    }

    /// Finds the connection that a user's token stands for.
    async fn user(
        &self,
        (admitted, who): (&Admitted<'_>, Who<'_>),
        token: &str,
        kind: Option<UserTokenKind>,
        named: &Named,
    ) -> Result<(ConnectionKey, OfUser), Problem> {
        let (caller, begun) = (admitted.caller(), self.clock.monotonic());
        match self.broker.connection_of(&caller.policy, token, kind, named, &self.issuer).await {
            Ok(Found { key, kind, account, actors }) => {
                let mut detail = BTreeMap::from([("subject_token", kind.as_str().to_owned())]);
                if !actors.is_empty() {
                    let actors: Vec<&str> = actors.iter().map(|actor| actor.sub.as_str()).collect();
                    detail.insert("actors", actors.join(", "));
                }
                Ok((key, OfUser { account, detail }))
            }
            Err(refusal) => {
                let problem = Problem::of(refusal).recorded();
                let elapsed = self.clock.monotonic().saturating_sub(begun);
                self.events
                    .refused_unnamed(who, &caller.name, named.app.as_ref(), problem.code, elapsed)
                    .await;
                Err(problem)
            }
        }
    }
}
