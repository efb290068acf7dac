//! Times in the fields of an answer.

use std::time::Duration;

use time::PrimitiveDateTime;
use time::format_description::BorrowedFormatItem;
use time::macros::format_description;

use crate::domain::time::Timestamp;

/// Shortest and longest wait that an answer may ask for, in seconds.
const RETRY_AFTER_BOUNDS: (u64, u64) = (1, 3600);
const IMF_FIXDATE: &[BorrowedFormatItem<'static>] =
    format_description!("[weekday repr:short], [day] [month repr:short] [year] [hour]:[minute]:[second] GMT");

/// Parses an HTTP date in its one current form (RFC 9110 §5.6.7).
pub(crate) fn http_date(value: &str) -> Option<Timestamp> {
    let date = PrimitiveDateTime::parse(value, IMF_FIXDATE).ok()?.assume_utc();
    Some(Timestamp::from_unix_seconds(date.unix_timestamp()))
}

/// Parses `Retry-After`: seconds or an HTTP date (RFC 9110 §10.2.3), from one second to an hour.
pub(crate) fn retry_after(value: &str, now: Timestamp) -> Option<Duration> {
    let value = value.trim();
    let seconds = if !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_digit()) {
        value.parse().unwrap_or(u64::MAX)
    } else {
        http_date(value)?.since(now).as_secs()
    };
    Some(Duration::from_secs(seconds.clamp(RETRY_AFTER_BOUNDS.0, RETRY_AFTER_BOUNDS.1)))
}
