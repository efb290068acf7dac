//! Reading the file without changing it. A file that was not closed cleanly must be repaired before redb
//! reads it, so the repair goes into memory: [`Overlay`] keeps whatever is written, and the file stays as
//! it is.

use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::io;
use std::ops::Bound;

use parking_lot::Mutex;
use redb::backends::FileBackend;
use redb::{BackendError, Builder, Database, StorageBackend};

use super::EmbeddedConfig;
use super::file::{FILE_NAME, StoreIdentity, at, damaged, opening, read_identity};
use crate::store::StoreError;

/// What is written is kept in blocks of this size.
const BLOCK: usize = 4096;

/// Opens a file that must exist. Its pages are not verified. No process can open it to write meanwhile.
pub(super) fn open(config: &EmbeddedConfig) -> Result<(Database, StoreIdentity), StoreError> {
    let path = &config.directory.join(FILE_NAME);
    let file = OpenOptions::new().read(true).open(path).map_err(|error| at(path, error))?;
    let file = FileBackend::new(file).map_err(|error| opening(path, error))?;
    let overlay = Overlay::over(file).map_err(|error| at(path, error))?;
    if overlay.changed.lock().length == 0 {
        // redb would make a new store of it.
        return Err(damaged(path, "is empty"));
    }
    let mut builder = Builder::new();
    let opened = builder.set_cache_size(config.cache_bytes).create_with_backend(overlay);
    let database = opened.map_err(|error| opening(path, error))?;
    let identity = read_identity(path, &database)?;
    Ok((database, identity))
}

/// A file below, and what was written since in memory. Every lock on the file is shared.
#[derive(Debug)]
struct Overlay {
    file: FileBackend,
    changed: Mutex<Changed>,
}

#[derive(Debug)]
struct Changed {
    length: u64,
    /// As much of the file still counts.
    of_file: u64,
    /// The blocks that were written, by their number.
    blocks: BTreeMap<u64, Vec<u8>>,
}

impl Overlay {
    fn over(file: FileBackend) -> io::Result<Self> {
        let length = file.len()?;
        Ok(Overlay {
            file,
            changed: Mutex::new(Changed { length, of_file: length, blocks: BTreeMap::new() }),
        })
    }

    /// A block as it is now. What was never written is zero.
    fn block(&self, number: u64, changed: &Changed) -> io::Result<Vec<u8>> {
        if let Some(block) = changed.blocks.get(&number) {
            return Ok(block.clone());
        }
        let mut block = vec![0; BLOCK];
        let begin = number * BLOCK as u64;
        let there = changed.of_file.saturating_sub(begin).min(BLOCK as u64);
        let there = usize::try_from(there).map_err(io::Error::other)?;
        if there > 0 {
            self.file.read(begin, &mut block[..there])?;
        }
        Ok(block)
    }
}

/// The blocks that so many bytes from there on lie in: the number of each, and the part of it that is meant.
fn blocks(offset: u64, length: usize) -> impl Iterator<Item = (u64, std::ops::Range<usize>)> {
    let end = offset + length as u64;
    (offset / BLOCK as u64..end.div_ceil(BLOCK as u64)).map(move |number| {
        let begin = number * BLOCK as u64;
        let within = |at: u64| usize::try_from(at.saturating_sub(begin)).unwrap_or(BLOCK).min(BLOCK);
        (number, within(offset)..within(end))
    })
}

impl StorageBackend for Overlay {
    fn len(&self) -> io::Result<u64> {
        Ok(self.changed.lock().length)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let changed = self.changed.lock();
        if offset + out.len() as u64 > changed.length {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let mut done = 0;
        for (number, part) in blocks(offset, out.len()) {
            let block = self.block(number, &changed)?;
            let next = done + part.len();
            out[done..next].copy_from_slice(&block[part]);
            done = next;
        }
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let mut changed = self.changed.lock();
        let mut done = 0;
        for (number, part) in blocks(offset, data.len()) {
            let mut block = self.block(number, &changed)?;
            let next = done + part.len();
            block[part].copy_from_slice(&data[done..next]);
            changed.blocks.insert(number, block);
            done = next;
        }
        changed.length = changed.length.max(offset + data.len() as u64);
        Ok(())
    }

    fn set_len(&self, length: u64) -> io::Result<()> {
        let mut changed = self.changed.lock();
        if length < changed.length {
            let last = self.block(length / BLOCK as u64, &changed)?;
            let kept = usize::try_from(length % BLOCK as u64).map_err(io::Error::other)?;
            let number = length / BLOCK as u64;
            changed.blocks.retain(|one, _| *one < number);
            if kept > 0 {
                let mut cut = vec![0; BLOCK];
                cut[..kept].copy_from_slice(&last[..kept]);
                changed.blocks.insert(number, cut);
            }
            changed.of_file = changed.of_file.min(length);
        }
        changed.length = length;
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        Ok(())
    }

    fn close(&self) -> io::Result<()> {
        self.file.close()
    }

    fn try_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.file.try_lock_shared_range(start, end)
    }

    fn try_lock_shared_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.file.try_lock_shared_range(start, end)
    }

    fn lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.file.lock_shared_range(start, end)
    }

    fn lock_shared_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.file.lock_shared_range(start, end)
    }

    fn unlock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.file.unlock_range(start, end)
    }

    fn query_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.file.query_lock_range(start, end)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    #[test]
    fn what_is_written_is_read_again_and_never_reaches_the_file() {
        let mut below = tempfile::NamedTempFile::new().expect("a file");
        let content: Vec<u8> = (0..10_000_u32).map(|at| (at % 251) as u8).collect();
        below.write_all(&content).expect("written");
        let file = OpenOptions::new().read(true).open(below.path()).expect("it is there");
        let overlay = Overlay::over(FileBackend::new(file).expect("a backend")).expect("its length");
        let mut model = content.clone();
        let agrees = |model: &[u8]| {
            let mut all = vec![1; model.len()];
            overlay.read(0, &mut all).expect("read");
            assert!(all == model && overlay.len().expect("known") == model.len() as u64);
        };
        agrees(&model);
        for (offset, length) in [(4090, 10), (0, 4096), (9_990, 10), (100, 9_000), (12_000, 5)] {
            let data = vec![7; length];
            if offset + length > model.len() {
                overlay.set_len((offset + length) as u64).expect("longer");
                model.resize(offset + length, 0);
            }
            overlay.write(offset as u64, &data).expect("written");
            model[offset..offset + length].copy_from_slice(&data);
            agrees(&model);
        }
        // What was cut off is zero when it comes again.
        for length in [4_100, 20_000, 0, 5_000] {
            overlay.set_len(length as u64).expect("another length");
            model.resize(length, 0);
            agrees(&model);
        }
        assert!(overlay.read(4_999, &mut [0; 2]).is_err(), "beyond its end");
        assert_eq!(std::fs::read(below.path()).expect("it is there"), content);
    }
}
