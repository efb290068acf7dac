//! A trace in which a value was seen.

use crate::domain::digest::hex_digits;
use crate::domain::time::Timestamp;

/// A value that was seen in a trace.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Exemplar {
    trace: [u8; 16],
    /// The value.
    pub value: f64,
    /// When it was seen.
    pub at: Timestamp,
}

impl Exemplar {
    /// A value that was seen in this trace.
    pub fn new(trace: [u8; 16], value: f64, at: Timestamp) -> Self {
        Exemplar { trace, value, at }
    }

    /// The trace's id, as 32 hexadecimal digits.
    pub fn trace_id(&self) -> String {
        let mut digits = [0; 32];
        hex_digits(&self.trace, &mut digits).to_owned()
    }
}

/// The exemplars of one series: one for each bucket, the one without a bound last.
pub type Exemplars = Vec<Option<Exemplar>>;
