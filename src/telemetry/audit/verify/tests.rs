use super::*;
use crate::domain::time::Timestamp;
use crate::telemetry::audit::chain::append;
use crate::telemetry::audit::checkpoint::{SigningKey, Statement};
use crate::telemetry::audit::record::rfc3339_of;
use crate::telemetry::audit::{Action, AuditEvent};

/// Lines of lives of the daemon, with so many records each.
fn log(lives: &[u64]) -> Vec<String> {
    let (mut chain, mut lines) = (beginning(), Vec::new());
    for records in lives {
        for seq in 1..=*records {
            let mut event = AuditEvent::new(Timestamp::from_unix_seconds(0), Action::Token, "ok");
            event.expires_in = Some(seq);
            append(&mut lines, seq, &event.clone().into(), &mut chain);
        }
    }
    String::from_utf8(lines).expect("text").lines().map(str::to_owned).collect()
}

fn checked(lines: &[impl AsRef<str>]) -> Verified {
    let text: String = lines.iter().map(|line| format!("{}\n", line.as_ref())).collect();
    verify(text.as_bytes()).expect("read")
}

fn flaw(line: u64, what: What) -> Flaw {
    Flaw { line, what }
}

#[test]
fn a_whole_log_has_no_flaw_and_says_what_it_has() {
    let lines = log(&[3, 4]);
    let found = checked(&lines);
    assert_eq!((found.lines, found.starts, &found.flaws[..], &found.torn[..]), (7, 2, &[][..], &[][..]));
    assert!(found.first.as_ref().is_some_and(First::begins_a_chain));
    assert_eq!(found.last_chain(), split_chain(&lines[6]).map(|(_, chain)| chain));
    let later = checked(&lines[1..]);
    assert!(later.flaws.is_empty() && !later.first.expect("a record").begins_a_chain());
    assert_eq!(checked(&[""; 0]), Verified::default());
}

#[test]
fn every_change_is_found_and_named_with_its_line() {
    type Change = fn(&mut Vec<String>);
    let cases: [(&str, Change, &[Flaw]); 13] = [
        (
            "its number",
            |lines| lines[4] = lines[4].replace(":5,", ":6,"),
            &[flaw(5, What::Removed { lines: 1 }), flaw(6, What::OutOfOrder)],
        ),
        ("its text alone", |lines| lines[4] = lines[4].replace("token", "admin"), &[flaw(5, What::Changed)]),
        (
            "with its chain made anew",
            |lines| {
                let (_, before) = split_chain(&lines[3]).expect("a line");
                let open = split_chain(&lines[4]).expect("a line").0.replace("token", "admin");
                lines[4] = format!("{open},\"chain\":\"{}\"}}", link(before, &open));
            },
            &[flaw(6, What::Changed)],
        ),
        ("one removed", |lines| drop(lines.remove(4)), &[flaw(5, What::Removed { lines: 1 })]),
        ("three removed", |lines| drop(lines.drain(4..7)), &[flaw(5, What::Removed { lines: 3 })]),
        ("a life's last", |lines| drop(lines.remove(9)), &[flaw(10, What::BrokenAtStart)]),
        ("a life's first", |lines| drop(lines.remove(10)), &[flaw(11, What::OutOfOrder)]),
        (
            "swapped",
            |lines| lines.swap(4, 5),
            &[
                flaw(5, What::Removed { lines: 1 }),
                flaw(6, What::OutOfOrder),
                flaw(7, What::Removed { lines: 1 }),
            ],
        ),
        ("a line twice", |lines| lines.insert(5, lines[4].clone()), &[flaw(6, What::OutOfOrder)]),
        ("a foreign line", |lines| lines.insert(4, "{}".into()), &[flaw(5, What::Unreadable)]),
        (
            "a torn line amid a life",
            |lines| lines.insert(4, "{\"seq\":5,".into()),
            &[flaw(5, What::Unreadable)],
        ),
        (
            "a line that is too long",
            |lines| lines.insert(4, "{\"seq\":".repeat(LONGEST_LINE / 4)),
            &[flaw(5, What::Unreadable)],
        ),
        ("another log's", |lines| lines.extend(log(&[2])), &[flaw(21, What::NewChain)]),
    ];
    for (case, change, flaws) in cases {
        let mut lines = log(&[10, 10]);
        change(&mut lines);
        assert_eq!(checked(&lines).flaws, flaws, "{case}");
    }
}

#[test]
fn every_line_that_is_taken_out_or_altered_shows() {
    let lines = log(&[5, 5, 5]);
    // (Not the first, which is believed, and not the last, after which nothing comes.)
    for place in 1..14 {
        let mut removed = lines.clone();
        removed.remove(place);
        assert_ne!(checked(&removed).flaws, [], "without line {}", place + 1);
        let mut altered = lines.clone();
        altered[place] = altered[place].replace("\"ok\"", "\"no\"");
        assert_ne!(checked(&altered).flaws, [], "line {} altered", place + 1);
    }
}

#[test]
fn records_that_the_sink_did_not_take_are_a_gap_in_a_whole_chain() {
    let mut lines = log(&[4]);
    let chain = split_chain(&lines[3]).expect("a line").1.to_owned();
    let (mut more, mut chain) = (Vec::new(), chain);
    let event = AuditEvent::new(Timestamp::from_unix_seconds(0), Action::Token, "ok");
    append(&mut more, 8, &event.clone().into(), &mut chain);
    lines.push(String::from_utf8(more).expect("text").trim().to_owned());
    assert_eq!(checked(&lines).flaws, [flaw(5, What::Lost { records: 3 })]);
}

#[test]
fn a_line_torn_by_the_end_of_a_process_is_no_flaw() {
    let lines = log(&[3, 3]);
    for torn in ["{", "{\"seq\":4", "{\"seq\":4,\"at\":\"2026-"] {
        let mut between = lines.clone();
        between.insert(3, torn.to_owned());
        let found = checked(&between);
        assert_eq!((&found.flaws[..], &found.torn[..]), (&[][..], &[4][..]), "{torn}");
        // At the end of a file it has no newline.
        let text = format!("{}\n{torn}", lines.join("\n"));
        let found = verify(text.as_bytes()).expect("read");
        assert_eq!((&found.flaws[..], &found.torn[..]), (&[][..], &[7][..]), "{torn}");
    }
    // Two cannot be, nor can one after which the chain breaks.
    let mut two = lines.clone();
    two.splice(3..3, ["{\"seq\":4".to_owned(), "{\"seq\":5".to_owned()]);
    assert_eq!(checked(&two).flaws, [flaw(4, What::Unreadable), flaw(5, What::Unreadable)]);
    let mut cut = lines.clone();
    cut[2] = "{\"seq\":3".to_owned();
    assert_eq!(checked(&cut).flaws, [flaw(3, What::Unreadable), flaw(4, What::BrokenAtStart)]);
}

#[test]
fn files_are_put_into_the_order_of_the_chain() {
    let lines = log(&[4, 4, 4]);
    let parts = [&lines[0..3], &lines[3..8], &lines[8..8], &lines[8..12]].map(checked);
    let given = |places: &[usize]| places.iter().map(|place| parts[*place].clone()).collect::<Vec<_>>();
    assert_eq!(
        join(&given(&[3, 0, 2, 1]), None),
        Joined { order: vec![1, 3, 0], flaws: vec![], ..Joined::default() }
    );
    // (The times of all lines are the same here: nothing but the chain says what comes first.)
    assert_eq!(join(&given(&[1, 3]), None), Joined { order: vec![0, 1], flaws: vec![], ..Joined::default() });

    // A file is missing, or was cut.
    let unlinked = join(&given(&[0, 3]), None);
    assert_eq!(unlinked.flaws, [(1, flaw(1, What::Unlinked))]);
    // Another log's file is none of these.
    let other = [parts[0].clone(), checked(&log(&[7]))];
    assert_eq!(join(&other, None).flaws, [(1, flaw(1, What::NewChain))]);
    // The same file twice.
    assert_eq!(join(&given(&[0, 1, 1]), None).flaws, [(2, flaw(1, What::Unlinked))]);

    // What an earlier check printed.
    let known = parts[0].last_chain();
    assert_eq!(
        join(&given(&[3, 1]), known),
        Joined { order: vec![1, 0], flaws: vec![], ..Joined::default() }
    );
    assert_eq!(join(&given(&[3]), known).flaws, [(0, flaw(1, What::Unlinked))]);
    assert_eq!(join(&given(&[0]), known).flaws, [(0, flaw(1, What::NewChain))]);
}

#[test]
fn records_lost_between_two_files_are_a_gap() {
    let lines = log(&[3]);
    let mut chain = split_chain(&lines[2]).expect("a line").1.to_owned();
    let mut more = Vec::new();
    let event = AuditEvent::new(Timestamp::from_unix_seconds(0), Action::Token, "ok");
    append(&mut more, 6, &event.clone().into(), &mut chain);
    let files = [checked(&lines), verify(&more[..]).expect("read")];
    assert_eq!(join(&files, None).flaws, [(1, flaw(1, What::Lost { records: 2 }))]);
}

#[test]
fn garbage_is_read_to_its_end() {
    for text in [&b"\n\n\n"[..], b"\xff\xfe\n", b"{\"seq\":1}", b"\0", &[b'a'; 3 * LONGEST_LINE]] {
        let found = verify(text).expect("read");
        assert!(found.first.is_none() && found.flaws.len() + found.torn.len() > 0, "{:?}", found.lines);
    }
}

/// Writes a log with signatures.
struct Signer {
    key: SigningKey,
    chain: String,
    seq: u64,
    unsigned: u64,
    seconds: i64,
    lines: Vec<String>,
}

impl Signer {
    fn new() -> Self {
        let (key, _) = SigningKey::make().expect("a key");
        Signer { key, chain: beginning(), seq: 0, unsigned: 0, seconds: 0, lines: Vec::new() }
    }

    fn write(&mut self, mut event: AuditEvent, checkpoint: Option<Checkpoint>) {
        event.checkpoint = checkpoint;
        let mut line = Vec::new();
        append(&mut line, self.seq, &event.clone().into(), &mut self.chain);
        self.lines.push(String::from_utf8(line).expect("text").trim_end().to_owned());
    }

    /// So many records, one a second.
    fn records(mut self, count: u64) -> Self {
        for _ in 0..count {
            (self.seq, self.unsigned, self.seconds) = (self.seq + 1, self.unsigned + 1, self.seconds + 1);
            let at = Timestamp::from_unix_seconds(self.seconds);
            self.write(AuditEvent::new(at, Action::Token, "ok"), None);
        }
        self
    }

    fn checkpoint(mut self) -> Self {
        self.seq += 1;
        let at = Timestamp::from_unix_seconds(self.seconds);
        let (text, id) = (rfc3339_of(at), self.key.id().to_owned());
        let (seq, records, every, within) = (self.seq, self.unsigned, 10, 300);
        let statement = Statement { before: &self.chain, seq, at: &text, key: &id, records, every, within };
        let signature = self.key.sign(&statement);
        let checkpoint = Checkpoint { key: id, records, every, within, signature };
        self.write(AuditEvent::new(at, Action::Checkpoint, "ok"), Some(checkpoint));
        self.unsigned = 0;
        self
    }

    /// The process ends without a word, and another one begins.
    fn killed(mut self) -> Self {
        (self.seq, self.unsigned) = (0, 0);
        self
    }

    fn later(mut self, seconds: i64) -> Self {
        self.seconds += seconds;
        self
    }

    fn with_another_key(mut self) -> (Self, VerifyingKey) {
        let before = public(&self.key);
        self.key = SigningKey::make().expect("a key").0;
        (self, before)
    }

    fn checked(&self) -> (Vec<Flaw>, AllSigned) {
        signed(std::slice::from_ref(&self.lines), &[public(&self.key)])
    }
}

fn public(key: &SigningKey) -> VerifyingKey {
    VerifyingKey::read(key.public_pem().as_bytes()).expect("a key")
}

/// The flaws of these files together, and their signatures.
fn signed(files: &[Vec<String>], keys: &[VerifyingKey]) -> (Vec<Flaw>, AllSigned) {
    let verified: Vec<Verified> = files
        .iter()
        .map(|lines| verify_signed((lines.join("\n") + "\n").as_bytes(), keys).expect("read"))
        .collect();
    let joined = join_signed(&verified, None, keys);
    let all = verified.iter().flat_map(|file| file.flaws.clone());
    (all.chain(joined.flaws.into_iter().map(|(_, flaw)| flaw)).collect(), joined.signed)
}

/// What somebody without the key can do: change lines, and make numbers and chain anew.
fn forged(lines: &[String], change: impl Fn(&mut Vec<String>)) -> Vec<String> {
    let mut opens: Vec<String> =
        lines.iter().map(|line| split_chain(line).expect("a line").0.to_owned()).collect();
    change(&mut opens);
    let mut chain = beginning();
    let anew = opens.iter().enumerate().map(|(at, open)| {
        let rest = open.split_once(",\"at\"").expect("a record").1;
        let open = format!("{{\"seq\":{},\"at\"{rest}", at + 1);
        chain = link(&chain, &open);
        format!("{open},\"chain\":\"{chain}\"}}")
    });
    anew.collect()
}

#[test]
fn signatures_cover_what_their_processes_wrote_and_say_until_when() {
    let log = Signer::new().records(9).checkpoint().records(4).killed().records(3).checkpoint().records(2);
    let (flaws, found) = log.checked();
    assert_eq!(flaws, []);
    assert_eq!((found.checkpoints, found.unsigned), (2, 2));
    assert_eq!(found.until.as_deref(), Some("1970-01-01T00:00:16.000Z"));
    // Without keys nobody looks.
    assert_eq!(signed(std::slice::from_ref(&log.lines), &[]), (vec![], AllSigned::default()));
    // Wherever it is rotated, also right before a checkpoint.
    for at in 1..log.lines.len() {
        let (first, second) = log.lines.split_at(at);
        let both = [second.to_vec(), first.to_vec()];
        assert_eq!(signed(&both, &[public(&log.key)]), (vec![], found.clone()), "{at}");
        // The second alone begins in the middle: what its checkpoint signs besides stands elsewhere.
        assert_eq!(signed(&both[..1], &[public(&log.key)]).0, [], "{at}");
        // The same where only the chain before it is known.
        let alone = verify_signed((second.join("\n") + "\n").as_bytes(), &[public(&log.key)]).expect("read");
        let before = split_chain(&first[at - 1]).map(|(_, chain)| chain);
        assert_eq!(join_signed(&[alone], before, &[public(&log.key)]).flaws, [], "{at}");
    }
}

#[test]
fn a_log_that_was_written_anew_without_the_key_shows() {
    let log = Signer::new().records(9).checkpoint().records(5).checkpoint().records(2);
    let keys = [public(&log.key)];
    let words = |lines: Vec<String>| {
        let (flaws, _) = signed(&[lines], &keys);
        flaws.into_iter().map(|flaw| (flaw.line, flaw.what.word())).collect::<Vec<_>>()
    };
    assert_eq!(words(forged(&log.lines, |_| {})), [], "made anew as it was");
    let changed = |lines: &mut Vec<String>| lines[3] = lines[3].replace("token", "admin");
    assert_eq!(words(forged(&log.lines, changed)), [(10, "forged"), (16, "forged")]);
    let later = |lines: &mut Vec<String>| lines[11] = lines[11].replace("token", "admin");
    assert_eq!(words(forged(&log.lines, later)), [(16, "forged")]);
    let removed = |lines: &mut Vec<String>| drop(lines.remove(12));
    assert_eq!(words(forged(&log.lines, removed)), [(15, "forged")]);
    // Without its checkpoints it is not signed.
    let stripped = |lines: &mut Vec<String>| lines.retain(|line| !line.contains("checkpoint"));
    let many = Signer::new().records(1_100).checkpoint();
    assert_eq!(
        signed(&[forged(&many.lines, stripped)], &[public(&many.key)]).0,
        [flaw(1_100, What::Unsigned { records: 1_100 })]
    );
    // A checkpoint of another log, another place or another key is none.
    let other = Signer::new().records(9).checkpoint();
    let alien = |lines: &mut Vec<String>| {
        lines[9] = split_chain(&other.lines[9]).expect("a line").0.to_owned();
    };
    assert!(words(forged(&log.lines, alien)).contains(&(10, "unknown_key")));
    // Nor is what stands in the last one's record, which none follows.
    let disguised = |lines: &mut Vec<String>| {
        lines.truncate(16);
        lines[15] = lines[15].replace("\"action\":\"checkpoint\"", "\"action\":\"token\",\"caller\":\"eve\"");
    };
    assert_eq!(words(forged(&log.lines, disguised)), [(16, "forged")]);
    let moved = |lines: &mut Vec<String>| lines.swap(14, 15);
    assert_eq!(words(forged(&log.lines, moved)), [(15, "forged")]);
    // What the last one signs is missed when it is cut off, and what comes after it is not.
    let cut = |until: usize| signed(&[log.lines[..until].to_vec()], &keys);
    assert_eq!((cut(17).0, cut(17).1.unsigned), (vec![], 1));
    assert_eq!((cut(16).0, cut(16).1.unsigned), (vec![], 0));
    assert_eq!(cut(12).1.until.as_deref(), Some("1970-01-01T00:00:09.000Z"), "it ends earlier");
}

#[test]
fn no_process_leaves_more_unsigned_than_it_says() {
    let unsigned = |records| What::Unsigned { records };
    // The cadence is the last checkpoint's: ten records, five minutes.
    let log = Signer::new().records(3).checkpoint().records(9);
    assert_eq!(log.checked().0, []);
    assert_eq!(log.records(1).checked().0, [flaw(14, unsigned(10))]);
    let log = Signer::new().records(3).checkpoint().records(10).killed().records(1).checkpoint();
    assert_eq!(log.checked().0, [flaw(14, unsigned(10))]);
    let log = Signer::new().records(3).checkpoint().records(1).later(361).records(1).killed().records(1);
    assert_eq!(log.checked().0, [flaw(6, unsigned(2))]);
    let log = Signer::new().records(3).checkpoint().records(1).later(300).records(1).checkpoint();
    assert_eq!(log.checked().0, []);
}

#[test]
fn a_key_is_replaced_in_the_middle() {
    let (log, before) = Signer::new().records(5).checkpoint().records(2).with_another_key();
    let log = log.records(2).checkpoint();
    let now = public(&log.key);
    assert_eq!(signed(std::slice::from_ref(&log.lines), &[now.clone(), before.clone()]).0, []);
    assert_eq!(signed(std::slice::from_ref(&log.lines), &[before]).0, [flaw(11, What::UnknownKey)]);
    assert_eq!(
        signed(&[log.lines], &[now]).0,
        [flaw(6, What::UnknownKey), flaw(11, What::Unsigned { records: 6 })]
    );
}
