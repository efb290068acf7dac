//! The controls over HTTP, under `/_emulator`. All bodies are JSON; README.md lists them.

use std::time::Duration;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::directory::FederatedCredential;
use crate::faults::{FaultRule, merge};
use crate::graph::{ChallengeStyle, Pending};
use crate::message::{Answer, Request};
use crate::server::Shared;
use crate::settings::{ConsentPolicy, Settings};
use crate::spec::{AppSpec, FederatedSpec, SecretSpec, UserSpec};
use crate::state::{RevokeKind, State};

/// Most events of webhooks that are remembered.
const MOST_EVENTS: usize = 100;

/// Why a knob did not turn: the status and the reason.
type Refusal = (u16, String);

/// Answers `/_emulator{rest}`.
pub(crate) fn handle(shared: &Shared, request: &Request, rest: &str) -> Answer {
    // A page of another origin must not use the controls behind the developer's back.
    if request.header("origin").is_some() {
        return Answer::json(403, json!({ "error": "knobs are not for web pages" }));
    }
    match shared.state().turn(request, rest) {
        Ok(body) => Answer::json(200, body),
        Err((status, error)) => Answer::json(status, json!({ "error": error })),
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Advance {
    #[serde(default)]
    advance_seconds: u64,
    #[serde(default)]
    advance_millis: u64,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Revoke {
    kind: RevokeKind,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SignInAs {
    upn: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Rotate {
    #[serde(default = "yes")]
    overlap: bool,
}

/// A secret by its value or its key id.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WhichSecret {
    secret: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Certificates {
    certificates: Vec<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Policy {
    #[serde(default)]
    tenant: Option<String>,
    policy: ConsentPolicy,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct AdminConsent {
    tenant: String,
    client_id: String,
    #[serde(default)]
    scope: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Challenge {
    #[serde(default)]
    user: Option<String>,
    #[serde(default = "once")]
    times: u32,
    #[serde(default)]
    style: ChallengeStyle,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Throttle {
    #[serde(default)]
    user: Option<String>,
    #[serde(default = "once")]
    times: u32,
    #[serde(default = "ten")]
    retry_after_seconds: u64,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Inspect {
    token: String,
}

fn yes() -> bool {
    true
}

fn once() -> u32 {
    1
}

fn ten() -> u64 {
    10
}

impl State {
    fn turn(&mut self, request: &Request, rest: &str) -> Result<Value, Refusal> {
        let segments: Vec<_> = rest.trim_matches('/').split('/').collect();
        let done = || Ok(json!({}));
        match (request.method.as_str(), segments.as_slice()) {
            ("GET", ["health"]) => Ok(json!({ "ready": true, "base_url": self.base })),
            ("GET", ["ledger"]) => json_of(&self.ledger.entries()),
            ("DELETE", ["ledger"]) => {
                self.ledger.clear();
                done()
            }
            ("GET", ["faults"]) => json_of(self.rules.all()),
            ("POST", ["faults"]) => {
                let rule: FaultRule = body(request)?;
                if self.rules.inject(rule) { done() } else { Err((409, "too many fault rules".into())) }
            }
            ("DELETE", ["faults"]) => {
                self.rules.clear();
                done()
            }
            ("POST", ["faults", "release"]) => {
                self.released.send_replace(());
                done()
            }
            ("GET", ["clock"]) => Ok(json!({ "now": self.clock.now().secs() })),
            ("POST", ["clock"]) => {
                let by: Advance = body(request)?;
                self.clock.advance(Duration::from_secs(by.advance_seconds));
                self.clock.advance(Duration::from_millis(by.advance_millis));
                Ok(json!({ "now": self.clock.now().secs() }))
            }
            ("GET", ["settings"]) => json_of(&self.settings),
            ("PATCH", ["settings"]) => self.patch_settings(request),
            ("POST", ["sign-in-as"]) => {
                self.settings.sign_in_as = body::<SignInAs>(request)?.upn;
                done()
            }
            ("GET", ["users"]) => Ok(self.list_users()),
            ("POST", ["users"]) => {
                let user = body::<UserSpec>(request)?.user();
                let about = json!({ "tenant": user.tenant_id(), "oid": user.object_id() });
                self.directory.add_user(user);
                Ok(about)
            }
            ("POST", ["users", upn, "revoke"]) => {
                let kind = body::<Revoke>(request)?.kind;
                found(self.revoke(upn, kind))
            }
            ("POST", ["users", upn, "restore"]) => found(self.restore(upn)),
            ("POST", ["apps"]) => {
                let app = body::<AppSpec>(request)?.app().map_err(|reason| (400, reason))?;
                let now = self.clock.now();
                self.directory.add_app(app, now).map_err(|reason| (400, reason))?;
                done()
            }
            ("POST", ["apps", client_id, knob @ ..]) => self.turn_app(request, client_id, knob),
            // What a webhook brings. (Its signature is not verified.)
            ("GET", ["events"]) => json_of(&self.events),
            ("POST", ["events"]) => {
                let event: Value = body(request)?;
                self.events.push_back(event);
                self.events.drain(..self.events.len().saturating_sub(MOST_EVENTS));
                done()
            }
            ("POST", ["access-tokens", "expire"]) => {
                self.expire_access_tokens();
                done()
            }
            ("POST", ["keys", "rotate"]) => {
                self.keys.rotate(body::<Rotate>(request)?.overlap);
                done()
            }
            ("POST", ["consent-policy"]) => {
                let wanted: Policy = body(request)?;
                found(self.set_consent_policy(wanted.tenant.as_deref(), wanted.policy))
            }
            ("POST", ["admin-consent"]) => {
                let wanted: AdminConsent = body(request)?;
                let scope = if wanted.scope.is_empty() { ".default" } else { &wanted.scope };
                found(self.grant_admin_consent(&wanted.tenant, &wanted.client_id, scope))
            }
            ("DELETE", ["admin-consent"]) => {
                let wanted: AdminConsent = body(request)?;
                found(self.withdraw_admin_consent(&wanted.tenant, &wanted.client_id))
            }
            ("POST", ["graph", "challenge"]) => {
                let Challenge { user, times, style } = body(request)?;
                self.graph.challenges.push(Pending { user, left: times, what: style });
                done()
            }
            ("POST", ["graph", "throttle"]) => {
                let Throttle { user, times, retry_after_seconds } = body(request)?;
                self.graph.throttles.push(Pending { user, left: times, what: retry_after_seconds });
                done()
            }
            // A form is what a server sends that introspects tokens (RFC 7662).
            ("POST", ["inspect-token"]) if request.is_form() => {
                Ok(self.inspect(request.form.get("token").unwrap_or_default()))
            }
            ("POST", ["inspect-token"]) => Ok(self.inspect(&body::<Inspect>(request)?.token)),
            _ => Err((404, format!("no knob {} /_emulator{rest}", request.method))),
        }
    }

    fn turn_app(&mut self, request: &Request, client_id: &str, knob: &[&str]) -> Result<Value, Refusal> {
        match knob {
            ["secrets"] => {
                let secret: SecretSpec = body(request)?;
                let (value, active_after, expires_after) = secret.parts();
                let added = self.add_secret(client_id, value, active_after, expires_after);
                added.map(|key_id| json!({ "key_id": key_id })).map_err(|reason| (409, reason))
            }
            ["secrets", "remove"] => {
                found(self.remove_secret(client_id, &body::<WhichSecret>(request)?.secret))
            }
            ["secrets", "expire"] => {
                found(self.expire_secret(client_id, &body::<WhichSecret>(request)?.secret))
            }
            ["secrets", "rotate"] => {
                let value = body::<WhichSecret>(request)?.secret;
                let rotated = self.rotate_secret(client_id, &value);
                rotated.map(|key_id| json!({ "key_id": key_id })).map_err(|reason| (404, reason))
            }
            ["certificates"] => {
                let pems = body::<Certificates>(request)?.certificates;
                found(self.set_certificates(client_id, pems.iter().map(String::as_str)))
            }
            ["certificates", "revoke"] => found(self.revoke_certificates(client_id)),
            ["federated"] => {
                let credential: FederatedCredential = body::<FederatedSpec>(request)?.credential();
                found(self.add_federated(client_id, credential))
            }
            _ => Err((404, format!("no such knob of an app: {}", knob.join("/")))),
        }
    }

    fn patch_settings(&mut self, request: &Request) -> Result<Value, Refusal> {
        let patch: serde_json::Map<String, Value> = body(request)?;
        let Value::Object(mut current) = json_of(&self.settings)? else {
            return Err((500, "settings are an object".into()));
        };
        merge(&mut current, &patch);
        let changed: Settings =
            serde_json::from_value(Value::Object(current)).map_err(|error| (400, error.to_string()))?;
        self.settings = changed;
        json_of(&self.settings)
    }

    fn list_users(&self) -> Value {
        let describe = |account: &crate::directory::Account| {
            json!({
                "upn": account.user.upn, "tenant": account.user.tenant, "oid": account.user.oid,
                "personal": account.is_personal(), "blocked": account.block.map(|block| block.code),
            })
        };
        self.directory.accounts().iter().map(describe).collect()
    }

    /// What the emulator knows about a token it issued; works for opaque ones too.
    fn inspect(&self, text: &str) -> Value {
        if let Some(token) = self.access_tokens.get(text) {
            return json!({
                "kind": "access_token", "username": token.upn, "emu_user": token.upn, "emu_serial": token.serial,
                "emu_family": token.family, "emu_generation": token.generation, "client_id": token.client_id,
                "tenant": token.tenant, "resource": token.resource, "scopes": token.scopes.full(),
                "issued_at": token.issued_at.secs(), "expires_at": token.expires_at.secs(),
                "active": token.expires_at > self.clock.now(), "cae": token.cae,
            });
        }
        match self.refresh_tokens.get(text) {
            Some(token) => json!({
                "kind": "refresh_token", "emu_user": token.upn, "emu_serial": token.serial,
                "emu_family": token.family, "emu_generation": token.generation, "client_id": token.client_id,
                "scopes": token.scopes.full(), "issued_at": token.issued_at.secs(), "used": token.used,
            }),
            None => json!({ "kind": "unknown", "active": false }),
        }
    }
}

fn body<T: DeserializeOwned>(request: &Request) -> Result<T, Refusal> {
    let text: &[u8] = if request.body.is_empty() { b"{}" } else { &request.body };
    serde_json::from_slice(text).map_err(|error| (400, error.to_string()))
}

fn json_of<T: Serialize + ?Sized>(value: &T) -> Result<Value, Refusal> {
    serde_json::to_value(value).map_err(|error| (500, error.to_string()))
}

fn found(outcome: Result<(), String>) -> Result<Value, Refusal> {
    outcome.map(|()| json!({})).map_err(|reason| (404, reason))
}
