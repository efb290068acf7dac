//! The redirect back to the app: whether and how it may be called, and the changes by faults.

use std::fmt::Write as _;

use http::Uri;
use serde_json::Value;

use crate::directory::TenantPath;
use crate::errors::AadError;
use crate::faults::{CallbackPatch, Fault, Target};
use crate::ledger::Endpoint;
use crate::message::{Answer, Params, Request};
use crate::pages;
use crate::random;
use crate::state::State;

/// The redirect URI and the response mode, checked.
#[derive(Clone, Debug)]
pub(crate) struct Callback {
    pub(crate) client_id: String,
    pub(crate) redirect_uri: String,
    pub(crate) mode: ResponseMode,
    pub(crate) state: Option<String>,
    /// The endpoint that was asked, for matching fault rules.
    pub(crate) endpoint: Endpoint,
}

/// How the parameters travel back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ResponseMode {
    Query,
    Fragment,
    FormPost,
}

impl State {
    /// Finds the app and where to call it back. Failures here stay on a page.
    pub(crate) fn callback_of(
        &self,
        params: &Params,
        tenant: &str,
        endpoint: Endpoint,
    ) -> Result<(TenantPath, Callback), AadError> {
        let path = self.known_tenant(tenant)?;
        let needed = |name: &str| {
            params.get(name).ok_or_else(|| {
                AadError::because(
                    900144,
                    format!("The request body must contain the following parameter: '{name}'."),
                )
            })
        };
        let client_id = needed("client_id")?;
        let app = self.directory.apps.get(client_id).ok_or_else(|| {
            AadError::because(
                700016,
                format!(
                    "Application with identifier '{client_id}' was not found in the directory '{}'.",
                    path.canonical()
                ),
            )
        })?;
        let redirect_uri = needed("redirect_uri")?;
        let (web, spa) = (&app.app.redirect_uris, &app.app.spa_redirect_uris);
        let registered = web.iter().chain(spa).any(|known| same_redirect(known, redirect_uri));
        if !registered {
            return Err(AadError::because(
                50011,
                format!(
                    "The redirect URI '{redirect_uri}' specified in the request does not match the redirect \
                     URIs configured for the application '{client_id}'."
                ),
            ));
        }
        self.check_audience(client_id, &path)
            .or_else(|error| if error.code == 50194 { Ok(()) } else { Err(error) })?;
        let front_channel = params.get("response_type").is_some_and(|kind| kind.contains("token"));
        let mode = match params.get("response_mode") {
            Some("form_post") => ResponseMode::FormPost,
            Some("fragment") => ResponseMode::Fragment,
            None if front_channel => ResponseMode::Fragment,
            _ => ResponseMode::Query,
        };
        let state = params.get("state").map(strip_html);
        let callback = Callback {
            client_id: client_id.to_owned(),
            redirect_uri: redirect_uri.to_owned(),
            mode,
            state,
            endpoint,
        };
        Ok((path, callback))
    }

    /// Returns an AADSTS fault that was delayed until the callback was known.
    pub(crate) fn late_failure(
        &mut self,
        request: &Request,
        path: &TenantPath,
        callback: &Callback,
    ) -> Option<Answer> {
        let endpoint = callback.endpoint;
        let user = match endpoint {
            Endpoint::Authorize => self.authorize_user(request, path),
            _ => None,
        };
        let target =
            Target { endpoint, grant_type: None, user: user.as_deref(), client: Some(&callback.client_id) };
        let faults = self.rules.strike(&target, |fault| matches!(fault, Fault::Aadsts { .. }));
        let error = faults.first().and_then(|fault| self.failure_of(fault))?.for_redirect();
        let mut answer = if error.stays_on_page() {
            self.error_page(&error, request)
        } else {
            self.callback_failure(request, callback, user.as_deref(), &error, None)
        };
        answer.notes.late_faults.push("aadsts");
        Some(answer)
    }

    /// A redirect back with an error.
    pub(crate) fn callback_failure(
        &mut self,
        request: &Request,
        callback: &Callback,
        user: Option<&str>,
        error: &AadError,
        subcode: Option<&str>,
    ) -> Answer {
        let mut parameters = vec![
            ("error".to_owned(), error.error.clone()),
            ("error_description".to_owned(), error.description(&request.ids, self.clock.now())),
            ("error_uri".to_owned(), error.uri(&self.base)),
        ];
        if let Some(subcode) = subcode {
            parameters.push(("error_subcode".to_owned(), subcode.to_owned()));
        }
        if let Some(claims) = &error.claims {
            parameters.push(("claims".to_owned(), claims.to_string()));
        }
        if let Some(state) = &callback.state {
            parameters.push(("state".to_owned(), state.clone()));
        }
        self.call_back(request, callback, user, parameters).failed(error)
    }

    /// The page for failures that must not reach the app.
    pub(crate) fn error_page(&self, error: &AadError, request: &Request) -> Answer {
        let description = error.description(&request.ids, self.clock.now());
        Answer::html(400, pages::error(&description)).failed(error)
    }

    /// Sends the browser back to the app, changed as the faults say.
    pub(crate) fn call_back(
        &mut self,
        request: &Request,
        callback: &Callback,
        user: Option<&str>,
        mut parameters: Vec<(String, String)>,
    ) -> Answer {
        let client = Some(callback.client_id.as_str());
        let target = Target { endpoint: callback.endpoint, grant_type: None, user, client };
        let faults = self.rules.strike(&target, |fault| matches!(fault, Fault::CallbackPatch(_)));
        let mut stuck = false;
        let mut error = None;
        for fault in &faults {
            let Fault::CallbackPatch(patch) = fault else { continue };
            stuck |= *patch == CallbackPatch::NeverReturns;
            if let CallbackPatch::Error { error: name, .. } = patch {
                error = Some(name.clone());
            }
            self.patch_callback(patch, &mut parameters, request);
        }
        let mut answer = if stuck {
            Answer::html(200, pages::stuck())
        } else {
            match callback.mode {
                ResponseMode::FormPost => {
                    Answer::html(200, pages::form_post(&callback.redirect_uri, &parameters))
                }
                ResponseMode::Query => {
                    Answer::redirect(with_parameters(&callback.redirect_uri, '?', &parameters))
                }
                ResponseMode::Fragment => {
                    Answer::redirect(with_parameters(&callback.redirect_uri, '#', &parameters))
                }
            }
        };
        answer.notes.error = error;
        answer.notes.late_faults.extend(faults.iter().map(Fault::name));
        answer
    }

    fn patch_callback(
        &self,
        patch: &CallbackPatch,
        parameters: &mut Vec<(String, String)>,
        request: &Request,
    ) {
        let only_state =
            |parameters: &mut Vec<(String, String)>| parameters.retain(|(name, _)| name == "state");
        let set = |parameters: &mut Vec<(String, String)>, name: &str, value: &str| {
            parameters.retain(|(known, _)| known != name);
            parameters.push((name.to_owned(), value.to_owned()));
        };
        match patch {
            CallbackPatch::NeverReturns => {}
            CallbackPatch::WrongState => set(parameters, "state", &random::text::<24>()),
            CallbackPatch::NoState => parameters.retain(|(name, _)| name != "state"),
            CallbackPatch::DuplicateParams => {
                let again: Vec<_> =
                    parameters.iter().map(|(name, _)| (name.clone(), random::text::<24>())).collect();
                parameters.extend(again);
            }
            CallbackPatch::Cancel => {
                let error = AadError::new(65004);
                only_state(parameters);
                set(parameters, "error", "access_denied");
                set(parameters, "error_subcode", "cancel");
                set(parameters, "error_description", &error.description(&request.ids, self.clock.now()));
            }
            CallbackPatch::Error { error, description, subcode } => {
                only_state(parameters);
                set(parameters, "error", error);
                if let Some(description) = description {
                    set(parameters, "error_description", description);
                }
                if let Some(subcode) = subcode {
                    set(parameters, "error_subcode", subcode);
                }
            }
            CallbackPatch::Iss(issuer) => set(parameters, "iss", issuer),
            CallbackPatch::Set(changes) => {
                for (name, value) in changes {
                    match value {
                        Value::Null => parameters.retain(|(known, _)| known != name),
                        Value::String(text) => set(parameters, name, text),
                        other => set(parameters, name, &other.to_string()),
                    }
                }
            }
        }
    }
}

/// Whether a redirect URI is the registered one: letter case counts in the path, the port does not count for
/// localhost, and a missing path is a slash.
pub(crate) fn same_redirect(registered: &str, asked: &str) -> bool {
    let parts = |text: &str| {
        let uri: Uri = text.parse().ok()?;
        let scheme = uri.scheme_str()?.to_ascii_lowercase();
        let host = uri.host()?.to_ascii_lowercase();
        let port = if host == "localhost" { None } else { uri.port_u16() };
        let path = uri.path_and_query().map_or("/", |path| path.as_str()).to_owned();
        Some((scheme, host, port, path))
    };
    !asked.contains(['#', '@']) && parts(registered).is_some_and(|known| parts(asked) == Some(known))
}

/// Appends parameters to a redirect URI, which gets its slash if it has no path.
pub(crate) fn with_parameters(uri: &str, separator: char, parameters: &[(String, String)]) -> String {
    let mut out = uri.to_owned();
    if uri.split_once("://").is_some_and(|(_, rest)| !rest.contains('/') && !rest.contains('?')) {
        out.push('/');
    }
    let encoded = form_urlencoded::Serializer::new(String::new()).extend_pairs(parameters).finish();
    let separator = if separator == '?' && out.contains('?') { '&' } else { separator };
    let _ = write!(out, "{separator}{encoded}");
    out
}

/// Entra strips HTML out of `state` before it returns it.
fn strip_html(state: &str) -> String {
    let mut out = String::new();
    let mut inside = false;
    for letter in state.chars() {
        match letter {
            '<' => inside = true,
            '>' if inside => inside = false,
            _ if inside => {}
            other => out.push(other),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn redirect_uris_match_as_entra_matches_them() {
        for (known, asked, same) in [
            ("http://localhost/cb", "http://localhost:9000/cb", true),
            ("http://localhost:8080/cb", "http://localhost:9000/cb", true),
            ("http://localhost/cb", "http://localhost/CB", false),
            ("https://app.example/cb", "https://APP.example/cb", true),
            ("https://app.example/cb", "https://app.example:444/cb", false),
            ("https://app.example", "https://app.example/", true),
            ("https://app.example/cb", "https://app.example/cb/", false),
            ("https://app.example/cb", "https://app.example/cb?x=1", false),
            ("https://app.example/cb", "https://app.example/cb#x", false),
            ("https://app.example/cb", "https://user@app.example/cb", false),
        ] {
            assert_eq!(same_redirect(known, asked), same, "{known} {asked}");
        }
    }

    #[test]
    fn a_redirect_uri_without_a_path_gets_its_slash() {
        let parameters = [("code".to_owned(), "a b".to_owned())];
        assert_eq!(with_parameters("http://localhost", '?', &parameters), "http://localhost/?code=a+b");
        assert_eq!(with_parameters("http://x/cb?y=1", '?', &parameters), "http://x/cb?y=1&code=a+b");
    }

    #[test]
    fn html_in_state_is_stripped() {
        assert_eq!(strip_html("a<script>b</script>c"), "abc");
        assert_eq!(strip_html("a.b-c_d~e"), "a.b-c_d~e");
    }
}
