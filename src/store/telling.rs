//! How a notice is written down: JSON, in both stores. It is not sealed, because it says no more than the
//! names of keys do: an app, a connection's name, a tenant and what happened.

use std::time::Duration;

use serde::Deserialize;

use super::StoreError;
use crate::domain::notice::{self, Notice};
use crate::domain::time::Timestamp;

/// The most notices that are kept: the oldest go first.
pub const MOST_NOTICES: u64 = 100_000;

/// Notices in their one order. Places are whole numbers without gaps.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NoticePage {
    /// Each with its place.
    pub notices: Vec<(u64, Notice)>,
    /// The last place that was given; 0 if there was never one.
    pub last: u64,
}

/// The answer of [`super::Notices::gather`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Gathered {
    /// How many notices got a place.
    pub placed: usize,
    /// Whether there may be more.
    pub more: bool,
    /// How many notices of the past went, because they are old or too many.
    pub forgotten: usize,
}

/// How long a notice stays when it is over, so that whoever delivers it sees it go and can count it.
const LINGERS: Duration = Duration::from_secs(3600);

/// What keeping a notice needs of it: also of one that only a newer version can read.
#[derive(Deserialize)]
pub(crate) struct Label {
    pub(crate) id: String,
    at: Timestamp,
}

impl Label {
    /// Whether the notice may be forgotten.
    pub(crate) fn may_go(&self, now: Timestamp) -> bool {
        notice::is_over(self.at, now.minus(LINGERS))
    }
}

/// Reads what keeping a notice needs.
pub(crate) fn label(doing: &'static str, bytes: &[u8]) -> Result<Label, StoreError> {
    serde_json::from_slice(bytes).map_err(|_| StoreError::corrupt(doing, "what is stored is no notice"))
}

/// Writes a notice down.
pub(crate) fn encode(notice: &Notice) -> Vec<u8> {
    serde_json::to_vec(notice).expect("these types have no map keys that JSON lacks")
}

/// Reads a notice.
pub(crate) fn decode(doing: &'static str, bytes: &[u8]) -> Result<Notice, StoreError> {
    serde_json::from_slice(bytes).map_err(|_| StoreError::corrupt(doing, "what is stored is no notice"))
}

/// Reads a notice of a page. One that cannot be read is passed over: it must not hold up the others.
pub(crate) fn read(doing: &'static str, bytes: &[u8]) -> Option<Notice> {
    decode(doing, bytes).inspect_err(|error| tracing::error!(%error, "a notice is passed over")).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::connection::SignIn;
    use crate::domain::id::{AppName, ConnectionKey, ConnectionName};
    use crate::domain::notice::NoticeKind;
    use crate::domain::time::Timestamp;

    #[test]
    fn what_is_written_is_read_and_the_form_stays() {
        let app = AppName::parse("outlook").expect("a name");
        let connection = ConnectionName::stored("team-a/user:7").expect("a name");
        let key = ConnectionKey { app: app.clone(), connection };
        let at = Timestamp::from_unix_seconds(5);
        let sign_in = SignIn { number: 1, nonce: [1; 8] };
        let rows = [
            (
                Notice::deleted(&key, &sign_in, Some("t"), at),
                r#","type":"connection.deleted","at":5000,"app":"outlook","connection":"team-a/user:7","of":"t"}"#,
            ),
            (
                Notice::deleted(&key, &sign_in, None, at),
                r#","type":"connection.deleted","at":5000,"app":"outlook","connection":"team-a/user:7"}"#,
            ),
            (
                Notice::of_app(&app, NoticeKind::TenantBlocked, Some("t"), "1", at),
                r#","type":"tenant.blocked","at":5000,"app":"outlook","tenant":"t"}"#,
            ),
            (
                Notice::of_app(&app, NoticeKind::CredentialRejected, None, "1", at),
                r#","type":"app.credential_rejected","at":5000,"app":"outlook"}"#,
            ),
        ];
        for (notice, form) in rows {
            let bytes = encode(&notice);
            let text = std::str::from_utf8(&bytes).expect("JSON");
            assert!(text.ends_with(form), "{text}");
            assert_eq!(decode("testing", &bytes).expect("whole"), notice);
        }
        // A later version's kind goes through.
        let later = br#"{"id":"0","type":"connection.sang","at":1,"app":"a","connection":"u","why":1}"#;
        assert_eq!(decode("testing", later).expect("read").kind, "connection.sang");
        // What it is about is not guessed: more callers may hear an app's notice than others.
        for about in [
            r#""type":"connection.sang""#,
            r#""type":"tenant.sang""#,
            r#""type":"caller.sang","caller":"c""#,
            r#""type":"app.sang","tenant":"t""#,
            r#""type":"connection.sang","connection":7"#,
        ] {
            let row = format!(r#"{{"id":"0","at":1,"app":"a",{about}}}"#);
            assert!(decode("testing", row.as_bytes()).is_err(), "{row}");
            // But it is kept, for those who can read it, as long as any other.
            let label = label("testing", row.as_bytes()).expect("it has an id and a time");
            let over = at.plus(notice::KEPT + LINGERS);
            assert!(label.id == "0" && !label.may_go(at) && label.may_go(over), "{row}");
        }
        assert!(decode("testing", b"{}").is_err() && label("testing", b"{}").is_err());
    }
}
