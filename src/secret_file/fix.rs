//! The end of an error's words that corrects what they tell: a shell command, or what to do where none helps.

/// What stands before it.
pub(super) const FIX: &str = "; fix: ";
/// The mode of a file that an orchestrator mounted.
pub(super) const OF_MOUNTED: &str = "it is mounted read-only, so set its mode where it is mounted: `mode: \
    0400` in a service's `secrets` (Compose, Swarm), `defaultMode: 0400` in a pod's volume (Kubernetes; 0440 \
    with `fsGroup`)";
/// A folder in which everybody may make files.
pub(super) const OF_SHARED_FOLDER: &str =
    "put the files into a folder of their own, made with `mkdir -m 0700`";

/// An error's words, taken apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Parted<'a> {
    /// What is wrong.
    pub what: &'a str,
    /// What corrects it.
    pub fix: &'a str,
    /// True if it is about who may read or change a file.
    pub is_of_access: bool,
}

/// Takes the words of an error of this module apart, which may stand at the end of another's; `None` if no
/// correction follows them.
pub fn parted(words: &str) -> Option<Parted<'_>> {
    let (what, fix) = words.split_once(FIX)?;
    let is_of_access = ["chmod ", "chown ", "setfacl ", OF_MOUNTED, OF_SHARED_FOLDER]
        .iter()
        .any(|begin| fix.starts_with(begin));
    Some(Parted { what, fix, is_of_access })
}

/// The words of an error with what happens until it is corrected, before what corrects it.
pub fn with_meanwhile(words: &str, meanwhile: &str) -> String {
    match words.split_once(FIX) {
        None => format!("{words}; {meanwhile}"),
        Some((what, fix)) => format!("{what}; {meanwhile}{FIX}{fix}"),
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;
    use crate::secret_file::SecretFileError;
    use crate::secret_file::guarded::{Loose, What};

    #[test]
    fn whoever_may_not_read_a_file_is_told_apart_from_what_is_wrong_in_it() {
        let path = PathBuf::from("/x");
        let mode = |is_mounted| SecretFileError::Mode {
            path: path.clone(),
            mode: 0o644,
            group_reads: false,
            is_mounted,
        };
        let loose = |what, mode| Loose::Mode { what, path: path.clone(), mode };
        for (words, fix) in [
            (mode(false).to_string(), "chmod 600 /x"),
            (mode(true).to_string(), OF_MOUNTED),
            (SecretFileError::Owner { path: path.clone(), owner: 7, user: 0 }.to_string(), "chown 0 /x"),
            (loose(What::File, 0o666).to_string(), "chmod go-w /x"),
            (loose(What::Folder, 0o1777).to_string(), OF_SHARED_FOLDER),
        ] {
            let parted = parted(&words).expect("it has one");
            assert_eq!((parted.fix, parted.is_of_access), (fix, true), "{words}");
            assert!(parted.what.contains("/x"), "{words}");
        }
        let shape = parted("it is UTF-16; fix: iconv -f UTF-16").expect("it has one");
        assert!(!shape.is_of_access && shape.what == "it is UTF-16");
        assert_eq!(parted("there is none"), None);
    }
}
