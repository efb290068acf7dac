//! The guide's configuration files, for the servers of a test.

use std::os::unix::fs::{PermissionsExt as _, chown};
use std::path::{Path, PathBuf};

use super::guide;

/// Whom root lets the mail programs run as: some refuse to deliver as root.
const NOBODY: u32 = 65_534;

/// Returns the user under whom the mail programs run: nobody if root runs the test, else the user that does.
pub(super) fn mail_user() -> u32 {
    match rustix::process::getuid().as_raw() {
        0 => NOBODY,
        own => own,
    }
}

/// Files of the guide, with its names, ports and paths replaced by a test's.
pub(super) struct Files {
    replaced: Vec<(String, String)>,
}

impl Files {
    /// Each pair is a text of the guide and what stands in its place.
    pub(super) fn new(replaced: &[(&str, String)]) -> Files {
        Files { replaced: replaced.iter().map(|(of, by)| ((*of).to_owned(), by.clone())).collect() }
    }

    /// Returns the content of a file, which a block of the guide shows with its name in the first line.
    pub(super) fn content(&self, name: &str) -> String {
        let (guide, head) = (guide(), format!("# {name}\n"));
        let blocks: Vec<&str> =
            guide.split("\n```").filter_map(|part| part.split_once('\n')).map(|(_, block)| block).collect();
        let mut content: String = blocks.iter().filter_map(|block| block.strip_prefix(&*head)).collect();
        assert!(!content.is_empty(), "the guide has no {name}");
        for (of, by) in &self.replaced {
            content = content.replace(of.as_str(), by);
        }
        content + "\n"
    }

    /// Writes a file below the mail user's home, for that user alone.
    pub(super) fn write_home(&self, home: &Path, name: &str) -> PathBuf {
        let path = home.join(name.strip_prefix("~/").expect("a file of the user"));
        for folder in path.ancestors().skip(1).take_while(|folder| folder.starts_with(home)) {
            std::fs::create_dir_all(folder).expect("a folder");
            give(folder);
        }
        std::fs::write(&path, self.content(name)).expect("written");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).expect("chmod");
        give(&path);
        path
    }
}

/// Gives a file to the mail user.
pub(super) fn give(path: &Path) {
    chown(path, Some(mail_user()), None).expect("chown");
}
