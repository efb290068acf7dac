use super::standing::Reason;
use super::*;
use crate::domain::verdict::{BlockReason, GrantFate, ReauthReason};

/// For the tests of other rooms.
impl Profile {
    /// A connection of this status, whose grant is tried again then.
    pub(crate) fn of_status(mut self, status: Status, retry_at: Option<Timestamp>) -> Self {
        let next_try = retry_at.map_or(NextTry::AtOnce, NextTry::At);
        let verdict = |reason| Verdict { reason, next_try, refusals: 1, error: None };
        self.standing = match status {
            Status::Paused => Standing::Paused(None),
            status => {
                Reason::of(status).map_or(Standing::Active, |reason| Standing::Refused(verdict(reason)))
            }
        };
        self
    }

    /// A connection whose grant the authority called dead.
    pub(crate) fn of_a_dead_grant(self) -> Self {
        judged(self, expired(GrantFate::Dead))
    }
}

fn profile() -> Profile {
    let account = Account { iss: "i".into(), sub: "s".into(), tid: None, oid: None, username: None };
    Profile::connected(account, vec![], vec![], "cli".into(), at(0), None)
}

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_unix_seconds(seconds)
}

fn attempt() -> Attempt {
    Attempt {
        at: at(0),
        action: "refresh".into(),
        outcome: "x".into(),
        conclusion: "y".into(),
        answer: AuthorityError::default(),
    }
}

const BLOCKED: Disposition = Disposition::Blocked(BlockReason::PolicyBlocked);

fn expired(fate: GrantFate) -> Disposition {
    Disposition::Reauthorize(ReauthReason::GrantExpired, fate)
}

fn judged(profile: Profile, disposition: Disposition) -> Profile {
    profile.judged(disposition, attempt(), Some("{}".into()), at(0))
}

#[test]
fn only_a_verdict_changes_a_connection() {
    for disposition in [
        Disposition::RetryAfter(None),
        Disposition::NextCredential,
        Disposition::Misconfigured,
        Disposition::Restart,
        Disposition::CallerFault,
        Disposition::Unclear,
        Disposition::OutcomeUnknown,
        Disposition::Bug,
    ] {
        assert!(!disposition.is_verdict());
        assert_eq!(profile().judged(disposition, attempt(), None, at(1)), profile(), "{disposition:?}");
    }
}

#[test]
fn a_verdict_is_tried_again_ever_more_slowly_and_heals() {
    let mut judged = profile();
    let mut waits = Vec::new();
    for _ in 0..9 {
        judged = judged.judged(BLOCKED, attempt(), None, at(0));
        waits.push(judged.retry_at().expect("kept grants are tried again").unix_seconds());
    }
    assert_eq!(waits, [60, 120, 240, 480, 960, 1920, 3600, 3600, 3600]);
    assert!(!judged.may_try(at(3599)) && judged.may_try(at(3600)));
    let healed = judged.refreshed(None, &Remarks::default(), at(4000));
    assert_eq!((healed.status(), healed.retry_at(), healed.last_error()), (Status::Active, None, None));
    let again = healed.judged(BLOCKED, attempt(), None, at(0));
    assert_eq!(again.retry_at(), Some(at(60)), "it is counted from the start");
}

#[test]
fn a_user_who_must_act_is_tried_at_most_daily_and_a_dead_grant_never() {
    let mut judged = profile();
    for _ in 0..30 {
        judged = judged.judged(expired(GrantFate::Keep), attempt(), None, at(0));
    }
    assert_eq!(judged.retry_at(), Some(at(86_400)));
    assert_eq!(judged.attempts().len(), ATTEMPTS_KEPT);
    let dead = judged.judged(expired(GrantFate::Dead), attempt(), None, at(0));
    assert!(dead.grant_destroyed() && !dead.may_try(at(i64::MAX / 2000)));
    let blocked = dead.judged(BLOCKED, attempt(), None, at(0));
    assert!(blocked.grant_destroyed(), "an administrator does not bring a dead grant back");
}

#[test]
fn a_resumed_connection_is_as_good_as_its_grant() {
    assert_eq!(profile().paused().resumed().status(), Status::Active);
    let blocked = judged(profile(), BLOCKED);
    assert_eq!(blocked.clone().resumed(), blocked, "what was not paused is left as it is");
    let asked_anew = blocked.paused().resumed();
    assert_eq!((asked_anew.status(), asked_anew.retry_at()), (Status::Active, None));
    assert_eq!(asked_anew.pending_claims(), Some("{}"), "the next sign-in still meets the challenge");
    let healed = asked_anew.refreshed(None, &Remarks::default(), at(1));
    assert_eq!(healed.pending_claims(), None, "a grant that works has met it");
    let dead = judged(profile(), expired(GrantFate::Dead));
    let resumed = dead.clone().paused().resumed();
    assert_eq!(resumed.status(), dead.status(), "a pause keeps the reason");
    assert!(resumed.grant_destroyed());
}

#[test]
fn a_pause_ends_handles_and_nothing_gives_them_back() {
    assert_eq!(profile().handles_over(), None);
    let paused = profile().paused().ending_handles(Some(at(5)));
    let resumed = paused.clone().resumed().refreshed(None, &Remarks::default(), at(9));
    assert_eq!(resumed.handles_over(), Some(at(5)));
    assert_eq!(resumed.clone().ending_handles(None), resumed);
    assert_eq!(resumed.clone().ending_handles(Some(at(3))), resumed);
    let json = serde_json::to_string(&resumed).expect("JSON");
    assert_eq!(read(&json), resumed);
    let account = resumed.account().clone();
    let anew = Profile::connected(account, vec![], vec![], "sync".into(), at(20), Some(&resumed));
    assert_eq!(anew.handles_over(), Some(at(5)), "its user signing in again is no end and no beginning");
}

#[test]
fn a_pause_survives_refreshes_and_verdicts() {
    let paused = profile().paused();
    assert_eq!(paused.clone().refreshed(None, &Remarks::default(), at(1)).status(), Status::Paused);
    let judged = judged(paused.clone(), expired(GrantFate::Dead));
    assert_eq!(judged.status(), Status::Paused);
    assert_eq!(judged.clone().paused(), judged, "a second pause changes nothing");
    let reason = Status::NeedsReauthorization(ReauthReason::GrantExpired);
    assert_eq!(judged.resumed().status(), reason);
}

/// Records as the build before wrote them, between what stands the same in each.
fn record(status: &str, verdict: &str, more: &str) -> String {
    let attempt = r#"{"at":0,"action":"connect","outcome":"ok","conclusion":"c","answer":{}}"#;
    let (error, verdict) = verdict.split_once(';').expect("two parts");
    format!(
        r#"{{"account":{{"iss":"i","sub":"s","tid":"t","oid":"o","username":"u"}},"scopes_requested":["a"],"scopes_granted":["a"],"status":{status},"connected_by":"sync","created_at":1,"connected_at":2,"session_started_at":3,"last_refreshed_at":4,"last_error":{error},"attempts":[{attempt}],{verdict},"sign_in":{{"number":7,"nonce":[1,2,3,4,5,6,7,8]}},"renewals":9{more}}}"#
    )
}

const NO_VERDICT: &str = r#"null;"retry_at":null,"refusals":0,"grant_destroyed":false,"pending_claims":null"#;
const KEPT: &str = r#"{"at":5,"action":"refresh","outcome":"blocked","conclusion":"c","answer":{"status":400,"error":"invalid_grant","error_codes":[53000]}};"retry_at":65000,"refusals":1,"grant_destroyed":false,"pending_claims":"{}""#;
const DEAD: &str = r#"{"at":5,"action":"refresh","outcome":"reauthorize","conclusion":"c","answer":{"status":400,"error":"invalid_grant"}};"retry_at":null,"refusals":2,"grant_destroyed":true,"pending_claims":null"#;

fn read(record: &str) -> Profile {
    serde_json::from_str(record).expect("a record")
}

/// A rolling upgrade has both builds on one store: what this one writes is what the one before wrote.
#[test]
fn records_of_the_build_before_are_read_and_written_as_they_were() {
    let needs = r#"{"status":"needs_reauthorization","reason":"grant_expired"}"#;
    let blocked = r#"{"status":"blocked","reason":"device_required"}"#;
    let rows = [
        (r#"{"status":"active"}"#, NO_VERDICT, Status::Active, None),
        (needs, KEPT, Status::NeedsReauthorization(ReauthReason::GrantExpired), Some(at(65))),
        (needs, DEAD, Status::NeedsReauthorization(ReauthReason::GrantExpired), None),
        (blocked, KEPT, Status::Blocked(BlockReason::DeviceRequired), Some(at(65))),
        (r#"{"status":"paused"}"#, NO_VERDICT, Status::Paused, None),
    ];
    for (status, verdict, expected, retry_at) in rows {
        let record = record(status, verdict, "");
        let profile = read(&record);
        assert_eq!((profile.status(), profile.retry_at()), (expected, retry_at), "{record}");
        assert_eq!(profile.last_error().is_some(), verdict != NO_VERDICT, "{record}");
        assert_eq!(profile.pending_claims(), (verdict == KEPT).then_some("{}"), "{record}");
        assert_eq!(profile.grant_destroyed(), verdict == DEAD, "{record}");
        assert_eq!(serde_json::to_string(&profile).expect("JSON"), record);
    }
}

/// The verdict that a pause keeps is one more member, over which the build before passes.
#[test]
fn a_pause_keeps_its_verdict_in_one_more_member() {
    let needs = r#"{"status":"needs_reauthorization","reason":"grant_expired"}"#;
    let under_way = record(needs, DEAD, "");
    let paused = serde_json::to_string(&read(&under_way).paused()).expect("JSON");
    let more = format!(r#","paused_under":{needs}"#);
    assert_eq!(paused, record(r#"{"status":"paused"}"#, DEAD, &more));
    assert_eq!(read(&paused), read(&under_way).paused());
    // The build before kept no reason: a dead grant's is guessed, any other is asked for when it is resumed.
    let of_before = read(&record(r#"{"status":"paused"}"#, DEAD, ""));
    assert!(of_before.grant_destroyed());
    assert_eq!(of_before.resumed().status(), Status::NeedsReauthorization(ReauthReason::GrantRevoked));
    let of_before = read(&record(r#"{"status":"paused"}"#, KEPT, ""));
    assert_eq!((of_before.status(), of_before.clone().resumed().status()), (Status::Paused, Status::Active));
    assert_eq!(of_before.resumed().pending_claims(), Some("{}"));
}

/// Records of 0.1 have none of the members that came later.
#[test]
fn the_oldest_records_are_read() {
    let oldest = r#"{"account":{"iss":"i","sub":"s"},"scopes_requested":[],"scopes_granted":[],"status":{"status":"blocked","reason":"policy_blocked"},"connected_by":"sync","created_at":1,"connected_at":2,"last_refreshed_at":4}"#;
    let profile = read(oldest);
    assert_eq!(profile.status(), Status::Blocked(BlockReason::PolicyBlocked));
    assert!(profile.may_try(at(0)), "nothing says that it has to wait");
}
