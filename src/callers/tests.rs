use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use zeroize::Zeroizing;

use super::*;
use crate::callers::api_key::{ApiKey, KeyHasher};
use crate::callers::key_file::DEFAULT_LIFETIME;
use crate::domain::certificate_names::{San, SpiffeId};
use crate::domain::task::BoxFuture;
use crate::keyring::SealingKey;
use crate::system::SystemClock;
use crate::testkit::SeededRandom;

const NOW: i64 = 1_800_000_000;

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_unix_seconds(seconds)
}

fn name(name: &str) -> CallerName {
    CallerName::parse(name).expect("a caller name")
}

fn ring() -> Arc<Keyring> {
    let key = SealingKey::new("k1".into(), at(0), Some(at(0)), Zeroizing::new([7; 32]));
    Arc::new(Keyring::new(vec![key], "here").expect("a ring"))
}

fn setup(caller: &str, uids: &[u32], files: &[&Path]) -> CallerSetup {
    CallerSetup {
        policy: CallerPolicy::new(name(caller), vec![]),
        identities: uids.iter().map(|&uid| Identity::UnixUser(uid)).collect(),
        api_key_files: files.iter().map(|&path| path.to_owned()).collect(),
        jwts: Vec::new(),
        client_keys: Vec::new(),
        rate_limit: Some(500),
        connection_rate_limit: None,
    }
}

fn callers(setups: Vec<CallerSetup>) -> Arc<Callers> {
    Arc::new(read(setups))
}

fn read(setups: Vec<CallerSetup>) -> Callers {
    Callers::new(setups, &Issuers::new(), ring(), SecretReader::new(None), at(NOW))
        .map_err(|errors| format!("{errors:?}"))
        .expect("callers")
}

fn add(path: &Path, caller: &str, seed: u64) -> (ApiKey, KeyInfo) {
    let random = SeededRandom::new(seed);
    key_file::add(path, &name(caller), &random, at(NOW), DEFAULT_LIFETIME).expect("a key")
}

/// A clock that stands still.
struct At(Timestamp);

impl Clock for At {
    fn now(&self) -> Timestamp {
        self.0
    }

    fn monotonic(&self) -> Duration {
        Duration::ZERO
    }

    fn sleep(&self, _: Duration) -> BoxFuture<'static, ()> {
        Box::pin(std::future::pending())
    }
}

/// Authenticates on a thread that does nothing else.
fn asked(
    callers: &Arc<Callers>,
    credential: Credential<'_>,
    now: Timestamp,
) -> Result<String, AuthenticationFailure> {
    proven(callers, credential, AuthMethods::all(), now).map(|(caller, _)| caller)
}

/// The same at a listener that accepts some methods, with the method.
fn proven(
    callers: &Arc<Callers>,
    credential: Credential<'_>,
    accepted: AuthMethods,
    now: Timestamp,
) -> Result<(String, AuthMethod), AuthenticationFailure> {
    let thread = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    let proven = thread.block_on(callers.authenticate(credential, accepted, &At(now)));
    proven.map(|Authenticated { caller, method }| (caller.name.to_string(), method))
}

fn who(callers: &Arc<Callers>, key: &ApiKey, now: i64) -> Result<String, AuthenticationFailure> {
    asked(callers, Credential::ApiKey(key.expose()), at(now))
}

/// The files do not answer, and everything runs on one thread: requests with wrong keys, and one with the
/// right key.
#[tokio::test]
async fn a_key_file_that_does_not_answer_holds_up_no_thread_that_serves() {
    let folder = tempfile::tempdir().expect("temp dir");
    let path = folder.path().join("a.keys");
    let (key, _) = add(&path, "a", 1);
    let callers = callers(vec![setup("a", &[], &[&path])]);
    let clock = SystemClock::new();
    let stranger = ApiKey::generate(&name("a"), &SeededRandom::new(2));
    let ask = async |key: &ApiKey| {
        let key = Credential::ApiKey(key.expose());
        let proven = callers.authenticate(key, AuthMethods::all(), &clock).await;
        proven.map(|proven| proven.caller.name.to_string())
    };
    let hangs = callers.keys.hang();
    for _ in 0..100 {
        assert_eq!(ask(&stranger).await, Err(AuthenticationFailure::Unknown));
        assert_eq!(ask(&key).await, Ok("a".into()));
    }
    drop(hangs);
    let (second, _) = add(&path, "a", 3);
    while ask(&second).await.is_err() {
        tokio::task::yield_now().await;
    }
}

#[test]
fn a_key_and_a_unix_user_are_their_caller_and_nothing_else_is_anyone() {
    let folder = tempfile::tempdir().expect("temp dir");
    let path = folder.path().join("a.keys");
    let (key, info) = add(&path, "a", 1);
    let stranger = ApiKey::generate(&name("a"), &SeededRandom::new(2));
    let nobody = ApiKey::generate(&name("nobody"), &SeededRandom::new(3));
    let callers = callers(vec![setup("a", &[1], &[&path]), setup("b", &[2, 3], &[])]);
    assert_eq!(who(&callers, &key, NOW), Ok("a".into()));
    assert_eq!(who(&callers, &stranger, NOW), Err(AuthenticationFailure::Unknown));
    assert_eq!(who(&callers, &nobody, NOW), Err(AuthenticationFailure::Unknown));
    let expires_at = info.expires_at.unix_seconds();
    assert_eq!(who(&callers, &key, expires_at - 1), Ok("a".into()));
    assert_eq!(who(&callers, &key, expires_at), Err(AuthenticationFailure::Expired));

    let ask = |presented| asked(&callers, presented, at(NOW));
    assert_eq!(ask(Credential::UnixPeer { uid: 3 }), Ok("b".into()));
    assert_eq!(ask(Credential::UnixPeer { uid: 4 }), Err(AuthenticationFailure::Unknown));
    assert_eq!(ask(Credential::None), Err(AuthenticationFailure::Missing));
    assert_eq!(ask(Credential::ApiKey("")), Err(AuthenticationFailure::Malformed));
}

fn spiffe(id: &str) -> Identity {
    Identity::Spiffe(SpiffeId::parse(id).expect("a SPIFFE id"))
}

fn san(name: &str) -> Identity {
    Identity::San(San::parse(name).expect("a name"))
}

#[test]
fn a_certificate_is_the_one_caller_that_its_names_name() {
    use AuthMethod::{ApiKeys, San, Spiffe, UnixUser};
    use AuthenticationFailure::{Ambiguous, Distrusted, Missing, NotAccepted, Unknown};
    let named = |caller, identities| CallerSetup { identities, ..setup(caller, &[], &[]) };
    let callers = callers(vec![
        named("a", vec![spiffe("spiffe://t/a"), san("a.example"), san("a2.example")]),
        named("b", vec![spiffe("spiffe://t/b"), san("urn:b")]),
    ]);
    let a = |method| Ok(("a".to_owned(), method));
    for (dns, uris, accepted, expected) in [
        (&[][..], &["spiffe://t/a"][..], &[Spiffe, San][..], a(Spiffe)),
        (&[], &["spiffe://t/A"], &[Spiffe, San], Err(Unknown)),
        (&["A.EXAMPLE"], &[], &[San], a(San)),
        (&["sub.a.example"], &[], &[San], Err(Unknown)),
        (&["*.example"], &[], &[San], Err(Unknown)),
        (&[], &["urn:b"], &[San], Ok(("b".to_owned(), San))),
        (&[], &["urn:B"], &[San], Err(Unknown)),
        // Names of the same caller agree.
        (&["a2.example", "a.example", "other.example"], &["spiffe://t/a"], &[Spiffe, San], a(Spiffe)),
        (&["a.example"], &["spiffe://t/b"], &[Spiffe, San], Err(Ambiguous)),
        (&["a.example"], &["urn:b"], &[San], Err(Ambiguous)),
        // Two URIs make no SVID.
        (&[], &["spiffe://t/a", "spiffe://t/b"], &[Spiffe, San], Err(Unknown)),
        // A name that does not count here names nobody.
        (&["a.example"], &["spiffe://t/b"], &[San], a(San)),
        (&["a.example"], &[], &[Spiffe], Err(Unknown)),
        (&["a.example"], &["spiffe://t/a"], &[ApiKeys], Err(Missing)),
        (&[], &[], &[Spiffe, San], Err(Unknown)),
    ] {
        let names = CertificateNames::new(dns.iter().copied(), uris.iter().copied());
        let accepted = accepted.iter().copied().collect();
        let outcome = proven(&callers, Credential::Certificate(&names), accepted, at(NOW));
        assert_eq!(outcome, expected, "{names:?} {accepted:?}");
    }
    let only = |methods: &[AuthMethod]| methods.iter().copied().collect::<AuthMethods>();
    let ask = |presented, accepted| proven(&callers, presented, only(accepted), at(NOW));
    assert_eq!(ask(Credential::DistrustedCertificate, &[San]), Err(Distrusted));
    assert_eq!(ask(Credential::DistrustedCertificate, &[ApiKeys]), Err(Missing));
    // A key that does not count is refused, whatever it is: it was presented to be judged.
    assert_eq!(ask(Credential::ApiKey("x"), &[UnixUser]), Err(NotAccepted));
    assert_eq!(ask(Credential::UnixPeer { uid: 1 }, &[ApiKeys]), Err(Missing));
}

#[test]
fn one_identity_is_one_caller() {
    let taken = |first: Identity, second: Identity| {
        let named = |caller, identity| CallerSetup { identities: vec![identity], ..setup(caller, &[], &[]) };
        let setups = vec![named("a", first), named("b", second)];
        let read = Callers::new(setups, &Issuers::new(), ring(), SecretReader::new(None), at(NOW));
        read.err().map(|errors| errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))
    };
    let says = "the certificate name `a.example` is both `a` and `b`; it can be one caller only";
    assert_eq!(taken(san("A.example"), san("a.example")).as_deref(), Some(says));
    assert!(
        taken(spiffe("spiffe://t/a"), spiffe("spiffe://t/a")).is_some_and(|said| said.contains("SPIFFE id"))
    );
    assert!(
        taken(Identity::UnixUser(1), Identity::UnixUser(1)).is_some_and(|said| said.contains("Unix user 1"))
    );
    assert_eq!(taken(san("a.example"), san("b.example")), None);
}

#[test]
fn one_caller_s_key_file_is_worth_nothing_to_another() {
    let folder = tempfile::tempdir().expect("temp dir");
    let path = folder.path().join("a.keys");
    let (key, _) = add(&path, "a", 1);
    let callers = callers(vec![setup("b", &[], &[&path]), setup("a", &[], &[])]);
    assert_eq!(who(&callers, &key, NOW), Err(AuthenticationFailure::Unknown));
}

#[test]
fn added_and_retired_keys_take_effect_within_a_second() {
    let folder = tempfile::tempdir().expect("temp dir");
    let path = folder.path().join("a.keys");
    let callers = callers(vec![setup("a", &[], &[&path])]);
    let (key, info) = add(&path, "a", 1);
    assert_eq!(who(&callers, &key, NOW), Err(AuthenticationFailure::Unknown), "not looked at again yet");
    assert_eq!(who(&callers, &key, NOW + 1), Ok("a".into()));
    let (second, _) = add(&path, "a", 2);
    assert_eq!(who(&callers, &second, NOW + 2), Ok("a".into()));
    key_file::retire(&path, &info.id).expect("retired");
    assert_eq!(who(&callers, &key, NOW + 2), Ok("a".into()));
    // The wall clock was set back; the files are checked all the same.
    assert_eq!(who(&callers, &key, NOW - 1000), Err(AuthenticationFailure::Unknown));
    assert_eq!(who(&callers, &second, NOW - 1000), Ok("a".into()));
}

#[test]
fn nor_does_one_that_is_blank_while_a_reload_reads_it() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("a.keys");
    let (key, _) = add(&path, "a", 1);
    let before = callers(vec![setup("a", &[], &[&path])]);
    assert!(who(&before, &key, NOW).is_ok());
    std::fs::write(&path, "").expect("written");
    let after = Arc::new(read(vec![setup("a", &[], &[&path])]).succeeding(&before));
    assert!(who(&after, &key, NOW).is_ok(), "perhaps somebody is copying over it");
    assert_eq!(after.key_uses().len(), 1);
    assert!(who(&after, &key, NOW + 1).is_err(), "it stayed so");
}

#[test]
fn a_file_that_is_gone_or_blank_for_a_moment_locks_nobody_out() {
    let folder = tempfile::tempdir().expect("temp dir");
    let path = folder.path().join("a.keys");
    let (key, info) = add(&path, "a", 1);
    let good = fs::read_to_string(&path).expect("text");
    let callers = callers(vec![setup("a", &[], &[&path])]);
    let who = |milliseconds: i64| {
        let now = Timestamp::from_unix_millis(NOW * 1000 + milliseconds);
        asked(&callers, Credential::ApiKey(key.expose()), now).is_ok()
    };
    // A slow copy over the file.
    fs::write(&path, "").expect("write");
    assert!(who(1000) && who(1999));
    fs::write(&path, &good).expect("write");
    assert!(who(3000) && who(4000));
    // A mount that disappears for a moment, twice.
    for start in [5000, 8000] {
        fs::rename(&path, folder.path().join("elsewhere")).expect("moved");
        assert!(who(start));
        fs::rename(folder.path().join("elsewhere"), &path).expect("moved");
        assert!(who(start + 1000));
    }
    assert!(callers.key_file_problems().is_empty());
    // Missing and then blank, each for a second.
    fs::remove_file(&path).expect("removed");
    assert!(who(10_000));
    fs::write(&path, "\n").expect("write");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).expect("chmod");
    assert!(who(11_000));
    assert!(!who(12_000), "it is meant");
    fs::write(&path, &good).expect("write");
    assert!(who(12_010), "a new key works as soon as it is written");
    fs::remove_file(&path).expect("removed");
    assert!(who(13_010));
    assert!(!who(14_010));
    // Written content counts at once, even if it is no key.
    fs::write(&path, good.lines().last().expect("a line")).expect("write");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).expect("chmod");
    assert!(who(14_020));
    key_file::retire(&path, &info.id).expect("retired");
    assert!(!who(15_020));
}

#[test]
fn a_broken_key_file_keeps_the_keys_read_before_and_shows_as_a_problem() {
    let folder = tempfile::tempdir().expect("temp dir");
    let path = folder.path().join("a.keys");
    let (key, _) = add(&path, "a", 1);
    let callers = callers(vec![setup("a", &[], &[&path])]);
    let good = fs::read_to_string(&path).expect("text");
    fs::write(&path, format!("{good}half a li")).expect("write");
    assert_eq!(who(&callers, &key, NOW + 1), Ok("a".into()));
    let problems = callers.key_file_problems();
    assert!(problems[0].problem.contains("line 4") && problems[0].file == path, "{problems:?}");
    fs::write(&path, &good).expect("write");
    assert_eq!(who(&callers, &key, NOW + 2), Ok("a".into()));
    assert!(callers.key_file_problems().is_empty());
    fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).expect("chmod");
    assert_eq!(who(&callers, &key, NOW + 3), Ok("a".into()));
    assert!(callers.key_file_problems()[0].problem.contains("chmod 600"));
}

#[test]
fn the_last_use_of_a_key_is_known_and_survives_rereads_and_reloads() {
    let folder = tempfile::tempdir().expect("temp dir");
    let path = folder.path().join("a.keys");
    let (first, _) = add(&path, "a", 1);
    let before = callers(vec![setup("a", &[], &[&path])]);
    assert_eq!(before.key_uses()[0].last_used_at, None);
    who(&before, &first, NOW + 5).expect("a caller");
    let (second, _) = add(&path, "a", 2);
    who(&before, &second, NOW + 9).expect("a caller");
    let expected = [Some(at(NOW + 5)), Some(at(NOW + 9))];
    let uses =
        |callers: &Callers| callers.key_uses().iter().map(|used| used.last_used_at).collect::<Vec<_>>();
    assert_eq!(uses(&before), expected);
    assert_eq!(uses(&read(vec![setup("a", &[], &[&path])]).succeeding(&before)), expected);
}

/// Rewrites the one line of a file as `add-key` from before 0.2 would have written it.
fn as_before(path: &Path, key: &ApiKey) {
    let sealing_key = ring().key("k1").expect("k1");
    let hash = hex::encode(KeyHasher::keyed(&sealing_key).hash(key).0);
    let text = fs::read_to_string(path).expect("text");
    let (line, _) = text.trim_end().rsplit_once(" sha256 ").expect("a new line");
    fs::write(path, format!("{line} k1 {hash}\n")).expect("write");
}

#[test]
fn a_key_from_before_works_while_its_sealing_key_is_there_and_names_it() {
    let folder = tempfile::tempdir().expect("temp dir");
    let path = folder.path().join("a.keys");
    let (key, info) = add(&path, "a", 1);
    let unkeyed = callers(vec![setup("a", &[], &[&path])]);
    assert!(unkeyed.sealing_keys_in_use(at(NOW)).is_empty());
    as_before(&path, &key);
    let keyed = callers(vec![setup("a", &[], &[&path])]);
    assert_eq!(who(&keyed, &key, NOW), Ok("a".into()));
    let in_use = |now| keyed.sealing_keys_in_use(at(now));
    let named = std::collections::BTreeSet::from([format!("a {}", info.id)]);
    assert_eq!(in_use(NOW), Hashed::from([("k1".to_owned(), named)]));
    assert!(in_use(info.expires_at.unix_seconds()).is_empty(), "it has expired");

    let other = SealingKey::new("k2".into(), at(0), Some(at(0)), Zeroizing::new([8; 32]));
    let other = Arc::new(Keyring::new(vec![other], "here").expect("a ring"));
    let without = Callers::new(
        vec![setup("a", &[], &[&path])],
        &Issuers::new(),
        other,
        SecretReader::new(None),
        at(NOW),
    );
    let without = Arc::new(without.expect("no reason to stop"));
    assert_eq!(who(&without, &key, NOW), Err(AuthenticationFailure::Unknown));

    key_file::retire(&path, &info.id).expect("retired");
    keyed.keys.check(at(NOW + 1));
    assert!(in_use(NOW + 1).is_empty(), "it is retired");
}

#[test]
fn every_mistake_is_reported_at_once() {
    let folder = tempfile::tempdir().expect("temp dir");
    let path = folder.path().join("a.keys");
    fs::write(&path, "nonsense").expect("write");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).expect("chmod");
    let setups = vec![setup("a", &[1, 1], &[&path]), setup("b", &[1], &[]), setup("b", &[], &[])];
    let errors = Callers::new(setups, &Issuers::new(), ring(), SecretReader::new(None), at(NOW))
        .err()
        .expect("refused");
    let texts: Vec<String> = errors.iter().map(ToString::to_string).collect();
    assert!(texts[0].contains("both `a` and `b`"), "{texts:?}");
    assert!(texts[1].contains("two callers are named `b`"), "{texts:?}");
    assert!(texts[2].contains("caller `a`") && texts[2].contains("line 1"), "{texts:?}");
    assert_eq!(texts.len(), 3);
}

/// (Changes owners, which only root can.)
#[test]
fn key_files_are_read_like_every_secret_s_and_stay_whose_they_were() {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    use std::os::unix::fs::{MetadataExt, chown};
    let folder = tempfile::tempdir().expect("temp dir");
    let path = folder.path().join("a.keys");
    add(&path, "a", 1);
    let daemon = {
        let place = tempfile::tempdir().expect("temp dir");
        chown(place.path(), Some(5), Some(7)).expect("chown");
        SecretReader::for_owner_of(place.path(), None)
    };
    // The file's owner and mode, and whether a daemon of 5:7 accepts it.
    for (user, group, mode, good) in [
        (5, 7, 0o600, true),
        (0, 7, 0o640, true),
        (0, 7, 0o440, true),
        (5, 7, 0o640, false),
        (0, 8, 0o640, false),
        (6, 7, 0o600, false),
        (0, 7, 0o644, false),
    ] {
        chown(&path, Some(user), Some(group)).expect("chown");
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).expect("chmod");
        let setups = vec![setup("a", &[], &[&path])];
        let taken = Callers::new(setups, &Issuers::new(), ring(), daemon.clone(), at(NOW)).is_ok();
        assert_eq!(taken, good, "{user}:{group} {mode:o}");
        assert_eq!(key_file::list_as(&path, &daemon).is_ok(), good, "{user}:{group} {mode:o}");
        if good {
            let (_, info) = add(&path, "a", 2);
            key_file::retire(&path, &info.id).expect("retired");
            let metadata = fs::metadata(&path).expect("metadata");
            assert_eq!((metadata.uid(), metadata.gid(), metadata.mode() & 0o777), (user, group, mode));
        }
    }
}

/// A credential that comes again is found faster, and just as strictly.
#[test]
fn what_is_remembered_of_a_connection_gives_nobody_more() {
    let folder = tempfile::tempdir().expect("a folder");
    let [file, other_file] = ["mail-sync.keys", "other.keys"].map(|name| folder.path().join(name));
    let (key, info) = add(&file, "mail-sync", 1);
    let (other, _) = add(&other_file, "other", 2);
    let setups = || vec![setup("mail-sync", &[], &[&file]), setup("other", &[], &[&other_file])];
    let callers = read(setups());
    let mut remembered = Remembered::default();
    let mut asks = |callers: &Callers, text: &str, accepted, now| {
        let found = callers.authenticate_now(Credential::ApiKey(text), accepted, &mut remembered, now);
        found.map(|found| found.caller.name.as_str().to_owned())
    };
    let (all, now) = (AuthMethods::all(), at(NOW));
    let mine = || Some("mail-sync".to_owned());
    for _ in 0..2 {
        assert_eq!(asks(&callers, key.expose(), all, now), mine());
    }
    // Another key, no key, a listener that takes none, a key that has ended.
    assert_eq!(asks(&callers, other.expose(), all, now).as_deref(), Some("other"));
    assert_eq!(asks(&callers, key.expose(), all, now), mine());
    assert_eq!(asks(&callers, &key.expose()[..key.expose().len() - 1], all, now), None);
    assert_eq!(asks(&callers, key.expose(), AuthMethods::default(), now), None);
    callers.keys.is_due(info.expires_at);
    assert_eq!(asks(&callers, key.expose(), all, info.expires_at), None, "it has ended");
    callers.keys.is_due(now);
    assert_eq!(asks(&callers, key.expose(), all, now), mine());
    // A file without it, once it is read again; and another reading of the configuration.
    std::fs::remove_file(&file).expect("removed");
    add(&file, "mail-sync", 3);
    assert_eq!(asks(&callers, key.expose(), all, now), mine(), "the files were not read again");
    callers.keys.check(now);
    assert_eq!(asks(&callers, key.expose(), all, now), None);
    assert_eq!(asks(&read(setups()), other.expose(), all, now).as_deref(), Some("other"));
    std::fs::write(&other_file, "").expect("written");
    assert_eq!(asks(&read(setups()), other.expose(), all, now), None, "nor is the one before remembered");
}
