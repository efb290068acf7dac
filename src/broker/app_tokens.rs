//! Tokens of an app itself (RFC 6749 §4.4), for callers whose rules say `app_only`. Every door hands them out
//! by these two functions: what the caller asks for is judged, and the permit is exchanged for a token.

use std::sync::Arc;
use std::time::Duration;

use super::{App, Broker, Refusal};
use crate::domain::account::PERSONAL_TENANT;
use crate::domain::app_only::{AppResource, AppTenant, HOME};
use crate::domain::id::AppName;
use crate::domain::scope::ScopeNaming;
use crate::domain::time::Timestamp;
use crate::domain::token::HeldToken;
use crate::policy::{AppTokenPermit, CallerPolicy, Denial};
use crate::refresh::{AppTokenKey, NoAppToken, ServedAppToken, TokenSource};

/// A token of an app itself, to hand out.
#[derive(Clone)]
pub struct AppToken {
    /// The token, with its life.
    pub token: Arc<HeldToken>,
    /// The tenant it is for: its id, the domain that `home_tenant` has, or `home` if the authority has no
    /// tenants.
    pub tenant: String,
    /// The resource it is for, as the rule spells it; `None` if the authority chose.
    pub resource: Option<String>,
    /// Where the token came from.
    pub source: TokenSource,
}

impl Broker {
    /// Judges whether a caller may have a token of the app itself. `tenant` is a tenant's id or `home`, which
    /// is the default. `resource` may end in `/.default`; the default is Microsoft Graph at Entra, and the
    /// authority's own choice elsewhere.
    pub fn may_have_app_token(
        &self,
        caller: &CallerPolicy,
        app: &AppName,
        tenant: Option<&str>,
        resource: Option<&str>,
    ) -> Result<AppTokenPermit, Refusal> {
        // Who may not know of the app learns nothing else.
        if !caller.knows_app(app) {
            return Err(Refusal::AppNotFound);
        }
        let known = self.app(app)?;
        let tenant = known.app_tenant(tenant.unwrap_or(HOME))?;
        let resource = known.app_resource(resource)?;
        Ok(caller.may_have_app_token(app, &tenant, resource.as_ref())?)
    }

    /// Hands out a token of the app itself.
    pub async fn app_token(
        self: &Arc<Self>,
        permit: AppTokenPermit,
        min_ttl: Duration,
    ) -> Result<AppToken, Refusal> {
        let app = self.app(permit.app())?;
        // They are read every second; after a long sleep of the machine, or an outage, now.
        if !self.deps.engine.knows_revocations_of_late() {
            self.follow_revocations().await?;
        }
        self.bar_revoked(&app, &permit)?;
        let key = AppTokenKey {
            app: permit.app().clone(),
            tenant: app.tenant_name(permit.tenant()),
            resource: permit.resource().cloned(),
        };
        let served = self.deps.engine.serve_app_token(&key, permit.caller(), min_ttl).await;
        self.own_tokens.note(&key, &served, self.deps.clock.now());
        let served = served.map_err(|none| match none {
            NoAppToken::NoApp => Refusal::AppNotFound,
            NoAppToken::Store => Refusal::StoreUnavailable,
            NoAppToken::Failed(failure) => Refusal::of_app_failure(&failure),
        });
        let ServedAppToken { token, source } = served?;
        // It may have been revoked while the authority was asked.
        self.bar_revoked(&app, &permit)?;
        let resource = permit.resource().map(ToString::to_string);
        Ok(AppToken { token, tenant: key.tenant.unwrap_or_else(|| HOME.to_owned()), resource, source })
    }

    /// Refuses what an operator revoked since the rule gave it.
    fn bar_revoked(&self, app: &App, permit: &AppTokenPermit) -> Result<(), Refusal> {
        let tenant = app.tenant_name(permit.tenant());
        let since = permit.since().unwrap_or(Timestamp::from_unix_seconds(0));
        let is_revoked = self.deps.engine.revokes(|revocation| {
            revocation.covers_what_began(permit.app(), tenant.as_deref(), permit.caller().as_str(), since)
        });
        let problem = || {
            "an operator revoked tokens of the app itself here; the rule gives them again with an \
             `app_only_since` after that"
                .to_owned()
        };
        if is_revoked { Err(Refusal::Forbidden { problem: problem() }) } else { Ok(()) }
    }
}

impl App {
    /// Reads a tenant. One that `tenants` does not allow looks like one that no rule gives.
    fn app_tenant(&self, text: &str) -> Result<AppTenant, Refusal> {
        let asked = AppTenant::parse(text)
            .map_err(|_| Refusal::invalid("tenant", "must be a tenant's id, or `home` for the app's own"))?;
        match asked {
            AppTenant::Home => Ok(self.own_tenant()),
            AppTenant::Id(id) if self.gives_app_tokens_in(&id) => Ok(AppTenant::Id(id)),
            AppTenant::Id(_) => Err(Denial::AppTokenForbidden.into()),
        }
    }

    /// Returns the app's own tenant, by its id if that is known.
    pub fn own_tenant(&self) -> AppTenant {
        AppTenant::of_home(self.home_tenant.as_deref())
    }

    /// Returns true if the app may get tokens of its own in the tenant with this id, in lower case: its own,
    /// and the organizations that `tenants` allows.
    pub fn gives_app_tokens_in(&self, id: &str) -> bool {
        let is_entra = matches!(self.naming(), ScopeNaming::Entra { .. });
        let is_allowed = id != PERSONAL_TENANT && self.tenants.allow_tenant(id);
        is_entra && (is_allowed || self.own_tenant() == AppTenant::Id(id.to_owned()))
    }

    /// Reads a resource; without one it is the Graph at Entra.
    fn app_resource(&self, text: Option<&str>) -> Result<Option<AppResource>, Refusal> {
        let naming = self.naming();
        let text = match (text.filter(|text| !text.is_empty()), naming) {
            (Some(text), _) => text,
            (None, ScopeNaming::Entra { graph }) => graph,
            (None, ScopeNaming::Plain) => return Ok(None),
        };
        let read = AppResource::parse(naming, text);
        read.map(Some).ok_or_else(|| Refusal::invalid("resource", "is no resource's name"))
    }

    /// Returns the name of a tenant for the authority; `None` if it has no tenants.
    fn tenant_name(&self, tenant: &AppTenant) -> Option<String> {
        match tenant {
            AppTenant::Id(id) => Some(id.clone()),
            AppTenant::Home => self.home_tenant.as_ref().map(|name| name.to_ascii_lowercase()),
        }
    }
}
