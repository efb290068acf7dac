//! Files with secrets: rules for reading them, and the owner and mode of new files beside them.
//!
//! May know: the file system, and the identity of this process. It does not know what a secret is for.
//!
//! A secret file is read only if nobody else could have read or changed it. Its path is [`guarded`]; it
//! belongs to root or to the daemon's user; others have no access at all; and its group may read it only if
//! the daemon itself reads it that way, or systemd has put it there. A symlink may lead elsewhere inside the
//! directory of the path, since Kubernetes swaps the files of a secret that way, but not outside.
//!
//! The checks apply to the opened file, not to its name: the last step never follows a link, and owner, mode
//! and kind are those of the open file.
//!
//! The one hard problem: root runs commands for a daemon of another user, and their files must be judged as
//! that daemon would judge them. A directory of the daemon's identifies its user
//! ([`SecretReader::for_owner_of`]).

mod acl;
pub mod guarded;
pub mod paste;
pub mod shape;

use std::fs::{File, Metadata};
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::fs::{FileType, Gid, Mode, OFlags, Uid};
use zeroize::Zeroizing;

use self::acl::AccessList;
use self::guarded::{Guard, Loose};
use self::paste::Odd;
use self::shape::Misshapen;

/// Largest secret file: longer than any secret, certificate chain or assertion, but not than a log file given
/// by mistake.
pub const MAX_SECRET_SIZE: usize = 64 * 1024;

/// Where systemd puts the credentials of units; each unit has a directory that nobody else can enter.
const SYSTEMD: &str = "/run/credentials";

/// Reason why a secret file is refused. Each message says what to do, and none has any of the content.
#[derive(Debug, thiserror::Error)]
pub enum SecretFileError {
    /// It cannot be opened or read.
    #[error("cannot read the secret file {}: {source}; {}", path.display(), fix_for(source, path))]
    Read {
        /// The file.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// A symlink leads out of its directory.
    #[error(
        "the secret file {} is a link that leads out of its directory, to {}; give the target's path \
         instead",
        path.display(), target.display()
    )]
    Escapes {
        /// The file as configured.
        path: PathBuf,
        /// The link's target.
        target: PathBuf,
    },
    /// Somebody else can replace the file.
    #[error(transparent)]
    Loose(#[from] Loose),
    /// It is a directory, a pipe or a device.
    #[error("the secret file {} is not a regular file; give the path of a file", path.display())]
    NotAFile {
        /// The path.
        path: PathBuf,
    },
    /// It belongs to neither root nor the daemon's user.
    #[error(
        "the secret file {} belongs to user {owner}, who could change it; fix: chown {user} {}",
        path.display(), path.display()
    )]
    Owner {
        /// The file.
        path: PathBuf,
        /// Its owner.
        owner: u32,
        /// The daemon's user id.
        user: u32,
    },
    /// Its mode lets others read or change it.
    #[error(
        "the secret file {} has mode {mode:04o}, so that {}; fix: {}",
        path.display(), who_else(*mode), mode_fix(path, *group_reads, *is_mounted)
    )]
    Mode {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
        /// True if the daemon reads the file through its group, which may then read it.
        group_reads: bool,
        /// True if an orchestrator mounted it, so that its mode is set elsewhere.
        is_mounted: bool,
    },
    /// An access control list lets others read or change it.
    #[error(
        "the secret file {} has an access control list by which {} can read or change it; fix: {}",
        path.display(), acl::in_words(named), acl::fix(named, path)
    )]
    Listed {
        /// The file.
        path: PathBuf,
        /// The named users and groups.
        named: Vec<acl::Named>,
    },
    /// It is empty, or has only line ends where text is expected.
    #[error("the secret file {} is empty; write the secret to it", path.display())]
    Empty {
        /// The file.
        path: PathBuf,
    },
    /// It is longer than [`MAX_SECRET_SIZE`].
    #[error(
        "the secret file {} is longer than {MAX_SECRET_SIZE} bytes, so it is no secret; give the right path",
        path.display()
    )]
    TooLong {
        /// The file.
        path: PathBuf,
    },
    /// It ends in a zero byte, like a file that was padded or only partly written.
    #[error(
        "the secret file {} ends in a zero byte, as after a crash while it was written; write it again",
        path.display()
    )]
    TrailingNul {
        /// The file.
        path: PathBuf,
    },
    /// It is another kind of file than text.
    #[error("the secret file {} {what}", path.display())]
    Shape {
        /// The file.
        path: PathBuf,
        /// Its kind, and the command that corrects it.
        what: Misshapen,
    },
    /// It should be text, and contains characters added by copying.
    #[error(
        "the secret file {} holds {odd}, probably from copying; write the secret to it again without \
         that",
        path.display()
    )]
    Odd {
        /// The file.
        path: PathBuf,
        /// The character and its position.
        odd: Odd,
    },
    /// It should be text, but is not UTF-8 or has control characters.
    #[error(
        "the secret file {} is not text on one line; write the secret and nothing else to it",
        path.display()
    )]
    NotText {
        /// The file.
        path: PathBuf,
    },
}

fn mode_fix(path: &Path, group_reads: bool, is_mounted: bool) -> String {
    match (is_mounted, group_reads) {
        (false, true) => format!("chmod 640 {}", path.display()),
        (false, false) => format!("chmod 600 {}", path.display()),
        (true, _) => "it is mounted read-only, so set its mode where it is mounted: `mode: 0400` in a \
            service's `secrets` (Compose, Swarm), `defaultMode: 0400` in a pod's volume (Kubernetes; 0440 \
            with `fsGroup`)"
            .to_owned(),
    }
}

/// Returns true if an orchestrator has put the file there: on a file system that is read-only here, below
/// `/run/secrets`, or in a Kubernetes volume.
fn is_mounted(path: &Path, file: &File) -> bool {
    let real = path.canonicalize().unwrap_or_else(|_| path.to_owned());
    let in_volume = path.parent().is_some_and(|parent| parent.join("..data").exists());
    let read_only = rustix::fs::fstatvfs(file)
        .is_ok_and(|system| system.f_flag.contains(rustix::fs::StatVfsMountFlags::RDONLY));
    read_only || in_volume || real.starts_with("/run/secrets")
}

fn fix_for(error: &io::Error, path: &Path) -> String {
    match error.kind() {
        io::ErrorKind::NotFound => "create it, or correct the path".to_owned(),
        io::ErrorKind::PermissionDenied => {
            format!("let the daemon's user read it: chown to that user and chmod 600 {}", path.display())
        }
        _ => "check the path and the disk".to_owned(),
    }
}

fn who_else(mode: u32) -> &'static str {
    if mode & 0o002 != 0 {
        "everyone can change it"
    } else if mode & 0o007 != 0 {
        "everyone can read it"
    } else if mode & 0o020 != 0 {
        "its group can change it"
    } else {
        "its group can read it"
    }
}

/// Returns true if systemd has put the file there: below `/run/credentials`, or in `$CREDENTIALS_DIRECTORY`,
/// which is the argument. systemd ensures that only the unit can read these files, which their modes do not
/// show.
pub fn is_of_systemd(path: &Path, credentials_directory: Option<&Path>) -> bool {
    let real = |path: &Path| path.canonicalize().unwrap_or_else(|_| path.to_owned());
    let path = real(path);
    // (An empty path would be above everything.)
    let given = credentials_directory.filter(|given| given.is_absolute());
    path.starts_with(SYSTEMD) || given.is_some_and(|given| path.starts_with(real(given)))
}

/// The identity of the daemon for file access, and where systemd puts its credentials.
#[derive(Debug, Clone)]
pub struct SecretReader {
    /// Files of this user are accepted, besides root's.
    user: u32,
    /// Groups through which the daemon reads root's files; empty if it runs as root.
    groups: Vec<u32>,
    credentials_directory: Option<PathBuf>,
}

impl SecretReader {
    /// Makes the reader for this process. The argument is the value of `$CREDENTIALS_DIRECTORY`.
    pub fn new(credentials_directory: Option<&Path>) -> Self {
        let user = rustix::process::geteuid().as_raw();
        let mut groups: Vec<u32> = Vec::new();
        if user != 0 {
            groups =
                rustix::process::getgroups().unwrap_or_default().iter().map(|group| group.as_raw()).collect();
            groups.push(rustix::process::getegid().as_raw());
        }
        Self { user, groups, credentials_directory: credentials_directory.map(Path::to_owned) }
    }

    /// Makes the reader for a command that root runs for a daemon; for any other user it equals
    /// [`new`](Self::new). `place` belongs to the daemon, so its owner and group identify it: if root owns
    /// the place and its group is not root's, the daemon is a member of that group.
    pub fn for_owner_of(place: &Path, credentials_directory: Option<&Path>) -> Self {
        let reader = Self::new(credentials_directory);
        match std::fs::metadata(place) {
            Ok(place) if reader.user == 0 => reader.for_daemon(place.uid(), place.gid()),
            _ => reader,
        }
    }

    fn for_daemon(self, user: u32, group: u32) -> Self {
        // Root's group says nothing: a directory keeps it when only its user is changed.
        let groups = if group == 0 { Vec::new() } else { vec![group] };
        Self { user, groups, ..self }
    }

    /// Returns true if a list may name it, because the daemon reads the file that way.
    fn is_ours(&self, named: acl::Named) -> bool {
        match named {
            acl::Named::User(user) => user == 0 || user == self.user,
            acl::Named::Group(group) => self.groups.contains(&group),
        }
    }

    /// Returns the guard for files that need not be secret, but that nobody else may change.
    pub fn guard(&self) -> Guard {
        Guard::new(self.user)
    }

    /// Returns true if systemd has put the file there.
    pub fn is_of_systemd(&self, path: &Path) -> bool {
        is_of_systemd(path, self.credentials_directory.as_deref())
    }

    /// Reads a secret as it is: 1 byte to 64 KiB.
    ///
    /// # Errors
    /// [`SecretFileError`] says what is wrong with the file and how to correct it.
    pub fn read(&self, path: &Path) -> Result<Zeroizing<Vec<u8>>, SecretFileError> {
        let mut file = open_inside_its_directory(path)?;
        self.check(path, &file)?;
        // It never grows, so that no copy is left in freed memory.
        let mut content = Zeroizing::new(vec![0; MAX_SECRET_SIZE + 1]);
        let mut length = 0;
        while length < content.len() {
            match file.read(&mut content[length..]) {
                Ok(0) => break,
                Ok(count) => length += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(source) => return Err(SecretFileError::Read { path: path.to_owned(), source }),
            }
        }
        content.truncate(length);
        let what = Misshapen::binary(&content, path);
        let path = || path.to_owned();
        match (content.last(), what) {
            (None, _) => Err(SecretFileError::Empty { path: path() }),
            (Some(_), _) if length > MAX_SECRET_SIZE => Err(SecretFileError::TooLong { path: path() }),
            (Some(_), Some(what)) => Err(SecretFileError::Shape { path: path(), what }),
            (Some(0), None) => Err(SecretFileError::TrailingNul { path: path() }),
            (Some(_), None) => Ok(content),
        }
    }

    /// Reads a password or another one-line secret. One line end after it is removed, since editors and
    /// `echo` add one.
    ///
    /// # Errors
    /// The errors of [`read`](Self::read), [`SecretFileError::NotText`], and [`SecretFileError::Odd`] for
    /// characters added by copying.
    pub fn read_text(&self, path: &Path) -> Result<Zeroizing<String>, SecretFileError> {
        self.read_line(path, paste::odd_in_password)
    }

    /// Like [`read_text`](Self::read_text), for a client secret, which has only printable ASCII.
    ///
    /// # Errors
    /// The errors of [`read_text`](Self::read_text).
    pub fn read_client_secret(&self, path: &Path) -> Result<Zeroizing<String>, SecretFileError> {
        self.read_line(path, paste::odd_in_client_secret)
    }

    fn read_line(
        &self,
        path: &Path,
        odd: fn(&str) -> Option<Odd>,
    ) -> Result<Zeroizing<String>, SecretFileError> {
        let content = self.read(path)?;
        let line = trim_one_line_end(&content);
        if line.is_empty() {
            return Err(SecretFileError::Empty { path: path.to_owned() });
        }
        match std::str::from_utf8(line) {
            Ok(text) if !text.chars().any(char::is_control) => match odd(text) {
                Some(odd) => Err(SecretFileError::Odd { path: path.to_owned(), odd }),
                None => Ok(Zeroizing::new(text.to_owned())),
            },
            _ => Err(SecretFileError::NotText { path: path.to_owned() }),
        }
    }

    /// Checks whether an open file may be read. `path` is its name in errors, and shows whether it is
    /// systemd's.
    ///
    /// # Errors
    /// The file is no regular file or belongs to another user, or somebody else may read, change or replace
    /// it.
    pub fn check(&self, path: &Path, file: &File) -> Result<(), SecretFileError> {
        let status = rustix::fs::fstat(file)
            .map_err(|error| SecretFileError::Read { path: path.to_owned(), source: error.into() })?;
        if FileType::from_raw_mode(status.st_mode) != FileType::RegularFile {
            return Err(SecretFileError::NotAFile { path: path.to_owned() });
        }
        if status.st_uid != 0 && status.st_uid != self.user {
            return Err(SecretFileError::Owner {
                path: path.to_owned(),
                owner: status.st_uid,
                user: self.user,
            });
        }
        let mode = status.st_mode & 0o777;
        // A daemon that is not root reads root's files only through their group: `root:tokenward 0640`, or
        // the files of a Kubernetes secret with `fsGroup`.
        let group_reads = status.st_uid == 0 && self.groups.contains(&status.st_gid)
            || is_of_systemd(path, self.credentials_directory.as_deref());
        let allowed = if group_reads { 0o740 } else { 0o700 };
        if mode & !allowed != 0 {
            let is_mounted = is_mounted(path, file);
            return Err(SecretFileError::Mode { path: path.to_owned(), mode, group_reads, is_mounted });
        }
        // (With a list, the group bits are its mask; systemd names the unit's user in one.)
        if mode & 0o070 != 0 && !self.is_of_systemd(path) {
            let list = AccessList::of_file(file)
                .map_err(|source| SecretFileError::Read { path: path.to_owned(), source })?;
            let named = list.map(|list| list.readers_but(|named| self.is_ours(named))).unwrap_or_default();
            if !named.is_empty() {
                return Err(SecretFileError::Listed { path: path.to_owned(), named });
            }
        }
        Ok(self.guard().opened(path)?)
    }
}

/// Owner and mode of a newly written file: those of a file that the daemon can read already, or those that
/// the directory implies. A command run by root must neither take a file away from the daemon nor show it to
/// others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Belongs {
    user: u32,
    group: u32,
    mode: u32,
}

impl Belongs {
    /// Copies them from this file.
    pub fn like_file(file: &Metadata) -> Self {
        Belongs { user: file.uid(), group: file.gid(), mode: file.mode() & 0o640 | 0o400 }
    }

    /// Derives them for the first file in this directory. If root owns the directory and a group can enter
    /// it, the daemon is a member of that group.
    pub fn in_directory(directory: &Metadata) -> Self {
        let is_by_group = directory.uid() == 0 && directory.gid() != 0 && directory.mode() & 0o050 == 0o050;
        let mode = if is_by_group { 0o640 } else { 0o600 };
        Belongs { user: directory.uid(), group: directory.gid(), mode }
    }

    /// Sets owner and mode of a file that only its maker can read so far. Only root can change owners;
    /// otherwise the file stays readable for its maker alone.
    ///
    /// # Errors
    /// The file system refuses it.
    pub fn give(self, file: &File) -> io::Result<()> {
        let made = file.metadata()?;
        let mut is_so = (made.uid(), made.gid()) == (self.user, self.group);
        if !is_so && rustix::process::geteuid().is_root() {
            rustix::fs::fchown(file, Some(Uid::from_raw(self.user)), Some(Gid::from_raw(self.group)))?;
            is_so = true;
        }
        // Entries from a folder's default list would get access through the group bits.
        acl::remove(file)?;
        let mode = if is_so { self.mode } else { 0o600 };
        Ok(rustix::fs::fchmod(file, Mode::from_raw_mode(mode))?)
    }
}

/// Removes one `\n` or `\r\n` at the end.
pub fn trim_one_line_end(content: &[u8]) -> &[u8] {
    match content.strip_suffix(b"\n") {
        Some(line) => line.strip_suffix(b"\r").unwrap_or(line),
        None => content,
    }
}

/// Attempts to resolve a path whose target disappears meanwhile, as when Kubernetes swaps a directory.
const RESOLVE_ATTEMPTS: usize = 5;

fn open_inside_its_directory(path: &Path) -> Result<File, SecretFileError> {
    let failed = |source: io::Error| SecretFileError::Read { path: path.to_owned(), source };
    let mut attempt = 1;
    loop {
        let parent = match path.parent() {
            Some(parent) if parent.as_os_str().is_empty() => Path::new("."),
            Some(parent) => parent,
            None => return Err(SecretFileError::NotAFile { path: path.to_owned() }),
        };
        let directory = parent.canonicalize().map_err(failed)?;
        let opened = path.canonicalize().and_then(|target| {
            if !target.starts_with(&directory) {
                return Ok(Err(SecretFileError::Escapes { path: path.to_owned(), target }));
            }
            // NONBLOCK: opening a pipe must not block the start; the pipe is refused once it is open.
            let flags =
                OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC | OFlags::NOCTTY;
            let file = rustix::fs::open(&target, flags, Mode::empty())?;
            Ok(Ok(File::from(file)))
        });
        let moved = |error: &io::Error| {
            error.kind() == io::ErrorKind::NotFound
                || error.raw_os_error() == Some(rustix::io::Errno::LOOP.raw_os_error())
        };
        match opened {
            Ok(result) => return result,
            Err(error) if moved(&error) && attempt < RESOLVE_ATTEMPTS => attempt += 1,
            Err(error) => return Err(failed(error)),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    struct Dir(tempfile::TempDir);

    impl Dir {
        fn new() -> Self {
            Self(tempfile::tempdir().unwrap())
        }

        fn path(&self, name: &str) -> PathBuf {
            self.0.path().join(name)
        }

        fn file(&self, name: &str, content: &[u8], mode: u32) -> PathBuf {
            let path = self.path(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(&path, content).unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
            path
        }
    }

    fn reader() -> SecretReader {
        SecretReader::new(None)
    }

    #[track_caller]
    fn refused(path: &Path, expected: &str) {
        let message = reader().read(path).expect_err("must be refused").to_string();
        assert!(message.contains(expected) && message.contains(&path.display().to_string()), "{message}");
    }

    #[test]
    fn a_private_file_is_read() {
        let dir = Dir::new();
        for mode in [0o600, 0o400, 0o700] {
            let path = dir.file("s", b"hunter2\n", mode);
            assert_eq!(**reader().read(&path).unwrap(), *b"hunter2\n");
            assert_eq!(**reader().read_text(&path).unwrap(), *"hunter2");
            std::fs::remove_file(path).unwrap();
        }
    }

    #[test]
    fn modes_that_let_others_in_are_refused() {
        let dir = Dir::new();
        for (mode, who) in [
            (0o644, "everyone can read it"),
            (0o604, "everyone can read it"),
            (0o602, "everyone can change it"),
            (0o666, "everyone can change it"),
            (0o620, "its group can change it"),
            (0o660, "its group can change it"),
        ] {
            let path = dir.file("s", b"x", mode);
            refused(&path, who);
            refused(&path, "chmod 600");
            std::fs::remove_file(path).unwrap();
        }
    }

    #[test]
    fn a_group_may_read_only_where_the_daemon_needs_it_to() {
        let dir = Dir::new();
        let path = dir.file("s", b"x", 0o640);
        let status = rustix::fs::stat(&path).unwrap();
        let (owner, group) = (status.st_uid, status.st_gid);
        let reader = |user, groups: &[u32], credentials: Option<&Path>| SecretReader {
            user,
            groups: groups.to_vec(),
            credentials_directory: credentials.map(Path::to_owned),
        };
        // The owner does not need the group.
        if owner != 0 {
            assert!(matches!(reader(owner, &[group], None).read(&path), Err(SecretFileError::Mode { .. })));
        }
        refused(&path, "its group can read it");
        // systemd's own directory.
        assert!(reader(owner, &[], Some(dir.0.path())).read(&path).is_ok());
        assert!(reader(owner, &[], Some(Path::new("/proc"))).read(&path).is_err());
        if owner == 0 {
            assert!(reader(10_001, &[group], None).read(&path).is_ok());
            assert!(matches!(reader(10_001, &[77], None).read(&path), Err(SecretFileError::Mode { .. })));
            let path = dir.file("w", b"x", 0o660);
            assert!(matches!(reader(10_001, &[group], None).read(&path), Err(SecretFileError::Mode { .. })));
            let path = dir.file("o", b"x", 0o644);
            assert!(matches!(reader(10_001, &[group], None).read(&path), Err(SecretFileError::Mode { .. })));
        }
    }

    /// (Changes owners, which only root can.)
    #[test]
    fn what_root_reads_for_a_daemon_is_what_that_daemon_can_read() {
        if !rustix::process::geteuid().is_root() {
            return;
        }
        let own = |path: &Path, (user, group): (u32, u32)| {
            std::os::unix::fs::chown(path, Some(user), Some(group)).unwrap();
        };
        let dir = Dir::new();
        let place = dir.path("place");
        std::fs::create_dir(&place).unwrap();
        // Owner of the daemon's directory; owner and mode of the file; whether the daemon accepts it.
        for (directory, file, mode, good) in [
            ((0, 0), (0, 0), 0o600, true),
            ((0, 0), (0, 7), 0o640, false),
            ((0, 0), (5, 7), 0o600, false),
            ((5, 7), (0, 0), 0o600, true),
            ((5, 7), (5, 0), 0o600, true),
            ((5, 7), (5, 7), 0o640, false),
            ((5, 7), (0, 7), 0o640, true),
            ((5, 7), (0, 7), 0o660, false),
            ((5, 7), (0, 7), 0o644, false),
            ((5, 7), (0, 8), 0o640, false),
            ((5, 7), (6, 7), 0o600, false),
            ((5, 0), (0, 0), 0o640, false),
            // The daemon is a member of the group, as with `fsGroup`.
            ((0, 7), (0, 7), 0o440, true),
            ((0, 7), (0, 8), 0o440, false),
            ((0, 7), (5, 7), 0o600, false),
        ] {
            let path = dir.file("s", b"x", mode);
            own(&place, directory);
            own(&path, file);
            let read = SecretReader::for_owner_of(&place, None).read(&path);
            assert_eq!(read.is_ok(), good, "{directory:?} {file:?} {mode:o}: {read:?}");
            std::fs::remove_file(path).unwrap();
        }
        assert!(
            SecretReader::for_owner_of(&dir.path("absent"), None).read(&dir.file("s", b"x", 0o600)).is_ok()
        );
    }

    /// A mode of 0640 says nothing about the users in a list.
    #[test]
    fn whom_an_access_list_lets_read_is_refused() {
        use acl::{Named, testing};

        let dir = Dir::new();
        if !rustix::process::geteuid().is_root() {
            return; // only root can change a file's group
        }
        let reader = SecretReader::new(None).for_daemon(5, 7);
        for (named, mask, problem) in [
            (
                vec![(Named::User(6), 4)],
                4,
                Some("by which user 6 can read or change it; fix: setfacl -x u:6 "),
            ),
            (vec![(Named::User(6), 4), (Named::Group(8), 6)], 4, Some("user 6 and group 8 can read or")),
            // As systemd does it for the unit's user.
            (vec![(Named::User(5), 4), (Named::Group(7), 4)], 4, None),
            (vec![(Named::User(6), 3)], 4, None),
        ] {
            let path = dir.file("s", b"x", 0o640);
            std::os::unix::fs::chown(&path, Some(0), Some(7)).unwrap();
            if !testing::give(&path, 4, &named, mask) {
                return;
            }
            assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o740, "the mask's");
            match (reader.read(&path), problem) {
                (Ok(_), None) => {}
                (Err(error), Some(problem)) => assert!(error.to_string().contains(problem), "{error}"),
                (read, _) => panic!("{named:?}: {read:?}"),
            }
            std::fs::remove_file(path).unwrap();
        }
    }

    /// A folder's default list does not apply to files that commands write there.
    #[test]
    fn what_is_written_anew_has_no_access_list() {
        use acl::{Named, testing};

        let dir = Dir::new();
        if !testing::give_as("system.posix_acl_default", dir.0.path(), 5, &[(Named::User(6), 7)], 7) {
            return;
        }
        let path = dir.path("made");
        std::fs::write(&path, b"x").unwrap();
        let made = File::open(&path).unwrap();
        assert!(acl::AccessList::of_file(&made).unwrap().is_some(), "the folder gave it one");
        Belongs { user: 0, group: 0, mode: 0o640 }.give(&made).unwrap();
        assert_eq!(acl::AccessList::of_file(&made).unwrap(), None);
    }

    #[test]
    fn what_is_written_anew_belongs_to_whom_it_belonged() {
        let dir = Dir::new();
        let is_root = rustix::process::geteuid().is_root();
        let given = |belongs: Belongs| {
            let made = File::open(dir.file("made", b"x", 0o600)).unwrap();
            belongs.give(&made).unwrap();
            let made = made.metadata().unwrap();
            ((made.uid(), made.gid()), made.mode() & 0o777)
        };
        let metadata = |path: &Path, (user, group): (u32, u32), mode: u32| {
            use std::os::unix::fs::PermissionsExt;
            if is_root {
                std::os::unix::fs::chown(path, Some(user), Some(group)).unwrap();
            }
            std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
            std::fs::metadata(path).unwrap()
        };
        let mine = File::open(dir.file("mine", b"x", 0o600)).unwrap().metadata().unwrap();
        let mine = (mine.uid(), mine.gid());
        for (mode, kept) in [(0o600, 0o600), (0o640, 0o640), (0o440, 0o440), (0o777, 0o640)] {
            let like = metadata(&dir.file("like", b"x", 0o600), mine, mode);
            assert_eq!(given(Belongs::like_file(&like)), (mine, kept));
        }
        // A file that cannot change its owner is readable for its maker alone.
        let others = Belongs { user: 5, group: 7, mode: 0o640 };
        assert_eq!(given(others), if is_root { ((5, 7), 0o640) } else { (mine, 0o600) });
        if is_root {
            let place = dir.path("place");
            std::fs::create_dir(&place).unwrap();
            for (owner, mode, file) in [
                ((0, 0), 0o750, 0o600),
                ((5, 7), 0o750, 0o600),
                ((0, 7), 0o750, 0o640),
                ((0, 7), 0o700, 0o600),
            ] {
                let directory = metadata(&place, owner, mode);
                assert_eq!(given(Belongs::in_directory(&directory)), (owner, file));
            }
        }
    }

    #[test]
    fn someone_elses_file_is_refused() {
        let dir = Dir::new();
        let path = dir.file("s", b"x", 0o600);
        if rustix::fs::stat(&path).unwrap().st_uid == 0 {
            std::os::unix::fs::chown(&path, Some(12_345), None).unwrap();
            refused(&path, "belongs to user 12345");
            refused(&path, "chown 0 ");
        }
    }

    #[test]
    fn contents_that_are_no_secret_are_refused() {
        let dir = Dir::new();
        refused(&dir.file("empty", b"", 0o600), "is empty");
        refused(&dir.file("nul", b"abc\0", 0o600), "zero byte");
        refused(&dir.file("long", &vec![b'x'; MAX_SECRET_SIZE + 1], 0o600), "longer than 65536 bytes");
        assert_eq!(
            reader().read(&dir.file("fits", &vec![b'x'; MAX_SECRET_SIZE], 0o600)).unwrap().len(),
            MAX_SECRET_SIZE
        );
        refused(&dir.path("absent"), "create it");
        refused(dir.0.path(), "not a regular file");
        let text = |content: &[u8]| reader().read_text(&dir.file("text", content, 0o600));
        assert!(matches!(text(b"\n"), Err(SecretFileError::Empty { .. })));
        assert!(matches!(text(b"a\nb"), Err(SecretFileError::NotText { .. })));
        assert!(matches!(text(b"a\n\n"), Err(SecretFileError::NotText { .. })));
        assert!(matches!(text(b"\xff"), Err(SecretFileError::NotText { .. })));
        assert_eq!(**text(b" a b \r\n").unwrap(), *" a b ");
    }

    #[test]
    fn a_pipe_does_not_hold_up_the_start() {
        let dir = Dir::new();
        let path = dir.path("pipe");
        rustix::fs::mknodat(rustix::fs::CWD, &path, FileType::Fifo, Mode::from_raw_mode(0o600), 0).unwrap();
        refused(&path, "not a regular file");
    }

    #[test]
    fn links_stay_inside_their_directory() {
        let dir = Dir::new();
        let outside = dir.file("outside", b"x", 0o600);
        // The layout of a Kubernetes secret: key -> ..data/key, ..data -> ..2026_11_22.
        dir.file("mount/..2026_11_22/key", b"kubernetes", 0o600);
        symlink("..2026_11_22", dir.path("mount/..data")).unwrap();
        symlink("..data/key", dir.path("mount/key")).unwrap();
        assert_eq!(**reader().read(&dir.path("mount/key")).unwrap(), *b"kubernetes");

        symlink("../outside", dir.path("mount/up")).unwrap();
        symlink(&outside, dir.path("mount/absolute")).unwrap();
        symlink("loop", dir.path("mount/loop")).unwrap();
        refused(&dir.path("mount/up"), "leads out of its directory");
        refused(&dir.path("mount/absolute"), "leads out of its directory");
        refused(&dir.path("mount/loop"), "cannot read");

        // A directory that is itself reached by a link is what the operator meant.
        symlink("mount", dir.path("alias")).unwrap();
        assert_eq!(**reader().read(&dir.path("alias/key")).unwrap(), *b"kubernetes");
    }

    #[test]
    fn one_line_end_is_trimmed() {
        for (content, trimmed) in
            [("a", "a"), ("a\n", "a"), ("a\r\n", "a"), ("a\n\n", "a\n"), ("a\r", "a\r"), ("\n", "")]
        {
            assert_eq!(trim_one_line_end(content.as_bytes()), trimmed.as_bytes());
        }
    }

    #[test]
    fn a_directory_of_systemd_s_that_is_named_by_nothing_is_nowhere() {
        let folder = tempfile::tempdir().expect("a folder");
        assert!(is_of_systemd(folder.path(), Some(folder.path())));
        for nowhere in [None, Some(Path::new("")), Some(Path::new("."))] {
            assert!(!is_of_systemd(folder.path(), nowhere), "{nowhere:?}");
        }
        assert!(is_of_systemd(Path::new("/run/credentials/tokenward.service/a"), None));
    }
}
