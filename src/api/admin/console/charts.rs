//! Pictures, as SVG made here. Each has a text for those who do not see it, and the page says the same in
//! words beside it.

use std::time::Duration;

use maud::{Markup, html};

use super::layout::{Mood, number, relative};
use crate::domain::time::Timestamp;

/// A part of a whole.
pub(super) struct Share<'a> {
    pub(super) mood: Mood,
    pub(super) label: &'a str,
    pub(super) count: u64,
    /// Where the part is listed, if it is anywhere.
    pub(super) href: Option<String>,
}

/// The width of a bar, in units of the picture.
const BAR: f64 = 640.0;

/// The widths of the parts of a bar. Whoever is there is seen: a part is never thinner than a line.
fn widths(counts: &[u64]) -> Vec<f64> {
    const THINNEST: f64 = 4.0;
    #[expect(clippy::cast_precision_loss, reason = "a picture")]
    let share = |count: u64, of: u64| count as f64 / of as f64;
    let total: u64 = counts.iter().sum();
    let raised: Vec<f64> = counts
        .iter()
        .map(|count| if *count == 0 { 0.0 } else { (BAR * share(*count, total)).max(THINNEST) })
        .collect();
    let sum: f64 = raised.iter().sum();
    raised.iter().map(|width| if sum > 0.0 { width * BAR / sum } else { 0.0 }).collect()
}

/// A bar whose parts are the shares, and its legend, which is the picture's text too.
pub(super) fn stacked(shares: &[Share<'_>]) -> Markup {
    let counts: Vec<u64> = shares.iter().map(|share| share.count).collect();
    let mut at = 0.0;
    let placed: Vec<(f64, f64)> = widths(&counts)
        .into_iter()
        .map(|width| {
            at += width;
            (at - width, width)
        })
        .collect();
    html! {
        svg.bar viewBox="0 0 640 22" aria-hidden="true" preserveAspectRatio="none" {
            rect.track width="640" height="22" rx="6" {}
            @for (share, (x, width)) in shares.iter().zip(&placed) {
                @if *width > 0.0 {
                    rect class={ "f-" (share.mood.class()) } height="22"
                        x=(format!("{x:.1}")) width=(format!("{width:.1}")) {}
                }
            }
        }
        ul.legend { @for share in shares {
            @let words = html! {
                span class={ "dot " (share.mood.class()) } {}
                (share.label) " " strong { (number(share.count)) }
            };
            li { @match &share.href {
                Some(href) => a href=(href) { (words) },
                None => span { (words) },
            } }
        } }
    }
}

/// How much of a year is left of something that ends.
pub(super) fn countdown(at: Option<Timestamp>, now: Timestamp) -> Markup {
    const YEAR: u64 = 365 * 86_400;
    let left = at.map(|at| at.since(now).as_secs().min(YEAR));
    #[expect(clippy::cast_precision_loss, reason = "a picture")]
    let width = left.map_or(0.0, |left| match left {
        0 => 0.0,
        // Whatever is left is seen.
        left => (160.0 * left as f64 / YEAR as f64).max(3.0),
    });
    html! {
        svg.countdown viewBox="0 0 160 8" aria-hidden="true" preserveAspectRatio="none" {
            rect.track width="160" height="8" rx="4" {}
            rect class={ "f-" (Mood::of_end(at, now).class()) } height="8" rx="4"
                width=(format!("{width:.1}")) {}
        }
    }
}

/// Something that happened to a connection, or will.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Point {
    pub(super) at: Timestamp,
    pub(super) mood: Mood,
    pub(super) words: String,
}

/// Where the present is on the timeline, and where its past begins.
const NOW_AT: f64 = 600.0;
const PAST_AT: f64 = 24.0;

/// Marks of the timeline; a small screen has no room for the minor ones.
const MARKS: [(&str, u64, bool); 6] = [
    ("1 min", 60, true),
    ("1 hour", 3600, false),
    ("1 day", 86_400, true),
    ("1 week", 604_800, false),
    ("1 month", 2_592_000, true),
    ("1 year", 31_536_000, false),
];

/// Where an age stands: the younger, the more room. `oldest` is the picture's left end.
fn place(age: Duration, oldest: Duration) -> f64 {
    let log = |span: Duration| (1.0 + span.as_secs_f64() / 10.0).ln();
    let oldest = oldest.max(Duration::from_secs(3600));
    NOW_AT - (NOW_AT - PAST_AT) * (log(age.min(oldest)) / log(oldest))
}

/// A connection's past from left to right, the present, and what comes next. The list beside it has the same
/// in words.
pub(super) fn timeline(points: &[Point], now: Timestamp) -> Markup {
    let past = points.iter().filter(|point| point.at <= now);
    let oldest = past.clone().map(|point| now.since(point.at)).max().unwrap_or_default();
    let seen = oldest.max(Duration::from_secs(3600));
    let next = points.iter().find(|point| point.at > now);
    html! {
        svg.timeline viewBox="0 0 720 84" role="img" aria-label=(format!(
            "Timeline of {} events; the list has them in words", points.len())) {
            line.axis x1="10" y1="40" x2="710" y2="40" {}
            @for (words, seconds, is_minor) in MARKS {
                @let age = Duration::from_secs(seconds);
                @if age < seen {
                    @let x = format!("{:.1}", place(age, oldest));
                    line.axis x1=(x) y1="34" x2=(x) y2="46" {}
                    text.minor[is_minor] x=(x) y="68" text-anchor="middle" { (words) }
                }
            }
            line.now x1=(NOW_AT) y1="12" x2=(NOW_AT) y2="52" {}
            text x=(NOW_AT) y="68" text-anchor="middle" { "now" }
            @for point in past {
                circle class={ "f-" (point.mood.class()) } cy="40" r="6"
                    cx=(format!("{:.1}", place(now.since(point.at), oldest))) {
                    title { (point.words) ", " (relative(point.at, now)) }
                }
            }
            @if let Some(next) = next {
                circle class={ "f-" (next.mood.class()) } cx="668" cy="40" r="6" fill-opacity="0.5" {
                    title { (next.words) ", " (relative(next.at, now)) }
                }
                text x="668" y="24" text-anchor="middle" { "next" }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bar_is_full_and_shows_even_the_smallest_part() {
        assert_eq!(widths(&[0, 0]), [0.0, 0.0]);
        let widths = widths(&[1_000_000, 0, 1, 1]);
        assert!((widths.iter().sum::<f64>() - BAR).abs() < 0.001, "{widths:?}");
        assert!(widths[1] == 0.0 && widths[2] > 3.0 && widths[3] > 3.0, "{widths:?}");
    }

    #[test]
    fn the_younger_stands_further_right_and_all_stand_in_the_picture() {
        let oldest = Duration::from_secs(31_536_000);
        let places: Vec<f64> =
            [0, 60, 3600, 86_400, 31_536_000].map(|age| place(Duration::from_secs(age), oldest)).into();
        assert!(places.is_sorted_by(|one, other| one > other), "{places:?}");
        assert!((places[0] - NOW_AT).abs() < 0.001 && (places[4] - PAST_AT).abs() < 0.001, "{places:?}");
        // A connection of a minute ago does not fill the picture.
        assert!(place(Duration::from_secs(60), Duration::from_secs(60)) > PAST_AT + 100.0);
        assert!((place(Duration::ZERO, Duration::ZERO) - NOW_AT).abs() < 0.001);
    }

    #[test]
    fn what_a_picture_says_is_escaped() {
        let now = Timestamp::from_unix_seconds(1_000_000);
        let evil = "</title><script>".to_owned();
        let point = |at| Point { at, mood: Mood::Bad, words: evil.clone() };
        let ahead = now.plus(Duration::from_secs(60));
        let text = timeline(&[point(now), point(ahead)], now).into_string();
        assert!(!text.contains("<script>") && text.contains("in 60 seconds"), "{text}");
        assert_eq!(text.matches("<circle").count(), 2);
    }
}
