//! Random rules, random questions: every door answers as the reference evaluator says
//! (`src/policy/reference.rs`), which is written from the contract and shares nothing with the product.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::Arc;

use bytes::Bytes;
use http::{Method, StatusCode, header};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1::SendRequest;
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokenward::callers::key_file;
use tokenward::domain::id::CallerName;
use tokenward::domain::time::Clock;
use tokenward::system::{SystemClock, SystemRandom};

use crate::attacks_rights::operate;
use crate::http_client::Answer;
use crate::reference::{Wish, Words, judge};
use crate::resource::{Reply, Resource};
use crate::token_exchange;
use crate::world::{ALICE, BOB, Plan, World};

/// The tenants of [`ALICE`] and of [`BOB`].
const T1: &str = "34e60b8e-a5b5-43c9-a67e-a85b7dd8768b";
const T2: &str = "22222222-0000-4000-8000-00000000000b";
const APPS: &[&str] = &["outlook", "outlook", "outlook", "other"];
/// The connections that are there, with their users. The app `other` has none.
const THERE: &[(&str, &str, &str)] = &[
    ("a", ALICE, T1),
    ("ab", BOB, T2),
    ("team-a/1", BOB, T2),
    ("team-a/x/1", ALICE, T1),
    ("team-b/1", ALICE, T1),
];
const ABSENT: &[&str] = &["A", "team-a", "team-a/2", "tenant:x"];
const PATTERNS: &[&str] = &[
    "a",
    "a*",
    "team-a/*",
    "team-a/x/*",
    "team-b/1",
    "team*",
    "*",
    "tenant:34e60b8e-a5b5-43c9-a67e-a85b7dd8768b",
    "tenant:22222222-0000-4000-8000-00000000000b",
];
/// All were granted but the last.
const SCOPES: &[&str] = &[
    "Mail.Read",
    "mail.read",
    "https://graph.microsoft.com/Mail.Read",
    "Calendars.Read",
    "User.Read",
    NOT_GRANTED,
];
const NOT_GRANTED: &str = "Mail.Send";
const RELAY: &[&str] =
    &["GET graph:/v1.0/me", "GET graph:/v1.0/me/messages*", "POST graph:/v1.0/me/*", "GET graph:/*"];
const REQUESTS: &[&str] = &[
    "GET graph:/v1.0/me",
    "GET graph:/v1.0/me/messages",
    "GET graph:/v1.0/me/messages/1",
    "GET graph:/v1.0/me/contacts",
    "POST graph:/v1.0/me/sendMail",
];
const TENANTS: &[&str] = &["home", T1, T2];
const RESOURCES: &[&str] =
    &["https://graph.microsoft.com", "https://vault.azure.net", "https://vault.azure.net/", "api://reports"];

/// After so many rounds others ask: a caller may have 20 open sessions of a connection, and none of these ends.
const MOST_ROUNDS: usize = 20;

/// Draws from a seed: SplitMix64, so that a failure can be run again.
struct Dice(Mutex<u64>);

impl Dice {
    fn below(&self, many: usize) -> usize {
        let mut state = self.0.lock();
        *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (*state ^ (*state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        usize::try_from((mixed ^ (mixed >> 31)) % many as u64).expect("small")
    }

    fn one<T: Copy>(&self, of: &[T]) -> T {
        of[self.below(of.len())]
    }

    /// At least `least` of them, and at most three.
    fn some(&self, of: &[&'static str], least: usize) -> Vec<&'static str> {
        let many = least + self.below(4 - least);
        let mut some: Vec<&str> = (0..many).map(|_| self.one(of)).collect();
        some.sort_unstable();
        some.dedup();
        some
    }

    /// A rule that the configuration takes: `*` goes with `bulk`, and a rule covers something.
    fn words(&self) -> Words<'static> {
        let app_only = if self.below(8) == 0 { vec!["*"] } else { self.some(TENANTS, 0) };
        let connections = self.some(PATTERNS, usize::from(app_only.is_empty()));
        let bulk = connections.contains(&"*") || app_only.contains(&"*");
        Words {
            app: self.one(APPS),
            scopes: if self.below(4) == 0 { vec!["*"] } else { self.some(SCOPES, 1) },
            connect: self.below(2) == 0,
            connections,
            relay: self.some(RELAY, 0),
            app_only,
            resources: self.some(RESOURCES, 1),
            bulk,
        }
    }
}

/// One caller with its rules and its key.
struct Asker {
    name: String,
    key: String,
    rules: Vec<Words<'static>>,
}

/// What is asked at every door that can be asked for it.
#[derive(Debug, Clone, Copy)]
enum Question {
    Token { name: &'static str, scope: Option<&'static str> },
    Connect { name: &'static str },
    Relay { name: &'static str, request: &'static str },
    AppToken { tenant: &'static str, resource: &'static str },
}

/// A request, and where the answer has the contract's code.
pub(crate) struct Asked {
    pub(crate) door: &'static str,
    method: Method,
    target: String,
    headers: Vec<(&'static str, String)>,
    body: String,
    code: fn(&Answer) -> String,
}

fn member(name: &'static str) -> impl Fn(&Answer) -> String {
    move |answer| answer.json()[name].as_str().unwrap_or_default().to_owned()
}

fn of_problem(answer: &Answer) -> String {
    member("code")(answer)
}

fn of_managed_identity(answer: &Answer) -> String {
    member("error")(answer)
}

/// Vault's form has no word for what is not there, so app and connection look the same.
fn of_vault(answer: &Answer) -> String {
    match answer.status {
        StatusCode::NOT_FOUND => "not_found".to_owned(),
        _ => answer.json()["errors"][0]
            .as_str()
            .and_then(|words| words.split(':').next())
            .unwrap_or_default()
            .to_owned(),
    }
}

fn encoded(text: &str) -> String {
    form_urlencoded::byte_serialize(text.as_bytes()).collect()
}

/// The question as each door is asked it.
fn requests(key: &str, app: &str, question: Question) -> Vec<Asked> {
    let native = || vec![("authorization", format!("Bearer {key}"))];
    let asked = |door, target, headers, code| Asked {
        door,
        method: Method::GET,
        target,
        headers,
        body: String::new(),
        code,
    };
    let posted = |door, target: &str, body: Value| Asked {
        door,
        method: Method::POST,
        target: target.to_owned(),
        headers: [native(), vec![("content-type", "application/json".to_owned())]].concat(),
        body: body.to_string(),
        code: of_problem,
    };
    match question {
        Question::Token { name, scope } => {
            let path = format!("/v1/apps/{app}/connections/{}", name.replace('/', "%2F"));
            let query = scope.map(|scope| format!("?scope={}", encoded(scope))).unwrap_or_default();
            let resource = encoded(scope.unwrap_or("https://graph.microsoft.com"));
            let identity = || vec![("x-identity-header", key.to_owned())];
            let scopes = scope.map(|scope| ("scope", scope));
            let exchange = token_exchange::asked(key, &format!("{app}:{name}"), scopes.as_slice());
            let mut all = vec![
                asked("native", format!("{path}/token{query}"), native(), of_problem),
                asked(
                    "managed identity, shared",
                    format!("/msi/token?resource={resource}&client_id={}", encoded(&format!("{app}:{name}"))),
                    identity(),
                    of_managed_identity,
                ),
                asked(
                    "managed identity, one connection",
                    format!("{path}/msi/token?api-version=2019-08-01&resource={resource}"),
                    identity(),
                    of_managed_identity,
                ),
                Asked {
                    door: "token exchange",
                    method: exchange.method,
                    target: exchange.target,
                    headers: exchange.headers,
                    body: exchange.body,
                    code: of_problem,
                },
                posted(
                    "native, a refused token",
                    &format!("{path}/token"),
                    match scope {
                        Some(scope) => json!({ "scope": scope, "rejected": "0".repeat(64) }),
                        None => json!({ "rejected": "0".repeat(64) }),
                    },
                ),
            ];
            if scope.is_none() {
                all.push(asked(
                    "vault",
                    format!("/v1/{app}/creds/{name}"),
                    vec![("x-vault-token", key.to_owned())],
                    of_vault,
                ));
            }
            all
        }
        Question::Connect { name } => {
            vec![posted("connect session", "/v1/connect-sessions", json!({ "app": app, "connection": name }))]
        }
        Question::Relay { name, request } => {
            let (method, rest) = request.split_once(' ').expect("a method");
            let (base, path) = rest.split_once(':').expect("a base");
            let name = name.replace('/', "%2F");
            let target = format!("/v1/apps/{app}/connections/{name}/relay/{base}{path}");
            let method = method.parse().expect("a method");
            vec![Asked { method, ..asked("relay", target, native(), of_problem) }]
        }
        Question::AppToken { tenant, resource } => {
            let resource = encoded(resource);
            let mut all = vec![asked(
                "native, the app itself",
                format!("/v1/apps/{app}/token?tenant={tenant}&resource={resource}"),
                native(),
                of_problem,
            )];
            // A managed identity has one tenant.
            if tenant == "home" {
                all.push(asked(
                    "managed identity, the app itself",
                    format!("/msi/token?client_id={app}&resource={resource}"),
                    vec![("x-identity-header", key.to_owned())],
                    of_managed_identity,
                ));
            }
            all
        }
    }
}

/// Requests for a connection's token at every door, by the caller that the key names.
pub(crate) fn for_a_token(key: &str, name: &'static str) -> Vec<Asked> {
    requests(key, "outlook", Question::Token { name, scope: None })
}

/// The tenant of a connection that is there.
fn there(app: &str, name: &str) -> Option<&'static str> {
    let found = THERE.iter().find(|(there, _, _)| *there == name).filter(|_| app == "outlook");
    found.map(|(_, _, tenant)| *tenant)
}

/// The answer that the reference gives, and what is there makes of it.
fn expected(asker: &Asker, app: &str, question: Question) -> &'static str {
    match question {
        Question::Token { name, scope } => {
            let of_tenant = there(app, name).unwrap_or_default();
            let one = |scope| judge(&asker.rules, app, Wish::Token { name, of_tenant, scope });
            let said = match scope {
                Some(scope) => one(scope),
                None => of_what_its_rules_list(&one),
            };
            match (said, there(app, name)) {
                ("yes" | "caller_forbidden" | "scope_not_granted", None) => "connection_not_found",
                ("yes", Some(_)) if scope.is_some_and(|scope| scope == NOT_GRANTED) => "scope_not_granted",
                (said, _) => said,
            }
        }
        Question::Connect { name } => {
            let of_tenant = there(app, name).unwrap_or_default();
            judge(&asker.rules, app, Wish::Connect { name, of_tenant })
        }
        Question::Relay { name, request } => {
            let of_tenant = there(app, name).unwrap_or_default();
            let said = judge(&asker.rules, app, Wish::Relay { name, of_tenant, request });
            match (said, there(app, name)) {
                ("yes" | "caller_forbidden", None) => "connection_not_found",
                (said, _) => said,
            }
        }
        Question::AppToken { tenant, resource } => {
            // The home tenant has a name and an id, which mean the same.
            let by_id = |tenant| if tenant == "home" { T1 } else { tenant };
            let mut rules = asker.rules.clone();
            for word in rules.iter_mut().flat_map(|rule| &mut rule.app_only) {
                *word = by_id(*word);
            }
            judge(&rules, app, Wish::AppToken { tenant: by_id(tenant), resource })
        }
    }
}

/// Without a scope the caller asks for what its rules list, all of which must have been granted.
fn of_what_its_rules_list(one: &dyn Fn(&'static str) -> &'static str) -> &'static str {
    let listed: Vec<&str> = SCOPES.iter().copied().filter(|scope| one(scope) == "yes").collect();
    match &listed[..] {
        _ if one("Never.Listed") == "yes" => "yes",
        [] => one(SCOPES[0]),
        listed if listed.contains(&NOT_GRANTED) => "scope_not_granted",
        _ => "yes",
    }
}

/// A connection that is kept for many requests.
pub(crate) struct Line {
    host: String,
    sender: SendRequest<Full<Bytes>>,
}

impl Line {
    pub(crate) async fn open(local: &str) -> Line {
        let host = local.trim_start_matches("http://").to_owned();
        let stream = tokio::net::TcpStream::connect(&host).await.expect("a connection");
        let (sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.expect("HTTP");
        tokio::spawn(connection);
        Line { host, sender }
    }

    pub(crate) async fn ask(&mut self, local: &str, asked: &Asked) -> Answer {
        if self.sender.ready().await.is_err() {
            *self = Line::open(local).await;
        }
        let mut request = http::Request::builder().method(asked.method.clone()).uri(&asked.target);
        request = request.header(header::HOST, &self.host);
        for (name, value) in &asked.headers {
            request = request.header(*name, value);
        }
        let request = request.body(Full::new(Bytes::from(asked.body.clone()))).expect("a request");
        let (parts, body) = self.sender.send_request(request).await.expect("an answer").into_parts();
        let body = body.collect().await.expect("a whole answer").to_bytes();
        Answer { status: parts.status, headers: parts.headers, body }
    }
}

/// Callers with random rules. Their keys stay, and each round gives them other rules.
fn askers(world: &World, group: usize, many: usize) -> Vec<Asker> {
    let (random, now) = (SystemRandom::new(), SystemClock::new().now());
    let day = std::time::Duration::from_secs(86_400);
    let mut askers = Vec::new();
    for number in 0..many {
        let name = format!("asker-{group}-{number}");
        let caller = CallerName::parse(&name).expect("a name");
        let path = world.folder.path().join(format!("{name}.keys"));
        let (key, _) = key_file::add(&path, &caller, &random, now, day).expect("a key");
        askers.push(Asker { name, key: key.expose().to_owned(), rules: Vec::new() });
    }
    askers
}

/// The callers' sections of the configuration.
fn sections(askers: &[Asker]) -> String {
    let mut text = String::new();
    for Asker { name, rules, .. } in askers {
        write!(
            text,
            "[callers.{name}]\nrate_limit = 1000000\nauthenticate = [{{ api_keys = \"{name}.keys\" }}]\n"
        )
        .expect("text");
        for rule in rules {
            let Words { app, connections, scopes, relay, app_only, resources, connect, bulk } = rule;
            writeln!(text, "[[callers.{name}.allow]]\napp = \"{app}\"\nbulk = {bulk}").expect("text");
            if !connections.is_empty() {
                writeln!(text, "connections = {connections:?}\nscopes = {scopes:?}\nconnect = {connect}")
                    .expect("text");
                writeln!(text, "relay = {relay:?}").expect("text");
            }
            if !app_only.is_empty() {
                writeln!(text, "app_only = {app_only:?}\nresources = {resources:?}").expect("text");
            }
        }
    }
    text
}

/// The answers that were seen, by door and code.
type Seen = BTreeMap<(&'static str, String), usize>;

/// `tokenward policy test --running`
const OPERATORS: &str = "policy test";

/// What an operator is told of a caller's rights: the rules alone decide, whether it is there or not.
async fn told_to_operators(
    world: &World,
    asker: &Asker,
    app: &str,
    question: Question,
) -> Option<(String, &'static str)> {
    let of_tenant = |name| there(app, name).unwrap_or_default();
    let (name, asked, wish) = match question {
        Question::Token { name, scope: Some(scope) } => {
            let wish = Wish::Token { name, of_tenant: of_tenant(name), scope };
            (name, format!("scope={}", encoded(scope)), wish)
        }
        Question::Connect { name } => {
            (name, "connect=1".to_owned(), Wish::Connect { name, of_tenant: of_tenant(name) })
        }
        Question::Relay { name, request } => {
            let wish = Wish::Relay { name, of_tenant: of_tenant(name), request };
            (name, format!("relay={}", encoded(request)), wish)
        }
        Question::Token { scope: None, .. } | Question::AppToken { .. } => return None,
    };
    let path =
        format!("/admin/v1/callers/{}/policy?app={app}&connection={}&{asked}", asker.name, encoded(name));
    let answer = operate(world, Method::GET, &path, Value::Null).await;
    assert_eq!(answer.status, 200, "{path}: {}", answer.text());
    let said = if answer.json()["allowed"] == true { "yes".to_owned() } else { of_problem(&answer) };
    Some((said, judge(&asker.rules, app, wish)))
}

/// Gives the callers rules and asks `questions` of each, every one at every door.
async fn round(world: &World, seed: u64, askers: &mut [Asker], base: &str, questions: usize) -> Seen {
    let dice = Arc::new(Dice(Mutex::new(seed)));
    for asker in &mut *askers {
        asker.rules = (0..dice.below(7)).map(|_| dice.words()).collect();
    }
    let config = format!("{base}\n{}", sections(askers));
    std::fs::write(world.folder.path().join("tokenward.toml"), config).expect("write");
    let reloaded = operate(world, Method::POST, "/admin/v1/reload", Value::Null).await.json();
    assert_eq!(reloaded["outcome"], "ok", "seed {seed}: {reloaded}");

    let mut seen = Seen::new();
    let parts = askers.chunks(askers.len().div_ceil(8));
    let asked = parts.enumerate().map(|(part, askers)| {
        let dice = Dice(Mutex::new(seed ^ ((part as u64 + 1) << 32)));
        async move {
            let mut seen = Seen::new();
            let mut line = Line::open(&world.daemon.local).await;
            for asker in askers {
                for _ in 0..questions {
                    let (app, question) = (dice.one(APPS), question(&dice));
                    if let Some((said, expected)) = told_to_operators(world, asker, app, question).await {
                        let Asker { name, rules, .. } = asker;
                        assert_eq!(said, expected, "seed {seed}, {name}: {app} {question:?} {rules:?}");
                        *seen.entry((OPERATORS, said)).or_default() += 1;
                    }
                    let expected = expected(asker, app, question);
                    for asked in requests(&asker.key, app, question) {
                        let answer = line.ask(&world.daemon.local, &asked).await;
                        let said =
                            if answer.status.is_success() { "yes".to_owned() } else { (asked.code)(&answer) };
                        let wanted = match (asked.door, expected) {
                            ("vault", "app_not_found" | "connection_not_found") => "not_found",
                            (_, expected) => expected,
                        };
                        assert_eq!(
                            said,
                            wanted,
                            "seed {seed}, {}: {app} {question:?} at {}: {} {:?}",
                            asker.name,
                            asked.door,
                            answer.text(),
                            asker.rules
                        );
                        *seen.entry((asked.door, said)).or_default() += 1;
                    }
                }
            }
            seen
        }
    });
    for of_part in futures_util::future::join_all(asked).await {
        for (what, times) in of_part {
            *seen.entry(what).or_default() += times;
        }
    }
    seen
}

fn question(dice: &Dice) -> Question {
    let name = if dice.below(3) == 0 { dice.one(ABSENT) } else { dice.one(THERE).0 };
    match dice.below(14) {
        12.. => Question::Relay { name, request: dice.one(REQUESTS) },
        0..=7 => Question::Token { name, scope: (dice.below(4) > 0).then(|| dice.one(SCOPES)) },
        8 => Question::Connect { name },
        _ => Question::AppToken { tenant: dice.one(TENANTS), resource: dice.one(RESOURCES) },
    }
}

/// A world with the connections of [`THERE`] and an app without any. Returns its configuration. What is
/// relayed goes to a resource that takes everything.
async fn world() -> (World, String) {
    let resource = Resource::start(|_| Reply::json(200, "{}")).await;
    let lines = format!("home_tenant = \"{T1}\"\nrelay = {{ bases = {{ graph = \"{}\" }} }}", resource.url);
    let plan = Plan::default().app_lines(&lines);
    let world = plan.start().await;
    for (name, user, tenant) in THERE {
        world.connect(name, user).await;
        assert_eq!(world.show(name).await["account"]["tid"], *tenant);
    }
    let path = world.folder.path().join("tokenward.toml");
    let config = std::fs::read_to_string(&path).expect("the configuration");
    let begin = config.find("[apps.outlook]").expect("the app");
    let end = begin + config[begin..].find("[[listen.local]]").expect("the listeners");
    let other = config[begin..end].replace("apps.outlook", "apps.other");
    (world, format!("{config}\n[limits]\nopen_sessions = 1000\n{other}"))
}

async fn agree(seed: u64, rounds: usize, many: usize, questions: usize) {
    let (world, base) = world().await;
    let mut seen = Seen::new();
    for group in 0..rounds.div_ceil(MOST_ROUNDS) {
        let mut askers = askers(&world, group, many);
        for number in (group * MOST_ROUNDS..rounds).take(MOST_ROUNDS) {
            for (what, times) in round(&world, seed + number as u64, &mut askers, &base, questions).await {
                *seen.entry(what).or_default() += times;
            }
        }
    }
    let all: usize = seen.values().sum();
    eprintln!("{all} answers of {} questions: {seen:#?}", rounds * many * questions);
    // Every door gave every answer that it has.
    let of_tokens = ["yes", "app_not_found", "connection_not_found", "caller_forbidden", "scope_not_granted"];
    let (of_rules, of_the_app) = (&of_tokens[..4], ["yes", "app_not_found", "caller_forbidden"]);
    for (door, codes) in [
        ("native", &of_tokens[..]),
        ("native, a refused token", &of_tokens),
        ("managed identity, shared", &of_tokens),
        ("managed identity, one connection", &of_tokens),
        ("token exchange", &of_tokens),
        // Its rules list a scope at least, so it is never forbidden all of them.
        ("vault", &["yes", "not_found", "scope_not_granted"]),
        ("connect session", of_rules),
        ("relay", of_rules),
        (OPERATORS, of_rules),
        ("native, the app itself", &of_the_app),
        ("managed identity, the app itself", &of_the_app),
    ] {
        for code in codes {
            assert!(seen.contains_key(&(door, (*code).to_owned())), "{door} never said {code}: {seen:#?}");
        }
    }
}

#[tokio::test]
async fn random_questions_are_answered_alike_at_every_door_as_the_reference_says() {
    agree(4711, 3, 40, 20).await;
}

/// `make policy`
#[tokio::test]
#[ignore = "minutes: make policy"]
async fn a_million_random_questions_are_answered_alike_at_every_door() {
    agree(1, 250, 100, 40).await;
}
