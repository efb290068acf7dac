//! Strict parsing of a callback's parameters, which come in the query, in a form, or in our own relay of a
//! form.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::{Method, header};

use super::page::Page;
use super::{PublicSite, cookie};
use crate::authority::RedirectError;
use crate::broker::sign_in::{Callback, CallbackOutcome};
use crate::domain::id::AppName;
use crate::domain::secret::AuthorizationCode;
use crate::domain::time::Timestamp;
use crate::keyring::seal::Place;
use crate::listener::{BadPairs, BodyError, Pairs, Request};

/// Longest code accepted (Microsoft's have a few hundred characters, some providers' a few thousand).
const LARGEST_CODE: usize = 4096;
const LARGEST_STATE: usize = 512;
/// Life of a relayed form: browsers follow the redirect at once.
const RELAY_LIFE: std::time::Duration = std::time::Duration::from_secs(60);
const RELAY: &str = "relay";

/// Place of the parameters.
pub(super) enum Arrived {
    /// In this request.
    Here(Parameters),
    /// In a cross-site form, without our cookie: redirect the browser to this URL, which has them.
    Relay(String),
}

/// Reason why a callback's parameters could not be read.
pub(super) enum CannotRead {
    /// They are invalid; the page says so.
    Wrong(Box<Page>),
    /// There was no room for the form beside all others.
    NoRoom,
}

impl From<Page> for CannotRead {
    fn from(page: Page) -> Self {
        CannotRead::Wrong(Box::new(page))
    }
}

/// The parsed parameters from the authority.
pub(super) struct Parameters {
    state: String,
    iss: Option<String>,
    outcome: CallbackOutcome,
    /// True if they were relayed so long ago that they may only repeat an earlier callback.
    only_repeats: bool,
    /// True for an administrator's answer.
    pub(super) admin_consent: bool,
}

impl Parameters {
    /// Converts them for the broker.
    pub(super) fn callback<'a>(
        self,
        app: &'a AppName,
        request_id: &'a str,
        binding: &'a (dyn Fn(&str) -> Option<String> + Send + Sync),
    ) -> Callback<'a> {
        let Parameters { state, iss, outcome, only_repeats, .. } = self;
        Callback { app, request_id, state, iss, outcome, only_repeats, binding }
    }

    /// Parses the pairs. A repeated parameter, or too many, make all invalid; an empty one counts as absent,
    /// and unknown ones are ignored (RFC 6749 sections 3.1 and 4.1.2).
    pub(super) fn read(raw: &[u8]) -> Result<Self, Page> {
        let pairs = Pairs::read(raw).map_err(|bad| match bad {
            BadPairs::TooMany => Page::too_many_parameters(),
            BadPairs::Repeated(_) => Page::not_understood(),
        })?;
        let value = |name: &str| pairs.value(name).map(str::to_owned);
        let state = value("state").filter(|state| state.len() <= LARGEST_STATE);
        let admin_consent = value("admin_consent").is_some();
        let outcome = match (value("code"), value("error")) {
            (Some(_), Some(_)) => return Err(Page::not_understood()),
            (None, Some(error)) => {
                let description = value("error_description");
                let subcode = value("error_subcode");
                CallbackOutcome::Error(RedirectError::read(
                    &error,
                    subcode.as_deref(),
                    description.as_deref(),
                ))
            }
            (Some(code), None) if code.len() <= LARGEST_CODE && is_printable(&code) => {
                CallbackOutcome::Code(AuthorizationCode::new(code))
            }
            (Some(_), None) => return Err(Page::not_understood()),
            (None, None) if admin_consent => {
                let tenant = value("tenant").filter(|tenant| tenant.len() == 36);
                CallbackOutcome::AdminConsent { tenant }
            }
            (None, None) => return Err(Page::not_understood()),
        };
        let state = state.ok_or_else(Page::not_understood)?;
        Ok(Parameters { state, iss: value("iss"), outcome, only_repeats: false, admin_consent })
    }
}

impl PublicSite {
    /// Reads a callback's parameters from wherever they are.
    pub(super) async fn callback_parameters(
        &self,
        app: &AppName,
        request: Request,
    ) -> Result<Arrived, CannotRead> {
        if request.method != Method::POST {
            let query = request.query.as_deref().unwrap_or_default();
            let relayed = query.strip_prefix(RELAY).and_then(|rest| rest.strip_prefix('='));
            return match relayed {
                Some(sealed) => {
                    let (form, only_repeats) = self.open_relay(app, sealed)?;
                    Ok(Arrived::Here(Parameters { only_repeats, ..Parameters::read(&form)? }))
                }
                None => Ok(Arrived::Here(Parameters::read(query.as_bytes())?)),
            };
        }
        let form =
            request.headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).is_some_and(
                |value| value.to_ascii_lowercase().starts_with("application/x-www-form-urlencoded"),
            );
        if !form {
            return Err(Page::not_understood().into());
        }
        let has_cookie = cookie::any(&request.headers);
        let body = request.body.read_all().await.map_err(|error| match error {
            BodyError::NoRoom => CannotRead::NoRoom,
            BodyError::TooLarge | BodyError::TimedOut | BodyError::Broken | BodyError::Coded => {
                Page::not_understood().into()
            }
        })?;
        if has_cookie {
            return Ok(Arrived::Here(Parameters::read(&body)?));
        }
        // Parsed before it is relayed, so that only valid forms are.
        Parameters::read(&body)?;
        let mut relayed = self.clock.now().unix_millis().to_be_bytes().to_vec();
        relayed.extend_from_slice(&body);
        let sealed = self.keyring.seal(&relay_place(app), &relayed, self.random.as_ref());
        let url =
            format!("{}/callback/{app}?{RELAY}={}", self.broker.base_url(), URL_SAFE_NO_PAD.encode(sealed));
        Ok(Arrived::Relay(url))
    }

    /// Returns the form, and whether it is so old that it may only repeat an earlier callback (a reload of
    /// the page it led to).
    fn open_relay(&self, app: &AppName, text: &str) -> Result<(Vec<u8>, bool), Page> {
        let sealed = URL_SAFE_NO_PAD.decode(text).map_err(|_| Page::not_understood())?;
        let relayed = self.keyring.open(&relay_place(app), &sealed).map_err(|_| Page::not_understood())?;
        let (at, form) = relayed.split_first_chunk::<8>().ok_or_else(Page::not_understood)?;
        let at = Timestamp::from_unix_millis(i64::from_be_bytes(*at));
        let now = self.clock.now();
        // Other replicas' clocks may be ahead, but not by more than that.
        let is_old = now > at.plus(RELAY_LIFE) || at > now.plus(RELAY_LIFE);
        Ok((form.to_vec(), is_old))
    }
}

/// Returns true if a code has only allowed characters (RFC 6749 appendix A.11); others could not be sent on
/// unchanged.
fn is_printable(code: &str) -> bool {
    code.bytes().all(|byte| (b' '..=b'~').contains(&byte))
}

fn relay_place(app: &AppName) -> Place<'_> {
    Place { schema: "relay", owner: (app.as_str(), ""), field: "form", generation: 0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_are_read_strictly() {
        let refused = [
            "",
            "state=s",
            "code=c",
            "state=&code=c",
            "state=s&code=c&error=e",
            "state=s&state=s&code=c",
            "state=s&code=c&code=d",
            "state=s&code=c&x=1&x=2",
            "state=s&code=c%0d%0a",
            "state=s&code=c%ff",
            "state=s&code=%C3%B3",
        ];
        for query in refused {
            assert!(Parameters::read(query.as_bytes()).is_err(), "{query}");
        }
        let long = format!("state=s&code={}", "c".repeat(LARGEST_CODE + 1));
        assert!(Parameters::read(long.as_bytes()).is_err());

        let read =
            Parameters::read(b"state=s&code=a%2Bb%26c&session_state=x&iss=&error=").ok().expect("read");
        assert!(matches!(&read.outcome, CallbackOutcome::Code(code) if code.expose() == "a+b&c"));
        assert_eq!((read.state.as_str(), read.iss), ("s", None));
    }

    #[test]
    fn an_administrators_answer_may_lack_its_tenant() {
        let read = Parameters::read(b"admin_consent=True&state=s").ok().expect("read");
        assert!(matches!(read.outcome, CallbackOutcome::AdminConsent { tenant: None }));
        let cancelled =
            Parameters::read(b"error=access_denied&state=s&admin_consent=True").ok().expect("read");
        assert!(matches!(cancelled.outcome, CallbackOutcome::Error(_)));
    }
}
