//! What an operator waits for at many connections: pages of the console, listings of the admin API, and whole
//! searches.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::Method;
use tokenward::keyring::files;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::authority::Authority;
use crate::daemon::Place;
use crate::seed::{self, Seeder};
use crate::support::Failure;
use crate::support::http_client::{Browser, request_unix};
use crate::{Args, Kind};

/// Refreshes a second that the sweep may begin: nothing is due meanwhile.
const SWEEP_RATE: u32 = 16;
/// How long a whole search may take.
const PATIENCE: Duration = Duration::from_secs(900);

/// A browser with a session.
struct Console {
    browser: Browser,
    base: String,
}

pub async fn size(args: &Args, kind: Kind, size: u64, authority: &Authority) -> Result<(), Failure> {
    let place = match &args.keep {
        Some(folder) => Place::at(
            folder.join(format!("{kind}-{size}")),
            kind == Kind::Redis,
            &authority.url(),
            SWEEP_RATE,
        )?,
        None => Place::new(kind == Kind::Redis, &authority.url(), SWEEP_RATE)?,
    };
    if !place.path("seeded").exists() {
        let keyring = Arc::new(files::open(&place.path("keyring"))?);
        let store = place.open()?;
        store.ping().await?;
        let (seeder, began) =
            (Seeder::new(store, keyring, authority.origin()).with_trouble(), Instant::now());
        seeder.seed(0..size).await?;
        drop(seeder);
        place.save()?;
        std::fs::write(place.path("seeded"), size.to_string())?;
        println!("  seeded in {:.0} s", began.elapsed().as_secs_f64());
    }
    let (daemon, took) = place.daemon(&args.binary).await?;
    println!(
        "\n| {kind}, {size} connections (ready in {:.1} s) | median | p99 | longest, ms |",
        took.as_secs_f64()
    );
    println!("|---|---|---|---|");
    let socket = place.path("admin.sock");
    let mut console = Console::open(&socket, place.admin).await?;
    let last = seed::name(size - 1);
    let deep = console.deep_page(&seed::name(size * 9 / 10)).await?;
    let list = "/console/connections?app=outlook";
    for (row, path) in [
        ("overview", "/console".to_owned()),
        ("list, first page", list.to_owned()),
        ("list, a page at nine tenths", deep),
        ("names that begin so", format!("{list}&name={}", &last[..last.len() - 2])),
        ("text, a match early", format!("{list}&text=user-00000042%40")),
        ("text, a match at the end", format!("{list}&text={last}%40")),
        ("text, the last one's whole name", format!("{list}&text={last}")),
        ("text, no match", format!("{list}&text=nobody-like-that")),
        ("status, 1 of 1,000", format!("{list}&status=needs_reauthorization")),
        ("status, none", format!("{list}&status=blocked")),
        ("tenant, 1 of 64", format!("{list}&tenant=11111111-2222-3333-4444-000000000007")),
        ("one connection", format!("/console/connection?app=outlook&name={last}")),
    ] {
        let mut took = Vec::with_capacity(args.asked);
        for _ in 0..args.asked {
            took.push(console.page(&path).await?.0);
        }
        row_of(&format!("console: {row}"), took);
    }
    let api = "/admin/v1/apps/outlook/connections";
    for (row, path) in [
        ("list", api.to_owned()),
        ("status, 1 of 1,000", format!("{api}?status=needs_reauthorization")),
        ("status, none", format!("{api}?status=blocked")),
        ("reason, 1 of 1,000", format!("{api}?reason=grant_expired")),
        ("tenant, 1 of 64", format!("{api}?tenant=11111111-2222-3333-4444-000000000007")),
        ("account, at the end", format!("{api}?account={last}%40contoso.example")),
        ("label, none", format!("{api}?label=nobody")),
        ("text, at the end", format!("{api}?text={last}%40")),
        ("text, no match", format!("{api}?text=nobody-like-that")),
        ("one connection", format!("{api}/{last}")),
        ("explain", format!("{api}/{last}/explain")),
    ] {
        let mut took = Vec::with_capacity(args.asked);
        for _ in 0..args.asked {
            took.push(ask(&socket, &path).await?.0);
        }
        row_of(&format!("API: {row}"), took);
    }
    println!(
        "\n| {kind}, {size} connections: whole searches | answers | s | longest answer, ms |\n|---|---|---|---|"
    );
    let path = format!("{api}?text={last}%40");
    let (mut longest, mut answers, mut found, mut cursor) = (Duration::ZERO, 0, 0, String::new());
    let began = Instant::now();
    loop {
        let (took, page) = ask(&socket, &format!("{path}{cursor}")).await?;
        (longest, answers) = (longest.max(took), answers + 1);
        found += page["connections"].as_array().map_or(0, Vec::len);
        let Some(next) = page["next_cursor"].as_str() else { break };
        cursor = format!("&cursor={next}");
    }
    whole("API, cursor by cursor", answers, began.elapsed(), longest, found)?;
    let (mut longest, mut answers, mut found) = (Duration::ZERO, 0, 0);
    let (began, mut next) = (Instant::now(), Some(format!("{list}&text={last}%40")));
    while let Some(path) = next {
        let (took, page) = console.page(&path).await?;
        (longest, answers) = (longest.max(took), answers + 1);
        found += page.matches(&format!(">{last}</a>")).count();
        next = link(&page);
    }
    whole("console without script, by Search on", answers, began.elapsed(), longest, found)?;
    let (_, page) = console.page(&format!("{list}&text={last}%40")).await?;
    if let Some(live) = attribute(&page, "data-search") {
        let began = Instant::now();
        let seen = console.stream(&live).await?;
        let found = seen.matches(&format!(">{last}</a>")).count();
        whole(
            "console with script, one stream",
            seen.matches("event: ").count(),
            began.elapsed(),
            Duration::ZERO,
            found,
        )?;
    }
    daemon.stop();
    Ok(())
}

impl Console {
    async fn open(socket: &Path, port: u16) -> Result<Self, Failure> {
        let made = request_unix(socket, Method::POST, "/admin/v1/console-links", &[], "").await?;
        let link = made.json()["urls"][0].as_str().ok_or("no link")?.to_owned();
        let mut console = Console { browser: Browser::default(), base: format!("http://127.0.0.1:{port}") };
        let headers =
            [("content-type", "application/x-www-form-urlencoded"), ("origin", console.base.as_str())];
        let entered = console.browser.send(Method::POST, &link, Bytes::new(), &headers).await?;
        if entered.status == 303 { Ok(console) } else { Err(entered.text().into()) }
    }

    async fn page(&mut self, path: &str) -> Result<(Duration, String), Failure> {
        let began = Instant::now();
        let answer = self.browser.get(&format!("{}{path}", self.base)).await?;
        let took = began.elapsed();
        if answer.status == 200 { Ok((took, answer.text())) } else { Err(answer.text().into()) }
    }

    /// The address of a page that begins about there.
    async fn deep_page(&mut self, name: &str) -> Result<String, Failure> {
        let path = format!("/console/connections?app=outlook&name={}", &name[..name.len() - 3]);
        let (_, page) = self.page(&path).await?;
        let next = link(&page).ok_or("it is the last page")?;
        let (_, cursor) = next.split_once("cursor=").ok_or("no cursor")?;
        Ok(format!("/console/connections?app=outlook&cursor={cursor}"))
    }

    /// Everything that a stream says until it is over.
    async fn stream(&self, path: &str) -> Result<String, Failure> {
        let host = self.base.strip_prefix("http://").ok_or("no host")?;
        let mut stream = TcpStream::connect(host).await?;
        let cookie = self.browser.cookie(&self.base);
        let head = format!("GET {path} HTTP/1.1\r\nhost: {host}\r\ncookie: {cookie}\r\n\r\n");
        stream.write_all(head.as_bytes()).await?;
        let (mut seen, mut read, began) = (String::new(), vec![0; 65536], Instant::now());
        while !seen.contains("event: done") {
            let length = stream.read(&mut read).await?;
            if length == 0 || began.elapsed() > PATIENCE {
                return Err("the stream ended early".into());
            }
            seen.push_str(&String::from_utf8_lossy(&read[..length]));
        }
        Ok(seen)
    }
}

async fn ask(socket: &Path, path: &str) -> Result<(Duration, serde_json::Value), Failure> {
    let began = Instant::now();
    let answer = request_unix(socket, Method::GET, path, &[], "").await?;
    let took = began.elapsed();
    if answer.status == 200 { Ok((took, answer.json())) } else { Err(answer.text().into()) }
}

/// Where a page goes on, if it does.
fn link(page: &str) -> Option<String> {
    let (before, _) = page.split_once("Search on").or_else(|| page.split_once("Next page"))?;
    let (_, href) = before.rsplit_once("href=\"")?;
    Some(href.split('"').next()?.replace("&amp;", "&"))
}

fn attribute(page: &str, name: &str) -> Option<String> {
    let (_, value) = page.split_once(&format!("{name}=\""))?;
    Some(value.split('"').next()?.replace("&amp;", "&"))
}

fn row_of(row: &str, mut took: Vec<Duration>) {
    took.sort_unstable();
    let at = |part: usize| took[(took.len() * part).div_ceil(100).max(1) - 1].as_secs_f64() * 1e3;
    println!("| {row} | {:.1} | {:.1} | {:.1} |", at(50), at(99), at(100));
}

fn whole(row: &str, answers: usize, took: Duration, longest: Duration, found: usize) -> Result<(), Failure> {
    println!("| {row} | {answers} | {:.1} | {:.1} |", took.as_secs_f64(), longest.as_secs_f64() * 1e3);
    if found == 1 { Ok(()) } else { Err(format!("{found} were found").into()) }
}
