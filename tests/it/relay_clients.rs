//! The relay with the clients that it is for, unmodified: the Graph SDKs for Python and JavaScript.
//! (`tests/interop/relay` has the scripts.)

use std::process::Command;

use entra_emulator::{ChallengeStyle, Endpoint};
use serde_json::{Value, json};

use crate::interop::node_folder;
use crate::launcher::{command, installed, repository};
use crate::relay::plan;
use crate::world::{ALICE, PATIENCE, Plan, World};

/// What the SDKs need for what they do here, and nothing for contacts.
const RULES: &str = r#"["GET graph:/v1.0/me/messages*", "POST graph:/v1.0/me/sendMail", "POST graph:/v1.0/$batch",
    "POST graph:/v1.0/me/messages/*", "PUT graph:/v1.0/uploads/*"]"#;

async fn run(world: &World, mut program: Command, base: &str, steps: &[&str]) -> Vec<Value> {
    let base = format!("{}/v1/apps/outlook/connections/user-1/relay/graph{base}", world.daemon.local);
    program.arg(base).args(steps).env("RELAY_KEY", &world.reader_key);
    for proxy in ["HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"] {
        program.env_remove(proxy);
    }
    let run = tokio::task::spawn_blocking(move || program.output());
    let output = tokio::time::timeout(PATIENCE * 2, run).await.expect("it ends").expect("joined");
    let output = output.expect("a program is missing: run `make tools`");
    let (said, complaint) =
        (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    let outcomes: Vec<Value> = said.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    assert_eq!(outcomes.len(), steps.len(), "{said}\n{complaint}");
    outcomes
}

#[tokio::test]
async fn the_graph_sdks_work_through_the_relay_and_nothing_of_theirs_leaves_it() {
    let plan = Plan {
        scopes: r#"["offline_access", "openid", "profile", "Mail.ReadWrite", "Mail.Send"]"#,
        ..plan("{graph}", RULES)
    };
    let world = plan.start().await;
    world.connect("user-1", ALICE).await;
    world.entra.set_messages(ALICE, 1000);
    let python = || {
        let mut python = command(installed("venv/bin/python", "tools"));
        python.arg(repository().join("tests/interop/relay/clients.py"));
        python
    };
    let node = || {
        let mut node = command("node");
        node.arg(repository().join("tests/interop/relay/clients.mjs")).current_dir(node_folder());
        node
    };
    let steps = ["pages", "mail", "upload", "batch"];
    for (at, (program, base)) in [(python(), "/v1.0"), (node(), "")].into_iter().enumerate() {
        let outcomes = run(&world, program, base, &steps).await;
        assert_eq!(
            outcomes,
            [
                json!({ "step": "pages", "messages": 1000, "last": "Message 1000" }),
                json!({ "step": "mail", "sent": true }),
                json!({ "step": "upload", "inside": true }),
                json!({ "step": "batch", "statuses": [200, 403] }),
            ],
            "{}",
            world.daemon.log()
        );
        assert_eq!(world.entra.sent(ALICE), at + 1);
    }
    // A claims challenge is the relay's to answer, a throttle the SDK's.
    for (program, base) in [(python(), "/v1.0"), (node(), "")] {
        world.entra.challenge_graph(Some(ALICE), 1, ChallengeStyle::Camel);
        world.entra.throttle_graph(Some(ALICE), 1, 1);
        let outcomes = run(&world, program, base, &["first"]).await;
        assert_eq!(outcomes, [json!({ "step": "first", "messages": 10 })], "{}", world.daemon.log());
    }
    // Nothing of theirs went around the relay: whatever came to Graph had a token, and they have none.
    let graph = world.entra.ledger().into_iter().filter(|entry| entry.endpoint == Endpoint::Graph);
    let tokens: Vec<bool> = graph.map(|entry| entry.access_presented.is_some()).collect();
    assert!(tokens.len() > 60 && tokens.iter().all(|has| *has), "{tokens:?}");
}
