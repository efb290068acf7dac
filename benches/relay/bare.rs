//! The limit: a reverse proxy of hyper without callers, policy, canonical paths, links or audit. The resource is
//! started the same way.

use std::convert::Infallible;
use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Command, Stdio};

use bytes::Bytes;
use http::uri::{Authority, Scheme, Uri};
use http::{Request, Response, StatusCode, header};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Empty};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpListener;

use crate::resource;
use crate::support::Failure;
use crate::support::daemon::Server;

type Answer = UnsyncBoxBody<Bytes, hyper::Error>;

/// A process of its own.
pub struct Bare {
    pub port: u16,
    _process: Server,
}

impl Bare {
    /// Starts the resource.
    pub fn resource() -> Result<Self, Failure> {
        Bare::start("")
    }

    /// Starts a proxy to what listens on this port.
    pub fn proxy(to: u16) -> Result<Self, Failure> {
        Bare::start(&to.to_string())
    }

    fn start(line: &str) -> Result<Self, Failure> {
        let mut child = Command::new(std::env::current_exe()?)
            .arg("--bare")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        writeln!(child.stdin.as_mut().ok_or("no input")?, "{line}")?;
        let mut port = String::new();
        BufReader::new(child.stdout.take().ok_or("no output")?).read_line(&mut port)?;
        Ok(Bare { port: port.trim().parse()?, _process: Server::new(child) })
    }
}

/// Serves until standard input ends.
pub fn serve() -> Result<(), Failure> {
    let mut line = String::new();
    std::io::stdin().lock().read_line(&mut line)?;
    let to: Option<u16> = line.trim().parse().ok();
    // As the daemon's: as many threads as cores.
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        println!("{}", listener.local_addr()?.port());
        tokio::spawn(async move {
            let mut connector = HttpConnector::new();
            connector.set_nodelay(true);
            let client: Client<_, Incoming> = Client::builder(TokioExecutor::new()).build(connector);
            while let Ok((stream, _)) = listener.accept().await {
                let _ = stream.set_nodelay(true);
                let (client, io) = (client.clone(), TokioIo::new(stream));
                tokio::spawn(async move {
                    let _ = match to {
                        None => {
                            http1::Builder::new().serve_connection(io, service_fn(resource::answer)).await
                        }
                        Some(to) => {
                            let service = service_fn(move |request| proxied(client.clone(), to, request));
                            http1::Builder::new().serve_connection(io, service).await
                        }
                    };
                });
            }
        });
        let until_the_end = || std::io::copy(&mut std::io::stdin().lock(), &mut std::io::sink());
        tokio::task::spawn_blocking(until_the_end).await??;
        Ok(())
    })
}

async fn proxied(
    client: Client<HttpConnector, Incoming>,
    to: u16,
    mut request: Request<Incoming>,
) -> Result<Response<Answer>, Infallible> {
    let mut uri = std::mem::take(request.uri_mut()).into_parts();
    uri.scheme = Some(Scheme::HTTP);
    uri.authority = format!("127.0.0.1:{to}").parse::<Authority>().ok();
    *request.uri_mut() = Uri::from_parts(uri).unwrap_or_default();
    request.headers_mut().remove(header::HOST);
    let answer = client.request(request).await;
    Ok(answer.map(|answer| answer.map(|body| body.boxed_unsync())).unwrap_or_else(|_| {
        let mut response = Response::new(Empty::new().map_err(|never| match never {}).boxed_unsync());
        *response.status_mut() = StatusCode::BAD_GATEWAY;
        response
    }))
}
