//! The OAuth token endpoint (RFC 6749 §3.2): token exchange (RFC 8693), an app's own token (§4.4), and the
//! metadata (RFC 8414).

use std::collections::BTreeMap;

use http::{HeaderMap, StatusCode, header};
use serde::Serialize;

use super::handlers::{asked_of_app, tell_source, tell_source_of};
use super::with_token::{PLACE, with_token};
use super::{Call, LocalApi, NoCaller, examples};
use crate::api::dialect::tell_not_to_store;
use crate::api::doc::{Body as Document, Content, Doc};
use crate::api::problem::{Problem, json};
use crate::api::routes::{Effect, Permission, Route, Run};
use crate::api::token_body::{OfUser, TokenBody};
use crate::api::token_endpoint::client::{self, OfForm};
use crate::api::token_endpoint::form::Form;
use crate::api::token_endpoint::metadata::{self, Metadata};
use crate::api::token_endpoint::request::{ACCESS_TOKEN, Asked, Exchange, OfApp, Subject};
use crate::api::{body, credential_of_peer};
use crate::authority::UserTokenKind;
use crate::broker::Refusal;
use crate::broker::exchange::{Found, Named};
use crate::callers::client_assertion::{ClientAssertion, Once};
use crate::callers::jwt::JwtRefusal;
use crate::callers::limit::Admitted;
use crate::callers::{Authenticated, AuthenticationFailure, Credential};
use crate::domain::id::ConnectionKey;
use crate::events::Who;
use crate::listener::{Body, Peer, Response};
use crate::policy::AppsOfTokens;

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
        summary: "An access token of a connection (RFC 8693), or of an app itself, for an OAuth client",
        description: "The client is a caller: its name is the `client_id` and its API key the \
         `client_secret`, by `client_secret_basic` or `client_secret_post`; or it signs a JWT with a key of \
         its own (`private_key_jwt`). The subject is a connection's name, `{app}:{connection}`, or the \
         user's `id_token` or access token of that app. `client_credentials` gets a token of the app itself, \
         for callers with `app_only`. Unknown parameters are passed over; of the known ones, only \
         `resource` and `audience` may be repeated.",
        body: Document::Required(Content::form("TokenEndpointRequest", examples::TOKEN_EXCHANGE)),
        answer: (200, "A token that works now."),
        content: Some(Content::one("ExchangedToken", examples::EXCHANGED_TOKEN)),
        ..Doc::PLAIN
    },
};

/// `GET /.well-known/oauth-authorization-server`
pub(super) const METADATA: Route<LocalApi> = Route {
    method: "GET",
    path: metadata::PATH,
    handler: Run::Open(|api| json(StatusCode::OK, &Metadata::of(&api.url.issuer, api.accepted.current()))),
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
struct Issued {
    access_token: &'static str,
    issued_token_type: &'static str,
    token_type: &'static str,
    expires_in: u64,
    scope: String,
}

/// Who asks at the token endpoint.
pub(super) struct Client {
    pub(super) known: Authenticated,
    /// The assertion that it came with, if that is good for one request.
    pub(super) once: Option<Once>,
    /// The body, to be read again.
    pub(super) body: Body,
}

/// What a client gets for an app itself (RFC 6749 §5.1).
#[derive(Serialize)]
struct OwnToken {
    access_token: &'static str,
    token_type: &'static str,
    expires_in: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    scope: Option<String>,
}

/// The refusal of a request that names no app, of a caller whose rules do not name just one.
fn no_app(gives: AppsOfTokens<'_>) -> Problem {
    match gives {
        AppsOfTokens::None => {
            let problem = "no rule of this caller gives tokens of an app itself (`app_only`)".to_owned();
            Problem::of(Refusal::Forbidden { problem }).about("grant_type")
        }
        _ => Problem::invalid("audience", "must name the app: the rules give tokens of several"),
    }
}

impl LocalApi {
    /// Finds out who asks: the `Authorization` header says so, else the form, else the peer. An explicit
    /// credential decides alone. Only without the header is the form read before the client is known; it is
    /// read again then, by [`LocalApi::token_endpoint`].
    pub(super) async fn client(
        &self,
        headers: &HeaderMap,
        peer: &Peer,
        body: Body,
    ) -> Result<Client, NoCaller> {
        let malformed = |_| NoCaller::from(AuthenticationFailure::Malformed);
        if let Some(presented) = client::of_header(headers).map_err(malformed)? {
            let known = self.named_caller(&presented).await?;
            return Ok(Client { known, once: None, body });
        }
        let bytes = body::read(body).await.map_err(|problem| NoCaller::Body(Box::new(problem)))?;
        // What is wrong with the form is told to a caller that is known without it.
        let form = Form::read(headers, &bytes).ok();
        let presented = form.as_ref().map(client::of_form).transpose().map_err(malformed)?.flatten();
        let alone = |known| (known, None);
        let known = match presented {
            Some(OfForm::Secret(presented)) => self.named_caller(&presented).await.map(alone),
            Some(OfForm::Assertion(text, client_id)) => {
                let presented = ClientAssertion { text, client_id, audience: &self.url.issuer };
                let (accepted, callers) = (self.accepted.current(), self.callers.load_full());
                callers.authenticate_client(presented, accepted, self.clock.as_ref()).await
            }
            None => self.authenticate(Some(credential_of_peer(peer))).await.map(alone),
        };
        let (known, once) = known?;
        Ok(Client { known, once, body: Body::whole(bytes) })
    }

    /// Marks an admitted client's assertion as used. One that was used before is nobody's, and costs the
    /// caller nothing of its rate.
    pub(super) async fn use_once(
        &self,
        who: Who<'_>,
        admitted: &Admitted<'_>,
        once: &Once,
    ) -> Result<(), Problem> {
        let begun = self.clock.monotonic();
        match self.broker.use_once(&once.name, once.until).await {
            Ok(true) => Ok(()),
            Ok(false) => {
                admitted.give_back();
                self.events.unauthenticated(who, JwtRefusal::Replayed.into());
                Err(Problem::unauthenticated())
            }
            Err(refusal) => {
                let (problem, now) = (Problem::of(refusal), self.clock.monotonic());
                let elapsed = now.saturating_sub(begun);
                self.events.refused_unnamed(who, &admitted.caller().name, None, problem.code, elapsed).await;
                Err(problem)
            }
        }
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
        let Call { admitted, method: _, query, headers, body, streaming: _, handle: _, who } = call;
        if !query.is_empty() {
            let problem = "must be empty here; send every parameter in the body, as a form";
            return Err(Problem::invalid("query", problem));
        }
        let form = Form::read(&headers, &body::read(body).await?)?;
        client::fits(&form, &admitted.caller().name, headers.contains_key(header::AUTHORIZATION))?;
        match Asked::read(&form)? {
            Asked::Exchange(exchange) => self.exchange((admitted, who), exchange).await,
            Asked::OfApp(asked) => self.own_token((admitted, who), asked).await,
        }
    }

    /// A token of an app itself (RFC 6749 §4.4).
    async fn own_token(
        &self,
        (admitted, who): (&Admitted<'_>, Who<'_>),
        OfApp { app, tenant, resource, named_in, min_ttl }: OfApp<'_>,
    ) -> Result<Response, Problem> {
        let policy = &admitted.caller().policy;
        let (is_named, gives) = (app.is_some(), policy.apps_of_tokens());
        let app = match (app, gives) {
            (Some(app), _) => app,
            (None, AppsOfTokens::One(app)) => app.clone(),
            (None, gives) => return Err(no_app(gives)),
        };
        let asked = asked_of_app(resource, min_ttl);
        let served = self.app_served((admitted, who), &app, tenant, asked).await;
        let (served, life) = served.map_err(|problem| match problem.code {
            "caller_forbidden" if gives == AppsOfTokens::None => problem.about("grant_type"),
            "caller_forbidden" => problem.about(tenant.map_or(named_in, |_| "tenant")),
            "app_not_found" if is_named => problem.about("audience"),
            _ if problem.parameter() == Some("resource") => problem.about(named_in),
            _ => problem,
        })?;
        let token = &*served.token;
        let issued = OwnToken {
            access_token: PLACE,
            token_type: "Bearer",
            expires_in: life.as_secs(),
            scope: Some(token.scopes.join(" ")).filter(|scope| !scope.is_empty()),
        };
        let mut response = with_token(&issued, &token.access_token);
        tell_not_to_store(response.headers_mut());
        tell_source_of(&mut response, served.source);
        Ok(response)
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
        let token = served.token();
        let issued = Issued {
            access_token: PLACE,
            issued_token_type: ACCESS_TOKEN,
            token_type: "Bearer",
            expires_in: life.as_secs(),
            scope: token.scopes.join(" "),
        };
        let mut response = with_token(&issued, &token.access_token);
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
        match self.broker.connection_of(&caller.policy, token, kind, named, &self.url.issuer).await {
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
