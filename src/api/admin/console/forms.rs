//! What the forms of the console do.

use http::{HeaderMap, StatusCode, header};

use super::layout::{Tab, connection_href, page};
use super::pages::Target;
use super::{Answer, Console, Visit, connection, connection_key, guard, html, pages, redirect};
use crate::api::problem::Problem;
use crate::broker::Refusal;
use crate::broker::credentials::Heard;
use crate::domain::account::tenant_id;
use crate::domain::choice::Choice;
use crate::domain::id::AppName;
use crate::domain::revocation::Revocation;
use crate::events::Stranger;
use crate::listener::{Body, Pairs};

const FORM: &str = "application/x-www-form-urlencoded";

/// What a form or an address names for the kill switch.
pub(super) fn target(pairs: &Pairs) -> Target {
    let text = |name: &str| pairs.value(name).unwrap_or_default().trim().to_owned();
    Target { app: text("app"), tenant: text("tenant"), caller: text("caller") }
}

/// What it means.
fn revocation(target: &Target, now: crate::domain::time::Timestamp) -> Result<Revocation, Problem> {
    let some = |text: &str| Some(text.to_owned()).filter(|text| !text.is_empty());
    let app = some(&target.app).map(|app| AppName::parse(&app)).transpose();
    let tenant = some(&target.tenant).map(|tenant| tenant_id(&tenant)).transpose();
    let (app, tenant, caller) = (
        app.map_err(|_| Problem::of(Refusal::AppNotFound))?,
        tenant.map_err(|error| Problem::invalid("tenant", error.to_string()))?,
        some(&target.caller),
    );
    if app.is_none() && tenant.is_none() && caller.is_none() {
        return Err(Problem::invalid(
            "app",
            "is needed, or a tenant or a caller: choose at least one of them",
        ));
    }
    Ok(Revocation { app, tenant, caller, at: now })
}

/// An act that cannot be undone was confirmed.
fn sure(form: &Pairs) -> Result<(), Problem> {
    match form.value("sure") {
        Some("yes") => Ok(()),
        _ => Err(Problem::invalid("sure", "must be ticked: this cannot be undone")),
    }
}

impl Console {
    /// Reads a form, if it is one of this session.
    pub(super) async fn form(
        &self,
        visit: &Visit<'_>,
        headers: &HeaderMap,
        body: Body,
    ) -> Result<Pairs, Problem> {
        let elsewhere = |parameter| {
            self.api.events.browser_refused(visit.who, Stranger::LinkFromElsewhere, None);
            Problem::invalid(
                parameter,
                "the form did not come from a page of this session, so nothing was done",
            )
        };
        if !guard::is_from_own_page(headers) {
            return Err(elsewhere("origin"));
        }
        let content_type = headers.get(header::CONTENT_TYPE).map(http::HeaderValue::as_bytes);
        if content_type.is_none_or(|given| !given.eq_ignore_ascii_case(FORM.as_bytes())) {
            return Err(Problem::invalid("content-type", format!("must be {FORM}")));
        }
        let bytes = body.read_all().await.map_err(|error| Problem::invalid("body", error.to_string()))?;
        let form = Pairs::read(&bytes).map_err(Problem::query)?;
        let given = form.value("csrf").unwrap_or_default().as_bytes();
        let is_ours = aws_lc_rs::constant_time::verify_slices_are_equal(given, visit.met.csrf.as_bytes());
        if is_ours.is_err() {
            return Err(elsewhere("csrf"));
        }
        Ok(form)
    }

    /// Does what a form asks for.
    pub(super) async fn act(&self, visit: &Visit<'_>, path: &str, form: &Pairs) -> Answer {
        match path {
            "/console/connection" => self.act_on_connection(visit, form).await,
            "/console/apps" => self.act_on_credential(visit, form).await,
            "/console/revoke" => self.act_on_many(visit, form).await,
            "/console/sessions" => self.act_on_own_sessions(visit, form).await,
            "/console/keys" => {
                self.acting(visit).rewrap().await;
                Ok(redirect("/console/keys?done=rewrapping"))
            }
            "/console/reload" => {
                let reload = self.acting(visit).reload().await.into();
                let body = pages::reloaded(&reload);
                Ok(html(StatusCode::OK, &page(visit.met, Tab::Overview, "Read again", &body)))
            }
            _ => Err(Problem::no_such_path()),
        }
    }

    async fn act_on_connection(&self, visit: &Visit<'_>, form: &Pairs) -> Answer {
        let value = |name: &str| form.value(name).unwrap_or_default();
        let key = connection_key(value("app"), value("connection"))?;
        let acting = self.acting(visit);
        let back = connection_href(key.app.as_str(), key.connection.as_str());
        let said = match value("act") {
            "pause" => acting.set_paused(&key, true).await.map(|_| "paused")?,
            "resume" => acting.set_paused(&key, false).await.map(|_| "resumed")?,
            "refresh" => acting.refresh(&key).await.map(|()| "refreshing")?,
            "reconnect" => {
                let started = acting.reconnect_link(&key).await?;
                let body = connection::link(&back, &started, self.api.clock.now());
                let page = page(visit.met, Tab::Connections, "A reconnect link", &body);
                return Ok(html(StatusCode::OK, &page));
            }
            "admin_consent" => {
                let started = acting.admin_consent_link(&key).await?;
                let body = connection::admin_link(&back, &started, self.api.clock.now());
                let page = page(visit.met, Tab::Connections, "An administrator's link", &body);
                return Ok(html(StatusCode::OK, &page));
            }
            "delete" => {
                sure(form)?;
                acting.delete(&key).await?;
                let body = maud::html! {
                    h1 { (key.connection) }
                    div.note.calm role="status" { "It is deleted. Its user must connect again." }
                    p { a href=(super::layout::href("/console/connections", &[("app", key.app.as_str())])) {
                        "All connections of " (key.app) } }
                };
                return Ok(html(StatusCode::OK, &page(visit.met, Tab::Connections, "Deleted", &body)));
            }
            _ => return Err(Problem::invalid("act", "is none of this page's")),
        };
        Ok(redirect(&format!("{back}&done={said}")))
    }

    async fn act_on_credential(&self, visit: &Visit<'_>, form: &Pairs) -> Answer {
        let value = |name: &str| form.value(name).unwrap_or_default();
        let app = AppName::parse(value("app")).map_err(|_| Problem::of(Refusal::AppNotFound))?;
        let label = value("credential");
        let acting = self.acting(visit);
        let said = match value("act") {
            "promote" => acting.choose(&app, label, Choice::Promote).await.map(|()| "promoted")?,
            "retire" => {
                sure(form)?;
                acting.choose(&app, label, Choice::Retire).await.map(|()| "retired")?
            }
            "confirm_host" => {
                sure(form)?;
                acting.confirm_token_host(&app, value("host")).await.map(|()| "confirmed")?
            }
            "verify" => {
                let heard = acting.verify(&app, Some(label).filter(|label| !label.is_empty())).await?;
                let rows: Vec<_> = heard
                    .into_iter()
                    .map(|one| match one.heard {
                        Heard::Accepted | Heard::AcceptedInUse(_) => (one.label, "accepted", None),
                        Heard::Rejected(cause) => (one.label, "rejected", Some(cause)),
                        Heard::Unknown(cause) => (one.label, "unknown", Some(cause)),
                    })
                    .collect();
                let body = pages::verified(app.as_str(), &rows);
                return Ok(html(StatusCode::OK, &page(visit.met, Tab::Apps, "Proven", &body)));
            }
            _ => return Err(Problem::invalid("act", "is none of this page's")),
        };
        Ok(redirect(&format!("/console/apps?done={said}")))
    }

    async fn act_on_many(&self, visit: &Visit<'_>, form: &Pairs) -> Answer {
        let target = target(form);
        let revocation = revocation(&target, self.api.clock.now())?;
        let body = match form.value("step") {
            Some("count") => {
                let meant = self.api.broker.would_revoke(&revocation, false).await.map_err(Problem::of)?;
                pages::would_revoke(visit.met, &target, meant)
            }
            Some("revoke") => {
                sure(form)?;
                pages::revoked(&target, self.acting(visit).revoke(&revocation, false).await?)
            }
            _ => return Err(Problem::invalid("step", "is none of this page's")),
        };
        Ok(html(StatusCode::OK, &page(visit.met, Tab::Revoke, "Revoke", &body)))
    }
}
