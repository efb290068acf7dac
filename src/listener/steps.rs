//! What a listener does with a request, step by step, for `benches/steps`.

use std::mem::MaybeUninit;

use httparse::EMPTY_HEADER;

use super::date::Date;
use super::guard::Framing;
use super::{Limits, PlainHead};
use crate::domain::time::Clock;

/// Most header lines of a head that is read here.
const MOST_LINES: usize = 32;

/// The check of a connection's framing.
pub struct Framed(Framing);

impl Framed {
    /// Begins a connection.
    pub fn new(limits: &Limits) -> Self {
        Framed(Framing::new(limits.max_header_bytes, limits.max_headers))
    }

    /// Checks the bytes of one read; false for a violation.
    pub fn takes(&mut self, bytes: &[u8]) -> bool {
        self.0.take(bytes).is_ok()
    }
}

/// Reads a head, and does this with it; `None` if it is not plain.
pub fn with_head<T>(bytes: &[u8], then: impl FnOnce(&PlainHead<'_>) -> T) -> Option<T> {
    let mut lines = [const { MaybeUninit::new(EMPTY_HEADER) }; MOST_LINES];
    Some(then(&PlainHead::read(bytes, &mut lines)?))
}

/// The `Date` of answers.
#[derive(Default)]
pub struct Dates(Date);

impl Dates {
    /// Appends it.
    pub fn push(&self, out: &mut Vec<u8>, clock: &dyn Clock) {
        self.0.push(out, clock.moment());
    }
}
