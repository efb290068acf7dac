//! Whether the disk has room for records that may be refused.

use parking_lot::Mutex;
use std::path::PathBuf;
use std::time::Duration;

/// Room that is kept for connections: tens of thousands of commits …
const KEPT_BYTES: u64 = 64 * 1024 * 1024;
/// … or, on a small disk, this part of it.
const KEPT_PART: u64 = 10;
/// How often the disk is asked.
const LOOK: Duration = Duration::from_secs(5);

/// What is known of a disk.
pub(super) struct Room {
    directory: PathBuf,
    /// The time of the last check, and whether there was room.
    seen: Mutex<Option<(Duration, bool)>>,
}

impl Room {
    pub(super) fn on_the_disk_of(directory: PathBuf) -> Self {
        Room { directory, seen: Mutex::default() }
    }

    /// A disk that cannot be asked counts as one with room.
    pub(super) fn look(&self, monotonic: Duration) -> bool {
        let mut seen = self.seen.lock();
        if let Some((at, room)) = *seen
            && monotonic.saturating_sub(at) < LOOK
        {
            return room;
        }
        let room = rustix::fs::statvfs(&self.directory)
            .map_or(true, |disk| is_enough(disk.f_bavail, disk.f_frsize, disk.f_blocks));
        *seen = Some((monotonic, room));
        room
    }
}

fn is_enough(available: u64, block: u64, blocks: u64) -> bool {
    is_enough_room(available.saturating_mul(block), blocks.saturating_mul(block))
}

/// Whether a disk with so many free bytes, of so many in all, has room for records that may be refused. A
/// file system that counts nothing says nothing.
pub fn is_enough_room(free: u64, all: u64) -> bool {
    all == 0 || free >= KEPT_BYTES.min(all / KEPT_PART)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_with_little_left_has_no_room() {
        for (available, block, blocks, enough) in [
            (16_384, 4096, 1_000_000, true),
            (16_383, 4096, 1_000_000, false),
            (0, 4096, 1_000_000, false),
            (0, 0, 0, true),
            (u64::MAX, u64::MAX, 1, true),
            // 32 MiB in all.
            (820, 4096, 8192, true),
            (819, 4096, 8192, false),
        ] {
            assert_eq!(is_enough(available, block, blocks), enough, "{available} x {block}");
        }
        let folder = tempfile::tempdir().expect("a folder");
        let gone = Room::on_the_disk_of(folder.path().join("gone"));
        assert!(gone.look(Duration::ZERO), "what does not tell has room");
        let room = Room::on_the_disk_of(folder.path().to_owned());
        *room.seen.lock() = Some((Duration::ZERO, false));
        assert!(!room.look(LOOK - Duration::from_nanos(1)), "not asked for each session");
    }
}
