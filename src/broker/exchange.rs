//! A user's token stands for a connection (RFC 8693): it is verified by the app's authority, and the
//! connection is found by the token's account.
//!
//! There is no index by account. Either the caller names the connection, or its rules name few enough to look
//! at each. The account is compared with the connection's in the step that serves the token, so a connection
//! that gets another account in between is not served.

use super::{Broker, Refusal};
use crate::authority::{Delegate, Subject, SubjectRefusal, UserToken, UserTokenKind};
use crate::broker::search::Search;
use crate::domain::account::AccountId;
use crate::domain::id::{AppName, CallerName, ConnectionKey, ConnectionName};
use crate::domain::verdict::AuthorityFailure;
use crate::policy::CallerPolicy;

/// Most connections that are read to find an account's.
const MOST_READ: usize = 200;

/// The name of the parameter with the user's token.
const SUBJECT_TOKEN: &str = "subject_token";
/// The name of the parameter that names the app or the connection.
const AUDIENCE: &str = "audience";

/// What the caller says about the connection, besides the user's token.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Named {
    /// The app.
    pub app: Option<AppName>,
    /// The connection within it.
    pub connection: Option<ConnectionName>,
}

/// Whose connection a user's token stands for.
#[derive(Debug)]
pub struct Found {
    /// The connection. It exists if it was searched, and may not if the caller named it.
    pub key: ConnectionKey,
    /// Which token it was.
    pub kind: UserTokenKind,
    /// The token's account: the connection must have it when it is served.
    pub account: AccountId,
    /// Those who act for the user, the latest first.
    pub actors: Vec<Delegate>,
}

impl Broker {
    /// Verifies a user's token and finds the connection that it stands for, among those of the caller's
    /// rules. Without a `kind` the token's own words tell it. `issuer` is ours: a `may_act` that names an
    /// issuer must name this one.
    ///
    /// # Errors
    /// The token is not believed, does not let this caller act, or stands for no connection or for several.
    pub async fn connection_of(
        &self,
        policy: &CallerPolicy,
        token: &str,
        kind: Option<UserTokenKind>,
        named: &Named,
        issuer: &str,
    ) -> Result<Found, Refusal> {
        let token = UserToken::parse(token).map_err(refused)?;
        let kind = kind.unwrap_or_else(|| token.kind());
        let app = self.app_of(policy, &token, named.app.as_ref())?;
        let verified = self.app(&app)?.authority.verify_user_token(&token, kind).await;
        let Subject { account, actors, may_act } = verified.map_err(refused)?;
        if may_act.is_some_and(|party| !is_caller(&party, &policy.caller, issuer)) {
            let problem = "names another party in may_act than this caller";
            return Err(Refusal::invalid(SUBJECT_TOKEN, problem));
        }
        let connection = match &named.connection {
            Some(connection) => connection.clone(),
            None => self.search_account(policy, &app, &account).await?,
        };
        Ok(Found { key: ConnectionKey { app, connection }, kind, account, actors })
    }

    /// Returns the app that a token is for, among those that the caller may know of.
    fn app_of(
        &self,
        policy: &CallerPolicy,
        token: &UserToken<'_>,
        named: Option<&AppName>,
    ) -> Result<AppName, Refusal> {
        if let Some(named) = named {
            return if policy.knows_app(named) { Ok(named.clone()) } else { Err(Refusal::AppNotFound) };
        }
        let apps = self.apps();
        let mut fitting = apps
            .iter()
            .filter(|(name, app)| policy.knows_app(name) && app.authority.is_audience_of(token))
            .map(|(name, _)| name);
        match (fitting.next(), fitting.next()) {
            (Some(one), None) => Ok(one.clone()),
            (None, _) => Err(Refusal::invalid(
                SUBJECT_TOKEN,
                "is for no app that this caller has a rule for (its aud)",
            )),
            (Some(_), Some(_)) => {
                Err(Refusal::invalid(AUDIENCE, "is missing: the token fits several apps; name one of them"))
            }
        }
    }

    /// Looks for the account's connection among those that the caller may see.
    async fn search_account(
        &self,
        policy: &CallerPolicy,
        app: &AppName,
        account: &AccountId,
    ) -> Result<ConnectionName, Refusal> {
        let _place = self.walk_permit(policy).await?;
        let mut search = Search::new(app.clone(), policy.lookups(app), None);
        let mut found: Option<ConnectionName> = None;
        while search.read() < MOST_READ {
            let more = search.next(&self.deps.repository, MOST_READ - search.read(), None).await?;
            let Some(more) = more else { break };
            for (connection, profile) in more {
                let key = ConnectionKey { app: app.clone(), connection };
                let is_seen = || policy.see(&key, profile.account().tid.as_deref()).is_ok();
                if profile.account().id() != *account || !is_seen() {
                    continue;
                }
                if found.is_some() {
                    let problem = "is missing: this account has several connections that the caller may see; \
                                   name one as {app}:{connection}";
                    return Err(Refusal::invalid(AUDIENCE, problem));
                }
                found = Some(key.connection);
            }
        }
        // One that is unique among a part only may not be so among all.
        if search.position().is_some() {
            let problem = format!(
                "is missing: this caller's rules cover more connections than are searched for an account \
                 ({MOST_READ}); name the connection as {{app}}:{{connection}}"
            );
            return Err(Refusal::invalid(AUDIENCE, problem));
        }
        found.ok_or(Refusal::ConnectionNotFound)
    }
}

fn is_caller(party: &Delegate, caller: &CallerName, issuer: &str) -> bool {
    party.sub == caller.as_str() && party.iss.as_deref().is_none_or(|iss| iss == issuer)
}

fn refused(refusal: SubjectRefusal) -> Refusal {
    match refusal {
        SubjectRefusal::Token(rule) => Refusal::invalid(
            SUBJECT_TOKEN,
            format!(
                "breaks the rule {rule}; an id_token of the app, or an access token for the app's own API \
                 (at Entra of version 2.0), can be verified, and one for Microsoft Graph cannot"
            ),
        ),
        SubjectRefusal::Authority(AuthorityFailure { disposition, answer, .. }) => {
            Refusal::of_disposition(disposition, answer)
        }
    }
}
