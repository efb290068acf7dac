//! The main job in one command: a stand-in for Microsoft Entra ID and the daemon in one process. A user
//! connects an Outlook account; a service gets a token, uses it, and gets a new one after the first has aged.
//!
//! `cargo run --example quickstart` ends by itself; with `-- --stay` both keep running for you and your
//! browser.

#![allow(clippy::print_stdout, reason = "printing is what this example is for")]

#[path = "../tests/support/http.rs"]
mod http_client;
#[path = "../tests/support/setup.rs"]
mod setup;

use std::collections::BTreeMap;
use std::time::Duration;

use entra_emulator::{App, Emulator, Mode, User};
use http::Method;
use http_client::{Browser, Failure, request};
use setup::{CLIENT_ID, CLIENT_SECRET, free_port, write_configuration};
use tokenward::app::{Daemon, Environment, Source};

/// Short enough to watch a token age.
const TOKEN_LIFE: Duration = Duration::from_secs(8);

#[tokio::main]
async fn main() -> Result<(), Failure> {
    let stay = std::env::args().any(|argument| argument == "--stay");
    let folder = tempfile::tempdir()?;
    let public = free_port()?;
    let base_url = format!("http://localhost:{public}");

    step("Start a stand-in for Microsoft Entra ID and Microsoft Graph");
    let entra = Emulator::builder()
        .mode(Mode::Entra)
        .token_lifetime(if stay { Duration::from_secs(300) } else { TOKEN_LIFE })
        .automatic(!stay)
        .app(App::new(CLIENT_ID).secret(CLIENT_SECRET).redirect_uri(format!("{base_url}/callback/outlook")))
        .user(User::work("alice@contoso.example"))
        .start()
        .await?;
    entra.sign_in_as("alice@contoso.example");
    say(&format!("Entra and Graph at {}", entra.base_url()));

    step("Start tokenward with an embedded store in a temporary folder");
    let (config, key) = write_configuration(folder.path(), public, &entra.authority("common"))?;
    say(&format!("configuration: {}", config.display()));
    let text = std::fs::read_to_string(&config)?;
    let loaded = tokenward::config::load(&text, &BTreeMap::new(), &config)?;
    let daemon = Daemon::start(loaded, Source::default(), Environment::default(), None).await?;
    let local = format!("http://{}", daemon.local_addresses()[0]);
    let bearer = format!("Bearer {}", key.expose());
    say(&format!(
        "local API at {local}, browsers at {base_url}, metrics at http://{}/metrics",
        daemon.ops_address()
    ));

    step("A service asks to connect the account of its user-4711");
    let body = r#"{"app":"outlook","connection":"user-4711"}"#;
    curl(&format!("-X POST {local}/v1/connect-sessions -H 'Authorization: Bearer twk_…' -d '{body}'"));
    let headers = [("authorization", bearer.as_str()), ("content-type", "application/json")];
    let started = request(Method::POST, &format!("{local}/v1/connect-sessions"), &headers, body).await?;
    let session = started.json();
    let connect_url = text_of(&session, "connect_url");
    say(&format!("the user's link: {connect_url}"));
    if stay {
        say("open it in a browser, press the button, choose alice and accept; waiting for you …");
    } else {
        step("The user opens the link, presses its button, signs in at Entra, and comes back");
        let mut browser = Browser::default();
        browser.get(&connect_url).await?;
        let pressed = browser.post(&connect_url, "").await?;
        let (_, page) = browser.follow(&pressed.location(), |_| false).await?;
        say(&format!("the page says: {}", title(&page.text())));
    }

    step("The service sees who came back, and confirms that it is the right one");
    let session_url = format!("{local}/v1/connect-sessions/{}", text_of(&session, "id"));
    curl(&format!("{local}/v1/connect-sessions/ID?wait=60 -H 'Authorization: Bearer twk_…'"));
    let account = loop {
        let state = request(Method::GET, &format!("{session_url}?wait=60"), &headers, "").await?.json();
        match state["state"].as_str() {
            Some("pending") => {}
            Some("awaiting_confirmation") => break state["account"].clone(),
            _ => return Err(format!("the session ended: {state}").into()),
        }
    };
    say(&format!("{} came back", account["username"]));
    let confirm = serde_json::json!({ "account": { "tid": account["tid"], "oid": account["oid"] } });
    curl(&format!(
        "-X POST {local}/v1/connect-sessions/ID/confirm -H 'Authorization: Bearer twk_…' -d '{confirm}'"
    ));
    let confirmed =
        request(Method::POST, &format!("{session_url}/confirm"), &headers, confirm.to_string()).await?;
    say(&format!("state: {}", confirmed.json()["state"]));

    step("The service asks for an access token");
    let token_url = format!("{local}/v1/apps/outlook/connections/user-4711/token");
    curl(&format!("{token_url} -H 'Authorization: Bearer twk_…'"));
    let first = request(Method::GET, &token_url, &headers, "").await?.json();
    show_token(&first);

    step("It calls Microsoft Graph with it");
    let me = format!("{}/v1.0/me", entra.graph_url());
    curl(&format!("{me} -H 'Authorization: Bearer eyJ…'"));
    let graph_bearer = format!("Bearer {}", text_of(&first, "access_token"));
    let graph = request(Method::GET, &me, &[("authorization", &graph_bearer)], "").await?;
    if graph.status != 200 {
        return Err(format!("Graph refused the token: {}", graph.text()).into());
    }
    say(&format!("Graph answers: {}", graph.json()["userPrincipalName"]));
    if stay {
        step("Both stay up; stop them with Ctrl-C");
        say(&format!("the caller's API key: {}", key.expose()));
        tokio::signal::ctrl_c().await?;
        daemon.stop().await;
        return Ok(());
    }

    step("The token ages; the next request gets a fresh one");
    tokio::time::sleep(TOKEN_LIFE / 2).await;
    let second = request(Method::GET, &token_url, &headers, "").await?.json();
    show_token(&second);
    if first["access_token"] == second["access_token"] {
        return Err("the token is still the first one".into());
    }
    say("it is another token, refreshed without the user");

    step("Stop");
    daemon.stop().await;
    entra.stop().await;
    say("done: connect, hand out, use, refresh");
    Ok(())
}

fn show_token(answer: &serde_json::Value) {
    let token = text_of(answer, "access_token");
    say(&format!("{}… ({} characters)", &token[..12], token.len()));
    say(&format!(
        "lives {} s more, scope {}, status {}",
        answer["expires_in"], answer["scope"], answer["status"]
    ));
}

fn text_of(value: &serde_json::Value, key: &str) -> String {
    value[key].as_str().unwrap_or_else(|| panic!("the answer has no {key}: {value}")).to_owned()
}

fn title(page: &str) -> &str {
    page.split("<h1>").nth(1).and_then(|rest| rest.split("</h1>").next()).unwrap_or("(no title)")
}

fn step(what: &str) {
    println!("\n== {what}");
}

fn say(what: &str) {
    println!("   {what}");
}

fn curl(arguments: &str) {
    println!("   $ curl {arguments}");
}
