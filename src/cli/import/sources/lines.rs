//! A file of lines. One of any size is read line by line, in one buffer that is wiped.

use std::fs::File;
use std::io::{self, Read as _};
use std::ops::Range;

use zeroize::Zeroizing;

use super::Rows;
use crate::cli::Failure;
use crate::cli::import::row::{Foreign, Row};

/// Longest line. A grant is a few thousand bytes; a request's body may have 64 KiB.
pub(super) const LONGEST: usize = 64 * 1024;

/// How much is read at a time, beside the rest of a line.
const PIECE: usize = 128 * 1024;

/// The lines of a file.
pub(super) struct Lines<R> {
    file: File,
    /// Reads what stands on a line.
    reader: R,
    /// How many lines were read.
    line: u64,
    /// It never grows, so that no copy is left in freed memory.
    buffer: Zeroizing<Vec<u8>>,
    /// What of the buffer was read from the file and is not used yet.
    unused: Range<usize>,
}

/// What stands on a line.
enum Line {
    /// This part of the buffer.
    Text(Range<usize>),
    /// More than a line may have.
    TooLong,
}

impl<R> Lines<R> {
    /// Reads a file, each line with this reader.
    pub(super) fn new(file: File, reader: R) -> Self {
        Lines { file, reader, line: 0, buffer: Zeroizing::new(vec![0; LONGEST + PIECE]), unused: 0..0 }
    }

    /// Returns the next line that is not empty, with its number.
    fn line(&mut self) -> Result<Option<(u64, Line)>, Failure> {
        let mut is_too_long = false;
        loop {
            let Range { start, end } = self.unused;
            if let Some(length) = self.buffer[start..end].iter().position(|byte| *byte == b'\n') {
                self.unused.start = start + length + 1;
                self.line += 1;
                if is_too_long || length > LONGEST {
                    return Ok(Some((self.line, Line::TooLong)));
                }
                if !self.buffer[start..start + length].trim_ascii().is_empty() {
                    return Ok(Some((self.line, Line::Text(start..start + length))));
                }
                continue;
            }
            if end - start > LONGEST {
                // It is read to its end all the same.
                is_too_long = true;
                self.unused = 0..0;
            }
            if self.read_on()? > 0 {
                continue;
            }
            let rest = std::mem::replace(&mut self.unused, 0..0);
            if is_too_long || !self.buffer[rest.clone()].trim_ascii().is_empty() {
                self.line += 1;
                let text = Line::Text(rest);
                return Ok(Some((self.line, if is_too_long { Line::TooLong } else { text })));
            }
            return Ok(None);
        }
    }

    /// Reads more behind what is not used yet. Returns how much; 0 at the end of the file.
    fn read_on(&mut self) -> Result<usize, Failure> {
        self.buffer.copy_within(self.unused.clone(), 0);
        self.unused = 0..self.unused.len();
        loop {
            match self.file.read(&mut self.buffer[self.unused.end..]) {
                Ok(count) => {
                    self.unused.end += count;
                    return Ok(count);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(Failure::failed(format!("cannot read the file on: {error}"))),
            }
        }
    }
}

impl<R: FnMut(&[u8]) -> Result<Foreign, String>> Rows for Lines<R> {
    fn next(&mut self) -> Result<Option<Row>, Failure> {
        let Some((place, line)) = self.line()? else { return Ok(None) };
        let grant = match line {
            Line::TooLong => Err(format!("the line has more than {LONGEST} bytes")),
            Line::Text(text) => Ok(text),
        };
        let grant = grant.and_then(|text| (self.reader)(&self.buffer[text]));
        Ok(Some(Row { place, grant }))
    }
}
