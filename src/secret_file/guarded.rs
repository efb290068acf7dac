//! The rule for every file that grants rights (the configuration, keyrings, callers' and credentials'
//! folders, trusted certificates): only root and the daemon's user can have changed it.
//!
//! Write permission on a file, on its folder, or on any folder above counts as the power to change the file,
//! because renaming a folder moves its files. Therefore every folder on the path is checked, behind every
//! link, up to `/`. In a folder with the sticky bit (`/tmp`) others can only remove their own entries, so it
//! may be on the path; it may not be a folder whose every file counts ([`Guard::folder`]).
//!
//! A group may have write permission if its only members are root and the daemon's user, as on systems where
//! each user has a group of its own; root's group may too. The mount point of a Kubernetes volume is writable
//! for everyone by its mode, but it is mounted read-only, and its files change only from outside. An access
//! control list's named entries are judged like owners and groups (`acl.rs`).
//!
//! A file is opened before it is judged, so every step of its path existed. If a step is missing, somebody is
//! moving folders there; the path could not be checked, and the file is refused.
//!
//! All such reads go through here: only a [`Guard`] makes a [`GuardedFolder`] or returns a file's content. A
//! test (at the end of the file) lists every other place in the program that opens files.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::fs::{self, File, Metadata};
use std::io::{self, Read as _};
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};

use rustix::fs::{OFlags, StatVfsMountFlags};

use super::acl::{self, AccessList, Named};
use super::fix::{FIX, OF_SHARED_FOLDER};

/// Most links on one path; the kernel follows no more.
const MOST_LINKS: usize = 40;
/// Largest `/etc/passwd` or `/etc/group` accepted; real ones are far smaller.
const LARGEST_LIST: u64 = 1024 * 1024;
/// Attempts to check a path with a missing step, as when Kubernetes swaps the folder behind a link.
const TRIES: usize = 5;

/// Error: somebody else can change a file that grants rights. The text is the same for all files below the
/// same folder.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Loose {
    /// It belongs to another user.
    #[error(
        "the {what} {} belongs to user {owner}, who can change {}{FIX}chown {user} {}",
        path.display(), what.its(), path.display(), FIX = FIX
    )]
    Owner {
        /// Kind of object.
        what: What,
        /// Its path.
        path: PathBuf,
        /// Its owner.
        owner: u32,
        /// The daemon's user id.
        user: u32,
    },
    /// Its mode lets others write to it.
    #[error(
        "the {what} {} has mode {mode:04o}, so that {} can change {}{FIX}{}",
        path.display(), who(*mode), what.its(), mode_fix(*what, path, *mode), FIX = FIX
    )]
    Mode {
        /// Kind of object.
        what: What,
        /// Its path.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// An access control list lets others write to it.
    #[error(
        "the {what} {} has an access control list by which {} can change {}{FIX}{}",
        path.display(), acl::in_words(named), what.its(), acl::fix(named, path), FIX = FIX
    )]
    Listed {
        /// Kind of object.
        what: What,
        /// Its path.
        path: PathBuf,
        /// The named users and groups.
        named: Vec<Named>,
    },
    /// Its access control list cannot be read, so nobody can say who may write.
    #[error(
        "cannot read the access control list of the {what} {}: {cause}{FIX}chmod g-w {}",
        path.display(), path.display(), FIX = FIX
    )]
    List {
        /// Kind of object.
        what: What,
        /// Its path.
        path: PathBuf,
        /// The cause.
        cause: String,
    },
    /// A step of the path disappeared after the file was opened.
    #[error(
        "cannot tell who can change {}: {} on its path cannot be checked ({}), although the file was read a \
         moment ago; find out who moves folders there, and try again",
        path.display(), step.display(), io::Error::from_raw_os_error(*errno)
    )]
    Gone {
        /// The file that was read.
        path: PathBuf,
        /// The missing step.
        step: PathBuf,
        /// The system's error number.
        errno: i32,
    },
}

/// How much of a path could be checked. Nobody else can change the part that was.
enum Checked {
    /// All of it.
    Whole,
    /// The part before a missing step.
    Gone(Gone),
}

/// A step that cannot be checked.
struct Gone {
    step: PathBuf,
    errno: i32,
}

impl Gone {
    fn new(step: PathBuf, error: &io::Error) -> Self {
        let errno = error.raw_os_error().unwrap_or(rustix::io::Errno::NOENT.raw_os_error());
        Gone { step, errno }
    }

    fn refused(self, path: &Path) -> Loose {
        Loose::Gone { path: path.to_owned(), step: self.step, errno: self.errno }
    }
}

/// Kind of object that somebody else can change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum What {
    /// A file.
    File,
    /// A folder.
    Folder,
    /// A link.
    Link,
}

impl std::fmt::Display for What {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            What::File => "file",
            What::Folder => "folder",
            What::Link => "link",
        })
    }
}

impl What {
    fn its(self) -> &'static str {
        match self {
            What::File => "what is in it",
            What::Folder => "which files are in it",
            What::Link => "where it leads",
        }
    }
}

fn who(mode: u32) -> &'static str {
    if mode & 0o002 != 0 { "everyone" } else { "its group" }
}

fn mode_fix(what: What, path: &Path, mode: u32) -> String {
    match (what, mode & 0o1000) {
        (What::Folder, 0o1000) => OF_SHARED_FOLDER.to_owned(),
        _ => format!("chmod go-w {}", path.display()),
    }
}

/// Reason why a guarded file or folder was not read.
#[derive(Debug, thiserror::Error)]
pub enum Unread {
    /// Somebody else can change it.
    #[error(transparent)]
    Loose(#[from] Loose),
    /// It cannot be read, or is no regular file.
    #[error("cannot read {}: {source}", path.display())]
    Io {
        /// Its path.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
}

/// Checks files that grant rights, for the user of one daemon.
#[derive(Debug, Clone, Copy)]
pub struct Guard {
    user: u32,
}

/// A folder whose every file counts, and to which nobody else can have added one.
pub struct GuardedFolder {
    path: PathBuf,
    /// The error if it could not be checked; then it is not read either.
    errno: Option<i32>,
}

impl GuardedFolder {
    /// Returns the paths of its entries, in no order.
    ///
    /// # Errors
    /// The folder cannot be read.
    pub fn entries(&self) -> io::Result<Vec<PathBuf>> {
        if let Some(errno) = self.errno {
            return Err(io::Error::from_raw_os_error(errno));
        }
        fs::read_dir(&self.path)?.map(|entry| Ok(entry?.path())).collect()
    }

    /// Returns its path as given.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Guard {
    /// Makes a guard for a daemon of this user.
    pub fn new(user: u32) -> Self {
        Guard { user }
    }

    /// Checks that nobody else can have added a file to a folder. A missing folder is reported when it is
    /// read.
    ///
    /// # Errors
    /// Somebody else can.
    pub fn folder(&self, path: &Path) -> Result<GuardedFolder, Loose> {
        let errno = match self.walk_again(path, true)? {
            Checked::Whole => None,
            Checked::Gone(gone) => Some(gone.errno),
        };
        Ok(GuardedFolder { path: path.to_owned(), errno })
    }

    /// Checks every existing folder on the path to a file, but not the file itself, which may not exist yet.
    /// Once it is opened, check it with [`Guard::opened`].
    ///
    /// # Errors
    /// Names the first folder that somebody else can change.
    pub fn way(&self, path: &Path) -> Result<(), Loose> {
        self.walk(path, false).map(drop)
    }

    /// Checks every folder on the path of an opened file.
    ///
    /// # Errors
    /// Names the first folder that somebody else can change, or that is missing.
    pub fn opened(&self, path: &Path) -> Result<(), Loose> {
        match self.walk_again(path, false)? {
            Checked::Whole => Ok(()),
            Checked::Gone(gone) => Err(gone.refused(path)),
        }
    }

    /// Checks a file that has been read, and its path. (A pipe's name may have no path.)
    ///
    /// # Errors
    /// Somebody else can change it, or it is missing.
    pub fn file(&self, path: &Path) -> Result<(), Loose> {
        let found = fs::metadata(path).map_err(|error| Gone::new(path.to_owned(), &error).refused(path))?;
        if found.is_file() { self.opened(path) } else { self.way(path) }?;
        self.judge(What::File, path, &found, false, || AccessList::of_path(path))
    }

    /// Reads a file that need not be secret, up to `at_most` bytes.
    ///
    /// # Errors
    /// It cannot be read, is no regular file, or somebody else can change it.
    pub fn read(&self, path: &Path, at_most: usize) -> Result<Vec<u8>, Unread> {
        let io = |source| Unread::Io { path: path.to_owned(), source };
        // So that opening a pipe does not wait for a writer.
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC | OFlags::NOCTTY;
        let opened = rustix::fs::open(path, flags, rustix::fs::Mode::empty());
        let file = File::from(opened.map_err(|error| io(error.into()))?);
        let found = file.metadata().map_err(io)?;
        if !found.is_file() {
            return Err(io(io::Error::other("it is not a regular file")));
        }
        self.opened(path)?;
        self.judge(What::File, path, &found, false, || AccessList::of_file(&file))?;
        let mut content = Vec::new();
        file.take(at_most as u64).read_to_end(&mut content).map_err(io)?;
        Ok(content)
    }

    /// Repeats the check if a step was missing, which may be temporary.
    fn walk_again(&self, path: &Path, every_file_counts: bool) -> Result<Checked, Loose> {
        let mut way = self.walk(path, every_file_counts)?;
        for _ in 1..TRIES {
            if let Checked::Whole = way {
                break;
            }
            way = self.walk(path, every_file_counts)?;
        }
        Ok(way)
    }

    fn walk(&self, path: &Path, every_file_counts: bool) -> Result<Checked, Loose> {
        let path = match std::path::absolute(path) {
            Ok(path) => path,
            Err(error) => return Ok(Checked::Gone(Gone::new(path.to_owned(), &error))),
        };
        let mut at = PathBuf::from("/");
        let mut left = steps(&path);
        let mut links = 0;
        match fs::symlink_metadata(&at) {
            Ok(root) => self.judge_folder(&at, &root, every_file_counts && left.is_empty())?,
            Err(error) => return Ok(Checked::Gone(Gone::new(at, &error))),
        }
        while let Some(step) = left.pop_front() {
            if step == ".." {
                at.pop();
                continue;
            }
            let next = at.join(&step);
            let found = match fs::symlink_metadata(&next) {
                Ok(found) => found,
                Err(error) => return Ok(Checked::Gone(Gone::new(next, &error))),
            };
            if found.is_symlink() {
                links += 1;
                let target = match fs::read_link(&next) {
                    Ok(target) if links <= MOST_LINKS => target,
                    Ok(_) => return Ok(Checked::Gone(Gone::new(next, &rustix::io::Errno::LOOP.into()))),
                    Err(error) => return Ok(Checked::Gone(Gone::new(next, &error))),
                };
                // In a sticky folder the owner of a link can replace it; in any other folder the folder's
                // permissions decide.
                if fs::symlink_metadata(&at).is_ok_and(|at| at.mode() & 0o1000 != 0) {
                    self.judge_owner(What::Link, &next, &found)?;
                }
                if target.is_absolute() {
                    at = PathBuf::from("/");
                }
                let mut further = steps(&target);
                further.append(&mut left);
                left = further;
                continue;
            }
            if found.is_dir() {
                self.judge_folder(&next, &found, every_file_counts && left.is_empty())?;
            }
            at = next;
        }
        Ok(Checked::Whole)
    }

    fn judge_folder(&self, path: &Path, found: &Metadata, every_file_counts: bool) -> Result<(), Loose> {
        self.judge(What::Folder, path, found, !every_file_counts, || AccessList::of_path(path))
    }

    fn judge_owner(&self, what: What, path: &Path, found: &Metadata) -> Result<(), Loose> {
        match found.uid() {
            owner if owner == 0 || owner == self.user => Ok(()),
            owner => Err(Loose::Owner { what, path: path.to_owned(), owner, user: self.user }),
        }
    }

    fn judge(
        &self,
        what: What,
        path: &Path,
        found: &Metadata,
        may_be_sticky: bool,
        list: impl FnOnce() -> io::Result<Option<AccessList>>,
    ) -> Result<(), Loose> {
        self.judge_owner(what, path, found)?;
        let mode = found.mode() & 0o1777;
        if mode & 0o022 == 0 || may_be_sticky && what == What::Folder && mode & 0o1000 != 0 {
            return Ok(());
        }
        if what == What::Folder && is_volume_of_kubernetes(path, found) {
            return Ok(());
        }
        let loose = Loose::Mode { what, path: path.to_owned(), mode };
        if mode & 0o002 != 0 {
            return Err(loose);
        }
        // With a list, the group bits are the list's mask and say nothing about the owning group.
        let list = list().map_err(|error| {
            let cause = error.to_string();
            Loose::List { what, path: path.to_owned(), cause }
        })?;
        let named =
            list.as_ref().map(|list| list.writers_but(|named| self.is_ours(named))).unwrap_or_default();
        if !named.is_empty() {
            return Err(Loose::Listed { what, path: path.to_owned(), named });
        }
        let group_writes = list.is_none_or(|list| list.group_writes());
        if group_writes && !self.is_ours(Named::Group(found.gid())) { Err(loose) } else { Ok(()) }
    }

    /// Returns true for root, the daemon's user, and a group that has nobody else in it.
    fn is_ours(&self, named: Named) -> bool {
        match named {
            Named::User(user) => user == 0 || user == self.user,
            Named::Group(group) => group == 0 || is_private_here(group, self.user),
        }
    }
}

fn steps(path: &Path) -> VecDeque<OsString> {
    path.components()
        .filter_map(|component| match component {
            Component::Normal(name) => Some(name.to_owned()),
            Component::ParentDir => Some("..".into()),
            Component::RootDir | Component::CurDir | Component::Prefix(_) => None,
        })
        .collect()
}

/// Returns true if Kubernetes has mounted a ConfigMap, a Secret or a projected volume there: it is a mount of
/// its own, read-only here, owned by root, with root's link `..data`. (Being read-only is not enough: with
/// systemd's `ProtectSystem=strict` everything is, and others still write to it.)
fn is_volume_of_kubernetes(path: &Path, found: &Metadata) -> bool {
    let is_mount = path
        .parent()
        .and_then(|above| fs::symlink_metadata(above).ok())
        .is_some_and(|above| above.dev() != found.dev());
    let is_read_only =
        rustix::fs::statvfs(path).is_ok_and(|system| system.f_flag.contains(StatVfsMountFlags::RDONLY));
    let has_its_link =
        fs::symlink_metadata(path.join("..data")).is_ok_and(|link| link.is_symlink() && link.uid() == 0);
    found.uid() == 0 && is_mount && is_read_only && has_its_link
}

fn is_private_here(group: u32, user: u32) -> bool {
    let read = |path: &str| {
        let mut text = String::new();
        let file = File::open(path)?.take(LARGEST_LIST);
        io::BufReader::new(file).read_to_string(&mut text).map(|_| text)
    };
    match (read("/etc/passwd"), read("/etc/group")) {
        (Ok(passwd), Ok(groups)) => is_private(&passwd, &groups, group, user),
        _ => false,
    }
}

/// Returns true if a group is known and has no members but root and this user.
fn is_private(passwd: &str, groups: &str, group: u32, user: u32) -> bool {
    let number = |text: Option<&&str>| text.and_then(|text| text.parse::<u32>().ok());
    let users: Vec<Vec<&str>> = passwd.lines().map(|line| line.split(':').collect()).collect();
    let is_ours = |name: &str| {
        let known = users.iter().find(|fields| fields.first() == Some(&name));
        known.and_then(|fields| number(fields.get(2))).is_some_and(|uid| uid == 0 || uid == user)
    };
    let of_group = |fields: &&Vec<&str>| number(fields.get(3)) == Some(group);
    let by_default: Vec<&Vec<&str>> = users.iter().filter(of_group).collect();
    let lines: Vec<Vec<&str>> = groups.lines().map(|line| line.split(':').collect()).collect();
    let listed: Vec<&str> = lines
        .iter()
        .filter(|fields| number(fields.get(2)) == Some(group))
        .flat_map(|fields| fields.get(3).copied().unwrap_or_default().split(','))
        .filter(|name| !name.is_empty())
        .collect();
    let is_known = lines.iter().any(|fields| number(fields.get(2)) == Some(group));
    is_known
        && by_default.iter().all(|fields| fields.first().is_some_and(|name| is_ours(name)))
        && listed.iter().all(|name| is_ours(name))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    use super::super::acl::testing;
    use super::*;

    const ANOTHER: u32 = 61_234;

    struct Scene(tempfile::TempDir);

    impl Scene {
        fn new() -> Self {
            let scene = Scene(tempfile::tempdir().expect("a folder"));
            fs::create_dir_all(scene.at("etc/ring")).expect("folders");
            fs::write(scene.at("etc/conf"), "x").expect("a file");
            for (name, mode) in [("etc", 0o755), ("etc/ring", 0o700), ("etc/conf", 0o644)] {
                scene.mode(name, mode);
            }
            scene
        }

        fn at(&self, name: &str) -> PathBuf {
            self.0.path().join(name)
        }

        fn mode(&self, name: &str, mode: u32) {
            fs::set_permissions(self.at(name), fs::Permissions::from_mode(mode)).expect("chmod");
        }
    }

    fn guard() -> Guard {
        Guard::new(rustix::process::geteuid().as_raw())
    }

    fn said(read: Result<Vec<u8>, Unread>) -> String {
        read.map(|_| "read".to_owned()).unwrap_or_else(|error| error.to_string())
    }

    #[test]
    fn whoever_can_write_to_a_file_or_to_a_folder_on_the_way_can_change_it() {
        let scene = Scene::new();
        let read = || said(guard().read(&scene.at("etc/conf"), 10));
        assert_eq!(read(), "read");
        for (name, mode, good, words) in [
            ("etc/conf", 0o666, 0o644, "so that everyone can change what is in it; fix: chmod go-w "),
            ("etc/conf", 0o646, 0o644, "0646"),
            ("etc", 0o777, 0o755, "so that everyone can change which files are in it; fix: chmod go-w "),
            (".", 0o757, 0o700, "0757"),
        ] {
            scene.mode(name, mode);
            assert!(read().contains(words), "{name} {mode:o}: {}", read());
            assert!(guard().folder(&scene.at("etc/ring")).is_ok() == (name == "etc/conf"), "{name}");
            scene.mode(name, good);
            assert_eq!(read(), "read");
        }
        // A folder in which everyone may write and nobody can take another's file away.
        scene.mode("etc", 0o1777);
        assert_eq!(read(), "read");
        assert!(guard().folder(&scene.at("etc/ring")).is_ok());
        let folder = guard().folder(&scene.at("etc")).map(drop).map_err(|error| error.to_string());
        assert!(folder.is_err_and(|error| error.ends_with("made with `mkdir -m 0700`")));
    }

    #[test]
    fn links_are_followed_and_every_folder_on_the_way_counts() {
        let scene = Scene::new();
        for folder in ["open", "via"] {
            fs::create_dir(scene.at(folder)).expect("a folder");
        }
        fs::write(scene.at("open/conf"), "x").expect("a file");
        scene.mode("open", 0o777);
        symlink("../open/conf", scene.at("via/relative")).expect("a link");
        symlink(scene.at("open"), scene.at("via/absolute")).expect("a link");
        symlink("../etc/conf", scene.at("open/to-good")).expect("a link");
        for path in ["via/relative", "via/absolute/conf", "open/to-good", "via/../open/../open/conf"] {
            let said = said(guard().read(&scene.at(path), 10));
            assert!(said.contains("/open has mode 0777"), "{path}: {said}");
        }
        symlink("../etc/conf", scene.at("via/good")).expect("a link");
        assert_eq!(said(guard().read(&scene.at("via/good"), 10)), "read");
        symlink("loop", scene.at("via/loop")).expect("a link");
        assert!(said(guard().read(&scene.at("via/loop"), 10)).starts_with("cannot read"));
    }

    #[test]
    fn what_is_somebody_else_s_is_refused() {
        let scene = Scene::new();
        if !rustix::process::geteuid().is_root() {
            return; // only root can change owners
        }
        let give = |name: &str, to| std::os::unix::fs::lchown(scene.at(name), Some(to), None).expect("chown");
        let read = || said(guard().read(&scene.at("etc/conf"), 10));
        for name in ["etc/conf", "etc", "."] {
            give(name, ANOTHER);
            assert!(read().contains("belongs to user 61234, who can change"), "{name}: {}", read());
            // The daemon's own is accepted.
            assert_eq!(said(Guard::new(ANOTHER).read(&scene.at("etc/conf"), 10)), "read");
            give(name, 0);
        }
        // In a sticky folder, another user's link may lead anywhere later. (With `fs.protected_symlinks`, as
        // most systems have it, the kernel follows none before we are asked.)
        symlink("conf", scene.at("etc/link")).expect("a link");
        give("etc/link", ANOTHER);
        assert_eq!(said(guard().read(&scene.at("etc/link"), 10)), "read");
        scene.mode("etc", 0o1777);
        let is_protected =
            std::fs::read_to_string("/proc/sys/fs/protected_symlinks").is_ok_and(|is| is != "0\n");
        let refused = said(guard().read(&scene.at("etc/link"), 10));
        let by_us = refused.contains("who can change where it leads");
        assert!(by_us || is_protected && refused.contains("Permission denied"), "{refused}");
    }

    #[test]
    fn a_group_may_write_where_it_is_the_user_s_own() {
        let passwd =
            "root:x:0:0::/root:/bin/sh\nme:x:1000:1000::/:/x\nyou:x:1001:1001::/:/x\nit:x:1002:50::/:/x\n";
        let groups = "root:x:0:\nme:x:1000:\nyou:x:1001:me\nstaff:x:50:\n\
            adm:x:51:root,me\nops:x:52:me,you\nodd:x:53:gone\n";
        for (group, is) in
            [(1000, true), (1001, false), (50, false), (51, true), (52, false), (53, false), (77, false)]
        {
            assert_eq!(is_private(passwd, groups, group, 1000), is, "{group}");
        }
        let scene = Scene::new();
        scene.mode("etc/conf", 0o664);
        if rustix::process::geteuid().is_root() {
            std::os::unix::fs::lchown(scene.at("etc/conf"), None, Some(ANOTHER)).expect("chown");
            let said = said(guard().read(&scene.at("etc/conf"), 10));
            assert!(said.contains("has mode 0664, so that its group can change what is in it"), "{said}");
            std::os::unix::fs::lchown(scene.at("etc/conf"), None, Some(0)).expect("chown");
            assert_eq!(super::tests::said(guard().read(&scene.at("etc/conf"), 10)), "read", "root's group");
        }
    }

    #[test]
    fn an_open_folder_is_a_volume_of_kubernetes_only_where_it_is_mounted_read_only() {
        let scene = Scene::new();
        symlink("v1", scene.at("etc/..data")).expect("a link");
        scene.mode("etc", 0o777);
        assert!(guard().folder(&scene.at("etc")).is_err());
    }

    /// Entries of `setfacl -m u:61234:MAY` (and the like) are judged like owners.
    #[test]
    fn whom_an_access_list_lets_write_can_change_it() {
        let user = rustix::process::geteuid().as_raw();
        let (other, group) = (Named::User(ANOTHER), Named::Group(ANOTHER));
        for (named, mask, problem) in [
            (vec![(other, 6)], 7, Some("user 61234 can change")),
            (vec![(group, 7)], 7, Some("group 61234 can change")),
            (vec![(other, 2), (group, 2)], 2, Some("user 61234 and group 61234 can change")),
            (vec![(other, 6)], 4, None),
            (vec![(other, 4), (group, 5)], 7, None),
            (vec![(Named::User(user), 7), (Named::User(0), 7), (Named::Group(0), 7)], 7, None),
        ] {
            for (name, what) in [("etc/conf", "the file "), ("etc", "the folder "), (".", "the folder ")] {
                let scene = Scene::new();
                if !testing::give(&scene.at(name), 0, &named, mask) {
                    return;
                }
                let said = said(guard().read(&scene.at("etc/conf"), 10));
                let path = scene.at(name).canonicalize().expect("it is there");
                match problem {
                    Some(problem) => {
                        let has = [what, problem, " an access control list by which ", "; fix: setfacl -x "];
                        assert!(has.iter().all(|part| said.contains(part)), "{name} {named:?}: {said}");
                        assert!(said.contains(&format!("(or `setfacl -b {}`", path.display())), "{said}");
                    }
                    None => assert_eq!(said, "read", "{name} {named:?} {mask}"),
                }
                let is_read = guard().folder(&scene.at("etc/ring")).is_ok();
                assert_eq!(is_read, problem.is_none() || name == "etc/conf", "{name} {named:?}");
            }
        }
        // With a list, the mode's group bits are the mask: here the owning group may not write …
        let scene = Scene::new();
        if user == 0 {
            std::os::unix::fs::lchown(scene.at("etc/conf"), None, Some(ANOTHER)).expect("chown");
            testing::give(&scene.at("etc/conf"), 4, &[(Named::User(0), 6)], 6);
            assert_eq!(said(guard().read(&scene.at("etc/conf"), 10)), "read");
            // … and here it may.
            testing::give(&scene.at("etc/conf"), 6, &[(Named::User(0), 6)], 6);
            assert!(said(guard().read(&scene.at("etc/conf"), 10)).contains("its group can change"));
        }
        // A new file in a folder may inherit its list, and is judged by it.
        let scene = Scene::new();
        testing::give_as("system.posix_acl_default", &scene.at("etc"), 0, &[(other, 6)], 6);
        fs::write(scene.at("etc/new"), "x").expect("a file");
        scene.mode("etc/new", 0o664);
        assert!(said(guard().read(&scene.at("etc/new"), 10)).contains("by which user 61234 can change what"));
        assert_eq!(said(guard().read(&scene.at("etc/conf"), 10)), "read");
    }

    #[test]
    fn a_way_with_a_step_that_is_not_there_is_no_good_way() {
        let scene = Scene::new();
        symlink("../gone/conf", scene.at("etc/dangling")).expect("a link");
        symlink("../gone", scene.at("etc/dangling-folder")).expect("a link");
        for path in ["gone/conf", "etc/gone", "etc/conf/below", "etc/dangling", "etc/dangling-folder/conf"] {
            let path = scene.at(path);
            let said = guard().opened(&path).expect_err("refused").to_string();
            let has =
                ["cannot tell who can change ", " cannot be checked (", "find out who moves folders there"];
            assert!(has.iter().all(|part| said.contains(part)), "{said}");
            assert!(guard().file(&path).is_err(), "{}", path.display());
            // Before the file exists, its path is checked as far as it exists.
            assert_eq!(guard().way(&path), Ok(()));
        }
        // A folder that was missing when it was checked is not read later.
        let late = guard().folder(&scene.at("gone")).expect("nothing is wrong yet");
        fs::create_dir(scene.at("gone")).expect("a folder");
        assert_eq!(late.entries().expect_err("not looked at").kind(), io::ErrorKind::NotFound);
        assert_eq!(guard().folder(&scene.at("gone")).expect("good").entries().expect("read").len(), 0);
    }

    /// Moves one of two objects to a place and back, until dropped.
    fn moving(from: PathBuf, to: PathBuf) -> (std::sync::mpsc::Sender<()>, std::thread::JoinHandle<()>) {
        let (sender, stop) = std::sync::mpsc::channel();
        let mover = std::thread::spawn(move || {
            while stop.try_recv() == Err(std::sync::mpsc::TryRecvError::Empty) {
                fs::rename(&from, &to).expect("moved");
                fs::rename(&to, &from).expect("moved back");
            }
        });
        (sender, mover)
    }

    /// The owner of a folder inside a sticky one can move it away during the check.
    #[test]
    fn a_loose_folder_that_comes_and_goes_is_never_taken_for_a_good_one() {
        let scene = Scene::new();
        scene.mode(".", 0o1777);
        scene.mode("etc", 0o777);
        let (sender, mover) = moving(scene.at("etc"), scene.at("aside"));
        for _ in 0..5000 {
            let read = guard().read(&scene.at("etc/conf"), 10);
            assert!(read.is_err(), "it was read");
        }
        drop(sender);
        mover.join().expect("moved to the end");
    }

    /// As Kubernetes does it: the link `..data` is replaced during reads.
    #[test]
    fn a_link_that_is_replaced_while_it_is_read_is_a_good_one() {
        let scene = Scene::new();
        for version in ["etc/v1", "etc/v2"] {
            fs::create_dir(scene.at(version)).expect("a folder");
            scene.mode(version, 0o755);
            fs::write(scene.at(version).join("conf"), "x").expect("a file");
        }
        symlink("v1", scene.at("etc/..data")).expect("a link");
        symlink("..data/conf", scene.at("etc/mounted")).expect("a link");
        let (sender, stop) = std::sync::mpsc::channel::<()>();
        let at = scene.at("etc");
        let swapper = std::thread::spawn(move || {
            for version in ["v1", "v2"].iter().cycle() {
                if stop.try_recv() != Err(std::sync::mpsc::TryRecvError::Empty) {
                    break;
                }
                symlink(version, at.join("..new")).expect("a link");
                fs::rename(at.join("..new"), at.join("..data")).expect("swapped");
            }
        });
        for _ in 0..2000 {
            assert_eq!(said(guard().read(&scene.at("etc/mounted"), 10)), "read");
        }
        drop(sender);
        swapper.join().expect("swapped to the end");
    }

    #[test]
    fn no_more_is_read_than_was_asked_for_and_no_pipe_is_waited_for() {
        let scene = Scene::new();
        fs::write(scene.at("etc/conf"), vec![b'x'; 100]).expect("written");
        assert_eq!(guard().read(&scene.at("etc/conf"), 10).expect("read").len(), 10);
        let pipe = scene.at("etc/pipe");
        rustix::fs::mkfifoat(rustix::fs::CWD, &pipe, 0o600.into()).expect("a pipe");
        assert!(said(guard().read(&pipe, 10)).ends_with("it is not a regular file"));
    }

    /// The other places in the program that open files, and why nothing that grants rights is read there. A
    /// new place reads with [`Guard`] or a `SecretReader`, or is listed here with its reason.
    const ELSEWHERE: &[(&str, &str)] = &[
        ("secret_file.rs", "reads secrets, with a guard"),
        ("secret_file/guarded.rs", "is the guard"),
        ("callers/key_file.rs", "is judged by SecretReader::check; what it writes lies beside it"),
        ("keyring/files.rs", "writes keys; reads them with a SecretReader"),
        ("config/load.rs", "the configuration: judged in app/reading.rs before anything of it is taken up"),
        ("cli/init.rs", "writes a new configuration"),
        ("cli/export.rs", "writes a new key pair; reads a public one with a Guard"),
        ("cli/import/ledger.rs", "says which rows are imported; judged by SecretReader::check"),
        ("cli/credential_file.rs", "writes a new client credential; reads it with a SecretReader"),
        ("store/embedded/reader.rs", "the store: sealed"),
        ("store/embedded/file.rs", "the store: sealed"),
        ("store/redis/identity.rs", "the name of a store, which grants nothing"),
        ("journal/files.rs", "the journal: sealed"),
        ("telemetry/audit/sink/datagram.rs", "sends the audit log to a socket"),
        ("telemetry/audit/sink/file.rs", "writes the audit log"),
        ("telemetry/audit/sink/rotated.rs", "reads where the chain of the audit log stands; grants nothing"),
        ("cli/audit.rs", "reads the audit log to verify it"),
        ("cli/audit_who.rs", "reads the audit log to count hand-outs; grants nothing"),
        ("listener/bind.rs", "locks the folder of a socket"),
        ("api/openapi.rs", "a test compares the API document"),
        ("app/files.rs", "checks files and reads none"),
        ("app/environment.rs", "/etc/passwd, as the system's own"),
        ("app/core.rs", "the machine's name"),
        ("system.rs", "a test's clock, which no release has"),
    ];

    #[test]
    fn every_other_place_that_opens_files_is_known() {
        const WORDS: &[&str] = &[
            "fs::read(",
            "fs::read_to_string",
            "fs::read_dir",
            "File::open(",
            "OpenOptions::new()",
            "fs::open(",
        ];
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
        let mut folders = vec![source.clone()];
        let mut opens = Vec::new();
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(folder).expect("the sources") {
                let path = entry.expect("an entry").path();
                let name = path.strip_prefix(&source).expect("below").display().to_string();
                if path.is_dir() {
                    folders.push(path);
                    continue;
                }
                let is_test =
                    ["testkit", "tests.rs", "_tests", "store/testing", "store/suite", "authority/properties"];
                if is_test.iter().any(|part| name.contains(part)) || !name.ends_with(".rs") {
                    continue;
                }
                let text = fs::read_to_string(&path).expect("text");
                let code = text.split("#[cfg(test)]\nmod tests").next().unwrap_or_default();
                if WORDS.iter().any(|word| code.contains(word)) {
                    opens.push(name);
                }
            }
        }
        opens.sort();
        let mut known: Vec<&str> = ELSEWHERE.iter().map(|(file, _)| *file).collect();
        known.sort_unstable();
        assert_eq!(opens, known, "read what grants rights with `Guard`; else say here why not");
    }
}
