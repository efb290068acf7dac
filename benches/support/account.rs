//! An account that a daemon has connected: the emulator, whose user signs in, and what a service does for it.

use entra_emulator::{App, Emulator, User};
use http::Method;

use super::http_client::{Browser, Failure, request};
use super::setup::{CLIENT_ID, CLIENT_SECRET};

/// The name that connections get.
pub const CONNECTION: &str = "user-1";

/// Starts an authority with one user, for daemons with these public ports: the app's registration names them.
pub async fn authority(public: &[u16]) -> Result<Emulator, Failure> {
    let callback = |port| format!("http://localhost:{port}/callback/outlook");
    let app = App::new(CLIENT_ID).secret(CLIENT_SECRET);
    Ok(Emulator::builder()
        .app(public.iter().fold(app, |app, port| app.redirect_uri(callback(port))))
        .user(User::work("alice@contoso.example"))
        .start()
        .await?)
}

/// Connects the account at the daemon whose local API has this port.
pub async fn connect(port: u16, key: &str) -> Result<(), Failure> {
    let (local, bearer) = (format!("http://127.0.0.1:{port}"), format!("Bearer {key}"));
    let headers = [("authorization", bearer.as_str()), ("content-type", "application/json")];
    let sessions = format!("{local}/v1/connect-sessions");
    let body = format!(r#"{{"app":"outlook","connection":"{CONNECTION}"}}"#);
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
    Ok(())
}

/// Gets the token once.
pub async fn hand_out(port: u16, key: &str) -> Result<(), Failure> {
    let url = format!("http://127.0.0.1:{port}{}", target());
    let bearer = format!("Bearer {key}");
    let answer = request(Method::GET, &url, &[("authorization", &bearer)], "").await?;
    if answer.status == 200 { Ok(()) } else { Err(answer.text().into()) }
}

fn target() -> String {
    format!("/v1/apps/outlook/connections/{CONNECTION}/token")
}

/// A request for the token over the native API, as a service's client sends it. `credential` is a line of the
/// head, or empty.
pub fn native(credential: &str) -> String {
    get(&target(), credential)
}

/// A request for this target, as a service's client sends it.
pub fn get(target: &str, credential: &str) -> String {
    format!(
        "GET {target} HTTP/1.1\r\nhost: tokenward\r\naccept: */*\r\nuser-agent: a-service/1.0\r\n{credential}\r\n"
    )
}

/// The line of a head with an API key.
pub fn bearer(key: &str) -> String {
    format!("authorization: Bearer {key}\r\n")
}
