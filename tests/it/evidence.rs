//! Evidence stands: requests without rights neither make series, nor fill the audit stream, nor delay those
//! with rights; and unreadable records are reported.

use parking_lot::Mutex;
use std::collections::BTreeSet;
use std::fs::OpenOptions;
use std::io::Read;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use entra_emulator::{Endpoint, Fault, FaultRule};
use http::Method;
use serde_json::{Value, json};
use tokenward::telemetry::audit;

use crate::http_client::{Browser, request, request_unix};
use crate::msi;
use crate::token_exchange;
use crate::world::{ALICE, Kept, Plan, Process, READER, SYNC, World, alone, text};

/// The names of all series, without their values.
async fn series(world: &World) -> BTreeSet<String> {
    let shown = world.metrics().await;
    let lines = shown.lines().filter(|line| !line.starts_with('#'));
    lines.filter_map(|line| Some(line.rsplit_once(' ')?.0.to_owned())).collect()
}

/// Asks at every door for a name that is nobody's, each time another.
async fn ask_everywhere(world: &World, name: &str) {
    let path = |rest: &str| format!("/v1/apps/{name}/{rest}");
    // A caller at the end of what it may ask, by its user.
    let socket = world.folder.path().join("local.sock");
    for _ in 0..4 {
        let token = path(&format!("connections/{name}/token"));
        request_unix(&socket, Method::GET, &token, &[], "").await.expect("an answer");
    }
    for key in [world.key.as_str(), name, ""] {
        for (method, path, body) in [
            (Method::GET, path(&format!("connections/{name}/token")), Value::Null),
            (Method::POST, path(&format!("connections/{name}/token")), json!({ "scopes": [name] })),
            (Method::GET, path(&format!("connections/{name}")), Value::Null),
            (Method::GET, path(&format!("connections/{name}/explain")), Value::Null),
            (Method::DELETE, path(&format!("connections/{name}")), Value::Null),
            (Method::GET, path("connections"), Value::Null),
            (Method::POST, "/v1/connect-sessions".into(), json!({ "app": name, "connection": name })),
            (Method::GET, format!("/v1/connect-sessions/{name}"), Value::Null),
            (Method::POST, format!("/v1/connect-sessions/{name}/confirm"), json!({ "code": name })),
            (Method::POST, "/v1/admin-consent-sessions".into(), json!({ "app": name, "tenant": name })),
            (Method::GET, format!("/v1/admin-consent-sessions/{name}"), Value::Null),
            (Method::GET, format!("/v1/apps/outlook/connections/{name}/token"), Value::Null),
            (Method::GET, format!("/{name}"), Value::Null),
        ] {
            world.api_as(key, method, &path, body).await;
        }
    }
    for (at, method, path) in [
        (world.base_url(), Method::GET, format!("/callback/{name}?state={name}&code={name}")),
        (world.base_url(), Method::POST, format!("/callback/{name}")),
        (world.base_url(), Method::GET, format!("/callback/outlook?state={name}&error={name}")),
        (world.base_url(), Method::GET, format!("/connect/{name}")),
        (world.base_url(), Method::POST, format!("/connect/{name}")),
        (world.base_url(), Method::GET, format!("/{name}")),
        (world.daemon.ops.clone(), Method::GET, format!("/{name}")),
    ] {
        let cookie = format!("{name}={name}");
        let headers = [("cookie", cookie.as_str()), ("user-agent", name), ("host", name), ("origin", name)];
        let _answer = request(method, &format!("{at}{path}"), &headers, String::new()).await;
    }
    // An authority says what it likes, too.
    let fault = Fault::Aadsts {
        code: 999_999,
        error: Some(name.to_owned()),
        suberror: Some(name.to_owned()),
        claims: None,
        status: Some(400),
        retry_after: None,
    };
    world.entra.faults().inject(FaultRule::new(Endpoint::Token, fault).once());
    world.outlive_tokens();
    world.token("user-1").await;
}

#[tokio::test]
async fn no_text_of_a_stranger_a_caller_or_an_authority_becomes_a_series() {
    let sections = format!(
        "[callers.eager]\nrate_limit = 1\nauthenticate = [{{ unix_user = {} }}]\n\
         [[callers.eager.allow]]\napp = \"outlook\"\nconnections = [\"team-b/*\"]\nscopes = \
         [\"Mail.Read\"]\n",
        rustix::process::geteuid().as_raw()
    );
    let world = Plan::default().sections(&sections).start().await;
    world.connect("user-1", ALICE).await;
    // What is counted by HTTP status begins with the first answer of that status.
    for name in ["nobody-a", "nobody-b"] {
        ask_everywhere(&world, name).await;
    }
    for name in ["credential_last_used", "sealing_key_last_used"] {
        world.until(name, async || series(&world).await.iter().any(|one| one.contains(name))).await;
    }
    let before = series(&world).await;
    for each in 0..12 {
        ask_everywhere(&world, &format!("stranger-{each}")).await;
    }
    let after = series(&world).await;
    let by_status = |one: &&String| one.starts_with("tokenward_http_requests_total");
    let new: Vec<_> = after.difference(&before).filter(|one| !by_status(one)).collect();
    assert!(new.is_empty(), "{} series have come: {new:#?}", new.len());
    assert!(!after.iter().any(|one| one.contains("stranger-")), "{after:#?}");
}

#[tokio::test]
async fn the_series_of_who_left_the_configuration_end() {
    let world = Plan::default().start().await;
    world.connect("user-1", ALICE).await;
    world.access_token("user-1").await;
    let refused = "/v1/apps/outlook/connections/user-1/token";
    world.api_as(&world.reader_key, Method::GET, refused, Value::Null).await;
    let of = |name: &'static str| format!("caller=\"{name}\"");
    let has = async |label: String| series(&world).await.iter().any(|one| one.contains(&label));
    assert!(has(of(READER)).await && has(of(SYNC)).await && has("app=\"outlook\"".to_owned()).await);

    let path = world.folder.path().join("tokenward.toml");
    let config = std::fs::read_to_string(&path).expect("the configuration");
    let (before, after) = config.split_once(&format!("[callers.{READER}]")).expect("the caller's table");
    let rest = after.split_once("scopes      = [\"Mail.Read\"]").expect("its last line").1;
    std::fs::write(&path, format!("{before}{rest}")).expect("write");
    world.until("its series end", async || !has(of(READER)).await).await;
    assert!(has(of(SYNC)).await, "no others do");
    // It comes back with a counter that counts.
    std::fs::write(&path, config).expect("write");
    world.until("its series begin", async || has(of(READER)).await).await;
    let one = "tokenward_token_requests_total\
        {app=\"outlook\",caller=\"mail-reader\",dialect=\"native\",outcome=\"ok\"} 0";
    assert!(world.metrics().await.lines().any(|line| line == one), "{}", world.metrics().await);
}

/// What a slow sink has taken: a pipe in the place of the audit file, emptied at 400 kB a second.
struct SlowSink(Arc<Mutex<Vec<u8>>>);

impl SlowSink {
    fn make(path: &Path) -> Self {
        std::fs::remove_file(path).expect("the file from before");
        assert!(Command::new("mkfifo").arg(path).status().expect("mkfifo").success());
        let mut pipe = OpenOptions::new().read(true).write(true).open(path).expect("a pipe");
        let taken = Arc::new(Mutex::new(Vec::new()));
        let kept = taken.clone();
        std::thread::spawn(move || {
            let mut some = [0; 4000];
            while let Ok(count) = pipe.read(&mut some) {
                kept.lock().extend_from_slice(&some[..count]);
                std::thread::sleep(Duration::from_millis(10));
            }
        });
        SlowSink(taken)
    }

    fn text(&self) -> String {
        String::from_utf8(self.0.lock().clone()).expect("UTF-8")
    }

    fn lines(&self) -> Vec<Value> {
        self.text().lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
    }
}

/// The value of one series.
fn value(metrics: &str, series: &str) -> u64 {
    let line = metrics.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' ')).unwrap_or("0");
    line.parse().expect("a number")
}

/// How often it was the one peer that a sum names.
fn one_peer(detail: &Value) -> u64 {
    assert_eq!(detail["peers"], "1", "{detail}");
    let times = text(detail, "most").strip_prefix("127.0.0.1 (").and_then(|rest| rest.strip_suffix(')'));
    times.and_then(|times| times.parse().ok()).unwrap_or_else(|| panic!("{detail}"))
}

/// While the store is away, whoever comes back with whatever `state` is told to come again, and writes no
/// log.
#[tokio::test]
async fn callbacks_that_cannot_be_looked_up_do_not_write_the_log() {
    const EACH: usize = 300;
    let mut world = Plan::default().kept(Kept::Redis).start().await;
    world.connect("user-1", ALICE).await;
    world.redis.as_mut().expect("redis").stop();
    let callback = format!("{}/callback/outlook?state=nobody-s&code=made-up", world.daemon.public);
    let begun = std::time::Instant::now();
    for _ in 0..EACH {
        assert_eq!(request(Method::GET, &callback, &[], "").await.expect("an answer").status, 503);
    }
    world.daemon.until_logged("a callback could not be looked up").await;
    // Once in ten seconds.
    let most = 2 + usize::try_from(begun.elapsed().as_secs() / 10).expect("a while");
    let said = world.daemon.log().matches("a callback could not be looked up").count();
    assert!(said <= most, "{said} lines, and {most} are the most");
    let counted = "tokenward_strangers_refused_total{reason=\"callback_unavailable\"}";
    assert_eq!(value(&world.metrics().await, counted), EACH as u64, "each is counted");
}

#[tokio::test]
async fn strangers_neither_fill_the_audit_nor_hold_up_who_has_rights() {
    const EACH: u64 = 500;
    const HAND_OUTS: u64 = 60;
    let _alone = alone().await;
    let sections = format!(
        "[callers.eager]\nrate_limit = 1\nauthenticate = [{{ unix_user = {} }}]\n\
         [[callers.eager.allow]]\napp = \"outlook\"\nconnections = [\"team-b/*\"]\nscopes = \
         [\"Mail.Read\"]\n",
        rustix::process::geteuid().as_raw()
    );
    let mut world = Plan::default().sections(&sections).start().await;
    world.connect("user-1", ALICE).await;
    assert_eq!(world.daemon.terminate(), Some(0), "{}", world.daemon.log());
    let sink = SlowSink::make(&world.folder.path().join("audit.jsonl"));
    world.daemon = Process::start(world.folder.path()).await;

    let token = format!("{}/v1/apps/outlook/connections/user-1/token", world.daemon.local);
    let callback = format!("{}/callback/outlook?state=nobody-s&code=made-up", world.daemon.public);
    let no_key = async {
        for _ in 0..EACH {
            assert_eq!(request(Method::GET, &token, &[], "").await.expect("an answer").status, 401);
        }
    };
    let bad_key = async {
        for _ in 0..EACH {
            let headers = [("authorization", "Bearer nobody-s")];
            assert_eq!(request(Method::GET, &token, &headers, "").await.expect("an answer").status, 401);
        }
    };
    let bogus_callback = async {
        for _ in 0..EACH {
            assert_eq!(request(Method::GET, &callback, &[], "").await.expect("an answer").status, 400);
        }
    };
    let socket = world.folder.path().join("local.sock");
    let eager = async {
        let mut limited = 0;
        for _ in 0..EACH {
            let path = "/v1/apps/outlook/connections/team-b%2Fx/token";
            let answer = request_unix(&socket, Method::GET, path, &[], "").await.expect("an answer");
            limited += u64::from(answer.status == 429);
        }
        limited
    };
    let canary = async {
        for _ in 0..HAND_OUTS {
            world.access_token("user-1").await;
        }
    };
    let begun = std::time::Instant::now();
    let ((), (), (), limited, ()) = tokio::join!(no_key, bad_key, bogus_callback, eager, canary);
    // The limits go by time, so a slow machine may have more of them told one by one: of strangers ten, and
    // one every six seconds; of a caller's refusals ten in each second that was begun.
    let took = begun.elapsed().as_secs();
    let (of_strangers, of_a_caller) = (10 + took / 6 + 1, 10 * (took + 2));

    // Each is told, by itself or in a sum.
    let told = |member: &str, word: &str| {
        let lines = sink.lines();
        let of = lines.iter().filter(|line| line[member] == word).map(|line| line["suppressed"].as_u64());
        of.fold((0, 0), |(alone, summed), sum| match sum {
            None => (alone + 1, summed),
            Some(sum) => (alone, summed + sum),
        })
    };
    let kinds = [
        ("reason", "missing", EACH, of_strangers),
        ("reason", "malformed", EACH, of_strangers),
        ("reason", "unknown_state", EACH, of_strangers),
        ("outcome", "rate_limited", limited, of_a_caller),
    ];
    for (member, word, times, most) in kinds {
        world
            .until(&format!("{times} times {word} are told"), async || {
                let (alone, summed) = told(member, word);
                alone + summed == times
            })
            .await;
        let (alone, summed) = told(member, word);
        assert!(0 < alone && alone <= most, "{word}: {alone} one by one in {took} s, {summed} in sums");
    }
    // And a sum says where they came from.
    let lines = sink.lines();
    let sums = lines.iter().filter(|line| line["reason"] == "missing" && line["suppressed"].is_u64());
    let named: u64 = sums.map(|sum| one_peer(&sum["detail"])).sum();
    assert_eq!(named, told("reason", "missing").1);
    // Of those with rights, each by itself.
    world.until("every hand-out is in the audit", async || told("action", "token") == (HAND_OUTS, 0)).await;
    let found = audit::verify(sink.text().as_bytes()).expect("read");
    assert_eq!(found.flaws, [], "the chain goes through all of it");
    let metrics = world.metrics().await;
    assert_eq!(value(&metrics, "tokenward_audit_lost_total"), 0);
    for reason in ["credential_missing", "credential_malformed", "callback_unknown_state"] {
        let series = format!("tokenward_strangers_refused_total{{reason=\"{reason}\"}}");
        assert_eq!(value(&metrics, &series), EACH, "{reason}");
    }
    let sums: u64 = kinds.iter().map(|(member, word, ..)| told(member, word).1).sum();
    assert_eq!(value(&metrics, "tokenward_audit_suppressed_total"), sums);
    // The log is as short.
    let said = world.daemon.log().matches("a request without a known credential was refused").count() as u64;
    assert!(said < EACH, "{said} lines of the log");
}

/// Changes one byte of a record in Redis: the one `from_end` before its end.
pub(crate) fn tamper(world: &World, key: &str, from_end: usize) {
    const SCRIPT: &str = "local v = redis.call('GET', KEYS[1]) local at = #v - ARGV[1] \
        redis.call('SETRANGE', KEYS[1], at - 1, string.char((string.byte(v, at) + 1) % 256)) return 'OK'";
    let redis = world.redis.as_ref().expect("Redis");
    assert_eq!(redis.cli(&["EVAL", SCRIPT, "1", key, &from_end.to_string()]), "OK");
}

fn tampered_words(log: &str) -> Vec<&str> {
    let of_damage = |line: &&str| line.contains("a stored record cannot be used") && line.contains("ERROR");
    log.lines().filter(of_damage).collect()
}

#[tokio::test]
async fn a_record_that_was_tampered_with_is_told_counted_and_can_be_connected_anew() {
    const DAMAGE: &str = "tokenward_record_damage_total{kind=\"connection\"}";
    let mut world = Plan::default().kept(Kept::Redis).start().await;
    for name in ["grant", "profile", "whole"] {
        world.connect(name, ALICE).await;
    }
    assert_eq!(value(&world.metrics().await, DAMAGE), 0);

    // The grant: what is held is served to its end, then callers are told what it is.
    tamper(&world, "tokenward:{outlook:grant}", 0);
    world.access_token("grant").await;
    world.outlive_tokens();
    let refused = async |name: &str| {
        let answer = world.token(name).await;
        assert_eq!((answer.status.as_u16(), text(&answer.json(), "code")), (503, "record_damaged"), "{name}");
        assert!(answer.headers.contains_key("retry-after"));
        assert!(text(&answer.json(), "hint").contains("operator"), "{}", answer.text());
    };
    for _ in 0..3 {
        refused("grant").await;
    }
    let log = world.daemon.log();
    let told = tampered_words(&log);
    assert_eq!(told.len(), 1, "once a connection, not once a request: {told:#?}");
    assert!(told[0].contains("outlook:grant") && told[0].contains("RUNBOOK"), "{told:#?}");
    assert!(value(&world.metrics().await, DAMAGE) >= 1);
    let explain = "/v1/apps/outlook/connections/grant/explain";
    let explained = world.api(Method::GET, explain, Value::Null).await.json();
    let last = explained["attempts"].as_array().and_then(|all| all.last()).expect("an attempt");
    assert_eq!(last["outcome"], "record_damaged", "{explained}");
    assert!(text(&explained, "advice").contains("signs in again"), "{explained}");
    world.daemon.until_ready().await; // (So much time has passed that the store had to be asked again.)
    let ready = request(Method::GET, &format!("{}/readyz", world.daemon.ops), &[], "").await.expect("ready");
    assert!(ready.status == 200 && ready.text().contains("records: "), "{}", ready.text());
    world.access_token("whole").await;

    // What is not a grant: a daemon that knew nothing of it finds it, and says so again.
    tamper(&world, "tokenward:{outlook:profile}", 2200);
    let redis = world.redis.as_ref().expect("Redis");
    assert_eq!(redis.cli(&["SET", "tokenward:{outlook:whole}", "rubbish"]), "OK");
    world.stop_and_restart().await;
    let refused = async |name: &str| {
        let answer = world.token(name).await;
        assert_eq!((answer.status.as_u16(), text(&answer.json(), "code")), (503, "record_damaged"), "{name}");
    };
    for name in ["grant", "profile", "whole", "grant", "profile", "whole"] {
        refused(name).await;
    }
    let log = world.daemon.log();
    for words in ["outlook:grant", "outlook:profile", "outlook:whole"] {
        let told: Vec<_> = tampered_words(&log).into_iter().filter(|line| line.contains(words)).collect();
        assert_eq!(told.len(), 1, "{words}: {told:#?}\n{log}");
    }
    assert!(value(&world.metrics().await, "tokenward_record_damage_total{kind=\"unreadable\"}") >= 1);

    // What to do next: connect anew; where nothing can be read any more, an operator deletes it first.
    let session = world.start_session(json!({ "app": "outlook", "connection": "grant" })).await;
    world.sign_in(&mut Browser::default(), text(&session, "connect_url")).await;
    assert_eq!(world.session(text(&session, "id")).await["state"], "connected", "{}", world.daemon.log());
    world.access_token("grant").await;
    let admin = world.folder.path().join("admin.sock");
    for name in ["profile", "whole"] {
        let path = format!("/admin/v1/apps/outlook/connections/{name}");
        let deleted = request_unix(&admin, Method::DELETE, &path, &[], "").await.expect("an answer");
        assert_eq!(deleted.status, 204, "{name}: {}\n{}", deleted.text(), world.daemon.log());
        world.connect(name, ALICE).await;
        world.access_token(name).await;
    }
}

/// The lines of the audit that are so.
fn audited(world: &World, is_so: impl Fn(&Value) -> bool) -> Vec<Value> {
    let audit = std::fs::read_to_string(world.folder.path().join("audit.jsonl")).expect("an audit file");
    let lines = audit.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    lines.filter(is_so).collect()
}

/// Whoever tries keys at the admin socket is told of, however many try at callers' listeners at the same
/// time.
#[tokio::test]
async fn noise_at_one_listener_hides_nothing_at_another() {
    let world = Plan::default().start().await;
    let url = format!("{}/v1/apps/outlook/connections/user-1/token", world.daemon.local);
    let bad_key = [("authorization", "Bearer nobody-s")];
    let admin = world.folder.path().join("admin.sock");
    for _ in 0..3 {
        for _ in 0..30 {
            assert_eq!(request(Method::GET, &url, &bad_key, "").await.expect("an answer").status, 401);
        }
        for _ in 0..3 {
            let answer = request_unix(&admin, Method::POST, "/admin/v1/revocations", &bad_key, "{}").await;
            assert_eq!(answer.expect("an answer").status, 401);
        }
    }
    let of = |listener: &str| {
        audited(&world, |line| line["reason"] == "malformed" && line["detail"]["listener"] == listener)
    };
    for (listener, attempts) in [("admin", 9), ("local", 90)] {
        let told = || of(listener).iter().map(|line| line["suppressed"].as_u64().unwrap_or(1)).sum::<u64>();
        world.until("each is told, by itself or in a sum", async || told() == attempts).await;
    }
    let uid = rustix::process::geteuid().as_raw();
    assert_eq!(of("admin").iter().filter(|line| line["peer_uid"] == uid).count(), 9, "each by itself");
}

/// Whoever goes from door to door with a stolen key is seen at each.
#[tokio::test]
async fn every_route_that_refuses_a_caller_leaves_a_line() {
    let world = Plan::default().start().await;
    for (method, route) in tokenward::api::ROUTES {
        const OF_ALL: [&str; 5] = [
            "/openapi.json",
            "/v1/events",
            "/.well-known/oauth-authorization-server",
            "/v1/sys/health",
            "/v1/auth/token/lookup-self",
        ];
        if OF_ALL.contains(&route) {
            continue; // anybody's, or every caller's
        }
        let path = route
            .replace("{app}", "nobody-s")
            .replace("{connection}", "nobody-s")
            .replace("{mount}", "nobody-s")
            .replace("{base}/{path}", "graph/v1.0/me")
            .replace("{id}", &"nobody-s".repeat(4));
        let body = match (method, route) {
            ("POST", "/v1/connect-sessions") => json!({ "app": "nobody-s", "connection": "nobody-s" }),
            ("POST", "/v1/admin-consent-sessions") => json!({ "app": "nobody-s" }),
            ("POST", _) if route.ends_with("/confirm") => json!({ "code": "nobody-s" }),
            ("POST", _) => json!({}),
            _ => Value::Null,
        };
        // (Ten of a kind have a line each, and then one every six seconds.)
        world.pass(Duration::from_secs(6));
        let before = audited(&world, |line| line["caller"] == READER).len();
        let verb = Method::from_bytes(method.as_bytes()).expect("a method");
        let answer = match route {
            "/oauth2/token" => token_exchange::of_nobody_s(&world).await,
            route if route.ends_with("/msi/token") => msi::of_nobody_s(&world, &path).await,
            _ => world.api_as(&world.reader_key, verb, &path, body).await,
        };
        let status = answer.status.as_u16();
        let refused = if route == "/oauth2/token" { &[400][..] } else { &[403, 404, 409] };
        assert!(refused.contains(&status), "{method} {route}: {status} {}", answer.text());
        let lines = audited(&world, |line| line["caller"] == READER);
        assert_eq!(lines.len(), before + 1, "{method} {route}: {:?}", &lines[before..]);
        let line = &lines[before];
        // Vault's form has no code for what is missing, and an answer to HEAD has no body.
        let (missing, is_head) = (json!("app_not_found"), method == "HEAD");
        let refusal = if is_head { Value::Null } else { answer.json() };
        let code = match route {
            route if is_head || route.contains("/creds/") => &missing,
            _ => refusal.get("code").unwrap_or(&refusal["error"]),
        };
        assert_eq!(line["outcome"], *code, "{method} {route}: {line}");
    }
    // However many they are.
    let refused = || audited(&world, |line| line["caller"] == READER && line["action"] == "read");
    let before = refused().len();
    for _ in 0..50 {
        let path = "/v1/apps/nobody-s/connections/nobody-s";
        assert_eq!(world.api_as(&world.reader_key, Method::GET, path, Value::Null).await.status, 404);
    }
    let told =
        || refused()[before..].iter().map(|line| line["suppressed"].as_u64().unwrap_or(1)).sum::<u64>();
    world.until("all are told, by themselves or in a sum", async || told() == 50).await;
}

/// Whoever tries keys in URLs, or sends a form that nobody can read, is seen.
#[tokio::test]
async fn a_stranger_whose_request_cannot_be_judged_is_counted_and_recorded() {
    let world = Plan::default().start().await;
    let strangers = async || {
        let shown = world.metrics().await;
        let of = shown.lines().filter(|line| line.starts_with("tokenward_strangers_refused_total"));
        of.filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok()).sum::<u64>()
    };
    let form = ("content-type", "application/x-www-form-urlencoded");
    for (method, path, header, body) in [
        (
            Method::GET,
            "/v1/apps/outlook/connections/a/token?access_token=x",
            ("authorization", "Bearer x"),
            String::new(),
        ),
        (Method::POST, "/oauth2/token", form, format!("subject_token={}", "a".repeat(70_000))),
    ] {
        let before = strangers().await;
        let url = format!("{}{path}", world.daemon.local);
        let answer = request(method, &url, &[header], body).await.expect("an answer");
        assert_eq!(answer.status, 400, "{path}: {}", answer.text());
        assert_eq!(strangers().await, before + 1, "{path}");
        let id = answer.headers["x-request-id"].to_str().expect("text");
        world
            .until("a record", async || {
                let audit = std::fs::read_to_string(world.folder.path().join("audit.jsonl"));
                audit.unwrap_or_default().contains(id)
            })
            .await;
    }
}
