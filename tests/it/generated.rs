//! Clients that two generators make of the served documents compile and fetch a token.

use std::path::Path;
use std::process::Command;

use http::Method;
use serde_json::{Value, json};

use crate::attacks_rights::operate;
use crate::launcher::{command, installed, repository};
use crate::world::{ALICE, Plan, World};

/// A world with a connection, and both documents as they are served, in its folder.
async fn world() -> World {
    let world = Plan::default().start().await;
    world.connect("team-a/user-7", ALICE).await;
    let local = world.api(Method::GET, "/openapi.json", Value::Null).await;
    let admin = operate(&world, Method::GET, "/openapi.json", Value::Null).await;
    for (name, document) in [("local", local), ("admin", admin)] {
        let path = world.folder.path().join(name).with_extension("json");
        std::fs::write(path, document.body).expect("write");
    }
    world
}

/// Runs a command to its end and returns what it printed.
async fn run(mut command: Command) -> String {
    let ended = tokio::task::spawn_blocking(move || command.output()).await.expect("it ran");
    let ended = ended.expect("it is installed");
    let (said, complained) = (String::from_utf8_lossy(&ended.stdout), String::from_utf8_lossy(&ended.stderr));
    assert!(ended.status.success(), "{said}\n{complained}");
    said.into_owned()
}

/// Runs a client, which must get the token that is held.
async fn assert_gets_a_token(world: &World, mut client: Command) {
    client.env("TOKENWARD_URL", &world.daemon.local).env("TOKENWARD_KEY", &world.key);
    let said: Value = serde_json::from_str(&run(client).await).expect("JSON");
    let token = world.access_token("team-a/user-7").await;
    assert_eq!(said, json!({ "token": token, "account": ALICE, "refused": "connection_not_found" }));
}

#[tokio::test]
async fn a_client_made_by_openapi_python_client_gets_a_token() {
    let world = world().await;
    let folder = world.folder.path();
    // It would format what it made by a tool that is none of ours.
    std::fs::write(folder.join("settings.yml"), "package_name_override: tokenward_client\npost_hooks: []\n")
        .expect("write");
    for name in ["admin", "local"] {
        let mut generate = command(installed("venv/bin/python", "tools"));
        generate.args(["-m", "openapi_python_client", "generate", "--meta", "none", "--fail-on-warning"]);
        generate.arg("--config").arg(folder.join("settings.yml"));
        generate.arg("--path").arg(folder.join(name).with_extension("json"));
        generate.arg("--output-path").arg(folder.join(name).join("tokenward_client"));
        std::fs::create_dir(folder.join(name)).expect("a folder");
        run(generate).await;
        let mut compile = command(installed("venv/bin/python", "tools"));
        compile.args(["-m", "compileall", "-q"]).arg(folder.join(name));
        run(compile).await;
    }
    let mut client = command(installed("venv/bin/python", "tools"));
    client.arg(repository().join("tests/interop/generated/client.py")).arg(folder.join("local"));
    assert_gets_a_token(&world, client).await;
}

#[tokio::test]
async fn a_client_of_what_openapi_typescript_makes_gets_a_token() {
    let world = world().await;
    let bin = |name: &str| installed(&format!("node/node_modules/.bin/{name}"), "tools");
    // Node looks for packages above the file that imports them.
    let above = installed("node", "tools");
    let folder = tempfile::tempdir_in(above).expect("a folder");
    let at = |name: &str| folder.path().join(name);
    for name in ["admin", "local"] {
        let mut generate = command(bin("openapi-typescript"));
        generate.arg(world.folder.path().join(name).with_extension("json"));
        generate.arg("-o").arg(at(name).with_extension("d.ts"));
        run(generate).await;
    }
    std::fs::copy(repository().join("tests/interop/generated/client.ts"), at("client.ts")).expect("copy");
    compile(bin("tsc").as_path(), folder.path()).await;
    let mut client = command("node");
    client.arg(at("client.js"));
    assert_gets_a_token(&world, client).await;
}

async fn compile(tsc: &Path, folder: &Path) {
    let mut compile = command(tsc);
    compile.args(["--strict", "--module", "nodenext", "--target", "es2022", "client.ts"]).current_dir(folder);
    run(compile).await;
}
