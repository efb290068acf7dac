//! Tests of the checker: each violation is planted into a small good ledger and must be found, and its
//! explanation must excuse it.

use super::*;
use crate::ledger::{Act, Answer, Audited, Connected, Deed, Entry, Setup, Told};

/// Three requests at two replicas for two connections, each refreshed once, all well.
fn good() -> Evidence {
    let connected = |number: u64| Connected {
        name: format!("soak/user-{number}"),
        user: format!("user-{number}@x"),
        families: vec![100 + number],
    };
    let mut evidence = Evidence {
        setup: Setup { seed: 1, replicas: 2, lease: 8_000, serve_cached_for: 300_000, ..Setup::default() },
        connections: vec![connected(0), connected(1)],
        ..Evidence::default()
    };
    for (connection, serial, at) in [(0, 10, 1_000), (1, 20, 1_100), (0, 11, 10_000), (1, 21, 10_100)] {
        let family = 100 + u64::from(connection);
        evidence.authority.push(AuthorityCall {
            sequence: serial,
            started: at,
            ended: Some(at + 30),
            delivered: true,
            replica: Some(0),
            refresh: true,
            family: Some(family),
            presented: Some(serial * 1000),
            issued: Some((serial + 1) * 1000),
            access: Some(serial),
            status: Some(200),
            ..AuthorityCall::default()
        });
        for replica in [0, 1] {
            let number = evidence.calls.len() as u64 + 1;
            let generation = if serial % 10 == 0 { 1 } else { 2 };
            let user = format!("user-{connection}@x");
            evidence.calls.push(Call {
                number,
                started: at + 100 + number * 10,
                ended: at + 105 + number * 10,
                replica,
                life: 1,
                connection,
                status: 200,
                code: None,
                token: Some(HandedOut {
                    user,
                    family,
                    generation,
                    serial,
                    dies: at + 20_000,
                    said_to_die: at + 20_000,
                }),
                reported: None,
                door: "native".into(),
            });
            let entry = entry(number, replica, &evidence.connections[usize::from(connection)].name);
            evidence.audited.push(record(&entry));
            evidence.entries.push(entry);
        }
    }
    for connection in [0, 1] {
        evidence.authority.push(AuthorityCall {
            started: 500,
            ended: Some(510),
            delivered: true,
            user: Some(format!("user-{connection}@x")),
            family: Some(100 + u64::from(connection)),
            ..AuthorityCall::default()
        });
        evidence.finals.push(Final {
            connection,
            refreshed: true,
            status: Some("active".into()),
            ..Final::default()
        });
    }
    evidence
}

/// What a caller's ledger has of a hand-out.
fn entry(number: u64, replica: u8, connection: &str) -> Entry {
    let text = |text: &str| Some(text.to_owned());
    Entry {
        number,
        door: "native".into(),
        word: "native".into(),
        method: text("api_keys"),
        caller: text("mail-sync"),
        connection: text(connection),
        replica,
        started: number * 1_000,
        ended: number * 1_000 + 10,
        hung_up: false,
        answer: Answer::Token { sha256: format!("{number:064x}"), uti: text("u") },
    }
}

/// The record that it must have.
fn record(entry: &Entry) -> Audited {
    let (sha256, uti, outcome) = match &entry.answer {
        Answer::Token { sha256, uti } => (Some(sha256.clone()), uti.clone(), "ok".to_owned()),
        Answer::Refused(code) => (None, None, code.clone()),
        Answer::Lost => (None, None, String::new()),
    };
    Audited {
        replica: entry.replica,
        call: Some(entry.number),
        action: if sha256.is_some() { "token" } else { "refused" }.to_owned(),
        outcome,
        caller: entry.caller.clone(),
        method: entry.method.clone(),
        door: Some(entry.word.clone()),
        connection: entry.connection.clone(),
        token_sha256: sha256,
        uti,
        suppressed: 0,
    }
}

/// A call that was refused at the end.
fn refused(evidence: &mut Evidence, status: u16, code: &str) {
    let last = evidence.calls.last().expect("there").clone();
    evidence.calls.push(Call {
        number: 99,
        started: last.ended + 100,
        ended: last.ended + 110,
        status,
        code: Some(code.into()),
        token: None,
        ..last
    });
}

fn fault(effect: Effect, replica: Option<u8>, started: u64, ended: u64) -> FaultRecord {
    FaultRecord { number: 0, kind: "planted".into(), effect, replica, started, ended, detail: String::new() }
}

fn token(evidence: &mut Evidence, call: usize) -> &mut HandedOut {
    evidence.calls[call].token.as_mut().expect("handed out")
}

/// The events that say how each connection stands in the end.
fn events_of(evidence: &Evidence) -> Vec<Told> {
    let told = |end: &Final| {
        let kind = match (end.expected, end.status.as_deref()) {
            (Ending::Deleted, _) => "deleted",
            (_, Some("active") | None) => return None,
            (_, Some(status)) => status,
        };
        let connection = evidence.connections.get(usize::from(end.connection))?.name.clone();
        Some(Told { id: connection.clone(), kind: format!("connection.{kind}"), connection })
    };
    evidence.finals.iter().filter_map(told).collect()
}

/// The rules that were broken.
fn broken(evidence: &Evidence) -> Vec<&'static str> {
    let mut evidence = evidence.clone();
    if evidence.told.is_empty() {
        evidence.told = events_of(&evidence);
    }
    let report = check(&evidence, &[]);
    let broken: Vec<_> =
        report.violations.iter().filter(|(_, figure)| figure.count > 0).map(|(name, _)| *name).collect();
    assert_eq!(report.passed, broken.is_empty() && report.cached.good_enough());
    broken
}

#[test]
fn a_good_ledger_passes() {
    let report = check(&good(), &[]);
    assert!(report.passed, "{}", report.summary());
    assert_eq!((report.requests, report.cached.asked, report.cached.served), (8, 4, 4));
}

#[test]
fn a_token_of_another_user_or_connection_or_nobody() {
    let mut evidence = good();
    token(&mut evidence, 0).user = "user-1@x".into();
    assert_eq!(broken(&evidence), ["wrong_token"]);
    // The same user's other connection, or a sign-in that nobody made.
    for family in [100, 77] {
        let mut evidence = good();
        evidence.connections[0].user = "user-1@x".into();
        for call in [0, 1, 4, 5] {
            token(&mut evidence, call).user = "user-1@x".into();
        }
        token(&mut evidence, 7).family = family;
        assert!(broken(&evidence).contains(&"wrong_token"), "{family}");
    }
    // One of this user's sign-ins of which the service never learnt that it was confirmed.
    let mut evidence = good();
    evidence.authority[3].family = Some(300);
    for call in [6, 7] {
        token(&mut evidence, call).family = 300;
    }
    assert_eq!(broken(&evidence), ["wrong_token"]);
    let code = AuthorityCall { user: Some("user-1@x".into()), family: Some(300), ..AuthorityCall::default() };
    evidence.authority.push(code);
    assert_eq!(broken(&evidence), [""; 0]);
    evidence.connections[0].families.push(300);
    assert_eq!(broken(&evidence), ["wrong_token"], "it is another connection's");
    // One that the authority issued for another sign-in, or never.
    for serial in [20, 77] {
        let mut evidence = good();
        token(&mut evidence, 0).serial = serial;
        assert_eq!(broken(&evidence), ["wrong_token"]);
    }
    let mut evidence = good();
    evidence.calls[3].token = None;
    assert_eq!(broken(&evidence), ["wrong_token"]);
}

#[test]
fn a_dead_token_unless_a_clock_was_wrong() {
    let mut evidence = good();
    token(&mut evidence, 7).dies = 10_000;
    assert_eq!(broken(&evidence), ["dead_token"]);
    // Another replica's clock says nothing; that of the one which wrote it, or reads it, does.
    evidence.faults = vec![fault(Effect::Clock, Some(1), 1_000, 2_000)];
    assert_eq!(broken(&evidence), ["dead_token"]);
    for (replica, from, until) in [(0, 9_000, 10_200), (1, 10_000, 11_000)] {
        evidence.faults = vec![fault(Effect::Clock, Some(replica), from, until)];
        assert_eq!(broken(&evidence), [""; 0]);
        assert_eq!(check(&evidence, &[]).dead_by_wrong_clock, 1);
    }
}

#[test]
fn a_hand_out_without_an_audit_record_of_its_own() {
    let mut evidence = good();
    let gone = evidence.audited.remove(2);
    assert_eq!(broken(&evidence), ["unaudited_hand_out"]);
    // A kill explains nothing, and is told apart.
    let (replica, ended) = (Some(evidence.entries[2].replica), evidence.entries[2].ended);
    for (killed, rule) in [
        (ended + 10, "unaudited_at_kill"),
        (ended - 1, "unaudited_at_kill"),
        (ended - 1000, "unaudited_hand_out"),
        (ended + 5000, "unaudited_hand_out"),
    ] {
        evidence.faults = vec![fault(Effect::Down, replica, killed, killed + 10)];
        assert_eq!(broken(&evidence), [rule]);
    }
    evidence.faults.clear();
    // Twice is not once.
    evidence.audited.extend([gone.clone(), gone]);
    assert_eq!(broken(&evidence), ["audit_disagrees"]);
    // But of a stream that its caller left after the first: the others are its own all the same.
    evidence.entries[2].hung_up = true;
    let later = evidence.audited.last_mut().expect("there");
    later.token_sha256 = Some("1".repeat(64));
    assert_eq!(broken(&evidence), [""; 0]);
    evidence.audited.last_mut().expect("there").caller = Some("another".into());
    assert_eq!(broken(&evidence), ["audit_disagrees"]);
    evidence.entries[2].hung_up = false;
    evidence.audited.pop();
    assert_eq!(broken(&evidence), [""; 0]);
    evidence.audit_flaws.push("replica 0: Broken { line: 3 }".into());
    assert_eq!(broken(&evidence), ["audit_chain"]);
}

#[test]
fn a_record_that_says_something_else_than_the_ledger() {
    let changes: [fn(&mut Audited); 9] = [
        |record| record.replica = 1 - record.replica,
        |record| record.caller = Some("another".into()),
        |record| record.method = Some("jwt".into()),
        |record| record.door = Some("msi".into()),
        |record| record.connection = None,
        |record| record.token_sha256 = Some("0".repeat(64)),
        |record| record.uti = None,
        |record| record.outcome = "connection_paused".into(),
        |record| record.action = "refused".into(),
    ];
    for (number, change) in changes.into_iter().enumerate() {
        let mut evidence = good();
        change(&mut evidence.audited[2]);
        assert_eq!(broken(&evidence), ["audit_disagrees"], "{number}");
        let code = Answer::Refused("connection_paused".into());
        evidence = good();
        evidence.entries[2].answer = code;
        evidence.audited[2] = record(&evidence.entries[2]);
        assert_eq!(broken(&evidence), [""; 0]);
        change(&mut evidence.audited[2]);
        let is_changed = evidence.audited[2] != record(&evidence.entries[2]);
        let is_broken = broken(&evidence) == ["audit_disagrees"];
        // (A refusal has no `uti`, whatever was taken away.)
        assert_eq!(is_broken, is_changed, "{number}");
    }
}

#[test]
fn a_record_of_a_request_that_nobody_has_an_answer_of() {
    let mut evidence = good();
    evidence.entries[2].answer = Answer::Lost;
    assert_eq!(broken(&evidence), ["audit_unasked"]);
    let Entry { replica, started, .. } = evidence.entries[2];
    for (effect, of, at, explains) in [
        (Effect::Down, replica, started + 1, true),
        (Effect::Stopped, replica, started + 1, true),
        (Effect::Down, 1 - replica, started + 1, false),
        (Effect::StoreLink, replica, started + 1, false),
        (Effect::Down, replica, started + 5_000, false),
    ] {
        evidence.faults = vec![fault(effect, Some(of), at, at + 100)];
        assert_eq!(broken(&evidence).is_empty(), explains, "{effect:?} {of} {at}");
    }
    // A credential may be out of its time by a wrong clock: then it is nobody's.
    let (good_record, entry) = (evidence.audited[2].clone(), evidence.entries[2].clone());
    evidence.entries[2].answer = Answer::Refused("caller_unauthenticated".into());
    evidence.audited[2] =
        Audited { caller: None, method: None, connection: None, ..record(&evidence.entries[2]) };
    assert_eq!(broken(&evidence), [""; 0]);
    evidence.entries[2].answer = Answer::Refused("connection_paused".into());
    assert_eq!(broken(&evidence), ["audit_disagrees"]);
    (evidence.audited[2], evidence.entries[2]) = (good_record, entry);
    // It is another caller's all the same.
    evidence.faults = vec![fault(Effect::Down, Some(replica), started + 1, started + 2)];
    evidence.audited[2].caller = Some("another".into());
    assert_eq!(broken(&evidence), ["audit_disagrees"]);
    // One that nobody made.
    let mut evidence = good();
    evidence.entries.remove(2);
    assert_eq!(broken(&evidence), ["audit_unasked"]);
}

#[test]
fn a_refusal_is_a_record_or_stands_in_a_sum() {
    let mut evidence = good();
    for number in [2, 3, 4] {
        evidence.entries[number].replica = 0;
        evidence.entries[number].answer = Answer::Refused("connection_paused".into());
    }
    evidence.audited.drain(3..5);
    evidence.audited[2] = record(&evidence.entries[2]);
    assert_eq!(broken(&evidence), ["unaudited_refusal"]);
    let caller = Some("mail-sync".to_owned());
    let sum = Audited { outcome: "connection_paused".into(), caller, suppressed: 2, ..Audited::default() };
    evidence.audited.push(sum.clone());
    assert_eq!(broken(&evidence), [""; 0]);
    assert_eq!(check(&evidence, &[]).records, (6, 2));
    let changes: [fn(&mut Audited); 4] = [
        |sum| sum.suppressed = 1,
        |sum| sum.replica = 1,
        |sum| sum.caller = Some("another".into()),
        |sum| sum.outcome = "connection_blocked".into(),
    ];
    for change in changes {
        let mut other = sum.clone();
        change(&mut other);
        *evidence.audited.last_mut().expect("the sum") = other;
        assert!(broken(&evidence).contains(&"unaudited_refusal"));
    }
    *evidence.audited.last_mut().expect("the sum") = Audited { suppressed: 3, ..sum };
    assert_eq!(broken(&evidence), ["audit_disagrees"], "it stands for more than there were");
    // An answer that was lost may have been a refusal.
    evidence.entries[5].replica = 0;
    evidence.entries[5].answer = Answer::Lost;
    let lost = evidence.entries[5].number;
    evidence.audited.retain(|record| record.call != Some(lost));
    assert_eq!(broken(&evidence), [""; 0]);
    // A kill takes along what was to be summed up.
    evidence.audited.pop();
    let ended = evidence.entries[4].ended;
    evidence.faults = vec![fault(Effect::Down, Some(0), ended + 500, ended + 600)];
    assert_eq!(broken(&evidence), [""; 0]);
    evidence.faults = vec![fault(Effect::Down, Some(0), ended + 5_000, ended + 5_001)];
    assert_eq!(broken(&evidence), ["unaudited_refusal"]);
}

#[test]
fn a_connection_that_cannot_be_refreshed_in_the_end() {
    let mut evidence = good();
    evidence.finals[1].refreshed = false;
    assert_eq!(broken(&evidence), ["lost_grant"]);
    evidence.finals[1].error_codes = vec![50196];
    assert_eq!(broken(&evidence), [""; 0], "the authority holds it off");
    evidence.finals[1] = Final { connection: 1, ..Final::default() };
    assert_eq!(broken(&evidence), ["lost_grant"], "no status is no excuse");
    let mut evidence = good();
    evidence.finals[0].refused_by = vec![1];
    assert_eq!(broken(&evidence), ["disagreement"]);
}

#[test]
fn a_reauthorization_without_a_verdict() {
    let mut evidence = good();
    evidence.finals[1].status = Some("needs_reauthorization".into());
    assert_eq!(broken(&evidence), ["false_reauthorization"]);
    // Another connection's verdict, a rejected credential and a throttled loop are none on this one.
    let answers =
        [(0, "invalid_grant", 50173), (1, "invalid_client", 7_000_215), (1, "invalid_grant", 50196)];
    for (which, error, code) in answers {
        let mut evidence = evidence.clone();
        evidence.authority[2 + which].error = Some(error.into());
        evidence.authority[2 + which].aadsts = Some(code);
        assert_eq!(broken(&evidence), ["false_reauthorization"], "{error} {code}");
    }
    evidence.authority[3].error = Some("invalid_grant".into());
    evidence.authority[3].aadsts = Some(700_082);
    assert_eq!(broken(&evidence), [""; 0]);
    // Also when it healed before the end.
    let mut evidence = good();
    refused(&mut evidence, 409, "reauthorization_required");
    assert!(broken(&evidence).contains(&"false_reauthorization"));
}

#[test]
fn two_refreshes_at_a_time() {
    let mut evidence = good();
    let mut second = evidence.authority[2].clone();
    (second.sequence, second.started, second.replica) = (500, 10_010, Some(1));
    (second.access, second.presented) = (Some(1), Some(999));
    evidence.authority.push(second);
    assert_eq!(broken(&evidence), ["double_refresh"]);
    // Only what befell the holder, or the store, takes a lease away.
    for (effect, replica, explains) in [
        (Effect::Stopped, 0, true),
        (Effect::StoreLink, 0, true),
        (Effect::Down, 0, true),
        // One that stood still may send what it was about to.
        (Effect::Stopped, 1, true),
        (Effect::AuthorityLink, 1, false),
        (Effect::StoreLink, 1, false),
        (Effect::Down, 1, false),
        (Effect::Authority, 0, false),
        (Effect::Store, 1, true),
    ] {
        evidence.faults = vec![fault(effect, Some(replica), 9_000, 9_500)];
        assert_eq!(broken(&evidence).is_empty(), explains, "{effect:?} of {replica}");
    }
    evidence.faults = vec![fault(Effect::AuthorityLink, Some(1), 9_000, 10_000)];
    assert_eq!(broken(&evidence), [""; 0], "what was held on the way came when that was mended");
    evidence.faults = vec![fault(Effect::Stopped, Some(0), 12_000, 13_000)];
    assert_eq!(broken(&evidence), ["double_refresh"], "what came later explains nothing");
    // One that was given up is over a little later at the authority.
    evidence.faults.clear();
    evidence.authority[2].delivered = false;
    assert_eq!(broken(&evidence), [""; 0]);
}

#[test]
fn a_refresh_token_used_twice_and_a_grant_that_it_ended() {
    let mut evidence = good();
    evidence.authority[2].presented = Some(10_000); // the first one's
    assert_eq!(broken(&evidence), ["reused_refresh_token"]);
    evidence.authority[2].aadsts = Some(50173);
    evidence.authority[2].error = Some("invalid_grant".into());
    (evidence.authority[2].issued, evidence.authority[2].status) = (None, Some(400));
    evidence.finals[0].status = Some("needs_reauthorization".into());
    for call in &mut evidence.calls {
        if let Some(token) = &mut call.token
            && token.serial == 11
        {
            (token.serial, token.generation) = (10, 1);
        }
    }
    // The access token of the refused call is none.
    evidence.authority[2].access = None;
    assert_eq!(broken(&evidence), ["killed_grant", "reused_refresh_token"]);
    assert_eq!(check(&evidence, &[]).ended_grants["unexplained"], 1);
    // The first answer was lost: both are explained.
    evidence.authority[0].delivered = false;
    assert_eq!(broken(&evidence), [""; 0]);
    assert_eq!(check(&evidence, &[]).ended_grants["lost_answer"], 1);
    evidence.authority[0].delivered = true;
    evidence.faults = vec![fault(Effect::Down, Some(0), 1_040, 2_000)];
    assert_eq!(check(&evidence, &[]).ended_grants["killed_in_flight"], 1);
    let mut late = evidence.clone();
    late.authority[2].replica = Some(1);
    late.faults = vec![fault(Effect::AuthorityLink, Some(1), 8_000, 10_010)];
    assert_eq!(broken(&late), [""; 0]);
    assert_eq!(check(&late, &[]).ended_grants["request_came_late"], 1);
    // Somebody else's death is no reason, nor one long after.
    for fault in [fault(Effect::Down, Some(1), 1_040, 2_000), fault(Effect::Down, Some(0), 15_000, 16_000)] {
        evidence.faults = vec![fault];
        assert_eq!(broken(&evidence), ["killed_grant", "reused_refresh_token"]);
    }
}

#[test]
fn an_older_generation_after_a_newer_one() {
    let mut evidence = good();
    token(&mut evidence, 5).generation = 0;
    assert_eq!(broken(&evidence), ["generation_backwards"]);
    // The store lost something: explains it for a restarted process, not for one that remembers.
    evidence.faults = vec![fault(Effect::Store, None, 5_000, 6_000)];
    assert_eq!(broken(&evidence), ["generation_backwards"]);
    // A primary that was replaced may have shown what no replica had yet.
    evidence.setup.redis = "sentinel".to_owned();
    assert_eq!(broken(&evidence), [""; 0]);
    evidence.faults[0].effect = Effect::StoreLink;
    assert_eq!(broken(&evidence), ["generation_backwards"]);
    evidence.faults[0].effect = Effect::Store;
    evidence.setup.redis = "standalone".to_owned();
    evidence.calls[5].life = 2;
    assert_eq!(broken(&evidence), [""; 0]);
    evidence.faults.clear();
    assert_eq!(broken(&evidence), ["generation_backwards"]);
    // A sign-in before the last one is older, whatever its generation.
    for (before, expected) in [(300, &["generation_backwards"][..]), (50, &[][..])] {
        let mut evidence = good();
        evidence.connections[0].families.push(before);
        evidence.authority[0].family = Some(before);
        for call in [0, 1] {
            token(&mut evidence, call).family = before;
        }
        assert_eq!(broken(&evidence), expected);
    }
    // Answers that crossed are none.
    let mut evidence = good();
    token(&mut evidence, 5).generation = 0;
    evidence.calls[5].started = 1_000;
    assert_eq!(broken(&evidence), [""; 0]);
}

#[test]
fn a_connection_that_was_not_found() {
    let mut evidence = good();
    refused(&mut evidence, 404, "connection_not_found");
    assert!(broken(&evidence).contains(&"false_not_found"));
}

#[test]
fn a_held_token_that_was_not_served() {
    let mut evidence = good();
    refused(&mut evidence, 503, "authority_unavailable");
    let report = check(&evidence, &[]);
    assert_eq!((report.cached.asked, report.cached.served, report.passed), (5, 4, false));
    assert_eq!(report.cached.codes["authority_unavailable"], 1);
    // A process that is away serves nothing.
    evidence.faults = vec![fault(Effect::Stopped, Some(1), 10_200, 12_000)];
    assert!(check(&evidence, &[]).passed);
    evidence.faults = vec![fault(Effect::StoreLink, Some(1), 10_200, 12_000)];
    assert!(!check(&evidence, &[]).passed, "one that is cut off has what it holds");
    evidence.setup.serve_cached_for = 3_000;
    assert!(!check(&evidence, &[]).passed, "it heard of the store a moment ago");
    evidence.faults[0].started = 7_000;
    assert!(check(&evidence, &[]).passed, "it has not for too long");
    evidence.faults[0].replica = Some(0);
    assert!(!check(&evidence, &[]).passed, "another one has not");
    // Nor does one that holds nothing, or what is about to die.
    evidence.faults.clear();
    evidence.calls[8].life = 2;
    assert!(check(&evidence, &[]).passed);
    evidence.calls[8].life = 1;
    (evidence.calls[8].started, evidence.calls[8].ended) = (26_000, 26_010);
    assert!(check(&evidence, &[]).passed);
}

/// Something that replica 0 did to the second connection.
fn act(deed: Deed, started: u64) -> Act {
    let connections = vec![1];
    Act {
        deed,
        connections,
        replica: Some(0),
        life: 1,
        started,
        ended: started + 10,
        done: true,
        status: 200,
    }
}

#[test]
fn a_deleted_connection_s_token_at_the_same_process_at_once_and_elsewhere_soon() {
    // Call 6 is the same process's, 2 ms later; call 7 another replica's.
    let mut evidence = good();
    evidence.acts = vec![act(Deed::Delete, 10_258)];
    assert_eq!(broken(&evidence), ["deleted_served"]);
    assert_eq!(check(&evidence, &[]).violations["deleted_served"].count, 1);
    evidence.acts[0].life = 2;
    assert_eq!(broken(&evidence), [""; 0], "another process was told");
    evidence.acts = vec![act(Deed::Delete, 10_265)];
    assert_eq!(broken(&evidence), [""; 0], "asked before it was acknowledged");
    // What it was about is another connection.
    evidence.acts = vec![Act { connections: vec![0], ..act(Deed::Delete, 10_258) }];
    assert_eq!(broken(&evidence), [""; 0]);

    let mut evidence = good();
    evidence.calls.remove(6);
    evidence.acts = vec![act(Deed::Delete, 7_300)];
    assert_eq!(broken(&evidence), [""; 0], "a second, and two for a machine that is late");
    evidence.acts = vec![act(Deed::Delete, 5_000)];
    assert_eq!(broken(&evidence), ["deleted_served"]);
    for (effect, replica, until, explains) in [
        (Effect::StoreLink, Some(1), 9_000, true),
        (Effect::Stopped, Some(1), 9_000, true),
        (Effect::Store, None, 9_000, true),
        (Effect::StoreLink, Some(1), 5_100, false),
        (Effect::StoreLink, Some(0), 9_000, false),
        (Effect::AuthorityLink, Some(1), 9_000, false),
    ] {
        evidence.faults = vec![fault(effect, replica, 5_000, until)];
        assert_eq!(broken(&evidence).is_empty(), explains, "{effect:?} {replica:?} {until}");
    }
    // One that is cut off for longer than it may serve what it holds must not serve it.
    evidence.faults = vec![fault(Effect::StoreLink, Some(1), 5_000, 11_000)];
    evidence.setup.serve_cached_for = 2_000;
    assert_eq!(broken(&evidence), ["deleted_served"]);
    evidence.setup.serve_cached_for = 2_500;
    assert_eq!(broken(&evidence), [""; 0]);
    evidence.faults.clear();
    evidence.acts[0].done = false;
    assert_eq!(broken(&evidence), [""; 0], "nobody knows whether it happened");
}

#[test]
fn a_deleted_connection_that_comes_back_without_its_user() {
    // That it needs its user is said of what is there.
    let mut evidence = good();
    evidence.calls.truncate(6);
    evidence.acts = vec![act(Deed::Delete, 5_000)];
    evidence.authority.remove(3);
    evidence.authority[2].family = Some(101);
    evidence.authority[2].error = Some("invalid_grant".into());
    for call in [4, 5] {
        evidence.calls[call].connection = 1;
        (evidence.calls[call].status, evidence.calls[call].token) = (409, None);
        evidence.calls[call].code = Some("reauthorization_required".into());
    }
    assert_eq!(broken(&evidence), ["deleted_served"]);
    evidence.acts.push(Act { done: false, ..act(Deed::SignIn, 6_000) });
    assert_eq!(broken(&evidence), [""; 0], "somebody tried to sign in");

    // A sign-in since is served; a token of before it is not.
    let mut evidence = good();
    evidence.acts = vec![act(Deed::Delete, 5_000), act(Deed::SignIn, 6_000)];
    evidence.connections[1].families.push(300);
    let code = AuthorityCall { started: 6_001, family: Some(300), ..AuthorityCall::default() };
    evidence.authority.push(code);
    evidence.authority[3].family = Some(300);
    for call in [6, 7] {
        token(&mut evidence, call).family = 300;
    }
    assert_eq!(broken(&evidence), [""; 0]);
    (token(&mut evidence, 7).family, token(&mut evidence, 7).serial) = (101, 20);
    assert_eq!(broken(&evidence), ["deleted_served"]);

    // How it stands in the end.
    let mut evidence = good();
    evidence.finals[1].expected = Ending::Deleted;
    assert_eq!(broken(&evidence), [""; 0]);
    evidence.finals[1].refused_by = vec![1];
    assert_eq!(broken(&evidence), ["deleted_served"]);
}

#[test]
fn an_acknowledged_delete_is_dropped_by_a_failover_that_waited_for_nobody_alone() {
    let mut evidence = good();
    evidence.calls.remove(6);
    evidence.acts = vec![act(Deed::Delete, 5_000)];
    evidence.faults = vec![fault(Effect::Store, None, 4_900, 5_005)];
    assert_eq!(broken(&evidence), ["deleted_served"]);
    evidence.setup.redis = "sentinel".into();
    assert_eq!(broken(&evidence), [""; 0]);
    evidence.setup.wait_replicas = 1;
    assert_eq!(broken(&evidence), ["deleted_served"]);
    // An old primary that stood still goes on for a while, with a replica that has not left it.
    evidence.faults[0].kind = "redis_stop".into();
    assert_eq!(broken(&evidence), [""; 0]);
    evidence.setup.wait_replicas = 2;
    assert_eq!(broken(&evidence), ["deleted_served"]);
    evidence.setup.wait_replicas = 0;
    evidence.faults = vec![fault(Effect::Store, None, 1_000, 2_000)];
    assert_eq!(broken(&evidence), ["deleted_served"], "one long before drops nothing");
}

#[test]
fn a_grant_that_was_deleted_and_is_used() {
    let mut evidence = good();
    evidence.setup.lease = 1_000;
    evidence.acts = vec![act(Deed::Delete, 2_000)];
    assert_eq!(broken(&evidence), ["deleted_served", "ended_grant_used"]);
    // What was begun before may last for a lease.
    evidence.setup.lease = 8_000;
    assert_eq!(broken(&evidence), ["deleted_served"]);
}

#[test]
fn a_connection_that_was_not_found_after_a_delete() {
    let mut evidence = good();
    refused(&mut evidence, 404, "connection_not_found");
    let at = evidence.calls[8].started;
    evidence.acts = vec![Act { done: false, ..act(Deed::Delete, at - 10) }];
    assert_eq!(broken(&evidence), [""; 0], "the delete may have happened");
    evidence.acts = vec![act(Deed::Delete, 1_100), act(Deed::SignIn, 2_000)];
    evidence.authority[5].started = 2_001;
    assert_eq!(broken(&evidence), ["false_not_found"]);
    evidence.acts[1].done = false;
    assert_eq!(broken(&evidence), [""; 0], "nobody knows whether the user signed in");
    // A delete that does not find what is there.
    let mut evidence = good();
    evidence.acts = vec![Act { status: 404, ..act(Deed::Delete, 10_300) }];
    assert_eq!(broken(&evidence), ["false_not_found"]);
    evidence.acts.insert(0, Act { done: false, status: 503, ..act(Deed::Delete, 10_289) });
    assert_eq!(broken(&evidence), [""; 0]);
}

#[test]
fn a_token_of_a_revoked_connection() {
    let mut evidence = good();
    evidence.acts = vec![act(Deed::Revoke, 10_258)];
    assert_eq!(broken(&evidence), ["revoked_served"], "at once where it was said");
    evidence.calls.remove(6);
    assert_eq!(broken(&evidence), [""; 0]);
    evidence.acts = vec![act(Deed::Revoke, 5_000)];
    assert_eq!(broken(&evidence), [""; 0], "5 s elsewhere");
    evidence.acts = vec![act(Deed::Revoke, 3_000)];
    assert_eq!(broken(&evidence), ["revoked_served"]);
}

#[test]
fn a_paused_connection_that_is_served_and_a_resumed_one_that_is_not() {
    let mut evidence = good();
    evidence.acts = vec![act(Deed::Pause, 5_000)];
    assert_eq!(broken(&evidence), ["paused_served"]);
    evidence.acts.push(Act { done: false, ..act(Deed::Resume, 6_000) });
    assert_eq!(broken(&evidence), [""; 0], "somebody tried to resume it");

    let mut evidence = good();
    refused(&mut evidence, 409, "connection_paused");
    evidence.acts = vec![act(Deed::Pause, 1_245), act(Deed::Resume, 2_000)];
    assert_eq!(broken(&evidence), ["still_paused"]);
    evidence.acts = vec![act(Deed::Pause, 10_290)];
    let report = check(&evidence, &[]);
    assert!(report.passed && report.cached.asked == 4, "what is paused is not held: {}", report.summary());

    let mut evidence = good();
    evidence.finals[1].expected = Ending::Paused;
    evidence.finals[1].refused_by = vec![0];
    assert_eq!(broken(&evidence), ["paused_served"]);
}

#[test]
fn a_reported_token_that_its_reporter_gets_again() {
    let mut evidence = good();
    evidence.calls[6].reported = Some(20);
    assert_eq!(broken(&evidence), [""; 0]);
    evidence.calls[6].reported = Some(21);
    assert_eq!(broken(&evidence), ["rejected_again"]);
    // A reporter who gets none has lost nothing that was held.
    refused(&mut evidence, 503, "authority_unavailable");
    evidence.calls[6].reported = None;
    evidence.calls[8].reported = Some(21);
    assert!(check(&evidence, &[]).passed);
}

#[test]
fn a_verdict_that_is_not_told() {
    let mut evidence = good();
    let end = Final {
        connection: 1,
        expected: Ending::Dead,
        status: Some("needs_reauthorization".into()),
        error_codes: vec![50173],
        ..Final::default()
    };
    evidence.finals[1] = end.clone();
    assert_eq!(broken(&evidence), [""; 0]);
    for planted in [
        Final { refused_by: vec![1], ..end.clone() },
        Final { status: Some("active".into()), ..end.clone() },
        Final { error_codes: vec![], ..end },
    ] {
        evidence.finals[1] = planted;
        assert_eq!(broken(&evidence), ["missed_verdict"]);
    }
}

#[test]
fn a_block_that_was_lifted_and_stays() {
    let mut evidence = good();
    evidence.authority[3].error = Some("invalid_grant".into());
    refused(&mut evidence, 409, "connection_blocked");
    evidence.acts = vec![act(Deed::Block, 10_000), act(Deed::Lift, 11_000)];
    (evidence.calls[8].started, evidence.calls[8].ended) = (80_000, 80_010);
    assert_eq!(broken(&evidence), [""; 0], "it is tried again after a minute");
    (evidence.calls[8].started, evidence.calls[8].ended) = (82_000, 82_010);
    assert_eq!(broken(&evidence), ["still_blocked"]);
    evidence.faults = vec![fault(Effect::Authority, None, 72_000, 80_000)];
    assert_eq!(broken(&evidence), [""; 0]);
    evidence.faults.clear();
    evidence.acts.push(act(Deed::Block, 79_000));
    assert_eq!(broken(&evidence), [""; 0], "it is blocked again");
}

#[test]
fn the_token_before_a_dead_one_may_be_tried() {
    let mut evidence = good();
    let refused = |sequence, started, presented| AuthorityCall {
        sequence,
        started,
        ended: Some(started + 30),
        delivered: true,
        replica: Some(0),
        refresh: true,
        family: Some(101),
        presented: Some(presented),
        status: Some(400),
        error: Some("invalid_grant".into()),
        aadsts: Some(50173),
        ..AuthorityCall::default()
    };
    evidence.authority.push(refused(500, 15_050, 21_000));
    assert_eq!(broken(&evidence), ["killed_grant", "reused_refresh_token"]);
    evidence.authority.push(refused(499, 15_000, 22_000));
    assert_eq!(broken(&evidence), [""; 0]);
    evidence.setup.mode = "strict".into();
    assert_eq!(broken(&evidence), ["reused_refresh_token"], "there it would end the grant");
}

#[test]
fn what_is_tolerated_is_counted() {
    let mut evidence = good();
    evidence.audited.clear();
    let report = check(&evidence, &[Rule::UnauditedHandOut]);
    assert!(report.passed && report.violations["unaudited_hand_out"].count == 8);
    assert!(report.summary().contains("(tolerated)"));
}

#[test]
fn the_time_until_a_replica_answers_well_again() {
    let mut evidence = good();
    evidence.calls.clear();
    let call = good().calls.remove(0);
    for at in (0..40).map(|step| 10_000 + step * 100) {
        let status = if (10_300..11_200).contains(&at) { 503 } else { 200 };
        let token = call.token.clone().filter(|_| status == 200);
        evidence.calls.push(Call { started: at, ended: at + 5, status, token, ..call.clone() });
    }
    evidence.faults = vec![fault(Effect::StoreLink, Some(0), 10_000, 10_500)];
    assert_eq!(check(&evidence, &[]).healthy_after_ms["planted"].longest, 700);
    for call in &mut evidence.calls {
        (call.status, call.token) = (503, None);
    }
    assert_eq!(check(&evidence, &[]).healthy_after_ms["planted"].longest, 3_405, "never, as far as was seen");
}

#[test]
fn evidence_can_be_kept() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut evidence = good();
    evidence.faults = vec![fault(Effect::StoreLink, Some(0), 1, 2)];
    evidence.acts = vec![act(Deed::Revoke, 1)];
    evidence.save(folder.path()).expect("written");
    let again = Evidence::load(folder.path()).expect("read");
    assert_eq!((again.calls, again.authority), (evidence.calls, evidence.authority));
    assert_eq!((again.finals, again.faults, again.setup), (evidence.finals, evidence.faults, evidence.setup));
    assert_eq!(again.acts, evidence.acts);
}

#[test]
fn events_say_how_a_connection_stands_and_no_change_twice() {
    let told = |kind: &str| Told {
        id: kind.to_owned(),
        kind: format!("connection.{kind}"),
        connection: "soak/user-0".to_owned(),
    };
    let rows: [(&[&str], &[&str]); 6] = [
        (&[], &[]),
        (&["needs_reauthorization", "recovered"], &[]),
        (&["deleted", "connected"], &[]),
        (&["needs_reauthorization"], &["events_disagree"]),
        (&["recovered", "recovered"], &["events_disagree"]),
        (&["connected", "deleted"], &["events_disagree"]),
    ];
    for (kinds, expected) in rows {
        let mut evidence = good();
        evidence.finals[0].status = Some("active".into());
        evidence.told = kinds.iter().map(|kind| told(kind)).collect();
        assert_eq!(broken(&evidence), expected, "{kinds:?}");
        evidence.faults = vec![fault(Effect::Store, None, 1, 2)];
        assert_eq!(broken(&evidence), [""; 0], "the store lost something");
    }
}
