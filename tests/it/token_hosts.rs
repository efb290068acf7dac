//! Secrets for one token host are not sent to another before an operator confirms it.

use std::time::{Duration, Instant};

use entra_emulator::{App, Emulator, Endpoint, User};
use http::Method;
use serde_json::{Value, json};

use crate::attacks_api::sha256;
use crate::evidence::tamper;
use crate::http_client::{Answer, request};
use crate::world::{ALICE, CLIENT_ID, CLIENT_SECRET, Kept, Plan, Process, World, text, write_secret};

/// Another authority that would take everything, as somebody's who wants it does.
pub(crate) async fn another(world: &World) -> Emulator {
    let callback = format!("http://localhost:{}/callback/outlook", world.public_port);
    let app = App::new(CLIENT_ID).secret(CLIENT_SECRET).secret("another-secret").redirect_uri(&callback);
    let other = Emulator::builder().app(app).user(User::work(ALICE)).start().await.expect("it starts");
    other.sign_in_as(ALICE);
    other
}

pub(crate) fn host(authority: &Emulator) -> String {
    let url = authority.authority("common");
    url.trim_start_matches("http://").split('/').next().unwrap_or_default().to_owned()
}

fn edit(world: &World, folder: &str, from: &str, to: &str) {
    let path = world.folder.path().join(folder).join("tokenward.toml");
    let config = std::fs::read_to_string(&path).expect("the configuration");
    assert!(config.contains(from), "{config}");
    std::fs::write(path, config.replace(from, to)).expect("written");
}

async fn tokenward(world: &World, arguments: &[&str]) -> (Option<i32>, String) {
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_tokenward"));
    command.args(arguments).arg("--config").arg(world.folder.path().join("tokenward.toml"));
    let ended = tokio::task::spawn_blocking(move || command.output()).await.expect("run").expect("it ends");
    let said = [ended.stdout, ended.stderr].concat();
    (ended.status.code(), String::from_utf8_lossy(&said).into_owned())
}

/// Reports a token as refused, so that the grant has to be used.
async fn renew(world: &World, token: &str) -> Answer {
    let body = json!({ "rejected": sha256(token) });
    world.api(Method::POST, "/v1/apps/outlook/connections/alice/token", body).await
}

async fn renewed(world: &World, token: &str) -> String {
    let begun = Instant::now();
    loop {
        let answer = renew(world, token).await;
        if answer.status == 200 {
            return text(&answer.json(), "access_token").to_owned();
        }
        assert!(begun.elapsed() < Duration::from_secs(30), "{}\n{}", answer.text(), world.daemon.log());
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

async fn held_back(world: &World, token: &str, to: &str) {
    let answer = renew(world, token).await;
    let said = answer.json();
    assert_eq!(answer.status, 503, "{said}");
    assert_eq!(
        (&said["code"], &said["error"]),
        (&json!("app_rejected"), &json!("host_not_confirmed")),
        "{said}"
    );
    assert!(text(&said, "hint").contains("tokenward credentials confirm"), "{said}");
    assert_eq!(world.access_token("alice").await, token, "what is held is served");
    assert_eq!(world.show("alice").await["status"], "active");
    let explained =
        world.api(Method::GET, "/v1/apps/outlook/connections/alice/explain", Value::Null).await.text();
    let command = format!("tokenward credentials confirm outlook {to}");
    assert!(explained.contains(&command), "{explained}");
    assert!(world.daemon.log().contains(&command), "{}", world.daemon.log());
}

/// Another authority in the configuration: by a reload, and by a restart that has forgotten what it knew.
#[tokio::test]
async fn another_authority_is_sent_nothing_until_it_is_confirmed() {
    let mut world = Plan::default().start().await;
    world.connect("alice", ALICE).await;
    let token = world.access_token("alice").await;
    let other = another(&world).await;
    let (ours, theirs) = (world.entra.authority("common"), other.authority("common"));
    edit(&world, "", &ours, &theirs);
    let (code, said) = tokenward(&world, &["reload"]).await;
    assert_eq!(code, Some(0), "{said}");
    let command = format!("tokenward credentials confirm outlook {}", host(&other));
    assert!(said.contains(&command), "{said}");
    held_back(&world, &token, &host(&other)).await;
    world.stop_and_restart().await;
    held_back(&world, &token, &host(&other)).await;
    assert_eq!(other.ledger_count(Endpoint::Token, None), 0);

    for (host, problem) in [("login.example", "the app's token endpoint is on"), ("", "not")] {
        let (code, said) = tokenward(&world, &["credentials", "confirm", "outlook", host]).await;
        assert!(code != Some(0) && said.contains(problem), "{code:?} {said}");
    }
    assert_eq!(other.ledger_count(Endpoint::Token, None), 0);
    let (code, said) = tokenward(&world, &["credentials", "confirm", "outlook", &host(&other)]).await;
    assert_eq!(code, Some(0), "{said}");
    // It is another authority: it does not know the grant, and says so.
    let begun = Instant::now();
    while other.ledger_count(Endpoint::Token, Some("refresh_token")) == 0 {
        assert!(begun.elapsed() < Duration::from_secs(20), "{}", world.daemon.log());
        renew(&world, &token).await;
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    // The way back needs no word.
    edit(&world, "", &theirs, &ours);
    let (code, said) = tokenward(&world, &["reload"]).await;
    assert!(code == Some(0) && !said.contains("confirm"), "{said}");
}

/// What an operator writes anew is for the host of then; what it was before, and what users granted, is not.
#[tokio::test]
async fn a_secret_written_anew_is_for_the_new_host_and_grants_are_not() {
    let plan = Plan::default().app_lines("home_tenant = \"contoso.example\"");
    let world = plan.start().await;
    world.connect("alice", ALICE).await;
    let token = world.access_token("alice").await;
    let other = another(&world).await;
    edit(&world, "", &world.entra.authority("common"), &other.authority("common"));
    write_secret(&world.folder.path().join("client-secret"), "another-secret");
    let (code, said) = tokenward(&world, &["reload"]).await;
    assert!(code == Some(0) && !said.contains("confirm"), "{said}");
    let begun = Instant::now();
    while other.ledger_count(Endpoint::Token, Some("client_credentials")) == 0 {
        assert!(begun.elapsed() < Duration::from_secs(20), "{}", world.daemon.log());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    held_back(&world, &token, &host(&other)).await;
    let ledger = other.ledger();
    let sent = ledger.iter().filter(|entry| entry.endpoint == Endpoint::Token);
    for entry in sent {
        assert_eq!(entry.grant_type.as_deref(), Some("client_credentials"), "{entry:?}");
        assert_eq!(entry.status, Some(200), "the secret from before was shown: {entry:?}");
    }
}

/// What one replica knows the others know, and so does one that starts with another configuration.
#[tokio::test]
async fn a_replica_with_another_authority_sends_nothing_there_either() {
    let world = Plan::default().kept(Kept::Redis).start().await;
    world.connect("alice", ALICE).await;
    let token = renewed(&world, &world.access_token("alice").await).await;
    let other = another(&world).await;
    world.prepare_replica("other");
    edit(&world, "other", &world.entra.authority("common"), &other.authority("common"));
    // (What the first one has just learnt is stored within a second.)
    let stored = || world.redis.as_ref().expect("Redis").cli(&["keys", "*token-hosts*"]);
    let begun = Instant::now();
    while !stored().contains("token-hosts") {
        assert!(begun.elapsed() < Duration::from_secs(20), "{}", world.daemon.log());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let replica = Process::start(&world.folder.path().join("other")).await;
    let body = json!({ "rejected": sha256(&token) }).to_string();
    let url = format!("{}/v1/apps/outlook/connections/alice/token", replica.local);
    let bearer = format!("Bearer {}", world.key);
    let headers = [("authorization", bearer.as_str()), ("content-type", "application/json")];
    let answer = request(Method::POST, &url, &headers, body).await.expect("an answer");
    assert_eq!(answer.json()["error"], "host_not_confirmed", "{}\n{}", answer.text(), replica.log());
    assert_eq!(other.ledger_count(Endpoint::Token, None), 0);
    renewed(&world, &token).await;
}

/// Whoever writes to the store can spoil what is remembered: nothing is sent then, and an operator's word
/// begins it anew.
#[tokio::test]
async fn a_record_that_does_not_open_is_begun_anew_by_a_confirmation() {
    let mut world = Plan::default().kept(Kept::Redis).start().await;
    world.connect("alice", ALICE).await;
    let token = renewed(&world, &world.access_token("alice").await).await;
    let record = "tokenward:pending:{token-hosts:all}";
    world
        .until("it is stored", async || world.redis.as_ref().expect("Redis").cli(&["EXISTS", record]) == "1")
        .await;
    assert_eq!(world.daemon.terminate(), Some(0), "{}", world.daemon.log());
    tamper(&world, record, 0);
    world.daemon = Process::start(world.folder.path()).await;
    world.daemon.until_logged("a stored record cannot be used").await;
    let refused = renew(&world, &token).await;
    assert_eq!(refused.status, 503, "{}", refused.text());
    let metrics = world.metrics().await;
    assert!(!metrics.contains("tokenward_record_damage_total{kind=\"token-hosts\"} 0"), "{metrics}");

    let (code, said) = tokenward(&world, &["credentials", "confirm", "outlook", &host(&world.entra)]).await;
    assert_eq!(code, Some(0), "{said}\n{}", world.daemon.log());
    let token = renewed(&world, &token).await;
    // It is whole again: for one that starts, too.
    world.stop_and_restart().await;
    renewed(&world, &token).await;
    assert!(!world.daemon.log().contains("a stored record cannot be used"), "{}", world.daemon.log());
}
