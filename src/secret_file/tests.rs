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
    assert!(SecretReader::for_owner_of(&dir.path("absent"), None).read(&dir.file("s", b"x", 0o600)).is_ok());
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
        (vec![(Named::User(6), 4)], 4, Some("by which user 6 can read or change it; fix: setfacl -x u:6 ")),
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
        for (owner, mode, file) in
            [((0, 0), 0o750, 0o600), ((5, 7), 0o750, 0o600), ((0, 7), 0o750, 0o640), ((0, 7), 0o700, 0o600)]
        {
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
