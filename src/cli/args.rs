//! Argument types: a wrong argument is reported before anything else happens.

use std::time::Duration;

use crate::domain::handle::{HandleId, InvalidHandleId};
use crate::domain::id::{AppName, CallerName, ConnectionName, InvalidName};
use crate::domain::time::Timestamp;

/// An app and one of its connections.
#[derive(clap::Args, Debug, Clone)]
pub(super) struct ConnectionArgs {
    /// The app, as in [apps.APP]
    #[arg(value_name = "APP", value_parser = app_name)]
    pub(super) app: AppName,
    /// The connection's name
    #[arg(value_name = "CONNECTION", value_parser = connection_name)]
    pub(super) connection: ConnectionName,
}

/// Like [`ConnectionArgs`], for an existing connection, whose name may be older than today's rules.
#[derive(clap::Args, Debug, Clone)]
pub(super) struct StoredConnectionArgs {
    /// The app, as in [apps.APP]
    #[arg(value_name = "APP", value_parser = app_name)]
    pub(super) app: AppName,
    /// The connection's name
    #[arg(value_name = "CONNECTION", value_parser = stored_connection_name)]
    pub(super) connection: ConnectionName,
}

pub(super) fn app_name(text: &str) -> Result<AppName, InvalidName> {
    AppName::parse(text)
}

pub(super) fn connection_name(text: &str) -> Result<ConnectionName, InvalidName> {
    ConnectionName::parse(text)
}

pub(super) fn stored_connection_name(text: &str) -> Result<ConnectionName, InvalidName> {
    ConnectionName::stored(text)
}

pub(super) fn caller_name(text: &str) -> Result<CallerName, InvalidName> {
    CallerName::parse(text)
}

pub(super) fn handle_id(text: &str) -> Result<HandleId, InvalidHandleId> {
    HandleId::parse(text)
}

/// Error: the text is no duration.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub(super) enum NoDuration {
    #[error("must be a number with a unit, such as 90s, 30m, 12h or 365d")]
    Form,
    #[error("must be longer than 0")]
    Zero,
}

/// Parses `90s`, `30m`, `12h` or `365d`; zero is refused.
pub(super) fn duration(text: &str) -> Result<Duration, NoDuration> {
    let (digits, unit) = text.split_at_checked(text.len().saturating_sub(1)).ok_or(NoDuration::Form)?;
    let seconds: u64 = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 3600,
        "d" => 86_400,
        _ => return Err(NoDuration::Form),
    };
    if !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(NoDuration::Form);
    }
    let number: u64 = digits.parse().map_err(|_| NoDuration::Form)?;
    match number.checked_mul(seconds) {
        Some(0) => Err(NoDuration::Zero),
        Some(total) => Ok(Duration::from_secs(total)),
        None => Err(NoDuration::Form),
    }
}

/// Parses a duration, or whole seconds as in the API.
pub(super) fn seconds(text: &str) -> Result<Duration, NoDuration> {
    match text.parse() {
        Ok(0) => Err(NoDuration::Zero),
        Ok(number) => Ok(Duration::from_secs(number)),
        Err(_) => duration(text),
    }
}

/// Parses an instant in RFC 3339.
pub(super) fn instant(text: &str) -> Result<Timestamp, &'static str> {
    Timestamp::parse_rfc3339(text).ok_or("must be an instant such as 2026-11-23T00:00:00Z")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_a_unit() {
        for (text, expected) in [("90s", 90), ("30m", 1800), ("12h", 43_200), ("365d", 31_536_000)] {
            assert_eq!(duration(text), Ok(Duration::from_secs(expected)));
        }
        for text in ["", "s", "1", "-1d", "+1d", "1.5h", "1w", "1 d", "18446744073709551615d", "1µ"] {
            assert_eq!(duration(text), Err(NoDuration::Form), "{text}");
        }
        assert_eq!(seconds("600"), Ok(Duration::from_secs(600)));
        assert_eq!(seconds("10m"), Ok(Duration::from_secs(600)));
        assert_eq!(seconds("0"), Err(NoDuration::Zero));
        assert_eq!(duration("0s"), Err(NoDuration::Zero));
    }
}
