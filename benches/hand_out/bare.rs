//! The limit: hyper without routing, callers, policy or audit, on a listener of the same kind.

use std::convert::Infallible;
use std::io::{BufRead as _, Write as _};
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Response};
use http_body_util::Full;
use hyper_util::rt::TokioIo;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};
use tokio_rustls::TlsAcceptor;

use crate::support::Failure;

/// What a bare server is told on standard input, as one line.
#[derive(Serialize, Deserialize)]
pub struct Settings {
    /// The answer to repeat: its head and its body, in base64.
    pub answer: String,
    /// The socket to listen on; without it, a TCP port.
    pub unix: Option<std::path::PathBuf>,
    pub tls: Option<Tls>,
}

/// PEM of the server's chain and key, and of its clients' CA if they must show a certificate.
#[derive(Clone, Serialize, Deserialize)]
pub struct Tls {
    pub chain: String,
    pub key: String,
    pub client_ca: Option<String>,
}

#[derive(Clone)]
struct Answer {
    headers: HeaderMap,
    body: Bytes,
}

/// Serves until standard input ends.
pub fn serve() -> Result<(), Failure> {
    let mut line = String::new();
    std::io::stdin().lock().read_line(&mut line)?;
    let settings: Settings = serde_json::from_str(&line)?;
    let answer = Answer::read(&STANDARD.decode(&settings.answer)?)?;
    // As the daemon's: as many threads as cores.
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        match (settings.unix, settings.tls) {
            (Some(path), _) => {
                let listener = UnixListener::bind(path)?;
                tokio::spawn(async move {
                    while let Ok((stream, _)) = listener.accept().await {
                        tokio::spawn(answer.clone().over(stream));
                    }
                });
                say(0)?;
            }
            (None, tls) => {
                let acceptor = tls.map(acceptor).transpose()?;
                let listener = TcpListener::bind("127.0.0.1:0").await?;
                let port = listener.local_addr()?.port();
                tokio::spawn(async move {
                    while let Ok((stream, _)) = listener.accept().await {
                        let _ = stream.set_nodelay(true);
                        let (answer, acceptor) = (answer.clone(), acceptor.clone());
                        tokio::spawn(async move {
                            match acceptor {
                                None => answer.over(stream).await,
                                Some(acceptor) => {
                                    if let Ok(stream) = acceptor.accept(stream).await {
                                        answer.over(stream).await;
                                    }
                                }
                            }
                        });
                    }
                });
                say(port)?;
            }
        }
        let until_the_end = || std::io::copy(&mut std::io::stdin().lock(), &mut std::io::sink());
        tokio::task::spawn_blocking(until_the_end).await??;
        Ok(())
    })
}

fn say(port: u16) -> std::io::Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{port}")?;
    out.flush()
}

fn acceptor(tls: Tls) -> Result<TlsAcceptor, Failure> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let clients = match tls.client_ca {
        None => WebPkiClientVerifier::no_client_auth(),
        Some(client_ca) => {
            let mut roots = rustls::RootCertStore::empty();
            roots.add(CertificateDer::from_pem_slice(client_ca.as_bytes())?)?;
            WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone()).build()?
        }
    };
    let chain = CertificateDer::pem_slice_iter(tls.chain.as_bytes()).collect::<Result<_, _>>()?;
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_client_cert_verifier(clients)
        .with_single_cert(chain, PrivateKeyDer::from_pem_slice(tls.key.as_bytes())?)?;
    Ok(TlsAcceptor::from(Arc::new(config)))
}

impl Answer {
    /// Takes the bytes of an answer apart, so that hyper makes the same ones.
    fn read(bytes: &[u8]) -> Result<Self, Failure> {
        let end = bytes.windows(4).position(|four| four == b"\r\n\r\n").ok_or("no head")?;
        let mut headers = HeaderMap::new();
        for line in std::str::from_utf8(&bytes[..end])?.split("\r\n").skip(1) {
            let (name, value) = line.split_once(": ").ok_or("no header")?;
            // (hyper writes these two.)
            if !matches!(name, "date" | "content-length") {
                headers.append(HeaderName::from_bytes(name.as_bytes())?, HeaderValue::from_str(value)?);
            }
        }
        Ok(Answer { headers, body: Bytes::copy_from_slice(&bytes[end + 4..]) })
    }

    async fn over(self, stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static) {
        let service = hyper::service::service_fn(move |_| {
            let mut response = Response::new(Full::new(self.body.clone()));
            *response.headers_mut() = self.headers.clone();
            async { Ok::<_, Infallible>(response) }
        });
        let _ =
            hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
    }
}
