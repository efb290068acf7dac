//! Callers by client certificate, from outside: real TLS clients, real authorities, and the daemon's answer to
//! each of them.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use http::{Method, header};
use http_body_util::{BodyExt, Empty};
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use serde_json::Value;

use crate::http_client::{self, Answer, exchange, request_unix};
use crate::launcher::{command, installed};
use crate::pki::{self, Authority, Identity, Leaf, connector, dial};
use crate::watch;
use crate::world::{ALICE, Plan, World, free_port, write_secret};

pub(crate) const SPIFFE_ID: &str = "spiffe://contoso.com/mail-sync";
pub(crate) const TOKEN: &str = "/v1/apps/outlook/connections/user-1/token";

/// A world with TLS listeners for callers.
pub(crate) struct Scene {
    pub(crate) world: World,
    /// Issued what the listeners show.
    pub(crate) server: Authority,
    /// Accepts every method, and verifies by the authority `callers`.
    pub(crate) port: u16,
    pub(crate) callers: Authority,
    /// Trusted as `callers` is, and past its own date.
    past: Authority,
}

/// A caller that may read tokens of any connection.
fn reader(name: &str, ways: &str) -> String {
    format!(
        "[callers.{name}]\nauthenticate = [{ways}]\n[[callers.{name}.allow]]\napp = \"outlook\"\n\
         connections = [\"*\"]\nbulk = true\nscopes = [\"*\"]\n"
    )
}

fn plan(server: &Authority, files: &[(&'static str, String)]) -> Plan {
    let Identity { chain, key } = pki::server(server);
    let callers = [
        reader("by-spiffe", &format!("{{ spiffe = \"{SPIFFE_ID}\" }}")),
        reader("by-san", "{ san = \"Sync.Contoso.com\" }, { san = \"urn:contoso:sync\" }"),
        reader("by-server-name", "{ san = \"localhost\" }"),
    ];
    let plan = Plan::default().sections(&callers.concat()).file("local.pem", &chain).file("local.key", &key);
    files.iter().fold(plan, |plan, (name, content)| plan.file(name, content))
}

/// A listener, with the rest of its `tls` table and more lines.
fn listener(port: u16, tls: &str, lines: &str) -> String {
    format!(
        "[[listen.local]]\naddress = \"127.0.0.1:{port}\"\ntls = {{ certificate = \"local.pem\", key = \
         \"local.key\"{tls} }}\n{lines}\n"
    )
}

impl Scene {
    pub(crate) async fn start() -> Scene {
        Scene::start_with(|plan, _| plan, ", client_ca = \"callers-ca.pem\"").await
    }

    /// With more for the plan, and with this TLS of the listener.
    async fn start_with(more: impl FnOnce(Plan, &Authority) -> Plan, tls: &str) -> Scene {
        let (server, callers) = (Authority::root("servers", 48), Authority::root("callers", 48));
        let past = Authority::root("callers, once", -1);
        let port = free_port();
        let bundle = callers.pem() + &past.pem();
        let plan = plan(&server, &[("callers-ca.pem", bundle)]).sections(&listener(port, tls, ""));
        let world = more(plan, &callers).start().await;
        world.connect("user-1", ALICE).await;
        Scene { world, server, port, callers, past }
    }

    /// Replaces a file of TLS, and waits until a reload has ended so.
    async fn replace(&self, file: &str, content: impl AsRef<[u8]>, outcome: &str) {
        let before = self.reloads(outcome).await;
        let path = self.world.folder.path().join(file);
        // As a careful writer does it, so that no half of a file is read.
        let aside = self.world.folder.path().join("aside");
        write_secret(&aside, "");
        std::fs::write(&aside, content).expect("written");
        std::fs::rename(&aside, path).expect("replaced");
        self.world.until("a reload", async || self.reloads(outcome).await > before).await;
    }

    async fn reloads(&self, outcome: &str) -> u64 {
        self.number(&format!("config_reloads_total{{outcome=\"{outcome}\"}}")).await
    }

    pub(crate) async fn number(&self, series: &str) -> u64 {
        let shown = self.world.metrics().await;
        let prefix = format!("tokenward_{series} ");
        let value = shown.lines().find_map(|line| line.strip_prefix(&prefix)).unwrap_or("0");
        value.parse().expect("a whole number")
    }

    /// Sends one request on a connection of its own. `Err` if TLS ends it.
    async fn ask_at(
        &self,
        port: u16,
        identity: Option<&Identity>,
        key: Option<&str>,
    ) -> Result<Answer, http_client::Failure> {
        let stream = dial(&connector(&self.server.pem(), identity), port).await?;
        let bearer = key.map(|key| format!("Bearer {key}"));
        let headers: Vec<_> = bearer.iter().map(|bearer| ("authorization", bearer.as_str())).collect();
        exchange(stream, Method::GET, &TOKEN.parse()?, "localhost", &headers, bytes::Bytes::new()).await
    }

    /// The caller and method of the last hand-out, as the audit has them.
    fn last_caller(&self) -> (String, String) {
        let line = self.last_record("token");
        let text = |key: &str| line[key].as_str().unwrap_or_default().to_owned();
        (text("caller"), text("method"))
    }

    /// The last record of an action; null if there is none yet.
    pub(crate) fn last_record(&self, action: &str) -> Value {
        let audit = std::fs::read_to_string(self.world.folder.path().join("audit.jsonl")).expect("audit");
        let lines = audit.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        lines.rev().find(|line| line["action"] == action).unwrap_or_default()
    }

    async fn refused(&self, reason: &str) -> u64 {
        self.number(&format!("http_connections_refused_total{{listener=\"local\",reason=\"{reason}\"}}"))
            .await
    }

    /// Whether a client with this certificate alone gets a token: `None` if TLS ends it.
    async fn is_served(&self, identity: &Identity) -> Option<bool> {
        let answer = self.ask_at(self.port, Some(identity), None).await.ok()?;
        Some(answer.status == 200)
    }
}

/// The outcome of one request.
#[derive(Debug, PartialEq)]
enum Outcome {
    /// A token for this caller, who proved itself by this method.
    Served(&'static str, &'static str),
    /// 401, with this reason in the audit.
    Refused(&'static str),
    /// The handshake failed for the certificate.
    Ended,
}

#[tokio::test]
async fn a_certificate_names_its_caller_or_is_refused() {
    use Outcome::{Ended, Refused, Served};
    let scene = Scene::start().await;
    let (ca, other) = (&scene.callers, Authority::root("callers", 48));
    let below = ca.below("team a", Some("contoso.com"));
    let spiffe = || Leaf::new().uri(SPIFFE_ID);
    let key = &scene.world.key;
    let rows: Vec<(&str, Option<Identity>, Option<&str>, Outcome)> = vec![
        ("right, by SPIFFE id", Some(ca.issue(spiffe())), None, Served("by-spiffe", "spiffe")),
        (
            "right, by DNS name",
            Some(ca.issue(Leaf::new().dns("sync.CONTOSO.com"))),
            None,
            Served("by-san", "san"),
        ),
        ("right, by URI", Some(ca.issue(Leaf::new().uri("urn:contoso:sync"))), None, Served("by-san", "san")),
        (
            "right, below another authority",
            Some(below.issue_with_chain(Leaf::new().dns("sync.contoso.com"))),
            None,
            Served("by-san", "san"),
        ),
        (
            "right, of an authority past its date",
            Some(scene.past.issue(Leaf::new().dns("sync.contoso.com"))),
            None,
            Served("by-san", "san"),
        ),
        ("certificates of more than 16 KiB", Some(ca.issue(many_names(2000))), None, Ended),
        ("more than 64 names", Some(ca.issue(many_names(64))), None, Refused("unknown")),
        ("64 names", Some(ca.issue(many_names(63))), None, Served("by-san", "san")),
        ("an authority is missing", Some(below.issue(Leaf::new().dns("sync.contoso.com"))), None, Ended),
        ("wrong CA, of the same name", Some(other.issue(spiffe())), None, Ended),
        ("self-signed", Some(spiffe().self_signed()), None, Ended),
        ("expired", Some(ca.issue(spiffe().valid(-48, -1))), None, Ended),
        ("not yet valid", Some(ca.issue(spiffe().valid(1, 48))), None, Ended),
        ("wrong purpose", Some(ca.issue(spiffe().for_servers())), None, Ended),
        (
            "name constraints violated",
            Some(below.issue_with_chain(Leaf::new().dns("localhost"))),
            None,
            Ended,
        ),
        (
            "common name only",
            Some(ca.issue(Leaf::new().common_name("sync.contoso.com"))),
            None,
            Refused("unknown"),
        ),
        ("a name of nobody", Some(ca.issue(Leaf::new().dns("other.contoso.com"))), None, Refused("unknown")),
        ("a wildcard", Some(ca.issue(Leaf::new().dns("*.contoso.com"))), None, Refused("unknown")),
        (
            "a longer path",
            Some(ca.issue(Leaf::new().uri(&format!("{SPIFFE_ID}/a")))),
            None,
            Refused("unknown"),
        ),
        (
            "two SPIFFE ids",
            Some(ca.issue(spiffe().uri("spiffe://contoso.com/other"))),
            None,
            Refused("unknown"),
        ),
        ("two callers named", Some(ca.issue(spiffe().dns("sync.contoso.com"))), None, Refused("ambiguous")),
        ("no certificate, with an API key", None, Some(key), Served("mail-sync", "api_keys")),
        ("no certificate, no key", None, None, Refused("missing")),
        ("a certificate and a bad key", Some(ca.issue(spiffe())), Some("twk_bad"), Refused("malformed")),
        (
            "a certificate and another's key",
            Some(ca.issue(spiffe())),
            Some(key),
            Served("mail-sync", "api_keys"),
        ),
    ];
    let mut ended = 0;
    for (what, identity, key, expected) in rows {
        let outcome = match scene.ask_at(scene.port, identity.as_ref(), key).await {
            Err(_) => Ended,
            Ok(answer) if answer.status == 200 => match scene.last_caller() {
                (caller, method) if (&*caller, &*method) == served(&expected) => {
                    Served(served(&expected).0, served(&expected).1)
                }
                other => panic!("{what}: {other:?}"),
            },
            Ok(answer) => {
                assert_eq!(answer.status, 401, "{what}: {}", answer.text());
                assert_eq!(answer.json()["code"], "caller_unauthenticated", "{what}");
                scene
                    .world
                    .until("the refusal is audited", async || {
                        let record = scene.last_record("refused");
                        matches!(expected, Refused(reason) if record["reason"] == reason)
                    })
                    .await;
                match expected {
                    Refused(reason) => Refused(reason),
                    _ => panic!("{what}: refused"),
                }
            }
        };
        assert_eq!(outcome, expected, "{what}\n{}", scene.world.daemon.log());
        ended += u64::from(outcome == Ended);
    }
    assert_eq!((scene.refused("client_certificate").await, scene.refused("handshake").await), (ended, 0));
}

/// A caller's name and so many others.
fn many_names(others: usize) -> Leaf {
    let first = Leaf::new().dns("sync.contoso.com");
    (0..others).fold(first, |leaf, number| leaf.dns(&format!("n{number}.example")))
}

fn served(outcome: &Outcome) -> (&'static str, &'static str) {
    match outcome {
        Outcome::Served(caller, method) => (caller, method),
        Outcome::Refused(_) | Outcome::Ended => ("", ""),
    }
}

#[tokio::test]
async fn what_a_current_list_does_not_clear_is_refused() {
    let below = Arc::new(Mutex::new(None));
    let scene = {
        let below = below.clone();
        let more = move |plan: Plan, root: &Authority| {
            let (listed, unlisted) = (root.below("listed", None), root.below("unlisted", None));
            let lists = root.revoked(&[7], 24) + &listed.revoked(&[9], 24);
            *below.lock() = Some((listed, unlisted));
            plan.file("callers.crl", &lists)
        };
        Scene::start_with(more, ", client_ca = \"callers-ca.pem\", client_crl = \"callers.crl\"").await
    };
    let (listed, unlisted) = below.lock().take().expect("made");
    let root = &scene.callers;
    let leaf = |serial| Leaf::new().uri(SPIFFE_ID).serial(serial);
    let good = root.issue(leaf(8));
    for (what, identity, expected) in [
        ("not revoked", good.clone(), Some(true)),
        ("revoked", root.issue(leaf(7)), None),
        ("not revoked, below another authority", listed.issue_with_chain(leaf(7)), Some(true)),
        ("revoked by that one", listed.issue_with_chain(leaf(9)), None),
        ("of an authority without a list", unlisted.issue_with_chain(leaf(8)), None),
    ] {
        assert_eq!(scene.is_served(&identity).await, expected, "{what}\n{}", scene.world.daemon.log());
    }
    assert_eq!(scene.refused("client_certificate").await, 3);

    // Another authority of the same name has signed this list.
    let other = Authority::root("callers", 48);
    scene.replace("callers.crl", other.revoked(&[], 24), "ok").await;
    assert_eq!(scene.is_served(&good).await, None, "a list that the authority has not signed");
    // As authorities publish it.
    scene.replace("callers.crl", root.revoked_der(&[7], 24), "ok").await;
    assert_eq!(scene.is_served(&good).await, Some(true), "a list in DER");
    scene.replace("callers.crl", root.revoked(&[1000], 24) + &listed.revoked(&[], 24), "ok").await;
    assert_eq!(scene.is_served(&listed.issue_with_chain(leaf(7))).await, None, "the authority is revoked");

    // What cannot be used changes nothing.
    for bad in ["", "not a list", &good.chain, &Authority::root("others", 48).revoked(&[], 24)] {
        scene.replace("callers.crl", bad, "failed").await;
        assert_eq!(scene.is_served(&good).await, Some(true), "{bad}");
    }
    let log = scene.world.daemon.log();
    assert!(log.contains("callers.crl has no list of `CN=callers`"), "{log}");
    assert!(log.contains("callers-ca.pem expired at"), "{log}");

    // A list that gets too old while the daemon runs.
    scene.replace("callers.crl", root.revoked(&[], 1), "ok").await;
    assert_eq!(scene.is_served(&good).await, Some(true));
    scene.world.pass(Duration::from_secs(2 * 3600));
    assert_eq!(scene.is_served(&good).await, None, "the list is out of date");
    let shown = scene.world.metrics().await;
    assert!(shown.contains("tokenward_tls_client_crl_expiry_seconds{listener=\"local\"} -3"), "{shown}");
    assert!(shown.contains("tokenward_tls_client_ca_expiry_seconds{listener=\"local\"} -1"), "{shown}");
}

#[tokio::test]
async fn a_listener_accepts_what_it_names() {
    let (only_spiffe, no_keys) = (free_port(), free_port());
    let admin = free_port();
    let more = |plan: Plan, _: &Authority| {
        let tls = ", client_ca = \"callers-ca.pem\"";
        plan.sections(&listener(only_spiffe, tls, "accept = [\"spiffe\"]"))
            .sections(&listener(no_keys, "", "accept = [\"api_keys\"]"))
            .sections("[[listen.local]]\nunix = \"users.sock\"\naccept = [\"unix_user\"]\n")
            .sections(&listener(admin, tls, "").replace("listen.local", "listen.admin"))
            .sections("[admins.operator]\nauthenticate = [{ spiffe = \"spiffe://contoso.com/operator\" }]\n")
    };
    let scene = Scene::start_with(more, "").await;
    let (ca, key) = (&scene.callers, Some(scene.world.key.as_str()));
    let by_spiffe = ca.issue(Leaf::new().uri(SPIFFE_ID));
    let by_san = ca.issue(Leaf::new().dns("sync.contoso.com"));
    let ask = async |port, identity, key| match scene.ask_at(port, identity, key).await {
        Ok(answer) => answer.status.as_u16(),
        Err(_) => 0,
    };
    for (what, port, identity, key, expected) in [
        ("a listener without client_ca asks for no certificate", scene.port, Some(&by_spiffe), None, 401),
        ("and takes keys", scene.port, None, key, 200),
        ("what it names", only_spiffe, Some(&by_spiffe), None, 200),
        ("a name that does not count", only_spiffe, Some(&by_san), None, 401),
        ("a key that does not count, beside a good certificate", only_spiffe, Some(&by_spiffe), key, 401),
        ("no certificate where nothing else counts", only_spiffe, None, key, 0),
        ("keys where they are named", no_keys, None, key, 200),
    ] {
        assert_eq!(ask(port, identity, key).await, expected, "{what}\n{}", scene.world.daemon.log());
    }
    // A key at a socket for users alone.
    let socket = scene.world.folder.path().join("users.sock");
    let bearer = format!("Bearer {}", scene.world.key);
    let headers = [("authorization", bearer.as_str())];
    let answer = request_unix(&socket, Method::GET, TOKEN, &headers, "").await.expect("an answer");
    assert_eq!(answer.status, 401, "{}", answer.text());
    scene
        .world
        .until("its reason is audited", async || scene.last_record("refused")["reason"] == "not_accepted")
        .await;

    // Operators, too.
    let operator = ca.issue(Leaf::new().uri("spiffe://contoso.com/operator"));
    for (identity, expected) in [(&operator, 200), (&by_spiffe, 401)] {
        let stream = dial(&connector(&scene.server.pem(), Some(identity)), admin).await.expect("TLS");
        let uri = "/admin/v1/status".parse().expect("a path");
        let answer = exchange(stream, Method::GET, &uri, "localhost", &[], bytes::Bytes::new()).await;
        let answer = answer.expect("an answer");
        assert_eq!(answer.status, expected, "{}", answer.text());
    }

    // A change counts for the next request.
    let file = scene.world.folder.path().join("tokenward.toml");
    let config = std::fs::read_to_string(&file).expect("the configuration");
    scene
        .replace("tokenward.toml", config.replace("accept = [\"spiffe\"]", "accept = [\"san\"]"), "ok")
        .await;
    assert_eq!(ask(only_spiffe, Some(&by_san), None).await, 200);
    assert_eq!(ask(only_spiffe, Some(&by_spiffe), None).await, 401);
}

/// What of a session's cookie a browser sends back.
fn cookie(answer: &Answer) -> String {
    let set = answer.headers["set-cookie"].to_str().expect("text");
    for part in ["__Host-tokenward-console-", "; Path=/", "; HttpOnly", "; SameSite=Strict", "; Secure"] {
        assert!(set.contains(part), "{part} in {set}");
    }
    set.split(';').next().expect("a pair").to_owned()
}

#[tokio::test]
async fn the_console_knows_an_operator_by_the_certificate_and_by_nothing_else() {
    let admin = free_port();
    let more = |plan: Plan, _: &Authority| {
        let named = |name: &str| {
            format!("[admins.{name}]\nauthenticate = [{{ spiffe = \"spiffe://contoso.com/{name}\" }}]\n")
        };
        let tls = ", client_ca = \"callers-ca.pem\"";
        plan.sections(&listener(admin, tls, "").replace("listen.local", "listen.admin"))
            .sections(&(named("ada") + &named("bob")))
    };
    let scene = Scene::start_with(more, "").await;
    let of = |name: &str| scene.callers.issue(Leaf::new().uri(&format!("spiffe://contoso.com/{name}")));
    let (ada, bob, caller) = (of("ada"), of("bob"), scene.callers.issue(Leaf::new().uri(SPIFFE_ID)));
    let ask = async |identity: Option<&Identity>, method: Method, headers: &[(&str, &str)], body: &str| {
        let stream = dial(&connector(&scene.server.pem(), identity), admin).await.expect("TLS");
        let uri = if method == Method::GET { "/console" } else { "/console/leave" };
        let body = bytes::Bytes::from(body.to_owned());
        let uri = uri.parse().expect("a path");
        exchange(stream, method, &uri, "localhost", headers, body).await.expect("an answer")
    };

    let opened = ask(Some(&ada), Method::GET, &[], "").await;
    assert_eq!(opened.status, 200, "{}", opened.text());
    assert!(opened.text().contains("<strong>ada</strong>"), "{}", opened.text());
    let hers = cookie(&opened);
    let again = ask(Some(&ada), Method::GET, &[("cookie", &hers)], "").await;
    assert!(again.status == 200 && !again.headers.contains_key("set-cookie"), "the session goes on");

    // Her cookie without her certificate is nobody's, and with another's it is the other's new session.
    assert_eq!(ask(None, Method::GET, &[("cookie", &hers)], "").await.status, 401);
    assert_eq!(ask(Some(&caller), Method::GET, &[("cookie", &hers)], "").await.status, 401);
    let other = ask(Some(&bob), Method::GET, &[("cookie", &hers)], "").await;
    assert!(other.text().contains("<strong>bob</strong>"), "{}", other.text());
    assert_ne!(cookie(&other), hers);

    // A certificate alone sends no form.
    // (The page has several forms, each with the session's token.)
    let fields = crate::world::hidden_fields(&opened.text());
    let csrf = fields.split('&').next().expect("a token");
    let form = ("content-type", "application/x-www-form-urlencoded");
    let own = ("origin", "https://localhost");
    assert_eq!(ask(Some(&ada), Method::POST, &[form, own], csrf).await.status, 401);
    let foreign = [form, ("origin", "https://evil.example"), ("cookie", &hers)];
    assert_eq!(ask(Some(&ada), Method::POST, &foreign, csrf).await.status, 400);
    assert_eq!(ask(Some(&ada), Method::POST, &[form, own, ("cookie", &hers)], csrf).await.status, 200);
}

/// A connection that stays open for several requests.
struct Kept(hyper::client::conn::http1::SendRequest<Empty<bytes::Bytes>>);

impl Kept {
    async fn open(scene: &Scene, identity: &Identity) -> Kept {
        let stream = dial(&connector(&scene.server.pem(), Some(identity)), scene.port).await.expect("TLS");
        let (sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.expect("HTTP");
        tokio::spawn(connection);
        Kept(sender)
    }

    /// The status of the answer, and whether the connection ends with it.
    async fn ask(&mut self, key: Option<&str>) -> (u16, bool) {
        let mut request = http::Request::builder().uri(TOKEN).header(header::HOST, "localhost");
        if let Some(key) = key {
            request = request.header(header::AUTHORIZATION, format!("Bearer {key}"));
        }
        let request = request.body(Empty::new()).expect("a request");
        let answer = self.0.send_request(request).await.expect("an answer");
        let ends = answer.headers().get(header::CONNECTION).is_some_and(|value| value == "close");
        let status = answer.status().as_u16();
        answer.into_body().collect().await.expect("a body");
        (status, ends)
    }
}

/// Clients that ask without end, each request on a connection of its own.
struct Load {
    identity: Arc<Mutex<Identity>>,
    served: Arc<AtomicUsize>,
    failed: Arc<Mutex<Vec<String>>>,
    stop: Arc<AtomicBool>,
    clients: Vec<tokio::task::JoinHandle<()>>,
}

impl Load {
    fn start(scene: &Scene, identity: Identity, clients: usize) -> Load {
        let mut load = Load {
            identity: Arc::new(Mutex::new(identity)),
            served: Arc::default(),
            failed: Arc::default(),
            stop: Arc::default(),
            clients: Vec::new(),
        };
        for _ in 0..clients {
            let (identity, served, failed, stop) =
                (load.identity.clone(), load.served.clone(), load.failed.clone(), load.stop.clone());
            let (server_ca, port) = (scene.server.pem(), scene.port);
            load.clients.push(tokio::spawn(async move {
                while !stop.load(Ordering::SeqCst) {
                    let identity = identity.lock().clone();
                    let asked = async {
                        let stream = dial(&connector(&server_ca, Some(&identity)), port).await?;
                        let uri = TOKEN.parse()?;
                        exchange(stream, Method::GET, &uri, "localhost", &[], bytes::Bytes::new()).await
                    };
                    match asked.await {
                        Ok(answer) if answer.status == 200 => {
                            served.fetch_add(1, Ordering::SeqCst);
                        }
                        Ok(answer) => failed.lock().push(answer.text()),
                        Err(error) => failed.lock().push(error.to_string()),
                    }
                }
            }));
        }
        load
    }

    /// Waits until every client has been served once more and has begun again.
    async fn goes_on(&self, scene: &Scene) {
        let enough = self.served.load(Ordering::SeqCst) + 3 * self.clients.len();
        scene.world.until("the load goes on", async || self.served.load(Ordering::SeqCst) >= enough).await;
    }

    async fn end(self) -> (usize, Vec<String>) {
        self.stop.store(true, Ordering::SeqCst);
        for client in self.clients {
            client.await.expect("a client");
        }
        (self.served.load(Ordering::SeqCst), std::mem::take(&mut *self.failed.lock()))
    }
}

#[tokio::test]
async fn authorities_are_replaced_under_load_and_an_untrusted_certificate_ends_its_connection() {
    let scene = Scene::start().await;
    let (old, new) = (&scene.callers, Authority::root("callers, from now on", 48));
    let (by_old, by_new) = (old.issue(Leaf::new().uri(SPIFFE_ID)), new.issue(Leaf::new().uri(SPIFFE_ID)));
    assert_eq!(scene.is_served(&by_new).await, None, "not trusted yet");
    let load = Load::start(&scene, by_old.clone(), 4);
    load.goes_on(&scene).await;

    scene.replace("callers-ca.pem", old.pem() + &new.pem(), "ok").await;
    load.goes_on(&scene).await;
    assert_eq!(scene.is_served(&by_new).await, Some(true));
    *load.identity.lock() = by_new.clone();
    load.goes_on(&scene).await;
    scene.replace("callers-ca.pem", "half a bundle", "failed").await;
    load.goes_on(&scene).await;
    assert_eq!(scene.is_served(&by_old).await, Some(true), "a bad file changes nothing");
    let (mut kept, mut with_key) = (Kept::open(&scene, &by_old).await, Kept::open(&scene, &by_old).await);
    assert_eq!((kept.ask(None).await, with_key.ask(None).await), ((200, false), (200, false)));
    scene.replace("callers-ca.pem", new.pem(), "ok").await;
    load.goes_on(&scene).await;
    let (served, failed) = load.end().await;
    assert!(served > 0 && failed.is_empty(), "{served} served, failed: {failed:?}");

    assert_eq!(scene.is_served(&by_old).await, None, "no longer trusted");
    assert_eq!(kept.ask(None).await, (401, true), "not on an open connection either");
    let key = Some(scene.world.key.as_str());
    assert_eq!(with_key.ask(key).await, (200, true), "a key decides alone, and the connection ends");
    scene
        .world
        .until("its reason is audited", async || scene.last_record("refused")["reason"] == "distrusted")
        .await;

    // A certificate that expires while its connection is open.
    let short = new.issue(Leaf::new().uri(SPIFFE_ID).valid(-1, 1));
    let mut kept = Kept::open(&scene, &short).await;
    assert_eq!(kept.ask(None).await, (200, false));
    scene.world.pass(Duration::from_secs(2 * 3600));
    assert_eq!(kept.ask(None).await, (401, true), "expired");
}

/// An open stream of tokens, too.
#[tokio::test]
async fn a_stream_ends_when_its_certificate_is_not_trusted_any_more() {
    let scene = Scene::start().await;
    let identity = scene.callers.issue(Leaf::new().uri(SPIFFE_ID));
    let other = Authority::root("callers, from now on", 48);
    scene.replace("callers-ca.pem", scene.callers.pem() + &other.pem(), "ok").await;
    let open = async || {
        let connection = dial(&connector(&scene.server.pem(), Some(&identity)), scene.port).await;
        let path = format!("{TOKEN}/watch");
        watch::open_over(connection.expect("TLS"), &path, &[]).await.expect("a stream")
    };
    let mut stream = open().await;
    let first = stream.event().await;
    assert_eq!(first.token(), scene.world.access_token("user-1").await);
    let renewed = watch::renew(&scene.world, "user-1").await;
    assert_eq!(stream.event().await.token(), renewed);
    scene.replace("callers-ca.pem", other.pem(), "ok").await;
    assert_eq!(stream.event().await.code(), "caller_unauthenticated");
    assert_eq!(stream.next().await, None);
}

/// The commands of the guide, with other tools: OpenSSL makes the certificates, and curl shows them.
#[tokio::test]
async fn the_guide_s_commands_do_what_they_say() {
    let guide = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/client-certificates.md"));
    let guide = guide.expect("the guide");
    let blocks = |language: &str| -> Vec<String> {
        let begin = format!("```{language}\n");
        let blocks = guide.split(&begin).skip(1).map(|rest| rest.split("```").next().unwrap_or_default());
        blocks.map(str::to_owned).collect()
    };
    let (commands, settings) = (blocks("sh"), blocks("toml").concat());
    let [make, ask] = &commands[..] else { panic!("{commands:?}") };
    let run = |folder: &std::path::Path, script: &str| {
        let mut bash = std::process::Command::new("bash");
        let ran = bash.arg("-euc").arg(script).current_dir(folder).output().expect("bash");
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        (ran.status.success(), text(&ran.stdout), text(&ran.stderr))
    };
    let made = tempfile::tempdir().expect("a folder");
    let (is_made, _, said) = run(made.path(), make);
    assert!(is_made, "{said}");

    let port = free_port();
    let (folder, place) = (made.path().to_str().expect("UTF-8"), format!("127.0.0.1:{port}"));
    let sections = settings.replace("/etc/tokenward/tls", folder).replace("10.0.0.5:7443", &place);
    let world = Plan::default().sections(&sections).start().await;
    world.connect("user-4711", ALICE).await;
    let ask = ask.replace("https://tokens.contoso.com:7443", &format!("https://localhost:{port}"));
    let (is_done, answer, said) = run(made.path(), &ask);
    assert!(is_done && answer.contains("access_token"), "{answer}{said}{}", world.daemon.log());
}

/// `tls_client_auth` (RFC 8705 section 2) at the token endpoint, as curl and Python's requests do it.
#[tokio::test]
async fn a_certificate_is_a_client_at_the_token_endpoint() {
    let scene = Scene::start().await;
    let folder = scene.world.folder.path();
    let write = |name: &str, Identity { chain, key }: &Identity| {
        write_secret(&folder.join(format!("{name}.pem")), chain);
        write_secret(&folder.join(format!("{name}.key")), key);
    };
    write("client", &scene.callers.issue(Leaf::new().uri(SPIFFE_ID)));
    write("nobody", &scene.callers.issue(Leaf::new().uri("spiffe://contoso.com/nobody")));
    write_secret(&folder.join("servers.pem"), &scene.server.pem());
    let token = scene.world.access_token("user-1").await;
    let url = format!("https://localhost:{}", scene.port);
    let form = "grant_type=urn:ietf:params:oauth:grant-type:token-exchange&subject_token=outlook:user-1&\
                subject_token_type=urn:tokenward:params:oauth:token-type:connection";
    let curl = async |who: &str, more: &str| {
        let mut curl = command("curl");
        curl.current_dir(folder).args(["-sS", "--cacert", "servers.pem", "-d", &format!("{form}{more}")]);
        if !who.is_empty() {
            curl.args(["--cert", &format!("{who}.pem"), "--key", &format!("{who}.key")]);
        }
        curl.arg(format!("{url}/oauth2/token"));
        let output = tokio::task::spawn_blocking(move || curl.output()).await.expect("joined").expect("curl");
        serde_json::from_slice::<Value>(&output.stdout)
            .unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&output.stderr)))
    };
    // RFC 8705 has the client name itself; a certificate names its caller here, so it may leave that out.
    for more in ["", "&client_id=by-spiffe"] {
        assert_eq!(curl("client", more).await["access_token"], token, "{more}");
        assert_eq!(scene.last_caller(), ("by-spiffe".to_owned(), "spiffe".to_owned()));
    }
    for (who, more, error) in [
        ("client", "&client_id=by-san", "invalid_request"),
        ("nobody", "", "invalid_client"),
        ("nobody", "&client_id=by-spiffe", "invalid_client"),
        ("", "&client_id=by-spiffe", "invalid_client"),
        // What is presented decides alone, and the certificate is not taken in its place.
        ("client", "&client_id=by-spiffe&client_secret=x", "invalid_client"),
        ("client", "&client_assertion=a.b.c&client_assertion_type=x", "invalid_client"),
    ] {
        let refused = curl(who, more).await;
        assert_eq!(refused["error"], error, "{who} {more}: {refused}");
    }
    let script = format!(
        "import requests\n\
         client = requests.Session()\n\
         client.trust_env, client.verify, client.cert = False, 'servers.pem', ('client.pem', 'client.key')\n\
         methods = client.get('{url}/.well-known/oauth-authorization-server').json()\n\
         assert 'tls_client_auth' in methods['token_endpoint_auth_methods_supported'], methods\n\
         asked = {{pair.split('=')[0]: pair.split('=')[1] for pair in '{form}&client_id=by-spiffe'.split('&')}}\n\
         print(client.post('{url}/oauth2/token', data=asked).json()['access_token'])\n"
    );
    let mut python = command(installed("venv/bin/python", "tools"));
    python.current_dir(folder).arg("-c").arg(script);
    let output = tokio::task::spawn_blocking(move || python.output()).await.expect("joined").expect("python");
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(said.trim_end(), token, "{}", String::from_utf8_lossy(&output.stderr));
}
