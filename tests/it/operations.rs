//! What on-call relies on: probes, metrics, logs, the audit stream, stops, and the loss of a store.

use std::collections::BTreeSet;
use std::io::{Read as _, Write as _};
use std::process::{Command, Stdio};
use std::sync::Barrier;
use std::sync::atomic::{AtomicU64, Ordering};

use entra_emulator::{Endpoint, Fault, FaultRule, Mode};
use http::Method;
use rustix::process::Signal;
use serde_json::{Value, json};
use tokenward::telemetry::audit;

use crate::http_client::{request, request_unix};
use crate::redis_server::RedisTopology;
use crate::world::{ALICE, BOB, Kept, PATIENCE, Plan, SYNC, alone, text};

#[tokio::test]
async fn metrics_pass_promtool_and_count_what_happened() {
    let world = Plan::default().start().await;
    let at_start = world.metrics().await;
    for name in [
        "token_requests_total",
        "token_request_duration_seconds",
        "refreshes_total",
        "authority_requests_total",
    ] {
        assert!(at_start.contains(&format!("\ntokenward_{name}")), "{name} begins at 0:\n{at_start}");
    }
    world.connect("one", ALICE).await;
    for _ in 0..3 {
        world.access_token("one").await;
    }
    assert_eq!(world.token("nobody").await.status, 404);
    let metrics = world.metrics().await;
    let mut promtool = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("promtool is installed by `make tools`");
    promtool.stdin.take().expect("piped").write_all(metrics.as_bytes()).expect("written");
    let checked = promtool.wait_with_output().expect("promtool ends");
    assert!(checked.status.success(), "{}", String::from_utf8_lossy(&checked.stderr));

    let value = |name: &str| {
        let line = metrics
            .lines()
            .find(|line| line.starts_with(name))
            .unwrap_or_else(|| panic!("no {name} in\n{metrics}"));
        line.rsplit(' ').next().and_then(|value| value.parse::<f64>().ok()).expect("a value")
    };
    let served = format!(
        "tokenward_token_requests_total\
         {{app=\"outlook\",caller=\"{SYNC}\",dialect=\"native\",outcome=\"ok\"}}"
    );
    assert_eq!(value(&served) as u64, 3);
    assert!(metrics.contains("outcome=\"connection_not_found\""));
    assert!(metrics.contains("tokenward_build_info{version="));
    assert!(metrics.contains("process_resident_memory_bytes"));
    assert!(metrics.contains("tokenward_store_operation_duration_seconds_bucket"));
    // How credentials stand is shown once a second.
    let in_use = "tokenward_credential_state{app=\"outlook\",credential=\"first\",state=\"in_use\"} 1";
    world.until(in_use, async || world.metrics().await.contains(in_use)).await;
    assert!(
        !metrics.contains(ALICE) && !metrics.contains("connection=\"one\""),
        "no names of users or connections"
    );
}

#[tokio::test]
async fn probes_answer_and_say_nothing_else() {
    let world = Plan::default().start().await;
    for (path, status) in
        [("/livez", 200), ("/readyz", 200), ("/", 404), ("/debug/pprof", 404), ("/metrics/x", 404)]
    {
        let answer =
            request(Method::GET, &format!("{}{path}", world.daemon.ops), &[], "").await.expect("an answer");
        assert_eq!(answer.status, status, "{path}");
        assert!(answer.headers.get("server").is_none());
    }
    let answer =
        request(Method::POST, &format!("{}/livez", world.daemon.ops), &[], "").await.expect("an answer");
    assert_eq!(answer.status, 405);
    assert_eq!(answer.headers["allow"], "GET, HEAD");
}

#[tokio::test]
async fn each_act_is_one_audit_line_with_its_request_id() {
    let world = Plan::default().start().await;
    world.connect("team-b/one", ALICE).await;
    let url = format!("{}/v1/apps/outlook/connections/team-b%2Fone/token", world.daemon.local);
    let bearer = format!("Bearer {}", world.reader_key);
    let trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let headers = [("authorization", bearer.as_str()), ("traceparent", trace)];
    assert_eq!(
        request(Method::GET, &format!("{url}?scope=Mail.Read"), &headers, "").await.expect("ok").status,
        200
    );
    let refused = request(Method::GET, &format!("{url}?scope=Mail.Send"), &headers, "").await.expect("ok");
    assert_eq!(refused.status, 403);
    assert_eq!(refused.json()["request_id"], "0af7651916cd43dd8448eb211c80319c");
    assert_eq!(request(Method::GET, &url, &[], "").await.expect("ok").status, 401);
    assert_eq!(
        world.api(Method::DELETE, "/v1/apps/outlook/connections/team-b%2Fone", Value::Null).await.status,
        204
    );

    let path = world.folder.path().join("audit.jsonl");
    let lines = || {
        let text = std::fs::read_to_string(&path).expect("the audit log");
        text.lines().map(|line| serde_json::from_str::<Value>(line).expect("JSON")).collect::<Vec<_>>()
    };
    world
        .until("a record of the delete, and of the stranger, who waits for none", async || {
            let has = |key: &str, word: &str| lines().iter().any(|line| line[key] == word);
            has("action", "deleted") && has("outcome", "caller_unauthenticated")
        })
        .await;
    let all = lines();
    let of = |action: &str| all.iter().filter(|line| line["action"] == action).cloned().collect::<Vec<_>>();
    for action in ["started", "connect_started", "connected", "confirmed", "deleted"] {
        assert_eq!(of(action).len(), 1, "{action} in {all:#?}");
    }
    let tokens = of("token");
    assert_eq!(tokens.len(), 1);
    assert_eq!((text(&tokens[0], "caller"), text(&tokens[0], "connection")), ("mail-reader", "team-b/one"));
    assert_eq!(tokens[0]["request_id"], "0af7651916cd43dd8448eb211c80319c");
    let refusals: Vec<String> = of("refused").iter().map(|line| text(line, "outcome").to_owned()).collect();
    assert_eq!(refusals, ["caller_forbidden", "caller_unauthenticated"]);
}

/// The daemon is killed while answers are on their way, by whoever just got one: every token that anybody got
/// has its record in the audit file.
#[tokio::test]
async fn no_token_leaves_before_its_audit_record() {
    const KILLS: u64 = 8;
    const CALLERS: u64 = 24;
    let _alone = alone().await;
    let mut world = Plan::default().start().await;
    world.connect("one", ALICE).await;
    let path = world.folder.path().join("audit.jsonl");
    let mut unaudited = Vec::new();
    for kill in 1..=KILLS {
        let load = Load {
            address: world.daemon.local.trim_start_matches("http://").to_owned(),
            key: world.key.clone(),
            pid: world.daemon.pid(),
            answers: AtomicU64::new(0),
            // Never at the same point of a batch.
            kill_after: 100 + 37 * kill,
            connected: Barrier::new(CALLERS as usize),
        };
        let load = &load;
        let received: Vec<String> = std::thread::scope(|scope| {
            let callers: Vec<_> =
                (0..CALLERS).map(|caller| scope.spawn(move || load.run(kill << 8 | caller))).collect();
            callers.into_iter().flat_map(|caller| caller.join().expect("a caller")).collect()
        });
        world.daemon.kill();
        assert!(
            received.len() as u64 >= load.kill_after,
            "{} answers\n{}",
            received.len(),
            world.daemon.log()
        );
        let audited: BTreeSet<String> = std::fs::read_to_string(&path)
            .expect("the audit log")
            .lines()
            .filter_map(|line| serde_json::from_str::<Value>(line).ok())
            .filter(|line| line["action"] == "token")
            .map(|line| text(&line, "request_id").to_owned())
            .collect();
        unaudited.extend(received.into_iter().filter(|id| !audited.contains(id)).map(|id| (kill, id)));
        world.kill_and_restart().await;
    }
    assert!(unaudited.is_empty(), "tokens without a record, by kill: {unaudited:#?}");
    // A kill within a write may leave a torn line: nobody had an answer by then. Nothing else may be wrong.
    let found = audit::verify(std::fs::File::open(&path).expect("the audit log")).expect("read");
    assert_eq!(found.flaws, []);
    assert_eq!(found.starts, KILLS + 1);
}

/// Callers that ask for one connection's token as fast as they can.
struct Load {
    address: String,
    key: String,
    pid: u32,
    answers: AtomicU64,
    kill_after: u64,
    /// Nobody asks before everybody is connected: whoever came later would find nobody there.
    connected: Barrier,
}

impl Load {
    /// Asks until the daemon is gone; the ids of the requests that got a token.
    fn run(&self, caller: u64) -> Vec<String> {
        let mut got = Vec::new();
        let mut stream = std::net::TcpStream::connect(&self.address).expect("connected");
        stream.set_nodelay(true).expect("a TCP stream");
        self.connected.wait();
        stream.set_read_timeout(Some(PATIENCE)).expect("a TCP stream");
        let mut answer = Vec::new();
        for number in 1_u64.. {
            let id = format!("{caller:016x}{number:016x}");
            let request = format!(
                "GET /v1/apps/outlook/connections/one/token HTTP/1.1\r\nhost: localhost\r\n\
                 authorization: Bearer {}\r\ntraceparent: 00-{id}-b7ad6b7169203331-01\r\n\r\n",
                self.key
            );
            if stream.write_all(request.as_bytes()).is_err() || !read_answer(&mut stream, &mut answer) {
                break;
            }
            // A daemon that has just started may not have read its store yet.
            if !answer.starts_with(b"HTTP/1.1 200") {
                assert!(number < 10_000, "{}", String::from_utf8_lossy(&answer));
                continue;
            }
            if self.answers.fetch_add(1, Ordering::Relaxed) + 1 == self.kill_after {
                let pid = i32::try_from(self.pid).ok().and_then(rustix::process::Pid::from_raw);
                let _ = rustix::process::kill_process(pid.expect("a pid"), rustix::process::Signal::KILL);
            }
            got.push(id);
        }
        got
    }
}

/// Reads one answer whole; `false` when the server is gone before.
fn read_answer(stream: &mut std::net::TcpStream, answer: &mut Vec<u8>) -> bool {
    answer.clear();
    let mut buffer = [0; 16 * 1024];
    loop {
        match stream.read(&mut buffer) {
            Ok(0) | Err(_) => return false,
            Ok(more) => answer.extend_from_slice(&buffer[..more]),
        }
        let Some(head) = answer.windows(4).position(|four| four == b"\r\n\r\n") else { continue };
        let text = std::str::from_utf8(&answer[..head]).expect("a head is ASCII");
        let length = text.lines().find_map(|line| line.strip_prefix("content-length: "));
        if answer.len()
            >= head + 4 + length.and_then(|length| length.parse::<usize>().ok()).expect("a length")
        {
            return true;
        }
    }
}

/// One call yields a token or the way to one; a caller that polls is given the same link while it is unused.
#[tokio::test]
async fn a_token_request_may_bring_the_link_at_which_the_user_can_mend_it() {
    let world = Plan::default().start().await;
    let first = world.token_with("new", "?connect=1").await;
    assert_eq!((first.status.as_u16(), text(&first.json(), "code")), (404, "connection_not_found"));
    let link = text(&first.json(), "connect_url").to_owned();
    assert_eq!(text(&world.token_with("new", "?connect=1").await.json(), "connect_url"), link);
    assert!(world.token("new").await.json()["connect_url"].is_null());
    world.sign_in(&mut crate::http_client::Browser::default(), &link).await;
    let second = world.token_with("new", "?connect=1").await.json();
    assert_ne!(text(&second, "connect_url"), link, "a link that was used is not given again");
    // Who may not connect gets no link.
    let path = "/v1/apps/outlook/connections/team-b%2Fnew/token?connect=1";
    let refused = world.api_as(&world.reader_key, Method::GET, path, Value::Null).await;
    assert_eq!(refused.status, 404);
    assert!(refused.json()["connect_url"].is_null());
}

/// What the authority refuses for a caller's challenge, or for one more resource, is that caller's answer:
/// the connection stays active and everybody else unharmed.
#[tokio::test]
async fn a_verdict_on_a_challenge_or_another_resource_is_not_the_connections() {
    let scopes =
        r#"["offline_access", "openid", "profile", "Mail.Read", "https://outlook.office.com/SMTP.Send"]"#;
    let world = Plan { scopes, ..Plan::default() }.start().await;
    world.connect("one", ALICE).await;
    let graph = "?resource=https://graph.microsoft.com";
    let refuse = |code| {
        let rule = FaultRule::new(Endpoint::Token, Fault::aadsts(code)).grant_type("refresh_token");
        world.entra.faults().inject(rule.once());
    };
    let unharmed = async || {
        assert_eq!(world.show("one").await["status"], "active");
        let answer = world.token_with("one", graph).await;
        assert_eq!((answer.status.as_u16(), answer.json()["status"].clone()), (200, json!("active")));
    };

    refuse(53003);
    let path = "/v1/apps/outlook/connections/one/token";
    let claims = json!({
        "claims": { "access_token": { "acrs": { "value": "c9" } } },
        "resource": "https://graph.microsoft.com",
    });
    let refused = world.api(Method::POST, path, claims).await;
    assert_eq!((refused.status.as_u16(), text(&refused.json(), "code")), (409, "connection_blocked"));
    unharmed().await;

    refuse(65001);
    let refused = world.token_with("one", "?resource=https://outlook.office.com").await;
    assert_eq!((refused.status.as_u16(), text(&refused.json(), "code")), (409, "reauthorization_required"));
    unharmed().await;
    // Nor after the held token's end: the plain refresh works.
    world.outlive_tokens();
    unharmed().await;
}

/// Entra's own spelling for all of a resource, as its libraries send it.
#[tokio::test]
async fn a_resource_may_be_asked_for_by_its_default_scope() {
    let world = Plan::default().start().await;
    world.connect("one", ALICE).await;
    for query in
        ["?scope=https://graph.microsoft.com/.default", "?resource=https://graph.microsoft.com/.default"]
    {
        assert_eq!(world.token_with("one", query).await.status, 200, "{query}");
    }
    let other = world.token_with("one", "?scope=https://outlook.office.com/.default").await;
    assert_eq!((other.status.as_u16(), text(&other.json(), "code")), (409, "scope_not_granted"));
    let two = "?scope=https://outlook.office.com/.default%20https://graph.microsoft.com/.default";
    assert_eq!(world.token_with("one", two).await.status, 400);
}

#[tokio::test]
async fn the_log_is_one_json_object_a_line() {
    let world = Plan::default().start().await;
    world.connect("one", ALICE).await;
    for line in world.daemon.log().lines() {
        let event: Value = serde_json::from_str(line).unwrap_or_else(|_| panic!("not JSON: {line}"));
        assert!(event["level"].is_string() && event["timestamp"].is_string(), "{line}");
    }
}

/// A stop finishes what is in flight: the answer goes out, and what the authority rotated meanwhile is
/// stored.
async fn soft_stop(kept: Kept, mode: Mode) {
    let mut world = Plan::default().kept(kept).mode(mode).start().await;
    world.connect("one", ALICE).await;
    world.outlive_tokens();
    world.entra.faults().inject(FaultRule::new(Endpoint::Token, Fault::HoldAnswer));
    world.entra.clear_ledger();
    let url = format!("{}/v1/apps/outlook/connections/one/token", world.daemon.local);
    let bearer = format!("Bearer {}", world.key);
    let in_flight =
        tokio::spawn(async move { request(Method::GET, &url, &[("authorization", &bearer)], "").await });
    world.until_called("refresh_token", 1).await;
    world.daemon.signal(Signal::TERM);
    world.daemon.until_logged("stopping: finishing what is in flight").await;
    world.entra.faults().release();
    assert_eq!(world.daemon.ended(), Some(0), "{}", world.daemon.log());
    let log = world.daemon.log();
    world.kill_and_restart().await;
    let answer = in_flight.await.expect("joined").expect("the request was finished");
    assert_eq!(answer.status, 200, "{}\n{log}", answer.text());
    assert_eq!(world.token_calls("refresh_token"), 1);
    world.entra.faults().clear();
    // Where a used refresh token ends the grant, only the stored successor can do this.
    world.outlive_tokens();
    world.access_token("one").await;
}

#[tokio::test]
async fn a_soft_stop_finishes_what_is_in_flight_and_lets_a_successor_in() {
    soft_stop(Kept::Embedded, Mode::Entra).await;
}

#[tokio::test]
async fn a_soft_stop_on_redis_stores_what_the_authority_rotated() {
    soft_stop(Kept::Redis, Mode::Strict).await;
}

/// The store goes away between the question to the authority and its answer: nobody gets a token of that
/// answer before it is stored, and when the store is back it is, so that a grant which rotates strictly lives
/// on.
#[tokio::test]
async fn an_answer_that_the_store_does_not_take_is_held_until_it_does() {
    let mut world = Plan::default().kept(Kept::Redis).mode(Mode::Strict).start().await;
    world.connect("one", ALICE).await;
    world.outlive_tokens();
    world.entra.clear_ledger();
    world.entra.faults().inject(FaultRule::new(Endpoint::Token, Fault::HoldAnswer).once());
    let url = format!("{}/v1/apps/outlook/connections/one/token", world.daemon.local);
    let bearer = format!("Bearer {}", world.key);
    let in_flight =
        tokio::spawn(async move { request(Method::GET, &url, &[("authorization", &bearer)], "").await });
    world.until_called("refresh_token", 1).await;
    world.redis.as_mut().expect("redis").stop();
    world.entra.faults().release();
    let refused = in_flight.await.expect("joined").expect("an answer");
    assert_eq!((refused.status.as_u16(), text(&refused.json(), "code")), (503, "store_unavailable"));
    world.redis.as_mut().expect("redis").restart();
    world.until_served("one").await;
    assert_eq!(world.token_calls("refresh_token"), 1, "the answer that was held was stored and served");
    assert_eq!(world.show("one").await["status"], "active");
}

#[tokio::test]
async fn a_second_process_on_the_same_embedded_store_is_refused_and_told_why() {
    let world = Plan::default().start().await;
    let config =
        std::fs::read_to_string(world.folder.path().join("tokenward.toml")).expect("the configuration");
    let other = config
        .replace(&format!("127.0.0.1:{}", world.public_port), "127.0.0.1:0")
        .replace("local.sock", "local2.sock")
        .replace("admin.sock", "admin2.sock");
    let path = world.folder.path().join("second.toml");
    std::fs::write(&path, other).expect("write");
    let output = Command::new(env!("CARGO_BIN_EXE_tokenward"))
        .args(["serve", "--config"])
        .arg(&path)
        .output()
        .expect("it ends");
    let log = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{log}");
    assert!(log.contains("another process") && log.contains("data"), "{log}");
    assert_eq!(world.token("nobody").await.status, 404, "the first one is unharmed");
}

/// Redis gone: cached tokens are served, the rest is 503 with Retry-After; back: all is well by
/// itself.
#[tokio::test]
async fn a_lost_store_harms_no_token_that_is_held() {
    let mut world = Plan::default().kept(Kept::Redis).start().await;
    world.connect("held", ALICE).await;
    world.connect("cold", BOB).await;
    let held = world.access_token("held").await;
    world.stop_and_restart().await;
    assert_eq!(world.access_token("held").await, held, "tokens outlive a restart");
    world.redis.as_mut().expect("redis").stop();

    // Long enough for the replica to notice and to have given up on the store.
    world
        .until("it is noticed", async || {
            assert_eq!(world.access_token("held").await, held);
            world.metrics().await.contains("tokenward_store_reachable 0")
        })
        .await;
    for _ in 0..200 {
        assert_eq!(world.access_token("held").await, held);
    }
    let refused = world.token("cold").await;
    assert_eq!((refused.status.as_u16(), text(&refused.json(), "code")), (503, "store_unavailable"));
    assert!(refused.headers.contains_key("retry-after"));

    world.redis.as_mut().expect("redis").restart();
    world.until_served("cold").await;
}

/// The primary dies, and Sentinel promotes a replica: what was connected is there, and more can be.
#[tokio::test]
async fn a_failover_of_redis_is_followed() {
    let _alone = alone().await;
    let mut redis = RedisTopology::start(2, 3);
    let url = redis.url();
    let store = format!("kind = \"redis\"\nurl = \"{url}\"\nwait_replicas = 1");
    let mut world = Plan::default().store(&store).start().await;
    world.connect("one", ALICE).await;
    let held = world.access_token("one").await;
    let primary = redis.primary();
    redis.nodes[primary].stop();
    assert_eq!(world.access_token("one").await, held, "what is in memory is served");
    redis.failed_over(primary);
    redis.nodes[primary].restart();
    world.stop_and_restart().await;
    world.until_served("one").await;
    assert_eq!(world.access_token("one").await, held, "it is on the new primary");
    world.connect("two", BOB).await;
    world.access_token("two").await;
}

/// Two daemons on one Redis: what one deletes the other stops serving, by itself.
#[tokio::test]
async fn a_delete_on_one_replica_is_felt_on_the_other() {
    let world = Plan::default().kept(Kept::Redis).start().await;
    let replica = world.replica("second").await;
    world.connect("shared", ALICE).await;
    let ask = async || world.token_at(&replica, "shared").await.status.as_u16();
    assert_eq!(ask().await, 200);
    assert_eq!(
        world.api(Method::DELETE, "/v1/apps/outlook/connections/shared", Value::Null).await.status,
        204
    );
    world.until("the other's 404", async || ask().await == 404).await;
}

#[tokio::test]
async fn a_caller_is_known_by_its_unix_user_and_a_bad_key_there_is_still_refused() {
    let uid = rustix::process::geteuid().as_raw();
    let sections = format!(
        "[callers.by-user]\nauthenticate = [{{ unix_user = \"{uid}\" }}]\n[[callers.by-user.allow]]\napp = \
         \"outlook\"\nconnections = [\"team-b/*\"]\nscopes = [\"Mail.Read\"]\n"
    );
    let world = Plan::default().sections(&sections).start().await;
    world.connect("team-b/one", ALICE).await;
    let socket = world.folder.path().join("local.sock");
    let path = "/v1/apps/outlook/connections/team-b/one/token";
    let answer = request_unix(&socket, Method::GET, path, &[], "").await.expect("an answer");
    assert_eq!(answer.status, 200, "{}", answer.text());
    let refused = request_unix(&socket, Method::GET, path, &[("authorization", "Bearer twk_nonsense")], "")
        .await
        .expect("an answer");
    assert_eq!(refused.status, 401);
    assert!(refused.headers.contains_key("www-authenticate"));
}

#[tokio::test]
async fn a_local_listener_speaks_tls_when_told_to() {
    let folder = tempfile::tempdir().expect("a temp dir");
    let certificate = folder.path().join("tls.crt");
    let key = folder.path().join("tls.key");
    let made = Command::new("openssl")
        .args([
            "req",
            "-x509",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:P-256",
            "-nodes",
            "-days",
            "2",
        ])
        .args(["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"])
        .args(["-keyout".as_ref(), key.as_os_str(), "-out".as_ref(), certificate.as_os_str()])
        .output()
        .expect("openssl is installed by `make tools`");
    assert!(made.status.success());
    std::fs::set_permissions(&key, std::os::unix::fs::PermissionsExt::from_mode(0o600)).expect("chmod");
    let port = crate::world::free_port();
    let sections = format!(
        "[[listen.local]]\naddress = \"127.0.0.1:{port}\"\ntls = {{ certificate = {certificate:?}, key = \
         {key:?} }}\n"
    );
    let world = Plan::default().sections(&sections).start().await;
    let curl = Command::new("curl")
        .args(["-sS", "--tlsv1.3", "--cacert"])
        .arg(&certificate)
        .args([
            "-o",
            "/dev/null",
            "-w",
            "%{http_code}",
            &format!("https://localhost:{port}/v1/apps/outlook/connections"),
        ])
        .output()
        .expect("curl");
    assert_eq!(String::from_utf8_lossy(&curl.stdout), "401", "{}", String::from_utf8_lossy(&curl.stderr));
    drop(world);
}

/// An administrator's approval: the redirect alone is only a report; a token call in that tenant is the
/// proof.
#[tokio::test]
async fn admin_consent_is_reported_by_the_redirect_and_believed_by_a_token_call() {
    use entra_emulator::RevokeKind;
    let world = Plan::default().start().await;
    world.connect("one", ALICE).await;
    world.entra.revoke_user(ALICE, RevokeKind::ConditionalAccess).expect("known");
    world.outlive_tokens();
    let refused = world.token("one").await;
    assert_eq!(
        (refused.status.as_u16(), text(&refused.json(), "code")),
        (409, "connection_blocked"),
        "{}",
        refused.text()
    );

    let tenant = text(&world.show("one").await["account"], "tid").to_owned();
    let body = json!({ "app": "outlook", "tenant": tenant });
    let started = world.api(Method::POST, "/v1/admin-consent-sessions", body).await;
    assert_eq!(started.status, 201, "{}", started.text());
    let session = started.json();
    let path = format!("/v1/admin-consent-sessions/{}", text(&session, "id"));
    let state = async || world.api(Method::GET, &path, Value::Null).await.json();
    assert_eq!(state().await["state"], "pending");

    let mut browser = crate::http_client::Browser::default();
    let (_, page) =
        browser.follow(text(&session, "admin_consent_url"), |_| false).await.expect("the way back");
    assert!(page.text().contains("Thank you"), "{}", page.text());
    assert_eq!(state().await["state"], "reported", "the redirect proves nothing");

    // Once the block is lifted, the connection is tried at once at the next report, and its token call is the
    // proof.
    world.entra.restore_user(ALICE).expect("known");
    let again = world
        .api(Method::POST, "/v1/admin-consent-sessions", json!({ "app": "outlook", "tenant": tenant }))
        .await
        .json();
    browser.follow(text(&again, "admin_consent_url"), |_| false).await.expect("the way back");
    let path = format!("/v1/admin-consent-sessions/{}", text(&again, "id"));
    let state = async || world.api(Method::GET, &path, Value::Null).await.json();
    world.until("consent is proven", async || state().await["state"] == "consented").await;
    assert_eq!(state().await["tenant"], tenant.as_str());
    assert_eq!(world.show("one").await["status"], "active");
}

#[test]
fn check_reports_every_mistake_at_once_with_its_line() {
    let folder = tempfile::tempdir().expect("a temp dir");
    let path = folder.path().join("tokenward.toml");
    let text = "[store]\nkind = \"embeded\"\n[listen.public]\nadress = \
        \"127.0.0.1:8080\"\n[apps.outlook]\nclient_id = 5\nauthority = \
        \"http://login.example.com/common/v2.0\"\nscopes = [\"Mail.Read\"]\n[callers.sync]\nauthenticate = \
        [{ unix_user = \"root\" }]\n[[callers.sync.allow]]\napp = \"outlok\"\nconnections = [\"a\"]\nscopes \
        = [\"Mail.Read\"]\n";
    std::fs::write(&path, text).expect("write");
    let output = Command::new(env!("CARGO_BIN_EXE_tokenward"))
        .args(["check", "--config"])
        .arg(&path)
        .output()
        .expect("it ends");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(2), "{said}");
    for line in [2, 4, 6, 7, 12] {
        assert!(said.contains(&format!("tokenward.toml:{line}:")), "line {line} in\n{said}");
    }
    assert!(said.contains("`address`") || said.contains("address"), "{said}");
    assert!(said.contains("outlook"), "the nearest known app is named: {said}");
}
