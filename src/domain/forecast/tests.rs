use super::*;
use crate::domain::account::Account;
use crate::domain::connection::Attempt;
use crate::domain::id::ConnectionName;
use crate::domain::random::random_bytes;
use crate::domain::remarks::Remarks;
use crate::domain::verdict::{AuthorityError, BlockReason, Disposition, GrantFate, ReauthReason};
use crate::testkit::SeededRandom;

const DAY: i64 = 86_400;
const RENEWALS: Renewals = Renewals {
    in_use_within: Duration::from_secs(86_400),
    idle_after: Some(Duration::from_secs(35 * 86_400)),
    overdue_by: Duration::from_secs(10 * 86_400),
};
const ENTRA: IdleLife = IdleLife { lasts: Duration::from_secs(90 * 86_400), certainty: Certainty::Likely };

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_unix_seconds(seconds)
}

fn name() -> ConnectionName {
    ConnectionName::parse("user").expect("a name")
}

fn days(number: i64) -> Timestamp {
    at(number * DAY)
}

fn known(frequency: Option<&Frequency>) -> Known<'_> {
    Known { idle_life: Some(ENTRA), renewals: RENEWALS, frequency, announced: ANNOUNCED }
}

fn week_from(now: Timestamp) -> Window {
    Window { now, until: now.plus(Duration::from_secs(7 * 86_400)) }
}

fn connected(scopes: &[&str]) -> Profile {
    let account = Account { iss: "i".into(), sub: "s".into(), tid: None, oid: None, username: None };
    let scopes: Vec<String> = scopes.iter().map(|scope| (*scope).to_owned()).collect();
    Profile::connected(account, scopes.clone(), scopes, "cli".into(), at(0), None)
}

fn judged(profile: Profile, disposition: Disposition) -> Profile {
    let attempt = Attempt {
        at: at(1),
        action: "refresh".into(),
        outcome: "no".into(),
        conclusion: "no".into(),
        answer: AuthorityError::default(),
    };
    profile.judged(disposition, attempt, None, at(1))
}

fn of(
    profile: &Profile,
    known: &Known<'_>,
    now: Timestamp,
) -> Vec<(Reason, Certainty, Timestamp, Timestamp)> {
    let foreseen = of_connection(profile, known, week_from(now)).into_iter();
    foreseen.map(|one| (one.reason, one.certainty, one.from, one.to)).collect()
}

#[test]
fn a_grant_ends_idle_only_where_nothing_uses_it_before() {
    let blocked = judged(connected(&[]), Disposition::Blocked(BlockReason::PolicyBlocked));
    let asked = judged(connected(&[]), Disposition::Reauthorize(ReauthReason::GrantExpired, GrantFate::Keep));
    let off = Known { renewals: Renewals { idle_after: None, ..RENEWALS }, ..known(None) };
    let nobody_says = Known { idle_life: None, ..known(None) };
    let ends = vec![(Reason::GrantIdle, Certainty::Likely, days(90), days(90))];
    // profile, what is known, now (days), what is foreseen
    let rows = [
        (connected(&[]), known(None), 20, vec![]),
        (connected(&[]), known(None), 40, vec![]),
        (connected(&[]), known(None), 85, ends.clone()), // nobody has renewed it for long
        (connected(&[]), off, 82, vec![]),
        (connected(&[]), off, 84, ends.clone()),
        (connected(&[]), nobody_says, 85, vec![]),
        (connected(&[]).paused(), known(None), 82, vec![]),
        (connected(&[]).paused(), known(None), 84, ends.clone()),
        (connected(&[]).paused(), known(None), 95, ends.clone()), // it is over, and nobody has asked
        (blocked, known(None), 84, ends),
        (asked, known(None), 84, vec![]),
        (connected(&[]).of_a_dead_grant(), known(None), 84, vec![]),
    ];
    for (number, (profile, known, now, expected)) in rows.into_iter().enumerate() {
        assert_eq!(of(&profile, &known, days(now)), expected, "row {number}");
    }
}

#[test]
fn an_end_that_the_authority_stated_counts_by_whether_renewals_move_it() {
    let worked = |profile: Profile, now: i64| profile.refreshed(None, &Remarks::default(), days(now));
    let first = connected(&[]).stating(Some(days(30)));
    let possible = vec![(Reason::GrantEnds, Certainty::Possible, days(30), days(30))];
    assert_eq!(of(&first, &known(None), days(20)), []);
    assert_eq!(of(&first, &known(None), days(25)), possible);
    let fixed = worked(first.clone(), 10).stating(Some(days(30)));
    let certain = vec![(Reason::GrantEnds, Certainty::Certain, days(30), days(30))];
    assert_eq!(of(&fixed, &known(None), days(25)), certain);
    assert_eq!(of(&fixed.clone().paused(), &known(None), days(25)), certain);
    // It moves: an idle connection ends with it, since it is renewed once in 35 days; one in use does not.
    let moves = worked(first, 10).stating(Some(days(40)));
    let idle = vec![(Reason::GrantIdle, Certainty::Likely, days(40), days(40))];
    assert_eq!(of(&moves, &known(None), days(35)), idle);
    assert_eq!(of(&worked(moves.clone(), 38).stating(Some(days(41))), &known(None), days(39)), []);
    // An answer without it says nothing, and what was said counts on.
    assert_eq!(of(&worked(moves, 20).stating(None), &known(None), days(35)), idle);
}

#[test]
fn sign_in_frequency_ends_what_is_younger_and_not_what_outlived_it() {
    let end = |worked_at, refused_at| SeenEnd {
        worked_at: Duration::from_secs(worked_at),
        refused_at: Duration::from_secs(refused_at),
        at: days(9),
        mark: worked_at,
    };
    let week = 7 * 86_400;
    let seen = Frequency::of(end(week - 3600, week)).and(end(week - 7200, week + 60)).and(end(9, week + 9));
    let worked = |now: Timestamp| connected(&[]).refreshed(None, &Remarks::default(), now);
    let row = |from: Timestamp| {
        let to = at(7 * DAY + 1);
        vec![(Reason::SignInFrequency, Certainty::Likely, from, to)]
    };
    assert_eq!(of(&worked(days(5)), &known(Some(&seen)), days(5)), row(at(7 * DAY - 3600)));
    assert_eq!(of(&worked(at(7 * DAY - 60)), &known(Some(&seen)), days(7)), row(at(7 * DAY - 60)));
    assert_eq!(of(&worked(days(8)), &known(Some(&seen)), days(9)), [], "it outlived the age");
    assert_eq!(of(&worked(days(5)), &known(Some(&seen)), days(300)).len(), 1, "only the idle end is left");
    // One grant alone is a sign, and no more.
    let once = Frequency::of(end(week - 3600, week));
    assert_eq!(of(&worked(days(5)), &known(Some(&once)), days(5))[0].1, Certainty::Possible);
    // Its numbers, and the first refusal, decide.
    let refused = worked(days(6));
    assert_eq!(SeenEnd::of(&name(), &refused, &[700082], days(7)), None);
    assert_eq!(SeenEnd::of(&name(), &refused, &[70043], days(6)), None, "it worked at that very age");
    let seen = SeenEnd::of(&name(), &refused, &[70043], days(7)).expect("an end");
    assert_eq!((seen.worked_at.as_secs(), seen.refused_at.as_secs()), (6 * 86_400, 7 * 86_400));
    let again = judged(refused, Disposition::Reauthorize(ReauthReason::GrantExpired, GrantFate::Keep));
    assert_eq!(SeenEnd::of(&name(), &again, &[70043], days(8)), None);
}

#[test]
fn a_policy_is_foreseen_for_the_scopes_that_it_names_until_it_holds() {
    let ews = connected(&["https://outlook.office.com/EWS.AccessAsUser.All"]);
    let worked = |now: &str| {
        let now = Timestamp::parse_rfc3339(now).expect("a time");
        (ews.clone().refreshed(None, &Remarks::default(), now), now)
    };
    let seen = |now: &str| {
        let (profile, now) = worked(now);
        of_connection(&profile, &known(None), week_from(now))
    };
    assert_eq!(seen("2027-03-24T00:00:00Z"), []);
    let [ends] = seen("2027-03-26T00:00:00Z")[..] else { panic!("one") };
    assert_eq!((ends.reason, ends.certainty), (Reason::ScopePolicy, Certainty::Certain));
    assert_eq!(ends.from.rfc3339(), "2027-04-01T00:00:00Z");
    assert_eq!(seen("2027-04-02T00:00:00Z"), [], "then the authority's answers say it");
    assert_eq!(of(&connected(&["Mail.Read"]), &known(None), days(1)), []);
}

/// Whatever is known: a user must act for each reason once, nothing lies beyond the window, nothing ends
/// before it begins, and a longer window foresees no less.
#[test]
fn what_is_foreseen_is_within_the_window_and_a_longer_one_foresees_no_less() {
    let random = SeededRandom::new(31);
    let number = |below: i64| i64::from(u32::from_be_bytes(random_bytes::<4>(&random))) % below;
    for round in 0..5000 {
        let mut profile = connected(&["Mail.ReadWrite", "EWS.AccessAsUser.All"]);
        let mut now = at(0);
        for _ in 0..number(6) {
            now = now.plus(Duration::from_secs(u64::try_from(number(20 * DAY)).expect("positive")));
            profile = match number(6) {
                0 => profile.paused(),
                1 => profile.resumed(),
                2 => judged(profile, Disposition::Blocked(BlockReason::DeviceRequired)),
                3 => judged(profile, Disposition::Reauthorize(ReauthReason::GrantExpired, GrantFate::Keep)),
                _ => {
                    let stated = (number(2) == 0).then(|| now.plus(Duration::from_secs(20 * 86_400)));
                    profile.refreshed(None, &Remarks::default(), now).stating(stated)
                }
            };
        }
        let age = |below| Duration::from_secs(u64::try_from(number(below)).expect("positive"));
        let worked_at = age(30 * DAY);
        let refused_at = worked_at + age(5 * DAY) + Duration::from_secs(1);
        let end = SeenEnd { worked_at, refused_at, at: now, mark: 1 };
        let frequency = Frequency::of(end);
        let known = known((number(2) == 0).then_some(&frequency));
        let window = Window { now, until: now.plus(age(60 * DAY)) };
        let foreseen = of_connection(&profile, &known, window);
        let of_user = |one: &&Foreseen| one.reason.acts() == "user";
        let mut reasons: Vec<Reason> = foreseen.iter().filter(of_user).map(|one| one.reason).collect();
        reasons.dedup();
        assert_eq!(reasons.len(), foreseen.iter().filter(of_user).count(), "round {round}");
        for one in &foreseen {
            assert!(one.from <= one.to && one.from < window.until, "round {round}: {one:?} {window:?}");
        }
        let longer = Window { until: window.until.plus(age(60 * DAY)), ..window };
        let more = of_connection(&profile, &known, longer);
        for one in &foreseen {
            assert!(more.contains(one), "round {round}: {one:?} not in {more:?}");
        }
        if matches!(profile.status(), Status::NeedsReauthorization(_)) {
            assert!(foreseen.is_empty(), "round {round}");
        }
    }
}
