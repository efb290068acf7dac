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
pub mod fix;
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
use self::fix::{FIX, OF_MOUNTED};
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
        "the secret file {} belongs to user {owner}, who could change it{FIX}chown {user} {}",
        path.display(), path.display(), FIX = FIX
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
        "the secret file {} has mode {mode:04o}, so that {}{FIX}{}",
        path.display(), who_else(*mode), mode_fix(path, *group_reads, *is_mounted), FIX = FIX
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
        "the secret file {} has an access control list by which {} can read or change it{FIX}{}",
        path.display(), acl::in_words(named), acl::fix(named, path), FIX = FIX
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
        (true, _) => OF_MOUNTED.to_owned(),
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

    /// Opens a file of secrets that is read piece by piece, of any size.
    ///
    /// # Errors
    /// It cannot be opened, or the errors of [`check`](Self::check).
    pub fn open(&self, path: &Path) -> Result<File, SecretFileError> {
        let file = open_inside_its_directory(path)?;
        self.check(path, &file)?;
        Ok(file)
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
mod tests;
