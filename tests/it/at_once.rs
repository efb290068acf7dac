//! A hand-out that waits for nothing is answered beside hyper. It is the same answer, to the same requests,
//! with the same record as through hyper.

use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::attacks_rights::reconfigure;
use crate::world::{ALICE, LOOK, PATIENCE, Plan, World};

/// A request in one piece, which may be answered beside hyper, and in two, which is never.
#[derive(Clone, Copy, Debug)]
enum Way {
    InOnePiece,
    InTwo,
}

/// An answer: its status, its head, its body.
type Answer = (u16, BTreeMap<String, String>, Value);

fn ask(world: &World, way: Way, target: &str, lines: &str) -> Answer {
    let address = world.daemon.local.strip_prefix("http://").expect("a URL");
    let mut stream = TcpStream::connect(address).expect("connected");
    stream.set_nodelay(true).expect("no delay");
    stream.set_read_timeout(Some(Duration::from_secs(60))).expect("a timeout");
    // (The first request on a connection has the same way as all after it.)
    let request = format!("GET {target} HTTP/1.1\r\nhost: tokenward\r\n{lines}\r\n");
    match way {
        Way::InOnePiece => stream.write_all(request.as_bytes()).expect("sent"),
        Way::InTwo => {
            let (first, second) = request.split_at(10);
            stream.write_all(first.as_bytes()).expect("sent");
            std::thread::sleep(Duration::from_millis(5));
            stream.write_all(second.as_bytes()).expect("sent");
        }
    }
    let mut answer = Vec::new();
    loop {
        let mut some = [0; 8192];
        let read = stream.read(&mut some).expect("read");
        assert!(read > 0, "{way:?} {target} {lines}: closed after {}", String::from_utf8_lossy(&answer));
        answer.extend_from_slice(&some[..read]);
        let text = String::from_utf8_lossy(&answer);
        let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
        let mut all = head.split("\r\n");
        let status = all.next().expect("a status line").split(' ').nth(1).expect("a status");
        let head: BTreeMap<String, String> = all
            .map(|line| line.split_once(": ").expect("a field"))
            .map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned()))
            .collect();
        let length = head.get("content-length").map_or(0, |length| length.parse().expect("a number"));
        if body.len() >= length {
            let body = serde_json::from_str(body).unwrap_or(Value::Null);
            return (status.parse().expect("a number"), head, body);
        }
    }
}

/// Takes out what differs between any two answers.
fn alike((status, mut head, mut body): Answer) -> Answer {
    for own in ["date", "x-request-id", "content-length"] {
        if let Some(value) = head.get_mut(own) {
            "one".clone_into(value);
        }
    }
    if let Some(members) = body.as_object_mut() {
        for own in ["request_id", "correlationId", "expires_in", "refresh_in"] {
            members.entry(own).and_modify(|value| *value = Value::from("one"));
        }
    }
    (status, head, body)
}

/// The record of an answer's request, without what differs between any two. (A record may follow its answer, and
/// records of other work may follow it.)
fn record(world: &World, (_, head, _): &Answer) -> Value {
    let file = world.folder.path().join("audit.jsonl");
    let id = &head["x-request-id"];
    let begun = Instant::now();
    let mut record = loop {
        let audit = std::fs::read_to_string(&file).expect("an audit file");
        let whole = audit.rsplit_once('\n').map_or("", |(whole, _)| whole);
        let mut records = whole.lines().map(|line| serde_json::from_str::<Value>(line).expect("JSON"));
        if let Some(record) = records.find(|record| record["request_id"] == id.as_str()) {
            break record;
        }
        assert!(begun.elapsed() < PATIENCE, "no record of {id} in\n{audit}");
        std::thread::sleep(LOOK);
    };
    let members = record.as_object_mut().expect("an object");
    for own in ["at", "seq", "request_id", "expires_in", "chain"] {
        members.remove(own).unwrap_or_else(|| panic!("{own} in {members:?}"));
    }
    record
}

#[tokio::test(flavor = "multi_thread")]
async fn in_one_piece_or_in_two_a_request_gets_the_same_answer_and_record() {
    let world = Plan::default().start().await;
    world.connect("user-1", ALICE).await;
    world.connect("team/a:b", ALICE).await;
    let key = &world.key;
    let bearer = format!("authorization: Bearer {key}\r\n");
    let identity = format!("x-identity-header: {key}\r\n");
    let vault = format!("x-vault-token: {key}\r\n");
    let native = "/v1/apps/outlook/connections/user-1/token";
    let (_, head, _) = ask(&world, Way::InTwo, native, &bearer);
    let known = format!("{bearer}if-none-match: {}\r\n", head["etag"]);
    let graph = "resource=https://graph.microsoft.com";
    let msi = format!("/msi/token?api-version=2019-08-01&{graph}&client_id=outlook:user-1");
    let mut unexpected = Vec::new();
    let reader = format!("authorization: Bearer {}\r\n", world.reader_key);
    for (target, lines, expected) in [
        (native, &bearer, 200),
        (native, &format!("AUTHORIZATION:  bearer   {key}\r\nuser-agent: a\r\naccept: */*\r\n"), 200),
        (native, &format!("{bearer}connection: Keep-Alive\r\n"), 200),
        (native, &format!("{bearer}x-identity-header: other\r\n"), 200),
        (native, &known, 304),
        (native, &format!("{bearer}{bearer}"), 401),
        (native, &"authorization: Basic eDp5\r\n".to_owned(), 401),
        (native, &String::new(), 401),
        (native, &format!("authorization: Bearer {key}x\r\n"), 401),
        (native, &reader, 404),
        ("/v1/apps/outlook/connections/team%2Fa%3Ab/token", &bearer, 200),
        ("/v1/apps/outlook/connections/team/a:b/token", &bearer, 200),
        ("/v1/apps/outlook/connections/user-2/token", &bearer, 404),
        ("/v1/apps/other/connections/user-1/token", &bearer, 404),
        ("/v1/apps/outlook/connections/user-1/token/", &bearer, 400),
        ("/v1/apps/outlook/connections/user-1/token?scope=Mail.Read", &bearer, 200),
        ("/v1/apps/outlook/connections/user-1/token?scope=Mail.Send", &bearer, 409),
        ("/v1/apps/outlook/connections/user-1/token?scope=a&scope=b", &bearer, 400),
        ("/v1/apps/outlook/connections/user-1/token?resource=https://graph.microsoft.com", &bearer, 200),
        ("/v1/apps/outlook/connections/user-1/token?min_ttl=60", &bearer, 200),
        ("/v1/apps/outlook/connections/user-1/token?min_ttl=5", &bearer, 400),
        ("/v1/apps/outlook/connections/user-1/token?connect=1", &bearer, 200),
        ("/v1/apps/outlook/connections/user-1/token?access_token=a", &bearer, 400),
        ("/v1/apps/outlook/connections/user-1/token?unknown=a", &bearer, 200),
        (&msi, &identity, 200),
        (&msi, &format!("secret: {key}\r\nmetadata: true\r\n"), 200),
        (&msi, &bearer, 401),
        (&msi.replace("user-1", "user-2"), &identity, 403),
        (&msi.replace("2019-08-01", "2011-01-01"), &identity, 403),
        (&format!("/v1/apps/outlook/connections/user-1/msi/token?{graph}"), &identity, 200),
        ("/v1/outlook/creds/user-1", &vault, 200),
        ("/v1/outlook/creds/user-1", &bearer, 200),
        ("/v1/outlook/creds/user-1?minimum_seconds=60", &vault, 200),
        ("/v1/outlook/creds/user-1?minimum_seconds=x", &vault, 400),
        ("/v1/other/creds/user-1", &vault, 404),
        ("/v1/outlook/creds/user-2", &vault, 404),
    ] {
        let begun = Instant::now();
        let answers = loop {
            let answers = [Way::InOnePiece, Way::InTwo].map(|way| ask(&world, way, target, lines));
            // (An answer says where its token was read. The store is read every few seconds, by whoever asks then.)
            if answers.iter().all(|(status, head, _)| {
                *status != 200 || head.get("tokenward-source").is_none_or(|source| source == "memory")
            }) {
                break answers;
            }
            assert!(begun.elapsed() < PATIENCE, "never from memory: {answers:?}");
        };
        let answers = answers.map(|answer| {
            let record = (answer.0 == 200).then(|| record(&world, &answer));
            (alike(answer), record)
        });
        let [(beside, one), (through, other)] = &answers;
        assert_eq!(beside, through, "GET {target}\n{lines}");
        assert_eq!(one, other, "GET {target}\n{lines}");
        if beside.0 != expected {
            unexpected.push(format!("GET {target}\n{lines}{expected}: {} {}", beside.0, beside.2));
        }
    }
    assert!(unexpected.is_empty(), "{}", unexpected.join("\n"));
}

#[tokio::test(flavor = "multi_thread")]
async fn limits_count_such_requests_and_a_change_of_rules_holds_for_the_next() {
    let world = Plan::default().start().await;
    world.connect("user-1", ALICE).await;
    let bearer = format!("authorization: Bearer {}\r\n", world.key);
    let target = "/v1/apps/outlook/connections/user-1/token";
    let status = || ask(&world, Way::InOnePiece, target, &bearer).0;
    assert_eq!([status(), status(), status()], [200; 3]);
    let refused = || (0..20).filter(|_| status() == 429).count();
    assert_eq!(refused(), 0);
    reconfigure(&world, "[callers.mail-sync]\n", "[callers.mail-sync]\nconnection_rate_limit = 1\n").await;
    assert!((10..=18).contains(&refused()), "one a second, and bursts of two");
    reconfigure(&world, "connection_rate_limit = 1\n", "rate_limit = 1\n").await;
    assert!((10..=18).contains(&refused()), "the same for all of its connections");
    reconfigure(&world, "rate_limit = 1\n", "").await;
    assert_eq!(refused(), 0);
    reconfigure(&world, "scopes      = [\"*\"]", "scopes      = [\"Calendars.Read\"]").await;
    let narrow = format!("{target}?scope=Mail.Read");
    assert_eq!(ask(&world, Way::InOnePiece, &narrow, &bearer).0, 403);
}
