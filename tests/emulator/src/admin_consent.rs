//! The admin consent endpoint: consent for a whole tenant.

use crate::callback::Callback;
use crate::directory::TenantPath;
use crate::errors::AadError;
use crate::ledger::Endpoint;
use crate::message::{Answer, Request};
use crate::pages;
use crate::scope::{GRAPH, Scopes};
use crate::state::State;
use crate::token::bad_scope;

impl State {
    /// Answers `/{tenant}/v2.0/adminconsent` and, with `legacy`, `/{tenant}/adminconsent`.
    pub(crate) fn admin_consent(&mut self, request: &Request, tenant: &str, legacy: bool) -> Answer {
        let params = &request.query;
        let (path, callback) = match self.callback_of(params, tenant, Endpoint::AdminConsent) {
            Ok(found) => found,
            Err(error) => return self.error_page(&error, request),
        };
        if let Some(answer) = self.late_failure(request, &path, &callback) {
            return answer;
        }
        let tenant = match &path {
            TenantPath::Tenant(id) => Some(id.clone()),
            // The administrator's own tenant. The new endpoint refuses `common`; the old one takes it.
            TenantPath::Organizations => self.administrators_tenant(),
            TenantPath::Common if legacy => self.administrators_tenant(),
            TenantPath::Common | TenantPath::Consumers => None,
        };
        let Some(tenant) = tenant else {
            return self.error_page(&AadError::new(50059), request);
        };
        let default = format!("{GRAPH}/.default");
        let text = params.get("scope").unwrap_or(&default).to_owned();
        let scopes = match Scopes::parse(&text) {
            Ok(scopes) => scopes,
            Err(bad) => return self.error_page(&bad_scope(&bad), request),
        };
        match request.form.get("emu_step") {
            Some("accept") => {}
            Some(_) => return self.declined(request, &callback, legacy),
            None if self.settings.automatic && self.settings.admin_declines => {
                return self.declined(request, &callback, legacy);
            }
            None if self.settings.automatic => {}
            None => {
                let action = format!("{}?{}", request.path, request.raw_query);
                let page =
                    pages::consent(&action, "Administrator", &callback.client_id, &scopes.full(), true);
                return Answer::html(200, page);
            }
        }
        let expanded = self.directory.apps[&callback.client_id].app.expand_default(&scopes);
        let consents = &mut self.directory.tenant_mut(&tenant).consents;
        consents.entry(callback.client_id.clone()).or_default().add(&expanded);
        let mut parameters =
            vec![("admin_consent".to_owned(), "True".to_owned()), ("tenant".to_owned(), tenant)];
        if !legacy {
            parameters.push(("scope".to_owned(), scopes.full().join(" ")));
        }
        if let Some(state) = &callback.state {
            parameters.push(("state".to_owned(), state.clone()));
        }
        let mut answer = self.call_back(request, &callback, None, parameters);
        answer.notes.scopes_granted = expanded.full();
        answer
    }

    /// The administrator pressed Cancel: an error, and no `tenant`.
    fn declined(&mut self, request: &Request, callback: &Callback, legacy: bool) -> Answer {
        let error =
            AadError::new(65004).with_error(if legacy { "permission_denied" } else { "access_denied" });
        let mut parameters = vec![
            ("error".to_owned(), error.error.clone()),
            ("error_description".to_owned(), error.description(&request.ids, self.clock.now())),
            ("error_uri".to_owned(), error.uri(&self.base)),
            ("admin_consent".to_owned(), "True".to_owned()),
        ];
        if let Some(state) = &callback.state {
            parameters.push(("state".to_owned(), state.clone()));
        }
        self.call_back(request, callback, None, parameters).failed(&error)
    }

    fn administrators_tenant(&self) -> Option<String> {
        let chosen = self.settings.sign_in_as.as_deref().and_then(|upn| self.directory.account(upn));
        let chosen =
            chosen.filter(|account| !account.is_personal()).map(|account| account.user.tenant.clone());
        chosen.or_else(|| self.directory.first_tenant())
    }
}
