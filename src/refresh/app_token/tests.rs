use std::sync::Arc;
use std::time::Duration;

use super::AppTokenKey;
use super::held::{AppTokens, MOST};
use crate::domain::id::AppName;
use crate::domain::not_now::NotNow;
use crate::domain::revocation::Revocation;
use crate::domain::secret::AccessToken;
use crate::domain::time::Timestamp;
use crate::domain::token::HeldToken;
use crate::refresh::failure::Failure;
use crate::testkit::SeededRandom;

const REGISTRATION: &str = "client authority";

fn key(number: usize) -> AppTokenKey {
    let app = AppName::parse("outlook").expect("a name");
    AppTokenKey { app, tenant: Some(format!("tenant-{number:05}")), resource: None }
}

fn at(seconds: u64) -> (Timestamp, Duration) {
    let unix = i64::try_from(seconds).expect("small");
    (Timestamp::from_unix_seconds(unix), Duration::from_secs(seconds))
}

fn token(issued: u64, life: u64) -> HeldToken {
    HeldToken {
        access_token: AccessToken::new("t"),
        digest: String::new(),
        uti: None,
        issued_at: at(issued).0,
        expires_at: at(issued + life).0,
        refresh_at: None,
        scopes: vec![],
        resource: None,
        answers_claims: None,
        got_for: None,
        cae: false,
    }
}

/// Whether a token is known for it.
fn has_token(held: &AppTokens, number: usize, now: u64) -> bool {
    held.look(&key(number), REGISTRATION, at(now).1).token.is_some()
}

fn fail(held: &AppTokens, number: usize, now: u64) {
    held.join(&key(number), at(now), drop);
    fail_at(held, number, now);
}

fn fail_at(held: &AppTokens, number: usize, now: u64) {
    let failure: Arc<Failure> = Arc::new(NotNow::Crowded.into());
    held.failed(&key(number), &failure, None, at(now).1, &SeededRandom::new(1));
}

#[test]
fn there_are_so_many_and_a_living_token_stays_the_longest() {
    let held = AppTokens::default();
    for number in 0..10 {
        held.put(&key(number), REGISTRATION.into(), token(0, 3600));
    }
    // Somebody asks in ever more tenants, in vain.
    for number in 10..3 * MOST {
        fail(&held, number, 10);
        assert!(held.len() <= MOST);
    }
    for number in 0..10 {
        assert!(has_token(&held, number, 20), "{number}");
    }
    // Of living tokens those leave first that nobody asked for the longest.
    let held = AppTokens::default();
    for number in 0..MOST {
        held.put(&key(number), REGISTRATION.into(), token(0, 3600));
        assert!(number < 5 || has_token(&held, number, 10));
    }
    fail(&held, MOST, 20);
    assert!(held.len() <= MOST && !has_token(&held, 0, 30) && has_token(&held, MOST - 1, 30));
}

#[test]
fn a_token_of_another_registration_is_none() {
    let held = AppTokens::default();
    held.put(&key(1), REGISTRATION.into(), token(0, 3600));
    assert!(has_token(&held, 1, 1));
    assert!(held.look(&key(1), "another client", at(1).1).token.is_none());
    assert!(!has_token(&held, 1, 1), "and it does not come back");
}

#[test]
fn a_revocation_ends_what_was_issued_before_it() {
    let app = || AppName::parse("outlook").ok();
    let revocation = |app: Option<AppName>, tenant: Option<&str>, caller: Option<&str>| Revocation {
        app,
        tenant: tenant.map(str::to_owned),
        caller: caller.map(str::to_owned),
        at: at(100).0,
    };
    let rows = [
        (revocation(app(), None, None), [false, false, true]),
        (revocation(None, Some("TENANT-00001"), None), [false, true, true]),
        (revocation(app(), Some("tenant-00002"), None), [true, false, true]),
        (revocation(AppName::parse("other").ok(), None, None), [true, true, true]),
        // Others have the same token.
        (revocation(None, None, Some("sync")), [true, true, true]),
        (revocation(app(), None, Some("sync")), [true, true, true]),
    ];
    for (revocation, left) in rows {
        let held = AppTokens::default();
        for (number, issued) in [(1, 100), (2, 50), (3, 101)] {
            held.put(&key(number), REGISTRATION.into(), token(issued, 3600));
        }
        held.revoke(&revocation);
        assert_eq!([1, 2, 3].map(|number| has_token(&held, number, 102)), left, "{revocation:?}");
    }
}

/// With a life of an hour, a token that came at 0 is due at 2000.
#[test]
fn what_was_asked_for_within_a_day_is_renewed_ahead_the_first_to_end_first() {
    const DAY: u64 = 86_400;
    let of =
        |issued: u64, life: u64| HeldToken { refresh_at: Some(at(issued + 2000).0), ..token(issued, life) };
    // number, asked at, token, and what is changed
    let held = AppTokens::default();
    for (number, asked, token) in [
        (1, DAY, of(DAY, 3600)),
        (2, DAY, of(DAY, 3500)),
        (3, DAY, of(DAY + 1, 3600)), // not due yet
        (4, 2000, of(DAY, 3600)),    // nobody asked for a day
        (5, DAY, of(DAY, 1900)),     // it has ended
        (6, DAY, of(DAY, 3600)),     // it failed just now
        (7, DAY, HeldToken { refresh_at: None, ..of(DAY, 3600) }),
    ] {
        held.join(&key(number), at(asked), drop);
        held.put(&key(number), REGISTRATION.into(), token);
    }
    let now = at(DAY + 2000);
    fail_at(&held, 6, DAY + 2000);
    let due = |now, registration: &str| held.due(now, |_| registration.to_owned());
    assert_eq!(due(now, REGISTRATION), [key(2), key(1)]);
    assert_eq!(due(at(DAY + 1999), REGISTRATION), []);
    assert_eq!(due(now, "another client"), []);
    // A failure is tried again; and whoever asks counts for another day.
    held.look(&key(4), REGISTRATION, now.1);
    let later = due(at(DAY + 2400), REGISTRATION);
    assert_eq!(later, [key(2), key(1), key(4), key(6), key(3)]);
}
