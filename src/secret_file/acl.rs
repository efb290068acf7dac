//! Access control lists (POSIX ACLs) of files: named users and groups who may do more than others.
//!
//! In a file with a list, the group bits of the mode are the list's mask: the most that anybody but the owner
//! may do. A mode without group write permission therefore means the same with a list as without one, and
//! only a mode with it requires reading the list.

use std::fmt;
use std::io;
use std::os::fd::AsFd;
use std::path::Path;

use rustix::io::Errno;

/// Name of the attribute that holds the list of a file or folder.
pub(super) const NAME: &str = "system.posix_acl_access";
/// The only existing version of its format.
const VERSION: u32 = 2;
/// Size of the header, and of each entry. (`acl(5)` and the kernel's `posix_acl_xattr.h`.)
const HEADER: usize = 4;
const ENTRY: usize = 8;
/// Size of the largest attribute.
const LARGEST: usize = 64 * 1024;

const READ: u16 = 4;
const WRITE: u16 = 2;

/// A user or group that a list names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Named {
    /// A user id.
    User(u32),
    /// A group id.
    Group(u32),
}

impl Named {
    /// Formats it as an argument of `setfacl -x`.
    fn entry(self) -> String {
        match self {
            Named::User(id) => format!("u:{id}"),
            Named::Group(id) => format!("g:{id}"),
        }
    }
}

impl fmt::Display for Named {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Named::User(id) => write!(f, "user {id}"),
            Named::Group(id) => write!(f, "group {id}"),
        }
    }
}

/// Formats several of them for a sentence.
pub(super) fn in_words(named: &[Named]) -> String {
    let words: Vec<String> = named.iter().map(ToString::to_string).collect();
    words.join(" and ")
}

/// Returns the command that removes these entries from the list, or the whole list.
pub(super) fn fix(named: &[Named], path: &Path) -> String {
    let entries: Vec<String> = named.iter().map(|named| named.entry()).collect();
    let path = path.display();
    format!("setfacl -x {} {path} (or `setfacl -b {path}` to remove the whole list)", entries.join(","))
}

/// A list, as far as it says more than the mode.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct AccessList {
    named: Vec<(Named, u16)>,
    /// Permissions of the owning group.
    group: u16,
}

impl AccessList {
    /// Reads the list of a file or folder, following links. `None` if it has none, or its file system does
    /// not support lists.
    pub(super) fn of_path(path: &Path) -> io::Result<Option<AccessList>> {
        let mut bytes = vec![0; LARGEST];
        read(rustix::fs::getxattr(path, NAME, &mut bytes[..]), &bytes)
    }

    /// Reads the list of an open file.
    pub(super) fn of_file(file: impl AsFd) -> io::Result<Option<AccessList>> {
        let mut bytes = vec![0; LARGEST];
        read(rustix::fs::fgetxattr(file, NAME, &mut bytes[..]), &bytes)
    }

    /// Returns the entries that may write and are not `ours`.
    pub(super) fn writers_but(&self, ours: impl Fn(Named) -> bool) -> Vec<Named> {
        self.who_may_but(WRITE, ours)
    }

    /// Returns the entries that may read or write and are not `ours`.
    pub(super) fn readers_but(&self, ours: impl Fn(Named) -> bool) -> Vec<Named> {
        self.who_may_but(READ | WRITE, ours)
    }

    /// Returns true if the owning group may write.
    pub(super) fn group_writes(&self) -> bool {
        self.group & WRITE != 0
    }

    fn who_may_but(&self, what: u16, ours: impl Fn(Named) -> bool) -> Vec<Named> {
        let may = self.named.iter().filter(|(_, may)| may & what != 0);
        may.map(|(named, _)| *named).filter(|named| !ours(*named)).collect()
    }

    /// Parses a list in the kernel's format; `None` if it is invalid.
    fn parse(bytes: &[u8]) -> Option<AccessList> {
        let (version, entries) = bytes.split_first_chunk::<HEADER>()?;
        if u32::from_le_bytes(*version) != VERSION || entries.len() % ENTRY != 0 {
            return None;
        }
        let (mut named, mut group, mut mask) = (Vec::new(), 0, READ | WRITE | 1);
        for entry in entries.chunks_exact(ENTRY) {
            let two = |at: usize| u16::from_le_bytes([entry[at], entry[at + 1]]);
            let (tag, may) = (two(0), two(2));
            let id = u32::from_le_bytes([entry[4], entry[5], entry[6], entry[7]]);
            match tag {
                0x02 => named.push((Named::User(id), may)),
                0x04 => group = may,
                0x08 => named.push((Named::Group(id), may)),
                0x10 => mask = may,
                // The owner's and others' permissions equal those in the mode.
                0x01 | 0x20 => {}
                _ => return None,
            }
        }
        let named = named.into_iter().map(|(named, may)| (named, may & mask)).collect();
        Some(AccessList { named, group: group & mask })
    }
}

fn read(length: rustix::io::Result<usize>, bytes: &[u8]) -> io::Result<Option<AccessList>> {
    match length {
        Ok(length) => match AccessList::parse(&bytes[..length]) {
            Some(list) => Ok(Some(list)),
            None => Err(io::Error::other("its access control list cannot be read")),
        },
        // There is no list, or the file system does not support them.
        Err(Errno::NODATA | Errno::OPNOTSUPP) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Removes the list that a new file inherited from its folder.
pub(super) fn remove(file: impl AsFd) -> io::Result<()> {
    match rustix::fs::fremovexattr(file, NAME) {
        Ok(()) | Err(Errno::NODATA | Errno::OPNOTSUPP) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// Makes lists for tests.
#[cfg(test)]
pub(super) mod testing {
    use std::path::Path;

    use super::{NAME, Named, VERSION};

    /// Gives a file or folder a list: all permissions for its owner, none for others, and these entries.
    /// Prints a note and returns false if the file system does not support lists.
    pub(in crate::secret_file) fn give(path: &Path, group: u16, named: &[(Named, u16)], mask: u16) -> bool {
        give_as(NAME, path, group, named, mask)
    }

    #[expect(clippy::print_stderr, reason = "a test that tests nothing says so")]
    pub(in crate::secret_file) fn give_as(
        name: &str,
        path: &Path,
        group: u16,
        named: &[(Named, u16)],
        mask: u16,
    ) -> bool {
        match rustix::fs::setxattr(path, name, &bytes(group, named, mask), rustix::fs::XattrFlags::empty()) {
            Ok(()) => true,
            Err(rustix::io::Errno::OPNOTSUPP) => {
                eprintln!("NOT TESTED: the file system of {} knows no access control lists", path.display());
                false
            }
            Err(error) => panic!("{}: {error}", path.display()),
        }
    }

    pub(in crate::secret_file) fn bytes(group: u16, named: &[(Named, u16)], mask: u16) -> Vec<u8> {
        let anybody = u32::MAX;
        let mut entries: Vec<(u16, u16, u32)> = vec![(0x01, 7, anybody)];
        entries.extend(named.iter().filter_map(|(named, may)| match named {
            Named::User(id) => Some((0x02, *may, *id)),
            Named::Group(_) => None,
        }));
        entries.push((0x04, group, anybody));
        entries.extend(named.iter().filter_map(|(named, may)| match named {
            Named::User(_) => None,
            Named::Group(id) => Some((0x08, *may, *id)),
        }));
        entries.extend([(0x10, mask, anybody), (0x20, 0, anybody)]);
        let mut bytes = VERSION.to_le_bytes().to_vec();
        for (tag, may, id) in entries {
            bytes.extend(tag.to_le_bytes());
            bytes.extend(may.to_le_bytes());
            bytes.extend(id.to_le_bytes());
        }
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_says_who_may_do_what_within_its_mask() {
        let nobody = |_: Named| false;
        let (user, group) = (Named::User(65_534), Named::Group(50));
        for (named, mask, writers, readers) in [
            (vec![(user, 6)], 6, vec![user], vec![user]),
            (vec![(user, 6)], 4, vec![], vec![user]),
            (vec![(user, 6), (group, 2)], 7, vec![user, group], vec![user, group]),
            (vec![(user, 4), (group, 6)], 6, vec![group], vec![user, group]),
            (vec![(user, 1), (group, 0)], 7, vec![], vec![]),
            (vec![(user, 7)], 0, vec![], vec![]),
        ] {
            let list = AccessList::parse(&testing::bytes(6, &named, mask)).expect("a list");
            assert_eq!(
                (list.writers_but(nobody), list.readers_but(nobody)),
                (writers, readers),
                "{named:?} {mask}"
            );
            assert_eq!(list.group_writes(), mask & WRITE != 0, "{mask}");
            assert_eq!(list.writers_but(|_| true), []);
        }
        // Without a mask, every entry counts in full.
        let whole = testing::bytes(6, &[(user, 6)], 0);
        let mut without: Vec<u8> = whole[..HEADER].to_vec();
        for entry in whole[HEADER..].chunks(ENTRY).filter(|entry| entry[0] != 0x10) {
            without.extend(entry);
        }
        assert_eq!(AccessList::parse(&without).expect("a list").writers_but(nobody), [user]);
    }

    #[test]
    fn what_is_no_list_of_the_known_format_is_none() {
        let good = testing::bytes(4, &[(Named::User(1), 4)], 4);
        let changed = |at: usize, to: u8| {
            let mut bytes = good.clone();
            bytes[at] = to;
            bytes
        };
        for bad in
            [vec![], good[..3].to_vec(), good[..good.len() - 1].to_vec(), changed(0, 3), changed(4, 0x40)]
        {
            assert_eq!(AccessList::parse(&bad), None, "{bad:?}");
        }
        assert!(AccessList::parse(&good).is_some() && AccessList::parse(&good[..HEADER]).is_some());
    }

    #[test]
    fn the_commands_name_each_entry() {
        let both = [Named::User(7), Named::Group(50)];
        assert_eq!(in_words(&both), "user 7 and group 50");
        assert_eq!(
            fix(&both, Path::new("/etc/x")),
            "setfacl -x u:7,g:50 /etc/x (or `setfacl -b /etc/x` to remove the whole list)"
        );
    }
}
