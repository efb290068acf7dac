//! The API's documents against schemathesis, which nobody here wrote: `make schemas`.

use serde_json::json;

use crate::launcher::{command, installed, repository};
use crate::world::{ALICE, Plan};

/// Examples for each operation; `SCHEMA_EXAMPLES` changes it.
const EXAMPLES: &str = "200";

#[tokio::test]
#[ignore = "`make schemas`: minutes, and a package of its own"]
#[expect(
    clippy::disallowed_methods,
    reason = "the number of examples is an argument, and a test has no other"
)]
async fn the_local_document_holds_for_schemathesis() {
    let world = Plan::default().start().await;
    world.connect("team-b/alice", ALICE).await;
    world.start_session(json!({ "app": "outlook", "connection": "team-b/bob" })).await;
    let examples = std::env::var("SCHEMA_EXAMPLES").unwrap_or_else(|_| EXAMPLES.into());
    let mut run = command(installed("schemas/bin/schemathesis", "schemas"));
    run.arg("run").arg(format!("{}/openapi.json", world.daemon.local));
    run.args(["--header", &format!("Authorization: Bearer {}", world.key)]);
    run.args(["--header", &format!("X-IDENTITY-HEADER: {}", world.key)]);
    run.args(["--checks", "all", "--max-examples", &examples, "--seed", "1", "--no-color"]);
    // A long poll waits for a minute.
    run.args([
        "--generation-database",
        "none",
        "--suppress-health-check",
        "all",
        "--max-response-time",
        "90",
    ]);
    let hooks = repository().join("tests/interop/schemas");
    run.env("SCHEMATHESIS_HOOKS", "hooks").env("PYTHONPATH", hooks).current_dir(world.folder.path());
    let ended =
        tokio::task::spawn_blocking(move || run.output()).await.expect("it runs").expect("it is installed");
    let said = String::from_utf8_lossy(&ended.stdout);
    assert!(ended.status.success(), "{said}\n{}", String::from_utf8_lossy(&ended.stderr));
}
