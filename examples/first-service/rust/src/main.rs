//! Prints the subjects of a user's newest mails: first-service CONNECTION

use std::error::Error;
use std::time::Duration;
use std::{env, fs, thread};

use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use ureq::{Agent, Body, http::Response};

fn call(url: &str, bearer: &str, body: Option<&Value>) -> Result<Response<Body>, ureq::Error> {
    let config = Agent::config_builder().http_status_as_error(false);
    let agent: Agent = config.timeout_global(Some(Duration::from_secs(20))).build().into();
    let bearer = format!("Bearer {bearer}");
    match body {
        None => agent.get(url).header("Authorization", bearer).call(),
        Some(body) => agent.post(url).header("Authorization", bearer).send_json(body),
    }
}

/// An access token that works now; `report` says which one Graph refused.
fn token(connection: &str, report: Option<&Value>) -> Result<String, Box<dyn Error>> {
    // (Of what a connection's name may have, only the slash has to be escaped.)
    let (base, name) = (var("TOKENWARD_URL", "http://127.0.0.1:7070"), connection.replace('/', "%2F"));
    let url = format!("{base}/v1/apps/outlook/connections/{name}/token?connect=1");
    let mut left = 4;
    loop {
        // Read anew: it may have been replaced.
        let key = fs::read_to_string(env::var("TOKENWARD_KEY_FILE")?)?;
        let mut answer = call(&url, key.trim(), report)?;
        let body: Value = answer.body_mut().read_json()?;
        match (answer.status().as_u16(), left) {
            (200, _) => return Ok(body["access_token"].as_str().ok_or("no token")?.to_owned()),
            (429 | 503, 1..) => {
                let seconds =
                    answer.headers().get("Retry-After").ok_or("no Retry-After")?.to_str()?.parse()?;
                thread::sleep(Duration::from_secs(seconds)); // nothing is wrong with the connection
                left -= 1;
            }
            _ => {
                let next = body.get("connect_url").unwrap_or(&body["hint"]);
                return Err(format!("{}: {}; {next}", body["code"], body["detail"]).into());
            }
        }
    }
}

fn subjects(connection: &str) -> Result<Vec<String>, Box<dyn Error>> {
    let graph = var("GRAPH_URL", "https://graph.microsoft.com");
    let url = format!("{graph}/v1.0/me/messages?$select=subject&$top=5");
    let bearer = token(connection, None)?;
    let mut answer = call(&url, &bearer, None)?;
    if answer.status() == 401 {
        // Revoked before its time: report it once, and use the token that comes.
        let digest: String = Sha256::digest(&bearer).iter().map(|byte| format!("{byte:02x}")).collect();
        let mut report = json!({ "rejected": digest });
        let challenge = answer.headers().get("WWW-Authenticate").and_then(|value| value.to_str().ok());
        if let Some((_, claims)) = challenge.and_then(|text| text.split_once("claims=\"")) {
            report["claims"] = claims.split('"').next().into();
        }
        answer = call(&url, &token(connection, Some(&report))?, None)?;
    }
    if answer.status() != 200 {
        return Err(format!("Microsoft Graph answers {}", answer.status()).into());
    }
    let page: Value = answer.body_mut().read_json()?;
    let subject = |message: &Value| message["subject"].as_str().map(str::to_owned);
    Ok(page["value"].as_array().ok_or("no list")?.iter().filter_map(subject).collect())
}

fn var(name: &str, otherwise: &str) -> String {
    env::var(name).unwrap_or_else(|_| otherwise.to_owned())
}

fn main() {
    let found = env::args().nth(1).ok_or_else(|| "which connection?".into()).and_then(|name| subjects(&name));
    match found {
        Ok(subjects) => subjects.iter().for_each(|subject| println!("{subject}")),
        Err(error) => {
            eprintln!("{error}");
            std::process::exit(1);
        }
    }
}
