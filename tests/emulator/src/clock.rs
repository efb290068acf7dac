//! The emulator's clock: the real one plus an offset that tests move forward.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use time::OffsetDateTime;
use time::macros::format_description;

/// An instant of the emulator's clock, in milliseconds since 1970.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Moment(u64);

impl Moment {
    #[cfg(test)]
    pub(crate) const BEGINNING: Self = Self(0);

    pub(crate) fn plus(self, by: Duration) -> Self {
        Self(self.0.saturating_add(u64::try_from(by.as_millis()).unwrap_or(u64::MAX)))
    }

    /// Whole seconds since 1970, as tokens carry them.
    pub(crate) fn secs(self) -> u64 {
        self.0 / 1000
    }

    /// `2026-08-01 12:00:00Z`, as error bodies carry it.
    pub(crate) fn in_error_body(self) -> String {
        self.format(format_description!("[year]-[month]-[day] [hour]:[minute]:[second]Z"))
    }

    /// `Sat, 01 Aug 2026 12:00:00 GMT`, as HTTP headers carry it.
    pub(crate) fn in_header(self) -> String {
        self.format(format_description!(
            "[weekday repr:short], [day] [month repr:short] [year] [hour]:[minute]:[second] GMT"
        ))
    }

    pub(crate) fn system_time(self) -> SystemTime {
        UNIX_EPOCH + Duration::from_millis(self.0)
    }

    fn format(self, how: &[time::format_description::BorrowedFormatItem<'_>]) -> String {
        i64::try_from(self.secs())
            .ok()
            .and_then(|secs| OffsetDateTime::from_unix_timestamp(secs).ok())
            .and_then(|at| at.format(how).ok())
            .unwrap_or_else(|| "out of range".to_owned())
    }
}

/// Real time plus whatever [`Clock::advance`] added.
#[derive(Debug, Default)]
pub(crate) struct Clock {
    offset: Duration,
}

impl Clock {
    pub(crate) fn advance(&mut self, by: Duration) {
        self.offset = self.offset.saturating_add(by);
    }

    #[expect(clippy::disallowed_methods, reason = "this file is where the emulator reads the real clock")]
    pub(crate) fn now(&self) -> Moment {
        let real = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Moment(0).plus(real).plus(self.offset)
    }
}
