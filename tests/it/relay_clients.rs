//! The relay with the clients that it is for, unmodified: the Graph SDKs for Python and JavaScript.
//! (`tests/interop/relay` has the scripts.)

use std::process::Command;
use std::time::Duration;

use entra_emulator::{ChallengeStyle, Endpoint};
use serde_json::{Value, json};

use crate::interop::node_folder;
use crate::launcher::{command, installed, repository};
use crate::pki;
use crate::relay::plan;
use crate::world::{ALICE, PATIENCE, Plan, World, free_port};

/// What the SDKs need for what they do here, and nothing for contacts.
const RULES: &str = r#"["GET graph:/v1.0/me/messages*", "POST graph:/v1.0/me/sendMail", "POST graph:/v1.0/$batch",
    "POST graph:/v1.0/me/messages/*", "PUT graph:/v1.0/uploads/*"]"#;

/// A program with an SDK, and the URL of the relay for it.
struct Client {
    program: fn() -> Command,
    base: String,
}

/// Runs a client's steps, and returns what each said.
async fn run(world: &World, client: &Client, steps: &[&str]) -> Vec<Value> {
    let mut program = (client.program)();
    program.arg(&client.base).args(steps).env("RELAY_KEY", &world.reader_key);
    program.env("NODE_EXTRA_CA_CERTS", world.folder.path().join("listener-ca.pem"));
    let run = tokio::task::spawn_blocking(move || program.output());
    let output = tokio::time::timeout(PATIENCE * 2, run).await.expect("it ends").expect("joined");
    let output = output.expect("a program is missing: run `make tools`");
    let (said, complaint) =
        (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    let outcomes: Vec<Value> = said.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    assert_eq!(outcomes.len(), steps.len(), "{said}\n{complaint}");
    outcomes
}

fn python() -> Command {
    let mut python = command(installed("venv/bin/python", "tools"));
    python.arg(repository().join("tests/interop/relay/clients.py"));
    python
}

fn node() -> Command {
    let mut node = command("node");
    node.arg(repository().join("tests/interop/relay/clients.mjs")).current_dir(node_folder());
    node
}

#[tokio::test]
async fn the_graph_sdks_work_through_the_relay_and_nothing_of_theirs_leaves_it() {
    // JavaScript's takes absolute links for what they are only if they are https.
    let authority = pki::Authority::root("listeners", 48);
    let (certificate, port) = (pki::server(&authority), free_port());
    let listener = format!(
        "[[listen.local]]\naddress = \"127.0.0.1:{port}\"\ntls = {{ certificate = \"local.pem\", key = \
         \"local.key\" }}\n"
    );
    let plan = Plan {
        scopes: r#"["offline_access", "openid", "profile", "Mail.ReadWrite", "Mail.Send"]"#,
        ..plan("{graph}", RULES)
    };
    let plan = plan
        .sections(&listener)
        .file("local.pem", &certificate.chain)
        .file("local.key", &certificate.key)
        .file("listener-ca.pem", &authority.pem());
    let world = plan.start().await;
    world.connect("user-1", ALICE).await;
    world.entra.set_messages(ALICE, 1000);
    let here =
        |origin: &str, rest: &str| format!("{origin}/v1/apps/outlook/connections/user-1/relay/graph{rest}");
    let clients = [
        Client { program: python, base: here(&world.daemon.local, "/v1.0") },
        Client { program: node, base: here(&format!("https://localhost:{port}"), "") },
    ];
    for (at, client) in clients.iter().enumerate() {
        let outcomes = run(&world, client, &["pages", "mail", "upload", "batch"]).await;
        let uploads = world.entra.uploads(ALICE);
        let (bytes, sha256) = uploads.last().cloned().unwrap_or_default();
        assert_eq!(
            outcomes,
            [
                json!({ "step": "pages", "messages": 1000, "last": "Message 1000" }),
                json!({ "step": "mail", "sent": true }),
                json!({ "step": "upload", "inside": true, "bytes": 64 * 1024 * 1024, "sha256": sha256 }),
                json!({ "step": "batch", "statuses": [200, 403] }),
            ],
            "{}",
            world.daemon.log()
        );
        assert_eq!((bytes, uploads.len(), world.entra.sent(ALICE)), (64 * 1024 * 1024, at + 1, at + 1));
    }
    // A claims challenge is the relay's to answer, a throttle the SDK's.
    for client in &clients {
        let renewals = world.token_calls("refresh_token");
        world.entra.challenge_graph(Some(ALICE), 1, ChallengeStyle::Camel);
        world.entra.throttle_graph(Some(ALICE), 1, 1);
        let outcomes = run(&world, client, &["first"]).await;
        assert_eq!(outcomes, [json!({ "step": "first", "messages": 10 })], "{}", world.daemon.log());
        assert_eq!(world.token_calls("refresh_token"), renewals + 1);
        world.pass(Duration::from_secs(120));
    }
    // Nothing of theirs went around the relay: whatever came to Graph had a token, and they have none.
    let graph = world.entra.ledger().into_iter().filter(|entry| entry.endpoint == Endpoint::Graph);
    let tokens: Vec<bool> = graph.map(|entry| entry.access_presented.is_some()).collect();
    assert!(tokens.len() > 60 && tokens.iter().all(|has| *has), "{tokens:?}");
}
