//! Hand-out of a cached token, compared with bare hyper sending the same bytes, alternately in one run. It
//! prints the requests a second of both and their ratio: the ratio is the result, the rest depends on the
//! machine.
//!
//! `make bench`. Loopback only, bounded in time.

#![allow(clippy::print_stdout, missing_docs, reason = "printing is what a bench is for")]
#![allow(clippy::disallowed_methods, reason = "a bench looks from outside, with the real clock")]

#[path = "../tests/support/http.rs"]
mod http_client;
#[path = "../tests/support/setup.rs"]
mod setup;

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use entra_emulator::{App, Emulator, User};
use http::Method;
use http_body_util::Full;
use http_client::{Browser, Failure, request};
use hyper_util::rt::TokioIo;
use setup::{CLIENT_ID, CLIENT_SECRET, free_port, write_configuration};
use tokenward::app::{Daemon, Environment, Source};

const ROUNDS: usize = 7;
const ROUND: Duration = Duration::from_secs(2);
const CONNECTIONS: usize = 16;

fn main() -> Result<(), Failure> {
    let servers = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let folder = tempfile::tempdir()?;
    let (daemon, local, key, entra) = servers.block_on(start(folder.path()))?;
    let path = "/v1/apps/outlook/connections/user-1/token";
    let bearer = format!("Bearer {key}");
    let answer = servers.block_on(request(
        Method::GET,
        &format!("http://{local}{path}"),
        &[("authorization", &bearer)],
        "",
    ))?;
    assert_eq!(answer.status, 200, "{}", answer.text());
    let bare = servers.block_on(bare_hyper(answer.body.clone()))?;

    let wire = format!("GET {path} HTTP/1.1\r\nhost: localhost\r\nauthorization: {bearer}\r\n\r\n");
    let mut figures: [Vec<f64>; 2] = Default::default();
    for round in 0..=ROUNDS {
        for (server, address) in [local, bare].into_iter().enumerate() {
            let rate = load(address, &wire);
            if round > 0 {
                figures[server].push(rate); // the first round warms up
            }
        }
    }
    let [handout, hyper] = figures;
    let mut ratios: Vec<f64> = handout.iter().zip(&hyper).map(|(ours, bare)| ours / bare).collect();
    println!(
        "answer: {} bytes; {CONNECTIONS} connections, one server thread, {ROUNDS} rounds of {} s",
        answer.body.len(),
        ROUND.as_secs()
    );
    println!("hand-out of a held token: {}", spread(handout));
    println!("bare hyper, same bytes:   {}", spread(hyper));
    ratios.sort_by(f64::total_cmp);
    println!(
        "ratio (median of rounds): {:.2}  (min {:.2}, max {:.2})",
        ratios[ratios.len() / 2],
        ratios[0],
        ratios[ratios.len() - 1]
    );
    servers.block_on(async {
        daemon.stop().await;
        entra.stop().await;
    });
    Ok(())
}

fn spread(mut rates: Vec<f64>) -> String {
    rates.sort_by(f64::total_cmp);
    format!(
        "{:.0} requests/s  (min {:.0}, max {:.0})",
        rates[rates.len() / 2],
        rates[0],
        rates[rates.len() - 1]
    )
}

/// A daemon with one connected account.
async fn start(folder: &std::path::Path) -> Result<(Daemon, SocketAddr, String, Emulator), Failure> {
    let public = free_port()?;
    let callback = format!("http://localhost:{public}/callback/outlook");
    let entra = Emulator::builder()
        .app(App::new(CLIENT_ID).secret(CLIENT_SECRET).redirect_uri(callback))
        .user(User::work("alice@contoso.example"))
        .start()
        .await?;
    let (config, key) = write_configuration(folder, public, &entra.authority("common"))?;
    let loaded = tokenward::config::load(&std::fs::read_to_string(&config)?, &BTreeMap::new(), &config)?;
    let daemon = Daemon::start(loaded, Source::default(), Environment::default(), None).await?;
    let local = daemon.local_addresses()[0];

    let bearer = format!("Bearer {}", key.expose());
    let headers = [("authorization", bearer.as_str()), ("content-type", "application/json")];
    let sessions = format!("http://{local}/v1/connect-sessions");
    let body = r#"{"app":"outlook","connection":"user-1"}"#;
    let session = request(Method::POST, &sessions, &headers, body).await?.json();
    let link = session["connect_url"].as_str().ok_or("no link")?;
    let mut browser = Browser::default();
    let pressed = browser.post(link, "").await?;
    browser.follow(&pressed.location(), |_| false).await?;
    let one = format!("{sessions}/{}", session["id"].as_str().ok_or("no id")?);
    let account = request(Method::GET, &one, &headers, "").await?.json()["account"].clone();
    let confirm = serde_json::json!({ "account": { "tid": account["tid"], "oid": account["oid"] } });
    let confirmed = request(Method::POST, &format!("{one}/confirm"), &headers, confirm.to_string()).await?;
    assert_eq!(confirmed.status, 200, "{}", confirmed.text());
    Ok((daemon, local, key.expose().to_owned(), entra))
}

/// The upper bound: hyper without routing, policy or audit.
async fn bare_hyper(body: Bytes) -> Result<SocketAddr, Failure> {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let _ = stream.set_nodelay(true);
            let body = body.clone();
            let service = hyper::service::service_fn(move |_| {
                let mut response = http::Response::new(Full::new(body.clone()));
                let headers = response.headers_mut();
                headers.insert("content-type", http::HeaderValue::from_static("application/json"));
                headers.insert("cache-control", http::HeaderValue::from_static("no-store"));
                async { Ok::<_, Infallible>(response) }
            });
            tokio::spawn(
                hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service),
            );
        }
    });
    Ok(address)
}

/// Returns the requests a second over keep-alive connections, each with one request in flight.
fn load(address: SocketAddr, wire: &str) -> f64 {
    let stop = Arc::new(AtomicBool::new(false));
    let count = Arc::new(AtomicU64::new(0));
    let begun = Instant::now();
    let threads: Vec<_> = (0..CONNECTIONS)
        .map(|_| {
            let (stop, count, wire) = (stop.clone(), count.clone(), wire.to_owned());
            std::thread::spawn(move || {
                let mut stream = TcpStream::connect(address).expect("connect");
                stream.set_nodelay(true).expect("nodelay");
                let mut buffer = vec![0; 64 * 1024];
                while !stop.load(Ordering::Relaxed) {
                    stream.write_all(wire.as_bytes()).expect("write");
                    read_answer(&mut stream, &mut buffer);
                    count.fetch_add(1, Ordering::Relaxed);
                }
            })
        })
        .collect();
    std::thread::sleep(ROUND);
    stop.store(true, Ordering::Relaxed);
    let rate = count.load(Ordering::Relaxed) as f64 / begun.elapsed().as_secs_f64();
    for thread in threads {
        thread.join().expect("joined");
    }
    rate
}

/// Reads one whole answer: its head, then as many bytes as the head says.
fn read_answer(stream: &mut TcpStream, buffer: &mut [u8]) {
    let mut filled = 0;
    let mut whole = None;
    while whole.is_none_or(|whole| filled < whole) {
        filled += match stream.read(&mut buffer[filled..]).expect("read") {
            0 => panic!("the server closed the connection"),
            more => more,
        };
        if whole.is_none()
            && let Some(head) = buffer[..filled].windows(4).position(|four| four == b"\r\n\r\n")
        {
            let text = std::str::from_utf8(&buffer[..head]).expect("a head is ASCII");
            assert!(text.starts_with("HTTP/1.1 200"), "{text}");
            let length = text.lines().find_map(|line| line.strip_prefix("content-length: "));
            whole =
                Some(head + 4 + length.and_then(|length| length.parse::<usize>().ok()).expect("a length"));
        }
    }
}
