//! The managed-identity door with the clients that it is for, unmodified: Azure's and MSAL's libraries for
//! Python, Node and Rust, and the Graph SDKs over them. (`tests/interop/managed-identity` has the scripts.)

use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use entra_emulator::RevokeKind;
use http::Method;
use serde_json::{Value, json};
use tokenward::callers::key_file;
use tokenward::domain::id::CallerName;
use tokenward::domain::time::Clock;
use tokenward::system::{SystemClock, SystemRandom};

use crate::attacks_rights::pause;
use crate::interop::node_folder;
use crate::launcher::{command, installed, repository};
use crate::outbound::connect_over_tls;
use crate::world::{ALICE, BOB, PATIENCE, Plan, World};

/// What Python's clients are called in a job, and Node's.
const PYTHON: [&str; 2] = ["azure-identity", "msal"];
const NODE: [&str; 2] = ["@azure/identity", "@azure/msal-node"];
/// The subjects of everybody's messages in the emulator's Graph.
const SUBJECTS: [&str; 3] = ["Welcome to the mailbox", "Minutes of Tuesday's meeting", "Your invoice"];

/// A process with clients in it: its environment is what an operator sets.
struct Clients<'a> {
    world: &'a World,
    /// The path that `IDENTITY_ENDPOINT` ends with.
    endpoint: &'a str,
    key: &'a str,
}

impl Clients<'_> {
    /// The shared endpoint, as the caller that may do everything.
    fn shared(world: &World) -> Clients<'_> {
        Clients { world, endpoint: "/msi/token", key: &world.key }
    }

    /// Runs Python's clients, one job after the other.
    async fn python(&self, jobs: Vec<Value>) -> Vec<Value> {
        let mut python = command(installed("venv/bin/python", "tools"));
        python.arg(script("clients.py"));
        self.run(python, jobs).await
    }

    /// Runs Node's clients, one job after the other.
    async fn node(&self, jobs: Vec<Value>) -> Vec<Value> {
        let mut node = command("node");
        node.arg(script("clients.mjs")).current_dir(node_folder());
        self.run(node, jobs).await
    }

    async fn run(&self, mut command: Command, jobs: Vec<Value>) -> Vec<Value> {
        let asked = jobs.len();
        let ca = self.world.folder.path().join("ca.pem");
        command
            .arg(Value::from(jobs).to_string())
            .env("IDENTITY_ENDPOINT", format!("{}{}", self.world.daemon.local, self.endpoint))
            .env("IDENTITY_HEADER", self.key)
            .env("GRAPH_URL", self.world.entra.graph_url())
            .env("SSL_CERT_FILE", &ca)
            .env("NODE_EXTRA_CA_CERTS", &ca);
        for other in ["IDENTITY_SERVER_THUMBPRINT", "MSI_ENDPOINT", "MSI_SECRET"] {
            command.env_remove(other);
        }
        let run = tokio::task::spawn_blocking(move || command.output());
        let output = tokio::time::timeout(PATIENCE, run).await.expect("it ends").expect("joined");
        let output = output.expect("a program is missing: run `make tools`");
        let (said, complaint) =
            (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        let outcomes: Vec<Value> = said.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
        assert_eq!(outcomes.len(), asked, "{said}\n{complaint}");
        outcomes
    }
}

fn script(name: &str) -> PathBuf {
    repository().join("tests/interop/managed-identity").join(name)
}

/// A job for a client, on behalf of a connection of the app `outlook`.
fn job(client: &str, connection: &str) -> Value {
    json!({ "with": client, "client_id": format!("outlook:{connection}") })
}

#[tokio::test]
async fn every_client_gets_each_users_token_and_the_graph_sdks_list_messages() {
    let plan = Plan { https: true, ..Plan::default() }.app_lines("authority_ca = \"ca.pem\"");
    let world = plan.start().await;
    connect_over_tls(&world, "team-a/alice", ALICE).await;
    connect_over_tls(&world, "bob", BOB).await;
    let (alice, bob) = (world.access_token("team-a/alice").await, world.access_token("bob").await);
    assert_ne!(alice, bob);

    // One endpoint for all users: `client_id` says for whom.
    let both = |client: &'static str| [job(client, "team-a/alice"), job(client, "bob")];
    let clients = Clients::shared(&world);
    let mut python: Vec<Value> = PYTHON.into_iter().flat_map(both).collect();
    python.push(job("msgraph-sdk", "team-a/alice"));
    let mut node: Vec<Value> = NODE.into_iter().flat_map(both).collect();
    node.extend(["microsoft-graph-client", "msgraph-sdk"].map(|client| job(client, "team-a/alice")));
    let (python, node) = tokio::join!(clients.python(python), clients.node(node));
    for outcomes in [&python, &node] {
        for pair in outcomes[..4].chunks(2) {
            assert_eq!((&pair[0]["token"], &pair[1]["token"]), (&json!(alice), &json!(bob)), "{pair:?}");
        }
        for outcome in &outcomes[4..] {
            assert_eq!(outcome["subjects"], json!(SUBJECTS), "{outcome}");
        }
    }

    // The endpoint of one user: the client names nobody.
    let one = Clients { endpoint: "/v1/apps/outlook/connections/team-a%2Falice/msi/token", ..clients };
    let nobody = |client: &str| json!({ "with": client });
    let (python, node) =
        tokio::join!(one.python(PYTHON.map(nobody).to_vec()), one.node(NODE.map(nobody).to_vec()));
    for outcome in python.iter().chain(&node) {
        assert_eq!(outcome["token"], json!(alice), "{outcome}");
    }
    let (refreshes, served) = (world.token_calls("refresh_token"), world.metrics().await);
    assert_eq!(refreshes, 0, "all of it is what the sign-ins brought");
    assert!(served.contains("dialect=\"msi\""), "{served}");
}

// === What a client shows its user ===

const GUIDE: &str = "docs/managed-identity.md";

/// The situations of the guide: its heading, and the connection that is in it.
const SITUATIONS: [(&str, &str); 4] = [
    ("The user must sign in again", "alice"),
    ("An administrator must act", "bob"),
    ("The connection is unknown", "nobody"),
    ("The connection is paused", "carol"),
];

#[tokio::test]
async fn what_each_client_shows_its_user_is_what_the_guide_says() {
    let (key, keys) = caller_key("limited");
    let limited = "[callers.limited]\nauthenticate = [{ api_keys = \"limited.keys\" }]\nrate_limit = 1\n\
                   [[callers.limited.allow]]\napp = \"outlook\"\nconnections = [\"carol\"]\n\
                   scopes = [\"Mail.Read\"]\n";
    let world = Plan::default().sections(limited).file("limited.keys", &keys).start().await;
    for (connection, user) in [("alice", ALICE), ("bob", BOB), ("carol", ALICE)] {
        world.connect(connection, user).await;
    }
    world.outlive_tokens();
    world.entra.revoke_user(ALICE, RevokeKind::GrantRevoked).expect("known");
    world.entra.revoke_user(BOB, RevokeKind::ConditionalAccess).expect("known");
    assert_eq!(pause(&world, "carol", true).await.status, 200);
    for connection in ["alice", "bob"] {
        world.until("a verdict", async || world.token(connection).await.status == 409).await;
    }

    let clients = Clients::shared(&world);
    let of = |client: &'static str| SITUATIONS.map(|(_, connection)| job(client, connection));
    let python: Vec<Value> = PYTHON.into_iter().flat_map(of).collect();
    let node: Vec<Value> = NODE.into_iter().flat_map(of).collect();
    let wrong_key = Clients { key: "twk_wrong", ..clients };
    let limits = Clients { key: &key, ..clients };
    let one = |client: &str| job(client, "carol");
    let (python, node, wrong_python, wrong_node, (limited_python, limited_node)) = tokio::join!(
        clients.python(python),
        clients.node(node),
        wrong_key.python(PYTHON.map(one).to_vec()),
        wrong_key.node(NODE.map(one).to_vec()),
        over_the_limit(&limits, PYTHON.map(one).to_vec(), NODE.map(one).to_vec()),
    );

    let mut said = String::new();
    let mut section = |heading: &str, outcomes: [&Value; 4]| {
        said += &format!("\n### {heading}\n");
        for (client, outcome) in PYTHON.iter().chain(&NODE).zip(outcomes) {
            said += &format!("\n`{client}`:\n\n```text\n{}\n```\n", shown(outcome));
        }
    };
    for (at, (heading, _)) in SITUATIONS.iter().enumerate() {
        section(heading, [&python[at], &python[at + 4], &node[at], &node[at + 4]]);
    }
    section(
        "The caller is over its rate",
        [&limited_python[0], &limited_python[1], &limited_node[0], &limited_node[1]],
    );
    section("The key is wrong", [&wrong_python[0], &wrong_python[1], &wrong_node[0], &wrong_node[1]]);

    let guide = std::fs::read_to_string(repository().join(GUIDE)).expect("the guide");
    let (before, rest) = guide.split_once("<!-- What follows is written by a test. -->\n").expect("a mark");
    let (_, after) = rest.split_once("\n<!-- End. -->").expect("a mark");
    let written =
        format!("{before}<!-- What follows is written by a test. -->\n{said}\n<!-- End. -->{after}");
    if std::env::var_os("UPDATE_GUIDE").is_some() {
        std::fs::write(repository().join(GUIDE), &written).expect("written");
    }
    assert!(guide == written, "UPDATE_GUIDE=1 writes the guide anew; the clients say:\n{said}");
}

/// What a client said, with the request's id left out.
fn shown(outcome: &Value) -> String {
    let error = outcome["error"].as_str().unwrap_or_else(|| panic!("no error: {outcome}"));
    let mut words = error.split(' ').map(|word| match word {
        id if id.len() == 32 && id.bytes().all(|byte| byte.is_ascii_hexdigit()) => "(the request's id)",
        word => word,
    });
    let first = words.next().unwrap_or_default().to_owned();
    words.fold(first, |text, word| text + " " + word)
}

/// Runs clients of a caller whose bucket others keep empty. One that was served by chance runs again.
async fn over_the_limit(
    clients: &Clients<'_>,
    python: Vec<Value>,
    node: Vec<Value>,
) -> (Vec<Value>, Vec<Value>) {
    let is_over = Arc::new(AtomicBool::new(false));
    let (url, key) =
        (format!("{}/v1/nowhere", clients.world.daemon.local), format!("Bearer {}", clients.key));
    let stop = is_over.clone();
    let others = tokio::spawn(async move {
        while !stop.load(Ordering::Acquire) {
            let headers = [("authorization", key.as_str())];
            let _ = crate::http_client::request(Method::GET, &url, &headers, "").await;
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    });
    let is_refused = |outcomes: &[Value]| {
        outcomes.iter().all(|outcome| outcome["error"].as_str().is_some_and(|text| text.contains("rate")))
    };
    let begun = std::time::Instant::now();
    let outcomes = loop {
        assert!(begun.elapsed() < PATIENCE, "it is not refused");
        let (python, node) = tokio::join!(clients.python(python.clone()), clients.node(node.clone()));
        if is_refused(&python) && is_refused(&node) {
            break (python, node);
        }
    };
    is_over.store(true, Ordering::Release);
    others.await.expect("it ends");
    outcomes
}

/// A new API key of a caller, and the file of keys that has it.
fn caller_key(name: &str) -> (String, String) {
    let folder = tempfile::tempdir().expect("a temp dir");
    let file = folder.path().join("keys");
    let caller = CallerName::parse(name).expect("a name");
    let day = Duration::from_secs(86_400);
    let (key, _) =
        key_file::add(&file, &caller, &SystemRandom::new(), SystemClock::new().now(), day).expect("a key");
    (key.expose().to_owned(), std::fs::read_to_string(&file).expect("written"))
}

// === Rust ===

/// `make azure-identity` builds the example, apart from the daemon and its tests.
#[tokio::test]
#[ignore = "make azure-identity"]
async fn the_sdk_for_rust_gets_a_users_token() {
    let world = Plan::default().start().await;
    world.connect("alice", ALICE).await;
    let run = async |connection: &str| {
        let mut command =
            command(installed("../azure-identity/debug/azure-identity-example", "azure-identity"));
        command
            .arg(format!("outlook:{connection}"))
            .env("IDENTITY_ENDPOINT", format!("{}/msi/token", world.daemon.local))
            .env("IDENTITY_HEADER", &world.key);
        let run = tokio::task::spawn_blocking(move || command.output());
        let output = run.await.expect("joined").expect("it runs");
        (
            output.status.success(),
            String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned(),
        )
    };
    let (got, said) = run("alice").await;
    assert!(got && said.starts_with("a token until "), "{said}");
    let (got, said) = run("nobody").await;
    assert!(!got && said.contains("connect the account first"), "{said}");
}
