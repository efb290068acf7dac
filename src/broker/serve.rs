//! Handing out a token: find the connection, and serve one of its live tokens within the caller's rights.

use std::collections::VecDeque;
use std::sync::Arc;

use parking_lot::Mutex;

use super::{App, Broker, Refusal};
use crate::domain::account::AccountId;
use crate::domain::id::CallerName;
use crate::domain::scope::{Scope, ScopeNaming, ScopeSet};
use crate::domain::time::Moment;
use crate::policy::{Permit, Provisional, SameRules};
use crate::refresh::{Held, Served, Want};

impl Broker {
    /// Hands out a token. `ask` reads the request in the words of the app and its authority; its scopes and
    /// its resource are what the caller asks for, and both may be left out.
    pub async fn token(
        &self,
        permit: Provisional<'_>,
        ask: impl FnOnce(&App) -> Result<Want, Refusal>,
    ) -> Result<Served, Refusal> {
        self.token_of(permit, None, ask).await
    }

    /// Hands out a token like [`Broker::token`], if the connection has this account.
    pub async fn token_of(
        &self,
        permit: Provisional<'_>,
        account: Option<&AccountId>,
        ask: impl FnOnce(&App) -> Result<Want, Refusal>,
    ) -> Result<Served, Refusal> {
        let app = self.app(&permit.key().app)?;
        let asked = ask(&app)?;
        let want = |held: &Held| wanted(&permit, &app, &asked, account, held);
        Ok(self.deps.engine.serve(permit.key(), want).await?)
    }

    /// Hands out a token like [`Broker::token`], if that waits for nothing and `admit` says so at last.
    /// `None`, which has had no effect, in every other case.
    pub fn token_now(
        &self,
        permit: Provisional<'_>,
        begun: Moment,
        ask: impl FnOnce(&App) -> Result<Want, Refusal>,
        admit: impl FnOnce() -> bool,
    ) -> Option<Served> {
        let app = self.app(&permit.key().app).ok()?;
        let asked = ask(&app).ok()?;
        let want = |held: &Held| wanted(&permit, &app, &asked, None, held).ok();
        self.deps.engine.serve_now(permit.key(), begun, want, admit)
    }
}

/// What the caller of this permit gets of a connection, if it has this account.
fn wanted(
    permit: &Provisional<'_>,
    app: &Arc<App>,
    asked: &Want,
    account: Option<&AccountId>,
    held: &Held,
) -> Result<Want, Refusal> {
    let is_other = |account: &AccountId| *account != held.connection.profile.account().id();
    let remembered = held.prepared.of_connection(Remembered::default);
    // (A yes that is remembered is one of the same rules to the same tenant.)
    if let Some(given) = remembered.answer(permit, app, asked)
        && !account.is_some_and(is_other)
    {
        return Ok(given.to(permit.caller(), asked));
    }
    let tenant = held.connection.profile.account().tid.as_deref();
    let judged = permit.of_tenant(tenant)?;
    if account.is_some_and(is_other) {
        return Err(Refusal::invalid("subject_token", "is of another account than the connection"));
    }
    let given = permitted(&judged, app.naming(), asked, &held.granted)?;
    remembered.take(Question::of(permit, app, asked), &given);
    Ok(given.to(permit.caller(), asked))
}

/// What a caller may have of a connection: one resource, and scopes of it.
#[derive(Clone)]
struct Given {
    resource: Option<String>,
    scopes: ScopeSet,
}

impl Given {
    fn to(self, caller: &CallerName, asked: &Want) -> Want {
        Want {
            by: Some(caller.clone()),
            resource: self.resource,
            scopes: self.scopes,
            min_ttl: asked.min_ttl,
            rejected: asked.rejected.clone(),
            claims: asked.claims.clone(),
            cae: asked.cae,
        }
    }
}

/// Everything that decides what a caller may have of a connection, beside the connection itself.
struct Question {
    rules: SameRules,
    app: Arc<App>,
    resource: Option<String>,
    scopes: ScopeSet,
}

impl Question {
    fn of(permit: &Provisional<'_>, app: &Arc<App>, asked: &Want) -> Self {
        let (resource, scopes) = (asked.resource.clone(), asked.scopes.clone());
        Question { rules: permit.rules(), app: Arc::clone(app), resource, scopes }
    }

    /// Returns true if the request asks the same.
    fn is(&self, permit: &Provisional<'_>, app: &Arc<App>, asked: &Want) -> bool {
        permit.is_by(&self.rules)
            && Arc::ptr_eq(&self.app, app)
            && self.resource == asked.resource
            && self.scopes == asked.scopes
    }
}

/// The last yeses of the policy for a connection: they hold until the connection, the caller's rules or the
/// app is another one.
#[derive(Default)]
struct Remembered(Mutex<VecDeque<(Question, Given)>>);

/// Most of them for one connection.
const MOST_REMEMBERED: usize = 4;

impl Remembered {
    fn answer(&self, permit: &Provisional<'_>, app: &Arc<App>, asked: &Want) -> Option<Given> {
        let yeses = self.0.lock();
        yeses.iter().find(|(known, _)| known.is(permit, app, asked)).map(|(_, given)| given.clone())
    }

    fn take(&self, question: Question, given: &Given) {
        let mut yeses = self.0.lock();
        if yeses.len() >= MOST_REMEMBERED {
            yeses.pop_front();
        }
        // (Mostly there is one, and many connections are in memory.)
        yeses.reserve_exact(1);
        yeses.push_back((question, given.clone()));
    }
}

/// Removes `{resource}/.default` from the scopes. At Entra it means "everything of that resource", so only a
/// rule that gives everything gives it, and that has been checked by then.
fn whole_resource(scopes: ScopeSet, granted: &ScopeSet) -> Result<(ScopeSet, Option<String>), Refusal> {
    let is_default = |scope: &Scope| scope.canonical().ends_with("/.default");
    let (whole, named): (Vec<Scope>, Vec<Scope>) = scopes.iter().cloned().partition(is_default);
    match &whole[..] {
        [] => Ok((scopes, None)),
        [one] if granted.of_resource(one.resource()).resources().is_empty() => {
            Err(Refusal::ScopeNotGranted { scopes: vec![one.wire().to_owned()] })
        }
        [one] => {
            let of_resource = granted.of_resource(one.resource());
            let all: ScopeSet = named.into_iter().chain(of_resource.iter().cloned()).collect();
            Ok((all, one.resource().map(str::to_owned)))
        }
        _ => Err(Refusal::invalid("scope", "a token is for one resource; ask for one `/.default`")),
    }
}

/// Narrows what is asked for to what the caller may have of this connection: one resource, and its scopes.
fn permitted(
    permit: &Permit,
    naming: &ScopeNaming,
    asked: &Want,
    granted: &ScopeSet,
) -> Result<Given, Refusal> {
    let scopes = permit.scopes_for(Some(&asked.scopes), granted)?;
    // A token carries every scope granted for its resource, so a caller that may have none of them may not
    // have the token.
    let gives_rights = |scopes: &ScopeSet| scopes.iter().any(|scope| !scope.is_openid());
    if !gives_rights(&scopes) && gives_rights(granted) {
        let problem = "no rule of this caller gives a scope of any resource".to_owned();
        return Err(Refusal::Forbidden { problem });
    }
    let (scopes, default_of) = match naming {
        ScopeNaming::Plain => (scopes, None),
        ScopeNaming::Entra { .. } => whole_resource(scopes, granted)?,
    };
    let (resource, scopes) = match (naming, asked.resource.as_ref().or(default_of.as_ref())) {
        (ScopeNaming::Plain, _) => (None, scopes),
        (ScopeNaming::Entra { .. }, Some(resource)) => {
            let scopes = scopes.of_resource(Some(resource));
            if scopes.resources().is_empty() {
                // A caller whose rules give none of it does not learn whether it was granted.
                let whole = naming.scopes_lossy([format!("{resource}/.default").as_str()]);
                permit.scopes_for(Some(&whole), granted)?;
                return Err(Refusal::ScopeNotGranted { scopes: vec![format!("{resource}/.default")] });
            }
            (Some(resource.clone()), scopes)
        }
        (ScopeNaming::Entra { graph }, None) => match scopes.resources()[..] {
            [] => (Some(graph.to_ascii_lowercase()), scopes),
            [resource] => (Some(resource.to_owned()), scopes.clone()),
            ref several => {
                let problem = format!(
                    "a token is for one resource and this request spans {}; name one of them",
                    several.join(" and ")
                );
                return Err(Refusal::invalid("resource", problem));
            }
        },
    };
    // (Shared in memory where it is the same.)
    let scopes = if scopes == *granted { granted.clone() } else { scopes };
    Ok(Given { resource, scopes })
}
