//! The line of a record, for `benches/steps`.

use super::HandOutRecord;
use super::chain::{append, beginning, link};
use super::queue::Record;

/// Lines of a stream that no sink gets.
pub struct Lines {
    text: Vec<u8>,
    seq: u64,
    chain: String,
}

impl Default for Lines {
    fn default() -> Self {
        Lines { text: Vec::new(), seq: 0, chain: beginning() }
    }
}

impl Lines {
    /// Writes a record's line over the one before it, and moves the chain on.
    pub fn write(&mut self, record: &HandOutRecord) -> &[u8] {
        self.text.clear();
        self.seq += 1;
        append(&mut self.text, self.seq, &Record::HandOut(record.clone()), &mut self.chain);
        &self.text
    }

    /// Returns the chain after a line, in which its own chain stands for what was before it.
    pub fn link(&self, open: &str) -> String {
        link(&self.chain, open)
    }
}
