//! The API's documents against schemathesis, which nobody here wrote: `make schemas`.

use std::time::Duration;

use http::Method;
use serde_json::{Value, json};
use tokenward::callers::key_file;
use tokenward::domain::id::CallerName;
use tokenward::domain::time::Clock;
use tokenward::system::{SystemClock, SystemRandom};

use crate::attacks_rights::operate;
use crate::launcher::{command, installed, repository};
use crate::world::{ALICE, BOB, CLIENT_ID, Plan, SYNC, World, free_port, text, write_secret};

/// Examples for each operation; `SCHEMA_EXAMPLES` changes it.
const EXAMPLES: &str = "200";

/// Where the app proves its credentials, and where it gets tokens of its own.
const HOME: &str = "home_tenant = \"22222222-0000-4000-8000-00000000000b\"";

/// A second client secret.
const SPARE: &str = "the-second-secret";

/// Runs every check over the document at `base`. `values` names what is there, by path.
#[expect(
    clippy::disallowed_methods,
    reason = "the number of examples is an argument, and a test has no other"
)]
async fn assert_holds(world: &World, base: &str, key: &str, values: &Value) {
    let examples = std::env::var("SCHEMA_EXAMPLES").unwrap_or_else(|_| EXAMPLES.into());
    // Each door takes its own credential and no other's; a client of the token endpoint has it in the form.
    // What a known client asks for and does not get is 400 there (RFC 6749 section 5.2), whatever it is.
    let config = format!(
        "[[operations]]\ninclude-path-regex = \"msi/token$\"\nheaders = {{ X-IDENTITY-HEADER = \"{key}\" }}\n\
         [[operations]]\ninclude-path-regex = \"^/(?!oauth2/)(?!.*msi/token$)\"\n\
         headers = {{ Authorization = \"Bearer {key}\" }}\n\
         [[operations]]\ninclude-path = \"/oauth2/token\"\n\
         checks.positive_data_acceptance.expected-statuses = [200, 400, 401, 403, 404, 409, 429, \"5xx\"]\n"
    );
    write_secret(&world.folder.path().join("schemathesis.toml"), &config);
    let mut run = command(installed("schemas/bin/schemathesis", "schemas"));
    run.arg("run").arg(format!("{base}/openapi.json")).args(["--url", base]);
    run.args(["--checks", "all", "--max-examples", &examples, "--seed", "1", "--no-color"]);
    // A stream does not end.
    run.args(["--exclude-operation-id", "watchToken", "--exclude-operation-id", "events"]);
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
    run.env("TOKENWARD_VALUES", values.to_string());
    let ended =
        tokio::task::spawn_blocking(move || run.output()).await.expect("it runs").expect("it is installed");
    let said = String::from_utf8_lossy(&ended.stdout);
    assert!(ended.status.success(), "{said}\n{}", String::from_utf8_lossy(&ended.stderr));
    eprintln!("{}", said.split_once("SUMMARY").map_or(&*said, |(_, summary)| summary));
}

#[tokio::test]
#[ignore = "`make schemas`: minutes, and a package of its own"]
async fn the_local_document_holds_for_schemathesis() {
    let rule = format!(
        "[[callers.{SYNC}.allow]]\napp = \"outlook\"\napp_only = [\"*\"]\nbulk = true\nresources = \
         [\"https://graph.microsoft.com\", \"api://reports\"]\n"
    );
    let world = Plan::default().app_lines(HOME).sections(&rule).start().await;
    world.connect("team-b/alice", ALICE).await;
    world.connect("team-b/gone", ALICE).await;
    let session = world.start_session(json!({ "app": "outlook", "connection": "team-b/bob" })).await;
    let tenant = world.show("team-b/alice").await["account"]["tid"].clone();
    let values = json!({
        "": { "app": "outlook", "connection": "team-b/alice", "mount": "outlook" },
        "/msi/token": { "client_id": "outlook:team-b/alice", "resource": "https://graph.microsoft.com" },
        "/v1/apps/{app}/connections/{connection}/msi/token": { "resource": "Mail.Read" },
        "/v1/apps/{app}/connections/{connection}/token": { "scope": "Mail.Read" },
        "/v1/apps/{app}/token": { "tenant": tenant, "resource": "api://reports" },
        "/v1/connect-sessions": { "app": "outlook" },
        "/v1/connect-sessions/{id}": { "id": text(&session, "id") },
        "/v1/connect-sessions/{id}/confirm": { "id": text(&session, "id") },
        "/v1/admin-consent-sessions": { "app": "outlook" },
        "/oauth2/token": {
            "client_id": SYNC, "client_secret": world.key, "subject_token": "outlook:team-b/alice",
            "subject_token_type": "urn:tokenward:params:oauth:token-type:connection", "scope": "Mail.Read",
            "audience": "outlook", "resource": "https://graph.microsoft.com",
        },
    });
    assert_holds(&world, &world.daemon.local, &world.key, &values).await;
}

#[tokio::test]
#[ignore = "`make schemas`: minutes, and a package of its own"]
async fn the_admin_document_holds_for_schemathesis() {
    let folder = tempfile::tempdir().expect("a folder");
    let keys = folder.path().join("operator.keys");
    let (operator, now) = (CallerName::parse("operator").expect("a name"), SystemClock::new().now());
    let day = Duration::from_secs(86_400);
    let (key, _) = key_file::add(&keys, &operator, &SystemRandom::new(), now, day).expect("a key");
    let port = free_port();
    let sections = format!(
        "[[listen.admin]]\naddress = \"127.0.0.1:{port}\"\n\
         [admins.operator]\nauthenticate = [{{ api_keys = \"operator.keys\" }}]\n"
    );
    let hashes = std::fs::read_to_string(&keys).expect("the key file");
    let credentials = [("first", "client-secret"), ("spare", "spare-secret")].map(|(id, file)| {
        format!("[[apps.outlook.credentials]]\nid = \"{id}\"\nfile = \"{file}\"\nkind = \"secret\"\n")
    });
    let plan = Plan::default()
        .app_lines(HOME)
        .credentials(&credentials.concat())
        .sections(&sections)
        .file("spare-secret", SPARE);
    let world = plan.file("operator.keys", &hashes).start().await;
    world.entra.add_secret(CLIENT_ID, SPARE, Duration::ZERO, None).expect("room for one more");
    world.connect("team-b/alice", ALICE).await;
    world.connect("team-b/bob", BOB).await;
    world.connect("team-b/gone", ALICE).await;
    let bobs = world.show("team-b/bob").await["account"]["tid"].clone();
    for id in ["first", "spare"] {
        let path = format!("/admin/v1/apps/outlook/credentials/{id}/verify");
        let verified = operate(&world, Method::POST, &path, Value::Null).await;
        assert_eq!(verified.json()["credentials"][0]["outcome"], "accepted", "{}", verified.text());
    }
    let authority_host = world.entra.authority("common").split('/').nth(2).expect("a host").to_owned();
    let values = json!({
        "": {
            "app": "outlook", "connection": "team-b/alice", "caller": SYNC,
        },
        "revoked": bobs,
        "always": {
            "/admin/v1/apps/{app}/credentials/{credential}/verify": { "credential": "first" },
            "/admin/v1/apps/{app}/credentials/{credential}/promote": { "credential": "first" },
            "/admin/v1/apps/{app}/credentials/{credential}/retire": { "credential": "spare" },
            "/admin/v1/apps/{app}/token-host/{host}/confirm": { "host": authority_host },
        },
    });
    assert_holds(&world, &format!("http://127.0.0.1:{port}"), key.expose(), &values).await;
}
