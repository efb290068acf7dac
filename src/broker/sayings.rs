//! Limits log lines about events that strangers can repeat at will: each is logged once in ten seconds, with
//! the number left out since.

use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::time::Duration;

const SAID_AGAIN: Duration = Duration::from_secs(10);

/// The messages, and when each was last logged.
#[derive(Default)]
pub(super) struct Sayings(Mutex<BTreeMap<&'static str, Said>>);

#[derive(Default)]
struct Said {
    /// Monotonic.
    at: Option<Duration>,
    left_out: u64,
}

impl Sayings {
    /// Returns the number of events left out since the last line, if the message may be logged at `now`
    /// (monotonic).
    pub(super) fn due(&self, what: &'static str, now: Duration) -> Option<u64> {
        let mut all = self.0.lock();
        let said = all.entry(what).or_default();
        if said.at.is_some_and(|at| now.saturating_sub(at) < SAID_AGAIN) {
            said.left_out += 1;
            return None;
        }
        said.at = Some(now);
        Some(std::mem::take(&mut said.left_out))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_saying_is_said_once_in_ten_seconds_and_all_are_counted() {
        let sayings = Sayings::default();
        let said = |what, millis: std::ops::Range<u64>| -> Vec<u64> {
            millis.filter_map(|millis| sayings.due(what, Duration::from_millis(millis))).collect()
        };
        assert_eq!(said("a", 0..10_000), [0]);
        assert_eq!(said("b", 5000..6000), [0], "no saying takes another's place");
        assert_eq!(said("a", 10_000..30_000), [9999, 9999]);
    }

    /// All log lines of a sign-in use [`Sayings`], except those after a redeemed code: that costs a sign-in
    /// at the authority, and a part of the budget. The pages themselves log nothing.
    #[test]
    fn what_strangers_can_repeat_is_said_by_way_of_this_alone() {
        const AFTER_A_CODE: [&str; 8] = [
            "a grant that came back too late could not be destroyed",
            "a code is not redeemed: the connection's deletes cannot be read",
            "a code could not be redeemed",
            "a grant that waits for its confirmation could not be kept",
            "a grant that may not be stored could not be destroyed; it expires",
            "a connect session's outcome could not be stored",
            "the authority gave no refresh token; is offline_access among the app's scopes and granted?",
            "the authority gave fewer scopes",
        ];
        const LINES: [&str; 3] = ["tracing::error!(", "tracing::warn!(", "tracing::info!("];
        let pages = [
            include_str!("../public/callback.rs"),
            include_str!("../public/cookie.rs"),
            include_str!("../public/failure.rs"),
            include_str!("../public/mod.rs"),
            include_str!("../public/navigation.rs"),
            include_str!("../public/page.rs"),
        ];
        for page in pages {
            assert!(LINES.iter().all(|line| !page.contains(line)), "a page logs by itself");
        }
        let mut throttled = 0;
        let source = [
            include_str!("sign_in.rs"),
            include_str!("sign_in/callback.rs"),
            include_str!("sign_in/outcome.rs"),
            include_str!("sign_in/press.rs"),
            include_str!("sign_in/redeem.rs"),
        ]
        .concat();
        for at in LINES.iter().flat_map(|line| source.match_indices(line)).map(|(at, _)| at) {
            let (before, line) = (&source[at.saturating_sub(300)..at], &source[at..]);
            let line = line.split_once(");\n").map_or(line, |(line, _)| line);
            let asks = before.rfind("sayings.due(").is_some_and(|asked| !before[asked..].contains(';'));
            throttled += usize::from(asks);
            assert!(asks || AFTER_A_CODE.iter().any(|said| line.contains(said)), "{line}");
        }
        assert!(throttled >= 4, "{throttled}");
    }
}
