//! A small HTTP client that behaves like a browser or a service and follows no redirect by itself, for the
//! quickstart and the tests.

#![allow(
    unreachable_pub,
    missing_docs,
    dead_code,
    reason = "shared by the quickstart and the tests, each of which uses a part of it"
)]
#![allow(clippy::disallowed_methods, reason = "a client outside the daemon has no ports to go through")]

use std::collections::BTreeMap;
use std::path::Path;

use bytes::Bytes;
use http::{HeaderMap, Method, StatusCode, header};
use http_body_util::{BodyExt, Full};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};

/// A completely read answer.
#[derive(Debug, Clone)]
pub struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Bytes,
}

impl Answer {
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|error| panic!("not JSON ({error}): {} {}", self.status, self.text()))
    }

    pub fn location(&self) -> String {
        let location = self.headers.get(header::LOCATION);
        location
            .and_then(|value| value.to_str().ok())
            .unwrap_or_else(|| panic!("no Location: {} {}", self.status, self.text()))
            .to_owned()
    }
}

pub type Failure = Box<dyn std::error::Error + Send + Sync>;

/// Sends one request on a connection of its own.
pub async fn request(
    method: Method,
    url: &str,
    headers: &[(&str, &str)],
    body: impl Into<Bytes>,
) -> Result<Answer, Failure> {
    let uri: http::Uri = url.parse()?;
    let authority = uri.authority().ok_or("the URL has no host")?.clone();
    let address = format!("{}:{}", authority.host(), authority.port_u16().unwrap_or(80));
    let stream = tokio::net::TcpStream::connect(address).await?;
    exchange(stream, method, &uri, authority.as_str(), headers, body.into()).await
}

/// Sends one request over a Unix socket.
pub async fn request_unix(
    socket: &Path,
    method: Method,
    path: &str,
    headers: &[(&str, &str)],
    body: impl Into<Bytes>,
) -> Result<Answer, Failure> {
    let stream = tokio::net::UnixStream::connect(socket).await?;
    exchange(stream, method, &path.parse()?, "localhost", headers, body.into()).await
}

/// Sends one request over an existing stream.
pub async fn exchange(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    method: Method,
    uri: &http::Uri,
    host: &str,
    headers: &[(&str, &str)],
    body: Bytes,
) -> Result<Answer, Failure> {
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let connection = tokio::task::spawn(connection);
    let path = uri.path_and_query().map_or("/", |path| path.as_str());
    let mut request = http::Request::builder().method(method).uri(path).header(header::HOST, host);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let response = sender.send_request(request.body(Full::new(body))?).await?;
    let (parts, body) = response.into_parts();
    let body = body.collect().await?.to_bytes();
    connection.abort();
    Ok(Answer { status: parts.status, headers: parts.headers, body })
}

/// A browser: it keeps cookies by host and port, and follows redirects one by one on demand.
#[derive(Default, Clone)]
pub struct Browser {
    cookies: BTreeMap<String, BTreeMap<String, String>>,
}

impl Browser {
    /// Opens a URL. A callback leads to the page of its session on the same site, and a person sees that one.
    pub async fn get(&mut self, url: &str) -> Result<Answer, Failure> {
        let answer = self.send(Method::GET, url, Bytes::new(), &[]).await?;
        let site: String = url.split_inclusive('/').take(3).collect();
        match answer.headers.get(header::LOCATION).and_then(|value| value.to_str().ok()) {
            Some(next) if next.starts_with(&format!("{site}connect/")) => {
                let next = next.to_owned();
                self.send(Method::GET, &next, Bytes::new(), &[]).await
            }
            _ => Ok(answer),
        }
    }

    /// Returns the `Cookie` header that it sends to the site of a URL.
    pub fn cookie(&self, url: &str) -> String {
        let site = url.split('/').nth(2).unwrap_or_default();
        let jar = self.cookies.get(site).into_iter().flatten();
        jar.map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join("; ")
    }

    /// Posts a form, as a button does.
    pub async fn post(&mut self, url: &str, form: &str) -> Result<Answer, Failure> {
        let headers = [("content-type", "application/x-www-form-urlencoded")];
        self.send(Method::POST, url, Bytes::from(form.to_owned()), &headers).await
    }

    /// Follows redirects from `url` until a page comes or `stop` accepts a URL.
    pub async fn follow(
        &mut self,
        url: &str,
        stop: impl Fn(&str) -> bool,
    ) -> Result<(String, Answer), Failure> {
        let mut url = url.to_owned();
        for _ in 0..10 {
            let answer = self.get(&url).await?;
            if !answer.status.is_redirection() {
                return Ok((url, answer));
            }
            url = answer.location();
            if stop(&url) {
                return Ok((url, answer));
            }
        }
        Err("too many redirects".into())
    }

    /// Sends a request with this browser's cookies.
    pub async fn send(
        &mut self,
        method: Method,
        url: &str,
        body: Bytes,
        headers: &[(&str, &str)],
    ) -> Result<Answer, Failure> {
        let site = url.split('/').nth(2).unwrap_or_default().to_owned();
        let jar = self.cookies.entry(site).or_default();
        let cookie: Vec<String> = jar.iter().map(|(name, value)| format!("{name}={value}")).collect();
        let cookie = cookie.join("; ");
        let mut all: Vec<(&str, &str)> = headers.to_vec();
        if !cookie.is_empty() {
            all.push(("cookie", &cookie));
        }
        let answer = request(method, url, &all, body).await?;
        for set in answer.headers.get_all(header::SET_COOKIE) {
            if let Some((name, rest)) = set.to_str()?.split_once('=') {
                let value = rest.split(';').next().unwrap_or_default();
                jar.insert(name.to_owned(), value.to_owned());
            }
        }
        Ok(answer)
    }
}
