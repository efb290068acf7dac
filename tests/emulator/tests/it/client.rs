//! A small HTTP client and the calls the tests make with it.

use std::collections::HashMap;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use entra_emulator::{App, Builder, Emulator, User};
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;

pub(crate) const CLIENT: &str = "6f1d2c3b-0000-4000-8000-000000000001";
pub(crate) const SECRET: &str = "s3cr&t= +";
pub(crate) const CALLBACK: &str = "http://localhost:8080/callback/outlook";
pub(crate) const ALICE: &str = "alice@contoso.example";
pub(crate) const VERIFIER: &str = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFG";
pub(crate) const SCOPE: &str = "openid profile offline_access User.Read Mail.Read";

/// An emulator to be started with one app, two work users of two tenants, and one personal one.
pub(crate) fn builder() -> Builder {
    Emulator::builder()
        .app(App::new(CLIENT).secret(SECRET).redirect_uri(CALLBACK))
        .user(User::work(ALICE))
        .user(User::work("bob@fabrikam.example"))
        .user(User::personal("carol@outlook.example"))
}

pub(crate) async fn emulator() -> Emulator {
    builder().start().await.unwrap()
}

/// A completely read response.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
}

impl Reply {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|_| panic!("not JSON: {}", self.text()))
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    /// Returns the parameters of this redirect.
    #[expect(clippy::disallowed_methods, reason = "a test reads what the emulator sent")]
    pub(crate) fn callback(&self) -> HashMap<String, String> {
        let location =
            self.header("location").unwrap_or_else(|| panic!("no redirect: {} {}", self.status, self.text()));
        let (_, query) = location.split_once(['?', '#']).unwrap_or_default();
        form_urlencoded::parse(query.as_bytes()).into_owned().collect()
    }

    /// The AADSTS number of a token endpoint failure.
    pub(crate) fn aadsts(&self) -> u64 {
        self.json()["error_codes"][0].as_u64().unwrap_or_else(|| panic!("no failure: {}", self.text()))
    }
}

pub(crate) async fn get(url: &str, headers: &[(&str, &str)]) -> Reply {
    send("GET", url, headers, "").await.unwrap()
}

pub(crate) async fn post(url: &str, headers: &[(&str, &str)], form: &[(&str, &str)]) -> Reply {
    try_post(url, headers, form).await.unwrap()
}

pub(crate) async fn try_post(url: &str, headers: &[(&str, &str)], form: &[(&str, &str)]) -> Option<Reply> {
    let body = form_urlencoded::Serializer::new(String::new()).extend_pairs(form).finish();
    let mut headers = headers.to_vec();
    headers.push(("content-type", "application/x-www-form-urlencoded"));
    send("POST", url, &headers, &body).await
}

/// Sends one request; `None` when the connection closes without a whole answer.
pub(crate) async fn send(method: &str, url: &str, headers: &[(&str, &str)], body: &str) -> Option<Reply> {
    let (host, _) = split(url);
    exchange(TcpStream::connect(&host).await.unwrap(), method, url, headers, body).await
}

pub(crate) async fn exchange(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    method: &str,
    url: &str,
    headers: &[(&str, &str)],
    body: &str,
) -> Option<Reply> {
    let (host, path) = split(url);
    let mut head = format!(
        "{method} {path} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\ncontent-length: {}\r\n",
        body.len()
    );
    for (name, value) in headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    stream.write_all(format!("{head}\r\n{body}").as_bytes()).await.ok()?;
    let mut raw = Vec::new();
    let _ = stream.read_to_end(&mut raw).await;
    let end = raw.windows(4).position(|four| four == b"\r\n\r\n")?;
    let head = String::from_utf8_lossy(&raw[..end]).into_owned();
    let body = raw[end + 4..].to_vec();
    let mut lines = head.split("\r\n");
    let status = lines.next()?.split(' ').nth(1)?.parse().ok()?;
    let headers: Vec<_> = lines
        .filter_map(|line| line.split_once(": "))
        .map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned()))
        .collect();
    let length =
        headers.iter().find(|(name, _)| name == "content-length").and_then(|(_, value)| value.parse().ok());
    if length.is_some_and(|length: usize| length != body.len()) {
        return None;
    }
    Some(Reply { status, headers, body })
}

fn split(url: &str) -> (String, String) {
    let rest = url.split_once("://").unwrap().1;
    let (host, path) = rest.split_once('/').unwrap_or((rest, ""));
    (host.to_owned(), format!("/{path}"))
}

/// The authorize URL of a usual request, with `more` overriding (or, when empty, removing) parameters.
pub(crate) fn authorize_url(emulator: &Emulator, tenant: &str, more: &[(&str, &str)]) -> String {
    let challenge =
        URL_SAFE_NO_PAD.encode(aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, VERIFIER.as_bytes()));
    let mut parameters = vec![
        ("client_id", CLIENT),
        ("response_type", "code"),
        ("redirect_uri", CALLBACK),
        ("scope", SCOPE),
        ("state", "st-1"),
        ("nonce", "no-1"),
        ("code_challenge", &challenge),
        ("code_challenge_method", "S256"),
    ];
    for (name, value) in more {
        parameters.retain(|(known, _)| known != name);
        if !value.is_empty() {
            parameters.push((name, value));
        }
    }
    let query = form_urlencoded::Serializer::new(String::new()).extend_pairs(&parameters).finish();
    format!("{}/{tenant}/oauth2/v2.0/authorize?{query}", emulator.base_url())
}

pub(crate) async fn authorize(emulator: &Emulator, tenant: &str, more: &[(&str, &str)]) -> Reply {
    get(&authorize_url(emulator, tenant, more), &[]).await
}

pub(crate) async fn code(emulator: &Emulator, tenant: &str, more: &[(&str, &str)]) -> String {
    let reply = authorize(emulator, tenant, more).await;
    reply.callback().remove("code").unwrap_or_else(|| panic!("no code: {:?}", reply.callback()))
}

/// A token request of the usual client, with `more` overriding (or removing) form fields.
pub(crate) async fn token(emulator: &Emulator, tenant: &str, more: &[(&str, &str)]) -> Reply {
    try_token(emulator, tenant, more).await.expect("the connection stays open")
}

pub(crate) async fn try_token(emulator: &Emulator, tenant: &str, more: &[(&str, &str)]) -> Option<Reply> {
    let mut form = vec![("client_id", CLIENT), ("client_secret", SECRET)];
    for (name, value) in more {
        form.retain(|(known, _)| known != name);
        if !value.is_empty() {
            form.push((name, value));
        }
    }
    try_post(&format!("{}/{tenant}/oauth2/v2.0/token", emulator.base_url()), &[], &form).await
}

pub(crate) async fn redeem(emulator: &Emulator, tenant: &str, code: &str, more: &[(&str, &str)]) -> Reply {
    let mut form = vec![
        ("grant_type", "authorization_code"),
        ("code", code),
        ("redirect_uri", CALLBACK),
        ("code_verifier", VERIFIER),
    ];
    form.extend_from_slice(more);
    token(emulator, tenant, &form).await
}

pub(crate) async fn refresh(emulator: &Emulator, refresh_token: &str, more: &[(&str, &str)]) -> Reply {
    let mut form = vec![("grant_type", "refresh_token"), ("refresh_token", refresh_token), ("scope", SCOPE)];
    form.extend_from_slice(more);
    token(emulator, "common", &form).await
}

/// A refresh whose connection may be dropped.
pub(crate) async fn try_refresh(emulator: &Emulator, refresh_token: &str) -> Option<Reply> {
    let form = [("grant_type", "refresh_token"), ("refresh_token", refresh_token), ("scope", SCOPE)];
    try_token(emulator, "common", &form).await
}

/// Signs the automatic user in and returns the token answer.
pub(crate) async fn sign_in(emulator: &Emulator, more: &[(&str, &str)]) -> Value {
    let code = code(emulator, "common", more).await;
    let reply = redeem(emulator, "common", &code, &[]).await;
    assert_eq!(reply.status, 200, "{}", reply.text());
    reply.json()
}

pub(crate) fn text<'a>(value: &'a Value, name: &str) -> &'a str {
    value[name].as_str().unwrap_or_else(|| panic!("no {name} in {value}"))
}

/// The claims of a JWT, not verified.
pub(crate) fn claims(jwt: &str) -> Value {
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(jwt.split('.').nth(1).unwrap()).unwrap()).unwrap()
}
