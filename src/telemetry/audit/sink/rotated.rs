//! Files that were moved away from a path: `audit.jsonl.1`, `audit.jsonl-20261123-1795392000.gz`.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use crate::telemetry::audit::{unpacked, verify};

/// Most moved files that are looked at. The newest has the chain, unless it is empty.
const MOST: usize = 3;

/// Returns the chain of the last line of the newest file that was moved away from `path`.
pub(super) fn last_chain(path: &Path) -> Option<String> {
    moved(path).iter().rev().take(MOST).find_map(|path| {
        let file = File::open(path).ok()?;
        verify(unpacked(path, file)).ok()?.last.map(|last| last.chain)
    })
}

/// Returns the files moved away from `path`, the newest last.
fn moved(path: &Path) -> Vec<PathBuf> {
    let (Some(folder), Some(name)) = (path.parent(), path.file_name().and_then(|name| name.to_str())) else {
        return Vec::new();
    };
    let folder = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
    let is_moved = |other: &str| {
        other.strip_prefix(name).is_some_and(|rest| rest.starts_with('.') || rest.starts_with('-'))
    };
    let entries = std::fs::read_dir(folder).into_iter().flatten().filter_map(Result::ok);
    let mut found: Vec<(SystemTime, PathBuf)> = entries
        .filter(|entry| entry.file_name().to_str().is_some_and(is_moved))
        .filter_map(|entry| {
            let metadata = entry.metadata().ok()?;
            Some((metadata.modified().ok().filter(|_| metadata.is_file())?, entry.path()))
        })
        .collect();
    found.sort();
    found.into_iter().map(|(_, path)| path).collect()
}
