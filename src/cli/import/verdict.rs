//! What an answer of the daemon means for a row, and for the whole import. Pure.

use std::time::Duration;

use crate::cli::client::{ClientError, SeenProblem};

/// Longest wait that is followed at once.
const LONGEST: Duration = Duration::from_secs(300);
/// How often a refusal of the authority is tried again that says nothing certain.
const UNCLEAR_TRIES: u32 = 4;
/// The pause before that.
const UNCLEAR_AGAIN: Duration = Duration::from_secs(5);
/// How long a row is tried again that somebody else's outage holds up.
const PATIENCE: Duration = Duration::from_secs(900);

/// What to do about a row.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Try it again after so long, and all the others, too.
    Again(Duration),
    /// Try it again after so long; the others go on.
    Later(Duration),
    /// It failed, for this reason.
    Failed { reason: String, detail: String },
    /// No row can succeed before somebody acts.
    Stop,
}

/// Judges an answer that is no success: the `tries`th of this row, which was first tried so long ago.
pub(super) fn judge(error: &ClientError, tries: u32, since: Duration) -> Verdict {
    let ClientError::Refused(problem) = error else {
        // The daemon starts anew, or is gone.
        let may_come_back = error.is_passing() && since < PATIENCE;
        return if may_come_back { Verdict::Again(Duration::from_secs(1)) } else { Verdict::Stop };
    };
    let wait = Duration::from_secs(problem.retry_after.unwrap_or(1)).min(LONGEST);
    let failed = || {
        let code = problem.code.as_str();
        let reason = problem.reason.as_deref().unwrap_or(code).to_owned();
        Verdict::Failed { reason, detail: detail(problem) }
    };
    match problem.code.as_str() {
        "app_credential_rejected" | "app_rejected" | "caller_unauthenticated" | "not_found" => Verdict::Stop,
        // The authority said something that nobody understands: it is about this grant, perhaps.
        "import_refused" if is_unclear(problem) && tries < UNCLEAR_TRIES => Verdict::Later(UNCLEAR_AGAIN),
        // Another replica is at this grant.
        "overloaded" if since < PATIENCE => Verdict::Later(wait),
        "record_damaged" => failed(),
        _ if error.is_passing() && since < PATIENCE => Verdict::Again(wait),
        _ => failed(),
    }
}

/// Whether the authority refused, and did not say why.
fn is_unclear(problem: &SeenProblem) -> bool {
    problem.reason.as_deref() == Some("refused_unclearly")
}

fn detail(problem: &SeenProblem) -> String {
    let codes: Vec<String> = problem.error_codes.iter().map(|code| format!("AADSTS{code}")).collect();
    let said = problem.error.iter().cloned().chain(codes).collect::<Vec<_>>().join(" ");
    match said.as_str() {
        "" => problem.detail.clone(),
        said => format!("{} ({said})", problem.detail),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn refused(problem: Value) -> ClientError {
        ClientError::Refused(Box::new(serde_json::from_value(problem).expect("a problem")))
    }

    #[test]
    fn a_row_fails_by_its_own_fault_alone() {
        let second = Duration::from_secs;
        let failed = |reason: &str, detail: &str| Verdict::Failed {
            reason: reason.to_owned(),
            detail: detail.to_owned(),
        };
        let rows = [
            (
                json!({ "status": 409, "code": "reauthorization_required", "reason": "grant_expired",
                    "detail": "d", "error": "invalid_grant", "error_codes": [70008] }),
                failed("grant_expired", "d (invalid_grant AADSTS70008)"),
            ),
            (
                json!({ "status": 409, "code": "import_refused", "reason": "wrong_app", "detail": "d" }),
                failed("wrong_app", "d"),
            ),
            (
                json!({ "status": 400, "code": "invalid_request", "detail": "d" }),
                failed("invalid_request", "d"),
            ),
            (
                json!({ "status": 503, "code": "authority_unavailable", "retry_after": 9 }),
                Verdict::Again(second(9)),
            ),
            (json!({ "status": 429, "code": "rate_limited", "retry_after": 2 }), Verdict::Again(second(2))),
            (
                json!({ "status": 409, "code": "import_refused", "reason": "refused_unclearly" }),
                Verdict::Later(second(5)),
            ),
            (json!({ "status": 503, "code": "overloaded", "retry_after": 1 }), Verdict::Later(second(1))),
            (json!({ "status": 503, "code": "app_credential_rejected" }), Verdict::Stop),
            (json!({ "status": 503, "code": "record_damaged" }), failed("record_damaged", "")),
        ];
        for (problem, expected) in rows {
            assert_eq!(judge(&refused(problem.clone()), 1, second(1)), expected, "{problem}");
        }
        let odd =
            json!({ "status": 409, "code": "import_refused", "reason": "refused_unclearly", "detail": "d" });
        assert_eq!(judge(&refused(odd), 4, second(20)), failed("refused_unclearly", "d"));
        let down = json!({ "status": 503, "code": "store_unavailable", "detail": "d" });
        assert_eq!(judge(&refused(down), 99, PATIENCE), failed("store_unavailable", "d"));
    }
}
