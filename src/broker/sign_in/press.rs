//! The press of the button: it binds the session to the browser, and returns the URL to send it to.

use super::{Begun, CannotBegin};
use crate::authority::AuthorizeRequest;
use crate::broker::connect::{SWAP_TRIES, same};
use crate::broker::quota::{MOST_PRESSES, MOST_STATES};
use crate::broker::rights::Right;
use crate::broker::session::{AuthorizeState, ConnectSession, ConnectState, Purpose};
use crate::broker::{Broker, Refusal, SessionState};
use crate::domain::digest::sha256_hex;
use crate::domain::id::SessionId;
use crate::domain::random::random_token;
use crate::domain::secret::CodeVerifier;
use crate::repository::{FiledUnder, Kind, SecretHash};

/// Length of a browser's binding: 256 bits in base64url.
const BINDING_LENGTH: usize = 43;

/// A prepared authorize request.
#[derive(Clone)]
struct Asked {
    url: String,
    state: SecretHash,
}

impl Broker {
    /// Handles a press of the button: binds the session to this browser and returns the URL to send it to.
    /// Only the browser that pressed first may press again. The binding is stored last, so that a failed
    /// press binds nobody.
    ///
    /// Each press makes an authorize request of its own, and the last few of a session are valid, so that
    /// Back, a second tab and a reload find theirs. Older ones are forgotten.
    pub async fn begin(&self, id: &SessionId, binding: Option<&str>) -> Result<Begun, CannotBegin> {
        let mut asked = None;
        let begun = self.press(id, binding, &mut asked).await;
        if begun.is_err()
            && let Some(Asked { state, .. }) = &asked
        {
            self.forget(state).await;
        }
        begun
    }

    async fn press(
        &self,
        id: &SessionId,
        binding: Option<&str>,
        asked: &mut Option<Asked>,
    ) -> Result<Begun, CannotBegin> {
        self.room().map_err(CannotBegin::Unavailable)?;
        let well_formed = binding.filter(|binding| binding.len() == BINDING_LENGTH);
        let fresh = random_token(self.deps.random.as_ref());
        let hash = sha256_hex(well_formed.unwrap_or(&fresh).as_bytes());
        for _ in 0..SWAP_TRIES {
            let taken = self.session(id).await?;
            let state = self.stands(&taken.value);
            if state != SessionState::Pending {
                return Err(CannotBegin::Over(state));
            }
            let right = self.right_of_session(&taken.value, None).await?;
            if taken.value.browser.as_ref().is_some_and(|bound| !same(&hash, bound)) {
                return Err(CannotBegin::AnotherBrowser);
            }
            if taken.value.presses >= MOST_PRESSES {
                return Err(CannotBegin::TooOften);
            }
            let mut session = taken.value.clone();
            session.browser = Some(hash.clone());
            let Asked { url, state } = match &*asked {
                Some(asked) => asked.clone(),
                None => {
                    let new = self.authorize(&right, id, &session).await.map_err(CannotBegin::Unavailable)?;
                    asked.insert(new).clone()
                }
            };
            session.presses += 1;
            session.states.push(state);
            let superseded = session.states.len().saturating_sub(MOST_STATES);
            let superseded: Vec<SecretHash> = session.states.drain(..superseded).collect();
            if self.swap_session(id, &taken, &session).await? {
                for state in &superseded {
                    self.forget(state).await;
                }
                return Ok(Begun { url, binding: well_formed.is_none().then_some(fresh) });
            }
        }
        Err(CannotBegin::TooOften)
    }

    /// Invalidates an authorize request. If an outage prevents that, it expires by itself.
    async fn forget(&self, state: &SecretHash) {
        let taken = self.deps.repository.discard_pending(Kind::State, &FiledUnder::hash(state)).await;
        if let Err(error) = taken {
            tracing::debug!(%error, "an invalid authorize request could not be removed; it expires");
        }
    }

    /// Makes a binding for a browser without one. Setting it changes no stored record.
    pub fn new_binding(&self) -> String {
        random_token(self.deps.random.as_ref())
    }

    async fn authorize(
        &self,
        right: &Right,
        id: &SessionId,
        session: &ConnectSession,
    ) -> Result<Asked, Refusal> {
        let key = right.key();
        let app = self.app(&key.app)?;
        let random = self.deps.random.as_ref();
        let state = random_token(random);
        // The claims challenge of the last verdict is passed on, so that this sign-in satisfies it.
        let claims = match self.deps.engine.inspect(key).await {
            Ok(held) => held.connection.profile.pending_claims().map(str::to_owned),
            Err(_) => None,
        };
        let request = AuthorizeRequest {
            redirect_uri: app.redirect_uri.clone(),
            scopes: app.naming().scopes_lossy(session.scopes.iter().map(String::as_str)),
            state: state.clone(),
            nonce: random_token(random),
            verifier: CodeVerifier::new(random_token(random)),
            login_hint: session.login_hint.clone(),
            domain_hint: session.domain_hint.clone(),
            prompt: session.prompt.clone(),
            claims,
        };
        let authorize = app.authority.authorize_url(&request).await.map_err(|failure| {
            if let Some(left_out) = self.sayings.due("flow begun", self.deps.clock.monotonic()) {
                tracing::warn!(app = %session.app, %failure, left_out, "a connect flow could not begin");
            }
            Refusal::of_disposition(failure.disposition, failure.answer)
        })?;
        let record = AuthorizeState {
            app: session.app.clone(),
            purpose: Purpose::Connect(ConnectState {
                session: id.clone(),
                browser: session.browser.clone().unwrap_or_default(),
                verifier: request.verifier.expose().to_owned(),
                nonce: request.nonce,
                issuer: authorize.issuer,
                iss_required: authorize.iss_required,
                redirect_uri: request.redirect_uri,
            }),
        };
        let now = self.deps.clock.now();
        let state = SecretHash::of(&state);
        let (filed, ttl) = (FiledUnder::hash(&state), self.settings().state_ttl);
        self.deps.repository.put_pending(Kind::State, &filed, &record, now, ttl).await?;
        Ok(Asked { url: authorize.url, state })
    }
}
