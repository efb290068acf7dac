use super::*;
use crate::domain::connection::SignIn;
use crate::domain::id::{AppName, ConnectionKey, ConnectionName};
use crate::domain::notice::KEPT;

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_unix_seconds(1_000_000 + seconds)
}

fn notice(connection: &str, number: u64, made: Timestamp) -> Notice {
    let connection = ConnectionName::stored(connection).expect("a name");
    let key = ConnectionKey { app: AppName::parse("outlook").expect("a name"), connection };
    Notice::deleted(&key, &SignIn { number, nonce: [0; 8] }, None, made)
}

/// Notices of these subjects from place 1 on.
fn log(subjects: &[&str]) -> Vec<(u64, Notice)> {
    (1..).zip(subjects).map(|(place, subject)| (place, notice(subject, place, at(0)))).collect()
}

/// Delivers with an endpoint that answers by place and time, one second a step. Returns what it took.
fn run(
    progress: &mut Progress,
    log: &[(u64, Notice)],
    seconds: std::ops::Range<i64>,
    endpoint: impl Fn(u64, i64) -> Tried,
) -> Vec<(i64, u64)> {
    let mut taken = Vec::new();
    for second in seconds {
        let now = at(second);
        // (The driver reads by pages, and stops at the first wait.)
        for _ in 0..1000 {
            let after = progress.through;
            let page: Vec<_> = log.iter().filter(|(place, _)| *place > after).take(3).cloned().collect();
            let try_at = match progress.next(&page, now, |_| true) {
                Step::Try(place) | Step::TryAside(place) => place,
                Step::ReadOn => continue,
                Step::Wait(_) => break,
            };
            let (_, notice) = log.iter().find(|(place, _)| *place == try_at).expect("it is kept");
            if notice.is_over(now) {
                progress.give_up_aside(try_at);
                continue;
            }
            let answer = endpoint(try_at, second);
            if answer == Tried::Taken {
                taken.push((second, try_at));
            }
            progress.tried(try_at, notice, answer, "it answered", now);
        }
    }
    taken
}

#[test]
fn what_is_taken_goes_in_order_once() {
    let log = log(&["a", "b", "a", "c", "a", "b", "d"]);
    let mut progress = Progress::default();
    let taken = run(&mut progress, &log, 0..3, |_, _| Tried::Taken);
    assert_eq!(taken.iter().map(|(_, place)| *place).collect::<Vec<_>>(), [1, 2, 3, 4, 5, 6, 7]);
    assert_eq!((progress.through, progress.undelivered, progress.aside()), (7, 0, 0));
}

#[test]
fn an_endpoint_that_is_down_for_an_hour_gets_all_of_it_within_minutes() {
    let subjects: Vec<String> = (0..40).map(|number| format!("user-{}", number % 7)).collect();
    let log = log(&subjects.iter().map(String::as_str).collect::<Vec<_>>());
    let mut progress = Progress::default();
    let down = |_, second| if second < 3600 { Tried::Failed(None) } else { Tried::Taken };
    let taken = run(&mut progress, &log, 0..5000, down);
    let mut places: Vec<u64> = taken.iter().map(|(_, place)| *place).collect();
    assert!(taken.iter().all(|(second, _)| (3600..=3900).contains(second)), "{taken:?}");
    for subject in 0..7 {
        let of_subject: Vec<u64> =
            places.iter().copied().filter(|place| (place - 1) % 7 == subject).collect();
        assert!(of_subject.is_sorted(), "{of_subject:?}");
    }
    places.sort_unstable();
    assert_eq!(places, (1..=40).collect::<Vec<u64>>(), "each once");
    assert_eq!(progress.undelivered, 0);
}

#[test]
fn a_notice_that_is_never_taken_holds_up_its_own_subject_alone() {
    let log = log(&["bad", "good", "bad", "good", "other"]);
    let mut progress = Progress::default();
    let taken = run(&mut progress, &log, 0..600, |place, _| match place {
        1 => Tried::Failed(None),
        _ => Tried::Taken,
    });
    assert_eq!(taken.iter().map(|(_, place)| *place).collect::<Vec<_>>(), [2, 4, 5]);
    assert!(taken[0].0 < 300, "{taken:?}");
    assert_eq!((progress.through, progress.aside()), (5, 2));
    // When its time is over, what waited behind it goes on: its time was over, too.
    let end = i64::try_from(KEPT.as_secs()).expect("small");
    run(&mut progress, &log, end + 7200..end + 7202, |_, _| Tried::Taken);
    assert_eq!((progress.undelivered, progress.aside()), (2, 0));
}

#[test]
fn what_was_aside_comes_in_its_order_once_it_is_taken() {
    let log = log(&["bad", "bad", "bad", "good"]);
    let mut progress = Progress::default();
    let taken = run(&mut progress, &log, 0..9000, |place, second| match place {
        1 if second < 4000 => Tried::Failed(None),
        _ => Tried::Taken,
    });
    assert_eq!(taken.iter().map(|(_, place)| *place).collect::<Vec<_>>(), [4, 1, 2, 3]);
    assert_eq!((progress.aside(), progress.undelivered), (0, 0));
}

#[test]
fn what_waits_behind_its_subject_wakes_nobody() {
    let aside =
        |place, subject: &str, not_before| Aside { place, subject: subject.into(), tries: 1, not_before };
    let aside = vec![aside(1, "bad", at(100)), aside(2, "bad", at(0)), aside(3, "other", at(200))];
    let mut progress = Progress { aside, ..Progress::default() };
    assert_eq!(progress.next(&[], at(50), |_| true), Step::Wait(Some(at(100))));
    assert_eq!(progress.next(&[], at(100), |_| true), Step::TryAside(1));
}

#[test]
fn after_three_days_it_is_counted_as_undelivered_and_memory_stays_bounded() {
    let subjects: Vec<String> = (0..300).map(|number| format!("user-{number}")).collect();
    let log = log(&subjects.iter().map(String::as_str).collect::<Vec<_>>());
    let mut progress = Progress::default();
    let end = i64::try_from(KEPT.as_secs()).expect("small");
    for second in (0..end).step_by(60) {
        run(&mut progress, &log, second..second + 1, |_, _| Tried::Failed(None));
        assert!(progress.aside() <= MOST_ASIDE);
    }
    assert_eq!(progress.undelivered, 0);
    assert_eq!(run(&mut progress, &log, end + 7200..end + 7202, |_, _| Tried::Taken), []);
    assert_eq!((progress.undelivered, progress.aside(), progress.through), (300, 0, 300));
}

#[test]
fn an_endpoint_is_left_alone_longer_with_each_failure_and_as_long_as_it_asks() {
    let one = notice("a", 1, at(0));
    let mut progress = Progress::default();
    let mut waits = Vec::new();
    for _ in 0..8 {
        progress.tried(1, &one, Tried::Failed(None), "it answered", at(0));
        waits.push(progress.not_before.since(at(0)).as_secs());
    }
    assert_eq!(waits, [5, 10, 20, 40, 80, 160, 300, 300]);
    for (tried, expected) in [
        (Tried::Failed(Some(Duration::from_secs(1))), 300),
        (Tried::Failed(Some(Duration::from_secs(900))), 900),
        (Tried::Failed(Some(Duration::from_secs(90_000))), 3600),
        (Tried::Gone, 3600),
        (Tried::Taken, 0),
    ] {
        progress.tried(9, &one, tried, "it answered", at(0));
        assert_eq!(progress.not_before.since(at(0)).as_secs(), expected, "{tried:?}");
    }
    progress.tried(9, &one, Tried::Failed(None), "it answered", at(0));
    assert_eq!(progress.not_before.since(at(0)).as_secs(), 5, "a success begins anew");
}

#[test]
fn what_was_forgotten_before_it_was_delivered_is_counted() {
    let log: Vec<(u64, Notice)> = log(&["a", "b", "c", "d"]).split_off(2);
    let mut progress = Progress::default();
    let taken = run(&mut progress, &log, 0..1, |_, _| Tried::Taken);
    assert_eq!(taken, [(0, 3), (0, 4)]);
    assert_eq!(progress.undelivered, 2);
}

#[test]
fn what_is_not_wanted_is_passed_over() {
    let log = log(&["a", "b", "c"]);
    let mut progress = Progress::default();
    let wants = |notice: &Notice| notice.subject().ends_with(":b");
    assert_eq!(progress.next(&log, at(0), wants), Step::Try(2));
    progress.tried(2, &log[1].1, Tried::Taken, "it answered", at(0));
    assert_eq!(progress.next(&log, at(0), wants), Step::ReadOn);
    assert_eq!((progress.through, progress.undelivered), (3, 0));
    assert_eq!(progress.through_id.as_deref(), Some(log[2].1.id.as_str()));
    assert_eq!(progress.next(&[], at(0), wants), Step::Wait(None));
}

#[test]
fn progress_is_read_by_versions_that_lack_members() {
    let read: Progress = serde_json::from_str(r#"{"through":7,"later":1}"#).expect("read");
    assert_eq!(read, Progress { through: 7, ..Progress::default() });
    let full = Progress {
        aside: vec![Aside { place: 1, subject: "s".into(), tries: 2, not_before: at(1) }],
        ..read
    };
    let text = serde_json::to_string(&full).expect("written");
    assert_eq!(serde_json::from_str::<Progress>(&text).expect("read"), full);
}

#[test]
fn what_is_wrong_is_said_since_the_first_failure_and_no_more_after_a_success() {
    let one = notice("a", 1, at(0));
    let mut progress = Progress::default();
    assert_eq!(progress.trouble(), None);
    progress.tried(1, &one, Tried::Failed(None), "it answered 503", at(10));
    progress.tried(1, &one, Tried::Gone, "it answered 410", at(20));
    let trouble = progress.trouble().expect("it fails");
    assert_eq!((trouble.since, trouble.why.as_str(), trouble.is_gone), (at(10), "it answered 410", true));
    progress.tried(1, &one, Tried::Taken, "it answered 204", at(30));
    assert_eq!(progress.trouble(), None);
    // A record of a version that knew no trouble is read, too.
    let before: Progress = serde_json::from_str(r#"{"through": 7, "failures": 2}"#).expect("a record");
    assert_eq!((before.trouble(), before.failures()), (None, 2));
}
