//! Every door gives the same answer to the same trouble, each in its own form.

use entra_emulator::{Endpoint, Fault, FaultRule};
use http::Method;
use serde_json::{Value, json};
use tokenward::domain::time::Clock;
use tokenward::system::SystemClock;

use crate::attacks_rights::{operate, pause, reconfigure, with_harness};
use crate::http_client::{Answer, request};
use crate::world::{ALICE, Kept, Plan, World};
use crate::{client_credentials, token_exchange, watch};

/// A way to ask for a token.
struct Door {
    name: &'static str,
    /// The request: method, target, headers, body. It asks for the token of a connection, with this scope if
    /// there is one; at doors for the app itself, for that of an app, for this resource.
    ask: fn(key: &str, whose: &str, what_for: Option<&str>) -> Asked,
    /// Whether a refusal, by its status and body, says the contract's code.
    says: fn(u16, &Value, &str) -> bool,
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
        says: |_, body, code| body["code"] == code,
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
        says: |_, body, code| body["code"] == code,
        form: &["type", "title", "status", "detail", "hint", "request_id"],
        status: |status| status,
    },
    Door {
        name: RELAY,
        ask: |key, connection, scope| Asked {
            method: Method::GET,
            target: format!(
                "/v1/apps/outlook/connections/{}/relay/graph/v1.0/me/{}",
                connection.replace('/', "%2F"),
                scope.map_or("messages", |_| "calendars")
            ),
            headers: vec![("authorization", format!("Bearer {key}"))],
            body: String::new(),
        },
        says: |_, body, code| body["code"] == code,
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
        says: |_, body, code| body["error"] == code,
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
        says: |_, body, code| body["code"] == code,
        form: &["error", "error_description", "request_id"],
        status: of_oauth,
    },
    Door {
        name: "Vault",
        // It has no scopes of its own: the rule's count.
        ask: |key, connection, _| Asked {
            method: Method::GET,
            target: format!("/v1/outlook/creds/{connection}"),
            headers: vec![("x-vault-token", key.to_owned())],
            body: String::new(),
        },
        says: of_vault,
        form: &["errors"],
        status: |status| match status {
            401 => 403,
            409 => 400,
            status => status,
        },
    },
];

/// It answers as the resource does, whom the token is for; for this scope, it asks for what no rule has.
const RELAY: &str = "relay";

/// Ways to ask for a token of an app itself.
const DOORS_OF_APPS: &[Door] = &[
    Door {
        name: "native",
        ask: |key, app, resource| Asked {
            method: Method::GET,
            target: format!(
                "/v1/apps/{app}/token{}",
                resource.map(|resource| format!("?resource={resource}")).unwrap_or_default()
            ),
            headers: vec![("authorization", format!("Bearer {key}"))],
            body: String::new(),
        },
        says: |_, body, code| body["code"] == code,
        form: &["type", "title", "status", "detail", "hint", "request_id"],
        status: |status| status,
    },
    Door {
        name: "managed identity",
        ask: |key, app, resource| Asked {
            method: Method::GET,
            target: format!(
                "/msi/token?api-version=2019-08-01&resource={}&client_id={app}",
                resource.unwrap_or("https://graph.microsoft.com")
            ),
            headers: vec![("x-identity-header", key.to_owned())],
            body: String::new(),
        },
        says: |_, body, code| body["error"] == code,
        form: &["statusCode", "message", "correlationId", "error_description"],
        status: |status| if matches!(status, 400 | 404 | 409) { 403 } else { status },
    },
    Door {
        name: "client credentials",
        ask: |key, app, resource| {
            let resource = resource.map(|resource| ("resource", resource));
            let all: Vec<(&str, &str)> = [("audience", app)].into_iter().chain(resource).collect();
            client_credentials::asked(key, &all)
        },
        says: |_, body, code| body["code"] == code,
        form: &["error", "error_description", "request_id"],
        status: of_oauth,
    },
];

fn of_oauth(status: u16) -> u16 {
    if matches!(status, 403 | 404 | 409) { 400 } else { status }
}

/// Vault's clients get words, which begin with the code; but for what is not there, and for who is not known.
fn of_vault(status: u16, body: &Value, code: &str) -> bool {
    let words: Vec<&str> =
        body["errors"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    match (code, &words[..]) {
        ("caller_unauthenticated", words) => words == ["permission denied"],
        (_, words) if status == 404 => words.is_empty(),
        (code, [word]) => word.starts_with(&format!("{code}: ")),
        _ => false,
    }
}

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
    assert!((door.says)(answer.status.as_u16(), &body, code), "{} {what}: {text}", door.name);
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
    asked: (&str, &str, Option<&str>),
    expected: (u16, &str),
) {
    assert_each_refuses(DOORS, world, what, asked, expected).await;
}

async fn assert_each_refuses(
    doors: &[Door],
    world: &World,
    what: &str,
    (key, whose, what_for): (&str, &str, Option<&str>),
    expected: (u16, &str),
) {
    for door in doors {
        assert_refused(door, what, &ask(world, door, key, whose, what_for).await, expected);
    }
}

/// Asks until the caller is over its rate.
async fn assert_each_is_over_the_rate(doors: &[Door], world: &World, key: &str, whose: &str) {
    for door in doors {
        let mut answer = ask(world, door, key, whose, None).await;
        for _ in 0..20 {
            if answer.status == 429 {
                break;
            }
            answer = ask(world, door, key, whose, None).await;
        }
        assert_refused(door, "over the rate", &answer, (429, "rate_limited"));
    }
}

#[tokio::test]
async fn the_same_trouble_is_told_at_every_door_in_its_own_form() {
    let relay = "scopes = []\nrelay = [\"GET graph:/v1.0/me/messages\"]\n";
    let rule = |caller: &str, connections: &str| {
        format!("[[callers.{caller}.allow]]\napp = \"outlook\"\nconnections = [\"{connections}\"]\n{relay}")
    };
    let plan = Plan::default()
        .kept(Kept::Redis)
        .sections("[apps.outlook.relay]\nbases = { graph = \"{graph}\" }")
        .sections(&(rule("mail-sync", "team-b/*") + &rule("mail-reader", "team-b/*")));
    let mut world = plan.start().await;
    let (key, reader) = (world.key.clone(), world.reader_key.clone());
    for name in ["team-b/a", "team-b/paused", "team-b/deleted", "team-b/down", "other/a"] {
        world.connect(name, ALICE).await;
    }
    for door in DOORS {
        let answer = ask(&world, door, &key, "team-b/a", None).await;
        assert_eq!(answer.status, 200, "{}: {}", door.name, answer.text());
        let body = answer.json();
        if door.name == RELAY {
            assert!(body["value"].is_array() && !answer.text().contains("access_token"), "{body}");
            continue;
        }
        let token = body.get("access_token").unwrap_or(&body["data"]["access_token"]);
        assert_eq!(*token, world.access_token("team-b/a").await, "{}", door.name);
    }
    let all = |connection| (key.as_str(), connection, None);

    // A handle is for the relay alone: elsewhere it is a stranger's.
    let wanted = json!({ "ttl": 60, "relay": ["GET graph:/v1.0/me/messages"] });
    let path = "/v1/apps/outlook/connections/team-b%2Fa/handles";
    let handle = world.api(Method::POST, path, wanted).await.json();
    let handle = handle["handle"].as_str().expect("a handle").to_owned();
    for door in DOORS {
        let answer = ask(&world, door, &handle, "team-b/a", None).await;
        match door.name {
            RELAY => assert_eq!(answer.status, 200, "{}", answer.text()),
            _ => assert_refused(door, "a handle", &answer, (401, "caller_unauthenticated")),
        }
    }

    let unknown = format!("{key}x");
    assert_all_refuse(
        &world,
        "an unknown key",
        (&unknown, "team-b/a", None),
        (401, "caller_unauthenticated"),
    )
    .await;
    let scope = Some("Calendars.Read");
    let with_scopes: Vec<&Door> = DOORS.iter().filter(|door| door.name != "Vault").collect();
    for door in with_scopes {
        let answer = ask(&world, door, &reader, "team-b/a", scope).await;
        assert_refused(door, "a forbidden scope", &answer, (403, "caller_forbidden"));
    }
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
    assert_each_is_over_the_rate(DOORS, &world, &key, "team-b/a").await;
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

/// The same for tokens of an app itself.
#[tokio::test]
async fn the_same_trouble_with_an_app_s_own_token_is_told_at_every_door() {
    const BOBS_TENANT: &str = "22222222-0000-4000-8000-00000000000b";
    let plan = Plan::default().app_lines(&format!("home_tenant = \"{BOBS_TENANT}\"")).kept(Kept::Redis);
    let (mut world, key) = with_harness(plan, "app_only = [\"home\"]").await;
    let own = (key.as_str(), "outlook", None);
    let mut tokens = std::collections::BTreeSet::new();
    for door in DOORS_OF_APPS {
        let answer = ask(&world, door, &key, "outlook", None).await;
        assert_eq!(answer.status, 200, "{}: {}", door.name, answer.text());
        tokens.insert(answer.json()["access_token"].as_str().expect("a token").to_owned());
    }
    assert_eq!(tokens.len(), 1, "one for all doors");

    let refuse = async |world: &World, what: &str, asked, expected| {
        assert_each_refuses(DOORS_OF_APPS, world, what, asked, expected).await;
    };
    let (unknown, vault) = (format!("{key}x"), Some("https://vault.azure.net"));
    let (unauthenticated, forbidden) = ((401, "caller_unauthenticated"), (403, "caller_forbidden"));
    refuse(&world, "an unknown key", (&unknown, "outlook", None), unauthenticated).await;
    refuse(&world, "a forbidden resource", (&key, "outlook", vault), forbidden).await;
    refuse(&world, "a caller without `app_only`", (&world.key, "outlook", None), forbidden).await;
    refuse(&world, "a foreign app", (&key, "nobody-s", None), (404, "app_not_found")).await;

    world.outlive_tokens();
    world.entra.faults().inject(FaultRule::new(Endpoint::Token, Fault::status(503)));
    refuse(&world, "the authority is away", own, (503, "authority_unavailable")).await;
    world.entra.faults().clear();

    let meant = json!({ "app": "outlook" });
    assert_eq!(operate(&world, Method::POST, "/admin/v1/revocations", meant).await.status, 200);
    refuse(&world, "a revocation", own, forbidden).await;
    let later = SystemClock::new().now().plus(std::time::Duration::from_secs(86_400)).rfc3339();
    let again = format!("app_only = [\"home\"]\napp_only_since = {later}");
    reconfigure(&world, "app_only = [\"home\"]", &again).await;
    world
        .until("a token again", async || {
            ask(&world, &DOORS_OF_APPS[0], &key, "outlook", None).await.status == 200
        })
        .await;

    reconfigure(&world, "[callers.harness]\n", "[callers.harness]\nrate_limit = 1\n").await;
    assert_each_is_over_the_rate(DOORS_OF_APPS, &world, &key, "outlook").await;
    reconfigure(&world, "rate_limit = 1\n", "rate_limit = 1000\n").await;

    // What operators revoke meanwhile would not be known.
    world.redis.as_mut().expect("Redis").stop();
    world.pass(std::time::Duration::from_secs(6 * 60));
    refuse(&world, "the store is lost", own, (503, "store_unavailable")).await;

    std::fs::write(world.folder.path().join("harness.keys"), "# retired\n").expect("the key file");
    world
        .until("the key is retired", async || {
            ask(&world, &DOORS_OF_APPS[0], &key, "outlook", None).await.status == 401
        })
        .await;
    refuse(&world, "a retired key", own, unauthenticated).await;
}
