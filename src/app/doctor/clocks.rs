//! How far two clocks are apart, and when that matters. Pure.

use std::time::Duration;

use crate::domain::time::Timestamp;

/// A clock that is off by more is told to the operator …
const CLOCK_WARNING: Duration = Duration::from_secs(30);
/// … and with one that is off by more, assertions and `id_token`s are refused: Entra allows for five
/// minutes.
const CLOCK_ERROR: Duration = Duration::from_secs(300);

/// How far `(theirs, ours)` are apart, in milliseconds. Positive: ours is behind.
pub(super) fn apart((theirs, ours): (Timestamp, Timestamp)) -> i64 {
    theirs.unix_millis().saturating_sub(ours.unix_millis())
}

/// Whether somebody should be told.
pub(super) fn is_off(millis: i64) -> bool {
    Duration::from_millis(millis.unsigned_abs()) > CLOCK_WARNING
}

/// A duration for people.
pub(super) fn in_words(time: Duration) -> String {
    match time.as_secs() {
        seconds if seconds < 120 => format!("{seconds} seconds"),
        seconds if seconds < 7200 => format!("{} minutes", (seconds + 30) / 60),
        seconds => format!("{} hours", seconds / 3600),
    }
}

/// Whether it keeps something from working.
pub(super) fn is_badly_off(millis: i64) -> bool {
    Duration::from_millis(millis.unsigned_abs()) > CLOCK_ERROR
}
