//! Wall time, monotonic time, and the port that supplies them.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::task::BoxFuture;

/// Source of time. Stored and shown instants use wall time; every measurement uses monotonic time.
pub trait Clock: Send + Sync {
    /// Returns the wall time in UTC.
    fn now(&self) -> Timestamp;
    /// Returns the time since a fixed point in this process. It never goes back.
    fn monotonic(&self) -> Duration;
    /// Returns both, by one look if the clock can.
    fn moment(&self) -> Moment {
        Moment { monotonic: self.monotonic(), now: self.now() }
    }
    /// Tells a settable clock that a peer's clock shows `at`, to the second. Other clocks ignore it.
    fn witness(&self, _at: Timestamp) {}
    /// Completes after `duration` of monotonic time.
    fn sleep(&self, duration: Duration) -> BoxFuture<'static, ()>;
}

/// A moment, by both clocks.
#[derive(Debug, Clone, Copy)]
pub struct Moment {
    /// Monotonic time.
    pub monotonic: Duration,
    /// Wall time.
    pub now: Timestamp,
}

/// An instant of wall time, to the millisecond, UTC.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Timestamp(i64);

impl Timestamp {
    /// Makes an instant from milliseconds since the Unix epoch.
    pub const fn from_unix_millis(millis: i64) -> Self {
        Timestamp(millis)
    }

    /// Makes an instant from seconds since the Unix epoch.
    pub const fn from_unix_seconds(seconds: i64) -> Self {
        Timestamp(seconds.saturating_mul(1000))
    }

    /// Returns the milliseconds since the Unix epoch.
    pub const fn unix_millis(self) -> i64 {
        self.0
    }

    /// Returns the whole seconds since the Unix epoch, rounded down.
    pub const fn unix_seconds(self) -> i64 {
        self.0.div_euclid(1000)
    }

    /// Returns this instant moved forward; saturates.
    pub fn plus(self, duration: Duration) -> Self {
        Timestamp(self.0.saturating_add(i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)))
    }

    /// Returns this instant moved back; saturates.
    pub fn minus(self, duration: Duration) -> Self {
        Timestamp(self.0.saturating_sub(i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)))
    }

    /// Returns the time from `earlier` to this instant; zero if `earlier` is later.
    pub fn since(self, earlier: Timestamp) -> Duration {
        Duration::from_millis(u64::try_from(self.0.saturating_sub(earlier.0)).unwrap_or(0))
    }

    /// Formats as RFC 3339 in UTC with whole seconds, the only form in which instants leave this process.
    pub fn rfc3339(self) -> String {
        OffsetDateTime::from_unix_timestamp(self.unix_seconds())
            .ok()
            .and_then(|instant| instant.format(&Rfc3339).ok())
            .unwrap_or_else(|| "9999-12-31T23:59:59Z".to_owned())
    }

    /// Parses an RFC 3339 instant with any offset.
    pub fn parse_rfc3339(text: &str) -> Option<Self> {
        let instant = OffsetDateTime::parse(text, &Rfc3339).ok()?;
        Some(Timestamp(i64::try_from(instant.unix_timestamp_nanos() / 1_000_000).ok()?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rfc3339_goes_both_ways_and_drops_fractions_on_the_way_out() {
        let instant = Timestamp::from_unix_millis(1_795_392_083_250);
        assert_eq!(instant.rfc3339(), "2026-11-23T00:01:23Z");
        assert_eq!(Timestamp::parse_rfc3339("2026-11-23T01:01:23.250+01:00"), Some(instant));
        assert_eq!(Timestamp::parse_rfc3339("yesterday"), None);
    }

    #[test]
    fn arithmetic_saturates_and_never_goes_negative() {
        let early = Timestamp::from_unix_seconds(10);
        let late = Timestamp::from_unix_seconds(70);
        assert_eq!(late.since(early), Duration::from_secs(60));
        assert_eq!(early.since(late), Duration::ZERO);
        assert_eq!(early.plus(Duration::MAX), Timestamp::from_unix_millis(i64::MAX));
        assert_eq!(Timestamp::from_unix_millis(i64::MIN).minus(Duration::MAX).unix_millis(), i64::MIN);
    }
}
