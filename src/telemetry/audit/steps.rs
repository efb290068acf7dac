//! The line of a record, for `benches/steps`.

use super::AuditEvent;
use super::chain::{append, beginning, link};

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
    pub fn write(&mut self, event: &AuditEvent) -> &[u8] {
        self.text.clear();
        self.seq += 1;
        append(&mut self.text, self.seq, event, &mut self.chain);
        &self.text
    }

    /// Returns the chain after a line, in which its own chain stands for what was before it.
    pub fn link(&self, open: &str) -> String {
        link(&self.chain, open)
    }
}
