//! The one rule for what grants rights (the configuration, keyrings, callers' and credentials' folders, certificates that are
//! trusted): nobody but root and the daemon's user can have changed it.
//!
//! A file counts as changed by whoever can write to it, to the folder that it lies in, or to any folder above that: a folder that is
//! renamed takes its files along. So every folder on the way is looked at, behind every link, up to `/`. In a folder with the
//! sticky bit (`/tmp`) others can only take away what is theirs, so it may be on the way; it may not be one whose every file
//! counts ([`Guard::folder`]).
//!
//! A group may write where it has nobody in it but root and the daemon's user, as on systems where each user has a group
//! of its own; and root's group may. The mount point of a Kubernetes volume is open to everyone by its mode, but it is mounted
//! read-only, and its files are changed from the outside alone.
//!
//! What is read goes through here: [`GuardedFolder`] and the content of a file come from a [`Guard`] only, and a test
//! (at the foot) knows every other place in the program that opens files.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::fs::{self, File, Metadata};
use std::io::{self, Read as _};
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};

use rustix::fs::{OFlags, StatVfsMountFlags};

/// Links on one way; the kernel follows no more.
const MOST_LINKS: usize = 40;
/// `/etc/passwd` and `/etc/group` are far smaller.
const LARGEST_LIST: u64 = 1024 * 1024;

/// That somebody else can change what grants rights. The words are the same for everything that is reached through the same
/// folder.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Loose {
    /// It belongs to somebody else.
    #[error("the {what} {} belongs to user {owner}, who can change {}; fix: chown {user} {}", path.display(), what.its(), path.display())]
    Owner {
        /// What it is.
        what: What,
        /// Which.
        path: PathBuf,
        /// Whose it is.
        owner: u32,
        /// The daemon's user id.
        user: u32,
    },
    /// Others may write to it.
    #[error("the {what} {} has mode {mode:04o}, so that {} can change {}; fix: {}", path.display(), who(*mode), what.its(), mode_fix(*what, path, *mode))]
    Mode {
        /// What it is.
        what: What,
        /// Which.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
}

/// What somebody else can change.
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
        (What::Folder, 0o1000) => {
            "put the files into a folder of their own, made with `mkdir -m 0700`".to_owned()
        }
        _ => format!("chmod go-w {}", path.display()),
    }
}

/// Why a guarded file or folder was not read.
#[derive(Debug, thiserror::Error)]
pub enum Unread {
    /// Somebody else can change it.
    #[error(transparent)]
    Loose(#[from] Loose),
    /// It cannot be read, or is no regular file.
    #[error("cannot read {}: {source}", path.display())]
    Io {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// Looks at what grants rights, for one daemon's user.
#[derive(Debug, Clone, Copy)]
pub struct Guard {
    user: u32,
}

/// A folder whose every file counts, and into which nobody else can have put one.
pub struct GuardedFolder {
    path: PathBuf,
}

impl GuardedFolder {
    /// The paths of what is in it, in no order.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn entries(&self) -> io::Result<Vec<PathBuf>> {
        fs::read_dir(&self.path)?.map(|entry| Ok(entry?.path())).collect()
    }

    /// Its path, as it was given.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Guard {
    /// For a daemon of this user.
    pub fn new(user: u32) -> Self {
        Guard { user }
    }

    /// A folder, if nobody else can have put anything into it. One that is not there is told when it is read.
    ///
    /// # Errors
    /// Somebody else can.
    pub fn folder(&self, path: &Path) -> Result<GuardedFolder, Loose> {
        self.walk(path, true)?;
        Ok(GuardedFolder { path: path.to_owned() })
    }

    /// Looks at every folder on the way to a path, and not at the file at its end. What is not there is no mistake here.
    ///
    /// # Errors
    /// The first one that somebody else can change.
    pub fn way(&self, path: &Path) -> Result<(), Loose> {
        self.walk(path, false)
    }

    /// Looks at a file that has been opened by this path, and at the way to it.
    ///
    /// # Errors
    /// Somebody else can change it.
    pub fn file(&self, path: &Path, found: &Metadata) -> Result<(), Loose> {
        self.way(path)?;
        if found.is_file() { self.judge(What::File, path, found, false) } else { Ok(()) }
    }

    /// What is in a file that need be no secret, at most so many bytes of it.
    ///
    /// # Errors
    /// It cannot be read, is no regular file, or somebody else can change it.
    pub fn read(&self, path: &Path, at_most: usize) -> Result<Vec<u8>, Unread> {
        let io = |source| Unread::Io { path: path.to_owned(), source };
        // Not to wait for a writer, should it be a pipe.
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC | OFlags::NOCTTY;
        let opened = rustix::fs::open(path, flags, rustix::fs::Mode::empty());
        let file = File::from(opened.map_err(|error| io(error.into()))?);
        let found = file.metadata().map_err(io)?;
        if !found.is_file() {
            return Err(io(io::Error::other("it is not a regular file")));
        }
        self.file(path, &found)?;
        let mut content = Vec::new();
        file.take(at_most as u64).read_to_end(&mut content).map_err(io)?;
        Ok(content)
    }

    fn walk(&self, path: &Path, every_file_counts: bool) -> Result<(), Loose> {
        // What cannot be looked at cannot be opened either, and that says why.
        let Ok(path) = std::path::absolute(path) else { return Ok(()) };
        let mut at = PathBuf::from("/");
        let mut left = steps(&path);
        let mut links = 0;
        if let Ok(root) = fs::symlink_metadata(&at) {
            self.judge_folder(&at, &root, every_file_counts && left.is_empty())?;
        }
        while let Some(step) = left.pop_front() {
            if step == ".." {
                at.pop();
                continue;
            }
            let next = at.join(&step);
            let Ok(found) = fs::symlink_metadata(&next) else { return Ok(()) };
            if found.is_symlink() {
                links += 1;
                let Ok(target) = fs::read_link(&next) else { return Ok(()) };
                if links > MOST_LINKS {
                    return Ok(());
                }
                // Whoever owns a link in a sticky folder can put another one in its place; in any other folder the folder decides.
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
        Ok(())
    }

    fn judge_folder(&self, path: &Path, found: &Metadata, every_file_counts: bool) -> Result<(), Loose> {
        self.judge(What::Folder, path, found, !every_file_counts)
    }

    fn judge_owner(&self, what: What, path: &Path, found: &Metadata) -> Result<(), Loose> {
        match found.uid() {
            owner if owner == 0 || owner == self.user => Ok(()),
            owner => Err(Loose::Owner { what, path: path.to_owned(), owner, user: self.user }),
        }
    }

    fn judge(&self, what: What, path: &Path, found: &Metadata, may_be_sticky: bool) -> Result<(), Loose> {
        self.judge_owner(what, path, found)?;
        let mode = found.mode() & 0o1777;
        if mode & 0o022 == 0 || may_be_sticky && what == What::Folder && mode & 0o1000 != 0 {
            return Ok(());
        }
        let by_group_alone = mode & 0o002 == 0;
        let is_ours = || by_group_alone && (found.gid() == 0 || is_private_here(found.gid(), self.user));
        if is_ours() || what == What::Folder && is_volume_of_kubernetes(path, found) {
            return Ok(());
        }
        Err(Loose::Mode { what, path: path.to_owned(), mode })
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

/// Whether it is where Kubernetes has mounted a ConfigMap, a Secret or a projected volume: a mount of its own, read-only here, of
/// root, with root's link `..data`. (That it is read-only says nothing alone: under systemd's `ProtectSystem=strict` everything is,
/// and still others write to it.)
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

/// Whether a group is known, and nobody is in it but root and this user.
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
        // A folder that everyone may write to and nobody can take another's file from.
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
            return; // only root gives files away
        }
        let give = |name: &str, to| std::os::unix::fs::lchown(scene.at(name), Some(to), None).expect("chown");
        let read = || said(guard().read(&scene.at("etc/conf"), 10));
        for name in ["etc/conf", "etc", "."] {
            give(name, ANOTHER);
            assert!(read().contains("belongs to user 61234, who can change"), "{name}: {}", read());
            // The daemon's own is right.
            assert_eq!(said(Guard::new(ANOTHER).read(&scene.at("etc/conf"), 10)), "read");
            give(name, 0);
        }
        // Another's link in a sticky folder leads where he likes.
        symlink("conf", scene.at("etc/link")).expect("a link");
        give("etc/link", ANOTHER);
        assert_eq!(said(guard().read(&scene.at("etc/link"), 10)), "read");
        scene.mode("etc", 0o1777);
        assert!(said(guard().read(&scene.at("etc/link"), 10)).contains("who can change where it leads"));
    }

    #[test]
    fn a_group_may_write_where_it_is_the_user_s_own() {
        let passwd =
            "root:x:0:0::/root:/bin/sh\nme:x:1000:1000::/:/x\nyou:x:1001:1001::/:/x\nit:x:1002:50::/:/x\n";
        let groups = "root:x:0:\nme:x:1000:\nyou:x:1001:me\nstaff:x:50:\nadm:x:51:root,me\nops:x:52:me,you\nodd:x:53:gone\n";
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

    #[test]
    fn no_more_is_read_than_was_asked_for_and_no_pipe_is_waited_for() {
        let scene = Scene::new();
        fs::write(scene.at("etc/conf"), vec![b'x'; 100]).expect("written");
        assert_eq!(guard().read(&scene.at("etc/conf"), 10).expect("read").len(), 10);
        let pipe = scene.at("etc/pipe");
        rustix::fs::mkfifoat(rustix::fs::CWD, &pipe, 0o600.into()).expect("a pipe");
        assert!(said(guard().read(&pipe, 10)).ends_with("it is not a regular file"));
    }

    /// Where the program opens files by itself, and why nothing that grants rights is read there. Whoever adds a place reads with
    /// [`Guard`] or a `SecretReader`, or says here why not.
    const ELSEWHERE: &[(&str, &str)] = &[
        ("secret_file.rs", "reads secrets, with a guard"),
        ("secret_file/guarded.rs", "is the guard"),
        ("callers/key_file.rs", "is judged by SecretReader::check; what it writes lies beside it"),
        ("keyring/files.rs", "writes keys; reads them with a SecretReader"),
        ("config/load.rs", "the configuration: judged in app/reading.rs before anything of it is taken up"),
        ("cli/init.rs", "writes a new configuration"),
        ("store/embedded.rs", "the store: sealed"),
        ("store/redis/identity.rs", "the name of a store, which grants nothing"),
        ("journal/files.rs", "the journal: sealed"),
        ("telemetry/audit.rs", "writes the audit log"),
        ("listener/bind.rs", "locks the folder of a socket"),
        ("app/files.rs", "looks at files and reads none"),
        ("app/mod.rs", "/etc/passwd, as the system's own"),
        ("app/keyring.rs", "the machine's name"),
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
