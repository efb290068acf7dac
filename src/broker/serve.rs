//! Handing out a token: check the caller's rights, find the connection, serve one of its live tokens.

use std::time::Duration;

use super::{Broker, Refusal};
use crate::domain::id::ConnectionKey;
use crate::domain::scope::{LONGEST_SCOPE, Scope, ScopeNaming, ScopeSet};
use crate::policy::CallerPolicy;
use crate::refresh::plan::ORDINARY_MIN_TTL;
use crate::refresh::{Claims, Held, Served, Want};

/// Allowed `min_ttl` in seconds, and its default.
const MIN_TTL: std::ops::RangeInclusive<u64> = 60..=86_400;

/// A token request as received.
#[derive(Debug, Clone, Default)]
pub struct TokenRequest {
    /// Space-separated scopes.
    pub scope: Option<String>,
    /// The token's resource.
    pub resource: Option<String>,
    /// Wanted life in seconds.
    pub min_ttl: Option<u64>,
    /// Lower-case hex SHA-256 of a token that a resource refused.
    pub rejected: Option<String>,
    /// A resource's claims challenge, as JSON text.
    pub claims: Option<String>,
}

impl Broker {
    /// Hands out a token of `key` to the caller.
    pub async fn token(
        &self,
        caller: &CallerPolicy,
        key: &ConnectionKey,
        request: &TokenRequest,
    ) -> Result<Served, Refusal> {
        // Refusals that depend on rules alone come before any read, so that the answer does not reveal
        // whether the connection exists.
        if !caller.needs_tenant(key) {
            caller.see(key, None)?;
        }
        let app = self.app(&key.app)?;
        let naming = app.naming();
        let asked = Asked::read(naming, request)?;
        let want = |held: &Held| want(caller, key, naming, &asked, held);
        Ok(self.deps.engine.serve(key, want).await?)
    }
}

/// A parsed token request.
struct Asked {
    scopes: Option<ScopeSet>,
    resource: Option<String>,
    min_ttl: Duration,
    rejected: Option<String>,
    claims: Option<Claims>,
}

impl Asked {
    fn read(naming: &ScopeNaming, request: &TokenRequest) -> Result<Self, Refusal> {
        let scopes = match request.scope.as_deref().filter(|scope| !scope.is_empty()) {
            Some(scope) => Some(naming.scopes_asked(scope).map_err(|why| Refusal::invalid("scope", why))?),
            None => None,
        };
        let resource = request.resource.as_deref().filter(|resource| !resource.is_empty());
        if resource.is_some_and(|resource| resource.len() > LONGEST_SCOPE) {
            return Err(Refusal::invalid("resource", "is longer than any resource's name"));
        }
        if resource.is_some() && *naming == ScopeNaming::Plain {
            return Err(Refusal::invalid("resource", "this app's authority has no resources; leave it out"));
        }
        let min_ttl = request.min_ttl.unwrap_or(ORDINARY_MIN_TTL.as_secs());
        if !MIN_TTL.contains(&min_ttl) {
            let problem = format!("must be {} to {} seconds", MIN_TTL.start(), MIN_TTL.end());
            return Err(Refusal::invalid("min_ttl", problem));
        }
        if let Some(rejected) = &request.rejected
            && !(rejected.len() == 64
                && rejected.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f')))
        {
            return Err(Refusal::invalid(
                "rejected",
                "must be the lower-case hex SHA-256 of the token that was refused, never the token itself",
            ));
        }
        let claims = request.claims.as_deref().map(Claims::read).transpose();
        let claims = claims.map_err(|problem| Refusal::invalid("claims", problem.to_string()))?;
        Ok(Asked {
            scopes,
            resource: resource.map(|resource| naming.resource(resource)),
            min_ttl: Duration::from_secs(min_ttl),
            rejected: request.rejected.clone(),
            claims,
        })
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

/// Builds the wanted token from what the caller may have of this connection.
fn want(
    caller: &CallerPolicy,
    key: &ConnectionKey,
    naming: &ScopeNaming,
    asked: &Asked,
    held: &Held,
) -> Result<Want, Refusal> {
    let permit = caller.see(key, held.connection.profile.account().tid.as_deref())?;
    let scopes = permit.scopes_for(asked.scopes.as_ref(), &held.granted)?;
    // A token carries every scope granted for its resource, so a caller that may have none of them may not
    // have the token.
    let gives_rights = |scopes: &ScopeSet| scopes.iter().any(|scope| !scope.is_openid());
    if !gives_rights(&scopes) && gives_rights(&held.granted) {
        let problem = "no rule of this caller gives a scope of any resource".to_owned();
        return Err(Refusal::Forbidden { problem });
    }
    let (scopes, default_of) = match naming {
        ScopeNaming::Plain => (scopes, None),
        ScopeNaming::Entra { .. } => whole_resource(scopes, &held.granted)?,
    };
    let (resource, scopes) = match (naming, asked.resource.as_ref().or(default_of.as_ref())) {
        (ScopeNaming::Plain, _) => (None, scopes),
        (ScopeNaming::Entra { .. }, Some(resource)) => {
            let scopes = scopes.of_resource(Some(resource));
            if scopes.resources().is_empty() {
                // A caller whose rules give none of it does not learn whether it was granted.
                let whole = naming.scopes_lossy([format!("{resource}/.default").as_str()]);
                permit.scopes_for(Some(&whole), &held.granted)?;
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
    Ok(Want {
        by: Some(caller.caller.clone()),
        resource,
        scopes,
        min_ttl: asked.min_ttl,
        rejected: asked.rejected.clone(),
        claims: asked.claims.clone(),
    })
}
