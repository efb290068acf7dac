//! Anything that a stranger sends costs a constant for each byte: many parameters, members, words,
//! separators, escapes, depth. Each listener and each of its doors gets the worst input of every grammar read
//! there. The work is counted in instructions, and compared with that for plain text of the same size.
//!
//! A new listener or door does not compile until it is named here; a new route of the local API is tried
//! automatically.

use std::collections::BTreeMap;
use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use entra_emulator::{App, Emulator};
use http::Method;
use tokenward::app::{Daemon, Environment, Source};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

use crate::counted;
use crate::hostile::{Texts, again, fill, json, known_parameters, name, parameters};
use crate::http_client::{request, request_unix};
use crate::setup::{CLIENT_ID, CLIENT_SECRET, free_port, write_configuration};
use crate::world::Plan;

/// The sizes that are allowed, a little less: of a target, of a header field beside the others, of a form, of
/// JSON.
const QUERY: usize = 8000;
const FIELD: usize = 8000;
const FORM: usize = 16 * 1024 - 16;
const JSON: usize = 64 * 1024 - 16;
/// Its client authenticates in another way, and its body is a form.
const TOKEN_ENDPOINT: &str = "/oauth2/token";
/// What is read into more than text is refused when it is longer, so this is the worst size of it.
const CLAIMS: usize = 16 * 1024;

/// Who listens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Listener {
    Public,
    Local,
    Admin,
    Ops,
}

/// Where something of a request is read.
#[derive(Debug, Clone, Copy)]
enum Door {
    Path,
    /// Parameters that nobody knows.
    Query,
    /// Those that somebody reads.
    KnownQuery,
    /// One header field.
    Field(&'static str),
    /// How many header lines there are.
    Lines,
    /// A form.
    Form,
    /// JSON of this size at the most, in a member that the route knows.
    Json(usize, &'static str),
    /// A body's framing.
    Chunks,
}

impl Listener {
    const ALL: [Listener; 4] = [Listener::Public, Listener::Local, Listener::Ops, Listener::Admin];

    /// The header fields that it reads, and one that it does not.
    fn fields(self) -> &'static [&'static str] {
        match self {
            Listener::Public => &[
                "host",
                "cookie",
                "traceparent",
                "purpose",
                "sec-purpose",
                "sec-fetch-mode",
                "sec-fetch-site",
                "origin",
                "content-type",
                "x-unknown",
            ],
            Listener::Local => {
                &["host", "authorization", "x-vault-token", "traceparent", "content-type", "x-unknown"]
            }
            Listener::Admin => &["authorization"],
            Listener::Ops => &["x-unknown"],
        }
    }

    fn routes(self) -> Vec<(&'static str, &'static str)> {
        match self {
            Listener::Public => vec![
                ("POST", "/callback/{app}"),
                ("GET", "/callback/{app}"),
                ("GET", "/connect/{id}"),
                ("POST", "/connect/{id}"),
                ("GET", "/"),
            ],
            Listener::Local => tokenward::api::ROUTES.to_vec(),
            Listener::Admin => vec![
                ("GET", "/admin/v1/apps/{app}/connections"),
                ("PATCH", "/admin/v1/apps/{app}/connections/{connection}"),
                ("POST", "/admin/v1/revocations"),
                ("POST", "/admin/v1/keyring/promote"),
            ],
            Listener::Ops => vec![("GET", "/livez")],
        }
    }

    /// Every door of it with a route behind it.
    fn doors(self) -> Vec<(Door, &'static str, String)> {
        let mut doors = Vec::new();
        for (at, (method, path)) in self.routes().into_iter().enumerate() {
            let route = path
                .replace("{app}", "outlook")
                .replace("{connection}", "user-1")
                .replace("{id}", "session-1")
                .replace("{mount}", "outlook");
            let mut add = |door| doors.push((door, method, route.clone()));
            // How a head is read does not depend on the route.
            if at == 0 {
                [Door::Path, Door::Lines, Door::Query].into_iter().for_each(&mut add);
                self.fields().iter().for_each(|field| add(Door::Field(field)));
            }
            // (A stream that begins goes on. Its query is read as all others are.)
            if path == "/v1/events" {
                continue;
            }
            add(Door::KnownQuery);
            if !["POST", "PATCH"].contains(&method) {
                continue;
            }
            if self == Listener::Public {
                add(Door::Form);
                add(Door::Chunks);
                continue;
            }
            if path == TOKEN_ENDPOINT {
                add(Door::Form);
                continue;
            }
            let members = match path.rsplit('/').next().expect("a last part") {
                "token" => {
                    vec![Door::Json(JSON, "scope"), Door::Json(CLAIMS, "claims"), Door::Json(JSON, "claims")]
                }
                "handles" => vec![Door::Json(FORM, "note"), Door::Json(FORM, "relay")],
                "connect-sessions" => vec![Door::Json(JSON, "scopes"), Door::Json(FORM, "account")],
                "confirm" => vec![Door::Json(FORM, "code"), Door::Json(FORM, "account")],
                "admin-consent-sessions" | "revocations" => vec![Door::Json(FORM, "tenant")],
                "promote" => vec![Door::Json(FORM, "key")],
                "{connection}" => vec![Door::Json(FORM, "paused")],
                other => panic!("which members of the body of {other} are read?"),
            };
            members.into_iter().for_each(add);
        }
        doors
    }
}

impl Door {
    /// Plain text first, then the worst there is for what is read at this door.
    fn texts(self) -> Texts {
        match self {
            Door::Path => vec![
                ("plain", again(QUERY, "a")),
                ("parts", again(QUERY, "/a")),
                ("escaped slashes", again(QUERY, "%2Fa")),
                ("half escapes", again(QUERY, "%")),
                ("dots", again(QUERY, "/.")),
            ],
            Door::Query => parameters(QUERY),
            Door::KnownQuery => known_parameters(QUERY / 2),
            Door::Form => parameters(FORM),
            Door::Field("host") => vec![("plain", again(FIELD, "a")), ("colons", again(FIELD, ":"))],
            Door::Field(_) => vec![
                ("plain", again(FIELD, "a")),
                ("pairs", fill(FIELD, |at| format!("{}=b; ", name(at)))),
                ("separators", again(FIELD, ";,-")),
                ("keys", again(FIELD, "Bearer twk_a_")),
            ],
            // Each is a line of its own.
            Door::Lines => {
                let lines =
                    |line: &dyn Fn(usize) -> String| (0..58).map(line).collect::<Vec<_>>().join("\r\n");
                vec![
                    ("plain", format!("x-a: {}", "a".repeat(FIELD))),
                    ("names", lines(&|at| format!("x-{}: {}", name(at), "a".repeat(130)))),
                    ("one name", lines(&|_| format!("x-a: {}", "a".repeat(130)))),
                    ("cookies", lines(&|at| format!("cookie: {}={}", name(at), "a;".repeat(65)))),
                    ("purposes", lines(&|_| format!("sec-purpose: {}", "a,".repeat(60)))),
                ]
            }
            Door::Json(size, member) => {
                let plain =
                    if ["claims", "account"].contains(&member) { ("{\"a\":\"", "\"}") } else { ("\"", "\"") };
                json(size, member, plain)
            }
            Door::Chunks => {
                let end = "0\r\n\r\n";
                vec![
                    ("plain", format!("{:x}\r\n{}\r\n{end}", FORM - 16, "a".repeat(FORM - 16))),
                    ("small chunks", again(FORM - 5, "10\r\naaaaaaaaaaaaaaaa\r\n") + end),
                    ("extensions", again(FORM - 5, &format!("1;{}\r\na\r\n", "x".repeat(200))) + end),
                ]
            }
        }
    }

    /// The request with this text at this door.
    fn request(self, listener: Listener, method: &str, route: &str, text: &str, key: &str) -> Vec<u8> {
        let (mut target, mut lines, mut body) = (route.to_owned(), String::new(), "");
        let mut fields =
            BTreeMap::from([("host", "localhost".to_owned()), ("connection", "close".to_owned())]);
        if listener == Listener::Local && route == TOKEN_ENDPOINT {
            // A key names its caller.
            let client = format!("{}:{key}", key.split('_').nth(1).unwrap_or_default());
            fields.insert("authorization", format!("Basic {}", STANDARD.encode(client)));
        } else if listener == Listener::Local {
            fields.insert("authorization", format!("Bearer {key}"));
        }
        match self {
            Door::Path => target = format!("{route}/{text}"),
            Door::Query | Door::KnownQuery => target = format!("{route}?{text}"),
            Door::Field(field) => drop(fields.insert(field, text.to_owned())),
            Door::Lines => lines = format!("{text}\r\n"),
            Door::Form => {
                fields.insert("content-type", "application/x-www-form-urlencoded".to_owned());
                body = text;
            }
            Door::Json(..) => {
                fields.insert("content-type", "application/json".to_owned());
                body = text;
            }
            Door::Chunks => {
                fields.insert("content-type", "application/x-www-form-urlencoded".to_owned());
                fields.insert("transfer-encoding", "chunked".to_owned());
                body = text;
            }
        }
        if !body.is_empty() && !matches!(self, Door::Chunks) {
            fields.insert("content-length", body.len().to_string());
        }
        let fields: String = fields.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
        format!("{method} {target} HTTP/1.1\r\n{fields}{lines}\r\n{body}").into_bytes()
    }
}

struct Case {
    counted: counted::Case,
    listener: Listener,
    request: Vec<u8>,
}

fn cases(key: &str) -> Vec<Case> {
    let mut cases = Vec::new();
    for listener in Listener::ALL {
        for (door, method, route) in listener.doors() {
            for (what, text) in door.texts() {
                let group = format!("{listener:?} {door:?} {method} {route}");
                let request = door.request(listener, method, &route, &text, key);
                cases.push(Case {
                    counted: counted::Case { group, what, size: request.len() },
                    listener,
                    request,
                });
            }
        }
    }
    cases
}

#[test]
#[ignore = "minutes under valgrind: make linear-work"]
fn the_worst_request_takes_no_more_work_than_its_bytes() {
    let cases: Vec<counted::Case> = cases("").into_iter().map(|case| case.counted).collect();
    for line in counted::hold("linear_work::every_case_once", &cases) {
        eprintln!("{line}");
    }
}

#[test]
#[ignore = "the test above runs it under valgrind"]
fn every_case_once() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let folder = tempfile::tempdir().expect("a folder");
    let (daemon, key, entra) = runtime.block_on(start(folder.path()));
    let mut warm = None;
    for case in &cases(&key) {
        let send = || runtime.block_on(send(&daemon, folder.path(), case));
        // What is done once only is not the first one's.
        if warm != Some(case.listener) {
            warm = Some(case.listener);
            send();
        }
        counted::count(send);
    }
    runtime.block_on(async {
        daemon.stop().await;
        entra.stop().await;
    });
}

async fn start(folder: &Path) -> (Daemon, String, Emulator) {
    let public = free_port().expect("a port");
    let callback = format!("http://localhost:{public}/callback/outlook");
    let app = App::new(CLIENT_ID).secret(CLIENT_SECRET).redirect_uri(callback);
    let entra = Emulator::builder().app(app).start().await.expect("the emulator starts");
    let (daemon, key) = in_this_process(folder, public, &entra).await;
    (daemon, key, entra)
}

/// Starts a daemon in this process, with the authority, and waits until it is ready. Returns it with the key
/// of its caller.
pub(crate) async fn in_this_process(folder: &Path, public: u16, entra: &Emulator) -> (Daemon, String) {
    let (config, key) =
        write_configuration(folder, public, &entra.authority("common")).expect("a configuration");
    let text = std::fs::read_to_string(&config).expect("a configuration");
    let loaded = tokenward::config::load(&text, &BTreeMap::new(), &config).expect("good");
    let daemon =
        Daemon::start(loaded, Source::default(), Environment::default(), None).await.expect("it starts");
    while !daemon.is_ready() {
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    (daemon, key.expose().to_owned())
}

async fn send(daemon: &Daemon, folder: &Path, case: &Case) {
    let address = match case.listener {
        Listener::Public => daemon.public_address(),
        Listener::Local => daemon.local_addresses()[0],
        Listener::Ops => daemon.ops_address(),
        Listener::Admin => {
            let stream = UnixStream::connect(folder.join("admin.sock")).await.expect("connected");
            return exchange(stream, case).await;
        }
    };
    exchange(tokio::net::TcpStream::connect(address).await.expect("connected"), case).await;
}

async fn exchange(mut stream: impl AsyncReadExt + AsyncWriteExt + Unpin, case: &Case) {
    // Who is refused early is not read to the end.
    let _ = stream.write_all(&case.request).await;
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer).await;
    let status = answer.get(..12).map(|head| String::from_utf8_lossy(head).into_owned()).unwrap_or_default();
    let is_answer = ["HTTP/1.1 2", "HTTP/1.1 3", "HTTP/1.1 4"].iter().any(|head| status.starts_with(head));
    // A page that is shown ahead of its time is 503.
    let is_ahead = case.counted.group.contains("sec-fetch-mode") && status == "HTTP/1.1 503";
    assert!(is_answer || is_ahead, "{} {}: {status:?}", case.counted.group, case.counted.what);
}

#[tokio::test]
async fn eighteen_thousand_parameters_are_refused_at_every_listener() {
    let world = Plan::default().start().await;
    let query = parameters(QUERY).remove(2).1;
    assert!(query.matches('&').count() > 2000);
    let form = parameters(64 * 1024).remove(2).1;
    assert!(form.matches('&').count() > 15_000);

    // A form, to the browser's listener: a page, whatever its size.
    let callback = format!("{}/callback/outlook", world.daemon.public);
    let of_a_form = [("content-type", "application/x-www-form-urlencoded")];
    let few = form[..form[..12_000].rfind('&').expect("one")].to_owned();
    for sent in [few, form] {
        let answer = request(Method::POST, &callback, &of_a_form, sent.clone()).await.expect("an answer");
        let is_refused = answer.status == 400 || (answer.status == 413 && sent.len() > 16 * 1024);
        assert!(is_refused && answer.text().contains("nothing"), "{}: {}", answer.status, answer.text());
    }
    let page = request(Method::GET, &format!("{callback}?{query}"), &[], "").await.expect("an answer");
    assert_eq!(page.status, 400, "{}", page.text());
    assert!(page.text().contains("more than a sign-in sends"), "{}", page.text());
    assert!(
        page.headers["content-security-policy"].to_str().expect("text").starts_with("default-src 'none'")
    );

    // A query, to the others: a problem that says what is wrong, with a key and without.
    let bearer = format!("Bearer {}", world.key);
    let path = "/v1/apps/outlook/connections/user-1/token";
    let with_key = [("authorization", bearer.as_str())];
    let admin = world.folder.path().join("admin.sock");
    for (listener, answer) in [
        (
            "local",
            request(Method::GET, &format!("{}{path}?{query}", world.daemon.local), &with_key, "").await,
        ),
        (
            "local, no key",
            request(Method::GET, &format!("{}{path}?{query}", world.daemon.local), &[], "").await,
        ),
        ("admin", request_unix(&admin, Method::GET, &format!("/admin/v1/status?{query}"), &[], "").await),
        ("ops", request(Method::GET, &format!("{}/livez?{query}", world.daemon.ops), &[], "").await),
    ] {
        let answer = answer.expect("an answer");
        assert_eq!(answer.status, 400, "{listener}: {}", answer.text());
        let problem = answer.json();
        assert_eq!(problem["code"], "invalid_request", "{listener}");
        let detail = problem["detail"].as_str().expect("text");
        assert!(detail.contains("the query has too many parameters: 64 are taken"), "{listener}: {detail}");
    }
    // As many as are allowed are read, and ignored where nobody knows them.
    let allowed = (0..64).map(|at| format!("x{at}=1")).collect::<Vec<_>>().join("&");
    let ready = request(Method::GET, &format!("{}/livez?{allowed}", world.daemon.ops), &[], "").await;
    assert_eq!(ready.expect("an answer").status, 200);
}

#[tokio::test]
async fn more_cookies_than_a_browser_keeps_are_told_so() {
    let world = Plan::default().start().await;
    let cookies = |count: usize| vec!["a=b"; count].join("; ");
    for (count, status) in [(180, 404), (257, 431)] {
        let url = format!("{}/connect/none", world.daemon.public);
        let answer = request(Method::GET, &url, &[("cookie", &cookies(count))], "").await.expect("an answer");
        assert_eq!(answer.status, status, "{count}: {}", answer.text());
        assert_eq!(answer.text().contains("Delete the cookies of"), status == 431, "{}", answer.text());
    }
}

#[test]
fn names_are_short_and_none_stands_twice() {
    let names: std::collections::BTreeSet<String> = (0..20_000).map(name).collect();
    assert!(names.len() == 20_000 && names.iter().all(|name| name.len() <= 3));
}
