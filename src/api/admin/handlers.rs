//! What each route of the admin API does.

use std::time::Duration;

use http::StatusCode;
use serde::Serialize;

use super::acts::{Acting, Tried, about};
use super::wire::{
    AdminConsentLink, Adopted, ApiKey, ApiKeys, AppCredentials, Apps, ConsoleLink, CredentialChosen,
    Credentials, Ending, Exported, Forecast, ForecastRow, ImportAccount, Imported, Job, Keyring,
    PolicyDecision, ReconnectLink, Refreshing, Reload, Revoked, Rewrapping, SealingKeyVerdict, Status, Store,
    TenantBlocked, TokenHost, Verified, VerifiedCredential, Webhook, rule_key,
};
use super::{AdminApi, Call, Operator, shapes};
use crate::api::body::{self, AskedImport, AskedRevocation};
use crate::api::problem::{self, Problem};
use crate::api::shapes::{ConnectionShape, ExplainShape, Reader, SessionPageShape};
use crate::api::{code_of, list_request, no_content, page_shape};
use crate::broker::Refusal;
use crate::broker::forecast::ForecastRequest;
use crate::broker::inspect::{ListRequest, Shown, Wish};
use crate::broker::pause::PausedWhat;
use crate::broker::revoke::Meant;
use crate::broker::rewrap::Against;
use crate::broker::session_list::SessionsWanted;
use crate::domain::account::Account;
use crate::domain::choice::Choice;
use crate::domain::id::{AppName, CallerName, ConnectionKey, ConnectionName, InvalidName};
use crate::domain::reference::Reference;
use crate::domain::time::Timestamp;
use crate::events::{About, Who};
use crate::listener::Response;
use crate::policy::Decision;
use crate::relay::Asked;

type Answer = Result<Response, Problem>;

/// How many days a forecast looks ahead if nobody says, and at most: nothing that is known reaches further.
const FORECAST_DAYS: u32 = 7;
const MOST_FORECAST_DAYS: u32 = 366;

impl AdminApi {
    fn act<'a>(&'a self, call: &Call<'a>) -> Acting<'a> {
        Acting { api: self, admin: call.admin, who: call.who }
    }

    /// `GET /admin/v1/status`
    pub(super) async fn status(&self, _: Call<'_>) -> Answer {
        ok(&self.status_now().await)
    }

    /// The daemon's state.
    pub(super) async fn status_now(&self) -> Status {
        Status {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            now: self.clock.now().rfc3339(),
            waiting_for: self.upkeep.waiting_for().into_iter().map(str::to_owned).collect(),
            notes: self.upkeep.notes(),
            last_reload: self.upkeep.last_reload().map(Reload::from),
            store: Some(Store { id: self.broker.store_id(), ..Store::from(self.upkeep.store_lost()) }),
            tenants_blocked: self.broker.blocked_tenants().iter().map(TenantBlocked::from).collect(),
            jobs: self.upkeep.jobs().iter().map(Job::from).collect(),
            ends_next: self.upkeep.endings().await.iter().map(Ending::from).collect(),
            apps: self.app_credentials().await,
            webhooks: self.upkeep.webhooks().await.iter().map(Webhook::from).collect(),
        }
    }

    /// `POST /admin/v1/reload`
    pub(super) async fn reload(&self, call: Call<'_>) -> Answer {
        ok(&Reload::from(self.act(&call).reload().await))
    }

    /// `POST /admin/v1/console-links`
    pub(super) async fn console_link(&self, call: Call<'_>) -> Answer {
        // (The method is known: strangers do not come here.)
        let proof = call.who.method.ok_or_else(Problem::unauthenticated)?;
        let operator = Operator { name: call.admin.to_owned(), proof, key: call.key.map(str::to_owned) };
        let (ends_at, urls) = self.consoles.link(&operator, self.clock.now());
        let outcome = if urls.is_empty() { "refused" } else { "ok" };
        self.events.operated(call.who, call.admin, "console_link", outcome, About::default()).await;
        created(&ConsoleLink { expires_at: ends_at.rfc3339(), urls })
    }

    /// `POST /admin/v1/store/adopt`
    pub(super) async fn adopt_store(&self, call: Call<'_>) -> Answer {
        let outcome = self.broker.adopt_store().await;
        self.events.store_adopted(call.who, call.admin, code_of(&outcome)).await;
        outcome.map_err(Problem::of)?;
        ok(&Adopted { adopted: true })
    }

    /// `POST /admin/v1/revocations`
    pub(super) async fn revoke(&self, call: Call<'_>) -> Answer {
        let act = self.act(&call);
        let asked = body::revocation(body::read(call.body).await?, self.clock.now())?;
        let AskedRevocation { revocation, handle, even_if_unknown, dry_run } = asked;
        if let Some(handle) = handle {
            let none = Meant { connections: 0, complete: true };
            if !dry_run {
                act.end_handle(&handle).await?;
            }
            return ok(&revoked(none, (!dry_run).then_some(revocation.at)));
        }
        if dry_run {
            let meant = self.broker.would_revoke(&revocation, even_if_unknown).await;
            return ok(&revoked(meant.map_err(Problem::of)?, None));
        }
        let meant = act.revoke(&revocation, even_if_unknown).await?;
        ok(&revoked(meant, Some(revocation.at)))
    }

    /// `GET /admin/v1/callers/{caller}/keys`
    pub(super) async fn api_keys(&self, _: Call<'_>, caller: &CallerName) -> Answer {
        let callers = self.callers.load();
        if callers.named(caller).is_none() {
            return Err(Problem::no_such_path());
        }
        let uses = callers.key_uses().into_iter().filter(|used| used.caller == *caller);
        ok(&ApiKeys { keys: uses.map(ApiKey::from).collect() })
    }

    /// `GET /admin/v1/callers/{caller}/policy`
    pub(super) async fn policy(&self, call: Call<'_>, caller: &CallerName) -> Answer {
        let policy = self.callers.load().named(caller).map(|caller| caller.policy.clone());
        let policy = policy.ok_or_else(Problem::no_such_path)?;
        let given =
            |name| call.query.value(name).ok_or_else(|| Problem::invalid(name, "is needed for a decision"));
        let invalid = |name| move |error: InvalidName| Problem::invalid(name, error.to_string());
        let key = ConnectionKey {
            app: AppName::parse(given("app")?).map_err(invalid("app"))?,
            connection: ConnectionName::stored(given("connection")?).map_err(invalid("connection"))?,
        };
        let wish = match (call.query.value("connect"), call.query.value("relay")) {
            (None | Some("0"), None) => Wish::Token { scope: given("scope")? },
            (None | Some("0"), Some(text)) => {
                let asked = Asked::written(text);
                Wish::Relay(asked.map_err(|wrong| Problem::invalid("relay", wrong.to_string()))?)
            }
            (Some("1"), None) => Wish::Connect,
            (Some("1"), Some(_)) => return Err(Problem::invalid("relay", "cannot stand beside `connect`")),
            (Some(_), _) => return Err(Problem::invalid("connect", "must be 1, or left out")),
        };
        let decision = self.broker.decide(&policy, &key, wish).await.map_err(Problem::of)?;
        let (denial, rules) = match decision {
            Decision::Yes { rules } => (None, rules),
            Decision::No { denial, rules } => (Some(denial), rules),
        };
        ok(&PolicyDecision {
            allowed: denial.is_none(),
            code: denial.as_ref().map(|denial| denial.code().to_owned()),
            detail: denial.as_ref().map(ToString::to_string),
            rules: rules.into_iter().map(|at| rule_key(caller, at)).collect(),
        })
    }

    /// `GET /admin/v1/apps`
    pub(super) async fn apps(&self, _: Call<'_>) -> Answer {
        let apps = self.broker.apps();
        ok(&Apps { apps: apps.keys().map(AppName::to_string).collect() })
    }
}

/// Connections.
impl AdminApi {
    /// `GET …/connections`
    pub(super) async fn list(&self, call: Call<'_>, app: &AppName) -> Answer {
        let given = |name| call.query.value(name).map(str::to_owned);
        let request = ListRequest {
            reason: given("reason"),
            account: given("account"),
            label: given("label"),
            text: given("text"),
            ..list_request(&self.broker, app, &call.query)?
        };
        let page = self.broker.list_as_admin(app, "", &request).await.map_err(Problem::of)?;
        ok(&page_shape(&self.broker, app, &page))
    }

    /// `GET /admin/v1/sessions`
    pub(super) async fn sessions(&self, call: Call<'_>) -> Answer {
        let given = |name: &'static str| call.query.value(name);
        let invalid = |name| move |error: InvalidName| Problem::invalid(name, error.to_string());
        let after = given("cursor").map(|cursor| self.broker.read_sessions_cursor(cursor));
        let reference = given("reference").map(Reference::parse).transpose();
        let wanted = SessionsWanted {
            app: given("app").map(AppName::parse).transpose().map_err(invalid("app"))?,
            connection: given("connection")
                .map(ConnectionName::stored)
                .transpose()
                .map_err(invalid("connection"))?,
            state: given("state").map(str::to_owned),
            reference: reference.map_err(|error| Problem::invalid("reference", error.to_string()))?,
            after: after.transpose().map_err(Problem::of)?,
        };
        let callers = self.callers.load().iter().map(|caller| caller.name.clone()).collect();
        let page = self.broker.list_sessions(&callers, &wanted).await.map_err(Problem::of)?;
        ok(&SessionPageShape {
            sessions: page.sessions.iter().map(Into::into).collect(),
            next_cursor: page.next.as_ref().map(|next| self.broker.sessions_cursor(next)),
        })
    }

    /// `GET /admin/v1/forecast`
    pub(super) async fn forecast(&self, call: Call<'_>) -> Answer {
        let given = |name: &'static str| call.query.value(name);
        let app = given("app").map(AppName::parse).transpose();
        let request = ForecastRequest {
            app: app.map_err(|error| Problem::invalid("app", error.to_string()))?,
            tenant: given("tenant").map(str::to_owned),
            ahead: forecast_days(given("days"))?,
            after: given("cursor")
                .map(|cursor| self.broker.read_forecast_cursor(cursor))
                .transpose()
                .map_err(Problem::of)?,
        };
        let page = self.broker.forecast(&request).await.map_err(Problem::of)?;
        ok(&Forecast {
            next_cursor: page.next.as_ref().map(|next| self.broker.forecast_cursor(next)),
            now: page.window.now.rfc3339(),
            read: page.read as u64,
            rows: page.rows.iter().map(ForecastRow::from).collect(),
            until: page.window.until.rfc3339(),
        })
    }

    /// `GET …/connections/{connection}`
    pub(super) async fn show(&self, _: Call<'_>, key: &ConnectionKey) -> Answer {
        ok(&ConnectionShape::from(&self.shown(key).await?))
    }

    /// `GET …/connections/{connection}/explain`
    pub(super) async fn explain(&self, _: Call<'_>, key: &ConnectionKey) -> Answer {
        let shown = self.shown(key).await?;
        let explained = ExplainShape::new(&shown, &self.broker.attempts(&shown), Reader::Operator);
        let explained = explained.with_tenant_block(self.broker.tenant_block_of(&shown).as_ref());
        let explained = explained.with_cached_until(self.broker.cached_until(&shown));
        ok(&explained.with_hand_outs(&self.broker.hand_outs(&shown)))
    }

    /// `PATCH …/connections/{connection}`
    pub(super) async fn set_paused(&self, call: Call<'_>, key: &ConnectionKey) -> Answer {
        let act = self.act(&call);
        let paused = body::paused(body::read(call.body).await?)?;
        if act.set_paused(key, paused).await? == PausedWhat::Name {
            return Ok(no_content());
        }
        let shown = self.broker.show_as_admin(key).await.map_err(Problem::of)?;
        ok(&ConnectionShape::from(&shown))
    }

    /// `POST …/connections/{connection}`
    pub(super) async fn refresh(&self, call: Call<'_>, key: &ConnectionKey) -> Answer {
        self.act(&call).refresh(key).await?;
        accepted(&Refreshing { refreshing: true })
    }

    /// `DELETE …/connections/{connection}`
    pub(super) async fn delete(&self, call: Call<'_>, key: &ConnectionKey) -> Answer {
        self.act(&call).delete(key).await?;
        Ok(no_content())
    }

    /// `POST /admin/v1/imports`
    pub(super) async fn import(&self, call: Call<'_>) -> Answer {
        let act = self.act(&call);
        let AskedImport { new, caller, dry_run } = body::import(body::read(call.body).await?)?;
        let (by, tried) = act.import(&new, caller.as_ref(), dry_run).await?;
        let (outcome, account, scopes_granted) = match tried {
            Tried::Checked(outcome) => (outcome, None, None),
            Tried::Done(done) => (done.outcome, Some((&done.account).into()), Some(done.scopes_granted)),
        };
        ok(&Imported {
            account,
            app: new.key.app.to_string(),
            caller: by.name.to_string(),
            connection: new.key.connection.to_string(),
            outcome: outcome.as_str().to_owned(),
            scopes_granted,
        })
    }

    /// `POST /admin/v1/exports`
    pub(super) async fn export(&self, call: Call<'_>) -> Answer {
        let act = self.act(&call);
        let (app, recipient, asked) = body::export(body::read(call.body).await?)?;
        let after = asked.cursor.as_deref().map(|cursor| self.broker.read_cursor(&app, cursor));
        let after = after.transpose().map_err(Problem::of)?;
        let page = act.export(&app, &recipient, after.as_ref(), asked.pause).await?;
        ok(&Exported {
            grants: page.grants.into_iter().map(|(_, sealed)| sealed).collect(),
            left_out: page.left_out,
            next_cursor: page.next.map(|next| self.broker.cursor(&app, &next)),
        })
    }

    /// `POST /admin/v1/reconnect-links`
    pub(super) async fn reconnect_link(&self, call: Call<'_>) -> Answer {
        let act = self.act(&call);
        let key = body::link_wanted(body::read(call.body).await?)?;
        let started = act.reconnect_link(&key).await?;
        created(&ReconnectLink { connect_url: started.connect_url, expires_at: started.expires_at.rfc3339() })
    }

    /// `POST /admin/v1/admin-consent-links`
    pub(super) async fn admin_consent_link(&self, call: Call<'_>) -> Answer {
        let act = self.act(&call);
        let key = body::link_wanted(body::read(call.body).await?)?;
        let started = act.admin_consent_link(&key).await?;
        created(&AdminConsentLink {
            admin_consent_url: started.admin_consent_url,
            expires_at: started.expires_at.rfc3339(),
        })
    }

    /// A connection. Where there is none and its name is paused, the refusal says so.
    pub(super) async fn shown(&self, key: &ConnectionKey) -> Result<Shown, Problem> {
        match self.broker.show_as_admin(key).await {
            Ok(shown) => Ok(shown),
            Err(Refusal::ConnectionNotFound) if self.broker.is_name_paused(key).await == Ok(true) => {
                Err(Problem::no_such_connection(key).of_held_name(key))
            }
            Err(refusal) => Err(about(refusal, key)),
        }
    }
}

/// Client credentials, and where they are sent.
impl AdminApi {
    /// `GET /admin/v1/credentials`
    pub(super) async fn credentials(&self, _: Call<'_>) -> Answer {
        ok(&Credentials { apps: self.app_credentials().await })
    }

    /// `POST …/credentials/verify` and `…/credentials/{credential}/verify`
    pub(super) async fn verify(&self, call: Call<'_>, app: &AppName, label: Option<&str>) -> Answer {
        let heard = self.act(&call).verify(app, label).await?;
        ok(&Verified { credentials: heard.iter().map(VerifiedCredential::from).collect() })
    }

    /// `POST …/credentials/{credential}/promote` and `…/retire`
    pub(super) async fn choose(&self, call: Call<'_>, app: &AppName, label: &str, choice: Choice) -> Answer {
        self.act(&call).choose(app, label, choice).await?;
        ok(&CredentialChosen { id: label.to_owned() })
    }

    /// `POST …/token-host/{host}/confirm`
    pub(super) async fn confirm_token_host(&self, call: Call<'_>, app: &AppName, host: &str) -> Answer {
        self.act(&call).confirm_token_host(app, host).await?;
        ok(&TokenHost { host: host.to_owned() })
    }

    pub(super) async fn app_credentials(&self) -> Vec<AppCredentials> {
        // Without the other replicas where the store does not answer: what this one knows is worth more then.
        let replicas = self.broker.replicas().await.ok();
        shapes::apps(self.broker.client_credentials(), replicas.as_deref())
    }
}

/// Sealing keys. The answer about promoting or retiring one is whether it may be done: the daemon does not
/// write the key files, the command does.
impl AdminApi {
    /// `GET /admin/v1/keyring`
    pub(super) async fn keyring(&self, _: Call<'_>) -> Answer {
        let shown = self.broker.show_keyring().await.map_err(Problem::of)?;
        ok(&Keyring::new(&shown, self.broker.left_to_rewrap()))
    }

    /// `POST /admin/v1/keyring/rewrap`
    pub(super) async fn rewrap(&self, call: Call<'_>) -> Answer {
        self.act(&call).rewrap().await;
        accepted(&Rewrapping { rewrapping: true })
    }

    /// `POST /admin/v1/keyring/promote`
    pub(super) async fn may_promote(&self, call: Call<'_>) -> Answer {
        let (who, admin) = (call.who, call.admin);
        let key = body::sealing_key(body::read(call.body).await?)?;
        let reasons = self.broker.against_promoting(&key).await.map_err(Problem::of)?;
        self.verdict(who, admin, ("keyring_promote", &key), Against { reasons, gone_by: None }).await
    }

    /// `POST /admin/v1/keyring/retire`
    pub(super) async fn may_retire(&self, call: Call<'_>) -> Answer {
        let (who, admin) = (call.who, call.admin);
        let key = body::sealing_key(body::read(call.body).await?)?;
        let against = self.broker.against_retiring(&key).await.map_err(Problem::of)?;
        self.verdict(who, admin, ("keyring_retire", &key), against).await
    }

    async fn verdict(
        &self,
        who: Who<'_>,
        admin: &str,
        (act, key): (&'static str, &str),
        Against { reasons, gone_by }: Against,
    ) -> Answer {
        let may = reasons.is_empty();
        let code = if may { "ok" } else { "refused" };
        self.events.keyring_act(who, admin, (act, Some(key)), code).await;
        ok(&SealingKeyVerdict { gone_by: gone_by.map(Timestamp::rfc3339), may, reasons })
    }
}

/// Reads how many days to look ahead.
fn forecast_days(given: Option<&str>) -> Result<Duration, Problem> {
    let days: Option<u32> = given.map_or(Some(FORECAST_DAYS), |days| days.parse().ok());
    let days = days.filter(|days| (1..=MOST_FORECAST_DAYS).contains(days));
    let days = days.ok_or_else(|| {
        Problem::invalid("days", format!("must be a whole number from 1 to {MOST_FORECAST_DAYS}"))
    })?;
    Ok(Duration::from_secs(u64::from(days) * 86_400))
}

impl From<&Account> for ImportAccount {
    fn from(account: &Account) -> Self {
        let is_of_entra = account.tid.is_some() && account.oid.is_some();
        ImportAccount {
            tid: account.tid.clone(),
            oid: account.oid.clone(),
            iss: (!is_of_entra).then(|| account.iss.clone()),
            sub: (!is_of_entra).then(|| account.sub.clone()),
            username: account.username.clone(),
        }
    }
}

fn revoked(Meant { connections, complete }: Meant, at: Option<Timestamp>) -> Revoked {
    let revoked_at = at.map(Timestamp::rfc3339);
    Revoked { complete: Some(complete), connections: Some(connections), revoked_at }
}

fn ok<T: Serialize>(body: &T) -> Answer {
    Ok(problem::json(StatusCode::OK, body))
}

fn created<T: Serialize>(body: &T) -> Answer {
    Ok(problem::json(StatusCode::CREATED, body))
}

fn accepted<T: Serialize>(body: &T) -> Answer {
    Ok(problem::json(StatusCode::ACCEPTED, body))
}
