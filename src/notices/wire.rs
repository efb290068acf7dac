//! A notice as the outside has it.

use serde::Serialize;

use crate::domain::id::{AppName, ConnectionName};
use crate::domain::notice::{About, Notice};

#[derive(Serialize)]
struct Event<'a> {
    #[serde(rename = "type")]
    kind: &'a str,
    timestamp: String,
    data: Data<'a>,
}

#[derive(Serialize)]
struct Data<'a> {
    app: &'a AppName,
    #[serde(skip_serializing_if = "Option::is_none")]
    connection: Option<&'a ConnectionName>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tenant: Option<&'a str>,
}

/// The event as JSON, the same with every delivery. (Its signature is over these bytes.)
pub fn body(notice: &Notice) -> String {
    let (connection, tenant) = match &notice.about {
        About::Connection { connection, of: _ } => (Some(connection), None),
        About::Tenant { tenant } => (None, Some(tenant.as_str())),
        About::App {} => (None, None),
    };
    let data = Data { app: &notice.app, connection, tenant };
    let event = Event { kind: &notice.kind, timestamp: notice.at.rfc3339(), data };
    serde_json::to_string(&event).expect("these types have no map keys that JSON lacks")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::connection::SignIn;
    use crate::domain::id::ConnectionKey;
    use crate::domain::notice::NoticeKind;
    use crate::domain::time::Timestamp;

    #[test]
    fn an_event_names_what_changed_and_nothing_else() {
        let app = AppName::parse("outlook").expect("a name");
        let connection = ConnectionName::stored("user-1").expect("a name");
        let key = ConnectionKey { app: app.clone(), connection };
        let at = Timestamp::from_unix_millis(1_795_392_083_250);
        let deleted = Notice::deleted(&key, &SignIn::default(), Some("a-tenant"), at);
        assert_eq!(
            body(&deleted),
            r#"{"type":"connection.deleted","timestamp":"2026-11-23T00:01:23Z","data":{"app":"outlook","connection":"user-1"}}"#
        );
        let blocked = Notice::of_app(&app, NoticeKind::TenantBlocked, Some("t"), "1", at);
        assert!(body(&blocked).ends_with(r#""data":{"app":"outlook","tenant":"t"}}"#));
        let rejected = Notice::of_app(&app, NoticeKind::CredentialRejected, None, "1", at);
        assert!(body(&rejected).ends_with(r#""data":{"app":"outlook"}}"#));
    }
}
