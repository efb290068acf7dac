//! What can be seen of an authority and of the app's registration there without a user: for an operator who
//! asks what is wrong. Nothing is changed there, and nothing is decided here.

use http::header::{AUTHORIZATION, HeaderMap, HeaderValue, LOCATION};
use hyper_rustls::MaybeHttpsStream;
use hyper_util::rt::TokioIo;
use percent_encoding::percent_decode_str;
use rustls::pki_types::CertificateDer;
use serde_json::Value;
use std::net::SocketAddr;
use tokio::net::TcpStream;
use tower_service::Service as _;

use super::OpenIdAuthority;
use super::app_token::Wanted;
use super::config::ResponseMode;
use super::urls::Authorize;
use crate::authority::AuthorizeRequest;
use crate::authority::clouds::{Provider, TenantPath};
use crate::authority::http::HttpAnswer;
use crate::authority::text::one_line;
use crate::authority::url::CheckedUrl;
use crate::authority::wire::{self, aadsts};
use crate::domain::clouds::cloud_of;
use crate::domain::random::random_uuid;
use crate::domain::scope::{ScopeNaming, ScopeSet};
use crate::domain::secret::CodeVerifier;
use crate::domain::text::{chain, is_guid};
use crate::domain::time::Timestamp;
use crate::outbound::STEP;
use crate::outbound::http_date;

/// The longest name of a certificate's issuer that is shown.
const LONGEST_NAME: usize = 100;
/// The most parameters of a redirect that are looked at: Entra sends six.
const MOST_PARAMETERS: usize = 32;
/// The most redirect URIs that are kept of a registration: Entra's own limit.
const MOST_URIS: usize = 256;

/// The way to the authority.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Way {
    /// The address that was connected to: the proxy's, if there is one on the way.
    pub peer: Option<SocketAddr>,
    /// The issuer of the last certificate that the server showed, if it speaks TLS.
    pub issuer: Option<String>,
}

/// What the authority's discovery document and the way to it showed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LookedAt {
    /// The document's address.
    pub url: String,
    /// The way there, or why there is none.
    pub way: Result<Way, String>,
    /// Why the document cannot be used, with the authority's error numbers.
    pub problem: Option<(String, Vec<u32>)>,
    /// The authority's clock, and this process's own at that moment.
    pub clocks: Option<(Timestamp, Timestamp)>,
}

/// What an authorize request without a user showed about a redirect URI.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RedirectSeen {
    /// The browser would come back to it. `error` is what it would bring, besides "nobody is signed in".
    Accepted(Option<(String, Option<u32>)>),
    /// The authority shows an error page, with this number.
    Refused(u32),
    /// The answer does not tell.
    Untold(String),
}

/// The app's registration, as far as it matters here.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Registered {
    /// Redirect URIs of the platform Web.
    pub web: Vec<String>,
    /// Those of single-page applications.
    pub spa: Vec<String>,
    /// Those of mobile and desktop applications.
    pub public: Vec<String>,
}

/// Whether the registration could be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RegistrationSeen {
    /// It was read.
    Read(Registered),
    /// Why it was not.
    NotRead(String),
}

impl OpenIdAuthority {
    /// Looks at the authority: which way leads there, what its document says, and what time it has.
    pub async fn examine(&self) -> LookedAt {
        let (url, limit) = (&self.app.document_url, self.app.config.timeout);
        let http = self.transport.http();
        let mut looked = LookedAt {
            url: url.as_str().to_owned(),
            way: self.way_to(url).await,
            problem: None,
            clocks: None,
        };
        let answer = match http.look(url, HeaderMap::new(), limit).await {
            Ok(answer) => answer,
            Err(failure) => {
                looked.problem = Some((failure.cause, Vec::new()));
                return looked;
            }
        };
        let ours = self.parts.clock.now();
        // (A cache on the way repeats the date of the answer that it keeps.)
        let date = answer.header("date").filter(|_| answer.header("age").is_none());
        looked.clocks = date.and_then(http_date).map(|theirs| (theirs, ours));
        looked.problem = match answer.status {
            200 => self.app.expected.check(&answer.body).err().map(|problem| (problem, Vec::new())),
            status => {
                let codes = wire::refusal(&answer).map(|refusal| refusal.codes).unwrap_or_default();
                Some((format!("{} answered with status {status}", http.destination(url)), codes))
            }
        };
        looked
    }

    /// Opens a connection to see the way, and closes it.
    async fn way_to(&self, url: &CheckedUrl) -> Result<Way, String> {
        let http = self.transport.http();
        http.check_literal(url).map_err(|failure| failure.cause)?;
        let mut connector = http.connector.clone();
        let connect = async {
            std::future::poll_fn(|context| connector.poll_ready(context)).await?;
            connector.call(url.uri().clone()).await
        };
        let there = http.destination(url);
        let stream = tokio::select! {
            connected = connect => connected.map_err(|error| format!("{there}: {}", chain(&*error)))?,
            () = self.parts.clock.sleep(STEP * 2) => return Err(format!("{there} does not answer")),
        };
        Ok(match &stream {
            MaybeHttpsStream::Http(plain) => Way { peer: peer_of(plain), issuer: None },
            MaybeHttpsStream::Https(tls) => {
                let (inner, session) = tls.inner().get_ref();
                let last = session.peer_certificates().and_then(<[_]>::last);
                Way { peer: peer_of(inner.inner()), issuer: last.and_then(issuer_of) }
            }
        })
    }

    /// Makes the authorize request of a sign-in, for a browser in which nobody is signed in and that may show
    /// nothing (`prompt=none`). An authority answers it by a redirect to a registered address alone (RFC 6749
    /// §4.1.2.1).
    pub async fn try_redirect(&self, redirect_uri: &str, scopes: &ScopeSet) -> RedirectSeen {
        let random = || random_uuid(&*self.parts.random);
        let request = AuthorizeRequest {
            redirect_uri: redirect_uri.to_owned(),
            scopes: scopes.clone(),
            state: random(),
            nonce: random(),
            verifier: CodeVerifier::new(random() + &random()),
            login_hint: None,
            domain_hint: None,
            prompt: Some("none".to_owned()),
            claims: None,
        };
        let limit = self.app.config.timeout;
        let metadata = match self.documents.metadata("trying the redirect URI").await {
            Ok(metadata) => metadata,
            Err(failure) => return RedirectSeen::Untold(failure.cause),
        };
        let url = Authorize::new(&self.app, &request).map_err(|failure| failure.cause).and_then(|made| {
            let url = made.url_answered(ResponseMode::Query, &self.app, &metadata).url;
            CheckedUrl::parse(&url, true).map_err(|fault| format!("the authorization endpoint {fault}"))
        });
        let url = match url {
            Ok(url) => url,
            Err(cause) => return RedirectSeen::Untold(cause),
        };
        match self.transport.http().look(&url, HeaderMap::new(), limit).await {
            Ok(answer) => redirect_seen(&answer, redirect_uri),
            Err(failure) => RedirectSeen::Untold(failure.cause),
        }
    }

    /// Reads the app's own registration at Microsoft Graph, with a token of the app. Most apps may not.
    pub async fn read_registration(&self) -> RegistrationSeen {
        match self.registered().await {
            Ok(registered) => RegistrationSeen::Read(registered),
            Err(why) => RegistrationSeen::NotRead(why),
        }
    }

    async fn registered(&self) -> Result<Registered, String> {
        let (authority, client_id) = (&self.app.expected.authority, &self.app.config.client_id);
        let ScopeNaming::Entra { graph } = &self.app.naming else {
            return Err("only Entra's can be read".to_owned());
        };
        if !is_guid(client_id) {
            return Err("client_id is no id of an application at Entra".to_owned());
        }
        // The token goes to the Graph of the authority's own cloud, or stays on this machine.
        let graph = match cloud_of(authority.host()) {
            Some(_) => graph.as_str(),
            None if authority.is_loopback() => authority.origin(),
            None => return Err("the authority is of no known cloud of Microsoft".to_owned()),
        };
        let (scopes, tenant) = self.app.proof_request().ok_or("home_tenant is not set")?;
        let wanted = Wanted { scopes, resource: None, tenant };
        let candidates = self.credentials().candidates(self.parts.clock.now());
        let token = self.client_token(wanted, candidates, false).await.map_err(|failure| failure.cause)?;
        let url = format!(
            "{graph}/v1.0/applications(appId='{client_id}')?$select=web,spa,publicClient,signInAudience"
        );
        let url =
            CheckedUrl::parse(&url, true).map_err(|fault| format!("Microsoft Graph's address {fault}"))?;
        let bearer = zeroize::Zeroizing::new(format!("Bearer {}", token.access_token.expose()));
        let mut bearer = HeaderValue::from_str(&bearer).map_err(|_| "the token is no header's value")?;
        bearer.set_sensitive(true);
        let headers = HeaderMap::from_iter([(AUTHORIZATION, bearer)]);
        let answer = self.transport.http().look(&url, headers, self.app.config.timeout).await;
        let answer = answer.map_err(|failure| failure.cause)?;
        match answer.status {
            200 => registered_of(&answer.body)
                .ok_or_else(|| "Microsoft Graph's answer is no registration".into()),
            403 => Err("the app may not read it: that needs the application permission Application.Read.All"
                .to_owned()),
            status => Err(format!("Microsoft Graph answered with status {status}")),
        }
    }
}

fn peer_of(stream: &MaybeHttpsStream<TokioIo<TcpStream>>) -> Option<SocketAddr> {
    match stream {
        MaybeHttpsStream::Http(plain) => plain.inner().peer_addr().ok(),
        // TLS to a proxy.
        MaybeHttpsStream::Https(tls) => tls.inner().get_ref().0.inner().inner().peer_addr().ok(),
    }
}

/// The common name of the issuer, or else its organisation, or else all of its name.
fn issuer_of(certificate: &CertificateDer<'_>) -> Option<String> {
    let (_, parsed) = x509_parser::parse_x509_certificate(certificate).ok()?;
    let issuer = parsed.issuer();
    let name = issuer.iter_common_name().next().or_else(|| issuer.iter_organization().next());
    let name = name.and_then(|name| name.as_str().ok()).map_or_else(|| issuer.to_string(), str::to_owned);
    Some(one_line(&name).chars().take(LONGEST_NAME).collect())
}

/// Judges the answer to an authorize request without a user.
fn redirect_seen(answer: &HttpAnswer, redirect_uri: &str) -> RedirectSeen {
    let location = answer.headers.get(LOCATION).and_then(|location| location.to_str().ok());
    if let Some(query) = location.and_then(|location| query_of(location, redirect_uri)) {
        let error = field(query, "error").filter(|error| {
            // The answers to `prompt=none` when nobody is there to ask (OpenID Connect Core §3.1.2.6).
            !["login_required", "interaction_required", "consent_required", "account_selection_required"]
                .contains(&error.as_str())
        });
        let number = field(query, "error_description").and_then(|words| aadsts(&words));
        return RedirectSeen::Accepted(error.map(|error| (one_line(&error), number)));
    }
    if let Some(number) = number_in(&answer.body) {
        return RedirectSeen::Refused(number);
    }
    RedirectSeen::Untold(format!("the authorization endpoint answered with status {}", answer.status))
}

/// What a redirect to this URI carries, if it leads there.
fn query_of<'a>(location: &'a str, redirect_uri: &str) -> Option<&'a str> {
    let rest = location.strip_prefix(redirect_uri)?;
    let rest = rest.strip_prefix('/').unwrap_or(rest);
    match rest.chars().next() {
        None => Some(""),
        Some('?' | '#' | '&') => Some(&rest[1..]),
        Some(_) => None,
    }
}

/// A parameter of the redirect, decoded.
fn field(query: &str, name: &str) -> Option<String> {
    let mut pairs = query.split('&').take(MOST_PARAMETERS).filter_map(|pair| pair.split_once('='));
    let (_, value) = pairs.find(|(key, _)| *key == name)?;
    Some(percent_decode_str(&value.replace('+', " ")).decode_utf8_lossy().into_owned())
}

/// The first of Entra's error numbers on a page.
fn number_in(page: &[u8]) -> Option<u32> {
    let page = String::from_utf8_lossy(page);
    page.match_indices("AADSTS").find_map(|(at, _)| aadsts(&page[at..]))
}

/// Reads a registration as Graph has it.
fn registered_of(body: &[u8]) -> Option<Registered> {
    let document: Value = serde_json::from_slice(body).ok()?;
    let platform = |name: &str| -> Option<Vec<String>> {
        let uris = document.get(name)?.get("redirectUris")?.as_array()?;
        Some(uris.iter().filter_map(Value::as_str).take(MOST_URIS).map(str::to_owned).collect())
    };
    Some(Registered {
        web: platform("web")?,
        spa: platform("spa").unwrap_or_default(),
        public: platform("publicClient").unwrap_or_default(),
    })
}

impl OpenIdAuthority {
    /// Returns true for Entra, whose error numbers and rules are known.
    pub fn is_entra(&self) -> bool {
        self.provider() == Provider::Entra
    }

    /// Returns true if its path takes personal accounts alone: nobody administers them.
    pub fn is_for_personal_accounts(&self) -> bool {
        self.app.expected.tenant == Some(TenantPath::Consumers)
    }

    /// Returns the Graph to which bare scopes belong, if the authority is Entra.
    pub fn graph(&self) -> Option<&str> {
        match &self.app.naming {
            ScopeNaming::Entra { graph } => Some(graph),
            ScopeNaming::Plain => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use zeroize::Zeroizing;

    use super::*;

    const URI: &str = "https://tokens.contoso.example/callback/outlook";

    #[test]
    fn an_answer_to_a_request_without_a_user_tells_whether_the_browser_would_come_back() {
        let accepted = |error: &str, number| RedirectSeen::Accepted(Some((error.to_owned(), number)));
        let untold = |status| {
            RedirectSeen::Untold(format!("the authorization endpoint answered with status {status}"))
        };
        let page = |text: &str| format!("<html>…<pre>{text}</pre>");
        let rows = [
            (
                302,
                format!("{URI}?error=login_required&error_description=AADSTS50058%3A+x"),
                String::new(),
                RedirectSeen::Accepted(None),
            ),
            (302, format!("{URI}#error=interaction_required"), String::new(), RedirectSeen::Accepted(None)),
            (
                302,
                format!("{URI}?error=invalid_request&error_description=AADSTS50194%3A+x"),
                String::new(),
                accepted("invalid_request", Some(50_194)),
            ),
            (302, format!("{URI}?error=invalid_scope"), String::new(), accepted("invalid_scope", None)),
            (302, URI.to_owned(), String::new(), RedirectSeen::Accepted(None)),
            // Another address that begins alike, and another host.
            (302, format!("{URI}-other?error=login_required"), String::new(), untold(302)),
            (302, "https://login.example/kmsi".to_owned(), String::new(), untold(302)),
            (200, String::new(), page("AADSTS50011: The redirect URI …"), RedirectSeen::Refused(50_011)),
            (400, String::new(), page("AADSTS900971: No reply address"), RedirectSeen::Refused(900_971)),
            (400, String::new(), page("AADSTS: nothing; AADSTS700016: x"), RedirectSeen::Refused(700_016)),
            (200, String::new(), page("Sign in"), untold(200)),
            (500, String::new(), String::new(), untold(500)),
        ];
        for (status, location, body, expected) in rows {
            let mut headers = HeaderMap::new();
            if !location.is_empty() {
                headers.insert(LOCATION, HeaderValue::from_str(&location).expect("a value"));
            }
            let answer = HttpAnswer { status, headers, body: Zeroizing::new(body.clone().into_bytes()) };
            assert_eq!(redirect_seen(&answer, URI), expected, "{status} {location} {body}");
        }
    }

    #[test]
    fn a_registration_is_read_by_platform() {
        let body = br#"{"web": {"redirectUris": ["https://a/x"], "implicitGrantSettings": {}},
            "spa": {"redirectUris": ["https://a/y", 7]}, "publicClient": {"redirectUris": []}}"#;
        let expected = Registered {
            web: vec!["https://a/x".to_owned()],
            spa: vec!["https://a/y".to_owned()],
            public: Vec::new(),
        };
        assert_eq!(registered_of(body), Some(expected));
        for odd in ["", "[]", "{}", r#"{"web": {}}"#] {
            assert_eq!(registered_of(odd.as_bytes()), None, "{odd}");
        }
    }
}
