//! Request bodies: read within bounds, refused when a member is unknown or of the wrong type.

use std::fmt;
use std::marker::PhantomData;

use bytes::Bytes;
use serde::de::value::MapAccessDeserializer;
use serde::de::{DeserializeOwned, MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};

use super::admin::wire;
use super::problem::Problem;
use super::shapes::{FailureShape, NamedAccount, account_id};
use crate::broker::ConsentState;
use crate::broker::confirm::Confirmation;
use crate::broker::connect::NewSession;
use crate::broker::import::NewImport;
use crate::domain::account::{AccountId, tenant_id};
use crate::domain::handle::HandleId;
use crate::domain::id::{AppName, CallerName, ConnectionKey, ConnectionName};
use crate::domain::label;
use crate::domain::revocation::Revocation;
use crate::domain::secret::{ConfirmationCode, RefreshToken};
use crate::domain::time::Timestamp;
use crate::jwe::Recipient;
use crate::listener::{Body, BodyError};

/// Reads a body within the listener's bounds.
pub(super) async fn read(body: Body) -> Result<Bytes, Problem> {
    body.read_all().await.map_err(unread)
}

/// The problem of a body that could not be read.
pub(super) fn unread(error: BodyError) -> Problem {
    match error {
        BodyError::TooLarge => Problem::invalid("body", "is larger than 64 KiB"),
        BodyError::TimedOut => Problem::invalid("body", "did not arrive in time"),
        BodyError::Broken => Problem::invalid("body", "broke off"),
        BodyError::Coded => Problem::invalid(
            "body",
            "has a Content-Encoding (gzip, say): send it uncompressed, and without that field",
        ),
        BodyError::NoRoom => Problem::overloaded(),
    }
}

/// Reads a JSON object. The refusal names the place of a mistake, and repeats nothing of what came.
pub(super) fn parse<T: DeserializeOwned>(bytes: &Bytes) -> Result<T, Problem> {
    // serde_json's message may quote what came, so only its place is passed on.
    serde_json::from_slice::<Members<T>>(bytes).map(|members| members.0).map_err(|error| {
        let what = match error.classify() {
            serde_json::error::Category::Data => "has a member that is missing, unknown or of the wrong type",
            _ => "is not JSON",
        };
        Problem::invalid("body", format!("{what} (line {}, column {})", error.line(), error.column()))
    })
}

/// A struct read from an object only: serde alone takes a list for one too, by position.
struct Members<T>(T);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Members<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Object<T>(PhantomData<T>);
        impl<'de, T: Deserialize<'de>> Visitor<'de> for Object<T> {
            type Value = T;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, members: A) -> Result<T, A::Error> {
                T::deserialize(MapAccessDeserializer::new(members))
            }
        }
        deserializer.deserialize_map(Object(PhantomData)).map(Members)
    }
}

/// `PATCH /admin/v1/apps/{app}/connections/{connection}`.
pub(super) fn paused(bytes: Bytes) -> Result<bool, Problem> {
    parse::<wire::Pause>(&bytes).map(|body| body.paused)
}

/// `POST /admin/v1/keyring/promote` and `…/retire`: the sealing key's id.
pub(super) fn sealing_key(bytes: Bytes) -> Result<String, Problem> {
    let wire::SealingKeyNamed { key } = parse(&bytes)?;
    let is_id = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
    if key.is_empty() || key.len() > 64 || !key.bytes().all(is_id) {
        return Err(Problem::invalid("body", "`key` must be 1 to 64 of A-Z a-z 0-9 -"));
    }
    Ok(key)
}

/// Reads the connection that a link is wanted for.
pub(super) fn link_wanted(bytes: Bytes) -> Result<ConnectionKey, Problem> {
    let wire::LinkWanted { app, connection } = parse(&bytes)?;
    let app = AppName::parse(&app).map_err(|error| Problem::invalid("app", error.to_string()))?;
    let connection = ConnectionName::stored(&connection).map_err(Problem::no_connection)?;
    Ok(ConnectionKey { app, connection })
}

/// A grant to import.
pub(super) struct AskedImport {
    pub(super) new: NewImport,
    /// In whose name, if that is said.
    pub(super) caller: Option<CallerName>,
    /// It is only to be checked.
    pub(super) dry_run: bool,
}

/// `POST /admin/v1/imports`
pub(super) fn import(bytes: Bytes) -> Result<AskedImport, Problem> {
    let mut body: wire::Import = parse(&bytes)?;
    // Taken first: whatever is refused, the secret is wiped.
    let refresh_token = body.refresh_token.take().map(RefreshToken::new);
    let caller = body.caller.as_deref().map(CallerName::parse).transpose();
    let caller = caller.map_err(|error| Problem::invalid("caller", error.to_string()))?;
    if refresh_token.as_ref().is_some_and(|token| token.expose().is_empty()) {
        return Err(Problem::invalid("refresh_token", "is empty"));
    }
    if refresh_token.is_none() && !body.dry_run {
        return Err(Problem::invalid("refresh_token", "is missing"));
    }
    let labels = body.labels.map(label::checked).transpose();
    let account = body.account.map(|account| {
        let wire::ImportAccount { tid, oid, iss, sub, username: _ } = account;
        account_id(tid, oid, iss, sub).ok_or_else(no_account)
    });
    let new = NewImport {
        key: ConnectionKey {
            app: app_name(&body.app)?,
            connection: ConnectionName::parse(&body.connection).map_err(Problem::no_connection)?,
        },
        refresh_token,
        client_id: body.client_id,
        account: account.transpose()?,
        scopes: body.scopes.map(|scopes| scopes.join(" ")),
        labels: labels.map_err(|error| Problem::invalid("labels", error.to_string()))?,
        replace: body.replace,
    };
    Ok(AskedImport { new, caller, dry_run: body.dry_run })
}

/// `POST /admin/v1/exports`
pub(super) fn export(bytes: Bytes) -> Result<(AppName, Recipient, wire::Export), Problem> {
    let body: wire::Export = parse(&bytes)?;
    let recipient = Recipient::new(&body.recipient);
    let recipient = recipient.map_err(|error| Problem::invalid("recipient", error.to_string()))?;
    Ok((app_name(&body.app)?, recipient, body))
}

/// What is to be revoked, and how.
pub(super) struct AskedRevocation {
    pub(super) revocation: Revocation,
    /// A handle alone, and nothing else.
    pub(super) handle: Option<HandleId>,
    /// Though it names nothing that is known.
    pub(super) even_if_unknown: bool,
    /// It is only to be said what it would mean.
    pub(super) dry_run: bool,
}

/// `POST /admin/v1/revocations`, as of `now`.
pub(super) fn revocation(bytes: Bytes, now: Timestamp) -> Result<AskedRevocation, Problem> {
    let wire::Revocation { app, tenant, caller, handle, even_if_unknown, dry_run } = parse(&bytes)?;
    let handle = handle.as_deref().map(HandleId::parse).transpose();
    let handle = handle.map_err(|error| Problem::invalid("handle", error.to_string()))?;
    let tenant = tenant.as_deref().map(tenant_id).transpose();
    let tenant = tenant.map_err(|error| Problem::invalid("tenant", error.to_string()))?;
    if caller.as_deref() == Some("") {
        return Err(Problem::invalid("caller", "is empty"));
    }
    let revocation = Revocation { app, tenant, caller, at: now };
    if handle.is_some() && revocation.names_something() {
        return Err(Problem::invalid("handle", "stands alone: it is ended, and nothing else"));
    }
    Ok(AskedRevocation { revocation, handle, even_if_unknown, dry_run })
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SessionBody {
    #[serde(default, deserialize_with = "present")]
    app: Option<String>,
    #[serde(default, deserialize_with = "present")]
    connection: Option<String>,
    scopes: Option<Words>,
    account: Option<Members<NamedAccount>>,
    #[serde(default)]
    change_account: bool,
    login_hint: Option<String>,
    domain_hint: Option<String>,
    prompt: Option<String>,
    return_url: Option<String>,
    labels: Option<Vec<String>>,
}

/// Scopes as a list or as one space-separated text.
#[derive(Deserialize)]
#[serde(untagged)]
enum Words {
    List(Vec<String>),
    Text(String),
}

/// A new connect session.
pub(super) fn new_session(bytes: Bytes) -> Result<(ConnectionKey, NewSession), Problem> {
    let body: SessionBody = parse(&bytes)?;
    let (app, connection) = (required("app", body.app)?, required("connection", body.connection)?);
    let key = ConnectionKey {
        app: app_name(&app)?,
        connection: ConnectionName::parse(&connection).map_err(Problem::no_connection)?,
    };
    let labels = body.labels.map(label::checked).transpose();
    let session = NewSession {
        scopes: body.scopes.map(|scopes| match scopes {
            Words::List(list) => list.join(" "),
            Words::Text(text) => text,
        }),
        account: body.account.map(|account| named(account.0)).transpose()?,
        change_account: body.change_account,
        login_hint: body.login_hint,
        domain_hint: body.domain_hint,
        prompt: body.prompt,
        return_url: body.return_url,
        labels: labels.map_err(|error| Problem::invalid("labels", error.to_string()))?,
    };
    Ok((key, session))
}

/// Reads a member that is required. A missing one is told by its name, one of another type by its place.
fn present<'de, D: Deserializer<'de>>(member: D) -> Result<Option<String>, D::Error> {
    String::deserialize(member).map(Some)
}

fn required(name: &'static str, member: Option<String>) -> Result<String, Problem> {
    member.ok_or_else(|| Problem::invalid(name, "is missing"))
}

fn app_name(text: &str) -> Result<AppName, Problem> {
    // A name that no app can have is an app that does not exist.
    AppName::parse(text).map_err(|_| Problem::of(crate::broker::Refusal::AppNotFound))
}

fn named(account: NamedAccount) -> Result<AccountId, Problem> {
    account.id().ok_or_else(no_account)
}

fn no_account() -> Problem {
    Problem::invalid("account", "must have tid and oid, or iss and sub")
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ConfirmBody {
    code: Option<String>,
    account: Option<Members<NamedAccount>>,
}

/// A confirmation.
pub(super) fn confirmation(bytes: Bytes) -> Result<Confirmation, Problem> {
    let body: ConfirmBody = parse(&bytes)?;
    match (body.code, body.account) {
        (Some(code), None) => Ok(Confirmation::Code(ConfirmationCode::new(code))),
        (None, Some(account)) => Ok(Confirmation::Account(named(account.0)?)),
        _ => Err(Problem::invalid("body", "must have either code or account")),
    }
}

/// A new admin consent session.
pub(super) struct NewAdminConsent {
    pub(super) app: AppName,
    pub(super) tenant: Option<String>,
    pub(super) return_url: Option<String>,
}

/// A new admin consent session's body.
pub(super) fn new_admin_consent(bytes: Bytes) -> Result<NewAdminConsent, Problem> {
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct ConsentBody {
        #[serde(default, deserialize_with = "present")]
        app: Option<String>,
        tenant: Option<String>,
        return_url: Option<String>,
    }
    let body: ConsentBody = parse(&bytes)?;
    Ok(NewAdminConsent {
        app: app_name(&required("app", body.app)?)?,
        tenant: body.tenant,
        return_url: body.return_url,
    })
}

/// An admin consent session as it is shown.
#[derive(Serialize)]
pub(super) struct ConsentShape {
    state: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    tenant: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'static str>,
    #[serde(flatten)]
    failure: Option<FailureShape>,
}

/// The shape of an admin consent session's state.
pub(super) fn consent_shape(state: &ConsentState) -> ConsentShape {
    let failure = match state {
        ConsentState::Failed(failure) => Some(FailureShape::from(failure)),
        _ => None,
    };
    let (tenant, reason) = match state {
        ConsentState::Reported { tenant, .. } => (tenant.clone(), None),
        ConsentState::Consented { tenant } => (Some(tenant.clone()), None),
        ConsentState::Failed(failure) => (None, Some(failure.reason.as_str())),
        ConsentState::Expired => (None, Some("expired")),
        ConsentState::Pending => (None, None),
    };
    ConsentShape { state: state.as_str(), tenant, reason, failure }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_member_is_told_by_its_name_and_a_wrong_one_by_its_place() {
        let told = |body: &'static str| {
            let problem = new_session(Bytes::from_static(body.as_bytes())).expect_err("refused");
            let problem = serde_json::to_value(problem).expect("JSON");
            (problem["parameter"].clone(), problem["detail"].to_string().contains("line 1"))
        };
        assert_eq!(told(r#"{"connection":"a"}"#), ("app".into(), false));
        assert_eq!(told(r#"{"app":"outlook"}"#), ("connection".into(), false));
        for body in
            [r#"{"app":null,"connection":"a"}"#, r#"{"connection":1}"#, r#"{"sekrit":"app"}"#, "[]", "{"]
        {
            assert_eq!(told(body), ("body".into(), true), "{body}");
        }
    }

    #[test]
    fn a_confirmation_is_one_or_the_other() {
        for bad in
            ["{}", r#"{"code":"c","account":{"tid":"t","oid":"o"}}"#, r#"{"account":{"tid":"t"}}"#, "[]"]
        {
            assert!(confirmation(Bytes::from(bad)).is_err(), "{bad}");
        }
        let shown = r#"{"account":{"tid":"T","oid":"O","username":"alice"}}"#;
        assert!(matches!(
            confirmation(Bytes::from(shown)),
            Ok(Confirmation::Account(id)) if id == AccountId::entra("t", "o")
        ));
    }
}
