//! The client of one app's authority: the port, put together from the files beside this one.

mod hosts;
mod token_call;

use parking_lot::Mutex;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use aws_lc_rs::digest::{SHA256, digest};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use form_urlencoded::Serializer;
use http::header::{HeaderMap, HeaderName, HeaderValue};
use serde_json::{Value, json};
use zeroize::Zeroizing;

use self::token_call::TokenCall;
use super::cache::{Kept, Used};
use super::classify::{self, Asked};
use super::client_auth::{AssertionAudience, ClientCredential, SecretMethod};
use super::clouds::{Provider, TenantPath, entra_authority_of, is_tenant_name};
use super::credential_set::{CredentialSet, Member};
use super::discovery::{DOCUMENT_PATH, Expected, Metadata};
use super::http::{HttpAnswer, HttpClient, HttpFailure, HttpFault};
use super::id_token::{IdTokenFault, Renewal, Rules, UnverifiedToken};
use super::jwks::{Algorithm, KeySet};
use super::observer::{AuthorityEvent, AuthorityObserver, Endpoint};
use super::roots::{Roots, RootsFault};
use super::text::{one_line, trace_word};
use super::token_answer::{self, TokenSuccess, Unusable};
use super::token_hosts::AppHosts;
use super::url::{CheckedUrl, UrlFault};
use super::way_out::Outbound;
use super::wire::{self, MAX_CLAIMS, Object, TokenError};
use super::{
    AdminConsentRequest, Authority, AuthorizeRequest, AuthorizeUrl, Fate, RedeemFailure, RedeemRequest,
    RefreshRequest, Refreshed, RefusedAnswer, TokenAnswer,
};
use crate::domain::account::Account;
use crate::domain::clouds::{GRAPH, cloud_of};
use crate::domain::credential::InVain;
use crate::domain::random::{Random, random_uuid};
use crate::domain::remarks::Remarks;
use crate::domain::scope::{ScopeNaming, ScopeSet};
use crate::domain::secret::AccessToken;
use crate::domain::task::BoxFuture;
use crate::domain::tenants::Tenants;
use crate::domain::time::{Clock, Timestamp};
use crate::domain::verdict::{AuthorityError, AuthorityFailure, Disposition};

/// How an authority hands the code back to the browser.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ResponseMode {
    /// In the callback's query.
    #[default]
    Query,
    /// In a form that the browser posts to the callback.
    FormPost,
}

/// This room's own configuration: one app's.
#[derive(Debug, Clone, PartialEq)]
pub struct AuthorityConfig {
    /// The authority's URL, which for any other provider than Entra is its issuer to the letter.
    pub authority: String,
    /// Whose ways it has; none to tell from the URL, which the discovery document then must not contradict.
    pub provider: Option<Provider>,
    /// The app's id at the authority.
    pub client_id: String,
    /// At Entra: whose accounts may be connected.
    pub tenants: Tenants,
    /// At Entra: the Microsoft Graph that bare scopes belong to, such as `https://dod-graph.microsoft.us`, which
    /// shares its login host with another one; none for the login host's own.
    pub graph: Option<String>,
    /// Hosts (`host` or `host:port`) of the authority's endpoints besides its own. None lets an Entra authority use
    /// its cloud's hosts, and any other one every public host over `https`; a list, even an empty one, is all
    /// there is, but for an Entra cloud's own hosts.
    pub endpoint_hosts: Option<Vec<String>>,
    /// Whom to trust for TLS.
    pub roots: Roots,
    /// Which way requests leave.
    pub outbound: Arc<Outbound>,
    /// The longest one exchange may take, from name resolution to the last byte.
    pub timeout: Duration,
    /// At Entra: the tenant that the app is registered in, for tokens of its own.
    pub home_tenant: Option<String>,
    /// Ask for tokens under continuous access evaluation (`cp1`), which live for a day.
    pub continuous_access_evaluation: bool,
    /// How a client secret travels; none to go by the discovery document.
    pub token_endpoint_auth_method: Option<SecretMethod>,
    /// Whom signed assertions are for.
    pub assertion_audience: AssertionAudience,
    /// Whether a used refresh token may be sent again; none for Entra's documented yes and anybody else's no.
    pub refresh_token_reuse: Option<bool>,
    /// How the code comes back.
    pub response_mode: ResponseMode,
}

impl AuthorityConfig {
    /// The defaults for an app at an authority: every work or school tenant, the system's roots, ten seconds.
    pub fn new(authority: impl Into<String>, client_id: impl Into<String>) -> Self {
        AuthorityConfig {
            authority: authority.into(),
            provider: None,
            client_id: client_id.into(),
            tenants: Tenants::any_organization(),
            graph: None,
            endpoint_hosts: None,
            roots: Roots::System,
            outbound: Arc::default(),
            timeout: Duration::from_secs(10),
            home_tenant: None,
            continuous_access_evaluation: false,
            token_endpoint_auth_method: None,
            assertion_audience: AssertionAudience::default(),
            refresh_token_reuse: None,
            response_mode: ResponseMode::Query,
        }
    }
}

/// What is wrong with an [`AuthorityConfig`].
#[derive(Debug, thiserror::Error)]
pub enum AuthorityConfigError {
    /// The authority's URL.
    #[error("the authority's URL {0}")]
    Url(#[source] UrlFault),
    /// An Entra authority is `{origin}/{tenant}/v2.0`; and what was probably meant.
    #[error(
        "an Entra authority ends in /common/v2.0, /organizations/v2.0, /consumers/v2.0 or /{{tenant}}/v2.0, where {{tenant}} is the tenant's id or one of its domains, such as contoso.onmicrosoft.com"
    )]
    EntraPath(Option<String>),
    /// The URL of the authority's document in place of the authority's own; and that.
    #[error("is the URL of the authority's discovery document; the authority's own is what stands before it")]
    DocumentUrl(String),
    /// A query in the authority's URL.
    #[error("the authority's URL must not carry a query")]
    Query,
    /// No client id, or one with characters that no client id has (RFC 6749 appendix A.1).
    #[error("{}", .0.map_or("is empty".to_owned(), |odd| format!("holds {:?}, which no client id does", odd.to_string())))]
    ClientId(Option<char>),
    /// The Graph's URL.
    #[error("the Graph's URL {0}")]
    Graph(#[source] UrlFault),
    /// The roots of trust.
    #[error("{0}")]
    Roots(#[source] RootsFault),
}

impl AuthorityConfigError {
    /// The name of the setting that is wrong, as an app's is called in the configuration.
    pub fn key(&self) -> &'static str {
        match self {
            AuthorityConfigError::Url(_)
            | AuthorityConfigError::EntraPath(_)
            | AuthorityConfigError::DocumentUrl(_)
            | AuthorityConfigError::Query
            | AuthorityConfigError::Graph(_) => "authority",
            AuthorityConfigError::ClientId(_) => "client_id",
            AuthorityConfigError::Roots(_) => "authority_ca",
        }
    }

    /// What was probably meant.
    pub fn nearest(&self) -> Option<&str> {
        match self {
            AuthorityConfigError::EntraPath(nearest) => nearest.as_deref(),
            AuthorityConfigError::DocumentUrl(nearest) => Some(nearest),
            _ => None,
        }
    }
}

/// What the client is made with.
#[derive(Clone)]
pub struct AuthorityParts {
    /// The clock.
    pub clock: Arc<dyn Clock>,
    /// Randomness for assertion and request ids.
    pub random: Arc<dyn Random>,
    /// Who counts; [`Unobserved`](super::Unobserved) for nobody.
    pub observer: Arc<dyn AuthorityObserver>,
    /// Where secrets may go.
    pub token_hosts: AppHosts,
}

/// A token of the app's own (RFC 6749 §4.4).
pub struct ClientToken {
    /// The access token; opaque.
    pub access_token: AccessToken,
    /// When the request began: its life is counted from here.
    pub requested_at: Timestamp,
    /// Its life.
    pub expires_in: Duration,
}

/// An OpenID authority, Entra or any other, with one app's credentials. Made once per app.
pub struct OpenIdAuthority {
    pub(super) config: AuthorityConfig,
    pub(super) expected: Expected,
    document_url: CheckedUrl,
    naming: ScopeNaming,
    pub(super) one_tenant: bool,
    may_replay: bool,
    http: HttpClient,
    pub(super) metadata: Kept<Metadata>,
    keys: Kept<KeySet>,
    /// The app signs with keys of its own, which are listed only where it is named.
    has_own_keys: AtomicBool,
    credentials: ArcSwap<CredentialSet>,
    /// How a secret was sent that the authority took, where that is not configured.
    pub(super) seen_method: Mutex<Option<SecretMethod>>,
    pub(super) parts: AuthorityParts,
}

impl OpenIdAuthority {
    /// Checks the configuration and makes the client. Nothing is sent yet.
    pub fn new(
        config: AuthorityConfig,
        credentials: Vec<ClientCredential>,
        parts: AuthorityParts,
    ) -> Result<Self, AuthorityConfigError> {
        let url = CheckedUrl::parse(&config.authority, true).map_err(AuthorityConfigError::Url)?;
        if url.has_query() {
            return Err(AuthorityConfigError::Query);
        }
        let odd = config.client_id.chars().find(|one| !matches!(one, ' '..='~'));
        if config.client_id.is_empty() || odd.is_some() {
            return Err(AuthorityConfigError::ClientId(odd));
        }
        let path = TenantPath::of(&url);
        let cloud = cloud_of(url.host());
        if let Some(own) = url.as_str().strip_suffix(DOCUMENT_PATH) {
            let of_entra = cloud.and_then(|_| entra_authority_of(&url));
            return Err(AuthorityConfigError::DocumentUrl(of_entra.unwrap_or_else(|| own.to_owned())));
        }
        // Told from the URL alone, for the scopes' names must be known before the network is.
        let guessed = if cloud.is_some() || path.is_some() { Provider::Entra } else { Provider::OpenId };
        let provider = config.provider.unwrap_or(guessed);
        let tenant = match provider {
            Provider::Entra => {
                Some(path.ok_or_else(|| AuthorityConfigError::EntraPath(entra_authority_of(&url)))?)
            }
            Provider::OpenId => None,
        };
        let naming = match provider {
            Provider::Entra => {
                let graph = config.graph.as_deref().unwrap_or(cloud.map_or(GRAPH, |cloud| cloud.graph));
                let graph = CheckedUrl::parse(graph, false).map_err(AuthorityConfigError::Graph)?;
                ScopeNaming::Entra { graph: graph.as_str().trim_end_matches('/').to_owned() }
            }
            Provider::OpenId => ScopeNaming::Plain,
        };
        let one_tenant =
            config.tenants.only().is_some() || tenant.as_ref().is_some_and(TenantPath::is_one_tenant);
        let may_replay = config.refresh_token_reuse.unwrap_or(provider == Provider::Entra);
        let http = HttpClient::new(
            url.host(),
            &config.roots,
            &config.outbound,
            may_replay,
            Arc::clone(&parts.clock),
        );
        let expected = Expected {
            authority: url,
            provider,
            provider_is_configured: config.provider.is_some(),
            tenant,
            endpoint_hosts: config.endpoint_hosts.clone(),
        };
        Ok(OpenIdAuthority {
            document_url: CheckedUrl::parse(&expected.document_url(), true)
                .map_err(AuthorityConfigError::Url)?,
            expected,
            naming,
            one_tenant,
            may_replay,
            http: http.map_err(AuthorityConfigError::Roots)?,
            metadata: Kept::new(Endpoint::Discovery, Arc::clone(&parts.clock), config.timeout),
            keys: Kept::new(Endpoint::Keys, Arc::clone(&parts.clock), config.timeout),
            has_own_keys: AtomicBool::new(false),
            credentials: ArcSwap::from_pointee(CredentialSet::new(credentials, parts.clock.now())),
            seen_method: Mutex::default(),
            parts,
            config,
        })
    }

    /// Whose ways this authority has.
    pub fn provider(&self) -> Provider {
        self.expected.provider
    }

    /// The credentials there are.
    pub fn credentials(&self) -> Arc<CredentialSet> {
        self.credentials.load_full()
    }

    /// Takes these credentials into service. What the authority before knew of them goes along, if it was the same registration; and
    /// its documents, if these would be the same ones: an authority that is down at this moment stops no refresh.
    pub fn succeed(&self, before: Option<&OpenIdAuthority>, credentials: Vec<ClientCredential>) {
        let same = |before: &&OpenIdAuthority| {
            before.config.client_id == self.config.client_id
                && before.config.authority == self.config.authority
        };
        if let Some(before) = before
            && before.expected == self.expected
            && before.config.roots == self.config.roots
        {
            self.metadata.take_over(&before.metadata);
            self.keys.take_over(&before.keys);
            self.has_own_keys.store(before.has_own_keys.load(Ordering::Relaxed), Ordering::Relaxed);
        }
        let now = self.parts.clock.now();
        let set = match before.filter(same) {
            Some(before) => {
                let set = before.credentials().succeeded_by(credentials, now);
                if !std::ptr::eq(before, self) {
                    set.ask_anew();
                    self.set_seen_method(before.seen_method());
                }
                set
            }
            None => {
                let set = CredentialSet::new(credentials, now);
                // By content, so they hold at another address of the authority too.
                if let Some(before) = before {
                    set.choose(&before.credentials().choices());
                }
                set
            }
        };
        self.credentials.store(Arc::new(set));
    }

    /// What is asked of this authority with a call of the app's own to prove a credential, and from which tenant.
    ///
    /// At Entra the app's own tenant (`home_tenant`, or the authority's only one); anywhere else the authority itself.
    fn proof_request(&self) -> Option<(ScopeSet, Option<&str>)> {
        match &self.expected.tenant {
            None => Some((ScopeSet::default(), None)),
            Some(path) => {
                let home = self.config.home_tenant.as_deref();
                let own = path.is_one_tenant().then(|| path.as_str());
                let tenant = home.or(own)?;
                let ScopeNaming::Entra { graph } = &self.naming else { return None };
                let default = format!("{graph}/.default");
                Some((self.naming.scopes_lossy([default.as_str()]), Some(tenant)))
            }
        }
    }

    /// Asks the authority about every credential that it is time to ask about. True when one came to be trusted where none was.
    pub async fn prove_credentials(&self) -> bool {
        let now = self.parts.clock.now();
        let set = self.credentials();
        if let Some(left) = set.without_spent(now) {
            // (Another set may have taken this one's place meanwhile: then that one's time will come.)
            self.credentials.compare_and_swap(&set, Arc::new(left));
        }
        let had_trusted = set.has_trusted();
        if !self.answers_for_the_app() {
            return false;
        }
        let mut is_mended = false;
        for member in set.to_be_asked_about(now) {
            is_mended |= self.prove(&member).await && !had_trusted;
        }
        is_mended
    }

    /// Asks about one, trusted or not. `Ok` when it was taken.
    pub async fn prove_credential(&self, label: &str) -> Option<Result<(), AuthorityFailure>> {
        let set = self.credentials();
        let member = set.member(label)?;
        Some(self.ask_about(&member).await)
    }

    /// Whether a token of the app's own may be asked for unasked. Entra gives them; of any other authority nothing is asked that
    /// its document does not offer, and nothing before somebody needs that document.
    fn answers_for_the_app(&self) -> bool {
        self.provider() == Provider::Entra || self.metadata.held().is_some()
    }

    async fn prove(&self, member: &Arc<Member>) -> bool {
        let was_trusted = member.is_trusted();
        match self.ask_about(member).await {
            Ok(()) => member.is_trusted() && !was_trusted,
            Err(failure) => {
                tracing::debug!(
                    credential = member.label(),
                    cause = failure.cause,
                    "a client credential is not proven"
                );
                false
            }
        }
    }

    async fn ask_about(&self, member: &Arc<Member>) -> Result<(), AuthorityFailure> {
        let doing = "proving a client credential";
        let Some((scopes, tenant)) = self.proof_request() else {
            member.ask_in_vain(InVain::ProvenByUse, self.parts.clock.now());
            let cause = "the app's own tenant is not known: set home_tenant".to_owned();
            return Err(ours(doing, Disposition::CallerFault, cause));
        };
        if self.provider() == Provider::OpenId && !self.metadata(doing).await?.offers_client_credentials {
            member.ask_in_vain(InVain::ProvenByUse, self.parts.clock.now());
            let cause = "the authority offers apps no token of their own (client_credentials)".to_owned();
            return Err(ours(doing, Disposition::CallerFault, cause));
        }
        let asked = self.client_token(&scopes, tenant, vec![member.clone()], false).await;
        match asked {
            Ok(_) => Ok(()),
            Err(failure) => {
                let why = match failure.disposition {
                    // Counted where it was heard.
                    Disposition::NextCredential => return Err(failure),
                    Disposition::RetryAfter(after) => InVain::Unanswered(after),
                    Disposition::Unclear | Disposition::OutcomeUnknown => InVain::Unanswered(None),
                    _ if failure.answer.is_of_unconfirmed_host() => InVain::Unanswered(None),
                    _ => InVain::ProvenByUse,
                };
                member.ask_in_vain(why, self.parts.clock.now());
                Err(failure)
            }
        }
    }

    /// Fetches the discovery document and the keys anew, whatever their age, if they are here at all: for an operator who was told
    /// that a key must not be believed any more. What cannot be fetched stays as it was.
    pub async fn renew_documents(&self) -> Result<(), AuthorityFailure> {
        if self.metadata.held().is_none() {
            return Ok(());
        }
        let metadata = self.metadata.renew(async |limit| self.fetch_metadata(limit).await).await?;
        self.keys.renew(async |limit| self.fetch_keys(&metadata, limit).await).await.map(|_| ())
    }

    /// Fetches the discovery document if it is not here yet. For a check of the configuration against the world.
    pub async fn probe(&self) -> Result<(), AuthorityFailure> {
        let metadata = self.metadata("reaching the authority").await?;
        self.keys("reaching the authority", &metadata).await.map(|_| ())
    }

    /// A token of the app's own, from `tenant` (a tenant's id or domain) where the authority is Entra's and speaks
    /// for many.
    pub async fn client_credentials(
        &self,
        scopes: &ScopeSet,
        tenant: Option<&str>,
    ) -> Result<ClientToken, AuthorityFailure> {
        self.client_token(scopes, tenant, self.credentials().candidates(self.parts.clock.now()), true).await
    }

    async fn client_token(
        &self,
        scopes: &ScopeSet,
        tenant: Option<&str>,
        candidates: Vec<Arc<Member>>,
        is_use: bool,
    ) -> Result<ClientToken, AuthorityFailure> {
        let doing = "getting a token of the app's own";
        let metadata = self.metadata(doing).await?;
        let endpoint = self
            .token_endpoint_of(&metadata, tenant)
            .map_err(|cause| ours(doing, Disposition::CallerFault, cause))?;
        let mut fields = vec![("grant_type", plain("client_credentials"))];
        if !scopes.is_empty() {
            fields.push(("scope", plain(scopes.wire())));
        }
        let tenant = tenant.map(str::to_owned);
        let asked = Asked::ClientCredentials;
        let call = TokenCall { doing, asked, endpoint, fields, candidates, is_use, tenant, account: None };
        let Tokens { success, requested_at, .. } = self.token_call(&metadata, call).await?.usable(doing)?;
        Ok(ClientToken { access_token: success.access_token, requested_at, expires_in: success.expires_in })
    }

    /// The token endpoint on another tenant's path. Only Entra has tenants in paths.
    fn token_endpoint_of(&self, metadata: &Metadata, tenant: Option<&str>) -> Result<CheckedUrl, String> {
        let (Some(tenant), Some(path)) = (tenant, &self.expected.tenant) else {
            return Ok(metadata.token_endpoint.clone());
        };
        if !is_tenant_name(tenant) {
            return Err("the tenant is neither an id nor a domain".to_owned());
        }
        let endpoint = &metadata.token_endpoint;
        let origin = endpoint.origin();
        let rest = &endpoint.as_str()[origin.len()..];
        let after = rest.strip_prefix('/').and_then(|rest| rest.find('/').map(|at| &rest[at..]));
        let after = after
            .ok_or_else(|| format!("the token endpoint has no tenant ({}) in its path", path.as_str()))?;
        CheckedUrl::parse(&format!("{origin}/{tenant}{after}"), true)
            .map_err(|fault| format!("the endpoint {fault}"))
    }

    pub(super) async fn metadata(&self, doing: &'static str) -> Result<Arc<Metadata>, AuthorityFailure> {
        let fetch = async |limit| self.fetch_metadata(limit).await;
        let (metadata, used) =
            self.metadata.get(fetch).await.map_err(|failure| AuthorityFailure { doing, ..failure })?;
        self.note(self.metadata.endpoint, used);
        Ok(metadata)
    }

    async fn fetch_metadata(&self, limit: Duration) -> Result<Metadata, AuthorityFailure> {
        let checked = |bytes: &[u8]| self.expected.check(bytes);
        self.document(
            "reading the discovery document",
            Endpoint::Discovery,
            &self.document_url,
            limit,
            checked,
        )
        .await
    }

    async fn keys(&self, doing: &'static str, metadata: &Metadata) -> Result<Arc<KeySet>, AuthorityFailure> {
        let fetch = async |limit| self.fetch_keys(metadata, limit).await;
        let (keys, used) =
            self.keys.get(fetch).await.map_err(|failure| AuthorityFailure { doing, ..failure })?;
        self.note(self.keys.endpoint, used);
        Ok(keys)
    }

    /// The keys, with the app's own ones where it was seen to have some.
    async fn fetch_keys(&self, metadata: &Metadata, limit: Duration) -> Result<KeySet, AuthorityFailure> {
        let keys = self.fetch_listed_keys(metadata, limit).await?;
        if self.has_own_keys.load(Ordering::Relaxed) {
            return Ok(keys.and(self.fetch_own_keys(metadata, limit).await?));
        }
        Ok(keys)
    }

    async fn fetch_own_keys(&self, metadata: &Metadata, limit: Duration) -> Result<KeySet, AuthorityFailure> {
        let doing = "reading the app's own keys";
        let query = Serializer::new(String::new()).append_pair("appid", &self.config.client_id).finish();
        let url = CheckedUrl::parse(&with_query(&metadata.jwks_uri, &query), true);
        let url = url.map_err(|fault| ours(doing, LATER, format!("the keys' URL {fault}")))?;
        self.document(doing, Endpoint::Keys, &url, limit, KeySet::parse).await
    }

    async fn fetch_listed_keys(
        &self,
        metadata: &Metadata,
        limit: Duration,
    ) -> Result<KeySet, AuthorityFailure> {
        self.document(
            "reading the authority's keys",
            Endpoint::Keys,
            &metadata.jwks_uri,
            limit,
            KeySet::parse,
        )
        .await
    }

    async fn document<T>(
        &self,
        doing: &'static str,
        endpoint: Endpoint,
        url: &CheckedUrl,
        limit: Duration,
        check: impl Fn(&[u8]) -> Result<T, String>,
    ) -> Result<T, AuthorityFailure> {
        let began = self.parts.clock.monotonic();
        let read = match self.http.get(url, limit).await {
            Err(failure) => Err(from_transport(doing, failure, true)),
            Ok(answer) if answer.status != 200 => {
                let after = self.retry_after(&answer);
                let cause = format!("{} answered with status {}", url.host(), answer.status);
                Err(AuthorityFailure {
                    answer: AuthorityError { status: Some(answer.status), ..AuthorityError::default() },
                    ..ours(doing, Disposition::RetryAfter(after), cause)
                })
            }
            // Not that the document is down, but that it does not fit: the operator's to look at, unless it heals.
            Ok(answer) => check(&answer.body).map_err(|cause| ours(doing, LATER, cause)),
        };
        let outcome = read.as_ref().map_or_else(|failure| failure.disposition.as_str(), |_| "ok");
        self.request_ended(endpoint, began, outcome);
        if let Err(failure) = &read {
            tracing::warn!(doing, cause = failure.cause, "a document of the authority could not be used");
        }
        read
    }

    fn note(&self, endpoint: Endpoint, used: Used) {
        if used == Used::LastGood {
            self.observe(AuthorityEvent::ServingLastGood { endpoint });
        }
    }

    /// One token request and its answer.
    async fn exchange(
        &self,
        call: &TokenCall,
        mut headers: HeaderMap,
        form: Zeroizing<String>,
        limit: Duration,
    ) -> Result<Answered, AuthorityFailure> {
        let doing = call.doing;
        // The form in which Entra takes a request's id.
        let request_id = random_uuid(&*self.parts.random);
        if let Ok(value) = HeaderValue::from_str(&request_id) {
            headers.insert(HeaderName::from_static("client-request-id"), value);
        }
        let began = self.parts.clock.monotonic();
        let answered = self.http.post(&call.endpoint, headers, form, limit).await;
        // Lives are counted by whoever gives the tokens, so its clock is the one to go by.
        if let Ok(answer) = &answered
            && let Some(date) = answer.header("date").and_then(classify::http_date)
        {
            self.parts.clock.witness(date);
        }
        let requested_at = self.parts.clock.now().minus(self.parts.clock.monotonic().saturating_sub(began));
        let result = match answered {
            Err(failure) => Err(from_transport(doing, failure, false)),
            // (RFC 6749 §5.1 has 200 alone; a gateway may make another success of it, and the refresh token was used all the same.)
            Ok(answer) if (200..300).contains(&answer.status) => {
                let trace_id = answer.header("x-ms-request-id").and_then(trace_word);
                let correlation_id = Some(request_id.clone());
                let ids = AuthorityError {
                    status: Some(answer.status),
                    trace_id,
                    correlation_id,
                    ..AuthorityError::default()
                };
                Ok(Answered { read: token_answer::read(&answer), requested_at, ids })
            }
            Ok(answer) => Err(self.refused(call, &answer)),
        };
        let outcome = match &result {
            Ok(Answered { read: Ok(_), .. }) => "ok",
            Ok(_) => LATER.as_str(),
            Err(failure) => failure.disposition.as_str(),
        };
        self.request_ended(Endpoint::Token, began, outcome);
        match result {
            Ok(answered) => {
                tracing::debug!(doing, request_id, "the authority answered");
                Ok(answered)
            }
            Err(mut failure) => {
                failure.answer.correlation_id.get_or_insert_with(|| request_id.clone());
                tracing::debug!(
                    doing,
                    request_id,
                    cause = failure.cause,
                    "the authority did not give a token"
                );
                Err(failure)
            }
        }
    }

    fn refused(&self, call: &TokenCall, answer: &HttpAnswer) -> AuthorityFailure {
        let refusal = wire::refusal(answer);
        let after = self.retry_after(answer);
        let conclusion =
            classify::token_error(answer.status, refusal.as_ref(), after, self.question_of(call));
        let TokenError { error, suberror, codes, trace_id, correlation_id, claims, description } =
            refusal.unwrap_or_default();
        if let Some(description) = description {
            tracing::debug!(description = one_line(&description), "the authority's words");
        }
        tracing::debug!(
            request = answer.header("x-ms-request-id").map(one_line),
            server = answer.header("x-ms-ests-server").map(one_line),
            "the authority's ids of its answer"
        );
        let trace_id = trace_id.or_else(|| answer.header("x-ms-request-id").and_then(trace_word));
        AuthorityFailure {
            doing: call.doing,
            cause: conclusion.why.to_owned(),
            disposition: conclusion.disposition,
            answer: AuthorityError {
                status: Some(answer.status),
                error,
                suberror,
                error_codes: codes,
                trace_id,
                correlation_id,
            },
            claims,
        }
    }

    fn retry_after(&self, answer: &HttpAnswer) -> Option<Duration> {
        answer.header("retry-after").and_then(|value| classify::retry_after(value, self.parts.clock.now()))
    }

    fn request_ended(&self, endpoint: Endpoint, began: Duration, outcome: &'static str) {
        let duration = self.parts.clock.monotonic().saturating_sub(began);
        self.observe(AuthorityEvent::Request { endpoint, outcome, duration });
    }

    pub(super) fn observe(&self, event: AuthorityEvent<'_>) {
        self.parts.observer.observe(event);
    }

    /// The keys to check a token with, looked for once more when its own is not among them.
    async fn keys_for(
        &self,
        metadata: &Metadata,
        keys: Arc<KeySet>,
        token: &UnverifiedToken<'_>,
    ) -> Arc<KeySet> {
        if token.has_key_in(&keys) {
            return keys;
        }
        let fetch = async |limit| {
            let fetched = self.fetch_keys(metadata, limit).await?;
            let is_of_the_app =
                self.provider() == Provider::Entra && !self.has_own_keys.load(Ordering::Relaxed);
            if !is_of_the_app || token.has_key_in(&fetched) {
                return Ok(fetched);
            }
            // An app of Entra's with keys of its own (claims mapping): they are listed only where it is named.
            let Ok(own) = self.fetch_own_keys(metadata, limit).await else { return Ok(fetched) };
            self.has_own_keys.store(token.has_key_in(&own), Ordering::Relaxed);
            Ok(fetched.and(own))
        };
        self.keys.get_after_miss(&keys, fetch).await
    }

    async fn redeem_code(&self, request: RedeemRequest<'_>) -> Result<TokenAnswer, RedeemFailure> {
        let doing = "redeeming an authorization code";
        let metadata = self.metadata(doing).await?;
        // A code of one authority is not for the eyes of another (RFC 9207 §1: mix-up), and this app's authority
        // may have changed since the browser was sent off.
        if request.sent_to_issuer != metadata.issuer {
            let cause = "the browser was sent to another authority than the app's of now".to_owned();
            return Err(ours(doing, Disposition::Restart, cause).into());
        }
        // Before the code is spent, for without keys its answer would be of no use.
        let keys = self.keys(doing, &metadata).await?;
        let scopes = self.with_sign_in(request.scopes);
        let mut fields = vec![
            ("grant_type", plain("authorization_code")),
            ("code", plain(request.code.expose())),
            ("redirect_uri", plain(request.redirect_uri)),
            ("code_verifier", plain(request.verifier.expose())),
            ("scope", plain(scopes.wire())),
        ];
        if let Some(claims) = self.claims(doing, None)? {
            fields.push(("claims", plain(claims)));
        }
        let endpoint = metadata.token_endpoint.clone();
        let candidates = self.credentials().candidates(self.parts.clock.now());
        let asked = Asked::Redeem;
        let call = TokenCall {
            doing,
            asked,
            endpoint,
            fields,
            candidates,
            is_use: true,
            tenant: None,
            account: None,
        };
        let mut tokens = self.token_call(&metadata, call).await?.usable(doing)?;

        let ids = tokens.ids.clone();
        let refuse = |fault, words: &str| id_token_refused(doing, fault, words, &ids);
        let missing = || refuse(IdTokenFault::Missing, IdTokenFault::Missing.as_str());
        let id_token = tokens.success.id_token.take().ok_or_else(missing)?;
        let token = UnverifiedToken::parse(&id_token).map_err(|fault| refuse(fault, fault.as_str()))?;
        let rules = self.rules(&metadata, Some(request.nonce), tokens.success.access_token.expose());
        let keys = self.keys_for(&metadata, keys, &token).await;
        let verified = token.verify(Some(&keys), &rules);
        let account = verified.map_err(|fault| {
            let failure = refuse(fault, &token.words(fault));
            match fault {
                IdTokenFault::TenantNotAllowed => RedeemFailure::TenantNotAllowed(failure),
                _ => RedeemFailure::Authority(failure),
            }
        })?;
        // The grant is for the host that gave it. (Where that is another one than the issuer's before, its first use will say so.)
        let _known =
            self.admit(doing, self.grants_of(&account), &metadata.token_endpoint, Duration::ZERO).await;
        let odd = token.odd_claims().map(claim_remark).collect();
        Ok(tokens.answer(Some(account), odd, request.scopes))
    }

    async fn use_refresh_token(&self, request: RefreshRequest<'_>) -> Result<Refreshed, AuthorityFailure> {
        let doing = "refreshing a grant";
        let claims = self.claims(doing, request.claims)?;
        let metadata = self.metadata(doing).await?;
        let mut fields = vec![
            ("grant_type", plain("refresh_token")),
            ("refresh_token", plain(request.refresh_token.expose())),
            ("scope", plain(request.scopes.wire())),
        ];
        if let Some(claims) = claims {
            fields.push(("claims", plain(claims)));
        }
        let endpoint = metadata.token_endpoint.clone();
        self.admit(doing, self.grants_of(request.account), &endpoint, self.config.timeout).await?;
        let candidates = self.credentials().candidates(self.parts.clock.now());
        let (asked, tenant) = (Asked::Refresh, request.account.tid.clone());
        let account = Some(request.account.sub.clone());
        let call = TokenCall { doing, asked, endpoint, fields, candidates, is_use: true, tenant, account };
        let answered = self.token_call(&metadata, call).await.map_err(used_all_the_same)?;
        // Whatever is not believed of it: it was a success, so the refresh token that was sent was used.
        let Answered { read, requested_at, ids } = answered;
        let mut success = match read {
            Ok(success) => success,
            Err(Unusable { rule, why, refresh_token, id_tokens, is_whole }) => {
                if id_tokens.iter().any(|token| self.is_anothers(token, &metadata, request.account)) {
                    return Ok(another_account(doing, ids).into());
                }
                let fate = match refresh_token {
                    Some(refresh_token) => Fate::Replaced(refresh_token),
                    None if is_whole => Fate::AsBefore,
                    None => Fate::Unknown,
                };
                return Ok(RefusedAnswer::new(doing, rule.to_owned(), why, fate, ids).into());
            }
        };
        let (account, odd) = match success.id_token.take() {
            None => (None, Vec::new()),
            Some(id_token) => {
                match self.renewal(doing, &id_token, &metadata, &success, request.account).await {
                    Ok(believed) => believed,
                    Err(None) => return Ok(another_account(doing, ids).into()),
                    Err(Some(rule)) => {
                        let why =
                            "the id_token is not to be believed, so the access token is not used".to_owned();
                        let fate = success.refresh_token.map_or(Fate::AsBefore, Fate::Replaced);
                        return Ok(RefusedAnswer::new(doing, rule, why, fate, ids).into());
                    }
                }
            }
        };
        let tokens = Tokens { success, requested_at, ids };
        Ok(Refreshed::Tokens(Box::new(tokens.answer(account, odd, request.scopes))))
    }

    /// Whether an `id_token` of an answer to a refresh names somebody else. It decides nothing in the owner's favour, so its
    /// signature is not looked at.
    fn is_anothers(&self, id_token: &str, metadata: &Metadata, owner: &Account) -> bool {
        let Ok(token) = UnverifiedToken::parse(id_token) else { return false };
        let rules = self.rules(metadata, None, "");
        matches!(token.judge_renewal(token.verify(None, &rules), &rules, owner), Renewal::Another)
    }

    /// The account that a refresh's `id_token` names, where that is certain, and what is odd about it. `Err` with the rule
    /// that forbids the answer; with none where it is somebody else's.
    async fn renewal(
        &self,
        doing: &'static str,
        id_token: &str,
        metadata: &Metadata,
        success: &TokenSuccess,
        owner: &Account,
    ) -> Result<(Option<Account>, Vec<String>), Option<String>> {
        let rule = |words: &str| format!("id_token {words}");
        let token = UnverifiedToken::parse(id_token).map_err(|fault| Some(rule(fault.as_str())))?;
        let rules = self.rules(metadata, None, success.access_token.expose());
        let verified = match self.keys(doing, metadata).await {
            Ok(keys) => token.verify(Some(&*self.keys_for(metadata, keys, &token).await), &rules),
            Err(_) => token.verify(None, &rules),
        };
        let mut odd: Vec<String> = token.odd_claims().map(claim_remark).collect();
        match token.judge_renewal(verified, &rules, owner) {
            Renewal::Verified(account) => Ok((Some(account), odd)),
            // No identity is taken from it.
            Renewal::Unverified(fault) => {
                odd.push(rule(&token.words(fault)));
                Ok((None, odd))
            }
            Renewal::Unjudged(fault) => Err(Some(rule(&token.words(fault)))),
            Renewal::Another => Err(None),
        }
    }

    fn rules<'a>(
        &'a self,
        metadata: &'a Metadata,
        nonce: Option<&'a str>,
        access_token: &'a str,
    ) -> Rules<'a> {
        Rules {
            provider: self.provider(),
            metadata,
            client_id: &self.config.client_id,
            tenants: &self.config.tenants,
            nonce,
            access_token,
            now: self.parts.clock.now(),
        }
    }

    /// What was asked, and what a sign-in needs besides: an `id_token`, and at Entra the `oid` in it and a refresh
    /// token, none of which it gives unasked.
    fn with_sign_in(&self, scopes: &ScopeSet) -> ScopeSet {
        let more: &[&str] = match self.provider() {
            Provider::Entra => &["openid", "profile", "offline_access"],
            Provider::OpenId => &["openid"],
        };
        scopes.iter().cloned().chain(self.naming.scopes_lossy(more.iter().copied()).iter().cloned()).collect()
    }

    /// A claims request, with our declaration of continuous access evaluation in it where the app makes one.
    fn claims(
        &self,
        doing: &'static str,
        challenge: Option<&str>,
    ) -> Result<Option<String>, AuthorityFailure> {
        let mut claims = match challenge {
            None => Value::Object(serde_json::Map::new()),
            Some(text) => {
                let object =
                    (text.len() <= MAX_CLAIMS).then(|| Object::parse(text.as_bytes()).ok()).flatten();
                let object = object.ok_or_else(|| {
                    let cause =
                        format!("the claims challenge is not a JSON object of at most {MAX_CLAIMS} bytes");
                    ours(doing, Disposition::CallerFault, cause)
                })?;
                Value::Object(object.0.clone())
            }
        };
        if self.config.continuous_access_evaluation {
            let declared = json!({ "values": ["cp1"] });
            match claims.get_mut("access_token") {
                Some(Value::Object(access_token)) => {
                    access_token.insert("xms_cc".to_owned(), declared);
                }
                _ => claims["access_token"] = json!({ "xms_cc": declared }),
            }
        } else if challenge.is_none() {
            return Ok(None);
        }
        Ok(Some(claims.to_string()))
    }

    async fn build_authorize_url(
        &self,
        request: &AuthorizeRequest,
    ) -> Result<AuthorizeUrl, AuthorityFailure> {
        let doing = "making an authorize URL";
        let claims = self.claims(doing, request.claims.as_deref())?;
        if let Some(prompt) = &request.prompt
            && !prompt.split(' ').all(|word| ["login", "none", "consent", "select_account"].contains(&word))
        {
            let cause = "prompt is not of the words login, none, consent and select_account".to_owned();
            return Err(ours(doing, Disposition::CallerFault, cause));
        }
        let metadata = self.metadata(doing).await?;
        let challenge = URL_SAFE_NO_PAD.encode(digest(&SHA256, request.verifier.expose().as_bytes()));
        let mut query = Serializer::new(String::new());
        query
            .append_pair("client_id", &self.config.client_id)
            .append_pair("response_type", "code")
            .append_pair("redirect_uri", &request.redirect_uri)
            .append_pair("scope", &self.with_sign_in(&request.scopes).wire())
            .append_pair("state", &request.state)
            .append_pair("nonce", &request.nonce)
            .append_pair("code_challenge", &challenge)
            .append_pair("code_challenge_method", "S256");
        match self.config.response_mode {
            ResponseMode::FormPost => query.append_pair("response_mode", "form_post"),
            // Said at Entra, whose default depends on other things; every other provider's default is the query.
            ResponseMode::Query if self.provider() == Provider::Entra => {
                query.append_pair("response_mode", "query")
            }
            ResponseMode::Query => &mut query,
        };
        if let Some(prompt) = &request.prompt {
            query.append_pair("prompt", prompt);
        }
        // Entra refuses a hint beside a choice.
        let choosing =
            request.prompt.as_deref() == Some("select_account") && self.provider() == Provider::Entra;
        if let Some(hint) = request.login_hint.as_deref().filter(|_| !choosing) {
            query.append_pair("login_hint", hint);
        }
        if let Some(hint) = request.domain_hint.as_deref().filter(|_| self.provider() == Provider::Entra) {
            query.append_pair("domain_hint", hint);
        }
        if let Some(claims) = claims {
            query.append_pair("claims", &claims);
        }
        Ok(AuthorizeUrl {
            url: with_query(&metadata.authorization_endpoint, &query.finish()),
            issuer: metadata.issuer.clone(),
            iss_required: metadata.iss_in_response,
        })
    }

    fn build_admin_consent_url(
        &self,
        request: &AdminConsentRequest,
    ) -> Result<Option<String>, AuthorityFailure> {
        let doing = "making an admin consent URL";
        let ScopeNaming::Entra { graph } = &self.naming else { return Ok(None) };
        // The app's own tenant where the authority names one; the page does not know `common`.
        let own =
            self.expected.tenant.as_ref().filter(|tenant| tenant.is_one_tenant()).map(TenantPath::as_str);
        let tenant = request.tenant.as_deref().or(own).unwrap_or("organizations");
        if !is_tenant_name(tenant) {
            let cause = "the tenant is neither an id nor a domain".to_owned();
            return Err(ours(doing, Disposition::CallerFault, cause));
        }
        // In full, for this page looks a bare name up nowhere; the sign-in's own scopes have no longer form.
        let full =
            |wire: &str| if wire.contains("://") { wire.to_owned() } else { format!("{graph}/{wire}") };
        let scopes: Vec<String> = request
            .scopes
            .iter()
            .map(|scope| if scope.is_openid() { scope.wire().to_owned() } else { full(scope.wire()) })
            .collect();
        let query = Serializer::new(String::new())
            .append_pair("client_id", &self.config.client_id)
            .append_pair("scope", &scopes.join(" "))
            .append_pair("redirect_uri", &request.redirect_uri)
            .append_pair("state", &request.state)
            .finish();
        let origin = self.expected.authority.origin();
        Ok(Some(format!("{origin}/{tenant}/v2.0/adminconsent?{query}")))
    }
}

impl Authority for OpenIdAuthority {
    fn scope_naming(&self) -> &ScopeNaming {
        &self.naming
    }

    fn may_replay_refresh_tokens(&self) -> bool {
        self.may_replay
    }

    fn authorize_url<'a>(
        &'a self,
        request: &'a AuthorizeRequest,
    ) -> BoxFuture<'a, Result<AuthorizeUrl, AuthorityFailure>> {
        Box::pin(self.build_authorize_url(request))
    }

    fn judge_redirect(&self, error: &super::RedirectError) -> super::RedirectRefusal {
        error.judge(self.provider(), self.one_tenant)
    }

    fn redeem<'a>(&'a self, request: RedeemRequest<'a>) -> BoxFuture<'a, Result<TokenAnswer, RedeemFailure>> {
        Box::pin(self.redeem_code(request))
    }

    fn refresh<'a>(
        &'a self,
        request: RefreshRequest<'a>,
    ) -> BoxFuture<'a, Result<Refreshed, AuthorityFailure>> {
        Box::pin(self.use_refresh_token(request))
    }

    fn admin_consent_url<'a>(
        &'a self,
        request: &'a AdminConsentRequest,
    ) -> BoxFuture<'a, Result<Option<String>, AuthorityFailure>> {
        Box::pin(std::future::ready(self.build_admin_consent_url(request)))
    }
}

/// A token request's success.
pub(super) struct Answered {
    pub(super) read: Result<TokenSuccess, Unusable>,
    requested_at: Timestamp,
    /// The authority's ids of it.
    ids: AuthorityError,
}

impl Answered {
    fn usable(self, doing: &'static str) -> Result<Tokens, AuthorityFailure> {
        let Answered { read, requested_at, ids } = self;
        match read {
            Ok(success) => Ok(Tokens { success, requested_at, ids }),
            Err(unusable) => {
                let cause = refused_by(unusable.rule, &unusable.why);
                Err(AuthorityFailure { answer: ids, ..ours(doing, LATER, cause) })
            }
        }
    }
}

fn refused_by(rule: &str, why: &str) -> String {
    format!("the answer is refused by the rule {rule}: {why}")
}

impl RefusedAnswer {
    fn new(doing: &'static str, rule: String, why: String, fate: Fate, ids: AuthorityError) -> Self {
        // What is known of the grant is no doubt: the next try goes on from there.
        let disposition = match fate {
            Fate::Replaced(_) | Fate::AsBefore => LATER,
            Fate::Unknown | Fate::Anothers => Disposition::OutcomeUnknown,
        };
        let failure = AuthorityFailure { answer: ids, ..ours(doing, disposition, refused_by(&rule, &why)) };
        RefusedAnswer { rule, fate, failure }
    }
}

/// An answer that is somebody else's.
fn another_account(doing: &'static str, ids: AuthorityError) -> RefusedAnswer {
    let why = "the authority answered with another account's tokens; none of them is used".to_owned();
    RefusedAnswer::new(doing, "another_account".to_owned(), why, Fate::Anothers, ids)
}

impl From<RefusedAnswer> for Refreshed {
    fn from(refused: RefusedAnswer) -> Self {
        Refreshed::Refused(Box::new(refused))
    }
}

/// A success whose access token can be used.
struct Tokens {
    success: TokenSuccess,
    requested_at: Timestamp,
    ids: AuthorityError,
}

impl Tokens {
    /// What leaves this room.
    fn answer(self, account: Option<Account>, odd: Vec<String>, asked: &ScopeSet) -> TokenAnswer {
        let Tokens { success, requested_at, ids } = self;
        let rules = success.remarks.into_iter().map(str::to_owned).chain(odd).collect();
        TokenAnswer {
            access_token: success.access_token,
            requested_at,
            expires_in: success.expires_in,
            refresh_in: success.refresh_in,
            refresh_token: success.refresh_token,
            scopes: success.scopes.unwrap_or_else(|| asked.to_words()),
            account,
            remarks: Remarks { rules, answer: ids },
        }
    }
}

/// A sign-in's `id_token`, refused by name.
fn id_token_refused(
    doing: &'static str,
    fault: IdTokenFault,
    words: &str,
    ids: &AuthorityError,
) -> AuthorityFailure {
    let mut cause = format!("the id_token is refused by the rule {words}");
    if fault == IdTokenFault::Algorithm {
        let known: Vec<&str> = Algorithm::ALL.into_iter().map(Algorithm::as_str).collect();
        let known = known.join(", ");
        cause.push_str(&format!(
            "; have the provider sign this app's tokens with one that it publishes, of {known}"
        ));
    }
    AuthorityFailure { answer: ids.clone(), ..ours(doing, Disposition::Restart, cause) }
}

/// The remark on a claim that need not be there and cannot be read.
fn claim_remark(claim: &str) -> String {
    format!("claim_{claim}_ignored")
}

/// A refresh of which a gateway said that it lost the answer. The authority may have used the refresh token up.
fn used_all_the_same(failure: AuthorityFailure) -> AuthorityFailure {
    match (failure.disposition, failure.answer.status) {
        (Disposition::RetryAfter(_), Some(502 | 504)) => {
            AuthorityFailure { disposition: Disposition::OutcomeUnknown, ..failure }
        }
        _ => failure,
    }
}

const LATER: Disposition = Disposition::RetryAfter(None);

/// A failure with no answer of the authority behind it.
pub(super) fn ours(doing: &'static str, disposition: Disposition, cause: String) -> AuthorityFailure {
    AuthorityFailure { doing, cause, disposition, answer: AuthorityError::default(), claims: None }
}

fn from_transport(doing: &'static str, failure: HttpFailure, is_read: bool) -> AuthorityFailure {
    let disposition = match failure.fault {
        // What only reads has changed nothing, whether it arrived or not.
        HttpFault::NoWholeAnswer if !is_read => Disposition::OutcomeUnknown,
        HttpFault::NoWholeAnswer | HttpFault::NotSent | HttpFault::Nonsense => LATER,
    };
    let answer = AuthorityError { status: failure.status, ..AuthorityError::default() };
    AuthorityFailure { answer, ..ours(doing, disposition, failure.cause) }
}

fn plain(text: impl Into<String>) -> Zeroizing<String> {
    Zeroizing::new(text.into())
}

fn with_query(url: &CheckedUrl, query: &str) -> String {
    let joint = if url.has_query() { '&' } else { '?' };
    format!("{}{joint}{query}", url.as_str())
}
