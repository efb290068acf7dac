//! Properties of pending records of every version.

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::replicas::Report;
use super::session::{AuthorizeState, ConnectSession, ConsentSession, SessionState};
use crate::domain::choice::Choices;
use crate::domain::id::{AppName, ConnectionName};
use crate::domain::revocation::Revocation;
use crate::domain::time::Timestamp;
use crate::domain::token_hosts::TokenHosts;

/// Panics if a pending record changes its meaning when it is rewritten, or has an invalid name.
pub fn a_pending_record_is_read_as_it_is_written(input: &[u8]) {
    if let Some(session) = read::<ConnectSession>(input) {
        assert!(AppName::parse(session.app.as_str()).is_ok(), "{}", session.app);
        assert!(ConnectionName::stored(session.connection.as_str()).is_ok(), "{}", session.connection);
        // At the end of time, nothing is waited for.
        let state = session.state_at(Timestamp::from_unix_millis(i64::MAX), || false);
        assert!(
            !matches!(state, SessionState::Pending | SessionState::AwaitingConfirmation { .. }),
            "{state:?}"
        );
    }
    if let Some(state) = read::<AuthorizeState>(input) {
        assert!(AppName::parse(state.app.as_str()).is_ok(), "{}", state.app);
    }
    if let Some(consent) = read::<ConsentSession>(input) {
        assert!(AppName::parse(consent.app.as_str()).is_ok(), "{}", consent.app);
    }
    let _all = (
        read::<Vec<Revocation>>(input),
        read::<Vec<Report>>(input),
        read::<Choices>(input),
        read::<TokenHosts>(input),
    );
}

fn read<T: Serialize + DeserializeOwned>(bytes: &[u8]) -> Option<T> {
    let read: T = serde_json::from_slice(bytes).ok()?;
    let written = serde_json::to_string(&read).expect("these types have no map keys that JSON lacks");
    let again: T = serde_json::from_str(&written).expect("it is what we write");
    assert_eq!(serde_json::to_string(&again).expect("as before"), written);
    Some(read)
}
