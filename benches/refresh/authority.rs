//! An authority that answers every refresh at once, with as many bytes as Entra's answers have. It judges
//! nothing. It signs its `id_token`s when it starts, one for each tenant.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::{Value, json};
use tokenward::domain::time::Clock as _;
use tokenward::system::SystemClock;
use tokio::net::TcpListener;

use crate::support::Failure;
use crate::support::setup::CLIENT_ID;
use crate::tokens::{RSA, b64, jwt, rsa_jwk};

/// How many tenants the accounts are of.
pub const TENANTS: usize = 16;
/// The life of its tokens in seconds. A token is fresh for a quarter of that, and the next request for it
/// comes later: so each request refreshes, by the plain rule for a token that has ended.
pub const SHORT_LIFE: u64 = 2;
/// What refresh tokens begin with; two digits of the tenant follow.
pub const REFRESH_TOKEN: &str = "bench.rt.";
/// How many characters an access token and a refresh token have, about as Entra's for Graph.
const ACCESS_TOKEN: usize = 1800;
const REFRESH_TOKEN_LENGTH: usize = 1200;

/// The tenant of a number.
pub fn tenant(number: usize) -> String {
    format!("11111111-0000-4000-8000-{:012x}", number % TENANTS)
}

/// The user of a tenant.
pub fn object(number: usize) -> String {
    format!("22222222-0000-4000-8000-{:012x}", number % TENANTS)
}

/// A refresh token of a tenant, as long as Entra's.
pub fn refresh_token(number: usize, counter: u64) -> String {
    let mut token = format!("{REFRESH_TOKEN}{:02}.{counter:020}.", number % TENANTS);
    token.extend(std::iter::repeat_n('r', REFRESH_TOKEN_LENGTH - token.len()));
    token
}

pub struct Authority(Arc<State>);

struct State {
    http2_port: u16,
    base: String,
    keys: String,
    id_tokens: Vec<String>,
    access_token: String,
    refreshes: AtomicU64,
    thinks_millis: AtomicU64,
}

impl Authority {
    /// Starts it in a thread of its own.
    pub async fn start() -> Result<Self, Failure> {
        let bind = || {
            let listener = std::net::TcpListener::bind("127.0.0.1:0")?;
            listener.set_nonblocking(true)?;
            Ok::<_, std::io::Error>(listener)
        };
        let (listener, http2) = (bind()?, bind()?);
        let base = format!("http://127.0.0.1:{}", listener.local_addr()?.port());
        let now = SystemClock::new().now().unix_seconds();
        let id_token = |number: usize| {
            let claims = json!({
                "iss": format!("{base}/{}/v2.0", tenant(number)), "aud": CLIENT_ID, "iat": now - 60,
                "nbf": now - 60, "exp": now + 86_400, "tid": tenant(number), "oid": object(number),
                "sub": format!("subject-{number}"), "name": "A user with a name",
                "preferred_username": "a.user@contoso.example", "ver": "2.0", "uti": "AAAAAAAAAAAAAAAAAAAAAA",
                "rh": "0.AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA.",
            });
            jwt(&json!({ "alg": "RS256", "typ": "JWT", "kid": "k1" }), &claims)
        };
        let header = b64(json!({ "alg": "RS256", "typ": "JWT", "kid": "k1" }).to_string());
        let payload = json!({
            "aud": "https://graph.microsoft.com", "uti": "BBBBBBBBBBBBBBBBBBBBBB", "filler": "x".repeat(900),
        });
        let state = State {
            http2_port: http2.local_addr()?.port(),
            keys: json!({ "keys": [rsa_jwk("k1", &RSA)] }).to_string(),
            id_tokens: (0..TENANTS).map(id_token).collect(),
            access_token: format!("{header}.{}.", b64(payload.to_string())),
            refreshes: AtomicU64::new(0),
            thinks_millis: AtomicU64::new(0),
            base,
        };
        let state = Arc::new(state);
        let shared = Arc::clone(&state);
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("starts");
            runtime.block_on(async {
                let listen = |listener| TcpListener::from_std(listener).expect("it listens");
                tokio::join!(
                    serve(Arc::clone(&shared), listen(listener), false),
                    serve(Arc::clone(&shared), listen(http2), true),
                );
            });
        });
        Ok(Authority(state))
    }

    pub fn url(&self) -> String {
        format!("{}/common/v2.0", self.0.base)
    }

    pub fn token_endpoint(&self) -> String {
        format!("{}/common/oauth2/v2.0/token", self.0.base)
    }

    /// The port that takes HTTP/2 alone.
    pub fn http2_port(&self) -> u16 {
        self.0.http2_port
    }

    pub fn issuer(&self, number: usize) -> String {
        format!("{}/{}/v2.0", self.0.base, tenant(number))
    }

    /// How many refreshes it has answered.
    pub fn refreshes(&self) -> u64 {
        self.0.refreshes.load(Ordering::Relaxed)
    }

    /// It waits so long before each answer to a refresh.
    pub fn set_thinks(&self, time: Duration) {
        self.0.thinks_millis.store(time.as_millis() as u64, Ordering::Relaxed);
    }
}

async fn serve(state: Arc<State>, listener: TcpListener, is_http2: bool) {
    while let Ok((stream, _)) = listener.accept().await {
        let _ = stream.set_nodelay(true);
        let state = Arc::clone(&state);
        tokio::spawn(async move {
            let service = hyper::service::service_fn(move |request| {
                let state = Arc::clone(&state);
                async move { Ok::<_, Infallible>(state.answer(request).await) }
            });
            let stream = TokioIo::new(stream);
            if is_http2 {
                let http = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
                let _ = http.serve_connection(stream, service).await;
            } else {
                let _ = hyper::server::conn::http1::Builder::new().serve_connection(stream, service).await;
            }
        });
    }
}

impl State {
    async fn answer(&self, request: Request<Incoming>) -> Response<Full<Bytes>> {
        let path = request.uri().path().to_owned();
        if path.ends_with("/openid-configuration") {
            return json_answer(self.document().to_string());
        }
        if path.ends_with("/keys") {
            return json_answer(self.keys.clone());
        }
        let form = request.into_body().collect().await.map(|body| body.to_bytes()).unwrap_or_default();
        let thinks = self.thinks_millis.load(Ordering::Relaxed);
        if thinks > 0 {
            tokio::time::sleep(Duration::from_millis(thinks)).await;
        }
        let counter = self.refreshes.fetch_add(1, Ordering::Relaxed);
        let number = number_in(&form).unwrap_or_default();
        let mut access_token = format!("{}{counter:020}", self.access_token);
        access_token.extend(std::iter::repeat_n('s', ACCESS_TOKEN.saturating_sub(access_token.len())));
        json_answer(format!(
            r#"{{"token_type":"Bearer","scope":"{SCOPES}","expires_in":{SHORT_LIFE},"ext_expires_in":{SHORT_LIFE},"access_token":"{access_token}","refresh_token":"{}","id_token":"{}"}}"#,
            refresh_token(number, counter),
            self.id_tokens[number],
        ))
    }

    fn document(&self) -> Value {
        let base = &self.base;
        json!({
            "issuer": format!("{base}/{{tenantid}}/v2.0"),
            "authorization_endpoint": format!("{base}/common/oauth2/v2.0/authorize"),
            "token_endpoint": format!("{base}/common/oauth2/v2.0/token"),
            "jwks_uri": format!("{base}/common/discovery/v2.0/keys"),
            "response_types_supported": ["code"], "subject_types_supported": ["pairwise"],
            "response_modes_supported": ["query", "fragment", "form_post"],
            "id_token_signing_alg_values_supported": ["RS256"],
            "token_endpoint_auth_methods_supported":
                ["client_secret_post", "private_key_jwt", "client_secret_basic"],
        })
    }
}

/// The scopes of every answer, and of every connection.
pub const SCOPES: &str =
    "openid profile https://graph.microsoft.com/Mail.Read https://graph.microsoft.com/User.Read";

/// The number of the tenant in a form's refresh token.
fn number_in(form: &[u8]) -> Option<usize> {
    let word = REFRESH_TOKEN.as_bytes();
    let at = form.windows(word.len()).position(|bytes| bytes == word)? + word.len();
    let number = std::str::from_utf8(form.get(at..at + 2)?).ok()?.parse::<usize>().ok()?;
    Some(number % TENANTS)
}

fn json_answer(body: String) -> Response<Full<Bytes>> {
    let mut answer = Response::new(Full::new(Bytes::from(body)));
    for (name, value) in [
        ("content-type", "application/json; charset=utf-8"),
        ("cache-control", "no-store, no-cache"),
        ("pragma", "no-cache"),
        ("strict-transport-security", "max-age=31536000; includeSubDomains"),
        ("x-content-type-options", "nosniff"),
        ("x-ms-request-id", "33333333-0000-4000-8000-000000000003"),
        ("x-ms-ests-server", "2.1.0 - BENCH ProdSlices"),
    ] {
        answer.headers_mut().insert(name, http::HeaderValue::from_static(value));
    }
    answer
}
