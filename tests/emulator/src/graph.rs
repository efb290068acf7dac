//! A part of Microsoft Graph: the user's profile, and what `mailbox` has.

use std::collections::HashMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::Method;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::clock::Moment;
use crate::directory::Audience;
use crate::issue::pairwise;
use crate::message::{Answer, Request};
use crate::scope::GRAPH;
use crate::state::{AccessToken, State};

/// Graph's own application id, as its challenges name it.
const GRAPH_APP: &str = "00000003-0000-0000-c000-000000000000";

/// How a claims challenge is spelt. Real services disagree.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ChallengeStyle {
    /// With `errorDescription`, as Graph writes it.
    #[default]
    Camel,
    /// With `error_description`, as the documentation has it.
    Snake,
    /// Behind a proof-of-possession challenge in the same header value.
    Joined,
    /// With unquoted values in another order.
    Unquoted,
}

/// Planned faults of Graph, and the users whose tokens it no longer accepts.
#[derive(Debug, Default)]
pub(crate) struct GraphState {
    /// Calls still to be challenged, the user they are limited to, and the spelling.
    pub(crate) challenges: Vec<Pending<ChallengeStyle>>,
    /// Calls still to be throttled, with `Retry-After` seconds.
    pub(crate) throttles: Vec<Pending<u64>>,
    /// Users whose sessions were revoked: the last serial before, and when.
    pub(crate) revoked: HashMap<String, (u64, Moment)>,
}

/// A fault for the next calls.
#[derive(Clone, Debug)]
pub(crate) struct Pending<T> {
    pub(crate) user: Option<String>,
    pub(crate) left: u32,
    pub(crate) what: T,
}

impl State {
    /// Answers a Graph call; `path` starts with `/v1.0` or is `/oidc/userinfo`.
    pub(crate) fn graph(&mut self, request: &Request, path: &str) -> Answer {
        let found = request.bearer().and_then(|text| self.access_tokens.get(text)).cloned();
        let Some(token) = found else {
            let what = if request.bearer().is_some() {
                "IDX14100: JWT is not well formed or was not issued here."
            } else {
                "Access token is empty."
            };
            return self.unauthorized(request, what);
        };
        let mut answer = self.graph_with(request, path, &token);
        answer.notes.client_id = Some(token.client_id);
        answer.notes.user = token.upn;
        answer.notes.access_presented = Some(token.serial);
        answer
    }

    pub(crate) fn graph_with(&mut self, request: &Request, path: &str, token: &AccessToken) -> Answer {
        let now = self.clock.now();
        if token.resource != GRAPH {
            return self.unauthorized(request, "Access token validation failure. Invalid audience.");
        }
        if token.expires_at <= now {
            return self.unauthorized(request, "Lifetime validation failed, the token is expired.");
        }
        let upn = token.upn.as_deref();
        if let Some(seconds) = take(&mut self.graph.throttles, upn) {
            let body = self.graph_error(
                request,
                "TooManyRequests",
                "Please retry after the given number of seconds.",
            );
            return Answer::json(429, body).header("retry-after", seconds.to_string());
        }
        if let Some(style) = take(&mut self.graph.challenges, upn) {
            return self.challenge(request, style, now);
        }
        if token.cae
            && let Some((last, at)) =
                upn.and_then(|upn| self.graph.revoked.get(&upn.to_ascii_lowercase())).copied()
            && token.serial <= last
        {
            return self.challenge(request, ChallengeStyle::Camel, at);
        }
        if request.method == Method::POST && path == "/v1.0/$batch" {
            return self.batch(request, token);
        }
        if upn.is_none()
            && let Some(rest) = path.strip_prefix("/v1.0/applications(appId='")
            && let Some(client_id) = rest.strip_suffix("')")
        {
            return self.application(request, &token.client_id, client_id);
        }
        let Some(account) = upn.and_then(|upn| self.directory.account(upn)).cloned() else {
            let body = self.graph_error(
                request,
                "BadRequest",
                "/me request is only valid with delegated authentication flow.",
            );
            return Answer::json(400, body);
        };
        let names = |wanted: &dyn Fn(&str) -> bool| {
            token.scopes.iter().any(|scope| wanted(&scope.name.to_ascii_lowercase()))
        };
        let user = &account.user;
        let scopes: Vec<String> = token.scopes.iter().map(|scope| scope.name.to_ascii_lowercase()).collect();
        if let Some(answer) = self.mailbox(request, path, user, &scopes) {
            return answer;
        }
        match path.trim_end_matches('/') {
            "/v1.0/me" if names(&|name| name.starts_with("user.read") || name.starts_with("mail.")) => {
                Answer::json(
                    200,
                    json!({
                        "@odata.context": format!("{}/v1.0/$metadata#users/$entity", self.base),
                        "id": user.oid, "displayName": user.name, "userPrincipalName": user.upn,
                        "mail": user.upn,
                        "businessPhones": [], "preferredLanguage": "en-US",
                    }),
                )
            }
            "/oidc/userinfo" => Answer::json(
                200,
                json!({ "sub": pairwise(&token.client_id, user), "name": user.name, "email": user.upn }),
            ),
            "/v1.0/me" => Answer::json(
                403,
                self.graph_error(
                    request,
                    "ErrorAccessDenied",
                    "Access is denied. Check credentials and try again.",
                ),
            ),
            _ => Answer::json(
                404,
                self.graph_error(request, "ResourceNotFound", "Resource could not be discovered."),
            ),
        }
    }

    /// An app reads a registration: with an application permission for it, or only where it may not.
    fn application(&self, request: &Request, asker: &str, client_id: &str) -> Answer {
        const READS_ALL: [&str; 2] = ["Application.Read.All", "Application.ReadWrite.All"];
        let may = self.directory.apps.get(asker).is_some_and(|app| {
            let mut roles = app.app.app_roles.iter();
            roles.any(|role| {
                let owns = role == "Application.ReadWrite.OwnedBy" && asker == client_id;
                owns || READS_ALL.contains(&role.as_str())
            })
        });
        if !may {
            let words = "Insufficient privileges to complete the operation.";
            return Answer::json(403, self.graph_error(request, "Authorization_RequestDenied", words));
        }
        let Some(found) = self.directory.apps.get(client_id) else {
            let words = format!(
                "Resource '{client_id}' does not exist or one of its queried reference-property objects are \
                 not present."
            );
            return Answer::json(404, self.graph_error(request, "Request_ResourceNotFound", &words));
        };
        let audience = match &found.app.audience {
            Audience::WorkAndPersonal => "AzureADandPersonalMicrosoftAccount",
            Audience::Work => "AzureADMultipleOrgs",
            Audience::Personal => "PersonalMicrosoftAccount",
            Audience::SingleTenant(_) => "AzureADMyOrg",
        };
        let no_implicit = json!({ "enableAccessTokenIssuance": false, "enableIdTokenIssuance": false });
        Answer::json(
            200,
            json!({
                "@odata.context": format!(
                    "{}/v1.0/$metadata#applications(web,spa,publicClient,signInAudience)/$entity", self.base),
                "signInAudience": audience,
                "web": {
                    "homePageUrl": null, "logoutUrl": null, "redirectUris": found.app.redirect_uris,
                    "implicitGrantSettings": no_implicit,
                },
                "spa": { "redirectUris": found.app.spa_redirect_uris },
                "publicClient": { "redirectUris": [] },
            }),
        )
    }

    fn unauthorized(&self, request: &Request, message: &str) -> Answer {
        let header = format!(
            "Bearer realm=\"\", authorization_uri=\"{}/common/oauth2/authorize\", client_id=\"{GRAPH_APP}\"",
            self.base
        );
        Answer::json(401, self.graph_error(request, "InvalidAuthenticationToken", message))
            .header("www-authenticate", header)
    }

    fn challenge(&self, request: &Request, style: ChallengeStyle, not_before: Moment) -> Answer {
        let nbf = json!({ "essential": true, "value": not_before.secs().to_string() });
        let claims = json!({ "access_token": { "nbf": nbf } });
        let claims = STANDARD.encode(claims.to_string());
        let uri = format!("{}/common/oauth2/authorize", self.base);
        let why = "Continuous access evaluation resulted in challenge with result: InteractionRequired and \
            code: TokenIssuedBeforeRevocationTimestamp";
        let camel = format!(
            "Bearer realm=\"\", authorization_uri=\"{uri}\", client_id=\"{GRAPH_APP}\", \
             errorDescription=\"{why}\", error=\"insufficient_claims\", claims=\"{claims}\""
        );
        let header = match style {
            ChallengeStyle::Camel => camel,
            ChallengeStyle::Snake => camel.replace("errorDescription", "error_description"),
            ChallengeStyle::Joined => format!(
                "PoP realm=\"\", authorization_uri=\"{uri}\", client_id=\"{GRAPH_APP}\", \
                 error=\"invalid_token\", {camel}"
            ),
            ChallengeStyle::Unquoted => {
                format!(
                    "Bearer claims=\"{claims}\", error=insufficient_claims, client_id={GRAPH_APP}, \
                     realm=\"\", authorization_uri=\"{uri}\""
                )
            }
        };
        let message = "Continuous access evaluation resulted in challenge with result: InteractionRequired \
            and code: TokenIssuedBeforeRevocationTimestamp";
        let mut answer = Answer::json(401, self.graph_error(request, "InvalidAuthenticationToken", message))
            .header("www-authenticate", header);
        answer.notes.error = Some("insufficient_claims".into());
        answer
    }

    pub(crate) fn graph_error(&self, request: &Request, code: &str, message: &str) -> Value {
        json!({ "error": {
            "code": code, "message": message,
            "innerError": {
                "date": self.clock.now().in_error_body().trim_end_matches('Z').replace(' ', "T"),
                "request-id": request.ids.trace, "client-request-id": request.ids.correlation,
            },
        }})
    }
}

/// Takes one of the faults planned for this user.
fn take<T: Copy>(waiting: &mut Vec<Pending<T>>, upn: Option<&str>) -> Option<T> {
    let fits = |one: &Pending<T>| {
        one.user.as_deref().is_none_or(|wanted| upn.is_some_and(|upn| upn.eq_ignore_ascii_case(wanted)))
    };
    let at = waiting.iter().position(fits)?;
    let what = waiting[at].what;
    waiting[at].left = waiting[at].left.saturating_sub(1);
    waiting.retain(|one| one.left > 0);
    Some(what)
}
