//! Who asks for a stream: judged again and again while it lasts.

use std::sync::Arc;

use http::{HeaderMap, HeaderValue, header};

use crate::api::dialect::Dialect;
use crate::api::problem::Problem;
use crate::callers::{Authenticated, AuthenticationFailure, LiveCallers};
use crate::domain::auth_method::LiveAuthMethods;
use crate::domain::id::CallerName;
use crate::domain::time::Clock;
use crate::listener::{Peer, StreamPlace};

/// The caller of a stream, with what it proved itself by.
pub(super) struct StreamCaller {
    pub(super) callers: LiveCallers,
    pub(super) accepted: LiveAuthMethods,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) name: CallerName,
    /// The header that the credential was in, if it was in one.
    pub(super) credential: Option<HeaderValue>,
    pub(super) peer: Peer,
    pub(super) place: Arc<StreamPlace>,
}

impl StreamCaller {
    /// The caller, if the credential is still its own.
    pub(super) async fn now(&self) -> Result<Authenticated, Problem> {
        let peer = self.place.now(self.peer.clone());
        let headers: HeaderMap =
            self.credential.clone().map(|value| (header::AUTHORIZATION, value)).into_iter().collect();
        let credential = Dialect::Watch.credential(&headers, &peer).ok_or(AuthenticationFailure::Malformed);
        let known = match credential {
            Ok(credential) => {
                let accepted = self.accepted.current();
                self.callers.load_full().authenticate(credential, accepted, self.clock.as_ref()).await
            }
            Err(failure) => Err(failure),
        };
        match known {
            Ok(known) if known.caller.name == self.name => Ok(known),
            // The credential is another caller's now.
            Ok(_) => Err(Problem::unauthenticated().for_credential(self.credential.is_some())),
            // (Where its issuer's keys are not known yet, that may pass.)
            Err(failure) => Err(Problem::of_stranger(failure, self.credential.is_some())),
        }
    }
}
