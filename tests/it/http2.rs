//! HTTP/2 from outside: clients that nobody here wrote get tokens with it.

use std::io::Write;
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use crate::launcher::{command, installed, repository};
use crate::mtls::{SPIFFE_ID, Scene, TOKEN};
use crate::pki::{Identity, Leaf};
use crate::world::{PATIENCE, write_secret};

/// Has a program ask as the cases say. Returns each case's answers: protocol, status and body.
async fn ask(mut program: Command, cases: &Value) -> Vec<Vec<(String, u64, Value)>> {
    program.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let cases = cases.to_string();
    let run = tokio::task::spawn_blocking(move || {
        let mut child = program.spawn().expect("it is missing: run `make tools`");
        let mut stdin = child.stdin.take().expect("piped");
        stdin.write_all(cases.as_bytes()).expect("it reads");
        drop(stdin);
        child.wait_with_output().expect("it ends")
    });
    let output = tokio::time::timeout(PATIENCE, run).await.expect("it ends").expect("joined");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let answers: Vec<Vec<(String, u64, String)>> = serde_json::from_slice(&output.stdout).expect("JSON");
    let body = |text: &str| serde_json::from_str(text).unwrap_or_default();
    let answers =
        answers.iter().map(|answers| answers.iter().map(|one| (one.0.clone(), one.1, body(&one.2))));
    answers.map(Iterator::collect).collect()
}

/// curl, which says its protocol behind the body.
async fn curl(case: &Value) -> (String, u64, Value) {
    let mut curl = command("curl");
    let file = |name: &str| case[name].as_str().map(str::to_owned);
    curl.args(["-q", "-sS", "--noproxy", "*", "--http2", "--cacert", &file("ca").expect("a file")]);
    curl.args(["-w", "\nHTTP/%{http_version} %{http_code}"]);
    if let (Some(certificate), Some(key)) = (file("certificate"), file("key")) {
        curl.args(["--cert", &certificate, "--key", &key]);
    }
    for (name, value) in case["headers"].as_object().expect("headers") {
        curl.args(["-H", &format!("{name}: {}", value.as_str().expect("text"))]);
    }
    curl.arg(case["url"].as_str().expect("a URL"));
    let run = tokio::task::spawn_blocking(move || curl.output());
    let output =
        tokio::time::timeout(PATIENCE, run).await.expect("it ends").expect("joined").expect("curl runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).expect("text");
    let (body, end) = text.rsplit_once('\n').expect("two lines");
    let (protocol, status) = end.split_once(' ').expect("two words");
    (protocol.to_owned(), status.parse().expect("a number"), serde_json::from_str(body).unwrap_or_default())
}

#[tokio::test]
async fn clients_of_others_get_a_token_over_http_2_by_key_and_by_certificate() {
    let scene = Scene::start().await;
    let write = |name: &str, content: &str| {
        let path = scene.world.folder.path().join(name);
        write_secret(&path, content);
        path.display().to_string()
    };
    let Identity { chain, key } = scene.callers.issue(Leaf::new().uri(SPIFFE_ID));
    let (ca, certificate) = (write("servers.pem", &scene.server.pem()), write("client.pem", &chain));
    let key = write("client.key", &key);
    let url = format!("https://localhost:{}{TOKEN}", scene.port);
    let bearer = json!({ "authorization": format!("Bearer {}", scene.world.key) });
    let cases = json!([
        { "url": url, "ca": ca, "headers": bearer },
        { "url": url, "ca": ca, "headers": {}, "certificate": certificate, "key": key },
        { "url": url, "ca": ca, "headers": { "authorization": "Bearer wrong" } },
    ]);
    let script = |name: &str| repository().join("tests/interop/http2").join(name);
    let mut python = command(installed("venv/bin/python", "tools"));
    python.arg(script("client.py"));
    let mut node = command("node");
    node.arg(script("client.mjs"));
    let mut all = vec![ask(python, &cases).await, ask(node, &cases).await];
    let mut of_curl = Vec::new();
    for case in cases.as_array().expect("a list") {
        of_curl.push(vec![curl(case).await]);
    }
    all.push(of_curl);
    for answers in all {
        assert_eq!(answers.len(), 3);
        for (answers, expected) in answers.iter().zip([200, 200, 401]) {
            assert!(!answers.is_empty());
            for (protocol, status, body) in answers {
                assert_eq!((protocol.as_str(), *status), ("HTTP/2", expected), "{body}");
                assert_eq!(body["access_token"].is_string(), expected == 200, "{body}");
                assert_eq!(body["code"] == "caller_unauthenticated", expected == 401, "{body}");
            }
        }
    }
    let accepted = "http_connections_accepted_total{listener=\"local\",protocol=\"http2\"}";
    assert_eq!(scene.number(accepted).await, 9, "a connection for each case of each client");
    assert_eq!(scene.last_record("token")["caller"], "by-spiffe");
}
