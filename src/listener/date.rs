//! The `Date` of answers that are written beside hyper.

use std::time::{Duration, UNIX_EPOCH};

use parking_lot::Mutex;

use crate::domain::time::Moment;

/// The text of `Date`, made once a second.
#[derive(Default)]
pub(super) struct Date(Mutex<Made>);

#[derive(Default)]
struct Made {
    text: String,
    /// Until when it is right, by the monotonic clock.
    until: Duration,
}

impl Date {
    /// Appends it as it is at this moment.
    pub(super) fn push(&self, out: &mut Vec<u8>, Moment { monotonic, now }: Moment) {
        let mut made = self.0.lock();
        if made.text.is_empty() || monotonic >= made.until {
            let since = Duration::from_millis(u64::try_from(now.unix_millis()).unwrap_or_default());
            made.text = httpdate::fmt_http_date(UNIX_EPOCH + since);
            made.until = monotonic + Duration::from_millis(1000 - u64::from(since.subsec_millis()));
        }
        out.extend_from_slice(made.text.as_bytes());
    }
}
