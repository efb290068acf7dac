//! Handles: bearers for a part of a caller's relay, and what ends them.

use http::Method;
use serde_json::{Value, json};
use std::time::Duration;
use tokenward::domain::handle::{self, HandleId, PresentedHandle};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::attacks_rights::{operate, pause, reconfigure};
use crate::http_client::{Answer, Browser, request, request_unix};
use crate::relay::{RULES, plan, with_resource};
use crate::resource::{Reply, Resource};
use crate::world::{ALICE, Kept, Process, World, text};

const MESSAGES: &str = "GET graph:/v1.0/me/messages*";

/// Asks for a handle as READER.
async fn asked(world: &World, connection: &str, wanted: Value) -> Answer {
    let path = format!("/v1/apps/outlook/connections/{connection}/handles");
    world.api_as(&world.reader_key, Method::POST, &path, wanted).await
}

/// Makes a handle for `user-1`: its text and its id.
async fn made(world: &World, rules: &[&str]) -> (String, String) {
    let answer =
        asked(world, "user-1", json!({ "ttl": 3600, "relay": rules, "note": "the night's run" })).await;
    assert_eq!(answer.status, 201, "{}\n{}", answer.text(), world.daemon.log());
    let said = answer.json();
    (text(&said, "handle").to_owned(), text(&said, "id").to_owned())
}

/// Sends a request by a handle to a daemon.
async fn send(daemon: &Process, handle: &str, method: Method, target: &str, body: &str) -> Answer {
    let url = format!("{}/v1/apps/outlook/connections/user-1/relay/graph{target}", daemon.local);
    let bearer = format!("Bearer {handle}");
    let headers = [("authorization", bearer.as_str()), ("content-type", "application/json")];
    let sent = request(method, &url, &headers, body.to_owned()).await;
    sent.unwrap_or_else(|error| panic!("{target}: {error}\n{}", daemon.log()))
}

async fn get(daemon: &Process, handle: &str, target: &str) -> Answer {
    send(daemon, handle, Method::GET, target, "").await
}

/// What becomes of a handle's request for messages: the status, and the code of a refusal or that it tells its
/// bearer of the handle's end.
async fn tried(daemon: &Process, handle: &str) -> (u16, String) {
    let answer = get(daemon, handle, "/v1.0/me/messages").await;
    let told = answer.json()["code"].as_str().unwrap_or_default().to_owned();
    let has_ended = answer.text().contains("the handle that the request carries has ended");
    let told = if has_ended { format!("{told}: ended") } else { told };
    (answer.status.as_u16(), told)
}

fn ended() -> (u16, String) {
    (401, "caller_unauthenticated: ended".to_owned())
}

/// Whoever shows what is not known or not taken here is told nothing.
fn nobody_s() -> (u16, String) {
    (401, "caller_unauthenticated".to_owned())
}

fn works() -> (u16, String) {
    (200, String::new())
}

fn records(world: &World, action: &str) -> Vec<Value> {
    let audit = std::fs::read_to_string(world.folder.path().join("audit.jsonl")).expect("an audit file");
    let all = audit.lines().map(|line| serde_json::from_str::<Value>(line).expect("JSON"));
    all.filter(|record| record["action"] == action).collect()
}

/// Runs a command: whether it succeeded, and what it said.
async fn command(world: &World, arguments: &[&str]) -> (bool, String, String) {
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_tokenward"));
    command.args(arguments).arg("--config").arg(world.folder.path().join("tokenward.toml"));
    let ended = tokio::task::spawn_blocking(move || command.stdin(std::process::Stdio::null()).output());
    let ended = ended.await.expect("joined").expect("it ends");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (ended.status.success(), text(&ended.stdout), text(&ended.stderr))
}

async fn world() -> (World, Resource) {
    with_resource(|_| Reply::json(200, "{\"value\":[],\"responses\":[]}")).await
}

#[tokio::test]
async fn a_handle_is_a_part_of_its_caller_s_relay_and_nothing_else() {
    let (world, resource) = world().await;
    world.connect("user-2", ALICE).await;
    let (handle, id) = made(&world, &[MESSAGES, "POST graph:/v1.0/$batch"]).await;
    assert!(handle.starts_with(&format!("twh_{id}_")) && handle.len() < 1024, "{}", handle.len());
    resource.take();

    let answer = get(&world.daemon, &handle, "/v1.0/me/messages?$top=2").await;
    assert_eq!(answer.status, 200, "{}\n{}", answer.text(), world.daemon.log());
    let seen = resource.take();
    let [seen] = &seen[..] else { panic!("{seen:?}") };
    let token = world.access_token("user-1").await;
    assert_eq!(seen.header("authorization"), Some(format!("Bearer {token}").as_str()));
    // Its record names the caller, whose rights these are, and the handle.
    let record = records(&world, "relayed").pop().expect("a record");
    assert_eq!((text(&record, "caller"), text(&record, "method")), ("mail-reader", "handles"), "{record}");
    assert_eq!((&record["detail"]["handle"], &record["detail"]["status"]), (&json!(id), &json!("200")));
    let record = records(&world, "handle_made").pop().expect("a record");
    assert_eq!((text(&record, "outcome"), text(&record, "caller")), ("ok", "mail-reader"), "{record}");
    assert_eq!(record["detail"]["handle"], id);
    assert_eq!(record["detail"]["note"], "the night's run");
    assert_eq!(record["detail"]["relay"], format!("{MESSAGES}, POST graph:/v1.0/$batch"));

    // What its caller may have and it may not.
    let caller = format!("Bearer {}", world.reader_key);
    let url = format!("{}/v1/apps/outlook/connections/user-1/relay/graph", world.daemon.local);
    for (method, target) in [
        (Method::HEAD, "/v1.0/me/messages"),
        (Method::DELETE, "/v1.0/me/messages/1"),
        (Method::POST, "/v1.0/me/sendMail"),
    ] {
        let of_caller =
            request(method.clone(), &format!("{url}{target}"), &[("authorization", &caller)], "").await;
        assert_eq!(of_caller.expect("an answer").status, 200, "{method} {target}");
        resource.take();
        let refused = send(&world.daemon, &handle, method.clone(), target, "").await;
        assert_eq!(refused.status, 403, "{method} {target}");
        if method != Method::HEAD {
            assert_eq!(text(&refused.json(), "code"), "caller_forbidden");
        }
    }
    for target in ["/v1.0/me/contacts", "/v1.0/me/messages?$expand=microsoft.graph.eventMessage/event"] {
        assert_eq!(get(&world.daemon, &handle, target).await.status, 403, "{target}");
    }
    assert_eq!(get(&world.daemon, &handle, "/v1.0/me/messages/../contacts").await.status, 400);
    let record = records(&world, "refused").pop().expect("a record");
    assert_eq!(
        (&record["detail"]["handle"], text(&record, "caller")),
        (&json!(id), "mail-reader"),
        "{record}"
    );
    // Each request of a batch is judged by the handle's rules, too.
    let batch = json!({ "requests": [
        { "id": "1", "method": "GET", "url": "/me/messages" },
        { "id": "2", "method": "PATCH", "url": "/me/messages/1", "body": {} },
    ]});
    let answer = send(&world.daemon, &handle, Method::POST, "/v1.0/$batch", &batch.to_string()).await;
    let responses = answer.json()["responses"].as_array().expect("answers").clone();
    assert!(responses.iter().any(|one| one["id"] == "2" && one["status"] == 403), "{responses:?}");
    let seen = resource.take().pop().expect("a batch");
    assert!(!String::from_utf8_lossy(&seen.body).contains("PATCH"), "{seen:?}");

    // Another connection, or app, is not there.
    for (from, to, code) in [
        ("user-1", "user-2", "connection_not_found"),
        ("user-1", "nobody", "connection_not_found"),
        ("outlook", "nothing", "app_not_found"),
    ] {
        let elsewhere = format!("{url}/v1.0/me/messages").replace(from, to);
        let bearer = format!("Bearer {handle}");
        let refused = request(Method::GET, &elsewhere, &[("authorization", bearer.as_str())], "").await;
        let refused = refused.expect("an answer");
        assert_eq!((refused.status.as_u16(), text(&refused.json(), "code")), (404, code), "{to}");
    }
    assert!(resource.take().is_empty());
    let metrics = world.metrics().await;
    let made = "tokenward_handles_made_total{app=\"outlook\",caller=\"mail-reader\"} 1";
    assert!(metrics.contains(made), "{metrics}");
    for place in [
        world.daemon.log(),
        metrics,
        std::fs::read_to_string(world.folder.path().join("audit.jsonl")).expect("read"),
    ] {
        assert!(!place.contains("twh_"), "a handle itself");
    }
}

#[tokio::test]
async fn nobody_gives_on_more_than_its_own() {
    let (world, _resource) = world().await;
    let code = async |connection: &str, wanted: Value| {
        let answer = asked(&world, connection, wanted).await;
        let code = answer.json()["code"].as_str().unwrap_or_default().to_owned();
        (answer.status.as_u16(), code, answer.text())
    };
    for rule in [
        "GET graph:/v1.0/me/*",
        "GET graph:/v1.0/me/contacts",
        "GET other:/v1.0/me/messages",
        "GET graph:/v1.0/me/messages/1/microsoft.graph.eventMessage/event",
        "PUT graph:/v1.0/me/messages/1",
    ] {
        let (status, code, said) = code("user-1", json!({ "ttl": 60, "relay": [MESSAGES, rule] })).await;
        assert_eq!((status, code.as_str()), (403, "caller_forbidden"), "{rule}");
        assert!(said.contains(&format!("`{rule}`")), "{said}");
    }
    let record = records(&world, "handle_made").pop().expect("a record");
    assert_eq!((text(&record, "outcome"), &record["detail"]), ("caller_forbidden", &Value::Null), "{record}");
    for wanted in [
        json!({ "ttl": 86_401, "relay": [MESSAGES] }),
        json!({ "ttl": 0, "relay": [MESSAGES] }),
        json!({ "ttl": -1, "relay": [MESSAGES] }),
        json!({ "relay": [MESSAGES] }),
        json!({ "ttl": 60 }),
        json!({ "ttl": 60, "relay": [] }),
        json!({ "ttl": 60, "relay": ["GET graph:/v1.0/me/../users"] }),
        json!({ "ttl": 60, "relay": vec![MESSAGES; 33] }),
        json!({ "ttl": 60, "relay": [format!("{}*", "GET graph:/v1.0/me/messages/".to_owned() + &"a".repeat(4000))] }),
        json!({ "ttl": 60, "relay": [MESSAGES], "note": "a\nb" }),
        json!({ "ttl": 60, "relay": [MESSAGES], "note": "a".repeat(201) }),
        json!({ "ttl": 60, "relay": [MESSAGES], "caller": "mail-sync" }),
    ] {
        let (status, code, said) = code("user-1", wanted.clone()).await;
        assert_eq!((status, code.as_str()), (400, "invalid_request"), "{wanted}: {said}");
    }
    // As much as there is room for.
    let rules: Vec<String> = (0..32)
        .map(|at| format!("{}{at:02}/*", "GET graph:/v1.0/me/messages/".to_owned() + &"a".repeat(60)))
        .collect();
    assert_eq!(code("user-1", json!({ "ttl": 86_400, "relay": rules })).await.0, 201);
    // Of what is not there, or is none of its business, nobody makes one.
    for connection in ["user-9", "team-a%2F1"] {
        let (status, code, _) = code(connection, json!({ "ttl": 60, "relay": [MESSAGES] })).await;
        assert_eq!((status, code.as_str()), (404, "connection_not_found"), "{connection}");
    }
    // A caller that may have tokens and nothing relayed makes none either.
    let path = "/v1/apps/outlook/connections/user-1/handles";
    let refused = world.api(Method::POST, path, json!({ "ttl": 60, "relay": [MESSAGES] })).await;
    assert_eq!((refused.status.as_u16(), text(&refused.json(), "code")), (403, "caller_forbidden"));
}

/// The table of every door: only the relay's routes take a handle.
#[tokio::test]
async fn every_other_door_refuses_a_handle() {
    let (world, _resource) = world().await;
    let (handle, id) = made(&world, &[MESSAGES]).await;
    assert_eq!(tried(&world.daemon, &handle).await, works());
    // Anybody's, whatever it brings.
    const OF_ALL: [&str; 3] = ["/openapi.json", "/.well-known/oauth-authorization-server", "/v1/sys/health"];
    let bearer = format!("Bearer {handle}");
    let basic = format!("Basic {}", base64_of(&format!("mail-reader:{handle}")));
    let headers = [
        [("authorization", bearer.as_str())],
        [("x-identity-header", handle.as_str())],
        [("x-vault-token", handle.as_str())],
        [("authorization", basic.as_str())],
    ];
    for (method, route) in tokenward::api::ROUTES {
        if OF_ALL.contains(&route) || route.contains("/relay/") {
            continue;
        }
        let path = route
            .replace("{app}", "outlook")
            .replace("{connection}", "user-1")
            .replace("{mount}", "outlook")
            .replace("{id}", &"a".repeat(43));
        let url = format!("{}{path}", world.daemon.local);
        for header in headers {
            let sent =
                request(method.parse().expect("a method"), &url, &header, "").await.expect("an answer");
            let (status, said) = (sent.status.as_u16(), sent.text());
            let expected: &[u16] =
                if route.contains("/creds/") || route.contains("lookup") { &[403] } else { &[401] };
            assert!(expected.contains(&status), "{method} {route} {}: {status} {said}", header[0].0);
            assert!(!said.contains("access_token"), "{method} {route}: {said}");
        }
    }
    let form = [("content-type", "application/x-www-form-urlencoded")];
    let body = format!(
        "grant_type=urn:ietf:params:oauth:grant-type:token-exchange&subject_token=outlook:user-1&\
         subject_token_type=urn:tokenward:params:oauth:token-type:connection&client_id=mail-reader&\
         client_secret={handle}"
    );
    let url = format!("{}/oauth2/token", world.daemon.local);
    let refused = request(Method::POST, &url, &form, body).await.expect("an answer");
    assert_eq!(refused.status, 401, "{}", refused.text());
    // An operator it is nowhere.
    let socket = world.folder.path().join("admin.sock");
    for (method, route) in tokenward::api::admin::ROUTES {
        if route == "/openapi.json" {
            continue;
        }
        let path = ["{app}", "{connection}", "{credential}", "{host}", "{caller}"]
            .iter()
            .fold(route.to_owned(), |path, name| path.replace(name, "outlook"));
        let headers = [("authorization", bearer.as_str())];
        let sent = request_unix(&socket, method.parse().expect("a method"), &path, &headers, "");
        assert_eq!(sent.await.expect("an answer").status, 401, "{method} {route}");
    }
    // In a URL it is in logs: said, and used by nobody.
    for target in ["/v1.0/me/messages?$search=TEXT", "/v1.0/me/messages/TEXT"] {
        let refused = get(&world.daemon, &world.reader_key, &target.replace("TEXT", &handle)).await;
        assert_eq!(refused.status, 400, "{target}");
        assert!(refused.text().contains("carries a credential"), "{}", refused.text());
    }
    let url = format!("{}/v1/apps/outlook/connections/user-1/token?x={handle}", world.daemon.local);
    let refused =
        request(Method::GET, &url, &[("authorization", &format!("Bearer {}", world.key))], "").await;
    assert_eq!(refused.expect("an answer").status, 400);
    // It makes no other handle, and the relay still takes it.
    assert_eq!(tried(&world.daemon, &handle).await, works());
    // A listener may do without.
    let local = "[[listen.local]]\n";
    reconfigure(&world, local, &format!("{local}accept = [\"api_keys\"]\n")).await;
    assert_eq!(tried(&world.daemon, &handle).await, nobody_s());
    let reader = world.reader_key.clone();
    assert_eq!(tried(&world.daemon, &reader).await, works());
    reconfigure(&world, "accept = [\"api_keys\"]\n", "accept = [\"handles\"]\n").await;
    assert_eq!(tried(&world.daemon, &handle).await, works());
    assert_eq!(tried(&world.daemon, &reader).await, nobody_s());
    assert!(HandleId::parse(&id).is_ok());
}

fn base64_of(text: &str) -> String {
    use base64::Engine as _;
    base64::engine::general_purpose::STANDARD.encode(text)
}

/// What is not whole, or not ours, is nobody's; so is one put together from two.
#[tokio::test]
async fn a_handle_that_was_tampered_with_is_nobody_s() {
    let (world, resource) = world().await;
    let [(one, id), (other, _)] = [made(&world, &[MESSAGES]).await, made(&world, &[MESSAGES]).await];
    resource.take();
    let parse = |text: &str| PresentedHandle::parse(text).expect("ours");
    let mut forged = vec![
        handle::write(&parse(&one).id, &parse(&other).sealed).expect("short"),
        handle::write(&HandleId::parse(&id).expect("an id"), b"").expect("short"),
        handle::write(&HandleId::parse(&id).expect("an id"), &[1; 200]).expect("short"),
    ];
    let sealed = parse(&one).sealed;
    for at in (0..sealed.len()).step_by(7) {
        let mut changed = sealed.clone();
        changed[at] ^= 1;
        forged.push(handle::write(&parse(&one).id, &changed).expect("short"));
    }
    for text in &forged {
        assert_eq!(tried(&world.daemon, text.expose()).await, nobody_s());
    }
    for text in [&one[..one.len() - 1], &one.replace("twh_", "twk_"), "twh_", &one.to_uppercase()] {
        assert_eq!(tried(&world.daemon, text).await, nobody_s());
    }
    assert!(resource.take().is_empty());
    assert_eq!(tried(&world.daemon, &one).await, works());
}

/// Its user signs in again: the connection goes on.
async fn reconnect(world: &World) {
    let session = world.start_session(json!({ "app": "outlook", "connection": "user-1" })).await;
    let mut browser = Browser::default();
    world.sign_in(&mut browser, text(&session, "connect_url")).await;
    assert_eq!(world.session(text(&session, "id")).await["state"], "connected");
}

#[tokio::test]
async fn what_a_handle_hangs_on_ends_it() {
    let (world, _resource) = world().await;
    let (first, _) = made(&world, &[MESSAGES]).await;
    // A new sign-in of the same account changes nothing.
    reconnect(&world).await;
    assert_eq!(tried(&world.daemon, &first).await, works());

    // A pause ends it for good.
    assert_eq!(pause(&world, "user-1", true).await.status, 200);
    assert_eq!(tried(&world.daemon, &first).await, ended());
    let refused = asked(&world, "user-1", json!({ "ttl": 60, "relay": [MESSAGES] })).await;
    assert_eq!((refused.status.as_u16(), text(&refused.json(), "code")), (409, "connection_paused"));
    assert_eq!(pause(&world, "user-1", false).await.status, 200);
    assert_eq!(tried(&world.daemon, &first).await, ended());
    let (second, id) = made(&world, &[MESSAGES]).await;
    assert_eq!(tried(&world.daemon, &second).await, works(), "made after the pause");

    // What is taken from the caller is taken from it.
    reconfigure(&world, "\"GET graph:/v1.0/me/messages*\"", "\"GET graph:/v1.0/me/other*\"").await;
    assert_eq!(tried(&world.daemon, &second).await, (403, "caller_forbidden".to_owned()));
    reconfigure(&world, "\"GET graph:/v1.0/me/other*\"", "\"GET graph:/v1.0/me/messages*\"").await;
    assert_eq!(tried(&world.daemon, &second).await, works());

    // Its time.
    let short = asked(&world, "user-1", json!({ "ttl": 60, "relay": [MESSAGES] })).await.json();
    let short = text(&short, "handle");
    assert_eq!(tried(&world.daemon, short).await, works());
    world.pass(Duration::from_secs(61));
    assert_eq!(tried(&world.daemon, short).await, ended());
    assert_eq!(tried(&world.daemon, &second).await, works());

    // A delete, and the same name once more: another connection.
    let path = "/v1/apps/outlook/connections/user-1";
    assert_eq!(world.api(Method::DELETE, path, Value::Null).await.status, 204);
    assert_eq!(tried(&world.daemon, &second).await, (404, "connection_not_found".to_owned()));
    world.connect("user-1", ALICE).await;
    assert_eq!(tried(&world.daemon, &second).await, ended());
    let record = records(&world, "refused").pop().expect("a record");
    assert_eq!(
        (&record["detail"]["handle"], text(&record, "outcome")),
        (&json!(id), "caller_unauthenticated")
    );

    // The API key that made it.
    let (third, _) = made(&world, &[MESSAGES]).await;
    assert_eq!(tried(&world.daemon, &third).await, works());
    let keys = world.folder.path().join("mail-reader.keys");
    let hashes = std::fs::read_to_string(&keys).expect("the key file");
    std::fs::write(&keys, "# retired\n").expect("the key file");
    world.until("the key is retired", async || tried(&world.daemon, &third).await == ended()).await;
    std::fs::write(&keys, hashes).expect("the key file");
    world.until("the key is back", async || tried(&world.daemon, &third).await == works()).await;

    // The caller itself.
    reconfigure(&world, "callers.mail-reader", "callers.somebody-else").await;
    assert_eq!(tried(&world.daemon, &third).await, ended());
}

#[tokio::test]
async fn an_operator_ends_a_handle_on_every_replica() {
    let resource = Resource::start(|_| Reply::json(200, "{}")).await;
    let mut world = plan(&resource.url, RULES).kept(Kept::Redis).start().await;
    let mut second = world.replica("second").await;
    world.connect("user-1", ALICE).await;
    let [(one, id), (other, _)] = [made(&world, &[MESSAGES]).await, made(&world, &[MESSAGES]).await];
    for daemon in [&world.daemon, &second] {
        assert_eq!((tried(daemon, &one).await, tried(daemon, &other).await), (works(), works()));
    }
    // A mistyped id, and a handle in its place, end nothing and say so.
    let revoke = async |body: Value| operate(&world, Method::POST, "/admin/v1/revocations", body).await;
    for bad in ["0PmK2xWb7LqYdR4cTn1q3Vn3", one.as_str(), ""] {
        let refused = revoke(json!({ "handle": bad })).await;
        assert_eq!(
            (refused.status.as_u16(), text(&refused.json(), "code")),
            (400, "invalid_request"),
            "{bad}"
        );
        assert!(!refused.text().contains("twh_"), "{}", refused.text());
    }
    assert_eq!(revoke(json!({ "handle": id, "app": "outlook" })).await.status, 400);
    assert_eq!(revoke(json!({ "handle": id, "dry_run": true })).await.status, 200);
    assert_eq!(tried(&world.daemon, &one).await, works());

    let (done, out, err) = command(&world, &["revoke", "--handle", &id]).await;
    assert!(done && err.contains(&format!("Ended the handle {id}")), "{out}{err}");
    assert_eq!(tried(&world.daemon, &one).await, ended(), "at once where it was ended");
    world.until("the other replica knows", async || tried(&second, &one).await == ended()).await;
    let record = records(&world, "admin").pop().expect("a record");
    assert_eq!((&record["detail"]["act"], &record["detail"]["handle"]), (&json!("revoke"), &json!(id)));
    // Who uses it all the same is seen.
    let record = records(&world, "refused").pop().expect("a record");
    assert_eq!(
        (&record["reason"], &record["detail"]["handle"]),
        (&json!("handle_ended"), &json!(id)),
        "{record}"
    );

    // And through restarts.
    second.kill();
    second = Process::start(&world.folder.path().join("second")).await;
    world.until("it knows again", async || tried(&second, &other).await == works()).await;
    assert_eq!(tried(&second, &one).await, ended());
    world.kill_and_restart().await;
    world.until("it knows again", async || tried(&world.daemon, &other).await == works()).await;
    assert_eq!(tried(&world.daemon, &one).await, ended());

    // The caller's connections and handles are revoked: the connection is another caller's and stays.
    let revoked =
        operate(&world, Method::POST, "/admin/v1/revocations", json!({ "caller": "mail-reader" })).await;
    assert_eq!(revoked.status, 200, "{}", revoked.text());
    assert_eq!(tried(&world.daemon, &other).await, ended());
    world.until("the other replica knows", async || tried(&second, &other).await == ended()).await;
    let (anew, _) = made(&world, &[MESSAGES]).await;
    assert_eq!(tried(&world.daemon, &anew).await, works());
}

/// A sealing key is replaced under a living handle: it works on, and the old key stays for it.
#[tokio::test]
async fn a_sealing_key_is_kept_for_the_handles_that_it_sealed() {
    let (world, _resource) = world().await;
    let (before, _) = made(&world, &[MESSAGES]).await;
    let (_, keys, _) = command(&world, &["keyring", "status", "--json"]).await;
    let keys: Value = serde_json::from_str(&keys).expect("JSON");
    let old = text(&keys[0], "id").to_owned();
    let (_, new, _) = command(&world, &["keyring", "add"]).await;
    let new = new.trim().to_owned();
    let promoted = async || command(&world, &["keyring", "promote", &new]).await.0;
    world.until("the new key can be promoted", promoted).await;
    let (done, out, err) = command(&world, &["keyring", "rewrap"]).await;
    assert!(done, "{out}{err}");
    let (after, _) = made(&world, &[MESSAGES]).await;
    for handle in [&before, &after] {
        assert_eq!(tried(&world.daemon, handle).await, works());
    }
    let refused = async || {
        let (done, out, said) = command(&world, &["keyring", "retire", &old]).await;
        assert!(!done, "{out}{said}");
        said.contains("and handles that it sealed live, by ") && said.contains("at the latest")
    };
    world.until("the count says what it is needed for", refused).await;
    // A file that goes does not take it along.
    let file = world.folder.path().join("keyring").join(format!("{old}.key"));
    std::fs::remove_file(&file).expect("the key's file");
    world.daemon.until_logged("the keyring on disk is not taken up").await;
    assert_eq!(tried(&world.daemon, &before).await, works());
}

/// The API key is retired while the body is on its way: no handle is made that would not end with it.
#[tokio::test]
async fn a_key_that_goes_before_its_handle_is_made_makes_none() {
    let (world, _resource) = world().await;
    let address = world.daemon.local.trim_start_matches("http://").to_owned();
    let mut stream = TcpStream::connect(address).await.expect("connected");
    let body = json!({ "ttl": 3600, "relay": [MESSAGES] }).to_string();
    let head = format!(
        "POST /v1/apps/outlook/connections/user-1/handles HTTP/1.1\r\nhost: localhost\r\n\
         authorization: Bearer {}\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\
         connection: close\r\n\r\n",
        world.reader_key,
        body.len()
    );
    let (first, rest) = body.split_at(10);
    stream.write_all(format!("{head}{first}").as_bytes()).await.expect("sent");
    let keys = async || {
        let keys = operate(&world, Method::GET, "/admin/v1/callers/mail-reader/keys", Value::Null).await;
        keys.json()["keys"].as_array().unwrap_or_else(|| panic!("{}", keys.text())).clone()
    };
    // The key's use is noted when it is known who asks.
    world.until("it is known who asks", async || keys().await[0]["last_used_at"].is_string()).await;
    std::fs::write(world.folder.path().join("mail-reader.keys"), "# retired\n").expect("the key file");
    let path = "/v1/apps/outlook/connections/user-1";
    let is_gone =
        async || world.api_as(&world.reader_key, Method::GET, path, Value::Null).await.status == 401;
    world.until("the key is retired", is_gone).await;
    stream.write_all(rest.as_bytes()).await.expect("sent");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.expect("an answer");
    assert!(answer.starts_with("HTTP/1.1 401 ") && !answer.contains("twh_"), "{answer}");
    let record = records(&world, "handle_made").pop().expect("a record");
    assert_eq!(text(&record, "outcome"), "caller_unauthenticated", "{record}");
}

/// A failover loses the note that a sealing key has handles: whoever made one, or saw one used, writes it
/// again.
#[tokio::test]
async fn a_lost_note_of_living_handles_is_written_again() {
    let resource = Resource::start(|_| Reply::json(200, "{}")).await;
    let mut world = plan(&resource.url, RULES).kept(Kept::Redis).start().await;
    world.connect("user-1", ALICE).await;
    let (handle, _) = made(&world, &[MESSAGES]).await;
    let notes = |world: &World| world.redis.as_ref().expect("Redis").cli(&["KEYS", "*handles-of-key*"]);
    let lose = |world: &World| {
        let note = notes(world);
        assert!(!note.is_empty() && !note.contains('\n'), "one note: {note}");
        assert_eq!(world.redis.as_ref().expect("Redis").cli(&["DEL", &note]), "1");
    };
    lose(&world);
    world.until("its maker writes it again", async || !notes(&world).is_empty()).await;

    // One that knows nothing of it writes it at its next use.
    world.daemon.kill();
    lose(&world);
    world.kill_and_restart().await;
    world.until("it works", async || tried(&world.daemon, &handle).await == works()).await;
    world.until("its user writes it", async || !notes(&world).is_empty()).await;
}

/// It counts as its caller; one that was ended takes nothing from its caller.
#[tokio::test]
async fn a_handle_s_requests_count_as_its_caller_s() {
    let (world, _resource) = world().await;
    let [(one, _), (over, id)] = [made(&world, &[MESSAGES]).await, made(&world, &[MESSAGES]).await];
    let revoked = operate(&world, Method::POST, "/admin/v1/revocations", json!({ "handle": id })).await;
    assert_eq!(revoked.status, 200, "{}", revoked.text());
    reconfigure(&world, "[callers.mail-reader]\n", "[callers.mail-reader]\nrate_limit = 1\n").await;
    for _ in 0..20 {
        assert_eq!(tried(&world.daemon, &over).await, ended());
    }
    let reader = world.reader_key.clone();
    assert_eq!(tried(&world.daemon, &reader).await, works(), "its caller's are all there");
    let mut last = works();
    for _ in 0..20 {
        last = tried(&world.daemon, &one).await;
        if last != works() {
            break;
        }
    }
    assert_eq!(last, (429, "rate_limited".to_owned()));
}
