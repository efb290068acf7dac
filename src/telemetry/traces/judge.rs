//! What an answer of the collector means
//! (<https://opentelemetry.io/docs/specs/otlp/#otlphttp-response>). Pure.

use std::time::Duration;

use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceResponse;
use prost::Message as _;

use super::Answer;

/// The longest pause that the collector may ask for.
const LONGEST: Duration = Duration::from_secs(60);
/// Most characters of the collector's own words in our log.
const LONGEST_REMARK: usize = 200;

/// What became of a batch.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Judgement {
    /// The collector has it, but for so many spans; its words, if it has some.
    Taken { rejected: u64, remark: String },
    /// It does not want it, and would not later.
    Refused(String),
    /// It may take it later.
    Again { after: Option<Duration>, why: String },
}

pub(super) fn judge(answer: Result<Answer, String>) -> Judgement {
    let Answer { status, retry_after, body } = match answer {
        Ok(answer) => answer,
        Err(why) => return Judgement::Again { after: None, why },
    };
    match status {
        200..=299 => {
            // (An answer that cannot be read is a success all the same.)
            let answer = ExportTraceServiceResponse::decode(&*body).unwrap_or_default();
            let partly = answer.partial_success.unwrap_or_default();
            let remark = partly.error_message.chars().take(LONGEST_REMARK).collect();
            Judgement::Taken { rejected: u64::try_from(partly.rejected_spans).unwrap_or_default(), remark }
        }
        429 | 502 | 503 | 504 => {
            let why = format!("it answered with status {status}");
            Judgement::Again { after: retry_after.map(|after| after.min(LONGEST)), why }
        }
        401 | 403 => Judgement::Refused(format!(
            "it answered with status {status}: see whether traces.headers_file holds what it wants"
        )),
        404 | 405 => Judgement::Refused(format!(
            "it answered with status {status}: see whether traces.endpoint names its path for OTLP over HTTP"
        )),
        status => Judgement::Refused(format!("it answered with status {status}")),
    }
}

#[cfg(test)]
mod tests {
    use opentelemetry_proto::tonic::collector::trace::v1::ExportTracePartialSuccess;

    use super::*;

    fn answer(status: u16, retry_after: Option<u64>, body: &[u8]) -> Result<Answer, String> {
        Ok(Answer { status, retry_after: retry_after.map(Duration::from_secs), body: body.to_vec() })
    }

    #[test]
    fn what_each_answer_means() {
        let taken = |rejected, remark: &str| Judgement::Taken { rejected, remark: remark.to_owned() };
        assert_eq!(judge(answer(200, None, b"")), taken(0, ""));
        assert_eq!(judge(answer(202, None, b"{\"not\":\"protobuf\"}")), taken(0, ""));
        for (rejected, counted) in [(3, 3), (-1, 0)] {
            let partly =
                ExportTracePartialSuccess { rejected_spans: rejected, error_message: "x".repeat(999) };
            let body = ExportTraceServiceResponse { partial_success: Some(partly) }.encode_to_vec();
            assert_eq!(judge(answer(200, None, &body)), taken(counted, &"x".repeat(200)));
        }
        for (status, said, waited) in
            [(429, Some(7), Some(7)), (503, Some(9999), Some(60)), (502, None, None)]
        {
            let Judgement::Again { after, why } = judge(answer(status, said, b"")) else {
                panic!("{status}")
            };
            assert_eq!(after, waited.map(Duration::from_secs), "{status}");
            assert!(why.contains(&status.to_string()));
        }
        assert!(matches!(judge(Err("no way".to_owned())), Judgement::Again { after: None, .. }));
        // (A redirect is not followed, and 500 is not to be repeated.)
        for status in [301, 400, 401, 403, 404, 413, 500] {
            assert!(matches!(judge(answer(status, Some(1), b"")), Judgement::Refused(_)), "{status}");
        }
    }
}
