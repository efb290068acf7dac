//! Every door gives the same answer to the same trouble, each in its own form.

use entra_emulator::{Endpoint, Fault, FaultRule};
use http::Method;
use serde_json::{Value, json};

use crate::attacks_rights::{operate, pause, reconfigure};
use crate::http_client::{Answer, request};
use crate::token_exchange;
use crate::watch;
use crate::world::{ALICE, Kept, Plan, World};

/// A way to ask for a token of a connection.
struct Door {
    name: &'static str,
    /// The request: method, target, headers, body. It asks for this scope, if there is one.
    ask: fn(key: &str, connection: &str, scope: Option<&str>) -> Asked,
    /// The member of a refusal that has the contract's code.
    code: &'static str,
    /// Members that every refusal has.
    form: &'static [&'static str],
    /// The status in place of the contract's.
    status: fn(u16) -> u16,
}

pub(crate) struct Asked {
    pub(crate) method: Method,
    pub(crate) target: String,
    pub(crate) headers: Vec<(&'static str, String)>,
    pub(crate) body: String,
}

/// It answers with a stream, whose first event has the token.
const WATCH: &str = "watch";

const DOORS: &[Door] = &[
    Door {
        name: "native",
        ask: |key, connection, scope| Asked {
            method: Method::GET,
            target: format!(
                "/v1/apps/outlook/connections/{connection}/token{}",
                scope.map(|scope| format!("?scope={scope}")).unwrap_or_default()
            ),
            headers: vec![("authorization", format!("Bearer {key}"))],
            body: String::new(),
        },
        code: "code",
        form: &["type", "title", "status", "detail", "hint", "request_id"],
        status: |status| status,
    },
    Door {
        name: WATCH,
        ask: |key, connection, scope| Asked {
            method: Method::GET,
            target: format!(
                "/v1/apps/outlook/connections/{connection}/token/watch{}",
                scope.map(|scope| format!("?scope={scope}")).unwrap_or_default()
            ),
            headers: vec![("authorization", format!("Bearer {key}"))],
            body: String::new(),
        },
        code: "code",
        form: &["type", "title", "status", "detail", "hint", "request_id"],
        status: |status| status,
    },
    Door {
        name: "managed identity",
        ask: |key, connection, scope| Asked {
            method: Method::GET,
            target: format!(
                "/msi/token?api-version=2019-08-01&resource={}&client_id=outlook:{connection}",
                scope.unwrap_or("https://graph.microsoft.com")
            ),
            headers: vec![("x-identity-header", key.to_owned())],
            body: String::new(),
        },
        code: "error",
        form: &["statusCode", "message", "correlationId", "error_description"],
        status: |status| if matches!(status, 400 | 404 | 409) { 403 } else { status },
    },
    Door {
        name: "token exchange",
        ask: |key, connection, scope| {
            let subject = format!("outlook:{connection}");
            let scope = scope.map(|scope| ("scope", scope));
            token_exchange::asked(key, &subject, scope.as_slice())
        },
        code: "code",
        form: &["error", "error_description", "request_id"],
        status: |status| if matches!(status, 403 | 404 | 409) { 400 } else { status },
    },
];

async fn ask(world: &World, door: &Door, key: &str, connection: &str, scope: Option<&str>) -> Answer {
    let Asked { method, target, headers, body } = (door.ask)(key, connection, scope);
    let headers: Vec<(&str, &str)> = headers.iter().map(|(name, value)| (*name, value.as_str())).collect();
    if door.name == WATCH {
        return watch::first(&world.daemon, key, &target).await;
    }
    let url = format!("{}{target}", world.daemon.local);
    request(method, &url, &headers, body).await.expect("an answer")
}

/// The refusal has the contract's code, in the door's form, and no token.
fn assert_refused(door: &Door, what: &str, answer: &Answer, (status, code): (u16, &str)) {
    let body = answer.json();
    let text = answer.text();
    assert_eq!(answer.status, (door.status)(status), "{} {what}: {text}", door.name);
    assert_eq!(body[door.code], code, "{} {what}: {text}", door.name);
    for member in door.form {
        assert!(
            body.get(member).is_some_and(|value| !value.is_null()),
            "{} {what}: {member}: {text}",
            door.name
        );
    }
    assert_eq!(answer.headers["cache-control"], "no-store", "{} {what}", door.name);
    assert!(!text.contains("access_token"), "{} {what}: {text}", door.name);
    let waits = matches!(status, 429 | 503);
    assert_eq!(answer.headers.contains_key("retry-after"), waits, "{} {what}", door.name);
    assert_eq!(answer.headers.contains_key("www-authenticate"), status == 401, "{} {what}", door.name);
}

async fn assert_all_refuse(
    world: &World,
    what: &str,
    (key, connection, scope): (&str, &str, Option<&str>),
    expected: (u16, &str),
) {
    for door in DOORS {
        assert_refused(door, what, &ask(world, door, key, connection, scope).await, expected);
    }
}

#[tokio::test]
async fn the_same_trouble_is_told_at_every_door_in_its_own_form() {
    let mut world = Plan::default().kept(Kept::Redis).start().await;
    let (key, reader) = (world.key.clone(), world.reader_key.clone());
    for name in ["team-b/a", "team-b/paused", "team-b/deleted", "team-b/down", "other/a"] {
        world.connect(name, ALICE).await;
    }
    for door in DOORS {
        let answer = ask(&world, door, &key, "team-b/a", None).await;
        assert_eq!(answer.status, 200, "{}: {}", door.name, answer.text());
        let token = answer.json()["access_token"].as_str().expect("a token").to_owned();
        assert_eq!(token, world.access_token("team-b/a").await, "{}", door.name);
    }
    let all = |connection| (key.as_str(), connection, None);

    let unknown = format!("{key}x");
    assert_all_refuse(
        &world,
        "an unknown key",
        (&unknown, "team-b/a", None),
        (401, "caller_unauthenticated"),
    )
    .await;
    let scope = Some("Calendars.Read");
    assert_all_refuse(&world, "a forbidden scope", (&reader, "team-b/a", scope), (403, "caller_forbidden"))
        .await;
    let of_nobody = (404, "connection_not_found");
    assert_all_refuse(&world, "a foreign connection", (&reader, "other/a", None), of_nobody).await;
    assert_all_refuse(&world, "no connection", (&reader, "other/b", None), of_nobody).await;
    assert_all_refuse(&world, "no connection of ours", all("team-b/nobody"), of_nobody).await;

    assert_eq!(pause(&world, "team-b/paused", true).await.status, 200);
    assert_all_refuse(&world, "a pause", all("team-b/paused"), (409, "connection_paused")).await;
    let deleted =
        world.api(Method::DELETE, "/v1/apps/outlook/connections/team-b%2Fdeleted", Value::Null).await;
    assert_eq!(deleted.status, 204);
    assert_all_refuse(&world, "a delete", all("team-b/deleted"), of_nobody).await;

    world.outlive_tokens();
    let away = FaultRule::new(Endpoint::Token, Fault::status(503));
    world.entra.faults().inject(away);
    assert_all_refuse(&world, "the authority is away", all("team-b/down"), (503, "authority_unavailable"))
        .await;
    world.entra.faults().clear();

    let meant = json!({ "app": "outlook" });
    assert_eq!(operate(&world, Method::POST, "/admin/v1/revocations", meant).await.status, 200);
    assert_all_refuse(&world, "a revocation", all("team-b/a"), of_nobody).await;

    reconfigure(&world, "[callers.mail-sync]\n", "[callers.mail-sync]\nrate_limit = 1\n").await;
    for door in DOORS {
        let mut answer = ask(&world, door, &key, "team-b/a", None).await;
        for _ in 0..20 {
            if answer.status == 429 {
                break;
            }
            answer = ask(&world, door, &key, "team-b/a", None).await;
        }
        assert_refused(door, "over the rate", &answer, (429, "rate_limited"));
    }
    reconfigure(&world, "rate_limit = 1\n", "rate_limit = 1000\n").await;

    std::fs::write(world.folder.path().join("mail-sync.keys"), "# retired\n").expect("the key file");
    world
        .until("the key is retired", async || {
            ask(&world, &DOORS[0], &key, "team-b/a", None).await.status == 401
        })
        .await;
    assert_all_refuse(&world, "a retired key", all("team-b/a"), (401, "caller_unauthenticated")).await;

    world.redis.as_mut().expect("Redis").stop();
    let lost = (reader.as_str(), "team-b/never-asked-for", None);
    assert_all_refuse(&world, "the store is lost", lost, (503, "store_unavailable")).await;
}
