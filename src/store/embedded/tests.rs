use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};

use std::fs::{self, OpenOptions};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::{io, sync::Arc, time::Duration};

use futures_util::future::join_all;
use redb::backends::FileBackend;
use redb::{Builder, Database, ReadableDatabase, StorageBackend};

use super::file::{META_ROW, at, opening, read_identity};
use super::tables::*;
use super::writer::REOPEN_PAUSE;
use super::*;
use crate::domain::connection::SignIn;
use crate::domain::time::Timestamp;
use crate::store::rules::{Intent, Scheduled};
use crate::store::suite::{self, CountingRandom, RealClock, connection, key};
use crate::store::{Committed, LeaseNonce, Pending as _, Records as _, Writer as By};

fn open(directory: &Path) -> Result<EmbeddedStore, StoreError> {
    EmbeddedStore::open(&EmbeddedConfig::new(directory), RealClock::shared(), &CountingRandom::new())
}

fn scratch() -> tempfile::TempDir {
    let directory = tempfile::tempdir().expect("a temporary directory");
    fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o700)).expect("ours");
    directory
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).expect("exists").permissions().mode() & 0o777
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn passes_the_suite() {
    let directory = scratch();
    let store: Arc<dyn Store> = Arc::new(open(directory.path()).expect("opens"));
    suite::run(Arc::clone(&store)).await;
    suite::run_counts(store).await;
}

#[tokio::test]
async fn everything_is_there_after_a_restart() {
    let directory = scratch();
    let inner = directory.path().join("a/b");
    let store = open(&inner).expect("opens");
    let identity = store.identity();
    let stored = connection(1, 1);
    let done = store.commit(&key("app", "user"), None, &stored, By::SignIn).await.expect("serves");
    assert_eq!(done, Committed::Done);
    suite::put(&store, "session", b"kept", Duration::from_secs(60)).await.expect("serves");
    drop(store);
    assert_eq!((mode(&inner), mode(&inner.join(FILE_NAME))), (0o700, 0o600));
    let entries = fs::read_dir(&inner).expect("is there").count();
    assert_eq!(entries, 1, "nothing is left of its making");

    let store = open(&inner).expect("opens again");
    assert_eq!(store.identity(), identity);
    assert_eq!(store.load(&key("app", "user")).await.expect("serves"), Some(stored));
    assert_eq!(store.pending("session").await.expect("serves").as_deref(), Some(&b"kept"[..]));
}

#[test]
fn a_directory_that_others_may_enter_is_refused_and_left_as_it_is() {
    let directory = scratch();
    fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o755)).expect("ours");
    let text = open(directory.path()).err().expect("refused").to_string();
    assert!(text.contains("chmod 700") && text.contains("mode 755"), "{text}");
    assert_eq!(mode(directory.path()), 0o755);
}

#[test]
fn a_file_that_is_not_a_whole_store_is_refused() {
    let directory = scratch();
    let path = directory.path().join(FILE_NAME);
    let refused = |what: &str| {
        let error = open(directory.path()).err().expect("refused");
        assert!(matches!(error, StoreError::Corrupt { .. }), "{error}");
        assert!(error.to_string().contains(what), "{error}");
    };
    fs::write(&path, b"").expect("writes");
    refused("is empty");
    fs::write(&path, vec![b'x'; 8192]).expect("writes");
    refused("is not a store");
    fs::remove_file(&path).expect("ours");
    Database::create(&path).expect("a store of somebody else").close().expect("closes");
    refused("lost its meta row");
    fs::remove_file(&path).expect("ours");
    drop(open(directory.path()).expect("makes one"));
    assert!(open(directory.path()).is_ok());
}

#[test]
fn a_damaged_page_is_found_at_start() {
    let directory = scratch();
    let path = directory.path().join(FILE_NAME);
    drop(open(directory.path()).expect("makes one"));
    let mut bytes = fs::read(&path).expect("is there");
    let needle = META_ROW.as_bytes();
    let mut hit = false;
    for at in 0..bytes.len() - needle.len() {
        if &bytes[at..at + needle.len()] == needle {
            bytes[at + needle.len()] ^= 0x40;
            hit = true;
        }
    }
    assert!(hit);
    fs::write(&path, &bytes).expect("writes");
    let error = open(directory.path()).err().expect("refused");
    assert!(matches!(error, StoreError::Corrupt { .. }), "{error}");
}

#[tokio::test]
async fn expired_records_are_taken_away_by_later_writes() {
    let directory = scratch();
    let store = open(directory.path()).expect("opens");
    for number in 0..100 {
        suite::put(&store, &format!("s{number}"), b"x", Duration::from_millis(1)).await.expect("serves");
    }
    suite::put(&store, "lives", b"x", Duration::from_secs(60)).await.expect("serves");
    tokio::time::sleep(Duration::from_millis(20)).await;
    for generation in 0..4 {
        let key = key("app", &format!("user-{generation}"));
        store.commit(&key, None, &connection(1, 1), By::SignIn).await.expect("serves");
    }
    let super::Opened::Whole(database) = &store.database else { panic!("it was opened to write") };
    let database = database.read();
    let transaction = database.as_ref().expect("open").begin_read().expect("reads");
    use redb::ReadableTableMetadata;
    assert_eq!(transaction.open_table(PENDING).expect("there").len().expect("counts"), 1);
    assert_eq!(transaction.open_table(EXPIRY).expect("there").len().expect("counts"), 1);
}

/// A disk that can be told to fail.
#[derive(Debug)]
struct Failing {
    file: FileBackend,
    broken: Arc<AtomicBool>,
}

impl Failing {
    fn check(&self) -> io::Result<()> {
        if self.broken.load(Ordering::SeqCst) { Err(io::ErrorKind::StorageFull.into()) } else { Ok(()) }
    }
}

impl StorageBackend for Failing {
    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }
    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.file.read(offset, out)
    }
    fn set_len(&self, len: u64) -> io::Result<()> {
        self.check()?;
        self.file.set_len(len)
    }
    fn sync_data(&self) -> io::Result<()> {
        self.check()?;
        self.file.sync_data()
    }
    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.check()?;
        self.file.write(offset, data)
    }
}

#[tokio::test]
async fn a_failed_commit_tells_everyone_and_heals_once_the_disk_does() {
    let directory = scratch();
    drop(open(directory.path()).expect("makes one"));
    let path = directory.path().join(FILE_NAME);
    let broken = Arc::new(AtomicBool::new(false));
    let switch = Arc::clone(&broken);
    let open = Box::new(move || {
        let file = OpenOptions::new().read(true).write(true).open(&path).map_err(|error| at(&path, error))?;
        let file = FileBackend::new(file).map_err(|error| opening(&path, error))?;
        let backend = Failing { file, broken: Arc::clone(&switch) };
        let database = Builder::new().create_with_backend(backend).map_err(|error| opening(&path, error))?;
        let identity = read_identity(&path, &database)?;
        Ok((database, identity))
    });
    let room = Room::on_the_disk_of(directory.path().to_owned());
    let file = directory.path().join(FILE_NAME);
    let store = Arc::new(EmbeddedStore::start(open, file, RealClock::shared(), room).expect("opens"));
    let (first, second) = (connection(1, 1), connection(2, 2));
    let key = key("app", "user");
    assert_eq!(store.commit(&key, None, &first, By::SignIn).await.expect("serves"), Committed::Done);

    broken.store(true, Ordering::SeqCst);
    let error =
        store.commit(&key, Some(first.revision), &second, By::SignIn).await.expect_err("the disk is full");
    assert!(matches!(&error, StoreError::Full { doing: "committing a connection", .. }), "{error}");
    let (commit, taken) =
        tokio::join!(store.commit(&key, Some(first.revision), &second, By::SignIn), store.take_pending("x"));
    assert!(commit.is_err() && taken.is_err(), "lost is an error, never not found");
    assert!(store.ping().await.is_err());

    broken.store(false, Ordering::SeqCst);
    let clock = RealClock::shared();
    let start = clock.monotonic();
    while store.ping().await.is_err() {
        assert!(clock.monotonic() - start < REOPEN_PAUSE * 2, "it heals by itself");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let repeated = store.commit(&key, Some(first.revision), &second, By::SignIn).await.expect("serves");
    assert_eq!(repeated, Committed::Done, "whether or not the failed one reached the disk");
    assert_eq!(store.load(&key).await.expect("serves"), Some(second));
}

/// Where the child of a test is told its directory.
const CHILD: &str = "TOKENWARD_TEST_EMBEDDED_CHILD";

/// Not a test of its own: what the two tests below run in another process.
#[tokio::test]
async fn child_writes_until_it_is_killed() {
    let Some(directory) = std::env::var_os(CHILD) else { return };
    let say = |text: &str| writeln!(io::stdout(), "child: {text}").expect("the parent reads");
    let store = match open(Path::new(&directory)) {
        Ok(store) => Arc::new(store),
        Err(error) => return say(&format!("refused {error}")),
    };
    say("opened");
    let mut writers = Vec::new();
    for user in 0..8u32 {
        let store = Arc::clone(&store);
        let store = Arc::clone(&store);
        writers.push(async move {
            let key = key("app", &format!("user-{user}"));
            let mut before = store.load(&key).await.expect("serves").map(|stored| stored.revision);
            for generation in before.map_or(1, |before| before.generation + 1).. {
                let next = connection(generation, u128::from(generation));
                let committed = store.commit(&key, before, &next, By::SignIn).await.expect("serves");
                assert_eq!(committed, Committed::Done);
                say(&format!("acknowledged {user} {generation}"));
                before = Some(next.revision);
            }
        });
    }
    join_all(writers).await;
}

fn child(directory: &Path) -> Child {
    Command::new(std::env::current_exe().expect("this test"))
        .args(["--exact", "store::embedded::tests::child_writes_until_it_is_killed", "--nocapture"])
        .env(CHILD, directory)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("starts")
}

/// What the child said, a line at a time.
fn said(child: &mut Child) -> impl Iterator<Item = String> + use<> {
    let output: Box<dyn Read> = Box::new(child.stdout.take().expect("piped"));
    let lines = BufReader::new(output).lines().map_while(Result::ok);
    lines.filter_map(|line| Some(line.split_once("child: ")?.1.to_owned()))
}

#[tokio::test]
async fn no_acknowledged_commit_is_lost_when_the_process_is_killed() {
    let directory = scratch();
    let mut acknowledged = [0u64; 8];
    for round in 0..5usize {
        let mut child = child(directory.path());
        let mut lines = said(&mut child);
        assert_eq!(lines.next().as_deref(), Some("opened"));
        let mut seen = 0;
        for line in lines {
            let mut words = line.split(' ').skip(1).map(|word| word.parse::<u64>().expect("a number"));
            let (user, generation) = (words.next().expect("a user"), words.next().expect("a generation"));
            let user = usize::try_from(user).expect("small");
            assert_eq!(generation, acknowledged[user] + 1, "each continues where it was");
            acknowledged[user] = generation;
            seen += 1;
            if seen == 40 + round * 7 {
                // What it goes on to acknowledge until it dies is still read: the pipe ends with it.
                child.kill().expect("ours");
            }
        }
        child.wait().expect("ours");
        let store = open(directory.path()).expect("opens after a crash");
        for (user, generation) in acknowledged.iter_mut().enumerate() {
            let stored = store.load(&key("app", &format!("user-{user}"))).await.expect("serves");
            let stored = stored.map_or(0, |stored| stored.revision.generation);
            assert!(stored >= *generation, "user {user}: {stored} stored, {generation} acknowledged");
            *generation = stored; // one that was stored and not acknowledged any more may be there
        }
    }
}

#[test]
fn a_second_process_is_refused_with_what_to_do() {
    let directory = scratch();
    let store = open(directory.path()).expect("opens");
    let mut second = child(directory.path());
    let answer = said(&mut second).next().expect("says something");
    second.wait().expect("ours");
    let path = directory.path().join(FILE_NAME);
    assert!(answer.starts_with("refused "), "{answer}");
    assert!(answer.contains(&path.display().to_string()), "{answer}");
    assert!(answer.contains("in use by another process") && answer.contains("redis"), "{answer}");
    drop(store);
    let mut third = child(directory.path());
    let answer = said(&mut third).next();
    third.kill().expect("ours");
    third.wait().expect("ours");
    assert_eq!(answer.as_deref(), Some("opened"));
}

/// Files that exist have rows of this form.
#[test]
fn rows_keep_their_form() {
    let at = Timestamp::from_unix_millis(0x0102_0304);
    let pending = PendingRow { expires_at: at, sealed: b"sealed" };
    assert_eq!(pending.encode(), b"\0\0\0\0\x01\x02\x03\x04sealed");
    assert_eq!(expiry_key(at, "id"), b"\x80\0\0\0\x01\x02\x03\x04id");
    assert_eq!(due_key(7, at, "app:user"), b"\x07\x80\0\0\0\x01\x02\x03\x04app:user");
    assert_eq!(due_connection(b"\x07\x80\0\0\0\x01\x02\x03\x04app:user"), Some(key("app", "user")));
    for (unsettled, last) in [(false, 0), (true, 1)] {
        let about = SignIn { number: 0x0506, nonce: [9; 8] };
        let intent = Intent { nonce: LeaseNonce([8; 16]), about, unsettled };
        let row = [&[8; 16][..], &[0, 0, 0, 0, 0, 0, 5, 6], &[9; 8], &[last]].concat();
        assert_eq!((intent_row(&intent), read_intent(&row)), (row, Some(intent)));
    }
    for (row, used_at) in [((5, 0), None), ((5, 6), Some(Timestamp::from_unix_millis(6)))] {
        let scheduled = Scheduled { due_at: Timestamp::from_unix_millis(5), used_at };
        assert_eq!((schedule_row(&scheduled), read_scheduled(row)), (row, scheduled));
    }
}

/// A command reads the file without the right to change it, and a start that comes meanwhile waits for it.
#[tokio::test]
async fn a_reader_changes_nothing_and_a_start_waits_for_it() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let config = EmbeddedConfig::new(directory.path().join("store"));
    let read = || EmbeddedStore::read_only(&config, RealClock::shared());
    assert!(read().is_err() && !config.directory.exists(), "what is not there is not made");
    let store = open(&config.directory).expect("opens");
    suite::put(&store, "kept", b"x", Duration::from_secs(60)).await.expect("serves");
    let refused = read().err().expect("it is open to write").to_string();
    assert!(refused.contains("in use by another process"), "{refused}");
    drop(store);
    let path = config.directory.join(FILE_NAME);
    let content = || std::fs::read(&path).expect("a file");
    // A kill leaves a file that has to be repaired: that is done in memory.
    let mut killed = child(&config.directory);
    said(&mut killed).nth(20).expect("it writes");
    killed.kill().expect("ours");
    killed.wait().expect("ours");
    let before = content();
    let reader = read().expect("opens");
    assert_eq!(reader.pending("kept").await.expect("reads"), Some(b"x".to_vec()));
    assert!(suite::put(&reader, "new", b"x", Duration::from_secs(60)).await.is_err(), "it only reads");
    drop(reader);
    assert!(content() == before, "nothing was written");
    let reader = read().expect("opens");
    // (However late it is dropped, nothing else ends the start's wait.)
    let reading = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(200));
        drop(reader);
    });
    open(&config.directory).map(drop).expect("it opens once the reader is gone");
    reading.join().expect("it ends");
}
