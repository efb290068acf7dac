//! The record of a hand-out, for `benches/steps`.

use super::RoutineHandOut;
use crate::telemetry::audit::HandOutRecord;

/// Makes it.
pub fn record_of(out: &RoutineHandOut) -> HandOutRecord {
    out.record()
}
