//! What each route of the local API does.

use std::time::Duration;

use http::{HeaderValue, StatusCode, header};
use serde::Serialize;

use super::token_answer::TokenAnswer;
use super::with_token::{PLACE, with_token};
use super::{Call, LocalApi, entity_tag};
use crate::api::problem::{Problem, json};
use crate::api::shapes::{AccountShape, ConnectionShape, ExplainShape, Reader, SessionShape};
use crate::api::token_body::{OfUser, TokenBody, min_ttl};
use crate::api::{body, code_of, list_request, no_content, page_shape};
use crate::broker::app_tokens::AppToken;
use crate::broker::inspect::Shown;
use crate::broker::{App, Refusal};
use crate::callers::limit::Admitted;
use crate::domain::app_only::AppTenant;
use crate::domain::id::{AppName, ConnectionKey, SessionId};
use crate::domain::scope::LONGEST_SCOPE;
use crate::events::{AppHandOut, HandOut, Who};
use crate::listener::{Pairs, Response};
use crate::refresh::{Served, TokenSource, Want};
use crate::telemetry::audit::TokenWords;

/// The longest that a long poll may wait.
const MOST_WAIT: u64 = 60;

/// Response header that names the promise not kept. `store`: this answer was not compared with the store
/// within the last second.
pub const DEGRADED: &str = "tokenward-degraded";

/// Response header of a token: where it came from.
pub(super) const SOURCE: &str = "tokenward-source";

impl LocalApi {
    /// `GET …/connections/{connection}/token`
    pub(super) async fn token(&self, call: Call<'_>, key: &ConnectionKey) -> Result<Response, Problem> {
        let asked = TokenBody::of_query(&call.query)?;
        let known = call.headers.get_all(header::IF_NONE_MATCH);
        let response = self.hand_out((call.admitted, call.who), key, asked, wants_link(&call.query)?).await?;
        Ok(entity_tag::unless_known(response, known))
    }

    /// `POST …/connections/{connection}/token`
    pub(super) async fn token_after_refusal(
        &self,
        call: Call<'_>,
        key: &ConnectionKey,
    ) -> Result<Response, Problem> {
        let asked = TokenBody::read(&body::read(call.body).await?)?;
        self.hand_out((call.admitted, call.who), key, asked, wants_link(&call.query)?).await
    }

    /// `GET /v1/apps/{app}/token`
    pub(super) async fn app_token(&self, call: Call<'_>, app: &AppName) -> Result<Response, Problem> {
        let (resource, min_ttl) = (call.query.value("resource"), call.query.value("min_ttl"));
        let (asked, tenant) = (asked_of_app(resource, min_ttl), call.query.value("tenant"));
        let (AppToken { token, tenant, resource, source }, life) =
            self.app_served((call.admitted, call.who), app, tenant, asked).await?;
        let shape = AppTokenShape {
            access_token: PLACE,
            token_type: "Bearer",
            expires_in: life.as_secs(),
            expires_at: token.expires_at.rfc3339(),
            app: app.as_str(),
            tenant: &tenant,
            resource: resource.as_deref(),
        };
        let mut response = with_token(&shape, &token.access_token);
        response.headers_mut().insert(header::ETAG, entity_tag::of(&[&token.digest]));
        tell_source_of(&mut response, source);
        Ok(entity_tag::unless_known(response, call.headers.get_all(header::IF_NONE_MATCH)))
    }

    /// Gets a token of the app itself for any dialect, counted and recorded. `asked` is the resource and the
    /// `min_ttl`. Returns the token with the life it has left.
    pub(super) async fn app_served(
        &self,
        (admitted, who): (&Admitted<'_>, Who<'_>),
        app: &AppName,
        tenant: Option<&str>,
        asked: Result<(Option<&str>, Duration), Refusal>,
    ) -> Result<(AppToken, Duration), Problem> {
        let (caller, begun) = (admitted.caller(), self.clock.monotonic());
        let outcome = match asked {
            Ok((resource, min_ttl)) => {
                let permit = self.broker.may_have_app_token(&caller.policy, app, tenant, resource);
                match permit {
                    Ok(permit) => self.broker.app_token(permit, min_ttl).await,
                    Err(refusal) => Err(refusal),
                }
            }
            Err(refusal) => Err(refusal),
        };
        let elapsed = self.clock.monotonic().saturating_sub(begun);
        match outcome {
            Ok(served) => {
                let life = served.token.life_left(self.clock.now());
                let (caller, resource) = (&caller.name, served.resource.as_deref());
                let token = &*served.token;
                let out = AppHandOut { caller, app, tenant: &served.tenant, resource, token, life, elapsed };
                let recorded = self.events.app_token_handed_out(who, out).await;
                recorded.map_err(|refusal| Problem::of(refusal).recorded())?;
                Ok((served, life))
            }
            Err(refusal) => {
                let problem = Problem::of_app(refusal);
                let tenant = tenant.filter(|tenant| AppTenant::parse(tenant).is_ok());
                self.events.app_token_refused(who, &caller.name, (app, tenant), problem.code, elapsed).await;
                Err(problem.recorded())
            }
        }
    }

    /// `GET …/connections/{connection}`
    pub(super) async fn show(&self, call: Call<'_>, key: &ConnectionKey) -> Result<Response, Problem> {
        let shown = self.shown(&call, key).await?;
        Ok(json(StatusCode::OK, &ConnectionShape::from(&shown)))
    }

    /// `GET …/connections/{connection}/explain`
    pub(super) async fn explain(&self, call: Call<'_>, key: &ConnectionKey) -> Result<Response, Problem> {
        let shown = self.shown(&call, key).await?;
        Ok(json(StatusCode::OK, &ExplainShape::new(&shown, &self.broker.attempts(&shown), Reader::Caller)))
    }

    async fn shown(&self, call: &Call<'_>, key: &ConnectionKey) -> Result<Shown, Problem> {
        let permit = call.caller().policy.may_see(key).map_err(|denial| Problem::of(denial.into()))?;
        self.broker.show(permit).await.map_err(Problem::of)
    }

    /// `DELETE …/connections/{connection}`
    pub(super) async fn delete(&self, call: Call<'_>, key: &ConnectionKey) -> Result<Response, Problem> {
        let outcome = match self.broker.may_connect(&call.caller().policy, key).await {
            Ok(right) => self.broker.delete(right).await,
            Err(refusal) => Err(refusal),
        };
        self.events.deleted(call.who, &call.caller().name, key, code_of(&outcome)).await;
        outcome.map_err(|refusal| Problem::of(refusal).recorded())?;
        Ok(no_content())
    }

    /// `GET …/connections`
    pub(super) async fn list(&self, call: Call<'_>, app: &AppName) -> Result<Response, Problem> {
        let request = list_request(&self.broker, app, &call.query)?;
        let page = self.broker.list(&call.caller().policy, app, &request).await.map_err(Problem::of)?;
        // The request itself paid for the first one.
        call.admitted.charge(page.pages_read().saturating_sub(1), self.clock.monotonic());
        Ok(json(StatusCode::OK, &page_shape(&self.broker, app, &page)))
    }

    /// `GET /v1/connect-sessions/{id}`
    pub(super) async fn session(&self, call: Call<'_>, id: &SessionId) -> Result<Response, Problem> {
        let wait = wait_of(&call.query)?;
        let state = self.broker.session_state(&call.caller().policy, id, wait).await.map_err(Problem::of)?;
        Ok(json(StatusCode::OK, &SessionShape::from(&state)))
    }

    /// `GET /v1/admin-consent-sessions/{id}`
    pub(super) async fn admin_consent(&self, call: Call<'_>, id: &SessionId) -> Result<Response, Problem> {
        let state = self.broker.admin_consent_state(&call.caller().policy, id).await.map_err(Problem::of)?;
        Ok(json(StatusCode::OK, &body::consent_shape(&state)))
    }

    /// `POST /v1/connect-sessions`
    pub(super) async fn start_session(&self, call: Call<'_>) -> Result<Response, Problem> {
        #[derive(Serialize)]
        struct Started {
            id: String,
            connect_url: String,
            expires_at: String,
            #[serde(skip_serializing_if = "Option::is_none")]
            remark: Option<String>,
            #[serde(skip_serializing_if = "Option::is_none")]
            consent: Option<Consent>,
        }
        #[derive(Serialize)]
        struct Consent {
            scopes_added: Vec<String>,
            administrator: &'static str,
        }
        let (caller, who) = (call.admitted.caller(), call.who);
        let (key, session) = body::new_session(body::read(call.body).await?)?;
        let started = match self.broker.may_connect(&caller.policy, &key).await {
            Ok(right) => self.broker.start_session(&right, session).await,
            Err(refusal) => Err(refusal),
        };
        let started = match started {
            Ok(started) => started,
            Err(refusal) => {
                let problem = Problem::of(refusal);
                self.events.connect_started(who, &caller.name, &key, problem.code).await;
                return Err(problem.recorded());
            }
        };
        self.events.connect_started(who, &caller.name, &key, "ok").await;
        if let Some(remark) = &started.remark {
            tracing::info!(
                request_id = %who.request_id,
                caller = %caller.name,
                app = %key.app,
                connection = %key.connection,
                remark
            );
        }
        let shape = Started {
            id: started.id.expose().to_owned(),
            connect_url: started.connect_url,
            expires_at: started.expires_at.rfc3339(),
            remark: started.remark,
            consent: started.consent.map(|ahead| Consent {
                scopes_added: ahead.scopes_added,
                administrator: if ahead.needs_administrator { "likely" } else { "not_needed" },
            }),
        };
        Ok(json(StatusCode::CREATED, &shape))
    }

    /// `POST /v1/connect-sessions/{id}/confirm`
    pub(super) async fn confirm(&self, call: Call<'_>, session: &SessionId) -> Result<Response, Problem> {
        #[derive(Serialize)]
        struct Confirmed {
            state: &'static str,
            account: AccountShape,
        }
        let (caller, who) = (call.admitted.caller(), call.who);
        let confirmation = body::confirmation(body::read(call.body).await?)?;
        let request_id = who.request_id.as_str();
        match self.broker.confirm(&caller.policy, session, confirmation, request_id).await {
            Ok((key, account)) => {
                self.events.confirmed(who, &caller.name, &key, &account, session).await;
                Ok(json(StatusCode::OK, &Confirmed { state: "connected", account: (&account).into() }))
            }
            Err(refusal) => {
                let problem = Problem::of(refusal);
                self.events.confirmation_refused(who, &caller.name, session, problem.code).await;
                Err(problem.recorded())
            }
        }
    }

    /// `POST /v1/admin-consent-sessions`
    pub(super) async fn start_admin_consent(&self, call: Call<'_>) -> Result<Response, Problem> {
        #[derive(Serialize)]
        struct Started {
            id: String,
            admin_consent_url: String,
            expires_at: String,
        }
        let (caller, who) = (call.admitted.caller(), call.who);
        let body::NewAdminConsent { app, tenant, return_url } =
            body::new_admin_consent(body::read(call.body).await?)?;
        let started = match caller.policy.can_connect_to(&app) {
            Ok(permit) => self.broker.start_admin_consent(permit, tenant, return_url).await,
            Err(denial) => Err(denial.into()),
        };
        self.events.admin_consent_started(who, &caller.name, &app, code_of(&started)).await;
        let started = started.map_err(|refusal| Problem::of(refusal).recorded())?;
        let shape = Started {
            id: started.id.expose().to_owned(),
            admin_consent_url: started.admin_consent_url,
            expires_at: started.expires_at.rfc3339(),
        };
        Ok(json(StatusCode::CREATED, &shape))
    }

    /// Hands a token out; with `connect`, a refusal brings the link at which its user can mend it.
    async fn hand_out(
        &self,
        (admitted, who): (&Admitted<'_>, Who<'_>),
        key: &ConnectionKey,
        asked: TokenBody,
        connect: bool,
    ) -> Result<Response, Problem> {
        let (served, life) = self.served((admitted, who), key, asked, connect).await?;
        Ok(self.token_response(key, &served, life))
    }

    /// Gets a token for any dialect, counted and recorded. Returns it with the life it has left.
    pub(super) async fn served(
        &self,
        caller: (&Admitted<'_>, Who<'_>),
        key: &ConnectionKey,
        mut asked: TokenBody,
        connect: bool,
    ) -> Result<(Served, Duration), Problem> {
        let user = asked.user.take();
        self.served_as(caller, key, user, |app| asked.want(app.naming()), connect).await
    }

    /// The same for a request that only its app's words explain; `user` is whose token it must be.
    pub(super) async fn served_as(
        &self,
        (admitted, who): (&Admitted<'_>, Who<'_>),
        key: &ConnectionKey,
        user: Option<OfUser>,
        ask: impl FnOnce(&App) -> Result<Want, Refusal>,
        connect: bool,
    ) -> Result<(Served, Duration), Problem> {
        let (account, detail) = user.map_or_else(Default::default, |user| (Some(user.account), user.detail));
        let (caller, begun) = (admitted.caller(), self.clock.monotonic());
        let taken = admitted.take_for(key, begun);
        let permit = taken.map_err(|after| Refusal::ConnectionRateLimited { retry_after: after.0 });
        let outcome = match permit.and_then(|()| Ok(caller.policy.may_see(key)?)) {
            Ok(permit) => self.broker.token_of(permit, account.as_ref(), ask).await,
            Err(refusal) => Err(refusal),
        };
        let elapsed = self.clock.monotonic().saturating_sub(begun);
        match outcome {
            Ok(served) => {
                let now = self.clock.now();
                let token = served.token();
                let life = token.life_left(now);
                let words = served.prepared(|| TokenWords::of(token));
                let out = HandOut { caller: &caller.name, key, words, life, elapsed, detail };
                let recorded = self.events.handed_out(who, out).await;
                recorded.map_err(|refusal| Problem::of(refusal).recorded())?;
                Ok((served, life))
            }
            Err(refusal) => {
                Err(Box::pin(self.not_served((admitted, who), key, refusal, elapsed, connect)).await)
            }
        }
    }

    /// Records that there is no token, and makes the link at which its user can mend it, if one is asked for.
    async fn not_served(
        &self,
        (admitted, who): (&Admitted<'_>, Who<'_>),
        key: &ConnectionKey,
        refusal: Refusal,
        elapsed: Duration,
        connect: bool,
    ) -> Problem {
        let caller = admitted.caller();
        // Only where the user's act would mend it.
        let mendable = matches!(
            refusal,
            Refusal::ReauthorizationRequired { .. }
                | Refusal::ConnectionNotFound
                | Refusal::ScopeNotGranted { .. }
        );
        let problem = Problem::of(refusal).recorded();
        self.events.refused(who, &caller.name, key, problem.code, elapsed).await;
        if !connect || !mendable {
            return problem;
        }
        let invited = match self.broker.may_connect(&caller.policy, key).await {
            Ok(right) => self.broker.invite(&right).await,
            Err(refusal) => Err(refusal),
        };
        match invited {
            Ok(invited) => {
                self.events.connect_started(who, &caller.name, key, "ok").await;
                problem.with_connect_url(invited.connect_url)
            }
            // The first problem is the answer; why there is no link beside it is for the log.
            Err(refusal) => {
                self.events.connect_started(who, &caller.name, key, refusal.outside().code).await;
                problem
            }
        }
    }

    fn token_response(&self, key: &ConnectionKey, served: &Served, life: Duration) -> Response {
        let answer = served.prepared(|| TokenAnswer::new(key, served));
        let mut response = answer.response(served, life, self.clock.now());
        tell_source(&mut response, served);
        response
    }
}

/// Reads what a token of the app itself is to be for, and its `min_ttl`.
pub(super) fn asked_of_app<'a>(
    resource: Option<&'a str>,
    asked_ttl: Option<&str>,
) -> Result<(Option<&'a str>, Duration), Refusal> {
    if resource.is_some_and(|resource| resource.len() > LONGEST_SCOPE) {
        return Err(Refusal::invalid("resource", "is longer than any resource's name"));
    }
    Ok((resource, min_ttl(asked_ttl.map(str::parse::<u64>))?))
}

/// Says where a served token came from, and which promise it does not keep.
pub(super) fn tell_source(response: &mut Response, served: &Served) {
    tell_source_of(response, served.source);
    if served.degraded {
        response.headers_mut().insert(DEGRADED, HeaderValue::from_static("store"));
    }
}

/// Says where a token came from.
pub(super) fn tell_source_of(response: &mut Response, source: TokenSource) {
    response.headers_mut().insert(SOURCE, HeaderValue::from_static(source.as_str()));
}

/// Whether a refusal is to bring a connect link.
pub(super) fn wants_link(query: &Pairs) -> Result<bool, Problem> {
    match query.value("connect") {
        None | Some("0") => Ok(false),
        Some("1") => Ok(true),
        Some(_) => Err(Problem::invalid("connect", "must be 1, or left out")),
    }
}

fn wait_of(query: &Pairs) -> Result<Duration, Problem> {
    match query.value("wait") {
        None => Ok(Duration::ZERO),
        // (Any number of digits: more than a minute counts as a minute.)
        Some(text) if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) => {
            Ok(Duration::from_secs(text.parse().unwrap_or(MOST_WAIT).min(MOST_WAIT)))
        }
        Some(_) => Err(Problem::invalid("wait", "must be whole seconds; more than 60 count as 60")),
    }
}

#[derive(Serialize)]
struct AppTokenShape<'a> {
    access_token: &'static str,
    token_type: &'static str,
    expires_in: u64,
    expires_at: String,
    app: &'a str,
    tenant: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    resource: Option<&'a str>,
}
