//! The life of the file: its directory, how it is made, opened and recognised, and why one does not open.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;
use std::time::Duration;

use redb::backends::FileBackend;
use redb::{Builder, Database, DatabaseError, ReadableDatabase, StorageBackend};

use super::EmbeddedConfig;
use super::tables::{
    CONNECTIONS, COUNTED, DUE, EXPIRY, FLOOR_EXPIRY, FLOORS, INTENTS, META, NOTICE_PLACES, NOTICES, PENDING,
    SCHEDULE,
};
use crate::domain::random::{Random, random_bytes};
use crate::domain::time::{Clock, Timestamp};
use crate::store::StoreError;

/// The file's name within its directory.
pub const FILE_NAME: &str = "tokenward.redb";

pub(super) const OPENING: &str = "opening the embedded store";

pub(super) const META_ROW: &str = "store";
/// The layout of the tables; a file with another one is refused.
const LAYOUT: u8 = 1;
const META_LENGTH: usize = 1 + 16 + 8;

/// What a file says about itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StoreIdentity {
    /// Random, given when the file was made; a copy has the same.
    pub id: [u8; 16],
    /// When the file was made.
    pub created: Timestamp,
}

/// Opens the file.
pub(super) type OpenDatabase = Box<dyn Fn() -> Result<(Database, StoreIdentity), StoreError> + Send>;

/// Makes the file if there is none, and says how to open it. Blocks on the disk.
pub(super) fn prepare(
    config: &EmbeddedConfig,
    clock: &dyn Clock,
    random: &dyn Random,
) -> Result<OpenDatabase, StoreError> {
    prepare_directory(&config.directory)?;
    let path = config.directory.join(FILE_NAME);
    if !exists(&path)? {
        create(&path, clock, random)?;
    }
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).map_err(|error| at(&path, error))?;
    let cache = config.cache_bytes;
    Ok(Box::new(move || open_file(&path, cache)))
}

pub(super) fn at(path: &Path, error: impl std::fmt::Display) -> StoreError {
    StoreError::Unavailable { doing: OPENING, cause: format!("{}: {error}", path.display()) }
}

fn exists(path: &Path) -> Result<bool, StoreError> {
    path.try_exists().map_err(|error| at(path, error))
}

/// Makes the directory, or checks that nobody else may enter the existing one. The mode of an existing one is
/// not changed: the path could be a mistake, and the directory somebody else's.
fn prepare_directory(directory: &Path) -> Result<(), StoreError> {
    if !exists(directory)? {
        if let Some(parent) = directory.parent() {
            fs::create_dir_all(parent).map_err(|error| at(parent, error))?;
        }
        match DirBuilder::new().mode(0o700).create(directory) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(at(directory, error)),
            _ => {}
        }
    }
    look(directory)
}

/// Problems of a store's directory that show before it is opened. Makes nothing, and does not check the
/// owner.
///
/// # Errors
/// It is no directory, others may enter it, or its state cannot be read.
pub fn look(directory: &Path) -> Result<(), StoreError> {
    let metadata = match fs::metadata(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        looked => looked.map_err(|error| at(directory, error))?,
    };
    if !metadata.is_dir() {
        return Err(at(directory, "is not a directory"));
    }
    let mode = metadata.permissions().mode() & 0o777;
    if mode & 0o077 != 0 {
        return Err(at(
            directory,
            format_args!(
                "others may enter it (mode {mode:03o}); run `chmod 700` on it, or name a directory within it \
                 that does not exist yet"
            ),
        ));
    }
    Ok(())
}

/// Makes a new file with its meta row, and only then gives it its name.
fn create(path: &Path, clock: &dyn Clock, random: &dyn Random) -> Result<(), StoreError> {
    let unfinished = path.with_extension(format!("redb.new-{}", std::process::id()));
    let made = (|| {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&unfinished)
            .map_err(|error| at(&unfinished, error))?;
        let backend = FileBackend::new(file).map_err(|error| opening(&unfinished, error))?;
        initialize(&unfinished, backend, clock.now(), random_bytes(random))?;
        match fs::hard_link(&unfinished, path) {
            // Another process was faster. Opening the file shows whether that process still runs.
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(at(path, error)),
            _ => Ok(()),
        }
    })();
    let _left_behind = fs::remove_file(&unfinished);
    made?;
    let directory = path.parent().unwrap_or(Path::new("."));
    File::open(directory).and_then(|directory| directory.sync_all()).map_err(|error| at(directory, error))
}

fn initialize(
    path: &Path,
    backend: impl StorageBackend,
    now: Timestamp,
    id: [u8; 16],
) -> Result<(), StoreError> {
    let database = Builder::new().create_with_backend(backend).map_err(|error| opening(path, error))?;
    let mut row = vec![LAYOUT];
    row.extend_from_slice(&id);
    row.extend_from_slice(&now.unix_millis().to_be_bytes());
    (|| {
        let transaction = database.begin_write()?;
        transaction.open_table(META)?.insert(META_ROW, row.as_slice())?;
        transaction.open_table(CONNECTIONS)?;
        transaction.open_table(PENDING)?;
        transaction.open_table(EXPIRY)?;
        transaction.commit()?;
        Ok(())
    })()
    .map_err(|error: redb::Error| at(path, error))?;
    database.close().map_err(|error| opening(path, error))
}

/// The largest file whose every page is verified when it is opened: some 40,000 connections. That reads the
/// whole file, and a start must not take longer and longer with more connections.
const VERIFIED_WHOLE: u64 = 512 * 1024 * 1024;

/// Whether a file of this length is too large to be read whole when it is opened. Then it is opened as its
/// last commit says, so that commit has to record which pages are free: see [`super::writer`].
pub(super) fn is_large(length: u64) -> bool {
    length > VERIFIED_WHOLE
}

/// How often, and after which pause each time, a start tries again while another process has the file.
const READER_TRIES: u32 = 100;
const READER_PAUSE: Duration = Duration::from_millis(50);

/// Opens a file that must exist and be whole. In a file that is not [large](is_large) every page's checksum
/// is verified, since redb may panic later over a damaged file. In a large one damage is found where it is
/// read: the reader gets an error, and a record that was changed does not open.
fn open_file(path: &Path, cache: usize) -> Result<(Database, StoreIdentity), StoreError> {
    let length = fs::metadata(path).map_err(|error| at(path, error))?.len();
    if length == 0 {
        // redb would make a new store of it.
        return Err(damaged(path, "is empty"));
    }
    let open = || {
        let mut builder = Builder::new();
        builder.set_cache_size(cache).set_check_integrity_on_open(!is_large(length)).open(path)
    };
    let mut opened = open();
    // A command that reads the file has it for moments.
    for _ in 0..READER_TRIES {
        if !matches!(opened, Err(DatabaseError::DatabaseAlreadyOpen)) {
            break;
        }
        std::thread::sleep(READER_PAUSE);
        opened = open();
    }
    let database = opened.map_err(|error| opening(path, error))?;
    let identity = read_identity(path, &database)?;
    add_tables(&database).map_err(|error| at(path, error))?;
    Ok((database, identity))
}

/// Makes the tables that came with later versions, which an older file lacks.
fn add_tables(database: &Database) -> Result<(), redb::Error> {
    let there = match database.begin_read()?.open_table(NOTICES) {
        Err(redb::TableError::TableDoesNotExist(_)) => false,
        table => table.map(|_| true)?,
    };
    if !there {
        let transaction = database.begin_write()?;
        transaction.open_table(INTENTS)?;
        transaction.open_table(DUE)?;
        transaction.open_table(SCHEDULE)?;
        transaction.open_table(FLOORS)?;
        transaction.open_table(FLOOR_EXPIRY)?;
        transaction.open_table(COUNTED)?;
        transaction.open_table(NOTICES)?;
        transaction.open_table(NOTICE_PLACES)?;
        transaction.commit()?;
    }
    Ok(())
}

pub(super) fn read_identity(
    path: &Path,
    database: &impl ReadableDatabase,
) -> Result<StoreIdentity, StoreError> {
    let row = (|| {
        let table = match database.begin_read()?.open_table(META) {
            Err(redb::TableError::TableDoesNotExist(_)) => return Ok(None),
            table => table?,
        };
        Ok(table.get(META_ROW)?.map(|row| row.value().to_vec()))
    })()
    .map_err(|error: redb::Error| at(path, error))?;
    let Some(row) = row else { return Err(damaged(path, "has lost its meta row")) };
    let row: [u8; META_LENGTH] = row.try_into().map_err(|_| damaged(path, "has a damaged meta row"))?;
    if row[0] != LAYOUT {
        let cause = format!("has layout {} and this version knows only {LAYOUT}", row[0]);
        return Err(StoreError::Corrupt { doing: OPENING, cause: format!("{} {cause}", path.display()) });
    }
    let (mut id, mut created) = ([0; 16], [0; 8]);
    id.copy_from_slice(&row[1..17]);
    created.copy_from_slice(&row[17..]);
    Ok(StoreIdentity { id, created: Timestamp::from_unix_millis(i64::from_be_bytes(created)) })
}

pub(super) fn damaged(path: &Path, what: &str) -> StoreError {
    let cause = format!(
        "{} {what}: it is not used as if it were new; put a backup in its place, or move it away to begin \
         anew",
        path.display()
    );
    StoreError::Corrupt { doing: OPENING, cause }
}

/// Whether there is no room: on the disk, in the user's quota, or below the process' limit (`LimitFSIZE`).
pub(super) fn is_of_a_full_disk(error: &io::Error) -> bool {
    use io::ErrorKind::{FileTooLarge, QuotaExceeded, StorageFull};
    matches!(error.kind(), StorageFull | QuotaExceeded | FileTooLarge)
}

pub(super) fn opening(path: &Path, error: DatabaseError) -> StoreError {
    match error {
        DatabaseError::DatabaseAlreadyOpen | DatabaseError::LockProtocolMismatch => at(
            path,
            "is in use by another process. An embedded store serves one process: stop the other one (`fuser` \
             names it), give this one a directory of its own, or use `kind = \"redis\"` for several replicas",
        ),
        DatabaseError::Storage(redb::StorageError::Corrupted(cause)) => {
            damaged(path, &format!("is damaged ({cause})"))
        }
        DatabaseError::Storage(redb::StorageError::Io(error))
            if error.kind() == io::ErrorKind::InvalidData =>
        {
            damaged(path, &format!("is not a store ({error})"))
        }
        DatabaseError::Storage(redb::StorageError::Io(error)) if is_of_a_full_disk(&error) => {
            StoreError::Full { doing: OPENING, cause: format!("{}: {error}", path.display()) }
        }
        other => at(path, other),
    }
}
